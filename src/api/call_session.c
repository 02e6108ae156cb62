/* call_session.c - SPDX-License-Identifier: Apache-2.0
 *
 * Three may end it: the session (on_end), the caller (on_gone), and a failure of ours. Whoever is
 * first sets has_ended; from then on nothing is sent and nothing is read. The session is always told
 * (it is cancelled, unless it has ended), and its on_free is where the memory goes.
 *
 * A session may not be cancelled from its own callbacks, and a failure is often seen in one: the
 * caller is told at once, the session by a task at the end of the turn.
 */
#include "api/call_session.h"

#include "api/grpc.h"
#include "api/note.h"
#include "base/arena.h"
#include "base/buf.h"
#include "model/dtype.h"

enum {
    SCRATCH_BYTES = 1024,    /* first block */
    SCRATCH_MAX = 16 << 20,  /* and the most */
    CHUNK_BYTES = 16 * 1024, /* of room */
    CHUNK_FIRST = 1024,      /* while a stream says little */
    CHUNK_FEW = 4            /* answers that are little */
};

/* -- the end ------------------------------------------------------------------------------------- */

static void release(struct call_session *cs)
{
    struct exchange *x = cs->call->x;

    loop_undefer(&cs->task);
    if (cs->table->deinit != NULL)
        cs->table->deinit(cs);
    arena_free(&cs->scratch);
    buf_unref(&cs->chunk);
    exchange_unref(&x);
}

/* Nothing is sent or read any more; the session follows at the end of the turn. */
static void leave(struct call_session *cs)
{
    cs->has_ended = true;
    cs->must_cancel = true;
    loop_defer_early(cs->call->x->loop, &cs->task);
}

void call_session_fail(struct call_session *cs, const struct err *err)
{
    if (cs->has_ended)
        return;
    leave(cs);
    grpc_end(cs->call, err, cs->field);
}

/* A message was refused: those before it are answered first, where each has an answer. */
static void refuse(struct call_session *cs, const struct err *err)
{
    if (cs->session == NULL || cs->reduce != SESSION_EACH ||
        (cs->failure = arena_alloc(cs->call->x->arena, sizeof *cs->failure)) == NULL) {
        call_session_fail(cs, err);
        return;
    }
    *cs->failure = *err;
    cs->has_failure = true;
    session_finish(cs->session);
}

/* -- credit of answers --------------------------------------------------------------------------- */

/* Bytes that a response has at least: what the signature fixes. */
static size_t least_bytes(const struct signature *s)
{
    size_t all = 0;

    for (uint32_t i = 0; i < s->outputs_count; i++) {
        const struct signature_tensor *t = &s->outputs[i];
        size_t bytes = t->is_hidden || t->dtype == PENSTOCK_BYTES ? 0 : dtype_size(t->dtype);
        for (uint32_t d = 0; d < t->rank && bytes < CALL_SESSION_CREDIT_BYTES; d++)
            bytes *=
                t->dims[d] > 0 ? (size_t)MIN(t->dims[d], (int64_t)CALL_SESSION_CREDIT_BYTES) : 1;
        all += MIN(bytes, (size_t)CALL_SESSION_CREDIT_BYTES);
    }
    return all;
}

static uint32_t credit_for(const struct call_session *cs, size_t bytes_each)
{
    size_t most = cs->merges ? CALL_SESSION_CREDIT_MERGED : CALL_SESSION_CREDIT;

    return (uint32_t)MIN(most,
                         MAX((size_t)1, CALL_SESSION_CREDIT_BYTES / MAX(bytes_each, (size_t)1)));
}

/* Granting may wake a thread, so it waits until half is used. */
static void grant(struct call_session *cs)
{
    uint32_t wanted = credit_for(cs, cs->answers == 0 ? 0 : (size_t)(cs->bytes / cs->answers));

    if (cs->session == NULL || cs->has_ended || cs->credit > wanted / 2 || call_room(cs->call) == 0)
        return; /* on_room tells */
    uint32_t more = wanted - cs->credit;
    cs->credit = wanted;
    session_grant(cs->session, more);
}

static void on_task(struct loop_task *task)
{
    struct call_session *cs = CONTAINER_OF(task, struct call_session, task);

    if (!cs->must_cancel)
        grant(cs);
    else if (cs->session != NULL)
        session_cancel(cs->session);
    else
        release(cs);
}

/* -- messages ------------------------------------------------------------------------------------ */

static HOT enum err_code push(struct call_session *cs, const struct call_message *message,
                              struct err *err)
{
    struct session_piece *piece;

    TRY(api_may_still(cs->call->x, cs->session, err));
    TRY(session_piece_new(cs->session, &piece, err));
    enum err_code code = cs->table->read(cs, message, piece, err);
    if (LIKELY(code == OK)) {
        cs->pieces++;
        code = session_push(cs->session, &piece, err);
        cs->pieces -= code != OK;
    }
    if (UNLIKELY(code != OK))
        session_piece_discard(cs->session, &piece);
    return code;
}

