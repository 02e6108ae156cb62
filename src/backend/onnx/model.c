/* model.c - opening: the file is looked through, then given to the runtime, then asked for its
 * signature.
 *
 * The file is read once and the session made from those bytes, so that what was looked through is
 * what is loaded. External weights are checked by name before the runtime opens them: it would read
 * any file of the machine, and even an address of this process, that a model cares to name.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/onnx/model.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
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
    THREADS_MAX = 256,
    DESCRIPTION_BYTES_MAX = 1 << 20,
    /* A model with less of both is small: the heap is then faster than the runtime's arena (1.81 us
     * a run of iris against 1.95), and with large tensors much slower (11.4 ms of YOLOX against
     * 8.0). */
    SMALL_FILE_BYTES = 1 << 20,
    SMALL_ROW_BYTES = 1 << 16,
};

struct settings {
    uint32_t intra_threads, inter_threads;
    bool is_parallel;
    int optimization;
    bool has_arena, is_arena_said;
    char filename[256];                   /* default_model_filename */
    const char *providers[PROVIDERS_MAX]; /* of the runtime's list */
    uint32_t providers_count;
};

struct opening {
    struct onnx_model *model;
    struct penstock_model *host_model;
    yyjson_doc *config; /* owned */
    struct settings settings;
    struct onnx_facts facts;
    char folder[PATH_MAX]; /* real path of the model's folder */
    char base[PATH_MAX];   /* real path of the folder that holds the file */
    struct slice last_location;
    const char *classes; /* JSON: class labels by output; NULL without ZipMap */
    struct err *err;
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

/* -- what the configuration asks for ---------------------------------------------------------- */

static enum err_code read_count(const struct opening *opening, const char *key, const char *text,
                                uint32_t *ret)
{
    uint64_t value;

    if (text == NULL)
        return OK;
    if (!slice_to_u64(slice_of(text), &value) || value > THREADS_MAX)
        return err_set(opening->err, E_INVALID,
                       "'%s' must be a number of threads from 0 (one per core) to %d, not '%s'",
                       key, THREADS_MAX, text);
    *ret = (uint32_t)value;
    return OK;
}

static const struct {
    const char *name, *provider;
} provider_names[] = {
    { "cpu", "CPUExecutionProvider" },           { "cuda", "CUDAExecutionProvider" },
    { "tensorrt", "TensorrtExecutionProvider" }, { "openvino", "OpenVINOExecutionProvider" },
    { "rocm", "ROCMExecutionProvider" },         { "migraphx", "MIGraphXExecutionProvider" },
    { "dnnl", "DnnlExecutionProvider" },         { "xnnpack", "XnnpackExecutionProvider" },
    { "coreml", "CoreMLExecutionProvider" },     { "qnn", "QNNExecutionProvider" },
};

static enum err_code add_provider(struct opening *opening, struct slice name)
{
    const struct onnx_runtime *runtime = opening->model->runtime;
    char have[512] = "";
    size_t at = 0;

    for (size_t i = 0; i < COUNT(provider_names); i++) {
        if (slice_is_nocase(name, provider_names[i].name))
            name = slice_of(provider_names[i].provider);
    }
    for (uint32_t i = 0; i < runtime->providers_count; i++) {
        if (slice_is(name, runtime->providers[i])) {
            if (opening->settings.providers_count < PROVIDERS_MAX)
                opening->settings.providers[opening->settings.providers_count++] =
                    runtime->providers[i];
            return OK;
        }
        int wrote = snprintf(have + at, sizeof have - at, "%s%s", at == 0 ? "" : ", ",
                             runtime->providers[i]);
        at = MIN(at + (size_t)MAX(wrote, 0), sizeof have - 1);
    }
    return err_set(opening->err, E_UNAVAILABLE,
                   "this ONNX Runtime (%s) has no execution provider '%.*s'; it has %s: install a "
                   "build that has it (such as pip package onnxruntime-gpu) and name its folder "
                   "with --runtime-dir, or take it out of the model's configuration",
                   runtime->version, SLICE_ARG(name), have);
}

static enum err_code read_providers(struct opening *opening, yyjson_val *optimization)
{
    const char *text =
        opening->model->host->config_parameter(opening->host_model, "execution_providers");
    struct slice rest = slice_of(text != NULL ? text : "");
    yyjson_val *accelerators = yyjson_obj_get(optimization, "execution_accelerators");
    yyjson_val *value;
    size_t index, count;

