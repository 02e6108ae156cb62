/* push_test.c - the server's events: what is now, joined to what changes; readers that are slow, come
 * back, or come from elsewhere. SPDX-License-Identifier: Apache-2.0 */
#include "api/push.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/fake_stage.h"
#include "api/pb_build.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "call/grpc_wire.h"
#include "codec/proto.h"
#include "engine/engine.h"
#include "telemetry/metrics.h"
#include "test/harness.h"

static struct grpc_watchers watchers;

static bool begin(void)
{
    if (!stage_up() || !stage_open())
        return false;
    watchers = (struct grpc_watchers){ .max = 10 };
    stage.api.watchers = &watchers;
    return true;
}

static void end(void)
{
    stage_down();
    check(atomic_load(&watchers.now) == 0 && atomic_load(&watchers.of[WATCHES_EVENTS]) == 0,
          "%llu still watch", (unsigned long long)atomic_load(&watchers.now));
}

static void tell(enum push_kind kind, const char *model, const char *reason)
{
    push_model(stage.push, kind, slice_of(model), slice_of("1"), slice_of(reason));
}

/* -- steps of a test, one a turn or so -------------------------------------------------------------- */

enum { STEPS_MAX = 8 };
static void (*steps[STEPS_MAX])(void);
static unsigned step_at;
static struct timer step_timer;

static void on_step(struct timer *timer)
{
    void (*step)(void) = steps[step_at++];

    if (step == NULL)
        return;
    step();
    require(timer_start(stage.loop, timer, loop_now_ns(stage.loop) + 5 * NS_PER_MS, NULL) == OK);
}

static void run_steps(void (*const *list)(void))
{
    memset(steps, 0, sizeof steps);
    for (unsigned i = 0; list[i] != NULL; i++)
        steps[i] = list[i];
    step_at = 0;
    step_timer = (struct timer){ .on_due = on_step };
    require(timer_start(stage.loop, &step_timer, clock_mono_ns() + 5 * NS_PER_MS, NULL) == OK);
    stage_run();
    timer_stop(stage.loop, &step_timer);
}

static void drain(void)
{
    atomic_store(&stage.is_draining, true);
    push_server(stage.push, PUSH_SERVER_DRAINING);
}

/* -- what was told --------------------------------------------------------------------------------- */

static struct fake *watch(const char *path, const char *accept)
{
    struct fake *fake = stage_make(METHOD_GET, path, slice_make("", 0));

    if (accept != NULL)
        fake_header(fake, "accept", accept);
    return fake;
}

/* The answer with times and sequences made the same in every run: digits behind "time_ms": are one 0,
 * sequences are relative to the run's base. */
static const char *normal(const struct fake *fake, char *out, size_t size)
{
    static const char *const keys[] = { "\"time_ms\":", "\"sequence\":", "id: stage." };
    struct slice in = text_slice(&fake->answer);
    size_t at = 0;

    while (in.size > 0 && at + 32 < size) {
        bool is_key = false;
        for (unsigned k = 0; k < COUNT(keys) && !is_key; k++) {
            if (!slice_starts(in, keys[k]))
                continue;
            is_key = true;
            unsigned long long number = strtoull((const char *)in.data + strlen(keys[k]), NULL, 10);
            number = k == 0 ? number > 1600000000000 : number - push_sequence(stage.push, 0);
            at += (size_t)snprintf(out + at, size - at, "%s%llu", keys[k], number);
            in = slice_skip(in, strlen(keys[k]));
            while (in.size > 0 && in.data[0] >= '0' && in.data[0] <= '9')
                in = slice_skip(in, 1);
        }
        if (is_key)
            continue;
        out[at++] = (char)in.data[0];
        in = slice_skip(in, 1);
    }
    out[at] = '\0';
    return out;
}

#define SNAPSHOT_OF(model)                                                                        \
    "event: ready\ndata: {\"node\":\"stage\",\"time_ms\":1,\"kind\":\"READY\",\"model\":\"" model \
    "\",\"version\":\"1\",\"is_snapshot\":true}\n\n"