static void wrap(const struct call_session *cs, struct err *err)
{
    if (cs->messages > 1)
        err_wrap(err, "message %llu", (unsigned long long)cs->messages);
}

static void on_message(struct call *call, const struct call_message *message)
{
    struct call_session *cs = call->user_data;
    bool is_piece = true;
    struct err err;

    if (cs->has_ended || cs->has_failure)
        return;
    err.code = OK;
    err.retry_after_ms = 0;
    err.text[0] = '\0';
    cs->messages++;
    enum err_code code = cs->table->look(cs, message, &is_piece, &err);
    if (LIKELY(code == OK && is_piece)) {
        require(cs->session != NULL || cs->has_ended);
        if (cs->has_ended)
            return;
        if (session_pieces_left(cs->session) == 0) {
            cs->held = *message;
            cs->has_held = true;
            return;
        }
        code = push(cs, message, &err);
    }
    if (UNLIKELY(code != OK)) {
        wrap(cs, &err);
        refuse(cs, &err);
        return;
    }
    if (!cs->has_ended)
        call_read(call);
}

static COLD void fail_empty(struct call_session *cs)
{
    struct err err = { 0 };

    err_set(&err, E_INVALID, "the stream ended before its first message, which says what is asked");
    call_session_fail(cs, &err);
}

static void on_half_close(struct call *call)
{
    struct call_session *cs = call->user_data;

    cs->is_half_closed = true;
    if (cs->has_ended || cs->has_held || cs->has_failure)
        return;
    if (cs->session != NULL)
        session_finish(cs->session);
    else if (!cs->was_open)
        fail_empty(cs);
}

static void on_room(struct call *call)
{
    grant(call->user_data);
}

static void on_gone(struct call *call, enum err_code why UNUSED)
{
    struct call_session *cs = call->user_data;

    if (!cs->has_ended)
        leave(cs);
}

/* What is collected has its own end; a conversation has none. */
static void on_drain(struct call *call)
{
    struct call_session *cs = call->user_data;
    struct err err = { 0 };

    if (cs->has_ended || cs->has_failure || cs->reduce != SESSION_EACH || cs->collects)
        return;
    err_set(&err, E_UNAVAILABLE, "the server stops: what came was answered; begin a new stream");
    err.retry_after_ms = 1000;
    refuse(cs, &err);
}

static const struct call_user call_session_user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_room = on_room,
    .on_gone = on_gone,
    .on_drain = on_drain,
};

/* -- the session's side -------------------------------------------------------------------------- */

static HOT void on_response(struct session *session, const struct session_response *response)
{
    struct call_session *cs = session_user(session);
    uint64_t before = cs->call->x->body_sent;
    struct err err;

    cs->credit -= cs->credit != 0;
    if (UNLIKELY(cs->has_ended))
        return;
    cs->call->x->note.responses++;
    err.code = OK;
    err.retry_after_ms = 0;
    err.text[0] = '\0';
    if (cs->scratch != NULL)
        arena_reset(cs->scratch);
    enum err_code code = cs->table->answer(cs, response, &err);
    cs->answers++;
    cs->bytes += cs->call->x->body_sent - before;
    if (UNLIKELY(code != OK))
        call_session_fail(cs, &err);
    else
        loop_defer_early(cs->call->x->loop, &cs->task);
}

static void on_piece_end(struct session *session, const struct session_piece *piece,
                         const struct err *why)
{
    struct call_session *cs = session_user(session);
    struct err err;

    if (cs->has_ended || (why->code == E_CANCELLED && piece->number <= cs->interrupted_to))
        return;
    if (why->code == OK && cs->table->piece_end == NULL)
        return;
    err = *why;
    if (cs->table->piece_end != NULL)
        cs->table->piece_end(cs, piece, &err);
    if (err.code == OK)
        return;
    if (cs->pieces > 1)
        err_wrap(&err, "input %llu", (unsigned long long)piece->number);
    call_session_fail(cs, &err);
}

/* The message that waited for credit. */
static void on_credit(struct session *session, uint32_t pieces UNUSED)
{
    struct call_session *cs = session_user(session);
    struct err err = { 0 };

    if (!cs->has_held || cs->has_ended || cs->has_failure)
        return;
    cs->has_held = false;
    if (push(cs, &cs->held, &err) != OK) {
        wrap(cs, &err);
        refuse(cs, &err);
    } else if (cs->is_half_closed) {
        session_finish(session);
    } else {
        call_read(cs->call);
    }
}

