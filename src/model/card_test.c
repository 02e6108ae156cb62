/* card_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "model/card.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/mem.h"

#include "test/harness.h"

static const char iris[] =
    "title: Iris species\n"
    "description: >\n"
    "  Which of three\n"
    "  irises is it?\n"
    "license: Apache-2.0\n"
    "inputs:\n"
    "  input:\n"
    "    title: measurements\n"
    "    description: Four lengths\n"
    "    unit: cm\n"
    "    min: 0\n"
    "    max: 1e2\n"
    "    example: [5.1, 3.5, 1.4, 0.2]\n"
    "    content_type: image/png\n"
    "    features:\n"
    "      - {name: sepal_length, unit: cm, description: long, min: 0, max: 30, example: 5.1}\n"
    "      - sepal_width\n"
    "      - name: petal_length\n"
    "      - 4th\n"
    "outputs:\n"
    "  label: {role: label, labels: [setosa, 'versicolor', no]}\n"
    "  probabilities: {role: probabilities, labels_file: labels.txt, unit: '%'}\n"
    "example: {sepal_length: 5.1, list: [1, 0x1f, 0o17, +5, False, 007, .5, 5., -1e3, 1.50, true, Null,\n"
    "          ~, 'true', yes, 12345678901234567890, 1e-400], text: \"a\\\"b\", empty: }\n";

static bool same(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

TEST(card_members)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
    struct card *card = NULL;
    struct err err = { 0 };

    check_or_stop(card_parse(&card, arena, slice_of(iris), &err) == OK, "%s", err.text);
    check(same(card->title, "Iris species"), "%s", card->title);
    check(same(card->description, "Which of three irises is it?\n"), "%s", card->description);
    check(same(card->license, "Apache-2.0"), "%s", card->license);
    check(same(card->example_json,
               "{\"sepal_length\":5.1,\"list\":[1,31,15,5,false,7,0.5,5,-1e3,1.50,true,null,null,"
               "\"true\",\"yes\",12345678901234567890,1e-400],\"text\":\"a\\\"b\",\"empty\":null}"),
          "%s", card->example_json);
    check_or_stop(card->inputs_count == 1 && card->outputs_count == 2, "tensors");
    const struct card_tensor *in = &card->inputs[0];
    check(same(in->name, "input") && in->line == 7, "line %d", in->line);
    check(same(in->human.title, "measurements") && same(in->human.unit, "cm") &&
              same(in->human.description, "Four lengths") &&
              same(in->human.content_type, "image/png") &&
              same(in->human.example_json, "[5.1,3.5,1.4,0.2]"),
          "texts");
    check(fabs(in->human.min) < 1e-9 && fabs(in->human.max - 100) < 1e-9, "range");
    check_or_stop(in->human.features_count == 4, "%u features", in->human.features_count);
    const struct feature *f = in->human.features;
    check(same(f[0].name, "sepal_length") && same(f[0].unit, "cm") &&
              same(f[0].description, "long") && fabs(f[0].max - 30) < 1e-9 &&
              fabs(f[0].example - 5.1) < 1e-9,
          "feature 0");
    check(same(f[1].name, "sepal_width") && isnan(f[1].min) && isnan(f[1].example), "feature 1");
    check(same(f[3].name, "4th"), "feature 3");
    const struct card_tensor *label = &card->outputs[0], *probabilities = &card->outputs[1];
    check(label->human.role == ROLE_LABEL && label->human.labels_count == 3 &&
              same(label->human.labels[2], "no") && label->labels_file == NULL,
          "label");
    check(isnan(label->human.min), "no range");
    check(probabilities->human.role == ROLE_PROBABILITIES &&
              same(probabilities->labels_file, "labels.txt") &&
              same(probabilities->human.unit, "%"),
          "probabilities");
}

TEST(card_may_be_empty)
{
    static const char *const empty[] = {
        "", "\n", "# nothing\n", "---\n", "---\n...\n", "~", "{}"
    };

    for (size_t i = 0; i < COUNT(empty); i++) {
        CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
        struct card *card = NULL;
        struct err err = { 0 };
        check_or_stop(card_parse(&card, arena, slice_of(empty[i]), &err) == OK, "'%s': %s",
                      empty[i], err.text);
        check(card->title == NULL && card->inputs_count == 0 && card->example_json == NULL, "'%s'",
              empty[i]);
    }
}

static const struct {
    const char *text, *error;
} wrong[] = {
    { "titel: x", "line 1, column 1: unknown key 'titel' of model.yaml; the nearest is 'title'" },
    { "x: y", "line 1, column 1: unknown key 'x' of model.yaml" },
    { "title: a\nlicense: b\ntitle: c", "line 3, column 1: 'title' is given twice" },
    { "title:", "line 1, column 7: 'title' is empty: give it a text or remove it" },
    { "title: ''", "line 1, column 8: 'title' is empty: give it a text or remove it" },
    { "title: [a]", "line 1, column 8: 'title' is expected to be a text" },
    { "title: \"a\\0b\"", "line 1, column 8: 'title' holds a zero byte" },
    { "title: !!int 5", "line 1, column 8: the tag tag:yaml.org,2002:int is not taken" },
    { "title: !mine x", "line 1, column 8: the tag !mine is not taken" },
    { "inputs: !!map {}", "line 1, column 9: the tag tag:yaml.org,2002:map is not taken" },
    { "- a", "line 1, column 1: model.yaml is expected to be a mapping (key: value)" },
    { "just words", "line 1, column 1: model.yaml is expected to be a mapping (key: value)" },
    { "[a]: b", "line 1, column 1: a key of model.yaml is expected to be a name" },
    { "? {a: b}\n: c", "line 1, column 3: a key of model.yaml is expected to be a name" },
    { "title: a\n---\ntitle: b", "line 2, column 1: a second document begins: only one is taken" },
    { "title: a\n--- x", "line 2, column 1: a second document begins: only one is taken" },
    { "title: &a x\nlicense: *a",
      "line 2, column 10: aliases (*a) are not taken: write the value out" },
    { "example: &a {b: *a}", "line 1, column 17: aliases (*a) are not taken: write the value out" },
    { "<<: {title: x}", "line 1, column 1: unknown key '<<' of model.yaml" },
    { "title: 'x", "line 1, column 10: not YAML: found unexpected end of stream, while scanning a "
                   "quoted scalar" },
    { "title: x\n\tlicense: y", "line 2, column 1: not YAML: found a tab character that violates "
                                "indentation, while scanning a plain scalar" },
    { "inputs: {a: {title: x}", "line 2, column 1: not YAML: did not find expected ',' or '}', "
                                "while parsing a flow mapping" },
    { "title: \xff", "byte 8: not YAML: invalid leading UTF-8 octet" },
    { "inputs: [a]", "line 1, column 9: inputs is expected to be a mapping (key: value)" },
    { "inputs:", "line 1, column 8: inputs is expected to be a mapping (key: value)" },
    { "inputs: {a: 5}", "line 1, column 13: input 'a' is expected to be a mapping (key: value)" },
    { "inputs: {[a]: 5}",
      "line 1, column 10: a key of 'inputs' is expected to be a tensor's name" },
    { "inputs: {'': {}}", "line 1, column 10: 'a tensor's name' is empty: give it a text or remove "
                          "it" },
    { "inputs:\n  a: {}\n  a: {}", "line 3, column 3: 'a' is given twice" },
    { "inputs: {a: {labels: [x]}}", "line 1, column 14: unknown key 'labels' of input 'a'" },
    { "outputs: {a: {example: 5}}", "line 1, column 15: unknown key 'example' of output 'a'" },
    { "outputs: {a: {titel: x}}",
      "line 1, column 15: unknown key 'titel' of output 'a'; the nearest is 'title'" },
    { "inputs: {a: {min: x}}", "line 1, column 19: 'min' is expected to be a number" },
    { "inputs: {a: {min: '5'}}", "line 1, column 19: 'min' is expected to be a number" },
    { "inputs: {a: {min: .nan}}", "line 1, column 19: 'min' is expected to be a number" },
    { "inputs: {a: {max: .inf}}", "line 1, column 19: 'max' is expected to be a number" },
    { "inputs: {a: {max: 1e999}}", "line 1, column 19: 'max' is expected to be a number" },
    { "inputs: {a: {max: [1]}}", "line 1, column 19: 'max' is expected to be a number" },
    { "inputs: {a: {max: }}", "line 1, column 19: 'max' is expected to be a number" },
    { "inputs: {a: {max: 1-2}}", "line 1, column 19: 'max' is expected to be a number" },
    { "inputs: {a: {max: 1e}}", "line 1, column 19: 'max' is expected to be a number" },
    { "inputs: {a: {max: '.'}}", "line 1, column 19: 'max' is expected to be a number" },
    { "inputs: {a: {max: 0x}}", "line 1, column 19: 'max' is expected to be a number" },
    { "inputs:\n  a: {min: 5, max: 4}", "line 2, column 6: min 5 is greater than max 4" },
    { "inputs: {a: {example: }}",
      "line 1, column 23: 'example' is empty: give it a value or remove it" },
    { "inputs: {a: {example: [1, .nan]}}",
      "line 1, column 27: 'example' holds .nan, which JSON has no number for" },
    { "inputs: {a: {example: {b: 1, b: 2}}}", "line 1, column 30: the key 'b' is given twice" },
    { "inputs: {a: {example: {[b]: 1}}}", "line 1, column 24: a key is expected to be a text" },
    { "inputs: {a: {content_type: png}}",
      "line 1, column 28: 'content_type' is expected to be a type such as image/png" },
    { "inputs: {a: {content_type: 'image/png; x=y'}}",
      "line 1, column 28: 'content_type' is expected to be a type such as image/png" },
    { "inputs: {a: {content_type: image/}}",
      "line 1, column 28: 'content_type' is expected to be a type such as image/png" },
    { "inputs: {a: {features: x}}", "line 1, column 24: features is expected to be a list" },
    { "inputs: {a: {features: [x, y, x]}}", "line 1, column 31: the feature 'x' is listed twice" },
    { "inputs: {a: {features: [{unit: cm}]}}", "line 1, column 25: the feature has no name" },
    { "inputs: {a: {features: [{name: x, nim: 1}]}}",
      "line 1, column 35: unknown key 'nim' of a feature" },
    { "inputs: {a: {features: [{name: x, min: 1, max: 0}]}}",
      "line 1, column 25: min 1 is greater than max 0" },
    { "inputs: {a: {features: [{name: x, min: 1, example: 0}]}}",
      "line 1, column 25: the example 0 of 'x' is outside of min and max" },
    { "inputs: {a: {features: [[x]]}}",
      "line 1, column 25: a feature is expected to be a mapping (key: value)" },
    { "outputs: {a: {role: labels}}",
      "line 1, column 21: 'role' is expected to be auto, value, label or probabilities" },
    { "outputs: {a: {role: [label]}}",
      "line 1, column 21: 'role' is expected to be auto, value, label or probabilities" },
    { "outputs: {a: {labels: []}}",
      "line 1, column 24: 'labels' is empty: list the labels or remove it" },
    { "outputs: {a: {labels: [x, [y]]}}", "line 1, column 27: 'a label' is expected to be a text" },
    { "outputs: {a: {labels: [x], labels_file: y}}",
      "line 1, column 41: 'labels' and 'labels_file' exclude each other" },
    { "outputs: {a: {labels_file: y, labels: [x]}}",
      "line 1, column 39: 'labels' and 'labels_file' exclude each other" },
    { "example: 5", "line 1, column 10: 'example' is expected to be a mapping (key: value)" },
    { "example: {a: [[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]}",
      "line 1, column 28: values lie within values more than 16 deep" },
};

TEST(card_errors)
{
    for (size_t i = 0; i < COUNT(wrong); i++) {
        CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
        struct card *card = NULL;
        struct err err = { 0 };
        check(card_parse(&card, arena, slice_of(wrong[i].text), &err) == E_INVALID &&
                  card == NULL && strcmp(err.text, wrong[i].error) == 0,
              "%s\n  gave %s", wrong[i].text, card != NULL ? "a card" : err.text);
    }
}

TEST(card_cut_at_every_byte)
{
    for (size_t size = 0; size < sizeof iris; size++) {
        CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
        CLEANUP(mem_free_slot) uint8_t *copy = mem_alloc(size);
        struct card *card = NULL;
        struct err err = { 0 };
        memcpy(copy, iris, size);
        enum err_code code = card_parse(&card, arena, slice_make(copy, size), &err);
        check((code == OK) == (card != NULL) && (code == OK || code == E_INVALID), "cut at %zu",
              size);
    }
}

TEST(card_is_bounded)
{
    size_t size = CARD_BYTES_MAX + 1, at;
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 256 << 20);
    CLEANUP(mem_free_slot) char *text = mem_alloc(size + 100);
    struct card *card = NULL;
    struct err err = { 0 };

    memset(text, '\n', size);
    check(card_parse(&card, arena, slice_make(text, size), &err) == E_INVALID, "too long");
    check(strcmp(err.text, "the file has 1048577 bytes, the most is 1048576") == 0, "%s", err.text);
    check(card_parse(&card, arena, slice_make(text, size - 1), &err) == OK, "%s", err.text);

    at = (size_t)snprintf(text, size, "outputs: {a: {labels: [");
    for (unsigned i = 0; i <= CARD_LABELS_MAX; i++)
        at += (size_t)snprintf(text + at, size - at, "x,\n");
    at += (size_t)snprintf(text + at, size - at, "]}}");
    check(card_parse(&card, arena, slice_make(text, at), &err) == E_INVALID, "labels");
    check(strcmp(err.text, "line 100001, column 1: there are more than 100000 labels") == 0, "%s",
          err.text);

    at = (size_t)snprintf(text, size, "inputs: {a: {features: [");
    for (unsigned i = 0; i <= 4096; i++)
        at += (size_t)snprintf(text + at, size - at, "f%u,\n", i);
    at += (size_t)snprintf(text + at, size - at, "]}}");
    check(card_parse(&card, arena, slice_make(text, at), &err) == E_INVALID, "features");
    check(strcmp(err.text, "line 4097, column 1: there are more than 4096 features") == 0, "%s",
          err.text);

    at = (size_t)snprintf(text, size, "inputs:\n");
    for (unsigned i = 0; i <= 4096; i++)
        at += (size_t)snprintf(text + at, size - at, " t%u: {}\n", i);
    check(card_parse(&card, arena, slice_make(text, at), &err) == E_INVALID, "tensors");
    check(strcmp(err.text, "line 4098, column 2: there are more than 4096 inputs") == 0, "%s",
          err.text);

    memset(text, '[', CARD_BYTES_MAX);
    check(card_parse(&card, arena, slice_make(text, CARD_BYTES_MAX), &err) == E_INVALID, "deep");
}

/* -- into a signature -------------------------------------------------------------------------- */

