/* infer_stream_test.c - answers of many responses over a transport of memory, with the real engine.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The model is echo's `repeat`: it answers `count` times, `delay_ms` apart, with what it was given.
 */
#include <stdio.h>

#include "api/fake_stage.h"
#include "api/infer.h"
#include "api/resume.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "io/env.h"
#include "repository/repository.h"
#include "test/harness.h"

#define REPEAT(count)                                                         \
    "backend: \"echo\"\nmodel_transaction_policy { decoupled: true }\n" MODE( \
        "repeat") "parameters { key: \"count\" value { string_value: \"" count "\" } }\n"

static const char tokens[] =
    REPEAT("3") "input [" TENSOR("text", "TYPE_STRING",
                                 "1") "]\noutput [" TENSOR("token", "TYPE_STRING", "1") "]\n";
static const char numbers[] =
    REPEAT("2") "input [" TENSOR("x", "TYPE_FP32", "-1, 2") "]\noutput [" TENSOR("y", "TYPE_FP32",
                                                                                 "-1, 2") "]\n";

static bool up(void)
{
    if (!stage_up())
        return false;
    stage_put_file("tokens", "config.pbtxt", tokens);
    stage_put_file("numbers", "config.pbtxt", numbers);
    stage_put_file(
        "fail", "config.pbtxt",
        "backend: \"echo\"\n" MODE("fail") "input [" TENSOR("x", "TYPE_FP32", "1") "]\noutput [" TENSOR(
            "y", "TYPE_FP32",
            "1") "]\n"
                 "parameters { key: \"code\" value { string_value: \"UNAVAILABLE\" } }\n");
    stage_put_file("slow", "config.pbtxt",
                   "backend: \"echo\"\n" DELAY("300") "input [" TENSOR(
                       "x", "TYPE_FP32", "1") "]\noutput [" TENSOR("y", "TYPE_FP32", "1") "]\n");
    return stage_open();
}

static struct fake *make(const char *path, const char *accept, const char *body)
{
    struct fake *fake = stage_make(METHOD_POST, path, slice_of(body));

    if (accept != NULL)
        fake_header(fake, "accept", accept);
    return fake;
}

static struct fake *call(const char *path, const char *accept, const char *body)
{
    stage_drop_calls();
    struct fake *fake = make(path, accept, body);
    stage_run();
    return fake;
}

static const char *answer_of(struct fake *fake)
{
    return text_cstr(&fake->answer);
}

static unsigned count_of(struct fake *fake, const char *what)
{
    const char *at = answer_of(fake);
    unsigned count = 0;

    while ((at = strstr(at, what)) != NULL) {
        count++;
        at += strlen(what);
    }
    return count;
}

static bool has_type(const struct fake *fake, const char *type)
{
    return slice_is(fake_answer_header(fake, "content-type"), type);
}

#define SSE_TYPE "text/event-stream; charset=utf-8"
#define SSE      "text/event-stream"
#define NDJSON   "application/x-ndjson"
#define X                                                                                   \
    "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2.5]}]" \
    ",\"id\":\"7\"}"
#define Y                                                                                      \
    "{\"id\":\"7\",\"model_name\":\"numbers\",\"model_version\":\"1\",\"outputs\":[{\"name\":" \
    "\"y\",\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1.0,2.5]}]}"
#define TOKEN(text) "{\"model_name\":\"tokens\",\"model_version\":\"1\",\"token\":\"" text "\"}"

/* -- the forms ------------------------------------------------------------------------------------- */

