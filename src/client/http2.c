/* http2.c - HTTP/2 on a connection of the pool: streams, by wire/http2.h in the client's role.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Pieces of a request's body go to wire/http2 as they come; it keeps them until the windows have
 * room. What it writes is copied to c->out and leaves in large sends.
 */
#include "wire/http2.h"

#include <sys/uio.h>

#include "call/grpc_wire.h"
#include "client/internal.h"

enum { SEND_BYTES = 256 << 10, OWN_FIELDS = 6 };

/* -- events ------------------------------------------------------------------------------------ */

static void add_fields(struct client_exchange *x, const struct http2_head *head, struct err *err)
{
    enum err_code code = OK;

    for (uint32_t i = 0; i < head->count && code == OK; i++) {
        if (head->fields[i].name.size > 0 && head->fields[i].name.data[0] != ':')
            code = answer_add_header(x->answer, head->fields[i].name, head->fields[i].value, err);
    }
    if (code == OK && head->has_overrun)
        err_set(err, E_RANGE, "its headers are larger than the limit");
}

/* Gives up one stream: the rest of the connection is fine. */
static void fail_stream(struct conn *c, struct client_exchange *x, uint32_t code, struct err *why)
{
    http2_stream_set_user(x->stream, NULL);
    http2_reset(c->http2, x->stream, code);
    x->stream = NULL;
    err_wrap(why, "%s", c->pool->url.shown);
    exchange_over(x, why);
}

static void on_head(void *owner, struct http2_stream *s, const struct http2_head *head)
{
    struct client_exchange *x = http2_stream_user(s);
    struct conn *c = owner;
    struct err err = { 0 };

    if (x == NULL || c->is_closing || head->kind == HTTP2_INTERIM)
        return;
    exchange_heard(x);
    exchange_drop_sent(x);
    add_fields(x, head, &err);
    if (err.code != OK) {
        fail_stream(c, x, HTTP2_CANCEL, &err);
        return;
    }
    if (head->kind == HTTP2_RESPONSE)
        answer_end_head(x->answer, head->status);
}

static void on_data(void *owner, struct http2_stream *s, struct slice data)
{
    struct client_exchange *x = http2_stream_user(s);
    struct conn *c = owner;
    struct err err = { 0 };

    if (x == NULL || c->is_closing)
        return;
    if (answer_add_body(x->answer, data, &err) != OK)
        fail_stream(c, x, HTTP2_CANCEL, &err);
    else if (!x->is_over && x->user->on_body == NULL)
        http2_allow(c->http2, s, c->pool->settings.window_bytes);
}

static void on_end(void *owner, struct http2_stream *s)
{
    struct client_exchange *x = http2_stream_user(s);
    struct conn *c = owner;

    if (x == NULL || c->is_closing)
        return;
    answer_end(x->answer);
    /* The answer is whole, and the server does not want the rest of the request. */
    if (!http2_stream_has_ended(s)) {
        http2_stream_set_user(s, NULL);
        http2_reset(c->http2, s, HTTP2_CANCEL);
        x->stream = NULL;
        exchange_over(x, &(struct err){ .code = OK });
    }
}

static void on_close(void *owner, struct http2_stream *s, uint32_t code)
{
    struct client_exchange *x = http2_stream_user(s);
    struct conn *c = owner;
    struct err err = { 0 };

    if (x == NULL || c->is_closing)
        return;
    x->stream = NULL;
    if (x->answer->is_complete) {
        exchange_over(x, &err);
        return;
    }
    x->reset_code = code;
    if (code == HTTP2_REFUSED_STREAM) {
        if (c->goaway.code != OK)
            err_set(&err, E_UNAVAILABLE, "%s: %s", c->pool->url.shown, c->goaway.text);
        else
            err_set(&err, E_UNAVAILABLE, "%s refused the request (REFUSED_STREAM)",
                    c->pool->url.shown);
        exchange_again(x, &err);
        return;
    }
    err_set(&err, code == HTTP2_NO_ERROR ? E_INTERNAL : grpc_status_of_reset(code),
            "%s reset the request %s (%s)", c->pool->url.shown,
            x->has_begun ? "in the middle of its answer" : "without an answer",
            http2_code_name(code));
    exchange_over(x, &err);
}

