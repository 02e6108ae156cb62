/* codec_bench.c - how fast tensors become JSON and back, beside yyjson.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     ninja -C BUILD src/codec/codec_bench && BUILD/src/codec/codec_bench [elements] [rounds]
 *
 * One thread. Each figure is the best of `rounds`; yyjson's includes what a server would have to do
 * besides: copy the numbers out of its tree, or build the tree that it writes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <yyjson.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/text.h"
#include "codec/compress.h"
#include "codec/number.h"
#include "codec/tensor_json.h"
#include "model/dtype.h"

static uint64_t state = 88172645463325252u;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static double uniform(void)
{
    return (double)(next_random() >> 11) * 0x1p-53;
}

static double normal(void)
{
    return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
}

struct run {
    enum penstock_dtype dtype;
    uint64_t count;
    struct slice json;
    void *data;
    struct text out;
};

static bool ours_read(struct run *run)
{
    struct json_cursor c = { run->json.data, run->json.data, run->json.data + run->json.size };

    return tensor_json_read(run->data, run->dtype, run->count, &c, "data", NULL) == OK;
}

static bool ours_shape(struct run *run)
{
    struct json_cursor c = { run->json.data, run->json.data, run->json.data + run->json.size };
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];

    return tensor_json_shape(c, &rank, shape, "data", NULL) == OK && rank == 1;
}

static bool ours_write(struct run *run)
{
    struct penstock_tensor tensor = {
        .dtype = run->dtype,
        .rank = 1,
        .shape = { (int64_t)run->count },
        .data = run->data,
        .size = run->count * dtype_size(run->dtype),
    };

    run->out.size = 0;
    return tensor_json_write(&run->out, &tensor, (struct tensor_json_style){ .precision = 0 },
                             NULL) == OK;
}

static bool yyjson_reads(struct run *run)
{
    yyjson_doc *doc = yyjson_read((const char *)run->json.data, run->json.size, 0);
    size_t i, max;
    yyjson_val *value;

    if (doc == NULL)
        return false;
    yyjson_arr_foreach(yyjson_doc_get_root(doc), i, max, value)
    {
        switch (run->dtype) {
        case PENSTOCK_FP32: ((float *)run->data)[i] = (float)yyjson_get_num(value); break;
        case PENSTOCK_FP64: ((double *)run->data)[i] = yyjson_get_num(value); break;
        default: ((int64_t *)run->data)[i] = yyjson_get_sint(value);
        }
    }
    yyjson_doc_free(doc);
    return true;
}

static bool yyjson_writes(struct run *run)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root;
    size_t size;

    if (doc == NULL)
        return false;
    switch (run->dtype) {
    case PENSTOCK_FP32: root = yyjson_mut_arr_with_float(doc, run->data, run->count); break;
    case PENSTOCK_FP64: root = yyjson_mut_arr_with_double(doc, run->data, run->count); break;
    default: root = yyjson_mut_arr_with_sint64(doc, run->data, run->count);
    }
    yyjson_mut_doc_set_root(doc, root);
    char *text = yyjson_mut_write(doc, 0, &size);
    free(text);
    yyjson_mut_doc_free(doc);
    return text != NULL;
}

/* Fills data with values and leaves their JSON in out. */
static void make(struct run *run, const char *kind)
{
    for (uint64_t i = 0; i < run->count; i++) {
        double value = strcmp(kind, "normal") == 0        ? normal()
                       : strcmp(kind, "0.0 and 1.0") == 0 ? (double)(next_random() % 2)
                       : strcmp(kind, "pixels") == 0      ? (double)(next_random() % 256)
                                                          : uniform();
        switch (run->dtype) {
        case PENSTOCK_FP32: ((float *)run->data)[i] = (float)value; break;
        case PENSTOCK_FP64: ((double *)run->data)[i] = value; break;
        default: ((int64_t *)run->data)[i] = (int64_t)(next_random() % 30522);
        }
    }
    if (strcmp(kind, "as Python's tolist()") != 0) {
        require(ours_write(run));
        return;
    }
    run->out.size = 0;
    for (uint64_t i = 0; i < run->count; i++) {
        char number[NUMBER_TEXT_MAX];
        text_str(&run->out, i == 0 ? "[" : ", ");
        text_put(&run->out, number, number_write_f64(number, (double)((float *)run->data)[i]));
    }
    text_byte(&run->out, ']');
}

static uint64_t best_ns(struct run *run, bool (*step)(struct run *), unsigned rounds)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < rounds; i++) {
        uint64_t begin = clock_mono_ns();
        require(step(run));
        best = MIN(best, clock_mono_ns() - begin);
    }
    return best;
}

int main(int argc, char **argv)
{
    static const struct {
        enum penstock_dtype dtype;
        const char *kind;
    } rows[] = {
        { PENSTOCK_FP32, "uniform" },
        { PENSTOCK_FP32, "normal" },
        { PENSTOCK_FP32, "as Python's tolist()" },
        { PENSTOCK_FP32, "pixels" },
        { PENSTOCK_FP32, "0.0 and 1.0" },
        { PENSTOCK_FP64, "uniform" },
        { PENSTOCK_FP64, "normal" },
        { PENSTOCK_INT64, "token ids" },
    };
    static const struct {
        const char *name;
        bool (*step)(struct run *);
    } steps[] = { { "shape", ours_shape },
                  { "read", ours_read },
                  { "read by yyjson", yyjson_reads },
                  { "write", ours_write },
                  { "write by yyjson", yyjson_writes } };
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 150528;
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 200;

    require(count > 0 && rounds > 0);
    printf("%-6s %-21s %-16s %9s %9s %7s\n", "dtype", "values", "step", "ms", "ns/number", "MB/s");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct run run = { .dtype = rows[i].dtype, .count = count };
        run.data = calloc(count, 8);
        require(run.data != NULL);
        text_init(&run.out, SIZE_MAX);
        make(&run, rows[i].kind);
        size_t size = run.out.size;
        uint8_t *copy = malloc(size);
        require(copy != NULL && !text_failed(&run.out));
        memcpy(copy, run.out.data, size);
        run.json = slice_make(copy, size);
        for (size_t j = 0; j < COUNT(steps); j++) {
            uint64_t ns = best_ns(&run, steps[j].step, rounds);
            size_t bytes = steps[j].step == ours_write ? run.out.size : size;
            printf("%-6s %-21s %-16s %9.3f %9.2f %7.0f\n", dtype_name(run.dtype), rows[i].kind,
                   steps[j].name, (double)ns / 1e6, (double)ns / (double)count,
                   (double)bytes * 1e3 / (double)ns);
        }
        text_deinit(&run.out);
        free(copy);
        free(run.data);
    }
    return 0;
}
