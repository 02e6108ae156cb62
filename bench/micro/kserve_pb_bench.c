/* kserve_pb_bench.c - how fast infer messages are read and written.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     ninja -C BUILD src/codec/kserve_pb_bench && BUILD/src/codec/kserve_pb_bench [rounds]
 *
 * One thread, everything in the cache that fits there. Each figure is the best of `rounds`, of which
 * one is as many steps as take about a millisecond.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/pb.h"
#include "codec/kserve_pb.h"
#include "model/dtype.h"

enum { PIXELS = 150528, IMAGE_BYTES = PIXELS * 4 };

struct run {
    struct arena *arena;
    struct slice message;
    enum penstock_dtype dtype; /* of contents, when they are read as well */
    uint64_t count;
    struct kserve_pb_response response;
};

static bool decode(struct run *run)
{
    struct kserve_pb_request request;

    arena_reset(run->arena);
    return kserve_pb_decode(&request, run->message, run->arena, NULL, NULL) == OK &&
           request.inputs_count == 1;
}

static bool decode_contents(struct run *run)
{
    struct kserve_pb_request request;
    struct buf *holder = NULL;
    struct slice data;

    arena_reset(run->arena);
    if (kserve_pb_decode(&request, run->message, run->arena, NULL, NULL) != OK ||
        kserve_pb_contents(request.inputs[0].contents, run->dtype, run->count, "x", run->arena,
                           NULL, &data, &holder, NULL) != OK)
        return false;
    buf_unref(&holder);
    return true;
}

static bool encode(struct run *run)
{
    struct kserve_pb_piece *pieces;
    uint32_t count;

    arena_reset(run->arena);
    return kserve_pb_encode(&run->response, 4096, run->arena, &pieces, &count, NULL) == OK;
}

static double best_ns(struct run *run, bool (*step)(struct run *), unsigned rounds)
{
    uint64_t best = UINT64_MAX, steps = 1;

    for (;; steps *= 2) { /* until a round is long enough for the clock */
        uint64_t begin = clock_mono_ns();
        for (uint64_t i = 0; i < steps; i++)
            require(step(run));
        if (clock_mono_ns() - begin > 500000)
            break;
    }
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t begin = clock_mono_ns();
        for (uint64_t k = 0; k < steps; k++)
            require(step(run));
        best = MIN(best, clock_mono_ns() - begin);
    }
    return (double)best / (double)steps;
}

static void show(const char *what, struct run *run, bool (*step)(struct run *), unsigned rounds)
{
    double ns = best_ns(run, step, rounds);

    if (run->count > 1000 && step == decode_contents)
        printf("%-44s %12.0f ns  %6.2f ns an element\n", what, ns, ns / (double)run->count);
    else
        printf("%-44s %12.1f ns\n", what, ns);
}

/* -- the messages -------------------------------------------------------------------------------- */

static uint8_t memory[1 << 23], inner[1 << 22];

static struct slice request_of(const char *datatype, struct slice dims, uint32_t contents_number,
                               struct slice contents, bool is_raw)
{
    uint8_t *at = inner;
    struct slice input;

    at = pb_put_bytes(at, 1, slice_of("input"));
    at = pb_put_bytes(at, 2, slice_of(datatype));
    at = pb_put_bytes(at, 3, dims);
    if (!is_raw) {
        at = pb_put_head(at, 5, pb_size_len(contents_number, contents.size));
        at = pb_put_bytes(at, contents_number, contents);
    }
    input = slice_make(inner, (size_t)(at - inner));

    at = pb_put_bytes(memory, 1, slice_of("iris"));
    at = pb_put_bytes(at, 3, slice_of("1"));
    at = pb_put_bytes(at, 5, input);
    if (is_raw)
        at = pb_put_bytes(at, 7, contents);
    require((size_t)(at - memory) <= sizeof memory);
    return slice_make(memory, (size_t)(at - memory));
}

static uint64_t state = 88172645463325252u;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void bench_contents(struct run *run, unsigned rounds)
{
    static const struct {
        const char *what, *datatype;
        enum penstock_dtype dtype;
        uint32_t number;
        uint64_t below;
    } rows[] = {
        { "150,528 FP32, packed", "FP32", PENSTOCK_FP32, 6, 0 },
        { "150,528 BOOL", "BOOL", PENSTOCK_BOOL, 1, 2 },
        { "150,528 UINT8 pixels", "UINT8", PENSTOCK_UINT8, 4, 256 },
        { "150,528 INT64 token ids (below 30,522)", "INT64", PENSTOCK_INT64, 3, 30522 },
        { "150,528 INT64 of any length", "INT64", PENSTOCK_INT64, 3, UINT64_MAX },
    };
    static uint8_t packed[PIXELS * 10];

    for (size_t i = 0; i < COUNT(rows); i++) {
        uint8_t *at = packed;
        for (unsigned k = 0; k < PIXELS; k++) {
            uint64_t value = rows[i].below == UINT64_MAX ? next_random() >> next_random() % 64
                                                         : next_random() % MAX(rows[i].below, 1);
            if (rows[i].below == 0)
                at += 4;
            else
                at = pb_put_varint(at, value);
        }
        run->dtype = rows[i].dtype;
        run->count = PIXELS;
        run->message = request_of(rows[i].datatype, slice_make("\x80\x98\x09", 3), rows[i].number,
                                  slice_make(packed, (size_t)(at - packed)), false);
        show(rows[i].what, run, decode_contents, rounds);
    }
}

int main(int argc, char **argv)
{
    static uint8_t image[IMAGE_BYTES];
    static const int64_t label_shape[] = { 1 }, p_shape[] = { 1, 3 }, image_shape[] = { 1, PIXELS };
    struct kserve_pb_result iris[] = {
        { .name = SLICE_LIT("label"),
          .dtype = PENSTOCK_INT64,
          .rank = 1,
          .shape = label_shape,
          .bytes = { image, 8 } },
        { .name = SLICE_LIT("probabilities"),
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .shape = p_shape,
          .bytes = { image, 12 } },
    };
    struct kserve_pb_result identity[] = {
        { .name = SLICE_LIT("OUTPUT0"),
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .shape = image_shape,
          .bytes = { image, IMAGE_BYTES } },
    };
    struct run run = { .arena = arena_new(1 << 14, 1 << 22) };
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 200;

    require(run.arena != NULL && rounds > 0);
    run.message = request_of("FP32", slice_make("\1\4", 2), 6, slice_make(image, 16), true);
    show("iris, raw: decode", &run, decode, rounds);
    run.message = request_of("FP32", slice_make("\1\4", 2), 6, slice_make(image, 16), false);
    run.dtype = PENSTOCK_FP32;
    run.count = 4;
    show("iris, fp32_contents: decode and make a tensor", &run, decode_contents, rounds);
    run.message = request_of("FP32", slice_make("\1\x80\x98\x09", 4), 6,
                             slice_make(image, IMAGE_BYTES), true);
    show("602,112 bytes, raw: decode", &run, decode, rounds);

    run.response = (struct kserve_pb_response){ .model_name = SLICE_LIT("iris"),
                                                .model_version = SLICE_LIT("1"),
                                                .id = SLICE_LIT("1"),
                                                .results_count = 2,
                                                .results = iris };
    show("iris, two outputs: encode", &run, encode, rounds);
    run.response.results = identity;
    run.response.results_count = 1;
    show("602,112 bytes: encode", &run, encode, rounds);
    bench_contents(&run, rounds);
    arena_free(&run.arena);
    return 0;
}
