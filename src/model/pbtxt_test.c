/* pbtxt_test.c - SPDX-License-Identifier: Apache-2.0
 *
 * The text format clause by clause on a schema that has one field of each kind, then what must not
 * matter: where the text is cut, how deep it goes, which allocation fails.
 */
#include "model/pbtxt.h"

#include <stdio.h>

#include <yyjson.h>

#include "base/mem.h"

#include "test/harness.h"

static const struct schema_value color_values[] = { { "RED", 0 }, { "GREEN", 1 }, { "BLUE", 7 } };
static const struct schema_enum color = { "Color", COUNT(color_values), color_values };

extern const struct schema_message all;
static const struct schema_field all_fields[] = {
    { .name = "b", .label = SCHEMA_ONE, .type = SCHEMA_BOOL },
    { .name = "i32", .label = SCHEMA_ONE, .type = SCHEMA_INT32 },
    { .name = "i64", .label = SCHEMA_ONE, .type = SCHEMA_INT64 },
    { .name = "u32", .label = SCHEMA_ONE, .type = SCHEMA_UINT32 },
    { .name = "u64", .label = SCHEMA_ONE, .type = SCHEMA_UINT64 },
    { .name = "f", .label = SCHEMA_ONE, .type = SCHEMA_FLOAT },
    { .name = "d", .label = SCHEMA_ONE, .type = SCHEMA_DOUBLE },
    { .name = "s", .label = SCHEMA_ONE, .type = SCHEMA_STRING },
    { .name = "e", .label = SCHEMA_ONE, .type = SCHEMA_ENUM, .values = &color },
    { .name = "m", .label = SCHEMA_ONE, .type = SCHEMA_MESSAGE, .message = &all },
    { .name = "ints", .label = SCHEMA_MANY, .type = SCHEMA_INT32 },
    { .name = "texts", .label = SCHEMA_MANY, .type = SCHEMA_STRING },
    { .name = "all", .label = SCHEMA_MANY, .type = SCHEMA_MESSAGE, .message = &all },
    { .name = "map", .label = SCHEMA_MAP, .type = SCHEMA_STRING, .key_type = SCHEMA_STRING },
    { .name = "map_all",
      .label = SCHEMA_MAP,
      .type = SCHEMA_MESSAGE,
      .key_type = SCHEMA_UINT64,
      .message = &all },
    { .name = "left", .label = SCHEMA_ONEOF, .type = SCHEMA_BOOL, .oneof = "side" },
    { .name = "right",
      .label = SCHEMA_ONEOF,
      .type = SCHEMA_MESSAGE,
      .oneof = "side",
      .message = &all },
};
const struct schema_message all = { "All", COUNT(all_fields), all_fields };

enum { DEPTH = 5 };

static void free_doc(yyjson_mut_doc **doc)
{
    yyjson_mut_doc_free(TAKE(*doc));
}

/* The document as JSON, or NULL and err. The text is copied to a block of its very size, so that the
 * address sanitizer sees a byte read too many. */
static char *parse(struct slice text, struct err *err)
{
    CLEANUP(free_doc) yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    CLEANUP(mem_free_slot) uint8_t *copy = mem_alloc(text.size);
    yyjson_mut_val *root = NULL;

    if (text.size != 0)
        memcpy(copy, text.data, text.size);
    if (pbtxt_parse(&root, doc, &all, slice_make(copy, text.size), DEPTH, err) != OK)
        return NULL;
    yyjson_mut_doc_set_root(doc, root);
    return yyjson_mut_write_opts(doc, 0, &schema_heap, NULL, NULL);
}

