/* open_test.c - backends that keep many batches open, and responses that wait for their reader.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The test's backend is CONCURRENT, two batches an instance. Request parameter `do`:
 *   wait     nothing until it is cancelled or its partner (the next `end`) ends it
 *   end      ends the oldest that waits, from within its own call, then itself
 *   texts=N  N responses "a", "b" ..., without looking at credit; `polite`: with
 *   after    one response after 5 ms, by resume_after
 * Each case runs on the loop and on an instance's thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/budget.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "io/env.h"
#include "io/loop.h"
#include "model/config.h"
#include "test/harness.h"

enum { AT_ONCE = 2, QUEUE_MAX = 2, CALLS = 16 };

/* -- the backend -------------------------------------------------------------------------------- */

static const struct penstock_host *host;
static bool is_inline;
static struct penstock_batch *waiting[AT_ONCE]; /* the backend's own: called on one thread */
static unsigned open_now, open_most, inside;
static atomic_uint resumes;

static int t_model_open(void **ret_model, struct penstock_model *model, uint32_t *ret_traits,
                        struct penstock_err *err)
{
    static char handle;
    static const int64_t one[1] = { 1 };

    if (host->declare(model, false, "IN", PENSTOCK_BYTES, 1, one, true, err) != 0 ||
        host->declare(model, true, "OUT", PENSTOCK_BYTES, 1, one, false, err) != 0 ||
        host->declare(model, true, "N", PENSTOCK_INT64, 1, one, true, err) != 0)
        return 13;
    *ret_traits = PENSTOCK_BACKEND_CONCURRENT | PENSTOCK_BACKEND_DECOUPLED |
                  (is_inline ? PENSTOCK_BACKEND_RUNS_INLINE : 0);
    *ret_model = &handle;
    return 0;
}

static void t_close(void **model)
{
    *model = NULL;
}

static int t_instance_open(void **ret, void *model, uint32_t index, struct penstock_place place,
                           struct penstock_err *err)
{
    (void)index, (void)place, (void)err;
    *ret = model;
    return 0;
}

static void finish(struct penstock_batch *batch, int code, const char *text)
{
    open_now--;
    for (int i = 0; i < AT_ONCE; i++)
        if (waiting[i] == batch)
            waiting[i] = NULL;
    host->done(batch, code, text);
}

static void put_text(struct penstock_batch *batch, intptr_t i)
{
    static const int64_t one[1] = { 1 };
    uint32_t length = 1;
    uint8_t *out = host->output(batch, 0, 0, 1, one, 5, NULL);
    int64_t *n = host->output(batch, 0, 1, 1, one, 8, NULL);

    if (out == NULL || n == NULL)
        return;
    memcpy(out, &length, 4);
    out[4] = (uint8_t)('a' + i % 26);
    *n = i;
}

static void go_on(struct penstock_batch *batch)
{
    const char *what = host->parameter(batch, 0, "do"), *n = host->parameter(batch, 0, "texts");
    bool is_polite = strcmp(what, "polite") == 0;
    void **context = host->context(batch);

    if (strcmp(what, "end") == 0) {
        for (int i = 0; i < AT_ONCE; i++)
            if (waiting[i] != NULL) {
                put_text(waiting[i], 25);
                host->emit(waiting[i], 0);
                finish(waiting[i], 0, NULL);
                break;
            }
        finish(batch, 0, NULL);
    } else if (strcmp(what, "wait") == 0) {
        if (host->cancelled(batch, 0))
            finish(batch, 1, "cancelled");
    } else if (strcmp(what, "after") == 0) {
        if (*context == NULL) {
            *context = batch;
            host->resume_after(batch, 60 * NS_PER_S); /* the latest asking counts */
            host->resume_after(batch, 5 * NS_PER_MS);
            return;
        }
        put_text(batch, 0);
        host->emit(batch, 0);
        finish(batch, 0, NULL);
    } else {
        for (intptr_t i = (intptr_t)*context; i < atoi(n); i++) {
            if (host->cancelled(batch, 0)) {
                finish(batch, 1, "cancelled");
                return;
            }
            if (is_polite && host->credit(batch, 0) == 0)
                return;
            put_text(batch, i);
            host->emit(batch, 0);
            *context = (void *)(i + 1);
            if (i % 4 == 3) {
                host->resume_after(batch, 0);
                return;
            }
        }
        finish(batch, 0, NULL);
    }
}

