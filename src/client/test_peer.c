/* test_peer.c - SPDX-License-Identifier: Apache-2.0
 *
 * gRPC paths:
 *   /grpc/Echo     each message comes back; then OK      /grpc/Fail     status 3, details with a field
 *   /grpc/Gzip     one message "hello", gzip             /grpc/Lie      flag 1, no grpc-encoding
 *   /grpc/Flag     flag 7                                /grpc/Cut      half a message, status OK
 *   /grpc/Huge     a prefix that says 2 GiB              /grpc/NoStatus a message, no status
 *   /grpc/Html     200 text/html                         /grpc/Two      two messages
 *   /grpc/Bomb     16 MiB of zeros, gzip                 /grpc/Percent  status 5, words in UTF-8
 *   /grpc/Head     what it got: grpc-timeout, x-key, grpc-encoding, as a message
 */
#include "client/test_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/text.h"
#include "call/grpc_wire.h"
#include "wire/http2.h"

enum { CONNS_MAX = 64, OUT_BYTES_MAX = 256 << 20 };

struct link { /* one connection */
    struct peer *peer;
    int fd;
    struct http2 *h;
    struct text out;
    size_t out_at;
    uint32_t open, served;
    bool is_dying, is_deaf;
};

struct work { /* one stream */
    char path[128], about[256];
    struct text body;
    uint64_t due_ns; /* 0: not late */
    bool is_answered, is_complete;
};

struct peer {
    struct peer_settings settings;
    struct http2_limits limits;
    int listener, wake[2];
    char url[64];
    pthread_t thread;
    struct link links[CONNS_MAX];
    atomic_uint connections, requests, resets, most;
    bool has_refused;
    atomic_bool is_stopping;
};

static const struct http2_field html = { SLICE_LIT("content-type"), SLICE_LIT("text/html") };
static const struct http2_field grpc = { SLICE_LIT("content-type"), SLICE_LIT("application/grpc") };
static const struct http2_field gzip[] = { { SLICE_LIT("content-type"),
                                             SLICE_LIT("application/grpc+proto") },
                                           { SLICE_LIT("grpc-encoding"), SLICE_LIT("gzip") } };
static const struct http2_field status_ok = { SLICE_LIT("grpc-status"), SLICE_LIT("0") };

/* Bytes that a buf keeps. */
static void say(struct link *l, struct http2_stream *s, struct slice bytes)
{
    struct buf *buf;
    struct err err;

    require(buf_new(&buf, NULL, bytes.size, &err) == OK);
    if (bytes.size > 0)
        memcpy(buf_fill(buf), bytes.data, bytes.size);
    require(http2_data(l->h, s, buf_bytes(buf), buf));
    buf_unref(&buf);
}

static void say_message(struct link *l, struct http2_stream *s, uint8_t flag, struct slice bytes)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    grpc_prefix_put(prefix, false, (uint32_t)bytes.size);
    prefix[0] = flag;
    say(l, s, slice_make(prefix, sizeof prefix));
    say(l, s, bytes);
}

static void say_deflated(struct link *l, struct http2_stream *s, struct slice bytes)
{
    struct buf *buf;
    struct err err;

    require(compress_deflate(&buf, NULL, ENCODING_GZIP, &bytes, 1, &err) == OK);
    say_message(l, s, 1, buf_bytes(buf));
    buf_unref(&buf);
}

static void fail_grpc(struct link *l, struct http2_stream *s)
{
    struct grpc_details details = { .code = E_INVALID,
                                    .message = slice_of("x is wrong"),
                                    .field = slice_of("inputs[0].x"),
                                    .description = slice_of("must be positive"),
                                    .has_retry = true,
                                    .retry_after_ms = 250 };
    struct text bytes, value;

    text_init(&bytes, 4096);
    text_init(&value, 4096);
    grpc_details_encode(&bytes, &details);
    grpc_bin_encode(&value, text_slice(&bytes));
    struct http2_field fields[] = { grpc,
                                    { SLICE_LIT("grpc-status"), SLICE_LIT("3") },
                                    { SLICE_LIT("grpc-message"), SLICE_LIT("x is wrong") },
                                    { SLICE_LIT("grpc-status-details-bin"), text_slice(&value) } };
    require(http2_respond(l->h, s, 200, fields, COUNT(fields), NULL, 0));
    require(http2_end(l->h, s, NULL, 0));
    text_deinit(&bytes);
    text_deinit(&value);
}

