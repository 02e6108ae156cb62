/* conn.c - what connections of both protocols do alike. SPDX-License-Identifier: Apache-2.0 */
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/internal.h"
#include "serve/output.h"

enum {
    UNSENT_MAX = 128 * 1024, /* of a stream, in the kernel and not on its way */
    ARENA_CAP = 64 * 1024 * 1024,
    RATE_GRACE_MS = 5000, /* of waiting, before a body's rate counts */
    EXCHANGES_KEEP_MAX = 64,
    HELD_MAX = 8,    /* connections whose answers are sent together */
    HELD_NS = 50000, /* from the first of them to the last */
};

struct conn *conn_of_node(struct list_node *node)
{
    return CONTAINER_OF(node, struct conn, node);
}

void conn_init(struct conn *conn, const struct conn_kind *kind, struct serve_loop *l,
               const struct listener *listener, const struct address *peer)
{
    char text[ADDRESS_TEXT_MAX];

    conn->kind = kind;
    conn->l = l;
    conn->listener = listener;
    conn->is_bounded = conn->is_misdirected = false;
    size_t size = MIN(address_text(peer, text), sizeof conn->peer - 1);
    memcpy(conn->peer, text, size);
    conn->peer_size = (uint8_t)size;
    list_push(&l->conns, &conn->node);
}

void conn_move(struct conn *conn, const struct conn_kind *kind, const struct conn *from)
{
    struct serve_loop *l = from->l;

    *conn = *from;
    conn->kind = kind;
    conn->node = conn->held = (struct list_node){ 0 };
    conn->is_bounded = false;
    list_push(&l->conns, &conn->node);
}

enum err_code conn_watch(struct serve_loop *l, struct loop_fd *watch)
{
    return loop_watch(l->loop, watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, NULL);
}

void conn_bound(struct conn *conn, int fd)
{
    if (LIKELY(conn->is_bounded))
        return;
    conn->is_bounded = true;
    socket_bound(fd, UNSENT_MAX);
}

/* -- answers that leave together ----------------------------------------------------------------- */

/* Sent one behind the other they wake a peer on the same machine once, which is a fifth of what a small request costs. */
static void send_held(struct serve_loop *l)
{
    struct list_node *node;

    while ((node = list_pop(&l->held)) != NULL) {
        struct conn *conn = CONTAINER_OF(node, struct conn, held);
        l->held_count--;
        conn->kind->send(conn);
    }
}

static void on_held(struct loop_task *task)
{
    send_held(CONTAINER_OF(task, struct serve_loop, held_task));
}

void conn_hold(struct conn *conn)
{
    struct serve_loop *l = conn->l;
    uint64_t now = loop_told_ns(l->loop);

    list_push(&l->held, &conn->held);
    if (l->held_count++ == 0) {
        l->held_from_ns = now;
        loop_defer_early(l->loop, &l->held_task);
    }
    if (l->held_count >= HELD_MAX || now - l->held_from_ns > HELD_NS)
        send_held(l);
}

void conn_hold_no_more(struct conn *conn)
{
    if (UNLIKELY(list_has(&conn->held))) {
        list_remove(&conn->held);
        conn->l->held_count--;
    }
}

/* -- exchanges --------------------------------------------------------------------------------- */

static void exchange_finish(void *object)
{
    struct serve_exchange *e = object;

    arena_free(&e->x.arena);
}

struct serve_exchange *serve_exchange_take(struct conn *conn, const struct exchange_ops *ops,
                                           uint64_t begun_ns)
{
    struct serve_loop *l = conn->l;
    int is_fresh;
    struct serve_exchange *e = pool_take(&l->exchanges, &is_fresh);

    if (UNLIKELY(e == NULL))
        return NULL;
    struct arena *arena = is_fresh ? arena_new_shared(&l->arenas, ARENA_CAP) : e->x.arena;
    if (UNLIKELY(arena == NULL)) {
        mem_free(e);
        return NULL;
    }
    if (UNLIKELY(is_fresh)) /* small requests take what the store has */
        arena_charge_to(arena, l->serve->settings.budget);
    exchange_init(&e->x, ops, arena, l->loop);
    e->match.route = NULL;
    e->dialect = DIALECT_PLAIN;
    e->more = e->more_few;
    e->more_count = 0;
    e->promised = -1;
    e->drops_body = e->is_chunked = e->is_aborted = e->wants_room = false;
    e->expects_continue = e->is_tunnel = e->knows_drain = e->is_told = false;
    e->agent = slice_make(NULL, 0);
    e->before = NULL;
    e->l = l;
    e->conn = conn;
    stat_add(&l->stats.in_flight, 1);
    e->listener = conn->listener;
    e->x.scheme = "http";
    if (UNLIKELY(conn->channel.tls != NULL)) {
        e->x.scheme = "https";
        e->x.tls = tls_session_version(conn->channel.tls);
        e->x.certificate = tls_session_certificate(conn->channel.tls);
    }
    e->x.protocol = "HTTP/1.1";
    e->x.budget = l->serve->settings.budget;
    e->x.begun_ns = begun_ns;
    memcpy(e->peer, conn->peer, sizeof e->peer);
    e->x.peer = slice_make(e->peer, conn->peer_size);
    return e;
}

