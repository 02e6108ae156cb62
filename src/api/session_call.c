/* session_call.c - penstock.v1's Session over any call. SPDX-License-Identifier: Apache-2.0
 *
 * One message is read at a time. What is no input is acted upon at once; an input goes into a piece of
 * the session, or is held while all pieces are taken, and nothing is read meanwhile: so the caller is
 * stopped by his own transport, and an Interrupt or a Grant behind as many inputs as Begun allows is
 * still heard.
 *
 * Three may end it: the session (on_end), the caller (on_gone, on_expired), and a failure of ours.
 * Whoever is first sets has_ended; from then on nothing is sent and nothing is read. A session may
 * not be cancelled from its own callbacks, and a failure is often seen in one: the caller is told at
 * once, the session by a task at the end of the turn. The memory goes in on_free.
 *
 * A session that may be taken up again (resume_seconds) keeps no call: its messages go to a log that
 * calls follow, and come from whoever feeds it (api/resume.h). All it needs of the exchange that began
 * it is copied before that.
 */
#include "api/session_call.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "api/note.h"
#include "api/resume.h"
#include "api/session_internal.h"
#include "base/buf.h"
#include "base/mem.h"
#include "codec/number.h"
#include "io/loop.h"
#include "media/marks.h"
#include "model/dtype.h"

enum {
    CREDIT = 64,               /* responses that may be made before the reader took one */
    CREDIT_BYTES = 256 << 10,  /* or about so many bytes of them */
    INTERRUPTS_MAX = 8,        /* that wait to be told */
    ARENA_BYTES = 2048,        /* first block of what the session is told once */
    ARENA_MAX = 4 << 20,
    FIELD_BYTES = 160,
    RESUME_SECONDS_MAX = 1000000000,
};

struct talk {
    struct session_out out;
    const struct api *api;
    struct loop *loop;
    struct exchange *x;       /* one reference; NULL when calls come and go */
    struct call *call;        /* NULL: gone, or resumable */
    struct resumable *resumable;
    struct session *session;  /* NULL: not begun, or gone */
    struct arena *arena;      /* what stays as long as the session: of the exchange, or its own */
    struct arena *own_arena;  /* owned; NULL: the exchange's */
    struct slice model, version; /* of a WebSocket's path; empty: Begin says */
    bool is_socket, has_begun, has_begun_before, is_finished, has_ended, must_cancel, is_draining;
    bool answers_once;        /* the model gives one response an input */
    enum session_reduce reduce;
    uint64_t messages;        /* received */
    uint64_t inputs;          /* of them: the number of the latest */
    uint64_t pushed, ended;   /* pieces */
    /* -- an input that waits for a piece -- */
    bool is_holding, held_is_text;
    struct slice held;
    struct buf *held_by;      /* owned, or NULL: the message stays until the next is read */
    uint32_t raw_input;       /* what binary messages are */
    bool has_raw_input;
    struct err *raw_failure;  /* why there is none; in the arena */
    /* -- interruptions that are not told yet -- */
    uint32_t interrupts_count;
    struct {
        uint64_t message, upto; /* when so many pieces have ended */
    } interrupts[INTERRUPTS_MAX];
    /* -- answers -- */
    uint32_t credit;          /* responses that the model may make still */
    uint32_t credit_max;
    size_t credit_bytes;
    uint64_t grantable;       /* of Begin.credit and Grants; UINT64_MAX: as the transport takes them */
    uint64_t answers;
    struct penstock_pb_output *outputs; /* room to list those of a response */
    const bool *wants;        /* by index */
    /* -- marks -- */
    const struct stream_card *card;
    struct mark_state *marks;
    struct penstock_pb_mark *told;
    uint64_t window, windows, step, pad; /* rows; window 0: not of windows */
    struct loop_task task;
};

/* -- the end ------------------------------------------------------------------------------------- */

static void talk_free(struct talk *t)
{
    struct exchange *x = t->x;

    loop_undefer(&t->task);
    buf_unref(&t->held_by);
    arena_free(&t->own_arena);
    mem_free(t);
    if (x != NULL)
        exchange_unref(&x);
}

/* Nothing is sent or read any more; the session follows at the end of the turn. */
static void leave(struct talk *t)
{
    t->has_ended = true;
    t->must_cancel = true;
    loop_defer_early(t->loop, &t->task);
}

