/* websocket.c - accepting a WebSocket, its time, its end. SPDX-License-Identifier: Apache-2.0
 *
 * Two lives end apart. The call is over for its user at call_end or on_gone; the WebSocket goes on
 * until the peer's Close is there or its time is up, and holds the exchange until then. What comes
 * meanwhile is dropped.
 *
 * One timer, which looks at the times that are kept and is not moved when something is heard.
 */
#include "call/websocket.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "call/websocket_internal.h"

enum { RATE_GRACE_MS = 5000, RATE_CHECK_MS = 1000 };

uint64_t websocket_now(const struct websocket_call *w)
{
    const struct exchange *x = w->call.x;

    return x->loop == NULL ? x->begun_ns : loop_now_ns(x->loop);
}

uint16_t websocket_close_code(enum err_code code)
{
    switch (code) {
    case OK: return WEBSOCKET_NORMAL;
    case E_DATA_LOSS: return WEBSOCKET_BAD_DATA;
    case E_RANGE: return WEBSOCKET_TOO_BIG;
    case E_INVALID:
    case E_NOT_FOUND:
    case E_EXISTS:
    case E_PERMISSION:
    case E_PRECONDITION:
    case E_UNAUTHENTICATED:
    case E_UNIMPLEMENTED: return WEBSOCKET_POLICY;
    case E_EXHAUSTED:
    case E_UNAVAILABLE: return WEBSOCKET_TRY_LATER;
    default: return WEBSOCKET_INTERNAL;
    }
}

/* -- the end -------------------------------------------------------------------------------------- */

static void count_close(struct websocket_call *w, uint16_t code)
{
    uint32_t index = code - (uint32_t)WEBSOCKET_NORMAL;

    stat_add(&w->stats->closes[MIN(index, WEBSOCKET_CODES - 1u)], 1);
}

/* The WebSocket is over: nothing of it may be touched behind this. */
static void let_go(struct websocket_call *w)
{
    struct exchange *x = w->call.x;

    w->call.is_over = true;
    w->state = WEBSOCKET_OVER;
    stat_add(&w->stats->connections_open, (uint64_t)-1);
    if (w->timer.slot != 0)
        timer_stop(x->loop, &w->timer);
    loop_undefer(&w->task);
    loop_undefer(&w->tidy);
    websocket_in_let_go(w);
    websocket_out_deinit(w);
    websocket_heap_free(&w->own_heap);
    exchange_unref(&x);
}

/* Nothing more is said by either side. */
static void finish(struct websocket_call *w)
{
    exchange_end(w->call.x);
    let_go(w);
}

static void tell_gone(struct websocket_call *w, enum err_code why)
{
    struct call *call = &w->call;

    if (call->is_over)
        return;
    call->is_over = true;
    call->x->note.code = (uint8_t)why;
    if (call->user != NULL && call->user->on_gone != NULL)
        call->user->on_gone(call, why);
}

/* Says our Close and waits for the peer's. */
static void close_with(struct websocket_call *w, uint16_t code, struct slice reason)
{
    w->call.is_over = true;
    w->state = WEBSOCKET_CLOSING;
    w->closed_ns = websocket_now(w);
    count_close(w, code);
    websocket_out_close(w, code, reason);
    websocket_in_deinit(w);
    websocket_wait(w);
    /* The peer's Close is waited for, whatever credit there was. */
    if (!w->is_busy)
        websocket_in_go_on(w);
}

static void end(struct call *call, const struct err *status,
                const struct call_details *details UNUSED)
{
    struct websocket_call *w = websocket_of(call);
    enum err_code code = status->code == OK ? w->failure : status->code;

    call->x->note.code = (uint8_t)code;
    if (UNLIKELY(w->failure != OK && status->code == OK))
        close_with(w, websocket_close_code(code), slice_of("no memory for a message; retry later"));
    else if (w->is_draining && (code == OK || code == E_UNAVAILABLE))
        close_with(w, WEBSOCKET_GOING_AWAY, slice_of(status->text));
    else
        close_with(w, websocket_close_code(code), slice_of(status->text));
}

/* RFC 6455 7.1.7: what the peer would still say is of no interest. */
void websocket_break(struct websocket_call *w, uint16_t code, const struct err *err)
{
    if (w->state == WEBSOCKET_OPEN) {
        count_close(w, code);
        websocket_out_close(w, code, slice_of(err->text));
    }
    w->state = WEBSOCKET_CLOSING;
    tell_gone(w,
              code == WEBSOCKET_TOO_BIG || code == WEBSOCKET_TRY_LATER ? E_EXHAUSTED : err->code);
    finish(w);
}

