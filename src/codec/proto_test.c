/* proto_test.c - protobuf by schemas: bytes, JSON, reflection's look-ups, hostile input.
 *
 * What the bytes must be was written down by hand from the encoding's specification; the comparison
 * with protobuf's own Python is test/client's.
 */
#include "codec/proto.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/budget.h"
#include "base/mem.h"
#include "test/harness.h"

static const struct proto_type *type(const char *name)
{
    const struct proto_schema *schema = proto_builtin();

    require(schema != NULL);
    const struct proto_type *found = proto_type_find(schema, name);
    check(found != NULL, "%s is not in proto/", name);
    require(found != NULL);
    return found;
}

/* -- schemas ----------------------------------------------------------------------------------- */

TEST(builtin_has_every_service)
{
    static const struct {
        const char *service, *method, *input, *output;
        bool client_streams, server_streams;
        uint32_t methods;
    } cases[] = {
        { "inference.GRPCInferenceService", "ModelInfer", "inference.ModelInferRequest",
          "inference.ModelInferResponse", false, false, 20 },
        { "inference.GRPCInferenceService", "ModelStreamInfer", "inference.ModelInferRequest",
          "inference.ModelStreamInferResponse", true, true, 20 },
        { "org.pytorch.serve.grpc.openinference.GRPCInferenceService", "ModelInfer",
          "inference.ModelInferRequest", "inference.ModelInferResponse", false, false, 6 },
        { "grpc.health.v1.Health", "Watch", "grpc.health.v1.HealthCheckRequest",
          "grpc.health.v1.HealthCheckResponse", false, true, 3 },
        { "grpc.health.v1.Health", "List", "grpc.health.v1.HealthListRequest",
          "grpc.health.v1.HealthListResponse", false, false, 3 },
        { "grpc.reflection.v1.ServerReflection", "ServerReflectionInfo",
          "grpc.reflection.v1.ServerReflectionRequest",
          "grpc.reflection.v1.ServerReflectionResponse", true, true, 1 },
        { "grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo",
          "grpc.reflection.v1alpha.ServerReflectionRequest",
          "grpc.reflection.v1alpha.ServerReflectionResponse", true, true, 1 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct proto_service *service = proto_service_find(proto_builtin(), cases[i].service);
        bool is_there = false;
        check_or_stop(service != NULL, "%s", cases[i].service);
        check(proto_service_methods(service) == cases[i].methods, "%s has %u", cases[i].service,
              proto_service_methods(service));
        for (uint32_t k = 0; k < proto_service_methods(service); k++) {
            struct proto_method m = proto_service_method(service, k);
            if (strcmp(m.name, cases[i].method) != 0)
                continue;
            is_there = true;
            check(strcmp(proto_type_name(m.input), cases[i].input) == 0, "%s takes %s", m.name,
                  proto_type_name(m.input));
            check(strcmp(proto_type_name(m.output), cases[i].output) == 0, "%s gives %s", m.name,
                  proto_type_name(m.output));
            check(m.client_streams == cases[i].client_streams &&
                      m.server_streams == cases[i].server_streams,
                  "%s streams", m.name);
        }
        check(is_there, "%s/%s", cases[i].service, cases[i].method);
    }
    check(proto_service_find(proto_builtin(), "inference.Nothing") == NULL, "made up");
    check(proto_type_find(proto_builtin(), "") == NULL, "no name");
}

TEST(files_by_symbol)
{
    static const struct {
        const char *symbol, *file;
    } cases[] = {
        { "inference.GRPCInferenceService", "grpc_service.proto" },
        { "inference.GRPCInferenceService.ModelInfer", "grpc_service.proto" },
        { "inference.ModelInferRequest", "grpc_service.proto" },
        { "inference.ModelInferRequest.InferInputTensor", "grpc_service.proto" },
        { "inference.ModelInferRequest.InferInputTensor.shape", "grpc_service.proto" },
        { "inference.InferParameter.parameter_choice", "grpc_service.proto" },
        { "inference.ModelConfig", "model_config.proto" },
        { "inference.DataType", "model_config.proto" },
        { "inference.TYPE_FP32", "model_config.proto" },
        { "inference.ModelInstanceGroup.Kind", "model_config.proto" },
        { "inference.ModelInstanceGroup.KIND_GPU", "model_config.proto" },
        { "grpc.health.v1.Health.Watch", "grpc/health/v1/health.proto" },
        { "grpc.health.v1.HealthCheckResponse.SERVING", "grpc/health/v1/health.proto" },
        { "grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto" },
        { "grpc.reflection.v1alpha.ErrorResponse", "grpc/reflection/v1alpha/reflection.proto" },
        { "inference.Nothing", NULL },
        { "inference.GRPCInferenceService.Nothing", NULL },
        { "inference.ModelInferRequest.nothing", NULL },
        { "inference", NULL },
        { ".inference.ModelInferRequest", NULL },
        { "", NULL },
        { ".", NULL },
        { "inference.", NULL },
        { "inference.ModelInferRequest.", NULL },
        { "inference.GRPCInferenceService.", NULL },
    };
    char long_name[4000];

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct slice got = proto_file_of_symbol(proto_builtin(), slice_of(cases[i].symbol));
        struct slice want = cases[i].file != NULL
                                ? proto_file_by_name(proto_builtin(), slice_of(cases[i].file))
                                : slice_make(NULL, 0);
        check(cases[i].file == NULL || want.data != NULL, "no file %s", cases[i].file);
        check(got.data == want.data && got.size == want.size, "%s", cases[i].symbol);
        for (size_t k = 0; k < COUNT(cases); k++) {
            struct slice file = slice_make("", 0);
            if (cases[k].file != NULL)
                file = proto_file_by_name(proto_builtin(), slice_of(cases[k].file));
            check(proto_file_defines(file, slice_of(cases[i].symbol)) ==
                      (want.data != NULL && want.data == file.data),
                  "%s in %s", cases[i].symbol, cases[k].file);
        }
    }
    memset(long_name, 'a', sizeof long_name);
    check(proto_file_of_symbol(proto_builtin(), slice_make(long_name, sizeof long_name)).data ==
              NULL,
          "a long symbol");
    check(proto_file_of_symbol(proto_builtin(), slice_make("inference.ModelConfig\0x", 23)).data ==
              NULL,
          "a NUL in a symbol");
    check(proto_file_by_name(proto_builtin(), slice_of("nothing.proto")).data == NULL, "no file");
}

