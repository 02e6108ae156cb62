/* kserve_grpc_infer.c - ModelInfer: one message in, one out. SPDX-License-Identifier: Apache-2.0
 *
 * The message is taken apart once, to find the model's name; what was found is kept for decode().
 */
#include "api/grpc.h"
#include "api/infer.h"
#include "api/kserve.h"
#include "codec/kserve_pb.h"

struct grpc_infer {
    struct infer infer;
    const struct kserve_plan *plan;
    struct kserve_pb_request pb;
    struct kserve_request request;
};

static struct kserve_memory memory_of(const struct infer *infer)
{
    return (struct kserve_memory){ infer->x->arena, infer->x->budget };
}

static HOT enum err_code locate(struct infer *infer, struct slice message, struct slice *ret_name,
                                struct slice *ret_version, struct err *err)
{
    struct grpc_infer *g = (struct grpc_infer *)infer;

    TRY(kserve_pb_decode(&g->pb, message, infer->x->arena, &infer->field, err));
    *ret_name = g->pb.model_name;
    *ret_version = g->pb.model_version;
    return OK;
}

static enum err_code begin(struct infer *infer, struct err *err)
{
    struct grpc_infer *g = (struct grpc_infer *)infer;

    if (UNLIKELY(model_is_decoupled(infer->model)))
        return err_set(err, E_UNIMPLEMENTED,
                       "ModelInfer RPC doesn't support models with decoupled transaction policy");
    return kserve_plan_of(infer->model, &g->plan, err);
}

static HOT enum err_code decode(struct infer *infer, struct slice message UNUSED, struct err *err)
{
    struct grpc_infer *g = (struct grpc_infer *)infer;
    struct request *request = infer->request;
    struct kserve_inputs inputs = { request->inputs, request->has_input };

    TRY(kserve_read_pb(&g->request, inputs, g->plan, &g->pb, memory_of(infer), &infer->field, err));
    kserve_fill(request, &g->request, g->plan);
    return OK;
}

static HOT enum err_code encode(struct infer *infer, struct err *err)
{
    struct grpc_infer *g = (struct grpc_infer *)infer;
    struct kserve_pb_piece *made;
    uint32_t count;

    TRY(kserve_write_pb(&made, &count, g->plan, &g->request, infer->response->outputs,
                        memory_of(infer), err));
    struct call_piece *pieces = arena_alloc(infer->x->arena, count * sizeof *pieces);
    if (pieces == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    for (uint32_t i = 0; i < count; i++)
        pieces[i] = (struct call_piece){ made[i].bytes, made[i].holder };
    infer_send(infer, pieces, count);
    return OK;
}

/* Triton answers UNAVAILABLE when a queue is full; clients retry on that. The engine looks at the
 * inputs by index and knows no field of the message: it is found again here. */
static COLD void fail_call(struct infer *infer, const struct err *why)
{
    struct grpc_infer *g = (struct grpc_infer *)infer;
    struct err err = *why;

    if (err.code == E_EXHAUSTED && err.retry_after_ms != ERR_RETRY_NEVER)
        err.code = E_UNAVAILABLE;
    if (err.code == E_INVALID && infer->field == NULL && infer->model == NULL)
        infer->field = "model_version"; /* a name is known or not, and never wrong in itself */
    if (err.code == E_INVALID && infer->field == NULL && infer->is_submitted)
        infer->field = kserve_pb_field((struct kserve_inputs){ infer->request->inputs,
                                                               infer->request->has_input },
                                       g->plan, &g->pb, infer->x->arena);
    grpc_end(infer->call, &err, infer->field);
}

static const struct infer_dialect grpc_dialect = {
    .dialect = DIALECT_GRPC,
    .group = "v2",
    .size = sizeof(struct grpc_infer),
    .locate = locate,
    .begin = begin,
    .decode = decode,
    .encode = encode,
    .fail = fail_call,
};

void kserve_grpc_infer(struct call *call, const struct api *api)
{
    infer_begin_call(call, api, &grpc_dialect, slice_make("", 0), slice_make("", 0));
}
