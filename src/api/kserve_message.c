/* kserve_message.c - a V2 inference request and its answer as protobuf (ModelInferRequest and
 * ModelInferResponse), joined to a model's plan. SPDX-License-Identifier: Apache-2.0
 *
 * codec/kserve_pb.h has taken the message apart; here its views become the engine's inputs. A tensor
 * in raw_input_contents is used where it lies in the message when it is aligned for its dtype.
 * Where the data of an input is, and what is refused, is Triton's (its infer_handler.cc): all inputs
 * in raw_input_contents, in order, or none.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "api/kserve.h"
#include "base/arena.h"
#include "base/buf.h"
#include "codec/bytes.h"
#include "codec/kserve_pb.h"
#include "model/dtype.h"

/* Outputs up to this size are copied behind the heads: a piece of its own costs more. */
enum { COPY_MAX = 1024, FEW = 8 };

struct reader {
    struct kserve_request *request;
    struct kserve_inputs inputs;
    const struct kserve_plan *plan;
    const struct kserve_pb_request *pb;
    struct kserve_memory memory;
    uint32_t raw_taken;
    const char **ret_field;
};

static COLD enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

/* Fails with what err says, about that field. */
static COLD PRINTF_LIKE(3, 4) enum err_code
    at_field(struct reader *r, const struct err *err, const char *format, ...)
{
    char path[160];
    va_list args;

    va_start(args, format);
    int size = vsnprintf(path, sizeof path, format, args);
    va_end(args);
    *r->ret_field =
        arena_strndup(r->memory.arena, path, MIN((size_t)MAX(size, 0), sizeof path - 1));
    return err->code;
}

/* -- parameters --------------------------------------------------------------------------------- */

static const char triton_choices[] =
    "bool_param, int64_param, string_param, double_param and uint64_param";

enum err_code kserve_parameter_read(struct parameter *ret, const struct kserve_pb_parameter *from,
                                    const char *choices, struct arena *arena, struct err *err)
{
    ret->key = arena_strndup(arena, from->key.data, from->key.size);
    if (ret->key == NULL)
        return no_memory(err);
    if (strlen(ret->key) != from->key.size)
        return err_set(err, E_INVALID, "parameters: a key holds a NUL byte");
    switch (from->kind) {
    case KSERVE_PB_BOOL:
        ret->kind = PARAMETER_BOOL;
        ret->value.b = from->value.b;
        ret->text = from->value.b ? "true" : "false";
        break;
    case KSERVE_PB_INT64:
        ret->kind = PARAMETER_INT;
        ret->value.i = from->value.i;
        ret->text = arena_printf(arena, "%" PRId64, from->value.i);
        break;
    case KSERVE_PB_UINT64:
        ret->kind = PARAMETER_UINT;
        ret->value.u = from->value.u;
        ret->text = arena_printf(arena, "%" PRIu64, from->value.u);
        break;
    case KSERVE_PB_DOUBLE:
        ret->kind = PARAMETER_DOUBLE;
        ret->value.d = from->value.d;
        ret->text = arena_printf(arena, "%.17g", from->value.d);
        break;
    case KSERVE_PB_STRING:
        ret->kind = PARAMETER_STRING;
        ret->text = arena_strndup(arena, from->text.data, from->text.size);
        break;
    case KSERVE_PB_NONE:
        return err_set(err, E_INVALID,
                       "parameters: '%s' has no value; it takes one of %s", ret->key, choices);
    }
    if (ret->text == NULL)
        return no_memory(err);
    if (ret->kind == PARAMETER_STRING && strlen(ret->text) != from->text.size)
        return err_set(err, E_INVALID, "parameters: '%s' holds a NUL byte", ret->key);
    return OK;
}

#define KIND(kind) (1u << PARAMETER_##kind)

/* The kinds that Triton takes for its own keys, in its words. */
static enum err_code check_kind(const struct parameter *p, struct err *err)
{
    static const struct {
        const char *key, *expected;
        unsigned kinds;
    } reserved[] = {
        { "sequence_id", "int64_param, uint64_param or string_param",
          KIND(INT) | KIND(UINT) | KIND(STRING) },
        { "sequence_start", "bool_param", KIND(BOOL) },
        { "sequence_end", "bool_param", KIND(BOOL) },
        { "priority", "int64_param or uint64_param", KIND(INT) | KIND(UINT) },
        { "timeout", "int64_param", KIND(INT) },
        { "triton_enable_empty_final_response", "bool_param", KIND(BOOL) },
    };

