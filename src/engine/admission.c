/* admission.c - SPDX-License-Identifier: Apache-2.0
 *
 * Buckets of the histogram are a quarter of a doubling wide: a quantile is right to 19 %. When 512 runs
 * are in it all counts are halved, so that what was measured long ago fades.
 */
#include "engine/admission.h"

#include <string.h>

#include "base/clock.h"
#include "base/def.h"

enum {
    RUNS_MOST = 512,  /* then all counts are halved */
    RUNS_FEW = 10,    /* below that the slowest of them may be the first, which is no measure */
    READ_EVERY = 8,   /* runs: the quantiles */
    DRAIN_SHARE = 16, /* of a new sample in the average */
    LIMIT_RUNS = 16,
    TARGET_RUNS = 8,
    REFUSED_FEW = 50, /* one in so many */
};

#define TARGET_LEAST_NS (2 * NS_PER_MS)
#define STANDING_NS (100 * NS_PER_MS)
#define WINDOW_NS NS_PER_S
#define STALE_NS (10 * NS_PER_S)
#define PROBE_NS NS_PER_S
#define PROBE_RUNS UINT64_C(8)

void admission_init(struct admission *a, uint64_t delay_ns)
{
    memset(a, 0, sizeof *a);
    a->delay_ns = delay_ns;
}

/* -- what was measured -------------------------------------------------------------------------- */

/* Four a doubling, from 1 us on. */
static uint32_t bucket_of(uint64_t ns)
{
    uint64_t us4 = ns / 250;

    if (us4 < 4)
        return 0;
    uint32_t top = 63u - (uint32_t)__builtin_clzll(us4);
    uint32_t bucket = (top - 1) * 4 - 4 + ((uint32_t)(us4 >> (top - 2)) & 3u);
    return MIN(bucket, (uint32_t)ADMISSION_BUCKETS - 1);
}

/* Its upper end. */
static uint64_t bucket_ns(uint32_t bucket)
{
    return ((UINT64_C(5) + bucket % 4) << (bucket / 4)) * 250;
}

static uint64_t quantile(const struct admission *a, uint32_t tenths)
{
    uint32_t wanted = (a->runs * tenths + 9) / 10, sum = 0;

    for (uint32_t i = 0; i < ADMISSION_BUCKETS; i++) {
        sum += a->counts[i];
        if (sum >= wanted && sum != 0)
            return bucket_ns(i);
    }
    return 0;
}

void admission_ran(struct admission *a, uint64_t run_ns, uint64_t now_ns)
{
    if (a->runs >= RUNS_MOST) {
        a->runs = 0;
        for (uint32_t i = 0; i < ADMISSION_BUCKETS; i++) {
            a->counts[i] /= 2;
            a->runs += a->counts[i];
        }
    }
    a->counts[bucket_of(run_ns)]++;
    a->runs++;
    a->measured_ns = now_ns;
    if (++a->unread < READ_EVERY && a->runs > READ_EVERY)
        return;
    a->unread = 0;
    a->low_ns = quantile(a, 1);
    a->middle_ns = quantile(a, 5);
    a->high_ns = quantile(a, 9);
}

void admission_took(struct admission *a, uint64_t now_ns, bool others_wait)
{
    admission_worked(a, now_ns, 1, others_wait);
}

void admission_worked(struct admission *a, uint64_t now_ns, uint32_t count, bool others_wait)
{
    if (a->took_ns != 0 && count == 0 && others_wait)
        return; /* the next sample is the longer */
    if (a->took_ns != 0 && count != 0 && now_ns >= a->took_ns) {
        uint64_t sample = (now_ns - a->took_ns) / count;
        a->drain_ns = a->drain_ns == 0
                          ? sample
                          : a->drain_ns - a->drain_ns / DRAIN_SHARE + sample / DRAIN_SHARE;
    }
    a->took_ns = others_wait ? now_ns : 0;
}

/* -- what follows ------------------------------------------------------------------------------- */

/* What is old is worth less, so that it cannot shut the model. */
static uint64_t aged(const struct admission *a, uint64_t ns, uint64_t now_ns)
{
    uint64_t age = now_ns > a->measured_ns ? (now_ns - a->measured_ns) / STALE_NS : 0;

    return age < 64 ? ns >> age : 0;
}

static uint64_t drain_of(const struct admission *a, uint32_t instances)
{
    return a->drain_ns != 0 ? a->drain_ns : a->middle_ns / MAX(instances, 1u);
}

uint64_t admission_wait_ns(const struct admission *a, uint64_t ahead, uint32_t instances)
{
    uint64_t drain = drain_of(a, instances), wait;

    /* The one in front of all of them is half through, as a rule. */
    if (__builtin_mul_overflow(ahead, drain, &wait) || __builtin_add_overflow(wait, drain / 2, &wait))
        return UINT64_MAX;
    return wait;
}

