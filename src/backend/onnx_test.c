/* onnx_test.c - the ONNX backend on models made here, through a host that watches it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "backend/builtin.h"
#include "backend/fake_host.h"
#include "backend/model_maker.h"
#include "base/clock.h"
#include "test/harness.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SANITIZED = 1 };
#else
enum { IS_SANITIZED = 0 };
#endif

/* One model in a folder of its own, opened and closed. */
struct fixture {
    char folder[64], path[128];
    struct fake_model model;
    const struct penstock_backend *backend;
    void *opened, *instance;
    uint32_t traits;
    struct err err;
    unsigned violations;
    struct fake_batch batch;
    bool has_batch;
};

static bool begin(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    fake_runtime_path = getenv("PENSTOCK_RUNTIME_DIR");
    if (fake_runtime_path == NULL) {
        test_skip("PENSTOCK_RUNTIME_DIR does not say where ONNX Runtime is");
        return false;
    }
    snprintf(f->folder, sizeof f->folder, "/tmp/penstock-onnx-XXXXXX");
    if (mkdtemp(f->folder) == NULL)
        abort();
    snprintf(f->path, sizeof f->path, "%s/model.onnx", f->folder);
    f->model.name = "model";
    f->model.folder = f->folder;
    f->model.path = f->path;
    f->backend = backend_builtin("onnxruntime_onnx", &fake_host, backend_err(&f->err));
    f->violations = atomic_load(&fake_violations);
    return f->backend != NULL;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

static void close_model(struct fixture *f)
{
    if (f->instance != NULL)
        f->backend->instance_close(&f->instance);
    if (f->opened != NULL)
        f->backend->model_close(&f->opened);
    fake_model_deinit(&f->model);
}

static void end(struct fixture *f)
{
    close_model(f);
    if (f->has_batch)
        fake_batch_deinit(&f->batch);
    if (f->folder[0] != '\0')
        nftw(f->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    check(atomic_load(&fake_violations) == f->violations, "the backend broke its contract");
}

/* Opens model and instance; the code of the first that fails. */
static int open_model(struct fixture *f)
{
    f->err = (struct err){ .code = OK };
    int code = f->backend->model_open(&f->opened, fake_model_host(&f->model), &f->traits,
                                      backend_err(&f->err));
    if (code == OK)
        code = f->backend->instance_open(&f->instance, f->opened, 0,
                                         (struct penstock_place){ PENSTOCK_CPU, 0 },
                                         backend_err(&f->err));
    return code;
}

static int save_and_open(struct fixture *f, struct maker *maker)
{
    maker_save(maker, f->folder, "model.onnx");
    return open_model(f);
}

static struct fake_batch *batch(struct fixture *f, uint32_t rows)
{
    if (f->has_batch)
        fake_batch_deinit(&f->batch);
    fake_batch_init(&f->batch, &f->model, rows);
    f->has_batch = true;
    return &f->batch;
}

static int run(struct fixture *f)
{
    fake_batch_reset(&f->batch);
    return fake_batch_run(&f->batch, f->backend, f->instance);
}

static void input_floats(struct fixture *f, uint32_t index, uint32_t rank, const int64_t *shape,
                         const float *values, size_t count)
{
    fake_batch_input(&f->batch, index, PENSTOCK_FP32, rank, shape, values, count * sizeof *values);
}

static bool is_floats(const struct penstock_tensor *tensor, uint32_t rank, const int64_t *shape,
                      const float *values, size_t count)
{
    if (tensor == NULL || tensor->rank != rank || tensor->size != count * sizeof *values)
        return false;
    return (rank == 0 || memcmp(tensor->shape, shape, rank * sizeof *shape) == 0) &&
           (count == 0 || memcmp(tensor->data, values, tensor->size) == 0);
}

static const char *says(const struct fixture *f, const char *word)
{
    return strstr(f->err.text, word);
}

/* y = x + 1 over any number of rows of two. */
static void make_plus_one(struct maker *maker, const char *rows)
{
    static const float one = 1;
    char shape[32];

    maker_begin(maker);
    snprintf(shape, sizeof shape, "%s,2", rows);
    maker_input(maker, "x", ONNX_FLOAT, shape);
    maker_output(maker, "y", ONNX_FLOAT, shape);
    maker_floats(maker, "one", "1", &one, 1);
    maker_node(maker, "Add", NULL, "x one", "y", NULL);
}

/* -- the library ------------------------------------------------------------------------------ */

/* Stands first: once the library is loaded it stays. */
TEST(onnx_names_what_to_install)
{
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    fake_runtime_path = NULL;
    check(save_and_open(&f, &maker) == E_UNAVAILABLE, "opened without a library");
    check(says(&f, "script/bootstrap") && says(&f, "pip install onnxruntime"), "says %s",
          f.err.text);
    fake_runtime_path = "relative/lib";
    check(open_model(&f) == E_UNAVAILABLE, "a relative path was looked for");
    fake_runtime_path = f.folder; /* exists, and holds no library */
    check(open_model(&f) == E_UNAVAILABLE && says(&f, "--runtime-dir"), "says %s", f.err.text);
    maker_write_file(f.folder, "libonnxruntime.so", "not a library", 13);
    check(open_model(&f) == E_UNAVAILABLE && says(&f, "cannot load"), "says %s", f.err.text);
    fake_runtime_path = getenv("PENSTOCK_RUNTIME_DIR");
    check(open_model(&f) == OK, "a failed load is tried again: %s", f.err.text);
    end(&f);
}

/* -- one row ---------------------------------------------------------------------------------- */

TEST(onnx_runs_named_dimensions)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 3, 2 };
    float x[] = { 1, 2, 3, 4, 5, 6 }, y[] = { 2, 3, 4, 5, 6, 7 };

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    const struct fake_declared *in = fake_model_find(&f.model, false, "x");
    const struct fake_declared *out = fake_model_find(&f.model, true, "y");
    check(in != NULL && in->dtype == PENSTOCK_FP32 && in->rank == 2 && in->dims[0] == -1 &&
              in->dims[1] == 2 && !in->is_optional,
          "input");
    check(out != NULL && out->dtype == PENSTOCK_FP32 && out->rank == 2 && out->dims[0] == -1,
          "output");
    check(f.traits == (PENSTOCK_BACKEND_RUNS_INLINE | PENSTOCK_BACKEND_CAN_BATCH |
                       PENSTOCK_BACKEND_TAKES_TEXT),
          "traits %u", f.traits);
    batch(&f, 1);
    input_floats(&f, 0, 2, shape, x, 6);
    for (int i = 0; i < 3; i++) {
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 2, shape, y, 6), "run %d", i);
    }
    check(f.batch.marks == 2, "compute was marked %u times", f.batch.marks);
    /* no rows at all */
    shape[0] = 0;
    input_floats(&f, 0, 2, shape, x, 0);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 2, shape, y, 0), "no rows");
    end(&f);
}

TEST(onnx_runs_nameless_dimensions)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 3, 2 };
    float x[] = { 1, 2, 3, 4, 5, 6 }, y[] = { 2, 3, 4, 5, 6, 7 };

    if (!begin(&f))
        return;
    make_plus_one(&maker, "?");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    for (shape[0] = 3; shape[0] > 0; shape[0]--) {
        input_floats(&f, 0, 2, shape, x, (size_t)shape[0] * 2);
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 2, shape, y, (size_t)shape[0] * 2),
              "%lld rows", (long long)shape[0]);
    }
    end(&f);
}

