/* kserve_message_test.c - ModelInferRequest and ModelInferResponse joined to a model, clause by clause, and
 * bit by bit against the REST forms of the same request (docs: KServe V2 gRPC, Triton's
 * infer_handler). SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "api/kserve.h"
#include "api/pb_build.h"
#include "base/arena.h"
#include "base/budget.h"
#include "base/buf.h"
#include "base/mem.h"
#include "codec/kserve_pb.h"
#include "contract/test_models.h"
#include "model/dtype.h"
#include "test/harness.h"

/* One message read against one plan, and what came of it. */
struct reading {
    struct arena *arena;
    struct kserve_plan *plan;
    struct kserve_pb_request pb;
    struct kserve_request request;
    struct penstock_tensor inputs[16];
    bool has[16];
    enum err_code code;
    struct err err;
    const char *field;
};

static struct kserve_memory memory_of(const struct reading *r)
{
    return (struct kserve_memory){ r->arena, NULL };
}

static void open_reading(struct reading *r, const struct signature *signature)
{
    memset(r, 0, sizeof *r);
    r->arena = arena_new(8192, 16 << 20);
    r->plan = kserve_plan_new("iris", "1", signature);
    require(r->arena != NULL && r->plan != NULL);
}

static void close_reading(struct reading *r)
{
    arena_free(&r->arena);
    kserve_plan_free(r->plan);
}

/* A copy of exactly that size, `lead` bytes past a line of memory. */
static struct slice copy_of(struct reading *r, struct slice message, size_t lead)
{
    uint8_t *copy = mem_alloc(message.size + lead + 1);
    struct buf *buf = NULL;

    require(copy != NULL && buf_adopt(&buf, copy, 0, test_release, NULL, NULL) == OK &&
            arena_adopt(r->arena, &buf));
    memcpy(copy + lead, message.data, message.size);
    return slice_make(copy + lead, message.size);
}

static void read_message(struct reading *r, struct slice message)
{
    memset(r->has, 0, sizeof r->has);
    r->err = (struct err){ 0 };
    r->field = NULL;
    message = copy_of(r, message, 0);
    r->code = kserve_pb_decode(&r->pb, message, r->arena, &r->field, &r->err);
    if (r->code == OK)
        r->code = kserve_read_pb(&r->request, (struct kserve_inputs){ r->inputs, r->has }, r->plan,
                                 &r->pb, memory_of(r), &r->field, &r->err);
}

static const float iris_row[] = { 5.1f, 3.5f, 1.4f, 0.2f };

/* model_name, and the input with its row: raw, or as contents. */
static void build_iris(struct text *out, bool is_raw)
{
    static const int64_t shape[] = { 1, 4 };
    struct text input, contents;

    text_init(&input, 1 << 16);
    text_init(&contents, 1 << 16);
    build_str(out, 1, "iris");
    build_input(&input, "input", "FP32", 2, shape);
    pb_text_bytes(&contents, 6, slice_make(iris_row, sizeof iris_row));
    if (!is_raw)
        build_message(&input, 5, &contents);
    build_message(out, 5, &input);
    if (is_raw)
        pb_text_bytes(out, 7, slice_make(iris_row, sizeof iris_row));
    text_deinit(&input);
    text_deinit(&contents);
}

TEST(pb_reads_an_input)
{
    for (int is_raw = 0; is_raw < 2; is_raw++) {
        struct reading r;
        struct text message;
        text_init(&message, 1 << 16);
        build_str(&message, 3, "request-7");
        build_iris(&message, is_raw);
        open_reading(&r, test_iris());
        read_message(&r, text_slice(&message));
        check(r.code == OK && r.field == NULL, "%s", r.err.text);
        const struct penstock_tensor *t = &r.inputs[0];
        check(r.code == OK && r.has[0] && t->dtype == PENSTOCK_FP32 && t->rank == 2 &&
                  t->shape[0] == 1 && t->shape[1] == 4 && t->size == sizeof iris_row &&
                  memcmp(t->data, iris_row, sizeof iris_row) == 0 && ((uintptr_t)t->data & 3) == 0,
              "the row, raw %d", is_raw);
        check(slice_is(r.request.id, "request-7") && strcmp(r.request.id_text, "request-7") == 0 &&
                  slice_is(r.pb.model_name, "iris"),
              "names");
        check(r.request.order_count == 2 && r.request.order[0] == 0 && r.request.order[1] == 1 &&
                  r.request.outputs[0].is_binary && r.request.outputs[1].is_binary,
              "all outputs");
        text_deinit(&message);
        close_reading(&r);
    }
}

