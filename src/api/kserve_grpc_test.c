/* kserve_grpc_test.c - inference.GRPCInferenceService over calls of memory, with the real engine,
 * repository and echo; beside the REST answers to the same questions.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "api/fake_stage.h"
#include "api/grpc.h"
#include "api/grpc_answer_test.h"
#include "api/pb_build.h"
#include "base/buf.h"
#include "base/mem.h"
#include "call/grpc_wire.h"
#include "codec/proto.h"
#include "engine/engine.h"
#include "test/harness.h"

#define SERVICE "/inference.GRPCInferenceService/"

/* -- calls ------------------------------------------------------------------------------------------ */

static void put_frame(struct text *out, struct slice message)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    grpc_prefix_put(prefix, false, (uint32_t)message.size);
    text_put(out, prefix, sizeof prefix);
    text_slice_put(out, message);
}

/* A call whose body are these bytes, borrowed. */
static struct fake *make_framed(const char *path, struct slice body)
{
    struct fake *fake = stage_make(METHOD_POST, path, body);

    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    return fake;
}

static struct text framed[STAGE_CALLS_MAX];

static struct fake *make(const char *path, struct slice message)
{
    struct text *body = &framed[stage.count];

    text_deinit(body);
    text_init(body, 1 << 24);
    put_frame(body, message);
    return make_framed(path, text_slice(body));
}

static struct fake *call(const char *path, struct slice message)
{
    stage_drop_calls();
    struct fake *fake = make(path, message);
    stage_run();
    return fake;
}

static struct fake *rest(enum exchange_method method, const char *path, struct slice body)
{
    stage_drop_calls();
    struct fake *fake = stage_make(method, path, body);
    stage_run();
    return fake;
}

static void end(void)
{
    stage_down();
    for (size_t i = 0; i < COUNT(framed); i++)
        text_deinit(&framed[i]);
}

/* The field of google.rpc.BadRequest, into `out`; "" when there is none. */
static const char *field_of(const struct fake *fake, char *out, size_t size)
{
    struct grpc_details details = { .field = { NULL, 0 } };
    struct slice value = fake_answer_header(fake, "grpc-status-details-bin");
    struct text bytes;

    text_init(&bytes, 1 << 16);
    if (value.size != 0)
        check(grpc_bin_decode(&bytes, value) &&
                  grpc_details_decode(&details, text_slice(&bytes), NULL) == OK,
              "details");
    snprintf(out, size, "%.*s", SLICE_ARG(details.field));
    text_deinit(&bytes);
    return out;
}

/* The one message of the answer. */
static struct slice message_of(const struct fake *fake)
{
    struct slice answer = text_slice(&fake->answer);

    check(answer.size >= GRPC_PREFIX_BYTES, "%zu bytes", answer.size);
    if (answer.size < GRPC_PREFIX_BYTES)
        return slice_make("", 0);
    struct grpc_prefix prefix = grpc_prefix_get(answer.data);
    check(prefix.flag == 0 && prefix.size == answer.size - GRPC_PREFIX_BYTES, "one message");
    return slice_skip(answer, GRPC_PREFIX_BYTES);
}

#define check_status(made, code_wanted, words)                                                     \
    do {                                                                                           \
        struct fake *fake_ = (made);                                                               \
        check(code_of(fake_) == (code_wanted), "%s: %s", err_name(code_of(fake_)),                 \
              words_of(fake_));                                                                    \
        check(strstr(words_of(fake_), (words)) != NULL, "%s\n  lacks %s", words_of(fake_), words); \
    } while (0)

/* -- messages ---------------------------------------------------------------------------------------- */

static const float iris_row[] = { 0.5f, 0.25f, 0.125f, 0.0625f };

struct asking {
    const char *model, *version, *id, *input, *datatype, *output;
    int64_t columns;
    bool is_contents;
    const float *data;
    size_t size;
};

