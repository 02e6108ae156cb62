/* http2_conn.c - one HTTP/2 connection: bytes of a socket on one side, exchanges on the other.
 * SPDX-License-Identifier: Apache-2.0
 *
 * How it runs. Everything happens in conn_run, which is entered from the socket, from a timer, or
 * at the end of the turn when somebody called an exchange from elsewhere. It receives into memory
 * that all connections of the loop share, and wire/http2.h calls back with heads and data. Handlers
 * run right there; what they call leaves marks in http2 and in lists here. Then offers are filled
 * and handed over, and all frames of the turn leave in one send: requests that came together are
 * answered together.
 *
 * Body in. Data goes from the shared memory into what its reader offered: the one copy. What comes
 * before an offer is kept, at most the stream's window, and charged to the budget. An offer is
 * credit: its size is granted, if the window has less. A part of an offer is handed over when all
 * that has arrived is read; of a body whose length is known the last bytes wait for the peer's
 * END_STREAM, so that the end comes with them and not as a body of one byte more.
 *
 * Heads. A stream costs memory as soon as its head is there, and a peer that knows HPACK pays a few
 * bytes for 32 KiB of it. What all heads of a connection hold is therefore counted here, and charged
 * to the budget in steps once it is more than FREE_BYTES, which any connection may have.
 *
 * Body out. Large pieces are referred to until they are in the kernel, and frames are made only
 * while the socket takes them: a body of any size has at most PULL_BYTES of frames waiting, and
 * streams share in turns.
 *
 * Tunnels (RFC 8441) are bodies both ways; the one who asks is not told of a 101 but of a 200.
 *
 * An answer before the request's end (413, an error of gRPC) leaves at once, and what still comes is
 * dropped for a moment before RST_STREAM(NO_ERROR) asks for no more: curl 7 and HAProxy 2.6 lose the
 * answer when the two come together, though RFC 9113 8.1 says that they may.
 *
 * Leaving. RST_STREAM, the end of the connection, a deadline: on_close is the one place where an
 * exchange hears of it. A connection whose peer has closed its side is over: nobody answers a
 * half-closed HTTP/2 connection.
 *
 * Ending well (drain, --connection-age, idle). A first GOAWAY asks for no new streams and a PING
 * follows it; when that comes back, every stream that the peer had begun is known, and the second
 * GOAWAY names the last. Streams under way go on. In a drain the first one leaves with the end of an
 * answer behind which nothing is under way, or when none came for a while: some clients (httpcore) give up
 * what is under way when they read any GOAWAY, and whoever is just sending has not read it.
 *
 * Time. One timer, as in http1_conn.c. Streams are looked at one by one only when it fires, once a
 * second at most: a body that stands still, or an answer that its peer gives no window for.
 */
#include "serve/internal.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "base/budget.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "serve/output.h"

enum {
    RECEIVE_BYTES = 256 * 1024, /* at once */
    PULL_BYTES = 256 * 1024,    /* of frames made at once */
    ROOM_BYTES = 64 * 1024,     /* of an answer that may wait before exchange_room is 0 */
    TURN_BYTES_MAX = 1024 * 1024,
    HELD_REQUESTS_MAX = 4, /* of a connection whose answers may wait for those of others */
    TURN_REQUESTS_MAX =
        64, /* begun for one connection before others get their turn; a piece more */
    PIECE_BYTES = 16 * 1024, /* received at once while requests come: so many of them a piece has */
    TURN_ROUNDS_MAX = 8,
    STREAM_WINDOW = 256 * 1024,
    CONNECTION_WINDOW = 16 * 1024 * 1024,
    FRAME_BYTES_MAX = 256 * 1024,
    TARGET_BYTES_MAX = 8192,
    KEPT_FIRST = 4096,
    STREAM_BYTES = 6 * 1024,  /* of an exchange and its stream, beside its head */
    FREE_BYTES = 64 * 1024,   /* of heads that are not charged */
    COVER_BYTES = 256 * 1024, /* charged at once */
    CHECK_MS = 1000,          /* how often streams are looked at, at most */
    NOTICE_MS = 1000,         /* from the first GOAWAY to the second, if the peer answers no PING */
    LINGER_MS = 2000,
    LINGER_BYTES_MAX = 16 * 1024 * 1024,
    CONNS_KEEP_MAX = 64,
};

enum { WORD_KEEPALIVE = 1, WORD_GOAWAY = 2 }; /* in our PINGs */

#define NEVER_BEFORE_EVENT (UINT64_MAX - 1) /* of check_ns */

enum goaway { GOAWAY_NONE, GOAWAY_SOON, GOAWAY_SAID };

struct http2_conn {
    struct conn base; /* first */
    struct loop_fd watch;
    struct loop_task task;
    struct timer timer;
    uint64_t deadline_ns;
    struct http2 *h;     /* owned; NULL: lingering */
    struct outputs out;  /* frames that wait to be sent; out.is_lost: the connection is over */
    struct list due;     /* exchanges with something to be handed over */
    struct list waiting; /* exchanges whose producer waits for room */
    uint32_t exchanges, requests;
    size_t held, covered; /* by heads; of it FREE_BYTES for nothing, the rest charged */
    uint32_t turn_bytes, turn_requests;
    uint64_t skipped; /* while lingering */

    uint64_t opened_ns, idle_ns; /* idle_ns: since when there is no stream */
    uint64_t check_ns;           /* when streams are looked at next; UINT64_MAX: no need */
    uint64_t pinged_ns;          /* our PING is on its way; 0: none is */
    uint64_t age_ns;             /* when the connection is old; UINT64_MAX: never */
    uint64_t grace_ns;           /* when an old one is cut */
    uint64_t goaway_ns;          /* when the second GOAWAY leaves at the latest */
    uint64_t drain_ns; /* when the first one does, in a drain; UINT64_MAX: it has, or none is */
    bool is_quiet;     /* in a drain: an answer has ended, and nothing else is under way */
    enum goaway goaway;

    uint64_t peer_ping_ns, peer_ping_frames; /* of the peer's last PING: when, and frames we sent */
    uint32_t ping_strikes;
    uint64_t resets_counted, refused_counted; /* of http2's, in the metrics */

    bool is_running;
    bool can_read;     /* the socket probably has bytes, or its end */
    bool fin_seen;     /* the peer has closed its side */
    bool at_end;       /* and all before that is read */
    bool has_settings; /* the peer's first SETTINGS came */
    bool is_counted;   /* why it ended is in the metrics */
    bool is_bulk;      /* no request began in what was received last */
};

static const struct exchange_ops ops;

static void conn_run(struct http2_conn *c, bool is_ready);

static struct serve_exchange *of(struct exchange *x)
{
    return CONTAINER_OF(x, struct serve_exchange, x);
}

static struct http2_conn *conn_of(const struct serve_exchange *e)
{
    return CONTAINER_OF(e->conn, struct http2_conn, base);
}

static const struct serve_settings *settings_of(const struct http2_conn *c)
{
    return &c->base.l->serve->settings;
}

static uint64_t now_of(const struct http2_conn *c)
{
    return loop_now_ns(c->base.l->loop);
}

/* The connection looks at the marks at the end of the turn, unless it is looking anyway. */
static void run_later(struct http2_conn *c)
{
    if (!c->is_running)
        loop_defer(c->base.l->loop, &c->task);
}

