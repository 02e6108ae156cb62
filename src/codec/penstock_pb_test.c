/* penstock_pb_test.c - penstock.v1's messages by hand, held against upb's: what one writes the other
 * reads, from protobuf and from JSON, and what is wrong is said with its path.
 * SPDX-License-Identifier: Apache-2.0 */
#include "codec/penstock_pb.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/pb.h"
#include "codec/number.h"
#include "codec/proto.h"
#include "model/dtype.h"
#include "test/harness.h"

static struct arena *arena;
static struct proto_arena *messages;

static void begin(void)
{
    arena = arena_new(1 << 16, 64 << 20);
    messages = proto_arena_new();
    require(arena != NULL && messages != NULL);
}

static void end(void)
{
    arena_free(&arena);
    proto_arena_free(&messages);
}

static const struct proto_type *type_of(const char *name)
{
    char full[80];

    snprintf(full, sizeof full, "penstock.v1.%s", name);
    const struct proto_type *type = proto_type_find(proto_builtin(), full);
    require(type != NULL);
    return type;
}

static struct slice encoded(struct proto_message *message)
{
    struct slice bytes = { NULL, 0 };
    struct err err = { 0 };

    require(proto_encode(message, &bytes, &err) == OK);
    return bytes;
}

static struct proto_message *from_json(const char *type, const char *json)
{
    struct proto_message *message = NULL;
    struct err err = { 0 };

    enum err_code code = proto_from_json(&message, messages, type_of(type), proto_builtin(),
                                         slice_of(json), &err);
    check(code == OK, "%s: %s", json, err.text);
    require(code == OK);
    return message;
}

/* -- what a request says, as text ---------------------------------------------------------------- */

static const enum penstock_dtype dtypes[] = {
    [PENSTOCK_PB_NO_VALUES] = PENSTOCK_FP32, [PENSTOCK_PB_RAW] = PENSTOCK_UINT8,
    [PENSTOCK_PB_BOOLS] = PENSTOCK_BOOL,     [PENSTOCK_PB_INT32S] = PENSTOCK_INT32,
    [PENSTOCK_PB_INT64S] = PENSTOCK_INT64,   [PENSTOCK_PB_UINT32S] = PENSTOCK_UINT32,
    [PENSTOCK_PB_UINT64S] = PENSTOCK_UINT64, [PENSTOCK_PB_FLOATS] = PENSTOCK_FP32,
    [PENSTOCK_PB_DOUBLES] = PENSTOCK_FP64,   [PENSTOCK_PB_STRINGS] = PENSTOCK_BYTES,
    [PENSTOCK_PB_BYTES_LIST] = PENSTOCK_BYTES, [PENSTOCK_PB_DATA] = PENSTOCK_FP64,
};

static void put_hex(struct text *out, struct slice bytes)
{
    for (size_t i = 0; i < bytes.size; i++)
        text_printf(out, "%02x", bytes.data[i]);
}

static void put_tensor(struct text *out, const struct penstock_pb_tensor *t)
{
    enum penstock_dtype dtype = dtypes[t->list];
    int64_t shape[PENSTOCK_RANK_MAX];
    struct buf *holder = NULL;
    struct slice data;
    struct err err = { 0 };
    uint64_t count;
    uint32_t rank;

    text_str(out, " {");
    text_json(out, t->name);
    text_json(out, t->datatype);
    for (uint32_t i = 0; i < t->rank; i++)
        text_printf(out, " %lld", (long long)t->shape[i]);
    text_printf(out, " list %d:", (int)t->list);
    if (t->list != PENSTOCK_PB_NO_VALUES) {
        enum err_code code = penstock_pb_count(t, dtype, "t", &count, &rank, shape, &err);
        if (code == OK)
            code = penstock_pb_values(t, dtype, count, "t", arena, NULL, &data, &holder, &err);
        if (code == OK)
            put_hex(out, data);
        else
            text_str(out, err.text);
        buf_unref(&holder);
    }
    text_str(out, "}");
}

static void put_request(struct text *out, const struct penstock_pb_request *r)
{
    text_printf(out, "kind %d sequence %llu ", (int)r->kind, (unsigned long long)r->sequence);
    text_json(out, r->model);
    text_json(out, r->version);
    text_json(out, r->id);
    for (uint32_t i = 0; i < r->inputs_count; i++)
        put_tensor(out, &r->inputs[i]);
    text_str(out, " outputs");
    for (uint32_t i = 0; i < r->outputs_count; i++)
        text_json(out, r->outputs[i]);
    for (uint32_t i = 0; i < r->parameters.count; i++) {
        const struct kserve_pb_parameter *p = &r->parameters.items[i];
        text_str(out, " ");
        text_json(out, p->key);
        text_printf(out, "=%d:%llu", (int)p->kind,
                    (unsigned long long)(p->kind == KSERVE_PB_BOOL ? p->value.b : p->value.u));
        if (p->kind == KSERVE_PB_STRING)
            text_json(out, p->text);
    }
    text_printf(out, " reduce %d %d %llu %llu %llu slow %d credit %llu ", r->has_reduce, r->reduce,
                (unsigned long long)r->window, (unsigned long long)r->step,
                (unsigned long long)r->pad, r->when_slow, (unsigned long long)r->credit);
    text_json(out, r->binary_input);
    text_printf(out, " %d %.17g %llu", r->has_binary_outputs, r->resume_seconds,
                (unsigned long long)r->responses);
}

static const char *words_of(enum err_code code, const struct penstock_pb_request *r,
                            const char *field, const struct err *err)
{
    static struct text out;

    text_deinit(&out);
    text_init(&out, 64 << 20);
    if (code == OK)
        put_request(&out, r);
    else
        text_printf(&out, "%s [%s] %s", err_name(code), field == NULL ? "" : field, err->text);
    return text_cstr(&out);
}

enum form { INFER, SESSION, JSON };

static const char *read_as(enum form form, struct slice bytes)
{
    struct penstock_pb_request request = { .kind = PENSTOCK_PB_NOTHING };
    const char *field = NULL;
    struct err err = { 0 };
    enum err_code code =
        form == INFER     ? penstock_pb_decode_infer(&request, bytes, arena, &field, &err)
        : form == SESSION ? penstock_pb_decode_session(&request, bytes, arena, &field, &err)
                          : penstock_pb_decode_json(&request, bytes, arena, &field, &err);
    return words_of(code, &request, field, &err);
}

