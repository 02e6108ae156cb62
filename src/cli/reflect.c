/* reflect.c - SPDX-License-Identifier: Apache-2.0
 *
 * A server gives the file of a symbol, and most give what it imports along with it, in any order;
 * what is missing is asked for by name. Files are added to the schema imports first.
 */
#include "cli/reflect.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/pb.h"
#include "client/client.h"
#include "codec/proto.h"

enum { FILES_MAX = 1000, DEPTH_MAX = 100, ARENA_BYTES_MAX = 64 << 20 };

struct file {
    struct slice bytes;
    bool is_added, is_being_added;
};

struct reflect {
    struct client *client;        /* borrowed */
    const char *path;             /* of the version that answered; NULL: not known yet */
    struct arena *arena;          /* owned: files, names */
    struct map *files;            /* owned: name to struct file */
    struct proto_schema *schema;  /* owned */
    struct proto_arena *messages; /* owned */
};

static const char *const paths[] = {
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
};

enum err_code reflect_new(struct reflect **ret, struct client *client, struct err *err)
{
    CLEANUP(reflect_free) struct reflect *r = mem_zalloc(sizeof *r);

    if (r == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for descriptors");
    r->client = client;
    r->arena = arena_new(64 << 10, ARENA_BYTES_MAX);
    r->files = map_new();
    r->messages = proto_arena_new();
    if (r->arena == NULL || r->files == NULL || r->messages == NULL || proto_builtin() == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for descriptors");
    TRY(proto_schema_new(&r->schema, err));
    *ret = TAKE(r);
    return OK;
}

void reflect_free(struct reflect **slot)
{
    struct reflect *r = TAKE(*slot);

    if (r == NULL)
        return;
    proto_schema_free(&r->schema);
    proto_arena_free(&r->messages);
    map_free(&r->files);
    arena_free(&r->arena);
    mem_free(r);
}

/* -- questions --------------------------------------------------------------------------------- */

static enum err_code refuse_none(const struct reflect *r, struct err *err)
{
    return err_set(
        err, E_UNIMPLEMENTED,
        "%s speaks gRPC and has no reflection (grpc.reflection.v1), so what its messages "
        "are cannot be known; switch it on there, or call the server over REST",
        client_url(r->client)->shown);
}

static enum err_code call_at(struct reflect *r, const char *path, struct slice question,
                             struct client_reply **ret, struct err *err)
{
    struct client_grpc_request request = { .path = path,
                                           .messages = &question,
                                           .messages_count = 1 };

    return client_grpc(r->client, &request, ret, err);
}

/* One question, one answer. The answer lives as long as `reflect`. */
static enum err_code ask(struct reflect *r, const char *field, struct slice value,
                         const struct proto_message **ret, struct err *err)
{
    const struct proto_schema *builtin = proto_builtin();
    const struct proto_type *question_type =
        proto_type_find(builtin, "grpc.reflection.v1.ServerReflectionRequest");
    const struct proto_type *answer_type =
        proto_type_find(builtin, "grpc.reflection.v1.ServerReflectionResponse");
    CLEANUP(client_reply_free) struct client_reply *reply = NULL;
    struct proto_message *question = proto_new(r->messages, question_type), *answer;
    struct slice bytes;
    enum err_code code = OK;

    if (question != NULL)
        proto_set_str(question, field, value);
    TRY(proto_encode(question, &bytes, err));
    for (size_t i = 0; i < COUNT(paths); i++) {
        if (r->path != NULL && r->path != paths[i])
            continue;
        client_reply_free(&reply);
        code = call_at(r, paths[i], bytes, &reply, err);
        if (code == OK)
            r->path = paths[i];
        if (code != E_UNIMPLEMENTED)
            break;
    }
    if (code == E_UNIMPLEMENTED)
        return refuse_none(r, err);
    if (code != OK)
        return code;
    if (reply->messages_count == 0)
        return err_set(err, E_DATA_LOSS, "the server's reflection answered without a message");
    TRY(proto_decode(&answer, r->messages, answer_type, buf_bytes(reply->messages[0]), err));
    const struct proto_message *failure = proto_get_message(answer, "error_response");
    if (proto_has(answer, "error_response"))
        return err_set(err,
                       proto_get_i64(failure, "error_code") == E_NOT_FOUND ? E_NOT_FOUND
                                                                           : E_UNKNOWN,
                       "the server's reflection says: %.*s",
                       SLICE_ARG(slice_first(proto_get_str(failure, "error_message"), 300)));
    *ret = answer;
    return OK;
}

enum err_code reflect_services(struct reflect *r, const struct slice **ret, uint32_t *ret_count,
                               struct err *err)
{
    const struct proto_message *answer;

    TRY(ask(r, "list_services", slice_of("*"), &answer, err));
    const struct proto_message *list = proto_get_message(answer, "list_services_response");
    size_t count = list == NULL ? 0 : proto_count(list, "service");
    struct slice *names = arena_alloc(r->arena, (count + 1) * sizeof *names);
    if (names == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the names of %zu services", count);
    for (size_t i = 0; i < count; i++) {
        struct slice name = proto_get_str(proto_message_at(list, "service", i), "name");
        char *kept = arena_strndup(r->arena, name.data, name.size);
        if (kept == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for the names of %zu services", count);
        names[i] = slice_make(kept, name.size);
    }
    *ret = names;
    *ret_count = (uint32_t)count;
    return OK;
}

/* -- files ------------------------------------------------------------------------------------- */

bool reflect_file_read(struct reflect_file *ret, struct slice bytes)
{
    struct pb_reader reader;
    struct pb_field field;

    *ret = (struct reflect_file){ .imports_count = 0 };
    pb_begin(&reader, bytes);
    while (pb_next(&reader, &field)) {
        if (field.number == 1 && field.wire == PB_LEN)
            ret->name = field.bytes;
        if (field.number != 3 || field.wire != PB_LEN)
            continue;
        if (ret->imports_count == REFLECT_IMPORTS_MAX)
            return false;
        ret->imports[ret->imports_count++] = field.bytes;
    }
    return !pb_failed(&reader) && ret->name.size > 0;
}

/* Keeps the files of an answer; *ret_first is the name of the first, or empty. */
static enum err_code keep_files(struct reflect *r, const struct proto_message *answer,
                                struct slice *ret_first, struct err *err)
{
    const struct proto_message *files = proto_get_message(answer, "file_descriptor_response");
    size_t count = files == NULL ? 0 : proto_count(files, "file_descriptor_proto");
    CLEANUP(mem_free_slot) struct reflect_file *about = mem_alloc(sizeof *about);

    if (about == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for descriptors");
    *ret_first = slice_of("");
    for (size_t i = 0; i < count; i++) {
        struct slice bytes = proto_str_at(files, "file_descriptor_proto", i);
        if (!reflect_file_read(about, bytes))
            return err_set(err, E_DATA_LOSS, "a file that the server's reflection gave is damaged");
        if (map_get(r->files, about->name) == NULL) {
            struct file *file = arena_zalloc(r->arena, sizeof *file);
            uint8_t *kept = arena_alloc(r->arena, bytes.size + 1);
            if (map_count(r->files) == FILES_MAX)
                return err_set(err, E_RANGE, "the server's messages are in more than %d files",
                               FILES_MAX);
            if (file == NULL || kept == NULL)
                return err_set(err, E_EXHAUSTED, "no memory for descriptors");
            memcpy(kept, bytes.data, bytes.size);
            file->bytes = slice_make(kept, bytes.size);
            TRY(map_put(r->files, about->name, file, err));
        }
        if (i == 0)
            *ret_first = about->name;
    }
    return OK;
}

/* One that nobody sent along: by name; Google's own may be known here. */
static enum err_code fetch_file(struct reflect *r, struct slice name, struct file **ret,
                                struct err *err)
{
    const struct proto_message *answer;
    struct slice first, known = proto_file_by_name(proto_builtin(), name);

    enum err_code code = ask(r, "file_by_filename", name, &answer, err);
    if (code == OK)
        TRY(keep_files(r, answer, &first, err));
    *ret = map_get(r->files, name);
    if (*ret == NULL && known.data != NULL) {
        *ret = arena_zalloc(r->arena, sizeof **ret);
        if (*ret == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for descriptors");
        (*ret)->bytes = known;
        return map_put(r->files, name, *ret, err);
    }
    if (*ret == NULL)
        return err_set(err, E_DATA_LOSS,
                       "the server's reflection does not give the file '%.*s', "
                       "which another one imports",
                       SLICE_ARG(slice_first(name, 200)));
    return OK;
}

static enum err_code add_file(struct reflect *r, struct slice name, unsigned depth, struct err *err)
{
    struct file *file = map_get(r->files, name);
    CLEANUP(mem_free_slot) struct reflect_file *about = NULL;

    if (file == NULL)
        TRY(fetch_file(r, name, &file, err));
    if (file->is_added)
        return OK;
    if (file->is_being_added || depth == DEPTH_MAX)
        return err_set(err, E_DATA_LOSS,
                       "the server's files import one another in a circle: '%.*s'",
                       SLICE_ARG(slice_first(name, 200)));
    about = mem_alloc(sizeof *about);
    if (about == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for descriptors");
    file->is_being_added = true;
    if (!reflect_file_read(about, file->bytes))
        return err_set(err, E_DATA_LOSS, "a file that the server's reflection gave is damaged");
    for (uint32_t i = 0; i < about->imports_count; i++)
        TRY(add_file(r, about->imports[i], depth + 1, err));
    if (proto_schema_add(r->schema, file->bytes, err) != OK)
        return err_wrap(err, "the server's file '%.*s'", SLICE_ARG(slice_first(name, 200)));
    file->is_added = true;
    return OK;
}

enum err_code reflect_schema(struct reflect *r, const char *symbol, const struct proto_schema **ret,
                             struct err *err)
{
    const struct proto_message *answer;
    struct slice name;

    TRY(ask(r, "file_containing_symbol", slice_of(symbol), &answer, err));
    TRY(keep_files(r, answer, &name, err));
    if (name.size == 0)
        return err_set(err, E_NOT_FOUND, "the server's reflection knows no '%s'", symbol);
    char *kept = arena_strndup(r->arena, name.data, name.size);
    if (kept == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for descriptors");
    TRY(add_file(r, slice_make(kept, name.size), 0, err));
    *ret = r->schema;
    return OK;
}
