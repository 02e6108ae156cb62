/* request.c - the life of a request on its loop: made, checked, admitted, run or queued, ended.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Who may touch it: until engine_submit the dialect; while QUEUED the model's mutex decides (an
 * instance that pops it, the loop that gives up on it); while RUNNING the instance's thread, but for
 * the atomics; from the end message on the loop again. on_free is called exactly once, always on the
 * loop, always last.
 */
#include "engine/request.h"

#include <string.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "codec/bytes.h"
#include "engine/internal.h"
#include "model/dtype.h"

static void on_deadline(struct timer *timer);
static void on_end_msg(struct loop_msg *msg);
static void on_first_msg(struct loop_msg *msg);

enum err_code request_new(struct request **ret, struct engine *engine, struct model *model,
                          struct arena *arena, struct loop *loop,
                          const struct request_sink *sink, struct err *err)
{
    const struct signature *s = model->signature;
    size_t inputs_bytes = s->inputs_count * sizeof(struct penstock_tensor);
    size_t outputs_bytes = s->outputs_count * sizeof(struct response_output);
    size_t flags_bytes = s->inputs_count + s->outputs_count;
    /* One piece: private part, inputs, outputs, flags; the scratch follows on its own line. */
    uint8_t *piece = arena_alloc(arena, sizeof(struct request_private) + inputs_bytes +
                                            outputs_bytes + flags_bytes);
    uint8_t *scratch = arena_aligned(arena, BUF_ALIGN, SCRATCH_BYTES);

    if (piece == NULL || scratch == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request to model '%s'; retry later",
                       model->host.name);
    struct request_private *p = (struct request_private *)(void *)piece;
    piece += sizeof *p;
    memset(p, 0, offsetof(struct request_private, err));
    p->err.code = OK;
    p->err.text[0] = '\0';
    p->err.retry_after_ms = 0;
    p->pub.id = "";
    p->pub.inputs = (struct penstock_tensor *)(void *)piece;
    piece += inputs_bytes;
    p->response.outputs_count = s->outputs_count;
    p->response.outputs = (struct response_output *)(void *)piece;
    piece += outputs_bytes;
    p->pub.has_input = (bool *)piece;
    p->pub.wants = (bool *)(piece + s->inputs_count);
    memset(p->pub.has_input, 0, s->inputs_count);
    for (uint32_t i = 0; i < s->outputs_count; i++) {
        p->pub.wants[i] = !s->outputs[i].is_hidden;
        p->response.outputs[i].is_set = false;
    }
    p->pub.deadline_ns = UINT64_MAX;
    p->pub.model = model_ref(model);
    p->pub.arena = arena;
    p->pub.loop = loop;
    p->pub.sink = sink;
    p->pub.private = p;
    p->engine = engine;
    p->scratch = scratch;
    p->backend_inputs = p->pub.inputs;
    p->queue_due_ns = UINT64_MAX;
    atomic_init(&p->credit, UINT32_MAX);
    p->timer.on_due = on_deadline;
    p->end_msg.run = on_end_msg;
    p->first_msg.run = on_first_msg;
    *ret = &p->pub;
    return OK;
}

void request_discard(struct request **slot)
{
    struct request *request = TAKE(*slot);

    if (request != NULL)
        model_unref(&request->model);
}

const struct parameter *request_parameter(const struct request *request, const char *key)
{
    const struct parameter *found = request->parameters;

    while (found != NULL && strcmp(found->key, key) != 0)
        found = found->next;
    return found;
}

void request_limit_credit(struct request *request, uint32_t n)
{
    atomic_store_explicit(&private_of(request)->credit, n, memory_order_relaxed);
}

void request_grant(struct request *request, uint32_t n)
{
    struct request_private *p = private_of(request);
    struct model *model = request->model;
    uint32_t had = atomic_load_explicit(&p->credit, memory_order_relaxed);
    uint32_t now;

    do
        now = had > UINT32_MAX - n ? UINT32_MAX : had + n;
    while (!atomic_compare_exchange_weak(&p->credit, &had, now));
    pthread_mutex_lock(&model->lock);
    if (p->instance != NULL && p->instance->worker != NULL)
        p->engine->env->worker_wake(p->engine->env, p->instance->worker);
    pthread_mutex_unlock(&model->lock);
}

