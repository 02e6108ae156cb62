/* open.c - batches that stay open: backends that take many at once. SPDX-License-Identifier: Apache-2.0
 *
 * The backend is called for one batch at a time, always on the same thread: on the loop of the
 * caller where the backend runs inline, so that a stream that waits costs no thread; else on the
 * instance's. What a batch waits for (credit, input, a time, its end) makes it resume: on a loop by
 * a task at the end of the turn, on an instance's thread by a place in its list.
 *
 * done() only notes that a batch is over, since the backend may say it of any batch from within
 * execute() or resume() of another; settle() finishes those when the backend has returned, and lets
 * in who waits. It does not nest: what finishing starts (a sink submits the next request) is seen by
 * the settle() that is under way.
 */
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/internal.h"

enum { BATCHES_MAX = 1000000, WOKEN_A_PASS = 64, DUES_FIRST = 16 };

static void enter(struct open_batch *open);
static void settle(struct instance *instance);
static void due_stop(struct open_batch *open);

static bool is_on_loop(const struct open_batch *open)
{
    return open->batch.instance->is_inline;
}

static uint32_t batches_max(const struct instance *instance)
{
    const struct penstock_backend *backend = instance->model->backend;

    return backend->batches_max == 0 ? BATCHES_MAX : backend->batches_max;
}

static struct open_batch *open_of(struct penstock_batch *batch)
{
    require(batch->open != NULL); /* these are for CONCURRENT backends */
    return batch->open;
}

/* -- on a loop ------------------------------------------------------------------------------------ */

static void on_task(struct loop_task *task)
{
    struct open_batch *open = CONTAINER_OF(task, struct open_batch, task);

    enter(open);
    settle(open->batch.instance);
}

static void on_due(struct timer *timer)
{
    struct open_batch *open = CONTAINER_OF(timer, struct open_batch, timer);

    loop_undefer(&open->task);
    enter(open);
    settle(open->batch.instance);
}

enum err_code open_new(struct request_private *p, struct err *err)
{
    struct open_batch *open = arena_zalloc(p->pub.arena, sizeof *open);

    if (open == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request to model '%s'; retry later",
                       p->pub.model->host.name);
    open->batch.row = p;
    open->batch.open = open;
    open->task.run = on_task;
    open->timer.on_due = on_due;
    p->open = open;
    return OK;
}

static void admit(struct instance *instance, struct request_private *p)
{
    instance->open_count++;
    p->open->batch.instance = instance;
    p->begun_ns = env_now(p->engine);
}

/* Loop: begins now, or at the end of the turn when the backend is being called. */
static void begin_on_loop(struct instance *instance, struct request_private *p)
{
    p->state = REQUEST_RUNNING;
    admit(instance, p);
    model_stat_add((_Atomic uint64_t *)&instance->model->shards[instance->index].running, 1);
    if (instance->is_entered)
        loop_defer(p->pub.loop, &p->open->task);
    else
        enter(p->open);
}

enum err_code open_begin(struct instance *instance, struct request_private *p, struct err *err)
{
    const struct model *model = instance->model;

    p->pub.was_inline = true;
    if (instance->open_count < batches_max(instance) && list_is_empty(&instance->waiting)) {
        begin_on_loop(instance, p);
        settle(instance);
        return OK;
    }
    if (model->queue_max != 0 && instance->waiting_count >= model->queue_max) {
        err_set(err, E_EXHAUSTED,
                "Exceeds maximum queue size: %u requests wait for model '%s' already. Retry "
                "later, or raise --queue-max",
                instance->waiting_count, model->host.name);
        err->retry_after_ms = 1000;
        return E_EXHAUSTED;
    }
    p->open->batch.instance = instance;
    list_push(&instance->waiting, &p->queue_node);
    instance->waiting_count++;
    return OK;
}

bool open_give_up(struct request_private *p)
{
    if (p->open == NULL || !p->pub.was_inline || !list_has(&p->queue_node))
        return false;
    list_remove(&p->queue_node);
    p->open->batch.instance->waiting_count--;
    return true;
}

/* -- being called ---------------------------------------------------------------------------------- */

static void enter(struct open_batch *open)
{
    struct instance *instance = open->batch.instance;
    const struct penstock_backend *backend = instance->model->backend;
    struct request_private *p = open->batch.row;

    if (list_has(&open->done_node))
        return;
    require(!instance->is_entered);
    uint64_t begun = env_now(p->engine);
    instance->is_entered = true;
    if (open->is_started) {
        backend->resume(instance->handle, &open->batch);
    } else {
        open->is_started = true;
        backend->execute(instance->handle, &open->batch);
    }
    instance->is_entered = false;
    open->busy_ns += env_now(p->engine) - begun; /* it is not freed before settle() */
}

