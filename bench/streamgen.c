/* streamgen.c - reads streams of tokens from a server and measures when they come.
 *
 * A stream is one request and the events that answer it: server-sent events or lines of JSON over
 * HTTP/1.1, messages of a gRPC call, messages of a WebSocket. An event that holds --token's text is
 * a token; others (the end's, a heartbeat's) are counted apart. A stream that ends with another
 * number of tokens than --tokens, or any other way than well, ends the run.
 *
 * closed   (default) each of the streams that are under way at once is followed by the next when it
 *          has ended, for --seconds. Tells tokens a second, and the time to the first token.
 * paced    (--ramp) each of the streams runs once; they begin at random times of the ramp, so that
 *          their tokens are due evenly. Tells how late tokens came: each says, as due_ns, when it was
 *          due by CLOCK_MONOTONIC, which is the same clock here. A server that stalls is charged for
 *          every token that was due meanwhile. What is told is of --seconds in the middle, between
 *          two marks, when all streams run. Tokens that came in one read with another of their
 *          stream are counted: were they written apart? It spins, as waking up would be late by more
 *          than what is measured (--sleep: it does not; for a machine that has other work).
 * hold     (--hold) opens all streams and says so; for each line "wake" on standard input it tells when
 *          each had its next event. Times run from the first that had one.
 * stop     (--stop-after N) opens all streams and reads no more of each after N tokens: HTTP/1.1 and
 *          WebSocket and the only stream of a connection by not reading, the streams that share one by
 *          never opening their windows. Says when all have stopped, and waits for the end of input.
 *
 * One thread, epoll. `cpu_share` says how much of its core it used: near 1 in a closed loop means that
 * this program was the bottleneck, not the server.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define GENERATOR "streamgen"
#include "gen.h"

enum {
    STREAMS_MAX = 65536,
    HEAD_MAX = 16384,
    READ_SIZE = 256 << 10,
    SETTLE_MS = 500, /* between the last begin and the first measured token */
    WAKE_MS = 10000, /* how long a wake-up may take */
    STOP_BUFFER = 32 << 10,
    WINDOW = 1 << 30 /* of HTTP/2, but for streams that stop: no token waits for us */
};

enum wire { WIRE_SSE, WIRE_NDJSON, WIRE_WEBSOCKET, WIRE_GRPC };
enum mode { MODE_CLOSED, MODE_PACED, MODE_HOLD, MODE_STOP };
enum part { PART_HEAD, PART_CHUNK_SIZE, PART_CHUNK, PART_CHUNK_END, PART_TRAILERS, PART_MESSAGES };

struct connection;

struct stream {
    struct connection *connection;
    uint64_t begun_ns;
    uint64_t tokens, events;
    uint64_t read_number; /* of the read that brought the last token */
    bool is_under_way, is_ready, is_woken, is_stopped;
    bool has_status, has_grpc_status; /* HTTP/2: 200, and grpc-status 0 */
    size_t sent;                      /* HTTP/2: of the request */
    char *partial;                    /* an event or message that has not wholly come */
    size_t partial_size, partial_room;
};

struct connection {
    int fd;
    bool wants_out, is_marked;
    struct stream *streams;
    char *out; /* to be sent */
    size_t out_size, out_room, out_sent;
    char *carry; /* read, and not yet enough to take: a part of a head or of a frame */
    size_t carry_size, carry_room;
    enum part part;
    uint64_t chunk_left;
    nghttp2_session *session;
};

static struct {
    struct sockaddr_in address;
    enum wire wire;
    enum mode mode;
    unsigned connections_count, streams_count, sources_count;
    char authority[32];
    const char *path;
    struct bytes request; /* of a WebSocket: a message; of gRPC: body and prefix */
    struct bytes hello;   /* WebSocket: the first message */
    const char *token, *until;
    bool has_request, has_hello, has_due, is_sleepy;
    uint64_t tokens, stop_after;
    double seconds, warmup, ramp;
} options;

static struct connection *connections;
static struct stream streams[STREAMS_MAX];
static struct stream *idle[STREAMS_MAX];
static struct connection *marked[STREAMS_MAX];
static unsigned streams_count, idle_count, marked_count;
static unsigned ready_count, stopped_count, ended_count, woken_count;
static int epoll_fd;
static char *read_buffer;
static uint64_t read_number, read_ns; /* the read that is being taken */

/* What is told: of the time that is measured. */
static bool is_measuring;
static uint64_t streams_done, tokens_seen, others_seen, reads_seen, bytes_seen, coalesced,
    early; /* tokens that came 1 ms or more before they were due */
static struct histogram first_token, whole, delay, wake;
static uint64_t wake_first_ns;

static void room_for(char **data, size_t *room, size_t size)
{
    if (size <= *room)
        return;
    while (*room < size)
        *room = *room ? *room * 2 : 1024;
    *data = realloc(*data, *room);
    if (*data == NULL)
        die("no memory");
}

