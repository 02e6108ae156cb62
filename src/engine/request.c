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

#include "access/access.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "codec/bytes.h"
#include "engine/internal.h"
#include "model/dtype.h"

static void on_deadline(struct timer *timer);
static void on_end_msg(struct loop_msg *msg);
static void on_first_msg(struct loop_msg *msg);
static void on_task(struct loop_task *task);
static void hint_cancel(struct request_private *p);
static void add_credit(struct request_private *p, uint32_t n);

enum err_code request_new(struct request **ret, struct engine *engine, struct model *model,
                          struct arena *arena, struct loop *loop, const struct request_sink *sink,
                          struct err *err)
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
    p->reader_credit = UINT32_MAX;
    p->kept_end = &p->kept;
    p->task.run = on_task;
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

enum err_code input_check(const struct signature_tensor *want, const struct penstock_tensor *got,
                          struct err *err)
{
    uint64_t count;
    char shape[160];

    if (UNLIKELY(got->dtype != want->dtype))
        return err_set(err, E_INVALID, "input '%s' has datatype %s; the model takes %s", want->name,
                       dtype_name(got->dtype), dtype_name(want->dtype));
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
                       dtype_name(got->dtype), (unsigned long long)count, dtype_size(got->dtype));
    return OK;
}

/* Every element is UTF-8; that their lengths fit was looked at before. */
static enum err_code text_check(const struct model *model, const struct penstock_tensor *got,
                                struct err *err)
{
    struct slice rest = slice_make(got->data, got->size);
    uint32_t size;

    for (uint64_t i = 0; rest.size >= sizeof size; i++) {
        memcpy(&size, rest.data, sizeof size);
        struct slice element = slice_first(slice_skip(rest, sizeof size), size);
        size_t valid = utf8_valid_prefix(element);
        if (UNLIKELY(valid != element.size))
            return err_set(
                err, E_INVALID,
                "input '%s', element %llu: byte %zu (0x%02x) is not UTF-8, and model '%s' "
                "takes text",
                got->name, (unsigned long long)i, valid, element.data[valid], model->host.name);
        rest = slice_skip(rest, sizeof size + element.size);
    }
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

static enum err_code reshape_inputs(struct arena *arena, const struct signature *s,
                                    struct inputs *in, struct err *err)
{
    size_t bytes = s->inputs_count * sizeof(struct penstock_tensor);
    struct penstock_tensor *copies = arena_alloc(arena, bytes);

    if (copies == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the request's inputs; retry later");
    memcpy(copies, in->tensors, bytes);
    for (uint32_t i = 0; i < s->inputs_count; i++) {
        const struct signature_tensor *t = &s->inputs[i];
        if (!t->is_reshaped || !in->is_there[i])
            continue;
        copies[i].rank = t->reshape_rank;
        reshape(t->rank, in->tensors[i].shape, t->dims, t->reshape_rank, t->reshape,
                copies[i].shape);
    }
    in->for_backend = copies;
    return OK;
}

/* The card's value of an input that nobody sent. */
static bool fill_constant(const struct signature *s, struct inputs *in, uint32_t index)
{
    const struct stream_card *card = s->stream;

    for (uint32_t i = 0; card != NULL && i < card->constants_count; i++)
        if (card->constants[i].input == index) {
            in->tensors[index] = card->constants[i].value;
            in->is_there[index] = true;
            return true;
        }
    return false;
}

enum err_code inputs_check(const struct model *model, struct arena *arena, struct inputs *in,
                           bool is_partial, struct err *err)
{
    const struct signature *s = model->signature;
    int64_t batch = -1;
    bool has_reshape = false;

    in->bytes = 0;
    in->for_backend = in->tensors;
    for (uint32_t i = 0; i < s->inputs_count; i++) {
        const struct signature_tensor *want = &s->inputs[i];
        struct penstock_tensor *got = &in->tensors[i];
        if (!in->is_there[i] && !(want->is_constant && fill_constant(s, in, i))) {
            if (want->is_optional || want->is_hidden || (is_partial && want->is_state))
                continue;
            return err_set(err, E_INVALID,
                           "input '%s' is missing: model '%s' takes %u input%s and it is required",
                           want->name, model->host.name, s->inputs_count,
                           s->inputs_count == 1 ? "" : "s");
        }
        got->name = want->name;
        TRY(input_check(want, got, err));
        if (got->dtype == PENSTOCK_BYTES && (model->traits & PENSTOCK_BACKEND_TAKES_TEXT) != 0)
            TRY(text_check(model, got, err));
        in->bytes += got->size;
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
                           s->batch_max, model->host.name, (long long)batch);
    }
    if (batch == -1 && s->is_batchable && s->inputs_count != 0 && in->is_there[0])
        batch = in->tensors[0].shape[0];
    in->batch_size = batch < 0 ? 1 : (uint64_t)batch;
    if (UNLIKELY(has_reshape))
        TRY(reshape_inputs(arena, s, in, err));
    return OK;
}

static enum err_code validate(struct request_private *p, bool is_partial, uint64_t *ret_bytes,
                              struct err *err)
{
    struct inputs in = { .tensors = p->pub.inputs, .is_there = p->pub.has_input };

