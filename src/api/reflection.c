/* reflection.c - grpc.reflection.v1 and v1alpha: which services there are, as descriptors
 * (proto/grpc/reflection/v1/reflection.proto). SPDX-License-Identifier: Apache-2.0
 *
 * The server's own files come from its schema; a model's typed file is looked up among the models that
 * are ready, each time, so that a model that is loaded or unloaded is seen at once.
 *
 * Answers are written by hand: their parts (the request, the files) are bytes already, and need not be
 * decoded to be sent. Request after request is answered as long as the caller reads: with no room left
 * for an answer, the next request is not taken.
 */
#include "api/grpc.h"
#include "api/typed.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/pb.h"
#include "base/text.h"
#include "base/utf8.h"
#include "codec/proto.h"
#include "contract/typed_proto.h"
#include "engine/engine.h"
#include "repository/repository.h"

enum {
    REQUEST_BYTES_MAX = 16 << 10,
    ANSWER_BYTES_MAX = 16 << 20,
    NOT_FOUND = 5, /* ErrorResponse.error_code */
    INVALID_ARGUMENT = 3,
};

/* Fields of ServerReflectionRequest and ServerReflectionResponse. */
enum {
    ASK_HOST = 1,
    ASK_FILE = 3,
    ASK_SYMBOL = 4,
    ASK_EXTENSION = 5,
    ASK_EXTENSION_NUMBERS = 6,
    ASK_SERVICES = 7,
    SAY_HOST = 1,
    SAY_REQUEST = 2,
    SAY_FILES = 4,
    SAY_SERVICES = 6,
    SAY_ERROR = 7,
};

struct asked {
    struct slice host, whole;
    uint32_t what; /* ASK_FILE ...; 0: nothing */
    struct slice name;
};

/* -- models ---------------------------------------------------------------------------------------- */

/* Calls `each` with the plan of every model that has a typed service and is ready, until it says
 * true. The plan is borrowed for that call. */
static bool find_model(const struct exchange *x, const struct api *api,
                       bool (*each)(void *context, const struct typed_plan *plan), void *context)
{
    struct repository_snapshot snapshot;
    bool is_found = false;

    repository_snapshot_take(api->repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count && !is_found; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        const struct typed_plan *plan;
        if (entry->is_default && entry->model != NULL &&
            api_shows_model(x, slice_of("models"), slice_of(entry->name)) &&
            typed_plan_of(entry->model, &plan, NULL) == OK && typed_proto_service(plan)[0] != '\0')
            is_found = each(context, plan);
    }
    repository_snapshot_give(&snapshot);
    return is_found;
}

/* -- answers --------------------------------------------------------------------------------------- */

static void put_bytes(struct text *out, uint32_t number, struct slice bytes)
{
    uint8_t head[16];

    text_put(out, head, (size_t)(pb_put_head(head, number, bytes.size) - head));
    text_slice_put(out, bytes);
}

/* "no file 'x' here ...": the name stands between the two. */
static void put_error(struct text *out, unsigned code, const char *before, struct slice name,
                      const char *after)
{
    struct text words, inner;
    uint8_t number[16];

    text_init(&words, 1024);
    text_init(&inner, 2048);
    name = slice_first(name, 200);
    name.size = utf8_valid_prefix(name);
    text_str(&words, before);
    text_slice_put(&words, name);
    text_str(&words, after);
    text_put(&inner, number, (size_t)(pb_put_uint(number, 1, code) - number));
    put_bytes(&inner, 2, text_slice(&words));
    put_bytes(out, SAY_ERROR, text_slice(&inner));
    out->has_failed |= text_failed(&words) || text_failed(&inner);
    text_deinit(&words);
    text_deinit(&inner);
}

static void put_service(struct text *out, const char *name)
{
    uint8_t head[16];
    size_t size = strlen(name);

    text_put(out, head, (size_t)(pb_put_head(head, 1, pb_size_len(1, size)) - head));
    put_bytes(out, 1, slice_make(name, size));
}

static bool put_model(void *out, const struct typed_plan *plan)
{
    put_service(out, typed_proto_service(plan));
    return false;
}

static void put_services(struct text *out, const struct exchange *x, const struct api *api)
{
    struct text list;

    text_init(&list, ANSWER_BYTES_MAX);
    for (size_t i = 0; grpc_services[i] != NULL; i++)
        if (grpc_service_is_on(grpc_services[i], api) &&
            proto_service_find(proto_builtin(), grpc_services[i]->name) != NULL)
            put_service(&list, grpc_services[i]->name);
    find_model(x, api, put_model, &list);
    put_bytes(out, SAY_SERVICES, text_slice(&list));
    out->has_failed |= text_failed(&list);
    text_deinit(&list);
}