static void make_due(struct http2_conn *c, struct serve_exchange *e)
{
    if (!list_has(&e->due))
        list_push(&c->due, &e->due);
}

/* -- what a handler calls -------------------------------------------------------------------- */

static void op_read(struct exchange *x)
{
    struct serve_exchange *e = of(x);
    struct http2_conn *c = conn_of(e);

    make_due(c, e);
    run_later(c);
}

static void op_respond(struct exchange *x, uint16_t status, const struct header *headers,
                       uint32_t headers_count, int64_t body_size)
{
    struct serve_exchange *e = of(x);
    struct http2_conn *c = conn_of(e);
    struct http2_field more[HEADERS_MORE_MAX + 2];
    uint32_t count = e->more_count;
    bool is_bare = status == 204 || status == 304;
    char length[24];

    e->promised = body_size;
    e->drops_body = x->is_head || is_bare;
    if (UNLIKELY(x->tunnel.size > 0)) {
        if (status == 101) {
            serve_exchange_tunnel(e);
            status = 200; /* RFC 8441 5: any 2xx grants it */
        } else if (status < 300) {
            /* So who answers what it answers everybody has granted nothing. */
            http2_respond(c->h, e->stream, 501, NULL, 0, NULL, 0);
            e->drops_body = true;
            run_later(c);
            return;
        }
    }
    memcpy(more, e->more, count * sizeof more[0]);
    if (e->dialect != DIALECT_GRPC) {
        if (!is_bare && body_size >= 0) {
            int size = snprintf(length, sizeof length, "%lld", (long long)body_size);
            more[count++] = (struct http2_field){ SLICE_LIT("content-length"),
                                                  slice_make(length, (size_t)size) };
        }
        /* Of "date: Sun, ...\r\n" the value. */
        struct slice date = slice_make(serve_loop_date(c->base.l) + 6, HTTP1_DATE_BYTES - 8);
        more[count++] = (struct http2_field){ SLICE_LIT("date"), date };
    }
    http2_respond(c->h, e->stream, status, (const struct http2_field *)(const void *)headers,
                  headers_count, more, count);
    run_later(c);
}

/* Bytes of bodies that wait on this connection, whoever's they are. */
static uint64_t queued_of(struct http2_conn *c)
{
    struct http2_stream *s = NULL;
    uint64_t sum = c->out.bytes;

    while ((s = http2_stream_next(c->h, s)) != NULL)
        sum += http2_stream_queued(s);
    return sum;
}

static void op_send(struct exchange *x, struct slice bytes, struct buf *holder)
{
    struct serve_exchange *e = of(x);
    struct http2_conn *c = conn_of(e);

    require(e->promised < 0 || x->body_sent <= (uint64_t)e->promised);
    if (e->drops_body)
        return;
    /* One answer of any size may wait, since it exists anyway; who piles up more is not read. */
    if (UNLIKELY(http2_stream_queued(e->stream) > ROOM_BYTES &&
                 queued_of(c) > settings_of(c)->output_bytes_max)) {
        stat_add(&c->base.l->stats.limit_output, 1);
        http2_reset(c->h, e->stream, HTTP2_ENHANCE_YOUR_CALM);
    } else {
        http2_data(c->h, e->stream, bytes, holder);
    }
    run_later(c);
}

/* The answer is there and the request is not over: what comes of it is dropped for a moment. */
COLD static void linger(struct http2_conn *c, struct serve_exchange *e)
{
    http2_linger(e->stream);
    http2_allow(c->h, e->stream, STREAM_WINDOW);
    e->lingers_ns = now_of(c) + LINGER_MS * NS_PER_MS;
    e->lingered = 0;
}

/* Dropped bytes of a stream that lingers: so many and no more. */
COLD static void linger_got(struct http2_conn *c, struct serve_exchange *e, size_t size)
{
    e->lingered += size;
    if (e->lingered <= LINGER_BYTES_MAX)
        http2_allow(c->h, e->stream, STREAM_WINDOW);
    else if (http2_stream_has_ended(e->stream))
        http2_reset(c->h, e->stream, HTTP2_NO_ERROR);
}

static void op_end(struct exchange *x, const struct header *trailers, uint32_t trailers_count)
{
    struct serve_exchange *e = of(x);
    struct http2_conn *c = conn_of(e);

    serve_count_answer(c->base.l, x->status);
    if (UNLIKELY(e->promised >= 0 && !e->drops_body && x->body_sent != (uint64_t)e->promised)) {
        log_error("an answer of %llu bytes for %.*s was promised and %llu were given: cut off",
                  (unsigned long long)e->promised, SLICE_ARG(x->path),
                  (unsigned long long)x->body_sent);
        http2_reset(c->h, e->stream, HTTP2_INTERNAL_ERROR);
    } else {
        if (UNLIKELY(!http2_stream_peer_ended(e->stream) && c->goaway == GOAWAY_NONE &&
                     !e->was_slow))
            linger(c, e);
        http2_end(c->h, e->stream, (const struct http2_field *)(const void *)trailers,
                  trailers_count);
    }
    run_later(c);
}

static void op_abort(struct exchange *x)
{
    struct serve_exchange *e = of(x);
    struct http2_conn *c = conn_of(e);

    e->is_aborted = true;
    http2_reset(c->h, e->stream, e->dialect == DIALECT_GRPC ? HTTP2_CANCEL : HTTP2_INTERNAL_ERROR);
    run_later(c);
}

static size_t op_room(struct exchange *x)
{
    struct serve_exchange *e = of(x);
    size_t queued = http2_stream_queued(e->stream);

    conn_bound(&conn_of(e)->base, conn_of(e)->watch.fd);
    e->wants_room = queued >= ROOM_BYTES;
    if (!e->wants_room)
        return ROOM_BYTES - queued;
    if (!list_has(&e->waiting))
        list_push(&conn_of(e)->waiting, &e->waiting);
    return 0;
}

static const struct exchange_ops ops = {
    .read = op_read,
    .respond = op_respond,
    .send = op_send,
    .end = op_end,
    .abort = op_abort,
    .room = op_room,
    .release = serve_exchange_release,
};

/* -- memory of heads ---------------------------------------------------------------------------- */

/* Charges what is held beyond what is covered; false: not enough is left. */
COLD static bool cover(struct http2_conn *c)
{
    size_t more = (c->held - c->covered + COVER_BYTES - 1) / COVER_BYTES * COVER_BYTES;

    if (!budget_take(settings_of(c)->budget, more))
        return false;
    c->covered += more;
    return true;
}

static bool hold(struct http2_conn *c, struct serve_exchange *e, size_t bytes)
{
    e->held = bytes;
    c->held += bytes;
    return LIKELY(c->held <= c->covered) || cover(c);
}

/* Gives back what is not needed, and not for every stream. */
static void hold_no_more(struct http2_conn *c, struct serve_exchange *e)
{
    c->held -= e->held;
    e->held = 0;
    if (LIKELY(c->covered <= FREE_BYTES || c->held + 2 * (size_t)COVER_BYTES > c->covered))
        return;
    size_t spare = ((c->covered - c->held) / COVER_BYTES - 1) * COVER_BYTES;
    spare = MIN(spare, c->covered - FREE_BYTES);
    budget_give(settings_of(c)->budget, spare);
    c->covered -= spare;
}

/* -- bytes that came before an offer --------------------------------------------------------- */