static void t_execute(void *instance, struct penstock_batch *batch)
{
    (void)instance;
    check(inside++ == 0, "calls do not overlap");
    open_now++;
    open_most = MAX(open_most, open_now);
    for (int i = 0; strcmp(host->parameter(batch, 0, "do"), "wait") == 0 && i < AT_ONCE; i++)
        if (waiting[i] == NULL) {
            waiting[i] = batch;
            break;
        }
    go_on(batch);
    inside--;
}

static void t_resume(void *instance, struct penstock_batch *batch)
{
    (void)instance;
    check(inside++ == 0, "calls do not overlap");
    atomic_fetch_add(&resumes, 1);
    go_on(batch);
    inside--;
}

static struct penstock_backend backend = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof backend,
    .name = "test",
    .model_open = t_model_open,
    .model_close = t_close,
    .instance_open = t_instance_open,
    .instance_close = t_close,
    .execute = t_execute,
    .resume = t_resume,
    .batches_max = AT_ONCE,
};

/* -- the stage ---------------------------------------------------------------------------------- */

static struct {
    struct engine *engine;
    struct model *model;
    struct loop *loop;
    struct budget budget;
    struct timer timer;
    void (*begin)(void);
    bool (*is_over)(void);
    uint64_t until_ns;
} stage;

struct call {
    struct arena *arena;
    struct request *request;
    struct parameter parameters[2];
    unsigned responses, ends, frees;
    uint64_t merged, number;
    char text[4096];
    struct err err;
    void (*on_response)(void);
};

static struct call calls[CALLS];

static bool stage_up(bool on_loop)
{
    struct err err = { 0 };
    struct model_config *config = NULL;
    struct model_spec spec = { .name = "m", .version = 1, .folder = "/", .path = "/" };

    memset(&stage, 0, sizeof stage);
    memset(calls, 0, sizeof calls);
    memset(waiting, 0, sizeof waiting);
    open_now = open_most = inside = 0;
    atomic_store(&resumes, 0u);
    is_inline = on_loop;
    budget_init(&stage.budget, 64 << 20);
    struct engine_settings settings = { .loops_count = 1,
                                        .queue_max = QUEUE_MAX,
                                        .budget = &stage.budget };
    bool ok = engine_new(&stage.engine, env_real(), &settings, &err) == OK;
    if (ok)
        host = engine_host(stage.engine);
    ok = ok && config_new(&config, &err) == OK;
    spec.backend = &backend;
    spec.config = config;
    spec.arena = arena_new(4096, 1 << 20);
    ok = ok && model_new(&stage.model, stage.engine, &spec, &err) == OK;
    ok = ok && loop_new(&stage.loop, env_real(), 0, &err) == OK;
    check(ok, "%s", err.text);
    return ok;
}

static void stage_down(void)
{
    for (unsigned i = 0; i < CALLS; i++)
        if (calls[i].arena != NULL) {
            check(calls[i].frees == 1, "call %u: freed %u times", i, calls[i].frees);
            arena_free(&calls[i].arena);
        }
    check(open_most <= AT_ONCE, "%u at once", open_most);
    check(open_now == 0, "%u are open", open_now);
    struct model_stats sum;
    check(model_stats(stage.model, &sum)->running == 0 && sum.pending == 0, "gauges");
    model_unref(&stage.model);
    engine_free(&stage.engine); /* its workers may be leaving loop_post still */
    loop_free(&stage.loop);
    check(budget_used(&stage.budget) == 0, "%llu bytes are still charged",
          (unsigned long long)budget_used(&stage.budget));
}

static void look(struct timer *timer)
{
    uint64_t now = loop_now_ns(stage.loop);

    check(now < stage.until_ns, "it took too long");
    if (stage.is_over() || now >= stage.until_ns)
        loop_stop(stage.loop);
    else
        require(timer_start(stage.loop, timer, now + 100000, NULL) == OK);
}

static void run_begin(struct loop_msg *msg)
{
    (void)msg;
    stage.until_ns = loop_refresh_ns(stage.loop) + 5 * NS_PER_S;
    stage.begin();
    look(&stage.timer);
}

static void stage_run(void (*begin)(void), bool (*is_over)(void))
{
    struct loop_msg msg = { .run = run_begin };

    stage.begin = begin;
    stage.is_over = is_over;
    stage.timer.on_due = look;
    loop_post(stage.loop, &msg);
    loop_run(stage.loop);
}

