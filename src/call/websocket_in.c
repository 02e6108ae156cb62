/* websocket_in.c - bytes of the tunnel to messages. SPDX-License-Identifier: Apache-2.0
 *
 * What comes is received into a small block, as it is not known what it is. A message that lies there
 * whole is handed over where it lies. Of any other the rest is received straight into memory of its
 * own, as soon as its frame's length is known, and unmasked there: it grows with what really comes,
 * and is charged to the budget by STEP.
 *
 * Without credit a message waits in the block, and the block's offer stands all the same: behind what
 * waits may come a ping, a Close or the end. Frames of messages are passed over by their heads, control
 * frames taken out from between them. When the block is full of what waits, a larger one takes its
 * place, up to --websocket-ahead, until all of it is handed over; what is behind that is left in the
 * transport.
 *
 * The first message stays for good, so it is copied to the arena when it is small: the block is all
 * that an idle connection has.
 */
#include <string.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "call/websocket_internal.h"

enum {
    STEP = 1 << 20,  /* a large message is charged as it comes, by so much */
    GROW_MIN = 1024, /* memory of a message whose length is not known */
    OFFER_MIN = 16,  /* a head, and nothing is offered for less */
    CLOSE_UP = 8, /* a block of messages that wait closes up when so small a part of it is free */
};

void websocket_in_init(struct websocket_call *w, uint8_t *memory, size_t size)
{
    w->block = (struct websocket_block){ .bytes = memory, .own = memory, .room = (uint32_t)size };
}

/* Back to the small one: nothing lies in it. */
static void block_shrink(struct websocket_call *w)
{
    struct websocket_block *b = &w->block;

    buf_unref(&b->larger);
    *b = (struct websocket_block){ .bytes = b->own, .own = b->own, .room = WEBSOCKET_BLOCK_BYTES };
}

void websocket_in_deinit(struct websocket_call *w)
{
    if (!w->is_into_message || !w->call.x->has_offer) { /* else the transport may write there */
        buf_unref(&w->incoming.buf);
        w->incoming = (struct websocket_incoming){ 0 };
    }
    if (!w->has_guard)
        buf_unref(&w->held);
}

void websocket_in_let_go(struct websocket_call *w)
{
    websocket_in_deinit(w);
    if (w->block.larger != NULL)
        block_shrink(w);
}

/* False: the WebSocket is over, or its user is. */
COLD static bool break_off(struct websocket_call *w, uint16_t code, const struct err *err)
{
    if (code == WEBSOCKET_TOO_BIG)
        stat_add(&w->stats->limit_message, 1);
    websocket_break(w, code, err);
    return false;
}

COLD static bool break_no_memory(struct websocket_call *w)
{
    struct err err = { 0 };

    err_set(&err, E_EXHAUSTED, "no memory for a message; retry later");
    return break_off(w, WEBSOCKET_TRY_LATER, &err);
}

/* -- handing over --------------------------------------------------------------------------------- */

static void release_held(void *context UNUSED, void *data)
{
    struct websocket_call *w = data;

    buf_unref(&w->held);
}

/* From now on `held` goes with the arena at the latest. */
static bool guard(struct websocket_call *w)
{
    struct buf *buf = NULL;

    if (w->has_guard)
        return true;
    if (buf_adopt(&buf, w, 0, release_held, NULL, NULL) != OK)
        return false;
    if (!arena_adopt(w->call.x->arena, &buf)) {
        buf_unref(&buf);
        return false;
    }
    w->has_guard = true;
    return true;
}

/* The first goes with the arena, a later one when the next comes. Takes *buf. */
static bool keep(struct websocket_call *w, struct buf **buf)
{
    if (!w->has_first)
        return arena_adopt(w->call.x->arena, buf);
    if (!guard(w))
        return false;
    buf_unref(&w->held);
    w->held = TAKE(*buf);
    return true;
}

