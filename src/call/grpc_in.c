/* grpc_in.c - bytes of the body to messages. SPDX-License-Identifier: Apache-2.0
 *
 * Two kinds of memory are offered to the transport. The block takes what comes until it is known how
 * large the next message is; messages that fit into it are handed over where they lie. A larger one
 * gets a buf of its exact size, what has come of it is copied there (at most a block), and all the
 * rest is received straight into it.
 *
 * An offer of the block stands also when there is no credit: only so is the end of the body seen. It
 * is bounded: what does not fit waits in the transport. Bytes in the block move only while no offer
 * stands, and never over a message that was handed over and may still be read.
 *
 * The first message stays for good (most calls have one only), so the block that it lies in goes on
 * behind it; a call with more messages than one gets a second block when they stop fitting there.
 */
#include "call/internal.h"

#include <string.h>

#include "base/buf.h"

enum {
    STEP = 1 << 20,   /* a large message is charged to the budget as it comes, by so much */
    PROBE_MIN = 64,   /* least room to offer when nothing but the end may come */
    OWN_BYTES = 2048, /* of the second block */
    LEAD = BUF_ALIGN, /* before the first message, which is moved by less to align its end */
    ALIGN_MIN = 100,  /* smaller messages carry no tensor worth it */
};

/* Messages of the block leave PROBE_MIN free before or behind them. */
static uint32_t fits(const struct grpc_block *b)
{
    enum { REST = 2 * PROBE_MIN + GRPC_PREFIX_BYTES };

    return b->room > REST ? b->room - REST : 0;
}

void grpc_in_init(struct grpc_call *g, uint8_t *memory, size_t size)
{
    uint32_t room = (uint32_t)(size - LEAD);

    g->block = (struct grpc_block){ .bytes = memory + LEAD, .room = room, .limit = room };
    g->is_at_end = g->call.x->body_is_over;
}

void grpc_in_deinit(struct grpc_call *g)
{
    buf_unref(&g->incoming.buf);
}

COLD static bool break_off(struct grpc_call *g, enum err_code code, const char *text)
{
    struct err err = { 0 };

    err_set(&err, code, "%s", text);
    grpc_break(g, &err);
    return false;
}

/* -- handing over -------------------------------------------------------------------------------- */

static void release_held(void *context UNUSED, void *data)
{
    struct grpc_call *g = data;

    buf_unref(&g->held);
}

/* From now on `held` goes with the arena at the latest. */
static bool guard(struct grpc_call *g, struct err *err)
{
    struct buf *buf = NULL;

    if (g->has_guard)
        return true;
    if (buf_adopt(&buf, g, 0, release_held, NULL, err) != OK)
        return false;
    if (!arena_adopt(g->call.x->arena, &buf)) {
        err_set(err, E_EXHAUSTED, "no memory to hold a message; retry later");
        buf_unref(&buf);
        return false;
    }
    g->has_guard = true;
    return true;
}

/* The first goes with the arena, a later one when the next comes. Takes *buf. */
static bool keep(struct grpc_call *g, struct buf **buf, struct err *err)
{
    if (!g->has_first && !g->call.keeps_none) {
        if (arena_adopt(g->call.x->arena, buf))
            return true;
        err_set(err, E_EXHAUSTED, "no memory to hold a message; retry later");
        return false;
    }
    if (!guard(g, err))
        return false;
    buf_unref(&g->held);
    g->held = TAKE(*buf);
    return true;
}

/* True while the call goes on. */
static bool hand_over(struct grpc_call *g, const struct call_message *message)
{
    struct call *call = &g->call;

    g->has_first = true;
    g->credit--;
    stat_add(&g->stats->messages_in, 1);
    call->user->on_message(call, message);
    if (UNLIKELY(call->is_over))
        return false;
    if (g->credit > 0) /* the next may come at once, and where this one lay */
        g->block.kept_at = g->block.kept_end = 0;
    return true;
}

static bool hand_over_buf(struct grpc_call *g, struct buf **buf, struct slice bytes,
                          bool was_compressed)
{
    struct call_message message = { bytes, *buf, was_compressed, false };
    struct err err = { 0 };

    if (*buf != NULL && !keep(g, buf, &err)) {
        buf_unref(buf);
        grpc_break(g, &err);
        return false;
    }
    return hand_over(g, &message);
}

