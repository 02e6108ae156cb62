/* instance.c - running a batch: what the backend calls while it executes.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The direct scheduler puts one row into a batch. Everything here runs on the thread that executes
 * (a loop for inline runs, else the instance's worker), one call at a time.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/internal.h"
#include "model/dtype.h"
#include "telemetry/trace.h"

/* -- outputs ----------------------------------------------------------------------------------- */

static void on_emission(struct loop_msg *msg)
{
    struct emission *e = CONTAINER_OF(msg, struct emission, msg);

    request_deliver(e->request->private, &e->response, e->piece, e->interrupts);
    emission_give(e, true);
}

static struct emission *emission_new(uint32_t outputs_count)
{
    size_t head = sizeof(struct emission) + outputs_count * sizeof(struct response_output);
    head = (head + BUF_ALIGN - 1) & ~(size_t)(BUF_ALIGN - 1);
    struct emission *e = mem_aligned(BUF_ALIGN, head + SCRATCH_BYTES);

    if (e == NULL)
        return NULL;
    memset(e, 0, head);
    e->msg.run = on_emission;
    e->response.outputs_count = outputs_count;
    e->response.outputs = e->outputs;
    e->scratch = (uint8_t *)e + head;
    return e;
}

static struct emission *emission_of(struct mpsc_node *node)
{
    return CONTAINER_OF(node, struct emission, msg.node);
}

struct emission *emission_take(struct instance *instance, struct request_private *p)
{
    struct emission *e = instance->emissions;

    if (e == NULL && !instance->is_inline) {
        /* What the loops gave back since. */
        struct mpsc_node *node = mpsc_take_all(&instance->returned);
        e = node == NULL ? NULL : emission_of(node);
    }
    if (LIKELY(e != NULL)) {
        struct mpsc_node *next = e->msg.node.next;
        instance->emissions = next == NULL ? NULL : emission_of(next);
    } else if ((e = emission_new(p->response.outputs_count)) != NULL &&
               instance->emissions_count < EMISSIONS_KEPT) {
        instance->emissions_count++;
        e->home = instance;
    }
    if (e != NULL)
        e->request = &p->pub;
    return e;
}

void emission_give(struct emission *e, bool is_on_loop)
{
    struct instance *home = e->home;

    for (uint32_t i = 0; i < e->response.outputs_count; i++) {
        if (!e->outputs[i].is_set)
            continue;
        struct buf *holder = e->outputs[i].tensor.owner;
        buf_unref(&holder);
        e->outputs[i].is_set = false;
    }
    e->scratch_used = 0;
    if (home == NULL) {
        mem_free(e);
    } else if (home->is_inline || !is_on_loop) {
        e->msg.node.next = home->emissions == NULL ? NULL : &home->emissions->msg.node;
        home->emissions = e;
    } else {
        mpsc_put(&home->returned, &e->msg.node);
    }
}

void emissions_free(struct instance *instance)
{
    struct mpsc_node *node = mpsc_take_all(&instance->returned);

    for (int round = 0; round < 2; round++) {
        while (node != NULL) {
            struct emission *e = emission_of(node);
            node = node->next;
            mem_free(e);
        }
        node = instance->emissions == NULL ? NULL : &instance->emissions->msg.node;
        instance->emissions = NULL;
    }
}

/* The response being filled: the request's own first, then one from the pool each. */
static struct response *filling(struct penstock_batch *batch, struct err *err)
{
    struct request_private *p = batch->row;

    if (!p->first_used)
        return &p->response;
    if (p->filling == NULL)
        p->filling = emission_take(batch->instance, p);
    if (p->filling == NULL) {
        err_set(err, E_EXHAUSTED, "no memory for one more response");
        return NULL;
    }
    return &p->filling->response;
}

static struct response_output *output_slot(struct penstock_batch *batch, uint32_t row,
                                           uint32_t output, uint32_t rank, const int64_t *shape,
                                           struct err *err)
{
    struct request_private *p = batch->row;
    struct response *response;

