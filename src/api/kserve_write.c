/* kserve_write.c - a V2 inference response: JSON, and the binary tensors behind it.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The JSON is written into memory whose bound is known beforehand: a small answer into the arena,
 * a large one into a buf that is charged to the budget and cut to size. Binary tensors are not
 * touched: the answer lists where they lie.
 */
#include "api/kserve.h"
#include "base/arena.h"
#include "base/buf.h"
#include "codec/number.h"
#include "codec/tensor_json.h"
#include "model/dtype.h"

enum { ARENA_TEXT_MAX = 3072, SLACK = 64, WRITTEN_TOGETHER = 64 };

/* Bytes that an element can take as JSON, with its comma. */
static size_t element_bound(enum penstock_dtype dtype)
{
    switch (dtype) {
    case PENSTOCK_BOOL: return 6;
    case PENSTOCK_UINT8:
    case PENSTOCK_INT8: return 5;
    case PENSTOCK_UINT16:
    case PENSTOCK_INT16: return 7;
    case PENSTOCK_UINT32:
    case PENSTOCK_INT32: return 12;
    case PENSTOCK_UINT64:
    case PENSTOCK_INT64: return 21;
    default: return NUMBER_TEXT_MAX + 1;
    }
}

static size_t data_bound(const struct penstock_tensor *t, bool is_sparing)
{
    if (t->dtype == PENSTOCK_BYTES) {
        /* An element of n bytes is 4 + n here; as JSON it is n and quotes and a comma, or six
         * times n when every byte has to be escaped. */
        size_t factor = is_sparing ? 1 : 6;
        return t->size > (SIZE_MAX - 256) / factor ? SIZE_MAX / 2 : t->size * factor + 256;
    }
    /* The writer asks for the longest of numbers at once, for some elements together. */
    size_t count = t->size / dtype_size(t->dtype), roomy = MIN(count, (size_t)WRITTEN_TOGETHER);
    return roomy * (NUMBER_TEXT_MAX + 1) + (count - roomy) * element_bound(t->dtype);
}

static size_t json_bound(const struct kserve_plan *plan, const struct kserve_request *request,
                         const struct penstock_tensor *const *tensors, bool is_sparing)
{
    size_t bound =
        plan->head.size + SLACK + (request->id.size == 0 ? 0 : request->id.size * 6 + 10);

    for (uint32_t i = 0; i < request->order_count; i++) {
        uint32_t index = request->order[i];
        const struct penstock_tensor *t = tensors[i];
        if (t == NULL)
            continue;
        bound += plan->output_heads[index].size + t->rank * 21u + 80;
        if (!request->outputs[index].is_binary)
            bound += data_bound(t, is_sparing);
    }
    return bound;
}

static void put_id(struct text *out, const struct kserve_request *request)
{
    if (request->id.size == 0)
        return;
    text_put(out, "\"id\":", 5);
    text_json(out, request->id);
    text_byte(out, ',');
}

static void put_shape(struct text *out, const struct penstock_tensor *t)
{
    for (uint32_t i = 0; i < t->rank; i++) {
        if (i != 0)
            text_byte(out, ',');
        text_i64(out, t->shape[i]);
    }
    text_byte(out, ']');
}

static enum err_code put_output(struct text *out, struct slice head, bool is_binary,
                                bool is_classes, const struct penstock_tensor *t, struct err *err)
{
    static const struct tensor_json_style flat = { .nonfinite = JSON_NONFINITE_WORDS };

    if (LIKELY(!is_classes)) {
        text_slice_put(out, head);
    } else {
        text_put(out, "{\"name\":", 8);
        text_json(out, slice_of(t->name));
        text_str(out, ",\"datatype\":\"BYTES\",\"shape\":[");
    }
    put_shape(out, t);
    if (is_binary) {
        text_str(out, ",\"parameters\":{\"binary_data_size\":");
        text_u64(out, t->size);
        text_put(out, "}}", 2);
        return OK;
    }
    text_put(out, ",\"data\":", 8);
    TRY(tensor_json_write(out, t, flat, err));
    text_byte(out, '}');
    return OK;
}

