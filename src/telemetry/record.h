/* record.h - one exchange that has ended, as it travels from its loop to the threads that write the access
 * log and export spans: plain memory, bounded, with everything copied in.
 *
 * A record is written in place, in a ring's memory (ring.h): record_begin, record_put for each text in the
 * order of enum record_text, record_inference for each inference, and record_end.
 */
#ifndef TELEMETRY_RECORD_H
#define TELEMETRY_RECORD_H

#include "base/slice.h"
#include "telemetry/trace.h"

enum record_text {
    RECORD_PEER,
    RECORD_CALLER,
    RECORD_TENANT,
    RECORD_METHOD,
    RECORD_PATH,  /* as sent, percent-encoded */
    RECORD_QUERY, /* of it what may be shown */
    RECORD_ROUTE,
    RECORD_PROTOCOL,
    RECORD_TLS,
    RECORD_MODEL,
    RECORD_VERSION,
    RECORD_REQUEST_ID,
    RECORD_AGENT,
    RECORD_WHY, /* of a refusal: what its caller was told */
    RECORD_TRACE_STATE,
    RECORD_TEXTS
};

enum {
    RECORD_STAGES = 6,          /* enum stage of engine/stats.h */
    RECORD_INFERENCES_MAX = 32, /* of those that are kept */
    RECORD_PATH_MAX = 512,
    RECORD_BYTES_MAX = 8 * 1024
};
/* What is kept of each text; the rest is cut off, and a bit says so. */
extern const uint16_t record_text_max[RECORD_TEXTS];

struct record_inference {
    uint64_t begun_ns;
    uint64_t stage_ns[RECORD_STAGES];
    uint64_t code;
};

/* For the audit log: why it is told. */
enum record_audit { RECORD_PLAIN, RECORD_REFUSED, RECORD_ADMIN };

enum record_end { RECORD_ANSWERED, RECORD_LEFT, RECORD_ABORTED };

struct record {
    uint64_t begun_ns, ended_ns; /* monotonic clock */
    uint64_t body_in, body_out;
    uint64_t stage_ns[RECORD_STAGES];
    uint32_t requests, responses, inferences;
    uint16_t status;
    uint8_t code; /* enum err_code; only with is_call */
    uint8_t end;  /* enum record_end */
    uint8_t audit; /* enum record_audit */
    bool is_call;
    bool has_trace, has_span, is_sampled; /* without a span of its own it passed the trace on */
    uint16_t cut; /* bits 1 << enum record_text */
    uint8_t trace_id[TRACE_ID_BYTES], span_id[SPAN_ID_BYTES], parent_id[SPAN_ID_BYTES];
    uint16_t sizes[RECORD_TEXTS];
    uint16_t texts_size;
    uint8_t bytes[]; /* texts; then, from the next multiple of 8, the inferences */
};

/* Zeroes what is no text. */
void record_begin(struct record *record);
/* In the order of enum record_text; what is left out is empty. */
void record_put(struct record *record, enum record_text which, struct slice text);
/* Behind the last text. */
void record_add_inference(struct record *record, const struct record_inference *one);
size_t record_size(const struct record *record);

struct record_view {
    const struct record *record;
    struct slice texts[RECORD_TEXTS];
    const struct record_inference *inferences;
};
void record_read(struct record_view *view, const struct record *record);

#endif
