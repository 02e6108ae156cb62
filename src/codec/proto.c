/* proto.c - schemas and messages by upb; proto.h says what they are, proto_json.c has the JSON.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A schema keeps, beside upb's pool, every file as it came: reflection hands out those bytes, and
 * writing them anew from the pool would lose the comments.
 *
 * All memory of an arena, upb's blocks too, comes from one base arena, which bounds it. Decoding
 * moves the bound up by a multiple of what is decoded, because a byte of a message can cost many of
 * memory (an empty element of a repeated field is two bytes on the wire, and its fields in memory).
 *
 * upb says only that a message is malformed. Then, and only then, the bytes are walked once more by
 * hand to find the field at fault for the person who has to mend it.
 */
#include "codec/proto_internal.h"

#include <google/protobuf/descriptor.upb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <upb/wire/decode.h>
#include <upb/wire/encode.h>

#include "base/arena.h"
#include "base/budget.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/pb.h"
#include "base/utf8.h"

enum { MEMORY_SLACK = 64 << 10, IMPORTS_MAX = 256, PATH_MAX_BYTES = 256 };

struct file {
    struct file *next;
    const upb_FileDef *def;
    struct slice bytes;
    uint8_t copy[]; /* of the bytes, unless they are constant */
};

struct proto_schema {
    upb_DefPool *pool;
    struct map *files; /* by name */
    struct file *list;
    size_t bytes;
};

/* -- schemas ----------------------------------------------------------------------------------- */

enum err_code proto_schema_new(struct proto_schema **ret, struct err *err)
{
    struct proto_schema *schema = mem_zalloc(sizeof *schema);

    if (schema != NULL) {
        schema->pool = upb_DefPool_New();
        schema->files = map_new();
        if (schema->pool != NULL && schema->files != NULL) {
            *ret = schema;
            return OK;
        }
        proto_schema_free(&schema);
    }
    return err_set(err, E_EXHAUSTED, "no memory for a protobuf schema");
}

void proto_schema_free(struct proto_schema **slot)
{
    struct proto_schema *schema = TAKE(*slot);

    if (schema == NULL)
        return;
    if (schema->pool != NULL)
        upb_DefPool_Free(schema->pool);
    map_free(&schema->files);
    for (struct file *file = schema->list, *next; file != NULL; file = next) {
        next = file->next;
        mem_free(file);
    }
    mem_free(schema);
}

const upb_DefPool *proto_pool(const struct proto_schema *schema)
{
    return schema->pool;
}

/* upb tells it by this text only. */
static bool is_no_memory(const upb_Status *status)
{
    return strcmp(upb_Status_ErrorMessage(status), "out of memory") == 0;
}

/* `proto` is what `bytes` decode to. */
static enum err_code add_file(struct proto_schema *schema,
                              const google_protobuf_FileDescriptorProto *proto, struct slice bytes,
                              bool is_constant, struct err *err)
{
    struct slice name = proto_slice(google_protobuf_FileDescriptorProto_name(proto));
    const struct file *old;
    struct file *file;
    upb_Status status;

    if (name.size == 0 || memchr(name.data, '\0', name.size) != NULL)
        return err_set(err, E_INVALID, "a file descriptor has no name");
    old = map_get(schema->files, name);
    if (old != NULL && slice_eq(old->bytes, bytes))
        return OK;
    if (old != NULL)
        return err_set(err, E_INVALID, "file %.*s is there already, with other contents",
                       SLICE_ARG(name));
    if (bytes.size > PROTO_SCHEMA_BYTES_MAX - schema->bytes)
        return err_set(err, E_EXHAUSTED,
                       "file %.*s: a schema takes at most %d bytes of descriptors", SLICE_ARG(name),
                       PROTO_SCHEMA_BYTES_MAX);
    file = mem_zalloc(sizeof *file + (is_constant ? 0 : bytes.size));
    if (file == NULL || map_put(schema->files, name, file, err) != OK) {
        mem_free(file);
        return err_set(err, E_EXHAUSTED, "file %.*s: no memory", SLICE_ARG(name));
    }
    upb_Status_Clear(&status);
    file->def = upb_DefPool_AddFile(schema->pool, proto, &status);
    if (file->def == NULL) {
        map_remove(schema->files, name);
        mem_free(file);
        return err_set(err, is_no_memory(&status) ? E_EXHAUSTED : E_INVALID, "file %.*s: %s",
                       SLICE_ARG(name), upb_Status_ErrorMessage(&status));
    }
    if (!is_constant) {
        memcpy(file->copy, bytes.data, bytes.size);
        bytes.data = file->copy;
    }
    file->bytes = bytes;
    file->next = schema->list;
    schema->list = file;
    schema->bytes += bytes.size;
    return OK;
}