/* In place when aligned, else a copy that is. */
TEST(pb_uses_raw_tensors_where_they_lie)
{
    for (size_t lead = 0; lead < 8; lead++) {
        struct reading r;
        struct text text;
        text_init(&text, 1 << 16);
        build_iris(&text, true);
        open_reading(&r, test_iris());
        struct slice message = copy_of(&r, text_slice(&text), lead);
        r.code = kserve_pb_decode(&r.pb, message, r.arena, &r.field, &r.err);
        check_or_stop(r.code == OK, "%s", r.err.text);
        r.code = kserve_read_pb(&r.request, (struct kserve_inputs){ r.inputs, r.has }, r.plan,
                                &r.pb, memory_of(&r), &r.field, &r.err);
        check_or_stop(r.code == OK, "%s", r.err.text);
        const uint8_t *raw = message.data + message.size - sizeof iris_row;
        bool is_in_place = r.inputs[0].data == raw;
        check(is_in_place == (((uintptr_t)raw & 3) == 0), "lead %zu", lead);
        check(((uintptr_t)r.inputs[0].data & 3) == 0 &&
                  memcmp(r.inputs[0].data, iris_row, sizeof iris_row) == 0,
              "lead %zu", lead);
        text_deinit(&text);
        close_reading(&r);
    }
}

/* -- every dtype, by every way: the same bits as REST --------------------------------------------- */

static const struct {
    enum penstock_dtype dtype;
    const char *json;  /* NULL: JSON has a form that is not tried here */
    const char *bytes; /* of the three elements */
    size_t size;
    uint32_t field; /* of InferTensorContents; 0: there is none */
    uint64_t values[3];
} kinds[] = {
    { PENSTOCK_BOOL, "[true,false,true]", "\1\0\1", 3, 1, { 1, 0, 1 } },
    { PENSTOCK_UINT8, "[1,128,255]", "\x01\x80\xff", 3, 4, { 1, 128, 255 } },
    { PENSTOCK_UINT16, "[1,256,65535]", "\1\0\0\1\xff\xff", 6, 4, { 1, 256, 65535 } },
    { PENSTOCK_UINT32,
      "[1,256,4294967295]",
      "\1\0\0\0\0\1\0\0\xff\xff\xff\xff",
      12,
      4,
      { 1, 256, UINT32_MAX } },
    { PENSTOCK_UINT64,
      "[1,0,18446744073709551615]",
      "\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
      24,
      5,
      { 1, 0, UINT64_MAX } },
    { PENSTOCK_INT8, "[1,-1,-128]", "\x01\xff\x80", 3, 2, { 1, UINT64_MAX, (uint64_t)-128 } },
    { PENSTOCK_INT16,
      "[1,-1,-32768]",
      "\1\0\xff\xff\x00\x80",
      6,
      2,
      { 1, UINT64_MAX, (uint64_t)-32768 } },
    { PENSTOCK_INT32,
      "[1,-1,-2147483648]",
      "\1\0\0\0\xff\xff\xff\xff\0\0\0\x80",
      12,
      2,
      { 1, UINT64_MAX, (uint64_t)INT32_MIN } },
    { PENSTOCK_INT64,
      "[1,-1,-9223372036854775808]",
      "\1\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x80",
      24,
      3,
      { 1, UINT64_MAX, (uint64_t)INT64_MIN } },
    { PENSTOCK_FP16, "[1,-2,0]", "\x00\x3c\x00\xc0\x00\x00", 6, 0, { 0 } },
    { PENSTOCK_BF16, "[1,-2,0]", "\x80\x3f\x00\xc0\x00\x00", 6, 0, { 0 } },
    { PENSTOCK_FP32,
      "[1,-2,3.4028235e38]",
      "\0\0\x80\x3f\0\0\0\xc0\xff\xff\x7f\x7f",
      12,
      6,
      { 0x3f800000, 0xc0000000, 0x7f7fffff } },
    { PENSTOCK_FP64,
      "[1,-2,5e-324]",
      "\0\0\0\0\0\0\xf0\x3f\0\0\0\0\0\0\0\xc0\1\0\0\0\0\0\0\0",
      24,
      7,
      { 0x3ff0000000000000, 0xc000000000000000, 1 } },
    { PENSTOCK_BYTES,
      "[\"a\",\"\",\"\\u00e9\"]",
      "\1\0\0\0a\0\0\0\0\2\0\0\0\xc3\xa9",
      15,
      8,
      { 0 } },
};

