/* upload.c - SPDX-License-Identifier: Apache-2.0
 *
 * A part (`struct carrier`) goes to and fro between its own loop, where its exchange is, and the
 * upload's, where the session is: a message each way, one under way at a time, so that who has the
 * message has the carrier. At home it reads a chunk of the body; at the upload's loop the chunk goes into
 * the session's pieces, and the carrier stays there as long as the session takes no more. That is the
 * credit: no more than one chunk of a part, and the session's pieces, are in memory.
 *
 * Whose exchange is gone goes once more to the upload's loop to say so (DETACH), because that is the
 * only place that knows whether it is still the one that feeds.
 */
#include "api/upload.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "api/identity.h"
#include "api/node.h"
#include "api/note.h"
#include "api/reply.h"
#include "api/typed.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/map.h"
#include "base/mem.h"
#include "engine/session.h"
#include "io/env.h"
#include "io/loop.h"
#include "model/dtype.h"
#include "telemetry/metrics.h"

enum {
    PART_BYTES = 256 << 10, /* handed over at once */
    ID_BYTES = NODE_NAME_MAX + 2 + IDENTITY_SECRET_MAX,
    ANSWER_BYTES_MAX = 16 << 20,
    ARENA_FIRST = 512,
    ARENA_CAP = 1 << 20,
};

struct uploads {
    struct uploads_settings settings;
    char node[NODE_NAME_MAX + 1];
    pthread_mutex_t mutex; /* leaf: the table, and what upload.h's readers are told of each */
    struct map *by_id;     /* owned; each entry is a reference */
    bool is_draining;      /* under the mutex */
    _Atomic uint64_t now, begun, completed, expired, refused, bytes; /* for metrics */
};

struct carrier;

struct upload {
    _Atomic uint32_t refs;
    struct uploads *all;
    const struct api *api;
    struct loop *loop;
    char id[ID_BYTES];
    uint8_t identity[IDENTITY_BYTES];
    const char *model_name; /* in the arena: any thread, also when it is over */
    /* -- under the table's mutex; written by its loop alone -- */
    uint64_t offset;
    bool is_whole; /* every byte has come */
    bool is_over;  /* `err`, and with OK `answer`, say how it ended */
    struct err err;
    struct buf *answer; /* owned: JSON */
    /* -- its loop's own -- */
    struct session *session;
    struct model *model; /* held while it is not over */
    const struct typed_plan *plan;
    struct typed_query query;
    struct arena *arena; /* owned: the query */
    struct text json;    /* owned: the newest answer */
    uint32_t input;      /* index */
    uint32_t free_dim;   /* of its shape; UINT32_MAX: none */
    size_t row_bytes, chunk_bytes;
    struct session_piece *piece; /* being filled, or NULL */
    struct buf *bytes;           /* of that piece */
    size_t filled;
    struct budget *budget;   /* of who began it; outlives it */
    struct carrier *current; /* that feeds; borrowed */
    bool is_consuming, has_pushed, is_finishing;
    bool is_forgotten; /* out of the table: nothing would hold it for a timer */
    struct timer expiry;
    struct loop_msg drain_msg;
    _Atomic bool drain_is_posted;
};

enum task { ATTACH, DATA, DETACH, CANCEL };
enum verdict { GO_ON, STORED, RESULT, MISMATCH, SUPERSEDED, FREED };

struct carrier {
    struct upload *upload; /* held */
    struct exchange *x;    /* held */
    struct loop *home;
    struct loop_msg msg; /* to whom it goes */
    enum task task;
    enum verdict verdict;
    struct buf *chunk; /* owned */
    size_t at, size;   /* of the chunk: what was taken of it, what there is */
    uint64_t offset;   /* as its caller says; then what is so */
    bool is_end, makes_whole, is_creator, is_whole;
    bool is_here; /* the upload's loop has it; that loop's own */
    bool is_away,
        is_gone; /* it was sent there and is not back; its exchange is gone: its home's own */
    struct err err;
    struct buf *answer; /* owned */
};

static const struct exchange_user nobody;

/* -- references -------------------------------------------------------------------------------- */

static struct upload *upload_ref(struct upload *u)
{
    atomic_fetch_add_explicit(&u->refs, 1, memory_order_relaxed);
    return u;
}

static void upload_unref(struct upload **slot)
{
    struct upload *u = TAKE(*slot);

    if (u == NULL || atomic_fetch_sub_explicit(&u->refs, 1, memory_order_acq_rel) != 1)
        return;
    buf_unref(&u->answer);
    arena_free(&u->arena);
    text_deinit(&u->json);
    mem_free(u);
}