static enum err_code put_all(struct text *out, const struct kserve_plan *plan,
                             const struct kserve_request *request,
                             const struct penstock_tensor *const *tensors, struct err *err)
{
    bool is_first = true;

    text_byte(out, '{');
    put_id(out, request);
    text_slice_put(out, plan->head);
    for (uint32_t i = 0; i < request->order_count; i++) {
        uint32_t index = request->order[i];
        const struct kserve_output *how = &request->outputs[index];
        if (tensors[i] == NULL)
            continue;
        if (!is_first)
            text_byte(out, ',');
        is_first = false;
        if (UNLIKELY(put_output(out, plan->output_heads[index], how->is_binary, how->classes != 0,
                                tensors[i], err) != OK))
            return err_wrap(err, "output '%s'", tensors[i]->name);
    }
    text_put(out, "]}", 2);
    return OK;
}

/* What is shown of the outputs, in the answer's order: NULL where there is none. */
static enum err_code choose(const struct penstock_tensor ***tensors, bool *ret_has_binary,
                            const struct kserve_plan *plan, const struct kserve_request *request,
                            const struct response_output *outputs, struct kserve_memory memory,
                            struct err *err)
{
    if (request->order_count > KSERVE_FEW_OUTPUTS) {
        *tensors = arena_alloc(memory.arena, request->order_count * sizeof **tensors);
        if (*tensors == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    }
    *ret_has_binary = false;
    for (uint32_t i = 0; i < request->order_count; i++) {
        uint32_t index = request->order[i];
        const struct kserve_output *how = &request->outputs[index];
        const struct penstock_tensor *t = outputs[index].is_set ? &outputs[index].tensor : NULL;
        (*tensors)[i] = t;
        if (t == NULL)
            continue;
        *ret_has_binary |= how->is_binary;
        if (UNLIKELY(how->classes != 0)) {
            struct penstock_tensor *classes = arena_alloc(memory.arena, sizeof *classes);
            if (classes == NULL)
                return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
            TRY(kserve_classify(classes, t, how->classes, plan->has_batch,
                                &plan->signature->outputs[index], memory, err));
            (*tensors)[i] = classes;
        }
    }
    return OK;
}

static enum err_code write_json(struct kserve_answer *ret, const struct kserve_plan *plan,
                                const struct kserve_request *request,
                                const struct penstock_tensor *const *tensors,
                                struct kserve_memory memory, struct err *err)
{
    size_t bound = json_bound(plan, request, tensors, true);
    struct text out;

    if (LIKELY(bound <= ARENA_TEXT_MAX)) {
        text_init_arena(&out, memory.arena, bound);
        TRY(put_all(&out, plan, request, tensors, err));
        if (text_failed(&out))
            return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
        ret->json = text_slice(&out);
        return OK;
    }
    /* Strings are given the room of plain ones first; hardly any need to be escaped throughout. */
    for (int is_sparing = 1; is_sparing >= 0; is_sparing--) {
        CLEANUP(buf_unref) struct buf *buf = NULL;
        TRY(buf_new(&buf, memory.budget, json_bound(plan, request, tensors, is_sparing), err));
        text_init_fixed(&out, buf_fill(buf), buf_bytes(buf).size);
        TRY(put_all(&out, plan, request, tensors, err));
        if (text_failed(&out))
            continue;
        buf_trim(buf, out.size);
        ret->json = buf_bytes(buf);
        ret->json_holder = TAKE(buf);
        return OK;
    }
    return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
}

static enum err_code list_binaries(struct kserve_answer *ret, const struct kserve_request *request,
                                   const struct penstock_tensor *const *tensors,
                                   struct kserve_memory memory, struct err *err)
{
    ret->binaries = arena_alloc(memory.arena, request->order_count * sizeof *ret->binaries);
    if (ret->binaries == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    for (uint32_t i = 0; i < request->order_count; i++) {
        const struct penstock_tensor *t = tensors[i];
        if (t == NULL || !request->outputs[request->order[i]].is_binary || t->size == 0)
            continue;
        ret->binaries[ret->binaries_count++] =
            (struct kserve_binary){ slice_make(t->data, t->size), t->owner };
        ret->size += t->size;
        ret->has_binary = true;
    }
    return OK;
}

enum err_code kserve_write(struct kserve_answer *ret, const struct kserve_plan *plan,
                           const struct kserve_request *request,
                           const struct response_output *outputs, struct kserve_memory memory,
                           struct err *err)
{
    const struct penstock_tensor *few[KSERVE_FEW_OUTPUTS], **tensors = few;
    struct kserve_answer answer = { .binaries = NULL };
    bool has_binary;