/* True while bytes are to be looked at. */
static bool hand_over(struct websocket_call *w, const struct call_message *message)
{
    struct call *call = &w->call;

    w->has_first = true;
    w->credit--;
    stat_add(&w->stats->messages_in, 1);
    call->user->on_message(call, message);
    if (w->credit > 0) /* the next may come at once, and where this one lay */
        w->block.kept_at = w->block.kept_end = 0;
    return w->state != WEBSOCKET_OVER;
}

/* Takes *buf, whose first `size` bytes are the message; NULL: it is empty. */
static bool hand_over_buf(struct websocket_call *w, struct buf **buf, size_t size,
                          bool was_compressed)
{
    struct call_message message = { .bytes = { (const uint8_t *)"", 0 },
                                    .was_compressed = was_compressed,
                                    .is_text = w->ws.is_text };

    if (*buf != NULL) {
        buf_trim(*buf, size);
        message.bytes = buf_bytes(*buf);
        message.holder = *buf;
        if (!keep(w, buf)) {
            buf_unref(buf);
            return break_no_memory(w);
        }
    }
    return hand_over(w, &message);
}

/* In the block; the first is copied to where it may stay, and each of a larger block, which is to have
 * room for what comes. */
static bool hand_over_piece(struct websocket_call *w, struct slice bytes)
{
    struct call_message message = { .bytes = bytes, .is_text = w->ws.is_text };

    if (UNLIKELY(w->block.larger != NULL) && bytes.size > 0) {
        struct buf *copy = NULL;
        if (buf_new(&copy, w->call.x->budget, bytes.size, NULL) != OK)
            return break_no_memory(w);
        memcpy(buf_fill(copy), bytes.data, bytes.size);
        return hand_over_buf(w, &copy, bytes.size, false);
    }
    if (!w->has_first) {
        char *copy = arena_strndup(w->call.x->arena, bytes.data, bytes.size);
        if (copy == NULL)
            return break_no_memory(w);
        message.bytes = slice_make(copy, bytes.size);
    } else {
        w->block.kept_at = (uint32_t)(bytes.data - w->block.bytes);
        w->block.kept_end = w->block.kept_at + (uint32_t)bytes.size;
    }
    return hand_over(w, &message);
}

static bool hand_over_inflated(struct websocket_call *w, struct slice packed)
{
    const struct websocket_settings *settings = w->settings;
    struct buf *plain = NULL;
    struct err err = { 0 };

    stat_add(&w->stats->compressed_in, 1);
    enum err_code code = websocket_inflate(w->heap, &plain, w->call.x->budget, packed,
                                           settings->message_bytes_max, &err);
    if (code != OK)
        return break_off(w,
                         code == E_RANGE       ? WEBSOCKET_TOO_BIG
                         : code == E_EXHAUSTED ? WEBSOCKET_TRY_LATER
                                               : WEBSOCKET_BAD_DATA,
                         &err);
    buf_unref(&w->incoming.buf); /* what was compressed is not needed any more */
    struct slice bytes = plain == NULL ? slice_make("", 0) : buf_bytes(plain);
    if (w->ws.is_text && utf8_valid_prefix(bytes) != bytes.size) {
        buf_unref(&plain);
        err_set(&err, E_INVALID, "a text message is not UTF-8");
        return break_off(w, WEBSOCKET_BAD_DATA, &err);
    }
    return hand_over_buf(w, &plain, bytes.size, true);
}

/* -- putting together ------------------------------------------------------------------------------ */

/* Memory for `size` bytes of the message in all. */
static bool incoming_room(struct websocket_call *w, size_t size)
{
    struct websocket_incoming *in = &w->incoming;
    struct buf *fresh = NULL;

    if (in->buf == NULL) {
        in->got = 0;
        in->room = w->ws.is_final ? size : MAX(size, (size_t)GROW_MIN);
    } else if (size <= in->room) {
        return true;
    } else {
        in->room = w->ws.is_final ? size : MAX(size, 2 * in->room);
    }
    in->room = MIN(MAX(in->room, (size_t)1), w->settings->message_bytes_max);
    if (buf_new_partly(&fresh, w->call.x->budget, in->room,
                       MIN(in->room, MAX(in->got, (size_t)STEP)), NULL) != OK)
        return false;
    if (in->got > 0)
        memcpy(buf_fill(fresh), buf_bytes(in->buf).data, in->got);
    buf_unref(&in->buf);
    in->buf = fresh;
    return true;
}

