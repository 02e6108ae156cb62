/* penstock_grpc.c - penstock.v1.Inference: its methods, and Infer and InferStream.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Both take one message, so infer.h does most; what is the same in every answer of a stream is encoded
 * once, when the request is read.
 */
#include "api/session_call.h"

#include "api/infer.h"
#include "api/session_internal.h"
#include "base/buf.h"

struct v1_infer {
    struct infer infer;
    struct penstock_pb_request pb;
    struct penstock_pb_heads *heads;
    struct penstock_pb_output *outputs; /* room to list those of a response */
    struct slice id;
    uint64_t sent;
};

static HOT enum err_code locate(struct infer *infer, struct slice message, struct slice *ret_name,
                                struct slice *ret_version, struct err *err)
{
    struct v1_infer *v = (struct v1_infer *)infer;

    TRY(penstock_pb_decode_infer(&v->pb, message, infer->x->arena, &infer->field, err));
    if (UNLIKELY(v->pb.model.size == 0)) {
        infer->field = "model";
        return err_set(err, E_INVALID, "model: it is empty; it takes a model's name");
    }
    *ret_name = v->pb.model;
    *ret_version = v->pb.version;
    return OK;
}

/* What belongs to other calls is told, not ignored. */
static enum err_code check_fields(struct infer *infer, const struct penstock_pb_request *pb,
                                  struct err *err)
{
    if (UNLIKELY(pb->has_reduce)) {
        infer->field = "reduce";
        return err_set(err, E_INVALID,
                       "reduce: it says how pieces become a tensor, and %.*s takes one message; call "
                       "InferCollect or Session",
                       SLICE_ARG(infer->call->method));
    }
    if (UNLIKELY(pb->sequence > 1)) {
        infer->field = "sequence";
        return err_set(err, E_INVALID,
                       "sequence: it is %llu; this is the call's first message, which takes 1 or 0",
                       (unsigned long long)pb->sequence);
    }
    return OK;
}

static HOT enum err_code decode(struct infer *infer, struct slice message UNUSED, struct err *err)
{
    struct v1_infer *v = (struct v1_infer *)infer;
    struct request *request = infer->request;
    struct arena *arena = infer->x->arena;
    const struct signature *s = model_signature(request->model);
    struct session_memory memory = { .arena = arena, .budget = infer->x->budget, .stays = true };
    enum session_merge merge;

    TRY(check_fields(infer, &v->pb, err));
    TRY(session_read_inputs(&v->pb, "", s, request->inputs, request->has_input, memory,
                            &infer->field, err));
    TRY(session_read_outputs(&v->pb, "", s, true, request->wants, arena, &infer->field, err));
    TRY(session_read_parameters(v->pb.parameters, "", arena, &request->parameters, &infer->field,
                                err));
    TRY(session_read_slow(v->pb.when_slow, "", arena, &merge, &infer->field, err));
    if (infer->stream != NULL)
        infer_when_slow(infer, merge);

    v->id = v->pb.id;
    if (v->id.size != 0) {
        request->id = arena_strndup(arena, v->id.data, v->id.size);
        if (request->id == NULL)
            return session_no_memory(err);
    }
    struct penstock_pb_describe *described = session_describe(s->outputs, s->outputs_count, arena);
    v->outputs = arena_alloc(arena, MAX(s->outputs_count, 1) * sizeof *v->outputs);
    if (described == NULL || v->outputs == NULL)
        return session_no_memory(err);
    v->heads = penstock_pb_heads_new(described, s->outputs_count,
                                     slice_of(model_name(request->model)),
                                     slice_of(model_version_text(request->model)), arena);
    return v->heads != NULL ? OK : session_no_memory(err);
}

static struct penstock_pb_answer answer_of(const struct v1_infer *v,
                                           const struct response *response)
{
    return (struct penstock_pb_answer){ .kind = PENSTOCK_PB_INFERRED,
                                        .id = v->id,
                                        .outputs = v->outputs,
                                        .outputs_count = session_outputs(response, v->outputs) };
}

