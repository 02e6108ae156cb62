/* loadgen.c - sends the same HTTP/1.1 requests, or gRPC calls, again and again and measures how long
 * answers take.
 *
 * A slot is what has one request under way: a connection of HTTP/1.1, one of --streams streams of an
 * HTTP/2 connection.
 *
 * Closed loop (no --rate): every slot sends its next request when the last was answered; what
 * is measured is the time from writing to the last byte of the answer. Open loop (--rate): requests
 * are due at fixed times whatever the server does, and the time runs from when a request was *due*,
 * so that a server which stalls is charged for everybody who would have waited (this is what
 * "coordinated omission" leaves out). A due request that finds no idle slot waits in line.
 *
 * Every answer is checked: status, of gRPC also grpc-status, and the body byte for byte against
 * --expect. The first that differs ends the run.
 *
 * Times go into a histogram of 128 steps an octave (error < 0.8 %), one for each --request.
 *
 * One thread, epoll. In an open loop it spins, as waking up would be late by more than what is
 * measured; `send_lag` says how late requests were sent that had an idle slot. In a closed
 * loop it sleeps, and `cpu_share` says how much of its core it used: near 1 means that this
 * program was the bottleneck, not the server.
 *
 * --drip N, of an open loop: N more connections send a byte of a request's head each second, evenly spread over it
 * and one at a time between other things: no second process takes this core from what is measured, and no burst
 * stands in line before it. What a byte costs here (`drip_send`) delays at most the requests that are due meanwhile.
 * One that the server ends is counted and opened anew.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define GENERATOR "loadgen"
#include "gen.h"

enum {
    KINDS_MAX = 4,
    CONNECTIONS_MAX = 4096,
    DRIPS_MAX = 10000,
    SLOTS_MAX = 65536,
    HEAD_MAX = 16384,
    READ_SIZE = 256 << 10,
    WINDOW = 1 << 30 /* of HTTP/2: no answer waits for us */
};

/* A request that is sent again and again, and what must come back. */
struct kind {
    struct bytes request, expect; /* of HTTP/2 the request's body */
    const char *path;             /* of HTTP/2 */
    bool has_expect;
    double share; /* of all requests */
    struct histogram latency;
};

struct connection;

struct slot {
    struct connection *connection;
    struct kind *kind; /* under way, or NULL: idle */
    uint64_t from_ns;  /* the latency runs from here */
    size_t sent;       /* of the request */
    uint64_t body_seen;
    bool has_status, has_grpc_status; /* HTTP/2: 200, and grpc-status 0 */
};

struct connection {
    int fd;
    bool wants_out;
    struct slot *slots;
    /* HTTP/1.1, one slot */
    char head[HEAD_MAX];
    size_t head_size; /* bytes of head so far; the body is compared as it comes */
    bool has_head;
    uint64_t body_size;
    /* HTTP/2 */
    nghttp2_session *session;
    bool is_marked; /* in `marked`: has frames to send */
    char *out;
    size_t out_size, out_room, out_sent;
};

static struct {
    struct sockaddr_in address;
    unsigned connections_count, streams_count, drips_count;
    bool is_http2, is_grpc;
    char authority[32];
    double seconds, warmup;
    uint64_t requests; /* 0: by time */
    double rate;       /* 0: closed loop */
    struct kind kinds[KINDS_MAX];
    unsigned kinds_count;
} options;

static struct connection connections[CONNECTIONS_MAX];
static struct slot slots[SLOTS_MAX];
static struct slot *idle[SLOTS_MAX];
static unsigned slots_count, idle_count;
static struct connection *marked[CONNECTIONS_MAX];
static unsigned marked_count;
static int epoll_fd;
static bool is_measuring;
static uint64_t answers, answers_all, backlog_max;
static struct histogram send_lag;
static char *read_buffer;

/* A connection whose request never comes to its end. */
struct drip {
    int fd;
    size_t sent;
};

static struct drip drips[DRIPS_MAX];
static uint64_t drip_from_ns, drips_due, drip_bytes, drips_ended; /* counted since drip_from_ns */
static struct histogram drip_send;

/* --- one connection ------------------------------------------------------------------------------ */

static void connection_watch(struct connection *c, bool wants_out)
{
    struct epoll_event event = { .events = EPOLLIN | (wants_out ? (uint32_t)EPOLLOUT : 0),
                                 .data = { .ptr = c } };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0)
        die_errno("epoll_ctl");
    c->wants_out = wants_out;
}

