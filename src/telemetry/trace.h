/* trace.h - where a request stands in a distributed trace: W3C Trace Context (traceparent, tracestate).
 *
 * Pure: bytes and chance are arguments. Any thread.
 */
#ifndef TELEMETRY_TRACE_H
#define TELEMETRY_TRACE_H

#include <stdbool.h>

#include "base/slice.h"

enum { TRACE_ID_BYTES = 16, SPAN_ID_BYTES = 8, TRACEPARENT_MAX = 56, TRACE_STATE_MAX = 512 };

/* All zero: there is no trace. */
struct trace_context {
    uint8_t trace_id[TRACE_ID_BYTES];
    uint8_t parent_id[SPAN_ID_BYTES]; /* whose child ours is; zero: it is the first */
    uint8_t span_id[SPAN_ID_BYTES];   /* ours */
    bool is_sampled;
    struct slice state; /* tracestate as it came, for the next hop; lives as long as the headers */
};

/* Reads `traceparent` (version 00, and later ones as section 4.3 says). False: it is none, and *ret is
 * untouched. span_id is left zero. */
bool trace_parse(struct trace_context *ret, struct slice traceparent);
/* "00-...-...-01" of which our own span is the parent, and a NUL. While span_id is zero, parent_id stands
 * there: who has no span of its own passes on what came. */
void trace_write(const struct trace_context *trace, char out[TRACEPARENT_MAX]);
/* Twice `count` lower-case digits; returns where the next byte goes. */
char *trace_write_hex(char *to, const uint8_t *bytes, size_t count);
/* A list of at most 32 members and TRACE_STATE_MAX bytes, as section 3.3 says; else it is not passed on. */
bool trace_state_is_good(struct slice state);
static inline bool span_is_zero(const uint8_t id[SPAN_ID_BYTES])
{
    uint64_t all;

    memcpy(&all, id, sizeof all);
    return all == 0;
}
static inline bool trace_is_set(const struct trace_context *trace)
{
    return !span_is_zero(trace->trace_id) || !span_is_zero(trace->trace_id + SPAN_ID_BYTES);
}

#endif