static const struct {
    const char *text;
    const char *json; /* or NULL */
    const char *error;
} cases[] = {
    /* blanks and comments */
    { "", "{}", NULL },
    { " \t\r\n\v\f# only a comment", "{}", NULL },
    { "# one\n#two\nb:true#three", "{\"b\":true}", NULL },
    { "\xef\xbb\xbf"
      "b: 1",
      "{\"b\":true}", NULL },
    { "i32 : 1 # a\n : 2", NULL, "line 2, column 2: expected a field of All, got ':'" },

    /* separators */
    { "b: true, i32: 1; u32: 2", "{\"b\":true,\"i32\":1,\"u32\":2}", NULL },
    { "b:true i32:1", "{\"b\":true,\"i32\":1}", NULL },
    { "b: true,, i32: 1", NULL, "line 1, column 9: expected a field of All, got ','" },
    { "; b: true", NULL, "line 1, column 1: expected a field of All, got ';'" },
    { "b true", NULL, "line 1, column 3: expected ':' after 'b', got 'true'" },
    { "b", NULL, "line 1, column 2: expected ':' after 'b', got the end of the file" },
    { "b: ", NULL,
      "line 1, column 4: 'b' is bool: expected true or false, got the end of the file" },

    /* names */
    { "intz: 1", NULL, "line 1, column 1: unknown field 'intz' of All; the nearest is 'ints'" },
    { "zebra: 1", NULL, "line 1, column 1: unknown field 'zebra' of All" },
    { "m { texst: 'a' }", NULL,
      "line 1, column 5: unknown field 'texst' of All; the nearest is 'texts'" },
    { "b: true\n\tI32: 1", NULL,
      "line 2, column 2: unknown field 'I32' of All; the nearest is 'i32'" },
    { "[a.b.c]: 1", NULL, "line 1, column 1: extensions and Any are not part of All" },
    { "b: aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbc", NULL,
      "line 1, column 4: 'b' is bool: expected true or false, got a long word" },
    { "b: 'aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbc'", NULL,
      "line 1, column 4: 'b' is bool: expected true or false, got a string" },
    { "5: 1", NULL, "line 1, column 1: expected a field of All, got '5'" },
    { "\"b\": true", NULL, "line 1, column 1: expected a field of All, got \"b\"" },
    { "\x01", NULL, "line 1, column 1: expected a field of All, got byte 0x01" },
    { "s: '\xc3\xa9' \xc3\xa9", NULL, "line 1, column 8: expected a field of All, got byte 0xc3" },

    /* bools */
    { "b: true", "{\"b\":true}", NULL },
    { "b: True", "{\"b\":true}", NULL },
    { "b: t", "{\"b\":true}", NULL },
    { "b: 1", "{\"b\":true}", NULL },
    { "b: 0x1", "{\"b\":true}", NULL },
    { "b: 01", "{\"b\":true}", NULL },
    { "b: false", "{\"b\":false}", NULL },
    { "b: False", "{\"b\":false}", NULL },
    { "b: f", "{\"b\":false}", NULL },
    { "b: 0", "{\"b\":false}", NULL },
    { "b: TRUE", NULL, "line 1, column 4: 'b' is bool: expected true or false, got 'TRUE'" },
    { "b: 2", NULL, "line 1, column 4: 'b' is bool: expected true or false, got '2'" },
    { "b: -1", NULL, "line 1, column 4: 'b' is bool: expected true or false, got '-'" },
    { "b: 'true'", NULL, "line 1, column 4: 'b' is bool: expected true or false, got 'true'" },

    /* integers */
    { "i32: 0", "{\"i32\":0}", NULL },
    { "i32: -0", "{\"i32\":0}", NULL },
    { "i32: - 5", "{\"i32\":-5}", NULL },
    { "i32: -\n# why not\n5", "{\"i32\":-5}", NULL },
    { "i32: 2147483647", "{\"i32\":2147483647}", NULL },
    { "i32: -2147483648", "{\"i32\":-2147483648}", NULL },
    { "i32: 2147483648", NULL,
      "line 1, column 6: 2147483648 is out of range: 'i32' is int32, -2147483648 to 2147483647" },
    { "i32: -2147483649", NULL,
      "line 1, column 6: -2147483649 is out of range: 'i32' is int32, -2147483648 to 2147483647" },
    { "i32: 0x7fFF", "{\"i32\":32767}", NULL },
    { "i32: -0X10", "{\"i32\":-16}", NULL },
    { "i32: 017", "{\"i32\":15}", NULL },
    { "i32: 00", "{\"i32\":0}", NULL },
    { "i32: 018", NULL,
      "line 1, column 6: a number that begins with 0 is octal, and '8' is no octal digit" },
    { "i32: 0x", NULL, "line 1, column 6: 0x is not followed by a hexadecimal digit" },
    { "i32: 0xg", NULL, "line 1, column 6: 0x is not followed by a hexadecimal digit" },
    { "i32: 1.5", NULL, "line 1, column 6: 'i32' is int32: expected a whole number, got '1.5'" },
    { "i32: 1f", NULL, "line 1, column 6: 'i32' is int32: expected a whole number, got '1f'" },
    { "i32: 1e3", NULL, "line 1, column 6: 'i32' is int32: expected a whole number, got '1e3'" },
    { "i32: five", NULL, "line 1, column 6: 'i32' is int32: expected a whole number, got 'five'" },
    { "i32: '5'", NULL, "line 1, column 6: 'i32' is int32: expected a whole number, got '5'" },
    { "i32: 12abc", NULL,
      "line 1, column 8: 'a' directly after a number: put a blank between, or is the number not "
      "what was meant?" },
    { "i32: 1b: true", NULL,
      "line 1, column 7: 'b' directly after a number: put a blank between, or is the number not "
      "what was meant?" },
    { "i32: +5", NULL, "line 1, column 6: 'i32' is int32: expected a whole number, got '+'" },
    { "i32: --5", NULL, "line 1, column 7: 'i32' is int32: expected a whole number, got '-'" },
    { "i64: 9223372036854775807", "{\"i64\":9223372036854775807}", NULL },
    { "i64: -9223372036854775808", "{\"i64\":-9223372036854775808}", NULL },
    { "i64: 9223372036854775808", NULL,
      "line 1, column 6: 9223372036854775808 is out of range: 'i64' is int64, "
      "-9223372036854775808 to 9223372036854775807" },
    { "u32: 4294967295", "{\"u32\":4294967295}", NULL },
    { "u32: 4294967296", NULL,
      "line 1, column 6: 4294967296 is out of range: 'u32' is uint32, 0 to 4294967295" },
    { "u32: -1", NULL, "line 1, column 6: -1 is out of range: 'u32' is uint32, 0 to 4294967295" },
    { "u32: -0", "{\"u32\":0}", NULL },
    { "u64: 18446744073709551615", "{\"u64\":18446744073709551615}", NULL },
    { "u64: 18446744073709551616", NULL,
      "line 1, column 6: 18446744073709551616 is out of range: 'u64' is uint64, 0 to "
      "18446744073709551615" },
    { "u64: 0x10000000000000000", NULL,
      "line 1, column 6: 0x10000000000000000 is out of range: 'u64' is uint64, 0 to "
      "18446744073709551615" },

    /* floats */
    { "f: 0.1", "{\"f\":0.1}", NULL },
    { "f: 0.100000001", "{\"f\":0.1}", NULL },
    { "f: 16777217", "{\"f\":16777216.0}", NULL },
    { "f: 1e39", "{\"f\":\"Infinity\"}", NULL },
    { "d: 0.1", "{\"d\":0.1}", NULL },
    { "d: 1", "{\"d\":1.0}", NULL },
    { "d: 1f", "{\"d\":1.0}", NULL },
    { "d: 1.5F", "{\"d\":1.5}", NULL },
    { "d: .5", "{\"d\":0.5}", NULL },
    { "d: 5.", "{\"d\":5.0}", NULL },
    { "d: 5.e1", "{\"d\":50.0}", NULL },
    { "d: -1.25e-2", "{\"d\":-0.0125}", NULL },
    { "d: 1E+2f", "{\"d\":100.0}", NULL },
    { "d: 0.5", "{\"d\":0.5}", NULL },
    { "d: 0e1", "{\"d\":0.0}", NULL },
    { "d: inf", "{\"d\":\"Infinity\"}", NULL },
    { "d: -Infinity", "{\"d\":\"-Infinity\"}", NULL },
    { "d: NaN", "{\"d\":\"NaN\"}", NULL },
    { "d: -nan", "{\"d\":\"NaN\"}", NULL },
    { "d: 0x10", NULL, "line 1, column 4: 'd' is double: expected a decimal number, got '0x10'" },
    { "d: 010", NULL, "line 1, column 4: 'd' is double: expected a decimal number, got '010'" },
    { "d: infin", NULL, "line 1, column 4: 'd' is double: expected a decimal number, got 'infin'" },
    { "d: 1e", NULL, "line 1, column 4: the exponent has no digits" },
    { "d: 1e+", NULL, "line 1, column 4: the exponent has no digits" },
    { "d: 1.2.3", NULL,
      "line 1, column 7: '.' directly after a number: put a blank between, or is the number not "
      "what was meant?" },
    { "d: .", NULL, "line 1, column 4: 'd' is double: expected a decimal number, got '.'" },

    /* strings */
    { "s: ''", "{\"s\":\"\"}", NULL },
    { "s: \"it's\"", "{\"s\":\"it's\"}", NULL },
    { "s: 'say \"x\"'", "{\"s\":\"say \\\"x\\\"\"}", NULL },
    { "s: 'a' \"b\"\n# more\n'c'", "{\"s\":\"abc\"}", NULL },
    { "s: 'a''b'", "{\"s\":\"ab\"}", NULL },
    { "s: 'a#b' # c", "{\"s\":\"a#b\"}", NULL },
    { "s: '\\a\\b\\f\\n\\r\\t\\v\\?\\\\\\'\\\"'",
      "{\"s\":\"\\u0007\\b\\f\\n\\r\\t\\u000B?\\\\'\\\"\"}", NULL },
    { "s: '\\101\\1012\\7'", "{\"s\":\"AA2\\u0007\"}", NULL },
    { "s: '\\x41\\x4a4\\xA'", "{\"s\":\"AJ4\\n\"}", NULL },
    { "s: '\\xc3\\xa9\\303\\251'", "{\"s\":\"\xc3\xa9\xc3\xa9\"}", NULL },
    { "s: '\\u00e9\\U0001F600'", "{\"s\":\"\xc3\xa9\xf0\x9f\x98\x80\"}", NULL },
    { "s: '\\ud83d\\ude00'", "{\"s\":\"\xf0\x9f\x98\x80\"}", NULL },
    { "s: 'ab\\ud83d'", NULL, "line 1, column 7: the escape is no Unicode character" },
    { "s: '\\ude00'", NULL, "line 1, column 5: the escape is no Unicode character" },
    { "s: '\\ud83d\\u0041'", NULL, "line 1, column 5: the escape is no Unicode character" },
    { "s: '\\U00110000'", NULL, "line 1, column 5: the escape is no Unicode character" },
    { "s: '\\u12'", NULL, "line 1, column 5: \\u needs 4 hexadecimal digits" },
    { "s: '\\U0001F60'", NULL, "line 1, column 5: \\U needs 8 hexadecimal digits" },
    { "s: '\\xz'", NULL, "line 1, column 5: \\x is not followed by a hexadecimal digit" },
    { "s: 'a' 'b\\400'", NULL, "line 1, column 10: the octal escape is past \\377" },
    { "s: 'C:\\dir'", NULL,
      "line 1, column 7: unknown escape in a string: write \\\\ for a backslash" },
    { "s: '\\xff'", NULL, "line 1, column 4: the string is not UTF-8 from its byte 1 on" },
    { "s: 'ok\xc3'", NULL, "line 1, column 4: the string is not UTF-8 from its byte 3 on" },
    { "s: 'a\\0'", NULL, "line 1, column 4: the string holds a zero byte" },
    { "s: 'abc", NULL,
      "line 1, column 4: the string is not closed: a ' is missing before the end of the file" },
    { "s: \"abc\nb: true", NULL,
      "line 1, column 4: the string is not closed: a \" is missing before the end of the line" },
    { "s: 'abc\\'", NULL,
      "line 1, column 4: the string is not closed: a ' is missing before the end of the file" },
    { "s: 'abc\\\n'", NULL,
      "line 1, column 4: the string is not closed: a ' is missing before the end of the line" },
    { "s: abc", NULL, "line 1, column 4: 's' is string: expected a string in quotes, got 'abc'" },
    { "s: 5", NULL, "line 1, column 4: 's' is string: expected a string in quotes, got '5'" },

    /* enums */
    { "e: GREEN", "{\"e\":\"GREEN\"}", NULL },
    { "e: 7", "{\"e\":\"BLUE\"}", NULL },
    { "e: -0", "{\"e\":\"RED\"}", NULL },
    { "e: GREN", NULL, "line 1, column 4: 'GREN' is no value of Color; the nearest is 'GREEN'" },
    { "e: CHARTREUSE", NULL,
      "line 1, column 4: 'CHARTREUSE' is no value of Color: RED, GREEN, BLUE" },
    { "e: 2", NULL, "line 1, column 4: 2 is no value of Color" },
    { "e: -7", NULL, "line 1, column 4: -7 is no value of Color" },
    { "e: 18446744073709551617", NULL,
      "line 1, column 4: 18446744073709551617 is no value of Color" },
    { "e: 'RED'", NULL,
      "line 1, column 4: 'e' is Color: expected a name without quotes, got 'RED'" },

    /* messages */
    { "m {}", "{\"m\":{}}", NULL },
    { "m: {}", "{\"m\":{}}", NULL },
    { "m <>", "{\"m\":{}}", NULL },
    { "m: < b: 1 >", "{\"m\":{\"b\":true}}", NULL },
    { "m { b: 1, } i32: 1", "{\"m\":{\"b\":true},\"i32\":1}", NULL },
    { "m { m < m { i32: 1 } > }", "{\"m\":{\"m\":{\"m\":{\"i32\":1}}}}", NULL },
    { "m { b: 1 >", NULL, "line 1, column 10: expected a field of All or '}', got '>'" },
    { "m < b: 1 }", NULL, "line 1, column 10: expected a field of All or '>', got '}'" },
    { "m {\n b: 1", NULL, "line 1, column 3: '{' of All is not closed: a '}' is missing" },
    { "b: 1 }", NULL, "line 1, column 6: expected a field of All, got '}'" },
    { "m: 5", NULL, "line 1, column 4: 'm' is All: expected '{', got '5'" },
    { "m b: 1", NULL, "line 1, column 3: 'm' is All: expected '{', got 'b'" },
    { "m{m{m{m{m{}}}}}", "{\"m\":{\"m\":{\"m\":{\"m\":{\"m\":{}}}}}}", NULL },
    { "m{m{m{m{m{m{}}}}}}", NULL,
      "line 1, column 12: messages lie within messages more than 5 deep" },

    /* one and many */
    { "i32: 1 i32: 2", NULL, "line 1, column 8: 'i32' is given twice and is not a list" },
    { "m {} m {}", NULL, "line 1, column 6: 'm' is given twice and is not a list" },
    { "i32: [1]", NULL, "line 1, column 6: 'i32' is one int32, not a list" },
    { "m [{}]", NULL, "line 1, column 3: 'm' is one All, not a list" },
    { "ints: 1 ints: 2 ints: [3, 4] ints: []", "{\"ints\":[1,2,3,4]}", NULL },
    { "ints: []", "{\"ints\":[]}", NULL },
    { "ints [1]", NULL, "line 1, column 6: expected ':' after 'ints', got '['" },
    { "ints: [1,]", NULL, "line 1, column 10: 'ints' is int32: expected a whole number, got ']'" },
    { "ints: [,1]", NULL, "line 1, column 8: 'ints' is int32: expected a whole number, got ','" },
    { "ints: [1 2]", NULL,
      "line 1, column 10: in the list of 'ints': expected ',' or ']', got '2'" },
    { "ints: [1; 2]", NULL,
      "line 1, column 9: in the list of 'ints': expected ',' or ']', got ';'" },
    { "ints: [1, 2", NULL, "line 1, column 7: the list of 'ints' is not closed: a ']' is missing" },
    { "ints: [[1]]", NULL, "line 1, column 8: 'ints' is int32: expected a whole number, got '['" },
    { "texts: ['a' 'b', \"c\"]", "{\"texts\":[\"ab\",\"c\"]}", NULL },
    { "all {} all { i32: 1 } all: [{}, <b: 1>]", "{\"all\":[{},{\"i32\":1},{},{\"b\":true}]}",
      NULL },
    { "all [{}, {}]", "{\"all\":[{},{}]}", NULL },
    { "all []", "{\"all\":[]}", NULL },

    /* oneofs */
    { "left: false", "{\"left\":false}", NULL },
    { "right {}", "{\"right\":{}}", NULL },
    { "left: true right {}", NULL,
      "line 1, column 12: 'right' cannot be given beside 'left': only one of side may be" },
    { "right {}\nleft: false", NULL,
      "line 2, column 1: 'left' cannot be given beside 'right': only one of side may be" },
    { "left: true left: true", NULL, "line 1, column 12: 'left' is given twice and is not a list" },

    /* maps */
    { "map { key: 'a' value: 'b' }", "{\"map\":{\"a\":\"b\"}}", NULL },
    { "map { value: 'b' key: 'a' } map: <key: 'c', value: 'd'>",
      "{\"map\":{\"a\":\"b\",\"c\":\"d\"}}", NULL },
    { "map [{ key: 'a' value: 'b' }, { key: 'c' }]", "{\"map\":{\"a\":\"b\",\"c\":\"\"}}", NULL },
    { "map {}", "{\"map\":{\"\":\"\"}}", NULL },
    { "map []", "{\"map\":{}}", NULL },
    { "map { key: 'a' value: '1' } map { key: 'a' value: '2' }", "{\"map\":{\"a\":\"2\"}}", NULL },
    { "map { key: 'a' key: 'b' }", NULL,
      "line 1, column 16: 'key' is given twice and is not a list" },
    { "map { kye: 'a' }", NULL,
      "line 1, column 7: unknown field 'kye' of an entry of map; the nearest is 'key'" },
    { "map: 5", NULL, "line 1, column 6: 'map' is an entry of map: expected '{', got '5'" },
    { "map_all { key: 18446744073709551615 value { i32: 1 } } map_all {}",
      "{\"map_all\":{\"18446744073709551615\":{\"i32\":1},\"0\":{}}}", NULL },
    { "map_all { key: '1' }", NULL,
      "line 1, column 16: 'key' is uint64: expected a whole number, got '1'" },
};