static void finish(struct instance *instance, struct open_batch *open)
{
    struct request_private *p = open->batch.row;
    struct model *model = instance->model;

    p->ended_ns = env_now(p->engine);
    instance->open_count--;
    instance_account(instance, p, &open->batch);
    if (is_on_loop(open)) {
        struct model_stats *shard = &model->shards[instance->index];
        loop_undefer(&open->task);
        timer_stop(p->pub.loop, &open->timer);
        model_stat_add((_Atomic uint64_t *)&shard->running, UINT64_MAX);
        request_finish(p);
        return;
    }
    due_stop(open);
    list_remove(&open->again_node);
    pthread_mutex_lock(&model->lock);
    p->instance = NULL; /* from here on nobody wakes it */
    model_ran(model, p, open->busy_ns);
    list_remove(&open->woken_node);
    pthread_mutex_unlock(&model->lock);
    atomic_fetch_sub_explicit(&model->stats.running, 1, memory_order_relaxed);
    loop_post(p->pub.loop, &p->end_msg); /* p is the loop's from here */
}

static void settle(struct instance *instance)
{
    struct list_node *node;

    if (instance->is_settling || instance->is_entered)
        return;
    if (list_is_empty(&instance->done) && list_is_empty(&instance->waiting))
        return;
    /* The last request may hold the last reference of a model that is unloaded. On a thread of its
     * own the model waits for that to end. */
    struct model *model = instance->is_inline ? model_ref(instance->model) : NULL;
    instance->is_settling = true;
    for (;;) {
        if ((node = list_pop(&instance->done)) != NULL) {
            finish(instance, CONTAINER_OF(node, struct open_batch, done_node));
        } else if (instance->open_count < batches_max(instance) &&
                   (node = list_pop(&instance->waiting)) != NULL) {
            instance->waiting_count--;
            begin_on_loop(instance, CONTAINER_OF(node, struct request_private, queue_node));
        } else {
            break;
        }
    }
    instance->is_settling = false;
    model_unref(&model);
}

/* -- on an instance's thread ------------------------------------------------------------------------ */

static void due_place(struct instance *i, uint32_t at, struct open_batch *open)
{
    i->dues[at] = open;
    open->slot = at + 1;
}

