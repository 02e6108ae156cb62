/* session_collect.c - InferCollect: pieces in, one answer out. SPDX-License-Identifier: Apache-2.0
 *
 * The first message says what is asked and may bring a piece; it stays as long as the call does, so its
 * bytes are used where they lie. Later ones are taken apart in the memory of their piece.
 *
 * Where each message is a run of its own (EACH: with state, a fold over the stream), the answer is what
 * the last run gives. Which is the last is known at the end only, so each answer is written and kept in
 * place of the one before.
 */
#include "api/call_session.h"
#include "api/grpc.h"
#include "api/session_internal.h"
#include "base/buf.h"

struct collect {
    struct call_session cs;
    struct penstock_pb_request first;
    struct penstock_pb_heads *heads;
    struct penstock_pb_output *outputs;
    struct buf *last; /* owned: the answer so far, of EACH; NULL: none */
    size_t last_size;
    uint64_t window; /* rows; 0: not of windows */
    bool has_answer;
};

static enum err_code describe(struct collect *c, struct model *model, struct err *err)
{
    const struct signature *s = model_signature(model);
    struct arena *arena = c->cs.call->x->arena;
    struct penstock_pb_describe *described = session_describe(s->outputs, s->outputs_count, arena);

    c->outputs = arena_alloc(arena, MAX(s->outputs_count, 1) * sizeof *c->outputs);
    if (described == NULL || c->outputs == NULL)
        return session_no_memory(err);
    c->heads =
        penstock_pb_heads_new(described, s->outputs_count, slice_of(model_name(model)),
                              slice_of(model_version_text(model)), arena);
    return c->heads != NULL ? OK : session_no_memory(err);
}

static enum err_code open(struct collect *c, struct model *model, struct err *err)
{
    const struct signature *s = model_signature(model);
    struct arena *arena = c->cs.call->x->arena;
    struct session_settings settings = { .reduce = SESSION_STACK };
    struct parameter *parameters = NULL;
    bool *wants = arena_alloc(arena, MAX(s->outputs_count, 1) * sizeof *wants);

    if (wants == NULL)
        return session_no_memory(err);
    TRY(session_read_reduce(&c->first, "", s, SESSION_STACK, arena, &settings, &c->cs.field, err));
    TRY(session_read_outputs(&c->first, "", s, false, wants, arena, &c->cs.field, err));
    TRY(session_read_parameters(c->first.parameters, "", arena, &parameters, &c->cs.field, err));
    c->window = settings.reduce == SESSION_WINDOW ? settings.window : 0;
    settings.wants = wants;
    settings.parameters = parameters;
    TRY(describe(c, model, err));
    return call_session_open(&c->cs, model, &settings, err);
}

static enum err_code look_first(struct collect *c, const struct call_message *message,
                                bool *ret_is_piece, struct err *err)
{
    CLEANUP(model_unref) struct model *model = NULL;
    struct penstock_pb_request *first = &c->first;

    TRY(penstock_pb_decode_infer(first, message->bytes, c->cs.call->x->arena, &c->cs.field, err));
    TRY(call_session_check(&c->cs, first->sequence, "sequence", err));
    if (first->model.size == 0) {
        c->cs.field = "model";
        return err_set(err, E_INVALID, "model: it is empty; the first message takes a model's name");
    }
    TRY(api_want_model(c->cs.call->x, c->cs.api, ACCESS_INFER, slice_of("models"), &model,
                       first->model, first->version, err));
    TRY(open(c, model, err));
    *ret_is_piece = first->inputs_count != 0;
    return OK;
}

static enum err_code look(struct call_session *cs, const struct call_message *message,
                          bool *ret_is_piece, struct err *err)
{
    struct collect *c = (struct collect *)cs;

    *ret_is_piece = true;
    return UNLIKELY(cs->messages == 1) ? look_first(c, message, ret_is_piece, err) : OK;
}

/* What only the first message says may be said again, but not otherwise. */
static enum err_code check_later(struct collect *c, const struct penstock_pb_request *pb,
                                 struct err *err)
{
    TRY(call_session_check(&c->cs, pb->sequence, "sequence", err));
    if (pb->model.size == 0 || slice_eq(pb->model, c->first.model))
        return OK;
    c->cs.field = "model";
    return err_set(err, E_INVALID, "model: the stream began with '%.*s', a later message says '%.*s'",
                   SLICE_ARG(slice_first(c->first.model, 80)),
                   SLICE_ARG(slice_first(pb->model, 80)));
}

