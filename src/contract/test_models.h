/* test_models.h - signatures for the tests of dialects: plain data, no backend. Test only. */
#ifndef CONTRACT_TEST_MODELS_H
#define CONTRACT_TEST_MODELS_H

#include <math.h>

#include "base/def.h"
#include "base/mem.h"
#include "model/signature.h"

static inline void test_release(void *context UNUSED, void *data)
{
    mem_free(data);
}

#define NO_LIMITS .min = (double)NAN, .max = (double)NAN

static const char *const test_iris_labels[] = { "setosa", "versicolor", "virginica" };
static const struct feature test_iris_features[] = {
    { "sepal_length", "cm", NULL, 0, 30, 5.1, 0 },
    { "sepal_width", "cm", NULL, 0, 30, 3.5, 0 },
    { "petal_length", "cm", NULL, 0, 30, 1.4, 0 },
    { "petal_width", "cm", NULL, 0, 30, 0.2, 0 },
};

/* input FP32 [N,4] -> label INT64 [N], probabilities FP32 [N,3] */
static inline const struct signature *test_iris(void)
{
    static struct signature_tensor input = { .name = "input",
                                             .dtype = PENSTOCK_FP32,
                                             .rank = 2,
                                             .dims = { -1, 4 },
                                             .features_count = 4,
                                             .features = test_iris_features,
                                             NO_LIMITS };
    static struct signature_tensor outputs[] = {
        { .name = "label",
          .dtype = PENSTOCK_INT64,
          .rank = 1,
          .dims = { -1 },
          NO_LIMITS,
          .role = ROLE_LABEL },
        { .name = "probabilities",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, 3 },
          NO_LIMITS,
          .labels_count = 3,
          .labels = test_iris_labels,
          .role = ROLE_PROBABILITIES },
    };
    static const struct signature signature = { .inputs_count = 1,
                                                .outputs_count = 2,
                                                .inputs = &input,
                                                .outputs = outputs,
                                                .is_batchable = true };
    return &signature;
}

/* text BYTES [N,1] -> label INT64 [N], probabilities FP32 [N,2] */
static inline const struct signature *test_spam(void)
{
    static const char *const labels[] = { "ham", "spam" };
    static struct signature_tensor input = {
        .name = "text", .dtype = PENSTOCK_BYTES, .rank = 2, .dims = { -1, 1 }, NO_LIMITS
    };
    static struct signature_tensor outputs[] = {
        { .name = "label",
          .dtype = PENSTOCK_INT64,
          .rank = 1,
          .dims = { -1 },
          NO_LIMITS,
          .labels_count = 2,
          .labels = labels,
          .role = ROLE_LABEL },
        { .name = "probabilities",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, 2 },
          NO_LIMITS,
          .labels_count = 2,
          .labels = labels,
          .role = ROLE_PROBABILITIES },
    };
    static const struct signature signature = { .inputs_count = 1,
                                                .outputs_count = 2,
                                                .inputs = &input,
                                                .outputs = outputs,
                                                .is_batchable = true,
                                                .example_json =
                                                    "{\"text\":\"You won a prize, call now\"}" };
    return &signature;
}

static inline const struct signature *test_mixed(void)
{
    static struct signature_tensor inputs[] = {
        { .name = "b", .dtype = PENSTOCK_INT8, .rank = 1, .dims = { 3 }, NO_LIMITS },
        { .name = "j", .dtype = PENSTOCK_BYTES, .rank = 1, .dims = { 1 }, NO_LIMITS },
        { .name = "f", .dtype = PENSTOCK_FP32, .rank = 1, .dims = { 2 }, NO_LIMITS },
        { .name = "s", .dtype = PENSTOCK_BYTES, .rank = 1, .dims = { 2 }, NO_LIMITS },
        { .name = "e",
          .dtype = PENSTOCK_INT64,
          .rank = 1,
          .dims = { -1 },
          .is_optional = true,
          NO_LIMITS },
    };
    static struct signature_tensor outputs[] = {
        { .name = "out",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, 2 },
          NO_LIMITS,
          .role = ROLE_VALUE },
        { .name = "mean", .dtype = PENSTOCK_FP32, .rank = 0, NO_LIMITS, .role = ROLE_VALUE },
    };
    static const struct signature signature = {
        .inputs_count = 5, .outputs_count = 2, .inputs = inputs, .outputs = outputs
    };
    return &signature;
}

static inline const struct signature *test_free_strings(void)
{
    static struct signature_tensor input = {
        .name = "INPUT0", .dtype = PENSTOCK_BYTES, .rank = 2, .dims = { -1, -1 }, NO_LIMITS
    };
    static const struct signature signature = { .inputs_count = 1,
                                                .inputs = &input,
                                                .batch_max = 8 };
    return &signature;
}

static inline const struct signature *test_free_matrix(void)
{
    static struct signature_tensor input = {
        .name = "INPUT0", .dtype = PENSTOCK_FP16, .rank = 3, .dims = { -1, -1, -1 }, NO_LIMITS
    };
    static const struct signature signature = { .inputs_count = 1,
                                                .inputs = &input,
                                                .batch_max = 8 };
    return &signature;
}

/* readings FP32 [-1,3] -> verdict INT64 [1]: rows that are stacked into one question; and a state. */
static inline const struct signature *test_readings(void)
{
    static const struct feature features[] = {
        { "temperature", "C", NULL, -50, 200, 20, 0 },
        { "vibration", NULL, NULL, 0, 30, 1, 0 },
        { "current", "A", NULL, 0, 100, 12, 0 },
    };
    static struct signature_tensor inputs[] = {
        { .name = "readings",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, 3 },
          .features_count = 3,
          .features = features,
          NO_LIMITS },
        { .name = "before",
          .dtype = PENSTOCK_FP32,
          .rank = 1,
          .dims = { 2 },
          .is_state = true,
          NO_LIMITS },
    };
    static struct signature_tensor output = {
        .name = "verdict", .dtype = PENSTOCK_INT64, .rank = 1, .dims = { 1 }, NO_LIMITS
    };
    static const struct stream_card card = { .has_reduce = true,
                                             .reduce = SESSION_STACK,
                                             .axis = -1 };
    static const struct signature signature = {
        .inputs_count = 2, .outputs_count = 1, .inputs = inputs, .outputs = &output, .stream = &card
    };
    return &signature;
}

/* samples FP32 [-1,576]: windows along the second dimension. */
static inline const struct signature *test_samples(void)
{
    static struct signature_tensor inputs[] = {
        { .name = "samples", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 576 }, NO_LIMITS },
        { .name = "rate",
          .dtype = PENSTOCK_INT64,
          .rank = 1,
          .dims = { 1 },
          .is_constant = true,
          NO_LIMITS },
    };
    static struct signature_tensor output = {
        .name = "speech", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 1 }, NO_LIMITS
    };
    static const struct stream_card card = { .has_reduce = true,
                                             .reduce = SESSION_WINDOW,
                                             .window = 576,
                                             .step = 512,
                                             .pad = 64,
                                             .axis = -1 };
    static const struct signature signature = {
        .inputs_count = 2, .outputs_count = 1, .inputs = inputs, .outputs = &output, .stream = &card
    };
    return &signature;
}

#endif
