/* typed_views.h - the outputs of an answer row by row, and which class a score or a label is. Only
 * for contract/. See typed_write.c.
 */
#ifndef CONTRACT_TYPED_VIEWS_H
#define CONTRACT_TYPED_VIEWS_H

#include "contract/typed.h"

struct typed_view {
    const struct penstock_tensor *tensor; /* NULL: not given */
    uint32_t rank;                        /* of one row */
    const int64_t *shape;
    uint64_t count;    /* elements of one row */
    size_t element;    /* 0: BYTES */
    bool is_scalar;    /* by the signature: one element whatever comes */
    struct slice rest; /* of BYTES: the rows to come */
    struct slice now;  /* this row's bytes */
};

/* E_INTERNAL when the output does not have as many rows as the request. */
MUST_USE enum err_code typed_view_open(struct typed_view *view, const struct typed_plan *plan,
                                       uint32_t output, const struct penstock_tensor *t,
                                       uint64_t rows, bool is_list, struct err *err);
/* Moves to the next row. */
MUST_USE enum err_code typed_view_next(struct typed_view *view, struct err *err);

/* A column is no class until something says which: a list shorter than the columns says nothing
 * of any, so that one answer never mixes names and numbers. */
bool typed_has_classes(const struct typed_item *item, uint64_t columns);
/* Which column a class number stands for: the model says, or it counts from 0 where the classes
 * have names. */
bool typed_column_of(const struct typed_item *item, double number, uint32_t *ret);
bool typed_column_named(const struct typed_item *item, struct slice name, uint32_t *ret);
/* The column of the highest score of a row that has one. */
uint64_t typed_largest(const struct typed_view *view);
/* Which of the scores is the label's own; the largest when that cannot be told. */
uint64_t typed_own_score(const struct typed_view *views, const struct typed_item *item,
                         const struct typed_view *scores);
/* How many indexes the k largest of a row can be, over all classifiers. */
uint64_t typed_top_room(const struct typed_plan *plan, const struct typed_query *query,
                        const struct response_output *outputs);

/* How much an answer can be is added up like this: past SIZE_MAX it stays there. */
static inline size_t typed_sum(size_t a, size_t b)
{
    size_t sum;

    return __builtin_add_overflow(a, b, &sum) ? SIZE_MAX : sum;
}

static inline size_t typed_product(size_t a, size_t b)
{
    size_t product;

    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

#endif