static enum err_code add_bytes(struct proto_schema *schema, struct slice bytes, bool is_constant,
                               struct err *err)
{
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    const google_protobuf_FileDescriptorProto *proto;

    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a file descriptor");
    proto_arena_expect(arena, bytes.size);
    /* Names go into JSON and sentences: one that is not UTF-8 would come back as another. */
    proto = google_protobuf_FileDescriptorProto_parse_ex((const char *)bytes.data, bytes.size, NULL,
                                                         kUpb_DecodeOption_AlwaysValidateUtf8,
                                                         arena->upb);
    if (proto == NULL)
        return arena->has_failed
                   ? proto_no_memory(arena, err)
                   : err_set(err, E_INVALID,
                             "this is no google.protobuf.FileDescriptorProto, or a name in it is "
                             "not UTF-8");
    return add_file(schema, proto, bytes, is_constant, err);
}

enum err_code proto_schema_add(struct proto_schema *schema, struct slice file, struct err *err)
{
    return add_bytes(schema, file, false, err);
}

static enum err_code add_set(struct proto_schema *schema, struct slice set, bool is_constant,
                             struct err *err)
{
    struct pb_reader reader;
    struct pb_field field;

    pb_begin(&reader, set);
    while (pb_next(&reader, &field)) {
        if (field.number != 1 || field.wire != PB_LEN)
            continue;
        TRY(add_bytes(schema, field.bytes, is_constant, err));
    }
    if (pb_failed(&reader))
        return err_set(err, E_INVALID, "this is no google.protobuf.FileDescriptorSet: byte %zu: %s",
                       (size_t)(reader.at - reader.begin), reader.fault);
    return OK;
}

enum err_code proto_schema_add_set(struct proto_schema *schema, struct slice set, struct err *err)
{
    return add_set(schema, set, false, err);
}

struct slice proto_builtin_set(void)
{
    return slice_make(proto_set_bytes, proto_set_size);
}

const struct proto_schema *proto_builtin(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct proto_schema *_Atomic made;
    struct proto_schema *schema = atomic_load_explicit(&made, memory_order_acquire);
    struct err err;

    if (schema != NULL)
        return schema;
    pthread_mutex_lock(&lock);
    schema = atomic_load_explicit(&made, memory_order_relaxed);
    if (schema == NULL && proto_schema_new(&schema, &err) == OK) {
        enum err_code code = add_set(schema, proto_builtin_set(), true, &err);
        if (code == OK)
            atomic_store_explicit(&made, schema, memory_order_release);
        else
            proto_schema_free(&schema);
    }
    pthread_mutex_unlock(&lock);
    return schema;
}

static const upb_MessageDef *def_of(const struct proto_type *type)
{
    return (const upb_MessageDef *)(const void *)type;
}

const struct proto_type *proto_type_find(const struct proto_schema *schema, const char *name)
{
    return proto_type_of(upb_DefPool_FindMessageByName(schema->pool, name));
}

const char *proto_type_name(const struct proto_type *type)
{
    return upb_MessageDef_FullName(def_of(type));
}

uint32_t proto_type_fields(const struct proto_type *type)
{
    return (uint32_t)upb_MessageDef_FieldCount(def_of(type));
}

static struct proto_field describe(const upb_FieldDef *f)
{
    const upb_OneofDef *oneof = upb_FieldDef_RealContainingOneof(f);
    const upb_MessageDef *message =
        upb_FieldDef_IsSubMessage(f) ? upb_FieldDef_MessageSubDef(f) : NULL;
    const upb_EnumDef *values = upb_FieldDef_IsEnum(f) ? upb_FieldDef_EnumSubDef(f) : NULL;

