/* fake_exchange.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/fake_exchange.h"

#include "api/grpc.h"
#include "base/clock.h"

static struct fake *fake_of(struct exchange *x)
{
    return CONTAINER_OF(x, struct fake, x);
}

static void finish(struct loop_task *task)
{
    struct fake *fake = CONTAINER_OF(task, struct fake, finish);
    struct exchange *x = &fake->x;

    if (fake->is_finished)
        return;
    fake->is_finished = true;
    timer_stop(fake->x.loop, &fake->leave);
    timer_stop(fake->x.loop, &fake->take);
    exchange_unref(&x);
}

static void leave(struct fake *fake)
{
    if (fake->is_finished || fake->x.is_gone)
        return;
    fake->x.is_gone = true;
    if (fake->x.user != NULL && fake->x.user->on_gone != NULL && !fake->x.is_ended)
        fake->x.user->on_gone(&fake->x);
    loop_undefer(&fake->deliver);
    loop_defer(fake->x.loop, &fake->finish);
}

static void on_leave(struct timer *timer)
{
    leave(CONTAINER_OF(timer, struct fake, leave));
}

static void deliver(struct loop_task *task)
{
    struct fake *fake = CONTAINER_OF(task, struct fake, deliver);
    struct exchange *x = &fake->x;

    if (!x->has_offer || x->is_gone || x->is_ended)
        return;
    if (fake->gone_at != FAKE_NEVER && (int64_t)fake->delivered >= fake->gone_at) {
        leave(fake);
        return;
    }
    size_t size = MIN(fake->body.size - fake->delivered, x->offer_size);
    if (fake->piece != 0)
        size = MIN(size, fake->piece);
    if (size != 0)
        memcpy(x->offer, fake->body.data + fake->delivered, size);
    fake->delivered += size;
    x->has_offer = false;
    bool is_end = fake->delivered == fake->body.size && !fake->is_open_ended;
    if (size == 0 && !is_end)
        return;
    x->body_is_over = is_end;
    x->user->on_body(x, size, is_end);
}

static void op_read(struct exchange *x)
{
    loop_defer(x->loop, &fake_of(x)->deliver);
}

static void keep_headers(struct fake *fake, const struct header *headers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        text_slice_put(&fake->headers, headers[i].name);
        text_str(&fake->headers, ": ");
        text_slice_put(&fake->headers, headers[i].value);
        text_byte(&fake->headers, '\n');
    }
}

static void op_respond(struct exchange *x, uint16_t status, const struct header *headers,
                       uint32_t headers_count, int64_t body_size)
{
    struct fake *fake = fake_of(x);

    fake->status = status;
    fake->answer_size = body_size;
    keep_headers(fake, headers, headers_count);
}

static void take_later(struct fake *fake)
{
    require(timer_start(fake->x.loop, &fake->take, loop_refresh_ns(fake->x.loop) + NS_PER_MS,
                        NULL) == OK);
}

static void on_take(struct timer *timer)
{
    struct fake *fake = CONTAINER_OF(timer, struct fake, take);
    struct exchange *x = &fake->x;

    if (fake->is_finished || x->is_gone)
        return;
    fake->waiting -= MIN(fake->waiting, fake->takes);
    if (fake->waiting != 0)
        take_later(fake);
    if (!fake->wants_room || fake->waiting > fake->room / 2 || x->is_ended)
        return;
    fake->wants_room = false;
    if (x->user != NULL && x->user->on_room != NULL)
        x->user->on_room(x);
}

static void op_send(struct exchange *x, struct slice bytes, struct buf *holder UNUSED)
{
    struct fake *fake = fake_of(x);

    fake->sends++;
    text_slice_put(&fake->answer, bytes);
    if (fake->room == 0)
        return;
    fake->waiting += bytes.size;
    fake->waiting_most = MAX(fake->waiting_most, fake->waiting);
    if (fake->take.slot == 0)
        take_later(fake);
}

static void op_end(struct exchange *x, const struct header *trailers, uint32_t trailers_count)
{
    keep_headers(fake_of(x), trailers, trailers_count);
    loop_defer(x->loop, &fake_of(x)->finish);
}

static void op_abort(struct exchange *x)
{
    struct fake *fake = fake_of(x);

    fake->is_aborted = true;
    loop_defer(x->loop, &fake->cut);
}

static void cut(struct loop_task *task)
{
    leave(CONTAINER_OF(task, struct fake, cut));
}

static size_t op_room(struct exchange *x)
{
    struct fake *fake = fake_of(x);

    if (fake->room == 0)
        return SIZE_MAX;
    fake->wants_room = fake->waiting >= fake->room;
    return fake->room - MIN(fake->room, fake->waiting);
}

static void op_release(struct exchange *x)
{
    struct fake *fake = fake_of(x);

    fake->is_released = true;
    fake->on_release(fake);
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

void fake_init(struct fake *fake, struct loop *loop, struct arena *arena, struct budget *budget,
               enum exchange_method method, const char *path, struct slice body)
{
    struct slice whole = slice_of(path);
    size_t mark = slice_find(whole, '?');

    memset(fake, 0, sizeof *fake);
    exchange_init(&fake->x, &ops, arena, loop);
    fake->x.budget = budget;
    fake->x.method = method;
    fake->x.path = slice_first(whole, mark);
    fake->x.query = slice_skip(whole, MIN(mark + 1, whole.size));
    fake->x.authority = slice_of("localhost:8000");
    fake->x.scheme = "http";
    fake->x.protocol = "HTTP/1.1";
    fake->x.headers = fake->request_headers;
    fake->x.body_size = (int64_t)body.size;
    fake->x.body_is_over = body.size == 0;
    fake->body = body;
    fake->gone_at = FAKE_NEVER;
    fake->answer_size = -1;
    fake->deliver.run = deliver;
    fake->finish.run = finish;
    fake->leave.on_due = on_leave;
    fake->take.on_due = on_take;
    fake->cut.run = cut;
    text_init(&fake->headers, 64 << 10);
    text_init(&fake->answer, 64 << 20);
}

void fake_header(struct fake *fake, const char *name, const char *value)
{
    require(fake->x.headers_count < FAKE_HEADERS_MAX);
    fake->request_headers[fake->x.headers_count++] =
        (struct header){ slice_of(name), slice_of(value) };
}

/* Segment by segment; {name} takes one, and may end in literal text. */
static bool matches(const char *pattern, struct slice path, struct route_match *match)
{
    match->params_count = 0;
    while (*pattern == '/' && path.size != 0 && path.data[0] == '/') {
        pattern++;
        path = slice_skip(path, 1);
        struct slice segment = slice_first(path, slice_find(path, '/'));
        path = slice_skip(path, segment.size);
        size_t size = strcspn(pattern, "/");
        if (*pattern == '{') {
            const char *close = strchr(pattern, '}') + 1;
            struct slice end = slice_make(close, (size_t)(pattern + size - close));
            if (segment.size <= end.size ||
                memcmp(segment.data + segment.size - end.size, end.data, end.size) != 0)
                return false;
            match->params[match->params_count++] = slice_first(segment, segment.size - end.size);
        } else if (segment.size != size || memcmp(segment.data, pattern, size) != 0) {
            return false;
        }
        pattern += size;
    }
    return *pattern == '\0' && path.size == 0;
}