void serve_exchange_add(struct serve_exchange *e, struct slice name, struct slice value)
{
    require(e->more_count < HEADERS_MORE_MAX);
    if (UNLIKELY(e->more_count == HEADERS_MORE_FEW)) {
        struct header *more = arena_alloc(e->x.arena, HEADERS_MORE_MAX * sizeof *more);
        if (UNLIKELY(more == NULL)) {
            exchange_abort(&e->x);
            return;
        }
        memcpy(more, e->more, sizeof e->more_few);
        e->more = more;
    }
    e->more[e->more_count++] = (struct header){ name, value };
}

void serve_exchange_release(struct exchange *x)
{
    struct serve_exchange *e = CONTAINER_OF(x, struct serve_exchange, x);
    struct serve_loop *l = e->l;

    require(loop_is_mine(l->loop));
    stat_add(&l->stats.in_flight, UINT64_MAX);
    if (UNLIKELY(e->before != NULL)) {
        struct exchange *before = &TAKE(e->before)->x;
        exchange_unref(&before);
    }
    caller_unref(&x->caller);
    arena_reset(x->arena);
    if (!pool_give(&l->exchanges, e)) {
        arena_free(&x->arena);
        mem_free(e);
    }
}

void serve_exchange_leave(struct exchange *x)
{
    if (x->is_gone)
        return;
    x->is_gone = true;
    x->has_offer = false;
    if (x->user != NULL && x->user->on_gone != NULL)
        x->user->on_gone(x);
}

bool serve_exchange_drain(struct serve_exchange *e)
{
    struct exchange *x = &e->x;

    if (e->knows_drain || x->is_ended || x->is_gone || x->user == NULL || x->user->on_drain == NULL)
        return false;
    e->knows_drain = true;
    x->user->on_drain(x);
    return true;
}

void serve_exchange_tunnel(struct serve_exchange *e)
{
    struct exchange *x = &e->x;

    e->is_tunnel = true;
    x->body_is_over = false;
    x->body_size = -1;
    x->can_rest = true;
}

void serve_count_answer(struct serve_loop *l, uint16_t status)
{
    struct serve_stats *stats = &l->stats;

    stat_add(status < 300   ? &stats->status_2xx
             : status < 400 ? &stats->status_3xx
             : status < 500 ? &stats->status_4xx
                            : &stats->status_5xx,
             1);
}

/* -- bodies ------------------------------------------------------------------------------------ */

void body_pace_begin(struct body_pace *pace, uint64_t now_ns)
{
    if (pace->wait_ns == 0)
        pace->wait_ns = now_ns;
}

void body_pace_got(struct body_pace *pace, uint64_t now_ns, uint64_t bytes)
{
    pace->bytes += bytes;
    if (pace->wait_ns != 0) {
        pace->waited_ns += now_ns - pace->wait_ns;
        pace->wait_ns = 0;
    }
}

bool body_pace_is_slow(const struct body_pace *pace, struct serve_loop *l, uint64_t now_ns,
                       struct err *err)
{
    const struct serve_settings *settings = &l->serve->settings;
    uint64_t since = now_ns - pace->wait_ns, waited = pace->waited_ns + since;
    uint64_t grace = MIN(settings->body_timeout_ms, (uint64_t)RATE_GRACE_MS) * NS_PER_MS;

    if (since >= settings->body_timeout_ms * NS_PER_MS) {
        stat_add(&l->stats.timeout_body, 1);
        err_set(err, E_DEADLINE,
                "the body stood still for %llu ms after %llu bytes (--body-timeout)",
                (unsigned long long)settings->body_timeout_ms, (unsigned long long)pace->bytes);
        return true;
    }
    if (waited <= grace ||
        (double)pace->bytes * (double)NS_PER_S >= (double)settings->body_rate_min * (double)waited)
        return false;
    stat_add(&l->stats.rate_body, 1);
    err_set(err, E_DEADLINE, "the body arrives at less than %llu bytes a second (--body-rate-min)",
            (unsigned long long)settings->body_rate_min);
    return true;
}

/* -- pools ------------------------------------------------------------------------------------- */

void serve_loop_pools_init(struct serve_loop *l)
{
    list_init(&l->conns);
    arena_store_init(&l->arenas);
    pool_init(&l->exchanges, sizeof(struct serve_exchange), EXCHANGES_KEEP_MAX);
    list_init(&l->held);
    l->held_task.run = on_held;
    http1_pools_init(l);
    http2_pools_init(l);
    tls_pools_init(l);
    outputs_pools_init(l);
}

void serve_loop_pools_deinit(struct serve_loop *l)
{
    pool_deinit(&l->exchanges, exchange_finish);
    http1_pools_deinit(l);
    http2_pools_deinit(l);
    tls_pools_deinit(l);
    outputs_pools_deinit(l);
    arena_store_deinit(&l->arenas);
    mem_free(TAKE(l->fields));
}
