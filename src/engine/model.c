/* model.c - opening and closing a model version, and its queue. SPDX-License-Identifier: Apache-2.0
 *
 * Opening is a straight line in model_new; model_close undoes whatever part of it was done, so that
 * a failure anywhere is one call.
 */
#include "engine/model.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "engine/internal.h"
#include "model/card.h"
#include "model/dtype.h"
#include "model/numbers.h"

/* -- what the backend may ask of its model ------------------------------------------------------ */

static const char *host_model_name(const struct penstock_model *m)
{
    return m->name;
}
static int64_t host_model_version(const struct penstock_model *m)
{
    return m->version;
}
static const char *host_model_folder(const struct penstock_model *m)
{
    return m->folder;
}
static const char *host_model_path(const struct penstock_model *m)
{
    return m->path;
}
static const char *host_config_json(const struct penstock_model *m)
{
    return m->config_text;
}
static const char *host_config_parameter(const struct penstock_model *m, const char *key)
{
    for (uint32_t i = 0; i < m->config->parameters_count; i++)
        if (strcmp(m->config->parameters[i].key, key) == 0)
            return m->config->parameters[i].value;
    return NULL;
}

static int host_declare(struct penstock_model *m, bool is_output, const char *name,
                        enum penstock_dtype dtype, uint32_t rank, const int64_t *dims,
                        bool is_optional, struct penstock_err *plugin_err)
{
    struct err *err = (struct err *)(void *)plugin_err;
    struct declared_tensor **list = is_output ? &m->outputs : &m->inputs;
    uint32_t *count = is_output ? &m->outputs_count : &m->inputs_count;
    uint32_t *room = is_output ? &m->outputs_room : &m->inputs_room;

    require(m->is_opening);
    if (rank > PENSTOCK_RANK_MAX)
        return (int)err_set(err, E_UNIMPLEMENTED, "%s '%s' has %u dimensions; the most is %u",
                            is_output ? "output" : "input", name, rank, PENSTOCK_RANK_MAX);
    if (dtype == PENSTOCK_INVALID || dtype >= PENSTOCK_DTYPE_COUNT)
        return (int)err_set(err, E_UNIMPLEMENTED, "%s '%s' has an element type that is not served",
                            is_output ? "output" : "input", name);
    if (*count == *room) {
        uint32_t more = *room == 0 ? 8 : *room * 2;
        struct declared_tensor *bigger = mem_resize(*list, more * sizeof **list);
        if (bigger == NULL)
            return (int)err_set(err, E_EXHAUSTED, "no memory for the model's tensors");
        *list = bigger;
        *room = more;
    }
    char *copy = arena_strndup(m->arena, name, strlen(name));
    if (copy == NULL)
        return (int)err_set(err, E_EXHAUSTED, "no memory for the model's tensors");
    struct declared_tensor *t = &(*list)[(*count)++];
    *t = (struct declared_tensor){
        .name = copy, .dtype = dtype, .rank = rank, .is_optional = is_optional
    };
    if (rank != 0)
        memcpy(t->dims, dims, rank * sizeof dims[0]);
    return OK;
}

static bool copy_names(struct arena *arena, uint32_t count, const char *const *names,
                       const char *const **ret)
{
    const char **list = arena_alloc(arena, count * sizeof *list);

    for (uint32_t i = 0; list != NULL && i < count; i++) {
        list[i] = arena_strndup(arena, names[i], strlen(names[i]));
        if (list[i] == NULL)
            return false;
    }
    *ret = list;
    return list != NULL;
}

static int host_classes(struct penstock_model *m, const char *output, uint32_t count,
                        const char *const *names, const int64_t *numbers,
                        struct penstock_err *plugin_err)
{
    struct err *err = (struct err *)(void *)plugin_err;
    struct declared_tensor *t = NULL;

    require(m->is_opening);
    for (uint32_t i = 0; i < m->outputs_count && t == NULL; i++)
        if (strcmp(m->outputs[i].name, output) == 0)
            t = &m->outputs[i];
    if (t == NULL)
        return (int)err_set(err, E_INTERNAL,
                            "the backend gave classes of output '%s', which it did not declare",
                            output);
    if (count == 0 || count > CARD_LABELS_MAX || (names == NULL) == (numbers == NULL))
        return (int)err_set(err, E_INTERNAL,
                            "the backend gave %u classes of output '%s'; it may give 1 to %d, as "
                            "names or as numbers",
                            count, output, CARD_LABELS_MAX);
    for (uint32_t i = 0; names != NULL && i < count; i++)
        if (utf8_valid_prefix(slice_of(names[i])) != strlen(names[i]))
            return (int)err_set(err, E_INVALID, "class %u of output '%s' is not UTF-8 text", i,
                                output);
    t->class_names = NULL;
    t->class_numbers = NULL;
    t->classes_count = 0;
    if (names != NULL && !copy_names(m->arena, count, names, &t->class_names))
        return (int)err_set(err, E_EXHAUSTED, "no memory for the names of the model's classes");
    if (numbers != NULL) {
        int64_t *list = arena_alloc(m->arena, count * sizeof *list);
        if (list == NULL)
            return (int)err_set(err, E_EXHAUSTED, "no memory for the model's classes");
        memcpy(list, numbers, count * sizeof *list);
        t->class_numbers = list;
    }
    t->classes_count = count;
    return OK;
}

