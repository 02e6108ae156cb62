/* grpc_web_fuzz.c - any bytes as the body of a gRPC-Web call, in either form, delivered in any pieces;
 * and base64 against a plain reading of it. SPDX-License-Identifier: Apache-2.0
 *
 * Input: settings, how many script bytes, the script (sizes of deliveries, what is sent), the body.
 */
#include "call/fake.h"
#include "call/grpc.h"
#include "call/grpc_web.h"
#include "call/grpc_wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGE_MAX = 20000, TEXT_MAX = 1 << 20 };

/* -- a plain reading ------------------------------------------------------------------------------ */

static int digit(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Groups of four, of which any may be padded, and the last cut short. False: it is no such text. */
static bool read_plainly(struct slice text, uint8_t *to, size_t *ret_size)
{
    size_t at = 0;

    *ret_size = 0;
    while (at < text.size) {
        size_t count = MIN(text.size - at, (size_t)4), digits = 0;
        uint32_t bits = 0;
        for (; digits < count && digit(text.data[at + digits]) >= 0; digits++)
            bits |= (uint32_t)digit(text.data[at + digits]) << (18 - 6 * digits);
        for (size_t i = digits; i < count; i++)
            if (text.data[at + i] != '=')
                return false;
        if (digits < 2 || (digits < count && count < 4))
            return false;
        for (size_t i = 0; i + 1 < digits; i++)
            to[(*ret_size)++] = (uint8_t)(bits >> (16 - 8 * i));
        at += count;
    }
    return true;
}

static void judge_base64(const uint8_t *script, size_t script_size, struct slice text)
{
    uint8_t *plain = malloc(text.size + 1), *work = malloc(text.size + 1);
    struct grpc_web_decoder d = { 0 };
    size_t plain_size = 0, got = 0, at = 0;
    bool is_good = true;

    require(plain != NULL && work != NULL);
    for (size_t i = 0; at < text.size && is_good; i++) {
        size_t piece = script_size == 0 ? text.size : (size_t)script[i % script_size] + 1;
        piece = MIN(piece, text.size - at);
        uint8_t *exact = malloc(piece); /* a sanitizer sees what leaves it */
        require(exact != NULL);
        memcpy(exact, text.data + at, piece);
        size_t decoded = grpc_web_decode(&d, exact, piece);
        is_good = decoded != SIZE_MAX;
        require(!is_good || decoded <= piece);
        if (is_good)
            memcpy(work + got, exact, decoded);
        got += is_good ? decoded : 0;
        at += piece;
        free(exact);
    }
    is_good = is_good && grpc_web_decode_is_whole(&d);
    require(read_plainly(text, plain, &plain_size) == is_good);
    require(!is_good || (got == plain_size && memcmp(plain, work, got) == 0));
    free(plain);
    free(work);
}

/* -- a call --------------------------------------------------------------------------------------- */

struct play {
    struct fake fake;
    struct call *call;
    uint32_t messages, asked, half_closes, gone;
};

static void on_message(struct call *call, const struct call_message *message)
{
    struct play *p = call->user_data;

    require(p->gone == 0 && p->half_closes == 0 && ++p->messages == 1); /* there is one only */
    require(message->bytes.size <= MESSAGE_MAX && p->asked > 0);
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < message->bytes.size; i++)
        sum = (uint8_t)(sum + message->bytes.data[i]);
    p->asked++;
    call_read(call);
}

static void on_half_close(struct call *call)
{
    struct play *p = call->user_data;

    require(p->half_closes++ == 0);
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

/* Frames, of which the last and only the last is trailers. */
static void judge_answer(struct fake *fake, bool is_text)
{
    struct slice answer = text_slice(&fake->answer);
    bool has_trailers = false;

    if (is_text) {
        struct grpc_web_decoder d = { 0 };
        answer.size = grpc_web_decode(&d, fake->answer.data, answer.size);
        require(answer.size != SIZE_MAX && d.digits == 0 && d.pads == 0);
    }
    while (answer.size > 0) {
        require(answer.size >= GRPC_PREFIX_BYTES && !has_trailers);
        struct grpc_prefix prefix = grpc_prefix_get(answer.data);
        has_trailers = prefix.flag == GRPC_WEB_TRAILERS;
        require(prefix.flag <= 1 || has_trailers);
        require(prefix.size <= answer.size - GRPC_PREFIX_BYTES);
        answer = slice_skip(answer, GRPC_PREFIX_BYTES + prefix.size);
    }
    require(has_trailers || fake_field(&fake->head, "grpc-status").data != NULL ||
            fake->x.is_gone);
}

static void step(struct play *p, uint8_t what)
{
    static const uint8_t zeros[6000];
    struct call_piece pieces[] = { { { zeros, (size_t)(what >> 3) * 3 }, NULL },
                                   { { zeros, (size_t)(what >> 3) * 190 }, NULL } };

    switch (what & 7) {
    case 0:
    case 1: fake_deliver(&p->fake, what >> 3); break;
    case 2: fake_deliver(&p->fake, (size_t)(what >> 3) * 997); break;
    case 3: call_send(p->call, pieces, 2); break;
    case 4:
        call_send_as(p->call, pieces, 1,
                     (struct call_form){ .compress = what >> 3 & 1 ? CALL_COMPRESS_ALWAYS
                                                                   : CALL_COMPRESS_NEVER });
        break;
    case 5: fake_flush(&p->fake); break;
    default:
        if (what >> 3 == 31)
            fake_leave(&p->fake);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const types[] = { "application/grpc-web", "application/grpc-web-text" };
    static const char *const encodings[] = { "identity", "gzip", "deflate", "snappy" };
    static struct play p;
    struct err ok = { 0 };

    if (size < 2 || size - 2 < data[1] || size > TEXT_MAX)
        return 0;
    struct slice script = { data + 2, data[1] }, body = { data + 2 + data[1], size - 2 - data[1] };
    judge_base64(script.data, script.size, body);
    memset(&p, 0, sizeof p);
    struct grpc_settings settings = { MESSAGE_MAX, "--max-message",
                                      (enum grpc_compression)(data[0] % 3), NULL };
    fake_init(&p.fake, NULL, body);
    p.fake.x.protocol = "HTTP/1.1";
    p.fake.request[1].value = slice_of(types[data[0] >> 2 & 1]);
    p.fake.is_open_ended = (data[0] & 64) != 0;
    fake_header(&p.fake, "accept", data[0] & 128 ? types[data[0] >> 3 & 1] : "*/*");
    fake_header(&p.fake, "grpc-encoding", encodings[data[0] >> 4 & 3]);
    fake_header(&p.fake, "grpc-accept-encoding", GRPC_ENCODINGS);
    p.call = grpc_accept(&p.fake.x, &settings);
    require(p.call != NULL);
    p.call->user = &user;
    p.call->user_data = &p;
    p.asked = 1;
    call_read(p.call);
    for (size_t i = 0; i < script.size; i++)
        step(&p, script.data[i]);
    while (!p.call->is_over && p.half_closes == 0)
        require(fake_deliver(&p.fake, SIZE_MAX));
    call_end(p.call, &ok, NULL);
    require(p.fake.x.refs == 1 && (p.fake.x.is_ended || p.fake.x.is_gone));
    fake_flush(&p.fake);
    bool is_text = data[0] & 128 ? (data[0] >> 3 & 1) != 0 : (data[0] >> 2 & 1) != 0;
    judge_answer(&p.fake, is_text);
    fake_deinit(&p.fake);
    return 0;
}