static void answer_grpc(struct link *l, struct http2_stream *s, const char *name, struct work *w)
{
    static uint8_t zeros[16 << 20];
    const struct http2_field *trailers = &status_ok;
    const uint8_t huge[] = { 0, 0x80, 0, 0, 0 };
    static const struct http2_field lost[] = { { SLICE_LIT("grpc-status"), SLICE_LIT("5") },
                                               { SLICE_LIT("grpc-message"),
                                                 SLICE_LIT("100%25 weg: %C3%BC") } };

    if (strcmp(name, "Fail") == 0) {
        fail_grpc(l, s);
        return;
    }
    if (strcmp(name, "Html") == 0) {
        require(http2_respond(l->h, s, 503, &html, 1, NULL, 0));
        say(l, s, slice_of("<p>busy\n</p>"));
        require(http2_end(l->h, s, NULL, 0));
        return;
    }
    bool is_gzip = strcmp(name, "Gzip") == 0 || strcmp(name, "Bomb") == 0;
    require(http2_respond(l->h, s, 200, is_gzip ? gzip : &grpc, is_gzip ? 2 : 1, NULL, 0));
    if (strcmp(name, "Echo") == 0)
        say(l, s, text_slice(&w->body));
    else if (strcmp(name, "Gzip") == 0)
        say_deflated(l, s, slice_of("hello"));
    else if (strcmp(name, "Bomb") == 0)
        say_deflated(l, s, slice_make(zeros, sizeof zeros));
    else if (strcmp(name, "Lie") == 0)
        say_message(l, s, 1, slice_of("hello"));
    else if (strcmp(name, "Flag") == 0)
        say_message(l, s, 7, slice_of("hello"));
    else if (strcmp(name, "Cut") == 0)
        say(l, s, slice_make("\0\0\0\0\x05he", 7));
    else if (strcmp(name, "Huge") == 0)
        say(l, s, slice_make(huge, sizeof huge));
    else if (strcmp(name, "Head") == 0)
        say_message(l, s, 0, slice_of(w->about));
    else if (strcmp(name, "Two") == 0 || strcmp(name, "NoStatus") == 0)
        say_message(l, s, 0, slice_of("one"));
    if (strcmp(name, "Two") == 0)
        say_message(l, s, 0, slice_of("two"));
    if (strcmp(name, "Percent") == 0)
        require(http2_end(l->h, s, lost, COUNT(lost)));
    else
        require(http2_end(l->h, s, strcmp(name, "NoStatus") == 0 ? NULL : trailers,
                          strcmp(name, "NoStatus") == 0 ? 0 : 1));
}

static void say_whole(struct link *l, struct http2_stream *s, struct slice body)
{
    require(http2_respond(l->h, s, 200, &html, 1, NULL, 0));
    say(l, s, body);
    require(http2_end(l->h, s, NULL, 0));
}

static void say_big(struct link *l, struct http2_stream *s, size_t size)
{
    uint8_t *bytes = malloc(size);

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 31);
    say_whole(l, s, slice_make(bytes, size));
    free(bytes);
}

static void say_headers(struct link *l, struct http2_stream *s, size_t size)
{
    char *value = malloc(size + 1);

    memset(value, 'h', size);
    struct http2_field field = { SLICE_LIT("x-long"), slice_make(value, size) };
    require(http2_respond(l->h, s, 200, &field, 1, NULL, 0));
    require(http2_end(l->h, s, NULL, 0));
    free(value);
}

/* True: it is answered. */
static bool answer_now(struct link *l, struct http2_stream *s, struct work *w)
{
    static const struct http2_field sum = { SLICE_LIT("x-sum"), SLICE_LIT("7") };
    const char *path = w->path;

    if (strncmp(path, "/grpc/", 6) == 0) {
        answer_grpc(l, s, path + 6, w);
    } else if (strcmp(path, "/echo") == 0) {
        say_whole(l, s, text_slice(&w->body));
    } else if (strncmp(path, "/reset/", 7) == 0) {
        http2_reset(l->h, s, (uint32_t)atoi(path + 7));
    } else if (strcmp(path, "/refuse") == 0 && !l->peer->has_refused) {
        l->peer->has_refused = true;
        http2_reset(l->h, s, HTTP2_REFUSED_STREAM);
    } else if (strncmp(path, "/big/", 5) == 0) {
        say_big(l, s, (size_t)atoll(path + 5));
    } else if (strncmp(path, "/headers/", 9) == 0) {
        say_headers(l, s, (size_t)atoll(path + 9));
    } else if (strcmp(path, "/trailers") == 0) {
        require(http2_respond(l->h, s, 200, &html, 1, NULL, 0));
        say(l, s, slice_of("x"));
        require(http2_end(l->h, s, &sum, 1));
    } else if (strcmp(path, "/garbage") == 0) {
        text_str(&l->out, "this is no frame at all, and long enough to be looked at");
    } else if (strcmp(path, "/half") == 0) {
        require(http2_respond(l->h, s, 200, &html, 1, NULL, 0));
        say(l, s, slice_of("ha"));
        l->is_dying = true;
    } else if (strcmp(path, "/die") == 0) {
        l->is_dying = true;
    } else if (strcmp(path, "/never") != 0) {
        if (strcmp(path, "/goaway") == 0)
            http2_goaway(l->h, HTTP2_NO_ERROR, "bye");
        say_whole(l, s, slice_of("hi"));
    }
    return true;
}