    if (row != 0 || output >= p->response.outputs_count || rank > PENSTOCK_RANK_MAX) {
        err_set(err, E_INTERNAL,
                "the backend filled row %u, output %u of rank %u, which is not "
                "there",
                row, output, rank);
        return NULL;
    }
    if (p->row_over) {
        err_set(err, E_CANCELLED, "the row is over");
        return NULL;
    }
    response = filling(batch, err);
    if (response == NULL)
        return NULL;
    struct response_output *slot = &response->outputs[output];
    const struct signature_tensor *t = &p->pub.model->signature->outputs[output];
    if (slot->is_set && slot->tensor.owner != NULL) {
        struct buf *old = slot->tensor.owner;
        buf_unref(&old);
    }
    slot->is_set = false;
    slot->tensor.name = t->name;
    slot->tensor.dtype = t->dtype;
    slot->tensor.rank = rank;
    slot->tensor.place = (struct penstock_place){ PENSTOCK_CPU, 0 };
    slot->tensor.data = slot->tensor.owner = NULL;
    slot->tensor.size = 0;
    for (uint32_t i = 0; i < rank; i++)
        slot->tensor.shape[i] = shape[i];
    if (UNLIKELY(t->is_reshaped)) {
        /* The backend's shape back into what clients see. */
        uint32_t at = 0;
        slot->tensor.rank = t->rank;
        for (uint32_t i = 0; i < t->rank; i++) {
            slot->tensor.shape[i] = t->dims[i];
            if (t->dims[i] != -1)
                continue;
            while (at < t->reshape_rank && t->reshape[at] != -1)
                at++;
            slot->tensor.shape[i] = at < rank ? shape[at] : 1;
            at++;
        }
    }
    return slot;
}

/* Does the size fit the shape? A backend's mistake must not become somebody's bad read. */
static bool size_fits(const struct penstock_tensor *t, uint32_t rank, const int64_t *shape,
                      size_t bytes, struct err *err)
{
    uint64_t count;
    size_t size;
    char text[160];

    if (shape_count(rank, shape, &count) &&
        (t->dtype == PENSTOCK_BYTES
             ? bytes >= count * 4
             : !__builtin_mul_overflow(count, dtype_size(t->dtype), &size) && size == bytes))
        return true;
    err_set(err, E_INTERNAL, "the backend gave output '%s' %zu bytes for shape %s of %s", t->name,
            bytes, shape_text(text, sizeof text, rank, shape), dtype_name(t->dtype));
    return false;
}

static void *host_output(struct penstock_batch *batch, uint32_t row, uint32_t output, uint32_t rank,
                         const int64_t *shape, size_t bytes, struct penstock_err *plugin_err)
{
    struct err *err = (struct err *)(void *)plugin_err;
    struct response_output *slot = output_slot(batch, row, output, rank, shape, err);
    struct request_private *p = batch->row;

    if (slot == NULL || !size_fits(&slot->tensor, rank, shape, bytes, err))
        return NULL;
    slot->tensor.size = bytes;
    size_t room = (bytes + BUF_ALIGN - 1) & ~(size_t)(BUF_ALIGN - 1);
    uint32_t *used = p->first_used ? &p->filling->scratch_used : &p->scratch_used;
    if (bytes <= SCRATCH_BYTES && room <= SCRATCH_BYTES - *used) {
        void *memory = (p->first_used ? p->filling->scratch : p->scratch) + *used;
        *used += (uint32_t)room;
        slot->tensor.data = memory;
        slot->is_set = p->has_filled = true;
        return memory;
    }
    struct buf *holder = NULL;
    if (buf_new(&holder, p->engine->settings.budget, bytes, err) != OK)
        return NULL;
    slot->tensor.owner = holder;
    slot->tensor.data = buf_fill(holder);
    slot->is_set = p->has_filled = true;
    return buf_fill(holder);
}

static int host_output_adopt(struct penstock_batch *batch, uint32_t row, uint32_t output,
                             uint32_t rank, const int64_t *shape, void *data, size_t bytes,
                             void (*release)(void *context, void *data), void *context,
                             struct penstock_err *plugin_err)
{
    struct err *err = (struct err *)(void *)plugin_err;
    struct response_output *slot = output_slot(batch, row, output, rank, shape, err);
    struct buf *holder = NULL;