TEST(pbtxt_cases)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { 0 };
        CLEANUP(mem_free_slot) char *json = parse(slice_of(cases[i].text), &err);
        if (cases[i].json != NULL)
            check(json != NULL && strcmp(json, cases[i].json) == 0, "%s\n  gave %s %s",
                  cases[i].text, json != NULL ? json : "error:", json != NULL ? "" : err.text);
        else
            check(json == NULL && err.code == E_INVALID && strcmp(err.text, cases[i].error) == 0,
                  "%s\n  gave %s", cases[i].text, json != NULL ? json : err.text);
    }
}

TEST(pbtxt_cases_cut_and_changed_at_every_byte)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t size = strlen(cases[i].text);
        CLEANUP(mem_free_slot) uint8_t *changed = (uint8_t *)mem_strdup(cases[i].text);
        for (size_t at = 0; at < size; at++) {
            struct err err = { 0 };
            char *json = parse(slice_make(cases[i].text, at), &err);
            check((json == NULL) == (err.code == E_INVALID), "%s cut at %zu", cases[i].text, at);
            mem_free(json);
            for (unsigned change = 0; change < 4; change++) {
                static const char with[] = { '\0', '}', '\'', (char)0xff };
                err = (struct err){ 0 };
                changed[at] = (uint8_t)with[change];
                json = parse(slice_make(changed, size), &err);
                check((json == NULL) == (err.code == E_INVALID), "%s changed at %zu", cases[i].text,
                      at);
                mem_free(json);
            }
            changed[at] = (uint8_t)cases[i].text[at];
        }
    }
}