    TRY(inputs_check(p->pub.model, p->pub.arena, &in, is_partial, err));
    p->backend_inputs = in.for_backend;
    p->batch_size = in.batch_size;
    *ret_bytes = in.bytes;
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
    uint64_t total = r->waited_ns + span(p->submitted_ns, p->ended_ns);

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
        model_stat_add(&stats->refused[p->refusal], p->refusal != REFUSAL_NONE);
    }
    if (p->is_detached || p->was_late || p->err.code == E_CANCELLED) {
        model_stat_add(&stats->cancelled_total, 1);
        model_stat_add(&stats->wasted_compute_ns,
                       p->open != NULL ? p->open->busy_ns : span(p->begun_ns, p->run_end_ns));
    }
    if (p->left_ns != 0 && p->ended_ns > p->left_ns)
        stat_histogram_add(&stats->cancel, p->ended_ns - p->left_ns);
}

static void kept_drop(struct request_private *p)
{
    while (p->kept != NULL) {
        struct kept *next = p->kept->next;
        kept_free(&p->kept);
        p->kept = next;
    }
    p->kept_end = &p->kept;
    p->kept_count = 0;
}

/* The sink's look at one response, for which it has credit. */
static void give(struct request_private *p, struct response *response, uint64_t piece,
                 uint32_t interrupts)
{
    if (p->reader_credit != UINT32_MAX && --p->reader_credit == 0)
        p->dry_ns = loop_now_ns(p->pub.loop);
    response->number = ++p->given;
    p->now_piece = piece;
    p->now_interrupts = interrupts;
    if (p->pub.sink->on_response != NULL)
        p->pub.sink->on_response(&p->pub, response);
}

/* What waits must not grow without end: merged text stops its backend, and a backend that does not
 * look at credit is stopped for good. */
static void bound_kept(struct request_private *p)
{
    if (p->merge != SESSION_PAUSE && p->kept->bytes >= MERGED_BYTES_MAX)
        request_pause(&p->pub, true);
    if (p->merge == SESSION_PAUSE && p->kept_count > KEPT_MAX && p->overran == OK) {
        p->overran = E_INTERNAL;
        hint_cancel(p);
    }
}

/* The reader has no credit. */
static void keep(struct request_private *p, struct response *response, uint64_t piece,
                 uint32_t interrupts)
{
    struct budget *budget = p->engine->settings.budget;
    struct kept *kept;

    if (p->merge != SESSION_PAUSE && p->kept != NULL) {
        if (keep_merged(&p->kept, response, p->merge, budget) == OK) {
            p->kept->piece = piece;
            p->kept->interrupts = interrupts;
        }
        p->kept_end = &p->kept->next;
        model_stat_add(&shard_of(p)->merged_total, 1);
        bound_kept(p);
        return;
    }
    kept = keep_response(response, budget);
    if (kept == NULL) { /* a response is lost: the request cannot go on */
        p->overran = E_EXHAUSTED;
        hint_cancel(p);
        return;
    }
    kept->piece = piece;
    kept->interrupts = interrupts;
    *p->kept_end = kept;
    p->kept_end = &kept->next;
    p->kept_count++;
    bound_kept(p);
}

