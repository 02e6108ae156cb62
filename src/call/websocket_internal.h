/* websocket_internal.h - what the files of a WebSocket call share; nobody else includes it.
 *
 * websocket.c           accepting, time, the end
 * websocket_in.c        bytes of the tunnel to messages
 * websocket_out.c       messages and control frames to the tunnel
 * websocket_handshake.c headers both ways
 * websocket_stats.c     what is counted
 */
#ifndef CALL_WEBSOCKET_INTERNAL_H
#define CALL_WEBSOCKET_INTERNAL_H

#include "base/arena.h"
#include "call/websocket.h"
#include "io/loop.h"
#include "telemetry/stat.h"
#include "wire/websocket.h"
#include "wire/websocket_deflate.h"

enum { WEBSOCKET_CODES = 16 }; /* 1000 to 1014, and all others */

/* One writer, its loop; any reader. On lines of its own. */
struct websocket_loop_stats {
    _Alignas(64) _Atomic uint64_t connections, connections_open;
    _Atomic uint64_t messages_in, messages_out, compressed_in, compressed_out;
    _Atomic uint64_t pings, pings_unanswered;
    _Atomic uint64_t refused; /* handshakes */
    _Atomic uint64_t limit_message, stalled, slow, closes_unanswered;
    _Atomic uint64_t ahead_full;
    _Atomic uint64_t closes[WEBSOCKET_CODES]; /* by the code they ended with */
    struct websocket_heap *heap;              /* owned; made with the first connection */
};

struct websocket_stats {
    uint32_t loops_count;
    struct websocket_loop_stats loops[];
};

enum websocket_state {
    WEBSOCKET_OPEN,
    WEBSOCKET_CLOSING, /* our Close is out: what comes is dropped until the peer's */
    WEBSOCKET_OVER
};

/* Where what comes is received until it is known what it is, and small messages are handed over.
 * [at, fill) is not looked at yet, an offer reaches from fill to the end, and [kept_at, kept_end)
 * is a message that was handed over. While messages wait for credit, the frames before `ahead` have
 * been passed over for what is to be seen at once; the memory is then larger where they need it. */
struct websocket_block {
    uint8_t *bytes;
    uint32_t room, at, fill, kept_at, kept_end;
    uint64_t ahead;     /* where a frame begins; past fill: it has not come yet */
    uint8_t *own;       /* the small one, of the call */
    struct buf *larger; /* owned; NULL: bytes are own's */
    bool was_full;      /* and counted */
};

/* A message that is larger, or comes in pieces. */
struct websocket_incoming {
    struct buf *buf; /* owned; NULL: none is under way */
    size_t got, room;
};

struct websocket_call {
    struct call call;
    const struct websocket_settings *settings; /* borrowed: outlives the loops */
    struct websocket_loop_stats *stats;        /* borrowed; never NULL */
    struct websocket_heap *heap;               /* borrowed */
    struct websocket_heap *own_heap;           /* owned; NULL: heap is the loop's */
    struct websocket ws;
    struct websocket_deflate deflate;
    enum websocket_state state;
    struct timer timer;
    struct loop_task task; /* looks at what came before the credit for it */
    uint64_t heard_ns;     /* when bytes came last */
    uint64_t pinged_ns;    /* our ping is on its way; 0: none is */
    uint64_t closed_ns;    /* when our Close was sent */
    uint64_t frame_ns;     /* since when a frame's payload is being received; 0: none is */
    uint64_t frame_got;    /* of it */
    /* -- in -- */
    struct websocket_block block;
    struct websocket_incoming incoming;
    struct buf *held; /* owned: the later message handed over last; let go with the arena */
    uint32_t credit;
    bool is_busy;         /* bytes are being looked at: callbacks of the user run */
    bool has_first;       /* was handed over */
    bool has_guard;       /* something of the arena lets `held` go */
    bool is_into_message; /* the offer that stands is incoming's, not the block's */
    bool is_at_end;       /* the peer says no more, without a Close */
    bool is_draining;     /* the user knows */
    /* -- out -- */
    struct loop_task tidy; /* lets go of the chunk when nobody sends */
    uint8_t *chunk;        /* memory to gather small pieces in; of chunk_buf */
    size_t chunk_room;
    struct buf *chunk_buf; /* owned */
    enum err_code failure; /* of a message that could not be sent */
};

static inline struct websocket_call *websocket_of(struct call *call)
{
    return CONTAINER_OF(call, struct websocket_call, call);
}

/* -- websocket.c -- */
uint64_t websocket_now(const struct websocket_call *w);
/* Closes with this code and tells the user. The exchange may be gone behind it. */
void websocket_break(struct websocket_call *w, uint16_t code, const struct err *err);
/* The peer's Close is there. */
void websocket_closed(struct websocket_call *w, uint16_t code);
/* The peer left without one. */
void websocket_lost(struct websocket_call *w);
/* Looks at what is to be waited for. */
void websocket_wait(struct websocket_call *w);

/* -- websocket_handshake.c -- */
/* False: it was answered. */
bool websocket_handshake(struct websocket_call *w, const char *const *protocols,
                         const char **ret_protocol);

/* -- websocket_in.c -- */
enum { WEBSOCKET_BLOCK_BYTES = 1024 };
void websocket_in_init(struct websocket_call *w, uint8_t *memory, size_t size);
void websocket_in_deinit(struct websocket_call *w); /* the call is over for its user */
void websocket_in_let_go(struct websocket_call *w); /* and the WebSocket */
void websocket_in_read(struct call *call);
void websocket_in_on_body(struct exchange *x, size_t size, bool is_end);
void websocket_in_on_task(struct loop_task *task);
/* Looks at what is there, from the loop's turn. */
void websocket_in_go_on(struct websocket_call *w);

/* -- websocket_out.c -- */
void websocket_out_send(struct call *call, const struct call_piece *pieces, uint32_t pieces_count,
                        struct call_form form);
/* A Close, Ping or Pong. */
void websocket_out_control(struct websocket_call *w, enum websocket_opcode opcode,
                           struct slice payload);
void websocket_out_close(struct websocket_call *w, uint16_t code, struct slice reason);
void websocket_out_tidy(struct loop_task *task);
void websocket_out_deinit(struct websocket_call *w);

#endif
