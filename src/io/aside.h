/* aside.h - work that is too long for a loop, done by threads beside the loops.
 *
 * A loop that reads 64 MiB of JSON holds everybody else on it for as long as that takes. So a job of that
 * size is put here: `work` runs on one of a few threads, then `done` on the loop that asked. Jobs begin in
 * the order in which they were put. How many wait is bounded by what they are about: each is a body that
 * was received and is charged to a budget.
 *
 * Life     The job's memory is whose it was before, and stays until `done` is called; it cannot fail.
 * Threads  aside_put on the job's loop; `work` may use what nothing else touches meanwhile.
 */
#ifndef IO_ASIDE_H
#define IO_ASIDE_H

#include "base/err.h"
#include "io/loop.h"

struct aside; /* opaque */
struct env;
struct metrics;

struct aside_job {
    void (*work)(struct aside_job *job); /* on a thread beside the loops */
    void (*done)(struct aside_job *job); /* on the loop, once */
    /* -- inside -- */
    struct aside_job *next;
    struct loop *loop;
    struct loop_msg msg;
};

MUST_USE enum err_code aside_new(struct aside **ret, struct env *env, uint32_t threads,
                                 struct err *err);
MUST_USE enum err_code aside_register(struct aside *aside, struct metrics *metrics,
                                      struct err *err);
/* Does what was put, then ends the threads. Before the loops go, as the last `done`s are theirs to run. */
void aside_free(struct aside **aside);
void aside_put(struct aside *aside, struct aside_job *job, struct loop *loop);

#endif