/* -- cases --------------------------------------------------------------------------------------- */

static const struct {
    const char *type, *json, *words;
} meant[] = {
    { "InferRequest", "{}",
      "kind 7 sequence 0 \"\"\"\"\"\" outputs reduce 0 0 0 0 0 slow 0 credit 0 \"\" 0 0 0" },
    { "InferRequest",
      "{\"model\":\"m\",\"version\":\"2\",\"id\":\"i\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\","
      "\"shape\":[1,2],\"floats\":{\"values\":[1,-2]}}],\"outputs\":[\"y\",\"z\"],\"parameters\":{\"k\":{"
      "\"int64Value\":\"-1\"}},\"reduce\":{\"kind\":\"WINDOW\",\"window\":\"3\",\"step\":\"2\",\"pad\":\"1\"},"
      "\"whenSlow\":\"CONCAT\",\"sequence\":\"7\"}",
      "kind 7 sequence 7 \"m\"\"2\"\"i\" {\"x\"\"FP32\" 1 2 list 10:0000803f000000c0} "
      "outputs\"y\"\"z\" \"k\"=2:18446744073709551615 reduce 1 4 3 2 1 slow 2 credit 0 \"\" 0 0 0" },
    { "SessionRequest",
      "{\"begin\":{\"model\":\"m\",\"credit\":\"5\",\"binaryInput\":\"x\",\"binaryOutputs\":true,"
      "\"resumeSeconds\":1.5,\"whenSlow\":\"LATEST\"}}",
      "kind 2 sequence 0 \"m\"\"\"\"\" outputs reduce 0 0 0 0 0 slow 1 credit 5 \"x\" 1 1.5 0" },
    { "SessionRequest", "{\"sequence\":\"3\",\"grant\":{\"responses\":\"4\"}}",
      "kind 5 sequence 3 \"\"\"\"\"\" outputs reduce 0 0 0 0 0 slow 0 credit 0 \"\" 0 0 4" },
    { "SessionRequest", "{\"interrupt\":{}}",
      "kind 4 sequence 0 \"\"\"\"\"\" outputs reduce 0 0 0 0 0 slow 0 credit 0 \"\" 0 0 0" },
    { "SessionRequest", "{\"finish\":{}}",
      "kind 6 sequence 0 \"\"\"\"\"\" outputs reduce 0 0 0 0 0 slow 0 credit 0 \"\" 0 0 0" },
    { "SessionRequest",
      "{\"input\":{\"id\":\"a\",\"inputs\":[{\"name\":\"s\",\"strings\":{\"values\":[\"ab\",\"\"]}},"
      "{\"name\":\"b\",\"bytesList\":{\"values\":[\"AAE=\"]}},{\"name\":\"r\",\"raw\":\"AQID\"},"
      "{\"name\":\"d\",\"data\":[1,[2,\"NaN\"]]}]}}",
      "kind 3 sequence 0 \"\"\"\"\"a\" {\"s\"\"\" list 12:02000000616200000000} {\"b\"\"\" list "
      "13:020000000001} {\"r\"\"\" list 4:010203} {\"d\"\"\" list 14:t.data[1] (byte 3): a list where "
      "others are single values: the lists are of unequal depth} outputs reduce 0 0 0 0 0 slow 0 credit "
      "0 \"\" 0 0 0" },
};

TEST(what_upb_writes_is_read_from_protobuf_and_json)
{
    begin();
    for (size_t i = 0; i < COUNT(meant); i++) {
        enum form form = strcmp(meant[i].type, "InferRequest") == 0 ? INFER : SESSION;
        const char *found = read_as(form, encoded(from_json(meant[i].type, meant[i].json)));
        bool is_fault_text = strstr(meant[i].words, "unequal") != NULL;
        check(is_fault_text || strcmp(found, meant[i].words) == 0, "%s\n  got  %s\n  want %s",
              meant[i].json, found, meant[i].words);
        if (form == INFER || is_fault_text)
            continue;
        found = read_as(JSON, slice_of(meant[i].json));
        check(strcmp(found, meant[i].words) == 0, "as JSON: %s\n  got  %s\n  want %s", meant[i].json,
              found, meant[i].words);
    }
    end();
}

/* JSON that people write, and the message that it stands for. */
static const struct {
    const char *json, *same;
} easy[] = {
    { "{\"inputs\":{\"x\":[1,2]}}", "{\"input\":{\"inputs\":[{\"name\":\"x\",\"data\":[1,2]}]}}" },
    { " { \"id\" : \"a\" , \"inputs\" : { \"x\" : 5 } } ",
      "{\"input\":{\"id\":\"a\",\"inputs\":[{\"name\":\"x\",\"data\":[5]}]}}" },
    { "{\"inputs\":{\"x\":{\"shape\":[2],\"data\":[1,2]}}}",
      "{\"input\":{\"inputs\":[{\"name\":\"x\",\"shape\":[2],\"data\":[1,2]}]}}" },
    { "{\"input\":{\"inputs\":[{\"data\":[1],\"name\":\"x\"}],\"parameters\":{\"t\":0.5,\"n\":3,\"b\":true,"
      "\"s\":\"w\"}}}",
      "{\"input\":{\"inputs\":[{\"name\":\"x\",\"data\":[1]}],\"parameters\":{\"t\":{\"doubleValue\":0.5},"
      "\"n\":{\"int64Value\":\"3\"},\"b\":{\"boolValue\":true},\"s\":{\"stringValue\":\"w\"}}}}" },
    { "{\"parameters\":{\"n\":3},\"inputs\":{}}", "{\"input\":{\"parameters\":{\"n\":{\"int64Value\":3}}}}" },
    { "{\"begin\":{\"reduce\":\"stack\",\"when_slow\":\"latest\",\"resume_seconds\":2}}",
      "{\"begin\":{\"reduce\":{\"kind\":\"STACK\"},\"whenSlow\":\"LATEST\",\"resumeSeconds\":2}}" },
    { "{\"begin\":{\"model\":null,\"credit\":1}}", "{\"begin\":{\"credit\":1}}" },
    { "{\"\\u0062egin\":{}}", "{\"begin\":{}}" },
};

