/* penstock/tensor.h - what a tensor is, for the server and for every backend.
 *
 * A tensor is a dtype, a shape and bytes: little-endian, row-major, no padding, as on the wire of
 * the KServe V2 binary tensor extension. BOOL is one byte, 0 or 1. FP16 is IEEE binary16, BF16 the
 * upper half of a binary32. BYTES holds strings: the elements one after the other, each a
 * little-endian uint32 length and then that many bytes (not NUL-terminated, any content).
 *
 * Part of the plugin ABI: members only ever grow at the end of what is marked as growing; nothing
 * here changes meaning without PENSTOCK_BACKEND_ABI being raised.
 */
#ifndef PENSTOCK_TENSOR_H
#define PENSTOCK_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers are those of inference.DataType in model_config.proto. */
enum penstock_dtype {
    PENSTOCK_INVALID = 0,
    PENSTOCK_BOOL = 1,
    PENSTOCK_UINT8 = 2,
    PENSTOCK_UINT16 = 3,
    PENSTOCK_UINT32 = 4,
    PENSTOCK_UINT64 = 5,
    PENSTOCK_INT8 = 6,
    PENSTOCK_INT16 = 7,
    PENSTOCK_INT32 = 8,
    PENSTOCK_INT64 = 9,
    PENSTOCK_FP16 = 10,
    PENSTOCK_FP32 = 11,
    PENSTOCK_FP64 = 12,
    PENSTOCK_BYTES = 13,
    PENSTOCK_BF16 = 14
};

#define PENSTOCK_DTYPE_COUNT 15u
#define PENSTOCK_RANK_MAX 16u

enum penstock_place_kind { PENSTOCK_CPU = 0, PENSTOCK_PINNED = 1, PENSTOCK_CUDA = 2 };

/* Where the bytes lie. Everything is PENSTOCK_CPU unless a backend asked for more. */
struct penstock_place {
    enum penstock_place_kind kind;
    int32_t device; /* 0 for cpu and pinned */
};

struct penstock_tensor {
    const char *name; /* NUL-terminated UTF-8 */
    enum penstock_dtype dtype;
    uint32_t rank;                     /* 0 to PENSTOCK_RANK_MAX; 0 is a scalar */
    int64_t shape[PENSTOCK_RANK_MAX];  /* each >= 0 in a value; -1 (any) only in a signature */
    const void *data;                  /* may be NULL when size is 0 */
    size_t size;                       /* bytes */
    struct penstock_place place;
    void *owner;                       /* the host's: leave it alone */
};

#ifdef __cplusplus
}
#endif

#endif
