/* model.c - opening: the file is looked through, then given to the runtime, then asked for its
 * signature.
 *
 * The file is read once and the session made from those bytes, so that what was looked through is
 * what is loaded.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/onnx/opening.h"

#include <malloc.h>
#include <stdio.h>
#include <yyjson.h>

#include "backend/onnx/zipmap.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

enum {
    MODEL_BYTES_MAX = INT32_MAX, /* protobuf's own limit; larger models keep weights outside */
    ARENA_FIRST = 4096,
    ARENA_CAP = 64 << 20,
    DESCRIPTION_BYTES_MAX = 1 << 20,
    TRIM_FILE_BYTES = 4 << 20, /* of a file, from which the heap is told to give memory back */
    /* A model with less of both is small: the heap is then faster than the runtime's arena (1.81 us
     * a run of iris against 1.95), and with large tensors much slower (11.4 ms of YOLOX against
     * 8.0). */
    SMALL_FILE_BYTES = 1 << 20,
    SMALL_ROW_BYTES = 1 << 16,
};

struct onnx_session *onnx_session_ref(struct onnx_session *session)
{
    atomic_fetch_add_explicit(&session->refs, 1, memory_order_relaxed);
    return session;
}

void onnx_session_unref(struct onnx_session **slot)
{
    struct onnx_session *session = TAKE(*slot);

    if (session == NULL || atomic_fetch_sub_explicit(&session->refs, 1, memory_order_acq_rel) != 1)
        return;
    session->runtime->api->session_release(session->ort);
    mem_free(session);
}

/* -- the session ------------------------------------------------------------------------------ */

static struct ort_status *set_options(const struct opening *opening, struct ort_options *options)
{
    const struct ort_api *api = opening->model->runtime->api;
    const struct settings *settings = &opening->settings;
    const char *name = opening->model->host->model_name(opening->host_model);
    struct ort_status *status = api->options_set_log_id(options, name != NULL ? name : "");

    if (status == NULL)
        status = api->options_set_log_level(options, ORT_LOG_ERROR);
    if (status == NULL)
        status = api->options_set_optimization(options, settings->optimization);
    if (status == NULL)
        status = api->options_set_intra(options, (int)settings->intra_threads);
    if (status == NULL)
        status = api->options_set_inter(options, (int)settings->inter_threads);
    if (status == NULL && settings->is_parallel)
        status = api->options_set_mode(options, 1);
    /* Threads that wait for work by spinning take the cores from everybody else. */
    if (status == NULL)
        status = api->options_set(options, "session.intra_op.allow_spinning", "0");
    if (status == NULL)
        status = api->options_set(options, "session.inter_op.allow_spinning", "0");
    if (status == NULL && !settings->has_arena)
        status = api->options_arena_off(options);
    if (status == NULL && !settings->has_arena)
        status = api->options_set(options, "session.use_env_allocators", "1");
    /* It keeps a plan of memory for every set of input shapes it has ever seen, without end; what
     * such plans gain was not measurable (YOLOX 7.95 ms either way). */
    if (status == NULL)
        status = api->options_pattern_off(options);
    if (status == NULL)
        status = api->options_set(options, "session.model_external_initializers_file_folder_path",
                                  opening->base);
    for (uint32_t i = 0; status == NULL && i < settings->providers_count; i++) {
        if (strcmp(settings->providers[i], "CPUExecutionProvider") == 0)
            continue; /* is always there, last */
        status = api->options_add_provider(options, settings->providers[i], NULL, NULL, 0);
    }
    return status;
}

static void add_remedy(struct err *err, const char *text)
{
    size_t size = strlen(err->text);

    snprintf(err->text + size, sizeof err->text - size, "%s", text);
}

static enum err_code make_session(struct opening *opening, struct slice bytes)
{
    struct onnx_model *model = opening->model;
    const struct ort_api *api = model->runtime->api;
    struct ort_options *options = NULL;
    struct ort_session *ort = NULL;
    struct ort_status *status = api->options_create(&options);

