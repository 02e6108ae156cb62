/* onnx_ref_test.c - the shared models against the answers a reference runtime gave for them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include "backend/builtin.h"
#include "backend/fake_host.h"
#include "base/text.h"
#include "test/harness.h"

static const struct {
    const char *name;
    enum penstock_dtype dtype;
    size_t size;
} dtypes[] = {
    { "BOOL", PENSTOCK_BOOL, 1 },     { "UINT8", PENSTOCK_UINT8, 1 },
    { "UINT16", PENSTOCK_UINT16, 2 }, { "UINT32", PENSTOCK_UINT32, 4 },
    { "UINT64", PENSTOCK_UINT64, 8 }, { "INT8", PENSTOCK_INT8, 1 },
    { "INT16", PENSTOCK_INT16, 2 },   { "INT32", PENSTOCK_INT32, 4 },
    { "INT64", PENSTOCK_INT64, 8 },   { "FP16", PENSTOCK_FP16, 2 },
    { "FP32", PENSTOCK_FP32, 4 },     { "FP64", PENSTOCK_FP64, 8 },
    { "BYTES", PENSTOCK_BYTES, 0 },   { "BF16", PENSTOCK_BF16, 2 },
};

static size_t dtype_index(const char *name)
{
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        if (strcmp(dtypes[i].name, name) == 0)
            return i;
    }
    abort();
}

/* binary16 of a value that has one exactly. */
static uint16_t half_of(double value)
{
    int exponent;
    double fraction = frexp(fabs(value), &exponent);
    uint16_t sign = signbit(value) ? 0x8000 : 0;

    if (value == 0)
        return sign;
    if (exponent < -13) /* subnormal */
        return (uint16_t)(sign | (uint16_t)ldexp(fraction, exponent + 24));
    return (uint16_t)(sign | (uint16_t)((exponent + 14) << 10) |
                      ((uint16_t)ldexp(fraction, 11) & 0x3ffu));
}

static double half_value(uint16_t half)
{
    int exponent = half >> 10 & 31;
    double fraction = half & 0x3ff;
    double value = exponent == 0 ? ldexp(fraction, -24) : ldexp(fraction + 1024, exponent - 25);

    return half & 0x8000 ? -value : value;
}

static void put_element(struct text *out, size_t type, yyjson_val *value)
{
    double number = yyjson_get_num(value);
    float single = (float)number;
    uint16_t half = half_of(number);
    int64_t whole = yyjson_is_bool(value)   ? yyjson_get_bool(value)
                    : yyjson_is_uint(value) ? (int64_t)yyjson_get_uint(value)
                                            : yyjson_get_sint(value);
    uint32_t length = (uint32_t)yyjson_get_len(value);

    switch (dtypes[type].dtype) {
    case PENSTOCK_BYTES:
        text_put(out, &length, sizeof length);
        text_put(out, yyjson_get_str(value), length);
        break;
    case PENSTOCK_FP16: text_put(out, &half, sizeof half); break;
    case PENSTOCK_FP32: text_put(out, &single, sizeof single); break;
    case PENSTOCK_FP64: text_put(out, &number, sizeof number); break;
    default: text_put(out, &whole, dtypes[type].size); break; /* little-endian */
    }
}

/* "value[i] = (((i*37) % 256) - 127) / 128": the formulas that occur. */
static void put_generated(struct text *out, const char *formula, size_t count)
{
    bool is_centred = strstr(formula, "- 127) / 128") != NULL;

    for (size_t i = 0; i < count; i++) {
        float value = (float)(i * 37 % 256);
        if (is_centred)
            value = (value - 127) / 128;
        text_put(out, &value, sizeof value);
    }
}

static uint32_t read_shape(yyjson_val *tensor, int64_t *shape, size_t *count)
{
    yyjson_val *list = yyjson_obj_get(tensor, "shape"), *dim;
    size_t index, rank;

    *count = 1;
    yyjson_arr_foreach(list, index, rank, dim)
    {
        shape[index] = yyjson_get_sint(dim);
        *count *= (size_t)shape[index];
    }
    return (uint32_t)yyjson_arr_size(list);
}

