/* infer_stream.c - answers of many responses: as events of an exchange, or messages of a call.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Credit. The model begins with INFER_CREDIT responses, fewer when one of them is surely large. What it
 * has used is granted again at the end of a turn, behind what the turn sends, as long as the reader
 * has room; else when on_room tells. So what waits for a slow reader is the transport's room and one
 * credit's worth, whatever the model could make. Granting wakes a thread, so it waits until half of
 * the credit is used.
 *
 * Resuming. A caller who asked for it follows a log, and so does whoever comes back; then the log is the
 * reader, whose room counts, and the exchange is resume.c's. Until the first event there is nothing to
 * come back to, and leaving is leaving.
 *
 * Failing in flight. The sink may not cancel its request, and a response that cannot be written is
 * seen in the sink: the caller is told at once, the model at the end of the turn.
 */
#include "api/infer_internal.h"

#include "api/grpc.h"
#include "api/resume.h"
#include "base/buf.h"
#include "model/dtype.h"

enum {
    FIRST_MAX = 1024,         /* a first event up to this is written on the stack */
    SCRATCH_BYTES = 1024,     /* first block of infer_scratch */
    SCRATCH_MAX = 16 << 20,   /* and the most */
    EXPECTED_MAX = 16 * 1024, /* of a first turn's events */
    CHUNK_BYTES = 16 * 1024,  /* of infer_room */
    CHUNK_FIRST = 1024,       /* while a stream says little */
    FAILURE_BYTES = 8 * ERR_TEXT_MAX,
};

struct infer_stream {
    struct events events;
    enum events_form form;
    enum session_merge merge;
    bool has_merge;         /* the query or the dialect said so */
    bool has_begun;         /* the head is sent, or a message */
    uint64_t keep_ns;       /* how long it may be resumed; 0: not at all */
    struct resumable *kept; /* the log that takes its events, until they end */
    bool is_kept;           /* it was begun so: the exchange is not ours any more */
    uint32_t credit;        /* responses that the model may make still */
    uint64_t count, bytes;  /* responses given, and the bytes of them */
    struct arena *scratch;  /* owned; NULL: nobody asked */
    struct buf *chunk;      /* owned; NULL: none */
    uint8_t *chunk_at;      /* what of it is not used yet: the rest is being sent */
    size_t chunk_left;
};

enum err_code infer_stream(struct infer *infer, enum events_form form, struct err *err)
{
    if (infer->stream == NULL &&
        (infer->stream = arena_zalloc(infer->x->arena, sizeof *infer->stream)) == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a stream; retry later");
    infer->stream->form = form;
    if (infer->call == NULL)
        TRY(resume_asked(infer->x, infer->api, &infer->stream->keep_ns, err));
    return OK;
}

void infer_when_slow(struct infer *infer, enum session_merge merge)
{
    infer->stream->merge = merge;
    infer->stream->has_merge = true;
}

enum session_merge infer_stream_merge(const struct infer *infer)
{
    return infer->stream->merge;
}

/* -- what was asked for ---------------------------------------------------------------------------- */

static enum err_code read_when_slow(struct infer_stream *s, struct slice value, struct err *err)
{
    static const char *const names[] = {
        [SESSION_PAUSE] = "pause", [SESSION_LATEST] = "latest", [SESSION_CONCAT] = "concat"
    };

    for (unsigned i = 0; i < COUNT(names); i++)
        if (slice_is(value, names[i])) {
            s->merge = (enum session_merge)i;
            return OK;
        }
    return err_set(
        err, E_INVALID,
        "when_slow is '%.*s'; it takes pause (the model waits for a slow reader), latest "
        "(only the newest answer waits) or concat (texts that wait are joined)",
        SLICE_ARG(slice_first(value, 40)));
}

static bool is_pair_of(struct slice pair, const char *key)
{
    return slice_is(slice_first(pair, slice_find(pair, '=')), key);
}

enum err_code infer_stream_query(struct infer *infer, struct slice *ret_rest, struct err *err)
{
    struct slice query = infer->x->query, left = query;
    struct text rest;