static void on_response(struct request *request, struct response *response)
{
    struct call *call = request->user;
    const struct penstock_tensor *t = &response->outputs[0].tensor;
    size_t at = strlen(call->text), size = MIN(t->size - 4, sizeof call->text - at - 1);

    check(loop_is_mine(stage.loop) && call->ends == 0, "in its life");
    check(response->number == ++call->number, "numbers without a gap");
    memcpy(call->text + at, (const char *)t->data + 4, size);
    call->text[at + size] = '\0';
    call->responses++;
    call->merged += response->merged;
    if (call->on_response != NULL)
        call->on_response();
}

static void on_end(struct request *request, const struct err *err)
{
    struct call *call = request->user;

    check(call->ends++ == 0 && call->frees == 0, "once");
    call->err = *err;
}

static void on_free(struct request *request)
{
    struct call *call = request->user;

    check(call->frees++ == 0, "once");
}

static const struct request_sink sink = { on_response, on_end, on_free };

static struct call *make(unsigned i, const char *what, const char *texts)
{
    struct call *call = &calls[i];
    struct err err = { 0 };

    call->arena = arena_new(4096, 1 << 20);
    check(request_new(&call->request, stage.engine, stage.model, call->arena, stage.loop, &sink,
                      &err) == OK,
          "%s", err.text);
    call->request->user = call;
    call->parameters[0] = (struct parameter){ .key = "do", .text = what };
    call->parameters[1] = (struct parameter){ .key = "texts", .text = texts };
    call->parameters[0].next = texts != NULL ? &call->parameters[1] : NULL;
    call->request->parameters = &call->parameters[0];
    return call;
}

static void submit(unsigned i, const char *what, const char *texts)
{
    engine_submit(make(i, what, texts)->request);
}

static bool all_free(void)
{
    for (unsigned i = 0; i < CALLS; i++)
        if (calls[i].arena != NULL && calls[i].frees == 0)
            return false;
    return true;
}

#define on_both(up) for (int both_ = 0; both_ < 2 && (up = stage_up(both_ == 0)); both_++)

/* -- many at once --------------------------------------------------------------------------------- */

static void wait_and_end(void)
{
    submit(0, "wait", NULL);
    submit(1, "end", NULL);
}

TEST(one_batch_may_end_another)
{
    bool up;

    on_both(up)
    {
        stage_run(wait_and_end, all_free);
        check(calls[0].responses == 1 && calls[0].err.code == OK && strcmp(calls[0].text, "z") == 0,
              "%s", calls[0].err.text);
        check(calls[1].responses == 0 && calls[1].err.code == OK, "%s", calls[1].err.text);
        stage_down();
    }
}

static void fill_the_room(void)
{
    for (unsigned i = 0; i < 2; i++)
        submit(i, "wait", NULL);
}

static bool two_open(void)
{
    struct model_stats sum;

    return model_stats(stage.model, &sum)->running == 2;
}

static void and_more(void)
{
    submit(2, "after", NULL);
    submit(3, "texts", "3");
    submit(4, "texts", "3");
}

static bool one_refused(void)
{
    return calls[4].frees == 1;
}

static void leave_one(void)
{
    check(calls[4].err.code == E_EXHAUSTED && strstr(calls[4].err.text, "--queue-max") != NULL &&
              calls[4].err.retry_after_ms != 0,
          "%s", calls[4].err.text);
    check(calls[2].ends == 0 && calls[3].ends == 0, "these wait");
    request_cancel(calls[3].request); /* while it waits */
    check(calls[3].frees == 1, "at once");
    request_cancel(calls[0].request); /* while it runs: room for one */
}

static bool third_is_answered(void)
{
    return calls[2].frees == 1 && calls[0].frees == 1;
}

static void leave_rest(void)
{
    request_cancel(calls[1].request);
}

TEST(who_finds_no_room_waits)
{
    bool up;

    on_both(up)
    {
        stage_run(fill_the_room, two_open);
        stage_run(and_more, one_refused);
        stage_run(leave_one, third_is_answered);
        check(calls[2].responses == 1 && calls[2].err.code == OK, "%s", calls[2].err.text);
        check(calls[0].ends == 0 && calls[3].ends == 0, "who left hears nothing");
        stage_run(leave_rest, all_free);
        check(model_stats(stage.model, &(struct model_stats){ 0 })->cancelled_total == 3,
              "counted");
        stage_down();
    }
}

static void late_while_waiting(void)
{
    struct call *call = make(2, "wait", NULL);
    call->request->deadline_ns = loop_now_ns(stage.loop) + 10 * NS_PER_MS;
    engine_submit(call->request);
    call = make(3, "texts", "1");
    call->request->deadline_ns = loop_now_ns(stage.loop) + 60 * NS_PER_S;
    engine_submit(call->request);
}