    return (struct proto_field){
        .number = upb_FieldDef_Number(f),
        .kind = (enum proto_kind)upb_FieldDef_Type(f),
        .name = upb_FieldDef_Name(f),
        .json_name = upb_FieldDef_JsonName(f),
        .oneof = oneof != NULL ? upb_OneofDef_Name(oneof) : NULL,
        .is_repeated = upb_FieldDef_IsRepeated(f),
        .is_map = upb_FieldDef_IsMap(f),
        .is_packed = upb_FieldDef_IsPacked(f),
        .message = proto_type_of(message),
        .enumeration = (const struct proto_enum *)(const void *)values,
        .type_name = message != NULL  ? upb_MessageDef_FullName(message)
                     : values != NULL ? upb_EnumDef_FullName(values)
                                      : NULL,
    };
}

struct proto_field proto_type_field(const struct proto_type *type, uint32_t index)
{
    require(index < proto_type_fields(type));
    return describe(upb_MessageDef_Field(def_of(type), (int)index));
}

bool proto_type_field_by_number(const struct proto_type *type, uint32_t number,
                                struct proto_field *ret)
{
    const upb_FieldDef *f = upb_MessageDef_FindFieldByNumber(def_of(type), number);

    if (f != NULL)
        *ret = describe(f);
    return f != NULL;
}

const char *proto_enum_value(const struct proto_enum *enumeration, int32_t number)
{
    const upb_EnumValueDef *value =
        upb_EnumDef_FindValueByNumber((const upb_EnumDef *)(const void *)enumeration, number);

    return value != NULL ? upb_EnumValueDef_Name(value) : NULL;
}

const struct proto_service *proto_service_find(const struct proto_schema *schema, const char *name)
{
    const upb_ServiceDef *service = upb_DefPool_FindServiceByName(schema->pool, name);

    return (const struct proto_service *)(const void *)service;
}

static const upb_ServiceDef *service_def(const struct proto_service *service)
{
    return (const upb_ServiceDef *)(const void *)service;
}

uint32_t proto_service_methods(const struct proto_service *service)
{
    return (uint32_t)upb_ServiceDef_MethodCount(service_def(service));
}

struct proto_method proto_service_method(const struct proto_service *service, uint32_t index)
{
    const upb_MethodDef *method;

    require(index < proto_service_methods(service));
    method = upb_ServiceDef_Method(service_def(service), (int)index);
    return (struct proto_method){
        .name = upb_MethodDef_Name(method),
        .input = proto_type_of(upb_MethodDef_InputType(method)),
        .output = proto_type_of(upb_MethodDef_OutputType(method)),
        .client_streams = upb_MethodDef_ClientStreaming(method),
        .server_streams = upb_MethodDef_ServerStreaming(method),
    };
}

/* -- files ------------------------------------------------------------------------------------- */

static struct slice bytes_of(const struct proto_schema *schema, const upb_FileDef *def)
{
    const struct file *file = map_get(schema->files, slice_of(upb_FileDef_Name(def)));

    return file != NULL ? file->bytes : slice_make(NULL, 0);
}

struct slice proto_file_by_name(const struct proto_schema *schema, struct slice name)
{
    const struct file *file = map_get(schema->files, name);

    return file != NULL ? file->bytes : slice_make(NULL, 0);
}

/* Longer than any symbol of ours: names come from peers, upb wants them NUL-terminated. */
enum { SYMBOL_MAX = 1024 };

struct slice proto_file_of_symbol(const struct proto_schema *schema, struct slice symbol)
{
    char name[SYMBOL_MAX];
    const upb_ServiceDef *service;
    const upb_FileDef *file;
    const char *dot;

    if (symbol.size == 0 || symbol.size >= sizeof name || memchr(symbol.data, 0, symbol.size))
        return slice_make(NULL, 0);
    memcpy(name, symbol.data, symbol.size);
    name[symbol.size] = '\0';
    file = upb_DefPool_FindFileContainingSymbol(schema->pool, name);
    dot = strrchr(name, '.');
    if (file == NULL && dot != NULL) { /* methods are no symbols to upb */
        size_t before = (size_t)(dot - name);
        service = upb_DefPool_FindServiceByNameWithSize(schema->pool, name, before);
        if (service != NULL && upb_ServiceDef_FindMethodByName(service, dot + 1) != NULL)
            file = upb_ServiceDef_File(service);
    }
    return file != NULL ? bytes_of(schema, file) : slice_make(NULL, 0);
}

