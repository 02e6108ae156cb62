/* bytes_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/bytes.h"

#include <stdlib.h>

#include "test/harness.h"

static const struct {
    const char *data;
    size_t size;
    uint64_t count;
    const char *error; /* NULL: fine */
} cases[] = {
    { "", 0, 0, NULL },
    { "\0\0\0\0", 4, 1, NULL },
    { "\1\0\0\0a\0\0\0\0\2\0\0\0bc", 15, 3, NULL },
    { "\4\0\0\0\xff\0\1\2", 8, 1, NULL }, /* any content */
    { "", 0, 1,
      "x: its 0 bytes end in element 0 of 1: expected the 4 bytes of its length at byte 0, found "
      "0" },
    { "\1\0\0\0a\0\0\0", 8, 2,
      "x: its 8 bytes end in element 1 of 2: expected the 4 bytes of its length at byte 5, found "
      "3" },
    { "\2\0\0\0a", 5, 1, "x: element 0 of 1 (at byte 0) says it has 2 bytes, but only 1 follow" },
    { "\1\0\0\0a\xff\xff\xff\xff", 9, 2,
      "x: element 1 of 2 (at byte 5) says it has 4294967295 bytes, but only 0 follow" },
    { "\1\0\0\0ab", 6, 1, "x: 1 bytes follow its 1 elements (at byte 5)" },
    { "\0\0\0\0", 4, 0, "x: 4 bytes follow its 0 elements (at byte 0)" },
    { "\0\0\0\0", 4, UINT64_MAX,
      "x: its 4 bytes end in element 1 of 18446744073709551615: expected the 4 bytes of its length "
      "at byte 4, found 0" },
};

TEST(bytes_cases)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        /* A copy of just that size, so that address sanitizer sees a byte too many. */
        uint8_t *copy = malloc(cases[i].size + 1);
        uint8_t *data = copy + 1;
        struct err err = { 0 };
        memcpy(data, cases[i].data, cases[i].size);
        struct slice slice = slice_make(data, cases[i].size);
        enum err_code code = bytes_check(slice, cases[i].count, "x", &err);
        check(code == (cases[i].error == NULL ? OK : E_INVALID), "case %zu: %s", i, err.text);
        check(cases[i].error == NULL || strcmp(err.text, cases[i].error) == 0, "\"%s\"", err.text);
        free(copy);
    }
}

TEST(bytes_next_walks_and_stops)
{
    static const char data[] = "\1\0\0\0a\0\0\0\0\2\0\0\0bc";
    struct slice rest = slice_make(data, 15), element;

    check(bytes_next(&rest, &element) && slice_is(element, "a"), "first");
    check(bytes_next(&rest, &element) && element.size == 0, "second");
    check(bytes_next(&rest, &element) && slice_is(element, "bc"), "third");
    check(!bytes_next(&rest, &element) && slice_is(element, "bc"), "end: untouched");
    for (size_t cut = 0; cut < 15; cut++) {
        unsigned whole = 0;
        rest = slice_make(data, cut);
        while (bytes_next(&rest, &element))
            whole++;
        check(whole == (cut < 5 ? 0 : cut < 9 ? 1 : 2), "cut %zu: %u", cut, whole);
        check((bytes_check(slice_make(data, cut), whole, "x", NULL) == OK) ==
                  (cut == 0 || cut == 5 || cut == 9),
              "cut %zu", cut);
    }
}

TEST(bool_bytes)
{
    uint8_t data[40] = { 0 };

    for (size_t size = 0; size <= sizeof data; size++) {
        for (size_t i = 0; i < size; i++) {
            data[i] = 1;
            check(bool_check(slice_make(data, size)), "1 at %zu of %zu", i, size);
            for (unsigned bit = 1; bit < 8; bit++) {
                data[i] = (uint8_t)(1u << bit);
                check(!bool_check(slice_make(data, size)), "bit %u at %zu of %zu", bit, i, size);
                check(bool_check(slice_make(data, i)), "before it");
            }
            data[i] = (uint8_t)(i % 2);
        }
    }
}