/* Says how it ended: a WebSocket hears it as a message, as its close has room for little. */
static void say_end(struct talk *t, const struct err *err, const char *field)
{
    struct call_details details = { .field = field };
    struct penstock_pb_answer end = {
        .kind = PENSTOCK_PB_END,
        .code = err->code,
        .message = slice_of(err->code == OK ? "" : err->text),
        .field = slice_of(field == NULL ? "" : field),
        .retry_after_ms = penstock_pb_retry(err),
    };
    struct err unsaid = { 0 };

    if (t->is_socket && session_put(&t->out, &end, &unsaid) != OK)
        unsaid.code = OK; /* the close says it */
    if (t->resumable != NULL)
        resumable_end_with(&t->resumable, err);
    else if (t->call != NULL)
        call_end(t->call, err, field != NULL ? &details : NULL);
    t->call = t->out.call = NULL;
    t->out.resumable = NULL;
}

static COLD void fail(struct talk *t, const struct err *why, const char *field)
{
    if (t->has_ended)
        return;
    leave(t);
    say_end(t, why, field);
}

static COLD PRINTF_LIKE(4, 5) void fail_with(struct talk *t, enum err_code code, const char *field,
                                             const char *format, ...)
{
    char text[ERR_TEXT_MAX];
    struct err err = { 0 };
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err_set(&err, code, "%s", text);
    fail(t, &err, field);
}

/* -- answers ------------------------------------------------------------------------------------- */

static HOT void put(struct talk *t, struct penstock_pb_answer *answer)
{
    struct err err;

    err.code = OK;
    err.retry_after_ms = 0;
    err.text[0] = '\0';
    if (UNLIKELY(session_put(&t->out, answer, &err) != OK))
        fail(t, &err, NULL);
}

static uint32_t credit_for(const struct talk *t, size_t bytes_each)
{
    return (uint32_t)MIN((size_t)t->credit_max,
                         MAX((size_t)1, t->credit_bytes / MAX(bytes_each, (size_t)1)));
}

/* Bytes that a response has at least: what the signature fixes. */
static size_t least_bytes(const struct signature *s)
{
    size_t all = 0;

    for (uint32_t i = 0; i < s->outputs_count; i++) {
        const struct signature_tensor *t = &s->outputs[i];
        size_t bytes = t->is_hidden || t->dtype == PENSTOCK_BYTES ? 0 : dtype_size(t->dtype);
        for (uint32_t d = 0; d < t->rank && bytes < CREDIT_BYTES; d++)
            bytes *= t->dims[d] > 0 ? (size_t)MIN(t->dims[d], (int64_t)CREDIT_BYTES) : 1;
        all += MIN(bytes, (size_t)CREDIT_BYTES);
    }
    return all;
}

/* What of the caller's own credit may be used. */
static uint32_t take_grantable(struct talk *t, uint32_t wanted)
{
    uint32_t taken = (uint32_t)MIN((uint64_t)wanted, t->grantable);

    if (t->grantable != UINT64_MAX)
        t->grantable -= taken;
    return taken;
}

/* Granting may wake a thread, so it waits until half is used. */
static void grant(struct talk *t)
{
    uint32_t wanted = credit_for(t, t->answers == 0 ? 0 : (size_t)(t->out.bytes / t->answers));

    if (t->session == NULL || t->has_ended || t->credit > wanted / 2 || t->grantable == 0 ||
        !session_has_room(&t->out))
        return; /* on_room tells */
    uint32_t more = take_grantable(t, wanted - t->credit);
    t->credit += more;
    session_grant(t->session, more);
}

static void on_task(struct loop_task *task)
{
    struct talk *t = CONTAINER_OF(task, struct talk, task);

    if (!t->must_cancel)
        grant(t);
    else if (t->session != NULL)
        session_cancel(t->session);
    else
        talk_free(t);
}

static double score_of(const struct penstock_tensor *t)
{
    double wide;
    float single;
    uint16_t half;

    switch (t->dtype) {
    case PENSTOCK_FP32:
        if (t->size < sizeof single)
            break;
        memcpy(&single, t->data, sizeof single);
        return (double)single;
    case PENSTOCK_FP64:
        if (t->size < sizeof wide)
            break;
        memcpy(&wide, t->data, sizeof wide);
        return wide;
    case PENSTOCK_FP16:
    case PENSTOCK_BF16:
        if (t->size < sizeof half)
            break;
        memcpy(&half, t->data, sizeof half);
        return t->dtype == PENSTOCK_FP16 ? number_of_f16(half) : number_of_bf16(half);
    default: break;
    }
    return NAN;
}

