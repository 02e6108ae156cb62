/* engine_test.c - requests from submit to free, against a backend made for it, on a real loop.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The test's backend adds 1 to each FP32 and does what the request's parameter `do` says: wait until
 * cancelled, fail, forget an output, answer five times ...
 */
#include "engine/engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/budget.h"
#include "base/clock.h"
#include "base/mem.h"
#include "io/loop.h"
#include "model/config.h"
#include "telemetry/trace.h"
#include "test/harness.h"

/* -- the backend -------------------------------------------------------------------------------- */

static const struct penstock_host *host;
static atomic_uint runs, cancels, saw_cancel;
static uint32_t model_traits;
static atomic_bool hold; /* runs of do=hold wait until it is false */

static int t_model_open(void **ret_model, struct penstock_model *model, uint32_t *ret_traits,
                        struct penstock_err *err)
{
    static const int64_t dims[2] = { -1, 4 };
    static char handle;

    if (host->declare(model, false, "IN", PENSTOCK_FP32, 2, dims, false, err) != 0 ||
        host->declare(model, false, "NAMES", PENSTOCK_BYTES, 1, dims, true, err) != 0 ||
        host->declare(model, true, "OUT", PENSTOCK_FP32, 2, dims, false, err) != 0)
        return 13;
    *ret_traits = model_traits;
    *ret_model = &handle;
    return 0;
}

static void t_model_close(void **model)
{
    *model = NULL;
}

static int t_instance_open(void **ret, void *model, uint32_t index, struct penstock_place place,
                           struct penstock_err *err)
{
    (void)index;
    (void)place;
    (void)err;
    *ret = model;
    return 0;
}

static void nap(void)
{
    nanosleep(&(struct timespec){ 0, 200000 }, NULL);
}

static void add_one(struct penstock_batch *batch)
{
    const struct penstock_tensor *in = host->input(batch, 0);
    struct err err = { 0 };
    float *out = host->output(batch, 0, 0, in->rank, in->shape, in->size,
                              (struct penstock_err *)(void *)&err);

    if (out == NULL) {
        host->fail_row(batch, 0, (int)err.code, err.text);
        return;
    }
    for (size_t i = 0; i < in->size / 4; i++)
        out[i] = ((const float *)in->data)[i] + 1;
}

static char trace_text[TRACEPARENT_MAX];
static bool trace_told, trace_misused;

static void t_execute(void *instance, struct penstock_batch *batch)
{
    const char *what = host->parameter(batch, 0, "do");

    (void)instance;
    atomic_fetch_add(&runs, 1);
    if (what == NULL || strcmp(what, "add") == 0) {
        host->mark_compute(batch, false);
        add_one(batch);
        host->mark_compute(batch, true);
    } else if (strcmp(what, "trace") == 0) {
        trace_told = host->traceparent(batch, 0, trace_text, sizeof trace_text);
        trace_misused = host->traceparent(batch, 1, trace_text, sizeof trace_text) ||
                        host->traceparent(batch, 0, trace_text, sizeof trace_text - 1);
        add_one(batch);
    } else if (strcmp(what, "hold") == 0) {
        while (atomic_load(&hold) && !host->cancelled(batch, 0))
            nap();
        add_one(batch);
    } else if (strcmp(what, "wait") == 0) {
        while (!host->cancelled(batch, 0))
            nap();
        atomic_fetch_add(&saw_cancel, 1);
    } else if (strcmp(what, "five") == 0) {
        for (unsigned i = 0; i < 5; i++) {
            if (host->credit(batch, 0) == 0)
                host->wait_credit(batch, 0);
            add_one(batch);
            host->emit(batch, 0);
        }
    } else if (strcmp(what, "fail") == 0) {
        host->done(batch, 3, "index 17 is out of bounds");
        return;
    }
    host->done(batch, 0, NULL); /* do=forget: without an output */
}

static void t_cancel(void *instance)
{
    (void)instance;
    atomic_fetch_add(&cancels, 1);
}

static const struct penstock_backend backend = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof backend,
    .name = "test",
    .model_open = t_model_open,
    .model_close = t_model_close,
    .instance_open = t_instance_open,
    .instance_close = t_model_close,
    .execute = t_execute,
    .cancel = t_cancel,
};

/* -- the stage ---------------------------------------------------------------------------------- */

static struct {
    struct engine *engine;
    struct model *model;
    struct loop *loop;
    struct budget budget;
    unsigned waiting; /* calls that must still be freed before the loop stops */
} stage;

static bool stage_up_in(struct env *env, const char *config_text, uint32_t traits,
                        enum execution execution)
{
    struct err err = { 0 };
    struct model_config *config = NULL;
    struct model_spec spec = { .name = "m", .version = 1, .folder = "/", .path = "/" };

