/* penstock_pb_write.c - writes penstock.v1's InferResponse and SessionResponse.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What is the same in every answer of a stream - the model's name and version, each output's name and
 * datatype - is encoded once, as bytes to copy. The rest is added up (a length stands before what it
 * counts) and then written in one go.
 */
#include "base/arena.h"
#include "base/pb.h"
#include "codec/penstock_pb.h"
#include "model/dtype.h"

enum {
    VARINT_FIELD_MAX = 1 + PB_VARINT_MAX, /* a small field number and a number */
    LEN_HEAD_MAX = 1 + 5,                 /* and a length */
};
enum { TENSOR_NAME = 1, TENSOR_DATATYPE, TENSOR_SHAPE, TENSOR_RAW };
enum {
    INFER_MODEL = 1,
    INFER_VERSION,
    INFER_ID,
    INFER_OUTPUTS,
    INFER_SEQUENCE,
    INFER_MERGED,
    INFER_FINAL
};
enum { ANSWERED_RETRY = 6, END_RETRY = 4 };
enum { OUTPUT_INPUT = 1, OUTPUT_ID, OUTPUT_OUTPUTS, OUTPUT_MERGED, OUTPUT_MARKS, OUTPUT_LAST };

struct penstock_pb_heads {
    struct slice model; /* InferResponse: model and version, encoded */
    const struct penstock_pb_describe *outputs;
    struct slice tensors[]; /* name and datatype, encoded */
};

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
    size_t words = pb3_size_bytes(INFER_MODEL, model) + pb3_size_bytes(INFER_VERSION, version);

    for (uint32_t i = 0; i < outputs_count; i++)
        words += pb3_size_bytes(TENSOR_NAME, slice_of(outputs[i].name)) +
                 pb_size_len(TENSOR_DATATYPE, strlen(dtype_name(outputs[i].dtype)));
    struct penstock_pb_heads *heads = arena_alloc(arena, lists + words);
    if (heads == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)heads + lists, *begin = at;
    at = pb3_put_bytes(at, INFER_MODEL, model);
    at = pb3_put_bytes(at, INFER_VERSION, version);
    heads->model = slice_make(begin, (size_t)(at - begin));
    heads->outputs = outputs;
    for (uint32_t i = 0; i < outputs_count; i++) {
        begin = at;
        at = pb3_put_bytes(at, TENSOR_NAME, slice_of(outputs[i].name));
        at = pb_put_bytes(at, TENSOR_DATATYPE, slice_of(dtype_name(outputs[i].dtype)));
        heads->tensors[i] = slice_make(begin, (size_t)(at - begin));
    }
    return heads;
}

/* -- tensors ------------------------------------------------------------------------------------ */

static inline size_t tensor_size(const struct penstock_pb_heads *heads,
                                 const struct penstock_pb_output *o)
{
    return heads->tensors[o->index].size + pb3_size_packed(TENSOR_SHAPE, o->rank, o->shape) +
           pb_size_len(TENSOR_RAW, o->bytes.size);
}

static size_t describe_size(const struct penstock_pb_describe *t)
{
    return pb3_size_bytes(TENSOR_NAME, slice_of(t->name)) +
           pb_size_len(TENSOR_DATATYPE, strlen(dtype_name(t->dtype))) +
           pb3_size_packed(TENSOR_SHAPE, t->rank, t->dims);
}

static uint8_t *put_describe(uint8_t *at, uint32_t number, const struct penstock_pb_describe *t)
{
    at = pb_put_head(at, number, describe_size(t));
    at = pb3_put_bytes(at, TENSOR_NAME, slice_of(t->name));
    at = pb_put_bytes(at, TENSOR_DATATYPE, slice_of(dtype_name(t->dtype)));
    return pb3_put_packed(at, TENSOR_SHAPE, t->rank, t->dims);
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
    return pb3_size_bytes(1, slice_of(mark->name)) + pb3_size_uint(2, mark->is_start) +
           pb3_size_uint(3, mark->row) + 9;
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
        return heads->model.size + pb3_size_bytes(INFER_ID, a->id) +
               outputs_size(heads, a, INFER_OUTPUTS) + pb3_size_uint(INFER_SEQUENCE, a->sequence) +
               pb3_size_uint(INFER_MERGED, a->merged) + pb3_size_uint(INFER_FINAL, a->is_last);
    case PENSTOCK_PB_OUTPUT:
        return pb3_size_uint(OUTPUT_INPUT, a->input) + pb3_size_bytes(OUTPUT_ID, a->id) +
               outputs_size(heads, a, OUTPUT_OUTPUTS) + pb3_size_uint(OUTPUT_MERGED, a->merged) +
               marks_size(a) + pb3_size_uint(OUTPUT_LAST, a->is_last);
    case PENSTOCK_PB_BEGUN:
        return pb3_size_bytes(1, a->model) + pb3_size_bytes(2, a->version) +
               pb3_size_bytes(3, a->session) + pb3_size_uint(4, a->inputs_at_once) +
               describes_size(5, a->takes, a->takes_count) +
               describes_size(6, a->gives, a->gives_count) + pb3_size_uint(7, a->received);
    case PENSTOCK_PB_ANSWERED:
        return pb3_size_uint(1, a->input) + pb3_size_bytes(2, a->id) + pb3_size_uint(3, a->code) +
               pb3_size_bytes(4, a->message) + pb3_size_bytes(5, a->field) +
               pb3_size_uint(ANSWERED_RETRY, a->retry_after_ms);
    case PENSTOCK_PB_INTERRUPTED: return pb3_size_uint(1, a->input);
    case PENSTOCK_PB_END:
        return pb3_size_uint(1, a->code) + pb3_size_bytes(2, a->message) +
               pb3_size_bytes(3, a->field) + pb3_size_uint(END_RETRY, a->retry_after_ms);
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
        w->at = pb3_put_packed(w->at, TENSOR_SHAPE, o->rank, o->shape);
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
        at = pb3_put_bytes(at, 1, slice_of(mark->name));
        at = pb3_put_uint(at, 2, mark->is_start);
        at = pb3_put_uint(at, 3, mark->row);
        at = pb_put_i64(at, 4, bits);
    }
    return at;
}