static HOT enum err_code read_piece(struct call_session *cs, const struct call_message *message,
                                    struct session_piece *piece, struct err *err)
{
    struct collect *c = (struct collect *)cs;
    const struct signature *s = model_signature(session_model(cs->session));
    struct session_memory memory = { .arena = piece->arena,
                                     .budget = cs->call->x->budget,
                                     .stays = cs->messages == 1,
                                     .holder = message->holder,
                                     .window = c->window };
    struct penstock_pb_request later;
    const struct penstock_pb_request *pb = &c->first;

    if (LIKELY(cs->messages != 1)) {
        enum err_code code =
            penstock_pb_decode_infer(&later, message->bytes, piece->arena, &cs->field, err);
        if (code == OK)
            code = check_later(c, &later, err);
        if (code != OK)
            goto keep_field;
        pb = &later;
    }
    if (LIKELY(session_read_inputs(pb, "", s, piece->inputs, piece->has_input, memory, &cs->field,
                                   err) == OK &&
               session_read_parameters(pb->parameters, "", piece->arena, &piece->parameters,
                                       &cs->field, err) == OK))
        return OK;
keep_field: /* it may lie in the piece, which goes */
    if (cs->field != NULL)
        cs->field = arena_strndup(cs->call->x->arena, cs->field, strlen(cs->field));
    return err->code;
}

/* Keeps it in place of the one before; nothing of the response stays. */
static enum err_code keep_answer(struct collect *c, const struct penstock_pb_answer *a,
                                 struct err *err)
{
    CLEANUP(buf_unref) struct buf *buf = NULL;
    struct penstock_pb_piece piece;
    uint32_t pieces;

    TRY(buf_new(&buf, c->cs.call->x->budget, penstock_pb_bound(c->heads, a, SIZE_MAX, &pieces), err));
    (void)penstock_pb_write(c->heads, a, SIZE_MAX, buf_fill(buf), &piece, &c->last_size);
    buf_unref(&c->last);
    c->last = TAKE(buf);
    return OK;
}

static enum err_code answer(struct call_session *cs, const struct session_response *response,
                            struct err *err)
{
    struct collect *c = (struct collect *)cs;
    struct session_out out = { .call = cs->call, .budget = cs->call->x->budget, .heads = c->heads };
    struct penstock_pb_answer a = {
        .kind = PENSTOCK_PB_INFERRED,
        .sequence = 1,
        .id = c->first.id,
        .outputs = c->outputs,
        .outputs_count = session_outputs(response->response, c->outputs),
        .is_last = true,
    };
    bool was_there = c->has_answer;

    c->has_answer = true;
    if (cs->reduce == SESSION_EACH)
        return keep_answer(c, &a, err);
    if (was_there)
        return err_set(err, E_PRECONDITION,
                       "model '%s' gives more than one answer, and InferCollect has one; use Session",
                       model_name(session_model(cs->session)));
    return session_put(&out, &a, err);
}

static enum err_code end(struct call_session *cs, struct err *err)
{
    struct collect *c = (struct collect *)cs;

    if (c->last != NULL) {
        struct call_piece piece = { slice_first(buf_bytes(c->last), c->last_size), c->last };
        call_send(cs->call, &piece, 1);
    }
    if (c->has_answer)
        return OK;
    return err_set(err, E_PRECONDITION,
                   "model '%s' gave no answer: there were no inputs, or they filled no window",
                   model_name(session_model(cs->session)));
}

static void deinit(struct call_session *cs)
{
    buf_unref(&((struct collect *)cs)->last);
}

static const struct call_session_dialect collect_dialect = {
    .size = sizeof(struct collect),
    .look = look,
    .read = read_piece,
    .answer = answer,
    .end = end,
    .deinit = deinit,
};

void session_collect(struct call *call, const struct api *api)
{
    struct call_session *cs = call_session_begin(call, api, &collect_dialect);

    if (cs == NULL)
        return;
    cs->collects = true;
    call_session_start(cs);
}
