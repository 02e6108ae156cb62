/* classes_test.c - which classes a graph says its outputs tell apart. SPDX-License-Identifier: Apache-2.0 */
#include "backend/onnx/classes.h"

#include <stdio.h>

#include "backend/model_maker.h"
#include "base/arena.h"
#include "test/harness.h"

/* The classes that are found behind output "y" of `maker`, as text; it is then finished. */
static const char *classes_of(struct maker *maker)
{
    static char text[128];
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
    struct onnx_classes found[CLASS_OUTPUTS_MAX];
    struct text bytes = maker_finish(maker);
    struct err err = { 0 };
    uint32_t count = 0;

    snprintf(text, sizeof text, "not known");
    check(onnx_classes_find(found, &count, text_slice(&bytes), arena, &err) == OK, "%s", err.text);
    for (uint32_t i = 0; count == 1 && i < found[0].count; i++) {
        size_t at = i == 0 ? 0 : strlen(text);
        if (found[0].names != NULL)
            snprintf(text + at, sizeof text - at, "%s ", found[0].names[i]);
        else
            snprintf(text + at, sizeof text - at, "%lld ", (long long)found[0].numbers[i]);
    }
    text_deinit(&bytes);
    return text;
}

TEST(onnx_classes_of_a_classifier)
{
    static const char *const words[] = { "no", "yes" }, *const damaged[] = { "no", "\xff" };
    static const int64_t ids[] = { 10, -20, 30 };
    static const struct {
        const char *op, *inputs, *outputs;
        const char *const *words; /* else the ids */
        const char *expected;
    } rows[] = {
        { "LinearClassifier", "x", "label y0", words, "no yes " },
        { "LinearClassifier", "x", "y0 scores", NULL, "10 -20 30 " },
        { "TreeEnsembleClassifier", "x", "label y0", NULL, "10 -20 30 " },
        { "TreeEnsembleClassifier", "x", "label y0", damaged, "not known" },
        { "SVMClassifier", "x", "y0 scores", words, "no yes " },
        { "SVMClassifier", "x", "label y0", words, "not known" },
        { "ArrayFeatureExtractor", "ids x", "y0", words, "10 -20 30 " },
        { "ArrayFeatureExtractor", "x x", "y0", words, "not known" },
        { "Gemm", "x", "y0", words, "not known" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct maker maker;
        struct maker_attributes attributes = { { 0 } };
        maker_begin(&maker);
        maker_input(&maker, "x", ONNX_FLOAT, "?,3");
        maker_output(&maker, "y", ONNX_FLOAT, "?,3");
        maker_ints(&maker, "ids", "3", ids, 3);
        if (rows[i].words != NULL)
            maker_attribute_strings(&attributes, "classlabels_strings", rows[i].words, 2);
        else
            maker_attribute_ints(&attributes, "classlabels_ints", ids, 3);
        maker_node(&maker, rows[i].op, "ai.onnx.ml", rows[i].inputs, rows[i].outputs, &attributes);
        maker_node(&maker, "Normalizer", "ai.onnx.ml", "y0", "y1", NULL);
        maker_node(&maker, "Cast", NULL, "y1", "y", NULL);
        const char *got = classes_of(&maker);
        check(strcmp(got, rows[i].expected) == 0, "%s %s: %s", rows[i].op, rows[i].outputs, got);
    }
    /* A model may go in circles; the search does not. */
    struct maker maker;
    maker_begin(&maker);
    maker_output(&maker, "y", ONNX_FLOAT, "?");
    maker_node(&maker, "Cast", NULL, "y", "y", NULL);
    check(strcmp(classes_of(&maker), "not known") == 0, "a circle");
}
