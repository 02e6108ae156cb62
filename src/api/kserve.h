/* kserve.h - the KServe V2 dialect's own parts, for REST and gRPC: plan, request reading, answer
 * writing, what is said about models.
 *
 * Reading and writing are functions of bytes and memory; they know no exchange and no engine, so
 * that a fuzzer and a test can call them. kserve_infer.c and kserve_grpc_infer.c join them to infer.h.
 */
#ifndef API_KSERVE_H
#define API_KSERVE_H

#include "base/slice.h"
#include "base/text.h"
#include "engine/request.h"
#include "model/signature.h"

struct arena;
struct buf;
struct budget;
struct model;
struct api;
struct call;
struct exchange;
struct json_cursor;
struct route_match;

/* -- the plan: what every answer of a model begins with, made once a model version -------------- */

struct kserve_plan {
    const struct signature *signature; /* borrowed: as long as the model */
    struct slice model_name, model_version;
    struct slice *inputs;       /* names, by index of the signature */
    struct slice *outputs;      /* likewise */
    struct slice head;          /* "model_name":"iris","model_version":"1","outputs":[ */
    struct slice *output_heads; /* {"name":"label","datatype":"INT64","shape":[ */
    struct slice names;         /* "model_name":"iris","model_version":"1" */
    struct slice *output_keys;  /* ,"label": */
    bool has_batch;             /* the first dim of every tensor counts callers' rows */
};

/* One block: kserve_plan_free frees it. NULL: no memory. */
MUST_USE struct kserve_plan *kserve_plan_new(const char *name, const char *version,
                                             const struct signature *signature);
void kserve_plan_free(void *plan);
/* The model's, made at the first call and kept with it. */
MUST_USE enum err_code kserve_plan_of(struct model *model, const struct kserve_plan **ret,
                                      struct err *err);

/* -- the request ------------------------------------------------------------------------------ */

struct kserve_output {
    bool is_listed, is_binary;
    uint64_t classes; /* classification: 0 is none */
};

struct kserve_request {
    struct slice id;               /* "" when none; in the body or the arena */
    const char *id_text;           /* the same, NUL-terminated */
    struct kserve_output *outputs; /* by index of the signature */
    uint32_t *order;               /* indexes in the order of the answer */
    uint32_t order_count;
    bool has_classes; /* of some output */
    uint64_t timeout_us, priority;
    struct parameter *parameters;
};

/* Where tensors go: arrays by index of the signature (those of struct request). */
struct kserve_inputs {
    struct penstock_tensor *tensors;
    bool *has;
};

struct kserve_memory {
    struct arena *arena;
    struct budget *budget;
};

/* What it means, whether it came as JSON or as protobuf (kserve_request.c). Failures say what is
 * wrong in the words of both. */
enum { KSERVE_PARAMETERS_MAX = 256, KSERVE_FEW_OUTPUTS = 8 };

MUST_USE enum err_code kserve_request_begin(struct kserve_request *ret,
                                            const struct kserve_plan *plan, struct arena *arena,
                                            struct err *err);
/* Outputs that were not listed: all of them in the signature's order when none was. */
void kserve_request_end(struct kserve_request *request, const struct kserve_plan *plan,
                        bool is_binary);
/* Takes a reserved key; *ret_is_custom says that it is the model's and was not taken. */
MUST_USE enum err_code kserve_take_parameter(struct kserve_request *request,
                                             const struct parameter *p, bool *ret_is_custom,
                                             struct err *err);
MUST_USE enum err_code kserve_parameter_bool(const struct parameter *p, bool *ret, struct err *err);
/* Index of an input that `has` does not hold yet. */
MUST_USE enum err_code kserve_find_input(const struct kserve_plan *plan, struct slice name,
                                         const bool *has, uint32_t *ret_index, struct err *err);
enum err_code kserve_no_datatype(const struct signature_tensor *t, struct err *err);
enum err_code kserve_unknown_datatype(const char *path, struct slice name, struct err *err);
enum err_code kserve_wrong_datatype(const struct signature_tensor *t, enum penstock_dtype dtype,
                                    struct err *err);
/* *ret are these bytes, or a copy that is aligned for its dtype. Checks BOOL. */
MUST_USE enum err_code kserve_place(const void **ret, struct slice name, enum penstock_dtype dtype,
                                    struct slice bytes, struct kserve_memory memory,
                                    struct err *err);
