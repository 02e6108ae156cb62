/* http2_conn_test.c - the server over HTTP/2, on real sockets: what handlers see, and what peers may
 * not do. SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/server_test.h"
#include "test/harness.h"
#include "wire/http2.h"

/* -- a client of both -------------------------------------------------------------------------- */

enum { REPLIES_MAX = 600, PATIENCE_MS = 10000 };

/* One request and what came back. */
struct reply {
    struct http2_stream *stream; /* NULL: it is over */
    int status, interim;
    char head[1024]; /* "name: value\n" of each field */
    char tail[256];  /* of trailers */
    char *body;      /* owned; NUL-terminated */
    size_t body_size;
    uint32_t code; /* of the close */
    bool is_over;
};

struct client {
    int fd;
    struct http2 *h;
    uint8_t *out;
    size_t out_size, out_room;
    struct reply replies[REPLIES_MAX];
    uint32_t replies_count;
    bool reads_slowly; /* windows stay shut once they are used up */
    int32_t goaway_last;
    uint32_t goaways, goaway_code;
    char goaway_text[128];
    bool is_closed; /* by the server */
};

static void on_head(void *owner, struct http2_stream *s, const struct http2_head *head)
{
    struct reply *r = http2_stream_user(s);
    char *text = head->kind == HTTP2_TRAILERS ? r->tail : r->head;
    size_t room = head->kind == HTTP2_TRAILERS ? sizeof r->tail : sizeof r->head, at = 0;

    (void)owner;
    if (head->kind == HTTP2_INTERIM) {
        r->interim = head->status;
        return;
    }
    if (head->kind == HTTP2_RESPONSE)
        r->status = head->status;
    for (uint32_t i = 0; i < head->count && at < room; i++)
        at += (size_t)snprintf(text + at, room - at, "%.*s: %.*s\n",
                               SLICE_ARG(head->fields[i].name), SLICE_ARG(head->fields[i].value));
}

static void on_data(void *owner, struct http2_stream *s, struct slice data)
{
    struct client *c = owner;
    struct reply *r = http2_stream_user(s);

    r->body = realloc(r->body, r->body_size + data.size + 1);
    memcpy(r->body + r->body_size, data.data, data.size);
    r->body_size += data.size;
    r->body[r->body_size] = '\0';
    if (!c->reads_slowly)
        http2_allow(c->h, s, 4 << 20);
}

static void on_close(void *owner, struct http2_stream *s, uint32_t code)
{
    struct reply *r = http2_stream_user(s);

    (void)owner;
    r->is_over = true;
    r->stream = NULL;
    r->code = code;
}

static void on_goaway(void *owner, int32_t last, uint32_t code, struct slice debug)
{
    struct client *c = owner;

    c->goaways++;
    c->goaway_last = last;
    c->goaway_code = code;
    snprintf(c->goaway_text, sizeof c->goaway_text, "%.*s", SLICE_ARG(debug));
}

static bool on_copy(void *owner, const void *data, size_t size)
{
    struct client *c = owner;

    if (c->out_size + size > c->out_room) {
        c->out_room = 2 * (c->out_size + size);
        c->out = realloc(c->out, c->out_room);
    }
    memcpy(c->out + c->out_size, data, size);
    c->out_size += size;
    return true;
}

static const struct http2_events events = {
    .on_head = on_head,
    .on_data = on_data,
    .on_close = on_close,
    .on_goaway = on_goaway,
    .copy = on_copy,
};

static struct client *h2_open_with(const struct test_server *t, const struct http2_limits *limits)
{
    struct client *c = calloc(1, sizeof *c);
    struct err err;

    c->fd = client_open(t);
    require(http2_new(&c->h, HTTP2_CLIENT, limits, &events, c, NULL, &err) == OK);
    return c;
}

static struct client *h2_open(const struct test_server *t)
{
    return h2_open_with(t, &http2_client_limits);
}

static void h2_close(struct client *c)
{
    close(c->fd);
    http2_free(&c->h);
    for (uint32_t i = 0; i < c->replies_count; i++)
        free(c->replies[i].body);
    free(c->out);
    free(c);
}

/* Sends what there is, in one piece as far as the socket takes it; a server that does not read ends
 * the patience. */
static bool h2_flush(struct client *c)
{
    while (http2_send(c->h, 1 << 20))
        ;
    bool is_sent = client_send(c->fd, c->out, c->out_size);
    c->out_size = 0;
    return is_sent;
}

/* One recv of at most `wait_ms`; false: nothing came. */
static bool h2_receive(struct client *c, int wait_ms)
{
    static _Thread_local uint8_t piece[65536];
    struct pollfd watch = { .fd = c->fd, .events = POLLIN };

    if (c->is_closed || poll(&watch, 1, wait_ms) <= 0)
        return false;
    ssize_t got = recv(c->fd, piece, sizeof piece, 0);
    if (got <= 0) {
        c->is_closed = true;
        return false;
    }
    return http2_receive(c->h, slice_make(piece, (size_t)got), clock_mono_ns(), NULL) == OK;
}

/* Until the reply is over, or nothing comes any more. */
static void h2_wait(struct client *c, const struct reply *r)
{
    h2_flush(c);
    while (!r->is_over && h2_receive(c, PATIENCE_MS))
        h2_flush(c);
}

static void h2_wait_all(struct client *c)
{
    for (uint32_t i = 0; i < c->replies_count; i++)
        h2_wait(c, &c->replies[i]);
}

/* Receives for so long. */
static void h2_listen(struct client *c, unsigned ms)
{
    uint64_t due = clock_mono_ns() + ms * NS_PER_MS;

    for (uint64_t now; (now = clock_mono_ns()) < due && !c->is_closed;)
        if (h2_flush(c))
            h2_receive(c, (int)((due - now) / NS_PER_MS) + 1);
        else
            c->is_closed = true;
}

static bool h2_waits_for_end(struct client *c)
{
    h2_flush(c);
    while (h2_receive(c, PATIENCE_MS))
        h2_flush(c);
    return c->is_closed;
}

/* More fields as "name: value" strings, NULL-terminated. */
static struct reply *h2_begin(struct client *c, const char *method, const char *path,
                              const char *const *more, bool is_end)
{
    struct reply *r = &c->replies[c->replies_count];
    struct http2_field fields[24] = {
        { SLICE_LIT(":method"), slice_of(method) },
        { SLICE_LIT(":scheme"), SLICE_LIT("http") },
        { SLICE_LIT(":path"), slice_of(path) },
        { SLICE_LIT(":authority"), SLICE_LIT("localhost") },
    };
    uint32_t count = 4;
    struct err err;

    require(c->replies_count < REPLIES_MAX);
    for (; more != NULL && *more != NULL; more++) {
        struct slice line = slice_of(*more);
        size_t colon = 1 + slice_find(slice_skip(line, 1), ':');
        struct http2_field field = { slice_first(line, colon), slice_skip(line, colon + 2) };
        if (field.name.data[0] == ':')
            fields[3] = field;
        else
            fields[count++] = field;
    }
    c->replies_count++;
    if (http2_request(c->h, fields, count, is_end, r, &r->stream, &err) != OK)
        r->is_over = true;
    return r;
}

