/* http2_test.c - both roles talking through memory, and frames made by hand.
 * SPDX-License-Identifier: Apache-2.0 */
#include "wire/http2.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "test/harness.h"

enum { BODY_MAX = 1 << 20 };

static const struct http2_limits limits = {
    .streams_max = 8,
    .header_bytes_max = 4096,
    .fields_max = 16,
    .stream_window = 65535,
    .connection_window = 1 << 20,
    .frame_bytes_max = 16384,
    .control_frames_max = 100,
    .resets_max = 10,
};

/* One end: what it heard, in words, and what it wants sent. */
struct peer {
    struct http2 *h;
    char log[16384];
    size_t log_size;
    uint8_t *out;
    size_t out_size, out_room, out_max; /* out_max: copy fails beyond it; 0: never */
    uint64_t referred;
    struct http2_stream *last; /* of the last head */
    uint32_t last_code;
    bool traces;  /* frames go into the log */
    bool answers; /* each complete request with "200", its body's size, and trailers */
    bool allows;  /* credit as data arrives */
    size_t body_size;
    uint64_t body_sum; /* of bytes times place, of all data so far */
    uint32_t closed;
};

PRINTF_LIKE(2, 3) static void note(struct peer *p, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int size = vsnprintf(p->log + p->log_size, sizeof p->log - p->log_size, format, args);
    va_end(args);
    p->log_size = MIN(p->log_size + (size_t)size, sizeof p->log - 1);
}

static void on_head(void *owner, struct http2_stream *s, const struct http2_head *head)
{
    static const char *const kinds[] = { "request", "interim", "response", "trailers" };
    struct peer *p = owner;

    p->last = s;
    note(p, "%s %d", kinds[head->kind], http2_stream_id(s));
    for (uint32_t i = 0; i < head->count; i++)
        note(p, " %.*s=%.*s", SLICE_ARG(head->fields[i].name), SLICE_ARG(head->fields[i].value));
    note(p, "%s%s\n", head->is_end ? " end" : "", head->has_overrun ? " overrun" : "");
}

static void on_data(void *owner, struct http2_stream *s, struct slice data)
{
    struct peer *p = owner;

    for (size_t i = 0; i < data.size; i++)
        p->body_sum += (p->body_size + i) * data.data[i];
    p->body_size += data.size;
    if (p->allows)
        http2_allow(p->h, s, 100000);
}

static void answer(struct peer *p, struct http2_stream *s)
{
    static const struct http2_field head[] = { { SLICE_LIT("content-type"), SLICE_LIT("x/y") } };
    static const struct http2_field tail[] = { { SLICE_LIT("grpc-status"), SLICE_LIT("0") } };

    http2_respond(p->h, s, 200, head, 1, NULL, 0);
    http2_data(p->h, s, slice_of("hello "), NULL);
    http2_data(p->h, s, slice_of("world"), NULL);
    http2_end(p->h, s, tail, 1);
}

static void on_end(void *owner, struct http2_stream *s)
{
    struct peer *p = owner;

    note(p, "end %d body %zu\n", http2_stream_id(s), p->body_size);
    if (p->answers)
        answer(p, s);
}

static void on_close(void *owner, struct http2_stream *s, uint32_t code)
{
    struct peer *p = owner;

    p->closed++;
    p->last_code = code;
    if (p->last == s)
        p->last = NULL;
    note(p, "close %d %s\n", http2_stream_id(s), http2_code_name(code));
}

static void on_goaway(void *owner, int32_t last, uint32_t code, struct slice debug)
{
    note(owner, "goaway %d %s '%.*s'\n", last, http2_code_name(code), SLICE_ARG(debug));
}

static void on_pong(void *owner, uint64_t word)
{
    note(owner, "pong %llu\n", (unsigned long long)word);
}

static void on_ping(void *owner)
{
    note(owner, "ping\n");
}

static void on_frame(void *owner, const struct http2_frame *frame)
{
    struct peer *p = owner;

    if (!p->traces)
        return;
    note(p, "%s%s", frame->is_sent ? ">" : "<", frame->name);
    if (frame->stream != 0)
        note(p, " %d", frame->stream);
    if (frame->type <= 1 && (frame->flags & 1) != 0)
        note(p, " end");
    if (frame->type == 3 || frame->type == 7)
        note(p, " %s", http2_code_name(frame->value));
    if (frame->type == 8)
        note(p, " %u", frame->value);
    note(p, "\n");
}

static bool copy(void *owner, const void *data, size_t size)
{
    struct peer *p = owner;

    if (p->out_size + size > p->out_room) {
        p->out_room = (p->out_size + size) * 2;
        p->out = realloc(p->out, p->out_room);
    }
    memcpy(p->out + p->out_size, data, size);
    p->out_size += size;
    return p->out_max == 0 || p->out_size <= p->out_max;
}

static bool refer(void *owner, struct http2_stream *s, struct slice bytes, struct buf *holder)
{
    struct peer *p = owner;

    (void)s, (void)holder;
    p->referred += bytes.size;
    return copy(owner, bytes.data, bytes.size);
}

static const struct http2_events events = {
    .on_head = on_head,
    .on_data = on_data,
    .on_end = on_end,
    .on_close = on_close,
    .on_goaway = on_goaway,
    .on_pong = on_pong,
    .on_ping = on_ping,
    .on_frame = on_frame,
    .copy = copy,
    .refer = refer,
};

static enum err_code peer_open(struct peer *p, enum http2_role role,
                               const struct http2_limits *with, struct http2_heap *heap)
{
    memset(p, 0, sizeof *p);
    p->allows = true;
    return http2_new(&p->h, role, with, &events, p, heap, NULL);
}

static void peer_close(struct peer *p)
{
    http2_free(&p->h);
    free(p->out);
}