static bool hand_over_inflated(struct grpc_call *g, struct slice packed)
{
    const struct grpc_settings *settings = g->settings;
    struct buf *plain = NULL;
    struct err err = { 0 };
    size_t offset = 0;
    bool is_too_large = false;

    g->was_compressed = true;
    stat_add(&g->stats->compressed_in, 1);
    if (grpc_message_inflate(&plain, &offset, &is_too_large, g->call.x->budget, g->encoding, packed,
                             settings->message_bytes_max, settings->option, &err) != OK) {
        if (is_too_large)
            stat_add(&g->stats->limit_message, 1);
        grpc_break(g, &err);
        return false;
    }
    struct slice bytes = { (const uint8_t *)"", 0 };
    if (plain != NULL)
        bytes = slice_skip(buf_bytes(plain), offset);
    buf_unref(&g->incoming.buf); /* what was compressed is not needed any more */
    return hand_over_buf(g, &plain, bytes, true);
}

static bool hand_over_incoming(struct grpc_call *g)
{
    struct grpc_incoming *in = &g->incoming;
    struct slice bytes = { in->bytes, in->size };

    if (in->is_compressed)
        return hand_over_inflated(g, bytes);
    struct buf *buf = TAKE(in->buf);
    return hand_over_buf(g, &buf, bytes, false);
}

/* Tensors come last in a message: with its end on a line they can be read in place. There is LEAD
 * before the first message of a call. */
static struct slice align_end(struct slice bytes)
{
    size_t down = (uintptr_t)(bytes.data + bytes.size) % BUF_ALIGN;
    uint8_t *to = (uint8_t *)(uintptr_t)bytes.data - down;

    if (bytes.size < ALIGN_MIN || down == 0)
        return bytes;
    memmove(to, bytes.data, bytes.size);
    return slice_make(to, bytes.size);
}

static bool hand_over_block(struct grpc_call *g, struct grpc_prefix prefix)
{
    struct grpc_block *b = &g->block;
    struct slice bytes = { b->bytes + b->at + GRPC_PREFIX_BYTES, prefix.size };
    uint32_t from = b->at, to = from + GRPC_PREFIX_BYTES + prefix.size;

    b->at = to;
    if (UNLIKELY(prefix.flag == 1))
        return hand_over_inflated(g, bytes);
    if (LIKELY(!g->has_first)) { /* for good: the block begins behind it */
        bytes = align_end(bytes);
        b->bytes += to;
        b->room -= to;
        b->limit -= to;
        b->fill -= to;
        b->at = 0;
    } else {
        b->kept_at = from;
        b->kept_end = to;
    }
    struct call_message message = { bytes, NULL, false, false };
    return hand_over(g, &message);
}

/* -- taking messages from what came -------------------------------------------------------------- */

COLD static bool refuse_encoding(struct grpc_call *g)
{
    enum { QUOTE_MAX = 64 };
    struct err err = { 0 };

    g->tells_encodings = true;
    err_set(
        &err, E_UNIMPLEMENTED,
        "message compressed with grpc-encoding '%.*s', which is not understood; these are: " GRPC_ENCODINGS,
        SLICE_ARG(slice_first(g->encoding_text, QUOTE_MAX)));
    grpc_break(g, &err);
    return false;
}

COLD static bool refuse_large(struct grpc_call *g, size_t size)
{
    struct err err = { 0 };

    stat_add(&g->stats->limit_message, 1);
    grpc_message_too_large(&err, size, g->settings->message_bytes_max, g->settings->option);
    grpc_break(g, &err);
    return false;
}

/* What a prefix alone can say; false: the call has been ended. */
static bool is_welcome(struct grpc_call *g, struct grpc_prefix prefix)
{
    if (UNLIKELY(g->type.is_web) && g->has_first)
        return break_off(g, E_UNIMPLEMENTED,
                         "a second message came: a call over gRPC-Web has one only; streams of "
                         "messages to the server go over gRPC (HTTP/2) or a WebSocket");
    if (UNLIKELY(prefix.flag != 0)) {
        if (prefix.flag > 1)
            return break_off(g, E_INTERNAL,
                             "message with a compressed-flag that is neither 0 nor "
                             "1: what comes is no gRPC message");
        if (g->encoding == ENCODING_IDENTITY)
            return break_off(g, E_INTERNAL,
                             "message with its compressed-flag set, in a call "
                             "without a grpc-encoding other than identity");
        if (g->encoding == ENCODING_UNKNOWN)
            return refuse_encoding(g);
    }
    return LIKELY(prefix.size <= g->settings->message_bytes_max) || refuse_large(g, prefix.size);
}

/* What the block holds of a message under way goes to it. */
static void drain_block(struct grpc_call *g)
{
    struct grpc_incoming *in = &g->incoming;
    struct grpc_block *b = &g->block;
    size_t size = MIN((size_t)(b->fill - b->at), in->size - in->got);

    memcpy(in->bytes + in->got, b->bytes + b->at, size);
    in->got += size;
    b->at += (uint32_t)size;
}