struct flower {
    struct signature signature;
    struct signature_tensor inputs[2], outputs[3];
};

static void flower_init(struct flower *f)
{
    *f = (struct flower){
        .inputs = { { .name = "input", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 4 } },
                    { .name = "text", .dtype = PENSTOCK_BYTES, .rank = 2, .dims = { -1, -1 } } },
        .outputs = { { .name = "label", .dtype = PENSTOCK_INT64, .rank = 1, .dims = { -1 } },
                     { .name = "probabilities",
                       .dtype = PENSTOCK_FP32,
                       .rank = 2,
                       .dims = { -1, 3 } },
                     { .name = "boxes", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 4 } } },
    };
    f->signature = (struct signature){ .inputs_count = COUNT(f->inputs),
                                       .inputs = f->inputs,
                                       .outputs_count = COUNT(f->outputs),
                                       .outputs = f->outputs };
}

static enum err_code apply(struct flower *f, const char *yaml, struct arena *arena, struct err *err)
{
    struct card *card = NULL;

    TRY(card_parse(&card, arena, slice_of(yaml), err));
    return card_apply(card, &f->signature, arena, err);
}

TEST(card_goes_into_the_signature)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
    struct flower f;
    struct err err = { 0 };

    flower_init(&f);
    check_or_stop(apply(&f, iris, arena, &err) == OK, "%s", err.text);
    check(same(f.signature.title, "Iris species") && same(f.signature.license, "Apache-2.0") &&
              f.signature.description != NULL && f.signature.example_json != NULL,
          "the model");
    check(same(f.inputs[0].title, "measurements") && f.inputs[0].features_count == 4 &&
              same(f.inputs[0].content_type, "image/png") && fabs(f.inputs[0].max - 100) < 1e-9 &&
              same(f.inputs[0].example_json, "[5.1,3.5,1.4,0.2]") && same(f.inputs[0].unit, "cm") &&
              same(f.inputs[0].description, "Four lengths"),
          "input");
    check(f.outputs[0].labels_count == 3 && f.outputs[0].role == ROLE_LABEL, "label");
    check(f.outputs[1].role == ROLE_PROBABILITIES, "probabilities");
    check(strcmp(f.inputs[0].name, "input") == 0 && f.inputs[0].rank == 2, "the tensor's own");
    signature_decide_roles(&f.signature);
    check(f.outputs[1].labels == f.outputs[0].labels && f.outputs[1].labels_count == 3,
          "labels given once serve both");
    check(f.outputs[2].role == ROLE_VALUE && f.outputs[2].labels_count == 0, "boxes");
}