TEST(json_that_people_write)
{
    begin();
    for (size_t i = 0; i < COUNT(easy); i++) {
        char *want = mem_strdup(read_as(JSON, slice_of(easy[i].same)));
        const char *found = read_as(JSON, slice_of(easy[i].json));
        check(strcmp(found, want) == 0, "%s\n  got  %s\n  want %s", easy[i].json, found, want);
        check(strncmp(found, "kind", 4) == 0, "%s: %s", easy[i].json, found);
        mem_free(want);
    }
    end();
}

static const struct {
    const char *json, *words;
} bad_json[] = {
    { "", "INVALID_ARGUMENT [] a text message is a JSON object" },
    { "[1]", "INVALID_ARGUMENT [] a text message is a JSON object" },
    { "{", "INVALID_ARGUMENT []" },
    { "{\"input\":{}}x", "INVALID_ARGUMENT []" },
    { "{\"inptu\":{}}", "[] no member 'inptu' is known here; these are: input, inputs" },
    { "{\"input\":{\"inputs\":[{\"name\":\"x\",\"dat\":[1]}]}}",
      "[input.inputs[0]] input.inputs[0]: no member 'dat'" },
    { "{\"input\":{},\"input\":{}}", "member 'input' is there twice" },
    { "{\"input\":{},\"finish\":{}}", "[finish] finish: a message is one of" },
    { "{\"input\":{\"inputs\":[{\"name\":\"x\",\"data\":[1],\"raw\":\"\"}]}}",
      "[input.inputs[0].raw] input.inputs[0].raw: a tensor has its values once" },
    { "{\"input\":{\"inputs\":[{\"name\":\"x\",\"raw\":\"A\"}]}}", "it is no base64" },
    { "{\"input\":{\"inputs\":[{\"name\":\"x\",\"raw\":\"A*==\"}]}}", "it is no base64" },
    { "{\"sequence\":\"x\"}", "[sequence] sequence: 'x' is no whole number" },
    { "{\"sequence\":-1}", "[sequence]" },
    { "{\"begin\":{\"reduce\":{\"kind\":\"SUM\"}}}", "[begin.reduce.kind]" },
    { "{\"input\":{\"parameters\":{\"k\":[1]}}}", "[input.parameters.k]" },
    { "{\"input\":{\"parameters\":{\"k\":1,\"k\":2}}}", "'k' is there twice" },
    { "{\"input\":{\"inputs\":[{\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}]}}",
      "[input.inputs[0].shape] input.inputs[0].shape: it has more than 16 dimensions" },
    { "{\"input\":{\"inputs\":[{\"floats\":{\"values\":{}}}]}}", "[input.inputs[0].floats.values]" },
};

TEST(bad_json_says_where)
{
    begin();
    for (size_t i = 0; i < COUNT(bad_json); i++) {
        const char *found = read_as(JSON, slice_of(bad_json[i].json));
        check(strncmp(found, "INVALID_ARGUMENT", 16) == 0 && strstr(found, bad_json[i].words) != NULL,
              "%s\n  got %s\n  lacks %s", bad_json[i].json, found, bad_json[i].words);
    }
    end();
}

/* The first bytes decide, whatever else is there, and nothing is read past the end. */
TEST(kinds_are_seen_without_reading)
{
    static const struct {
        const char *json;
        enum penstock_pb_kind kind;
    } cases[] = {
        { "{\"begin\":{}}", PENSTOCK_PB_BEGIN },
        { "{\"sequence\":4,\"input\":{", PENSTOCK_PB_INPUT },
        { "{\"inputs\":", PENSTOCK_PB_INPUT },
        { "{\"id\":\"x\"", PENSTOCK_PB_INPUT },
        { "{\"grant\":", PENSTOCK_PB_GRANT },
        { "{\"interrupt\":", PENSTOCK_PB_INTERRUPT },
        { "{\"sequence\":\"4\",\"finish\":", PENSTOCK_PB_FINISH },
        { "{\"sequence\":4}", PENSTOCK_PB_NOTHING },
        { "{", PENSTOCK_PB_NOTHING },
        { "", PENSTOCK_PB_NOTHING },
        { "7", PENSTOCK_PB_NOTHING },
    };

    for (size_t i = 0; i < COUNT(cases); i++)
        check(penstock_pb_peek_json(slice_of(cases[i].json)) == cases[i].kind, "%s", cases[i].json);
    begin();
    struct slice bytes = encoded(from_json("SessionRequest", "{\"sequence\":9,\"grant\":{}}"));
    check(penstock_pb_peek(bytes) == PENSTOCK_PB_GRANT, "grant");
    check(penstock_pb_peek(slice_first(bytes, 1)) == PENSTOCK_PB_NOTHING, "half a field");
    check(penstock_pb_peek(slice_make("", 0)) == PENSTOCK_PB_NOTHING, "empty");
    end();
}

