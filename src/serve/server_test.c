/* server_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "serve/server_test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "exchange/collect.h"
#include "io/env.h"
#include "io/loop.h"
#include "test/harness.h"

_Atomic uint32_t seen_waiting, seen_gone, seen_produced, seen_bodies;
_Atomic bool seen_release;

/* -- handlers ---------------------------------------------------------------------------------- */

static void fail(struct exchange *x, const struct err *err)
{
    api_fail(x, DIALECT_PLAIN, err->code == E_RANGE ? 413 : 0, err);
}

static void answer_text(struct exchange *x, const char *format, uint64_t value)
{
    char *text = arena_printf(x->arena, format, (unsigned long long)value);

    exchange_answer(x, 200, "text/plain", NULL, 0, slice_of(text), NULL);
}

static void hello(struct exchange *x, const struct route_match *match)
{
    (void)match;
    exchange_answer(x, 200, "text/plain", NULL, 0, slice_of("hello\n"), NULL);
}

static void echo_done(struct exchange *x, const struct collect_result *result,
                      const struct err *err)
{
    if (err != NULL) {
        fail(x, err);
        return;
    }
    atomic_fetch_add(&seen_bodies, 1);
    exchange_answer(x, 200, "application/octet-stream", NULL, 0, result->body, result->holder);
}

static void echo(struct exchange *x, const struct route_match *match)
{
    exchange_collect(x, (struct collect_limits){ match->api->body_bytes_max, "--max-body", 0, NULL },
                     echo_done);
}

/* Says the request back as it was understood. */
static void mirror(struct exchange *x, const struct route_match *match)
{
    char *text = arena_printf(x->arena, "%.*s %.*s ?%.*s @%.*s [%.*s] %s peer=%.*s param=%.*s",
                              SLICE_ARG(x->method_text), SLICE_ARG(x->path), SLICE_ARG(x->query),
                              SLICE_ARG(x->authority), SLICE_ARG(exchange_header(x, "x-test")),
                              x->protocol, SLICE_ARG(x->peer), SLICE_ARG(match->params[0]));

    exchange_answer(x, 200, "text/plain", NULL, 0, slice_of(text), NULL);
}

/* Reads its body 1000 bytes at a time. */
struct reading {
    uint64_t size, sum;
    uint8_t piece[1000];
};

static void on_piece(struct exchange *x, size_t size, bool is_end)
{
    struct reading *r = x->user_data;

    for (size_t i = 0; i < size; i++)
        r->sum += r->piece[i];
    r->size += size;
    if (is_end)
        answer_text(x, "%llu", r->size * 1000003 + r->sum);
    else
        exchange_read(x, r->piece, sizeof r->piece);
}

static void count_gone(struct exchange *x)
{
    (void)x;
    atomic_fetch_add(&seen_gone, 1);
}

static const struct exchange_user reader = { .on_body = on_piece, .on_gone = count_gone };

static void pieces(struct exchange *x, const struct route_match *match)
{
    (void)match;
    x->user = &reader;
    x->user_data = arena_zalloc(x->arena, sizeof(struct reading));
    exchange_read(x, ((struct reading *)x->user_data)->piece, 1000);
}

/* Sends n pieces of 5000 bytes, as many as there is room for. */
struct producing {
    uint64_t left;
    uint8_t piece[5000];
};

static void on_room(struct exchange *x)
{
    struct producing *p = x->user_data;

    while (p->left > 0 && exchange_room(x) > 0) {
        p->left--;
        atomic_fetch_add(&seen_produced, 1);
        exchange_send(x, slice_make(p->piece, p->left % 2 == 0 ? 5000 : 3), NULL);
    }
    if (p->left == 0)
        exchange_end(x);
}

static const struct exchange_user producer = { .on_room = on_room, .on_gone = count_gone };

static void produce(struct exchange *x, const struct route_match *match)
{
    struct producing *p = arena_zalloc(x->arena, sizeof *p);

    memset(p->piece, 'p', sizeof p->piece);
    slice_to_u64(match->params[0], &p->left);
    x->user = &producer;
    x->user_data = p;
    exchange_respond(x, 200, NULL, 0, -1);
    on_room(x);
}

/* The same without asking for room. */
static void flood(struct exchange *x, const struct route_match *match)
{
    uint64_t count = 0;
    uint8_t *piece = arena_zalloc(x->arena, 5000);

    slice_to_u64(match->params[0], &count);
    x->user = &producer;
    exchange_respond(x, 200, NULL, 0, -1);
    while (count-- > 0)
        exchange_send(x, slice_make(piece, 5000), NULL);
    exchange_end(x);
}

