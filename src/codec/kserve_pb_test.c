/* kserve_pb_test.c - the infer messages. SPDX-License-Identifier: Apache-2.0
 *
 * test/client/kserve_pb_reference.py compares with protobuf's own Python; here are the clauses one by
 * one, the refusals and their words, every cut, every fault.
 */
#include "codec/kserve_pb.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/budget.h"
#include "base/buf.h"
#include "base/pb.h"
#include "model/dtype.h"
#include "test/harness.h"

/* -- making messages ---------------------------------------------------------------------------- */

struct message {
    uint8_t bytes[1 << 17];
    size_t size;
};

static struct slice bytes_of(const struct message *m)
{
    return slice_make(m->bytes, m->size);
}

static void put_bytes(struct message *m, uint32_t number, struct slice bytes)
{
    require(m->size + bytes.size + 16 <= sizeof m->bytes);
    m->size = (size_t)(pb_put_bytes(m->bytes + m->size, number, bytes) - m->bytes);
}

static void put_text(struct message *m, uint32_t number, const char *text)
{
    put_bytes(m, number, slice_of(text));
}

static void put_message(struct message *m, uint32_t number, const struct message *inner)
{
    put_bytes(m, number, bytes_of(inner));
}

static void put_uint(struct message *m, uint32_t number, uint64_t value)
{
    require(m->size + 32 <= sizeof m->bytes);
    m->size = (size_t)(pb_put_uint(m->bytes + m->size, number, value) - m->bytes);
}

static void put_i64(struct message *m, uint32_t number, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, 8);
    m->size = (size_t)(pb_put_i64(m->bytes + m->size, number, bits) - m->bytes);
}

static void put_raw(struct message *m, const char *bytes, size_t size)
{
    memcpy(m->bytes + m->size, bytes, size);
    m->size += size;
}

/* A map's entry with a string. */
static void put_entry(struct message *m, uint32_t number, const char *key, const char *value)
{
    struct message *entry = calloc(2, sizeof *entry);

    require(entry != NULL);
    put_text(&entry[1], 3, value);
    put_text(&entry[0], 1, key);
    put_message(&entry[0], 2, &entry[1]);
    put_message(m, number, entry);
    free(entry);
}

static struct message *fresh(void)
{
    struct message *m = malloc(sizeof *m);

    require(m != NULL);
    m->size = 0;
    return m;
}

static void free_message(struct message **m)
{
    free(TAKE(*m));
}

#define MESSAGE(name) CLEANUP(free_message) struct message *name = fresh()
#define ARENA(name)   CLEANUP(arena_free) struct arena *name = arena_new(1 << 14, 1 << 24)

/* -- decoding ------------------------------------------------------------------------------------ */

/* What protobuf's Python (7.36.2) makes of a model, a version, an id, a parameter, an input with
 * shape [1, 4], a parameter and fp32_contents 1 to 4, an output with a parameter, raw contents "ab". */
static const char golden[] =
    "\x0a\x04\x69\x72\x69\x73\x12\x01\x32\x1a\x02\x61\x31"
    "\x22\x0f\x0a\x08\x70\x72\x69\x6f\x72\x69\x74\x79\x12\x03\x10\xac\x02"
    "\x2a\x39\x0a\x01\x78\x12\x04\x46\x50\x33\x32\x1a\x02\x01\x04"
    "\x22\x16\x0a\x10\x62\x69\x6e\x61\x72\x79\x5f\x64\x61\x74\x61\x5f\x73\x69\x7a\x65\x12\x02\x28\x2a"
    "\x2a\x12\x32\x10\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40"
    "\x32\x19\x0a\x01\x79\x12\x14\x0a\x0e\x63\x6c\x61\x73\x73\x69\x66\x69\x63\x61\x74\x69\x6f\x6e\x12\x02\x10\x03"
    "\x3a\x02\x61\x62";

