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
#include "base/utf8.h"
#include "codec/pb.h"

struct decoder {
    struct slice message;
    struct arena *arena;
    const char **ret_field;
    struct err *err;
    const char *list; /* "inputs", "outputs" while inside one of these; else NULL */
    uint32_t index;
};

/* -- what was wrong, and where ------------------------------------------------------------------ */

/* "inputs[2].shape", in the arena; NULL when that has no room. */
static COLD const char *path(const struct decoder *d, const char *leaf)
{
    if (d->list == NULL)
        return leaf;
    if (leaf[0] == '\0')
        return arena_printf(d->arena, "%s[%u]", d->list, d->index);
    return arena_printf(d->arena, "%s[%u].%s", d->list, d->index, leaf);
}

/* Says where; the sentence is there already. */
static COLD enum err_code at_field(const struct decoder *d, const char *leaf)
{
    const char *field = path(d, leaf);

    if (d->ret_field != NULL)
        *d->ret_field = field;
    err_wrap(d->err, "%s", field != NULL ? field : leaf);
    return E_INVALID;
}

static COLD enum err_code broken(const struct decoder *d, const struct pb_reader *r,
                                 const char *leaf)
{
    size_t at = (size_t)(r->at - d->message.data);

    if (leaf[0] != '\0' || d->list != NULL) {
        err_set(d->err, E_INVALID,
                "%s at byte %zu of the request's %zu; it is no valid protobuf message", r->fault,
                at, d->message.size);
        return at_field(d, leaf);
    }
    return err_set(d->err, E_INVALID,
                   "the request is no valid ModelInferRequest: %s at byte %zu of its %zu", r->fault,
                   at, d->message.size);
}

static COLD enum err_code wrong_wire(const struct decoder *d, const char *leaf,
                                     const struct pb_field *field, enum pb_wire expected)
{
    static const char *const kinds[] = { "a varint", "8 bytes",       "a string or message",
                                         "a group",  "a group's end", "4 bytes" };

    err_set(d->err, E_INVALID,
            "field %u comes as %s (wire type %u), expected %s (wire type %u); was the message "
            "made with another .proto?",
            field->number, kinds[field->wire], (unsigned)field->wire, kinds[expected],
            (unsigned)expected);
    return at_field(d, leaf);
}

static COLD enum err_code too_many(const struct decoder *d, const char *leaf, uint64_t count,
                                   uint64_t count_max)
{
    err_set(d->err, E_INVALID, "there are %llu of them, the most is %llu",
            (unsigned long long)count, (unsigned long long)count_max);
    return at_field(d, leaf);
}

static COLD enum err_code no_memory(const struct decoder *d, size_t size)
{
    return err_set(d->err, E_EXHAUSTED,
                   "no memory for the %zu bytes that reading the request takes; retry later", size);
}

/* -- fields of one kind ------------------------------------------------------------------------- */

/* proto3 strings are UTF-8; nearly all of ours are ASCII and shorter than 16 bytes. */
static inline bool is_ascii(struct slice s)
{
    const uint64_t high = UINT64_C(0x8080808080808080);
    uint64_t a = 0, b = 0;

    if (s.size >= 8) {
        for (size_t at = 0; at + 8 < s.size; at += 8) {
            memcpy(&b, s.data + at, 8);
            a |= b;
        }
        memcpy(&b, s.data + s.size - 8, 8);
    } else if (s.size >= 4) {
        memcpy(&a, s.data, 4);
        memcpy(&b, s.data + s.size - 4, 4);
    } else {
        for (size_t at = 0; at < s.size; at++)
            a |= s.data[at];
    }
    return ((a | b) & high) == 0;
}

static COLD enum err_code not_utf8(const struct decoder *d, const char *leaf, struct slice text)
{
    size_t at = utf8_valid_prefix(text);

    err_set(d->err, E_INVALID, "it is not UTF-8 from its byte %zu on (0x%02x), as strings must be",
            at, text.data[at]);
    return at_field(d, leaf);
}

static inline enum err_code take_string(const struct decoder *d, const struct pb_field *field,
                                        const char *leaf, struct slice *ret)
{
    if (UNLIKELY(field->wire != PB_LEN))
        return wrong_wire(d, leaf, field, PB_LEN);
    if (UNLIKELY(!is_ascii(field->bytes)) && utf8_valid_prefix(field->bytes) != field->bytes.size)
        return not_utf8(d, leaf, field->bytes);
    *ret = field->bytes;
    return OK;
}

/* How many fields of that number follow, this one included: at most what is left of the message. */
static uint32_t count_rest(struct pb_reader r, uint32_t number)
{
    struct pb_field field;
    uint32_t count = 1;

    while (pb_next(&r, &field))
        count += field.number == number && field.wire == PB_LEN;
    return count;
}

/* -- parameters --------------------------------------------------------------------------------- */