static uint32_t declared_index(const struct fake_model *model, bool is_output, const char *name)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < model->declared_count; i++) {
        if (model->declared[i].is_output != is_output)
            continue;
        if (strcmp(model->declared[i].name, name) == 0)
            return at;
        at++;
    }
    return UINT32_MAX;
}

static void add_inputs(struct fake_batch *batch, yyjson_val *inputs)
{
    size_t index, count, i, n, elements;
    yyjson_val *tensor, *value;

    yyjson_arr_foreach(inputs, index, count, tensor)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(tensor, "name"));
        const char *formula = yyjson_get_str(yyjson_obj_get(tensor, "generator"));
        size_t type = dtype_index(yyjson_get_str(yyjson_obj_get(tensor, "datatype")));
        int64_t shape[PENSTOCK_RANK_MAX] = { 0 };
        uint32_t rank = read_shape(tensor, shape, &elements);
        uint32_t at = declared_index(batch->model, false, name);
        struct text bytes;
        check_or_stop(at != UINT32_MAX, "there is no input '%s'", name);
        text_init(&bytes, SIZE_MAX);
        if (formula != NULL)
            put_generated(&bytes, formula, elements);
        yyjson_arr_foreach(yyjson_obj_get(tensor, "data"), i, n, value)
            put_element(&bytes, type, value);
        fake_batch_input(batch, at, dtypes[type].dtype, rank, shape, bytes.data, bytes.size);
        text_deinit(&bytes);
    }
}

static double number_at(const struct penstock_tensor *tensor, size_t i)
{
    const char *at = (const char *)tensor->data;
    float single;
    double number;
    uint16_t half;
    int64_t whole = 0;

    switch (tensor->dtype) {
    case PENSTOCK_FP32: memcpy(&single, at + i * 4, 4); return (double)single;
    case PENSTOCK_FP64: memcpy(&number, at + i * 8, 8); return number;
    case PENSTOCK_FP16: memcpy(&half, at + i * 2, 2); return half_value(half);
    case PENSTOCK_INT64: memcpy(&whole, at + i * 8, 8); return (double)whole;
    default: abort();
    }
}

static void compare_floats(const struct penstock_tensor *got, yyjson_val *wanted, double atol,
                           const char *name)
{
    yyjson_val *data = yyjson_obj_get(wanted, "data"), *value;
    yyjson_val *places = yyjson_obj_get(wanted, "sample_index");
    yyjson_val *samples = yyjson_obj_get(wanted, "sample_value");
    size_t i, n;
    double worst = 0;

    yyjson_arr_foreach(data, i, n, value) worst =
        fmax(worst, fabs(number_at(got, i) - yyjson_get_num(value)));
    yyjson_arr_foreach(places, i, n, value)
    {
        double sample = yyjson_get_num(yyjson_arr_get(samples, i));
        worst = fmax(worst, fabs(number_at(got, (size_t)yyjson_get_uint(value)) - sample));
    }
    check(worst <= atol, "%s is off by %g, more than %g", name, worst, atol);
}

static void compare_exactly(const struct penstock_tensor *got, yyjson_val *wanted, size_t type,
                            const char *name)
{
    struct text bytes;
    size_t i, n;
    yyjson_val *value;

    text_init(&bytes, SIZE_MAX);
    yyjson_arr_foreach(yyjson_obj_get(wanted, "data"), i, n, value)
        put_element(&bytes, type, value);
    check(bytes.size == got->size &&
              (got->size == 0 || memcmp(bytes.data, got->data, got->size) == 0),
          "%s differs", name);
    text_deinit(&bytes);
}

static void compare_outputs(const struct fake_batch *batch, yyjson_val *outputs, double atol)
{
    size_t index, count, elements;
    yyjson_val *wanted;

    yyjson_arr_foreach(outputs, index, count, wanted)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(wanted, "name"));
        size_t type = dtype_index(yyjson_get_str(yyjson_obj_get(wanted, "datatype")));
        int64_t shape[PENSTOCK_RANK_MAX] = { 0 };
        uint32_t rank = read_shape(wanted, shape, &elements);
        uint32_t at = declared_index(batch->model, true, name);
        check_or_stop(at != UINT32_MAX, "there is no output '%s'", name);
        const struct penstock_tensor *got = fake_batch_output(batch, 0, 0, at);
        check_or_stop(got != NULL && got->dtype == dtypes[type].dtype, "no '%s'", name);
        check(got->rank == rank &&
                  (rank == 0 || memcmp(got->shape, shape, rank * sizeof *shape) == 0),
              "the shape of %s", name);
        if (atol > 0 && (got->dtype == PENSTOCK_FP32 || got->dtype == PENSTOCK_FP64))
            compare_floats(got, wanted, atol, name);
        else
            compare_exactly(got, wanted, type, name);
    }
}

