/* session_call_test.c - penstock.v1.Inference over calls of memory, with the real engine, repository and
 * echo: what is said is protobuf's JSON here, and what comes is compared as such.
 * SPDX-License-Identifier: Apache-2.0 */
#include "api/session_call.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/fake_stage.h"
#include "base/mem.h"
#include "call/grpc_wire.h"
#include "codec/proto.h"
#include "engine/engine.h"
#include "test/harness.h"

#define PATH "/penstock.v1.Inference/"

static struct text body;
static struct proto_arena *messages;

static const struct proto_type *type_of(const char *name)
{
    char full[80];

    snprintf(full, sizeof full, "penstock.v1.%s", name);
    return proto_type_find(proto_builtin(), full);
}

static void begin(void)
{
    stage_drop_calls();
    text_deinit(&body);
    text_init(&body, 1 << 26);
    proto_arena_free(&messages);
    messages = proto_arena_new();
    require(messages != NULL);
}

static void finish(void)
{
    stage_down();
    text_deinit(&body);
    body = (struct text){ 0 };
    proto_arena_free(&messages);
}

static void add(const char *type, const char *json)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];
    struct proto_message *message = NULL;
    struct slice bytes = { NULL, 0 };
    struct err err = { 0 };

    if (proto_from_json(&message, messages, type_of(type), proto_builtin(), slice_of(json), &err) !=
            OK ||
        proto_encode(message, &bytes, &err) != OK) {
        fprintf(stderr, "%s: %s\n", json, err.text);
        abort();
    }
    grpc_prefix_put(prefix, false, (uint32_t)bytes.size);
    text_put(&body, prefix, sizeof prefix);
    text_slice_put(&body, bytes);
}

/* Messages of a session, NULL behind the last. */
static void add_session(const char *const *json)
{
    for (; *json != NULL; json++)
        add("SessionRequest", *json);
}

static struct fake *make(const char *method)
{
    static char path[80];

    snprintf(path, sizeof path, PATH "%s", method);
    struct fake *fake = stage_make(METHOD_POST, path, text_slice(&body));
    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    return fake;
}

static struct text seen;

/* All that came, a line each, and the status. */
static const char *heard(const struct fake *fake, const char *type)
{
    struct slice rest = text_slice(&fake->answer);
    struct text words;
    struct err err = { 0 };

    text_deinit(&seen);
    text_init(&seen, 1 << 24);
    while (rest.size >= GRPC_PREFIX_BYTES) {
        size_t size = grpc_prefix_get(rest.data).size;
        struct proto_message *message = NULL;
        rest = slice_skip(rest, GRPC_PREFIX_BYTES);
        require(size <= rest.size);
        enum err_code code =
            proto_decode(&message, messages, type_of(type), slice_first(rest, size), &err);
        require(code == OK && proto_to_json(message, proto_builtin(), &seen, &err) == OK);
        text_byte(&seen, '\n');
        rest = slice_skip(rest, size);
    }
    text_init(&words, 1 << 16);
    grpc_message_decode(&words, fake_answer_header(fake, "grpc-message"));
    text_str(&seen, "status ");
    text_slice_put(&seen, fake_answer_header(fake, "grpc-status"));
    text_str(&seen, " ");
    text_slice_put(&seen, text_slice(&words));
    text_deinit(&words);
    return text_cstr(&seen);
}

static const char *session(const char *const *json, size_t piece)
{
    begin();
    add_session(json);
    struct fake *fake = make("Session");
    fake->piece = piece;
    stage_run();
    return heard(fake, "SessionResponse");
}

static void check_has(const char *found, const char *words)
{
    require(found != NULL);
    check(strstr(found, words) != NULL, "%s\n  lacks %s", found, words);
}

#define BEGIN          "{\"begin\":{\"model\":\"identity\"}}"
#define INPUT(n)       "{\"input\":{\"inputs\":[{\"name\":\"x\",\"floats\":{\"values\":[" #n "]}}]}}"
#define OUTPUT(seq, n) "{\"sequence\":\"" #seq "\",\"output\":{\"input\":\"" #n "\",\"outputs\":[{"

static void up(void)
{
    require(stage_up());
    stage_put_file(
        "ticks", "config.pbtxt",
        "backend: \"echo\"\n" MODE(
            "repeat") "model_transaction_policy { decoupled: true }\ninput [" TENSOR("x", "TYPE_FP32",
                                                                                     "-1") "]\noutput ["
            TENSOR("y", "TYPE_FP32", "-1") "]\nparameters { key: \"count\" value { string_value: \"3\" } }\n");
    stage_put_file("chat", "config.pbtxt",
                   "backend: \"echo\"\n" MODE("chat") "input [" TENSOR(
                       "said", "TYPE_STRING", "1") "]\noutput [" TENSOR("answer", "TYPE_STRING", "1") "]\n"
                   "parameters { key: \"greeting\" value { string_value: \"hello\" } }\n");
    stage_put_file("sum", "config.pbtxt",
                   "backend: \"echo\"\ninput [" TENSOR("x", "TYPE_FP32", "-1") "," TENSOR(
                       "old", "TYPE_FP32", "1") "]\noutput [" TENSOR("y", "TYPE_FP32", "-1") "," TENSOR(
                       "new", "TYPE_FP32", "1") "]\n");
    stage_put_file("sum", "model.yaml",
                   "stream:\n  reduce: window\n  window: 2\n  step: 1\n  marks:\n"
                   "    - {name: high, output: y, on: 5, off: 3, hold: 1}\n  state: {old: new}\n");
    require(stage_open());
}

