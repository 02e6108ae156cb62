/* pb_packed.h - packed varints as the elements of a tensor, inlined once for each dtype.
 *
 * They are read eight bytes at a time: a varint ends where a byte's upper bit is 0, so the word's
 * upper bits say where all that end in it begin and end, with no branch that has to guess how long
 * the next one is (token ids are of two and three bytes, in no order). Pure; any thread.
 */
#ifndef CODEC_PB_PACKED_H
#define CODEC_PB_PACKED_H

#include "codec/pb.h"
#include "penstock/tensor.h"

/* Writes one element; whether it fits. `dtype` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) bool pb_put_element(uint8_t *out, uint64_t i,
                                                      enum penstock_dtype dtype, uint64_t value)
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
static inline __attribute__((always_inline)) uint64_t pb_squeeze(uint64_t word)
{
    word = (word & 0x007f007f007f007f) | (word & 0x7f007f007f007f00) >> 1;
    word = (word & 0x00003fff00003fff) | (word & 0x3fff00003fff0000) >> 2;
    return (word & 0x000000000fffffff) | (word & 0x0fffffff00000000) >> 4;
}

/* A packed field behind the *at elements that are there already; false: look again, slowly. */
static inline __attribute__((always_inline)) bool pb_unpack(struct slice packed, uint8_t *out,
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
                fits &= pb_put_element(out, i + k, dtype, word >> 8 * k & 0x7f);
            i += 8;
            from += 8;
        } else if (LIKELY(ends != 0)) {
            unsigned used = 0; /* bits of the word */
            do {
                unsigned top = (unsigned)__builtin_ctzll(ends); /* 7, 15, ... */
                uint64_t number = (word << (63 - top) >> (63 - top)) >> used;
                fits &= pb_put_element(out, i++, dtype, pb_squeeze(number));
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
            fits &= pb_put_element(out, i++, dtype, value);
            from = r.at;
        }
    }

    struct pb_reader r;
    uint64_t value;
    pb_begin(&r, slice_make(from, (size_t)(end - from)));
    while (pb_varint(&r, &value)) {
        if (i == count)
            return false;
        fits &= pb_put_element(out, i++, dtype, value);
    }
    *at = i;
    return fits && !pb_failed(&r);
}

#endif