static struct reply *h2_ask(struct client *c, const char *method, const char *path,
                            const void *body, size_t size)
{
    struct reply *r = h2_begin(c, method, path, NULL, size == 0);

    if (size > 0 && r->stream != NULL) {
        http2_data(c->h, r->stream, slice_make(body, size), NULL);
        http2_end(c->h, r->stream, NULL, 0);
    }
    h2_wait(c, r);
    return r;
}

static struct reply *h2_get(struct client *c, const char *path)
{
    return h2_ask(c, "GET", path, NULL, 0);
}

static bool reply_is(const struct reply *r, int status, const char *body)
{
    return r->is_over && r->status == status && r->code == 0 &&
           (body == NULL || (r->body != NULL && strcmp(r->body, body) == 0));
}

static bool reply_has(const struct reply *r, const char *line)
{
    const char *at = strstr(r->head, line);

    return at != NULL && at[strlen(line)] == '\n';
}

static struct test_server t;

static bool begin(void)
{
    server_prepare(&t);
    return server_start(&t, NULL);
}

/* -- what handlers see ------------------------------------------------------------------------- */

TEST(requests_over_http2)
{
    if (!begin())
        return;
    struct client *c = h2_open(&t);
    const struct reply *r = h2_get(c, "/hello");
    check(reply_is(r, 200, "hello\n"), "%d %s", r->status, r->body);
    check(reply_has(r, "content-type: text/plain") && reply_has(r, "content-length: 6") &&
              strstr(r->head, "\ndate: ") != NULL,
          "%s", r->head);
    const char *const more[] = { "x-test: a", "x-test: b", "te: trailers", NULL };
    r = h2_begin(c, "DELETE", "/mirror/n%20m?a=b?c", more, true);
    h2_wait(c, r);
    check(r->body != NULL && strncmp(r->body,
                                     "DELETE /mirror/n%20m ?a=b?c @localhost [a] HTTP/2 "
                                     "peer=127.0.0.1:",
                                     65) == 0,
          "%s", r->body);
    check(strstr(r->body, "param=n m") != NULL, "%s", r->body);
    r = h2_ask(c, "HEAD", "/hello", NULL, 0);
    check(r->status == 200 && r->body_size == 0 && reply_has(r, "content-length: 6"), "%s",
          r->head);
    r = h2_get(c, "/odd/nobody");
    check(reply_is(r, 204, NULL) && strstr(r->head, "content-length") == NULL, "%s", r->head);
    r = h2_get(c, "/odd/trailers");
    check(reply_is(r, 200, "body") && strcmp(r->tail, "x-sum: 7\n") == 0, "%s", r->tail);
    r = h2_get(c, "/odd/empty-chunked");
    check(reply_is(r, 200, NULL) && r->body_size == 0, "%d", r->status);
    r = h2_get(c, "/nowhere");
    check(r->status == 404 && strstr(r->body, "there is nothing at /nowhere") != NULL, "%s",
          r->body);
    r = h2_ask(c, "PUT", "/hello", NULL, 0);
    check(r->status == 405 && reply_has(r, "allow: GET, HEAD, OPTIONS"), "%s", r->head);
    r = h2_ask(c, "OPTIONS", "*", NULL, 0);
    check(r->status == 204, "%d", r->status);
    check(server_metric(&t, "penstock_http2_connections_open") == 1, "open");
    check(server_metric(&t, "penstock_http2_streams_open") == 0, "streams");
    check(server_metric(&t, "penstock_http_answers_total{class=\"2xx\"}") == 7, "%llu",
          (unsigned long long)server_metric(&t, "penstock_http_answers_total{class=\"2xx\"}"));
    h2_close(c);
    check(wait_metric(&t, "penstock_http2_connections_open", 0), "closed");
    check(wait_metric(&t, "penstock_connections_open", 0), "closed");
    server_stop(&t);
}

TEST(heads_that_are_refused)
{
    static const struct {
        const char *path, *more[3];
        int status;
        const char *words;
    } table[] = {
        { "/hello", { ":authority: evil.example" }, 403, "--allow-host" },
        { "/hello", { "host: other" }, 400, ":authority" },
        { "/hello", { ":authority: [::1" }, 400, ":authority" },
        { "/hello", { ":authority: a:b:c" }, 400, ":authority" },
        { "/hello", { "origin: http://evil.example" }, 403, "--cors-origin" },
        { "/hel%zzlo", { NULL }, 400, "path" },
        { "/a#b", { NULL }, 400, "fragment" },
        { "/hello", { "content-type: application/grpc", ":authority: evil.example" }, 200, NULL },
    };
    char path[9000];

    if (!begin())
        return;
    struct client *c = h2_open(&t);
    for (size_t i = 0; i < COUNT(table); i++) {
        struct reply *r = h2_begin(c, "GET", table[i].path, table[i].more, true);
        h2_wait(c, r);
        check(reply_is(r, table[i].status, NULL), "%zu: %d %u", i, r->status, r->code);
        if (table[i].words != NULL)
            check(r->body != NULL && strstr(r->body, table[i].words) != NULL, "%zu: %s", i,
                  r->body);
        else /* gRPC's clients look at grpc-status */
            check(reply_has(r, "grpc-status: 7") && strstr(r->head, "date:") == NULL, "%s",
                  r->head);
    }
    memset(path, 'p', sizeof path);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    const struct reply *r = h2_get(c, path);
    check(r->status == 414, "%d", r->status);
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "and it goes on");
    h2_close(c);
    server_stop(&t);
}