struct seen {
    uint32_t count;
    struct slice files[8];
};

static void on_file(void *context, struct slice file)
{
    struct seen *seen = context;

    require(seen->count < COUNT(seen->files));
    seen->files[seen->count++] = file;
}

TEST(a_file_and_what_it_imports)
{
    const struct proto_schema *schema = proto_builtin();
    struct slice service = proto_file_by_name(schema, slice_of("grpc_service.proto"));
    struct seen seen = { 0 };

    proto_file_walk(schema, service, on_file, &seen);
    check_or_stop(seen.count == 2, "%u files", seen.count);
    check(seen.files[0].data == service.data, "the file itself comes first");
    check(seen.files[1].data == proto_file_by_name(schema, slice_of("model_config.proto")).data,
          "then what it imports");
}

/* The comments are there for people, in the file as reflection hands it out. */
TEST(files_keep_their_comments)
{
    struct slice file = proto_file_by_name(proto_builtin(), slice_of("grpc_service.proto"));
    static const char comment[] = "Runs the model once.";

    check(memmem(file.data, file.size, comment, sizeof comment - 1) != NULL, "no comments");
    check(proto_builtin_set().size < 80 << 10, "the set has grown to %zu bytes",
          proto_builtin_set().size);
}

TEST(fields_of_a_type)
{
    const struct proto_type *request = type("inference.ModelInferRequest");
    struct proto_field f;

    check(proto_type_fields(request) == 7, "%u fields", proto_type_fields(request));
    f = proto_type_field(request, 0);
    check(strcmp(f.name, "model_name") == 0 && strcmp(f.json_name, "modelName") == 0 &&
              f.number == 1 && f.kind == PROTO_STRING && !f.is_repeated && f.message == NULL &&
              f.oneof == NULL,
          "model_name");
    check_or_stop(proto_type_field_by_number(request, 4, &f), "parameters");
    check(f.is_map && f.is_repeated && f.kind == PROTO_MESSAGE && f.message != NULL, "a map");
    check(proto_type_fields(f.message) == 2, "of key and value");
    check(strcmp(proto_type_field(f.message, 1).type_name, "inference.InferParameter") == 0,
          "of InferParameter");
    check(!proto_type_field_by_number(request, 99, &f), "no field 99");
    check_or_stop(proto_type_field_by_number(type("inference.InferTensorContents"), 6, &f), "fp32");
    check(f.is_packed && f.is_repeated && f.kind == PROTO_FLOAT, "packed floats");
    check_or_stop(proto_type_field_by_number(type("inference.InferParameter"), 2, &f), "int64");
    check(f.oneof != NULL && strcmp(f.oneof, "parameter_choice") == 0, "a member of a oneof");
    check_or_stop(proto_type_field_by_number(type("inference.ModelInput"), 2, &f), "data_type");
    check_or_stop(f.kind == PROTO_ENUM && f.enumeration != NULL, "an enum");
    check(strcmp(f.type_name, "inference.DataType") == 0, "%s", f.type_name);
    check(strcmp(proto_enum_value(f.enumeration, 11), "TYPE_FP32") == 0, "its value");
    check(proto_enum_value(f.enumeration, 77) == NULL, "no value 77");
}

/* -- bytes ------------------------------------------------------------------------------------- */

static struct slice hex(const char *text, uint8_t *out)
{
    size_t size = 0;

    for (; *text != '\0'; text++) {
        if (*text == ' ')
            continue;
        char digits[3] = { text[0], text[1], '\0' };
        out[size++] = (uint8_t)strtoul(digits, NULL, 16);
        text++;
    }
    return slice_make(out, size);
}

TEST(messages_by_field_name)
{
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct proto_message *m = proto_new(arena, type("inference.ModelMetadataResponse"));
    struct proto_message *tensor, *read = NULL;
    uint8_t want[64];
    struct slice bytes;
    struct err err;

    proto_set_str(m, "name", slice_of("iris"));
    proto_add_str(m, "versions", slice_of("1"));
    proto_add_str(m, "versions", slice_of("2"));
    tensor = proto_add_message(m, "inputs");
    proto_set_str(tensor, "name", slice_of("x"));
    proto_add_i64(tensor, "shape", -1);
    proto_add_i64(tensor, "shape", 4);
    check_or_stop(proto_encode(m, &bytes, &err) == OK, "%s", err.text);
    /* 1: "iris", 2: "1", 2: "2", 4: { 1: "x", 3: packed { -1, 4 } } */
    check(slice_eq(bytes, hex("0a04 69726973 1201 31 1201 32 2210 0a01 78 1a0b "
                              "ffffffffffffffffff01 04",
                              want)),
          "%zu bytes", bytes.size);
    check_or_stop(proto_decode(&read, arena, type("inference.ModelMetadataResponse"), bytes,
                               &err) == OK,
                  "%s", err.text);
    check(slice_is(proto_get_str(read, "name"), "iris"), "name");
    check(proto_get_str(read, "platform").size == 0 && !proto_has(read, "platform"), "absent");
    check(proto_count(read, "versions") == 2 && slice_is(proto_str_at(read, "versions", 1), "2"),
          "versions");
    check(proto_count(read, "inputs") == 1 && proto_count(read, "outputs") == 0, "tensors");
    check(slice_is(proto_get_str(proto_message_at(read, "inputs", 0), "name"), "x"), "its name");
    check(!proto_arena_failed(arena), "memory");
}