static const struct route *find(struct fake *fake, const struct route_table *const *tables,
                                uint32_t tables_count)
{
    const struct route *found = NULL;

    for (uint32_t i = 0; i < tables_count; i++)
        for (uint32_t j = 0; j < tables[i]->count; j++) {
            const struct route *route = &tables[i]->routes[j];
            if ((route->methods >> fake->x.method & 1) == 0 ||
                !matches(route->pattern, fake->x.path, &fake->match))
                continue;
            /* Literals win, and a name with a literal end. */
            if (found == NULL || fake->match.params_count == 0 || strstr(route->pattern, "}:"))
                found = route;
        }
    if (found != NULL)
        require(matches(found->pattern, fake->x.path, &fake->match));
    return found;
}

bool fake_start(struct fake *fake, const struct api *api, const struct route_table *const *tables,
                uint32_t tables_count)
{
    bool is_grpc = grpc_is_call(&fake->x);
    const struct route *route = is_grpc ? NULL : find(fake, tables, tables_count);
    struct err err = { 0 };

    if (route == NULL && !is_grpc)
        return false;
    fake->match.route = route;
    fake->match.api = api;
    fake->x.begun_ns = loop_refresh_ns(fake->x.loop);
    if (fake->gone_ms != 0)
        require(timer_start(fake->x.loop, &fake->leave,
                            fake->x.begun_ns + fake->gone_ms * NS_PER_MS, &err) == OK);
    if (is_grpc) {
        fake->x.protocol = "HTTP/2";
        fake->x.body_size = -1;
        grpc_dispatch(&fake->x, api);
    } else {
        route->handle(&fake->x, &fake->match);
    }
    return true;
}

struct slice fake_answer_header(const struct fake *fake, const char *name)
{
    struct slice rest = text_slice(&fake->headers), wanted = slice_of(name);

    while (rest.size != 0) {
        struct slice line = slice_first(rest, slice_find(rest, '\n'));
        rest = slice_skip(rest, line.size + 1);
        size_t colon = slice_find(line, ':');
        if (slice_eq(slice_first(line, colon), wanted))
            return slice_skip(line, colon + 2);
    }
    return slice_make("", 0);
}

void fake_deinit(struct fake *fake)
{
    text_deinit(&fake->headers);
    text_deinit(&fake->answer);
}
