/* npy.h - NumPy's .npy files (NEP 1, versions 1.0 to 3.0) as tensors. Pure; any thread.
 * Little-endian C-order arrays of bool, ints, floats, and S (bytes) and U (UCS-4) strings, which
 * become BYTES. Fortran order, big-endian, structured and object arrays are refused by name. */
#ifndef CODEC_NPY_H
#define CODEC_NPY_H

#include "base/err.h"
#include "base/slice.h"
#include "penstock/tensor.h"

struct arena;

/* ret's data points into `file` when it can (numbers), else into the arena (strings). */
MUST_USE enum err_code npy_read(struct penstock_tensor *ret, struct arena *arena, struct slice file,
                                struct err *err);
/* The header (magic, version, dict, padding) for a tensor that is not BYTES; returns its size.
 * out has 256 bytes... enough for PENSTOCK_RANK_MAX dims. */
enum { NPY_HEADER_MAX = 512 };
size_t npy_write_header(uint8_t out[NPY_HEADER_MAX], const struct penstock_tensor *tensor);

#endif
