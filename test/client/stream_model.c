/* stream_model.c - a backend for tests of streams, which says what it sees of its readers.
 *
 * It answers with the numbers 0, 1, 2 ... (NUMBER) and a text (TEXT) of `size` bytes with each. A caller
 * sets by parameters: count, delay_ms between two, first_ms before the first, size, fail_at (the
 * number in whose place it fails), code (of that failure), bad_at (the text is not UTF-8).
 * When a run ends it logs "stream_model: made N, ended" or "stream_model: made N, cancelled".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <penstock/backend.h>

static const struct penstock_host *host;

static int model_open(void **ret_model, struct penstock_model *model, uint32_t *ret_traits,
                      struct penstock_err *err)
{
    static const int64_t one[] = { 1 };
    int code = host->declare(model, false, "SEED", PENSTOCK_INT64, 1, one, false, err);

    if (code == 0)
        code = host->declare(model, true, "NUMBER", PENSTOCK_INT64, 1, one, false, err);
    if (code == 0)
        code = host->declare(model, true, "TEXT", PENSTOCK_BYTES, 1, one, false, err);
    *ret_model = model;
    *ret_traits = PENSTOCK_BACKEND_DECOUPLED;
    return code;
}

static void model_close(void **model)
{
    *model = NULL;
}

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

static int64_t number_of(struct penstock_batch *batch, const char *key, int64_t otherwise)
{
    const char *text = host->parameter(batch, 0, key);

    return text == NULL ? otherwise : strtoll(text, NULL, 10);
}

/* False when its caller has left meanwhile. */
static bool wait_ms(struct penstock_batch *batch, int64_t ms)
{
    for (; ms > 0 && !host->cancelled(batch, 0); ms -= 2)
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    return !host->cancelled(batch, 0);
}

static bool put(struct penstock_batch *batch, int64_t number, uint32_t size, bool is_bad)
{
    static const int64_t one[] = { 1 };
    int64_t *at = host->output(batch, 0, 0, 1, one, sizeof number, NULL);
    char *text = host->output(batch, 0, 1, 1, one, sizeof size + size, NULL);

    if (at == NULL || text == NULL)
        return false;
    *at = number;
    memcpy(text, &size, sizeof size);
    memset(text + sizeof size, is_bad ? 0xff : 'x', size);
    host->emit(batch, 0);
    return true;
}

static void execute(void *instance, struct penstock_batch *batch)
{
    int64_t count = number_of(batch, "count", 3), delay = number_of(batch, "delay_ms", 0), i = 0;
    int64_t fail_at = number_of(batch, "fail_at", -1), bad_at = number_of(batch, "bad_at", -1);
    uint32_t size = (uint32_t)number_of(batch, "size", 4);
    bool goes_on = wait_ms(batch, number_of(batch, "first_ms", 0));
    char line[80];

    (void)instance;
    for (; goes_on && i < count && i != fail_at; i++) {
        host->wait_credit(batch, 0);
        goes_on = (i == 0 || wait_ms(batch, delay)) && !host->cancelled(batch, 0) &&
                  put(batch, i, size, i == bad_at);
    }
    snprintf(line, sizeof line, "stream_model: made %" PRId64 ", %s", i,
             host->cancelled(batch, 0) ? "cancelled" : "ended");
    host->log(PENSTOCK_LOG_WARN, line);
    if (i == fail_at)
        host->fail_row(batch, 0, (int)number_of(batch, "code", 13), "it failed \"on\" purpose");
    host->done(batch, 0, NULL);
}

static const struct penstock_backend backend = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof backend,
    .name = "stream_model",
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
    return &backend;
}
