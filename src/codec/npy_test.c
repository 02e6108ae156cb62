/* npy_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/npy.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "codec/bytes.h"
#include "model/dtype.h"
#include "test/harness.h"

/* A .npy file of that dict and data, in memory of just its size; free it. */
static struct slice file_of(unsigned major, const char *dict, const void *data, size_t size)
{
    size_t dict_size = strlen(dict), prefix = major == 1 ? 10 : 12;
    uint8_t *file = malloc(prefix + dict_size + size + 1);

    memcpy(file, "\x93NUMPY", 6);
    file[6] = (uint8_t)major;
    file[7] = 0;
    for (size_t i = 8; i < prefix; i++)
        file[i] = (uint8_t)(dict_size >> 8 * (i - 8));
    memcpy(file + prefix, dict, dict_size);
    if (size != 0)
        memcpy(file + prefix + dict_size, data, size);
    return slice_make(file, prefix + dict_size + size);
}

#define DICT(descr, shape) "{'descr': '" descr "', 'fortran_order': False, 'shape': " shape ", }\n"

static const struct {
    unsigned major;
    const char *dict, *data;
    size_t size;
    const char *error; /* NULL: fine */
    enum penstock_dtype dtype;
    const char *shape;
} cases[] = {
    { 1, DICT("<f4", "(2,)"), "\0\0\x80\x3f\0\0\0\x40", 8, NULL, PENSTOCK_FP32, "[2]" },
    { 2, DICT("<f4", "(2,)"), "\0\0\x80\x3f\0\0\0\x40", 8, NULL, PENSTOCK_FP32, "[2]" },
    { 3, DICT("<f4", "(1, 2)"), "\0\0\x80\x3f\0\0\0\x40", 8, NULL, PENSTOCK_FP32, "[1,2]" },
    { 1, DICT("<f8", "()"), "abcdefgh", 8, NULL, PENSTOCK_FP64, "[]" },
    { 1, DICT("<f2", "(1,)"), "ab", 2, NULL, PENSTOCK_FP16, "[1]" },
    { 1, DICT("|b1", "(2,)"), "\0\1", 2, NULL, PENSTOCK_BOOL, "[2]" },
    { 1, DICT("|u1", "(3,)"), "abc", 3, NULL, PENSTOCK_UINT8, "[3]" },
    { 1, DICT("|i1", "(3,)"), "abc", 3, NULL, PENSTOCK_INT8, "[3]" },
    { 1, DICT("<u2", "(1,)"), "ab", 2, NULL, PENSTOCK_UINT16, "[1]" },
    { 1, DICT("<i2", "(1,)"), "ab", 2, NULL, PENSTOCK_INT16, "[1]" },
    { 1, DICT("<u4", "(1,)"), "abcd", 4, NULL, PENSTOCK_UINT32, "[1]" },
    { 1, DICT("<i4", "(1,)"), "abcd", 4, NULL, PENSTOCK_INT32, "[1]" },
    { 1, DICT("<u8", "(1,)"), "abcdefgh", 8, NULL, PENSTOCK_UINT64, "[1]" },
    { 1, DICT("<i8", "(1,)"), "abcdefgh", 8, NULL, PENSTOCK_INT64, "[1]" },
    { 1, DICT("<i8", "(0, 5)"), "", 0, NULL, PENSTOCK_INT64, "[0,5]" },
    { 1, DICT("<i8", "(1L,)"), "abcdefgh", 8, NULL, PENSTOCK_INT64, "[1]" },
    { 1, "{\"shape\":(1,),\"fortran_order\":False,\"descr\":\"|u1\"}", "a", 1, NULL, PENSTOCK_UINT8,
      "[1]" },
    { 1, "{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", "abcd", 4, NULL, PENSTOCK_FP32,
      "[1]" }, /* one dimension has one order */
    { 1, DICT("|S3", "(3,)"), "abcd\0\0\0\0\0", 9, NULL, PENSTOCK_BYTES, "[3]" },
    { 1, DICT("<U2", "(2,)"), "\xe9\0\0\0\0\xf6\1\0a\0\0\0\0\0\0\0", 16, NULL, PENSTOCK_BYTES,
      "[2]" },
    { 1, DICT("|S0", "(2,)"), "", 0, NULL, PENSTOCK_BYTES, "[2]" },

    { 1, DICT(">f4", "(1,)"), "abcd", 4,
      "the .npy array is big-endian ('>f4'); save it as array.astype('<f4')", 0, NULL },
    { 1, DICT(">U1", "(1,)"), "abcd", 4,
      "the .npy array is big-endian ('>U1'); save it as array.astype('<U1')", 0, NULL },
    { 1, DICT("|O", "(1,)"), "abcd", 4,
      "the .npy array holds Python objects ('|O'), which are never unpickled; save numbers or "
      "strings",
      0, NULL },
    { 1, DICT("<c8", "(1,)"), "abcdefgh", 8,
      "the .npy array is complex ('<c8'); save real and imaginary parts: np.stack([a.real, "
      "a.imag], -1)",
      0, NULL },
    { 1, DICT("<M8[ns]", "(1,)"), "abcdefgh", 8,
      "the .npy array holds dates or times ('<M8[ns]'); save numbers: array.astype('int64')", 0,
      NULL },
    { 1, DICT("<V2", "(1,)"), "ab", 2,
      "the .npy array's dtype '<V2' is not supported; supported: bool, int8 to int64, uint8 to "
      "uint64, float16, float32, float64, S and U strings",
      0, NULL },
    { 1, DICT("<f16", "(1,)"), "abcdefghabcdefgh", 16,
      "the .npy array's dtype '<f16' is not supported; supported: bool, int8 to int64, uint8 to "
      "uint64, float16, float32, float64, S and U strings",
      0, NULL },
    { 1, DICT("<Sx", "(1,)"), "a", 1,
      "the .npy array's dtype '<Sx' is not supported; supported: bool, int8 to int64, uint8 to "
      "uint64, float16, float32, float64, S and U strings",
      0, NULL },
    { 1, DICT("<U18446744073709551615", "(1,)"), "a", 1,
      "the .npy array's dtype '<U18446744073709551615' is not supported; supported: bool, int8 to "
      "int64, uint8 to uint64, float16, float32, float64, S and U strings",
      0, NULL },
    { 1, DICT("f4", "(1,)"), "abcd", 4, "the .npy array's dtype 'f4' is not one like '<f4'", 0,
      NULL },
    { 1, DICT("", "(1,)"), "abcd", 4, "the .npy array's dtype '' is not one like '<f4'", 0, NULL },
    { 1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "abcd", 4,
      "the .npy array is structured (it has named fields); save one field: np.save(file, "
      "array['name'])",
      0, NULL },
    { 1, "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }", "abcd", 4,
      "the .npy array is in Fortran order; save it as np.ascontiguousarray(array)", 0, NULL },
    { 1, DICT("|b1", "(2,)"), "\0\2", 2, "the .npy array's bool elements are not all 0 or 1", 0,
      NULL },
    { 1, DICT("<U1", "(1,)"), "\0\xd8\0\0", 4,
      "the .npy array's string 0 holds a character that does not exist in Unicode", 0, NULL },
    { 1, DICT("<U1", "(2,)"), "a\0\0\0\0\0\x11\0", 8,
      "the .npy array's string 1 holds a character that does not exist in Unicode", 0, NULL },
    { 1, DICT("<f4", "(2,)"), "abcd", 4,
      "the .npy file has 4 bytes of data; shape [2] of '<f4' needs another number", 0, NULL },
    { 1, DICT("<f4", "(1,)"), "abcde", 5,
      "the .npy file has 5 bytes of data; shape [1] of '<f4' needs another number", 0, NULL },
    { 1, DICT("<f4", "(9223372036854775807, 2)"), "abcd", 4,
      "the .npy file has 4 bytes of data; shape [9223372036854775807,2] of '<f4' needs another "
      "number",
      0, NULL },
    { 1, DICT("<f8", "(4611686018427387905,)"), "abcdefgh", 8,
      "the .npy file has 8 bytes of data; shape [4611686018427387905] of '<f8' needs another "
      "number",
      0, NULL },
    { 1, DICT("|S0", "(1000000000000,)"), "", 0,
      "the .npy array has 1000000000000 strings of no width", 0, NULL },
    { 1, DICT("|u1", "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)"), "a", 1,
      ".npy header: more than 16 dimensions", 0, NULL },
    { 1, DICT("|u1", "(-1,)"), "a", 1,
      ".npy header (byte 61): expected a dimension (a whole number from 0 on)", 0, NULL },
    { 1, DICT("|u1", "(9223372036854775808,)"), "a", 1,
      ".npy header (byte 61): expected a dimension (a whole number from 0 on)", 0, NULL },
    { 1, DICT("|u1", "(1)"), "a", 1,
      ".npy header (byte 63): expected ',' in the shape of one dimension, as in (3,)", 0, NULL },
    { 1, DICT("|u1", "(1 2)"), "a", 1, ".npy header (byte 63): expected ',' or ')' in the shape", 0,
      NULL },
    { 1, DICT("|u1", "[1]"), "a", 1,
      ".npy header (byte 60): expected a tuple like (2, 3) as the shape", 0, NULL },
    { 1, "{'descr': '|u1', 'shape': (1,), }", "a", 1,
      ".npy header (byte 43): expected the keys descr, fortran_order and shape", 0, NULL },
    { 1, "{'descr': '|u1', 'descr': '|u1'}", "a", 1,
      ".npy header (byte 36): expected each of the keys descr, fortran_order and shape once", 0,
      NULL },
    { 1, "{'color': '|u1'}", "a", 1,
      ".npy header (byte 20): expected each of the keys descr, fortran_order and shape once", 0,
      NULL },
    { 1, "{'fortran_order': 0}", "a", 1, ".npy header (byte 28): expected True or False", 0, NULL },
    { 1, "{'descr': '|u\\x31'}", "a", 1,
      ".npy header (byte 20): expected a dtype in quotes, like '<f4'", 0, NULL },
    { 1, "{'descr': 5}", "a", 1, ".npy header (byte 20): expected a dtype in quotes, like '<f4'", 0,
      NULL },
    { 1, "{descr: 5}", "a", 1, ".npy header (byte 11): expected a key in quotes", 0, NULL },
    { 1, "{'descr' 5}", "a", 1, ".npy header (byte 19): expected ':'", 0, NULL },
    { 1, "{'descr': '|u1' 'shape'}", "a", 1, ".npy header (byte 26): expected ',' or '}'", 0,
      NULL },
    { 1, "[]", "a", 1, ".npy header (byte 10): expected '{'", 0, NULL },
    { 1, "", "", 0, ".npy header (byte 10): expected '{'", 0, NULL },
    { 1, DICT("|u1", "(1,)") "x", "a", 1,
      ".npy header (byte 68): expected nothing but blanks behind the dict", 0, NULL },
};

