/* observe_test.c - every exchange is told of once, however it ends; what its head says of traces and ids.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/observe.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/env.h"
#include "serve/server_test.h"
#include "test/harness.h"

enum { TOLD_MAX = 64 };

static struct {
    pthread_mutex_t mutex;
    _Atomic uint32_t count;
    struct told {
        enum observe_end end;
        uint16_t status;
        uint64_t body_in, body_out, ns;
        char path[64], route[64], method[16], id[160], agent[32], state[64];
        struct trace_context trace;
    } rows[TOLD_MAX];
} told = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void put(char *to, size_t size, struct slice text)
{
    snprintf(to, size, "%.*s", SLICE_ARG(text));
}

static void on_exchange(void *context, const struct observed *seen)
{
    const struct exchange *x = seen->x;

    require(context == &told);
    pthread_mutex_lock(&told.mutex);
    uint32_t at = atomic_load(&told.count);
    if (at < TOLD_MAX) {
        struct told *row = &told.rows[at];
        *row = (struct told){ .end = seen->end, .status = seen->status, .body_in = seen->body_in,
                              .body_out = seen->body_out, .trace = x->trace,
                              .ns = seen->ended_ns - x->begun_ns };
        put(row->path, sizeof row->path, x->path);
        put(row->route, sizeof row->route, x->note.route);
        put(row->method, sizeof row->method, x->method_text);
        put(row->id, sizeof row->id, x->request_id);
        put(row->agent, sizeof row->agent, seen->agent);
        put(row->state, sizeof row->state, x->trace.state);
    }
    atomic_store(&told.count, at + 1);
    pthread_mutex_unlock(&told.mutex);
}

static bool up(struct test_server *t)
{
    atomic_store(&told.count, 0);
    t->observer = (struct observer){ on_exchange, &told };
    return server_start(t, NULL);
}

static const struct told *nth(uint32_t number)
{
    static const struct told none;

    for (unsigned i = 0; i < 5000 && atomic_load(&told.count) < number; i++)
        usleep(1000);
    if (atomic_load(&told.count) < number)
        return &none;
    return &told.rows[number - 1];
}

static int say(const struct test_server *t, const char *text)
{
    struct answer answer;

    ask(t, text, &answer);
    int status = answer.status;
    answer_free(&answer);
    return status;
}

#define HOST "host: localhost\r\n"

/* One after the other on connections of their own: each is told of when it ends, and only then. */
TEST(every_end_is_told_once)
{
    static const struct {
        const char *text;
        uint16_t status;
        enum observe_end end;
        const char *method, *path, *route;
        uint64_t body_in;
    } rows[] = {
        { "GET /hello HTTP/1.1\r\n" HOST "\r\n", 200, OBSERVE_ANSWERED, "GET", "/hello", "/hello", 0 },
        { "HEAD /hello HTTP/1.1\r\n" HOST "\r\n", 200, OBSERVE_ANSWERED, "HEAD", "/hello", "/hello", 0 },
        { "POST /echo?a=b HTTP/1.1\r\n" HOST "content-length: 5\r\n\r\nhello", 200, OBSERVE_ANSWERED,
          "POST", "/echo", "/echo", 5 },
        { "GET /mirror/x HTTP/1.0\r\n\r\n", 200, OBSERVE_ANSWERED, "GET", "/mirror/x",
          "/mirror/{name}", 0 },
        { "GET /none HTTP/1.1\r\n" HOST "\r\n", 404, OBSERVE_ANSWERED, "GET", "/none", "", 0 },
        { "GET /echo HTTP/1.1\r\n" HOST "\r\n", 405, OBSERVE_ANSWERED, "GET", "/echo", "", 0 },
        { "GET /hello HTTP/1.1\r\nhost: evil.example\r\n\r\n", 403, OBSERVE_ANSWERED, "GET", "/hello",
          "", 0 },
        { "GET /hello HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, OBSERVE_ANSWERED, "", "/hello", "",
          0 },
        { "nonsense\r\n\r\n", 400, OBSERVE_ANSWERED, "", "", "", 0 },
        { "POST /echo HTTP/1.1\r\n" HOST "content-length: 99999\r\n\r\n", 413, OBSERVE_ANSWERED,
          "POST", "/echo", "", 0 },
        { "POST /echo HTTP/1.1\r\n" HOST "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\nworlds\r\n",
          413, OBSERVE_ANSWERED, "POST", "/echo", "/echo", 11 },
        { "POST /echo HTTP/1.1\r\n" HOST "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", 400,
          OBSERVE_ANSWERED, "POST", "/echo", "/echo", 0 }, /* nothing of it was given to its reader */
        { "GET /odd/abort HTTP/1.1\r\n" HOST "\r\n", 200, OBSERVE_ABORTED, "GET", "/odd/abort",
          "/odd/{kind}", 0 },
        { "GET /odd/nobody HTTP/1.1\r\n" HOST "\r\n", 204, OBSERVE_ANSWERED, "GET", "/odd/nobody",
          "/odd/{kind}", 0 },
    };
    struct test_server t;

    server_prepare(&t);
    t.settings.body_bytes_max = 10;
    check_or_stop(up(&t), "start");
    for (uint32_t i = 0; i < COUNT(rows); i++) {
        (void)say(&t, rows[i].text);
        const struct told *row = nth(i + 1);
        check(row->status == rows[i].status && row->end == rows[i].end, "%u %d: %.40s",
              row->status, (int)row->end, rows[i].text);
        check(strcmp(row->path, rows[i].path) == 0 && strcmp(row->route, rows[i].route) == 0 &&
                  strcmp(row->method, rows[i].method) == 0,
              "'%s' '%s' '%s': %.40s", row->method, row->path, row->route, rows[i].text);
        check(row->body_in == rows[i].body_in, "%llu bytes: %.40s",
              (unsigned long long)row->body_in, rows[i].text);
    }
    usleep(20000);
    check(atomic_load(&told.count) == COUNT(rows), "%u of %zu", atomic_load(&told.count),
          COUNT(rows));
    server_stop(&t);
    check(atomic_load(&told.count) == COUNT(rows), "and none at the end");
}

