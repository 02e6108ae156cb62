/* typed_stream_test.c - the streamed methods of penstock.models.<Service> over calls of memory, with the
 * real engine, repository and echo. SPDX-License-Identifier: Apache-2.0 */
#include "api/typed_stream.h"

#include <stdio.h>
#include <stdlib.h>

#include "api/fake_stage.h"
#include "api/grpc.h"
#include "api/grpc_answer_test.h"
#include "api/pb_build.h"
#include "base/mem.h"
#include "call/grpc_wire.h"
#include "codec/proto.h"
#include "engine/engine.h"
#include "repository/repository.h"
#include "test/harness.h"

enum { PIECES = 16, STREAM = 1600, OPTIONS = 1000, ROWS = 1001 };

/* -- what is sent --------------------------------------------------------------------------------- */

static struct text body, message;

static void begin(void)
{
    stage_drop_calls();
    text_deinit(&body);
    text_init(&body, 1 << 26);
    text_deinit(&message);
    text_init(&message, 1 << 24);
}

static void finish(void)
{
    stage_down();
    text_deinit(&body);
    text_deinit(&message);
    body = message = (struct text){ 0 };
}

/* The message that was built, as one more of the stream. */
static void add(void)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    grpc_prefix_put(prefix, false, (uint32_t)message.size);
    text_put(&body, prefix, sizeof prefix);
    text_slice_put(&body, text_slice(&message));
    message.size = 0;
}

static void put_float(uint32_t number, float value)
{
    uint8_t bytes[8];
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    text_put(&message, bytes, (size_t)(pb_put_i32(bytes, number, bits) - bytes));
}

static void put_iris(float first)
{
    static const float rest[] = { 0.25f, 0.125f, 0.0625f };

    put_float(1, first);
    for (uint32_t i = 0; i < COUNT(rest); i++)
        put_float(i + 2, rest[i]);
}

static void put_stream(uint64_t sequence, bool interrupts)
{
    struct text inner;

    text_init(&inner, 100);
    if (sequence != 0)
        pb_text_uint(&inner, 1, sequence);
    if (interrupts)
        pb_text_uint(&inner, 2, 1);
    build_message(&message, STREAM, &inner);
    text_deinit(&inner);
}

static void add_said(const char *text)
{
    build_str(&message, 1, text);
    add();
}

static struct fake *make(const char *path)
{
    struct fake *fake = stage_make(METHOD_POST, path, text_slice(&body));

    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    return fake;
}

static struct fake *call(const char *path)
{
    struct fake *fake = make(path);

    stage_run();
    return fake;
}

/* -- what came of it ------------------------------------------------------------------------------ */

/* The messages of the answer as JSON, one a line. */
static void put_answers(struct text *out, const struct fake *fake, const char *model)
{
    struct proto_schema *schema = NULL;
    struct typed_plan *plan = NULL;
    struct model *held = NULL;
    struct err err = { 0 };
    char type[200];
    struct slice rest = text_slice(&fake->answer);

    require(engine_want_model(stage_engine, &held, slice_of(model), slice_make("", 0), &err) == OK);
    require(typed_plan_new(&plan, model, model_signature(held), &err) == OK);
    require(proto_schema_new(&schema, &err) == OK);
    require(proto_schema_add(schema, typed_proto_file(plan), &err) == OK);
    snprintf(type, sizeof type, "%sPredictResponse", typed_proto_service(plan));
    while (rest.size >= GRPC_PREFIX_BYTES) {
        struct proto_arena *arena = proto_arena_new();
        struct proto_message *decoded = NULL;
        size_t size = grpc_prefix_get(rest.data).size;
        rest = slice_skip(rest, GRPC_PREFIX_BYTES);
        check_or_stop(size <= rest.size, "whole messages");
        enum err_code code = proto_decode(&decoded, arena, proto_type_find(schema, type),
                                          slice_first(rest, size), &err);
        if (code == OK)
            code = proto_to_json(decoded, schema, out, &err);
        check(code == OK, "%s", err.text);
        text_byte(out, '\n');
        rest = slice_skip(rest, size);
        proto_arena_free(&arena);
    }
    check(rest.size == 0, "%zu bytes behind the last message", rest.size);
    proto_schema_free(&schema);
    typed_plan_free(plan);
    model_unref(&held);
}

static void check_answers(const struct fake *fake, const char *model, const char *expected)
{
    struct text json;

    text_init(&json, 1 << 20);
    put_answers(&json, fake, model);
    check(slice_is(text_slice(&json), expected), "\n  got  %.*s\n  want %s",
          SLICE_ARG(text_slice(&json)), expected);
    text_deinit(&json);
}

#define SETOSA(p) "{\"label\":\"setosa\",\"probability\":" p

/* -- models --------------------------------------------------------------------------------------- */

