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

/* -- outputs ----------------------------------------------------------------------------------- */

void emission_free(struct emission *e)
{
    response_drop(&e->response);
    mem_free(e);
}

static void on_emission(struct loop_msg *msg)
{
    struct emission *e = CONTAINER_OF(msg, struct emission, msg);

    request_deliver(e->request->private, &e->response);
    emission_free(e);
}

/* The response being filled: the request's own first, then one from the heap each. */
static struct response *filling(struct request_private *p, struct err *err)
{
    if (!p->first_used)
        return &p->response;
    if (p->filling == NULL) {
        uint32_t count = p->response.outputs_count;
        p->filling = mem_zalloc(sizeof *p->filling + count * sizeof p->filling->outputs[0]);
        if (p->filling == NULL) {
            err_set(err, E_EXHAUSTED, "no memory for one more response");
            return NULL;
        }
        p->filling->msg.run = on_emission;
        p->filling->request = &p->pub;
        p->filling->response.outputs_count = count;
        p->filling->response.outputs = p->filling->outputs;
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
        err_set(err, E_INTERNAL, "the backend filled row %u, output %u of rank %u, which is not "
                                 "there",
                row, output, rank);
        return NULL;
    }
    if (p->row_over) {
        err_set(err, E_CANCELLED, "the row is over");
        return NULL;
    }
    response = filling(p, err);
    if (response == NULL)
        return NULL;
    struct response_output *slot = &response->outputs[output];
    const struct signature_tensor *t = &p->pub.model->signature->outputs[output];
    if (slot->is_set && slot->tensor.owner != NULL) {
        struct buf *old = slot->tensor.owner;
        buf_unref(&old);
    }
    slot->is_set = false;
    slot->tensor = (struct penstock_tensor){ .name = t->name, .dtype = t->dtype, .rank = rank };
    memcpy(slot->tensor.shape, shape, rank * sizeof shape[0]);
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

static void *host_output(struct penstock_batch *batch, uint32_t row, uint32_t output,
                         uint32_t rank, const int64_t *shape, size_t bytes,
                         struct penstock_err *plugin_err)
{
    struct err *err = (struct err *)(void *)plugin_err;
    struct response_output *slot = output_slot(batch, row, output, rank, shape, err);
    struct request_private *p = batch->row;

