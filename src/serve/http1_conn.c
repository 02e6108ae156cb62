/* http1_conn.c - one HTTP/1.1 connection: bytes of a socket on one side, exchanges on the other.
 * SPDX-License-Identifier: Apache-2.0
 *
 * How it runs. Everything happens in conn_run, which is entered from the socket, from a timer, or
 * at the end of the turn when somebody called an exchange from elsewhere. It takes one step after
 * the other (read a head, hand over body bytes, finish an answer) until nothing more can be done
 * now, sends what was written, and then either rests or ends the connection. The calls that a
 * handler makes only leave marks, so no callback ever re-enters and nothing disappears below
 * somebody's feet.
 *
 * Order. One exchange at a time: what a peer sends ahead waits as bytes, at most one input's worth,
 * then in the kernel. So answers leave in the order of the requests, and a handler never runs
 * for a peer that does not read. Of requests that lie ready, pipeline_max are answered
 * in a turn before other connections get theirs.
 *
 * Memory. An idle connection holds none but itself. A head is copied into its exchange's arena, so that
 * what it was received into is free again at once; body bytes go from there, or straight from the
 * socket, into the memory its reader offered. Small answers are copied behind their head, so that they leave as one
 * piece; large ones are sent from where they lie, and hold their buf or their exchange until then.
 *
 * Leaving. Half-close is departure on HTTP/1.1: whoever closes a connection looks the same at
 * first, and compute for nobody is worse than an answer less for a client that closes its sending
 * side early. But nothing that is ready is withheld: requests that arrived before the FIN are still
 * read, what can be answered at once is answered, and what has ended is sent. Only
 * a request whose handler would have to be waited for is cancelled. So `printf ... | nc -N` gets
 * the answers of models that run inline, and a queued one is taken out of its queue.
 *
 * Readiness is edge-triggered: epoll says once that there is something to read (or room to write)
 * and can_read remembers it until a recv brings less than was asked for. So the kernel looks at a
 * socket once a request and not twice, and nothing has to be told to epoll when a reader waits.
 * What is left for a later turn must then be put off by ourselves.
 *
 * Sending. An answer that is small and all there may wait for those of other connections that are ready in the same
 * turn, 8 of them or 50 us (conn_hold). Nothing waits where nothing else is ready, and none beyond its turn.
 *
 * Time. A connection has one timer, and moves it rarely: the field deadline_ns is what counts, the
 * timer only looks at it, and goes on when it is later. A request that arrives whole on a
 * connection that stays open touches no heap.
 *
 * Tunnels (RFC 9110 7.8). Behind a 101 the bytes both ways are the exchange's, and the connection ends
 * with it. No time is kept for what is received (its reader knows what should come when), but a
 * reader that takes nothing is cut as ever, and so is who piles up output.
 */
#include "serve/internal.h"

#include <errno.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "serve/output.h"
#include "wire/websocket.h"

enum {
    INPUT_BYTES = 16 * 1024,      /* received at once; with its header, one pooled input */
    COPY_MAX = 4096,              /* answers' pieces up to this are copied behind their head */
    ROOM_BYTES = 64 * 1024,       /* output that may wait before exchange_room is 0 */
    AHEAD_OUTPUT_MAX = 64 * 1024, /* output that may wait before the next request is begun */
    TURN_BYTES_MAX = 1024 * 1024, /* received for one connection before others get their turn */
    TURN_ROUNDS_MAX = 8,          /* of a producer that refills what was sent */
    SKIP_BYTES_MAX = 256 * 1024,  /* of a body nobody wanted, to keep the connection */
    LINGER_BYTES_MAX = 16 * 1024 * 1024,
    LINGER_MS = 2000,
    REFUSE_MS = 1000,      /* how long one over --connections-max may take to say what it speaks */
    DIRECT_MIN = 2048,     /* known body bytes from which receiving them in place pays */
    HELD_MAX = 8,          /* answers that are sent together */
    HELD_BYTES_MAX = 4096, /* of one of them */
    HELD_NS = 50000,       /* between the first and the last */
    RATE_CHECK_MS = 1000,  /* how often a body's rate is looked at */
    KEEP_MAX = 64,         /* connections and inputs, for the next taker */
    TLS_HANDSHAKE_RECORD = 0x16, /* the first byte of a ClientHello: RFC 8446 5.1 */
};

enum conn_state {
    CONN_OPEN,
    CONN_SKIPPING,  /* the answer is out, the rest of its request is read and dropped */
    CONN_LINGERING, /* we have finished; what comes is dropped until the peer has seen it */
};

struct http1_conn {
    struct conn base; /* first */
    struct loop_fd watch;
    struct loop_task task;
    struct timer timer;
    uint64_t deadline_ns;

    enum conn_state state;
    struct http1 http;
    struct input *input; /* owned reference; NULL: nothing received that is not used */
    uint32_t input_at, input_end;
    struct serve_exchange *now; /* owned reference; the request being answered */
    struct outputs out;         /* what waits to be sent; out.is_lost: the connection is over */

    uint64_t begun_ns; /* when the first byte of the request was seen; 0: none yet */
    struct body_pace pace;
    uint64_t rate_due_ns; /* when its rate is looked at next; 0: not decided */
    uint64_t skipped;
    uint64_t skip_due_ns; /* by when a body nobody wants must be over */
    uint32_t requests;
    uint32_t turn_requests, turn_bytes;

    bool is_running;
    bool can_read;    /* the socket probably has bytes, or its end */
    bool fin_seen;    /* the peer has closed its side; bytes before that may lie there still */
    bool at_end;      /* and they are all read */
    bool is_closing;  /* after the present answer */
    bool must_linger; /* and the peer may be sending meanwhile */
    bool is_rejected; /* over connections_max: only told so */
    bool is_http2;    /* its first line is HTTP/2's: handed over when this turn is done */
};

static const struct exchange_ops ops;

static void conn_run(struct http1_conn *c, bool is_ready);

/* -- memory ---------------------------------------------------------------------------------- */

static struct input *input_take(struct serve_loop *l, size_t room)
{
    struct input *input;
    int is_fresh;