static void on_head(void *owner, struct http2_stream *s, const struct http2_head *head)
{
    struct link *l = owner;
    struct work *w = calloc(1, sizeof *w);
    size_t at = 0;

    text_init(&w->body, OUT_BYTES_MAX);
    for (uint32_t i = 0; i < head->count; i++) {
        struct http2_field f = head->fields[i];
        if (slice_is(f.name, ":path"))
            snprintf(w->path, sizeof w->path, "%.*s", SLICE_ARG(f.value));
        if (slice_is(f.name, "grpc-timeout") || slice_is(f.name, "x-key") ||
            slice_is(f.name, "grpc-encoding"))
            at += (size_t)snprintf(w->about + at, sizeof w->about - at, "%.*s=%.*s;",
                                   SLICE_ARG(f.name), SLICE_ARG(f.value));
    }
    http2_stream_set_user(s, w);
    atomic_fetch_add(&l->peer->requests, 1);
    l->served++;
    if (++l->open > atomic_load(&l->peer->most))
        atomic_store(&l->peer->most, l->open);
    if (l->peer->settings.ignores_pings)
        l->is_deaf = true;
    if (strncmp(w->path, "/late/", 6) == 0)
        w->due_ns = clock_mono_ns() + (uint64_t)atoll(w->path + 6) * NS_PER_MS;
    if (l->peer->settings.goaway_after != 0 && l->served == l->peer->settings.goaway_after)
        http2_goaway(l->h, HTTP2_NO_ERROR, "enough");
}

static void on_data(void *owner, struct http2_stream *s, struct slice data)
{
    struct link *l = owner;
    struct work *w = http2_stream_user(s);

    text_slice_put(&w->body, data);
    http2_allow(l->h, s, 1 << 20);
}

static void on_end(void *owner, struct http2_stream *s)
{
    struct work *w = http2_stream_user(s);

    w->is_complete = true;
    if (w->due_ns == 0)
        w->is_answered = answer_now(owner, s, w);
}

static void on_close(void *owner, struct http2_stream *s, uint32_t code)
{
    struct link *l = owner;
    struct work *w = http2_stream_user(s);

    if (w != NULL)
        text_deinit(&w->body);
    free(w);
    l->open--;
    if (code == HTTP2_CANCEL && !l->is_dying)
        atomic_fetch_add(&l->peer->resets, 1);
}

static bool copy(void *owner, const void *data, size_t size)
{
    text_put(&((struct link *)owner)->out, data, size);
    return true;
}

static const struct http2_events events = {
    .on_head = on_head, .on_data = on_data, .on_end = on_end, .on_close = on_close, .copy = copy
};

static void link_open(struct peer *peer, int fd)
{
    struct err err;

    for (int i = 0; i < CONNS_MAX; i++) {
        struct link *l = &peer->links[i];
        if (l->fd >= 0)
            continue;
        *l = (struct link){ .peer = peer, .fd = fd };
        text_init(&l->out, OUT_BYTES_MAX);
        require(http2_new(&l->h, HTTP2_SERVER, &peer->limits, &events, l, NULL, &err) == OK);
        return;
    }
    require(false && "more connections than the peer has places");
}

static void link_close(struct link *l)
{
    l->is_dying = true;
    http2_free(&l->h);
    text_deinit(&l->out);
    close(l->fd);
    l->fd = -1;
}

static void answer_late(struct link *l)
{
    for (struct http2_stream *s = http2_stream_next(l->h, NULL); s != NULL;
         s = http2_stream_next(l->h, s)) {
        struct work *w = http2_stream_user(s);
        if (w != NULL && w->due_ns != 0 && w->is_complete && !w->is_answered &&
            clock_mono_ns() >= w->due_ns)
            w->is_answered = answer_now(l, s, w);
    }
}

