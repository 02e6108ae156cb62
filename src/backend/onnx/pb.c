/* pb.c - SPDX-License-Identifier: Apache-2.0 */
#include "backend/onnx/pb.h"

enum { VARINT_BYTES_MAX = 10, NUMBER_MAX = (1 << 29) - 1 };

bool pb_varint(struct slice *rest, uint64_t *ret)
{
    uint64_t value = 0;

    for (size_t i = 0; i < rest->size && i < VARINT_BYTES_MAX; i++) {
        uint8_t byte = rest->data[i];
        /* The tenth byte holds the last bit of 64; what more it says is dropped, as others do. */
        value |= (uint64_t)(byte & 0x7fu) << 7 * i;
        if (byte < 0x80u) {
            *rest = slice_skip(*rest, i + 1);
            *ret = value;
            return true;
        }
    }
    return false;
}

static bool fixed(struct slice *rest, size_t size, uint64_t *ret)
{
    if (rest->size < size)
        return false;
    *ret = 0;
    for (size_t i = 0; i < size; i++)
        *ret |= (uint64_t)rest->data[i] << 8 * i;
    *rest = slice_skip(*rest, size);
    return true;
}

bool pb_next(struct pb *pb, struct pb_field *ret)
{
    uint64_t tag, size;
    bool is_read = false;

    if (pb->is_damaged || pb->rest.size == 0)
        return false;
    *ret = (struct pb_field){ 0 };
    if (pb_varint(&pb->rest, &tag) && tag >> 3 >= 1 && tag >> 3 <= NUMBER_MAX) {
        ret->number = (uint32_t)(tag >> 3);
        ret->type = (enum pb_type)(tag & 7u);
        switch (ret->type) {
        case PB_VARINT: is_read = pb_varint(&pb->rest, &ret->value); break;
        case PB_64BIT: is_read = fixed(&pb->rest, 8, &ret->value); break;
        case PB_32BIT: is_read = fixed(&pb->rest, 4, &ret->value); break;
        case PB_BYTES:
            is_read = pb_varint(&pb->rest, &size) && size <= pb->rest.size;
            if (is_read) {
                ret->bytes = slice_first(pb->rest, (size_t)size);
                pb->rest = slice_skip(pb->rest, (size_t)size);
            }
            break;
        }
    }
    pb->is_damaged = !is_read;
    return is_read;
}