TEST(pbtxt_values_are_bounded)
{
    size_t count = SCHEMA_VALUES_MAX + 10;
    CLEANUP(mem_free_slot) char *text = mem_alloc(2 * count + 10);
    struct err err = { 0 };

    memcpy(text, "ints:[", 6);
    for (size_t i = 0; i < count; i++)
        memcpy(text + 6 + 2 * i, "1,", 2);
    check(parse(slice_make(text, 6 + 2 * count), &err) == NULL, "too many");
    check(strcmp(err.text,
                 "line 1, column 524295: the configuration holds more than 262144 values") == 0,
          "%s", err.text);
}

TEST(pbtxt_map_entries_are_bounded)
{
    enum { ENTRY = 25 };
    CLEANUP(mem_free_slot) char *text = mem_alloc((SCHEMA_MAP_MAX + 1) * ENTRY + 1);
    struct err err = { 0 };

    for (size_t i = 0; i <= SCHEMA_MAP_MAX; i++)
        snprintf(text + i * ENTRY, ENTRY + 1, "map { key: '%08zu' } \n", i);
    CLEANUP(mem_free_slot) char *json = parse(slice_make(text, SCHEMA_MAP_MAX * ENTRY), &err);
    check(json != NULL, "%s", err.text);
    check(parse(slice_make(text, (SCHEMA_MAP_MAX + 1) * ENTRY), &err) == NULL, "one too many");
    check(strcmp(err.text, "line 1025, column 5: 'map' has more than 1024 entries") == 0, "%s",
          err.text);
}