    if (status == NULL)
        status = set_options(opening, options);
    if (status == NULL)
        status = api->session_create(model->runtime->env, bytes.data, bytes.size, options, &ort);
    api->options_release(options);
    if (status != NULL) {
        onnx_status_take(model->runtime, status, opening->err, "ONNX Runtime cannot load it");
        if (strstr(opening->err->text, "is not a registered function/op") != NULL ||
            strstr(opening->err->text, "No opset import for domain") != NULL)
            add_remedy(opening->err, "; export the model with standard ONNX operators");
        /* Whatever the library calls it, a file that does not load is the file's fault. */
        if (opening->err->code == E_INTERNAL)
            opening->err->code = E_INVALID;
        return opening->err->code;
    }
    model->session = mem_zalloc(sizeof *model->session);
    if (model->session == NULL) {
        api->session_release(ort);
        return err_set(opening->err, E_EXHAUSTED, "no memory to open the model");
    }
    atomic_init(&model->session->refs, 1);
    model->session->runtime = model->runtime;
    model->session->ort = ort;
    return OK;
}

/* -- a model -------------------------------------------------------------------------------- */

static enum err_code write_description(struct opening *opening, uint32_t traits)
{
    struct onnx_model *model = opening->model;
    const struct settings *settings = &opening->settings;
    const struct onnx_facts *facts = &opening->facts;
    struct text text;

    text_init(&text, DESCRIPTION_BYTES_MAX);
    text_printf(&text, "{\"runtime\":\"ONNX Runtime %s\",\"execution_providers\":[",
                model->runtime->version);
    for (uint32_t i = 0; i < settings->providers_count; i++) {
        text_json(&text, slice_of(settings->providers[i]));
        text_byte(&text, ',');
    }
    text_printf(&text, "\"CPUExecutionProvider\"],\"intra_op_threads\":%u,\"inter_op_threads\":%u,",
                settings->intra_threads, settings->inter_threads);
    text_printf(&text, "\"graph_optimization\":\"%s\",\"memory_arena\":%s,",
                settings->optimization == ORT_OPTIMIZE_ALL        ? "all"
                : settings->optimization == ORT_OPTIMIZE_EXTENDED ? "extended"
                : settings->optimization == ORT_OPTIMIZE_BASIC    ? "basic"
                                                                  : "none",
                settings->has_arena ? "true" : "false");
    text_printf(&text, "\"opset\":%lld,\"nodes\":%llu,", (long long)facts->opset,
                (unsigned long long)facts->nodes_count);
    text_str(&text, "\"time_depends_on_values\":");
    if (facts->value_op[0] != '\0')
        text_json(&text, slice_of(facts->value_op));
    else
        text_str(&text, facts->is_ort_format ? "\"unknown\"" : "false");
    text_str(&text, ",\"rows_influence_each_other\":");
    if (facts->mixing_op[0] != '\0')
        text_json(&text, slice_of(facts->mixing_op));
    else
        text_str(&text, facts->is_ort_format ? "\"unknown\"" : "false");
    if (opening->classes != NULL)
        text_printf(&text, ",\"classes\":%s", opening->classes);
    text_printf(&text, ",\"runs_inline\":%s,\"can_batch\":%s}",
                (traits & PENSTOCK_BACKEND_RUNS_INLINE) != 0 ? "true" : "false",
                (traits & PENSTOCK_BACKEND_CAN_BATCH) != 0 ? "true" : "false");
    if (!text_failed(&text))
        model->description = arena_strndup(model->arena, text.data, text.size);
    text_deinit(&text);
    return model->description != NULL
               ? OK
               : err_set(opening->err, E_EXHAUSTED, "no memory to describe the model");
}

static uint32_t find_traits(const struct opening *opening)
{
    const struct onnx_facts *facts = &opening->facts;
    const struct settings *settings = &opening->settings;
    uint32_t traits =
        PENSTOCK_BACKEND_TAKES_TEXT; /* ONNX: strings are UTF-8, and operators fail on others */

    if (!facts->is_ort_format && facts->value_op[0] == '\0' && settings->intra_threads == 1 &&
        (settings->inter_threads == 1 || !settings->is_parallel) && settings->providers_count == 0)
        traits |= PENSTOCK_BACKEND_RUNS_INLINE;
    if (!facts->is_ort_format && facts->mixing_op[0] == '\0' &&
        onnx_signature_is_batchable(opening->model))
        traits |= PENSTOCK_BACKEND_CAN_BATCH;
    return traits;
}

static bool is_small(const struct onnx_facts *facts, size_t file_bytes)
{
    return !facts->is_ort_format && facts->externals_count == 0 && file_bytes <= SMALL_FILE_BYTES &&
           facts->row_bytes <= SMALL_ROW_BYTES;
}