static COLD enum err_code in_parameter(const struct decoder *d, const char *leaf,
                                       const struct pb_reader *r, const struct pb_field *field,
                                       enum pb_wire expected)
{
    return r != NULL ? broken(d, r, leaf) : wrong_wire(d, leaf, field, expected);
}

/* InferParameter: adds to what is there, as the value of an entry may come in parts. */
static enum err_code take_value(const struct decoder *d, struct slice bytes,
                                struct kserve_pb_parameter *p)
{
    static const char leaf[] = "parameters.value";
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        enum pb_wire expected = PB_VARINT;
        switch (field.number) {
        case 1: p->kind = KSERVE_PB_BOOL, p->value.b = field.value != 0; break;
        case 2: p->kind = KSERVE_PB_INT64, p->value.i = (int64_t)field.value; break;
        case 3:
            TRY(take_string(d, &field, leaf, &p->text));
            p->kind = KSERVE_PB_STRING;
            continue;
        case 4:
            p->kind = KSERVE_PB_DOUBLE;
            memcpy(&p->value.d, &field.value, sizeof p->value.d);
            expected = PB_I64;
            break;
        case 5: p->kind = KSERVE_PB_UINT64, p->value.u = field.value; break;
        default: continue;
        }
        if (UNLIKELY(field.wire != expected))
            return in_parameter(d, leaf, NULL, &field, expected);
    }
    return UNLIKELY(pb_failed(&r)) ? in_parameter(d, leaf, &r, NULL, PB_LEN) : OK;
}

/* A map's entry is a message of a key and a value, either of which may be missing. */
static enum err_code take_entry(const struct decoder *d, struct slice bytes,
                                struct kserve_pb_parameter *p)
{
    static const char key[] = "parameters.key", value[] = "parameters.value";
    struct pb_reader r;
    struct pb_field field;

    *p = (struct kserve_pb_parameter){ .kind = KSERVE_PB_NONE };
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number == 1) {
            TRY(take_string(d, &field, key, &p->key));
        } else if (field.number == 2) {
            if (UNLIKELY(field.wire != PB_LEN))
                return wrong_wire(d, value, &field, PB_LEN);
            TRY(take_value(d, field.bytes, p));
        }
    }
    return UNLIKELY(pb_failed(&r)) ? broken(d, &r, "parameters") : OK;
}

static enum err_code take_parameter(const struct decoder *d, const struct pb_reader *r,
                                    const struct pb_field *field,
                                    struct kserve_pb_parameters *params)
{
    if (UNLIKELY(field->wire != PB_LEN))
        return wrong_wire(d, "parameters", field, PB_LEN);
    if (params->items == NULL) {
        uint32_t count = count_rest(*r, field->number);
        if (UNLIKELY(count > KSERVE_PB_PARAMETERS_MAX))
            return too_many(d, "parameters", count, KSERVE_PB_PARAMETERS_MAX);
        params->items = arena_alloc(d->arena, count * sizeof *params->items);
        if (UNLIKELY(params->items == NULL))
            return no_memory(d, count * sizeof *params->items);
    }
    return take_entry(d, field->bytes, &params->items[params->count++]);
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
static enum err_code last_wins(const struct decoder *d, struct kserve_pb_parameters *params)
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
            return no_memory(d, count * sizeof *sorted);
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

static enum err_code take_shape(const struct decoder *d, const struct pb_field *field,
                                struct kserve_pb_input *input)
{
    struct pb_reader packed;
    uint64_t dim;

    if (LIKELY(field->wire == PB_LEN)) {
        pb_begin(&packed, field->bytes);
        while (pb_varint(&packed, &dim)) {
            if (UNLIKELY(input->rank == PENSTOCK_RANK_MAX))
                goto too_deep;
            input->shape[input->rank++] = (int64_t)dim;
        }
        return UNLIKELY(pb_failed(&packed)) ? broken(d, &packed, "shape") : OK;
    }
    if (UNLIKELY(field->wire != PB_VARINT))
        return wrong_wire(d, "shape", field, PB_LEN);
    if (UNLIKELY(input->rank == PENSTOCK_RANK_MAX))
        goto too_deep;
    input->shape[input->rank++] = (int64_t)field->value;
    return OK;
too_deep:
    err_set(d->err, E_INVALID, "it has more than %u dimensions, the most a tensor may have",
            PENSTOCK_RANK_MAX);
    return at_field(d, "shape");
}

/* Is it whole in itself? Else its last field would go on in the part behind it. */
static enum err_code check_whole(const struct decoder *d, struct slice part)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, part);
    while (pb_next(&r, &field))
        continue;
    return pb_failed(&r) ? broken(d, &r, "contents") : OK;
}

/* `contents` in parts: `field` is the second, and `r` knows of more. */
static COLD enum err_code join_contents(const struct decoder *d, struct pb_reader r,
                                        struct pb_field field, struct slice *contents)
{
    struct pb_reader rest = r;
    struct pb_field next;
    size_t size = contents->size + field.bytes.size, at = contents->size;

