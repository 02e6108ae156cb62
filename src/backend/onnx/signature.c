/* signature.c - the inputs and outputs of a session, and what their shapes say.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stddef.h>
#include <stdio.h>
#include <yyjson.h>

#include "backend/onnx/opening.h"
#include "base/arena.h"

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

/* The model does not say the shape, not even how many dimensions: the configuration has to. */
static enum err_code configured_shape(const struct opening *opening, struct onnx_tensor *tensor,
                                      const char *which, size_t *ret_rank)
{
    yyjson_val *root = yyjson_doc_get_root(opening->config);
    yyjson_val *configured = onnx_settings_tensor(opening, which, tensor->name);
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
        if (onnx_settings_tensor(opening, "input", name) == NULL)
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

/* The first required input's dimension of that name. */
struct onnx_dim_source onnx_signature_find_symbol(const struct onnx_model *model,
                                                  const char *symbol)
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
        output->sources[d] = onnx_signature_find_symbol(model, output->symbols[d]);
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

enum err_code onnx_signature_read(struct opening *opening)
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
    resolve_outputs(model);
    return OK;
}

/* Every tensor has a free first dimension, all of one name where they have names, and that name
 * stands nowhere else (an [N, N] output is not N rows). */
bool onnx_signature_is_batchable(const struct onnx_model *model)
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

/* Names are what text holds, numbers what integers hold, and scores have a column for each. */
static bool fits_classes(const struct onnx_tensor *output, const struct onnx_classes *classes)
{
    int64_t last = output->rank == 0 ? 1 : output->dims[output->rank - 1];

    switch (output->dtype) {
    case PENSTOCK_BYTES: return classes->names != NULL;
    case PENSTOCK_INT32:
    case PENSTOCK_INT64: return classes->numbers != NULL;
    case PENSTOCK_FP32:
    case PENSTOCK_FP64: return last == -1 || last == (int64_t)classes->count;
    default: return false;
    }
}

static enum err_code declare_classes(const struct opening *opening,
                                     const struct onnx_tensor *output)
{
    const struct penstock_host *host = opening->model->host;
    struct err own = { .code = OK };

    if (host->size < offsetof(struct penstock_host, classes) + sizeof host->classes)
        return OK;
    for (uint32_t i = 0; i < opening->classes_count; i++) {
        const struct onnx_classes *classes = &opening->classes_of[i];
        if (strcmp(classes->output, output->name) != 0 || !fits_classes(output, classes))
            continue;
        int code = host->classes(opening->host_model, output->name, classes->count, classes->names,
                                 classes->numbers, (struct penstock_err *)(void *)&own);
        return code == OK ? OK : err_set(opening->err, (enum err_code)code, "%s", own.text);
    }
    return OK;
}

enum err_code onnx_signature_declare(const struct opening *opening)
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
        if (is_output)
            TRY(declare_classes(opening, tensor));
    }
    return OK;
}