/* is_packed: as every client writes it; else element by element, which is as right. */
static void build_contents(struct text *out, size_t k, bool is_packed)
{
    struct text packed;
    uint8_t bytes[16];

    text_init(&packed, 1 << 16);
    for (size_t i = 0; i < 3; i++) {
        uint64_t value = kinds[k].values[i];
        if (kinds[k].field == 8) {
            static const char *const words[] = { "a", "", "\xc3\xa9" };
            build_str(out, 8, words[i]);
        } else if (kinds[k].field == 6) {
            if (!is_packed)
                text_put(out, bytes, (size_t)(pb_put_i32(bytes, 6, (uint32_t)value) - bytes));
            text_put(&packed, &value, 4);
        } else if (kinds[k].field == 7) {
            if (!is_packed)
                text_put(out, bytes, (size_t)(pb_put_i64(bytes, 7, value) - bytes));
            text_put(&packed, &value, 8);
        } else {
            if (!is_packed)
                pb_text_uint(out, kinds[k].field, value);
            text_put(&packed, bytes, (size_t)(pb_put_varint(bytes, value) - bytes));
        }
    }
    if (is_packed && kinds[k].field != 8)
        pb_text_bytes(out, kinds[k].field, text_slice(&packed));
    text_deinit(&packed);
}

static struct signature *signature_of(enum penstock_dtype dtype)
{
    static struct signature_tensor input = { .name = "x", .rank = 1, .dims = { 3 }, NO_LIMITS };
    static struct signature_tensor output = { .name = "y", .rank = 1, .dims = { -1 }, NO_LIMITS };
    static struct signature signature = {
        .inputs_count = 1, .outputs_count = 1, .inputs = &input, .outputs = &output
    };

    input.dtype = output.dtype = dtype;
    return &signature;
}

static void read_json(struct reading *r, size_t k)
{
    char body[256];

    snprintf(body, sizeof body,
             "{\"inputs\":[{\"name\":\"x\",\"shape\":[3],\"datatype\":\"%s\",\"data\":%s}]}",
             dtype_name(kinds[k].dtype), kinds[k].json);
    struct slice text = copy_of(r, slice_of(body), 0);
    r->code = kserve_read(&r->request, (struct kserve_inputs){ r->inputs, r->has }, r->plan, text,
                          false, 0, memory_of(r), &r->err);
}

TEST(pb_reads_every_dtype_as_rest_does)
{
    static const int64_t shape[] = { 3 };

    for (size_t k = 0; k < COUNT(kinds); k++) {
        const char *name = dtype_name(kinds[k].dtype);
        struct reading rest;
        open_reading(&rest, signature_of(kinds[k].dtype));
        read_json(&rest, k);
        check(rest.code == OK, "%s: %s", name, rest.err.text);
        for (int way = 0; way < 3; way++) { /* raw, packed contents, contents one by one */
            struct reading r;
            struct text message, input, contents;
            text_init(&message, 1 << 16);
            text_init(&input, 1 << 16);
            text_init(&contents, 1 << 16);
            build_input(&input, "x", name, 1, shape);
            if (way != 0) {
                build_contents(&contents, k, way == 1);
                build_message(&input, 5, &contents);
            }
            build_message(&message, 5, &input);
            if (way == 0)
                pb_text_bytes(&message, 7, slice_make(kinds[k].bytes, kinds[k].size));
            open_reading(&r, signature_of(kinds[k].dtype));
            read_message(&r, text_slice(&message));
            if (way != 0 && kinds[k].field == 0) {
                check(r.code == E_INVALID && strstr(r.err.text, name) != NULL, "%s: %s %s", name,
                      err_name(r.code), r.err.text);
            } else {
                check(r.code == OK, "%s by way %d: %s", name, way, r.err.text);
                check(r.code == OK && rest.code == OK && r.inputs[0].size == rest.inputs[0].size &&
                          r.inputs[0].size == kinds[k].size &&
                          memcmp(r.inputs[0].data, rest.inputs[0].data, r.inputs[0].size) == 0,
                      "%s by way %d differs from REST's", name, way);
            }
            text_deinit(&message);
            text_deinit(&input);
            text_deinit(&contents);
            close_reading(&r);
        }
        close_reading(&rest);
    }
}

/* -- refusals --------------------------------------------------------------------------------------- */

enum {
    IRIS_RAW = 1,      /* the row, raw */
    IRIS_CONTENTS = 2, /* the row, as contents */
    MORE_RAW = 4,      /* one entry too many */
    TWICE = 8,
    NO_DATA = 16, /* an input without data */
};