/* Marks that this response makes; `merged` before it were never seen. */
static uint32_t mark(struct talk *t, const struct session_response *r, uint64_t input)
{
    uint32_t count = 0;

    t->windows += 1 + r->merged;
    uint64_t first = (t->windows - 1) * t->step;
    uint64_t row = t->reduce == SESSION_WINDOW ? first - MIN(first, t->pad) : input - (input != 0);
    for (uint32_t i = 0; i < t->card->marks_count; i++) {
        const struct stream_mark *m = &t->card->marks[i];
        const struct response_output *output = &r->response->outputs[m->output];
        if (!output->is_set)
            continue;
        struct mark_rule rule = { m->on, m->off, m->hold };
        double score = score_of(&output->tensor);
        uint64_t at = 0;
        enum mark kind = mark_next(&rule, &t->marks[i], score, row, &at);
        if (kind != MARK_NONE)
            t->told[count++] = (struct penstock_pb_mark){ m->name, kind == MARK_START, at, score };
    }
    return count;
}

/* The caller's number of the input. */
static uint64_t input_of(const struct session_piece *piece, uint64_t number)
{
    return piece != NULL ? (uint64_t)(uintptr_t)piece->user : number;
}

static void on_run(struct session *session, const struct request *run, enum err_code code)
{
    const struct talk *t = session_user(session);

    note_request(t->x, run, 0, code);
}

static HOT void on_response(struct session *session, const struct session_response *r)
{
    struct talk *t = session_user(session);

    t->credit -= t->credit != 0;
    if (UNLIKELY(t->has_ended))
        return;
    if (LIKELY(t->x != NULL))
        t->x->note.responses++;
    struct penstock_pb_answer answer = {
        .kind = PENSTOCK_PB_OUTPUT,
        .input = input_of(r->of, r->piece),
        .outputs = t->outputs,
        .outputs_count = session_outputs(r->response, t->outputs),
        .merged = r->merged,
        .is_last = t->answers_once,
        .marks = t->told,
    };
    if (r->of != NULL)
        answer.id = slice_of(r->of->id);
    if (UNLIKELY(t->marks != NULL))
        answer.marks_count = mark(t, r, answer.input);
    t->answers++;
    put(t, &answer);
    loop_defer_early(t->loop, &t->task);
}

/* -- what an input came to ------------------------------------------------------------------------- */

static void tell_answered(struct talk *t, uint64_t input, const char *id, const struct err *err,
                          const char *field)
{
    struct penstock_pb_answer answer = {
        .kind = PENSTOCK_PB_ANSWERED,
        .input = input,
        .id = slice_of(id == NULL ? "" : id),
        .code = err->code,
        .message = slice_of(err->code == OK ? "" : err->text),
        .field = slice_of(field == NULL ? "" : field),
        .retry_after_ms = penstock_pb_retry(err),
    };

    put(t, &answer);
}

/* Interruptions whose last input has ended. */
static void tell_interrupted(struct talk *t)
{
    uint32_t told = 0;

    while (told < t->interrupts_count && t->interrupts[told].upto <= t->ended) {
        struct penstock_pb_answer answer = { .kind = PENSTOCK_PB_INTERRUPTED,
                                             .input = t->interrupts[told].message };
        told++;
        if (!t->has_ended)
            put(t, &answer);
    }
    t->interrupts_count -= told;
    memmove(t->interrupts, t->interrupts + told, t->interrupts_count * sizeof t->interrupts[0]);
}

static void on_piece_end(struct session *session, const struct session_piece *piece,
                         const struct err *err)
{
    struct talk *t = session_user(session);

    t->ended = piece->number;
    if (t->has_ended)
        return;
    if (err->code != OK || !t->answers_once)
        tell_answered(t, input_of(piece, piece->number), piece->id, err, NULL);
    if (UNLIKELY(t->interrupts_count != 0))
        tell_interrupted(t);
}

static void on_end(struct session *session, const struct err *err)
{
    struct talk *t = session_user(session);
    struct err why = *err;

    if (t->has_ended)
        return;
    t->ended = UINT64_MAX;
    tell_interrupted(t);
    if (t->has_ended) /* which could not be said */
        return;
    if (why.code == OK && t->is_draining)
        err_set(&why, E_UNAVAILABLE, "the server stops; what was sent is answered");
    t->has_ended = true; /* on_free comes by itself */
    say_end(t, &why, NULL);
}

static void on_free(struct session *session)
{
    struct talk *t = session_user(session);

    t->session = NULL;
    talk_free(t);
}

/* -- reading --------------------------------------------------------------------------------------- */

static void read_next(struct talk *t)
{
    if (t->has_ended || t->is_holding)
        return;
    if (t->resumable != NULL)
        resumable_read(t->resumable);
    else if (t->call != NULL)
        call_read(t->call);
}