/* Out of the table; false: it was not there any more. */
static bool forget(struct upload *u)
{
    struct uploads *all = u->all;

    pthread_mutex_lock(&all->mutex);
    struct upload *found = map_remove(all->by_id, slice_of(u->id));
    atomic_store_explicit(&all->now, map_count(all->by_id), memory_order_relaxed);
    pthread_mutex_unlock(&all->mutex);
    u->is_forgotten = true;
    bool was_there = found != NULL;
    upload_unref(&found);
    return was_there;
}

/* -- on the upload's loop: ends ------------------------------------------------------------------ */

static void on_home(struct loop_msg *msg);

static void reply(struct carrier *c, enum verdict verdict)
{
    struct upload *u = c->upload;

    c->is_here = false;
    if (verdict != GO_ON && u->current == c)
        u->current = NULL;
    c->verdict = verdict;
    c->offset = u->offset;
    c->is_whole = u->is_whole;
    c->err = u->err;
    if (verdict == RESULT && u->answer != NULL && c->answer == NULL)
        c->answer = buf_ref(u->answer);
    c->msg.run = on_home;
    loop_post(c->home, &c->msg);
}

static void give_up(struct upload *u, const struct err *why);

/* Nobody is at work on it from now on: it may be fetched, or taken up again, for a while. */
static void rest(struct upload *u)
{
    struct err ignored = { 0 };

    if (u->current != NULL || u->is_forgotten)
        return;
    pthread_mutex_lock(&u->all->mutex);
    bool is_draining = u->all->is_draining;
    pthread_mutex_unlock(&u->all->mutex);
    if (is_draining && !u->is_over) {
        err_set(&ignored, E_UNAVAILABLE, "the server stops");
        give_up(u, &ignored);
        return;
    }
    if (timer_start(u->loop, &u->expiry, loop_now_ns(u->loop) + u->all->settings.time_ns,
                    &ignored) == OK)
        return;
    (void)forget(u); /* without a timer nobody would ever */
    if (!u->is_over)
        give_up(u, &ignored);
}

static void end(struct upload *u, const struct err *err)
{
    struct buf *answer = NULL;
    struct err how = *err;

    if (u->is_over)
        return;
    if (how.code == OK && u->json.size == 0)
        err_set(&how, E_PRECONDITION,
                "what came is less than the model runs on (its window), so there is no answer");
    if (how.code == OK && text_failed(&u->json))
        err_set(&how, E_EXHAUSTED, "no memory for the answer");
    if (how.code == OK && buf_new(&answer, u->budget, u->json.size, &how) == OK)
        memcpy(buf_fill(answer), u->json.data, u->json.size);
    text_deinit(&u->json);
    pthread_mutex_lock(&u->all->mutex);
    u->is_over = true;
    u->err = how;
    u->answer = answer;
    pthread_mutex_unlock(&u->all->mutex);
    if (how.code == OK)
        atomic_fetch_add_explicit(&u->all->completed, 1, memory_order_relaxed);
    if (u->piece != NULL)
        session_piece_discard(u->session, &u->piece);
    buf_unref(&u->bytes);
    model_unref(&u->model);
    if (u->current != NULL && u->current->is_here)
        reply(u->current, RESULT);
    u->current = NULL; /* who is at home is told when it comes */
    rest(u);
}

/* Gives up what is under way; the answer to come is lost. */
static void give_up(struct upload *u, const struct err *why)
{
    struct session *session = u->session;

    end(u, why);
    if (session != NULL)
        session_cancel(session);
}

static void on_expiry(struct timer *timer)
{
    struct upload *u = CONTAINER_OF(timer, struct upload, expiry);
    struct upload *kept = upload_ref(u);
    struct err err = { 0 };

    if (!u->is_over)
        atomic_fetch_add_explicit(&u->all->expired, 1, memory_order_relaxed);
    (void)forget(u);
    err_set(&err, E_CANCELLED, "nobody went on with the upload in time");
    give_up(u, &err);
    timer_stop(u->loop, &u->expiry); /* `end` started it anew */
    upload_unref(&kept);
}

/* -- on the upload's loop: bytes into pieces ----------------------------------------------------- */

static void consume(struct upload *u);

/* False: not now (the session takes no more), or it has ended. */
static bool begin_piece(struct upload *u)
{
    struct err err = { 0 };
    size_t lead = u->row_bytes == 0 ? sizeof(uint32_t) : 0;

    if (session_pieces_left(u->session) == 0)
        return false;
    if (session_piece_new(u->session, &u->piece, &err) == OK &&
        buf_new(&u->bytes, u->current->x->budget, lead + u->chunk_bytes, &err) == OK) {
        u->filled = 0;
        return true;
    }
    give_up(u, &err);
    return false;
}