struct walk {
    const struct proto_schema *schema;
    proto_file_fn *each;
    void *context;
    uint32_t seen_count;
    const upb_FileDef *seen[IMPORTS_MAX];
};

static void walk_file(struct walk *walk, const upb_FileDef *file)
{
    for (uint32_t i = 0; i < walk->seen_count; i++)
        if (walk->seen[i] == file)
            return;
    if (walk->seen_count == IMPORTS_MAX)
        return;
    walk->seen[walk->seen_count++] = file;
    walk->each(walk->context, bytes_of(walk->schema, file));
    for (int i = 0; i < upb_FileDef_DependencyCount(file); i++)
        walk_file(walk, upb_FileDef_Dependency(file, i));
}

void proto_file_walk(const struct proto_schema *schema, struct slice file, proto_file_fn *each,
                     void *context)
{
    struct walk walk = { .schema = schema, .each = each, .context = context };

    for (const struct file *f = schema->list; f != NULL; f = f->next)
        if (f->bytes.data == file.data) {
            walk_file(&walk, f->def);
            return;
        }
}

/* -- arenas ------------------------------------------------------------------------------------ */

void *proto_alloc(struct proto_arena *arena, size_t size)
{
    void *piece = NULL;

    if (size <= arena->limit && arena_used(arena->memory) <= arena->limit - size &&
        (arena->budget == NULL || budget_take(arena->budget, size))) {
        piece = arena_alloc(arena->memory, size);
        if (arena->budget != NULL) {
            if (piece != NULL)
                arena->charged += size;
            else
                budget_give(arena->budget, size);
        }
    }
    if (piece == NULL)
        arena->has_failed = true;
    return piece;
}

/* upb's way to ask for blocks. Nothing is given back before the end. */
static void *on_upb_alloc(upb_alloc *alloc, void *old, size_t old_size, size_t size,
                          size_t *actual_size)
{
    struct proto_arena *arena = CONTAINER_OF(alloc, struct proto_arena, alloc);
    void *piece;

    (void)actual_size;
    if (size == 0)
        return NULL;
    if (old != NULL && size <= old_size)
        return old;
    piece = proto_alloc(arena, size);
    if (piece != NULL && old != NULL)
        memcpy(piece, old, old_size);
    return piece;
}

struct proto_arena *proto_arena_new(void)
{
    struct proto_arena *arena = mem_zalloc(sizeof *arena);

    if (arena == NULL)
        return NULL;
    arena->alloc.func = on_upb_alloc;
    arena->limit = PROTO_ARENA_BYTES_MAX;
    arena->memory = arena_new(2048, PROTO_ARENA_BYTES_MAX);
    if (arena->memory != NULL)
        arena->upb = upb_Arena_Init(NULL, 0, &arena->alloc);
    if (arena->upb == NULL)
        proto_arena_free(&arena);
    return arena;
}

void proto_arena_charge(struct proto_arena *arena, struct budget *budget)
{
    require(arena->budget == NULL);
    arena->budget = budget;
}

bool proto_arena_failed(const struct proto_arena *arena)
{
    return arena->has_failed;
}

void proto_arena_free(struct proto_arena **slot)
{
    struct proto_arena *arena = TAKE(*slot);

    if (arena == NULL)
        return;
    if (arena->upb != NULL)
        upb_Arena_Free(arena->upb);
    arena_free(&arena->memory);
    if (arena->budget != NULL)
        budget_give(arena->budget, arena->charged);
    mem_free(arena);
}

void proto_arena_expect(struct proto_arena *arena, size_t input_bytes)
{
    size_t used = arena_used(arena->memory), more = PROTO_ARENA_BYTES_MAX;

    if (input_bytes < (more - MEMORY_SLACK) / PROTO_MEMORY_FACTOR)
        more = MEMORY_SLACK + input_bytes * PROTO_MEMORY_FACTOR;
    arena->limit = MIN(used + more, (size_t)PROTO_ARENA_BYTES_MAX);
}