static void kept_drop(struct serve_exchange *e)
{
    if (LIKELY(e->kept == NULL))
        return;
    budget_give(e->x.budget, e->kept_room);
    mem_free(TAKE(e->kept));
    e->kept_at = e->kept_size = e->kept_room = 0;
}

static bool keep(struct serve_exchange *e, struct slice data)
{
    if (e->kept_at + e->kept_size + data.size > e->kept_room) {
        size_t room = MAX((size_t)KEPT_FIRST, 2 * (e->kept_size + data.size));
        uint8_t *fresh = NULL;
        if (budget_take(e->x.budget, room) && (fresh = mem_alloc(room)) == NULL)
            budget_give(e->x.budget, room);
        if (fresh == NULL)
            return false;
        size_t size = e->kept_size;
        if (size > 0)
            memcpy(fresh, e->kept + e->kept_at, size);
        kept_drop(e);
        e->kept = fresh;
        e->kept_size = size;
        e->kept_room = room;
    }
    memcpy(e->kept + e->kept_at + e->kept_size, data.data, data.size);
    e->kept_size += data.size;
    return true;
}

/* From what was kept into the offer. */
static void use_kept(struct serve_exchange *e)
{
    struct exchange *x = &e->x;
    size_t size = MIN(e->kept_size, x->offer_size - e->filled);

    memcpy(x->offer + e->filled, e->kept + e->kept_at, size);
    e->filled += size;
    e->kept_at += size;
    e->kept_size -= size;
    if (e->kept_size == 0)
        kept_drop(e);
}

/* -- exchanges ------------------------------------------------------------------------------- */

/* Takes an exchange off its stream. */
static void let_go(struct serve_exchange *e)
{
    struct exchange *x = &e->x;

    observe_end(e, e->pace.bytes);
    hold_no_more(conn_of(e), e);
    e->stream = NULL;
    e->conn = NULL;
    x->certificate = NULL; /* the connection's */
    list_remove(&e->due);
    list_remove(&e->waiting);
    kept_drop(e);
    exchange_unref(&x);
}

static struct serve_exchange *exchange_take(struct http2_conn *c, struct http2_stream *s)
{
    struct serve_exchange *e = serve_exchange_take(&c->base, &ops, loop_arrived_ns(c->base.l->loop));

    if (UNLIKELY(e == NULL)) {
        stat_add(&c->base.l->stats.no_memory, 1);
        http2_reset(c->h, s, HTTP2_INTERNAL_ERROR);
        return NULL;
    }
    e->x.protocol = "HTTP/2";
    e->stream = s;
    e->due = e->waiting = (struct list_node){ 0 };
    e->kept = NULL;
    e->held = 0;
    e->kept_at = e->kept_size = e->kept_room = e->filled = 0;
    e->pace = (struct body_pace){ 0 };
    e->sent_mark = e->sent_ns = e->lingers_ns = 0;
    e->was_slow = false;
    http2_stream_set_user(s, e);
    return e;
}

/* Answers in place of a handler that is told to stop, or that there is none of. When an answer has
 * begun already, cutting it off is all that can be said. */
COLD static void exchange_fail(struct http2_conn *c, struct serve_exchange *e, uint16_t status,
                               const struct err *err)
{
    struct http2_stream *s = e->stream;

    if (e->x.status != 0) {
        http2_reset(c->h, s, HTTP2_CANCEL);
        return;
    }
    struct serve_exchange *fresh = exchange_take(c, s);
    if (fresh == NULL)
        return;
    char *path = arena_strndup(fresh->x.arena, e->x.path.data, e->x.path.size);
    fresh->x.path = slice_make(path, path == NULL ? 0 : e->x.path.size);
    fresh->x.method = e->x.method;
    fresh->x.is_head = e->x.is_head;
    fresh->x.body_is_over = true;
    fresh->was_slow = status == 408;
    fresh->held = e->held;
    fresh->pace.bytes = e->pace.bytes;
    observe_replace(fresh, e);
    e->held = 0;
    fresh->dialect =
        e->match.route != NULL || e->dialect == DIALECT_GRPC ? e->dialect : serve_dialect_of(&e->x);
    serve_exchange_leave(&e->x);
    let_go(e);
    api_fail(&fresh->x, fresh->dialect, status, err);
}

static enum exchange_method method_of(struct slice text)
{
    static const struct {
        const char *name;
        enum exchange_method method;
    } table[] = {
        { "POST", METHOD_POST },   { "GET", METHOD_GET },       { "HEAD", METHOD_HEAD },
        { "PUT", METHOD_PUT },     { "DELETE", METHOD_DELETE }, { "OPTIONS", METHOD_OPTIONS },
        { "PATCH", METHOD_PATCH },
    };

    for (size_t i = 0; i < COUNT(table); i++)
        if (slice_is(text, table[i].name))
            return table[i].method;
    return METHOD_OTHER;
}

/* What a head says beside what the exchange has members for. */
struct extras {
    struct slice target, host, length, expect, protocol; /* data NULL: not there */
};

/* Fields that matter here; the first of several counts. */
static void note_field(struct extras *extras, struct slice name, struct slice value)
{
    struct slice *to = NULL;

    switch (name.size) {
    case 4: to = memcmp(name.data, "host", 4) == 0 ? &extras->host : NULL; break;
    case 6: to = memcmp(name.data, "expect", 6) == 0 ? &extras->expect : NULL; break;
    case 14: to = memcmp(name.data, "content-length", 14) == 0 ? &extras->length : NULL; break;
    default: break;
    }
    if (to != NULL && to->data == NULL)
        *to = value;
}

static size_t head_bytes(const struct http2_head *head)
{
    size_t size = head->count * sizeof(struct header);

    for (uint32_t i = 0; i < head->count; i++)
        size += head->fields[i].name.size + head->fields[i].value.size;
    return size;
}

/* Copies the fields, which take `size` bytes, into the arena. False: no memory. */
static bool copy_head(struct serve_exchange *e, const struct http2_head *head, size_t size,
                      struct extras *extras)
{
    struct exchange *x = &e->x;
    uint32_t count = 0;

    struct header *fields = arena_alloc(x->arena, size + 1);
    if (UNLIKELY(fields == NULL))
        return false;
    uint8_t *text = (uint8_t *)(fields + head->count);
    for (uint32_t i = 0; i < head->count; i++) {
        struct slice name = head->fields[i].name, value = head->fields[i].value;
        struct slice value_copy = { text, value.size };
        if (value.size > 0)
            memcpy(text, value.data, value.size);
        text += value.size;
        if (name.size > 0 && name.data[0] == ':') {
            if (slice_is(name, ":path"))
                extras->target = value_copy;
            else if (slice_is(name, ":method"))
                x->method_text = value_copy;
            else if (slice_is(name, ":authority"))
                x->authority = value_copy;
            else if (slice_is(name, ":protocol"))
                extras->protocol = value_copy;
            continue;
        }
        note_field(extras, name, value_copy);
        memcpy(text, name.data, name.size);
        fields[count].name = slice_make(text, name.size);
        fields[count++].value = value_copy;
        text += name.size;
    }
    x->headers = fields;
    x->headers_count = count;
    return true;
}