    if (room <= INPUT_BYTES - sizeof *input) {
        input = pool_take(&l->inputs, &is_fresh);
        room = INPUT_BYTES - sizeof *input;
    } else {
        input = mem_alloc(sizeof *input + room);
    }
    if (input == NULL)
        return NULL;
    input->room = (uint32_t)room;
    input->is_pooled = room == INPUT_BYTES - sizeof *input;
    return input;
}

void http1_input_give(struct serve_loop *l, struct input **slot)
{
    struct input *input = TAKE(*slot);

    if (input != NULL && (!input->is_pooled || !pool_give(&l->inputs, input)))
        mem_free(input);
}

static struct serve_exchange *exchange_take(struct http1_conn *c)
{
    return serve_exchange_take(&c->base, &ops, c->begun_ns);
}

/* -- what a handler calls -------------------------------------------------------------------- */

/* The connection looks at the marks at the end of the turn, unless it is looking anyway. */
static void run_later(struct http1_conn *c)
{
    if (!c->is_running)
        loop_defer(c->base.l->loop, &c->task);
}

static struct serve_exchange *of(struct exchange *x)
{
    return CONTAINER_OF(x, struct serve_exchange, x);
}

static struct http1_conn *conn_of(const struct serve_exchange *e)
{
    return CONTAINER_OF(e->conn, struct http1_conn, base);
}

static void op_read(struct exchange *x)
{
    run_later(conn_of(of(x)));
}

/* Can what is unread of this request's body be skipped, so that the next request may follow? */
static bool can_skip(const struct http1_conn *c, const struct exchange *x)
{
    if (x->body_is_over || c->http.body_size == 0)
        return true;
    /* A client that waits for 100 may send the body or not: nobody can tell what comes next. */
    if (CONTAINER_OF(x, struct serve_exchange, x)->expects_continue || c->http.body_size < 0)
        return false;
    return http1_data_left(&c->http) <= SKIP_BYTES_MAX;
}

/* Has this connection carried as many requests as one may? */
static bool is_spent(const struct http1_conn *c)
{
    uint32_t most = c->base.l->serve->settings.requests_per_connection_max;

    return most != 0 && c->requests >= most;
}

static bool is_draining(const struct http1_conn *c)
{
    return atomic_load_explicit(&c->base.l->serve->is_draining, memory_order_relaxed);
}

/* The server stops, and no further request is here already: this answer can be the one that says so. */
static bool is_last(const struct http1_conn *c, const struct exchange *x)
{
    return UNLIKELY(is_draining(c)) && (!x->body_is_over || c->input_at == c->input_end);
}

static void op_respond(struct exchange *x, uint16_t status, const struct header *headers,
                       uint32_t headers_count, int64_t body_size)
{
    struct serve_exchange *e = of(x);
    struct http1_conn *c = conn_of(e);
    bool is_bare = status == 204 || status == 304;
    struct http1_answer answer = {
        .status = status,
        .length = (uint64_t)body_size,
        .date = serve_loop_date(c->base.l),
        .fields = (const struct http1_field *)(const void *)headers,
        .fields_count = headers_count,
        .more = (const struct http1_field *)(const void *)e->more,
        .more_count = e->more_count,
    };

    e->promised = body_size;
    e->drops_body = x->is_head || is_bare;
    if (UNLIKELY(x->tunnel.size > 0)) /* what follows is no request, or would be read as one */
        c->is_closing = c->must_linger = true;
    if (UNLIKELY(status == 101)) {
        answer.framing = HTTP1_NO_LENGTH;
        serve_exchange_tunnel(e);
    } else if (is_bare) {
        answer.framing = HTTP1_NO_LENGTH;
    } else if (LIKELY(body_size >= 0)) {
        answer.framing = HTTP1_LENGTH;
    } else if (x->is_head) {
        answer.framing = HTTP1_NO_LENGTH;
    } else if (c->http.minor == 1) {
        answer.framing = HTTP1_CHUNKED;
        e->is_chunked = true;
    } else { /* HTTP/1.0: the end of the connection is the end of the body */
        answer.framing = HTTP1_NO_LENGTH;
        c->is_closing = true;
    }
    if (UNLIKELY(!c->is_closing && (is_spent(c) || is_last(c, x) || !can_skip(c, x)))) {
        stat_add(&c->base.l->stats.limit_requests, is_spent(c));
        c->is_closing = c->must_linger = true;
    }
    answer.connection = e->is_tunnel         ? HTTP1_UPGRADE
                        : c->is_closing      ? HTTP1_CLOSE
                        : c->http.minor == 0 ? HTTP1_KEEP_SAID
                                             : HTTP1_KEEP;
    uint8_t *at = output_room(&c->out, http1_answer_bytes_max(&answer));
    if (at != NULL)
        output_wrote(&c->out, (size_t)(http1_answer_write(&answer, at) - at));
    run_later(c);
}

static void op_send(struct exchange *x, struct slice bytes, struct buf *holder)
{
    struct serve_exchange *e = of(x);
    struct http1_conn *c = conn_of(e);

    require(e->promised < 0 || x->body_sent <= (uint64_t)e->promised);
    if (e->drops_body || c->out.is_lost)
        return;
    /* One answer of any size may wait, since it exists anyway; who piles up more is not read. */
    if (UNLIKELY(c->out.bytes > c->base.l->serve->settings.output_bytes_max)) {
        stat_add(&c->base.l->stats.limit_output, 1);
        c->out.is_lost = true;
        run_later(c);
        return;
    }
    if (e->is_chunked) {
        uint8_t *at = output_room(&c->out, HTTP1_CHUNK_BYTES_MAX);
        if (at == NULL)
            return;
        output_wrote(&c->out, (size_t)(http1_chunk_write(bytes.size, at) - at));
    }
    if (LIKELY(bytes.size <= COPY_MAX))
        output_copy(&c->out, bytes.data, bytes.size);
    else
        output_refer(&c->out, e, bytes, holder);
    if (e->is_chunked)
        output_copy(&c->out, "\r\n", 2);
    run_later(c);
}

