/* tensor_json_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/tensor_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/mem.h"
#include "codec/bytes.h"
#include "codec/number.h"
#include "model/dtype.h"
#include "test/harness.h"

enum { EDGE_BYTES = 1 << 16 };

/* The text again, with its end at the end of the last page that may be read. */
static struct json_cursor at_the_edge(const void *text, size_t size)
{
    static uint8_t *end;

    if (end == NULL) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        uint8_t *memory = mmap(NULL, EDGE_BYTES + page, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require(memory != MAP_FAILED && mprotect(memory + EDGE_BYTES, page, PROT_NONE) == 0);
        end = memory + EDGE_BYTES;
    }
    require(size <= EDGE_BYTES);
    if (size != 0)
        memcpy(end - size, text, size);
    return (struct json_cursor){ end - size, end - size, end };
}

static struct json_cursor cursor_of(struct slice text)
{
    return (struct json_cursor){ text.data, text.data, text.data + text.size };
}

/* -- reading: cases -------------------------------------------------------------------------- */

#define NAN_TWIN 1e300 /* stands for NaN in the table */

static const struct {
    enum penstock_dtype dtype;
    const char *text;
    uint64_t count;
    double values[6];
} good[] = {
    { PENSTOCK_FP32, "[1,2,3]", 3, { 1, 2, 3 } },
    { PENSTOCK_FP32, "[[1],[2,3]]", 3, { 1, 2, 3 } },
    { PENSTOCK_FP32, " \t\r\n[ [ 1 ] , [ 2 , [ 3 ] ] , [] ] ", 3, { 1, 2, 3 } },
    { PENSTOCK_FP32, "[1,[2],3]", 3, { 1, 2, 3 } },
    { PENSTOCK_FP32, "[]", 0, { 0 } },
    { PENSTOCK_FP32, "[[],[[]]]", 0, { 0 } },
    { PENSTOCK_FP32, "7", 1, { 7 } },
    { PENSTOCK_FP32, " -7.5e-1 ", 1, { -0.75 } },
    { PENSTOCK_FP32,
      "[NaN,Infinity,-Infinity,null]",
      4,
      { NAN_TWIN, INFINITY, -INFINITY, NAN_TWIN } },
    { PENSTOCK_FP64, "[\"NaN\",\"Infinity\",\"-Infinity\"]", 3, { NAN_TWIN, INFINITY, -INFINITY } },
    { PENSTOCK_FP16,
      "[NaN,Infinity,-Infinity,65504,65519.99,1e-9]",
      6,
      { NAN_TWIN, INFINITY, -INFINITY, 65504, 65504, 0 } },
    { PENSTOCK_BF16,
      "[NaN,Infinity,-Infinity,1.00390625,1.0039062500001]",
      5,
      { NAN_TWIN, INFINITY, -INFINITY, 1, 1.0078125 } },
    { PENSTOCK_FP32, "null", 1, { NAN_TWIN } },
    { PENSTOCK_FP32, "[1e-400,-0]", 2, { 0, -0.0 } },
    { PENSTOCK_FP64, "[0.1,1e308,5e-324]", 3, { 0.1, 1e308, 5e-324 } },
    { PENSTOCK_BOOL, "[true,false,1,0]", 4, { 1, 0, 1, 0 } },
    { PENSTOCK_BOOL, "true", 1, { 1 } },
    { PENSTOCK_UINT8, "[0,255,1.0,1e2,2.55e2,-0]", 6, { 0, 255, 1, 100, 255, 0 } },
    { PENSTOCK_INT8, "[-128,127,-1.28e2]", 3, { -128, 127, -128 } },
    { PENSTOCK_UINT16, "[0,65535]", 2, { 0, 65535 } },
    { PENSTOCK_INT16, "[-32768,32767]", 2, { -32768, 32767 } },
    { PENSTOCK_UINT32, "[0,4294967295]", 2, { 0, 4294967295 } },
    { PENSTOCK_INT32, "[-2147483648,2147483647]", 2, { -2147483648, 2147483647 } },
    { PENSTOCK_UINT64,
      "[0,9007199254740992,18446744073709549568]",
      3,
      { 0, 9007199254740992, 18446744073709549568.0 } },
    { PENSTOCK_INT64,
      "[-9223372036854775808,9007199254740992]",
      2,
      { -9223372036854775808.0, 9007199254740992 } },
};

static double element_value(const uint8_t *data, enum penstock_dtype dtype, uint64_t index)
{
    union {
        float f32;
        double f64;
        uint64_t u64;
    } v = { .u64 = 0 };
    size_t size = dtype_size(dtype);

    memcpy(&v, data + index * size, size);
    switch (dtype) {
    case PENSTOCK_FP32: return (double)v.f32;
    case PENSTOCK_FP64: return v.f64;
    case PENSTOCK_FP16: return number_of_f16((uint16_t)v.u64);
    case PENSTOCK_BF16: return number_of_bf16((uint16_t)v.u64);
    case PENSTOCK_INT8: return (double)(int8_t)v.u64;
    case PENSTOCK_INT16: return (double)(int16_t)v.u64;
    case PENSTOCK_INT32: return (double)(int32_t)v.u64;
    case PENSTOCK_INT64: return (double)(int64_t)v.u64;
    default: return (double)v.u64;
    }
}

TEST(tensor_json_reads)
{
    for (size_t i = 0; i < COUNT(good); i++) {
        const char *text = good[i].text;
        size_t size = strlen(text), element = dtype_size(good[i].dtype);
        uint8_t out[64];
        struct err err = { 0 };
        struct json_cursor c = at_the_edge(text, size);
        memset(out, 0xaa, sizeof out);
        enum err_code code = tensor_json_read(out, good[i].dtype, good[i].count, &c, "x", &err);
        check(code == OK, "%s: %s", text, err.text);
        json_space(&c);
        check(c.at == c.end, "%s: all taken", text);
        for (uint64_t j = 0; j < good[i].count; j++) {
            double value = element_value(out, good[i].dtype, j), wanted = good[i].values[j];
            check(wanted == NAN_TWIN ? isnan(value)
                                     : value == wanted && signbit(value) == signbit(wanted),
                  "%s: %g, not %g", text, value, wanted);
        }
        check(out[good[i].count * element] == 0xaa, "%s: nothing behind", text);
    }
    uint64_t largest = 0;
    int64_t i64 = 0;
    struct json_cursor c = cursor_of(slice_of("18446744073709551615"));
    check(tensor_json_read(&largest, PENSTOCK_UINT64, 1, &c, "x", NULL) == OK &&
              largest == UINT64_MAX,
          "largest");
    c = cursor_of(slice_of("9223372036854775807"));
    check(tensor_json_read(&i64, PENSTOCK_INT64, 1, &c, "x", NULL) == OK && i64 == INT64_MAX,
          "largest");
}