/* One input, which is iris' unless said otherwise. */
static void build(struct text *out, struct asking a)
{
    bool is_iris = a.columns == 0 || a.columns == 4;
    int64_t shape[] = { 1, is_iris ? 4 : a.columns };
    struct text input, contents;
    struct slice data =
        a.data == NULL ? slice_make(iris_row, sizeof iris_row) : slice_make(a.data, a.size);

    text_init(&input, 1 << 16);
    text_init(&contents, 1 << 16);
    build_str(out, 1, a.model != NULL ? a.model : "iris");
    if (a.version != NULL)
        build_str(out, 2, a.version);
    if (a.id != NULL)
        build_str(out, 3, a.id);
    build_input(&input, a.input != NULL ? a.input : "input",
                a.datatype != NULL ? a.datatype : "FP32", 2, shape);
    if (a.is_contents) {
        pb_text_bytes(&contents, 6, data);
        build_message(&input, 5, &contents);
    }
    build_message(out, 5, &input);
    if (a.output != NULL) {
        build_str(&input, 1, a.output);
        build_message(out, 6, &input);
    }
    if (!a.is_contents)
        pb_text_bytes(out, 7, data);
    text_deinit(&input);
    text_deinit(&contents);
}

static struct fake *infer(const char *path, struct asking a)
{
    struct text message;

    text_init(&message, 1 << 24);
    build(&message, a);
    struct fake *fake = call(path, text_slice(&message));
    text_deinit(&message);
    return fake;
}

/* x FP32 [1] of a model of the echo backend. */
static void build_slow(struct text *out, const char *model)
{
    static const int64_t one = 1;
    static const float seven = 7;
    struct text input;

    text_init(&input, 1 << 16);
    build_str(out, 1, model);
    build_input(&input, "x", "FP32", 1, &one);
    build_message(out, 5, &input);
    pb_text_bytes(out, 7, slice_make(&seven, sizeof seven));
    text_deinit(&input);
}

static struct slice slow_message(struct text *out)
{
    text_init(out, 1 << 16);
    build_slow(out, "slow");
    return text_slice(out);
}

/* Everything that stands under field `number`, one after the other. */
static struct slice fields_of(struct slice message, uint32_t number, struct text *out)
{
    struct pb_reader r;
    struct pb_field field;

    text_init(out, 1 << 24);
    pb_begin(&r, message);
    while (pb_next(&r, &field))
        if (field.number == number)
            text_slice_put(out, field.bytes);
    check(!pb_failed(&r), "%s", r.fault);
    return text_slice(out);
}

/* -- inference ---------------------------------------------------------------------------------------- */

TEST(grpc_infers)
{
    static const char *const paths[] = {
        SERVICE "ModelInfer",
        "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelInfer"
    };
    struct text raw;

    if (!stage_up() || !stage_open())
        return;
    for (unsigned way = 0; way < 4; way++) {
        struct fake *fake = infer(paths[way & 1], (struct asking){ .id = "a1",
                                                                   .is_contents = way >= 2,
                                                                   .output = "probabilities" });
        check(code_of(fake) == OK, "%s", words_of(fake));
        struct slice message = message_of(fake);
        check(slice_is(fake_answer_header(fake, "content-type"), "application/grpc"), "type");
        check(fake_answer_header(fake, "server-timing").size == 0, "timing was not asked for");
        check(slice_eq(fields_of(message, 6, &raw), slice_make(iris_row, sizeof iris_row)), "bits");
        text_deinit(&raw);
        check(slice_is(fields_of(message, 1, &raw), "iris"), "model_name");
        text_deinit(&raw);
        check(slice_is(fields_of(message, 2, &raw), "1"), "model_version");
        text_deinit(&raw);
        check(slice_is(fields_of(message, 3, &raw), "a1"), "id");
        text_deinit(&raw);
    }
    end();
}

/* A byte at a time, and with the stages' times behind it. */
TEST(grpc_infers_byte_by_byte)
{
    struct text message, raw;

    if (!stage_up() || !stage_open())
        return;
    text_init(&message, 1 << 16);
    build(&message, (struct asking){ .version = "1" });
    struct fake *fake = make(SERVICE "ModelInfer", text_slice(&message));
    fake->piece = 1;
    stage.api.server_timing = true;
    stage_run();
    check(code_of(fake) == OK, "%s", words_of(fake));
    check(fields_of(message_of(fake), 6, &raw).size == sizeof(int64_t) + sizeof iris_row,
          "outputs");
    struct slice timing = fake_answer_header(fake, "server-timing");
    check(slice_starts(timing, "decode;dur=0.") &&
              memmem(timing.data, timing.size, "encode;dur=", strlen("encode;dur=")) != NULL,
          "%.*s", SLICE_ARG(timing));
    text_deinit(&raw);
    text_deinit(&message);
    end();
}

