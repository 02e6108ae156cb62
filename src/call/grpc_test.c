/* grpc_test.c - calls on a transport of memory: framing at every split, refusals, deadlines,
 * compression, and streams against a plain model. SPDX-License-Identifier: Apache-2.0 */
#include "call/grpc.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "call/fake.h"
#include "call/grpc_wire.h"
#include "io/loop.h"
#include "telemetry/metrics.h"
#include "test/harness.h"

/* -- a user that keeps and judges what it is told ----------------------------------------------- */

enum { MESSAGES_MAX = 4096, LARGE = 3 << 20 };

struct seen {
    struct fake fake;
    struct grpc_settings settings;
    struct call *call;
    uint32_t credit_each; /* asked for in each on_message */
    bool ends_at_half_close;
    /* -- what it was told -- */
    struct text all; /* every message: "<size>:" and its bytes */
    uint32_t messages, compressed, half_closes, gone, rooms;
    enum err_code why;
    struct slice first, last; /* still there? */
    struct buf *last_holder;
    uint8_t *first_copy;
};

static void on_message(struct call *call, const struct call_message *message)
{
    struct seen *s = call->user_data;

    check(s->half_closes == 0 && s->gone == 0, "a message behind the end");
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

static const struct call_user user = { on_message, on_half_close, on_room, on_gone };

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