/* Reading is over: what is written next knows its own size. */
static void expect_any(struct proto_arena *arena)
{
    arena->limit = PROTO_ARENA_BYTES_MAX;
}

enum err_code proto_no_memory(const struct proto_arena *arena, struct err *err)
{
    if (arena->limit < PROTO_ARENA_BYTES_MAX && arena_used(arena->memory) > arena->limit / 2)
        return err_set(err, E_EXHAUSTED,
                       "the message takes more than %d times its own size in memory, which is the "
                       "most that is given to one",
                       PROTO_MEMORY_FACTOR);
    return err_set(err, E_EXHAUSTED, "no memory for a protobuf message");
}

bool proto_copy(struct proto_arena *arena, struct slice bytes, upb_StringView *ret)
{
    char *copy = proto_alloc(arena, MAX(bytes.size, (size_t)1));

    if (copy == NULL)
        return false;
    if (bytes.size != 0)
        memcpy(copy, bytes.data, bytes.size);
    *ret = upb_StringView_FromDataAndSize(copy, bytes.size);
    return true;
}

struct proto_message *proto_wrap(struct proto_arena *arena, upb_Message *upb,
                                 const upb_MessageDef *type)
{
    struct proto_message *message = upb != NULL ? proto_alloc(arena, sizeof *message) : NULL;

    if (message != NULL)
        *message = (struct proto_message){ .upb = upb, .type = type, .arena = arena };
    return message;
}

/* -- bytes ------------------------------------------------------------------------------------- */

struct proto_message *proto_new(struct proto_arena *arena, const struct proto_type *type)
{
    const upb_MessageDef *def = def_of(type);

    return proto_wrap(arena, upb_Message_New(upb_MessageDef_MiniTable(def), arena->upb), def);
}

struct locate {
    const uint8_t *begin;
    char path[PATH_MAX_BYTES];
    size_t path_size;
    size_t offset;
    const char *what;
};

static void path_add(struct locate *l, const upb_FieldDef *f, uint64_t index)
{
    char step[128];
    int size = upb_FieldDef_IsRepeated(f)
                   ? snprintf(step, sizeof step, "%s%s[%llu]", l->path_size != 0 ? "." : "",
                              upb_FieldDef_Name(f), (unsigned long long)index)
                   : snprintf(step, sizeof step, "%s%s", l->path_size != 0 ? "." : "",
                              upb_FieldDef_Name(f));

    if (size > 0 && l->path_size + (size_t)size < sizeof l->path) {
        memcpy(l->path + l->path_size, step, (size_t)size + 1);
        l->path_size += (size_t)size;
    }
}

/* Which element of its field begins at `at`. */
static uint64_t index_of(struct slice message, uint32_t number, const uint8_t *at)
{
    struct pb_reader reader;
    struct pb_field field;
    uint64_t index = 0;

    pb_begin(&reader, message);
    while (reader.at < at && pb_next(&reader, &field))
        index += field.number == number;
    return index;
}

static bool fault(struct locate *l, const uint8_t *at, const char *what)
{
    l->offset = (size_t)(at - l->begin);
    l->what = what;
    return true;
}

static bool find_packed_fault(struct locate *l, const upb_FieldDef *f, struct slice bytes)
{
    struct pb_reader reader;
    uint64_t value;
    size_t width = 0;

    switch (upb_FieldDef_Type(f)) {
    case kUpb_FieldType_Double:
    case kUpb_FieldType_Fixed64:
    case kUpb_FieldType_SFixed64: width = 8; break;
    case kUpb_FieldType_Float:
    case kUpb_FieldType_Fixed32:
    case kUpb_FieldType_SFixed32: width = 4; break;
    case kUpb_FieldType_String:
    case kUpb_FieldType_Bytes:
    case kUpb_FieldType_Message:
    case kUpb_FieldType_Group: return false;
    default: break;
    }
    if (width != 0)
        return bytes.size % width != 0 && fault(l, bytes.data, "packed numbers end within one");
    pb_begin(&reader, bytes);
    while (pb_varint(&reader, &value))
        ;
    return pb_failed(&reader) && fault(l, reader.at, reader.fault);
}