#define DECOUPLED "model_transaction_policy { decoupled: true }\n"
#define ONE_FLOAT \
    "input [" TENSOR("x", "TYPE_FP32", "-1") "]\noutput [" TENSOR("y", "TYPE_FP32", "-1") "]\n"

static bool up(void)
{
    require(stage_up());
    stage_put_file("ticks", "config.pbtxt",
                   "backend: \"echo\"\n" MODE("repeat") DECOUPLED ONE_FLOAT
                   "parameters { key: \"count\" value { string_value: \"3\" } }\n");
    stage_put_file("none", "config.pbtxt",
                   "backend: \"echo\"\n" MODE("repeat") DECOUPLED ONE_FLOAT
                   "parameters { key: \"count\" value { string_value: \"0\" } }\n");
    stage_put_file("sums", "config.pbtxt", "backend: \"echo\"\n" MODE("accumulate") ONE_FLOAT);
    stage_put_file("many", "config.pbtxt",
                   "backend: \"echo\"\n" MODE("repeat") DECOUPLED ONE_FLOAT
                   "parameters { key: \"count\" value { string_value: \"1000\" } }\n");
    stage_put_file("quick", "config.pbtxt", "backend: \"echo\"\n" DELAY("1") ONE_FLOAT);
    stage_put_file(
        "chat", "config.pbtxt",
        "backend: \"echo\"\n" MODE("chat") "input [" TENSOR("text", "TYPE_STRING", "1") "]\noutput [" TENSOR(
            "said", "TYPE_STRING",
            "1") "]\nparameters { key: \"count\" value { string_value: \"2\" } }\n"
                 "parameters { key: \"greeting\" value { string_value: \"hello\" } }\n");
    stage_put_file("broken", "config.pbtxt", "backend: \"echo\"\n" MODE("fail") ONE_FLOAT);
    stage_put_file("slow", "config.pbtxt", "backend: \"echo\"\n" DELAY("30000") ONE_FLOAT);
    require(stage_open());
    begin();
    return true;
}

/* -- PredictStream -------------------------------------------------------------------------------- */

TEST(typed_stream_gives_each_answer)
{
    require(up());
    put_float(1, 2);
    add();
    check_answers(call("/penstock.models.Ticks/PredictStream"), "ticks",
                  "{\"y\":2.0,\"stream\":{\"sequence\":\"1\"}}\n"
                  "{\"y\":2.0,\"stream\":{\"sequence\":\"2\"}}\n"
                  "{\"y\":2.0,\"stream\":{\"sequence\":\"3\"}}\n");
    check_status(&stage.calls[0], OK, "");
    begin();
    put_float(1, 2);
    add();
    struct fake *fake = call("/penstock.models.None/PredictStream");
    check_status(fake, OK, "");
    check(fake->answer.size == 0, "no answers: %zu bytes", fake->answer.size);
    begin();
    put_iris(0.5f);
    put_stream(1, false);
    add();
    check_answers(call("/penstock.models.Iris/PredictStream"), "iris",
                  SETOSA("0.5") ",\"stream\":{\"sequence\":\"1\"}}\n");
    finish();
}

TEST(typed_stream_refuses)
{
    require(up());
    put_float(1, 2);
    put_stream(1, true);
    add();
    struct fake *fake = call("/penstock.models.Ticks/PredictStream");
    check_status(fake, E_INVALID, "stream.interrupt is for PredictSession");
    check_violation(fake, "stream.interrupt");
    begin();
    put_float(1, 2);
    put_stream(2, false);
    add();
    fake = call("/penstock.models.Ticks/PredictStream");
    check_status(fake, E_INVALID, "stream.sequence is 2; PredictStream takes one message");
    check_violation(fake, "stream.sequence");
    begin();
    add();
    fake = call("/penstock.models.Ticks/PredictStream");
    check_status(fake, E_INVALID, "field 'x' is missing");
    check_violation(fake, "x");
    begin();
    put_float(1, 2);
    add();
    put_float(1, 2);
    add();
    check_status(call("/penstock.models.Ticks/PredictStream"), E_INTERNAL, "second message");
    begin();
    check_status(call("/penstock.models.Ticks/PredictStream"), E_INTERNAL, "without a message");
    begin();
    put_float(1, 2);
    add();
    fake = make("/penstock.models.Ticks/PredictStream");
    fake_header(fake, "penstock-when-slow", "hurry");
    stage_run();
    check_status(fake, E_INVALID, "metadata penstock-when-slow is 'hurry'; it takes pause");
    begin();
    put_float(1, 2);
    add();
    check_status(call("/penstock.models.Broken/PredictStream"), E_INTERNAL, "");
    finish();
}

/* -- PredictSession ------------------------------------------------------------------------------- */