    if (ret_rest != NULL)
        *ret_rest = query;
    if (query.size == 0)
        return OK;
    text_init_arena(&rest, infer->x->arena, query.size);
    while (left.size != 0) {
        struct slice pair = slice_first(left, slice_find(left, '&'));
        left = slice_skip(left, MIN(pair.size + 1, left.size));
        if (is_pair_of(pair, "when_slow")) {
            TRY(read_when_slow(infer->stream, slice_skip(pair, MIN((size_t)10, pair.size)), err));
            infer->stream->has_merge = true;
            continue;
        }
        if (is_pair_of(pair, "resume"))
            continue;
        if (rest.size != 0)
            text_byte(&rest, '&');
        text_slice_put(&rest, pair);
    }
    if (text_failed(&rest))
        return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
    if (ret_rest != NULL)
        *ret_rest = text_slice(&rest);
    return OK;
}

/* -- memory ---------------------------------------------------------------------------------------- */

struct arena *infer_scratch(struct infer *infer)
{
    struct infer_stream *s = infer->stream;

    if (s->scratch == NULL && (s->scratch = arena_new(SCRATCH_BYTES, SCRATCH_MAX)) != NULL)
        arena_charge_to(s->scratch, infer->x->budget);
    return s->scratch;
}

uint8_t *infer_room(struct infer *infer, size_t most, struct buf **ret_holder)
{
    struct infer_stream *s = infer->stream;

    if (s->chunk == NULL || s->chunk_left < most) {
        size_t room = MAX(most, (size_t)(s->count < 4 ? CHUNK_FIRST : CHUNK_BYTES));
        buf_unref(&s->chunk);
        if (buf_new(&s->chunk, infer->x->budget, room, NULL) != OK)
            return NULL;
        s->chunk_at = buf_fill(s->chunk);
        s->chunk_left = room;
    }
    *ret_holder = s->chunk;
    return s->chunk_at;
}

void infer_room_used(struct infer *infer, size_t used)
{
    require(used <= infer->stream->chunk_left);
    infer->stream->chunk_at += used;
    infer->stream->chunk_left -= used;
}

/* -- credit -------------------------------------------------------------------------------------- */

/* Bytes that a response of this model has at least: what its signature fixes. */
static size_t least_bytes(const struct request *request)
{
    const struct signature *s = model_signature(request->model);
    size_t all = 0;

    for (uint32_t i = 0; i < s->outputs_count; i++) {
        const struct signature_tensor *t = &s->outputs[i];
        size_t bytes = request->wants[i] && t->dtype != PENSTOCK_BYTES ? dtype_size(t->dtype) : 0;
        for (uint32_t d = 0; d < t->rank && bytes < INFER_CREDIT_BYTES; d++)
            bytes *= t->dims[d] > 0 ? (size_t)MIN(t->dims[d], (int64_t)INFER_CREDIT_BYTES) : 1;
        all += MIN(bytes, (size_t)INFER_CREDIT_BYTES);
    }
    return all;
}

static uint32_t credit_for(const struct infer *infer, size_t bytes_each)
{
    uint64_t most = INFER_CREDIT;
    size_t bytes = INFER_CREDIT_BYTES;

    if (UNLIKELY(infer->stream->keep_ns != 0)) {
        uint64_t events;
        size_t size;
        resume_slack(infer->api, &events, &size);
        most = MIN(most, events);
        bytes = MIN(bytes, size);
    }
    return (uint32_t)MIN(most, MAX(bytes / MAX(bytes_each, (size_t)1), (size_t)1));
}

static uint32_t credit_wanted(const struct infer *infer)
{
    const struct infer_stream *s = infer->stream;

    return credit_for(infer, s->count == 0 ? 0 : (size_t)(s->bytes / s->count));
}

enum err_code infer_stream_submit(struct infer *infer, struct err *err)
{
    struct infer_stream *s = infer->stream;
    const struct parameter *p = request_parameter(infer->request, "when_slow");

