/* pool.c - which request goes where; pool.h says what it promises.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Everything that users ask for is noted and done by the task at the end of the turn: what waits is
 * put on connections, connections are made, those with something to say are flushed, the dead are
 * freed. So a turn that makes a hundred requests writes once, and nobody is called back from within
 * his own call.
 */
#include "client/pool.h"

#include <netdb.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "client/internal.h"

enum {
    CONNECTIONS_USUAL = 8,
    WAITING_USUAL = 1024,
    STREAMS_USUAL = 100,
    WINDOW_USUAL = 1 << 20,
    WINDOW_MIN = 1024,
    CONNECT_S_USUAL = 10,
    IDLE_S_USUAL = 60,
    PING_S_USUAL = 20,
    BACKOFF_MS_USUAL = 100,
    BACKOFF_S_MAX_USUAL = 10,
    HEADER_BYTES_MAX = 16 << 20,
    EXCHANGE_BYTES_FIRST = 1024,
    EXCHANGE_BYTES_MAX = 1 << 20,
    REPEAT_BYTES_MAX = 1 << 20 /* a body that goes on is kept no further for a second try */
};

/* -- addresses --------------------------------------------------------------------------------- */

static void free_addresses(struct addrinfo **list)
{
    if (*list != NULL)
        freeaddrinfo(*list);
}

static enum err_code look_up(struct client_pool *pool, struct err *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    CLEANUP(free_addresses) struct addrinfo *list = NULL;
    char port[8];

    if (pool->url.is_unix) {
        struct address *a = &pool->addresses[0];
        a->local.sun_family = AF_UNIX;
        snprintf(a->local.sun_path, sizeof a->local.sun_path, "%.*s",
                 (int)sizeof a->local.sun_path - 1, pool->url.host);
        a->size = sizeof a->local;
        pool->addresses_count = 1;
        return OK;
    }
    snprintf(port, sizeof port, "%u", pool->url.port);
    int error = fault_hit() ? EAI_MEMORY : getaddrinfo(pool->url.host, port, &hints, &list);
    if (error != 0)
        return err_set(err, E_UNAVAILABLE, "there is no host '%s': %s", pool->url.host,
                       gai_strerror(error));
    for (struct addrinfo *at = list; at != NULL && pool->addresses_count < ADDRESSES_MAX;
         at = at->ai_next) {
        struct address *a = &pool->addresses[pool->addresses_count];
        if (at->ai_addrlen > sizeof a->storage)
            continue;
        memcpy(&a->storage, at->ai_addr, at->ai_addrlen);
        a->size = at->ai_addrlen;
        pool->addresses_count++;
    }
    if (pool->addresses_count == 0)
        return err_set(err, E_UNAVAILABLE, "the host '%s' has no address", pool->url.host);
    return OK;
}

/* -- life -------------------------------------------------------------------------------------- */

static void run_task(struct loop_task *task);
static void on_retry(struct timer *timer);

static void default_u32(uint32_t *value, uint32_t usual)
{
    if (*value == 0)
        *value = usual;
}

static void default_ns(uint64_t *value, uint64_t usual_ns)
{
    if (*value == 0)
        *value = usual_ns;
}

static void fill_settings(struct client_pool_settings *s)
{
    default_u32(&s->connections_max, CONNECTIONS_USUAL);
    default_u32(&s->waiting_max, WAITING_USUAL);
    default_u32(&s->streams_max, STREAMS_USUAL);
    default_u32(&s->window_bytes, WINDOW_USUAL);
    default_ns(&s->connect_timeout_ns, CONNECT_S_USUAL * NS_PER_S);
    default_ns(&s->idle_timeout_ns, IDLE_S_USUAL * NS_PER_S);
    default_ns(&s->ping_timeout_ns, PING_S_USUAL * NS_PER_S);
    default_ns(&s->backoff_min_ns, BACKOFF_MS_USUAL * NS_PER_MS);
    default_ns(&s->backoff_max_ns, BACKOFF_S_MAX_USUAL * NS_PER_S);
    s->window_bytes = MIN(MAX(s->window_bytes, (uint32_t)WINDOW_MIN), (uint32_t)INT32_MAX);
    s->connections_warm = MIN(s->connections_warm, s->connections_max);
    s->url = NULL; /* it was read; whoever gave it may drop it */
}

