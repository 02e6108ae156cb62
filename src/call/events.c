/* events.c - SPDX-License-Identifier: Apache-2.0
 *
 * Events of a turn are written one behind the other into one buf, which is sent at the end of the
 * turn and let go: a stream that waits holds nothing. It is as large as what the turn before took,
 * so that a stream of tokens asks once a turn and one that says a word a second holds no more than
 * that word. It grows, and what is larger than TURN_BYTES_MAX is sent in several.
 *
 * The flush is put off by the first event of a turn, before the connections' own (loop_defer_early):
 * they send what it gives them in the same turn.
 */
#include "call/events.h"

#include <string.h>

#include "base/buf.h"
#include "codec/accept.h"
#include "io/loop.h"

enum {
    FIRST_BYTES = 512,
    TURN_BYTES_MAX = 64 * 1024, /* of one buf, unless one event is larger */
    FRAMED_COPY_MAX = 1024,     /* framed bytes join what is being written up to this */
    FRAME_BYTES = 32,           /* "id: ", "\nevent: ", "\ndata: ", "\n\n" */
};

static const struct slice heartbeats[] = {
    [EVENTS_SSE] = SLICE_LIT(":\n\n"),
    [EVENTS_NDJSON] = SLICE_LIT("\n"),
};

/* -- what is asked for ---------------------------------------------------------------------------- */

/* How specific a range is that covers JSON: 3 application/json, 2 application/..., 1 anything. */
static int json_rank(struct slice type)
{
    if (slice_is_nocase(type, "application/json"))
        return 3;
    if (slice_is_nocase(type, "application/*"))
        return 2;
    return slice_is_nocase(type, "*/*") ? 1 : 0;
}

bool events_wanted(struct slice accept, enum events_form *ret)
{
    uint32_t weights[2] = { 0, 0 }, json = 0;
    struct accept_range range;
    int rank = 0;

    while (accept_next(&accept, &range)) {
        struct slice type = range.name;
        uint32_t weight = (uint32_t)MAX(range.weight, 0); /* what is no weight counts as none */
        if (slice_is_nocase(type, "text/event-stream")) {
            weights[EVENTS_SSE] = weight;
        } else if (slice_is_nocase(type, "application/x-ndjson") ||
                   slice_is_nocase(type, "application/ndjson") ||
                   slice_is_nocase(type, "application/jsonl")) {
            weights[EVENTS_NDJSON] = MAX(weights[EVENTS_NDJSON], weight);
        } else if (json_rank(type) >= MAX(rank, 1)) {
            rank = json_rank(type);
            json = weight;
        }
    }
    enum events_form best =
        weights[EVENTS_NDJSON] > weights[EVENTS_SSE] ? EVENTS_NDJSON : EVENTS_SSE;
    /* A form that is named is meant where the same weight is only a wildcard's. */
    if (weights[best] == 0 || (rank == 3 ? weights[best] <= json : weights[best] < json))
        return false;
    *ret = best;
    return true;
}

/* -- sending ---------------------------------------------------------------------------------------- */

static void flush(struct events *events)
{
    struct buf *buf = TAKE(events->filling);
    size_t size = events->filled;

    events->filled = 0;
    if (buf == NULL)
        return;
    if (size != 0) {
        events->turn_bytes += size;
        exchange_send(events->x, slice_first(buf_bytes(buf), size), buf);
    }
    buf_unref(&buf);
}

static void on_flush(struct loop_task *task)
{
    struct events *events = CONTAINER_OF(task, struct events, flush);

    flush(events);
    events->usual_bytes = events->turn_bytes + events->turn_bytes / 8;
    events->turn_bytes = 0;
    events->put_ns = loop_now_ns(events->x->loop);
}

/* Nothing comes from here any more. */
static void finish(struct events *events)
{
    events->is_over = true;
    loop_undefer(&events->flush);
    if (events->heartbeat_ns != 0)
        timer_stop(events->x->loop, &events->timer);
}

static COLD void give_up(struct events *events)
{
    if (events->is_over)
        return;
    events_stop(events);
    exchange_abort(events->x);
}

static bool is_over(const struct events *events)
{
    return events->is_over || events->x->is_gone;
}

/* A larger one in place of what is being filled. */
static bool grow(struct events *events, size_t room)
{
    struct buf *larger = NULL;

    if (buf_new(&larger, events->x->budget, room, NULL) != OK)
        return false;
    if (events->filled != 0)
        memcpy(buf_fill(larger), buf_fill(events->filling), events->filled);
    buf_unref(&events->filling);
    events->filling = larger;
    return true;
}

/* Room for `size` more bytes at the end of what this turn sends. */
static uint8_t *room_for(struct events *events, size_t size)
{
    size_t room = events->filling == NULL ? 0 : buf_bytes(events->filling).size;

    if (UNLIKELY(room - events->filled < size)) {
        if (room == 0)
            room = MAX(events->usual_bytes, (size_t)FIRST_BYTES) / 2;
        if (events->filled != 0 && events->filled + size > TURN_BYTES_MAX)
            flush(events);
        if (!grow(events, MAX(MIN(2 * room, (size_t)TURN_BYTES_MAX), events->filled + size))) {
            give_up(events);
            return NULL;
        }
        loop_defer_early(events->x->loop, &events->flush);
    }
    return buf_fill(events->filling) + events->filled;
}

static uint8_t *put(uint8_t *at, struct slice bytes)
{
    if (bytes.size != 0)
        memcpy(at, bytes.data, bytes.size);
    return at + bytes.size;
}

