/* session_input.h - what callers of penstock.v1 say, as what the engine takes: tensors, parameters,
 * names of outputs. For all four calls, from protobuf and from JSON.
 *
 * Failures say what is wrong and where: *ret_field is the path of the field ("inputs[0].shape"), in the
 * arena, or NULL.
 */
#ifndef API_SESSION_INPUT_H
#define API_SESSION_INPUT_H

#include "codec/penstock_pb.h"
#include "engine/request.h"
#include "model/signature.h"

struct arena;
struct buf;
struct budget;

struct session_memory {
    struct arena *arena;
    struct budget *budget;
    bool stays;         /* the message's bytes stay as long as the arena does */
    struct buf *holder; /* else: who takes a reference of it keeps them; NULL: they are copied */
    uint64_t window;    /* of a session that collects windows: an input without a shape is as long as
                           it is along the dimension of rows; 0: no such session */
};

/* One message's inputs by index of the signature. `prefix`: "" or "input." */
MUST_USE enum err_code session_read_inputs(const struct penstock_pb_request *from,
                                           const char *prefix, const struct signature *signature,
                                           struct penstock_tensor *inputs, bool *has_input,
                                           struct session_memory memory, const char **ret_field,
                                           struct err *err);
/* The raw elements of one input, in the model's own shape. */
MUST_USE enum err_code session_read_raw(struct slice bytes, uint32_t index,
                                        const struct signature *signature,
                                        struct penstock_tensor *inputs, bool *has_input,
                                        struct session_memory memory, struct err *err);
/* What a model calls the input that bare bytes are: `name`, or the only one that a caller has to give
 * when it is empty. */
MUST_USE enum err_code session_find_raw(struct slice name, const struct signature *signature,
                                        uint32_t *ret_index, const char **ret_field,
                                        struct err *err);

MUST_USE enum err_code session_read_parameters(struct kserve_pb_parameters from, const char *prefix,
                                               struct arena *arena, struct parameter **ret,
                                               const char **ret_field, struct err *err);
/* Marks the outputs named; of no names all that the configuration lists, those that are a session's
 * state only with `has_state`. */
MUST_USE enum err_code session_read_outputs(const struct penstock_pb_request *from,
                                            const char *prefix, const struct signature *signature,
                                            bool has_state, bool *wants, struct arena *arena,
                                            const char **ret_field, struct err *err);
MUST_USE enum err_code session_read_slow(int32_t when_slow, const char *prefix,
                                         struct arena *arena, enum session_merge *ret,
                                         const char **ret_field, struct err *err);

/* Of a request that the engine refused: the path of the first input whose shape or size does not fit,
 * or NULL. */
const char *session_field(const struct penstock_pb_request *from, const char *prefix,
                          const struct signature *signature, const struct penstock_tensor *inputs,
                          const bool *has_input, struct arena *arena);

/* Names, datatypes and shapes that callers see; *ret_count of them by index of the signature, hidden
 * ones too. NULL: no memory. */
struct penstock_pb_describe *session_describe(const struct signature_tensor *tensors,
                                              uint32_t count, struct arena *arena);
/* What of a response is to be told, by index; `few` has room for `count`. Returns how many. */
uint32_t session_outputs(const struct response *response, struct penstock_pb_output *few);

#endif
