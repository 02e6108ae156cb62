/* choose.h - numbers of any datatype: as doubles, and the k largest of a row. Pure; any thread. */
#ifndef CONTRACT_CHOOSE_H
#define CONTRACT_CHOOSE_H

#include "base/def.h"
#include "penstock/tensor.h"

/* Element i of a list of `dtype` (not BYTES). 64-bit integers are rounded. */
double element_f64(enum penstock_dtype dtype, const void *elements, uint64_t i);

/* Indexes of the k largest of n (k <= n), the largest first; equal ones by index, NaN last.
 * n log k; ret has k entries. 64-bit integers are compared exactly. */
void choose_largest(enum penstock_dtype dtype, const void *elements, uint64_t n, uint64_t k,
                    uint64_t *ret);

#endif