TEST(each_route_streams_in_its_form)
{
    static const struct {
        const char *path, *accept, *body, *type, *answer;
    } cases[] = {
        { "/v2/models/tokens/generate_stream", NULL, "{\"text\":\"hi\"}", SSE_TYPE,
          "data: " TOKEN("hi") "\n\ndata: " TOKEN("hi") "\n\ndata: " TOKEN("hi") "\n\n" },
        { "/v2/models/tokens/versions/1/generate_stream", "*/*",
          "{\"text\":[\"\\\"\"],\"count\":1}", SSE_TYPE, "data: " TOKEN("\\\"") "\n\n" },
        { "/v2/models/tokens/generate_stream", NDJSON,
          "{\"text\":\"hi\",\"parameters\":{\"count\":2}}", NDJSON,
          TOKEN("hi") "\n" TOKEN("hi") "\n" },
        { "/v2/models/tokens/generate_stream", NULL, "{\"text\":\"hi\",\"count\":0}", SSE_TYPE,
          "" },
        { "/v2/models/tokens/generate_stream?when_slow=latest&x=y", NULL,
          "{\"text\":\"hi\",\"count\":1}", SSE_TYPE, "data: " TOKEN("hi") "\n\n" },
        { "/v2/models/tokens/generate", NULL, "{\"text\":\"hi\",\"count\":1}", "application/json",
          TOKEN("hi") },
        { "/v2/models/numbers/infer", SSE, X, SSE_TYPE, "data: " Y "\n\ndata: " Y "\n\n" },
        { "/v2/models/numbers/infer", NDJSON, X, NDJSON, Y "\n" Y "\n" },
        { "/v2/models/numbers/infer_stream", NULL, X, SSE_TYPE, "data: " Y "\n\ndata: " Y "\n\n" },
        { "/v2/models/numbers/versions/1/infer_stream", NDJSON, X, NDJSON, Y "\n" Y "\n" },
        { "/models/numbers:predict", SSE, "{\"x\":[1,2.5]}", SSE_TYPE,
          "data: {\"y\":[1.0,2.5]}\n\ndata: {\"y\":[1.0,2.5]}\n\n" },
        { "/models/numbers:predict?when_slow=concat&precision=1", NDJSON, "{\"x\":[[1,2.5],[3,4]]}",
          NDJSON,
          "[{\"y\":[1.0,2.0]},{\"y\":[3.0,4.0]}]\n[{\"y\":[1.0,2.0]},{\"y\":[3.0,4.0]}]\n" },
        { "/models/tokens:predict", SSE ";q=0.9, application/json;q=0.1", "{\"text\":\"a\\nb\"}",
          SSE_TYPE,
          "data: {\"token\":\"a\\nb\"}\n\ndata: {\"token\":\"a\\nb\"}\n\ndata: "
          "{\"token\":\"a\\nb\"}\n\n" },
        /* Models that give one answer stream that one. */
        { "/models/slow:predict", SSE, "{\"x\":3}", SSE_TYPE, "data: {\"y\":3.0}\n\n" },
        /* And of rows one after the other. */
        { "/models/identity:predict", SSE, "{\"x\":[3,4]}", SSE_TYPE,
          "data: {\"y\":3.0}\n\ndata: {\"y\":4.0}\n\n" },
        { "/v2/models/identity/generate_stream", NULL, "{\"x\":[3,4]}", SSE_TYPE,
          "data: {\"model_name\":\"identity\",\"model_version\":\"1\",\"y\":[3.0,4.0]}\n\n" },
        { "/v2/models/identity/generate", NULL, "{\"x\":3}", "application/json",
          "{\"model_name\":\"identity\",\"model_version\":\"1\",\"y\":3.0}" },
    };
    if (!up())
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fake *fake = call(cases[i].path, cases[i].accept, cases[i].body);
        check(fake->status == 200 && has_type(fake, cases[i].type), "%s: %u %.*s", cases[i].path,
              fake->status, SLICE_ARG(fake_answer_header(fake, "content-type")));
        check(strcmp(answer_of(fake), cases[i].answer) == 0, "%s: %s", cases[i].path,
              answer_of(fake));
        check((fake->answer_size == -1) == (strcmp(cases[i].type, "application/json") != 0),
              "%s: size %lld", cases[i].path, (long long)fake->answer_size);
    }
    stage_down();
}