static void op_end(struct exchange *x, const struct header *trailers, uint32_t trailers_count)
{
    struct serve_exchange *e = of(x);
    struct http1_conn *c = conn_of(e);

    if (e->is_chunked && !c->out.is_lost) {
        output_copy(&c->out, "0\r\n", 3);
        for (uint32_t i = 0; i < trailers_count && !c->out.is_lost; i++) {
            size_t size = trailers[i].name.size + trailers[i].value.size + 4;
            uint8_t *at = output_room(&c->out, size);
            if (at != NULL)
                output_wrote(&c->out,
                             (size_t)(http1_field_write(
                                          (const struct http1_field *)(const void *)&trailers[i],
                                          at) -
                                      at));
        }
        output_copy(&c->out, "\r\n", 2);
    }
    run_later(c);
}

static void op_abort(struct exchange *x)
{
    of(x)->is_aborted = true;
    run_later(conn_of(of(x)));
}

static size_t op_room(struct exchange *x)
{
    struct serve_exchange *e = of(x);
    struct http1_conn *c = conn_of(e);

    conn_bound(&c->base, c->watch.fd);
    e->wants_room = c->out.bytes >= ROOM_BYTES;
    return e->wants_room ? 0 : ROOM_BYTES - c->out.bytes;
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

/* -- the end --------------------------------------------------------------------------------- */

/* Takes the present exchange off the connection. */
static void conn_let_go(struct http1_conn *c)
{
    struct serve_exchange *e = TAKE(c->now);
    struct exchange *x = &e->x;

    observe_end(e, c->pace.bytes);
    e->conn = NULL;
    x->certificate = NULL; /* the connection's */
    exchange_unref(&x);
}

static void conn_free(struct http1_conn *c)
{
    struct serve_loop *l = c->base.l;

    bool is_whole = !c->out.is_lost && c->out.first == NULL && c->now == NULL;
    c->is_running = true; /* what on_gone calls only leaves marks */
    if (c->now != NULL) {
        stat_add(&l->stats.departed, 1);
        serve_exchange_leave(&c->now->x);
        conn_let_go(c);
    }
    outputs_deinit(&c->out, serve_exchange_leave);
    http1_input_give(l, &c->input);
    loop_undefer(&c->task);
    conn_hold_no_more(&c->base);
    timer_stop(l->loop, &c->timer);
    loop_unwatch(l->loop, &c->watch);
    channel_close(&c->base.channel, is_whole);
    list_remove(&c->base.node);
    if (c->is_rejected)
        l->rejecting--;
    if (!pool_give(&l->conns_pool, c))
        mem_free(c);
    serve_connection_gone(l);
}

/* What this is of is another's from here on; the descriptor and the counts stay. */
static void conn_forget(struct http1_conn *c)
{
    struct serve_loop *l = c->base.l;

    http1_input_give(l, &c->input);
    loop_undefer(&c->task);
    timer_stop(l->loop, &c->timer);
    list_remove(&c->base.node);
    if (!pool_give(&l->conns_pool, c))
        mem_free(c);
}

/* The first line said HTTP/2: everything received goes there. */
static void conn_hand_over(struct http1_conn *c)
{
    struct slice received = { c->input->bytes + c->input_at, c->input_end - c->input_at };

    if (http2_conn_open(&c->base, &c->watch, received, c->fin_seen)) {
        conn_forget(c);
    } else {
        stat_add(&c->base.l->stats.no_memory, 1);
        conn_free(c);
    }
}

static void conn_linger(struct http1_conn *c)
{
    c->state = CONN_LINGERING;
    c->skipped = 0;
    http1_input_give(c->base.l, &c->input);
    channel_finish(&c->base.channel);
    c->deadline_ns = loop_now_ns(c->base.l->loop) + LINGER_MS * NS_PER_MS;
}

/* -- failing --------------------------------------------------------------------------------- */

/* Answers for a request that has no handler (any more) and ends the connection after it. When
 * an answer has begun already, cutting it off is all that can be said. */
COLD static void conn_fail(struct http1_conn *c, uint16_t status, const struct err *err)
{
    struct serve_exchange *before = c->now;
    enum dialect dialect;
    struct slice path = slice_make(NULL, 0);

    c->is_closing = c->must_linger = true;
    if (before != NULL && before->x.status != 0) {
        c->out.is_lost = true;
        return;
    }
    struct serve_exchange *e = exchange_take(c);
    if (e == NULL) {
        output_no_memory(&c->out);
        return;
    }
    if (before != NULL) {
        char *copy = arena_strndup(e->x.arena, before->x.path.data, before->x.path.size);
        path = slice_make(copy, copy == NULL ? 0 : before->x.path.size);
        dialect = before->match.route != NULL ? before->dialect : api_dialect_of_path(path);
        e->x.method = before->x.method;
        e->x.is_head = before->x.is_head;
        observe_replace(e, before);
        serve_exchange_leave(&before->x);
        conn_let_go(c);
    } else {
        c->pace = (struct body_pace){ 0 };
        /* The target as far as it was understood; api looks at its beginning only. */
        if (c->input != NULL) {
            path = http1_target(&c->http, c->input->bytes + c->input_at);
            path = slice_first(path, slice_find(path, '?'));
            char *copy = arena_strndup(e->x.arena, path.data, path.size);
            path = slice_make(copy, copy == NULL ? 0 : path.size);
        }
        dialect = api_dialect_of_path(path);
    }
    e->x.path = path;
    e->x.body_is_over = true;
    e->dialect = dialect;
    c->http.body_size = 0;
    c->now = e;
    api_fail(&e->x, dialect, status, err);
}

COLD static void conn_malformed(struct http1_conn *c, const struct err *err)
{
    struct serve_stats *stats = &c->base.l->stats;

    stat_add(&stats->malformed, 1);
    if (c->http.status == 431 || c->http.status == 414)
        stat_add(c->http.status == 431 && strstr(err->text, "fields") != NULL ? &stats->limit_fields
                                                                              : &stats->limit_head,
                 1);
    conn_fail(c, c->http.status, err);
}

/* -- receiving ------------------------------------------------------------------------------- */

/* What a recv told: true when bytes came. */
static bool received(struct http1_conn *c, ssize_t got, size_t asked)
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

/* May more be received now? Others want their turn, and the bytes do not run away. */
static bool may_receive(const struct http1_conn *c)
{
    return c->can_read && !c->at_end && !c->out.is_lost && c->turn_bytes < TURN_BYTES_MAX;
}

/* Makes room behind the unread bytes: moves them to the front of a fresh input when there is none.
 * The bytes of the head that is being received stay in one piece. */
static bool input_make_room(struct http1_conn *c)
{
    size_t unread = c->input_end - c->input_at;
    size_t room = INPUT_BYTES - sizeof(struct input);

    if (c->input != NULL && c->input->room - c->input_end >= room / 4)
        return true;
    if (c->input != NULL && c->input_at >= c->input->room / 2) {
        memmove(c->input->bytes, c->input->bytes + c->input_at, unread);
    } else {
        if (unread >= room / 2) /* a long head: its limit is the parser's to watch */
            room = MAX(room, 2 * unread);
        struct input *fresh = input_take(c->base.l, room);
        if (fresh == NULL) {
            output_no_memory(&c->out);
            return false;
        }
        if (unread > 0)
            memcpy(fresh->bytes, c->input->bytes + c->input_at, unread);
        http1_input_give(c->base.l, &c->input);
        c->input = fresh;
    }
    c->input_at = 0;
    c->input_end = (uint32_t)unread;
    return true;
}

static bool input_receive(struct http1_conn *c)
{
    if (!may_receive(c) || !input_make_room(c))
        return false;
    size_t asked = c->input->room - c->input_end;
    ssize_t got = channel_recv(&c->base.channel, c->input->bytes + c->input_end, asked);
    if (!received(c, got, asked))
        return false;
    c->input_end += (uint32_t)got;
    return true;
}

static size_t input_size(const struct http1_conn *c)
{
    return c->input_end - c->input_at;
}

static void input_used(struct http1_conn *c, size_t size)
{
    c->input_at += (uint32_t)size;
    if (c->input_at == c->input_end) {
        http1_input_give(c->base.l, &c->input);
        c->input_at = c->input_end = 0;
    }
}

/* -- requests -------------------------------------------------------------------------------- */

/* What the request asks to change to; empty: nothing that is known here. RFC 9110 7.8: HTTP/1.0 has
 * no Upgrade, and what follows a body would be the new protocol's, so such a request is answered as
 * if it had not asked. */
static struct slice tunnel_of(const struct http1_conn *c, const struct exchange *x)
{
    static const char websocket[] = "websocket";

    if (LIKELY(!c->http.has_upgrade) || x->method != METHOD_GET || c->http.minor == 0 ||
        c->http.body_size != 0)
        return slice_make(NULL, 0);
    for (uint32_t i = 0; i < x->headers_count; i++) {
        struct slice list = x->headers[i].value, token;
        if (!slice_is(x->headers[i].name, "upgrade"))
            continue;
        while ((token = websocket_token_next(&list)).data != NULL)
            if (slice_is_nocase(token, websocket))
                return slice_of(websocket);
    }
    return slice_make(NULL, 0);
}

/* Reads the complete head into the exchange's arena: nothing else of what was received is held while
 * the request is under way, which may be for hours. NULL: no memory. */
static enum http1_step read_head(struct http1_conn *c, struct serve_exchange *e, size_t head_size,
                                 struct err *err)
{
    struct serve_loop *l = c->base.l;
    struct exchange *x = &e->x;
    struct http1 *h = &c->http;
    uint8_t *head = arena_aligned(x->arena, 1, head_size);

    if (UNLIKELY(l->fields == NULL))
        l->fields = mem_alloc(l->serve->limits.fields_max * sizeof *l->fields);
    if (UNLIKELY(head == NULL || l->fields == NULL)) {
        output_no_memory(&c->out);
        return HTTP1_MORE;
    }
    memcpy(head, c->input->bytes + c->input_at, head_size);
    if (UNLIKELY(http1_parse(h, head, head_size, l->fields, err) == HTTP1_BAD))
        return HTTP1_BAD;
    size_t size = h->fields_count * sizeof *l->fields;
    struct http1_field *fields = arena_alloc(x->arena, size);
    if (UNLIKELY(fields == NULL)) {
        output_no_memory(&c->out);
        return HTTP1_MORE;
    }
    memcpy(fields, l->fields, size);
    x->headers = (const struct header *)(const void *)fields;
    x->headers_count = h->fields_count;
    return HTTP1_HEAD;
}

/* The head of the next request is complete: makes its exchange and calls the handler. */
static void begin_request(struct http1_conn *c, size_t head_size)
{
    const struct serve_settings *settings = &c->base.l->serve->settings;
    struct http1 *h = &c->http;
    struct serve_exchange *e = exchange_take(c);
    struct err err;

    if (UNLIKELY(e == NULL)) {
        output_no_memory(&c->out);
        return;
    }
    struct exchange *x = &e->x;
    enum http1_step step = read_head(c, e, head_size, &err);
    if (UNLIKELY(step != HTTP1_HEAD)) {
        exchange_unref(&x);
        if (step == HTTP1_BAD)
            conn_malformed(c, &err);
        return;
    }
    x->method = (enum exchange_method)h->method;
    x->is_head = h->method == HTTP1_HEAD_METHOD;
    x->method_text = h->method_text;
    x->path = h->path;
    x->query = h->query;
    x->authority = h->authority;
    x->body_size = h->body_size;
    x->body_is_over = h->body_size == 0;
    if (UNLIKELY(h->minor == 0))
        x->protocol = "HTTP/1.0";
    x->tunnel = tunnel_of(c, x);
    e->expects_continue = h->expects_continue;
    observe_begin(e);
    input_used(c, head_size);

    c->now = e;
    c->requests++;
    c->turn_requests++;
    c->pace = (struct body_pace){ 0 };
    c->rate_due_ns = c->begun_ns = 0;
    stat_add(&c->base.l->stats.requests, 1);
    if (UNLIKELY(!h->is_keep_alive))
        c->is_closing = true;
    if (UNLIKELY(h->body_size > 0 && (uint64_t)h->body_size > settings->body_bytes_max) &&
        !serve_takes_any_size(e)) {
        stat_add(&c->base.l->stats.limit_body, 1);
        err_set(&err, E_RANGE,
                "the body has %lld bytes; the most is %llu, and --max-body raises it",
                (long long)h->body_size, (unsigned long long)settings->body_bytes_max);
        conn_fail(c, 413, &err);
        return;
    }
    serve_dispatch(e);
}

/* A ClientHello where no TLS is spoken: its sender understands an alert, and no status. */
COLD static void refuse_tls(struct http1_conn *c)
{
    struct slice alert = tls_refusal(c->base.l->serve, c->base.listener);

    stat_add(&c->base.l->stats.malformed, 1);
    output_copy(&c->out, alert.data, alert.size);
    c->is_closing = c->must_linger = true;
}

/* One connection too many: told so in the words of what it speaks, which its first bytes say. */
COLD static void refuse_connection(struct http1_conn *c)
{
    struct err err;

    err_set(&err, E_UNAVAILABLE,
            "the server has %u connections, the most it takes (--connections-max); retry later",
            c->base.l->serve->settings.connections_max);
    c->is_closing = c->must_linger = true;
    if (input_size(c) >= 3 && memcmp(c->input->bytes + c->input_at, "PRI", 3) == 0) {
        uint8_t *at = output_room(&c->out, HTTP2_REFUSAL_BYTES_MAX);
        if (at != NULL)
            output_wrote(&c->out, http2_refusal_write(at, HTTP2_ENHANCE_YOUR_CALM, err.text));
        input_used(c, input_size(c));
        return;
    }
    conn_fail(c, 503, &err);
}

COLD static bool refuse_when_known(struct http1_conn *c)
{
    while (input_size(c) < 3 && !c->is_closing) {
        if (input_size(c) > 0 && c->input->bytes[c->input_at] != 'P')
            break;
        if (!input_receive(c))
            return false;
    }
    if (c->is_closing)
        return false;
    refuse_connection(c);
    return true;
}

static bool next_request(struct http1_conn *c)
{
    const struct serve_settings *settings = &c->base.l->serve->settings;
    struct err err;
    size_t head_size;

    if (UNLIKELY(c->is_rejected))
        return refuse_when_known(c);
    if (c->is_closing || c->out.bytes > AHEAD_OUTPUT_MAX)
        return false;
    if (UNLIKELY(c->turn_requests >= settings->pipeline_max)) {
        if (input_size(c) > 0)
            stat_add(&c->base.l->stats.limit_pipeline, 1);
        return false;
    }
    if (input_size(c) == 0 && !input_receive(c))
        return false;
    for (;;) {
        if (c->begun_ns == 0)
            c->begun_ns = loop_arrived_ns(c->base.l->loop);
        enum http1_step step =
            http1_scan(&c->http, c->input->bytes + c->input_at, input_size(c), &head_size, &err);
        if (LIKELY(step == HTTP1_HEAD)) {
            begin_request(c, head_size);
            return true;
        }
        if (step == HTTP1_BAD) {
            if (c->http.is_http2 && c->requests == 0) {
                c->is_http2 = true;
                return false;
            }
            if (c->requests == 0 && c->input->bytes[c->input_at] == TLS_HANDSHAKE_RECORD &&
                !channel_is_tls(&c->base.channel)) {
                refuse_tls(c);
                return true;
            }
            conn_malformed(c, &err);
            return true;
        }
        if (!input_receive(c))
            return false;
    }
}

/* -- bodies ---------------------------------------------------------------------------------- */

/* The reader waits: a client that asked whether it may send is told so, once. */
static void say_continue(struct http1_conn *c, struct serve_exchange *e)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";

    if (LIKELY(!e->expects_continue))
        return;
    e->expects_continue = false;
    if (e->x.status == 0)
        output_copy(&c->out, text, sizeof text - 1);
}

