/* grpc_client.h - gRPC calls to a server, over the HTTP/2 connections of a pool: messages both ways,
 * metadata, one status. The other end's view is call/call.h; what is on the wire call/grpc_wire.h.
 *
 * Life     grpc_client_start, then any of the below until on_end has returned, or
 *          grpc_client_cancel. Calls do not outlive their pool, which ends without telling them.
 * In       grpc_client_read is the credit for one message; on_message follows once. Without credit
 *          no more than the pool's window arrives.
 * Out      grpc_client_send any number of times, grpc_client_finish once.
 * Threads  the loop's own. Callbacks come from the loop's turn, never from within a call made here.
 */
#ifndef CLIENT_GRPC_CLIENT_H
#define CLIENT_GRPC_CLIENT_H

#include "call/grpc_wire.h"
#include "client/pool.h"

struct grpc_client_call;

struct grpc_client_message {
    struct slice bytes; /* decompressed; until on_message returns */
    bool was_compressed;
    size_t wire_bytes; /* as it came, with its prefix */
};

struct grpc_client_status {
    struct err err;              /* code OK, or what is wrong: the server's words, or ours */
    bool is_servers;             /* it came as grpc-status */
    bool has_details;            /* grpc-status-details-bin was there and could be read */
    struct grpc_details details; /* views that live until on_end returns */
    const struct answer *answer; /* headers and trailers; NULL when nothing came */
};

/* Any member but on_end may be NULL. */
struct grpc_client_user {
    void (*on_metadata)(struct grpc_client_call *call, const struct answer *answer); /* initial */
    void (*on_message)(struct grpc_client_call *call, const struct grpc_client_message *message);
    void (*on_room)(struct grpc_client_call *call); /* what was sent is in the socket */
    void (*on_end)(struct grpc_client_call *call, const struct grpc_client_status *status);
};

struct grpc_client_start {
    const char *path;                     /* "/inference.GRPCInferenceService/ModelInfer" */
    const struct client_header *metadata; /* lower case; values of -bin keys already in base64 */
    uint32_t metadata_count;
    uint64_t due_ns;     /* loop clock; 0: never. Sent as grpc-timeout, and kept here as well */
    enum encoding sends; /* how messages are compressed: identity, gzip, deflate */
    size_t message_bytes_max; /* of one received, also inflated; 0: 1 GiB */
    const char *option;       /* that raises it, for the error; NULL: none */
    const struct grpc_client_user *user;
    void *user_data;
};

MUST_USE enum err_code grpc_client_start(struct client_pool *pool,
                                         const struct grpc_client_start *start,
                                         struct grpc_client_call **ret, struct err *err);
void *grpc_client_data(const struct grpc_client_call *call);
void grpc_client_read(struct grpc_client_call *call);
/* Copied, unless `holder` keeps it. E_EXHAUSTED: no memory, or more than 4 GiB. */
MUST_USE enum err_code grpc_client_send(struct grpc_client_call *call, struct slice message,
                                        struct buf *holder, struct err *err);
void grpc_client_finish(struct grpc_client_call *call); /* no more messages from us */
size_t grpc_client_unsent(const struct grpc_client_call *call);
void grpc_client_cancel(struct grpc_client_call **call); /* no callback follows */
/* In on_end: what came, for the caller to keep; NULL when nothing did. */
struct answer *grpc_client_take(struct grpc_client_call *call);
struct client_times grpc_client_times(const struct grpc_client_call *call);

/* -- what reads messages out of a body: no socket, no clock ---------------------------------------- */

/* Takes bytes as they come and gives messages one by one. */
struct grpc_reader {
    struct text *in; /* not consumed yet, from `at` */
    size_t at;
    enum encoding encoding; /* of the answer's grpc-encoding */
    size_t message_bytes_max;
    const char *option;
};

struct grpc_read {
    bool has_message;
    struct grpc_client_message message;
    struct buf *holder; /* a reference for the caller; NULL: the bytes lie in `in` until the next */
    size_t missing_bytes; /* of the message that has begun, as far as is known; 0: none has */
};
/* The next message, if all of it is there. E_EXHAUSTED: larger than the limit; E_INTERNAL: a flag
 * that is none, compressed without an encoding, damaged. */
MUST_USE enum err_code grpc_reader_next(struct grpc_reader *r, struct grpc_read *ret,
                                        struct err *err);
/* What the answer, complete, says of the call. `details_memory` keeps what details show. */
void grpc_status_read(struct grpc_client_status *ret, const struct answer *answer,
                      struct slice body_begin, struct text *details_memory);

#endif
