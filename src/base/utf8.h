/* utf8.h - is it UTF-8 (RFC 3629: shortest form, no surrogates, at most U+10FFFF)? */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include "base/slice.h"

/* Bytes of the first character, 1 to 4; 0 when it is not valid or text is empty. */
size_t utf8_step(struct slice text);
/* Offset of the first byte that is not part of valid UTF-8; text.size when all is. */
size_t utf8_valid_prefix(struct slice text);
/* Writes a code point (a Unicode scalar value) as 1-4 bytes; returns how many. */
size_t utf8_put(uint8_t out[4], uint32_t code_point);

#endif
