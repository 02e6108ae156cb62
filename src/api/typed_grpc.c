/* typed_grpc.c - penstock.models.<Service>: the gRPC twin of POST /models/{model}:predict. Here are
 * Predict and PredictStream, which take one message; typed_stream.c has those that take many.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The repository knows which model a service is since it found them: one look into a map that never
 * changes, then the model is found by its name as in every dialect. What the messages are is
 * contract/typed_proto.h.
 */
#include "contract/typed_proto.h"

#include "api/grpc.h"
#include "api/infer.h"
#include "api/typed.h"
#include "api/typed_stream.h"
#include "base/buf.h"
#include "model/nearest.h"
#include "repository/repository.h"

struct typed_grpc {
    struct infer infer;
    const struct typed_plan *plan;
    struct typed_query query;
    struct typed_reader reader;
    uint64_t said; /* PredictStream: answers sent */
};

static const char prefix[] = TYPED_PROTO_PACKAGE ".";

static enum err_code begin(struct infer *infer, struct err *err)
{
    struct typed_grpc *g = (struct typed_grpc *)infer;

    return typed_plan_of(infer->model, &g->plan, err);
}

static HOT enum err_code decode(struct infer *infer, struct slice message, struct err *err)
{
    struct typed_grpc *g = (struct typed_grpc *)infer;
    struct request *request = infer->request;

    TRY(typed_read_begin(&g->reader, g->plan, infer->x->arena, infer->x->budget, err));
    enum err_code code = typed_read_proto(&g->reader, message, &g->query, err);
    if (LIKELY(code == OK))
        code = typed_read_end(&g->reader, request->inputs, request->has_input, err);
    infer->field = g->reader.field;
    if (UNLIKELY(code != OK))
        return code;
    typed_read_rest(g->plan, request->inputs, request->has_input);
    typed_query_wants(&g->query, g->plan, request->wants);
    return OK;
}

static HOT enum err_code encode(struct infer *infer, struct err *err)
{
    struct typed_grpc *g = (struct typed_grpc *)infer;
    CLEANUP(buf_unref) struct buf *holder = NULL;
    struct slice message;

    TRY(typed_write_proto(&message, &holder, g->plan, &g->query, g->reader.rows, g->reader.is_list,
                          infer->response->outputs, infer->x->arena, infer->x->budget, err));
    struct call_piece piece = { message, holder };
    infer_send(infer, &piece, 1);
    return OK;
}

static const struct infer_dialect typed_grpc_dialect = {
    .dialect = DIALECT_GRPC,
    .group = "models",
    .size = sizeof(struct typed_grpc),
    .begin = begin,
    .decode = decode,
    .encode = encode,
    .one_only = "the model gave none or more than one answer, and Predict takes exactly one: call "
                "PredictStream",
};

/* -- PredictStream ----------------------------------------------------------------------------- */

static enum err_code begin_stream(struct infer *infer, struct err *err)
{
    struct slice when_slow = call_metadata(infer->call, "penstock-when-slow");
    enum session_merge merge = SESSION_PAUSE;

    TRY(infer_stream(infer, EVENTS_NDJSON, err)); /* of calls the form means nothing */
    TRY(typed_read_when_slow(&merge, when_slow, err));
    infer_when_slow(infer, merge);
    return begin(infer, err);
}

static enum err_code decode_stream(struct infer *infer, struct slice message, struct err *err)
{
    struct typed_grpc *g = (struct typed_grpc *)infer;
    struct typed_asked asked;

    TRY(typed_look_proto(g->plan, message, &asked, err));
    TRY(typed_check_asked(g->plan, TYPED_PREDICT_STREAM, &asked, infer->x->arena, &infer->field,
                          err));
    if (asked.sequence > 1) {
        const char *name = typed_proto_asked_name(g->plan);
        infer->field = arena_printf(infer->x->arena, "%s.sequence", name);
        return err_set(err, E_INVALID, "%s.sequence is %llu; PredictStream takes one message", name,
                       (unsigned long long)asked.sequence);
    }
    TRY(decode(infer, message, err));
    if (g->reader.is_list && g->plan->has_batch && !model_is_decoupled(infer->model)) {
        infer->rows_apart = g->reader.rows; /* each row has an answer of its own */
        g->reader.rows = 1;
        g->reader.is_list = false;
    }
    return OK;
}

