/* typed_stream.c - penstock.models.<Service>/PredictCollect and PredictSession: rows in pieces.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The messages are Predict's, read by the same plan into pieces of a session. What is said of one
 * answer (which options, how many rows) lies with its piece; where an answer is of many pieces, the
 * latest options hold, and its rows are counted in what the model gave.
 *
 * PredictCollect sends nothing before the end: of answers that come before (of windows, or where each
 * message is a run) the latest is kept, as bytes.
 */
#include "api/typed_stream.h"

#include "api/call_session.h"
#include "api/grpc.h"
#include "api/typed.h"
#include "base/arena.h"
#include "base/buf.h"

/* What is to be known of a piece when it is answered; in its arena. */
struct asked_piece {
    struct typed_query query;
    uint64_t rows;
    bool is_list;
};

struct typed_stream {
    struct call_session cs;
    enum typed_method method;
    const struct typed_plan *plan;
    bool answers_once;        /* each run does: not decoupled */
    bool is_list;             /* some message had rows */
    bool *items;              /* of query; NULL: all */
    bool *all;                /* what is shown where the options do not say; NULL: all */
    struct typed_query query; /* of the latest message that had options */
    const char *sequence;     /* path of that field */
    uint64_t said;            /* messages sent */
    /* -- PredictCollect -- */
    struct buf *kept; /* owned; NULL: no answer yet */
    uint64_t kept_of; /* which piece it answers */
};

static struct typed_stream *stream_of(struct call_session *cs)
{
    return CONTAINER_OF(cs, struct typed_stream, cs);
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the stream; retry later");
}

/* -- messages in --------------------------------------------------------------------------------- */

static enum err_code say(struct typed_stream *t, struct typed_said said, struct err *err)
{
    struct buf *holder;
    uint8_t *at = call_session_room(&t->cs, TYPED_SAID_BYTES_MAX, &holder);

    if (at == NULL)
        return no_memory(err);
    said.sequence = ++t->said;
    size_t size = (size_t)(typed_said_put(at, &said) - at);
    call_session_room_used(&t->cs, size);
    call_send(t->cs.call, &(struct call_piece){ slice_make(at, size), holder }, 1);
    return OK;
}

static HOT enum err_code look(struct call_session *cs, const struct call_message *message,
                              bool *ret_is_piece, struct err *err)
{
    struct typed_stream *t = stream_of(cs);
    struct typed_asked asked;

    TRY(typed_look_proto(t->plan, message->bytes, &asked, err));
    TRY(call_session_check(cs, asked.sequence, t->sequence, err));
    TRY(typed_check_asked(t->plan, t->method, &asked, cs->call->x->arena, &cs->field, err));
    *ret_is_piece = asked.has_input;
    if (LIKELY(!asked.interrupts))
        return OK;
    call_session_interrupt(cs);
    return say(t, (struct typed_said){ .interrupted = cs->messages }, err);
}

/* Options hold until other ones come. */
static enum err_code keep_query(struct typed_stream *t, const struct typed_query *query,
                                struct err *err)
{
    size_t size = MAX(t->plan->items_count, 1u) * sizeof *t->items;

    t->query = *query;
    if (query->items == NULL) {
        t->query.items = t->all;
        return OK;
    }
    if (t->items == NULL && (t->items = arena_alloc(t->cs.call->x->arena, size)) == NULL)
        return no_memory(err);
    memcpy(t->items, query->items, size);
    t->query.items = t->items;
    return OK;
}

static bool is_nothing(const struct typed_query *query)
{
    return !query->has_top && query->precision == TYPED_PRECISION_DEFAULT && query->items == NULL;
}

static HOT enum err_code read(struct call_session *cs, const struct call_message *message,
                              struct session_piece *piece, struct err *err)
{
    struct typed_stream *t = stream_of(cs);
    struct asked_piece *asked = arena_alloc(piece->arena, sizeof *asked);
    struct typed_reader reader;
    struct typed_query query;

