/* pb.h - the protobuf wire format, field by field: a reader that copies nothing and a writer into
 * memory that is known to be large enough (protobuf.dev, "Encoding").
 *
 * Read     pb_begin (or pb_of), then pb_next until it says false; pb_failed tells an end from a fault, and the
 *          reader then stays there: r->fault says what, pb_at where. A field of wire type LEN gives
 *          a view of the message's own bytes. Unknown fields are skipped by not looking at them;
 *          groups (wire types 3 and 4) are skipped whole, at most 100 deep. Nested messages are
 *          another pb_begin on the field's bytes; how deep is the caller's own bound.
 *          What is taken is what protobuf's own parsers take: varints of up to 10 bytes, of which
 *          bits above the 64th are dropped, tags and lengths of up to 5, that fit 32 and 31 bits, and
 *          no field 0, not even in a group.
 * Write    Sizes first (pb_size_*), then pb_put_*: two passes, no growing, no copy of what is large.
 *          pb3_size_* and pb3_put_* leave out what is 0 or empty, as proto3 does.
 * Pure functions; any thread.
 */
#ifndef BASE_PB_H
#define BASE_PB_H

#include <stdbool.h>

#include "base/slice.h"

enum pb_wire { PB_VARINT = 0, PB_I64 = 1, PB_LEN = 2, PB_SGROUP = 3, PB_EGROUP = 4, PB_I32 = 5 };
enum { PB_FIELD_MAX = 536870911, PB_VARINT_MAX = 10, PB_SIZE_MAX = INT32_MAX };

struct pb_reader {
    const uint8_t *at, *end; /* the same at the end, and from a fault on */
    const uint8_t *begin;
    const char *fault; /* what is wrong, once something is; else NULL */
};

struct pb_field {
    uint32_t number;
    enum pb_wire wire;  /* never a group's */
    uint64_t value;     /* VARINT, I64, I32 (zero-extended) */
    struct slice bytes; /* LEN */
};

static inline void pb_begin(struct pb_reader *r, struct slice bytes)
{
    r->begin = r->at = bytes.data;
    r->end = bytes.data == NULL ? NULL : bytes.data + bytes.size;
    r->fault = NULL;
}

static inline struct pb_reader pb_of(struct slice bytes)
{
    struct pb_reader r;

    pb_begin(&r, bytes);
    return r;
}

static inline bool pb_failed(const struct pb_reader *r)
{
    return r->fault != NULL;
}

static inline size_t pb_at(const struct pb_reader *r) /* bytes read, or where the fault is */
{
    return (size_t)(r->at - r->begin);
}

MUST_USE bool pb_next_any(struct pb_reader *r, struct pb_field *ret);
MUST_USE bool pb_varint_any(struct pb_reader *r, uint64_t *ret);

/* The next field into *ret; false at the end, or at a fault. */
MUST_USE static inline bool pb_next(struct pb_reader *r, struct pb_field *ret)
{
    const uint8_t *at = r->at;
    ptrdiff_t left = r->end - at;

    /* Fields 1 to 15 of less than 128 bytes, or a number below 128: nearly all there are. */
    if (LIKELY(left >= 2 && (at[0] | at[1]) < 0x80 && at[0] >= 8)) {
        ret->number = at[0] >> 3;
        if ((at[0] & 7) == PB_LEN) {
            if (LIKELY(at[1] <= left - 2)) {
                ret->wire = PB_LEN;
                ret->bytes = slice_make(at + 2, at[1]);
                r->at = at + 2 + at[1];
                return true;
            }
        } else if ((at[0] & 7) == PB_VARINT) {
            ret->wire = PB_VARINT;
            ret->value = at[1];
            r->at = at + 2;
            return true;
        }
    }
    return pb_next_any(r, ret);
}

/* A bare varint of a packed field; false at the end or at a fault. */
MUST_USE static inline bool pb_varint(struct pb_reader *r, uint64_t *ret)
{
    if (LIKELY(r->at != r->end && *r->at < 0x80)) {
        *ret = *r->at++;
        return true;
    }
    return pb_varint_any(r, ret);
}

