/* proto_fuzz.c - any bytes as each of our own messages, as JSON of them, and as a schema that a
 * peer sends. The first byte says which. What was read must be written, and be the same when read
 * again. */
#include <stdlib.h>

#include "base/mem.h"
#include "codec/proto.h"

static const char *const types[] = {
    "inference.ModelInferRequest",
    "inference.ModelInferResponse",
    "inference.ModelConfig",
    "inference.ModelStatisticsResponse",
    "inference.RepositoryModelLoadRequest",
    "inference.LogSettingsRequest",
    "grpc.health.v1.HealthCheckRequest",
    "grpc.health.v1.HealthListResponse",
    "grpc.reflection.v1.ServerReflectionRequest",
    "grpc.reflection.v1.ServerReflectionResponse",
};

enum { OUT_MAX = 1 << 24, AS_JSON = 1 << 4, AS_SCHEMA = 1 << 5 };

static void put_out(struct proto_message *m, const struct proto_type *type,
                    const struct proto_schema *schema, struct proto_arena *arena)
{
    struct proto_message *again = NULL;
    struct slice bytes, bytes_again;
    struct text out;
    struct err err;

    text_init(&out, OUT_MAX);
    enum err_code code = proto_encode(m, &bytes, &err);
    require(code == OK || code == E_EXHAUSTED);
    if (code == OK && proto_decode(&again, arena, type, bytes, &err) == OK) {
        require(proto_encode(again, &bytes_again, &err) != OK || slice_eq(bytes, bytes_again));
    } else {
        require(code != OK || err.code == E_EXHAUSTED);
    }
    if (proto_to_json(m, schema, &out, &err) == OK &&
        proto_from_json(&again, arena, type, schema, text_slice(&out), &err) != OK)
        require(err.code == E_EXHAUSTED); /* what we write we read */
    text_deinit(&out);
}

static void try_message(struct slice data, const struct proto_type *type,
                        const struct proto_schema *schema, bool is_json)
{
    struct proto_arena *arena = proto_arena_new();
    struct proto_message *m = NULL;
    struct err err = { 0 };

    require(arena != NULL);
    enum err_code code = is_json ? proto_from_json(&m, arena, type, schema, data, &err)
                                 : proto_decode(&m, arena, type, data, &err);
    require((code == OK) == (m != NULL) && (code == OK) == (err.text[0] == '\0'));
    if (m != NULL)
        put_out(m, type, schema, arena);
    proto_arena_free(&arena);
}

static void on_file(void *context, struct slice file)
{
    require(file.data != NULL);
    *(size_t *)context += file.size;
}

/* A set of files, then what a client would do with them. */
static void try_schema(struct slice data)
{
    struct proto_schema *schema = NULL;
    const struct proto_type *type;
    struct err err = { 0 };
    size_t all = 0;
    size_t half = data.size / 2;

    require(proto_schema_new(&schema, &err) == OK);
    if (proto_schema_add(schema, data, &err) == OK) {
        struct slice file = proto_file_of_symbol(schema, slice_of("t.M"));
        require(file.data == NULL || slice_eq(file, data));
        require(proto_file_defines(data, slice_of("t.M")) == (file.data != NULL));
        proto_file_walk(schema, file, on_file, &all);
        type = proto_type_find(schema, "t.M");
        if (type != NULL) {
            for (uint32_t i = 0; i < proto_type_fields(type); i++) {
                struct proto_field f = proto_type_field(type, i);
                require(f.name != NULL && f.json_name != NULL);
            }
            try_message(slice_first(data, half), type, schema, false);
            try_message(slice_of("{}"), type, schema, true);
            try_message(slice_of("{\"m\":{\"m\":null,\"n\":[1,2]}}"), type, schema, true);
        }
    }
    require(proto_schema_add_set(schema, data, &err) == OK || err.text[0] != '\0');
    (void)proto_file_defines(data, slice_of("a.B.c"));
    proto_schema_free(&schema);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct proto_schema *schema = proto_builtin();
    /* Exactly as long as the input: reading past its end is seen. */
    uint8_t *copy = mem_alloc(size + (size == 0));

    require(schema != NULL && copy != NULL);
    if (size != 0) {
        struct slice rest = slice_make(copy, size - 1);
        memcpy(copy, data + 1, size - 1);
        if ((data[0] & AS_SCHEMA) != 0)
            try_schema(rest);
        else
            try_message(rest, proto_type_find(schema, types[data[0] % 16 % COUNT(types)]), schema,
                        (data[0] & AS_JSON) != 0);
    }
    mem_free(copy);
    return 0;
}