/* Fills the offer with what there is; *ret_is_end: the body is complete. False: nothing came. */
static bool fill_offer(struct http1_conn *c, struct exchange *x, size_t *ret_filled,
                       bool *ret_is_end)
{
    struct http1 *h = &c->http;
    struct slice data;
    struct err err;
    size_t filled = 0, used;

    while (filled < x->offer_size && !http1_is_over(h)) {
        size_t size = MIN(input_size(c), x->offer_size - filled);
        if (size == 0) {
            uint64_t left = http1_data_left(h);
            if (!may_receive(c))
                break;
            if (h->body_size < 0 && left < DIRECT_MIN) {
                if (!input_receive(c))
                    break;
                continue;
            }
            /* Nothing but data comes next: it goes where its reader wants it. */
            size_t asked = (size_t)MIN(left, (uint64_t)(x->offer_size - filled));
            ssize_t got = channel_recv(&c->base.channel, x->offer + filled, asked);
            if (!received(c, got, asked))
                break;
            http1_data_taken(h, (uint64_t)got);
            filled += (size_t)got;
            continue;
        }
        enum http1_step step =
            http1_body(h, c->input->bytes + c->input_at, size, &used, &data, &err);
        if (UNLIKELY(step == HTTP1_BAD)) {
            conn_malformed(c, &err);
            return false;
        }
        if (step == HTTP1_DATA) {
            memcpy(x->offer + filled, data.data, data.size);
            filled += data.size;
        }
        input_used(c, used);
    }
    *ret_filled = filled;
    *ret_is_end = http1_is_over(h);
    return filled > 0 || *ret_is_end;
}