TEST(npy_cases)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct slice file = file_of(cases[i].major, cases[i].dict, cases[i].data, cases[i].size);
        struct arena *arena = arena_new(1024, 1 << 20);
        struct penstock_tensor tensor = { .rank = 42 };
        struct err err = { 0 };
        char shape[64];
        enum err_code code = npy_read(&tensor, arena, file, &err);
        check(code == (cases[i].error == NULL ? OK : E_INVALID), "%s: %s", cases[i].dict, err.text);
        if (code != OK) {
            check(cases[i].error == NULL || strcmp(err.text, cases[i].error) == 0, "%s: \"%s\"",
                  cases[i].dict, err.text);
            check(tensor.rank == 42, "untouched");
        } else {
            check(tensor.dtype == cases[i].dtype, "%s", cases[i].dict);
            check(strcmp(shape_text(shape, sizeof shape, tensor.rank, tensor.shape),
                         cases[i].shape) == 0,
                  "%s: %s", cases[i].dict, shape);
            if (tensor.dtype != PENSTOCK_BYTES)
                check(tensor.data == file.data + file.size - cases[i].size &&
                          tensor.size == cases[i].size,
                      "%s: the file's own bytes", cases[i].dict);
            check(tensor.name != NULL && tensor.name[0] == '\0', "no name");
        }
        arena_free(&arena);
        free((void *)(uintptr_t)file.data);
    }
}

