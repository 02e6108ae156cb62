/* typed_grpc_test.c - penstock.models.<Service>/Predict over calls of memory, with the real engine,
 * repository and echo; beside POST /models/{model}:predict to the same questions.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "api/fake_stage.h"
#include "api/grpc.h"
#include "api/grpc_answer_test.h"
#include "api/pb_build.h"
#include "base/mem.h"
#include "call/grpc_wire.h"
#include "codec/proto.h"
#include "contract/typed_proto.h"
#include "engine/engine.h"
#include "repository/repository.h"
#include "test/harness.h"

static struct text framed;

static struct fake *make(const char *path, struct slice message)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    stage_drop_calls();
    text_deinit(&framed);
    text_init(&framed, 1 << 24);
    grpc_prefix_put(prefix, false, (uint32_t)message.size);
    text_put(&framed, prefix, sizeof prefix);
    text_slice_put(&framed, message);
    struct fake *fake = stage_make(METHOD_POST, path, text_slice(&framed));
    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    return fake;
}

static struct fake *call(const char *path, struct slice message)
{
    struct fake *fake = make(path, message);

    stage_run();
    return fake;
}

static struct fake *rest(enum exchange_method method, const char *path, const char *body)
{
    stage_drop_calls();
    struct fake *fake = stage_make(method, path, slice_of(body));
    stage_run();
    return fake;
}

static void end(void)
{
    stage_down();
    text_deinit(&framed);
}

/* The answer of a model's service in the JSON form that a client would show. */
static void check_json(const struct fake *fake, const char *model, const char *expected)
{
    struct proto_schema *schema = NULL;
    struct proto_arena *arena = proto_arena_new();
    struct proto_message *message = NULL;
    struct model *held = NULL;
    struct err err = { 0 };
    struct text json;
    struct typed_plan *plan = NULL;
    char type[200];

    check_status(fake, OK, "");
    text_init(&json, 1 << 20);
    require(engine_want_model(stage_engine, &held, slice_of(model), slice_make("", 0), &err) == OK);
    require(typed_plan_new(&plan, model, model_signature(held), &err) == OK);
    require(proto_schema_new(&schema, &err) == OK);
    require(proto_schema_add(schema, typed_proto_file(plan), &err) == OK);
    snprintf(type, sizeof type, "%sPredictResponse", typed_proto_service(plan));
    struct slice answer = text_slice(&fake->answer);
    check(answer.size >= GRPC_PREFIX_BYTES &&
              grpc_prefix_get(answer.data).size == answer.size - GRPC_PREFIX_BYTES,
          "one message");
    enum err_code code =
        proto_decode(&message, arena, proto_type_find(schema, type),
                     slice_skip(answer, MIN(answer.size, (size_t)GRPC_PREFIX_BYTES)), &err);
    if (code == OK)
        code = proto_to_json(message, schema, &json, &err);
    check(code == OK && slice_is(text_slice(&json), expected), "%s\n  got  %.*s\n  want %s",
          err.text, SLICE_ARG(text_slice(&json)), expected);
    text_deinit(&json);
    proto_arena_free(&arena);
    proto_schema_free(&schema);
    typed_plan_free(plan);
    model_unref(&held);
}

#define IRIS "/penstock.models.Iris/Predict"

/* The four measures of a row. */
static struct slice iris_row(struct text *out, float first)
{
    static const float rest_of[] = { 0, 0.25f, 0.125f, 0.0625f };
    uint8_t bytes[8];

