/* engine/engine.h - admission, scheduling and running of requests. Knows no wire.
 *
 * One per process. Started before the loops, stopped after them.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/err.h"
#include "engine/line.h"
#include "engine/model.h"
#include "engine/request.h"

struct budget;
struct env;
struct loop;

struct engine_settings {
    uint32_t loops_count;         /* for one inline instance a loop */
    uint32_t queue_max;           /* requests that may wait, per model: --queue-max */
    uint64_t queue_delay_ns;      /* the longest they may: --queue-delay; 0: any time */
    enum execution execution;     /* --execution */
    uint64_t inline_typical_ns;   /* auto: recent runs must stay under (50 us) */
    uint64_t inline_worst_ns;     /* auto: one run over this and it is queued (200 us) */
    uint64_t deadline_default_ms; /* 0: none: --request-timeout */
    const char *(*option)(const char *name);       /* for backends; see penstock_host.option */
    const char *(*runtime_path)(const char *name); /* likewise */
    struct budget *budget;        /* outputs are charged to it; borrowed */
    uint32_t sessions_max;        /* open at the same time: --sessions-max; 0: 10,000 */
    uint32_t pieces_max;          /* of a session, see session.h: --stream-pieces-max; 0: 16 */
};

/* What must go up: set by cli before loops start. Finds a ready version and takes a reference for
 * the caller. `version` empty: the newest ready. E_NOT_FOUND, E_UNAVAILABLE, E_INVALID in words of
 * the server. Any thread; must not block. */
struct engine_directory {
    enum err_code (*want_model)(void *context, struct model **ret, struct slice name,
                                struct slice version, struct err *err);
    void *context;
};

MUST_USE enum err_code engine_new(struct engine **ret, struct env *env,
                                  const struct engine_settings *settings, struct err *err);
/* Every model must be unref'd and every request freed before. */
void engine_free(struct engine **engine);
void engine_set_directory(struct engine *engine, struct engine_directory directory);
MUST_USE enum err_code engine_want_model(struct engine *engine, struct model **ret,
                                         struct slice name, struct slice version,
                                         struct err *err);
const struct penstock_host *engine_host(struct engine *engine);

/* What is known of a request before its body is read or decoded. */
struct engine_question {
    struct model *model;
    struct loop *loop;
    struct caller *caller; /* NULL: nobody's */
    uint64_t deadline_ns;  /* UINT64_MAX: none */
    uint64_t body_bytes;   /* as far as known */
};
/* One that waits for its loop to have time for it (line.h); lies in its owner's memory. */
struct engine_waiter {
    struct line_entry place;
    struct model *model; /* borrowed */
    bool is_waiting;     /* since engine_ask, until on_turn or engine_unwait */
    uint64_t waited_ns;  /* set before on_turn */
    /* Go on; or err says why not, which is counted already. At the end of a turn, never from within a call. */
    void (*on_turn)(struct engine_waiter *waiter, const struct err *err);
};
/* Loop thread: is it worth reading on? Nothing is kept for it, and engine_submit may still say no; what it
 * says no to here cost a head. Counted like all refusals. Where nothing is overloaded this is a few loads.
 * OK with waiter->is_waiting: not now, but on_turn will come. waiter NULL: it does not wait, whoever else
 * does. */
enum err_code engine_ask(struct engine *engine, const struct engine_question *question,
                         struct engine_waiter *waiter, struct err *err);
/* It has left; no-op when it does not wait. */
void engine_unwait(struct engine *engine, struct loop *loop, struct engine_waiter *waiter);
/* One that has waited had its turn, and was so long at work: its tenant's share is charged with that. No-op for
 * who did not wait. */
void engine_settle(struct engine *engine, struct loop *loop, struct engine_waiter *waiter,
                   uint64_t worked_ns);

/* Who is told when a model's queue is high (80 % of queue_max wait, or one was refused) and when half of
 * that or less does again. Any thread, no lock held; `change` grows with each of a model's, as two may
 * come in the wrong order. Set before loops start. */
struct engine_watch {
    void (*on_queue)(void *context, const char *model, const char *version, bool is_high,
                     uint32_t queued, uint32_t queue_max, uint64_t change);
    void *context;
};
void engine_watch_queues(struct engine *engine, struct engine_watch watch);

/* Refuses new requests with E_UNAVAILABLE ("draining"); those admitted finish. Any thread. */
void engine_drain(struct engine *engine);
uint64_t engine_in_flight(const struct engine *engine); /* submitted and not yet freed; sessions too */

/* Arenas for what a stream has in flight (pieces, runs, requests), kept by each loop for the next ones
 * and charged to the budget. Loop thread. NULL: no memory. */
struct arena *engine_arena_take(struct engine *engine, struct loop *loop);
void engine_arena_give(struct engine *engine, struct loop *loop, struct arena **arena);

/* For metrics; any thread. */
struct engine_counts {
    uint64_t sessions_open, sessions_total;
    uint64_t sessions_refused; /* --sessions-max was reached */
    uint64_t pieces_refused;   /* a caller pushed more than its credit: --stream-pieces-max */
    uint64_t loops_waiting;    /* requests that wait for the loop that read them */
    uint64_t loops_overloaded; /* loops that hold their lines short */
};
void engine_counts(const struct engine *engine, struct engine_counts *ret);

#endif