static void put_file(void *list, struct slice file)
{
    put_bytes(list, 1, file);
}

struct wanted {
    struct text *list;
    struct slice name;
    bool is_symbol;
};

/* A model's file imports nothing. */
static bool put_if_wanted(void *context, const struct typed_plan *plan)
{
    struct wanted *wanted = context;
    bool is_it = wanted->is_symbol ? proto_file_defines(typed_proto_file(plan), wanted->name)
                                   : slice_is(wanted->name, typed_proto_file_name(plan));

    if (is_it)
        put_file(wanted->list, typed_proto_file(plan));
    return is_it;
}

static void put_files(struct text *out, const struct exchange *x, const struct api *api,
                      const struct asked *asked)
{
    bool is_symbol = asked->what == ASK_SYMBOL;
    struct slice file = is_symbol ? proto_file_of_symbol(proto_builtin(), asked->name)
                                  : proto_file_by_name(proto_builtin(), asked->name);
    struct text list;
    struct wanted wanted = { &list, asked->name, is_symbol };
    bool is_test = slice_starts(asked->name, is_symbol ? "grpc.testing." : "grpc/testing/");
    bool is_found = file.data != NULL && (api->has_test_services || !is_test);

    text_init(&list, ANSWER_BYTES_MAX);
    if (is_found)
        proto_file_walk(proto_builtin(), file, put_file, &list);
    else
        is_found = find_model(x, api, put_if_wanted, &wanted);
    if (is_found)
        put_bytes(out, SAY_FILES, text_slice(&list));
    else
        put_error(out, NOT_FOUND, is_symbol ? "no symbol '" : "no file '", asked->name,
                  is_symbol ? "' here; list_services tells what there is"
                            : "' here; ask for the file that contains a symbol");
    out->has_failed |= text_failed(&list);
    text_deinit(&list);
}

/* -- requests -------------------------------------------------------------------------------------- */

/* The request is sent back whole, and must be read there: each string of it counts, also one that a
 * later field of the same number replaces. */
static enum err_code check_text(struct slice text, const char *what, struct err *err)
{
    size_t valid = utf8_valid_prefix(text);

    return valid == text.size
               ? OK
               : err_set(err, E_INVALID, "%s: byte %zu of it is not UTF-8", what, valid);
}

/* ExtensionRequest.containing_type */
static enum err_code read_extension(struct slice message, struct slice *ret, struct err *err)
{
    struct pb_reader reader;
    struct pb_field field;

    *ret = slice_make("", 0);
    pb_begin(&reader, message);
    while (pb_next(&reader, &field)) {
        if (field.number != 1 || field.wire != PB_LEN)
            continue;
        *ret = field.bytes;
        TRY(check_text(field.bytes, "containing_type", err));
    }
    return pb_failed(&reader)
               ? err_set(err, E_INVALID, "file_containing_extension: %s", reader.fault)
               : OK;
}

static const char *name_of_field(uint32_t number)
{
    switch (number) {
    case ASK_HOST: return "host";
    case ASK_FILE: return "file_by_filename";
    case ASK_SYMBOL: return "file_containing_symbol";
    case ASK_EXTENSION_NUMBERS: return "all_extension_numbers_of_type";
    default: return "list_services";
    }
}

static enum err_code read_request(struct asked *ret, struct slice message, struct err *err)
{
    struct pb_reader reader;
    struct pb_field field;

    *ret = (struct asked){ .whole = message };
    if (message.size > REQUEST_BYTES_MAX) {
        err_set(err, E_EXHAUSTED, "a request of reflection has at most %d bytes, this %zu",
                REQUEST_BYTES_MAX, message.size);
        err->retry_after_ms = ERR_RETRY_NEVER;
        return E_EXHAUSTED;
    }
    pb_begin(&reader, message);
    while (pb_next(&reader, &field)) {
        bool is_host = field.number == ASK_HOST;
        if (field.wire != PB_LEN ||
            (!is_host && (field.number < ASK_FILE || field.number > ASK_SERVICES)))
            continue;
        if (is_host)
            ret->host = field.bytes;
        else
            ret->what = field.number; /* of a oneof the last is meant */
        if (field.number == ASK_EXTENSION) {
            TRY(read_extension(field.bytes, &ret->name, err));
            continue;
        }
        TRY(check_text(field.bytes, name_of_field(field.number), err));
        if (!is_host)
            ret->name = field.bytes;
    }
    if (pb_failed(&reader))
        return err_set(err, E_INVALID, "this is no ServerReflectionRequest: byte %zu: %s",
                       (size_t)(reader.at - reader.begin), reader.fault);
    return OK;
}