/* Puts tensors in the place of outputs that are maps, and says so. */
static enum err_code strip_zipmaps(struct opening *opening, struct buf **file)
{
    struct onnx_model *model = opening->model;
    struct buf *fresh = NULL;
    struct text classes;

    text_init(&classes, DESCRIPTION_BYTES_MAX / 2);
    enum err_code code = zipmap_strip(&fresh, buf_bytes(*file), &classes, opening->err);
    if (code == OK && classes.size > 0 && !text_failed(&classes)) {
        opening->classes = arena_strndup(model->arena, classes.data, classes.size);
        char line[768];
        snprintf(line, sizeof line,
                 "model %s: a ZipMap at its end was replaced by the tensor it takes; its columns "
                 "are the classes %s",
                 model->host->model_name(opening->host_model),
                 opening->classes != NULL ? opening->classes : "");
        model->host->log(PENSTOCK_LOG_INFO, line);
    }
    text_deinit(&classes);
    if (code == OK) {
        buf_unref(file);
        *file = fresh;
    }
    return code;
}

/* What opening and closing a large model leave free lies between blocks that stay: 20 MB of 54
 * after a sentence model of 23 MB is closed. It takes a few milliseconds, on a repository thread. */
static void give_memory_back(const struct onnx_model *model)
{
    if (model->file_bytes >= TRIM_FILE_BYTES)
        malloc_trim(0);
}

static enum err_code open_model(struct opening *opening, uint32_t *ret_traits)
{
    struct onnx_model *model = opening->model;
    char path[PATH_MAX];

    model->runtime = onnx_runtime_get(model->host, opening->err);
    if (model->runtime == NULL)
        return opening->err->code;
    model->arena = arena_new(ARENA_FIRST, ARENA_CAP);
    if (model->arena == NULL)
        return err_set(opening->err, E_EXHAUSTED, "no memory to open the model");
    TRY(onnx_settings_read(opening));
    TRY(onnx_find_file(opening, path, sizeof path));
    CLEANUP(buf_unref) struct buf *file = NULL;
    TRY(file_read(&file, NULL, path, MODEL_BYTES_MAX, opening->err));
    if (onnx_graph_scan(&opening->facts, buf_bytes(file), onnx_allow_external, opening,
                        opening->err) != OK)
        return err_wrap(opening->err, "%s", path);
    if (!opening->settings.is_arena_said)
        opening->settings.has_arena = !is_small(&opening->facts, buf_bytes(file).size);
    if (!opening->facts.is_ort_format)
        TRY(onnx_classes_find(opening->classes_of, &opening->classes_count, buf_bytes(file),
                              model->arena, opening->err));
    if (opening->facts.zipmaps_count > 0)
        TRY(strip_zipmaps(opening, &file));
    if (make_session(opening, buf_bytes(file)) != OK)
        return err_wrap(opening->err, "%s", path);
    model->file_bytes = buf_bytes(file).size;
    buf_unref(&file); /* before the rest: it may be as large as the weights */
    TRY(onnx_signature_read(opening));
    uint32_t traits = find_traits(opening);
    TRY(write_description(opening, traits));
    TRY(onnx_signature_declare(opening));
    give_memory_back(model);
    *ret_traits = traits;
    return OK;
}

int onnx_model_open(void **ret_model, struct penstock_model *host_model, uint32_t *ret_traits,
                    struct penstock_err *err)
{
    struct err own = { .code = OK };
    struct opening *opening = mem_zalloc(sizeof *opening);
    void *model = mem_zalloc(sizeof(struct onnx_model));
    enum err_code code = E_EXHAUSTED;

    if (opening == NULL || model == NULL) {
        err_set(&own, code, "no memory to open the model");
    } else {
        opening->model = model;
        opening->model->host = onnx_host;
        opening->host_model = host_model;
        opening->err = &own;
        code = open_model(opening, ret_traits);
        yyjson_doc_free(opening->config);
    }
    mem_free(opening);
    if (code == OK)
        *ret_model = TAKE(model);
    else
        onnx_host->fail(err, (int)code, "%s", own.text);
    onnx_model_close(&model);
    return (int)code;
}

void onnx_model_close(void **slot)
{
    struct onnx_model *model = TAKE(*slot);

    if (model == NULL)
        return;
    onnx_session_unref(&model->session);
    give_memory_back(model);
    arena_free(&model->arena);
    mem_free(model);
}

const char *onnx_describe(void *context)
{
    struct onnx_model *model = context;

    return model->description;
}