TEST(npy_strings)
{
    struct arena *arena = arena_new(1024, 1 << 20);
    struct penstock_tensor tensor;
    struct slice file = file_of(1, DICT("|S3", "(3,)"), "abca\0b\0\0\0", 9), rest, element;

    check_or_stop(npy_read(&tensor, arena, file, NULL) == OK, "S");
    rest = slice_make(tensor.data, tensor.size);
    check(bytes_check(rest, 3, "x", NULL) == OK, "form");
    check(bytes_next(&rest, &element) && slice_is(element, "abc"), "full");
    check(bytes_next(&rest, &element) && slice_eq(element, slice_make("a\0b", 3)),
          "a zero inside stays");
    check(bytes_next(&rest, &element) && element.size == 0, "only padding");
    free((void *)(uintptr_t)file.data);
    file = file_of(1, DICT("<U2", "(2,)"), "\xe9\0\0\0\0\xf6\1\0a\0\0\0\0\0\0\0", 16);
    check_or_stop(npy_read(&tensor, arena, file, NULL) == OK, "U");
    rest = slice_make(tensor.data, tensor.size);
    check(bytes_check(rest, 2, "x", NULL) == OK, "form");
    check(bytes_next(&rest, &element) && slice_is(element, "\xc3\xa9\xf0\x9f\x98\x80"), "UTF-8");
    check(bytes_next(&rest, &element) && slice_is(element, "a"), "padding goes");
    free((void *)(uintptr_t)file.data);
    arena_free(&arena);
}

