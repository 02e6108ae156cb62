/* kserve_pb.c - reads inference.ModelInferRequest. SPDX-License-Identifier: Apache-2.0
 *
 * The request's own fields are walked twice: once to count the lists, so that they are one piece of
 * the arena, once to fill them. Lists inside (parameters) are counted from their first entry on, so
 * that a message without any is walked once. A walk does not look into what it steps over, so all of
 * them together read no byte of a tensor.
 *
 * protobuf lets any field come any number of times: the last number or string stands, a message is
 * the sum of its parts, and so is a map entry's value. Only `contents` is kept as bytes, and there the
 * sum is what protobuf says it is: the parts one behind the other.
 */
#include "codec/kserve_pb.h"

#include "base/arena.h"
#include "codec/infer_pb.h"

static const struct infer_pb_kinds kinds = {
    { [1] = KSERVE_PB_BOOL, KSERVE_PB_INT64, KSERVE_PB_STRING, KSERVE_PB_DOUBLE, KSERVE_PB_UINT64 }
};

/* -- parameters --------------------------------------------------------------------------------- */

static enum err_code take_parameter(const struct infer_pb *d, const struct pb_reader *r,
                                    const struct pb_field *field,
                                    struct kserve_pb_parameters *params)
{
    return infer_pb_parameter(d, r, field, &kinds, KSERVE_PB_PARAMETERS_MAX, params);
}

/* Keys by length and then bytes; of equal ones the later is the larger. */
static bool is_less(const struct kserve_pb_parameter *a, const struct kserve_pb_parameter *b)
{
    if (a->key.size != b->key.size)
        return a->key.size < b->key.size;
    int order = a->key.size == 0 ? 0 : memcmp(a->key.data, b->key.data, a->key.size);
    return order != 0 ? order < 0 : a < b;
}

/* A heap, as it needs no memory of its own: many keys are somebody's attack, not a use. */
static void sift_down(struct kserve_pb_parameter **heap, uint32_t at, uint32_t count)
{
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_less(heap[child], heap[child + 1]))
            child++;
        if (!is_less(heap[at], heap[child]))
            return;
        struct kserve_pb_parameter *down = heap[at];
        heap[at] = heap[child];
        heap[child] = down;
    }
}

static void sort(struct kserve_pb_parameter **items, uint32_t count)
{
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(items, i, count);
    for (uint32_t end = count; end-- > 1;) {
        struct kserve_pb_parameter *largest = items[0];
        items[0] = items[end];
        items[end] = largest;
        sift_down(items, 0, end);
    }
}

/* Leaves each key once, with what came last. */
static enum err_code last_wins(const struct infer_pb *d, struct kserve_pb_parameters *params)
{
    enum { FEW = 12 };
    struct kserve_pb_parameter *items = params->items;
    uint32_t count = params->count, kept = 0;
    bool gone[KSERVE_PB_PARAMETERS_MAX];

    if (LIKELY(count < 2))
        return OK;
    memset(gone, 0, count * sizeof gone[0]);
    if (count <= FEW) {
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t j = i + 1; j < count && !gone[i]; j++)
                gone[i] = slice_eq(items[i].key, items[j].key);
    } else {
        struct kserve_pb_parameter **sorted = arena_alloc(d->arena, count * sizeof *sorted);
        if (UNLIKELY(sorted == NULL))
            return infer_pb_no_memory(d, count * sizeof *sorted);
        for (uint32_t i = 0; i < count; i++)
            sorted[i] = &items[i];
        sort(sorted, count);
        for (uint32_t i = 0; i + 1 < count; i++)
            if (slice_eq(sorted[i]->key, sorted[i + 1]->key))
                gone[sorted[i] - items] = true;
    }
    for (uint32_t i = 0; i < count; i++)
        if (!gone[i])
            items[kept++] = items[i];
    params->count = kept;
    return OK;
}

/* -- inputs and outputs ------------------------------------------------------------------------- */

/* `contents` in parts: `field` is the second, and `r` knows of more. */
static COLD enum err_code join_contents(const struct infer_pb *d, struct pb_reader r,
                                        struct pb_field field, struct slice *contents)
{
    struct pb_reader rest = r;
    struct pb_field next;
    size_t size = contents->size + field.bytes.size, at = contents->size;

    while (pb_next(&rest, &next))
        size += next.number == 5 && next.wire == PB_LEN ? next.bytes.size : 0;
    TRY(infer_pb_whole(d, *contents, "contents"));
    uint8_t *joined = arena_alloc(d->arena, MAX(size, 1));
    if (joined == NULL)
        return infer_pb_no_memory(d, size);
    if (contents->size != 0)
        memcpy(joined, contents->data, contents->size);
    do {
        if (field.number != 5 || field.wire != PB_LEN)
            continue; /* whoever called looks at it in its turn */
        TRY(infer_pb_whole(d, field.bytes, "contents"));
        if (field.bytes.size != 0)
            memcpy(joined + at, field.bytes.data, field.bytes.size);
        at += field.bytes.size;
    } while (pb_next(&r, &field));
    *contents = slice_make(joined, size);
    return OK;
}

