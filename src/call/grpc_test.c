/* grpc_test.c - calls on a transport of memory: framing at every split, refusals, deadlines,
 * compression, and streams against a plain model. SPDX-License-Identifier: Apache-2.0 */
#include "call/grpc.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "call/fake.h"
#include "call/grpc_wire.h"
#include "io/loop.h"
#include "telemetry/metrics.h"
#include "test/harness.h"

/* -- a user that keeps and judges what it is told ----------------------------------------------- */

enum { LARGE = 3 << 20 };

struct seen {
    struct fake fake;
    struct grpc_settings settings;
    struct call *call;
    uint32_t credit_each; /* asked for in each on_message */
    bool ends_at_half_close;
    /* -- what it was told -- */
    struct text all; /* every message: "<size>:" and its bytes */
    uint32_t messages, compressed, half_closes, gone, rooms, drains;
    enum err_code why;
    struct slice first, last; /* still there? */
    struct buf *last_holder;
    uint8_t *first_copy;
    bool is_inside; /* a callback */
};

static void on_message(struct call *call, const struct call_message *message)
{
    struct seen *s = call->user_data;

    check(s->half_closes == 0 && s->gone == 0, "a message behind the end");
    check(!s->is_inside, "callbacks do not re-enter");
    s->is_inside = true;
    check(s->messages == 0 || slice_eq(s->first, slice_make(s->first_copy, s->first.size)),
          "the first message stays");
    text_u64(&s->all, message->bytes.size);
    text_byte(&s->all, ':');
    text_slice_put(&s->all, message->bytes);
    if (s->messages++ == 0) {
        s->first = message->bytes;
        s->first_copy = malloc(message->bytes.size + 1);
        if (message->bytes.size != 0)
            memcpy(s->first_copy, message->bytes.data, message->bytes.size);
    }
    s->compressed += message->was_compressed;
    s->last = message->bytes;
    s->last_holder = message->holder;
    for (uint32_t i = 0; i < s->credit_each; i++)
        call_read(call);
    s->is_inside = false;
}

static void on_half_close(struct call *call)
{
    struct seen *s = call->user_data;
    struct err ok = { 0 };

    s->half_closes++;
    if (s->ends_at_half_close)
        call_end(call, &ok, NULL);
}

static void on_room(struct call *call)
{
    ((struct seen *)call->user_data)->rooms++;
}

static void on_gone(struct call *call, enum err_code why)
{
    struct seen *s = call->user_data;

    check(call->is_over, "nothing can be sent any more");
    s->gone++;
    s->why = why;
    call_read(call); /* no-ops */
    call_send(call, NULL, 0);
}

static void on_drain(struct call *call)
{
    ((struct seen *)call->user_data)->drains++;
}

static const struct call_user user = {
    .on_drain = on_drain,
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_room = on_room,
    .on_gone = on_gone,
};

static void prepare(struct seen *s, struct slice body)
{
    memset(s, 0, sizeof *s);
    s->settings = (struct grpc_settings){ 4 << 20, "--max-message", GRPC_COMPRESSION_MIRROR, NULL };
    text_init(&s->all, 64 << 20);
    fake_init(&s->fake, NULL, body);
}

static bool accept_call(struct seen *s)
{
    s->call = grpc_accept(&s->fake.x, &s->settings);
    if (s->call == NULL)
        return false;
    s->call->user = &user;
    s->call->user_data = s;
    return true;
}

static void finish(struct seen *s)
{
    check(s->messages == 0 || slice_eq(s->first, slice_make(s->first_copy, s->first.size)),
          "the first message stays to the end");
    fake_deinit(&s->fake);
    text_deinit(&s->all);
    free(s->first_copy);
}

static void send_text(struct call *call, const char *text)
{
    struct call_piece piece = { slice_of(text), NULL };

    call_send(call, &piece, 1);
}

static void end_ok(struct call *call)
{
    struct err ok = { 0 };

    call_end(call, &ok, NULL);
}

/* "grpc-status grpc-message" of whichever block has it. */
static const char *status_of(const struct seen *s)
{
    static char out[ERR_TEXT_MAX + 16];
    const struct text *at = s->fake.trailers.size != 0 ? &s->fake.trailers : &s->fake.head;
    struct slice code = fake_field(at, "grpc-status"), message = fake_field(at, "grpc-message");

    snprintf(out, sizeof out, "%.*s%s%.*s", SLICE_ARG(code), message.size != 0 ? " " : "",
             SLICE_ARG(message));
    return out;
}

/* -- bodies --------------------------------------------------------------------------------------- */

static struct text body; /* of the case that runs */

static void body_begin(void)
{
    text_deinit(&body);
    text_init(&body, 64 << 20);
}

static void body_raw(uint8_t flag, size_t announced, const void *bytes, size_t size)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    grpc_prefix_put(prefix, false, (uint32_t)announced);
    prefix[0] = flag;
    text_put(&body, prefix, sizeof prefix);
    text_put(&body, bytes, size);
}

static uint8_t *pattern(void)
{
    static uint8_t *bytes;

    if (bytes == NULL) {
        bytes = malloc(LARGE);
        for (size_t i = 0; i < LARGE; i++)
            bytes[i] = (uint8_t)(i * 31 + i / 997);
    }
    return bytes;
}

/* "<size>:<bytes>" of one message in order. */
static void expect_message(struct text *to, const void *bytes, size_t size)
{
    text_u64(to, size);
    text_byte(to, ':');
    text_put(to, bytes, size);
}

/* -- unary ---------------------------------------------------------------------------------------- */

TEST(unary_call_byte_by_byte)
{
    struct seen s;

    body_begin();
    body_raw(0, 5, "hello", 5);
    prepare(&s, text_slice(&body));
    check_or_stop(accept_call(&s), "accepted");
    check(slice_is(s.call->service, "test.Echo") && slice_is(s.call->method, "Say"), "the path");
    check(s.call->deadline_ns == UINT64_MAX, "no deadline");
    check(!s.fake.x.has_offer, "nothing is received without credit");
    call_read(s.call);
    fake_deliver_all(&s.fake, SIZE_MAX);
    check(s.messages == 1 && s.half_closes == 1, "%u and %u", s.messages, s.half_closes);
    check(slice_is(text_slice(&s.all), "5:hello"), "%.*s", SLICE_ARG(text_slice(&s.all)));
    send_text(s.call, "world!");
    check(s.fake.x.status == 200 && s.fake.announced == -1, "%u", s.fake.x.status);
    end_ok(s.call);
    check(s.fake.x.is_ended && s.fake.x.refs == 1, "the call lets the exchange go");
    fake_flush(&s.fake);
    check(slice_eq(text_slice(&s.fake.answer), slice_make("\0\0\0\0\6world!", 11)), "the message");
    check(slice_is(text_slice(&s.fake.head), "content-type: application/grpc\n"), "%.*s",
          SLICE_ARG(text_slice(&s.fake.head)));
    check(slice_is(text_slice(&s.fake.trailers), "grpc-status: 0\n"), "%.*s",
          SLICE_ARG(text_slice(&s.fake.trailers)));
    check(s.gone == 0, "nobody left");
    finish(&s);
}

TEST(the_user_hears_that_the_server_stops)
{
    struct seen s;

    body_begin();
    prepare(&s, text_slice(&body));
    check_or_stop(accept_call(&s), "accepted");
    s.fake.x.user->on_drain(&s.fake.x);
    check(s.drains == 1 && !s.call->is_over, "and the call goes on");
    end_ok(s.call);
    s.fake.x.user->on_drain(&s.fake.x);
    check(s.drains == 1, "not behind its end");
    finish(&s);
}