static void add_three(void)
{
    put_iris(0.5f);
    add();
    put_iris(1);
    put_stream(2, false);
    add();
    put_iris(2);
    put_stream(3, false);
    add();
}

static const char three[] =
    SETOSA("0.5") ",\"stream\":{\"sequence\":\"1\",\"input\":\"1\",\"is_last\":true}}\n" SETOSA(
        "1.0") ",\"stream\":{\"sequence\":\"2\",\"input\":\"2\",\"is_last\":true}}\n"
               "{\"label\":\"setosa\",\"probability\":2.0,\"stream\":{\"sequence\":\"3\",\"input\":\"3\",\"is_last\":true}}\n";

TEST(typed_session_answers_each_message)
{
    static const size_t pieces[] = { 0, 1, 7, 64 };

    require(up());
    for (size_t i = 0; i < COUNT(pieces); i++) {
        begin();
        add_three();
        struct fake *fake = make("/penstock.models.Iris/PredictSession");
        fake->piece = pieces[i];
        stage_run();
        check_status(fake, OK, "");
        check_answers(fake, "iris", three);
    }
    begin();
    struct fake *fake = call("/penstock.models.Iris/PredictSession");
    check_status(fake, OK, "");
    check(fake->answer.size == 0, "nothing was asked");
    finish();
}

TEST(typed_session_of_decoupled_models)
{
    require(up());
    put_float(1, 5);
    add();
    put_float(1, 6);
    add();
    struct fake *fake = call("/penstock.models.Ticks/PredictSession");
    check_status(fake, OK, "");
    check_answers(fake, "ticks",
                  "{\"y\":5.0,\"stream\":{\"sequence\":\"1\",\"input\":\"1\"}}\n"
                  "{\"y\":5.0,\"stream\":{\"sequence\":\"2\",\"input\":\"1\"}}\n"
                  "{\"y\":5.0,\"stream\":{\"sequence\":\"3\",\"input\":\"1\"}}\n"
                  "{\"stream\":{\"sequence\":\"4\",\"input\":\"1\",\"is_last\":true}}\n"
                  "{\"y\":6.0,\"stream\":{\"sequence\":\"5\",\"input\":\"2\"}}\n"
                  "{\"y\":6.0,\"stream\":{\"sequence\":\"6\",\"input\":\"2\"}}\n"
                  "{\"y\":6.0,\"stream\":{\"sequence\":\"7\",\"input\":\"2\"}}\n"
                  "{\"stream\":{\"sequence\":\"8\",\"input\":\"2\",\"is_last\":true}}\n");
    begin();
    put_float(1, 5);
    add();
    check_answers(call("/penstock.models.None/PredictSession"), "none",
                  "{\"stream\":{\"sequence\":\"1\",\"input\":\"1\",\"is_last\":true}}\n");
    finish();
}

/* Rows, and options: they hold until others come. */
TEST(typed_session_takes_rows_and_options)
{
    struct text row, options;

    require(up());
    text_init(&row, 1 << 16);
    text_init(&options, 1 << 16);
    add_said("a");
    build_str(&row, 1, "b");
    build_message(&message, ROWS, &row);
    build_str(&row, 1, "c");
    build_message(&message, ROWS, &row);
    add();
    struct fake *fake = call("/penstock.models.Words/PredictSession");
    check_status(fake, OK, "");
    check_answers(
        fake, "words",
        "{\"said\":\"a\",\"stream\":{\"sequence\":\"1\",\"input\":\"1\",\"is_last\":true}}\n"
        "{\"rows\":[{\"said\":\"b\"},{\"said\":\"c\"}],\"stream\":{\"sequence\":\"2\","
        "\"input\":\"2\",\"is_last\":true}}\n");
    begin();
    put_iris(0.5f);
    add();
    put_iris(0.5f);
    build_str(&options, 2, "label");
    build_message(&message, OPTIONS, &options);
    add();
    put_iris(0.5f);
    add();
    put_iris(0.5f);
    pb_text_uint(&options, 1, 1);
    build_message(&message, OPTIONS, &options);
    add();
    fake = call("/penstock.models.Iris/PredictSession");
    check_status(fake, OK, "");
    check_answers(
        fake, "iris",
        SETOSA("0.5") ",\"stream\":{\"sequence\":\"1\",\"input\":\"1\",\"is_last\":true}}\n"
                      "{\"label\":\"setosa\",\"stream\":{\"sequence\":\"2\",\"input\":\"2\",\"is_"
                      "last\":true}}\n"
                      "{\"label\":\"setosa\",\"stream\":{\"sequence\":\"3\",\"input\":\"3\",\"is_"
                      "last\":true}}\n"
                      "{\"top\":[" SETOSA(
                          "0.5") "}],\"stream\":{\"sequence\":\"4\",\"input\":\"4\","
                                 "\"is_last\":true}}\n");
    text_deinit(&row);
    text_deinit(&options);
    finish();
}