/* Each cut of a good text is refused without a byte behind it being looked at. */
TEST(tensor_json_read_cut_everywhere)
{
    for (size_t i = 0; i < COUNT(good); i++) {
        const char *text = good[i].text;
        size_t size = strlen(text);
        uint8_t out[64];
        while (size > 0 && strchr(" \n", text[size - 1]) != NULL)
            size--;
        bool is_list = strchr(text, '[') != NULL;
        for (size_t cut = 0; cut < size; cut++) {
            struct err err = { 0 };
            struct json_cursor c = at_the_edge(text, cut);
            enum err_code code = tensor_json_read(out, good[i].dtype, good[i].count, &c, "x", &err);
            if (!is_list && code == OK)
                continue; /* the first digits of a number are a number */
            check(code == E_INVALID && err.text[0] != '\0', "%.*s", (int)cut, text);
            check(c.at >= c.start && c.at <= c.end, "%.*s", (int)cut, text);
        }
    }
}

static const struct {
    enum penstock_dtype dtype;
    const char *text;
    uint64_t count;
    const char *error;
} bad[] = {
    { PENSTOCK_UINT8, "[[0,1],[2,300]]", 4,
      "d[1][1] (byte 10): 300 is out of range for UINT8 (0 to 255)" },
    { PENSTOCK_UINT8, "[-1]", 1, "d[0] (byte 1): -1 is out of range for UINT8 (0 to 255)" },
    { PENSTOCK_INT8, "[128]", 1, "d[0] (byte 1): 128 is out of range for INT8 (-128 to 127)" },
    { PENSTOCK_INT8, "-129", 1, "d (byte 0): -129 is out of range for INT8 (-128 to 127)" },
    { PENSTOCK_UINT16, "[65536]", 1,
      "d[0] (byte 1): 65536 is out of range for UINT16 (0 to 65535)" },
    { PENSTOCK_INT16, "[32768]", 1,
      "d[0] (byte 1): 32768 is out of range for INT16 (-32768 to 32767)" },
    { PENSTOCK_UINT32, "[4294967296]", 1,
      "d[0] (byte 1): 4294967296 is out of range for UINT32 (0 to 4294967295)" },
    { PENSTOCK_INT32, "[-2147483649]", 1,
      "d[0] (byte 1): -2147483649 is out of range for INT32 (-2147483648 to 2147483647)" },
    { PENSTOCK_UINT64, "[18446744073709551616]", 1,
      "d[0] (byte 1): 18446744073709551616 is out of range for UINT64 (0 to "
      "18446744073709551615)" },
    { PENSTOCK_INT64, "[9223372036854775808]", 1,
      "d[0] (byte 1): 9223372036854775808 is out of range for INT64 (-9223372036854775808 to "
      "9223372036854775807)" },
    { PENSTOCK_INT64, "[1e19]", 1,
      "d[0] (byte 1): 1e19 is out of range for INT64 (-9223372036854775808 to "
      "9223372036854775807)" },
    { PENSTOCK_INT32, "[1.5]", 1, "d[0] (byte 1): 1.5 is not a whole number, as INT32 needs" },
    { PENSTOCK_INT32, "[1e-3]", 1, "d[0] (byte 1): 1e-3 is not a whole number, as INT32 needs" },
    { PENSTOCK_INT32, "[true]", 1,
      "d[0] (byte 1): expected a whole number for INT32, found 'true'" },
    { PENSTOCK_INT32, "[null]", 1,
      "d[0] (byte 1): expected a whole number for INT32, found 'null'" },
    { PENSTOCK_INT32, "[NaN]", 1, "d[0] (byte 1): expected a whole number for INT32, found 'NaN'" },
    { PENSTOCK_BOOL, "[true,2]", 2,
      "d[1] (byte 6): 2 is out of range for BOOL (true, false, 0 or 1)" },
    { PENSTOCK_BOOL, "[1.0]", 1,
      "d[0] (byte 1): 1.0 is out of range for BOOL (true, false, 0 or 1)" },
    { PENSTOCK_BOOL, "[\"true\"]", 1,
      "d[0] (byte 1): expected true or false for BOOL, found '\"true\"'" },
    { PENSTOCK_BOOL, "[truer]", 1,
      "d[0] (byte 5): expected ',' or ']' after an element, found 'r'" },
    { PENSTOCK_FP32, "[3.5e38]", 1,
      "d[0] (byte 1): 3.5e38 is out of range for FP32 (-3.4028235e+38 to 3.4028235e+38)" },
    { PENSTOCK_FP64, "[-1e309]", 1,
      "d[0] (byte 1): -1e309 is out of range for FP64 (-1.7976931348623157e+308 to "
      "1.7976931348623157e+308)" },
    { PENSTOCK_FP16, "[65520]", 1,
      "d[0] (byte 1): 65520 is out of range for FP16 (-65504 to 65504)" },
    { PENSTOCK_BF16, "[3.4e38]", 1,
      "d[0] (byte 1): 3.4e38 is out of range for BF16 (-3.3895314e+38 to 3.3895314e+38)" },
    { PENSTOCK_FP32, "[\"1\"]", 1, "d[0] (byte 1): expected a number for FP32, found '\"1\"'" },
    { PENSTOCK_FP32, "[nan]", 1, "d[0] (byte 1): expected a number for FP32, found 'nan'" },
    { PENSTOCK_FP32, "[+1]", 1, "d[0] (byte 1): expected a number for FP32, found '+1'" },
    { PENSTOCK_FP32, "[01]", 1, "d[0] (byte 1): expected a number for FP32, found '01'" },
    { PENSTOCK_FP32, "[1.]", 1, "d[0] (byte 1): expected a number for FP32, found '1.'" },
    { PENSTOCK_FP32, "[{}]", 1, "d[0] (byte 1): expected a number for FP32, found '{'" },
    { PENSTOCK_FP32, "{\"a\":1}", 1, "d (byte 0): expected a number for FP32, found '{'" },
    { PENSTOCK_FP32, "[1,]", 1, "d[1] (byte 3): expected a JSON value, found ']'" },
    { PENSTOCK_FP32, "[1,]", 2, "d[1] (byte 3): expected a number for FP32, found ']'" },
    { PENSTOCK_FP32, "[,1]", 1, "d[0] (byte 1): expected a number for FP32, found ','" },
    { PENSTOCK_FP32, "[1 2]", 2, "d[0] (byte 3): expected ',' or ']' after an element, found '2'" },
    { PENSTOCK_FP32, "[1}", 1, "d[0] (byte 2): expected ',' or ']' after an element, found '}'" },
    { PENSTOCK_FP32, "[1][2]", 2, "d (byte 3): 1 elements where the shape has 2" },
    { PENSTOCK_FP32, "[1\x80", 1,
      "d[0] (byte 2): expected ',' or ']' after an element, found byte 0x80" },
    { PENSTOCK_FP32, "", 1, "d (byte 0): expected a number for FP32, found the end of the text" },
    { PENSTOCK_FP32, "  ", 0, "d (byte 2): expected a JSON value, found the end of the text" },
    { PENSTOCK_FP32, "[1,2,3]", 4, "d (byte 7): 3 elements where the shape has 4" },
    { PENSTOCK_FP32, "[1,2,[3,4],5]", 2, "d (byte 6): 5 elements where the shape has 2" },
    { PENSTOCK_FP32, "[1,2,[3,x],5]", 2, "d[2][1] (byte 8): expected a JSON value, found 'x'" },
    { PENSTOCK_FP32, "[]", 1, "d (byte 2): 0 elements where the shape has 1" },
    { PENSTOCK_FP32, "5", 0, "d (byte 0): 1 elements where the shape has 0" },
    { PENSTOCK_FP32, "[123456789012345678901234567890x]", 1,
      "d[0] (byte 31): expected ',' or ']' after an element, found 'x'" },
    { PENSTOCK_FP32, "[abcdefghijklmnopqrstuvwxyz]", 1,
      "d[0] (byte 1): expected a number for FP32, found 'abcdefghijklmnopqrstuvwx...'" },
    { PENSTOCK_BYTES, "[1]", 1, "d[0] (byte 1): expected a string for BYTES, found '1'" },
    { PENSTOCK_BYTES, "[null]", 1, "d[0] (byte 1): expected a string for BYTES, found 'null'" },
    { PENSTOCK_BYTES, "[[\"a,]\"],[\"b\",x]]", 3,
      "d[1][1] (byte 14): expected a string for BYTES, found 'x'" },
    { PENSTOCK_BYTES, "[\"a", 1, "d[0] (byte 3): the string has no closing quote" },
    { PENSTOCK_BYTES, "[\"a\nb\"]", 1,
      "d[0] (byte 3): a control character in a string must be written as an escape like \\n or "
      "\\u0001" },
    { PENSTOCK_BYTES, "[\"\\q\"]", 1,
      "d[0] (byte 2): a backslash must be followed by one of \"\\/bfnrtu" },
    { PENSTOCK_BYTES, "[\"\\u12g4\"]", 1, "d[0] (byte 2): \\u needs four hexadecimal digits" },
    { PENSTOCK_BYTES, "[\"\\ud800\"]", 1, "d[0] (byte 2): half of a surrogate pair stands alone" },
    { PENSTOCK_BYTES, "[\"\\ud800\\u0041\"]", 1,
      "d[0] (byte 2): half of a surrogate pair stands alone" },
    { PENSTOCK_BYTES, "[\"\\udc00\\ud800\"]", 1,
      "d[0] (byte 2): half of a surrogate pair stands alone" },
    { PENSTOCK_BYTES, "[\"\\udc00\\udc00\"]", 1,
      "d[0] (byte 2): half of a surrogate pair stands alone" },
    { PENSTOCK_BYTES, "[\"a\\\"],[\",x]", 2,
      "d[1] (byte 10): expected a string for BYTES, found 'x'" },
    { PENSTOCK_BYTES, "[\"a\xff\"]", 1,
      "d[0] (byte 3): the string is not valid UTF-8 here; send raw bytes as binary data" },
    { PENSTOCK_BYTES, "[\"\xed\xa0\x80\"]", 1,
      "d[0] (byte 2): the string is not valid UTF-8 here; send raw bytes as binary data" },
    { PENSTOCK_BYTES, "[\"a\",\"b\"]", 3, "d (byte 9): 2 elements where the shape has 3" },
};