TEST(unary_call_asks_the_heap_for_nothing)
{
    struct seen s;

    body_begin();
    body_raw(0, 200, pattern(), 200);
    prepare(&s, text_slice(&body));
    s.credit_each = 1;
    check(text_room(&s.all, 4096) != NULL, "the test's own memory");
    uint64_t before = mem_count();
    struct call *call = grpc_accept(&s.fake.x, &s.settings);
    check(mem_count() == before, "accepting");
    check_or_stop(call != NULL, "accepted");
    s.call = call;
    call->user = &user;
    call->user_data = &s;
    call_read(call);
    before = mem_count();
    fake_deliver_all(&s.fake, SIZE_MAX);
    struct call_piece pieces[2] = { { slice_make(pattern(), 80), NULL },
                                    { slice_make(pattern(), 500), NULL } };
    call_send(call, pieces, 2);
    end_ok(call);
    check(s.messages == 1 && s.fake.pieces_count == 1, "small pieces leave together");
    check(mem_count() == before + 2, /* the fake's head and trailers */ "%llu",
          (unsigned long long)(mem_count() - before));
    finish(&s);
}

/* Each size, cut in two at every place (large ones at some), the end coming with the last byte or on
 * its own. */
TEST(messages_at_every_split)
{
    static const size_t sizes[] = { 0,    1,    99,   100,  200,  1000, 1914,   1915, 1916,
                                    2042, 2043, 2044, 2048, 2049, 5000, 100000, LARGE };
    struct text expected;
    struct seen s;

    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t size = sizes[i], step = size <= 200 ? 1 : size <= 5000 ? 61 : size / 7;
        body_begin();
        body_raw(0, size, pattern(), size);
        text_init(&expected, 64 << 20);
        expect_message(&expected, pattern(), size);
        for (size_t cut = 0; cut <= body.size; cut += step) {
            prepare(&s, text_slice(&body));
            s.fake.is_open_ended = cut % 2 == 1;
            s.ends_at_half_close = true;
            s.credit_each = (uint32_t)(cut % 3); /* also by who reads on to see a second one */
            check_or_stop(accept_call(&s), "accepted");
            call_read(s.call);
            while (s.fake.delivered < cut && fake_deliver(&s.fake, cut - s.fake.delivered))
                ;
            fake_deliver_all(&s.fake, SIZE_MAX);
            check(s.messages == 1 && s.half_closes == 1 && s.gone == 0, "%zu at %zu: %u %u %s",
                  size, cut, s.messages, s.half_closes, status_of(&s));
            check(slice_eq(text_slice(&s.all), text_slice(&expected)), "%zu at %zu", size, cut);
            check(size < 100 || ((uintptr_t)s.last.data + s.last.size) % 64 == 0,
                  "%zu: its end lies on a line", size);
            check(s.last_holder == NULL ? size <= 2043 : size > 1915, "%zu: where it lies", size);
            finish(&s);
        }
        text_deinit(&expected);
    }
}

TEST(messages_byte_by_byte)
{
    static const size_t sizes[] = { 3,    0,    700,  1700, 20,   4000, 0,    100,
                                    1915, 1916, 1900, 1900, 1901, 5,    1900, 1300 };
    struct text expected;
    struct seen s;

    body_begin();
    text_init(&expected, 64 << 20);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        body_raw(0, sizes[i], pattern() + i, sizes[i]);
        expect_message(&expected, pattern() + i, sizes[i]);
    }
    for (unsigned way = 0; way < 6; way++) {
        prepare(&s, text_slice(&body));
        s.fake.is_open_ended = way % 2 == 1;
        s.credit_each = 1 + way / 2;
        check_or_stop(accept_call(&s), "accepted");
        call_read(s.call);
        fake_deliver_all(&s.fake, 1);
        check(s.messages == COUNT(sizes) && s.half_closes == 1, "%u %u %s", s.messages,
              s.half_closes, status_of(&s));
        check(slice_eq(text_slice(&s.all), text_slice(&expected)), "way %u", way);
        end_ok(s.call);
        finish(&s);
    }
    text_deinit(&expected);
}

/* -- credit --------------------------------------------------------------------------------------- */

TEST(half_close_needs_no_credit)
{
    struct seen s;

    for (unsigned way = 0; way < 4; way++) {
        body_begin();
        if (way > 1)
            body_raw(0, way == 2 ? 10 : 2043, pattern(), way == 2 ? 10 : 2043);
        prepare(&s, text_slice(&body));
        s.fake.is_open_ended = way != 0;
        s.fake.x.body_is_over = way == 0; /* known with the head */
        check_or_stop(accept_call(&s), "accepted");
        call_read(s.call);
        fake_deliver_all(&s.fake, SIZE_MAX);
        check(s.messages == (way > 1) && s.half_closes == 1, "way %u: %u %u", way, s.messages,
              s.half_closes);
        call_read(s.call); /* nothing comes of it */
        end_ok(s.call);
        check(strcmp(status_of(&s), "0") == 0, "%s", status_of(&s));
        finish(&s);
    }
}

/* In the second block, a message that ends where it ends: the end of the body is seen in front of it. */
TEST(half_close_behind_a_full_block)
{
    struct seen s;

    body_begin();
    body_raw(0, 1900, pattern(), 1900);
    body_raw(0, 100, pattern(), 100);
    body_raw(0, 2048 - 105 - 5, pattern(), 2048 - 105 - 5);
    prepare(&s, text_slice(&body));
    s.fake.is_open_ended = true;
    check_or_stop(accept_call(&s), "accepted");
    call_read(s.call);
    check(fake_deliver(&s.fake, 1905), "the first");
    call_read(s.call);
    check(fake_deliver(&s.fake, 50), "fills the first block");
    check(fake_deliver(&s.fake, SIZE_MAX), "the rest");
    fake_deliver_all(&s.fake, SIZE_MAX);
    check(s.messages == 2 && s.half_closes == 0, "%u", s.messages);
    call_read(s.call);
    fake_deliver_all(&s.fake, SIZE_MAX);
    check(s.messages == 3 && s.half_closes == 1, "%u %u", s.messages, s.half_closes);
    end_ok(s.call);
    finish(&s);
}

/* Then a message is there until on_message returns, and makes way for the next. */
TEST(credit_for_many_at_once)
{
    struct seen s;
    static const size_t sizes[] = { 1900, 600, 1500, 1550, 1600, 1500, 1700, 1500 };

    body_begin();
    for (unsigned i = 0; i < COUNT(sizes); i++)
        body_raw(0, sizes[i], pattern() + i, sizes[i]);
    for (size_t piece = 1; piece < 4000; piece = piece * 3 + 1) {
        prepare(&s, text_slice(&body));
        check_or_stop(accept_call(&s), "accepted");
        for (unsigned i = 0; i < 9; i++)
            call_read(s.call);
        fake_deliver_all(&s.fake, piece);
        check(s.messages == 8 && s.half_closes == 1, "%zu: %u %u", piece, s.messages,
              s.half_closes);
        end_ok(s.call);
        finish(&s);
    }
}

TEST(messages_wait_for_credit)
{
    struct seen s;

    body_begin();
    for (unsigned i = 0; i < 100; i++)
        body_raw(0, 150, pattern() + i, 150);
    prepare(&s, text_slice(&body));
    check_or_stop(accept_call(&s), "accepted");
    call_read(s.call);
    for (unsigned i = 1; i <= 100; i++) {
        fake_deliver_all(&s.fake, 1000);
        check(s.messages == i, "%u of %u", s.messages, i);
        check(s.fake.delivered <= i * 155 + 4096, "what waits is bounded: %zu", s.fake.delivered);
        check(s.half_closes == (i == 100), "%u", i);
        if (i > 1)
            check(memcmp(s.last.data, pattern() + i - 1, 150) == 0, "%u stays without credit", i);
        if (i < 100)
            call_read(s.call);
    }
    end_ok(s.call);
    finish(&s);
}

