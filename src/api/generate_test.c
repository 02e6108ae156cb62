/* generate_test.c - generate requests and answers as bytes (Triton's generate extension), and the
 * events of streams. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/kserve.h"
#include "base/arena.h"
#include "codec/bytes.h"
#include "contract/test_models.h"
#include "model/dtype.h"
#include "test/harness.h"

/* prompt BYTES [1], flag BOOL [1], grid INT32 [-1,2,-1] optional, wide FP32 [-1,-1] optional, one FP64 []
 * optional, half FP16 [2] optional, hidden -> text BYTES [1], score FP32 [-1], many INT64 [2,2] */
static const struct signature *model(void)
{
    static struct signature_tensor inputs[] = {
        { .name = "prompt", .dtype = PENSTOCK_BYTES, .rank = 1, .dims = { 1 }, NO_LIMITS },
        { .name = "flag", .dtype = PENSTOCK_BOOL, .rank = 1, .dims = { 1 }, NO_LIMITS },
        { .name = "grid",
          .dtype = PENSTOCK_INT32,
          .rank = 3,
          .dims = { -1, 2, -1 },
          .is_optional = true,
          NO_LIMITS },
        { .name = "wide",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, -1 },
          .is_optional = true,
          NO_LIMITS },
        { .name = "one", .dtype = PENSTOCK_FP64, .rank = 0, .is_optional = true, NO_LIMITS },
        { .name = "half",
          .dtype = PENSTOCK_FP16,
          .rank = 1,
          .dims = { 2 },
          .is_optional = true,
          NO_LIMITS },
        { .name = "state",
          .dtype = PENSTOCK_FP32,
          .rank = 1,
          .dims = { 1 },
          .is_hidden = true,
          NO_LIMITS },
    };
    static struct signature_tensor outputs[] = {
        { .name = "text", .dtype = PENSTOCK_BYTES, .rank = 1, .dims = { 1 }, NO_LIMITS },
        { .name = "score", .dtype = PENSTOCK_FP32, .rank = 1, .dims = { -1 }, NO_LIMITS },
        { .name = "ma\"ny", .dtype = PENSTOCK_INT64, .rank = 2, .dims = { 2, 2 }, NO_LIMITS },
    };
    static const struct signature signature = { .inputs_count = COUNT(inputs),
                                                .outputs_count = COUNT(outputs),
                                                .inputs = inputs,
                                                .outputs = outputs };
    return &signature;
}

enum { PROMPT, FLAG, GRID, WIDE, ONE, HALF, STATE, INPUTS };

static struct reading {
    struct arena *arena;
    struct kserve_plan *plan;
    struct kserve_request request;
    struct penstock_tensor inputs[INPUTS];
    bool has[INPUTS];
    enum err_code code;
    struct err err;
} r;

static struct kserve_memory memory(void)
{
    return (struct kserve_memory){ r.arena, NULL };
}

static void read_body(const char *body)
{
    size_t size = strlen(body);
    char *exact = malloc(size + 1); /* a sanitizer sees any step past the end */

    memset(&r, 0, sizeof r);
    r.arena = arena_new(4096, 16 << 20);
    r.plan = kserve_plan_new("mock", "3", model());
    require(r.arena != NULL && r.plan != NULL && exact != NULL);
    char *copy = arena_alloc(r.arena, size + 1);
    memcpy(exact, body, size);
    memcpy(copy, body, size);
    r.code = kserve_read_generate(&r.request, (struct kserve_inputs){ r.inputs, r.has }, r.plan,
                                  slice_make(copy, size), memory(), &r.err);
    free(exact);
}

static void drop(void)
{
    arena_free(&r.arena);
    kserve_plan_free(r.plan);
}

#define REST "\"prompt\":\"p\",\"flag\":true"

/* -- shapes --------------------------------------------------------------------------------------- */