/* What p wants sent goes to q, at most `step` bytes at a time (0: of random length). */
static enum err_code carry(struct peer *p, struct peer *q, size_t step, uint64_t now_ns)
{
    enum err_code code = OK;
    struct err err;

    while (http2_send(p->h, 65536))
        ;
    for (size_t at = 0; at < p->out_size && code == OK;) {
        size_t size = step != 0 ? step : 1 + test_random_below(test_random_below(2) ? 20 : 20000);
        size = MIN(size, p->out_size - at);
        uint8_t *piece = malloc(size); /* its own, so that a read past it is seen */
        memcpy(piece, p->out + at, size);
        code = http2_receive(q->h, slice_make(piece, size), now_ns, &err);
        free(piece);
        at += size;
    }
    p->out_size = 0;
    return code;
}

static void talk(struct peer *p, struct peer *q, size_t step)
{
    do {
        carry(p, q, step, NS_PER_S);
        carry(q, p, step, NS_PER_S);
    } while (http2_wants_send(p->h) || http2_wants_send(q->h));
}

static struct http2_stream *ask(struct peer *p, const char *path, bool is_end)
{
    struct http2_field fields[] = {
        { SLICE_LIT(":method"), SLICE_LIT("POST") }, { SLICE_LIT(":scheme"), SLICE_LIT("http") },
        { SLICE_LIT(":path"), slice_of(path) },      { SLICE_LIT(":authority"), SLICE_LIT("a:1") },
        { SLICE_LIT("te"), SLICE_LIT("trailers") },
    };
    struct http2_stream *s = NULL;
    struct err err;

    if (http2_request(p->h, fields, COUNT(fields), is_end, p, &s, &err) != OK)
        note(p, "request: %s\n", err.text);
    return s;
}

static struct peer server, client;

static void open_both(void)
{
    check(peer_open(&server, HTTP2_SERVER, &limits, NULL) == OK, "server");
    check(peer_open(&client, HTTP2_CLIENT, &http2_client_limits, NULL) == OK, "client");
}

static void close_both(void)
{
    peer_close(&server);
    peer_close(&client);
}

TEST(a_request_and_its_answer_however_the_bytes_are_split)
{
    for (size_t step = 0; step < 40; step += step < 3 ? 1 : 13) {
        open_both();
        server.answers = true;
        struct http2_stream *s = ask(&client, "/x", false);
        check_or_stop(s != NULL, "%s", client.log);
        http2_data(client.h, s, slice_of("body"), NULL);
        http2_end(client.h, s, NULL, 0);
        talk(&client, &server, step);
        check(strcmp(server.log, "request 1 :method=POST :scheme=http :path=/x :authority=a:1 "
                                 "te=trailers\nend 1 body 4\nclose 1 NO_ERROR\n") == 0,
              "%zu: %s", step, server.log);
        check(strcmp(client.log,
                     "response 1 :status=200 content-type=x/y\ntrailers 1 grpc-status=0 end\n"
                     "end 1 body 11\nclose 1 NO_ERROR\n") == 0,
              "%zu: %s", step, client.log);
        check(http2_streams_open(server.h) == 0 && http2_streams_open(client.h) == 0, "closed");
        close_both();
    }
}

/* What the server sent for `stream`, by its trace. */
static void check_sent(const char *wanted)
{
    check(strstr(server.log, wanted) != NULL, "wanted %s, is %s", wanted, server.log);
}

TEST(an_answer_is_as_few_frames_as_it_can_be)
{
    static const struct http2_field tail[] = { { SLICE_LIT("grpc-status"), SLICE_LIT("5") } };

    open_both();
    server.traces = true;
    ask(&client, "/a", true);
    carry(&client, &server, 0, 1);
    http2_respond(server.h, server.last, 204, NULL, 0, NULL, 0);
    http2_end(server.h, server.last, NULL, 0);
    talk(&client, &server, 0);
    check_sent(">HEADERS 1 end\nclose 1 NO_ERROR");

    ask(&client, "/b", true); /* no body, but trailers */
    carry(&client, &server, 0, 1);
    http2_respond(server.h, server.last, 200, NULL, 0, NULL, 0);
    http2_end(server.h, server.last, tail, 1);
    talk(&client, &server, 0);
    check_sent(">HEADERS 3\n>HEADERS 3 end\nclose 3 NO_ERROR");

    ask(&client, "/c", true); /* the end comes after the last byte has gone */
    carry(&client, &server, 0, 1);
    struct http2_stream *s = server.last;
    http2_respond(server.h, s, 200, NULL, 0, NULL, 0);
    http2_data(server.h, s, slice_of("1"), NULL);
    talk(&client, &server, 0);
    http2_end(server.h, s, NULL, 0);
    talk(&client, &server, 0);
    check_sent(">HEADERS 5\n>DATA 5\n>DATA 5 end\nclose 5 NO_ERROR");

    ask(&client, "/d", true); /* the same with trailers: no empty DATA */
    carry(&client, &server, 0, 1);
    s = server.last;
    http2_respond(server.h, s, 200, NULL, 0, NULL, 0);
    talk(&client, &server, 0);
    http2_data(server.h, s, slice_of("1"), NULL);
    talk(&client, &server, 0);
    http2_end(server.h, s, tail, 1);
    talk(&client, &server, 0);
    check_sent(">HEADERS 7\n>DATA 7\n>HEADERS 7 end\nclose 7 NO_ERROR");

    ask(&client, "/e", true); /* 1xx come first, in order */
    carry(&client, &server, 0, 1);
    http2_respond(server.h, server.last, 100, NULL, 0, NULL, 0);
    http2_respond(server.h, server.last, 200, NULL, 0, tail, 1);
    http2_end(server.h, server.last, NULL, 0);
    talk(&client, &server, 0);
    check(strstr(client.log, "interim 9 :status=100\nresponse 9 :status=200 grpc-status=5 end\n"),
          "%s", client.log);
    close_both();
}