/* The shape that is guessed before the run is wrong: the answer is right all the same. */
static void run_misjudged(const char *input_shape, const char *output_shape)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 3, 2 }, flat[] = { 6 }, all[] = { -1 };
    float x[] = { 1, 2, 3, 4, 5, 6 };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, input_shape);
    maker_output(&maker, "y", ONNX_FLOAT, output_shape);
    maker_output(&maker, "z", ONNX_FLOAT, input_shape);
    maker_ints(&maker, "all", "1", all, 1);
    maker_node(&maker, "Reshape", NULL, "x all", "y", NULL);
    maker_node(&maker, "Neg", NULL, "x", "z", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_floats(&f, 0, 2, shape, x, 6);
    for (int i = 0; i < 3; i++) {
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, flat, x, 6), "%s, run %d",
              output_shape, i);
        const struct penstock_tensor *z = fake_batch_output(&f.batch, 0, 0, 1);
        check(z != NULL && z->shape[0] == 3 && ((const float *)z->data)[5] == -6, "run %d", i);
    }
    end(&f);
}

TEST(onnx_survives_wrong_shapes_of_the_author)
{
    run_misjudged("?,2", "?"); /* a guess of ours */
    run_misjudged("N,2", "N"); /* a name that lies */
}

/* Outputs that no node computes: the input itself, a weight, and copies of them. */
TEST(onnx_hands_through_inputs_and_constants)
{
    struct fixture f;
    struct maker maker;
    float k[] = { 7, 8 }, x[] = { 1, 2 };
    int64_t two[] = { 2 };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "2");
    maker_output(&maker, "k", ONNX_FLOAT, "2");
    maker_output(&maker, "same", ONNX_FLOAT, "2");
    maker_output(&maker, "folded", ONNX_FLOAT, "2");
    maker_output(&maker, "twice", ONNX_FLOAT, "2");
    maker_floats(&maker, "k", "2", k, 2);
    maker_node(&maker, "Identity", NULL, "x", "same", NULL);
    maker_node(&maker, "Identity", NULL, "same", "twice", NULL);
    maker_node(&maker, "Neg", NULL, "k", "folded", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_floats(&f, 0, 1, two, x, 2);
    float negative[] = { -7, -8 };
    for (int i = 0; i < 2; i++) {
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, two, k, 2), "weight");
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 1), 1, two, x, 2), "input");
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 2), 1, two, negative, 2), "folded");
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 3), 1, two, x, 2), "twice");
    }
    end(&f);
}

TEST(onnx_model_without_inputs)
{
    struct fixture f;
    struct maker maker;
    float k[] = { 7, 8 }, negative[] = { -7, -8 };
    int64_t two[] = { 2 };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_output(&maker, "y", ONNX_FLOAT, "2");
    maker_floats(&maker, "k", "2", k, 2);
    maker_node(&maker, "Neg", NULL, "k", "y", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    check((f.traits & PENSTOCK_BACKEND_CAN_BATCH) == 0, "no batch of nothing");
    batch(&f, 1);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, two, negative, 2), "a constant");
    end(&f);
}

TEST(onnx_output_named_as_its_input)
{
    struct fixture f;
    struct maker maker;
    float x[] = { 1, 2 };
    int64_t two[] = { 2 };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "2");
    maker_output(&maker, "x", ONNX_FLOAT, "2");
    maker_output(&maker, "y", ONNX_FLOAT, "2");
    maker_node(&maker, "Neg", NULL, "x", "y", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_floats(&f, 0, 1, two, x, 2);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, two, x, 2), "x itself");
    end(&f);
}

TEST(onnx_every_element_type)
{
    static const struct {
        int onnx;
        enum penstock_dtype dtype;
        size_t size;
    } types[] = {
        { ONNX_FLOAT, PENSTOCK_FP32, 4 },    { ONNX_UINT8, PENSTOCK_UINT8, 1 },
        { ONNX_INT8, PENSTOCK_INT8, 1 },     { ONNX_UINT16, PENSTOCK_UINT16, 2 },
        { ONNX_INT16, PENSTOCK_INT16, 2 },   { ONNX_INT32, PENSTOCK_INT32, 4 },
        { ONNX_INT64, PENSTOCK_INT64, 8 },   { ONNX_BOOL, PENSTOCK_BOOL, 1 },
        { ONNX_FLOAT16, PENSTOCK_FP16, 2 },  { ONNX_DOUBLE, PENSTOCK_FP64, 8 },
        { ONNX_UINT32, PENSTOCK_UINT32, 4 }, { ONNX_UINT64, PENSTOCK_UINT64, 8 },
        { ONNX_BFLOAT16, PENSTOCK_BF16, 2 },
    };
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 2, 3 };
    uint8_t bytes[COUNT(types)][48];
    char name[16], to[16];

    if (!begin(&f))
        return;
    maker_begin(&maker);
    for (size_t i = 0; i < COUNT(types); i++) {
        snprintf(name, sizeof name, "in%zu", i);
        snprintf(to, sizeof to, "out%zu", i);
        maker_input(&maker, name, types[i].onnx, "N,M");
        maker_output(&maker, to, types[i].onnx, "N,M");
        maker_node(&maker, "Identity", NULL, name, to, NULL);
    }
    check_or_stop(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    for (size_t i = 0; i < COUNT(types); i++) {
        for (size_t b = 0; b < 6 * types[i].size; b++)
            bytes[i][b] = types[i].onnx == ONNX_BOOL ? b % 2 : (uint8_t)test_random();
        fake_batch_input(&f.batch, (uint32_t)i, types[i].dtype, 2, shape, bytes[i],
                         6 * types[i].size);
    }
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    for (size_t i = 0; i < COUNT(types); i++) {
        const struct penstock_tensor *out = fake_batch_output(&f.batch, 0, 0, (uint32_t)i);
        check(out != NULL && out->dtype == types[i].dtype && out->size == 6 * types[i].size &&
                  memcmp(out->data, bytes[i], out->size) == 0,
              "element type %d", types[i].onnx);
    }
    end(&f);
}

TEST(onnx_refuses_types_without_a_name)
{
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_COMPLEX64, "N");
    maker_output(&maker, "y", ONNX_COMPLEX64, "N");
    maker_node(&maker, "Identity", NULL, "x", "y", NULL);
    check(save_and_open(&f, &maker) != OK && f.err.text[0] != '\0', "opened complex numbers");
    end(&f);
}

/* -- strings ---------------------------------------------------------------------------------- */

static size_t put_string(uint8_t *to, const void *bytes, uint32_t size)
{
    memcpy(to, &size, 4);
    memcpy(to + 4, bytes, size);
    return 4 + (size_t)size;
}

static void make_string_identity(struct maker *maker)
{
    maker_begin(maker);
    maker_input(maker, "s", ONNX_STRING, "N,M");
    maker_output(maker, "t", ONNX_STRING, "N,M");
    maker_node(maker, "Identity", NULL, "s", "t", NULL);
}

TEST(onnx_strings_go_by_length)
{
    static uint8_t packed[200000], large[100000];
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 2, 2 };
    size_t size = 0;

    if (!begin(&f))
        return;
    make_string_identity(&maker);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    memset(large, 'x', sizeof large);
    size += put_string(packed + size, "", 0);
    size += put_string(packed + size, "a\0b", 3);
    size += put_string(packed + size, large, sizeof large);
    size += put_string(packed + size, "\xff\xfe", 2);
    fake_batch_input(&f.batch, 0, PENSTOCK_BYTES, 2, shape, packed, size);
    for (int i = 0; i < 2; i++) {
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        const struct penstock_tensor *out = fake_batch_output(&f.batch, 0, 0, 0);
        check(out != NULL && out->size == size && memcmp(out->data, packed, size) == 0, "strings");
    }
    /* none at all */
    shape[0] = 0;
    fake_batch_input(&f.batch, 0, PENSTOCK_BYTES, 2, shape, packed, 0);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    const struct penstock_tensor *out = fake_batch_output(&f.batch, 0, 0, 0);
    check(out != NULL && out->size == 0 && out->shape[0] == 0 && out->shape[1] == 2, "no strings");
    end(&f);
}