/* -- heartbeats --------------------------------------------------------------------------------- */

static void on_due(struct timer *timer)
{
    struct events *events = CONTAINER_OF(timer, struct events, timer);
    struct loop *loop = events->x->loop;
    uint64_t now = loop_now_ns(loop);
    struct slice beat = heartbeats[events->form];

    if (is_over(events))
        return;
    if (now >= events->put_ns + events->heartbeat_ns) {
        /* A reader who does not take what it has needs no more of it. */
        uint8_t *at = events_room(events) == 0 ? NULL : room_for(events, beat.size);
        if (at != NULL) {
            put(at, beat);
            events->filled += beat.size;
        }
        if (is_over(events))
            return;
        events->put_ns = now;
    }
    if (timer_start(loop, timer, events->put_ns + events->heartbeat_ns, NULL) != OK)
        give_up(events);
}

/* -- the answer ---------------------------------------------------------------------------------- */

void events_begin(struct events *events, struct exchange *x, enum events_form form,
                  uint64_t heartbeat_ns, const struct header *more, uint32_t more_count)
{
    static const struct header types[] = {
        [EVENTS_SSE] = { SLICE_LIT("content-type"), SLICE_LIT("text/event-stream; charset=utf-8") },
        [EVENTS_NDJSON] = { SLICE_LIT("content-type"), SLICE_LIT("application/x-ndjson") },
    };
    struct header headers[EVENTS_HEADERS_MAX + 3];
    uint32_t count = 0;

    require(more_count <= EVENTS_HEADERS_MAX);
    *events = (struct events){ .x = x,
                               .form = form,
                               .heartbeat_ns = heartbeat_ns,
                               .is_begun = true,
                               .timer.on_due = on_due,
                               .flush.run = on_flush,
                               .put_ns = loop_now_ns(x->loop) };
    headers[count++] = types[form];
    headers[count++] = (struct header){ SLICE_LIT("cache-control"), SLICE_LIT("no-cache") };
    /* nginx keeps answers together unless it is told. */
    headers[count++] = (struct header){ SLICE_LIT("x-accel-buffering"), SLICE_LIT("no") };
    for (uint32_t i = 0; i < more_count; i++)
        headers[count++] = more[i];
    exchange_respond(x, 200, headers, count, -1);
    if (heartbeat_ns != 0 &&
        timer_start(x->loop, &events->timer, events->put_ns + heartbeat_ns, NULL) != OK)
        give_up(events);
}

uint8_t *events_open(struct events *events, struct slice id, struct slice name, size_t most)
{
    require(events->is_begun && !events->is_open);
    if (is_over(events))
        return NULL;
    bool is_sse = events->form == EVENTS_SSE;
    size_t frame = FRAME_BYTES + (is_sse ? id.size + name.size : 0);
    if (most > SIZE_MAX - frame) {
        give_up(events);
        return NULL;
    }
    uint8_t *begin = room_for(events, most + frame), *at = begin;
    if (at == NULL)
        return NULL;
    if (is_sse) {
        if (id.data != NULL)
            at = put(put(put(at, slice_make("id: ", 4)), id), slice_make("\n", 1));
        if (name.data != NULL)
            at = put(put(put(at, slice_make("event: ", 7)), name), slice_make("\n", 1));
        memcpy(at, "data: ", 6);
        at += 6;
    }
    events->is_open = true;
    events->open_bytes = (size_t)(at - begin);
    return at;
}

void events_close(struct events *events, size_t size)
{
    require(events->is_open);
    events->is_open = false;
    if (is_over(events))
        return;
    uint8_t *end = buf_fill(events->filling) + events->filled + events->open_bytes + size;
    size_t ends = events->form == EVENTS_SSE ? 2 : 1;
    end[0] = '\n';
    end[ends - 1] = '\n';
    events->filled += events->open_bytes + size + ends;
}

void events_discard(struct events *events)
{
    require(events->is_open);
    events->is_open = false;
}

bool events_put(struct events *events, struct slice id, struct slice name, struct slice data)
{
    uint8_t *at = events_open(events, id, name, data.size);

    if (at == NULL)
        return false;
    put(at, data);
    events_close(events, data.size);
    return true;
}

bool events_put_framed(struct events *events, struct slice framed, struct buf *holder)
{
    require(events->is_begun && !events->is_open);
    if (is_over(events))
        return false;
    if (framed.size <= FRAMED_COPY_MAX && events->filling != NULL) {
        uint8_t *at = room_for(events, framed.size);
        if (at == NULL)
            return false;
        put(at, framed);
        events->filled += framed.size;
        return true;
    }
    flush(events);
    exchange_send(events->x, framed, holder);
    events->put_ns = loop_now_ns(events->x->loop);
    return true;
}

size_t events_room(struct events *events)
{
    if (is_over(events))
        return 0;
    size_t room = exchange_room(events->x);
    if (room > events->filled || room == 0)
        return room - MIN(room, events->filled);
    /* So that the exchange knows of it, and tells when there is room again. */
    flush(events);
    return exchange_room(events->x);
}

void events_end(struct events *events)
{
    if (is_over(events))
        return;
    flush(events);
    finish(events);
    exchange_end(events->x);
}

void events_stop(struct events *events)
{
    if (!events->is_begun || events->is_over)
        return;
    buf_unref(&events->filling);
    events->filled = 0;
    finish(events);
}
