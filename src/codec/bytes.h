/* bytes.h - BYTES tensors: elements of a little-endian uint32 length and that many bytes. Pure. */
#ifndef CODEC_BYTES_H
#define CODEC_BYTES_H

#include "base/err.h"
#include "base/slice.h"

/* Takes the next element from *rest; false when rest is empty or truncated. */
bool bytes_next(struct slice *rest, struct slice *ret);
/* Exactly `count` elements and nothing else? */
MUST_USE enum err_code bytes_check(struct slice data, uint64_t count, const char *name,
                                   struct err *err);
/* Whether BOOL bytes are all 0 or 1. */
bool bool_check(struct slice data);

#endif