TEST(npy_cut_everywhere)
{
    static const char *const dicts[] = { DICT("<f4", "(2, 1)"), DICT("|S4", "(2,)") };

    for (unsigned i = 0; i < 6; i++) {
        struct slice file = file_of(1 + i / 2, dicts[i % 2], "abcdefgh", 8);
        for (size_t cut = 0; cut < file.size; cut++) {
            uint8_t *copy = malloc(cut + 1);
            struct arena *arena = arena_new(1024, 1 << 20);
            struct penstock_tensor tensor;
            struct err err = { 0 };
            memcpy(copy + 1, file.data, cut);
            check(npy_read(&tensor, arena, slice_make(copy + 1, cut), &err) == E_INVALID &&
                      err.text[0] != '\0',
                  "cut %zu", cut);
            arena_free(&arena);
            free(copy);
        }
        free((void *)(uintptr_t)file.data);
    }
}

TEST(npy_preamble)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *error;
    } preambles[] = {
        { "", 0, "not a .npy file: it does not begin with \\x93NUMPY and a version" },
        { "PK\3\4 an .npz", 12,
          "not a .npy file: it does not begin with \\x93NUMPY and a version" },
        { "\x93NUMPY\4\0\0\0\0\0", 12, ".npy version 4.0; known are 1.0, 2.0 and 3.0" },
        { "\x93NUMPY\0\0\0\0\0\0", 12, ".npy version 0.0; known are 1.0, 2.0 and 3.0" },
        { "\x93NUMPY\1\1\0\0\0\0", 12, ".npy version 1.1; known are 1.0, 2.0 and 3.0" },
        { "\x93NUMPY\1\0\5", 9, "the .npy file is cut off after 9 bytes, in its header" },
        { "\x93NUMPY\2\0\1\0\0", 11, "the .npy file is cut off after 11 bytes, in its header" },
        { "\x93NUMPY\2\0\0\0\0\x7f{}", 14,
          "the .npy header has 2130706432 bytes; at most 65536 are read" },
        { "\x93NUMPY\1\0\3\0{}", 12, "the .npy file is cut off after 12 bytes, in its header" },
    };
    struct arena *arena = arena_new(1024, 1 << 20);

    for (size_t i = 0; i < COUNT(preambles); i++) {
        struct penstock_tensor tensor;
        struct err err = { 0 };
        check(npy_read(&tensor, arena, slice_make(preambles[i].bytes, preambles[i].size), &err) ==
                      E_INVALID &&
                  strcmp(err.text, preambles[i].error) == 0,
              "\"%s\"", err.text);
    }
    arena_free(&arena);
}

