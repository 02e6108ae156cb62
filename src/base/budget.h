/* budget.h - bytes the operator allows (--memory-limit), given out and taken back.
 *
 * Any thread; one atomic. A budget outlives everything charged to it. A NULL budget never says no.
 */
#ifndef BASE_BUDGET_H
#define BASE_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/def.h"

struct budget {
    _Atomic int64_t left; /* bytes */
    int64_t limit;
    _Atomic uint64_t refused; /* times that there was not enough */
};

void budget_init(struct budget *budget, uint64_t limit_bytes);
MUST_USE bool budget_take(struct budget *budget, size_t bytes); /* false: not enough left */
void budget_give(struct budget *budget, size_t bytes);
uint64_t budget_used(const struct budget *budget);
uint64_t budget_refused(const struct budget *budget); /* how often it said no */

#endif