TEST(bodies_over_http2)
{
    enum { MOST = 3 << 20 };
    static const size_t sizes[] = { 1, 100, 16384, 16385, 65535, 65536, 300000, MOST };
    uint8_t *body = malloc(MOST);

    for (size_t i = 0; i < MOST; i++)
        body[i] = (uint8_t)test_random();
    if (!begin())
        return;
    struct client *c = h2_open(&t);
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int has_length = 0; has_length < 2; has_length++) {
            char length[64];
            snprintf(length, sizeof length, "content-length: %zu", sizes[i]);
            const char *const more[] = { length, NULL };
            struct reply *r = h2_begin(c, "POST", "/echo", has_length ? more : NULL, false);
            /* In two pieces, so that the end sometimes comes alone. */
            http2_data(c->h, r->stream, slice_make(body, sizes[i] / 2), NULL);
            h2_flush(c);
            http2_data(c->h, r->stream, slice_make(body + sizes[i] / 2, sizes[i] - sizes[i] / 2),
                       NULL);
            if (i % 2 == 0)
                h2_flush(c);
            http2_end(c->h, r->stream, NULL, 0);
            h2_wait(c, r);
            check(reply_is(r, 200, NULL) && r->body_size == sizes[i] &&
                      memcmp(r->body, body, sizes[i]) == 0,
                  "%zu: %d, %zu bytes, %u", sizes[i], r->status, r->body_size, r->code);
        }
    uint64_t sum = 0;
    for (size_t i = 0; i < 100000; i++)
        sum += body[i];
    char wanted[32];
    snprintf(wanted, sizeof wanted, "%llu", 100000ull * 1000003 + sum);
    check(reply_is(h2_ask(c, "POST", "/pieces", body, 100000), 200, wanted), "in pieces of 1000");
    check(reply_is(h2_ask(c, "POST", "/pieces", NULL, 0), 200, "0"), "none");
    const struct reply *r = h2_get(c, "/big/5000000");
    check(reply_is(r, 200, NULL) && r->body_size == 5000000, "%zu", r->body_size);
    r = h2_get(c, "/produce/1000");
    check(reply_is(r, 200, NULL) && r->body_size == 500 * 5000 + 500 * 3, "%zu", r->body_size);
    h2_close(c);
    server_stop(&t);
    free(body);
}

TEST(many_streams_at_once_are_answered_together)
{
    if (!begin())
        return;
    struct client *c = h2_open(&t);
    h2_get(c, "/hello"); /* SETTINGS are exchanged */
    for (int i = 0; i < 64; i++)
        h2_begin(c, "GET", i % 2 ? "/hello" : "/mirror/x", NULL, true);
    h2_flush(c);
    unsigned pieces = 0;
    while (!c->replies[64].is_over && h2_receive(c, PATIENCE_MS))
        pieces++;
    h2_wait_all(c);
    for (int i = 1; i <= 64; i++)
        check(reply_is(&c->replies[i], 200, NULL), "%d: %d", i, c->replies[i].status);
    check(pieces <= 3, "%u pieces", pieces);
    h2_close(c);
    server_stop(&t);
}

/* Calls of 20 connections are ready in one turn, answers wait for each other; some are large, some are several, and one
 * leaves. */
TEST(answers_of_many_connections_in_one_turn)
{
    enum { CONNECTIONS = 20, LEAVES = 9 };
    struct client *clients[CONNECTIONS];

    if (!begin())
        return;
    for (int i = 0; i < CONNECTIONS; i++) {
        clients[i] = h2_open(&t);
        h2_get(clients[i], "/hello"); /* SETTINGS are exchanged */
    }
    atomic_store(&seen_release, false);
    uint32_t before = atomic_load(&seen_waiting);
    int blocker = client_open(&t);
    client_say(blocker, "GET /odd/block HTTP/1.1\r\nHost: localhost\r\n\r\n");
    check(wait_for(&seen_waiting, before + 1), "the loop runs");
    for (int i = 0; i < CONNECTIONS; i++) {
        for (int j = 0; j < 1 + i % 3; j++)
            h2_begin(clients[i], "GET", i % 4 == 3 ? "/big/30000" : "/hello", NULL, true);
        if (i % 5 == 4)
            for (int j = 0; j < 6; j++)
                h2_begin(clients[i], "GET", "/mirror/x", NULL, true);
        h2_flush(clients[i]);
    }
    h2_close(clients[LEAVES]);
    atomic_store(&seen_release, true);
    for (int i = 0; i < CONNECTIONS; i++) {
        if (i == LEAVES)
            continue;
        h2_wait_all(clients[i]);
        int count = 2 + i % 3 + (i % 5 == 4 ? 6 : 0);
        for (int j = 0; j < count; j++)
            check(reply_is(&clients[i]->replies[j], 200, NULL), "%d, %d: %d", i, j,
                  clients[i]->replies[j].status);
        if (i % 4 == 3)
            check(clients[i]->replies[1].body_size == 30000, "%d: %zu bytes", i,
                  clients[i]->replies[1].body_size);
        h2_close(clients[i]);
    }
    close(blocker);
    check(wait_metric(&t, "penstock_connections_open", 0), "some are left");
    server_stop(&t);
}

TEST(a_stream_that_waits_holds_up_no_other)
{
    if (!begin())
        return;
    struct client *c = h2_open(&t);
    struct reply *waiting = h2_begin(c, "GET", "/wait", NULL, true);
    h2_flush(c);
    check(wait_for(&seen_waiting, 1), "waits");
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "another");
    check(!waiting->is_over, "still");
    atomic_store(&seen_release, true);
    h2_wait(c, waiting);
    check(reply_is(waiting, 200, "waited\n"), "%d", waiting->status);
    h2_close(c);
    server_stop(&t);
}

TEST(a_client_that_resets_or_leaves_cancels)
{
    if (!begin())
        return;
    struct client *c = h2_open(&t);
    struct reply *r = h2_begin(c, "GET", "/wait", NULL, true);
    h2_flush(c);
    check(wait_for(&seen_waiting, 1), "waits");
    http2_reset(c->h, r->stream, HTTP2_CANCEL);
    h2_flush(c);
    check(wait_for(&seen_gone, 1), "gone by reset");
    check(server_metric(&t, "penstock_http2_resets_total{by=\"client\"}") == 1, "counted");
    check(server_metric(&t, "penstock_http_departed_total") == 1, "counted");
    h2_begin(c, "GET", "/wait", NULL, true);
    h2_begin(c, "POST", "/pieces", NULL, false);
    h2_flush(c);
    check(wait_for(&seen_waiting, 2), "waits");
    h2_close(c);
    check(wait_for(&seen_gone, 3), "gone with the connection: %u", seen_gone);
    check(wait_metric(&t, "penstock_http2_streams_open", 0), "streams");
    server_stop(&t);
}

TEST(answers_that_break_off_say_so)
{
    static const char *const kinds[] = { "/odd/abort", "/odd/abort-chunked", "/odd/short" };

    if (!begin())
        return;
    struct client *c = h2_open(&t);
    for (size_t i = 0; i < COUNT(kinds); i++) {
        const struct reply *r = h2_get(c, kinds[i]);
        check(r->is_over && r->code == HTTP2_INTERNAL_ERROR, "%s: %u", kinds[i], r->code);
    }
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "the others go on");
    check(server_metric(&t, "penstock_http2_resets_total{by=\"server\"}") == 3, "counted");
    h2_close(c);
    server_stop(&t);
}

