/* base64.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/base64.h"

static int digit_of(uint8_t c, enum base64_alphabet alphabet)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+' || c == '/')
        return (alphabet & BASE64_STANDARD) == 0 ? -1 : c == '+' ? 62 : 63;
    if (c == '-' || c == '_')
        return (alphabet & BASE64_URL) == 0 ? -1 : c == '-' ? 62 : 63;
    return -1;
}

struct slice base64_unpadded(struct slice text)
{
    for (int i = 0; i < 2 && text.size > 0 && text.data[text.size - 1] == '='; i++)
        text.size--;
    return text;
}

size_t base64_decode(uint8_t *out, struct slice text, enum base64_alphabet alphabet)
{
    uint32_t bits = 0;

    for (size_t i = 0; i < text.size; i++) {
        int digit = digit_of(text.data[i], alphabet);
        if (digit < 0)
            return i;
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 != 0)
            *out++ = (uint8_t)(bits >> (6 - 2 * (i % 4)));
    }
    uint32_t unused = text.size % 4 == 2 ? 0xf : text.size % 4 == 3 ? 0x3 : 0;
    if ((alphabet & BASE64_EXACT) != 0 && (bits & unused) != 0)
        return text.size - 1;
    return text.size;
}

uint8_t *base64_encode(uint8_t *at, struct slice bytes, bool is_padded)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t left = MIN(bytes.size - i, (size_t)3);
        uint32_t group = (uint32_t)bytes.data[i] << 16;
        if (left > 1)
            group |= (uint32_t)bytes.data[i + 1] << 8;
        if (left > 2)
            group |= bytes.data[i + 2];
        for (size_t k = 0; k < (is_padded ? 4 : left + 1); k++)
            *at++ = k <= left ? (uint8_t)digits[group >> (18 - 6 * k) & 63] : '=';
    }
    return at;
}
