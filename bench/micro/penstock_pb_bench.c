/* penstock_pb_bench.c - how fast penstock.v1's messages are read and written. SPDX-License-Identifier: Apache-2.0
 *
 *     ninja -C BUILD src/codec/penstock_pb_bench && BUILD/src/codec/penstock_pb_bench [rounds]
 *
 * One thread, everything in the cache. Each figure is the best of `rounds`, of which one is as many steps
 * as take about a millisecond.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/clock.h"
#include "codec/penstock_pb.h"

static const int64_t dims[] = { 1, 3 };
static const float values[] = { 1, 2, 3 };
static const struct penstock_pb_describe described[] = { { "text", PENSTOCK_BYTES, 1, dims },
                                                         { "scores", PENSTOCK_FP32, 2, dims } };
static const struct penstock_pb_output outputs[] = {
    { 0, 1, dims, SLICE_LIT("\5\0\0\0hello"), NULL },
    { 1, 2, dims, { (const uint8_t *)values, sizeof values }, NULL },
};
static struct arena *arena;
static struct penstock_pb_heads *heads;
static uint8_t memory[4096];
static struct slice input;

static uint32_t write_answer(enum penstock_pb_answer_kind kind, uint32_t count, uint64_t step)
{
    struct penstock_pb_answer a = { .kind = kind, .sequence = step, .input = step, .outputs = outputs,
                                    .outputs_count = count, .is_last = true };
    struct penstock_pb_piece pieces[5];
    uint32_t most;
    size_t used;

    require(penstock_pb_bound(heads, &a, 1024, &most) <= sizeof memory);
    return penstock_pb_write(heads, &a, 1024, memory, pieces, &used);
}

static bool infer_one(uint64_t step)
{
    return write_answer(PENSTOCK_PB_INFERRED, 1, step) == 1;
}

static bool infer_two(uint64_t step)
{
    return write_answer(PENSTOCK_PB_INFERRED, 2, step) == 1;
}

static bool session_one(uint64_t step)
{
    return write_answer(PENSTOCK_PB_OUTPUT, 1, step) == 1;
}

static bool read_input(uint64_t step)
{
    struct penstock_pb_request request;

    (void)step;
    arena_reset(arena);
    return penstock_pb_decode_session(&request, input, arena, NULL, NULL) == OK &&
           request.inputs_count == 1;
}

static double best_ns(bool (*step)(uint64_t), unsigned rounds)
{
    uint64_t best = UINT64_MAX, steps = 1;

    for (;; steps *= 2) {
        uint64_t begin = clock_mono_ns();
        for (uint64_t i = 0; i < steps; i++)
            require(step(i));
        if (clock_mono_ns() - begin > 500000)
            break;
    }
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t begin = clock_mono_ns();
        for (uint64_t k = 0; k < steps; k++)
            require(step(k));
        best = MIN(best, clock_mono_ns() - begin);
    }
    return (double)best / (double)steps;
}

int main(int argc, char **argv)
{
    static const uint8_t message[] = "\x1a\x11\x12\x0f\x0a\x01x\x1a\x02\x01\x01R\x06\x0a\x04\x00\x00\x80\x3f";
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 200;
    struct arena *kept = arena_new(4096, 1 << 20);

    arena = arena_new(4096, 1 << 20);
    require(arena != NULL && kept != NULL && rounds != 0);
    heads = penstock_pb_heads_new(described, 2, slice_of("a_model"), slice_of("1"), kept);
    require(heads != NULL);
    input = slice_make(message, sizeof message - 1);
    printf("InferResponse, one text of 5 bytes: write        %6.1f ns\n", best_ns(infer_one, rounds));
    printf("InferResponse, a text and 3 floats: write        %6.1f ns\n", best_ns(infer_two, rounds));
    printf("SessionResponse, one text of 5 bytes: write      %6.1f ns\n", best_ns(session_one, rounds));
    printf("SessionRequest, one float: read                  %6.1f ns\n", best_ns(read_input, rounds));
    arena_free(&arena);
    arena_free(&kept);
    return 0;
}
