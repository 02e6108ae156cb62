/* typed_test.c - named fields to tensors and outputs to people's JSON, rule by rule (README.md).
 * SPDX-License-Identifier: Apache-2.0 */
#include "contract/typed.h"

#include <math.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "codec/npy.h"
#include "codec/number.h"
#include "contract/choose.h"
#include "contract/convert.h"
#include "contract/test_models.h"
#include "test/harness.h"

struct call {
    struct arena *arena;
    struct typed_plan *plan;
    struct typed_reader reader;
    struct penstock_tensor inputs[8];
    bool has[8];
    enum err_code code;
    struct err err;
};

static void open_call(struct call *c, const struct signature *signature)
{
    memset(c, 0, sizeof *c);
    c->arena = arena_new(8192, 16 << 20);
    require(c->arena != NULL);
    c->code = typed_plan_new(&c->plan, "m", signature, &c->err);
    require(c->code == OK);
    c->code = typed_read_begin(&c->reader, c->plan, c->arena, NULL, &c->err);
    require(c->code == OK);
}

static void end_call(struct call *c)
{
    if (c->code == OK)
        c->code = typed_read_end(&c->reader, c->inputs, c->has, &c->err);
}

static void read_json(struct call *c, const char *json)
{
    /* A copy of exactly that size: a sanitizer sees any step past the end. */
    struct slice text = slice_of(json);
    uint8_t *copy = mem_alloc(MAX(text.size, (size_t)1));
    struct buf *buf = NULL;

    require(copy != NULL);
    memcpy(copy, text.data, text.size);
    require(buf_adopt(&buf, copy, text.size, test_release, NULL, NULL) == OK);
    require(arena_adopt(c->arena, &buf));
    c->code = typed_read_json(&c->reader, slice_make(copy, text.size), &c->err);
    end_call(c);
}

static void close_call(struct call *c)
{
    arena_free(&c->arena);
    typed_plan_free(c->plan);
}

#define IRIS_ROW \
    "{\"sepal_length\":5.1,\"sepal_width\":3.5,\"petal_length\":1.4,\"petal_width\":0.2}"

/* -- reading ----------------------------------------------------------------------------------- */

TEST(typed_reads_numbers)
{
    static const struct {
        const char *body;
        int64_t rows;
        bool is_list;
    } cases[] = {
        { IRIS_ROW, 1, false },
        { "{\"petal_width\":0.2,\"petal_length\":1.4,\"sepal_width\":3.5,\"sepal_length\":5.1}", 1,
          false },
        { " { \"sepal_length\" : 5.1 , \"sepal_width\" : 3.5 , \"petal_length\" : 1.4 , "
          "\"petal_width\" : 0.2 } ",
          1, false },
        { "{\"input\":[5.1,3.5,1.4,0.2]}", 1, false },
        { "{\"input\": [ 5.1 , 3.5 , 1.4 , 0.2 ] }", 1, false },
        { "[5.1,3.5,1.4,0.2]", 1, false },
        { "{\"input\":[[5.1,3.5,1.4,0.2]]}", 1, true },
        { "{\"input\":[ [5.1,3.5,1.4,0.2],[5.1,3.5,1.4,0.2]]}", 2, true },
        { "[[5.1,3.5,1.4,0.2],[5.1,3.5,1.4,0.2]]", 2, true },
        { "[" IRIS_ROW "]", 1, true },
        { "[" IRIS_ROW ",{\"input\":[5.1,3.5,1.4,0.2]}," IRIS_ROW "]", 3, true },
        { " [ " IRIS_ROW " , " IRIS_ROW " ] ", 2, true },
    };
    static const float row[] = { 5.1f, 3.5f, 1.4f, 0.2f };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        open_call(&c, test_iris());
        read_json(&c, cases[i].body);
        check(c.code == OK, "%s: %s", cases[i].body, c.err.text);
        if (c.code == OK) {
            check(c.has[0] && c.inputs[0].rank == 2 && c.inputs[0].shape[0] == cases[i].rows &&
                      c.inputs[0].shape[1] == 4,
                  "%s: shape", cases[i].body);
            check(c.reader.is_list == cases[i].is_list && c.reader.rows == (uint64_t)cases[i].rows,
                  "%s: rows", cases[i].body);
            check_or_stop(c.inputs[0].size == (size_t)cases[i].rows * sizeof row, "size");
            for (int64_t k = 0; k < cases[i].rows; k++)
                check(memcmp((const uint8_t *)c.inputs[0].data + (size_t)k * sizeof row, row,
                             sizeof row) == 0,
                      "%s: row %lld", cases[i].body, (long long)k);
        }
        close_call(&c);
    }
}

TEST(typed_reads_strings)
{
    static const struct {
        const char *body, *bytes;
        size_t size;
        int64_t rows;
        bool is_list;
    } cases[] = {
        { "{\"text\":\"hi\"}", "\2\0\0\0hi", 6, 1, false },
        { "\"hi\"", "\2\0\0\0hi", 6, 1, false },
        { "{\"text\":[\"hi\"]}", "\2\0\0\0hi", 6, 1, true },
        { "{\"text\":[\"a\",\"\\u00e9\"]}", "\1\0\0\0a\2\0\0\0\xc3\xa9", 11, 2, true },
        { "{\"text\":[[\"a\"],[\"\"]]}", "\1\0\0\0a\0\0\0\0", 9, 2, true },
        { "[{\"text\":\"a\"},{\"text\":\"bc\"}]", "\1\0\0\0a\2\0\0\0bc", 11, 2, true },
        { "[\"a\",\"bc\"]", "\1\0\0\0a\2\0\0\0bc", 11, 2, true },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        open_call(&c, test_spam());
        read_json(&c, cases[i].body);
        check(c.code == OK, "%s: %s", cases[i].body, c.err.text);
        if (c.code == OK)
            check(c.inputs[0].rank == 2 && c.inputs[0].shape[0] == cases[i].rows &&
                      c.inputs[0].shape[1] == 1 && c.inputs[0].size == cases[i].size &&
                      memcmp(c.inputs[0].data, cases[i].bytes, cases[i].size) == 0 &&
                      c.reader.is_list == cases[i].is_list,
                  "%s", cases[i].body);
        close_call(&c);
    }
}