TEST(maps_oneofs_and_numbers)
{
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct proto_message *m = proto_new(arena, type("inference.ModelInferResponse")), *p;
    const struct proto_message *read;
    struct slice bytes, again;
    struct err err;

    for (int i = 0; i < 50; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        proto_set_i64(proto_map_message(m, "parameters", slice_of(key)), "int64_param", i);
    }
    check(proto_count(m, "parameters") == 50, "a map of 50");
    check_or_stop(proto_encode(m, &bytes, &err) == OK, "%s", err.text);
    check_or_stop(proto_encode(m, &again, &err) == OK, "%s", err.text);
    check(slice_eq(bytes, again), "the same message, the same bytes");

    p = proto_new(arena, type("inference.InferParameter"));
    check(proto_which(p, "parameter_choice") == NULL, "nothing is set");
    proto_set_u64(p, "uint64_param", UINT64_MAX);
    check(strcmp(proto_which(p, "parameter_choice"), "uint64_param") == 0, "one is set");
    check(proto_get_u64(p, "uint64_param") == UINT64_MAX, "whole");
    proto_set_bool(p, "bool_param", false);
    check(strcmp(proto_which(p, "parameter_choice"), "bool_param") == 0, "then the other");
    check(proto_has(p, "bool_param") && !proto_has(p, "uint64_param"), "only the other");
    proto_set_f64(p, "double_param", 0.5);
    check(proto_get_f64(p, "double_param") == 0.5, "a double");

    p = proto_new(arena, type("inference.ModelConfigResponse"));
    check(proto_get_message(p, "config") == NULL && !proto_has(p, "config"), "absent");
    proto_set_i64(proto_set_message(p, "config"), "max_batch_size", -7);
    read = proto_get_message(p, "config");
    check(read != NULL && proto_get_i64(read, "max_batch_size") == -7, "negative");
    proto_set_f64(proto_set_message(proto_set_message(proto_set_message(p, "config"),
                                                      "sequence_batching"),
                                    "direct"),
                  "minimum_slot_utilization", 0.25);
    read = proto_get_message(proto_get_message(p, "config"), "sequence_batching");
    check(proto_get_f64(proto_get_message(read, "direct"), "minimum_slot_utilization") == 0.25,
          "a float");
    check(proto_get_bool(NULL, "x") == false && proto_get_str(NULL, "x").size == 0 &&
              proto_count(NULL, "x") == 0 && proto_which(NULL, "x") == NULL,
          "of nothing, nothing");
}

/* What is not known stays in the message: who echoes it loses nothing. */
TEST(unknown_fields_are_kept)
{
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct proto_message *m;
    uint8_t bytes[32];
    struct slice in = hex("0a01 61 b80601 c20603 616263", bytes), out;
    struct err err;

    check_or_stop(proto_decode(&m, arena, type("inference.ModelReadyRequest"), in, &err) == OK,
                  "%s", err.text);
    check_or_stop(proto_encode(m, &out, &err) == OK, "%s", err.text);
    check(slice_eq(in, out), "%zu bytes of %zu", out.size, in.size);
}