/* The same request by REST and its binary outputs: the same bits. */
TEST(grpc_answers_the_bits_of_rest)
{
    static const char body[] =
        "{\"parameters\":{\"binary_data_output\":true},\"inputs\":[{\"name\":\"text\",\"shape\":[2,1],"
        "\"datatype\":\"BYTES\",\"data\":[\"\",\"h\\u00e9llo\"]}]}";
    static const int64_t shape[] = { 2, 1 };
    struct text message, input, contents, raw;
    char *bits;

    if (!stage_up() || !stage_open())
        return;
    struct fake *fake = rest(METHOD_POST, "/v2/models/words/infer", slice_of(body));
    check(fake->status == 200, "%s", text_cstr(&fake->answer));
    struct slice length = fake_answer_header(fake, "inference-header-content-length");
    uint64_t json_size = 0;
    check_or_stop(slice_to_u64(length, &json_size), "no binary outputs");
    struct slice binary = slice_skip(text_slice(&fake->answer), json_size);
    bits = mem_alloc(binary.size + 1);
    memcpy(bits, binary.data, binary.size);
    binary = slice_make(bits, binary.size);
    text_init(&message, 1 << 16);
    text_init(&input, 1 << 16);
    text_init(&contents, 1 << 16);
    build_str(&message, 1, "words");
    build_input(&input, "text", "BYTES", 2, shape);
    build_str(&contents, 8, "");
    build_str(&contents, 8, "h\xc3\xa9llo");
    build_message(&input, 5, &contents);
    build_message(&message, 5, &input);
    fake = call(SERVICE "ModelInfer", text_slice(&message));
    check(code_of(fake) == OK, "%s", words_of(fake));
    check(slice_eq(fields_of(message_of(fake), 6, &raw), binary), "bits differ");
    mem_free(bits);
    text_deinit(&raw);
    text_deinit(&message);
    text_deinit(&input);
    text_deinit(&contents);
    end();
}

/* Large ones lie in bufs both ways. */
TEST(grpc_infers_large_tensors)
{
    enum { COUNT_OF = 200000 };
    static const int64_t shape[] = { COUNT_OF };
    struct text message, input, raw;
    float *values = mem_alloc(COUNT_OF * sizeof *values);

    require(values != NULL);
    for (size_t i = 0; i < COUNT_OF; i++)
        values[i] = (float)i / 3;
    if (!stage_up() || !stage_open())
        return;
    text_init(&message, 1 << 24);
    text_init(&input, 1 << 16);
    build_str(&message, 1, "identity");
    build_input(&input, "x", "FP32", 1, shape);
    build_message(&message, 5, &input);
    pb_text_bytes(&message, 7, slice_make(values, COUNT_OF * sizeof *values));
    for (int is_split = 0; is_split < 2; is_split++) {
        stage_drop_calls();
        struct fake *fake = make(SERVICE "ModelInfer", text_slice(&message));
        fake->piece = is_split ? 16384 : 0;
        stage_run();
        check(code_of(fake) == OK, "%s", words_of(fake));
        check(slice_eq(fields_of(message_of(fake), 6, &raw),
                       slice_make(values, COUNT_OF * sizeof *values)),
              "bits differ");
        text_deinit(&raw);
    }
    mem_free(values);
    text_deinit(&message);
    text_deinit(&input);
    end();
}

/* -- what is refused ----------------------------------------------------------------------------------- */

