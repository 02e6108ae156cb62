/* fuzz.h - what the fuzzers of requests' readers share: what a tensor that was accepted has to be, and
 * outputs to answer with. Test only. */
#ifndef CONTRACT_FUZZ_H
#define CONTRACT_FUZZ_H

#include "codec/bytes.h"
#include "contract/test_models.h"
#include "engine/request.h"
#include "model/dtype.h"

/* As many bytes as its shape says, or well-formed strings. */
static inline void fuzz_require_whole(const struct penstock_tensor *t)
{
    struct err err = { 0 };
    uint64_t count;

    require(shape_count(t->rank, t->shape, &count));
    if (t->dtype == PENSTOCK_BYTES)
        require(bytes_check(slice_make(t->data, t->size), count, t->name, &err) == OK);
    else
        require(t->size == count * dtype_size(t->dtype));
}

/* One row of three scores. */
static inline struct response_output fuzz_scores(const char *name)
{
    static const float scores[] = { 0.1f, 0.7f, 0.2f };

    return (struct response_output){ true,
                                     { .name = name,
                                       .dtype = PENSTOCK_FP32,
                                       .rank = 2,
                                       .shape = { 1, 3 },
                                       .data = scores,
                                       .size = sizeof scores } };
}

/* One row of test_iris. */
static inline void fuzz_iris_outputs(struct response_output outputs[2])
{
    static const int64_t label[] = { 2 };

    outputs[0] = (struct response_output){ true,
                                           { .name = "label",
                                             .dtype = PENSTOCK_INT64,
                                             .rank = 1,
                                             .shape = { 1 },
                                             .data = label,
                                             .size = sizeof label } };
    outputs[1] = fuzz_scores("probabilities");
}

#endif