/* What came before a message that is refused is answered. */
TEST(typed_session_refuses_behind_the_answers)
{
    static const char one[] =
        SETOSA("0.5") ",\"stream\":{\"sequence\":\"1\",\"input\":\"1\",\"is_last\":true}}\n";
    static const struct {
        uint64_t sequence;
        float first;
        const char *words, *field;
    } rows[] = {
        { 3, 1,
          "message 2: stream.sequence is 3, and this is message 2 of the stream: 1 before it are "
          "missing",
          "stream.sequence" },
        { 1, 1, "stream.sequence is 1, and this is message 2 of the stream: 1 was there already",
          "stream.sequence" },
        { UINT64_MAX, 1, "stream.sequence is 18446744073709551615", "stream.sequence" },
        { 2, 510, "message 2: sepal_length is 510; it must be between 0 and 30 cm",
          "sepal_length" },
    };

    require(up());
    for (size_t i = 0; i < COUNT(rows); i++) {
        begin();
        put_iris(0.5f);
        put_stream(1, false);
        add();
        put_iris(rows[i].first);
        put_stream(rows[i].sequence, false);
        add();
        put_iris(0.5f); /* is not looked at */
        add();
        struct fake *fake = call("/penstock.models.Iris/PredictSession");
        check_status(fake, E_INVALID, rows[i].words);
        check_violation(fake, rows[i].field);
        check_answers(fake, "iris", one);
    }
    begin();
    put_iris(0.5f);
    add();
    text_str(&message, "\x0a\x05");
    add();
    struct fake *fake = call("/penstock.models.Iris/PredictSession");
    check_status(fake, E_INVALID, "message 2: the request is no protobuf message: byte 1");
    check_answers(fake, "iris", one);
    begin();
    put_iris(510);
    add();
    fake = call("/penstock.models.Iris/PredictSession");
    check_status(fake, E_INVALID, "sepal_length is 510");
    check(strstr(words_of(fake), "message") == NULL && fake->answer.size == 0, "%s",
          words_of(fake));
    /* Half a message. */
    begin();
    put_iris(0.5f);
    add();
    put_iris(0.5f);
    add();
    body.size -= 3;
    fake = call("/penstock.models.Iris/PredictSession");
    check(code_of(fake) == E_INTERNAL || code_of(fake) == E_INVALID, "%s", words_of(fake));
    /* One that is too large. */
    begin();
    put_iris(0.5f);
    add();
    text_put(&body, "\0\x7f\xff\xff\xff", 5);
    check_status(call("/penstock.models.Iris/PredictSession"), E_EXHAUSTED, "--max-message");
    /* A run that fails. */
    begin();
    put_float(1, 1);
    add();
    put_float(1, 1);
    add();
    fake = call("/penstock.models.Broken/PredictSession");
    check(code_of(fake) == E_INTERNAL, "%s", words_of(fake));
    check(fake->answer.size == 0, "an answer");
    finish();
}

TEST(typed_session_interrupts)
{
    require(up());
    /* What was pushed and not answered goes; echo runs at once, so the first is answered. */
    put_iris(0.5f);
    add();
    put_stream(2, true);
    add();
    put_iris(1);
    put_stream(3, true);
    add();
    struct fake *fake = call("/penstock.models.Iris/PredictSession");
    check_status(fake, OK, "");
    check_answers(
        fake, "iris",
        SETOSA("0.5") ",\"stream\":{\"sequence\":\"1\",\"input\":\"1\",\"is_last\":true}}\n"
                      "{\"stream\":{\"sequence\":\"2\",\"interrupted\":\"2\"}}\n"
                      "{\"stream\":{\"sequence\":\"3\",\"interrupted\":\"3\"}}\n" SETOSA(
                          "1.0") ",\"stream\":{\"sequence\":\"4\",\"input\":\"2\",\"is_last\":"
                                 "true}}\n");
    /* A model that runs for half a minute is stopped at once. */
    begin();
    put_float(1, 1);
    add();
    put_float(1, 2);
    add();
    put_stream(0, true);
    add();
    fake = call("/penstock.models.Slow/PredictSession");
    check_status(fake, OK, "");
    check_answers(fake, "slow", "{\"stream\":{\"sequence\":\"1\",\"interrupted\":\"3\"}}\n");
    finish();
}