TEST(onnx_refuses_strings_that_do_not_add_up)
{
    static const struct {
        int64_t rows;
        size_t size;
        uint8_t bytes[16];
        const char *why;
    } cases[] = {
        { 1, 3, { 1, 0, 0 }, "a prefix in half" },
        { 1, 5, { 2, 0, 0, 0, 'a' }, "a string in half" },
        { 1, 4, { 255, 255, 255, 255 }, "a length past everything" },
        { 1, 6, { 1, 0, 0, 0, 'a', 'b' }, "bytes after the last" },
        { 2, 5, { 1, 0, 0, 0, 'a' }, "fewer than the shape says" },
        { INT64_MAX, 8, { 0 }, "a shape that nobody can fill" },
    };
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    make_string_identity(&maker);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t shape[] = { cases[i].rows, 1 };
        batch(&f, 1);
        fake_batch_input(&f.batch, 0, PENSTOCK_BYTES, 2, shape, cases[i].bytes, cases[i].size);
        check(run(&f) == E_INVALID && strstr(fake_batch_text(&f.batch), "'s'") != NULL, "%s: %s",
              cases[i].why, fake_batch_text(&f.batch));
    }
    end(&f);
}

/* -- shapes known only afterwards ------------------------------------------------------------- */

static void make_nonzero(struct maker *maker)
{
    maker_begin(maker);
    maker_input(maker, "x", ONNX_FLOAT, "H,W");
    maker_output(maker, "at", ONNX_INT64, "2,n");
    maker_output(maker, "size", ONNX_INT64, "");
    maker_node(maker, "NonZero", NULL, "x", "at", NULL);
    maker_node(maker, "Size", NULL, "at", "size", NULL);
}

TEST(onnx_shapes_that_depend_on_data)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 2, 2 };
    float x[] = { 0, 1, 0, 1 }, zeros[] = { 0, 0, 0, 0 };

    if (!begin(&f))
        return;
    make_nonzero(&maker);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    check((f.traits & PENSTOCK_BACKEND_CAN_BATCH) == 0, "2 is not a batch");
    batch(&f, 1);
    for (int i = 0; i < 4; i++) {
        int64_t count = i % 2 == 0 ? 2 : 0;
        input_floats(&f, 0, 2, shape, count > 0 ? x : zeros, 4);
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        const struct penstock_tensor *at = fake_batch_output(&f.batch, 0, 0, 0);
        const struct penstock_tensor *size = fake_batch_output(&f.batch, 0, 0, 1);
        check(at != NULL && at->rank == 2 && at->shape[0] == 2 && at->shape[1] == count &&
                  at->size == (size_t)count * 16,
              "%lld found", (long long)count);
        check(size != NULL && size->rank == 0 && size->size == 8 &&
                  *(const int64_t *)size->data == 2 * count,
              "the scalar");
    }
    end(&f);
}

TEST(onnx_large_results_are_adopted_and_outlive_the_model)
{
    enum { SIDE = 128 };
    static float ones[SIDE * SIDE];
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { SIDE, SIDE };

    if (!begin(&f))
        return;
    make_nonzero(&maker);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    for (size_t i = 0; i < COUNT(ones); i++)
        ones[i] = 1;
    batch(&f, 1);
    input_floats(&f, 0, 2, shape, ones, COUNT(ones));
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(fake_batch_is_adopted(&f.batch, 0, 0, 0), "256 KiB were copied");
    f.backend->instance_close(&f.instance);
    f.backend->model_close(&f.opened);
    const struct penstock_tensor *at = fake_batch_output(&f.batch, 0, 0, 0);
    check(at != NULL && at->shape[1] == SIDE * SIDE, "shape");
    check(at != NULL && ((const int64_t *)at->data)[2 * SIDE * SIDE - 1] == SIDE - 1, "content");
    end(&f);
}

TEST(onnx_shapes_nobody_says_come_from_the_configuration)
{
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    for (int i = 0; i < 2; i++) {
        maker_begin(&maker);
        maker_input(&maker, "x", ONNX_FLOAT, NULL);
        maker_output(&maker, "y", ONNX_FLOAT, NULL);
        maker_node(&maker, "Neg", NULL, "x", "y", NULL);
        if (i == 0) {
            check(save_and_open(&f, &maker) == E_INVALID && says(&f, "config.pbtxt"), "says %s",
                  f.err.text);
            continue;
        }
        f.model.config_json = "{\"max_batch_size\":4,\"input\":[{\"name\":\"x\",\"dims\":[3]}],"
                              "\"output\":[{\"name\":\"y\",\"dims\":[3]}]}";
        check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
        const struct fake_declared *x = fake_model_find(&f.model, false, "x");
        check(x != NULL && x->rank == 2 && x->dims[0] == -1 && x->dims[1] == 3, "dims");
        float values[] = { 1, 2, 3 }, negative[] = { -1, -2, -3 };
        int64_t shape[] = { 1, 3 };
        batch(&f, 1);
        input_floats(&f, 0, 2, shape, values, 3);
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 2, shape, negative, 3), "values");
    }
    end(&f);
}

/* -- what callers get wrong ------------------------------------------------------------------- */

TEST(onnx_wrong_inputs_are_the_callers_fault)
{
    struct fixture f;
    struct maker maker;
    float x[12] = { 0 };
    int64_t wide[] = { 1, 3 }, flat[] = { 2 }, good[] = { 1, 2 }, ints[] = { 1, 2 };

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    check(run(&f) == E_INVALID && strstr(fake_batch_text(&f.batch), "'x' is missing") != NULL,
          "says %s", fake_batch_text(&f.batch));
    input_floats(&f, 0, 2, wide, x, 3);
    check(run(&f) == E_INVALID &&
              strstr(fake_batch_text(&f.batch),
                     "input 'x' has shape [1,3]; the model takes [-1,2]") != NULL,
          "says %s", fake_batch_text(&f.batch));
    input_floats(&f, 0, 1, flat, x, 2);
    check(run(&f) == E_INVALID && strstr(fake_batch_text(&f.batch), "[2]") != NULL, "says %s",
          fake_batch_text(&f.batch));
    fake_batch_input(&f.batch, 0, PENSTOCK_INT64, 2, good, ints, sizeof ints);
    check(run(&f) == E_INVALID && strstr(fake_batch_text(&f.batch), "data type") != NULL, "says %s",
          fake_batch_text(&f.batch));
    /* fewer bytes than the shape needs: a broken host, caught before the runtime reads them */
    input_floats(&f, 0, 2, good, x, 1);
    check(run(&f) != OK && f.batch.text[0] != '\0', "read past the input");
    input_floats(&f, 0, 2, good, x, 2);
    check(run(&f) == OK, "the instance is spoilt: %s", fake_batch_text(&f.batch));
    end(&f);
}

