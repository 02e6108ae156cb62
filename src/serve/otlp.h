/* otlp.h - sends spans to a collector: OTLP, protobuf over HTTP (docs/seeing.md).
 *
 * A loop copies what a sampled exchange was into a ring of its own; a thread with a loop of its own makes
 * batches of spans and posts them, one at a time. Nothing is ever waited for by whoever serves: what finds no
 * room, as the collector is slow, hangs or is away, is counted as dropped (--otlp-buffer). A batch that a
 * collector could not take now (no connection, 429, 502, 503, 504, no answer in time) is tried again, later
 * and later or when Retry-After says, for a minute; one that it refuses is not.
 *
 * Life     otlp_open, observer of a server, otlp_close once the server's loops have ended: what is there
 *          is still sent, for OTLP_STOP_MS at most.
 * Threads  the starting thread.
 */
#ifndef SERVE_OTLP_H
#define SERVE_OTLP_H

#include "client/pool.h"
#include "codec/otlp.h"
#include "serve/observe.h"

struct env;
struct metrics;
struct otlp;

enum { OTLP_STOP_MS = 3000, OTLP_HEADERS_MAX = 16 };

struct otlp_settings {
    const char *url;    /* without a path: "http://127.0.0.1:4318" */
    const char *target; /* "/v1/traces" */
    const struct client_header *headers; /* copied by the caller: they stay as long as it */
    uint32_t headers_count;
    struct tls_client_settings tls;        /* of https; its texts stay as long as it */
    const struct otlp_attribute *resource; /* only until otlp_open returns */
    uint32_t resource_count;
    const char *version; /* of this program */
    uint64_t timeout_ns;
    uint64_t ring_bytes; /* for each loop */
    bool has_gzip;
    uint32_t loops_count;
};

MUST_USE enum err_code otlp_open(struct otlp **ret, struct env *env,
                                 const struct otlp_settings *settings, struct err *err);
void otlp_close(struct otlp **otlp);
struct observer otlp_observer(struct otlp *otlp);
MUST_USE enum err_code otlp_register(struct otlp *otlp, struct metrics *metrics, struct err *err);

#endif