void websocket_closed(struct websocket_call *w, uint16_t code)
{
    struct call *call = &w->call;
    bool is_good =
        code == WEBSOCKET_NORMAL || code == WEBSOCKET_GOING_AWAY || code == WEBSOCKET_NO_CODE;

    if (w->state == WEBSOCKET_OPEN && is_good && !call->is_over && call->user != NULL &&
        call->user->on_half_close != NULL)
        call->user->on_half_close(call);
    if (w->state == WEBSOCKET_OPEN) {
        count_close(w, code);
        websocket_out_close(w, code, slice_make(NULL, 0));
        w->state = WEBSOCKET_CLOSING;
        tell_gone(w, E_CANCELLED);
        if (is_good)
            call->x->note.code = OK;
    }
    finish(w);
}

void websocket_lost(struct websocket_call *w)
{
    if (w->state == WEBSOCKET_OPEN)
        count_close(w, WEBSOCKET_ABNORMAL);
    tell_gone(w, E_CANCELLED);
    finish(w);
}

/* -- time ----------------------------------------------------------------------------------------- */

/* When the peer is looked at next; UINT64_MAX: never. */
static uint64_t due_of(const struct websocket_call *w)
{
    const struct websocket_settings *settings = w->settings;
    uint64_t due = UINT64_MAX;

    if (w->state == WEBSOCKET_CLOSING)
        return w->closed_ns + settings->close_ns;
    if (w->pinged_ns != 0)
        due = w->pinged_ns + settings->pong_ns;
    else if (settings->ping_ns != 0)
        due = w->heard_ns + settings->ping_ns;
    if (websocket_is_amid(&w->ws)) {
        if (settings->stall_ns != 0)
            due = MIN(due, w->heard_ns + settings->stall_ns);
        if (settings->rate_min != 0 && w->frame_ns != 0)
            due = MIN(due, MAX(w->frame_ns + RATE_GRACE_MS * NS_PER_MS,
                               w->heard_ns + RATE_CHECK_MS * NS_PER_MS));
    }
    return due;
}

void websocket_wait(struct websocket_call *w)
{
    struct loop *loop = w->call.x->loop;
    uint64_t due = loop == NULL ? UINT64_MAX : due_of(w);
    struct err err = { 0 };

    if (due == UINT64_MAX || (w->timer.slot != 0 && w->timer.due_ns <= due))
        return;
    if (timer_start(loop, &w->timer, due, &err) != OK && w->state == WEBSOCKET_OPEN)
        w->failure = E_EXHAUSTED; /* rather an end that nobody waits for than none */
}

/* Does the frame that is being received come too slowly? */
static bool is_slow(const struct websocket_call *w, uint64_t now)
{
    uint64_t passed = now - w->frame_ns;

    return w->frame_ns != 0 && w->settings->rate_min != 0 && w->call.x->has_offer &&
           passed >= RATE_GRACE_MS * NS_PER_MS &&
           (double)w->frame_got * (double)NS_PER_S < (double)w->settings->rate_min * (double)passed;
}

COLD static void break_stalled(struct websocket_call *w, bool is_slow)
{
    struct err err = { 0 };

    stat_add(is_slow ? &w->stats->slow : &w->stats->stalled, 1);
    if (is_slow)
        err_set(&err, E_DEADLINE,
                "a frame arrives at less than %llu bytes a second (--body-rate-min)",
                (unsigned long long)w->settings->rate_min);
    else
        err_set(&err, E_DEADLINE, "a message stood still for %llu ms (--body-timeout)",
                (unsigned long long)(w->settings->stall_ns / NS_PER_MS));
    websocket_break(w, WEBSOCKET_POLICY, &err);
}

static void on_due(struct timer *timer)
{
    struct websocket_call *w = CONTAINER_OF(timer, struct websocket_call, timer);
    const struct websocket_settings *settings = w->settings;
    bool is_read = w->call.x->has_offer; /* else whatever the peer says is not heard */
    uint64_t now = websocket_now(w);
    struct err err = { 0 };

    if (w->state == WEBSOCKET_CLOSING) {
        if (now < w->closed_ns + settings->close_ns) {
            websocket_wait(w);
            return;
        }
        stat_add(&w->stats->closes_unanswered, 1);
        finish(w);
        return;
    }
    if (!is_read) {
        w->heard_ns = now;
        w->pinged_ns = 0;
    } else if (w->pinged_ns != 0 && now >= w->pinged_ns + settings->pong_ns) {
        stat_add(&w->stats->pings_unanswered, 1);
        err_set(&err, E_UNAVAILABLE, "no answer to a ping for %llu ms (--websocket-pong-timeout)",
                (unsigned long long)(settings->pong_ns / NS_PER_MS));
        websocket_break(w, WEBSOCKET_INTERNAL, &err);
        return;
    } else if (websocket_is_amid(&w->ws) &&
               ((settings->stall_ns != 0 && now >= w->heard_ns + settings->stall_ns) ||
                is_slow(w, now))) {
        break_stalled(w, is_slow(w, now));
        return;
    } else if (settings->ping_ns != 0 && w->pinged_ns == 0 &&
               now >= w->heard_ns + settings->ping_ns) {
        w->pinged_ns = now;
        stat_add(&w->stats->pings, 1);
        websocket_out_control(w, WEBSOCKET_OP_PING, slice_make(NULL, 0));
    }
    websocket_wait(w);
}

