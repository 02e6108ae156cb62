/* dtype.c - SPDX-License-Identifier: Apache-2.0 */
#include "model/dtype.h"

#include <stdio.h>

static const struct {
    const char *name, *config;
    uint8_t size;
} rows[PENSTOCK_DTYPE_COUNT] = {
    [PENSTOCK_INVALID] = { "INVALID", "TYPE_INVALID", 0 },
    [PENSTOCK_BOOL] = { "BOOL", "TYPE_BOOL", 1 },
    [PENSTOCK_UINT8] = { "UINT8", "TYPE_UINT8", 1 },
    [PENSTOCK_UINT16] = { "UINT16", "TYPE_UINT16", 2 },
    [PENSTOCK_UINT32] = { "UINT32", "TYPE_UINT32", 4 },
    [PENSTOCK_UINT64] = { "UINT64", "TYPE_UINT64", 8 },
    [PENSTOCK_INT8] = { "INT8", "TYPE_INT8", 1 },
    [PENSTOCK_INT16] = { "INT16", "TYPE_INT16", 2 },
    [PENSTOCK_INT32] = { "INT32", "TYPE_INT32", 4 },
    [PENSTOCK_INT64] = { "INT64", "TYPE_INT64", 8 },
    [PENSTOCK_FP16] = { "FP16", "TYPE_FP16", 2 },
    [PENSTOCK_FP32] = { "FP32", "TYPE_FP32", 4 },
    [PENSTOCK_FP64] = { "FP64", "TYPE_FP64", 8 },
    [PENSTOCK_BYTES] = { "BYTES", "TYPE_STRING", 0 },
    [PENSTOCK_BF16] = { "BF16", "TYPE_BF16", 2 },
};

size_t dtype_size(enum penstock_dtype dtype)
{
    return dtype < PENSTOCK_DTYPE_COUNT ? rows[dtype].size : 0;
}

const char *dtype_name(enum penstock_dtype dtype)
{
    return dtype < PENSTOCK_DTYPE_COUNT ? rows[dtype].name : "INVALID";
}

const char *dtype_config_name(enum penstock_dtype dtype)
{
    return dtype < PENSTOCK_DTYPE_COUNT ? rows[dtype].config : "TYPE_INVALID";
}

enum penstock_dtype dtype_from_name(struct slice name)
{
    for (unsigned i = 1; i < PENSTOCK_DTYPE_COUNT && name.size != 0; i++)
        if (rows[i].name[0] == name.data[0] && slice_is(name, rows[i].name))
            return (enum penstock_dtype)i;
    return PENSTOCK_INVALID;
}

enum penstock_dtype dtype_from_config(struct slice name)
{
    for (unsigned i = 1; i < PENSTOCK_DTYPE_COUNT; i++)
        if (slice_is(name, rows[i].config))
            return (enum penstock_dtype)i;
    return dtype_from_name(name);
}

const char *shape_text(char *out, size_t out_size, uint32_t rank, const int64_t *shape)
{
    size_t at = 0;

    require(out_size >= 3);
    out[at++] = '[';
    for (uint32_t i = 0; i < rank; i++) {
        int n = snprintf(out + at, out_size - at, "%s%lld", i == 0 ? "" : ",", (long long)shape[i]);
        if (n < 0 || at + (size_t)n + 2 > out_size)
            break;
        at += (size_t)n;
    }
    out[at++] = ']';
    out[at] = '\0';
    return out;
}

bool shape_count(uint32_t rank, const int64_t *shape, uint64_t *ret)
{
    uint64_t count = 1;
    bool is_empty = false; /* then no other dim matters, however large */

    for (uint32_t i = 0; i < rank; i++) {
        if (shape[i] < 0)
            return false;
        is_empty = is_empty || shape[i] == 0;
    }
    for (uint32_t i = 0; i < rank && !is_empty; i++)
        if (__builtin_mul_overflow(count, (uint64_t)shape[i], &count) || count > INT64_MAX)
            return false;
    *ret = is_empty ? 0 : count;
    return true;
}