TEST(who_leaves_and_who_is_cut)
{
    struct test_server t;

    server_prepare(&t);
    t.settings.body_timeout_ms = 60;
    check_or_stop(up(&t), "start");
    int fd = client_open(&t);
    client_say(fd, "GET /wait HTTP/1.1\r\n" HOST "\r\n");
    check(wait_for(&seen_waiting, 1), "it waits");
    check(atomic_load(&told.count) == 0, "it has not ended");
    close(fd);
    const struct told *row = nth(1);
    check(row->status == 499 && row->end == OBSERVE_LEFT && strcmp(row->route, "/wait") == 0,
          "left: %u %d", row->status, (int)row->end);
    check(say(&t, "POST /echo HTTP/1.1\r\n" HOST "content-length: 5\r\n\r\nhel") == 408, "408");
    row = nth(2);
    check(row->status == 408 && row->body_in == 3 && strcmp(row->route, "/echo") == 0 &&
              row->ns >= 60000000,
          "a body that stands still: %u after %llu ns", row->status, (unsigned long long)row->ns);
    fd = client_open(&t);
    client_say(fd, "GET /wait HTTP/1.1\r\n" HOST "\r\n");
    check(wait_for(&seen_waiting, 2), "it waits");
    server_stop(&t);
    check(atomic_load(&told.count) == 3 && told.rows[2].end == OBSERVE_LEFT, "cut at the end: %u",
          atomic_load(&told.count));
    close(fd);
}

TEST(pipelined_requests_are_told_in_order)
{
    struct test_server t;
    struct answer answer;

    server_prepare(&t);
    check_or_stop(up(&t), "start");
    int fd = client_open(&t);
    client_say(fd, "GET /mirror/1 HTTP/1.1\r\n" HOST "\r\nGET /mirror/2 HTTP/1.1\r\n" HOST
                   "\r\nPOST /echo HTTP/1.1\r\n" HOST
                   "content-length: 2\r\n\r\nokGET /mirror/4 HTTP/1.1\r\n" HOST "\r\n");
    for (unsigned i = 0; i < 4; i++) {
        answer_read(fd, &answer, false);
        check(answer.status == 200, "%d", answer.status);
        answer_free(&answer);
    }
    check(strcmp(nth(4)->path, "/mirror/4") == 0 && strcmp(nth(1)->path, "/mirror/1") == 0 &&
              nth(3)->body_in == 2 && nth(4)->body_in == 0,
          "in order, each with its own body");
    close(fd);
    server_stop(&t);
}

#define PARENT "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"

