/* call.h - messages both ways, metadata and one status, on an exchange. Streaming dialects see only
 * calls: what carries them (gRPC over HTTP/2 today) is behind this.
 *
 * Life     grpc_accept (grpc.h) makes one when the head of a request has arrived, in the exchange's
 *          arena, and holds a reference of the exchange until call_end was called or on_gone came.
 *          Whoever works longer (an engine's request) takes an exchange_ref of its own.
 * In       call_read is the credit for one message; on_message follows once. Messages are
 *          decompressed and their size is checked. The first stays as long as the exchange does
 *          (unless keeps_none was set before call_read);
 *          a later one until the next call_read (when more credit than one stands: until on_message
 *          returns), and longer for who takes a reference of its holder or copies it.
 *          After the last one on_half_close comes, once (without credit too). Nothing is received
 *          before the first call_read.
 * Out      call_send any number of times, call_end once. Initial metadata leaves with the first
 *          message, trailing metadata with the end; a call that ends without a message is
 *          Trailers-Only. call_room says how many more bytes may be queued before a slow reader
 *          should be waited for; on_room then tells.
 * Deadline The call keeps it: when it passes, the caller is answered DEADLINE_EXCEEDED and on_gone
 *          comes with E_DEADLINE.
 * Leaving  on_gone, once, when nothing can be sent any more; every call_* is then a no-op. It does
 *          not come after call_end.
 * Callbacks never re-enter. Threads: the exchange's loop only.
 */
#ifndef CALL_CALL_H
#define CALL_CALL_H

#include "base/err.h"
#include "base/slice.h"
#include "exchange/exchange.h"

struct buf;
struct call;

struct call_message {
    struct slice bytes; /* decompressed; in the arena or in holder */
    struct buf *holder; /* borrowed; NULL: in the arena */
    bool was_compressed;
    bool is_text; /* a WebSocket text message: UTF-8, checked */
};

/* How a message travels; all zero is the ordinary case. */
enum call_compress { CALL_COMPRESS_AUTO, CALL_COMPRESS_ALWAYS, CALL_COMPRESS_NEVER };

struct call_form {
    bool is_text; /* WebSocket: a text frame; nothing elsewhere */
    enum call_compress compress; /* ALWAYS: also when it gets larger, as far as the peer accepts it */
};

/* A part of a message to send: the bytes stay as exchange_send wants it (in the exchange's arena,
 * constant, or kept by holder, of which one more reference is taken). Over gRPC and gRPC-Web pieces
 * smaller than CALL_COPIED_BYTES are copied and need stay only until call_send returns. */
enum { CALL_COPIED_BYTES = 1024 };

struct call_piece {
    struct slice bytes;
    struct buf *holder;
};

struct call_user {
    void (*on_message)(struct call *call, const struct call_message *message);
    void (*on_half_close)(struct call *call); /* optional */
    void (*on_room)(struct call *call);       /* optional */
    /* E_CANCELLED: the caller left. E_DEADLINE. Else the caller sent what is no message, or too
     * large a one: the code it was answered. */
    void (*on_gone)(struct call *call, enum err_code why);
    /* Optional; once at most: the server stops, or the connection is old, so what is under way should
     * come to its end and the call with it. Of a WebSocket, who has none hears on_gone
     * (E_UNAVAILABLE) in its place; a gRPC call goes on until the time is up (--drain-timeout). */
    void (*on_drain)(struct call *call);
};

/* What a status says beside code and text; every member may be NULL. */
struct call_details {
    const char *field;       /* google.rpc.BadRequest: the path of the field that is wrong */
    const char *description; /* of that violation; NULL: the status's text */
};

/* Of what carries the call; call.c has checked what is the same for all. */
struct call_ops {
    void (*read)(struct call *call);
    void (*send)(struct call *call, const struct call_piece *pieces, uint32_t pieces_count,
                 struct call_form form);
    void (*end)(struct call *call, const struct err *status, const struct call_details *details);
};

/* Metadata to send: at most so many keys and bytes at each end, as callers take 8 KiB of them. */
/* What carries a call. What a caller of each may do: WebSocket has no half-close and no metadata
 * behind the handshake; gRPC-Web has no messages behind the first. */
enum call_carrier { CALL_GRPC, CALL_GRPC_WEB, CALL_WEBSOCKET };

enum { CALL_METADATA_MAX = 16, CALL_METADATA_BYTES_MAX = 4096 };

struct call_fields {
    struct header fields[CALL_METADATA_MAX];
    uint32_t count;
    size_t bytes;
};

struct call {
    struct exchange *x;
    enum call_carrier carrier;
    struct slice service, method; /* of the path: "inference.GRPCInferenceService", "ModelInfer" */
    uint64_t deadline_ns;         /* loop clock; UINT64_MAX: none */
    const struct call_user *user; /* set by who takes it, with user_data, before call_read */
    void *user_data;
    bool is_over; /* ended or gone */
    bool keeps_none; /* set before call_read: the first message need not stay longer than others,
                        for calls that may have very many */
    bool is_lone; /* set before call_read: one message is all there is to send, so
                                     its sender may not pause (--body-timeout) */
    /* -- inside -- */
    const struct call_ops *ops;
    struct call_fields *initial, *trailing; /* in the arena; NULL: none */
};

/* The value of a metadata key (lower case), as text; of a key ending in -bin the decoded bytes (in
 * the arena). The first of several. data NULL: there is none, or it is not base64. */
struct slice call_metadata(struct call *call, const char *key);

void call_read(struct call *call); /* credit for one more message */
/* Metadata for the caller, before the first message or with the end; -bin keys take raw bytes.
 * Copied. Keys are lower case and not grpc-*; values of other keys are printable ASCII. False: not
 * so, too late, no memory, or too many. */
bool call_metadata_initial(struct call *call, const char *key, struct slice value);
bool call_metadata_trailing(struct call *call, const char *key, struct slice value);
/* One message. What cannot be sent (no memory, 4 GiB) makes the call end with that failure instead
 * of OK. */
void call_send(struct call *call, const struct call_piece *pieces, uint32_t pieces_count);
void call_send_as(struct call *call, const struct call_piece *pieces, uint32_t pieces_count,
                  struct call_form form);
size_t call_room(struct call *call);

/* Ends it: status->code OK is success. retry_after_ms becomes google.rpc.RetryInfo and, like
 * `details`, travels in grpc-status-details-bin. */
void call_end(struct call *call, const struct err *status, const struct call_details *details);

#endif