TEST(hostile_bytes_are_told)
{
    static const struct {
        const char *type, *bytes, *says;
    } cases[] = {
        { "inference.ModelReadyRequest", "0a05 6162", "(byte 1 of inference.ModelReadyRequest)" },
        { "inference.ModelReadyRequest", "0a", "(byte 1 of" },
        { "inference.ModelReadyRequest", "0aff", "byte 1" },
        { "inference.ModelReadyRequest", "0a02 61ff", "name (byte 3 of" },
        { "inference.ModelReadyRequest", "0000", "(byte 0 of" },
        { "inference.ModelReadyRequest", "0f", "(byte 0 of" },
        { "inference.ModelReadyRequest", "0c", "(byte 0 of" },
        { "inference.ModelInferRequest", "2a03 0a0161 2a04 0a02 61ff", "inputs[1].name (byte 10" },
        { "inference.ModelInferRequest", "2a06 0a0161 1a01 80", "inputs[0].shape[0]" },
        { "inference.ModelInferRequest", "2206 0a02 c328 1200", "parameters[0].key (byte 4" },
        { "inference.ModelInferRequest", "2a05 2a03 3202 00", "inputs[0]" },
        { "inference.ModelInferRequest", "2a06 2a04 3202 0000", "fp32_contents[0]" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
        struct proto_message *m = NULL;
        uint8_t bytes[64];
        struct err err = { 0 };
        enum err_code code =
            proto_decode(&m, arena, type(cases[i].type), hex(cases[i].bytes, bytes), &err);
        check(code == E_INVALID && m == NULL, "%s was taken", cases[i].bytes);
        check(strstr(err.text, cases[i].says) != NULL, "%s: \"%s\" lacks \"%s\"", cases[i].bytes,
              err.text, cases[i].says);
    }
}

/* None of our own types nests without end, so one is made here:
 *   package t; message M { M m = 1; repeated int64 n = 2; repeated M r = 4; } */
static struct proto_schema *recursive_schema(void)
{
    /* clang-format off */
    static const char file[] =
        "\x0a\x07" "m.proto" "\x12\x01" "t"
        "\x22\x30" "\x0a\x01" "M"
        "\x12\x0f" "\x0a\x01" "m" "\x18\x01" "\x20\x01" "\x28\x0b" "\x32\x04" ".t.M"
        "\x12\x09" "\x0a\x01" "n" "\x18\x02" "\x20\x03" "\x28\x03"
        "\x12\x0f" "\x0a\x01" "r" "\x18\x04" "\x20\x03" "\x28\x0b" "\x32\x04" ".t.M"
        "\x62\x06" "proto3";
    /* clang-format on */
    struct proto_schema *schema = NULL;
    struct err err = { 0 };

    if (proto_schema_new(&schema, &err) != OK ||
        proto_schema_add(schema, slice_make(file, sizeof file - 1), &err) != OK) {
        check(false, "%s", err.text);
        proto_schema_free(&schema);
    }
    return schema;
}

/* m { m { m ... } }: the innermost is empty. */
static struct slice nested(uint8_t *out, size_t room, unsigned depth)
{
    size_t at = room, size = 0;

    for (unsigned i = 0; i < depth; i++) {
        size_t length = size;
        if (length < 0x80) {
            out[--at] = (uint8_t)length;
        } else {
            out[--at] = (uint8_t)(length >> 7);
            out[--at] = (uint8_t)(length | 0x80);
        }
        out[--at] = 0x0a;
        size = room - at;
    }
    return slice_make(out + at, size);
}

TEST(depth_is_bounded)
{
    CLEANUP(proto_schema_free) struct proto_schema *schema = recursive_schema();
    uint8_t bytes[4096];
    struct err err = { 0 };

    check_or_stop(schema != NULL, "no schema");
    for (unsigned depth = PROTO_DEPTH_MAX - 3; depth < PROTO_DEPTH_MAX + 50; depth++) {
        CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
        struct proto_message *m = NULL;
        struct text out;
        enum err_code code = proto_decode(&m, arena, proto_type_find(schema, "t.M"),
                                          nested(bytes, sizeof bytes, depth), &err);
        check((code == OK) == (depth < PROTO_DEPTH_MAX), "depth %u: %s", depth,
              code == OK ? "taken" : err.text);
        if (code != OK) {
            check(strstr(err.text, "nested too deeply") != NULL, "%s", err.text);
            continue;
        }
        text_init(&out, 1 << 20);
        check(proto_to_json(m, schema, &out, &err) == OK, "depth %u: %s", depth, err.text);
        m = NULL;
        check(proto_from_json(&m, arena, proto_type_find(schema, "t.M"), schema, text_slice(&out),
                              &err) == OK,
              "depth %u: %s", depth, err.text);
        text_deinit(&out);
    }
    char json[2000] = "";
    for (int i = 0; i < 200; i++)
        memcpy(json + strlen(json), "{\"m\":", 6);
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct proto_message *m = NULL;
    check(proto_from_json(&m, arena, proto_type_find(schema, "t.M"), schema, slice_of(json),
                          &err) == E_INVALID &&
              strstr(err.text, "nested more than 100 deep") != NULL,
          "%s", err.text);
}

extern const uint8_t proto_test_set_bytes[]; /* of proto_test.proto */
extern const size_t proto_test_set_size;

static struct proto_schema *test_schema(void)
{
    struct proto_schema *schema = NULL;
    struct err err = { 0 };

    if (proto_schema_new(&schema, &err) != OK ||
        proto_schema_add_set(schema, slice_make(proto_test_set_bytes, proto_test_set_size), &err) !=
            OK) {
        check(false, "%s", err.text);
        proto_schema_free(&schema);
    }
    return schema;
}

/* An element of two bytes costs 300 in memory: it must not be a way to all of it. */
TEST(memory_of_hostile_messages_is_refused)
{
    enum { ELEMENTS = 1 << 16 };
    CLEANUP(proto_schema_free) struct proto_schema *schema = test_schema();
    CLEANUP(mem_free_slot) char *bytes = mem_alloc(ELEMENTS * 3);
    static const struct {
        const char *element; /* of Wides.wides */
        bool is_json;
    } cases[] = { { "\x0a", false }, { "{},", true } };

    check_or_stop(schema != NULL && bytes != NULL, "no memory");
    const struct proto_type *type = proto_type_find(schema, "google.protobuf.Wides");
    for (size_t i = 0; i < COUNT(cases); i++) {
        CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
        size_t width = cases[i].is_json ? 3 : 2, size = ELEMENTS * width;
        struct proto_message *m = NULL;
        struct budget budget;
        struct err err = { 0 };
        enum err_code code;
        memset(bytes, 0, size);
        for (size_t k = 0; k < ELEMENTS; k++)
            memcpy(bytes + k * width, cases[i].element, cases[i].is_json ? 3 : 1);
        if (cases[i].is_json)
            memcpy(bytes, "{\"wides\":[  {},", 15); /* in place of five elements */
        budget_init(&budget, 1 << 30);
        proto_arena_charge(arena, &budget);
        if (cases[i].is_json)
            code = proto_from_json(&m, arena, type, schema, slice_make(bytes, size), &err);
        else
            code = proto_decode(&m, arena, type, slice_make(bytes, size), &err);
        check(code == E_EXHAUSTED && strstr(err.text, "64 times its own size") != NULL, "%u: %s",
              code, err.text);
        check(budget_used(&budget) <= size * PROTO_MEMORY_FACTOR + (128 << 10), "%llu bytes",
              (unsigned long long)budget_used(&budget));
    }
}

/* What costs less is done, within the same bound. */
TEST(memory_is_bounded_by_the_input)
{
    enum { ELEMENTS = 1 << 16 };
    CLEANUP(proto_schema_free) struct proto_schema *schema = recursive_schema();
    CLEANUP(mem_free_slot) uint8_t *bytes = mem_alloc(ELEMENTS * 2);
    struct budget budget;
    struct err err = { 0 };

    check_or_stop(schema != NULL && bytes != NULL, "no memory");
    for (size_t i = 0; i < ELEMENTS * 2; i += 2) {
        bytes[i] = 0x22;
        bytes[i + 1] = 0x00;
    }
    budget_init(&budget, (uint64_t)PROTO_MEMORY_FACTOR * ELEMENTS * 2 + (1 << 20));
    struct proto_arena *arena = proto_arena_new();
    struct proto_message *m = NULL;
    proto_arena_charge(arena, &budget);
    enum err_code code = proto_decode(&m, arena, proto_type_find(schema, "t.M"),
                                      slice_make(bytes, ELEMENTS * 2), &err);
    uint64_t used = budget_used(&budget);
    check(used <= (uint64_t)PROTO_MEMORY_FACTOR * ELEMENTS * 2 + (128 << 10), "%llu bytes",
          (unsigned long long)used);
    check(code == OK || code == E_EXHAUSTED, "%s", err.text);
    proto_arena_free(&arena);
    check(budget_used(&budget) == 0, "%llu bytes stay charged",
          (unsigned long long)budget_used(&budget));

    /* Packed numbers, on the other hand, are honest work and must do. */
    memset(bytes, 1, ELEMENTS);
    bytes[0] = 0x12;
    bytes[1] = 0xfa;
    bytes[2] = 0xff;
    bytes[3] = 0x03;
    arena = proto_arena_new();
    check(proto_decode(&m, arena, proto_type_find(schema, "t.M"), slice_make(bytes, 4 + 0xfffa),
                       &err) == OK,
          "65,530 packed numbers: %s", err.text);
    check(proto_count(m, "n") == 0xfffa, "%zu numbers", proto_count(m, "n"));
    proto_arena_free(&arena);

    /* The operator's bytes are spent: an answer, and nothing stays charged. */
    budget_init(&budget, 1024);
    arena = proto_arena_new();
    proto_arena_charge(arena, &budget);
    check(proto_decode(&m, arena, proto_type_find(schema, "t.M"), slice_make(bytes, 4 + 0xfffa),
                       &err) == E_EXHAUSTED,
          "past the budget");
    proto_arena_free(&arena);
    check(budget_used(&budget) == 0, "charged");
}

/* -- schemas that come from peers -------------------------------------------------------------- */

TEST(files_are_checked)
{
    CLEANUP(proto_schema_free) struct proto_schema *schema = recursive_schema();
    struct slice health =
        proto_file_by_name(proto_builtin(), slice_of("grpc/health/v1/health.proto"));
    struct slice service = proto_file_by_name(proto_builtin(), slice_of("grpc_service.proto"));
    struct err err = { 0 };

    check_or_stop(schema != NULL, "no schema");
    check(proto_schema_add(schema, health, &err) == OK, "%s", err.text);
    check(proto_schema_add(schema, health, &err) == OK, "twice: %s", err.text);
    check(proto_file_by_name(schema, slice_of("grpc/health/v1/health.proto")).size == health.size,
          "as it came");
    check(proto_schema_add(schema, service, &err) == E_INVALID &&
              strstr(err.text, "model_config.proto") != NULL,
          "without its import: %s", err.text);
    check(proto_schema_add(schema, slice_of("\x0a\x07m.proto"), &err) == E_INVALID &&
              strstr(err.text, "other contents") != NULL,
          "another file of that name: %s", err.text);
    check(proto_schema_add(schema, slice_of("\x0a\x05x"), &err) == E_INVALID, "truncated");
    check(proto_schema_add(schema, slice_of(""), &err) == E_INVALID &&
              strstr(err.text, "no name") != NULL,
          "empty: %s", err.text);
    check(proto_schema_add(schema, slice_of("\x0a\x02x\xff"), &err) == E_INVALID &&
              strstr(err.text, "not UTF-8") != NULL,
          "a name: %s", err.text);
    check(proto_schema_add_set(schema, slice_of("\x0a\x7f"), &err) == E_INVALID, "a set");
    check(proto_schema_add_set(schema, proto_builtin_set(), &err) == OK, "%s", err.text);
    check(proto_type_find(schema, "inference.ModelConfig") != NULL, "the set is there");
    /* A name of Google's with fields of another kind is a message like any other. */
    /* clang-format off */
    static const char fake[] =
        "\x0a\x01" "d" "\x12\x0f" "google.protobuf"
        "\x22\x16" "\x0a\x09" "Timestamp"
        "\x12\x09" "\x0a\x01" "x" "\x18\x05" "\x20\x01" "\x28\x09"
        "\x62\x06" "proto3";
    /* clang-format on */
    check_or_stop(proto_schema_add(schema, slice_make(fake, sizeof fake - 1), &err) == OK, "%s",
                  err.text);
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct proto_message *m = NULL;
    check(proto_from_json(&m, arena, proto_type_find(schema, "google.protobuf.Timestamp"), schema,
                          slice_of("{\"x\":\"1s\"}"), &err) == OK,
          "%s", err.text);
}

/* -- JSON -------------------------------------------------------------------------------------- */

TEST(json_both_ways)
{
    /* type, what is read, what is written (NULL: the same) */
    static const struct {
        const char *type, *in, *out;
    } cases[] = {
        { "inference.ModelReadyRequest", "{}", NULL },
        { "inference.ModelReadyRequest", " { \"name\" : \"a\\u00e9\\n\" } ",
          "{\"name\":\"a\xc3\xa9\\n\"}" },
        { "inference.ModelInferRequest", "{\"model_name\":\"m\",\"model_version\":\"\"}",
          "{\"modelName\":\"m\"}" },
        { "inference.ModelInferRequest", "{\"modelName\":null,\"inputs\":null}", "{}" },
        { "inference.ModelInferRequest",
          "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,\"2\",3.0,-1]}]}",
          "{\"inputs\":[{\"name\":\"x\",\"shape\":[\"1\",\"2\",\"3\",\"-1\"]}]}" },
        { "inference.ModelInferRequest", "{\"rawInputContents\":[\"AAEC/w==\",\"-_8\",\"\"]}",
          "{\"rawInputContents\":[\"AAEC/w==\",\"+/8=\",\"\"]}" },
        { "inference.ModelInferRequest",
          "{\"parameters\":{\"b\":{\"int64Param\":\"5\"},\"a\":{\"bool_param\":false},"
          "\"c\":{\"string_param\":\"\"}}}",
          "{\"parameters\":{\"a\":{\"boolParam\":false},\"b\":{\"int64Param\":\"5\"},"
          "\"c\":{\"stringParam\":\"\"}}}" },
        { "inference.InferTensorContents",
          "{\"fp32_contents\":[0.1,1e3,\"NaN\",\"-Infinity\",\"2.5\"],\"fp64_contents\":[0.1]}",
          "{\"fp32Contents\":[0.1,1000.0,\"NaN\",\"-Infinity\",2.5],\"fp64Contents\":[0.1]}" },
        { "inference.InferTensorContents",
          "{\"uint64Contents\":[18446744073709551615],\"int64Contents\":[\"-9223372036854775808\"],"
          "\"intContents\":[-2147483648],\"uintContents\":[4294967295],\"boolContents\":[true]}",
          "{\"boolContents\":[true],\"intContents\":[-2147483648],"
          "\"int64Contents\":[\"-9223372036854775808\"],\"uintContents\":[4294967295],"
          "\"uint64Contents\":[\"18446744073709551615\"]}" },
        { "inference.ModelConfig",
          "{\"input\":[{\"name\":\"x\",\"data_type\":\"TYPE_FP32\",\"dims\":[4]},"
          "{\"dataType\":14}],\"dynamic_batching\":{\"priority_queue_policy\":{\"10\":{},\"9\":{}}}}",
          "{\"input\":[{\"name\":\"x\",\"dataType\":\"TYPE_FP32\",\"dims\":[\"4\"]},"
          "{\"dataType\":\"TYPE_BF16\"}],"
          "\"dynamicBatching\":{\"priorityQueuePolicy\":{\"9\":{},\"10\":{}}}}" },
        { "grpc.health.v1.HealthCheckResponse", "{\"status\":\"SERVING\"}", NULL },
        { "grpc.health.v1.HealthCheckResponse", "{\"status\":7}", NULL },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
        struct proto_message *m = NULL, *again = NULL;
        const char *want = cases[i].out != NULL ? cases[i].out : cases[i].in;
        struct slice bytes;
        struct text out;
        struct err err = { 0 };

        text_init(&out, 1 << 20);
        check_or_stop(proto_from_json(&m, arena, type(cases[i].type), proto_builtin(),
                                      slice_of(cases[i].in), &err) == OK,
                      "%s: %s", cases[i].in, err.text);
        check_or_stop(proto_encode(m, &bytes, &err) == OK, "%s", err.text);
        check_or_stop(proto_decode(&again, arena, type(cases[i].type), bytes, &err) == OK, "%s",
                      err.text);
        check(proto_to_json(again, proto_builtin(), &out, &err) == OK, "%s", err.text);
        check(strcmp(text_cstr(&out), want) == 0, "%s\n   gave %s\n   not  %s", cases[i].in,
              text_cstr(&out), want);
        text_deinit(&out);
    }
}

/* What Google's types look like in JSON (protobuf.dev, "ProtoJSON Format"). */
TEST(json_of_googles_types)
{
    static const struct {
        const char *in, *out; /* out NULL: the same; in error when it begins with '!' */
    } cases[] = {
        { "{\"duration\":\"1.5s\"}", "{\"duration\":\"1.500s\"}" },
        { "{\"duration\":\"-0.000000001s\"}", NULL },
        { "{\"duration\":\"-315576000000s\"}", NULL },
        { "{\"duration\":\"315576000001s\"}", "!duration (byte 12): a Duration is seconds" },
        { "{\"duration\":\"1.0000000001s\"}", "!a Duration" },
        { "{\"duration\":\"1\"}", "!a Duration" },
        { "{\"duration\":\"s\"}", "!a Duration" },
        { "{\"duration\":1}", "!expected a string" },
        { "{\"timestamp\":\"1970-01-01T00:00:00Z\"}", "{\"timestamp\":\"1970-01-01T00:00:00Z\"}" },
        { "{\"timestamp\":\"2026-11-22T10:11:12.123456789+02:30\"}",
          "{\"timestamp\":\"2026-11-22T07:41:12.123456789Z\"}" },
        { "{\"timestamp\":\"0001-01-01T00:00:00Z\"}", NULL },
        { "{\"timestamp\":\"9999-12-31T23:59:59.999999999Z\"}", NULL },
        { "{\"timestamp\":\"2000-02-29T12:00:00.010Z\"}", NULL },
        { "{\"timestamp\":\"1900-02-29T12:00:00Z\"}", "!a Timestamp is as in RFC 3339" },
        { "{\"timestamp\":\"0001-01-01T00:00:00+00:01\"}", "!a Timestamp" },
        { "{\"timestamp\":\"2026-13-01T00:00:00Z\"}", "!a Timestamp" },
        { "{\"timestamp\":\"2026-11-22T10:11:12\"}", "!a Timestamp" },
        { "{\"timestamp\":\"2026-11-22 10:11:12Z\"}", "!a Timestamp" },
        { "{\"mask\":\"a,fooBar.bazQux\"}", NULL },
        { "{\"mask\":\"\"}", NULL },
        { "{\"value\":null}", NULL },
        { "{\"value\":[1.5,\"x\",true,null,{\"b\":{},\"a\":[]}]}",
          "{\"value\":[1.5,\"x\",true,null,{\"a\":[],\"b\":{}}]}" },
        { "{\"struct\":{\"k\":{\"n\":2.5}}}", NULL },
        { "{\"list\":[1.5,[]]}", NULL },
        { "{\"number\":\"-5\"}", NULL },
        { "{\"number\":7}", "{\"number\":\"7\"}" },
        { "{\"number\":null}", "{}" },
        { "{\"bytes\":\"AAEC\"}", NULL },
        { "{\"empty\":{}}", NULL },
        { "{\"null\":null}", "{}" },
        { "{\"flags\":{\"true\":1,\"false\":2}}", "{\"flags\":{\"false\":2,\"true\":1}}" },
        { "{\"flags\":{\"yes\":1}}", "!a key of this map is" },
        { "{\"numbers\":{\"10\":\"a\",\"-9\":\"b\"}}",
          "{\"numbers\":{\"-9\":\"b\",\"10\":\"a\"}}" },
        { "{\"maybe\":0}", NULL },
        { "{\"values\":[null,null]}", NULL },
        { "{\"any\":{}}", NULL },
        { "{\"any\":{\"@type\":\"x/google.protobuf.Duration\",\"value\":\"1s\"}}", NULL },
        { "{\"any\":{\"value\":\"1s\",\"@type\":\"x/google.protobuf.Duration\"}}",
          "{\"any\":{\"@type\":\"x/google.protobuf.Duration\",\"value\":\"1s\"}}" },
        { "{\"any\":{\"maybe\":3,\"@type\":\"x/google.protobuf.All\"}}",
          "{\"any\":{\"@type\":\"x/google.protobuf.All\",\"maybe\":3}}" },
        { "{\"any\":{\"@type\":\"x/t.Nothing\"}}", "!the type x/t.Nothing is not known here" },
        { "{\"any\":{\"a\":1}}", "!an Any needs a member" },
        { "{\"any\":{\"@type\":\"x/google.protobuf.Duration\"}}", "!under \"value\"" },
        { "{\"any\":{\"@type\":\"x/google.protobuf.Duration\",\"v\":1}}", "!once" },
        { "{\"any\":{\"@type\":\"x/google.protobuf.All\",\"v\":1}}", "!has no field 'v'" },
    };
    struct proto_schema *schema = NULL;
    struct err err = { 0 };

    check_or_stop(proto_schema_new(&schema, &err) == OK, "%s", err.text);
    check_or_stop(proto_schema_add_set(
                      schema, slice_make(proto_test_set_bytes, proto_test_set_size), &err) == OK,
                  "%s", err.text);
    const struct proto_type *all = proto_type_find(schema, "google.protobuf.All");
    for (size_t i = 0; i < COUNT(cases); i++) {
        CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
        struct proto_message *m = NULL, *again = NULL;
        const char *want = cases[i].out != NULL ? cases[i].out : cases[i].in;
        struct slice bytes;
        struct text out;
        enum err_code code = proto_from_json(&m, arena, all, schema, slice_of(cases[i].in), &err);
        if (want[0] == '!') {
            check(code == E_INVALID && strstr(err.text, want + 1) != NULL, "%s: %s", cases[i].in,
                  code == OK ? "taken" : err.text);
            continue;
        }
        text_init(&out, 1 << 20);
        if (code != OK || proto_encode(m, &bytes, &err) != OK ||
            proto_decode(&again, arena, all, bytes, &err) != OK ||
            proto_to_json(again, schema, &out, &err) != OK)
            check(false, "%s: %s", cases[i].in, err.text);
        else
            check(strcmp(text_cstr(&out), want) == 0, "%s\n   gave %s\n   not  %s", cases[i].in,
                  text_cstr(&out), want);
        text_deinit(&out);
    }
    proto_schema_free(&schema);
}

TEST(json_faults_are_told)
{
    static const struct {
        const char *type, *json, *says;
    } cases[] = {
        { "inference.ModelInferRequest", "", "byte 0" },
        { "inference.ModelInferRequest", "[]", "'{'" },
        { "inference.ModelInferRequest", "{\"model_nam\":1}", "did you mean 'model_name'?" },
        { "inference.ModelReadyRequest", "{\"zzz\":1}", "its fields are name, version" },
        { "inference.ServerLiveRequest", "{\"zzz\":1}",
          "inference.ServerLiveRequest has no field 'zzz'" },
        { "inference.ModelReadyRequest", "{\"name\":1}", "name (byte 8): expected a string" },
        { "inference.ModelReadyRequest", "{\"name\":\"a\",\"name\":\"b\"}", "there twice" },
        { "inference.ModelReadyRequest", "{\"name\":\"a\"}x", "byte 12" },
        { "inference.ModelReadyRequest", "{\"name\":\"a\",}", "byte 11" },
        { "inference.ModelInferRequest", "{\"inputs\":[{\"shape\":[1,2.5]}]}",
          "inputs[0].shape[1] (byte 23): 2.5 is no whole number" },
        { "inference.ModelInferRequest", "{\"inputs\":[{\"shape\":[9223372036854775808]}]}",
          "out of range" },
        { "inference.InferTensorContents", "{\"uintContents\":[-1]}", "-1 is out of range" },
        { "inference.InferTensorContents", "{\"fp32Contents\":[1e39]}", "out of range" },
        { "inference.InferTensorContents", "{\"fp32Contents\":[\"x\"]}", "x is no number" },
        { "inference.InferTensorContents", "{\"boolContents\":[1]}", "true or false" },
        { "inference.InferTensorContents", "{\"bytesContents\":[\"a b\"]}", "base64" },
        { "inference.InferTensorContents", "{\"bytesContents\":[\"AAAAA\"]}", "base64" },
        { "inference.InferParameter", "{\"boolParam\":true,\"int64Param\":1}",
          "'bool_param' is there already: of 'parameter_choice' only one can be set" },
        { "inference.ModelInferRequest", "{\"parameters\":{\"a\":{},\"a\":{}}}", "twice" },
        { "inference.ModelInferRequest", "{\"parameters\":{\"a\":{\"int64_param\":\"x\"}}}",
          "parameters[\"a\"].int64_param" },
        { "inference.ModelInput", "{\"data_type\":\"TYPE_FP23\"}", "did you mean TYPE_FP32?" },
        { "inference.ModelInput", "{\"data_type\":\"float\"}", "the first is TYPE_INVALID" },
        { "inference.ModelDynamicBatching", "{\"priority_queue_policy\":{\"-1\":{}}}",
          "out of range" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
        struct proto_message *m = NULL;
        struct err err = { 0 };
        enum err_code code = proto_from_json(&m, arena, type(cases[i].type), proto_builtin(),
                                             slice_of(cases[i].json), &err);
        check(code == E_INVALID && m == NULL, "%s was taken", cases[i].json);
        check(strstr(err.text, cases[i].says) != NULL, "%s: \"%s\" lacks \"%s\"", cases[i].json,
              err.text, cases[i].says);
    }
}

TEST(json_has_a_bound)
{
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct proto_message *m = proto_new(arena, type("inference.ModelReadyRequest"));
    struct text out;
    struct err err = { 0 };

    proto_set_str(m, "name", slice_of("a name that does not fit"));
    text_init(&out, 16);
    check(proto_to_json(m, proto_builtin(), &out, &err) == E_EXHAUSTED, "no room");
    text_deinit(&out);
}

/* -- faults ------------------------------------------------------------------------------------ */

TEST(every_fault_is_an_answer)
{
    uint8_t room[64];
    struct slice bytes = hex("0a016d 2a0f 0a0178 1203 494e54 1a03 0102 03 2200", room);
    static const char json[] = "{\"modelName\":\"m\",\"parameters\":{\"a\":{\"int64_param\":1}},"
                               "\"inputs\":[{\"name\":\"\\u00e9\",\"shape\":[1,2]}]}";

    check(proto_builtin() != NULL, "made before faults begin");
    for_each_fault(nth) {
        struct proto_arena *arena = proto_arena_new();
        struct proto_message *m = NULL, *n = NULL;
        struct slice out;
        struct text text;
        struct err err = { 0 };
        enum err_code code = E_EXHAUSTED;

        text_init(&text, 1 << 20);
        if (arena != NULL) {
            code = proto_decode(&m, arena, type("inference.ModelInferRequest"), bytes, &err);
            if (code == OK)
                code = proto_from_json(&n, arena, type("inference.ModelInferRequest"),
                                       proto_builtin(), slice_of(json), &err);
            if (code == OK) {
                proto_set_str(proto_add_message(n, "outputs"), "name", slice_of("y"));
                proto_map_message(n, "parameters", slice_of("k"));
                code = proto_encode(n, &out, &err);
            }
            if (code == OK)
                code = proto_to_json(n, proto_builtin(), &text, &err);
            check(code == OK || code == E_EXHAUSTED, "fault %u: %s", nth, err.text);
            check(code == OK || err.text[0] != '\0', "fault %u was silent", nth);
        }
        text_deinit(&text);
        proto_arena_free(&arena);
        if (!fault_fired()) {
            check(code == OK, "without a fault: %s", err.text);
            break;
        }
        check(code != OK, "fault %u went unseen", nth);
    }
}
