/* websocket.c - SPDX-License-Identifier: Apache-2.0
 *
 * wslay's frame layer reads and writes the heads of frames and knows what may stand in them. It is
 * not given the payloads: it would copy them through a buffer of 4 KiB and unmask them byte by byte
 * (1.4 GB/s; in place and eight at a time 29 GB/s), and tensors come this way. So a head is collected
 * here (its second byte says how long it is) and given to wslay as a whole; of the payload wslay is
 * only told that so many bytes came, and that they are not masked. One context of wslay's then serves
 * all connections of a thread, and an idle one holds none of its 4 KiB.
 */
#include "wire/websocket.h"

#include <nettle/base64.h>
#include <nettle/sha1.h>
#include <wslay/wslay.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "wire/websocket_internal.h"

enum { SKIP_MAX = 64 * 1024 }; /* of a payload, before a new context costs less */

/* -- what wslay asks ------------------------------------------------------------------------------ */

static ssize_t on_recv(uint8_t *into, size_t size, int flags, void *context)
{
    struct websocket_heap *heap = context;
    size_t part = MIN(size, heap->in.size);

    (void)flags;
    if (part > 0) {
        memcpy(into, heap->in.data, part);
        heap->in = slice_skip(heap->in, part);
    } else { /* wslay's memory is what it was */
        part = (size_t)MIN((uint64_t)size, heap->skip);
        heap->skip -= part;
    }
    return part > 0 ? (ssize_t)part : -1;
}

/* The head comes first and is kept; what is said to follow it is its owner's. */
static ssize_t on_send(const uint8_t *data, size_t size, int flags, void *context)
{
    struct websocket_heap *heap = context;

    (void)flags;
    if (heap->out_size == 0) {
        require(size <= WEBSOCKET_HEAD_MAX);
        memcpy(heap->out, data, size);
        heap->out_size = size;
    }
    return (ssize_t)size;
}

static int on_mask(uint8_t *into, size_t size, void *context)
{
    const struct websocket_heap *heap = context;

    memcpy(into, heap->mask, MIN(size, sizeof heap->mask));
    return 0;
}

static bool frames_ready(struct websocket_heap *heap)
{
    static const struct wslay_frame_callbacks callbacks = {
        .send_callback = on_send,
        .recv_callback = on_recv,
        .genmask_callback = on_mask,
    };

    return LIKELY(heap->frames != NULL) ||
           (!fault_hit() && wslay_frame_context_init(&heap->frames, &callbacks, heap) == 0);
}

static void frames_drop(struct websocket_heap *heap)
{
    if (heap->frames != NULL)
        wslay_frame_context_free(TAKE(heap->frames));
}

struct websocket_heap *websocket_heap_new(void)
{
    return mem_zalloc(sizeof(struct websocket_heap));
}

void websocket_heap_free(struct websocket_heap **slot)
{
    struct websocket_heap *heap = TAKE(*slot);

    if (heap == NULL)
        return;
    frames_drop(heap);
    websocket_deflate_drop(heap);
    mem_free(heap);
}

/* -- receiving ------------------------------------------------------------------------------------ */

void websocket_init(struct websocket *ws, enum websocket_role role, struct websocket_heap *heap,
                    size_t message_bytes_max, bool has_deflate)
{
    memset(ws, 0, sizeof *ws);
    ws->role = role;
    ws->heap = heap;
    ws->message_bytes_max = message_bytes_max;
    ws->has_deflate = has_deflate;
}

uint64_t websocket_left(const struct websocket *ws)
{
    return ws->has_frame && ws->opcode < WEBSOCKET_OP_CLOSE ? ws->left : 0;
}

bool websocket_is_amid(const struct websocket *ws)
{
    return ws->has_frame || ws->in_message || ws->head_size > 0;
}

#define BAD(close_code, ...) (err_set(err, E_INVALID, __VA_ARGS__), bad(ws, ret, close_code))

COLD static enum websocket_step bad(struct websocket *ws, struct websocket_event *ret,
                                    uint16_t code)
{
    ws->is_over = true;
    ret->code = code;
    return WEBSOCKET_BAD;
}