static enum err_code read_any(enum penstock_dtype dtype, uint64_t count, struct json_cursor *c,
                              const char *path, struct err *err)
{
    uint8_t out[256];
    struct text text;

    if (dtype != PENSTOCK_BYTES)
        return tensor_json_read(out, dtype, count, c, path, err);
    text_init(&text, 4096);
    enum err_code code = tensor_json_read_bytes(&text, count, c, path, err);
    text_deinit(&text);
    return code;
}

TEST(tensor_json_refuses)
{
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct err err = { 0 };
        struct json_cursor c = at_the_edge(bad[i].text, strlen(bad[i].text));
        check(read_any(bad[i].dtype, bad[i].count, &c, "d", &err) == E_INVALID, "%s", bad[i].text);
        check(strcmp(err.text, bad[i].error) == 0, "%s: \"%s\"", bad[i].text, err.text);
        unsigned long byte = strtoul(strstr(bad[i].error, "(byte ") + 6, NULL, 10);
        check((unsigned long)(c.at - c.start) == byte, "%s: the cursor stands at the fault",
              bad[i].text);
    }
}

TEST(tensor_json_errors_without_a_path)
{
    struct err err = { 0 };
    struct json_cursor c = cursor_of(slice_of("[1,x]"));
    float out[2];

    check(tensor_json_read(out, PENSTOCK_FP32, 2, &c, NULL, &err) == E_INVALID, "refused");
    check(strcmp(err.text, "byte 3: expected a number for FP32, found 'x'") == 0, "%s", err.text);
    c = cursor_of(slice_of("[1,x]"));
    check(tensor_json_read(out, PENSTOCK_FP32, 2, &c, "", NULL) == E_INVALID, "refused, no err");
    /* The offset counts from the start of the text, not from the value. */
    struct slice text = slice_of("{\"data\": [1,x]}");
    c = (struct json_cursor){ text.data, text.data + 8, text.data + text.size };
    check(tensor_json_read(out, PENSTOCK_FP32, 2, &c, "in", &err) == E_INVALID, "refused");
    check(strcmp(err.text, "in[1] (byte 12): expected a number for FP32, found 'x'") == 0, "%s",
          err.text);
}

