/* budget.c - SPDX-License-Identifier: Apache-2.0
 *
 * Take subtracts first and puts back when it went below zero: two takers that together ask for too
 * much may both be refused, which is a promise kept; the reverse would not be.
 */
#include "base/budget.h"

static int64_t bytes_of(uint64_t limit)
{
    return limit > INT64_MAX ? INT64_MAX : (int64_t)limit;
}

void budget_init(struct budget *budget, uint64_t limit_bytes)
{
    atomic_init(&budget->limit, bytes_of(limit_bytes));
    atomic_init(&budget->left, bytes_of(limit_bytes));
    atomic_init(&budget->refused, 0);
    budget->parent = NULL;
}

void budget_resize(struct budget *budget, uint64_t limit_bytes)
{
    int64_t limit = bytes_of(limit_bytes), before = atomic_exchange(&budget->limit, limit);

    atomic_fetch_add_explicit(&budget->left, limit - before, memory_order_relaxed);
}

COLD static bool refuse(struct budget *budget)
{
    atomic_fetch_add_explicit(&budget->refused, 1, memory_order_relaxed);
    return false;
}

bool budget_take(struct budget *budget, size_t bytes)
{
    if (budget == NULL)
        return true;
    if (UNLIKELY(bytes > (size_t)atomic_load_explicit(&budget->limit, memory_order_relaxed)))
        return refuse(budget);
    int64_t before =
        atomic_fetch_sub_explicit(&budget->left, (int64_t)bytes, memory_order_relaxed);
    if (LIKELY(before >= (int64_t)bytes) &&
        (LIKELY(budget->parent == NULL) || budget_take(budget->parent, bytes)))
        return true;
    atomic_fetch_add_explicit(&budget->left, (int64_t)bytes, memory_order_relaxed);
    /* What its parent refused, the parent has counted. */
    return before >= (int64_t)bytes ? false : refuse(budget);
}

void budget_give(struct budget *budget, size_t bytes)
{
    for (; budget != NULL; budget = budget->parent)
        atomic_fetch_add_explicit(&budget->left, (int64_t)bytes, memory_order_relaxed);
}

bool budget_is_short(const struct budget *budget, size_t bytes)
{
    return budget != NULL && budget->parent != NULL &&
           atomic_load_explicit(&budget->left, memory_order_relaxed) < (int64_t)MIN(bytes, (size_t)INT64_MAX);
}

uint64_t budget_used(const struct budget *budget)
{
    int64_t left = atomic_load_explicit(&budget->left, memory_order_relaxed);

    return (uint64_t)(atomic_load_explicit(&budget->limit, memory_order_relaxed) - left);
}

uint64_t budget_refused(const struct budget *budget)
{
    return atomic_load_explicit(&budget->refused, memory_order_relaxed);
}
