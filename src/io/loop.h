/* loop.h - one thread, one epoll: what is ready, what is due, what was posted, what is put off.
 *
 * A turn: wait (not at all when something is put off or posted), then timers, posted messages,
 * ready descriptors, and at the end of the turn the put-off tasks (flushing sockets), once each; before
 * them those that are to come first (gathering what sockets are to send).
 * Threads: everything but loop_post, loop_stop and loop_now's caller's copy belongs to the loop's
 * own thread; functions check it.
 */
#ifndef IO_LOOP_H
#define IO_LOOP_H

#include "base/err.h"
#include "base/list.h"
#include "base/mpsc.h"
#include "io/env.h"
#include "telemetry/stat.h"

struct loop;

MUST_USE enum err_code loop_new(struct loop **ret, struct env *env, uint32_t index,
                                struct err *err);
void loop_free(struct loop **loop);
void loop_run(struct loop *loop);  /* until loop_stop; makes the calling thread the loop's own */
void loop_stop(struct loop *loop); /* any thread: run returns after the present turn */

uint32_t loop_index(const struct loop *loop);
struct env *loop_env(const struct loop *loop);
struct loop *loop_current(void); /* of this thread; NULL outside loops */
bool loop_is_mine(const struct loop *loop);
/* Of the loop of this thread, from 1: within a turn no event is told of twice; 0: there is no loop. */
uint64_t loop_turn(void);
/* Monotonic time when this turn began: cheap, and up to a turn old. */
uint64_t loop_now_ns(const struct loop *loop);
/* What is read in this turn arrived about then, as far as can be told: the kernel keeps no note of it.
 * It is this turn's beginning where the loop had been waiting; else half-way back to when all before was
 * seen. The loop is behind by what has passed since loop_oldest_ns. */
uint64_t loop_arrived_ns(const struct loop *loop);
uint64_t loop_oldest_ns(const struct loop *loop); /* not before then */
/* Reads the clock anew and makes it loop_now_ns. */
uint64_t loop_refresh_ns(struct loop *loop);
/* Who has read the clock in this turn may say so, for those who need no more than about what time it is. */
void loop_tell_ns(struct loop *loop, uint64_t ns);
uint64_t loop_told_ns(
    const struct loop *loop); /* the newest that was told, or when the turn began */

/* What a loop says of its health; any thread may read. */
struct loop_stats {
    struct stat_histogram turns; /* from the end of a wait to the next: their sum is when it was busy */
    struct stat_histogram lags;  /* how late the soonest timer was run, of turns that ran one */
};
const struct loop_stats *loop_stats(const struct loop *loop);

/* -- messages from other threads ------------------------------------------------------------- */
struct loop_msg {
    struct mpsc_node node;
    void (*run)(struct loop_msg *msg); /* on the loop's thread, once per post */
};
/* Any thread; cannot fail; the memory is the loop's until run is called. */
void loop_post(struct loop *loop, struct loop_msg *msg);

/* -- descriptors ------------------------------------------------------------------------------- */
struct loop_fd {
    int fd;
    uint32_t events; /* as registered */
    void (*on_ready)(struct loop_fd *watch, uint32_t events); /* EPOLLIN | EPOLLOUT | ... */
};
MUST_USE enum err_code loop_watch(struct loop *loop, struct loop_fd *watch, uint32_t events,
                                  struct err *err);
void loop_rewatch(struct loop *loop, struct loop_fd *watch, uint32_t events);
/* Within on_ready: are there others to be called behind it in this turn? */
bool loop_has_more(const struct loop *loop);
/* After this no on_ready comes, not even one already collected in this turn. */
void loop_unwatch(struct loop *loop, struct loop_fd *watch);
/* What `from` watched is watched by `to` from here on, whose on_ready hears anew of all that is ready. */
void loop_pass(struct loop *loop, struct loop_fd *from, struct loop_fd *to);

/* -- timers ---------------------------------------------------------------------------------- */
struct timer {
    uint64_t due_ns;
    uint32_t slot; /* 1 + place in the heap; 0: not running */
    void (*on_due)(struct timer *timer);
};
/* Starts, or moves when it runs already. E_EXHAUSTED: no memory for one more timer. */
MUST_USE enum err_code timer_start(struct loop *loop, struct timer *timer, uint64_t due_ns,
                                   struct err *err);
void timer_stop(struct loop *loop, struct timer *timer); /* no-op when not running */

/* -- put off to the end of the turn ------------------------------------------------------------ */
struct loop_task {
    struct list_node node;
    void (*run)(struct loop_task *task);
};
void loop_defer(struct loop *loop, struct loop_task *task); /* no-op when it is put off already */
/* The same, before all that is put off by loop_defer: what it puts off itself is of the same turn. */
void loop_defer_early(struct loop *loop, struct loop_task *task);
void loop_undefer(struct loop_task *task);

#endif
