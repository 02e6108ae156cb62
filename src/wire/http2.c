/* http2.c - SPDX-License-Identifier: Apache-2.0
 *
 * nghttp2 knows frames, HPACK, stream states and flow control. What is added here is what makes it
 * safe and cheap to use:
 *
 * Heads out wait until http2_send, because only then is it known whether a body follows: an answer
 * without one is a single HEADERS with END_STREAM. Bodies are lists of pieces that nghttp2 never
 * sees the bytes of (NO_COPY): it makes a frame's first nine bytes and says how many of ours
 * follow.
 *
 * Windows are manual. The connection's is given back as data arrives: a stream that nobody reads
 * must not stop the others. A stream's credit is counted here, and WINDOW_UPDATE is sent only when
 * it is worth a frame.
 *
 * Abuse is counted in frames: each received frame costs one of a store, and work that is useful to
 * either side (a request, bytes of a body, frames we send) puts some back, so that honest peers of
 * any speed stay near the top. Frames that nghttp2 skips (of unknown types, for streams that are
 * closed: perhaps only late) are not announced, so they are counted by their bytes. Streams that end by a reset before anything of an answer was sent
 * draw on a second store: that is what rapid reset does, and its twin that makes the server reset.
 * nghttp2's own limit of resets is set out of the way, because ours says in what words it ended and
 * counts both kinds.
 *
 * A fatal end (flood, no memory, failed callback) leaves nghttp2's session as it is: it is never
 * entered again, the GOAWAY is written by hand. What nghttp2 itself finds wrong with a connection
 * goes out as its own GOAWAY, which is seen on its way out.
 *
 * Priorities: RFC 9113 deprecates those of RFC 7540, and a tree that a peer may rearrange is a
 * surface for attacks. A server says so in its SETTINGS, and all streams share in turns.
 */
#include "wire/http2.h"

#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"

enum {
    REFER_MIN = 4096,          /* smaller pieces are copied: cheaper than an iovec and a count */
    FRAME_BYTES_LEAST = 16384, /* of SETTINGS_MAX_FRAME_SIZE, RFC 9113 6.5.2 */
    FRAME_BYTES_MOST = 16777215,
    FRAME_HEAD_BYTES = 9,       /* RFC 9113 4.1 */
    SEND_FRAME_MAX = 64 * 1024, /* of DATA, if the peer takes it: nghttp2 keeps a buffer as large */
    BULKY_MIN = 16 * 1024,      /* bodies from which such frames are worth that buffer */
    FIELD_OVERHEAD = 32,        /* RFC 9113 6.5.2, of a field in SETTINGS_MAX_HEADER_LIST_SIZE */
    BLOCK_EXCESS = 8,           /* times header_bytes_max: from there on it is an attack */
    SEND_BLOCK_MAX = 256 * 1024,
    CONTINUATIONS_MAX = 72, /* header-bytes-max may be 1 MiB, frames have 16 KiB at least */
    QUEUE_MAX = 20000,      /* frames waiting in nghttp2: nothing honest comes near */
    ALLOW_MAX = 1 << 30,
    CALM_SECONDS = 60, /* an empty store of frames is full again after so long */
    RESET_SECONDS = 30,
    IGNORED_PRICE = 4096, /* bytes of ignored frames for one of a store */
    REQUEST_REFUND = 4,   /* HEADERS, end, window, and one more */
    SENT_REFUND = 2,
    SENT_PRICE = 32, /* bytes of an answer for one frame: callers of gRPC give windows back for each
                        message, and many messages leave in one frame */
    GOAWAY_TEXT_MAX = 100,
    STREAMS_UNBOUNDED = INT32_MAX, /* what nghttp2 thinks: see put_settings */
};

/* -- heap ------------------------------------------------------------------------------------ */

/* Blocks of up to HEAP_CLASSES * HEAP_STEP bytes are kept in lists by size; larger ones (a session
 * and its buffers, once a connection) come and go. */
enum { HEAP_STEP = 32, HEAP_CLASSES = 48, HEAP_KEEP_MAX = 512, HEAP_RESERVE = 16 };

struct heap_block {
    union {
        size_t size; /* asked for */
        struct heap_block *next;
    };
    uint64_t unused; /* keeps the memory behind it on 16 bytes */
};

struct http2_heap {
    struct heap_block *kept[HEAP_CLASSES];
    uint32_t kept_count[HEAP_CLASSES];
    uint64_t bytes;
    struct heap_block *reserve; /* blocks of reserve_bytes, each of the largest class */
    bool is_short;              /* one of them was taken: end that connection */
    uint8_t reserve_bytes[HEAP_RESERVE][sizeof(struct heap_block) + HEAP_CLASSES * HEAP_STEP]
        __attribute__((aligned(16)));
};

struct http2_heap *http2_heap_new(void)
{
    struct http2_heap *heap = mem_zalloc(sizeof(struct http2_heap));

    for (size_t i = 0; heap != NULL && i < HEAP_RESERVE; i++) {
        struct heap_block *block = (struct heap_block *)(void *)heap->reserve_bytes[i];
        block->next = heap->reserve;
        heap->reserve = block;
    }
    return heap;
}

void http2_heap_free(struct http2_heap **slot)
{
    struct http2_heap *heap = TAKE(*slot);

    if (heap == NULL)
        return;
    require(heap->bytes == 0);
    for (size_t i = 0; i < HEAP_CLASSES; i++)
        while (heap->kept[i] != NULL) {
            struct heap_block *block = heap->kept[i];
            heap->kept[i] = block->next;
            mem_free(block);
        }
    mem_free(heap);
}

uint64_t http2_heap_bytes(const struct http2_heap *heap)
{
    return heap->bytes;
}

static size_t class_of(size_t size)
{
    return size == 0 ? 0 : (size - 1) / HEAP_STEP;
}

static void *heap_take(struct http2_heap *heap, size_t size)
{
    struct heap_block *block;
    size_t class = class_of(size);

    if (LIKELY(class < HEAP_CLASSES)) {
        block = heap->kept[class];
        if (LIKELY(block != NULL)) {
            heap->kept[class] = block->next;
            heap->kept_count[class]--;
        } else {
            block = mem_alloc(sizeof *block + (class + 1) * HEAP_STEP);
        }
    } else {
        block = mem_alloc(sizeof *block + size);
    }
    if (UNLIKELY(block == NULL))
        return NULL;
    block->size = size;
    heap->bytes += size;
    return block + 1;
}

static void heap_give(struct http2_heap *heap, void *memory)
{
    if (memory == NULL)
        return;
    struct heap_block *block = (struct heap_block *)memory - 1;
    size_t class = class_of(block->size);
    heap->bytes -= block->size;
    if (UNLIKELY((uintptr_t)block - (uintptr_t)heap->reserve_bytes < sizeof heap->reserve_bytes)) {
        block->next = heap->reserve;
        heap->reserve = block;
    } else if (LIKELY(class < HEAP_CLASSES && heap->kept_count[class] < HEAP_KEEP_MAX)) {
        block->next = heap->kept[class];
        heap->kept[class] = block;
        heap->kept_count[class]++;
    } else {
        mem_free(block);
    }
}

