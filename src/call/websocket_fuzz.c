/* websocket_fuzz.c - any bytes as what a client says behind its handshake, whole and in pieces: the
 * same messages and the same answers, and all memory given back. SPDX-License-Identifier: Apache-2.0
 *
 * The first byte: is deflate agreed on (1), are messages echoed (2), is each read only when the next
 * piece comes (4); the rest of it is the size of a piece. */
#include "call/websocket.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "call/fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    struct fake fake;
    uint64_t hash;
    uint32_t messages, ends;
    bool echoes, holds_back;
};

static void mix(struct seen *s, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;

    for (size_t i = 0; i < size; i++)
        s->hash = (s->hash ^ at[i]) * UINT64_C(0x100000001b3);
}

static void on_message(struct call *call, const struct call_message *message)
{
    struct seen *s = call->user_data;

    require(s->ends == 0);
    s->messages++;
    mix(s, message->bytes.data, message->bytes.size);
    mix(s, &message->is_text, sizeof message->is_text);
    if (s->echoes) {
        struct call_piece piece = { message->bytes, message->holder };
        call_send_as(call, &piece, 1, (struct call_form){ .is_text = message->is_text });
    }
    if (!s->holds_back)
        call_read(call);
}

static void on_gone(struct call *call, enum err_code why)
{
    struct seen *s = call->user_data;

    s->ends++;
    mix(s, &why, sizeof why);
}

static const struct call_user user = { .on_message = on_message, .on_gone = on_gone };

/* The same whatever the pieces were. */
static void run(struct seen *s, uint8_t how, struct slice bytes, size_t piece)
{
    static const struct websocket_settings settings = {
        .message_bytes_max = 20000,
        .option = "--max-message",
        .has_deflate = true,
        .ahead_bytes = 3000,
    };

    *s = (struct seen){ .hash = UINT64_C(0xcbf29ce484222325) };
    s->echoes = how & 2;
    s->holds_back = how & 4;
    fake_init(&s->fake, NULL, bytes);
    s->fake.x.headers_count = 0;
    s->fake.x.tunnel = slice_of("websocket");
    s->fake.x.protocol = "HTTP/2";
    fake_header(&s->fake, "sec-websocket-version", "13");
    if (how & 1)
        fake_header(&s->fake, "sec-websocket-extensions", "permessage-deflate");
    s->fake.is_open_ended = true;
    struct call *call = websocket_accept(&s->fake.x, &settings, NULL, NULL);
    require(call != NULL);
    call->user = &user;
    call->user_data = s;
    call_read(call);
    for (size_t i = 0; i <= bytes.size; i++) {
        while (s->fake.delivered < bytes.size && fake_deliver(&s->fake, piece))
            ;
        if (call->is_over || s->fake.delivered >= bytes.size)
            break;
        call_read(call);
    }
    for (size_t i = 0; i <= bytes.size && s->holds_back && !call->is_over; i++)
        call_read(call);
    fake_leave(&s->fake);
    require(s->ends == 1);
    fake_flush(&s->fake);
    mix(s, s->fake.answer.data, s->fake.answer.size);
    fake_deinit(&s->fake);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole, bytes, pieces, all;

    if (size == 0)
        return 0;
    struct slice rest = slice_make(data + 1, size - 1);
    run(&whole, data[0], rest, SIZE_MAX);
    run(&bytes, data[0], rest, 1);
    run(&pieces, data[0], rest, 2 + (size_t)(data[0] >> 3) * 37);
    if ((data[0] & 4) == 0) {
        require(whole.hash == bytes.hash && whole.messages == bytes.messages);
        require(whole.hash == pieces.hash && whole.messages == pieces.messages);
    } else { /* pings are answered at other times, and a Close behind what waits is seen before it */
        run(&all, data[0] & (uint8_t)~4, rest, SIZE_MAX);
        require(whole.messages <= all.messages && bytes.messages <= all.messages);
        require(pieces.messages <= all.messages);
    }
    return 0;
}