void kserve_set_input(struct kserve_inputs inputs, const struct kserve_plan *plan, uint32_t index,
                      uint32_t rank, const int64_t *shape, enum penstock_dtype dtype,
                      struct slice bytes);
MUST_USE enum err_code kserve_find_output(const struct kserve_plan *plan, struct slice name,
                                          uint32_t *ret_index, struct err *err);
MUST_USE enum err_code kserve_want_output(struct kserve_request *request,
                                          const struct kserve_plan *plan, uint32_t index,
                                          bool is_binary, uint64_t classes, struct err *err);
/* What was read, apart from inputs, into the engine's request. */
void kserve_fill(struct request *request, const struct kserve_request *from,
                 const struct kserve_plan *plan);

/* The whole body; `header_length` JSON bytes, then binary tensors. has_header_length false: all of it
 * is JSON. Tensor data points into the body where it can. On failure err says what and where. */
MUST_USE enum err_code kserve_read(struct kserve_request *ret, struct kserve_inputs inputs,
                                   const struct kserve_plan *plan, struct slice body,
                                   bool has_header_length, uint64_t header_length,
                                   struct kserve_memory memory, struct err *err);
/* header_length 0: the whole body is the one input. */
MUST_USE enum err_code kserve_read_raw(struct kserve_request *ret, struct kserve_inputs inputs,
                                       const struct kserve_plan *plan, struct slice body,
                                       struct kserve_memory memory, struct err *err);
/* A generate request: keys that are inputs become tensors, whose shapes follow from the number of their
 * elements; `id` is the request's; what stands under `parameters` counts as if it stood beside it; other
 * keys are parameters. */
MUST_USE enum err_code kserve_read_generate(struct kserve_request *ret, struct kserve_inputs inputs,
                                            const struct kserve_plan *plan, struct slice body,
                                            struct kserve_memory memory, struct err *err);
/* A parameter's value, which is a string, a number or a boolean. */
MUST_USE enum err_code kserve_read_parameter(struct parameter *p, struct json_cursor *c,
                                             struct arena *arena, const char *path,
                                             struct err *err);
/* Strings, or other elements, at the cursor; *ret_size are their bytes. E_RANGE, and nothing in err:
 * there are surely fewer than `count`. */
MUST_USE enum err_code kserve_read_elements(const void **ret, size_t *ret_size,
                                            enum penstock_dtype dtype, uint64_t count,
                                            struct json_cursor *c, const char *path,
                                            struct kserve_memory memory, struct err *err);
/* Inference-Header-Content-Length against the body's size. */
MUST_USE enum err_code kserve_header_length(struct slice value, uint64_t *ret, struct err *err);

/* -- the answer --------------------------------------------------------------------------------- */

struct kserve_answer {
    struct slice json;
    struct buf *json_holder; /* owned, or NULL when json lies in the arena */
    uint32_t binaries_count;
    struct kserve_binary {
        struct slice bytes;
        struct buf *holder; /* borrowed; NULL: in the arena */
    } * binaries;
    size_t size;     /* of the whole body */
    bool has_binary; /* at least one binary output that is not empty */
};

/* Writes the JSON, tensors included, and lists what follows it in binary. The answer's slices stay
 * as long as the outputs do. */
MUST_USE enum err_code kserve_write(struct kserve_answer *ret, const struct kserve_plan *plan,
                                    const struct kserve_request *request,
                                    const struct response_output *outputs,
                                    struct kserve_memory memory, struct err *err);

/* The same for the event of a stream, all in JSON: how many bytes that takes as a rule, or at most, and
 * the writing, for which `out` has the room. Its memory is for temporary things, and its arena is used
 * only for more than KSERVE_FEW_OUTPUTS outputs and for classes. */
size_t kserve_event_bound(const struct kserve_plan *plan, const struct kserve_request *request,
                          const struct response_output *outputs, bool is_most);
MUST_USE enum err_code kserve_event_write(struct text *out, const struct kserve_plan *plan,
                                          const struct kserve_request *request,
                                          const struct response_output *outputs,
                                          struct kserve_memory memory, struct err *err);
/* The same as an answer of generate: outputs by name, those of one element without a list. */
size_t kserve_generate_bound(const struct kserve_plan *plan, const struct kserve_request *request,
                             const struct response_output *outputs, bool is_most);
MUST_USE enum err_code kserve_generate_write(struct text *out, const struct kserve_plan *plan,
                                             const struct kserve_request *request,
                                             const struct response_output *outputs,
                                             struct err *err);