/* The loop's own shard of the model's statistics. */
static struct model_stats *shard_of(const struct request_private *p)
{
    uint32_t index = loop_index(p->pub.loop);

    require(index < p->pub.model->shards_count);
    return &p->pub.model->shards[index];
}

void request_account_encode(struct request *request, uint64_t ns)
{
    request->stage_ns[STAGE_ENCODE] = ns;
    stat_histogram_add(&shard_of(private_of(request))->stages[STAGE_ENCODE], ns);
}

/* -- checking --------------------------------------------------------------------------------- */

static enum err_code check_input(const struct signature_tensor *want,
                                 const struct penstock_tensor *got, struct err *err)
{
    uint64_t count;
    char shape[160];

    if (UNLIKELY(got->dtype != want->dtype))
        return err_set(err, E_INVALID, "input '%s' has datatype %s; the model takes %s",
                       want->name, dtype_name(got->dtype), dtype_name(want->dtype));
    TRY(signature_check_shape(want, got->rank, got->shape, err));
    if (!shape_count(got->rank, got->shape, &count))
        return err_set(err, E_INVALID, "input '%s': shape %s has too many elements", want->name,
                       shape_text(shape, sizeof shape, got->rank, got->shape));
    if (got->dtype == PENSTOCK_BYTES)
        return bytes_check(slice_make(got->data, got->size), count, want->name, err);
    size_t size;
    if (__builtin_mul_overflow(count, dtype_size(got->dtype), &size) || size != got->size)
        return err_set(err, E_INVALID,
                       "input '%s' has %zu bytes; shape %s of %s is %llu elements of %zu bytes",
                       want->name, got->size,
                       shape_text(shape, sizeof shape, got->rank, got->shape),
                       dtype_name(got->dtype), (unsigned long long)count,
                       dtype_size(got->dtype));
    return OK;
}

/* What a shape becomes under configuration's reshape: the pattern's free dims take the free dims of
 * the other side in order; a single one takes what is left of the element count. */
static void reshape(uint32_t from_rank, const int64_t *from, const int64_t *from_pattern,
                    uint32_t to_rank, const int64_t *to_pattern, int64_t *to)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < to_rank; i++) {
        to[i] = to_pattern[i];
        if (to_pattern[i] != -1)
            continue;
        while (at < from_rank && from_pattern[at] != -1)
            at++;
        to[i] = at < from_rank ? from[at++] : 1;
    }
}

static enum err_code reshape_inputs(struct request_private *p, const struct signature *s,
                                    struct err *err)
{
    size_t bytes = s->inputs_count * sizeof(struct penstock_tensor);

    p->backend_inputs = arena_alloc(p->pub.arena, bytes);
    if (p->backend_inputs == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the request's inputs; retry later");
    memcpy(p->backend_inputs, p->pub.inputs, bytes);
    for (uint32_t i = 0; i < s->inputs_count; i++) {
        const struct signature_tensor *t = &s->inputs[i];
        if (!t->is_reshaped || !p->pub.has_input[i])
            continue;
        p->backend_inputs[i].rank = t->reshape_rank;
        reshape(t->rank, p->pub.inputs[i].shape, t->dims, t->reshape_rank, t->reshape,
                p->backend_inputs[i].shape);
    }
    return OK;
}

static enum err_code validate(struct request_private *p, bool is_partial, uint64_t *ret_bytes,
                              struct err *err)
{
    struct request *r = &p->pub;
    const struct signature *s = r->model->signature;
    uint64_t bytes = 0;
    int64_t batch = -1;
    bool has_reshape = false;