TEST(grpc_refusals)
{
    static const float three[] = { 1, 2, 3 };
    static const struct {
        struct asking asking;
        enum err_code code;
        const char *words, *field;
    } cases[] = {
        { { .model = "irs" }, E_NOT_FOUND, "Request for unknown model: 'irs' is not found", "" },
        { { .model = "" }, E_NOT_FOUND, "Request for unknown model: '' is not found", "" },
        { { .version = "7" }, E_NOT_FOUND, "version 7", "" },
        { { .version = "one" }, E_INVALID, "one", "model_version" },
        { { .input = "imput" }, E_INVALID, "it takes 'input'", "inputs[0].name" },
        { { .output = "lable" }, E_INVALID, "it gives 'label'", "outputs[0].name" },
        { { .datatype = "FP64" },
          E_INVALID,
          "input 'input' has datatype FP64",
          "inputs[0].datatype" },
        { { .columns = 3 }, E_INVALID, "unexpected shape for input 'input'", "inputs[0].shape" },
        { { .data = three, .size = sizeof three },
          E_INVALID,
          "input 'input' has 12 bytes; shape [1,4] of FP32 is 4 elements of 4 bytes",
          "raw_input_contents[0]" },
        { { .data = three, .size = 0 },
          E_INVALID,
          "input 'input' has 0 bytes",
          "raw_input_contents[0]" },
        { { .data = three, .size = sizeof three, .is_contents = true },
          E_INVALID,
          "3 elements",
          "inputs[0].contents" },
    };
    char field[64];

    if (!stage_up() || !stage_open())
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fake *fake = infer(SERVICE "ModelInfer", cases[i].asking);
        check_status(fake, cases[i].code, cases[i].words);
        check(strcmp(field_of(fake, field, sizeof field), cases[i].field) == 0, "%s: field '%s'",
              cases[i].words, field);
        check(fake->answer.size == 0, "a message beside the failure");
    }
    check_status(call(SERVICE "ModelInfer", slice_make("", 0)), E_NOT_FOUND, "unknown model");
    check_status(call(SERVICE "ModelInfer", slice_of("\xff\xff\xff")), E_INVALID, "");
    check_status(call(SERVICE "ModelInfer", slice_of("\x08\x01")), E_INVALID, "model_name");
    end();
}

TEST(grpc_says_what_there_is)
{
    static const struct {
        const char *path, *words;
    } cases[] = {
        { "/inference.GRPCInferenceServices/ModelInfer",
          "unknown service 'inference.GRPCInferenceServices'; there are: "
          "inference.GRPCInferenceService" },
        { "/inference.GRPCInferenceServices/ModelInfer",
          "did you mean 'inference.GRPCInferenceService'?" },
        { "/a.B/C", "unknown service 'a.B'; there are: " },
        { "/a.B/C", ", and penstock.models.<Model> of each model" },
        { SERVICE "ModelInfr",
          "service 'inference.GRPCInferenceService' has no method 'ModelInfr'; it has: ModelInfer" },
        { SERVICE "ModelInfr", "did you mean 'ModelInfer'?" },
        { "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelConfig",
          "has no method 'ModelConfig'" },
        { SERVICE "RepositoryModelLoad", "loads its models when it starts" },
        { SERVICE "RepositoryModelUnload", "loads its models when it starts" },
        { SERVICE "SystemSharedMemoryStatus",
          "client shared memory is not offered by this server; send tensors in raw_input_contents" },
        { SERVICE "SystemSharedMemoryRegister", "client shared memory is not offered" },
        { SERVICE "SystemSharedMemoryUnregister", "client shared memory is not offered" },
        { SERVICE "CudaSharedMemoryStatus", "client shared memory is not offered" },
        { SERVICE "CudaSharedMemoryRegister", "client shared memory is not offered" },
        { SERVICE "CudaSharedMemoryUnregister", "client shared memory is not offered" },
        { SERVICE "TraceSetting", "trace settings are not built yet" },
    };

    if (!stage_up() || !stage_open())
        return;
    for (size_t i = 0; i < COUNT(cases); i++)
        check_status(call(cases[i].path, slice_make("", 0)), E_UNIMPLEMENTED, cases[i].words);
    end();
}

/* Every method of the service in proto/ is listed, and no other. */
TEST(grpc_lists_every_method)
{
    const struct proto_schema *schema = proto_builtin();

    check_or_stop(schema != NULL, "no schema");
    for (size_t i = 0; grpc_services[i] != NULL; i++) {
        const struct grpc_service *service = grpc_services[i];
        const struct proto_service *described =
            proto_service_find(schema, service == &kserve_grpc_torch_service
                                           ? "inference.GRPCInferenceService"
                                           : service->name);
        check_or_stop(described != NULL, "%s is not in proto/", service->name);
        for (uint32_t k = 0; k < service->methods_count; k++) {
            bool is_there = false;
            for (uint32_t m = 0; m < proto_service_methods(described); m++)
                is_there |=
                    strcmp(proto_service_method(described, m).name, service->methods[k].name) == 0;
            check(is_there, "%s/%s", service->name, service->methods[k].name);
            check((service->methods[k].handle == NULL) == (service->methods[k].reason != NULL),
                  "%s: a handler or a reason", service->methods[k].name);
        }
        check(service == &kserve_grpc_torch_service ||
                  proto_service_methods(described) == service->methods_count,
              "%s: %u methods of %u", service->name, service->methods_count,
              proto_service_methods(described));
    }
}

