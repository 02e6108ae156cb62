/* penstock_pb.h - the messages of penstock.v1.Inference by hand and without copying a tensor:
 * InferRequest and SessionRequest in, InferResponse and SessionResponse out; and the same as the JSON
 * that WebSockets carry.
 *
 * Decoding gives views of the message's bytes, arrays in the arena, whether it came as protobuf or as
 * JSON; tensors are made afterwards, one by one (penstock_pb_values): `raw` in place where it is
 * aligned for its dtype, lists in one pass. Writing goes into memory whose size is asked for first;
 * what is large stays where the runtime wrote it and becomes a piece of its own. What is the same in
 * every answer of a stream is made once (penstock_pb_heads).
 * Fields unknown to us are skipped in protobuf and an error in JSON; a known field of the wrong wire
 * type is E_INVALID, as are strings that are not UTF-8. Repeated scalars are taken packed and not;
 * what comes twice is merged as protobuf does; of the messages of a SessionRequest there is one.
 * Pure functions; any thread.
 */
#ifndef CODEC_PENSTOCK_PB_H
#define CODEC_PENSTOCK_PB_H

#include "base/err.h"
#include "base/slice.h"
#include "base/text.h"
#include "codec/kserve_pb.h"
#include "penstock/tensor.h"

struct arena;
struct buf;
struct budget;

enum {
    PENSTOCK_PB_TENSORS_MAX = 4096,
    PENSTOCK_PB_NAMES_MAX = 4096,    /* requested outputs */
    PENSTOCK_PB_PARAMETERS_MAX = 256,
    PENSTOCK_PB_NESTED_MAX = 100,    /* lists in lists of Tensor.data */
};

/* -- what was asked ------------------------------------------------------------------------------ */

/* Tensor.values, by the field's number. */
enum penstock_pb_list {
    PENSTOCK_PB_NO_VALUES = 0,
    PENSTOCK_PB_RAW = 4,
    PENSTOCK_PB_BOOLS,
    PENSTOCK_PB_INT32S,
    PENSTOCK_PB_INT64S,
    PENSTOCK_PB_UINT32S,
    PENSTOCK_PB_UINT64S,
    PENSTOCK_PB_FLOATS,
    PENSTOCK_PB_DOUBLES,
    PENSTOCK_PB_STRINGS,
    PENSTOCK_PB_BYTES_LIST,
    PENSTOCK_PB_DATA
};

struct penstock_pb_tensor {
    struct slice name, datatype;
    uint32_t rank; /* 0: not said, or a scalar */
    int64_t shape[PENSTOCK_RANK_MAX];
    enum penstock_pb_list list;
    bool is_json;        /* values are JSON text: an array, of RAW a string in base64 */
    struct slice values; /* RAW: the bytes; else the list's message, or JSON */
};

enum penstock_pb_kind {
    PENSTOCK_PB_NOTHING = 0, /* a SessionRequest without a message */
    PENSTOCK_PB_BEGIN = 2,   /* the numbers are SessionRequest's fields */
    PENSTOCK_PB_INPUT,
    PENSTOCK_PB_INTERRUPT,
    PENSTOCK_PB_GRANT,
    PENSTOCK_PB_FINISH,
    PENSTOCK_PB_INFER /* an InferRequest */
};

enum penstock_pb_reduce {
    PENSTOCK_PB_DEFAULT,
    PENSTOCK_PB_EACH,
    PENSTOCK_PB_STACK,
    PENSTOCK_PB_LAST,
    PENSTOCK_PB_WINDOW
};
enum penstock_pb_slow { PENSTOCK_PB_PAUSE, PENSTOCK_PB_LATEST, PENSTOCK_PB_CONCAT };

/* InferRequest and SessionRequest: each sets what it has. */
struct penstock_pb_request {
    enum penstock_pb_kind kind;
    uint64_t sequence;
    struct slice model, version, id;
    uint32_t inputs_count, outputs_count;
    struct penstock_pb_tensor *inputs;
    struct slice *outputs;                  /* names */
    struct kserve_pb_parameters parameters; /* kinds but UINT64 */
    bool has_reduce;
    int32_t reduce; /* enum penstock_pb_reduce, or a number that is none */
    uint64_t window, step, pad;
    int32_t when_slow; /* enum penstock_pb_slow, or a number that is none */
    uint64_t credit;
    struct slice binary_input;
    bool has_binary_outputs;
    double resume_seconds;
    uint64_t responses; /* Grant */
};

/* Errors name the field ("input.inputs[2].shape"); *ret_field, in the arena, is that path alone, or
 * NULL. */
MUST_USE enum err_code penstock_pb_decode_infer(struct penstock_pb_request *ret, struct slice bytes,
                                                struct arena *arena, const char **ret_field,
                                                struct err *err);
MUST_USE enum err_code penstock_pb_decode_session(struct penstock_pb_request *ret,
                                                  struct slice bytes, struct arena *arena,
                                                  const char **ret_field, struct err *err);
/* What a SessionRequest seems to be, without reading it: the first that it names. NOTHING also when
 * it is no message at all. */
enum penstock_pb_kind penstock_pb_peek(struct slice bytes);

/* A SessionRequest as JSON: protobuf's mapping, names in camelCase and snake_case. And easier to
 * write by hand: an input may stand bare ({"inputs":...}, {"id":...,"inputs":...}), inputs may be an
 * object of values by name ({"x":[1,2]}), a tensor's values may be its `data` in whatever lists, and a
 * parameter may be its bare value. Members that are unknown, or there twice, are errors. */