    if (UNLIKELY(p != NULL) && !s->has_merge)
        TRY(read_when_slow(s, slice_of(p->text), err));
    s->credit = credit_for(infer, least_bytes(infer->request));
    if (infer->rows_apart != 0)
        return infer_rows_open(infer, s->credit, err);
    request_limit_credit(infer->request, s->credit);
    request_merge(infer->request, s->merge);
    return OK;
}

static size_t room_of(struct infer *infer)
{
    struct infer_stream *s = infer->stream;

    if (UNLIKELY(s->is_kept))
        return s->kept != NULL && resumable_has_room(s->kept);
    return infer->call != NULL ? call_room(infer->call) : events_room(&s->events);
}

static bool reader_is_gone(const struct infer *infer)
{
    return !infer->stream->is_kept && infer_is_gone(infer);
}

void infer_stream_grant(struct infer *infer)
{
    struct infer_stream *s = infer->stream;

    if (s == NULL || infer->has_ended || !s->has_begun || reader_is_gone(infer))
        return;
    uint32_t wanted = credit_wanted(infer);
    if (s->credit > wanted / 2)
        return;
    if (room_of(infer) == 0)
        return; /* on_room tells */
    uint32_t more = wanted - s->credit;
    s->credit = wanted;
    if (infer->rows != NULL)
        infer_rows_grant(infer, more);
    else
        request_grant(infer->request, more);
}

/* -- events --------------------------------------------------------------------------------------- */

static void on_log_room(struct resumable *r)
{
    infer_stream_grant(resumable_user_data(r));
}

static void on_log_expired(struct resumable *r)
{
    struct infer *infer = resumable_user_data(r);

    resumable_end(&infer->stream->kept);
    infer_leave(infer);
}

static const struct resumable_user log_user = { .on_room = on_log_room,
                                                .on_expired = on_log_expired };

static COLD enum err_code begin_kept(struct infer *infer, struct err *err)
{
    struct infer_stream *s = infer->stream;

    TRY(resumable_new(&s->kept, infer->api, infer->x, s->keep_ns, &log_user, infer, err));
    s->has_begun = s->is_kept = true;
    resumable_follow(s->kept, infer->x, infer->api, s->form, NULL, 0);
    return OK;
}

/* The head. What fails has answered nothing. */
static enum err_code begin_events(struct infer *infer, struct err *err)
{
    struct infer_stream *s = infer->stream;

    if (UNLIKELY(s->keep_ns != 0))
        return begin_kept(infer, err);
    s->has_begun = true;
    events_begin(&s->events, infer->x, s->form, infer->api->stream_heartbeat_ns, NULL, 0);
    return OK;
}

/* Writes the event where it is to stay; E_RANGE without a text: more room is needed. */
static enum err_code write_event(struct infer *infer, const struct response *response, void *memory,
                                 size_t room, size_t *ret_size, struct err *err)
{
    struct text out;

    text_init_fixed(&out, memory, room);
    TRY(infer->table->event_write(infer, response, &out, err));
    if (UNLIKELY(text_failed(&out)))
        return E_RANGE;
    *ret_size = out.size;
    return OK;
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for one more response; retry later");
}

/* One that was written elsewhere. */
static enum err_code put_written(struct infer *infer, struct slice event, struct err *err)
{
    static const struct slice none;
    struct infer_stream *s = infer->stream;

    if (!s->has_begun) {
        TRY(begin_events(infer, err));
        /* All that the model may make in this turn, in one piece. */
        s->events.usual_bytes = MIN(s->credit * (event.size + 32), (size_t)EXPECTED_MAX);
    }
    s->bytes += event.size;
    if (UNLIKELY(s->is_kept))
        return resumable_put(s->kept, none, event)
                   ? OK
                   : err_set(
                         err, E_EXHAUSTED,
                         "an event of %zu bytes finds no room among those that are kept for who "
                         "comes back (--resume-bytes-max, --memory-limit)",
                         event.size);
    /* Without memory it is cut off, and on_gone comes. */
    events_put(&s->events, none, none, event);
    return OK;
}

/* The first, before which nothing is answered; and each that goes to a log. */
static enum err_code put_apart(struct infer *infer, const struct response *response,
                               struct err *err)
{
    uint8_t few[FIRST_MAX];

    for (int is_most = 0; is_most <= 1; is_most++) {
        CLEANUP(buf_unref) struct buf *buf = NULL;
        size_t size = 0, room = infer->table->event_bound(infer, response, is_most != 0);
        uint8_t *memory = few;
        if (room > sizeof few) {
            TRY(buf_new(&buf, infer->x->budget, room, err));
            memory = buf_fill(buf);
        }
        enum err_code code = write_event(infer, response, memory, room, &size, err);
        if (code == E_RANGE && err->code == OK)
            continue;
        return code != OK ? code : put_written(infer, slice_make(memory, size), err);
    }
    return no_memory(err);
}

static HOT enum err_code put_event(struct infer *infer, const struct response *response,
                                   struct err *err)
{
    static const struct slice none;
    struct infer_stream *s = infer->stream;