static void link_write(struct link *l)
{
    answer_late(l);
    while (http2_wants_send(l->h))
        http2_send(l->h, 1 << 20);
    while (l->out_at < l->out.size) {
        ssize_t sent = send(l->fd, l->out.data + l->out_at, l->out.size - l->out_at,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN)
            l->is_dying = true;
        if (sent < 0)
            break;
        l->out_at += (size_t)sent;
    }
    if (l->out_at == l->out.size)
        l->out.size = l->out_at = 0;
    if (l->is_dying || (http2_is_over(l->h) && l->out.size == 0))
        link_close(l);
}

static void link_read(struct link *l)
{
    uint8_t bytes[32768];
    struct err err;

    ssize_t got = recv(l->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        link_close(l);
        return;
    }
    (void)!http2_receive(l->h, slice_make(bytes, (size_t)got), clock_mono_ns(), &err);
    if (!l->is_deaf)
        link_write(l);
}

static void accept_one(struct peer *peer)
{
    int fd = accept(peer->listener, NULL, NULL);

    if (fd < 0)
        return;
    atomic_fetch_add(&peer->connections, 1);
    if (peer->settings.closes_at_once)
        close(fd);
    else
        link_open(peer, fd);
}

static void *peer_main(void *arg)
{
    struct peer *peer = arg;

    while (!atomic_load(&peer->is_stopping)) {
        struct pollfd watch[CONNS_MAX + 2] = { { .fd = peer->wake[0], .events = POLLIN },
                                               { .fd = peer->listener, .events = POLLIN } };
        for (int i = 0; i < CONNS_MAX; i++) {
            struct link *l = &peer->links[i];
            short events_wanted = l->out_at < l->out.size ? POLLIN | POLLOUT : POLLIN;
            bool is_off = l->fd < 0 || peer->settings.is_mute || l->is_deaf;
            watch[i + 2] = (struct pollfd){ .fd = is_off ? -1 : l->fd, .events = events_wanted };
        }
        (void)poll(watch, CONNS_MAX + 2, 5);
        if (watch[1].revents != 0)
            accept_one(peer);
        for (int i = 0; i < CONNS_MAX; i++) {
            struct link *l = &peer->links[i];
            if (l->fd < 0 || peer->settings.is_mute || l->is_deaf)
                continue;
            if (watch[i + 2].fd == l->fd && (watch[i + 2].revents & (POLLIN | POLLHUP)))
                link_read(l);
            if (l->fd >= 0 && !l->is_deaf)
                link_write(l);
        }
    }
    for (int i = 0; i < CONNS_MAX; i++) {
        if (peer->links[i].fd >= 0)
            link_close(&peer->links[i]);
    }
    return NULL;
}

struct peer *peer_start(const struct peer_settings *settings)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t at_size = sizeof at;
    struct peer *peer = calloc(1, sizeof *peer);

    peer->settings = *settings;
    peer->limits = http2_client_limits;
    peer->limits.streams_max = settings->streams_max != 0 ? settings->streams_max : 100;
    for (int i = 0; i < CONNS_MAX; i++)
        peer->links[i].fd = -1;
    peer->listener = socket(AF_INET, SOCK_STREAM, 0);
    require(bind(peer->listener, (struct sockaddr *)&at, sizeof at) == 0);
    require(listen(peer->listener, 64) == 0 && pipe(peer->wake) == 0);
    require(getsockname(peer->listener, (struct sockaddr *)&at, &at_size) == 0);
    snprintf(peer->url, sizeof peer->url, "http://127.0.0.1:%u", ntohs(at.sin_port));
    require(pthread_create(&peer->thread, NULL, peer_main, peer) == 0);
    return peer;
}

void peer_stop(struct peer **slot)
{
    struct peer *peer = TAKE(*slot);

    if (peer == NULL)
        return;
    atomic_store(&peer->is_stopping, true);
    require(write(peer->wake[1], "x", 1) == 1);
    pthread_join(peer->thread, NULL);
    close(peer->listener);
    close(peer->wake[0]);
    close(peer->wake[1]);
    free(peer);
}

const char *peer_url(const struct peer *peer)
{
    return peer->url;
}
uint32_t peer_connections(const struct peer *peer)
{
    return atomic_load(&peer->connections);
}
uint32_t peer_requests(const struct peer *peer)
{
    return atomic_load(&peer->requests);
}
uint32_t peer_resets(const struct peer *peer)
{
    return atomic_load(&peer->resets);
}
uint32_t peer_streams_most(const struct peer *peer)
{
    return atomic_load(&peer->most);
}
