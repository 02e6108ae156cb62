/* signature_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "model/signature.h"

#include <math.h>

#include "base/arena.h"
#include "model/config.h"
#include "model/dtype.h"
#include "model/nearest.h"

#include "test/harness.h"

TEST(dtype_names_go_there_and_back)
{
    static const struct {
        const char *name, *config;
        size_t size;
    } rows[] = {
        { "BOOL", "TYPE_BOOL", 1 },     { "UINT8", "TYPE_UINT8", 1 },
        { "UINT16", "TYPE_UINT16", 2 }, { "UINT32", "TYPE_UINT32", 4 },
        { "UINT64", "TYPE_UINT64", 8 }, { "INT8", "TYPE_INT8", 1 },
        { "INT16", "TYPE_INT16", 2 },   { "INT32", "TYPE_INT32", 4 },
        { "INT64", "TYPE_INT64", 8 },   { "FP16", "TYPE_FP16", 2 },
        { "FP32", "TYPE_FP32", 4 },     { "FP64", "TYPE_FP64", 8 },
        { "BYTES", "TYPE_STRING", 0 },  { "BF16", "TYPE_BF16", 2 },
    };

    for (unsigned i = 0; i < COUNT(rows); i++) {
        enum penstock_dtype dtype = dtype_from_name(slice_of(rows[i].name));
        check(dtype == (enum penstock_dtype)(i + 1), "%s", rows[i].name);
        check(dtype_from_config(slice_of(rows[i].config)) == dtype, "%s", rows[i].config);
        check(dtype_from_config(slice_of(rows[i].name)) == dtype, "%s", rows[i].name);
        check(strcmp(dtype_name(dtype), rows[i].name) == 0, "%s", dtype_name(dtype));
        check(strcmp(dtype_config_name(dtype), rows[i].config) == 0, "%s", rows[i].config);
        check(dtype_size(dtype) == rows[i].size, "%s", rows[i].name);
    }
    check(dtype_from_name(slice_of("FP8")) == PENSTOCK_INVALID, "unknown");
    check(dtype_from_name(slice_of("TYPE_FP32")) == PENSTOCK_INVALID, "not a KServe name");
}

TEST(shape_count_cases)
{
    static const struct {
        uint32_t rank;
        int64_t shape[3];
        bool is_fine;
        uint64_t count;
    } rows[] = {
        { 0, { 0 }, true, 1 },
        { 2, { 3, 4 }, true, 12 },
        { 3, { INT64_MAX, INT64_MAX, 0 }, true, 0 },
        { 2, { 0, -1 }, false, 0 },
        { 2, { INT64_MAX, 2 }, false, 0 },
        { 1, { INT64_MAX }, true, INT64_MAX },
    };

    for (unsigned i = 0; i < COUNT(rows); i++) {
        uint64_t count = 42;
        check(shape_count(rows[i].rank, rows[i].shape, &count) == rows[i].is_fine, "row %u", i);
        check(count == (rows[i].is_fine ? rows[i].count : 42), "row %u", i);
    }
}

TEST(shape_text_is_cut)
{
    char out[8];
    int64_t shape[] = { -1, 224, 3 };

    check(strcmp(shape_text(out, sizeof out, 0, shape), "[]") == 0, "%s", out);
    check(strcmp(shape_text(out, sizeof out, 1, shape), "[-1]") == 0, "%s", out);
    check(strcmp(shape_text(out, sizeof out, 3, shape), "[-1]") == 0, "%s", out);
}

TEST(signature_shapes)
{
    static const struct signature_tensor image = {
        .name = "image", .dtype = PENSTOCK_FP32, .rank = 3, .dims = { -1, 3, -1 }
    };
    static const struct signature_tensor scalar = {
        .name = "rate", .dtype = PENSTOCK_INT64, .rank = 1, .dims = { 1 }, .is_reshaped = true
    };
    struct err err = { 0 };

    check(signature_check_shape(&image, 3, (int64_t[]){ 2, 3, 0 }, &err) == OK, "fits");
    check(signature_check_shape(&image, 3, (int64_t[]){ 2, 4, 5 }, &err) == E_INVALID, "dim");
    check(strcmp(err.text, "unexpected shape for input 'image': got [2,4,5], expected [-1,3,-1]") ==
              0,
          "%s", err.text);
    check(signature_check_shape(&image, 2, (int64_t[]){ 2, 3 }, &err) == E_INVALID, "rank");
    check(signature_check_shape(&image, 3, (int64_t[]){ -1, 3, 5 }, &err) == E_INVALID, "-1");
    check(signature_check_shape(&scalar, 1, (int64_t[]){ 1 }, &err) == OK, "as listed");
    check(signature_check_shape(&scalar, 0, NULL, &err) == OK, "as it is");
    check(signature_check_shape(&scalar, 1, (int64_t[]){ 2 }, &err) == E_INVALID, "two");
}

TEST(nearest_cases)
{
    static const char *const names[] = { "input", "output", "instance_group", "max_batch_size" };
    static const struct {
        const char *got, *best;
    } rows[] = {
        { "inptu", "input" },
        { "inputs", "input" },
        { "INPUT", "input" },
        { "maxBatchSize", "max_batch_size" },
        { "instancegroup", "instance_group" },
        { "zzz", NULL },
        { "", NULL },
        { "i", NULL },
        { "in", NULL },
        { "ouput", "output" },
    };

    for (unsigned i = 0; i < COUNT(rows); i++) {
        struct nearest nearest = nearest_to(slice_of(rows[i].got));
        for (unsigned n = 0; n < COUNT(names); n++)
            nearest_offer(&nearest, names[n]);
        const char *best = nearest_best(&nearest);
        check((best == NULL) == (rows[i].best == NULL) &&
                  (best == NULL || strcmp(best, rows[i].best) == 0),
              "%s: %s", rows[i].got, best == NULL ? "none" : best);
    }
}

static struct signature *build(const char *pbtxt, const struct declared *declared,
                               struct arena *arena)
{
    CLEANUP(config_free) struct model_config *config = NULL;
    struct signature *signature = NULL;
    struct err err = { 0 };

    if (config_parse(&config, slice_of(pbtxt), &err) != OK ||
        config_complete(config, "m", "onnxruntime", "onnxruntime_onnx", declared, true, 0, &err) !=
            OK ||
        signature_from_config(config, declared, arena, &signature, &err) != OK)
        check(false, "%s: %s", pbtxt, err.text);
    return signature;
}

TEST(signature_of_a_batching_model)
{
    static const struct declared_tensor in[] = { { "a", PENSTOCK_FP32, 2, { -1, 4 }, false, 0, NULL, NULL },
                                                 { "b", PENSTOCK_INT64, 1, { -1 }, false, 0, NULL, NULL } };
    static const struct declared_tensor out[] = { { "x", PENSTOCK_FP32, 2, { -1, -1 }, false, 0, NULL, NULL },
                                                  { "y", PENSTOCK_FP32, 2, { -1, 2 }, false, 0, NULL, NULL } };
    static const struct declared declared = { 2, 2, in, out };
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
    /* Listed in another order than declared, one output not at all. */
    struct signature *s = build("max_batch_size: 8 input [{name: 'b'}, {name: 'a' dims: [2, 2] "
                                "reshape { shape: 4 }}] output { name: 'y' }",
                                &declared, arena);

    check_or_stop(s != NULL, "built");
    check(s->inputs_count == 2 && s->outputs_count == 2 && s->batch_max == 8 && s->is_batchable,
          "%u %u %u", s->inputs_count, s->outputs_count, s->batch_max);
    const struct signature_tensor *a = &s->inputs[0], *b = &s->inputs[1], *x = &s->outputs[0];
    check(strcmp(a->name, "a") == 0 && a->rank == 3 && a->dims[0] == -1 && a->dims[1] == 2 &&
              a->dims[2] == 2 && a->is_reshaped && a->reshape_rank == 2 && a->reshape[0] == -1 &&
              a->reshape[1] == 4 && isnan(a->min) && isnan(a->max) && !a->is_hidden,
          "a");
    check(b->dtype == PENSTOCK_INT64 && b->rank == 2 && b->dims[0] == -1 && b->dims[1] == 1 &&
              b->is_reshaped && b->reshape_rank == 1 && b->reshape[0] == -1,
          "b");
    check(x->is_hidden && x->rank == 2 && strcmp(x->name, "x") == 0, "x is hidden");
    check(signature_output(s, slice_of("x"), NULL) == NULL, "x cannot be named");
    uint32_t at = 0;
    check(signature_input(s, slice_of("b"), &at) == b && at == 1, "b");
    check(signature_input(s, slice_of("c"), NULL) == NULL, "no c");
    check(signature_output(s, slice_of("y"), &at) == &s->outputs[1] && at == 1,
          "y keeps its index");
}

