/* grpc_bench.c - what the call layer costs: a unary call from the head of a request to its trailers,
 * on a transport that does nothing. SPDX-License-Identifier: Apache-2.0
 *
 *     ninja -C BUILD src/call/grpc_bench && BUILD/src/call/grpc_bench [rounds]
 *
 * One thread; the best of ten times `rounds` calls. The headers are those that grpc-python sends. The
 * transport copies the body into the offer, as a socket's buffer is copied; the arena is reset after
 * each call.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/budget.h"
#include "base/clock.h"
#include "base/mem.h"
#include "call/grpc.h"
#include "call/grpc_wire.h"

enum { TIMES = 10, LARGE = 602112 };

static void nothing(struct exchange *x)
{
    (void)x;
}

static void respond(struct exchange *x, uint16_t status, const struct header *headers,
                    uint32_t headers_count, int64_t body_size)
{
    (void)x, (void)status, (void)headers, (void)headers_count, (void)body_size;
}

static void send_none(struct exchange *x, struct slice bytes, struct buf *holder)
{
    (void)x, (void)bytes, (void)holder;
}

static void end(struct exchange *x, const struct header *trailers, uint32_t trailers_count)
{
    (void)x, (void)trailers, (void)trailers_count;
}

static const struct exchange_ops ops = {
    .read = nothing, .respond = respond, .send = send_none, .end = end, .release = nothing
};

static void on_message(struct call *call, const struct call_message *message)
{
    struct call_piece piece = { message->bytes, message->holder };

    call_send(call, &piece, 1);
}

static void on_half_close(struct call *call)
{
    struct err ok;

    ok.code = OK;
    ok.retry_after_ms = 0;
    ok.text[0] = '\0';
    call_end(call, &ok, NULL);
}

static void on_gone(struct call *call, enum err_code why)
{
    (void)call, (void)why;
    abort();
}

static const struct call_user user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_gone = on_gone,
};

static const struct header headers[] = {
    { SLICE_LIT("te"), SLICE_LIT("trailers") },
    { SLICE_LIT("content-type"), SLICE_LIT("application/grpc") },
    { SLICE_LIT("user-agent"), SLICE_LIT("grpc-python/1.80.0 grpc-c/54.0.0 (linux; chttp2)") },
    { SLICE_LIT("grpc-accept-encoding"), SLICE_LIT("identity, deflate, gzip") },
};

static void one(struct arena *arena, struct budget *budget, const struct grpc_settings *settings,
                struct slice body)
{
    struct exchange x;

    exchange_init(&x, &ops, arena, NULL);
    x.method = METHOD_POST;
    x.protocol = "HTTP/2";
    x.path = slice_of("/inference.GRPCInferenceService/ModelInfer");
    x.headers = headers;
    x.headers_count = COUNT(headers);
    x.budget = budget;
    struct call *call = grpc_accept(&x, settings);
    call->user = &user;
    call_read(call);
    while (x.has_offer) {
        size_t size = MIN(body.size, x.offer_size);
        memcpy(x.offer, body.data, size);
        body = slice_skip(body, size);
        x.has_offer = false;
        x.body_is_over = body.size == 0;
        x.user->on_body(&x, size, x.body_is_over);
    }
    if (!x.is_ended)
        abort();
    arena_reset(arena);
}

static void measure(const char *what, size_t size, unsigned rounds)
{
    struct grpc_settings settings = { 64 << 20, "--max-message", GRPC_COMPRESSION_MIRROR, NULL };
    struct arena *arena = arena_new(16384, 64 << 20);
    uint8_t *body = calloc(1, size + GRPC_PREFIX_BYTES);
    struct budget budget;
    uint64_t best = UINT64_MAX, allocated = 0;

    budget_init(&budget, 1 << 30);
    grpc_prefix_put(body, false, (uint32_t)size);
    for (unsigned time = 0; time < TIMES; time++) {
        uint64_t before = mem_count(), start = clock_mono_ns();
        for (unsigned i = 0; i < rounds; i++)
            one(arena, &budget, &settings, slice_make(body, size + GRPC_PREFIX_BYTES));
        best = MIN(best, clock_mono_ns() - start);
        allocated = mem_count() - before;
    }
    printf("%-28s %9.1f ns a call, %.2f allocations\n", what, (double)best / rounds,
           (double)allocated / rounds);
    free(body);
    arena_free(&arena);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 200000;

    measure("unary, 200 bytes", 200, rounds);
    measure("unary, 1,900 bytes", 1900, rounds);
    measure("unary, 20,000 bytes", 20000, rounds / 10 + 1);
    measure("unary, 602,112 bytes", LARGE, rounds / 100 + 1);
    return 0;
}