static bool begin_incoming(struct grpc_call *g, struct grpc_prefix prefix)
{
    struct grpc_incoming *in = &g->incoming;
    size_t size = prefix.size, lead = (BUF_ALIGN - size % BUF_ALIGN) % BUF_ALIGN;
    struct err err = { 0 };

    if (buf_new_partly(&in->buf, g->call.x->budget, lead + size, lead + MIN(size, (size_t)STEP),
                       &err) != OK) {
        grpc_break(g, &err);
        return false;
    }
    memset(buf_fill(in->buf), 0, lead); /* nobody reads it, and yet it may be sent with the buf */
    in->bytes = buf_fill(in->buf) + lead;
    in->size = size;
    in->got = 0;
    in->is_compressed = prefix.flag != 0;
    g->block.at += GRPC_PREFIX_BYTES;
    drain_block(g);
    return true;
}

/* A stream's own block: the first message left too little. False: no memory, or not now. */
static bool take_own_block(struct grpc_call *g)
{
    struct grpc_block *b = &g->block;
    uint8_t *bytes;

    if (g->has_own_block || (bytes = arena_aligned(g->call.x->arena, 64, OWN_BYTES)) == NULL)
        return false;
    memcpy(bytes, b->bytes + b->at, b->fill - b->at);
    *b = (struct grpc_block){
        .bytes = bytes, .room = OWN_BYTES, .limit = OWN_BYTES, .fill = b->fill - b->at
    };
    g->has_own_block = true;
    return true;
}

/* Makes way for a message that is not here as a whole. False: the call has been ended. */
static bool expect(struct grpc_call *g, struct grpc_prefix prefix)
{
    if (g->call.x->has_offer) /* what comes will be put into the block: then */
        return true;
    if (prefix.size > fits(&g->block) &&
        !(g->has_first && prefix.size <= OWN_BYTES / 2 && take_own_block(g)))
        return begin_incoming(g, prefix);
    return true;
}

static bool ended_in_the_middle(struct grpc_call *g)
{
    return break_off(g, E_INTERNAL, "the request ended in the middle of a message");
}

/* Hands over the next message when it is complete: then true. */
static bool take(struct grpc_call *g)
{
    struct grpc_block *b = &g->block;

    if (g->incoming.buf != NULL) {
        if (g->incoming.got == g->incoming.size)
            return hand_over_incoming(g);
        return g->is_at_end && ended_in_the_middle(g);
    }
    uint32_t came = b->fill - b->at;
    if (came < GRPC_PREFIX_BYTES)
        return came > 0 && g->is_at_end && ended_in_the_middle(g);
    struct grpc_prefix prefix = grpc_prefix_get(b->bytes + b->at);
    if (!is_welcome(g, prefix))
        return false;
    if (LIKELY(prefix.size <= came - GRPC_PREFIX_BYTES))
        return hand_over_block(g, prefix);
    if (g->is_at_end)
        return ended_in_the_middle(g);
    return expect(g, prefix) && g->incoming.buf != NULL && g->incoming.got == g->incoming.size &&
           hand_over_incoming(g);
}

/* -- offering ------------------------------------------------------------------------------------ */

static void offer_incoming(struct grpc_call *g)
{
    struct grpc_incoming *in = &g->incoming;
    size_t piece = MIN(in->size - in->got, (size_t)STEP);
    size_t lead = (size_t)(in->bytes - buf_fill(in->buf));
    struct err err = { 0 };

    if (buf_charge(in->buf, lead + in->got + piece, &err) != OK) {
        grpc_break(g, &err);
        return;
    }
    g->is_into_message = true;
    g->call.x->can_rest = false;
    exchange_read(g->call.x, in->bytes + in->got, piece);
}

/* Puts what was not taken where the most can come behind it. */
static void arrange(struct grpc_block *b)
{
    uint32_t rest = b->fill - b->at;
    bool is_behind = b->kept_end != 0 && b->room - b->kept_end >= b->kept_at;
    uint32_t to = is_behind ? b->kept_end : 0;
    uint32_t limit = is_behind || b->kept_end == 0 ? b->room : b->kept_at;

    require(rest <= limit - to); /* it lies on one of the sides, and this is the larger */
    if (to != b->at)
        memmove(b->bytes + to, b->bytes + b->at, rest);
    b->at = to;
    b->fill = to + rest;
    b->limit = limit;
}

