/* fake.c - SPDX-License-Identifier: Apache-2.0 */
#include "call/fake.h"

#include "base/buf.h"

enum { ARENA_FIRST = 16 * 1024, ARENA_CAP = 1 << 20, BUDGET = 64 << 20, TEXT_MAX = 64 << 20 };

static struct fake *fake_of(struct exchange *x)
{
    return CONTAINER_OF(x, struct fake, x);
}

static void op_read(struct exchange *x)
{
    require(x->offer_size > 0 && !fake_of(x)->is_released);
}

static void put(struct text *to, const struct header *fields, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        text_slice_put(to, fields[i].name);
        text_str(to, ": ");
        text_slice_put(to, fields[i].value);
        text_byte(to, '\n');
    }
}

static void op_respond(struct exchange *x, uint16_t status UNUSED, const struct header *headers,
                       uint32_t headers_count, int64_t body_size)
{
    put(&fake_of(x)->head, headers, headers_count);
    fake_of(x)->announced = body_size;
}

static void op_send(struct exchange *x, struct slice bytes, struct buf *holder)
{
    struct fake *fake = fake_of(x);

    if (fake->pieces_count == FAKE_PIECES_MAX)
        fake_flush(fake);
    fake->pieces[fake->pieces_count].bytes = bytes;
    fake->pieces[fake->pieces_count++].holder = buf_ref(holder);
}

static void op_end(struct exchange *x, const struct header *trailers, uint32_t trailers_count)
{
    put(&fake_of(x)->trailers, trailers, trailers_count);
}

static void op_abort(struct exchange *x)
{
    fake_of(x)->is_aborted = true;
}

static size_t op_room(struct exchange *x UNUSED)
{
    return 65536;
}

static void op_release(struct exchange *x)
{
    require(!fake_of(x)->is_released);
    fake_of(x)->is_released = true;
}

static const struct exchange_ops ops = {
    .read = op_read,
    .respond = op_respond,
    .send = op_send,
    .end = op_end,
    .abort = op_abort,
    .room = op_room,
    .release = op_release,
};

void fake_init(struct fake *fake, struct loop *loop, struct slice body)
{
    memset(fake, 0, sizeof *fake);
    exchange_init(&fake->x, &ops, arena_new(ARENA_FIRST, ARENA_CAP), loop);
    budget_init(&fake->budget, BUDGET);
    fake->x.budget = &fake->budget;
    fake->x.method = METHOD_POST;
    fake->x.path = slice_of("/test.Echo/Say");
    fake->x.scheme = "http";
    fake->x.protocol = "HTTP/2";
    fake->x.headers = fake->request;
    fake->x.body_size = -1;
    fake->body = body;
    text_init(&fake->head, TEXT_MAX);
    text_init(&fake->answer, TEXT_MAX);
    text_init(&fake->trailers, TEXT_MAX);
    fake_header(fake, "te", "trailers");
    fake_header(fake, "content-type", "application/grpc");
}

void fake_header(struct fake *fake, const char *name, const char *value)
{
    require(fake->x.headers_count < FAKE_HEADERS_MAX);
    fake->request[fake->x.headers_count++] = (struct header){ slice_of(name), slice_of(value) };
}

bool fake_deliver(struct fake *fake, size_t size)
{
    struct exchange *x = &fake->x;
    size_t left = fake->body.size - fake->delivered;

    if (!x->has_offer || x->is_gone || x->is_ended || x->body_is_over)
        return false;
    size = MIN(MIN(size, left), x->offer_size);
    if (size != 0)
        memcpy(x->offer, fake->body.data + fake->delivered, size);
    /* Memory that is not written to is the offerer's again. */
    fake->delivered += size;
    x->has_offer = false;
    x->body_is_over = size == left && (!fake->is_open_ended || left == 0);
    exchange_ref(x);
    x->user->on_body(x, size, x->body_is_over);
    exchange_unref(&x);
    return true;
}

void fake_deliver_all(struct fake *fake, size_t piece)
{
    while (fake_deliver(fake, piece))
        ;
}

void fake_leave(struct fake *fake)
{
    struct exchange *x = &fake->x;

    if (x->is_gone)
        return;
    x->is_gone = true;
    x->has_offer = false;
    if (x->user != NULL && x->user->on_gone != NULL)
        x->user->on_gone(x);
}

void fake_flush(struct fake *fake)
{
    for (uint32_t i = 0; i < fake->pieces_count; i++) {
        text_slice_put(&fake->answer, fake->pieces[i].bytes);
        buf_unref(&fake->pieces[i].holder);
    }
    fake->pieces_count = 0;
}

struct slice fake_field(const struct text *fields, const char *name)
{
    struct slice rest = text_slice(fields), wanted = slice_of(name);

    while (rest.size != 0) {
        struct slice line = slice_first(rest, slice_find(rest, '\n'));
        rest = slice_skip(rest, line.size + 1);
        size_t colon = slice_find(line, ':');
        if (slice_eq(slice_first(line, colon), wanted))
            return slice_skip(line, colon + 2);
    }
    return slice_make(NULL, 0);
}

void fake_deinit(struct fake *fake)
{
    struct exchange *x = &fake->x;

    fake_flush(fake);
    exchange_unref(&x);
    require(fake->is_released);
    arena_free(&fake->x.arena);
    text_deinit(&fake->head);
    text_deinit(&fake->answer);
    text_deinit(&fake->trailers);
    require(budget_used(&fake->budget) == 0);
}