static bool holds(const char *data, size_t size, const char *text)
{
    return memmem(data, size, text, strlen(text)) != NULL;
}

static _Noreturn void die_with(const char *what, const char *data, size_t size)
{
    fprintf(stderr, GENERATOR ": %s: %.*s\n", what, (int)(size < 400 ? size : 400), data);
    exit(1);
}

/* --- events and tokens ------------------------------------------------------------------------- */

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;
    return at != NULL ? (int)(at - digits) : -1;
}

/* The 8 bytes of base64 at `at`, little-endian. */
static uint64_t base64_u64(const char *at, const char *end)
{
    uint64_t value = 0;
    uint32_t bits = 0, bits_count = 0;
    unsigned bytes = 0;
    for (; at < end && bytes < 8; at++) {
        int digit = base64_digit(*at);
        if (digit < 0)
            return 0;
        bits = bits << 6 | (uint32_t)digit;
        bits_count += 6;
        if (bits_count >= 8) {
            bits_count -= 8;
            value |= (uint64_t)(bits >> bits_count & 255) << (8 * bytes++);
        }
    }
    return bytes == 8 ? value : 0;
}

/* When a token was due: the number behind "due_ns" in JSON (also base64 of its 8 bytes, as "raw"),
 * or its 8 bytes as the field 4 (Tensor.raw) or 6 (raw_output_contents) behind that name. */
static uint64_t due_of(const char *data, size_t size)
{
    const char *end = data + size, *at = memmem(data, size, "due_ns", 6);
    uint64_t value = 0;
    if (at == NULL)
        die_with("a token without due_ns", data, size);
    at += 6;
    if (options.wire != WIRE_GRPC) {
        const char *raw = memmem(at, (size_t)(end - at), "\"raw\":\"", 7);
        const char *list = memmem(at, (size_t)(end - at), "\"data\":", 7);
        if (raw != NULL)
            value = base64_u64(raw + 7, end);
        else
            for (at = list != NULL ? list + 6 : at; at < end && value == 0; at++)
                if (*at >= '1' && *at <= '9')
                    value = strtoull(at, NULL, 10);
    } else {
        for (; end - at >= 10 && value == 0; at++)
            if ((at[0] == 0x22 || at[0] == 0x32) && at[1] == 8)
                memcpy(&value, at + 2, 8);
    }
    if (value == 0)
        die_with("a due_ns that cannot be read", data, size);
    return value;
}

static void stream_stop(struct stream *stream)
{
    struct connection *c = stream->connection;
    stream->is_stopped = true;
    stopped_count++;
    if (options.streams_count == 1 && epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL) != 0)
        die_errno("epoll_ctl");
}

static void stream_ready(struct stream *stream)
{
    if (!stream->is_ready)
        ready_count++;
    stream->is_ready = true;
}

static void on_token(struct stream *stream, const char *data, size_t size)
{
    if (!stream->is_under_way)
        die_with("a token that nobody asked for", data, size);
    stream->tokens++;
    if (options.tokens != 0 && stream->tokens > options.tokens)
        die_with("more tokens than were asked for", data, size);
    if (is_measuring) {
        tokens_seen++;
        if (stream->tokens == 1)
            histogram_add(&first_token, read_ns - stream->begun_ns);
        if (stream->read_number == read_number)
            coalesced++;
    }
    stream->read_number = read_number;
    if (options.has_due) {
        uint64_t due = due_of(data, size);
        if (is_measuring && due > read_ns + 1000000)
            early++;
        if (is_measuring)
            histogram_add(&delay, read_ns > due ? read_ns - due : 0);
    }
    if (options.mode == MODE_STOP && stream->tokens == options.stop_after)
        stream_stop(stream);
}

static void stream_end(struct stream *stream)
{
    if (!stream->is_under_way)
        die("a stream ended twice");
    if (options.tokens != 0 && stream->tokens != options.tokens) {
        fprintf(stderr,
                GENERATOR ": a stream ended after %" PRIu64 " tokens, expected %" PRIu64 "\n",
                stream->tokens, options.tokens);
        exit(1);
    }
    if (options.mode == MODE_HOLD || options.mode == MODE_STOP)
        die("a stream ended that was to stay");
    if (is_measuring) {
        streams_done++;
        histogram_add(&whole, read_ns - stream->begun_ns);
    }
    stream->is_under_way = false;
    ended_count++;
    idle[idle_count++] = stream;
}

