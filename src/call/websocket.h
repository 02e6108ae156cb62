/* websocket.h - a call over a WebSocket (RFC 6455; RFC 8441 over HTTP/2; RFC 7692 compression).
 *
 * A call of carrier CALL_WEBSOCKET: each WebSocket message is one of the call's, text or binary
 * (call_message.is_text, call_form.is_text). Fragments are put together, pings answered, UTF-8 of
 * text checked; compression is permessage-deflate, negotiated, without context takeover where memory
 * matters. There is no half-close: a Close frame ends both sides and is on_half_close (when it came
 * with 1000 or 1001, and the messages before it are delivered) and then, when the close is answered,
 * on_gone. call_end closes: OK is 1000, else websocket_close_code, with the status's text cut at
 * a character to what a Close frame holds (123 bytes).
 * What violates the protocol is closed with its code (1002, 1003, 1007, 1009, 1010) and on_gone says
 * E_INVALID or E_EXHAUSTED. A peer that answers no ping is gone (E_UNAVAILABLE).
 *
 * Loop thread only, but for the statistics.
 */
#ifndef CALL_WEBSOCKET_H
#define CALL_WEBSOCKET_H

#include "call/call.h"

struct metrics;
struct websocket_stats; /* opaque: what the loops count */

struct websocket_settings {
    size_t message_bytes_max; /* of one message, before and after inflating: --max-message */
    const char *option;       /* that raises it, for the error */
    uint64_t ping_ns;         /* quiet for so long: a ping; 0: never. --websocket-ping */
    uint64_t pong_ns;         /* how long its answer may take */
    uint64_t close_ns;        /* how long the peer may take to answer a Close */
    bool has_deflate;         /* --websocket-deflate */
    struct websocket_stats *stats; /* or NULL */
};

/* Does the peer ask for a WebSocket (x->tunnel)? */
bool websocket_is_asked(const struct exchange *x);

/* Makes the call and grants the tunnel, or answers what is wrong with the handshake (400, 426 with
 * the version that is spoken) and returns NULL. `protocols`: the subprotocols that are spoken, best
 * first, NULL-terminated; *ret_protocol is the one agreed on, or NULL when the peer named none (one
 * that names only others is refused with 400). service and method of the call are empty. */
struct call *websocket_accept(struct exchange *x, const struct websocket_settings *settings,
                              const char *const *protocols, const char **ret_protocol);

/* 1000 for OK; 1007 INVALID text; 1008 for what the caller may mend (INVALID, NOT_FOUND,
 * PERMISSION ...); 1009 too large; 1013 try again later (EXHAUSTED, UNAVAILABLE); 1001 going away
 * (draining); 1011 else. */
uint16_t websocket_close_code(enum err_code code);

MUST_USE enum err_code websocket_stats_new(struct websocket_stats **ret, uint32_t loops_count,
                                           struct err *err);
void websocket_stats_free(struct websocket_stats **stats);
MUST_USE enum err_code websocket_stats_register(struct websocket_stats *stats,
                                                struct metrics *metrics, struct err *err);

#endif