TEST(onnx_failure_within_the_model_is_internal)
{
    struct fixture f;
    struct maker maker;
    float table[] = { 1, 2, 3 };
    int64_t one[] = { 1 }, index = 7;

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "i", ONNX_INT64, "N");
    maker_output(&maker, "v", ONNX_FLOAT, "N");
    maker_floats(&maker, "table", "3", table, 3);
    maker_node(&maker, "Gather", NULL, "table i", "v", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    fake_batch_input(&f.batch, 0, PENSTOCK_INT64, 1, one, &index, sizeof index);
    check(run(&f) == E_INTERNAL, "code %d", f.batch.code);
    check(strstr(fake_batch_text(&f.batch), "the model failed at its node Gather: ") != NULL &&
              strstr(fake_batch_text(&f.batch), "idx=7") != NULL &&
              strstr(fake_batch_text(&f.batch), "onnxruntime_src") == NULL,
          "says %s", fake_batch_text(&f.batch));
    index = 2;
    fake_batch_input(&f.batch, 0, PENSTOCK_INT64, 1, one, &index, sizeof index);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, one, &table[2], 1), "the third");
    end(&f);
}

TEST(onnx_host_without_memory)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 1, 2 };
    float x[] = { 1, 2 };

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_floats(&f, 0, 2, shape, x, 2);
    f.batch.is_output_refused = true;
    check(run(&f) == E_EXHAUSTED, "code %d", f.batch.code);
    f.batch.is_output_refused = false;
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    end(&f);
}

TEST(onnx_outputs_not_wanted_are_left_out)
{
    struct fixture f;
    struct maker maker;
    int64_t two[] = { 2 };
    float x[] = { 1, 2 }, negative[] = { -1, -2 };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "N");
    maker_output(&maker, "a", ONNX_FLOAT, "N");
    maker_output(&maker, "b", ONNX_FLOAT, "N");
    maker_node(&maker, "Neg", NULL, "x", "a", NULL);
    maker_node(&maker, "Neg", NULL, "a", "b", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_floats(&f, 0, 1, two, x, 2);
    f.batch.rows[0].skips = 1;
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(fake_batch_output(&f.batch, 0, 0, 0) == NULL, "a was not asked for");
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 1), 1, two, x, 2), "b");
    f.batch.rows[0].skips = 2;
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, two, negative, 2), "a");
    f.batch.rows[0].skips = 3;
    check(run(&f) == OK, "nothing wanted: %s", fake_batch_text(&f.batch));
    end(&f);
}

/* -- several rows ----------------------------------------------------------------------------- */

TEST(onnx_batch_is_divided_into_its_rows)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 4, 2 };
    float x[] = { 1, 2, 3, 4, 5, 6, 7, 8 };

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 3);
    f.batch.rows[1].size = 2;
    input_floats(&f, 0, 2, shape, x, 8);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    float at = 2;
    for (uint32_t row = 0; row < 3; row++) {
        const struct penstock_tensor *y = fake_batch_output(&f.batch, row, 0, 0);
        check(y != NULL && y->rank == 2 && y->shape[0] == f.batch.rows[row].size &&
                  y->size == (size_t)y->shape[0] * 8 && ((const float *)y->data)[0] == at,
              "row %u", row);
        at += (float)f.batch.rows[row].size * 2;
    }
    /* one row does not want it, one has its memory refused by the host: others are answered */
    f.batch.rows[0].skips = 1;
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(fake_batch_output(&f.batch, 0, 0, 0) == NULL, "row 0 does not want it");
    check(fake_batch_output(&f.batch, 2, 0, 0) != NULL, "row 2 does");
    end(&f);
}

TEST(onnx_large_batch_is_shared_by_its_rows)
{
    enum { WIDTH = 8192, ROWS = 3 };
    static float x[ROWS * WIDTH];
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { ROWS, WIDTH };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "N,M");
    maker_output(&maker, "y", ONNX_FLOAT, "N,M");
    maker_node(&maker, "Neg", NULL, "x", "y", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    for (size_t i = 0; i < COUNT(x); i++)
        x[i] = (float)i;
    batch(&f, ROWS);
    input_floats(&f, 0, 2, shape, x, COUNT(x));
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    close_model(&f);
    for (uint32_t row = 0; row < ROWS; row++) {
        const struct penstock_tensor *y = fake_batch_output(&f.batch, row, 0, 0);
        check(fake_batch_is_adopted(&f.batch, row, 0, 0), "row %u was copied", row);
        check(y != NULL && y->shape[0] == 1 && y->shape[1] == WIDTH &&
                  ((const float *)y->data)[WIDTH - 1] == -(float)(row * WIDTH + WIDTH - 1),
              "row %u", row);
    }
    end(&f);
}

TEST(onnx_batch_of_strings)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 3, 2 };
    uint8_t packed[64];
    size_t size = 0, starts[4];

    if (!begin(&f))
        return;
    make_string_identity(&maker);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    for (size_t row = 0; row < 3; row++) {
        starts[row] = size;
        size += put_string(packed + size, "abcdef", (uint32_t)row);
        size += put_string(packed + size, "uvwxyz", 3);
    }
    starts[3] = size;
    batch(&f, 3);
    fake_batch_input(&f.batch, 0, PENSTOCK_BYTES, 2, shape, packed, size);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    for (uint32_t row = 0; row < 3; row++) {
        const struct penstock_tensor *t = fake_batch_output(&f.batch, row, 0, 0);
        check(t != NULL && t->shape[0] == 1 && t->shape[1] == 2 &&
                  t->size == starts[row + 1] - starts[row] &&
                  memcmp(t->data, packed + starts[row], t->size) == 0,
              "row %u", row);
    }
    end(&f);
}

TEST(onnx_batch_that_does_not_divide)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 2, 2 };
    float x[] = { 1, 1, 1, 1 };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "N,2");
    maker_output(&maker, "y", ONNX_FLOAT, "1,2");
    struct maker_attributes attributes = { { 0 } };
    int64_t axis = 0;
    maker_attribute_ints(&attributes, "axes", &axis, 1);
    maker_node(&maker, "ReduceMax", NULL, "x", "y", &attributes);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    check((f.traits & PENSTOCK_BACKEND_CAN_BATCH) == 0, "the maximum over all rows");
    batch(&f, 2);
    input_floats(&f, 0, 2, shape, x, 4);
    check(run(&f) == E_INTERNAL && strstr(fake_batch_text(&f.batch), "max_batch_size: 0") != NULL,
          "says %s", fake_batch_text(&f.batch));
    end(&f);
}

/* -- what a graph is -------------------------------------------------------------------------- */

/* y = x, n times plus one: Loop with n as an input. */
static void make_loop(struct maker *maker)
{
    static const float one = 1;
    struct maker body;
    struct maker_attributes attributes = { { 0 } };

    maker_begin(&body);
    maker_input(&body, "i", ONNX_INT64, "");
    maker_input(&body, "go", ONNX_BOOL, "");
    maker_input(&body, "v", ONNX_FLOAT, "N");
    maker_output(&body, "go_on", ONNX_BOOL, "");
    maker_output(&body, "w", ONNX_FLOAT, "N");
    maker_floats(&body, "one", "1", &one, 1);
    maker_node(&body, "Identity", NULL, "go", "go_on", NULL);
    maker_node(&body, "Add", NULL, "v one", "w", NULL);
    maker_attribute_graph(&attributes, "body", &body);
    maker_begin(maker);
    maker_input(maker, "n", ONNX_INT64, "");
    maker_input(maker, "x", ONNX_FLOAT, "N");
    maker_output(maker, "y", ONNX_FLOAT, "N");
    maker_node(maker, "Loop", NULL, "n - x", "y", &attributes);
}

struct runner {
    struct fixture *f;
    int code;
    uint64_t took_ns;
};

static void *run_thread(void *context)
{
    struct runner *runner = context;
    uint64_t from = clock_mono_ns();

    runner->code = fake_batch_run(&runner->f->batch, runner->f->backend, runner->f->instance);
    runner->took_ns = clock_mono_ns() - from;
    return NULL;
}

