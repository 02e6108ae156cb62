/* tls_conn.c - a connection until its TLS handshake is over; then it is http1_conn.c's or http2_conn.c's.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The first byte says whether TLS is spoken at all: plain HTTP goes on as such, marked, so that its requests
 * are answered in words (serve_plain), by whatever protocol and dialect they came.
 *
 * A handshake costs as much as dozens of requests, and anybody may ask for one. So they wait in a row, and
 * what of it is done in a turn of the loop is bounded (TURN_NS, and TURN_STEPS where time stands still): whoever
 * is served already comes first, and a flood of handshakes waits for itself. How many are under way is
 * bounded too; past it the one that began first makes room, as a rule one that says nothing: handshakes
 * of the living take a round trip.
 *
 * Behind an alert there may be bytes that nobody read; closing on those would reset the connection, and
 * the alert may go down with it. So it lingers for a moment.
 */
#include <errno.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "serve/internal.h"

enum {
    TURN_STEPS = 16,
    KEEP_MAX = 64,
    HANDSHAKE_RECORD = 0x16, /* RFC 8446 5.1 */
    LINGER_MS = 2000,
    LINGER_BYTES_MAX = 1024 * 1024,
    DRAIN_MS = 2000, /* for handshakes while the server stops */
};

#define TURN_NS (NS_PER_MS / 2)

struct tls_conn {
    struct conn base; /* first */
    struct loop_fd watch;
    struct timer timer;
    struct list_node place;        /* in handshakes, while it is one */
    struct list_node due;          /* in handshakes_due */
    uint32_t skipped;
    bool fin_seen, is_lingering;
};

static void conn_free(struct tls_conn *c, bool is_watched)
{
    struct serve_loop *l = c->base.l;

    if (list_has(&c->place)) {
        list_remove(&c->place);
        l->handshakes_count--;
        stat_add(&l->stats.tls_handshakes_open, (uint64_t)-1);
    }
    list_remove(&c->due);
    timer_stop(l->loop, &c->timer);
    if (is_watched)
        loop_unwatch(l->loop, &c->watch);
    list_remove(&c->base.node);
    if (!pool_give(&l->tls_conns, c))
        mem_free(c);
}

static void conn_end(struct tls_conn *c, bool is_watched)
{
    struct serve_loop *l = c->base.l;

    struct channel channel = c->base.channel;

    conn_free(c, is_watched); /* no descriptor is closed that is watched */
    channel_close(&channel, false);
    serve_connection_gone(l);
}

static void count_failure(struct serve_loop *l, enum tls_failure failure)
{
    struct serve_stats *stats = &l->stats;
    _Atomic uint64_t *const counters[TLS_FAILURES_COUNT] = {
        [TLS_FAILED_PROTOCOL] = &stats->tls_failed_protocol,
        [TLS_FAILED_VERSION] = &stats->tls_failed_version,
        [TLS_FAILED_CIPHER] = &stats->tls_failed_cipher,
        [TLS_FAILED_ALPN] = &stats->tls_failed_alpn,
        [TLS_FAILED_CERTIFICATE] = &stats->tls_failed_certificate,
        [TLS_FAILED_ALERT] = &stats->tls_failed_alert,
        [TLS_FAILED_LEFT] = &stats->tls_failed_left,
        [TLS_FAILED_INTERNAL] = &stats->tls_failed_internal,
    };

    stat_add(&stats->tls_failed, 1);
    stat_add(counters[failure], 1);
}

static void set_due(struct tls_conn *c, uint64_t ms)
{
    struct serve_loop *l = c->base.l;

    if (timer_start(l->loop, &c->timer, loop_now_ns(l->loop) + ms * NS_PER_MS, NULL) == OK)
        return;
    stat_add(&l->stats.no_memory, 1);
    conn_end(c, true);
}

/* -- the end of one that failed -------------------------------------------------------------- */

static void linger_on(struct tls_conn *c)
{
    for (;;) {
        ssize_t got = socket_discard(c->watch.fd, LINGER_BYTES_MAX);
        if (got > 0 && (c->skipped += (uint32_t)got) <= LINGER_BYTES_MAX)
            continue;
        if (got != -EAGAIN)
            conn_end(c, true);
        return;
    }
}