    for (uint32_t i = 0; i < s->inputs_count; i++) {
        const struct signature_tensor *want = &s->inputs[i];
        struct penstock_tensor *got = &r->inputs[i];
        if (!r->has_input[i]) {
            if (want->is_optional || want->is_hidden || is_partial)
                continue;
            return err_set(err, E_INVALID,
                           "input '%s' is missing: model '%s' takes %u input%s and it is required",
                           want->name, r->model->host.name, s->inputs_count,
                           s->inputs_count == 1 ? "" : "s");
        }
        got->name = want->name;
        TRY(check_input(want, got, err));
        bytes += got->size;
        has_reshape |= want->is_reshaped;
        if (s->batch_max == 0)
            continue;
        if (batch != -1 && got->shape[0] != batch)
            return err_set(err, E_INVALID,
                           "input '%s' has batch size %lld, an input before it has %lld: all must "
                           "agree",
                           want->name, (long long)got->shape[0], (long long)batch);
        batch = got->shape[0];
        if (batch > (int64_t)s->batch_max || batch < 1)
            return err_set(err, E_INVALID,
                           "inference request batch-size must be <= %u for '%s' (and at least 1), "
                           "got %lld",
                           s->batch_max, r->model->host.name, (long long)batch);
    }
    if (batch == -1 && s->is_batchable && s->inputs_count != 0 && r->has_input[0])
        batch = r->inputs[0].shape[0];
    p->batch_size = batch < 0 ? 1 : (uint64_t)batch;
    if (UNLIKELY(has_reshape))
        TRY(reshape_inputs(p, s, err));
    *ret_bytes = bytes;
    return OK;
}

enum err_code request_check(struct request_private *p, bool is_partial, struct err *err)
{
    uint64_t bytes;