TEST(pbtxt_survives_every_fault)
{
    static const char text[] = "b: 1 i32: 2 d: 1.5 s: 'a' 'b' e: RED m { ints: [1, 2] } "
                               "all [{}, {}] map { key: 'a' value: 'b' } map { key: 'a' } "
                               "map_all { key: 5 value { s: '\\u00e9' } } right {}";

    for_each_fault(nth) {
        CLEANUP(free_doc) yyjson_mut_doc *doc = yyjson_mut_doc_new(&schema_heap);
        yyjson_mut_val *root = NULL;
        struct err err = { 0 };
        enum err_code code = E_EXHAUSTED;
        if (doc != NULL)
            code = pbtxt_parse(&root, doc, &all, slice_of(text), DEPTH, &err);
        bool fired = fault_fired();
        check(code == (fired ? E_EXHAUSTED : OK), "fault %u: %d %s", nth, code, err.text);
        check((root != NULL) == !fired, "fault %u: the result", nth);
        if (!fired)
            break;
    }
}

static const struct {
    const char *json, *same; /* NULL: the error instead */
    const char *error;
} json_cases[] = {
    { "{}", "{}", NULL },
    { "{\"b\":true,\"i32\":-5,\"u64\":18446744073709551615}",
      "{\"b\":true,\"i32\":-5,\"u64\":18446744073709551615}", NULL },
    { "{\"i64\":\"-9223372036854775808\",\"i32\":1.0}", "{\"i64\":-9223372036854775808,\"i32\":1}",
      NULL },
    { "{\"mapAll\":{\"5\":{\"i32\":1}},\"map\":{\"x\":\"y\"}}",
      "{\"map_all\":{\"5\":{\"i32\":1}},\"map\":{\"x\":\"y\"}}", NULL },
    { "{\"e\":1,\"d\":\"-Infinity\",\"f\":0.1,\"s\":null}",
      "{\"e\":\"GREEN\",\"d\":\"-Infinity\",\"f\":0.1}", NULL },
    { "{\"all\":[{\"ints\":[1,\"2\"]}],\"left\":false}",
      "{\"all\":[{\"ints\":[1,2]}],\"left\":false}", NULL },
    { "", NULL, "line 1, column 1: not JSON: input length is 0" },
    { "{\n \"b\": tru }", NULL,
      "line 2, column 7: not JSON: invalid literal, expected a valid literal such as 'true'" },
    { "[]", NULL, "an object is expected" },
    { "{\"b\":1}", NULL, "b: true or false is expected" },
    { "{\"i32\":2147483648}", NULL,
      "i32: a whole number of int32 (-2147483648 to 2147483647) is expected" },
    { "{\"i32\":1.5}", NULL,
      "i32: a whole number of int32 (-2147483648 to 2147483647) is expected" },
    { "{\"i32\":1e300}", NULL,
      "i32: a whole number of int32 (-2147483648 to 2147483647) is expected" },
    { "{\"u32\":-1}", NULL, "u32: a whole number of uint32 (0 to 4294967295) is expected" },
    { "{\"u32\":\"x\"}", NULL, "u32: a whole number of uint32 (0 to 4294967295) is expected" },
    { "{\"u32\":\"\"}", NULL, "u32: a whole number of uint32 (0 to 4294967295) is expected" },
    { "{\"d\":\"NaN\",\"f\":\"1.5\"}", "{\"d\":\"NaN\",\"f\":1.5}", NULL },
    { "{\"d\":\"1.5.5\"}", NULL, "d: a number is expected" },
    { "{\"zebra\":1}", NULL, "unknown field 'zebra' of All" },
    { "{\"d\":\"x\"}", NULL, "d: a number is expected" },
    { "{\"d\":[]}", NULL, "d: a number is expected" },
    { "{\"s\":5}", NULL, "s: a string is expected" },
    { "{\"s\":\"a\\u0000b\"}", NULL, "s: the string holds a zero byte" },
    { "{\"e\":\"GREN\"}", NULL, "e: 'GREN' is no value of Color; the nearest is 'GREEN'" },
    { "{\"e\":\"x\"}", NULL, "e: 'x' is no value of Color: RED, GREEN, BLUE" },
    { "{\"e\":3}", NULL, "e: 3 is no value of Color" },
    { "{\"e\":{}}", NULL, "e: a name of Color is expected, such as \"BLUE\"" },
    { "{\"m\":{\"m\":{\"intz\":1}}}", NULL,
      "m.m: unknown field 'intz' of All; the nearest is 'ints'" },
    { "{\"m\":[]}", NULL, "m: an object is expected" },
    { "{\"ints\":5}", NULL, "ints: a list is expected" },
    { "{\"ints\":[1,null]}", NULL,
      "ints[1]: a whole number of int32 (-2147483648 to 2147483647) is expected" },
    { "{\"all\":[{},{\"all\":[{\"b\":0}]}]}", NULL, "all[1].all[0].b: true or false is expected" },
    { "{\"map\":[]}", NULL, "map: an object is expected" },
    { "{\"map\":{\"k\":1}}", NULL, "map['k']: a string is expected" },
    { "{\"map\":{\"k\":\"\",\"k\":\"\"}}", NULL, "map['k']: the key is given twice" },
    { "{\"map_all\":{\"x\":{}}}", NULL, "map_all['x']: the key must be a whole number" },
    { "{\"i32\":1,\"i32\":2}", NULL, "i32: is given twice" },
    { "{\"map_all\":{},\"mapAll\":{}}", NULL, "map_all: is given twice" },
    { "{\"left\":true,\"right\":{}}", NULL,
      "right: cannot be given beside 'left': only one of side may be" },
};