/* Thousands of messages cost what a few do. */
TEST(streams_do_not_grow)
{
    struct seen s;

    body_begin();
    for (unsigned i = 0; i < 3000; i++)
        body_raw(0, i % 50 == 49 ? 20000 : 600, pattern() + i, i % 50 == 49 ? 20000 : 600);
    prepare(&s, text_slice(&body));
    s.credit_each = 1;
    check_or_stop(accept_call(&s), "accepted");
    call_read(s.call);
    while (fake_deliver(&s.fake, 5000)) {
        struct call_piece piece = { slice_make(pattern() + s.messages, 900), NULL };
        call_send(s.call, &piece, 1);
        fake_flush(&s.fake);
        check(arena_used(s.fake.x.arena) < 40000, "%zu", arena_used(s.fake.x.arena));
        check(budget_used(&s.fake.budget) < 100000, "%llu",
              (unsigned long long)budget_used(&s.fake.budget));
    }
    check(s.messages == 3000 && s.half_closes == 1, "%u %s", s.messages, status_of(&s));
    end_ok(s.call);
    finish(&s);
}

/* The first message leaves little of the first block: the others share a second one. */
TEST(small_messages_of_streams_ask_the_heap_for_nothing)
{
    struct seen s;

    body_begin();
    body_raw(0, 1800, pattern(), 1800);
    for (unsigned i = 0; i < 1000; i++)
        body_raw(0, 600, pattern() + i, 600);
    prepare(&s, text_slice(&body));
    s.credit_each = 1;
    check_or_stop(accept_call(&s), "accepted");
    check(text_room(&s.all, 1 << 20) != NULL, "the test's own memory");
    uint64_t before = mem_count();
    call_read(s.call);
    fake_deliver_all(&s.fake, 450);
    check(s.messages == 1001 && s.half_closes == 1, "%u", s.messages);
    check(mem_count() == before, "%llu", (unsigned long long)(mem_count() - before));
    end_ok(s.call);
    finish(&s);
}

/* -- refusals of what comes ----------------------------------------------------------------------- */

static struct buf *packed(enum encoding encoding, const void *bytes, size_t size)
{
    struct slice piece = slice_make(bytes, size);
    struct buf *out = NULL;

    require(compress_deflate(&out, NULL, encoding, &piece, 1, NULL) == OK);
    return out;
}

static void body_packed(enum encoding encoding, const void *bytes, size_t size)
{
    struct buf *buf = packed(encoding, bytes, size);

    body_raw(1, buf_bytes(buf).size, buf_bytes(buf).data, buf_bytes(buf).size);
    buf_unref(&buf);
}

/* The body as it is, in pieces of every kind; the first message fails. */
static void refused(const char *encoding, const char *status)
{
    static const size_t pieces[] = { SIZE_MAX, 1, 7, 1000 };
    struct seen s;

    for (size_t i = 0; i < COUNT(pieces); i++) {
        prepare(&s, text_slice(&body));
        s.settings.message_bytes_max = 100000;
        if (encoding != NULL)
            fake_header(&s.fake, "grpc-encoding", encoding);
        check_or_stop(accept_call(&s), "accepted");
        call_read(s.call);
        fake_deliver_all(&s.fake, pieces[i]);
        check(s.messages == 0 && s.half_closes == 0 && s.gone == 1, "%s: %u %u %u", status,
              s.messages, s.half_closes, s.gone);
        check(strcmp(status_of(&s), status) == 0, "'%s' is not '%s'", status_of(&s), status);
        check((int)s.why == atoi(status), "%d", s.why);
        check(s.fake.x.is_ended && s.fake.x.refs == 1 && budget_used(&s.fake.budget) == 0,
              "all is let go");
        bool tells = fake_field(&s.fake.head, "grpc-accept-encoding").data != NULL;
        check(tells == (atoi(status) == E_UNIMPLEMENTED), "encodings");
        finish(&s);
    }
}

TEST(what_is_no_message)
{
    body_begin();
    body_raw(2, 5, "hello", 5);
    refused(NULL,
            "13 message with a compressed-flag that is neither 0 nor 1: what comes is no gRPC "
            "message");
    body_begin();
    body_raw(255, 5, "hello", 5);
    refused("gzip", "13 message with a compressed-flag that is neither 0 nor 1: what comes is no "
                    "gRPC message");
    for (unsigned i = 0; i < 2; i++) {
        body_begin();
        body_raw(1, 5, "hello", 5);
        refused(i == 0 ? NULL : "identity",
                "13 message with its compressed-flag set, in a call without a grpc-encoding other "
                "than identity");
    }
    body_begin();
    body_raw(1, 5, "hello", 5);
    refused("snappy", "12 message compressed with grpc-encoding 'snappy', which is not understood; "
                      "these are: identity,deflate,gzip");
    refused("gzip", "13 compressed message: the body is not valid gzip (near byte 2): incorrect "
                    "header check");
    /* Ended in the middle: of the prefix, of a small message, of a large one. */
    for (size_t cut = 1; cut < 10; cut++) {
        body_begin();
        body_raw(0, 5, "hello", 5);
        body.size = cut;
        refused(NULL, "13 the request ended in the middle of a message");
    }
    for (size_t size = 1900; size < 90000; size = size * 3 + 1) {
        body_begin();
        body_raw(0, size + 1, pattern(), size);
        refused(NULL, "13 the request ended in the middle of a message");
    }
}

TEST(what_is_too_large)
{
    body_begin();
    body_raw(0, 100001, pattern(), 100001);
    refused(NULL, "8 message of 100001 bytes is larger than the most, 100000 (--max-message)");
    body_begin();
    body_raw(0, 0xffffffff, "", 0);
    refused(NULL, "8 message of 4294967295 bytes is larger than the most, 100000 (--max-message)");
    uint8_t *zeros = calloc(1, 50 << 20);
    for (int encoding = ENCODING_GZIP; encoding <= ENCODING_DEFLATE; encoding++) {
        char status[128];
        body_begin();
        body_packed((enum encoding)encoding, zeros, 50 << 20);
        check(body.size < 1 << 19, "%zu: it is a bomb", body.size);
        snprintf(status, sizeof status,
                 "8 message of %zu bytes is larger than the most, 100000 (--max-message)",
                 body.size - 5);
        refused(encoding_name((enum encoding)encoding), status);
        body_begin();
        body_packed((enum encoding)encoding, zeros, 10 << 20);
        check(body.size < 100000, "%zu", body.size);
        snprintf(status, sizeof status,
                 "8 message of %zu bytes (%s) inflates to more than the most, 100000 "
                 "(--max-message)",
                 body.size - 5, encoding_name((enum encoding)encoding));
        refused(encoding_name((enum encoding)encoding), status);
    }
    free(zeros);
}

/* Who announces much and sends little is charged for what came. */
TEST(large_messages_are_charged_as_they_come)
{
    struct seen s;

    body_begin();
    body_raw(0, LARGE, pattern(), LARGE);
    prepare(&s, text_slice(&body));
    check_or_stop(accept_call(&s), "accepted");
    call_read(s.call);
    fake_deliver(&s.fake, 10);
    check(budget_used(&s.fake.budget) < (1 << 20) + 4096, "%llu",
          (unsigned long long)budget_used(&s.fake.budget));
    budget_init(&s.fake.budget, 2 << 20);
    fake_leave(&s.fake);
    check(s.gone == 1, "left");
    budget_init(&s.fake.budget, 64 << 20);
    finish(&s);

    prepare(&s, text_slice(&body));
    budget_init(&s.fake.budget, 2 << 20);
    check_or_stop(accept_call(&s), "accepted");
    call_read(s.call);
    fake_deliver_all(&s.fake, 1 << 19);
    check(s.gone == 1 && s.why == E_EXHAUSTED && s.messages == 0, "%u", s.gone);
    check(strstr(status_of(&s), "--memory-limit") != NULL, "%s", status_of(&s));
    check(fake_field(&s.fake.head, "grpc-status-details-bin").size > 0, "when to try again");
    finish(&s);
}