/* Is there a reason to move what is in the block? */
static bool is_tight(const struct grpc_block *b)
{
    uint32_t rest = b->fill - b->at;

    if (rest == 0)
        return true; /* moving nothing costs nothing */
    if (rest < GRPC_PREFIX_BYTES)
        return b->limit - b->fill < PROBE_MIN;
    return b->limit - b->at < GRPC_PREFIX_BYTES + grpc_prefix_get(b->bytes + b->at).size;
}

static void offer(struct grpc_call *g)
{
    struct grpc_block *b = &g->block;

    if (g->incoming.buf != NULL) {
        offer_incoming(g);
        return;
    }
    if (is_tight(b))
        arrange(b);
    bool has_prefix = b->fill - b->at >= GRPC_PREFIX_BYTES;
    if (b->limit - b->fill < PROBE_MIN && !has_prefix && !g->has_own_block)
        (void)take_own_block(g);
    if (b->limit == b->fill) { /* full: the next call_read makes room */
        if (UNLIKELY(!has_prefix && g->credit > 0))
            (void)break_off(g, E_EXHAUSTED, "no memory to receive a message; retry later");
        return;
    }
    g->is_into_message = false;
    /* Between messages a stream may be silent; within one that is waited for it may not. */
    g->call.x->can_rest = !g->call.is_lone && (g->credit == 0 || b->fill == b->at);
    exchange_read(g->call.x, b->bytes + b->fill, b->limit - b->fill);
}

/* -- the turn of events -------------------------------------------------------------------------- */

static void half_close(struct grpc_call *g)
{
    struct call *call = &g->call;

    g->is_half_closed = true;
    if (call->user->on_half_close != NULL)
        call->user->on_half_close(call);
}

/* Takes what may be taken and asks for more. A reference of the exchange is held by who calls. */
static void advance(struct grpc_call *g)
{
    struct call *call = &g->call;

    g->is_busy = true;
    while (g->credit > 0 && take(g))
        ;
    if (!call->is_over && g->is_at_end && !g->is_half_closed && g->incoming.buf == NULL &&
        g->block.at == g->block.fill)
        half_close(g);
    g->is_busy = false;
    if (!call->is_over && !g->is_at_end && !call->x->has_offer)
        offer(g);
}

/* The text form: what came is decoded where it lies. False: the call has been ended. */
COLD static bool decode_text(struct grpc_call *g, size_t *size, bool is_end)
{
    struct grpc_web_decoder *d = &g->decoder;
    uint8_t *at = g->is_into_message ? g->incoming.bytes + g->incoming.got
                                     : g->block.bytes + g->block.fill;
    size_t decoded = grpc_web_decode(d, at, *size);
    struct err err = { 0 };

    if (decoded == SIZE_MAX)
        err_set(&err, E_INTERNAL,
                "byte %llu of the body is 0x%02x, which cannot stand there: a body of "
                "application/grpc-web-text is base64 (bytes go as application/grpc-web)",
                (unsigned long long)d->offset, d->unexpected);
    else if (is_end && !grpc_web_decode_is_whole(d))
        err_set(&err, E_INTERNAL,
                "the body ended in the middle of a group of base64, after %llu bytes",
                (unsigned long long)d->offset);
    if (err.code != OK) {
        grpc_break(g, &err);
        return false;
    }
    *size = decoded;
    return true;
}

void grpc_in_on_body(struct exchange *x, size_t size, bool is_end)
{
    struct grpc_call *g = x->user_data;

    if (UNLIKELY(g->call.is_over || (g->type.is_text && !decode_text(g, &size, is_end))))
        return;
    if (g->is_into_message)
        g->incoming.got += size;
    else
        g->block.fill += (uint32_t)size;
    g->is_at_end = is_end;
    exchange_ref(x);
    advance(g);
    exchange_unref(&x);
}

static void run(struct loop_task *task)
{
    struct grpc_call *g = CONTAINER_OF(task, struct grpc_call, task);
    struct exchange *x = exchange_ref(g->call.x);

    advance(g);
    exchange_unref(&x);
}

void grpc_in_read(struct call *call)
{
    struct grpc_call *g = grpc_of(call);

    g->credit++;
    g->block.kept_at = g->block.kept_end = 0;
    if (g->is_busy || g->is_half_closed)
        return;
    if (LIKELY(!g->is_at_end && g->block.at == g->block.fill)) {
        if (!call->x->has_offer)
            offer(g);
        return;
    }
    /* Something waits, and callbacks do not re-enter: at the end of the turn. */
    g->task.run = run;
    if (call->x->loop == NULL) /* a transport without one: a test's */
        run(&g->task);
    else
        loop_defer(call->x->loop, &g->task);
}
