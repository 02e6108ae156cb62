/* admission_test.c - what is let in: clause by clause, and a queue under 0.9, 1.05 and 3 times what it can do,
 * on a clock of the test's own. SPDX-License-Identifier: Apache-2.0 */
#include "engine/admission.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/def.h"
#include "engine/queue.h"
#include "test/harness.h"

#define MS NS_PER_MS

static struct admission a;
static uint64_t now;

static void start(uint64_t delay_ns)
{
    admission_init(&a, delay_ns);
    now = 1000 * NS_PER_S;
}

static void ran(unsigned times, uint64_t ns)
{
    for (unsigned i = 0; i < times; i++)
        admission_ran(&a, ns, now += ns);
}

static struct admission_question question(uint64_t ahead)
{
    return (struct admission_question){ .now_ns = now,
                                        .wait_ns = admission_wait_ns(&a, ahead, 1),
                                        .deadline_ns = UINT64_MAX,
                                        .begin_ns = UINT64_MAX,
                                        .instances = 1,
                                        .knows_runs = true };
}

static enum admission_verdict judge(const struct admission_question *q)
{
    uint64_t after;

    return admission_judge(&a, q, false, &after);
}

TEST(run_times_are_quantiles_that_fade)
{
    start(0);
    check(a.middle_ns == 0, "nothing is known at first");
    for (unsigned i = 0; i < 90; i++)
        admission_ran(&a, (1 + i % 10) * MS, now);
    check(a.low_ns >= MS && a.low_ns <= 2 * MS, "low %llu", (unsigned long long)a.low_ns);
    check(a.middle_ns >= 5 * MS && a.middle_ns <= 6 * MS, "middle %llu",
          (unsigned long long)a.middle_ns);
    check(a.high_ns >= 9 * MS && a.high_ns <= 11 * MS, "high %llu", (unsigned long long)a.high_ns);
    ran(1000, 50 * NS_PER_US);
    check(a.low_ns >= 50000 && a.high_ns <= 60000, "what is new counts: %llu",
          (unsigned long long)a.high_ns);
    ran(1, 1);
    ran(1, UINT64_C(1) << 62);
    check(a.high_ns < MS, "outliers do not");
}

TEST(the_wait_is_what_the_queue_took_so_far)
{
    start(0);
    check(admission_wait_ns(&a, 10, 1) == 0, "unknown");
    ran(20, 8 * MS);
    check(admission_wait_ns(&a, 10, 4) >= 20 * MS && admission_wait_ns(&a, 10, 4) <= 26 * MS,
          "by run and instances at first");
    for (unsigned i = 0; i < 100; i++)
        admission_took(&a, now += 3 * MS, true);
    check(admission_wait_ns(&a, 10, 4) >= 30 * MS && admission_wait_ns(&a, 10, 4) <= 33 * MS,
          "then as it was: %llu", (unsigned long long)admission_wait_ns(&a, 10, 4));
    admission_took(&a, now += 3 * MS, false);
    admission_took(&a, now += 3000 * MS, true);
    check(admission_wait_ns(&a, 10, 4) <= 33 * MS, "idle time is none of it");
    check(admission_wait_ns(&a, UINT64_MAX / 2, 1) == UINT64_MAX, "no overflow");
}

TEST(a_deadline_that_cannot_be_met_is_refused)
{
    start(0);
    struct admission_question q = question(50);
    q.deadline_ns = now + 1;
    check(judge(&q) == ADMISSION_FINE, "nothing is known: it is let in");
    ran(50, 4 * MS);
    for (unsigned i = 0; i < 100; i++)
        admission_took(&a, now += 4 * MS, true);
    q = question(10); /* 42 ms, and a run */
    q.deadline_ns = now + 100 * MS;
    check(judge(&q) == ADMISSION_FINE, "enough");
    q.deadline_ns = now + 40 * MS;
    uint64_t after = 0;
    check(admission_judge(&a, &q, false, &after) == ADMISSION_DEADLINE, "too little");
    check(after >= 4 * MS && after <= 12 * MS, "and when it is enough: %llu",
          (unsigned long long)after);
    q.deadline_ns = now + 2 * MS;
    check(admission_judge(&a, &q, false, &after) == ADMISSION_DEADLINE && after <= 42 * MS,
          "an empty queue is the most that waiting gives");
    q.deadline_ns = UINT64_MAX;
    q.begin_ns = now + 30 * MS;
    check(judge(&q) == ADMISSION_DEADLINE, "a queue timeout is one too");
    q.begin_ns = now + 45 * MS;
    check(judge(&q) == ADMISSION_FINE, "it need not have run by then");
    q = question(10);
    q.deadline_ns = now + 44 * MS;
    q.knows_runs = false;
    check(judge(&q) == ADMISSION_FINE, "a stream's run is not counted");
    check(admission_is_late(&a, now, now + 2 * MS) && !admission_is_late(&a, now, now + 6 * MS) &&
              !admission_is_late(&a, now, UINT64_MAX),
          "at its turn");
}