/* More rows than fit where the first ones lie, and longer strings than are looked at at once. */
TEST(typed_reads_many_rows)
{
    enum { ROWS = 5000 };
    struct text body;
    struct call c;

    text_init(&body, 16 << 20);
    text_byte(&body, '[');
    for (int i = 0; i < ROWS; i++)
        text_printf(&body, "%s{\"text\":\"%0*d\"}", i == 0 ? "" : ",", 1 + i % 40, i);
    text_byte(&body, ']');
    open_call(&c, test_spam());
    read_json(&c, text_cstr(&body));
    check(c.code == OK && c.reader.rows == ROWS, "%s", c.err.text);
    const uint8_t *at = c.inputs[0].data;
    for (int i = 0; c.code == OK && i < ROWS; i++) {
        char expected[64];
        int size = snprintf(expected, sizeof expected, "%0*d", 1 + i % 40, i);
        uint32_t got;
        memcpy(&got, at, 4);
        check_or_stop(got == (uint32_t)size && memcmp(at + 4, expected, got) == 0, "row %d", i);
        at += 4 + got;
    }
    close_call(&c);

    body.size = 0;
    text_byte(&body, '[');
    for (int i = 0; i < ROWS; i++)
        text_printf(&body,
                    "%s{\"sepal_length\":%d,\"sepal_width\":1,\"petal_length\":2,"
                    "\"petal_width\":3}",
                    i == 0 ? "" : ",", i % 30);
    text_byte(&body, ']');
    open_call(&c, test_iris());
    read_json(&c, text_cstr(&body));
    check(c.code == OK && c.inputs[0].shape[0] == ROWS, "%s", c.err.text);
    for (int i = 0; c.code == OK && i < ROWS; i++)
        check_or_stop(((const float *)c.inputs[0].data)[4 * i] == (float)(i % 30), "row %d", i);
    close_call(&c);
    text_deinit(&body);
}

static const struct {
    const struct signature *(*model)(void);
    const char *body, *words, *field;
    bool shows_example;
} refusals[] = {
    { test_iris, "", "the body is empty", NULL, true },
    { test_iris, "nope", "input", "input", false },
    { test_iris, "{", "the body is not JSON: byte 1: ", NULL, true },
    { test_iris, IRIS_ROW " x", "the body is not JSON: byte ", NULL, true },
    { test_iris, "{}", "field 'sepal_length' is missing", "sepal_length", true },
    { test_iris, "[]", "the list of rows is empty", NULL, true },
    { test_iris, "{\"sepal_length\":5.1}", "field 'sepal_width' is missing", "sepal_width", true },
    { test_iris, "{\"sepal_lenght\":5.1}",
      "unknown field 'sepal_lenght'; did you mean "
      "'sepal_length'?",
      "sepal_lenght", true },
    { test_iris, "{\"zzz\":5.1}",
      "unknown field 'zzz'; model 'm' takes 'sepal_length', "
      "'sepal_width', 'petal_length', 'petal_width', 'input'",
      "zzz", true },
    { test_iris, "{\"sepal_length\":99}", "sepal_length is 99; it must be between 0 and 30 cm",
      "sepal_length", false },
    { test_iris, "{\"sepal_length\":-0.5}", "sepal_length is -0.5; it must be between 0 and 30 cm",
      "sepal_length", false },
    { test_iris, "{\"sepal_length\":NaN}", "it must be between 0 and 30", "sepal_length", false },
    { test_iris, "{\"input\":[1,2,3,99]}", "petal_width is 99; it must be between 0 and 30 cm",
      "petal_width", false },
    { test_iris, "{\"sepal_length\":\"x\"}", "sepal_length", "sepal_length", false },
    { test_iris, "{\"sepal_length\":[1]}", "sepal_length takes one value", "sepal_length", true },
    { test_iris, "{\"sepal_length\":1,\"sepal_length\":1}", "sepal_length is given twice",
      "sepal_length", false },
    { test_iris, "{\"input\":[1,2,3,4],\"input\":[1,2,3,4]}", "input is given twice", "input",
      false },
    { test_iris, "{\"input\":[1,2,3,4],\"sepal_length\":1}", "input is given, and features of it",
      "sepal_length", false },
    { test_iris, "{\"sepal_length\":1,\"input\":[1,2,3,4]}", "input is given twice", "input",
      false },
    { test_iris, "{\"input\":[1,2,3]}", "input", "input", false },
    { test_iris, "{\"input\":[[1,2,3]]}", "input: got shape [1,3]; one row takes [4]", "input",
      true },
    { test_iris, "{\"input\":[[[1,2,3,4]]]}", "input: got shape [1,1,4]", "input", true },
    { test_iris, "{\"input\":5}", "input: got shape []; one row takes [4]", "input", true },
    { test_iris, "[" IRIS_ROW ",{\"sepal_length\":1}]", "row 1: field 'sepal_width' is missing",
      "sepal_width", true },
    { test_iris, "[" IRIS_ROW ",5]", "row 1: an object is expected", NULL, false },
    { test_iris, "[{\"input\":[[1,2,3,4]]}]", "row 0: input: a list of rows within a list of rows",
      "input", false },
    { test_spam, "{\"text\":5}", "text", "text", false },
    { test_spam, "{\"text\":[]}", "text", "text", false },
    { test_spam, "{\"text\":null}", "text", "text", false },
    { test_spam, "{\"txt\":\"a\"}", "unknown field 'txt'; did you mean 'text'?", "txt", true },
    { test_mixed, "[{}]", "takes one object at a time: it has no batch dimension", NULL, false },
    { test_mixed, "{\"b\":[1,2,3],\"j\":\"x\",\"f\":[1,2]}", "field 's' is missing", "s", true },
    { test_mixed, "{\"b\":[1,2],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"b\"]}", "b", "b", false },
    { test_mixed, "{\"b\":[1,2,300]}", "b", "b", false },
    { test_mixed, "5", "the body is no JSON object", NULL, true },
};