/* Who says how a message travels decides, whatever the settings; what the peer takes stays the bound. */
TEST(compression_by_the_message)
{
    static const struct {
        enum grpc_compression settings;
        const char *accept;
        enum call_compress first, second;
        const char *encoding; /* NULL: none is told */
        bool is_first, is_second;
    } cases[] = {
        { GRPC_COMPRESSION_NONE, "identity,gzip", CALL_COMPRESS_ALWAYS, CALL_COMPRESS_NEVER, "gzip",
          true, false },
        { GRPC_COMPRESSION_MIRROR, "gzip", CALL_COMPRESS_NEVER, CALL_COMPRESS_ALWAYS, "gzip", false,
          true },
        { GRPC_COMPRESSION_MIRROR, "deflate", CALL_COMPRESS_ALWAYS, CALL_COMPRESS_ALWAYS, "deflate",
          true, true },
        { GRPC_COMPRESSION_ALWAYS, "gzip", CALL_COMPRESS_NEVER, CALL_COMPRESS_AUTO, "gzip", false,
          false },
        { GRPC_COMPRESSION_ALWAYS, "snappy", CALL_COMPRESS_ALWAYS, CALL_COMPRESS_ALWAYS, NULL, false,
          false },
        { GRPC_COMPRESSION_NONE, "gzip", CALL_COMPRESS_AUTO, CALL_COMPRESS_ALWAYS, NULL, false,
          false },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct seen s;
        struct call_piece piece = { slice_of("x"), NULL }; /* gzip makes it larger */
        prepare(&s, slice_make("", 0));
        s.settings.compression = cases[i].settings;
        fake_header(&s.fake, "grpc-accept-encoding", cases[i].accept);
        check_or_stop(accept_call(&s), "accepted");
        call_send_as(s.call, &piece, 1, (struct call_form){ .compress = cases[i].first });
        fake_flush(&s.fake);
        size_t first = s.fake.answer.size;
        check(first >= 6 && (s.fake.answer.data[0] == 1) == cases[i].is_first &&
                  (first == 6) != cases[i].is_first,
              "case %zu: %zu bytes", i, first);
        call_send_as(s.call, &piece, 1, (struct call_form){ .compress = cases[i].second });
        fake_flush(&s.fake);
        size_t second = s.fake.answer.size - first;
        check(second >= 6 && (s.fake.answer.data[first] == 1) == cases[i].is_second &&
                  (second == 6) != cases[i].is_second,
              "case %zu: %zu bytes", i, second);
        struct slice told = fake_field(&s.fake.head, "grpc-encoding");
        check(cases[i].encoding == NULL ? told.data == NULL : slice_is(told, cases[i].encoding),
              "case %zu: %.*s", i, SLICE_ARG(told));
        end_ok(s.call);
        finish(&s);
    }
}

/* -- the head --------------------------------------------------------------------------------------- */

TEST(heads_that_are_no_call)
{
    static const struct {
        enum exchange_method method;
        const char *protocol, *type;
        uint16_t status;
        const char *text;
        bool is_call;
    } cases[] = {
        { METHOD_POST, "HTTP/1.1", "application/grpc", 505, "gRPC needs HTTP/2", true },
        { METHOD_POST, "HTTP/1.0", "application/grpc+proto", 505, "gRPC-Web (application/grpc-web)", true },
        { METHOD_GET, "HTTP/2", "application/grpc", 405, "POST", true },
        { METHOD_POST, "HTTP/2", "application/grpc+json", 415, "application/grpc+proto", true },
        { METHOD_POST, "HTTP/2", "application/grpc-web+json", 415, "application/grpc-web-text", true },
        { METHOD_POST, "HTTP/2", "application/grpcfoo", 415, "application/grpc", false },
        { METHOD_POST, "HTTP/2", "application/json", 415, "application/grpc", false },
        { METHOD_POST, "HTTP/2", "application/grpc", 200, NULL, true },
        { METHOD_POST, "HTTP/2", "application/grpc;charset=utf-8", 200, NULL, true },
        { METHOD_POST, "HTTP/2", "Application/GRPC+proto", 200, NULL, true },
        { METHOD_POST, "HTTP/3", "application/grpc+proto", 200, NULL, true },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct seen s;
        prepare(&s, slice_make(NULL, 0));
        s.fake.x.method = cases[i].method;
        s.fake.x.protocol = cases[i].protocol;
        s.fake.request[1].value = slice_of(cases[i].type);
        check(grpc_is_call(&s.fake.x) == cases[i].is_call, "%s", cases[i].type);
        bool is_accepted = accept_call(&s);
        check(is_accepted == (cases[i].status == 200), "%s %s", cases[i].protocol, cases[i].type);
        if (is_accepted)
            end_ok(s.call);
        fake_flush(&s.fake);
        text_cstr(&s.fake.answer);
        check(s.fake.x.status == cases[i].status && s.fake.x.is_ended, "%s: %u", cases[i].type,
              s.fake.x.status);
        check(cases[i].text == NULL || strstr((char *)s.fake.answer.data, cases[i].text) != NULL,
              "%s", cases[i].type);
        check((cases[i].status == 405) == slice_is(fake_field(&s.fake.head, "allow"), "POST"),
              "allow");
        check(!is_accepted ||
                  slice_is(fake_field(&s.fake.head, "content-type"),
                           strstr(cases[i].type, "+proto") != NULL ? "application/grpc+proto"
                                                                   : "application/grpc"),
              "it is echoed");
        finish(&s);
    }
}