static bool incoming_add(struct websocket_call *w, struct slice piece)
{
    struct websocket_incoming *in = &w->incoming;

    if (!incoming_room(w, w->ws.message_bytes) ||
        buf_charge(in->buf, in->got + piece.size, NULL) != OK)
        return false;
    if (piece.size > 0)
        memcpy(buf_fill(in->buf) + in->got, piece.data, piece.size);
    in->got += piece.size;
    return true;
}

/* The message is complete in memory of its own. */
static bool hand_over_incoming(struct websocket_call *w)
{
    struct websocket_incoming *in = &w->incoming;

    if (w->ws.is_compressed)
        return hand_over_inflated(w, slice_first(buf_bytes(in->buf), in->got));
    struct buf *buf = TAKE(in->buf);
    size_t size = in->got;
    if (size == 0)
        buf_unref(&buf);
    return hand_over_buf(w, &buf, size, false);
}

/* A piece that lies in the block, or where it belongs already. */
static bool on_data(struct websocket_call *w, const struct websocket_event *event, bool is_in_place)
{
    struct websocket_incoming *in = &w->incoming;

    if (w->state != WEBSOCKET_OPEN)
        return true;
    w->frame_got += event->data.size;
    if (event->is_first && event->is_last && !is_in_place)
        return w->ws.is_compressed ? hand_over_inflated(w, event->data)
                                   : hand_over_piece(w, event->data);
    if (is_in_place)
        in->got += event->data.size;
    else if (!incoming_add(w, event->data))
        return break_no_memory(w);
    return event->is_last ? hand_over_incoming(w) : true;
}

/* -- looking at bytes ------------------------------------------------------------------------------ */

/* Who pings and never reads is not answered without end. */
static void on_ping(struct websocket_call *w, struct slice payload)
{
    if (w->state == WEBSOCKET_OPEN && exchange_room(w->call.x) > 0)
        websocket_out_control(w, WEBSOCKET_OP_PONG, payload);
}

/* False: nothing may be looked at any more (the WebSocket may be gone). */
static bool on_step(struct websocket_call *w, enum websocket_step step,
                    const struct websocket_event *event, bool is_in_place, struct err *err)
{
    switch (step) {
    case WEBSOCKET_DATA: return on_data(w, event, is_in_place);
    case WEBSOCKET_PING: on_ping(w, event->data); return true;
    case WEBSOCKET_PONG: return true;
    case WEBSOCKET_CLOSE: websocket_closed(w, event->code); return false;
    case WEBSOCKET_BAD:
        if (event->code == WEBSOCKET_TOO_BIG)
            err_set(err, E_EXHAUSTED, "a message has more than %zu bytes; %s raises it",
                    w->settings->message_bytes_max, w->settings->option);
        return break_off(w, event->code, err);
    default: return true;
    }
}

/* Does a message come next, and nobody wants one yet? */
static bool must_wait(const struct websocket_call *w)
{
    const struct websocket_block *b = &w->block;

    return w->state == WEBSOCKET_OPEN && w->credit == 0 && !w->ws.has_frame && !w->ws.in_message &&
           w->ws.head_size == 0 && b->at < b->fill && (b->bytes[b->at] & 8) == 0;
}

/* Looks at what lies in the block. False: the WebSocket is gone. */
static bool look(struct websocket_call *w)
{
    struct websocket_block *b = &w->block;
    struct websocket_event event;
    struct err err = { 0 };
    size_t used;

    while (b->at < b->fill && !must_wait(w)) {
        enum websocket_step step =
            websocket_next(&w->ws, b->bytes + b->at, b->fill - b->at, &used, &event, &err);
        b->at += (uint32_t)used;
        if (!on_step(w, step, &event, false, &err))
            return false;
    }
    return true;
}

/* -- what is behind messages that wait ------------------------------------------------------------- */

