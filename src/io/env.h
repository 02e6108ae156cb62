/* env.h - where time, chance and threads come from, so that a simulation can replay from a seed.
 *
 * The real one is env_real(). Everything above io/ asks env (or its loop) and never the system.
 */
#ifndef IO_ENV_H
#define IO_ENV_H

#include "base/err.h"

struct worker; /* a thread of the executor: opaque, owned by who started it */

struct env {
    uint64_t (*mono_ns)(struct env *env);
    uint64_t (*wall_ns)(struct env *env);
    void (*random)(struct env *env, void *out, size_t size);
    /* Starts a thread that runs main(arg) and ends with it. name: at most 15 bytes, for people.
     * *ret is set before main begins, so that main may use it; on failure it is NULL. */
    enum err_code (*worker_start)(struct env *env, struct worker **ret, const char *name,
                                  void (*main)(void *arg), void *arg, struct err *err);
    /* Waits until it has ended, and frees it; nulls *worker; NULL is fine. */
    void (*worker_join)(struct env *env, struct worker **worker);
    /* Called by the worker's own code: sleeps until worker_wake or due_ns (UINT64_MAX: no limit).
     * A wake that came before the sleep makes it return at once; may also return for nothing. */
    void (*worker_sleep)(struct env *env, struct worker *worker, uint64_t due_ns);
    void (*worker_wake)(struct env *env, struct worker *worker); /* any thread */
};

struct env *env_real(void);

#endif