    memset(&stage, 0, sizeof stage);
    budget_init(&stage.budget, 64 << 20);
    struct engine_settings settings = { .loops_count = 1,
                                        .queue_max = 3,
                                        .execution = execution,
                                        .budget = &stage.budget };
    model_traits = traits;
    atomic_store(&runs, 0);
    atomic_store(&cancels, 0);
    atomic_store(&saw_cancel, 0);
    atomic_store(&hold, true);
    bool ok = engine_new(&stage.engine, env, &settings, &err) == OK;
    if (ok)
        host = engine_host(stage.engine);
    ok = ok && config_parse(&config, slice_of(config_text), &err) == OK;
    spec.backend = &backend;
    spec.config = config;
    spec.arena = arena_new(4096, 1 << 20);
    ok = ok && model_new(&stage.model, stage.engine, &spec, &err) == OK;
    ok = ok && loop_new(&stage.loop, env_real(), 0, &err) == OK;
    check(ok, "%s", err.text);
    return ok;
}

static bool stage_up(const char *config_text, uint32_t traits, enum execution execution)
{
    return stage_up_in(env_real(), config_text, traits, execution);
}

static void stage_down(void)
{
    model_unref(&stage.model);
    check(budget_used(&stage.budget) == 0, "%llu bytes are still charged",
          (unsigned long long)budget_used(&stage.budget));
    loop_free(&stage.loop);
    engine_free(&stage.engine);
}

struct call {
    struct arena *arena;
    struct request *request;
    struct parameter parameter;
    float in[4096];
    unsigned responses, ends, frees;
    float first_out;
    struct err err;
    struct timer timer;
    bool cancel_on_response;
};

static void stop_if_last(void)
{
    if (--stage.waiting == 0)
        loop_stop(stage.loop);
}

static void on_response(struct request *request, struct response *response)
{
    struct call *call = request->user;

    check(loop_is_mine(stage.loop), "on the loop");
    check(call->ends == 0, "no response after the end");
    if (call->responses++ == 0 && response->outputs[0].is_set)
        call->first_out = ((const float *)response->outputs[0].tensor.data)[0];
}

static void on_end(struct request *request, const struct err *err)
{
    struct call *call = request->user;

    check(call->frees == 0, "not after on_free");
    call->ends++;
    call->err = *err;
}

static void on_free(struct request *request)
{
    struct call *call = request->user;

    check(call->frees++ == 0, "once");
    stop_if_last();
}

static const struct request_sink sink = { on_response, on_end, on_free };

static void call_make(struct call *call, const char *what, uint32_t columns)
{
    struct err err;

    memset(call, 0, sizeof *call);
    call->arena = arena_new(16384, 1 << 20);
    check(request_new(&call->request, stage.engine, stage.model, call->arena, stage.loop, &sink,
                      &err) == OK,
          "request_new");
    call->request->user = call;
    call->in[0] = 41;
    call->request->inputs[0] = (struct penstock_tensor){ .dtype = PENSTOCK_FP32,
                                                         .rank = 2,
                                                         .shape = { columns, 4 },
                                                         .data = call->in,
                                                         .size = columns * 16 };
    call->request->has_input[0] = true;
    if (what != NULL) {
        call->parameter = (struct parameter){ .key = "do", .text = what };
        call->request->parameters = &call->parameter;
    }
    stage.waiting++;
}

static void call_drop(struct call *call)
{
    check(call->frees == 1, "freed %u times", call->frees);
    arena_free(&call->arena);
}

/* Runs `start` on the loop, then the loop until every call is freed. */
struct starter {
    struct loop_msg msg;
    void (*start)(void);
};

static void run_starter(struct loop_msg *msg)
{
    CONTAINER_OF(msg, struct starter, msg)->start();
}

static void stage_run(void (*start)(void))
{
    struct starter starter = { { { NULL }, run_starter }, start };

    loop_post(stage.loop, &starter.msg);
    loop_run(stage.loop);
}

static const char plain[] = "";

/* -- cases -------------------------------------------------------------------------------------- */

static struct call calls[8];

static void submit_one(void)
{
    engine_submit(calls[0].request);
}

static void run_once(const char *what)
{
    call_make(&calls[0], what, 1);
    stage_run(submit_one);
    call_drop(&calls[0]);
}

TEST(a_queued_request_is_answered)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    run_once(NULL);
    check(calls[0].responses == 1 && calls[0].ends == 1, "%u %u", calls[0].responses,
          calls[0].ends);
    check(calls[0].err.code == OK && calls[0].first_out == 42, "%s", calls[0].err.text);
    struct model_stats sum;
    const struct model_stats *stats = model_stats(stage.model, &sum);
    check(stats->success.count == 1 && stats->runs_queued == 1 && stats->runs_inline == 0 &&
              stats->pending == 0 && stats->inference_count == 1,
          "accounted");
    check(engine_in_flight(stage.engine) == 0, "none in flight");
    stage_down();
}

