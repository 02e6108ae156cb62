/* penstock_pb_write.c - writes penstock.v1's InferResponse and SessionResponse.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What is the same in every answer of a stream - the model's name and version, each output's name and
 * datatype - is encoded once, as bytes to copy. The rest is added up (a length stands before what it
 * counts) and then written in one go.
 */
#include "base/arena.h"
#include "codec/pb.h"
#include "codec/penstock_pb.h"
#include "model/dtype.h"

enum {
    VARINT_FIELD_MAX = 1 + PB_VARINT_MAX, /* a small field number and a number */
    LEN_HEAD_MAX = 1 + 5,                 /* and a length */
};
enum { TENSOR_NAME = 1, TENSOR_DATATYPE, TENSOR_SHAPE, TENSOR_RAW };
enum { INFER_MODEL = 1, INFER_VERSION, INFER_ID, INFER_OUTPUTS, INFER_SEQUENCE, INFER_MERGED, INFER_FINAL };
enum { ANSWERED_RETRY = 6, END_RETRY = 4 };
enum { OUTPUT_INPUT = 1, OUTPUT_ID, OUTPUT_OUTPUTS, OUTPUT_MERGED, OUTPUT_MARKS, OUTPUT_LAST };

struct penstock_pb_heads {
    struct slice model; /* InferResponse: model and version, encoded */
    const struct penstock_pb_describe *outputs;
    struct slice tensors[]; /* name and datatype, encoded */
};

static size_t string_size(uint32_t number, struct slice text) /* proto3: empty is absent */
{
    return text.size == 0 ? 0 : pb_size_len(number, text.size);
}

static uint8_t *put_string(uint8_t *at, uint32_t number, struct slice text)
{
    return text.size == 0 ? at : pb_put_bytes(at, number, text);
}

static size_t uint_size(uint32_t number, uint64_t value)
{
    return value == 0 ? 0 : pb_size_tag(number) + pb_size_varint(value);
}

static uint8_t *put_uint(uint8_t *at, uint32_t number, uint64_t value)
{
    return value == 0 ? at : pb_put_uint(at, number, value);
}

static uint8_t *put_copy(uint8_t *at, struct slice bytes)
{
    if (bytes.size != 0)
        memcpy(at, bytes.data, bytes.size);
    return at + bytes.size;
}

/* -- heads -------------------------------------------------------------------------------------- */

struct penstock_pb_heads *penstock_pb_heads_new(const struct penstock_pb_describe *outputs,
                                                uint32_t outputs_count, struct slice model,
                                                struct slice version, struct arena *arena)
{
    size_t lists = sizeof(struct penstock_pb_heads) + outputs_count * sizeof(struct slice);
    size_t words = string_size(INFER_MODEL, model) + string_size(INFER_VERSION, version);

    for (uint32_t i = 0; i < outputs_count; i++)
        words += string_size(TENSOR_NAME, slice_of(outputs[i].name)) +
                 pb_size_len(TENSOR_DATATYPE, strlen(dtype_name(outputs[i].dtype)));
    struct penstock_pb_heads *heads = arena_alloc(arena, lists + words);
    if (heads == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)heads + lists, *begin = at;
    at = put_string(at, INFER_MODEL, model);
    at = put_string(at, INFER_VERSION, version);
    heads->model = slice_make(begin, (size_t)(at - begin));
    heads->outputs = outputs;
    for (uint32_t i = 0; i < outputs_count; i++) {
        begin = at;
        at = put_string(at, TENSOR_NAME, slice_of(outputs[i].name));
        at = pb_put_bytes(at, TENSOR_DATATYPE, slice_of(dtype_name(outputs[i].dtype)));
        heads->tensors[i] = slice_make(begin, (size_t)(at - begin));
    }
    return heads;
}

/* -- tensors ------------------------------------------------------------------------------------ */

static inline size_t dims_size(uint32_t rank, const int64_t *shape)
{
    size_t size = 0;

    for (uint32_t i = 0; i < rank; i++)
        size += pb_size_varint((uint64_t)shape[i]);
    return size;
}

static inline uint8_t *put_shape(uint8_t *at, uint32_t rank, const int64_t *shape)
{
    if (rank == 0)
        return at;
    at = pb_put_head(at, TENSOR_SHAPE, dims_size(rank, shape));
    for (uint32_t i = 0; i < rank; i++)
        at = pb_put_varint(at, (uint64_t)shape[i]);
    return at;
}

static inline size_t tensor_size(const struct penstock_pb_heads *heads,
                                 const struct penstock_pb_output *o)
{
    return heads->tensors[o->index].size +
           (o->rank == 0 ? 0 : pb_size_len(TENSOR_SHAPE, dims_size(o->rank, o->shape))) +
           pb_size_len(TENSOR_RAW, o->bytes.size);
}

