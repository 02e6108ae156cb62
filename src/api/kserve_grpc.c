/* kserve_grpc.c - inference.GRPCInferenceService (KServe V2 with Triton's extensions): everything
 * but inference itself, which is kserve_grpc_infer.c. SPDX-License-Identifier: Apache-2.0
 *
 * What is said about the server and its models is the REST dialect's JSON (kserve_meta.c), turned into
 * the message by protobuf's own mapping: names are the same, and there is no second truth. Health,
 * which probes ask all day, is by hand.
 * What is not built is listed with its reason.
 */
#include "api/grpc.h"
#include "api/kserve.h"
#include "api/reply.h"
#include "base/buf.h"
#include "base/pb.h"
#include "base/utf8.h"
#include "codec/proto.h"
#include "engine/engine.h"

enum { SMALL_MESSAGE = 2048 };

/* -- reading: the requests have two fields at most ---------------------------------------------- */

/* ModelReadyRequest, ModelMetadataRequest, ModelConfigRequest, ModelStatisticsRequest: name = 1,
 * version = 2. RepositoryIndexRequest: repository_name = 1, ready = 2. */
struct asked {
    struct slice name, version;
    bool ready;
};

static COLD enum err_code wrong_wire(const struct call *call, const struct pb_field *field,
                                     const char *expected, struct err *err)
{
    return err_set(err, E_INVALID,
                   "%.*sRequest: field %u has wire type %d, which is no %s; was the message made "
                   "for another type?",
                   SLICE_ARG(slice_first(call->method, 60)), field->number, (int)field->wire,
                   expected);
}

static enum err_code take_text(const struct call *call, const struct pb_field *field,
                               struct slice *ret, struct err *err)
{
    if (field->wire != PB_LEN)
        return wrong_wire(call, field, "string", err);
    if (utf8_valid_prefix(field->bytes) != field->bytes.size)
        return err_set(err, E_INVALID, "%.*sRequest: field %u is not UTF-8",
                       SLICE_ARG(slice_first(call->method, 60)), field->number);
    *ret = field->bytes;
    return OK;
}

static enum err_code read_asked(struct asked *ret, const struct call *call, struct slice message,
                                bool has_ready, struct err *err)
{
    struct pb_reader r;
    struct pb_field field;

    *ret =
        (struct asked){ .name = { (const uint8_t *)"", 0 }, .version = { (const uint8_t *)"", 0 } };
    pb_begin(&r, message);
    while (pb_next(&r, &field)) {
        if (field.number == 1) {
            TRY(take_text(call, &field, &ret->name, err));
        } else if (field.number == 2 && !has_ready) {
            TRY(take_text(call, &field, &ret->version, err));
        } else if (field.number == 2) {
            if (field.wire != PB_VARINT)
                return wrong_wire(call, &field, "bool", err);
            ret->ready = field.value != 0;
        }
    }
    if (pb_failed(&r))
        return err_set(err, E_INVALID, "%.*sRequest, byte %td: %s",
                       SLICE_ARG(slice_first(call->method, 60)), r.at - r.begin, r.fault);
    return OK;
}

/* False: the call was ended. */
static bool read_or_end(struct asked *ret, struct call *call, struct slice message, bool has_ready)
{
    struct err err = { 0 };

    if (read_asked(ret, call, message, has_ready, &err) == OK)
        return true;
    call_end(call, &err, NULL);
    return false;
}

/* -- answering ---------------------------------------------------------------------------------- */

/* The JSON text as that message, in memory that the call may send from. */
static enum err_code make_message(struct slice *ret, struct buf **ret_holder, struct exchange *x,
                                  struct proto_arena *arena, const char *type_name,
                                  struct slice json, struct err *err)
{
    const struct proto_schema *schema = proto_builtin();
    struct proto_message *message;
    struct slice bytes;