TEST(a_short_model_runs_inline_without_the_heap)
{
    if (!stage_up(plain, PENSTOCK_BACKEND_RUNS_INLINE, EXECUTION_AUTO))
        return;
    run_once(NULL);
    check(model_stats(stage.model, &(struct model_stats){ 0 })->runs_inline == 1,
          "warm-up measured it");
    check(calls[0].first_out == 42, "answered");
    call_make(&calls[0], NULL, 1);
    uint64_t before = mem_count();
    stage_run(submit_one);
    check(mem_count() == before, "%llu allocations", (unsigned long long)(mem_count() - before));
    call_drop(&calls[0]);
    stage_down();
}

TEST(a_backend_is_told_its_callers_trace)
{
    static const char with_span[] = "00-01020000000000000000000000000000-0900000000000000-01";
    static const char without[] = "00-01020000000000000000000000000000-0700000000000000-00";
    struct trace_context trace = { .trace_id = { 1, 2 }, .parent_id = { 7 }, .span_id = { 9 },
                                   .is_sampled = true };

    if (!stage_up(plain, 0, EXECUTION_QUEUED))
        return;
    call_make(&calls[0], "trace", 1);
    stage_run(submit_one);
    check(!trace_told && !trace_misused, "there is none");
    call_drop(&calls[0]);
    for (unsigned i = 0; i < 2; i++) {
        memset(trace.span_id, 0, i * sizeof trace.span_id);
        trace.is_sampled = i == 0;
        call_make(&calls[0], "trace", 1);
        calls[0].request->trace = &trace;
        stage_run(submit_one);
        check(trace_told && !trace_misused, "there is one");
        check(strcmp(trace_text, i == 0 ? with_span : without) == 0, "%s", trace_text);
        call_drop(&calls[0]);
    }
    stage_down();
}

TEST(a_large_answer_is_charged_and_given_back)
{
    if (!stage_up(plain, PENSTOCK_BACKEND_RUNS_INLINE, EXECUTION_INLINE))
        return;
    call_make(&calls[0], NULL, 1000);
    stage_run(submit_one);
    check(calls[0].err.code == OK && calls[0].first_out == 42, "%s", calls[0].err.text);
    call_drop(&calls[0]);
    check(model_stats(stage.model, &(struct model_stats){ 0 })->inference_count == 1000, "rows of the batch");
    stage_down();
}

static const struct misfit {
    const char *words;
    enum err_code code;
    enum penstock_dtype dtype;
    uint32_t rank;
    int64_t shape[3];
    size_t size;
    bool is_missing;
} refusals[] = {
    { "has datatype INT32; the model takes FP32", E_INVALID, PENSTOCK_INT32, 2, { 1, 4 }, 16, 0 },
    { "got [1,5], expected [-1,4]", E_INVALID, PENSTOCK_FP32, 2, { 1, 5 }, 20, 0 },
    { "got [4], expected [-1,4]", E_INVALID, PENSTOCK_FP32, 1, { 4 }, 16, 0 },
    { "got [-1,4], expected [-1,4]", E_INVALID, PENSTOCK_FP32, 2, { -1, 4 }, 16, 0 },
    { "has 12 bytes; shape [1,4] of FP32 is 4 elements", E_INVALID, PENSTOCK_FP32, 2, { 1, 4 }, 12, 0 },
    { "too many elements", E_INVALID, PENSTOCK_FP32, 2, { INT64_MAX, 4 }, 16, 0 },
    { "input 'IN' is missing", E_INVALID, PENSTOCK_FP32, 2, { 1, 4 }, 16, true },
};

TEST(what_does_not_fit_the_signature_is_refused)
{
    if (!stage_up(plain, PENSTOCK_BACKEND_RUNS_INLINE, EXECUTION_AUTO))
        return;
    for (size_t i = 0; i < COUNT(refusals); i++) {
        const struct misfit *c = &refusals[i];
        call_make(&calls[0], NULL, 1);
        struct penstock_tensor *t = &calls[0].request->inputs[0];
        t->dtype = c->dtype;
        t->rank = c->rank;
        memcpy(t->shape, c->shape, sizeof c->shape);
        t->size = c->size;
        calls[0].request->has_input[0] = !c->is_missing;
        stage_run(submit_one);
        check(calls[0].err.code == c->code && strstr(calls[0].err.text, c->words) != NULL,
              "case %zu: %s", i, calls[0].err.text);
        check(calls[0].responses == 0 && calls[0].ends == 1, "case %zu", i);
        call_drop(&calls[0]);
    }
    check(atomic_load(&runs) == 4, "only the warm-up ran: %u", atomic_load(&runs));
    stage_down();
}