/* More messages than pieces are taken: the rest is held back, and nothing is lost. */
TEST(typed_session_holds_messages_back)
{
    enum { MANY = 100 };
    struct text expected;

    require(up());
    text_init(&expected, 1 << 20);
    for (int i = 1; i <= MANY; i++) {
        put_float(1, (float)i);
        put_stream((uint64_t)i, false);
        add();
        text_printf(
            &expected,
            "{\"y\":%d.0,\"stream\":{\"sequence\":\"%d\",\"input\":\"%d\",\"is_last\":true}}\n", i,
            i, i);
    }
    struct fake *fake = call("/penstock.models.Quick/PredictSession");
    check_status(fake, OK, "");
    check_answers(fake, "quick", text_cstr(&expected));
    text_deinit(&expected);
    /* One that is held is refused in its turn, and interrupts at once. */
    begin();
    for (int i = 1; i <= MANY; i++) {
        put_float(1, (float)i);
        put_stream(i == MANY ? 1 : 0, false);
        add();
    }
    fake = call("/penstock.models.Quick/PredictSession");
    check_status(fake, E_INVALID, "message 100: stream.sequence is 1");
    begin();
    for (uint32_t i = 0; i < PIECES; i++) {
        put_float(1, 1);
        add();
    }
    put_float(1, 2);
    put_stream(0, true);
    add();
    put_stream(0, true);
    add();
    fake = call("/penstock.models.Slow/PredictSession");
    check_status(fake, OK, "");
    check_answers(fake, "slow",
                  "{\"stream\":{\"sequence\":\"1\",\"interrupted\":\"17\"}}\n"
                  "{\"stream\":{\"sequence\":\"2\",\"interrupted\":\"18\"}}\n");
    finish();
}

/* How many answers the answers say that they took the place of. */
static unsigned merged_of(const char *json)
{
    unsigned sum = 0;

    while ((json = strstr(json, "\"merged\":\"")) != NULL) {
        json += strlen("\"merged\":\"");
        sum += (unsigned)atoi(json);
    }
    return sum;
}

/* A reader that takes nothing pauses its own model: what is made meanwhile is bounded. */
TEST(typed_streams_of_slow_readers)
{
    static const char *const paths[] = { "/penstock.models.Many/PredictStream",
                                         "/penstock.models.Many/PredictSession" };

    require(up());
    for (size_t i = 0; i < COUNT(paths); i++) {
        begin();
        put_float(1, 1);
        add();
        struct fake *fake = make(paths[i]);
        fake->room = 200;
        fake->takes = 500;
        stage_run();
        check_status(fake, OK, "");
        /* Room, and 64 answers of 22 to 33 bytes. */
        check(fake->waiting_most > 200 && fake->waiting_most < 200 + 65 * 33,
              "%s: %zu bytes waited", paths[i], fake->waiting_most);
        check(fake->sends >= 1000, "%u answers", fake->sends);
        begin();
        put_float(1, 1);
        add();
        fake = make(paths[i]);
        fake->room = 200;
        fake->takes = 100;
        fake_header(fake, "penstock-when-slow", "latest");
        stage_run();
        check_status(fake, OK, "");
        check(fake->sends >= 4 && fake->sends <= 500, "%s: %u of 1000 answers", paths[i],
              fake->sends);
        struct text json;
        text_init(&json, 1 << 20);
        put_answers(&json, fake, "many");
        check(merged_of(text_cstr(&json)) + fake->sends >= 1000, "%u merged, %u sent\n%s",
              merged_of(text_cstr(&json)), fake->sends, text_cstr(&json));
        text_deinit(&json);
    }
    finish();
}

TEST(typed_session_begins)
{
    static const struct {
        const char *path, *key, *value;
        enum err_code code;
        const char *words;
    } rows[] = {
        { "/penstock.models.Iris/PredictSession", "model-version", "7", E_NOT_FOUND, "version 7" },
        { "/penstock.models.Iris/PredictCollect", "model-version", "x", E_NOT_FOUND, "" },
        { "/penstock.models.Iriss/PredictSession", "x", "y", E_UNIMPLEMENTED,
          "did you mean 'penstock.models.Iris'" },
        { "/penstock.models.Iris/PredictSessions", "x", "y", E_UNIMPLEMENTED,
          "it has: Predict, PredictStream, PredictCollect, PredictSession" },
        { "/penstock.models.Iris/PredictSession", "penstock-reduce", "sum", E_INVALID,
          "metadata penstock-reduce is 'sum'; it takes stack, last, each, or window(" },
        { "/penstock.models.Iris/PredictSession", "penstock-when-slow", "", E_INVALID,
          "metadata penstock-when-slow is ''" },
        { "/penstock.models.Iris/PredictSession", "penstock-when-slow", " latest ", OK, "" },
        { "/penstock.models.Iris/PredictSession", "penstock-reduce", "each", OK, "" },
    };

    require(up());
    for (size_t i = 0; i < COUNT(rows); i++) {
        begin();
        put_iris(0.5f);
        add();
        struct fake *fake = make(rows[i].path);
        fake_header(fake, rows[i].key, rows[i].value);
        stage_run();
        if (rows[i].code == E_NOT_FOUND && code_of(fake) == E_INVALID)
            continue; /* no number of a version */
        check_status(fake, rows[i].code, rows[i].words);
    }
    finish();
}