TEST(what_fails_before_the_first_response_is_no_stream)
{
    static const struct {
        const char *path, *accept, *body, *words;
        uint16_t status;
    } cases[] = {
        { "/v2/models/nobody/generate_stream", NULL, "{}", "Request for unknown model", 404 },
        { "/v2/models/tokens/generate_stream", NULL, "{", "{\"error\":\"", 400 },
        { "/v2/models/tokens/generate_stream", NULL, "{}", "expected 1 inputs but got 0", 400 },
        { "/v2/models/tokens/generate_stream?when_slow=stop", NULL, "{\"text\":\"a\"}",
          "when_slow is 'stop'; it takes pause", 400 },
        { "/v2/models/tokens/generate_stream?when_slow", NULL, "{\"text\":\"a\"}",
          "when_slow is ''; it takes pause", 400 },
        { "/v2/models/tokens/generate_stream", NULL, "{\"text\":\"a\",\"when_slow\":\"never\"}",
          "when_slow is 'never'", 400 },
        { "/v2/models/tokens/generate", NULL, "{\"text\":\"a\"}",
          "{\"error\":\"generate expects model to produce exactly 1 response, use generate stream for "
          "model that generates various number of responses\"}",
          500 },
        { "/v2/models/tokens/generate", NULL, "{\"text\":\"a\",\"count\":0}",
          "generate expects model to produce exactly 1 response", 500 },
        { "/v2/models/tokens/generate", NULL, "{\"text\":\"a\",\"count\":1000000000}",
          "generate expects model to produce exactly 1 response", 500 },
        { "/v2/models/tokens/infer", NULL, "{}", "decoupled transaction policy", 501 },
        { "/v2/models/tokens/infer", "*/*", "{}", "accept: text/event-stream", 501 },
        { "/v2/models/numbers/infer", SSE, "{\"inputs\":[]}", "input 'x' is missing", 400 },
        { "/v2/models/numbers/infer_stream", NULL,
          "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2]}],"
          "\"parameters\":{\"binary_data_output\":true}}",
          "output 'y' is asked for in binary, but the events of a stream are JSON", 400 },
        { "/models/tokens:predict", NULL, "{\"text\":\"a\"}",
          "ask for a stream of them with the header 'accept: text/event-stream'", 501 },
        { "/models/tokens:predict", SSE, "{\"txet\":\"a\"}", "INVALID_ARGUMENT", 400 },
        { "/models/tokens:predict?when_slow=x", SSE, "{\"text\":\"a\"}", "when_slow is 'x'", 400 },
        { "/models/tokens:predict?when_slow=latest&tpo=1", SSE, "{\"text\":\"a\"}",
          "unknown query parameter 'tpo'", 400 },
        { "/v2/models/fail/generate_stream", NULL, "{\"x\":1}",
          "{\"error\":\"this model fails on purpose\"}", 503 },
        { "/v2/models/fail/generate", NULL, "{\"x\":1}", "this model fails on purpose", 503 },
        { "/models/fail:predict", NDJSON, "{\"x\":1}",
          "{\"error\":{\"code\":\"UNAVAILABLE\",\"message\":\"this model fails on purpose\"", 503 },
    };
    if (!up())
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fake *fake = call(cases[i].path, cases[i].accept, cases[i].body);
        check(fake->status == cases[i].status && has_type(fake, "application/json"), "%s %s: %u %s",
              cases[i].path, cases[i].body, fake->status, answer_of(fake));
        check(strstr(answer_of(fake), cases[i].words) != NULL, "%s: %s", cases[i].path,
              answer_of(fake));
    }
    stage_down();
}