TEST(card_against_the_model)
{
    static const struct {
        const char *yaml, *error;
    } rows[] = {
        { "inputs:\n  inptu: {}",
          "line 2: the model has no input 'inptu'; the nearest is 'input' (it has 'input', 'text')" },
        { "outputs: {x: {}}",
          "line 1: the model has no output 'x'; it has 'label', 'probabilities', 'boxes'" },
        { "inputs: {input: {features: [a, b, c]}}",
          "line 1: input 'input' has 3 features listed, but its last dimension is 4" },
        { "inputs: {text: {features: [a]}}",
          "line 1: input 'text' has 1 features listed, but its last dimension is -1 (any size)" },
        { "outputs: {probabilities: {labels: [a, b]}}",
          "line 1: output 'probabilities' has 2 labels listed, but its last dimension is 3" },
        { "outputs: {boxes: {role: value, labels: [a, b]}}", NULL },
        { "outputs: {label: {labels: [a, b, c, d, e]}}", NULL },
        { "inputs: {text: {min: 0}}",
          "line 1: min and max are for numbers, and input 'text' is BYTES" },
        { "outputs: {boxes: {role: label}}", NULL },
        { "inputs: {input: {title: text}}", "line 1: two of the model's inputs would be called "
                                            "'text'" },
        { "inputs:\n  input: {title: a}\n  text: {title: a}",
          "line 2: two of the model's inputs would be called 'a'" },
        { "inputs:\n  input: {title: text}\n  text: {title: input}", NULL },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
        struct flower f;
        struct err err = { 0 };
        flower_init(&f);
        enum err_code code = apply(&f, rows[i].yaml, arena, &err);
        check(code == (rows[i].error != NULL ? E_INVALID : OK), "%s: %s", rows[i].yaml, err.text);
        check(rows[i].error == NULL || strcmp(err.text, rows[i].error) == 0, "%s\n  gave %s",
              rows[i].yaml, err.text);
    }
}