static void *heap_resize(struct http2_heap *heap, void *old, size_t size)
{
    void *memory = heap_take(heap, size);

    if (memory != NULL && old != NULL) {
        struct heap_block *block = (struct heap_block *)old - 1;
        memcpy(memory, old, MIN(block->size, size));
        heap_give(heap, old);
    }
    return memory;
}

/* nghttp2's own. It frees some blocks twice when memory runs out amid nghttp2_submit_data, so small
 * ones come from the reserve then, and the connection is ended before it asks for many more. */
static void *on_malloc(size_t size, void *arg)
{
    struct http2_heap *heap = arg;
    void *memory = heap_take(heap, size);
    struct heap_block *block = heap->reserve;

    if (LIKELY(memory != NULL) || block == NULL || class_of(size) >= HEAP_CLASSES)
        return memory;
    heap->is_short = true;
    heap->reserve = block->next;
    block->size = size;
    heap->bytes += size;
    return block + 1;
}

static void on_free(void *memory, void *heap)
{
    heap_give(heap, memory);
}

static void *on_calloc(size_t count, size_t size, void *heap)
{
    void *memory = on_malloc(count * size, heap); /* nghttp2 asks for small constants only */

    if (memory != NULL)
        memset(memory, 0, count * size);
    return memory;
}

static void *on_realloc(void *old, size_t size, void *heap)
{
    void *memory = on_malloc(size, heap);

    if (memory != NULL && old != NULL) {
        struct heap_block *block = (struct heap_block *)old - 1;
        memcpy(memory, old, MIN(block->size, size));
        heap_give(heap, old);
    }
    return memory;
}

/* -- what is kept ----------------------------------------------------------------------------- */

struct piece {
    struct piece *next;
    struct slice bytes;
    struct buf *holder; /* owned reference, or NULL */
};

/* Fields to send, and their text behind them, in one block. nghttp2 is told not to copy: the block
 * stays until the stream closes. */
struct block {
    size_t count;
    nghttp2_nv fields[];
};

struct http2_stream {
    struct http2 *h;
    int32_t id;
    bool is_announced; /* the owner has heard of it, so it hears of its end */
    bool has_head;     /* head is nghttp2's matter now */
    bool is_deferred;  /* it asked, there was nothing: resume */
    bool is_ended;     /* http2_end was called */
    bool is_end_sent;  /* END_STREAM was written */
    bool lingers;      /* the rest of its request is still taken */
    bool is_reset;     /* by the owner */
    bool is_reset_by_peer;
    bool is_open;       /* nghttp2 knows it: a client's, once its HEADERS are written */
    bool is_charged;    /* its reset has been counted */
    bool is_peer_ended; /* END_STREAM was received */
    bool has_answered;  /* bytes of a body were sent, or a complete answer */
    bool has_failed;    /* no memory for something of it: reset when sending */
    struct list_node node;
    struct list_node touched; /* something is to be told to nghttp2 */
    void *user;               /* borrowed */
    struct piece *first, *last;
    size_t queued;
    uint64_t sent;
    int64_t credit;
    size_t ahead;                  /* what http2_allow asked for before it was open */
    struct block *head, *trailers; /* owned */
};

struct http2 {
    nghttp2_session *session;    /* owned */
    struct http2_heap *heap;     /* borrowed, or its own */
    struct http2_heap *own_heap; /* owned; NULL: heap is somebody's */
    const struct http2_limits *limits;
    const struct http2_events *events;
    void *owner;
    struct list streams, touched;
    struct http2_stream *last_stream; /* of the last frame of DATA or HEADERS: saves a look-up */
    uint32_t streams_count;
    bool is_server;
    bool is_dead;      /* the session is not entered any more */
    bool is_said;      /* and its GOAWAY is written, or cannot be */
    bool is_bulky;     /* large bodies are being sent */
    bool has_settings; /* ours are written */
    bool is_sending;   /* in http2_send */
    bool is_receiving; /* in http2_receive */
    enum http2_failure failure;
    uint32_t dead_code;
    const char *dead_text; /* a literal */
    uint64_t now_ns, heard_ns, block_begun_ns;
    uint64_t frames_sent, resets_sent, streams_refused;
    size_t send_bytes, send_max;

    /* Stores, in frames; refilled when something is received. */
    int64_t control, resets;
    uint64_t filled_ns;
    int64_t ignored; /* bytes that no frame of on_begin_frame explains, beyond those charged */

    /* The header block that is being received. Only one can be at a time, RFC 9113 4.3. */
    struct http2_stream *block_of;
    uint8_t *text; /* owned; kept while a block is being received */
    size_t text_size, text_room;
    struct http2_field *fields; /* owned; name.data and value.data are offsets until it is whole */
    uint32_t fields_count, fields_room;
    uint32_t pseudo_count;
    size_t list_bytes;  /* as RFC 9113 6.5.2 counts */
    size_t frame_bytes; /* as they came */
    bool has_overrun, has_too_many;
    uint16_t status;
};

const struct http2_limits http2_client_limits = {
    .header_bytes_max = 256 * 1024,
    .fields_max = 1000,
    .stream_window = 1024 * 1024,
    .connection_window = 64 * 1024 * 1024,
    .frame_bytes_max = 256 * 1024,
    .control_frames_max = 100000,
    .resets_max = 0,
};

const char *http2_code_name(uint32_t code)
{
    static const char *const names[] = {
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    };

    return code < COUNT(names) ? names[code] : "unknown";
}

static const char *type_name(uint8_t type)
{
    static const char *const names[] = { "DATA",          "HEADERS",      "PRIORITY", "RST_STREAM",
                                         "SETTINGS",      "PUSH_PROMISE", "PING",     "GOAWAY",
                                         "WINDOW_UPDATE", "CONTINUATION" };

    return type < COUNT(names) ? names[type] : "extension";
}

/* -- the end --------------------------------------------------------------------------------- */

/* Ends the connection: nothing more is taken from the peer, and a GOAWAY says why. Returns what
 * makes nghttp2 leave at once. */
COLD static int fail(struct http2 *h, enum http2_failure failure, uint32_t code, const char *text)
{
    if (!h->is_dead) {
        h->is_dead = true;
        h->failure = failure;
        h->dead_code = code;
        h->dead_text = text;
    }
    return NGHTTP2_ERR_CALLBACK_FAILURE;
}

COLD static int fail_no_memory(struct http2 *h)
{
    return fail(h, HTTP2_NO_MEMORY, HTTP2_INTERNAL_ERROR, "out of memory");
}

/* After each call into nghttp2 that may have taken memory. */
static void check_heap(struct http2 *h)
{
    if (UNLIKELY(h->heap->is_short)) {
        h->heap->is_short = false;
        fail_no_memory(h);
    }
}

static void pieces_drop(struct http2_stream *s)
{
    struct http2_heap *heap = s->h->heap;

    while (s->first != NULL) {
        struct piece *piece = s->first;
        s->first = piece->next;
        buf_unref(&piece->holder);
        heap_give(heap, piece);
    }
    s->last = NULL;
    s->queued = 0;
}

static struct http2_stream *stream_new(struct http2 *h, int32_t id)
{
    struct http2_stream *s = heap_take(h->heap, sizeof *s);

    if (UNLIKELY(s == NULL))
        return NULL;
    memset(s, 0, sizeof *s);
    s->h = h;
    s->id = id;
    s->credit = h->limits->stream_window;
    s->is_open = h->is_server;
    list_push(&h->streams, &s->node);
    h->streams_count++;
    return s;
}