    while (rest.size > 0) {
        size_t end = slice_find(rest, ',');
        struct slice name = slice_trim(slice_first(rest, end));
        if (name.size > 0)
            TRY(add_provider(opening, name));
        rest = slice_skip(rest, MIN(end + 1, rest.size));
    }
    yyjson_arr_foreach(yyjson_obj_get(accelerators, "cpu_execution_accelerator"), index, count,
                       value)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(value, "name"));
        if (name != NULL)
            TRY(add_provider(opening, slice_of(name)));
    }
    if (yyjson_arr_size(yyjson_obj_get(accelerators, "gpu_execution_accelerator")) > 0)
        opening->model->host->log(PENSTOCK_LOG_WARN,
                                  "gpu_execution_accelerator has no effect: the model runs on the "
                                  "CPU");
    return OK;
}

static enum err_code read_settings(struct opening *opening)
{
    const struct penstock_host *host = opening->model->host;
    struct settings *settings = &opening->settings;
    const char *json = host->config_json(opening->host_model);
    const char *text;

    *settings = (struct settings){
        .intra_threads = 1, .inter_threads = 1, .optimization = ORT_OPTIMIZE_ALL, .has_arena = true
    };
    opening->config = json != NULL ? yyjson_read(json, strlen(json), 0) : NULL;
    yyjson_val *root = yyjson_doc_get_root(opening->config);
    const char *filename = yyjson_get_str(yyjson_obj_get(root, "default_model_filename"));
    if (filename == NULL || filename[0] == '\0')
        filename = "model.onnx";
    if (strchr(filename, '/') != NULL || strlen(filename) >= sizeof settings->filename)
        return err_set(opening->err, E_INVALID,
                       "default_model_filename must be the name of a file in the version's "
                       "folder, not '%s'",
                       filename);
    snprintf(settings->filename, sizeof settings->filename, "%s", filename);

    TRY(read_count(opening, "onnx-threads", host->option("onnx-threads"),
                   &settings->intra_threads));
    TRY(read_count(opening, "intra_op_thread_count",
                   host->config_parameter(opening->host_model, "intra_op_thread_count"),
                   &settings->intra_threads));
    TRY(read_count(opening, "inter_op_thread_count",
                   host->config_parameter(opening->host_model, "inter_op_thread_count"),
                   &settings->inter_threads));
    text = host->config_parameter(opening->host_model, "execution_mode");
    settings->is_parallel = text != NULL && strcmp(text, "1") == 0;
    text = host->config_parameter(opening->host_model, "enable_mem_arena");
    settings->is_arena_said = text != NULL;
    if (text != NULL)
        settings->has_arena = strcmp(text, "0") != 0;

    yyjson_val *optimization = yyjson_obj_get(root, "optimization");
    yyjson_val *level = yyjson_obj_get(yyjson_obj_get(optimization, "graph"), "level");
    switch (yyjson_get_sint(level)) {
    case 0: break;
    case -1: settings->optimization = ORT_OPTIMIZE_BASIC; break;
    case 1: settings->optimization = ORT_OPTIMIZE_EXTENDED; break;
    case 2: settings->optimization = ORT_OPTIMIZE_NONE; break;
    default:
        return err_set(opening->err, E_INVALID,
                       "optimization.graph.level must be -1 (basic), 0 (all), 1 (extended) or 2 "
                       "(none)");
    }
    return read_providers(opening, optimization);
}

/* -- files ------------------------------------------------------------------------------------ */

/* Both are real paths. */
static bool is_within(const char *folder, const char *path)
{
    size_t size = strlen(folder);

    return strncmp(folder, path, size) == 0 &&
           (path[size] == '/' || (size > 0 && folder[size - 1] == '/'));
}

static bool has_dotdot(struct slice path)
{
    while (path.size > 0) {
        size_t end = slice_find(path, '/');
        if (slice_is(slice_first(path, end), ".."))
            return true;
        path = slice_skip(path, MIN(end + 1, path.size));
    }
    return false;
}

/* One tensor of the model lies in another file: may the runtime open it? */
static enum err_code on_external(void *context, struct slice location, struct err *err)
{
    struct opening *opening = context;
    char path[PATH_MAX], real[PATH_MAX];
    struct stat st;