static void fail_ghost(void)
{
    tell(PUSH_UNAVAILABLE, "ghost", "no \"reason\"");
    tell(PUSH_UNAVAILABLE, "ghost", "no \"reason\""); /* is so already */
}

static void ready(void)
{
    push_server(stage.push, PUSH_SERVER_READY);
}

TEST(a_watcher_is_told_what_is_now_and_then_each_change)
{
    static char out[8192];

    if (!begin())
        return;
    struct fake *all = watch("/events", NULL);
    run_steps((void (*const[])(void)){ fail_ghost, ready, drain, NULL });
    check(all->status == 200 &&
              slice_is(fake_answer_header(all, "content-type"),
                       "text/event-stream; charset=utf-8") &&
              slice_is(fake_answer_header(all, "x-node"), "stage"),
          "%s", text_cstr(&all->headers));
    normal(all, out, sizeof out);
    static const char wanted[] = SNAPSHOT_OF("identity") SNAPSHOT_OF("iris") SNAPSHOT_OF(
        "words") "id: stage.6\nevent: server_loading\ndata: "
                 "{\"sequence\":6,\"node\":\"stage\",\"time_ms\":1,"
                 "\"kind\":\"SERVER_LOADING\",\"is_snapshot\":true}\n\n"
                 "id: stage.7\nevent: unavailable\ndata: {\"sequence\":7,\"node\":\"stage\",\"time_ms\":1,"
                 "\"kind\":\"UNAVAILABLE\",\"model\":\"ghost\",\"version\":\"1\",\"reason\":\"no "
                 "\\\"reason\\\"\"}\n\n"
                 "id: stage.8\nevent: server_ready\ndata: {\"sequence\":8,\"node\":\"stage\",\"time_ms\":1,"
                 "\"kind\":\"SERVER_READY\"}\n\n"
                 "id: stage.9\nevent: server_draining\ndata: "
                 "{\"sequence\":9,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"SERVER_DRAINING\"}\n\n";
    check(strcmp(out, wanted) == 0, "told:\n%s", out);
    end();
}

static void load_iris(void)
{
    tell(PUSH_LOADING, "iris", "");
    tell(PUSH_LOADING, "words", "");
}

TEST(a_watcher_of_one_model_is_told_of_that_one_as_lines_of_json)
{
    static char out[8192];

    if (!begin())
        return;
    struct fake *iris = watch("/models/iris/events", "application/x-ndjson");
    struct fake *none = watch("/models/nobody/events", NULL);
    struct fake *head = stage_make(METHOD_HEAD, "/events", slice_make("", 0));
    head->x.is_head = true;
    head->x.method = METHOD_GET; /* as the router finds it */
    run_steps((void (*const[])(void)){ load_iris, drain, NULL });
    check(slice_is(fake_answer_header(iris, "content-type"), "application/x-ndjson"), "%s",
          text_cstr(&iris->headers));
    normal(iris, out, sizeof out);
    static const char wanted[] =
        "{\"node\":\"stage\",\"time_ms\":1,\"kind\":\"READY\",\"model\":\"iris\",\"version\":\"1\","
        "\"is_snapshot\":true}\n"
        "{\"sequence\":6,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"SERVER_LOADING\","
        "\"is_snapshot\":true}\n"
        "{\"sequence\":7,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"LOADING\",\"model\":\"iris\","
        "\"version\":\"1\"}\n"
        "{\"sequence\":9,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"SERVER_DRAINING\"}\n";
    check(strcmp(out, wanted) == 0, "told:\n%s", out);
    check(none->status == 404 && strstr(text_cstr(&none->answer), "there are: identity") != NULL,
          "%u %s", none->status, text_cstr(&none->answer));
    check(head->status == 200 && head->answer.size == 0 && head->is_released, "HEAD: %u",
          head->status);
    end();
}

/* -- coming back ------------------------------------------------------------------------------------ */

