/* grpc.h - a gRPC call on an exchange (grpc/grpc doc/PROTOCOL-HTTP2.md): framing, grpc-timeout,
 * metadata, compression, status. call.h says what can be done with it.
 *
 * Loop thread only.
 */
#ifndef CALL_GRPC_H
#define CALL_GRPC_H

#include "call/call.h"

struct metrics;

enum grpc_compression { GRPC_COMPRESSION_NONE, GRPC_COMPRESSION_MIRROR, GRPC_COMPRESSION_ALWAYS };

struct grpc_settings {
    size_t message_bytes_max;  /* of one message, before and after decompressing */
    const char *option;        /* that raises it, for the error: "--max-message" */
    enum grpc_compression compression; /* of what is sent */
    struct grpc_stats *stats;  /* one per loop, or NULL */
};

/* Is this request for gRPC, by its content-type (application/grpc, application/grpc+proto, ...)?
 * grpc-web is not: it begins with application/grpc-web. */
bool grpc_is_call(const struct exchange *x);

/* Makes the call, or answers what is wrong (HTTP 415, 505 ..., or a Trailers-Only status) and
 * returns NULL. Reads no message yet. */
struct call *grpc_accept(struct exchange *x, const struct grpc_settings *settings);

/* Answers a request whose content-type says gRPC with a Trailers-Only status, without a call: for
 * failures made before there is one (a forbidden Host, a limit). */
void grpc_fail(struct exchange *x, const struct err *status);

#endif
