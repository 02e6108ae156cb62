/* pb.h - reads a protobuf message field by field, in place. The bytes may be anything.
 *
 * Pure. Groups (an obsolete form that ONNX does not use) count as damage.
 */
#ifndef BACKEND_ONNX_PB_H
#define BACKEND_ONNX_PB_H

#include "base/slice.h"

enum pb_type { PB_VARINT = 0, PB_64BIT = 1, PB_BYTES = 2, PB_32BIT = 5 };

struct pb {
    struct slice rest;
    bool is_damaged; /* set by pb_next, which then ends */
};

struct pb_field {
    uint32_t number;
    enum pb_type type;
    uint64_t value;     /* of PB_VARINT, PB_64BIT and PB_32BIT */
    struct slice bytes; /* of PB_BYTES */
};

static inline struct pb pb_of(struct slice message)
{
    return (struct pb){ message, false };
}

/* Takes a varint from the front of *rest; false, with *rest as it was, when there is none. */
bool pb_varint(struct slice *rest, uint64_t *ret);

/* The next field; false at the end, and where the bytes stop making sense (is_damaged). */
bool pb_next(struct pb *pb, struct pb_field *ret);

#endif