/* The same for a tunnel: all bytes are its own, and their end is the peer's half-close. */
static bool fill_tunnel(struct http1_conn *c, struct exchange *x, size_t *ret_filled,
                        bool *ret_is_end)
{
    size_t filled = 0;

    while (filled < x->offer_size) {
        size_t room = x->offer_size - filled, size = MIN(input_size(c), room);
        if (size > 0) {
            memcpy(x->offer + filled, c->input->bytes + c->input_at, size);
            input_used(c, size);
        } else if (!may_receive(c)) {
            break;
        } else if (room < DIRECT_MIN) {
            if (!input_receive(c))
                break;
        } else {
            ssize_t got = channel_recv(&c->base.channel, x->offer + filled, room);
            if (!received(c, got, room))
                break;
            size = (size_t)got;
        }
        filled += size;
    }
    *ret_filled = filled;
    *ret_is_end = c->at_end && input_size(c) == 0;
    return filled > 0 || *ret_is_end;
}

static bool deliver(struct http1_conn *c)
{
    const struct serve_settings *settings = &c->base.l->serve->settings;
    struct serve_exchange *e = c->now;
    struct exchange *x = &e->x;
    uint64_t now = loop_now_ns(c->base.l->loop);
    struct err err;
    size_t filled = 0;
    bool is_end = true;

    if (LIKELY(!x->body_is_over)) {
        if (!(e->is_tunnel ? fill_tunnel : fill_offer)(c, x, &filled, &is_end)) {
            if (c->now != e) /* malformed */
                return true;
            say_continue(c, e);
            if (!x->can_rest)
                body_pace_begin(&c->pace, now);
            return false;
        }
        e->expects_continue = false;
        body_pace_got(&c->pace, now, filled);
        if (UNLIKELY(c->pace.bytes > settings->body_bytes_max) && !e->is_tunnel &&
            !serve_takes_any_size(e)) {
            stat_add(&c->base.l->stats.limit_body, 1);
            err_set(&err, E_RANGE,
                    "the body has more than %llu bytes, the most that is accepted; --max-body "
                    "raises it",
                    (unsigned long long)settings->body_bytes_max);
            conn_fail(c, 413, &err);
            return true;
        }
        x->body_is_over = is_end;
    }
    x->has_offer = false;
    if (x->user != NULL && x->user->on_body != NULL)
        x->user->on_body(x, filled, is_end);
    return true;
}