TEST(a_batch_over_the_maximum_is_refused)
{
    if (!stage_up("max_batch_size: 4 "
                  "input { name: 'IN' data_type: TYPE_FP32 dims: 4 } "
                  "output { name: 'OUT' data_type: TYPE_FP32 dims: 4 }",
                  PENSTOCK_BACKEND_CAN_BATCH, EXECUTION_AUTO))
        return;
    call_make(&calls[0], NULL, 5);
    stage_run(submit_one);
    check(strstr(calls[0].err.text, "batch-size must be <= 4 for 'm'") != NULL, "%s",
          calls[0].err.text);
    call_drop(&calls[0]);
    call_make(&calls[0], NULL, 4);
    stage_run(submit_one);
    check(calls[0].err.code == OK, "%s", calls[0].err.text);
    call_drop(&calls[0]);
    stage_down();
}

TEST(a_backend_failure_is_the_callers_answer)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    run_once("fail");
    check(calls[0].err.code == E_INVALID && strstr(calls[0].err.text, "17") != NULL, "%s",
          calls[0].err.text);
    run_once("forget");
    check(calls[0].err.code == E_INTERNAL && strstr(calls[0].err.text, "'OUT'") != NULL &&
              calls[0].responses == 0,
          "%s", calls[0].err.text);
    run_once("five");
    check(calls[0].err.code == E_INTERNAL && strstr(calls[0].err.text, "decoupled") != NULL, "%s",
          calls[0].err.text);
    check(model_stats(stage.model, &(struct model_stats){ 0 })->fail.count == 3, "counted");
    stage_down();
}

static void let_go(struct timer *timer UNUSED)
{
    atomic_store(&hold, false);
}

static struct timer go_timer = { .on_due = let_go };
static uint64_t hold_ns = 30 * NS_PER_MS; /* how long submit_held holds what runs */

static void submit_held(void)
{
    for (unsigned i = 0; i < 6; i++)
        engine_submit(calls[i].request);
    check(timer_start(stage.loop, &go_timer, loop_now_ns(stage.loop) + hold_ns, NULL) == OK,
          "timer");
}

/* What a watch of queues was told, from whatever thread. */
static struct {
    pthread_mutex_t lock;
    unsigned count;
    struct {
        bool is_high;
        uint32_t queued, queue_max;
        uint64_t change;
    } told[16];
} watched = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void on_queue(void *context, const char *model, const char *version, bool is_high,
                     uint32_t queued, uint32_t queue_max, uint64_t change)
{
    check(context == &watched && strcmp(model, "m") == 0 && strcmp(version, "1") == 0, "%s", model);
    pthread_mutex_lock(&watched.lock);
    require(watched.count < COUNT(watched.told));
    watched.told[watched.count].is_high = is_high;
    watched.told[watched.count].queued = queued;
    watched.told[watched.count].queue_max = queue_max;
    watched.told[watched.count++].change = change;
    pthread_mutex_unlock(&watched.lock);
}

TEST(a_queue_is_told_when_it_is_high_and_when_it_is_not_any_more)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    engine_watch_queues(stage.engine, (struct engine_watch){ on_queue, &watched });
    watched.count = 0;
    for (unsigned i = 0; i < 5; i++)
        run_once(NULL);
    check(watched.count == 0, "who is run at once does not wait: %u", watched.count);
    for (unsigned i = 0; i < 6; i++)
        call_make(&calls[i], "hold", 1);
    stage_run(submit_held); /* one runs, three wait, two are refused */
    for (unsigned i = 0; i < 6; i++)
        call_drop(&calls[i]);
    check(watched.count == 2, "told %u times", watched.count);
    check(watched.told[0].is_high && watched.told[0].queued == 3 &&
              watched.told[0].queue_max == 3 && watched.told[0].change == 1,
          "high at %u", watched.told[0].queued);
    check(!watched.told[1].is_high && watched.told[1].queued == 1 && watched.told[1].change == 2,
          "normal at %u", watched.told[1].queued);
    stage_down();
}

TEST(a_full_queue_refuses_with_a_hint)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    for (unsigned i = 0; i < 6; i++)
        call_make(&calls[i], "hold", 1);
    stage_run(submit_held);
    unsigned refused = 0;
    for (unsigned i = 0; i < 6; i++) {
        if (calls[i].err.code == OK)
            continue;
        refused++;
        check(calls[i].err.code == E_EXHAUSTED && calls[i].err.retry_after_ms > 0 &&
                  strstr(calls[i].err.text, "Exceeds maximum queue size") != NULL,
              "%s", calls[i].err.text);
    }
    check(refused == 2, "%u refused: one runs, three wait", refused);
    for (unsigned i = 0; i < 6; i++)
        call_drop(&calls[i]);
    stage_down();
}

static void submit_urgent(void)
{
    for (unsigned i = 0; i < 6; i++)
        engine_submit(calls[i].request);
    check(timer_start(stage.loop, &go_timer, loop_now_ns(stage.loop) + 30 * NS_PER_MS, NULL) == OK,
          "timer");
}