/* How long a frame is, with its head, of which `size` bytes are there; 0: too little to know. Of a
 * control frame that is none (more than 125 bytes) the head, which is all that is needed to say so. */
static uint64_t frame_bytes(const uint8_t *head, size_t size)
{
    size_t more, before;
    uint64_t payload;

    if (size < 2)
        return 0;
    payload = head[1] & 0x7f;
    more = payload == 126 ? 2 : payload == 127 ? 8 : 0;
    before = 2 + more + ((head[1] & 0x80) != 0 ? 4 : 0);
    if (size < before)
        return 0;
    if ((head[0] & 8) != 0)
        return before + (more == 0 ? payload : 0);
    if (more > 0)
        payload = 0;
    for (size_t i = 0; i < more; i++)
        payload = payload << 8 | head[2 + i];
    return before + (payload & INT64_MAX); /* what has the highest bit set is refused in its turn */
}

/* A control frame as a whole. False: nothing may be looked at any more. */
static bool take_control(struct websocket_call *w, uint8_t *frame, size_t size)
{
    struct websocket_event event;
    struct websocket aside;
    struct err err = { 0 };
    size_t used;

    websocket_init(&aside, WEBSOCKET_SERVER, w->heap, w->settings->message_bytes_max, false);
    enum websocket_step step = websocket_next(&aside, frame, size, &used, &event, &err);
    return on_step(w, step, &event, false, &err);
}

/* Takes control frames out from between those that wait. Each byte is looked at, and moved, once for
 * each time that something came. False: the WebSocket is gone. */
static bool look_ahead(struct websocket_call *w)
{
    struct websocket_block *b = &w->block;
    uint64_t from = MAX(b->ahead, (uint64_t)b->at), to = from, frame;

    while (from < b->fill && (frame = frame_bytes(b->bytes + from, b->fill - from)) > 0) {
        uint64_t here = MIN(frame, b->fill - from);
        if ((b->bytes[from] & 8) == 0) {
            if (to < from)
                memmove(b->bytes + to, b->bytes + from, here);
            to += frame;
        } else if (here < frame) {
            break;
        } else if (!take_control(w, b->bytes + from, here)) {
            return false;
        }
        from += frame;
    }
    b->ahead = to;
    if (to < from) {
        uint64_t moved = from - to; /* by the last frame, be it complete or not */
        if (from < b->fill)
            memmove(b->bytes + to, b->bytes + from, b->fill - from);
        b->fill -= (uint32_t)moved;
    }
    return true;
}

/* The block is full of what waits: may more be received, so that what is behind it is seen? */
static void block_grow(struct websocket_call *w)
{
    struct websocket_block *b = &w->block;
    size_t room = w->settings->ahead_bytes, waiting = b->fill - b->at;
    struct buf *larger = NULL;

    if (b->larger == NULL && room > b->room && b->ahead < b->at + room - OFFER_MIN &&
        buf_new(&larger, w->call.x->budget, room, NULL) == OK) {
        memcpy(buf_fill(larger), b->bytes + b->at, waiting);
        b->larger = larger;
        b->bytes = buf_fill(larger); /* what was handed over stays where it lies */
        b->room = (uint32_t)room;
        b->fill = (uint32_t)waiting;
        b->ahead -= b->at;
        b->at = b->kept_at = b->kept_end = 0;
    } else if (!b->was_full) {
        b->was_full = true;
        stat_add(&w->stats->ahead_full, 1);
    }
}

/* -- receiving ------------------------------------------------------------------------------------- */

/* Moves what is not looked at yet to the front of the block. */
static void block_close_up(struct websocket_block *b)
{
    if (b->at > 0 && b->at < b->fill)
        memmove(b->bytes, b->bytes + b->at, b->fill - b->at);
    b->ahead -= MIN(b->ahead, (uint64_t)b->at);
    b->fill -= b->at;
    b->at = 0;
}

/* Where the present offer of the block may end. */
static uint32_t block_end(const struct websocket_block *b)
{
    return b->kept_end > b->fill ? b->kept_at : b->room;
}