TEST(onnx_cancel_stops_a_run)
{
    struct fixture f;
    struct maker maker;
    int64_t n = INT64_C(2000000000), one[] = { 1 };
    float x = 1;
    pthread_t thread;

    if (!begin(&f))
        return;
    make_loop(&maker);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    check((f.traits & PENSTOCK_BACKEND_RUNS_INLINE) == 0, "a Loop must not run on a network loop");
    batch(&f, 1);
    fake_batch_input(&f.batch, 0, PENSTOCK_INT64, 0, NULL, &n, sizeof n);
    input_floats(&f, 1, 1, one, &x, 1);
    struct runner runner = { &f, OK, 0 };
    if (pthread_create(&thread, NULL, run_thread, &runner) != 0)
        abort();
    usleep(30000);
    uint64_t from = clock_mono_ns();
    fake_batch_cancel(&f.batch, f.backend, f.instance);
    pthread_join(thread, NULL);
    uint64_t took = clock_mono_ns() - from;
    check(runner.code == E_CANCELLED, "code %d: %s", runner.code, fake_batch_text(&f.batch));
    check(took < NS_PER_S, "it took %llu ms", (unsigned long long)(took / NS_PER_MS));
    /* the instance runs again, and a hint that came before the run is not lost */
    atomic_store(&f.batch.rows[0].is_cancelled, false);
    for (n = 3; n >= 0; n--) { /* no round at all: the answer is the input */
        float sum = 1 + (float)n;
        fake_batch_input(&f.batch, 0, PENSTOCK_INT64, 0, NULL, &n, sizeof n);
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, one, &sum, 1), "1 + %lld",
              (long long)n);
    }
    fake_batch_cancel(&f.batch, f.backend, f.instance);
    check(run(&f) == E_CANCELLED, "cancelled before it ran: %d", f.batch.code);
    end(&f);
}

static void *hint_thread(void *context)
{
    struct fixture *f = context;

    for (int i = 0; i < 3; i++) {
        usleep(5000);
        f->backend->cancel(f->instance);
    }
    return NULL;
}

/* A hint that was meant for the batch before, and came late: the caller is still there. */
TEST(onnx_stray_hint_does_not_stop_a_run)
{
    struct fixture f;
    struct maker maker;
    int64_t n = 40000, one[] = { 1 };
    float x = 1;
    pthread_t thread;

    if (!begin(&f))
        return;
    make_loop(&maker);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    fake_batch_input(&f.batch, 0, PENSTOCK_INT64, 0, NULL, &n, sizeof n);
    input_floats(&f, 1, 1, one, &x, 1);
    if (pthread_create(&thread, NULL, hint_thread, &f) != 0)
        abort();
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    pthread_join(thread, NULL);
    float wanted = 40001;
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, one, &wanted, 1), "1 + 40000");
    end(&f);
}

TEST(onnx_describes_itself)
{
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    make_loop(&maker);
    f.model.parameters[0] = (struct fake_parameter){ "intra_op_thread_count", "2" };
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    const char *text = f.backend->describe(f.opened);
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    check(yyjson_get_int(yyjson_obj_get(root, "intra_op_threads")) == 2, "%s", text);
    check(yyjson_equals_str(yyjson_obj_get(root, "time_depends_on_values"), "Loop"), "%s", text);
    check(yyjson_is_false(yyjson_obj_get(root, "runs_inline")), "%s", text);
    check(yyjson_get_int(yyjson_obj_get(root, "nodes")) == 3, "%s", text);
    yyjson_doc_free(doc);
    end(&f);
}

/* Run time depends on values only where what sizes a result is computed from them. */
TEST(onnx_inline_only_what_takes_the_same_time)
{
    static const struct {
        const char *steps[4][3]; /* operator, inputs, outputs */
        const char *why;
        bool can;
    } cases[] = {
        { { { "Range", "zero ten one", "y" } }, "Range over constants", true },
        { { { "Range", "zero n one", "y" } }, "Range up to an input", false },
        { { { "Shape", "x", "d" }, { "ConstantOfShape", "d", "c" }, { "Neg", "c", "y" } },
          "as large as the shape of an input",
          true },
        { { { "Add", "n ten", "m" }, { "Range", "zero m one", "y" } },
          "computed from an input",
          false },
        { { { "Size", "x", "d" }, { "Add", "d ten", "m" }, { "Range", "zero m one", "y" } },
          "computed from a shape",
          true },
        { { { "Reshape", "n one1", "r" }, { "Tile", "x r", "y" } }, "Tile by an input", false },
        { { { "Tile", "x one1", "y" } }, "Tile by a constant", true },
        { { { "RandomUniformLike", "x", "r" }, { "Neg", "r", "y" } }, "random values", true },
    };
    int64_t zero = 0, one = 1, ten = 10;
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        bool is_float = strstr(cases[i].why, "Tile") != NULL || strstr(cases[i].why, "as large") ||
                        strstr(cases[i].why, "random") != NULL;
        maker_begin(&maker);
        maker_input(&maker, "n", ONNX_INT64, "");
        maker_input(&maker, "x", ONNX_FLOAT, "N");
        maker_output(&maker, "y", is_float ? ONNX_FLOAT : ONNX_INT64, "L");
        maker_ints(&maker, "zero", "", &zero, 1);
        maker_ints(&maker, "one", "", &one, 1);
        maker_ints(&maker, "one1", "1", &one, 1);
        maker_ints(&maker, "ten", "", &ten, 1);
        for (size_t s = 0; s < COUNT(cases[i].steps) && cases[i].steps[s][0] != NULL; s++)
            maker_node(&maker, cases[i].steps[s][0], NULL, cases[i].steps[s][1],
                       cases[i].steps[s][2], NULL);
        check(save_and_open(&f, &maker) == OK, "%s: %s", cases[i].why, f.err.text);
        check(((f.traits & PENSTOCK_BACKEND_RUNS_INLINE) != 0) == cases[i].can, "%s", cases[i].why);
        close_model(&f);
    }
    end(&f);
}

TEST(onnx_threads_are_not_run_inline)
{
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    maker_save(&maker, f.folder, "model.onnx");
    fake_threads = "2";
    check(open_model(&f) == OK && (f.traits & PENSTOCK_BACKEND_RUNS_INLINE) == 0, "two threads");
    close_model(&f);
    f.model.parameters[0] = (struct fake_parameter){ "intra_op_thread_count", "1" };
    check(open_model(&f) == OK && (f.traits & PENSTOCK_BACKEND_RUNS_INLINE) != 0,
          "the model's own setting goes before the server's");
    close_model(&f);
    fake_threads = "many";
    check(open_model(&f) == E_INVALID && says(&f, "onnx-threads"), "says %s", f.err.text);
    fake_threads = NULL;
    f.model.parameters[0] = (struct fake_parameter){ "intra_op_thread_count", "-1" };
    check(open_model(&f) == E_INVALID && says(&f, "intra_op_thread_count"), "says %s", f.err.text);
    end(&f);
}