/* Checks what nghttp2 leaves to us, as strictly as for HTTP/1.1. 0: fine, else the status. */
static uint16_t check_head(struct http2_conn *c, struct serve_exchange *e,
                           const struct http2_head *head, const struct extras *extras,
                           struct err *err)
{
    const struct serve_settings *settings = settings_of(c);
    struct serve_stats *stats = &c->base.l->stats;
    struct exchange *x = &e->x;
    struct slice target = extras->target, host = extras->host;
    size_t question = slice_find(target, '?');

    x->path = slice_first(target, question);
    if (question < target.size)
        x->query = slice_skip(target, question + 1);
    if (UNLIKELY(head->has_overrun)) {
        stat_add(head->has_too_many ? &stats->limit_fields : &stats->limit_head, 1);
        err_set(err, E_RANGE,
                head->has_too_many
                    ? "the request has more than %u header fields, and --headers-max raises it"
                    : "the headers of the request are larger than %u bytes, and --header-bytes-max "
                      "raises it",
                head->has_too_many ? settings->headers_max : settings->header_bytes_max);
        return 431;
    }
    if (UNLIKELY(target.size > TARGET_BYTES_MAX)) {
        stat_add(&stats->limit_head, 1);
        err_set(err, E_RANGE, "the request target has %zu bytes; the most is %d", target.size,
                TARGET_BYTES_MAX);
        return 414;
    }
    if (UNLIKELY(slice_is(x->method_text, "CONNECT"))) {
        if (extras->protocol.data == NULL) {
            err_set(err, E_UNIMPLEMENTED, "CONNECT is not offered: this server is no proxy");
            return 501;
        }
        if (!slice_is(extras->protocol, "websocket")) {
            err_set(err, E_UNIMPLEMENTED,
                    "CONNECT is offered with `:protocol: websocket` only, and this is '%.*s'",
                    (int)MIN(extras->protocol.size, (size_t)64),
                    (const char *)extras->protocol.data);
            return 501;
        }
        x->method = METHOD_GET;
        x->tunnel = extras->protocol;
    }
    if (UNLIKELY(target.size == 0 || slice_find(target, '#') < target.size)) {
        err_set(err, E_INVALID, "the :path of the request is no path, or has a fragment (#)");
        return 400;
    }
    if (x->authority.size == 0)
        x->authority = host;
    if (UNLIKELY(host.data != NULL && !slice_eq(host, x->authority))) {
        err_set(err, E_INVALID, "the request says '%.*s' in host and something else in :authority",
                (int)MIN(host.size, (size_t)100), (const char *)host.data);
        return 400;
    }
    if (UNLIKELY(!http1_host_is_valid(x->authority))) {
        err_set(err, E_INVALID, "the :authority of the request is missing or is no host");
        return 400;
    }
    return 0;
}

static void begin_request(struct http2_conn *c, struct http2_stream *s,
                          const struct http2_head *head)
{
    const struct serve_settings *settings = settings_of(c);
    struct serve_stats *stats = &c->base.l->stats;
    struct extras extras = { 0 };
    uint64_t length;
    struct err err;

    struct serve_exchange *e = exchange_take(c, s);
    if (UNLIKELY(e == NULL))
        return;
    c->exchanges++;
    stat_add(&stats->http2_streams_open, 1);
    c->requests++;
    c->turn_requests++;
    size_t size = head_bytes(head);
    if (UNLIKELY(!hold(c, e, STREAM_BYTES + size) || !copy_head(e, head, size, &extras))) {
        /* An answer would hold it until the peer takes it; this one is gone with its frame. gRPC
         * clients read RESOURCE_EXHAUSTED from it. */
        http2_reset(c->h, s, HTTP2_ENHANCE_YOUR_CALM);
        return;
    }
    struct exchange *x = &e->x;
    observe_begin(e);
    x->method = method_of(x->method_text);
    x->is_head = x->method == METHOD_HEAD;
    x->body_is_over = head->is_end;
    x->body_size = head->is_end ? 0 : -1;
    if (!head->is_end && extras.length.data != NULL && slice_to_u64(extras.length, &length) &&
        length <= INT64_MAX)
        x->body_size = (int64_t)length;
    e->expects_continue = !head->is_end && slice_is_nocase(extras.expect, "100-continue");
    uint16_t status = check_head(c, e, head, &extras, &err);
    if (UNLIKELY(status != 0)) {
        stat_add(&stats->malformed, 1);
        x->body_is_over = true;
        e->dialect = serve_dialect_of(x);
        api_fail(x, e->dialect, status, &err);
        return;
    }
    stat_add(&stats->requests, 1);
    if (UNLIKELY(x->body_size > 0 && (uint64_t)x->body_size > settings->body_bytes_max) &&
        (e->dialect = serve_dialect_of(x)) != DIALECT_GRPC && !serve_takes_any_size(e)) {
        stat_add(&stats->limit_body, 1);
        err_set(&err, E_RANGE,
                "the body has %lld bytes; the most is %llu, and --max-body raises it",
                (long long)x->body_size, (unsigned long long)settings->body_bytes_max);
        api_fail(x, e->dialect, 413, &err);
        return;
    }
    serve_dispatch(e);
    if (UNLIKELY(c->goaway != GOAWAY_NONE || c->base.l->is_draining))
        serve_exchange_drain(e);
}

/* -- body in --------------------------------------------------------------------------------- */

/* The reader waits: a client that asked whether it may send is told so, once. */
static void say_continue(struct http2_conn *c, struct serve_exchange *e)
{
    if (LIKELY(!e->expects_continue))
        return;
    e->expects_continue = false;
    if (e->x.status == 0)
        http2_respond(c->h, e->stream, 100, NULL, 0, NULL, 0);
}

static void hand_over(struct serve_exchange *e, bool is_end)
{
    struct exchange *x = &e->x;
    size_t size = e->filled;

    e->filled = 0;
    e->pace.wait_ns = 0;
    x->has_offer = false;
    x->body_is_over = is_end;
    if (x->user != NULL && x->user->on_body != NULL)
        x->user->on_body(x, size, is_end);
}

/* Does for an exchange what can be done now: its offers are filled from what there is. */
static void serve_due(struct http2_conn *c, struct serve_exchange *e)
{
    struct exchange *x = &e->x;

    while (x->has_offer && !x->is_ended && !x->is_gone) {
        if (e->kept_size > 0)
            use_kept(e);
        bool is_end = http2_stream_peer_ended(e->stream) && e->kept_size == 0;
        bool is_all =
            x->body_size > 0 && e->pace.bytes == (uint64_t)x->body_size && e->kept_size == 0;
        if (is_end || (e->filled > 0 && !is_all)) {
            hand_over(e, is_end);
            continue;
        }
        body_pace_begin(&e->pace, now_of(c));
        say_continue(c, e);
        break;
    }
    if (e->stream == NULL || x->is_ended || x->is_gone || http2_stream_peer_ended(e->stream))
        return;
    size_t wanted = x->has_offer ? x->offer_size - e->filled : 0;
    size_t window = e->kept_size < STREAM_WINDOW ? STREAM_WINDOW - e->kept_size : 0;
    if (x->has_offer || e->kept_size == 0)
        http2_allow(c->h, e->stream, MAX(wanted, x->has_offer ? window : 0));
}

static void serve_all_due(struct http2_conn *c)
{
    struct list_node *node;

    while ((node = list_pop(&c->due)) != NULL)
        serve_due(c, CONTAINER_OF(node, struct serve_exchange, due));
}

