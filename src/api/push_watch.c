/* push_watch.c - those who watch: server-sent events, NDJSON, WebSocket, gRPC.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A watcher is the same on all of them: first what is now (or what came behind the event that it
 * names), then each event, as fast as it takes them. What differs is which bytes of a record are sent
 * (put_record), how much may wait (room) and how it ends (finish).
 *
 * It holds its exchange as long as it is there. Idle it has no memory but the exchange's.
 */
#include "api/push.h"

#include "api/reply.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/pb.h"
#include "base/text.h"
#include "base/utf8.h"
#include "call/events.h"
#include "call/websocket.h"
#include "engine/engine.h"

struct watcher {
    struct event_reader reader;
    const struct api *api;
    struct exchange *x;   /* one reference */
    struct call *call;    /* NULL: over a bare exchange */
    struct slice model;   /* data NULL: all */
    struct slice begins;  /* what is to be told before the log is read on */
    struct buf *holder;   /* of that */
    struct buf *snapshot; /* of what is told then; NULL: none */
    uint64_t missed;      /* push_missed as it was when it was told what is now */
    bool is_over;
    struct events events; /* over an exchange */
};

/* What a request asks for. */
struct asked {
    struct slice model; /* data NULL: all */
    bool has_after;
    uint64_t after;
    const char *foreign; /* why `after` cannot be had; NULL: it may */
};

/* -- sending ------------------------------------------------------------------------------------- */

static size_t room(struct watcher *w)
{
    return w->call != NULL ? call_room(w->call) : events_room(&w->events);
}

static const char stopping[] = "the server is stopping: watch again, elsewhere or later";

/* -- leaving -------------------------------------------------------------------------------------- */

static void let_go(struct watcher *w)
{
    struct exchange *x = w->x;

    w->is_over = true;
    event_log_detach(&w->reader);
    buf_unref(&w->holder);
    buf_unref(&w->snapshot);
    watchers_leave(w->api->watchers, WATCHES_EVENTS, x);
    exchange_unref(&x);
}

static void finish(struct watcher *w, enum err_code code, const char *why)
{
    struct err err = { 0 };

    if (w->call != NULL) {
        err_set(&err, code, "%s", why);
        call_end(w->call, &err, NULL);
    } else if (code == OK || code == E_UNAVAILABLE) {
        events_end(&w->events);
    } else {
        events_stop(&w->events);
        exchange_abort(w->x);
    }
    let_go(w);
}

/* -- what comes next ------------------------------------------------------------------------------ */

static void put_record(struct watcher *w, const struct push_record *record, struct buf *holder)
{
    bool is_for_us =
        w->model.data == NULL || record->model.data == NULL || slice_eq(w->model, record->model);

    if (UNLIKELY(caller_has_rules(w->x->caller))) {
        struct err err = { 0 };
        if (api_may(w->x, ACCESS_READ, slice_of("events"), slice_make("", 0), &err) != OK) {
            finish(w, err.code, err.text);
            return;
        }
        is_for_us = is_for_us && (record->model.data == NULL ||
                                  api_shows_model(w->x, slice_of("events"), record->model));
    }

    if (is_for_us && w->call == NULL) {
        struct slice line = slice_make(record->json.data, record->json.size + 1);
        if (!events_put_framed(&w->events, w->events.form == EVENTS_SSE ? record->sse : line,
                               holder)) {
            finish(w, E_EXHAUSTED, "no memory");
            return;
        }
    } else if (is_for_us) {
        struct call_form form = { .is_text = true };
        struct call_piece piece = { w->call->carrier == CALL_WEBSOCKET ? record->json
                                                                       : record->proto,
                                    holder };
        call_send_as(w->call, &piece, 1, form);
    }
    if (record->kind == PUSH_SERVER_DRAINING)
        finish(w, E_UNAVAILABLE, stopping);
}

/* Tells that `lost` events are missing, or why what was asked for is, and begins with what is now. */
static enum err_code begin_anew(struct watcher *w, uint64_t lost, uint64_t before,
                                const char *reason, struct err *err)
{
    struct push *push = w->api->push;
    struct slice snapshot;
    uint64_t sequence;

    event_log_detach(&w->reader);
    buf_unref(&w->holder);
    buf_unref(&w->snapshot);
    TRY(push_follow(push, &w->reader, &snapshot, &w->snapshot, &w->missed, &sequence, err));
    if (before != 0)
        lost += sequence + 1 - before;
    if (lost == 0 && reason == NULL) {
        w->holder = TAKE(w->snapshot);
        w->begins = snapshot;
        return OK;
    }
    push_count_lost(push, lost);
    return push_lost_new(push, lost, reason, &w->begins, &w->holder, err);
}