/* Hexadecimal; what comes of it has these words. */
static const struct {
    enum form form;
    const char *hex, *words, *why;
} bytes_cases[] = {
    { INFER, "0a", "INVALID_ARGUMENT [] the message is no valid penstock.v1.InferRequest", "half a tag" },
    { INFER, "08", "INVALID_ARGUMENT", "half a number" },
    { INFER, "0801", "[model] model: field 1 comes as a varint (wire type 0)", "a string as a number" },
    { INFER, "0a01ff", "[model] model: it is not UTF-8", "bad UTF-8" },
    { INFER, "22020801", "[inputs[0].name] inputs[0].name: field 1", "a name as a number" },
    { INFER, "2200220518ffffff7f", "list 0:} outputs", "a dimension that is not packed" },
    { INFER, "22040a022a80", "[inputs[0].name] inputs[0].name: it is not UTF-8", "a name that is none" },
    { INFER, "22040a052a80", "[inputs[0]] inputs[0]: a length that reaches past the end", "a name cut" },
    { INFER, "4a00", "[sequence] sequence: field 9 comes as a string", "a number as a string" },
    { INFER, "4900000000", "INVALID_ARGUMENT", "eight bytes cut" },
    { INFER, "3a0108", "[reduce] reduce:", "half a reduce" },
    { INFER, "780a", "kind 7", "an unknown field is skipped" },
    { INFER, "7b7c", "kind 7", "an unknown group is skipped" },
    { INFER, "7b", "INVALID_ARGUMENT", "a group without its end" },
    { SESSION, "12001a00", "INVALID_ARGUMENT [] a SessionRequest holds one message; this one has "
                           "'begin' and 'input'", "two messages" },
    { SESSION, "1800", "[message] message: field 3 comes as a varint", "a message as a number" },
    { SESSION, "220108", "[interrupt] interrupt:", "an Interrupt that is no message" },
    { SESSION, "12055101020304", "[begin] begin", "resume_seconds cut" },
    { SESSION, "12025001", "[begin.resume_seconds] begin.resume_seconds: field 10", "as a number" },
    /* two parts of a list are one list; another list in between begins anew */
    { INFER, "220c2a040a0201012a040a020001", "list 5:01010001}", "parts of bools" },
    { INFER, "220e2a040a02010122002a040a020001", "list 5:0001}", "raw between them" },
    { INFER, "220a2a030a01802a030a0101", "t.bools: it is no valid protobuf message: a number that ends", "no part may reach into the next" },
    { INFER, "22082a020a052a020a00", "[inputs[0].bools] inputs[0].bools: a length", "nor a message" },
    { INFER, "3204" "0a016b" "1200", "\"k\"=0:0", "entry cut short" },
};

static struct slice unhex(const char *hex)
{
    size_t size = strlen(hex) / 2;
    uint8_t *bytes = arena_alloc(arena, size + 1);

    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        require(sscanf(hex + 2 * i, "%2x", &byte) == 1);
        bytes[i] = (uint8_t)byte;
    }
    return slice_make(bytes, size);
}

TEST(bytes_say_where_they_are_wrong)
{
    begin();
    for (size_t i = 0; i < COUNT(bytes_cases) - 1; i++) {
        const char *found = read_as(bytes_cases[i].form, unhex(bytes_cases[i].hex));
        check(strstr(found, bytes_cases[i].words) != NULL, "%s (%s)\n  got %s\n  lacks %s",
              bytes_cases[i].hex, bytes_cases[i].why, found, bytes_cases[i].words);
    }
    end();
}

/* -- random messages, written by upb -------------------------------------------------------------- */

static struct slice word(void)
{
    static const char *const words[] = { "", "x", "input", "\xc3\xa9", "a \"quoted\" \\ one", "\x01\n",
                                         "0123456789abcdef0123456789abcdef" };

    return slice_of(words[test_random_below(COUNT(words))]);
}

static void random_numbers(struct proto_message *list, enum penstock_pb_list kind)
{
    static const int64_t few[] = { 0, 1, -1, 127, 128, 300, INT32_MAX, INT32_MIN };
    uint64_t count = test_random_below(4) == 0 ? test_random_below(40) : test_random_below(4);

    for (uint64_t i = 0; i < count; i++) {
        int64_t number = test_random_below(2) == 0 ? few[test_random_below(COUNT(few))]
                                                   : (int64_t)test_random();
        switch (kind) {
        case PENSTOCK_PB_BOOLS: proto_add_i64(list, "values", number & 1); break;
        case PENSTOCK_PB_INT32S: proto_add_i64(list, "values", (int32_t)number); break;
        case PENSTOCK_PB_UINT32S: proto_add_i64(list, "values", (uint32_t)number); break;
        case PENSTOCK_PB_INT64S: proto_add_i64(list, "values", number); break;
        case PENSTOCK_PB_UINT64S: proto_add_i64(list, "values", number & INT64_MAX); break;
        case PENSTOCK_PB_FLOATS:
        case PENSTOCK_PB_DOUBLES: proto_add_f64(list, "values", (double)(int32_t)number / 8); break;
        default: proto_add_str(list, "values", word()); break;
        }
    }
}

static void random_tensor(struct proto_message *tensor)
{
    static const struct {
        enum penstock_pb_list kind;
        const char *name;
    } lists[] = {
        { PENSTOCK_PB_INT32S, "int32s" },   { PENSTOCK_PB_INT64S, "int64s" },
        { PENSTOCK_PB_UINT32S, "uint32s" }, { PENSTOCK_PB_UINT64S, "uint64s" },
        { PENSTOCK_PB_FLOATS, "floats" },   { PENSTOCK_PB_DOUBLES, "doubles" },
        { PENSTOCK_PB_STRINGS, "strings" }, { PENSTOCK_PB_BYTES_LIST, "bytes_list" },
        { PENSTOCK_PB_RAW, "raw" },
    };
    uint64_t which = test_random_below(COUNT(lists));

    proto_set_str(tensor, "name", word());
    proto_set_str(tensor, "datatype", word());
    for (uint64_t i = test_random_below(4); i > 0; i--)
        proto_add_i64(tensor, "shape", (int64_t)test_random_below(1000) - 1);
    if (lists[which].kind == PENSTOCK_PB_RAW)
        proto_set_str(tensor, "raw", word());
    else
        random_numbers(proto_set_message(tensor, lists[which].name), lists[which].kind);
}

static void random_parameter(struct proto_message *value)
{
    switch (test_random_below(4)) {
    case 0: proto_set_bool(value, "bool_value", test_random_below(2) != 0); break;
    case 1: proto_set_i64(value, "int64_value", (int64_t)test_random()); break;
    case 2: proto_set_f64(value, "double_value", (double)(int32_t)test_random() / 16); break;
    default: proto_set_str(value, "string_value", word()); break;
    }
}

static void random_parts(struct proto_message *m, bool has_inputs)
{
    for (uint64_t i = has_inputs ? test_random_below(4) : 0; i > 0; i--)
        random_tensor(proto_add_message(m, "inputs"));
    for (uint64_t i = test_random_below(3); i > 0; i--)
        random_parameter(proto_map_message(m, "parameters", word()));
}