TEST(an_answer_before_the_request_is_over_ends_both)
{
    open_both();
    server.traces = true;
    struct http2_stream *s = ask(&client, "/a", false);
    carry(&client, &server, 0, 1);
    http2_respond(server.h, server.last, 413, NULL, 0, NULL, 0);
    http2_data(server.h, server.last, slice_of("large"), NULL);
    http2_end(server.h, server.last, NULL, 0);
    http2_data(client.h, s, slice_of("more and more"), NULL);
    talk(&client, &server, 0);
    check_sent(">DATA 1 end\n>RST_STREAM 1 NO_ERROR\nclose 1 NO_ERROR");
    check(strstr(client.log, "end 1 body 5\nclose 1 NO_ERROR\n") != NULL, "%s", client.log);
    check(http2_failure(server.h) == HTTP2_FINE, "fine");
    close_both();
}

TEST(credit_is_the_readers)
{
    static uint8_t body[300000];

    open_both();
    server.allows = false;
    struct http2_stream *s = ask(&client, "/a", false);
    http2_data(client.h, s, slice_make(body, sizeof body), NULL);
    http2_end(client.h, s, NULL, 0);
    talk(&client, &server, 0);
    check(server.body_size == limits.stream_window, "%zu", server.body_size);
    check(http2_stream_queued(s) == sizeof body - limits.stream_window, "queued");
    check(http2_allowed(server.last) == 0, "allowed");
    http2_allow(server.h, server.last, 1000);
    talk(&client, &server, 0);
    check(server.body_size == limits.stream_window + 1000, "%zu", server.body_size);
    http2_allow(server.h, server.last, 1000);
    http2_allow(server.h, server.last, 1999); /* too little is missing to say so */
    check(http2_allowed(server.last) == 1000, "%zu", http2_allowed(server.last));
    http2_allow(server.h, server.last, 1 << 20);
    check(http2_allowed(server.last) == 1 << 20, "%zu", http2_allowed(server.last));
    talk(&client, &server, 0);
    check(server.body_size == sizeof body, "%zu", server.body_size);
    check(strstr(server.log, "end 1 body 300000") != NULL, "%s", server.log);
    /* The connection's window came back by itself, or this would have stopped at 1 MiB. */
    for (int i = 0; i < 20; i++) {
        server.body_size = 0;
        s = ask(&client, "/b", false);
        http2_data(client.h, s, slice_make(body, limits.stream_window), NULL);
        talk(&client, &server, 0);
        check(server.body_size == limits.stream_window, "%d: %zu", i, server.body_size);
        http2_reset(server.h, server.last, HTTP2_CANCEL);
        talk(&client, &server, 0);
    }
    close_both();
}

TEST(large_bodies_are_referred_to_and_arrive_whole)
{
    uint8_t *body = malloc(BODY_MAX);
    uint64_t sum = 0;
    struct buf *holder = NULL;

    for (size_t i = 0; i < BODY_MAX; i++) {
        body[i] = (uint8_t)test_random();
        sum += i * body[i];
    }
    check(buf_new(&holder, NULL, 5000, NULL) == OK, "buf");
    memset(buf_fill(holder), 1, 5000);
    open_both();
    struct http2_stream *s = ask(&client, "/a", false);
    http2_data(client.h, s, slice_make(body, BODY_MAX / 2), NULL);
    http2_data(client.h, s, slice_make(body + BODY_MAX / 2, BODY_MAX / 2), NULL);
    http2_end(client.h, s, NULL, 0);
    talk(&client, &server, 0);
    check(server.body_size == BODY_MAX && server.body_sum == sum, "%zu", server.body_size);
    check(client.referred > BODY_MAX * 9 / 10, "%llu", (unsigned long long)client.referred);
    /* The other way; a piece that is held needs no other owner. */
    http2_respond(server.h, server.last, 200, NULL, 0, NULL, 0);
    http2_data(server.h, server.last, slice_make(body, BODY_MAX), NULL);
    http2_data(server.h, server.last, buf_bytes(holder), holder);
    buf_unref(&holder);
    http2_end(server.h, server.last, NULL, 0);
    talk(&client, &server, 0);
    check(client.body_size == BODY_MAX + 5000, "%zu", client.body_size);
    close_both();
    free(body);
}

TEST(streams_share_the_connection_in_turns)
{
    static uint8_t body[200000];
    struct http2_stream *streams[3];

    open_both();
    for (size_t i = 0; i < COUNT(streams); i++)
        ask(&client, "/a", true);
    carry(&client, &server, 0, 1);
    struct http2_stream *s = NULL;
    for (size_t i = 0; i < COUNT(streams); i++) {
        s = streams[i] = http2_stream_next(server.h, s);
        check_or_stop(s != NULL, "stream");
        http2_respond(server.h, s, 200, NULL, 0, NULL, 0);
        http2_data(server.h, s, slice_make(body, sizeof body), NULL);
    }
    check(http2_stream_next(server.h, s) == NULL, "three");
    check(http2_send(server.h, 150000), "there is more");
    check(server.out_size >= 150000 && server.out_size < 200000, "%zu", server.out_size);
    for (size_t i = 0; i < COUNT(streams); i++)
        check(http2_stream_sent(streams[i]) > 16384, "%zu: %llu", i,
              (unsigned long long)http2_stream_sent(streams[i]));
    close_both();
}