static const struct {
    const char *what;
    unsigned parts;
    /* a parameter: of the request (4), of the input (104), of the output (202) */
    uint32_t where, kind;
    const char *key;
    uint64_t value;
    const char *str;
    /* an input's members */
    const char *name, *datatype;
    int64_t dim;
    const char *output; /* asked for, twice when it ends in '!' */
    enum err_code code;
    const char *words, *field;
} refusals[] = {
    { .what = "contents and raw together",
      .parts = IRIS_CONTENTS | MORE_RAW,
      .code = E_INVALID,
      .words = "contents field must not be specified when using raw_input_contents for 'input' for "
               "model 'iris'",
      .field = "inputs[0].contents" },
    { .what = "neither",
      .parts = NO_DATA,
      .code = E_INVALID,
      .words = "unable to find data for input tensor 'input' for model 'iris' in request.",
      .field = "inputs[0].contents" },
    { .what = "more raw entries than inputs",
      .parts = IRIS_RAW | MORE_RAW,
      .code = E_INVALID,
      .words =
          "unexpected additional input data for model 'iris': raw_input_contents has 2 entries, "
          "the request has 1 inputs",
      .field = "raw_input_contents[1]" },
    { .what = "an input twice",
      .parts = IRIS_RAW | TWICE,
      .code = E_INVALID,
      .words = "input 'input' is given twice",
      .field = "inputs[1].name" },
    { .what = "an unknown input",
      .parts = IRIS_RAW,
      .name = "imput",
      .code = E_INVALID,
      .words = "unexpected inference input 'imput' for model 'iris'; it takes 'input'",
      .field = "inputs[0].name" },
    { .what = "no datatype",
      .parts = IRIS_RAW,
      .datatype = "",
      .code = E_INVALID,
      .words = "input 'input' has no 'datatype'; it takes \"FP32\"",
      .field = "inputs[0].datatype" },
    { .what = "no such datatype",
      .parts = IRIS_RAW,
      .datatype = "FP33",
      .code = E_INVALID,
      .words = "inputs[0].datatype: 'FP33' is not a datatype; the datatypes are BOOL",
      .field = "inputs[0].datatype" },
    { .what = "another datatype",
      .parts = IRIS_RAW,
      .datatype = "INT32",
      .code = E_INVALID,
      .words = "input 'input' has datatype INT32; the model takes FP32",
      .field = "inputs[0].datatype" },
    { .what = "a negative dimension",
      .parts = IRIS_RAW,
      .dim = -1,
      .code = E_INVALID,
      .words = "inputs[0].shape: dimension 0 is -1; it must be 0 or more",
      .field = "inputs[0].shape" },
    { .what = "too many elements",
      .parts = IRIS_RAW,
      .dim = INT64_MAX,
      .code = E_INVALID,
      .words = "inputs[0].shape: too many elements",
      .field = "inputs[0].shape" },
    { .what = "contents that are too few",
      .parts = IRIS_CONTENTS,
      .dim = 2,
      .code = E_INVALID,
      .words = "input 'input'",
      .field = "inputs[0].contents" },
    { .what = "an unknown output",
      .parts = IRIS_RAW,
      .output = "lable",
      .code = E_INVALID,
      .words = "unexpected inference output 'lable' for model 'iris'; it gives 'label'",
      .field = "outputs[0].name" },
    { .what = "an output twice",
      .parts = IRIS_RAW,
      .output = "label!",
      .code = E_INVALID,
      .words = "output 'label' is requested twice",
      .field = "outputs[1].name" },
    { .what = "shared memory in",
      .parts = NO_DATA,
      .where = 104,
      .kind = 3,
      .key = "shared_memory_region",
      .str = "r",
      .code = E_UNIMPLEMENTED,
      .words = "inputs[0]: client shared memory is not offered by this server; send tensors in "
               "raw_input_contents",
      .field = "inputs[0].parameters" },
    { .what = "shared memory out",
      .parts = IRIS_RAW,
      .output = "label",
      .where = 202,
      .kind = 2,
      .key = "shared_memory_byte_size",
      .value = 8,
      .code = E_UNIMPLEMENTED,
      .words = "outputs[0]: client shared memory is not offered",
      .field = "outputs[0].parameters" },
    { .what = "classes by name",
      .parts = IRIS_RAW,
      .output = "probabilities",
      .where = 202,
      .kind = 3,
      .key = "classification",
      .str = "2",
      .code = E_INVALID,
      .words = "invalid value type for 'classification' parameter, expected int64_param.",
      .field = "outputs[0].parameters" },
    { .what = "fewer classes than none",
      .parts = IRIS_RAW,
      .output = "probabilities",
      .where = 202,
      .kind = 2,
      .key = "classification",
      .value = (uint64_t)-2,
      .code = E_INVALID,
      .words = "outputs[0].parameters: 'classification' is -2",
      .field = "outputs[0].parameters" },
    { .what = "timeout of another kind",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 3,
      .key = "timeout",
      .str = "1",
      .code = E_INVALID,
      .words = "invalid value type for 'timeout' parameter, expected int64_param.",
      .field = "parameters.timeout" },
    { .what = "negative timeout",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 2,
      .key = "timeout",
      .value = (uint64_t)-1,
      .code = E_INVALID,
      .words = "parameters: 'timeout' is -1; it takes a whole number, 0 or more",
      .field = "parameters.timeout" },
    { .what = "priority of another kind",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 1,
      .key = "priority",
      .value = 1,
      .code = E_INVALID,
      .words = "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
      .field = "parameters.priority" },
    { .what = "a sequence by number",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 5,
      .key = "sequence_id",
      .value = 3,
      .code = E_UNIMPLEMENTED,
      .words = "sequences are not built yet",
      .field = "parameters.sequence_id" },
    { .what = "a sequence by name",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 3,
      .key = "sequence_id",
      .str = "s",
      .code = E_UNIMPLEMENTED,
      .words = "sequences are not built yet",
      .field = "parameters.sequence_id" },
    { .what = "a sequence's start as a number",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 2,
      .key = "sequence_start",
      .value = 1,
      .code = E_INVALID,
      .words = "invalid value type for 'sequence_start' parameter, expected bool_param.",
      .field = "parameters.sequence_start" },
    { .what = "a reserved key",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 1,
      .key = "triton_final_response",
      .value = 1,
      .code = E_INVALID,
      .words =
          "parameter keys starting with 'triton_' are reserved for Triton usage and should not "
          "be specified.",
      .field = "parameters.triton_final_response" },
    { .what = "headers",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 3,
      .key = "headers",
      .str = "",
      .code = E_INVALID,
      .words = "parameter 'headers' is reserved",
      .field = "parameters.headers" },
    { .what = "a parameter without a value",
      .parts = IRIS_RAW,
      .where = 4,
      .kind = 0,
      .key = "k",
      .code = E_INVALID,
      .words = "parameters: 'k' has no value; it takes one of bool_param",
      .field = "parameters.k" },
};

