/* twin_test.c - the typed route's JSON as the typed messages', and back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/twin.h"

#include <stdio.h>

#include "base/arena.h"
#include "base/pb.h"
#include "codec/proto.h"
#include "test/harness.h"

/* -- a file such as contract/ makes: one model with features, a list, a tensor, a 64-bit number ---- */

static uint8_t *put_text(uint8_t *at, uint32_t number, const char *text)
{
    return pb_put_bytes(at, number, slice_of(text));
}

struct field {
    const char *name;
    uint32_t number, kind;
    bool is_repeated;
    const char *type;
};

static uint8_t *put_fields(uint8_t *at, const struct field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t bytes[256], *to = bytes;
        to = put_text(to, 1, fields[i].name);
        to = pb_put_uint(to, 3, fields[i].number);
        to = pb_put_uint(to, 4, fields[i].is_repeated ? 3 : 1);
        to = pb_put_uint(to, 5, fields[i].kind);
        if (fields[i].type != NULL)
            to = put_text(to, 6, fields[i].type);
        at = pb_put_bytes(at, 2, slice_make(bytes, (size_t)(to - bytes)));
    }
    return at;
}

static const struct field row_fields[] = {
    { "size", 1, PROTO_FLOAT, false, NULL },
    { "words", 2, PROTO_STRING, false, NULL },
    { "input", 3, PROTO_FLOAT, true, NULL },
    { "count", 4, PROTO_INT64, false, NULL },
    { "t", 5, PROTO_MESSAGE, false, ".p.T" },
    { "options", 1000, PROTO_MESSAGE, false, ".p.O" },
    { "rows", 1001, PROTO_MESSAGE, true, ".p.M" },
    { "top", 1002, PROTO_MESSAGE, true, ".p.C" },
};
static const struct field tensor_fields[] = { { "shape", 1, PROTO_INT64, true, NULL },
                                              { "values", 2, PROTO_INT64, true, NULL } };
static const struct field option_fields[] = { { "top", 1, PROTO_UINT32, false, NULL } };
static const struct field class_fields[] = { { "label", 1, PROTO_STRING, false, NULL },
                                             { "probability", 2, PROTO_FLOAT, false, NULL } };

static uint8_t *put_message(uint8_t *at, const char *name, const struct field *fields, size_t count)
{
    uint8_t bytes[2048], *to = bytes;

    to = put_text(to, 1, name);
    to = put_fields(to, fields, count);
    return pb_put_bytes(at, 4, slice_make(bytes, (size_t)(to - bytes)));
}

static struct proto_schema *make_schema(void)
{
    uint8_t bytes[8192], *to = bytes;
    struct proto_schema *schema = NULL;
    struct err err = { 0 };

    to = put_text(to, 1, "p.proto");
    to = put_text(to, 2, "p");
    to = put_message(to, "M", row_fields, COUNT(row_fields));
    to = put_message(to, "One", row_fields, 1);
    to = put_message(to, "T", tensor_fields, COUNT(tensor_fields));
    to = put_message(to, "O", option_fields, COUNT(option_fields));
    to = put_message(to, "C", class_fields, COUNT(class_fields));
    to = put_text(to, 12, "proto3");
    require(proto_schema_new(&schema, &err) == OK);
    check(proto_schema_add(schema, slice_make(bytes, (size_t)(to - bytes)), &err) == OK, "%s",
          err.text);
    return schema;
}

static const struct {
    const char *rest, *options, *proto;
    const char *why;
} requests[] = {
    { "{\"size\":1.50}", "", "{\"size\":1.50}", "digits stay the caller's" },
    { "{\"input\":[1,2]}", "", "{\"input\":[1,2]}", "one row" },
    { "{\"input\":[[1,2],[3,4]]}", "", "{\"rows\":[{\"input\":[1,2]},{\"input\":[3,4]}]}", "rows" },
    { "{\"size\":[1,2],\"words\":[\"a\",\"b\"]}", "",
      "{\"rows\":[{\"size\":1,\"words\":\"a\"},{\"size\":2,\"words\":\"b\"}]}", "columns" },
    { "{\"size\":[1,2],\"words\":\"a\"}", "",
      "{\"rows\":[{\"size\":1,\"words\":\"a\"},{\"size\":2,\"words\":\"a\"}]}",
      "one for all, for the server to judge" },
    { "[{\"size\":1},{\"size\":2}]", "", "{\"rows\":[{\"size\":1},{\"size\":2}]}", "objects" },
    { "{\"t\":[[1,2,3],[4,5,6]]}", "", "{\"t\":{\"shape\":[2,3],\"values\":[1,2,3,4,5,6]}}",
      "a tensor" },
    { "{\"input\":7}", "", "{\"input\":[7]}", "one number of a list" },
    { "{\"nope\":[[1]]}", "", "{\"nope\":[[1]]}", "unknown: passed on" },
    { "{\"size\":null}", "", "{\"size\":null}", "null: passed on" },
    { "{\"size\":1}", "{\"top\":2}", "{\"size\":1,\"options\":{\"top\":2}}", "options" },
    { "{\"size\":[1]}", "{\"top\":2}", "{\"rows\":[{\"size\":1}],\"options\":{\"top\":2}}",
      "options beside rows" },
    { "{}", "", "{}", "nothing" },
};

