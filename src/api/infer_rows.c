/* infer_rows.c - the rows of one question, run and answered one by one: a stream of a model that answers
 * once. SPDX-License-Identifier: Apache-2.0
 *
 * The request was made and filled as any other, and is not submitted: each of its rows becomes a piece of
 * a session, whose tensors are views of the request's. No more rows are pushed than the session takes.
 */
#include "api/infer_internal.h"
#include "api/note.h"

struct infer_rows {
    struct session *session;
    uint64_t next, rows;
    size_t *at; /* where the next row of each input begins */
    bool is_pushing, is_finished;
};

/* Bytes of `count` length-prefixed strings from `at` on; the tensor was checked. */
static size_t strings_size(const struct penstock_tensor *t, size_t at, uint64_t count)
{
    size_t begin = at;

    for (uint64_t i = 0; i < count && t->size - at >= sizeof(uint32_t); i++) {
        uint32_t size;
        memcpy(&size, (const uint8_t *)t->data + at, sizeof size);
        at += sizeof size + MIN((size_t)size, t->size - at - sizeof size);
    }
    return at - begin;
}

static void view(struct infer_rows *r, uint32_t input, const struct penstock_tensor *all,
                 struct penstock_tensor *ret)
{
    size_t size = all->size / (size_t)r->rows;

    if (all->dtype == PENSTOCK_BYTES) {
        uint64_t each = 1;
        for (uint32_t d = 1; d < all->rank; d++)
            each *= (uint64_t)all->shape[d];
        size = strings_size(all, r->at[input], each);
    }
    *ret = *all;
    ret->shape[0] = 1;
    ret->data = (const uint8_t *)all->data + r->at[input];
    ret->size = size;
    ret->owner = NULL; /* it stays as long as the request does */
    r->at[input] += size;
}

static void fail(struct infer *infer, const struct err *err)
{
    if (infer->has_ended)
        return;
    infer_stream_end(infer, err);
    infer_cancel_later(infer);
}

static void push_all(struct infer *infer)
{
    struct infer_rows *r = infer->rows;
    struct request *request = infer->request;
    uint32_t inputs = model_signature(request->model)->inputs_count;
    struct err err;

    while (!infer->has_ended && r->next < r->rows && session_pieces_left(r->session) != 0) {
        struct session_piece *piece = NULL;
        infer_err_clear(&err);
        if (session_piece_new(r->session, &piece, &err) != OK) {
            fail(infer, &err);
            return;
        }
        for (uint32_t i = 0; i < inputs; i++) {
            piece->has_input[i] = request->has_input[i];
            if (piece->has_input[i])
                view(r, i, &request->inputs[i], &piece->inputs[i]);
        }
        piece->id = request->id;
        piece->parameters = request->parameters;
        r->next++;
        if (session_push(r->session, &piece, &err) != OK) {
            session_piece_discard(r->session, &piece);
            fail(infer, &err);
            return;
        }
    }
    if (r->next == r->rows && !r->is_finished && !infer->has_ended) {
        r->is_finished = true;
        session_finish(r->session);
    }
}

/* Answers come from within, and with them credit. */
static void push(struct infer *infer)
{
    struct infer_rows *r = infer->rows;

    if (r->is_pushing)
        return;
    r->is_pushing = true;
    push_all(infer);
    r->is_pushing = false;
}

static void on_response(struct session *session, const struct session_response *response)
{
    struct infer *infer = session_user(session);

    if (infer->has_ended)
        return;
    infer->x->note.responses++;
    infer_stream_response(infer, response->response);
}

static void on_run(struct session *session, const struct request *run, enum err_code code)
{
    const struct infer *infer = session_user(session);

    note_request(infer->x, run, 0, code);
}

static void on_piece_end(struct session *session, const struct session_piece *piece UNUSED,
                         const struct err *err)
{
    if (err->code != OK)
        fail(session_user(session), err);
}

static void on_credit(struct session *session, uint32_t pieces UNUSED)
{
    push(session_user(session));
}

static void on_end(struct session *session, const struct err *err)
{
    struct infer *infer = session_user(session);

    if (!infer->has_ended)
        infer_stream_end(infer, err);
}

static void on_free(struct session *session)
{
    struct infer *infer = session_user(session);

    request_discard(&infer->request);
    infer_free(infer);
}

static const struct session_sink sink = {
    .on_response = on_response,
    .on_piece_end = on_piece_end,
    .on_credit = on_credit,
    .on_end = on_end,
    .on_free = on_free,
};

enum err_code infer_rows_open(struct infer *infer, uint32_t credit, struct err *err)
{
    struct request *request = infer->request;
    struct arena *arena = infer->x->arena;
    uint32_t inputs = model_signature(request->model)->inputs_count;
    struct infer_rows *r = arena_zalloc(arena, sizeof *r);

    if (r == NULL || (r->at = arena_zalloc(arena, (inputs + 1) * sizeof *r->at)) == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a stream; retry later");
    struct session_settings settings = {
        .loop = infer->x->loop,
        .budget = infer->x->budget,
        .reduce = SESSION_EACH,
        .merge = infer_stream_merge(infer),
        .deadline_ns = request->deadline_ns,
        .parameters = request->parameters,
        .wants = request->wants,
        .credit = credit,
        .caller = infer->x->caller,
        .trace = &infer->x->trace,
        .on_run = on_run,
        .user = infer,
    };
    r->rows = infer->rows_apart;
    TRY(session_new(&r->session, infer->api->engine, request->model, &settings, &sink, err));
    infer->rows = r;
    return OK;
}

void infer_rows_start(struct infer *infer)
{
    session_start(infer->rows->session);
    push(infer);
}

void infer_rows_grant(struct infer *infer, uint32_t responses)
{
    session_grant(infer->rows->session, responses);
}

void infer_rows_cancel(struct infer *infer)
{
    session_cancel(infer->rows->session);
}