TEST(lines_to_paste_ask_for_a_stream)
{
    if (!up())
        return;
    struct fake *fake = stage_make(METHOD_GET, "/models/tokens", slice_make("", 0));
    stage_run();
    check(strstr(answer_of(fake), "curl -N http://localhost:8000/models/tokens:predict -H 'accept: "
                                  "text/event-stream' -d '") != NULL,
          "%s", answer_of(fake));
    stage_drop_calls();
    fake = stage_make(METHOD_GET, "/models/identity", slice_make("", 0));
    stage_run();
    check(strstr(answer_of(fake), "curl http://localhost:8000/models/identity:predict -d '") !=
              NULL,
          "%s", answer_of(fake));
    stage_down();
}

/* -- time ------------------------------------------------------------------------------------------- */

TEST(a_deadline_before_the_first_is_a_status_and_then_an_event)
{
    if (!up())
        return;
    struct fake *fake = make("/v2/models/slow/generate_stream", NULL, "{\"x\":1}");
    fake_header(fake, "x-request-timeout-ms", "30");
    stage_run();
    check(fake->status == 504 && strstr(answer_of(fake), "Request timeout expired") != NULL,
          "%u: %s", fake->status, answer_of(fake));

    stage_drop_calls();
    fake = make("/v2/models/tokens/generate_stream", NULL,
                "{\"text\":\"a\",\"count\":1000,\"delay_ms\":10}");
    fake_header(fake, "x-request-timeout-ms", "200");
    stage_run();
    check(fake->status == 200 && count_of(fake, TOKEN("a")) >= 2 && !fake->is_aborted, "%u: %s",
          fake->status, answer_of(fake));
    const char *last = strstr(answer_of(fake), "data: {\"error\":\"");
    check(last != NULL && strstr(last, "Request timeout expired") != NULL &&
              strcmp(last + strlen(last) - 4, "\"}\n\n") == 0,
          "%s", answer_of(fake));
    check(fake->x.is_ended, "it ends");
    stage_down();
}

/* -- a reader who takes its time -------------------------------------------------------------------- */

TEST(a_slow_reader_pauses_its_own_model_and_all_arrives)
{
    enum { ROOM = 4096, COUNT_OF = 5000 };
    char body[64];

    if (!up())
        return;
    snprintf(body, sizeof body, "{\"text\":\"0123456789\",\"count\":%d}", COUNT_OF);
    struct fake *slow = make("/v2/models/tokens/generate_stream", NULL, body);
    slow->room = ROOM;
    slow->takes = ROOM;
    stage_run();
    check(count_of(slow, TOKEN("0123456789")) == COUNT_OF, "%u events",
          count_of(slow, TOKEN("0123456789")));
    size_t each = strlen("data: " TOKEN("0123456789") "\n\n");
    check(slow->waiting_most <= ROOM + 2 * INFER_CREDIT * each, "%zu bytes waited",
          slow->waiting_most);
    check(slow->waiting_most >= ROOM, "it was never full: %zu bytes", slow->waiting_most);
    stage_down();
}

/* One response is larger than all that may wait. */
TEST(large_responses_wait_one_at_a_time)
{
    enum { ELEMENTS = 60000, COUNT_OF = 12 };
    static char body[ELEMENTS * 2 + 200];
    size_t at = (size_t)snprintf(body, sizeof body, "{\"count\":%d,\"x\":[1", COUNT_OF);

    if (!up())
        return;
    for (unsigned i = 1; i < ELEMENTS; i++) {
        body[at++] = ',';
        body[at++] = '1';
    }
    memcpy(body + at, "]}", 3);
    struct fake *slow = make("/v2/models/numbers/generate_stream", NULL, body);
    slow->room = 64 << 10;
    slow->takes = 256 << 10;
    stage_run();
    check(slow->status == 200 && count_of(slow, "data: {") == COUNT_OF, "%u: %u events",
          slow->status, count_of(slow, "data: {"));
    check(slow->waiting_most < (size_t)INFER_CREDIT_BYTES * 2 + COUNT_OF * (size_t)ELEMENTS * 4,
          "%zu bytes waited", slow->waiting_most);
    stage_down();
}