/* What was said to the peer is on its way: no more follows. */
static void linger(struct tls_conn *c)
{
    struct serve_loop *l = c->base.l;

    list_remove(&c->place);
    l->handshakes_count--;
    stat_add(&l->stats.tls_handshakes_open, (uint64_t)-1);
    tls_session_free(&c->base.channel.tls);
    socket_finish(c->watch.fd);
    c->is_lingering = true;
    if (timer_start(l->loop, &c->timer, loop_now_ns(l->loop) + LINGER_MS * NS_PER_MS, NULL) != OK) {
        conn_end(c, true);
        return;
    }
    linger_on(c);
}

/* -- the end of one that went well ------------------------------------------------------------ */

static void hand_over(struct tls_conn *c, struct slice received)
{
    struct serve_loop *l = c->base.l;
    struct tls_session *tls = c->base.channel.tls;
    bool is_http2 = tls != NULL && tls_session_alpn(tls) == TLS_ALPN_HTTP2;

    if (is_http2 ? http2_conn_open(&c->base, &c->watch, received, c->fin_seen)
                 : http1_conn_take(&c->base, &c->watch, received, c->fin_seen)) {
        conn_free(c, false);
        return;
    }
    stat_add(&l->stats.no_memory, 1);
    conn_end(c, true);
}

/* -- steps --------------------------------------------------------------------------------------- */

/* Looks at the first bytes. False: they are not there yet, or this is not TLS and c is gone. */
static bool sniff(struct tls_conn *c)
{
    struct serve_loop *l = c->base.l;
    struct serve *serve = l->serve;
    uint8_t bytes[4096];
    struct err err;

    ssize_t got = socket_recv(c->watch.fd, bytes, sizeof bytes);
    if (got == -EAGAIN)
        return false;
    if (got <= 0) {
        count_failure(l, TLS_FAILED_LEFT);
        conn_end(c, true);
        return false;
    }
    struct slice received = slice_make(bytes, (size_t)got);
    if (bytes[0] != HANDSHAKE_RECORD) {
        stat_add(&l->stats.tls_failed, 1);
        stat_add(&l->stats.tls_failed_plain, 1);
        stat_add(&l->stats.bytes_in, (uint64_t)got);
        c->base.is_misdirected = serve->settings.tls_plain != SERVE_PLAIN_SERVE;
        hand_over(c, received);
        return false;
    }
    if (tls_accept(&c->base.channel.tls, serve->settings.tls, c->watch.fd, received,
                   received.size < sizeof bytes, &err) == OK)
        return true;
    stat_add(&l->stats.no_memory, 1);
    count_failure(l, TLS_FAILED_INTERNAL);
    conn_end(c, true);
    return false;
}

static void step(struct tls_conn *c)
{
    struct serve_loop *l = c->base.l;
    struct err err;

    if (c->base.channel.tls == NULL && !sniff(c))
        return;
    struct tls_session *tls = c->base.channel.tls;
    if (c->fin_seen)
        tls_expect_end(tls);
    switch (tls_handshake(tls, &err)) {
    case TLS_WANTS_READ:
    case TLS_WANTS_WRITE: return; /* epoll tells */
    case TLS_DONE:
        stat_add(tls_session_is_resumed(tls) ? &l->stats.tls_resumed : &l->stats.tls_full, 1);
        hand_over(c, slice_make(NULL, 0));
        return;
    case TLS_FAILED:
        count_failure(l, tls_session_failure(tls));
        log_debug("TLS with %.*s: %s", (int)c->base.peer_size, c->base.peer, err.text);
        linger(c);
        return;
    }
}

static void on_handshakes(struct loop_task *task)
{
    struct serve_loop *l = CONTAINER_OF(task, struct serve_loop, handshakes_task);
    struct env *env = l->serve->env;
    uint64_t begun_ns = env->mono_ns(env);
    struct list_node *node;

    for (int i = 0; i < TURN_STEPS && (node = list_pop(&l->handshakes_due)) != NULL; i++) {
        step(CONTAINER_OF(node, struct tls_conn, due));
        if (env->mono_ns(env) - begun_ns >= TURN_NS)
            break;
    }
    if (!list_is_empty(&l->handshakes_due))
        loop_defer(l->loop, task);
}

/* -- events -------------------------------------------------------------------------------------- */