static bool push(struct upload *u)
{
    const struct signature_tensor *t = &model_signature(u->model)->inputs[u->input];
    struct penstock_tensor *input = &u->piece->inputs[u->input];
    size_t lead = u->row_bytes == 0 ? sizeof(uint32_t) : 0;
    uint8_t *bytes = buf_fill(u->bytes);
    struct err err = { 0 };

    if (u->row_bytes != 0 && u->filled % u->row_bytes != 0) {
        err_set(&err, E_INVALID,
                "the file ends in the middle of a row: model '%s' takes rows of %zu bytes, and %zu "
                "are left",
                model_name(u->model), u->row_bytes, u->filled % u->row_bytes);
        give_up(u, &err);
        return false;
    }
    *input = (struct penstock_tensor){ .name = t->name, .dtype = t->dtype, .rank = t->rank };
    for (uint32_t i = 0; i < t->rank; i++)
        input->shape[i] = i != u->free_dim ? t->dims[i]
                          : lead != 0      ? 1
                                           : (int64_t)(u->filled / u->row_bytes);
    if (lead != 0)
        memcpy(bytes, &(uint32_t){ (uint32_t)u->filled }, lead);
    input->data = bytes;
    input->size = lead + u->filled;
    u->piece->has_input[u->input] = true;
    u->has_pushed = true;
    if (!arena_adopt(u->piece->arena, &u->bytes)) {
        err_set(&err, E_EXHAUSTED, "no memory for a chunk; retry later");
        give_up(u, &err);
        return false;
    }
    if (session_push(u->session, &u->piece, &err) != OK) {
        give_up(u, &err);
        return false;
    }
    return !u->is_over;
}

static void take_offset(struct upload *u, size_t more)
{
    pthread_mutex_lock(&u->all->mutex);
    u->offset += more;
    pthread_mutex_unlock(&u->all->mutex);
    atomic_fetch_add_explicit(&u->all->bytes, more, memory_order_relaxed);
}

/* Every byte that its part had is taken. */
static void part_ends(struct upload *u, struct carrier *c)
{
    struct err err = { 0 };

    if (!c->makes_whole) {
        reply(c, STORED);
        rest(u);
        return;
    }
    if (u->piece != NULL && u->filled == 0)
        session_piece_discard(u->session, &u->piece);
    if (u->piece != NULL && !push(u))
        return;
    if (!u->has_pushed) {
        err_set(&err, E_INVALID, "the upload is empty; model '%s' needs at least one row",
                model_name(u->model));
        give_up(u, &err);
        return;
    }
    pthread_mutex_lock(&u->all->mutex);
    u->is_whole = true;
    pthread_mutex_unlock(&u->all->mutex);
    u->is_finishing = true;
    session_finish(u->session); /* on_end answers */
}

static void consume_all(struct upload *u)
{
    struct err err = { 0 };

    if (u->current != NULL && u->current->is_here && !u->is_finishing) {
        struct carrier *c = u->current;
        if (u->offset + (c->size - c->at) > u->all->settings.bytes_max) {
            err_set(&err, E_RANGE,
                    "the upload has more than %" PRIu64
                    " bytes, the most that is taken; --upload-bytes-max raises it",
                    u->all->settings.bytes_max);
            give_up(u, &err);
            return;
        }
        while (c->at < c->size) {
            if (u->piece == NULL && !begin_piece(u))
                return;
            size_t lead = u->row_bytes == 0 ? sizeof(uint32_t) : 0;
            size_t size = MIN(c->size - c->at, u->chunk_bytes - u->filled);
            memcpy(buf_fill(u->bytes) + lead + u->filled, buf_fill(c->chunk) + c->at, size);
            u->filled += size;
            c->at += size;
            take_offset(u, size);
            if (u->filled == u->chunk_bytes && !push(u))
                return;
        }
        if (c->is_end)
            part_ends(u, c);
        else
            reply(c, GO_ON);
    }
}

static void consume(struct upload *u)
{
    if (u->is_consuming)
        return;
    u->is_consuming = true;
    consume_all(u);
    u->is_consuming = false;
}

/* -- on the upload's loop: what the session says ------------------------------------------------- */

static enum err_code write_answer(struct upload *u, const struct response *response,
                                  struct err *err)
{
    struct arena *scratch = arena_new(ARENA_FIRST, ANSWER_BYTES_MAX);
    uint64_t rows = 1;