TEST(shapes_follow_from_the_number_of_elements)
{
    static const struct {
        const char *body;
        unsigned input;
        const char *shape; /* or the error */
    } cases[] = {
        { "{" REST "}", PROMPT, "[1]" },
        { "{" REST "}", FLAG, "[1]" },
        { "{\"prompt\":[\"p\"],\"flag\":[false]}", PROMPT, "[1]" },
        { "{\"prompt\":[\"p\",\"q\"],\"flag\":[false]}", PROMPT,
          "input 'prompt': 2 elements cannot have its shape, [1] (-1: any)" },
        { "{\"prompt\":[],\"flag\":[false]}", PROMPT, "0 elements cannot have its shape, [1]" },
        { "{" REST ",\"grid\":[1,2,3,4]}", GRID, "[1,2,2]" },
        { "{" REST ",\"grid\":[]}", GRID, "[1,2,0]" },
        { "{" REST ",\"grid\":[1,2,3]}", GRID,
          "input 'grid': 3 elements cannot have its shape, [-1,2,-1]" },
        { "{" REST ",\"grid\":7}", GRID, "1 element cannot have its shape" },
        { "{" REST ",\"grid\":[[[1],[2]],[[3],[4]]]}", GRID, "[2,2,1]" },
        { "{" REST ",\"grid\":[[1,2],[3,4]]}", GRID,
          "input 'grid' is nested 2 deep; it takes one list of its elements" },
        { "{" REST ",\"grid\":[[[1],[2]],[[3]]]}", GRID, "grid" },
        { "{" REST ",\"wide\":5}", WIDE, "[1,1]" },
        { "{" REST ",\"wide\":[1,2,3]}", WIDE, "[1,3]" },
        { "{" REST ",\"wide\":[[1],[2],[3]]}", WIDE, "[3,1]" },
        { "{" REST ",\"one\":1.5}", ONE, "[]" },
        { "{" REST ",\"one\":[1.5]}", ONE, "[]" },
        { "{" REST ",\"one\":[1.5,2]}", ONE, "2 elements cannot have its shape" },
        { "{" REST ",\"half\":[1.5,2]}", HALF, "[2]" },
        { "{\"parameters\":{\"wide\":[1,2]}," REST "}", WIDE, "[1,2]" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char shape[160];
        read_body(cases[i].body);
        if (cases[i].shape[0] == '[' && r.code == OK) {
            const struct penstock_tensor *t = &r.inputs[cases[i].input];
            check(r.has[cases[i].input], "%s: not there", cases[i].body);
            shape_text(shape, sizeof shape, t->rank, t->shape);
            check(strcmp(shape, cases[i].shape) == 0, "%s: %s", cases[i].body, shape);
        } else {
            check(cases[i].shape[0] != '[' && r.code == E_INVALID &&
                      strstr(r.err.text, cases[i].shape) != NULL,
                  "%s: %d %s", cases[i].body, (int)r.code, r.err.text);
        }
        drop();
    }
}

TEST(elements_are_the_models)
{
    struct slice element, rest;

    read_body("{\"prompt\":\"h\\u00e9llo\",\"flag\":true,\"wide\":[1,-2.5e1,0.1],\"grid\":[1,-2]}");
    check_or_stop(r.code == OK, "%s", r.err.text);
    rest = slice_make(r.inputs[PROMPT].data, r.inputs[PROMPT].size);
    check(bytes_next(&rest, &element) && slice_is(element, "h\xc3\xa9llo") && rest.size == 0,
          "%.*s", SLICE_ARG(element));
    check(*(const uint8_t *)r.inputs[FLAG].data == 1, "the flag");
    const float *wide = r.inputs[WIDE].data;
    check(r.inputs[WIDE].size == 12 && wide[0] == 1 && wide[1] == -25 && wide[2] == 0.1f,
          "%f %f %f", (double)wide[0], (double)wide[1], (double)wide[2]);
    const int32_t *grid = r.inputs[GRID].data;
    check(r.inputs[GRID].size == 8 && grid[0] == 1 && grid[1] == -2, "the grid");
    check(!r.has[ONE] && !r.has[HALF] && !r.has[STATE], "those that were not given");
    drop();
}

/* -- keys --------------------------------------------------------------------------------------------- */

TEST(other_keys_are_parameters)
{
    static const struct {
        const char *key, *text;
        enum parameter_kind kind;
    } wanted[] = {
        { "max_tokens", "5", PARAMETER_INT },
        { "temperature", "0.5", PARAMETER_DOUBLE },
        { "stop", "\n", PARAMETER_STRING },
        { "stream", "false", PARAMETER_BOOL },
        { "seed", "18446744073709551615", PARAMETER_UINT },
        { "inner", "-3", PARAMETER_INT },
        { "state", "1", PARAMETER_INT }, /* a hidden input is nobody's */
    };
    read_body("{" REST ",\"id\":\"a\\\"b\",\"max_tokens\":5,\"temperature\":0.5,\"stop\":\"\\n\","
              "\"stream\":false,\"seed\":18446744073709551615,\"state\":1,"
              "\"parameters\":{\"inner\":-3,\"timeout\":77,\"priority\":2}}");
    check_or_stop(r.code == OK, "%s", r.err.text);
    check(strcmp(r.request.id_text, "a\"b") == 0, "id %s", r.request.id_text);
    check(r.request.timeout_us == 77 && r.request.priority == 2, "reserved ones");
    unsigned count = 0;
    for (const struct parameter *p = r.request.parameters; p != NULL; p = p->next) {
        size_t i = 0;
        while (i < COUNT(wanted) && strcmp(wanted[i].key, p->key) != 0)
            i++;
        count++;
        check_or_stop(i < COUNT(wanted), "%s is not wanted", p->key);
        check(p->kind == wanted[i].kind && strcmp(p->text, wanted[i].text) == 0, "%s: %d %s",
              p->key, (int)p->kind, p->text);
    }
    check(count == COUNT(wanted), "%u parameters", count);
    drop();
}

TEST(bad_bodies_are_told_what_is_wrong)
{
    static const struct {
        const char *body, *words;
    } cases[] = {
        { "", "failed to parse the request JSON buffer: The document is empty. at 0" },
        { "  \n", "The document is empty" },
        { "[]", "'{'" },
        { "null", "'{'" },
        { "\"prompt\"", "'{'" },
        { "{", "the request" },
        { "{}", "expected 2 inputs but got 0 inputs for model 'mock': there is no 'prompt'" },
        { "{\"abc\":123}", "expected 2 inputs but got 0" },
        { "{\"prompt\":\"x\"}",
          "expected 2 inputs but got 1 inputs for model 'mock': there is no 'flag'" },
        { "{\"prompt\":123,\"flag\":false}", "attempt to access JSON non-string as string" },
        { "{\"prompt\":\"x\",\"flag\":\"false\"}",
          "attempt to access JSON non-boolean as boolean" },
        { "{\"prompt\":true,\"flag\":123}",
          "Unable to parse 'prompt': attempt to access JSON non-string" },
        { "{\"flag\":\"no\",\"prompt\":true}",
          "Unable to parse 'flag': attempt to access JSON non-boolean" },
        { "{\"prompt\":{\"USER\":\"x\"},\"flag\":true}",
          "attempt to access JSON non-string as string" },
        { "{\"prompt\":null,\"flag\":true}", "attempt to access JSON non-string as string" },
        { "{" REST ",\"wide\":\"5\"}", "attempt to access JSON non-number as number" },
        { "{" REST ",\"grid\":[1,1.5]}", "input 'grid'" },
        { "{" REST ",\"grid\":[1,4294967296]}", "out of range for INT32" },
        { "{" REST ",\"PARAMS\":{\"a\":0}}",
          "parameter 'PARAMS' has invalid type. It should be either 'int', 'bool', 'string' or 'double'" },
        { "{" REST ",\"list\":[1]}", "parameter 'list' has invalid type" },
        { "{" REST ",\"none\":null}", "parameter 'none' has invalid type" },
        { "{" REST ",\"parameters\":5}", "'{'" },
        { "{" REST ",\"parameters\":{\"parameters\":{}}}",
          "parameter 'parameters' has invalid type" },
        { "{" REST ",\"parameters\":{\"a\":{}}}", "parameter 'a' has invalid type" },
        { "{" REST ",\"parameters\":{},\"parameters\":{}}",
          "'parameters' already exists in request" },
        { "{" REST ",\"prompt\":\"again\"}", "input 'prompt' already exists in request" },
        { "{" REST ",\"parameters\":{\"flag\":true}}", "input 'flag' already exists in request" },
        { "{" REST ",\"a\":1,\"parameters\":{\"a\":1}}",
          "parameter 'a' already exists in request" },
        { "{" REST ",\"id\":5}", "id" },
        { "{" REST ",\"id\":\"a\",\"id\":\"b\"}", "'id' already exists in request" },
        { "{" REST ",\"triton_x\":1}", "parameter keys starting with 'triton_' are reserved" },
        { "{" REST ",\"sequence_id\":5}", "sequences are not built yet" },
        { "{" REST ",\"priority\":-5}", "'priority' is -5; it takes a whole number" },
        { "{" REST ",\"a\":\"x\\u0000y\"}", "holds a NUL byte" },
        { "{" REST ",\"a\\u0000\":1}", "a key holds a NUL byte" },
        { "{" REST "} trailing", "trailing" },
        { "{" REST ",}", "the request" },
        { "{" REST " \"a\":1}", "the request" },
        { "{" REST ",\"a\":1", "the request" },
        { "{" REST ",\"a\":\"\xff\"}", "UTF-8" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        read_body(cases[i].body);
        check((r.code == E_INVALID ||
               (r.code == E_UNIMPLEMENTED && strstr(cases[i].words, "not built"))) &&
                  strstr(r.err.text, cases[i].words) != NULL,
              "%s: %d %s", cases[i].body, (int)r.code, r.err.text);
        drop();
    }
}

TEST(parameters_are_so_many_and_no_more)
{
    char body[8192];

    for (unsigned many = KSERVE_PARAMETERS_MAX; many <= KSERVE_PARAMETERS_MAX + 1; many++) {
        size_t at = (size_t)snprintf(body, sizeof body, "{" REST);
        for (unsigned i = 0; i < many; i++)
            at += (size_t)snprintf(body + at, sizeof body - at, ",\"k%u\":%u", i, i);
        snprintf(body + at, sizeof body - at, "}");
        read_body(body);
        check((r.code == OK) == (many == KSERVE_PARAMETERS_MAX), "%u: %s", many, r.err.text);
        if (r.code != OK)
            check(strstr(r.err.text, "more than 256 parameters") != NULL, "%s", r.err.text);
        drop();
    }
}

/* -- answers ------------------------------------------------------------------------------------------ */

static const uint8_t text_bytes[] = { 4, 0, 0, 0, 'a', '"', '\n', 'b' };
static const float scores[] = { 0.5f, NAN };
static const int64_t numbers[] = { 1, -2, 3, INT64_MIN };

static void fill(struct response_output outputs[3], size_t score_count)
{
    memset(outputs, 0, 3 * sizeof outputs[0]);
    outputs[0] = (struct response_output){ true,
                                           { .name = "text",
                                             .dtype = PENSTOCK_BYTES,
                                             .rank = 1,
                                             .shape = { 1 },
                                             .data = text_bytes,
                                             .size = sizeof text_bytes } };
    outputs[1] = (struct response_output){ true,
                                           { .name = "score",
                                             .dtype = PENSTOCK_FP32,
                                             .rank = 1,
                                             .shape = { (int64_t)score_count },
                                             .data = scores,
                                             .size = score_count * sizeof scores[0] } };
    outputs[2] = (struct response_output){ true,
                                           { .name = "ma\"ny",
                                             .dtype = PENSTOCK_INT64,
                                             .rank = 2,
                                             .shape = { 2, 2 },
                                             .data = numbers,
                                             .size = sizeof numbers } };
}

static void check_generated(const struct response_output *outputs, const char *wanted)
{
    size_t room = kserve_generate_bound(r.plan, &r.request, outputs, true);
    struct err err = { 0 };
    struct text out;

    text_init_arena(&out, r.arena, room);
    uint8_t *begin = out.data;
    check(kserve_generate_write(&out, r.plan, &r.request, outputs, &err) == OK, "%s", err.text);
    check(!text_failed(&out) && out.size <= room && (begin == NULL || out.data == begin),
          "%zu bytes of %zu", out.size, room);
    check(strcmp(text_cstr(&out), wanted) == 0, "%s", text_cstr(&out));
}

TEST(answers_are_named_and_single_elements_bare)
{
    struct response_output outputs[3];

    read_body("{" REST ",\"id\":\"\\u0001\"}");
    check_or_stop(r.code == OK, "%s", r.err.text);
    fill(outputs, 1);
    check_generated(outputs, "{\"id\":\"\\u0001\",\"model_name\":\"mock\",\"model_version\":\"3\","
                             "\"text\":\"a\\\"\\nb\",\"score\":0.5,"
                             "\"ma\\\"ny\":[1,-2,3,-9223372036854775808]}");
    drop();
    read_body("{" REST "}");
    fill(outputs, 2);
    outputs[2].is_set = false;
    check_generated(outputs, "{\"model_name\":\"mock\",\"model_version\":\"3\","
                             "\"text\":\"a\\\"\\nb\",\"score\":[0.5,NaN]}");
    fill(outputs, 0);
    outputs[0].is_set = outputs[2].is_set = false;
    check_generated(outputs, "{\"model_name\":\"mock\",\"model_version\":\"3\",\"score\":[]}");
    outputs[1].is_set = false;
    check_generated(outputs, "{\"model_name\":\"mock\",\"model_version\":\"3\"}");
    drop();
}

/* Every size of text, with and without what has to be escaped: the sparing bound is enough for plain
 * ones, the most is enough for all, and too little is said and not overrun. */
TEST(bounds_hold)
{
    uint8_t bytes[4 + 300];

    for (unsigned round = 0; round < 600; round++) {
        uint32_t size = round / 2;
        bool is_plain = (round & 1) == 0;
        struct response_output outputs[3];
        memcpy(bytes, &size, sizeof size);
        for (uint32_t i = 0; i < size; i++)
            bytes[4 + i] = is_plain ? 'a' : (uint8_t)(i % 3 == 0 ? 1 : i % 3 == 1 ? '"' : '\\');
        read_body("{" REST "}");
        fill(outputs, 2);
        outputs[0].tensor.data = bytes;
        outputs[0].tensor.size = 4 + size;
        for (int is_most = 0; is_most <= 1; is_most++)
            for (int is_event = 0; is_event <= 1; is_event++) {
                size_t room =
                    is_event ? kserve_event_bound(r.plan, &r.request, outputs, is_most != 0)
                             : kserve_generate_bound(r.plan, &r.request, outputs, is_most != 0);
                uint8_t *exact = malloc(room);
                struct err err = { 0 };
                struct text out;
                text_init_fixed(&out, exact, room);
                check((is_event
                           ? kserve_event_write(&out, r.plan, &r.request, outputs, memory(), &err)
                           : kserve_generate_write(&out, r.plan, &r.request, outputs, &err)) == OK,
                      "%s", err.text);
                check(!text_failed(&out) || (!is_most && !is_plain),
                      "%u bytes, %s: %zu are too few", size, is_plain ? "plain" : "escaped", room);
                free(exact);
            }
        drop();
    }
}

TEST(an_event_is_an_inference_response)
{
    struct response_output outputs[3];
    struct err err = { 0 };
    struct text out;

    read_body("{" REST ",\"id\":\"7\"}");
    fill(outputs, 1);
    outputs[2].is_set = false;
    text_init_arena(&out, r.arena, 16);
    check(kserve_event_write(&out, r.plan, &r.request, outputs, memory(), &err) == OK, "%s",
          err.text);
    check(
        strcmp(
            text_cstr(&out),
            "{\"id\":\"7\",\"model_name\":\"mock\",\"model_version\":\"3\",\"outputs\":[{\"name\":"
            "\"text\",\"datatype\":\"BYTES\",\"shape\":[1],\"data\":[\"a\\\"\\nb\"]},{\"name\":"
            "\"score\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[0.5]}]}") == 0,
        "%s", text_cstr(&out));
    drop();
}

/* Every cut of a good body is refused, and reads nothing behind it. */
TEST(cut_bodies_are_refused)
{
    static const char body[] =
        "{\"prompt\":[\"h\\u00e9\"],\"flag\":true,\"wide\":[[1.5e3,2]],\"id\":\"x\","
        "\"parameters\":{\"a\":-1.5,\"b\":false,\"grid\":[1,2]},\"c\":\"d\"}";
    char cut[sizeof body];

    for (size_t size = 0; size < sizeof body - 1; size++) {
        memcpy(cut, body, size);
        cut[size] = '\0';
        read_body(cut);
        check(r.code == E_INVALID && r.err.text[0] != '\0', "%s: %d", cut, (int)r.code);
        drop();
    }
    read_body(body);
    check(r.code == OK, "%s", r.err.text);
    drop();
}
