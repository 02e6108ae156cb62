/* policy.h - inline or queued: what was measured, and what follows.
 *
 * `auto` runs a request on the loop that read it when the backend says that its run time depends on
 * nothing but the inputs' sizes and that it waits for nobody, the inputs are no larger than what has
 * been measured, and recent runs were short. Everything else is queued.
 *
 * A run is measured by the wall. On a busy machine the wall also shows what the thread did not do
 * (it was not scheduled), so a run over the limit is only suspicious: the next POLICY_PROBATION
 * runs are measured by the thread's own processor time, and when half of those are over the limit
 * that is the verdict. (Not one: a guest's processor time holds what its host took.)
 *
 * Threads  Any thread may ask and report: relaxed atomics. Two reports at once may lose one sample,
 *          never a verdict.
 */
#ifndef ENGINE_POLICY_H
#define ENGINE_POLICY_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/def.h"
#include "engine/model.h"

enum { POLICY_WINDOW = 64, POLICY_PROBATION = 8 };

struct policy {
    enum execution asked;
    bool can_inline;              /* the backend's word for this model */
    bool is_concurrent;           /* it never holds a loop for long: nothing needs to be measured */
    uint64_t typical_limit_ns, worst_limit_ns;
    atomic_bool is_banned;        /* queued until reload */
    _Atomic uint64_t bytes_max;   /* inputs up to this may run inline; 0: nothing measured yet */
    _Atomic uint64_t bytes_seen;  /* the largest that was measured */
    _Atomic uint64_t typical_ns;  /* moving average of the window */
    _Atomic uint64_t worst_ns;    /* the longest of the present window */
    _Atomic uint64_t runs;
    _Atomic uint32_t probation;   /* runs still to be measured by processor time */
    _Atomic uint32_t slow;        /* of those that were, over the limit */
    _Atomic uint64_t ban_ns;      /* the run that ended it */
};

void policy_init(struct policy *policy, enum execution asked, bool can_inline,
                 uint64_t typical_limit_ns, uint64_t worst_limit_ns);
/* May a request with so many input bytes run on the loop? */
bool policy_is_inline(const struct policy *policy, uint64_t input_bytes);
/* Must this run be measured by processor time (policy_cpu_ns)? Runs on instance threads may always
 * be: there the cost does not matter. */
static inline bool policy_wants_cpu(const struct policy *policy)
{
    return UNLIKELY(atomic_load_explicit(&policy->probation, memory_order_relaxed) != 0);
}
uint64_t policy_cpu_ns(void);
/* Reports a run. is_cpu: `ns` is processor time, and a long one is a verdict. */
void policy_report(struct policy *policy, uint64_t input_bytes, uint64_t ns, bool is_cpu);
/* A sentence for people: how it runs and why. */
void policy_explain(const struct policy *policy, bool *ret_is_inline, char *text, size_t size);

#endif