/* Reads what nobody wants of the last request's body. True: it is over. */
static bool skip_body(struct http1_conn *c)
{
    struct http1 *h = &c->http;
    struct slice data;
    struct err err;
    size_t used;

    while (!http1_is_over(h)) {
        if (input_size(c) > 0) {
            if (http1_body(h, c->input->bytes + c->input_at, input_size(c), &used, &data, &err) ==
                HTTP1_BAD) {
                c->is_closing = true;
                return false;
            }
            input_used(c, used);
        } else if (!input_receive(c)) {
            return false;
        }
    }
    c->state = CONN_OPEN;
    http1_next(h);
    return true;
}

/* -- one thing after the other ----------------------------------------------------------------- */

/* The answer is complete, if perhaps not sent. */
static void finish_request(struct http1_conn *c)
{
    struct serve_exchange *e = c->now;
    struct exchange *x = &e->x;

    serve_count_answer(c->base.l, x->status);
    if (UNLIKELY(e->promised >= 0 && !e->drops_body && x->body_sent != (uint64_t)e->promised)) {
        log_error("an answer of %llu bytes for %.*s was promised and %llu were given: cut off",
                  (unsigned long long)e->promised, SLICE_ARG(x->path),
                  (unsigned long long)x->body_sent);
        c->out.is_lost = true;
    }
    if (UNLIKELY(!x->body_is_over)) {
        if (!c->is_closing && can_skip(c, x)) {
            c->state = CONN_SKIPPING;
            c->skip_due_ns = loop_now_ns(c->base.l->loop) +
                             c->base.l->serve->settings.body_timeout_ms * NS_PER_MS;
        } else {
            c->is_closing = c->must_linger = true;
        }
    } else if (!c->is_closing) {
        http1_next(&c->http);
    }
    conn_let_go(c);
}

/* Does the next thing that can be done; false: nothing can be done now. */
static bool step(struct http1_conn *c)
{
    struct serve_exchange *e = c->now;

    if (UNLIKELY(c->out.is_lost || c->state == CONN_LINGERING))
        return false;
    if (e == NULL) {
        if (UNLIKELY(c->state == CONN_SKIPPING) && (c->is_closing || !skip_body(c)))
            return false;
        return next_request(c);
    }
    if (UNLIKELY(e->is_aborted)) {
        c->out.is_lost = true;
        return false;
    }
    if (e->x.is_ended) {
        finish_request(c);
        return true;
    }
    if (UNLIKELY(c->base.l->is_draining) && serve_exchange_drain(e))
        return true;
    return e->x.has_offer && deliver(c);
}

/* A producer that was told to wait may go on. */
static bool give_room(struct http1_conn *c)
{
    struct serve_exchange *e = c->now;

    if (LIKELY(e == NULL || !e->wants_room) || c->out.bytes > ROOM_BYTES / 2 || e->x.is_ended)
        return false;
    e->wants_room = false;
    if (e->x.user == NULL || e->x.user->on_room == NULL)
        return false;
    e->x.user->on_room(&e->x);
    return true;
}

/* -- resting --------------------------------------------------------------------------------- */

static void set_deadline(struct http1_conn *c, uint64_t due_ns)
{
    c->deadline_ns = due_ns;
    if (UNLIKELY(due_ns != UINT64_MAX && (c->timer.slot == 0 || due_ns < c->timer.due_ns)) &&
        timer_start(c->base.l->loop, &c->timer, due_ns, NULL) != OK)
        output_no_memory(&c->out);
}

/* How long the next request may take to begin. One that says nothing at first gets no longer than one
 * that has begun. */
static uint64_t idle_ns_of(const struct http1_conn *c)
{
    const struct serve *serve = c->base.l->serve;
    uint64_t idle_ms = LIKELY(c->requests > 0) ? serve->settings.idle_timeout_ms
                                               : serve->settings.header_timeout_ms;

    return LIKELY(!c->base.l->is_draining) ? idle_ms * NS_PER_MS
                                           : MIN(idle_ms * NS_PER_MS, serve->idle_ns);
}