    if (schema == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    const struct proto_type *type = proto_type_find(schema, type_name);
    require(type != NULL);
    if (proto_from_json(&message, arena, type, schema, json, err) != OK)
        return err_wrap(err, "making %s", type_name);
    TRY(proto_encode(message, &bytes, err));
    if (bytes.size <= SMALL_MESSAGE) {
        uint8_t *copy = arena_alloc(x->arena, bytes.size + 1);
        if (copy == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
        if (bytes.size != 0)
            memcpy(copy, bytes.data, bytes.size);
        *ret = slice_make(copy, bytes.size);
        return OK;
    }
    TRY(buf_new(ret_holder, x->budget, bytes.size, err));
    memcpy(buf_fill(*ret_holder), bytes.data, bytes.size);
    *ret = buf_bytes(*ret_holder);
    return OK;
}

void kserve_grpc_answer_json(struct call *call, const char *type_name, struct text *json)
{
    CLEANUP(buf_unref) struct buf *holder = NULL;
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct err err = { 0 };
    struct slice message;

    if (arena == NULL || text_failed(json))
        err_set(&err, E_EXHAUSTED, "no memory for the answer; retry later");
    else if (make_message(&message, &holder, call->x, arena, type_name, text_slice(json), &err) ==
             OK)
        grpc_answer(call, message, holder);
    text_deinit(json);
    if (err.code != OK)
        call_end(call, &err, NULL);
}

/* A message of one bool, field 1: false is the default and leaves nothing to write. */
static void answer_bool(struct call *call, bool value)
{
    static const uint8_t yes[] = { 1 << 3, 1 };

    grpc_answer(call, slice_make(yes, value ? sizeof yes : 0), NULL);
}

/* -- health -------------------------------------------------------------------------------------- */

static void live(struct call *call, const struct api *api UNUSED, struct slice message UNUSED)
{
    answer_bool(call, true);
}

static void ready(struct call *call, const struct api *api, struct slice message UNUSED)
{
    answer_bool(call, kserve_is_ready(api));
}

/* The model it asks for, or NULL when the call was ended. */
static struct model *want(struct call *call, const struct api *api, struct slice message)
{
    struct model *model = NULL;
    struct err err = { 0 };
    struct asked asked;

    if (!read_or_end(&asked, call, message, false))
        return NULL;
    if (api_want_model(call->x, api, ACCESS_READ, slice_of("v2"), &model, asked.name, asked.version,
                       &err) != OK)
        grpc_end(call, &err, err.code == E_INVALID ? "version" : NULL);
    return model;
}

/* Triton: a model that is not there is not ready, and that is an answer. */
static void model_ready(struct call *call, const struct api *api, struct slice message)
{
    CLEANUP(model_unref) struct model *model = NULL;
    struct err err = { 0 };
    struct asked asked;

    if (!read_or_end(&asked, call, message, false))
        return;
    enum err_code code = api_want_model(call->x, api, ACCESS_READ, slice_of("v2"), &model,
                                        asked.name, asked.version, &err);
    if (code == E_INVALID)
        grpc_end(call, &err, "version");
    else if (code == E_PERMISSION || code == E_UNAUTHENTICATED)
        grpc_end(call, &err, NULL);
    else
        answer_bool(call, code == OK);
}

/* -- metadata ------------------------------------------------------------------------------------ */

static void server_metadata(struct call *call, const struct api *api, struct slice message UNUSED)
{
    struct text out;

    text_init(&out, REPLY_BYTES_MAX);
    kserve_put_server(&out, api);
    kserve_grpc_answer_json(call, "inference.ServerMetadataResponse", &out);
}

static void model_metadata(struct call *call, const struct api *api, struct slice message)
{
    CLEANUP(model_unref) struct model *model = want(call, api, message);
    struct text out;

    if (model == NULL)
        return;
    text_init(&out, REPLY_BYTES_MAX);
    kserve_put_model(&out, api, model);
    kserve_grpc_answer_json(call, "inference.ModelMetadataResponse", &out);
}

static void model_config_of(struct call *call, const struct api *api, struct slice message)
{
    CLEANUP(model_unref) struct model *model = want(call, api, message);
    struct text out;

    if (model == NULL)
        return;
    text_init(&out, REPLY_BYTES_MAX);
    text_str(&out, "{\"config\":");
    kserve_put_config(&out, model);
    text_byte(&out, '}');
    kserve_grpc_answer_json(call, "inference.ModelConfigResponse", &out);
}

static void statistics(struct call *call, const struct api *api, struct slice message)
{
    struct err err = { 0 };
    struct asked asked;
    struct text out;

    if (!read_or_end(&asked, call, message, false))
        return;
    text_init(&out, REPLY_BYTES_MAX);
    if (kserve_put_stats(&out, call->x, api, asked.name, asked.version, &err) == OK) {
        kserve_grpc_answer_json(call, "inference.ModelStatisticsResponse", &out);
        return;
    }
    text_deinit(&out);
    grpc_end(call, &err, err.code == E_INVALID ? "version" : NULL);
}

static void repository_index(struct call *call, const struct api *api, struct slice message)
{
    struct asked asked;
    struct text out;

    if (!read_or_end(&asked, call, message, true))
        return;
    if (asked.name.size != 0) {
        struct err err = { 0 };
        err_set(&err, E_UNIMPLEMENTED, "'repository_name' specification is not supported");
        grpc_end(call, &err, "repository_name");
        return;
    }
    text_init(&out, REPLY_BYTES_MAX);
    text_str(&out, "{\"models\":");
    kserve_put_index(&out, call->x, api, asked.ready);
    text_byte(&out, '}');
    kserve_grpc_answer_json(call, "inference.RepositoryIndexResponse", &out);
}

/* -- the services -------------------------------------------------------------------------------- */

#define UNARY(function)                                                    \
    static void begin_##function(struct call *call, const struct api *api) \
    {                                                                      \
        grpc_unary(call, api, function);                                   \
    }
UNARY(live)
UNARY(ready)
UNARY(model_ready)
UNARY(server_metadata)
UNARY(model_metadata)
UNARY(model_config_of)
UNARY(statistics)
UNARY(repository_index)

static const char no_control[] =
    "explicit model load / unload is not allowed: this server loads its models when it starts; "
    "change the folder and start it again";
static const char no_shared_memory[] =
    "client shared memory is not offered by this server; send tensors in raw_input_contents";

static const struct grpc_method methods[] = {
    { "ModelInfer", kserve_grpc_infer, NULL, ACCESS_INFER },
    { "ServerLive", begin_live, NULL, ACCESS_OPEN },
    { "ServerReady", begin_ready, NULL, ACCESS_OPEN },
    { "ModelReady", begin_model_ready, NULL, ACCESS_READ },
    { "ServerMetadata", begin_server_metadata, NULL, ACCESS_READ },
    { "ModelMetadata", begin_model_metadata, NULL, ACCESS_READ },
    { "ModelConfig", begin_model_config_of, NULL, ACCESS_READ },
    { "ModelStatistics", begin_statistics, NULL, ACCESS_READ },
    { "RepositoryIndex", begin_repository_index, NULL, ACCESS_READ },
    { "ModelStreamInfer", kserve_grpc_stream, NULL, ACCESS_INFER },
    { "RepositoryModelLoad", NULL, no_control, ACCESS_ADMIN },
    { "RepositoryModelUnload", NULL, no_control, ACCESS_ADMIN },
    { "SystemSharedMemoryStatus", NULL, no_shared_memory, ACCESS_ADMIN },
    { "SystemSharedMemoryRegister", NULL, no_shared_memory, ACCESS_ADMIN },
    { "SystemSharedMemoryUnregister", NULL, no_shared_memory, ACCESS_ADMIN },
    { "CudaSharedMemoryStatus", NULL, no_shared_memory, ACCESS_ADMIN },
    { "CudaSharedMemoryRegister", NULL, no_shared_memory, ACCESS_ADMIN },
    { "CudaSharedMemoryUnregister", NULL, no_shared_memory, ACCESS_ADMIN },
    { "TraceSetting", NULL, "trace settings are not built yet", ACCESS_ADMIN },
    { "LogSettings", kserve_grpc_log_settings, NULL, ACCESS_READ }, /* to change them: ACCESS_ADMIN */
};

const struct grpc_service kserve_grpc_service = { "inference.GRPCInferenceService", methods,
                                                  COUNT(methods), "v2" };

static const struct grpc_method torch_methods[] = {
    { "ModelInfer", kserve_grpc_infer, NULL, ACCESS_INFER },
    { "ServerLive", begin_live, NULL, ACCESS_OPEN },
    { "ServerReady", begin_ready, NULL, ACCESS_OPEN },
    { "ModelReady", begin_model_ready, NULL, ACCESS_READ },
    { "ServerMetadata", begin_server_metadata, NULL, ACCESS_READ },
    { "ModelMetadata", begin_model_metadata, NULL, ACCESS_READ },
};

const struct grpc_service kserve_grpc_torch_service = {
    "org.pytorch.serve.grpc.openinference.GRPCInferenceService", torch_methods, COUNT(torch_methods), "v2"
};