static void stream_free(struct http2_stream *s)
{
    struct http2 *h = s->h;

    pieces_drop(s);
    heap_give(h->heap, s->head);
    heap_give(h->heap, s->trailers);
    list_remove(&s->touched);
    list_remove(&s->node);
    h->streams_count--;
    if (h->block_of == s)
        h->block_of = NULL;
    if (h->last_stream == s)
        h->last_stream = NULL;
    heap_give(h->heap, s);
}

static void stream_close(struct http2_stream *s, uint32_t code)
{
    struct http2 *h = s->h;

    if (s->is_announced && h->events->on_close != NULL)
        h->events->on_close(h->owner, s, code);
    stream_free(s);
}

static struct http2_stream *stream_of(struct http2 *h, int32_t id)
{
    struct http2_stream *s = h->last_stream;

    if (LIKELY(s != NULL && s->id == id))
        return s;
    s = nghttp2_session_get_stream_user_data(h->session, id);
    if (s != NULL)
        h->last_stream = s;
    return s;
}

/* -- stores ---------------------------------------------------------------------------------- */

static void refill(struct http2 *h, uint64_t now_ns)
{
    const struct http2_limits *limits = h->limits;
    uint64_t passed = now_ns - h->filled_ns;

    if (passed < NS_PER_MS * 100)
        return;
    passed = MIN(passed, NS_PER_S * CALM_SECONDS);
    h->filled_ns = now_ns;
    h->control += (int64_t)(passed * limits->control_frames_max / (NS_PER_S * CALM_SECONDS));
    h->resets += (int64_t)(passed * limits->resets_max / (NS_PER_S * RESET_SECONDS));
    h->control = MIN(h->control, (int64_t)limits->control_frames_max);
    h->resets = MIN(h->resets, (int64_t)limits->resets_max);
}

static void refund(struct http2 *h, int64_t frames)
{
    h->control = MIN(h->control + frames, (int64_t)h->limits->control_frames_max);
}

/* -- receiving ------------------------------------------------------------------------------- */

static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *arg)
{
    struct http2 *h = arg;

    (void)session;
    h->ignored -= (int64_t)hd->length + FRAME_HEAD_BYTES;
    if (UNLIKELY(--h->control < 0 && h->limits->control_frames_max != 0))
        return fail(h, HTTP2_FLOOD_CONTROL, HTTP2_ENHANCE_YOUR_CALM,
                    "too many frames that carry nothing");
    if (hd->type == NGHTTP2_HEADERS || hd->type == NGHTTP2_CONTINUATION) {
        h->frame_bytes = hd->type == NGHTTP2_HEADERS ? hd->length : h->frame_bytes + hd->length;
        if (UNLIKELY(h->frame_bytes > (size_t)h->limits->header_bytes_max * BLOCK_EXCESS))
            return fail(h, HTTP2_FLOOD_HEADERS, HTTP2_ENHANCE_YOUR_CALM,
                        "a header block is far too large");
    }
    return 0;
}

static void trace(struct http2 *h, const nghttp2_frame *frame, bool is_sent)
{
    struct http2_frame out = {
        .is_sent = is_sent,
        .type = frame->hd.type,
        .flags = frame->hd.flags,
        .name = type_name(frame->hd.type),
        .stream = frame->hd.stream_id,
        .length = (uint32_t)frame->hd.length,
    };

    switch (frame->hd.type) {
    case NGHTTP2_RST_STREAM: out.value = frame->rst_stream.error_code; break;
    case NGHTTP2_GOAWAY: out.value = frame->goaway.error_code; break;
    case NGHTTP2_WINDOW_UPDATE:
        out.value = (uint32_t)frame->window_update.window_size_increment;
        break;
    default: break;
    }
    h->events->on_frame(h->owner, &out);
}

/* The store of fields and text is given back between blocks: an idle connection keeps none. */
static void block_reset(struct http2 *h)
{
    heap_give(h->heap, TAKE(h->text));
    heap_give(h->heap, TAKE(h->fields));
    h->text_size = h->text_room = h->list_bytes = 0;
    h->fields_count = h->fields_room = h->pseudo_count = 0;
    h->has_overrun = h->has_too_many = false;
    h->status = 0;
    h->block_of = NULL;
    h->block_begun_ns = 0;
}

/* RFC 9113 5.1.2: the peer may try again. One that goes on so has no limit in mind. */
COLD static int refuse_stream(struct http2 *h, int32_t id)
{
    h->streams_refused++;
    if (--h->resets < 0 && h->limits->resets_max != 0)
        return fail(h, HTTP2_FLOOD_STREAMS, HTTP2_ENHANCE_YOUR_CALM,
                    "more streams than it may have open, again and again");
    if (nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, id, HTTP2_REFUSED_STREAM) != 0)
        return fail_no_memory(h);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* which adds no second RST_STREAM */
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct http2 *h = arg;
    struct http2_stream *s;

    block_reset(h);
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        if (UNLIKELY(h->streams_count >= h->limits->streams_max))
            return refuse_stream(h, frame->hd.stream_id);
        static const nghttp2_extpri in_turns = { .urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY,
                                                 .inc = 1 };
        s = stream_new(h, frame->hd.stream_id);
        if (UNLIKELY(s == NULL))
            return fail_no_memory(h);
        nghttp2_session_set_stream_user_data(session, s->id, s);
        nghttp2_session_change_extpri_stream_priority(session, s->id, &in_turns, 1);
        h->last_stream = s;
    } else {
        s = stream_of(h, frame->hd.stream_id);
    }
    h->block_of = s;
    h->block_begun_ns = h->now_ns;
    return 0;
}