/* One record of what it begins with; false: there is none any more. */
static bool put_begin(struct watcher *w)
{
    struct push_record record;

    if (w->holder == NULL)
        return false;
    if (push_record_next(&w->begins, &record)) {
        struct buf *holder = buf_ref(w->holder); /* it may be over behind this */
        put_record(w, &record, holder);
        buf_unref(&holder);
        return true;
    }
    buf_unref(&w->holder);
    w->holder = TAKE(w->snapshot);
    w->begins = w->holder != NULL ? buf_bytes(w->holder) : slice_make(NULL, 0);
    return true;
}

/* One event of the log; false: there is nothing more now, or it is over. */
static bool put_next(struct watcher *w)
{
    struct push *push = w->api->push;
    struct buf *holder = NULL;
    struct push_record record;
    struct err err = { 0 };
    struct slice bytes;
    uint64_t number = 0, before = w->reader.next, missed = push_missed(push);
    uint32_t kind;

    if (missed != w->missed) {
        if (begin_anew(w, missed - w->missed, push_sequence(push, before), NULL, &err) == OK)
            return true;
        finish(w, err.code, err.text);
        return false;
    }
    switch (event_log_read_shared(&w->reader, &bytes, &holder, &kind, &number)) {
    case EVENT_READ_NONE: return false;
    case EVENT_READ_CLOSED: finish(w, E_UNAVAILABLE, stopping); return false;
    case EVENT_READ_LOST:
        if (begin_anew(w, 0, push_sequence(push, before), NULL, &err) == OK)
            return true;
        finish(w, err.code, err.text);
        return false;
    case EVENT_READ_ONE: break;
    }
    if (push_record_next(&bytes, &record))
        put_record(w, &record, holder);
    buf_unref(&holder);
    return true;
}

static void pump(struct watcher *w)
{
    while (!w->is_over && room(w) > 0) {
        if (!put_begin(w) && !put_next(w))
            return;
    }
}

static void on_more(struct event_reader *reader)
{
    pump(CONTAINER_OF(reader, struct watcher, reader));
}

/* -- beginning ------------------------------------------------------------------------------------ */

static bool is_draining(const struct api *api)
{
    return atomic_load_explicit(api->is_draining, memory_order_relaxed);
}

