/* convert.h - elements of one datatype as another, by value. Pure; any thread. */
#ifndef CONTRACT_CONVERT_H
#define CONTRACT_CONVERT_H

#include <stdbool.h>

#include "base/def.h"
#include "penstock/tensor.h"

/* Numbers to numbers (not BOOL, not BYTES): can some values of `from` be taken as `to`? */
bool convert_can(enum penstock_dtype from, enum penstock_dtype to);
/* Converts count elements. Floats are rounded to the nearest; what would become infinite, or as an
 * integer is not whole or out of range, ends it: false, with its index. convert_can holds. */
bool convert_elements(enum penstock_dtype to, void *out, enum penstock_dtype from,
                      const void *elements, uint64_t count, uint64_t *ret_bad);

#endif