/* Room for `more` bytes of text and one more field. */
static bool block_make_room(struct http2 *h, size_t more)
{
    if (UNLIKELY(h->text_size + more > h->text_room)) {
        size_t room = MAX(h->text_room * 2, MAX(h->text_size + more, (size_t)480));
        uint8_t *text = heap_resize(h->heap, h->text, room);
        if (text == NULL)
            return false;
        h->text = text;
        h->text_room = room;
    }
    if (UNLIKELY(h->fields_count == h->fields_room)) {
        uint32_t room = MAX(h->fields_room * 2, 16u);
        struct http2_field *fields = heap_resize(h->heap, h->fields, room * sizeof *fields);
        if (fields == NULL)
            return false;
        h->fields = fields;
        h->fields_room = room;
    }
    return true;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *arg)
{
    struct http2 *h = arg;
    const struct http2_limits *limits = h->limits;
    bool is_pseudo = name_size > 0 && name[0] == ':';

    (void)session, (void)frame, (void)flags;
    h->list_bytes += name_size + value_size + FIELD_OVERHEAD;
    if (UNLIKELY(h->list_bytes > (size_t)limits->header_bytes_max * BLOCK_EXCESS))
        return fail(h, HTTP2_FLOOD_HEADERS, HTTP2_ENHANCE_YOUR_CALM,
                    "a header block is far too large");
    bool is_many = !is_pseudo && h->fields_count - h->pseudo_count >= limits->fields_max;
    if (UNLIKELY(h->list_bytes > limits->header_bytes_max || is_many || h->has_overrun)) {
        if (!h->has_overrun)
            h->has_too_many = is_many;
        h->has_overrun = true;
        return 0;
    }
    if (UNLIKELY(!block_make_room(h, name_size + value_size)))
        return fail_no_memory(h);
    /* nghttp2 has checked that it is three digits. */
    if (!h->is_server && name_size == 7 && memcmp(name, ":status", 7) == 0 && value_size == 3)
        h->status = (uint16_t)((value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0'));
    struct http2_field *field = &h->fields[h->fields_count++];
    h->pseudo_count += is_pseudo;
    memcpy(h->text + h->text_size, name, name_size);
    field->name = slice_make((const void *)(uintptr_t)h->text_size, name_size);
    h->text_size += name_size;
    if (value_size > 0)
        memcpy(h->text + h->text_size, value, value_size);
    field->value = slice_make((const void *)(uintptr_t)h->text_size, value_size);
    h->text_size += value_size;
    return 0;
}

static void head_done(struct http2 *h, const nghttp2_frame *frame)
{
    struct http2_stream *s = h->block_of;
    struct http2_head head = {
        .kind = frame->headers.cat == NGHTTP2_HCAT_REQUEST ? HTTP2_REQUEST
                : h->status == 0                           ? HTTP2_TRAILERS
                : h->status < 200                          ? HTTP2_INTERIM
                                                           : HTTP2_RESPONSE,
        .status = h->status,
        .count = h->fields_count,
        .is_end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0,
        .has_overrun = h->has_overrun,
        .has_too_many = h->has_too_many,
    };

    if (s == NULL || s->is_reset) {
        block_reset(h);
        return;
    }
    for (uint32_t i = 0; i < h->fields_count; i++) {
        h->fields[i].name.data = h->text + (uintptr_t)h->fields[i].name.data;
        h->fields[i].value.data = h->text + (uintptr_t)h->fields[i].value.data;
    }
    head.fields = h->fields;
    if (head.kind == HTTP2_REQUEST)
        refund(h, REQUEST_REFUND);
    s->is_announced = true;
    s->is_peer_ended = head.is_end;
    if (h->events->on_head != NULL)
        h->events->on_head(h->owner, s, &head);
    /* head.fields are invalid from here on; the stream is not: nothing frees one in an event. */
    if (head.is_end && h->events->on_end != NULL && !s->is_reset)
        h->events->on_end(h->owner, s);
    block_reset(h);
}

/* A stream that the peer ended before it got anything, or made us end (CVE-2025-8671). */
static void charge_reset(struct http2_stream *s)
{
    if (!s->h->is_server || s->is_charged || s->has_answered)
        return;
    s->is_charged = true;
    s->h->resets--;
}

static int check_resets(struct http2 *h)
{
    if (LIKELY(h->resets >= 0 || h->limits->resets_max == 0))
        return 0;
    return fail(h, HTTP2_FLOOD_RESETS, HTTP2_ENHANCE_YOUR_CALM, "too many streams were reset");
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct http2 *h = arg;
    struct http2_stream *s;

    (void)session;
    if (UNLIKELY(h->events->on_frame != NULL))
        trace(h, frame, false);
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS: head_done(h, frame); break;
    case NGHTTP2_DATA:
        s = stream_of(h, frame->hd.stream_id);
        if (UNLIKELY(s == NULL))
            break;
        s->credit -= (int64_t)frame->data.padlen;
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
            refund(h, 1);
            s->is_peer_ended = true;
            if (h->events->on_end != NULL && s->is_announced && !s->is_reset)
                h->events->on_end(h->owner, s);
        }
        break;
    case NGHTTP2_RST_STREAM:
        s = stream_of(h, frame->hd.stream_id);
        if (s == NULL)
            break;
        if (!s->is_reset)
            charge_reset(s);
        s->is_reset = s->is_reset_by_peer = true;
        if (check_resets(h) != 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        break;
    case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0 && h->events->on_settings != NULL)
            h->events->on_settings(h->owner);
        break;
    case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
            if (h->events->on_ping != NULL)
                h->events->on_ping(h->owner);
        } else if (h->events->on_pong != NULL) {
            uint64_t word;
            memcpy(&word, frame->ping.opaque_data, sizeof word);
            h->events->on_pong(h->owner, word);
        }
        break;
    case NGHTTP2_GOAWAY:
        if (h->events->on_goaway != NULL)
            h->events->on_goaway(h->owner, frame->goaway.last_stream_id, frame->goaway.error_code,
                                 slice_make(frame->goaway.opaque_data,
                                            frame->goaway.opaque_data_len));
        break;
    default: break;
    }
    return h->is_dead ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
                         size_t size, void *arg)
{
    struct http2 *h = arg;
    struct http2_stream *s = stream_of(h, id);

    (void)flags;
    int error = nghttp2_session_consume_connection(session, size);
    if (UNLIKELY(error != 0))
        return fail_no_memory(h);
    refund(h, 1 + (int64_t)(size / 1024));
    if (UNLIKELY(s == NULL || s->is_reset))
        return 0;
    s->credit -= (int64_t)size;
    if (LIKELY(size > 0 && h->events->on_data != NULL))
        h->events->on_data(h->owner, s, slice_make(data, size));
    return UNLIKELY(h->is_dead) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* Something is wrong with a stream, or with all. The stream counts now and not when its RST_STREAM
 * is written: many of them may come in one piece. */
static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error,
                            void *arg)
{
    struct http2 *h = arg;
    struct http2_stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    if (s == NULL || error == NGHTTP2_ERR_REFUSED_STREAM)
        return 0;
    charge_reset(s);
    return check_resets(h);
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
    struct http2 *h = arg;
    struct http2_stream *s = nghttp2_session_get_stream_user_data(session, id);

    if (s == NULL)
        return 0;
    if (s->is_end_sent) {
        h->resets = MIN(h->resets + 1, (int64_t)h->limits->resets_max);
    } else if (!s->is_reset && code != HTTP2_REFUSED_STREAM) {
        charge_reset(s);
    }
    if (h->block_of == s)
        h->block_begun_ns = 0;
    nghttp2_session_set_stream_user_data(session, id, NULL);
    stream_close(s, code);
    return check_resets(h);
}

/* -- sending --------------------------------------------------------------------------------- */

static bool put(struct http2 *h, const void *data, size_t size)
{
    h->send_bytes += size;
    if (LIKELY(h->events->copy(h->owner, data, size)))
        return true;
    fail_no_memory(h);
    h->is_said = true; /* there is no room for words */
    return false;
}

/* Our first SETTINGS. nghttp2 ends a connection whose peer opens one stream too many, and with it all
 * that is under way there, though proxies do so in good faith. So the limit is ours to keep
 * (refuse_stream), nghttp2 knows of none, and the peer is told the true one here. */