/* -- PredictCollect ------------------------------------------------------------------------------- */

TEST(typed_collect_folds)
{
    require(up());
    for (int i = 1; i <= 4; i++) {
        put_float(1, (float)i);
        put_stream((uint64_t)i, false);
        add();
    }
    struct fake *fake = make("/penstock.models.Sums/PredictCollect");
    fake_header(fake, "penstock-reduce", "each");
    stage_run();
    check_status(fake, OK, "");
    check_answers(fake, "sums", "{\"y\":10.0}\n");
    begin();
    fake = make("/penstock.models.Sums/PredictCollect");
    fake_header(fake, "penstock-reduce", "each");
    stage_run();
    check_status(fake, E_INVALID, "no message came: PredictCollect takes at least one");
    begin();
    put_float(1, 1);
    add();
    fake = make("/penstock.models.Ticks/PredictCollect");
    fake_header(fake, "penstock-reduce", "each");
    stage_run();
    check_status(fake, E_PRECONDITION, "call PredictSession");
    begin();
    put_float(1, 1);
    put_stream(1, true);
    add();
    fake = make("/penstock.models.Sums/PredictCollect");
    fake_header(fake, "penstock-reduce", "each");
    stage_run();
    check_status(fake, E_INVALID, "stream.interrupt is for PredictSession");
    finish();
}

static struct fake *collect(const char *path, const char *reduce)
{
    struct fake *fake = make(path);

    if (reduce != NULL)
        fake_header(fake, "penstock-reduce", reduce);
    stage_run();
    return fake;
}

static void check_model(const char *path, const char *words)
{
    stage_drop_calls();
    struct fake *fake = stage_make(METHOD_GET, path, slice_make("", 0));
    stage_run();
    struct text answer = fake->answer;
    check(strstr(text_cstr(&answer), words) != NULL, "%s: %s\n  lacks %s", path, text_cstr(&answer),
          words);
    fake->answer = answer;
}

TEST(typed_stream_models_say_how_they_stream)
{
    require(up());
    check_model("/models/ticks", ",\"streams\":{\"answers\":\"many\"},\"grpc\":");
    check_model("/models/chat",
                ",\"streams\":{\"answers\":\"many\",\"takes_stream\":true},\"grpc\":");
    check_model("/models/ticks", " penstock.models.Ticks/PredictStream\"");
    check_model("/models/iris", "],\"grpc\":{");
    check_model("/models/iris", " penstock.models.Iris/Predict\"");
    finish();
}

TEST(typed_collect_stacks)
{
    struct text row;

    require(up());
    text_init(&row, 1 << 16);
    add_said("a");
    build_str(&row, 1, "b");
    build_message(&message, ROWS, &row);
    build_str(&row, 1, "c");
    build_message(&message, ROWS, &row);
    add();
    add_said("d");
    struct text three_words = body;
    body = (struct text){ 0 };
    text_init(&body, 1 << 20);
    text_slice_put(&body, text_slice(&three_words));
    struct fake *fake = collect("/penstock.models.Words/PredictCollect", NULL);
    check_status(fake, OK, "");
    check_answers(
        fake, "words",
        "{\"rows\":[{\"said\":\"a\"},{\"said\":\"b\"},{\"said\":\"c\"},{\"said\":\"d\"}]}\n");
    begin();
    text_slice_put(&body, text_slice(&three_words));
    fake = collect("/penstock.models.Words/PredictCollect", "last");
    check_status(fake, OK, "");
    check_answers(fake, "words", "{\"rows\":[{\"said\":\"d\"}]}\n");
    begin();
    add_said("a");
    fake = collect("/penstock.models.Words/PredictCollect", NULL);
    check_answers(fake, "words", "{\"said\":\"a\"}\n");
    begin();
    fake = collect("/penstock.models.Words/PredictCollect", NULL);
    check_status(fake, E_INVALID, "no message came: PredictCollect takes at least one");
    /* What is refused ends it at once. */
    begin();
    put_iris(0.5f);
    add();
    put_iris(510);
    add();
    fake = collect("/penstock.models.Iris/PredictCollect", NULL);
    check_status(fake, E_INVALID, "message 2: sepal_length is 510");
    check(fake->answer.size == 0, "an answer");
    text_deinit(&three_words);
    text_deinit(&row);
    finish();
}

