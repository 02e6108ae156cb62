/* budget.h - bytes the operator allows (--memory-limit), given out and taken back.
 *
 * Any thread; one atomic each. A budget outlives everything charged to it. A NULL budget never says no.
 * One with a parent is a part of it: what it gives out is taken from both.
 */
#ifndef BASE_BUDGET_H
#define BASE_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/def.h"

struct budget {
    _Atomic int64_t left; /* bytes */
    _Atomic int64_t limit;
    _Atomic uint64_t refused; /* times that there was not enough */
    struct budget *parent;    /* borrowed: outlives it; set behind budget_init; NULL: none */
};

void budget_init(struct budget *budget, uint64_t limit_bytes);
/* Another limit from now on; what was given out stays so, and may be more than that. */
void budget_resize(struct budget *budget, uint64_t limit_bytes);
MUST_USE bool budget_take(struct budget *budget, size_t bytes); /* false: not enough left */
void budget_give(struct budget *budget, size_t bytes);
/* Of one with a parent: is it its own limit that has no room for so many now? */
bool budget_is_short(const struct budget *budget, size_t bytes);
uint64_t budget_used(const struct budget *budget);
uint64_t budget_refused(const struct budget *budget); /* how often it said no */

#endif