TEST(heads_with_a_status)
{
    static const struct {
        const char *path, *timeout, *status;
    } cases[] = {
        { "/a.B/C", NULL, "0" },
        { "/B/C", "1H", "0" },
        { "/", NULL, "12 the path '/' names no method: it is /package.Service/Method" },
        { "/a", NULL, "12 the path '/a' names no method: it is /package.Service/Method" },
        { "/a/", NULL, "12 the path '/a/' names no method: it is /package.Service/Method" },
        { "//a", NULL, "12 the path '//a' names no method: it is /package.Service/Method" },
        { "", NULL, "12 the path '' names no method: it is /package.Service/Method" },
        { "/a/b", "1",
          "13 grpc-timeout is '1'; it takes 1 to 8 digits and one of H M S m u n, as in "
          "'500m' for half a second" },
        { "/a/b", "99999999H", "0" },
        { "/a/b", "0S", "4 the deadline (grpc-timeout '0S') was over before the call began" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct seen s;
        prepare(&s, slice_make(NULL, 0));
        s.fake.x.path = slice_of(cases[i].path);
        s.fake.x.begun_ns = 1000;
        if (cases[i].timeout != NULL)
            fake_header(&s.fake, "grpc-timeout", cases[i].timeout);
        bool is_accepted = accept_call(&s);
        check(is_accepted == (cases[i].status[0] == '0'), "%s", cases[i].path);
        if (is_accepted) {
            check(s.call->deadline_ns == (i == 1 ? 1000 + 3600 * NS_PER_S : UINT64_MAX), "%llu",
                  (unsigned long long)s.call->deadline_ns);
            end_ok(s.call);
        }
        check(strcmp(status_of(&s), cases[i].status) == 0, "'%s' is not '%s'", status_of(&s),
              cases[i].status);
        check(s.fake.x.status == 200 && s.fake.announced == 0 && s.fake.trailers.size == 0,
              "Trailers-Only");
        finish(&s);
    }
}

TEST(headers_that_come_twice)
{
    struct seen s;

    prepare(&s, slice_make(NULL, 0));
    fake_header(&s.fake, "grpc-timeout", "1S");
    fake_header(&s.fake, "grpc-timeout", "2S");
    check_or_stop(accept_call(&s), "accepted");
    check(s.call->deadline_ns == NS_PER_S, "the first counts");
    end_ok(s.call);
    finish(&s);
}

TEST(services_in_folders)
{
    struct seen s;

    prepare(&s, slice_make(NULL, 0));
    s.fake.x.path = slice_of("/folder/a.B/C");
    check_or_stop(accept_call(&s), "accepted");
    check(slice_is(s.call->service, "folder/a.B") && slice_is(s.call->method, "C"),
          "the last slash");
    end_ok(s.call);
    finish(&s);
}

TEST(failures_without_a_call)
{
    struct seen s;
    struct err err = { 0 };

    prepare(&s, slice_make(NULL, 0));
    err_set(&err, E_PERMISSION, "100%% of \xc3\xbc");
    s.fake.request[1].value = slice_of("application/grpc+proto");
    grpc_fail(&s.fake.x, &err);
    check(slice_is(text_slice(&s.fake.head), "content-type: application/grpc+proto\n"
                                             "grpc-status: 7\n"
                                             "grpc-message: 100%25 of %C3%BC\n"),
          "%.*s", SLICE_ARG(text_slice(&s.fake.head)));
    check(s.fake.x.is_ended && s.fake.announced == 0, "Trailers-Only");
    finish(&s);
}

/* -- metadata and details --------------------------------------------------------------------------- */

TEST(metadata_of_the_caller)
{
    struct seen s;

    prepare(&s, slice_make(NULL, 0));
    fake_header(&s.fake, "x-plain", "text");
    fake_header(&s.fake, "x-plain", "second");
    fake_header(&s.fake, "x-bin", "AAEC");
    fake_header(&s.fake, "x-padded-bin", "AA==");
    fake_header(&s.fake, "x-joined-bin", " aGk , AAEC");
    fake_header(&s.fake, "x-empty-bin", "");
    fake_header(&s.fake, "x-broken-bin", "A");
    check_or_stop(accept_call(&s), "accepted");
    check(slice_is(call_metadata(s.call, "x-plain"), "text"), "the first");
    check(call_metadata(s.call, "x-none").data == NULL, "none");
    check(slice_eq(call_metadata(s.call, "x-bin"), slice_make("\0\1\2", 3)), "decoded");
    check(slice_eq(call_metadata(s.call, "x-padded-bin"), slice_make("", 1)), "with padding");
    check(slice_is(call_metadata(s.call, "x-joined-bin"), "hi"), "the first of joined ones");
    struct slice empty = call_metadata(s.call, "x-empty-bin");
    check(empty.data != NULL && empty.size == 0, "empty is not absent");
    check(call_metadata(s.call, "x-broken-bin").data == NULL, "broken");
    end_ok(s.call);
    finish(&s);
}

TEST(metadata_for_the_caller)
{
    struct slice binary = slice_make("\0\1\2\377", 4);
    struct seen s;

    for (unsigned way = 0; way < 2; way++) {
        prepare(&s, slice_make(NULL, 0));
        check_or_stop(accept_call(&s), "accepted");
        check(call_metadata_initial(s.call, "x-a", slice_of("first")), "taken");
        check(call_metadata_initial(s.call, "x-bin", binary), "taken");
        check(!call_metadata_initial(s.call, "grpc-x", slice_of("a")), "ours");
        check(!call_metadata_initial(s.call, "X-A", slice_of("a")), "upper case");
        check(!call_metadata_initial(s.call, "content-type", slice_of("a")), "HTTP's");
        check(!call_metadata_initial(s.call, "x-b", slice_of("a\nb")), "a line feed");
        check(!call_metadata_initial(s.call, "x-b", binary), "not text");
        check(call_metadata_trailing(s.call, "x-z", slice_of("last")), "taken");
        if (way == 1)
            send_text(s.call, "m");
        check(call_metadata_initial(s.call, "x-late", slice_of("a")) == (way == 0), "too late");
        end_ok(s.call);
        check(!call_metadata_trailing(s.call, "x-late", slice_of("a")), "it is over");
        const char *initial = "content-type: application/grpc\nx-a: first\nx-bin: AAEC/w\n";
        const char *trailing = "grpc-status: 0\nx-z: last\n";
        struct slice head = text_slice(&s.fake.head);
        check(slice_starts(head, initial), "%.*s", SLICE_ARG(head));
        check(way == 1 ? slice_is(text_slice(&s.fake.trailers), trailing)
                       : slice_ends(head, trailing),
              "%.*s", SLICE_ARG(head));
        finish(&s);
    }
}

TEST(metadata_is_bounded)
{
    char large[4096];
    struct seen s;

    memset(large, 'x', sizeof large);
    prepare(&s, slice_make(NULL, 0));
    check_or_stop(accept_call(&s), "accepted");
    for (unsigned i = 0; i < 20; i++)
        check(call_metadata_initial(s.call, "k", slice_of("v")) == (i < CALL_METADATA_MAX), "%u",
              i);
    check(!call_metadata_trailing(s.call, "k", slice_make(large, 4096)),
          "with the key one too many");
    check(call_metadata_trailing(s.call, "k", slice_make(large, 4095)), "just so");
    check(!call_metadata_trailing(s.call, "k", slice_of("")), "full");
    end_ok(s.call);
    finish(&s);
}

TEST(statuses_with_details)
{
    static const struct {
        struct call_details details;
        uint32_t retry_ms;
        const char *field, *description;
    } cases[] = {
        { { NULL, NULL }, 0, NULL, NULL },
        { { "inputs[0].shape", NULL }, 0, "inputs[0].shape", "wrong \xe2\x98\xba" },
        { { "a", "b" }, 0, "a", "b" },
        { { NULL, NULL }, 1500, NULL, NULL },
        { { "a", "b" }, 2000, "a", "b" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct seen s;
        struct err err = { 0 };
        struct grpc_details d;
        struct text bytes;
        prepare(&s, slice_make(NULL, 0));
        check_or_stop(accept_call(&s), "accepted");
        err_set(&err, E_INVALID, "wrong \xe2\x98\xba");
        err.retry_after_ms = cases[i].retry_ms;
        call_end(s.call, &err, i == 3 ? NULL : &cases[i].details);
        check(strcmp(status_of(&s), "3 wrong %E2%98%BA") == 0, "%s", status_of(&s));
        struct slice value = fake_field(&s.fake.head, "grpc-status-details-bin");
        check((value.data == NULL) == (i == 0), "case %zu", i);
        if (value.data != NULL) {
            text_init(&bytes, 4096);
            check(grpc_bin_decode(&bytes, value), "base64");
            check(grpc_details_decode(&d, text_slice(&bytes), &err) == OK, "%s", err.text);
            check(d.code == E_INVALID && slice_is(d.message, "wrong \xe2\x98\xba"), "status");
            check((d.field.data == NULL) == (cases[i].field == NULL) &&
                      (d.field.data == NULL || (slice_is(d.field, cases[i].field) &&
                                                slice_is(d.description, cases[i].description))),
                  "case %zu", i);
            check(d.has_retry == (cases[i].retry_ms != 0) && d.retry_after_ms == cases[i].retry_ms,
                  "case %zu", i);
            text_deinit(&bytes);
        }
        finish(&s);
    }
}

/* -- sending ---------------------------------------------------------------------------------------- */

TEST(pieces_large_and_small)
{
    struct buf *buf = NULL;
    struct seen s;

    require(buf_new(&buf, NULL, 5000, NULL) == OK);
    memcpy(buf_fill(buf), pattern(), 5000);
    struct call_piece pieces[] = {
        { slice_make(pattern(), 10), NULL },
        { slice_make(pattern(), 20), NULL },
        { buf_bytes(buf), buf },
        { slice_make(pattern(), 5), NULL },
        { slice_make(pattern(), 1023), NULL },
        { slice_make(pattern(), 1024), NULL },
        { slice_make(NULL, 0), NULL },
    };
    for (uint32_t count = 0; count <= COUNT(pieces); count++)
        for (uint32_t from = 0; from <= count; from++) {
            struct text expected;
            uint8_t prefix[GRPC_PREFIX_BYTES];
            size_t total = 0;
            prepare(&s, slice_make(NULL, 0));
            check_or_stop(accept_call(&s), "accepted");
            call_send(s.call, pieces + from, count - from);
            end_ok(s.call);
            check(s.fake.pieces_count <= 5, "%u", s.fake.pieces_count);
            fake_flush(&s.fake);
            text_init(&expected, 1 << 20);
            for (uint32_t i = from; i < count; i++)
                total += pieces[i].bytes.size;
            grpc_prefix_put(prefix, false, (uint32_t)total);
            text_put(&expected, prefix, sizeof prefix);
            for (uint32_t i = from; i < count; i++)
                text_slice_put(&expected, pieces[i].bytes);
            check(slice_eq(text_slice(&s.fake.answer), text_slice(&expected)), "%u to %u", from,
                  count);
            text_deinit(&expected);
            finish(&s);
        }
    buf_unref(&buf);
}

/* Who cannot be sent a message is not told that all is well, and gets no message behind the gap. */
TEST(answers_that_do_not_fit)
{
    struct call_piece piece = { slice_make(pattern(), 900), NULL };
    struct seen s;

    prepare(&s, slice_make(NULL, 0));
    budget_init(&s.fake.budget, 900); /* beside the arena, which takes the first */
    check_or_stop(accept_call(&s), "accepted");
    for (unsigned i = 0; i < 20; i++) {
        if (i == 15)
            budget_init(&s.fake.budget, 1 << 20);
        call_send(s.call, &piece, 1);
    }
    end_ok(s.call);
    check(strcmp(status_of(&s), "8 no memory for the answer; retry later") == 0, "%s",
          status_of(&s));
    fake_flush(&s.fake);
    check(s.fake.answer.size == 905, "%zu", s.fake.answer.size);
    finish(&s);
}

/* Which messages are compressed, and what the head says. */
TEST(compression_of_what_is_sent)
{
    static const struct {
        enum grpc_compression mode;
        const char *encoding, *accept;
        bool came_compressed;
        size_t size;
        const char *expected; /* grpc-encoding; NULL: none */
        bool is_compressed;
    } cases[] = {
        { GRPC_COMPRESSION_MIRROR, NULL, "identity,deflate,gzip", false, 5000, NULL, false },
        { GRPC_COMPRESSION_MIRROR, "gzip", "identity, deflate, gzip", true, 5000, "gzip", true },
        { GRPC_COMPRESSION_MIRROR, "deflate", "deflate", true, 5000, "deflate", true },
        { GRPC_COMPRESSION_MIRROR, "gzip", "gzip", false, 5000, NULL, false },
        { GRPC_COMPRESSION_MIRROR, "gzip", "deflate", true, 5000, NULL, false },
        { GRPC_COMPRESSION_MIRROR, "gzip", NULL, true, 5000, NULL, false },
        { GRPC_COMPRESSION_MIRROR, "gzip", "gzip", true, 1023, "gzip", false },
        { GRPC_COMPRESSION_MIRROR, "gzip", "gzip", true, 1024, "gzip", true },
        { GRPC_COMPRESSION_NONE, "gzip", "gzip", true, 5000, NULL, false },
        { GRPC_COMPRESSION_ALWAYS, NULL, "identity,deflate,gzip", false, 5000, "gzip", true },
        { GRPC_COMPRESSION_ALWAYS, NULL, "deflate", false, 500, "deflate", true },
        { GRPC_COMPRESSION_ALWAYS, NULL, NULL, false, 5000, NULL, false },
        { GRPC_COMPRESSION_ALWAYS, NULL, "gzip", false, 3, "gzip", false }, /* it would grow */
    };
    uint8_t *zeros = calloc(1, 5000);

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct seen s;
        body_begin();
        if (cases[i].came_compressed)
            body_packed(grpc_encoding_of(slice_of(cases[i].encoding)), "question", 8);
        else
            body_raw(0, 8, "question", 8);
        prepare(&s, text_slice(&body));
        s.settings.compression = cases[i].mode;
        if (cases[i].encoding != NULL)
            fake_header(&s.fake, "grpc-encoding", cases[i].encoding);
        if (cases[i].accept != NULL)
            fake_header(&s.fake, "grpc-accept-encoding", cases[i].accept);
        check_or_stop(accept_call(&s), "accepted");
        call_read(s.call);
        fake_deliver_all(&s.fake, 4);
        check(slice_is(text_slice(&s.all), "8:question"), "case %zu: %s", i, status_of(&s));
        check(s.compressed == cases[i].came_compressed, "case %zu", i);
        struct call_piece pieces[2] = { { slice_make(zeros, cases[i].size / 2), NULL },
                                        { slice_make(zeros, cases[i].size - cases[i].size / 2),
                                          NULL } };
        call_send(s.call, pieces, 2);
        end_ok(s.call);
        fake_flush(&s.fake);
        struct slice told = fake_field(&s.fake.head, "grpc-encoding");
        check(cases[i].expected == NULL ? told.data == NULL : slice_is(told, cases[i].expected),
              "case %zu: %.*s", i, SLICE_ARG(told));
        check((fake_field(&s.fake.head, "grpc-accept-encoding").data != NULL) ==
                  (cases[i].encoding != NULL),
              "case %zu: ours are told to who compresses", i);
        struct slice answer = text_slice(&s.fake.answer);
        struct grpc_prefix prefix = grpc_prefix_get(answer.data);
        check(prefix.flag == cases[i].is_compressed && prefix.size == answer.size - 5, "case %zu",
              i);
        if (prefix.flag == 1) {
            struct buf *plain = NULL;
            size_t offset;
            check(grpc_message_inflate(&plain, &offset, NULL, NULL, grpc_encoding_of(told),
                                       slice_skip(answer, 5), 1 << 20, "x", NULL) == OK,
                  "case %zu", i);
            check(slice_eq(slice_skip(buf_bytes(plain), offset), slice_make(zeros, cases[i].size)),
                  "case %zu", i);
            buf_unref(&plain);
        }
        finish(&s);
    }
    free(zeros);
}

TEST(compressed_messages_come_whole)
{
    static const size_t sizes[] = { 0, 1, 5000, 200000 };
    struct text expected;
    struct seen s;

    for (int encoding = ENCODING_GZIP; encoding <= ENCODING_DEFLATE; encoding++)
        for (size_t piece = 1; piece < 300000; piece *= 17) {
            body_begin();
            text_init(&expected, 64 << 20);
            body_raw(1, 0, "", 0); /* no stream at all */
            expect_message(&expected, "", 0);
            for (size_t i = 0; i < COUNT(sizes); i++) {
                body_packed((enum encoding)encoding, pattern(), sizes[i]);
                body_raw(0, sizes[i], pattern(), sizes[i]);
                expect_message(&expected, pattern(), sizes[i]);
                expect_message(&expected, pattern(), sizes[i]);
            }
            prepare(&s, text_slice(&body));
            s.credit_each = 1;
            fake_header(&s.fake, "grpc-encoding", encoding_name((enum encoding)encoding));
            check_or_stop(accept_call(&s), "accepted");
            call_read(s.call);
            fake_deliver_all(&s.fake, piece);
            check(s.messages == 9 && s.compressed == 5 && s.half_closes == 1, "%u %u %s",
                  s.messages, s.compressed, status_of(&s));
            check(slice_eq(text_slice(&s.all), text_slice(&expected)), "piece %zu", piece);
            end_ok(s.call);
            finish(&s);
            text_deinit(&expected);
        }
}

/* -- leaving ---------------------------------------------------------------------------------------- */

TEST(callers_who_leave_at_any_byte)
{
    static const size_t sizes[] = { 10, 3000, 300 };

    body_begin();
    for (size_t i = 0; i < COUNT(sizes); i++)
        body_raw(0, sizes[i], pattern(), sizes[i]);
    for (size_t at = 0; at <= body.size; at += at < 40 ? 1 : 97)
        for (unsigned answered = 0; answered < 3; answered++) {
            struct seen s;
            prepare(&s, text_slice(&body));
            s.credit_each = 1;
            check_or_stop(accept_call(&s), "accepted");
            call_read(s.call);
            while (s.fake.delivered < at && fake_deliver(&s.fake, at - s.fake.delivered))
                ;
            if (answered > 0)
                send_text(s.call, "so far");
            if (answered > 1)
                end_ok(s.call);
            fake_leave(&s.fake);
            check(s.gone == (answered < 2), "at %zu", at);
            check(s.gone == 0 || s.why == E_CANCELLED, "why");
            check(s.fake.x.refs == 1, "let go");
            call_send(s.call, NULL, 0);
            end_ok(s.call);
            check(call_room(s.call) == 0, "no-ops");
            finish(&s);
        }
}

TEST(answers_before_the_request_ended)
{
    struct seen s;

    body_begin();
    body_raw(0, 50000, pattern(), 50000);
    for (size_t at = 0; at < body.size; at += 977) {
        prepare(&s, text_slice(&body));
        check_or_stop(accept_call(&s), "accepted");
        call_read(s.call);
        while (s.fake.delivered < at && fake_deliver(&s.fake, at - s.fake.delivered))
            ;
        struct err err = { 0 };
        err_set(&err, E_NOT_FOUND, "no");
        call_end(s.call, &err, NULL);
        check(!s.fake.x.has_offer && budget_used(&s.fake.budget) == 0, "at %zu", at);
        check(strcmp(status_of(&s), "5 no") == 0 && s.gone == 0, "%s", status_of(&s));
        finish(&s);
    }
}

/* -- on a loop: deadlines, and messages that wait in the block -------------------------------------- */

struct stage {
    struct seen s;
    struct loop *loop;
    struct loop_msg start;
    struct timer stop, late;
    unsigned step;
};

static struct stage *stage_of_timer(struct timer *timer)
{
    return CONTAINER_OF(timer, struct stage, stop);
}

static void on_stop(struct timer *timer)
{
    struct stage *stage = stage_of_timer(timer);

    /* On the loop, as it is the loop's. */
    if (stage->s.call != NULL && !stage->s.call->is_over)
        end_ok(stage->s.call);
    loop_stop(stage->loop);
}

static void run_on_loop(struct stage *stage, void (*start)(struct loop_msg *msg))
{
    struct err err = { 0 };

    check_or_stop(loop_new(&stage->loop, env_real(), 0, &err) == OK, "%s", err.text);
    stage->s.fake.x.loop = stage->loop;
    stage->start.run = start;
    loop_post(stage->loop, &stage->start);
    loop_run(stage->loop);
    stage->s.fake.x.loop = NULL;
    loop_free(&stage->loop);
}

static void stop_in(struct stage *stage, uint64_t ms)
{
    stage->stop.on_due = on_stop;
    require(timer_start(stage->loop, &stage->stop, loop_refresh_ns(stage->loop) + ms * NS_PER_MS,
                        NULL) == OK);
}

static void start_deadline(struct loop_msg *msg)
{
    struct stage *stage = CONTAINER_OF(msg, struct stage, start);
    struct seen *s = &stage->s;

    s->fake.x.begun_ns = loop_refresh_ns(stage->loop);
    check_or_stop(accept_call(s), "accepted");
    check(s->call->deadline_ns == s->fake.x.begun_ns + 5 * NS_PER_MS, "the deadline");
    call_read(s->call);
    fake_deliver(&s->fake, 100);
    if (stage->step == 1)
        send_text(s->call, "so far");
    if (stage->step == 2)
        end_ok(s->call);
    if (stage->step == 3)
        fake_leave(&s->fake);
    stop_in(stage, 40);
}

TEST(deadlines_pass)
{
    static const char *const told[] = {
        "4 the deadline (grpc-timeout '5m') passed before the answer was complete",
        "4 the deadline (grpc-timeout '5m') passed before the answer was complete", "0", ""
    };

    body_begin();
    body_raw(0, 50000, pattern(), 50000);
    for (unsigned step = 0; step < 4; step++) {
        struct stage stage = { .step = step };
        prepare(&stage.s, text_slice(&body));
        fake_header(&stage.s.fake, "grpc-timeout", "5m");
        run_on_loop(&stage, start_deadline);
        check(strcmp(status_of(&stage.s), told[step]) == 0, "step %u: %s", step,
              status_of(&stage.s));
        check(stage.s.gone == (step != 2), "step %u", step);
        check(step >= 2 || stage.s.why == E_DEADLINE, "why");
        finish(&stage.s);
    }
}

static void start_past(struct loop_msg *msg)
{
    struct stage *stage = CONTAINER_OF(msg, struct stage, start);

    stage->s.fake.x.begun_ns = loop_refresh_ns(stage->loop) - 2 * NS_PER_MS;
    check(!accept_call(&stage->s), "a request that waited longer than its deadline");
    loop_stop(stage->loop);
}

TEST(deadlines_that_passed_before)
{
    struct stage stage = { .step = 0 };

    prepare(&stage.s, slice_make(NULL, 0));
    fake_header(&stage.s.fake, "grpc-timeout", "1m");
    run_on_loop(&stage, start_past);
    check(strcmp(status_of(&stage.s),
                 "4 the deadline (grpc-timeout '1m') was over before the call began") == 0,
          "%s", status_of(&stage.s));
    finish(&stage.s);
}

static void on_late(struct timer *timer)
{
    struct stage *stage = CONTAINER_OF(timer, struct stage, late);
    uint32_t before = stage->s.messages;

    call_read(stage->s.call);
    call_read(stage->s.call);
    check(stage->s.messages == before, "callbacks do not come from within a call");
    fake_deliver_all(&stage->s.fake, 50); /* the end, before what was put off */
    check(stage->s.messages == 3 && stage->s.half_closes == 1, "all of it");
}

static void start_waiting(struct loop_msg *msg)
{
    struct stage *stage = CONTAINER_OF(msg, struct stage, start);
    struct seen *s = &stage->s;

    check_or_stop(accept_call(s), "accepted");
    call_read(s->call);
    check(fake_deliver(&s->fake, SIZE_MAX), "all but the end");
    check(s->messages == 1 && s->half_closes == 0, "the others wait");
    stage->late.on_due = on_late;
    require(timer_start(stage->loop, &stage->late, loop_refresh_ns(stage->loop) + NS_PER_MS,
                        NULL) == OK);
    stop_in(stage, 10);
}

TEST(messages_that_came_before_their_credit)
{
    struct stage stage = { .step = 0 };

    body_begin();
    for (unsigned i = 0; i < 3; i++)
        body_raw(0, 3, "abc", 3);
    prepare(&stage.s, text_slice(&body));
    stage.s.fake.is_open_ended = true;
    run_on_loop(&stage, start_waiting);
    check(stage.s.messages == 3 && stage.s.half_closes == 1, "%u %u", stage.s.messages,
          stage.s.half_closes);
    check(slice_is(text_slice(&stage.s.all), "3:abc3:abc3:abc"), "in order");
    finish(&stage.s);
}

/* Where the first message leaves any number of bytes of the memory it came into. */
TEST(messages_behind_one_that_leaves_little_room)
{
    for (size_t size = 1860; size < 2080; size++) {
        for (size_t piece = 2046; piece < 2050; piece++) {
            struct seen s;
            body_begin();
            body_raw(0, size, pattern(), size);
            body_raw(0, 300, pattern(), 300);
            prepare(&s, text_slice(&body));
            check_or_stop(accept_call(&s), "accepted");
            call_read(s.call);
            fake_deliver(&s.fake, piece);
            call_read(s.call);
            fake_deliver_all(&s.fake, SIZE_MAX);
            check(s.messages == 2 && s.half_closes == 1, "%zu, %zu: %u messages", size, piece,
                  s.messages);
            if (!s.call->is_over)
                end_ok(s.call);
            finish(&s);
        }
    }
}

/* -- against a plain model -------------------------------------------------------------------------- */

/* A stream of random messages, delivered, read, answered and flushed in random order. The model: the
 * messages in order, never more of them than were asked for, never fewer than came whole. */
static void random_stream(unsigned steps)
{
    static const uint32_t bounds[] = { 4, 300, 2500, 40000 };
    struct text expected_in, expected_out;
    size_t ends[64], count = 1 + test_random_below(COUNT(ends)), sent = 0;
    uint64_t asked = 0;
    struct seen s;

    body_begin();
    text_init(&expected_in, 64 << 20);
    text_init(&expected_out, 64 << 20);
    for (size_t i = 0; i < count; i++) {
        size_t size = test_random_below(bounds[test_random_below(COUNT(bounds))]);
        const uint8_t *bytes = pattern() + test_random_below(1000);
        if (test_random_below(5) == 0) {
            body_packed(ENCODING_GZIP, bytes, size);
        } else {
            body_raw(0, size, bytes, size);
        }
        expect_message(&expected_in, bytes, size);
        ends[i] = body.size;
    }
    prepare(&s, text_slice(&body));
    s.fake.is_open_ended = test_random_below(2) == 1;
    s.settings.compression = (enum grpc_compression)test_random_below(3);
    fake_header(&s.fake, "grpc-encoding", "gzip");
    check_or_stop(accept_call(&s), "accepted");
    for (unsigned step = 0; step < steps && s.half_closes == 0; step++) {
        switch (test_random_below(6)) {
        case 0:
        case 1: {
            size_t most = test_random_below(2) == 0 ? 40 : 50000;
            fake_deliver(&s.fake, test_random_below(most));
            break;
        }
        case 2:
        case 3:
            if (asked < s.messages + 2) {
                call_read(s.call);
                asked++;
            }
            break;
        case 4: {
            struct call_piece pieces[3];
            size_t total = 0;
            uint8_t prefix[GRPC_PREFIX_BYTES];
            for (unsigned i = 0; i < 3; i++) {
                size_t size = test_random_below(2000);
                pieces[i] = (struct call_piece){ slice_make(pattern() + size, size), NULL };
                total += size;
            }
            call_send(s.call, pieces, 3);
            grpc_prefix_put(prefix, false, (uint32_t)total);
            text_put(&expected_out, prefix, sizeof prefix);
            for (unsigned i = 0; i < 3; i++)
                text_slice_put(&expected_out, pieces[i].bytes);
            sent++;
            break;
        }
        default: fake_flush(&s.fake);
        }
        size_t whole = 0;
        while (whole < count && ends[whole] <= s.fake.delivered)
            whole++;
        check_or_stop(s.messages == MIN(whole, asked), "%u messages of %zu, %llu asked for",
                      s.messages, whole, (unsigned long long)asked);
        check_or_stop(s.half_closes == (s.fake.x.body_is_over && s.messages == count), "the end");
        check_or_stop(s.gone == 0, "%s", status_of(&s));
    }
    while (s.half_closes == 0) { /* what is left */
        check_or_stop(fake_deliver(&s.fake, SIZE_MAX) || asked <= s.messages, "it stands still");
        call_read(s.call);
        asked++;
    }
    check(slice_eq(text_slice(&s.all), text_slice(&expected_in)), "what came");
    end_ok(s.call);
    fake_flush(&s.fake);
    check(slice_eq(text_slice(&s.fake.answer), text_slice(&expected_out)), "what was sent (%zu)",
          sent);
    check(strcmp(status_of(&s), "0") == 0, "%s", status_of(&s));
    finish(&s);
    text_deinit(&expected_in);
    text_deinit(&expected_out);
}

TEST(streams_against_a_model)
{
    for (unsigned round = 0; round < 100 && !test_has_failed(); round++)
        random_stream(1000);
}

/* -- faults and figures ----------------------------------------------------------------------------- */

static void whole_call(struct seen *s, uint32_t nth)
{
    struct call_piece piece = { slice_make(pattern(), 5000), NULL };

    fault_arm(0);
    prepare(s, text_slice(&body));
    s->credit_each = 1;
    s->settings.compression = GRPC_COMPRESSION_MIRROR;
    fake_header(&s->fake, "grpc-encoding", "gzip");
    fake_header(&s->fake, "grpc-accept-encoding", "gzip");
    arena_free(&s->fake.x.arena);
    s->fake.x.arena = arena_new(1024, 1 << 20); /* so that the heap is asked more */
    fault_arm(nth);
    if (!accept_call(s))
        return;
    (void)call_metadata_initial(s->call, "k-bin", slice_of("v"));
    call_read(s->call);
    fake_deliver_all(&s->fake, 1000);
    for (unsigned i = 0; i < 4; i++)
        call_send(s->call, &piece, 1);
    struct err err = { 0 };
    err_set(&err, E_INVALID, "wrong %%");
    struct call_details details = { "a", "b" };
    if (s->half_closes == 1)
        call_end(s->call, nth % 2 == 0 ? &err : &(struct err){ 0 }, &details);
}

TEST(calls_survive_every_fault)
{
    struct seen s;

    body_begin();
    body_packed(ENCODING_GZIP, pattern(), 3000);
    body_raw(0, 5000, pattern(), 5000);
    body_raw(0, 800, pattern(), 800);
    body_packed(ENCODING_GZIP, pattern(), 30000);
    body_raw(0, 1500, pattern(), 1500);
    for_each_fault(nth) {
        whole_call(&s, nth);
        bool fired = fault_fired();
        fault_arm(0);
        check(s.fake.x.is_ended, "fault %u: it is answered", nth);
        check(!fired || atoi(status_of(&s)) == E_EXHAUSTED || s.messages == 5,
              "fault %u: %s, %u messages", nth, status_of(&s), s.messages);
        check(fired || s.messages == 5, "%s", status_of(&s));
        finish(&s);
        if (!fired) {
            check(nth > 15, "the sweep met %u faults", nth);
            break;
        }
    }
}

TEST(what_is_counted)
{
    struct grpc_stats *stats = NULL;
    struct metrics *metrics = metrics_new();
    struct err err = { 0 };
    struct text out;
    struct seen s;

    check_or_stop(grpc_stats_new(&stats, 3, &err) == OK &&
                      grpc_stats_register(stats, metrics, &err) == OK,
                  "%s", err.text);
    for (unsigned i = 0; i < 4; i++) {
        body_begin();
        if (i == 1)
            body_packed(ENCODING_GZIP, pattern(), 2000);
        body_raw(0, i == 2 ? 9000 : 2, pattern(), i == 2 ? 9000 : 2);
        prepare(&s, text_slice(&body));
        s.settings.stats = stats;
        s.settings.message_bytes_max = 8000;
        s.credit_each = 1;
        fake_header(&s.fake, "grpc-encoding", "gzip");
        fake_header(&s.fake, "grpc-accept-encoding", "gzip");
        if (i == 3)
            s.fake.x.protocol = "HTTP/1.1";
        if (accept_call(&s)) {
            call_read(s.call);
            fake_deliver_all(&s.fake, SIZE_MAX);
            struct call_piece piece = { slice_make(pattern(), 4000), NULL };
            call_send(s.call, &piece, 1);
            end_ok(s.call);
        }
        finish(&s);
    }
    text_init(&out, 1 << 20);
    metrics_render(metrics, &out);
    static const char *const lines[] = {
        "penstock_grpc_calls_total{code=\"OK\"} 2\n",
        "penstock_grpc_calls_total{code=\"RESOURCE_EXHAUSTED\"} 1\n",
        "penstock_grpc_calls_total{code=\"CANCELLED\"} 0\n",
        "penstock_grpc_messages_total{direction=\"in\"} 3\n",
        "penstock_grpc_messages_total{direction=\"out\"} 2\n",
        "penstock_grpc_compressed_messages_total{direction=\"in\"} 1\n",
        "penstock_grpc_compressed_messages_total{direction=\"out\"} 1\n",
        "penstock_grpc_refused_total 1\n",
    };
    for (size_t i = 0; i < COUNT(lines); i++)
        check(strstr(text_cstr(&out), lines[i]) != NULL, "%s is not in\n%s", lines[i],
              text_cstr(&out));
    check(grpc_stats_limit_hits(stats) == 1 && grpc_stats_limit_hits(NULL) == 0, "the limit");
    text_deinit(&out);
    metrics_free(&metrics);
    grpc_stats_free(&stats);
}
