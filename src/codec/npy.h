/* npy.h - NumPy's .npy files (NEP 1, versions 1.0 to 3.0) as tensors. Pure; any thread.
 *
 * Little-endian C-order arrays of bool, ints, floats, and S (bytes) and U (UCS-4) strings, which
 * become BYTES without the zeros that NumPy pads them with. Fortran order, big-endian, structured,
 * object, complex and date arrays are refused by name, with what to call in NumPy instead. BF16 has
 * no NumPy dtype: it is written as ml_dtypes does ('<V2') and not read.
 */
#ifndef CODEC_NPY_H
#define CODEC_NPY_H

#include "base/err.h"
#include "base/slice.h"
#include "penstock/tensor.h"

struct arena;

/* ret's data points into `file` when it can (numbers; aligned as `file` is), else into the arena
 * (strings). ret->name is "". The file must hold exactly its array: E_INVALID otherwise. */
MUST_USE enum err_code npy_read(struct penstock_tensor *ret, struct arena *arena, struct slice file,
                                struct err *err);
/* The header (magic, version 1.0, dict, padding to 64 bytes) for a tensor that is not BYTES; its
 * data follow it in a file. Returns its size. */
enum { NPY_HEADER_MAX = 512 };
size_t npy_write_header(uint8_t out[NPY_HEADER_MAX], const struct penstock_tensor *tensor);

#endif