/* One event: `data` is its text, or the bytes of a message. */
static void on_event(struct stream *stream, const char *data, size_t size)
{
    stream->events++;
    if (stream->is_ready && !stream->is_woken) {
        if (woken_count == 0)
            wake_first_ns = read_ns;
        histogram_add(&wake, read_ns - wake_first_ns);
        stream->is_woken = true;
        woken_count++;
    }
    if (!options.has_hello || stream->events > 0)
        stream_ready(stream);
    if (options.token == NULL || holds(data, size, options.token)) {
        if (options.tokens != 0 || options.mode == MODE_STOP || stream->is_under_way)
            on_token(stream, data, size);
        return;
    }
    if (holds(data, size, "\"error\""))
        die_with("an error in a stream", data, size);
    if (is_measuring)
        others_seen++;
    if (options.until != NULL && holds(data, size, options.until))
        stream_end(stream);
}

/* Keeps what has not wholly come. */
static void partial_keep(struct stream *stream, const char *data, size_t size)
{
    room_for(&stream->partial, &stream->partial_room, size);
    if (size > 0)
        memmove(stream->partial, data, size);
    stream->partial_size = size;
}

static void partial_join(struct stream *stream, const char **data, size_t *size)
{
    if (stream->partial_size == 0)
        return;
    room_for(&stream->partial, &stream->partial_room, stream->partial_size + *size);
    memcpy(stream->partial + stream->partial_size, *data, *size);
    *data = stream->partial;
    *size += stream->partial_size;
}

/* --- text: server-sent events, lines of JSON -------------------------------------------------------- */

static void sse_event(struct stream *stream, const char *data, size_t size)
{
    bool has_data = false;
    for (const char *line = data, *end = data + size; line < end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((next != NULL ? next : end) - line);
        if (length >= 5 && memcmp(line, "data:", 5) == 0)
            has_data = true;
        else if (length >= 12 && memcmp(line, "event: error", 12) == 0)
            die_with("an error in a stream", data, size);
        line += length + 1;
    }
    if (has_data)
        on_event(stream, data, size);
}

static void text_take(struct stream *stream, const char *data, size_t size)
{
    bool is_sse = options.wire == WIRE_SSE;
    partial_join(stream, &data, &size);
    for (;;) {
        const char *end = is_sse ? memmem(data, size, "\n\n", 2) : memchr(data, '\n', size);
        if (size == 0 || end == NULL)
            break;
        size_t length = (size_t)(end - data);
        if (is_sse)
            sse_event(stream, data, length);
        else if (length > 0)
            on_event(stream, data, length);
        data = end + 1 + is_sse;
        size -= length + 1 + is_sse;
    }
    partial_keep(stream, data, size);
}

/* --- HTTP/1.1 --------------------------------------------------------------------------------------- */

/* Takes a head: 200 and chunked, or 101. Returns its size; 0: it has not wholly come. */
static size_t head_take(struct connection *c, const char *data, size_t size)
{
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (end == NULL) {
        if (size > HEAD_MAX)
            die("a head that is too long");
        return 0;
    }
    bool is_upgrade = options.wire == WIRE_WEBSOCKET;
    char head[HEAD_MAX + 1];
    size_t head_size = (size_t)(end + 4 - data);
    if (head_size > HEAD_MAX)
        die("a head that is too long");
    memcpy(head, data, head_size);
    head[head_size] = '\0';
    if (strncmp(head, is_upgrade ? "HTTP/1.1 101" : "HTTP/1.1 200", 12) != 0)
        die_with(is_upgrade ? "expected 101, got" : "expected 200, got", data, size);
    if (!is_upgrade && strcasestr(head, "\r\ntransfer-encoding: chunked\r\n") == NULL)
        die_with("an answer that is not chunked", data, head_size);
    c->part = is_upgrade ? PART_MESSAGES : PART_CHUNK_SIZE;
    if (!is_upgrade || !options.has_hello)
        stream_ready(c->streams);
    return head_size;
}

/* A line of the chunked coding (RFC 9112, 7.1); *ret_line is its text. 0: it has not wholly come. */
static size_t line_take(const char *data, size_t size, size_t *ret_line)
{
    const char *end = memchr(data, '\n', size);
    if (end == NULL)
        return 0;
    if (end == data || end[-1] != '\r')
        die_with("a line of the chunked coding without CR", data, size);
    *ret_line = (size_t)(end - 1 - data);
    return (size_t)(end + 1 - data);
}

static size_t websocket_take(struct connection *c, const char *data, size_t size);

