/* run.c - one batch through the runtime.
 *
 * The ordinary case is one row whose output shapes follow from its input shapes: inputs are wrapped
 * where they lie, outputs are wrapped in memory that the response owns, and the runtime writes what
 * the socket will send. Small ones are copied instead (struct kept). Otherwise the runtime
 * allocates: small results are copied, large ones are adopted by the response together with a
 * reference on the session, because a result may turn out to be a constant of the model.
 *
 * How an output's shape follows from the inputs' is partly a guess, but the runtime checks it: when
 * a run fails on it, that output is never guessed again and the batch runs once more.
 *
 * Everything a run needs is allocated with the instance. What the runtime itself allocates per run
 * is not ours to avoid.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "backend/onnx/model.h"
#include "backend/onnx/strings.h"
#include "base/mem.h"
#include "base/slice.h"

enum {
    ADOPT_BYTES_MIN = 16384,      /* below, a copy is cheaper than keeping the runtime's memory */
    SCRATCH_BYTES_KEPT = 1 << 16, /* of strings, between runs */
    STRAY_HINTS_MAX = 8,          /* a run is begun again for, before it is given up */
    /* Of a tensor: up to here it is copied. Must stay below ADOPT_BYTES_MIN: a result may turn out
     * to be the memory of an input, which nobody may adopt. */
    KEPT_BYTES = 512,
};

/* Memory of the instance that the runtime has wrapped once, for as long as the shape stays the
 * same: small inputs are copied into it, small outputs out of it. To wrap memory and release that
 * takes the runtime three allocations and 1,200 instructions, far more than the copy. */
struct kept {
    struct ort_value *value; /* owned; NULL before the first use */
    void *target;            /* of an output: the response's memory, during a run */
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];
    size_t size;
    _Alignas(64) uint8_t memory[KEPT_BYTES];
};

struct instance {
    struct onnx_model *model;
    struct ort_run *run;       /* owned */
    atomic_bool is_terminated; /* set by cancel, cleared by the next execute */
    /* per input and output of the model; the counts are of this run */
    const char **input_names, **output_names;
    struct ort_value **inputs, **outputs; /* owned during a run, but the kept ones */
    uint32_t *output_index;               /* of the model, by position in this run */
    bool *is_placed;                      /* the output's memory is already the response's */
    uint32_t inputs_count, outputs_count;
    struct kept *kept;                         /* owned: per input, then per output, of the model */
    struct kept **kept_inputs, **kept_outputs; /* by position in this run; NULL: is not one */
    struct strings_scratch scratch;
};

/* What keeps a result alive that a response has adopted; shared by the rows of a batch. */
struct holder {
    atomic_uint refs;
    struct ort_value *value;
    struct onnx_session *session;
};

static struct penstock_err *as_host_err(struct err *err)
{
    return (struct penstock_err *)(void *)err;
}

/* -- instances -------------------------------------------------------------------------------- */

int onnx_instance_open(void **ret, void *context, uint32_t index, struct penstock_place place,
                       struct penstock_err *err)
{
    struct onnx_model *model = context;
    const struct penstock_host *host = model->host;
    size_t inputs = (size_t)model->inputs_count + 1, outputs = (size_t)model->outputs_count + 1;
    void *made = NULL;

