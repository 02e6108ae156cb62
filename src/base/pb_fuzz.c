/* pb_fuzz.c - any bytes as a protobuf message: what is read lies in it, and what is written of it
 * reads as the same. SPDX-License-Identifier: Apache-2.0
 */
#include "base/pb.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *put(uint8_t *at, const struct pb_field *field)
{
    switch (field->wire) {
    case PB_VARINT: return pb_put_uint(at, field->number, field->value);
    case PB_I64: return pb_put_i64(at, field->number, field->value);
    case PB_I32: return pb_put_i32(at, field->number, (uint32_t)field->value);
    default: return pb_put_bytes(at, field->number, field->bytes);
    }
}

static void walk(struct slice message, unsigned deep)
{
    struct pb_reader r, back;
    struct pb_field field, again;
    uint64_t value;
    uint8_t *copy = malloc(message.size + 1), *at = copy;

    require(copy != NULL);
    pb_begin(&r, message);
    while (pb_next(&r, &field)) {
        require(field.number >= 1 && field.number <= PB_FIELD_MAX);
        if (field.wire == PB_LEN) {
            require(field.bytes.data >= message.data && field.bytes.size <= message.size);
            require(field.bytes.data + field.bytes.size == r.at);
            if (deep < 4)
                walk(field.bytes, deep + 1);
        }
        at = put(at, &field); /* never longer than what was read */
        require((size_t)(at - copy) <= pb_at(&r));
    }
    require(pb_at(&r) <= message.size && (pb_failed(&r) || pb_at(&r) == message.size));
    require(!pb_next(&r, &field));

    pb_begin(&r, message);
    pb_begin(&back, slice_make(copy, (size_t)(at - copy)));
    while (pb_next(&r, &field)) {
        require(pb_next(&back, &again) && again.number == field.number && again.wire == field.wire);
        require(field.wire == PB_LEN ? slice_eq(again.bytes, field.bytes)
                                     : again.value == field.value);
    }
    require(!pb_next(&back, &again) && !pb_failed(&back));
    free(copy);

    pb_begin(&r, message);
    while (pb_varint(&r, &value))
        require(pb_at(&r) <= message.size && pb_size_varint(value) <= pb_at(&r));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    walk(slice_make(data, size), 0);
    return 0;
}
