/* engine/stats.h - what a model version has done: Triton's statistics and our histograms.
 *
 * Each loop counts the requests that end on it in a shard of its own: one writer, so that counting
 * is a load and a store and no locked instruction (34 of them a request cost 0.2 us). One more shard
 * is for what any thread counts. Whoever asks gets the sum (model_stats), in which two members may be
 * a request apart.
 */
#ifndef ENGINE_STATS_H
#define ENGINE_STATS_H

#include "telemetry/stat.h"

struct stat_duration {
    _Atomic uint64_t count, ns;
};

/* Why a request failed, as in Triton's nv_inference_request_failure. */
enum fail_reason { FAIL_REJECTED, FAIL_CANCELED, FAIL_BACKEND, FAIL_OTHER, FAIL_REASONS };

/* Why a request was not run. */
enum refusal {
    REFUSAL_NONE,
    REFUSAL_FULL,      /* --queue-max wait already */
    REFUSAL_DELAY,     /* it would wait too long (--queue-delay) */
    REFUSAL_DEADLINE,  /* its deadline cannot be met */
    REFUSAL_LATE,      /* its time was over in the queue */
    REFUSAL_DISPLACED, /* it lost its place to a tenant that is below its share, or to its own priority */
    REFUSAL_TENANT,    /* its tenant's limits */
    REFUSAL_BEHIND,    /* the loop that read it is behind */
    REFUSAL_DRAINING,
    REFUSALS
};
extern const char *const refusal_names[REFUSALS]; /* "full", "delay", ... */

/* The stages of a request's life: each has a histogram and a part of `server-timing`. */
enum stage { STAGE_DECODE, STAGE_QUEUE, STAGE_INPUT, STAGE_RUN, STAGE_OUTPUT, STAGE_ENCODE, STAGES };
extern const char *const stage_names[STAGES]; /* "decode", "queue", ... */

/* The shard's own writer. */
static inline void model_stat_add(_Atomic uint64_t *to, uint64_t n)
{
    stat_add(to, n);
}
void stat_duration_add(struct stat_duration *d, uint64_t ns);

enum { STAT_BATCH_SIZES = 65 }; /* 0..63 by size; the last: 64 and more */

/* Eight-byte counters only: model_stats adds them up without knowing their names. */
struct model_stats {
    struct stat_duration success, fail, queue, compute_input, compute_infer, compute_output;
    _Atomic uint64_t inference_count, execution_count, last_inference_ms;
    _Atomic uint64_t failures[FAIL_REASONS];
    _Atomic uint64_t refused[REFUSALS];
    struct stat_duration batch_input[STAT_BATCH_SIZES], batch_infer[STAT_BATCH_SIZES],
        batch_output[STAT_BATCH_SIZES];
    struct stat_histogram stages[STAGES], total;
    struct stat_histogram cancel;           /* from when nobody waited any more to the run's end */
    _Atomic int64_t pending, running;       /* gauges: of queued requests, any thread */
    _Atomic uint64_t runs_inline;
    _Atomic uint64_t runs_queued;           /* any thread */
    _Atomic uint64_t cancelled_total;       /* requests whose caller left before the end */
    _Atomic uint64_t wasted_compute_ns;     /* run time of requests nobody waited for any more */
    _Atomic uint64_t responses;             /* given to readers, also those after the first */
    _Atomic uint64_t merged_total;          /* responses that a newer one took the place of */
    _Atomic uint64_t paused_total;          /* times that a reader's credit was used up ... */
    _Atomic uint64_t paused_ns;             /* ... and how long until it granted more */
};

#endif