static bool put_settings(struct http2 *h, const uint8_t *frame, size_t size)
{
    uint8_t copy[FRAME_HEAD_BYTES + 6 * 8];
    uint32_t most = h->limits->streams_max;

    require(size <= sizeof copy);
    memcpy(copy, frame, size);
    for (size_t at = FRAME_HEAD_BYTES; at + 6 <= size; at += 6)
        if (copy[at] == 0 && copy[at + 1] == NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
            for (size_t i = 0; i < 4; i++)
                copy[at + 2 + i] = (uint8_t)(most >> (24 - 8 * i));
    h->has_settings = true;
    return put(h, copy, size);
}

static ssize_t on_read_length(nghttp2_session *session, uint8_t type, int32_t id,
                              int32_t connection_window, int32_t stream_window,
                              uint32_t frame_bytes_max, void *arg)
{
    struct http2 *h = arg;

    (void)session, (void)type, (void)id, (void)connection_window, (void)stream_window;
    return h->is_bulky ? (ssize_t)MIN(frame_bytes_max, (uint32_t)SEND_FRAME_MAX)
                       : FRAME_BYTES_LEAST;
}

/* nghttp2 asks how much of the body the next frame has. */
static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t size,
                       uint32_t *flags, nghttp2_data_source *source, void *arg)
{
    struct http2_stream *s = source->ptr;

    (void)buffer, (void)arg;
    size = MIN(size, s->queued);
    if (size == 0 && !s->is_ended) {
        s->is_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags = NGHTTP2_DATA_FLAG_NO_COPY;
    if (s->is_ended && size == s->queued) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (s->trailers != NULL) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            int error =
                nghttp2_submit_trailer(session, id, s->trailers->fields, s->trailers->count);
            if (UNLIKELY(error != 0))
                return error == NGHTTP2_ERR_NOMEM ? NGHTTP2_ERR_CALLBACK_FAILURE
                                                  : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
    }
    return (ssize_t)size;
}

static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head,
                        size_t size, nghttp2_data_source *source, void *arg)
{
    struct http2 *h = arg;
    struct http2_stream *s = source->ptr;

    (void)session, (void)frame;
    if (!put(h, head, FRAME_HEAD_BYTES))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    s->queued -= size;
    s->sent += size;
    while (size > 0) {
        struct piece *piece = s->first;
        struct slice part = slice_first(piece->bytes, size);
        if (part.size >= REFER_MIN && h->events->refer != NULL) {
            h->send_bytes += part.size;
            if (UNLIKELY(!h->events->refer(h->owner, s, part, piece->holder))) {
                h->is_said = true;
                return fail_no_memory(h);
            }
        } else if (!put(h, part.data, part.size)) {
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
        size -= part.size;
        piece->bytes = slice_skip(piece->bytes, part.size);
        if (piece->bytes.size == 0) {
            s->first = piece->next;
            if (s->first == NULL)
                s->last = NULL;
            buf_unref(&piece->holder);
            heap_give(h->heap, piece);
        }
    }
    return h->send_bytes >= h->send_max ? NGHTTP2_ERR_PAUSE : 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct http2 *h = arg;
    struct http2_stream *s;

    if (UNLIKELY(h->events->on_frame != NULL))
        trace(h, frame, true);
    switch (frame->hd.type) {
    case NGHTTP2_DATA:
    case NGHTTP2_HEADERS:
        h->frames_sent++;
        refund(h, SENT_REFUND + (int64_t)(frame->hd.length / SENT_PRICE));
        s = stream_of(h, frame->hd.stream_id);
        if (UNLIKELY(s == NULL))
            break;
        if (frame->hd.type == NGHTTP2_DATA && frame->hd.length > 0)
            s->has_answered = true;
        if (UNLIKELY(!s->is_open)) {
            s->is_open = true;
            http2_allow(h, s, s->ahead);
        }
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
            s->is_end_sent = s->has_answered = true;
            /* RFC 9113 8.1: what is left of the request is not wanted. */
            if (h->is_server && !s->is_peer_ended && !s->is_reset && !s->lingers) {
                s->is_reset = true;
                if (nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, s->id, HTTP2_NO_ERROR) !=
                    0)
                    return fail_no_memory(h);
            }
        }
        break;
    case NGHTTP2_RST_STREAM:
        h->resets_sent += frame->rst_stream.error_code != HTTP2_NO_ERROR;
        break;
    case NGHTTP2_GOAWAY:
        if (frame->goaway.error_code != HTTP2_NO_ERROR && h->failure == HTTP2_FINE)
            h->failure = HTTP2_BROKEN;
        break;
    default: break;
    }
    return 0;
}

/* A frame that we submitted makes no sense any more, or cannot be made. */
static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int error,
                             void *arg)
{
    struct http2 *h = arg;

    /* A header block too large for the peer or for us: the stream cannot go on. */
    if (frame->hd.type == NGHTTP2_HEADERS && error != NGHTTP2_ERR_STREAM_CLOSED &&
        error != NGHTTP2_ERR_STREAM_CLOSING && error != NGHTTP2_ERR_START_STREAM_NOT_ALLOWED &&
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                  HTTP2_INTERNAL_ERROR) != 0)
        return fail_no_memory(h);
    return 0;
}

/* -- life ------------------------------------------------------------------------------------ */

static pthread_once_t common_once = PTHREAD_ONCE_INIT;
static nghttp2_session_callbacks *common_callbacks; /* made once, read by all */
static nghttp2_option *common_options;

static void make_common(void)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *options;

    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return;
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, on_send_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, on_read_length);
    common_callbacks = callbacks;
    if (nghttp2_option_new(&options) != 0)
        return;
    nghttp2_option_set_no_auto_window_update(options, 1);
    nghttp2_option_set_no_closed_streams(options, 1);
    nghttp2_option_set_max_send_header_block_length(options, SEND_BLOCK_MAX);
    nghttp2_option_set_max_outbound_ack(options, 1000);
    nghttp2_option_set_max_settings(options, 32);
    nghttp2_option_set_max_continuations(options, CONTINUATIONS_MAX);
    nghttp2_option_set_stream_reset_rate_limit(options, UINT64_C(1) << 32, UINT64_C(1) << 32);
    nghttp2_option_set_peer_max_concurrent_streams(options, 100);
    common_options = options;
}

static int submit_settings(struct http2 *h)
{
    const struct http2_limits *limits = h->limits;
    nghttp2_settings_entry entries[6];
    size_t count = 0;

    if (h->is_server) {
        /* RFC 8441 3: :protocol may come with CONNECT; nghttp2 refuses it everywhere else. */
        entries[count++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1 };
        entries[count++] =
            (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_UNBOUNDED };
        entries[count++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 };
    } else {
        entries[count++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 };
    }
    entries[count++] =
        (nghttp2_settings_entry){ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits->stream_window };
    entries[count++] =
        (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_FRAME_SIZE, limits->frame_bytes_max };
    entries[count++] =
        (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits->header_bytes_max };
    int error = nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, entries, count);
    return error != 0 ? error
                      : nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0,
                                                              (int32_t)limits->connection_window);
}

enum err_code http2_new(struct http2 **ret, enum http2_role role, const struct http2_limits *limits,
                        const struct http2_events *events, void *owner, struct http2_heap *heap,
                        struct err *err)
{
    struct http2_heap *own_heap = NULL;