static void connection_open(struct connection *c)
{
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 ||
        connect(c->fd, (struct sockaddr *)&options.address, sizeof options.address) != 0)
        die_errno("connect");
    if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
        fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0)
        die_errno("socket");
    struct epoll_event event = { .events = EPOLLIN, .data = { .ptr = c } };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die_errno("epoll_ctl");
    c->slots = &slots[slots_count];
    for (unsigned i = 0; i < options.streams_count; i++) {
        struct slot *slot = &slots[slots_count++];
        slot->connection = c;
        idle[idle_count++] = slot;
    }
}

static void slot_done(struct slot *slot)
{
    if (slot->sent < slot->kind->request.size)
        die("an answer came before the request was written");
    if (is_measuring) {
        histogram_add(&slot->kind->latency, now_ns() - slot->from_ns);
        answers++;
    }
    answers_all++;
    slot->kind = NULL;
    idle[idle_count++] = slot;
}

static void body_check(struct slot *slot, uint64_t body_size, const char *data, size_t size)
{
    const struct kind *kind = slot->kind;
    if (slot->body_seen + size > body_size)
        die(options.is_http2 ? "a body that is longer than the first that was checked"
                             : "more bytes than content-length says");
    if (kind->has_expect && memcmp(kind->expect.data + slot->body_seen, data, size) != 0)
        die("a body differs from the first that was checked");
    slot->body_seen += size;
}

/* --- HTTP/1.1 ------------------------------------------------------------------------------------ */

static void http1_write(struct connection *c)
{
    struct slot *slot = c->slots;
    const struct bytes *request = &slot->kind->request;
    while (slot->sent < request->size) {
        ssize_t n =
            send(c->fd, request->data + slot->sent, request->size - slot->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!c->wants_out)
                connection_watch(c, true);
            return;
        }
        if (n < 0)
            die_errno("send");
        slot->sent += (size_t)n;
    }
    if (c->wants_out)
        connection_watch(c, false);
}

static void body_size_check(const struct kind *kind, uint64_t size)
{
    if (!kind->has_expect || size == kind->expect.size)
        return;
    fprintf(stderr, "loadgen: a body of %" PRIu64 " bytes, expected %zu\n", size,
            kind->expect.size);
    exit(1);
}

/* Reads the head: HTTP/1.1, a status of 200, content-length, no closing. */
static void head_read(struct connection *c)
{
    if (memcmp(c->head, "HTTP/1.1 200", 12) != 0) {
        fprintf(stderr, "loadgen: expected 200, got: %.*s\n", 200, c->head);
        exit(1);
    }
    bool has_size = false;
    for (char *line = strstr(c->head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, "content-length:", 15) == 0) {
            c->body_size = strtoull(line + 15, NULL, 10);
            has_size = true;
        } else if (strncasecmp(line, "connection: close", 17) == 0) {
            die("the server closes the connection after an answer: keep-alive was to be measured");
        }
    }
    if (!has_size)
        die("an answer without content-length: chunked answers are not measured here");
    body_size_check(c->slots->kind, c->body_size);
    c->has_head = true;
}

static void http1_read(struct connection *c, const char *data, size_t size)
{
    if (c->slots->kind == NULL)
        die("bytes came that nobody asked for");
    if (!c->has_head) {
        size_t room = HEAD_MAX - 1 - c->head_size, take = size < room ? size : room;
        size_t before = c->head_size;
        memcpy(c->head + before, data, take);
        c->head_size += take;
        c->head[c->head_size] = '\0';
        char *end = strstr(c->head, "\r\n\r\n");
        if (end == NULL) {
            if (take == room)
                die("a head that is too long");
            return;
        }
        size_t head_size = (size_t)(end + 4 - c->head);
        end[2] = '\0';
        head_read(c);
        data += head_size - before;
        size -= head_size - before;
    }
    body_check(c->slots, c->body_size, data, size);
    if (c->slots->body_seen == c->body_size)
        slot_done(c->slots);
}

/* --- HTTP/2 and gRPC ------------------------------------------------------------------------------ */

static void out_add(struct connection *c, const void *data, size_t size)
{
    if (c->out_size + size > c->out_room) {
        while (c->out_size + size > c->out_room)
            c->out_room = c->out_room ? c->out_room * 2 : 1 << 16;
        c->out = realloc(c->out, c->out_room);
        if (c->out == NULL)
            die("no memory");
    }
    memcpy(c->out + c->out_size, data, size);
    c->out_size += size;
}