/* Takes the next thing; 0: it has not wholly come. */
static size_t http1_take(struct connection *c, const char *data, size_t size)
{
    size_t line = 0, taken = 0;
    switch (c->part) {
    case PART_HEAD: return head_take(c, data, size);
    case PART_CHUNK_SIZE:
        taken = line_take(data, size, &line);
        if (taken > 0) {
            char *end;
            c->chunk_left = strtoull(data, &end, 16);
            if (end == data)
                die_with("a chunk without a size", data, line);
            c->part = c->chunk_left > 0 ? PART_CHUNK : PART_TRAILERS;
        }
        return taken;
    case PART_CHUNK:
        taken = size < c->chunk_left ? size : (size_t)c->chunk_left;
        text_take(c->streams, data, taken);
        c->chunk_left -= taken;
        if (c->chunk_left == 0)
            c->part = PART_CHUNK_END;
        return taken;
    case PART_CHUNK_END:
        taken = line_take(data, size, &line);
        if (taken > 0 && line > 0)
            die_with("a chunk that is longer than its size", data, size);
        if (taken > 0)
            c->part = PART_CHUNK_SIZE;
        return taken;
    case PART_TRAILERS:
        taken = line_take(data, size, &line);
        if (taken > 0 && line == 0) {
            if (c->streams->partial_size > 0)
                die_with("an answer ended within an event", c->streams->partial,
                         c->streams->partial_size);
            c->part = PART_HEAD;
            stream_end(c->streams);
        }
        return taken;
    default: return websocket_take(c, data, size);
    }
}

static void http1_read(struct connection *c, const char *data, size_t size)
{
    if (c->carry_size > 0) {
        room_for(&c->carry, &c->carry_room, c->carry_size + size);
        memcpy(c->carry + c->carry_size, data, size);
        data = c->carry;
        size += c->carry_size;
    }
    while (size > 0) {
        size_t taken = http1_take(c, data, size);
        if (taken == 0)
            break;
        data += taken;
        size -= taken;
    }
    room_for(&c->carry, &c->carry_room, size);
    if (size > 0)
        memmove(c->carry, data, size);
    c->carry_size = size;
}

/* --- sending ------------------------------------------------------------------------------------------ */

static void connection_watch(struct connection *c, bool wants_out)
{
    struct epoll_event event = { .events = EPOLLIN | (wants_out ? (uint32_t)EPOLLOUT : 0),
                                 .data = { .ptr = c } };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0)
        die_errno("epoll_ctl");
    c->wants_out = wants_out;
}

static void out_add(struct connection *c, const void *data, size_t size)
{
    room_for(&c->out, &c->out_room, c->out_size + size);
    memcpy(c->out + c->out_size, data, size);
    c->out_size += size;
    if (!c->is_marked)
        marked[marked_count++] = c;
    c->is_marked = true;
}

static void connection_write(struct connection *c)
{
    if (c->session != NULL && nghttp2_session_want_write(c->session) &&
        nghttp2_session_send(c->session) != 0)
        die("nghttp2 cannot send");
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
    if (c->wants_out)
        connection_watch(c, false);
}

/* Sends what was begun since the last time. */
static void flush(void)
{
    for (unsigned i = 0; i < marked_count; i++) {
        connection_write(marked[i]);
        marked[i]->is_marked = false;
    }
    marked_count = 0;
}

/* --- WebSocket ------------------------------------------------------------------------------------------ */

/* A client's frame is masked (RFC 6455, 5.3); with what does not matter here. */
static void websocket_send(struct connection *c, unsigned opcode, const char *data, size_t size)
{
    static const uint8_t mask[4] = { 0x5a, 0xc3, 0x3c, 0xa5 };
    uint8_t head[14] = { (uint8_t)(0x80 | opcode) };
    size_t head_size = 2;
    if (size < 126) {
        head[1] = (uint8_t)(0x80 | size);
    } else {
        unsigned bytes = size < 65536 ? 2 : 8;
        head[1] = (uint8_t)(0x80 | (bytes == 2 ? 126 : 127));
        for (unsigned i = 0; i < bytes; i++)
            head[2 + i] = (uint8_t)((uint64_t)size >> (8 * (bytes - 1 - i)));
        head_size += bytes;
    }
    memcpy(head + head_size, mask, 4);
    out_add(c, head, head_size + 4);
    size_t from = c->out_size;
    if (size > 0)
        out_add(c, data, size);
    for (size_t i = 0; i < size; i++)
        c->out[from + i] = (char)(c->out[from + i] ^ mask[i & 3]);
}

static void websocket_open(struct connection *c)
{
    char head[1024];
    int size =
        snprintf(head, sizeof head,
                 "GET %s HTTP/1.1\r\nhost: %s\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
                 "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
                 options.path, options.authority);
    if (size < 0 || (size_t)size >= sizeof head)
        die("--path is too long");
    out_add(c, head, (size_t)size);
    if (options.has_hello)
        websocket_send(c, 1, options.hello.data, options.hello.size);
}

