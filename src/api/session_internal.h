/* session_internal.h - what the files of penstock.v1.Inference share; nobody else includes it.
 *
 * penstock_grpc.c    the service; Infer and InferStream (on infer.h)
 * session_collect.c  InferCollect (on call_session.h)
 * session_call.c     Session, over any call
 * session_socket.c   the routes for WebSockets
 * session_input.c    what a message says, as what the engine takes
 * session_send.c     messages out
 */
#ifndef API_SESSION_INTERNAL_H
#define API_SESSION_INTERNAL_H

#include "api/route.h"
#include "api/session_input.h"
#include "call/call.h"
#include "engine/session.h"

struct resumable;

/* Outputs up to this size are copied behind the heads: a piece of its own costs more. */
enum { SESSION_COPY_MAX = 1024 };

enum err_code session_no_memory(struct err *err);

/* How pieces become runs: what the caller says, else the model's card, else `otherwise`. */
MUST_USE enum err_code session_read_reduce(const struct penstock_pb_request *from,
                                           const char *prefix, const struct signature *signature,
                                           enum session_reduce otherwise, struct arena *arena,
                                           struct session_settings *settings,
                                           const char **ret_field, struct err *err);

/* -- messages out (session_send.c) -------------------------------------------------------------- */

/* Sends what penstock_pb_write made in `memory` (kept by `holder`, or it lies in the exchange's arena).
 * Outputs that nobody keeps are copied. */
MUST_USE enum err_code session_send(struct call *call, const uint8_t *memory, size_t used,
                                    struct buf *holder, const struct penstock_pb_piece *made,
                                    uint32_t count, struct budget *budget, struct err *err);

/* Where the messages of a session go: to a call, or to a log that calls follow. */
struct session_out {
    struct call *call;           /* borrowed, or NULL */
    struct resumable *resumable; /* likewise; when both are, it counts */
    struct budget *budget;
    const struct penstock_pb_describe *described; /* outputs by index; NULL before there are any */
    const struct penstock_pb_heads *heads;
    bool is_json;    /* else protobuf */
    bool has_binary; /* of JSON: outputs follow as binary messages */
    uint64_t sequence, bytes; /* of the messages sent */
};

/* Numbers it and sends it. */
MUST_USE enum err_code session_put(struct session_out *out, struct penstock_pb_answer *answer,
                                   struct err *err);
bool session_has_room(struct session_out *out);

/* -- the calls ------------------------------------------------------------------------------------ */

void session_collect(struct call *call, const struct api *api);
/* Session over gRPC. */
void session_begin_call(struct call *call, const struct api *api);
/* The same over a WebSocket whose path names the model; the slices stay as long as the exchange. */
void session_begin_socket(struct call *call, const struct api *api, struct slice model,
                          struct slice version, bool is_json);

#endif