static yyjson_doc *read_reference(const char *path)
{
    yyjson_read_err err;
    yyjson_doc *doc = yyjson_read_file(path, 0, NULL, &err);

    check(doc != NULL, "%s: %s", path, err.msg);
    return doc;
}

/* One case: its model is in `folder`. */
static void run_case(const char *folder, yyjson_val *reference)
{
    const char *name = yyjson_get_str(yyjson_obj_get(reference, "model"));
    double atol = yyjson_get_num(yyjson_obj_get(reference, "atol"));
    static struct fake_batch batch;
    struct err err = { .code = OK };
    void *opened = NULL, *instance = NULL;
    uint32_t traits = 0;
    char path[1200];

    snprintf(path, sizeof path, "%s/%s.onnx", folder, name);
    struct fake_model model = { .name = name, .folder = folder, .path = path };
    const struct penstock_backend *backend = backend_builtin("onnx", &fake_host, backend_err(&err));
    check_or_stop(backend != NULL, "%s", err.text);
    int code = backend->model_open(&opened, fake_model_host(&model), &traits, backend_err(&err));
    check_or_stop(code == OK, "%s: %s", name, err.text);
    code = backend->instance_open(&instance, opened, 0, (struct penstock_place){ 0 },
                                  backend_err(&err));
    check(code == OK, "%s: %s", name, err.text);
    fake_batch_init(&batch, &model, 1);
    add_inputs(&batch, yyjson_obj_get(reference, "inputs"));
    for (int i = 0; i < 2; i++) {
        fake_batch_reset(&batch);
        code = fake_batch_run(&batch, backend, instance);
        check(code == OK, "%s: %s", name, fake_batch_text(&batch));
        if (code == OK)
            compare_outputs(&batch, yyjson_obj_get(reference, "outputs"), atol);
    }
    fake_batch_deinit(&batch);
    backend->instance_close(&instance);
    backend->model_close(&opened);
    fake_model_deinit(&model);
    check(atomic_load(&fake_violations) == 0, "%s: the backend broke its contract", name);
}

static bool is_ready(void)
{
    fake_runtime_path = getenv("PENSTOCK_RUNTIME_DIR");
    if (test_shared() == NULL)
        test_skip("the shared models are not here");
    else if (fake_runtime_path == NULL)
        test_skip("PENSTOCK_RUNTIME_DIR does not say where ONNX Runtime is");
    return test_shared() != NULL && fake_runtime_path != NULL;
}

static void run_reference(const char *folder_name, const char *file)
{
    char folder[1100], path[1200];

    if (!is_ready())
        return;
    snprintf(folder, sizeof folder, "%s/models/%s", test_shared(), folder_name);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    yyjson_doc *doc = read_reference(path);
    yyjson_val *root = yyjson_doc_get_root(doc), *value;
    size_t index, count;
    if (yyjson_is_arr(root)) {
        yyjson_arr_foreach(root, index, count, value) run_case(folder, value);
    } else if (root != NULL) {
        run_case(folder, root);
    }
    yyjson_doc_free(doc);
}

TEST(ref_odd)
{
    run_reference("odd", "odd.ref.json");
}

TEST(ref_spam)
{
    run_reference("spam", "spam.ref.json");
}

TEST(ref_iris)
{
    run_reference("tabular", "iris.ref.json");
}

TEST(ref_digits)
{
    run_reference("tabular", "digits_mlp.ref.json");
}

TEST(ref_cancer)
{
    run_reference("tabular", "cancer_xgb.ref.json");
}

TEST(ref_efficientnet)
{
    run_reference("image", "efficientnet_lite0_int8.ref.json");
}

TEST(ref_yolox)
{
    run_reference("detect", "yolox_nano.ref.json");
}

TEST(ref_ultraface)
{
    run_reference("detect", "ultraface_rfb320.ref.json");
}