TEST(a_watcher_comes_back_where_it_was)
{
    static char out[8192];
    char path[100], id[100];

    if (!begin())
        return;
    fail_ghost(); /* 7 */
    ready();      /* 8 */
    snprintf(path, sizeof path, "/events?x=1&after=%llu",
             (unsigned long long)push_sequence(stage.push, 6));
    snprintf(id, sizeof id, "stage.%llu", (unsigned long long)push_sequence(stage.push, 7));
    struct fake *by_query = watch(path, "application/x-ndjson");
    struct fake *by_header = watch(path, "text/event-stream");
    fake_header(by_header, "last-event-id", id); /* wins: a browser's URL stays what it was */
    run_steps((void (*const[])(void)){ drain, NULL });
    check(strcmp(
              normal(by_query, out, sizeof out),
              "{\"sequence\":7,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"UNAVAILABLE\","
              "\"model\":\"ghost\",\"version\":\"1\",\"reason\":\"no \\\"reason\\\"\"}\n"
              "{\"sequence\":8,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"SERVER_READY\"}\n"
              "{\"sequence\":9,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"SERVER_DRAINING\"}\n") ==
              0,
          "told:\n%s", out);
    normal(by_header, out, sizeof out);
    check(strncmp(out, "id: stage.8\nevent: server_ready\n", 32) == 0, "told:\n%s", out);
    end();
}

TEST(ids_of_elsewhere_begin_with_what_is_now_and_say_why)
{
    if (!begin())
        return;
    for (unsigned i = 0; i < 30; i++)
        tell(i % 2 == 0 ? PUSH_LOADING : PUSH_READY, "ghost", "");
    char old[100], future[100];
    snprintf(old, sizeof old, "stage.%llu", (unsigned long long)push_sequence(stage.push, 3));
    snprintf(future, sizeof future, "stage.%llu",
             (unsigned long long)push_sequence(stage.push, 99));
    const struct {
        const char *id, *words;
    } cases[] = {
        { "other.17", "event other.17 is of server 'other' and this is 'stage'" },
        { "stage.17", "event 17 is of an earlier run of server 'stage'" },
        { old, "is not kept: there are" },
        { future, "is not kept: there are" },
        { "a.b.c.18446744073709551615", "is of server 'a.b.c'" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fake *fake = watch("/events", NULL);
        fake_header(fake, "last-event-id", cases[i].id);
    }
    run_steps((void (*const[])(void)){ drain, NULL });
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *said = text_cstr(&stage.calls[i].answer);
        check(strncmp(said, "event: lost\ndata: {", 19) == 0 &&
                  strstr(said, cases[i].words) != NULL,
              "%s: %s", cases[i].id, said);
        check(strstr(said, "\"model\":\"iris\"") != NULL && strstr(said, "server_draining") != NULL,
              "%s: no snapshot: %s", cases[i].id, said);
    }
    stage_drop_calls();
    atomic_store(&stage.is_draining, false);
    static const char *const bad[] = { "",        "x",  ".5", "stage.",
                                       "stage.x", "5x", "-1", "stage.99999999999999999999",
                                       "\xff.5" };
    for (size_t i = 1; i < COUNT(bad); i++) {
        struct fake *fake = watch("/events", NULL);
        fake_header(fake, "last-event-id", bad[i]);
    }
    stage_run();
    for (size_t i = 1; i < COUNT(bad); i++) {
        struct fake *fake = &stage.calls[i - 1];
        check(fake->status == 400 && strstr(text_cstr(&fake->answer), "last-event-id") != NULL,
              "'%s': %u %s", bad[i], fake->status, text_cstr(&fake->answer));
    }
    end();
}

/* -- slow readers ------------------------------------------------------------------------------------ */

static struct fake *slow;

static void churn(void)
{
    for (unsigned i = 0; i < 50; i++)
        tell(i % 2 == 0 ? PUSH_LOADING : PUSH_READY, "iris", "");
    tell(PUSH_UNAVAILABLE, "iris", "the last word");
}

static void take_all(void)
{
    slow->takes = slow->room = 1 << 20;
}