TEST(resets_reach_the_other_side)
{
    open_both();
    struct http2_stream *s = ask(&client, "/a", false);
    carry(&client, &server, 0, 1);
    http2_reset(client.h, s, HTTP2_CANCEL);
    talk(&client, &server, 0);
    check(strstr(server.log, "close 1 CANCEL") != NULL, "%s", server.log);
    check(strstr(client.log, "close 1 CANCEL") != NULL, "%s", client.log);
    ask(&client, "/b", false);
    carry(&client, &server, 0, 1);
    http2_respond(server.h, server.last, 200, NULL, 0, NULL, 0);
    http2_data(server.h, server.last, slice_of("1"), NULL);
    http2_reset(server.h, server.last, HTTP2_INTERNAL_ERROR);
    talk(&client, &server, 0);
    check(strstr(client.log, "close 3 INTERNAL_ERROR") != NULL, "%s", client.log);
    check(client.body_size == 0, "dropped");
    close_both();
}

TEST(ping_and_goaway)
{
    open_both();
    ask(&client, "/a", false);
    http2_ping(client.h, 77);
    talk(&client, &server, 0);
    check(strstr(server.log, "ping\n") != NULL, "%s", server.log);
    check(strstr(client.log, "pong 77\n") != NULL, "%s", client.log);
    http2_goaway_soon(server.h);
    http2_ping(server.h, 5);
    talk(&client, &server, 0);
    check(strstr(client.log, "goaway 2147483647 NO_ERROR ''\n") != NULL, "%s", client.log);
    check(strstr(server.log, "pong 5\n") != NULL, "%s", server.log);
    check(ask(&client, "/b", true) == NULL, "a client that was told begins nothing");
    struct http2_stream *s = server.last;
    http2_goaway(server.h, HTTP2_NO_ERROR, "bye");
    talk(&client, &server, 0);
    check(strstr(client.log, "goaway 1 NO_ERROR 'bye'\n") != NULL, "%s", client.log);
    check(!http2_is_over(server.h) && !http2_is_over(client.h), "one is under way");
    http2_respond(server.h, s, 200, NULL, 0, NULL, 0);
    http2_end(server.h, s, NULL, 0);
    talk(&client, &server, 0);
    check(http2_is_over(server.h) && http2_is_over(client.h), "over");
    close_both();

    open_both();
    struct http2_stream *asked = ask(&client, "/a", false);
    talk(&client, &server, 0);
    http2_goaway(server.h, HTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
    http2_data(client.h, asked, slice_of("x"), NULL);
    carry(&server, &client, 0, 1);
    check(strstr(client.log, "goaway 1 ENHANCE_YOUR_CALM 'too_many_pings'\n") != NULL, "%s",
          client.log);
    check(http2_is_over(server.h), "over");
    http2_free(&server.h);
    check(strstr(server.log, "close 1 CANCEL\n") != NULL, "%s", server.log);
    peer_close(&client);
    free(server.out);
}

TEST(more_streams_than_allowed_wait_in_the_client)
{
    open_both();
    talk(&client, &server, 0);
    check(http2_peer_streams_max(client.h) == limits.streams_max, "told");
    for (uint32_t i = 0; i < limits.streams_max + 5; i++)
        ask(&client, "/a", true);
    talk(&client, &server, 0);
    check(http2_streams_open(server.h) == limits.streams_max, "%u", http2_streams_open(server.h));
    for (int round = 0; round < 2; round++) {
        struct http2_stream *s = NULL;
        while ((s = http2_stream_next(server.h, s)) != NULL) {
            http2_respond(server.h, s, 200, NULL, 0, NULL, 0);
            http2_end(server.h, s, NULL, 0);
        }
        talk(&client, &server, 0);
    }
    check(client.closed == limits.streams_max + 5, "%u", client.closed);
    close_both();
}

TEST(a_stream_too_many_is_refused_and_no_other_suffers)
{
    open_both();
    /* The client does not know the server's limit yet. */
    for (uint32_t i = 0; i < limits.streams_max + 3; i++)
        ask(&client, "/a", true);
    carry(&client, &server, 0, 1);
    check(http2_streams_open(server.h) == limits.streams_max, "%u", http2_streams_open(server.h));
    check(http2_streams_refused(server.h) == 3, "refused");
    struct http2_stream *s = NULL;
    while ((s = http2_stream_next(server.h, s)) != NULL)
        answer(&server, s);
    talk(&client, &server, 0);
    check(client.closed == limits.streams_max + 3 && http2_resets_sent(server.h) == 3, "%u",
          client.closed);
    check(strstr(client.log, "close 17 REFUSED_STREAM\n") != NULL &&
              strstr(client.log, "close 15 NO_ERROR\n") != NULL,
          "%s", client.log);
    check(http2_failure(server.h) == HTTP2_FINE, "fine");
    close_both();
}

/* -- frames by hand ----------------------------------------------------------------------------- */

static uint8_t raw[1 << 20];
static size_t raw_size;

static void add(const void *data, size_t size)
{
    require(raw_size + size <= sizeof raw);
    memcpy(raw + raw_size, data, size);
    raw_size += size;
}

static void frame(uint8_t type, uint8_t flags, uint32_t stream, const void *payload, size_t size)
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

    add(head, sizeof head);
    if (size > 0)
        add(payload, size);
}