static enum err_code decode(struct talk *t, struct slice bytes, bool is_text, struct arena *arena,
                            struct penstock_pb_request *ret, const char **ret_field, struct err *err)
{
    TRY(is_text ? penstock_pb_decode_json(ret, bytes, arena, ret_field, err)
                : penstock_pb_decode_session(ret, bytes, arena, ret_field, err));
    if (LIKELY(ret->sequence == 0 || ret->sequence == t->messages))
        return OK;
    *ret_field = "sequence";
    return err_set(err, E_INVALID,
                   "sequence: it is %llu, and this is message %llu of the stream: %s",
                   (unsigned long long)ret->sequence, (unsigned long long)t->messages,
                   ret->sequence < t->messages ? "it was there already"
                                               : "one before it is missing");
}

/* Is a message raw elements, and no message of ours? */
static bool is_raw(const struct talk *t, bool is_text)
{
    return t->out.is_json && !is_text;
}

static enum err_code fill_piece(struct talk *t, struct slice bytes, struct buf *holder,
                                bool is_text, struct session_piece *piece,
                                struct penstock_pb_request *pb, const char **ret_field,
                                struct err *err)
{
    const struct signature *s = model_signature(session_model(t->session));
    struct session_memory memory = { .arena = piece->arena,
                                     .budget = t->out.budget,
                                     .holder = holder,
                                     .window = t->window };

    if (is_raw(t, is_text)) {
        if (t->has_raw_input)
            return session_read_raw(bytes, t->raw_input, s, piece->inputs, piece->has_input, memory,
                                    err);
        *ret_field = "begin.binary_input";
        *err = *t->raw_failure;
        return err->code;
    }
    if (pb->id.size != 0 &&
        (piece->id = arena_strndup(piece->arena, pb->id.data, pb->id.size)) == NULL)
        return session_no_memory(err);
    TRY(session_read_inputs(pb, "input.", s, piece->inputs, piece->has_input, memory, ret_field,
                            err));
    return session_read_parameters(pb->parameters, "input.", piece->arena, &piece->parameters,
                                   ret_field, err);
}

/* An input for which there is a piece. What is wrong with it alone is told of it alone, where each has
 * an answer. */
static HOT void take_input(struct talk *t, struct slice bytes, struct buf *holder, bool is_text)
{
    struct penstock_pb_request pb = { .kind = PENSTOCK_PB_INPUT };
    struct session_piece *piece;
    const char *field = NULL;
    struct err err;
    bool is_message = true; /* it could be read at all */

    err.code = OK;
    err.retry_after_ms = 0;
    err.text[0] = '\0';
    /* Of one that calls follow, whoever brought it was asked (resume.c). */
    if (UNLIKELY((t->x != NULL && api_may_still(t->x, t->session, &err) != OK) ||
                 session_piece_new(t->session, &piece, &err) != OK)) {
        fail(t, &err, NULL);
        return;
    }
    enum err_code code = OK;
    if (!is_raw(t, is_text)) {
        code = decode(t, bytes, is_text, piece->arena, &pb, &field, &err);
        is_message = code == OK;
    }
    t->inputs++;
    piece->user = (void *)(uintptr_t)t->inputs;
    if (LIKELY(code == OK))
        code = fill_piece(t, bytes, holder, is_text, piece, &pb, &field, &err);
    if (LIKELY(code == OK)) {
        t->pushed++;
        code = session_push(t->session, &piece, &err);
        if (LIKELY(code == OK))
            return;
        t->pushed--;
        if (!is_raw(t, is_text))
            field = session_field(&pb, "input.", model_signature(session_model(t->session)),
                                  piece->inputs, piece->has_input, piece->arena);
    }
    if (is_message && t->reduce == SESSION_EACH && code != E_EXHAUSTED && !t->has_ended)
        tell_answered(t, t->inputs, piece->id, &err, field);
    else
        fail(t, &err, field);
    session_piece_discard(t->session, &piece);
}

static void finish(struct talk *t)
{
    t->is_finished = true;
    if (t->session != NULL && !t->is_holding)
        session_finish(t->session);
}

static void interrupt(struct talk *t)
{
    if (t->interrupts_count == INTERRUPTS_MAX) {
        fail_with(t, E_EXHAUSTED, NULL,
                  "%d interruptions wait for the model to stop already; wait for Interrupted",
                  INTERRUPTS_MAX);
        return;
    }
    t->interrupts[t->interrupts_count].message = t->messages;
    t->interrupts[t->interrupts_count].upto = t->reduce == SESSION_EACH ? t->pushed : 0;
    t->interrupts_count++;
    session_interrupt(t->session);
    tell_interrupted(t);
}