TEST(an_answer_that_does_not_wait_for_the_body)
{
    static uint8_t body[500000];

    if (!begin())
        return;
    struct client *c = h2_open(&t);
    struct reply *r = h2_begin(c, "POST", "/odd/x", NULL, false);
    http2_data(c->h, r->stream, slice_make(body, sizeof body), NULL);
    h2_wait(c, r);
    check(reply_is(r, 200, "not read\n"), "%d %u", r->status, r->code);
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "and the next");
    h2_close(c);
    server_stop(&t);
}

TEST(expect_continue_over_http2)
{
    const char *const more[] = { "expect: 100-continue", NULL };

    if (!begin())
        return;
    struct client *c = h2_open(&t);
    struct reply *r = h2_begin(c, "POST", "/echo", more, false);
    h2_flush(c);
    while (r->interim == 0 && h2_receive(c, PATIENCE_MS))
        h2_flush(c);
    check(r->interim == 100 && r->status == 0, "%d", r->interim);
    http2_data(c->h, r->stream, slice_of("x"), NULL);
    http2_end(c->h, r->stream, NULL, 0);
    h2_wait(c, r);
    check(reply_is(r, 200, "x"), "%d", r->status);
    r = h2_begin(c, "POST", "/odd/x", more, false); /* nobody wants it: no 100 */
    h2_wait(c, r);
    check(reply_is(r, 200, "not read\n") && r->interim == 0, "%d", r->interim);
    h2_close(c);
    server_stop(&t);
}

TEST(a_slow_reader_slows_its_producer)
{
    static const struct http2_limits narrow = { .header_bytes_max = 65536,
                                                .fields_max = 100,
                                                .stream_window = 10000,
                                                .connection_window = 1 << 20,
                                                .frame_bytes_max = 16384 };

    if (!begin())
        return;
    struct client *c = h2_open_with(&t, &narrow);
    c->reads_slowly = true;
    h2_get(c, "/hello");
    struct reply *r = h2_begin(c, "GET", "/produce/100000", NULL, true);
    h2_listen(c, 200);
    check(r->body_size == 10000, "%zu", r->body_size);
    uint32_t produced = atomic_load(&seen_produced);
    check(produced > 10 && produced < 100, "%u", produced);
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "others do not notice");
    http2_allow(c->h, r->stream, 1 << 20);
    h2_listen(c, 200);
    check(atomic_load(&seen_produced) > produced + 300, "%u", seen_produced);
    http2_reset(c->h, r->stream, HTTP2_CANCEL);
    h2_flush(c);
    check(wait_for(&seen_gone, 1), "gone");
    h2_close(c);
    server_stop(&t);
}

