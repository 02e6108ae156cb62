/* session_rows.c - pieces into tensors: all rows as one (STACK), or windows of them.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Rows are counted along one dimension, the axis; every dimension before it is 1, so that rows lie
 * one behind the other in memory whatever the axis is. Each input collects into one buf that grows
 * by doubling and is moved together when half of it lies behind. A STACK's run reads it in place:
 * nothing is collected any more by then. A window is copied, since more rows may come while it runs.
 *
 * Texts (BYTES) have no fixed size: rows are then found by walking the lengths.
 */
#include <inttypes.h>
#include <string.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/mem.h"
#include "engine/session_internal.h"
#include "model/dtype.h"

enum { ROOM_FIRST = 4096, LENGTH_BYTES = 4 };

struct collected {
    bool is_used; /* the first piece brought it, and so do all */
    uint32_t axis, rank;
    int64_t shape[PENSTOCK_RANK_MAX]; /* of a run; [axis] is set by each */
    enum penstock_dtype dtype;
    uint64_t elements; /* of a row */
    uint64_t rows;     /* in bytes from `begin` */
    struct buf *buf;   /* owned */
    size_t room, begin, end;
};

struct rows {
    bool is_begun; /* the first piece is there, with the padding */
    uint64_t skip; /* rows still to come that lie between two windows */
    uint32_t count;
    struct collected inputs[];
};

void rows_free(struct rows **slot)
{
    struct rows *rows = TAKE(*slot);

    if (rows == NULL)
        return;
    for (uint32_t i = 0; i < rows->count; i++)
        buf_unref(&rows->inputs[i].buf);
    mem_free(rows);
}

/* -- which dimension ------------------------------------------------------------------------------- */

static bool is_data(const struct signature_tensor *t)
{
    return !t->is_hidden && !t->is_state && !t->is_constant;
}

enum err_code rows_new(struct session *s, struct err *err)
{
    const struct signature *signature = s->model->signature;
    uint64_t window = s->settings.window;
    char shape[160];
    bool has_data = false;

    if (s->settings.reduce == SESSION_WINDOW && window == 0)
        return err_set(err, E_INVALID, "a window needs its number of rows: window: 1 or more");
    if (s->settings.step == 0)
        s->settings.step = window;
    s->rows = mem_zalloc(sizeof *s->rows + signature->inputs_count * sizeof s->rows->inputs[0]);
    if (s->rows == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a stream; retry later");
    s->rows->count = signature->inputs_count;
    for (uint32_t i = 0; i < signature->inputs_count; i++) {
        const struct signature_tensor *t = &signature->inputs[i];
        struct collected *c = &s->rows->inputs[i];
        if (!is_data(t))
            continue;
        has_data = true;
        bool fits = signature_rows_axis(signature->stream, s->settings.reduce, window, t, &c->axis);
        for (uint32_t d = 0; fits && d < c->axis; d++)
            fits = t->dims[d] == -1 || t->dims[d] == 1;
        if (fits && s->settings.reduce == SESSION_WINDOW)
            fits = t->dims[c->axis] == -1 || (uint64_t)t->dims[c->axis] == window;
        if (fits)
            continue;
        if (s->settings.reduce == SESSION_STACK)
            return err_set(err, E_INVALID,
                           "rows of input '%s' of shape %s cannot be put one behind the other: "
                           "send each as a run of its own (reduce: each)",
                           t->name, shape_text(shape, sizeof shape, t->rank, t->dims));
        return err_set(err, E_INVALID,
                       "a window of %" PRIu64 " rows does not fit input '%s' of shape %s: no "
                       "dimension is free (-1) or has that size, with only 1 or -1 before it",
                       window, t->name, shape_text(shape, sizeof shape, t->rank, t->dims));
    }
    if (!has_data)
        return err_set(err, E_INVALID, "model '%s' takes no input whose rows could be collected",
                       s->model->host.name);
    return OK;
}

/* -- pieces ---------------------------------------------------------------------------------------- */

/* Gives the tensor the rank of the signature's: a row alone, or rows without the dimensions of 1
 * before them, are taken too. */
static void normalize(const struct signature_tensor *t, uint32_t axis, struct penstock_tensor *got)
{
    uint32_t missing = t->rank - got->rank;

    if (got->rank >= t->rank || missing > axis + 1 || t->rank > PENSTOCK_RANK_MAX)
        return;
    for (uint32_t i = got->rank; i-- > 0;)
        got->shape[i + missing] = got->shape[i];
    for (uint32_t i = 0; i < missing; i++)
        got->shape[i] = 1;
    got->rank = t->rank;
}

static enum err_code check_one(const struct signature_tensor *t, const struct collected *c,
                               struct penstock_tensor *got, struct err *err)
{
    struct signature_tensor want = *t;
    char a[160], b[160];

