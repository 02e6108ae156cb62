/* pb_text.h - protobuf fields at the end of a text that grows: for messages that are written seldom, the
 * inner ones first. What is written often knows its size (pb.h). */
#ifndef BASE_PB_TEXT_H
#define BASE_PB_TEXT_H

#include "base/pb.h"
#include "base/text.h"

static inline void pb_text_varint(struct text *out, uint64_t value)
{
    uint8_t bytes[PB_VARINT_MAX];

    text_put(out, bytes, (size_t)(pb_put_varint(bytes, value) - bytes));
}

static inline void pb_text_uint(struct text *out, uint32_t number, uint64_t value)
{
    pb_text_varint(out, (uint64_t)number << 3 | PB_VARINT);
    pb_text_varint(out, value);
}

static inline void pb_text_bytes(struct text *out, uint32_t number, struct slice bytes)
{
    pb_text_varint(out, (uint64_t)number << 3 | PB_LEN);
    pb_text_varint(out, bytes.size);
    text_slice_put(out, bytes);
}

#endif