static size_t describe_size(const struct penstock_pb_describe *t)
{
    return string_size(TENSOR_NAME, slice_of(t->name)) +
           pb_size_len(TENSOR_DATATYPE, strlen(dtype_name(t->dtype))) +
           (t->rank == 0 ? 0 : pb_size_len(TENSOR_SHAPE, dims_size(t->rank, t->dims)));
}

static uint8_t *put_describe(uint8_t *at, uint32_t number, const struct penstock_pb_describe *t)
{
    at = pb_put_head(at, number, describe_size(t));
    at = put_string(at, TENSOR_NAME, slice_of(t->name));
    at = pb_put_bytes(at, TENSOR_DATATYPE, slice_of(dtype_name(t->dtype)));
    return put_shape(at, t->rank, t->dims);
}

/* -- sizes -------------------------------------------------------------------------------------- */

static size_t outputs_size(const struct penstock_pb_heads *heads,
                           const struct penstock_pb_answer *a, uint32_t number)
{
    size_t size = 0;

    for (uint32_t i = 0; i < a->outputs_count; i++)
        size += pb_size_len(number, tensor_size(heads, &a->outputs[i]));
    return size;
}

static size_t mark_size(const struct penstock_pb_mark *mark)
{
    return string_size(1, slice_of(mark->name)) + uint_size(2, mark->is_start) +
           uint_size(3, mark->row) + 9;
}

static size_t marks_size(const struct penstock_pb_answer *a)
{
    size_t size = 0;

    for (uint32_t i = 0; i < a->marks_count; i++)
        size += pb_size_len(OUTPUT_MARKS, mark_size(&a->marks[i]));
    return size;
}

static size_t describes_size(uint32_t number, const struct penstock_pb_describe *list,
                             uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += pb_size_len(number, describe_size(&list[i]));
    return size;
}

/* Of the message within a SessionResponse, or of the InferResponse. */
static size_t body_size(const struct penstock_pb_heads *heads, const struct penstock_pb_answer *a)
{
    switch (a->kind) {
    case PENSTOCK_PB_INFERRED:
        return heads->model.size + string_size(INFER_ID, a->id) +
               outputs_size(heads, a, INFER_OUTPUTS) + uint_size(INFER_SEQUENCE, a->sequence) +
               uint_size(INFER_MERGED, a->merged) + uint_size(INFER_FINAL, a->is_last);
    case PENSTOCK_PB_OUTPUT:
        return uint_size(OUTPUT_INPUT, a->input) + string_size(OUTPUT_ID, a->id) +
               outputs_size(heads, a, OUTPUT_OUTPUTS) + uint_size(OUTPUT_MERGED, a->merged) +
               marks_size(a) + uint_size(OUTPUT_LAST, a->is_last);
    case PENSTOCK_PB_BEGUN:
        return string_size(1, a->model) + string_size(2, a->version) + string_size(3, a->session) +
               uint_size(4, a->inputs_at_once) + describes_size(5, a->takes, a->takes_count) +
               describes_size(6, a->gives, a->gives_count) + uint_size(7, a->received);
    case PENSTOCK_PB_ANSWERED:
        return uint_size(1, a->input) + string_size(2, a->id) + uint_size(3, a->code) +
               string_size(4, a->message) + string_size(5, a->field) +
               uint_size(ANSWERED_RETRY, a->retry_after_ms);
    case PENSTOCK_PB_INTERRUPTED: return uint_size(1, a->input);
    case PENSTOCK_PB_END:
        return uint_size(1, a->code) + string_size(2, a->message) + string_size(3, a->field) +
               uint_size(END_RETRY, a->retry_after_ms);
    }
    return 0;
}

size_t penstock_pb_bound(const struct penstock_pb_heads *heads, const struct penstock_pb_answer *a,
                         size_t copy_max, uint32_t *ret_pieces)
{
    size_t size = VARINT_FIELD_MAX + LEN_HEAD_MAX + body_size(heads, a);

    *ret_pieces = 1;
    if (a->kind != PENSTOCK_PB_OUTPUT && a->kind != PENSTOCK_PB_INFERRED)
        return size; /* it has none */
    for (uint32_t i = 0; i < a->outputs_count; i++) {
        if (a->outputs[i].bytes.size <= copy_max)
            continue;
        size -= a->outputs[i].bytes.size;
        *ret_pieces += 2;
    }
    return size;
}

/* -- writing ------------------------------------------------------------------------------------ */

struct writer {
    uint8_t *begin, *at; /* of the piece under way */
    struct penstock_pb_piece *pieces;
    uint32_t pieces_count;
    size_t copy_max;
};

static void cut(struct writer *w)
{
    if (w->at != w->begin)
        w->pieces[w->pieces_count++] =
            (struct penstock_pb_piece){ slice_make(w->begin, (size_t)(w->at - w->begin)), NULL };
    w->begin = w->at;
}