/* Offers memory for what comes next. False: there is none, and the WebSocket is gone. */
static bool offer(struct websocket_call *w)
{
    struct websocket_incoming *in = &w->incoming;
    struct websocket_block *b = &w->block;
    struct exchange *x = w->call.x;
    size_t left = (size_t)websocket_left(&w->ws);

    if (x->has_offer || w->is_at_end)
        return true;
    w->is_into_message = left > 0 && w->state == WEBSOCKET_OPEN && b->at == b->fill;
    if (w->is_into_message) {
        b->ahead = 0;
        size_t next = MIN(left, (size_t)STEP);
        if (!incoming_room(w, w->ws.message_bytes) ||
            buf_charge(in->buf, in->got + next, NULL) != OK)
            return break_no_memory(w);
        exchange_read(x, buf_fill(in->buf) + in->got, next);
        return true;
    }
    if (UNLIKELY(b->larger != NULL) && b->at == b->fill) {
        block_shrink(w);
    } else if (b->kept_end == b->kept_at) {
        if (LIKELY(b->larger == NULL) || b->at >= b->room / CLOSE_UP)
            block_close_up(b);
    } else if (b->at == b->fill && b->kept_at >= b->room / 2) {
        b->at = b->fill = 0; /* what was handed over lies behind */
        b->ahead = 0;
    }
    if (UNLIKELY(block_end(b) - b->fill < OFFER_MIN) && must_wait(w))
        block_grow(w);
    uint32_t room = block_end(b) - b->fill;
    if (room >= OFFER_MIN)
        exchange_read(x, b->bytes + b->fill, room);
    return true;
}

/* Since when a frame's payload is being received. */
static void note_frame(struct websocket_call *w)
{
    if (websocket_left(&w->ws) == 0) {
        w->frame_ns = w->frame_got = 0;
    } else if (w->frame_ns == 0) {
        w->frame_ns = MAX(w->heard_ns, UINT64_C(1));
        w->frame_got = 0;
    }
}

/* Goes on as far as it goes now. */
static void run(struct websocket_call *w)
{
    w->is_busy = true;
    if (!look(w) || (UNLIKELY(must_wait(w)) && !look_ahead(w)))
        return;
    w->is_busy = false;
    note_frame(w);
    if (w->is_at_end) {
        websocket_lost(w);
        return;
    }
    if (offer(w))
        websocket_wait(w);
}

void websocket_in_on_body(struct exchange *x, size_t size, bool is_end)
{
    struct websocket_call *w = x->user_data;

    w->heard_ns = websocket_now(w);
    w->pinged_ns = 0;
    w->is_at_end = is_end;
    if (w->is_into_message && size > 0) {
        struct websocket_event event;
        struct err err = { 0 };
        size_t used;
        enum websocket_step step =
            websocket_next(&w->ws, buf_fill(w->incoming.buf) + w->incoming.got, size, &used, &event,
                           &err);
        w->is_into_message = false;
        w->is_busy = true;
        if (!on_step(w, step, &event, true, &err))
            return;
        if (w->state != WEBSOCKET_OPEN)
            websocket_in_deinit(w);
    } else if (!w->is_into_message) {
        w->block.fill += (uint32_t)size;
    }
    run(w);
}

void websocket_in_on_task(struct loop_task *task)
{
    run(CONTAINER_OF(task, struct websocket_call, task));
}

void websocket_in_go_on(struct websocket_call *w)
{
    struct loop *loop = w->call.x->loop;

    if (loop != NULL)
        loop_defer_early(loop, &w->task);
    else /* in a test */
        run(w);
}

void websocket_in_read(struct call *call)
{
    struct websocket_call *w = websocket_of(call);

    w->credit++;
    if (w->credit == 1)
        w->block.kept_at = w->block.kept_end = 0;
    if (w->is_busy || w->state != WEBSOCKET_OPEN)
        return;
    if (w->block.at < w->block.fill)
        websocket_in_go_on(w);
    else if (!call->x->has_offer)
        (void)offer(w); /* of the block: amid a frame an offer stands */
}
