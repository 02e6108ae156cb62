/* utf8.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"

static bool is_tail(uint8_t c)
{
    return (c & 0xc0u) == 0x80u;
}

size_t utf8_step(struct slice t)
{
    if (t.size == 0)
        return 0;
    uint8_t c = t.data[0];
    if (c < 0x80)
        return 1;
    if (c < 0xc2 || c > 0xf4 || t.size < 2 || !is_tail(t.data[1]))
        return 0;
    if (c < 0xe0)
        return 2;
    uint8_t d = t.data[1];
    if (t.size < 3 || !is_tail(t.data[2]))
        return 0;
    if (c < 0xf0)
        return (c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) ? 0 : 3;
    if (t.size < 4 || !is_tail(t.data[3]))
        return 0;
    return (c == 0xf0 && d < 0x90) || (c == 0xf4 && d > 0x8f) ? 0 : 4;
}

size_t utf8_valid_prefix(struct slice text)
{
    size_t at = 0;

    while (at < text.size) {
        uint64_t eight;
        if (text.size - at >= 8) {
            memcpy(&eight, text.data + at, 8);
            if ((eight & 0x8080808080808080u) == 0) {
                at += 8;
                continue;
            }
        }
        size_t step = utf8_step(slice_skip(text, at));
        if (step == 0)
            return at;
        at += step;
    }
    return at;
}

size_t utf8_put(uint8_t out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0u | c >> 6);
        out[1] = (uint8_t)(0x80u | (c & 0x3fu));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0u | c >> 12);
        out[1] = (uint8_t)(0x80u | (c >> 6 & 0x3fu));
        out[2] = (uint8_t)(0x80u | (c & 0x3fu));
        return 3;
    }
    out[0] = (uint8_t)(0xf0u | c >> 18);
    out[1] = (uint8_t)(0x80u | (c >> 12 & 0x3fu));
    out[2] = (uint8_t)(0x80u | (c >> 6 & 0x3fu));
    out[3] = (uint8_t)(0x80u | (c & 0x3fu));
    return 4;
}