static void take_grant(struct talk *t, uint64_t responses)
{
    if (t->grantable == UINT64_MAX) {
        fail_with(t, E_INVALID, "grant",
                  "grant: this session began without a credit, so answers come as the transport takes "
                  "them; set begin.credit");
        return;
    }
    if (__builtin_add_overflow(t->grantable, responses, &t->grantable))
        t->grantable = UINT64_MAX - 1;
    grant(t);
}

/* What is no input: nothing of it stays, so its memory may be that of the session. */
static void take_word(struct talk *t, struct slice bytes, bool is_text, enum penstock_pb_kind kind)
{
    struct penstock_pb_request pb;
    const char *field = NULL;
    struct err err = { 0 };

    if (decode(t, bytes, is_text, t->arena, &pb, &field, &err) != OK) {
        fail(t, &err, field);
        return;
    }
    switch (pb.kind) {
    case PENSTOCK_PB_INTERRUPT: interrupt(t); return;
    case PENSTOCK_PB_GRANT: take_grant(t, pb.responses); return;
    case PENSTOCK_PB_FINISH: finish(t); return;
    case PENSTOCK_PB_BEGIN:
        fail_with(t, E_INVALID, "begin",
                  "begin: the session has begun already; open another call for another model");
        return;
    default:
        fail_with(t, E_INVALID, NULL,
                  "a SessionRequest without a message%s: it takes one of begin, input, interrupt, "
                  "grant and finish",
                  kind == PENSTOCK_PB_NOTHING ? "" : " that can be read");
        return;
    }
}

/* -- beginning ------------------------------------------------------------------------------------- */

static const struct session_sink sink;

static enum err_code wants_of(struct talk *t, const struct penstock_pb_request *pb,
                              const struct signature *s, struct session_settings *settings,
                              const char **ret_field, struct err *err)
{
    struct parameter *parameters = NULL;
    bool *wants = arena_alloc(t->arena, MAX(s->outputs_count, 1) * sizeof *wants);

    if (wants == NULL)
        return session_no_memory(err);
    TRY(session_read_outputs(pb, "begin.", s, false, wants, t->arena, ret_field, err));
    TRY(session_read_parameters(pb->parameters, "begin.", t->arena, &parameters, ret_field, err));
    TRY(session_read_slow(pb->when_slow, "begin.", t->arena, &settings->merge, ret_field, err));
    settings->wants = t->wants = wants;
    settings->parameters = parameters;
    return OK;
}

static enum err_code prepare_answers(struct talk *t, struct model *model, struct err *err)
{
    const struct signature *s = model_signature(model);
    struct penstock_pb_describe *described =
        session_describe(s->outputs, s->outputs_count, t->arena);

    t->outputs = arena_alloc(t->arena, MAX(s->outputs_count, 1) * sizeof *t->outputs);
    if (described == NULL || t->outputs == NULL)
        return session_no_memory(err);
    t->out.described = described;
    t->out.heads = penstock_pb_heads_new(described, s->outputs_count, slice_make("", 0),
                                         slice_make("", 0), t->arena);
    if (t->out.heads == NULL)
        return session_no_memory(err);
    t->card = s->stream;
    if (t->card == NULL || t->card->marks_count == 0)
        return OK;
    t->marks = arena_zalloc(t->arena, t->card->marks_count * sizeof *t->marks);
    t->told = arena_alloc(t->arena, t->card->marks_count * sizeof *t->told);
    return t->marks != NULL && t->told != NULL ? OK : session_no_memory(err);
}

/* What binary messages are; without one of them nobody needs to know. */
static enum err_code prepare_raw(struct talk *t, const struct penstock_pb_request *pb,
                                 const struct signature *s, const char **ret_field, struct err *err)
{
    struct err why = { 0 };
    const char *field;

    if (session_find_raw(pb->binary_input, s, &t->raw_input, &field, &why) == OK) {
        t->has_raw_input = true;
        return OK;
    }
    if (pb->binary_input.size != 0) {
        *ret_field = field;
        *err = why;
        return err->code;
    }
    t->raw_failure = arena_alloc(t->arena, sizeof *t->raw_failure);
    if (t->raw_failure == NULL)
        return session_no_memory(err);
    *t->raw_failure = why;
    return OK;
}

/* The model that Begin names, or the path. */
static enum err_code find_model(struct talk *t, const struct penstock_pb_request *pb,
                                struct model **ret, const char **ret_field, struct err *err)
{
    struct slice model = pb->model, version = pb->version;