void request_deliver(struct request_private *p, struct response *response, uint64_t piece,
                     uint32_t interrupts)
{
    if (p->is_detached || p->has_ended)
        return;
    response->merged = 0;
    if (LIKELY(p->reader_credit != 0 && p->kept == NULL))
        give(p, response, piece, interrupts);
    else
        keep(p, response, piece, interrupts);
    if (p->has_window && p->is_paused)
        p->owed++;
    else if (p->has_window)
        add_credit(p, 1);
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

    if (p->has_timer)
        timer_stop(p->pub.loop, &p->timer);
    loop_undefer(&p->task);
    if (p->given != 0)
        model_stat_add(&shard_of(p)->responses, p->given);
    kept_drop(p);
    response_drop(&p->response);
    if (p->has_entered)
        tenant_leave(caller_tenant(p->pub.caller));
    p->pub.sink->on_free(&p->pub);
    model_unref(&model);
    atomic_fetch_sub_explicit(&engine->in_flight, 1, memory_order_release);
}

static void close_request(struct request_private *p)
{
    end_sink(p);
    release(p);
}

void request_finish(struct request_private *p)
{
    p->state = REQUEST_ENDED;
    if (p->was_queued)
        atomic_fetch_sub_explicit(&p->pub.model->stats.pending, 1, memory_order_relaxed);
    if (p->overran != OK && !p->is_detached && !p->was_late)
        err_set(
            &p->err, p->overran,
            p->overran == E_INTERNAL
                ? "model '%s' went on answering a reader that takes nothing now"
                : "no memory for an answer of model '%s' that waits for its reader; retry later",
            p->pub.model->host.name);
    account(p);
    if (p->first_used && !p->first_posted)
        request_deliver(p, &p->response, p->first_piece, p->first_interrupts);
    if (UNLIKELY(p->kept != NULL) && !p->is_detached && !p->has_ended) {
        p->is_over = true; /* on_task, the deadline or the caller's leaving goes on from here */
        return;
    }
    close_request(p);
}

/* -- credit ------------------------------------------------------------------------------------ */

void request_limit_credit(struct request *request, uint32_t n)
{
    struct request_private *p = private_of(request);

    p->reader_credit = n;
    p->has_window = p->merge != SESSION_PAUSE && n != UINT32_MAX;
    atomic_store_explicit(&p->credit, p->has_window ? WINDOW_RESPONSES : n, memory_order_relaxed);
}

void request_use_window(struct request *request)
{
    struct request_private *p = private_of(request);

    p->has_window = true;
    atomic_store_explicit(&p->credit, WINDOW_RESPONSES, memory_order_relaxed);
}

void request_merge(struct request *request, enum session_merge merge)
{
    struct request_private *p = private_of(request);

    p->merge = merge;
    request_limit_credit(request, p->reader_credit);
}

/* Wakes a backend that waits for credit. */
static void wake_runner(struct request_private *p)
{
    struct model *model = p->pub.model;

    if (p->open != NULL) {
        open_wake(p);
        return;
    }
    pthread_mutex_lock(&model->lock);
    if (p->instance != NULL && p->instance->worker != NULL)
        p->engine->env->worker_wake(p->engine->env, p->instance->worker);
    pthread_mutex_unlock(&model->lock);
}

static uint32_t credit_sum(uint32_t a, uint32_t b)
{
    return a > UINT32_MAX - b ? UINT32_MAX : a + b;
}

static void add_credit(struct request_private *p, uint32_t n)
{
    uint32_t had = atomic_load_explicit(&p->credit, memory_order_relaxed);

    if (p->pub.was_inline) {
        atomic_store_explicit(&p->credit, credit_sum(had, n), memory_order_relaxed);
    } else {
        while (!atomic_compare_exchange_weak(&p->credit, &had, credit_sum(had, n)))
            ;
    }
    if (had == 0)
        wake_runner(p);
}

void request_pause(struct request *request, bool is_paused)
{
    struct request_private *p = private_of(request);

    p->is_paused = is_paused;
    if (!is_paused && p->owed > 0) {
        add_credit(p, p->owed);
        p->owed = 0;
    }
}

/* Gives what waits, as far as there is credit; not from within request_grant. */
static void on_task(struct loop_task *task)
{
    struct request_private *p = CONTAINER_OF(task, struct request_private, task);

    p->is_giving = true;
    while (p->kept != NULL && p->reader_credit != 0 && !p->is_detached && !p->has_ended) {
        struct kept *kept = p->kept;
        p->kept = kept->next;
        p->kept_count--;
        if (p->kept == NULL)
            p->kept_end = &p->kept;
        if (p->is_paused)
            request_pause(&p->pub, false);
        give(p, &kept->response, kept->piece, kept->interrupts);
        kept_free(&kept);
    }
    p->is_giving = false;
    if (p->is_over && (p->kept == NULL || p->is_detached))
        close_request(p);
}

