/* conn.c - one socket: connecting, reading, writing, and when it goes.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One timer does for all: how long connecting may take, then how long it may be silent, then how
 * long it may be idle. It looks at the times that are noted as things happen, and sets itself anew
 * for what is next, so that no exchange moves it.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "client/internal.h"

enum { READS_A_TURN = 16, OUT_BYTES_MAX = 8 << 20 };

static void on_ready(struct loop_fd *watch, uint32_t events);
static void on_timer(struct timer *timer);

/* -- connecting -------------------------------------------------------------------------------- */

static enum err_code refuse_connect(const struct conn *c, int error, struct err *err)
{
    const char *shown = c->pool->url.shown;

    if (error == ECONNREFUSED || error == ENOENT)
        return err_set(err, E_UNAVAILABLE, "nobody listens on %s", shown);
    return err_set(err, error == ETIMEDOUT ? E_DEADLINE : E_UNAVAILABLE, "cannot connect to %s: %s",
                   shown, strerror(error));
}

static void drop_socket(struct conn *c)
{
    if (c->is_watched)
        loop_unwatch(c->pool->loop, &c->watch);
    c->is_watched = c->is_shaking = false;
    channel_close(&c->channel, c->state == CONN_OPEN || c->state == CONN_LEAVING || c->state == CONN_DEAD);
    c->watch.fd = -1;
}

/* Begins with the address at hand: under way, or why not. */
static enum err_code connect_one(struct conn *c, struct err *err)
{
    const struct address *to = &c->pool->addresses[c->address];
    int one = 1;

    c->watch.fd = fault_hit()
                      ? (errno = EMFILE, -1)
                      : socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->watch.fd < 0)
        return refuse_connect(c, errno, err);
    c->channel = channel_plain(c->watch.fd);
    if (to->any.sa_family != AF_UNIX)
        setsockopt(c->watch.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    /* A unix socket with a full backlog says EAGAIN and does not go on by itself. */
    if (connect(c->watch.fd, &to->any, to->size) != 0 && errno != EINPROGRESS)
        return refuse_connect(c, errno, err);
    TRY(loop_watch(c->pool->loop, &c->watch, EPOLLOUT, err));
    c->is_watched = true;
    return OK;
}

/* This address and those after it, until one is under way. */
static enum err_code connect_from(struct conn *c, struct err *err)
{
    for (;; c->address++) {
        enum err_code code = connect_one(c, err);
        if (code == OK)
            return OK;
        drop_socket(c);
        if (c->address + 1 >= c->pool->addresses_count)
            return code;
    }
}

struct conn *conn_new(struct client_pool *pool, struct err *err)
{
    struct conn *c = mem_zalloc(sizeof *c);

    if (c == NULL) {
        err_set(err, E_EXHAUSTED, "no memory for a connection");
        return NULL;
    }
    c->pool = pool;
    c->protocol = pool->settings.protocol == CLIENT_HTTP2 ? &conn_http2 : &conn_http1;
    c->watch = (struct loop_fd){ .fd = -1, .on_ready = on_ready };
    c->channel = channel_plain(-1);
    c->timer.on_due = on_timer;
    c->begun_ns = pool_now_ns(pool);
    list_init(&c->exchanges);
    text_init(&c->out, OUT_BYTES_MAX);
    if (connect_from(c, err) != OK ||
        timer_start(pool->loop, &c->timer, c->begun_ns + pool->settings.connect_timeout_ns, err) !=
            OK) {
        drop_socket(c);
        conn_free(&c);
        return NULL;
    }
    list_push(&pool->conns, &c->node);
    pool->stats.connecting++;
    return c;
}

void conn_free(struct conn **slot)
{
    struct conn *c = TAKE(*slot);

    if (c == NULL)
        return;
    text_deinit(&c->out);
    mem_free(c);
}

/* -- going ------------------------------------------------------------------------------------- */

