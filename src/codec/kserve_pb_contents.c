/* kserve_pb_contents.c - inference.InferTensorContents as a tensor. SPDX-License-Identifier: Apache-2.0
 *
 * Read by pb_elements.h; what is wrong with contents that it did not take is found by explain.
 */
#include "codec/kserve_pb.h"

#include "base/arena.h"
#include "base/buf.h"
#include "codec/pb_elements.h"
#include "model/dtype.h"

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

/* Which field a dtype travels in; FP16 and BF16 in none. */
static const uint8_t fields[PENSTOCK_DTYPE_COUNT] = {
    [PENSTOCK_BOOL] = 1,   [PENSTOCK_INT8] = 2,   [PENSTOCK_INT16] = 2,
    [PENSTOCK_INT32] = 2,  [PENSTOCK_INT64] = 3,  [PENSTOCK_UINT8] = 4,
    [PENSTOCK_UINT16] = 4, [PENSTOCK_UINT32] = 4, [PENSTOCK_UINT64] = 5,
    [PENSTOCK_FP32] = 6,   [PENSTOCK_FP64] = 7,   [PENSTOCK_BYTES] = FIELD_BYTES,
};

/* Is there an element in it, of whatever dtype? A packed field may be there and empty. */
static bool is_filled(const struct pb_field *field)
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

static enum err_code count_one(struct walk *w, uint64_t value)
{
    const struct pb_element *e = &pb_elements[w->dtype];
    int64_t number;

    if (!pb_element_number(w->dtype, value, &number))
        return err_set(w->err, E_INVALID,
                       "input '%s': element %llu is %lld, which is not %s (%lld to %lld)", w->input,
                       (unsigned long long)w->count, (long long)number, dtype_name(w->dtype),
                       (long long)e->min, (long long)e->max);
    w->count++;
    return OK;
}

static enum err_code count_packed(struct walk *w, uint32_t number, struct slice packed)
{
    size_t size = dtype_size(w->dtype);
    struct pb_reader r;
    uint64_t value;

    if (pb_elements[w->dtype].wire != PB_VARINT) {
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
    uint32_t own = fields[w->dtype];

    if (field->number != own) {
        if (!is_filled(field))
            return OK;
        return err_set(w->err, E_INVALID, "input '%s' is %s and comes in %s; use %s", w->input,
                       dtype_name(w->dtype), field_names[field->number], field_names[own]);
    }
    if (field->wire == PB_LEN && own != FIELD_BYTES)
        return count_packed(w, own, field->bytes);
    if (field->wire != pb_elements[w->dtype].wire)
        return err_set(w->err, E_INVALID,
                       "input '%s': contents.%s has wire type %u, expected 2%s; was the message "
                       "made with another .proto?",
                       w->input, field_names[own], (unsigned)field->wire,
                       own == FIELD_BYTES                        ? ""
                       : pb_elements[w->dtype].wire == PB_VARINT ? " or 0"
                       : pb_elements[w->dtype].wire == PB_I32    ? " or 5"
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
                       input, field_names[fields[dtype]], (unsigned long long)w.count,
                       (unsigned long long)count);
    return err_set(err, E_INTERNAL, "input '%s': its contents were not read", input);
}

/* -- the whole ---------------------------------------------------------------------------------- */

enum err_code kserve_pb_contents(struct slice contents, enum penstock_dtype dtype, uint64_t count,
                                 const char *input, struct arena *arena, struct budget *budget,
                                 struct slice *ret_data, struct buf **ret_holder, struct err *err)
{
    CLEANUP(buf_unref) struct buf *holder = NULL;

    if (dtype >= PENSTOCK_DTYPE_COUNT || fields[dtype] == 0)
        return err_set(err, E_INVALID,
                       "input '%s' is %s, for which contents has no field; send it in "
                       "raw_input_contents",
                       input, dtype_name(dtype));
    /* No memory for a shape that lies: every element takes bytes of the message. */
    if (count > contents.size / pb_elements[dtype].bytes_min)
        return explain(contents, dtype, count, input, err);
    size_t size = dtype == PENSTOCK_BYTES ? contents.size + 2 * count : count * dtype_size(dtype);
    struct pb_list list = { contents, fields[dtype], false, is_filled };
    uint8_t *out;
    enum err_code code = pb_elements_room(size, arena, budget, &out, &holder, err);
    if (UNLIKELY(code != OK)) {
        err_wrap(err, "input '%s'", input);
        return code;
    }
    if (UNLIKELY(!pb_elements_read(&list, dtype, count, out, &size)))
        return explain(contents, dtype, count, input, err);
    if (holder != NULL)
        buf_trim(holder, size);
    *ret_data = slice_make(out, size);
    *ret_holder = TAKE(holder);
    return OK;
}