TEST(typed_refuses_in_words)
{
    for (size_t i = 0; i < COUNT(refusals); i++) {
        struct call c;
        open_call(&c, refusals[i].model());
        read_json(&c, refusals[i].body);
        check(c.code == E_INVALID, "%s: %s", refusals[i].body, err_name(c.code));
        check(strstr(c.err.text, refusals[i].words) != NULL, "%s\n  said: %s\n  not:  %s",
              refusals[i].body, c.err.text, refusals[i].words);
        bool same = refusals[i].field == NULL
                        ? c.reader.field == NULL
                        : c.reader.field != NULL && strcmp(c.reader.field, refusals[i].field) == 0;
        check(same, "%s: the field is %s", refusals[i].body,
              c.reader.field == NULL ? "none" : c.reader.field);
        check(c.reader.shows_example == refusals[i].shows_example, "%s: example", refusals[i].body);
        close_call(&c);
    }
}

TEST(typed_refuses_every_prefix)
{
    static const char body[] = "[" IRIS_ROW ",{\"input\":[5.1,3.5,1.4,0.2]}]";

    for (size_t n = 0; n < sizeof body - 1; n++) {
        char text[sizeof body];
        struct call c;
        memcpy(text, body, n);
        text[n] = '\0';
        open_call(&c, test_iris());
        read_json(&c, text);
        check(c.code == E_INVALID && c.err.text[0] != '\0', "%zu bytes", n);
        close_call(&c);
    }
}

TEST(typed_reads_models_without_batch)
{
    struct call c;

    open_call(&c, test_mixed());
    read_json(&c, "{\"b\":[1,2,3],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"bc\"]}");
    check(c.code == OK, "%s", c.err.text);
    check(c.has[0] && c.has[1] && c.has[2] && c.has[3] && !c.has[4], "which are given");
    check(!c.reader.is_list && c.reader.rows == 1, "one answer");
    check(c.inputs[0].rank == 1 && c.inputs[0].shape[0] == 3 && c.inputs[0].size == 3, "b");
    check(c.inputs[1].size == 5 && c.inputs[1].shape[0] == 1, "j");
    close_call(&c);

    open_call(&c, test_mixed());
    read_json(&c, "{\"b\":[1,2,3],\"j\":[\"x\"],\"f\":[1,2],\"s\":[\"a\",\"bc\"],\"e\":[7,8,9]}");
    check(c.code == OK && c.has[4] && c.inputs[4].shape[0] == 3 && c.inputs[4].size == 24, "%s",
          c.err.text);
    close_call(&c);
}

TEST(typed_reads_forms_and_raw_bodies)
{
    static const char *const names[] = { "sepal_length", "sepal_width", "petal_length",
                                         "petal_width" };
    static const char *const values[] = { "5.1", " 3.5 ", "1.4", "2e-1" };
    static const float rows[] = { 5.1f, 3.5f, 1.4f, 0.2f, 1, 2, 3, 4 };
    struct call c;

    open_call(&c, test_iris());
    for (size_t i = 0; i < 4 && c.code == OK; i++)
        c.code = typed_read_text(&c.reader, slice_of(names[i]), slice_of(values[i]), &c.err);
    end_call(&c);
    check(c.code == OK && !c.reader.is_list && c.inputs[0].size == 16 &&
              memcmp(c.inputs[0].data, rows, 16) == 0,
          "form: %s", c.err.text);
    close_call(&c);

    open_call(&c, test_iris());
    c.code = typed_read_text(&c.reader, slice_of("sepal_length"), slice_of("5.1cm"), &c.err);
    check(c.code == E_INVALID && strcmp(c.reader.field, "sepal_length") == 0, "%s", c.err.text);
    close_call(&c);

    open_call(&c, test_iris());
    end_call(&c);
    check(c.code == E_INVALID && strstr(c.err.text, "'sepal_length' is missing") != NULL, "%s",
          c.err.text);
    close_call(&c);

    open_call(&c, test_spam());
    c.code = typed_read_text(&c.reader, slice_of("text"), slice_of("[\"x\" "), &c.err);
    end_call(&c);
    check(c.code == OK && c.inputs[0].size == 9 && !c.reader.is_list, "text as it is: %s",
          c.err.text);
    close_call(&c);

    open_call(&c, test_iris());
    c.code = typed_read_bytes(&c.reader, slice_of("input"), slice_make(rows, 32), &c.err);
    end_call(&c);
    check(c.code == OK && c.reader.rows == 2 && c.reader.is_list &&
              memcmp(c.inputs[0].data, rows, 32) == 0,
          "raw: %s", c.err.text);
    close_call(&c);

    open_call(&c, test_iris());
    c.code = typed_read_bytes(&c.reader, slice_of("input"), slice_make(rows, 18), &c.err);
    check(c.code == E_INVALID && strstr(c.err.text, "a multiple of 16") != NULL, "%s", c.err.text);
    close_call(&c);

    struct penstock_tensor tensor = {
        .dtype = PENSTOCK_FP32, .rank = 2, .shape = { 2, 4 }, .data = rows, .size = sizeof rows
    };
    uint8_t file[NPY_HEADER_MAX + sizeof rows];
    size_t size = npy_write_header(file, &tensor);
    memcpy(file + size, rows, sizeof rows);
    open_call(&c, test_iris());
    c.code =
        typed_read_npy(&c.reader, slice_of("input"), slice_make(file, size + sizeof rows), &c.err);
    end_call(&c);
    check(c.code == OK && c.reader.rows == 2 && c.reader.is_list &&
              memcmp(c.inputs[0].data, rows, 32) == 0,
          "npy: %s", c.err.text);
    close_call(&c);

    tensor.rank = 1;
    tensor.shape[0] = 8;
    size = npy_write_header(file, &tensor);
    memcpy(file + size, rows, sizeof rows);
    open_call(&c, test_iris());
    c.code =
        typed_read_npy(&c.reader, slice_of("input"), slice_make(file, size + sizeof rows), &c.err);
    check(c.code == E_INVALID && strstr(c.err.text, "got shape [8]; one row takes [4]") != NULL,
          "%s", c.err.text);
    close_call(&c);
}

