/* choose.c - SPDX-License-Identifier: Apache-2.0
 *
 * A heap of k indexes keeps the best seen so far with the worst of them on top, so that a row of n
 * costs n log k; sorting the heap in place leaves the best first.
 */
#include "contract/choose.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "codec/number.h"

#define LOAD(type)                                                                        \
    __extension__({                                                                       \
        type load_value_;                                                                 \
        memcpy(&load_value_, (const uint8_t *)elements + i * sizeof(type), sizeof(type)); \
        load_value_;                                                                      \
    })

double element_f64(enum penstock_dtype dtype, const void *elements, uint64_t i)
{
    switch (dtype) {
    case PENSTOCK_BOOL:
    case PENSTOCK_UINT8: return LOAD(uint8_t);
    case PENSTOCK_UINT16: return LOAD(uint16_t);
    case PENSTOCK_UINT32: return LOAD(uint32_t);
    case PENSTOCK_UINT64: return (double)LOAD(uint64_t);
    case PENSTOCK_INT8: return LOAD(int8_t);
    case PENSTOCK_INT16: return LOAD(int16_t);
    case PENSTOCK_INT32: return LOAD(int32_t);
    case PENSTOCK_INT64: return (double)LOAD(int64_t);
    case PENSTOCK_FP16: return number_of_f16(LOAD(uint16_t));
    case PENSTOCK_BF16: return number_of_bf16(LOAD(uint16_t));
    case PENSTOCK_FP32: return (double)LOAD(float);
    case PENSTOCK_FP64: return LOAD(double);
    case PENSTOCK_INVALID:
    case PENSTOCK_BYTES: break;
    }
    return (double)NAN;
}

/* Does a come before b? As doubles, neighbouring 64-bit integers would be equal. */
static bool is_better(enum penstock_dtype dtype, const void *elements, uint64_t a, uint64_t b)
{
    if (dtype == PENSTOCK_INT64 || dtype == PENSTOCK_UINT64) {
        uint64_t i = a, flip = dtype == PENSTOCK_INT64 ? UINT64_C(1) << 63 : 0;
        uint64_t va = LOAD(uint64_t) ^ flip;
        i = b;
        uint64_t vb = LOAD(uint64_t) ^ flip;
        return va != vb ? va > vb : a < b;
    }
    double va = element_f64(dtype, elements, a), vb = element_f64(dtype, elements, b);
    if (isnan(va) || isnan(vb))
        return isnan(va) && isnan(vb) ? a < b : isnan(vb);
    return va > vb || (!(va < vb) && a < b);
}

static void sift_down(enum penstock_dtype dtype, const void *elements, uint64_t *heap,
                      uint64_t size, uint64_t at)
{
    for (;;) {
        uint64_t worst = at, left = 2 * at + 1, right = left + 1;
        if (left < size && is_better(dtype, elements, heap[worst], heap[left]))
            worst = left;
        if (right < size && is_better(dtype, elements, heap[worst], heap[right]))
            worst = right;
        if (worst == at)
            return;
        uint64_t held = heap[at];
        heap[at] = heap[worst];
        heap[worst] = held;
        at = worst;
    }
}

void choose_largest(enum penstock_dtype dtype, const void *elements, uint64_t n, uint64_t k,
                    uint64_t *ret)
{
    if (k == 0)
        return;
    for (uint64_t i = 0; i < k; i++)
        ret[i] = i;
    for (uint64_t i = k / 2; i-- > 0;)
        sift_down(dtype, elements, ret, k, i);
    for (uint64_t i = k; i < n; i++) {
        if (is_better(dtype, elements, i, ret[0])) {
            ret[0] = i;
            sift_down(dtype, elements, ret, k, 0);
        }
    }
    for (uint64_t size = k; size > 1; size--) {
        uint64_t worst = ret[0];
        ret[0] = ret[size - 1];
        ret[size - 1] = worst;
        sift_down(dtype, elements, ret, size - 1, 0);
    }
}