static ssize_t http2_take(nghttp2_session *session, const uint8_t *data, size_t size, int flags,
                          void *user)
{
    (void)session, (void)flags;
    out_add(user, data, size);
    return (ssize_t)size;
}

/* The body is written from where it lies: says how much of it the next frame has. */
static ssize_t http2_body(nghttp2_session *session, int32_t stream, uint8_t *buffer, size_t room,
                          uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)session, (void)stream, (void)buffer, (void)user;
    struct slot *slot = source->ptr;
    size_t left = slot->kind->request.size - slot->sent, take = left < room ? left : room;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY | (take == left ? (uint32_t)NGHTTP2_DATA_FLAG_EOF : 0);
    return (ssize_t)take;
}

static int http2_body_send(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head,
                           size_t size, nghttp2_data_source *source, void *user)
{
    (void)session, (void)frame;
    struct slot *slot = source->ptr;
    out_add(user, head, 9);
    out_add(user, slot->kind->request.data + slot->sent, size);
    slot->sent += size;
    return 0;
}

static bool is_text(const uint8_t *data, size_t size, const char *text)
{
    return size == strlen(text) && memcmp(data, text, size) == 0;
}

static int http2_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                        size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                        void *user)
{
    (void)flags, (void)user;
    struct slot *slot = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (slot == NULL)
        return 0;
    if (is_text(name, name_size, ":status")) {
        if (!is_text(value, value_size, "200")) {
            fprintf(stderr, "loadgen: expected 200, got: %.*s\n", (int)value_size, value);
            exit(1);
        }
        slot->has_status = true;
    } else if (options.is_grpc && is_text(name, name_size, "grpc-status")) {
        if (!is_text(value, value_size, "0")) {
            fprintf(stderr, "loadgen: expected grpc-status 0, got: %.*s\n", (int)value_size, value);
            exit(1);
        }
        slot->has_grpc_status = true;
    }
    return 0;
}

static int http2_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data,
                      size_t size, void *user)
{
    (void)flags, (void)user;
    struct slot *slot = nghttp2_session_get_stream_user_data(session, stream);
    if (slot != NULL)
        body_check(slot, slot->kind->has_expect ? slot->kind->expect.size : UINT64_MAX,
                   (const char *)data, size);
    return 0;
}

static int http2_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user)
{
    (void)user;
    struct slot *slot = nghttp2_session_get_stream_user_data(session, stream);
    if (slot == NULL)
        return 0;
    if (code != NGHTTP2_NO_ERROR || !slot->has_status) {
        fprintf(stderr, "loadgen: a stream was ended with %s\n", nghttp2_http2_strerror(code));
        exit(1);
    }
    if (options.is_grpc && !slot->has_grpc_status)
        die("an answer without grpc-status");
    body_size_check(slot->kind, slot->body_seen);
    slot_done(slot);
    return 0;
}

static int http2_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    (void)session, (void)user;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        die("the server ends a connection (GOAWAY): connections without an end were to be measured");
    return 0;
}

static void http2_mark(struct connection *c)
{
    if (!c->is_marked)
        marked[marked_count++] = c;
    c->is_marked = true;
}

/* Frames of all that was begun leave together. */
static void http2_write(struct connection *c)
{
    for (;;) {
        while (c->out_sent < c->out_size) {
            ssize_t n = send(c->fd, c->out + c->out_sent, c->out_size - c->out_sent, MSG_NOSIGNAL);
            if (n < 0 && errno == EAGAIN) {
                if (!c->wants_out)
                    connection_watch(c, true);
                return;
            }
            if (n < 0)
                die_errno("send");
            c->out_sent += (size_t)n;
        }
        c->out_size = c->out_sent = 0;
        if (!nghttp2_session_want_write(c->session))
            break;
        if (nghttp2_session_send(c->session) != 0)
            die("nghttp2 cannot send");
        if (c->out_size == 0)
            break;
    }
    if (c->wants_out)
        connection_watch(c, false);
}