static void random_reduce(struct proto_message *m)
{
    struct proto_message *reduce = proto_set_message(m, "reduce");

    proto_set_i64(reduce, "kind", (int64_t)test_random_below(5));
    proto_set_u64(reduce, "window", test_random_below(1000));
    proto_set_u64(reduce, "step", test_random_below(3));
    proto_set_u64(reduce, "pad", test_random_below(3));
}

static struct proto_message *random_request(const char *type)
{
    struct proto_message *m = proto_new(messages, type_of(type)), *inner;

    require(m != NULL);
    proto_set_u64(m, "sequence", test_random_below(1000));
    if (strcmp(type, "InferRequest") == 0) {
        proto_set_str(m, "model", word());
        proto_set_str(m, "version", word());
        proto_set_str(m, "id", word());
        random_parts(m, true);
        for (uint64_t i = test_random_below(3); i > 0; i--)
            proto_add_str(m, "outputs", word());
        if (test_random_below(3) == 0)
            random_reduce(m);
        proto_set_i64(m, "when_slow", (int64_t)test_random_below(3));
        return m;
    }
    switch (test_random_below(6)) {
    case 0:
        inner = proto_set_message(m, "begin");
        proto_set_str(inner, "model", word());
        proto_set_str(inner, "version", word());
        proto_set_str(inner, "binary_input", word());
        proto_set_bool(inner, "binary_outputs", test_random_below(2) != 0);
        proto_set_u64(inner, "credit", test_random_below(5));
        proto_set_f64(inner, "resume_seconds", (double)test_random_below(100) / 4);
        proto_set_i64(inner, "when_slow", (int64_t)test_random_below(3));
        random_parts(inner, false);
        random_reduce(inner);
        break;
    case 1: proto_set_message(m, "interrupt"); break;
    case 2: proto_set_u64(proto_set_message(m, "grant"), "responses", test_random() >> 1); break;
    case 3: proto_set_message(m, "finish"); break;
    default:
        inner = proto_set_message(m, "input");
        proto_set_str(inner, "id", word());
        random_parts(inner, true);
        break;
    }
    return m;
}

/* Everything that can be told of a message, from its protobuf and from the JSON that upb makes of it.
 * Both ways through two libraries have to come to the same. */
TEST(random_sessions_from_protobuf_are_those_from_json)
{
    uint32_t inputs = 0;

    for (uint32_t i = 0; i < 4000; i++) {
        struct text json;
        struct err err = { 0 };
        begin();
        struct proto_message *m = random_request("SessionRequest");
        struct slice bytes = encoded(m);
        text_init(&json, 1 << 20);
        require(proto_to_json(m, proto_builtin(), &json, &err) == OK);
        char *one = mem_strdup(read_as(SESSION, bytes));
        require(one != NULL);
        const char *other = read_as(JSON, text_slice(&json));
        inputs += penstock_pb_peek(bytes) == PENSTOCK_PB_INPUT;
        check(penstock_pb_peek(bytes) == penstock_pb_peek_json(text_slice(&json)), "%s",
              text_cstr(&json));
        /* Parameters are in the order of the bytes here and by key there. */
        check(strlen(one) == strlen(other) && strncmp(one, "kind", 4) == 0, "%s\n  %s\n  %s",
              text_cstr(&json), one, other);
        if (strstr(one, "=") == NULL)
            check(strcmp(one, other) == 0, "%s\n  %s\n  %s", text_cstr(&json), one, other);
        mem_free(one);
        text_deinit(&json);
        end();
    }
    check(inputs > 500, "only %u inputs", inputs);
}

/* What we take, upb takes; what it refuses, we refuse. */
TEST(changed_bytes_are_refused_where_upb_refuses_them)
{
    uint32_t taken = 0, refused = 0, stricter = 0;

    for (uint32_t i = 0; i < 20000; i++) {
        bool is_infer = test_random_below(2) == 0;
        struct proto_message *theirs = NULL;
        struct err err = { 0 };
        begin();
        struct slice bytes = encoded(random_request(is_infer ? "InferRequest" : "SessionRequest"));
        uint8_t *changed = arena_alloc(arena, bytes.size + 1);
        if (bytes.size != 0)
            memcpy(changed, bytes.data, bytes.size);
        size_t size = bytes.size;
        for (uint64_t n = 1 + test_random_below(3); n > 0 && size > 0; n--)
            changed[test_random_below(size)] = (uint8_t)test_random();
        if (test_random_below(4) == 0)
            size = (size_t)test_random_below(size + 1);
        const char *ours = read_as(is_infer ? INFER : SESSION, slice_make(changed, size));
        bool we_take = strncmp(ours, "kind", 4) == 0;
        bool they_take =
            proto_decode(&theirs, messages, type_of(is_infer ? "InferRequest" : "SessionRequest"),
                         slice_make(changed, size), &err) == OK;
        taken += we_take;
        refused += !they_take;
        stricter += !we_take && they_take;
        /* Lists are looked into when they become a tensor, those that another replaced are not. */
        bool is_values = strstr(ours, ":t.") != NULL || strstr(err.text, "s.values[") != NULL ||
                         ((strstr(err.text, "s (byte") != NULL ||
                           strstr(err.text, "bytes_list") != NULL || strstr(err.text, ".data") != NULL) &&
                          strstr(err.text, "UTF-8") == NULL);
        check(!we_take || they_take || is_values, "we took what upb refuses: %s\n  %s", err.text, ours);
        bool is_meant = strstr(ours, "wire type") != NULL || strstr(ours, "holds one message") != NULL ||
                        strstr(ours, "dimensions") != NULL ||
                        strstr(ours, "a field number of 0") != NULL; /* within a group */
        check(we_take || !they_take || is_meant, "upb takes what we refuse: %s", ours);
        end();
    }
    check(taken > 1000 && refused > 1000 && stricter > 50, "%u %u %u", taken, refused, stricter);
}

/* -- values -------------------------------------------------------------------------------------- */