    (void)index;
    if (place.kind != PENSTOCK_CPU)
        return host->fail(err, E_UNAVAILABLE,
                          "ONNX models run on the CPU here: set KIND_CPU or KIND_AUTO in "
                          "instance_group");
    struct instance *instance = mem_zalloc(sizeof *instance);
    if (instance == NULL)
        return host->fail(err, E_EXHAUSTED, "no memory for an instance");
    made = instance;
    instance->model = model;
    atomic_init(&instance->is_terminated, false);
    instance->input_names = mem_zalloc(inputs * sizeof *instance->input_names);
    instance->output_names = mem_zalloc(outputs * sizeof *instance->output_names);
    instance->inputs = mem_zalloc(inputs * sizeof *instance->inputs);
    instance->outputs = mem_zalloc(outputs * sizeof *instance->outputs);
    instance->output_index = mem_zalloc(outputs * sizeof *instance->output_index);
    instance->is_placed = mem_zalloc(outputs * sizeof *instance->is_placed);
    instance->kept_inputs = mem_zalloc(inputs * sizeof *instance->kept_inputs);
    instance->kept_outputs = mem_zalloc(outputs * sizeof *instance->kept_outputs);
    instance->kept = mem_aligned(64, (inputs + outputs) * sizeof *instance->kept);
    if (instance->kept != NULL)
        memset(instance->kept, 0, (inputs + outputs) * sizeof *instance->kept);
    struct ort_status *status = model->runtime->api->run_create(&instance->run);
    int code = OK;
    if (status != NULL) {
        struct err own = { .code = OK };
        onnx_status_take(model->runtime, status, &own, "an instance");
        code = host->fail(err, (int)own.code, "%s", own.text);
    } else if (instance->input_names == NULL || instance->output_names == NULL ||
               instance->inputs == NULL || instance->outputs == NULL ||
               instance->output_index == NULL || instance->is_placed == NULL ||
               instance->kept_inputs == NULL || instance->kept_outputs == NULL ||
               instance->kept == NULL) {
        code = host->fail(err, E_EXHAUSTED, "no memory for an instance");
    }
    if (code != OK)
        onnx_instance_close(&made);
    else
        *ret = instance;
    return code;
}

void onnx_instance_close(void **slot)
{
    struct instance *instance = TAKE(*slot);

    if (instance == NULL)
        return;
    const struct ort_api *api = instance->model->runtime->api;
    size_t kept = (size_t)instance->model->inputs_count + instance->model->outputs_count;
    for (size_t i = 0; instance->kept != NULL && i < kept; i++)
        api->value_release(instance->kept[i].value);
    api->run_release(instance->run);
    mem_free(instance->input_names);
    mem_free(instance->output_names);
    mem_free(instance->inputs);
    mem_free(instance->outputs);
    mem_free(instance->output_index);
    mem_free(instance->is_placed);
    mem_free(instance->kept_inputs);
    mem_free(instance->kept_outputs);
    mem_free(instance->kept);
    strings_scratch_free(&instance->scratch);
    mem_free(instance);
}

void onnx_cancel(void *context)
{
    struct instance *instance = context;
    const struct onnx_runtime *runtime = instance->model->runtime;

    /* The flag after the runtime's own: whoever sees it set may clear both. */
    struct ort_status *status = runtime->api->run_terminate(instance->run);
    if (status != NULL)
        runtime->api->status_release(status);
    atomic_store_explicit(&instance->is_terminated, true, memory_order_release);
}

/* -- inputs ----------------------------------------------------------------------------------- */

static enum err_code failed(const struct instance *instance, struct ort_status *status,
                            struct err *err, const char *what)
{
    return onnx_status_take(instance->model->runtime, status, err, what);
}

static const char *dims_text(char *out, size_t size, uint32_t rank, const int64_t *dims)
{
    size_t at = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < rank && at < size; i++) {
        int wrote = snprintf(out + at, size - at, "%s%lld", i == 0 ? "[" : ",", (long long)dims[i]);
        at += (size_t)MAX(wrote, 0);
    }
    if (at + 2 <= size)
        snprintf(out + at, size - at, "%s", rank == 0 ? "[]" : "]");
    return out;
}