static void on_goaway(void *owner, int32_t last, uint32_t code, struct slice debug)
{
    struct conn *c = owner;
    char words[200];
    struct text text;

    (void)last;
    /* Its words are the peer's: plain ASCII only, and not many. */
    text_init_fixed(&text, words, sizeof words - 1);
    for (size_t i = 0; i < debug.size && i < 150; i++)
        text_byte(&text, debug.data[i] >= ' ' && debug.data[i] < 0x7f ? debug.data[i] : '?');
    words[text.size] = '\0';
    if (c->state == CONN_OPEN)
        c->state = CONN_LEAVING;
    err_set(&c->goaway, code == HTTP2_ENHANCE_YOUR_CALM ? E_EXHAUSTED : E_UNAVAILABLE,
            "it ends this connection (GOAWAY, %s%s%s)", http2_code_name(code),
            text.size > 0 ? ": " : "", words);
}

static bool copy(void *owner, const void *data, size_t size)
{
    struct conn *c = owner;

    text_put(&c->out, data, size);
    return !text_failed(&c->out);
}

static void on_settings(void *owner)
{
    pool_schedule(((struct conn *)owner)->pool); /* there may be room now */
}

static const struct http2_events events = {
    .on_head = on_head,
    .on_data = on_data,
    .on_end = on_end,
    .on_close = on_close,
    .on_goaway = on_goaway,
    .on_settings = on_settings,
    .copy = copy,
};

/* -- the connection ---------------------------------------------------------------------------- */

static enum err_code open_conn(struct conn *c, struct err *err)
{
    return http2_new(&c->http2, HTTP2_CLIENT, &c->pool->http2_limits, &events, c, NULL, err);
}

static void close_conn(struct conn *c)
{
    c->is_closing = true;
    http2_free(&c->http2);
}

static uint32_t room(const struct conn *c)
{
    uint32_t most = MIN(http2_peer_streams_max(c->http2), c->pool->settings.streams_max);
    uint32_t open = MAX(http2_streams_open(c->http2), c->exchanges_count);

    return most > open ? most - open : 0;
}

/* What of the body has come so far. */
static bool hand_over(struct conn *c, struct client_exchange *x)
{
    bool is_fine = true;

    for (; x->at != NULL && is_fine; x->at = exchange_piece_after(x, x->at))
        is_fine = http2_data(c->http2, x->stream, x->at->bytes, x->at->holder);
    if (is_fine && !x->is_open)
        is_fine = http2_end(c->http2, x->stream, NULL, 0);
    exchange_drop_sent(x);
    return is_fine;
}

static enum err_code start(struct conn *c, struct client_exchange *x, struct err *err)
{
    struct http2_field *fields =
        arena_alloc(x->arena, (OWN_FIELDS + x->headers_count) * sizeof *fields);
    char *length = arena_printf(x->arena, "%zu", x->unsent_bytes);
    uint32_t count = 0;