TEST(http1_goes_on_as_before)
{
    struct answer a;

    if (!begin())
        return;
    /* RFC 9113 3.1 dropped Upgrade: h2c; it is ignored. */
    ask(&t,
        "GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        &a);
    check(a.status == 200 && strcmp(a.body, "hello\n") == 0, "%d", a.status);
    answer_free(&a);
    /* Its preface is for the first request of a connection only. */
    int fd = client_open(&t);
    client_say(fd,
               "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 200, "%d", a.status);
    answer_free(&a);
    answer_read(fd, &a, false);
    check(a.status == 505, "%d", a.status);
    answer_free(&a);
    close(fd);
    server_stop(&t);
}

/* -- what peers may not do --------------------------------------------------------------------- */

static const char settings_frame[] = "\0\0\0\4\0\0\0\0\0";
static const char get_block[] = "\x82\x86\x84\x41\x09localhost";           /* GET / */
static const char post_block[] = "\x83\x86\x04\x05/echo\x41\x09localhost"; /* POST /echo */

static void raw_frame(int fd, uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
                      size_t size)
{
    uint8_t head[9] = { (uint8_t)(size >> 16),
                        (uint8_t)(size >> 8),
                        (uint8_t)size,
                        type,
                        flags,
                        (uint8_t)(stream >> 24),
                        (uint8_t)(stream >> 16),
                        (uint8_t)(stream >> 8),
                        (uint8_t)stream };

    client_send(fd, head, sizeof head);
    client_send(fd, payload, size);
}

static int raw_open(void)
{
    int fd = client_open(&t);

    client_say(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client_send(fd, settings_frame, 9);
    raw_frame(fd, 4, 1, 0, NULL, 0); /* ACK, ahead of what it acknowledges: TCP keeps the order */
    return fd;
}

/* Reads to the end: the code of the last GOAWAY, or UINT32_MAX. */
static uint32_t raw_end(int fd)
{
    static uint8_t all[1 << 20];
    size_t size = 0;
    uint32_t code = UINT32_MAX;
    ssize_t got;

    while (size < sizeof all && (got = recv(fd, all + size, sizeof all - size, 0)) > 0)
        size += (size_t)got;
    for (size_t at = 0; at + 9 <= size;) {
        size_t length = (size_t)(all[at] << 16 | all[at + 1] << 8 | all[at + 2]);
        if (all[at + 3] == 7 && at + 17 <= size)
            code = (uint32_t)(all[at + 13] << 24 | all[at + 14] << 16 | all[at + 15] << 8 |
                              all[at + 16]);
        at += 9 + length;
    }
    close(fd);
    return code;
}

static void abuse_ping(int fd, uint32_t i)
{
    raw_frame(fd, 6, 0, 0, "12345678", 8);
    (void)i;
}
static void abuse_settings(int fd, uint32_t i)
{
    raw_frame(fd, 4, 0, 0, NULL, 0);
    (void)i;
}
static void abuse_priority(int fd, uint32_t i)
{
    raw_frame(fd, 2, 0, 1 + 2 * i, "\0\0\0\0\x10", 5);
}
static void abuse_window(int fd, uint32_t i)
{
    raw_frame(fd, 8, 0, 0, "\0\0\0\x01", 4);
    (void)i;
}
static void abuse_empty_data(int fd, uint32_t i)
{
    if (i == 0)
        raw_frame(fd, 1, 4, 1, post_block, sizeof post_block - 1);
    raw_frame(fd, 0, 0, 1, NULL, 0);
}
static void abuse_continuation(int fd, uint32_t i)
{
    if (i == 0)
        raw_frame(fd, 1, 0, 1, get_block, sizeof get_block - 1);
    raw_frame(fd, 9, 0, 1, NULL, 0);
}
static void abuse_wait(int fd, uint32_t i) /* GET /wait, for ever */
{
    static const char block[] = "\x82\x86\x04\x05/wait\x41\x09localhost";

    raw_frame(fd, 1, 5, 1 + 2 * i, block, sizeof block - 1);
}
/* Of what is not answered before the reset is read, however the bytes arrive. */
static void abuse_reset(int fd, uint32_t i)
{
    abuse_wait(fd, i);
    raw_frame(fd, 3, 0, 1 + 2 * i, "\0\0\0\x08", 4);
}
static void abuse_made_reset(int fd, uint32_t i)
{
    raw_frame(fd, 1, 4, 1 + 2 * i, post_block, sizeof post_block - 1);
    raw_frame(fd, 8, 0, 1 + 2 * i, "\x7f\xff\xff\xff", 4);
}
static void abuse_bomb(int fd, uint32_t i)
{
    char block[4200];

    if (i == 0) { /* x: yyy... into the table, and then a thousand times by its index */
        memcpy(block, "\x82\x86\x84\x01\x09localhost\x40\x01x\x7f\xc1\x1d", 20);
        memset(block + 20, 'y', 3904);
        raw_frame(fd, 1, 4, 1, block, 3924);
    } else {
        memcpy(block, get_block, sizeof get_block - 1);
        block[3] = 1; /* :authority stays out of the table */
        memset(block + sizeof get_block - 1, 0xbe, 2000);
        raw_frame(fd, 1, 5, 1 + 2 * i, block, 2000 + sizeof get_block - 1);
    }
}

TEST(abuse_ends_its_own_connection)
{
    static const struct {
        const char *name;
        void (*send)(int fd, uint32_t i);
        const char *limit; /* "x" of limit_hits_total{limit="x"} */
        uint32_t code, most;
    } table[] = {
        { "PING", abuse_ping, "ping-strikes-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "SETTINGS", abuse_settings, "control-frames-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "PRIORITY", abuse_priority, "control-frames-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "WINDOW_UPDATE", abuse_window, "control-frames-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "empty DATA", abuse_empty_data, "control-frames-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "CONTINUATION", abuse_continuation, "header-bytes-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "rapid reset", abuse_reset, "resets-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "MadeYouReset", abuse_made_reset, "resets-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "HPACK bomb", abuse_bomb, "header-bytes-max", HTTP2_ENHANCE_YOUR_CALM, 2000 },
        { "streams", abuse_wait, "streams-max", HTTP2_ENHANCE_YOUR_CALM, 200 },
    };
    char metric[96];

    if (!begin())
        return;
    struct client *honest = h2_open(&t);
    for (size_t i = 0; i < COUNT(table); i++) {
        snprintf(metric, sizeof metric, "penstock_limit_hits_total{limit=\"%s\"}", table[i].limit);
        uint64_t before = server_metric(&t, metric);
        int fd = raw_open();
        for (uint32_t n = 0; n < table[i].most; n++)
            table[i].send(fd, n);
        uint32_t code = raw_end(fd);
        check(code == table[i].code, "%s: %s", table[i].name,
              code == UINT32_MAX ? "no GOAWAY" : http2_code_name(code));
        check(server_metric(&t, metric) > before, "%s: %s", table[i].name, metric);
        check(reply_is(h2_get(honest, "/hello"), 200, "hello\n"), "%s: others suffer",
              table[i].name);
    }
    h2_close(honest);
    check(wait_metric(&t, "penstock_http2_streams_open", 0), "streams");
    check(wait_metric(&t, "penstock_http2_connections_open", 0), "connections");
    server_stop(&t);
}

TEST(broken_protocol_ends_its_own_connection)
{
    static const struct {
        const char *name, *frames;
        size_t size;
        uint32_t code;
    } table[] = {
        { "DATA on stream 0", "\0\0\1\0\0\0\0\0\0x", 10, HTTP2_PROTOCOL_ERROR },
        { "a wrong preface", "", 0, HTTP2_PROTOCOL_ERROR },
        { "a frame too large", "\xff\xff\xff\4\0\0\0\0\0", 9, HTTP2_FRAME_SIZE_ERROR },
        { "HPACK nonsense", "\0\0\2\1\5\0\0\0\1\xff\x80", 11, HTTP2_COMPRESSION_ERROR },
    };

    if (!begin())
        return;
    for (size_t i = 0; i < COUNT(table); i++) {
        int fd;
        if (table[i].size == 0) {
            fd = client_open(&t);
            client_say(fd, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
        } else {
            fd = raw_open();
            client_send(fd, table[i].frames, table[i].size);
        }
        uint32_t code = raw_end(fd);
        check(code == table[i].code, "%s: %u", table[i].name, code);
    }
    check(server_metric(&t, "penstock_http_malformed_total") == COUNT(table), "counted");
    server_stop(&t);
}

TEST(a_lie_about_the_length_costs_the_stream)
{
    const char *const more[] = { "content-length: 5", NULL };

    if (!begin())
        return;
    struct client *c = h2_open(&t);
    for (int i = 0; i < 2; i++) {
        struct reply *r = h2_begin(c, "POST", i == 0 ? "/echo" : "/pieces", more, false);
        http2_data(c->h, r->stream, slice_of(i == 0 ? "1234" : "123456"), NULL);
        http2_end(c->h, r->stream, NULL, 0);
        h2_wait(c, r);
        check(r->is_over && r->status == 0 && r->code == HTTP2_PROTOCOL_ERROR, "%d: %d %u", i,
              r->status, r->code);
    }
    check(wait_for(&seen_gone, 1), "its reader was told");
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "others go on");
    h2_close(c);
    server_stop(&t);
}

TEST(limits_of_one_request)
{
    const char *const more[] = { "content-length: 70000", NULL };
    static uint8_t body[100000];
    char name[32];

    server_prepare(&t);
    t.settings.body_bytes_max = 60000;
    t.settings.header_bytes_max = 4096;
    t.settings.headers_max = 10;
    if (!server_start(&t, NULL))
        return;
    struct client *c = h2_open(&t);
    struct reply *r = h2_begin(c, "POST", "/echo", more, false);
    h2_wait(c, r);
    check(reply_is(r, 413, NULL) && strstr(r->body, "--max-body") != NULL, "%d %s", r->status,
          r->body);
    r = h2_ask(c, "POST", "/pieces", body, sizeof body);
    check(reply_is(r, 413, NULL) && strstr(r->body, "--max-body") != NULL, "%d %s", r->status,
          r->body);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"max-body\"}") == 2, "counted");
    const char *many[20] = { NULL };
    char fields[20][32];
    for (int i = 0; i < 11; i++) {
        snprintf(fields[i], sizeof fields[i], "x-%d: y", i);
        many[i] = fields[i];
    }
    r = h2_begin(c, "GET", "/hello", many, true);
    h2_wait(c, r);
    check(reply_is(r, 431, NULL) && strstr(r->body, "--headers-max") != NULL, "%d", r->status);
    many[10] = NULL;
    r = h2_begin(c, "GET", "/hello", many, true);
    h2_wait(c, r);
    check(reply_is(r, 200, NULL), "%d", r->status);
    char *large = malloc(5000);
    memset(large, 'v', 5000);
    memcpy(large, "x-large: ", 9);
    large[4999] = '\0';
    many[0] = large;
    many[1] = NULL;
    r = h2_begin(c, "GET", "/hello", many, true);
    h2_wait(c, r);
    check(reply_is(r, 431, NULL) && strstr(r->body, "--header-bytes-max") != NULL, "%d", r->status);
    snprintf(name, sizeof name, "%s", "header-bytes-max");
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"header-bytes-max\"}") == 1, "%s",
          name);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"headers-max\"}") == 1, "fields");
    free(large);
    h2_close(c);
    server_stop(&t);
}

