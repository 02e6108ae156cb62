/* listener.c - accepting. SPDX-License-Identifier: Apache-2.0
 *
 * Every loop watches every listening socket, exclusively: the kernel wakes one of them per
 * connection. It keeps the connection unless another has clearly fewer; a connection that is
 * handed over is counted where it goes before it gets there, so that a burst spreads.
 *
 * Without descriptors or memory, accepting again at once would only burn the core: it pauses, and
 * the backlog holds who comes meanwhile.
 */
#include "serve/internal.h"

#include <errno.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    ACCEPTS_MAX = 16, /* in one turn */
    PAUSE_MS = 100,
    REJECTING_MAX = 64, /* connections that are told 503, of all loops; past it they are closed */
};

struct handover {
    struct loop_msg msg;
    struct serve_loop *to;
    const struct listener *listener;
    int fd;
    struct address peer;
};

static void conn_open(struct serve_loop *l, const struct listener *listener, int fd,
                      const struct address *peer)
{
    if (UNLIKELY(listener->is_tls))
        tls_conn_open(l, listener, fd, peer);
    else
        http1_conn_open(l, listener, fd, peer, false);
}

static void on_handover(struct loop_msg *msg)
{
    struct handover *h = CONTAINER_OF(msg, struct handover, msg);
    struct serve_loop *l = h->to;

    if (l->is_cut) { /* it came after the end */
        socket_close(&h->fd);
        serve_connection_gone(l);
        mem_free(h);
        return;
    }
    conn_open(l, h->listener, h->fd, &h->peer);
    mem_free(h);
}

static uint32_t open_of(struct serve_loop *l)
{
    return atomic_load_explicit(&l->open, memory_order_relaxed);
}

/* The loop that gets the next connection: this one, unless another has clearly fewer. */
static struct serve_loop *least_busy(struct serve_loop *l)
{
    struct serve *serve = l->serve;
    struct serve_loop *best = l;
    uint32_t mine = open_of(l), least = mine;

    for (uint32_t i = 0; i < serve->loops_count; i++)
        if (open_of(&serve->loops[i]) < least) {
            best = &serve->loops[i];
            least = open_of(best);
        }
    return mine > least + least / 8 ? best : l;
}

/* How many of a loop's connections over connections_max may be there only to be told so: a loop's part
 * of REJECTING_MAX, and of an eighth of what is let in where that is little. */
static uint32_t rejecting_max(const struct serve *serve)
{
    uint32_t all = MIN((uint32_t)REJECTING_MAX, serve->settings.connections_max / 8);

    return MAX(all / serve->loops_count, 1u);
}

static void admit(struct serve_loop *l, const struct listener *listener, int fd,
                  const struct address *peer)
{
    struct serve *serve = l->serve;
    struct serve_loop *to = l->is_draining ? l : least_busy(l);
    struct handover *h;

    stat_add(&l->stats.accepted, 1);
    if (atomic_fetch_add(&serve->connections, 1) >= serve->settings.connections_max) {
        stat_add(&l->stats.rejected, 1);
        atomic_fetch_add(&l->open, 1);
        /* No handshake just to say no. */
        if (l->rejecting >= rejecting_max(serve) || listener->is_tls) {
            socket_close(&fd);
            serve_connection_gone(l);
            return;
        }
        l->rejecting++;
        http1_conn_open(l, listener, fd, peer, true);
        return;
    }
    if (to != l && (h = mem_alloc(sizeof *h)) != NULL) {
        stat_add(&l->stats.handed_over, 1);
        atomic_fetch_add(&to->open, 1);
        *h = (struct handover){ .msg.run = on_handover, .to = to, .listener = listener, .fd = fd };
        memcpy(&h->peer, peer, sizeof h->peer);
        loop_post(to->loop, &h->msg);
        return;
    }
    atomic_fetch_add(&l->open, 1);
    conn_open(l, listener, fd, peer);
}

static void on_pause_over(struct timer *timer)
{
    listener_watch_all(CONTAINER_OF(timer, struct serve_loop, accept_timer));
}

COLD static void pause_accept(struct serve_loop *l, int error)
{
    if (atomic_load_explicit(&l->stats.accept_paused, memory_order_relaxed) % 100 == 0)
        log_warn("accepting pauses for %d ms: %s; see `ulimit -n` and --connections-max", PAUSE_MS,
                 strerror(error));
    stat_add(&l->stats.accept_paused, 1);
    listener_unwatch_all(l);
    l->accept_timer.on_due = on_pause_over;
    if (timer_start(l->loop, &l->accept_timer, loop_now_ns(l->loop) + PAUSE_MS * NS_PER_MS, NULL) !=
        OK)
        listener_watch_all(l); /* without a timer: go on, however busily */
}

/* False: there is nobody left to accept, or accepting has to pause. */
static bool accept_one(struct serve_loop *l, const struct listener *listener)
{
    struct address peer;
    int fd = socket_accept(listener->fd, &peer);

    if (fd >= 0) {
        admit(l, listener, fd, &peer);
        return true;
    }
    switch (-fd) {
    case EAGAIN: return false;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM: pause_accept(l, -fd); return false;
    default: return true; /* one that left before it was accepted: accept(2), "Error handling" */
    }
}

static void on_listener(struct loop_fd *watch, uint32_t events)
{
    struct listen_watch *w = CONTAINER_OF(watch, struct listen_watch, watch);

    (void)events;
    for (int i = 0; i < ACCEPTS_MAX && accept_one(w->l, w->listener); i++)
        ;
}

void listener_watch_all(struct serve_loop *l)
{
    for (uint32_t i = 0; i < l->serve->listeners_count; i++) {
        struct listen_watch *w = &l->listens[i];
        struct err err;
        if (w->is_watched || l->is_draining)
            continue;
        w->l = l;
        w->listener = &l->serve->listeners[i];
        w->watch = (struct loop_fd){ .fd = w->listener->fd, .on_ready = on_listener };
        enum err_code code = loop_watch(l->loop, &w->watch, EPOLLIN | EPOLLEXCLUSIVE, &err);
        w->is_watched = code == OK;
        if (code != OK && l->start_code == OK) {
            l->start_code = code;
            l->start_err = err;
        }
    }
}

void listener_unwatch_all(struct serve_loop *l)
{
    timer_stop(l->loop, &l->accept_timer);
    for (uint32_t i = 0; i < l->serve->listeners_count; i++)
        if (l->listens[i].is_watched) {
            loop_unwatch(l->loop, &l->listens[i].watch);
            l->listens[i].is_watched = false;
        }
}

/* Who is in the backlog already has connected and deserves an answer. */
void listener_drain(struct serve_loop *l)
{
    listener_unwatch_all(l);
    for (uint32_t i = 0; i < l->serve->listeners_count; i++)
        while (accept_one(l, &l->serve->listeners[i]))
            ;
    listener_unwatch_all(l); /* a pause would have begun again */
}
