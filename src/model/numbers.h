/* numbers.h - the protobuf field numbers of a model's inputs and outputs.
 *
 * A field has the number that model.yaml gives it, else its place, counted from 1: inputs in the
 * signature's order, each named feature a field; behind them the inputs that have such features, as
 * a whole; outputs likewise, scores without a label of their own as two: label, then probability.
 * Counting leaves out 1000 to 1999, which are ours, and 19000 to 19999, which are protobuf's.
 * Pure functions; any thread.
 */
#ifndef MODEL_NUMBERS_H
#define MODEL_NUMBERS_H

#include "model/signature.h"

struct arena;

enum {
    NUMBERS_OURS_FIRST = 1000,
    NUMBERS_OURS_LAST = 1999,
    NUMBERS_PROTOBUF_FIRST = 19000,
    NUMBERS_PROTOBUF_LAST = 19999,
    NUMBERS_MAX = 536870911
};

enum { NUMBERED_WHOLE = -1 };

struct numbered {
    uint32_t number;
    uint32_t tensor; /* index of the signature's inputs or outputs */
    int64_t feature; /* of an input: which, or NUMBERED_WHOLE */
    bool is_label;   /* of an output of scores: the label that is made from it */
    bool is_extra;   /* the whole of an input whose features are fields already */
};

bool numbers_is_allowed(double number);
/* Features name the elements of one row only where a row is one list of them. */
bool numbers_has_features(const struct signature *s, const struct signature_tensor *input);
/* Scores of one decision that no label output of its own tells. */
bool numbers_has_label(const struct signature *s, const struct signature_tensor *output);
/* In the order of their places; hidden tensors are left out. In the arena; NULL: no memory. */
MUST_USE struct numbered *numbers_of_inputs(const struct signature *s, struct arena *arena,
                                            uint32_t *ret_count);
MUST_USE struct numbered *numbers_of_outputs(const struct signature *s, struct arena *arena,
                                             uint32_t *ret_count);
/* E_INVALID when two inputs' fields, or two outputs', have one number: says which and what to do.
 * Call it when roles are decided. */
MUST_USE enum err_code numbers_check(const struct signature *s, struct err *err);

#endif