TEST(onnx_execution_providers_by_name)
{
    static const char *const missing[] = { "cuda", "CUDAExecutionProvider", "cpu, tensorrt",
                                           "warp drive" };
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    maker_save(&maker, f.folder, "model.onnx");
    for (size_t i = 0; i < COUNT(missing); i++) {
        f.model.parameters[0] = (struct fake_parameter){ "execution_providers", missing[i] };
        check(open_model(&f) == E_UNAVAILABLE && says(&f, "CPUExecutionProvider") &&
                  says(&f, "--runtime-dir"),
              "%s: %s", missing[i], f.err.text);
    }
    f.model.parameters[0] = (struct fake_parameter){ "execution_providers", " cpu ," };
    check(open_model(&f) == OK, "%s", f.err.text);
    close_model(&f);
    f.model.parameters[0] = (struct fake_parameter){ NULL, NULL };
    f.model.config_json = "{\"optimization\":{\"execution_accelerators\":{"
                          "\"cpu_execution_accelerator\":[{\"name\":\"openvino\"}]}}}";
    check(open_model(&f) == E_UNAVAILABLE && says(&f, "OpenVINO"), "says %s", f.err.text);
    f.model.config_json = "{\"optimization\":{\"execution_accelerators\":{"
                          "\"gpu_execution_accelerator\":[{\"name\":\"tensorrt\"}]}}}";
    fake_last_log[0] = '\0';
    check(open_model(&f) == OK && strstr(fake_last_log, "gpu_execution_accelerator") != NULL,
          "log: %s", fake_last_log);
    void *second = NULL;
    check(f.backend->instance_open(&second, f.opened, 0,
                                   (struct penstock_place){ PENSTOCK_CUDA, 0 },
                                   backend_err(&f.err)) == E_UNAVAILABLE &&
              second == NULL && says(&f, "KIND_CPU"),
          "says %s", f.err.text);
    end(&f);
}

TEST(onnx_graph_level_of_the_configuration)
{
    static const struct {
        const char *json, *word;
    } cases[] = {
        { "{\"optimization\":{\"graph\":{\"level\":-1}}}", "\"basic\"" },
        { "{\"optimization\":{\"graph\":{\"level\":1}}}", "\"extended\"" },
        { "{\"optimization\":{\"graph\":{\"level\":2}}}", "\"none\"" },
        { "{\"optimization\":{\"graph\":{\"level\":0}}}", "\"all\"" },
        { "{\"optimization\":{\"graph\":{\"level\":9}}}", NULL },
    };
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    maker_save(&maker, f.folder, "model.onnx");
    for (size_t i = 0; i < COUNT(cases); i++) {
        f.model.config_json = cases[i].json;
        int code = open_model(&f);
        check((code == OK) == (cases[i].word != NULL), "%s: %s", cases[i].json, f.err.text);
        check(code != OK || strstr(f.backend->describe(f.opened), cases[i].word) != NULL, "%s",
              cases[i].json);
        close_model(&f);
    }
    end(&f);
}

TEST(onnx_batching_only_where_rows_keep_apart)
{
    static const struct {
        const char *input, *output, *op, *why;
        bool can;
    } cases[] = {
        { "N,2", "N,2", "Neg", "plain", true },
        { "?,2", "?,2", "Neg", "nameless", true },
        { "N,2", "M,2", "Neg", "rows of another name", false },
        { "1,2", "1,2", "Neg", "one row", false },
        { "N,N", "N,N", "Neg", "the rows are columns too", false },
    };
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        maker_begin(&maker);
        maker_input(&maker, "x", ONNX_FLOAT, cases[i].input);
        maker_output(&maker, "y", ONNX_FLOAT, cases[i].output);
        maker_node(&maker, cases[i].op, NULL, "x", "y", NULL);
        check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
        check(((f.traits & PENSTOCK_BACKEND_CAN_BATCH) != 0) == cases[i].can, "%s", cases[i].why);
        close_model(&f);
    }
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "N,2");
    maker_output(&maker, "q", ONNX_UINT8, "N,2");
    maker_node(&maker, "DynamicQuantizeLinear", NULL, "x", "q scale zero", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    check((f.traits & PENSTOCK_BACKEND_CAN_BATCH) == 0, "one scale for all rows");
    end(&f);
}

TEST(onnx_weights_listed_as_inputs)
{
    struct fixture f;
    struct maker maker;
    float three = 3, x = 2, six = 6, ten = 10, five = 5;
    int64_t one[] = { 1 };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "N");
    maker_input(&maker, "k", ONNX_FLOAT, "1");
    maker_output(&maker, "y", ONNX_FLOAT, "N");
    maker_floats(&maker, "k", "1", &three, 1);
    maker_node(&maker, "Mul", NULL, "x k", "y", NULL);
    maker_save(&maker, f.folder, "model.onnx");
    fake_last_log[0] = '\0';
    check(open_model(&f) == OK, "%s", f.err.text);
    check(strstr(fake_last_log, "'k'") != NULL &&
              strstr(fake_last_log, "keep_initializers_as_inputs=False") != NULL,
          "log: %s", fake_last_log);
    check(fake_model_find(&f.model, false, "k") == NULL, "k was shown");
    batch(&f, 1);
    input_floats(&f, 0, 1, one, &x, 1);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, one, &six, 1), "2 * 3");
    close_model(&f);
    /* asked for by name it is an input that may be left out */
    f.model.config_json = "{\"input\":[{\"name\":\"x\"},{\"name\":\"k\"}]}";
    check(open_model(&f) == OK, "%s", f.err.text);
    const struct fake_declared *k = fake_model_find(&f.model, false, "k");
    check(k != NULL && k->is_optional, "k is optional");
    check(run(&f) == OK && is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, one, &six, 1),
          "left out: %s", fake_batch_text(&f.batch));
    input_floats(&f, 1, 1, one, &five, 1);
    check(run(&f) == OK && is_floats(fake_batch_output(&f.batch, 0, 0, 0), 1, one, &ten, 1),
          "given: %s", fake_batch_text(&f.batch));
    end(&f);
}

/* -- ZipMap ----------------------------------------------------------------------------------- */

static void run_zipmap(bool is_text, bool has_default_opset)
{
    static const char *const words[] = { "yes", "n\"o", "perhaps" };
    static const int64_t ids[] = { 10, -20, 30 };
    struct fixture f;
    struct maker maker;
    struct maker_attributes attributes = { { 0 } };
    int64_t shape[] = { 2, 3 };
    float x[] = { 1, 2, 3, 4, 5, 6 };

    if (!begin(&f))
        return;
    maker_begin(&maker);
    if (!has_default_opset)
        maker.opset = 0;
    maker_input(&maker, "x", ONNX_FLOAT, "?,3");
    maker_output_maps(&maker, "maps");
    if (is_text)
        maker_attribute_strings(&attributes, "classlabels_strings", words, 3);
    else
        maker_attribute_ints(&attributes, "classlabels_int64s", ids, 3);
    maker_node(&maker, "ZipMap", "ai.onnx.ml", "x", "maps", &attributes);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    const struct fake_declared *maps = fake_model_find(&f.model, true, "maps");
    check(maps != NULL && maps->dtype == PENSTOCK_FP32 && maps->rank == 2 && maps->dims[0] == -1 &&
              maps->dims[1] == 3,
          "declared as a tensor");
    check(maps != NULL && strcmp(maps->classes, is_text ? "yes,n\"o,perhaps" : "10,-20,30") == 0,
          "the host is told the classes: %s", maps == NULL ? "" : maps->classes);
    const char *text = f.backend->describe(f.opened);
    check(strstr(text, is_text ? "{\"maps\":[\"yes\",\"n\\\"o\",\"perhaps\"]}"
                               : "{\"maps\":[10,-20,30]}") != NULL,
          "%s", text);
    batch(&f, 1);
    input_floats(&f, 0, 2, shape, x, 6);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 2, shape, x, 6), "the tensor");
    end(&f);
}

TEST(onnx_zipmap_becomes_a_tensor)
{
    run_zipmap(true, true);
    run_zipmap(false, true);
    run_zipmap(true, false);
}