static char *parse_json(struct slice text, struct err *err)
{
    CLEANUP(free_doc) yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    CLEANUP(mem_free_slot) uint8_t *copy = mem_alloc(text.size);
    yyjson_mut_val *root = NULL;

    if (text.size != 0)
        memcpy(copy, text.data, text.size);
    if (schema_from_json(&root, doc, &all, slice_make(copy, text.size), err) != OK)
        return NULL;
    yyjson_mut_doc_set_root(doc, root);
    return yyjson_mut_write_opts(doc, 0, &schema_heap, NULL, NULL);
}

TEST(schema_json_cases)
{
    for (size_t i = 0; i < COUNT(json_cases); i++) {
        struct err err = { 0 };
        CLEANUP(mem_free_slot) char *json = parse_json(slice_of(json_cases[i].json), &err);
        if (json_cases[i].same != NULL)
            check(json != NULL && strcmp(json, json_cases[i].same) == 0, "%s\n  gave %s",
                  json_cases[i].json, json != NULL ? json : err.text);
        else
            check(json == NULL && err.code == E_INVALID &&
                      strcmp(err.text, json_cases[i].error) == 0,
                  "%s\n  gave %s", json_cases[i].json, json != NULL ? json : err.text);
        for (size_t at = 0; at < strlen(json_cases[i].json); at++) {
            char *cut = parse_json(slice_make(json_cases[i].json, at), &err);
            check(cut == NULL, "%s cut at %zu", json_cases[i].json, at);
            mem_free(cut);
        }
    }
}

