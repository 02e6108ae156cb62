/* grpc_fuzz.c - any bytes as the body of a call, delivered in any pieces, to a user who reads,
 * answers and ends at any time. SPDX-License-Identifier: Apache-2.0
 *
 * Input: settings, how many script bytes, the script (what happens next), the body. The messages that
 * arrive are compared with those that a plain reading of the body finds.
 */
#include "base/buf.h"
#include "call/fake.h"
#include "call/grpc.h"
#include "call/grpc_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGE_MAX = 20000, TEXT_MAX = 8 << 20 };

struct play {
    struct fake fake;
    struct call *call;
    struct slice rest; /* of the body, not yet handed over */
    uint32_t messages, asked, half_closes, gone;
    enum encoding encoding;
    uint8_t end_at; /* the message behind which the call is ended; 0: none */
};

static void on_message(struct call *call, const struct call_message *message)
{
    struct play *p = call->user_data;
    struct err ok = { 0 };

    require(p->gone == 0 && p->half_closes == 0 && ++p->messages <= p->asked);
    require(p->rest.size >= GRPC_PREFIX_BYTES && message->bytes.size <= MESSAGE_MAX);
    struct grpc_prefix prefix = grpc_prefix_get(p->rest.data);
    require(prefix.size <= p->rest.size - GRPC_PREFIX_BYTES);
    require(prefix.flag == message->was_compressed);
    struct slice wire = slice_first(slice_skip(p->rest, GRPC_PREFIX_BYTES), prefix.size);
    if (!message->was_compressed) {
        require(slice_eq(wire, message->bytes));
    } else {
        struct buf *plain = NULL;
        size_t offset = 0;
        require(grpc_message_inflate(&plain, &offset, NULL, NULL, p->encoding, wire, MESSAGE_MAX,
                                     "x", NULL) == OK);
        struct slice twin = { (const uint8_t *)"", 0 };
        if (plain != NULL)
            twin = slice_skip(buf_bytes(plain), offset);
        require(slice_eq(twin, message->bytes));
        buf_unref(&plain);
    }
    p->rest = slice_skip(p->rest, GRPC_PREFIX_BYTES + prefix.size);
    if (p->messages == p->end_at)
        call_end(call, &ok, NULL);
}

static void on_half_close(struct call *call)
{
    struct play *p = call->user_data;

    require(p->half_closes++ == 0 && p->rest.size == 0);
}

static void on_gone(struct call *call, enum err_code why)
{
    struct play *p = call->user_data;

    require(p->gone++ == 0 && why != OK && call->is_over);
}

static const struct call_user user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_gone = on_gone,
};

static void step(struct play *p, uint8_t what)
{
    static const uint8_t zeros[3000];
    struct call_piece piece = { { zeros, (size_t)(what >> 3) * 90 }, NULL };

    switch (what & 7) {
    case 0:
    case 1: fake_deliver(&p->fake, what >> 3); break;
    case 2: fake_deliver(&p->fake, (size_t)(what >> 3) * 997); break;
    case 3:
    case 4:
        if (!p->call->is_over && p->asked < p->messages + 2) {
            p->asked++;
            call_read(p->call);
        }
        break;
    case 5: call_send(p->call, &piece, 1); break;
    case 6: fake_flush(&p->fake); break;
    default:
        if (what >> 3 == 31)
            fake_leave(&p->fake);
    }
}

/* Every byte of the answer belongs to a message. */
static void judge_answer(struct slice answer)
{
    while (answer.size > 0) {
        require(answer.size >= GRPC_PREFIX_BYTES);
        struct grpc_prefix prefix = grpc_prefix_get(answer.data);
        require(prefix.flag <= 1 && prefix.size <= answer.size - GRPC_PREFIX_BYTES);
        answer = slice_skip(answer, GRPC_PREFIX_BYTES + prefix.size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const encodings[] = { "identity", "gzip", "deflate", "snappy" };
    static struct play p;
    struct err ok = { 0 };

    if (size < 3 || size - 3 < data[2] || size > TEXT_MAX)
        return 0;
    struct slice script = { data + 3, data[2] }, body = { data + 3 + data[2], size - 3 - data[2] };
    memset(&p, 0, sizeof p);
    struct grpc_settings settings = { MESSAGE_MAX, "--max-message",
                                      (enum grpc_compression)(data[0] % 3), NULL };
    fake_init(&p.fake, NULL, body);
    p.rest = body;
    p.fake.is_open_ended = (data[0] & 64) != 0;
    p.end_at = data[1] & 31;
    p.encoding = grpc_encoding_of(slice_of(encodings[data[0] >> 3 & 3]));
    fake_header(&p.fake, "grpc-encoding", encodings[data[0] >> 3 & 3]);
    fake_header(&p.fake, "grpc-accept-encoding", GRPC_ENCODINGS);
    p.call = grpc_accept(&p.fake.x, &settings);
    require(p.call != NULL);
    p.call->user = &user;
    p.call->user_data = &p;
    for (size_t i = 0; i < script.size; i++)
        step(&p, script.data[i]);
    while (!p.call->is_over && p.half_closes == 0) { /* what is left, whatever the script wanted */
        if (p.asked == p.messages) {
            p.asked++;
            call_read(p.call);
        } else {
            require(fake_deliver(&p.fake, SIZE_MAX));
        }
    }
    call_end(p.call, &ok, NULL);
    require(p.fake.x.refs == 1 && (p.fake.x.is_ended || p.fake.x.is_gone));
    fake_flush(&p.fake);
    judge_answer(text_slice(&p.fake.answer));
    fake_deinit(&p.fake);
    return 0;
}