/* Does an input fit the model? Asked after a run has failed, to say it better than the runtime. */
static enum err_code explain_inputs(const struct instance *instance,
                                    const struct penstock_batch *batch, struct err *err)
{
    const struct onnx_model *model = instance->model;
    char got[256], wanted[256];

    for (uint32_t i = 0; i < model->inputs_count; i++) {
        const struct penstock_tensor *tensor = model->host->input(batch, i);
        const struct onnx_tensor *input = &model->inputs[i];
        if (tensor == NULL)
            continue;
        bool fits = tensor->rank == input->rank;
        for (uint32_t d = 0; fits && d < input->rank; d++)
            fits = input->dims[d] < 0 || input->dims[d] == tensor->shape[d];
        if (!fits)
            return err_set(err, E_INVALID, "input '%s' has shape %s; the model takes %s",
                           input->name, dims_text(got, sizeof got, tensor->rank, tensor->shape),
                           dims_text(wanted, sizeof wanted, input->rank, input->dims));
    }
    return OK;
}

/* Does a dimension that the model calls by one name have one size in all its inputs? It is no error
 * in itself: a run may stretch a 1. */
static enum err_code explain_symbols(const struct instance *instance,
                                     const struct penstock_batch *batch, struct err *err)
{
    const struct onnx_model *model = instance->model;

    for (uint32_t i = 0; i < model->inputs_count; i++) {
        const struct penstock_tensor *tensor = model->host->input(batch, i);
        const struct onnx_tensor *input = &model->inputs[i];
        for (uint32_t d = 0; tensor != NULL && d < input->rank; d++) {
            struct onnx_dim_source first = { DIM_UNKNOWN, 0 };
            if (input->dims[d] < 0)
                first = onnx_signature_find_symbol(model, input->symbols[d]);
            const struct penstock_tensor *other =
                first.input == DIM_UNKNOWN ? NULL : model->host->input(batch, first.input);
            if (other == NULL || other->shape[first.dim] == tensor->shape[d])
                continue;
            return err_set(err, E_INVALID,
                           "inputs '%s' and '%s' do not agree on '%s': dimension %u of the one is "
                           "%lld, dimension %u of the other %lld",
                           model->inputs[first.input].name, input->name, input->symbols[d],
                           first.dim, (long long)other->shape[first.dim], d,
                           (long long)tensor->shape[d]);
        }
    }
    return OK;
}

static bool is_kept(const struct kept *kept, uint32_t rank, const int64_t *shape, size_t size)
{
    if (kept->value == NULL || kept->rank != rank || kept->size != size)
        return false;
    for (uint32_t d = 0; d < rank; d++) {
        if (kept->shape[d] != shape[d])
            return false;
    }
    return true;
}

/* Makes `kept` fit the shape. Mostly it does. */
static struct ort_status *keep(const struct onnx_runtime *runtime, struct kept *kept,
                               const struct onnx_tensor *tensor, uint32_t rank,
                               const int64_t *shape, size_t size)
{
    if (LIKELY(is_kept(kept, rank, shape, size)))
        return NULL;
    runtime->api->value_release(TAKE(kept->value));
    kept->rank = rank;
    kept->size = size;
    memcpy(kept->shape, shape, rank * sizeof *shape);
    return runtime->api->value_wrap(runtime->memory, kept->memory, size, shape, rank,
                                    tensor->ort_dtype, &kept->value);
}

static enum err_code bind_input(struct instance *instance, uint32_t index,
                                const struct penstock_tensor *tensor, struct err *err)
{
    static uint64_t nothing; /* what an empty tensor points to; never written */
    const struct onnx_runtime *runtime = instance->model->runtime;
    const struct onnx_tensor *input = &instance->model->inputs[index];
    struct kept *kept = &instance->kept[index];
    struct ort_value **ret = &instance->inputs[instance->inputs_count];
    struct ort_status *status;
    /* The runtime's signature is not const; inputs are only read. */
    union {
        const void *in;
        void *out;
    } data = { .in = tensor->size > 0 ? tensor->data : &nothing };

    if (UNLIKELY(tensor->dtype != input->dtype))
        return err_set(err, E_INVALID, "input '%s' has another data type than the model takes",
                       input->name);
    instance->kept_inputs[instance->inputs_count] = NULL;
    if (tensor->dtype == PENSTOCK_BYTES) {
        TRY(strings_to_ort(runtime, ret, tensor, input->name, err));
    } else if (tensor->size <= KEPT_BYTES) {
        status = keep(runtime, kept, input, tensor->rank, tensor->shape, tensor->size);
        if (UNLIKELY(status != NULL))
            return failed(instance, status, err, input->name);
        memcpy(kept->memory, data.in, tensor->size);
        instance->kept_inputs[instance->inputs_count] = kept;
        *ret = kept->value;
    } else {
        status = runtime->api->value_wrap(runtime->memory, data.out, tensor->size, tensor->shape,
                                          tensor->rank, input->ort_dtype, ret);
        if (UNLIKELY(status != NULL))
            return failed(instance, status, err, input->name);
    }
    instance->input_names[instance->inputs_count++] = input->name;
    return OK;
}