TEST(tensor_json_depth_has_a_limit)
{
    static const unsigned depths[] = { 1, 16, 17, 99, 100, 101, 5000 };

    for (size_t i = 0; i < COUNT(depths); i++) {
        unsigned depth = depths[i];
        char *text = malloc(2 * depth + 2);
        float value = 0;
        struct err err = { 0 };
        uint32_t rank = 42;
        int64_t shape[PENSTOCK_RANK_MAX];
        memset(text, '[', depth);
        text[depth] = '5';
        memset(text + depth + 1, ']', depth);
        struct slice slice = slice_make(text, 2 * depth + 1);
        struct json_cursor c = cursor_of(slice);
        enum err_code code = tensor_json_read(&value, PENSTOCK_FP32, 1, &c, "d", &err);
        check(code == (depth <= TENSOR_JSON_DEPTH_MAX ? OK : E_INVALID), "%u deep", depth);
        if (code != OK)
            check(strcmp(err.text, "d (byte 100): lists are nested deeper than 100") == 0, "%s",
                  err.text);
        c = cursor_of(slice);
        check((json_skip(&c, NULL, "d", &err) == OK) == (depth <= TENSOR_JSON_DEPTH_MAX), "%u deep",
              depth);
        code = tensor_json_shape(cursor_of(slice), &rank, shape, "d", &err);
        check(code == (depth <= PENSTOCK_RANK_MAX ? OK : E_INVALID), "%u deep", depth);
        check(rank == (code == OK ? depth : 42), "%u deep", depth);
        if (depth == 17)
            check(strstr(err.text, "at most 16 dimensions") != NULL, "%s", err.text);
        /* A fault deep inside: its path is cut, not its sentence. */
        text[depth] = 'x';
        c = cursor_of(slice);
        check(tensor_json_read(&value, PENSTOCK_FP32, 1, &c, "d", &err) == E_INVALID, "x");
        check(depth > 100 || strstr(err.text, "found 'x'") != NULL, "%s", err.text);
        free(text);
    }
}

/* -- strings --------------------------------------------------------------------------------- */

static const struct {
    const char *text, *bytes;
    size_t size;
} strings[] = {
    { "\"\"", "", 0 },
    { "\"abc\"", "abc", 3 },
    { "\"0123456789abcdef0123456789\"", "0123456789abcdef0123456789", 26 },
    { "\"01234567\\n9\"", "01234567\n9", 10 },
    { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8 },
    { "\"\\u0000\"", "\0", 1 },
    { "\"\\u0041\\u00e9\\u20AC\"", "A\xc3\xa9\xe2\x82\xac", 6 },
    { "\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80", 4 },
    { "\"\\uDBFF\\uDFFF\"", "\xf4\x8f\xbf\xbf", 4 },
    { "\"\\uffff\"", "\xef\xbf\xbf", 3 },
    { "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9 },
    { "\"\x7f\"", "\x7f", 1 },
    { "\"a,b]c\\\"[\"", "a,b]c\"[", 7 },
};

TEST(tensor_json_strings)
{
    for (size_t i = 0; i < COUNT(strings); i++) {
        const char *text = strings[i].text;
        size_t size = strlen(text);
        struct slice wanted = slice_make(strings[i].bytes, strings[i].size), got;
        struct json_cursor c = at_the_edge(text, size);
        struct text out;
        struct arena *arena = arena_new(1024, 1 << 20);
        struct err err = { 0 };
        check(json_string(&c, arena, &got, "s", &err) == OK && c.at == c.end, "%s: %s", text,
              err.text);
        check(slice_eq(got, wanted), "%s: %.*s", text, SLICE_ARG(got));
        c = at_the_edge(text, size);
        text_init(&out, SIZE_MAX);
        check(tensor_json_read_bytes(&out, 1, &c, "s", &err) == OK, "%s: %s", text, err.text);
        struct slice rest = text_slice(&out);
        check(bytes_next(&rest, &got) && rest.size == 0 && slice_eq(got, wanted), "%s", text);
        text_deinit(&out);
        c = at_the_edge(text, size);
        check(json_skip(&c, &got, "s", &err) == OK && got.size == size, "%s", text);
        for (size_t cut = 0; cut < size; cut++) {
            c = at_the_edge(text, cut);
            check(json_string(&c, arena, &got, "s", &err) == E_INVALID, "%.*s", (int)cut, text);
            c = at_the_edge(text, cut);
            check(json_skip(&c, NULL, "s", &err) == E_INVALID, "%.*s", (int)cut, text);
        }
        arena_free(&arena);
    }
}

TEST(tensor_json_reads_many_strings)
{
    struct slice text = slice_of("[[\"a\", \"\"], [\"b\\n\", \"caf\xc3\xa9\"]]");
    static const char *const wanted[] = { "a", "", "b\n", "caf\xc3\xa9" };
    struct json_cursor c = cursor_of(text);
    struct slice rest, element;
    struct text out;

    text_init(&out, SIZE_MAX);
    check(tensor_json_read_bytes(&out, 4, &c, "d", NULL) == OK, "read");
    check(bytes_check(text_slice(&out), 4, "d", NULL) == OK, "form");
    rest = text_slice(&out);
    for (unsigned i = 0; i < 4; i++)
        check(bytes_next(&rest, &element) && slice_is(element, wanted[i]), "element %u", i);
    text_deinit(&out);
    for (size_t room = 0; room < 30; room++) {
        char memory[32];
        struct err err = { 0 };
        text_init_fixed(&out, memory, room);
        c = cursor_of(text);
        enum err_code code = tensor_json_read_bytes(&out, 4, &c, "d", &err);
        /* 4 lengths, 1 + 0 + 2 + 5 bytes; escaped text asks for room as it stands */
        check(code == (room < 24 ? E_EXHAUSTED : OK), "room %zu: %d", room, (int)code);
        check((code == OK) == (err.text[0] == '\0'), "room %zu", room);
    }
    for_each_fault(nth) {
        struct err err = { 0 };
        text_init(&out, SIZE_MAX);
        c = cursor_of(text);
        enum err_code code = tensor_json_read_bytes(&out, 4, &c, "d", &err);
        text_deinit(&out);
        if (!fault_fired())
            break;
        check(code == E_EXHAUSTED && err.text[0] != '\0', "fault %u", nth);
    }
}

/* -- shape ----------------------------------------------------------------------------------- */

static const struct {
    const char *text;
    const char *shape; /* NULL: refused */
    const char *error;
} shapes[] = {
    { "5", "[]", NULL },
    { "\"x\"", "[]", NULL },
    { "{\"b64\":\"AA==\"}", "[]", NULL },
    { "[]", "[0]", NULL },
    { "[1,2,3]", "[3]", NULL },
    { "[[1,2],[3,4],[5,6]]", "[3,2]", NULL },
    { " [ [ 1 ] , [ 2 ] ] ", "[2,1]", NULL },
    { "[[],[]]", "[2,0]", NULL },
    { "[[[1]]]", "[1,1,1]", NULL },
    { "[{\"b64\":\"AA==\"},{\"b64\":\"\"}]", "[2]", NULL },
    { "[\"a,b\",\"[\"]", "[2]", NULL },
    { "[true,null,NaN,-Infinity]", "[4]", NULL },
    { "[[1],[2,3]]", NULL,
      "d[1][1] (byte 9): a list of 2 where the first at this level has 1: lists of one level must "
      "be equally long" },
    { "[[],[1]]", NULL,
      "d[1][0] (byte 6): a list of 1 where the first at this level has 0: lists of one level must "
      "be equally long" },
    { "[[1],2]", NULL,
      "d[1] (byte 5): lists and elements stand side by side; all lists of one level must be nested "
      "equally deep" },
    { "[1,[2]]", NULL,
      "d[1] (byte 3): lists and elements stand side by side; all lists of one level must be nested "
      "equally deep" },
    { "[[[]],[]]", NULL,
      "d[1][0] (byte 7): a list of 0 where the first at this level has 1: lists of one level must "
      "be equally long" },
    { "[1,2", NULL,
      "d[1] (byte 4): expected ',' or ']' after an element, found the end of the text" },
    { "[1,]", NULL, "d[1] (byte 3): expected a JSON value, found ']'" },
    { "[1,[2,x]", NULL, "d[1][1] (byte 6): expected a JSON value, found 'x'" },
    { "[{\"a\":}]", NULL, "d[0] (byte 6): expected a JSON value, found '}'" },
    { "", NULL, "d (byte 0): expected a JSON value, found the end of the text" },
};

TEST(tensor_json_shapes)
{
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct err err = { 0 };
        uint32_t rank = 42;
        int64_t shape[PENSTOCK_RANK_MAX];
        char text[512];
        struct json_cursor c = at_the_edge(shapes[i].text, strlen(shapes[i].text));
        enum err_code code = tensor_json_shape(c, &rank, shape, "d", &err);
        check(code == (shapes[i].shape != NULL ? OK : E_INVALID), "%s: %s", shapes[i].text,
              err.text);
        if (code == OK)
            check(strcmp(shape_text(text, sizeof text, rank, shape), shapes[i].shape) == 0,
                  "%s: %s", shapes[i].text, text);
        else
            check(strcmp(err.text, shapes[i].error) == 0, "%s: \"%s\"", shapes[i].text, err.text);
    }
}