static void build_refusal(struct text *out, size_t k)
{
    int64_t shape[] = { refusals[k].dim != 0 ? refusals[k].dim : 1, 4 };
    struct text message;

    text_init(&message, 1 << 16);
    build_str(out, 1, "iris");
    if (refusals[k].where == 4)
        build_parameter(out, 4, refusals[k].key, refusals[k].kind, refusals[k].value,
                        refusals[k].str);
    for (int i = 0; i < ((refusals[k].parts & TWICE) != 0 ? 2 : 1); i++) {
        build_input(&message, refusals[k].name != NULL ? refusals[k].name : "input",
                    refusals[k].datatype != NULL ? refusals[k].datatype : "FP32", 2, shape);
        if (refusals[k].where == 104)
            build_parameter(&message, 4, refusals[k].key, refusals[k].kind, refusals[k].value,
                            refusals[k].str);
        if ((refusals[k].parts & IRIS_CONTENTS) != 0) {
            struct text contents;
            text_init(&contents, 1 << 16);
            pb_text_bytes(&contents, 6, slice_make(iris_row, sizeof iris_row));
            build_message(&message, 5, &contents);
            text_deinit(&contents);
        }
        build_message(out, 5, &message);
    }
    if (refusals[k].output != NULL) {
        bool is_twice = refusals[k].output[strlen(refusals[k].output) - 1] == '!';
        struct slice name =
            slice_first(slice_of(refusals[k].output), strlen(refusals[k].output) - is_twice);
        for (int i = 0; i <= is_twice; i++) {
            pb_text_bytes(&message, 1, name);
            if (refusals[k].where == 202)
                build_parameter(&message, 2, refusals[k].key, refusals[k].kind, refusals[k].value,
                                refusals[k].str);
            build_message(out, 6, &message);
        }
    }
    if ((refusals[k].parts & IRIS_RAW) != 0)
        pb_text_bytes(out, 7, slice_make(iris_row, sizeof iris_row));
    if ((refusals[k].parts & MORE_RAW) != 0)
        pb_text_bytes(out, 7, slice_make(iris_row, sizeof iris_row));
    text_deinit(&message);
}

