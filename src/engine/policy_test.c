/* policy_test.c - inline or queued, rule by rule. SPDX-License-Identifier: Apache-2.0 */
#include "engine/policy.h"

#include <string.h>

#include "test/harness.h"

enum { US = 1000 };

static struct policy made(enum execution asked, bool can_inline)
{
    struct policy policy;

    policy_init(&policy, asked, can_inline, 50 * US, 200 * US);
    return policy;
}

TEST(nothing_runs_inline_before_it_is_measured)
{
    struct policy p = made(EXECUTION_AUTO, true);

    check(!policy_is_inline(&p, 1), "no run yet");
    policy_report(&p, 16, 5 * US, true);
    check(policy_is_inline(&p, 16), "a short run vouches for its size");
    check(policy_is_inline(&p, 1024), "and for small ones");
    check(!policy_is_inline(&p, 1 << 20), "not for a megabyte");
}

TEST(a_size_is_vouched_for_by_a_run_near_it)
{
    struct policy p = made(EXECUTION_AUTO, true);

    policy_report(&p, 100000, 45 * US, true);
    check(policy_is_inline(&p, 100000) && !policy_is_inline(&p, 100001), "near the limit: itself");
    policy_report(&p, 200000, 20 * US, true);
    check(policy_is_inline(&p, 300000) && !policy_is_inline(&p, 300001), "half of it more");
    policy_report(&p, 400000, 5 * US, true);
    check(policy_is_inline(&p, 800000) && !policy_is_inline(&p, 800001), "twice");
    policy_report(&p, 5000000, 51 * US, true);
    check(!policy_is_inline(&p, 5000000), "a long run vouches for nothing");
}

TEST(a_long_run_by_the_wall_is_only_suspicious)
{
    struct policy p = made(EXECUTION_AUTO, true);

    policy_report(&p, 16, 5 * US, true);
    policy_report(&p, 16, 5000 * US, false);
    check(policy_is_inline(&p, 16), "it may have been the scheduler's doing");
    check(policy_wants_cpu(&p), "the next are measured by processor time");
    for (unsigned i = 0; i < POLICY_PROBATION; i++)
        policy_report(&p, 16, 6 * US, true);
    check(!policy_wants_cpu(&p) && policy_is_inline(&p, 16), "acquitted");
}

TEST(a_long_run_by_processor_time_is_a_verdict)
{
    struct policy p = made(EXECUTION_AUTO, true);
    bool is_inline;
    char words[200];

    policy_report(&p, 16, 5 * US, true);
    policy_report(&p, 16, 201 * US, false);
    for (unsigned i = 0; i < POLICY_PROBATION / 2; i++) {
        check(policy_is_inline(&p, 16), "%u are not enough", i);
        policy_report(&p, 16, 201 * US, true);
    }
    check(!policy_is_inline(&p, 16), "queued");
    for (unsigned i = 0; i < 1000; i++)
        policy_report(&p, 16, 1 * US, true);
    check(!policy_is_inline(&p, 16), "until reload");
    policy_explain(&p, &is_inline, words, sizeof words);
    check(!is_inline && strstr(words, "201 us") != NULL, "%s", words);
}

/* On a guest whose host takes the processor away, a run of 2 us may be charged milliseconds. */
TEST(a_host_that_takes_the_processor_condemns_nobody)
{
    struct policy p = made(EXECUTION_AUTO, true);

    policy_report(&p, 16, 2 * US, true);
    for (unsigned i = 0; i < 100000; i++) {
        bool is_stolen = test_random_below(100) == 0;
        policy_report(&p, 16, is_stolen ? 4000 * US : 2 * US, policy_wants_cpu(&p));
    }
    check(policy_is_inline(&p, 16), "one run in a hundred is no verdict");
}

TEST(runs_that_grow_slow_are_queued)
{
    struct policy p = made(EXECUTION_AUTO, true);

    policy_report(&p, 16, 5 * US, true);
    for (unsigned i = 0; i < 200 && policy_is_inline(&p, 16); i++)
        policy_report(&p, 16, 90 * US, false);
    check(!policy_is_inline(&p, 16), "the average is over 50 us");
}

TEST(what_was_asked_wins)
{
    struct policy queued = made(EXECUTION_QUEUED, true), forced = made(EXECUTION_INLINE, true),
                  cannot = made(EXECUTION_INLINE, false);

    policy_report(&queued, 16, 1 * US, true);
    check(!policy_is_inline(&queued, 16), "queued");
    check(policy_is_inline(&forced, 1 << 30), "inline, whatever the size");
    check(!policy_is_inline(&cannot, 1), "not against the backend's word");
}
