/* pb.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/pb.h"

bool pb_varint(struct pb_reader *r, uint64_t *ret)
{
    uint64_t value = 0;
    const uint8_t *at = r->at;

    if (UNLIKELY(r->fault != NULL || at == r->end))
        return false;
    if (LIKELY(*at < 0x80)) {
        *ret = *at;
        r->at = at + 1;
        return true;
    }
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (at == r->end) {
            r->fault = "a number ends in the middle";
            return false;
        }
        uint8_t byte = *at++;
        /* The tenth byte has room for one bit; what parsers of old drop beyond it is a fault here
         * too only when the number does not end there. */
        value |= shift < 63 || byte <= 1 ? (uint64_t)(byte & 0x7f) << shift
                                         : (uint64_t)(byte & 1) << 63;
        if (byte < 0x80) {
            *ret = value;
            r->at = at;
            return true;
        }
    }
    r->fault = "a number of more than 10 bytes";
    return false;
}

static bool take_field(struct pb_reader *r, struct pb_field *ret)
{
    uint64_t tag, size;

    if (!pb_varint(r, &tag))
        return false;
    if (UNLIKELY(tag > UINT32_MAX || tag >> 3 == 0)) {
        r->fault = "a field number that is 0 or too large";
        return false;
    }
    ret->number = (uint32_t)(tag >> 3);
    ret->wire = (enum pb_wire)(tag & 7);
    switch (ret->wire) {
    case PB_VARINT:
        if (pb_varint(r, &ret->value))
            return true;
        break;
    case PB_I64:
        if (r->end - r->at < 8)
            break;
        memcpy(&ret->value, r->at, 8);
        r->at += 8;
        return true;
    case PB_LEN:
        if (!pb_varint(r, &size))
            break;
        if (UNLIKELY(size > (uint64_t)(r->end - r->at))) {
            r->fault = "a length that reaches past the end";
            return false;
        }
        ret->bytes = slice_make(r->at, (size_t)size);
        r->at += size;
        return true;
    case PB_I32: {
        uint32_t bits;
        if (r->end - r->at < 4)
            break;
        memcpy(&bits, r->at, 4);
        ret->value = bits;
        r->at += 4;
        return true;
    }
    case PB_SGROUP:
    case PB_EGROUP: return true;
    default: r->fault = "a wire type that does not exist"; return false;
    }
    if (r->fault == NULL)
        r->fault = "a field ends in the middle";
    return false;
}

/* Everything to the group's end: groups inside groups are counted, not called, and each end must
 * name what it ends. */
static COLD bool skip_group(struct pb_reader *r, uint32_t number)
{
    enum { DEEP_MAX = 100 };
    uint32_t open[DEEP_MAX];
    struct pb_field field;
    unsigned deep = 0;

    open[deep++] = number;
    while (deep > 0) {
        if (!take_field(r, &field)) {
            if (r->fault == NULL)
                r->fault = "a group without its end";
            return false;
        }
        if (field.wire == PB_SGROUP) {
            if (deep == DEEP_MAX) {
                r->fault = "groups nested more than 100 deep";
                return false;
            }
            open[deep++] = field.number;
        } else if (field.wire == PB_EGROUP && open[--deep] != field.number) {
            r->fault = "a group's end that ends another one";
            return false;
        }
    }
    return true;
}

bool pb_next(struct pb_reader *r, struct pb_field *ret)
{
    for (;;) {
        if (!take_field(r, ret))
            return false;
        if (LIKELY(ret->wire != PB_SGROUP && ret->wire != PB_EGROUP))
            return true;
        if (ret->wire == PB_EGROUP) {
            r->fault = "a group's end without its begin";
            return false;
        }
        if (!skip_group(r, ret->number))
            return false;
    }
}