static const struct {
    const char *list, *values; /* JSON */
    enum penstock_dtype dtype;
    uint64_t count;
    const char *hex, *words; /* hex NULL: refused with these words */
} value_cases[] = {
    { "int32s", "[1,-1]", PENSTOCK_INT8, 2, "01ff", NULL },
    { "int32s", "[127,128]", PENSTOCK_INT8, 2, NULL, "t.int32s.values[1]: 128 is out of range for INT8 (-128 to 127)" },
    { "uint32s", "[65535]", PENSTOCK_UINT16, 1, "ffff", NULL },
    { "uint32s", "[1,2,3,4,5,6,7,8,9,65536]", PENSTOCK_UINT16, 10, NULL, "values[9]: 65536" },
    { "floats", "[1,-2]", PENSTOCK_FP16, 2, "003c00c0", NULL },
    { "floats", "[1]", PENSTOCK_BF16, 1, "803f", NULL },
    { "floats", "[70000]", PENSTOCK_FP16, 1, NULL, "t.floats.values[0]: 70000 is out of range for FP16" },
    { "floats", "[\"Infinity\"]", PENSTOCK_FP16, 1, "007c", NULL },
    { "doubles", "[1]", PENSTOCK_FP64, 1, "000000000000f03f", NULL },
    { "floats", "[1]", PENSTOCK_FP64, 1, NULL, "t: the tensor is FP64 and its values come in 'floats'; use 'doubles' or 'raw'" },
    { "floats", "[1,2,3]", PENSTOCK_FP32, 4, NULL, "t.floats: it holds 3 elements, the shape has 4" },
    { "floats", "[1,2,3]", PENSTOCK_FP32, 2, NULL, "it holds 3 elements, the shape has 2" },
    { "floats", "[]", PENSTOCK_FP32, 0, "", NULL },
    { "bools", "[true,false]", PENSTOCK_BOOL, 2, "0100", NULL },
    { "strings", "[\"a\",\"\"]", PENSTOCK_BYTES, 2, "010000006100000000", NULL },
    { "bytesList", "[\"_w==\"]", PENSTOCK_BYTES, 1, "01000000ff", NULL },
    { "data", "[[1,2],[3,4]]", PENSTOCK_UINT8, 4, "01020304", NULL },
    { "data", "[300]", PENSTOCK_UINT8, 1, NULL, "t.data[0]" },
    { "data", "[\"a\"]", PENSTOCK_BYTES, 1, "0100000061", NULL },
    { "data", "[true]", PENSTOCK_BOOL, 1, "01", NULL },
};

/* Reads the one tensor of an input that is this list. */
static void check_values(size_t i, enum form form, struct slice message)
{
    struct penstock_pb_request request = { .kind = PENSTOCK_PB_NOTHING };
    const char *field;
    struct buf *holder = NULL;
    struct slice data = { NULL, 0 };
    struct err err = { 0 };
    struct text found;

    enum err_code code = form == JSON
                             ? penstock_pb_decode_json(&request, message, arena, &field, &err)
                             : penstock_pb_decode_session(&request, message, arena, &field, &err);
    check_or_stop(code == OK && request.inputs_count == 1, "%s: %s", value_cases[i].values, err.text);
    code = penstock_pb_values(&request.inputs[0], value_cases[i].dtype, value_cases[i].count, "t",
                              arena, NULL, &data, &holder, &err);
    text_init(&found, 1 << 16);
    put_hex(&found, data);
    if (value_cases[i].hex != NULL)
        check(code == OK && strcmp(text_cstr(&found), value_cases[i].hex) == 0, "%s %s as %s: %s %s",
              value_cases[i].list, value_cases[i].values, dtype_name(value_cases[i].dtype),
              text_cstr(&found), err.text);
    else /* JSON has its own words for what is in a list */
        check(code == E_INVALID && (form == JSON || strstr(err.text, value_cases[i].words) != NULL),
              "%s %s: %s\n  lacks %s", value_cases[i].list, value_cases[i].values, err.text,
              value_cases[i].words);
    text_deinit(&found);
    buf_unref(&holder);
}

TEST(values_of_each_dtype)
{
    for (size_t i = 0; i < COUNT(value_cases); i++) {
        char json[300];
        bool is_data = strcmp(value_cases[i].list, "data") == 0;
        begin();
        snprintf(json, sizeof json, "{\"input\":{\"inputs\":[{\"%s\":%s%s%s}]}}", value_cases[i].list,
                 is_data ? "" : "{\"values\":", value_cases[i].values, is_data ? "" : "}");
        check_values(i, JSON, slice_of(json));
        check_values(i, SESSION, encoded(from_json("SessionRequest", json)));
        end();
    }
}

TEST(integers_of_64_bits_may_be_strings)
{
    static const char json[] = "{\"input\":{\"inputs\":[{\"int64s\":{\"values\":[\"-9223372036854775808\","
                               "\"9223372036854775807\",5]}}]}}";
    struct penstock_pb_request request;
    struct buf *holder = NULL;
    struct slice data;
    const char *field;
    struct err err = { 0 };

    begin();
    require(penstock_pb_decode_json(&request, slice_of(json), arena, &field, &err) == OK);
    enum err_code code = penstock_pb_values(&request.inputs[0], PENSTOCK_INT64, 3, "t", arena, NULL,
                                            &data, &holder, &err);
    int64_t numbers[3] = { 0 };
    if (code == OK)
        memcpy(numbers, data.data, sizeof numbers);
    check(code == OK && numbers[0] == INT64_MIN && numbers[1] == INT64_MAX && numbers[2] == 5, "%s",
          err.text);
    struct penstock_pb_tensor words = { .list = PENSTOCK_PB_DATA,
                                        .is_json = true,
                                        .values = slice_of("[\"1,2\"]") };
    check(penstock_pb_values(&words, PENSTOCK_INT64, 2, "t", arena, NULL, &data, &holder, &err) ==
              E_INVALID,
          "a string of two numbers is none");
    end();
}