static void preface(void)
{
    raw_size = 0;
    add("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2_PREFACE_BYTES);
    frame(4, 0, 0, NULL, 0);
}

/* GET http / with authority a; by HPACK's static table. */
static const char get[] = "\x82\x86\x84\x41\x01"
                          "a";
static const char post[] = "\x83\x86\x84\x41\x01"
                           "a";

static void headers(uint32_t stream, uint8_t flags)
{
    frame(1, flags, stream, (flags & 1) != 0 ? get : post, sizeof get - 1);
}

/* Frames of `text`: each is TYPE,FLAGS,STREAM,PAYLOAD in hex, blanks between frames. */
static void frames_of_text(const char *text)
{
    while (*text != '\0') {
        unsigned type, flags, stream, byte;
        int used = 0;
        uint8_t payload[64];
        size_t size = 0;
        require(sscanf(text, " %x,%x,%x,%n", &type, &flags, &stream, &used) == 3 && used > 0);
        text += used;
        for (; sscanf(text, "%2x%n", &byte, &used) == 1 && *text != ' '; text += used)
            payload[size++] = (uint8_t)byte;
        frame((uint8_t)type, (uint8_t)flags, stream, payload, size);
        while (*text == ' ')
            text++;
    }
}

TEST(what_peers_may_not_send)
{
#define GET       \
    "82868441016" \
    "1"
    static const struct {
        const char *name, *frames, *wanted; /* a line of the server's trace */
        bool is_over;
    } table[] = {
        { "DATA on stream 0", "0,0,0,00", ">GOAWAY PROTOCOL_ERROR", true },
        { "DATA on an idle stream", "0,0,1,00", ">GOAWAY PROTOCOL_ERROR", true },
        { "HEADERS on stream 0", "1,5,0," GET, ">GOAWAY PROTOCOL_ERROR", true },
        { "HEADERS on an even stream", "1,5,2," GET, ">GOAWAY PROTOCOL_ERROR", true },
        { "a stream number again", "1,4,3," GET " 1,5,1," GET, "request 3", false },
        { "SETTINGS on a stream", "4,0,1,", ">GOAWAY PROTOCOL_ERROR", true },
        { "SETTINGS of a wrong size", "4,0,0,000000", ">GOAWAY FRAME_SIZE_ERROR", true },
        { "SETTINGS ACK with content", "4,1,0,000100000000", ">GOAWAY FRAME_SIZE_ERROR", true },
        { "SETTINGS: a window too large", "4,0,0,0004ffffffff", ">GOAWAY FLOW_CONTROL_ERROR",
          true },
        { "SETTINGS: frames too small", "4,0,0,000500000001", ">GOAWAY PROTOCOL_ERROR", true },
        { "PING on a stream", "6,0,1,0000000000000000", ">GOAWAY PROTOCOL_ERROR", true },
        { "PING of a wrong size", "6,0,0,00", ">GOAWAY FRAME_SIZE_ERROR", true },
        { "RST_STREAM on an idle stream", "3,0,1,00000000", ">GOAWAY PROTOCOL_ERROR", true },
        { "RST_STREAM of a wrong size", "1,4,1," GET " 3,0,1,00", ">GOAWAY FRAME_SIZE_ERROR",
          true },
        { "WINDOW_UPDATE of 0", "8,0,0,00000000", ">GOAWAY PROTOCOL_ERROR", true },
        { "WINDOW_UPDATE on an idle stream", "8,0,1,00000001", ">GOAWAY PROTOCOL_ERROR", true },
        { "a connection's window too large", "8,0,0,7fffffff", ">GOAWAY FLOW_CONTROL_ERROR", true },
        { "a stream's window too large", "1,4,1," GET " 8,0,1,7fffffff",
          ">RST_STREAM 1 FLOW_CONTROL_ERROR", false },
        { "a stream's WINDOW_UPDATE of 0", "1,4,1," GET " 8,0,1,00000000", ">GOAWAY PROTOCOL_ERROR",
          true },
        { "CONTINUATION without HEADERS", "9,4,1,82", ">GOAWAY PROTOCOL_ERROR", true },
        { "something amid a header block", "1,0,1,82 6,0,0,0000000000000000",
          ">GOAWAY PROTOCOL_ERROR", true },
        { "CONTINUATION of another stream", "1,0,1,82 9,4,3,86", ">GOAWAY PROTOCOL_ERROR", true },
        { "PUSH_PROMISE from a client", "5,4,1,0000000282", ">GOAWAY PROTOCOL_ERROR", true },
        { "HPACK: an index that is not there", "1,5,1,ff80", ">GOAWAY COMPRESSION_ERROR", true },
        { "HPACK: cut off", "1,5,1,8286844103", ">GOAWAY COMPRESSION_ERROR", true },
        { "padding longer than the frame", "1,d,1,ff8286", ">GOAWAY PROTOCOL_ERROR", true },
        { "no :path", "1,5,1,8286410161", ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "two :path", "1,5,1," GET "84", ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "a pseudo-field behind others", "1,5,1,828684400161016182",
          ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "a name in capitals", "1,5,1," GET "4001410161", ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "connection: close", "1,5,1," GET "400a636f6e6e656374696f6e05636c6f7365",
          ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "transfer-encoding", "1,5,1," GET "0f2a076368756e6b6564", ">RST_STREAM 1 PROTOCOL_ERROR",
          false },
        { "less than content-length",
          "1,4,1,83868441016"
          "10f0d0135 0,1,1,616263",
          ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "more than content-length",
          "1,4,1,83868441016"
          "10f0d0132 0,1,1,616263",
          ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "content-length and no body",
          "1,5,1,83868441016"
          "10f0d0132",
          ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "content-length: +1",
          "1,4,1,83868441016"
          "10f0d022b31",
          ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "DATA after the end", "1,5,1," GET " 0,1,1,61", ">GOAWAY STREAM_CLOSED", true },
        { "trailers that do not end", "1,4,1," GET " 1,4,1,4001610161",
          ">RST_STREAM 1 PROTOCOL_ERROR", false },
        { "GOAWAY on a stream", "7,0,1,0000000000000000", ">GOAWAY PROTOCOL_ERROR", true },
        { "a frame too large", "ff,0,0,", "", false }, /* its size is put in below */
        { "what nobody knows is ignored", "ff,ff,3,00 1,5,1," GET, "request 1", false },
    };

    for (size_t i = 0; i < COUNT(table); i++) {
        check_or_stop(peer_open(&server, HTTP2_SERVER, &limits, NULL) == OK, "server");
        check(peer_open(&client, HTTP2_CLIENT, &http2_client_limits, NULL) == OK, "client");
        server.traces = true;
        preface();
        size_t at = raw_size;
        frames_of_text(table[i].frames);
        const char *wanted = table[i].wanted;
        bool is_over = table[i].is_over;
        if (strcmp(table[i].name, "a frame too large") == 0) {
            memcpy(raw + at, "\x00\x40\x01", 3);
            wanted = ">GOAWAY FRAME_SIZE_ERROR";
            is_over = true;
        }
        size_t step = 1 + test_random_below(raw_size);
        for (size_t from = 0; from < raw_size; from += step) {
            enum err_code code =
                http2_receive(server.h, slice_make(raw + from, MIN(step, raw_size - from)),
                              NS_PER_S, NULL);
            check(code == OK || code == E_INVALID, "%s: %d", table[i].name, code);
            http2_send(server.h, SIZE_MAX);
        }
        check(strstr(server.log, wanted) != NULL, "%s: wanted %s, is %s", table[i].name, wanted,
              server.log);
        check(http2_is_over(server.h) == is_over, "%s: %s", table[i].name, server.log);
        check(http2_failure(server.h) == (is_over ? HTTP2_BROKEN : HTTP2_FINE), "%s: %d",
              table[i].name, http2_failure(server.h));
        close_both();
    }
}

TEST(a_wrong_preface_is_refused)
{
    struct err err;

    open_both();
    check(http2_receive(server.h, slice_of("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"), 1, &err) ==
              E_INVALID,
          "code");
    check(strstr(err.text, "preface") != NULL, "%s", err.text);
    check(http2_wants_send(server.h) && !http2_is_over(server.h), "it has last words");
    http2_send(server.h, SIZE_MAX);
    check(http2_is_over(server.h), "over");
    check(http2_receive(server.h, slice_of("x"), 1, &err) == E_INVALID, "still");
    close_both();
}

TEST(heads_beyond_the_limits_are_told_and_far_beyond_end_it)
{
    char long_value[3000];
    struct http2_stream *s = NULL;
    struct http2_field fields[40] = {
        { SLICE_LIT(":method"), SLICE_LIT("GET") },
        { SLICE_LIT(":scheme"), SLICE_LIT("http") },
        { SLICE_LIT(":path"), SLICE_LIT("/") },
        { SLICE_LIT(":authority"), SLICE_LIT("a") },
    };
    struct err err;

    memset(long_value, 'x', sizeof long_value);
    open_both();
    for (size_t i = 4; i < 40; i++)
        fields[i] = (struct http2_field){ SLICE_LIT("x"), SLICE_LIT("y") };
    check(http2_request(client.h, fields, 4 + 16, true, NULL, &s, &err) == OK, "just so many");
    talk(&client, &server, 0);
    check(strstr(server.log, "overrun") == NULL, "%s", server.log);
    check(http2_request(client.h, fields, 4 + 17, true, NULL, &s, &err) == OK, "one more");
    talk(&client, &server, 0);
    check(strstr(server.log, "overrun") != NULL, "%s", server.log);
    server.log_size = 0;
    fields[4].value = fields[5].value = slice_make(long_value, sizeof long_value);
    check(http2_request(client.h, fields, 6, true, NULL, &s, &err) == OK, "too long");
    talk(&client, &server, 0);
    check(strstr(server.log, "overrun") != NULL, "%s", server.log);
    check(http2_failure(server.h) == HTTP2_FINE, "fine");
    for (size_t i = 4; i < 40; i++)
        fields[i].value = slice_make(long_value, sizeof long_value);
    check(http2_request(client.h, fields, 40, true, NULL, &s, &err) == OK, "far too long");
    talk(&client, &server, 0);
    check(http2_failure(server.h) == HTTP2_FLOOD_HEADERS, "%d", http2_failure(server.h));
    check(strstr(client.log, "ENHANCE_YOUR_CALM") != NULL, "%s", client.log);
    close_both();
}

TEST(an_hpack_bomb_goes_off_outside)
{
    char block[3000];
    size_t size = sizeof get - 1;

    /* One long field into the table, then a reference to it a thousand times. */
    open_both();
    preface();
    memcpy(block, get, size);
    memcpy(block + size, "\x40\x01x\x7f\x81\x13", 6); /* 2560 bytes */
    size += 6;
    memset(block + size, 'y', 300);
    frame(1, 0, 1, block, size + 300);
    char rest[2260 + 1000];
    memset(rest, 'y', 2260);
    memset(rest + 2260, 0xbe, 1000);
    frame(9, 4, 1, rest, sizeof rest);
    check(http2_receive(server.h, slice_make(raw, raw_size), 1, NULL) == E_EXHAUSTED, "refused");
    check(http2_failure(server.h) == HTTP2_FLOOD_HEADERS, "%d", http2_failure(server.h));
    check(server.log_size == 0, "nothing was announced: %s", server.log);
    close_both();
}

/* Floods: `flood` adds frames until the server has enough. */
struct flood {
    const char *name;
    void (*add)(uint32_t i);
    enum http2_failure wanted;
    uint32_t count; /* of additions that are too many */
};

static void add_ping(uint32_t i)
{
    frame(6, 0, 0, "12345678", 8);
    (void)i;
}
static void add_settings(uint32_t i)
{
    frame(4, 0, 0, NULL, 0);
    (void)i;
}
static void add_priority(uint32_t i)
{
    frame(2, 0, 1 + 2 * i, "\0\0\0\0\x10", 5);
}
static void add_window(uint32_t i)
{
    frame(8, 0, 0, "\0\0\0\x01", 4);
    (void)i;
}
static void add_unknown(uint32_t i)
{
    static uint8_t nothing[8192];

    frame(0xfe, 0, 0, nothing, sizeof nothing);
    (void)i;
}
static void add_empty_data(uint32_t i)
{
    if (i == 0)
        headers(1, 4);
    frame(0, 0, 1, NULL, 0);
}
static void add_continuation(uint32_t i)
{
    if (i == 0)
        frame(1, 0, 1, get, sizeof get - 1);
    frame(9, 0, 1, NULL, 0);
}
static void add_long_block(uint32_t i)
{
    static uint8_t fields[100 * 5];

    if (i == 0)
        frame(1, 0, 1, get, sizeof get - 1);
    for (size_t k = 0; k < sizeof fields; k += 5)
        memcpy(fields + k, "\0\1x\1y", 5);
    frame(9, 0, 1, fields, sizeof fields);
}
static void add_reset(uint32_t i)
{
    headers(1 + 2 * i, 5);
    frame(3, 0, 1 + 2 * i, "\0\0\0\x08", 4);
}
static void add_made_reset(uint32_t i) /* the server resets it: MadeYouReset */
{
    headers(1 + 2 * i, 4);
    frame(8, 0, 1 + 2 * i, "\x7f\xff\xff\xff", 4);
}
static void add_bad_head(uint32_t i)
{
    frame(1, 5, 1 + 2 * i, "\x82\x86", 2);
}
static void add_stream(uint32_t i)
{
    headers(1 + 2 * i, 5);
}

TEST(floods_end_their_connection)
{
    static const struct flood table[] = {
        { "PING", add_ping, HTTP2_FLOOD_CONTROL, 110 },
        { "SETTINGS", add_settings, HTTP2_FLOOD_CONTROL, 110 },
        { "PRIORITY", add_priority, HTTP2_FLOOD_CONTROL, 110 },
        { "WINDOW_UPDATE", add_window, HTTP2_FLOOD_CONTROL, 110 },
        { "unknown", add_unknown, HTTP2_FLOOD_CONTROL, 110 },
        { "empty DATA", add_empty_data, HTTP2_FLOOD_CONTROL, 120 },
        { "CONTINUATION", add_continuation, HTTP2_FLOOD_HEADERS, 80 },
        { "a block that never ends", add_long_block, HTTP2_FLOOD_HEADERS, 11 },
        { "rapid reset", add_reset, HTTP2_FLOOD_RESETS, 12 },
        { "MadeYouReset", add_made_reset, HTTP2_FLOOD_RESETS, 12 },
        { "bad heads", add_bad_head, HTTP2_FLOOD_RESETS, 12 },
        { "streams", add_stream, HTTP2_FLOOD_STREAMS, 8 + 11 },
    };

    for (size_t i = 0; i < COUNT(table); i++) {
        enum err_code code = OK;
        struct err err = { 0 };
        uint32_t n;
        open_both();
        server.traces = true;
        preface();
        frame(4, 1, 0, NULL, 0); /* ours are known: streams-max holds */
        check(http2_receive(server.h, slice_make(raw, raw_size), NS_PER_S, NULL) == OK, "begin");
        http2_send(server.h, SIZE_MAX);
        for (n = 0; n < 200 && code == OK && http2_failure(server.h) == HTTP2_FINE; n++) {
            raw_size = server.log_size = 0;
            table[i].add(n);
            code = http2_receive(server.h, slice_make(raw, raw_size), NS_PER_S, &err);
            http2_send(server.h, SIZE_MAX);
        }
        check(http2_failure(server.h) == table[i].wanted, "%s: %d after %u", table[i].name,
              http2_failure(server.h), n);
        check(n <= table[i].count, "%s: only after %u", table[i].name, n);
        check(http2_is_over(server.h), "%s", table[i].name);
        check(strstr(server.log, ">GOAWAY ENHANCE_YOUR_CALM") != NULL, "%s: %s", table[i].name,
              server.log);
        close_both();
    }
}

TEST(busy_peers_and_patient_ones_are_no_flood)
{
    open_both();
    server.answers = true;
    /* Three frames that carry nothing beside each request. */
    for (int i = 0; i < 300; i++) {
        ask(&client, "/a", true);
        http2_ping(client.h, 1);
        http2_ping(client.h, 2);
        http2_ping(client.h, 3);
        talk(&client, &server, 0);
    }
    check(client.closed == 300 && http2_failure(server.h) == HTTP2_FINE, "%u", client.closed);
    /* Two a second, and nothing else. */
    for (uint64_t i = 1; i < 500; i++) {
        http2_ping(client.h, i);
        check(carry(&client, &server, 0, NS_PER_S + i * NS_PER_S * 6 / 10) == OK, "%d", (int)i);
        carry(&server, &client, 0, NS_PER_S);
    }
    check(http2_failure(server.h) == HTTP2_FINE, "patient");
    close_both();

    /* A stream of small messages, ten in a frame, each of which its reader gives a window or two for. */
    static const uint8_t messages[10 * 50];
    open_both();
    ask(&client, "/a", false);
    talk(&client, &server, 0);
    http2_respond(server.h, server.last, 200, NULL, 0, NULL, 0);
    for (int i = 0; i < 100; i++) {
        http2_data(server.h, server.last, slice_make(messages, sizeof messages), NULL);
        for (uint64_t k = 0; k < 15; k++)
            http2_ping(client.h, k);
        talk(&client, &server, 0);
    }
    check(http2_failure(server.h) == HTTP2_FINE, "windows of messages");
    close_both();

    /* Every other stream is cancelled, long after its answer began. */
    open_both();
    for (int i = 0; i < 100; i++) {
        struct http2_stream *s = ask(&client, "/a", true);
        talk(&client, &server, 0);
        http2_respond(server.h, server.last, 200, NULL, 0, NULL, 0);
        http2_data(server.h, server.last, slice_of("1"), NULL);
        talk(&client, &server, 0);
        http2_reset(client.h, s, HTTP2_CANCEL);
        talk(&client, &server, 0);
    }
    check(server.closed == 100 && http2_failure(server.h) == HTTP2_FINE, "%u", server.closed);
    close_both();
}

TEST(a_header_block_that_does_not_end_is_known)
{
    open_both();
    preface();
    frame(1, 0, 1, get, sizeof get - 1);
    check(http2_receive(server.h, slice_make(raw, raw_size), 5 * NS_PER_S, NULL) == OK, "part");
    check(http2_block_begun_ns(server.h) == 5 * NS_PER_S, "begun");
    raw_size = 0;
    frame(9, 4, 1, NULL, 0);
    check(http2_receive(server.h, slice_make(raw, raw_size), 6 * NS_PER_S, NULL) == OK, "rest");
    check(http2_block_begun_ns(server.h) == 0 && http2_heard_ns(server.h) == 6 * NS_PER_S, "done");
    check(strstr(server.log, "request 1") != NULL, "%s", server.log);
    close_both();
}

TEST(steady_work_does_not_ask_the_heap)
{
    struct http2_heap *heap = http2_heap_new();
    uint64_t before = 0;

    check(peer_open(&server, HTTP2_SERVER, &limits, heap) == OK, "server");
    check(peer_open(&client, HTTP2_CLIENT, &http2_client_limits, heap) == OK, "client");
    server.answers = true;
    for (int i = 0; i < 200; i++) {
        if (i == 100)
            before = mem_count();
        struct http2_stream *s = ask(&client, "/x", false);
        http2_data(client.h, s, slice_of("body"), NULL);
        http2_end(client.h, s, NULL, 0);
        talk(&client, &server, 100000);
    }
    check(client.closed == 200, "%u", client.closed);
    check(mem_count() == before, "%llu", (unsigned long long)(mem_count() - before));
    check(http2_heap_bytes(heap) > 0, "in use");
    close_both();
    check(http2_heap_bytes(heap) == 0, "all back");
    http2_heap_free(&heap);
}

TEST(no_memory_ends_the_connection_and_nothing_else)
{
    for_each_fault(nth) {
        struct peer *p = &server, *q = &client;
        memset(p, 0, sizeof *p);
        memset(q, 0, sizeof *q);
        if (peer_open(p, HTTP2_SERVER, &limits, NULL) == OK &&
            peer_open(q, HTTP2_CLIENT, &http2_client_limits, NULL) == OK) {
            p->answers = true;
            for (int i = 0; i < 3; i++) {
                struct http2_stream *s = ask(q, "/x", false);
                if (s != NULL) {
                    http2_data(q->h, s, slice_of("body"), NULL);
                    http2_end(q->h, s, NULL, 0);
                }
                for (int k = 0; k < 4; k++) {
                    carry(q, p, 50, NS_PER_S);
                    carry(p, q, 50, NS_PER_S);
                }
            }
            if (!fault_fired())
                check(q->closed == 3, "%u", q->closed);
        }
        peer_close(p);
        peer_close(q);
        if (!fault_fired())
            break;
    }
    fault_arm(0);
}

TEST(a_full_output_ends_the_connection)
{
    open_both();
    ask(&client, "/a", true);
    talk(&client, &server, 0);
    server.out_max = 50;
    answer(&server, server.last);
    while (http2_send(server.h, 1000))
        ;
    check(http2_failure(server.h) == HTTP2_NO_MEMORY && http2_is_over(server.h), "%d",
          http2_failure(server.h));
    server.out_size = 0;
    close_both();
}

/* A plain model: what was submitted is what arrives, in order, whatever happens around it. */
TEST(many_streams_at_random)
{
    enum { STREAMS = 6, PIECE = 30000 };
    static uint8_t noise[PIECE];

    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)test_random();
    for (int round = 0; round < 30; round++) {
        uint64_t given = 0, resets = 0, ends = 0;
        struct http2_limits generous = limits;
        generous.control_frames_max = 100000;
        check(peer_open(&server, HTTP2_SERVER, &generous, NULL) == OK, "server");
        check(peer_open(&client, HTTP2_CLIENT, &http2_client_limits, NULL) == OK, "client");
        for (int step = 0; step < 300; step++) {
            struct http2_stream *s = NULL;
            uint64_t what = test_random_below(10);
            uint64_t index = test_random_below(STREAMS);
            if (http2_streams_open(client.h) < STREAMS && what < 3) {
                ask(&client, "/r", test_random_below(2) != 0);
                continue;
            }
            while (index-- > 0 && http2_stream_next(server.h, s) != NULL)
                s = http2_stream_next(server.h, s);
            if (s != NULL && what < 8) {
                if (http2_stream_user(s) == NULL) {
                    http2_respond(server.h, s, 200, NULL, 0, NULL, 0);
                    http2_stream_set_user(s, s);
                } else if (what < 6) {
                    size_t size = test_random_below(PIECE);
                    given += http2_data(server.h, s, slice_make(noise, size), NULL) ? size : 0;
                } else if (what < 7) {
                    ends += http2_end(server.h, s, NULL, 0);
                    http2_stream_set_user(s, NULL);
                    talk(&client, &server, 0);
                } else if (resets < 3) {
                    /* What it had queued is dropped. */
                    given -= http2_stream_queued(s);
                    resets++;
                    http2_reset(server.h, s, HTTP2_CANCEL);
                    talk(&client, &server, 0);
                }
            }
            if (what >= 8)
                talk(&client, &server, 0);
        }
        talk(&client, &server, 0);
        check(http2_failure(server.h) == HTTP2_FINE, "%d", http2_failure(server.h));
        check(client.body_size == given, "%zu of %llu", client.body_size,
              (unsigned long long)given);
        check(client.closed >= ends, "%u of %llu", client.closed, (unsigned long long)ends);
        close_both();
    }
}
