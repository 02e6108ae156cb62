/* pb_elements.c - SPDX-License-Identifier: Apache-2.0
 *
 * Packed varints are read eight bytes at a time: a varint ends where a byte's upper bit is 0, so the
 * word's upper bits say where all that end in it begin and end, with no branch that has to guess how
 * long the next one is (token ids are of two and three bytes, in no order). That is inlined once for
 * each dtype.
 */
#include "codec/pb_elements.h"

#include <math.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "codec/number.h"
#include "model/dtype.h"

enum { ARENA_PIECE_MAX = 2048 };

const struct pb_element pb_elements[PENSTOCK_DTYPE_COUNT] = {
    [PENSTOCK_BOOL] = { PB_VARINT, 1, 0, 0 },
    [PENSTOCK_UINT8] = { PB_VARINT, 1, 0, UINT8_MAX },
    [PENSTOCK_UINT16] = { PB_VARINT, 1, 0, UINT16_MAX },
    [PENSTOCK_UINT32] = { PB_VARINT, 1, 0, 0 },
    [PENSTOCK_UINT64] = { PB_VARINT, 1, 0, 0 },
    [PENSTOCK_INT8] = { PB_VARINT, 1, INT8_MIN, INT8_MAX },
    [PENSTOCK_INT16] = { PB_VARINT, 1, INT16_MIN, INT16_MAX },
    [PENSTOCK_INT32] = { PB_VARINT, 1, 0, 0 },
    [PENSTOCK_INT64] = { PB_VARINT, 1, 0, 0 },
    [PENSTOCK_FP16] = { PB_I32, 4, 0, 0 },
    [PENSTOCK_FP32] = { PB_I32, 4, 0, 0 },
    [PENSTOCK_FP64] = { PB_I64, 8, 0, 0 },
    [PENSTOCK_BYTES] = { PB_LEN, 2, 0, 0 },
    [PENSTOCK_BF16] = { PB_I32, 4, 0, 0 },
};

/* -- varints ------------------------------------------------------------------------------------ */

/* Writes one element; whether it fits. `dtype` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) bool put_element(uint8_t *out, uint64_t i,
                                                              enum penstock_dtype dtype,
                                                              uint64_t value)
{
    uint32_t word = (uint32_t)value;
    int32_t number = (int32_t)word;

    switch (dtype) {
    case PENSTOCK_BOOL: out[i] = value != 0; return true;
    case PENSTOCK_UINT8: out[i] = (uint8_t)word; return word <= UINT8_MAX;
    case PENSTOCK_INT8: out[i] = (uint8_t)word; return number == (int8_t)number;
    case PENSTOCK_UINT16: ((uint16_t *)(void *)out)[i] = (uint16_t)word; return word <= UINT16_MAX;
    case PENSTOCK_INT16:
        ((uint16_t *)(void *)out)[i] = (uint16_t)word;
        return number == (int16_t)number;
    case PENSTOCK_UINT32:
    case PENSTOCK_INT32: ((uint32_t *)(void *)out)[i] = word; return true;
    default: ((uint64_t *)(void *)out)[i] = value; return true;
    }
}

/* The seven lower bits of each of the eight bytes of `word`, together. */
static inline __attribute__((always_inline)) uint64_t squeeze(uint64_t word)
{
    word = (word & 0x007f007f007f007f) | (word & 0x7f007f007f007f00) >> 1;
    word = (word & 0x00003fff00003fff) | (word & 0x3fff00003fff0000) >> 2;
    return (word & 0x000000000fffffff) | (word & 0x0fffffff00000000) >> 4;
}

/* A packed field behind the *at elements that are there already; false: look again, slowly. */
static inline __attribute__((always_inline)) bool unpack(struct slice packed, uint8_t *out,
                                                         uint64_t *at, uint64_t count,
                                                         enum penstock_dtype dtype)
{
    const uint64_t tops = UINT64_C(0x8080808080808080);
    const uint8_t *from = packed.data, *end = from + packed.size;
    uint64_t i = *at;
    bool fits = true;

    while (end - from >= 8 && count - i >= 8) {
        uint64_t word;
        memcpy(&word, from, 8);
        uint64_t ends = ~word & tops; /* the top bit of each byte that ends a number */
        if (ends == tops) {
            for (unsigned k = 0; k < 8; k++)
                fits &= put_element(out, i + k, dtype, word >> 8 * k & 0x7f);
            i += 8;
            from += 8;
        } else if (LIKELY(ends != 0)) {
            unsigned used = 0; /* bits of the word */
            do {
                unsigned top = (unsigned)__builtin_ctzll(ends); /* 7, 15, ... */
                uint64_t number = (word << (63 - top) >> (63 - top)) >> used;
                fits &= put_element(out, i++, dtype, squeeze(number));
                used = top + 1;
                ends &= ends - 1;
            } while (ends != 0);
            from += used / 8;
        } else {
            struct pb_reader r;
            uint64_t value;
            pb_begin(&r, slice_make(from, (size_t)(end - from)));
            if (!pb_varint(&r, &value))
                return false;
            fits &= put_element(out, i++, dtype, value);
            from = r.at;
        }
    }

    struct pb_reader r;
    uint64_t value;
    pb_begin(&r, slice_make(from, (size_t)(end - from)));
    while (pb_varint(&r, &value)) {
        if (i == count)
            return false;
        fits &= put_element(out, i++, dtype, value);
    }
    *at = i;
    return fits && !pb_failed(&r);
}

/* -- lists -------------------------------------------------------------------------------------- */