TEST(onnx_says_which_inputs_do_not_agree)
{
    struct fixture f;
    struct maker maker;
    int64_t two[] = { 2 }, three[] = { 3 };
    float x[] = { 1, 2, 3 };

    if (!begin(&f))
        return;
    for (int same = 1; same >= 0; same--) {
        maker_begin(&maker);
        maker_input(&maker, "a", ONNX_FLOAT, "s");
        maker_input(&maker, "b", ONNX_FLOAT, same ? "s" : "t");
        maker_output(&maker, "y", ONNX_FLOAT, same ? "s" : "u");
        maker_node(&maker, "Add", NULL, "a b", "y", NULL);
        check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
        batch(&f, 1);
        input_floats(&f, 0, 1, two, x, 2);
        input_floats(&f, 1, 1, three, x, 3);
        int code = run(&f);
        const char *text = fake_batch_text(&f.batch);
        if (same)
            check(code == E_INVALID &&
                      strcmp(text, "inputs 'a' and 'b' do not agree on 's': dimension 0 of the one "
                                   "is 2, dimension 0 of the other 3") == 0,
                  "%d %s", code, text);
        else /* the runtime's own words, without the places in its source */
            check(code != OK && strstr(text, "failed at its node Add") != NULL &&
                      strstr(text, "onnxruntime_src") == NULL,
                  "%d %s", code, text);
        close_model(&f);
    }
    end(&f);
}

TEST(onnx_refuses_what_is_no_tensor)
{
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "N");
    maker_output_maps(&maker, "s");
    maker_node(&maker, "SequenceConstruct", NULL, "x", "s", NULL);
    check(save_and_open(&f, &maker) != OK && f.err.text[0] != '\0', "opened a sequence");
    end(&f);
}

/* -- files ------------------------------------------------------------------------------------ */

TEST(onnx_folder_and_file_name)
{
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    f.model.path = f.folder;
    check(open_model(&f) == E_NOT_FOUND && says(&f, "model.onnx") &&
              says(&f, "default_model_filename"),
          "says %s", f.err.text);
    make_plus_one(&maker, "N");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    close_model(&f);
    make_plus_one(&maker, "N");
    maker_save(&maker, f.folder, "other.onnx");
    f.model.config_json = "{\"default_model_filename\":\"other.onnx\"}";
    check(open_model(&f) == OK, "%s", f.err.text);
    close_model(&f);
    f.model.config_json = "{\"default_model_filename\":\"../other.onnx\"}";
    check(open_model(&f) == E_INVALID, "left its folder by name");
    f.model.config_json = NULL;
    f.model.path = "/nonexistent/model.onnx";
    check(open_model(&f) == E_NOT_FOUND, "opened nothing");
    end(&f);
}

TEST(onnx_link_out_of_the_folder)
{
    struct fixture f, other;
    struct maker maker;
    char link[192];

    if (!begin(&f) || !begin(&other))
        return;
    make_plus_one(&maker, "N");
    maker_save(&maker, other.folder, "model.onnx");
    snprintf(link, sizeof link, "%s/model.onnx", f.folder);
    check(symlink(other.path, link) == 0, "symlink");
    check(open_model(&f) == E_PERMISSION && says(&f, "link"), "says %s", f.err.text);
    end(&f);
    end(&other);
}

static int open_external(struct fixture *f, const char *location)
{
    struct maker maker;

    close_model(f);
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "N,2");
    maker_output(&maker, "y", ONNX_FLOAT, "N,2");
    maker_external(&maker, "w", "2", location);
    maker_node(&maker, "Add", NULL, "x w", "y", NULL);
    return save_and_open(f, &maker);
}

TEST(onnx_external_weights_stay_in_the_folder)
{
    static const char *const forbidden[] = {
        "/etc/passwd",        "../weights.bin", "sub/../../weights.bin", "..", "",
        "*/_ORT_MEM_ADDR_/*", "out.bin",
    };
    struct fixture f, other;
    float weights[] = { 10, 20 }, x[] = { 1, 2 }, y[] = { 11, 22 };
    int64_t shape[] = { 1, 2 };
    char from[192], to[192];

    if (!begin(&f) || !begin(&other))
        return;
    maker_write_file(f.folder, "weights.bin", weights, sizeof weights);
    check(open_external(&f, "weights.bin") == OK, "%s", f.err.text);
    batch(&f, 1);
    input_floats(&f, 0, 2, shape, x, 2);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 2, shape, y, 2), "weights were used");

    snprintf(to, sizeof to, "%s/sub", f.folder);
    check(mkdir(to, 0700) == 0, "mkdir");
    maker_write_file(to, "weights.bin", weights, sizeof weights);
    check(open_external(&f, "sub/weights.bin") == OK, "below: %s", f.err.text);
    snprintf(from, sizeof from, "%s/in.bin", f.folder);
    check(symlink("weights.bin", from) == 0, "symlink");
    check(open_external(&f, "in.bin") == OK, "a link within: %s", f.err.text);

    maker_write_file(other.folder, "weights.bin", weights, sizeof weights);
    snprintf(to, sizeof to, "%s/weights.bin", other.folder);
    snprintf(from, sizeof from, "%s/out.bin", f.folder);
    check(symlink(to, from) == 0, "symlink");
    for (size_t i = 0; i < COUNT(forbidden); i++) {
        int code = open_external(&f, forbidden[i]);
        check(code == E_PERMISSION && says(&f, "weights"), "'%s': code %d, %s", forbidden[i], code,
              f.err.text);
    }
    check(open_external(&f, "missing.bin") == E_NOT_FOUND && says(&f, "missing.bin"), "says %s",
          f.err.text);
    check(open_external(&f, "sub") == E_INVALID, "a folder: %s", f.err.text);
    maker_write_file(f.folder, "short.bin", weights, 4);
    check(open_external(&f, "short.bin") != OK && f.err.text[0] != '\0', "too short");
    end(&f);
    end(&other);
}

TEST(onnx_files_that_are_no_models)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        { "", "empty" },
        { "hello, world", "not an ONNX model" },
        { "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull" },
    };
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        maker_write_file(f.folder, "model.onnx", cases[i].text, strlen(cases[i].text));
        check(open_model(&f) == E_INVALID && says(&f, cases[i].says), "%s", f.err.text);
    }
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "N");
    maker_output(&maker, "y", ONNX_FLOAT, "N");
    maker_node(&maker, "NoSuchOp", "acme", "x", "y", NULL);
    check(save_and_open(&f, &maker) == E_INVALID && says(&f, "NoSuchOp") && says(&f, "acme") &&
              says(&f, "standard ONNX operators"),
          "says %s", f.err.text);
    end(&f);
}

/* Every prefix of a model, and every single byte of it changed: never a crash, never silence. */
TEST(onnx_damaged_models)
{
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    struct text bytes = maker_finish(&maker);
    for (size_t size = 0; size < bytes.size; size++) {
        maker_write_file(f.folder, "model.onnx", bytes.data, size);
        int code = open_model(&f);
        check(code != OK || f.opened != NULL, "prefix of %zu", size);
        check(code == OK || f.err.text[0] != '\0', "prefix of %zu was refused silently", size);
        close_model(&f);
    }
    for (size_t at = 0; at < bytes.size; at++) {
        uint8_t was = bytes.data[at];
        bytes.data[at] = (uint8_t)(was ^ (1u << test_random_below(8)));
        maker_write_file(f.folder, "model.onnx", bytes.data, bytes.size);
        int code = open_model(&f);
        check(code == OK || f.err.text[0] != '\0', "byte %zu was refused silently", at);
        close_model(&f);
        bytes.data[at] = was;
    }
    text_deinit(&bytes);
    end(&f);
}

/* -- many ------------------------------------------------------------------------------------- */