/* The answer that comes first is not followed by a reset at once: what still comes is dropped for a
 * moment, and then no more is asked for. */
TEST(an_early_answer_outlives_its_request)
{
    static const char *const more[] = { "content-length: 3000000", NULL };
    static char body[20000];

    server_prepare(&t);
    t.settings.body_bytes_max = 1000;
    if (!server_start(&t, NULL))
        return;
    struct client *c = h2_open(&t);
    struct reply *r = h2_begin(c, "POST", "/echo", more, false);
    h2_listen(c, 300);
    check(r->status == 413 && !r->is_over && strstr(r->body, "--max-body") != NULL, "%d", r->status);
    for (int i = 0; i < 10; i++) {
        check(http2_data(c->h, r->stream, slice_make(body, sizeof body), NULL), "sent");
        h2_flush(c);
    }
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n") && !r->is_over, "the connection goes on");
    h2_listen(c, 4000);
    check(r->is_over && r->code == HTTP2_NO_ERROR, "in the end no more is taken: %u", r->code);
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "and the connection goes on");
    h2_close(c);
    server_stop(&t);
}

/* A few bytes of HPACK are much memory of heads: what a connection holds of it is of the budget. */
TEST(heads_are_charged)
{
    enum { STREAMS = 90, FIELDS = 7 };
    static char line[FIELDS][3600];
    const char *more[FIELDS + 1] = { NULL };
    uint32_t refused = 0, waits = 0;

    server_prepare(&t);
    budget_init(&t.budget, 1u << 20);
    if (!server_start(&t, NULL))
        return;
    struct client *small = h2_open(&t), *large = h2_open(&t);
    check(reply_is(h2_get(small, "/hello"), 200, "hello\n") && budget_used(&t.budget) == 0,
          "a few streams are free");
    for (int i = 0; i < FIELDS; i++) {
        memset(line[i], 'v', sizeof line[i] - 1);
        memcpy(line[i], "x: ", 3);
        more[i] = line[i];
    }
    for (int i = 0; i < STREAMS; i++)
        h2_begin(large, "GET", "/wait", more, true);
    for (int round = 0; round < 50 && (waits == 0 || waits > 30);
         round++) { /* until the server has seen them */
        h2_listen(large, 200);
        refused = waits = 0;
        for (uint32_t i = 0; i < large->replies_count; i++) {
            refused += large->replies[i].code == HTTP2_ENHANCE_YOUR_CALM;
            waits += !large->replies[i].is_over;
        }
    }
    check(waits >= 20 && waits <= 30 && refused == STREAMS - waits, "%u wait, %u refused", waits,
          refused);
    check(budget_used(&t.budget) > 700000, "charged");
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"memory-limit\"}") == refused,
          "told");
    check(reply_is(h2_get(small, "/hello"), 200, "hello\n"), "others are served");
    for (uint32_t i = 0; i < large->replies_count; i++)
        if (!large->replies[i].is_over)
            http2_reset(large->h, large->replies[i].stream, HTTP2_CANCEL);
    h2_flush(large);
    check(wait_metric(&t, "penstock_http2_streams_open", 0), "streams");
    check(budget_used(&t.budget) <= 256 * 1024, "given back but for one step: %llu",
          (unsigned long long)budget_used(&t.budget));
    check(reply_is(h2_get(large, "/hello"), 200, "hello\n"), "the connection goes on");
    h2_close(large);
    h2_close(small);
    check(wait_metric(&t, "penstock_http2_connections_open", 0), "connections");
    check(budget_used(&t.budget) == 0, "all is given back");
    server_stop(&t);
}

TEST(answers_nobody_takes)
{
    static const struct http2_limits shut = { .header_bytes_max = 65536,
                                              .fields_max = 100,
                                              .stream_window = 10,
                                              .connection_window = 1 << 20,
                                              .frame_bytes_max = 16384 };

    server_prepare(&t);
    t.settings.write_timeout_ms = 100;
    t.settings.body_rate_min = 10000;
    t.settings.output_bytes_max = 1 << 20;
    if (!server_start(&t, NULL))
        return;
    struct client *c = h2_open_with(&t, &shut);
    c->reads_slowly = true;
    h2_get(c, "/odd/nobody"); /* SETTINGS are known */
    struct reply *r = h2_begin(c, "GET", "/big/100000", NULL, true);
    h2_wait(c, r);
    check(r->is_over && r->code == HTTP2_CANCEL && r->body_size == 10, "%u %zu", r->code,
          r->body_size);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"write-timeout\"}") == 1, "counted");
    /* A byte now and then is no reading. */
    r = h2_begin(c, "GET", "/big/100000", NULL, true);
    for (int i = 0; i < 60 && !r->is_over; i++) {
        h2_listen(c, 20);
        if (r->stream != NULL)
            http2_allow(c->h, r->stream, 1);
    }
    check(r->is_over && r->code == HTTP2_CANCEL, "%u", r->code);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"write-timeout\"}") == 2, "counted");
    /* What piles up. */
    r = h2_begin(c, "GET", "/flood/1000", NULL, true);
    h2_wait(c, r);
    check(r->code == HTTP2_ENHANCE_YOUR_CALM, "%u", r->code);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"output-bytes-max\"}") == 1,
          "counted");
    check(reply_is(h2_get(c, "/odd/nobody"), 204, NULL), "others go on");
    h2_close(c);
    server_stop(&t);
}

