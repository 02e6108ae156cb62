/* session_internal.h - what the files of penstock.v1.Inference share; nobody else includes it.
 *
 * penstock_grpc.c   the service; Infer and InferStream (on infer.h)
 * session_call.c    Session and InferCollect, over any call
 * session_socket.c  the routes for WebSockets
 * session_input.c   what a message says, as what the engine takes
 * session_send.c    messages out
 */
#ifndef API_SESSION_INTERNAL_H
#define API_SESSION_INTERNAL_H

#include "api/session_input.h"
#include "call/call.h"

/* Outputs up to this size are copied behind the heads: a piece of its own costs more. */
enum { SESSION_COPY_MAX = 1024 };

enum err_code session_no_memory(struct err *err);

/* Sends what penstock_pb_write made in `memory` (kept by `holder`, or it lies in the exchange's arena).
 * Outputs that nobody keeps are copied. */
MUST_USE enum err_code session_send(struct call *call, const uint8_t *memory, size_t used,
                                    struct buf *holder, const struct penstock_pb_piece *made,
                                    uint32_t count, struct budget *budget, struct err *err);

#endif