    if (location.size > 0 && slice_eq(location, opening->last_location))
        return OK;
    if (location.size == 0 || location.size >= 1024 || slice_find(location, 0) < location.size ||
        location.data[0] == '/' || location.data[0] == '*' || has_dotdot(location))
        return err_set(err, E_PERMISSION,
                       "the model keeps weights in '%.*s'; only a file in or below the model's own "
                       "folder is allowed, by a relative path without '..'",
                       (int)MIN(location.size, (size_t)200), (const char *)location.data);
    int wrote = snprintf(path, sizeof path, "%s/%.*s", opening->base, SLICE_ARG(location));
    if (wrote < 0 || (size_t)wrote >= sizeof path || realpath(path, real) == NULL ||
        stat(real, &st) != 0)
        return err_set(err, E_NOT_FOUND,
                       "the model keeps weights in '%.*s', which is not beside it: copy that file "
                       "too",
                       SLICE_ARG(location));
    if (!is_within(opening->folder, real))
        return err_set(err, E_PERMISSION,
                       "the model keeps weights in '%.*s', which is a link out of the model's "
                       "folder: put the file itself there",
                       SLICE_ARG(location));
    if (!S_ISREG(st.st_mode))
        return err_set(err, E_INVALID, "the model's weights '%.*s' are not a regular file",
                       SLICE_ARG(location));
    opening->last_location = location;
    return OK;
}

/* Finds the model's file and the folders that bound it. */
static enum err_code find_file(struct opening *opening, char *ret, size_t ret_size)
{
    const struct penstock_host *host = opening->model->host;
    const char *path = host->model_path(opening->host_model);
    const char *folder = host->model_folder(opening->host_model);
    char wanted[PATH_MAX];
    struct stat st;

    if (path == NULL || stat(path, &st) != 0)
        return err_set(opening->err, E_NOT_FOUND, "there is no model at %s",
                       path != NULL ? path : "(no path)");
    int wrote = snprintf(wanted, sizeof wanted, S_ISDIR(st.st_mode) ? "%s/%s" : "%s", path,
                         opening->settings.filename);
    if (wrote < 0 || (size_t)wrote >= sizeof wanted)
        return err_set(opening->err, E_INVALID, "the path of the model is too long");
    if (stat(wanted, &st) != 0)
        return err_set(opening->err, E_NOT_FOUND,
                       "there is no file %s; another name is given by default_model_filename in "
                       "config.pbtxt",
                       wanted);
    if (!S_ISREG(st.st_mode))
        return err_set(opening->err, E_INVALID, "%s is not a regular file", wanted);
    char real[PATH_MAX];
    if (realpath(wanted, real) == NULL || folder == NULL ||
        realpath(folder, opening->folder) == NULL)
        return err_set(opening->err, E_NOT_FOUND, "cannot resolve the path %s", wanted);
    if (!is_within(opening->folder, real))
        return err_set(opening->err, E_PERMISSION,
                       "%s is a link out of the model's folder, to %s: put the file itself there",
                       wanted, real);
    snprintf(ret, ret_size, "%s", real);
    snprintf(opening->base, sizeof opening->base, "%s", real);
    char *slash = strrchr(opening->base, '/');
    if (slash != NULL)
        *(slash == opening->base ? slash + 1 : slash) = '\0';
    return OK;
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

/* -- the signature ---------------------------------------------------------------------------- */

static const struct {
    int ort;
    enum penstock_dtype dtype;
    uint8_t size;
} dtypes[] = {
    { ORT_FP32, PENSTOCK_FP32, 4 },     { ORT_UINT8, PENSTOCK_UINT8, 1 },
    { ORT_INT8, PENSTOCK_INT8, 1 },     { ORT_UINT16, PENSTOCK_UINT16, 2 },
    { ORT_INT16, PENSTOCK_INT16, 2 },   { ORT_INT32, PENSTOCK_INT32, 4 },
    { ORT_INT64, PENSTOCK_INT64, 8 },   { ORT_STRING, PENSTOCK_BYTES, 0 },
    { ORT_BOOL, PENSTOCK_BOOL, 1 },     { ORT_FP16, PENSTOCK_FP16, 2 },
    { ORT_FP64, PENSTOCK_FP64, 8 },     { ORT_UINT32, PENSTOCK_UINT32, 4 },
    { ORT_UINT64, PENSTOCK_UINT64, 8 }, { ORT_BF16, PENSTOCK_BF16, 2 },
};

/* Which of the three lists a tensor is asked of. */
enum list { LIST_INPUT, LIST_OVERRIDABLE, LIST_OUTPUT };

static const char *const list_words[] = { "input", "input", "output" };

static enum err_code refuse_kind(const struct opening *opening, const char *which, const char *name,
                                 int kind)
{
    if (kind == ORT_KIND_SEQUENCE || kind == ORT_KIND_MAP)
        return err_set(opening->err, E_UNIMPLEMENTED,
                       "%s '%s' is a sequence of maps or the like (ZipMap), not a tensor: export "
                       "the model again with options={\"zipmap\": False} (skl2onnx, onnxmltools)",
                       which, name);
    return err_set(opening->err, E_UNIMPLEMENTED,
                   "%s '%s' is %s; only tensors are served: export the model again with a plain "
                   "tensor in its place",
                   which, name,
                   kind == ORT_KIND_OPTIONAL ? "an optional"
                   : kind == ORT_KIND_SPARSE ? "a sparse tensor"
                                             : "of a type of its own");
}

/* The tensor of that name in the configuration, or NULL. */
static yyjson_val *find_configured(const struct opening *opening, const char *which,
                                   const char *name)
{
    yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(opening->config), which);
    yyjson_val *value;
    size_t index, count;