static void bury(struct conn *c)
{
    struct client_pool *pool = c->pool;

    if (c->state == CONN_CONNECTING)
        pool->stats.connecting--;
    else
        pool->stats.connections--;
    c->state = CONN_DEAD;
    timer_stop(pool->loop, &c->timer);
    drop_socket(c);
    list_remove(&c->node);
    list_push(&pool->dead_conns, &c->node);
    pool_schedule(pool);
}

void conn_fail(struct conn *c, const struct err *why)
{
    struct list_node *node;

    if (c->state == CONN_DEAD)
        return;
    bool was_connecting = c->state == CONN_CONNECTING;
    struct err reason = *why;
    bury(c);
    if (!c->has_heard)
        pool_connect_failed(c->pool, &reason);
    if (was_connecting)
        return;
    while ((node = list_first(&c->exchanges)) != NULL) {
        struct client_exchange *x = CONTAINER_OF(node, struct client_exchange, node);
        if (c->protocol->may_repeat(c, x))
            exchange_again(x, &reason);
        else
            exchange_over(x, &reason);
    }
    c->protocol->close(c);
}

void conn_exchange_left(struct conn *c, struct client_exchange *x)
{
    if (x->stream != NULL)
        c->protocol->cancel(c, x); /* its events are nobody's any more */
    list_remove(&x->node);
    c->exchanges_count--;
    if (!x->is_sent)
        c->unsent_count--;
    c->pool->stats.running--;
    x->conn = NULL;
    if (c->exchanges_count == 0)
        c->idle_ns = pool_now_ns(c->pool);
    conn_dirty(c); /* one that leaves may go now */
}

void conn_dirty(struct conn *c)
{
    c->is_dirty = true;
    pool_schedule(c->pool);
}

/* -- open -------------------------------------------------------------------------------------- */

/* What is spoken on it can begin. */
static void on_open(struct conn *c)
{
    struct client_pool *pool = c->pool;
    struct err err = { 0 };

    c->state = CONN_OPEN;
    pool->stats.connecting--;
    pool->stats.connections++;
    c->heard_ns = c->idle_ns = pool_now_ns(pool);
    c->connect_ns = c->heard_ns - c->begun_ns;
    pool->stats.connected_total++;
    pool_schedule(pool);
    enum err_code code = c->protocol->open(c, &err);
    if (code == OK)
        code = timer_start(pool->loop, &c->timer, c->heard_ns, &err);
    if (code != OK) {
        conn_fail(c, &err);
        return;
    }
    conn_dirty(c);
}

/* -- TLS ---------------------------------------------------------------------------------------- */

static enum err_code begin_tls(struct conn *c, struct err *err)
{
    struct client_pool *pool = c->pool;
    uint32_t offers = c->protocol == &conn_http2 ? TLS_OFFER_HTTP2 : TLS_OFFER_HTTP1;

    TRY(tls_connect(&c->channel.tls, pool->tls, c->channel.fd, slice_of(pool->url.host), offers, err));
    c->is_shaking = true;
    return OK;
}

/* RFC 9113 3.2: HTTP/2 is agreed upon. */
static bool speaks_ours(const struct conn *c)
{
    return c->protocol != &conn_http2 || tls_session_alpn(c->channel.tls) == TLS_ALPN_HTTP2;
}

static void shake(struct conn *c)
{
    struct err err = { 0 };

    switch (tls_handshake(c->channel.tls, &err)) {
    case TLS_WANTS_READ: loop_rewatch(c->pool->loop, &c->watch, EPOLLIN); return;
    case TLS_WANTS_WRITE: loop_rewatch(c->pool->loop, &c->watch, EPOLLOUT); return;
    case TLS_FAILED:
        err.code = E_UNAVAILABLE; /* whose fault it is, the text says */
        err_wrap(&err, "%s", c->pool->url.shown);
        conn_fail(c, &err);
        return;
    case TLS_DONE: break;
    }
    c->is_shaking = false;
    if (speaks_ours(c)) {
        on_open(c);
        return;
    }
    err_set(&err, E_UNAVAILABLE, "%s does not speak HTTP/2, which gRPC needs", c->pool->url.shown);
    conn_fail(c, &err);
}