/* How many bytes the head has of which these came. */
static size_t head_bytes(const uint8_t *head, size_t size)
{
    static const uint8_t more[] = { [126] = 2, [127] = 8 };
    size_t masked = size > 1 && (head[1] & 0x80) != 0 ? 4 : 0;

    return size < 2 ? 2 : 2 + (size_t)more[head[1] & 0x7f] + masked;
}

/* Gives the head to wslay, without its mask, and a byte of payload when it has one: only then does
 * wslay say what it has read. 0, or an error of wslay's. */
static ssize_t read_head(struct websocket_heap *heap, const uint8_t *head, size_t size,
                         struct wslay_frame_iocb *ret)
{
    uint8_t bytes[WEBSOCKET_HEAD_MAX];
    struct wslay_frame_iocb rest;

    if (UNLIKELY(!frames_ready(heap)))
        return WSLAY_ERR_NOMEM;
    memcpy(bytes, head, size);
    bytes[1] &= 0x7f;
    heap->in = slice_make(bytes, (head[1] & 0x80) != 0 ? size - 4 : size);
    heap->skip = bytes[1] != 0;
    ssize_t got = wslay_frame_recv(heap->frames, ret);
    if (UNLIKELY(got < 0 || ret->payload_length > SKIP_MAX)) { /* a new one costs 130 ns */
        frames_drop(heap);
        return MIN(got, 0);
    }
    uint64_t left = heap->skip = ret->payload_length - (uint64_t)got;
    while (left > 0)
        left -= (uint64_t)wslay_frame_recv(heap->frames, &rest);
    return 0;
}

static const char *masked_text(bool is_masked)
{
    return is_masked ? "a frame is masked, and a server masks none (RFC 6455 5.1)"
                     : "a frame is not masked, and a client masks each (RFC 6455 5.1)";
}

/* The head is complete. WEBSOCKET_MORE: its payload may come. */
static enum websocket_step begin_frame(struct websocket *ws, struct websocket_event *ret,
                                       struct err *err)
{
    struct wslay_frame_iocb frame = { 0 };
    uint8_t opcode = ws->head[0] & 0x0f;
    ssize_t error = read_head(ws->heap, ws->head, ws->head_size, &frame);

    if (UNLIKELY(error == WSLAY_ERR_NOMEM)) {
        err_set(err, E_EXHAUSTED, "no memory to read a frame");
        return bad(ws, ret, WEBSOCKET_TRY_LATER);
    }
    bool is_control = (opcode & 8) != 0;
    if (UNLIKELY((opcode & 7) > 2))
        return BAD(WEBSOCKET_PROTOCOL_ERROR, "a frame has the reserved opcode %u", opcode);
    if (UNLIKELY(is_control && (ws->head[0] & 0x80) == 0))
        return BAD(WEBSOCKET_PROTOCOL_ERROR, "a control frame (opcode %u) is fragmented", opcode);
    if (UNLIKELY(is_control && (ws->head[1] & 0x7f) > WEBSOCKET_CONTROL_MAX))
        return BAD(WEBSOCKET_PROTOCOL_ERROR,
                   "a control frame (opcode %u) has more than %d bytes of payload", opcode,
                   WEBSOCKET_CONTROL_MAX);
    if (UNLIKELY(error != 0))
        return BAD(WEBSOCKET_PROTOCOL_ERROR,
                   "the length of a frame is not in its shortest form, or has its first bit set");
    if (UNLIKELY(frame.rsv != 0) && !(frame.rsv == WSLAY_RSV1_BIT && ws->has_deflate &&
                                      (opcode == WEBSOCKET_TEXT || opcode == WEBSOCKET_BINARY)))
        return BAD(WEBSOCKET_PROTOCOL_ERROR,
                   "a frame has reserved bits (0x%x) that no extension was agreed on for",
                   frame.rsv);
    ws->is_masked = (ws->head[1] & 0x80) != 0;
    if (UNLIKELY(ws->is_masked != (ws->role == WEBSOCKET_SERVER)))
        return BAD(WEBSOCKET_PROTOCOL_ERROR, "%s", masked_text(ws->is_masked));
    if (!is_control && UNLIKELY((opcode == WEBSOCKET_CONTINUATION) != ws->in_message))
        return BAD(WEBSOCKET_PROTOCOL_ERROR, "%s",
                   ws->in_message ? "a message begins before the one before it has ended"
                                  : "a frame continues a message, and none has begun");
    if (!is_control) {
        size_t before = ws->in_message ? ws->message_bytes : 0;
        if (UNLIKELY(frame.payload_length > ws->message_bytes_max - before)) {
            err_set(err, E_RANGE, "a message has more than %zu bytes, the most that is taken",
                    ws->message_bytes_max);
            return bad(ws, ret, WEBSOCKET_TOO_BIG);
        }
        ws->message_bytes = before + (size_t)frame.payload_length;
        ws->is_final = frame.fin != 0;
        if (!ws->in_message) {
            ws->in_message = ws->is_begun = true;
            ws->is_text = opcode == WEBSOCKET_TEXT;
            ws->is_compressed = frame.rsv != 0;
        }
    }
    ws->has_frame = true;
    ws->opcode = opcode;
    ws->left = frame.payload_length;
    ws->control_size = ws->mask_at = 0;
    if (ws->is_masked)
        memcpy(ws->mask, ws->head + ws->head_size - 4, 4);
    ws->head_size = 0;
    return WEBSOCKET_MORE;
}