static void big(struct exchange *x, const struct route_match *match)
{
    struct buf *buf = NULL;
    uint64_t size = 0;
    struct err err;

    slice_to_u64(match->params[0], &size);
    if (buf_new(&buf, x->budget, size, &err) != OK) {
        fail(x, &err);
        return;
    }
    memset(buf_fill(buf), 'b', size);
    x->user = &producer; /* for on_gone */
    exchange_answer(x, 200, "application/octet-stream", NULL, 0, buf_bytes(buf), buf);
    buf_unref(&buf);
}

/* Answers when released, looking again each millisecond; or never, when the peer leaves. */
struct waiting {
    struct exchange *x; /* owned reference */
    struct timer timer;
};

static void wait_over(struct exchange *x)
{
    struct waiting *w = x->user_data;

    timer_stop(x->loop, &w->timer);
    exchange_unref(&w->x);
}

static void wait_gone(struct exchange *x)
{
    atomic_fetch_add(&seen_gone, 1);
    wait_over(x);
}

static const struct exchange_user waiter = { .on_gone = wait_gone };

static void look(struct timer *timer)
{
    struct waiting *w = CONTAINER_OF(timer, struct waiting, timer);
    struct exchange *x = w->x;

    if (!atomic_load(&seen_release)) {
        require(timer_start(x->loop, timer, loop_now_ns(x->loop) + NS_PER_MS, NULL) == OK);
        return;
    }
    exchange_answer(x, 200, "text/plain", NULL, 0, slice_of("waited\n"), NULL);
    wait_over(x);
}

static void wait_done(struct exchange *x, const struct collect_result *result,
                      const struct err *err)
{
    struct waiting *w = arena_zalloc(x->arena, sizeof *w);

    (void)result;
    if (err != NULL) {
        fail(x, err);
        return;
    }
    x->user = &waiter;
    x->user_data = w;
    w->x = exchange_ref(x);
    w->timer.on_due = look;
    atomic_fetch_add(&seen_waiting, 1);
    look(&w->timer);
}

static void wait_long(struct exchange *x, const struct route_match *match)
{
    (void)match;
    exchange_collect(x, (struct collect_limits){ 1 << 20, "--max-body", 0, NULL }, wait_done);
}

static void odd(struct exchange *x, const struct route_match *match)
{
    struct slice kind = match->params[0];
    struct header trailer = { SLICE_LIT("x-sum"), SLICE_LIT("7") };

    if (slice_is(kind, "nobody")) {
        exchange_answer(x, 204, NULL, NULL, 0, slice_make(NULL, 0), NULL);
    } else if (slice_is(kind, "abort")) {
        exchange_respond(x, 200, NULL, 0, 100);
        exchange_send(x, slice_of("0123456789"), NULL);
        exchange_abort(x);
    } else if (slice_is(kind, "abort-chunked")) {
        exchange_respond(x, 200, NULL, 0, -1);
        exchange_send(x, slice_of("0123456789"), NULL);
        exchange_abort(x);
    } else if (slice_is(kind, "short")) {
        exchange_respond(x, 200, NULL, 0, 100);
        exchange_send(x, slice_of("0123456789"), NULL);
        exchange_end(x);
    } else if (slice_is(kind, "trailers")) {
        exchange_respond(x, 200, NULL, 0, -1);
        exchange_send(x, slice_of("body"), NULL);
        exchange_end_trailers(x, &trailer, 1);
    } else if (slice_is(kind,
                        "block")) { /* the whole loop, so that others gather for its next turn */
        atomic_fetch_add(&seen_waiting, 1);
        for (unsigned ms = 0; ms < 5000 && !atomic_load(&seen_release); ms++)
            usleep(1000);
        exchange_answer(x, 204, NULL, NULL, 0, slice_make(NULL, 0), NULL);
    } else if (slice_is(kind, "empty-chunked")) {
        exchange_respond(x, 200, NULL, 0, -1);
        exchange_end(x);
    } else {
        exchange_answer(x, 200, "text/plain", NULL, 0, slice_of("not read\n"), NULL);
    }
}

/* What the loop's thread has allocated so far. */
static void count_memory(struct exchange *x, const struct route_match *match)
{
    (void)match;
    answer_text(x, "%llu", mem_count());
}

/* From the next step on, the nth fallible one on the loop's thread fails. */
static void arm(struct exchange *x, const struct route_match *match)
{
    uint64_t nth = 0;

    slice_to_u64(match->params[0], &nth);
    fault_arm((uint32_t)nth);
    exchange_answer(x, 200, "text/plain", NULL, 0, slice_of("armed\n"), NULL);
}

static void fired(struct exchange *x, const struct route_match *match)
{
    (void)match;
    answer_text(x, "%llu", fault_fired());
}