static void on_connected(struct conn *c)
{
    struct client_pool *pool = c->pool;
    struct err err = { 0 };
    int error = 0;
    socklen_t size = sizeof error;

    if (getsockopt(c->watch.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error != 0) {
        refuse_connect(c, error, &err);
        drop_socket(c);
        c->address++;
        if (c->address >= pool->addresses_count || connect_from(c, &err) != OK)
            conn_fail(c, &err);
        return;
    }
    if (pool->tls == NULL)
        on_open(c);
    else if (begin_tls(c, &err) != OK)
        conn_fail(c, &err);
    else
        shake(c);
}

static void tap(const struct conn *c, bool is_sent, struct slice bytes)
{
    struct client_tap *tap = c->pool->settings.tap;

    if (tap != NULL)
        tap->on_bytes(tap, is_sent, bytes);
}

ssize_t conn_write(struct conn *c, struct iovec *pieces, size_t count)
{
    ssize_t sent = channel_send_pieces(&c->channel, pieces, count);

    if (sent == -EAGAIN) {
        c->is_full = true;
        return 0;
    }
    for (ssize_t left = sent; left > 0; pieces++) {
        size_t size = MIN((size_t)left, pieces->iov_len);
        if (size > 0)
            tap(c, true, slice_make(pieces->iov_base, size));
        left -= (ssize_t)size;
    }
    return sent;
}

static bool is_read_wanted(const struct conn *c)
{
    return c->protocol->wants_read == NULL || c->protocol->wants_read(c);
}

static void rewatch(struct conn *c)
{
    bool is_held = c->is_full || channel_reads_when_writable(&c->channel);
    uint32_t events =
        (is_read_wanted(c) ? (uint32_t)EPOLLIN : 0) | (is_held ? (uint32_t)EPOLLOUT : 0);

    loop_rewatch(c->pool->loop, &c->watch, events);
}

static bool receive(struct conn *c);

/* What TLS has read ahead is announced by nobody. */
COLD static void read_on(struct conn *c)
{
    for (int i = 0; i < READS_A_TURN && is_read_wanted(c); i++) {
        if (!receive(c))
            break;
    }
}

void conn_flush(struct conn *c)
{
    struct err err = c->broken;

    c->is_dirty = false;
    if (c->state == CONN_DEAD || c->state == CONN_CONNECTING)
        return;
    if (err.code == OK && !c->is_cut && !c->is_full)
        c->protocol->send(c, &err);
    if (c->state == CONN_DEAD)
        return;
    bool is_done = c->state == CONN_LEAVING && c->exchanges_count == 0 && c->out.size == c->out_at;
    if (err.code == OK && !c->is_cut && !is_done) {
        rewatch(c);
        if (UNLIKELY(channel_holds(&c->channel)))
            read_on(c);
        return;
    }
    if (err.code == OK) {
        err_set(&err, E_UNAVAILABLE, "%s: the connection was closed", c->pool->url.shown);
        c->has_heard = true; /* our own doing: it says nothing of the server */
    }
    conn_fail(c, &err);
}

static bool receive(struct conn *c)
{
    struct client_pool *pool = c->pool;
    struct err err = { 0 };
    enum err_code code;

    ssize_t got = channel_recv(&c->channel, pool->bytes, sizeof pool->bytes);
    if (got == -EAGAIN)
        return false;
    if (got > 0) {
        struct slice bytes = slice_make(pool->bytes, (size_t)got);
        c->heard_ns = loop_now_ns(pool->loop);
        c->is_pinged = false;
        if (!c->has_heard)
            pool_heard(pool);
        tap(c, false, bytes);
        code = c->protocol->receive(c, bytes, &err);
        c->has_heard = true;
    } else if (got < 0 && channel_is_tls(&c->channel) && c->exchanges_count > 0) {
        /* Without a good-bye nobody can tell whether that was all. */
        const char *refusal = tls_session_refusal(c->channel.tls);
        code = refusal != NULL ? err_set(&err, E_UNAVAILABLE, "%s", refusal)
                               : err_set(&err, E_UNAVAILABLE, "the connection broke within TLS: %s",
                                         strerror((int)-got));
    } else {
        code = c->protocol->finish(c, &err);
    }
    conn_dirty(c);
    if (code != OK && c->state != CONN_DEAD) {
        /* What is to be said of it (GOAWAY) is said, if the socket takes it. */
        struct err ignored = { 0 };
        if (got > 0)
            (void)c->protocol->send(c, &ignored);
        err_wrap(&err, "%s", pool->url.shown);
        conn_fail(c, &err);
    }
    return c->state != CONN_DEAD &&
           ((size_t)got == sizeof pool->bytes || (got > 0 && channel_has_more(&c->channel)));
}

static void on_ready(struct loop_fd *watch, uint32_t events)
{
    struct conn *c = CONTAINER_OF(watch, struct conn, watch);
    bool is_over = (events & (EPOLLHUP | EPOLLERR)) != 0;

    if (c->state == CONN_CONNECTING) {
        if (c->is_shaking)
            shake(c);
        else
            on_connected(c);
        return;
    }
    bool can_read = (events & EPOLLIN) != 0 || channel_reads_when_writable(&c->channel);
    if (events & EPOLLOUT) {
        c->is_full = false;
        conn_dirty(c);
    }
    for (int i = 0; i < READS_A_TURN && (is_over || (can_read && is_read_wanted(c))); i++) {
        if (!receive(c))
            break;
    }
}

/* -- time -------------------------------------------------------------------------------------- */

static void fail_connecting(struct conn *c)
{
    struct err err = { 0 };

    err_set(&err, E_DEADLINE, "%s did not take the connection within %.3g s", c->pool->url.shown,
            (double)c->pool->settings.connect_timeout_ns / 1e9);
    conn_fail(c, &err);
}

/* True: it answers pings, or need not yet; *due is made sooner when a ping will be. */
static bool is_alive(struct conn *c, uint64_t now, uint64_t *due)
{
    const struct client_pool_settings *s = &c->pool->settings;

    if (s->ping_ns == 0 || c->protocol->ping == NULL)
        return true;
    if (c->is_pinged) {
        *due = MIN(*due, c->pinged_ns + s->ping_timeout_ns);
        return now < c->pinged_ns + s->ping_timeout_ns;
    }
    if (now >= c->heard_ns + s->ping_ns) {
        c->is_pinged = c->protocol->ping(c);
        c->pinged_ns = now;
        c->pool->stats.pings_total++;
        conn_dirty(c);
        *due = MIN(*due, now + s->ping_timeout_ns);
        return true;
    }
    *due = MIN(*due, c->heard_ns + s->ping_ns);
    return true;
}

static bool is_too_idle(struct conn *c, uint64_t now, uint64_t *due)
{
    const struct client_pool_settings *s = &c->pool->settings;

    *due = MIN(*due, now + s->idle_timeout_ns);
    if (c->exchanges_count > 0 || c->pool->stats.connections <= s->connections_warm)
        return false;
    if (now >= c->idle_ns + s->idle_timeout_ns)
        return true;
    *due = MIN(*due, c->idle_ns + s->idle_timeout_ns);
    return false;
}

static void on_timer(struct timer *timer)
{
    struct conn *c = CONTAINER_OF(timer, struct conn, timer);
    uint64_t now = pool_now_ns(c->pool), due = UINT64_MAX;
    struct err err = { 0 };

    if (c->state == CONN_CONNECTING) {
        fail_connecting(c);
        return;
    }
    if (!is_alive(c, now, &due)) {
        err_set(&err, E_UNAVAILABLE, "%s does not answer any more: no sign of life for %.3g s",
                c->pool->url.shown, (double)(now - c->heard_ns) / 1e9);
        conn_fail(c, &err);
        return;
    }
    if (is_too_idle(c, now, &due)) {
        c->state = CONN_LEAVING;
        if (c->protocol->leave != NULL)
            c->protocol->leave(c);
        conn_dirty(c);
        return;
    }
    if (timer_start(c->pool->loop, &c->timer, due, &err) != OK)
        conn_fail(c, &err);
}