/* The k largest values of each row as BYTES "<value>:<index>[:<label>]": [rows, k], or [k] of a
 * model without a batch dimension. */
MUST_USE enum err_code kserve_classify(struct penstock_tensor *ret,
                                       const struct penstock_tensor *scores, uint64_t k,
                                       bool has_batch, const struct signature_tensor *described,
                                       struct kserve_memory memory, struct err *err);
/* Bytes that they take as JSON, as a rule or at most. */
size_t kserve_classes_bound(const struct penstock_tensor *scores, uint64_t k,
                            const struct signature_tensor *described, bool is_most);

/* -- the same over gRPC (kserve_message.c) ------------------------------------------------------------ */

struct kserve_pb_parameter;
struct kserve_pb_piece;
struct kserve_pb_request;

/* One parameter as the engine has it; `choices` names the fields that it may have, for who left them all
 * out. Everything in the arena. */
MUST_USE enum err_code kserve_parameter_read(struct parameter *ret,
                                             const struct kserve_pb_parameter *from,
                                             const char *choices, struct arena *arena,
                                             struct err *err);
/* `pb` is the message, taken apart (codec/kserve_pb.h); its bytes stay as long as the request does.
 * On failure *ret_field is the path of what is wrong, in the arena, or NULL. */
MUST_USE enum err_code kserve_read_pb(struct kserve_request *ret, struct kserve_inputs inputs,
                                      const struct kserve_plan *plan,
                                      const struct kserve_pb_request *pb,
                                      struct kserve_memory memory, const char **ret_field,
                                      struct err *err);
/* Of a request that was read and that the engine refused: the path of the first input whose shape or
 * size does not fit, or NULL. */
const char *kserve_pb_field(struct kserve_inputs inputs, const struct kserve_plan *plan,
                            const struct kserve_pb_request *pb, struct arena *arena);
/* ModelInferResponse as pieces; large outputs stay where they are. */
MUST_USE enum err_code kserve_write_pb(struct kserve_pb_piece **ret, uint32_t *ret_count,
                                       const struct kserve_plan *plan,
                                       const struct kserve_request *request,
                                       const struct response_output *outputs,
                                       struct kserve_memory memory, struct err *err);

/* -- what is said about the server and its models (kserve_meta.c): JSON, for both protocols -------- */

bool kserve_is_ready(const struct api *api);
void kserve_put_server(struct text *out, const struct api *api);
void kserve_put_model(struct text *out, const struct api *api, const struct model *model);
void kserve_put_config(struct text *out, const struct model *model);
/* `name` empty: every model; `version` empty: every version of it. On failure `out` is of no use. */
MUST_USE enum err_code kserve_put_stats(struct text *out, struct exchange *x, const struct api *api, struct slice name,
                                        struct slice version, struct err *err);
/* A list, of what the caller of x may read. */
void kserve_put_index(struct text *out, const struct exchange *x, const struct api *api,
                      bool ready_only);

/* -- handlers, by file --------------------------------------------------------------------------- */
void kserve_infer(struct exchange *x, const struct route_match *match);
void kserve_infer_stream(struct exchange *x, const struct route_match *match);
void kserve_generate(struct exchange *x, const struct route_match *match);
void kserve_generate_stream(struct exchange *x, const struct route_match *match);
void kserve_grpc_infer(struct call *call, const struct api *api);
void kserve_grpc_stream(struct call *call, const struct api *api);

void kserve_server(struct exchange *x, const struct route_match *match);
void kserve_live(struct exchange *x, const struct route_match *match);
void kserve_ready(struct exchange *x, const struct route_match *match);
void kserve_models(struct exchange *x, const struct route_match *match);
void kserve_model(struct exchange *x, const struct route_match *match);
void kserve_model_ready(struct exchange *x, const struct route_match *match);
void kserve_model_config(struct exchange *x, const struct route_match *match);
void kserve_model_stats(struct exchange *x, const struct route_match *match);
void kserve_all_stats(struct exchange *x, const struct route_match *match);
void kserve_index(struct exchange *x, const struct route_match *match);
void kserve_logging(struct exchange *x, const struct route_match *match);
void kserve_set_logging(struct exchange *x, const struct route_match *match);
void kserve_grpc_log_settings(struct call *call, const struct api *api);

/* Sends the heap text, which is JSON, as a message of that type; the text is emptied. */
void kserve_grpc_answer_json(struct call *call, const char *type_name, struct text *json);

#endif