/* Counts the texts of all tokens together. */
static size_t text_bytes(struct fake *fake)
{
    const char *at = answer_of(fake);
    size_t bytes = 0;

    while ((at = strstr(at, "\"token\":\"")) != NULL) {
        at += strlen("\"token\":\"");
        bytes += strcspn(at, "\"");
    }
    return bytes;
}

/* A reader of a hundred bytes a millisecond; nothing is made to wait for him. */
TEST(who_wants_the_latest_is_given_less_and_the_end_at_once)
{
    enum { COUNT_OF = 4000 };
    static const char *const ways[] = { "latest", "concat" };

    if (!up())
        return;
    for (size_t i = 0; i < COUNT(ways); i++)
        for (int in_query = 0; in_query <= 1; in_query++) {
            char path[128], body[128];
            snprintf(path, sizeof path, "/v2/models/tokens/generate_stream%s%s",
                     in_query ? "?when_slow=" : "", in_query ? ways[i] : "");
            snprintf(body, sizeof body, "{\"text\":\"abcde\",\"count\":%d%s%s%s}", COUNT_OF,
                     in_query ? "" : ",\"when_slow\":\"", in_query ? "" : ways[i],
                     in_query ? "" : "\"");
            stage_drop_calls();
            struct fake *slow = make(path, NULL, body);
            slow->room = 8192;
            slow->takes = 200;
            stage_run();
            unsigned events = count_of(slow, "data: ");
            check(slow->status == 200 && events >= 1 && events < COUNT_OF / 2, "%s: %u: %u events",
                  path, slow->status, events);
            check(strstr(answer_of(slow), "error") == NULL, "%s: %s", path, answer_of(slow));
            check(slow->waiting_most < 64 << 10, "%s: %zu bytes waited", path, slow->waiting_most);
            if (i == 1)
                check(text_bytes(slow) == COUNT_OF * strlen("abcde"), "%zu bytes of text",
                      text_bytes(slow));
        }
    stage_down();
}

/* -- leaving ---------------------------------------------------------------------------------------- */

static void leave_after(const char *path, const char *accept, const char *body, uint32_t ms)
{
    stage_drop_calls();
    struct fake *fake = make(path, accept, body);
    fake->gone_ms = ms;
    uint64_t begun = clock_mono_ns();
    stage_run();
    uint64_t took = (clock_mono_ns() - begun) / NS_PER_MS;
    check(took < ms + 3000, "%s: it took %llu ms", path, (unsigned long long)took);
    check(engine_in_flight(stage_engine) == 0, "%s: it is in flight still", path);
}

TEST(who_leaves_frees_the_model)
{
    if (!up())
        return;
    /* An hour's work each; the stage ends only when the model has let go. */
    leave_after("/v2/models/tokens/generate_stream", NULL,
                "{\"text\":\"a\",\"count\":3600,\"delay_ms\":1000}", 20);
    leave_after("/v2/models/tokens/generate_stream", NULL,
                "{\"text\":\"a\",\"count\":720000,\"delay_ms\":5}", 50);
    leave_after("/v2/models/tokens/generate", NULL,
                "{\"text\":\"a\",\"count\":1,\"delay_ms\":3600000}", 20);
    leave_after("/models/tokens:predict", NDJSON, "{\"text\":\"a\"}", 1);
    stage_down();
}

/* Its reader takes nothing at all, then leaves: the model waits for credit and has to hear of it. */
TEST(who_leaves_without_reading_frees_a_model_that_waits)
{
    if (!up())
        return;
    struct fake *fake =
        make("/v2/models/tokens/generate_stream", NULL, "{\"text\":\"a\",\"count\":1000000000}");
    fake->room = 2000;
    fake->takes = 0;
    fake->gone_ms = 50;
    stage_run();
    check(fake->waiting_most < 64 << 10, "%zu bytes waited", fake->waiting_most);
    check(fake->waiting_most >= 2000, "%zu bytes waited", fake->waiting_most);
    stage_down();
}