    for (size_t i = 0; i < COUNT(reserved); i++)
        if (strcmp(p->key, reserved[i].key) == 0 && (reserved[i].kinds & 1u << p->kind) == 0)
            return err_set(err, E_INVALID, "invalid value type for '%s' parameter, expected %s.",
                           p->key, reserved[i].expected);
    return OK;
}

static enum err_code read_parameters(struct reader *r, struct err *err)
{
    const struct kserve_pb_parameters *parameters = &r->pb->parameters;

    if (parameters->count > KSERVE_PARAMETERS_MAX)
        return err_set(err, E_INVALID, "parameters: more than %d of them", KSERVE_PARAMETERS_MAX);
    for (uint32_t i = 0; i < parameters->count; i++) {
        struct parameter *p = arena_zalloc(r->memory.arena, sizeof *p);
        bool is_custom = false;
        if (p == NULL)
            return no_memory(err);
        if (kserve_parameter_read(p, &parameters->items[i], triton_choices, r->memory.arena,
                                  err) != OK ||
            check_kind(p, err) != OK)
            return at_field(r, err, "parameters.%.80s", p->key != NULL ? p->key : "");
        /* It asks for what streams send; one answer has nothing behind it. */
        if (strcmp(p->key, "triton_enable_empty_final_response") == 0)
            continue;
        if (kserve_take_parameter(r->request, p, &is_custom, err) != OK)
            return at_field(r, err, "parameters.%.80s", p->key);
        if (is_custom) {
            p->next = r->request->parameters;
            r->request->parameters = p;
        }
    }
    return OK;
}

static COLD enum err_code no_shared_memory(const char *list, uint32_t at, struct err *err)
{
    return err_set(err, E_UNIMPLEMENTED,
                   "%s[%u]: client shared memory is not offered by this server; send tensors in "
                   "raw_input_contents, they come back in raw_output_contents",
                   list, at);
}

/* -- inputs --------------------------------------------------------------------------------------- */

static enum err_code check_shape(const struct kserve_pb_input *in, uint32_t at, uint64_t *ret_count,
                                 struct err *err)
{
    for (uint32_t i = 0; i < in->rank; i++)
        if (UNLIKELY(in->shape[i] < 0))
            return err_set(err, E_INVALID,
                           "inputs[%u].shape: dimension %u is %" PRId64 "; it must be 0 or more",
                           at, i, in->shape[i]);
    if (UNLIKELY(!shape_count(in->rank, in->shape, ret_count)))
        return err_set(err, E_INVALID, "inputs[%u].shape: too many elements", at);
    return OK;
}

static enum err_code read_contents(struct reader *r, const struct kserve_pb_input *in,
                                   enum penstock_dtype dtype, uint64_t count, const char *name,
                                   struct slice *ret, struct err *err)
{
    CLEANUP(buf_unref) struct buf *holder = NULL;

    if (UNLIKELY(r->pb->raw_count != 0))
        return err_set(err, E_INVALID,
                       "contents field must not be specified when using raw_input_contents for "
                       "'%s' for model '%.*s'",
                       name, SLICE_ARG(r->plan->model_name));
    TRY(kserve_pb_contents(in->contents, dtype, count, name, r->memory.arena, r->memory.budget, ret,
                           &holder, err));
    if (holder != NULL && !arena_adopt(r->memory.arena, &holder))
        return no_memory(err);
    return OK;
}

static HOT enum err_code read_data(struct reader *r, const struct kserve_pb_input *in,
                                   enum penstock_dtype dtype, uint64_t count, const char *name,
                                   struct slice *ret, struct err *err)
{
    const void *data;

    if (in->has_contents)
        return read_contents(r, in, dtype, count, name, ret, err);
    if (UNLIKELY(r->raw_taken == r->pb->raw_count))
        return err_set(err, E_INVALID,
                       "unable to find data for input tensor '%s' for model '%.*s' in request.",
                       name, SLICE_ARG(r->plan->model_name));
    struct slice bytes = r->pb->raw[r->raw_taken++];
    TRY(kserve_place(&data, in->name, dtype, bytes, r->memory, err));
    *ret = slice_make(data, bytes.size);
    return OK;
}

