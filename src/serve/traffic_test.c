/* traffic_test.c - what is counted of requests, by a server's own /metrics and by itself.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/traffic.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/server_test.h"
#include "test/harness.h"

static void get(struct test_server *t, const char *text, int status)
{
    struct answer answer;

    ask(t, text, &answer);
    check(answer.status == status, "%d for %s", answer.status, text);
    answer_free(&answer);
}

static uint64_t answers(struct test_server *t, const char *route, const char *method,
                        const char *code)
{
    char name[256];

    snprintf(name, sizeof name, "penstock_requests_total{route=\"%s\",method=\"%s\",code=\"%s\"}",
             route, method, code);
    return server_metric(t, name);
}

TEST(requests_are_counted_by_route_method_and_code)
{
    struct test_server t;

    server_prepare(&t);
    check_or_stop(server_start(&t, NULL), "start");
    for (unsigned i = 0; i < 3; i++)
        get(&t, "GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n", 200);
    get(&t, "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello", 200);
    get(&t, "GET /mirror/some HTTP/1.1\r\nhost: localhost\r\n\r\n", 200);
    get(&t, "GET /mirror/other HTTP/1.1\r\nhost: localhost\r\n\r\n", 200);
    get(&t, "GET /secret-4711 HTTP/1.1\r\nhost: localhost\r\n\r\n", 404);
    get(&t, "GET /echo HTTP/1.1\r\nhost: localhost\r\n\r\n", 405);
    get(&t, "BREW /hello HTTP/1.1\r\nhost: localhost\r\n\r\n", 501);
    get(&t, "GET /hello HTTP/1.1\r\nhost: evil.example\r\n\r\n", 403);
    get(&t, "GET /hello HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400);
    check(answers(&t, "/hello", "GET", "200") == 3, "hello");
    check(answers(&t, "/echo", "POST", "200") == 1, "echo");
    check(answers(&t, "/mirror/{name}", "GET", "200") == 2, "a pattern, and not what it stood for");
    check(answers(&t, "", "GET", "404") == 1, "what there is not has no route");
    check(answers(&t, "", "GET", "405") + answers(&t, "/echo", "GET", "405") == 1, "405");
    check(answers(&t, "", "other", "501") == 1, "BREW");
    check(answers(&t, "", "GET", "403") == 1, "403");
    check(server_metric(&t, "penstock_route_received_bytes_total{route=\"/echo\"}") == 5, "in");
    check(server_metric(&t, "penstock_route_sent_bytes_total{route=\"/echo\"}") == 5, "out");
    check(server_metric(&t, "penstock_route_seconds_count{route=\"/hello\"}") == 3, "count");
    check(server_metric(&t, "penstock_route_seconds_bucket{route=\"/hello\",le=\"+Inf\"}") == 3,
          "buckets");
    check(server_metric(&t, "penstock_tenant_requests_total{tenant=\"default\",code=\"200\"}") == 6,
          "tenant");
    server_stop(&t);
}

TEST(who_leaves_is_counted_when_he_has_left)
{
    struct test_server t;

    server_prepare(&t);
    check_or_stop(server_start(&t, NULL), "start");
    int fd = client_open(&t);
    uint32_t before = atomic_load(&seen_waiting);
    client_say(fd, "GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n");
    check(wait_for(&seen_waiting, before + 1), "nobody waits");
    check(server_metric(&t, "penstock_requests_in_flight") == 1, "in flight");
    check(answers(&t, "/wait", "GET", "499") == 0, "too early");
    close(fd);
    check(wait_metric(&t, "penstock_requests_total{route=\"/wait\",method=\"GET\",code=\"499\"}",
                      1),
          "not told");
    check(wait_metric(&t, "penstock_requests_in_flight", 0), "still in flight");
    server_stop(&t);
}

TEST(series_past_the_limit_are_counted_together)
{
    struct test_server t;

    server_prepare(&t);
    t.settings.metrics_series_max = 3; /* of the first request: route and code, route, tenant */
    check_or_stop(server_start(&t, NULL), "start");
    get(&t, "GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n", 200);
    get(&t, "GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n", 200);
    get(&t, "GET /mirror/a HTTP/1.1\r\nhost: localhost\r\n\r\n", 200);
    get(&t, "GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n", 404);
    check(answers(&t, "/hello", "GET", "200") == 2, "known");
    check(answers(&t, "other", "other", "other") == 2, "others");
    check(server_metric(&t, "penstock_route_seconds_count{route=\"other\"}") == 2, "others' time");
    check(server_metric(&t, "penstock_tenant_requests_total{tenant=\"other\",code=\"other\"}") == 1,
          "others' tenant");
    check(server_metric(&t, "penstock_metrics_series") == 3, "series");
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"metrics-series-max\"}") == 5,
          "hits");
    server_stop(&t);
}

TEST(loops_tell_of_themselves)
{
    struct test_server t;

    server_prepare(&t);
    t.settings.loops_count = 2;
    check_or_stop(server_start(&t, NULL), "start");
    for (unsigned i = 0; i < 20; i++)
        get(&t, "GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n", 200);
    check(server_metric(&t, "penstock_loop_turn_seconds_count") >= 20, "turns");
    int fd = client_open(&t);
    check(wait_metric(&t, "penstock_connections_open", 1), "one connection");
    check(server_metric(&t, "penstock_loop_connections_open{loop=\"0\"}") +
                  server_metric(&t, "penstock_loop_connections_open{loop=\"1\"}") ==
              1,
          "by loop");
    close(fd);
    server_stop(&t);
}