TEST(grpc_takes_exactly_one_message)
{
    struct text message, body;

    if (!stage_up() || !stage_open())
        return;
    text_init(&message, 1 << 16);
    text_init(&body, 1 << 16);
    build(&message, (struct asking){ .id = "1" });
    for (int is_health = 0; is_health < 2; is_health++) {
        const char *path = is_health ? SERVICE "ServerLive" : SERVICE "ModelInfer";
        struct slice one = is_health ? slice_make("", 0) : text_slice(&message);
        stage_drop_calls();
        struct fake *none = make_framed(path, slice_make("", 0));
        stage_run();
        check_status(none, E_INTERNAL, "the call ended without a message");
        text_deinit(&body);
        text_init(&body, 1 << 16);
        put_frame(&body, one);
        put_frame(&body, one);
        stage_drop_calls();
        struct fake *two = make_framed(path, text_slice(&body));
        stage_run();
        check_status(two, E_INTERNAL, "a second message came");
        check(two->answer.size == 0, "an answer to the first");
    }
    text_deinit(&message);
    text_deinit(&body);
    end();
}

/* -- time, room, leaving ------------------------------------------------------------------------------ */

static bool stage_with_slow(const char *config)
{
    if (!stage_up())
        return false;
    stage_put_file("slow", "config.pbtxt", config);
    return stage_open();
}

#define SLOW_TENSORS                                      \
    "backend: \"echo\"\ninput [" TENSOR("x", "TYPE_FP32", \
                                        "-1") "]\noutput [" TENSOR("y", "TYPE_FP32", "-1") "]\n"

TEST(grpc_deadline_passes)
{
    struct text message;

    if (!stage_with_slow(SLOW_TENSORS DELAY("20000")))
        return;
    struct slice slow = slow_message(&message);
    struct fake *running = make(SERVICE "ModelInfer", slow);
    fake_header(running, "grpc-timeout", "30m");
    struct fake *open = make(SERVICE "ModelInfer", slow); /* it never says that it is through */
    fake_header(open, "grpc-timeout", "40m");
    open->is_open_ended = true;
    stage_run();
    check_status(running, E_DEADLINE, "");
    check_status(open, E_DEADLINE, "");
    check(engine_in_flight(stage_engine) == 0, "nothing runs on");
    text_deinit(&message);
    end();
}

TEST(grpc_queue_is_full)
{
    struct text message;
    struct fake *all[4];
    unsigned served = 0, refused = 0;

    if (!stage_with_slow(SLOW_TENSORS DELAY("300")))
        return;
    struct slice slow = slow_message(&message);
    for (size_t i = 0; i < COUNT(all); i++)
        all[i] = make(SERVICE "ModelInfer", slow);
    stage_run();
    for (size_t i = 0; i < COUNT(all); i++) {
        served += code_of(all[i]) == OK;
        if (code_of(all[i]) != OK) {
            check_status(all[i], E_UNAVAILABLE, "Exceeds maximum queue size");
            check(fake_answer_header(all[i], "grpc-status-details-bin").size != 0, "when to retry");
            refused++;
        }
    }
    check(served >= 1 && refused >= 1 && served + refused == COUNT(all), "%u served, %u refused",
          served, refused);
    text_deinit(&message);
    end();
}

TEST(grpc_who_leaves_frees_the_compute)
{
    struct text message;

    if (!stage_with_slow(SLOW_TENSORS DELAY("20000")))
        return;
    struct slice slow = slow_message(&message);
    struct fake *running = make(SERVICE "ModelInfer", slow);
    struct fake *reading = make(SERVICE "ModelInfer", slow);
    struct fake *asking = make(SERVICE "ServerLive", slow);
    running->gone_ms = 50;
    reading->piece = 5;
    reading->gone_at = 20;
    asking->piece = 5;
    asking->gone_at = 10;
    stage_run();
    check(running->status == 0 && reading->status == 0 && asking->status == 0, "no answers");
    check(engine_in_flight(stage_engine) == 0, "nothing runs on");
    text_deinit(&message);
    end();
}

TEST(grpc_decoupled_models_are_refused)
{
    struct text message;

    if (!stage_with_slow(
            SLOW_TENSORS MODE("repeat") "model_transaction_policy { decoupled: true }\n"))
        return;
    check_status(call(SERVICE "ModelInfer", slow_message(&message)), E_UNIMPLEMENTED,
                 "ModelInfer RPC doesn't support models with decoupled transaction policy");
    text_deinit(&message);
    end();
}