TEST(a_slow_reader_is_told_how_much_it_lost_and_what_is_now)
{
    struct text out;

    if (!begin())
        return;
    check_or_stop(push_register(stage.push, stage.metrics, NULL) == OK, "register");
    slow = watch("/events", "application/x-ndjson");

    slow->room = 1; /* for one event */
    struct fake *fast = watch("/events", "application/x-ndjson");
    run_steps((void (*const[])(void)){ churn, take_all, drain, NULL });
    const char *said = text_cstr(&slow->answer);
    /* One of the snapshot, the rest of it, then what the log had lost: 51 events, none kept twice. */
    char *lost = strstr(said, "\"kind\":\"LOST\",\"lost\":51}\n");
    check_or_stop(lost != NULL, "%s", said);
    check(strstr(lost, "\"reason\":\"the last word\",\"is_snapshot\":true") != NULL, "%s", lost);
    check(strstr(said, "the last word") > lost, "told before and after: %s", said);
    check(strstr(lost, "SERVER_DRAINING") != NULL, "%s", lost);
    check(strstr(text_cstr(&fast->answer), "LOST") == NULL ||
              strstr(text_cstr(&fast->answer), "\"lost\":51") != NULL,
          "%s", text_cstr(&fast->answer));
    text_init(&out, 1 << 16);
    metrics_render(stage.metrics, &out);
    check(strstr(text_cstr(&out), "\npenstock_events_lost_total 51\n") != NULL ||
              strstr(text_cstr(&out), "\npenstock_events_lost_total 102\n") != NULL,
          "%s", text_cstr(&out));
    check(strstr(text_cstr(&out), "\npenstock_events_total 58\n") != NULL, "%s", text_cstr(&out));
    text_deinit(&out);
    end();
}

/* -- bounds -------------------------------------------------------------------------------------------- */

TEST(watchers_are_bounded_together)
{
    if (!begin())
        return;
    watchers.max = 2;
    struct fake *fakes[4];
    for (size_t i = 0; i < COUNT(fakes); i++)
        fakes[i] = watch("/events", NULL);
    fakes[0]->gone_ms = 2;
    run_steps((void (*const[])(void)){ drain, NULL });
    for (size_t i = 0; i < COUNT(fakes); i++)
        check(fakes[i]->status == (i < 2 ? 200 : 429), "%zu: %u", i, fakes[i]->status);
    check(strstr(text_cstr(&fakes[3]->answer), "2 watch already, which is the most "
                                               "(--watchers-max)") != NULL &&
              slice_is(fake_answer_header(fakes[3], "retry-after"), "1"),
          "%s", text_cstr(&fakes[3]->answer));
    check(grpc_watchers_refused(&watchers) == 2, "refused");
    stage_drop_calls();
    struct fake *late = watch("/events", NULL);
    stage_run();
    check(late->status == 503, "%u %s", late->status, text_cstr(&late->answer));
    end();
}

/* -- queues ---------------------------------------------------------------------------------------------- */

static void queue_events(void)
{
    struct slice iris = slice_of("iris"), one = slice_of("1");

    push_queue(stage.push, iris, one, true, 8, 10, 1);
    push_queue(stage.push, iris, one, true, 10, 10, 2); /* is high already */
    push_queue(stage.push, iris, one, true, 9, 10, 4);
    push_queue(stage.push, iris, one, false, 5, 10, 3); /* came late */
    push_queue(stage.push, slice_of("nobody"), one, true, 8, 10, 1);
    push_queue(stage.push, iris, one, false, 4, 10, 5);
    push_queue(stage.push, iris, one, true, 8, 10, 6);
}