    if (UNLIKELY(!s->has_begun || s->is_kept))
        return put_apart(infer, response, err);
    for (int is_most = 0; is_most <= 1; is_most++) {
        size_t size = 0, room = infer->table->event_bound(infer, response, is_most != 0);
        uint8_t *memory = events_open(&s->events, none, none, room);
        if (UNLIKELY(memory == NULL))
            return OK; /* cut off: on_gone comes */
        enum err_code code = write_event(infer, response, memory, room, &size, err);
        if (LIKELY(code == OK)) {
            events_close(&s->events, size);
            s->bytes += size;
            return OK;
        }
        events_discard(&s->events);
        if (err->code != OK)
            return code;
    }
    return no_memory(err);
}

static COLD void put_failure(struct infer *infer, const struct err *err)
{
    static const struct slice none;
    struct infer_stream *s = infer->stream;
    uint8_t memory[FAILURE_BYTES];
    struct text out;

    text_init_fixed(&out, memory, sizeof memory);
    if (infer->table->event_error != NULL) {
        infer->table->event_error(infer, err, &out);
    } else {
        text_str(&out, "{\"error\":");
        text_json(&out, slice_of(err->text));
        api_put_retry(&out, err);
        text_byte(&out, '}');
    }
    if (UNLIKELY(s->is_kept)) {
        /* Without its last event it is cut off, so that nobody takes it for the whole. */
        if (!text_failed(&out) && resumable_put_last(s->kept, none, text_slice(&out)))
            resumable_end(&s->kept);
        else
            resumable_end_with(&s->kept, err);
        return;
    }
    if (text_failed(&out) || !events_put(&s->events, none, none, text_slice(&out)))
        exchange_abort(infer->x);
    events_end(&s->events);
}

/* -- the engine's side ------------------------------------------------------------------------- */

static COLD void end_badly(struct infer *infer, const struct err *err)
{
    infer->has_ended = true;
    if (reader_is_gone(infer))
        return;
    if (!infer->stream->has_begun)
        infer_fail(infer, err);
    else if (infer->call != NULL)
        grpc_end(infer->call, err, NULL);
    else
        put_failure(infer, err);
}

HOT void infer_stream_response(struct infer *infer, const struct response *response)
{
    struct infer_stream *s = infer->stream;
    enum err_code code;
    struct err err;

    if (UNLIKELY(reader_is_gone(infer)))
        return;
    s->credit -= s->credit != 0;
    infer_err_clear(&err);
    if (s->scratch != NULL)
        arena_reset(s->scratch);
    if (infer->call != NULL) {
        uint64_t before = infer->x->body_sent;
        code = infer->table->message(infer, response, &err);
        s->has_begun |= code == OK;
        s->bytes += infer->x->body_sent - before;
    } else {
        code = put_event(infer, response, &err);
    }
    s->count++;
    if (UNLIKELY(code != OK)) {
        end_badly(infer, &err);
        infer_cancel_later(infer);
        return;
    }
    loop_defer_early(infer->x->loop, &infer->task);
}

static void end_call(struct infer *infer)
{
    struct err ok;

    if (infer->table->message_end != NULL)
        infer->table->message_end(infer);
    infer_put_timing(infer);
    if (infer->timing.size != 0)
        (void)call_metadata_trailing(infer->call, "server-timing", infer->timing);
    infer_err_clear(&ok);
    call_end(infer->call, &ok, NULL);
}

void infer_stream_end(struct infer *infer, const struct err *err)
{
    struct infer_stream *s = infer->stream;
    struct err failed;

    if (UNLIKELY(err->code != OK)) {
        end_badly(infer, err);
        return;
    }
    infer->has_ended = true;
    if (reader_is_gone(infer))
        return;
    if (infer->call != NULL) {
        end_call(infer);
        return;
    }
    infer_err_clear(&failed);
    if (!s->has_begun && begin_events(infer, &failed) != OK)
        infer_fail(infer, &failed);
    else if (UNLIKELY(s->is_kept))
        resumable_end(&s->kept);
    else
        events_end(&s->events);
}

void infer_stream_stop(struct infer *infer)
{
    if (infer->stream != NULL)
        events_stop(&infer->stream->events);
}

void infer_stream_deinit(struct infer *infer)
{
    struct infer_stream *s = infer->stream;

    if (s == NULL)
        return;
    events_stop(&s->events);
    resumable_end(&s->kept);
    arena_free(&s->scratch);
    buf_unref(&s->chunk);
}