static enum err_code bind_inputs(struct instance *instance, const struct penstock_batch *batch,
                                 struct err *err)
{
    const struct onnx_model *model = instance->model;

    for (uint32_t i = 0; i < model->inputs_count; i++) {
        const struct penstock_tensor *tensor = model->host->input(batch, i);
        if (UNLIKELY(tensor == NULL)) {
            if (model->inputs[i].is_optional)
                continue;
            return err_set(err, E_INVALID, "input '%s' is missing", model->inputs[i].name);
        }
        TRY(bind_input(instance, i, tensor, err));
    }
    return OK;
}

/* -- outputs before the run ------------------------------------------------------------------- */

static bool is_wanted(const struct penstock_host *host, const struct penstock_batch *batch,
                      uint32_t rows, uint32_t output)
{
    for (uint32_t row = 0; row < rows; row++) {
        if (host->wants(batch, row, output))
            return true;
    }
    return false;
}

/* Elements of a shape; false when negative or too many to address. */
static bool count_bytes(uint32_t rank, const int64_t *shape, size_t element_bytes, size_t *ret)
{
    size_t bytes = element_bytes;

    for (uint32_t d = 0; d < rank; d++) {
        if (shape[d] < 0 || __builtin_mul_overflow(bytes, (size_t)shape[d], &bytes))
            return false;
    }
    *ret = bytes;
    return true;
}

/* Gives the runtime memory of the response to write into. Where the shape cannot be told the output
 * stays NULL, which asks the runtime to allocate. */
static enum err_code place_output(struct instance *instance, struct penstock_batch *batch,
                                  const struct onnx_tensor *output, uint32_t index, struct err *err)
{
    const struct onnx_runtime *runtime = instance->model->runtime;
    const struct penstock_host *host = instance->model->host;
    int64_t shape[PENSTOCK_RANK_MAX];
    size_t bytes;

    for (uint32_t d = 0; d < output->rank; d++) {
        shape[d] = output->dims[d];
        if (shape[d] < 0) {
            const struct onnx_dim_source *source = &output->sources[d];
            const struct penstock_tensor *input = host->input(batch, source->input);
            if (UNLIKELY(input == NULL || source->dim >= input->rank))
                return OK;
            shape[d] = input->shape[source->dim];
        }
    }
    if (!count_bytes(output->rank, shape, output->element_bytes, &bytes) || bytes == 0)
        return OK;
    void *memory = host->output(batch, 0, index, output->rank, shape, bytes, as_host_err(err));
    if (UNLIKELY(memory == NULL))
        return err->code != OK
                   ? err->code
                   : err_set(err, E_EXHAUSTED, "no memory for output '%s'", output->name);
    struct ort_value **ret = &instance->outputs[instance->outputs_count];
    struct kept *kept = &instance->kept[instance->model->inputs_count + index];
    struct ort_status *status;
    if (bytes <= KEPT_BYTES) {
        status = keep(runtime, kept, output, output->rank, shape, bytes);
        if (status == NULL) {
            instance->kept_outputs[instance->outputs_count] = kept;
            kept->target = memory;
            *ret = kept->value;
        }
    } else {
        status = runtime->api->value_wrap(runtime->memory, memory, bytes, shape, output->rank,
                                          output->ort_dtype, ret);
    }
    if (UNLIKELY(status != NULL))
        return failed(instance, status, err, output->name);
    instance->is_placed[instance->outputs_count] = true;
    return OK;
}