/* How long the reader kept its backend waiting: what it granted within the turn does not count. */
static void account_pause(struct request_private *p)
{
    uint64_t now = loop_now_ns(p->pub.loop);
    uint64_t since = p->dry_ns;

    p->dry_ns = 0;
    if (now <= since || p->is_over)
        return;
    model_stat_add(&shard_of(p)->paused_total, 1);
    model_stat_add(&shard_of(p)->paused_ns, now - since);
}

void request_grant(struct request *request, uint32_t n)
{
    struct request_private *p = private_of(request);

    require(loop_is_mine(request->loop));
    if (n == 0 || p->is_detached)
        return;
    if (p->reader_credit == 0 && p->dry_ns != 0)
        account_pause(p);
    p->reader_credit = credit_sum(p->reader_credit, n);
    if (p->kept != NULL)
        loop_defer(request->loop, &p->task);
    if (!p->has_window)
        add_credit(p, n);
}

static void on_end_msg(struct loop_msg *msg)
{
    request_finish(CONTAINER_OF(msg, struct request_private, end_msg));
}

static void on_first_msg(struct loop_msg *msg)
{
    struct request_private *p = CONTAINER_OF(msg, struct request_private, first_msg);

    request_deliver(p, &p->response, p->first_piece, p->first_interrupts);
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
    if (p->open != NULL) {
        open_wake(p);
        return;
    }
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

/* Out of the queue, or from among those that wait for room on the loop. */
static bool leave_queue(struct request_private *p)
{
    return p->pub.was_inline ? open_give_up(p) : model_dequeue(p->pub.model, p);
}

void request_cancel(struct request *request)
{
    struct request_private *p = private_of(request);

    require(loop_is_mine(request->loop));
    if (p->is_detached)
        return;
    p->is_detached = true;
    if (p->is_over) { /* all that is left is a reader who takes nothing */
        if (!p->is_giving)
            release(p);
        return;
    }
    if (leave_queue(p)) {
        err_set(&p->err, E_CANCELLED, "the caller left while the request was queued");
        finish_early(p);
        return;
    }
    if (p->left_ns == 0)
        p->left_ns = env_now(p->engine);
    hint_cancel(p);
}

static enum err_code late(struct request_private *p, enum stage stage, struct err *err)
{
    static const char *const at[STAGES] = {
        [STAGE_DECODE] = "before it was queued",
        [STAGE_QUEUE] = "while it was queued",
        [STAGE_INPUT] = "before the model ran",
        [STAGE_RUN] = "while the model ran",
        [STAGE_OUTPUT] = "while outputs were written",
        [STAGE_ENCODE] = "while the answer was written",
    };

    return err_set(
        err, E_DEADLINE,
        "Request timeout expired: model '%s', %s (stage reached: %s). Give it more time, "
        "or look at its queue and run times in /metrics",
        p->pub.model->host.name, at[stage], stage_names[stage]);
}

void request_drop_late(struct request_private *p)
{
    bool is_over = p->ended_ns >= p->pub.deadline_ns || p->ended_ns >= p->queue_due_ns;

    p->refusal = REFUSAL_LATE;
    if (is_over)
        late(p, STAGE_QUEUE, &p->err);
    else
        err_set(
            &p->err, E_DEADLINE,
            "Request timeout expired: the %.4g ms that are left behind the queue of model '%s' are "
            "too few for a run. Give it more time, or look at its queue and run times in /metrics",
            (double)(p->pub.deadline_ns - p->ended_ns) / 1e6, p->pub.model->host.name);
    loop_post(p->pub.loop, &p->end_msg); /* p is the loop's from here */
}

void request_displace(struct request_private *p, uint64_t retry_after_ns)
{
    p->refusal = REFUSAL_DISPLACED;
    err_set(
        &p->err, E_EXHAUSTED,
        "the queue of model '%s' is full (--queue-max), and one with less than its share of it came: "
        "this one lost its place. Retry later",
        p->pub.model->host.name);
    p->err.retry_after_ms =
        (uint32_t)MIN(MAX(retry_after_ns / NS_PER_MS, UINT64_C(1)), (uint64_t)RETRY_MS_MAX);
    loop_post(p->pub.loop, &p->end_msg); /* p is the loop's from here */
}

/* Loop thread: the deadline passed while it was queued or ran. */
static void on_deadline(struct timer *timer)
{
    struct request_private *p = CONTAINER_OF(timer, struct request_private, timer);
    uint64_t now = loop_now_ns(p->pub.loop);

    p->has_timer = false;
    if (leave_queue(p)) {
        p->refusal = REFUSAL_LATE;
        late(p, STAGE_QUEUE, &p->err);
        finish_early(p);
        return;
    }
    if (now < p->pub.deadline_ns) {
        /* Only the queue's time was up, and it has left the queue: go on until the deadline. */
        if (p->pub.deadline_ns != UINT64_MAX)
            p->has_timer = timer_start(p->pub.loop, &p->timer, p->pub.deadline_ns, NULL) == OK;
        return;
    }
    if (p->is_over) {
        struct err err;
        late(p, STAGE_ENCODE, &err);
        p->has_ended = true;
        p->pub.sink->on_end(&p->pub, &err);
        release(p);
        return;
    }
    /* It runs. The caller hears now; the memory stays until the backend has let go. */
    if (!p->is_detached && !p->has_ended) {
        struct err err;
        late(p, STAGE_RUN, &err);
        p->has_ended = p->was_late = true;
        p->left_ns = env_now(p->engine);
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

struct queue_tenant tenant_of(const struct caller *caller)
{
    if (LIKELY(caller == NULL))
        return (struct queue_tenant){ 0, 1, "" };
    const struct tenant *tenant = caller_tenant(caller);
    return (struct queue_tenant){ tenant_index(tenant), tenant_weight(tenant),
                                  tenant_name(tenant) };
}

/* Its tenant's rate and concurrency. */
static bool enter_tenant(struct request_private *p)
{
    if (LIKELY(p->pub.caller == NULL))
        return true;
    p->has_entered = tenant_enter(caller_tenant(p->pub.caller), p->submitted_ns, &p->err) == OK;
    if (UNLIKELY(!p->has_entered))
        p->refusal = REFUSAL_TENANT;
    return p->has_entered;
}

/* The deadline of one that runs on the loop, and may wait there. */
static enum err_code start_deadline(struct request_private *p, struct err *err)
{
    if (p->pub.deadline_ns == UINT64_MAX)
        return OK;
    TRY(timer_start(p->pub.loop, &p->timer, p->pub.deadline_ns, err));
    p->has_timer = true;
    return OK;
}

/* To a backend that runs many at once. */
static enum err_code submit_open(struct request_private *p, struct err *err)
{
    struct model *model = p->pub.model;
    uint32_t loop = loop_index(p->pub.loop);

    TRY(open_new(p, err));
    if (loop >= model->inline_count)
        return enqueue(p, err);
    TRY(start_deadline(p, err));
    return open_begin(&model->inline_instances[loop], p, err);
}

static void run_inline(struct request_private *p, struct instance *instance)
{
    p->state = REQUEST_RUNNING;
    p->pub.was_inline = true;
    instance_run(instance, p);
    p->pub.inline_ended_ns = p->ended_ns;
    line_ran(&engine_loop_of(p->engine, p->pub.loop)->line, p->ended_ns);
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
    if (LIKELY(request->decode_from_ns != 0))
        request->stage_ns[STAGE_DECODE] = p->submitted_ns - request->decode_from_ns;
    if (p->stream != NULL)
        p->batch_size = 1; /* its inputs come later */
    atomic_fetch_add_explicit(&engine->in_flight, 1, memory_order_relaxed);
    if (UNLIKELY(atomic_load_explicit(&engine->is_draining, memory_order_relaxed)) &&
        !p->is_of_session) {
        err_set(&p->err, E_UNAVAILABLE, "the server is draining and takes no new requests");
        p->err.retry_after_ms = 1000;
        p->refusal = REFUSAL_DRAINING;
    } else if (p->stream == NULL && UNLIKELY(validate(p, false, &bytes, &p->err) != OK)) {
        /* the text is written */
    } else if (default_deadline(p), UNLIKELY(p->submitted_ns >= request->deadline_ns)) {
        p->refusal = REFUSAL_LATE;
        late(p, STAGE_DECODE, &p->err);
    } else if (UNLIKELY(!enter_tenant(p))) {
        /* the text is written */
    } else {
        uint32_t loop = loop_index(request->loop);
        if (model_is_concurrent(model->traits)) {
            if (submit_open(p, &p->err) == OK)
                return;
            finish_early(p);
            return;
        }
        if (loop < model->inline_count && policy_is_inline(&model->policy, bytes) &&
            !model->inline_instances[loop].is_entered) {
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
