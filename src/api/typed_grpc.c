/* typed_grpc.c - penstock.models.<Service>/Predict: the gRPC twin of POST /models/{model}:predict.
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
#include "base/buf.h"
#include "model/nearest.h"
#include "repository/repository.h"

struct typed_grpc {
    struct infer infer;
    const struct typed_plan *plan;
    struct typed_query query;
    struct typed_reader reader;
};

static const char prefix[] = TYPED_PROTO_PACKAGE ".";

static enum err_code begin(struct infer *infer, struct err *err)
{
    struct typed_grpc *g = (struct typed_grpc *)infer;

    if (UNLIKELY(model_is_decoupled(infer->model)))
        return err_set(err, E_UNIMPLEMENTED,
                       "model '%s' answers with any number of responses; Predict gives one, and "
                       "streams are not built yet",
                       model_name(infer->model));
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
    if (LIKELY(code == OK))
        typed_query_wants(&g->query, g->plan, request->wants);
    return code;
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
    .size = sizeof(struct typed_grpc),
    .begin = begin,
    .decode = decode,
    .encode = encode,
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
        if (service != NULL && service[0] != '\0')
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

    err_set(&err, E_UNIMPLEMENTED, "service '%.*s' has no method '%.*s'; it has: Predict",
            SLICE_ARG(slice_first(call->service, 120)), SLICE_ARG(slice_first(call->method, 80)));
    grpc_end(call, &err, NULL);
}

HOT bool typed_grpc_handle(struct call *call, const struct api *api)
{
    if (!slice_starts(call->service, prefix))
        return false;
    const char *model =
        repository_service_model(api->repository, slice_skip(call->service, sizeof prefix - 1));
    if (UNLIKELY(model == NULL)) {
        end_unknown_service(call, api);
        return true;
    }
    if (UNLIKELY(!slice_is(call->method, "Predict"))) {
        end_unknown_method(call);
        return true;
    }
    struct slice version = call_metadata(call, "model-version");
    infer_begin_call(call, api, &typed_grpc_dialect, slice_of(model),
                     version.data != NULL ? version : slice_make("", 0));
    return true;
}