    yyjson_arr_foreach(list, index, count, value)
    {
        const char *other = yyjson_get_str(yyjson_obj_get(value, "name"));
        if (other != NULL && strcmp(other, name) == 0)
            return value;
    }
    return NULL;
}

/* The model does not say the shape, not even how many dimensions: the configuration has to. */
static enum err_code configured_shape(const struct opening *opening, struct onnx_tensor *tensor,
                                      const char *which, size_t *ret_rank)
{
    yyjson_val *root = yyjson_doc_get_root(opening->config);
    yyjson_val *configured = find_configured(opening, which, tensor->name);
    yyjson_val *dims = yyjson_obj_get(configured, "dims");
    yyjson_val *dim;
    size_t index, count, rank = 0;

    if (dims == NULL)
        return err_set(opening->err, E_INVALID,
                       "the model does not say the shape of %s '%s': list it with its dims in "
                       "config.pbtxt, or run onnx.shape_inference over the model",
                       which, tensor->name);
    if (yyjson_get_sint(yyjson_obj_get(root, "max_batch_size")) > 0)
        tensor->dims[rank++] = -1;
    yyjson_arr_foreach(dims, index, count, dim)
    {
        if (rank == PENSTOCK_RANK_MAX)
            return err_set(opening->err, E_INVALID, "%s '%s' has more than %u dims", which,
                           tensor->name, PENSTOCK_RANK_MAX);
        tensor->dims[rank++] = yyjson_get_sint(dim);
    }
    *ret_rank = rank;
    return OK;
}

static enum err_code read_shape(struct opening *opening, struct onnx_tensor *tensor,
                                const struct ort_shape *shape, const char *which)
{
    const struct onnx_runtime *runtime = opening->model->runtime;
    const struct ort_api *api = runtime->api;
    const char *symbols[PENSTOCK_RANK_MAX] = { NULL };
    size_t rank = 0;
    int ort_dtype = 0;

    struct ort_status *status = api->shape_dtype(shape, &ort_dtype);
    if (status == NULL)
        status = api->shape_rank(shape, &rank);
    if (status == NULL && rank <= PENSTOCK_RANK_MAX)
        status = api->shape_dims(shape, tensor->dims, rank);
    if (status == NULL && rank <= PENSTOCK_RANK_MAX)
        status = api->shape_symbols(shape, symbols, rank);
    if (status != NULL)
        return onnx_status_take(runtime, status, opening->err, tensor->name);
    if (runtime->has_shape != NULL && !runtime->has_shape(shape))
        TRY(configured_shape(opening, tensor, which, &rank));
    if (rank > PENSTOCK_RANK_MAX)
        return err_set(opening->err, E_UNIMPLEMENTED, "%s '%s' has %zu dimensions; the most is %u",
                       which, tensor->name, rank, PENSTOCK_RANK_MAX);
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        if (dtypes[i].ort == ort_dtype) {
            tensor->dtype = dtypes[i].dtype;
            tensor->element_bytes = dtypes[i].size;
        }
    }
    if (tensor->dtype == PENSTOCK_INVALID)
        return err_set(opening->err, E_UNIMPLEMENTED,
                       "%s '%s' has ONNX element type %d, which has no name in the inference "
                       "protocol: add a Cast to FP32 or FP16 to the model",
                       which, tensor->name, ort_dtype);
    tensor->ort_dtype = ort_dtype;
    tensor->rank = (uint32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        const char *symbol = symbols[i] != NULL ? symbols[i] : "";
        tensor->dims[i] = MAX(tensor->dims[i], (int64_t)-1);
        tensor->symbols[i] = arena_strndup(opening->model->arena, symbol, strlen(symbol));
        if (tensor->symbols[i] == NULL)
            return err_set(opening->err, E_EXHAUSTED, "no memory for the model's signature");
    }
    return OK;
}