/* The first thing wrong in the bytes, as a message of that type; false: nothing this can see. */
static bool find_fault(struct locate *l, const upb_MessageDef *type, struct slice bytes,
                       unsigned depth)
{
    struct pb_reader reader;
    struct pb_field field;

    if (depth == 0)
        return fault(l, bytes.data, "messages are nested too deeply");
    pb_begin(&reader, bytes);
    for (;;) {
        const uint8_t *at = reader.at;
        if (!pb_next(&reader, &field))
            return pb_failed(&reader) && fault(l, reader.at, reader.fault);
        const upb_FieldDef *f = upb_MessageDef_FindFieldByNumber(type, field.number);
        if (f == NULL || field.wire != PB_LEN)
            continue;
        size_t path_size = l->path_size;
        bool is_found = false;
        path_add(l, f, index_of(bytes, field.number, at));
        if (upb_FieldDef_IsSubMessage(f)) {
            is_found = find_fault(l, upb_FieldDef_MessageSubDef(f), field.bytes, depth - 1);
        } else if (upb_FieldDef_Type(f) == kUpb_FieldType_String) {
            size_t valid = utf8_valid_prefix(field.bytes);
            is_found = valid != field.bytes.size &&
                       fault(l, field.bytes.data + valid, "this is a string, and not UTF-8");
        } else if (upb_FieldDef_IsRepeated(f)) {
            is_found = find_packed_fault(l, f, field.bytes);
        }
        if (is_found)
            return true;
        l->path_size = path_size;
        l->path[path_size] = '\0';
    }
}

static enum err_code decode_failed(const struct proto_arena *arena, upb_DecodeStatus status,
                                   const upb_MessageDef *type, struct slice bytes, struct err *err)
{
    struct locate l = { .begin = bytes.data };
    const char *what = upb_DecodeStatus_String(status);

    if (status == kUpb_DecodeStatus_OutOfMemory)
        return proto_no_memory(arena, err);
    if (find_fault(&l, type, bytes, PROTO_DEPTH_MAX))
        return err_set(err, E_INVALID, "%s%s(byte %zu of %s): %s", l.path,
                       l.path_size != 0 ? " " : "", l.offset, upb_MessageDef_FullName(type),
                       l.what);
    if (status == kUpb_DecodeStatus_MaxDepthExceeded)
        what = "messages or groups are nested too deeply";
    return err_set(err, E_INVALID, "this is no %s: %s", upb_MessageDef_FullName(type), what);
}

enum err_code proto_decode(struct proto_message **ret, struct proto_arena *arena,
                           const struct proto_type *type, struct slice bytes, struct err *err)
{
    const upb_MessageDef *def = def_of(type);
    struct proto_message *message;
    upb_DecodeStatus status = kUpb_DecodeStatus_OutOfMemory;

    proto_arena_expect(arena, bytes.size);
    message = proto_new(arena, type);
    if (message != NULL)
        status = upb_Decode((const char *)bytes.data, bytes.size, message->upb,
                            upb_MessageDef_MiniTable(def), NULL,
                            (int)upb_DecodeOptions_MaxDepth(PROTO_DEPTH_MAX - 1), arena->upb);
    if (status != kUpb_DecodeStatus_Ok)
        return decode_failed(arena, status, def, bytes, err);
    expect_any(arena);
    *ret = message;
    return OK;
}

enum err_code proto_encode(struct proto_message *message, struct slice *ret, struct err *err)
{
    char *bytes = NULL;
    size_t size = 0;
    upb_EncodeStatus status;

    if (message == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a protobuf message");
    if (message->arena->has_failed)
        return proto_no_memory(message->arena, err);
    status = upb_Encode(message->upb, upb_MessageDef_MiniTable(message->type),
                        kUpb_EncodeOption_Deterministic |
                            (int)upb_EncodeOptions_MaxDepth(PROTO_DEPTH_MAX),
                        message->arena->upb, &bytes, &size);
    if (status == kUpb_EncodeStatus_OutOfMemory)
        return proto_no_memory(message->arena, err);
    if (status != kUpb_EncodeStatus_Ok)
        return err_set(err, E_INTERNAL, "%s cannot be encoded: %s",
                       upb_MessageDef_FullName(message->type), upb_EncodeStatus_String(status));
    *ret = slice_make(bytes, size);
    return OK;
}
