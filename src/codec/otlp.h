/* otlp.h - records of exchanges as spans: OTLP's ExportTraceServiceRequest in protobuf
 * (opentelemetry-proto 1.x, trace/v1), by the semantic conventions for HTTP, RPC and resources.
 *
 * A record (telemetry/record.h) becomes a server span, and below it one for each stage of its inference;
 * where there were several, one for each inference that was kept, with its wait and its run below.
 * Strings that are not UTF-8 have ? in place of what is not: a collector refuses whole batches for one.
 *
 * Life     otlp_batch_init; add records until it says that it is full; seal gives the message; reset.
 * Threads  one. Pure but for the batch's memory.
 */
#ifndef CODEC_OTLP_H
#define CODEC_OTLP_H

#include "base/err.h"
#include "telemetry/record.h"

enum { OTLP_RESOURCE_MAX = 4096, OTLP_RECORD_MAX = 32 * 1024, OTLP_ATTRIBUTES_MAX = 32 };

struct otlp_attribute {
    struct slice key, value;
};

struct otlp_batch {
    uint8_t *memory; /* owned */
    size_t room, at; /* spans lie from OTLP_RESOURCE_MAX on */
    uint32_t spans, records;
    uint64_t chance; /* of ids of the spans below the server's: any start */
    uint64_t wall_offset_ns; /* wall clock minus monotonic clock; set by the caller */
    const char *const *stage_names;
    size_t resource_size, scope_size;
    uint8_t resource[OTLP_RESOURCE_MAX / 2], scope[256]; /* as fields, ready */
};

/* `resource`: service.name and its like; E_RANGE: too large. */
MUST_USE enum err_code otlp_batch_init(struct otlp_batch *batch, size_t bytes,
                                       const struct otlp_attribute *resource, uint32_t count,
                                       struct slice version, const char *const *stage_names,
                                       uint64_t chance, struct err *err);
void otlp_batch_deinit(struct otlp_batch *batch);
/* False: there is no room for one more. */
MUST_USE bool otlp_batch_add(struct otlp_batch *batch, const struct record *record);
/* The message; it stays until the batch is reset. */
struct slice otlp_batch_seal(struct otlp_batch *batch);
void otlp_batch_reset(struct otlp_batch *batch);

/* What a collector answers: spans that it did not take, and why. False: it is no such message. */
MUST_USE bool otlp_answer_read(struct slice body, uint64_t *ret_rejected, struct slice *ret_why);

#endif