/* -- writing --------------------------------------------------------------------------------- */

static struct penstock_tensor tensor_of(enum penstock_dtype dtype, const void *data, size_t size,
                                        uint32_t rank, const int64_t *shape)
{
    struct penstock_tensor tensor = {
        .name = "y", .dtype = dtype, .rank = rank, .data = data, .size = size
    };

    for (uint32_t i = 0; i < rank; i++)
        tensor.shape[i] = shape[i];
    return tensor;
}

static void check_write(const struct penstock_tensor *tensor, struct tensor_json_style style,
                        const char *wanted)
{
    struct err err = { 0 };
    struct text out;

    text_init(&out, SIZE_MAX);
    check(tensor_json_write(&out, tensor, style, &err) == OK, "%s: %s", wanted, err.text);
    check(slice_is(text_slice(&out), wanted), "%.*s, not %s", SLICE_ARG(text_slice(&out)), wanted);
    text_deinit(&out);
    /* With less room than it takes it fails, and with exactly as much it does not. */
    for (size_t room = 0; room <= strlen(wanted); room++) {
        char memory[1024];
        text_init_fixed(&out, memory, room);
        check(tensor_json_write(&out, tensor, style, &err) == OK, "%s", wanted);
        check(text_failed(&out) == (room < strlen(wanted)), "%s: room %zu", wanted, room);
    }
}

