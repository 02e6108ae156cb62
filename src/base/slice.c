/* slice.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/slice.h"

static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
}

bool slice_is_nocase(struct slice a, const char *text)
{
    size_t size = strlen(text);

    if (a.size != size)
        return false;
    for (size_t i = 0; i < size; i++)
        if (lower(a.data[i]) != lower((uint8_t)text[i]))
            return false;
    return true;
}

bool slice_starts(struct slice a, const char *prefix)
{
    size_t size = strlen(prefix);

    return a.size >= size && slice_eq(slice_first(a, size), slice_make(prefix, size));
}

bool slice_ends(struct slice a, const char *suffix)
{
    size_t size = strlen(suffix);

    return a.size >= size && slice_eq(slice_skip(a, a.size - size), slice_make(suffix, size));
}

size_t slice_find(struct slice a, uint8_t byte)
{
    const uint8_t *at = a.size == 0 ? NULL : memchr(a.data, byte, a.size);

    return at == NULL ? a.size : (size_t)(at - a.data);
}

struct slice slice_trim(struct slice a)
{
    while (a.size > 0 && (a.data[0] == ' ' || a.data[0] == '\t'))
        a = slice_skip(a, 1);
    while (a.size > 0 && (a.data[a.size - 1] == ' ' || a.data[a.size - 1] == '\t'))
        a.size--;
    return a;
}

bool slice_to_u64(struct slice a, uint64_t *ret)
{
    uint64_t value = 0;

    if (a.size == 0)
        return false;
    for (size_t i = 0; i < a.size; i++) {
        unsigned digit = (unsigned)a.data[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return false;
    }
    *ret = value;
    return true;
}