TEST(an_estimate_does_not_shut_the_model)
{
    start(0);
    ran(20, 300 * MS);
    struct admission_question q = question(0);
    q.is_free = true;
    q.deadline_ns = now + 100 * MS;
    check(judge(&q) == ADMISSION_RUN, "300 ms are more than 100");
    uint64_t after;
    q.now_ns = now + 2900 * MS; /* 8 runs' time later */
    q.deadline_ns = q.now_ns + 100 * MS;
    check(admission_judge(&a, &q, true, &after) == ADMISSION_FINE &&
              admission_judge(&a, &q, true, &after) == ADMISSION_FINE,
          "asking changes nothing");
    check(judge(&q) == ADMISSION_FINE, "one is let through to be measured");
    check(judge(&q) == ADMISSION_RUN, "and not two");
    now = q.now_ns;
    ran(1, MS);
    for (unsigned i = 0; i < 8; i++) /* the model is fast now, and its quantiles say so soon */
        ran(1, MS);
    q.now_ns = now;
    q.deadline_ns = now + 100 * MS;
    check(judge(&q) == ADMISSION_FINE, "low is %llu", (unsigned long long)a.low_ns);

    start(0);
    ran(20, 300 * MS);
    a.probed_ns = now + 24 * NS_PER_S; /* one was let through, and was never measured */
    q.now_ns = now + 25 * NS_PER_S;
    q.deadline_ns = q.now_ns + 100 * MS;
    check(judge(&q) == ADMISSION_FINE, "what is old counts half, and half of that");
}

TEST(a_burst_is_let_in_and_overload_is_not)
{
    start(NS_PER_S);
    ran(50, 2 * MS);
    for (unsigned i = 0; i < 100; i++)
        admission_took(&a, now += 2 * MS, true);
    struct admission_question q = question(400);
    for (unsigned i = 0; i < 1000; i++) {
        q.now_ns = now += MS / 2; /* a standing queue of 800 ms: callers that wait for their answers */
        check(judge(&q) == ADMISSION_FINE, "call %u", i);
    }
    check(!a.is_standing && admission_limit_ns(&a, 1) == NS_PER_S, "the limit holds");
    q = question(600);
    uint64_t after = 0;
    check(admission_judge(&a, &q, false, &after) == ADMISSION_DELAY && after > 190 * MS &&
              after < 210 * MS,
          "1.2 s are too much for 0.2 s more: %llu", (unsigned long long)after);
    check(a.is_standing && admission_limit_ns(&a, 1) < 20 * MS, "and from then on it is held short");
    q = question(20);
    check(judge(&q) == ADMISSION_DELAY, "40 ms");
    q.is_admitted = true;
    check(judge(&q) == ADMISSION_FINE, "but for what was let in before");
    q.is_admitted = false;
    q.is_modest = true;
    check(judge(&q) == ADMISSION_FINE, "and for who did not make it stand");
    q = question(6);
    check(judge(&q) == ADMISSION_FINE, "12 ms");
    for (unsigned i = 0; i < 2500; i++) {
        q = question(i % 100 == 0 ? 20 : 3);
        (void)judge(&q);
        now += MS;
    }
    check(!a.is_standing, "one in a hundred is no overload");
}

TEST(long_runs_have_a_longer_limit)
{
    start(NS_PER_S);
    ran(20, 2000 * MS);
    check(admission_limit_ns(&a, 1) >= 32 * NS_PER_S, "16 runs");
    start(0);
    ran(20, 2000 * MS);
    struct admission_question q = question(100000);
    check(admission_limit_ns(&a, 1) == UINT64_MAX && judge(&q) == ADMISSION_FINE, "none");
}

/* -- a queue on a clock ------------------------------------------------------------------------- */

static int by_value(const void *x, const void *y)
{
    uint64_t a_ns = *(const uint64_t *)x, b_ns = *(const uint64_t *)y;

    return (a_ns > b_ns) - (a_ns < b_ns);
}