TEST(raw_lies_where_it_came_when_it_is_aligned)
{
    _Alignas(16) uint8_t bytes[24] = { 1, 2, 3 };
    struct penstock_pb_tensor t = { .list = PENSTOCK_PB_RAW, .values = { bytes, 8 } };
    struct buf *holder = NULL;
    struct slice data;
    struct err err = { 0 };

    begin();
    require(penstock_pb_values(&t, PENSTOCK_FP32, 2, "t", arena, NULL, &data, &holder, &err) == OK);
    check(data.data == bytes && holder == NULL, "it was copied");
    t.values = slice_make(bytes + 1, 8);
    require(penstock_pb_values(&t, PENSTOCK_FP32, 2, "t", arena, NULL, &data, &holder, &err) == OK);
    check(data.data != bytes + 1 && ((uintptr_t)data.data & 3) == 0 &&
              memcmp(data.data, bytes + 1, 8) == 0,
          "it was not copied");
    buf_unref(&holder);
    end();
}

/* Nested as deep as you like costs no stack. */
TEST(lists_in_lists_have_a_bound)
{
    begin();
    for (uint32_t depth = 90; depth < 110; depth += 5) {
        uint8_t memory[2000], *at = memory + sizeof memory;
        size_t size = 0;
        for (uint32_t i = 0; i < depth; i++) { /* ListValue { Value { list_value: ... } } */
            uint8_t head[16], *end_of = pb_put_head(head, 6, size);
            size_t head_size = (size_t)(end_of - head);
            at -= head_size;
            memcpy(at, head, head_size);
            size += head_size;
            end_of = pb_put_head(head, 1, size);
            head_size = (size_t)(end_of - head);
            at -= head_size;
            memcpy(at, head, head_size);
            size += head_size;
        }
        uint8_t message[2100], *to = message, tensor[2050], *t_end;
        t_end = pb_put_bytes(tensor, 14, slice_make(at, size));
        to = pb_put_bytes(to, 4, slice_make(tensor, (size_t)(t_end - tensor)));
        const char *found = read_as(INFER, slice_make(message, (size_t)(to - message)));
        check((depth > 99) == (strstr(found, "nested more than 100 deep") != NULL), "%u: %s", depth,
              found);
    }
    end();
}

/* -- answers ------------------------------------------------------------------------------------- */

static const int64_t dims[] = { -1, 3 };
static const struct penstock_pb_describe described[] = {
    { "y", PENSTOCK_FP32, 2, dims },
    { "label", PENSTOCK_BYTES, 1, dims },
};

static struct text written_json;

/* The message that penstock_pb_write makes of it, as upb's JSON. */
static const char *written(const struct penstock_pb_answer *a, const char *type, size_t copy_max,
                           uint32_t *ret_pieces)
{
    struct penstock_pb_heads *heads =
        penstock_pb_heads_new(described, 2, slice_of(strcmp(type, "InferResponse") == 0 ? "m" : ""),
                              slice_of(strcmp(type, "InferResponse") == 0 ? "1" : ""), arena);
    struct penstock_pb_piece pieces[9];
    struct proto_message *m = NULL;
    struct text bytes;
    struct err err = { 0 };
    uint32_t most;
    size_t used;

    size_t bound = penstock_pb_bound(heads, a, copy_max, &most);
    uint8_t *memory = mem_alloc(bound);
    require(memory != NULL && most <= COUNT(pieces));
    uint32_t count = penstock_pb_write(heads, a, copy_max, memory, pieces, &used);
    check(count <= most && used <= bound, "%u of %u pieces, %zu of %zu bytes", count, most, used,
          bound);
    text_init(&bytes, 1 << 20);
    for (uint32_t i = 0; i < count; i++)
        text_slice_put(&bytes, pieces[i].bytes);
    enum err_code code = proto_decode(&m, messages, type_of(type), text_slice(&bytes), &err);
    check(code == OK, "%s", err.text);
    text_deinit(&written_json);
    text_init(&written_json, 1 << 20);
    if (code == OK)
        require(proto_to_json(m, proto_builtin(), &written_json, &err) == OK);
    text_deinit(&bytes);
    mem_free(memory);
    if (ret_pieces != NULL)
        *ret_pieces = count;
    return text_cstr(&written_json);
}

static const float floats[] = { 1, 2.5f, NAN };
static const int64_t shape[] = { 1, 3 };
static const struct penstock_pb_output outputs[] = {
    { 0, 2, shape, { (const uint8_t *)floats, sizeof floats }, NULL },
    { 1, 1, shape, SLICE_LIT("\2\0\0\0ok"), NULL },
};
static const struct penstock_pb_mark marks[] = { { "speech", true, 512, 0.75 },
                                                 { "speech", false, 0, 0.25 } };