    require(limits->connection_window >= 65535 && limits->connection_window <= INT32_MAX);
    require(limits->stream_window <= INT32_MAX && events->copy != NULL);
    require(limits->frame_bytes_max >= FRAME_BYTES_LEAST &&
            limits->frame_bytes_max <= FRAME_BYTES_MOST);
    pthread_once(&common_once, make_common);
    if (heap == NULL)
        heap = own_heap = http2_heap_new();
    struct http2 *h = common_options == NULL || heap == NULL ? NULL : heap_take(heap, sizeof *h);
    if (h == NULL) {
        http2_heap_free(&own_heap);
        return err_set(err, E_EXHAUSTED, "no memory for an HTTP/2 connection");
    }
    memset(h, 0, sizeof *h);
    nghttp2_mem mem = { heap, on_malloc, on_free, on_calloc, on_realloc };
    h->heap = heap;
    h->own_heap = own_heap;
    h->limits = limits;
    h->events = events;
    h->owner = owner;
    h->is_server = role == HTTP2_SERVER;
    h->control = limits->control_frames_max;
    h->resets = limits->resets_max;
    list_init(&h->streams);
    list_init(&h->touched);
    int error =
        h->is_server
            ? nghttp2_session_server_new3(&h->session, common_callbacks, h, common_options, &mem)
            : nghttp2_session_client_new3(&h->session, common_callbacks, h, common_options, &mem);
    if (error == 0)
        error = submit_settings(h);
    if (error != 0 || heap->is_short) {
        heap->is_short = false;
        http2_free(&h);
        return err_set(err, E_EXHAUSTED, "no memory for an HTTP/2 connection");
    }
    *ret = h;
    return OK;
}

void http2_free(struct http2 **slot)
{
    struct http2 *h = TAKE(*slot);
    struct list_node *node;

    if (h == NULL)
        return;
    h->is_dead = true;
    while ((node = list_first(&h->streams)) != NULL)
        stream_close(CONTAINER_OF(node, struct http2_stream, node), HTTP2_CANCEL);
    block_reset(h);
    nghttp2_session_del(h->session);
    struct http2_heap *own_heap = h->own_heap;
    heap_give(h->heap, h);
    http2_heap_free(&own_heap);
}

COLD static enum err_code say_failure(const struct http2 *h, struct err *err)
{
    switch (h->failure) {
    case HTTP2_BROKEN: return err_set(err, E_INVALID, "HTTP/2: %s", h->dead_text);
    case HTTP2_NO_MEMORY: return err_set(err, E_EXHAUSTED, "HTTP/2: no memory");
    default: return err_set(err, E_EXHAUSTED, "HTTP/2: %s", h->dead_text);
    }
}

enum err_code http2_receive(struct http2 *h, struct slice bytes, uint64_t now_ns, struct err *err)
{
    require(!h->is_receiving && !h->is_sending);
    if (h->is_dead)
        return say_failure(h, err);
    if (h->filled_ns == 0)
        h->filled_ns = now_ns;
    h->now_ns = h->heard_ns = now_ns;
    refill(h, now_ns);
    h->is_receiving = true;
    ssize_t used = nghttp2_session_mem_recv(h->session, bytes.data, bytes.size);
    h->is_receiving = false;
    check_heap(h);
    if (UNLIKELY(used < 0 && !h->is_dead)) {
        switch ((int)used) {
        case NGHTTP2_ERR_FLOODED:
            fail(h, HTTP2_FLOOD_CONTROL, HTTP2_ENHANCE_YOUR_CALM, "too many PING or SETTINGS");
            break;
        case NGHTTP2_ERR_TOO_MANY_CONTINUATIONS:
            fail(h, HTTP2_FLOOD_HEADERS, HTTP2_ENHANCE_YOUR_CALM,
                 "a header block in too many pieces");
            break;
        case NGHTTP2_ERR_BAD_CLIENT_MAGIC:
            fail(h, HTTP2_BROKEN, HTTP2_PROTOCOL_ERROR, "the connection preface is wrong");
            break;
        case NGHTTP2_ERR_NOMEM: fail_no_memory(h); break;
        default: fail(h, HTTP2_BROKEN, HTTP2_PROTOCOL_ERROR, nghttp2_strerror((int)used)); break;
        }
    }
    h->ignored += (int64_t)bytes.size;
    if (UNLIKELY(h->ignored >= IGNORED_PRICE)) {
        h->control -= h->ignored / IGNORED_PRICE;
        h->ignored %= IGNORED_PRICE;
        if (h->control < 0 && h->limits->control_frames_max != 0)
            fail(h, HTTP2_FLOOD_CONTROL, HTTP2_ENHANCE_YOUR_CALM, "too many frames to ignore");
    }
    if (UNLIKELY(!h->is_dead && nghttp2_session_get_outbound_queue_size(h->session) > QUEUE_MAX))
        fail(h, HTTP2_FLOOD_CONTROL, HTTP2_ENHANCE_YOUR_CALM, "too many frames to answer");
    return h->is_dead ? say_failure(h, err) : OK;
}

/* Tells nghttp2 what has become of a stream since it was asked last. */
static int stream_submit(struct http2_stream *s)
{
    nghttp2_session *session = s->h->session;
    nghttp2_data_provider provider = { .source.ptr = s, .read_callback = on_read };

    if (s->is_reset)
        return 0;
    if (UNLIKELY(s->has_failed)) {
        s->is_reset = true;
        return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, s->id, HTTP2_INTERNAL_ERROR);
    }
    if (s->head != NULL && !s->has_head) {
        s->has_head = true;
        if (s->queued > 0 || !s->is_ended) {
            return nghttp2_submit_response(session, s->id, s->head->fields, s->head->count,
                                           &provider);
        }
        if (s->trailers == NULL)
            return nghttp2_submit_response(session, s->id, s->head->fields, s->head->count, NULL);
        int error = nghttp2_submit_headers(session, NGHTTP2_FLAG_NONE, s->id, NULL, s->head->fields,
                                           s->head->count, NULL);
        return error != 0 ? error
                          : nghttp2_submit_trailer(session, s->id, s->trailers->fields,
                                                   s->trailers->count);
    }
    if (!s->is_deferred || (s->queued == 0 && !s->is_ended))
        return 0;
    if (s->queued == 0 && s->trailers != NULL) /* an empty DATA before them would say nothing */
        return nghttp2_submit_trailer(session, s->id, s->trailers->fields, s->trailers->count);
    s->is_deferred = false;
    return nghttp2_session_resume_data(session, s->id);
}

static void submit_touched(struct http2 *h)
{
    struct list_node *node;

    while ((node = list_pop(&h->touched)) != NULL) {
        int error = stream_submit(CONTAINER_OF(node, struct http2_stream, touched));
        if (UNLIKELY(error == NGHTTP2_ERR_NOMEM))
            fail_no_memory(h);
    }
}

/* The GOAWAY of a connection that has failed, RFC 9113 6.8. */
COLD static void send_last_words(struct http2 *h)
{
    uint8_t frame[FRAME_HEAD_BYTES + 8 + GOAWAY_TEXT_MAX];
    size_t text = MIN(strlen(h->dead_text), (size_t)GOAWAY_TEXT_MAX), size = 8 + text;
    uint32_t last = (uint32_t)nghttp2_session_get_last_proc_stream_id(h->session);
    uint32_t words[2] = { last, h->dead_code };

    memset(frame, 0, sizeof frame);
    frame[2] = (uint8_t)size;
    frame[3] = NGHTTP2_GOAWAY;
    for (size_t i = 0; i < 8; i++)
        frame[FRAME_HEAD_BYTES + i] = (uint8_t)(words[i / 4] >> (24 - 8 * (i % 4)));
    memcpy(frame + FRAME_HEAD_BYTES + 8, h->dead_text, text);
    h->is_said = true;
    if (h->events->on_frame != NULL) {
        struct http2_frame out = { .is_sent = true,
                                   .type = NGHTTP2_GOAWAY,
                                   .name = "GOAWAY",
                                   .length = (uint32_t)size,
                                   .value = h->dead_code };
        h->events->on_frame(h->owner, &out);
    }
    put(h, frame, FRAME_HEAD_BYTES + size);
}