    if (t->model.size != 0) {
        if (model.size != 0 && !slice_eq(model, t->model)) {
            *ret_field = "begin.model";
            return err_set(err, E_INVALID,
                           "begin.model: it is '%.*s', and the path names '%.*s'; leave it out",
                           SLICE_ARG(slice_first(model, 80)), SLICE_ARG(slice_first(t->model, 80)));
        }
        model = t->model;
        if (t->version.size != 0) {
            if (version.size != 0 && !slice_eq(version, t->version)) {
                *ret_field = "begin.version";
                return err_set(err, E_INVALID,
                               "begin.version: it is '%.*s', and the path names '%.*s'; leave it out",
                               SLICE_ARG(slice_first(version, 80)),
                               SLICE_ARG(slice_first(t->version, 80)));
            }
            version = t->version;
        }
    }
    if (model.size == 0) {
        *ret_field = "begin.model";
        return err_set(err, E_INVALID, "begin.model: it is empty; it takes a model's name");
    }
    enum err_code code = api_want_model(t->x, t->api, ACCESS_INFER, slice_of("models"), ret, model, version, err);
    if (code == E_INVALID && version.size != 0)
        *ret_field = "begin.version";
    return code;
}

static void say_begun(struct talk *t, struct model *model)
{
    const struct signature *s = model_signature(model);
    struct penstock_pb_describe *takes, *gives;
    struct penstock_pb_answer begun = {
        .kind = PENSTOCK_PB_BEGUN,
        .model = slice_of(model_name(model)),
        .version = slice_of(model_version_text(model)),
        .session = slice_of(t->resumable != NULL ? resumable_id(t->resumable) : ""),
        .inputs_at_once = session_pieces_max(t->session),
        .received = t->has_begun_before ? t->messages : 0,
    };

    takes = session_describe(s->inputs, s->inputs_count, t->arena);
    gives = session_describe(s->outputs, s->outputs_count, t->arena);
    if (takes == NULL || gives == NULL) {
        struct err err = { 0 };
        session_no_memory(&err);
        fail(t, &err, NULL);
        return;
    }
    for (uint32_t i = 0; i < s->inputs_count; i++)
        if (!s->inputs[i].is_hidden && !s->inputs[i].is_constant && !s->inputs[i].is_state)
            takes[begun.takes_count++] = takes[i];
    for (uint32_t i = 0; i < s->outputs_count; i++)
        if (t->wants[i])
            gives[begun.gives_count++] = gives[i];
    begun.takes = takes;
    begun.gives = gives;
    t->has_begun_before = true;
    put(t, &begun);
}

static enum err_code prepare_resumable(struct talk *t, double seconds, const char **ret_field,
                                       struct err *err);
static enum err_code become_resumable(struct talk *t, double seconds, struct err *err);

static enum err_code open(struct talk *t, struct model *model,
                          const struct penstock_pb_request *pb, const char **ret_field,
                          struct err *err)
{
    const struct signature *s = model_signature(model);
    struct session_settings settings = { .reduce = SESSION_EACH,
                                         .loop = t->loop,
                                         .budget = t->out.budget,
                                         .bytes_max = t->api->body_bytes_max,
                                         .deadline_ns = UINT64_MAX,
                                         .on_run = on_run,
                                         .caller = t->x->caller,
                                         .user = t };

    note_model(t->x, model);
    if (pb->resume_seconds == 0) /* else it may live longer than the exchange that began it */
        settings.trace = &t->x->trace;
    if (pb->resume_seconds != 0)
        TRY(prepare_resumable(t, pb->resume_seconds, ret_field, err));
    TRY(session_read_reduce(pb, "begin.", s, SESSION_EACH, t->arena, &settings, ret_field, err));
    TRY(wants_of(t, pb, s, &settings, ret_field, err));
    TRY(prepare_answers(t, model, err));
    if (t->out.is_json)
        TRY(prepare_raw(t, pb, s, ret_field, err));
    t->out.has_binary = t->out.is_json && pb->has_binary_outputs;
    t->reduce = settings.reduce;
    t->window = t->reduce == SESSION_WINDOW ? settings.window : 0;
    t->step = settings.step != 0 ? settings.step : settings.window;
    t->pad = settings.pad;
    t->answers_once = t->reduce == SESSION_EACH && !model_is_decoupled(model) && !model_takes_stream(model);
    t->grantable = pb->credit == 0 ? UINT64_MAX : pb->credit;
    t->credit = settings.credit = take_grantable(t, credit_for(t, least_bytes(s)));
    TRY(session_new(&t->session, t->api->engine, model, &settings, &sink, err));
    return pb->resume_seconds == 0 ? OK : become_resumable(t, pb->resume_seconds, err);
}