static struct ort_status *ask_name(const struct onnx_model *model, enum list list, size_t index,
                                   char **ret)
{
    const struct ort_api *api = model->runtime->api;
    struct ort_session *session = model->session->ort;
    struct ort_allocator *allocator = model->runtime->allocator;

    return list == LIST_INPUT    ? api->input_name(session, index, allocator, ret)
           : list == LIST_OUTPUT ? api->output_name(session, index, allocator, ret)
                                 : api->overridable_name(session, index, allocator, ret);
}

static struct ort_status *ask_type(const struct onnx_model *model, enum list list, size_t index,
                                   struct ort_type **ret)
{
    const struct ort_api *api = model->runtime->api;
    struct ort_session *session = model->session->ort;

    return list == LIST_INPUT    ? api->input_type(session, index, ret)
           : list == LIST_OUTPUT ? api->output_type(session, index, ret)
                                 : api->overridable_type(session, index, ret);
}

static enum err_code read_name(struct opening *opening, enum list list, size_t index,
                               const char **ret)
{
    const struct onnx_runtime *runtime = opening->model->runtime;
    char *theirs = NULL;

    struct ort_status *status = ask_name(opening->model, list, index, &theirs);
    if (status != NULL)
        return onnx_status_take(runtime, status, opening->err, list_words[list]);
    *ret = arena_strndup(opening->model->arena, theirs, strlen(theirs));
    status = runtime->api->allocator_free(runtime->allocator, theirs);
    if (status != NULL)
        runtime->api->status_release(status);
    return *ret != NULL ? OK
                        : err_set(opening->err, E_EXHAUSTED, "no memory for the model's signature");
}

static enum err_code read_tensor(struct opening *opening, struct onnx_tensor *tensor,
                                 enum list list, size_t index)
{
    const struct onnx_runtime *runtime = opening->model->runtime;
    const struct ort_shape *shape = NULL;
    struct ort_type *type = NULL;
    int kind = ORT_KIND_UNKNOWN;

    TRY(read_name(opening, list, index, &tensor->name));
    struct ort_status *status = ask_type(opening->model, list, index, &type);
    if (status == NULL)
        status = runtime->api->type_kind(type, &kind);
    if (status == NULL && kind == ORT_KIND_TENSOR)
        status = runtime->api->type_as_tensor(type, &shape);
    enum err_code code = OK;
    if (status != NULL)
        code = onnx_status_take(runtime, status, opening->err, tensor->name);
    else if (shape == NULL)
        code = refuse_kind(opening, list_words[list], tensor->name, kind);
    else
        code = read_shape(opening, tensor, shape, list_words[list]);
    runtime->api->type_release(type);
    return code;
}

static void hint_overridable(const struct opening *opening, size_t count, const char *first)
{
    char text[512];

    snprintf(text, sizeof text,
             "model %s: %zu of its weights ('%s'%s) are listed as inputs too, which keeps the "
             "runtime from folding them in and makes it slower: export it with "
             "keep_initializers_as_inputs=False, or take them out of graph.input",
             opening->model->host->model_name(opening->host_model), count, first,
             count > 1 ? " ..." : "");
    opening->model->host->log(PENSTOCK_LOG_WARN, text);
}

/* Weights that are listed as inputs too are not shown, unless the configuration lists them: then
 * they are optional inputs. */