TEST(grpc_failures_of_models_are_told)
{
    struct text message;

    if (!stage_with_slow(
            SLOW_TENSORS MODE("fail") "parameters { key: \"text\" value { "
                                      "string_value: \"it hurts: \xc3\xa9 100%\" } }\n"))
        return;
    check_status(call(SERVICE "ModelInfer", slow_message(&message)), E_INTERNAL,
                 "it hurts: \xc3\xa9 100%");
    text_deinit(&message);
    end();
}

TEST(grpc_message_past_the_limit)
{
    if (!stage_up() || !stage_open())
        return;
    stage.api.grpc.message_bytes_max = 20;
    check_status(infer(SERVICE "ModelInfer", (struct asking){ .id = "1" }), E_EXHAUSTED,
                 "--max-message");
    end();
}

TEST(grpc_draining_server)
{
    if (!stage_up() || !stage_open())
        return;
    atomic_store(&stage.is_draining, true);
    check(message_of(call(SERVICE "ServerReady", slice_make("", 0))).size == 0, "not ready");
    check(slice_is(message_of(call(SERVICE "ServerLive", slice_make("", 0))), "\x08\x01"), "live");
    end();
}

/* -- what is said about models -------------------------------------------------------------------------- */

static struct slice ask_for(struct text *out, const char *name, const char *version)
{
    text_init(out, 1 << 16);
    if (name[0] != '\0')
        build_str(out, 1, name);
    if (version[0] != '\0')
        build_str(out, 2, version);
    return text_slice(out);
}

TEST(grpc_model_ready)
{
    static const struct {
        const char *name, *version;
        bool is_ready;
    } cases[] = {
        { "iris", "", true },   { "iris", "1", true }, { "iris", "2", false },
        { "iriss", "", false }, { "", "", false },
    };
    struct text message;

    if (!stage_up() || !stage_open())
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fake *fake =
            call(SERVICE "ModelReady", ask_for(&message, cases[i].name, cases[i].version));
        check(code_of(fake) == OK, "%s", words_of(fake));
        check(slice_is(message_of(fake), cases[i].is_ready ? "\x08\x01" : ""), "%s %s",
              cases[i].name, cases[i].version);
        text_deinit(&message);
    }
    check_status(call(SERVICE "ModelReady", ask_for(&message, "iris", "one")), E_INVALID, "one");
    text_deinit(&message);
    check_status(call(SERVICE "ModelReady", slice_of("\x08\x01")), E_INVALID,
                 "ModelReadyRequest: field 1 has wire type 0, which is no string");
    check_status(call(SERVICE "ModelReady", slice_of("\x0a\x02\xc3\x28")), E_INVALID,
                 "ModelReadyRequest: field 1 is not UTF-8");
    check_status(call(SERVICE "ModelReady", slice_of("\x0a\x09x")), E_INVALID, "ModelReadyRequest");
    end();
}

/* The message holds what REST's JSON says: by protobuf's own mapping, byte for byte. */
static void check_document(const char *method, const char *type_name, struct slice message,
                           const char *path, const char *before, const char *after)
{
    struct proto_arena *arena = proto_arena_new();
    const struct proto_schema *schema = proto_builtin();
    struct proto_message *expected;
    struct slice bytes;
    struct text json;
    struct err err = { 0 };

    struct fake *fake =
        rest(strstr(path, "index") != NULL ? METHOD_POST : METHOD_GET, path, slice_make("", 0));
    check(fake->status == 200, "%s: %u", path, fake->status);
    text_init(&json, 1 << 20);
    text_str(&json, before);
    text_slice_put(&json, text_slice(&fake->answer));
    text_str(&json, after);
    check(proto_from_json(&expected, arena, proto_type_find(schema, type_name), schema,
                          text_slice(&json), &err) == OK &&
              proto_encode(expected, &bytes, &err) == OK,
          "%s: %s", path, err.text);
    fake = call(method, message);
    check(code_of(fake) == OK, "%s: %s", method, words_of(fake));
    check(err.code == OK && bytes.size > 10 && slice_eq(message_of(fake), bytes), "%s", method);
    text_deinit(&json);
    proto_arena_free(&arena);
}

