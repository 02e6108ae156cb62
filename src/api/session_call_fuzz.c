/* session_call_fuzz.c - any bytes as the messages of penstock.v1's calls, with the real engine and echo.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Input: which method, how the body comes, the body. Whatever it is, the call ends with a status, the
 * answers are whole messages with numbers that count up, and nothing is left.
 */
#include <stdlib.h>

#include "api/fake_stage.h"
#include "api/session_call.h"
#include "base/pb.h"
#include "call/grpc_wire.h"
#include "engine/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { KEPT_MAX = 1 << 16 }; /* by instances, for the next stream */

static const char *const paths[] = {
    "/penstock.v1.Inference/Session", "/penstock.v1.Inference/InferCollect",
    "/penstock.v1.Inference/InferStream", "/penstock.v1.Inference/Infer",
};

static void begin(void)
{
    require(stage_up());
    stage_put_file("t", "config.pbtxt",
                   "backend: \"echo\"\n" MODE("repeat") "model_transaction_policy { decoupled: true }\n"
                   "input [" TENSOR("x", "TYPE_FP32", "-1") "]\noutput [" TENSOR("y", "TYPE_FP32", "-1") "]\n"
                   "parameters { key: \"count\" value { string_value: \"2\" } }\n");
    stage_put_file("c", "config.pbtxt",
                   "backend: \"echo\"\n" MODE("chat") "input [" TENSOR("x", "TYPE_STRING", "1") "]\n"
                   "output [" TENSOR("y", "TYPE_STRING", "1") "]\n");
    stage_put_file("w", "config.pbtxt",
                   "backend: \"echo\"\ninput [" TENSOR("x", "TYPE_FP32", "-1") "]\n"
                   "output [" TENSOR("y", "TYPE_FP32", "-1") "]\n");
    stage_put_file("w", "model.yaml",
                   "stream:\n  reduce: window\n  window: 2\n  step: 1\n  pad: 1\n  marks:\n"
                   "    - {name: high, output: y, on: 5, off: 3, hold: 1}\n");
    require(stage_open());
    require(atexit(stage_down) == 0);
}

/* sequence is field 1 of a SessionResponse, 5 of an InferResponse. */
static void check_answers(const struct fake *fake, uint32_t number)
{
    struct slice rest = text_slice(&fake->answer);
    uint64_t count = 0;

    while (rest.size != 0) {
        struct pb_reader reader;
        struct pb_field field;
        uint64_t sequence = 0;
        require(rest.size >= GRPC_PREFIX_BYTES);
        size_t bytes = grpc_prefix_get(rest.data).size;
        rest = slice_skip(rest, GRPC_PREFIX_BYTES);
        require(bytes <= rest.size);
        pb_begin(&reader, slice_first(rest, bytes));
        while (pb_next(&reader, &field))
            if (field.number == number)
                sequence = field.value;
        require(!pb_failed(&reader));
        require(sequence == ++count);
        rest = slice_skip(rest, bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool has_begun;

    if (!has_begun)
        begin();
    has_begun = true;
    if (size < 2)
        return 0;
    unsigned which = data[0] % COUNT(paths);
    struct fake *fake = stage_make(METHOD_POST, paths[which], slice_make(data + 2, size - 2));
    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    fake->piece = data[1];
    stage_run();
    require(fake->status == 200 && fake_answer_header(fake, "grpc-status").size != 0);
    check_answers(fake, which == 0 ? 1 : 5);
    require(engine_in_flight(stage_engine) == 0);
    stage_drop_calls(); /* with what lay in the exchange's arena */
    require(budget_used(&stage_budget) <= KEPT_MAX); /* at the end stage_down looks for 0 */
    return 0;
}