void model_host_fill(struct penstock_host *host)
{
    host->model_name = host_model_name;
    host->model_version = host_model_version;
    host->model_folder = host_model_folder;
    host->model_path = host_model_path;
    host->config_json = host_config_json;
    host->config_parameter = host_config_parameter;
    host->declare = host_declare;
    host->classes = host_classes;
}

/* -- instances ---------------------------------------------------------------------------------- */

static uint32_t instances_asked(const struct model_config *config)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < config->groups_count; i++)
        count += config->groups[i].count;
    return count == 0 ? 1 : MIN(count, (uint32_t)INSTANCES_MAX);
}

static enum err_code open_instances(struct model *model, struct instance **ret, uint32_t count,
                                    bool is_inline, uint32_t first_index, struct err *err)
{
    struct instance *list = mem_zalloc(count * sizeof *list);

    if (list == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for %u instances", count);
    *ret = list;
    for (uint32_t i = 0; i < count; i++) {
        list[i].model = model;
        list[i].index = i;
        list[i].is_inline = is_inline;
        list[i].batch.instance = &list[i];
        atomic_init(&list[i].batch.is_done, true);
        mpsc_init(&list[i].returned);
        list_init(&list[i].done);
        list_init(&list[i].waiting);
        list_init(&list[i].woken);
        list_init(&list[i].again);
        int code = model->backend->instance_open(&list[i].handle, model->handle, first_index + i,
                                                 (struct penstock_place){ PENSTOCK_CPU, 0 },
                                                 (struct penstock_err *)(void *)err);
        if (code != 0) {
            list[i].model = NULL;
            return err_wrap(err, "instance %u", i);
        }
        if (is_inline)
            model->inline_count = i + 1;
        else
            model->queued_count = i + 1;
    }
    return OK;
}

static enum err_code start_workers(struct model *model, struct err *err)
{
    struct env *env = model->engine->env;
    char name[16];

    /* Until it has looked at the queue once, a worker counts as on its way. */
    for (uint32_t i = 0; i < model->queued_count; i++)
        model->queued_instances[i].is_woken = true;
    model->woken = model->queued_count;
    for (uint32_t i = 0; i < model->queued_count; i++) {
        snprintf(name, sizeof name, "%.11s/%u", model->host.name, i % 1000u);
        TRY(env->worker_start(env, &model->queued_instances[i].worker, name, instance_worker_main,
                              &model->queued_instances[i], err));
    }
    return OK;
}

/* -- warming up --------------------------------------------------------------------------------- */

static void nothing(struct request *request UNUSED)
{
}

/* Runs the model a few times on the smallest inputs of zeros, so that the first caller is not the
 * slow one and the execution policy has something to go by. What it answers does not matter. */
static void warm_up(struct model *model)
{
    static const struct request_sink sink = { .on_free = nothing };
    const struct signature *s = model->signature;
    struct policy fresh = model->policy;

    for (unsigned round = 0; round < 4; round++) {
        CLEANUP(arena_free) struct arena *arena = arena_new(8192, 64 << 20);
        struct request *request = NULL;
        if (arena == NULL || request_new(&request, model->engine, model, arena, NULL, &sink,
                                         NULL) != OK)
            return;
        bool fits = true;
        for (uint32_t i = 0; i < s->inputs_count && fits; i++) {
            struct penstock_tensor *t = &request->inputs[i];
            uint64_t count;
            if (s->inputs[i].is_optional)
                continue;
            *t = (struct penstock_tensor){ .name = s->inputs[i].name,
                                           .dtype = s->inputs[i].dtype,
                                           .rank = s->inputs[i].rank };
            for (uint32_t d = 0; d < t->rank; d++)
                t->shape[d] = s->inputs[i].dims[d] == -1 ? 1 : s->inputs[i].dims[d];
            size_t one = t->dtype == PENSTOCK_BYTES ? 4 : dtype_size(t->dtype);
            fits = shape_count(t->rank, t->shape, &count) && count <= (16u << 20) / one;
            t->size = fits ? count * one : 0;
            t->data = fits ? arena_aligned(arena, BUF_ALIGN, t->size) : NULL;
            fits = t->data != NULL;
            if (fits)
                memset((void *)(uintptr_t)t->data, 0, t->size);
            request->has_input[i] = fits;
        }
        struct request_private *p = request->private;
        fits = fits && request_prepare_warm(p) == OK;
        uint64_t begun = env_now(model->engine);
        if (fits) {
            p->submitted_ns = begun;
            request->was_inline = true;
            instance_run(&model->inline_instances[0], p);
        }
        request_drop_warm(p);
        if (!fits)
            return;
        uint64_t took = env_now(model->engine) - begun;
        if (round == 0)
            model->policy = fresh; /* the first run also sets things up: it tells nothing */
        if (took > 20 * model->policy.worst_limit_ns || (round > 0 && took > 1000000))
            return;
    }
}

/* -- opening and closing ------------------------------------------------------------------------- */

static enum err_code refuse_what_is_not_built(struct model *model, struct err *err)
{
    const struct model_config *config = model->host.config;

    for (uint32_t i = 0; i < config->notices_count; i++)
        if (config->notices[i].is_refusal)
            return err_set(err, E_UNIMPLEMENTED, "%s", config->notices[i].text);
    for (uint32_t i = 0; i < config->notices_count; i++)
        log_warn("model '%s': %s", model->host.name, config->notices[i].text);
    return OK;
}

static enum err_code renew_config_text(struct model *model, struct err *err)
{
    char *text = config_json(model->host.config, false);

    if (text == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the configuration");
    mem_free(model->host.config_text);
    model->host.config_text = text;
    return OK;
}

static enum err_code apply_labels(struct model *model, const struct model_spec *spec,
                                  struct signature_tensor *tensor, const char *file,
                                  struct err *err)
{
    struct slice text;

    if (file == NULL || file[0] == '\0' || tensor == NULL || spec->read_file == NULL)
        return OK;
    if (spec->read_file(spec->read_file_context, file, &text, err) != OK ||
        signature_set_labels(tensor, text, model->host.arena, err) != OK)
        return err_wrap(err, "labels of '%s', file %s", tensor->name, file);
    return OK;
}

static enum err_code apply_card(struct model *model, const struct model_spec *spec,
                                struct err *err)
{
    struct signature *s = model->signature;
    const struct model_config *config = model->host.config;

    for (uint32_t i = 0; i < config->outputs_count; i++) {
        uint32_t at;
        if (signature_output(s, slice_of(config->outputs[i].name), &at) == NULL)
            continue;
        TRY(apply_labels(model, spec, &s->outputs[at], config->outputs[i].label_filename, err));
        s->outputs[at].labels_may_differ = true;
    }
    if (spec->card != NULL) {
        if (card_apply(spec->card, s, model->host.arena, err) != OK)
            return err_wrap(err, "model.yaml");
        for (uint32_t i = 0; i < spec->card->outputs_count; i++) {
            uint32_t at;
            const char *file = spec->card->outputs[i].labels_file;
            if (signature_output(s, slice_of(spec->card->outputs[i].name), &at) == NULL)
                continue;
            TRY(apply_labels(model, spec, &s->outputs[at], file, err));
            s->outputs[at].labels_may_differ &= file == NULL;
        }
    }
    TRY(stream_apply(spec->card, config, s, model->host.arena, err));
    signature_decide_roles(s);
    s->service = spec->service;
    if (signature_check_labels(s, err) != OK || numbers_check(s, err) != OK)
        return err_wrap(err, "model.yaml");
    return OK;
}

static bool can_batch(const struct model *model)
{
    return (model->traits & PENSTOCK_BACKEND_CAN_BATCH) != 0;
}

/* What a backend says that it can do must be there. */
static enum err_code check_traits(struct model *model, struct err *err)
{
    const struct penstock_backend *backend = model->backend;

    if ((model->traits & PENSTOCK_BACKEND_TAKES_STREAM) != 0 &&
        !model_is_concurrent(model->traits))
        return err_set(err, E_INTERNAL,
                       "the backend says that it takes streams, and not that it is concurrent, "
                       "which that needs");
    if (!model_is_concurrent(model->traits))
        return OK;
    if (backend->resume == NULL)
        return err_set(err, E_INTERNAL,
                       "the backend says that it is concurrent, and its table has no resume()");
    model->traits |= PENSTOCK_BACKEND_ASYNCHRONOUS;
    return OK;
}

static enum err_code open_backend(struct model *model, struct err *err)
{
    struct penstock_model *host = &model->host;
    struct declared declared;

    TRY(renew_config_text(model, err));
    host->is_opening = true;
    int code = model->backend->model_open(&model->handle, host, &model->traits,
                                          (struct penstock_err *)(void *)err);
    host->is_opening = false;
    if (code != 0)
        return err->code != OK ? err->code
                               : err_set(err, E_INTERNAL, "the backend could not open it and gave "
                                                          "no reason");
    TRY(check_traits(model, err));
    declared = (struct declared){ host->inputs_count, host->outputs_count, host->inputs,
                                  host->outputs };
    TRY(config_complete(host->config, host->name, model->backend->name, model->platform,
                        &declared, can_batch(model), 0, err));
    TRY(renew_config_text(model, err));
    return signature_from_config(host->config, &declared, host->arena, &model->signature, err);
}

static enum execution execution_of(struct model *model, struct err *err, enum err_code *ret_code)
{
    const char *asked = host_config_parameter(&model->host, "execution");

    *ret_code = OK;
    if (asked == NULL)
        return model->engine->settings.execution;
    if (strcmp(asked, "auto") == 0)
        return EXECUTION_AUTO;
    if (strcmp(asked, "inline") == 0)
        return EXECUTION_INLINE;
    if (strcmp(asked, "queued") != 0)
        *ret_code = err_set(err, E_INVALID,
                            "parameter 'execution' is '%s'; it may be auto, inline or queued",
                            asked);
    return EXECUTION_QUEUED;
}

/* `queue_delay_us` of the configuration, else --queue-delay. */
static enum err_code read_queue_delay(struct model *model, struct err *err)
{
    const char *asked = host_config_parameter(&model->host, "queue_delay_us");
    uint64_t ns = model->engine->settings.queue_delay_ns, us;

    if (asked != NULL) {
        if (!slice_to_u64(slice_of(asked), &us) || us > UINT64_MAX / NS_PER_US)
            return err_set(err, E_INVALID,
                           "parameter 'queue_delay_us' is '%s'; it takes microseconds, 0 for any time",
                           asked);
        ns = us * NS_PER_US;
    }
    admission_init(&model->admission, ns);
    return OK;
}

static enum err_code open_model(struct model *model, const struct model_spec *spec,
                                struct err *err)
{
    const struct engine_settings *settings = &model->engine->settings;
    const struct model_config *config = model->host.config;
    enum err_code code;

    TRY(refuse_what_is_not_built(model, err));
    model->shards = mem_aligned(64, MAX(settings->loops_count, 1u) * sizeof *model->shards);
    if (model->shards == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the statistics of %u loops",
                       settings->loops_count);
    model->shards_count = MAX(settings->loops_count, 1u);
    TRY(open_backend(model, err));
    TRY(apply_card(model, spec, err));
    model->queue_max = config->queue_size_max != 0 ? config->queue_size_max
                                                   : settings->queue_max;
    TRY(read_queue_delay(model, err));
    model->queue_timeout_us = config->queue_timeout_us;
    model->ignores_timeout = config->queue_timeout_us != 0 && !config->allow_timeout_override;
    enum execution execution = execution_of(model, err, &code);
    if (code != OK)
        return code;
    bool is_concurrent = model_is_concurrent(model->traits);
    bool can_inline = (model->traits & PENSTOCK_BACKEND_RUNS_INLINE) != 0 &&
                      (is_concurrent || (model->traits & PENSTOCK_BACKEND_ASYNCHRONOUS) == 0);
    policy_init(&model->policy, execution, can_inline, settings->inline_typical_ns,
                settings->inline_worst_ns);
    model->policy.is_concurrent = is_concurrent;
    if (execution == EXECUTION_INLINE && !can_inline)
        log_warn("model '%s': asked to run inline, but its backend may wait or its run time "
                 "depends on values: it is queued",
                 model->host.name);
    uint32_t queued = instances_asked(config);
    uint32_t inline_count = can_inline && execution != EXECUTION_QUEUED ? settings->loops_count : 0;
    TRY(open_instances(model, &model->queued_instances, queued, false, 0, err));
    if (inline_count != 0)
        TRY(open_instances(model, &model->inline_instances, inline_count, true, queued, err));
    if (inline_count != 0 && !is_concurrent)
        warm_up(model);
    memset(&model->stats, 0, sizeof model->stats);
    memset(model->shards, 0, model->shards_count * sizeof *model->shards);
    return start_workers(model, err);
}

static void close_instances(struct model *model, struct instance **slot, uint32_t count)
{
    struct instance *list = TAKE(*slot);

    for (uint32_t i = 0; list != NULL && i < count; i++) {
        emissions_free(&list[i]);
        open_close(&list[i]);
        model->backend->instance_close(&list[i].handle);
    }
    mem_free(list);
}

static void stop_workers(struct model *model)
{
    struct env *env = model->engine->env;

    pthread_mutex_lock(&model->lock);
    model->is_stopping = true;
    pthread_mutex_unlock(&model->lock);
    for (uint32_t i = 0; i < model->queued_count; i++)
        if (model->queued_instances[i].worker != NULL)
            env->worker_wake(env, model->queued_instances[i].worker);
    for (uint32_t i = 0; i < model->queued_count; i++)
        env->worker_join(env, &model->queued_instances[i].worker);
}

void model_close(struct model *model)
{
    stop_workers(model);
    queue_deinit(&model->queue);
    close_instances(model, &model->inline_instances, model->inline_count);
    close_instances(model, &model->queued_instances, model->queued_count);
    if (model->handle != NULL)
        model->backend->model_close(&model->handle);
    model_attachments_free(model);
    mem_free(model->shards);
    mem_free(model->host.inputs);
    mem_free(model->host.outputs);
    mem_free(model->host.config_text);
    config_free(&model->host.config);
    arena_free(&model->host.arena);
    pthread_mutex_destroy(&model->lock);
    mem_free(model);
}

enum err_code model_new(struct model **ret, struct engine *engine, struct model_spec *spec,
                        struct err *err)
{
    uint64_t begun = env_now(engine);
    struct model *model = mem_aligned(64, sizeof *model);

    require(loop_current() == NULL);
    err->code = OK;
    if (model == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for model '%s'", spec->name);
    memset(model, 0, sizeof *model);
    atomic_init(&model->refs, 1);
    pthread_mutex_init(&model->lock, NULL);
    queue_init(&model->queue);
    list_init(&model->idle);
    model->engine = engine;
    model->backend = spec->backend;
    model->platform = spec->backend->platform != NULL ? spec->backend->platform : "";
    model->host.engine = engine;
    model->host.version = spec->version;
    snprintf(model->host.version_text, sizeof model->host.version_text, "%" PRId64,
             spec->version);
    model->host.arena = spec->arena;
    model->host.config = spec->config;
    model->host.name = arena_strndup(spec->arena, spec->name, strlen(spec->name));
    model->host.folder = arena_strndup(spec->arena, spec->folder, strlen(spec->folder));
    model->host.path = arena_strndup(spec->arena, spec->path, strlen(spec->path));
    enum err_code code = OK;
    if (model->host.name == NULL || model->host.folder == NULL || model->host.path == NULL)
        code = err_set(err, E_EXHAUSTED, "no memory for model '%s'", spec->name);
    if (code == OK)
        code = open_model(model, spec, err);
    if (code != OK) {
        model->host.arena = NULL; /* not taken */
        model->host.config = NULL;
        model_close(model);
        return code;
    }
    spec->arena = NULL;
    spec->config = NULL;
    model->load_ns = env_now(engine) - begun;
    *ret = model;
    return OK;
}

struct model *model_ref(struct model *model)
{
    atomic_fetch_add_explicit(&model->refs, 1, memory_order_relaxed);
    return model;
}

void model_unref(struct model **slot)
{
    struct model *model = TAKE(*slot);

    if (model == NULL ||
        atomic_fetch_sub_explicit(&model->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (loop_current() != NULL)
        engine_reap(model->engine, model);
    else
        model_close(model);
}

/* -- the queue ----------------------------------------------------------------------------------- */

bool model_queue_changed(struct model *model, bool was_refused, struct queue_change *ret)
{
    /* Those for whom an instance is on its way do not wait. */
    uint64_t waiting =
        model->queue.waiting > model->woken ? model->queue.waiting - model->woken : 0;
    uint64_t most = model->queue_max;
    bool is_high = was_refused || 5 * waiting >= 4 * most;

    if (most == 0 || model->engine->watch.on_queue == NULL)
        return false;
    if (is_high == model->is_queue_high || (!is_high && 2 * waiting > most))
        return false;
    model->is_queue_high = is_high;
    *ret = (struct queue_change){ is_high, (uint32_t)waiting, ++model->queue_changes };
    return true;
}

COLD void model_tell_queue(struct model *model, const struct queue_change *change)
{
    const struct engine_watch *watch = &model->engine->watch;

    watch->on_queue(watch->context, model->host.name, model->host.version_text, change->is_high,
                    change->waiting, model->queue_max, change->change);
}

/* Runs of these models last as long as their work does. */
static bool knows_runs(const struct model *model)
{
    return (model->traits & (PENSTOCK_BACKEND_CONCURRENT | PENSTOCK_BACKEND_DECOUPLED)) == 0;
}

static void ask(const struct model *model, struct admission_question *q,
                struct queue_tenant tenant, uint32_t level)
{
    q->instances = model->queued_count;
    q->is_free =
        model->queue.waiting < model->woken ||
        (model->queue.waiting == model->woken && !list_is_empty((struct list *)(uintptr_t)&model->idle));
    q->wait_ns = q->is_free ? 0
                            : admission_wait_ns(&model->admission,
                                                queue_ahead(&model->queue, tenant, level),
                                                model->queued_count);
    q->knows_runs = knows_runs(model);
    q->is_modest = queue_is_modest(&model->queue, tenant);
}

static uint32_t ms_up(uint64_t ns)
{
    return (uint32_t)MIN(MAX((ns + NS_PER_MS - 1) / NS_PER_MS, UINT64_C(1)), (uint64_t)RETRY_MS_MAX);
}

static double ms_of(uint64_t ns)
{
    return (double)ns / 1e6;
}

/* In words, and when to ask again. */
COLD static enum err_code refuse(const struct model *model, enum admission_verdict verdict,
                                 const struct admission_question *q, uint64_t after_ns,
                                 enum refusal *ret_refusal, struct err *err)
{
    uint64_t due_ns = MIN(q->deadline_ns, q->begin_ns);

    switch (verdict) {
    case ADMISSION_DELAY:
        *ret_refusal = REFUSAL_DELAY;
        err_set(err, E_EXHAUSTED,
                "model '%s' is overloaded: a request would wait about %.4g ms for it. Retry later, or "
                "raise --queue-delay or the model's instance count",
                model->host.name, ms_of(q->wait_ns));
        break;
    case ADMISSION_DEADLINE:
        *ret_refusal = REFUSAL_DEADLINE;
        err_set(err, E_EXHAUSTED,
                "the deadline cannot be met: a request would wait about %.4g ms for model '%s', and "
                "%.4g ms are left. Retry later, or give it more time",
                ms_of(q->wait_ns), model->host.name,
                ms_of(due_ns > q->now_ns ? due_ns - q->now_ns : 0));
        break;
    case ADMISSION_RUN:
        *ret_refusal = REFUSAL_DEADLINE;
        return err_set(err, E_DEADLINE,
                       "the deadline cannot be met: %.4g ms are left, and model '%s' takes about %.3g "
                       "ms. Give it more time",
                       ms_of(q->deadline_ns > q->now_ns ? q->deadline_ns - q->now_ns : 0),
                       model->host.name, ms_of(model->admission.middle_ns));
    case ADMISSION_FINE:
        *ret_refusal = REFUSAL_FULL;
        err_set(err, E_EXHAUSTED,
                "Exceeds maximum queue size: %u requests wait for model '%s' already. Retry "
                "later, or raise --queue-max or the model's instance count",
                model->queue.waiting, model->host.name);
        break;
    }
    err->retry_after_ms = ms_up(after_ns);
    return E_EXHAUSTED;
}

/* Under the mutex. True: as many wait as may. */
static bool is_full(const struct model *model, const struct admission_question *q)
{
    return model->queue_max != 0 && model->queue.waiting >= model->queue_max + model->woken &&
           !q->is_free;
}

/* Under the mutex: makes room by taking the place of another's; false: there is none for this one. */
static bool displace(struct model *model, struct queue_tenant tenant, uint32_t level,
                     const struct admission_question *q)
{
    struct queue_entry *victim = queue_victim(&model->queue, tenant, level);

    admission_was_full(&model->admission, q);
    if (victim == NULL)
        return false;
    struct request_private *other = CONTAINER_OF(victim, struct request_private, entry);
    queue_remove(&model->queue, victim);
    victim->flow = NULL;
    other->state = REQUEST_ENDED;
    other->ended_ns = q->now_ns;
    request_displace(other, admission_wait_ns(&model->admission, model->queue.waiting,
                                              model->queued_count));
    return true;
}

enum err_code model_enqueue(struct model *model, struct request_private *p, struct err *err)
{
    struct queue_tenant tenant = tenant_of(p->pub.caller);
    uint32_t level = queue_level(p->pub.priority, model->level_usual);
    struct admission_question q = { .now_ns = p->submitted_ns,
                                    .deadline_ns = p->pub.deadline_ns,
                                    .begin_ns = p->queue_due_ns,
                                    .is_admitted = p->is_of_session };
    struct instance *idle = NULL;
    struct queue_change change;
    uint64_t after_ns;

    pthread_mutex_lock(&model->lock);
    ask(model, &q, tenant, level);
    enum admission_verdict verdict = admission_judge(&model->admission, &q, false, &after_ns);
    bool was_full = verdict == ADMISSION_FINE && is_full(model, &q);
    if (UNLIKELY(verdict != ADMISSION_FINE ||
                 (was_full && !displace(model, tenant, level, &q)))) {
        enum err_code code =
            refuse(model, verdict, &q, was_full ? q.wait_ns : after_ns, &p->refusal, err);
        bool is_told = model_queue_changed(model, was_full, &change);
        pthread_mutex_unlock(&model->lock);
        if (is_told)
            model_tell_queue(model, &change);
        if (verdict != ADMISSION_RUN)
            atomic_store_explicit(&model->is_pressed, true, memory_order_relaxed);
        return code;
    }
    p->state = REQUEST_QUEUED;
    if (UNLIKELY(p->pub.priority != 0))
        model->queue.is_plain = false;
    p->was_behind = !q.is_free;
    queue_push(&model->queue, &p->entry, tenant, level);
    struct list_node *node = list_pop(&model->idle);
    if (node != NULL) {
        idle = CONTAINER_OF(node, struct instance, idle_node);
        idle->is_woken = true;
        model->woken++;
    }
    bool is_told = model_queue_changed(model, was_full, &change);
    pthread_mutex_unlock(&model->lock);
    if (idle != NULL)
        model->engine->env->worker_wake(model->engine->env, idle->worker);
    if (UNLIKELY(is_told))
        model_tell_queue(model, &change);
    return OK;
}

enum err_code model_ask(struct model *model, const struct engine_question *question,
                        enum refusal *ret_refusal, struct err *err)
{
    struct queue_tenant tenant = tenant_of(question->caller);
    uint32_t level = queue_level(0, model->level_usual);
    struct admission_question q = { .now_ns = env_now(model->engine),
                                    .deadline_ns = question->deadline_ns,
                                    .begin_ns = UINT64_MAX };
    uint64_t after_ns;
    enum err_code code = OK;

    if (model->queue_timeout_us != 0)
        q.begin_ns = q.now_ns + MIN(model->queue_timeout_us, UINT64_C(1) << 40) * NS_PER_US;
    pthread_mutex_lock(&model->lock);
    /* Its priority is in its body. */
    if (model->queue.is_plain) {
        ask(model, &q, tenant, level);
        enum admission_verdict verdict = admission_judge(&model->admission, &q, true, &after_ns);
        bool was_full = verdict == ADMISSION_FINE && is_full(model, &q) &&
                        queue_victim(&model->queue, tenant, level) == NULL;
        if (verdict != ADMISSION_FINE) /* counted, as engine_submit would have */
            verdict = admission_judge(&model->admission, &q, false, &after_ns);
        else if (was_full)
            admission_was_full(&model->admission, &q);
        if (verdict != ADMISSION_FINE || was_full)
            code = refuse(model, verdict, &q, was_full ? q.wait_ns : after_ns, ret_refusal, err);
    }
    pthread_mutex_unlock(&model->lock);
    return code;
}

struct request_private *model_take(struct model *model, uint64_t now_ns)
{
    struct admission *a = &model->admission;
    struct queue_entry *entry;

    while ((entry = queue_pop(&model->queue, a->middle_ns)) != NULL) {
        struct request_private *p = CONTAINER_OF(entry, struct request_private, entry);
        if (LIKELY(now_ns < MIN(p->queue_due_ns, p->pub.deadline_ns) &&
                   !(p->was_behind && knows_runs(model) &&
                     admission_is_late(a, now_ns, p->pub.deadline_ns)))) {
            admission_took(a, now_ns, model->queue.waiting != 0);
            return p;
        }
        queue_settle(&model->queue, entry, 0);
        p->state = REQUEST_ENDED;
        p->ended_ns = now_ns;
        request_drop_late(p);
    }
    if (UNLIKELY(atomic_load_explicit(&model->is_pressed, memory_order_relaxed)) && !a->is_standing)
        atomic_store_explicit(&model->is_pressed, false, memory_order_relaxed);
    return NULL;
}

void model_ran(struct model *model, struct request_private *p, uint64_t run_ns)
{
    queue_settle(&model->queue, &p->entry, run_ns);
    if (knows_runs(model) && p->err.code == OK)
        admission_ran(&model->admission, run_ns, p->ended_ns);
}

bool model_dequeue(struct model *model, struct request_private *p)
{
    struct queue_change change;
    bool was_queued, is_told = false;

    pthread_mutex_lock(&model->lock);
    was_queued = p->state == REQUEST_QUEUED;
    if (was_queued) {
        queue_remove(&model->queue, &p->entry);
        p->state = REQUEST_ENDED;
        is_told = model_queue_changed(model, false, &change);
    }
    pthread_mutex_unlock(&model->lock);
    if (UNLIKELY(is_told))
        model_tell_queue(model, &change);
    return was_queued;
}

/* -- facts --------------------------------------------------------------------------------------- */

const char *model_name(const struct model *model)
{
    return model->host.name;
}
int64_t model_version(const struct model *model)
{
    return model->host.version;
}
const char *model_version_text(const struct model *model)
{
    return model->host.version_text;
}
const char *model_folder(const struct model *model)
{
    return model->host.folder;
}
const struct signature *model_signature(const struct model *model)
{
    return model->signature;
}
const struct model_config *model_config(const struct model *model)
{
    return model->host.config;
}
const char *model_config_text(const struct model *model)
{
    return model->host.config_text;
}
const struct penstock_backend *model_backend(const struct model *model)
{
    return model->backend;
}
const char *model_platform(const struct model *model)
{
    return model->platform[0] != '\0' ? model->platform : model->backend->name;
}
const struct model_stats *model_stats(struct model *model, struct model_stats *sum)
{
    enum { WORDS = sizeof *sum / sizeof(uint64_t) };
    static_assert(sizeof *sum % sizeof(uint64_t) == 0, "eight-byte counters only");
    _Atomic uint64_t *to = (_Atomic uint64_t *)(void *)sum;
    uint64_t newest = 0;

    memset(sum, 0, sizeof *sum);
    for (uint32_t i = 0; i <= model->shards_count; i++) {
        struct model_stats *shard = i < model->shards_count ? &model->shards[i] : &model->stats;
        _Atomic uint64_t *from = (_Atomic uint64_t *)(void *)shard;
        for (size_t w = 0; w < WORDS; w++)
            model_stat_add(&to[w], atomic_load_explicit(&from[w], memory_order_relaxed));
        newest = MAX(newest, atomic_load_explicit(&shard->last_inference_ms,
                                                  memory_order_relaxed));
    }
    atomic_store_explicit(&sum->last_inference_ms, newest, memory_order_relaxed);
    return sum;
}
uint32_t model_instances(const struct model *model)
{
    return model->queued_count;
}
bool model_is_decoupled(const struct model *model)
{
    return (model->traits & PENSTOCK_BACKEND_DECOUPLED) != 0;
}
bool model_takes_stream(const struct model *model)
{
    return (model->traits & PENSTOCK_BACKEND_TAKES_STREAM) != 0;
}
uint64_t model_load_ns(const struct model *model)
{
    return model->load_ns;
}

void model_execution(struct model *model, struct model_execution *ret)
{
    *ret = (struct model_execution){ .asked = model->policy.asked };
    policy_explain(&model->policy, &ret->is_inline_now, ret->reason, sizeof ret->reason);
    ret->typical_ns = atomic_load_explicit(&model->policy.typical_ns, memory_order_relaxed);
    ret->worst_ns = atomic_load_explicit(&model->policy.worst_ns, memory_order_relaxed);
    ret->runs = atomic_load_explicit(&model->policy.runs, memory_order_relaxed);
    ret->measured_bytes_max =
        atomic_load_explicit(&model->policy.bytes_max, memory_order_relaxed);
    pthread_mutex_lock(&model->lock);
    struct admission_question q = { 0 };
    ask(model, &q, (struct queue_tenant){ 0, 1, "" }, QUEUE_LEVEL_USUAL);
    ret->queued = model->queue.waiting;
    ret->run_ns = model->admission.middle_ns;
    ret->wait_ns = q.wait_ns;
    ret->wait_max_ns = admission_limit_ns(&model->admission, model->queued_count);
    ret->is_overloaded = model->admission.is_standing;
    pthread_mutex_unlock(&model->lock);
    ret->queue_max = model->queue_max;
    int64_t running = atomic_load_explicit(&model->stats.running, memory_order_relaxed);
    ret->running = running < 0 ? 0 : (uint32_t)running;
}

struct tenants_told {
    struct model_tenant *list;
    uint32_t most, count;
};

static void tell_tenant(void *context, const struct queue_flow *flow)
{
    struct tenants_told *told = context;

    if (flow->waiting == 0)
        return;
    if (told->count < told->most)
        told->list[told->count] = (struct model_tenant){ flow->name, flow->waiting };
    told->count++;
}

uint32_t model_tenants(struct model *model, struct model_tenant *ret, uint32_t most)
{
    struct tenants_told told = { ret, most, 0 };

    pthread_mutex_lock(&model->lock);
    queue_each(&model->queue, tell_tenant, &told);
    pthread_mutex_unlock(&model->lock);
    return told.count;
}

const char *model_describe(const struct model *model)
{
    const char *words =
        model->backend->describe != NULL ? model->backend->describe(model->handle) : NULL;

    return words != NULL ? words : "{}";
}