    if (slot == NULL || !size_fits(&slot->tensor, rank, shape, bytes, err))
        return NULL;
    slot->tensor.size = bytes;
    size_t room = (bytes + BUF_ALIGN - 1) & ~(size_t)(BUF_ALIGN - 1);
    if (!p->first_used && bytes <= SCRATCH_BYTES && room <= SCRATCH_BYTES - p->scratch_used) {
        void *memory = p->scratch + p->scratch_used;
        p->scratch_used += room;
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

static void host_emit(struct penstock_batch *batch, uint32_t row)
{
    struct request_private *p = batch->row;

    if (row != 0 || p->row_over)
        return;
    uint32_t credit = atomic_load_explicit(&p->credit, memory_order_relaxed);
    while (credit != UINT32_MAX && credit != 0 &&
           !atomic_compare_exchange_weak(&p->credit, &credit, credit - 1))
        ;
    p->has_filled = false;
    if (!p->first_used) {
        /* Where one answer is the rule it travels with the end: one message, not two. */
        p->first_used = true;
        if ((p->pub.model->traits & PENSTOCK_BACKEND_DECOUPLED) == 0)
            return;
        p->first_posted = true;
        if (p->pub.was_inline)
            request_deliver(p, &p->response);
        else
            loop_post(p->pub.loop, &p->first_msg);
        return;
    }
    if ((p->pub.model->traits & PENSTOCK_BACKEND_DECOUPLED) == 0) {
        host_fail_row(batch, row, E_INTERNAL,
                      "the backend answered twice, but did not declare itself decoupled");
        return;
    }
    struct emission *e = TAKE(p->filling);
    if (e == NULL && filling(p, NULL) != NULL)
        e = TAKE(p->filling); /* an empty response is one too */
    if (e == NULL) {
        host_fail_row(batch, row, E_EXHAUSTED, "no memory for one more response; retry later");
        return;
    }
    if (p->pub.was_inline) {
        request_deliver(p, &e->response);
        emission_free(e);
    } else {
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

    if (index >= p->pub.model->signature->inputs_count || !p->pub.has_input[index])
        return NULL;
    return &p->backend_inputs[index];
}

static int64_t host_row_size(const struct penstock_batch *batch, uint32_t row UNUSED)
{
    return (int64_t)batch->row->batch_size;
}

static bool host_wants(const struct penstock_batch *batch, uint32_t row, uint32_t output)
{
    const struct request_private *p = batch->row;

    return row == 0 && output < p->response.outputs_count && p->pub.wants[output];
}

static const char *host_parameter(const struct penstock_batch *batch, uint32_t row,
                                  const char *key)
{
    const struct parameter *found = row == 0 ? request_parameter(&batch->row->pub, key) : NULL;

    return found == NULL ? NULL : found->text;
}

static bool host_cancelled(const struct penstock_batch *batch, uint32_t row)
{
    const struct request_private *p = batch->row;

    return row != 0 || atomic_load_explicit(&p->is_cancelled, memory_order_acquire) ||
           (p->pub.deadline_ns != UINT64_MAX && env_now(p->engine) >= p->pub.deadline_ns);
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

    require(!atomic_load_explicit(&batch->is_done, memory_order_relaxed));
    if (code != 0)
        host_fail_row(batch, 0, code, text);
    else if (!p->row_over && p->has_filled)
        host_emit(batch, 0);
    p->row_over = true;
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
    host->cancelled = host_cancelled;
    host->credit = host_credit;
    host->wait_credit = host_wait_credit;
    host->output = host_output;
    host->output_adopt = host_output_adopt;
    host->emit = host_emit;
    host->fail_row = host_fail_row;
    host->done = host_done;
    host->mark_compute = host_mark_compute;
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
        if (p->pub.wants[i] && !p->response.outputs[i].is_set &&
            !s->outputs[i].is_optional) {
            p->first_used = false;
            p->failed_in_backend = true;
            err_set(&p->err, E_INTERNAL, "model '%s' did not give output '%s'",
                    p->pub.model->host.name, s->outputs[i].name);
            return;
        }
}

void instance_run(struct instance *instance, struct request_private *p)
{
    struct model *model = instance->model;
    struct model_stats *stats = &model->stats;
    struct penstock_batch *batch = &instance->batch;
    bool is_cpu = !instance->is_inline || policy_wants_cpu(&model->policy);
    uint64_t cpu_ns = UNLIKELY(is_cpu) ? policy_cpu_ns() : 0;

    batch->row = p;
    batch->marked_input = batch->marked_end = false;
    atomic_store_explicit(&batch->is_done, false, memory_order_relaxed);
    if (!instance->is_inline)
        atomic_fetch_add_explicit(&stats->running, 1, memory_order_relaxed);
    p->begun_ns = instance->is_inline ? p->submitted_ns : env_now(p->engine);
    model->backend->execute(instance->handle, batch);
    if (UNLIKELY(!atomic_load_explicit(&batch->is_done, memory_order_acquire)))
        wait_done(instance);
    p->ended_ns = env_now(p->engine);
    if (instance->is_inline) {
        model_stat_add(&model->shards[instance->index].runs_inline, 1);
    } else {
        atomic_fetch_sub_explicit(&stats->running, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&stats->runs_queued, 1, memory_order_relaxed);
    }
    if (!batch->marked_input)
        p->input_end_ns = p->begun_ns;
    if (!batch->marked_end)
        p->run_end_ns = p->ended_ns;
    p->pub.stage_ns[STAGE_QUEUE] = p->begun_ns - p->submitted_ns;
    p->pub.stage_ns[STAGE_INPUT] = p->input_end_ns - p->begun_ns;
    p->pub.stage_ns[STAGE_RUN] = p->run_end_ns - p->input_end_ns;
    p->pub.stage_ns[STAGE_OUTPUT] = p->ended_ns - p->run_end_ns;
    check_outputs(p);
    if (p->filling != NULL) {
        emission_free(p->filling);
        p->filling = NULL;
    }
    if (p->err.code == OK)
        policy_report(&model->policy, input_bytes(p),
                      is_cpu ? policy_cpu_ns() - cpu_ns : p->ended_ns - p->begun_ns, is_cpu);
}

/* Takes the next request that is still worth running; NULL: the model stops. Sleeps in between. */
static struct request_private *next_request(struct instance *instance)
{
    struct model *model = instance->model;
    struct env *env = model->engine->env;

    for (;;) {
        pthread_mutex_lock(&model->lock);
        if (instance->is_woken) {
            instance->is_woken = false;
            model->woken--;
        }
        struct list_node *node = list_pop(&model->queue);
        if (node != NULL) {
            struct request_private *p = CONTAINER_OF(node, struct request_private, queue_node);
            /* Woken for nothing it is still in the list; who is woken by it must be free to run. */
            list_remove(&instance->idle_node);
            model->queued--;
            p->state = REQUEST_RUNNING;
            p->instance = instance;
            instance->is_running = true;
            pthread_mutex_unlock(&model->lock);
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

    while ((p = next_request(instance)) != NULL) {
        instance_run(instance, p);
        pthread_mutex_lock(&model->lock);
        p->instance = NULL;
        pthread_mutex_unlock(&model->lock);
        loop_post(p->pub.loop, &p->end_msg); /* p is the loop's from here */
    }
}