/* The windows are open, and the socket is not read. */
TEST(a_socket_nobody_reads_is_cut)
{
    server_prepare(&t);
    t.settings.write_timeout_ms = 150;
    if (!server_start(&t, NULL))
        return;
    struct client *c = h2_open(&t);
    h2_get(c, "/hello");
    h2_begin(c, "GET", "/big/30000000", NULL, true);
    struct reply *r = &c->replies[1];
    http2_allow(c->h, r->stream, 100 << 20);
    h2_flush(c);
    check(wait_metric(&t, "penstock_limit_hits_total{limit=\"write-timeout\"}", 1), "cut");
    check(wait_for(&seen_gone, 1), "and told");
    check(wait_metric(&t, "penstock_http2_connections_open", 0), "closed");
    h2_close(c);
    server_stop(&t);
}

TEST(timeouts_over_http2)
{
    char body[100] = "x";

    server_prepare(&t);
    t.settings.header_timeout_ms = 100;
    t.settings.body_timeout_ms = 100;
    t.settings.idle_timeout_ms = 200;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t); /* a preface and no more */
    client_say(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    check(raw_end(fd) == HTTP2_ENHANCE_YOUR_CALM, "preface");
    fd = raw_open(); /* a header block that does not end */
    raw_frame(fd, 1, 0, 1, get_block, sizeof get_block - 1);
    check(raw_end(fd) == HTTP2_ENHANCE_YOUR_CALM, "header block");
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"header-timeout\"}") == 2, "counted");

    struct client *c = h2_open(&t); /* a body that stands still: its stream only */
    struct reply *r = h2_begin(c, "POST", "/echo", NULL, false);
    http2_data(c->h, r->stream, slice_make(body, sizeof body), NULL);
    h2_wait(c, r);
    check(reply_is(r, 408, NULL) && strstr(r->body, "--body-timeout") != NULL, "%d %s", r->status,
          r->body);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"body-timeout\"}") == 1, "counted");
    /* A gRPC call of one message may not rest either; its clients look at grpc-status. */
    const char *const grpc[] = { "content-type: application/grpc", "te: trailers", NULL };
    r = h2_begin(c, "POST", "/inference.GRPCInferenceService/ServerLive", grpc, false);
    http2_data(c->h, r->stream, slice_make("\0\0\0\0\x9", 5), NULL);
    h2_wait(c, r);
    check(reply_is(r, 200, NULL) && reply_has(r, "grpc-status: 4"), "%d %s", r->status, r->head);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"body-timeout\"}") == 2, "counted");
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "others go on");
    check(h2_waits_for_end(c), "idle");
    check(c->goaways > 0 && c->goaway_code == HTTP2_NO_ERROR, "%u", c->goaways);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"idle-timeout\"}") == 1, "counted");
    h2_close(c);
    server_stop(&t);
}

TEST(a_body_that_drips_over_http2)
{
    server_prepare(&t);
    t.settings.body_timeout_ms = 300;
    t.settings.body_rate_min = 1000;
    if (!server_start(&t, NULL))
        return;
    struct client *c = h2_open(&t);
    struct reply *r = h2_begin(c, "POST", "/pieces", NULL, false);
    for (int i = 0; i < 100 && !r->is_over; i++) {
        http2_data(c->h, r->stream, slice_of("x"), NULL);
        h2_listen(c, 20);
    }
    check(reply_is(r, 408, NULL) && strstr(r->body, "--body-rate-min") != NULL, "%d %s", r->status,
          r->body);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"body-rate-min\"}") == 1, "counted");
    h2_close(c);
    server_stop(&t);
}

TEST(pings_and_keepalive)
{
    server_prepare(&t);
    t.settings.keepalive_time_ms = 100;
    t.settings.keepalive_timeout_ms = 100;
    t.settings.ping_interval_min_ms = 20;
    if (!server_start(&t, NULL))
        return;
    struct client *c = h2_open(&t); /* one that answers stays */
    h2_get(c, "/hello");
    h2_listen(c, 500);
    check(!c->is_closed, "alive");
    for (int i = 0; i < 10; i++) { /* and may ping as often as is allowed */
        http2_ping(c->h, 1);
        h2_listen(c, 30);
    }
    check(!c->is_closed && c->goaways == 0, "patient");
    check(server_metric(&t, "penstock_http2_pings_total") == 10, "counted");
    for (int i = 0; i < 10; i++) { /* or more often, beside its requests */
        http2_ping(c->h, 1);
        check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "busy");
    }
    check(c->goaways == 0, "busy");
    for (int i = 0; i < 4; i++) {
        http2_ping(c->h, 1);
        h2_flush(c);
    }
    check(h2_waits_for_end(c), "ended");
    check(c->goaway_code == HTTP2_ENHANCE_YOUR_CALM &&
              strcmp(c->goaway_text, "too_many_pings") == 0,
          "%u %s", c->goaway_code, c->goaway_text);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"ping-strikes-max\"}") == 1,
          "counted");
    h2_close(c);
    int fd = raw_open(); /* one that does not answer */
    raw_end(fd);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"keepalive-timeout\"}") == 1,
          "counted");
    server_stop(&t);
}

TEST(old_connections_end_well)
{
    server_prepare(&t);
    t.settings.connection_age_ms = 200;
    t.settings.connection_age_grace_ms = 300;
    if (!server_start(&t, NULL))
        return;
    struct client *c = h2_open(&t);
    struct reply *r = h2_begin(c, "GET", "/wait", NULL, true);
    h2_listen(c, 260);
    check(c->goaways == 2 && c->goaway_code == HTTP2_NO_ERROR && c->goaway_last == 1, "%u %d",
          c->goaways, c->goaway_last);
    check(!r->is_over && h2_begin(c, "GET", "/hello", NULL, true)->is_over, "no new ones");
    atomic_store(&seen_release, true);
    h2_wait(c, r);
    check(reply_is(r, 200, "waited\n"), "%d", r->status);
    check(h2_waits_for_end(c), "closed");
    h2_close(c);
    atomic_store(&seen_release, false);
    c = h2_open(&t); /* and one that takes too long is cut */
    r = h2_begin(c, "GET", "/wait", NULL, true);
    check(h2_waits_for_end(c) && !r->is_over, "cut");
    check(wait_for(&seen_gone, 1), "and told");
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"connection-age-grace\"}") == 1,
          "counted");
    h2_close(c);
    server_stop(&t);
}

TEST(requests_of_one_connection_have_a_limit)
{
    server_prepare(&t);
    t.settings.requests_per_connection_max = 3;
    if (!server_start(&t, NULL))
        return;
    struct client *c = h2_open(&t);
    for (int i = 0; i < 3; i++)
        check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "%d", i);
    check(h2_waits_for_end(c), "closed");
    check(c->goaway_code == HTTP2_NO_ERROR && c->goaway_last == 5, "%d", c->goaway_last);
    check(server_metric(&t, "penstock_limit_hits_total{limit=\"requests-per-connection-max\"}") ==
              1,
          "counted");
    h2_close(c);
    server_stop(&t);
}