static enum err_code bind_outputs(struct instance *instance, struct penstock_batch *batch,
                                  uint32_t rows, struct err *err)
{
    const struct onnx_model *model = instance->model;

    for (uint32_t i = 0; i < model->outputs_count; i++) {
        const struct onnx_tensor *output = &model->outputs[i];
        if (!is_wanted(model->host, batch, rows, i))
            continue;
        instance->is_placed[instance->outputs_count] = false;
        instance->outputs[instance->outputs_count] = NULL;
        instance->kept_outputs[instance->outputs_count] = NULL;
        if (rows == 1 && output->is_predictable &&
            !atomic_load_explicit(&output->is_misjudged, memory_order_relaxed))
            TRY(place_output(instance, batch, output, i, err));
        instance->output_index[instance->outputs_count] = i;
        instance->output_names[instance->outputs_count++] = output->name;
    }
    return OK;
}

static void drop_outputs(struct instance *instance)
{
    const struct ort_api *api = instance->model->runtime->api;

    for (uint32_t i = 0; i < instance->outputs_count; i++)
        if (instance->kept_outputs[i] == NULL)
            api->value_release(TAKE(instance->outputs[i]));
    instance->outputs_count = 0;
}

static void drop_values(struct instance *instance)
{
    const struct ort_api *api = instance->model->runtime->api;

    for (uint32_t i = 0; i < instance->inputs_count; i++)
        if (instance->kept_inputs[i] == NULL)
            api->value_release(TAKE(instance->inputs[i]));
    instance->inputs_count = 0;
    drop_outputs(instance);
}

/* -- outputs after the run -------------------------------------------------------------------- */

static void holder_release(void *context, void *data)
{
    struct holder *holder = context;

    (void)data;
    if (atomic_fetch_sub_explicit(&holder->refs, 1, memory_order_acq_rel) != 1)
        return;
    holder->session->runtime->api->value_release(holder->value);
    onnx_session_unref(&holder->session);
    mem_free(holder);
}

/* A result whose bytes a row is to be given a part of. */
struct result {
    const struct onnx_tensor *output;
    uint32_t index; /* of the output */
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];
    uint8_t *data;
    size_t size;
    struct holder *holder; /* NULL: copy */
};

static enum err_code give_part(struct instance *instance, struct penstock_batch *batch,
                               uint32_t row, const struct result *result, const int64_t *shape,
                               uint8_t *data, size_t size, struct err *err)
{
    const struct penstock_host *host = instance->model->host;

    if (result->holder != NULL) {
        atomic_fetch_add_explicit(&result->holder->refs, 1, memory_order_relaxed);
        int code = host->output_adopt(batch, row, result->index, result->rank, shape, data, size,
                                      holder_release, result->holder, as_host_err(err));
        if (code != OK)
            holder_release(result->holder, data);
        return (enum err_code)code;
    }
    void *memory =
        host->output(batch, row, result->index, result->rank, shape, size, as_host_err(err));
    if (memory == NULL && size > 0)
        return err->code != OK
                   ? err->code
                   : err_set(err, E_EXHAUSTED, "no memory for output '%s'", result->output->name);
    if (size > 0)
        memcpy(memory, data, size);
    return OK;
}

