/* kserve_test.c - V2 requests and answers as bytes, clause by clause (docs: KServe V2 REST and
 * Triton's binary tensor, classification and raw request extensions).
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>

#include "api/kserve.h"
#include "base/arena.h"
#include "base/budget.h"
#include "base/buf.h"
#include "base/mem.h"
#include "contract/test_models.h"
#include "test/harness.h"

/* One request read against one plan, and what came of it. */
struct reading {
    struct arena *arena;
    struct kserve_plan *plan;
    struct kserve_request request;
    struct penstock_tensor inputs[16];
    bool has[16];
    enum err_code code;
    struct err err;
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

static void read_bytes(struct reading *r, struct slice body, bool has_length, uint64_t length)
{
    struct kserve_inputs inputs = { r->inputs, r->has };

    memset(r->has, 0, sizeof r->has);
    r->err = (struct err){ 0 };
    if (has_length && length == 0)
        r->code = kserve_read_raw(&r->request, inputs, r->plan, body, memory_of(r), &r->err);
    else
        r->code = kserve_read(&r->request, inputs, r->plan, body, has_length, length, memory_of(r),
                              &r->err);
}

static void read_text(struct reading *r, const char *json)
{
    /* A copy of exactly that size: a sanitizer sees any step past the end. */
    struct slice text = slice_of(json);
    uint8_t *copy = mem_alloc(text.size == 0 ? 1 : text.size);
    require(copy != NULL);
    memcpy(copy, text.data, text.size);
    struct buf *buf = NULL;
    require(buf_adopt(&buf, copy, text.size, test_release, NULL, NULL) == OK);
    require(arena_adopt(r->arena, &buf));
    read_bytes(r, slice_make(copy, text.size), false, 0);
}

#define IRIS_ROW       "[5.1,3.5,1.4,0.2]"
#define INPUT(members) "{\"inputs\":[{" members "}]}"
#define GOOD           "\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":" IRIS_ROW

TEST(kserve_reads_an_input)
{
    static const char *const same[] = {
        INPUT(GOOD),
        INPUT("\"data\":" IRIS_ROW ",\"datatype\":\"FP32\",\"shape\":[1,4],\"name\":\"input\""),
        INPUT("\"data\":[" IRIS_ROW "],\"shape\":[1,4],\"name\":\"input\",\"datatype\":\"FP32\""),
        " { \"id\" : \"\" , \"inputs\" : [ { \"name\" : \"input\" , \"shape\" : [ 1 , 4 ] , "
        "\"datatype\" : \"FP32\" , \"data\" : [ [ 5.1 , 3.5 , 1.4 , 0.2 ] ] } ] } \r\n\t",
        "{\"model_name\":\"x\",\"inputs\":[{" GOOD ",\"parameters\":{\"content_type\":\"np\"},"
        "\"extra\":{\"a\":[1,{}]}}]}",
        "{\"inputs\":[{\"n\\u0061me\":\"inp\\u0075t\",\"shape\":[1,4],\"datatype\":\"FP32\","
        "\"data\":" IRIS_ROW "}],\"outputs\":[]}",
    };
    static const float expected[] = { 5.1f, 3.5f, 1.4f, 0.2f };

    for (size_t i = 0; i < COUNT(same); i++) {
        struct reading r;
        open_reading(&r, test_iris());
        read_text(&r, same[i]);
        check(r.code == OK, "%s: %s", same[i], r.err.text);
        if (r.code == OK) {
            const struct penstock_tensor *t = &r.inputs[0];
            check(r.has[0] && t->dtype == PENSTOCK_FP32 && t->rank == 2 && t->shape[0] == 1 &&
                      t->shape[1] == 4 && t->size == sizeof expected &&
                      memcmp(t->data, expected, sizeof expected) == 0,
                  "%s", same[i]);
            check(((uintptr_t)t->data & 63) == 0, "not on a line of memory");
            check(r.request.order_count == 2 && r.request.order[0] == 0 &&
                      r.request.order[1] == 1 && !r.request.outputs[0].is_binary,
                  "outputs");
        }
        close_reading(&r);
    }
}

static const struct {
    const char *body, *words;
    enum err_code code;
} refusals[] = {
    { "", "failed to parse the request JSON buffer: The document is empty. at 0", E_INVALID },
    { "[]", "failed to parse the request JSON buffer: Invalid value. at 0", E_INVALID },
    { "{}", "'inputs'", E_INVALID },
    { "{\"inputs\":[]", "", E_INVALID },
    { "{\"inputs\":[]} x", "", E_INVALID },
    { "{\"inputs\":{}}", "inputs", E_INVALID },
    { "{\"inputs\":[1]}", "inputs[0]", E_INVALID },
    { "{\"inputs\":[{" GOOD "},{" GOOD "}]}", "input 'input' is given twice", E_INVALID },
    { "{\"inputs\":[{" GOOD "}],\"inputs\":[]}", "'inputs' is given twice", E_INVALID },
    { "{\"id\":1,\"inputs\":[{" GOOD "}]}", "id", E_INVALID },
    { INPUT(GOOD ",\"name\":\"input\""), "inputs[0]: 'name' is given twice", E_INVALID },
    { INPUT(GOOD ",\"data\":[1]"), "inputs[0]: 'data' is given twice", E_INVALID },
    { INPUT("\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]"), "inputs[0] has no 'name'",
      E_INVALID },
    { INPUT("\"name\":\"imput\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]"),
      "unexpected inference input 'imput' for model 'iris'; it takes 'input'", E_INVALID },
    { INPUT("\"name\":\"input\",\"datatype\":\"FP32\",\"data\":[1,2,3,4]"),
      "input 'input' has no 'shape'; it takes [-1,4]", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1,4],\"data\":[1,2,3,4]"),
      "input 'input' has no 'datatype'; it takes \"FP32\"", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP33\",\"data\":[1,2,3,4]"),
      "inputs[0].datatype: 'FP33' is not a datatype", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[-1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]"),
      "inputs[0].shape: dimension 0 is -1", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1.5,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]"),
      "inputs[0].shape", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,4],\"datatype\":"
            "\"FP32\",\"data\":[1,2,3,4]"),
      "inputs[0].shape: more than 16 dimensions", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3]"),
      "inputs[0].data", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4,5]"),
      "inputs[0].data", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1000000000000,4],\"datatype\":\"FP32\",\"data\":"
            "[[1,2,-3e5],[4]]"),
      "inputs[0].data: 4 elements; shape [1000000000000,4] takes 4000000000000", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[4611686018427387904,4],\"datatype\":\"FP32\",\"data\":"
            "[1]"),
      "inputs[0].shape: too many elements", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,\"4\"]"),
      "inputs[0].data", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP32\""),
      "must set exactly one of 'data', 'binary_data_size' in 'parameters' and "
      "'shared_memory_region' in 'parameters'; none is set",
      E_INVALID },
    { INPUT(GOOD ",\"parameters\":{\"binary_data_size\":16}"),
      "set are 'data', 'binary_data_size' in 'parameters'", E_INVALID },
    { INPUT("\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP32\",\"parameters\":{"
            "\"shared_memory_region\":\"r\",\"shared_memory_byte_size\":16}"),
      "shared memory regions are not built yet", E_UNIMPLEMENTED },
    { INPUT("\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP32\",\"parameters\":{"
            "\"binary_data_size\":16}"),
      "unexpected size for input 'input', expecting 16 additional bytes for model 'iris'",
      E_INVALID },
    { "{\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":\"lable\"}]}",
      "unexpected inference output 'lable' for model 'iris'; it gives 'label'", E_INVALID },
    { "{\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":\"label\"},{\"name\":\"label\"}]}",
      "output 'label' is requested twice", E_INVALID },
    { "{\"inputs\":[{" GOOD "}],\"outputs\":[{}]}", "outputs[0] has no 'name'", E_INVALID },
    { "{\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":\"label\",\"parameters\":{"
      "\"classification\":-1}}]}",
      "outputs[0].parameters", E_INVALID },
    { "{\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":\"label\",\"parameters\":{"
      "\"binary_data\":1}}]}",
      "outputs[0].parameters", E_INVALID },
    { "{\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":\"label\",\"parameters\":{"
      "\"shared_memory_region\":\"r\"}}]}",
      "shared memory", E_UNIMPLEMENTED },
    { "{\"parameters\":{\"triton_x\":1},\"inputs\":[{" GOOD "}]}",
      "parameter keys starting with 'triton_' are reserved for Triton usage and should not be "
      "specified.",
      E_INVALID },
    { "{\"parameters\":{\"headers\":\"x\"},\"inputs\":[{" GOOD "}]}", "'headers' is reserved",
      E_INVALID },
    { "{\"parameters\":{\"a\":null},\"inputs\":[{" GOOD "}]}",
      "parameter 'a' has invalid type. It should be either 'int', 'bool', 'string' or 'double'",
      E_INVALID },
    { "{\"parameters\":{\"a\":{}},\"inputs\":[{" GOOD "}]}", "parameter 'a' has invalid type",
      E_INVALID },
    { "{\"parameters\":{\"a\":1,\"a\":2},\"inputs\":[{" GOOD "}]}", "'a' is given twice",
      E_INVALID },
    { "{\"parameters\":{\"timeout\":-1},\"inputs\":[{" GOOD "}]}", "'timeout' is -1", E_INVALID },
    { "{\"parameters\":{\"timeout\":\"1\"},\"inputs\":[{" GOOD "}]}", "'timeout' is 1; it takes",
      E_INVALID },
    { "{\"parameters\":{\"binary_data_output\":1},\"inputs\":[{" GOOD "}]}",
      "'binary_data_output' is 1; it takes true or false", E_INVALID },
    { "{\"parameters\":{\"sequence_id\":7},\"inputs\":[{" GOOD "}]}", "sequences are not built yet",
      E_UNIMPLEMENTED },
    { "{\"parameters\":{\"sequence_id\":\"a\"},\"inputs\":[{" GOOD "}]}",
      "sequences are not built yet", E_UNIMPLEMENTED },
    { "{\"parameters\":{\"sequence_start\":true},\"inputs\":[{" GOOD "}]}",
      "sequences are not built yet", E_UNIMPLEMENTED },
};

