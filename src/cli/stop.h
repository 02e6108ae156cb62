/* stop.h - SIGTERM and Ctrl-C of the verb serve, from the first line of main to the last.
 *
 * Both are blocked before any thread exists, so that every thread, also those that runtimes start,
 * is born with them blocked: none of them can be hit by one. A thread of its own waits for them.
 * Until serving begins it ends the process itself, since the starting thread may be deep in a
 * runtime that loads; from then on it wakes the starting thread.
 *
 *   stop_block     main, before all else; stop_unblock for verbs that end as any program does
 *   stop_begin     the thread runs; a signal from here on calls `end_early` and ends with 0
 *   stop_hold      the starting thread does what must not be cut in the middle; stop_release
 *   stop_take      the starting thread does the ending from here on; then stop_wait
 */
#ifndef CLI_STOP_H
#define CLI_STOP_H

#include "base/err.h"

void stop_block(void);
void stop_unblock(void);
/* `end_early` is called on the thread that waits, never while the starting thread holds. */
MUST_USE enum err_code stop_begin(void (*end_early)(void *context), void *context, struct err *err);
/* Does not return once the other thread has begun to end the process. */
void stop_hold(void);
void stop_release(void);
void stop_take(void);
/* The signal that came; a second one ends the process at once from here on. Until then
 * `now_and_then` is called every few seconds, on this thread: for chores that nothing waits for. */
int stop_wait(void (*now_and_then)(void));

#endif