TEST(card_roles_that_cannot_be)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
    struct flower f;
    struct err err = { 0 };

    flower_init(&f);
    f.outputs[0].dtype = PENSTOCK_BYTES;
    check(apply(&f, "outputs: {label: {role: label}}", arena, &err) == OK &&
              f.outputs[0].role == ROLE_LABEL,
          "a label may be text: %s", err.text);
    f.outputs[1].rank = 0;
    check(apply(&f, "outputs: {probabilities: {role: probabilities}}", arena, &err) == E_INVALID,
          "a scalar");
    check(strcmp(err.text, "line 1: the role probabilities is for one score a class along the last "
                           "dimension, and output 'probabilities' is FP32 of 0 dimensions") == 0,
          "%s", err.text);
}

TEST(labels_of_a_file)
{
    static const struct {
        const char *text;
        size_t size;
        const char *labels[3];
        unsigned count;
        const char *error;
    } rows[] = {
        { "a\nb\n", 4, { "a", "b" }, 2, NULL },
        { "a\r\nb", 4, { "a", "b" }, 2, NULL },
        { "a\n\nc\n", 5, { "a", "", "c" }, 3, NULL },
        { "\n", 1, { "" }, 1, NULL },
        { "\xef\xbb\xbf"
          "caf\xc3\xa9\r\n",
          10,
          { "caf\xc3\xa9" },
          1,
          NULL },
        { "", 0, { NULL }, 0, "there are no labels: write one a line" },
        { "a\n\xff\n", 4, { NULL }, 0, "line 2: the label is not UTF-8 text" },
        { "a\nb\0c", 5, { NULL }, 0, "line 2: the label is not UTF-8 text" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
        struct signature_tensor t = { .labels_count = 0 };
        struct err err = { 0 };
        enum err_code code =
            signature_set_labels(&t, slice_make(rows[i].text, rows[i].size), arena, &err);
        check(code == (rows[i].error != NULL ? E_INVALID : OK) && t.labels_count == rows[i].count,
              "%zu: %u labels, %s", i, t.labels_count, err.text);
        check(rows[i].error == NULL || strcmp(err.text, rows[i].error) == 0, "%s", err.text);
        for (unsigned n = 0; n < t.labels_count; n++)
            check(same(t.labels[n], rows[i].labels[n]), "%zu, %u: '%s'", i, n, t.labels[n]);
    }
}

TEST(labels_are_bounded)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 16 << 20);
    CLEANUP(mem_free_slot) char *text = mem_alloc(CARD_LABELS_MAX + 1);
    struct signature_tensor t = { .labels_count = 0 };
    struct err err = { 0 };

    memset(text, '\n', CARD_LABELS_MAX + 1);
    check(signature_set_labels(&t, slice_make(text, CARD_LABELS_MAX + 1), arena, &err) == E_INVALID,
          "one too many");
    check(strcmp(err.text, "there are more than 100000 labels") == 0, "%s", err.text);
    check(signature_set_labels(&t, slice_make(text, CARD_LABELS_MAX), arena, &err) == OK, "%s",
          err.text);
    check(t.labels_count == CARD_LABELS_MAX, "%u", t.labels_count);
}

