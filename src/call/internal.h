/* internal.h - what the files of a gRPC call share; nobody else includes it.
 *
 * grpc.c       accepting, the deadline, the end
 * grpc_in.c    bytes of the body to messages
 * grpc_out.c   messages and status to the answer
 */
#ifndef CALL_INTERNAL_H
#define CALL_INTERNAL_H

#include "base/arena.h"
#include "base/chunk.h"
#include "call/call.h"
#include "call/grpc.h"
#include "call/grpc_web.h"
#include "call/grpc_wire.h"
#include "io/loop.h"
#include "telemetry/stat.h"

/* One writer, its loop; any reader. On lines of its own. */
struct grpc_loop_stats {
    _Alignas(64) _Atomic uint64_t calls[ERR_CODE_END]; /* by how they ended */
    _Atomic uint64_t messages_in, messages_out, compressed_in, compressed_out;
    _Atomic uint64_t web_binary, web_text; /* of the calls: gRPC-Web, by what was sent */
    _Atomic uint64_t refused; /* answered before they were a call: no POST, HTTP/1.1, ... */
    _Atomic uint64_t limit_message;
};

struct grpc_stats {
    uint32_t loops_count;
    struct grpc_loop_stats loops[];
};

/* Where messages smaller than it are received, several at a time: [at, fill) is not yet taken, an
 * offer reaches from fill to limit, and [kept_at, kept_end) is a message that was handed over. */
struct grpc_block {
    uint8_t *bytes;
    uint32_t room, at, fill, limit, kept_at, kept_end;
};

/* A message that is larger, received straight into memory of its own. */
struct grpc_incoming {
    struct buf *buf; /* owned; NULL: none is under way */
    uint8_t *bytes;  /* its end lies on a 64-byte line */
    size_t size, got;
    bool is_compressed;
};

struct grpc_call {
    struct call call;
    const struct grpc_settings *settings; /* borrowed: outlives the loops */
    struct grpc_loop_stats *stats;        /* borrowed; never NULL */
    struct timer deadline;
    struct loop_task task; /* takes messages that came before the credit for them */
    struct slice timeout_text, encoding_text, accept_text;
    /* -- in -- */
    struct grpc_block block;
    struct grpc_incoming incoming;
    struct buf *held; /* owned: the later message handed over last; let go with the arena */
    uint32_t credit;
    enum encoding encoding;
    struct grpc_type type, answer_type; /* alike, but gRPC-Web's Accept may ask for the other form */
    struct grpc_web_decoder decoder;    /* of a body in gRPC-Web's text form */
    bool is_busy;         /* a callback of the user is running */
    bool has_first;       /* was handed over */
    bool has_guard;       /* something of the arena lets `held` go */
    bool has_own_block;   /* the second one, for streams */
    bool is_into_message; /* the offer that stands is incoming's, not the block's */
    bool is_at_end;       /* the body is complete */
    bool is_half_closed;  /* and the user knows */
    bool was_compressed;  /* one of its messages */
    bool tells_encodings; /* an encoding came that is not known */
    /* -- out -- */
    bool is_torn; /* a part of a message was sent, and the rest of it cannot be */
    enum encoding out_encoding; /* of messages; once the headers are sent */
    bool has_sent;      /* a message: what follows is gathered in chunk */
    uint32_t few;       /* bytes that may still be gathered in the arena behind the first message */
    struct chunk chunk; /* memory to gather small pieces in */
    enum err_code failure; /* of a message that could not be sent */
    const char *failure_text;
};

static inline struct grpc_call *grpc_of(struct call *call)
{
    return CONTAINER_OF(call, struct grpc_call, call);
}

/* Ends it with a status of ours and tells the user. The exchange may be gone behind it. */
void grpc_break(struct grpc_call *g, const struct err *err);

void grpc_in_init(struct grpc_call *g, uint8_t *memory, size_t size);
void grpc_in_deinit(struct grpc_call *g); /* the call is over */
void grpc_in_read(struct call *call);
void grpc_in_on_body(struct exchange *x, size_t size, bool is_end);

void grpc_out_send(struct call *call, const struct call_piece *pieces, uint32_t pieces_count,
                   struct call_form form);
/* The trailers, or Trailers-Only, and the end of the exchange. */
void grpc_out_end(struct grpc_call *g, const struct err *status,
                  const struct call_details *details);
void grpc_out_deinit(struct grpc_call *g);
/* The same for an exchange that has no call. */
void grpc_out_fail(struct exchange *x, struct grpc_type type, const struct err *status);

#endif
