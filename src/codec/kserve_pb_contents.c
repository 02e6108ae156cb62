/* kserve_pb_contents.c - inference.InferTensorContents as a tensor. SPDX-License-Identifier: Apache-2.0
 *
 * One pass writes the elements; it only notices that something is wrong. What it was is then found by
 * a second, slow walk (explain), which alone makes sentences. So the fast one has no texts, and may
 * look at many numbers at once.
 *
 * Packed numbers are pb_packed.h's.
 */
#include "codec/kserve_pb.h"

#include "base/arena.h"
#include "base/buf.h"
#include "codec/pb.h"
#include "codec/pb_packed.h"
#include "model/dtype.h"

enum { ARENA_PIECE_MAX = 2048 };
enum { FIELD_FIRST = 1, FIELD_BYTES = 8, FIELD_LAST = 8 };

static const char *const field_names[FIELD_LAST + 1] = {
    "",
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
};

/* Which field a dtype travels in, how many bytes of the message an element takes at least, and what
 * range is narrower than the field's own. */
static const struct {
    uint8_t field, wire_bytes_min;
    enum pb_wire wire; /* of an element that is not packed */
    int64_t min, max;
} rows[PENSTOCK_DTYPE_COUNT] = {
    [PENSTOCK_BOOL] = { 1, 1, PB_VARINT, 0, 0 },
    [PENSTOCK_UINT8] = { 4, 1, PB_VARINT, 0, UINT8_MAX },
    [PENSTOCK_UINT16] = { 4, 1, PB_VARINT, 0, UINT16_MAX },
    [PENSTOCK_UINT32] = { 4, 1, PB_VARINT, 0, 0 },
    [PENSTOCK_UINT64] = { 5, 1, PB_VARINT, 0, 0 },
    [PENSTOCK_INT8] = { 2, 1, PB_VARINT, INT8_MIN, INT8_MAX },
    [PENSTOCK_INT16] = { 2, 1, PB_VARINT, INT16_MIN, INT16_MAX },
    [PENSTOCK_INT32] = { 2, 1, PB_VARINT, 0, 0 },
    [PENSTOCK_INT64] = { 3, 1, PB_VARINT, 0, 0 },
    [PENSTOCK_FP32] = { 6, 4, PB_I32, 0, 0 },
    [PENSTOCK_FP64] = { 7, 8, PB_I64, 0, 0 },
    [PENSTOCK_BYTES] = { FIELD_BYTES, 2, PB_LEN, 0, 0 },
};

/* Is there an element in it, of whatever dtype? A packed field may be there and empty. */
static inline bool is_filled(const struct pb_field *field)
{
    return field->number >= FIELD_FIRST && field->number <= FIELD_LAST &&
           (field->number == FIELD_BYTES || field->wire != PB_LEN || field->bytes.size != 0);
}

/* -- the slow walk ------------------------------------------------------------------------------ */

struct walk {
    enum penstock_dtype dtype;
    const char *input;
    uint64_t count;
    struct err *err;
};

static enum err_code broken(const struct walk *w, uint32_t number, const char *fault)
{
    bool is_known = number >= FIELD_FIRST && number <= FIELD_LAST;

    return err_set(w->err, E_INVALID,
                   "input '%s': its contents%s%s are no valid protobuf message: %s", w->input,
                   is_known ? "." : "", is_known ? field_names[number] : "", fault);
}

/* An element of int_contents or uint_contents, which are of 32 bits: what is above drops out. */
static int64_t narrow(const struct walk *w, uint64_t value)
{
    return rows[w->dtype].field == 2 ? (int64_t)(int32_t)(uint32_t)value : (int64_t)(uint32_t)value;
}

static enum err_code count_one(struct walk *w, uint64_t value)
{
    int64_t number = narrow(w, value);

    if (rows[w->dtype].max != 0 && (number < rows[w->dtype].min || number > rows[w->dtype].max))
        return err_set(w->err, E_INVALID,
                       "input '%s': element %llu is %lld, which is not %s (%lld to %lld)", w->input,
                       (unsigned long long)w->count, (long long)number, dtype_name(w->dtype),
                       (long long)rows[w->dtype].min, (long long)rows[w->dtype].max);
    w->count++;
    return OK;
}