TEST(what_a_head_says_of_traces_and_ids)
{
    static const struct {
        const char *fields;
        bool is_set, is_sampled, is_of_caller, has_span;
        const char *state, *id;
    } rows[] = {
        { "", true, true, false, true, "", "*" },
        { "traceparent: " PARENT "1\r\n", true, true, true, true, "", "*" },
        { "traceparent: " PARENT "0\r\n", true, false, true, false, "", "*" },
        { "traceparent: " PARENT "1\r\ntracestate: a=1\r\ntracestate: b=2\r\n", true, true, true,
          true, "a=1,b=2", "*" },
        { "traceparent: " PARENT "1\r\ntracestate: A=1\r\n", true, true, true, true, "", "*" },
        { "traceparent: " PARENT "1\r\ntraceparent: " PARENT "1\r\n", true, true, false, true, "",
          "*" },
        { "traceparent: nonsense\r\ntracestate: a=1\r\n", true, true, false, true, "", "*" },
        { "x-request-id: mine.1\r\nx-request-id: other\r\n", true, true, false, true, "", "mine.1" },
        { "x-request-id: not sane\r\n", true, true, false, true, "", "*" },
    };
    struct test_server t;

    server_prepare(&t);
    t.settings.observe = (struct observe_rules){ .has_traces = true, .trace_ratio = 1,
                                                 .makes_request_ids = true, .answers_traces = true };
    check_or_stop(up(&t), "start");
    for (uint32_t i = 0; i < COUNT(rows); i++) {
        char text[512], line[256];
        struct answer answer;
        snprintf(text, sizeof text, "GET /hello HTTP/1.1\r\n" HOST "user-agent: me\r\n%s\r\n",
                 rows[i].fields);
        ask(&t, text, &answer);
        const struct told *row = nth(i + 1);
        check(trace_is_set(&row->trace) == rows[i].is_set &&
                  row->trace.is_sampled == rows[i].is_sampled,
              "%s", rows[i].fields);
        check((row->trace.trace_id[0] == 0x0a && row->trace.parent_id[0] == 0xb7) ==
                  rows[i].is_of_caller,
              "%s", rows[i].fields);
        check(span_is_zero(row->trace.span_id) != rows[i].has_span, "%s", rows[i].fields);
        check(strcmp(row->state, rows[i].state) == 0, "%s: '%s'", rows[i].fields, row->state);
        check(rows[i].id[0] == '*' ? strlen(row->id) == 32 : strcmp(row->id, rows[i].id) == 0,
              "%s: '%s'", rows[i].fields, row->id);
        check(strcmp(row->agent, "me") == 0, "%s", row->agent);
        snprintf(line, sizeof line, "x-request-id: %s", row->id);
        check(answer_has(&answer, line), "%s is echoed", line);
        char parent[TRACEPARENT_MAX];
        trace_write(&row->trace, parent);
        snprintf(line, sizeof line, "traceresponse: %s", parent);
        check(answer_has(&answer, line), "%s", line);
        answer_free(&answer);
    }
    server_stop(&t);
}

TEST(without_rules_nothing_is_made_and_a_trace_goes_on)
{
    struct test_server t;
    struct answer answer;

    server_prepare(&t);
    check_or_stop(up(&t), "start");
    ask(&t, "GET /hello HTTP/1.1\r\n" HOST "traceparent: " PARENT "1\r\n\r\n", &answer);
    const struct told *row = nth(1);
    check(row->trace.is_sampled && span_is_zero(row->trace.span_id) && row->id[0] == '\0' &&
              strstr(answer.head, "x-request-id") == NULL &&
              strstr(answer.head, "traceresponse") == NULL,
          "%s", answer.head);
    answer_free(&answer);
    ask(&t, "GET /hello HTTP/1.1\r\n" HOST "x-request-id: a\r\n\r\n", &answer);
    check(!trace_is_set(&nth(2)->trace) && answer_has(&answer, "x-request-id: a"), "%s",
          answer.head);
    answer_free(&answer);
    server_stop(&t);
}

TEST(observers_are_bounded)
{
    struct test_server t;
    struct err err = { 0 };
    struct serve *serve = NULL;
    struct observer observer = { on_exchange, &told };
    unsigned added = 0;

    server_prepare(&t);
    t.settings.metrics = NULL;
    check_or_stop(serve_new(&serve, env_real(), &t.settings, &err) == OK, "%s", err.text);
    while (added <= OBSERVERS_MAX && observer_add(serve, &observer, &err) == OK)
        added++;
    check(added > 0 && added <= OBSERVERS_MAX && err.code == E_EXHAUSTED, "%u", added);
    serve_free(&serve);
    metrics_free(&t.metrics);
}