/* Counted in; on failure nothing is left. `strict`: `after` must be there. */
static enum err_code watcher_new(struct watcher **ret, struct exchange *x, const struct api *api,
                                 const struct asked *asked, bool strict, struct err *err)
{
    struct watcher *w = arena_zalloc(x->arena, sizeof *w);
    enum err_code code = E_RANGE;
    struct err gone = { 0 };

    if (w == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to watch events; retry later");
    if (is_draining(api))
        return err_set(err, E_UNAVAILABLE, "%s", stopping);
    if (!watchers_enter(api->watchers, WATCHES_EVENTS, x)) {
        err_set(err, E_EXHAUSTED,
                "%llu watch already, which is the most (--watchers-max): ask GET /models now and "
                "then",
                (unsigned long long)api->watchers->max);
        err->retry_after_ms = 1000;
        return E_EXHAUSTED;
    }
    w->api = api;
    w->x = x;
    w->model = asked->model;
    w->reader.loop = x->loop;
    w->reader.on_more = on_more;
    if (asked->foreign != NULL)
        err_set(&gone, E_RANGE, "%s", asked->foreign);
    else if (asked->has_after)
        code = push_follow_after(api->push, &w->reader, asked->after, &w->missed, &gone);
    if (code == E_RANGE && strict && asked->has_after)
        *err = gone;
    else if (code == E_RANGE)
        code = begin_anew(w, 0, 0, asked->has_after ? gone.text : NULL, err);
    else if (code != OK)
        *err = gone;
    if (code != OK) {
        event_log_detach(&w->reader);
        buf_unref(&w->holder);
        buf_unref(&w->snapshot);
        watchers_leave(api->watchers, WATCHES_EVENTS, x);
        return code;
    }
    exchange_ref(x);
    *ret = w;
    return OK;
}

/* A model that is known, loaded or not. */
static enum err_code check_model(struct exchange *x, const struct api *api, struct slice name,
                                 struct err *err)
{
    struct model *model = NULL;

    TRY(api_may(x, ACCESS_READ, slice_of("events"), name, err));
    enum err_code code = api_want_model(x, api, ACCESS_READ, slice_of("events"), &model, name,
                                        slice_make("", 0), err);
    model_unref(&model);
    return code == E_NOT_FOUND || code == E_INVALID ? code : OK;
}

/* -- over an exchange ------------------------------------------------------------------------------ */

static void on_exchange_room(struct exchange *x)
{
    pump(x->user_data);
}

static void on_exchange_gone(struct exchange *x)
{
    struct watcher *w = x->user_data;

    if (w->is_over)
        return;
    events_stop(&w->events);
    let_go(w);
}

static const struct exchange_user exchange_user = { .on_room = on_exchange_room,
                                                    .on_gone = on_exchange_gone };

static void watch_events(struct exchange *x, const struct api *api, const struct asked *asked,
                         enum events_form form)
{
    struct err err = { 0 };
    struct watcher *w = NULL;
    struct header node = { SLICE_LIT("x-node"), slice_of(push_node(api->push)) };

    if (watcher_new(&w, x, api, asked, false, &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    x->user = &exchange_user;
    x->user_data = w;
    events_begin(&w->events, x, form, api->stream_heartbeat_ns, &node, 1);
    if (w->events.is_over) /* no memory to begin with */
        let_go(w);
    else if (x->is_head)
        finish(w, OK, "");
    else
        pump(w);
}

/* -- over a call ----------------------------------------------------------------------------------- */

/* gRPC: its caller half-closed, nothing more can come. */
static void on_call_message(struct call *call, const struct call_message *message UNUSED)
{
    struct watcher *w = call->user_data;

    if (w->is_over)
        return;
    finish(w, E_INVALID,
           "this WebSocket takes no messages: it tells what happens on the server; to call a model "
           "open /models/{model}/stream");
}

static void on_call_room(struct call *call)
{
    pump(call->user_data);
}

static void on_call_gone(struct call *call, enum err_code why UNUSED)
{
    struct watcher *w = call->user_data;

    if (!w->is_over)
        let_go(w);
}

/* The event that says so comes by itself: what was told before is sent first. */
static void on_call_drain(struct call *call)
{
    struct watcher *w = call->user_data;

    if (w->is_over)
        return;
    pump(w);
    if (!w->is_over)
        finish(w, E_UNAVAILABLE, stopping);
}

static const struct call_user call_user = {
    .on_message = on_call_message,
    .on_room = on_call_room,
    .on_gone = on_call_gone,
    .on_drain = on_call_drain,
};

static void watch_call(struct call *call, struct watcher *w)
{
    w->call = call;
    call->user = &call_user;
    call->user_data = w;
    if (call->carrier == CALL_WEBSOCKET)
        call_read(call); /* so that its Close is seen */
    pump(w);
}

/* -- what is asked for ---------------------------------------------------------------------------- */

static struct slice query_value(struct slice query, const char *name)
{
    while (query.size > 0) {
        struct slice pair = slice_first(query, slice_find(query, '&'));
        size_t equals = slice_find(pair, '=');
        query = slice_skip(query, MIN(pair.size + 1, query.size));
        if (slice_is(slice_first(pair, equals), name) && equals < pair.size)
            return slice_skip(pair, equals + 1);
    }
    return slice_make(NULL, 0);
}

/* "<node>.<sequence>", or the sequence alone. */
static enum err_code read_after(struct asked *asked, struct slice text, const char *what,
                                const struct api *api, struct arena *arena, struct err *err)
{
    const char *own = push_node(api->push);
    struct slice number = text, node = { 0 };
    size_t dot = text.size;

    while (dot > 0 && text.data[dot - 1] != '.')
        dot--;
    if (dot > 0) {
        node = slice_first(text, dot - 1);
        number = slice_skip(text, dot);
    }
    if (!slice_to_u64(number, &asked->after) || (dot > 0 && node.size == 0) || text.size > 200)
        return err_set(err, E_INVALID,
                       "%s is '%.*s': the id of an event is <node>.<number>, as '%s.12345'", what,
                       SLICE_ARG(slice_first(text, utf8_valid_prefix(slice_first(text, 100)))),
                       own);
    asked->has_after = true;
    if (dot == 0 || slice_is(node, own))
        return OK;
    asked->foreign = arena_printf(arena, "event %.*s is of server '%.*s' and this is '%s'",
                                  SLICE_ARG(text), SLICE_ARG(node), own);
    return asked->foreign != NULL &&
                   utf8_valid_prefix(slice_of(asked->foreign)) == strlen(asked->foreign)
               ? OK
               : err_set(err, E_INVALID, "%s names a server that cannot be", what);
}

static enum err_code read_asked(struct asked *asked, struct exchange *x,
                                const struct route_match *match, struct err *err)
{
    struct slice last = exchange_header(x, "last-event-id");
    struct slice after = query_value(x->query, "after");

    *asked = (struct asked){ .model = slice_make(NULL, 0) };
    if (match->params_count > 0) {
        struct slice name = match->params[0];
        asked->model = slice_make(arena_strndup(x->arena, name.data, name.size), name.size);
        if (asked->model.data == NULL)
            return err_set(err, E_EXHAUSTED, "no memory to watch events; retry later");
        TRY(check_model(x, match->api, asked->model, err));
    }
    /* A browser that comes back has the same URL and the newer header. */
    if (last.size > 0)
        return read_after(asked, last, "last-event-id", match->api, x->arena, err);
    if (after.size > 0)
        return read_after(asked, after, "'after'", match->api, x->arena, err);
    return OK;
}

static void handle_websocket(struct exchange *x, const struct api *api, const struct asked *asked)
{
    static const char *const protocols[] = { "penstock.v1", NULL };
    struct err err = { 0 };
    struct watcher *w = NULL;
    const char *protocol = NULL;

    /* Before the handshake is answered: then a refusal has a status of its own. */
    if (watcher_new(&w, x, api, asked, false, &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    struct call *call = websocket_accept(x, &api->websocket, protocols, &protocol);
    if (call == NULL)
        let_go(w);
    else
        watch_call(call, w);
}

static void handle_events(struct exchange *x, const struct route_match *match)
{
    enum events_form form = EVENTS_SSE;
    struct err err = { 0 };
    struct asked asked;

    if (read_asked(&asked, x, match, &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    if (websocket_is_asked(x)) {
        handle_websocket(x, match->api, &asked);
        return;
    }
    /* Whoever does not say gets server-sent events: curl shows them as they come. */
    if (!events_wanted(exchange_header(x, "accept"), &form))
        form = EVENTS_SSE;
    watch_events(x, match->api, &asked, form);
}

/* -- gRPC ------------------------------------------------------------------------------------------ */

static enum err_code read_request(struct asked *asked, struct slice message, const char **ret_field,
                                  struct err *err)
{
    struct pb_reader reader;
    struct pb_field field;

    *asked = (struct asked){ .model = slice_make(NULL, 0) };
    pb_begin(&reader, message);
    while (pb_next(&reader, &field)) {
        if (field.number == 1 && field.wire == PB_LEN)
            asked->model = field.bytes;
        else if (field.number == 2 && field.wire == PB_VARINT)
            asked->after = field.value;
    }
    if (pb_failed(&reader))
        return err_set(err, E_INVALID, "this is no penstock.v1.WatchRequest: byte %zu: %s",
                       pb_at(&reader), reader.fault);
    size_t valid = utf8_valid_prefix(asked->model);
    if (valid != asked->model.size) {
        *ret_field = "model";
        return err_set(err, E_INVALID, "model: byte %zu is not UTF-8", valid);
    }
    if (asked->model.size == 0)
        asked->model = slice_make(NULL, 0);
    asked->has_after = asked->after != 0;
    return OK;
}

static void watch_answer(struct call *call, const struct api *api, struct slice message)
{
    const char *field = NULL;
    struct watcher *w = NULL;
    struct err err = { 0 };
    struct asked asked;
    enum err_code code = read_request(&asked, message, &field, &err);

    if (code == OK && asked.model.data != NULL &&
        (code = check_model(call->x, api, asked.model, &err)) != OK)
        field = "model";
    if (code == OK && (code = watcher_new(&w, call->x, api, &asked, true, &err)) == E_RANGE)
        field = "after";
    if (code != OK)
        grpc_end(call, &err, field);
    else
        watch_call(call, w);
}

static void watch_handle(struct call *call, const struct api *api)
{
    grpc_unary(call, api, watch_answer);
}

static const struct grpc_method methods[] = { { "Watch", watch_handle, NULL, ACCESS_READ } };

const struct grpc_service push_grpc_service = { "penstock.v1.Events", methods, COUNT(methods), "events" };

static const struct route routes[] = {
    { 1u << METHOD_GET, "/events", handle_events, DIALECT_TYPED, ACCESS_READ, "events" },
    { 1u << METHOD_GET, "/models/{model}/events", handle_events, DIALECT_TYPED, ACCESS_READ, "events" },
};

const struct route_table push_routes = { routes, COUNT(routes) };
