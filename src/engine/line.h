/* line.h - who waits for a loop: requests to models that run on the thread that reads them.
 *
 * Such a model has no queue: as long as turns of the loop are short, a request is run when it is
 * read, and all that is asked here is whether that is so (line_is_open: a few comparisons). Runs
 * that have taken LINE_TURN_NS end that: what is read behind them waits here, as a head, and each
 * turn of the loop lets in as many as will run for LINE_LET_NS, one at least. So the loop comes
 * back to its sockets after a run or that time, and whoever must be refused is told then; who
 * goes first, and who is refused, is decided as it is for any model's queue: by tenants' shares
 * of the loop's time (queue.h), deadlines, and how long the wait would be (admission.h).
 *
 * Pure: no loop, no lock; time is an argument. Its owner is the loop's thread. Nothing is
 * allocated but what queue.h says.
 */
#ifndef ENGINE_LINE_H
#define ENGINE_LINE_H

#include "engine/admission.h"
#include "engine/queue.h"

#define LINE_TURN_NS UINT64_C(500000) /* of runs in one turn; what is read then waits */
#define LINE_LET_NS  UINT64_C(250000) /* of runs let in by a turn while others wait */
/* That a refusal takes from the socket and back, until it was measured. */
#define LINE_REFUSAL_NS UINT64_C(4000)
#define LINE_BEHIND_NS  UINT64_C(1000000) /* a turn that took less is no reason to ask anything */

struct line_entry {
    struct queue_entry entry; /* first */
    uint64_t deadline_ns;     /* UINT64_MAX: none */
    uint64_t since_ns;        /* when it began to wait */
};

struct line {
    struct queue queue;
    struct admission admission;
    uint64_t ran_ns;  /* when the newest run on this loop ended */
    uint32_t runs;    /* since line_let was called last */
    uint32_t room;    /* the most that may wait; 0: any number */
    uint64_t gone_ns; /* the turn in which one was run without waiting last */
    /* -- the newest refusal: when, in which turn, and `runs` then; and what they take -- */
    uint64_t told_ns, told_turn_ns, refusal_ns;
    uint32_t told_runs;
};

void line_init(struct line *line, uint64_t delay_ns, uint32_t room);
void line_deinit(struct line *line); /* nobody waits */

/* May who is read now be run at once, and without a question? `turn_ns`: when the turn began;
 * `oldest_ns`: nothing that is read in it had come before. */
static inline bool line_is_open(const struct line *line, uint64_t turn_ns, uint64_t oldest_ns)
{
    return line->queue.waiting == 0 && line->ran_ns < turn_ns + LINE_TURN_NS &&
           turn_ns - oldest_ns < LINE_BEHIND_NS;
}

/* A run on this loop has ended. */
static inline void line_ran(struct line *line, uint64_t now_ns)
{
    line->ran_ns = now_ns;
    line->runs++;
}

struct line_question {
    uint64_t now_ns, turn_ns;
    uint64_t arrived_ns;  /* as far as can be told */
    uint64_t deadline_ns; /* UINT64_MAX: none */
    struct queue_tenant tenant;
};

enum line_verdict {
    LINE_GO,       /* run it */
    LINE_WAIT,     /* line_add, and run it when line_next gives it back */
    LINE_LATE,     /* its time is over */
    LINE_DEADLINE, /* it would be */
    LINE_BEHIND,   /* it would wait too long */
    LINE_FULL      /* as many wait as may */
};

/* Counted, as the overload is known by what is refused. *ret_wait_ns: how long it would wait,
 * with what it has waited already; *ret_after_ns: when to ask again. With LINE_WAIT *ret_victim
 * loses its place to the newcomer and is out of the queue already; NULL: nobody does. */
enum line_verdict line_ask(struct line *line, const struct line_question *question,
                           uint64_t *ret_wait_ns, uint64_t *ret_after_ns,
                           struct line_entry **ret_victim);
void line_add(struct line *line, struct line_entry *entry, struct queue_tenant tenant);
void line_remove(struct line *line, struct line_entry *entry); /* one that waits */

/* Behind all that a turn has read, while somebody waits: how many may run now. Then line_next so
 * often. */
uint32_t line_let(struct line *line, uint64_t now_ns);
/* NULL: nobody waits. Whoever is late is given back too. */
struct line_entry *line_next(struct line *line);
/* It took so long, all in all: its tenant is charged with that and not with what is usual. At
 * most once, behind line_next. */
void line_settle(struct line *line, struct line_entry *entry, uint64_t ran_ns);

#endif
