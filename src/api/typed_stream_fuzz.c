/* typed_stream_fuzz.c - any bytes as the messages and the metadata of a typed stream, with the real engine
 * and echo. SPDX-License-Identifier: Apache-2.0
 *
 * Input: which method, how the body comes, a line of metadata, the body. Whatever it is, the call ends
 * with a status, the answers are whole messages with numbers that count up, and nothing is left.
 */
#include <stdlib.h>

#include "api/fake_stage.h"
#include "api/typed_stream.h"
#include "base/pb.h"
#include "call/grpc_wire.h"
#include "engine/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const paths[] = {
    "/penstock.models.Iris/PredictSession",  "/penstock.models.Iris/PredictCollect",
    "/penstock.models.Iris/PredictStream",   "/penstock.models.Words/PredictSession",
    "/penstock.models.Words/PredictCollect", "/penstock.models.Ticks/PredictSession",
    "/penstock.models.Ticks/PredictStream",  "/penstock.models.Ticks/PredictCollect",
};

static void begin(void)
{
    require(stage_up());
    stage_put_file(
        "ticks", "config.pbtxt",
        "backend: \"echo\"\n" MODE(
            "repeat") "model_transaction_policy { decoupled: true "
                      "}\ninput [" TENSOR("x", "TYPE_FP32", "-1") "]\noutput [" TENSOR(
                          "y", "TYPE_FP32",
                          "-1") "]\nparameters { key: \"count\" value { string_value: \"2\" } }\n");
    require(stage_open());
    require(atexit(stage_down) == 0);
}

/* Field `stream`, 1600, and in it `sequence`. */
static uint64_t sequence_of(struct slice message)
{
    struct pb_reader reader, inner;
    struct pb_field field, said;
    uint64_t sequence = 0;

    pb_begin(&reader, message);
    while (pb_next(&reader, &field)) {
        if (field.number != 1600)
            continue;
        pb_begin(&inner, field.bytes);
        while (pb_next(&inner, &said))
            if (said.number == 1)
                sequence = said.value;
        require(!pb_failed(&inner));
    }
    require(!pb_failed(&reader));
    return sequence;
}

static void check_answers(const struct fake *fake, bool is_collected)
{
    struct slice rest = text_slice(&fake->answer);
    uint64_t count = 0;

    while (rest.size != 0) {
        require(rest.size >= GRPC_PREFIX_BYTES);
        size_t bytes = grpc_prefix_get(rest.data).size;
        rest = slice_skip(rest, GRPC_PREFIX_BYTES);
        require(bytes <= rest.size);
        uint64_t sequence = sequence_of(slice_first(rest, bytes));
        require(sequence == (is_collected ? 0 : ++count));
        rest = slice_skip(rest, bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool has_begun;
    static size_t at_rest; /* charged by the models */
    char line[128] = "";

    if (!has_begun) {
        begin();
        at_rest = budget_used(&stage_budget);
    }
    has_begun = true;
    if (size < 2)
        return 0;
    const char *path = paths[data[0] % COUNT(paths)];
    size_t piece = data[1];
    struct slice rest = slice_make(data + 2, size - 2);
    size_t length = slice_find(rest, '\n');
    for (size_t i = 0; i < MIN(length, sizeof line - 1); i++)
        line[i] = (char)(rest.data[i] >= 0x20 && rest.data[i] < 0x7f ? rest.data[i] : '?');
    rest = slice_skip(rest, MIN(length + 1, rest.size));
    struct fake *fake = stage_make(METHOD_POST, path, rest);
    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    if (line[0] != '\0')
        fake_header(fake, data[0] & 0x80 ? "penstock-when-slow" : "penstock-reduce", line);
    fake->piece = piece;
    stage_run();
    require(fake->status == 200 && fake_answer_header(fake, "grpc-status").size != 0);
    check_answers(fake, strstr(path, "Collect") != NULL);
    require(engine_in_flight(stage_engine) == 0);
    stage_drop_calls();
    require(budget_used(&stage_budget) == at_rest);
    return 0;
}
