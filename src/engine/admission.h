/* admission.h - what a model's queue is expected to cost a newcomer, and whether that is too much.
 *
 * Runs    How long they take: quantiles of a decaying histogram (the newest 256 runs or so count).
 * Drain   How often one leaves the queue while others wait: that holds the number of instances, what
 *         they take from each other, and what a backend runs at once. Wait = those in front times drain.
 * Refused A request that brings a deadline and cannot make it; one that would wait longer than the limit
 *         (--queue-delay, or the time of 16 runs where those are long); and while the queue stands (see
 *         below) one that would wait longer than the target, the time of 8 runs.
 * Stands  A burst fills a queue and goes; overload fills it and stays. From when requests were refused
 *         and the wait has been above the target for 100 ms on end, the queue is held at the target: long
 *         enough to keep every instance busy, and no longer. That ends when in a second less than 2 % had
 *         to be refused. Callers who wait for their answer before they ask again never get there: however
 *         many they are, nobody is refused, and the queue is what they make it.
 * Open    No estimate shuts a model for good: who finds an instance free waits for nobody, and where runs
 *         are thought too long for a deadline one such request a second (or in 8 runs' time) is let
 *         through and measured; what has not been measured for ten seconds counts half, and so on.
 *
 * Pure: time is an argument, its owner guards it (model.lock). Nothing is allocated.
 */
#ifndef ENGINE_ADMISSION_H
#define ENGINE_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

enum { ADMISSION_BUCKETS = 128 };

struct admission {
    /* -- runs -- */
    uint16_t counts[ADMISSION_BUCKETS]; /* of runs, four a doubling */
    uint32_t runs;                      /* in them */
    uint32_t unread;                    /* since the quantiles were read from them */
    uint64_t low_ns, middle_ns, high_ns; /* quantiles 0.1, 0.5, 0.9; 0: nothing measured */
    uint64_t measured_ns;               /* when */
    uint64_t probed_ns;                 /* when one was let through to be measured */
    /* -- drain -- */
    uint64_t drain_ns;                  /* moving average; 0: nothing measured */
    uint64_t took_ns;                   /* when one left a queue that others waited in; 0: they did not */
    /* -- the gate -- */
    uint64_t delay_ns;                  /* --queue-delay; 0: any */
    uint64_t above_ns;                  /* since when the wait is above the target; 0: it is not */
    uint64_t window_ns;                 /* when counting began */
    uint32_t asked, refused;            /* since then */
    bool is_standing;
};

/* delay_ns 0: only deadlines refuse. */
void admission_init(struct admission *a, uint64_t delay_ns);
void admission_ran(struct admission *a, uint64_t run_ns, uint64_t now_ns);
/* One left the queue to be run, and others wait still or do not. */
void admission_took(struct admission *a, uint64_t now_ns, bool others_wait);
/* `count` have left and were worked off since this was called last. */
void admission_worked(struct admission *a, uint64_t now_ns, uint32_t count, bool others_wait);

/* How long `ahead` of them take to leave, where so many instances run. */
uint64_t admission_wait_ns(const struct admission *a, uint64_t ahead, uint32_t instances);
/* The most that may be waited now: the limit, or the target while the queue stands. UINT64_MAX: any time. */
uint64_t admission_limit_ns(const struct admission *a, uint32_t instances);

enum admission_verdict {
    ADMISSION_FINE,
    ADMISSION_DELAY,    /* it would wait too long */
    ADMISSION_DEADLINE, /* its time would be over in the queue, or behind it */
    ADMISSION_RUN,      /* a run takes longer than it has left, without any queue */
};

struct admission_question {
    uint64_t now_ns;
    uint64_t wait_ns;     /* admission_wait_ns */
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t begin_ns;    /* by when it must have begun; UINT64_MAX: any time */
    uint32_t instances;
    bool is_free;         /* an instance waits for work: the newcomer does not wait at all */
    bool knows_runs;      /* runs of this model last as long as their work: not those that stream */
    bool is_admitted;     /* a part of something larger that was let in: only the limit holds for it */
    bool is_modest;       /* its tenant has less than its share of the queue: likewise, as others made it stand */
};

/* May it wait? *ret_after_ms: when to ask again. What is only asked (is_dry) changes nothing. */
enum admission_verdict admission_judge(struct admission *a, const struct admission_question *q,
                                       bool is_dry, uint64_t *ret_after_ns);
/* The queue was full and somebody had to go. */
void admission_was_full(struct admission *a, const struct admission_question *q);
/* One that has waited comes to its turn: is it too late for its deadline? */
bool admission_is_late(const struct admission *a, uint64_t now_ns, uint64_t deadline_ns);

#endif