    for (uint32_t i = 0; i < 4; i++) {
        float value = i == 0 ? first : rest_of[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        text_put(out, bytes, (size_t)(pb_put_i32(bytes, i + 1, bits) - bytes));
    }
    return text_slice(out);
}

TEST(typed_grpc_is_the_twin_of_rest)
{
    struct text message, row;

    require(stage_up() && stage_open());
    text_init(&message, 1 << 16);
    text_init(&row, 1 << 16);
    struct fake *fake = rest(METHOD_POST, "/models/iris:predict", "[0.5,0.25,0.125,0.0625]");
    check(slice_is(text_slice(&fake->answer), "{\"label\":\"setosa\",\"probability\":0.5}\n"),
          "%.*s", SLICE_ARG(text_slice(&fake->answer)));
    check_json(call(IRIS, iris_row(&message, 0.5f)), "iris",
               "{\"label\":\"setosa\",\"probability\":0.5}");
    /* Rows, and the options of the query. */
    fake = rest(METHOD_POST, "/models/words:predict", "[{\"text\":\"a\"},{\"text\":\"\"}]");
    check(slice_is(text_slice(&fake->answer), "[{\"said\":\"a\"},{\"said\":\"\"}]\n"), "%.*s",
          SLICE_ARG(text_slice(&fake->answer)));
    message.size = 0;
    build_str(&row, 1, "a");
    build_message(&message, 1001, &row);
    build_str(&row, 1, "");
    build_message(&message, 1001, &row);
    check_json(call("/penstock.models.Words/Predict", text_slice(&message)), "words",
               "{\"rows\":[{\"said\":\"a\"},{\"said\":\"\"}]}");
    message.size = 0;
    pb_text_bytes(&message, 1000, slice_make("\x12\x05label", 7));
    iris_row(&message, 0.5f);
    check_json(call(IRIS, text_slice(&message)), "iris", "{\"label\":\"setosa\"}");
    message.size = 0;
    pb_text_bytes(&message, 1000, slice_make("\x08\x01", 2));
    iris_row(&message, 0.5f);
    fake = call(IRIS, text_slice(&message));
    check_json(fake, "iris", "{\"top\":[{\"label\":\"setosa\",\"probability\":0.5}]}");
    text_deinit(&message);
    text_deinit(&row);
    end();
}

TEST(typed_grpc_refuses)
{
    struct text message;

    require(stage_up() && stage_open());
    text_init(&message, 1 << 16);
    struct fake *fake = call(IRIS, slice_make("", 0));
    check_status(fake, E_INVALID, "field 'sepal_length' is missing");
    check_violation(fake, "sepal_length");
    fake = call(IRIS, iris_row(&message, 510));
    check_status(fake, E_INVALID, "sepal_length is 510; it must be between 0 and 30 cm");
    check_violation(fake, "sepal_length");
    check_status(call(IRIS, slice_make("\x0a\x05", 2)), E_INVALID, "is no protobuf message");
    check_status(call("/penstock.models.Iriss/Predict", slice_make("", 0)), E_UNIMPLEMENTED,
                 "no model is the service 'penstock.models.Iriss'; did you mean "
                 "'penstock.models.Iris'?");
    check_status(call("/penstock.models.Nothing/Predict", slice_make("", 0)), E_UNIMPLEMENTED,
                 "GET /models lists them");
    check_status(call("/penstock.models./Predict", slice_make("", 0)), E_UNIMPLEMENTED,
                 "no model is the service");
    check_status(
        call("/penstock.models.Iris/Foo", slice_make("", 0)), E_UNIMPLEMENTED,
        "service 'penstock.models.Iris' has no method 'Foo'; it has: Predict, PredictStream, PredictCollect, "
        "PredictSession");
    text_deinit(&message);
    end();
}

TEST(typed_grpc_takes_a_version)
{
    struct text message;

    require(stage_up() && stage_open());
    text_init(&message, 1 << 16);
    iris_row(&message, 0.5f);
    struct fake *fake = make(IRIS, text_slice(&message));
    fake_header(fake, "model-version", "1");
    stage_run();
    check_json(fake, "iris", "{\"label\":\"setosa\",\"probability\":0.5}");
    fake = make(IRIS, text_slice(&message));
    fake_header(fake, "model-version", "7");
    stage_run();
    check_status(fake, E_NOT_FOUND, "version 7");
    text_deinit(&message);
    end();
}

/* Who has a name does not depend on who was loaded first. */
TEST(typed_grpc_names_of_models)
{
    struct fake *fake;

    require(stage_up());
    stage_put_file("my-model", "config.pbtxt", stage_identity_config);
    stage_put_file("my_model", "config.pbtxt", stage_identity_config);
    stage_put_file("told", "config.pbtxt", stage_identity_config);
    stage_put_file("told", "model.yaml", "service: Identity\n");
    stage_put_file("twice", "config.pbtxt", stage_identity_config);
    stage_put_file("twice", "model.yaml", "service: Identity\n");
    stage_put_file("broken", "config.pbtxt", stage_identity_config);
    stage_put_file("broken", "model.yaml", "titel: x\n");
    stage_put_file("numbers", "config.pbtxt", stage_identity_config);
    stage_put_file("numbers", "model.yaml",
                   "inputs: {x: {number: 12}}\noutputs: {y: {number: 13}}\n");
    require(stage_open());
    static const struct {
        const char *model, *words;
    } rows[] = {
        { "my-model", "\"service\":\"penstock.models.MyModel\"" },
        { "my_model", "\"service\":\"penstock.models.MyModelX" },
        { "told", "\"service\":\"penstock.models.Identity\"" },
        { "identity", "\"service\":\"penstock.models.IdentityX" },
        { "numbers", "\"number\":12" },
        { "numbers", "\"number\":13" },
        { "twice", "model.yaml: service 'Identity' is what model 'told' says as well" },
        { "broken", "unknown key 'titel'" },
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char path[100];
        snprintf(path, sizeof path, "/models/%s", rows[i].model);
        fake = rest(METHOD_GET, path, "");
        struct text answer = fake->answer;
        check(strstr(text_cstr(&answer), rows[i].words) != NULL, "%s: %s\n  lacks %s",
              rows[i].model, text_cstr(&answer), rows[i].words);
        fake->answer = answer;
    }
    check_status(call("/penstock.models.Broken/Predict", slice_make("", 0)), E_UNAVAILABLE,
                 "unknown key 'titel'");
    /* x is field 12: 13 is what the answer has. */
    check_json(call("/penstock.models.Numbers/Predict", slice_make("\x65\0\0\x80\x3f", 5)),
               "numbers", "{\"y\":1.0}");
    end();
}

TEST(typed_grpc_numbers_are_checked_when_loaded)
{
    static const struct {
        const char *card, *words;
    } rows[] = {
        { "inputs: {x: {number: 0}}\n", "line 1, column 22: 'number' is 0; the number of a" },
        { "inputs: {x: {number: 1500}}\n", "but not 1000 to 1999 and not 19000 to 19999" },
        { "inputs: {x: {number: 1.5}}\n", "'number' is 1.5" },
        { "inputs: {x: {number: one}}\n", "'number' is expected to be a number" },
        { "inputs: {x: {features: [{name: a, number: 2}, {name: b}]}}\n",
          "2 features listed, but its last dimension is -1" },
        { "service: my-model\n", "'service' is expected to be a name such as MyModel" },
        { "service: SpamPredictRequest\n", "no PredictRequest or PredictResponse at its end" },
        { "service: [a]\n", "'service' is expected to be a text" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        require(stage_up());
        stage_put_file("m", "config.pbtxt", stage_identity_config);
        stage_put_file("m", "model.yaml", rows[i].card);
        require(stage_open());
        struct fake *fake = rest(METHOD_GET, "/models/m", "");
        struct text answer = fake->answer;
        check(fake->status == 503 && strstr(text_cstr(&answer), rows[i].words) != NULL,
              "%s: %u %s\n  lacks %s", rows[i].card, fake->status, text_cstr(&answer),
              rows[i].words);
        fake->answer = answer;
        end();
    }
    require(stage_up());
    stage_put_file("m", "config.pbtxt",
                   "backend: \"echo\"\n"
                   "input [" TENSOR("a", "TYPE_FP32", "-1") ", " TENSOR(
                       "b", "TYPE_FP32", "-1") "]\n"
                                               "output [" TENSOR("y", "TYPE_FP32", "-1") "]\n");
    stage_put_file("m", "model.yaml", "inputs: {b: {number: 1}}\n");
    require(stage_open());
    struct fake *fake = rest(METHOD_GET, "/models/m", "");
    struct text answer = fake->answer;
    check(fake->status == 503 && strstr(text_cstr(&answer), "would both be field number 1") != NULL,
          "%u %s", fake->status, text_cstr(&answer));
    fake->answer = answer;
    end();
}

TEST(typed_grpc_contract_can_be_downloaded)
{
    require(stage_up() && stage_open());
    struct fake *fake = rest(METHOD_GET, "/models/iris/contract.proto", "");
    struct text answer = fake->answer;
    check(fake->status == 200 &&
              slice_is(fake_answer_header(fake, "content-type"), "text/plain; charset=utf-8") &&
              strstr(text_cstr(&answer), "message IrisPredictRequest {") != NULL &&
              strstr(text_cstr(&answer), "optional float sepal_length = 1") != NULL &&
              strstr(text_cstr(&answer), "// Between 0 and 30 cm.") != NULL,
          "%u %s", fake->status, text_cstr(&answer));
    fake->answer = answer;
    fake = rest(METHOD_GET, "/models/iris/versions/1/contract.proto", "");
    check(fake->status == 200, "%u", fake->status);
    fake = rest(METHOD_GET, "/models/irys/contract.proto", "");
    check(fake->status == 404, "%u", fake->status);
    fake = rest(METHOD_GET, "/models/iris", "");
    answer = fake->answer;
    check(strstr(text_cstr(&answer),
                 "\"grpc\":{\"service\":\"penstock.models.Iris\",\"method\":\"Predict\",\"file\":"
                 "\"penstock/models/iris.proto\",\"streams\":{\"PredictStream\":\"answers\","
                 "\"PredictCollect\":\"requests\",\"PredictSession\":\"both\"}}") != NULL &&
              strstr(text_cstr(&answer), "\"contract\":\"/models/iris/contract.proto\"") != NULL &&
              strstr(text_cstr(&answer), "\"grpcurl\":\"grpcurl -plaintext -d '") != NULL &&
              strstr(text_cstr(&answer), " penstock.models.Iris/Predict\"") != NULL,
          "%s", text_cstr(&answer));
    fake->answer = answer;
    end();
}

/* A decoupled model may answer once as well. */
TEST(typed_grpc_predict_takes_one_answer)
{
    static const char config[] = "backend: \"echo\"\n" MODE(
        "repeat") "model_transaction_policy { decoupled: true }\n"
                  "input [" TENSOR("x", "TYPE_FP32", "-1") "]\n"
                                                           "output [" TENSOR("y", "TYPE_FP32",
                                                                             "-1") "]\n";
    char text[1024];

    require(stage_up());
    snprintf(text, sizeof text, "%sparameters { key: \"count\" value { string_value: \"1\" } }\n",
             config);
    stage_put_file("once", "config.pbtxt", text);
    snprintf(text, sizeof text, "%sparameters { key: \"count\" value { string_value: \"3\" } }\n",
             config);
    stage_put_file("thrice", "config.pbtxt", text);
    require(stage_open());
    struct slice one = slice_make("\x0d\0\0\x80\x3f", 5); /* x: 1 */
    check_json(call("/penstock.models.Once/Predict", one), "once", "{\"y\":1.0}");
    check_status(call("/penstock.models.Thrice/Predict", one), E_PRECONDITION,
                 "more than one answer, and Predict takes exactly one: call PredictStream");
    end();
}

TEST(typed_grpc_calls_do_not_touch_the_heap)
{
    struct text message;

    require(stage_up() && stage_open());
    text_init(&message, 1 << 16);
    iris_row(&message, 0.5f);
    call(IRIS, text_slice(&message)); /* makes the plan */
    struct fake *fake = make(IRIS, text_slice(&message));
    require(text_room(&fake->answer, 4096) != NULL && text_room(&fake->headers, 4096) != NULL);
    uint64_t before = mem_count();
    stage_run();
    check(mem_count() == before, "%llu allocations", (unsigned long long)(mem_count() - before));
    check_status(fake, OK, "");
    text_deinit(&message);
    end();
}

TEST(typed_grpc_calls_survive_every_fault)
{
    struct text message;
    static const char *const paths[] = { IRIS, "/penstock.models.Iriss/Predict",
                                         "/penstock.models.Iris/Nothing" };

    require(stage_up() && stage_open());
    text_init(&message, 1 << 16);
    iris_row(&message, 0.5f);
    stage.block_bytes = 1024; /* so that an arena asks the heap on the way */
    for (size_t i = 0; i < COUNT(paths); i++) {
        for_each_fault(nth) {
            fault_arm(0);
            struct fake *fake = make(paths[i], text_slice(&message));
            require(text_room(&fake->answer, 1 << 16) != NULL &&
                    text_room(&fake->headers, 4096) != NULL);
            fault_arm(nth);
            stage_run();
            bool fired = fault_fired();
            fault_arm(0);
            check(fake->is_aborted || fake->status == 200, "%s, fault %u: %u", paths[i], nth,
                  fake->status);
            check(fired || (code_of(fake) == OK) == (i == 0), "%s: %s", paths[i], words_of(fake));
            check(engine_in_flight(stage_engine) == 0, "%s, fault %u", paths[i], nth);
            if (!fired)
                break;
        }
    }
    fault_arm(0);
    check_json(call(IRIS, text_slice(&message)), "iris",
               "{\"label\":\"setosa\",\"probability\":0.5}");
    text_deinit(&message);
    end();
}