TEST(kserve_refuses_in_words)
{
    for (size_t i = 0; i < COUNT(refusals); i++) {
        struct reading r;
        open_reading(&r, test_iris());
        read_text(&r, refusals[i].body);
        check(r.code == refusals[i].code && r.err.code == refusals[i].code, "%s: %s: %s",
              refusals[i].body, err_name(r.code), r.err.text);
        check(strstr(r.err.text, refusals[i].words) != NULL, "%s\n  said: %s\n  not:  %s",
              refusals[i].body, r.err.text, refusals[i].words);
        close_reading(&r);
    }
}

TEST(kserve_refuses_more_strings_than_there_is_text)
{
    struct reading r;

    open_reading(&r, test_spam());
    read_text(&r, INPUT("\"name\":\"text\",\"shape\":[1000000000000,1],\"datatype\":\"BYTES\","
                        "\"data\":[\"a\\\"\",\"b\"]"));
    check(r.code == E_INVALID &&
              strstr(r.err.text, "inputs[0].data: 2 elements; shape "
                                 "[1000000000000,1] takes 1000000000000") != NULL,
          "%s", r.err.text);
    close_reading(&r);
}

TEST(kserve_names_the_wrong_datatype_first)
{
    struct reading r;

    open_reading(&r, test_iris());
    read_text(
        &r, INPUT("\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"INT64\",\"data\":" IRIS_ROW));
    check(r.code == E_INVALID &&
              strcmp(r.err.text, "input 'input' has datatype INT64; the model takes FP32") == 0,
          "%s", r.err.text);
    close_reading(&r);
}