MUST_USE enum err_code penstock_pb_decode_json(struct penstock_pb_request *ret, struct slice text,
                                               struct arena *arena, const char **ret_field,
                                               struct err *err);
enum penstock_pb_kind penstock_pb_peek_json(struct slice text);

/* -- tensors ------------------------------------------------------------------------------------- */

/* How many elements of `dtype` the values are. JSON lists that are nested also say a shape: *ret_rank
 * and ret_shape, else rank 0. E_INVALID: they are no such list. */
MUST_USE enum err_code penstock_pb_count(const struct penstock_pb_tensor *tensor,
                                         enum penstock_dtype dtype, const char *path,
                                         uint64_t *ret_count, uint32_t *ret_rank,
                                         int64_t ret_shape[PENSTOCK_RANK_MAX], struct err *err);

/* The values as the `count` elements of `dtype`, in tensor form (BYTES as length-prefixed elements).
 * RAW: *ret_data are the message's own bytes when they are aligned for the dtype; their size is not
 * compared with count, BOOL and BYTES are not looked into. *ret_holder is a reference for the caller,
 * or NULL when the bytes lie in the arena or the message. E_INVALID: the list filled is not the
 * dtype's, the count differs, a value does not fit (300 as UINT8). Texts begin with `path`. */
MUST_USE enum err_code penstock_pb_values(const struct penstock_pb_tensor *tensor,
                                          enum penstock_dtype dtype, uint64_t count,
                                          const char *path, struct arena *arena,
                                          struct budget *budget, struct slice *ret_data,
                                          struct buf **ret_holder, struct err *err);

/* -- answers ------------------------------------------------------------------------------------- */

struct penstock_pb_heads; /* what is the same in every answer of a stream; in the arena */

struct penstock_pb_describe {
    const char *name;
    enum penstock_dtype dtype;
    uint32_t rank;
    const int64_t *dims;
};
/* `outputs` by index of the signature. `model` empty: for SessionResponses. NULL: no memory. The
 * names are borrowed as long as the heads live. */
struct penstock_pb_heads *penstock_pb_heads_new(const struct penstock_pb_describe *outputs,
                                                uint32_t outputs_count, struct slice model,
                                                struct slice version, struct arena *arena);

struct penstock_pb_output {
    uint32_t index; /* of heads */
    uint32_t rank;
    const int64_t *shape;
    struct slice bytes;
    struct buf *holder; /* borrowed, or NULL: passed on to the piece */
};

struct penstock_pb_mark {
    const char *name;
    bool is_start;
    uint64_t row;
    double score;
};

/* InferResponse when kind is PENSTOCK_PB_INFERRED, else a SessionResponse; each takes what it has. */
enum penstock_pb_answer_kind {
    PENSTOCK_PB_BEGUN = 2, /* the numbers are SessionResponse's fields */
    PENSTOCK_PB_OUTPUT,
    PENSTOCK_PB_ANSWERED,
    PENSTOCK_PB_INTERRUPTED,
    PENSTOCK_PB_END,
    PENSTOCK_PB_INFERRED
};

struct penstock_pb_answer {
    enum penstock_pb_answer_kind kind;
    uint64_t sequence;
    struct slice id;
    uint64_t input; /* also Interrupted.request */
    uint32_t outputs_count, marks_count;
    const struct penstock_pb_output *outputs;
    const struct penstock_pb_mark *marks;
    uint64_t merged;
    bool is_last; /* InferResponse.is_final too */
    enum err_code code;
    struct slice message, field;
    uint64_t retry_after_ms;
    /* -- Begun -- */
    struct slice model, version, session;
    uint64_t inputs_at_once, received;
    const struct penstock_pb_describe *takes, *gives;
    uint32_t takes_count, gives_count;
};

struct penstock_pb_piece {
    struct slice bytes;
    struct buf *holder; /* borrowed, an output's; NULL: in the memory given, or where the output is */
};

/* What retry_after_ms is to be of a failure. */
static inline uint64_t penstock_pb_retry(const struct err *err)
{
    uint32_t ms = err_retry_ms(err);

    return ms == ERR_RETRY_NEVER ? 0 : ms;
}

/* Bytes of memory that penstock_pb_write takes at most, and pieces. Outputs above `copy_max` bytes
 * become pieces of their own. */
size_t penstock_pb_bound(const struct penstock_pb_heads *heads,
                         const struct penstock_pb_answer *answer, size_t copy_max,
                         uint32_t *ret_pieces);
/* Writes it; returns how many pieces there are, in order. *ret_used: bytes of memory. */
uint32_t penstock_pb_write(const struct penstock_pb_heads *heads,
                           const struct penstock_pb_answer *answer, size_t copy_max,
                           uint8_t *memory, struct penstock_pb_piece *pieces, size_t *ret_used);

/* A SessionResponse as JSON, on one line: protobuf's mapping, numbers as numbers, values as `data` in
 * one list; with `has_binary` outputs are without values (they follow as binary messages). Names are
 * those of `outputs`. BYTES that are not UTF-8 are E_INVALID; room that runs out is sticky in out. */
MUST_USE enum err_code penstock_pb_write_json(struct text *out,
                                              const struct penstock_pb_describe *outputs,
                                              const struct penstock_pb_answer *answer,
                                              bool has_binary, struct err *err);

#endif