    if (scratch == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    for (uint32_t i = 0; i < response->outputs_count && u->plan->has_batch; i++)
        if (response->outputs[i].is_set && response->outputs[i].tensor.rank > 0)
            rows = (uint64_t)response->outputs[i].tensor.shape[0];
    u->json.size = 0;
    enum err_code code =
        typed_write(&u->json, u->plan, &u->query, rows, rows != 1, response->outputs, scratch, err);
    text_byte(&u->json, '\n');
    arena_free(&scratch);
    return code;
}

static void on_response(struct session *session, const struct session_response *response)
{
    struct upload *u = session_user(session);
    struct err err = { 0 };

    session_grant(session, 1);
    if (!u->is_over && write_answer(u, response->response, &err) != OK)
        give_up(u, &err);
}

static void on_piece_end(struct session *session, const struct session_piece *piece UNUSED,
                         const struct err *err)
{
    struct upload *u = session_user(session);

    if (err->code != OK)
        give_up(u, err);
}

static void on_credit(struct session *session, uint32_t pieces UNUSED)
{
    consume(session_user(session));
}

/* Told of the request that feeds it now, where that is this loop's. */
static void on_run(struct session *session, const struct request *run, enum err_code code)
{
    struct upload *u = session_user(session);

    if (u->current != NULL && u->current->home == u->loop)
        note_request(u->current->x, run, 0, code);
}

static void on_session_end(struct session *session, const struct err *err)
{
    end(session_user(session), err);
}

static void on_session_free(struct session *session)
{
    struct upload *u = session_user(session);

    u->session = NULL;
    upload_unref(&u);
}

static const struct session_sink session_sink = {
    .on_response = on_response,
    .on_piece_end = on_piece_end,
    .on_credit = on_credit,
    .on_end = on_session_end,
    .on_free = on_session_free,
};

/* -- on the upload's loop: a carrier has come ---------------------------------------------------- */

static void attach(struct upload *u, struct carrier *c)
{
    if (u->is_over || u->is_finishing) {
        if (u->is_over) {
            reply(c, RESULT);
        } else { /* its last byte has come; whoever asks waits for the answer */
            if (u->current != NULL)
                reply(u->current, SUPERSEDED);
            u->current = c;
        }
        return;
    }
    if (c->offset != u->offset) {
        reply(c, MISMATCH);
        return;
    }
    /* A connection that broke may not know it yet: the newer one goes on. */
    if (u->current != NULL && u->current->is_here)
        reply(u->current, SUPERSEDED);
    u->current = c;
    timer_stop(u->loop, &u->expiry);
    if (c->is_end)
        consume(u);
    else
        reply(c, GO_ON);
}

static void on_away(struct loop_msg *msg)
{
    struct carrier *c = CONTAINER_OF(msg, struct carrier, msg);
    struct upload *u = c->upload;
    struct err err = { 0 };

    c->is_here = true;
    switch (c->task) {
    case ATTACH: attach(u, c); break;
    case DATA:
        if (u->current != c)
            reply(c, u->is_over ? RESULT : SUPERSEDED);
        else
            consume(u);
        break;
    case DETACH:
        reply(c, FREED);
        rest(u);
        break;
    case CANCEL:
        err_set(&err, E_CANCELLED, "the upload was given up");
        (void)forget(u);
        give_up(u, &err);
        timer_stop(u->loop, &u->expiry);
        reply(c, FREED);
        break;
    }
}

static void on_drain(struct loop_msg *msg)
{
    struct upload *u = CONTAINER_OF(msg, struct upload, drain_msg), *kept = u;
    struct err err = { 0 };

    if (u->current == NULL) {
        err_set(&err, E_UNAVAILABLE, "the server stops");
        (void)forget(u);
        give_up(u, &err);
        timer_stop(u->loop, &u->expiry);
    }
    upload_unref(&kept);
}

/* -- at home ------------------------------------------------------------------------------------- */

static void go(struct carrier *c, enum task task)
{
    c->task = task;
    c->is_away = true;
    c->msg.run = on_away;
    loop_post(c->upload->loop, &c->msg);
}

static void carrier_free(struct carrier **slot)
{
    struct carrier *c = TAKE(*slot);

    if (c->x->user_data == c) {
        c->x->user = &nobody;
        c->x->user_data = NULL;
    }
    exchange_unref(&c->x);
    upload_unref(&c->upload);
    buf_unref(&c->chunk);
    buf_unref(&c->answer);
    mem_free(c);
}

static void put_error(struct text *out, enum err_code code, const char *text)
{
    text_str(out, "{\"error\":{\"code\":");
    text_json(out, slice_of(err_name(code)));
    text_str(out, ",\"message\":");
    text_json(out, slice_of(text));
    text_str(out, "}}\n");
}

/* The answer's head says how far the upload is, whatever the answer. */
static void answer(struct carrier *c, uint16_t status, struct slice body, struct buf *holder)
{
    struct exchange *x = c->x;
    char *offset = arena_printf(x->arena, "%" PRIu64, c->offset);
    char *location = arena_printf(x->arena, "/uploads/%s", c->upload->id);
    struct header more[4] = {
        { SLICE_LIT("cache-control"), SLICE_LIT("no-store") },
        { SLICE_LIT("upload-complete"), slice_of(c->is_whole ? "?1" : "?0") },
        { SLICE_LIT("upload-offset"), slice_of(offset != NULL ? offset : "0") },
        { SLICE_LIT("location"), slice_of(location != NULL ? location : "") },
    };

    if (offset == NULL || location == NULL) {
        exchange_abort(x);
        return;
    }
    exchange_answer(x, status, body.size > 0 ? "application/json" : NULL, more,
                    c->is_creator ? 4 : 3, body, holder);
}

static void answer_error(struct carrier *c, uint16_t status, enum err_code code, const char *text)
{
    struct text out;

    text_init_arena(&out, c->x->arena, 4096);
    put_error(&out, code, text);
    answer(c, status, text_failed(&out) ? slice_of("") : text_slice(&out), NULL);
}

static void say(struct carrier *c)
{
    char text[200];

    switch (c->verdict) {
    case STORED: answer(c, c->is_creator ? 201 : 204, slice_of(""), NULL); break;
    case RESULT:
        if (c->err.code != OK)
            answer_error(c, api_status(DIALECT_TYPED, c->err.code), c->err.code, c->err.text);
        else
            answer(c, 200, buf_bytes(c->answer), c->answer);
        break;
    case MISMATCH:
        snprintf(text, sizeof text,
                 "the upload goes on at byte %" PRIu64 ", as upload-offset of this answer says",
                 c->offset);
        answer_error(c, 409, E_ABORTED, text);
        break;
    case SUPERSEDED:
        answer_error(c, 409, E_ABORTED, "another connection goes on with this upload");
        break;
    case FREED: answer(c, 204, slice_of(""), NULL); break;
    case GO_ON: break;
    }
}

static void read_more(struct carrier *c)
{
    exchange_read(c->x, buf_fill(c->chunk), PART_BYTES);
}

static void on_home(struct loop_msg *msg)
{
    struct carrier *c = CONTAINER_OF(msg, struct carrier, msg);

    c->is_away = false;
    if (c->is_gone) {
        if (c->verdict == GO_ON)
            go(c, DETACH);
        else
            carrier_free(&c);
        return;
    }
    if (c->verdict == GO_ON) {
        read_more(c);
        return;
    }
    say(c);
    carrier_free(&c);
}

static void on_body(struct exchange *x, size_t size, bool is_end)
{
    struct carrier *c = x->user_data;

    c->at = 0;
    c->size = size;
    c->is_end = is_end;
    go(c, DATA);
}

static void on_gone(struct exchange *x)
{
    struct carrier *c = x->user_data;

    if (c == NULL)
        return;
    c->is_gone = true;
    if (!c->is_away)
        go(c, DETACH);
}

static const struct exchange_user carrier_user = { .on_body = on_body, .on_gone = on_gone };

static enum err_code carrier_new(struct carrier **ret, struct exchange *x, struct upload *u,
                                 bool has_body, struct err *err)
{
    struct carrier *c = mem_zalloc(sizeof *c);

    if (c == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a part of an upload; retry later");
    if (has_body && buf_new(&c->chunk, x->budget, PART_BYTES, err) != OK) {
        mem_free(c);
        return err->code;
    }
    c->x = exchange_ref(x);
    c->upload = upload_ref(u);
    c->home = x->loop;
    x->user = &carrier_user;
    x->user_data = c;
    *ret = c;
    return OK;
}

/* -- what requests say --------------------------------------------------------------------------- */

/* `upload-complete`: RFC 9651's boolean. Not said: it is whole. */
static enum err_code read_complete(const struct exchange *x, bool *ret, struct err *err)
{
    struct slice value = slice_trim(exchange_header(x, "upload-complete"));

    *ret = true;
    if (value.data == NULL || slice_is(value, "?1"))
        return OK;
    *ret = false;
    return slice_is(value, "?0")
               ? OK
               : err_set(err, E_INVALID,
                         "upload-complete is '%.*s'; it is ?0 (more will come) or ?1",
                         SLICE_ARG(slice_first(value, 40)));
}

static enum err_code read_offset(const struct exchange *x, uint64_t *ret, struct err *err)
{
    struct slice value = slice_trim(exchange_header(x, "upload-offset"));

    if (slice_to_u64(value, ret))
        return OK;
    return err_set(err, E_INVALID,
                   "upload-offset %s%.*s; it says at which byte this part begins: HEAD of the same "
                   "URL tells how many were taken",
                   value.data == NULL ? "is missing" : "is no number: ",
                   SLICE_ARG(slice_first(value, 40)));
}

/* The input that the bytes are, and how they are cut into pieces. */
static enum err_code choose_input(struct upload *u, struct err *err)
{
    const struct signature *s = model_signature(u->model);
    const struct stream_card *card = s->stream;
    uint32_t found = 0;

    for (uint32_t i = 0; i < s->inputs_count; i++) {
        bool is_given = s->inputs[i].is_hidden || s->inputs[i].is_optional;
        for (uint32_t j = 0; card != NULL && j < card->states_count; j++)
            is_given |= card->states[j].input == i;
        for (uint32_t j = 0; card != NULL && j < card->constants_count; j++)
            is_given |= card->constants[j].input == i;
        if (is_given)
            continue;
        u->input = i;
        found++;
    }
    if (found != 1)
        return err_set(err, E_INVALID,
                       "model '%s' takes %u inputs beside its state, and an upload is one: send a "
                       "stream (penstock.v1.Inference/InferCollect) instead",
                       model_name(u->model), found);
    const struct signature_tensor *t = &s->inputs[u->input];
    size_t bytes = t->dtype == PENSTOCK_BYTES ? 0 : dtype_size(t->dtype);
    uint32_t free_dims = 0;
    u->free_dim = UINT32_MAX;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (t->dims[i] < 0) {
            u->free_dim = i;
            free_dims++;
        } else if (__builtin_mul_overflow(bytes, (size_t)t->dims[i], &bytes)) {
            bytes = SIZE_MAX;
        }
    }
    if (free_dims > 1 || bytes > u->all->settings.chunk_bytes ||
        (bytes == 0 && t->dtype != PENSTOCK_BYTES))
        return err_set(err, E_INVALID, "input '%s' of model '%s' cannot be uploaded: %s", t->name,
                       model_name(u->model),
                       free_dims > 1 ? "more than one of its dimensions is free"
                                     : "one row is larger than --upload-chunk");
    u->row_bytes = bytes;
    u->chunk_bytes = u->all->settings.chunk_bytes;
    if (bytes != 0)
        u->chunk_bytes = u->free_dim == UINT32_MAX ? bytes : u->chunk_bytes / bytes * bytes;
    return OK;
}

/* State is shown to who asks for it, as in every stream. */
static enum err_code hide_states(struct upload *u, struct err *err)
{
    const struct signature *s = u->plan->signature;