TEST(ref_minilm)
{
    run_reference("text", "all_minilm_l6_v2_int8.ref.json");
}

/* Every file of odd/: what must load loads, what must not says why. */
TEST(ref_odd_loads_or_says_why)
{
    static const struct {
        const char *name, *says; /* NULL: loads */
    } cases[] = {
        { "external_data", NULL },
        { "fails_on_bad_index", NULL },
        { "half_plus_two", NULL },
        { "identity_all_types", NULL },
        { "identity_bf16", NULL },
        { "identity_fp32", NULL },
        { "init_as_input", NULL },
        { "iris_zipmap", NULL },
        { "nonzero", NULL },
        { "scale_fp16", NULL },
        { "simple", NULL },
        { "simple_identity", NULL },
        { "simple_sequence", NULL },
        { "simple_string", NULL },
        { "spin", NULL },
        { "bad_not_onnx", "not an ONNX model" },
        { "bad_truncated", "cut short" },
        { "bad_unknown_op", "acme:NoSuchOp" },
    };

    if (!is_ready())
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char folder[1100], path[1200];
        struct err err = { .code = OK };
        void *opened = NULL;
        uint32_t traits = 0;
        snprintf(folder, sizeof folder, "%s/models/odd", test_shared());
        snprintf(path, sizeof path, "%s/%s.onnx", folder, cases[i].name);
        struct fake_model model = { .name = cases[i].name, .folder = folder, .path = path };
        const struct penstock_backend *backend =
            backend_builtin("onnx", &fake_host, backend_err(&err));
        check_or_stop(backend != NULL, "%s", err.text);
        int code =
            backend->model_open(&opened, fake_model_host(&model), &traits, backend_err(&err));
        check((code == OK) == (cases[i].says == NULL), "%s: %s", cases[i].name, err.text);
        check(code == OK || strstr(err.text, cases[i].says) != NULL, "%s says %s", cases[i].name,
              err.text);
        if (opened != NULL)
            backend->model_close(&opened);
        fake_model_deinit(&model);
    }
}

/* Zipmap'd iris gives what plain iris gives (the labels are words there). */
TEST(ref_iris_zipmap)
{
    static const float x[] = { 6.3f, 3.4f, 5.6f, 2.4f, 5.1f, 3.4f, 1.5f, 0.2f };
    static struct fake_batch batch;
    struct err err = { .code = OK };
    void *opened = NULL, *instance = NULL;
    int64_t shape[] = { 2, 4 };
    uint32_t traits = 0;
    char folder[1100], path[1200];

    if (!is_ready())
        return;
    snprintf(folder, sizeof folder, "%s/models/odd", test_shared());
    snprintf(path, sizeof path, "%s/iris_zipmap.onnx", folder);
    struct fake_model model = { .name = "iris", .folder = folder, .path = path };
    const struct penstock_backend *backend = backend_builtin("onnx", &fake_host, backend_err(&err));
    check_or_stop(backend != NULL && backend->model_open(&opened, fake_model_host(&model), &traits,
                                                         backend_err(&err)) == OK,
                  "%s", err.text);
    check(backend->instance_open(&instance, opened, 0, (struct penstock_place){ 0 },
                                 backend_err(&err)) == OK,
          "%s", err.text);
    fake_batch_init(&batch, &model, 1);
    fake_batch_input(&batch, 0, PENSTOCK_FP32, 2, shape, x, sizeof x);
    check(fake_batch_run(&batch, backend, instance) == OK, "%s", fake_batch_text(&batch));
    const struct penstock_tensor *p =
        fake_batch_output(&batch, 0, 0, declared_index(&model, true, "output_probability"));
    check(p != NULL && p->rank == 2 && p->shape[0] == 2 && p->shape[1] == 3, "a tensor");
    check(p != NULL && number_at(p, 2) > 0.9 && number_at(p, 3) > 0.9, "virginica, setosa");
    check(p != NULL && fabs(number_at(p, 0) + number_at(p, 1) + number_at(p, 2) - 1) < 1e-5,
          "probabilities");
    fake_batch_deinit(&batch);
    backend->instance_close(&instance);
    backend->model_close(&opened);
    fake_model_deinit(&model);
}