/* Collects the head. WEBSOCKET_MORE: it is not complete, or it is and has_frame says so. */
static enum websocket_step next_head(struct websocket *ws, const uint8_t *bytes, size_t size,
                                     size_t *at, struct websocket_event *ret, struct err *err)
{
    size_t wanted;

    while (ws->head_size < (wanted = head_bytes(ws->head, ws->head_size))) {
        size_t part = MIN(wanted - ws->head_size, size - *at);
        if (part == 0)
            return WEBSOCKET_MORE;
        memcpy(ws->head + ws->head_size, bytes + *at, part);
        ws->head_size = (uint8_t)(ws->head_size + part);
        *at += part;
    }
    return begin_frame(ws, ret, err);
}

/* Unmasks the next bytes of the frame's payload, where they lie. */
static struct slice payload(struct websocket *ws, uint8_t *bytes, size_t size)
{
    size_t part = (size_t)MIN(ws->left, (uint64_t)size);

    if (ws->is_masked)
        websocket_mask(bytes, part, ws->mask, ws->mask_at);
    ws->mask_at = (uint8_t)((ws->mask_at + part) & 3);
    ws->left -= part;
    return slice_make(bytes, part);
}

static enum websocket_step on_close(struct websocket *ws, struct websocket_event *ret,
                                    struct err *err)
{
    struct slice reason = { ws->control, ws->control_size };

    ret->code = WEBSOCKET_NO_CODE;
    if (reason.size == 1)
        return BAD(WEBSOCKET_PROTOCOL_ERROR, "a Close frame has half a code");
    if (reason.size >= 2) {
        ret->code = (uint16_t)(ws->control[0] << 8 | ws->control[1]);
        reason = slice_skip(reason, 2);
        if (!websocket_code_is_sendable(ret->code))
            return BAD(WEBSOCKET_PROTOCOL_ERROR,
                       "a Close frame has the code %u, which may not "
                       "be sent",
                       ret->code);
        if (utf8_valid_prefix(reason) != reason.size)
            return BAD(WEBSOCKET_BAD_DATA, "the reason of a Close frame is not UTF-8");
    }
    ws->is_over = true;
    ret->data = reason;
    return WEBSOCKET_CLOSE;
}

/* A control frame's payload is kept until it is whole. */
static enum websocket_step next_control(struct websocket *ws, uint8_t *bytes, size_t size,
                                        size_t *at, struct websocket_event *ret, struct err *err)
{
    struct slice piece = payload(ws, bytes + *at, size - *at);

    if (piece.size > 0)
        memcpy(ws->control + ws->control_size, piece.data, piece.size);
    ws->control_size = (uint8_t)(ws->control_size + piece.size);
    *at += piece.size;
    if (ws->left > 0)
        return WEBSOCKET_MORE;
    ws->has_frame = false;
    ret->data = slice_make(ws->control, ws->control_size);
    switch (ws->opcode) {
    case WEBSOCKET_OP_PING: return WEBSOCKET_PING;
    case WEBSOCKET_OP_PONG: return WEBSOCKET_PONG;
    default: return on_close(ws, ret, err);
    }
}