TEST(pb_refusals)
{
    for (size_t k = 0; k < COUNT(refusals); k++) {
        struct reading r;
        struct text message;
        text_init(&message, 1 << 16);
        build_refusal(&message, k);
        open_reading(&r, test_iris());
        read_message(&r, text_slice(&message));
        check(r.code == refusals[k].code && strstr(r.err.text, refusals[k].words) != NULL,
              "%s: %s: %s", refusals[k].what, err_name(r.code), r.err.text);
        check(r.field != NULL && strcmp(r.field, refusals[k].field) == 0, "%s: field %s",
              refusals[k].what, r.field != NULL ? r.field : "none");
        text_deinit(&message);
        close_reading(&r);
    }
}

/* Cut anywhere, it is refused or means something else; the tensor is never more than what came. */
TEST(pb_takes_nothing_from_behind_its_end)
{
    struct text message;

    text_init(&message, 1 << 16);
    build_iris(&message, true);
    for (size_t size = 0; size < message.size; size++) {
        struct reading r;
        open_reading(&r, test_iris());
        read_message(&r, slice_first(text_slice(&message), size));
        check(r.code == E_INVALID || (r.code == OK && size < message.size - sizeof iris_row),
              "%zu bytes: %s %s", size, err_name(r.code), r.err.text);
        close_reading(&r);
    }
    text_deinit(&message);
}

TEST(pb_parameters)
{
    static const struct {
        const char *key;
        uint32_t kind;
        uint64_t value;
        const char *str;
        bool is_custom;
        enum parameter_kind as;
        const char *text;
    } good[] = {
        { "timeout", 2, 1500, NULL, false, 0, NULL },
        { "priority", 5, 2, NULL, false, 0, NULL },
        { "sequence_id", 2, 0, NULL, false, 0, NULL },
        { "sequence_id", 5, 0, NULL, false, 0, NULL },
        { "sequence_id", 3, 0, "", false, 0, NULL },
        { "sequence_end", 1, 0, NULL, false, 0, NULL },
        { "triton_enable_empty_final_response", 1, 1, NULL, false, 0, NULL },
        { "flag", 1, 1, NULL, true, PARAMETER_BOOL, "true" },
        { "count", 2, (uint64_t)-3, NULL, true, PARAMETER_INT, "-3" },
        { "big", 5, UINT64_MAX, NULL, true, PARAMETER_UINT, "18446744073709551615" },
        { "word", 3, 0, "caf\xc3\xa9", true, PARAMETER_STRING, "caf\xc3\xa9" },
        { "half", 4, 0x3fe0000000000000, NULL, true, PARAMETER_DOUBLE, "0.5" },
    };

    for (size_t k = 0; k < COUNT(good); k++) {
        struct reading r;
        struct text message;
        text_init(&message, 1 << 16);
        build_iris(&message, true);
        build_parameter(&message, 4, good[k].key, good[k].kind, good[k].value, good[k].str);
        open_reading(&r, test_iris());
        read_message(&r, text_slice(&message));
        check(r.code == OK, "%s: %s", good[k].key, r.err.text);
        const struct parameter *p = r.request.parameters;
        check((p != NULL) == good[k].is_custom, "%s: custom", good[k].key);
        check(p == NULL || (p->next == NULL && strcmp(p->key, good[k].key) == 0 &&
                            p->kind == good[k].as && strcmp(p->text, good[k].text) == 0),
              "%s is %s", good[k].key, p != NULL ? p->text : "");
        check(r.request.timeout_us == (k == 0 ? 1500 : 0) && r.request.priority == (k == 1 ? 2 : 0),
              "%s: taken", good[k].key);
        text_deinit(&message);
        close_reading(&r);
    }
}

/* -- answers ------------------------------------------------------------------------------------- */

static const int64_t label_data[] = { 2 };
static const float probability_data[] = { 0.9815f, 0.0184f, 1e-7f };

static void fill_iris(struct response_output outputs[2])
{
    outputs[0] = (struct response_output){ true,
                                           { .name = "label",
                                             .dtype = PENSTOCK_INT64,
                                             .rank = 1,
                                             .shape = { 1 },
                                             .data = label_data,
                                             .size = sizeof label_data } };
    outputs[1] = (struct response_output){ true,
                                           { .name = "probabilities",
                                             .dtype = PENSTOCK_FP32,
                                             .rank = 2,
                                             .shape = { 1, 3 },
                                             .data = probability_data,
                                             .size = sizeof probability_data } };
}

/* The pieces one after the other. */
static struct slice join(struct reading *r, const struct kserve_pb_piece *pieces, uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += pieces[i].bytes.size;
    uint8_t *all = arena_alloc(r->arena, size + 1);
    require(all != NULL);
    size = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (pieces[i].bytes.size != 0)
            memcpy(all + size, pieces[i].bytes.data, pieces[i].bytes.size);
        size += pieces[i].bytes.size;
    }
    return slice_make(all, size);
}

