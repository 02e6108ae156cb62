/* stop.h - the signals of the verb serve, from the first line of main to the last: the one place.
 *
 *   SIGTERM, SIGINT   finish what is under way and end; a second one, 0.3 s later or more, ends at once
 *   SIGHUP            read again what may change while serving: stop_on_reload
 *   SIGUSR2           hand over to a new program (upgrade.h)
 *
 * All are blocked before any thread exists, so that every thread, also those that runtimes start,
 * is born with them blocked: none of them can be hit by one. A thread of its own waits for them.
 * Until serving begins it ends the process itself, since the starting thread may be deep in a
 * runtime that loads; from then on it wakes the starting thread, which does everything else that
 * signals ask for. What comes earlier than that is kept until then.
 *
 *   stop_block     main, before all else; stop_unblock for verbs that end as any program does
 *   stop_on_reload whoever has something to read again says so while the server is opened
 *   stop_begin     the thread runs; SIGTERM from here on calls `end_early` and ends with 0
 *   stop_hold      the starting thread does what must not be cut in the middle; stop_release
 *   stop_take      the starting thread does the ending from here on; then stop_wait
 */
#ifndef CLI_STOP_H
#define CLI_STOP_H

#include <signal.h>
#include <stdbool.h>

#include "base/err.h"

void stop_block(void);
/* What was blocked before: for programs that are started. */
void stop_mask_before(sigset_t *ret);
void stop_unblock(void);
/* Called at every SIGHUP, one after the other in the order in which they were given, on the starting
 * thread once it serves: it may block on files, and not for long. A failure is logged here with the words
 * of err, which say what stays as it was ("access.yaml: line 7: ...; the former rules stay"); a success
 * that people want to read of is logged by `reload`. The starting thread's, before stop_wait; at most
 * STOP_RELOADS_MAX. `context` outlives the serving. */
enum { STOP_RELOADS_MAX = 32 };
void stop_on_reload(enum err_code (*reload)(void *context, struct err *err), void *context);
/* `end_early` is called on the thread that waits, never while the starting thread holds. */
MUST_USE enum err_code stop_begin(void (*end_early)(void *context), void *context, struct err *err);
/* Does not return once the other thread has begun to end the process. */
void stop_hold(void);
void stop_release(void);
void stop_take(void);

/* What came since it was asked last, as bits; STOP_END stays. */
enum stop_event { STOP_RELOAD = 1, STOP_UPGRADE = 2, STOP_END = 4 };
/* Waits at most until `due_ns` of the monotonic clock, or until `fd` can be read (-1: none). 0: nothing
 * came. The first STOP_END makes a further SIGTERM or SIGINT end the process at once. */
unsigned stop_wait(uint64_t due_ns, int fd);
/* The signal of STOP_END. */
int stop_signal(void);
/* Reads everything again. False: something could not be, which is logged. */
bool stop_reload(void);

#endif
