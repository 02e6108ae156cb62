/* classes_test.c - which classes a graph says its outputs tell apart.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/onnx/classes.h"

#include <stdio.h>

#include "base/arena.h"
#include "base/pb_text.h"
#include "test/harness.h"

/* -- writing a graph: fields of onnx.proto ------------------------------------------------------- */

struct message {
    uint8_t room[1024];
    struct text text;
};

static struct text *begin(struct message *m)
{
    text_init_fixed(&m->text, m->room, sizeof m->room);
    return &m->text;
}

static void put_str(struct text *out, unsigned number, const char *text)
{
    pb_text_bytes(out, number, slice_of(text));
}

/* `names` between blanks. */
static void put_names(struct text *out, unsigned number, const char *names)
{
    for (struct slice rest = slice_of(names); rest.size != 0;) {
        struct slice name = slice_first(rest, slice_find(rest, ' '));
        pb_text_bytes(out, number, name);
        rest = slice_skip(rest, MIN(name.size + 1, rest.size));
    }
}

static void put_node(struct text *graph, const char *op, const char *inputs, const char *outputs,
                     const struct text *attribute)
{
    struct message node;

    begin(&node);
    put_names(&node.text, 1, inputs);
    put_names(&node.text, 2, outputs);
    put_str(&node.text, 4, op);
    if (attribute != NULL)
        pb_text_bytes(&node.text, 5, text_slice(attribute));
    pb_text_bytes(graph, 1, text_slice(&node.text));
}

static void put_value(struct text *graph, unsigned number, const char *name)
{
    struct message value;

    put_str(begin(&value), 1, name);
    pb_text_bytes(graph, number, text_slice(&value.text));
}

/* Classes of the one output that has any, as text. */
static const char *classes_of(const struct text *graph)
{
    static char text[128];
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
    struct onnx_classes found[CLASS_OUTPUTS_MAX];
    struct message model;
    struct err err = { 0 };
    uint32_t count = 0;

    pb_text_bytes(begin(&model), 7, text_slice(graph));
    check(!text_failed(&model.text) && !text_failed(graph), "the test's room");
    snprintf(text, sizeof text, "not known");
    check(onnx_classes_find(found, &count, text_slice(&model.text), arena, &err) == OK, "%s",
          err.text);
    for (uint32_t i = 0; count == 1 && i < found[0].count; i++) {
        size_t at = i == 0 ? 0 : strlen(text);
        if (found[0].names != NULL)
            snprintf(text + at, sizeof text - at, "%s ", found[0].names[i]);
        else
            snprintf(text + at, sizeof text - at, "%lld ", (long long)found[0].numbers[i]);
    }
    return text;
}

/* -- tests ---------------------------------------------------------------------------------------- */

TEST(classes_of_a_classifier)
{
    static const int64_t ids[] = { 10, -20, 30 };
    static const struct {
        const char *op, *inputs, *outputs;
        const char *first; /* of two words; NULL: the ids */
        const char *more;  /* another attribute that holds floats, or NULL */
        const char *expected;
    } rows[] = {
        { "LinearClassifier", "x", "label y0", "no", NULL, "no yes " },
        { "LinearClassifier", "x", "y0 scores", NULL, NULL, "10 -20 30 " },
        { "TreeEnsembleClassifier", "x", "label y0", NULL, NULL, "10 -20 30 " },
        { "TreeEnsembleClassifier", "x", "label y0", "\xff", NULL, "not known" },
        { "ZipMap", "x", "y0", "no", NULL, "no yes " },
        { "SVMClassifier", "x", "y0 scores", "no", NULL, "no yes " },
        { "SVMClassifier", "x", "label y0", "no", NULL, "not known" },
        { "SVMClassifier", "x", "label y0", "no", "prob_a", "no yes " },
        { "ArrayFeatureExtractor", "ids x", "y0", "no", NULL, "10 -20 30 " },
        { "ArrayFeatureExtractor", "narrow x", "y0", "no", NULL, "-5 7 " },
        { "ArrayFeatureExtractor", "words x", "y0", NULL, NULL, "a b " },
        { "ArrayFeatureExtractor", "open x", "y0", "no", NULL, "not known" },
        { "ArrayFeatureExtractor", "x x", "y0", "no", NULL, "not known" },
        { "Gemm", "x", "y0", "no", NULL, "not known" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct message graph, attribute, floats, tensor;
        static const int32_t narrow[] = { -5, 7 };
        begin(&graph);
        begin(&attribute);
        put_str(&attribute.text, 1,
                rows[i].first != NULL ? "classlabels_strings" : "classlabels_ints");
        for (size_t k = 0; rows[i].first == NULL && k < COUNT(ids); k++)
            pb_text_uint(&attribute.text, 8, (uint64_t)ids[k]);
        if (rows[i].first != NULL) {
            put_str(&attribute.text, 9, rows[i].first);
            put_str(&attribute.text, 9, "yes");
        }
        struct message node;
        begin(&node);
        put_names(&node.text, 1, rows[i].inputs);
        put_names(&node.text, 2, rows[i].outputs);
        put_str(&node.text, 4, rows[i].op);
        if (rows[i].more != NULL) {
            put_str(begin(&floats), 1, rows[i].more);
            put_str(&floats.text, 7, "abcd"); /* packed: one */
            pb_text_bytes(&node.text, 5, text_slice(&floats.text));
        }
        pb_text_bytes(&node.text, 5, text_slice(&attribute.text));
        pb_text_bytes(&graph.text, 1, text_slice(&node.text));
        put_node(&graph.text, "Normalizer", "y0", "y1", NULL);
        put_node(&graph.text, "Cast", "y1", "y", NULL);
        /* Constants: as numbers, as bytes, as text, and one that a caller may replace. */
        pb_text_uint(begin(&tensor), 2, 7);
        put_str(&tensor.text, 8, "ids");
        for (size_t k = 0; k < COUNT(ids); k++)
            pb_text_uint(&tensor.text, 7, (uint64_t)ids[k]);
        pb_text_bytes(&graph.text, 5, text_slice(&tensor.text));
        pb_text_uint(begin(&tensor), 2, 6);
        put_str(&tensor.text, 8, "narrow");
        pb_text_bytes(&tensor.text, 9, slice_make(narrow, sizeof narrow));
        pb_text_bytes(&graph.text, 5, text_slice(&tensor.text));
        pb_text_uint(begin(&tensor), 2, 8);
        put_str(&tensor.text, 8, "words");
        put_names(&tensor.text, 6, "a b");
        pb_text_bytes(&graph.text, 5, text_slice(&tensor.text));
        pb_text_uint(begin(&tensor), 2, 7);
        put_str(&tensor.text, 8, "open");
        pb_text_uint(&tensor.text, 7, 1);
        pb_text_bytes(&graph.text, 5, text_slice(&tensor.text));
        put_value(&graph.text, 11, "x");
        put_value(&graph.text, 11, "open");
        put_value(&graph.text, 12, "y");
        const char *got = classes_of(&graph.text);
        check(strcmp(got, rows[i].expected) == 0, "%s %s -> %s: %s", rows[i].op, rows[i].inputs,
              rows[i].outputs, got);
    }
}

/* A graph may go in circles; the search does not. */
TEST(classes_of_a_circle)
{
    struct message graph;

    put_node(begin(&graph), "Cast", "y", "y", NULL);
    put_value(&graph.text, 12, "y");
    check(strcmp(classes_of(&graph.text), "not known") == 0, "a circle");
}