TEST(roles_are_decided)
{
    static const char *const labels[] = { "a", "b", "c" };
    struct signature_tensor o[] = {
        { .name = "output_label", .dtype = PENSTOCK_INT64, .rank = 1, .dims = { -1 } },
        { .name = "output_probability", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, -1 } },
        { .name = "embedding", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 3 } },
        { .name = "class_count", .dtype = PENSTOCK_FP64, .rank = 1, .dims = { 1 } },
        { .name = "logits",
          .dtype = PENSTOCK_FP16,
          .rank = 2,
          .dims = { -1, 3 },
          .labels_count = 3,
          .labels = labels },
        { .name = "index",
          .dtype = PENSTOCK_INT32,
          .rank = 1,
          .dims = { -1 },
          .labels_count = 3,
          .labels = labels },
        { .name = "prob", .dtype = PENSTOCK_FP32, .rank = 1, .dims = { 3 }, .role = ROLE_VALUE },
        { .name = "label_text", .dtype = PENSTOCK_BYTES, .rank = 1, .dims = { -1 } },
    };
    static const enum output_role roles[] = { ROLE_LABEL, ROLE_PROBABILITIES, ROLE_VALUE,
                                              ROLE_VALUE, ROLE_PROBABILITIES, ROLE_LABEL,
                                              ROLE_VALUE, ROLE_VALUE };
    struct signature s = { .outputs_count = COUNT(o), .outputs = o };

    signature_decide_roles(&s);
    for (unsigned i = 0; i < COUNT(o); i++)
        check(o[i].role == roles[i], "%s: %d", o[i].name, o[i].role);
    check(o[0].labels_count == 0, "two lists of labels are nobody else's");
    s.outputs_count = 1;
    o[0].role = ROLE_AUTO;
    signature_decide_roles(&s);
    check(o[0].role == ROLE_VALUE, "a label beside no scores and without labels is a number");
}