/* A ServerReflectionResponse. */
static void put_answer(struct text *out, const struct exchange *x, const struct api *api,
                       const struct asked *asked)
{
    if (asked->host.size != 0)
        put_bytes(out, SAY_HOST, asked->host);
    put_bytes(out, SAY_REQUEST, asked->whole);
    switch (asked->what) {
    case ASK_FILE:
    case ASK_SYMBOL: put_files(out, x, api, asked); break;
    case ASK_SERVICES: put_services(out, x, api); break;
    case ASK_EXTENSION:
    case ASK_EXTENSION_NUMBERS:
        put_error(out, NOT_FOUND, "'", asked->name, "' has no extensions: no message here has any");
        break;
    default:
        put_error(out, INVALID_ARGUMENT, "the request asks for nothing: set file_by_filename, ",
                  slice_make("", 0), "file_containing_symbol or list_services");
        break;
    }
}

/* -- the stream ------------------------------------------------------------------------------------- */

struct stream {
    const struct api *api;
    bool is_full; /* the next request waits for the answers to be read */
};

static enum err_code make_answer(struct buf **ret, struct exchange *x, const struct api *api,
                                 struct slice message, struct err *err)
{
    struct asked asked;
    struct text out;

    if (proto_builtin() == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the descriptors; retry later");
    TRY(api_may(x, ACCESS_READ, slice_of("server"), slice_make("", 0), err));
    TRY(read_request(&asked, message, err));
    text_init(&out, ANSWER_BYTES_MAX);
    put_answer(&out, x, api, &asked);
    enum err_code code = OK;
    if (text_failed(&out))
        code = err_set(err, E_EXHAUSTED,
                       "the answer is larger than %d MiB, or there is no memory for it",
                       ANSWER_BYTES_MAX >> 20);
    else
        code = text_to_buf(&out, ret, err);
    text_deinit(&out);
    return code;
}

static void read_next(struct call *call)
{
    struct stream *stream = call->user_data;

    stream->is_full = call_room(call) == 0;
    if (!stream->is_full)
        call_read(call);
}

static void on_message(struct call *call, const struct call_message *message)
{
    struct stream *stream = call->user_data;
    struct buf *holder = NULL;
    struct err err = { 0 };

    if (make_answer(&holder, call->x, stream->api, message->bytes, &err) != OK) {
        call_end(call, &err, NULL);
        return;
    }
    struct call_piece piece = { buf_bytes(holder), holder };
    call_send(call, &piece, 1);
    buf_unref(&holder);
    read_next(call);
}

static void on_room(struct call *call)
{
    struct stream *stream = call->user_data;

    if (stream->is_full)
        read_next(call);
}

static void on_half_close(struct call *call)
{
    struct err ok = { 0 };

    call_end(call, &ok, NULL);
}

/* The call holds the exchange, and nothing else is held here. */
static void on_gone(struct call *call UNUSED, enum err_code why UNUSED)
{
}

/* Nothing is under way between two requests. */
static void on_drain(struct call *call)
{
    struct err err = { 0 };

    err_set(&err, E_UNAVAILABLE, "the server stops, or this connection is old: ask again");
    call_end(call, &err, NULL);
}

static const struct call_user user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_room = on_room,
    .on_gone = on_gone,
    .on_drain = on_drain,
};

static void handle(struct call *call, const struct api *api)
{
    struct stream *stream = arena_zalloc(call->x->arena, sizeof *stream);
    struct err err = { 0 };

    if (!api->has_reflection)
        err_set(&err, E_UNIMPLEMENTED, "reflection is switched off here (--no-reflection)");
    else if (stream == NULL)
        err_set(&err, E_EXHAUSTED, "no memory for the request; retry later");
    if (err.code != OK) {
        call_end(call, &err, NULL);
        return;
    }
    stream->api = api;
    call->user = &user;
    call->user_data = stream;
    call_read(call);
}

static const struct grpc_method methods[] = { { "ServerReflectionInfo", handle, NULL, ACCESS_READ } };

const struct grpc_service grpc_reflection_service = { "grpc.reflection.v1.ServerReflection",
                                                      methods, COUNT(methods), "server" };
const struct grpc_service grpc_reflection_alpha_service = {
    "grpc.reflection.v1alpha.ServerReflection", methods, COUNT(methods), "server"
};
