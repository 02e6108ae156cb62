/* kserve_request.c - what a V2 inference request means, whether it came as JSON or as protobuf.
 * SPDX-License-Identifier: Apache-2.0 */
#include "api/kserve.h"
#include "base/arena.h"
#include "codec/bytes.h"
#include "contract/tensor_memory.h"
#include "model/dtype.h"
#include "model/nearest.h"

static COLD enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

enum err_code kserve_request_begin(struct kserve_request *ret, const struct kserve_plan *plan,
                                   struct arena *arena, struct err *err)
{
    uint32_t count = plan->signature->outputs_count;

    *ret = (struct kserve_request){ .id_text = "" };
    ret->outputs = arena_zalloc(arena, count * (sizeof *ret->outputs + sizeof(uint32_t)));
    if (ret->outputs == NULL)
        return no_memory(err);
    ret->order = (uint32_t *)(void *)(ret->outputs + count);
    return OK;
}

void kserve_request_end(struct kserve_request *request, const struct kserve_plan *plan,
                        bool is_binary)
{
    if (request->order_count != 0)
        return;
    for (uint32_t i = 0; i < plan->signature->outputs_count; i++) {
        if (UNLIKELY(plan->signature->outputs[i].is_hidden))
            continue;
        request->order[request->order_count++] = i;
        request->outputs[i].is_binary = is_binary;
    }
}

/* -- parameters --------------------------------------------------------------------------------- */

static enum err_code want_unsigned(const struct parameter *p, uint64_t *ret, struct err *err)
{
    if (p->kind == PARAMETER_INT && p->value.i >= 0)
        *ret = (uint64_t)p->value.i;
    else if (p->kind == PARAMETER_UINT)
        *ret = p->value.u;
    else
        return err_set(err, E_INVALID, "parameters: '%s' is %s; it takes a whole number, 0 or more",
                       p->key, p->text);
    return OK;
}

enum err_code kserve_parameter_bool(const struct parameter *p, bool *ret, struct err *err)
{
    if (p->kind != PARAMETER_BOOL)
        return err_set(err, E_INVALID, "parameters: '%s' is %s; it takes true or false", p->key,
                       p->text);
    *ret = p->value.b;
    return OK;
}

static COLD enum err_code no_sequences(struct err *err)
{
    return err_set(err, E_UNIMPLEMENTED,
                   "sequences are not built yet: without their state the answer would differ. "
                   "Leave out 'sequence_id', 'sequence_start' and 'sequence_end'");
}

enum err_code kserve_take_parameter(struct kserve_request *request, const struct parameter *p,
                                    bool *ret_is_custom, struct err *err)
{
    const char *key = p->key;

    *ret_is_custom = false;
    if (strcmp(key, "timeout") == 0)
        return want_unsigned(p, &request->timeout_us, err);
    if (strcmp(key, "priority") == 0)
        return want_unsigned(p, &request->priority, err);
    if (strcmp(key, "sequence_id") == 0) {
        bool is_none = p->kind == PARAMETER_STRING ? p->text[0] == '\0'
                       : p->kind == PARAMETER_UINT ? p->value.u == 0
                                                   : p->kind == PARAMETER_INT && p->value.i == 0;
        return is_none ? OK : no_sequences(err);
    }
    if (strcmp(key, "sequence_start") == 0 || strcmp(key, "sequence_end") == 0) {
        bool is_set = false;
        TRY(kserve_parameter_bool(p, &is_set, err));
        return is_set ? no_sequences(err) : OK;
    }
    if (strcmp(key, "headers") == 0)
        return err_set(err, E_INVALID, "parameter 'headers' is reserved and can not be specified");
    if (strncmp(key, "triton_", 7) == 0)
        return err_set(err, E_INVALID,
                       "parameter keys starting with 'triton_' are reserved for Triton usage and "
                       "should not be specified.");
    *ret_is_custom = true;
    return OK;
}

/* -- inputs --------------------------------------------------------------------------------------- */

static COLD enum err_code unknown_input(const struct kserve_plan *plan, struct slice name,
                                        struct err *err)
{
    const struct signature *s = plan->signature;
    struct nearest nearest = nearest_to(name);

    for (uint32_t i = 0; i < s->inputs_count; i++)
        if (!s->inputs[i].is_hidden)
            nearest_offer(&nearest, s->inputs[i].name);
    const char *best = nearest_best(&nearest);
    if (best == NULL && s->inputs_count == 1)
        best = s->inputs[0].name;
    return err_set(err, E_INVALID, "unexpected inference input '%.*s' for model '%.*s'%s%s%s",
                   SLICE_ARG(slice_first(name, 80)), SLICE_ARG(plan->model_name),
                   best != NULL ? "; it takes '" : "", best != NULL ? best : "",
                   best != NULL ? "'" : "");
}