TEST(a_full_queue_lets_the_urgent_in)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    for (unsigned i = 0; i < 6; i++) {
        call_make(&calls[i], "hold", 1);
        calls[i].request->priority = i == 5 ? 1 : 0;
    }
    stage_run(submit_urgent); /* one runs, three wait, one is refused, the last takes a place */
    unsigned lost = 0, full = 0;
    for (unsigned i = 0; i < 6; i++) {
        lost += strstr(calls[i].err.text, "lost its place") != NULL;
        full += strstr(calls[i].err.text, "Exceeds maximum queue size") != NULL;
        check(calls[i].err.code == OK || calls[i].err.retry_after_ms > 0, "%u: %s", i,
              calls[i].err.text);
        check(calls[i].ends == 1, "%u", i);
    }
    check(lost == 1 && full == 1 && calls[5].err.code == OK, "%u lost, %u found it full", lost, full);
    struct model_stats sum;
    const struct model_stats *stats = model_stats(stage.model, &sum);
    check(stats->refused[REFUSAL_FULL] == 1 && stats->refused[REFUSAL_DISPLACED] == 1 &&
              stats->pending == 0,
          "counted");
    for (unsigned i = 0; i < 6; i++)
        call_drop(&calls[i]);
    stage_down();
}

/* An environment whose time is the test's. */
static struct env slow_env;
static _Atomic uint64_t slow_ns;

static uint64_t slow_mono(struct env *env UNUSED)
{
    return atomic_load(&slow_ns);
}

static void submit_in_vain(void)
{
    for (unsigned i = 0; i < 4; i++)
        engine_submit(calls[i].request);
    atomic_fetch_add(&slow_ns, 5 * NS_PER_S); /* all deadlines pass, and no timer has told */
    atomic_store(&hold, false);
}

TEST(what_is_late_in_the_queue_is_not_run)
{
    slow_env = *env_real();
    slow_env.mono_ns = slow_mono;
    atomic_store(&slow_ns, env_real()->mono_ns(env_real()));
    if (!stage_up_in(&slow_env, plain, 0, EXECUTION_QUEUED))
        return;
    for (unsigned i = 0; i < 4; i++) {
        call_make(&calls[i], "hold", 1);
        if (i != 0)
            calls[i].request->deadline_ns = atomic_load(&slow_ns) + NS_PER_S;
    }
    stage_run(submit_in_vain);
    check(atomic_load(&runs) == 1, "%u runs", atomic_load(&runs));
    for (unsigned i = 1; i < 4; i++)
        check(calls[i].err.code == E_DEADLINE && calls[i].responses == 0 && calls[i].ends == 1,
              "%u: %s", i, calls[i].err.text);
    check(model_stats(stage.model, &(struct model_stats){ 0 })->refused[REFUSAL_LATE] == 3, "counted");
    for (unsigned i = 0; i < 4; i++)
        call_drop(&calls[i]);
    stage_down();
}

static void ask_and_submit(void)
{
    struct engine_question question = { .model = stage.model,
                                        .loop = stage.loop,
                                        .deadline_ns = UINT64_MAX };
    struct err err = { 0 };

    check(engine_ask(stage.engine, &question, NULL, &err) == OK, "an idle model: %s", err.text);
    for (unsigned i = 0; i < 5; i++)
        engine_submit(calls[i].request);
    check(engine_ask(stage.engine, &question, NULL, &err) == E_EXHAUSTED && err.retry_after_ms > 0 &&
              strstr(err.text, "Exceeds maximum queue size") != NULL,
          "a full one: %s", err.text);
    check(timer_start(stage.loop, &go_timer, loop_now_ns(stage.loop) + 20 * NS_PER_MS, NULL) == OK,
          "timer");
}

TEST(a_full_queue_is_known_before_a_body_is_read)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    for (unsigned i = 0; i < 5; i++)
        call_make(&calls[i], "hold", 1);
    stage_run(ask_and_submit);
    check(model_stats(stage.model, &(struct model_stats){ 0 })->refused[REFUSAL_FULL] == 2,
          "the one that was submitted, and the one that was only asked for");
    struct model_execution now;
    model_execution(stage.model, &now);
    check(now.run_ns > 0 && now.queued == 0 && !now.is_overloaded, "facts");
    for (unsigned i = 0; i < 5; i++)
        call_drop(&calls[i]);
    stage_down();
}

/* -- waiting for the loop ------------------------------------------------------------------------ */

struct waits {
    struct engine_waiter waiter; /* first */
    unsigned turns;
    struct err err;
    struct call *call; /* submitted when its turn has come */
};

static struct waits waits[4];