    got->name = t->name;
    normalize(t, c->axis, got);
    for (uint32_t d = 0; d < c->axis; d++)
        want.dims[d] = 1;
    want.dims[c->axis] = -1;
    if (input_check(&want, got, err) != OK)
        return err_wrap(err, "rows are counted along dimension %u", c->axis);
    if (got->size == 0 && got->shape[c->axis] != 0)
        return err_set(err, E_INVALID, "input '%s' has rows without elements: shape %s", t->name,
                       shape_text(a, sizeof a, got->rank, got->shape));
    for (uint32_t d = c->axis + 1; c->is_used && d < t->rank; d++)
        if (got->shape[d] != c->shape[d])
            return err_set(err, E_INVALID, "input '%s' has shape %s; the rows before it had %s",
                           t->name, shape_text(a, sizeof a, got->rank, got->shape),
                           shape_text(b, sizeof b, c->rank, c->shape));
    return OK;
}

enum err_code rows_check(struct session *s, struct piece *piece, struct err *err)
{
    const struct signature *signature = s->model->signature;
    struct session_piece *pub = &piece->pub;
    int64_t rows = -1;

    for (uint32_t i = 0; i < signature->inputs_count; i++) {
        const struct signature_tensor *t = &signature->inputs[i];
        const struct collected *c = &s->rows->inputs[i];
        if (!is_data(t)) {
            if (pub->has_input[i]) {
                pub->inputs[i].name = t->name;
                TRY(input_check(t, &pub->inputs[i], err));
            }
            continue;
        }
        if (!pub->has_input[i]) {
            if (t->is_optional && !c->is_used)
                continue;
            return err_set(err, E_INVALID, "input '%s' is missing: every piece must have its rows",
                           t->name);
        }
        if (s->rows->is_begun && !c->is_used)
            return err_set(err, E_INVALID,
                           "input '%s' was not in the stream's first piece: leave it out, or begin "
                           "another stream",
                           t->name);
        TRY(check_one(t, c, &pub->inputs[i], err));
        int64_t here = pub->inputs[i].shape[c->axis];
        if (rows != -1 && rows != here)
            return err_set(err, E_INVALID,
                           "input '%s' has %lld rows, an input before it has %lld: all must agree",
                           t->name, (long long)here, (long long)rows);
        rows = here;
    }
    return OK;
}

/* -- collecting ------------------------------------------------------------------------------------ */

/* Bytes of the first `rows` rows from `at`. */
static size_t bytes_of(const struct collected *c, size_t at, uint64_t rows)
{
    size_t size = 0;

    if (c->dtype != PENSTOCK_BYTES)
        return rows * c->elements * dtype_size(c->dtype);
    for (uint64_t i = 0; i < rows * c->elements; i++) {
        uint32_t length;
        memcpy(&length, buf_fill(c->buf) + at + size, sizeof length);
        size += LENGTH_BYTES + length;
    }
    return size;
}

/* Room for `more` bytes at the end; what lies behind is closed up when that helps. */
static enum err_code make_room(struct session *s, struct collected *c, size_t more, struct err *err)
{
    size_t held = c->end - c->begin, room;
    struct buf *larger = NULL;

    if (more > s->settings.bytes_max || held > s->settings.bytes_max - more) {
        err_set(err, E_EXHAUSTED,
                "the stream's input has more than %zu bytes that must be held together (--max-body)",
                s->settings.bytes_max);
        err->retry_after_ms = ERR_RETRY_NEVER;
        return E_EXHAUSTED;
    }
    if (c->buf != NULL && c->room - c->end >= more)
        return OK;
    if (c->buf != NULL && c->begin >= c->room / 2 && c->room - held >= more) {
        memmove(buf_fill(c->buf), buf_fill(c->buf) + c->begin, held);
    } else {
        room = MAX(held + more, (size_t)ROOM_FIRST);
        if (c->buf != NULL)
            room = MIN(MAX(room, 2 * c->room), MAX(s->settings.bytes_max, room));
        TRY(buf_new(&larger, s->settings.budget, room, err));
        if (held != 0)
            memcpy(buf_fill(larger), buf_fill(c->buf) + c->begin, held);
        buf_unref(&c->buf);
        c->buf = larger;
        c->room = room;
    }
    c->begin = 0;
    c->end = held;
    return OK;
}

/* The first piece says what rows are; the padding stands before them. */
static enum err_code begin(struct session *s, const struct piece *piece, struct err *err)
{
    uint64_t pad = s->settings.reduce == SESSION_WINDOW ? s->settings.pad : 0;

