/* multipart_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "wire/multipart.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "test/harness.h"

static const struct multipart_limits limits = { .parts_max = 4, .header_bytes_max = 200 };

#define P "Content-Disposition: form-data; name="

static const struct {
    const char *body; /* the boundary is B */
    enum err_code code;
    const char *seen;
    const char *why;
} cases[] = {
    { "--B\r\n" P "a\r\n\r\nhello\r\n--B--\r\n", OK, "a=hello|", "the least" },
    { "--B\r\n" P
      "\"a b\"; filename=\"x.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n\x01\r\n\x02\r\n--B--",
      OK, "a b(x.jpg)[image/jpeg]=\x01\r\n\x02|", "a file; nothing behind the end" },
    { "--B\r\n" P "a\r\n\r\n1\r\n--B\r\n" P "a\r\n\r\n2\r\n--B--\r\n", OK, "a=1|a=2|",
      "two of a name" },
    { "--B\r\n" P "a\r\n\r\n\r\n--B--\r\n", OK, "a=|", "empty" },
    { "--B\r\n" P "a\r\n\r\n--B--\r\n", OK, "a=|", "empty, without its own line" },
    { "pre\r\n--B \t\r\n" P "a\r\n\r\nx\r\n--B--epi", OK, "a=x|", "preamble, padding, epilogue" },
    { "--B\r\n" P "a\r\n\r\n\r\n-B\r\n--\r\n--C\r\n--B--", OK, "a=\r\n-B\r\n--\r\n--C|",
      "nearly a boundary" },
    { "--B\r\ncontent-disposition: Form-Data ; NAME=a ; filename*=UTF-8''x\r\n\r\nx\r\n--B--", OK,
      "a=x|", "no case; filename* is left alone" },
    { "--B\r\n" P "\"a\\\"b\\\\c\\d%22e\"\r\n\r\nx\r\n--B--", OK, "a\"b\\c\\d\"e=x|", "escapes" },
    { "--B--", OK, "", "no parts at all" },

    { "", E_INVALID, NULL, "nothing" },
    { "--C\r\n", E_INVALID, NULL, "another boundary" },
    { "--B", E_INVALID, NULL, "cut behind the boundary" },
    { "--B\n" P "a\r\n\r\nx\r\n--B--", E_INVALID, NULL, "LF behind the boundary" },
    { "--BX\r\n" P "a\r\n\r\nx\r\n--B--", E_INVALID, NULL, "a longer word" },
    { "--B\r\n" P "a\r\n\r\nx", E_INVALID, NULL, "no closing boundary" },
    { "--B\r\n" P "a\r\n\r\nx\r\n--B", E_INVALID, NULL, "cut in the closing boundary" },
    { "--B\r\n" P "a\r\n", E_INVALID, NULL, "cut in the headers" },
    { "--B\r\n" P "a\n\r\nx\r\n--B--", E_INVALID, NULL, "LF in the headers" },
    { "--B\r\n\r\nx\r\n--B--", E_INVALID, NULL, "no headers" },
    { "--B\r\nContent-Type: x\r\n\r\nx\r\n--B--", E_INVALID, NULL, "no disposition" },
    { "--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--", E_INVALID, NULL, "no name" },
    { "--B\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--B--", E_INVALID, NULL,
      "attachment" },
    { "--B\r\n" P "a; name=b\r\n\r\nx\r\n--B--", E_INVALID, NULL, "two names" },
    { "--B\r\n" P "a\r\n" P "b\r\n\r\nx\r\n--B--", E_INVALID, NULL, "two dispositions" },
    { "--B\r\n" P "\"a\r\n\r\nx\r\n--B--", E_INVALID, NULL, "open quote" },
    { "--B\r\n" P "a b\r\n\r\nx\r\n--B--", E_INVALID, NULL, "junk behind the name" },
    { "--B\r\n" P "a\r\n b\r\n\r\nx\r\n--B--", E_INVALID, NULL, "folded" },
    { "--B\r\n" P "a\r\nX y\r\n\r\nx\r\n--B--", E_INVALID, NULL, "no colon" },
    { "--B\r\n" P "\"a\x01\"\r\n\r\nx\r\n--B--", E_INVALID, NULL, "control byte in a name" },
    { "--B\r\n" P "a\r\nContent-Type: x\r\nContent-Type: x\r\n\r\nx\r\n--B--", E_INVALID, NULL,
      "two types" },
    { "--B\r\n" P "a\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--B--", E_UNIMPLEMENTED, NULL,
      "base64" },
    { "--B\r\n" P "a\r\nContent-Transfer-Encoding: binary\r\n\r\nx\r\n--B--", OK, "a=x|",
      "binary" },
    { "--B\r\n" P "a\r\n\r\n\r\n--B\r\n" P "a\r\n\r\n\r\n--B\r\n" P "a\r\n\r\n\r\n--B\r\n" P
      "a\r\n\r\n\r\n--B\r\n" P "a\r\n\r\n\r\n--B--",
      E_EXHAUSTED, NULL, "five parts" },
    { "--B\r\n" P "a\r\nX: 0123456789012345678901234567890123456789012345678901234567890123456789"
      "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
      "\r\n\r\nx\r\n--B--",
      E_EXHAUSTED, NULL, "long headers" },
};