static void on_turn(struct engine_waiter *waiter, const struct err *err)
{
    struct waits *w = (struct waits *)waiter;

    check(!waiter->is_waiting && loop_is_mine(stage.loop), "on the loop");
    w->turns++;
    if (err != NULL)
        w->err = *err;
    else
        engine_submit(w->call->request);
}

static enum err_code ask_to_wait(struct waits *w, uint64_t deadline_ns, struct err *err)
{
    struct engine_question question = { .model = stage.model,
                                        .loop = stage.loop,
                                        .deadline_ns = deadline_ns };

    w->waiter.on_turn = on_turn;
    return engine_ask(stage.engine, &question, &w->waiter, err);
}

static void ask_a_busy_loop(void)
{
    struct err err = { 0 };

    check(ask_to_wait(&waits[0], UINT64_MAX, &err) == OK && !waits[0].waiter.is_waiting,
          "there is time: it need not wait");
    atomic_store(&slow_ns, loop_now_ns(stage.loop) + 2 * LINE_TURN_NS);
    engine_submit(calls[0].request);
    for (unsigned i = 0; i < 3; i++)
        check(ask_to_wait(&waits[i], i == 2 ? atomic_load(&slow_ns) + NS_PER_MS : UINT64_MAX, &err) == OK &&
                  waits[i].waiter.is_waiting,
              "%u: %s", i, err.text);
    check(ask_to_wait(&waits[3], UINT64_MAX, &err) == E_EXHAUSTED && !waits[3].waiter.is_waiting &&
              err.retry_after_ms > 0 && strstr(err.text, "Exceeds maximum queue size: 3") != NULL,
          "no place: %s", err.text);
    engine_unwait(stage.engine, stage.loop, &waits[1].waiter);
    engine_unwait(stage.engine, stage.loop, &waits[1].waiter);
    check(ask_to_wait(&waits[3], UINT64_MAX, &err) == OK && waits[3].waiter.is_waiting, "one has left");
    check(waits[0].turns == 0, "nobody is called from within a question");
    atomic_fetch_add(&slow_ns, 5 * NS_PER_MS);
}

TEST(a_loop_that_is_behind_lets_in_one_after_the_other)
{
    struct engine_counts counts;
    struct model_stats sum = { 0 };

    memset(waits, 0, sizeof waits);
    slow_env = *env_real();
    slow_env.mono_ns = slow_mono;
    atomic_store(&slow_ns, env_real()->mono_ns(env_real()));
    if (!stage_up_in(&slow_env, plain, PENSTOCK_BACKEND_RUNS_INLINE, EXECUTION_INLINE))
        return;
    for (unsigned i = 0; i < 3; i++)
        call_make(&calls[i], NULL, 1);
    waits[0].call = &calls[1];
    waits[3].call = &calls[2];
    stage_run(ask_a_busy_loop);
    for (unsigned i = 0; i < 3; i++)
        check(calls[i].err.code == OK && calls[i].responses == 1, "%u: %s", i, calls[i].err.text);
    check(waits[0].turns == 1 && waits[0].waiter.waited_ns >= 5 * NS_PER_MS, "the first");
    check(waits[1].turns == 0, "who left hears nothing");
    check(waits[2].turns == 1 && waits[2].err.code == E_DEADLINE, "its time was over: %s",
          waits[2].err.text);
    check(waits[3].turns == 1 && waits[3].err.code == OK, "the last");
    model_stats(stage.model, &sum);
    check(sum.refused[REFUSAL_FULL] == 1 && sum.refused[REFUSAL_LATE] == 1 &&
              sum.failures[FAIL_REJECTED] == 2 && sum.runs_inline >= 3,
          "counted");
    engine_settle(stage.engine, stage.loop, &waits[0].waiter, NS_PER_MS);
    engine_settle(stage.engine, stage.loop, &waits[1].waiter, NS_PER_MS);
    engine_counts(stage.engine, &counts);
    check(counts.loops_waiting == 0 && counts.loops_overloaded == 0, "nobody waits");
    for (unsigned i = 0; i < 3; i++)
        call_drop(&calls[i]);
    stage_down();
}

static void submit_two(void)
{
    engine_submit(calls[0].request);
    engine_submit(calls[1].request);
}