/* While one reads nothing, others are answered. */
TEST(a_reader_that_stops_holds_up_nobody)
{
    if (!up())
        return;
    struct fake *stuck = make("/models/identity:predict", SSE, "{\"x\":[1]}");
    stuck->room = 1;
    stuck->takes = 1;
    struct fake *fake = make("/v2/models/identity/generate_stream", NULL, "{\"x\":[1]}");
    stage_run();
    check(fake->status == 200 && count_of(fake, "\"y\":1.0") == 1, "%s", answer_of(fake));
    check(count_of(stuck, "data: ") == 1, "%s", answer_of(stuck));
    stage_down();
}

/* -- a model that goes ----------------------------------------------------------------------------- */

static void close_repository(struct timer *timer UNUSED)
{
    repository_close(&stage.repository);
}

/* Unloading takes the model from the list; a stream under way keeps what it needs, and ends well. */
TEST(a_model_that_is_unloaded_finishes_its_streams)
{
    struct timer timer = { .on_due = close_repository };

    if (!up())
        return;
    struct fake *fake = make("/v2/models/tokens/generate_stream", NULL,
                             "{\"text\":\"a\",\"count\":30,\"delay_ms\":5}");
    struct fake *queued =
        make("/v2/models/slow/generate_stream", NULL, "{\"x\":1,\"delay_ms\":120}");
    stage_later(&timer, 40);
    stage_run();
    check(stage.repository == NULL, "it was not unloaded meanwhile");
    check(fake->status == 200 && count_of(fake, TOKEN("a")) == 30, "%u: %s", fake->status,
          answer_of(fake));
    check(queued->status == 200 && count_of(queued, "\"y\":1.0") == 1, "%u: %s", queued->status,
          answer_of(queued));
    stage_down();
}

/* -- responses that cannot be written ----------------------------------------------------------------- */

TEST(a_response_that_is_no_json_is_told_and_stops_the_model)
{
    char body[512];
    const char head[] = "{\"inputs\":[{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\","
                        "\"parameters\":{\"binary_data_size\":6}}],"
                        "\"parameters\":{\"count\":1000000000}}";

    if (!up())
        return;
    memcpy(body, head, sizeof head - 1);
    memcpy(body + sizeof head - 1, "\x02\0\0\0\xff\xfe", 6);
    struct fake *fake = stage_make(METHOD_POST, "/v2/models/tokens/infer_stream",
                                   slice_make(body, sizeof head - 1 + 6));
    char length[24];
    snprintf(length, sizeof length, "%zu", sizeof head - 1);
    fake_header(fake, "inference-header-content-length", length);
    stage_run();
    check(fake->status == 400 && strstr(answer_of(fake), "UTF-8") != NULL, "%u: %s", fake->status,
          answer_of(fake));
    check(engine_in_flight(stage_engine) == 0, "the model was not stopped");
    stage_down();
}

/* -- streams that are kept ---------------------------------------------------------------------------- */

static struct budget kept_budget;

static void keep_streams(uint64_t events_max)
{
    struct resumables_settings settings = { .env = env_real(),
                                            .node = "web-1",
                                            .time_ns = 60 * NS_PER_S,
                                            .streams_max = 10000,
                                            .events_max = events_max,
                                            .bytes_max = 64 << 10,
                                            .budget = &kept_budget };

    budget_init(&kept_budget, 64 << 20);
    require(resumables_new(&stage.api.resumables, &settings, NULL) == OK);
}

static void keep_no_more(void)
{
    struct resumables *all = stage.api.resumables;

    resumables_drain(all);
    stage_down();
    resumables_free(&all);
    check(budget_used(&kept_budget) == 0, "%llu bytes are kept",
          (unsigned long long)budget_used(&kept_budget));
}