static bool third_is_free(void)
{
    return calls[2].frees == 1;
}

static void leave_two(void)
{
    request_cancel(calls[0].request);
    request_cancel(calls[1].request);
}

TEST(a_deadline_holds_for_those_who_wait)
{
    bool up;

    on_both(up)
    {
        stage_run(fill_the_room, two_open);
        stage_run(late_while_waiting, third_is_free);
        check(calls[2].err.code == E_DEADLINE && strstr(calls[2].err.text, "queued") != NULL, "%s",
              calls[2].err.text);
        stage_run(leave_two, all_free);
        check(calls[3].err.code == OK && calls[3].responses == 1, "%s", calls[3].err.text);
        stage_down();
    }
}

static void late_while_running(void)
{
    struct call *call = make(0, "wait", NULL);

    call->request->deadline_ns = loop_now_ns(stage.loop) + 10 * NS_PER_MS;
    engine_submit(call->request);
}

TEST(a_deadline_wakes_who_runs)
{
    bool up;

    on_both(up)
    {
        uint64_t from = clock_mono_ns();
        stage_run(late_while_running, all_free);
        check(calls[0].err.code == E_DEADLINE, "%s", calls[0].err.text);
        check(clock_mono_ns() - from < NS_PER_S, "at once");
        struct model_stats sum;
        model_stats(stage.model, &sum);
        uint64_t cancels = 0;
        for (size_t i = 0; i < STAT_BUCKETS; i++)
            cancels += sum.cancel.buckets[i];
        check(cancels == 1 && sum.cancel.sum_ns < NS_PER_S, "how long it took is counted");
        stage_down();
    }
}

static void submit_another(void)
{
    if (calls[1].arena == NULL)
        submit(1, "texts", "2"); /* from the sink, while the backend is being called */
}

static void nested(void)
{
    make(0, "texts", "1")->on_response = submit_another;
    engine_submit(calls[0].request);
}

TEST(a_sink_may_submit)
{
    bool up;

    on_both(up)
    {
        stage_run(nested, all_free);
        check(strcmp(calls[0].text, "a") == 0 && strcmp(calls[1].text, "ab") == 0, "%s %s",
              calls[0].text, calls[1].text);
        stage_down();
    }
}

static void after(void)
{
    submit(0, "after", NULL);
}

TEST(a_batch_is_resumed_at_its_time)
{
    bool up;

    on_both(up)
    {
        uint64_t from = clock_mono_ns();
        stage_run(after, all_free);
        check(clock_mono_ns() - from >= 5 * NS_PER_MS, "not before");
        check(atomic_load(&resumes) == 1, "%u resumes", atomic_load(&resumes));
        stage_down();
    }
}

/* -- credit ---------------------------------------------------------------------------------------- */

static void limited(const char *what, const char *texts, enum session_merge merge)
{
    struct call *call = make(0, what, texts);

    request_merge(call->request, merge);
    request_limit_credit(call->request, 1);
    engine_submit(call->request);
}

static void polite(void)
{
    limited("polite", "9", SESSION_PAUSE);
}

static bool first_given(void)
{
    static unsigned looks;

    return calls[0].responses == 1 && ++looks % 16 == 0;
}

static void grant_three(void)
{
    check(calls[0].responses == 1, "%u for 1", calls[0].responses);
    request_grant(calls[0].request, 3);
}

static bool four_given(void)
{
    static unsigned looks;

    return calls[0].responses == 4 && ++looks % 16 == 0;
}

static void grant_all(void)
{
    check(calls[0].ends == 0, "it waits for its reader");
    request_grant(calls[0].request, UINT32_MAX);
}

TEST(a_reader_is_never_given_more_than_it_granted)
{
    bool up;

    on_both(up)
    {
        stage_run(polite, first_given);
        stage_run(grant_three, four_given);
        check(calls[0].responses == 4, "%u for 4", calls[0].responses);
        stage_run(grant_all, all_free);
        check(strcmp(calls[0].text, "abcdefghi") == 0 && calls[0].err.code == OK, "%s",
              calls[0].text);
        struct model_stats sum;
        model_stats(stage.model, &sum);
        check(sum.paused_total == 2 && sum.paused_ns > 0, "%llu pauses",
              (unsigned long long)sum.paused_total);
        stage_down();
    }
}

static void rude(void)
{
    limited("texts", "9", SESSION_PAUSE);
}

