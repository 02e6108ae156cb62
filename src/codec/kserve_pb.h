/* kserve_pb.h - the KServe V2 infer messages (inference.ModelInferRequest, ModelInferResponse), by
 * hand and without copying a tensor.
 *
 * Decoding gives views of the message's bytes, arrays in the arena; tensors are made afterwards, one
 * by one, from what the views show: raw_input_contents in place where they are aligned for their
 * dtype, `contents` in one pass into memory of the arena or the budget. Encoding gives pieces: what
 * is small lies together, raw_output_contents stay where the runtime wrote them.
 * Fields unknown to us are skipped; a known field of the wrong wire type is E_INVALID (protobuf would
 * take it for an unknown one, and its value would be missed in silence), as are strings that are not
 * UTF-8. Repeated scalars are taken packed and not; what comes twice is merged as protobuf does.
 * Otherwise what protobuf's own parsers refuse is refused, and what they take means the same.
 * Pure functions; any thread.
 */
#ifndef CODEC_KSERVE_PB_H
#define CODEC_KSERVE_PB_H

#include "base/err.h"
#include "base/slice.h"
#include "penstock/tensor.h"

struct arena;
struct buf;
struct budget;

enum { KSERVE_PB_INPUTS_MAX = 4096, KSERVE_PB_PARAMETERS_MAX = 1024 };

/* InferParameter: parameter_choice. NONE: the entry was there without a value. */
enum kserve_pb_kind {
    KSERVE_PB_NONE,
    KSERVE_PB_BOOL,
    KSERVE_PB_INT64,
    KSERVE_PB_STRING,
    KSERVE_PB_DOUBLE,
    KSERVE_PB_UINT64
};

struct kserve_pb_parameter {
    struct slice key;
    enum kserve_pb_kind kind;
    struct slice text; /* STRING */
    union {
        bool b;
        int64_t i;
        uint64_t u;
        double d;
    } value;
};

struct kserve_pb_parameters {
    struct kserve_pb_parameter *items; /* last wins when a key comes twice: then it is there once */
    uint32_t count;
};

struct kserve_pb_input { /* InferInputTensor */
    struct slice name, datatype;
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];
    struct kserve_pb_parameters parameters;
    bool has_contents;
    struct slice contents; /* InferTensorContents, not read yet */
};

struct kserve_pb_output { /* InferRequestedOutputTensor */
    struct slice name;
    struct kserve_pb_parameters parameters;
};

struct kserve_pb_request {
    struct slice model_name, model_version, id;
    struct kserve_pb_parameters parameters;
    uint32_t inputs_count, outputs_count, raw_count;
    struct kserve_pb_input *inputs;
    struct kserve_pb_output *outputs;
    struct slice *raw; /* raw_input_contents */
};

/* Errors name the field ("inputs[2].shape"); *ret_field, in the arena, is that path alone, or NULL. */
MUST_USE enum err_code kserve_pb_decode(struct kserve_pb_request *ret, struct slice bytes,
                                        struct arena *arena, const char **ret_field,
                                        struct err *err);

/* InferTensorContents as the `count` elements of `dtype`: *ret_data holds them in tensor form (BYTES
 * as length-prefixed elements). *ret_holder is a reference for the caller, or NULL when they lie in
 * the arena. E_INVALID: the field filled is not the dtype's (contract: table of dtypes), FP16 and
 * BF16 have none, the count differs, a value does not fit (300 as UINT8). Texts name `input`. */
MUST_USE enum err_code kserve_pb_contents(struct slice contents, enum penstock_dtype dtype,
                                          uint64_t count, const char *input, struct arena *arena,
                                          struct budget *budget, struct slice *ret_data,
                                          struct buf **ret_holder, struct err *err);

/* -- the answer ---------------------------------------------------------------------------------- */

struct kserve_pb_result { /* one output of ModelInferResponse */
    struct slice name;
    enum penstock_dtype dtype;
    uint32_t rank;
    const int64_t *shape;
    struct slice bytes; /* its raw_output_contents entry */
    struct buf *holder; /* borrowed, or NULL: passed on to the pieces */
};

struct kserve_pb_response {
    struct slice model_name, model_version, id;
    uint32_t results_count;
    const struct kserve_pb_result *results;
    struct kserve_pb_parameters parameters;
};

struct kserve_pb_piece {
    struct slice bytes;
    struct buf *holder; /* borrowed; NULL: bytes lie in the arena or in the result's memory */
};

/* The message as pieces, in order (1 to 1 + 2 * results_count; array in the arena). Raw entries up to
 * `copy_max` bytes are copied into the piece before them. */
MUST_USE enum err_code kserve_pb_encode(const struct kserve_pb_response *response, size_t copy_max,
                                        struct arena *arena, struct kserve_pb_piece **ret,
                                        uint32_t *ret_count, struct err *err);

#endif