TEST(roles_of_a_classifier_with_named_classes)
{
    static const char *const names[] = { "a", "b", "c" };
    static const int64_t numbers[] = { 10, 20, 30 };
    struct signature_tensor o[] = {
        { .name = "output_label", .dtype = PENSTOCK_BYTES, .rank = 1, .dims = { -1 } },
        { .name = "output_probability",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, 3 },
          .classes_count = 3,
          .class_names = names },
    };
    struct signature s = { .outputs_count = COUNT(o), .outputs = o };

    signature_decide_roles(&s);
    check(o[0].role == ROLE_LABEL && o[1].role == ROLE_PROBABILITIES, "text beside scores");
    check(o[0].class_names == names && o[0].classes_count == 3, "the label is of the same classes");

    o[0] = (struct signature_tensor){ .name = "y",
                                      .dtype = PENSTOCK_INT64,
                                      .rank = 1,
                                      .dims = { -1 },
                                      .classes_count = 3,
                                      .class_numbers = numbers };
    o[1].role = ROLE_AUTO;
    o[1].classes_count = 0;
    o[1].class_names = NULL;
    o[1].dims[1] = -1;
    signature_decide_roles(&s);
    check(o[0].role == ROLE_LABEL, "a number of known classes, whatever its name");
    check(o[1].class_numbers == numbers, "the scores are of the same classes");

    o[1].classes_count = 0;
    o[1].class_numbers = NULL;
    o[1].dims[1] = 4;
    signature_decide_roles(&s);
    check(o[1].classes_count == 0, "four columns are not three classes");
}