/* -- what the transport tells --------------------------------------------------------------------- */

static void on_gone(struct exchange *x)
{
    struct websocket_call *w = x->user_data;

    if (w->state == WEBSOCKET_OVER) /* it ended, and the peer left before all of that was sent */
        return;
    if (w->state == WEBSOCKET_OPEN)
        count_close(w, WEBSOCKET_ABNORMAL);
    tell_gone(w, E_CANCELLED);
    let_go(w);
}

static void on_room(struct exchange *x)
{
    struct websocket_call *w = x->user_data;
    struct call *call = &w->call;

    if (!call->is_over && call->user != NULL && call->user->on_room != NULL)
        call->user->on_room(call);
}

static void on_drain(struct exchange *x)
{
    struct websocket_call *w = x->user_data;
    struct call *call = &w->call;

    if (w->state != WEBSOCKET_OPEN || call->is_over)
        return;
    w->is_draining = true;
    if (call->user != NULL && call->user->on_drain != NULL) {
        call->user->on_drain(call);
        return;
    }
    tell_gone(w, E_UNAVAILABLE);
    close_with(w, WEBSOCKET_GOING_AWAY, slice_of("the server stops"));
}

static const struct exchange_user exchange_user = {
    .on_body = websocket_in_on_body,
    .on_room = on_room,
    .on_gone = on_gone,
    .on_drain = on_drain,
};

static const struct call_ops call_ops = {
    .read = websocket_in_read,
    .send = websocket_out_send,
    .end = end,
};

/* -- accepting ------------------------------------------------------------------------------------ */

static struct websocket_loop_stats *stats_of(const struct websocket_settings *settings,
                                             const struct exchange *x)
{
    static _Thread_local struct websocket_loop_stats nobody;
    uint32_t index = x->loop == NULL ? 0 : loop_index(x->loop);

    if (settings->stats == NULL)
        return &nobody;
    require(index < settings->stats->loops_count);
    return &settings->stats->loops[index];
}

bool websocket_is_asked(const struct exchange *x)
{
    return slice_is(x->tunnel, "websocket");
}

/* The memory that connections share: the loop's, or one of its own. */
static bool take_heap(struct websocket_call *w)
{
    struct websocket_heap **slot = w->settings->stats != NULL ? &w->stats->heap : &w->own_heap;

    if (*slot == NULL)
        *slot = websocket_heap_new();
    w->heap = *slot;
    return w->heap != NULL;
}

COLD static struct call *no_memory(struct exchange *x)
{
    static const struct header later = { SLICE_LIT("retry-after"), SLICE_LIT("1") };

    exchange_answer(x, 503, "text/plain; charset=utf-8", &later, 1,
                    slice_of("no memory for a WebSocket; retry later\n"), NULL);
    return NULL;
}

struct call *websocket_accept(struct exchange *x, const struct websocket_settings *settings,
                              const char *const *protocols, const char **ret_protocol)
{
    struct websocket_loop_stats *stats = stats_of(settings, x);
    const char *protocol = NULL;

    if (x->is_gone || x->is_ended)
        return NULL;
    struct websocket_call *w = arena_alloc(x->arena, sizeof *w + WEBSOCKET_BLOCK_BYTES);
    if (UNLIKELY(w == NULL))
        return no_memory(x);
    memset(w, 0, sizeof *w);
    w->call.x = x;
    w->call.carrier = CALL_WEBSOCKET;
    w->call.deadline_ns = UINT64_MAX;
    w->call.ops = &call_ops;
    w->settings = settings;
    w->stats = stats;
    w->timer.on_due = on_due;
    w->task.run = websocket_in_on_task;
    w->tidy.run = websocket_out_tidy;
    if (UNLIKELY(!take_heap(w)))
        return no_memory(x);
    if (!websocket_handshake(w, protocols, &protocol)) {
        stat_add(&stats->refused, 1);
        websocket_heap_free(&w->own_heap);
        return NULL;
    }
    websocket_init(&w->ws, WEBSOCKET_SERVER, w->heap, settings->message_bytes_max,
                   w->deflate.is_on);
    websocket_in_init(w, (uint8_t *)(w + 1), WEBSOCKET_BLOCK_BYTES);
    stat_add(&stats->connections, 1);
    stat_add(&stats->connections_open, 1);
    x->user = &exchange_user;
    x->user_data = w;
    x->note.is_call = true;
    exchange_ref(x);
    w->heard_ns = websocket_now(w);
    websocket_wait(w);
    if (ret_protocol != NULL)
        *ret_protocol = protocol;
    return &w->call;
}