    while (pb_next(&rest, &next))
        size += next.number == 5 && next.wire == PB_LEN ? next.bytes.size : 0;
    TRY(check_whole(d, *contents));
    uint8_t *joined = arena_alloc(d->arena, MAX(size, 1));
    if (joined == NULL)
        return no_memory(d, size);
    if (contents->size != 0)
        memcpy(joined, contents->data, contents->size);
    do {
        if (field.number != 5 || field.wire != PB_LEN)
            continue; /* whoever called looks at it in its turn */
        TRY(check_whole(d, field.bytes));
        if (field.bytes.size != 0)
            memcpy(joined + at, field.bytes.data, field.bytes.size);
        at += field.bytes.size;
    } while (pb_next(&r, &field));
    *contents = slice_make(joined, size);
    return OK;
}

static HOT enum err_code take_input(struct decoder *d, struct slice bytes,
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
        case 1: TRY(take_string(d, &field, "name", &input->name)); break;
        case 2: TRY(take_string(d, &field, "datatype", &input->datatype)); break;
        case 3: TRY(take_shape(d, &field, input)); break;
        case 4: TRY(take_parameter(d, &r, &field, &input->parameters)); break;
        case 5:
            if (UNLIKELY(field.wire != PB_LEN))
                return wrong_wire(d, "contents", &field, PB_LEN);
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
        return broken(d, &r, "");
    return last_wins(d, &input->parameters);
}

static enum err_code take_output(struct decoder *d, struct slice bytes,
                                 struct kserve_pb_output *output)
{
    struct pb_reader r;
    struct pb_field field;

    *output = (struct kserve_pb_output){ .name = { NULL, 0 } };
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number == 1)
            TRY(take_string(d, &field, "name", &output->name));
        else if (field.number == 2)
            TRY(take_parameter(d, &r, &field, &output->parameters));
    }
    if (UNLIKELY(pb_failed(&r)))
        return broken(d, &r, "");
    return last_wins(d, &output->parameters);
}

/* -- the request -------------------------------------------------------------------------------- */

/* Room for the lists, in one piece. */
static enum err_code make_lists(const struct decoder *d, struct kserve_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;
    uint32_t counts[8] = { 0 };

    pb_begin(&r, d->message);
    while (pb_next(&r, &field))
        if (LIKELY(field.number < COUNT(counts)))
            counts[field.number] += field.wire == PB_LEN;
    if (UNLIKELY(pb_failed(&r)))
        return broken(d, &r, "");
    if (UNLIKELY(counts[5] > KSERVE_PB_INPUTS_MAX))
        return too_many(d, "inputs", counts[5], KSERVE_PB_INPUTS_MAX);
    if (UNLIKELY(counts[6] > KSERVE_PB_INPUTS_MAX))
        return too_many(d, "outputs", counts[6], KSERVE_PB_INPUTS_MAX);
    if (UNLIKELY(counts[7] > KSERVE_PB_INPUTS_MAX))
        return too_many(d, "raw_input_contents", counts[7], KSERVE_PB_INPUTS_MAX);

    size_t size = counts[5] * sizeof *request->inputs + counts[6] * sizeof *request->outputs +
                  counts[7] * sizeof *request->raw;
    if (size == 0)
        return OK;
    uint8_t *piece = arena_alloc(d->arena, size);
    if (UNLIKELY(piece == NULL))
        return no_memory(d, size);
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
    struct decoder d = { bytes, arena, ret_field, err, NULL, 0 };
    struct kserve_pb_request request = { .inputs = NULL };
    struct pb_reader r;
    struct pb_field field;

    if (ret_field != NULL)
        *ret_field = NULL;
    TRY(make_lists(&d, &request));
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(take_string(&d, &field, "model_name", &request.model_name)); break;
        case 2: TRY(take_string(&d, &field, "model_version", &request.model_version)); break;
        case 3: TRY(take_string(&d, &field, "id", &request.id)); break;
        case 4: TRY(take_parameter(&d, &r, &field, &request.parameters)); break;
        case 5:
            if (UNLIKELY(field.wire != PB_LEN))
                return wrong_wire(&d, "inputs", &field, PB_LEN);
            d.list = "inputs";
            d.index = request.inputs_count++;
            TRY(take_input(&d, field.bytes, &request.inputs[d.index]));
            d.list = NULL;
            break;
        case 6:
            if (UNLIKELY(field.wire != PB_LEN))
                return wrong_wire(&d, "outputs", &field, PB_LEN);
            d.list = "outputs";
            d.index = request.outputs_count++;
            TRY(take_output(&d, field.bytes, &request.outputs[d.index]));
            d.list = NULL;
            break;
        case 7:
            if (UNLIKELY(field.wire != PB_LEN))
                return wrong_wire(&d, "raw_input_contents", &field, PB_LEN);
            request.raw[request.raw_count++] = field.bytes;
            break;
        default: break;
        }
    }
    TRY(last_wins(&d, &request.parameters));
    *ret = request;
    return OK;
}
