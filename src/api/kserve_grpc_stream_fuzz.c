/* kserve_grpc_stream_fuzz.c - any bytes as the messages of ModelStreamInfer, with the real engine: in any
 * pieces, with a caller who may leave at any of them. SPDX-License-Identifier: Apache-2.0
 *
 * Input: settings, the size of deliveries, where the caller leaves, the body.
 */
#include "api/fake_stage.h"
#include "api/grpc.h"
#include "base/pb.h"
#include "call/grpc_wire.h"
#include "engine/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct kserve_streams streams;

static void open_stage(void)
{
    require(stage_up());
    stage_put_file("t", "config.pbtxt",
                   "backend: \"echo\"\n" MODE("repeat") "input [" TENSOR(
                       "x", "TYPE_FP32", "-1") "]\noutput [" TENSOR("y", "TYPE_FP32",
                                                                    "-1") "]\n"
                                                               "model_transaction_policy { "
                                                               "decoupled: true }\n");
    stage_put_file("i", "config.pbtxt", stage_identity_config);
    require(stage_open());
    stage.api.grpc.message_bytes_max = 4096;
    stage.api.streams = &streams;
}

/* Messages of Triton's form, each with a response's name or an error. */
static void judge(struct slice answer, bool is_bare)
{
    while (answer.size != 0) {
        require(answer.size >= GRPC_PREFIX_BYTES);
        struct grpc_prefix prefix = grpc_prefix_get(answer.data);
        struct pb_reader r;
        struct pb_field field;
        require(prefix.flag == 0 && prefix.size <= answer.size - GRPC_PREFIX_BYTES);
        pb_begin(&r, slice_make(answer.data + GRPC_PREFIX_BYTES, prefix.size));
        while (pb_next(&r, &field))
            require(is_bare || field.number == 1 || field.number == 2);
        require(!pb_failed(&r));
        answer = slice_skip(answer, GRPC_PREFIX_BYTES + prefix.size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int64_t left_at_first; /* the stage keeps something itself */
    static bool is_open;

    if (size < 3 || size > 1 << 14)
        return 0;
    if (!is_open) {
        open_stage();
        left_at_first = stage_budget.left;
        is_open = true;
    }
    streams.requests_max = (data[0] & 3) + 1;
    struct fake *fake = stage_make(METHOD_POST, "/inference.GRPCInferenceService/ModelStreamInfer",
                                   slice_make(data + 3, size - 3));
    fake_header(fake, "content-type", "application/grpc");
    if (data[0] & 4)
        fake_header(fake, "penstock-stream-form", "mlserver");
    if (data[0] & 8)
        fake_header(fake, "triton_grpc_error", "true");
    fake->piece = (size_t)data[1] * 4;
    fake->gone_ms = 30; /* who asks for a billion answers does not wait for them */
    if (data[0] & 16)
        fake->gone_at = (int64_t)data[2] * 4;
    stage_run();
    judge(text_slice(&fake->answer), (data[0] & 4) != 0);
    require(engine_in_flight(stage_engine) == 0 && streams.open == 0);
    stage_drop_calls();
    require(stage_budget.left == left_at_first);
    return 0;
}