TEST(signature_survives_wherever_its_arena_ends)
{
    static const struct declared_tensor in[] = { { "a", PENSTOCK_FP32, 2, { -1, 4 }, false, 0, NULL, NULL } };
    static const struct declared_tensor out[] = { { "x", PENSTOCK_FP32, 2, { -1, -1 }, false, 0, NULL, NULL },
                                                  { "y", PENSTOCK_FP32, 2, { -1, 2 }, false, 0, NULL, NULL } };
    static const struct declared declared = { 1, 2, in, out };
    CLEANUP(config_free) struct model_config *config = NULL;
    bool was_enough = false;
    struct err err = { 0 };

    check_or_stop(config_parse(&config, slice_of("output { name: 'y' }"), &err) == OK, "parsed");
    check_or_stop(config_complete(config, "m", "b", NULL, &declared, true, 0, &err) == OK, "done");
    for (size_t filled = 0; filled < 1024 && !was_enough; filled += 16) {
        CLEANUP(arena_free) struct arena *arena = arena_new(1024, 0);
        struct signature *signature = NULL;
        /* The first block is always there: less and less of it is taken beforehand. */
        check(arena_alloc(arena, 1024 - filled) != NULL, "a first block of 1 KiB");
        enum err_code code = signature_from_config(config, &declared, arena, &signature, &err);
        check((code == OK) == (signature != NULL) && (code == OK || code == E_EXHAUSTED), "%s",
              err.text);
        was_enough = code == OK;
    }
    CLEANUP(arena_free) struct arena *arena = arena_new(1024, 1 << 20);
    struct signature *signature = NULL;
    check(signature_from_config(config, &declared, arena, &signature, &err) == OK, "%s", err.text);
}