bool http2_send(struct http2 *h, size_t bytes_max)
{
    const uint8_t *data;
    bool has_more = false;

    require(!h->is_receiving && !h->is_sending);
    h->is_sending = true;
    h->send_bytes = 0;
    h->send_max = bytes_max;
    while (LIKELY(!h->is_dead)) {
        submit_touched(h);
        if (UNLIKELY(h->is_dead) || !nghttp2_session_want_write(h->session))
            break;
        if (h->send_bytes >= bytes_max) {
            has_more = true;
            break;
        }
        size_t before = h->send_bytes;
        ssize_t size = nghttp2_session_mem_send(h->session, &data);
        check_heap(h);
        if (UNLIKELY(size < 0)) {
            if (size == NGHTTP2_ERR_NOMEM)
                fail_no_memory(h);
            else
                fail(h, HTTP2_BROKEN, HTTP2_INTERNAL_ERROR, nghttp2_strerror((int)size));
        } else if (UNLIKELY(size > 0 && !h->has_settings && h->is_server &&
                            data[3] == NGHTTP2_SETTINGS && data[4] == 0)) {
            put_settings(h, data, (size_t)size);
        } else if (size > 0) {
            put(h, data, (size_t)size);
        } else if (h->send_bytes == before && list_is_empty(&h->touched)) {
            break; /* windows are shut, or what was queued came to nothing */
        }
    }
    if (UNLIKELY(h->is_dead && !h->is_said))
        send_last_words(h);
    h->is_sending = false;
    return has_more;
}

bool http2_wants_send(const struct http2 *h)
{
    if (UNLIKELY(h->is_dead))
        return !h->is_said;
    return !list_is_empty(&h->touched) || nghttp2_session_want_write(h->session) != 0;
}

bool http2_is_over(const struct http2 *h)
{
    if (UNLIKELY(h->is_dead))
        return h->is_said;
    return list_is_empty(&h->touched) && nghttp2_session_want_read(h->session) == 0 &&
           nghttp2_session_want_write(h->session) == 0;
}

enum http2_failure http2_failure(const struct http2 *h)
{
    return h->failure;
}

uint64_t http2_block_begun_ns(const struct http2 *h)
{
    return h->block_begun_ns;
}

uint64_t http2_heard_ns(const struct http2 *h)
{
    return h->heard_ns;
}

uint64_t http2_frames_sent(const struct http2 *h)
{
    return h->frames_sent;
}

uint64_t http2_resets_sent(const struct http2 *h)
{
    return h->resets_sent;
}

uint64_t http2_streams_refused(const struct http2 *h)
{
    return h->streams_refused;
}

/* -- streams --------------------------------------------------------------------------------- */

int32_t http2_stream_id(const struct http2_stream *s)
{
    return s->id;
}

void *http2_stream_user(const struct http2_stream *s)
{
    return s->user;
}

void http2_stream_set_user(struct http2_stream *s, void *user)
{
    s->user = user;
}

size_t http2_stream_queued(const struct http2_stream *s)
{
    return s->queued;
}

uint64_t http2_stream_sent(const struct http2_stream *s)
{
    return s->sent;
}

bool http2_stream_has_ended(const struct http2_stream *s)
{
    return s->is_end_sent;
}

bool http2_stream_peer_ended(const struct http2_stream *s)
{
    return s->is_peer_ended;
}

bool http2_stream_was_reset_by_peer(const struct http2_stream *s)
{
    return s->is_reset_by_peer;
}

uint32_t http2_streams_open(const struct http2 *h)
{
    return h->streams_count;
}

struct http2_stream *http2_stream_next(struct http2 *h, struct http2_stream *at)
{
    struct list_node *node =
        at == NULL ? list_first(&h->streams) : list_next(&h->streams, &at->node);

    return node == NULL ? NULL : CONTAINER_OF(node, struct http2_stream, node);
}