/* Calls are counted by gRPC's code, whatever the status was. Models only where there is one. */
TEST(calls_and_models_are_counted)
{
    struct traffic *traffic = NULL;
    struct metrics *metrics = metrics_new();
    struct exchange x = { .method = METHOD_POST, .begun_ns = 1000 };
    struct observed seen = { .x = &x, .status = 200, .is_call = true, .ended_ns = 3000000 };
    struct test_server t = { .metrics = metrics };
    struct err err = { 0 };

    check_or_stop(metrics != NULL && traffic_new(&traffic, 2, 100, &err) == OK, "%s", err.text);
    check_or_stop(traffic_register(traffic, metrics, &err) == OK, "%s", err.text);
    x.note.route = slice_of("/p.S/M");
    x.note.model = slice_of("a\"b");
    x.note.version = slice_of("2");
    x.note.code = E_EXHAUSTED;
    traffic_count(traffic, &seen);
    seen.loop = 1;
    x.note.code = OK;
    traffic_count(traffic, &seen);
    traffic_count(traffic, &seen);
    x.note.model = slice_of("");
    seen.status = 65535; /* nobody answers that */
    seen.is_call = false;
    traffic_count(traffic, &seen);
    check(answers(&t, "/p.S/M", "POST", "RESOURCE_EXHAUSTED") == 1, "refused");
    check(answers(&t, "/p.S/M", "POST", "OK") == 2, "answered");
    check(answers(&t, "/p.S/M", "POST", "000") == 1, "no status");
    check(server_metric(
              &t, "penstock_model_requests_total{model=\"a\\\"b\",version=\"2\",code=\"OK\"}") == 2,
          "model");
    check(server_metric(&t, "penstock_route_seconds_bucket{route=\"/p.S/M\",le=\"0.002\"}") == 0 &&
              server_metric(&t, "penstock_route_seconds_bucket{route=\"/p.S/M\",le=\"0.005\"}") ==
                  4,
          "3 ms");
    metrics_free(&metrics);
    traffic_free(&traffic);
}

/* More sets of labels than a loop keeps at hand, in any order, against a plain count; with names that only differ in
 * where the one ends and the next begins. */
TEST(requests_in_any_order_are_counted_where_they_belong)
{
    enum { ROUTES = 4, MODELS = 5, CODES = 3, STEPS = 20000 };
    static const char *const routes[ROUTES] = { "/p.S/M", "/p.S/Ma", "/models/{model}:predict",
                                                "" };
    static const char *const names[MODELS] = { "a", "ab", "a", "b", "" };
    static const char *const versions[MODELS] = { "12", "2", "1", "12", "" };
    static const uint16_t codes[CODES] = { 200, 400, 503 };
    static uint32_t answered[ROUTES][CODES], asked[MODELS][CODES];
    struct traffic *traffic = NULL;
    struct metrics *metrics = metrics_new();
    struct exchange x = { .method = METHOD_POST };
    struct observed seen = { .x = &x, .ended_ns = 5 };
    struct test_server t = { .metrics = metrics };
    struct err err = { 0 };
    uint32_t chance = 1;
    char name[256], text[8];

    check_or_stop(metrics != NULL && traffic_new(&traffic, 2, 100, &err) == OK, "%s", err.text);
    check_or_stop(traffic_register(traffic, metrics, &err) == OK, "%s", err.text);
    for (uint32_t i = 0; i < STEPS; i++) {
        chance = chance * 1664525 + 1013904223;
        uint32_t route = (chance >> 8) % ROUTES, model = (chance >> 16) % MODELS,
                 code = (chance >> 24) % CODES;
        x.note.route = slice_of(routes[route]);
        x.note.model = slice_of(names[model]);
        x.note.version = slice_of(versions[model]);
        seen.status = codes[code];
        seen.loop = chance >> 31;
        traffic_count(traffic, &seen);
        answered[route][code]++;
        asked[model][code]++;
    }
    for (uint32_t i = 0; i < ROUTES; i++)
        for (uint32_t j = 0; j < CODES; j++) {
            snprintf(text, sizeof text, "%u", codes[j]);
            check(answers(&t, routes[i], "POST", text) == answered[i][j], "%s %s", routes[i], text);
        }
    for (uint32_t i = 0; i + 1 < MODELS; i++)
        for (uint32_t j = 0; j < CODES; j++) {
            snprintf(name, sizeof name,
                     "penstock_model_requests_total{model=\"%s\",version=\"%s\",code=\"%u\"}",
                     names[i], versions[i], codes[j]);
            check(server_metric(&t, name) == asked[i][j], "%s", name);
        }
    metrics_free(&metrics);
    traffic_free(&traffic);
}

/* Not a check of speed, which depends on the machine: what the README says is printed by this. */
TEST(counting_costs_little)
{
    enum { ROUNDS = 2000000 };
    struct traffic *traffic = NULL;
    struct exchange x = { .method = METHOD_POST, .begun_ns = 1000 };
    struct observed seen = {
        .x = &x, .status = 200, .ended_ns = 60000, .body_in = 1, .body_out = 1
    };
    struct err err = { 0 };

    check_or_stop(traffic_new(&traffic, 1, 100, &err) == OK, "%s", err.text);
    x.note.route = slice_of("/models/{model}:predict");
    x.note.model = slice_of("iris");
    x.note.version = slice_of("1");
    uint64_t begun = clock_mono_ns();
    for (uint32_t i = 0; i < ROUNDS; i++)
        traffic_count(traffic, &seen);
    double each = (double)(clock_mono_ns() - begun) / ROUNDS;
    printf("counting a request: %.0f ns\n", each);
    check(each < 5000, "%f ns", each);
    traffic_free(&traffic);
}