    if (slot == NULL || !size_fits(&slot->tensor, rank, shape, bytes, err))
        return E_INTERNAL;
    enum err_code code = buf_adopt(&holder, data, bytes, release, context, err);
    if (code != OK)
        return (int)code;
    slot->tensor.owner = holder;
    slot->tensor.data = data;
    slot->tensor.size = bytes;
    slot->is_set = batch->row->has_filled = true;
    return OK;
}

static void host_fail_row(struct penstock_batch *batch, uint32_t row, int code, const char *text);

static void host_wait_credit(const struct penstock_batch *batch, uint32_t row);

/* One response less that the reader takes. A backend that may block is made to wait for its reader
 * here, if it did not by itself. */
static void take_credit(struct penstock_batch *batch, struct request_private *p)
{
    const uint32_t others = PENSTOCK_BACKEND_ASYNCHRONOUS | PENSTOCK_BACKEND_CONCURRENT;
    uint32_t credit = atomic_load_explicit(&p->credit, memory_order_relaxed);

    if (credit == UINT32_MAX)
        return;
    if (p->pub.was_inline) { /* nobody else writes: no locked instruction */
        if (credit != 0)
            atomic_store_explicit(&p->credit, credit - 1, memory_order_relaxed);
        return;
    }
    uint32_t traits = p->pub.model->traits;
    if (credit == 0 && (traits & PENSTOCK_BACKEND_DECOUPLED) != 0 && (traits & others) == 0)
        host_wait_credit(batch, 0);
    credit = atomic_load_explicit(&p->credit, memory_order_relaxed);
    while (credit != UINT32_MAX && credit != 0 &&
           !atomic_compare_exchange_weak(&p->credit, &credit, credit - 1))
        ;
}

static void host_emit(struct penstock_batch *batch, uint32_t row)
{
    struct request_private *p = batch->row;

    if (row != 0 || p->row_over)
        return;
    take_credit(batch, p);
    p->has_filled = false;
    uint64_t piece = p->stream != NULL ? p->stream->taken_number : 0;
    uint32_t interrupts = p->stream != NULL ? p->stream->interrupts_seen : 0;
    if (!p->first_used) {
        /* Where one answer is the rule it travels with the end: one message, not two. */
        p->first_used = true;
        p->first_piece = piece;
        p->first_interrupts = interrupts;
        if ((p->pub.model->traits & PENSTOCK_BACKEND_DECOUPLED) == 0)
            return;
        p->first_posted = true;
        if (p->pub.was_inline)
            request_deliver(p, &p->response, piece, interrupts);
        else
            loop_post(p->pub.loop, &p->first_msg);
        return;
    }
    if (UNLIKELY((p->pub.model->traits & PENSTOCK_BACKEND_DECOUPLED) == 0)) {
        host_fail_row(batch, row, E_INTERNAL,
                      "the backend answered twice, but did not declare itself decoupled");
        return;
    }
    if (p->filling == NULL)
        (void)filling(batch, NULL); /* an empty response is one too */
    struct emission *e = TAKE(p->filling);
    if (UNLIKELY(e == NULL)) {
        host_fail_row(batch, row, E_EXHAUSTED, "no memory for one more response; retry later");
        return;
    }
    if (p->pub.was_inline) {
        request_deliver(p, &e->response, piece, interrupts);
        emission_give(e, true);
    } else {
        e->piece = piece;
        e->interrupts = interrupts;
        loop_post(p->pub.loop, &e->msg);
    }
}

/* -- questions --------------------------------------------------------------------------------- */

static uint32_t host_rows(const struct penstock_batch *batch UNUSED)
{
    return 1;
}

