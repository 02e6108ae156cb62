/* launcher.h - the process that starts the next program: made before anything is confined, and good for
 * nothing else.
 *
 * A server that has given up execve and the file system (confine.h) cannot start its successor, and should
 * not be able to. So a child of it, forked while there is one thread and nothing is loaded, keeps these, and
 * waits. It is the user of --user as the server is, unless --upgrade-rights has it keep root: the sockets
 * are there already, so the next program needs no root for them. It starts one program, by the path, words
 * and environment that it was made with; the server gives it sockets and their names, and nothing more. It
 * cannot be traced, has no core dump, ends with the server, and ends what has not taken over by then.
 *
 * Threads  the starting thread's.
 */
#ifndef CLI_LAUNCHER_H
#define CLI_LAUNCHER_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "cli/sockets.h"

struct launcher_words {
    char program[4096]; /* absolute */
    char **argv;        /* the environment is the process's own */
};

/* Forks. While there is one thread. In a container's first process, whose end is the container's, there is
 * no use for one and none is made. */
MUST_USE enum err_code launcher_begin(const struct launcher_words *words, struct err *err);
/* Starts it with these sockets (as SOCKETS_FIRST_FD and so on), then `channel`. */
MUST_USE enum err_code launcher_start(const struct sockets *sockets, int channel, pid_t *ret_pid,
                                      struct err *err);
/* What it started has ended within so long? How, as waitpid tells. -1 in *ret_status: it cannot be known. */
bool launcher_has_ended(uint64_t wait_ms, int *ret_status);
void launcher_kill_soon(void); /* it is told; nobody waits, as it ends with this process at the latest */
void launcher_kill(void);   /* it is ended, by SIGTERM and, if that does not do, SIGKILL */
void launcher_let_go(void); /* it has taken over: it outlives all */

#endif