#define GET  (1u << METHOD_GET)
#define POST (1u << METHOD_POST)

static const struct route routes[] = {
    { GET, "/hello", hello, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { POST, "/echo", echo, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET | POST | 1u << METHOD_DELETE, "/mirror/{name}", mirror, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { POST, "/pieces", pieces, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET, "/produce/{count}", produce, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET, "/flood/{count}", flood, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET, "/big/{size}", big, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET | POST, "/wait", wait_long, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET | POST, "/odd/{kind}", odd, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET, "/memory", count_memory, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET, "/arm/{nth}", arm, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET, "/fired", fired, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { POST, "/v2/models/{model}/infer", echo, DIALECT_KSERVE, ACCESS_OPEN, "test" },
};

/* -- the server -------------------------------------------------------------------------------- */

void server_prepare(struct test_server *t)
{
    static const struct route_table table = { routes, COUNT(routes) };
    static const struct route_table *const tables[] = { &table };

    memset(t, 0, sizeof *t);
    budget_init(&t->budget, 256u << 20);
    t->metrics = metrics_new();
    atomic_store(&seen_waiting, 0);
    atomic_store(&seen_gone, 0);
    atomic_store(&seen_produced, 0);
    atomic_store(&seen_bodies, 0);
    atomic_store(&seen_release, false);
    t->api.is_draining = &t->is_draining;
    t->api.metrics = t->metrics;
    t->api.grpc.message_bytes_max = 1 << 20;
    t->api.grpc.option = "--max-message";
    t->settings = (struct serve_settings){
        .loops_count = 1,
        .connections_max = 1000,
        .header_bytes_max = 32 * 1024,
        .headers_max = 100,
        .body_bytes_max = 64 << 20,
        .pipeline_max = 16,
        .streams_max = 100,
        .control_frames_max = 1000,
        .resets_max = 50,
        .connection_age_grace_ms = 20000,
        .ping_interval_min_ms = 1000,
        .ping_strikes_max = 2,
        .output_bytes_max = 64 << 20,
        .header_timeout_ms = 20000,
        .body_timeout_ms = 20000,
        .idle_timeout_ms = 20000,
        .write_timeout_ms = 20000,
        .budget = &t->budget,
        .metrics = t->metrics,
        .api = &t->api,
        .tables = tables,
        .tables_count = 1,
    };
}

bool server_start(struct test_server *t, const char *address)
{
    struct err err = { 0 };

    t->api.body_bytes_max = t->settings.body_bytes_max;
    if (serve_new(&t->serve, env_real(), &t->settings, &err) != OK ||
        (t->observer.on_exchange != NULL && observer_add(t->serve, &t->observer, &err) != OK) ||
        serve_listen(t->serve, address == NULL ? "127.0.0.1:0" : address, &err) != OK ||
        serve_start(t->serve, &err) != OK) {
        check(false, "%s", err.text);
        serve_free(&t->serve);
        metrics_free(&t->metrics);
        return false;
    }
    const char *colon = strrchr(serve_listener_url(t->serve, 0), ':');
    t->port = (uint16_t)atoi(colon + 1);
    return true;
}

void server_stop(struct test_server *t)
{
    serve_stop(t->serve);
    serve_free(&t->serve);
    metrics_free(&t->metrics);
    check(budget_used(&t->budget) == 0, "%llu bytes of bodies are still held",
          (unsigned long long)budget_used(&t->budget));
}

uint64_t server_metric(struct test_server *t, const char *name)
{
    struct text text;
    uint64_t value = 0;

    text_init(&text, 1 << 20);
    metrics_render(t->metrics, &text);
    for (const char *at = text_cstr(&text); at != NULL && *at != '\0';) {
        if (strncmp(at, name, strlen(name)) == 0 && at[strlen(name)] == ' ')
            value = strtoull(at + strlen(name) + 1, NULL, 10);
        at = strchr(at, '\n');
        at += at != NULL;
    }
    text_deinit(&text);
    return value;
}

bool wait_for(_Atomic uint32_t *value, uint32_t wanted)
{
    for (unsigned i = 0; i < 5000 && atomic_load(value) != wanted; i++)
        usleep(1000);
    return atomic_load(value) == wanted;
}

bool wait_metric(struct test_server *t, const char *name, uint64_t wanted)
{
    for (unsigned i = 0; i < 1000 && server_metric(t, name) != wanted; i++)
        usleep(5000);
    return server_metric(t, name) == wanted;
}

/* -- clients ----------------------------------------------------------------------------------- */

int client_open(const struct test_server *t)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(t->port) };
    const struct timeval patience = { .tv_sec = 10 };
    const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    require(fd >= 0 && connect(fd, (void *)&address, sizeof address) == 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

bool client_send(int fd, const void *bytes, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t sent = send(fd, (const char *)bytes + at, size - at, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        at += (size_t)sent;
    }
    return true;
}

bool client_say(int fd, const char *text)
{
    return client_send(fd, text, strlen(text));
}

void client_finish(int fd)
{
    shutdown(fd, SHUT_WR);
}

bool client_at_end(int fd)
{
    char rest[65536];
    ssize_t got;

    while ((got = recv(fd, rest, sizeof rest, 0)) > 0)
        ;
    return got == 0 || errno == ECONNRESET;
}

bool client_is_quiet(int fd, unsigned ms)
{
    struct pollfd watch = { .fd = fd, .events = POLLIN };

    return poll(&watch, 1, (int)ms) == 0;
}

static bool read_exactly(int fd, void *into, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t got = recv(fd, (char *)into + at, size - at, 0);
        if (got <= 0)
            return false;
        at += (size_t)got;
    }
    return true;
}

/* A line with its CR LF taken off; byte by byte, so that nothing behind it is read. */
static bool read_line(int fd, char *into, size_t room)
{
    size_t size = 0;

    while (size + 1 < room && read_exactly(fd, into + size, 1))
        if (++size >= 2 && memcmp(into + size - 2, "\r\n", 2) == 0) {
            into[size - 2] = '\0';
            return true;
        }
    return false;
}

static void grow_body(struct answer *answer, size_t more)
{
    answer->body = realloc(answer->body, answer->body_size + more + 1);
    require(answer->body != NULL);
}

static void read_chunks(int fd, struct answer *answer)
{
    char line[256];

    answer->is_cut = true;
    for (;;) {
        if (!read_line(fd, line, sizeof line))
            return;
        size_t size = strtoul(line, NULL, 16);
        if (size == 0)
            break;
        grow_body(answer, size);
        if (!read_exactly(fd, answer->body + answer->body_size, size) ||
            !read_exactly(fd, line, 2) || memcmp(line, "\r\n", 2) != 0)
            return;
        answer->body_size += size;
    }
    do { /* trailers are shown behind the head */
        if (!read_line(fd, line, sizeof line))
            return;
        size_t used = strlen(answer->head);
        snprintf(answer->head + used, sizeof answer->head - used, "\r\n%s", line);
    } while (line[0] != '\0');
    answer->is_cut = false;
}

void answer_read(int fd, struct answer *answer, bool is_head)
{
    size_t size = 0;
    const char *length;

    memset(answer, 0, sizeof *answer);
    while (size + 1 < sizeof answer->head && read_exactly(fd, answer->head + size, 1))
        if (++size >= 4 && memcmp(answer->head + size - 4, "\r\n\r\n", 4) == 0)
            break;
    grow_body(answer, 0);
    answer->body[0] = '\0';
    if (sscanf(answer->head, "HTTP/1.1 %d ", &answer->status) != 1)
        return;
    answer->is_chunked = answer_has(answer, "transfer-encoding: chunked");
    if (is_head || answer->status == 204 || answer->status < 200)
        return;
    if (answer->is_chunked) {
        read_chunks(fd, answer);
    } else if ((length = strstr(answer->head, "content-length: ")) != NULL) {
        size_t wanted = strtoul(length + 16, NULL, 10);
        grow_body(answer, wanted);
        while (answer->body_size < wanted) {
            ssize_t got = recv(fd, answer->body + answer->body_size, wanted - answer->body_size, 0);
            if (got <= 0)
                break;
            answer->body_size += (size_t)got;
        }
        answer->is_cut = answer->body_size < wanted;
    } else {
        char piece[4096];
        ssize_t got;
        while ((got = recv(fd, piece, sizeof piece, 0)) > 0) {
            grow_body(answer, (size_t)got);
            memcpy(answer->body + answer->body_size, piece, (size_t)got);
            answer->body_size += (size_t)got;
        }
        answer->is_cut = got < 0;
    }
    answer->body[answer->body_size] = '\0';
}

void answer_free(struct answer *answer)
{
    free(answer->body);
    answer->body = NULL;
}

bool answer_has(const struct answer *answer, const char *line)
{
    char wanted[512];

    snprintf(wanted, sizeof wanted, "\r\n%s\r\n", line);
    return strstr(answer->head, wanted) != NULL;
}

void ask(const struct test_server *t, const char *text, struct answer *answer)
{
    int fd = client_open(t);

    if (!client_say(fd, text))
        memset(answer, 0, sizeof *answer);
    else
        answer_read(fd, answer, strncmp(text, "HEAD", 4) == 0);
    close(fd);
}