    for (uint32_t i = 0; i < s->rows->count; i++) {
        struct collected *c = &s->rows->inputs[i];
        const struct penstock_tensor *t = &piece->pub.inputs[i];
        size_t size;
        if (!is_data(&s->model->signature->inputs[i]) || !piece->pub.has_input[i])
            continue;
        c->rank = t->rank;
        c->dtype = t->dtype;
        memcpy(c->shape, t->shape, sizeof c->shape);
        c->elements = 1;
        for (uint32_t d = c->axis + 1; d < t->rank; d++) /* fits: its bytes were checked, or none */
            if (__builtin_mul_overflow(c->elements, (uint64_t)t->shape[d], &c->elements))
                return err_set(err, E_INVALID, "a row of input '%s' is too large", t->name);
        size_t one = c->dtype == PENSTOCK_BYTES ? LENGTH_BYTES : dtype_size(c->dtype);
        if (__builtin_mul_overflow(pad * one, c->elements, &size) ||
            __builtin_mul_overflow(pad, one, &(size_t){ 0 }))
            size = SIZE_MAX;
        if (size != 0) {
            TRY(make_room(s, c, size, err));
            memset(buf_fill(c->buf) + c->end, 0, size);
        }
        c->end += size;
        c->rows = pad;
        c->is_used = true;
    }
    s->rows->is_begun = true;
    return OK;
}

/* Drops rows from the front; those that are not there yet are skipped when they come. */
static void advance(struct session *s, uint64_t rows)
{
    uint64_t there = rows;

    for (uint32_t i = 0; i < s->rows->count; i++) {
        struct collected *c = &s->rows->inputs[i];
        if (!c->is_used)
            continue;
        there = MIN(rows, c->rows);
        if (there != 0)
            c->begin += bytes_of(c, c->begin, there);
        c->rows -= there;
    }
    s->rows->skip = rows - there;
}

enum err_code rows_take(struct session *s, const struct piece *piece, struct err *err)
{
    TRY(fed_replace(s, piece, err));
    if (!s->rows->is_begun)
        TRY(begin(s, piece, err));
    for (uint32_t i = 0; i < s->rows->count; i++) {
        struct collected *c = &s->rows->inputs[i];
        const struct penstock_tensor *t = &piece->pub.inputs[i];
        if (!c->is_used || t->size == 0)
            continue;
        TRY(make_room(s, c, t->size, err));
    }
    for (uint32_t i = 0; i < s->rows->count; i++) {
        struct collected *c = &s->rows->inputs[i];
        const struct penstock_tensor *t = &piece->pub.inputs[i];
        if (!c->is_used)
            continue;
        if (t->size != 0)
            memcpy(buf_fill(c->buf) + c->end, t->data, t->size);
        c->end += t->size;
        c->rows += (uint64_t)t->shape[c->axis];
    }
    if (s->rows->skip > 0)
        advance(s, s->rows->skip);
    return OK;
}

bool rows_has_window(const struct session *s)
{
    for (uint32_t i = 0; i < s->rows->count; i++)
        if (s->rows->inputs[i].is_used)
            return s->rows->skip == 0 && s->rows->inputs[i].rows >= s->settings.window;
    return false;
}

bool rows_is_empty(const struct session *s)
{
    return !s->rows->is_begun;
}

enum err_code rows_fill(struct session *s, struct request *request, struct err *err)
{
    bool is_window = s->settings.reduce == SESSION_WINDOW;

    for (uint32_t i = 0; i < s->rows->count; i++) {
        struct collected *c = &s->rows->inputs[i];
        if (!c->is_used)
            continue;
        uint64_t rows = is_window ? s->settings.window : c->rows;
        struct penstock_tensor *t = &request->inputs[i];
        *t = (struct penstock_tensor){ .name = s->model->signature->inputs[i].name,
                                       .dtype = c->dtype,
                                       .rank = c->rank };
        memcpy(t->shape, c->shape, sizeof t->shape);
        t->shape[c->axis] = (int64_t)rows;
        t->size = is_window ? bytes_of(c, c->begin, rows) : c->end - c->begin;
        if (t->size != 0)
            t->data = buf_fill(c->buf) + c->begin;
        if (is_window && t->size != 0) {
            void *copy = arena_aligned(request->arena, BUF_ALIGN, t->size);
            if (copy == NULL)
                return err_set(err, E_EXHAUSTED, "no memory for a window of rows; retry later");
            t->data = memcpy(copy, t->data, t->size);
        }
        request->has_input[i] = true;
    }
    if (is_window)
        advance(s, s->settings.step);
    return OK;
}

void rows_drop(struct session *s)
{
    for (uint32_t i = 0; i < s->rows->count; i++) {
        struct collected *c = &s->rows->inputs[i];
        buf_unref(&c->buf);
        c->room = c->begin = c->end = 0;
        c->rows = 0;
        c->is_used = false;
    }
    s->rows->skip = 0;
    s->rows->is_begun = false;
}