/* What the connection waits for, and until when. */
static uint64_t deadline_of(struct http1_conn *c)
{
    const struct serve_settings *settings = &c->base.l->serve->settings;
    uint64_t now = loop_now_ns(c->base.l->loop);

    if (UNLIKELY(c->state == CONN_LINGERING))
        return c->deadline_ns;
    if (UNLIKELY(c->out.first != NULL))
        return c->out.moved_ns + settings->write_timeout_ms * NS_PER_MS;
    if (UNLIKELY(c->state == CONN_SKIPPING))
        return c->skip_due_ns;
    if (UNLIKELY(c->is_rejected && c->now == NULL))
        return c->skip_due_ns;
    if (c->now == NULL)
        return c->begun_ns != 0 ? c->begun_ns + settings->header_timeout_ms * NS_PER_MS
                                : now + idle_ns_of(c);
    if (c->now->x.has_offer && c->pace.wait_ns != 0) {
        uint64_t still = settings->body_timeout_ms;
        if (settings->body_rate_min != 0 && c->rate_due_ns == 0)
            c->rate_due_ns = now + MIN(still / 2, (uint64_t)RATE_CHECK_MS) * NS_PER_MS;
        return MIN(c->pace.wait_ns + still * NS_PER_MS,
                   c->rate_due_ns != 0 ? c->rate_due_ns : UINT64_MAX);
    }
    return UINT64_MAX; /* the handler works */
}

/* Nothing more can be done now: ends the connection, or lets it rest. */
static void conn_rest(struct http1_conn *c)
{
    bool is_waiting = c->now != NULL && !c->now->x.is_ended;

    if (UNLIKELY(c->is_http2 && !c->out.is_lost)) {
        conn_hand_over(c);
        return;
    }
    if (UNLIKELY(c->out.is_lost) ||
        (c->fin_seen && is_waiting && !(c->now->x.has_offer && c->can_read))) {
        conn_free(c);
        return;
    }
    if (c->state != CONN_LINGERING && c->now == NULL && c->out.first == NULL) {
        if (UNLIKELY(c->is_closing)) {
            /* Closing on bytes that nobody read would reset the connection, and the answer may go
             * down with it. */
            if ((!c->must_linger && !c->can_read) || c->at_end) {
                conn_free(c);
                return;
            }
            conn_linger(c);
        } else if (c->at_end) {
            conn_free(c);
            return;
        }
    }
    /* What was left for the next turn is not announced again. */
    if (UNLIKELY(c->turn_requests >= c->base.l->serve->settings.pipeline_max ||
                 c->turn_bytes >= TURN_BYTES_MAX))
        loop_defer(c->base.l->loop, &c->task);
    set_deadline(c, deadline_of(c));
    if (UNLIKELY(c->out.is_lost)) /* no memory for the timer */
        conn_free(c);
}

static void linger_on(struct http1_conn *c)
{
    while (may_receive(c)) {
        ssize_t got = channel_discard(&c->base.channel, 256 * 1024);
        if (!received(c, got, 256 * 1024))
            break;
        c->skipped += (uint64_t)got;
    }
    if (c->at_end || c->skipped > LINGER_BYTES_MAX)
        c->out.is_lost = true;
}

/* Is all done but to send a little? */
static bool may_hold(const struct http1_conn *c)
{
    return c->now == NULL && c->out.first != NULL && c->out.bytes <= HELD_BYTES_MAX &&
           !c->out.is_lost && !c->is_closing && !c->fin_seen && c->state == CONN_OPEN &&
           c->turn_requests < c->base.l->serve->settings.pipeline_max &&
           c->turn_bytes < TURN_BYTES_MAX && conn_may_hold(&c->base);
}

static void conn_send(struct conn *conn)
{
    struct http1_conn *c = CONTAINER_OF(conn, struct http1_conn, base);

    output_flush(&c->out, &c->base.channel);
    conn_rest(c);
}

static void conn_run(struct http1_conn *c, bool is_ready)
{
    uint32_t rounds = 0;
    bool has_moved;

    conn_hold_no_more(&c->base);
    c->is_running = true;
    c->turn_requests = c->turn_bytes = 0;
    if (UNLIKELY(c->state == CONN_LINGERING))
        linger_on(c);
    do {
        has_moved = false;
        while (step(c))
            has_moved = true;
        if (is_ready && may_hold(c)) {
            c->is_running = false;
            conn_hold(&c->base);
            return;
        }
        /* A request behind a large answer waits for room that only this flush makes: nothing else
         * would announce it. */
        bool was_full = c->out.bytes > AHEAD_OUTPUT_MAX;
        output_flush(&c->out, &c->base.channel);
        has_moved |= give_room(c);
        has_moved |= was_full && c->out.bytes <= AHEAD_OUTPUT_MAX;
    } while (has_moved && !c->out.is_lost && rounds++ < TURN_ROUNDS_MAX);
    c->is_running = false;
    if (UNLIKELY(has_moved)) /* it could go on: after the others */
        loop_defer(c->base.l->loop, &c->task);
    conn_rest(c);
}

/* -- events ---------------------------------------------------------------------------------- */

static void on_ready(struct loop_fd *watch, uint32_t events)
{
    struct http1_conn *c = CONTAINER_OF(watch, struct http1_conn, watch);

    if (UNLIKELY(events & EPOLLERR))
        c->out.is_lost = true;
    if (UNLIKELY(events & (EPOLLRDHUP | EPOLLHUP))) {
        c->fin_seen = c->can_read = true;
        channel_expect_end(&c->base.channel);
    }
    if ((events & EPOLLIN) || channel_reads_when_writable(&c->base.channel))
        c->can_read = true;
    conn_run(c, true);
}

static void on_task(struct loop_task *task)
{
    conn_run(CONTAINER_OF(task, struct http1_conn, task), false);
}

/* A body that stands still, or arrives too slowly, is refused. */
static void judge_body(struct http1_conn *c)
{
    struct err err;

    if (body_pace_is_slow(&c->pace, c->base.l, loop_now_ns(c->base.l->loop), &err))
        conn_fail(c, 408, &err);
    else
        c->rate_due_ns = 0;
}