TEST(schema_json_is_bounded)
{
    size_t count = SCHEMA_VALUES_MAX + 10, at;
    CLEANUP(mem_free_slot) char *text = mem_alloc(2 * count + 100);
    struct err err = { 0 };

    at = (size_t)sprintf(text, "{\"ints\":[1");
    for (size_t i = 1; i < count; i++)
        at += (size_t)sprintf(text + at, ",1");
    at += (size_t)sprintf(text + at, "]}");
    check(parse_json(slice_make(text, at), &err) == NULL, "too many");
    check(strcmp(err.text, "ints[262144]: the configuration holds more than 262144 values") == 0,
          "%s", err.text);
    at = (size_t)sprintf(text, "{\"map\":{\"\":\"\"");
    for (size_t i = 0; i < SCHEMA_MAP_MAX; i++)
        at += (size_t)sprintf(text + at, ",\"%zu\":\"\"", i);
    at += (size_t)sprintf(text + at, "}}");
    check(parse_json(slice_make(text, at), &err) == NULL, "too many");
    check(strcmp(err.text, "map: there are more than 1024 entries") == 0, "%s", err.text);
}

TEST(schema_completes_in_order)
{
    CLEANUP(free_doc) yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = NULL;
    static const char text[] = "ints: 3 m { s: 'x' } b: true map_all { key: 1 value { left: 0 } }";
#define REST(b, s, ints, maps)                                                                    \
    "{\"b\":" b ",\"i32\":0,\"i64\":0,\"u32\":0,\"u64\":0,\"f\":0.0,\"d\":0.0,\"s\":\"" s         \
    "\",\"e\":\"RED\"%s\"ints\":[" ints "],\"texts\":[],\"all\":[],\"map\":{},\"map_all\":{" maps \
    "}%s}"
    char inner[400], entry[400], whole[1200];

    snprintf(inner, sizeof inner, REST("false", "x", "", ""), ",", "");
    snprintf(entry, sizeof entry, REST("false", "", "", ""), ",", ",\"left\":false");
    snprintf(whole, sizeof whole,
             "{\"b\":true,\"i32\":0,\"i64\":0,\"u32\":0,\"u64\":0,\"f\":0.0,\"d\":0.0,\"s\":\"\","
             "\"e\":\"RED\",\"m\":%s,\"ints\":[3],\"texts\":[],\"all\":[],\"map\":{},"
             "\"map_all\":{\"1\":%s}}",
             inner, entry);
    check_or_stop(pbtxt_parse(&root, doc, &all, slice_of(text), DEPTH, NULL) == OK, "parsed");
    yyjson_mut_doc_set_root(doc, schema_complete(doc, &all, root));
    CLEANUP(mem_free_slot) char *json = yyjson_mut_write_opts(doc, 0, &schema_heap, NULL, NULL);
    check(strcmp(json, whole) == 0, "%s\n%s", json, whole);
}