enum err_code client_pool_new(struct client_pool **ret, struct loop *loop,
                              const struct client_pool_settings *settings, struct err *err)
{
    CLEANUP(mem_free_slot) struct client_pool *pool = mem_alloc(sizeof *pool);

    if (pool == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for connections");
    memset(pool, 0, offsetof(struct client_pool, bytes));
    pool->loop = loop;
    pool->settings = *settings;
    TRY(url_parse(&pool->url, slice_of(settings->url), err));
    fill_settings(&pool->settings);
    pool->http2_limits = http2_client_limits;
    pool->http2_limits.stream_window = pool->settings.window_bytes;
    if (pool->settings.limits.header_bytes_max != 0)
        pool->http2_limits.header_bytes_max =
            (uint32_t)MIN(pool->settings.limits.header_bytes_max, (size_t)HEADER_BYTES_MAX);
    TRY(look_up(pool, err));
    if (pool->url.is_tls)
        TRY(tls_client_new(&pool->tls, &settings->tls, err));
    list_init(&pool->conns);
    list_init(&pool->dead_conns);
    list_init(&pool->waiting);
    list_init(&pool->dead);
    pool->task.run = run_task;
    pool->timer.on_due = on_retry;
    if (pool->settings.connections_warm > 0)
        pool_schedule(pool);
    *ret = TAKE(pool);
    return OK;
}

static void free_piece(struct client_exchange *x, struct piece *piece);

static void free_exchange(struct client_exchange *x)
{
    struct list_node *node;

    while ((node = list_first(&x->pieces)) != NULL)
        free_piece(x, CONTAINER_OF(node, struct piece, node));
    answer_free(&x->answer);
    arena_free(&x->arena);
    mem_free(x);
}

static void reap(struct client_pool *pool)
{
    struct list_node *node;

    while ((node = list_pop(&pool->dead)) != NULL)
        free_exchange(CONTAINER_OF(node, struct client_exchange, node));
    while ((node = list_pop(&pool->dead_conns)) != NULL) {
        struct conn *c = CONTAINER_OF(node, struct conn, node);
        conn_free(&c);
    }
}

/* Off its lists and timers, to the dead. */
static void bury(struct client_exchange *x)
{
    struct client_pool *pool = x->pool;

    x->is_over = true;
    timer_stop(pool->loop, &x->deadline);
    if (x->conn != NULL) {
        conn_exchange_left(x->conn, x);
    } else {
        list_remove(&x->node);
        pool->stats.waiting--;
    }
    list_push(&pool->dead, &x->node);
    pool_schedule(pool);
}

void client_pool_free(struct client_pool **slot)
{
    struct client_pool *pool = TAKE(*slot);
    struct list_node *node;

    if (pool == NULL)
        return;
    while ((node = list_first(&pool->conns)) != NULL) {
        struct conn *c = CONTAINER_OF(node, struct conn, node);
        while ((node = list_first(&c->exchanges)) != NULL)
            bury(CONTAINER_OF(node, struct client_exchange, node));
        conn_fail(c, &(struct err){ .code = E_CANCELLED });
    }
    while ((node = list_first(&pool->waiting)) != NULL)
        bury(CONTAINER_OF(node, struct client_exchange, node));
    reap(pool);
    timer_stop(pool->loop, &pool->timer);
    loop_undefer(&pool->task);
    tls_client_free(&pool->tls);
    mem_free(pool);
}

const struct url *client_pool_url(const struct client_pool *pool)
{
    return &pool->url;
}

struct loop *client_pool_loop(const struct client_pool *pool)
{
    return pool->loop;
}

struct client_pool_stats client_pool_stats(const struct client_pool *pool)
{
    return pool->stats;
}

uint64_t pool_now_ns(const struct client_pool *pool)
{
    struct env *env = loop_env(pool->loop);

    return env->mono_ns(env);
}

void pool_schedule(struct client_pool *pool)
{
    loop_defer(pool->loop, &pool->task);
}

/* -- connections ------------------------------------------------------------------------------- */

void pool_heard(struct client_pool *pool)
{
    pool->failures = 0;
    pool->retry_ns = 0;
}

static void fail_waiting(struct client_pool *pool, const struct err *why)
{
    uint32_t most = pool->stats.waiting; /* those that on_end adds wait for their own verdict */
    struct list_node *node;

    while (most-- > 0 && (node = list_first(&pool->waiting)) != NULL)
        exchange_over(CONTAINER_OF(node, struct client_exchange, node), why);
}

void pool_connect_failed(struct client_pool *pool, const struct err *why)
{
    const struct client_pool_settings *s = &pool->settings;
    uint32_t doublings = MIN(pool->failures, 30u);
    uint64_t delay = s->backoff_min_ns;
    struct env *env = loop_env(pool->loop);
    uint8_t chance;

    while (doublings-- > 0 && delay < s->backoff_max_ns)
        delay *= 2;
    delay = MIN(delay, s->backoff_max_ns);
    /* Between 4/5 and 6/5 of it, so that those who lost a server together do not come together. */
    env->random(env, &chance, sizeof chance);
    delay = delay / 5 * 4 + delay / 5 * 2 / 255 * chance;
    pool->failures++;
    pool->stats.failed_total++;
    pool->retry_ns = pool_now_ns(pool) + delay;
    pool->last_failure = *why;
    pool->has_failed = true;
    pool_schedule(pool);
}

static void on_retry(struct timer *timer)
{
    pool_schedule(CONTAINER_OF(timer, struct client_pool, timer));
}

static bool is_taking(const struct conn *c)
{
    return c->state == CONN_OPEN && !c->is_cut && c->broken.code == OK;
}

/* The open one with the most room. */
static struct conn *pick(struct client_pool *pool)
{
    struct conn *best = NULL;
    uint32_t best_room = 0;

    for (struct list_node *n = list_first(&pool->conns); n != NULL;
         n = list_next(&pool->conns, n)) {
        struct conn *c = CONTAINER_OF(n, struct conn, node);
        uint32_t room = is_taking(c) ? c->protocol->room(c) : 0;
        if (room > best_room) {
            best = c;
            best_room = room;
        }
    }
    return best;
}

static void put_on(struct conn *c, struct client_exchange *x)
{
    struct err err = { 0 };

    list_remove(&x->node);
    list_push(&c->exchanges, &x->node);
    c->exchanges_count++;
    c->served++;
    x->conn = c;
    x->pool->stats.waiting--;
    x->pool->stats.running++;
    x->started_ns = pool_now_ns(x->pool);
    x->times.was_kept = c->begun_ns < x->begun_ns && c->begun_ns + c->connect_ns <= x->begun_ns;
    x->times.connect_ns = x->times.was_kept ? 0 : x->started_ns - x->begun_ns;
    c->unsent_count++;
    enum err_code code = exchange_answer_new(x, &err);
    if (code == OK)
        code = c->protocol->start(c, x, &err);
    if (code == OK)
        conn_dirty(c);
    else if (code == E_UNAVAILABLE)
        exchange_again(x, &err);
    else
        exchange_over(x, &err);
}

/* How many connections of which kind there are. */
static void count_conns(struct client_pool *pool, uint32_t *ret_open, uint32_t *ret_connecting,
                        uint32_t *ret_leaving)
{
    *ret_open = *ret_connecting = *ret_leaving = 0;
    for (struct list_node *n = list_first(&pool->conns); n != NULL;
         n = list_next(&pool->conns, n)) {
        switch (CONTAINER_OF(n, struct conn, node)->state) {
        case CONN_OPEN: ++*ret_open; break;
        case CONN_CONNECTING: ++*ret_connecting; break;
        default: ++*ret_leaving;
        }
    }
}

/* As many as what waits will need, and the warm ones. Those that leave are not counted against the
 * number, up to as many again: a server that says GOAWAY while it finishes must not stop us. */
static void make_connections(struct client_pool *pool)
{
    const struct client_pool_settings *s = &pool->settings;
    uint32_t per_conn = s->protocol == CLIENT_HTTP2 ? s->streams_max : 1;
    uint32_t open, connecting, leaving;
    struct err err = { 0 };

    count_conns(pool, &open, &connecting, &leaving);
    /* Those who waited for the attempt that failed know what they waited for. */
    if (pool->has_failed && open + connecting == 0)
        fail_waiting(pool, &pool->last_failure);
    uint32_t wanted = (pool->stats.waiting + per_conn - 1) / per_conn;
    wanted = MAX(wanted, s->connections_warm > open ? s->connections_warm - open : 0);
    while (connecting < wanted && open + connecting < s->connections_max &&
           open + connecting + leaving < 2 * s->connections_max) {
        if (pool->retry_ns > pool_now_ns(pool))
            break;
        struct conn *c = conn_new(pool, &err);
        if (c == NULL) {
            pool_connect_failed(pool, &err);
            break;
        }
        connecting++;
    }
    /* Whoever waits now has nothing to wait for: the reason is known, and he may ask again. */
    count_conns(pool, &open, &connecting, &leaving);
    if (open + connecting == 0 && leaving < s->connections_max && pool->stats.waiting > 0)
        fail_waiting(pool, &pool->last_failure);
    /* Without memory for a timer whatever happens next tries again. */
    if (s->connections_warm > open + connecting && pool->retry_ns > 0 &&
        timer_start(pool->loop, &pool->timer, pool->retry_ns, &err) != OK)
        pool->last_failure = err;
}

static void flush_all(struct client_pool *pool)
{
    struct list_node *node = list_first(&pool->conns), *next;

    for (; node != NULL; node = next) {
        struct conn *c = CONTAINER_OF(node, struct conn, node);
        /* conn_flush may move c to the dead, but no other: users that it calls only note. */
        next = list_next(&pool->conns, node);
        if (c->is_dirty || c->is_cut || c->broken.code != OK)
            conn_flush(c);
    }
}

static void run_task(struct loop_task *task)
{
    struct client_pool *pool = CONTAINER_OF(task, struct client_pool, task);
    struct list_node *node;
    struct conn *c;

    while ((node = list_first(&pool->waiting)) != NULL && (c = pick(pool)) != NULL)
        put_on(c, CONTAINER_OF(node, struct client_exchange, node));
    if (pool->stats.waiting > 0 || pool->settings.connections_warm > 0)
        make_connections(pool);
    pool->has_failed = false;
    flush_all(pool);
    reap(pool);
}

/* -- asking ------------------------------------------------------------------------------------ */

static void on_deadline(struct timer *timer);

static bool is_clean(const char *text, const char *not_in)
{
    return strpbrk(text, not_in) == NULL;
}

static enum err_code copy_head(struct client_exchange *x, const struct client_request *request,
                               struct err *err)
{
    const struct url *url = &x->pool->url;
    struct arena *a = x->arena;

    if (!is_clean(request->method, "\r\n ") || !is_clean(request->target, "\r\n "))
        return err_set(err, E_INVALID, "the target '%.100s' has a blank or a line end in it",
                       request->target);
    x->method = arena_strndup(a, request->method, strlen(request->method));
    x->target = arena_printf(a, "%s%s", url->base, request->target);
    x->headers = arena_alloc(a, (request->headers_count + 2) * sizeof *x->headers);
    if (x->method == NULL || x->target == NULL || x->headers == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    for (uint32_t i = 0; i < request->headers_count; i++) {
        const struct client_header *h = &request->headers[i];
        if (!is_clean(h->value, "\r\n") || !is_clean(h->name, "\r\n: "))
            return err_set(err, E_INVALID, "the header '%s' has a line end in it", h->name);
        x->headers[i].name = arena_strndup(a, h->name, strlen(h->name));
        x->headers[i].value = arena_strndup(a, h->value, strlen(h->value));
        if (x->headers[i].name == NULL || x->headers[i].value == NULL)
            return err_set(err, E_RANGE, "the request's head is too large");
    }
    x->headers_count = request->headers_count;
    x->sends_agent = true;
    bool has_authorization = false;
    for (uint32_t i = 0; i < x->headers_count; i++) {
        x->sends_agent &= strcmp(x->headers[i].name, "user-agent") != 0;
        has_authorization |= strcmp(x->headers[i].name, "authorization") == 0;
    }
    if (x->pool->settings.authorization != NULL && !has_authorization)
        x->headers[x->headers_count++] =
            (struct client_header){ "authorization", x->pool->settings.authorization };
    return OK;
}

static struct piece *put_piece(struct client_exchange *x, struct slice bytes, struct buf *holder)
{
    struct piece *piece = x->first.is_used ? mem_zalloc(sizeof *piece) : &x->first;

    if (piece == NULL)
        return NULL;
    piece->is_used = true;
    piece->bytes = bytes;
    piece->holder = buf_ref(holder);
    list_push(&x->pieces, &piece->node);
    if (x->at == NULL) {
        x->at = piece;
        x->offset = 0;
    }
    x->unsent_bytes += bytes.size;
    x->kept_bytes += bytes.size;
    x->wants_room = true;
    return piece;
}

/* RFC 9112 7.1: the size in hex, the bytes, a line end. */
static bool put_chunk(struct client_exchange *x, struct slice bytes, struct buf *holder)
{
    struct piece *head = put_piece(x, (struct slice){ NULL, 0 }, NULL);

    if (head == NULL)
        return false;
    int size = snprintf(head->frame, sizeof head->frame, "%zx\r\n", bytes.size);
    head->bytes = slice_make(head->frame, (size_t)size);
    x->unsent_bytes += (size_t)size;
    x->kept_bytes += (size_t)size;
    return put_piece(x, bytes, holder) != NULL && put_piece(x, slice_of("\r\n"), NULL) != NULL;
}

static bool put_body(struct client_exchange *x, struct slice bytes, struct buf *holder)
{
    return x->is_chunked ? put_chunk(x, bytes, holder) : put_piece(x, bytes, holder) != NULL;
}

static enum err_code make_exchange(struct client_exchange *x, const struct client_ask *ask,
                                   struct err *err)
{
    const struct client_request *request = &ask->request;
    bool is_http1 = x->pool->settings.protocol == CLIENT_HTTP1;

    x->arena = arena_new(EXCHANGE_BYTES_FIRST, EXCHANGE_BYTES_MAX);
    if (x->arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    TRY(copy_head(x, request, err));
    x->is_head = strcmp(request->method, "HEAD") == 0;
    x->may_repeat = x->is_head || strcmp(request->method, "GET") == 0;
    x->is_open = ask->is_open;
    x->is_chunked = ask->is_open && is_http1;
    x->has_length =
        !ask->is_open && (request->body.size > 0 || strcmp(request->method, "POST") == 0 ||
                          strcmp(request->method, "PUT") == 0);
    if (request->body.size > 0 && !put_body(x, request->body, ask->holder))
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    if (ask->due_ns != 0)
        return timer_start(x->pool->loop, &x->deadline, ask->due_ns, err);
    return OK;
}

enum err_code client_pool_ask(struct client_pool *pool, const struct client_ask *ask,
                              struct client_exchange **ret, struct err *err)
{
    if (pool->stats.waiting >= pool->settings.waiting_max)
        return err_set(err, E_EXHAUSTED, "%s: %u requests wait for a connection already",
                       pool->url.shown, pool->stats.waiting);
    struct client_exchange *x = mem_zalloc(sizeof *x);
    if (x == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    x->pool = pool;
    x->user = ask->user;
    x->user_data = ask->user_data;
    x->begun_ns = pool_now_ns(pool);
    x->due_ns = ask->due_ns;
    x->deadline.on_due = on_deadline;
    x->reset_code = -1;
    list_init(&x->pieces);
    enum err_code code = make_exchange(x, ask, err);
    if (code != OK) {
        free_exchange(x);
        return code;
    }
    list_push(&pool->waiting, &x->node);
    pool->stats.waiting++;
    pool_schedule(pool);
    *ret = x;
    return OK;
}

/* -- an exchange's life ------------------------------------------------------------------------ */

void exchange_over(struct client_exchange *x, const struct err *why)
{
    uint64_t now = pool_now_ns(x->pool);

    if (x->is_over)
        return;
    if (x->first_ns != 0)
        x->times.receive_ns = now - x->first_ns;
    bury(x);
    x->user->on_end(x, why);
}

void exchange_again(struct client_exchange *x, const struct err *why)
{
    struct client_pool *pool = x->pool;
    struct list_node *first = list_first(&x->pieces);

    if (x->is_over)
        return;
    if (x->was_repeated || x->has_begun || x->is_kept_no_more) {
        exchange_over(x, why);
        return;
    }
    conn_exchange_left(x->conn, x);
    x->was_repeated = true;
    x->is_sent = false;
    x->at = first == NULL ? NULL : CONTAINER_OF(first, struct piece, node);
    x->offset = 0;
    x->unsent_bytes = 0;
    for (struct list_node *n = first; n != NULL; n = list_next(&x->pieces, n))
        x->unsent_bytes += CONTAINER_OF(n, struct piece, node)->bytes.size;
    x->stream = NULL;
    x->reset_code = -1;
    answer_free(&x->answer);
    /* Before those that came later. */
    x->node.next = pool->waiting.head.next;
    x->node.prev = &pool->waiting.head;
    x->node.next->prev = x->node.prev->next = &x->node;
    pool->stats.waiting++;
    pool->stats.repeated_total++;
    pool_schedule(pool);
}

static void on_deadline(struct timer *timer)
{
    struct client_exchange *x = CONTAINER_OF(timer, struct client_exchange, deadline);
    struct conn *c = x->conn;
    struct err why = { 0 };

    err_set(&why, E_DEADLINE, "%s %s within %.3g s", x->pool->url.shown,
            c == NULL                                  ? "did not take the connection"
            : !x->is_sent && !x->has_begun             ? "did not take the request"
            : x->answer != NULL && x->answer->has_head ? "did not finish its answer"
                                                       : "did not answer",
            (double)(x->due_ns - MIN(x->begun_ns, x->due_ns)) / 1e9);
    if (c != NULL)
        c->protocol->cancel(c, x);
    exchange_over(x, &why);
}

static void on_answer_head(struct answer *answer)
{
    struct client_exchange *x = answer->sink_data;

    if (!x->is_over && x->user->on_head != NULL)
        x->user->on_head(x, answer);
}

static void on_answer_body(struct answer *answer, struct slice piece)
{
    struct client_exchange *x = answer->sink_data;

    if (x->is_over)
        return;
    x->ungranted_bytes += piece.size;
    x->user->on_body(x, piece);
}

enum err_code exchange_answer_new(struct client_exchange *x, struct err *err)
{
    static const struct answer_sink sink = { on_answer_head, on_answer_body };

    TRY(answer_new(&x->answer, x->pool->settings.limits, x->is_head, err));
    if (x->user->on_body != NULL)
        x->answer->sink = &sink;
    x->answer->sink_data = x;
    return OK;
}

void exchange_all_sent(struct client_exchange *x)
{
    if (x->is_sent)
        return;
    x->is_sent = true;
    x->conn->unsent_count--;
    x->sent_ns = pool_now_ns(x->pool);
    x->times.send_ns = x->sent_ns - x->started_ns;
}

struct piece *exchange_piece_after(struct client_exchange *x, struct piece *piece)
{
    struct list_node *next = list_next(&x->pieces, &piece->node);

    return next == NULL ? NULL : CONTAINER_OF(next, struct piece, node);
}

static void free_piece(struct client_exchange *x, struct piece *piece)
{
    x->kept_bytes -= piece->bytes.size;
    list_remove(&piece->node);
    buf_unref(&piece->holder);
    if (piece != &x->first)
        mem_free(piece);
    else
        x->first.is_used = false;
}

void exchange_drop_sent(struct client_exchange *x)
{
    struct list_node *n = list_first(&x->pieces), *next;

    /* A body that goes on for long is not kept for another try. */
    if (!x->is_open || (x->kept_bytes <= REPEAT_BYTES_MAX && !x->has_begun))
        return;
    for (; n != NULL && (x->at == NULL || n != &x->at->node); n = next) {
        x->is_kept_no_more = true;
        next = list_next(&x->pieces, n);
        free_piece(x, CONTAINER_OF(n, struct piece, node));
    }
}

void exchange_tell_room(struct client_exchange *x)
{
    if (!x->wants_room || x->is_over || x->unsent_bytes > 0)
        return;
    x->wants_room = false;
    if (x->user->on_room != NULL && x->is_open)
        x->user->on_room(x);
}

void exchange_heard(struct client_exchange *x)
{
    if (x->has_begun)
        return;
    x->has_begun = true;
    x->first_ns = pool_now_ns(x->pool);
    x->times.wait_ns = x->first_ns - (x->sent_ns != 0 ? x->sent_ns : x->started_ns);
}

/* -- what users call --------------------------------------------------------------------------- */

void *client_exchange_data(const struct client_exchange *x)
{
    return x->user_data;
}

static void tell_more(struct client_exchange *x)
{
    if (x->conn != NULL) {
        x->conn->protocol->more(x->conn, x);
        conn_dirty(x->conn);
    }
}

/* What is to be sent of it is lost: it ends, at the end of the turn. */
static void cut(struct client_exchange *x)
{
    if (x->conn != NULL) {
        err_set(&x->conn->broken, E_EXHAUSTED, "no memory for a request");
        conn_dirty(x->conn);
    }
}

bool client_exchange_send(struct client_exchange *x, struct slice bytes, struct buf *holder)
{
    require(x->is_open);
    if (x->is_over || bytes.size == 0)
        return true;
    /* Half a chunk cannot be taken back: the request is then cut, which the peer sees. */
    if (!put_body(x, bytes, holder)) {
        cut(x);
        return false;
    }
    tell_more(x);
    return true;
}

void client_exchange_finish(struct client_exchange *x)
{
    if (x->is_over || !x->is_open)
        return;
    x->is_open = false;
    if (x->is_chunked && put_piece(x, slice_of("0\r\n\r\n"), NULL) == NULL)
        cut(x);
    tell_more(x);
}

size_t client_exchange_unsent(const struct client_exchange *x)
{
    return x->unsent_bytes;
}

void client_exchange_grant(struct client_exchange *x, size_t size)
{
    if (x->is_over || x->user->on_body == NULL)
        return;
    x->ungranted_bytes -= MIN(x->ungranted_bytes, (uint64_t)size);
    if (x->conn != NULL) {
        x->conn->protocol->grant(x->conn, x, size);
        conn_dirty(x->conn);
    }
}

void client_exchange_cancel(struct client_exchange **slot)
{
    struct client_exchange *x = TAKE(*slot);

    if (x == NULL || x->is_over)
        return;
    struct conn *c = x->conn;
    if (c != NULL) {
        c->protocol->cancel(c, x);
        conn_dirty(c);
    }
    bury(x);
}

const struct answer *client_exchange_answer(const struct client_exchange *x)
{
    return x->answer;
}

struct answer *client_exchange_take(struct client_exchange *x)
{
    return TAKE(x->answer);
}

struct client_times client_exchange_times(const struct client_exchange *x)
{
    return x->times;
}

int64_t client_exchange_reset_code(const struct client_exchange *x)
{
    return x->reset_code;
}
