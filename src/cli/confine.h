/* confine.h - what the process gives up before it reads a model: a model is a program, and so is a flaw in
 * its runtime.
 *
 *   root        --user: once the sockets are there, for good
 *   files       Landlock: only what the options name, and what any program needs, can be opened; only logs,
 *               state and shared memory can be written
 *   programs    none can be started. The next version of this one is started by launcher.h
 *   calls       seccomp: what a server never calls and an attacker wants is refused (EPERM)
 *   core dumps  none, once there are keys in memory
 *
 * All of it holds for every thread and cannot be taken back: it is done while there is one.
 *
 * Threads  the starting thread, before others exist.
 */
#ifndef CLI_CONFINE_H
#define CLI_CONFINE_H

#include <stdbool.h>

#include "base/err.h"

struct options;
struct sockets;

/* Whom --user names: E_INVALID when that is no name, E_NOT_FOUND when nobody has it, E_PERMISSION when this process may not
 * become another. No-op without --user, and for one who is that user already. */
MUST_USE enum err_code confine_user(const struct options *options, struct err *err);
/* The rest of it, as --confine says: `require` fails where the kernel cannot; `auto` does what it can. */
MUST_USE enum err_code confine(const struct options *options, const struct sockets *sockets,
                               struct err *err);
/* One line of what holds, to the log; and a warning when root serves. */
void confine_tell(const struct options *options);

#endif