static void http2_open(struct connection *c)
{
    static nghttp2_session_callbacks *callbacks;
    if (callbacks == NULL) {
        if (nghttp2_session_callbacks_new(&callbacks) != 0)
            die("no memory");
        nghttp2_session_callbacks_set_send_callback(callbacks, http2_take);
        nghttp2_session_callbacks_set_send_data_callback(callbacks, http2_body_send);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, http2_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, http2_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, http2_close);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, http2_frame);
    }
    const nghttp2_settings_entry settings[] = {
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW },
        { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
    };
    if (nghttp2_session_client_new(&c->session, callbacks, c) != 0 ||
        nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, 2) != 0 ||
        nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, WINDOW) != 0)
        die("no memory");
    http2_mark(c);
}

static void http2_begin(struct slot *slot)
{
#define FIELD(name, value)                                                                        \
    {                                                                                             \
        (uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), strlen(name), strlen(value), \
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                          \
    }
    const nghttp2_nv fields[] = {
        FIELD(":method", "POST"),
        FIELD(":scheme", "http"),
        FIELD(":path", slot->kind->path),
        FIELD(":authority", options.authority),
        FIELD("user-agent", "loadgen"),
        FIELD("content-type", options.is_grpc ? "application/grpc" : "application/json"),
        FIELD("te", "trailers"),
    };
#undef FIELD
    nghttp2_data_provider body = { .source = { .ptr = slot }, .read_callback = http2_body };
    slot->has_status = slot->has_grpc_status = false;
    if (nghttp2_submit_request(slot->connection->session, NULL, fields,
                               sizeof fields / sizeof *fields, &body, slot) < 0)
        die("nghttp2 takes no request");
    http2_mark(slot->connection);
}

static void http2_read(struct connection *c, const char *data, size_t size)
{
    ssize_t n = nghttp2_session_mem_recv(c->session, (const uint8_t *)data, size);
    if (n != (ssize_t)size)
        die("the server breaks HTTP/2");
    if (nghttp2_session_want_write(c->session))
        http2_mark(c);
}

/* --- either --------------------------------------------------------------------------------------- */

static void connection_write(struct connection *c)
{
    if (options.is_http2)
        http2_write(c);
    else
        http1_write(c);
}

static void connection_read(struct connection *c)
{
    ssize_t n = recv(c->fd, read_buffer, READ_SIZE, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0)
        die_errno("recv");
    if (n == 0)
        die("the server closed a connection");
    if (options.is_http2)
        http2_read(c, read_buffer, (size_t)n);
    else
        http1_read(c, read_buffer, (size_t)n);
}

static void slot_begin(struct slot *slot, struct kind *kind, uint64_t from_ns)
{
    struct connection *c = slot->connection;
    slot->kind = kind;
    slot->from_ns = from_ns;
    slot->sent = 0;
    slot->body_seen = 0;
    if (options.is_http2) {
        http2_begin(slot);
        return;
    }
    c->head_size = 0;
    c->has_head = false;
    http1_write(c);
}

/* Sends what was begun since the last time. */
static void flush(void)
{
    for (unsigned i = 0; i < marked_count; i++) {
        marked[i]->is_marked = false;
        http2_write(marked[i]);
    }
    marked_count = 0;
}

/* --- the run ---------------------------------------------------------------------------------------- */

/* Kinds in their shares, evenly spread: the one that is furthest behind is next. */
static struct kind *kind_next(void)
{
    static double debts[KINDS_MAX];
    unsigned best = 0;
    if (options.kinds_count == 1)
        return &options.kinds[0];
    for (unsigned i = 0; i < options.kinds_count; i++) {
        debts[i] += options.kinds[i].share;
        if (debts[i] > debts[best])
            best = i;
    }
    debts[best] -= 1;
    return &options.kinds[best];
}