static const struct {
    struct penstock_pb_answer answer;
    const char *type, *json, *ours;
} answers[] = {
    { { .kind = PENSTOCK_PB_INFERRED, .sequence = 3, .id = SLICE_LIT("i"), .outputs = outputs,
        .outputs_count = 1, .merged = 2, .is_last = true },
      "InferResponse",
      "{\"model\":\"m\",\"version\":\"1\",\"id\":\"i\",\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\","
      "\"shape\":[\"1\",\"3\"],\"raw\":\"AACAPwAAIEAAAMB/\"}],\"sequence\":\"3\",\"merged\":\"2\","
      "\"isFinal\":true}",
      NULL },
    { { .kind = PENSTOCK_PB_OUTPUT, .sequence = 4, .input = 2, .outputs = outputs,
        .outputs_count = 2, .marks = marks, .marks_count = 2, .is_last = true },
      "SessionResponse",
      "{\"sequence\":\"4\",\"output\":{\"input\":\"2\",\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\","
      "\"shape\":[\"1\",\"3\"],\"raw\":\"AACAPwAAIEAAAMB/\"},{\"name\":\"label\",\"datatype\":\"BYTES\","
      "\"shape\":[\"1\"],\"raw\":\"AgAAAG9r\"}],\"marks\":[{\"name\":\"speech\",\"isStart\":true,"
      "\"row\":\"512\",\"score\":0.75},{\"name\":\"speech\",\"score\":0.25}],\"isLast\":true}}",
      "{\"sequence\":4,\"output\":{\"input\":2,\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":"
      "[1,3],\"data\":[1.0,2.5,\"NaN\"]},{\"name\":\"label\",\"datatype\":\"BYTES\",\"shape\":[1],\"data\":"
      "[\"ok\"]}],\"marks\":[{\"name\":\"speech\",\"isStart\":true,\"row\":512,\"score\":0.75},{\"name\":"
      "\"speech\",\"isStart\":false,\"row\":0,\"score\":0.25}],\"isLast\":true}}" },
    { { .kind = PENSTOCK_PB_BEGUN, .sequence = 1, .model = SLICE_LIT("m"), .version = SLICE_LIT("1"),
        .inputs_at_once = 16, .received = 5, .takes = described, .takes_count = 1, .gives = described + 1,
        .gives_count = 1 },
      "SessionResponse",
      "{\"sequence\":\"1\",\"begun\":{\"model\":\"m\",\"version\":\"1\",\"inputsAtOnce\":\"16\",\"inputs\":[{"
      "\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[\"-1\",\"3\"]}],\"outputs\":[{\"name\":\"label\","
      "\"datatype\":\"BYTES\",\"shape\":[\"-1\"]}],\"received\":\"5\"}}",
      "{\"sequence\":1,\"begun\":{\"model\":\"m\",\"version\":\"1\",\"inputsAtOnce\":16,\"inputs\":[{\"name\":"
      "\"y\",\"datatype\":\"FP32\",\"shape\":[-1,3]}],\"outputs\":[{\"name\":\"label\",\"datatype\":\"BYTES\","
      "\"shape\":[-1]}],\"received\":5}}" },
    { { .kind = PENSTOCK_PB_ANSWERED, .sequence = 7, .input = 9, .id = SLICE_LIT("a"), .code = E_INVALID,
        .message = SLICE_LIT("no"), .field = SLICE_LIT("f") },
      "SessionResponse",
      "{\"sequence\":\"7\",\"answered\":{\"input\":\"9\",\"id\":\"a\",\"code\":3,\"message\":\"no\",\"field\":"
      "\"f\"}}",
      "{\"sequence\":7,\"answered\":{\"input\":9,\"id\":\"a\",\"code\":3,\"message\":\"no\",\"field\":\"f\"}}" },
    { { .kind = PENSTOCK_PB_INTERRUPTED, .sequence = 8, .input = 5 },
      "SessionResponse", "{\"sequence\":\"8\",\"interrupted\":{\"request\":\"5\"}}",
      "{\"sequence\":8,\"interrupted\":{\"request\":5}}" },
    { { .kind = PENSTOCK_PB_END, .sequence = 300 },
      "SessionResponse", "{\"sequence\":\"300\",\"end\":{}}", "{\"sequence\":300,\"end\":{}}" },
};

TEST(answers_are_what_upb_reads)
{
    for (size_t i = 0; i < COUNT(answers); i++) {
        begin();
        const char *found = written(&answers[i].answer, answers[i].type, 1024, NULL);
        check(strcmp(found, answers[i].json) == 0, "\n  got  %s\n  want %s", found, answers[i].json);
        uint32_t pieces;
        char *cut = mem_strdup(written(&answers[i].answer, answers[i].type, 0, &pieces));
        check(strcmp(cut, answers[i].json) == 0, "in %u pieces: %s", pieces, cut);
        check(pieces == (answers[i].answer.outputs_count == 0
                             ? 1
                             : 2 * answers[i].answer.outputs_count +
                                   (answers[i].answer.is_last || answers[i].answer.marks_count != 0)),
              "%u pieces", pieces);
        mem_free(cut);
        end();
    }
    text_deinit(&written_json);
}

/* The JSON is protobuf's mapping: upb reads it, and says the same but for how the values travel. */
TEST(answers_as_json)
{
    for (size_t i = 0; i < COUNT(answers); i++) {
        struct text out;
        struct err err = { 0 };
        if (answers[i].ours == NULL)
            continue;
        begin();
        text_init(&out, 1 << 16);
        enum err_code code =
            penstock_pb_write_json(&out, described, &answers[i].answer, false, &err);
        check(code == OK && strcmp(text_cstr(&out), answers[i].ours) == 0, "\n  got  %s\n  want %s",
              text_cstr(&out), answers[i].ours);
        struct proto_message *m = from_json("SessionResponse", text_cstr(&out));
        check(proto_get_u64(m, "sequence") == answers[i].answer.sequence, "sequence");
        out.size = 0;
        require(penstock_pb_write_json(&out, described, &answers[i].answer, true, &err) == OK);
        check(strstr(text_cstr(&out), "data\":") == NULL, "%s", text_cstr(&out));
        text_deinit(&out);
        end();
    }
}

TEST(bytes_that_are_no_text_are_told)
{
    static const struct penstock_pb_output output = { 1, 1, shape, SLICE_LIT("\1\0\0\0\xff"), NULL };
    struct penstock_pb_answer a = { .kind = PENSTOCK_PB_OUTPUT, .outputs = &output, .outputs_count = 1 };
    struct text out;
    struct err err = { 0 };

    text_init(&out, 1 << 16);
    check(penstock_pb_write_json(&out, described, &a, false, &err) == E_INVALID &&
              strstr(err.text, "UTF-8") != NULL,
          "%s", err.text);
    text_deinit(&out);
}

/* Memory that runs out is an answer, wherever it does. */
TEST(every_fault_is_an_answer)
{
    static const char json[] = "{\"input\":{\"id\":\"a\",\"inputs\":[{\"name\":\"\\u0061\",\"floats\":{"
                               "\"values\":[1]}},{\"name\":\"b\",\"raw\":\"AAAA\"}],\"parameters\":{\"k\":{"
                               "\"int64Value\":1}}}}";

    begin();
    struct slice bytes = encoded(from_json("SessionRequest", json));
    for (size_t cap = 1; cap < 4096; cap += 16) {
        struct penstock_pb_request request;
        struct err err = { 0 };
        struct arena *small = arena_new(16, cap);
        require(small != NULL);
        enum err_code code = penstock_pb_decode_session(&request, bytes, small, NULL, &err);
        check(code == OK || (code == E_EXHAUSTED && err.text[0] != '\0'), "%zu: %s", cap, err.text);
        code = penstock_pb_decode_json(&request, slice_of(json), small, NULL, &err);
        check(code == OK || (code == E_EXHAUSTED && err.text[0] != '\0'), "%zu: %s", cap, err.text);
        arena_free(&small);
    }
    end();
}
