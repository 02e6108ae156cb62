/* bytes.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/bytes.h"

/* Does `rest` begin with a whole element? *ret is its length. */
static bool has_element(struct slice rest, uint32_t *ret)
{
    if (rest.size < 4)
        return false;
    memcpy(ret, rest.data, 4);
    return rest.size - 4 >= *ret;
}

bool bytes_next(struct slice *rest, struct slice *ret)
{
    uint32_t length;

    if (!has_element(*rest, &length))
        return false;
    *ret = slice_make(rest->data + 4, length);
    *rest = slice_skip(*rest, 4 + (size_t)length);
    return true;
}

enum err_code bytes_check(struct slice data, uint64_t count, const char *name, struct err *err)
{
    struct slice rest = data, element;

    for (uint64_t i = 0; i < count; i++) {
        size_t at = data.size - rest.size;
        if (bytes_next(&rest, &element))
            continue;
        uint32_t length;
        if (rest.size < 4)
            return err_set(err, E_INVALID,
                           "%s: its %zu bytes end in element %llu of %llu: expected the 4 bytes "
                           "of its length at byte %zu, found %zu",
                           name, data.size, (unsigned long long)i, (unsigned long long)count, at,
                           rest.size);
        memcpy(&length, rest.data, 4);
        return err_set(err, E_INVALID,
                       "%s: element %llu of %llu (at byte %zu) says it has %u bytes, but only "
                       "%zu follow",
                       name, (unsigned long long)i, (unsigned long long)count, at, length,
                       rest.size - 4);
    }
    if (rest.size != 0)
        return err_set(err, E_INVALID, "%s: %zu bytes follow its %llu elements (at byte %zu)", name,
                       rest.size, (unsigned long long)count, data.size - rest.size);
    return OK;
}

bool bool_check(struct slice data)
{
    uint64_t seen = 0;
    size_t at = 0;

    for (; data.size - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, data.data + at, 8);
        seen |= word;
    }
    for (; at < data.size; at++)
        seen |= data.data[at];
    return (seen & ~UINT64_C(0x0101010101010101)) == 0;
}
