/* http1.c - HTTP/1.1 on a connection of the pool: one exchange at a time.
 * SPDX-License-Identifier: Apache-2.0
 *
 * While a body is being sent the answer is listened for: a server that refuses a body early answers
 * and closes, and its words are worth more than "broken pipe". So a socket that takes nothing any
 * more is no end: what the server said may lie there to be read.
 *
 * A kept connection may have been closed by the server just as we write. When not one byte of an
 * answer came, the request is sent once more on a new connection if its method may be repeated
 * (RFC 9112 9.3.1), else the caller is told.
 */
#include <errno.h>
#include <sys/uio.h>

#include "client/internal.h"

enum { PIECES_A_SEND = 16 };

static struct client_exchange *current(const struct conn *c)
{
    return c->exchanges_count == 0
               ? NULL
               : CONTAINER_OF(c->exchanges.head.next, struct client_exchange, node);
}

static enum err_code open_conn(struct conn *c, struct err *err)
{
    (void)c, (void)err;
    return OK;
}

static void close_conn(struct conn *c)
{
    (void)c;
}

static uint32_t room(const struct conn *c)
{
    return c->exchanges_count == 0 && c->out.size == c->out_at ? 1 : 0;
}

static enum err_code start(struct conn *c, struct client_exchange *x, struct err *err)
{
    struct text *out = &c->out;
    uint64_t body_bytes = x->unsent_bytes;

    out->size = c->out_at = 0;
    text_printf(out, "%s %s HTTP/1.1\r\nhost: %s\r\n", x->method, x->target,
                c->pool->url.authority);
    if (x->sends_agent)
        text_str(out, "user-agent: penstock/" PENSTOCK_VERSION "\r\n");
    for (uint32_t i = 0; i < x->headers_count; i++)
        text_printf(out, "%s: %s\r\n", x->headers[i].name, x->headers[i].value);
    if (x->has_length)
        text_printf(out, "content-length: %llu\r\n", (unsigned long long)body_bytes);
    else if (x->is_chunked)
        text_str(out, "transfer-encoding: chunked\r\n");
    text_str(out, "\r\n");
    if (text_failed(out) || out->size > HEAD_BYTES_MAX) {
        text_deinit(out);
        text_init(out, 2 * (size_t)HEAD_BYTES_MAX);
        return err_set(err, E_RANGE, "the request's head is too large");
    }
    return OK;
}

static void cancel(struct conn *c, struct client_exchange *x)
{
    (void)x;
    c->is_cut = true; /* its answer cannot be told from the next one's */
    conn_dirty(c);
}

static void more(struct conn *c, struct client_exchange *x)
{
    (void)c, (void)x;
}

static void grant(struct conn *c, struct client_exchange *x, size_t size)
{
    (void)c, (void)x, (void)size; /* wants_read is asked after the turn */
}

static bool wants_read(const struct conn *c)
{
    const struct client_exchange *x = current(c);

    return x == NULL || x->ungranted_bytes < c->pool->settings.window_bytes;
}

static bool may_repeat(const struct conn *c, const struct client_exchange *x)
{
    return (c->out_at == 0 && !x->has_begun) || (c->served > 1 && x->may_repeat);
}

/* The head and the pieces from the cursor on. */
static size_t gather(struct conn *c, struct client_exchange *x, struct iovec *parts)
{
    size_t count = 0, offset = x->offset;

    if (c->out_at < c->out.size)
        parts[count++] = (struct iovec){ c->out.data + c->out_at, c->out.size - c->out_at };
    for (struct piece *p = x->at; p != NULL && count < PIECES_A_SEND;
         p = exchange_piece_after(x, p)) {
        parts[count++] =
            (struct iovec){ (void *)(uintptr_t)(p->bytes.data + offset), p->bytes.size - offset };
        offset = 0;
    }
    return count;
}

static void advance(struct conn *c, struct client_exchange *x, size_t sent)
{
    size_t of_head = MIN(sent, c->out.size - c->out_at);

    c->out_at += of_head;
    sent -= of_head;
    x->unsent_bytes -= sent;
    x->offset += sent;
    while (x->at != NULL && x->offset >= x->at->bytes.size) {
        x->offset -= x->at->bytes.size;
        x->at = exchange_piece_after(x, x->at);
    }
    exchange_drop_sent(x);
}

static enum err_code send_some(struct conn *c, struct err *err)
{
    struct client_exchange *x = current(c);
    struct iovec parts[PIECES_A_SEND];

    (void)err;
    while (x != NULL && !x->is_sent && !c->is_full) {
        size_t count = gather(c, x, parts);
        if (count > 0) {
            ssize_t sent = conn_write(c, parts, count);
            if (sent < 0) {
                /* It listens no more; what it said is read, and then it is at its end. */
                exchange_all_sent(x);
                x->is_sent_badly = true;
                break;
            }
            advance(c, x, (size_t)sent);
            continue;
        }
        if (!x->is_open)
            exchange_all_sent(x);
        exchange_tell_room(x);
        if (x->is_over || x->at == NULL)
            break;
    }
    return OK;
}

/* The answer is complete. */
static void finish_exchange(struct conn *c, struct client_exchange *x)
{
    bool is_kept = x->answer->keeps_alive && x->is_sent && !x->is_sent_badly;

    if (!is_kept) {
        c->state = CONN_LEAVING;
        c->is_cut = true;
    }
    exchange_over(x, &(struct err){ .code = OK });
}

static enum err_code receive(struct conn *c, struct slice bytes, struct err *err)
{
    struct client_exchange *x = current(c);

    if (x == NULL)
        return err_set(err, E_DATA_LOSS, "it says something that nobody asked");
    exchange_heard(x);
    TRY(answer_feed(x->answer, bytes, err));
    if (!x->is_over && x->answer->is_complete)
        finish_exchange(c, x);
    return OK;
}

static enum err_code finish(struct conn *c, struct err *err)
{
    struct client_exchange *x = current(c);

    if (x == NULL)
        return err_set(err, E_UNAVAILABLE, "it closed the connection");
    TRY(answer_finish(x->answer, err));
    if (!x->is_over)
        finish_exchange(c, x);
    return err_set(err, E_UNAVAILABLE, "it closed the connection");
}

const struct conn_protocol conn_http1 = {
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
    .wants_read = wants_read,
    .may_repeat = may_repeat,
};