static enum err_code count_packed(struct walk *w, uint32_t number, struct slice packed)
{
    size_t size = dtype_size(w->dtype);
    struct pb_reader r;
    uint64_t value;

    if (rows[w->dtype].wire != PB_VARINT) {
        if (packed.size % size != 0)
            return broken(w, number, "a number that ends in the middle");
        w->count += packed.size / size;
        return OK;
    }
    pb_begin(&r, packed);
    while (pb_varint(&r, &value))
        TRY(count_one(w, value));
    return pb_failed(&r) ? broken(w, number, r.fault) : OK;
}

static enum err_code count_field(struct walk *w, const struct pb_field *field)
{
    uint32_t own = rows[w->dtype].field;

    if (field->number != own) {
        if (!is_filled(field))
            return OK;
        return err_set(w->err, E_INVALID, "input '%s' is %s and comes in %s; use %s", w->input,
                       dtype_name(w->dtype), field_names[field->number], field_names[own]);
    }
    if (field->wire == PB_LEN && own != FIELD_BYTES)
        return count_packed(w, own, field->bytes);
    if (field->wire != rows[w->dtype].wire)
        return err_set(w->err, E_INVALID,
                       "input '%s': contents.%s has wire type %u, expected 2%s; was the message "
                       "made with another .proto?",
                       w->input, field_names[own], (unsigned)field->wire,
                       own == FIELD_BYTES                 ? ""
                       : rows[w->dtype].wire == PB_VARINT ? " or 0"
                       : rows[w->dtype].wire == PB_I32    ? " or 5"
                                                          : " or 1");
    if (field->wire == PB_VARINT)
        return count_one(w, field->value);
    w->count++;
    return OK;
}

/* Finds what is wrong with contents that the fast pass did not take. */
static COLD enum err_code explain(struct slice contents, enum penstock_dtype dtype, uint64_t count,
                                  const char *input, struct err *err)
{
    struct walk w = { dtype, input, 0, err };
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, contents);
    while (pb_next(&r, &field))
        TRY(count_field(&w, &field));
    if (pb_failed(&r))
        return broken(&w, 0, r.fault);
    if (w.count != count)
        return err_set(err, E_INVALID, "input '%s': %s holds %llu elements, its shape has %llu",
                       input, field_names[rows[dtype].field], (unsigned long long)w.count,
                       (unsigned long long)count);
    return err_set(err, E_INTERNAL, "input '%s': its contents were not read", input);
}

/* -- the fast pass ------------------------------------------------------------------------------ */

/* All elements of an integer or BOOL tensor. */
static inline __attribute__((always_inline)) bool read_numbers(struct slice contents, uint8_t *out,
                                                               uint64_t count,
                                                               enum penstock_dtype dtype)
{
    struct pb_reader r;
    struct pb_field field;
    uint64_t i = 0;

    pb_begin(&r, contents);
    while (pb_next(&r, &field)) {
        if (UNLIKELY(field.number != rows[dtype].field)) {
            if (is_filled(&field))
                return false;
        } else if (LIKELY(field.wire == PB_LEN)) {
            if (field.bytes.size != 0 && !pb_unpack(field.bytes, out, &i, count, dtype))
                return false;
        } else if (field.wire != PB_VARINT || i == count || !pb_put_element(out, i++, dtype, field.value)) {
            return false;
        }
    }
    return i == count && !pb_failed(&r);
}

/* FP32 and FP64: what is packed is copied as it is. */
static bool read_floats(struct slice contents, uint8_t *out, uint64_t count,
                        enum penstock_dtype dtype)
{
    size_t size = dtype_size(dtype), left = count * size;
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, contents);
    while (pb_next(&r, &field)) {
        struct slice from = { (const uint8_t *)&field.value, size };
        if (UNLIKELY(field.number != rows[dtype].field)) {
            if (is_filled(&field))
                return false;
            continue;
        }
        if (field.wire == PB_LEN)
            from = field.bytes;
        else if (field.wire != rows[dtype].wire)
            return false;
        if (from.size % size != 0 || from.size > left)
            return false;
        if (from.size != 0)
            memcpy(out, from.data, from.size);
        out += from.size;
        left -= from.size;
    }
    return left == 0 && !pb_failed(&r);
}