/* Reads from memory that ends where the body ends. */
static enum err_code read_form(const char *text, char *seen, size_t room, struct err *err)
{
    size_t size = strlen(text), used = 0;
    uint8_t *body = malloc(size + (size == 0));
    CLEANUP(arena_free) struct arena *arena = arena_new(1024, 100000);
    struct multipart m;
    struct multipart_part part;
    bool has = true;

    memcpy(body, text, size);
    seen[0] = '\0';
    enum err_code code =
        multipart_init(&m, slice_make(body, size), slice_of("B"), &limits, arena, err);
    while (code == OK && (code = multipart_next(&m, &part, &has, err)) == OK && has) {
        used += (size_t)snprintf(seen + used, room - used, "%.*s", SLICE_ARG(part.name));
        if (part.filename.data != NULL)
            used += (size_t)snprintf(seen + used, room - used, "(%.*s)", SLICE_ARG(part.filename));
        if (part.content_type.data != NULL)
            used +=
                (size_t)snprintf(seen + used, room - used, "[%.*s]", SLICE_ARG(part.content_type));
        used += (size_t)snprintf(seen + used, room - used, "=%.*s|", SLICE_ARG(part.body));
    }
    free(body);
    return code;
}

TEST(multipart_cases)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        char seen[1024];
        struct err err = { 0 };
        enum err_code code = read_form(cases[i].body, seen, sizeof seen, &err);
        check(code == cases[i].code, "%s: %d %s", cases[i].why, (int)code, err.text);
        check((code == OK) == (err.text[0] == '\0'), "%s: %s", cases[i].why, err.text);
        if (code == OK)
            check(strcmp(seen, cases[i].seen) == 0, "%s: %s", cases[i].why, seen);
    }
}

/* Cut anywhere before its closing boundary, a form is refused, not half read. */
TEST(multipart_cut_anywhere)
{
    const char *whole = "--B\r\n" P "a\r\n\r\nhello\r\n--B\r\n" P "\"b\"\r\n\r\nx\r\n--B--";
    char text[256], seen[1024];
    struct err err;

    for (size_t size = 0; size < strlen(whole); size++) {
        memcpy(text, whole, size);
        text[size] = '\0';
        check(read_form(text, seen, sizeof seen, &err) == E_INVALID, "cut at %zu", size);
    }
    check(read_form(whole, seen, sizeof seen, &err) == OK, "whole");
}

TEST(multipart_boundaries)
{
    static const struct {
        const char *type, *boundary;
    } types[] = {
        { "multipart/form-data; boundary=abc", "abc" },
        { "Multipart/Form-Data;charset=utf-8 ; Boundary=\"a b:c\"", "a b:c" },
        { "multipart/form-data", NULL },
        { "multipart/form-data; boundary=", NULL },
        { "multipart/form-data; boundary=\"\"", NULL },
        { "multipart/form-data; boundary=\"a \"", NULL },
        { "multipart/form-data; boundary=\"a", NULL },
        { "multipart/form-data; boundary=a; boundary=b", NULL },
        { "multipart/form-data; boundary=a b", NULL },
        { "multipart/form-data; boundary=\"a\\\"b\"", NULL },
        { "multipart/mixed; boundary=a", NULL },
        { "application/json", NULL },
        { "", NULL },
        { "multipart/form-data; boundary="
          "0123456789012345678901234567890123456789012345678901234567890123456789",
          "0123456789012345678901234567890123456789012345678901234567890123456789" },
        { "multipart/form-data; boundary="
          "01234567890123456789012345678901234567890123456789012345678901234567890",
          NULL },
    };

    for (size_t i = 0; i < COUNT(types); i++) {
        struct slice boundary = slice_make(NULL, 0);
        struct err err = { 0 };
        enum err_code code = multipart_boundary(&boundary, slice_of(types[i].type), &err);
        check((code == OK) == (types[i].boundary != NULL), "%s: %s", types[i].type, err.text);
        if (code == OK && types[i].boundary != NULL)
            check(slice_is(boundary, types[i].boundary), "%s", types[i].type);
    }
}
