/* kserve.h - the KServe V2 REST dialect's own parts: plan, request reading, answer writing.
 *
 * Reading and writing are functions of bytes and memory; they know no exchange and no engine, so
 * that a fuzzer and a test can call them. kserve_infer.c joins them to infer.h.
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
struct route_match;
struct exchange;

/* -- the plan: what every answer of a model begins with, made once a model version -------------- */

struct kserve_plan {
    const struct signature *signature; /* borrowed: as long as the model */
    struct slice model_name;
    struct slice *inputs;       /* names, by index of the signature */
    struct slice head;          /* "model_name":"iris","model_version":"1","outputs":[ */
    struct slice *output_heads; /* {"name":"label","datatype":"INT64","shape":[ */
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

/* The k largest values of each row as BYTES "<value>:<index>[:<label>]": [rows, k], or [k] of a
 * model without a batch dimension. */
MUST_USE enum err_code kserve_classify(struct penstock_tensor *ret,
                                       const struct penstock_tensor *scores, uint64_t k,
                                       bool has_batch, const struct signature_tensor *described,
                                       struct kserve_memory memory, struct err *err);

/* -- handlers, by file --------------------------------------------------------------------------- */
void kserve_infer(struct exchange *x, const struct route_match *match);

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

#endif