TEST(queues_are_told_when_they_change_and_are_part_of_what_is_now)
{
    static char out[8192];

    if (!begin())
        return;
    struct fake *fake = watch("/models/iris/events", "application/x-ndjson");
    run_steps((void (*const[])(void)){ queue_events, drain, NULL });
    normal(fake, out, sizeof out);
    const char *behind = strstr(out, "\"sequence\":7");
    static const char wanted[] =
        "\"sequence\":7,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"QUEUE_HIGH\",\"model\":"
        "\"iris\",\"version\":\"1\",\"queued\":8,\"queue_max\":10}\n"
        "{\"sequence\":8,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"QUEUE_NORMAL\",\"model\":"
        "\"iris\",\"version\":\"1\",\"queued\":4,\"queue_max\":10}\n"
        "{\"sequence\":9,\"node\":\"stage\",\"time_ms\":1,\"kind\":\"QUEUE_HIGH\",\"model\":"
        "\"iris\",\"version\":\"1\",\"queued\":8,\"queue_max\":10}\n";
    check(behind != NULL && strncmp(behind, wanted, strlen(wanted)) == 0, "told:\n%s", out);

    struct event_reader reader = { .loop = NULL };
    struct buf *holder = NULL;
    struct push_record record;
    struct slice snapshot;
    uint64_t missed, sequence;
    unsigned high = 0;
    check_or_stop(push_follow(stage.push, &reader, &snapshot, &holder, &missed, &sequence, NULL) ==
                      OK,
                  "follow");
    while (push_record_next(&snapshot, &record))
        high += record.kind == PUSH_QUEUE_HIGH && slice_is(record.model, "iris");
    check(high == 1, "%u", high);
    buf_unref(&holder);
    event_log_detach(&reader);
    end();
}

/* -- gRPC -------------------------------------------------------------------------------------------- */

static struct text requests[4];
static unsigned requests_count;

static struct fake *watch_grpc(const char *model, uint64_t after, bool is_bad)
{
    struct text *body = &requests[requests_count++ % COUNT(requests)];
    uint8_t message[300], *at = message;
    uint8_t prefix[GRPC_PREFIX_BYTES];

    at = model[0] != '\0' ? pb_put_bytes(at, 1, slice_of(model)) : at;
    at = after != 0 ? pb_put_uint(at, 2, after) : at;
    if (is_bad)
        *at++ = 0x0a; /* a field without its length */
    text_deinit(body);
    text_init(body, 1000);
    grpc_prefix_put(prefix, false, (uint32_t)(at - message));
    text_put(body, prefix, sizeof prefix);
    text_put(body, message, (size_t)(at - message));
    struct fake *fake = stage_make(METHOD_POST, "/penstock.v1.Events/Watch", text_slice(body));
    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    return fake;
}

/* Is message `index` of the call the event that the other watcher was told as that line of JSON? */
static bool is_same_event(struct slice *grpc, struct slice *lines)
{
    struct proto_arena *arena = proto_arena_new();
    const struct proto_type *type = proto_type_find(proto_builtin(), "penstock.v1.Event");
    struct proto_message *from_wire = NULL, *from_json = NULL;
    struct slice a = { 0 }, b = { 0 }, line = slice_first(*lines, slice_find(*lines, '\n'));
    struct err err = { 0 };
    size_t size = (size_t)grpc->data[1] << 24 | (size_t)grpc->data[2] << 16 |
                  (size_t)grpc->data[3] << 8 | grpc->data[4];
    bool is_same =
        proto_decode(&from_wire, arena, type, slice_make(grpc->data + 5, size), &err) == OK &&
        proto_from_json(&from_json, arena, type, proto_builtin(), line, &err) == OK &&
        proto_encode(from_wire, &a, &err) == OK && proto_encode(from_json, &b, &err) == OK &&
        slice_eq(a, b);

    check(is_same, "%.*s: %s", SLICE_ARG(line), err.text);
    *grpc = slice_skip(*grpc, 5 + size);
    *lines = slice_skip(*lines, line.size + 1);
    proto_arena_free(&arena);
    return is_same;
}

TEST(watch_over_grpc_tells_the_same_events)
{
    if (!begin())
        return;
    struct fake *json = watch("/models/iris/events", "application/x-ndjson");
    struct fake *grpc = watch_grpc("iris", 0, false);
    run_steps((void (*const[])(void)){ load_iris, queue_events, ready, drain, NULL });
    struct slice messages = text_slice(&grpc->answer), lines = text_slice(&json->answer);
    unsigned count = 0;
    while (messages.size > 5 && lines.size > 0 && is_same_event(&messages, &lines))
        count++;
    check(count == 8 && messages.size == 0 && lines.size == 0, "%u events: %s", count,
          text_cstr(&json->answer));
    check(slice_is(fake_answer_header(grpc, "grpc-status"), "14"), "%s", text_cstr(&grpc->headers));
    end();
}