/* Moves the hole at `at` up or down to where `open` belongs. */
static void due_settle(struct instance *i, uint32_t at, struct open_batch *open)
{
    while (at > 0 && open->due_ns < i->dues[(at - 1) / 2]->due_ns) {
        due_place(i, at, i->dues[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < i->dues_count && i->dues[child + 1]->due_ns < i->dues[child]->due_ns)
            child++;
        if (child >= i->dues_count || i->dues[child]->due_ns >= open->due_ns)
            break;
        due_place(i, at, i->dues[child]);
        at = child;
    }
    due_place(i, at, open);
}

static void due_stop(struct open_batch *open)
{
    struct instance *i = open->batch.instance;
    uint32_t at = open->slot;

    if (at == 0)
        return;
    open->slot = 0;
    struct open_batch *last = i->dues[--i->dues_count];
    if (last != open)
        due_settle(i, at - 1, last);
}

static bool due_start(struct open_batch *open, uint64_t due_ns)
{
    struct instance *i = open->batch.instance;

    due_stop(open);
    if (i->dues_count == i->dues_room) {
        uint32_t room = i->dues_room == 0 ? DUES_FIRST : 2 * i->dues_room;
        struct open_batch **more = mem_resize(i->dues, room * sizeof *more);
        if (more == NULL)
            return false;
        i->dues = more;
        i->dues_room = room;
    }
    open->due_ns = due_ns;
    i->dues_count++;
    due_settle(i, i->dues_count - 1, open);
    return true;
}

void open_close(struct instance *instance)
{
    mem_free(instance->dues);
    instance->dues = NULL;
}

/* Takes what has queued, as much as there is room for. True when there is nothing to do; *ret_stops:
 * and never will be. */
static bool take_fresh(struct instance *instance, struct list *fresh, bool *ret_stops)
{
    struct model *model = instance->model;
    struct request_private *p;
    struct queue_change change;
    uint64_t now_ns = env_now(model->engine);
    bool is_idle = list_is_empty(&instance->again);

    if (instance->dues_count > 0 && instance->dues[0]->due_ns <= now_ns)
        is_idle = false;
    pthread_mutex_lock(&model->lock);
    if (instance->is_woken) {
        instance->is_woken = false;
        model->woken--;
    }
    while (instance->open_count < batches_max(instance) &&
           (p = model_take(model, now_ns)) != NULL) {
        p->state = REQUEST_RUNNING;
        p->instance = instance;
        admit(instance, p); /* under the mutex: who wakes it sees its instance */
        list_push(fresh, &p->queue_node);
        is_idle = false;
    }
    is_idle = is_idle && list_is_empty(&instance->woken);
    *ret_stops = is_idle && model->is_stopping && instance->open_count == 0;
    if (!is_idle)
        list_remove(&instance->idle_node);
    else if (!*ret_stops && instance->open_count < batches_max(instance) &&
             !list_has(&instance->idle_node))
        list_push(&model->idle, &instance->idle_node);
    bool is_told = model_queue_changed(model, false, &change);
    pthread_mutex_unlock(&model->lock);
    if (UNLIKELY(is_told))
        model_tell_queue(model, &change);
    return is_idle;
}

static struct open_batch *take_woken(struct instance *instance)
{
    struct model *model = instance->model;

    pthread_mutex_lock(&model->lock);
    struct list_node *node = list_pop(&instance->woken);
    pthread_mutex_unlock(&model->lock);
    return node == NULL ? NULL : CONTAINER_OF(node, struct open_batch, woken_node);
}

static void call(struct open_batch *open)
{
    enter(open);
    settle(open->batch.instance);
}

static void run_pass(struct instance *instance, struct list *fresh)
{
    struct engine *engine = instance->model->engine;
    struct open_batch *open;
    struct list again;
    struct list_node *node;

    while ((node = list_pop(fresh)) != NULL) {
        struct request_private *p = CONTAINER_OF(node, struct request_private, queue_node);
        atomic_fetch_add_explicit(&instance->model->stats.running, 1, memory_order_relaxed);
        call(p->open);
    }
    for (int i = 0; i < WOKEN_A_PASS && (open = take_woken(instance)) != NULL; i++)
        call(open);
    uint64_t now = instance->dues_count > 0 ? env_now(engine) : 0;
    for (uint32_t most = instance->dues_count;
         most > 0 && instance->dues_count > 0 && instance->dues[0]->due_ns <= now; most--) {
        open = instance->dues[0];
        due_stop(open);
        call(open);
    }
    /* Those that are there now: who asks again waits for the next pass. */
    list_init(&again);
    while ((node = list_pop(&instance->again)) != NULL)
        list_push(&again, node);
    while ((node = list_pop(&again)) != NULL)
        call(CONTAINER_OF(node, struct open_batch, again_node));
}

void open_worker_main(void *arg)
{
    struct instance *instance = arg;
    struct env *env = instance->model->engine->env;
    struct list fresh;
    bool stops;

    list_init(&fresh);
    for (;;) {
        if (!take_fresh(instance, &fresh, &stops))
            run_pass(instance, &fresh);
        else if (stops)
            return;
        else
            env->worker_sleep(env, instance->worker,
                              instance->dues_count > 0 ? instance->dues[0]->due_ns : UINT64_MAX);
    }
}

/* -- waking ----------------------------------------------------------------------------------------- */

void open_wake(struct request_private *p)
{
    struct open_batch *open = p->open;
    struct model *model = p->pub.model;

    if (p->pub.was_inline) {
        if (p->state == REQUEST_RUNNING && open->is_started && !list_has(&open->done_node))
            loop_defer(p->pub.loop, &open->task);
        return;
    }
    pthread_mutex_lock(&model->lock);
    struct instance *instance = p->instance;
    if (instance != NULL) {
        if (!list_has(&open->woken_node))
            list_push(&instance->woken, &open->woken_node);
        p->engine->env->worker_wake(p->engine->env, instance->worker);
    }
    pthread_mutex_unlock(&model->lock);
}

void open_again(struct open_batch *open)
{
    if (is_on_loop(open))
        loop_defer(open->batch.row->pub.loop, &open->task);
    else if (!list_has(&open->again_node))
        list_push(&open->batch.instance->again, &open->again_node);
}

/* -- what the backend calls -------------------------------------------------------------------------- */

static void **host_context(struct penstock_batch *batch)
{
    return &open_of(batch)->context;
}

static void host_resume_after(struct penstock_batch *batch, uint64_t ns)
{
    struct open_batch *open = open_of(batch);
    struct request_private *p = batch->row;
    uint64_t now, due;

    if (list_has(&open->done_node))
        return;
    if (is_on_loop(open))
        timer_stop(p->pub.loop, &open->timer);
    else
        due_stop(open);
    if (ns == UINT64_MAX)
        return;
    now = ns == 0 ? 0 : env_now(p->engine);
    due = ns > UINT64_MAX - 1 - now ? UINT64_MAX - 1 : now + ns;
    /* Without memory for its time it resumes too early, which it may. */
    if (ns == 0 || (is_on_loop(open) ? timer_start(p->pub.loop, &open->timer, due, NULL) != OK
                                     : !due_start(open, due)))
        open_again(open);
}

void host_fill_open(struct penstock_host *host)
{
    host->context = host_context;
    host->resume_after = host_resume_after;
}