static void on_ready(struct loop_fd *watch, uint32_t events)
{
    struct tls_conn *c = CONTAINER_OF(watch, struct tls_conn, watch);
    struct serve_loop *l = c->base.l;

    c->fin_seen |= (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
    if (events & EPOLLERR) {
        if (!c->is_lingering)
            count_failure(l, TLS_FAILED_LEFT);
        conn_end(c, true);
    } else if (c->is_lingering) {
        linger_on(c);
    } else if (!list_has(&c->due) &&
               (c->base.channel.tls != NULL || (events & (EPOLLIN | EPOLLRDHUP)) != 0)) {
        list_push(&l->handshakes_due, &c->due);
        loop_defer(l->loop, &l->handshakes_task);
    }
}

static void on_due(struct timer *timer)
{
    struct tls_conn *c = CONTAINER_OF(timer, struct tls_conn, timer);
    struct serve_stats *stats = &c->base.l->stats;

    if (!c->is_lingering) {
        stat_add(&stats->tls_failed, 1);
        stat_add(&stats->tls_failed_timeout, 1);
        stat_add(&stats->timeout_tls, 1);
    }
    conn_end(c, true);
}

/* -- life ---------------------------------------------------------------------------------------- */

/* A handshake that is under way goes on, and its first request is answered. */
static void conn_drain(struct conn *conn)
{
    struct tls_conn *c = CONTAINER_OF(conn, struct tls_conn, base);

    if (!c->is_lingering)
        set_due(c, MIN(c->base.l->serve->settings.tls_handshake_timeout_ms, (uint64_t)DRAIN_MS));
}

static void conn_cut(struct conn *conn)
{
    conn_end(CONTAINER_OF(conn, struct tls_conn, base), true);
}

static uint32_t conn_under_way(const struct conn *conn)
{
    (void)conn;
    return 0; /* no request has come */
}

static const struct conn_kind tls_kind = { .drain = conn_drain,
                                           .cut = conn_cut,
                                           .under_way = conn_under_way };

static void make_room(struct serve_loop *l)
{
    struct serve *serve = l->serve;
    uint32_t most = MAX(serve->settings.tls_handshakes_max / serve->loops_count, 1u);

    if (LIKELY(l->handshakes_count < most))
        return;
    stat_add(&l->stats.tls_failed, 1);
    stat_add(&l->stats.tls_failed_limit, 1);
    stat_add(&l->stats.limit_tls, 1);
    conn_end(CONTAINER_OF(list_first(&l->handshakes), struct tls_conn, place), true);
}

void tls_conn_open(struct serve_loop *l, const struct listener *listener, int fd,
                   const struct address *peer)
{
    int is_fresh;

    make_room(l);
    struct tls_conn *c = pool_take(&l->tls_conns, &is_fresh);
    if (c != NULL) {
        memset(c, 0, sizeof *c);
        c->watch.fd = fd;
        c->watch.on_ready = on_ready;
        c->timer.on_due = on_due;
    }
    if (c == NULL || conn_watch(l, &c->watch) != OK) {
        if (c != NULL && !pool_give(&l->tls_conns, c))
            mem_free(c);
        stat_add(&l->stats.no_memory, 1);
        socket_close(&fd);
        serve_connection_gone(l);
        return;
    }
    conn_init(&c->base, &tls_kind, l, listener, peer);
    c->base.channel = channel_plain(fd);
    list_push(&l->handshakes, &c->place);
    l->handshakes_count++;
    stat_add(&l->stats.tls_handshakes_open, 1);
    set_due(c, l->serve->settings.tls_handshake_timeout_ms);
}

/* RFC 8446 6.2: handshake_failure, in a record that every version understands. */
struct slice tls_refusal(struct serve *serve, const struct listener *listener)
{
    static const uint8_t alert[] = { 21, 3, 1, 0, 2, 2, 40 };

    if (!atomic_exchange(&serve->has_met_tls, true))
        log_warn("somebody speaks TLS to %s, which does not: --tls CERT,KEY or --tls auto (said "
                 "once)",
                 listener->url);
    return slice_make(alert, sizeof alert);
}

void tls_pools_init(struct serve_loop *l)
{
    list_init(&l->handshakes);
    list_init(&l->handshakes_due);
    l->handshakes_task.run = on_handshakes;
    pool_init(&l->tls_conns, sizeof(struct tls_conn), KEEP_MAX);
}

void tls_pools_deinit(struct serve_loop *l)
{
    pool_deinit(&l->tls_conns, NULL);
}