TEST(watch_over_grpc_says_what_is_wrong)
{
    if (!begin())
        return;
    struct fake *late = watch_grpc("", 5, false);
    struct fake *unknown = watch_grpc("nobody", 0, false);
    struct fake *bad = watch_grpc("", 0, true);
    struct fake *utf8 = watch_grpc("\xff\xfe", 0, false);
    stage_run();
    check(slice_is(fake_answer_header(late, "grpc-status"), "11") &&
              strstr(text_cstr(&late->headers), "earlier run") != NULL,
          "%s", text_cstr(&late->headers));
    check(slice_is(fake_answer_header(unknown, "grpc-status"), "5"), "%s",
          text_cstr(&unknown->headers));
    check(slice_is(fake_answer_header(bad, "grpc-status"), "3") &&
              strstr(text_cstr(&bad->headers), "no penstock.v1.WatchRequest") != NULL,
          "%s", text_cstr(&bad->headers));
    check(slice_is(fake_answer_header(utf8, "grpc-status"), "3") &&
              strstr(text_cstr(&utf8->headers), "model: byte 0 is not UTF-8") != NULL,
          "%s", text_cstr(&utf8->headers));
    end();
    for (size_t i = 0; i < COUNT(requests); i++)
        text_deinit(&requests[i]);
}

/* -- nothing is lost and nothing twice, with other threads telling --------------------------------------- */

enum { JOINERS = 400, MODELS = 7, ROUNDS = 3000 };
static atomic_bool is_told;

static void *tell_thread(void *arg)
{
    struct push *push = arg;
    char name[20], reason[20];

    for (unsigned i = 0; i < ROUNDS; i++) {
        snprintf(name, sizeof name, "m%u", i % MODELS);
        snprintf(reason, sizeof reason, "%u", i);
        push_model(push, PUSH_UNAVAILABLE, slice_of(name), slice_of("1"), slice_of(reason));
    }
    atomic_store(&is_told, true);
    return NULL;
}

/* The number in "reason":"N", or -1. */
static long reason_of(struct slice json)
{
    static const char key[] = "\"reason\":\"";
    const uint8_t *at = memmem(json.data, json.size, key, sizeof key - 1);

    return at == NULL ? -1 : strtol((const char *)at + sizeof key - 1, NULL, 10);
}

TEST(what_is_now_joins_what_follows_while_others_tell)
{
    struct push_settings settings = { .env = env_real(), .node = "n", .events_max = 100000 };
    struct push *push = NULL;
    pthread_t thread;
    unsigned joined = 0;

    check_or_stop(push_new(&push, &settings, NULL) == OK, "push");
    atomic_store(&is_told, false);
    require(pthread_create(&thread, NULL, tell_thread, push) == 0);
    while (!atomic_load(&is_told) || joined < JOINERS) {
        struct event_reader reader = { .loop = NULL };
        struct buf *holder = NULL;
        struct push_record record;
        struct slice rest;
        uint64_t missed, sequence = 0, number;
        uint32_t kind;
        long newest = -1;
        joined++;
        check_or_stop(push_follow(push, &reader, &rest, &holder, &missed, &sequence, NULL) == OK,
                      "follow");
        while (push_record_next(&rest, &record))
            newest = MAX(newest, reason_of(record.json));
        buf_unref(&holder);
        /* What is now holds round `newest` and all before it, so the next event is the one behind. */
        for (unsigned i = 0; i < 3; i++) {
            if (event_log_read_shared(&reader, &rest, &holder, &kind, &number) != EVENT_READ_ONE)
                break;
            check(push_record_next(&rest, &record) &&
                      reason_of(record.json) == newest + 1 + (long)i,
                  "event %ld behind a snapshot of %ld", reason_of(record.json), newest);
            check(push_sequence(push, number) == sequence + 1 + i, "sequence");
            buf_unref(&holder);
        }
        event_log_detach(&reader);
    }
    pthread_join(thread, NULL);
    push_free(&push);
}