static HOT enum err_code encode(struct infer *infer, struct err *err)
{
    struct v1_infer *v = (struct v1_infer *)infer;
    struct penstock_pb_answer answer = answer_of(v, infer->response);
    struct penstock_pb_piece *made;
    uint32_t count;
    size_t used;

    answer.sequence = 1;
    answer.is_last = true;
    size_t size = penstock_pb_bound(v->heads, &answer, SESSION_COPY_MAX, &count);
    uint8_t *memory = arena_alloc(infer->x->arena, size);
    made = arena_alloc(infer->x->arena, count * sizeof *made);
    struct call_piece *pieces = arena_alloc(infer->x->arena, count * sizeof *pieces);
    if (memory == NULL || made == NULL || pieces == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    count = penstock_pb_write(v->heads, &answer, SESSION_COPY_MAX, memory, made, &used);
    for (uint32_t i = 0; i < count; i++)
        pieces[i] = (struct call_piece){ made[i].bytes, made[i].holder };
    infer_send(infer, pieces, count);
    return OK;
}

static HOT enum err_code message(struct infer *infer, const struct response *response,
                                 struct err *err)
{
    enum { FEW = 9 };
    struct v1_infer *v = (struct v1_infer *)infer;
    struct penstock_pb_answer answer = answer_of(v, response);
    struct penstock_pb_piece few[FEW], *made = few;
    struct buf *holder;
    uint32_t count;
    size_t used;

    answer.sequence = ++v->sent;
    answer.merged = response->merged;
    answer.is_last = !model_is_decoupled(infer->request->model);
    size_t size = penstock_pb_bound(v->heads, &answer, SESSION_COPY_MAX, &count);
    if (UNLIKELY(count > FEW)) {
        struct arena *scratch = infer_scratch(infer);
        made = scratch == NULL ? NULL : arena_alloc(scratch, count * sizeof *made);
        if (made == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    }
    uint8_t *memory = infer_room(infer, size, &holder);
    if (UNLIKELY(memory == NULL))
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    count = penstock_pb_write(v->heads, &answer, SESSION_COPY_MAX, memory, made, &used);
    infer_room_used(infer, used);
    return session_send(infer->call, memory, used, holder, made, count, infer->x->budget, err);
}

/* The engine looks at the inputs by index and knows no field of the message: it is found again. */
static COLD void fail_call(struct infer *infer, const struct err *err)
{
    struct v1_infer *v = (struct v1_infer *)infer;

    if (err->code == E_INVALID && infer->field == NULL && infer->model == NULL &&
        infer->request == NULL && v->pb.version.size != 0)
        infer->field = "version";
    if (err->code == E_INVALID && infer->field == NULL && infer->is_submitted)
        infer->field = session_field(&v->pb, "", model_signature(infer->request->model),
                                     infer->request->inputs, infer->request->has_input,
                                     infer->x->arena);
    grpc_end(infer->call, err, infer->field);
}

static const struct infer_dialect infer_dialect = {
    .dialect = DIALECT_GRPC,
    .group = "models",
    .size = sizeof(struct v1_infer),
    .locate = locate,
    .decode = decode,
    .encode = encode,
    .fail = fail_call,
    .one_only = "the model gave another number of answers than one, which Infer takes; call InferStream",
};

static const struct infer_dialect stream_dialect = {
    .dialect = DIALECT_GRPC,
    .group = "models",
    .size = sizeof(struct v1_infer),
    .locate = locate,
    .decode = decode,
    .fail = fail_call,
    .is_stream = true,
    .message = message,
};

static void infer_one(struct call *call, const struct api *api)
{
    infer_begin_call(call, api, &infer_dialect, slice_make("", 0), slice_make("", 0));
}

static void infer_many(struct call *call, const struct api *api)
{
    infer_begin_call(call, api, &stream_dialect, slice_make("", 0), slice_make("", 0));
}

static const struct grpc_method methods[] = {
    { "Infer", infer_one, NULL, ACCESS_INFER },
    { "InferStream", infer_many, NULL, ACCESS_INFER },
    { "Session", session_begin_call, NULL, ACCESS_INFER },
    { "InferCollect", session_collect, NULL, ACCESS_INFER },
};

const struct grpc_service penstock_grpc_service = { "penstock.v1.Inference", methods, COUNT(methods), "models" };