    return validate(p, is_partial, &bytes, err);
}

/* -- the end ---------------------------------------------------------------------------------- */

static enum fail_reason reason_of(const struct request_private *p)
{
    if (p->was_late)
        return FAIL_REJECTED;
    if (p->is_detached)
        return FAIL_CANCELED;
    if (p->failed_in_backend)
        return FAIL_BACKEND;
    switch (p->err.code) {
    case E_CANCELLED: return FAIL_CANCELED;
    case E_EXHAUSTED:
    case E_UNAVAILABLE:
    case E_DEADLINE: return FAIL_REJECTED;
    default: return FAIL_OTHER;
    }
}

static uint64_t span(uint64_t from, uint64_t to)
{
    return to > from && from != 0 ? to - from : 0;
}

static void account(struct request_private *p)
{
    struct request *r = &p->pub;
    struct model_stats *stats = shard_of(p);
    uint64_t total = span(p->submitted_ns, p->ended_ns);

    if (p->err.code == OK && !p->was_late && !p->is_detached) {
        size_t size = MIN(p->batch_size, (uint64_t)STAT_BATCH_SIZES - 1);
        stat_duration_add(&stats->success, total);
        stat_duration_add(&stats->queue, r->stage_ns[STAGE_QUEUE]);
        stat_duration_add(&stats->compute_input, r->stage_ns[STAGE_INPUT]);
        stat_duration_add(&stats->compute_infer, r->stage_ns[STAGE_RUN]);
        stat_duration_add(&stats->compute_output, r->stage_ns[STAGE_OUTPUT]);
        stat_duration_add(&stats->batch_input[size], r->stage_ns[STAGE_INPUT]);
        stat_duration_add(&stats->batch_infer[size], r->stage_ns[STAGE_RUN]);
        stat_duration_add(&stats->batch_output[size], r->stage_ns[STAGE_OUTPUT]);
        model_stat_add(&stats->inference_count, p->batch_size);
        model_stat_add(&stats->execution_count, 1);
        atomic_store_explicit(&stats->last_inference_ms,
                              p->engine->env->wall_ns(p->engine->env) / NS_PER_MS,
                              memory_order_relaxed);
        stat_histogram_add(&stats->total, total + r->stage_ns[STAGE_DECODE]);
        for (unsigned i = 0; i < STAGE_ENCODE; i++)
            stat_histogram_add(&stats->stages[i], r->stage_ns[i]);
    } else {
        stat_duration_add(&stats->fail, total);
        model_stat_add(&stats->failures[reason_of(p)], 1);
    }
    if (p->is_detached || p->was_late || p->err.code == E_CANCELLED) {
        model_stat_add(&stats->cancelled_total, 1);
        model_stat_add(&stats->wasted_compute_ns, span(p->begun_ns, p->run_end_ns));
    }
}

void request_deliver(struct request_private *p, struct response *response)
{
    if (p->is_detached || p->has_ended)
        return;
    if (p->pub.sink->on_response != NULL)
        p->pub.sink->on_response(&p->pub, response);
}

static void end_sink(struct request_private *p)
{
    if (p->is_detached || p->has_ended)
        return;
    p->has_ended = true;
    p->pub.sink->on_end(&p->pub, &p->err);
}

void response_drop(struct response *response)
{
    for (uint32_t i = 0; i < response->outputs_count; i++)
        if (response->outputs[i].is_set && response->outputs[i].tensor.owner != NULL) {
            struct buf *holder = response->outputs[i].tensor.owner;
            buf_unref(&holder);
            response->outputs[i].is_set = false;
        }
}

/* The last thing: the dialect may drop the memory in on_free. */
static void release(struct request_private *p)
{
    struct model *model = p->pub.model;
    struct engine *engine = p->engine;

    response_drop(&p->response);
    p->pub.sink->on_free(&p->pub);
    model_unref(&model);
    atomic_fetch_sub_explicit(&engine->in_flight, 1, memory_order_release);
}

void request_finish(struct request_private *p)
{
    if (p->has_timer) {
        timer_stop(p->pub.loop, &p->timer);
        p->has_timer = false;
    }
    p->state = REQUEST_ENDED;
    if (p->was_queued)
        atomic_fetch_sub_explicit(&p->pub.model->stats.pending, 1, memory_order_relaxed);
    account(p);
    if (p->first_used && !p->first_posted)
        request_deliver(p, &p->response);
    end_sink(p);
    release(p);
}

static void on_end_msg(struct loop_msg *msg)
{
    request_finish(CONTAINER_OF(msg, struct request_private, end_msg));
}

static void on_first_msg(struct loop_msg *msg)
{
    struct request_private *p = CONTAINER_OF(msg, struct request_private, first_msg);

    request_deliver(p, &p->response);
}

/* Ends a request that never began to run. */
static void finish_early(struct request_private *p)
{
    p->ended_ns = env_now(p->engine);
    request_finish(p);
}

/* -- leaving and lateness ---------------------------------------------------------------------- */

/* Tells whoever runs it that nobody waits any more. */
static void hint_cancel(struct request_private *p)
{
    struct model *model = p->pub.model;

    atomic_store_explicit(&p->is_cancelled, true, memory_order_release);
    pthread_mutex_lock(&model->lock);
    struct instance *instance = p->instance;
    if (instance != NULL) {
        if (instance->is_running && model->backend->cancel != NULL)
            model->backend->cancel(instance->handle);
        if (instance->worker != NULL)
            p->engine->env->worker_wake(p->engine->env, instance->worker);
    }
    pthread_mutex_unlock(&model->lock);
}

void request_cancel(struct request *request)
{
    struct request_private *p = private_of(request);

    require(loop_is_mine(request->loop));
    if (p->is_detached)
        return;
    p->is_detached = true;
    if (model_dequeue(request->model, p)) {
        err_set(&p->err, E_CANCELLED, "the caller left while the request was queued");
        finish_early(p);
        return;
    }
    hint_cancel(p);
}

static enum err_code late(struct request_private *p, enum stage stage, struct err *err)
{
    static const char *const at[STAGES] = {
        [STAGE_DECODE] = "before it was queued", [STAGE_QUEUE] = "while it was queued",
        [STAGE_INPUT] = "before the model ran",  [STAGE_RUN] = "while the model ran",
        [STAGE_OUTPUT] = "while outputs were written",
        [STAGE_ENCODE] = "while the answer was written",
    };