TEST(a_model_that_is_unloaded_is_forgotten)
{
    struct budget budget;
    struct push_settings settings = {
        .env = env_real(), .node = "n", .events_max = 10, .budget = &budget
    };
    struct event_reader reader = { .loop = NULL };
    struct buf *holder = NULL;
    struct push *push = NULL;
    struct slice snapshot;
    uint64_t missed, sequence;

    budget_init(&budget, 1 << 20);
    check_or_stop(push_new(&push, &settings, NULL) == OK, "push");
    push_model(push, PUSH_READY, slice_of("a"), slice_of("1"), slice_of(""));
    push_model(push, PUSH_UNLOADED, slice_of("a"), slice_of("1"), slice_of(""));
    push_model(push, PUSH_UNLOADED, slice_of("a"), slice_of("1"), slice_of(""));
    check_or_stop(push_follow(push, &reader, &snapshot, &holder, &missed, &sequence, NULL) == OK,
                  "follow");
    check(memmem(snapshot.data, snapshot.size, "\"model\"", 7) == NULL &&
              sequence == push_sequence(push, 2),
          "%.*s", SLICE_ARG(snapshot));
    buf_unref(&holder);
    event_log_detach(&reader);
    push_model(push, PUSH_UNAVAILABLE, slice_of("b"), slice_of("1"),
               slice_of("bytes \xff\xfe of it"));
    check_or_stop(push_follow(push, &reader, &snapshot, &holder, &missed, &sequence, NULL) == OK,
                  "follow");
    check(memmem(snapshot.data, snapshot.size, "bytes ?? of it", 14) != NULL, "%.*s",
          SLICE_ARG(snapshot));
    buf_unref(&holder);
    event_log_detach(&reader);
    push_free(&push);
    check(budget_used(&budget) == 0, "%llu", (unsigned long long)budget_used(&budget));
}

/* -- faults -------------------------------------------------------------------------------------------- */

TEST(watching_survives_every_fault)
{
    if (!begin())
        return;
    log_set_level(LOG_ERROR);
    stage.block_bytes = 1024;
    for (unsigned kind = 0; kind < 3; kind++) {
        for_each_fault(nth) {
            fault_arm(0);
            stage_drop_calls();
            push_free(&stage.push);
            struct push_settings push = {
                .env = env_real(), .node = "stage", .events_max = 20, .budget = &stage_budget
            };
            require(push_new(&stage.push, &push, NULL) == OK);
            stage.api.push = stage.push;
            atomic_store(&stage.is_draining, false);
            tell(PUSH_READY, "iris", "");
            struct fake *fake = kind == 0   ? watch("/models/iris/events", NULL)
                                : kind == 1 ? watch("/events", "application/x-ndjson")
                                            : watch_grpc("", 0, false);
            require(text_room(&fake->answer, 1 << 20) != NULL &&
                    text_room(&fake->headers, 4096) != NULL);
            fault_arm(nth);
            run_steps((void (*const[])(void)){ churn, drain, NULL });
            bool fired = fault_fired();
            fault_arm(0);
            check(fake->is_aborted || fake->status != 0, "kind %u, fault %u", kind, nth);
            const char *said = text_cstr(&fake->answer);
            bool is_whole = kind == 2 || strstr(said, "SERVER_DRAINING") != NULL;
            check(fake->is_aborted || fake->status != 200 || is_whole, "kind %u, fault %u: %s",
                  kind, nth, said);
            check(fired || (fake->status == 200 && !fake->is_aborted), "kind %u: %u", kind,
                  fake->status);
            check(atomic_load(&watchers.now) == 0, "kind %u, fault %u: still counted", kind, nth);
            if (!fired)
                break;
        }
    }
    log_set_level(LOG_INFO);
    end();
    for (size_t i = 0; i < COUNT(requests); i++)
        text_deinit(&requests[i]);
}