uint32_t http2_peer_streams_max(const struct http2 *h)
{
    return nghttp2_session_get_remote_settings(h->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

/* Fields whose values differ each time would push the useful ones out of HPACK's table. Those that
 * are secret must not be in one (RFC 7541 7.1.3). */
static bool is_fresh(struct slice name)
{
    static const struct slice names[] = {
        SLICE_LIT("authorization"), SLICE_LIT("content-length"), SLICE_LIT("cookie"),
        SLICE_LIT("etag"),          SLICE_LIT("grpc-message"),   SLICE_LIT("grpc-timeout"),
        SLICE_LIT("retry-after"),   SLICE_LIT("set-cookie"),     SLICE_LIT("server-timing"),
        SLICE_LIT("traceparent"),   SLICE_LIT("tracestate"),     SLICE_LIT("x-request-id"),
    };

    for (size_t i = 0; i < COUNT(names); i++)
        if (UNLIKELY(slice_eq(name, names[i])))
            return true;
    return name.size > 4 && memcmp(name.data + name.size - 4, "-bin", 4) == 0;
}

static uint8_t *field_put(struct block *block, uint8_t *text, struct slice name, struct slice value)
{
    enum { KEEP = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE };
    nghttp2_nv *nv = &block->fields[block->count++];

    memcpy(text, name.data, name.size);
    nv->name = text;
    nv->namelen = name.size;
    text += name.size;
    if (value.size > 0)
        memcpy(text, value.data, value.size);
    nv->value = text;
    nv->valuelen = value.size;
    nv->flags = is_fresh(name) ? KEEP | NGHTTP2_NV_FLAG_NO_INDEX : KEEP;
    return text + value.size;
}

static size_t fields_bytes(const struct http2_field *fields, uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += fields[i].name.size + fields[i].value.size;
    return size;
}

/* ":status" when status is not 0, then the fields of both lists. NULL: no memory. */
static struct block *block_new(struct http2 *h, uint16_t status, const struct http2_field *fields,
                               uint32_t count, const struct http2_field *more, uint32_t more_count)
{
    size_t room = (size_t)count + more_count + 1;
    struct block *block =
        heap_take(h->heap, sizeof *block + room * sizeof block->fields[0] + 16 +
                               fields_bytes(fields, count) + fields_bytes(more, more_count));

    if (UNLIKELY(block == NULL))
        return NULL;
    uint8_t *text = (uint8_t *)&block->fields[room];
    block->count = 0;
    if (status != 0) {
        char digits[3] = { (char)('0' + status / 100), (char)('0' + status / 10 % 10),
                           (char)('0' + status % 10) };
        text = field_put(block, text, slice_of(":status"), slice_make(digits, 3));
    }
    for (uint32_t i = 0; i < count; i++)
        text = field_put(block, text, fields[i].name, fields[i].value);
    for (uint32_t i = 0; i < more_count; i++)
        text = field_put(block, text, more[i].name, more[i].value);
    return block;
}

static void touch(struct http2_stream *s)
{
    if (!list_has(&s->touched))
        list_push(&s->h->touched, &s->touched);
}

COLD static bool stream_fail(struct http2_stream *s)
{
    s->has_failed = true;
    touch(s);
    return false;
}

enum err_code http2_request(struct http2 *h, const struct http2_field *fields, uint32_t count,
                            bool is_end, void *user, struct http2_stream **ret, struct err *err)
{
    require(!h->is_server);
    if (h->is_dead || nghttp2_session_check_request_allowed(h->session) == 0)
        return err_set(err, E_UNAVAILABLE, "the connection takes no more requests");
    struct http2_stream *s = stream_new(h, 0);
    if (s == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    nghttp2_data_provider provider = { .source.ptr = s, .read_callback = on_read };
    s->user = user;
    s->head = block_new(h, 0, fields, count, NULL, 0);
    s->has_head = s->is_announced = true;
    s->is_ended = is_end;
    int id = s->head == NULL ? NGHTTP2_ERR_NOMEM
                             : nghttp2_submit_request(h->session, NULL, s->head->fields,
                                                      s->head->count, is_end ? NULL : &provider, s);
    if (id < 0) {
        stream_free(s);
        return id == NGHTTP2_ERR_NOMEM
                   ? err_set(err, E_EXHAUSTED, "no memory for a request")
                   : err_set(err, E_UNAVAILABLE, "the connection takes no more requests: %s",
                             nghttp2_strerror(id));
    }
    s->id = id;
    *ret = s;
    return OK;
}

bool http2_respond(struct http2 *h, struct http2_stream *s, uint16_t status,
                   const struct http2_field *fields, uint32_t count, const struct http2_field *more,
                   uint32_t more_count)
{
    require(h->is_server && s->h == h && status >= 100 && status <= 599);
    if (h->is_dead || s->is_reset || s->has_failed)
        return false;
    struct block *block = block_new(h, status, fields, count, more, more_count);
    if (UNLIKELY(block == NULL))
        return stream_fail(s);
    if (status >= 200) {
        require(s->head == NULL);
        s->head = block;
        touch(s);
        return true;
    }
    /* Interim: now, as the head waits for http2_send. nghttp2 must copy here. */
    for (size_t i = 0; i < block->count; i++)
        block->fields[i].flags = NGHTTP2_NV_FLAG_NONE;
    int error = nghttp2_submit_headers(h->session, NGHTTP2_FLAG_NONE, s->id, NULL, block->fields,
                                       block->count, NULL);
    heap_give(h->heap, block);
    return error == 0 || stream_fail(s);
}

bool http2_data(struct http2 *h, struct http2_stream *s, struct slice bytes, struct buf *holder)
{
    require(s->h == h && !s->is_ended);
    if (h->is_dead || s->is_reset || s->has_failed)
        return false;
    require(s->head != NULL);
    if (bytes.size == 0)
        return true;
    struct piece *piece = s->last;
    if (piece != NULL && piece->holder == holder &&
        piece->bytes.data + piece->bytes.size == bytes.data) {
        piece->bytes.size += bytes.size; /* messages of a stream lie one behind the other */
    } else {
        if (UNLIKELY((piece = heap_take(h->heap, sizeof *piece)) == NULL))
            return stream_fail(s);
        piece->next = NULL;
        piece->bytes = bytes;
        piece->holder = buf_ref(holder);
        if (s->last != NULL)
            s->last->next = piece;
        else
            s->first = piece;
        s->last = piece;
    }
    s->queued += bytes.size;
    h->is_bulky |= bytes.size >= BULKY_MIN;
    touch(s);
    return true;
}

bool http2_end(struct http2 *h, struct http2_stream *s, const struct http2_field *trailers,
               uint32_t count)
{
    require(s->h == h && !s->is_ended);
    if (h->is_dead || s->is_reset || s->has_failed)
        return false;
    require(s->head != NULL);
    if (count > 0) {
        s->trailers = block_new(h, 0, trailers, count, NULL, 0);
        if (UNLIKELY(s->trailers == NULL))
            return stream_fail(s);
    }
    s->is_ended = true;
    touch(s);
    return true;
}

void http2_linger(struct http2_stream *s)
{
    require(s->h->is_server && !s->is_end_sent);
    s->lingers = true;
}

void http2_reset(struct http2 *h, struct http2_stream *s, uint32_t code)
{
    require(s->h == h);
    if (h->is_dead || s->is_reset)
        return;
    s->is_reset = true;
    list_remove(&s->touched);
    if (nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, s->id, code) != 0)
        fail_no_memory(h);
    if (!h->is_sending) /* else a frame of it may be half written */
        pieces_drop(s);
}

void http2_allow(struct http2 *h, struct http2_stream *s, size_t ahead)
{
    int64_t wanted = (int64_t)MIN(ahead, (size_t)ALLOW_MAX);

    require(s->h == h);
    if (UNLIKELY(!s->is_open)) {
        s->ahead = MAX(s->ahead, ahead);
        return;
    }
    if (LIKELY(s->credit >= wanted || (s->credit > 0 && s->credit >= wanted / 2)) ||
        s->is_peer_ended || s->is_reset || h->is_dead)
        return;
    if (UNLIKELY(nghttp2_submit_window_update(h->session, NGHTTP2_FLAG_NONE, s->id,
                                              (int32_t)(wanted - s->credit)) != 0))
        fail_no_memory(h);
    s->credit = wanted;
}

size_t http2_allowed(const struct http2_stream *s)
{
    return s->credit > 0 ? (size_t)s->credit : 0;
}

/* -- the connection -------------------------------------------------------------------------- */

void http2_ping(struct http2 *h, uint64_t word)
{
    uint8_t bytes[8];

    memcpy(bytes, &word, sizeof bytes);
    if (!h->is_dead && nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, bytes) != 0)
        fail_no_memory(h);
}

size_t http2_refusal_write(uint8_t out[HTTP2_REFUSAL_BYTES_MAX], uint32_t code, const char *text)
{
    /* RFC 9113 6.5, 6.8: an empty SETTINGS; a GOAWAY whose last stream is 0. */
    static const uint8_t frames[] = { 0, 0, 0, 4, 0, 0, 0, 0, 0, /* SETTINGS */
                                      0, 0, 0, 7, 0, 0, 0, 0, 0, /* GOAWAY, its size is to come */
                                      0, 0, 0, 0 };
    size_t size = MIN(strlen(text), HTTP2_REFUSAL_BYTES_MAX - sizeof frames - 4);

    memcpy(out, frames, sizeof frames);
    out[11] = (uint8_t)(8 + size);
    for (int i = 0; i < 4; i++)
        out[sizeof frames + (size_t)i] = (uint8_t)(code >> (24 - 8 * i));
    memcpy(out + sizeof frames + 4, text, size);
    return sizeof frames + 4 + size;
}

void http2_goaway_soon(struct http2 *h)
{
    require(h->is_server);
    if (!h->is_dead && nghttp2_submit_shutdown_notice(h->session) != 0)
        fail_no_memory(h);
}

void http2_goaway(struct http2 *h, uint32_t code, const char *text)
{
    if (h->is_dead)
        return;
    if (code != HTTP2_NO_ERROR) {
        fail(h, h->failure == HTTP2_FINE ? HTTP2_BROKEN : h->failure, code, text);
        return;
    }
    if (nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(h->session), code,
                              (const uint8_t *)text, strlen(text)) != 0)
        fail_no_memory(h);
}