static void begin(struct talk *t, const struct penstock_pb_request *pb)
{
    CLEANUP(model_unref) struct model *model = NULL;
    const char *field = NULL;
    struct err err = { 0 };

    t->has_begun = true;
    if (find_model(t, pb, &model, &field, &err) != OK || open(t, model, pb, &field, &err) != OK) {
        fail(t, &err, field);
        return;
    }
    say_begun(t, model);
    if (!t->has_ended)
        session_start(t->session);
}

/* The first message of all. */
static void take_first(struct talk *t, struct slice bytes, bool is_text, enum penstock_pb_kind kind)
{
    struct penstock_pb_request pb = { .kind = PENSTOCK_PB_NOTHING };
    const char *field = NULL;
    struct err err = { 0 };

    if (kind == PENSTOCK_PB_INPUT && t->model.size != 0) {
        pb.kind = PENSTOCK_PB_BEGIN; /* the path says which model, the card the rest */
        begin(t, &pb);
        return;
    }
    if (decode(t, bytes, is_text, t->arena, &pb, &field, &err) != OK)
        fail(t, &err, field);
    else if (pb.kind != PENSTOCK_PB_BEGIN)
        fail_with(t, E_INVALID, "begin",
                  "begin: the first message of a session says which model; this one is %s",
                  pb.kind == PENSTOCK_PB_INPUT       ? "an input"
                  : pb.kind == PENSTOCK_PB_INTERRUPT ? "an interruption"
                  : pb.kind == PENSTOCK_PB_GRANT     ? "a grant"
                  : pb.kind == PENSTOCK_PB_FINISH    ? "the end"
                                                     : "empty");
    else
        begin(t, &pb);
}

/* -- messages in ----------------------------------------------------------------------------------- */

static HOT void receive(struct talk *t, struct slice bytes, struct buf *holder, bool is_text)
{
    enum penstock_pb_kind kind = PENSTOCK_PB_INPUT;

    if (t->has_ended || t->is_draining)
        return; /* what came before it is answered, and then it ends */
    t->messages++;
    if (!is_raw(t, is_text))
        kind = is_text ? penstock_pb_peek_json(bytes) : penstock_pb_peek(bytes);
    if (UNLIKELY(t->is_finished)) {
        fail_with(t, E_INVALID, NULL, "message %llu came after the end of the inputs (finish)",
                  (unsigned long long)t->messages);
        return;
    }
    if (UNLIKELY(!t->has_begun)) {
        take_first(t, bytes, is_text, kind);
        if (t->has_ended)
            return;
        if (kind != PENSTOCK_PB_INPUT) {
            read_next(t);
            return;
        }
    }
    if (UNLIKELY(kind != PENSTOCK_PB_INPUT)) {
        take_word(t, bytes, is_text, kind);
    } else if (UNLIKELY(session_pieces_left(t->session) == 0)) {
        t->is_holding = true;
        t->held = bytes;
        t->held_is_text = is_text;
        t->held_by = buf_ref(holder);
    } else {
        take_input(t, bytes, holder, is_text);
    }
    read_next(t);
}

static void on_credit(struct session *session, uint32_t pieces UNUSED)
{
    struct talk *t = session_user(session);

    if (!t->is_holding || t->has_ended)
        return;
    struct buf *holder = TAKE(t->held_by);
    t->is_holding = false;
    take_input(t, t->held, holder, t->held_is_text);
    buf_unref(&holder);
    if (t->is_finished && !t->has_ended)
        session_finish(session);
    read_next(t);
}

static const struct session_sink sink = {
    .on_response = on_response,
    .on_piece_end = on_piece_end,
    .on_credit = on_credit,
    .on_end = on_end,
    .on_free = on_free,
};

/* -- over a call ----------------------------------------------------------------------------------- */

static HOT void on_message(struct call *call, const struct call_message *message)
{
    receive(call->user_data, message->bytes, message->holder, message->is_text);
}

static void on_half_close(struct call *call)
{
    struct talk *t = call->user_data;

    if (t->is_socket || t->has_ended)
        return; /* a WebSocket that is closed is gone: on_gone follows */
    if (t->has_begun)
        finish(t);
    else
        fail_with(t, E_INVALID, "begin",
                  "begin: the stream ended before its first message, which says which model");
}

static void on_room(struct call *call)
{
    grant(call->user_data);
}

static void on_gone(struct call *call, enum err_code why UNUSED)
{
    struct talk *t = call->user_data;

    t->call = t->out.call = NULL;
    if (!t->has_ended)
        leave(t);
}

static void on_drain(struct call *call)
{
    struct talk *t = call->user_data;

    if (t->has_ended)
        return;
    t->is_draining = true;
    if (t->session != NULL)
        finish(t);
    else
        fail_with(t, E_UNAVAILABLE, NULL, "the server stops");
}