TEST(a_deadline_is_kept_while_queued_and_while_running)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    uint64_t now = clock_mono_ns();
    call_make(&calls[0], "wait", 1);
    calls[0].request->deadline_ns = now + 40 * NS_PER_MS;
    call_make(&calls[1], NULL, 1);
    calls[1].request->deadline_ns = now + 20 * NS_PER_MS;
    stage_run(submit_two);
    uint64_t took = clock_mono_ns() - now;
    check(calls[0].err.code == E_DEADLINE && strstr(calls[0].err.text, "run") != NULL, "%s",
          calls[0].err.text);
    check(calls[1].err.code == E_DEADLINE && strstr(calls[1].err.text, "queue") != NULL, "%s",
          calls[1].err.text);
    check(took < 2000 * NS_PER_MS, "%llu ms", (unsigned long long)(took / NS_PER_MS));
    /* The backend may see the deadline itself before the loop tells it. */
    check(atomic_load(&runs) == 1 && atomic_load(&saw_cancel) == 1 && atomic_load(&cancels) <= 1,
          "%u runs, %u saw it", atomic_load(&runs), atomic_load(&saw_cancel));
    call_drop(&calls[0]);
    call_drop(&calls[1]);
    call_make(&calls[0], NULL, 1);
    calls[0].request->deadline_ns = now;
    stage_run(submit_one);
    check(calls[0].err.code == E_DEADLINE, "already past");
    call_drop(&calls[0]);
    check(model_stats(stage.model, &(struct model_stats){ 0 })->fail.count == 3, "counted as failures");
    stage_down();
}

TEST(a_queue_timeout_ends_only_the_waiting)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    call_make(&calls[0], "hold", 1);
    calls[0].request->timeout_us = 300000; /* it runs at once: the timeout does not touch it */
    for (unsigned i = 1; i < 6; i++) {
        call_make(&calls[i], "hold", 1);
        calls[i].request->timeout_us = 300000;
    }
    hold_ns = 500 * NS_PER_MS;
    stage_run(submit_held);
    hold_ns = 30 * NS_PER_MS;
    check(calls[0].err.code == OK, "%s", calls[0].err.text);
    for (unsigned i = 1; i < 4; i++)
        check(calls[i].err.code == E_DEADLINE || calls[i].err.code == E_EXHAUSTED, "%u: %s", i,
              calls[i].err.text);
    for (unsigned i = 0; i < 6; i++)
        call_drop(&calls[i]);
    stage_down();
}

static void cancel_all(struct timer *timer UNUSED)
{
    request_cancel(calls[1].request); /* queued */
    request_cancel(calls[0].request); /* running */
    request_cancel(calls[0].request); /* again: nothing more */
}

static struct timer cancel_timer = { .on_due = cancel_all };

static void submit_and_cancel(void)
{
    submit_two();
    check(timer_start(stage.loop, &cancel_timer, loop_now_ns(stage.loop) + 10 * NS_PER_MS, NULL) ==
              OK,
          "timer");
}

TEST(who_leaves_frees_the_work)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    call_make(&calls[0], "wait", 1);
    call_make(&calls[1], NULL, 1);
    stage_run(submit_and_cancel);
    for (unsigned i = 0; i < 2; i++) {
        check(calls[i].responses == 0 && calls[i].ends == 0, "the sink hears nothing");
        call_drop(&calls[i]);
    }
    check(atomic_load(&saw_cancel) == 1 && atomic_load(&runs) == 1, "stopped, and never started");
    struct model_stats sum;
    const struct model_stats *stats = model_stats(stage.model, &sum);
    check(stats->cancelled_total == 2 && stats->wasted_compute_ns > 0, "counted");
    stage_down();
}

/* An environment that wakes a worker for nothing, as env.h allows: before the one that was meant
 * it wakes the other, and waits until that has taken the request. */
static struct env odd_env;
static struct worker **odd_workers[2]; /* where the engine keeps its two instances' threads */
static atomic_uint odd_count, odd_sleeps;
static atomic_bool is_odd;

static enum err_code odd_start(struct env *env, struct worker **ret, const char *name,
                               void (*main)(void *arg), void *arg, struct err *err)
{
    if (strcmp(name, "reaper") != 0)
        odd_workers[atomic_fetch_add(&odd_count, 1) % 2] = ret;
    return env_real()->worker_start(env, ret, name, main, arg, err);
}

static void odd_sleep(struct env *env, struct worker *worker, uint64_t due_ns)
{
    atomic_fetch_add(&odd_sleeps, 1);
    env_real()->worker_sleep(env, worker, due_ns);
}

static void odd_wake(struct env *env, struct worker *worker)
{
    if (atomic_exchange(&is_odd, false)) {
        env_real()->worker_wake(env, *odd_workers[*odd_workers[0] == worker]);
        for (unsigned i = 0; i < 10000 && atomic_load(&runs) == 0; i++)
            nap();
    }
    env_real()->worker_wake(env, worker);
}

static bool sleeps_reach(unsigned count)
{
    for (unsigned i = 0; i < 10000 && atomic_load(&odd_sleeps) < count; i++)
        nap();
    return atomic_load(&odd_sleeps) >= count;
}

static bool ended_beside_it;

static void on_look(struct timer *timer)
{
    (void)timer;
    ended_beside_it = calls[1].ends == 1;
    atomic_store(&hold, false);
}

static struct timer look_timer = { .on_due = on_look };

