/* dtype.h - the names and sizes of element types (penstock/tensor.h has the types). */
#ifndef MODEL_DTYPE_H
#define MODEL_DTYPE_H

#include "base/slice.h"
#include "penstock/tensor.h"

size_t dtype_size(enum penstock_dtype dtype);          /* bytes of an element; 0 for BYTES */
const char *dtype_name(enum penstock_dtype dtype);     /* KServe: "FP32"; "INVALID" */
const char *dtype_config_name(enum penstock_dtype dtype); /* config.pbtxt: "TYPE_FP32" */
/* PENSTOCK_INVALID when unknown. dtype_from_config also takes the KServe names. */
enum penstock_dtype dtype_from_name(struct slice name);
enum penstock_dtype dtype_from_config(struct slice name);

/* Writes "[2,3]" or "[-1,3]" NUL-terminated; cut when it does not fit. Returns out. */
const char *shape_text(char *out, size_t out_size, uint32_t rank, const int64_t *shape);
/* Elements of a shape without -1; false when negative or past INT64_MAX. */
bool shape_count(uint32_t rank, const int64_t *shape, uint64_t *ret);

#endif