static enum err_code read_overridable(struct opening *opening, size_t count)
{
    struct onnx_model *model = opening->model;
    const char *first = NULL;

    for (size_t i = 0; i < count; i++) {
        const char *name;
        TRY(read_name(opening, LIST_OVERRIDABLE, i, &name));
        if (first == NULL)
            first = name;
        if (find_configured(opening, "input", name) == NULL)
            continue;
        struct onnx_tensor *tensor = &model->inputs[model->inputs_count];
        TRY(read_tensor(opening, tensor, LIST_OVERRIDABLE, i));
        tensor->is_optional = true;
        model->inputs_count++;
    }
    if (count > 0)
        hint_overridable(opening, count, first);
    return OK;
}

static enum err_code read_signature(struct opening *opening)
{
    struct onnx_model *model = opening->model;
    const struct ort_api *api = model->runtime->api;
    size_t inputs = 0, overridable = 0, outputs = 0;

    struct ort_status *status = api->inputs_count(model->session->ort, &inputs);
    if (status == NULL)
        status = api->overridable_count(model->session->ort, &overridable);
    if (status == NULL)
        status = api->outputs_count(model->session->ort, &outputs);
    if (status != NULL)
        return onnx_status_take(model->runtime, status, opening->err, "its signature");
    if (inputs > TENSORS_MAX || outputs > TENSORS_MAX)
        return err_set(opening->err, E_UNIMPLEMENTED,
                       "the model has %zu inputs and %zu outputs; the most is %d", inputs, outputs,
                       TENSORS_MAX);
    overridable = MIN(overridable, (size_t)TENSORS_MAX);
    model->inputs = arena_zalloc(model->arena, (inputs + overridable + 1) * sizeof *model->inputs);
    model->outputs = arena_zalloc(model->arena, (outputs + 1) * sizeof *model->outputs);
    if (model->inputs == NULL || model->outputs == NULL)
        return err_set(opening->err, E_EXHAUSTED, "no memory for the model's signature");
    for (size_t i = 0; i < inputs; i++)
        TRY(read_tensor(opening, &model->inputs[i], LIST_INPUT, i));
    model->inputs_count = (uint32_t)inputs;
    TRY(read_overridable(opening, overridable));
    for (size_t i = 0; i < outputs; i++)
        TRY(read_tensor(opening, &model->outputs[i], LIST_OUTPUT, i));
    model->outputs_count = (uint32_t)outputs;
    return OK;
}

/* The first required input's dimension of that name. */
static struct onnx_dim_source find_symbol(const struct onnx_model *model, const char *symbol)
{
    for (uint32_t i = 0; symbol[0] != '\0' && i < model->inputs_count; i++) {
        const struct onnx_tensor *input = &model->inputs[i];
        for (uint32_t d = 0; !input->is_optional && d < input->rank; d++) {
            if (input->dims[d] < 0 && strcmp(input->symbols[d], symbol) == 0)
                return (struct onnx_dim_source){ (uint16_t)i, (uint16_t)d };
        }
    }
    return (struct onnx_dim_source){ DIM_UNKNOWN, 0 };
}

/* Every input has a free first dimension without a name, as converters of scikit-learn and XGBoost
 * write it: then the rows of an output are most likely theirs. */
static bool has_nameless_rows(const struct onnx_model *model)
{
    for (uint32_t i = 0; i < model->inputs_count; i++) {
        const struct onnx_tensor *input = &model->inputs[i];
        if (!input->is_optional &&
            (input->rank == 0 || input->dims[0] >= 0 || input->symbols[0][0] != '\0'))
            return false;
    }
    return model->inputs_count > 0 && !model->inputs[0].is_optional;
}

static bool is_input_name(const struct onnx_model *model, const char *name)
{
    for (uint32_t i = 0; i < model->inputs_count; i++) {
        if (strcmp(model->inputs[i].name, name) == 0)
            return true;
    }
    return false;
}

/* Finds where each free dimension comes from: by its symbolic name, else a first one from the
 * inputs' first (`has_rows`). A rank of 0 is a scalar or a shape that nobody wrote down; taking it
 * for a scalar is a guess that a run may refute. */