    return err_set(err, E_DEADLINE,
                   "Request timeout expired: model '%s', %s (stage reached: %s). Give it more time, "
                   "or look at its queue and run times in /metrics",
                   p->pub.model->host.name, at[stage], stage_names[stage]);
}

/* Loop thread: the deadline passed while it was queued or ran. */
static void on_deadline(struct timer *timer)
{
    struct request_private *p = CONTAINER_OF(timer, struct request_private, timer);
    uint64_t now = loop_now_ns(p->pub.loop);

    p->has_timer = false;
    if (model_dequeue(p->pub.model, p)) {
        late(p, STAGE_QUEUE, &p->err);
        finish_early(p);
        return;
    }
    if (now < p->pub.deadline_ns) {
        /* Only the queue's time was up, and it has left the queue: go on until the deadline. */
        if (p->pub.deadline_ns != UINT64_MAX)
            p->has_timer =
                timer_start(p->pub.loop, &p->timer, p->pub.deadline_ns, NULL) == OK;
        return;
    }
    /* It runs. The caller hears now; the memory stays until the backend has let go. */
    if (!p->is_detached && !p->has_ended) {
        struct err err;
        late(p, STAGE_RUN, &err);
        p->has_ended = p->was_late = true;
        p->pub.sink->on_end(&p->pub, &err);
    }
    hint_cancel(p);
}

/* -- the beginning ----------------------------------------------------------------------------- */

static enum err_code enqueue(struct request_private *p, struct err *err)
{
    struct request *r = &p->pub;
    struct model *model = r->model;
    uint64_t timeout_us = model->queue_timeout_us;

    if (r->timeout_us != 0 && !model->ignores_timeout)
        timeout_us = timeout_us == 0 ? r->timeout_us : MIN(timeout_us, r->timeout_us);
    if (timeout_us != 0 && timeout_us < UINT64_MAX / NS_PER_US - p->submitted_ns / NS_PER_US)
        p->queue_due_ns = p->submitted_ns + timeout_us * NS_PER_US;
    uint64_t due = MIN(p->queue_due_ns, r->deadline_ns);
    if (due != UINT64_MAX) {
        TRY(timer_start(r->loop, &p->timer, due, err));
        p->has_timer = true;
    }
    p->was_queued = true;
    atomic_fetch_add_explicit(&model->stats.pending, 1, memory_order_relaxed);
    return model_enqueue(model, p, err);
}

static void run_inline(struct request_private *p, struct instance *instance)
{
    p->state = REQUEST_RUNNING;
    p->pub.was_inline = true;
    instance_run(instance, p);
    request_finish(p);
}

/* Who sets no deadline gets the server's (--request-timeout). */
static void default_deadline(struct request_private *p)
{
    uint64_t ms = p->engine->settings.deadline_default_ms;

    if (ms != 0 && p->pub.deadline_ns == UINT64_MAX)
        p->pub.deadline_ns = p->submitted_ns + ms * NS_PER_MS;
}

void engine_submit(struct request *request)
{
    struct request_private *p = private_of(request);
    struct model *model = request->model;
    struct engine *engine = p->engine;
    uint64_t bytes = 0;

    p->submitted_ns = env_now(engine);
    atomic_fetch_add_explicit(&engine->in_flight, 1, memory_order_relaxed);
    if (UNLIKELY(atomic_load_explicit(&engine->is_draining, memory_order_relaxed)) &&
        !p->is_of_session) {
        err_set(&p->err, E_UNAVAILABLE, "the server is draining and takes no new requests");
        p->err.retry_after_ms = 1000;
    } else if (UNLIKELY(validate(p, false, &bytes, &p->err) != OK)) {
        /* the text is written */
    } else if (default_deadline(p), UNLIKELY(p->submitted_ns >= request->deadline_ns)) {
        late(p, STAGE_DECODE, &p->err);
    } else {
        uint32_t loop = loop_index(request->loop);
        if (loop < model->inline_count && policy_is_inline(&model->policy, bytes)) {
            run_inline(p, &model->inline_instances[loop]);
            return;
        }
        if (enqueue(p, &p->err) == OK)
            return;
    }
    finish_early(p);
}

enum err_code request_prepare_warm(struct request_private *p)
{
    uint64_t bytes;

    return validate(p, false, &bytes, &p->err);
}

void request_drop_warm(struct request_private *p)
{
    response_drop(&p->response);
    model_unref(&p->pub.model);
}

void request_merge(struct request *request, enum session_merge merge)
{
    private_of(request)->merge = merge;
}