TEST(typed_streams_of_windows)
{
    require(up());
    for (int i = 1; i <= 5; i++) {
        put_float(1, (float)i);
        add();
    }
    struct text five = body;
    body = (struct text){ 0 };
    text_init(&body, 1 << 20);
    text_slice_put(&body, text_slice(&five));
    struct fake *fake = collect("/penstock.models.Identity/PredictSession", "window(2)");
    check_status(fake, OK, "");
    check_answers(
        fake, "identity",
        "{\"rows\":[{\"y\":1.0},{\"y\":2.0}],\"stream\":{\"sequence\":\"1\",\"input\":\"2\"}}\n"
        "{\"rows\":[{\"y\":3.0},{\"y\":4.0}],\"stream\":{\"sequence\":\"2\",\"input\":\"4\"}}\n");
    begin();
    text_slice_put(&body, text_slice(&five));
    fake = collect("/penstock.models.Identity/PredictSession", "window(3,2,1)");
    check_status(fake, OK, "");
    check_answers(
        fake, "identity",
        "{\"rows\":[{\"y\":0.0},{\"y\":1.0},{\"y\":2.0}],\"stream\":{\"sequence\":\"1\",\"input\":\"2\"}}\n"
        "{\"rows\":[{\"y\":2.0},{\"y\":3.0},{\"y\":4.0}],\"stream\":{\"sequence\":\"2\",\"input\":\"4\"}}\n");
    begin();
    text_slice_put(&body, text_slice(&five));
    fake = collect("/penstock.models.Identity/PredictCollect", "window(2)");
    check_status(fake, OK, "");
    check_answers(fake, "identity", "{\"rows\":[{\"y\":3.0},{\"y\":4.0}]}\n");
    begin();
    text_slice_put(&body, text_slice(&five));
    fake = collect("/penstock.models.Identity/PredictCollect", "window(6)");
    check_status(fake, E_PRECONDITION, "what came fills no window");
    text_deinit(&five);
    finish();
}

/* The server speaks first, each input is answered, an interruption stops what is being said. */
TEST(typed_session_of_a_model_that_speaks_first)
{
    require(up());
    struct fake *fake = call("/penstock.models.Chat/PredictSession");
    check_status(fake, OK, "");
    check_answers(fake, "chat", "{\"said\":\"hello\",\"stream\":{\"sequence\":\"1\"}}\n");
    begin();
    add_said("a");
    add_said("b");
    fake = call("/penstock.models.Chat/PredictSession");
    check_status(fake, OK, "");
    check_answers(fake, "chat",
                  "{\"said\":\"hello\",\"stream\":{\"sequence\":\"1\"}}\n"
                  "{\"said\":\"a\",\"stream\":{\"sequence\":\"2\",\"input\":\"1\"}}\n"
                  "{\"said\":\"a\",\"stream\":{\"sequence\":\"3\",\"input\":\"1\"}}\n"
                  "{\"stream\":{\"sequence\":\"4\",\"input\":\"1\",\"is_last\":true}}\n"
                  "{\"said\":\"b\",\"stream\":{\"sequence\":\"5\",\"input\":\"2\"}}\n"
                  "{\"said\":\"b\",\"stream\":{\"sequence\":\"6\",\"input\":\"2\"}}\n"
                  "{\"stream\":{\"sequence\":\"7\",\"input\":\"2\",\"is_last\":true}}\n");
    begin();
    add_said("a");
    check_status(call("/penstock.models.Chat/PredictCollect"), E_PRECONDITION,
                 "call PredictSession");
    finish();
}

/* -- words ---------------------------------------------------------------------------------------- */

static const struct {
    const char *text;
    bool is_right;
    enum session_reduce reduce;
    uint64_t window, step, pad;
} reduces[] = {
    { "each", true, SESSION_EACH, 0, 0, 0 },
    { " stack ", true, SESSION_STACK, 0, 0, 0 },
    { "last", true, SESSION_LAST, 0, 0, 0 },
    { "window(512)", true, SESSION_WINDOW, 512, 0, 0 },
    { "window(512,256)", true, SESSION_WINDOW, 512, 256, 0 },
    { "window( 512 , 256 , 64 )", true, SESSION_WINDOW, 512, 256, 64 },
    { "window(18446744073709551615,1,1)", true, SESSION_WINDOW, UINT64_MAX, 1, 1 },
    { "window(0)", false, SESSION_EACH, 0, 0, 0 },
    { "window()", false, SESSION_EACH, 0, 0, 0 },
    { "window(", false, SESSION_EACH, 0, 0, 0 },
    { "window", false, SESSION_EACH, 0, 0, 0 },
    { "window(1,2,3,4)", false, SESSION_EACH, 0, 0, 0 },
    { "window(1,)", false, SESSION_EACH, 0, 0, 0 },
    { "window(-1)", false, SESSION_EACH, 0, 0, 0 },
    { "window(1.5)", false, SESSION_EACH, 0, 0, 0 },
    { "window(18446744073709551616)", false, SESSION_EACH, 0, 0, 0 },
    { "window(1) x", false, SESSION_EACH, 0, 0, 0 },
    { "Stack", false, SESSION_EACH, 0, 0, 0 },
    { "", false, SESSION_EACH, 0, 0, 0 },
};