static void submit_oddly(void)
{
    check(sleeps_reach(3), "the reaper and both instances sleep");
    atomic_store(&is_odd, true);
    engine_submit(calls[0].request);
    check(sleeps_reach(4), "the one that was woken in vain sleeps again");
    nap();
    engine_submit(calls[1].request);
    check(timer_start(stage.loop, &look_timer, loop_now_ns(stage.loop) + 500 * NS_PER_MS, NULL) ==
              OK,
          "timer");
}

TEST(a_worker_woken_for_nothing_does_not_strand_the_next_request)
{
    odd_env = *env_real();
    odd_env.worker_start = odd_start;
    odd_env.worker_sleep = odd_sleep;
    odd_env.worker_wake = odd_wake;
    atomic_store(&odd_count, 0);
    atomic_store(&odd_sleeps, 0);
    if (!stage_up_in(&odd_env, "instance_group { count: 2 kind: KIND_CPU }", 0, EXECUTION_QUEUED))
        return;
    call_make(&calls[0], "hold", 1);
    call_make(&calls[1], NULL, 1);
    stage_run(submit_oddly);
    check(ended_beside_it, "the idle instance ran it while the other one was busy");
    for (unsigned i = 0; i < 2; i++)
        call_drop(&calls[i]);
    stage_down();
}

static void grant_some(struct timer *timer)
{
    if (calls[0].frees != 0)
        return;
    request_grant(calls[0].request, 1);
    check(timer_start(stage.loop, timer, loop_now_ns(stage.loop) + 2 * NS_PER_MS, NULL) == OK,
          "timer");
}

static struct timer grant_timer = { .on_due = grant_some };

static void submit_with_credit(void)
{
    request_limit_credit(calls[0].request, 1);
    engine_submit(calls[0].request);
    grant_some(&grant_timer);
}

TEST(many_responses_wait_for_credit)
{
    if (!stage_up(plain, PENSTOCK_BACKEND_DECOUPLED, EXECUTION_AUTO))
        return;
    call_make(&calls[0], "five", 1);
    stage_run(submit_with_credit);
    timer_stop(stage.loop, &grant_timer);
    check(calls[0].responses == 5 && calls[0].err.code == OK && calls[0].first_out == 42,
          "%u responses", calls[0].responses);
    call_drop(&calls[0]);
    stage_down();
}

TEST(a_draining_engine_takes_nothing_new)
{
    if (!stage_up(plain, 0, EXECUTION_AUTO))
        return;
    engine_drain(stage.engine);
    run_once(NULL);
    check(calls[0].err.code == E_UNAVAILABLE && atomic_load(&runs) == 0, "%s", calls[0].err.text);
    stage_down();
}

TEST(a_request_survives_every_fault)
{
    if (!stage_up(plain, PENSTOCK_BACKEND_RUNS_INLINE, EXECUTION_INLINE))
        return;
    for_each_fault(nth) {
        struct call *call = &calls[0];
        fault_arm(0);
        call_make(call, NULL, 1000);
        fault_arm(nth);
        stage_run(submit_one);
        bool fired = fault_fired();
        fault_arm(0);
        check((call->err.code == OK) == !fired, "fault %u: %s", nth, call->err.text);
        check(call->ends == 1 && (fired ? call->err.text[0] != '\0' : call->responses == 1),
              "fault %u", nth);
        call_drop(call);
        check(budget_used(&stage.budget) == 0, "fault %u leaked", nth);
        if (!fired)
            break;
    }
    stage_down();
}

TEST(opening_survives_every_fault)
{
    struct err err;
    struct engine *engine = NULL;
    struct engine_settings settings = { .loops_count = 1 };

    check_or_stop(engine_new(&engine, env_real(), &settings, &err) == OK, "%s", err.text);
    host = engine_host(engine);
    model_traits = PENSTOCK_BACKEND_RUNS_INLINE;
    for_each_fault(nth) {
        fault_arm(0);
        struct model *model = NULL;
        struct model_config *config = NULL;
        check(config_parse(&config, slice_of(plain), &err) == OK, "config");
        struct model_spec spec = { .name = "m", .version = 1, .folder = "/", .path = "/",
                                   .backend = &backend, .config = config,
                                   .arena = arena_new(4096, 1 << 20) };
        memset(&err, 0, sizeof err);
        fault_arm(nth);
        enum err_code code = model_new(&model, engine, &spec, &err);
        bool fired = fault_fired();
        fault_arm(0);
        check((code == OK) == (model != NULL), "fault %u", nth);
        /* The warm-up may meet the fault: then the model is merely not warm. */
        check(code == OK || (fired && err.text[0] != '\0'), "fault %u was silent", nth);
        if (code != OK) {
            config_free(&spec.config);
            arena_free(&spec.arena);
        }
        model_unref(&model);
        if (!fired)
            break;
    }
    engine_free(&engine);
}