TEST(npy_headers_read_back)
{
    uint8_t file[NPY_HEADER_MAX + 4096], data[4096] = { 0 };
    struct arena *arena = arena_new(1024, 1 << 20);

    for (unsigned step = 0; step < 10000; step++) {
        struct penstock_tensor tensor = { .data = data }, back;
        struct err err = { 0 };
        uint64_t count;
        do
            tensor.dtype = (enum penstock_dtype)(1 + test_random_below(14));
        while (tensor.dtype == PENSTOCK_BYTES);
        tensor.rank = (uint32_t)test_random_below(PENSTOCK_RANK_MAX + 1);
        for (uint32_t i = 0; i < tensor.rank; i++)
            tensor.shape[i] = (int64_t)test_random_below(i < 5 ? 4 : 2);
        bool is_huge = step % 50 == 0 && tensor.rank > 0; /* the longest header there is */
        for (uint32_t i = 0; i < tensor.rank && is_huge; i++)
            tensor.shape[i] = i == 0 ? 0 : INT64_MAX;
        check_or_stop(shape_count(tensor.rank, tensor.shape, &count), "count");
        tensor.size = count * dtype_size(tensor.dtype);
        if (tensor.size > sizeof data)
            continue;
        size_t size = npy_write_header(file, &tensor);
        check(size % 64 == 0 && size <= NPY_HEADER_MAX && file[size - 1] == '\n', "%zu", size);
        memcpy(file + size, data, tensor.size);
        enum err_code code = npy_read(&back, arena, slice_make(file, size + tensor.size), &err);
        if (tensor.dtype == PENSTOCK_BF16) { /* NumPy has no such dtype */
            check(code == E_INVALID && strstr(err.text, "'<V2'") != NULL, "%s", err.text);
            continue;
        }
        check(code == OK, "%s", err.text);
        check(back.dtype == tensor.dtype && back.rank == tensor.rank && back.size == tensor.size &&
                  memcmp(back.shape, tensor.shape, tensor.rank * sizeof tensor.shape[0]) == 0,
              "%s", dtype_name(tensor.dtype));
    }
    /* As NumPy writes np.zeros((2, 3), '<f4'). */
    struct penstock_tensor tensor = { .dtype = PENSTOCK_FP32, .rank = 2, .shape = { 2, 3 } };
    static const char numpy[] =
        "\x93NUMPY\1\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    check(npy_write_header(file, &tensor) == 128 && memcmp(file, numpy, sizeof numpy - 1) == 0,
          "as NumPy");
    arena_free(&arena);
}

TEST(npy_survives_every_fault)
{
    struct slice file = file_of(1, DICT("|S400", "(5,)"), NULL, 0);
    uint8_t *whole = calloc(1, file.size + 2000);

    memcpy(whole, file.data, file.size);
    for_each_fault(nth) {
        struct arena *arena = arena_new(1024, 1 << 20);
        struct penstock_tensor tensor;
        struct err err = { 0 };
        enum err_code code =
            arena == NULL ? E_EXHAUSTED
                          : npy_read(&tensor, arena, slice_make(whole, file.size + 2000), &err);
        arena_free(&arena);
        if (!fault_fired()) {
            check(code == OK && nth > 2, "the sweep met faults");
            break;
        }
        check(code == E_EXHAUSTED, "fault %u: %s", nth, err.text);
    }
    free(whole);
    free((void *)(uintptr_t)file.data);
}