static bool count_body(struct http2_conn *c, struct serve_exchange *e, size_t size)
{
    const struct serve_settings *settings = settings_of(c);
    struct err err;

    body_pace_got(&e->pace, now_of(c), size);
    e->expects_continue = false;
    /* A gRPC stream may go on for ever; its messages have a limit of their own. */
    if (LIKELY(e->pace.bytes <= settings->body_bytes_max || e->dialect == DIALECT_GRPC) ||
        e->is_tunnel || serve_takes_any_size(e))
        return true;
    stat_add(&c->base.l->stats.limit_body, 1);
    err_set(&err, E_RANGE,
            "the body has more than %llu bytes, the most that is accepted; --max-body raises it",
            (unsigned long long)settings->body_bytes_max);
    exchange_fail(c, e, 413, &err);
    return false;
}

/* -- what http2 tells ------------------------------------------------------------------------- */

static void on_head(void *owner, struct http2_stream *s, const struct http2_head *head)
{
    if (LIKELY(head->kind == HTTP2_REQUEST)) /* trailers of requests say nothing to anybody here */
        begin_request(owner, s, head);
}

static void on_data(void *owner, struct http2_stream *s, struct slice data)
{
    struct http2_conn *c = owner;
    struct serve_exchange *e = http2_stream_user(s);
    struct err err;

    if (UNLIKELY(e != NULL && e->lingers_ns != 0)) {
        linger_got(c, e, data.size);
        return;
    }
    if (UNLIKELY(e == NULL || e->x.is_ended || e->x.is_gone) || !count_body(c, e, data.size))
        return;
    struct exchange *x = &e->x;
    while (data.size > 0) {
        if (UNLIKELY(!x->has_offer || e->kept_size > 0)) {
            if (x->is_ended || x->is_gone || keep(e, data))
                return;
            err_set(&err, E_EXHAUSTED,
                    "no memory for the body; retry later (--memory-limit raises it)");
            err.retry_after_ms = 1000;
            exchange_fail(c, e, 0, &err); /* as its dialect says that of what is full */
            return;
        }
        size_t size = MIN(data.size, x->offer_size - e->filled);
        memcpy(x->offer + e->filled, data.data, size);
        e->filled += size;
        data = slice_skip(data, size);
        if (data.size > 0)
            hand_over(e, false);
    }
    make_due(c, e);
}

static void on_end(void *owner, struct http2_stream *s)
{
    struct serve_exchange *e = http2_stream_user(s);

    if (e != NULL && e->x.has_offer)
        make_due(owner, e);
}

static void on_close(void *owner, struct http2_stream *s, uint32_t code)
{
    struct http2_conn *c = owner;
    struct serve_stats *stats = &c->base.l->stats;
    struct serve_exchange *e = http2_stream_user(s);

    (void)code;
    if (http2_stream_was_reset_by_peer(s))
        stat_add(&stats->http2_resets_received, 1);
    if (UNLIKELY(e == NULL))
        return;
    stat_add(&stats->http2_streams_open, (uint64_t)-1);
    if (!http2_stream_has_ended(s)) {
        stat_add(&stats->departed, !e->x.is_ended);
        serve_exchange_leave(&e->x);
    }
    let_go(e);
    if (--c->exchanges == 0) {
        c->idle_ns = now_of(c);
        c->is_quiet = c->base.l->is_draining;
    }
}

static void on_settings(void *owner)
{
    struct http2_conn *c = owner;

    c->has_settings = true;
}

/* grpc/proposal A8: who pings more often than allowed, and nothing else happens, is told to calm
 * down. */
