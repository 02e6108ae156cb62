/* collect.c - SPDX-License-Identifier: Apache-2.0
 *
 * The state lies in the exchange's arena, so nothing has to be freed but the buf, and that one is
 * adopted by the arena as soon as the body is complete.
 *
 * A body that cannot be accepted is refused before any of it is read, and yet not within the call:
 * a task at the end of the turn carries the refusal.
 *
 * Content that arrives compressed is collected as it is and inflated when complete: inflating
 * bounds its memory by what comes out. As 4 KiB may become 4 MiB, which takes 10 ms, larger ones are
 * inflated beside the loop (io/aside.h); nothing but the job touches c->bytes meanwhile, and who leaves
 * is only noted.
 */
#include "exchange/collect.h"

#include "base/buf.h"
#include "base/mem.h"
#include "codec/compress.h"
#include "io/aside.h"
#include "io/loop.h"

enum {
    ALIGN = 64,
    SMALL_MAX = 4096,       /* known sizes up to this lie in the arena */
    GROW_FIRST = 16 * 1024, /* of a body whose size is not known */
    HERE_MAX = 4096,        /* compressed bodies so small are inflated on the loop */
    STEP = 1 << 20,         /* large bodies are charged to the budget as they come, by so much */
};

struct collect {
    struct exchange *x; /* borrowed: its arena holds this */
    struct collect_limits limits;
    void (*done)(struct exchange *x, const struct collect_result *result, const struct err *err);
    const struct exchange_user *user; /* what x had, restored before done */
    void *user_data;
    struct buf *buf; /* owned; NULL: the arena's memory */
    uint8_t *bytes;  /* where the body begins: byte align_at is on a line */
    size_t size, room;
    enum encoding encoding;
    struct loop_task task;
    struct collect_aside *inflating; /* in the arena */
};

/* What is being inflated beside the loop. */
struct collect_aside {
    struct aside_job job;
    struct collect *c;
    bool has_left; /* the exchange is gone */
    enum err_code code;
    struct buf *plain;
    size_t offset;
    struct err err;
};

static void on_body(struct exchange *x, size_t size, bool is_end);
static void on_gone(struct exchange *x);

static const struct exchange_user collecting = { .on_body = on_body, .on_gone = on_gone };

static void restore(struct collect *c)
{
    loop_undefer(&c->task);
    c->x->user = c->user;
    c->x->user_data = c->user_data;
}

COLD static void refuse(struct collect *c, const struct err *err)
{
    restore(c);
    buf_unref(&c->buf);
    c->done(c->x, NULL, err);
}

COLD static void refuse_large(struct collect *c, const char *what)
{
    struct err err = { 0 };

    err_set(&err, E_RANGE,
            "the body %s more than %zu bytes, the most that is accepted; %s raises it", what,
            c->limits.bytes_max, c->limits.option);
    refuse(c, &err);
}

/* Bytes before the body that put its byte `align_at` on a line. */
static size_t lead(size_t align_at)
{
    return (ALIGN - align_at % ALIGN) % ALIGN;
}

/* Memory for `room` bytes in all; keeps what is there. */
static enum err_code grow(struct collect *c, size_t room, struct err *err)
{
    struct buf *fresh = NULL;
    size_t before = lead(c->limits.align_at);

    TRY(buf_new_partly(&fresh, c->x->budget, before + room,
                       MIN(before + c->size + STEP, before + room), err));
    uint8_t *bytes = buf_fill(fresh) + before;
    if (c->size > 0)
        memcpy(bytes, c->bytes, c->size);
    buf_unref(&c->buf);
    c->buf = fresh;
    c->bytes = bytes;
    c->room = room;
    return OK;
}

static void hand_over(struct collect *c);

/* On any thread; c is only read. */
static enum err_code inflate(const struct collect *c, struct buf **ret, size_t *ret_offset,
                             struct err *err)
{
    return compress_inflate(ret, ret_offset, c->x->budget, c->encoding,
                            slice_make(c->bytes, c->size), c->limits.bytes_max, c->limits.align_at,
                            err);
}

static void inflated(struct collect *c, enum err_code code, struct buf *plain, size_t offset,
                     const struct err *err)
{
    if (code == E_RANGE) {
        refuse_large(c, "inflates to");
        return;
    }
    if (code != OK) {
        refuse(c, err);
        return;
    }
    buf_unref(&c->buf);
    c->buf = plain;
    struct slice all = buf_bytes(plain);
    c->bytes = buf_fill(plain) + offset;
    c->size = all.size - offset;
    hand_over(c);
}

static void inflate_aside(struct aside_job *job)
{
    struct collect_aside *a = CONTAINER_OF(job, struct collect_aside, job);

    a->code = inflate(a->c, &a->plain, &a->offset, &a->err);
}

/* The loop again: the exchange is held for this. */
static void inflated_aside(struct aside_job *job)
{
    struct collect_aside *a = CONTAINER_OF(job, struct collect_aside, job);
    struct collect *c = a->c;
    struct exchange *x = c->x;

    c->inflating = NULL;
    if (a->has_left) {
        buf_unref(&a->plain);
        buf_unref(&c->buf);
    } else {
        inflated(c, a->code, a->plain, a->offset, &a->err);
    }
    exchange_unref(&x);
}

