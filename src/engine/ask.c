/* ask.c - SPDX-License-Identifier: Apache-2.0
 *
 * Before there is a request: is it worth reading its body, now or at all? engine.h says what is
 * asked, line.h who waits. What is here is the line's place on its loop: who waits is called by a
 * task behind all that a turn has read and before anything else that was put off, so that what it
 * begins is done in the same turn. It puts itself off again as long as anybody waits: the loop
 * does not sleep meanwhile.
 *
 * Nobody is called from within engine_ask, not even who loses a place to the newcomer: both may
 * be streams of one connection, which is at work.
 */
#include "base/clock.h"
#include "engine/internal.h"

enum { LATE_MOST = 64 }; /* told by one turn */

static COLD void count_refusal(struct model *model, struct loop *loop, enum refusal refusal)
{
    struct model_stats *stats = &model->shards[MIN(loop_index(loop), model->shards_count - 1)];

    stat_duration_add(&stats->fail, 0);
    model_stat_add(&stats->failures[FAIL_REJECTED], 1);
    model_stat_add(&stats->refused[refusal], 1);
}

static uint32_t ms_up(uint64_t ns)
{
    return (uint32_t)MIN(MAX((ns + NS_PER_MS - 1) / NS_PER_MS, UINT64_C(1)),
                         (uint64_t)RETRY_MS_MAX);
}

static double ms_of(uint64_t ns)
{
    return (double)ns / 1e6;
}

/* -- those who wait
 * -------------------------------------------------------------------------------- */

static struct engine_waiter *waiter_of(struct line_entry *place)
{
    return CONTAINER_OF(place, struct engine_waiter, place);
}

static void tell_metrics(struct engine_loop *l)
{
    atomic_store_explicit(&l->waiting, l->line.queue.waiting, memory_order_relaxed);
    atomic_store_explicit(&l->is_overloaded, l->line.admission.is_standing, memory_order_relaxed);
}

static COLD enum err_code say_late(struct err *err, const struct model *model, uint64_t behind_ns)
{
    return err_set(err, E_DEADLINE,
                   "Request timeout expired: model '%s', before the body was read: the server is "
                   "%.4g ms behind. Retry later, or give it more time",
                   model->host.name, ms_of(behind_ns));
}

/* It does not wait any more. */
static void call(struct engine_waiter *waiter, uint64_t now_ns, const struct err *err)
{
    waiter->is_waiting = false;
    waiter->waited_ns = now_ns - waiter->place.since_ns;
    waiter->on_turn(waiter, err);
}

static COLD void call_displaced(struct engine_loop *l, struct loop *loop, uint64_t now_ns)
{
    struct list_node *node;
    struct err err = { 0 };

    while ((node = list_pop(&l->displaced)) != NULL) {
        struct engine_waiter *waiter = waiter_of(CONTAINER_OF(node, struct line_entry, entry.node));
        count_refusal(waiter->model, loop, REFUSAL_DISPLACED);
        err_set(
            &err, E_EXHAUSTED,
            "as many requests wait as may (--queue-max), and one of a tenant with less than its share "
            "came: this one, to model '%s', lost its place. Retry later",
            waiter->model->host.name);
        err.retry_after_ms = ms_up(admission_wait_ns(&l->line.admission, l->line.queue.waiting, 1));
        call(waiter, now_ns, &err);
    }
}

static COLD void call_late(struct engine_waiter *waiter, struct loop *loop, uint64_t now_ns)
{
    struct err err = { 0 };

    count_refusal(waiter->model, loop, REFUSAL_LATE);
    (void)say_late(&err, waiter->model, now_ns - waiter->place.since_ns);
    call(waiter, now_ns, &err);
}

static void on_line(struct loop_task *task)
{
    struct engine_loop *l = CONTAINER_OF(task, struct engine_loop, line_task);
    struct loop *loop = loop_current();
    uint64_t now = env_now(l->engine);
    uint32_t left = line_let(&l->line, now), late = LATE_MOST;
    struct line_entry *place;

    if (UNLIKELY(!list_is_empty(&l->displaced)))
        call_displaced(l, loop, now);
    while (left > 0 && late > 0 && (place = line_next(&l->line)) != NULL) {
        if (UNLIKELY(place->deadline_ns <= now)) {
            line_settle(&l->line, place, 0);
            late--;
            call_late(waiter_of(place), loop, now);
        } else {
            left--;
            call(waiter_of(place), now, NULL);
        }
    }
    tell_metrics(l);
    if (l->line.queue.waiting != 0 || !list_is_empty(&l->displaced))
        loop_defer_early(loop, &l->line_task);
}

void loop_line_init(struct engine *engine, struct engine_loop *l)
{
    l->engine = engine;
    l->line_task.run = on_line;
    list_init(&l->displaced);
    line_init(&l->line, engine->settings.queue_delay_ns, engine->settings.queue_max);
}

