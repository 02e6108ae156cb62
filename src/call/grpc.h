/* grpc.h - a gRPC call on an exchange (grpc/grpc doc/PROTOCOL-HTTP2.md, PROTOCOL-WEB.md): framing,
 * grpc-timeout, metadata, compression, status. call.h says what can be done with it.
 *
 * Loop thread only, but for the statistics.
 */
#ifndef CALL_GRPC_H
#define CALL_GRPC_H

#include "call/call.h"

struct grpc_stats; /* opaque: what the loops count */
struct metrics;

enum grpc_compression { GRPC_COMPRESSION_NONE, GRPC_COMPRESSION_MIRROR, GRPC_COMPRESSION_ALWAYS };

struct grpc_settings {
    size_t message_bytes_max; /* of one message, before and after decompressing */
    const char *option;       /* that raises it, for the error: "--max-message" */
    /* Of what is sent. MIRROR: when the call's messages came compressed, their encoding is accepted,
     * and a message has 1 KiB or more. Never what would not get smaller. */
    enum grpc_compression compression;
    struct grpc_stats *stats; /* or NULL */
};

/* Is this request for gRPC, by its content-type (application/grpc, application/grpc+proto, ...), or
 * for gRPC-Web (application/grpc-web, application/grpc-web-text, ...; over any HTTP)? */
bool grpc_is_call(const struct exchange *x);

/* Makes the call, or answers what is wrong (HTTP 405, 415, 505, or a Trailers-Only status) and
 * returns NULL. Reads no message yet. */
struct call *grpc_accept(struct exchange *x, const struct grpc_settings *settings);

/* Answers a request whose content-type says gRPC with a Trailers-Only status, without a call: for
 * failures made before there is one (a forbidden Host, a limit). */
void grpc_fail(struct exchange *x, const struct err *status);

/* -- what is counted: penstock_grpc_* in /metrics ------------------------------------------------- */

/* Made before the loops start, freed after they ended; index of a loop: loop_index. */
MUST_USE enum err_code grpc_stats_new(struct grpc_stats **ret, uint32_t loops_count,
                                      struct err *err);
void grpc_stats_free(struct grpc_stats **stats);
MUST_USE enum err_code grpc_stats_register(struct grpc_stats *stats, struct metrics *metrics,
                                           struct err *err);
/* Messages larger than message_bytes_max: for penstock_limit_hits_total, which has other limits
 * too. Any thread; NULL: 0. */
uint64_t grpc_stats_limit_hits(const struct grpc_stats *stats);

#endif
