/* engine_bench.c - what a response of a stream costs in the engine, from the backend's emit to the
 * reader's sink. SPDX-License-Identifier: Apache-2.0
 *
 *     ninja -C BUILD src/engine/engine_bench && BUILD/src/engine/engine_bench [rounds]
 *
 * One loop: `echo` in mode repeat answers each request with 64 small texts, 16 requests at a time, for
 * a sink that only counts. The best of ten times `rounds` sets of 16; also with credit granted 8 at a
 * time, and on an instance's own thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/builtin.h"
#include "base/arena.h"
#include "base/budget.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "io/env.h"
#include "io/loop.h"

/* Not by builtin.h, which hands every engine's models the first one's host. */
penstock_backend_entry_fn backend_echo_entry;

enum { TIMES = 10, AT_ONCE = 16, TOKENS = 64 };

static struct {
    struct engine *engine;
    struct model *model;
    struct loop *loop;
    struct budget budget;
    struct arena *arenas[AT_ONCE];
    unsigned open, rounds, round;
    uint32_t grant;
    uint64_t responses, bytes, since, best_ns;
    int time;
} b;

static void start_set(void);

static void on_response(struct request *request, struct response *response)
{
    b.responses++;
    b.bytes += response->outputs[0].tensor.size;
    if (b.grant != 0 && response->number % b.grant == 0)
        request_grant(request, b.grant);
}

static void on_end(struct request *request, const struct err *err)
{
    (void)request;
    if (err->code != OK)
        abort();
}

static void on_free(struct request *request)
{
    (void)request;
    if (--b.open > 0)
        return;
    start_set();
}

static const struct request_sink sink = { on_response, on_end, on_free };

static void one(struct arena *arena)
{
    static const uint8_t text[] = { 6, 0, 0, 0, 't', 'o', 'k', 'e', 'n', 's' };
    struct request *request = NULL;
    struct err err;

    arena_reset(arena);
    if (request_new(&request, b.engine, b.model, arena, b.loop, &sink, &err) != OK)
        abort();
    request->inputs[0] = (struct penstock_tensor){
        .dtype = PENSTOCK_BYTES, .rank = 1, .shape = { 1 }, .data = text, .size = sizeof text
    };
    request->has_input[0] = true;
    if (b.grant != 0)
        request_limit_credit(request, b.grant);
    engine_submit(request);
}

static struct loop_msg set_msg;

static void run_set(struct loop_msg *msg)
{
    (void)msg;
    b.open = AT_ONCE;
    for (int i = 0; i < AT_ONCE; i++)
        one(b.arenas[i]);
}

static void start_set(void)
{
    if (b.round++ == b.rounds) {
        uint64_t took = loop_refresh_ns(b.loop) - b.since;
        b.best_ns = b.time == 0 ? took : MIN(b.best_ns, took);
        b.since += took;
        b.round = 1;
        if (++b.time == TIMES) {
            loop_stop(b.loop);
            return;
        }
    }
    loop_post(b.loop, &set_msg);
}

static void begin(struct loop_msg *msg)
{
    (void)msg;
    b.since = loop_refresh_ns(b.loop);
    start_set();
}

static void measure(const char *what, const char *execution, uint32_t grant, unsigned rounds)
{
    char config[600];
    struct err err = { .code = OK };
    struct model_config *parsed = NULL;
    struct loop_msg first = { .run = begin };
    struct engine_settings settings = { .loops_count = 1, .queue_max = 1000, .budget = &b.budget };

    memset(&b, 0, sizeof b);
    b.rounds = rounds;
    b.grant = grant;
    set_msg.run = run_set;
    budget_init(&b.budget, 1 << 30);
    snprintf(config, sizeof config,
             "input { name: 'in' data_type: TYPE_STRING dims: 1 } "
             "output { name: 'out' data_type: TYPE_STRING dims: 1 } "
             "parameters { key: 'mode' value { string_value: 'repeat' } } "
             "parameters { key: 'count' value { string_value: '%d' } } "
             "parameters { key: 'execution' value { string_value: '%s' } }",
             TOKENS, execution);
    struct model_spec spec = { .name = "m", .version = 1, .folder = "/", .path = "/" };
    if (engine_new(&b.engine, env_real(), &settings, &err) != OK ||
        config_parse(&parsed, slice_of(config), &err) != OK)
        abort();
    spec.config = parsed;
    spec.arena = arena_new(4096, 1 << 20);
    spec.backend = backend_echo_entry(engine_host(b.engine), backend_err(&err));
    if (model_new(&b.model, b.engine, &spec, &err) != OK ||
        loop_new(&b.loop, env_real(), 0, &err) != OK)
        abort();
    for (int i = 0; i < AT_ONCE; i++)
        b.arenas[i] = arena_new(16384, 1 << 20);
    loop_post(b.loop, &first);
    loop_run(b.loop);
    double tokens = (double)rounds * AT_ONCE * TOKENS;
    printf("%-34s %7.1f ns a response, %6.2f million/s\n", what, (double)b.best_ns / tokens,
           tokens / ((double)b.best_ns / 1e9) / 1e6);
    if (b.responses != (uint64_t)(tokens * TIMES) || b.bytes != b.responses * 10)
        abort();
    for (int i = 0; i < AT_ONCE; i++)
        arena_free(&b.arenas[i]);
    model_unref(&b.model);
    loop_free(&b.loop);
    engine_free(&b.engine);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 200;

    measure("on the loop", "auto", 0, rounds);
    measure("on the loop, granted 8 at a time", "auto", 8, rounds);
    measure("on a thread", "queued", 0, rounds);
    return 0;
}