static double uniform(void)
{
    return ((double)(test_random() >> 11) + 1) / 9007199254740994.0;
}

struct outcome {
    uint64_t p99_ns; /* from arrival to end, of those that were run in time */
    double good;     /* of what the model can do */
    double refused;  /* of what was asked */
    unsigned late;   /* let in, and not answered in time */
};

/* Poisson arrivals at one instance for 30 s, the first 5 are not counted. */
static struct outcome offer(double load, uint64_t run_ns, uint64_t deadline_ns, uint64_t delay_ns)
{
    enum { MOST = 60000 };
    static uint64_t arrived[MOST], took[MOST];
    uint32_t first = 0, last = 0, done = 0;
    uint64_t asked = 0, refused = 0, late = 0, begun, end;
    struct outcome outcome;

    start(delay_ns);
    ran(20, run_ns);
    begun = now + 5 * NS_PER_S;
    end = begun + 60000 * run_ns; /* as many calls whatever they take */
    uint64_t arrives = now, busy_until = now;
    while (arrives < end && last < MOST && done < MOST) {
        /* Runs that begin before the next arrival. */
        while (first < last && busy_until <= arrives) {
            uint64_t at = MAX(busy_until, arrived[first]);
            uint64_t due = deadline_ns == 0 ? UINT64_MAX : arrived[first] + deadline_ns;
            if (at >= due || admission_is_late(&a, at, due)) {
                late += arrived[first] >= begun;
                first++;
                continue;
            }
            admission_took(&a, at, last - first > 1);
            busy_until = at + run_ns;
            admission_ran(&a, run_ns, busy_until);
            if (arrived[first] >= begun) {
                took[done++] = busy_until - arrived[first];
                late += busy_until > due;
            }
            first++;
        }
        now = arrives;
        struct admission_question q = question(last - first);
        q.is_free = first == last && busy_until <= now;
        if (q.is_free)
            q.wait_ns = 0;
        q.deadline_ns = deadline_ns == 0 ? UINT64_MAX : now + deadline_ns;
        bool is_in = judge(&q) == ADMISSION_FINE;
        asked += now >= begun;
        refused += now >= begun && !is_in;
        if (is_in)
            arrived[last++] = now;
        arrives += (uint64_t)(-log(uniform()) * (double)run_ns / load);
    }
    qsort(took, done, sizeof took[0], by_value);
    outcome.p99_ns = took[done * 99 / 100];
    outcome.good = (double)(done - late) * (double)run_ns / (25.0 * 1e9);
    outcome.refused = (double)refused / (double)asked;
    outcome.late = (unsigned)late;
    return outcome;
}

TEST(three_times_what_it_can_do)
{
    static const uint64_t runs[] = { MS, 2 * MS, 5 * MS };
    static const uint64_t deadlines[] = { 0, 100 * MS };

    for (size_t d = 0; d < COUNT(deadlines); d++)
        for (size_t i = 0; i < COUNT(runs); i++) {
            struct outcome calm = offer(0.9, runs[i], deadlines[d], NS_PER_S);
            struct outcome slight = offer(1.05, runs[i], deadlines[d], NS_PER_S);
            struct outcome much = offer(3, runs[i], deadlines[d], NS_PER_S);
            check(calm.refused < 0.02, "%zu, %zu: %.3f refused at 0.9", d, i, calm.refused);
            check(calm.good > 0.85, "%zu, %zu: %.3f at 0.9", d, i, calm.good);
            check(slight.good > 0.95, "%zu, %zu: %.3f at 1.05", d, i, slight.good);
            check(much.good > 0.95, "%zu, %zu: %.3f at 3", d, i, much.good);
            check(much.refused > 0.6 && much.refused < 0.7, "%.3f refused at 3", much.refused);
            check(much.p99_ns < 2 * calm.p99_ns, "%zu, %zu: p99 %llu us at 0.9, %llu at 3", d, i,
                  (unsigned long long)calm.p99_ns / 1000, (unsigned long long)much.p99_ns / 1000);
            check(much.late < 10, "%u late", much.late);
        }
}

/* -- tenants ------------------------------------------------------------------------------------ */

enum { TENANTS = 5, CALLS_MOST = 400000 };

struct tenants_outcome {
    uint64_t p99_ns;  /* of the quiet ones */
    double refused;   /* of what they asked */
    double loud_part; /* of all runs */
};

