/* bench.c - what a run through the ONNX backend costs, beside the runtime's own part.
 *
 *   ninja src/backend_bench && src/backend_bench MODEL.onnx INPUT SECONDS
 *
 * INPUT is DTYPE:DIM,DIM,... for each input, a blank between ("FP32:1,4"); the values are zeros.
 * Prints the fastest and the median microseconds of a run, over rounds of up to 1,000 runs, and
 * how much resident memory grew after the first tenth. The host is as thin as one can be, so that
 * what is measured is the backend.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/builtin.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

enum { SLOTS = 32, OUTPUT_BYTES = 64 << 20, ROUND = 1000, ROUNDS_MAX = 1 << 16 };

static struct penstock_tensor inputs[SLOTS];
static void *outputs[SLOTS];
static int code_seen;
static char text_seen[512];
static char folder[4096];
static const char *path;

static int fail(struct penstock_err *err, int code, const char *format, ...)
{
    va_list args;

    (void)err;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return code;
}

static void log_line(enum penstock_log_level level, const char *text)
{
    if (level <= PENSTOCK_LOG_WARN)
        fprintf(stderr, "%s\n", text);
}

static const char *option(const char *name)
{
    return strcmp(name, "onnx-threads") == 0 ? getenv("ONNX_THREADS") : NULL;
}

static const char *runtime_path(const char *name)
{
    (void)name;
    return getenv("PENSTOCK_RUNTIME_DIR");
}

static const char *model_name(const struct penstock_model *model)
{
    (void)model;
    return "bench";
}

static const char *model_folder(const struct penstock_model *model)
{
    (void)model;
    return folder;
}

static const char *model_path(const struct penstock_model *model)
{
    (void)model;
    return path;
}

static const char *config_json(const struct penstock_model *model)
{
    (void)model;
    return "{}";
}

static const char *config_parameter(const struct penstock_model *model, const char *key)
{
    (void)model;
    return strcmp(key, "enable_mem_arena") == 0 ? getenv("ENABLE_MEM_ARENA") : NULL;
}

static int declare(struct penstock_model *model, bool is_output, const char *name,
                   enum penstock_dtype dtype, uint32_t rank, const int64_t *dims, bool is_optional,
                   struct penstock_err *err)
{
    (void)model, (void)is_output, (void)name, (void)dtype, (void)rank, (void)dims;
    (void)is_optional, (void)err;
    return OK;
}

static uint32_t rows(const struct penstock_batch *batch)
{
    (void)batch;
    return 1;
}

static const struct penstock_tensor *input(const struct penstock_batch *batch, uint32_t index)
{
    (void)batch;
    return &inputs[index];
}

static int64_t row_size(const struct penstock_batch *batch, uint32_t row)
{
    (void)batch, (void)row;
    return 1;
}

static bool wants(const struct penstock_batch *batch, uint32_t row, uint32_t output)
{
    (void)batch, (void)row, (void)output;
    return true;
}

static bool cancelled(const struct penstock_batch *batch, uint32_t row)
{
    (void)batch, (void)row;
    return false;
}

static void *output(struct penstock_batch *batch, uint32_t row, uint32_t index, uint32_t rank,
                    const int64_t *shape, size_t bytes, struct penstock_err *err)
{
    (void)batch, (void)row, (void)rank, (void)shape, (void)err;
    return bytes <= OUTPUT_BYTES ? outputs[index] : NULL;
}

static int output_adopt(struct penstock_batch *batch, uint32_t row, uint32_t index, uint32_t rank,
                        const int64_t *shape, void *data, size_t bytes,
                        void (*release)(void *context, void *data), void *context,
                        struct penstock_err *err)
{
    (void)batch, (void)row, (void)index, (void)rank, (void)shape, (void)bytes, (void)err;
    release(context, data);
    return OK;
}

static void fail_row(struct penstock_batch *batch, uint32_t row, int code, const char *text)
{
    (void)batch, (void)row;
    code_seen = code;
    snprintf(text_seen, sizeof text_seen, "%s", text);
}

static void done(struct penstock_batch *batch, int code, const char *text)
{
    (void)batch;
    if (code != OK) {
        code_seen = code;
        snprintf(text_seen, sizeof text_seen, "%s", text);
    }
}

static void mark_compute(struct penstock_batch *batch, bool is_end)
{
    (void)batch, (void)is_end;
}

static const struct penstock_host host = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof host,
    .fail = fail,
    .log = log_line,
    .option = option,
    .runtime_path = runtime_path,
    .model_name = model_name,
    .model_folder = model_folder,
    .model_path = model_path,
    .config_json = config_json,
    .config_parameter = config_parameter,
    .declare = declare,
    .rows = rows,
    .input = input,
    .row_size = row_size,
    .wants = wants,
    .cancelled = cancelled,
    .output = output,
    .output_adopt = output_adopt,
    .fail_row = fail_row,
    .done = done,
    .mark_compute = mark_compute,
};

static const struct {
    const char *name;
    enum penstock_dtype dtype;
    size_t size;
} dtypes[] = { { "FP32", PENSTOCK_FP32, 4 },   { "INT64", PENSTOCK_INT64, 8 },
               { "INT32", PENSTOCK_INT32, 4 }, { "UINT8", PENSTOCK_UINT8, 1 },
               { "BYTES", PENSTOCK_BYTES, 4 }, { "FP16", PENSTOCK_FP16, 2 } };

static bool parse_input(struct penstock_tensor *ret, const char *text)
{
    size_t bytes = 0;
    const char *at = strchr(text, ':');

    for (size_t i = 0; at != NULL && i < COUNT(dtypes); i++) {
        if (strncmp(text, dtypes[i].name, (size_t)(at - text)) == 0) {
            ret->dtype = dtypes[i].dtype;
            bytes = dtypes[i].size;
        }
    }
    if (bytes == 0)
        return false;
    while (*at != '\0' && at[1] != '\0') {
        char *end;
        ret->shape[ret->rank] = strtoll(at + 1, &end, 10);
        bytes *= (size_t)ret->shape[ret->rank++];
        at = end;
    }
    void *data = mem_aligned(64, MAX(bytes, (size_t)64));
    if (data == NULL)
        return false;
    memset(data, 0, bytes);
    ret->data = data;
    ret->size = bytes;
    return true;
}

static long resident_kb(void)
{
    long pages = 0, whole = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file != NULL) {
        if (fscanf(file, "%ld %ld", &whole, &pages) != 2)
            pages = 0;
        fclose(file);
    }
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void measure(const struct penstock_backend *backend, void *instance, double seconds,
                    uint64_t run_ns)
{
    static double rounds[ROUNDS_MAX];
    size_t count = 0;
    uint64_t begin = clock_mono_ns(), runs = 0;
    uint64_t end = begin + (uint64_t)(seconds * 1e9);
    long early = 0;
    int round = (int)MAX(MIN(2 * NS_PER_MS / MAX(run_ns, (uint64_t)1), (uint64_t)ROUND), 1);

    while (clock_mono_ns() < end && count < ROUNDS_MAX && code_seen == OK) {
        uint64_t from = clock_mono_ns();
        for (int i = 0; i < round; i++)
            backend->execute(instance, NULL);
        uint64_t took = clock_mono_ns() - from;
        rounds[count++] = (double)took / 1e3 / round;
        runs += (uint64_t)round;
        if (early == 0 && clock_mono_ns() - begin > (end - begin) / 10)
            early = resident_kb();
    }
    qsort(rounds, count, sizeof *rounds, compare);
    printf("%llu runs: fastest %.3f us, median %.3f us; resident %ld kB, grew %ld kB\n",
           (unsigned long long)runs, rounds[0], rounds[count / 2], resident_kb(),
           resident_kb() - early);
}

int main(int argc, char **argv)
{
    struct err err = { .code = OK };
    uint32_t traits = 0;
    void *model = NULL, *instance = NULL;

    if (argc < 4) {
        fprintf(stderr, "usage: %s MODEL.onnx INPUT... SECONDS   (INPUT: FP32:1,4)\n", argv[0]);
        return 2;
    }
    path = argv[1];
    snprintf(folder, sizeof folder, "%s", argv[1]);
    *strrchr(folder, '/') = '\0';
    for (int i = 2; i < argc - 1 && i - 2 < SLOTS; i++) {
        if (!parse_input(&inputs[i - 2], argv[i]))
            return 2;
    }
    for (size_t i = 0; i < SLOTS; i++)
        outputs[i] = mem_aligned(64, OUTPUT_BYTES);
    uint64_t from = clock_mono_ns();
    const struct penstock_backend *backend = backend_builtin("onnx", &host, backend_err(&err));
    if (backend == NULL || backend->model_open(&model, NULL, &traits, backend_err(&err)) != OK ||
        backend->instance_open(&instance, model, 0, (struct penstock_place){ 0 },
                               backend_err(&err)) != OK)
        return 1;
    uint64_t opened = clock_mono_ns();
    backend->execute(instance, NULL);
    uint64_t ran = clock_mono_ns();
    backend->execute(instance, NULL);
    uint64_t again = clock_mono_ns() - ran;
    printf("library and model: %.1f ms, first run: %.3f ms\n", (double)(opened - from) / 1e6,
           (double)(ran - opened) / 1e6);
    measure(backend, instance, strtod(argv[argc - 1], NULL), again);
    if (code_seen != OK)
        fprintf(stderr, "code %d: %s\n", code_seen, text_seen);
    backend->instance_close(&instance);
    backend->model_close(&model);
    return code_seen != OK;
}