static HOT enum err_code take_input(struct infer_pb *d, struct slice bytes,
                                    struct kserve_pb_input *input)
{
    struct pb_reader r;
    struct pb_field field;
    bool is_joined = false;

    input->name = input->datatype = input->contents = (struct slice){ NULL, 0 };
    input->rank = 0;
    input->parameters = (struct kserve_pb_parameters){ NULL, 0 };
    input->has_contents = false;
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(infer_pb_string(d, &field, "name", &input->name)); break;
        case 2: TRY(infer_pb_string(d, &field, "datatype", &input->datatype)); break;
        case 3: TRY(infer_pb_shape(d, &field, input->shape, &input->rank)); break;
        case 4: TRY(take_parameter(d, &r, &field, &input->parameters)); break;
        case 5:
            TRY(infer_pb_part(d, &field, "contents"));
            if (LIKELY(!input->has_contents)) {
                input->contents = field.bytes;
            } else if (!is_joined) {
                TRY(join_contents(d, r, field, &input->contents));
                is_joined = true;
            }
            input->has_contents = true;
            break;
        default: break;
        }
    }
    if (UNLIKELY(pb_failed(&r)))
        return infer_pb_broken(d, &r, "");
    return last_wins(d, &input->parameters);
}

static enum err_code take_output(struct infer_pb *d, struct slice bytes,
                                 struct kserve_pb_output *output)
{
    struct pb_reader r;
    struct pb_field field;

    *output = (struct kserve_pb_output){ .name = { NULL, 0 } };
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number == 1)
            TRY(infer_pb_string(d, &field, "name", &output->name));
        else if (field.number == 2)
            TRY(take_parameter(d, &r, &field, &output->parameters));
    }
    if (UNLIKELY(pb_failed(&r)))
        return infer_pb_broken(d, &r, "");
    return last_wins(d, &output->parameters);
}

/* -- the request -------------------------------------------------------------------------------- */

/* Room for the lists, in one piece. */
static enum err_code make_lists(const struct infer_pb *d, struct kserve_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;
    uint32_t counts[8] = { 0 };

    pb_begin(&r, d->message);
    while (pb_next(&r, &field))
        if (LIKELY(field.number < COUNT(counts)))
            counts[field.number] += field.wire == PB_LEN;
    if (UNLIKELY(pb_failed(&r)))
        return infer_pb_broken(d, &r, "");
    if (UNLIKELY(counts[5] > KSERVE_PB_INPUTS_MAX))
        return infer_pb_too_many(d, "inputs", counts[5], KSERVE_PB_INPUTS_MAX);
    if (UNLIKELY(counts[6] > KSERVE_PB_INPUTS_MAX))
        return infer_pb_too_many(d, "outputs", counts[6], KSERVE_PB_INPUTS_MAX);
    if (UNLIKELY(counts[7] > KSERVE_PB_INPUTS_MAX))
        return infer_pb_too_many(d, "raw_input_contents", counts[7], KSERVE_PB_INPUTS_MAX);

    size_t size = counts[5] * sizeof *request->inputs + counts[6] * sizeof *request->outputs +
                  counts[7] * sizeof *request->raw;
    if (size == 0)
        return OK;
    uint8_t *piece = arena_alloc(d->arena, size);
    if (UNLIKELY(piece == NULL))
        return infer_pb_no_memory(d, size);
    request->inputs = (struct kserve_pb_input *)(void *)piece;
    piece += counts[5] * sizeof *request->inputs;
    request->outputs = (struct kserve_pb_output *)(void *)piece;
    piece += counts[6] * sizeof *request->outputs;
    request->raw = (struct slice *)(void *)piece;
    return OK;
}

HOT enum err_code kserve_pb_decode(struct kserve_pb_request *ret, struct slice bytes,
                                   struct arena *arena, const char **ret_field, struct err *err)
{
    struct infer_pb d = { bytes, arena, ret_field, err, "ModelInferRequest", "", NULL, 0 };
    struct kserve_pb_request request = { .inputs = NULL };
    struct pb_reader r;
    struct pb_field field;

    if (ret_field != NULL)
        *ret_field = NULL;
    TRY(make_lists(&d, &request));
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(infer_pb_string(&d, &field, "model_name", &request.model_name)); break;
        case 2: TRY(infer_pb_string(&d, &field, "model_version", &request.model_version)); break;
        case 3: TRY(infer_pb_string(&d, &field, "id", &request.id)); break;
        case 4: TRY(take_parameter(&d, &r, &field, &request.parameters)); break;
        case 5:
            TRY(infer_pb_part(&d, &field, "inputs"));
            d.list = "inputs";
            d.index = request.inputs_count++;
            TRY(take_input(&d, field.bytes, &request.inputs[d.index]));
            d.list = NULL;
            break;
        case 6:
            TRY(infer_pb_part(&d, &field, "outputs"));
            d.list = "outputs";
            d.index = request.outputs_count++;
            TRY(take_output(&d, field.bytes, &request.outputs[d.index]));
            d.list = NULL;
            break;
        case 7:
            TRY(infer_pb_part(&d, &field, "raw_input_contents"));
            request.raw[request.raw_count++] = field.bytes;
            break;
        default: break;
        }
    }
    TRY(last_wins(&d, &request.parameters));
    *ret = request;
    return OK;
}