static size_t websocket_take(struct connection *c, const char *data, size_t size)
{
    const uint8_t *in = (const uint8_t *)data;
    if (size < 2)
        return 0;
    uint64_t length = in[1] & 127;
    size_t head = length == 126 ? 4 : length == 127 ? 10 : 2;
    if ((in[1] & 0x80) != 0 || (in[0] & 0x70) != 0)
        die("a frame that is masked or has reserved bits");
    if (size < head)
        return 0;
    for (size_t i = 2; i < head; i++)
        length = (i == 2 ? 0 : length << 8) | in[i];
    if (size - head < length)
        return 0;
    const char *payload = data + head;
    switch (in[0]) {
    case 0x81:
    case 0x82: on_event(c->streams, payload, (size_t)length); break;
    case 0x89: websocket_send(c, 10, payload, (size_t)length); break;
    case 0x8a: break;
    case 0x88:
        die_with("the server closed a WebSocket", payload + (length < 2 ? length : 2),
                 (size_t)(length < 2 ? 0 : length - 2));
    default: die("a fragment, or a frame of an unknown kind");
    }
    return head + (size_t)length;
}

/* --- gRPC ----------------------------------------------------------------------------------------------- */

static ssize_t http2_take(nghttp2_session *session, const uint8_t *data, size_t size, int flags,
                          void *user)
{
    (void)session, (void)flags;
    out_add(user, data, size);
    return (ssize_t)size;
}

static ssize_t http2_body(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t room,
                          uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)session, (void)id, (void)user;
    struct stream *stream = source->ptr;
    size_t left = options.request.size - stream->sent, take = left < room ? left : room;
    memcpy(buffer, options.request.data + stream->sent, take);
    stream->sent += take;
    *flags |= take == left ? (uint32_t)NGHTTP2_DATA_FLAG_EOF : 0;
    return (ssize_t)take;
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
    struct stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream == NULL)
        return 0;
    if (is_text(name, name_size, ":status")) {
        if (!is_text(value, value_size, "200"))
            die_with("expected 200, got", (const char *)value, value_size);
        stream->has_status = true;
        stream_ready(stream);
    } else if (is_text(name, name_size, "grpc-status")) {
        stream->has_grpc_status = is_text(value, value_size, "0");
        if (!stream->has_grpc_status)
            fprintf(stderr, GENERATOR ": expected grpc-status 0, got %.*s\n", (int)value_size,
                    value);
    } else if (is_text(name, name_size, "grpc-message") && value_size > 0) {
        die_with("the call failed", (const char *)value, value_size);
    }
    return 0;
}

static int http2_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                      size_t bytes_size, void *user)
{
    (void)flags, (void)user;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    const char *data = (const char *)bytes;
    size_t size = bytes_size;
    if (stream == NULL)
        return 0;
    partial_join(stream, &data, &size);
    while (size >= 5) {
        uint32_t length;
        memcpy(&length, data + 1, 4);
        length = ntohl(length);
        if (data[0] != 0)
            die("a message that is compressed");
        if (size - 5 < length)
            break;
        on_event(stream, data + 5, length);
        data += 5 + length;
        size -= 5 + length;
    }
    partial_keep(stream, data, size);
    if (options.mode == MODE_STOP && nghttp2_session_consume_connection(session, bytes_size) != 0)
        die("no memory");
    return 0;
}

static int http2_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    (void)user;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream == NULL)
        return 0;
    if (code != NGHTTP2_NO_ERROR || !stream->has_status || !stream->has_grpc_status ||
        stream->partial_size > 0) {
        fprintf(stderr, GENERATOR ": a stream was ended with %s after %" PRIu64 " tokens\n",
                code != NGHTTP2_NO_ERROR ? nghttp2_http2_strerror(code) : "no good status",
                stream->tokens);
        exit(1);
    }
    stream_end(stream);
    return 0;
}

static int http2_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    (void)session, (void)user;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        die("the server ends a connection (GOAWAY)");
    return 0;
}

static void http2_open(struct connection *c)
{
    static nghttp2_session_callbacks *callbacks;
    static nghttp2_option *settings_of_us;
    if (callbacks == NULL) {
        if (nghttp2_session_callbacks_new(&callbacks) != 0 ||
            nghttp2_option_new(&settings_of_us) != 0)
            die("no memory");
        nghttp2_session_callbacks_set_send_callback(callbacks, http2_take);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, http2_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, http2_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, http2_close);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, http2_frame);
        if (options.mode == MODE_STOP)
            nghttp2_option_set_no_auto_window_update(settings_of_us, 1);
    }
    const nghttp2_settings_entry settings[] = {
        { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW },
    };
    if (nghttp2_session_client_new2(&c->session, callbacks, c, settings_of_us) != 0 ||
        nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings,
                                options.mode == MODE_STOP ? 1 : 2) != 0 ||
        nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, WINDOW) != 0 ||
        nghttp2_session_send(c->session) != 0)
        die("no memory");
}