TEST(signature_without_batching)
{
    static const struct declared_tensor in[] = { { "a", PENSTOCK_FP32, 2, { -1, 4 }, false, 0, NULL, NULL },
                                                 { "rate", PENSTOCK_INT64, 0, { 0 }, false, 0, NULL, NULL },
                                                 { "bias", PENSTOCK_FP32, 1, { -1 }, true, 0, NULL, NULL } };
    static const struct declared_tensor out[] = { { "x", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL } };
    static const struct declared declared = { 3, 1, in, out };
    static const struct declared only_free = { 1, 1, in, in };
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
    struct signature *s = build("", &declared, arena);

    check_or_stop(s != NULL, "built");
    check(s->batch_max == 0 && !s->is_batchable, "a scalar is no batch");
    check(s->inputs[0].rank == 2 && !s->inputs[0].is_reshaped, "as declared");
    check(s->inputs[1].rank == 1 && s->inputs[1].dims[0] == 1 && s->inputs[1].is_reshaped &&
              s->inputs[1].reshape_rank == 0,
          "a scalar is shown as [1]");
    check(s->inputs[2].is_optional && !s->inputs[2].is_hidden, "optional");
    check(s->outputs[0].rank == 0 && !s->outputs[0].is_reshaped, "of a rank that may be unknown");
    s = build("input { name: 'a' } output { name: 'a' dims: [7, 4] }", &only_free, arena);
    check_or_stop(s != NULL, "built");
    check(s->is_batchable == false && s->outputs[0].dims[0] == 7, "fixed by the configuration");
    s = build("", &only_free, arena);
    check(s != NULL && s->is_batchable && s->batch_max == 0, "free first dims may be rows");
    s = build("input { name: 'q' data_type: TYPE_STRING dims: 1 } input { name: 'p' data_type: "
              "TYPE_FP32 dims: [-1] } output { name: 'r' data_type: TYPE_BOOL dims: [] }",
              NULL, arena);
    check_or_stop(s != NULL, "built");
    check(strcmp(s->inputs[0].name, "q") == 0 && s->inputs[0].dtype == PENSTOCK_BYTES,
          "in the configuration's order");
    check(s->outputs[0].rank == 0, "dims [] is a scalar");
}