static HOT enum err_code read_input(struct reader *r, uint32_t at, struct err *err)
{
    const struct kserve_pb_input *in = &r->pb->inputs[at];
    const struct signature_tensor *t;
    uint32_t index, raw_at = r->raw_taken;
    uint64_t count;
    struct slice bytes;

    if (UNLIKELY(kserve_find_input(r->plan, in->name, r->inputs.has, &index, err) != OK))
        return at_field(r, err, "inputs[%u].name", at);
    t = &r->plan->signature->inputs[index];
    for (uint32_t i = 0; i < in->parameters.count; i++) {
        /* Others (content_type of MLServer's clients ...) do not concern us. */
        if (!slice_starts(in->parameters.items[i].key, "shared_memory_"))
            continue;
        no_shared_memory("inputs", at, err);
        return at_field(r, err, "inputs[%u].parameters", at);
    }
    enum penstock_dtype dtype = dtype_from_name(in->datatype);
    if (UNLIKELY(dtype != t->dtype)) {
        char path[48];
        snprintf(path, sizeof path, "inputs[%u].datatype", at);
        if (in->datatype.size == 0)
            kserve_no_datatype(t, err);
        else if (dtype == PENSTOCK_INVALID)
            kserve_unknown_datatype(path, in->datatype, err);
        else
            kserve_wrong_datatype(t, dtype, err);
        return at_field(r, err, "%s", path);
    }
    if (UNLIKELY(check_shape(in, at, &count, err) != OK))
        return at_field(r, err, "inputs[%u].shape", at);
    if (UNLIKELY(read_data(r, in, dtype, count, t->name, &bytes, err) != OK)) {
        if (raw_at != r->raw_taken)
            return at_field(r, err, "raw_input_contents[%u]", raw_at);
        return at_field(r, err, "inputs[%u].contents", at);
    }
    kserve_set_input(r->inputs, r->plan, index, in->rank, in->shape, dtype, bytes);
    return OK;
}

/* -- requested outputs ---------------------------------------------------------------------------- */

static enum err_code read_output_parameters(const struct kserve_pb_output *out, uint32_t at,
                                            uint64_t *ret_classes, struct err *err)
{
    *ret_classes = 0;
    for (uint32_t i = 0; i < out->parameters.count; i++) {
        const struct kserve_pb_parameter *p = &out->parameters.items[i];
        if (slice_starts(p->key, "shared_memory_"))
            return no_shared_memory("outputs", at, err);
        if (!slice_is(p->key, "classification"))
            continue; /* binary_data of KServe's clients: all is binary here */
        if (p->kind != KSERVE_PB_INT64)
            return err_set(err, E_INVALID,
                           "invalid value type for 'classification' parameter, expected "
                           "int64_param.");
        if (p->value.i < 0)
            return err_set(err, E_INVALID,
                           "outputs[%u].parameters: 'classification' is %" PRId64
                           "; it takes how many classes to give",
                           at, p->value.i);
        *ret_classes = (uint64_t)p->value.i;
    }
    return OK;
}

static enum err_code read_output(struct reader *r, uint32_t at, struct err *err)
{
    const struct kserve_pb_output *out = &r->pb->outputs[at];
    uint32_t index;
    uint64_t classes;

    if (UNLIKELY(kserve_find_output(r->plan, out->name, &index, err) != OK))
        return at_field(r, err, "outputs[%u].name", at);
    if (UNLIKELY(read_output_parameters(out, at, &classes, err) != OK))
        return at_field(r, err, "outputs[%u].parameters", at);
    if (UNLIKELY(kserve_want_output(r->request, r->plan, index, true, classes, err) != OK))
        return at_field(r, err, "outputs[%u].name", at);
    return OK;
}

/* -- the whole ------------------------------------------------------------------------------------ */

static enum err_code read_id(struct reader *r, struct err *err)
{
    struct kserve_request *request = r->request;

    request->id = r->pb->id;
    if (request->id.size == 0)
        return OK;
    request->id_text = arena_strndup(r->memory.arena, request->id.data, request->id.size);
    return request->id_text == NULL ? no_memory(err) : OK;
}