    if (u->query.items != NULL)
        return OK;
    u->query.items = arena_alloc(u->arena, u->plan->items_count + 1);
    if (u->query.items == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for an upload; retry later");
    for (uint32_t i = 0; i < u->plan->items_count; i++)
        u->query.items[i] = !s->outputs[u->plan->items[i].output].is_state;
    return OK;
}

static enum err_code open_session(struct upload *u, struct caller *caller, struct slice query,
                                  struct err *err)
{
    const struct signature *s = model_signature(u->model);
    const struct stream_card *card = s->stream;
    struct session_settings settings = {
        .loop = u->loop,
        .budget = u->budget,
        .reduce = card != NULL && card->has_reduce ? card->reduce : SESSION_EACH,
        .deadline_ns = UINT64_MAX,
        .bytes_max = u->api->body_bytes_max,
        .credit = 1,
        .caller = caller,
        .on_run = on_run,
        .user = u,
    };

    if (card != NULL) {
        settings.window = card->window;
        settings.step = card->step;
        settings.pad = card->pad;
    }
    TRY(typed_plan_of(u->model, &u->plan, err));
    TRY(typed_query_read(&u->query, u->plan, query, u->arena, err));
    bool *wants = arena_zalloc(u->arena, s->outputs_count + 1);
    if (wants == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for an upload; retry later");
    for (uint32_t i = 0; i < s->outputs_count; i++)
        wants[i] = !s->outputs[i].is_hidden;
    typed_query_wants(&u->query, u->plan, wants);
    settings.wants = wants;
    TRY(hide_states(u, err));
    return session_new(&u->session, u->api->engine, u->model, &settings, &session_sink, err);
}

static enum err_code enter(struct uploads *all, struct upload *u, struct err *err)
{
    enum err_code code = OK;

