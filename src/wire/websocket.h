/* websocket.h - the frames of one WebSocket connection (RFC 6455), as server or as client: bytes in,
 * events out, heads of frames to send; no socket, no clock.
 *
 *   websocket_next   is given bytes and says what they are, one thing at a time. Payloads are
 *                    unmasked where they lie, and given in pieces. Where websocket_left says that
 *                    so many bytes of payload come next, these may also be received elsewhere, where
 *                    the message is put together, and given from there.
 *   websocket_head   writes the head of a frame to send; what follows it is its owner's.
 *
 * What an event is does not depend on how the bytes were split (but for the pieces themselves).
 * Refused, with the close code that says so: frames that are masked by a server or not masked by a
 * client, reserved bits and opcodes, control frames that are fragmented or longer than 125 bytes,
 * lengths that are not in their shortest form, continuations of nothing, messages within messages
 * (1002), text that is not UTF-8 - at its first bad byte - (1007), messages above the limit - by
 * their announced length, before anything of it is taken - (1009). WEBSOCKET_BAD is final, and so is
 * WEBSOCKET_CLOSE: what comes behind is dropped.
 *
 * Compressed messages (websocket_deflate.h) are given as they came; their text is not looked at here.
 */
#ifndef WIRE_WEBSOCKET_H
#define WIRE_WEBSOCKET_H

#include "base/err.h"
#include "base/slice.h"

struct websocket_heap; /* opaque: memory that the connections of one thread share */

enum websocket_role { WEBSOCKET_SERVER, WEBSOCKET_CLIENT };

/* RFC 6455 5.2 */
enum websocket_opcode {
    WEBSOCKET_CONTINUATION = 0,
    WEBSOCKET_TEXT = 1,
    WEBSOCKET_BINARY = 2,
    WEBSOCKET_OP_CLOSE = 8,
    WEBSOCKET_OP_PING = 9,
    WEBSOCKET_OP_PONG = 10
};

/* RFC 6455 7.4.1 and its registry */
enum websocket_code {
    WEBSOCKET_NORMAL = 1000,
    WEBSOCKET_GOING_AWAY = 1001,
    WEBSOCKET_PROTOCOL_ERROR = 1002,
    WEBSOCKET_UNSUPPORTED = 1003,
    WEBSOCKET_NO_CODE = 1005,  /* never sent: the Close frame had none */
    WEBSOCKET_ABNORMAL = 1006, /* never sent: there was no Close frame */
    WEBSOCKET_BAD_DATA = 1007,
    WEBSOCKET_POLICY = 1008,
    WEBSOCKET_TOO_BIG = 1009,
    WEBSOCKET_NO_EXTENSION = 1010,
    WEBSOCKET_INTERNAL = 1011,
    WEBSOCKET_RESTART = 1012,
    WEBSOCKET_TRY_LATER = 1013,
    WEBSOCKET_BAD_GATEWAY = 1014
};

enum {
    WEBSOCKET_HEAD_MAX = 14,
    WEBSOCKET_CONTROL_MAX = 125, /* of a control frame's payload */
    WEBSOCKET_REASON_MAX = 123   /* of a Close frame's text */
};

enum websocket_step {
    WEBSOCKET_MORE, /* all bytes are used and more are needed */
    WEBSOCKET_DATA, /* a piece of a message */
    WEBSOCKET_PING, /* to be answered with the same bytes */
    WEBSOCKET_PONG,
    WEBSOCKET_CLOSE, /* the peer's last word; to be answered with a Close frame if none was sent */
    WEBSOCKET_BAD    /* event.code is what to close with, err says what was wrong */
};

struct websocket_event {
    struct slice
        data;      /* DATA: in the bytes given, may be empty; PING, PONG: the payload, CLOSE: the
                          reason, both until the next call */
    uint16_t code; /* CLOSE, BAD */
    bool is_first, is_last; /* DATA: of its message */
};

/* One connection. Its members are to be read only. */
struct websocket {
    enum websocket_role role;
    bool has_deflate;            /* RSV1 may be set on the first frame of a message */
    bool is_over;                /* CLOSE or BAD came */
    size_t message_bytes_max;    /* of one message, as it travels */
    struct websocket_heap *heap; /* borrowed: outlives it */

    /* -- the message that is being received: from its first frame's head to its last byte -- */
    bool in_message, is_text, is_compressed;
    size_t message_bytes; /* announced so far */

    /* -- its own -- */
    bool has_frame, is_final, is_begun, is_masked;
    uint8_t opcode, head_size, control_size, mask_at;
    uint8_t utf8_need, utf8_low, utf8_high;
    uint8_t mask[4];
    uint8_t head[WEBSOCKET_HEAD_MAX];
    uint8_t control[WEBSOCKET_CONTROL_MAX];
    uint64_t left; /* of the present frame's payload */
};

MUST_USE struct websocket_heap *websocket_heap_new(void); /* NULL: no memory */
void websocket_heap_free(struct websocket_heap **heap);

void websocket_init(struct websocket *ws, enum websocket_role role, struct websocket_heap *heap,
                    size_t message_bytes_max, bool has_deflate);
/* The first *ret_used bytes are done with. */
enum websocket_step websocket_next(struct websocket *ws, uint8_t *bytes, size_t size,
                                   size_t *ret_used, struct websocket_event *ret, struct err *err);
/* Bytes of a message's payload that are certain to come next; 0: a head, or a control frame. */
uint64_t websocket_left(const struct websocket *ws);
/* Is something begun and not complete: a head, a frame, a message? */
bool websocket_is_amid(const struct websocket *ws);

/* Writes the head of a frame of `size` bytes of payload; its length, or 0: no memory. `mask` is a
 * client's (four bytes that nobody can guess; the payload is then websocket_mask'ed), else NULL. */
size_t websocket_head(struct websocket_heap *heap, enum websocket_opcode opcode, bool is_final,
                      bool is_compressed, uint64_t size, const uint8_t *mask,
                      uint8_t out[WEBSOCKET_HEAD_MAX]);
/* Masks or unmasks; `at`: how many bytes of the payload came before. */
void websocket_mask(uint8_t *bytes, size_t size, const uint8_t mask[4], uint64_t at);
/* The payload of a Close frame: code and as much of the reason as fits, cut at a character. A code
 * that may not be sent makes it empty. */
size_t websocket_close_put(uint16_t code, struct slice reason, uint8_t out[WEBSOCKET_CONTROL_MAX]);
/* May a Close frame carry it (RFC 6455 7.4)? */
bool websocket_code_is_sendable(uint16_t code);

/* UTF-8 that comes in pieces; *state begins as 0. */
struct websocket_utf8 {
    uint8_t need, low, high;
};
MUST_USE bool websocket_utf8_feed(struct websocket_utf8 *state, struct slice piece);

/* -- the handshake ------------------------------------------------------------------------------ */

enum { WEBSOCKET_ACCEPT_BYTES = 28, WEBSOCKET_KEY_BYTES = 24 };

/* Sec-WebSocket-Accept for a Sec-WebSocket-Key. */
void websocket_accept_of(struct slice key, char out[WEBSOCKET_ACCEPT_BYTES]);
/* The base64 of sixteen bytes? */
bool websocket_key_is_valid(struct slice key);
/* Takes the next member off a list of tokens with commas; data NULL: there is none. */
struct slice websocket_token_next(struct slice *list);

#endif