static void on_ping(void *owner)
{
    struct http2_conn *c = owner;
    const struct serve_settings *settings = settings_of(c);
    uint64_t now = now_of(c), frames = http2_frames_sent(c->h);
    uint64_t least = settings->ping_interval_min_ms * NS_PER_MS;

    stat_add(&c->base.l->stats.http2_pings, 1);
    if (frames != c->peer_ping_frames || c->peer_ping_ns == 0)
        c->ping_strikes = 0;
    else if (now - c->peer_ping_ns < least - least / 10) /* clocks and queues are not exact */
        c->ping_strikes++;
    c->peer_ping_ns = now;
    c->peer_ping_frames = frames;
    if (LIKELY(c->ping_strikes <= settings->ping_strikes_max || settings->ping_strikes_max == 0))
        return;
    stat_add(&c->base.l->stats.limit_pings, 1);
    stat_add(&c->base.l->stats.http2_goaways, 1);
    c->is_counted = true;
    http2_goaway(c->h, HTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
}

static void say_last_stream(struct http2_conn *c)
{
    if (c->goaway == GOAWAY_SAID)
        return;
    c->goaway = GOAWAY_SAID;
    c->goaway_ns = UINT64_MAX;
    stat_add(&c->base.l->stats.http2_goaways, 1);
    http2_goaway(c->h, HTTP2_NO_ERROR, "");
}

static void on_pong(void *owner, uint64_t word)
{
    struct http2_conn *c = owner;

    if (word == WORD_GOAWAY)
        say_last_stream(c);
}

static bool on_copy(void *owner, const void *data, size_t size)
{
    struct http2_conn *c = owner;

    output_copy(&c->out, data, size);
    return !c->out.is_lost;
}

static bool on_refer(void *owner, struct http2_stream *s, struct slice bytes, struct buf *holder)
{
    struct http2_conn *c = owner;

    output_refer(&c->out, http2_stream_user(s), bytes, holder);
    return !c->out.is_lost;
}

static const struct http2_events events = {
    .on_head = on_head,
    .on_data = on_data,
    .on_end = on_end,
    .on_close = on_close,
    .on_ping = on_ping,
    .on_pong = on_pong,
    .on_settings = on_settings,
    .copy = on_copy,
    .refer = on_refer,
};

/* -- the end --------------------------------------------------------------------------------- */

static void conn_free(struct http2_conn *c)
{
    struct serve_loop *l = c->base.l;

    bool is_whole = !c->out.is_lost && c->out.first == NULL && c->exchanges == 0;
    c->is_running = true; /* what on_gone calls only leaves marks */
    http2_free(&c->h);
    outputs_deinit(&c->out, serve_exchange_leave);
    loop_undefer(&c->task);
    conn_hold_no_more(&c->base);
    timer_stop(l->loop, &c->timer);
    loop_unwatch(l->loop, &c->watch);
    channel_close(&c->base.channel, is_whole);
    list_remove(&c->base.node);
    budget_give(settings_of(c)->budget, c->covered - FREE_BYTES);
    stat_add(&l->stats.http2_connections_open, (uint64_t)-1);
    if (!pool_give(&l->http2_conns, c))
        mem_free(c);
    serve_connection_gone(l);
}

/* All is said and sent. Closing on bytes that nobody read would reset the connection, and what was
 * said may go down with it. */
static void conn_linger(struct http2_conn *c)
{
    http2_free(&c->h);
    c->skipped = 0;
    channel_finish(&c->base.channel);
    c->deadline_ns = now_of(c) + LINGER_MS * NS_PER_MS;
}

static void tell_streams(struct http2_conn *c)
{
    for (struct http2_stream *s = NULL; (s = http2_stream_next(c->h, s)) != NULL;)
        if (http2_stream_user(s) != NULL)
            serve_exchange_drain(http2_stream_user(s));
}

/* The peer should begin nothing new; what is under way goes on. */
static void begin_goaway(struct http2_conn *c)
{
    c->drain_ns = UINT64_MAX;
    if (c->goaway != GOAWAY_NONE)
        return;
    c->goaway = GOAWAY_SOON;
    c->goaway_ns = now_of(c) + NOTICE_MS * NS_PER_MS;
    http2_goaway_soon(c->h);
    http2_ping(c->h, WORD_GOAWAY);
    tell_streams(c);
}

/* What http2 has counted since it was asked last, and why a connection ended, once. */
static void count_all(struct http2_conn *c)
{
    struct serve_stats *stats = &c->base.l->stats;
    enum http2_failure failure = http2_failure(c->h);
    uint64_t resets = http2_resets_sent(c->h), refused = http2_streams_refused(c->h);

    if (UNLIKELY(resets != c->resets_counted || refused != c->refused_counted)) {
        stat_add(&stats->http2_resets_sent, resets - c->resets_counted);
        stat_add(&stats->limit_streams, refused - c->refused_counted);
        c->resets_counted = resets;
        c->refused_counted = refused;
    }

    if (LIKELY(failure == HTTP2_FINE) || c->is_counted)
        return;
    c->is_counted = true;
    stat_add(&stats->http2_goaways, 1);
    switch (failure) {
    case HTTP2_BROKEN: stat_add(&stats->malformed, 1); break;
    case HTTP2_FLOOD_CONTROL: stat_add(&stats->limit_control, 1); break;
    case HTTP2_FLOOD_RESETS: stat_add(&stats->limit_resets, 1); break;
    case HTTP2_FLOOD_HEADERS: stat_add(&stats->limit_head, 1); break;
    case HTTP2_FLOOD_STREAMS: stat_add(&stats->limit_resets, 1); break;
    default: stat_add(&stats->no_memory, 1); break;
    }
}

/* -- receiving ------------------------------------------------------------------------------- */

static bool received(struct http2_conn *c, ssize_t got, size_t asked)
{
    if (LIKELY(got > 0)) {
        /* Less than asked for: the socket is empty, unless its end is there as well. */
        c->can_read = (size_t)got == asked || c->fin_seen || channel_has_more(&c->base.channel);
        c->turn_bytes += (uint32_t)got;
        stat_add(&c->base.l->stats.bytes_in, (uint64_t)got);
        if (UNLIKELY(channel_is_tls(&c->base.channel)))
            stat_add(&c->base.l->stats.tls_bytes_in, (uint64_t)got);
        return true;
    }
    c->can_read = false;
    if (got == 0)
        c->at_end = c->fin_seen = true;
    else if (got != -EAGAIN)
        c->out.is_lost = true;
    return false;
}

static bool may_receive(const struct http2_conn *c)
{
    return c->can_read && !c->at_end && !c->out.is_lost && c->turn_bytes < TURN_BYTES_MAX;
}

static void feed(struct http2_conn *c, struct slice bytes)
{
    uint32_t most = settings_of(c)->requests_per_connection_max;

    /* Failure stays in http2, which has last words to send. */
    if (http2_receive(c->h, bytes, now_of(c), NULL) != OK)
        return;
    if (UNLIKELY(most != 0 && c->requests >= most && c->goaway != GOAWAY_SAID)) {
        stat_add(&c->base.l->stats.limit_requests, 1);
        say_last_stream(c);
    }
    serve_all_due(c);
}

static void receive_all(struct http2_conn *c)
{
    struct serve_loop *l = c->base.l;

    while (may_receive(c) && c->turn_requests < TURN_REQUESTS_MAX &&
           http2_failure(c->h) == HTTP2_FINE) {
        size_t room = c->is_bulk ? RECEIVE_BYTES : PIECE_BYTES;
        uint32_t before = c->turn_requests;
        ssize_t got = channel_recv(&c->base.channel, l->http2_input, room);
        if (!received(c, got, room))
            return;
        feed(c, slice_make(l->http2_input, (size_t)got));
        c->is_bulk = c->turn_requests == before; /* bodies: larger pieces cost less */
    }
}

static void linger_on(struct http2_conn *c)
{
    while (may_receive(c)) {
        ssize_t got = channel_discard(&c->base.channel, RECEIVE_BYTES);
        if (!received(c, got, RECEIVE_BYTES))
            break;
        c->skipped += (uint64_t)got;
    }
    if (c->at_end || c->skipped > LINGER_BYTES_MAX)
        c->out.is_lost = true;
}

/* -- sending --------------------------------------------------------------------------------- */

/* Producers that were told to wait may go on. */
static bool give_room(struct http2_conn *c)
{
    struct list_node *node = list_first(&c->waiting), *next;
    bool has_moved = false;

    for (; node != NULL; node = next) {
        struct serve_exchange *e = CONTAINER_OF(node, struct serve_exchange, waiting);
        next = list_next(&c->waiting, node);
        if (http2_stream_queued(e->stream) > ROOM_BYTES / 2)
            continue;
        list_remove(node);
        e->wants_room = false;
        if (e->x.is_ended || e->x.is_gone || e->x.user == NULL || e->x.user->on_room == NULL)
            continue;
        e->x.user->on_room(&e->x);
        has_moved = true;
    }
    return has_moved;
}

/* Makes frames and sends them until there are none or the socket is full. True: this turn's share
 * is used up and there are more. */
static bool send_all(struct http2_conn *c)
{
    for (uint32_t rounds = 0; rounds < TURN_ROUNDS_MAX; rounds++) {
        bool has_more = false;
        if (c->out.bytes < PULL_BYTES)
            has_more = http2_send(c->h, PULL_BYTES);
        if (UNLIKELY(c->is_quiet)) { /* behind the answer, in one send with it */
            c->is_quiet = false;
            begin_goaway(c);
            has_more |= http2_send(c->h, PULL_BYTES);
        }
        output_flush(&c->out, &c->base.channel);
        if (UNLIKELY(c->out.is_lost) || c->out.first != NULL)
            return false; /* epoll tells when the socket is not full any more */
        if (LIKELY(!give_room(c)) && !has_more)
            return false;
    }
    return true;
}

/* -- resting --------------------------------------------------------------------------------- */

static void set_deadline(struct http2_conn *c, uint64_t due_ns)
{
    c->deadline_ns = due_ns;
    if (UNLIKELY(due_ns != UINT64_MAX && (c->timer.slot == 0 || due_ns < c->timer.due_ns)) &&
        timer_start(c->base.l->loop, &c->timer, due_ns, NULL) != OK)
        output_no_memory(&c->out);
}

static uint64_t check_interval(const struct http2_conn *c)
{
    const struct serve_settings *settings = settings_of(c);
    uint64_t least = MIN(settings->body_timeout_ms, settings->write_timeout_ms);

    return MAX(MIN(least / 2, (uint64_t)CHECK_MS), UINT64_C(5)) * NS_PER_MS;
}

/* What the connection waits for, and until when. */
static uint64_t deadline_of(struct http2_conn *c)
{
    const struct serve_settings *settings = settings_of(c);
    uint64_t due = UINT64_MAX;

    if (UNLIKELY(c->h == NULL))
        return c->deadline_ns;
    if (UNLIKELY(c->out.first != NULL))
        due = c->out.moved_ns + settings->write_timeout_ms * NS_PER_MS;
    if (UNLIKELY(http2_failure(c->h) != HTTP2_FINE)) /* its last words are all that is left */
        return due;
    due = MIN(due, MIN(MIN(c->age_ns, c->grace_ns), MIN(c->goaway_ns, c->drain_ns)));
    if (UNLIKELY(http2_block_begun_ns(c->h) != 0))
        due = MIN(due, http2_block_begun_ns(c->h) + settings->header_timeout_ms * NS_PER_MS);
    if (c->exchanges > 0) {
        if (c->check_ns == UINT64_MAX)
            c->check_ns = now_of(c) + check_interval(c);
        due = MIN(due, c->check_ns);
    } else if (UNLIKELY(!c->has_settings)) {
        due = MIN(due, c->opened_ns + settings->header_timeout_ms * NS_PER_MS);
    } else if (c->goaway == GOAWAY_NONE) {
        due = MIN(due, c->idle_ns + settings->idle_timeout_ms * NS_PER_MS);
    } else if (c->goaway == GOAWAY_SAID) {
        due = MIN(due, c->idle_ns + LINGER_MS * NS_PER_MS);
    }
    if (settings->keepalive_time_ms != 0)
        due = MIN(due, c->pinged_ns != 0
                           ? c->pinged_ns + settings->keepalive_timeout_ms * NS_PER_MS
                           : http2_heard_ns(c->h) + settings->keepalive_time_ms * NS_PER_MS);
    return due;
}

/* Nothing more can be done now: ends the connection, or lets it rest. */
static void conn_rest(struct http2_conn *c, bool has_more)
{
    if (UNLIKELY(c->out.is_lost)) {
        conn_free(c);
        return;
    }
    if (LIKELY(c->h != NULL)) {
        count_all(c);
        if (UNLIKELY(c->at_end)) {
            conn_free(c);
            return;
        }
        if (UNLIKELY(http2_is_over(c->h) && c->out.first == NULL))
            conn_linger(c);
    }
    /* What was left for the next turn is not announced again. */
    if (UNLIKELY(has_more || c->turn_bytes >= TURN_BYTES_MAX ||
                 (c->turn_requests >= TURN_REQUESTS_MAX && c->can_read)))
        loop_defer(c->base.l->loop, &c->task);
    set_deadline(c, deadline_of(c));
    if (UNLIKELY(c->out.is_lost)) /* no memory for the timer */
        conn_free(c);
}

static void send_and_rest(struct http2_conn *c)
{
    bool has_more = send_all(c);

    /* An on_room, or a stream that closed, may have left work. */
    has_more |= !list_is_empty(&c->due);
    c->is_running = false;
    conn_rest(c, has_more);
}

/* Frames are made when they are sent: what waits is what answers are made of. */
static void conn_send(struct conn *conn)
{
    struct http2_conn *c = CONTAINER_OF(conn, struct http2_conn, base);

    c->is_running = true;
    send_and_rest(c);
}

/* Is it one of many that answer a call or two, with nothing else to be done? */
static bool may_hold(const struct http2_conn *c)
{
    return c->turn_requests > 0 && c->turn_requests <= HELD_REQUESTS_MAX && c->out.first == NULL &&
           !c->out.is_lost && !c->fin_seen && !c->is_quiet && c->goaway == GOAWAY_NONE &&
           c->turn_bytes < TURN_BYTES_MAX && list_is_empty(&c->due) &&
           http2_failure(c->h) == HTTP2_FINE && conn_may_hold(&c->base);
}

static void conn_run(struct http2_conn *c, bool is_ready)
{
    conn_hold_no_more(&c->base);
    c->is_running = true;
    c->turn_bytes = c->turn_requests = 0;
    if (UNLIKELY(c->h == NULL)) {
        linger_on(c);
    } else {
        serve_all_due(c);
        receive_all(c);
        if (UNLIKELY(http2_failure(c->h) != HTTP2_FINE))
            count_all(c); /* before the peer is told, who may look */
        if (is_ready && may_hold(c)) {
            c->is_running = false;
            conn_hold(&c->base);
        } else {
            send_and_rest(c);
        }
        return;
    }
    c->is_running = false;
    conn_rest(c, false);
}

/* -- events ---------------------------------------------------------------------------------- */

/* Something has happened: streams that wait for nothing may begin to. */
static void look_again(struct http2_conn *c)
{
    if (c->check_ns == NEVER_BEFORE_EVENT)
        c->check_ns = UINT64_MAX;
}

static void on_ready(struct loop_fd *watch, uint32_t ready)
{
    struct http2_conn *c = CONTAINER_OF(watch, struct http2_conn, watch);

    look_again(c);
    if (UNLIKELY(ready & EPOLLERR))
        c->out.is_lost = true;
    if (UNLIKELY(ready & (EPOLLRDHUP | EPOLLHUP))) {
        c->fin_seen = c->can_read = true;
        channel_expect_end(&c->base.channel);
    }
    if ((ready & EPOLLIN) || channel_reads_when_writable(&c->base.channel))
        c->can_read = true;
    conn_run(c, true);
}

static void on_task(struct loop_task *task)
{
    struct http2_conn *c = CONTAINER_OF(task, struct http2_conn, task);

    look_again(c);
    conn_run(c, false);
}

/* Does the peer give windows for the answer that waits here? Little by little is not enough. */
static bool is_stalled(struct http2_conn *c, struct serve_exchange *e)
{
    const struct serve_settings *settings = settings_of(c);
    uint64_t sent = http2_stream_sent(e->stream), now = now_of(c);
    uint64_t enough = output_bytes_enough(settings);

    if (http2_stream_queued(e->stream) == 0) {
        e->sent_ns = 0;
        return false;
    }
    if (e->sent_ns == 0 || sent - e->sent_mark >= enough) {
        e->sent_ns = now;
        e->sent_mark = sent;
    }
    return now - e->sent_ns >= settings->write_timeout_ms * NS_PER_MS;
}

/* Looks at every stream: whose body is too slow, whose answer is not taken. */
static void check_streams(struct http2_conn *c)
{
    uint64_t now = now_of(c);
    bool is_needed = false;
    struct http2_stream *s = NULL;
    struct err err;

    while ((s = http2_stream_next(c->h, s)) != NULL) {
        struct serve_exchange *e = http2_stream_user(s);
        if (e == NULL)
            continue;
        if (c->out.first == NULL && is_stalled(c, e)) {
            stat_add(&c->base.l->stats.timeout_write, 1);
            http2_reset(c->h, s, HTTP2_CANCEL);
            continue;
        }
        if (UNLIKELY(e->lingers_ns != 0)) {
            if (now >= e->lingers_ns && http2_stream_has_ended(s)) {
                http2_reset(c->h, s, HTTP2_NO_ERROR);
                continue;
            }
            is_needed = true;
        }
        bool is_waited = e->x.has_offer && !e->x.can_rest && e->pace.wait_ns != 0;
        if (is_waited && body_pace_is_slow(&e->pace, c->base.l, now, &err)) {
            exchange_fail(c, e, 408, &err);
            continue;
        }
        is_needed |= is_waited || e->sent_ns != 0;
    }
    /* Whatever begins to wait later comes with a turn of the connection, which looks again. */
    c->check_ns = is_needed ? now + check_interval(c) : NEVER_BEFORE_EVENT;
}

static void on_due(struct timer *timer)
{
    struct http2_conn *c = CONTAINER_OF(timer, struct http2_conn, timer);
    const struct serve_settings *settings = settings_of(c);
    struct serve_stats *stats = &c->base.l->stats;
    uint64_t now = now_of(c);

    if (c->deadline_ns > now) { /* it has moved on meanwhile */
        set_deadline(c, c->deadline_ns);
        if (c->out.is_lost)
            conn_free(c);
        return;
    }
    c->is_running = true;
    if (c->h == NULL) {
        c->out.is_lost = true;
        conn_run(c, false);
        return;
    }
    if (c->pinged_ns != 0 && http2_heard_ns(c->h) > c->pinged_ns)
        c->pinged_ns = 0;
    uint64_t block_ns = http2_block_begun_ns(c->h);
    if (c->out.first != NULL && now >= c->out.moved_ns + settings->write_timeout_ms * NS_PER_MS &&
        !output_is_taken(&c->out, c->watch.fd)) {
        stat_add(&stats->timeout_write, 1);
        c->out.is_lost = true;
    } else if (now >= c->grace_ns) {
        stat_add(&stats->limit_age, 1);
        c->out.is_lost = true;
    } else if (c->pinged_ns != 0 &&
               now >= c->pinged_ns + settings->keepalive_timeout_ms * NS_PER_MS) {
        stat_add(&stats->timeout_keepalive, 1);
        c->out.is_lost = true;
    } else if ((block_ns != 0 && now >= block_ns + settings->header_timeout_ms * NS_PER_MS) ||
               (!c->has_settings &&
                now >= c->opened_ns + settings->header_timeout_ms * NS_PER_MS)) {
        stat_add(&stats->timeout_head, 1);
        stat_add(&stats->http2_goaways, 1);
        c->is_counted = true;
        http2_goaway(c->h, HTTP2_ENHANCE_YOUR_CALM,
                     "the head of a request did not arrive in time (--header-timeout)");
    } else {
        if (c->exchanges == 0 && c->goaway == GOAWAY_NONE &&
            now >= c->idle_ns + settings->idle_timeout_ms * NS_PER_MS) {
            stat_add(&stats->timeout_idle, 1);
            begin_goaway(c);
        } else if (c->exchanges == 0 && c->goaway == GOAWAY_SAID &&
                   now >= c->idle_ns + LINGER_MS * NS_PER_MS) {
            c->out.is_lost = true;
        }
        if (now >= c->age_ns) {
            c->age_ns = UINT64_MAX;
            c->grace_ns = now + settings->connection_age_grace_ms * NS_PER_MS;
            begin_goaway(c);
        }
        if (now >= c->drain_ns)
            begin_goaway(c);
        if (now >= c->goaway_ns)
            say_last_stream(c);
        if (settings->keepalive_time_ms != 0 && c->pinged_ns == 0 &&
            now >= http2_heard_ns(c->h) + settings->keepalive_time_ms * NS_PER_MS) {
            c->pinged_ns = now;
            http2_ping(c->h, WORD_KEEPALIVE);
        }
        if (c->exchanges > 0 && now >= c->check_ns)
            check_streams(c);
    }
    conn_run(c, false);
}

/* -- life ------------------------------------------------------------------------------------ */

/* When a connection is old: not for all that began together at once. */
static uint64_t age_of(struct serve *serve, uint64_t now_ns)
{
    uint64_t age = serve->settings.connection_age_ms * NS_PER_MS;
    uint32_t chance;

    if (age == 0)
        return UINT64_MAX;
    serve->env->random(serve->env, &chance, sizeof chance);
    return now_ns + age - age / 10 + (uint64_t)((double)age / 5 * chance / UINT32_MAX);
}

static void begin_drain(struct http2_conn *c)
{
    if (c->goaway == GOAWAY_NONE)
        c->drain_ns = now_of(c) + c->base.l->serve->idle_ns;
    tell_streams(c);
}

static void conn_drain(struct conn *conn)
{
    struct http2_conn *c = CONTAINER_OF(conn, struct http2_conn, base);

    if (c->h == NULL)
        return;
    begin_drain(c);
    conn_run(c, false);
}

static void conn_cut(struct conn *conn)
{
    conn_free(CONTAINER_OF(conn, struct http2_conn, base));
}

static uint32_t conn_under_way(const struct conn *conn)
{
    return CONTAINER_OF(conn, struct http2_conn, base)->exchanges;
}

static const struct conn_kind http2_kind = {
    .drain = conn_drain, .cut = conn_cut, .under_way = conn_under_way, .send = conn_send
};

/* What all HTTP/2 connections of a loop share. */
static bool loop_ready(struct serve_loop *l)
{
    if (l->http2_heap == NULL)
        l->http2_heap = http2_heap_new();
    if (l->http2_input == NULL)
        l->http2_input = mem_aligned(64, RECEIVE_BYTES);
    return l->http2_heap != NULL && l->http2_input != NULL;
}

bool http2_conn_open(const struct conn *from, struct loop_fd *watch, struct slice bytes,
                     bool fin_seen)
{
    struct serve_loop *l = from->l;
    struct http2_conn *c = NULL;
    int is_fresh;

    if (!loop_ready(l) || (c = pool_take(&l->http2_conns, &is_fresh)) == NULL)
        return false;
    memset(c, 0, sizeof *c);
    if (http2_new(&c->h, HTTP2_SERVER, &l->serve->http2_limits, &events, c, l->http2_heap, NULL) !=
        OK) {
        if (!pool_give(&l->http2_conns, c))
            mem_free(c);
        return false;
    }
    conn_move(&c->base, &http2_kind, from);
    c->out.l = l;
    c->watch.on_ready = on_ready;
    c->task.run = on_task;
    c->timer.on_due = on_due;
    list_init(&c->due);
    list_init(&c->waiting);
    c->covered = FREE_BYTES;
    c->opened_ns = c->idle_ns = now_of(c);
    c->check_ns = c->grace_ns = c->goaway_ns = c->drain_ns = UINT64_MAX;
    c->age_ns = age_of(l->serve, c->opened_ns);
    c->fin_seen = fin_seen;
    if (fin_seen)
        channel_expect_end(&c->base.channel);
    c->can_read = true;
    stat_add(&l->stats.http2_connections, 1);
    stat_add(&l->stats.http2_connections_open, 1);
    loop_pass(l->loop, watch, &c->watch);
    c->is_running = true;
    if (bytes.size > 0)
        feed(c, bytes);
    if (l->is_draining)
        begin_drain(c);
    conn_run(c, false);
    return true;
}

void http2_limits_init(struct http2_limits *limits, const struct serve_settings *settings)
{
    *limits = (struct http2_limits){
        .streams_max = settings->streams_max,
        .header_bytes_max = settings->header_bytes_max,
        .fields_max = settings->headers_max,
        .stream_window = STREAM_WINDOW,
        .connection_window = CONNECTION_WINDOW,
        .frame_bytes_max = FRAME_BYTES_MAX,
        .control_frames_max = settings->control_frames_max,
        .resets_max = settings->resets_max,
    };
}

void http2_pools_init(struct serve_loop *l)
{
    pool_init(&l->http2_conns, sizeof(struct http2_conn), CONNS_KEEP_MAX);
}

void http2_pools_deinit(struct serve_loop *l)
{
    pool_deinit(&l->http2_conns, NULL);
    http2_heap_free(&l->http2_heap);
    mem_free(TAKE(l->http2_input));
}