static void drip_open(struct drip *drip)
{
    int one = 1;
    drip->sent = 0;
    drip->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (drip->fd < 0 ||
        connect(drip->fd, (struct sockaddr *)&options.address, sizeof options.address) != 0)
        die_errno("connect");
    if (setsockopt(drip->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
        fcntl(drip->fd, F_SETFL, O_NONBLOCK) != 0)
        die_errno("socket");
}

/* One byte, where one is due. */
static void drip_once(uint64_t now)
{
    static const char head[] = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
    if (options.drips_count == 0 ||
        now - drip_from_ns < drips_due * (1000000000u / options.drips_count))
        return;
    struct drip *drip = &drips[drips_due++ % options.drips_count];
    char byte = drip->sent < sizeof head - 1 ? head[drip->sent] : 'a';
    uint64_t from = now_ns();
    if (send(drip->fd, &byte, 1, MSG_NOSIGNAL) == 1) {
        drip->sent++;
        drip_bytes++;
    } else {
        drips_ended++;
        close(drip->fd);
        drip_open(drip);
    }
    histogram_add(&drip_send, now_ns() - from);
}

static void poll_once(int timeout_ms)
{
    struct epoll_event events[64];
    flush();
    int n = epoll_wait(epoll_fd, events, 64, timeout_ms);
    if (n < 0 && errno != EINTR)
        die_errno("epoll_wait");
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            connection_write(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            connection_read(c);
    }
}

/* Until end_ns, or until `requests` answers (0: time alone). */
static void run_closed(uint64_t end_ns, uint64_t requests)
{
    uint64_t last = answers_all + requests;
    while (requests ? answers_all + (slots_count - idle_count) < last : now_ns() < end_ns) {
        while (idle_count > 0 && (requests == 0 || answers_all + (slots_count - idle_count) < last))
            slot_begin(idle[--idle_count], kind_next(), now_ns());
        poll_once(100);
    }
}

static void run_open(uint64_t begin_ns, uint64_t end_ns)
{
    double gap_ns = 1e9 / options.rate;
    uint64_t count = (uint64_t)((double)(end_ns - begin_ns) / gap_ns);
    for (uint64_t i = 0; i < count;) {
        uint64_t now = now_ns();
        uint64_t due = begin_ns + (uint64_t)((double)i * gap_ns);
        if (now >= due && idle_count > 0) {
            histogram_add(&send_lag, now - due);
            slot_begin(idle[--idle_count], kind_next(), due);
            i++;
        } else if (now >= due) {
            uint64_t behind = (uint64_t)((double)(now - due) / gap_ns);
            if (behind > backlog_max)
                backlog_max = behind;
        } else {
            drip_once(now);
        }
        poll_once(0);
        if (now > end_ns + 30000000000u)
            die("the server is too slow for this rate: 30 s behind");
    }
}

static void drain(void)
{
    uint64_t until = now_ns() + 30000000000u;
    while (idle_count < slots_count) {
        poll_once(100);
        if (now_ns() > until)
            die("answers are missing after 30 s");
    }
}

static void run(void)
{
    uint64_t begin = now_ns();
    uint64_t warm_end = begin + (uint64_t)(options.warmup * 1e9);
    if (options.warmup > 0) {
        if (options.rate > 0)
            run_open(begin, warm_end);
        else
            run_closed(warm_end, 0);
        drain();
        memset(&send_lag, 0, sizeof send_lag);
        backlog_max = 0;
    }
    memset(&drip_send, 0, sizeof drip_send);
    drip_bytes = drips_ended = 0;
    /* whoever measures the server's CPU time takes its clocks at these two lines */
    printf("{\"mark\":\"begin\"}\n");
    fflush(stdout);
    if (options.warmup > 0 && getchar() == EOF)
        die("nobody said when to go on");
    is_measuring = true;
    uint64_t from = now_ns(), cpu_from = cpu_ns();
    drip_from_ns = from;
    drips_due = 0;
    if (options.rate > 0)
        run_open(from, from + (uint64_t)(options.seconds * 1e9));
    else
        run_closed(from + (uint64_t)(options.seconds * 1e9), options.requests);
    drain();
    double wall = (double)(now_ns() - from) / 1e9, cpu = (double)(cpu_ns() - cpu_from) / 1e9;
    printf("{\"mark\":\"end\",\"answers\":%" PRIu64 ",\"seconds\":%.6f,\"per_second\":%.1f,"
           "\"cpu_share\":%.3f,\"backlog_max\":%" PRIu64 ",\"send_lag\":",
           answers, wall, (double)answers / wall, cpu / wall, backlog_max);
    histogram_print(&send_lag);
    printf(",\"drip_bytes\":%" PRIu64 ",\"drips_ended\":%" PRIu64 ",\"drip_send\":", drip_bytes, drips_ended);
    histogram_print(&drip_send);
    printf(",\"latency\":[");
    for (unsigned i = 0; i < options.kinds_count; i++) {
        printf("%s", i ? "," : "");
        histogram_print(&options.kinds[i].latency);
    }
    printf("]}\n");
}

/* --- argv ---------------------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: loadgen --port N --request FILE [--expect FILE] [--share X] [--request FILE ...]\n"
    "               [--connections 16] [--seconds 5 | --requests N] [--warmup 1] [--rate N] [--cpu N]\n"
    "               [--http2 | --grpc] [--streams 1] [--path PATH, behind each --request]\n"
    "               [--drip N, with --rate]\n"
    "FILE holds one whole HTTP/1.1 request, or the body of an answer; with --http2 or --grpc the body\n"
    "of a request to PATH, which has gRPC's prefix too. --rate makes it an open loop.\n"
    "With --warmup it waits for a line on standard input between warming up and measuring.\n";

static const char *argument(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc)
        die(usage);
    return argv[++*i];
}

static void options_read(int argc, char **argv)
{
    options.connections_count = 16;
    options.streams_count = 1;
    options.seconds = 5;
    options.warmup = 1;
    options.address.sin_family = AF_INET;
    options.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct kind *kind = NULL;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--request") == 0) {
            if (options.kinds_count == KINDS_MAX)
                die("too many requests");
            kind = &options.kinds[options.kinds_count++];
            kind->request = file_read(argument(argc, argv, &i));
            kind->share = 1;
        } else if (kind != NULL && strcmp(name, "--expect") == 0) {
            kind->expect = file_read(argument(argc, argv, &i));
            kind->has_expect = true;
        } else if (kind != NULL && strcmp(name, "--path") == 0) {
            kind->path = argument(argc, argv, &i);
        } else if (strcmp(name, "--http2") == 0) {
            options.is_http2 = true;
        } else if (strcmp(name, "--grpc") == 0) {
            options.is_http2 = options.is_grpc = true;
        } else if (strcmp(name, "--streams") == 0) {
            options.streams_count = (unsigned)strtoul(argument(argc, argv, &i), NULL, 10);
        } else if (kind != NULL && strcmp(name, "--share") == 0) {
            kind->share = strtod(argument(argc, argv, &i), NULL);
        } else if (strcmp(name, "--port") == 0) {
            options.address.sin_port = htons((uint16_t)strtoul(argument(argc, argv, &i), NULL, 10));
        } else if (strcmp(name, "--connections") == 0) {
            options.connections_count = (unsigned)strtoul(argument(argc, argv, &i), NULL, 10);
        } else if (strcmp(name, "--seconds") == 0) {
            options.seconds = strtod(argument(argc, argv, &i), NULL);
        } else if (strcmp(name, "--requests") == 0) {
            options.requests = strtoull(argument(argc, argv, &i), NULL, 10);
        } else if (strcmp(name, "--warmup") == 0) {
            options.warmup = strtod(argument(argc, argv, &i), NULL);
        } else if (strcmp(name, "--rate") == 0) {
            options.rate = strtod(argument(argc, argv, &i), NULL);
        } else if (strcmp(name, "--drip") == 0) {
            options.drips_count = (unsigned)strtoul(argument(argc, argv, &i), NULL, 10);
        } else if (strcmp(name, "--cpu") == 0) {
            cpu_pin(argument(argc, argv, &i));
        } else {
            die(usage);
        }
    }
    if (options.kinds_count == 0 || options.address.sin_port == 0 ||
        options.connections_count == 0 || options.connections_count > CONNECTIONS_MAX ||
        options.streams_count == 0 ||
        options.streams_count > SLOTS_MAX / options.connections_count ||
        (options.streams_count > 1 && !options.is_http2) || options.drips_count > DRIPS_MAX ||
        (options.drips_count > 0 && options.rate == 0))
        die(usage);
    for (unsigned i = 0; options.is_http2 && i < options.kinds_count; i++)
        if (options.kinds[i].path == NULL)
            die(usage);
    snprintf(options.authority, sizeof options.authority, "127.0.0.1:%u",
             ntohs(options.address.sin_port));
    double shares = 0;
    for (unsigned i = 0; i < options.kinds_count; i++)
        shares += options.kinds[i].share;
    for (unsigned i = 0; i < options.kinds_count; i++)
        options.kinds[i].share /= shares;
}

int main(int argc, char **argv)
{
    options_read(argc, argv);
    histogram_check();
    read_buffer = malloc(READ_SIZE);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (read_buffer == NULL || epoll_fd < 0)
        die_errno("start");
    for (unsigned i = 0; i < options.connections_count; i++) {
        connection_open(&connections[i]);
        if (options.is_http2)
            http2_open(&connections[i]);
    }
    for (unsigned i = 0; i < options.drips_count; i++)
        drip_open(&drips[i]);
    drip_from_ns = now_ns();
    run();
    return 0;
}