struct result {
    struct slice name, datatype, raw;
    int64_t shape[4];
    uint32_t rank;
};

static struct result read_result(struct slice message)
{
    struct result ret = { .rank = 0 };
    struct pb_reader r, dims;
    struct pb_field f;
    uint64_t dim;

    pb_begin(&r, message);
    while (pb_next(&r, &f)) {
        check(f.number != 5, "contents are not used");
        if (f.number == 1)
            ret.name = f.bytes;
        else if (f.number == 2)
            ret.datatype = f.bytes;
        if (f.number != 3)
            continue;
        pb_begin(&dims, f.bytes);
        while (ret.rank < 4 && pb_varint(&dims, &dim))
            ret.shape[ret.rank++] = (int64_t)dim;
    }
    check(!pb_failed(&r), "%s", r.fault);
    return ret;
}

/* Reads a ModelInferResponse; returns how many outputs there are. */
static unsigned read_answer(struct slice message, struct result results[4], struct slice *ret_id)
{
    unsigned outputs = 0, raws = 0;
    struct pb_reader r;
    struct pb_field f;

    *ret_id = slice_make("", 0);
    pb_begin(&r, message);
    while (pb_next(&r, &f)) {
        if (f.number == 1)
            check(slice_is(f.bytes, "iris"), "name");
        else if (f.number == 2)
            check(slice_is(f.bytes, "1"), "version");
        else if (f.number == 3)
            *ret_id = f.bytes;
        else if (f.number == 5 && outputs < 4)
            results[outputs++] = read_result(f.bytes);
        else if (f.number == 6 && raws < 4)
            results[raws++].raw = f.bytes;
        else
            check(false, "field %u", f.number);
    }
    check(!pb_failed(&r), "%s", r.fault);
    check(raws == outputs, "%u raw entries for %u outputs", raws, outputs);
    return outputs;
}

TEST(pb_answers)
{
    struct response_output outputs[2];
    struct kserve_pb_piece *pieces;
    struct result results[4];
    struct reading r;
    struct text message, wanted;
    struct slice id;
    uint32_t count;

    fill_iris(outputs);
    text_init(&message, 1 << 16);
    text_init(&wanted, 1 << 16);
    build_str(&message, 3, "a\n");
    build_iris(&message, true);
    build_str(&wanted, 1, "probabilities");
    build_message(&message, 6, &wanted);
    build_str(&wanted, 1, "label");
    build_message(&message, 6, &wanted);
    open_reading(&r, test_iris());
    read_message(&r, text_slice(&message));
    check_or_stop(r.code == OK, "%s", r.err.text);
    r.code = kserve_write_pb(&pieces, &count, r.plan, &r.request, outputs, memory_of(&r), &r.err);
    check_or_stop(r.code == OK, "%s", r.err.text);
    check(count == 1, "a small answer is one piece, not %u", count);
    check(read_answer(join(&r, pieces, count), results, &id) == 2, "two outputs");
    check(slice_is(id, "a\n"), "id");
    check(slice_is(results[0].name, "probabilities") && slice_is(results[0].datatype, "FP32") &&
              results[0].rank == 2 && results[0].shape[0] == 1 && results[0].shape[1] == 3 &&
              slice_eq(results[0].raw, slice_make(probability_data, sizeof probability_data)),
          "probabilities");
    check(slice_is(results[1].name, "label") && slice_is(results[1].datatype, "INT64") &&
              results[1].rank == 1 && results[1].shape[0] == 1 &&
              slice_eq(results[1].raw, slice_make(label_data, sizeof label_data)),
          "label");
    text_deinit(&message);
    text_deinit(&wanted);
    close_reading(&r);
}