    TRY(choose(&tensors, &has_binary, plan, request, outputs, memory, err));
    if (UNLIKELY(has_binary))
        TRY(list_binaries(&answer, request, tensors, memory, err));
    TRY(write_json(&answer, plan, request, tensors, memory, err));
    answer.size += answer.json.size;
    *ret = answer;
    return OK;
}

/* -- events --------------------------------------------------------------------------------------- */

static size_t outputs_bound(const struct kserve_plan *plan, const struct kserve_request *request,
                            const struct slice *words, const struct response_output *outputs,
                            bool is_most)
{
    size_t bound = 0;

    for (uint32_t i = 0; i < request->order_count; i++) {
        uint32_t index = request->order[i];
        const struct penstock_tensor *t = &outputs[index].tensor;
        uint64_t classes = request->outputs[index].classes;
        if (!outputs[index].is_set)
            continue;
        bound += words[index].size + t->rank * 21u + 80;
        bound += LIKELY(classes == 0)
                     ? data_bound(t, !is_most)
                     : kserve_classes_bound(t, classes, &plan->signature->outputs[index], is_most);
    }
    return bound;
}

static size_t id_bound(const struct kserve_request *request)
{
    return SLACK + (request->id.size == 0 ? 0 : request->id.size * 6 + 10);
}

size_t kserve_event_bound(const struct kserve_plan *plan, const struct kserve_request *request,
                          const struct response_output *outputs, bool is_most)
{
    return plan->head.size + id_bound(request) +
           outputs_bound(plan, request, plan->output_heads, outputs, is_most);
}

HOT enum err_code kserve_event_write(struct text *out, const struct kserve_plan *plan,
                                     const struct kserve_request *request,
                                     const struct response_output *outputs,
                                     struct kserve_memory memory, struct err *err)
{
    const struct penstock_tensor *few[KSERVE_FEW_OUTPUTS], **tensors = few;
    bool has_binary;

    TRY(choose(&tensors, &has_binary, plan, request, outputs, memory, err));
    return put_all(out, plan, request, tensors, err);
}

size_t kserve_generate_bound(const struct kserve_plan *plan, const struct kserve_request *request,
                             const struct response_output *outputs, bool is_most)
{
    return plan->names.size + id_bound(request) +
           outputs_bound(plan, request, plan->output_keys, outputs, is_most);
}

HOT enum err_code kserve_generate_write(struct text *out, const struct kserve_plan *plan,
                                        const struct kserve_request *request,
                                        const struct response_output *outputs, struct err *err)
{
    struct tensor_json_style style = { .nonfinite = JSON_NONFINITE_WORDS };
    struct penstock_tensor only;
    uint64_t count;

    text_byte(out, '{');
    put_id(out, request);
    text_slice_put(out, plan->names);
    for (uint32_t i = 0; i < request->order_count; i++) {
        uint32_t index = request->order[i];
        const struct penstock_tensor *t = &outputs[index].tensor;
        if (!outputs[index].is_set)
            continue;
        text_slice_put(out, plan->output_keys[index]);
        /* One element is a scalar, which is what rank 0 is. */
        style.is_nested = shape_count(t->rank, t->shape, &count) && count == 1;
        if (style.is_nested && t->rank != 0) {
            only = *t;
            only.rank = 0;
            t = &only;
        }
        TRY(tensor_json_write(out, t, style, err));
    }
    text_byte(out, '}');
    return OK;
}