static inline void put_outputs(struct writer *w, const struct penstock_pb_heads *heads,
                               const struct penstock_pb_answer *a, uint32_t number)
{
    for (uint32_t i = 0; i < a->outputs_count; i++) {
        const struct penstock_pb_output *o = &a->outputs[i];
        w->at = pb_put_head(w->at, number, tensor_size(heads, o));
        w->at = put_copy(w->at, heads->tensors[o->index]);
        w->at = put_shape(w->at, o->rank, o->shape);
        w->at = pb_put_head(w->at, TENSOR_RAW, o->bytes.size);
        if (LIKELY(o->bytes.size <= w->copy_max)) {
            w->at = put_copy(w->at, o->bytes);
            continue;
        }
        cut(w);
        w->pieces[w->pieces_count++] = (struct penstock_pb_piece){ o->bytes, o->holder };
    }
}

static uint8_t *put_marks(uint8_t *at, const struct penstock_pb_answer *a)
{
    for (uint32_t i = 0; i < a->marks_count; i++) {
        const struct penstock_pb_mark *mark = &a->marks[i];
        uint64_t bits;
        memcpy(&bits, &mark->score, sizeof bits);
        at = pb_put_head(at, OUTPUT_MARKS, mark_size(mark));
        at = put_string(at, 1, slice_of(mark->name));
        at = put_uint(at, 2, mark->is_start);
        at = put_uint(at, 3, mark->row);
        at = pb_put_i64(at, 4, bits);
    }
    return at;
}

static uint8_t *put_begun(uint8_t *at, const struct penstock_pb_answer *a)
{
    at = put_string(at, 1, a->model);
    at = put_string(at, 2, a->version);
    at = put_string(at, 3, a->session);
    at = put_uint(at, 4, a->inputs_at_once);
    for (uint32_t i = 0; i < a->takes_count; i++)
        at = put_describe(at, 5, &a->takes[i]);
    for (uint32_t i = 0; i < a->gives_count; i++)
        at = put_describe(at, 6, &a->gives[i]);
    return put_uint(at, 7, a->received);
}

static void put_body(struct writer *w, const struct penstock_pb_heads *heads,
                     const struct penstock_pb_answer *a)
{
    switch (a->kind) {
    case PENSTOCK_PB_INFERRED:
        w->at = put_copy(w->at, heads->model);
        w->at = put_string(w->at, INFER_ID, a->id);
        put_outputs(w, heads, a, INFER_OUTPUTS);
        w->at = put_uint(w->at, INFER_SEQUENCE, a->sequence);
        w->at = put_uint(w->at, INFER_MERGED, a->merged);
        w->at = put_uint(w->at, INFER_FINAL, a->is_last);
        break;
    case PENSTOCK_PB_OUTPUT:
        w->at = put_uint(w->at, OUTPUT_INPUT, a->input);
        w->at = put_string(w->at, OUTPUT_ID, a->id);
        put_outputs(w, heads, a, OUTPUT_OUTPUTS);
        w->at = put_uint(w->at, OUTPUT_MERGED, a->merged);
        w->at = put_marks(w->at, a);
        w->at = put_uint(w->at, OUTPUT_LAST, a->is_last);
        break;
    case PENSTOCK_PB_BEGUN: w->at = put_begun(w->at, a); break;
    case PENSTOCK_PB_ANSWERED:
        w->at = put_uint(w->at, 1, a->input);
        w->at = put_string(w->at, 2, a->id);
        w->at = put_uint(w->at, 3, a->code);
        w->at = put_string(w->at, 4, a->message);
        w->at = put_string(w->at, 5, a->field);
        w->at = put_uint(w->at, ANSWERED_RETRY, a->retry_after_ms);
        break;
    case PENSTOCK_PB_INTERRUPTED: w->at = put_uint(w->at, 1, a->input); break;
    case PENSTOCK_PB_END:
        w->at = put_uint(w->at, 1, a->code);
        w->at = put_string(w->at, 2, a->message);
        w->at = put_string(w->at, 3, a->field);
        w->at = put_uint(w->at, END_RETRY, a->retry_after_ms);
        break;
    }
}

HOT uint32_t penstock_pb_write(const struct penstock_pb_heads *heads,
                               const struct penstock_pb_answer *a, size_t copy_max,
                               uint8_t *memory, struct penstock_pb_piece *pieces, size_t *ret_used)
{
    struct writer w = { memory, memory, pieces, 0, copy_max };

    if (a->kind != PENSTOCK_PB_INFERRED) {
        w.at = put_uint(w.at, 1, a->sequence);
        w.at = pb_put_head(w.at, (uint32_t)a->kind, body_size(heads, a));
    }
    put_body(&w, heads, a);
    *ret_used = (size_t)(w.at - memory);
    if (w.at != w.begin || w.pieces_count == 0)
        w.pieces[w.pieces_count++] =
            (struct penstock_pb_piece){ slice_make(w.begin, (size_t)(w.at - w.begin)), NULL };
    return w.pieces_count;
}
