/* events_fuzz.c - what readers of events and of kept streams send: ids in the path, numbers in the query and in
 * headers, seconds. SPDX-License-Identifier: Apache-2.0
 *
 * Lines: the path's id (empty: that of a stream there is), the query, last-event-id, x-resume, accept.
 * Whatever they say there is one answer, and nothing is held behind it.
 */
#include <stdatomic.h>
#include <stdio.h>

#include "api/fake_exchange.h"
#include "api/push.h"
#include "api/resume.h"
#include "base/arena.h"
#include "base/budget.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct budget budget;
static struct loop *loop;
static atomic_bool is_draining;
static struct grpc_watchers watchers = { .max = 10 };
static struct api api = { .is_draining = &is_draining, .watchers = &watchers };
static struct resumable *kept;
static struct fake maker;
static struct slice lines[5];

static void on_expired(struct resumable *r UNUSED)
{
}

static const struct resumable_user user = { .on_expired = on_expired };

static void on_release(struct fake *fake UNUSED)
{
}

static void start(struct loop_msg *msg UNUSED)
{
    struct resumables_settings resume = { .env = env_real(),
                                          .node = "n1",
                                          .time_ns = UINT64_MAX / 4,
                                          .streams_max = 4,
                                          .events_max = 10,
                                          .bytes_max = 1 << 20,
                                          .budget = &budget };
    struct push_settings push = {
        .env = env_real(), .node = "n1", .events_max = 4, .budget = &budget
    };
    struct arena *arena = arena_new(4096, 1 << 20);

    require(arena != NULL);
    require(resumables_new(&api.resumables, &resume, NULL) == OK);
    require(push_new(&api.push, &push, NULL) == OK);
    for (unsigned i = 0; i < 7; i++)
        push_model(api.push, i % 2 == 0 ? PUSH_LOADING : PUSH_READY, slice_of("m"), slice_of("1"),
                   slice_of(""));
    fake_init(&maker, loop, arena, &budget, METHOD_POST, "/make", slice_make("", 0));
    require(resumable_new(&kept, &api, &maker.x, UINT64_MAX / 4, &user, NULL, NULL) == OK);
    for (unsigned i = 0; i < 8; i++)
        require(resumable_put(kept, slice_of("e"), slice_of("{}")));
    loop_stop(loop);
}

static void visit(const char *path, bool is_stream)
{
    static const struct route_table *const tables[] = { &resume_routes, &push_routes };
    static const char *const names[] = { NULL, NULL, "last-event-id", "x-resume", "accept" };
    struct arena *arena = arena_new(1024, 1 << 20);
    struct fake fake;
    struct err err = { 0 };
    uint64_t ns;

    require(arena != NULL);
    fake_init(&fake, loop, arena, &budget, METHOD_GET, path, slice_make("", 0));
    fake.on_release = on_release;
    fake.x.query = lines[1];
    for (unsigned i = 2; i < COUNT(lines); i++)
        if (lines[i].size > 0)
            fake.request_headers[fake.x.headers_count++] =
                (struct header){ slice_of(names[i]), lines[i] };
    require(resume_asked(&fake.x, &api, &ns, &err) == OK || err.text[0] != '\0');
    if (is_stream && lines[0].size > 0) {
        /* As the router has it, who has decoded the segment. */
        struct route_match match = { .params = { lines[0] }, .params_count = 1, .api = &api };
        resume_routes.routes[0].handle(&fake.x, &match);
    } else {
        require(fake_start(&fake, &api, tables, COUNT(tables)));
    }
    require(fake.status != 0 && fake.status < 500);
    if (!fake.x.is_ended) {
        fake.x.is_gone = true;
        fake.x.user->on_gone(&fake.x);
    }
    loop_undefer(&fake.finish);
    struct exchange *x = &fake.x;
    exchange_unref(&x);
    require(fake.is_released && atomic_load(&watchers.now) == 0);
    fake_deinit(&fake);
    arena_free(&arena);
}

static void run(struct loop_msg *msg UNUSED)
{
    char path[200];

    snprintf(path, sizeof path, "/streams/%s", resumable_id(kept));
    visit(path, true);
    visit("/events", false);
    loop_stop(loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct loop_msg msg = { .run = run }, first = { .run = start };
    struct slice rest = slice_make(data, size);

    if (loop == NULL) {
        budget_init(&budget, 64 << 20);
        require(loop_new(&loop, env_real(), 0, NULL) == OK);
        loop_post(loop, &first);
        loop_run(loop);
    }
    for (unsigned i = 0; i < COUNT(lines); i++) {
        lines[i] = slice_first(rest, slice_find(rest, '\n'));
        rest = slice_skip(rest, MIN(lines[i].size + 1, rest.size));
    }
    loop_post(loop, &msg);
    loop_run(loop);
    return 0;
}