static const struct call_user talk_user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_room = on_room,
    .on_gone = on_gone,
    .on_drain = on_drain,
};

static struct talk *talk_new(struct call *call, const struct api *api)
{
    struct talk *t = mem_zalloc(sizeof *t);

    if (t == NULL) {
        struct err err = { 0 };
        err_set(&err, E_EXHAUSTED, "no memory for the stream; retry later");
        call_end(call, &err, NULL);
        return NULL;
    }
    t->api = api;
    t->loop = call->x->loop;
    t->x = exchange_ref(call->x);
    t->arena = call->x->arena;
    t->call = t->out.call = call;
    t->out.budget = call->x->budget;
    t->credit_max = CREDIT;
    t->credit_bytes = CREDIT_BYTES;
    t->task.run = on_task;
    call->user = &talk_user;
    call->user_data = t;
    return t;
}

void session_begin_call(struct call *call, const struct api *api)
{
    struct talk *t = talk_new(call, api);

    if (t == NULL)
        return;
    call->keeps_none = true; /* what is needed of Begin is copied */
    call_read(call);
}

void session_begin_socket(struct call *call, const struct api *api, struct slice model,
                          struct slice version, bool is_json)
{
    struct talk *t = talk_new(call, api);

    if (t == NULL)
        return;
    t->is_socket = true;
    t->model = model;
    t->version = version;
    t->out.is_json = is_json;
    call_read(call);
}

/* -- over calls that come and go -------------------------------------------------------------------- */

static void on_log_room(struct resumable *r)
{
    grant(resumable_user_data(r));
}

static void on_expired(struct resumable *r)
{
    struct talk *t = resumable_user_data(r);

    if (!t->has_ended)
        leave(t);
    t->out.resumable = NULL;
    resumable_end(&t->resumable);
}

static void on_input(struct resumable *r, const struct resumable_input *input)
{
    receive(resumable_user_data(r), input->bytes, input->holder, input->is_text);
}

/* Who comes back learns what of his arrived. */
static void on_attached(struct resumable *r)
{
    struct talk *t = resumable_user_data(r);

    if (!t->has_ended)
        say_begun(t, session_model(t->session));
}

static const struct resumable_user resumable_user = {
    .on_room = on_log_room,
    .on_expired = on_expired,
    .on_input = on_input,
    .on_attached = on_attached,
    .on_closed = on_expired,
};

/* Before anything is made that has to stay: the exchange may go before the session does. */
static enum err_code prepare_resumable(struct talk *t, double seconds, const char **ret_field,
                                       struct err *err)
{
    uint64_t events;
    size_t bytes;

    *ret_field = "begin.resume_seconds";
    if (!(seconds > 0 && seconds <= RESUME_SECONDS_MAX))
        return err_set(err, E_INVALID,
                       "begin.resume_seconds: it is %g; it takes seconds, more than 0 and up to %d",
                       seconds, RESUME_SECONDS_MAX);
    if (!t->is_socket)
        return err_set(err, E_UNIMPLEMENTED,
                       "begin.resume_seconds: a gRPC call ends with its connection; open "
                       "/models/{model}/stream as a WebSocket to take it up again");
    if (t->api->resumables == NULL)
        return err_set(err, E_UNIMPLEMENTED,
                       "begin.resume_seconds: this server keeps no streams (--resume-streams-max)");
    *ret_field = NULL;
    /* An input may be told twice over, as its answer and its end. */
    resume_slack(t->api, &events, &bytes);
    t->credit_max = (uint32_t)MIN((uint64_t)CREDIT, MAX(events / 2, (uint64_t)1));
    t->credit_bytes = MIN((size_t)CREDIT_BYTES, MAX(bytes / 2, (size_t)1));
    t->own_arena = arena_new(ARENA_BYTES, ARENA_MAX);
    if (t->own_arena == NULL)
        return session_no_memory(err);
    arena_charge_to(t->own_arena, t->out.budget);
    t->arena = t->own_arena;
    return OK;
}

/* From here on the session keeps no call. */
static enum err_code become_resumable(struct talk *t, double seconds, struct err *err)
{
    TRY(resumable_new(&t->resumable, t->api, t->x, (uint64_t)(seconds * 1e9), &resumable_user, t,
                      err));
    enum err_code code = resumable_attach_call(t->resumable, t->call, 0, err);
    if (code != OK) {
        resumable_end(&t->resumable);
        return code;
    }
    t->out.resumable = t->resumable;
    t->call = t->out.call = NULL;
    struct exchange *x = TAKE(t->x);
    exchange_unref(&x);
    return OK;
}