static const struct penstock_tensor *host_input(const struct penstock_batch *batch, uint32_t index)
{
    const struct request_private *p = batch->row;

    if (index >= p->pub.model->signature->inputs_count)
        return NULL;
    if (UNLIKELY((p->pub.model->traits & PENSTOCK_BACKEND_TAKES_STREAM) != 0)) {
        if (p->stream != NULL) {
            const struct stream_piece *piece = p->stream->taken;
            return piece != NULL && piece->has_input[index] ? &piece->inputs[index] : NULL;
        }
        if (p->own_taken != 1) /* nothing is taken */
            return NULL;
    }
    return p->pub.has_input[index] ? &p->backend_inputs[index] : NULL;
}

static int64_t host_row_size(const struct penstock_batch *batch, uint32_t row UNUSED)
{
    const struct stream *stream = batch->row->stream;

    if (stream != NULL && stream->taken != NULL)
        return stream->taken->rows;
    return (int64_t)batch->row->batch_size;
}

static bool host_wants(const struct penstock_batch *batch, uint32_t row, uint32_t output)
{
    const struct request_private *p = batch->row;

    return row == 0 && output < p->response.outputs_count && p->pub.wants[output];
}

static const char *host_parameter(const struct penstock_batch *batch, uint32_t row, const char *key)
{
    const struct request_private *p = batch->row;
    const struct parameter *found =
        p->stream != NULL && p->stream->taken != NULL ? p->stream->taken->parameters : NULL;

    if (row != 0)
        return NULL;
    while (found != NULL && strcmp(found->key, key) != 0)
        found = found->next;
    if (found == NULL)
        found = request_parameter(&p->pub, key);
    return found == NULL ? NULL : found->text;
}

static bool host_traceparent(const struct penstock_batch *batch, uint32_t row, char *out,
                             size_t size)
{
    const struct trace_context *trace = batch->row->pub.trace;

    if (row != 0 || trace == NULL || !trace_is_set(trace) || size < TRACEPARENT_MAX)
        return false;
    trace_write(trace, out);
    return true;
}

static bool host_cancelled(const struct penstock_batch *batch, uint32_t row)
{
    const struct request_private *p = batch->row;

    if (row != 0 || atomic_load_explicit(&p->is_cancelled, memory_order_acquire))
        return true;
    if (p->pub.deadline_ns == UINT64_MAX)
        return false;
    /* On a loop others ask often: the turn's own time will do. */
    uint64_t now =
        batch->open != NULL && p->pub.was_inline ? loop_now_ns(p->pub.loop) : env_now(p->engine);
    return now >= p->pub.deadline_ns;
}

static uint32_t host_credit(const struct penstock_batch *batch, uint32_t row)
{
    return row == 0 ? atomic_load_explicit(&batch->row->credit, memory_order_relaxed) : 0;
}

static void host_wait_credit(const struct penstock_batch *batch, uint32_t row)
{
    struct request_private *p = batch->row;
    struct env *env = p->engine->env;

    require(batch->instance->worker != NULL);
    while (row == 0 && host_credit(batch, row) == 0 && !host_cancelled(batch, row))
        env->worker_sleep(env, batch->instance->worker, p->pub.deadline_ns);
}

static void host_mark_compute(struct penstock_batch *batch, bool is_end)
{
    struct request_private *p = batch->row;

    if (is_end && !batch->marked_end) {
        batch->marked_end = true;
        p->run_end_ns = env_now(p->engine);
    } else if (!is_end && !batch->marked_input) {
        batch->marked_input = true;
        p->input_end_ns = env_now(p->engine);
    }
}

/* -- ends -------------------------------------------------------------------------------------- */

static enum err_code code_of(int code)
{
    return code > 0 && code < ERR_CODE_END ? (enum err_code)code : E_UNKNOWN;
}

static void host_fail_row(struct penstock_batch *batch, uint32_t row, int code, const char *text)
{
    struct request_private *p = batch->row;

    if (row != 0 || p->row_over)
        return;
    p->row_over = p->failed_in_backend = true;
    err_set(&p->err, code_of(code), "%s", text != NULL ? text : "the backend gave no reason");
}

