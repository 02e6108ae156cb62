/* convert.c - SPDX-License-Identifier: Apache-2.0
 *
 * Everything but 64-bit integers passes through a double, which holds each of them exactly; those
 * are compared as integers, since a double has 53 bits.
 */
#include "contract/convert.h"

#include <math.h>
#include <string.h>

#include "codec/number.h"
#include "contract/choose.h"
#include "model/dtype.h"

static bool is_float(enum penstock_dtype dtype)
{
    return dtype == PENSTOCK_FP16 || dtype == PENSTOCK_BF16 || dtype == PENSTOCK_FP32 ||
           dtype == PENSTOCK_FP64;
}

static bool is_int(enum penstock_dtype dtype)
{
    return dtype >= PENSTOCK_UINT8 && dtype <= PENSTOCK_INT64;
}

static bool is_signed(enum penstock_dtype dtype)
{
    return dtype >= PENSTOCK_INT8 && dtype <= PENSTOCK_INT64;
}

bool convert_can(enum penstock_dtype from, enum penstock_dtype to)
{
    return (is_float(from) || is_int(from)) && (is_float(to) || is_int(to));
}

static bool put_float(enum penstock_dtype to, uint8_t *out, double value)
{
    float single = (float)value;
    uint16_t bits;
    bool is_finite = true;

    switch (to) {
    case PENSTOCK_FP64: memcpy(out, &value, sizeof value); break;
    case PENSTOCK_FP32:
        memcpy(out, &single, sizeof single);
        is_finite = isfinite(single);
        break;
    case PENSTOCK_FP16:
        bits = number_f16_of(value);
        memcpy(out, &bits, sizeof bits);
        is_finite = isfinite(number_of_f16(bits));
        break;
    default:
        bits = number_bf16_of(value);
        memcpy(out, &bits, sizeof bits);
        is_finite = isfinite(number_of_bf16(bits));
    }
    return is_finite || !isfinite(value);
}

/* An integer as its sign and its distance from zero. */
static bool put_int(enum penstock_dtype to, uint8_t *out, bool is_negative, uint64_t distance)
{
    size_t size = dtype_size(to);
    unsigned bits = (unsigned)size * 8 - (is_signed(to) ? 1 : 0);
    uint64_t most = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;

    if (is_negative && !is_signed(to))
        return distance == 0;
    if (distance > most + (is_negative ? 1 : 0))
        return false;
    uint64_t value = is_negative ? 0 - distance : distance;
    memcpy(out, &value, size); /* the low bytes come first */
    return true;
}

static bool put_whole(enum penstock_dtype to, uint8_t *out, double value)
{
    if (!(value > -0x1p64 && value < 0x1p64) || value != floor(value))
        return false;
    return put_int(to, out, value < 0, (uint64_t)fabs(value));
}

bool convert_elements(enum penstock_dtype to, void *out, enum penstock_dtype from,
                      const void *elements, uint64_t count, uint64_t *ret_bad)
{
    size_t size = dtype_size(to);
    uint8_t *at = out;

    for (uint64_t i = 0; i < count; i++, at += size) {
        uint64_t wide = 0;
        bool is_good;
        if (is_float(to)) {
            is_good = put_float(to, at, element_f64(from, elements, i));
        } else if (from == PENSTOCK_UINT64 || from == PENSTOCK_INT64) {
            memcpy(&wide, (const uint8_t *)elements + i * 8, sizeof wide);
            bool is_negative = from == PENSTOCK_INT64 && wide >> 63 != 0;
            is_good = put_int(to, at, is_negative, is_negative ? 0 - wide : wide);
        } else {
            is_good = put_whole(to, at, element_f64(from, elements, i));
        }
        if (UNLIKELY(!is_good)) {
            *ret_bad = i;
            return false;
        }
    }
    return true;
}