/* Gives each row that wants it its part of a result. Fails rows one by one. */
static enum err_code give_rows(struct instance *instance, struct penstock_batch *batch,
                               uint32_t rows, const struct result *result, struct err *err)
{
    const struct penstock_host *host = instance->model->host;
    int64_t shape[PENSTOCK_RANK_MAX], at = 0;

    if (rows == 1)
        return give_part(instance, batch, 0, result, result->shape, result->data, result->size,
                         err);
    memcpy(shape, result->shape, sizeof shape);
    for (uint32_t row = 0; row < rows; row++) {
        size_t each = result->size / (size_t)MAX(result->shape[0], (int64_t)1);
        struct err own = { .code = OK };
        shape[0] = host->row_size(batch, row);
        if (host->wants(batch, row, result->index) &&
            give_part(instance, batch, row, result, shape, result->data + each * (size_t)at,
                      each * (size_t)shape[0], &own) != OK)
            host->fail_row(batch, row, own.code == OK ? E_INTERNAL : (int)own.code, own.text);
        at += shape[0];
    }
    return OK;
}

/* Strings are packed for each row by itself. */
static enum err_code give_strings(struct instance *instance, struct penstock_batch *batch,
                                  uint32_t rows, const struct result *result,
                                  const struct ort_value *value, struct err *err)
{
    const struct penstock_host *host = instance->model->host;
    int64_t shape[PENSTOCK_RANK_MAX], at = 0;
    size_t count;

    if (!count_bytes(result->rank, result->shape, 1, &count))
        return err_set(err, E_INTERNAL, "output '%s' is too large", result->output->name);
    TRY(strings_read(&instance->scratch, instance->model->runtime, value, count, err));
    memcpy(shape, result->shape, sizeof shape);
    size_t each = rows == 1 ? count : count / (size_t)MAX(shape[0], (int64_t)1);
    for (uint32_t row = 0; row < rows; row++) {
        struct err own = { .code = OK };
        size_t row_count = each;
        if (rows > 1) {
            shape[0] = host->row_size(batch, row);
            row_count = each * (size_t)shape[0];
        }
        size_t first = (size_t)at * each;
        at += rows > 1 ? shape[0] : 0;
        if (!host->wants(batch, row, result->index))
            continue;
        size_t bytes = strings_packed_bytes(&instance->scratch, first, row_count);
        void *memory =
            host->output(batch, row, result->index, result->rank, shape, bytes, as_host_err(&own));
        if (memory != NULL)
            strings_pack(&instance->scratch, first, row_count, memory);
        else if (bytes > 0 && rows == 1)
            return err_set(err, own.code == OK ? E_EXHAUSTED : own.code, "%s", own.text);
        else if (bytes > 0)
            host->fail_row(batch, row, own.code == OK ? E_EXHAUSTED : (int)own.code, own.text);
    }
    return OK;
}

static enum err_code read_result(const struct instance *instance, struct ort_value *value,
                                 struct result *result, struct err *err)
{
    const struct onnx_runtime *runtime = instance->model->runtime;
    const struct ort_api *api = runtime->api;
    struct ort_shape *shape = NULL;
    size_t rank = 0;
    void *data = NULL;
    int dtype = 0;

    struct ort_status *status = api->value_shape(value, &shape);
    if (status == NULL)
        status = api->shape_dtype(shape, &dtype);
    if (status == NULL)
        status = api->shape_rank(shape, &rank);
    if (status == NULL && rank <= PENSTOCK_RANK_MAX)
        status = api->shape_dims(shape, result->shape, rank);
    if (status == NULL && dtype != ORT_STRING)
        status = api->value_data(value, &data);
    api->shape_release(shape);
    if (status != NULL)
        return failed(instance, status, err, result->output->name);
    if (rank > PENSTOCK_RANK_MAX || dtype != result->output->ort_dtype)
        return err_set(err, E_INTERNAL, "output '%s' came out with another type or rank",
                       result->output->name);
    result->rank = (uint32_t)rank;
    result->data = data;
    if (!count_bytes(result->rank, result->shape, result->output->element_bytes, &result->size))
        return err_set(err, E_INTERNAL, "output '%s' is too large", result->output->name);
    return OK;
}