TEST(a_session_is_the_same_however_its_bytes_come)
{
    static const char *const said[] = { BEGIN, INPUT(1), "{\"input\":{\"id\":\"bad\",\"inputs\":[{\"name\":\"z\"}]}}",
                                        INPUT(2), "{\"finish\":{}}", NULL };
    char *whole;

    up();
    whole = mem_strdup(session(said, 0));
    check_has(whole, "{\"sequence\":\"1\",\"begun\":{\"model\":\"identity\",\"version\":\"1\",\"inputsAtOnce\":");
    check_has(whole, OUTPUT(2, 1));
    check_has(whole, "{\"sequence\":\"3\",\"answered\":{\"input\":\"2\",\"id\":\"bad\",\"code\":3,");
    check_has(whole, "\"field\":\"input.inputs[0].name\"}}");
    check_has(whole, OUTPUT(4, 3));
    check_has(whole, "\nstatus 0 ");
    for (size_t piece = 1; piece < 12; piece++) {
        const char *found = session(said, piece);
        check(strcmp(found, whole) == 0, "in pieces of %zu:\n%s\nnot\n%s", piece, found, whole);
    }
    mem_free(whole);
    finish();
}

TEST(a_window_with_state_and_marks)
{
    static const char *const said[] = { "{\"begin\":{\"model\":\"sum\"}}", INPUT(7), INPUT(1),
                                        "{\"input\":{\"inputs\":[{\"name\":\"x\",\"data\":[6,2,2]}]}}", NULL };

    up();
    const char *found = session(said, 0);
    /* windows: 7 1, 1 6, 6 2, 2 2 */
    check_has(found, "\"marks\":[{\"name\":\"high\",\"isStart\":true,\"score\":7.0}]");
    check_has(found, "\"marks\":[{\"name\":\"high\",\"row\":\"1\",\"score\":1.0}]");
    check_has(found, "\"marks\":[{\"name\":\"high\",\"isStart\":true,\"row\":\"2\",\"score\":6.0}]");
    check_has(found, "\"marks\":[{\"name\":\"high\",\"row\":\"3\",\"score\":2.0}]");
    check_has(found, "\nstatus 0 ");
    check(strstr(found, "\"new\"") == NULL, "state is the session's own: %s", found);
    finish();
}

TEST(the_model_speaks_first)
{
    static const char *const said[] = { "{\"begin\":{\"model\":\"chat\"}}",
                                        "{\"input\":{\"inputs\":[{\"name\":\"said\",\"data\":[\"you\"]}]}}", NULL };

    up();
    const char *found = session(said, 0);
    check_has(found, "{\"sequence\":\"2\",\"output\":{\"outputs\":[{\"name\":\"answer\"");
    check_has(found, "{\"sequence\":\"3\",\"output\":{\"input\":\"1\"");
    check_has(found, "\"answered\":{\"input\":\"1\"}");
    check_has(found, "\nstatus 0 ");
    finish();
}

TEST(collect_gives_one_answer)
{
    static const struct {
        const char *first, *words;
    } cases[] = {
        { "{\"model\":\"identity\",\"id\":\"c\"}", "\"shape\":[\"3\"],\"raw\":\"AACAPwAAAEAAAEBA\"" },
        { "{\"model\":\"identity\",\"reduce\":{\"kind\":\"LAST\"}}", "\"shape\":[\"1\"],\"raw\":\"AABAQA==\"" },
        { "{\"model\":\"identity\",\"reduce\":{\"kind\":\"EACH\"}}", "\"shape\":[\"1\"],\"raw\":\"AABAQA==\"" },
        { "{\"model\":\"ticks\",\"reduce\":{\"kind\":\"EACH\"}}", "\"raw\":\"AABAQA==\"" },
        { "{\"model\":\"ticks\"}", "status 9 model 'ticks' gives more than one answer" },
        { "{\"model\":\"identity\",\"reduce\":{\"kind\":\"WINDOW\",\"window\":\"9\"}}",
          "status 9 model 'identity' gave no answer" },
    };

    up();
    for (size_t i = 0; i < COUNT(cases); i++) {
        begin();
        add("InferRequest", cases[i].first);
        for (int n = 1; n <= 3; n++) {
            char json[100];
            snprintf(json, sizeof json, "{\"inputs\":[{\"name\":\"x\",\"floats\":{\"values\":[%d]}}]}", n);
            add("InferRequest", json);
        }
        struct fake *fake = make("InferCollect");
        stage_run();
        check_has(heard(fake, "InferResponse"), cases[i].words);
    }
    finish();
}