TEST(typed_null_is_no_number)
{
    static const struct {
        const char *body, *field, *text;
    } cases[] = {
        { "{\"sepal_length\":null,\"sepal_width\":3,\"petal_length\":1,\"petal_width\":1}",
          "sepal_length", "sepal_length is null; it takes a number" },
        { "{\"input\":[5.1,3.5,null,0.2]}", "input",
          "input: element 2 is null; it takes a number" },
        { "[[5.1,3.5,1.4,0.2],[NaN,3.5,1.4,null]]", "input",
          "input: element 7 is null; it takes a number" },
        { "[{\"input\":[1,2,3,4]},{\"input\":[null,2,3,4]}]", "input",
          "row 1: input: element 0 is null; it takes a number" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        open_call(&c, test_iris());
        read_json(&c, cases[i].body);
        check(c.code == E_INVALID && strcmp(c.err.text, cases[i].text) == 0, "%s\n  gave %s",
              cases[i].body, c.err.text);
        check(c.reader.field != NULL && strcmp(c.reader.field, cases[i].field) == 0, "%s",
              cases[i].body);
        close_call(&c);
    }
    /* What is written as NaN is meant; where there are limits, it is outside of them. */
    static const char *const bodies[] = {
        "{\"b\":[1,2,3],\"j\":[\"null\"],\"f\":[NaN,\"NaN\"],\"s\":[\"a\",\"null\"]}",
        "{\"b\":[1,2,3],\"j\":[\"x\"],\"f\":[1,null],\"s\":[\"a\",\"b\"]}",
    };
    for (size_t i = 0; i < COUNT(bodies); i++) {
        struct call c;
        open_call(&c, test_mixed());
        read_json(&c, bodies[i]);
        check(c.code == (i == 0 ? OK : E_INVALID), "%s: %s", bodies[i], c.err.text);
        close_call(&c);
    }
}

TEST(typed_says_what_is_not_json)
{
    static const struct {
        const char *body;
        size_t size;
        const char *text;
    } cases[] = {
        { "{'sepal_length':5.1}", 20, "the body is not JSON: byte 1: expected a string" },
        { "{", 1, "the body is not JSON: byte 1: " },
        { "[{\"input\":[1,2,3,4]},{]", 23, "the body is not JSON: byte 22: " },
        { "\0\0", 2, "the body is not JSON: it begins with a zero byte" },
        { " ", 1, "the body is empty" },
        { "", 0, "the body is empty" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        open_call(&c, test_iris());
        c.code = typed_read_json(&c.reader, slice_make(cases[i].body, cases[i].size), &c.err);
        check(c.code == E_INVALID && slice_starts(slice_of(c.err.text), cases[i].text),
              "%s\n  gave %s", cases[i].body, c.err.text);
        check(c.reader.shows_example && c.reader.field == NULL, "%s", cases[i].body);
        close_call(&c);
    }
}

static void check_array(const struct signature *signature, const char *name,
                        enum penstock_dtype dtype, int64_t count, const void *data, size_t size,
                        const void *expected, const char *text)
{
    struct penstock_tensor tensor = {
        .dtype = dtype, .rank = 1, .shape = { count }, .data = data, .size = size
    };
    uint8_t file[NPY_HEADER_MAX + 64];
    size_t header = npy_write_header(file, &tensor);
    struct call c;

    memcpy(file + header, data, size);
    open_call(&c, signature);
    c.code = typed_read_npy(&c.reader, slice_of(name), slice_make(file, header + size), &c.err);
    if (expected != NULL) {
        end_call(&c);
        check(c.code == OK && memcmp(c.inputs[0].data, expected, c.inputs[0].size) == 0, "%s",
              c.err.text);
    } else {
        check(c.code == E_INVALID && strcmp(c.err.text, text) == 0, "want %s\n  got  %s", text,
              c.err.text);
        check(c.reader.field != NULL &&
                  strncmp(c.err.text, c.reader.field, strlen(c.reader.field)) == 0,
              "the field and the text agree");
    }
    close_call(&c);
}

TEST(typed_takes_arrays_by_value)
{
    static const double doubles[] = { 5.1, 3.5, 1.4, 0.2 }, huge[] = { 1, 2, 1e300, 4 };
    static const float singles[] = { 5.1f, 3.5f, 1.4f, 0.2f }, counts[] = { 1, 2, 3, 4 };
    static const int64_t ints[] = { 1, 2, 3, 4 };
    static const uint8_t bools[] = { 1, 0, 1, 0 };

    check_array(test_iris(), "input", PENSTOCK_FP64, 4, doubles, sizeof doubles, singles, NULL);
    check_array(test_iris(), "input", PENSTOCK_INT64, 4, ints, sizeof ints, counts, NULL);
    check_array(test_iris(), "input", PENSTOCK_FP64, 4, huge, sizeof huge, NULL,
                "input: element 2 of the array is 1.0000000000000001e+300, which FP32 cannot hold");
    check_array(test_iris(), "input", PENSTOCK_BOOL, 4, bools, sizeof bools, NULL,
                "input: the array holds BOOL; it takes FP32: save it as array.astype('float32')");
}

__extension__ typedef __int128 wide;

/* Every pair against arithmetic with 128 bits. */
TEST(convert_agrees_with_wide_arithmetic)
{
    static const struct {
        enum penstock_dtype dtype;
        unsigned bits;
        bool is_signed;
    } ints[] = {
        { PENSTOCK_UINT8, 8, false },   { PENSTOCK_INT8, 8, true },
        { PENSTOCK_UINT16, 16, false }, { PENSTOCK_INT16, 16, true },
        { PENSTOCK_UINT32, 32, false }, { PENSTOCK_INT32, 32, true },
        { PENSTOCK_UINT64, 64, false }, { PENSTOCK_INT64, 64, true },
    };

    for (int round = 0; round < 20000; round++) {
        size_t from = test_random_below(COUNT(ints)), to = test_random_below(COUNT(ints));
        uint64_t bits = test_random() >> test_random_below(64), out = 0, bad = 7;
        if (test_random_below(2) == 0)
            bits = 0 - bits;
        unsigned shift = 64 - ints[from].bits;
        wide value = ints[from].is_signed ? (wide)((int64_t)(bits << shift) >> shift)
                                          : (wide)(bits << shift >> shift);
        wide most = ((wide)1 << (ints[to].bits - ints[to].is_signed)) - 1;
        wide least = ints[to].is_signed ? -most - 1 : 0;
        bool fits = value >= least && value <= most;
        bool is_good = convert_elements(ints[to].dtype, &out, ints[from].dtype, &bits, 1, &bad);
        check(is_good == fits, "%zu to %zu: %016llx", from, to, (unsigned long long)bits);
        unsigned narrow = 64 - ints[to].bits;
        wide got = ints[to].is_signed ? (wide)((int64_t)(out << narrow) >> narrow)
                                      : (wide)(out << narrow >> narrow);
        check(fits ? got == value : bad == 0, "%zu to %zu: %016llx", from, to,
              (unsigned long long)bits);
    }
    static const double values[] = { 3, -3, 3.5, 255, 256, 1e20, (double)NAN, (double)INFINITY };
    static const bool fits_u8[] = { true, false, false, true, false, false, false, false };
    for (size_t i = 0; i < COUNT(values); i++) {
        uint8_t out = 0;
        uint64_t bad;
        check(convert_elements(PENSTOCK_UINT8, &out, PENSTOCK_FP64, &values[i], 1, &bad) ==
                  fits_u8[i],
              "%g", values[i]);
    }
}

/* Rows of random numbers, each written in one of the ways there are, read back as they were. */
TEST(typed_reads_the_same_in_any_form)
{
    static const char *const names[] = { "sepal_length", "sepal_width", "petal_length",
                                         "petal_width" };

    for (int round = 0; round < 2000; round++) {
        float rows[6][4];
        uint64_t count = 1 + test_random_below(COUNT(rows));
        bool as_lists = test_random_below(2) == 0;
        struct text body;
        struct call c;

        text_init(&body, 1 << 16);
        text_str(&body, as_lists ? "{\"input\":[" : "[");
        for (uint64_t i = 0; i < count; i++) {
            unsigned turn = (unsigned)test_random_below(4);
            bool by_feature = !as_lists && test_random_below(2) == 0;
            text_str(&body, i == 0 ? "" : ",");
            text_str(&body, as_lists ? "[" : by_feature ? "{" : "{\"input\":[");
            for (unsigned k = 0; k < 4; k++) {
                unsigned at = by_feature ? (k + turn) % 4 : k;
                rows[i][at] = (float)test_random_below(30000) / 1000;
                if (by_feature)
                    text_printf(&body, "%s\"%s\": %.9g", k == 0 ? "" : ", ", names[at],
                                (double)rows[i][at]);
                else
                    text_printf(&body, "%s%.9g", k == 0 ? "" : " ,", (double)rows[i][at]);
            }
            text_str(&body, as_lists ? "]" : by_feature ? "}" : "]}");
        }
        text_str(&body, as_lists ? "]}" : "]");
        open_call(&c, test_iris());
        read_json(&c, text_cstr(&body));
        check_or_stop(c.code == OK && c.reader.rows == count && c.reader.is_list, "%s: %s",
                      text_cstr(&body), c.err.text);
        check_or_stop(c.inputs[0].size == count * 16 &&
                          memcmp(c.inputs[0].data, rows, count * 16) == 0,
                      "%s", text_cstr(&body));
        close_call(&c);
        text_deinit(&body);
    }
}

/* -- the query --------------------------------------------------------------------------------- */

TEST(typed_query_cases)
{
    static const struct {
        const char *query, *words;
    } cases[] = {
        { "", NULL },
        { "top=3", NULL },
        { "top=3&outputs=label&precision=full", NULL },
        { "raw=1&outputs=probabilities", NULL },
        { "raw", NULL },
        { "outputs=prob%61bility,label", NULL },
        { "&top=1&", NULL },
        { "topp=3", "unknown query parameter 'topp'; did you mean 'top'?" },
        { "xyzzy=3", "there are top, outputs, precision and raw" },
        { "top=0", "top is '0'" },
        { "top=-1", "top is '-1'" },
        { "top=", "top is ''" },
        { "top=1&top=2", "'top' is given twice" },
        { "precision=18", "precision is '18'; it takes 1 to 17" },
        { "precision=fulll", "precision is 'fulll'" },
        { "raw=maybe", "raw is 'maybe'" },
        { "outputs=lable", "gives no 'lable'; did you mean 'label'?" },
        { "outputs=", "gives no ''" },
        { "outputs=label,", "gives no ''" },
        { "top=%zz", "two hexadecimal digits" },
        { "top=%3", "two hexadecimal digits" },
        { "%ff=1", "not UTF-8" },
        { "top=1&raw=1", "exclude one another" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct typed_query query;
        struct call c;
        open_call(&c, test_iris());
        c.code = typed_query_read(&query, c.plan, slice_of(cases[i].query), c.arena, &c.err);
        check((c.code == OK) == (cases[i].words == NULL), "%s: %s", cases[i].query, c.err.text);
        check(cases[i].words == NULL || strstr(c.err.text, cases[i].words) != NULL,
              "%s\n  said: %s\n  not:  %s", cases[i].query, c.err.text, cases[i].words);
        close_call(&c);
    }
    struct call c;
    struct typed_query query;
    open_call(&c, test_mixed());
    c.code = typed_query_read(&query, c.plan, slice_of("top=1"), c.arena, &c.err);
    check(c.code == E_INVALID &&
              strstr(c.err.text, "top needs an output that scores classes") != NULL,
          "%s", c.err.text);
    close_call(&c);
}

/* -- answers ----------------------------------------------------------------------------------- */

static const int64_t one_label[] = { 1 }, labels[] = { 1, 0, 7 };
static const float one_score[] = { 0.0184654f, 0.9815346f },
                   scores[] = { 0.0184654f, 0.9815346f, 0.99991f, 0.00009f, 0.5f, 0.5f };

static void fill_spam(struct response_output outputs[2], int64_t rows)
{
    outputs[0] = (struct response_output){ true,
                                           { .name = "label",
                                             .dtype = PENSTOCK_INT64,
                                             .rank = 1,
                                             .shape = { rows },
                                             .data = rows == 1 ? one_label : labels,
                                             .size = (size_t)rows * 8 } };
    outputs[1] = (struct response_output){ true,
                                           { .name = "probabilities",
                                             .dtype = PENSTOCK_FP32,
                                             .rank = 2,
                                             .shape = { rows, 2 },
                                             .data = rows == 1 ? one_score : scores,
                                             .size = (size_t)rows * 8 } };
}

static void check_answer(const struct signature *signature, const char *query_text, uint64_t rows,
                         bool is_list, const struct response_output *outputs, const char *expected)
{
    struct typed_query query;
    struct call c;
    struct text out;

    open_call(&c, signature);
    c.code = typed_query_read(&query, c.plan, slice_of(query_text), c.arena, &c.err);
    check(c.code == OK, "%s: %s", query_text, c.err.text);
    if (c.code == OK) {
        size_t bound = typed_answer_bound(c.plan, &query, rows, outputs);
        text_init(&out, bound);
        c.code = typed_write(&out, c.plan, &query, rows, is_list, outputs, c.arena, &c.err);
        check(c.code == OK && !text_failed(&out), "%s: %s (bound %zu)", query_text, c.err.text,
              bound);
        check(slice_is(text_slice(&out), expected), "%s\n  got  %.*s\n  want %s", query_text,
              SLICE_ARG(text_slice(&out)), expected);
        text_deinit(&out);
    }
    close_call(&c);
}

TEST(typed_answers_classifiers)
{
    struct response_output one[2], many[2];

    fill_spam(one, 1);
    fill_spam(many, 3);
    check_answer(test_spam(), "", 1, false, one, "{\"label\":\"spam\",\"probability\":0.98}");
    check_answer(test_spam(), "", 1, true, one, "[{\"label\":\"spam\",\"probability\":0.98}]");
    check_answer(test_spam(), "precision=full", 1, false, one,
                 "{\"label\":\"spam\",\"probability\":0.9815346}");
    check_answer(test_spam(), "precision=1", 1, false, one,
                 "{\"label\":\"spam\",\"probability\":1.0}");
    check_answer(test_spam(), "top=2", 1, false, one,
                 "[{\"label\":\"spam\",\"probability\":0.98},{\"label\":\"ham\",\"probability\":"
                 "0.02}]");
    check_answer(test_spam(), "top=9&precision=3", 1, false, one,
                 "[{\"label\":\"spam\",\"probability\":0.982},{\"label\":\"ham\",\"probability\":"
                 "0.0185}]");
    check_answer(test_spam(), "outputs=label", 1, false, one, "{\"label\":\"spam\"}");
    check_answer(test_spam(), "outputs=probability", 1, false, one, "{\"probability\":0.98}");
    check_answer(test_spam(), "outputs=probabilities", 1, false, one, "{\"probability\":0.98}");
    check_answer(test_spam(), "raw=1", 1, false, one,
                 "{\"label\":[1],\"probabilities\":[[0.0184654,0.9815346]]}");
    check_answer(test_spam(), "raw=1&outputs=label", 3, true, many, "{\"label\":[1,0,7]}");
    /* The sum of a forest's floats passes 1 by a little; what is further off is shown as it is. */
    const void *usual = one[1].tensor.data;
    float sum[2] = { 0, 1.0000001f };
    one[1].tensor.data = sum;
    check_answer(test_spam(), "", 1, false, one, "{\"label\":\"spam\",\"probability\":1.0}");
    sum[1] = 1.5f;
    check_answer(test_spam(), "", 1, false, one, "{\"label\":\"spam\",\"probability\":1.5}");
    one[1].tensor.data = usual;
    /* A class number that has no name is shown as it is. */
    check_answer(test_spam(), "", 3, true, many,
                 "[{\"label\":\"spam\",\"probability\":0.98},{\"label\":\"ham\",\"probability\":"
                 "0.99991},{\"label\":7,\"probability\":0.5}]");
    check_answer(test_spam(), "top=1", 3, true, many,
                 "[[{\"label\":\"spam\",\"probability\":0.98}],[{\"label\":\"ham\","
                 "\"probability\":0.99991}],[{\"label\":\"ham\",\"probability\":0.5}]]");
}

/* A classifier whose classes are not 0, 1, 2: label, and scores for three columns. */
static void check_classes(struct signature_tensor outputs[2], const void *label, size_t label_size,
                          const char *query, const char *expected)
{
    static const float three[] = { 0.03f, 0.96f, 0.01f };
    struct signature signature = { .outputs_count = 2, .outputs = outputs, .is_batchable = true };
    struct response_output given[2] = {
        { label != NULL,
          { .name = "label",
            .dtype = outputs[0].dtype,
            .rank = 1,
            .shape = { 1 },
            .data = label,
            .size = label_size } },
        { true,
          { .name = "probabilities",
            .dtype = PENSTOCK_FP32,
            .rank = 2,
            .shape = { 1, 3 },
            .data = three,
            .size = sizeof three } },
    };

    check_answer(&signature, query, 1, false, given, expected);
}

TEST(typed_classes_are_never_columns_in_disguise)
{
    static const int64_t numbers[] = { 10, 20, 30 }, twenty[] = { 20 };
    static const char *const names[] = { "a", "b", "c" }, *const words[] = { "x", "y", "z" };
    static const char b[] = "\1\0\0\0b";
    struct signature_tensor o[2] = {
        { .name = "label",
          .dtype = PENSTOCK_INT64,
          .rank = 1,
          .dims = { -1 },
          NO_LIMITS,
          .role = ROLE_LABEL,
          .classes_count = 3,
          .class_numbers = numbers },
        { .name = "probabilities",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, 3 },
          NO_LIMITS,
          .role = ROLE_PROBABILITIES,
          .classes_count = 3,
          .class_numbers = numbers },
    };

    check_classes(o, twenty, 8, "", "{\"label\":20,\"probability\":0.96}");
    check_classes(o, twenty, 8, "top=2",
                  "[{\"label\":20,\"probability\":0.96},{\"label\":10,\"probability\":0.03}]");
    /* People's words for them stand in the order of the columns. */
    o[0].labels = o[1].labels = words;
    o[0].labels_count = o[1].labels_count = 3;
    check_classes(o, twenty, 8, "", "{\"label\":\"y\",\"probability\":0.96}");
    check_classes(o, twenty, 8, "top=1", "[{\"label\":\"y\",\"probability\":0.96}]");
    /* Fewer words than columns: none of them is used, and one answer is of one kind. */
    o[0].classes_count = o[1].classes_count = 0;
    o[0].class_numbers = o[1].class_numbers = NULL;
    o[0].labels_count = o[1].labels_count = 2;
    check_classes(
        o, twenty, 8, "top=3",
        "[{\"class_index\":1,\"probability\":0.96},{\"class_index\":0,\"probability\":0.03},"
        "{\"class_index\":2,\"probability\":0.01}]");
    /* Nothing is known. */
    o[0].labels_count = o[1].labels_count = 0;
    o[0].labels = o[1].labels = NULL;
    check_classes(o, twenty, 8, "", "{\"label\":20,\"probability\":0.96}");
    check_classes(o, twenty, 8, "top=1", "[{\"class_index\":1,\"probability\":0.96}]");
    o[0].role = ROLE_VALUE;
    check_classes(o, NULL, 0, "outputs=class_index,probability",
                  "{\"class_index\":1,\"probability\":0.96}");
    /* Text. */
    o[0].role = ROLE_LABEL;
    o[0].dtype = PENSTOCK_BYTES;
    check_classes(o, b, 5, "", "{\"label\":\"b\",\"probability\":0.96}");
    o[0].classes_count = o[1].classes_count = 3;
    o[0].class_names = o[1].class_names = names;
    check_classes(o, b, 5, "", "{\"label\":\"b\",\"probability\":0.96}");
    check_classes(
        o, b, 5, "top=2",
        "[{\"label\":\"b\",\"probability\":0.96},{\"label\":\"a\",\"probability\":0.03}]");
    o[0].labels = o[1].labels = words;
    o[0].labels_count = o[1].labels_count = 3;
    check_classes(o, b, 5, "", "{\"label\":\"y\",\"probability\":0.96}");
}

TEST(typed_answers_values)
{
    static const float matrix[] = { 1, 2.5f, NAN, 0.1f }, mean[] = { 0.30000001f };
    struct response_output outputs[2] = {
        { true,
          { .name = "out",
            .dtype = PENSTOCK_FP32,
            .rank = 2,
            .shape = { 2, 2 },
            .data = matrix,
            .size = sizeof matrix } },
        { true,
          { .name = "mean",
            .dtype = PENSTOCK_FP32,
            .rank = 0,
            .data = mean,
            .size = sizeof mean } },
    };

    check_answer(test_mixed(), "", 1, false, outputs,
                 "{\"out\":[[1.0,2.5],[\"NaN\",0.1]],\"mean\":0.3}");
    check_answer(test_mixed(), "outputs=mean", 1, false, outputs, "{\"mean\":0.3}");
    outputs[0].tensor.shape[0] = 0;
    outputs[0].tensor.size = 0;
    check_answer(test_mixed(), "", 1, false, outputs, "{\"out\":[],\"mean\":0.3}");
    outputs[0].is_set = false;
    check_answer(test_mixed(), "", 1, false, outputs, "{\"mean\":0.3}");
}

TEST(typed_answer_with_rows_that_do_not_fit)
{
    struct typed_query query;
    struct response_output outputs[2];
    struct call c;
    struct text out;

    fill_spam(outputs, 3);
    open_call(&c, test_spam());
    require(typed_query_read(&query, c.plan, slice_of(""), c.arena, &c.err) == OK);
    text_init(&out, 4096);
    c.code = typed_write(&out, c.plan, &query, 2, true, outputs, c.arena, &c.err);
    check(c.code == E_INTERNAL && strstr(c.err.text, "is not one row for each") != NULL, "%s",
          c.err.text);
    text_deinit(&out);
    close_call(&c);
    /* One row: what came is shown whole. */
    check_answer(test_spam(), "outputs=label", 1, false, outputs,
                 "{\"label\":[\"spam\",\"ham\",7]}");
}

TEST(typed_probability_is_short_and_honest)
{
    static const struct {
        double p;
        const char *text;
    } cases[] = {
        { 0.9815346, "0.98" }, { 0.5, "0.5" },         { 0.123, "0.12" },  { 0.0184654, "0.02" },
        { 0.99, "0.99" },      { 0.9951, "0.995" },    { 0.999, "0.999" }, { 0.99991, "0.99991" },
        { 0.00951, "0.01" },   { 0.00009, "0.00009" }, { 1.0, "1.0" },     { 0.0, "0.0" },
        { 1e-20, "1e-20" },    { 0.1, "0.1" },         { 0.099, "0.1" },   { 0.304, "0.3" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[NUMBER_TEXT_MAX + 1];
        text[typed_put_probability(text, cases[i].p)] = '\0';
        check(strcmp(text, cases[i].text) == 0, "%.17g: %s, not %s", cases[i].p, text,
              cases[i].text);
    }
    for (int i = 0; i < 200000; i++) {
        double p = (double)(test_random() >> 11) * 0x1p-53, back = 0;
        char text[NUMBER_TEXT_MAX];
        if (test_random_below(2) == 0)
            p = pow(p, 1 + (double)test_random_below(40));
        if (test_random_below(2) == 0)
            p = 1 - p;
        size_t size = typed_put_probability(text, p);
        check_or_stop(number_read_f64(slice_make(text, size), &back) == size, "%.*s", (int)size,
                      text);
        check_or_stop((back == 0) == (p == 0) && (back == 1) == (p == 1), "%.17g is shown as %.*s",
                      p, (int)size, text);
        check_or_stop(fabs(back - p) <= 0.005 + 1e-12, "%.17g is shown as %.*s", p, (int)size,
                      text);
    }
}

TEST(choose_largest_agrees_with_sorting)
{
    for (int round = 0; round < 3000; round++) {
        int64_t values[40];
        uint64_t n = 1 + test_random_below(COUNT(values)), k = test_random_below(n + 1), best[40];
        for (uint64_t i = 0; i < n; i++)
            values[i] = test_random_below(3) == 0 ? INT64_MAX - (int64_t)test_random_below(3)
                                                  : (int64_t)test_random_below(6) - 3;
        choose_largest(PENSTOCK_INT64, values, n, k, best);
        for (uint64_t i = 0; i < k; i++) {
            uint64_t better = 0;
            for (uint64_t j = 0; j < n; j++)
                better +=
                    values[j] > values[best[i]] || (values[j] == values[best[i]] && j < best[i]);
            check_or_stop(better == i, "rank %llu holds one of rank %llu", (unsigned long long)i,
                          (unsigned long long)better);
        }
    }
}

/* -- describing, examples, faults -------------------------------------------------------------- */

TEST(typed_describes)
{
    struct call c;
    struct text out;

    open_call(&c, test_iris());
    check(c.plan->example != NULL && strcmp(c.plan->example, IRIS_ROW) == 0, "%s", c.plan->example);
    text_init(&out, 1 << 20);
    typed_describe(&out, c.plan);
    check(strstr(text_cstr(&out), "\"features\":[{\"name\":\"sepal_length\",\"unit\":\"cm\",\"min\""
                                  ":0,\"max\":30,\"example\":5.1,\"number\":1}") != NULL,
          "%s", text_cstr(&out));
    check(strstr(text_cstr(&out), "\"labels\":[\"setosa\",\"versicolor\",\"virginica\"]") != NULL,
          "%s", text_cstr(&out));
    text_deinit(&out);
    close_call(&c);
}

/* The made-up example of a model is a request that the model's fields accept. */
TEST(typed_examples_can_be_sent)
{
    const struct signature *(*const models[])(void) = { test_iris, test_spam, test_mixed };

    for (size_t i = 0; i < COUNT(models); i++) {
        struct call c;
        open_call(&c, models[i]());
        check_or_stop(c.plan->example != NULL, "no example");
        read_json(&c, c.plan->example);
        check(c.code == OK, "%s: %s", c.plan->example, c.err.text);
        close_call(&c);
    }
}

TEST(typed_survives_every_fault)
{
    static const char *const bodies[] = { "[" IRIS_ROW "," IRIS_ROW "]",
                                          "{\"input\":[[1,2,3,4],[1,2,3,4]]}" };
    struct response_output outputs[2];
    static const int64_t found[] = { 0, 2 };
    static const float score[] = { 0.7f, 0.2f, 0.1f, 0.1f, 0.2f, 0.7f };

    outputs[0] = (struct response_output){ true,
                                           { .name = "label",
                                             .dtype = PENSTOCK_INT64,
                                             .rank = 1,
                                             .shape = { 2 },
                                             .data = found,
                                             .size = sizeof found } };
    outputs[1] = (struct response_output){ true,
                                           { .name = "probabilities",
                                             .dtype = PENSTOCK_FP32,
                                             .rank = 2,
                                             .shape = { 2, 3 },
                                             .data = score,
                                             .size = sizeof score } };
    for (size_t i = 0; i < COUNT(bodies); i++) {
        for_each_fault(nth) {
            struct err err = { 0 };
            struct typed_plan *plan = NULL;
            struct typed_reader reader;
            struct typed_query query;
            struct penstock_tensor inputs[1];
            bool has[1] = { false };
            struct text out;
            enum err_code code = E_EXHAUSTED;
            struct arena *arena = arena_new(1024, 1 << 20);
            text_init(&out, 1 << 16);
            if (arena != NULL)
                code = typed_plan_new(&plan, "m", test_iris(), &err);
            if (code == OK)
                code = typed_query_read(&query, plan, slice_of("top=2&outputs=label"), arena, &err);
            if (code == OK)
                code = typed_read_begin(&reader, plan, arena, NULL, &err);
            if (code == OK)
                code = typed_read_json(&reader, slice_of(bodies[i]), &err);
            if (code == OK)
                code = typed_read_end(&reader, inputs, has, &err);
            if (code == OK)
                code = typed_write(&out, plan, &query, 2, true, outputs, arena, &err);
            if (code == OK && text_failed(&out))
                code = E_EXHAUSTED;
            bool fired = fault_fired();
            fault_arm(0);
            check((code == OK) == !fired, "fault %u: %s %s", nth, err_name(code), err.text);
            text_deinit(&out);
            arena_free(&arena);
            typed_plan_free(plan);
            if (!fired)
                break;
        }
    }
}
