/* websocket_test.c - calls over WebSockets, on a transport of memory. SPDX-License-Identifier: Apache-2.0
 */
#include "call/websocket.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "call/fake.h"
#include "io/loop.h"
#include "telemetry/metrics.h"
#include "test/harness.h"
#include "wire/websocket.h"
#include "wire/websocket_deflate.h"

enum { MESSAGE_MAX = 4 << 20 };

static const uint8_t some_mask[4] = { 0x37, 0xfa, 0x21, 0x3d };
static const char sample_key[] = "dGhlIHNhbXBsZSBub25jZQ==";

/* -- what a client sends --------------------------------------------------------------------------- */

static struct text input; /* of the case that runs */

static void input_begin(void)
{
    text_deinit(&input);
    text_init(&input, 64 << 20);
}

static void put_frame(uint8_t first, const void *payload, size_t size)
{
    uint8_t head[14] = { first };
    size_t at = 2;

    if (size > 65535) {
        head[1] = 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            head[at++] = (uint8_t)((uint64_t)size >> shift);
    } else if (size > 125) {
        head[1] = 126;
        head[at++] = (uint8_t)(size >> 8);
        head[at++] = (uint8_t)size;
    } else {
        head[1] = (uint8_t)size;
    }
    head[1] |= 0x80;
    memcpy(head + at, some_mask, 4);
    text_put(&input, head, at + 4);
    size_t from = input.size;
    text_put(&input, payload, size);
    websocket_mask(input.data + from, size, some_mask, 0);
}

static void put_text(const char *text)
{
    put_frame(0x81, text, strlen(text));
}

static void put_close(uint16_t code)
{
    uint8_t payload[2] = { (uint8_t)(code >> 8), (uint8_t)code };

    put_frame(0x88, payload, 2);
}

/* -- what it gets ---------------------------------------------------------------------------------- */

/* The server's frames in words: "text hello|close 1000 bye|". */
static const char *answer_of(struct fake *fake)
{
    static char out[4096];
    struct slice rest;
    size_t at = 0;

    fake_flush(fake);
    rest = text_slice(&fake->answer);
    out[0] = '\0';
    while (rest.size >= 2) {
        static const char *const names[] = { "more", "text", "binary" };
        uint8_t opcode = rest.data[0] & 0x0f;
        size_t size = rest.data[1] & 0x7f, head = 2;
        if (size >= 126) {
            size_t bytes = size == 126 ? 2 : 8;
            size = 0;
            for (size_t i = 0; i < bytes; i++)
                size = size << 8 | rest.data[2 + i];
            head += bytes;
        }
        require((rest.data[1] & 0x80) == 0 && (rest.data[0] & 0x80) != 0);
        if (rest.size < head + size) {
            at += (size_t)snprintf(out + at, sizeof out - at, "cut off");
            break;
        }
        struct slice payload = slice_make(rest.data + head, size);
        const char *packed = rest.data[0] & 0x40 ? "packed " : "";
        if (opcode == 8 && size >= 2) {
            at += (size_t)snprintf(out + at, sizeof out - at, "close %u %.*s|",
                                   (unsigned)(payload.data[0] << 8 | payload.data[1]),
                                   SLICE_ARG(slice_skip(payload, 2)));
        } else {
            const char *name = opcode == 8    ? "close"
                               : opcode == 9  ? "ping"
                               : opcode == 10 ? "pong"
                                              : names[opcode];
            at += (size_t)snprintf(out + at, sizeof out - at, "%s%s ", packed, name);
            if (size > 100 || packed[0] != '\0')
                at += (size_t)snprintf(out + at, sizeof out - at, "(%zu)|", size);
            else
                at += (size_t)snprintf(out + at, sizeof out - at, "%.*s|", SLICE_ARG(payload));
        }
        rest = slice_skip(rest, head + size);
    }
    return out;
}

/* -- the user -------------------------------------------------------------------------------------- */

struct seen {
    struct fake fake;
    struct websocket_settings settings;
    struct call *call;
    struct text log; /* "text hello|half-close|gone CANCELLED|" */
    uint32_t messages;
    struct slice first, last;
    uint8_t *first_copy;
    uint64_t hash; /* of all bytes of messages */
    bool holds_back, ends_at_half_close, ends_at_message, echoes, has_drain;
};