void engine_unwait(struct engine *engine, struct loop *loop, struct engine_waiter *waiter)
{
    struct engine_loop *l = engine_loop_of(engine, loop);

    if (!waiter->is_waiting)
        return;
    waiter->is_waiting = false;
    if (waiter->place.entry.flow != NULL)
        line_remove(&l->line, &waiter->place);
    else
        list_remove(&waiter->place.entry.node);
}

void engine_settle(struct engine *engine, struct loop *loop, struct engine_waiter *waiter,
                   uint64_t worked_ns)
{
    if (UNLIKELY(waiter->place.entry.flow != NULL && !waiter->is_waiting))
        line_settle(&engine_loop_of(engine, loop)->line, &waiter->place, worked_ns);
}

/* -- the question
 * ---------------------------------------------------------------------------------- */

static COLD enum err_code refuse(enum line_verdict verdict, const struct engine_question *question,
                                 const struct line *line, uint64_t now_ns, uint64_t wait_ns,
                                 uint64_t after_ns, enum refusal *ret_refusal, struct err *err)
{
    uint64_t deadline = question->deadline_ns;

    switch (verdict) {
    case LINE_LATE:
        *ret_refusal = REFUSAL_LATE;
        return say_late(err, question->model, now_ns - MIN(now_ns, loop_oldest_ns(question->loop)));
    case LINE_DEADLINE:
        *ret_refusal = REFUSAL_DEADLINE;
        err_set(
            err, E_EXHAUSTED,
            "the deadline cannot be met: a request would wait about %.4g ms for model '%s', and "
            "%.4g ms are left. Retry later, or give it more time",
            ms_of(wait_ns), question->model->host.name,
            ms_of(deadline > now_ns ? deadline - now_ns : 0));
        break;
    case LINE_FULL:
        *ret_refusal = REFUSAL_FULL;
        err_set(
            err, E_EXHAUSTED,
            "Exceeds maximum queue size: %u requests wait for the thread of model '%s' already. Retry "
            "later, or raise --queue-max",
            line->queue.waiting, question->model->host.name);
        break;
    default:
        *ret_refusal = REFUSAL_BEHIND;
        err_set(
            err, E_EXHAUSTED,
            "the server is overloaded: a request would wait %.4g ms before it is read. Retry later",
            ms_of(wait_ns));
    }
    err->retry_after_ms = ms_up(after_ns);
    return E_EXHAUSTED;
}

static enum err_code ask_loop(struct engine *engine, const struct engine_question *question,
                              struct engine_waiter *waiter, enum refusal *ret_refusal,
                              struct err *err)
{
    struct engine_loop *l = engine_loop_of(engine, question->loop);
    struct line_entry *victim;
    uint64_t wait_ns, after_ns;
    struct line_question q = { .now_ns = env_now(engine),
                               .turn_ns = loop_now_ns(question->loop),
                               .arrived_ns = loop_arrived_ns(question->loop),
                               .deadline_ns = question->deadline_ns,
                               .tenant = tenant_of(question->caller) };

    enum line_verdict verdict = line_ask(&l->line, &q, &wait_ns, &after_ns, &victim);
    if (verdict != LINE_GO && verdict != LINE_WAIT)
        return refuse(verdict, question, &l->line, q.now_ns, wait_ns, after_ns, ret_refusal, err);
    if (UNLIKELY(victim != NULL))
        list_push(&l->displaced, &victim->entry.node);
    if (verdict == LINE_WAIT && LIKELY(waiter != NULL)) {
        waiter->model = question->model;
        waiter->is_waiting = true;
        waiter->place.deadline_ns = question->deadline_ns;
        waiter->place.since_ns = MIN(q.arrived_ns, q.now_ns);
        line_add(&l->line, &waiter->place, q.tenant);
        loop_defer_early(question->loop, &l->line_task);
    }
    return OK;
}

enum err_code engine_ask(struct engine *engine, const struct engine_question *question,
                         struct engine_waiter *waiter, struct err *err)
{
    struct model *model = question->model;
    struct loop *loop = question->loop;
    uint32_t index = loop_index(loop);
    enum refusal refusal = REFUSAL_NONE;
    enum err_code code;

    if (index < model->inline_count && policy_is_inline(&model->policy, question->body_bytes)) {
        if (LIKELY(
                line_is_open(&engine->loops[index].line, loop_now_ns(loop), loop_oldest_ns(loop))))
            return OK;
        code = ask_loop(engine, question, waiter, &refusal, err);
    } else {
        if (LIKELY(!atomic_load_explicit(&model->is_pressed, memory_order_relaxed)))
            return OK;
        code = model_ask(model, question, &refusal, err);
    }
    if (UNLIKELY(code != OK))
        count_refusal(model, loop, refusal);
    return code;
}