TEST(labels_are_as_many_as_classes)
{
    static const char *const labels[] = { "a", "b", "c", "d" };
    static const int64_t numbers[] = { 10, 20, 30 };
    static const struct {
        enum output_role on; /* which output has the labels */
        uint32_t count;
        int64_t columns;
        bool may_differ, has_classes, is_good;
        const char *why;
    } rows[] = {
        { ROLE_LABEL, 3, 3, false, false, true, "as many" },
        { ROLE_LABEL, 2, 3, false, false, false, "too few for the scores beside it" },
        { ROLE_LABEL, 4, 3, false, false, false, "too many" },
        { ROLE_LABEL, 2, 3, true, false, true, "of config.pbtxt" },
        { ROLE_LABEL, 2, -1, false, false, true, "not known before a run" },
        { ROLE_LABEL, 2, -1, false, true, false, "the model says how many" },
        { ROLE_LABEL, 2, 1, false, false, true, "one score of two classes" },
        { ROLE_PROBABILITIES, 3, 3, false, false, true, "as many" },
        { ROLE_PROBABILITIES, 2, 3, false, false, false, "too few" },
        { ROLE_PROBABILITIES, 4, -1, false, true, false, "the model says how many" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct signature_tensor o[] = {
            { .name = "label", .dtype = PENSTOCK_INT64, .rank = 1, .dims = { -1 } },
            { .name = "prob", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, rows[i].columns } },
        };
        struct signature s = { .outputs_count = COUNT(o), .outputs = o };
        struct signature_tensor *on = &o[rows[i].on == ROLE_LABEL ? 0 : 1];
        struct err err = { 0 };
        on->labels = labels;
        on->labels_count = rows[i].count;
        on->labels_may_differ = rows[i].may_differ;
        on->role = rows[i].on;
        if (rows[i].has_classes) {
            o[0].classes_count = 3;
            o[0].class_numbers = numbers;
        }
        signature_decide_roles(&s);
        enum err_code code = signature_check_labels(&s, &err);
        check(code == (rows[i].is_good ? OK : E_INVALID), "%zu %s: %s", i, rows[i].why, err.text);
        check(rows[i].is_good || strstr(err.text, "and the model has 3 classes") != NULL, "%s",
              err.text);
    }
}

TEST(card_survives_wherever_its_arena_ends)
{
    bool was_enough = false;

    for (size_t cap = 0; cap < 32768 && !was_enough; cap += 16) {
        CLEANUP(arena_free) struct arena *arena = arena_new(1, cap);
        struct flower f;
        struct err err = { 0 };
        flower_init(&f);
        enum err_code code = apply(&f, iris, arena, &err);
        if (code == OK)
            code = signature_set_labels(&f.outputs[1], slice_of("a\nb\nc\n"), arena, &err);
        check_or_stop(code == OK || code == E_EXHAUSTED, "cap %zu: %s", cap, err.text);
        was_enough = code == OK;
    }
    check(was_enough, "32 KiB are not enough");
}

TEST(card_survives_every_fault)
{
    for_each_fault(nth) {
        CLEANUP(arena_free) struct arena *arena = arena_new(1024, 1 << 20);
        struct flower f;
        struct err err = { 0 };
        flower_init(&f);
        enum err_code code = arena == NULL ? E_EXHAUSTED : apply(&f, iris, arena, &err);
        if (code == OK)
            code = signature_set_labels(&f.outputs[1], slice_of("a\nb\nc\n"), arena, &err);
        bool fired = fault_fired();
        check(code == (fired ? E_EXHAUSTED : OK), "fault %u: %d %s", nth, code, err.text);
        if (!fired)
            break;
    }
}