static bool resolve_output(const struct onnx_model *model, struct onnx_tensor *output,
                           bool has_rows)
{
    /* The runtime does not write an output that is an input itself: it hands back the input. */
    if (output->dtype == PENSTOCK_BYTES || is_input_name(model, output->name))
        return false;
    for (uint32_t d = 0; d < output->rank; d++) {
        output->sources[d] = find_symbol(model, output->symbols[d]);
        if (output->dims[d] >= 0 || output->sources[d].input != DIM_UNKNOWN)
            continue;
        if (d > 0 || !has_rows || output->symbols[0][0] != '\0')
            return false;
        output->sources[0] = (struct onnx_dim_source){ 0, 0 };
    }
    return true;
}

static void resolve_outputs(struct onnx_model *model)
{
    bool has_rows = has_nameless_rows(model);

    for (uint32_t i = 0; i < model->outputs_count; i++) {
        struct onnx_tensor *output = &model->outputs[i];
        output->is_predictable = resolve_output(model, output, has_rows);
        atomic_init(&output->is_misjudged, false);
    }
}

/* Every tensor has a free first dimension, all of one name where they have names, and that name
 * stands nowhere else (an [N, N] output is not N rows). */
static bool is_batchable(const struct onnx_model *model)
{
    const char *batch = "";

    if (model->inputs_count == 0)
        return false;
    for (uint32_t i = 0; i < model->inputs_count + model->outputs_count; i++) {
        const struct onnx_tensor *tensor =
            i < model->inputs_count ? &model->inputs[i] : &model->outputs[i - model->inputs_count];
        if (tensor->is_optional)
            continue;
        if (tensor->rank == 0 || tensor->dims[0] >= 0)
            return false;
        if (batch[0] == '\0')
            batch = tensor->symbols[0];
        if (tensor->symbols[0][0] != '\0' && strcmp(tensor->symbols[0], batch) != 0)
            return false;
        for (uint32_t d = 1; d < tensor->rank; d++) {
            if (batch[0] != '\0' && strcmp(tensor->symbols[d], batch) == 0)
                return false;
        }
    }
    return true;
}

static enum err_code declare_all(struct opening *opening)
{
    const struct onnx_model *model = opening->model;
    struct err own = { .code = OK };

    for (uint32_t i = 0; i < model->inputs_count + model->outputs_count; i++) {
        bool is_output = i >= model->inputs_count;
        const struct onnx_tensor *tensor =
            is_output ? &model->outputs[i - model->inputs_count] : &model->inputs[i];
        int code = model->host->declare(opening->host_model, is_output, tensor->name, tensor->dtype,
                                        tensor->rank, tensor->dims, tensor->is_optional,
                                        (struct penstock_err *)(void *)&own);
        if (code != OK)
            return err_set(opening->err, (enum err_code)code, "%s", own.text);
    }
    return OK;
}

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
    uint32_t traits = 0;

    if (!facts->is_ort_format && facts->value_op[0] == '\0' && settings->intra_threads == 1 &&
        (settings->inter_threads == 1 || !settings->is_parallel) && settings->providers_count == 0)
        traits |= PENSTOCK_BACKEND_RUNS_INLINE;
    if (!facts->is_ort_format && facts->mixing_op[0] == '\0' && is_batchable(opening->model))
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
    TRY(read_settings(opening));
    TRY(find_file(opening, path, sizeof path));
    CLEANUP(buf_unref) struct buf *file = NULL;
    TRY(file_read(&file, NULL, path, MODEL_BYTES_MAX, opening->err));
    if (onnx_graph_scan(&opening->facts, buf_bytes(file), on_external, opening, opening->err) != OK)
        return err_wrap(opening->err, "%s", path);
    if (!opening->settings.is_arena_said)
        opening->settings.has_arena = !is_small(&opening->facts, buf_bytes(file).size);
    if (opening->facts.zipmaps_count > 0)
        TRY(strip_zipmaps(opening, &file));
    if (make_session(opening, buf_bytes(file)) != OK)
        return err_wrap(opening->err, "%s", path);
    buf_unref(&file); /* before the rest: it may be as large as the weights */
    TRY(read_signature(opening));
    resolve_outputs(model);
    uint32_t traits = find_traits(opening);
    TRY(write_description(opening, traits));
    TRY(declare_all(opening));
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
    arena_free(&model->arena);
    mem_free(model);
}

const char *onnx_describe(void *context)
{
    struct onnx_model *model = context;

    return model->description;
}