TEST(tensor_json_writes)
{
    static const float f32[] = { 0.1f, -1, NAN, INFINITY, -INFINITY, 16777216 };
    static const double f64[] = { 0.1, 1e300 };
    static const uint16_t f16[] = { 0x3c00, 0x7c00, 0x2e66 }, bf16[] = { 0x3f80, 0xff80, 0x3dcd };
    static const uint8_t u8[] = { 0, 255, 7, 8 };
    static const int64_t i64[] = { INT64_MIN, INT64_MAX };
    static const uint64_t u64[] = { UINT64_MAX };
    static const int8_t i8[] = { -128, 127 };
    static const int16_t i16[] = { -32768, 32767 };
    static const uint16_t u16[] = { 65535, 0 };
    static const int32_t i32[] = { INT32_MIN, INT32_MAX };
    static const uint32_t u32[] = { UINT32_MAX, 1 };
    static const struct tensor_json_style flat = { JSON_NONFINITE_WORDS, 0, false },
                                          nested = { JSON_NONFINITE_STRINGS, 0, true },
                                          null = { JSON_NONFINITE_NULL, 3, true };
    struct penstock_tensor t;

    t = tensor_of(PENSTOCK_FP32, f32, sizeof f32, 2, (int64_t[]){ 2, 3 });
    check_write(&t, flat, "[0.1,-1.0,NaN,Infinity,-Infinity,16777216.0]");
    check_write(&t, nested, "[[0.1,-1.0,\"NaN\"],[\"Infinity\",\"-Infinity\",16777216.0]]");
    check_write(&t, null, "[[0.1,-1.0,null],[null,null,16800000.0]]");
    t = tensor_of(PENSTOCK_FP32, f32, 4, 0, NULL);
    check_write(&t, flat, "[0.1]");
    check_write(&t, nested, "0.1");
    t = tensor_of(PENSTOCK_FP32, f32, 4, 3, (int64_t[]){ 1, 1, 1 });
    check_write(&t, nested, "[[[0.1]]]");
    t = tensor_of(PENSTOCK_FP32, NULL, 0, 2, (int64_t[]){ 2, 0 });
    check_write(&t, flat, "[]");
    check_write(&t, nested, "[[],[]]");
    t = tensor_of(PENSTOCK_FP32, NULL, 0, 2, (int64_t[]){ 0, 1000000000 });
    check_write(&t, nested, "[]");
    t = tensor_of(PENSTOCK_FP64, f64, sizeof f64, 1, (int64_t[]){ 2 });
    check_write(&t, flat, "[0.1,1e+300]");
    t = tensor_of(PENSTOCK_FP16, f16, sizeof f16, 1, (int64_t[]){ 3 });
    check_write(&t, flat, "[1.0,Infinity,0.1]");
    check_write(&t, null, "[1.0,null,0.1]");
    t = tensor_of(PENSTOCK_BF16, bf16, sizeof bf16, 1, (int64_t[]){ 3 });
    check_write(&t, flat, "[1.0,-Infinity,0.1]");
    t = tensor_of(PENSTOCK_BOOL, u8, 2, 1, (int64_t[]){ 2 });
    check_write(&t, flat, "[false,true]");
    t = tensor_of(PENSTOCK_UINT8, u8, 4, 2, (int64_t[]){ 2, 2 });
    check_write(&t, nested, "[[0,255],[7,8]]");
    t = tensor_of(PENSTOCK_INT8, i8, 2, 1, (int64_t[]){ 2 });
    check_write(&t, flat, "[-128,127]");
    t = tensor_of(PENSTOCK_INT16, i16, 4, 1, (int64_t[]){ 2 });
    check_write(&t, flat, "[-32768,32767]");
    t = tensor_of(PENSTOCK_UINT16, u16, 4, 1, (int64_t[]){ 2 });
    check_write(&t, flat, "[65535,0]");
    t = tensor_of(PENSTOCK_INT32, i32, 8, 1, (int64_t[]){ 2 });
    check_write(&t, flat, "[-2147483648,2147483647]");
    t = tensor_of(PENSTOCK_UINT32, u32, 8, 1, (int64_t[]){ 2 });
    check_write(&t, flat, "[4294967295,1]");
    t = tensor_of(PENSTOCK_INT64, i64, 16, 1, (int64_t[]){ 2 });
    check_write(&t, flat, "[-9223372036854775808,9223372036854775807]");
    t = tensor_of(PENSTOCK_UINT64, u64, 8, 1, (int64_t[]){ 1 });
    check_write(&t, flat, "[18446744073709551615]");
    t = tensor_of(PENSTOCK_BYTES, "\1\0\0\0a\0\0\0\0\2\0\0\0\"\n", 15, 1, (int64_t[]){ 3 });
    check_write(&t, flat, "[\"a\",\"\",\"\\\"\\n\"]");
    t = tensor_of(PENSTOCK_BYTES, "\1\0\0\0a\2\0\0\0\xc3\xa9", 11, 2, (int64_t[]){ 2, 1 });
    check_write(&t, nested, "[[\"a\"],[\"\xc3\xa9\"]]");
    t = tensor_of(PENSTOCK_BYTES, "\1\0\0\0a", 5, 0, NULL);
    check_write(&t, nested, "\"a\"");
}

TEST(tensor_json_refuses_to_write)
{
    static const uint8_t data[16] = { 1, 0, 0, 0, 0xff, 2, 0, 0, 0, 'a' };
    const struct {
        struct penstock_tensor tensor;
        bool is_nested;
        enum err_code code;
        const char *error;
    } cases[] = {
        { tensor_of(PENSTOCK_FP32, data, 12, 1, (int64_t[]){ 4 }), false, E_INTERNAL,
          "y: 12 bytes of data, but FP32 [4] has 4 elements" },
        { tensor_of(PENSTOCK_FP32, data, 13, 1, (int64_t[]){ 3 }), false, E_INTERNAL,
          "y: 13 bytes of data, but FP32 [3] has 3 elements" },
        { tensor_of(PENSTOCK_FP32, data, 4, 1, (int64_t[]){ -1 }), false, E_INTERNAL,
          "y: not a tensor (dtype 11, rank 1)" },
        { tensor_of(PENSTOCK_INVALID, data, 4, 0, NULL), false, E_INTERNAL,
          "y: not a tensor (dtype 0, rank 0)" },
        { tensor_of(PENSTOCK_FP32, data, 0, 2, (int64_t[]){ 1000000000, 0 }), true, E_INVALID,
          "y: shape [1000000000,0] has no elements but too many lists to write them nested" },
        { tensor_of(PENSTOCK_BYTES, data, 5, 1, (int64_t[]){ 1 }), false, E_INVALID,
          "y: element 0 is not UTF-8 (at its byte 0), so JSON cannot carry it; ask for this output "
          "as binary data" },
        { tensor_of(PENSTOCK_BYTES, data + 5, 5, 1, (int64_t[]){ 1 }), false, E_INVALID,
          "y: its data ends in element 0" },
        { tensor_of(PENSTOCK_BYTES, data + 5, 0, 1, (int64_t[]){ 2 }), false, E_INVALID,
          "y: its data ends in element 0" },
        { tensor_of(PENSTOCK_BYTES, "\1\0\0\0ax", 6, 1, (int64_t[]){ 1 }), false, E_INVALID,
          "y: 1 bytes follow its 1 elements" },
    };
    struct text out;
    struct err err;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tensor_json_style style = { .is_nested = cases[i].is_nested };
        text_init(&out, 1 << 20);
        check(tensor_json_write(&out, &cases[i].tensor, style, &err) == cases[i].code, "%s",
              cases[i].error);
        check(strcmp(err.text, cases[i].error) == 0, "\"%s\", not \"%s\"", err.text,
              cases[i].error);
        text_deinit(&out);
    }
    struct penstock_tensor far = tensor_of(PENSTOCK_FP32, data, 4, 0, NULL);
    far.place.kind = PENSTOCK_CUDA;
    text_init(&out, 100);
    check(tensor_json_write(&out, &far, (struct tensor_json_style){ 0 }, &err) == E_INTERNAL,
          "on a device");
    text_deinit(&out);
}

/* -- against the slow twin ------------------------------------------------------------------- */

static void put_blanks(struct text *out)
{
    static const char *const blanks[] = { "", "", "", " ", "\n  ", "\t", "\r\n", "          " };

    text_str(out, blanks[test_random_below(COUNT(blanks))]);
}