/* WEBSOCKET_MORE: nothing of a message came (all bytes are used, or an empty frame has passed). */
static enum websocket_step next_data(struct websocket *ws, uint8_t *bytes, size_t size, size_t *at,
                                     struct websocket_event *ret, struct err *err)
{
    struct websocket_utf8 state = { ws->utf8_need, ws->utf8_low, ws->utf8_high };

    ret->data = payload(ws, bytes + *at, size - *at);
    *at += ret->data.size;
    if (ws->left == 0)
        ws->has_frame = false;
    ret->is_first = ws->is_begun;
    ret->is_last = ws->left == 0 && ws->is_final;
    if (ret->data.size == 0 && !ret->is_last)
        return WEBSOCKET_MORE;
    if (ws->is_text && !ws->is_compressed) {
        if (!websocket_utf8_feed(&state, ret->data) || (ret->is_last && state.need != 0))
            return BAD(WEBSOCKET_BAD_DATA, "a text message is not UTF-8");
        ws->utf8_need = state.need;
        ws->utf8_low = state.low;
        ws->utf8_high = state.high;
    }
    ws->is_begun = false;
    if (ret->is_last)
        ws->in_message = false;
    return WEBSOCKET_DATA;
}

enum websocket_step websocket_next(struct websocket *ws, uint8_t *bytes, size_t size,
                                   size_t *ret_used, struct websocket_event *ret, struct err *err)
{
    size_t at = 0;

    memset(ret, 0, sizeof *ret);
    if (UNLIKELY(ws->is_over)) {
        *ret_used = size;
        return WEBSOCKET_MORE;
    }
    for (;;) {
        enum websocket_step step;
        if (!ws->has_frame)
            step = next_head(ws, bytes, size, &at, ret, err);
        else if (ws->opcode >= WEBSOCKET_OP_CLOSE)
            step = next_control(ws, bytes, size, &at, ret, err);
        else
            step = next_data(ws, bytes, size, &at, ret, err);
        /* A frame without payload is complete with its head. */
        if (step == WEBSOCKET_MORE && (at < size || (ws->has_frame && ws->left == 0)))
            continue;
        *ret_used = at;
        return step;
    }
}

/* -- sending -------------------------------------------------------------------------------------- */

size_t websocket_head(struct websocket_heap *heap, enum websocket_opcode opcode, bool is_final,
                      bool is_compressed, uint64_t size, const uint8_t *mask,
                      uint8_t out[WEBSOCKET_HEAD_MAX])
{
    struct wslay_frame_iocb frame = {
        .fin = is_final,
        .rsv = is_compressed ? WSLAY_RSV1_BIT : WSLAY_RSV_NONE,
        .opcode = (uint8_t)opcode,
        .payload_length = size,
        .mask = mask != NULL,
        .data = heap->out, /* not looked at: on_send says that it is sent */
        .data_length = mask == NULL ? (size_t)size : 0,
    };

    if (UNLIKELY(!frames_ready(heap)))
        return 0;
    heap->out_size = 0;
    if (mask != NULL)
        memcpy(heap->mask, mask, sizeof heap->mask);
    ssize_t sent = wslay_frame_send(heap->frames, &frame);
    require(sent >= 0 && heap->out_size > 0);
    if (mask != NULL) /* it waits for the payload; and once it has masked it does so ever after */
        frames_drop(heap);
    memcpy(out, heap->out, heap->out_size);
    return heap->out_size;
}