/* Every prefix of a good request is a bad one, and no step goes past its end. */
TEST(kserve_refuses_every_prefix)
{
    static const char body[] =
        "{\"id\":\"a\\u00e9\",\"parameters\":{\"k\":1.5,\"b\":true,\"s\":\"x\"},\"inputs\":[{" GOOD
        "}],\"outputs\":[{\"name\":\"label\",\"parameters\":{\"binary_data\":false}}]}";

    for (size_t n = 0; n < sizeof body - 1; n++) {
        char text[sizeof body];
        struct reading r;
        memcpy(text, body, n);
        text[n] = '\0';
        open_reading(&r, test_iris());
        read_text(&r, text);
        check(r.code == E_INVALID && r.err.text[0] != '\0', "%zu bytes: %s", n, r.err.text);
        close_reading(&r);
    }
}

TEST(kserve_reads_parameters)
{
    struct reading r;
    unsigned found = 0;

    open_reading(&r, test_iris());
    read_text(&r, "{\"id\":\"q\\\"1\",\"parameters\":{\"timeout\":250,\"priority\":3,"
                  "\"binary_data_output\":true,\"sequence_id\":0,\"sequence_start\":false,"
                  "\"i\":-7,\"u\":18446744073709551615,\"d\":2.5e1,\"b\":false,\"s\":\"t\"},"
                  "\"inputs\":[{" GOOD "}]}");
    check_or_stop(r.code == OK, "%s", r.err.text);
    check(r.request.timeout_us == 250 && r.request.priority == 3, "reserved ones");
    check(r.request.outputs[0].is_binary && r.request.outputs[1].is_binary, "binary by default");
    check(strcmp(r.request.id_text, "q\"1") == 0, "id %s", r.request.id_text);
    for (const struct parameter *p = r.request.parameters; p != NULL; p = p->next, found++) {
        switch (p->key[0]) {
        case 'i':
            check(p->kind == PARAMETER_INT && p->value.i == -7 && strcmp(p->text, "-7") == 0, "i");
            break;
        case 'u': check(p->kind == PARAMETER_UINT && p->value.u == UINT64_MAX, "u"); break;
        case 'd':
            check(p->kind == PARAMETER_DOUBLE && p->value.d == 25.0 &&
                      strcmp(p->text, "2.5e1") == 0,
                  "d is %s", p->text);
            break;
        case 'b':
            check(p->kind == PARAMETER_BOOL && !p->value.b && strcmp(p->text, "false") == 0, "b");
            break;
        case 's': check(p->kind == PARAMETER_STRING && strcmp(p->text, "t") == 0, "s"); break;
        default: check(false, "unexpected %s", p->key);
        }
    }
    check(found == 5, "%u parameters", found);
    close_reading(&r);
}