/* The server stops and nothing came for a while: a FIN, unless something lies there by now. */
static void close_idle(struct http1_conn *c)
{
    c->can_read = true;
    c->turn_bytes = 0;
    if (!input_receive(c) && input_size(c) == 0)
        c->is_closing = c->must_linger = true;
}

static void on_due(struct timer *timer)
{
    struct http1_conn *c = CONTAINER_OF(timer, struct http1_conn, timer);
    struct serve_stats *stats = &c->base.l->stats;
    struct err err;

    if (c->deadline_ns > loop_now_ns(c->base.l->loop)) { /* it has moved on meanwhile */
        set_deadline(c, c->deadline_ns);
        if (c->out.is_lost)
            conn_free(c);
        return;
    }
    c->is_running = true;
    if (c->state == CONN_LINGERING) {
        c->out.is_lost = true;
    } else if (c->out.first != NULL) {
        c->out.is_lost = !output_is_taken(&c->out, c->watch.fd);
        stat_add(&stats->timeout_write, c->out.is_lost);
    } else if (c->state == CONN_SKIPPING) {
        stat_add(&stats->timeout_body, 1);
        c->out.is_lost = true;
    } else if (c->now != NULL) {
        if (c->now->x.has_offer && c->pace.wait_ns != 0)
            judge_body(c);
    } else if (UNLIKELY(c->is_rejected)) {
        if (c->is_closing)
            c->out.is_lost = true;
        else
            refuse_connection(c);
    } else if (c->begun_ns != 0) {
        stat_add(&stats->timeout_head, 1);
        err_set(&err, E_DEADLINE,
                "the head of the request did not arrive within %llu ms (--header-timeout)",
                (unsigned long long)c->base.l->serve->settings.header_timeout_ms);
        conn_fail(c, 408, &err);
    } else if (c->base.l->is_draining) {
        close_idle(c);
    } else {
        stat_add(&stats->timeout_idle, 1);
        c->out.is_lost = true;
    }
    conn_run(c, false);
}

/* -- life ------------------------------------------------------------------------------------ */

static void conn_drain(struct conn *conn)
{
    struct http1_conn *c = CONTAINER_OF(conn, struct http1_conn, base);

    /* Nothing is closed here: an answer that has begun has promised that the connection stays, and who
     * is idle may just be sending. The next answer says that it is the last (is_last); where none comes,
     * deadline_of looks at the drain. */
    if (c->state != CONN_LINGERING)
        conn_run(c, false);
}

static uint32_t conn_under_way(const struct conn *conn)
{
    const struct http1_conn *c = CONTAINER_OF(conn, struct http1_conn, base);

    return c->now != NULL || c->begun_ns != 0 || c->out.first != NULL;
}

static void conn_cut(struct conn *conn)
{
    conn_free(CONTAINER_OF(conn, struct http1_conn, base));
}

static const struct conn_kind http1_kind = {
    .drain = conn_drain, .cut = conn_cut, .under_way = conn_under_way, .send = conn_send
};

/* A connection of no list yet, which nobody watches. NULL: no memory. */
static struct http1_conn *conn_new(struct serve_loop *l)
{
    int is_fresh;
    struct http1_conn *c = pool_take(&l->conns_pool, &is_fresh);

    if (c == NULL)
        return NULL;
    memset(c, 0, sizeof *c);
    c->out.l = l;
    c->watch.on_ready = on_ready;
    c->task.run = on_task;
    c->timer.on_due = on_due;
    http1_init(&c->http, &l->serve->limits);
    return c;
}

void http1_conn_open(struct serve_loop *l, const struct listener *listener, int fd,
                     const struct address *peer, bool is_rejected)
{
    struct http1_conn *c = conn_new(l);

    if (c != NULL)
        c->watch.fd = fd;
    if (c == NULL || conn_watch(l, &c->watch) != OK) {
        if (c != NULL && !pool_give(&l->conns_pool, c))
            mem_free(c);
        socket_close(&fd);
        stat_add(&l->stats.no_memory, 1);
        l->rejecting -= is_rejected;
        serve_connection_gone(l);
        return;
    }
    c->is_rejected = is_rejected;
    c->base.channel = channel_plain(fd);
    conn_init(&c->base, &http1_kind, l, listener, peer);
    if (UNLIKELY(is_rejected))
        c->skip_due_ns = loop_now_ns(l->loop) + REFUSE_MS * NS_PER_MS;
    set_deadline(c, is_rejected ? c->skip_due_ns : loop_now_ns(l->loop) + idle_ns_of(c));
    if (c->out.is_lost)
        conn_free(c);
}

bool http1_conn_take(const struct conn *from, struct loop_fd *watch, struct slice received,
                     bool fin_seen)
{
    struct serve_loop *l = from->l;
    struct input *input = received.size == 0 ? NULL : input_take(l, received.size);
    struct http1_conn *c = conn_new(l);

    if (c == NULL || (received.size > 0 && input == NULL)) {
        http1_input_give(l, &input);
        if (c != NULL && !pool_give(&l->conns_pool, c))
            mem_free(c);
        return false;
    }
    conn_move(&c->base, &http1_kind, from);
    loop_pass(l->loop, watch, &c->watch);
    if (input != NULL) {
        memcpy(input->bytes, received.data, received.size);
        c->input = input;
        c->input_end = (uint32_t)received.size;
    }
    c->fin_seen = fin_seen;
    if (fin_seen)
        channel_expect_end(&c->base.channel);
    c->can_read = true; /* what TLS has read is announced by nobody */
    conn_run(c, false);
    return true;
}

void http1_pools_init(struct serve_loop *l)
{
    pool_init(&l->conns_pool, sizeof(struct http1_conn), KEEP_MAX);
    pool_init(&l->inputs, INPUT_BYTES, KEEP_MAX);
}

void http1_pools_deinit(struct serve_loop *l)
{
    pool_deinit(&l->conns_pool, NULL);
    pool_deinit(&l->inputs, NULL);
}