/* Large outputs stay where the model wrote them; large inputs are used where they came. */
TEST(large_tensors_both_ways)
{
    struct text json;

    up();
    begin();
    text_init(&json, 1 << 24);
    text_str(&json, "{\"inputs\":[{\"name\":\"x\",\"floats\":{\"values\":[0");
    for (int i = 1; i < 30000; i++)
        text_printf(&json, ",%d", i);
    text_str(&json, "]}}]}");
    add("SessionRequest", BEGIN);
    char *input = mem_alloc(json.size + 20);
    snprintf(input, json.size + 20, "{\"input\":%s}", text_cstr(&json));
    add("SessionRequest", input);
    add("SessionRequest", input);
    struct fake *fake = make("Session");
    stage_run();
    const char *found = heard(fake, "SessionResponse");
    check_has(found, "\"shape\":[\"30000\"]");
    check_has(found, OUTPUT(3, 2));
    check_has(found, "\nstatus 0 ");
    check(fake->answer.size > 240000, "%zu bytes", fake->answer.size);
    mem_free(input);
    text_deinit(&json);
    finish();
}

/* The caller leaves behind any byte; all of it is given back (stage_down looks). */
TEST(who_leaves_at_any_byte_leaves_nothing)
{
    static const char *const said[] = { BEGIN, INPUT(1), "{\"interrupt\":{}}", INPUT(2), "{\"finish\":{}}",
                                        NULL };

    up();
    begin();
    add_session(said);
    size_t size = body.size;
    for (size_t at = 0; at <= size; at++) {
        begin();
        add_session(said);
        struct fake *fake = make("Session");
        fake->gone_at = (int64_t)at;
        fake->piece = 3;
        stage_run();
        check(engine_in_flight(stage_engine) == 0, "at %zu", at);
    }
    finish();
}

/* Half a message: the call ends with a status, whatever was answered before. */
TEST(a_stream_that_is_cut_ends_with_a_status)
{
    static const char *const said[] = { BEGIN, INPUT(1), NULL };

    up();
    begin();
    add_session(said);
    size_t size = body.size;
    for (size_t cut = 0; cut < size; cut++) {
        begin();
        add_session(said);
        body.size = cut;
        struct fake *fake = make("Session");
        stage_run();
        const char *found = heard(fake, "SessionResponse");
        check(strstr(found, "status ") != NULL && strstr(found, "status 1 ") == NULL, "%zu: %s", cut,
              found);
    }
    finish();
}

TEST(calls_survive_every_fault)
{
    static const struct {
        const char *method, *type;
        const char *said[7];
    } calls[] = {
        { "Infer", "InferRequest",
          { "{\"model\":\"identity\",\"id\":\"i\",\"inputs\":[{\"name\":\"x\",\"floats\":{\"values\":[1]}}]}" } },
        { "InferStream", "InferRequest",
          { "{\"model\":\"ticks\",\"inputs\":[{\"name\":\"x\",\"data\":[1]}],\"parameters\":{\"k\":{\"int64Value\":\"1\"}}}" } },
        { "InferCollect", "InferRequest",
          { "{\"model\":\"identity\",\"inputs\":[{\"name\":\"x\",\"floats\":{\"values\":[1]}}]}",
            "{\"inputs\":[{\"name\":\"x\",\"floats\":{\"values\":[1]}}]}" } },
        { "InferCollect", "InferRequest",
          { "{\"model\":\"ticks\",\"reduce\":{\"kind\":\"EACH\"},\"inputs\":[{\"name\":\"x\",\"data\":[1]}]}" } },
        { "Session", "SessionRequest",
          { BEGIN, INPUT(1), "{\"input\":{\"id\":\"a\",\"inputs\":[{\"name\":\"x\",\"data\":[1]}]}}",
            "{\"input\":{}}", "{\"interrupt\":{}}", "{\"finish\":{}}" } },
        { "Session", "SessionRequest", { "{\"begin\":{\"model\":\"sum\"}}", INPUT(1), INPUT(9), INPUT(1) } },
        { "Session", "SessionRequest", { "{\"begin\":{\"model\":\"chat\",\"credit\":\"1\"}}", "{\"grant\":{\"responses\":\"5\"}}" } },
    };

    up();
    stage.block_bytes = 64;
    for (size_t i = 0; i < COUNT(calls); i++) {
        for_each_fault(nth) {
            fault_arm(0);
            begin();
            for (const char *const *json = calls[i].said; *json != NULL; json++)
                add(calls[i].type, *json);
            struct fake *fake = make(calls[i].method);
            fault_arm(nth);
            stage_run();
            bool fired = fault_fired();
            fault_arm(0);
            check(fake->is_aborted || fake->status == 200, "%s, fault %u: %u", calls[i].method, nth,
                  fake->status);
            check(engine_in_flight(stage_engine) == 0, "%s, fault %u", calls[i].method, nth);
            if (!fired)
                break;
            check(nth < 5000, "%s never ends", calls[i].method);
        }
    }
    fault_arm(0);
    finish();
}