TEST(a_kept_stream_has_ids_and_waits_for_its_reader)
{
    if (!up())
        return;
    keep_streams(8); /* a credit of two */
    struct fake *slow = make("/v2/models/tokens/generate_stream?resume=5", NULL,
                             "{\"text\":\"abcde\",\"count\":300}");
    slow->room = 2000;
    slow->takes = 2000;
    stage_run();
    check(slow->status == 200 && count_of(slow, TOKEN("abcde")) == 300, "%u: %s", slow->status,
          answer_of(slow));
    check(count_of(slow, "id: web-1.") == 300, "%u ids", count_of(slow, "id: web-1."));
    check(slice_starts(fake_answer_header(slow, "location"), "/streams/web-1."), "%.*s",
          SLICE_ARG(fake_answer_header(slow, "location")));
    keep_no_more();
}

/* Whoever began it leaves: it goes on until its time is up. */
TEST(a_kept_stream_outlives_its_first_reader)
{
    struct fake *fake;

    if (!up())
        return;
    keep_streams(1000);
    fake = make("/v2/models/tokens/generate_stream?resume=0.1", NULL,
                "{\"text\":\"a\",\"count\":1000000,\"delay_ms\":5}");
    fake->gone_ms = 50;
    uint64_t begun = clock_mono_ns();
    stage_run(); /* until the exchange is given back, which is when the model has ended */
    uint64_t took = (clock_mono_ns() - begun) / NS_PER_MS;
    check(took >= 140 && took < 3000, "it was kept for %llu ms", (unsigned long long)took);
    check(engine_in_flight(stage_engine) == 0, "the model was not stopped");
    keep_no_more();
}

TEST(kept_streams_survive_every_fault)
{
    if (!up())
        return;
    keep_streams(100);
    stage.block_bytes = 512;
    call("/v2/models/tokens/generate_stream?resume=5", NULL, "{\"text\":\"hi\",\"count\":5}");
    for_each_fault(nth) {
        fault_arm(0);
        stage_drop_calls();
        struct fake *fake = make("/v2/models/tokens/generate_stream?resume=5", NULL,
                                 "{\"text\":\"hi\",\"count\":5}");
        fault_arm(nth);
        stage_run();
        bool fired = fault_fired();
        fault_arm(0);
        check(fake->status != 0 || fake->is_aborted, "fault %u: no answer", nth);
        if (fake->status == 200 && !fake->is_aborted && !text_failed(&fake->answer) &&
            strstr(answer_of(fake), "\"error\"") == NULL)
            check(count_of(fake, TOKEN("hi")) == 5, "fault %u: %s", nth, answer_of(fake));
        if (!fired)
            break;
    }
    keep_no_more();
}

/* -- memory ------------------------------------------------------------------------------------------ */

TEST(streams_survive_every_fault)
{
    static const struct {
        const char *path, *accept, *body;
    } calls[] = {
        { "/v2/models/tokens/generate_stream", NULL, "{\"text\":\"hi\",\"count\":5}" },
        { "/models/numbers:predict", NDJSON, "{\"x\":[1,2]}" },
        { "/v2/models/numbers/infer", SSE, X },
    };
    if (!up())
        return;
    stage.block_bytes = 512;
    for (size_t i = 0; i < COUNT(calls); i++) {
        call(calls[i].path, calls[i].accept, calls[i].body); /* plans are made once */
        for_each_fault(nth) {
            fault_arm(0);
            stage_drop_calls();
            struct fake *fake = make(calls[i].path, calls[i].accept, calls[i].body);
            fault_arm(nth);
            stage_run();
            bool fired = fault_fired();
            fault_arm(0);
            /* A stream ends well, with an error, or is cut: never half of it as if it were all. */
            check(fake->status != 0 || fake->is_aborted, "fault %u: no answer", nth);
            if (fake->status == 200 && !fake->is_aborted && !text_failed(&fake->answer) &&
                strstr(answer_of(fake), "\"error\"") == NULL)
                check(count_of(fake, "\n") >= 2, "fault %u: %s", nth, answer_of(fake));
            if (!fired)
                break;
        }
    }
    stage_down();
}