TEST(what_comes_without_credit_waits)
{
    bool up;

    on_both(up)
    {
        stage_run(rude, first_given);
        stage_run(grant_three, four_given);
        check(calls[0].responses == 4, "%u for 4", calls[0].responses);
        stage_run(grant_all, all_free);
        check(strcmp(calls[0].text, "abcdefghi") == 0 && calls[0].err.code == OK, "%s",
              calls[0].text);
        stage_down();
    }
}

static void very_rude(void)
{
    limited("texts", "1000000", SESSION_PAUSE);
}

TEST(who_goes_on_without_credit_is_stopped)
{
    bool up;

    on_both(up)
    {
        stage_run(very_rude, first_given);
        stage_run(grant_all, all_free);
        check(calls[0].err.code == E_INTERNAL && strstr(calls[0].err.text, "takes nothing") != NULL,
              "%s", calls[0].err.text);
        stage_down();
    }
}

static void latest(void)
{
    limited("texts", "9", SESSION_LATEST);
}

static void concat(void)
{
    limited("texts", "9", SESSION_CONCAT);
}

static bool eight_merged(void)
{
    struct model_stats sum;

    return model_stats(stage.model, &sum)->merged_total == 7;
}

TEST(responses_that_wait_are_merged)
{
    bool up;

    on_both(up)
    {
        stage_run(latest, eight_merged);
        check(calls[0].responses == 1 && calls[0].ends == 0, "the last waits");
        stage_run(grant_all, all_free);
        check(strcmp(calls[0].text, "ai") == 0 && calls[0].merged == 7 && calls[0].err.code == OK,
              "%s, %llu merged", calls[0].text, (unsigned long long)calls[0].merged);
        stage_down();
    }
    on_both(up)
    {
        stage_run(concat, eight_merged);
        stage_run(grant_all, all_free);
        check(strcmp(calls[0].text, "abcdefghi") == 0 && calls[0].merged == 7, "%s, %llu merged",
              calls[0].text, (unsigned long long)calls[0].merged);
        stage_down();
    }
}

static bool three_kept(void)
{
    static unsigned looks;

    return calls[0].responses == 1 && ++looks % 16 == 0;
}

static void few(void)
{
    limited("texts", "3", SESSION_PAUSE);
}

static void leave(void)
{
    check(calls[0].ends == 0, "it waits for its reader");
    request_cancel(calls[0].request);
}

TEST(a_reader_may_leave_what_waits)
{
    bool up;

    on_both(up)
    {
        stage_run(few, three_kept);
        stage_run(leave, all_free);
        check(calls[0].responses == 1 && calls[0].ends == 0, "nothing more");
        stage_down();
    }
}

static void few_with_deadline(void)
{
    struct call *call = make(0, "texts", "3");

    request_limit_credit(call->request, 1);
    call->request->deadline_ns = loop_now_ns(stage.loop) + 20 * NS_PER_MS;
    engine_submit(call->request);
}

TEST(a_deadline_ends_the_waiting_for_a_reader)
{
    bool up;

    on_both(up)
    {
        stage_run(few_with_deadline, all_free);
        check(calls[0].responses == 1 && calls[0].err.code == E_DEADLINE, "%s", calls[0].err.text);
        stage_down();
    }
}

static void unload(void)
{
    submit(0, "after", NULL);
    model_unref(&stage.model); /* the request has the last reference now */
}

TEST(a_model_that_is_unloaded_finishes_what_runs)
{
    bool up;

    on_both(up)
    {
        stage_run(unload, all_free);
        check(calls[0].responses == 1 && calls[0].err.code == OK, "%s", calls[0].err.text);
        arena_free(&calls[0].arena);
        engine_free(&stage.engine); /* its workers may be leaving loop_post still */
        loop_free(&stage.loop);
    }
}

TEST(a_concurrent_backend_needs_resume)
{
    struct err err = { 0 };
    struct engine *engine = NULL;
    struct engine_settings settings = { .loops_count = 1 };
    struct penstock_backend without = backend;

    without.resume = NULL;
    check_or_stop(engine_new(&engine, env_real(), &settings, &err) == OK, "%s", err.text);
    host = engine_host(engine);
    struct model *model = NULL;
    struct model_config *config = NULL;
    check(config_new(&config, &err) == OK, "config");
    struct model_spec spec = { .name = "m",
                               .version = 1,
                               .folder = "/",
                               .path = "/",
                               .backend = &without,
                               .config = config,
                               .arena = arena_new(4096, 1 << 20) };
    check(model_new(&model, engine, &spec, &err) == E_INTERNAL &&
              strstr(err.text, "no resume()") != NULL,
          "%s", err.text);
    config_free(&spec.config);
    arena_free(&spec.arena);
    engine_free(&engine);
}