/* Tenant 1 asks for `loud` of what the model can do, the four others for 0.15 of it each. */
static struct tenants_outcome compete(double loud, uint64_t run_ns, uint64_t deadline_ns)
{
    static struct call {
        struct queue_entry entry;
        uint64_t arrived, due;
        bool was_behind;
    } calls[CALLS_MOST];
    static uint64_t took[CALLS_MOST];
    struct queue queue;
    uint64_t next[TENANTS], end, begun, busy_until, quiet = 0, refused = 0, runs = 0, louds = 0;
    uint32_t used = 0, done = 0;

    start(NS_PER_S);
    queue_init(&queue);
    ran(20, run_ns);
    begun = now + 3 * NS_PER_S;
    end = begun + 60000 * run_ns; /* as many calls whatever they take */
    busy_until = now;
    for (uint32_t t = 0; t < TENANTS; t++)
        next[t] = now;
    for (;;) {
        uint32_t who = 0;
        for (uint32_t t = 1; t < TENANTS; t++)
            if (next[t] < next[who])
                who = t;
        while (queue.waiting != 0 && busy_until <= next[who]) {
            struct queue_entry *entry = queue_pop(&queue, a.middle_ns);
            struct call *call = CONTAINER_OF(entry, struct call, entry);
            uint32_t tenant = entry->flow->tenant;
            uint64_t at = MAX(busy_until, call->arrived);
            if (at >= call->due || (call->was_behind && admission_is_late(&a, at, call->due))) {
                queue_settle(&queue, entry, 0);
                refused += tenant != 1 && call->arrived >= begun;
                continue;
            }
            admission_took(&a, at, queue.waiting != 0);
            busy_until = at + run_ns;
            queue_settle(&queue, entry, run_ns);
            admission_ran(&a, run_ns, busy_until);
            runs += call->arrived >= begun;
            louds += call->arrived >= begun && tenant == 1;
            if (tenant != 1 && call->arrived >= begun)
                took[done++] = busy_until - call->arrived;
        }
        now = next[who];
        if (now >= end || used == CALLS_MOST)
            break;
        next[who] += (uint64_t)(-log(uniform()) * (double)run_ns / (who == 0 ? loud : 0.15));
        struct queue_tenant tenant = { who + 1, 1, "" };
        struct admission_question q = question(queue_ahead(&queue, tenant, 8));
        q.is_free = queue.waiting == 0 && busy_until <= now;
        if (q.is_free)
            q.wait_ns = 0;
        q.is_modest = queue_is_modest(&queue, tenant);
        q.deadline_ns = deadline_ns == 0 ? UINT64_MAX : now + deadline_ns;
        bool is_counted = who != 0 && now >= begun;
        quiet += is_counted;
        if (judge(&q) != ADMISSION_FINE) {
            refused += is_counted;
            continue;
        }
        struct call *call = &calls[used++];
        *call = (struct call){ .arrived = now, .due = q.deadline_ns, .was_behind = !q.is_free };
        queue_push(&queue, &call->entry, tenant, 8);
    }
    while (queue_pop(&queue, 0) != NULL)
        ;
    queue_deinit(&queue);
    qsort(took, done, sizeof took[0], by_value);
    return (struct tenants_outcome){ took[done * 99 / 100], (double)refused / (double)quiet,
                                     (double)louds / (double)runs };
}

TEST(one_tenant_at_fifty_times_its_share)
{
    static const uint64_t runs[] = { MS, 3 * MS, 5 * MS };
    static const uint64_t deadlines[] = { 0, 100 * MS };

    for (size_t d = 0; d < COUNT(deadlines); d++)
        for (size_t i = 0; i < COUNT(runs); i++) {
            struct tenants_outcome calm = compete(0.2, runs[i], deadlines[d]);
            struct tenants_outcome much = compete(10, runs[i], deadlines[d]);
            check(much.p99_ns < calm.p99_ns * 13 / 10,
                  "%zu, %zu: p99 of the others %llu us, %llu beside the loud one", d, i,
                  (unsigned long long)calm.p99_ns / 1000, (unsigned long long)much.p99_ns / 1000);
            check(much.refused < 0.01, "%zu, %zu: %.4f of the others' were refused", d, i,
                  much.refused);
            check(much.loud_part > 0.35 && much.loud_part < 0.45,
                  "what the others leave is the loud one's: %.3f", much.loud_part);
            check(calm.refused < 0.01, "%.4f", calm.refused);
        }
}
