/* test_plugin.c - a plugin for builtin_test.c, good or with one thing wrong; VARIANT says which.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "penstock/backend.h"

enum { GOOD, OLD_ABI, NO_SIZE, NO_EXECUTE, REFUSES, WITHOUT_OPTIONAL };

static int model_open(void **ret_model, struct penstock_model *host_model, uint32_t *ret_traits,
                      struct penstock_err *err)
{
    (void)host_model, (void)err;
    *ret_traits = 0;
    *ret_model = ret_traits;
    return 0;
}

static void close_slot(void **slot)
{
    *slot = 0;
}

static int instance_open(void **ret_instance, void *model, uint32_t index,
                         struct penstock_place place, struct penstock_err *err)
{
    (void)index, (void)place, (void)err;
    *ret_instance = model;
    return 0;
}

static void execute(void *instance, struct penstock_batch *batch)
{
    (void)instance, (void)batch;
}

static void cancel(void *instance)
{
    (void)instance;
}

static const struct penstock_backend backend = {
    .abi = VARIANT == OLD_ABI ? 99 : PENSTOCK_BACKEND_ABI,
    .size = VARIANT == NO_SIZE            ? 0
            : VARIANT == WITHOUT_OPTIONAL ? offsetof(struct penstock_backend, cancel)
                                          : sizeof(struct penstock_backend),
    .name = "test",
    .model_open = model_open,
    .model_close = close_slot,
    .instance_open = instance_open,
    .instance_close = close_slot,
    .execute = VARIANT == NO_EXECUTE ? 0 : execute,
    .cancel = cancel,
};

__attribute__((visibility("default"))) const struct penstock_backend *penstock_backend_entry(
    const struct penstock_host *host, struct penstock_err *err)
{
    if (VARIANT == REFUSES) {
        host->fail(err, 14, "no device is there");
        return 0;
    }
    return &backend;
}
