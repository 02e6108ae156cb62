/* websocket_deflate.h - compression of WebSocket messages: permessage-deflate (RFC 7692).
 *
 * Without context takeover in either direction: each message is a stream of its own, so that a
 * connection holds no state of zlib between messages (it would be 44 KB to receive and up to 260 KB
 * to send). The states of a heap's thread are shared by all its connections.
 *
 * A message is inflated once it is complete. What comes out is bounded by the message limit and, past
 * the first 8 MiB, by RATIO times what came in: a bomb costs at most that much memory, and it is
 * charged to the budget as it comes.
 */
#ifndef WIRE_WEBSOCKET_DEFLATE_H
#define WIRE_WEBSOCKET_DEFLATE_H

#include "wire/websocket.h"

struct budget;
struct buf;

enum {
    WEBSOCKET_RATIO_MAX = 100,
    WEBSOCKET_RATIO_FREE = 8 << 20, /* bytes inflated that nobody counts */
    WEBSOCKET_AGREED_BYTES = 128
};

/* What was agreed on. */
struct websocket_deflate {
    bool is_on;
    uint8_t bits; /* of the window of what the server sends */
};

/* A server's choice among what a client offers (the values of Sec-WebSocket-Extensions, joined by
 * commas): the first permessage-deflate that can be kept to. Writes the answer, NUL-terminated.
 * False: there is none; the connection goes on without. */
bool websocket_deflate_choose(struct slice offers, struct websocket_deflate *ret,
                              char answer[WEBSOCKET_AGREED_BYTES]);
/* What a client offers, and whether the answer keeps to it: nothing else, and no context takeover.
 * An empty answer is a refusal, which is fine. */
extern const char websocket_deflate_offer[];
bool websocket_deflate_check(struct slice answer, struct websocket_deflate *ret);

/* Inflates a whole message. E_INVALID: damaged. E_RANGE: more comes out than out_max, or than the
 * ratio allows. E_EXHAUSTED: no memory. *ret stays NULL when nothing comes out. */
MUST_USE enum err_code websocket_inflate(struct websocket_heap *heap, struct buf **ret,
                                         struct budget *budget, struct slice in, size_t out_max,
                                         struct err *err);
/* Deflates the pieces into one message. NULL: it would not get smaller, or there is no memory. */
struct buf *websocket_deflate(struct websocket_heap *heap, const struct websocket_deflate *agreed,
                              struct budget *budget, const struct slice *pieces,
                              uint32_t pieces_count);

#endif