static void on_end(struct session *session, const struct err *why)
{
    struct call_session *cs = session_user(session);
    struct err err = *why;

    if (cs->has_ended)
        return;
    if (cs->has_failure)
        err = *cs->failure;
    else if (err.code == OK && cs->table->end != NULL && cs->table->end(cs, &err) == OK)
        err.code = OK;
    cs->has_ended = true; /* on_free comes by itself */
    grpc_end(cs->call, &err, cs->field);
}

static void on_free(struct session *session)
{
    struct call_session *cs = session_user(session);

    cs->session = NULL;
    release(cs);
}

static void on_run(struct session *session, const struct request *run, enum err_code code)
{
    const struct call_session *cs = session_user(session);

    note_request(cs->call->x, run, 0, code);
}

static const struct session_sink call_session_sink = {
    .on_response = on_response,
    .on_piece_end = on_piece_end,
    .on_credit = on_credit,
    .on_end = on_end,
    .on_free = on_free,
};

/* -- beginning ----------------------------------------------------------------------------------- */

struct call_session *call_session_begin(struct call *call, const struct api *api,
                                        const struct call_session_dialect *table)
{
    struct call_session *cs = arena_zalloc(call->x->arena, table->size);

    if (cs == NULL) {
        struct err err = { 0 };
        err_set(&err, E_EXHAUSTED, "no memory for the stream; retry later");
        grpc_end(call, &err, NULL);
        return NULL;
    }
    cs->call = call;
    cs->api = api;
    cs->table = table;
    cs->task.run = on_task;
    exchange_ref(call->x);
    call->user = &call_session_user;
    call->user_data = cs;
    return cs;
}

void call_session_start(struct call_session *cs)
{
    if (!cs->has_ended)
        call_read(cs->call);
}

enum err_code call_session_open(struct call_session *cs, struct model *model,
                                struct session_settings *settings, struct err *err)
{
    require(!cs->was_open);
    cs->merges = settings->merge != SESSION_PAUSE;
    cs->credit = credit_for(cs, least_bytes(model_signature(model)));
    cs->reduce = settings->reduce;
    settings->loop = cs->call->x->loop;
    settings->budget = cs->call->x->budget;
    settings->bytes_max = cs->api->body_bytes_max;
    settings->deadline_ns = cs->call->deadline_ns;
    settings->credit = cs->credit;
    settings->caller = cs->call->x->caller;
    settings->trace = &cs->call->x->trace;
    settings->on_run = on_run;
    settings->user = cs;
    TRY(session_new(&cs->session, cs->api->engine, model, settings, &call_session_sink, err));
    cs->was_open = true;
    session_start(cs->session);
    return OK;
}

COLD static enum err_code wrong_sequence(struct call_session *cs, uint64_t sequence,
                                         const char *name, struct err *err)
{
    unsigned long long is = sequence, here = cs->messages;

    cs->field = name;
    if (sequence < cs->messages)
        return err_set(err, E_INVALID,
                       "%s is %llu, and this is message %llu of the stream: %llu was there "
                       "already",
                       name, is, here, is);
    return err_set(err, E_INVALID,
                   "%s is %llu, and this is message %llu of the stream: %llu before it are "
                   "missing",
                   name, is, here, is - here);
}

enum err_code call_session_check(struct call_session *cs, uint64_t sequence, const char *name,
                                 struct err *err)
{
    return LIKELY(sequence == 0 || sequence == cs->messages)
               ? OK
               : wrong_sequence(cs, sequence, name, err);
}

void call_session_interrupt(struct call_session *cs)
{
    cs->interrupted_to = cs->pieces;
    if (cs->session != NULL)
        session_interrupt(cs->session);
}

/* -- memory -------------------------------------------------------------------------------------- */

struct arena *call_session_scratch(struct call_session *cs)
{
    if (cs->scratch == NULL && (cs->scratch = arena_new(SCRATCH_BYTES, SCRATCH_MAX)) != NULL)
        arena_charge_to(cs->scratch, cs->call->x->budget);
    return cs->scratch;
}

uint8_t *call_session_room(struct call_session *cs, size_t most, struct buf **ret_holder)
{
    if (cs->chunk == NULL || cs->chunk_left < most) {
        size_t room = MAX(most, (size_t)(cs->answers < CHUNK_FEW ? CHUNK_FIRST : CHUNK_BYTES));
        buf_unref(&cs->chunk);
        if (buf_new(&cs->chunk, cs->call->x->budget, room, NULL) != OK)
            return NULL;
        cs->chunk_at = buf_fill(cs->chunk);
        cs->chunk_left = room;
    }
    *ret_holder = cs->chunk;
    return cs->chunk_at;
}

void call_session_room_used(struct call_session *cs, size_t used)
{
    require(used <= cs->chunk_left);
    cs->chunk_at += used;
    cs->chunk_left -= used;
}