static void http2_begin(struct stream *stream)
{
#define FIELD(name, value)                                                                        \
    {                                                                                             \
        (uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), strlen(name), strlen(value), \
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                          \
    }
    const nghttp2_nv fields[] = {
        FIELD(":method", "POST"),         FIELD(":scheme", "http"),
        FIELD(":path", options.path),     FIELD(":authority", options.authority),
        FIELD("user-agent", "streamgen"), FIELD("content-type", "application/grpc"),
        FIELD("te", "trailers"),
    };
#undef FIELD
    nghttp2_data_provider body = { .source = { .ptr = stream }, .read_callback = http2_body };
    stream->has_status = stream->has_grpc_status = false;
    stream->sent = 0;
    struct connection *c = stream->connection;
    if (nghttp2_submit_request(c->session, NULL, fields, sizeof fields / sizeof *fields, &body,
                               stream) < 0 ||
        nghttp2_session_send(c->session) != 0)
        die("nghttp2 takes no request");
}

static void http2_read(struct connection *c, const char *data, size_t size)
{
    if (nghttp2_session_mem_recv(c->session, (const uint8_t *)data, size) != (ssize_t)size)
        die("the server breaks HTTP/2");
    if (nghttp2_session_want_write(c->session) && nghttp2_session_send(c->session) != 0)
        die("nghttp2 cannot send");
}

/* --- either ------------------------------------------------------------------------------------------------ */

/* Sources differ so that ports do not run out: 28,000 or so for each pair of addresses. */
static void connection_open(struct connection *c, unsigned index)
{
    int one = 1, buffer = STOP_BUFFER;
    struct sockaddr_in source = { .sin_family = AF_INET };
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + index % options.sources_count);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die_errno("socket");
    if (options.mode == MODE_STOP &&
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) != 0)
        die_errno("socket");
    if (setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) != 0 ||
        (options.sources_count > 1 &&
         bind(c->fd, (struct sockaddr *)&source, sizeof source) != 0) ||
        connect(c->fd, (struct sockaddr *)&options.address, sizeof options.address) != 0)
        die_errno("connect");
    if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
        fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0)
        die_errno("socket");
    struct epoll_event event = { .events = EPOLLIN, .data = { .ptr = c } };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die_errno("epoll_ctl");
    c->streams = &streams[streams_count];
    for (unsigned i = 0; i < options.streams_count; i++) {
        struct stream *stream = &streams[streams_count++];
        stream->connection = c;
        stream->is_woken = true;
        idle[idle_count++] = stream;
    }
    if (options.wire == WIRE_GRPC)
        http2_open(c);
    else if (options.wire == WIRE_WEBSOCKET)
        websocket_open(c);
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
    read_ns = now_ns();
    read_number++;
    if (is_measuring) {
        reads_seen++;
        bytes_seen += (uint64_t)n;
    }
    if (options.wire == WIRE_GRPC)
        http2_read(c, read_buffer, (size_t)n);
    else
        http1_read(c, read_buffer, (size_t)n);
}

static void stream_begin(struct stream *stream)
{
    struct connection *c = stream->connection;
    stream->begun_ns = now_ns();
    stream->tokens = 0;
    stream->read_number = 0;
    stream->is_under_way = true;
    if (!options.has_request)
        return;
    if (options.wire == WIRE_GRPC)
        http2_begin(stream);
    else if (options.wire == WIRE_WEBSOCKET)
        websocket_send(c, 1, options.request.data, options.request.size);
    else
        out_add(c, options.request.data, options.request.size);
}

/* --- the run -------------------------------------------------------------------------------------------------- */

static bool is_input_ready, is_input_watched;

static void poll_once(int timeout_ms)
{
    struct epoll_event events[256];
    flush();
    int n = epoll_wait(epoll_fd, events, 256, timeout_ms);
    if (n < 0 && errno != EINTR)
        die_errno("epoll_wait");
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (c == NULL) {
            is_input_ready = true;
            continue;
        }
        if (events[i].events & EPOLLOUT)
            connection_write(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            connection_read(c);
    }
}

/* The next line of standard input, read while connections are served; false: it has ended. */
static bool input_line(char *line, size_t room)
{
    struct epoll_event event = { .events = EPOLLIN, .data = { .ptr = NULL } };
    if (!is_input_watched && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event) != 0)
        die_errno("standard input");
    is_input_watched = true;
    is_input_ready = false;
    while (!is_input_ready)
        poll_once(-1);
    size_t size = 0;
    while (size + 1 < room && read(0, line + size, 1) == 1 && line[size] != '\n')
        size++;
    line[size] = '\0';
    return size > 0;
}

static void say(const char *mark)
{
    printf("{\"mark\":\"%s\",\"streams\":%u}\n", mark, streams_count);
    fflush(stdout);
}

static void drain(double seconds)
{
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);
    while (idle_count < streams_count) {
        poll_once(100);
        if (now_ns() > until)
            die("streams have not ended");
    }
}

static void run_closed_until(uint64_t end_ns)
{
    while (now_ns() < end_ns) {
        while (idle_count > 0)
            stream_begin(idle[--idle_count]);
        poll_once(100);
    }
    drain(60);
}