/* Writes one element as printf does, or as number.h does, or in another form of the same value. */
static void put_element(struct text *out, enum penstock_dtype dtype, const uint8_t *element)
{
    double value = element_value(element, dtype, 0);
    uint64_t bits = 0;

    memcpy(&bits, element, dtype_size(dtype));
    switch (dtype) {
    case PENSTOCK_BOOL:
        text_str(out, test_random_below(2) ? (bits ? "true" : "false") : (bits ? "1" : "0"));
        return;
    case PENSTOCK_FP16:
    case PENSTOCK_BF16:
    case PENSTOCK_FP32:
    case PENSTOCK_FP64:
        if (isnan(value))
            text_str(out, test_random_below(2) ? "NaN" : "null");
        else if (isinf(value))
            text_str(out, value > 0 ? "Infinity" : "\"-Infinity\"");
        else
            text_printf(out, "%.*e", 16 + (int)test_random_below(20), value);
        return;
    case PENSTOCK_UINT64: text_printf(out, "%llu", (unsigned long long)bits); return;
    case PENSTOCK_INT64: text_printf(out, "%lld", (long long)(int64_t)bits); return;
    default: text_printf(out, test_random_below(4) ? "%.0f" : "%.3f", value);
    }
}

static void put_nested(struct text *out, enum penstock_dtype dtype, const uint8_t **element,
                       uint32_t rank, const int64_t *shape)
{
    put_blanks(out);
    if (rank == 0) {
        put_element(out, dtype, *element);
        *element += dtype_size(dtype);
    } else {
        text_byte(out, '[');
        for (int64_t i = 0; i < shape[0]; i++) {
            if (i > 0)
                text_byte(out, ',');
            put_nested(out, dtype, element, rank - 1, shape + 1);
        }
        text_byte(out, ']');
    }
    put_blanks(out);
}

/* NaNs of all kinds read back as the one that is written "NaN". */
static bool is_same(const uint8_t *a, const uint8_t *b, enum penstock_dtype dtype, uint64_t count)
{
    size_t size = dtype_size(dtype);

    for (uint64_t i = 0; i < count; i++)
        if (memcmp(a + i * size, b + i * size, size) != 0 &&
            !(isnan(element_value(a, dtype, i)) && isnan(element_value(b, dtype, i))))
            return false;
    return true;
}

TEST(tensor_json_round_trips)
{
    uint8_t data[2048], back[2048 + 1];

    for (unsigned step = 0; step < 10000; step++) {
        enum penstock_dtype dtype;
        do
            dtype = (enum penstock_dtype)(1 + test_random_below(14));
        while (dtype == PENSTOCK_BYTES);
        uint32_t rank = (uint32_t)test_random_below(5), rank_found = 42;
        int64_t shape[PENSTOCK_RANK_MAX], shape_found[PENSTOCK_RANK_MAX];
        uint64_t count = 1;
        size_t size = dtype_size(dtype);
        for (uint32_t i = 0; i < rank; i++) {
            shape[i] = (int64_t)test_random_below(step % 10 == 0 ? 4 : 3) + (step % 7 != 0);
            count *= (uint64_t)shape[i];
        }
        for (size_t i = 0; i < count * size; i++)
            data[i] = (uint8_t)test_random();
        for (size_t i = 0; dtype == PENSTOCK_BOOL && i < count; i++)
            data[i] &= 1;
        /* The twin writes, we read. */
        struct text text;
        struct err err = { 0 };
        const uint8_t *element = data;
        text_init(&text, SIZE_MAX);
        put_nested(&text, dtype, &element, rank, shape);
        struct json_cursor c = text.size <= EDGE_BYTES ? at_the_edge(text.data, text.size)
                                                       : cursor_of(text_slice(&text));
        memset(back, 0x55, sizeof back);
        check(tensor_json_read(back, dtype, count, &c, "d", &err) == OK, "%.*s: %s",
              SLICE_ARG(text_slice(&text)), err.text);
        check(is_same(data, back, dtype, count) && back[count * size] == 0x55, "%s %.*s",
              dtype_name(dtype), SLICE_ARG(text_slice(&text)));
        json_space(&c);
        check(c.at == c.end, "all taken");
        check(tensor_json_shape(cursor_of(text_slice(&text)), &rank_found, shape_found, "d",
                                &err) == OK,
              "%s", err.text);
        /* Behind a dimension of 0 the text does not show the rest. */
        for (uint32_t i = 0; i < rank_found && i < rank; i++)
            check(shape_found[i] == shape[i], "dimension %u", i);
        check(count == 0 || rank_found == rank, "rank");
        check(element == data + count * size, "the twin");
        /* We write, we read. */
        struct tensor_json_style style = { (enum json_nonfinite)test_random_below(2), 0,
                                           test_random_below(2) != 0 };
        struct penstock_tensor tensor = tensor_of(dtype, data, count * size, rank, shape);
        text.size = 0;
        check(tensor_json_write(&text, &tensor, style, &err) == OK && !text_failed(&text), "%s",
              err.text);
        c = cursor_of(text_slice(&text));
        check(tensor_json_read(back, dtype, count, &c, "d", &err) == OK && c.at == c.end, "%s",
              err.text);
        check(is_same(data, back, dtype, count), "%s %.*s", dtype_name(dtype),
              SLICE_ARG(text_slice(&text)));
        text_deinit(&text);
        if (test_has_failed())
            return;
    }
}

TEST(tensor_json_survives_every_fault)
{
    static float data[3000];
    int64_t shape[] = { 3000 };
    struct penstock_tensor tensor = tensor_of(PENSTOCK_FP32, data, sizeof data, 1, shape);

    for (unsigned i = 0; i < COUNT(data); i++)
        data[i] = (float)i / 7;
    for_each_fault(nth) {
        struct text text;
        text_init(&text, SIZE_MAX);
        check(tensor_json_write(&text, &tensor, (struct tensor_json_style){ 0 }, NULL) == OK,
              "running out is sticky, not a code");
        bool has_failed = text_failed(&text);
        text_deinit(&text);
        if (!fault_fired()) {
            check(!has_failed && nth > 1, "the sweep met faults");
            break;
        }
        check(has_failed, "fault %u was silent", nth);
    }
    for_each_fault(nth) {
        struct arena *arena = arena_new(1024, 1 << 20);
        struct json_cursor c;
        struct err err = { 0 };
        struct slice got;
        char text[3000];
        memset(text, 'a', sizeof text);
        memcpy(text, "\"\\n", 3);
        text[sizeof text - 1] = '"';
        c = cursor_of(slice_make(text, sizeof text));
        enum err_code code = arena == NULL ? E_EXHAUSTED : json_string(&c, arena, &got, "s", &err);
        arena_free(&arena);
        if (!fault_fired()) {
            check(code == OK && got.size == sizeof text - 3, "whole");
            break;
        }
        check(code == E_EXHAUSTED, "fault %u", nth);
    }
}

/* -- the pull reader ------------------------------------------------------------------------- */