    if (UNLIKELY(asked == NULL))
        return no_memory(err);
    TRY(typed_read_begin(&reader, t->plan, piece->arena, cs->call->x->budget, err));
    enum err_code code = typed_read_proto(&reader, message->bytes, &query, err);
    if (LIKELY(code == OK))
        code = typed_read_end(&reader, piece->inputs, piece->has_input, err);
    if (UNLIKELY(code != OK)) {
        /* The piece's arena goes before the call ends. */
        cs->field = reader.field == NULL
                        ? NULL
                        : arena_strndup(cs->call->x->arena, reader.field, strlen(reader.field));
        return code;
    }
    if (UNLIKELY(!is_nothing(&query)))
        TRY(keep_query(t, &query, err));
    asked->query = t->query;
    if (UNLIKELY(t->items != NULL && t->query.items == t->items)) {
        /* The next message may say otherwise before this one is answered. */
        size_t size = t->plan->items_count * sizeof *t->items;
        asked->query.items = arena_alloc(piece->arena, size);
        if (asked->query.items == NULL)
            return no_memory(err);
        memcpy(asked->query.items, t->items, size);
    }
    asked->rows = reader.rows;
    asked->is_list = reader.is_list;
    t->is_list |= reader.is_list;
    piece->user = asked;
    return OK;
}

/* -- messages out -------------------------------------------------------------------------------- */

/* Of an answer to more than one message, or to none, the model says how many rows there are. */
static struct asked_piece asked_of(const struct typed_stream *t,
                                   const struct session_response *response)
{
    const struct response_output *outputs = response->response->outputs;
    struct asked_piece asked = { .query = t->query, .rows = 1 };

    if (LIKELY(t->cs.reduce == SESSION_EACH && response->of != NULL))
        return *(const struct asked_piece *)response->of->user;
    for (uint32_t i = 0; t->plan->has_batch && i < response->response->outputs_count; i++) {
        if (!outputs[i].is_set || outputs[i].tensor.rank == 0)
            continue;
        asked.rows = (uint64_t)outputs[i].tensor.shape[0];
        break;
    }
    asked.is_list = t->plan->has_batch && (t->is_list || asked.rows != 1);
    return asked;
}

static COLD enum err_code too_many(const struct typed_stream *t, struct err *err)
{
    return err_set(err, E_PRECONDITION,
                   "model '%s' gave more than one answer, and PredictCollect takes one: call "
                   "PredictSession",
                   t->plan->model);
}

static enum err_code keep(struct typed_stream *t, const struct session_response *response,
                          const struct asked_piece *asked, struct err *err)
{
    const struct response_output *outputs = response->response->outputs;
    size_t size, bound = typed_proto_bound(t->plan, &asked->query, asked->rows, outputs);

    if (t->kept != NULL && t->cs.reduce != SESSION_WINDOW &&
        (t->cs.reduce != SESSION_EACH || t->kept_of == response->piece))
        return too_many(t, err);
    buf_unref(&t->kept);
    t->kept_of = response->piece;
    TRY(buf_new(&t->kept, t->cs.call->x->budget, bound, err));
    struct arena *scratch = call_session_scratch(&t->cs);
    if (scratch == NULL)
        return no_memory(err);
    TRY(typed_write_proto_to(buf_fill(t->kept), bound, &size, t->plan, &asked->query, asked->rows,
                             asked->is_list, outputs, NULL, scratch, err));
    buf_trim(t->kept, size);
    return OK;
}

static HOT enum err_code answer(struct call_session *cs, const struct session_response *response,
                                struct err *err)
{
    struct typed_stream *t = stream_of(cs);
    const struct response_output *outputs = response->response->outputs;
    struct asked_piece asked = asked_of(t, response);
    struct buf *holder;
    size_t size;

    if (UNLIKELY(t->method == TYPED_PREDICT_COLLECT))
        return keep(t, response, &asked, err);
    struct typed_said said = { .sequence = ++t->said,
                               .input = response->piece,
                               .merged = response->merged,
                               .is_last = t->answers_once && cs->reduce == SESSION_EACH };
    size_t bound = typed_proto_bound(t->plan, &asked.query, asked.rows, outputs);
    uint8_t *at = call_session_room(cs, bound, &holder);
    struct arena *scratch = call_session_scratch(cs);
    if (UNLIKELY(at == NULL || scratch == NULL))
        return no_memory(err);
    TRY(typed_write_proto_to(at, bound, &size, t->plan, &asked.query, asked.rows, asked.is_list,
                             outputs, &said, scratch, err));
    call_session_room_used(cs, size);
    call_send(cs->call, &(struct call_piece){ slice_make(at, size), holder }, 1);
    return OK;
}