/* False: there is nobody beside the loop, or it is too little. */
static bool put_aside(struct collect *c)
{
    struct collect_aside *a = NULL;

    if (c->limits.aside != NULL && c->size > HERE_MAX)
        a = arena_zalloc(c->x->arena, sizeof *a);
    if (a == NULL)
        return false;
    a->c = c;
    a->job.work = inflate_aside;
    a->job.done = inflated_aside;
    c->inflating = a;
    exchange_ref(c->x);
    aside_put(c->limits.aside, &a->job, c->x->loop);
    return true;
}

static void complete(struct collect *c)
{
    struct err err = { 0 };
    struct buf *plain = NULL;
    size_t offset = 0;

    if (LIKELY(c->encoding == ENCODING_IDENTITY || c->size == 0)) {
        hand_over(c);
    } else if (!put_aside(c)) {
        enum err_code code = inflate(c, &plain, &offset, &err);
        inflated(c, code, plain, offset, &err);
    }
}

static void hand_over(struct collect *c)
{
    struct err err = { 0 };
    struct collect_result result = { slice_make(c->bytes, c->size), c->buf };
    if (c->buf != NULL && !arena_adopt(c->x->arena, &c->buf)) {
        err_set(&err, E_EXHAUSTED, "no memory to hold the request's body; retry later");
        refuse(c, &err);
        return;
    }
    restore(c);
    c->done(c->x, &result, NULL);
}

static void offer(struct collect *c)
{
    struct err err = { 0 };

    if (c->size == c->room) {
        /* Only where the size was not known: one byte past the limit tells that there is more. */
        size_t room = MIN(2 * c->room, c->limits.bytes_max + 1);
        if (grow(c, room, &err) != OK) {
            refuse(c, &err);
            return;
        }
    }
    /* Who announces much and sends little must not use up what others could be served with. */
    size_t piece = MIN(c->room - c->size, (size_t)STEP);
    if (c->buf != NULL &&
        buf_charge(c->buf, lead(c->limits.align_at) + c->size + piece, &err) != OK) {
        refuse(c, &err);
        return;
    }
    exchange_read(c->x, c->bytes + c->size, piece);
}

static void on_body(struct exchange *x, size_t size, bool is_end)
{
    struct collect *c = x->user_data;

    c->size += size;
    if (UNLIKELY(c->size > c->limits.bytes_max))
        refuse_large(c, "has");
    else if (LIKELY(is_end))
        complete(c);
    else
        offer(c);
}

static void on_gone(struct exchange *x)
{
    struct collect *c = x->user_data;

    restore(c);
    if (c->inflating != NULL)
        c->inflating->has_left = true;
    else
        buf_unref(&c->buf);
    if (x->user != NULL && x->user->on_gone != NULL)
        x->user->on_gone(x);
}

static size_t first_room(const struct collect *c)
{
    return c->x->body_size >= 0 ? (size_t)c->x->body_size
                                : MIN((size_t)GROW_FIRST, c->limits.bytes_max + 1);
}

/* What is known without reading, told at the end of the turn. */
static void settle(struct collect *c)
{
    struct err err = { 0 };

    if (c->encoding == ENCODING_UNKNOWN) {
        struct slice value = exchange_header(c->x, "content-encoding");
        err_set(&err, E_UNIMPLEMENTED,
                "Content-Encoding '%.*s' is not understood: send gzip, deflate or none",
                (int)MIN(value.size, (size_t)64), (const char *)value.data);
        refuse(c, &err);
    } else if (c->x->body_size > 0 && (uint64_t)c->x->body_size > c->limits.bytes_max) {
        refuse_large(c, "has");
    } else if (c->x->body_is_over) {
        complete(c);
    } else { /* no memory for it: perhaps there is now, else grow says which kind is missing */
        if (grow(c, first_room(c), &err) == OK)
            offer(c);
        else
            refuse(c, &err);
    }
}

static void run_settle(struct loop_task *task)
{
    settle(CONTAINER_OF(task, struct collect, task));
}

static void settle_later(struct collect *c)
{
    if (c->x->loop == NULL) /* a transport without one: a test's */
        settle(c);
    else
        loop_defer(c->x->loop, &c->task);
}

void exchange_collect(struct exchange *x, struct collect_limits limits,
                      void (*done)(struct exchange *x, const struct collect_result *result,
                                   const struct err *err))
{
    struct collect *c = arena_zalloc(x->arena, sizeof *c);
    struct err err = { 0 };

    if (x->is_gone)
        return;
    if (c == NULL) { /* not even this: the arena's cap, or an empty heap */
        exchange_abort(x);
        return;
    }
    c->x = x;
    c->limits = limits;
    c->done = done;
    c->user = x->user;
    c->user_data = x->user_data;
    c->task.run = run_settle;
    x->user = &collecting;
    x->user_data = c;
    c->encoding = encoding_of(exchange_header(x, "content-encoding"));
    if (UNLIKELY(c->encoding == ENCODING_UNKNOWN || x->body_is_over ||
                 (x->body_size > 0 && (uint64_t)x->body_size > limits.bytes_max))) {
        settle_later(c);
        return;
    }
    if (LIKELY(x->body_size >= 0 && x->body_size <= SMALL_MAX)) {
        size_t before = lead(limits.align_at);
        uint8_t *memory = arena_aligned(x->arena, ALIGN, before + (size_t)x->body_size);
        if (memory != NULL) {
            c->bytes = memory + before;
            c->room = (size_t)x->body_size;
            exchange_read(x, c->bytes, c->room);
            return;
        }
    }
    if (grow(c, first_room(c), &err) != OK) {
        settle_later(c);
        return;
    }
    offer(c);
}
