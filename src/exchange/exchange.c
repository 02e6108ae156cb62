/* exchange.c - what every transport has in common: the checks before its table is called.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A call on an exchange that is gone or ended does nothing: whoever works on it learns of the end
 * by on_gone, perhaps a moment after it called. A call in the wrong order is our own mistake.
 */
#include "exchange/exchange.h"

#include "io/loop.h"

void exchange_init(struct exchange *x, const struct exchange_ops *ops, struct arena *arena,
                   struct loop *loop)
{
    memset(x, 0, sizeof *x);
    x->ops = ops;
    x->arena = arena;
    x->loop = loop;
    x->refs = 1;
}

bool exchange_is_https(const struct exchange *x)
{
    return x->scheme != NULL && strcmp(x->scheme, "https") == 0;
}

struct exchange *exchange_ref(struct exchange *x)
{
    require(x->refs > 0);
    x->refs++;
    return x;
}

void exchange_unref(struct exchange **slot)
{
    struct exchange *x = TAKE(*slot);

    if (x == NULL)
        return;
    require(x->refs > 0);
    if (--x->refs == 0)
        x->ops->release(x);
}

struct slice exchange_header(const struct exchange *x, const char *name)
{
    struct slice wanted = slice_of(name);

    for (uint32_t i = 0; i < x->headers_count; i++)
        if (slice_eq(x->headers[i].name, wanted))
            return x->headers[i].value;
    return slice_make(NULL, 0);
}

static bool is_over(const struct exchange *x)
{
    require(x->loop == NULL || loop_is_mine(x->loop));
    return x->is_gone || x->is_ended;
}

void exchange_read(struct exchange *x, void *into, size_t size)
{
    if (is_over(x))
        return;
    require(size > 0 && !x->has_offer);
    x->offer = into;
    x->offer_size = size;
    x->has_offer = true;
    x->ops->read(x);
}

void exchange_respond(struct exchange *x, uint16_t status, const struct header *headers,
                      uint32_t headers_count, int64_t body_size)
{
    if (is_over(x))
        return;
    require(x->status == 0 && status <= 599);
    require(status >= 200 || (status == 101 && x->tunnel.size > 0));
    x->status = status;
    x->ops->respond(x, status, headers, headers_count, body_size);
}

void exchange_send(struct exchange *x, struct slice bytes, struct buf *holder)
{
    if (is_over(x) || bytes.size == 0)
        return;
    require(x->status != 0);
    x->body_sent += bytes.size;
    x->ops->send(x, bytes, holder);
}

void exchange_end(struct exchange *x)
{
    exchange_end_trailers(x, NULL, 0);
}

void exchange_end_trailers(struct exchange *x, const struct header *trailers,
                           uint32_t trailers_count)
{
    if (is_over(x))
        return;
    require(x->status != 0);
    x->is_ended = true;
    x->has_offer = false;
    x->ops->end(x, trailers, trailers_count);
}

void exchange_abort(struct exchange *x)
{
    if (is_over(x))
        return;
    x->ops->abort(x);
}

size_t exchange_room(struct exchange *x)
{
    return is_over(x) ? 0 : x->ops->room(x);
}

void exchange_answer(struct exchange *x, uint16_t status, const char *content_type,
                     const struct header *more, uint32_t more_count, struct slice body,
                     struct buf *holder)
{
    enum { MORE_MAX = 15 };
    struct header headers[MORE_MAX + 1];
    uint32_t count = 0;

    require(more_count <= MORE_MAX);
    if (content_type != NULL)
        headers[count++] = (struct header){ SLICE_LIT("content-type"), slice_of(content_type) };
    for (uint32_t i = 0; i < more_count; i++)
        headers[count++] = more[i];
    exchange_respond(x, status, headers, count, (int64_t)body.size);
    exchange_send(x, body, holder);
    exchange_end(x);
}
