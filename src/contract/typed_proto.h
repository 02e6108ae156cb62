/* typed_proto.h - a model's typed gRPC contract: penstock.models.<Service> with Predict and its
 * streamed forms, from the same plan as POST /models/{model}:predict.
 *
 * Names and numbers are stable: README.md beside this has the rules.
 * Life     Made from the plan (typed.h) when it is first asked for and kept by it; read-only, any
 *          thread.
 */
#ifndef CONTRACT_TYPED_PROTO_H
#define CONTRACT_TYPED_PROTO_H

#include "contract/typed.h"

#define TYPED_PROTO_PACKAGE "penstock.models"

/* "penstock.models.Iris"; "" when the model's name or fields cannot be told in protobuf (then
 * typed_proto_why says what is in the way, in a sentence; else ""). */
const char *typed_proto_service(const struct typed_plan *plan);
const char *typed_proto_why(const struct typed_plan *plan);
/* "penstock/models/iris.proto", and its serialised FileDescriptorProto (imports nothing). "" and
 * empty when there is no service. */
const char *typed_proto_file_name(const struct typed_plan *plan);
struct slice typed_proto_file(const struct typed_plan *plan);
/* Appends the same file as people and protoc read it. Nothing when there is no service. */
void typed_proto_text(struct text *out, const struct typed_plan *plan);
/* Whether the plan's example is also the JSON form of a PredictRequest. */
bool typed_proto_takes_example(const struct typed_plan *plan);
/* The field numbers, for people: of an input (feature TYPED_WHOLE, or which) and of an item of the
 * answer; 0: there is none. */
uint32_t typed_proto_input_number(const struct typed_plan *plan, uint32_t input, int64_t feature);
uint32_t typed_proto_item_number(const struct typed_plan *plan, uint32_t item);

/* The methods of every such service, Predict first. */
enum typed_method {
    TYPED_PREDICT,
    TYPED_PREDICT_STREAM,
    TYPED_PREDICT_COLLECT,
    TYPED_PREDICT_SESSION,
    TYPED_METHODS
};
struct typed_proto_method {
    const char *name, *words; /* what it does, in a sentence */
    bool client_streams, server_streams;
};
extern const struct typed_proto_method typed_proto_methods[TYPED_METHODS];

/* The PredictRequest as the reader's rows and columns (typed.h), and its options; then
 * typed_read_end as usual. After a failure r->field is the field's path ("rows[2].sepal_length"),
 * or NULL. */
MUST_USE enum err_code typed_read_proto(struct typed_reader *r, struct slice message,
                                        struct typed_query *ret_query, struct err *err);
/* What a message of a stream says beside its rows; what it is about is not looked at. */
struct typed_asked {
    uint64_t sequence; /* 0: it does not say */
    bool interrupts;
    bool has_input; /* it does not only interrupt: it has fields, rows, or nothing at all */
    bool has_options;
};
MUST_USE enum err_code typed_look_proto(const struct typed_plan *plan, struct slice message,
                                        struct typed_asked *ret, struct err *err);
/* "stream", or what it is called where the model has a field of that name. */
const char *typed_proto_asked_name(const struct typed_plan *plan);

/* The PredictResponse: one piece in the arena, or in *ret_holder (a reference for the caller). */
MUST_USE enum err_code typed_write_proto(struct slice *ret, struct buf **ret_holder,
                                         const struct typed_plan *plan,
                                         const struct typed_query *query, uint64_t rows,
                                         bool is_list, const struct response_output *outputs,
                                         struct arena *arena, struct budget *budget,
                                         struct err *err);

/* What an answer of a stream says beside its outputs; what is 0 or false is not written. */
struct typed_said {
    uint64_t sequence, input, merged, interrupted;
    bool is_last;
};
enum { TYPED_SAID_BYTES_MAX = 64 };
/* At most so many bytes of it and the outputs; SIZE_MAX when that cannot be counted. */
size_t typed_proto_bound(const struct typed_plan *plan, const struct typed_query *query,
                         uint64_t rows, const struct response_output *outputs);
/* The PredictResponse of a stream at `at`, where typed_proto_bound bytes are; *ret_size were used.
 * said NULL: it says nothing of the stream.
 * Scratch is taken from the arena for models of many outputs and for options.top; nothing of it
 * stays in use. */
MUST_USE enum err_code typed_write_proto_to(uint8_t *at, size_t bound, size_t *ret_size,
                                            const struct typed_plan *plan,
                                            const struct typed_query *query, uint64_t rows,
                                            bool is_list, const struct response_output *outputs,
                                            const struct typed_said *said, struct arena *arena,
                                            struct err *err);
/* A PredictResponse without outputs: at most TYPED_SAID_BYTES_MAX bytes. Returns their end. */
uint8_t *typed_said_put(uint8_t *at, const struct typed_said *said);

#endif