static bool divides_into_rows(const struct penstock_host *host, const struct penstock_batch *batch,
                              uint32_t rows, const struct result *result)
{
    int64_t sum = 0;

    for (uint32_t row = 0; row < rows; row++)
        sum += host->row_size(batch, row);
    return result->rank > 0 && result->shape[0] == sum;
}

/* Does the result lie in memory of the request? (A model may hand an input through.) */
static bool is_borrowed(const struct onnx_model *model, const struct penstock_batch *batch,
                        const uint8_t *data)
{
    for (uint32_t i = 0; i < model->inputs_count; i++) {
        const struct penstock_tensor *tensor = model->host->input(batch, i);
        uintptr_t start = tensor != NULL ? (uintptr_t)tensor->data : 0;
        if (tensor != NULL && (uintptr_t)data >= start && (uintptr_t)data < start + tensor->size)
            return true;
    }
    return false;
}

/* Takes the value out of the instance into a holder, so that responses can share it. */
static struct holder *hold(struct instance *instance, uint32_t at)
{
    struct holder *holder = mem_alloc(sizeof *holder);

    if (holder == NULL)
        return NULL;
    atomic_init(&holder->refs, 1);
    holder->value = TAKE(instance->outputs[at]);
    holder->session = onnx_session_ref(instance->model->session);
    return holder;
}

static enum err_code give_output(struct instance *instance, struct penstock_batch *batch,
                                 uint32_t rows, uint32_t at, struct err *err)
{
    const struct onnx_model *model = instance->model;
    struct result result = { .index = instance->output_index[at] };
    struct ort_value *value = instance->outputs[at];

    result.output = &model->outputs[result.index];
    TRY(read_result(instance, value, &result, err));
    if (rows > 1 && !divides_into_rows(model->host, batch, rows, &result))
        return err_set(err, E_INTERNAL,
                       "output '%s' does not have one row for each row of the batch: set "
                       "max_batch_size: 0 for this model",
                       result.output->name);
    if (result.output->dtype == PENSTOCK_BYTES)
        return give_strings(instance, batch, rows, &result, value, err);
    if (result.size >= ADOPT_BYTES_MIN && !is_borrowed(model, batch, result.data))
        result.holder = hold(instance, at);
    enum err_code code = give_rows(instance, batch, rows, &result, err);
    if (result.holder != NULL)
        holder_release(result.holder, NULL);
    return code;
}

static enum err_code give_outputs(struct instance *instance, struct penstock_batch *batch,
                                  uint32_t rows, struct err *err)
{
    for (uint32_t i = 0; i < instance->outputs_count; i++) {
        const struct kept *kept = instance->kept_outputs[i];
        if (kept != NULL)
            memcpy(kept->target, kept->memory, kept->size);
        else if (!instance->is_placed[i])
            TRY(give_output(instance, batch, rows, i, err));
    }
    return OK;
}

/* -- the run ---------------------------------------------------------------------------------- */

static struct ort_status *run(struct instance *instance)
{
    const struct onnx_model *model = instance->model;

    return model->runtime->api->run(model->session->ort, instance->run, instance->input_names,
                                    (const struct ort_value *const *)instance->inputs,
                                    instance->inputs_count, instance->output_names,
                                    instance->outputs_count, instance->outputs);
}

/* Has the runtime refused the memory it was given for an output? It names which, so that only that
 * one is judged anew; if it did not, all of this run are. */