static uint64_t limit_of(const struct admission *a, uint64_t drain)
{
    return a->delay_ns == 0 ? UINT64_MAX : MAX(a->delay_ns, LIMIT_RUNS * drain);
}

static uint64_t target_of(const struct admission *a, uint64_t drain)
{
    return MIN(MAX(TARGET_RUNS * drain, (uint64_t)TARGET_LEAST_NS), limit_of(a, drain));
}

uint64_t admission_limit_ns(const struct admission *a, uint32_t instances)
{
    uint64_t drain = drain_of(a, instances);

    return a->is_standing ? target_of(a, drain) : limit_of(a, drain);
}

/* A second has passed: was it still too much? When two have, nobody asked in one of them. */
static void count(struct admission *a, uint64_t now_ns)
{
    if (now_ns - a->window_ns >= WINDOW_NS) {
        if ((uint64_t)a->refused * REFUSED_FEW <= a->asked || now_ns - a->window_ns >= 2 * WINDOW_NS)
            a->is_standing = false;
        a->window_ns = now_ns;
        a->asked = a->refused = 0;
    }
    a->asked++;
}

static void refuse(struct admission *a, uint64_t now_ns)
{
    a->refused++;
    if (a->delay_ns != 0 && a->above_ns != 0 && now_ns - a->above_ns >= STANDING_NS)
        a->is_standing = true;
}

static uint64_t sum_of(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* One that finds nobody in front of it, and less time than even short runs took. */
static bool is_hopeless(struct admission *a, const struct admission_question *q, bool is_dry)
{
    uint64_t pause = MAX((uint64_t)PROBE_NS, PROBE_RUNS * a->high_ns);

    if (sum_of(q->now_ns, aged(a, a->low_ns, q->now_ns)) <= q->deadline_ns)
        return false;
    if (q->now_ns - MAX(a->probed_ns, a->measured_ns) < pause)
        return true;
    if (!is_dry)
        a->probed_ns = q->now_ns;
    return false;
}

static enum admission_verdict judge(struct admission *a, const struct admission_question *q,
                                    uint64_t drain, bool is_dry, uint64_t *ret_after_ns)
{
    uint64_t limit = limit_of(a, drain), target = target_of(a, drain);
    uint64_t begins = sum_of(q->now_ns, q->wait_ns), ends = begins;

    if (q->is_free)
        return q->knows_runs && q->deadline_ns != UINT64_MAX && is_hopeless(a, q, is_dry)
                   ? ADMISSION_RUN
                   : ADMISSION_FINE;
    if (a->is_standing && !q->is_admitted && !q->is_modest)
        limit = target;
    if (q->knows_runs)
        ends = sum_of(begins,
                      aged(a, a->runs < RUNS_FEW ? a->middle_ns : a->high_ns, q->now_ns));
    if (q->wait_ns > limit) {
        *ret_after_ns = q->wait_ns - limit;
        return ADMISSION_DELAY;
    }
    uint64_t late = 0;
    if (begins > q->begin_ns)
        late = begins - q->begin_ns;
    if (q->deadline_ns != UINT64_MAX && ends > q->deadline_ns)
        late = MAX(late, ends - q->deadline_ns);
    *ret_after_ns = MIN(late, q->wait_ns);
    return late != 0 ? ADMISSION_DEADLINE : ADMISSION_FINE;
}

enum admission_verdict admission_judge(struct admission *a, const struct admission_question *q,
                                       bool is_dry, uint64_t *ret_after_ns)
{
    uint64_t drain = drain_of(a, q->instances);

    *ret_after_ns = 0;
    if (!is_dry) {
        count(a, q->now_ns);
        if (!q->is_free && q->wait_ns > target_of(a, drain))
            a->above_ns = a->above_ns == 0 ? q->now_ns : a->above_ns;
        else if (q->is_free || !q->is_modest) /* who asks for little goes before those who stand */
            a->above_ns = 0;
    }
    enum admission_verdict verdict = judge(a, q, drain, is_dry, ret_after_ns);
    if (verdict != ADMISSION_FINE && !is_dry && !q->is_free)
        refuse(a, q->now_ns);
    /* At least until one more has left, so that not all who were refused are back at once. */
    *ret_after_ns = MAX(*ret_after_ns, drain);
    return verdict;
}

void admission_was_full(struct admission *a, const struct admission_question *q)
{
    refuse(a, q->now_ns);
}

bool admission_is_late(const struct admission *a, uint64_t now_ns, uint64_t deadline_ns)
{
    return deadline_ns != UINT64_MAX && sum_of(now_ns, aged(a, a->middle_ns, now_ns)) > deadline_ns;
}
