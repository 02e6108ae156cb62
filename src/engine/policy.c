/* policy.c - SPDX-License-Identifier: Apache-2.0
 *
 * Sizes: after a run of S bytes that took t, inputs up to S * clamp(limit / 2t, 1, 2) may run inline:
 * a run far under the limit vouches for up to twice its size, one near it only for itself.
 */
#include "engine/policy.h"

#include <stdio.h>

#include "base/clock.h"

#define LOAD(x) atomic_load_explicit(&(x), memory_order_relaxed)
#define STORE(x, v) atomic_store_explicit(&(x), (v), memory_order_relaxed)

void policy_init(struct policy *policy, enum execution asked, bool can_inline,
                 uint64_t typical_limit_ns, uint64_t worst_limit_ns)
{
    *policy = (struct policy){ .asked = asked,
                               .can_inline = can_inline,
                               .typical_limit_ns = typical_limit_ns,
                               .worst_limit_ns = worst_limit_ns };
}

bool policy_is_inline(const struct policy *policy, uint64_t input_bytes)
{
    if (!policy->can_inline || policy->asked == EXECUTION_QUEUED)
        return false;
    if (policy->asked == EXECUTION_INLINE || policy->is_concurrent)
        return true;
    return input_bytes <= LOAD(policy->bytes_max) && !LOAD(policy->is_banned);
}

uint64_t policy_cpu_ns(void)
{
    return clock_read(CLOCK_THREAD_CPUTIME_ID);
}

/* Reads a size that was measured into the size that it allows. */
static void learn_size(struct policy *policy, uint64_t bytes, uint64_t ns)
{
    uint64_t limit = policy->typical_limit_ns;

    if (ns > limit)
        return;
    if (bytes > LOAD(policy->bytes_seen))
        STORE(policy->bytes_seen, bytes);
    uint64_t allowed = ns * 4 <= limit ? MAX(bytes, UINT64_C(512)) * 2
                       : ns * 2 < limit ? bytes + bytes / 2
                                        : bytes;
    if (allowed > LOAD(policy->bytes_max))
        STORE(policy->bytes_max, MAX(allowed, UINT64_C(1)));
}

void policy_report(struct policy *policy, uint64_t input_bytes, uint64_t ns, bool is_cpu)
{
    uint64_t runs = LOAD(policy->runs) + 1;
    uint64_t typical = LOAD(policy->typical_ns);

    STORE(policy->runs, runs);
    /* An outlier moves the average by little: many in a row it takes to pass the limit. */
    uint64_t sample = MIN(ns, 2 * policy->typical_limit_ns);
    STORE(policy->typical_ns, runs == 1 ? sample : typical + sample / 16 - typical / 16);
    if (runs % POLICY_WINDOW == 0 || ns > LOAD(policy->worst_ns))
        STORE(policy->worst_ns, ns);
    if (!policy->can_inline || LOAD(policy->is_banned))
        return;
    bool was_inline = input_bytes <= LOAD(policy->bytes_max);
    bool is_slow = was_inline && ns > policy->worst_limit_ns;
    uint32_t left = LOAD(policy->probation);
    if (UNLIKELY(left != 0 && is_cpu)) {
        uint32_t slow = LOAD(policy->slow) + is_slow;
        STORE(policy->slow, slow);
        STORE(policy->probation, left - 1);
        if (slow >= POLICY_PROBATION / 2) {
            STORE(policy->ban_ns, ns);
            STORE(policy->is_banned, true);
            return;
        }
    } else if (UNLIKELY(is_slow && left == 0)) {
        STORE(policy->slow, 0u);
        STORE(policy->probation, (uint32_t)POLICY_PROBATION);
    }
    if (is_slow)
        return;
    if (input_bytes > LOAD(policy->bytes_max) || input_bytes > LOAD(policy->bytes_seen))
        learn_size(policy, input_bytes, ns);
    if (runs >= POLICY_WINDOW && LOAD(policy->typical_ns) > policy->typical_limit_ns &&
        was_inline) {
        STORE(policy->ban_ns, LOAD(policy->typical_ns));
        STORE(policy->is_banned, true);
    }
}

void policy_explain(const struct policy *policy, bool *ret_is_inline, char *text, size_t size)
{
    double typical_us = (double)LOAD(policy->typical_ns) / 1e3;
    unsigned long long runs = (unsigned long long)LOAD(policy->runs);

    *ret_is_inline = policy_is_inline(policy, 1);
    if (policy->asked == EXECUTION_QUEUED)
        snprintf(text, size, "queued: asked for by configuration");
    else if (policy->is_concurrent)
        snprintf(text, size,
                 policy->can_inline
                     ? "inline: the backend runs many at once on the loop that read them"
                     : "queued: the backend runs many at once on a thread of its instance");
    else if (!policy->can_inline)
        snprintf(text, size, "queued: the backend may wait, or its run time depends on values");
    else if (policy->asked == EXECUTION_INLINE)
        snprintf(text, size, "inline: asked for by configuration");
    else if (LOAD(policy->is_banned))
        snprintf(text, size,
                 "queued until reload: a run took %.0f us, the limits are %.0f us typically and "
                 "%.0f us at worst",
                 (double)LOAD(policy->ban_ns) / 1e3, (double)policy->typical_limit_ns / 1e3,
                 (double)policy->worst_limit_ns / 1e3);
    else if (LOAD(policy->bytes_max) == 0)
        snprintf(text, size, "queued: no run was short enough yet (%llu measured)", runs);
    else
        snprintf(text, size,
                 "inline for inputs up to %llu bytes: runs take about %.1f us (%llu measured)",
                 (unsigned long long)LOAD(policy->bytes_max), typical_us, runs);
}