/* BYTES: each element behind its length; *ret_size is what they took. */
static bool read_bytes(struct slice contents, uint8_t *out, uint64_t count, size_t *ret_size)
{
    struct pb_reader r;
    struct pb_field field;
    uint8_t *at = out;

    pb_begin(&r, contents);
    while (pb_next(&r, &field)) {
        if (UNLIKELY(field.number != FIELD_BYTES)) {
            if (is_filled(&field))
                return false;
            continue;
        }
        if (field.wire != PB_LEN || count-- == 0)
            return false;
        uint32_t length = (uint32_t)field.bytes.size; /* PB_SIZE_MAX at most */
        memcpy(at, &length, sizeof length);
        if (length != 0)
            memcpy(at + sizeof length, field.bytes.data, length);
        at += sizeof length + length;
    }
    *ret_size = (size_t)(at - out);
    return count == 0 && !pb_failed(&r);
}

static HOT bool read_any(struct slice contents, enum penstock_dtype dtype, uint64_t count,
                         uint8_t *out, size_t *size)
{
    switch (dtype) {
    case PENSTOCK_BOOL: return read_numbers(contents, out, count, PENSTOCK_BOOL);
    case PENSTOCK_UINT8: return read_numbers(contents, out, count, PENSTOCK_UINT8);
    case PENSTOCK_INT8: return read_numbers(contents, out, count, PENSTOCK_INT8);
    case PENSTOCK_UINT16: return read_numbers(contents, out, count, PENSTOCK_UINT16);
    case PENSTOCK_INT16: return read_numbers(contents, out, count, PENSTOCK_INT16);
    case PENSTOCK_UINT32: return read_numbers(contents, out, count, PENSTOCK_UINT32);
    case PENSTOCK_INT32: return read_numbers(contents, out, count, PENSTOCK_INT32);
    case PENSTOCK_UINT64: return read_numbers(contents, out, count, PENSTOCK_UINT64);
    case PENSTOCK_INT64: return read_numbers(contents, out, count, PENSTOCK_INT64);
    case PENSTOCK_BYTES: return read_bytes(contents, out, count, size);
    default: return read_floats(contents, out, count, dtype);
    }
}

enum err_code kserve_pb_contents(struct slice contents, enum penstock_dtype dtype, uint64_t count,
                                 const char *input, struct arena *arena, struct budget *budget,
                                 struct slice *ret_data, struct buf **ret_holder, struct err *err)
{
    CLEANUP(buf_unref) struct buf *holder = NULL;

    if (dtype >= PENSTOCK_DTYPE_COUNT || rows[dtype].field == 0)
        return err_set(err, E_INVALID,
                       "input '%s' is %s, for which contents has no field; send it in "
                       "raw_input_contents",
                       input, dtype_name(dtype));
    /* No memory for a shape that lies: every element takes bytes of the message. */
    if (count > contents.size / rows[dtype].wire_bytes_min)
        return explain(contents, dtype, count, input, err);
    size_t size = dtype == PENSTOCK_BYTES ? contents.size + 2 * count : count * dtype_size(dtype);
    uint8_t *out;
    if (size <= ARENA_PIECE_MAX) {
        out = arena_aligned(arena, BUF_ALIGN, size);
        if (out == NULL)
            return err_set(err, E_EXHAUSTED, "input '%s': no memory for its %zu bytes; retry later",
                           input, size);
    } else {
        enum err_code code = buf_new(&holder, budget, size, err);
        if (code != OK) {
            err_wrap(err, "input '%s'", input);
            return code;
        }
        out = buf_fill(holder);
    }
    if (UNLIKELY(!read_any(contents, dtype, count, out, &size)))
        return explain(contents, dtype, count, input, err);
    if (holder != NULL)
        buf_trim(holder, size);
    *ret_data = slice_make(out, size);
    *ret_holder = TAKE(holder);
    return OK;
}
