/* pb.c - SPDX-License-Identifier: Apache-2.0
 *
 * What is rare: long tags, long numbers, fixed-width fields, groups, faults. A fault moves the end of
 * the reader to where it is, so that no later call has to ask whether there was one.
 */
#include "base/pb.h"

enum { TAG_BYTES_MAX = 5, SIZE_BYTES_MAX = 5, GROUPS_MAX = 100 };

static COLD bool fault(struct pb_reader *r, const uint8_t *at, const char *what)
{
    r->at = r->end = at;
    r->fault = what;
    return false;
}

/* A number of at most `bytes_max` bytes; moves on only when there is one. */
static bool take_number(struct pb_reader *r, unsigned bytes_max, const char *too_long,
                        uint64_t *ret)
{
    const uint8_t *at = r->at;
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes_max; i++) {
        if (at == r->end)
            return fault(r, r->at, "a number that ends in the middle");
        uint8_t byte = *at++;
        value |= (uint64_t)(byte & 0x7f) << 7 * i; /* the tenth byte's upper bits drop out */
        if (byte < 0x80) {
            r->at = at;
            *ret = value;
            return true;
        }
    }
    return fault(r, r->at, too_long);
}

bool pb_varint_any(struct pb_reader *r, uint64_t *ret)
{
    return r->at != r->end && take_number(r, PB_VARINT_MAX, "a number of more than 10 bytes", ret);
}

static bool take_fixed(struct pb_reader *r, size_t size, uint64_t *ret)
{
    if (UNLIKELY((size_t)(r->end - r->at) < size))
        return fault(r, r->at, "a number that ends in the middle");
    *ret = 0;
    memcpy(ret, r->at, size); /* little-endian, like every machine this is built for */
    r->at += size;
    return true;
}

static bool take_bytes(struct pb_reader *r, struct slice *ret)
{
    const uint8_t *begin = r->at;
    uint64_t size = 0;

    if (!take_number(r, SIZE_BYTES_MAX, "a length of more than 5 bytes", &size))
        return false;
    if (UNLIKELY(size > PB_SIZE_MAX))
        return fault(r, begin, "a length of 2 GiB or more");
    if (UNLIKELY(size > (uint64_t)(r->end - r->at)))
        return fault(r, begin, "a length that reaches past the end");
    *ret = slice_make(r->at, (size_t)size);
    r->at += size;
    return true;
}

/* One tag and what follows it; the bounds of a group are fields of their own. */
static bool take_field(struct pb_reader *r, struct pb_field *ret)
{
    const uint8_t *begin = r->at;
    uint64_t tag = 0;

    if (!take_number(r, TAG_BYTES_MAX, "a tag of more than 5 bytes", &tag))
        return false;
    if (UNLIKELY(tag > UINT32_MAX))
        return fault(r, begin, "a field number above 536870911");
    if (UNLIKELY(tag >> 3 == 0))
        return fault(r, begin, "a field number of 0");
    ret->number = (uint32_t)(tag >> 3);
    ret->wire = (enum pb_wire)(tag & 7);
    switch (ret->wire) {
    case PB_VARINT:
        return take_number(r, PB_VARINT_MAX, "a number of more than 10 bytes", &ret->value);
    case PB_I64: return take_fixed(r, 8, &ret->value);
    case PB_LEN: return take_bytes(r, &ret->bytes);
    case PB_I32: return take_fixed(r, 4, &ret->value);
    case PB_SGROUP:
    case PB_EGROUP: return true;
    default: return fault(r, begin, "a wire type that does not exist");
    }
}

/* Everything to the group's end: groups inside groups are counted, not called, and each end must
 * name what it ends. */
static COLD bool skip_group(struct pb_reader *r, uint32_t number)
{
    uint32_t open[GROUPS_MAX];
    struct pb_field field;
    unsigned deep = 0;

    open[deep++] = number;
    while (deep > 0) {
        const uint8_t *begin = r->at;
        if (begin == r->end)
            return fault(r, begin, "a group without its end");
        if (!take_field(r, &field))
            return false;
        if (field.wire == PB_SGROUP) {
            if (deep == GROUPS_MAX)
                return fault(r, begin, "groups nested more than 100 deep");
            open[deep++] = field.number;
        } else if (field.wire == PB_EGROUP && open[--deep] != field.number) {
            return fault(r, begin, "the end of a group that is not the open one");
        }
    }
    return true;
}

bool pb_next_any(struct pb_reader *r, struct pb_field *ret)
{
    while (r->at != r->end) {
        const uint8_t *begin = r->at;
        if (!take_field(r, ret))
            return false;
        if (LIKELY(ret->wire != PB_SGROUP && ret->wire != PB_EGROUP))
            return true;
        if (ret->wire == PB_EGROUP)
            return fault(r, begin, "the end of a group that is not open");
        if (!skip_group(r, ret->number))
            return false;
    }
    return false;
}