static bool is_stray(const struct pb_list *list, const struct pb_field *field)
{
    return list->is_stray != NULL && list->is_stray(field);
}

/* All elements of an integer or BOOL tensor. */
static inline __attribute__((always_inline)) bool read_numbers(const struct pb_list *list,
                                                               uint8_t *out, uint64_t count,
                                                               enum penstock_dtype dtype)
{
    struct pb_reader r;
    struct pb_field field;
    uint64_t i = 0;

    pb_begin(&r, list->message);
    while (pb_next(&r, &field)) {
        if (UNLIKELY(field.number != list->number)) {
            if (is_stray(list, &field))
                return false;
            continue;
        }
        if (LIKELY(field.wire == PB_LEN)) {
            if (field.bytes.size != 0 && !unpack(field.bytes, out, &i, count, dtype))
                return false;
        } else if (field.wire != PB_VARINT || i == count ||
                   !put_element(out, i++, dtype, field.value)) {
            return false;
        }
    }
    return i == count && !pb_failed(&r);
}

bool pb_put_half(uint8_t *out, float value, enum penstock_dtype dtype)
{
    uint16_t bits =
        dtype == PENSTOCK_FP16 ? number_f16_of((double)value) : number_bf16_of((double)value);
    double back = dtype == PENSTOCK_FP16 ? number_of_f16(bits) : number_of_bf16(bits);

    memcpy(out, &bits, sizeof bits);
    return !isinf(back) || isinf(value);
}

/* FP32 and FP64 are copied as they are, FP16 and BF16 made of floats. */
static bool read_floats(const struct pb_list *list, uint8_t *out, uint64_t count,
                        enum penstock_dtype dtype)
{
    bool is_half = dtype == PENSTOCK_FP16 || dtype == PENSTOCK_BF16;
    size_t size = is_half ? 4 : dtype_size(dtype), left = count * size;
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, list->message);
    while (pb_next(&r, &field)) {
        struct slice from = { (const uint8_t *)&field.value, size };
        if (UNLIKELY(field.number != list->number)) {
            if (is_stray(list, &field))
                return false;
            continue;
        }
        if (field.wire == PB_LEN)
            from = field.bytes;
        else if (field.wire != pb_elements[dtype].wire)
            return false;
        if (from.size % size != 0 || from.size > left)
            return false;
        left -= from.size;
        if (!is_half) {
            if (from.size != 0)
                memcpy(out, from.data, from.size);
            out += from.size;
            continue;
        }
        for (size_t at = 0; at < from.size; at += 4, out += 2) {
            float value;
            memcpy(&value, from.data + at, 4);
            if (!pb_put_half(out, value, dtype))
                return false;
        }
    }
    return left == 0 && !pb_failed(&r);
}

/* BYTES: each element behind its length; *ret_size is what they took. */
static bool read_strings(const struct pb_list *list, uint8_t *out, uint64_t count, size_t *ret_size)
{
    struct pb_reader r;
    struct pb_field field;
    uint8_t *at = out;

    pb_begin(&r, list->message);
    while (pb_next(&r, &field)) {
        if (UNLIKELY(field.number != list->number)) {
            if (is_stray(list, &field))
                return false;
            continue;
        }
        if (field.wire != PB_LEN || count-- == 0 ||
            (list->is_utf8 && utf8_valid_prefix(field.bytes) != field.bytes.size))
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

HOT bool pb_elements_read(const struct pb_list *list, enum penstock_dtype dtype, uint64_t count,
                          uint8_t *out, size_t *size)
{
    switch (dtype) {
    case PENSTOCK_BOOL: return read_numbers(list, out, count, PENSTOCK_BOOL);
    case PENSTOCK_UINT8: return read_numbers(list, out, count, PENSTOCK_UINT8);
    case PENSTOCK_INT8: return read_numbers(list, out, count, PENSTOCK_INT8);
    case PENSTOCK_UINT16: return read_numbers(list, out, count, PENSTOCK_UINT16);
    case PENSTOCK_INT16: return read_numbers(list, out, count, PENSTOCK_INT16);
    case PENSTOCK_UINT32: return read_numbers(list, out, count, PENSTOCK_UINT32);
    case PENSTOCK_INT32: return read_numbers(list, out, count, PENSTOCK_INT32);
    case PENSTOCK_UINT64: return read_numbers(list, out, count, PENSTOCK_UINT64);
    case PENSTOCK_INT64: return read_numbers(list, out, count, PENSTOCK_INT64);
    case PENSTOCK_BYTES: return read_strings(list, out, count, size);
    default: return read_floats(list, out, count, dtype);
    }
}

enum err_code pb_elements_room(size_t size, struct arena *arena, struct budget *budget,
                               uint8_t **ret, struct buf **ret_holder, struct err *err)
{
    if (size <= ARENA_PIECE_MAX) {
        *ret = arena_aligned(arena, BUF_ALIGN, MAX(size, 1));
        if (LIKELY(*ret != NULL))
            return OK;
        return err_set(err, E_EXHAUSTED, "no memory for its %zu bytes; retry later", size);
    }
    TRY(buf_new(ret_holder, budget, size, err));
    *ret = buf_fill(*ret_holder);
    return OK;
}

bool pb_element_number(enum penstock_dtype dtype, uint64_t value, int64_t *ret)
{
    const struct pb_element *e = &pb_elements[dtype];
    uint32_t word = (uint32_t)value; /* fields of 32 bits: what is above drops out */

    *ret = e->min < 0 ? (int64_t)(int32_t)word : (int64_t)word;
    return e->max == 0 || (*ret >= e->min && *ret <= e->max);
}