HOT enum err_code kserve_find_input(const struct kserve_plan *plan, struct slice name,
                                    const bool *has, uint32_t *ret_index, struct err *err)
{
    uint32_t index = 0;

    while (index < plan->signature->inputs_count && !slice_eq(name, plan->inputs[index]))
        index++;
    if (UNLIKELY(index == plan->signature->inputs_count ||
                 plan->signature->inputs[index].is_hidden))
        return unknown_input(plan, name, err);
    if (UNLIKELY(has[index]))
        return err_set(err, E_INVALID, "input '%s' is given twice",
                       plan->signature->inputs[index].name);
    *ret_index = index;
    return OK;
}

enum err_code kserve_no_datatype(const struct signature_tensor *t, struct err *err)
{
    return err_set(err, E_INVALID, "input '%s' has no 'datatype'; it takes \"%s\"", t->name,
                   dtype_name(t->dtype));
}

enum err_code kserve_unknown_datatype(const char *path, struct slice name, struct err *err)
{
    return err_set(err, E_INVALID,
                   "%s: '%.*s' is not a datatype; the datatypes are BOOL, UINT8, UINT16, UINT32, "
                   "UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64 and BYTES",
                   path, SLICE_ARG(slice_first(name, 40)));
}

enum err_code kserve_wrong_datatype(const struct signature_tensor *t, enum penstock_dtype dtype,
                                    struct err *err)
{
    return err_set(err, E_INVALID, "input '%s' has datatype %s; the model takes %s", t->name,
                   dtype_name(dtype), dtype_name(t->dtype));
}

HOT enum err_code kserve_place(const void **ret, struct slice name, enum penstock_dtype dtype,
                               struct slice bytes, struct kserve_memory memory, struct err *err)
{
    size_t align = dtype == PENSTOCK_BYTES ? 1 : dtype_size(dtype);
    void *copy;

    if (dtype == PENSTOCK_BOOL && UNLIKELY(!bool_check(bytes)))
        return err_set(err, E_INVALID, "input '%.*s': a BOOL byte that is neither 0 nor 1",
                       SLICE_ARG(slice_first(name, 80)));
    *ret = bytes.data;
    if (LIKELY(((uintptr_t)bytes.data & (align - 1)) == 0))
        return OK;
    TRY(tensor_memory(&copy, memory.arena, memory.budget, bytes.size, err));
    if (bytes.size != 0)
        memcpy(copy, bytes.data, bytes.size);
    *ret = copy;
    return OK;
}

void kserve_set_input(struct kserve_inputs inputs, const struct kserve_plan *plan, uint32_t index,
                      uint32_t rank, const int64_t *shape, enum penstock_dtype dtype,
                      struct slice bytes)
{
    struct penstock_tensor *tensor = &inputs.tensors[index];

    tensor->name = plan->signature->inputs[index].name;
    tensor->dtype = dtype;
    tensor->rank = rank;
    if (rank != 0)
        memcpy(tensor->shape, shape, rank * sizeof shape[0]);
    tensor->data = bytes.data;
    tensor->size = bytes.size;
    tensor->place = (struct penstock_place){ PENSTOCK_CPU, 0 };
    tensor->owner = NULL;
    inputs.has[index] = true;
}

/* -- requested outputs ---------------------------------------------------------------------------- */

static COLD enum err_code unknown_output(const struct kserve_plan *plan, struct slice name,
                                         struct err *err)
{
    const struct signature *s = plan->signature;
    struct nearest nearest = nearest_to(name);

    for (uint32_t i = 0; i < s->outputs_count; i++)
        if (!s->outputs[i].is_hidden)
            nearest_offer(&nearest, s->outputs[i].name);
    const char *best = nearest_best(&nearest);
    return err_set(err, E_INVALID, "unexpected inference output '%.*s' for model '%.*s'%s%s%s",
                   SLICE_ARG(slice_first(name, 80)), SLICE_ARG(plan->model_name),
                   best != NULL ? "; it gives '" : "", best != NULL ? best : "",
                   best != NULL ? "'" : "");
}

enum err_code kserve_find_output(const struct kserve_plan *plan, struct slice name,
                                 uint32_t *ret_index, struct err *err)
{
    if (UNLIKELY(signature_output(plan->signature, name, ret_index) == NULL))
        return unknown_output(plan, name, err);
    return OK;
}

enum err_code kserve_want_output(struct kserve_request *request, const struct kserve_plan *plan,
                                 uint32_t index, bool is_binary, uint64_t classes, struct err *err)
{
    struct kserve_output *output = &request->outputs[index];

    if (output->is_listed)
        return err_set(err, E_INVALID, "output '%s' is requested twice",
                       plan->signature->outputs[index].name);
    output->is_listed = true;
    output->is_binary = is_binary;
    output->classes = classes;
    request->has_classes |= classes != 0;
    request->order[request->order_count++] = index;
    return OK;
}

void kserve_fill(struct request *request, const struct kserve_request *from,
                 const struct kserve_plan *plan)
{
    request->id = from->id_text;
    request->parameters = from->parameters;
    request->timeout_us = from->timeout_us;
    request->priority = from->priority;
    for (uint32_t i = 0; i < plan->signature->outputs_count; i++)
        request->wants[i] = false;
    for (uint32_t i = 0; i < from->order_count; i++)
        request->wants[from->order[i]] = true;
}
