/* stubborn.c - a backend for serve.py: it takes `open_ms` to open a model, and runs for `run_ms`
 * whatever anybody says; with `inline` on the loop of who asks. SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <time.h>

#include "penstock/backend.h"

static const struct penstock_host *host;

struct model {
    long run_ms;
};

static void sleep_ms(long ms)
{
    struct timespec left = { ms / 1000, ms % 1000 * 1000000 };

    while (nanosleep(&left, &left) != 0)
        continue;
}

static long parameter(struct penstock_model *model, const char *key)
{
    const char *text = host->config_parameter(model, key);

    return text == NULL ? 0 : atol(text);
}

static int model_open(void **ret, struct penstock_model *of, uint32_t *ret_traits,
                      struct penstock_err *err)
{
    static const int64_t dims[] = { 1 };
    struct model *model = malloc(sizeof *model);

    if (model == NULL)
        return host->fail(err, 8, "no memory");
    sleep_ms(parameter(of, "open_ms"));
    model->run_ms = parameter(of, "run_ms");
    if (host->declare(of, false, "x", PENSTOCK_FP32, 1, dims, false, err) != 0 ||
        host->declare(of, true, "y", PENSTOCK_FP32, 1, dims, false, err) != 0) {
        free(model);
        return 13;
    }
    *ret_traits = parameter(of, "inline") != 0 ? PENSTOCK_BACKEND_RUNS_INLINE : 0; /* a lie */
    *ret = model;
    return 0;
}

static void model_close(void **model)
{
    free(*model);
    *model = NULL;
}

static int instance_open(void **ret, void *model, uint32_t index, struct penstock_place place,
                         struct penstock_err *err)
{
    (void)index;
    (void)place;
    (void)err;
    *ret = model;
    return 0;
}

static void instance_close(void **instance)
{
    *instance = NULL;
}

static void execute(void *instance, struct penstock_batch *batch)
{
    static const int64_t shape[] = { 1 };
    const struct model *model = instance;
    struct penstock_err *nowhere = NULL;

    sleep_ms(model->run_ms);
    float *out = host->output(batch, 0, 0, 1, shape, sizeof *out, nowhere);
    if (out != NULL)
        *out = 1;
    host->done(batch, 0, NULL);
}

static const struct penstock_backend table = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof table,
    .name = "stubborn",
    .model_open = model_open,
    .model_close = model_close,
    .instance_open = instance_open,
    .instance_close = instance_close,
    .execute = execute,
};

__attribute__((visibility("default"))) const struct penstock_backend *penstock_backend_entry(
    const struct penstock_host *given, struct penstock_err *err)
{
    (void)err;
    host = given;
    return &table;
}