TEST(onnx_open_survives_every_fault)
{
    struct fixture f;
    struct maker maker;
    bool has_opened = false;

    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "x", ONNX_FLOAT, "?,3");
    maker_output_maps(&maker, "maps");
    maker_node(&maker, "ZipMap", "ai.onnx.ml", "x", "maps", NULL);
    maker_save(&maker, f.folder, "model.onnx");
    for_each_fault(nth) {
        int code = open_model(&f);
        bool has_fired = fault_fired();
        fault_arm(0);
        check((code == OK) == (f.instance != NULL), "fault %u: %s", nth, f.err.text);
        check(code == OK || f.err.text[0] != '\0', "fault %u was silent", nth);
        has_opened = code == OK;
        close_model(&f);
        if (!has_fired)
            break;
    }
    check(has_opened, "never opened: %s", f.err.text);
    end(&f);
}

TEST(onnx_run_survives_every_fault)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 2, 1 };
    uint8_t packed[16];
    size_t size = 0;
    bool has_run = false;

    if (!begin(&f))
        return;
    make_string_identity(&maker);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    size += put_string(packed, "ab", 2);
    size += put_string(packed + size, "c", 1);
    batch(&f, 2);
    fake_batch_input(&f.batch, 0, PENSTOCK_BYTES, 2, shape, packed, size);
    for_each_fault(nth) {
        int code = run(&f);
        bool has_fired = fault_fired();
        fault_arm(0);
        check(code == OK || fake_batch_text(&f.batch)[0] != '\0', "fault %u was silent", nth);
        has_run = code == OK;
        if (!has_fired)
            break;
    }
    check(has_run, "never ran");
    end(&f);
}

enum { THREADS = 4 };

struct worker {
    struct fixture *f;
    void *instance;
    unsigned wrong;
};

static void *work(void *context)
{
    struct worker *worker = context;
    struct fake_batch *own = malloc(sizeof *own);

    if (own == NULL)
        abort();
    for (int i = 0; i < 300; i++) {
        int64_t shape[] = { 1 + i % 3, 2 };
        float x[] = { (float)i, 2, 3, 4, 5, 6 };
        fake_batch_init(own, &worker->f->model, 1);
        fake_batch_input(own, 0, PENSTOCK_FP32, 2, shape, x, (size_t)shape[0] * 8);
        int code = fake_batch_run(own, worker->f->backend, worker->instance);
        const struct penstock_tensor *y = fake_batch_output(own, 0, 0, 0);
        if (code != OK || y == NULL || y->shape[0] != shape[0] ||
            ((const float *)y->data)[0] != (float)i + 1)
            worker->wrong++;
        fake_batch_deinit(own);
    }
    free(own);
    return NULL;
}

TEST(onnx_instances_on_threads)
{
    struct fixture f;
    struct maker maker;
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    if (!begin(&f))
        return;
    make_plus_one(&maker, "?");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){ &f, NULL, 0 };
        check(f.backend->instance_open(&workers[i].instance, f.opened, i,
                                       (struct penstock_place){ PENSTOCK_CPU, 0 },
                                       backend_err(&f.err)) == OK,
              "%s", f.err.text);
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0)
            abort();
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        check(workers[i].wrong == 0, "thread %u: %u wrong answers", i, workers[i].wrong);
        f.backend->instance_close(&workers[i].instance);
    }
    end(&f);
}

static long resident_kb(void)
{
    long whole = 0, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file != NULL && fscanf(file, "%ld %ld", &whole, &pages) != 2)
        pages = 0;
    if (file != NULL)
        fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Shapes that change with every run, errors, strings: nothing is kept. */
TEST(onnx_memory_does_not_grow)
{
    enum { RUNS = 30000, LARGEST = 64 };
    static float x[2 * LARGEST];
    struct fixture f;
    struct maker maker;
    long before = 0;

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    for (int i = 0; i < (IS_SANITIZED ? RUNS / 10 : RUNS); i++) {
        int64_t shape[] = { 1 + (int64_t)test_random_below(LARGEST), i % 100 == 0 ? 3 : 2 };
        input_floats(&f, 0, 2, shape, x, (size_t)MIN(shape[0] * shape[1], 2 * LARGEST));
        run(&f);
        if (i == RUNS / 20)
            before = resident_kb();
    }
    long after = resident_kb();
    check(IS_SANITIZED || after - before < 1024, "grew from %ld to %ld kB", before, after);
    end(&f);
}

/* -- small tensors and the memory of runs ----------------------------------------------------- */

/* A shape that changes and comes back, to either side of what is copied; nothing of the run before
 * is left in an answer. */
TEST(onnx_small_and_large_tensors_in_turn)
{
    static const int64_t counts[] = { 1, 2, 1, 63, 64, 65, 64, 0, 1, 64, 300, 2 };
    static float x[600], y[600];
    struct fixture f;
    struct maker maker;

    if (!begin(&f))
        return;
    make_plus_one(&maker, "N");
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    for (size_t i = 0; i < COUNT(counts); i++) {
        int64_t shape[] = { counts[i], 2 };
        size_t count = (size_t)counts[i] * 2;
        for (int again = 0; again < 2; again++) {
            for (size_t at = 0; at < count; at++) {
                x[at] = (float)(at * 7 + i * 1000 + (size_t)again * 100000);
                y[at] = x[at] + 1;
            }
            input_floats(&f, 0, 2, shape, x, count);
            check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
            check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 2, shape, y, count), "%lld rows",
                  (long long)counts[i]);
        }
    }
    end(&f);
}

/* An output that is the input's own memory, beside one that is not. */
TEST(onnx_small_input_handed_through)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 2, 2 };

    if (!begin(&f))
        return;
    make_plus_one(&maker, "?");
    maker_output(&maker, "same", ONNX_FLOAT, "?,2");
    maker_node(&maker, "Identity", NULL, "x", "same", NULL);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    for (int i = 0; i < 20; i++) {
        float x[] = { (float)i, 2, 3, 4 }, y[] = { (float)i + 1, 3, 4, 5 };
        input_floats(&f, 0, 2, shape, x, 4);
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 2, shape, y, 4), "run %d", i);
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 1), 2, shape, x, 4), "run %d", i);
    }
    end(&f);
}

/* A run that asks for more memory than there is fails, and only it. */
TEST(onnx_run_that_wants_all_memory)
{
    struct fixture f;
    struct maker maker;
    int64_t shape[] = { 2 }, wanted[] = { INT64_C(1) << 44, 4 }, few[] = { 3, 4 };
    float zero = 0;

    if (IS_SANITIZED) {
        test_skip("sanitizers stop the program where memory ends");
        return;
    }
    if (!begin(&f))
        return;
    maker_begin(&maker);
    maker_input(&maker, "n", ONNX_INT64, "2");
    maker_output(&maker, "y", ONNX_FLOAT, "");
    maker_node(&maker, "ConstantOfShape", NULL, "n", "zeros", NULL);
    struct maker_attributes attributes = { { 0 } };
    maker_attribute_int(&attributes, "keepdims", 0);
    maker_node(&maker, "ReduceSum", NULL, "zeros", "y", &attributes);
    check(save_and_open(&f, &maker) == OK, "%s", f.err.text);
    batch(&f, 1);
    for (int i = 0; i < 3; i++) {
        fake_batch_input(&f.batch, 0, PENSTOCK_INT64, 1, shape, wanted, sizeof wanted);
        check(run(&f) != OK, "2^48 bytes were found");
        fake_batch_input(&f.batch, 0, PENSTOCK_INT64, 1, shape, few, sizeof few);
        check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
        check(is_floats(fake_batch_output(&f.batch, 0, 0, 0), 0, NULL, &zero, 1), "a sum of zeros");
    }
    end(&f);
}