    if (fields == NULL || length == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    fields[count++] = (struct http2_field){ SLICE_LIT(":method"), slice_of(x->method) };
    fields[count++] = (struct http2_field){ SLICE_LIT(":scheme"),
                                               slice_of(c->pool->url.is_tls ? "https" : "http") };
    fields[count++] = (struct http2_field){ SLICE_LIT(":path"), slice_of(x->target) };
    fields[count++] =
        (struct http2_field){ SLICE_LIT(":authority"), slice_of(c->pool->url.authority) };
    for (uint32_t i = 0; i < x->headers_count; i++)
        fields[count++] =
            (struct http2_field){ slice_of(x->headers[i].name), slice_of(x->headers[i].value) };
    if (x->sends_agent)
        fields[count++] = (struct http2_field){ SLICE_LIT("user-agent"),
                                                SLICE_LIT("penstock/" PENSTOCK_VERSION) };
    if (x->has_length)
        fields[count++] = (struct http2_field){ SLICE_LIT("content-length"), slice_of(length) };
    bool is_bodiless = !x->is_open && x->at == NULL;
    enum err_code code = http2_request(c->http2, fields, count, is_bodiless, x, &x->stream, err);
    if (code == E_UNAVAILABLE)
        c->state = CONN_LEAVING;
    TRY(code);
    if (!is_bodiless && !hand_over(c, x))
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    return OK;
}

static void cancel(struct conn *c, struct client_exchange *x)
{
    if (x->stream == NULL)
        return;
    http2_stream_set_user(x->stream, NULL);
    http2_reset(c->http2, x->stream, HTTP2_CANCEL);
    x->stream = NULL;
}

static void more(struct conn *c, struct client_exchange *x)
{
    if (x->stream != NULL && !hand_over(c, x))
        err_set(&c->broken, E_EXHAUSTED, "no memory for a request");
}

static void grant(struct conn *c, struct client_exchange *x, size_t size)
{
    uint64_t window = c->pool->settings.window_bytes;

    (void)size;
    if (x->stream != NULL && x->ungranted_bytes < window)
        http2_allow(c->http2, x->stream, (size_t)(window - x->ungranted_bytes));
}

static bool may_repeat(const struct conn *c, const struct client_exchange *x)
{
    (void)x;
    /* The server cannot have seen what never left. */
    return !c->has_written;
}

/* What http2 wrote, to the socket. True: all of it. */
static enum err_code drain(struct conn *c, struct err *err)
{
    while (c->out_at < c->out.size && !c->is_full) {
        struct iovec part = { c->out.data + c->out_at, c->out.size - c->out_at };
        ssize_t sent = conn_write(c, &part, 1);
        if (sent < 0)
            return err_set(err, E_UNAVAILABLE, "%s: the connection broke: %s", c->pool->url.shown,
                           strerror((int)-sent));
        c->has_written |= sent > 0;
        c->out_at += (size_t)sent;
    }
    if (c->out_at == c->out.size)
        c->out.size = c->out_at = 0;
    return OK;
}

/* Which requests are all in the socket now, and who may send more. */
static void note_sent(struct conn *c)
{
    struct list_node *node = list_first(&c->exchanges), *next;

    if (c->unsent_count == 0)
        return;
    for (; node != NULL; node = next) {
        struct client_exchange *x = CONTAINER_OF(node, struct client_exchange, node);
        next = list_next(&c->exchanges, node);
        if (x->is_sent || x->stream == NULL)
            continue;
        x->unsent_bytes = http2_stream_queued(x->stream);
        if (http2_stream_has_ended(x->stream))
            exchange_all_sent(x);
        else
            exchange_tell_room(x);
    }
}

static enum err_code send_some(struct conn *c, struct err *err)
{
    bool has_more = true;

    TRY(drain(c, err));
    while (has_more && !c->is_full) {
        has_more = http2_send(c->http2, SEND_BYTES);
        TRY(drain(c, err));
    }
    note_sent(c);
    if (http2_is_over(c->http2)) {
        if (c->exchanges_count > 0)
            return err_set(err, E_DATA_LOSS,
                           "%s: what it answers is not HTTP/2, or breaks its rules",
                           c->pool->url.shown);
        if (c->state == CONN_OPEN)
            c->state = CONN_LEAVING;
    }
    if (http2_wants_send(c->http2) && !c->is_full)
        conn_dirty(c); /* users that were told sent more */
    return OK;
}

static enum err_code receive(struct conn *c, struct slice bytes, struct err *err)
{
    enum err_code code = http2_receive(c->http2, bytes, loop_now_ns(c->pool->loop), err);

    if (code == OK)
        return OK;
    if (!c->has_heard && slice_starts(bytes, "HTTP/1."))
        return err_set(err, E_DATA_LOSS, "it speaks HTTP/1.1 and no HTTP/2");
    if (code == E_INVALID)
        err->code = E_DATA_LOSS;
    return err->code;
}

static enum err_code finish(struct conn *c, struct err *err)
{
    if (c->goaway.code != OK) {
        *err = c->goaway;
        return err->code;
    }
    return err_set(err, E_UNAVAILABLE, "it closed the connection%s",
                   c->exchanges_count > 0 ? " in the middle of a request" : "");
}

static void leave(struct conn *c)
{
    http2_goaway(c->http2, HTTP2_NO_ERROR, "");
}

static bool ping(struct conn *c)
{
    http2_ping(c->http2, c->heard_ns);
    return true;
}

const struct conn_protocol conn_http2 = {
    .open = open_conn,
    .close = close_conn,
    .room = room,
    .start = start,
    .cancel = cancel,
    .more = more,
    .grant = grant,
    .receive = receive,
    .finish = finish,
    .send = send_some,
    .may_repeat = may_repeat,
    .leave = leave,
    .ping = ping,
};