TEST(grpc_says_what_rest_says)
{
    struct text message;

    if (!stage_up() || !stage_open())
        return;
    infer(SERVICE "ModelInfer", (struct asking){ .id = "1" });
    check_document(SERVICE "ServerMetadata", "inference.ServerMetadataResponse", slice_make("", 0),
                   "/v2", "", "");
    check_document(SERVICE "ModelMetadata", "inference.ModelMetadataResponse",
                   ask_for(&message, "iris", ""), "/v2/models/iris", "", "");
    text_deinit(&message);
    check_document(SERVICE "ModelConfig", "inference.ModelConfigResponse",
                   ask_for(&message, "iris", "1"), "/v2/models/iris/config", "{\"config\":", "}");
    text_deinit(&message);
    check_document(SERVICE "ModelStatistics", "inference.ModelStatisticsResponse",
                   ask_for(&message, "iris", ""), "/v2/models/iris/stats", "", "");
    text_deinit(&message);
    check_document(SERVICE "ModelStatistics", "inference.ModelStatisticsResponse",
                   slice_make("", 0), "/v2/models/stats", "", "");
    check_document(SERVICE "RepositoryIndex", "inference.RepositoryIndexResponse",
                   slice_make("", 0), "/v2/repository/index", "{\"models\":", "}");
    end();
}

/* By the fields, as a client's stub reads them. */
TEST(grpc_documents_by_field)
{
    const struct proto_schema *schema = proto_builtin();
    struct proto_arena *arena = proto_arena_new();
    struct proto_message *got = NULL;
    struct text message;
    struct err err = { 0 };

    if (!stage_up() || !stage_open())
        return;
    infer(SERVICE "ModelInfer", (struct asking){ .id = "1" });
    infer(SERVICE "ModelInfer", (struct asking){ .columns = 3 });
    struct fake *fake = call(SERVICE "ModelStatistics", ask_for(&message, "iris", "1"));
    text_deinit(&message);
    check_or_stop(proto_decode(&got, arena,
                               proto_type_find(schema, "inference.ModelStatisticsResponse"),
                               message_of(fake), &err) == OK,
                  "%s", err.text);
    check_or_stop(proto_count(got, "model_stats") == 1, "one model");
    const struct proto_message *model = proto_message_at(got, "model_stats", 0);
    const struct proto_message *stats = proto_get_message(model, "inference_stats");
    check(slice_is(proto_get_str(model, "name"), "iris") &&
              slice_is(proto_get_str(model, "version"), "1") &&
              proto_get_u64(model, "inference_count") == 1 &&
              proto_get_u64(model, "execution_count") == 1 &&
              proto_get_u64(model, "last_inference") > 1600000000000,
          "counters");
    check(proto_get_u64(proto_get_message(stats, "success"), "count") == 1 &&
              proto_get_u64(proto_get_message(stats, "success"), "ns") > 0 &&
              proto_get_u64(proto_get_message(stats, "fail"), "count") == 1,
          "durations");

    fake = call(SERVICE "ModelMetadata", ask_for(&message, "iris", ""));
    text_deinit(&message);
    check_or_stop(proto_decode(&got, arena,
                               proto_type_find(schema, "inference.ModelMetadataResponse"),
                               message_of(fake), &err) == OK,
                  "%s", err.text);
    check(slice_is(proto_get_str(got, "name"), "iris") && proto_count(got, "versions") == 1 &&
              slice_is(proto_str_at(got, "versions", 0), "1") && proto_count(got, "inputs") == 1 &&
              proto_count(got, "outputs") == 2 &&
              slice_is(proto_get_str(proto_message_at(got, "inputs", 0), "datatype"), "FP32") &&
              proto_count(proto_message_at(got, "inputs", 0), "shape") == 2,
          "metadata");

    fake = call(SERVICE "ModelConfig", ask_for(&message, "iris", ""));
    text_deinit(&message);
    check_or_stop(proto_decode(&got, arena,
                               proto_type_find(schema, "inference.ModelConfigResponse"),
                               message_of(fake), &err) == OK,
                  "%s", err.text);
    const struct proto_message *config = proto_get_message(got, "config");
    check(slice_is(proto_get_str(config, "name"), "iris") &&
              slice_is(proto_get_str(config, "backend"), "echo") &&
              proto_count(config, "input") == 1 && proto_count(config, "output") == 2 &&
              proto_get_i64(proto_message_at(config, "input", 0), "data_type") == 11,
          "config");

    fake = call(SERVICE "RepositoryIndex", slice_of("\x10\x01"));
    check_or_stop(proto_decode(&got, arena,
                               proto_type_find(schema, "inference.RepositoryIndexResponse"),
                               message_of(fake), &err) == OK,
                  "%s", err.text);
    check(proto_count(got, "models") == 3 &&
              slice_is(proto_get_str(proto_message_at(got, "models", 0), "name"), "identity") &&
              slice_is(proto_get_str(proto_message_at(got, "models", 0), "state"), "READY"),
          "index");
    proto_arena_free(&arena);
    end();
}