void websocket_mask(uint8_t *bytes, size_t size, const uint8_t mask[4], uint64_t at)
{
    uint8_t turned[8];
    uint64_t eight;
    size_t i = 0;

    for (size_t j = 0; j < sizeof turned; j++)
        turned[j] = mask[(at + j) & 3];
    memcpy(&eight, turned, sizeof eight);
    for (; i + 8 <= size; i += 8) {
        uint64_t x;
        memcpy(&x, bytes + i, 8);
        x ^= eight;
        memcpy(bytes + i, &x, 8);
    }
    for (; i < size; i++)
        bytes[i] ^= turned[i & 7];
}

bool websocket_code_is_sendable(uint16_t code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

size_t websocket_close_put(uint16_t code, struct slice reason, uint8_t out[WEBSOCKET_CONTROL_MAX])
{
    if (!websocket_code_is_sendable(code))
        return 0;
    out[0] = (uint8_t)(code >> 8);
    out[1] = (uint8_t)code;
    reason = slice_first(reason, utf8_valid_prefix(slice_first(reason, WEBSOCKET_REASON_MAX)));
    if (reason.size > 0)
        memcpy(out + 2, reason.data, reason.size);
    return 2 + reason.size;
}

/* -- UTF-8 ---------------------------------------------------------------------------------------- */

/* What may follow a first byte (RFC 3629): how many, and the bounds of the next. False: nothing. */
static bool begin_character(struct websocket_utf8 *state, uint8_t c)
{
    state->low = 0x80;
    state->high = 0xbf;
    if (c < 0x80) {
        state->need = 0;
    } else if (c >= 0xc2 && c <= 0xdf) {
        state->need = 1;
    } else if (c >= 0xe0 && c <= 0xef) {
        state->need = 2;
        state->low = c == 0xe0 ? 0xa0 : 0x80;
        state->high = c == 0xed ? 0x9f : 0xbf;
    } else if (c >= 0xf0 && c <= 0xf4) {
        state->need = 3;
        state->low = c == 0xf0 ? 0x90 : 0x80;
        state->high = c == 0xf4 ? 0x8f : 0xbf;
    } else {
        return false;
    }
    return true;
}

bool websocket_utf8_feed(struct websocket_utf8 *state, struct slice piece)
{
    size_t at = 0;

    while (at < piece.size) {
        if (state->need == 0) {
            at += utf8_valid_prefix(slice_skip(piece, at));
            if (at == piece.size)
                return true;
            if (!begin_character(state, piece.data[at++]))
                return false;
            continue;
        }
        uint8_t c = piece.data[at++];
        if (c < state->low || c > state->high)
            return false;
        state->need--;
        state->low = 0x80;
        state->high = 0xbf;
    }
    return true;
}

/* -- the handshake -------------------------------------------------------------------------------- */

void websocket_accept_of(struct slice key, char out[WEBSOCKET_ACCEPT_BYTES])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455 1.3 */
    uint8_t digest[SHA1_DIGEST_SIZE];
    struct sha1_ctx sha1;

    _Static_assert(BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE) == WEBSOCKET_ACCEPT_BYTES,
                   "the answer's length");
    sha1_init(&sha1);
    sha1_update(&sha1, key.size, key.data);
    sha1_update(&sha1, sizeof guid - 1, (const uint8_t *)guid);
    sha1_digest(&sha1, sizeof digest, digest);
    base64_encode_raw(out, sizeof digest, digest);
}

bool websocket_key_is_valid(struct slice key)
{
    uint8_t bytes[BASE64_DECODE_LENGTH(WEBSOCKET_KEY_BYTES)];
    struct base64_decode_ctx base64;
    size_t size = sizeof bytes;

    if (key.size != WEBSOCKET_KEY_BYTES)
        return false;
    base64_decode_init(&base64);
    return base64_decode_update(&base64, &size, bytes, key.size, (const char *)key.data) == 1 &&
           base64_decode_final(&base64) == 1 && size == 16;
}

struct slice websocket_token_next(struct slice *list)
{
    while (list->size > 0) {
        size_t comma = slice_find(*list, ',');
        struct slice token = slice_trim(slice_first(*list, comma));
        *list = slice_skip(*list, MIN(comma + 1, list->size));
        if (token.size > 0)
            return token;
    }
    return slice_make(NULL, 0);
}