static void run_closed(uint64_t *ret_from, uint64_t *ret_to, uint64_t *ret_cpu)
{
    if (options.warmup > 0) {
        run_closed_until(now_ns() + (uint64_t)(options.warmup * 1e9));
        /* whoever measures the server's CPU time takes its clocks at these two lines */
        say("begin");
        if (getchar() == EOF)
            die("nobody said when to go on");
    }
    is_measuring = true;
    *ret_from = now_ns();
    uint64_t cpu = cpu_ns();
    run_closed_until(*ret_from + (uint64_t)(options.seconds * 1e9));
    *ret_to = now_ns();
    *ret_cpu = cpu_ns() - cpu;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void run_paced(uint64_t *ret_from, uint64_t *ret_to, uint64_t *ret_cpu)
{
    uint64_t *begins = calloc(streams_count, sizeof *begins), state = 1, cpu = 0;
    if (begins == NULL)
        die("no memory");
    uint64_t zero = now_ns() + 10000000;
    for (unsigned i = 0; i < streams_count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        begins[i] =
            zero + (uint64_t)((double)(state >> 11) / 9007199254740992.0 * options.ramp * 1e9);
    }
    qsort(begins, streams_count, sizeof *begins, compare_u64);
    uint64_t from = zero + (uint64_t)(options.ramp * 1e9) + SETTLE_MS * 1000000u;
    uint64_t to = from + (uint64_t)(options.seconds * 1e9), give_up = to + 60000000000u;
    unsigned begun = 0;
    while (idle_count > 0 || ended_count < streams_count) {
        uint64_t now = now_ns();
        while (begun < streams_count && now >= begins[begun]) {
            stream_begin(idle[streams_count - 1 - begun++]);
            idle_count--;
        }
        if (!is_measuring && *ret_from == 0 && now >= from) {
            say("begin");
            is_measuring = true;
            *ret_from = now_ns();
            cpu = cpu_ns();
        } else if (is_measuring && now >= to) {
            is_measuring = false;
            *ret_to = now_ns();
            *ret_cpu = cpu_ns() - cpu;
            say("end");
        }
        poll_once(options.is_sleepy ? 1 : 0);
        if (now > give_up)
            die("streams have not ended 60 s after what was measured");
        if (ended_count == streams_count)
            break;
    }
    if (*ret_to == 0)
        die("streams ended before all had begun: --tokens is too few");
    free(begins);
}

static void open_all(void)
{
    while (idle_count > 0) {
        stream_begin(idle[--idle_count]);
        if (idle_count % 64 == 0)
            poll_once(0);
    }
    uint64_t until = now_ns() + 30000000000u;
    while (ready_count < streams_count) {
        poll_once(100);
        if (now_ns() > until) {
            fprintf(stderr, GENERATOR ": %u of %u streams are open after 30 s\n", ready_count,
                    streams_count);
            exit(1);
        }
    }
}

static void run_hold(void)
{
    char line[64];
    open_all();
    say("open");
    while (input_line(line, sizeof line)) {
        for (unsigned i = 0; i < streams_count; i++)
            streams[i].is_woken = false;
        woken_count = 0;
        memset(&wake, 0, sizeof wake);
        say("armed");
        uint64_t cpu = cpu_ns(), armed = now_ns(), until = armed + WAKE_MS * 1000000u;
        while (woken_count < streams_count && now_ns() < until)
            poll_once(100);
        printf("{\"mark\":\"woken\",\"streams\":%u,\"woken\":%u,\"generator_us\":%.1f,\"wake\":",
               streams_count, woken_count, (double)(cpu_ns() - cpu) / 1e3);
        histogram_print(&wake);
        printf("}\n");
        fflush(stdout);
    }
}

static void run_stop(void)
{
    char line[64];
    open_all();
    uint64_t until = now_ns() + 30000000000u;
    while (stopped_count < streams_count) {
        poll_once(100);
        if (now_ns() > until)
            die("streams have not had their tokens after 30 s");
    }
    say("stopped");
    input_line(line, sizeof line);
}

static void run(void)
{
    uint64_t from = 0, to = 0, cpu = 0;
    if (options.mode == MODE_HOLD || options.mode == MODE_STOP) {
        if (options.mode == MODE_HOLD)
            run_hold();
        else
            run_stop();
        return;
    }
    if (options.mode == MODE_PACED)
        run_paced(&from, &to, &cpu);
    else
        run_closed(&from, &to, &cpu);
    double wall = (double)(to - from) / 1e9;
    printf("{\"mark\":\"told\",\"streams\":%" PRIu64 ",\"tokens\":%" PRIu64 ",\"others\":%" PRIu64
           ",\"reads\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"coalesced\":%" PRIu64
           ",\"early\":%" PRIu64
           ",\"seconds\":%.6f,\"per_second\":%.1f,\"cpu_share\":%.3f,\"first\":",
           streams_done, tokens_seen, others_seen, reads_seen, bytes_seen, coalesced, early, wall,
           (double)tokens_seen / wall, (double)cpu / 1e9 / wall);
    histogram_print(&first_token);
    printf(",\"whole\":");
    histogram_print(&whole);
    printf(",\"delay\":");
    histogram_print(&delay);
    printf("}\n");
    fflush(stdout);
}

/* --- argv ------------------------------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: streamgen --port N --wire sse|ndjson|websocket|grpc [--request FILE] [--token TEXT]\n"
    "                 [--tokens N] [--connections 16] [--streams 1] [--sources 1] [--cpu N]\n"
    "                 [--path PATH] [--hello FILE] [--until TEXT] [--due] [--sleep]\n"
    "                 [--seconds 5] [--warmup 1 | --ramp SECONDS | --hold | --stop-after N]\n"
    "FILE holds a whole HTTP/1.1 request, the body of a gRPC call with its prefix, or a WebSocket\n"
    "message; --hello is the message before it, --until what the last message of a stream holds.\n"
    "With --warmup it waits for a line on standard input between warming up and measuring.\n";

static const char *argument(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc)
        die(usage);
    return argv[++*i];
}

static enum wire wire_of(const char *name)
{
    static const char *const names[] = { "sse", "ndjson", "websocket", "grpc" };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0)
            return (enum wire)i;
    die(usage);
}

static void options_read(int argc, char **argv)
{
    bool has_wire = false;
    options.connections_count = 16;
    options.streams_count = options.sources_count = 1;
    options.seconds = 5;
    options.warmup = 1;
    options.address.sin_family = AF_INET;
    options.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--due") == 0) {
            options.has_due = true;
            continue;
        }
        if (strcmp(name, "--sleep") == 0) {
            options.is_sleepy = true;
            continue;
        }
        if (strcmp(name, "--hold") == 0) {
            options.mode = MODE_HOLD;
            continue;
        }
        const char *value = argument(argc, argv, &i);
        if (strcmp(name, "--port") == 0) {
            options.address.sin_port = htons((uint16_t)strtoul(value, NULL, 10));
        } else if (strcmp(name, "--wire") == 0) {
            options.wire = wire_of(value);
            has_wire = true;
        } else if (strcmp(name, "--request") == 0) {
            options.request = file_read(value);
            options.has_request = true;
        } else if (strcmp(name, "--hello") == 0) {
            options.hello = file_read(value);
            options.has_hello = true;
        } else if (strcmp(name, "--path") == 0) {
            options.path = value;
        } else if (strcmp(name, "--token") == 0) {
            options.token = value;
        } else if (strcmp(name, "--until") == 0) {
            options.until = value;
        } else if (strcmp(name, "--tokens") == 0) {
            options.tokens = strtoull(value, NULL, 10);
        } else if (strcmp(name, "--connections") == 0) {
            options.connections_count = (unsigned)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--streams") == 0) {
            options.streams_count = (unsigned)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--sources") == 0) {
            options.sources_count = (unsigned)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--seconds") == 0) {
            options.seconds = strtod(value, NULL);
        } else if (strcmp(name, "--warmup") == 0) {
            options.warmup = strtod(value, NULL);
        } else if (strcmp(name, "--ramp") == 0) {
            options.ramp = strtod(value, NULL);
            options.mode = MODE_PACED;
        } else if (strcmp(name, "--stop-after") == 0) {
            options.stop_after = strtoull(value, NULL, 10);
            options.mode = MODE_STOP;
        } else if (strcmp(name, "--cpu") == 0) {
            cpu_pin(value);
        } else {
            die(usage);
        }
    }
    bool is_grpc = options.wire == WIRE_GRPC, is_websocket = options.wire == WIRE_WEBSOCKET;
    if (!has_wire || options.address.sin_port == 0 || options.connections_count == 0 ||
        options.sources_count == 0 || options.streams_count == 0 ||
        options.streams_count > STREAMS_MAX / options.connections_count ||
        (options.streams_count > 1 && !is_grpc) || ((is_grpc || is_websocket) && !options.path) ||
        (!is_websocket && !options.has_request) ||
        (options.mode == MODE_PACED && options.tokens == 0) ||
        (options.mode == MODE_STOP && options.stop_after == 0))
        die(usage);
    snprintf(options.authority, sizeof options.authority, "127.0.0.1:%u",
             ntohs(options.address.sin_port));
}

int main(int argc, char **argv)
{
    struct rlimit files;
    options_read(argc, argv);
    histogram_check();
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    read_buffer = malloc(READ_SIZE);
    connections = calloc(options.connections_count, sizeof *connections);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (read_buffer == NULL || connections == NULL || epoll_fd < 0)
        die_errno("start");
    for (unsigned i = 0; i < options.connections_count; i++) {
        connection_open(&connections[i], i);
        if (i % 64 == 63)
            poll_once(0);
    }
    flush();
    run();
    return 0;
}