static uint64_t hash_of(uint64_t hash, struct slice bytes)
{
    for (size_t i = 0; i < bytes.size; i++)
        hash = (hash ^ bytes.data[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static void end_with(struct call *call, enum err_code code, const char *text)
{
    struct err status = { 0 };

    if (code != OK)
        err_set(&status, code, "%s", text);
    call_end(call, &status, NULL);
}

static void on_message(struct call *call, const struct call_message *message)
{
    struct seen *s = call->user_data;

    text_printf(&s->log, "%s%s", message->was_compressed ? "unpacked " : "",
                message->is_text ? "text" : "binary");
    if (message->bytes.size > 100)
        text_printf(&s->log, " (%zu)|", message->bytes.size);
    else
        text_printf(&s->log, " %.*s|", SLICE_ARG(message->bytes));
    s->hash = hash_of(s->hash, message->bytes);
    s->last = message->bytes;
    if (s->messages++ == 0) {
        s->first = message->bytes;
        s->first_copy = malloc(message->bytes.size + 1);
        if (message->bytes.size != 0)
            memcpy(s->first_copy, message->bytes.data, message->bytes.size);
    }
    if (s->echoes) {
        struct call_piece piece = { message->bytes, message->holder };
        call_send_as(call, &piece, 1, (struct call_form){ .is_text = message->is_text });
    }
    if (s->ends_at_message)
        end_with(call, OK, NULL);
    else if (!s->holds_back)
        call_read(call);
}

static void on_half_close(struct call *call)
{
    struct seen *s = call->user_data;

    text_str(&s->log, "half-close|");
    if (s->ends_at_half_close)
        end_with(call, OK, NULL);
}

static void on_gone(struct call *call, enum err_code why)
{
    struct seen *s = call->user_data;

    text_printf(&s->log, "gone %s|", err_name(why));
    call_read(call); /* no-ops */
    call_send(call, NULL, 0);
    end_with(call, OK, NULL);
}

static void on_drain(struct call *call)
{
    struct seen *s = call->user_data;

    text_str(&s->log, "drain|");
    end_with(call, E_UNAVAILABLE, "later");
}

static const struct call_user user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_gone = on_gone,
};

static const struct call_user draining_user = {
    .on_message = on_message,
    .on_gone = on_gone,
    .on_drain = on_drain,
};

static void prepare(struct seen *s)
{
    memset(s, 0, sizeof *s);
    s->settings = (struct websocket_settings){
        .message_bytes_max = MESSAGE_MAX,
        .option = "--max-message",
        .has_deflate = true,
        .ahead_bytes = 64 << 10,
    };
    text_init(&s->log, 1 << 20);
    fake_init(&s->fake, NULL, text_slice(&input));
    s->fake.x.headers_count = 0;
    s->fake.x.method = METHOD_GET;
    s->fake.x.path = slice_of("/echo");
    s->fake.x.protocol = "HTTP/1.1";
    s->fake.x.tunnel = slice_of("websocket");
    s->fake.is_open_ended = true;
    fake_header(&s->fake, "upgrade", "websocket");
    fake_header(&s->fake, "sec-websocket-version", "13");
    fake_header(&s->fake, "sec-websocket-key", sample_key);
}

static bool accept_call(struct seen *s)
{
    s->call = websocket_accept(&s->fake.x, &s->settings, NULL, NULL);
    if (s->call == NULL)
        return false;
    s->call->user = s->has_drain ? &draining_user : &user;
    s->call->user_data = s;
    return true;
}

static void finish(struct seen *s)
{
    if (s->messages > 0)
        check(slice_eq(s->first, slice_make(s->first_copy, s->first.size)),
              "the first message stays to the end");
    fake_leave(&s->fake);
    fake_deinit(&s->fake);
    text_deinit(&s->log);
    free(s->first_copy);
}

/* All that there is, but not its end. */
static void deliver(struct seen *s, size_t piece)
{
    struct fake *fake = &s->fake;

    while ((fake->delivered < fake->body.size || !fake->is_open_ended) && fake_deliver(fake, piece))
        ;
}

/* Takes the call and gives it the input in pieces. */
static void run(struct seen *s, size_t piece)
{
    s->fake.body = text_slice(&input);
    check_or_stop(accept_call(s), "accepted");
    call_read(s->call);
    deliver(s, piece);
}

static void expect(struct seen *s, const char *log, const char *answer, const char *name)
{
    check(slice_is(text_slice(&s->log), log), "%s: %s", name, text_cstr(&s->log));
    check(strcmp(answer_of(&s->fake), answer) == 0, "%s: %s", name, answer_of(&s->fake));
}

/* -- the handshake --------------------------------------------------------------------------------- */

TEST(handshake)
{
    static const char *const protocols[] = { "penstock.v1", "chat", NULL };
    static const struct {
        const char *name, *key, *version, *protocol, *extensions;
        bool is_http2, has_no_tunnel, takes_any;
        uint16_t status;
        const char *agreed; /* subprotocol */
        const char *says;   /* in the answer's headers or text */
    } rows[] = {
        { "usual", sample_key, "13", NULL, NULL, 0, 0, 0, 101, NULL,
          "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" },
        { "over HTTP/2", NULL, "13", NULL, NULL, 1, 0, 0, 101, NULL, "" },
        { "no tunnel", sample_key, "13", NULL, NULL, 0, 1, 0, 426, NULL, "Connection: Upgrade" },
        { "no tunnel, HTTP/2", NULL, "13", NULL, NULL, 1, 1, 0, 400, NULL, "RFC 8441" },
        { "no version", sample_key, NULL, NULL, NULL, 0, 0, 0, 426, NULL,
          "sec-websocket-version: 13" },
        { "version 8", sample_key, "8", NULL, NULL, 0, 0, 0, 426, NULL,
          "sec-websocket-version: 13" },
        { "no key", NULL, "13", NULL, NULL, 0, 0, 0, 400, NULL, "Sec-WebSocket-Key" },
        { "a key that is none", "abc", "13", NULL, NULL, 0, 0, 0, 400, NULL, "16 bytes" },
        { "ours first", sample_key, "13", "chat, penstock.v1", NULL, 0, 0, 0, 101, "penstock.v1",
          "sec-websocket-protocol: penstock.v1" },
        { "the one", sample_key, "13", "x,chat", NULL, 0, 0, 0, 101, "chat",
          "sec-websocket-protocol: chat" },
        { "others only", sample_key, "13", "x, y", NULL, 0, 0, 0, 400, NULL,
          "the subprotocol 'x' is not spoken here; those that are: penstock.v1, chat" },
        { "case matters", sample_key, "13", "Chat", NULL, 0, 0, 0, 400, NULL,
          "the subprotocol 'Chat' is not spoken here" },
        { "any", sample_key, "13", "x, y", NULL, 0, 0, 1, 101, NULL, "" },
        { "deflate", sample_key, "13", NULL, "permessage-deflate; client_max_window_bits", 0, 0, 0,
          101, NULL,
          "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; "
          "client_no_context_takeover" },
        { "deflate over HTTP/2", NULL, "13", NULL, "permessage-deflate", 1, 0, 0, 101, NULL,
          "sec-websocket-extensions: permessage-deflate" },
        { "another extension", sample_key, "13", NULL, "x-other", 0, 0, 0, 101, NULL, "" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct seen s;
        const char *agreed = "?";
        input_begin();
        prepare(&s);
        s.fake.x.headers_count = 0;
        s.fake.x.protocol = rows[i].is_http2 ? "HTTP/2" : "HTTP/1.1";
        if (rows[i].has_no_tunnel)
            s.fake.x.tunnel = slice_make(NULL, 0);
        if (rows[i].key != NULL)
            fake_header(&s.fake, "sec-websocket-key", rows[i].key);
        if (rows[i].version != NULL)
            fake_header(&s.fake, "sec-websocket-version", rows[i].version);
        if (rows[i].protocol != NULL)
            fake_header(&s.fake, "sec-websocket-protocol", rows[i].protocol);
        if (rows[i].extensions != NULL)
            fake_header(&s.fake, "sec-websocket-extensions", rows[i].extensions);
        s.call =
            websocket_accept(&s.fake.x, &s.settings, rows[i].takes_any ? NULL : protocols, &agreed);
        fake_flush(&s.fake);
        check(s.fake.x.status == rows[i].status, "%s: %u", rows[i].name, s.fake.x.status);
        check((s.call != NULL) == (rows[i].status == 101), "%s: a call", rows[i].name);
        if (s.call != NULL) {
            check(rows[i].agreed == NULL ? agreed == NULL : strcmp(agreed, rows[i].agreed) == 0,
                  "%s: %s", rows[i].name, agreed);
            check(s.call->carrier == CALL_WEBSOCKET, "carrier");
            s.call->user = &user;
            s.call->user_data = &s;
        }
        bool has_key = fake_field(&s.fake.head, "sec-websocket-accept").data != NULL;
        check(has_key == (rows[i].status == 101 && !rows[i].is_http2), "%s: accept", rows[i].name);
        check(strstr(text_cstr(&s.fake.head), rows[i].says) != NULL ||
                  strstr(text_cstr(&s.fake.answer), rows[i].says) != NULL,
              "%s: %s %s", rows[i].name, text_cstr(&s.fake.head), text_cstr(&s.fake.answer));
        finish(&s);
    }
}

TEST(handshake_with_headers_in_parts)
{
    static const char *const protocols[] = { "b", NULL };
    struct seen s;
    const char *agreed = NULL;

    input_begin();
    prepare(&s);
    fake_header(&s.fake, "sec-websocket-protocol", "a");
    fake_header(&s.fake, "sec-websocket-protocol", "b");
    fake_header(&s.fake, "sec-websocket-extensions", "x-one");
    fake_header(&s.fake, "sec-websocket-extensions", "permessage-deflate");
    s.call = websocket_accept(&s.fake.x, &s.settings, protocols, &agreed);
    check_or_stop(s.call != NULL && agreed != NULL && strcmp(agreed, "b") == 0, "the second");
    check(fake_field(&s.fake.head, "sec-websocket-extensions").data != NULL, "the second, too");
    s.call->user = &user;
    s.call->user_data = &s;
    finish(&s);

    prepare(&s);
    fake_header(&s.fake, "sec-websocket-key", sample_key);
    check(websocket_accept(&s.fake.x, &s.settings, NULL, NULL) == NULL && s.fake.x.status == 400,
          "two keys");
    finish(&s);

    prepare(&s);
    s.settings.has_deflate = false;
    fake_header(&s.fake, "sec-websocket-extensions", "permessage-deflate");
    check(accept_call(&s), "--no-websocket-deflate");
    check(fake_field(&s.fake.head, "sec-websocket-extensions").data == NULL, "not agreed on");
    finish(&s);
}

/* -- messages in ----------------------------------------------------------------------------------- */

TEST(messages_of_every_size_in_every_piece)
{
    static const size_t sizes[] = { 0,    1,    5,    125,  126,  900,   1009,    1010,   1011,
                                    1018, 1024, 1025, 2000, 4000, 70000, 1 << 20, 3 << 20 };
    static const size_t pieces[] = { 1 << 30, 100000, 1000, 7, 1 };
    uint8_t *bytes = malloc(MESSAGE_MAX);

    check_or_stop(bytes != NULL, "memory");
    for (size_t i = 0; i < MESSAGE_MAX; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 997);
    for (size_t i = 0; i < COUNT(sizes) * COUNT(pieces) * 2; i++) {
        size_t size = sizes[i % COUNT(sizes)], piece = pieces[i / COUNT(sizes) % COUNT(pieces)];
        bool is_fragmented = i / COUNT(sizes) / COUNT(pieces) == 1;
        uint64_t expected = 0;
        struct seen s;
        if (size / piece > 100000)
            continue;
        input_begin();
        for (int round = 0; round < 3; round++) {
            if (is_fragmented) {
                put_frame(0x02, bytes, size / 3);
                put_frame(0x89, "p", 1);
                put_frame(0x00, bytes + size / 3, size / 3);
                put_frame(0x80, bytes + size / 3 * 2, size - size / 3 * 2);
            } else {
                put_frame(0x82, bytes, size);
            }
            expected = hash_of(expected, slice_make(bytes, size));
        }
        put_close(1000);
        prepare(&s);
        run(&s, piece);
        check(s.messages == 3 && s.hash == expected, "%zu bytes by %zu: %u messages, %s", size,
              piece, s.messages, text_cstr(&s.log));
        check(strcmp(answer_of(&s.fake),
                     is_fragmented ? "pong p|pong p|pong p|close 1000 |" : "close 1000 |") == 0,
              "%zu by %zu: %s", size, piece, answer_of(&s.fake));
        check(s.fake.x.is_ended, "ended");
        finish(&s);
    }
    free(bytes);
}

TEST(small_ones_one_behind_the_other)
{
    for (size_t piece = 1; piece < 3000; piece = piece * 2 + 1) {
        struct seen s;
        uint64_t expected = 0;
        input_begin();
        for (int i = 0; i < 500; i++) {
            char text[64];
            int size =
                snprintf(text, sizeof text, "message %d %.*s", i, i % 20, "....................");
            put_frame(0x81, text, (size_t)size);
            expected = hash_of(expected, slice_make(text, (size_t)size));
        }
        prepare(&s);
        run(&s, piece);
        check(s.messages == 500 && s.hash == expected, "by %zu: %u", piece, s.messages);
        finish(&s);
    }
}

/* -- ends ------------------------------------------------------------------------------------------ */

TEST(the_peer_closes)
{
    struct seen s;

    input_begin();
    put_text("a");
    put_close(1000);
    put_text("late");
    prepare(&s);
    run(&s, SIZE_MAX);
    expect(&s, "text a|half-close|gone CANCELLED|", "close 1000 |", "1000");
    finish(&s);

    input_begin();
    put_frame(0x88, NULL, 0);
    prepare(&s);
    run(&s, SIZE_MAX);
    expect(&s, "half-close|gone CANCELLED|", "close |", "no code");
    finish(&s);

    input_begin();
    put_close(4321);
    prepare(&s);
    run(&s, SIZE_MAX);
    expect(&s, "gone CANCELLED|", "close 4321 |", "another code is no half-close");
    finish(&s);

    input_begin();
    put_close(1001);
    prepare(&s);
    s.ends_at_half_close = true;
    run(&s, SIZE_MAX);
    expect(&s, "half-close|", "close 1000 |", "ended there");
    check(s.fake.x.is_ended, "and over");
    finish(&s);
}

TEST(the_peer_leaves)
{
    struct seen s;

    input_begin();
    put_text("a");
    prepare(&s);
    s.fake.is_open_ended = false;
    run(&s, SIZE_MAX);
    expect(&s, "text a|gone CANCELLED|", "", "half-close of the transport without a Close");
    check(s.fake.x.is_ended, "over");
    finish(&s);

    input_begin();
    put_text("a");
    prepare(&s);
    run(&s, SIZE_MAX);
    fake_leave(&s.fake);
    expect(&s, "text a|gone CANCELLED|", "", "the transport says so");
    finish(&s);
}

TEST(the_call_ends)
{
    static const struct {
        enum err_code code;
        const char *text, *answer;
    } rows[] = {
        { OK, "", "close 1000 |" },
        { E_INVALID, "no", "close 1008 no|" },
        { E_NOT_FOUND, "no", "close 1008 no|" },
        { E_RANGE, "no", "close 1009 no|" },
        { E_EXHAUSTED, "no", "close 1013 no|" },
        { E_UNAVAILABLE, "no", "close 1013 no|" },
        { E_INTERNAL, "no", "close 1011 no|" },
        { E_DATA_LOSS, "no", "close 1007 no|" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct seen s;
        input_begin();
        put_text("x");
        prepare(&s);
        s.holds_back = true;
        run(&s, SIZE_MAX);
        end_with(s.call, rows[i].code, rows[i].text);
        call_send(s.call, NULL, 0); /* a no-op */
        expect(&s, "text x|", rows[i].answer, rows[i].text);
        check(!s.fake.x.is_ended, "the peer's Close is waited for");
        /* What comes before it is dropped, of any size, though nobody reads. */
        input_begin();
        put_text("x");
        s.fake.delivered = input.size;
        put_text("late");
        char *large = calloc(1, 100000);
        put_frame(0x02, large, 100000);
        put_frame(0x89, "p", 1);
        free(large);
        put_frame(0x80, "end", 3);
        put_close(1000);
        s.fake.body = text_slice(&input);
        deliver(&s, 997);
        expect(&s, "text x|", rows[i].answer, rows[i].text);
        check(s.fake.x.is_ended, "and then it is over");
        finish(&s);
    }
}

/* Pings, a Close and the end are seen behind messages that wait for credit. */
TEST(behind_what_waits)
{
    static const size_t sizes[] = { 0, 1, 100, 900, 1018, 1100, 5000, 60000 };
    static const size_t pieces[] = { SIZE_MAX, 997, 13, 1 };
    static uint8_t bytes[70000];

    for (size_t i = 0; i < COUNT(sizes) * COUNT(pieces) * 2; i++) {
        size_t size = sizes[i % COUNT(sizes)], piece = pieces[i / COUNT(sizes) % COUNT(pieces)];
        bool is_fragmented = i / COUNT(sizes) / COUNT(pieces) == 1;
        struct seen s;
        input_begin();
        put_text("first");
        if (is_fragmented) {
            put_frame(0x02, bytes, size / 2);
            put_frame(0x89, "amid", 4);
            put_frame(0x80, bytes + size / 2, size - size / 2);
        } else {
            put_frame(0x82, bytes, size);
        }
        put_frame(0x89, "p1", 2);
        put_text("later");
        put_frame(0x8a, "unasked", 7);
        put_frame(0x89, "p2", 2);
        prepare(&s);
        s.holds_back = true;
        run(&s, piece);
        expect(&s, "text first|", is_fragmented ? "pong amid|pong p1|pong p2|" : "pong p1|pong p2|",
               "pings");
        /* What waited is as it was. */
        s.holds_back = false;
        call_read(s.call);
        check(s.messages == 3 && slice_ends(text_slice(&s.log), "text later|"), "%zu by %zu: %s",
              size, piece, text_cstr(&s.log));
        check(s.hash == hash_of(hash_of(hash_of(0, slice_of("first")), slice_make(bytes, size)),
                                slice_of("later")),
              "%zu by %zu: the bytes", size, piece);
        finish(&s);

        put_close(1000);
        prepare(&s);
        s.holds_back = true;
        run(&s, piece);
        check(slice_is(text_slice(&s.log), "text first|half-close|gone CANCELLED|") &&
                  s.fake.x.is_ended,
              "a Close behind %zu by %zu: %s", size, piece, text_cstr(&s.log));
        finish(&s);
    }
}

/* As much as is received ahead is bounded, and given back. */
TEST(behind_too_much_that_waits)
{
    struct seen s;
    static uint8_t bytes[70000];

    for (int i = 0; i < 3; i++) {
        input_begin();
        put_text("first");
        for (int n = 0; n < (i == 0 ? 1 : 700); n++)
            put_frame(0x82, bytes, i == 0 ? sizeof bytes : 100);
        put_frame(0x89, "p", 1);
        prepare(&s);
        s.holds_back = true;
        if (i == 2)
            s.settings.ahead_bytes = 0;
        run(&s, 1000);
        expect(&s, "text first|", "", "not seen");
        size_t most = i == 1 ? 64 << 10 : 2048;
        check(s.fake.delivered <= most + 1024, "%d: %zu", i, s.fake.delivered);
        check(budget_used(&s.fake.budget) <= most + 4096, "%d: %zu", i,
              (size_t)budget_used(&s.fake.budget));
        s.holds_back = false;
        call_read(s.call);
        deliver(&s, 1000);
        check(s.messages == (i == 0 ? 2 : 701), "all of them: %u", s.messages);
        check(strcmp(answer_of(&s.fake), "pong p|") == 0, "then: %s", answer_of(&s.fake));
        check(budget_used(&s.fake.budget) < 4096 || i == 0, "given back");
        finish(&s);
    }
}

/* Many pings between messages that wait: each is answered, and none of them stays. */
TEST(pings_between_what_waits)
{
    static uint8_t bytes[300];
    uint64_t expected = hash_of(0, slice_of("first"));
    struct seen s;

    input_begin();
    put_text("first");
    for (int i = 0; i < 20000; i++) {
        put_frame(0x89, "x", 1);
        if (i % 500 != 0)
            continue;
        bytes[0] = (uint8_t)i;
        put_frame(0x82, bytes, sizeof bytes);
        expected = hash_of(expected, slice_make(bytes, sizeof bytes));
    }
    prepare(&s);
    s.holds_back = true;
    run(&s, 4096);
    check(s.fake.delivered == input.size, "all was received: %zu of %zu", s.fake.delivered,
          input.size);
    fake_flush(&s.fake);
    check(s.fake.answer.size == 20000 * 3, "each was answered: %zu bytes", s.fake.answer.size);
    s.holds_back = false;
    call_read(s.call);
    check(s.messages == 41 && s.hash == expected, "%u messages", s.messages);
    finish(&s);
}

TEST(what_violates_behind_what_waits)
{
    static const struct {
        uint8_t first;
        const char *payload;
        int size;
        const char *code;
    } rows[] = {
        { 0x8b, "x", 1, "close 1002 " },        { 0x09, "x", 1, "close 1002 " },
        { 0x88, "\x03\xe7", 2, "close 1002 " }, { 0x88, "\x03\xe8\xff", 3, "close 1007 " },
        { 0x89, NULL, 126, "close 1002 " },
    };
    static uint8_t bytes[200];

    for (size_t i = 0; i < COUNT(rows) * 2; i++) {
        struct seen s;
        input_begin();
        put_text("first");
        put_frame(0x82, bytes, sizeof bytes);
        put_frame(rows[i / 2].first,
                  rows[i / 2].payload != NULL ? rows[i / 2].payload : (char *)bytes,
                  (size_t)rows[i / 2].size);
        prepare(&s);
        s.holds_back = true;
        run(&s, i % 2 == 0 ? SIZE_MAX : 1);
        check(strncmp(answer_of(&s.fake), rows[i / 2].code, 11) == 0, "%zu: %s", i,
              answer_of(&s.fake));
        check(s.fake.x.is_ended, "over");
        finish(&s);
    }
}

/* The call ends while a large message is being received: the offer that stands stays good. */
TEST(ends_amid_a_message)
{
    struct seen s;
    uint8_t *bytes = calloc(1, 100000);

    check_or_stop(bytes != NULL, "memory");
    input_begin();
    put_frame(0x82, bytes, 100000);
    put_close(1000);
    prepare(&s);
    s.fake.body = text_slice(&input);
    check_or_stop(accept_call(&s), "accepted");
    call_read(s.call);
    for (int i = 0; i < 5; i++)
        fake_deliver(&s.fake, 5000);
    end_with(s.call, OK, NULL);
    deliver(&s, 5000);
    expect(&s, "", "close 1000 |", "closed");
    check(s.fake.x.is_ended, "over");
    finish(&s);
    free(bytes);
}

TEST(ends_in_a_callback)
{
    struct seen s;

    input_begin();
    put_text("a");
    put_text("b");
    put_close(1000);
    prepare(&s);
    s.ends_at_message = true;
    run(&s, SIZE_MAX);
    expect(&s, "text a|", "close 1000 |", "after the first");
    check(s.fake.x.is_ended, "over");
    finish(&s);
}

TEST(the_server_stops)
{
    struct seen s;

    input_begin();
    prepare(&s);
    run(&s, SIZE_MAX);
    s.fake.x.user->on_drain(&s.fake.x);
    expect(&s, "gone UNAVAILABLE|", "close 1001 the server stops|", "without on_drain");
    finish(&s);

    prepare(&s);
    s.has_drain = true;
    run(&s, SIZE_MAX);
    s.fake.x.user->on_drain(&s.fake.x);
    expect(&s, "drain|", "close 1001 later|", "with it");
    finish(&s);
}

/* -- what violates the protocol -------------------------------------------------------------------- */

TEST(violations)
{
    static const struct {
        const char *name;
        uint8_t first;
        const char *payload;
        int size;
        const char *log;
        uint16_t code;
    } rows[] = {
        { "reserved opcode", 0x83, "x", 1, "gone INVALID_ARGUMENT|", 1002 },
        { "reserved bit", 0xa1, "x", 1, "gone INVALID_ARGUMENT|", 1002 },
        { "fragmented ping", 0x09, "x", 1, "gone INVALID_ARGUMENT|", 1002 },
        { "no UTF-8", 0x81, "\xff", 1, "gone INVALID_ARGUMENT|", 1007 },
        { "close code 999", 0x88, "\x03\xe7", 2, "gone INVALID_ARGUMENT|", 1002 },
        { "close reason", 0x88, "\x03\xe8\xff", 3, "gone INVALID_ARGUMENT|", 1007 },
        { "compressed and damaged", 0xc2, "\xff\xff\xff", 3, "gone INVALID_ARGUMENT|", 1007 },
        { "compressed, no UTF-8", 0xc1, "\x00\x01\x00\xfe\xff\xff\x00", 7, "gone INVALID_ARGUMENT|",
          1007 },
    };

    for (size_t i = 0; i < COUNT(rows) * 2; i++) {
        size_t row = i / 2;
        struct seen s;
        char code[16];
        input_begin();
        put_text("good");
        put_frame(rows[row].first, rows[row].payload, (size_t)rows[row].size);
        put_text("not looked at");
        prepare(&s);
        fake_header(&s.fake, "sec-websocket-extensions", "permessage-deflate");
        run(&s, i % 2 == 0 ? SIZE_MAX : 1);
        snprintf(code, sizeof code, "close %u ", rows[row].code);
        check(strstr(answer_of(&s.fake), code) != NULL, "%s: %s", rows[row].name,
              answer_of(&s.fake));
        text_str(&s.log, "");
        check(slice_ends(text_slice(&s.log), rows[row].log) &&
                  slice_starts(text_slice(&s.log), "text good|gone"),
              "%s: %s", rows[row].name, text_cstr(&s.log));
        check(s.fake.x.is_ended, "over");
        finish(&s);
    }
}

TEST(too_large)
{
    struct seen s;
    uint8_t *zeros = calloc(1, MESSAGE_MAX + 1);

    check_or_stop(zeros != NULL, "memory");
    input_begin();
    put_frame(0x82, zeros, MESSAGE_MAX + 1);
    prepare(&s);
    s.fake.body = slice_first(text_slice(&input), 14);
    check_or_stop(accept_call(&s), "accepted");
    call_read(s.call);
    deliver(&s, SIZE_MAX);
    expect(&s, "gone RESOURCE_EXHAUSTED|",
           "close 1009 a message has more than 4194304 bytes; --max-message raises it|",
           "by its length, before anything of it came");
    check(budget_used(&s.fake.budget) < 1 << 20, "no memory was taken");
    finish(&s);

    input_begin();
    put_frame(0x02, zeros, MESSAGE_MAX / 2);
    put_frame(0x00, zeros, MESSAGE_MAX / 2);
    put_frame(0x80, "x", 1);
    prepare(&s);
    run(&s, 65536);
    check(slice_is(text_slice(&s.log), "gone RESOURCE_EXHAUSTED|"), "%s", text_cstr(&s.log));
    check(strncmp(answer_of(&s.fake), "close 1009 ", 11) == 0, "by fragments");
    finish(&s);

    input_begin(); /* 4 MiB and a zero in 4 KB */
    struct websocket_heap *heap = websocket_heap_new();
    struct websocket_deflate agreed = { true, 15 };
    struct slice all = slice_make(zeros, MESSAGE_MAX + 1);
    struct buf *packed = websocket_deflate(heap, &agreed, NULL, &all, 1);
    put_frame(0xc2, buf_bytes(packed).data, buf_bytes(packed).size);
    buf_unref(&packed);
    websocket_heap_free(&heap);
    prepare(&s);
    fake_header(&s.fake, "sec-websocket-extensions", "permessage-deflate");
    run(&s, SIZE_MAX);
    check(strncmp(answer_of(&s.fake), "close 1009 ", 11) == 0, "a bomb: %s", answer_of(&s.fake));
    finish(&s);
    free(zeros);
}

/* -- messages out, compression --------------------------------------------------------------------- */

TEST(compression_both_ways)
{
    char words[1000];
    struct seen s;

    for (size_t i = 0; i < sizeof words; i++)
        words[i] = (char)('a' + i % 13);
    input_begin();
    put_frame(0xc1, "\xf2\x48\xcd\xc9\xc9\x07\x00", 7);
    put_frame(0x41, "\xf2\x48\xcd", 3);
    put_frame(0x80, "\xc9\xc9\x07\x00", 4);
    put_frame(0x81, words, sizeof words);
    put_frame(0x82, words, sizeof words);
    prepare(&s);
    fake_header(&s.fake, "sec-websocket-extensions", "permessage-deflate");
    s.echoes = true;
    run(&s, SIZE_MAX);
    check(slice_is(text_slice(&s.log),
                   "unpacked text Hello|unpacked text Hello|text (1000)|binary (1000)|"),
          "%s", text_cstr(&s.log));
    check(strncmp(answer_of(&s.fake), "text Hello|text Hello|packed text (", 35) == 0, "%s",
          answer_of(&s.fake));
    check(strstr(answer_of(&s.fake), "|binary (1000)|") != NULL, "binary is sent plain: %s",
          answer_of(&s.fake));
    struct call_piece piece = { slice_make(words, sizeof words), NULL };
    call_send_as(s.call, &piece, 1, (struct call_form){ true, CALL_COMPRESS_NEVER });
    call_send_as(s.call, &piece, 1, (struct call_form){ false, CALL_COMPRESS_ALWAYS });
    check(strstr(answer_of(&s.fake), "|text (1000)|packed binary (") != NULL, "as told: %s",
          answer_of(&s.fake));
    finish(&s);
}

TEST(messages_of_many_pieces)
{
    static char large[5000];
    struct seen s;

    input_begin();
    prepare(&s);
    run(&s, SIZE_MAX);
    memset(large, 'z', sizeof large);
    struct call_piece pieces[] = {
        { slice_of("<"), NULL },           { slice_make(large, sizeof large), NULL },
        { slice_of("-"), NULL },           { slice_of(">"), NULL },
        { slice_make(large, 4096), NULL }, { slice_make(NULL, 0), NULL },
    };
    call_send(s.call, pieces, COUNT(pieces));
    call_send(s.call, NULL, 0);
    check(strcmp(answer_of(&s.fake), "binary (9099)|binary |") == 0, "%s", answer_of(&s.fake));
    check(s.fake.answer.data[4] == '<' && s.fake.answer.data[4 + 5001] == '-', "in order");
    finish(&s);
}

TEST(pings_are_answered)
{
    struct seen s;

    input_begin();
    put_frame(0x89, "one", 3);
    put_frame(0x8a, "not asked for", 13);
    put_frame(0x89, NULL, 0);
    prepare(&s);
    run(&s, 3);
    expect(&s, "", "pong one|pong |", "pongs");
    finish(&s);
}

/* -- credit ---------------------------------------------------------------------------------------- */

TEST(nothing_is_read_without_credit)
{
    struct seen s;

    input_begin();
    put_text("one");
    put_frame(0x89, "p", 1);
    put_text("two");
    put_frame(0x89, "q", 1);
    prepare(&s);
    s.holds_back = true;
    s.fake.body = text_slice(&input);
    check_or_stop(accept_call(&s), "accepted");
    check(!s.fake.x.has_offer && !fake_deliver(&s.fake, 1), "nothing before the first call_read");
    call_read(s.call);
    deliver(&s, SIZE_MAX);
    expect(&s, "text one|", "pong p|pong q|", "one, and the pings behind it and what waits");
    call_read(s.call);
    deliver(&s, SIZE_MAX);
    expect(&s, "text one|text two|", "pong p|pong q|", "the rest");
    finish(&s);
}

/* What lies in the block unread is bounded, and nothing of it is lost. */
TEST(a_full_block_waits)
{
    static const size_t ahead[] = { 0, 1024, 1100, 2000, 8192 };
    char text[300];

    for (size_t row = 0; row < COUNT(ahead); row++) {
        struct seen s;
        input_begin();
        memset(text, 'x', sizeof text);
        for (int i = 0; i < 50; i++)
            put_frame(0x81, text, sizeof text - (size_t)i);
        prepare(&s);
        s.holds_back = true;
        s.settings.ahead_bytes = ahead[row];
        s.fake.body = text_slice(&input);
        check_or_stop(accept_call(&s), "accepted");
        for (uint32_t i = 1; i <= 50; i++) {
            call_read(s.call);
            deliver(&s, 100);
            check(s.messages == i, "%u of %u", s.messages, i);
            check(s.fake.delivered <= (size_t)i * 310 + MAX((size_t)1100, ahead[row]),
                  "%zu bytes taken", s.fake.delivered);
        }
        finish(&s);
    }
}

/* A message stays where it lies until the next is asked for, whatever else is received meanwhile. */
TEST(a_later_message_stays_until_the_next_is_read)
{
    for (size_t size = 1; size < 1010; size += 37) {
        struct seen s;
        char text[1024];
        input_begin();
        put_text("first");
        memset(text, 'a', sizeof text);
        put_frame(0x81, text, size);
        for (int i = 0; i < 40; i++)
            put_frame(0x89, "some bytes to be answered", 25);
        memset(text, 'b', sizeof text);
        put_frame(0x81, text, size);
        prepare(&s);
        s.holds_back = true;
        s.fake.body = text_slice(&input);
        check_or_stop(accept_call(&s), "accepted");
        for (uint32_t i = 1; i <= 3; i++) {
            call_read(s.call);
            while (s.fake.delivered < s.fake.body.size && fake_deliver(&s.fake, 100)) {
                if (i != 2 || s.messages != 2)
                    continue;
                for (size_t j = 0; j < s.last.size; j++)
                    check_or_stop(s.last.data[j] == 'a', "byte %zu of %zu was written over", j,
                                  size);
            }
            check(s.messages == i, "%zu: %u of %u", size, s.messages, i);
        }
        finish(&s);
    }
}

/* -- memory ---------------------------------------------------------------------------------------- */

TEST(no_memory_is_said)
{
    struct seen s;
    uint8_t *bytes = calloc(1, 2 << 20);

    check_or_stop(bytes != NULL, "memory");
    input_begin();
    put_frame(0x82, bytes, 2 << 20);
    prepare(&s);
    require(budget_take(&s.fake.budget, (64 << 20) - (1 << 20)));
    run(&s, 65536);
    expect(&s, "gone RESOURCE_EXHAUSTED|", "close 1013 no memory for a message; retry later|",
           "the budget is spent");
    budget_give(&s.fake.budget, (64 << 20) - (1 << 20));
    finish(&s);
    free(bytes);
}

TEST(faults)
{
    uint8_t *bytes = calloc(1, 20000);

    check_or_stop(bytes != NULL, "memory");
    input_begin();
    put_text("hello");
    put_frame(0xc1, "\xf2\x48\xcd\xc9\xc9\x07\x00", 7);
    put_frame(0x02, bytes, 5000);
    put_frame(0x80, bytes, 20000);
    put_frame(0x89, "p", 1);
    put_close(1000);
    for_each_fault(nth) {
        struct seen s;
        fault_arm(0);
        prepare(&s);
        fake_header(&s.fake, "sec-websocket-extensions", "permessage-deflate");
        s.echoes = true;
        s.fake.body = text_slice(&input);
        fault_arm(nth);
        if (accept_call(&s)) {
            call_read(s.call);
            deliver(&s, 1000);
            check(s.call->is_over, "it comes to an end: %s", text_cstr(&s.log));
        } else {
            check(s.fake.x.status == 503, "%u", s.fake.x.status);
        }
        bool has_fired = fault_fired();
        fault_arm(0);
        finish(&s);
        if (!has_fired)
            break;
    }
    free(bytes);
}

/* -- on a loop: time ------------------------------------------------------------------------------- */

struct stage {
    struct loop *loop;
    struct loop_msg start;
    struct timer stop;
    struct seen s;
    void (*begin)(struct stage *stage);
    uint64_t ms;
    struct websocket_stats *stats;
};

static void on_stop(struct timer *timer)
{
    struct stage *stage = CONTAINER_OF(timer, struct stage, stop);

    fake_leave(&stage->s.fake);
    loop_stop(stage->loop);
}

static void on_start(struct loop_msg *msg)
{
    struct stage *stage = CONTAINER_OF(msg, struct stage, start);

    stage->stop.on_due = on_stop;
    require(timer_start(stage->loop, &stage->stop,
                        loop_refresh_ns(stage->loop) + stage->ms * NS_PER_MS, NULL) == OK);
    stage->begin(stage);
}

static void on_stage(struct stage *stage, void (*begin)(struct stage *stage), uint64_t ms)
{
    struct err err = { 0 };

    check_or_stop(loop_new(&stage->loop, env_real(), 0, &err) == OK, "%s", err.text);
    check_or_stop(websocket_stats_new(&stage->stats, 1, &err) == OK, "%s", err.text);
    stage->s.fake.x.loop = stage->loop;
    stage->s.settings.stats = stage->stats;
    stage->begin = begin;
    stage->ms = ms;
    stage->start.run = on_start;
    loop_post(stage->loop, &stage->start);
    loop_run(stage->loop);
    stage->s.fake.x.loop = NULL;
}

static void off_stage(struct stage *stage)
{
    finish(&stage->s);
    websocket_stats_free(&stage->stats);
    loop_free(&stage->loop);
}

static uint64_t metric(struct stage *stage, const char *line)
{
    struct metrics *metrics = metrics_new();
    struct text out;
    unsigned long long value = UINT64_MAX;

    require(metrics != NULL && websocket_stats_register(stage->stats, metrics, NULL) == OK);
    text_init(&out, 1 << 20);
    metrics_render(metrics, &out);
    /* Not the line that explains it. */
    for (const char *at = text_cstr(&out); (at = strstr(at, line)) != NULL; at++)
        if (at[-1] == '\n')
            sscanf(at + strlen(line), " %llu", &value);
    text_deinit(&out);
    metrics_free(&metrics);
    return value;
}

static void begin_reading(struct stage *stage)
{
    require(accept_call(&stage->s));
    call_read(stage->s.call);
    deliver(&stage->s, SIZE_MAX);
}

TEST(a_silent_peer_is_pinged_and_then_gone)
{
    struct stage stage = { 0 };

    input_begin();
    put_text("a");
    prepare(&stage.s);
    stage.s.fake.body = text_slice(&input);
    stage.s.settings.ping_ns = 20 * NS_PER_MS;
    stage.s.settings.pong_ns = 20 * NS_PER_MS;
    on_stage(&stage, begin_reading, 200);
    expect(&stage.s, "text a|gone UNAVAILABLE|",
           "ping |close 1011 no answer to a ping for 20 ms (--websocket-pong-timeout)|", "silent");
    check(metric(&stage, "penstock_websocket_pings_unanswered_total") == 1, "counted");
    check(metric(&stage, "penstock_websocket_closes_total{code=\"1011\"}") == 1, "counted");
    check(metric(&stage, "penstock_websocket_connections_open") == 0, "none is open");
    check(metric(&stage, "penstock_websocket_messages_total{direction=\"in\"}") == 1, "in");
    off_stage(&stage);
}

static void begin_without_credit(struct stage *stage)
{
    require(accept_call(&stage->s));
}

/* Who is not read cannot be heard, and is not given up for that. */
TEST(a_peer_that_is_not_read_is_not_gone)
{
    struct stage stage = { 0 };

    input_begin();
    prepare(&stage.s);
    stage.s.settings.ping_ns = 20 * NS_PER_MS;
    stage.s.settings.pong_ns = 20 * NS_PER_MS;
    on_stage(&stage, begin_without_credit, 150);
    expect(&stage.s, "gone CANCELLED|", "", "only the end of the case");
    check(metric(&stage, "penstock_websocket_closes_total{code=\"1006\"}") == 1, "counted");
    off_stage(&stage);
}

TEST(a_message_that_stands_still)
{
    struct stage stage = { 0 };

    input_begin();
    put_frame(0x82, "hello", 5);
    prepare(&stage.s);
    stage.s.fake.body = slice_first(text_slice(&input), 8);
    stage.s.settings.stall_ns = 30 * NS_PER_MS;
    on_stage(&stage, begin_reading, 200);
    expect(&stage.s, "gone DEADLINE_EXCEEDED|",
           "close 1008 a message stood still for 30 ms (--body-timeout)|", "half a frame");
    check(websocket_stats_limit_hits(stage.stats).stalled == 1, "counted");
    off_stage(&stage);
}

static void begin_and_end(struct stage *stage)
{
    begin_reading(stage);
    end_with(stage->s.call, OK, NULL);
}

TEST(a_close_that_nobody_answers)
{
    struct stage stage = { 0 };

    input_begin();
    prepare(&stage.s);
    stage.s.settings.close_ns = 30 * NS_PER_MS;
    on_stage(&stage, begin_and_end, 150);
    expect(&stage.s, "", "close 1000 |", "closed");
    check(stage.s.fake.x.is_ended, "and ended all the same");
    check(websocket_stats_limit_hits(stage.stats).close == 1, "counted");
    off_stage(&stage);
}

static void on_reads(struct timer *timer)
{
    struct stage *stage = CONTAINER_OF(timer, struct stage, stop);

    timer->on_due = on_stop;
    require(timer_start(stage->loop, timer, loop_now_ns(stage->loop) + 50 * NS_PER_MS, NULL) == OK);
    call_read(stage->s.call);
}

static void begin_late(struct stage *stage)
{
    begin_reading(stage);
    stage->stop.on_due = on_reads;
}

/* Bytes that came before the credit are looked at once it is there. */
TEST(credit_that_comes_late)
{
    struct stage stage = { 0 };

    input_begin();
    put_text("one");
    put_text("two");
    prepare(&stage.s);
    stage.s.holds_back = true;
    stage.s.fake.body = text_slice(&input);
    on_stage(&stage, begin_late, 30);
    expect(&stage.s, "text one|text two|gone CANCELLED|", "", "two");
    off_stage(&stage);
}