TEST(grpc_documents_that_do_not_exist)
{
    struct text message;

    if (!stage_up() || !stage_open())
        return;
    static const char *const methods[] = { SERVICE "ModelMetadata", SERVICE "ModelConfig",
                                           SERVICE "ModelStatistics" };
    for (size_t i = 0; i < COUNT(methods); i++) {
        check_status(call(methods[i], ask_for(&message, "irs", "")), E_NOT_FOUND,
                     "Request for unknown model: 'irs' is not found");
        text_deinit(&message);
    }
    check_status(call(SERVICE "ModelStatistics", ask_for(&message, "iris", "9")), E_INVALID,
                 "requested model version is not available for model 'iris'");
    text_deinit(&message);
    check_status(call(SERVICE "RepositoryIndex", ask_for(&message, "elsewhere", "")),
                 E_UNIMPLEMENTED, "'repository_name' specification is not supported");
    text_deinit(&message);
    check_status(call(SERVICE "RepositoryIndex", slice_of("\x12\x01x")), E_INVALID,
                 "RepositoryIndexRequest: field 2 has wire type 2, which is no bool");
    end();
}

/* -- memory ------------------------------------------------------------------------------------------ */

TEST(grpc_small_calls_do_not_touch_the_heap)
{
    struct text message;

    if (!stage_up() || !stage_open())
        return;
    text_init(&message, 1 << 16);
    build(&message, (struct asking){ .id = "1" });
    static const char *const paths[] = { SERVICE "ModelInfer", SERVICE "ServerLive",
                                         SERVICE "ServerReady" };
    for (size_t i = 0; i < COUNT(paths); i++) {
        call(paths[i], text_slice(&message)); /* makes the plan */
        stage_drop_calls();
        struct fake *fake = make(paths[i], text_slice(&message));
        require(text_room(&fake->answer, 4096) != NULL && text_room(&fake->headers, 4096) != NULL);
        uint64_t before = mem_count();
        stage_run();
        check(mem_count() == before, "%s: %llu allocations", paths[i],
              (unsigned long long)(mem_count() - before));
        check(code_of(fake) == OK, "%s", words_of(fake));
    }
    text_deinit(&message);
    end();
}

TEST(grpc_calls_survive_every_fault)
{
    struct text infers, named;
    static const char *const paths[] = { SERVICE "ModelInfer",      SERVICE "ModelMetadata",
                                         SERVICE "ModelStatistics", SERVICE "ModelConfig",
                                         SERVICE "ModelNothing",    "/a.B/C" };

    if (!stage_up() || !stage_open())
        return;
    text_init(&infers, 1 << 16);
    build(&infers, (struct asking){ .id = "1", .is_contents = true });
    ask_for(&named, "iris", "");
    (void)proto_builtin(); /* made once, by whoever is first */
    stage.block_bytes = 1024;
    for (size_t i = 0; i < COUNT(paths); i++) {
        for_each_fault(nth) {
            fault_arm(0);
            stage_drop_calls();
            struct fake *fake = make(paths[i], text_slice(i == 0 ? &infers : &named));
            require(text_room(&fake->answer, 1 << 20) != NULL &&
                    text_room(&fake->headers, 4096) != NULL);
            fault_arm(nth);
            stage_run();
            bool fired = fault_fired();
            fault_arm(0);
            check(fake->is_aborted || fake->status == 200, "%s, fault %u: %u", paths[i], nth,
                  fake->status);
            check(fired || (code_of(fake) == OK) == (i < 4), "%s: %s", paths[i], words_of(fake));
            check(engine_in_flight(stage_engine) == 0, "%s, fault %u", paths[i], nth);
            if (!fired)
                break;
        }
    }
    fault_arm(0);
    text_deinit(&infers);
    text_deinit(&named);
    check(code_of(infer(SERVICE "ModelInfer", (struct asking){ .id = "1" })) == OK, "afterwards");
    end();
}