TEST(twin_requests)
{
    struct proto_schema *schema = make_schema();
    const struct proto_type *type = proto_type_find(schema, "p.M");

    check_or_stop(type != NULL, "the type");
    for (size_t i = 0; i < COUNT(requests); i++) {
        struct text out;
        struct err err = { 0 };
        text_init(&out, 4096);
        enum err_code code = twin_request(&out, type, slice_of(requests[i].rest),
                                          slice_of(requests[i].options), &err);
        check(code == OK && slice_is(text_slice(&out), requests[i].proto), "%s: %.*s %s",
              requests[i].why, SLICE_ARG(text_slice(&out)), err.text);
        text_deinit(&out);
    }
    proto_schema_free(&schema);
}

TEST(twin_takes_the_bare_value_of_a_model_with_one_input)
{
    struct proto_schema *schema = make_schema();
    const struct proto_type *type = proto_type_find(schema, "p.One");
    struct text out;
    struct err err = { 0 };

    text_init(&out, 4096);
    check(twin_request(&out, type, slice_of("7"), slice_of(""), &err) == OK, "%s", err.text);
    check(slice_is(text_slice(&out), "{\"size\":7}"), "%.*s", SLICE_ARG(text_slice(&out)));
    text_deinit(&out);
    proto_schema_free(&schema);
}

static const struct {
    const char *proto, *rest;
} replies[] = {
    { "{\"size\":1.5,\"count\":\"9007199254740993\"}",
      "{\"size\":1.5,\"count\":9007199254740993}" },
    { "{\"rows\":[{\"size\":1},{\"count\":\"2\"}]}", "[{\"size\":1},{\"count\":2}]" },
    { "{\"top\":[{\"label\":\"a\",\"probability\":0.5}]}",
      "[{\"label\":\"a\",\"probability\":0.5}]" },
    { "{\"t\":{\"shape\":[\"2\",\"2\"],\"values\":[\"1\",\"2\",\"3\",\"4\"]}}",
      "{\"t\":[[1,2],[3,4]]}" },
    { "{\"t\":{\"shape\":[\"0\"]}}", "{\"t\":[]}" },
    { "{\"t\":{\"shape\":[\"99999999\",\"99999999\"],\"values\":[\"1\"]}}", "{\"t\":[[1]]}" },
    { "{\"size\":\"NaN\"}", "{\"size\":\"NaN\"}" },
    { "{}", "{}" },
};

TEST(twin_answers)
{
    struct proto_schema *schema = make_schema();
    const struct proto_type *type = proto_type_find(schema, "p.M");

    for (size_t i = 0; i < COUNT(replies); i++) {
        struct text out;
        struct err err = { 0 };
        text_init(&out, 4096);
        enum err_code code = twin_answer(&out, type, slice_of(replies[i].proto), &err);
        check(code == OK && slice_is(text_slice(&out), replies[i].rest), "%s: %.*s %s",
              replies[i].proto, SLICE_ARG(text_slice(&out)), err.text);
        text_deinit(&out);
    }
    proto_schema_free(&schema);
}

TEST(twin_refuses_what_is_no_json)
{
    struct proto_schema *schema = make_schema();
    const struct proto_type *type = proto_type_find(schema, "p.M");
    static const char *const bad[] = { "", "{", "nope", "{\"a\":01}", "{\"size\":1}x" };

    for (size_t i = 0; i < COUNT(bad); i++) {
        struct text out;
        struct err err = { 0 };
        text_init(&out, 4096);
        check(twin_request(&out, type, slice_of(bad[i]), slice_of(""), &err) == E_INVALID, "'%s'",
              bad[i]);
        check(err.text[0] != '\0', "'%s'", bad[i]);
        text_deinit(&out);
    }
    proto_schema_free(&schema);
}