/* Only a model that answers any number of times does not say so in the answer itself. */
static void piece_end(struct call_session *cs, const struct session_piece *piece, struct err *err)
{
    struct typed_stream *t = stream_of(cs);

    if (err->code == OK && !t->answers_once && t->method == TYPED_PREDICT_SESSION)
        (void)say(t, (struct typed_said){ .input = piece->number, .is_last = true }, err);
}

static enum err_code end(struct call_session *cs, struct err *err)
{
    struct typed_stream *t = stream_of(cs);

    if (t->method != TYPED_PREDICT_COLLECT)
        return OK;
    if (cs->pieces == 0)
        return err_set(err, E_INVALID, "no message came: PredictCollect takes at least one");
    if (t->kept == NULL)
        return err_set(err, E_PRECONDITION,
                       cs->reduce == SESSION_WINDOW
                           ? "what came fills no window, so the model was not run: send more rows"
                           : "the model gave no answer");
    call_send(cs->call, &(struct call_piece){ buf_bytes(t->kept), t->kept }, 1);
    return OK;
}

static void deinit(struct call_session *cs)
{
    buf_unref(&stream_of(cs)->kept);
}

static const struct call_session_dialect typed_stream_dialect = {
    .size = sizeof(struct typed_stream),
    .look = look,
    .read = read,
    .answer = answer,
    .piece_end = piece_end,
    .end = end,
    .deinit = deinit,
};

/* -- beginning ----------------------------------------------------------------------------------- */

/* What a stream keeps from run to run is shown to who asks for it: by itself the engine does not give
 * it out. */
static enum err_code hide_states(struct typed_stream *t, struct session_settings *settings,
                                 struct err *err)
{
    const struct signature *s = t->plan->signature;
    bool *wants = arena_alloc(t->cs.call->x->arena, MAX(s->outputs_count, 1u) * sizeof *wants);

    if (wants == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < s->outputs_count; i++)
        wants[i] = !s->outputs[i].is_hidden;
    settings->wants = wants;
    for (uint32_t i = 0; i < t->plan->items_count; i++) {
        if (!s->outputs[t->plan->items[i].output].is_state)
            continue;
        if (t->all == NULL) {
            t->all = arena_alloc(t->cs.call->x->arena, t->plan->items_count * sizeof *t->all);
            if (t->all == NULL)
                return no_memory(err);
            memset(t->all, true, t->plan->items_count * sizeof *t->all);
        }
        t->all[i] = false;
    }
    t->query.items = t->all;
    return OK;
}

static enum err_code open_with(struct typed_stream *t, struct model *model, struct err *err)
{
    struct call *call = t->cs.call;
    const struct stream_card *card = model_signature(model)->stream;
    struct session_settings settings = { .reduce = SESSION_EACH };

    TRY(typed_plan_of(model, &t->plan, err));
    t->answers_once = !t->plan->answers_many;
    t->sequence = arena_printf(call->x->arena, "%s.sequence", typed_proto_asked_name(t->plan));
    if (t->sequence == NULL)
        return no_memory(err);
    TRY(hide_states(t, &settings, err));
    if (t->method == TYPED_PREDICT_COLLECT && !t->plan->takes_stream)
        settings.reduce = SESSION_STACK;
    if (card != NULL && card->has_reduce) {
        settings.reduce = card->reduce;
        settings.window = card->window;
        settings.step = card->step;
        settings.pad = card->pad;
    }
    TRY(typed_read_reduce(&settings, call_metadata(call, "penstock-reduce"), err));
    if (t->method == TYPED_PREDICT_SESSION)
        TRY(typed_read_when_slow(&settings.merge, call_metadata(call, "penstock-when-slow"), err));
    return call_session_open(&t->cs, model, &settings, err);
}

void typed_stream_handle(struct call *call, const struct api *api, enum typed_method method,
                         struct slice name, struct slice version)
{
    struct call_session *cs = call_session_begin(call, api, &typed_stream_dialect);
    struct model *model = NULL;
    struct err err = { 0 };

    if (cs == NULL)
        return;
    stream_of(cs)->method = method;
    cs->collects = method == TYPED_PREDICT_COLLECT;
    call->keeps_none = true; /* messages are read into pieces */
    enum err_code code = api_want_model(call->x, api, ACCESS_INFER, slice_of("models"), &model,
                                        name, version, &err);
    if (code == OK)
        code = open_with(stream_of(cs), model, &err);
    model_unref(&model);
    if (code != OK)
        call_session_fail(cs, &err);
    else
        call_session_start(cs);
}
