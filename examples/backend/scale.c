/* scale.c - a whole backend: multiplies numbers by the `factor` of the model's configuration.
 *
 *     cc -std=c11 -O2 -shared -fPIC -I/usr/local/include scale.c -o scale.so
 *     penstock serve models --backend-plugin "$PWD/scale.so"
 *
 * It includes one header and links against nothing; all it may call arrives as `host`.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>

#include <penstock/backend.h>

static const struct penstock_host *host;

struct scale {
    float factor;
};

static int model_open(void **ret_model, struct penstock_model *model, uint32_t *ret_traits,
                      struct penstock_err *err)
{
    static const int64_t dims[] = { -1, -1 }; /* callers' rows, numbers in each */
    const char *text = host->config_parameter(model, "factor");
    char *end = NULL;
    float factor = text != NULL ? strtof(text, &end) : 1;
    if (text != NULL && (end == text || *end != '\0'))
        return host->fail(err, 3, "parameter 'factor' is '%s'; it takes a number", text);

    int code = host->declare(model, false, "IN", PENSTOCK_FP32, 2, dims, false, err);
    if (code == 0)
        code = host->declare(model, true, "OUT", PENSTOCK_FP32, 2, dims, false, err);
    struct scale *scale = code == 0 ? malloc(sizeof *scale) : NULL;
    if (scale == NULL)
        return code != 0 ? code : host->fail(err, 8, "no memory for a model");
    scale->factor = factor;
    *ret_model = scale;
    *ret_traits = PENSTOCK_BACKEND_RUNS_INLINE | PENSTOCK_BACKEND_CAN_BATCH;
    return 0;
}

static void model_close(void **model)
{
    free(*model);
    *model = NULL;
}

/* All instances are the model itself: it is only read. */
static int instance_open(void **ret_instance, void *model, uint32_t index,
                         struct penstock_place place, struct penstock_err *err)
{
    (void)index, (void)place, (void)err;
    *ret_instance = model;
    return 0;
}

static void instance_close(void **instance)
{
    *instance = NULL;
}

static void execute(void *instance, struct penstock_batch *batch)
{
    const struct scale *scale = instance;
    const struct penstock_tensor *in =
        host->input(batch, 0); /* of all callers, one below another */
    const float *from = in->data;

    for (uint32_t row = 0; row < host->rows(batch); row++) {
        int64_t shape[] = { host->row_size(batch, row), in->shape[1] };
        size_t count = (size_t)(shape[0] * shape[1]);
        float *to = host->output(batch, row, 0, 2, shape, count * sizeof *to, NULL);
        if (to == NULL && count > 0)
            host->fail_row(batch, row, 8, "no memory for the answer");
        for (size_t i = 0; to != NULL && i < count; i++)
            to[i] = from[i] * scale->factor;
        from += count;
    }
    host->done(batch, 0, NULL);
}

static const struct penstock_backend scale_backend = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof scale_backend,
    .name = "scale",
    .model_open = model_open,
    .model_close = model_close,
    .instance_open = instance_open,
    .instance_close = instance_close,
    .execute = execute,
};

__attribute__((visibility("default"))) const struct penstock_backend *penstock_backend_entry(
    const struct penstock_host *given, struct penstock_err *err)
{
    host = given;
    if (given->abi == PENSTOCK_BACKEND_ABI)
        return &scale_backend;
    given->fail(err, 12, "scale was built for another version of penstock/backend.h");
    return NULL;
}