TEST(json_pull_reader)
{
    struct slice text =
        slice_of(" { \"name\" : \"x\\ty\" , \"n\":-3.0, \"u\" : 18446744073709551615,"
                 "\"f\":1e-2,\"b\":true,\"skip\":[{\"a\":[1,{}]},NaN,\"]\"],"
                 "\"list\":[ ] } ");
    struct json_cursor c = cursor_of(text);
    struct arena *arena = arena_new(1024, 1 << 20);
    struct err err = { 0 };
    unsigned members = 0;
    bool has_more, is_first = true;

    check(json_take(&c, '{', "", &err) == OK, "%s", err.text);
    while (json_more(&c, '}', is_first, &has_more, "", &err) == OK && has_more) {
        struct slice key, value;
        int64_t i64 = 0;
        uint64_t u64 = 0;
        double f64 = 0;
        bool is_true = false;
        is_first = false;
        check_or_stop(json_string(&c, arena, &key, "", &err) == OK, "%s", err.text);
        check_or_stop(json_take(&c, ':', "", &err) == OK, "%s", err.text);
        members++;
        if (slice_is(key, "name")) {
            check(json_string(&c, arena, &value, "name", &err) == OK && slice_is(value, "x\ty"),
                  "%s", err.text);
        } else if (slice_is(key, "n")) {
            check(json_i64(&c, &i64, "n", &err) == OK && i64 == -3, "%s", err.text);
        } else if (slice_is(key, "u")) {
            check(json_u64(&c, &u64, "u", &err) == OK && u64 == UINT64_MAX, "%s", err.text);
        } else if (slice_is(key, "f")) {
            check(json_f64(&c, &f64, "f", &err) == OK && f64 == 0.01, "%s", err.text);
        } else if (slice_is(key, "b")) {
            check(json_bool(&c, &is_true, "b", &err) == OK && is_true, "%s", err.text);
        } else if (slice_is(key, "skip")) {
            check(json_skip(&c, &value, "skip", &err) == OK, "%s", err.text);
            check(slice_is(value, "[{\"a\":[1,{}]},NaN,\"]\"]"), "%.*s", SLICE_ARG(value));
        } else {
            check(slice_is(key, "list"), "%.*s", SLICE_ARG(key));
            check(json_peek(&c) == '[' && json_take(&c, '[', "list", &err) == OK, "%s", err.text);
            check(json_more(&c, ']', true, &has_more, "list", &err) == OK && !has_more, "empty");
        }
    }
    check(members == 7 && !has_more, "%u members: %s", members, err.text);
    check(json_end(&c, &err) == OK && json_peek(&c) == 0, "%s", err.text);
    arena_free(&arena);
}

enum step { STRING, I64, U64, F64, BOOL, SKIP, TAKE_COLON, MORE, END };

static const struct {
    enum step step;
    const char *text, *error;
} pull_faults[] = {
    { STRING, " x", "p (byte 1): expected a string, found 'x'" },
    { STRING, "", "p (byte 0): expected a string, found the end of the text" },
    { STRING, "\"a\x01\"",
      "p (byte 2): a control character in a string must be written as an "
      "escape like \\n or \\u0001" },
    { STRING, "\"\\", "p (byte 1): a backslash must be followed by one of \"\\/bfnrtu" },
    { I64, "9223372036854775808",
      "p (byte 0): 9223372036854775808 is out of range for INT64 "
      "(-9223372036854775808 to 9223372036854775807)" },
    { I64, "1.5", "p (byte 0): 1.5 is not a whole number, as INT64 needs" },
    { I64, "\"1\"", "p (byte 0): expected a whole number for INT64, found '\"1\"'" },
    { U64, " -1", "p (byte 1): -1 is out of range for UINT64 (0 to 18446744073709551615)" },
    { F64, "NaN", "p (byte 0): expected a number, found 'NaN'" },
    { F64, "1e999", "p (byte 0): '1e999' is out of range for FP64" },
    { BOOL, "1", "p (byte 0): expected true or false, found '1'" },
    { SKIP, "[1,2", "p (byte 4): expected ',' or ']', found the end of the text" },
    { SKIP, "[1,]", "p (byte 2): a comma before ']'" },
    { SKIP, "{\"a\":1,}", "p (byte 6): a comma before '}'" },
    { SKIP, "{\"a\" 1}", "p (byte 5): expected ':', found '1'" },
    { SKIP, "{1:2}", "p (byte 1): expected a member's name in quotes, found '1'" },
    { SKIP, "{\"a\":1]", "p (byte 6): expected ',' or '}', found ']'" },
    { SKIP, "tru", "p (byte 0): expected a JSON value, found 'tru'" },
    { SKIP, "-", "p (byte 0): expected a JSON value, found '-'" },
    { TAKE_COLON, " ,", "p (byte 1): expected ':', found ','" },
    { MORE, "x", "p (byte 0): expected ',' or ']', found 'x'" },
    { MORE, " , ]", "p (byte 1): a comma before ']'" },
    { END, " x", "byte 1: expected the end of the JSON text, found 'x'" },
};

TEST(json_pull_reader_refuses)
{
    struct arena *arena = arena_new(1024, 1 << 20);

    for (size_t i = 0; i < COUNT(pull_faults); i++) {
        struct json_cursor c = at_the_edge(pull_faults[i].text, strlen(pull_faults[i].text));
        struct err err = { 0 };
        struct slice slice = { NULL, 42 };
        int64_t i64 = 42;
        uint64_t u64 = 42;
        double f64 = 42;
        bool flag = false;
        enum err_code code = OK;
        switch (pull_faults[i].step) {
        case STRING: code = json_string(&c, arena, &slice, "p", &err); break;
        case I64: code = json_i64(&c, &i64, "p", &err); break;
        case U64: code = json_u64(&c, &u64, "p", &err); break;
        case F64: code = json_f64(&c, &f64, "p", &err); break;
        case BOOL: code = json_bool(&c, &flag, "p", &err); break;
        case SKIP: code = json_skip(&c, &slice, "p", &err); break;
        case TAKE_COLON: code = json_take(&c, ':', "p", &err); break;
        case MORE: code = json_more(&c, ']', false, &flag, "p", &err); break;
        case END: code = json_end(&c, &err); break;
        }
        check(code == E_INVALID && strcmp(err.text, pull_faults[i].error) == 0, "%s: \"%s\"",
              pull_faults[i].text, err.text);
        check(slice.size == 42 && i64 == 42 && u64 == 42 && f64 == 42 && !flag, "%s: untouched",
              pull_faults[i].text);
    }
    arena_free(&arena);
}