static uint8_t *put_begun(uint8_t *at, const struct penstock_pb_answer *a)
{
    at = pb3_put_bytes(at, 1, a->model);
    at = pb3_put_bytes(at, 2, a->version);
    at = pb3_put_bytes(at, 3, a->session);
    at = pb3_put_uint(at, 4, a->inputs_at_once);
    for (uint32_t i = 0; i < a->takes_count; i++)
        at = put_describe(at, 5, &a->takes[i]);
    for (uint32_t i = 0; i < a->gives_count; i++)
        at = put_describe(at, 6, &a->gives[i]);
    return pb3_put_uint(at, 7, a->received);
}

static void put_body(struct writer *w, const struct penstock_pb_heads *heads,
                     const struct penstock_pb_answer *a)
{
    switch (a->kind) {
    case PENSTOCK_PB_INFERRED:
        w->at = put_copy(w->at, heads->model);
        w->at = pb3_put_bytes(w->at, INFER_ID, a->id);
        put_outputs(w, heads, a, INFER_OUTPUTS);
        w->at = pb3_put_uint(w->at, INFER_SEQUENCE, a->sequence);
        w->at = pb3_put_uint(w->at, INFER_MERGED, a->merged);
        w->at = pb3_put_uint(w->at, INFER_FINAL, a->is_last);
        break;
    case PENSTOCK_PB_OUTPUT:
        w->at = pb3_put_uint(w->at, OUTPUT_INPUT, a->input);
        w->at = pb3_put_bytes(w->at, OUTPUT_ID, a->id);
        put_outputs(w, heads, a, OUTPUT_OUTPUTS);
        w->at = pb3_put_uint(w->at, OUTPUT_MERGED, a->merged);
        w->at = put_marks(w->at, a);
        w->at = pb3_put_uint(w->at, OUTPUT_LAST, a->is_last);
        break;
    case PENSTOCK_PB_BEGUN: w->at = put_begun(w->at, a); break;
    case PENSTOCK_PB_ANSWERED:
        w->at = pb3_put_uint(w->at, 1, a->input);
        w->at = pb3_put_bytes(w->at, 2, a->id);
        w->at = pb3_put_uint(w->at, 3, a->code);
        w->at = pb3_put_bytes(w->at, 4, a->message);
        w->at = pb3_put_bytes(w->at, 5, a->field);
        w->at = pb3_put_uint(w->at, ANSWERED_RETRY, a->retry_after_ms);
        break;
    case PENSTOCK_PB_INTERRUPTED: w->at = pb3_put_uint(w->at, 1, a->input); break;
    case PENSTOCK_PB_END:
        w->at = pb3_put_uint(w->at, 1, a->code);
        w->at = pb3_put_bytes(w->at, 2, a->message);
        w->at = pb3_put_bytes(w->at, 3, a->field);
        w->at = pb3_put_uint(w->at, END_RETRY, a->retry_after_ms);
        break;
    }
}

HOT uint32_t penstock_pb_write(const struct penstock_pb_heads *heads,
                               const struct penstock_pb_answer *a, size_t copy_max, uint8_t *memory,
                               struct penstock_pb_piece *pieces, size_t *ret_used)
{
    struct writer w = { memory, memory, pieces, 0, copy_max };

    if (a->kind != PENSTOCK_PB_INFERRED) {
        w.at = pb3_put_uint(w.at, 1, a->sequence);
        w.at = pb_put_head(w.at, (uint32_t)a->kind, body_size(heads, a));
    }
    put_body(&w, heads, a);
    *ret_used = (size_t)(w.at - memory);
    if (w.at != w.begin || w.pieces_count == 0)
        w.pieces[w.pieces_count++] =
            (struct penstock_pb_piece){ slice_make(w.begin, (size_t)(w.at - w.begin)), NULL };
    return w.pieces_count;
}