static void host_done(struct penstock_batch *batch, int code, const char *text)
{
    struct request_private *p = batch->row;
    struct instance *instance = batch->instance;

    if (batch->open != NULL)
        require(!list_has(&batch->open->done_node));
    else
        require(!atomic_load_explicit(&batch->is_done, memory_order_relaxed));
    if (code != 0)
        host_fail_row(batch, 0, code, text);
    else if (!p->row_over && p->has_filled)
        host_emit(batch, 0);
    p->row_over = true;
    if (batch->open != NULL) {
        list_push(&instance->done, &batch->open->done_node);
        return;
    }
    struct worker *worker = instance->worker;
    struct model *model = instance->model;
    if (worker == NULL) {
        atomic_store_explicit(&batch->is_done, true, memory_order_release);
        return;
    }
    /* From here on cancel() may not be called for this run. Its worker takes the mutex before it
     * goes on, so it and the model stay until we have left, also when we are another thread. */
    pthread_mutex_lock(&model->lock);
    instance->is_running = false;
    atomic_store_explicit(&batch->is_done, true, memory_order_release);
    if ((model->traits & PENSTOCK_BACKEND_ASYNCHRONOUS) != 0)
        model->engine->env->worker_wake(model->engine->env, worker);
    pthread_mutex_unlock(&model->lock);
}

static int host_fail(struct penstock_err *plugin_err, int code, const char *format, ...)
{
    struct err *err = (struct err *)(void *)plugin_err;
    va_list args;
    char text[ERR_TEXT_MAX];

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return (int)err_set(err, code_of(code), "%s", text);
}

static void host_log(enum penstock_log_level level, const char *text)
{
    log_write((enum log_level)MIN((unsigned)level, (unsigned)LOG_DEBUG), "%s", text);
}

void host_fill(struct penstock_host *host)
{
    host->abi = PENSTOCK_BACKEND_ABI;
    host->size = sizeof *host;
    host->fail = host_fail;
    host->log = host_log;
    host->rows = host_rows;
    host->input = host_input;
    host->row_size = host_row_size;
    host->wants = host_wants;
    host->parameter = host_parameter;
    host->traceparent = host_traceparent;
    host->cancelled = host_cancelled;
    host->credit = host_credit;
    host->wait_credit = host_wait_credit;
    host->output = host_output;
    host->output_adopt = host_output_adopt;
    host->emit = host_emit;
    host->fail_row = host_fail_row;
    host->done = host_done;
    host->mark_compute = host_mark_compute;
    host_fill_open(host);
    host_fill_stream(host);
}

/* -- the run ------------------------------------------------------------------------------------ */

static void wait_done(struct instance *instance)
{
    struct env *env = instance->model->engine->env;

    while (!atomic_load_explicit(&instance->batch.is_done, memory_order_acquire)) {
        require(instance->worker != NULL); /* an inline run must be done when execute returns */
        env->worker_sleep(env, instance->worker, UINT64_MAX);
    }
}

static uint64_t input_bytes(const struct request_private *p)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < p->pub.model->signature->inputs_count; i++)
        if (p->pub.has_input[i])
            bytes += p->pub.inputs[i].size;
    return bytes;
}

/* A model that promises an output must give it. */
static void check_outputs(struct request_private *p)
{
    const struct signature *s = p->pub.model->signature;

    if (p->err.code != OK || (p->pub.model->traits & PENSTOCK_BACKEND_DECOUPLED) != 0)
        return;
    for (uint32_t i = 0; i < s->outputs_count; i++)
        if (p->pub.wants[i] && !p->response.outputs[i].is_set && !s->outputs[i].is_optional) {
            p->first_used = false;
            p->failed_in_backend = true;
            err_set(&p->err, E_INTERNAL, "model '%s' did not give output '%s'",
                    p->pub.model->host.name, s->outputs[i].name);
            return;
        }
}

