/* websocket.h - a call over a WebSocket (RFC 6455; RFC 8441 over HTTP/2; RFC 7692 compression).
 *
 * A call of carrier CALL_WEBSOCKET: each WebSocket message is one of the call's, text or binary
 * (call_message.is_text, call_form.is_text). Fragments are put together, pings answered, UTF-8 of
 * text checked; compression is permessage-deflate, negotiated, without context takeover. There is no
 * half-close: a Close frame ends both sides and is on_half_close (when it came with 1000, 1001 or no
 * code; messages before it that wait for credit are dropped); a user that does not end the call there
 * hears on_gone (E_CANCELLED) next, and the Close is answered. call_end closes: OK is 1000, else
 * websocket_close_code, with the status's text cut at a character to what a Close frame holds (123
 * bytes). What violates the protocol is closed with its code (1002, 1003, 1007, 1009, 1010) and
 * on_gone says E_INVALID or E_EXHAUSTED. A peer that answers no ping is gone (E_UNAVAILABLE), and one
 * that lets a message stand still, too (E_DEADLINE, 1008).
 *
 * The server stops: call_user.on_drain, and call_end of OK or E_UNAVAILABLE is then 1001. A user
 * without on_drain is gone (E_UNAVAILABLE), and the close is 1001 as well.
 *
 * Nothing is received before the first call_read. Without credit the peer's pings and its Close are
 * still seen, as long as the messages before them that wait have no more than ahead_bytes in all: so
 * much is received ahead, and charged to the exchange's budget (which may say no, and then it is the
 * 1 KiB that each has).
 *
 * Loop thread only, but for the statistics.
 */
#ifndef CALL_WEBSOCKET_H
#define CALL_WEBSOCKET_H

#include "call/call.h"

struct metrics;
struct websocket_stats; /* opaque: what the loops count, and memory that their connections share */

/* A subprotocol that begins so carries a credential, for pages, which cannot set headers; it is never the
 * one that is chosen, nor shown in an answer. */
#define WEBSOCKET_BEARER "penstock.bearer."

struct websocket_settings {
    size_t message_bytes_max; /* of one message, before and after inflating: --max-message */
    const char *option;       /* that raises it, for the error */
    uint64_t ping_ns;         /* quiet for so long: a ping; 0: never. --websocket-ping */
    uint64_t pong_ns;         /* how long its answer may take */
    uint64_t close_ns;        /* how long the peer may take to answer a Close */
    uint64_t stall_ns;        /* how long a message may stand still; 0: for ever. --body-timeout */
    uint64_t rate_min;  /* bytes a second of a frame, after a grace; 0: any. --body-rate-min */
    size_t ahead_bytes; /* of messages that wait, to see what is behind them: --websocket-ahead */
    bool has_deflate;   /* --websocket-deflate */
    struct websocket_stats *stats; /* or NULL */
};

/* Does the peer ask for a WebSocket (x->tunnel)? */
bool websocket_is_asked(const struct exchange *x);

/* Makes the call and grants the tunnel, or answers what is wrong with the handshake (400, 426 with
 * the version that is spoken) and returns NULL. `protocols`: the subprotocols that are spoken, best
 * first, NULL-terminated; *ret_protocol is the one agreed on, or NULL when the peer named none (one
 * that names only others is refused with 400). `protocols` NULL: what the peer names is not looked
 * at, and ret_protocol may be NULL. service and method of the call are empty. */
struct call *websocket_accept(struct exchange *x, const struct websocket_settings *settings,
                              const char *const *protocols, const char **ret_protocol);

/* 1000 for OK; 1007 DATA_LOSS; 1008 for what the caller may mend (INVALID, NOT_FOUND, PERMISSION
 * ...); 1009 RANGE: too large; 1013 try again later (EXHAUSTED, UNAVAILABLE); 1011 else. */
uint16_t websocket_close_code(enum err_code code);

MUST_USE enum err_code websocket_stats_new(struct websocket_stats **ret, uint32_t loops_count,
                                           struct err *err);
void websocket_stats_free(struct websocket_stats **stats);
MUST_USE enum err_code websocket_stats_register(struct websocket_stats *stats,
                                                struct metrics *metrics, struct err *err);
/* For penstock_limit_hits_total, which has other limits too. Any thread; NULL: none. */
struct websocket_limit_hits {
    uint64_t message;       /* larger than message_bytes_max, or than their ratio allows */
    uint64_t stalled, slow; /* messages that stood still, frames that came too slowly */
    uint64_t pong, close;   /* pings and Closes that were not answered in time */
};
struct websocket_limit_hits websocket_stats_limit_hits(const struct websocket_stats *stats);

#endif
