/* base64.h - bytes as text and back (RFC 4648, sections 4 and 5). Pure; any thread. */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include "base/slice.h"

/* BASE64_EXACT, beside an alphabet: bits behind the last whole byte are 0, so that bytes have one spelling
 * (RFC 4648 section 3.5). */
enum base64_alphabet { BASE64_STANDARD = 1, BASE64_URL = 2, BASE64_ANY = 3, BASE64_EXACT = 4 };

/* Without one or two '=' at the end. */
struct slice base64_unpadded(struct slice text);

/* Bytes that so many digits become. */
static inline size_t base64_decoded(size_t digits)
{
    return digits / 4 * 3 + digits % 4 * 3 / 4;
}

/* Unpadded digits as bytes, base64_decoded(text.size) of them. Returns text.size, or the place of the
 * first character that is no digit, or the last where its bits are not exact. One digit behind a multiple of four says nothing: whoever calls
 * refuses such a text. */
MUST_USE size_t base64_decode(uint8_t *out, struct slice text, enum base64_alphabet alphabet);

static inline size_t base64_size(size_t size, bool is_padded)
{
    return is_padded ? (size + 2) / 3 * 4 : size / 3 * 4 + (size % 3 == 0 ? 0 : size % 3 + 1);
}

/* base64_size bytes, of the standard alphabet; returns where the next byte goes. */
uint8_t *base64_encode(uint8_t *at, struct slice bytes, bool is_padded);

#endif