static bool is_misjudged(struct instance *instance, struct ort_status *status)
{
    struct onnx_tensor *outputs = instance->model->outputs;
    const char *text = instance->model->runtime->api->status_text(status);
    bool has_placed = false, has_named = false;
    char quoted[256];

    if (text == NULL || strstr(text, "OrtValue") == NULL || strstr(text, "shape") == NULL)
        return false;
    for (int pass = 0; pass < 2 && !has_named; pass++) {
        for (uint32_t i = 0; i < instance->outputs_count; i++) {
            struct onnx_tensor *output = &outputs[instance->output_index[i]];
            snprintf(quoted, sizeof quoted, "'%s'", output->name);
            if (!instance->is_placed[i] || (pass == 0 && strstr(text, quoted) == NULL))
                continue;
            atomic_store_explicit(&output->is_misjudged, true, memory_order_relaxed);
            has_placed = true;
            has_named = has_named || pass == 0;
        }
    }
    return has_placed;
}

static bool is_all_cancelled(const struct penstock_host *host, const struct penstock_batch *batch,
                             uint32_t rows)
{
    for (uint32_t row = 0; row < rows; row++) {
        if (!host->cancelled(batch, row))
            return false;
    }
    return true;
}

/* Takes back a hint to stop: it was about this batch before it ran, or came too late for the one
 * before. Whether this one is over is for the host to say. */
static void forget_hint(struct instance *instance)
{
    const struct onnx_runtime *runtime = instance->model->runtime;

    atomic_store_explicit(&instance->is_terminated, false, memory_order_relaxed);
    struct ort_status *status = runtime->api->run_unterminate(instance->run);
    if (status != NULL)
        runtime->api->status_release(status);
}

/* Runs what is bound, again where a guess about an output or a stray hint stopped it. */
static struct ort_status *run_bound(struct instance *instance, struct penstock_batch *batch,
                                    uint32_t rows, struct err *err)
{
    const struct onnx_runtime *runtime = instance->model->runtime;

    for (uint32_t stray = 0;;) {
        struct ort_status *status = run(instance);
        if (LIKELY(status == NULL))
            return NULL;
        if (is_misjudged(instance, status)) {
            runtime->api->status_release(status);
            drop_outputs(instance);
            if (bind_outputs(instance, batch, rows, err) != OK)
                return NULL;
        } else if (stray < STRAY_HINTS_MAX && onnx_is_terminated(runtime, status) &&
                   !is_all_cancelled(instance->model->host, batch, rows)) {
            stray++;
            runtime->api->status_release(status);
            forget_hint(instance);
        } else {
            return status;
        }
    }
}

static enum err_code run_batch(struct instance *instance, struct penstock_batch *batch,
                               uint32_t rows, struct err *err)
{
    TRY(bind_inputs(instance, batch, err));
    TRY(bind_outputs(instance, batch, rows, err));
    if (instance->outputs_count == 0)
        return OK; /* nobody wants anything: an answer without outputs */
    struct ort_status *status = run_bound(instance, batch, rows, err);
    if (LIKELY(status == NULL))
        return err->code;
    enum err_code code = failed(instance, status, err, NULL);
    enum err_code better = code == E_CANCELLED ? OK : explain_inputs(instance, batch, err);
    if (better == OK && code != E_CANCELLED)
        better = explain_symbols(instance, batch, err);
    return better != OK ? better : code;
}

void onnx_execute(void *context, struct penstock_batch *batch)
{
    struct instance *instance = context;
    const struct penstock_host *host = instance->model->host;
    uint32_t rows = host->rows(batch);
    struct err err;

    err.code = OK; /* the text is long, and rarely written */
    err.text[0] = '\0';
    if (UNLIKELY(atomic_load_explicit(&instance->is_terminated, memory_order_acquire))) {
        forget_hint(instance);
        if (is_all_cancelled(host, batch, rows)) {
            host->done(batch, E_CANCELLED, "cancelled before it ran");
            return;
        }
    }
    host->mark_compute(batch, false);
    enum err_code code = run_batch(instance, batch, rows, &err);
    host->mark_compute(batch, true);
    if (code == OK)
        code = give_outputs(instance, batch, rows, &err);
    drop_values(instance);
    strings_scratch_trim(&instance->scratch, SCRATCH_BYTES_KEPT);
    host->done(batch, (int)code, code == OK ? NULL : err.text);
}
