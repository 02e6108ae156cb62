/* trace_fuzz.c - any bytes as traceparent and tracestate. SPDX-License-Identifier: Apache-2.0
 *
 * Input: traceparent, a line feed, tracestate. What is taken is written again and read back as the same.
 */
#include "base/def.h"
#include "telemetry/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice all = slice_make(data, size);
    size_t line = slice_find(all, '\n');
    struct slice state = slice_skip(all, MIN(line + 1, size));
    struct trace_context trace, back;
    char text[TRACEPARENT_MAX];

    if (trace_parse(&trace, slice_first(all, line))) {
        require(trace_is_set(&trace) && !span_is_zero(trace.parent_id) &&
                span_is_zero(trace.span_id));
        trace_write(&trace, text);
        require(trace_parse(&back, slice_of(text)));
        require(memcmp(back.trace_id, trace.trace_id, TRACE_ID_BYTES) == 0 &&
                memcmp(back.parent_id, trace.parent_id, SPAN_ID_BYTES) == 0 &&
                back.is_sampled == trace.is_sampled);
    }
    if (trace_state_is_good(state)) {
        require(state.size > 2 && state.size <= TRACE_STATE_MAX);
        for (size_t i = 0; i < state.size; i++)
            require((state.data[i] >= 0x20 && state.data[i] < 0x7f) || state.data[i] == '\t');
    }
    return 0;
}