static void *drain_thread(void *arg)
{
    serve_drain(arg, 5000);
    return NULL;
}

TEST(draining_over_http2)
{
    pthread_t thread;

    if (!begin())
        return;
    struct client *busy = h2_open(&t), *idle = h2_open(&t);
    h2_get(idle, "/hello");
    struct reply *r = h2_begin(busy, "GET", "/wait", NULL, true);
    h2_flush(busy);
    check(wait_for(&seen_waiting, 1), "waits");
    pthread_create(&thread, NULL, drain_thread, t.serve);
    check(h2_waits_for_end(idle), "the idle one ends");
    check(idle->goaways > 0 && idle->goaway_code == HTTP2_NO_ERROR, "%u", idle->goaways);
    h2_listen(busy, 50);
    check(busy->goaways == 2 && !r->is_over, "%u", busy->goaways);
    atomic_store(&seen_release, true);
    h2_wait(busy, r);
    check(reply_is(r, 200, "waited\n"), "%d", r->status);
    check(h2_waits_for_end(busy), "and ends");
    pthread_join(thread, NULL);
    h2_close(busy);
    h2_close(idle);
    server_stop(&t);
}

/* -- memory and faults ------------------------------------------------------------------------- */

TEST(the_hot_path_does_not_allocate_over_http2)
{
    const char *const more[] = { "content-length: 10", NULL };
    uint64_t counts[2], begun_ns = 0;

    if (!begin())
        return;
    struct client *c = h2_open(&t);
    for (int i = 0; i < 2; i++) {
        begun_ns = clock_mono_ns();
        for (int k = 0; k < 100; k++) {
            struct reply *r = h2_begin(c, "POST", "/echo", more, false);
            http2_data(c->h, r->stream, slice_of("0123456789"), NULL);
            http2_end(c->h, r->stream, NULL, 0);
            h2_wait(c, r);
            check(reply_is(r, 200, "0123456789"), "%d", r->status);
        }
        counts[i] = strtoull(h2_get(c, "/memory")->body, NULL, 10);
    }
    /* A date that is new to HPACK's table takes two, once a second. */
    uint64_t seconds = (clock_mono_ns() - begun_ns) / NS_PER_S;
    check(counts[1] - counts[0] < 10 + 2 * seconds, "%llu allocations by 100 requests",
          (unsigned long long)(counts[1] - counts[0]));
    h2_close(c);
    server_stop(&t);
}

TEST(every_fault_costs_at_most_its_own_connection_over_http2)
{
    bool is_over = false;
    uint32_t nth;

    if (!begin())
        return;
    for (nth = 1; nth < 400 && !is_over; nth++) {
        char arm[64];
        struct answer a;
        snprintf(arm, sizeof arm,
                 "GET /arm/%u HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", nth);
        ask(&t, arm, &a);
        answer_free(&a);
        struct client *c = h2_open(&t);
        for (int i = 0; i < 3; i++) {
            struct reply *r = h2_begin(c, "POST", i == 1 ? "/pieces" : "/echo", NULL, false);
            if (r->stream == NULL)
                break;
            static uint8_t body[20000];
            http2_data(c->h, r->stream, slice_make(body, sizeof body), NULL);
            http2_end(c->h, r->stream, NULL, 0);
            h2_wait(c, r);
            check(!reply_is(r, 200, NULL) || i == 1 || r->body_size == sizeof body,
                  "fault %u: a wrong answer", nth);
        }
        h2_close(c);
        for (int tries = 0; tries < 3; tries++) { /* the question itself may meet the fault */
            ask(&t, "GET /fired HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &a);
            is_over = a.status == 200 && strcmp(a.body, "0") == 0;
            bool was_heard = a.status == 200;
            answer_free(&a);
            if (was_heard)
                break;
        }
    }
    check(is_over && nth > 20, "%u faults", nth);
    struct answer a;
    ask(&t, "GET /arm/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &a);
    answer_free(&a);
    struct client *c = h2_open(&t);
    check(reply_is(h2_get(c, "/hello"), 200, "hello\n"), "the server is well");
    h2_close(c);
    check(wait_metric(&t, "penstock_http2_streams_open", 0), "streams");
    check(wait_metric(&t, "penstock_http2_connections_open", 0), "connections");
    server_stop(&t);
}

/* -- several loops ------------------------------------------------------------------------------ */

static void *busy_client(void *arg)
{
    static uint8_t body[50000];
    uint32_t *wrong = arg;

    for (int round = 0; round < 5; round++) {
        struct client *c = h2_open(&t);
        for (int i = 0; i < 20; i++) {
            struct reply *r = h2_begin(c, "POST", i % 3 ? "/echo" : "/pieces", NULL, false);
            http2_data(c->h, r->stream, slice_make(body, 1 + (size_t)i * 2000), NULL);
            http2_end(c->h, r->stream, NULL, 0);
            if (i % 7 == 6) {
                h2_flush(c);
                http2_reset(c->h, r->stream, HTTP2_CANCEL);
                r->status = 200;
            }
        }
        h2_wait_all(c);
        for (uint32_t i = 0; i < c->replies_count; i++)
            *wrong += c->replies[i].status != 200;
        h2_close(c);
    }
    return NULL;
}

TEST(many_clients_over_http2_on_several_loops)
{
    pthread_t threads[6];
    uint32_t wrong[6] = { 0 };

    server_prepare(&t);
    t.settings.loops_count = 3;
    if (!server_start(&t, NULL))
        return;
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_create(&threads[i], NULL, busy_client, &wrong[i]);
    for (size_t i = 0; i < COUNT(threads); i++) {
        pthread_join(threads[i], NULL);
        check(wrong[i] == 0, "%zu: %u wrong", i, wrong[i]);
    }
    check(wait_metric(&t, "penstock_http2_streams_open", 0), "streams");
    check(wait_metric(&t, "penstock_http2_connections_open", 0), "connections");
    server_stop(&t);
}

TEST(stopping_with_streams_under_way)
{
    server_prepare(&t);
    t.settings.loops_count = 2;
    if (!server_start(&t, NULL))
        return;
    struct client *clients[8];
    for (size_t i = 0; i < COUNT(clients); i++) {
        clients[i] = h2_open(&t);
        h2_begin(clients[i], "GET", "/wait", NULL, true);
        h2_begin(clients[i], "POST", "/pieces", NULL, false);
        h2_flush(clients[i]);
    }
    check(wait_for(&seen_waiting, COUNT(clients)), "waiting");
    server_stop(&t);
    check(atomic_load(&seen_gone) == 2 * COUNT(clients), "%u", seen_gone);
    for (size_t i = 0; i < COUNT(clients); i++)
        h2_close(clients[i]);
}