/* What is large is not copied: the piece is the runtime's own memory, with its holder. */
TEST(pb_answers_large_outputs_without_a_copy)
{
    enum { ROWS = 10000 };
    struct response_output outputs[2];
    struct kserve_pb_piece *pieces;
    struct result results[4];
    struct reading r;
    struct text message;
    struct buf *buf = NULL;
    struct slice id;
    uint32_t count;
    bool is_there = false;

    require(buf_new(&buf, NULL, ROWS * 12, NULL) == OK);
    memset(buf_fill(buf), 7, ROWS * 12);
    fill_iris(outputs);
    outputs[1].tensor.shape[0] = ROWS;
    outputs[1].tensor.data = buf_bytes(buf).data;
    outputs[1].tensor.size = ROWS * 12;
    outputs[1].tensor.owner = buf;
    text_init(&message, 1 << 16);
    build_iris(&message, true);
    open_reading(&r, test_iris());
    read_message(&r, text_slice(&message));
    check_or_stop(r.code == OK, "%s", r.err.text);
    r.code = kserve_write_pb(&pieces, &count, r.plan, &r.request, outputs, memory_of(&r), &r.err);
    check_or_stop(r.code == OK, "%s", r.err.text);
    for (uint32_t i = 0; i < count; i++)
        is_there |= pieces[i].bytes.data == buf_bytes(buf).data && pieces[i].holder == buf;
    check(is_there, "the output was copied");
    check(read_answer(join(&r, pieces, count), results, &id) == 2 &&
              slice_eq(results[1].raw, buf_bytes(buf)),
          "bytes");
    buf_unref(&buf);
    text_deinit(&message);
    close_reading(&r);
}

/* The same elements as JSON's, in the same order. */
TEST(pb_classifies_as_rest_does)
{
    struct response_output outputs[2];
    struct kserve_pb_piece *pieces;
    struct kserve_answer answer;
    struct result results[4];
    struct reading r;
    struct text message, wanted;
    struct slice id;
    uint32_t count;

    fill_iris(outputs);
    text_init(&message, 1 << 16);
    text_init(&wanted, 1 << 16);
    build_iris(&message, true);
    build_str(&wanted, 1, "probabilities");
    build_parameter(&wanted, 2, "classification", 2, 2, NULL);
    build_message(&message, 6, &wanted);
    open_reading(&r, test_iris());
    read_message(&r, text_slice(&message));
    check_or_stop(r.code == OK, "%s", r.err.text);
    r.code = kserve_write_pb(&pieces, &count, r.plan, &r.request, outputs, memory_of(&r), &r.err);
    check_or_stop(r.code == OK, "%s", r.err.text);
    check(read_answer(join(&r, pieces, count), results, &id) == 1, "one output");
    r.code = kserve_write(&answer, r.plan, &r.request, outputs, memory_of(&r), &r.err);
    check_or_stop(r.code == OK && answer.binaries_count == 1, "%s", r.err.text);
    check(slice_is(results[0].datatype, "BYTES") && results[0].rank == 2 &&
              results[0].shape[0] == 1 && results[0].shape[1] == 2 &&
              slice_eq(results[0].raw, answer.binaries[0].bytes) &&
              memcmp(results[0].raw.data + 4, "0.981500:0:setosa", 17) == 0,
          "%.*s", SLICE_ARG(results[0].raw));
    buf_unref(&answer.json_holder);
    text_deinit(&message);
    text_deinit(&wanted);
    close_reading(&r);
}

TEST(pb_survives_every_fault)
{
    struct response_output outputs[2];
    struct text message, wanted;

    fill_iris(outputs);
    text_init(&message, 1 << 16);
    text_init(&wanted, 1 << 16);
    build_str(&message, 3, "id");
    build_iris(&message, false);
    build_parameter(&message, 4, "k", 4, 0x3fe0000000000000, NULL);
    build_str(&wanted, 1, "probabilities");
    build_parameter(&wanted, 2, "classification", 2, 2, NULL);
    build_message(&message, 6, &wanted);
    for_each_fault(nth) {
        struct err err = { 0 };
        enum err_code code = E_EXHAUSTED;
        struct arena *arena = arena_new(512, 1 << 20);
        struct kserve_plan *plan = kserve_plan_new("iris", "1", test_iris());
        struct kserve_pb_request pb;
        struct kserve_request request;
        struct kserve_pb_piece *pieces;
        struct penstock_tensor inputs[1];
        bool has[1] = { false };
        const char *field;
        uint32_t count;
        struct kserve_memory memory = { arena, NULL };
        if (arena != NULL && plan != NULL)
            code = kserve_pb_decode(&pb, text_slice(&message), arena, &field, &err);
        if (code == OK)
            code = kserve_read_pb(&request, (struct kserve_inputs){ inputs, has }, plan, &pb,
                                  memory, &field, &err);
        if (code == OK)
            code = kserve_write_pb(&pieces, &count, plan, &request, outputs, memory, &err);
        bool fired = fault_fired();
        fault_arm(0);
        check(code == (fired ? E_EXHAUSTED : OK), "fault %u: %s %s", nth, err_name(code), err.text);
        arena_free(&arena);
        kserve_plan_free(plan);
        if (!fired)
            break;
    }
    text_deinit(&message);
    text_deinit(&wanted);
}