void instance_account(struct instance *instance, struct request_private *p,
                      const struct penstock_batch *batch)
{
    if (instance->is_inline) {
        model_stat_add(&instance->model->shards[instance->index].runs_inline, 1);
    } else {
        atomic_fetch_add_explicit(&instance->model->stats.runs_queued, 1, memory_order_relaxed);
    }
    if (!batch->marked_input)
        p->input_end_ns = p->begun_ns;
    if (!batch->marked_end)
        p->run_end_ns = p->ended_ns;
    p->pub.stage_ns[STAGE_QUEUE] = p->pub.waited_ns + p->begun_ns - p->submitted_ns;
    p->pub.stage_ns[STAGE_INPUT] = p->input_end_ns - p->begun_ns;
    p->pub.stage_ns[STAGE_RUN] = p->run_end_ns - p->input_end_ns;
    p->pub.stage_ns[STAGE_OUTPUT] = p->ended_ns - p->run_end_ns;
    check_outputs(p);
    if (p->filling != NULL) {
        emission_give(p->filling, false);
        p->filling = NULL;
    }
}

void instance_run(struct instance *instance, struct request_private *p)
{
    struct model *model = instance->model;
    struct penstock_batch *batch = &instance->batch;
    bool is_cpu = !instance->is_inline || policy_wants_cpu(&model->policy);
    uint64_t cpu_ns = UNLIKELY(is_cpu) ? policy_cpu_ns() : 0;

    batch->row = p;
    batch->marked_input = batch->marked_end = false;
    atomic_store_explicit(&batch->is_done, false, memory_order_relaxed);
    if (!instance->is_inline)
        atomic_fetch_add_explicit(&model->stats.running, 1, memory_order_relaxed);
    p->begun_ns = instance->is_inline ? p->submitted_ns : env_now(p->engine);
    instance->is_entered = true;
    model->backend->execute(instance->handle, batch);
    instance->is_entered = false;
    if (UNLIKELY(!atomic_load_explicit(&batch->is_done, memory_order_acquire)))
        wait_done(instance);
    p->ended_ns = env_now(p->engine);
    if (!instance->is_inline)
        atomic_fetch_sub_explicit(&model->stats.running, 1, memory_order_relaxed);
    instance_account(instance, p, batch);
    if (p->err.code == OK)
        policy_report(&model->policy, input_bytes(p),
                      is_cpu ? policy_cpu_ns() - cpu_ns : p->ended_ns - p->begun_ns, is_cpu);
}

/* Takes the next request that is still worth running; NULL: the model stops. Sleeps in between. */
static struct request_private *next_request(struct instance *instance)
{
    struct model *model = instance->model;
    struct env *env = model->engine->env;
    struct queue_change change;

    for (;;) {
        uint64_t now_ns = env_now(model->engine);
        pthread_mutex_lock(&model->lock);
        if (instance->is_woken) {
            instance->is_woken = false;
            model->woken--;
        }
        struct request_private *p = model_take(model, now_ns);
        if (p != NULL) {
            /* Woken for nothing it is still in the list; who is woken by it must be free to run. */
            list_remove(&instance->idle_node);
            p->state = REQUEST_RUNNING;
            p->instance = instance;
            instance->is_running = true;
            bool is_told = model_queue_changed(model, false, &change);
            pthread_mutex_unlock(&model->lock);
            if (UNLIKELY(is_told))
                model_tell_queue(model, &change);
            return p;
        }
        bool stops = model->is_stopping;
        if (!stops && !list_has(&instance->idle_node))
            list_push(&model->idle, &instance->idle_node);
        pthread_mutex_unlock(&model->lock);
        if (stops)
            return NULL;
        env->worker_sleep(env, instance->worker, UINT64_MAX);
    }
}

void instance_worker_main(void *arg)
{
    struct instance *instance = arg;
    struct model *model = instance->model;
    struct request_private *p;

    if (model_is_concurrent(model->traits)) {
        open_worker_main(arg);
        return;
    }
    while ((p = next_request(instance)) != NULL) {
        instance_run(instance, p);
        pthread_mutex_lock(&model->lock);
        p->instance = NULL;
        model_ran(model, p, p->ended_ns - p->begun_ns);
        pthread_mutex_unlock(&model->lock);
        loop_post(p->pub.loop, &p->end_msg); /* p is the loop's from here */
    }
}