    pthread_mutex_lock(&all->mutex);
    if (all->is_draining)
        code = err_set(err, E_UNAVAILABLE, "the server is draining and takes no new uploads");
    else if (map_count(all->by_id) >= all->settings.uploads_max)
        code = err_set(err, E_EXHAUSTED,
                       "%" PRIu64 " uploads are under way or wait to be fetched, the most that are "
                       "kept (--uploads-max); retry later",
                       all->settings.uploads_max);
    else
        code = map_put(all->by_id, slice_of(u->id), u, err);
    if (code == OK)
        upload_ref(u);
    atomic_store_explicit(&all->now, map_count(all->by_id), memory_order_relaxed);
    pthread_mutex_unlock(&all->mutex);
    if (code == E_EXHAUSTED) {
        atomic_fetch_add_explicit(&all->refused, 1, memory_order_relaxed);
        err->retry_after_ms = 1000;
    }
    return code;
}

/* On success *ret is a reference for the caller, and the session has another. */
static enum err_code upload_new(struct upload **ret, struct exchange *x, const struct api *api,
                                struct slice name, struct slice version, struct err *err)
{
    CLEANUP(upload_unref) struct upload *u = mem_zalloc(sizeof *u);
    char secret[IDENTITY_SECRET_MAX];

    if (u == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for an upload; retry later");
    atomic_init(&u->refs, 1);
    text_init(&u->json, ANSWER_BYTES_MAX);
    u->budget = x->budget;
    u->all = api->uploads;
    u->api = api;
    u->loop = x->loop;
    u->expiry.on_due = on_expiry;
    u->drain_msg.run = on_drain;
    u->arena = arena_new(ARENA_FIRST, ARENA_CAP);
    if (u->arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for an upload; retry later");
    identity_secret(u->all->settings.env, secret);
    snprintf(u->id, sizeof u->id, "%s.%s", u->all->node, secret);
    identity_of(x, u->identity);
    TRY(api_want_model(x, api, ACCESS_INFER, slice_of("models"), &u->model, name, version, err));
    note_model(x, u->model);
    u->model_name = arena_strndup(u->arena, model_name(u->model), strlen(model_name(u->model)));
    enum err_code code = u->model_name == NULL
                             ? err_set(err, E_EXHAUSTED, "no memory for an upload; retry later")
                             : choose_input(u, err);
    if (code == OK)
        code = open_session(u, x->caller, x->query, err);
    if (code == OK) {
        upload_ref(u); /* the session's */
        code = enter(u->all, u, err);
    }
    if (code != OK) {
        model_unref(&u->model);
        u->is_over = true;
        if (u->session != NULL)
            session_cancel(u->session);
        return code;
    }
    *ret = TAKE(u);
    return OK;
}

/* -- handlers ------------------------------------------------------------------------------------ */

static void create(struct exchange *x, const struct route_match *match)
{
    CLEANUP(upload_unref) struct upload *u = NULL;
    struct slice version =
        match->params_count > 1 ? match->params[1] : slice_make((const uint8_t *)"", 0);
    struct carrier *c = NULL;
    struct err err = { 0 };
    bool is_whole;

    if (read_complete(x, &is_whole, &err) != OK ||
        upload_new(&u, x, match->api, match->params[0], version, &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    if (carrier_new(&c, x, u, !x->body_is_over, &err) != OK) {
        (void)forget(u);
        give_up(u, &err);
        timer_stop(u->loop, &u->expiry);
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    atomic_fetch_add_explicit(&u->all->begun, 1, memory_order_relaxed);
    session_start(u->session);
    c->is_creator = true;
    c->makes_whole = is_whole;
    c->is_end = x->body_is_over;
    go(c, ATTACH);
}

/* A reference, or NULL when the exchange was answered. */
static struct upload *find(struct exchange *x, const struct route_match *match)
{
    struct uploads *all = match->api->uploads;
    struct slice id = match->params[0], node = id;
    uint8_t identity[IDENTITY_BYTES];
    struct err err = { 0 };
    struct upload *u;

    while (node.size > 0 && node.data[node.size - 1] != '.')
        node.size--;
    if (node.size > 1 && !slice_is(slice_first(node, node.size - 1), all->node)) {
        err_set(&err, E_PRECONDITION, "this is node '%s', and the upload is with node '%.*s'",
                all->node, SLICE_ARG(slice_first(node, MIN(node.size - 1, (size_t)NODE_NAME_MAX))));
        api_fail(x, DIALECT_TYPED, 421, &err);
        return NULL;
    }
    identity_of(x, identity);
    pthread_mutex_lock(&all->mutex);
    u = map_get(all->by_id, id);
    if (u != NULL && identity_is(u->identity, identity))
        upload_ref(u);
    else
        u = NULL;
    pthread_mutex_unlock(&all->mutex);
    if (u != NULL)
        return u;
    err_set(
        &err, E_NOT_FOUND,
        "there is no upload of this name: it was given up, its time (--upload-time) is over, or it "
        "is somebody else's; POST /models/{model}:upload begins one");
    api_fail(x, DIALECT_TYPED, 0, &err);
    return NULL;
}

static void append(struct exchange *x, const struct route_match *match)
{
    struct slice type = exchange_header(x, "content-type");
    CLEANUP(upload_unref) struct upload *u = find(x, match);
    struct carrier *c = NULL;
    struct err err = { 0 };
    uint64_t offset;
    bool is_whole;

    if (u == NULL)
        return;
    if (type.data != NULL && !slice_is_nocase(type, "application/partial-upload") &&
        !slice_is_nocase(type, "application/octet-stream")) {
        err_set(&err, E_INVALID,
                "a part of an upload has content-type application/partial-upload, not '%.*s'",
                SLICE_ARG(slice_first(type, 80)));
        api_fail(x, DIALECT_TYPED, 415, &err);
        return;
    }
    if (api_may(x, ACCESS_INFER, slice_of("models"), slice_of(u->model_name), &err) != OK ||
        read_offset(x, &offset, &err) != OK || read_complete(x, &is_whole, &err) != OK ||
        carrier_new(&c, x, u, !x->body_is_over, &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    c->offset = offset;
    c->makes_whole = is_whole;
    c->is_end = x->body_is_over;
    go(c, ATTACH);
}

static void cancel(struct exchange *x, const struct route_match *match)
{
    CLEANUP(upload_unref) struct upload *u = find(x, match);
    struct carrier *c = NULL;
    struct err err = { 0 };

    if (u == NULL)
        return;
    if (carrier_new(&c, x, u, false, &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    go(c, CANCEL);
}

/* GET, and HEAD with it. */
static void look(struct exchange *x, const struct route_match *match)
{
    CLEANUP(upload_unref) struct upload *u = find(x, match);
    struct carrier told = { .x = x, .upload = u };
    struct err err = { 0 };

    if (u == NULL)
        return;
    if (api_may(x, ACCESS_INFER, slice_of("models"), slice_of(u->model_name), &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    pthread_mutex_lock(&u->all->mutex);
    told.offset = u->offset;
    told.is_whole = u->is_whole;
    told.err = u->err;
    told.answer = u->answer != NULL ? buf_ref(u->answer) : NULL;
    bool is_over = u->is_over;
    pthread_mutex_unlock(&u->all->mutex);
    if (x->is_head) {
        answer(&told, 204, slice_of(""), NULL);
    } else if (is_over) {
        told.verdict = RESULT;
        say(&told);
    } else {
        char *body = arena_printf(x->arena, "{\"offset\":%" PRIu64 ",\"complete\":%s}\n",
                                  told.offset, told.is_whole ? "true" : "false");
        answer(&told, 200, slice_of(body != NULL ? body : "{}"), NULL);
    }
    buf_unref(&told.answer);
}

static const struct route routes[] = {
    { 1 << METHOD_POST | ROUTE_ANY_SIZE, "/models/{model}:upload", create, DIALECT_TYPED,
      ACCESS_INFER, "models" },
    { 1 << METHOD_POST | ROUTE_ANY_SIZE, "/models/{model}/versions/{version}:upload", create,
      DIALECT_TYPED, ACCESS_INFER, "models" },
    { 1 << METHOD_GET, "/uploads/{id}", look, DIALECT_TYPED, ACCESS_INFER, "models" },
    { 1 << METHOD_PATCH | ROUTE_ANY_SIZE, "/uploads/{id}", append, DIALECT_TYPED, ACCESS_INFER,
      "models" },
    { 1 << METHOD_DELETE, "/uploads/{id}", cancel, DIALECT_TYPED, ACCESS_INFER, "models" },
};
const struct route_table upload_routes = { routes, COUNT(routes) };

/* -- all of them --------------------------------------------------------------------------------- */

enum err_code uploads_new(struct uploads **ret, const struct uploads_settings *settings,
                          struct err *err)
{
    struct uploads *all = mem_zalloc(sizeof *all);

    if (all == NULL || (all->by_id = map_new()) == NULL) {
        mem_free(all);
        return err_set(err, E_EXHAUSTED, "no memory for uploads");
    }
    all->settings = *settings;
    snprintf(all->node, sizeof all->node, "%s", settings->node);
    all->settings.node = all->node;
    pthread_mutex_init(&all->mutex, NULL);
    *ret = all;
    return OK;
}

enum err_code uploads_register(struct uploads *all, struct metrics *metrics, struct err *err)
{
    TRY(metrics_add(metrics, METRIC_GAUGE, "penstock_uploads",
                    "Uploads under way, or with an answer that may be fetched", "", &all->now, 1,
                    err));
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_uploads_begun_total", "Uploads begun", "",
                    &all->begun, 1, err));
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_uploads_completed_total",
                    "Uploads that got their answer", "", &all->completed, 1, err));
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_uploads_expired_total",
                    "Uploads that nobody went on with in time", "", &all->expired, 1, err));
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_uploads_refused_total",
                    "Uploads refused because --uploads-max are kept", "", &all->refused, 1, err));
    return metrics_add(metrics, METRIC_COUNTER, "penstock_upload_bytes_total",
                       "Bytes of uploads taken", "", &all->bytes, 1, err);
}

void uploads_drain(struct uploads *all)
{
    size_t at = 0;
    struct slice key;
    void *value;

    pthread_mutex_lock(&all->mutex);
    all->is_draining = true;
    while (map_each(all->by_id, &at, &key, &value)) {
        struct upload *u = value;
        if (atomic_exchange(&u->drain_is_posted, true))
            continue;
        upload_ref(u);
        loop_post(u->loop, &u->drain_msg);
    }
    pthread_mutex_unlock(&all->mutex);
}

void uploads_free(struct uploads **slot)
{
    struct uploads *all = TAKE(*slot);
    size_t at = 0;
    struct slice key;
    void *value;

    if (all == NULL)
        return;
    while (map_each(all->by_id, &at, &key, &value)) {
        struct upload *u = value;
        model_unref(&u->model);
        upload_unref(&u);
    }
    map_free(&all->by_id);
    pthread_mutex_destroy(&all->mutex);
    mem_free(all);
}