HOT enum err_code kserve_read_pb(struct kserve_request *ret, struct kserve_inputs inputs,
                                 const struct kserve_plan *plan, const struct kserve_pb_request *pb,
                                 struct kserve_memory memory, const char **ret_field,
                                 struct err *err)
{
    struct reader r = { .request = ret,
                        .inputs = inputs,
                        .plan = plan,
                        .pb = pb,
                        .memory = memory,
                        .ret_field = ret_field };

    *ret_field = NULL;
    TRY(kserve_request_begin(ret, plan, memory.arena, err));
    TRY(read_id(&r, err));
    if (UNLIKELY(pb->parameters.count != 0))
        TRY(read_parameters(&r, err));
    for (uint32_t i = 0; i < pb->outputs_count; i++)
        TRY(read_output(&r, i, err));
    for (uint32_t i = 0; i < pb->inputs_count; i++)
        TRY(read_input(&r, i, err));
    if (UNLIKELY(r.raw_taken != pb->raw_count)) {
        err_set(err, E_INVALID,
                "unexpected additional input data for model '%.*s': raw_input_contents has %u "
                "entries, the request has %u inputs",
                SLICE_ARG(plan->model_name), pb->raw_count, pb->inputs_count);
        return at_field(&r, err, "raw_input_contents[%u]", r.raw_taken);
    }
    kserve_request_end(ret, plan, true);
    return OK;
}

const char *kserve_pb_field(const struct kserve_inputs inputs, const struct kserve_plan *plan,
                            const struct kserve_pb_request *pb, struct arena *arena)
{
    for (uint32_t at = 0; at < pb->inputs_count; at++) {
        struct err err = { 0 };
        uint32_t index;
        uint64_t count;
        if (signature_input(plan->signature, pb->inputs[at].name, &index) == NULL ||
            !inputs.has[index])
            continue;
        const struct penstock_tensor *t = &inputs.tensors[index];
        if (signature_check_shape(&plan->signature->inputs[index], t->rank, t->shape, &err) != OK ||
            !shape_count(t->rank, t->shape, &count))
            return arena_printf(arena, "inputs[%u].shape", at);
        if (pb->raw_count == 0 ||
            (t->dtype != PENSTOCK_BYTES && t->size == count * dtype_size(t->dtype)))
            continue;
        if (t->dtype != PENSTOCK_BYTES ||
            bytes_check(slice_make(t->data, t->size), count, t->name, &err) != OK)
            return arena_printf(arena, "raw_input_contents[%u]", at);
    }
    return NULL;
}

/* -- the answer ----------------------------------------------------------------------------------- */

HOT enum err_code kserve_write_pb(struct kserve_pb_piece **ret, uint32_t *ret_count,
                                  const struct kserve_plan *plan,
                                  const struct kserve_request *request,
                                  const struct response_output *outputs,
                                  struct kserve_memory memory, struct err *err)
{
    struct kserve_pb_result few[FEW], *results = few;
    struct kserve_pb_response response = { .model_name = plan->model_name,
                                           .model_version = plan->model_version,
                                           .id = request->id };

    if (request->order_count > FEW) {
        results = arena_alloc(memory.arena, request->order_count * sizeof *results);
        if (results == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    }
    for (uint32_t i = 0; i < request->order_count; i++) {
        uint32_t index = request->order[i];
        const struct penstock_tensor *t = &outputs[index].tensor;
        if (!outputs[index].is_set)
            continue;
        if (UNLIKELY(request->outputs[index].classes != 0)) {
            struct penstock_tensor *classes = arena_alloc(memory.arena, sizeof *classes);
            if (classes == NULL)
                return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
            TRY(kserve_classify(classes, t, request->outputs[index].classes, plan->has_batch,
                                &plan->signature->outputs[index], memory, err));
            t = classes;
        }
        if (UNLIKELY(t->place.kind != PENSTOCK_CPU))
            return err_set(err, E_INTERNAL, "output '%s' lies on a device", t->name);
        results[response.results_count++] =
            (struct kserve_pb_result){ .name = plan->outputs[index],
                                       .dtype = t->dtype,
                                       .rank = t->rank,
                                       .shape = t->shape,
                                       .bytes = slice_make(t->data, t->size),
                                       .holder = t->owner };
    }
    response.results = results;
    return kserve_pb_encode(&response, COPY_MAX, memory.arena, ret, ret_count, err);
}