/* Binary inputs follow the JSON in the order of `inputs`; they are used in place when aligned. */
TEST(kserve_reads_binary_inputs)
{
    static const char json[] =
        "{\"inputs\":[{\"name\":\"b\",\"shape\":[3],\"datatype\":\"INT8\",\"parameters\":{"
        "\"binary_data_size\":3}},{\"name\":\"j\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":["
        "\"x\"]},{\"parameters\":{\"binary_data_size\":8},\"name\":\"f\",\"shape\":[2],"
        "\"datatype\":\"FP32\"},{\"name\":\"s\",\"shape\":[2],\"datatype\":\"BYTES\","
        "\"parameters\":{\"binary_data_size\":11}},{\"name\":\"e\",\"shape\":[0],\"datatype\":"
        "\"INT64\",\"parameters\":{\"binary_data_size\":0}}]}";
    static const uint8_t strings[] = { 2, 0, 0, 0, 'h', 'i', 1, 0, 0, 0, '!' };
    const float floats[] = { 1.5f, -2.0f };
    struct reading r;
    struct buf *buf = NULL;
    size_t json_size = sizeof json - 1, size = json_size + 3 + 8 + 11;

    open_reading(&r, test_mixed());
    require(buf_new(&buf, NULL, size, NULL) == OK);
    uint8_t *body = buf_fill(buf);
    memcpy(body, json, json_size);
    memcpy(body + json_size, "\1\2\3", 3);
    memcpy(body + json_size + 3, floats, 8);
    memcpy(body + json_size + 11, strings, 11);
    read_bytes(&r, slice_make(body, size), true, json_size);
    check_or_stop(r.code == OK, "%s", r.err.text);
    for (unsigned i = 0; i < 5; i++)
        check(r.has[i], "input %u", i);
    check(r.inputs[0].data == body + json_size && r.inputs[0].size == 3, "bytes in place");
    check(r.inputs[2].size == 8 && memcmp(r.inputs[2].data, floats, 8) == 0 &&
              ((uintptr_t)r.inputs[2].data & 3) == 0,
          "floats aligned");
    check(r.inputs[3].data == body + json_size + 11 && r.inputs[3].size == 11, "strings in place");
    check(r.inputs[1].size == 5 && memcmp(r.inputs[1].data, "\1\0\0\0x", 5) == 0, "JSON string");
    check(r.inputs[4].size == 0, "empty");

    read_bytes(&r, slice_make(body, size - 1), true, json_size);
    check(r.code == E_INVALID && strstr(r.err.text, "expecting 1 additional bytes") != NULL, "%s",
          r.err.text);
    read_bytes(&r, slice_make(body, size), true, size + 1);
    check(r.code == E_INVALID &&
              strstr(r.err.text, "inference header size should be in range (0, ") != NULL,
          "%s", r.err.text);
    read_bytes(&r, slice_make(body, size), true, json_size - 1);
    check(r.code == E_INVALID, "a header one byte short was read");
    buf_unref(&buf);
    close_reading(&r);
}

TEST(kserve_refuses_spare_bytes)
{
    struct reading r;
    static const char body[] = INPUT(GOOD) "xx";

    open_reading(&r, test_iris());
    read_bytes(&r, slice_make(body, sizeof body - 1), true, sizeof body - 3);
    check(r.code == E_INVALID &&
              strstr(r.err.text, "unexpected additional input data for model 'iris'") != NULL,
          "%s", r.err.text);
    close_reading(&r);
}

TEST(kserve_header_length_cases)
{
    static const struct {
        const char *text;
        bool is_good;
        uint64_t value;
    } cases[] = {
        { "0", true, 0 },
        { "123", true, 123 },
        { "", false, 0 },
        { "-1", false, 0 },
        { "1x", false, 0 },
        { "99999999999999999999999", false, 0 },
        { "18446744073709551615", false, 0 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { 0 };
        uint64_t value = 7;
        enum err_code code = kserve_header_length(slice_of(cases[i].text), &value, &err);
        check((code == OK) == cases[i].is_good, "%s: %s", cases[i].text, err.text);
        check(code != OK || value == cases[i].value, "%s", cases[i].text);
        check(code == OK || strstr(err.text, "Unable to parse Inference-Header-Content-Length, "
                                             "got: ") != NULL,
              "%s", err.text);
    }
}

/* The errors are those that Triton's tests of raw binary requests look for. */
TEST(kserve_reads_raw_requests)
{
    const float rows[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    struct reading r;

    open_reading(&r, test_iris());
    read_bytes(&r, slice_make(rows, 32), true, 0);
    check(r.code == OK && r.inputs[0].shape[0] == 2 && r.inputs[0].shape[1] == 4 &&
              r.inputs[0].size == 32 && r.request.outputs[0].is_binary,
          "two rows: %s", r.err.text);
    read_bytes(&r, slice_make(rows, 18), true, 0);
    check(r.code == E_INVALID && strstr(r.err.text, "multiple of 16 bytes, got 18") != NULL, "%s",
          r.err.text);
    close_reading(&r);

    open_reading(&r, test_spam());
    read_bytes(&r, slice_of("hello"), true, 0);
    check(r.code == OK && r.inputs[0].size == 9 && r.inputs[0].shape[0] == 1 &&
              memcmp(r.inputs[0].data, "\5\0\0\0hello", 9) == 0,
          "text: %s", r.err.text);
    close_reading(&r);

    open_reading(&r, test_mixed());
    read_bytes(&r, slice_make(rows, 4), true, 0);
    check(r.code == E_INVALID && strstr(r.err.text, "Raw request must only have 1 input (found 1) "
                                                    "to be deduced but got 5 inputs in 'iris' "
                                                    "model configuration") != NULL,
          "%s", r.err.text);
    close_reading(&r);

    open_reading(&r, test_free_strings());
    read_bytes(&r, slice_of("427"), true, 0);
    check(r.code == E_INVALID && strstr(r.err.text, "For BYTE datatype raw input 'INPUT0', the "
                                                    "model must have input shape [1]") != NULL,
          "%s", r.err.text);
    close_reading(&r);

    open_reading(&r, test_free_matrix());
    read_bytes(&r, slice_make(rows, 8), true, 0);
    check(r.code == E_INVALID &&
              strstr(r.err.text, "The shape of the raw input 'INPUT0' can not be deduced because "
                                 "there are more than one variable-sized dimension") != NULL,
          "%s", r.err.text);
    close_reading(&r);
}

/* What the configuration does not list cannot be named, is not given, and does not count. */
TEST(kserve_hidden_tensors)
{
    struct signature_tensor inputs[] = {
        { .name = "state", .dtype = PENSTOCK_FP32, .rank = 1, .dims = { 1 }, .is_hidden = true },
        { .name = "x", .dtype = PENSTOCK_FP32, .rank = 1, .dims = { -1 } },
    };
    struct signature_tensor outputs[] = {
        { .name = "y", .dtype = PENSTOCK_FP32, .rank = 1, .dims = { -1 } },
        { .name = "state_out",
          .dtype = PENSTOCK_FP32,
          .rank = 1,
          .dims = { 1 },
          .is_hidden = true },
    };
    const struct signature signature = {
        .inputs_count = 2, .outputs_count = 2, .inputs = inputs, .outputs = outputs
    };
    static const float values[] = { 1, 2 };
    struct reading r;

    open_reading(&r, &signature);
    read_text(&r, INPUT("\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]"));
    check(r.code == OK && r.request.order_count == 1 && r.request.order[0] == 0, "%s", r.err.text);
    read_text(&r, INPUT("\"name\":\"state\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]"));
    check(r.code == E_INVALID && strstr(r.err.text, "unexpected inference input 'state'") != NULL,
          "%s", r.err.text);
    read_text(&r, "{\"inputs\":[],\"outputs\":[{\"name\":\"state_out\"}]}");
    check(r.code == E_INVALID && strstr(r.err.text, "'state_out'") != NULL &&
              strstr(r.err.text, "it gives 'state_out'") == NULL,
          "%s", r.err.text);
    read_bytes(&r, slice_make(values, sizeof values), true, 0);
    check(r.code == OK && !r.has[0] && r.has[1] && r.inputs[1].shape[0] == 2, "%s", r.err.text);
    close_reading(&r);
}

/* -- any order, any spacing, JSON or binary: the same tensors ------------------------------------ */

static void put_blanks(struct text *out)
{
    static const char blanks[] = " \t\r\n";

    while (test_random_below(4) == 0)
        text_byte(out, (uint8_t)blanks[test_random_below(4)]);
}

static void put_token(struct text *out, const char *token)
{
    put_blanks(out);
    text_str(out, token);
    put_blanks(out);
}

static void shuffle(unsigned *list, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        list[i] = i;
    for (unsigned i = count; i > 1; i--) {
        unsigned k = (unsigned)test_random_below(i), held = list[i - 1];
        list[i - 1] = list[k];
        list[k] = held;
    }
}

/* The inputs of test_mixed: as JSON text, and as the bytes they mean. */
static const struct {
    const char *name, *shape, *datatype, *data, *bytes;
    size_t size;
} mixed[] = {
    { "\"b\"", "[3]", "\"INT8\"", "[1,[-2],127]", "\x01\xfe\x7f", 3 },
    { "\"j\"", "[1]", "\"BYTES\"", "\"x\\n\"", "\2\0\0\0x\n", 6 },
    { "\"f\"", "[2]", "\"FP32\"", "[1.0,-2e0]", "\0\0\x80\x3f\0\0\0\xc0", 8 },
    { "\"s\"", "[2]", "\"BYTES\"", "[\"\",\"\\u00e9\"]", "\0\0\0\0\2\0\0\0\xc3\xa9", 10 },
    { "\"e\"", "[0]", "\"INT64\"", "[]", "", 0 },
};

static void put_input(struct text *out, struct text *binary, unsigned index)
{
    unsigned order[6];
    bool is_binary = test_random_below(2) == 0;
    bool is_first = true;

    put_token(out, "{");
    shuffle(order, 6);
    for (unsigned i = 0; i < 6; i++) {
        if (order[i] == 3 && is_binary)
            continue; /* no data */
        if (order[i] == 5 && test_random_below(2) == 0)
            continue;
        if (!is_first)
            put_token(out, ",");
        is_first = false;
        switch (order[i]) {
        case 0:
            put_token(out, "\"name\"");
            put_token(out, ":");
            put_token(out, mixed[index].name);
            break;
        case 1:
            put_token(out, "\"shape\":");
            put_token(out, mixed[index].shape);
            break;
        case 2:
            put_token(out, "\"datatype\":");
            put_token(out, mixed[index].datatype);
            break;
        case 3:
            put_token(out, "\"data\":");
            put_token(out, mixed[index].data);
            break;
        case 4:
            put_token(out, "\"parameters\":{");
            if (is_binary)
                text_printf(out, "\"binary_data_size\" : %zu", mixed[index].size);
            put_token(out, "}");
            break;
        default: put_token(out, "\"other\":{\"data\":[{}]}");
        }
    }
    put_token(out, "}");
    if (is_binary)
        text_put(binary, mixed[index].bytes, mixed[index].size);
}

TEST(kserve_reads_the_same_in_any_order)
{
    for (int round = 0; round < 3000; round++) {
        struct reading r;
        struct text body, binary;
        unsigned order[5];
        size_t json_size;

        text_init(&body, 1 << 16);
        text_init(&binary, 1 << 16);
        put_token(&body, "{\"inputs\":[");
        shuffle(order, 5);
        for (unsigned i = 0; i < 5; i++) {
            if (i != 0)
                put_token(&body, ",");
            put_input(&body, &binary, order[i]);
        }
        put_token(&body, "]}");
        json_size = body.size;
        text_slice_put(&body, text_slice(&binary));
        open_reading(&r, test_mixed());
        read_bytes(&r, text_slice(&body), true, json_size);
        check_or_stop(r.code == OK, "%s: %.*s", r.err.text, (int)json_size, body.data);
        for (unsigned i = 0; i < 5; i++)
            check_or_stop(r.has[i] && r.inputs[i].size == mixed[i].size &&
                              memcmp(r.inputs[i].data, mixed[i].bytes, mixed[i].size) == 0,
                          "input %u of %.*s", i, (int)json_size, body.data);
        text_deinit(&body);
        text_deinit(&binary);
        close_reading(&r);
    }
}

/* -- answers ------------------------------------------------------------------------------------- */

static const int64_t label_data[] = { 0 };
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

static void check_answer(const char *request, const char *expected, size_t binary_size)
{
    struct response_output outputs[2];
    struct kserve_answer answer;
    struct reading r;
    struct err err = { 0 };

    open_reading(&r, test_iris());
    fill_iris(outputs);
    read_text(&r, request);
    check(r.code == OK, "%s: %s", request, r.err.text);
    enum err_code code =
        r.code != OK ? r.code
                     : kserve_write(&answer, r.plan, &r.request, outputs, memory_of(&r), &err);
    check(code == OK, "%s: %s", request, err.text);
    if (code == OK) {
        check(slice_is(answer.json, expected), "got  %.*s\nwant %s", SLICE_ARG(answer.json),
              expected);
        check(answer.size == answer.json.size + binary_size, "size %zu", answer.size);
        check(answer.has_binary == (binary_size != 0), "binary");
        buf_unref(&answer.json_holder);
    }
    close_reading(&r);
}

#define HEAD          "\"model_name\":\"iris\",\"model_version\":\"1\",\"outputs\":["
#define LABEL         "{\"name\":\"label\",\"datatype\":\"INT64\",\"shape\":[1],"
#define PROBABILITIES "{\"name\":\"probabilities\",\"datatype\":\"FP32\",\"shape\":[1,3],"

TEST(kserve_answers)
{
    check_answer(INPUT(GOOD),
                 "{" HEAD LABEL "\"data\":[0]}," PROBABILITIES "\"data\":[0.9815,0.0184,1e-7]}]}",
                 0);
    check_answer("{\"id\":\"a\\n\",\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":\"probabilities\""
                 "},{\"name\":\"label\"}]}",
                 "{\"id\":\"a\\n\"," HEAD PROBABILITIES "\"data\":[0.9815,0.0184,1e-7]}," LABEL
                 "\"data\":[0]}]}",
                 0);
    check_answer("{\"parameters\":{\"binary_data_output\":true},\"inputs\":[{" GOOD "}]}",
                 "{" HEAD LABEL "\"parameters\":{\"binary_data_size\":8}}," PROBABILITIES
                 "\"parameters\":{\"binary_data_size\":12}}]}",
                 20);
    /* binary_data_output is for outputs that are not listed. */
    check_answer("{\"parameters\":{\"binary_data_output\":true},\"inputs\":[{" GOOD "}],"
                 "\"outputs\":[{\"name\":\"label\"}]}",
                 "{" HEAD LABEL "\"data\":[0]}]}", 0);
    check_answer("{\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":\"probabilities\",\"parameters\":"
                 "{\"classification\":2}}]}",
                 "{" HEAD "{\"name\":\"probabilities\",\"datatype\":\"BYTES\",\"shape\":[1,2],"
                 "\"data\":[\"0.981500:0:setosa\",\"0.018400:1:versicolor\"]}]}",
                 0);
    check_answer("{\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":\"probabilities\",\"parameters\":"
                 "{\"classification\":9,\"binary_data\":true}},{\"name\":\"label\",\"parameters\":{"
                 "\"classification\":1}}]}",
                 "{" HEAD "{\"name\":\"probabilities\",\"datatype\":\"BYTES\",\"shape\":[1,3],"
                 "\"parameters\":{\"binary_data_size\":70}},{\"name\":\"label\",\"datatype\":"
                 "\"BYTES\",\"shape\":[1,1],\"data\":[\"0:0\"]}]}",
                 70);
}

TEST(kserve_answers_large_outputs)
{
    enum { ROWS = 30000 };
    struct response_output outputs[2];
    struct kserve_answer answer;
    struct budget budget;
    struct reading r;
    struct err err = { 0 };
    float *values = mem_alloc(ROWS * 3 * sizeof *values);
    size_t commas = 0;

    require(values != NULL);
    for (size_t i = 0; i < ROWS * 3; i++)
        values[i] = -1.17549435e-38f * (float)(i + 1);
    budget_init(&budget, 64 << 20);
    open_reading(&r, test_iris());
    fill_iris(outputs);
    outputs[1].tensor.shape[0] = ROWS;
    outputs[1].tensor.data = values;
    outputs[1].tensor.size = ROWS * 3 * sizeof *values;
    read_text(&r, INPUT(GOOD));
    enum err_code code = kserve_write(&answer, r.plan, &r.request, outputs,
                                      (struct kserve_memory){ r.arena, &budget }, &err);
    check(code == OK, "%s", err.text);
    if (code == OK) {
        for (size_t i = 0; i < answer.json.size; i++)
            commas += answer.json.data[i] == ',';
        check(commas == ROWS * 3 - 1 + 10, "%zu commas", commas);
        check(answer.json_holder != NULL && budget_used(&budget) >= answer.json.size, "charged");
        buf_unref(&answer.json_holder);
    }
    check(budget_used(&budget) == 0, "%llu bytes are kept",
          (unsigned long long)budget_used(&budget));
    mem_free(values);
    close_reading(&r);
}

/* Strings that need escaping throughout take six times their size: the second try has the room. */
TEST(kserve_answers_strings_of_any_content)
{
    enum { SIZE = 20000 };
    struct response_output output;
    struct kserve_answer answer;
    struct reading r;
    struct err err = { 0 };
    uint8_t *data = mem_alloc(SIZE + 4);
    uint32_t size = SIZE;

    require(data != NULL);
    memcpy(data, &size, 4);
    memset(data + 4, 1, SIZE);
    open_reading(&r, test_spam());
    read_text(&r,
              "{\"inputs\":[{\"name\":\"text\",\"shape\":[1,1],\"datatype\":\"BYTES\",\"data\":["
              "\"x\"]}],\"outputs\":[{\"name\":\"label\"}]}");
    check(r.code == OK, "%s", r.err.text);
    output = (struct response_output){ true,
                                       { .name = "label",
                                         .dtype = PENSTOCK_BYTES,
                                         .rank = 1,
                                         .shape = { 1 },
                                         .data = data,
                                         .size = SIZE + 4 } };
    enum err_code code = kserve_write(&answer, r.plan, &r.request, &output, memory_of(&r), &err);
    check(code == OK, "%s", err.text);
    if (code == OK) {
        check(answer.json.size > 6 * SIZE, "%zu bytes", answer.json.size);
        buf_unref(&answer.json_holder);
    }
    data[4] = 0xff; /* not UTF-8: JSON cannot carry it */
    code = kserve_write(&answer, r.plan, &r.request, &output, memory_of(&r), &err);
    check(code == E_INVALID && strstr(err.text, "binary") != NULL, "%s", err.text);
    mem_free(data);
    close_reading(&r);
}

/* Against the obvious way: sort all indexes. */
TEST(kserve_classify_agrees_with_sorting)
{
    for (int round = 0; round < 2000; round++) {
        struct arena *arena = arena_new(4096, 1 << 20);
        float values[64];
        uint64_t n = 1 + test_random_below(COUNT(values)), k = test_random_below(n + 3);
        int64_t order[64];
        struct penstock_tensor scores = { .name = "p",
                                          .dtype = PENSTOCK_FP32,
                                          .rank = 2,
                                          .shape = { 1, (int64_t)n },
                                          .data = values,
                                          .size = n * sizeof(float) };
        struct penstock_tensor classes;
        struct signature_tensor described = { .name = "p" };
        struct err err = { 0 };

        for (uint64_t i = 0; i < n; i++) {
            values[i] = (float)test_random_below(12) / 4;
            if (test_random_below(20) == 0)
                values[i] = NAN;
            order[i] = (int64_t)i;
        }
        for (uint64_t i = 1; i < n; i++)
            for (uint64_t j = i; j > 0; j--) {
                float a = values[order[j]], b = values[order[j - 1]];
                if (!(a > b || (isnan(b) && !isnan(a))))
                    break;
                int64_t held = order[j];
                order[j] = order[j - 1];
                order[j - 1] = held;
            }
        check(kserve_classify(&classes, &scores, k, true, &described,
                              (struct kserve_memory){ arena, NULL }, &err) == OK,
              "%s", err.text);
        check(classes.rank == 2 && classes.shape[0] == 1 && classes.shape[1] == (int64_t)MIN(k, n),
              "shape");
        const uint8_t *at = classes.data;
        for (uint64_t i = 0; i < MIN(k, n); i++) {
            char expected[64], got[64];
            uint32_t size;
            memcpy(&size, at, 4);
            snprintf(got, sizeof got, "%.*s", (int)size, (const char *)at + 4);
            if (isnan(values[order[i]]))
                snprintf(expected, sizeof expected, "%f:%lld", (double)values[order[i]],
                         (long long)order[i]);
            else
                snprintf(expected, sizeof expected, "%.6f:%lld", (double)values[order[i]],
                         (long long)order[i]);
            check(strcmp(got, expected) == 0, "%s, not %s", got, expected);
            at += 4 + size;
        }
        arena_free(&arena);
    }
}

TEST(kserve_survives_every_fault)
{
    static const char body[] =
        "{\"id\":\"a\",\"parameters\":{\"k\":\"v\"},\"inputs\":[{" GOOD "}],\"outputs\":[{\"name\":"
        "\"probabilities\",\"parameters\":{\"classification\":2}},{\"name\":\"label\",\"parameters\":"
        "{\"binary_data\":true}}]}";
    struct response_output outputs[2];

    fill_iris(outputs);
    for_each_fault(nth) {
        struct err err = { 0 };
        enum err_code code = E_EXHAUSTED;
        struct kserve_answer answer = { .binaries = NULL };
        struct arena *arena = arena_new(1024, 1 << 20);
        struct kserve_plan *plan = kserve_plan_new("iris", "1", test_iris());
        struct kserve_request request;
        struct penstock_tensor inputs[1];
        bool has[1] = { false };
        struct kserve_memory memory = { arena, NULL };
        if (arena != NULL && plan != NULL)
            code = kserve_read(&request, (struct kserve_inputs){ inputs, has }, plan,
                               slice_make(body, sizeof body - 1), false, 0, memory, &err);
        if (arena != NULL && plan != NULL && code == OK)
            code = kserve_write(&answer, plan, &request, outputs, memory, &err);
        bool fired = fault_fired();
        fault_arm(0);
        check((code == OK) == !fired, "fault %u: %s %s", nth, err_name(code), err.text);
        buf_unref(&answer.json_holder);
        arena_free(&arena);
        kserve_plan_free(plan);
        if (!fired)
            break;
    }
}
