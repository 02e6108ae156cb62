/* slice.h - a borrowed view of bytes: valid while its lender holds them. Not NUL-terminated. */
#ifndef BASE_SLICE_H
#define BASE_SLICE_H

#include <stdbool.h>
#include <string.h>

#include "base/def.h"

struct slice {
    const uint8_t *data;
    size_t size;
};

/* For printf: printf("%.*s", SLICE_ARG(s)). */
#define SLICE_ARG(s) (int)MIN((s).size, (size_t)INT32_MAX), (const char *)(s).data
/* A slice of a string literal, also as a constant initialiser. */
#define SLICE_LIT(text) { (const uint8_t *)(text), sizeof(text) - 1 }

static inline struct slice slice_make(const void *data, size_t size)
{
    return (struct slice){ (const uint8_t *)data, size };
}

static inline struct slice slice_of(const char *text)
{
    return (struct slice){ (const uint8_t *)text, strlen(text) };
}

static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline bool slice_is(struct slice a, const char *text)
{
    return slice_eq(a, slice_of(text));
}

/* ASCII letters compare without case: header names and values. */
bool slice_is_nocase(struct slice a, const char *text);
bool slice_starts(struct slice a, const char *prefix);
bool slice_ends(struct slice a, const char *suffix);
/* Index of the first `byte`, or a.size when there is none. */
size_t slice_find(struct slice a, uint8_t byte);
/* The value of a hexadecimal digit, upper or lower case; -1: it is none. */
static inline int slice_hex(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Without the first n bytes (n <= size). Nothing of an empty slice without an address is one too:
 * C17 does not define NULL + 0, and compilers make the same one addition of this. */
static inline struct slice slice_skip(struct slice a, size_t n)
{
    return (struct slice){ n == 0 ? a.data : a.data + n, a.size - n };
}
static inline struct slice slice_first(struct slice a, size_t n)
{
    return (struct slice){ a.data, MIN(n, a.size) };
}
/* Without blanks and tabs at both ends. */
struct slice slice_trim(struct slice a);
/* A whole decimal number with digits only; false on anything else or on overflow. */
bool slice_to_u64(struct slice a, uint64_t *ret);

#endif
