/* typed_proto.h - a model's typed gRPC contract: penstock.models.<Model>/Predict, from the same plan
 * as POST /models/{model}:predict.
 *
 * Names and numbers are stable: README.md beside this has the rules.
 * Life     Made with the plan (typed.h) and kept by it; read-only, any thread.
 */
#ifndef CONTRACT_TYPED_PROTO_H
#define CONTRACT_TYPED_PROTO_H

#include "contract/typed.h"

/* "penstock.models.Iris"; "" when the model's name or fields cannot be told in protobuf (then
 * typed_proto_why says what is in the way, in a sentence). */
const char *typed_proto_service(const struct typed_plan *plan);
const char *typed_proto_why(const struct typed_plan *plan);
/* "penstock/models/iris.proto", and its serialised FileDescriptorProto (imports nothing, or only
 * files of google/protobuf). */
const char *typed_proto_file_name(const struct typed_plan *plan);
struct slice typed_proto_file(const struct typed_plan *plan);

/* The PredictRequest as the reader's rows and columns (typed.h): then typed_read_end as usual. */
MUST_USE enum err_code typed_read_proto(struct typed_reader *r, struct slice message,
                                        struct err *err);
/* The PredictResponse: one piece in the arena, or in *ret_holder (a reference for the caller). */
MUST_USE enum err_code typed_write_proto(struct slice *ret, struct buf **ret_holder,
                                         const struct typed_plan *plan,
                                         const struct typed_query *query, uint64_t rows,
                                         bool is_list, const struct response_output *outputs,
                                         struct arena *arena, struct budget *budget,
                                         struct err *err);

#endif