TEST(typed_stream_words_of_reduce)
{
    for (size_t i = 0; i < COUNT(reduces); i++) {
        struct session_settings to = { .reduce = SESSION_LAST, .window = 7, .step = 8, .pad = 9 };
        struct err err = { 0 };
        enum err_code code = typed_read_reduce(&to, slice_of(reduces[i].text), &err);
        check((code == OK) == reduces[i].is_right, "%s: %s", reduces[i].text, err.text);
        if (reduces[i].is_right)
            check(to.reduce == reduces[i].reduce && to.window == reduces[i].window &&
                      to.step == reduces[i].step && to.pad == reduces[i].pad,
                  "%s", reduces[i].text);
        else
            check(to.reduce == SESSION_LAST && to.window == 7 && to.step == 8 && to.pad == 9 &&
                      strstr(err.text, "it takes stack, last, each, or window(") != NULL,
                  "%s: %s", reduces[i].text, err.text);
    }
    struct session_settings to = { .reduce = SESSION_WINDOW, .window = 7 };
    check(typed_read_reduce(&to, slice_make(NULL, 0), NULL) == OK && to.window == 7,
          "nothing was said");
}

/* -- leaving, memory, faults ---------------------------------------------------------------------- */

TEST(typed_session_callers_leave)
{
    static const char *const paths[] = { "/penstock.models.Slow/PredictSession",
                                         "/penstock.models.Slow/PredictStream",
                                         "/penstock.models.Iris/PredictSession" };

    require(up());
    for (size_t i = 0; i < COUNT(paths); i++) {
        for (int64_t at = 0; at < 40; at += 13) {
            begin();
            if (i == 2)
                add_three();
            else
                put_float(1, 1), add();
            struct fake *fake = make(paths[i]);
            fake->is_open_ended = i != 1;
            if (at < 13)
                fake->gone_ms = 20;
            else
                fake->gone_at = at, fake->piece = 5, fake->gone_ms = 100;
            stage_run();
            check(engine_in_flight(stage_engine) == 0, "%s", paths[i]);
        }
    }
    finish();
}

TEST(typed_sessions_do_not_touch_the_heap_for_each_message)
{
    enum { MANY = 2000 };

    require(up());
    put_iris(0.5f);
    add();
    call("/penstock.models.Iris/PredictSession"); /* makes the plan */
    begin();
    for (int i = 0; i < MANY; i++) {
        put_iris(0.5f);
        add();
    }
    struct fake *fake = make("/penstock.models.Iris/PredictSession");
    require(text_room(&fake->answer, 1 << 20) != NULL && text_room(&fake->headers, 4096) != NULL);
    uint64_t before = mem_count();
    stage_run();
    uint64_t count = mem_count() - before;
    check_status(fake, OK, "");
    check(count < MANY / 20, "%llu allocations for %d messages", (unsigned long long)count, MANY);
    printf("# a session of %d messages: %llu allocations\n", MANY, (unsigned long long)count);
    finish();
}

TEST(typed_streams_survive_every_fault)
{
    static const char *const paths[] = {
        "/penstock.models.Iris/PredictSession", "/penstock.models.Iris/PredictStream",
        "/penstock.models.Iris/PredictCollect", "/penstock.models.Iris/PredictCollect",
        "/penstock.models.Iris/PredictSession",
    };
    static const char *const reduces_of[] = { "each", "each", "each", "stack", "window(2,1)" };

    require(up());
    put_iris(0.5f);
    add();
    call(paths[0]);
    stage.block_bytes = 1024; /* so that an arena asks the heap on the way */
    for (size_t i = 0; i < COUNT(paths); i++) {
        for_each_fault(nth) {
            fault_arm(0);
            begin();
            if (i == 1)
                put_iris(0.5f), add();
            else
                add_three();
            struct fake *fake = make(paths[i]);
            fake_header(fake, "penstock-reduce", reduces_of[i]);
            require(text_room(&fake->answer, 1 << 16) != NULL &&
                    text_room(&fake->headers, 4096) != NULL);
            fault_arm(nth);
            stage_run();
            bool fired = fault_fired();
            fault_arm(0);
            check(fake->is_aborted || fake->status == 200, "%s, fault %u: %u", paths[i], nth,
                  fake->status);
            check(fired || code_of(fake) == OK, "%s: %s", paths[i], words_of(fake));
            check(engine_in_flight(stage_engine) == 0, "%s, fault %u", paths[i], nth);
            if (!fired)
                break;
        }
    }
    fault_arm(0);
    begin();
    add_three();
    check_answers(call(paths[0]), "iris", three);
    finish();
}