/* Put together by hand below and read again: names, kinds, values, in any order of fields. */
TEST(kserve_pb_every_field)
{
    ARENA(arena);
    MESSAGE(m);
    MESSAGE(in);
    MESSAGE(out);
    MESSAGE(entry);
    MESSAGE(value);
    struct kserve_pb_request request;
    const char *field = "?";
    struct err err = { 0 };

    static const struct {
        const char *key;
        enum kserve_pb_kind kind;
    } params[] = { { "b", KSERVE_PB_BOOL },   { "i", KSERVE_PB_INT64 },  { "s", KSERVE_PB_STRING },
                   { "d", KSERVE_PB_DOUBLE }, { "u", KSERVE_PB_UINT64 }, { "n", KSERVE_PB_NONE } };
    for (size_t i = 0; i < COUNT(params); i++) {
        value->size = entry->size = 0;
        switch (params[i].kind) {
        case KSERVE_PB_BOOL: put_uint(value, 1, 7); break; /* any number but 0 is true */
        case KSERVE_PB_INT64: put_uint(value, 2, (uint64_t)-5); break;
        case KSERVE_PB_STRING: put_text(value, 3, "gr\xc3\xbc\xc3\x9f"); break;
        case KSERVE_PB_DOUBLE: put_i64(value, 4, -0.5); break;
        case KSERVE_PB_UINT64: put_uint(value, 5, UINT64_MAX); break;
        default: break;
        }
        put_text(entry, 1, params[i].key);
        put_message(entry, 2, value);
        put_message(m, 4, entry);
    }
    put_text(m, 7, "raw0");
    put_text(in, 1, "x");
    put_text(in, 2, "INT8");
    put_raw(in, "\x1a\x0b\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 13); /* [2, -1] */
    put_uint(in, 3, 1);
    put_entry(in, 4, "k", "v");
    put_raw(in, "\x2a\x03\x12\x01\x07", 5);
    put_message(m, 5, in);
    put_text(out, 1, "y");
    put_entry(out, 2, "classification", "3");
    put_message(m, 6, out);
    put_text(m, 3, "id-1");
    put_text(m, 2, "3");
    put_text(m, 1,
             "m\xc3\xb6"
             "del");
    in->size = 0;
    put_message(m, 5, in); /* an empty one is one */
    put_text(m, 7, "");

    check_or_stop(kserve_pb_decode(&request, bytes_of(m), arena, &field, &err) == OK, "%s",
                  err.text);
    check(field == NULL, "no field is wrong");
    check(slice_is(request.model_name, "m\xc3\xb6"
                                       "del"),
          "name");
    check(slice_is(request.model_version, "3") && slice_is(request.id, "id-1"), "version, id");
    check_or_stop(request.parameters.count == COUNT(params), "%u", request.parameters.count);
    const struct kserve_pb_parameter *p = request.parameters.items;
    for (size_t i = 0; i < COUNT(params); i++)
        check(slice_is(p[i].key, params[i].key) && p[i].kind == params[i].kind, "%zu", i);
    check(p[0].value.b && p[1].value.i == -5 && slice_is(p[2].text, "gr\xc3\xbc\xc3\x9f") &&
              p[3].value.d == -0.5 && p[4].value.u == UINT64_MAX,
          "values");
    check_or_stop(request.inputs_count == 2 && request.outputs_count == 1 && request.raw_count == 2,
                  "%u %u %u", request.inputs_count, request.outputs_count, request.raw_count);
    const struct kserve_pb_input *input = request.inputs;
    check(slice_is(input->name, "x") && slice_is(input->datatype, "INT8"), "input");
    check(input->rank == 3 && input->shape[0] == 2 && input->shape[1] == -1 && input->shape[2] == 1,
          "shape: packed and not");
    check(input->parameters.count == 1 && slice_is(input->parameters.items[0].text, "v"), "param");
    check(input->has_contents && input->contents.size == 3, "contents");
    check(input[1].name.size == 0 && input[1].rank == 0 && !input[1].has_contents &&
              input[1].parameters.count == 0,
          "the empty input");
    check(slice_is(request.outputs[0].name, "y"), "output");
    check(request.outputs[0].parameters.count == 1 &&
              slice_is(request.outputs[0].parameters.items[0].key, "classification"),
          "output's parameter");
    check(slice_is(request.raw[0], "raw0") && request.raw[1].size == 0, "raw");
    check(request.raw[0].data > m->bytes && request.raw[0].data < m->bytes + m->size,
          "raw bytes are the message's own");
}

TEST(kserve_pb_nothing_is_an_empty_request)
{
    ARENA(arena);
    struct kserve_pb_request request;

    check_or_stop(kserve_pb_decode(&request, slice_make(NULL, 0), arena, NULL, NULL) == OK,
                  "empty");
    check(request.inputs_count == 0 && request.raw_count == 0 && request.model_name.size == 0,
          "nothing in it");
}

TEST(kserve_pb_from_python)
{
    ARENA(arena);
    struct kserve_pb_request r;
    struct err err = { 0 };
    struct slice data;
    struct buf *holder;
    static const float expected[] = { 1, 2, 3, 4 };

    check_or_stop(kserve_pb_decode(&r, slice_make(golden, sizeof golden - 1), arena, NULL, &err) ==
                      OK,
                  "%s", err.text);
    check(slice_is(r.model_name, "iris") && slice_is(r.model_version, "2") && slice_is(r.id, "a1"),
          "names");
    check(r.parameters.count == 1 && r.parameters.items[0].value.i == 300, "parameter");
    check_or_stop(r.inputs_count == 1 && r.outputs_count == 1 && r.raw_count == 1, "lists");
    check(r.inputs[0].rank == 2 && r.inputs[0].shape[0] == 1 && r.inputs[0].shape[1] == 4, "shape");
    check(r.inputs[0].parameters.items[0].kind == KSERVE_PB_UINT64 &&
              r.inputs[0].parameters.items[0].value.u == 42,
          "input's parameter");
    check(r.outputs[0].parameters.items[0].value.i == 3 && slice_is(r.raw[0], "ab"), "output, raw");
    check_or_stop(kserve_pb_contents(r.inputs[0].contents, PENSTOCK_FP32, 4, "x", arena, NULL,
                                     &data, &holder, &err) == OK,
                  "%s", err.text);
    check(data.size == 16 && memcmp(data.data, expected, 16) == 0, "contents");
}

/* What does not end where a field ends is refused, and nothing is read behind it. */
TEST(kserve_pb_truncation_at_every_byte)
{
    static const uint8_t ends[] = { 0, 6, 9, 13, 30, 89, 116, 120 };
    size_t whole = sizeof golden - 1;

    for (size_t size = 0; size <= whole; size++) {
        ARENA(arena);
        struct kserve_pb_request request;
        const char *field;
        struct err err = { 0 };
        uint8_t *copy = malloc(size + (size == 0));
        bool is_end = false;
        memcpy(copy, golden, size);
        for (size_t i = 0; i < COUNT(ends); i++)
            is_end |= ends[i] == size;
        enum err_code code =
            kserve_pb_decode(&request, slice_make(copy, size), arena, &field, &err);
        check(code == (is_end ? OK : E_INVALID), "%zu bytes: %s", size, err.text);
        check(code == OK || strstr(err.text, "byte") != NULL, "%s", err.text);
        free(copy);
    }
}

/* `field` is what must be named, `text` what must be said. */
static const struct {
    const char *bytes;
    size_t size;
    const char *field, *text;
} refused[] = {
#define BYTES(text) text, sizeof(text) - 1
    { BYTES("\x0a"), NULL, "the message is no valid ModelInferRequest: a number that ends" },
    { BYTES("\x0a\x05iris"), NULL, "a length that reaches past the end at byte 1 of its 6" },
    { BYTES("\x0a\x01\xff"), "model_name",
      "model_name: it is not UTF-8 from its byte 0 on (0xff)" },
    { BYTES("\x12\x03"
            "a\xed\xa0"),
      "model_version", "not UTF-8 from its byte 1 on" },
    { BYTES("\x1a\x0c"
            "aaaabbbbcc\xc0\x80"),
      "id", "not UTF-8 from its byte 10 on" },
    { BYTES("\x08\x01"), "model_name",
      "field 1 comes as a varint (wire type 0), expected a string" },
    { BYTES("\x15\0\0\0\0"), "model_version", "as 4 bytes (wire type 5)" },
    { BYTES("\x19\0\0\0\0\0\0\0\0"), "id", "as 8 bytes (wire type 1)" },
    { BYTES("\x20\x01"), "parameters", "expected a string or message (wire type 2)" },
    { BYTES("\x28\x01"), "inputs", "field 5 comes as a varint" },
    { BYTES("\x30\x01"), "outputs", "field 6 comes as a varint" },
    { BYTES("\x38\x01"), "raw_input_contents", "field 7 comes as a varint" },
    { BYTES("\x2a\x00\x2a\x02\x08\x01"), "inputs[1].name", "inputs[1].name: field 1 comes as" },
    { BYTES("\x2a\x03\x12\x01\x80"), "inputs[0].datatype", "not UTF-8" },
    { BYTES("\x2a\x05\x1d\0\0\0\0"), "inputs[0].shape", "field 3 comes as 4 bytes" },
    { BYTES("\x2a\x03\x1a\x01\x80"), "inputs[0].shape",
      "a number that ends in the middle at byte 4" },
    { BYTES("\x2a\x02\x20\x01"), "inputs[0].parameters", "wire type" },
    { BYTES("\x2a\x02\x28\x01"), "inputs[0].contents", "field 5 comes as a varint" },
    { BYTES("\x2a\x02\x0a\x05"), "inputs[0]", "inputs[0]: a length that reaches past the end" },
    { BYTES("\x32\x02\x08\x01"), "outputs[0].name", "wire type" },
    { BYTES("\x32\x02\x12\x09"), "outputs[0]", "past the end" },
    { BYTES("\x32\x04\x12\x02\x08\x01"), "outputs[0].parameters.key", "wire type" },
    { BYTES("\x22\x03\x0a\x01\xff"), "parameters.key", "UTF-8" },
    { BYTES("\x22\x02\x10\x01"), "parameters.value", "wire type" },
    { BYTES("\x22\x01\x0a"), "parameters", "ends in the middle" },
    { BYTES("\x22\x04\x12\x02\x0a\x00"), "parameters.value", "field 1 comes as a string" },
    { BYTES("\x22\x04\x12\x02\x20\x00"), "parameters.value", "expected 8 bytes" },
    { BYTES("\x22\x05\x12\x03\x1a\x01\xff"), "parameters.value", "UTF-8" },
    { BYTES("\x22\x03\x12\x01\x10"), "parameters.value", "ends in the middle" },
    /* A string that another one replaces must be right all the same. */
    { BYTES("\x0a\x01\xff\x0a\x01x"), "model_name", "UTF-8" },
    { BYTES("\x0a\x01x\x04"), NULL, "a field number of 0" },
    { BYTES("\x0a\x01x\x0c"), NULL, "the end of a group that is not open at byte 3 of its 4" },
    { BYTES("\x2a\x02\x1a\x07"), "inputs[0]", "past the end" },
#undef BYTES
};

TEST(kserve_pb_refusals_name_the_field)
{
    for (size_t i = 0; i < COUNT(refused); i++) {
        ARENA(arena);
        struct kserve_pb_request request;
        const char *field = "?";
        struct err err = { 0 };
        uint8_t *copy = malloc(refused[i].size);
        memcpy(copy, refused[i].bytes, refused[i].size);
        enum err_code code =
            kserve_pb_decode(&request, slice_make(copy, refused[i].size), arena, &field, &err);
        check(code == E_INVALID && err.code == E_INVALID, "row %zu: %s", i, err_name(code));
        check(strstr(err.text, refused[i].text) != NULL, "row %zu: %s", i, err.text);
        check(refused[i].field == NULL ? field == NULL
                                       : field != NULL && strcmp(field, refused[i].field) == 0,
              "row %zu: %s", i, field == NULL ? "no field" : field);
        code = kserve_pb_decode(&request, slice_make(copy, refused[i].size), arena, NULL, NULL);
        check(code == E_INVALID, "row %zu without an err: %s", i, err_name(code));
        free(copy);
    }
}

/* A byte that is not UTF-8, at each place of strings of each length; and letters of two bytes. */
TEST(kserve_pb_strings_are_utf8)
{
    for (size_t size = 1; size <= 40; size++) {
        for (size_t at = 0; at < size; at++) {
            ARENA(arena);
            struct kserve_pb_request request;
            uint8_t *bytes = malloc(size + 2);
            bytes[0] = 0x0a;
            bytes[1] = (uint8_t)size;
            memset(bytes + 2, 'a', size);
            bytes[2 + at] = 0xff;
            check(kserve_pb_decode(&request, slice_make(bytes, size + 2), arena, NULL, NULL) ==
                      E_INVALID,
                  "byte %zu of %zu", at, size);
            if (at + 1 < size) {
                memcpy(bytes + 2 + at, "\xc3\xbc", 2);
                check(kserve_pb_decode(&request, slice_make(bytes, size + 2), arena, NULL, NULL) ==
                          OK,
                      "letter %zu of %zu", at, size);
            }
            free(bytes);
        }
    }
}

/* What is counted for one list is not of another. */
TEST(kserve_pb_lists_are_counted_apart)
{
    ARENA(arena);
    MESSAGE(m);
    struct kserve_pb_request request;
    struct err err = { 0 };

    for (unsigned i = 0; i < 1000; i++) {
        char key[8];
        snprintf(key, sizeof key, "%u", i);
        put_entry(m, 4, key, "v");
        put_text(m, 7, "raw");
        put_text(m, 15, "unknown");
    }
    check_or_stop(kserve_pb_decode(&request, bytes_of(m), arena, NULL, &err) == OK, "%s", err.text);
    check(request.parameters.count == 1000 && request.raw_count == 1000, "%u, %u",
          request.parameters.count, request.raw_count);
}

TEST(kserve_pb_shape_of_16_and_17)
{
    for (unsigned rank = 15; rank <= 17; rank++) {
        for (unsigned packed = 0; packed <= rank; packed++) {
            ARENA(arena);
            MESSAGE(m);
            MESSAGE(in);
            MESSAGE(dims);
            struct kserve_pb_request request;
            struct err err = { 0 };
            for (unsigned i = 0; i < packed; i++)
                put_raw(dims, (const char[]){ (char)(i + 1) }, 1);
            put_message(in, 3, dims);
            for (unsigned i = packed; i < rank; i++)
                put_uint(in, 3, i + 1);
            put_message(m, 5, in);
            enum err_code code = kserve_pb_decode(&request, bytes_of(m), arena, NULL, &err);
            check(code == (rank > 16 ? E_INVALID : OK), "rank %u: %s", rank, err.text);
            if (code == OK)
                check(request.inputs[0].rank == rank && request.inputs[0].shape[rank - 1] == rank,
                      "rank %u", rank);
            else
                check(strcmp(err.text, "inputs[0].shape: it has more than 16 dimensions, the most "
                                       "a tensor may have") == 0,
                      "%s", err.text);
        }
    }
}

TEST(kserve_pb_lists_have_an_end)
{
    static const struct {
        uint32_t number, max;
        const char *text;
    } lists[] = { { 5, 4096, "inputs: there are 4097 of them, the most is 4096" },
                  { 6, 4096, "outputs: there are 4097 of them, the most is 4096" },
                  { 7, 4096, "raw_input_contents: there are 4097 of them, the most is 4096" },
                  { 4, 1024, "parameters: there are 1025 of them, the most is 1024" } };
    MESSAGE(m);

    for (size_t i = 0; i < COUNT(lists); i++) {
        for (uint32_t more = 0; more <= 1; more++) {
            ARENA(arena);
            struct kserve_pb_request request;
            struct err err = { 0 };
            m->size = 0;
            for (uint32_t k = 0; k < lists[i].max + more; k++)
                put_text(m, lists[i].number, "");
            enum err_code code = kserve_pb_decode(&request, bytes_of(m), arena, NULL, &err);
            check(code == (more ? E_INVALID : OK), "%s", err.text);
            check(!more || strcmp(err.text, lists[i].text) == 0, "%s", err.text);
        }
    }
}

/* -- what comes twice ---------------------------------------------------------------------------- */

TEST(kserve_pb_last_scalar_stands)
{
    ARENA(arena);
    struct kserve_pb_request request;
    static const char bytes[] = "\x0a\x01"
                                "a\x12\x01"
                                "1\x0a\x01"
                                "b\x1a\x01"
                                "c\x1a\x00"
                                "\x2a\x06\x0a\x01x\x0a\x01y";

    check_or_stop(kserve_pb_decode(&request, slice_make(bytes, sizeof bytes - 1), arena, NULL,
                                   NULL) == OK,
                  "twice is fine");
    check(slice_is(request.model_name, "b") && request.id.size == 0, "the last");
    check(slice_is(request.inputs[0].name, "y"), "the last");
}

/* An entry's value in two parts is one value; a oneof holds what came last. */
TEST(kserve_pb_value_in_parts)
{
    ARENA(arena);
    struct kserve_pb_request request;
    struct slice first = slice_make("\x22\x09\x12\x02\x08\x01\x12\x00\x0a\x01k", 11);
    struct slice second = slice_make("\x22\x0c\x12\x03\x1a\x01s\x12\x02\x10\x05\x0a\x01l", 14);

    check_or_stop(kserve_pb_decode(&request, first, arena, NULL, NULL) == OK, "first");
    check(request.parameters.items[0].kind == KSERVE_PB_BOOL && request.parameters.items[0].value.b,
          "an empty part takes nothing away");
    check_or_stop(kserve_pb_decode(&request, second, arena, NULL, NULL) == OK, "second");
    check(request.parameters.items[0].kind == KSERVE_PB_INT64 &&
              request.parameters.items[0].value.i == 5 &&
              slice_is(request.parameters.items[0].key, "l"),
          "the last of a oneof, and a key behind its value");
}

TEST(kserve_pb_entry_without_key_or_value)
{
    ARENA(arena);
    struct kserve_pb_request request;
    struct slice bytes = slice_make("\x22\x00\x22\x03\x0a\x01k\x22\x04\x12\x02\x08\x01", 13);

    check_or_stop(kserve_pb_decode(&request, bytes, arena, NULL, NULL) == OK, "decodes");
    check_or_stop(request.parameters.count == 2, "%u", request.parameters.count);
    check(slice_is(request.parameters.items[0].key, "k") &&
              request.parameters.items[0].kind == KSERVE_PB_NONE,
          "a key alone");
    check(request.parameters.items[1].key.size == 0 &&
              request.parameters.items[1].kind == KSERVE_PB_BOOL,
          "a value alone has the key '', and is the second of that key");
}

/* 2 to 1024 entries of few keys: each key once, with its last value. */
TEST(kserve_pb_last_of_a_key_wins)
{
    MESSAGE(m);

    for (unsigned round = 0; round < 300; round++) {
        ARENA(arena);
        uint32_t count = 2 + (uint32_t)test_random_below(round % 10 == 0 ? 1023 : 30);
        uint32_t keys = 1 + (uint32_t)test_random_below(count + 4), last[1100];
        struct kserve_pb_request request;
        memset(last, 0xff, sizeof last);
        m->size = 0;
        for (uint32_t i = 0; i < count; i++) {
            char key[32], value[16];
            uint32_t k = (uint32_t)test_random_below(keys);
            /* Lengths of all kinds; some keys are the beginning of others. */
            snprintf(key, sizeof key, "%.*s%u", (int)(k % 7), "aaaaaaa", k);
            snprintf(value, sizeof value, "%u", i);
            put_entry(m, 4, k == 0 ? "" : key, value);
            last[k] = i;
        }
        check_or_stop(kserve_pb_decode(&request, bytes_of(m), arena, NULL, NULL) == OK, "decodes");
        uint32_t seen = 0;
        for (uint32_t i = 0; i < request.parameters.count; i++) {
            const struct kserve_pb_parameter *p = &request.parameters.items[i];
            uint64_t value = 0;
            char key[32];
            require(slice_to_u64(p->text, &value));
            for (uint32_t k = 0; k < keys; k++) {
                snprintf(key, sizeof key, "%.*s%u", (int)(k % 7), "aaaaaaa", k);
                if (slice_is(p->key, k == 0 ? "" : key)) {
                    check(last[k] == value, "key %s: %u, not the last", key, (unsigned)value);
                    last[k] = UINT32_MAX;
                    seen++;
                }
            }
        }
        for (uint32_t k = 0; k < keys; k++)
            check(last[k] == UINT32_MAX, "key %u is gone", k);
        check(seen == request.parameters.count, "%u of %u", seen, request.parameters.count);
    }
}

/* `contents` in parts is their sum; a part that does not end by itself is no part. */
TEST(kserve_pb_contents_in_parts)
{
    static const struct {
        const char *bytes;
        size_t size;
        bool is_taken;
        size_t parts_size;
    } cases[] = {
#define BYTES(text) text, sizeof(text) - 1
        { BYTES("\x2a\x08\x2a\x02\x10\x07\x2a\x02\x10\x08"), true, 4 },
        { BYTES("\x2a\x0e\x2a\x02\x10\x07\x0a\x00\x2a\x02\x10\x08\x2a\x02\x10\x09"), true, 6 },
        { BYTES("\x2a\x04\x2a\x00\x2a\x00"), true, 0 },
        { BYTES("\x2a\x06\x2a\x00\x2a\x02\x10\x08"), true, 2 },
        { BYTES("\x2a\x06\x2a\x02\x10\x08\x2a\x00"), true, 2 },
        { BYTES("\x2a\x0b\x2a\x02\x10\x07\x88\x01\x05\x2a\x02\x10\x08"), true, 4 },
        { BYTES("\x2a\x06\x2a\x01\x10\x2a\x01\x08"), false, 0 },     /* 10 08 together */
        { BYTES("\x2a\x07\x2a\x01\x10\x2a\x02\x10\x07"), false, 0 }, /* 10 10 */
        { BYTES("\x2a\x0f\x2a\x02\x10\x07\x2a\x02\x10\x08\x0a\x01\x78\x2a\x02\x10\x09"), true, 6 },
        { BYTES("\x2a\x0e\x2a\x02\x10\x07\x2a\x02\x10\x08\x7a\x04\x61\x62\x63\x64"), true, 4 },
        { BYTES("\x2a\x09\x2a\x02\x10\x01\x2a\x00\x2a\x01\x10"), false, 0 },
        { BYTES("\x2a\x08\x2a\x02\x10\x01\x2a\x00\x28\x01"), false, 0 }, /* the third is a varint */
#undef BYTES
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        ARENA(arena);
        struct kserve_pb_request request;
        const char *field = NULL;
        struct err err = { 0 };
        enum err_code code = kserve_pb_decode(&request, slice_make(cases[i].bytes, cases[i].size),
                                              arena, &field, &err);
        check(code == (cases[i].is_taken ? OK : E_INVALID), "row %zu: %s", i, err.text);
        if (code == OK)
            check(request.inputs[0].has_contents &&
                      request.inputs[0].contents.size == cases[i].parts_size,
                  "row %zu: %zu bytes", i, request.inputs[0].contents.size);
        else
            check(field != NULL && strncmp(field, "inputs[0]", 9) == 0, "row %zu: %s", i, err.text);
    }
}

/* -- contents ------------------------------------------------------------------------------------ */

static const enum penstock_dtype numbers[] = {
    PENSTOCK_BOOL,   PENSTOCK_UINT8, PENSTOCK_UINT16, PENSTOCK_UINT32,
    PENSTOCK_UINT64, PENSTOCK_INT8,  PENSTOCK_INT16,  PENSTOCK_INT32,
    PENSTOCK_INT64,  PENSTOCK_FP32,  PENSTOCK_FP64,
};

static uint32_t field_of(enum penstock_dtype dtype)
{
    switch (dtype) {
    case PENSTOCK_BOOL: return 1;
    case PENSTOCK_INT8:
    case PENSTOCK_INT16:
    case PENSTOCK_INT32: return 2;
    case PENSTOCK_INT64: return 3;
    case PENSTOCK_UINT8:
    case PENSTOCK_UINT16:
    case PENSTOCK_UINT32: return 4;
    case PENSTOCK_UINT64: return 5;
    case PENSTOCK_FP32: return 6;
    case PENSTOCK_FP64: return 7;
    case PENSTOCK_BYTES: return 8;
    default: return 0;
    }
}

/* A random element: its bytes in a tensor, and the number that travels. */
static uint64_t draw(enum penstock_dtype dtype, uint8_t element[8])
{
    uint64_t bits = test_random() >> test_random_below(64);
    size_t size = dtype_size(dtype);

    if (dtype == PENSTOCK_BOOL) {
        element[0] = bits != 0 && bits % 2 != 0;
        return element[0] != 0 ? bits : 0;
    }
    memcpy(element, &bits, size);
    switch (dtype) {
    case PENSTOCK_INT8: return (uint64_t)(int8_t)bits;
    case PENSTOCK_INT16: return (uint64_t)(int16_t)bits;
    case PENSTOCK_INT32: return (uint64_t)(int32_t)bits;
    case PENSTOCK_UINT8: return (uint8_t)bits;
    case PENSTOCK_UINT16: return (uint16_t)bits;
    case PENSTOCK_UINT32: return (uint32_t)bits;
    default: return bits;
    }
}

/* Appends an element as it travels in a packed field, sometimes longer than it need be. */
static void put_packed(struct message *m, enum penstock_dtype dtype, uint64_t number)
{
    uint8_t bytes[16], *at = bytes;

    if (dtype == PENSTOCK_FP32 || dtype == PENSTOCK_FP64) {
        memcpy(bytes, &number, 8);
        at += dtype_size(dtype);
    } else {
        at = pb_put_varint(bytes, number);
        while (at - bytes < 10 && test_random_below(16) == 0) {
            at[-1] |= 0x80;
            *at++ = 0;
        }
    }
    put_raw(m, (const char *)bytes, (size_t)(at - bytes));
}

static void put_single(struct message *m, enum penstock_dtype dtype, uint64_t number)
{
    uint32_t field = field_of(dtype);
    float single;
    double twice;

    if (dtype == PENSTOCK_FP32) {
        uint32_t low = (uint32_t)number;
        memcpy(&single, &low, 4);
        m->size = (size_t)(pb_put_i32(m->bytes + m->size, field, low) - m->bytes);
    } else if (dtype == PENSTOCK_FP64) {
        memcpy(&twice, &number, 8);
        put_i64(m, field, twice);
    } else {
        put_uint(m, field, number);
    }
}

/* Elements of every number of bytes, in fields packed and not, between fields that nobody knows. */
TEST(kserve_pb_contents_of_numbers)
{
    enum { COUNT_MAX = 700 };
    MESSAGE(contents);
    MESSAGE(packed);
    struct budget budget;

    budget_init(&budget, 1 << 20);
    for (unsigned round = 0; round < 2200; round++) {
        ARENA(arena);
        CLEANUP(buf_unref) struct buf *holder = NULL;
        enum penstock_dtype dtype = numbers[round % COUNT(numbers)];
        size_t size = dtype_size(dtype);
        uint64_t count = test_random_below(round % 7 == 0 ? COUNT_MAX : 40);
        uint8_t expected[COUNT_MAX * 8];
        struct slice data = { NULL, 0 };
        struct err err = { 0 };
        contents->size = 0;
        for (uint64_t i = 0; i < count;) {
            uint64_t kind = test_random_below(8), run = test_random_below(count - i + 1);
            packed->size = 0;
            if (kind == 0) {
                put_uint(contents, 9 + (uint32_t)test_random_below(50), test_random());
            } else if (kind == 1) {
                uint32_t other = 1 + (uint32_t)test_random_below(7);
                put_bytes(contents, other, slice_make(NULL, 0)); /* a field, and nothing in it */
            } else if (kind == 2) {
                put_single(contents, dtype, draw(dtype, expected + i++ * size));
            } else {
                while (run-- > 0)
                    put_packed(packed, dtype, draw(dtype, expected + i++ * size));
                put_message(contents, field_of(dtype), packed);
            }
        }
        uint8_t *copy = malloc(contents->size + 1);
        memcpy(copy, contents->bytes, contents->size);
        copy[contents->size] = 0xff;
        struct slice bytes = slice_make(copy, contents->size);
        enum err_code code =
            kserve_pb_contents(bytes, dtype, count, "x", arena, &budget, &data, &holder, &err);
        check(code == OK, "%s x %llu: %s", dtype_name(dtype), (long long unsigned)count, err.text);
        if (code == OK) {
            check(data.size == count * size, "%zu bytes", data.size);
            check(memcmp(data.data, expected, data.size) == 0, "%s x %llu", dtype_name(dtype),
                  (long long unsigned)count);
            check((uintptr_t)data.data % 64 == 0, "aligned");
            check((holder != NULL) == (data.size > 2048), "%zu bytes", data.size);
        }
        buf_unref(&holder);

        /* One more or one less than the shape says. */
        for (uint64_t delta = 1; delta <= 2 && count > 0; delta++) {
            char text[64];
            uint64_t wrong = delta == 1 ? count - 1 : count + 1;
            snprintf(text, sizeof text, "holds %llu elements, its shape has %llu",
                     (long long unsigned)count, (long long unsigned)wrong);
            code =
                kserve_pb_contents(bytes, dtype, wrong, "x", arena, &budget, &data, &holder, &err);
            check(code == E_INVALID && strstr(err.text, text) != NULL, "%s", err.text);
        }
        check(budget_used(&budget) == 0, "nothing is kept");
        free(copy);
    }
}

/* Numbers whose last byte is the word's last, or the first of the next. */
TEST(kserve_pb_contents_at_every_offset)
{
    for (unsigned length = 1; length <= 10; length++) {
        for (unsigned before = 0; before < 24; before++) {
            ARENA(arena);
            MESSAGE(contents);
            MESSAGE(packed);
            struct buf *holder = NULL;
            struct slice data;
            struct err err = { 0 };
            uint64_t value = length == 10 ? UINT64_MAX : (UINT64_C(1) << (7 * length - 1)) + 1, got;
            unsigned count = before + 13;
            for (unsigned i = 0; i < count; i++)
                packed->size =
                    (size_t)(pb_put_varint(packed->bytes + packed->size, i == before ? value : i) -
                             packed->bytes);
            put_message(contents, 5, packed);
            check_or_stop(kserve_pb_contents(bytes_of(contents), PENSTOCK_UINT64, count, "x", arena,
                                             NULL, &data, &holder, &err) == OK,
                          "%u bytes behind %u: %s", length, before, err.text);
            for (unsigned i = 0; i < count; i++) {
                memcpy(&got, data.data + 8 * i, 8);
                check(got == (i == before ? value : i), "%u bytes behind %u: %u is %llu", length,
                      before, i, (long long unsigned)got);
            }
        }
    }
}

static const struct {
    enum penstock_dtype dtype;
    uint64_t number;
    const char *text; /* NULL: fits */
} ranges[] = {
    { PENSTOCK_UINT8, 255, NULL },
    { PENSTOCK_UINT8, 256, "element 20 is 256, which is not UINT8 (0 to 255)" },
    { PENSTOCK_UINT8, 300, "element 20 is 300" },
    { PENSTOCK_UINT16, 65535, NULL },
    { PENSTOCK_UINT16, 65536, "element 20 is 65536, which is not UINT16 (0 to 65535)" },
    { PENSTOCK_UINT32, UINT32_MAX, NULL },
    { PENSTOCK_UINT32, UINT64_C(1) << 32, NULL }, /* uint_contents has 32 bits, in every parser */
    { PENSTOCK_UINT8, UINT64_C(1) << 32 | 7, NULL },
    { PENSTOCK_INT8, 127, NULL },
    { PENSTOCK_INT8, (uint64_t)-128, NULL },
    { PENSTOCK_INT8, 128, "element 20 is 128, which is not INT8 (-128 to 127)" },
    { PENSTOCK_INT8, (uint64_t)-129, "element 20 is -129" },
    { PENSTOCK_INT8, 0xffffff80, NULL }, /* -128 written as 32 bits */
    { PENSTOCK_INT16, 32767, NULL },
    { PENSTOCK_INT16, (uint64_t)-32768, NULL },
    { PENSTOCK_INT16, 32768, "element 20 is 32768, which is not INT16 (-32768 to 32767)" },
    { PENSTOCK_INT16, (uint64_t)-32769, "element 20 is -32769" },
    { PENSTOCK_INT32, (uint64_t)INT32_MIN, NULL },
    { PENSTOCK_INT64, (uint64_t)INT64_MIN, NULL },
    { PENSTOCK_UINT64, UINT64_MAX, NULL },
    { PENSTOCK_BOOL, UINT64_MAX, NULL },
};

TEST(kserve_pb_contents_ranges)
{
    for (size_t i = 0; i < COUNT(ranges); i++) {
        for (unsigned single = 0; single <= 1; single++) {
            ARENA(arena);
            MESSAGE(contents);
            MESSAGE(packed);
            struct buf *holder = NULL;
            struct slice data;
            struct err err = { 0 };
            uint32_t field = field_of(ranges[i].dtype);
            for (unsigned k = 0; k < 40; k++)
                if (single) {
                    put_uint(contents, field, k == 20 ? ranges[i].number : k);
                } else {
                    uint8_t *at = packed->bytes + packed->size;
                    at = pb_put_varint(at, k == 20 ? ranges[i].number : k);
                    packed->size = (size_t)(at - packed->bytes);
                }
            put_message(contents, field, packed);
            enum err_code code = kserve_pb_contents(bytes_of(contents), ranges[i].dtype, 40, "x",
                                                    arena, NULL, &data, &holder, &err);
            check(code == (ranges[i].text == NULL ? OK : E_INVALID), "row %zu: %s", i, err.text);
            check(code == OK || strstr(err.text, ranges[i].text) != NULL, "row %zu: %s", i,
                  err.text);
        }
    }
}

/* Contents that are no tensor of that dtype, and the words for it. */
static const struct {
    enum penstock_dtype dtype;
    uint64_t count;
    const char *bytes;
    size_t size;
    const char *text;
} unread[] = {
#define BYTES(text) text, sizeof(text) - 1
    { PENSTOCK_INT64, 1, BYTES("\x32\x04\0\0\0\0"),
      "input 'x' is INT64 and comes in fp32_contents; use int64_contents" },
    { PENSTOCK_FP32, 1, BYTES("\x39\0\0\0\0\0\0\0\0"),
      "input 'x' is FP32 and comes in fp64_contents; use fp32_contents" },
    { PENSTOCK_FP32, 1, BYTES("\x42\x00"), "comes in bytes_contents; use fp32_contents" },
    { PENSTOCK_BYTES, 1, BYTES("\x12\x01\x01"), "is BYTES and comes in int_contents; use bytes_" },
    { PENSTOCK_INT32, 1, BYTES("\x10\x01\x18\x01"), "comes in int64_contents; use int_contents" },
    { PENSTOCK_UINT8, 1, BYTES("\x20\x01\x10\x01"), "comes in int_contents; use uint_contents" },
    { PENSTOCK_FP16, 1, BYTES("\x32\x04\0\0\0\0"),
      "input 'x' is FP16, for which contents has no field; send it in raw_input_contents" },
    { PENSTOCK_BF16, 0, BYTES(""), "input 'x' is BF16, for which contents has no field" },
    { PENSTOCK_INVALID, 0, BYTES(""), "input 'x' is INVALID, for which" },
    { (enum penstock_dtype)99, 0, BYTES(""), "input 'x' is INVALID, for which" },
    { PENSTOCK_FP32, 1, BYTES(""), "fp32_contents holds 0 elements, its shape has 1" },
    { PENSTOCK_FP32, 0, BYTES("\x32\x04\0\0\0\0"), "holds 1 elements, its shape has 0" },
    { PENSTOCK_FP32, UINT64_C(1) << 62, BYTES("\x32\x04\0\0\0\0"),
      "shape has 4611686018427387904" },
    { PENSTOCK_BYTES, UINT64_MAX, BYTES("\x42\x00"), "holds 1 elements, its shape has 18446744" },
    { PENSTOCK_FP32, 1, BYTES("\x32\x05\0\0\0\0\0"),
      "its contents.fp32_contents are no valid protobuf message: a number that ends in the middle" },
    { PENSTOCK_FP64, 1, BYTES("\x3a\x07\0\0\0\0\0\0\0\x08\x00"),
      "a number that ends in the middle" },
    { PENSTOCK_INT64, 2, BYTES("\x1a\x02\x01\x80"),
      "its contents.int64_contents are no valid protobuf message: a number that ends in the middle" },
    { PENSTOCK_INT64, 1, BYTES("\x1a\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
      "a number of more than 10 bytes" },
    { PENSTOCK_INT64, 1, BYTES("\x18"), "its contents are no valid protobuf message: a number" },
    { PENSTOCK_INT64, 1, BYTES("\x1a\x05\x01"), "a length that reaches past the end" },
    { PENSTOCK_INT64, 1, BYTES("\x1d\0\0\0\0"),
      "contents.int64_contents has wire type 5, expected "
      "2 or 0; was the message made with another .proto?" },
    { PENSTOCK_FP32, 2, BYTES("\x31\0\0\0\0\0\0\0\0"), "wire type 1, expected 2 or 5" },
    { PENSTOCK_FP64, 1, BYTES("\x38\x01\x0a\0\x0a\0\x0a\0"), "wire type 0, expected 2 or 1" },
    { PENSTOCK_BYTES, 1, BYTES("\x40\x01"), "wire type 0, expected 2;" },
    /* As many as asked for, and then something broken. */
    { PENSTOCK_INT64, 1, BYTES("\x18\x01\x18"), "its contents are no valid protobuf message: a" },
    { PENSTOCK_INT64, 1, BYTES("\x1a\x02\x01\x80"), "contents.int64_contents are no valid" },
    { PENSTOCK_FP32, 1, BYTES("\x35\0\0\0\0\x48"), "its contents are no valid protobuf message" },
    { PENSTOCK_BYTES, 1, BYTES("\x42\x01\x61\x48"), "its contents are no valid protobuf message" },
    { PENSTOCK_BYTES, 2,
      BYTES("\x42\x01"
            "a\x42\x05"),
      "past the end" },
#undef BYTES
};

TEST(kserve_pb_contents_refused)
{
    for (size_t i = 0; i < COUNT(unread); i++) {
        ARENA(arena);
        struct buf *holder = NULL;
        struct slice data = { NULL, 42 };
        struct err err = { 0 };
        uint8_t *copy = malloc(unread[i].size + 1);
        memcpy(copy, unread[i].bytes, unread[i].size);
        struct slice bytes = slice_make(copy, unread[i].size);
        enum err_code code = kserve_pb_contents(bytes, unread[i].dtype, unread[i].count, "x", arena,
                                                NULL, &data, &holder, &err);
        check(code == E_INVALID && err.code == E_INVALID, "row %zu: %s", i, err.text);
        check(strstr(err.text, unread[i].text) != NULL, "row %zu: %s", i, err.text);
        check(data.size == 42 && holder == NULL, "row %zu: untouched", i);
        free(copy);
    }
}

/* A shape that lies takes no memory: it is held against the bytes there are first. */
TEST(kserve_pb_contents_of_a_shape_that_lies)
{
    struct budget budget;

    budget_init(&budget, 1 << 20);
    for (unsigned dtype = 1; dtype < PENSTOCK_DTYPE_COUNT; dtype++) {
        for (unsigned bit = 12; bit < 64; bit++) {
            ARENA(arena);
            struct buf *holder = NULL;
            struct slice data;
            struct err err = { 0 };
            check(kserve_pb_contents(slice_make("\x78\x01", 2), (enum penstock_dtype)dtype,
                                     UINT64_C(1) << bit, "x", arena, &budget, &data, &holder,
                                     &err) == E_INVALID,
                  "%s x 2^%u: %s", dtype_name((enum penstock_dtype)dtype), bit, err.text);
            check(arena_used(arena) == 0, "%zu bytes of the arena", arena_used(arena));
        }
    }
}

TEST(kserve_pb_contents_of_bytes)
{
    MESSAGE(contents);

    for (unsigned round = 0; round < 200; round++) {
        ARENA(arena);
        CLEANUP(buf_unref) struct buf *holder = NULL;
        uint64_t count = test_random_below(60);
        uint8_t expected[60 * 204], *at = expected, element[200];
        struct slice data;
        struct err err = { 0 };
        contents->size = 0;
        for (uint64_t i = 0; i < count; i++) {
            uint32_t size = (uint32_t)test_random_below(test_random_below(4) == 0 ? 200 : 5);
            for (uint32_t k = 0; k < size; k++)
                element[k] = (uint8_t)test_random(); /* bytes, of any kind: not UTF-8 */
            put_bytes(contents, 8, slice_make(element, size));
            if (test_random_below(4) == 0)
                put_bytes(contents, 6, slice_make(NULL, 0));
            memcpy(at, &size, 4);
            memcpy(at + 4, element, size);
            at += 4 + size;
        }
        check_or_stop(kserve_pb_contents(bytes_of(contents), PENSTOCK_BYTES, count, "x", arena,
                                         NULL, &data, &holder, &err) == OK,
                      "%s", err.text);
        check(data.size == (size_t)(at - expected), "%zu", data.size);
        check(memcmp(data.data, expected, data.size) == 0, "round %u", round);
        check(holder == NULL || buf_bytes(holder).size == data.size, "trimmed");
    }
}

TEST(kserve_pb_contents_within_the_budget)
{
    ARENA(arena);
    MESSAGE(contents);
    struct budget budget;
    struct buf *holder = NULL;
    struct slice data;
    struct err err = { 0 };
    static const uint8_t floats[40000];

    budget_init(&budget, 20000);
    put_bytes(contents, 6, slice_make(floats, sizeof floats));
    check(kserve_pb_contents(bytes_of(contents), PENSTOCK_FP32, 10000, "pixels", arena, &budget,
                             &data, &holder, &err) == E_EXHAUSTED,
          "a spent budget is an answer");
    check(strncmp(err.text, "input 'pixels': ", 16) == 0, "%s", err.text);
    check(budget_used(&budget) == 0 && holder == NULL, "nothing is kept");
}

/* -- encoding ------------------------------------------------------------------------------------ */

/* The pieces as one message. */
static struct slice joined(struct message *m, const struct kserve_pb_piece *pieces, uint32_t count)
{
    m->size = 0;
    for (uint32_t i = 0; i < count; i++)
        put_raw(m, (const char *)pieces[i].bytes.data, pieces[i].bytes.size);
    return bytes_of(m);
}

/* A response as a request has the same fields but the last: raw contents are its 6, not its 7. */
static struct slice as_request(struct message *m, struct slice response)
{
    struct pb_reader r;
    struct pb_field field;

    m->size = 0;
    pb_begin(&r, response);
    while (pb_next(&r, &field)) {
        require(field.wire == PB_LEN);
        put_bytes(m, field.number == 6 ? 7 : field.number, field.bytes);
    }
    require(!pb_failed(&r));
    return bytes_of(m);
}

TEST(kserve_pb_encode_byte_by_byte)
{
    ARENA(arena);
    MESSAGE(m);
    static const int64_t shape[] = { 1, 300 };
    static const float probabilities[] = { 1, 0.5f, 0.25f };
    struct kserve_pb_parameter params[] = {
        { .key = SLICE_LIT("f"), .kind = KSERVE_PB_BOOL, .value.b = true },
        { .key = SLICE_LIT("n"), .kind = KSERVE_PB_NONE },
    };
    struct kserve_pb_result results[] = {
        { .name = SLICE_LIT("label"),
          .dtype = PENSTOCK_INT64,
          .rank = 2,
          .shape = shape,
          .bytes = SLICE_LIT("\7\0\0\0\0\0\0\0") },
        { .name = SLICE_LIT("p"),
          .dtype = PENSTOCK_FP32,
          .rank = 0,
          .bytes = { (const uint8_t *)probabilities, 12 } },
    };
    struct kserve_pb_response response = { .model_name = SLICE_LIT("iris"),
                                           .id = SLICE_LIT("7"),
                                           .results_count = 2,
                                           .results = results,
                                           .parameters = { params, 2 } };
    static const char expected[] = "\x0a\x04iris\x1a\x01"
                                   "7"
                                   "\x22\x07\x0a\x01"
                                   "f\x12\x02\x08\x01"
                                   "\x22\x05\x0a\x01n\x12\x00"
                                   "\x2a\x13\x0a\x05label\x12\x05INT64\x1a\x03\x01\xac\x02"
                                   "\x2a\x09\x0a\x01p\x12\x04"
                                   "FP32"
                                   "\x32\x08\x07\0\0\0\0\0\0\0"
                                   "\x32\x0c\0\0\x80?\0\0\0?\0\0\x80>";
    struct kserve_pb_piece *pieces;
    uint32_t count;

    check_or_stop(kserve_pb_encode(&response, 64, arena, &pieces, &count, NULL) == OK, "encodes");
    check(count == 1, "%u pieces", count);
    struct slice bytes = joined(m, pieces, count);
    check(bytes.size == sizeof expected - 1 && memcmp(bytes.data, expected, bytes.size) == 0,
          "%zu bytes, expected %zu", bytes.size, sizeof expected - 1);

    check_or_stop(kserve_pb_encode(&response, 8, arena, &pieces, &count, NULL) == OK, "encodes");
    check(count == 2 && pieces[1].bytes.data == (const uint8_t *)probabilities, "in place");
    bytes = joined(m, pieces, count);
    check(bytes.size == sizeof expected - 1 && memcmp(bytes.data, expected, bytes.size) == 0,
          "the same bytes");

    struct kserve_pb_response empty = { .results_count = 0 };
    check_or_stop(kserve_pb_encode(&empty, 8, arena, &pieces, &count, NULL) == OK, "encodes");
    check(count == 1 && pieces[0].bytes.size == 0, "an empty message is one piece of nothing");
}

TEST(kserve_pb_encode_and_decode)
{
    MESSAGE(m);
    MESSAGE(again);
    static uint8_t memory[3000];

    for (size_t i = 0; i < sizeof memory; i++)
        memory[i] = (uint8_t)(i * 7);
    for (unsigned round = 0; round < 500; round++) {
        ARENA(arena);
        CLEANUP(buf_unref) struct buf *holder = NULL;
        struct kserve_pb_result results[12];
        int64_t shapes[12][PENSTOCK_RANK_MAX];
        char names[12][300];
        struct kserve_pb_parameter params[6];
        uint32_t count = (uint32_t)test_random_below(12), large = 0, pieces_count;
        size_t copy_max = test_random_below(2000);
        struct kserve_pb_piece *pieces;
        struct kserve_pb_request back;
        struct err err = { 0 };
        require(buf_new(&holder, NULL, 8, NULL) == OK);
        for (uint32_t i = 0; i < count; i++) {
            memset(names[i], 'a' + (int)i, sizeof names[i]);
            results[i] = (struct kserve_pb_result){
                .name = slice_make(names[i], test_random_below(test_random_below(2) ? 300 : 9)),
                .dtype = (enum penstock_dtype)(1 + test_random_below(14)),
                .rank = (uint32_t)test_random_below(PENSTOCK_RANK_MAX + 1),
                .shape = shapes[i],
                .bytes = slice_make(memory, test_random_below(sizeof memory)),
                .holder = test_random_below(2) ? holder : NULL,
            };
            for (uint32_t k = 0; k < results[i].rank; k++)
                shapes[i][k] = (int64_t)(test_random() >> test_random_below(64));
            large += results[i].bytes.size > copy_max;
        }
        for (size_t i = 0; i < COUNT(params); i++) {
            params[i] = (struct kserve_pb_parameter){ .key = slice_make(&"012345"[i], 1),
                                                      .kind = (enum kserve_pb_kind)i,
                                                      .text = slice_make(names[0], 3) };
            memset(names[0], 'a', 3);
            params[i].value.u = test_random() >> test_random_below(64);
            if (params[i].kind == KSERVE_PB_BOOL)
                params[i].value.b = test_random_below(2);
        }
        struct kserve_pb_response response = {
            .model_name = slice_of("m"),
            .model_version = slice_of("12"),
            .results_count = count,
            .results = results,
            .parameters = { params, COUNT(params) },
        };
        check_or_stop(kserve_pb_encode(&response, copy_max, arena, &pieces, &pieces_count, &err) ==
                          OK,
                      "%s", err.text);
        check(pieces_count >= 1 + large && pieces_count <= 1 + 2 * large, "%u pieces, %u large",
              pieces_count, large);
        uint32_t kept = 0;
        for (uint32_t i = 0; i < pieces_count; i++) {
            bool is_kept = pieces[i].bytes.data == memory && pieces[i].bytes.size > copy_max;
            kept += is_kept;
            check(is_kept || pieces[i].holder == NULL, "only what is kept has a holder");
        }
        check(kept >= large, "%u of %u stay where they are", kept, large);
        struct slice request = as_request(again, joined(m, pieces, pieces_count));
        check_or_stop(kserve_pb_decode(&back, request, arena, NULL, &err) == OK, "%s", err.text);
        check(slice_is(back.model_name, "m") && slice_is(back.model_version, "12") &&
                  back.id.size == 0,
              "names");
        check_or_stop(back.inputs_count == count && back.raw_count == count, "%u", back.raw_count);
        for (uint32_t i = 0; i < count; i++) {
            check(slice_eq(back.inputs[i].name, results[i].name), "name %u", i);
            check(slice_is(back.inputs[i].datatype, dtype_name(results[i].dtype)), "dtype %u", i);
            check(back.inputs[i].rank == results[i].rank &&
                      memcmp(back.inputs[i].shape, shapes[i], results[i].rank * 8) == 0,
                  "%u", i);
            check(slice_eq(back.raw[i], results[i].bytes), "raw %u", i);
        }
        check_or_stop(back.parameters.count == COUNT(params), "%u", back.parameters.count);
        for (size_t i = 0; i < COUNT(params); i++) {
            const struct kserve_pb_parameter *p = &back.parameters.items[i];
            check(p->kind == params[i].kind && slice_eq(p->key, params[i].key), "%zu", i);
            if (p->kind == KSERVE_PB_STRING)
                check(slice_eq(p->text, params[i].text), "text");
            else if (p->kind == KSERVE_PB_BOOL)
                check(p->value.b == params[i].value.b, "bool");
            else if (p->kind != KSERVE_PB_NONE)
                check(p->value.u == params[i].value.u, "number");
        }
    }
}

/* -- faults -------------------------------------------------------------------------------------- */

/* Everything that allocates, from a first block that is too small for any of it. */
static enum err_code whole_way(struct slice message, struct budget *budget, struct err *err)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(0, 1 << 20);
    CLEANUP(buf_unref) struct buf *holder = NULL;
    struct kserve_pb_request request;
    struct kserve_pb_piece *pieces;
    const char *field;
    struct slice data;
    uint32_t count;

    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no arena");
    TRY(kserve_pb_decode(&request, message, arena, &field, err));
    TRY(kserve_pb_contents(request.inputs[0].contents, PENSTOCK_FP32, 1024, "x", arena, budget,
                           &data, &holder, err));
    struct kserve_pb_result result = { .name = request.inputs[0].name,
                                       .dtype = PENSTOCK_FP32,
                                       .rank = request.inputs[0].rank,
                                       .shape = request.inputs[0].shape,
                                       .bytes = data };
    struct kserve_pb_response response = { .model_name = request.model_name,
                                           .results_count = 1,
                                           .results = &result,
                                           .parameters = request.parameters };
    TRY(kserve_pb_encode(&response, 1 << 16, arena, &pieces, &count, err));
    check(count == 1 && pieces[0].bytes.size > 4096, "a whole answer");
    return OK;
}

TEST(kserve_pb_survives_every_fault)
{
    MESSAGE(m);
    MESSAGE(in);
    MESSAGE(contents);
    struct budget budget;
    unsigned faults = 0;
    static const uint8_t floats[2048];

    put_text(m, 1, "faults");
    for (unsigned i = 0; i < 100; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%u", i % 40);
        put_entry(m, 4, key, "value");
    }
    put_text(in, 1, "x");
    put_bytes(contents, 6, slice_make(floats, sizeof floats));
    put_message(in, 5, contents);
    put_message(in, 5, contents); /* in parts: joined */
    put_message(m, 5, in);
    budget_init(&budget, 1 << 20);
    for_each_fault(nth) {
        struct err err = { 0 };
        enum err_code code = whole_way(bytes_of(m), &budget, &err);
        check(budget_used(&budget) == 0, "fault %u leaked", nth);
        check(code == OK || code == E_EXHAUSTED, "fault %u: %s", nth, err.text);
        if (!fault_fired())
            break;
        faults++;
        check(code != OK && err.text[0] != '\0', "fault %u was silent", nth);
    }
    check(faults >= 5, "%u places allocate", faults);
}

/* An arena whose cap is spent answers as an empty heap does. */
TEST(kserve_pb_within_the_arena)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(0, 4096);
    MESSAGE(m);
    struct kserve_pb_request request;
    struct err err = { 0 };

    for (unsigned i = 0; i < 4000; i++)
        put_text(m, 5, "");
    check(kserve_pb_decode(&request, bytes_of(m), arena, NULL, &err) == E_EXHAUSTED, "%s",
          err.text);
    check(strstr(err.text, "no memory for the ") != NULL, "%s", err.text);
}