static inline int64_t pb_zigzag(uint64_t value) /* sint32, sint64 */
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

/* -- sizes ------------------------------------------------------------------------------------- */

static inline size_t pb_size_varint(uint64_t value)
{
    /* 7 bits a byte: (bits * 9 + 64) / 64 is their number rounded up, for 1 to 64 bits. */
    return (size_t)((64 - __builtin_clzll(value | 1)) * 9 + 64) / 64;
}

static inline size_t pb_size_tag(uint32_t number)
{
    return pb_size_varint((uint64_t)number << 3);
}

static inline size_t pb_size_len(uint32_t number, size_t size) /* tag, length and the bytes */
{
    return pb_size_tag(number) + pb_size_varint(size) + size;
}

static inline size_t pb_size_packed(uint32_t count, const int64_t *values) /* the values alone */
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += pb_size_varint((uint64_t)values[i]);
    return size;
}

static inline size_t pb3_size_uint(uint32_t number, uint64_t value)
{
    return value == 0 ? 0 : pb_size_tag(number) + pb_size_varint(value);
}

static inline size_t pb3_size_bytes(uint32_t number, struct slice bytes)
{
    return bytes.size == 0 ? 0 : pb_size_len(number, bytes.size);
}

static inline size_t pb3_size_packed(uint32_t number, uint32_t count, const int64_t *values)
{
    return count == 0 ? 0 : pb_size_len(number, pb_size_packed(count, values));
}

/* -- writing: each returns where the next byte goes --------------------------------------------- */

static inline uint8_t *pb_put_varint(uint8_t *at, uint64_t value)
{
    while (value >= 0x80) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

static inline uint8_t *pb_put_tag(uint8_t *at, uint32_t number, enum pb_wire wire)
{
    return pb_put_varint(at, (uint64_t)number << 3 | (uint64_t)wire);
}

static inline uint8_t *pb_put_uint(uint8_t *at, uint32_t number, uint64_t value)
{
    return pb_put_varint(pb_put_tag(at, number, PB_VARINT), value);
}

/* Tag and length only: the bytes follow, from wherever they are. */
static inline uint8_t *pb_put_head(uint8_t *at, uint32_t number, size_t size)
{
    return pb_put_varint(pb_put_tag(at, number, PB_LEN), size);
}

static inline uint8_t *pb_put_bytes(uint8_t *at, uint32_t number, struct slice bytes)
{
    at = pb_put_head(at, number, bytes.size);
    if (bytes.size != 0)
        memcpy(at, bytes.data, bytes.size);
    return at + bytes.size;
}

static inline uint8_t *pb_put_i32(uint8_t *at, uint32_t number, uint32_t bits)
{
    at = pb_put_tag(at, number, PB_I32);
    memcpy(at, &bits, sizeof bits); /* little-endian, like every machine this is built for */
    return at + sizeof bits;
}

static inline uint8_t *pb_put_i64(uint8_t *at, uint32_t number, uint64_t bits)
{
    at = pb_put_tag(at, number, PB_I64);
    memcpy(at, &bits, sizeof bits);
    return at + sizeof bits;
}

static inline uint8_t *pb3_put_uint(uint8_t *at, uint32_t number, uint64_t value)
{
    return value == 0 ? at : pb_put_uint(at, number, value);
}

static inline uint8_t *pb3_put_bytes(uint8_t *at, uint32_t number, struct slice bytes)
{
    return bytes.size == 0 ? at : pb_put_bytes(at, number, bytes);
}

static inline uint8_t *pb3_put_packed(uint8_t *at, uint32_t number, uint32_t count,
                                      const int64_t *values)
{
    if (count == 0)
        return at;
    at = pb_put_head(at, number, pb_size_packed(count, values));
    for (uint32_t i = 0; i < count; i++)
        at = pb_put_varint(at, (uint64_t)values[i]);
    return at;
}

#endif