static HOT enum err_code send_one(struct infer *infer, const struct response *response,
                                  struct err *err)
{
    struct typed_grpc *g = (struct typed_grpc *)infer;
    const struct typed_said said = { .sequence = ++g->said, .merged = response->merged };
    size_t size, bound = typed_proto_bound(g->plan, &g->query, g->reader.rows, response->outputs);
    struct arena *scratch = infer_scratch(infer);
    struct buf *holder;
    uint8_t *at = infer_room(infer, bound, &holder);

    if (UNLIKELY(at == NULL || scratch == NULL))
        return err_set(err, E_EXHAUSTED, "no memory for one more answer; retry later");
    TRY(typed_write_proto_to(at, bound, &size, g->plan, &g->query, g->reader.rows,
                             g->reader.is_list, response->outputs, &said, scratch, err));
    infer_room_used(infer, size);
    call_send(infer->call, &(struct call_piece){ slice_make(at, size), holder }, 1);
    return OK;
}

static const struct infer_dialect typed_grpc_stream_dialect = {
    .dialect = DIALECT_GRPC,
    .group = "models",
    .size = sizeof(struct typed_grpc),
    .begin = begin_stream,
    .decode = decode_stream,
    .is_stream = true,
    .message = send_one,
};

/* -- what does not exist ----------------------------------------------------------------------- */

static COLD void end_unknown_service(struct call *call, const struct api *api)
{
    struct slice name = slice_first(slice_skip(call->service, sizeof prefix - 1), 120);
    struct nearest nearest = nearest_to(name);
    struct repository_snapshot snapshot;
    struct err err = { 0 };

    repository_snapshot_take(api->repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        struct model *model = snapshot.entries[i].model;
        const char *service = model == NULL ? NULL : model_signature(model)->service;
        if (service != NULL && service[0] != '\0' &&
            api_shows_model(call->x, slice_of("models"), slice_of(snapshot.entries[i].name)))
            nearest_offer(&nearest, service);
    }
    const char *best = nearest_best(&nearest);
    err_set(&err, E_UNIMPLEMENTED,
            "no model is the service '%s%.*s'%s%s%s; GET /models lists them with their services",
            prefix, SLICE_ARG(name), best != NULL ? "; did you mean '" TYPED_PROTO_PACKAGE "." : "",
            best != NULL ? best : "", best != NULL ? "'?" : "");
    repository_snapshot_give(&snapshot);
    grpc_end(call, &err, NULL);
}

static COLD void end_unknown_method(struct call *call)
{
    struct err err = { 0 };

    err_set(&err, E_UNIMPLEMENTED,
            "service '%.*s' has no method '%.*s'; it has: Predict, PredictStream, PredictCollect, "
            "PredictSession",
            SLICE_ARG(slice_first(call->service, 120)), SLICE_ARG(slice_first(call->method, 80)));
    grpc_end(call, &err, NULL);
}

static enum typed_method find_method(struct slice name)
{
    enum typed_method method = TYPED_PREDICT;

    while (method < TYPED_METHODS && !slice_is(name, typed_proto_methods[method].name))
        method++;
    return method;
}

HOT bool typed_grpc_handle(struct call *call, const struct api *api)
{
    if (!slice_starts(call->service, prefix))
        return false;
    const char *model =
        repository_service_model(api->repository, slice_skip(call->service, sizeof prefix - 1));
    struct err err = { 0 };
    if (UNLIKELY(model == NULL)) {
        /* Whether there is one, only those are told who may call it: asked as if there were. */
        if (api_may(call->x, ACCESS_INFER, slice_of("models"),
                    slice_skip(call->service, sizeof prefix - 1), &err) != OK)
            call_end(call, &err, NULL);
        else
            end_unknown_service(call, api);
        return true;
    }
    enum typed_method method = find_method(call->method);
    if (LIKELY(method < TYPED_METHODS))
        call->x->note.route = call->x->path;
    struct slice version = call_metadata(call, "model-version");
    if (version.data == NULL)
        version = slice_make("", 0);
    switch (method) {
    case TYPED_PREDICT:
        infer_begin_call(call, api, &typed_grpc_dialect, slice_of(model), version);
        break;
    case TYPED_PREDICT_STREAM:
        infer_begin_call(call, api, &typed_grpc_stream_dialect, slice_of(model), version);
        break;
    case TYPED_PREDICT_COLLECT:
    case TYPED_PREDICT_SESSION:
        typed_stream_handle(call, api, method, slice_of(model), version);
        break;
    default: /* which methods there are says that there is the model */
        if (api_may(call->x, ACCESS_INFER, slice_of("models"), slice_of(model), &err) != OK)
            call_end(call, &err, NULL);
        else
            end_unknown_method(call);
        break;
    }
    return true;
}
