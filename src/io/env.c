/* env.c - the real environment: the system's clocks, chance and threads.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A worker sleeps on one word (a futex) with three values, so that waking one that is awake costs
 * an exchange and no system call, and a wake that comes first is kept:
 *
 *   AWAKE     nothing pending
 *   NOTIFIED  a wake came: the next sleep returns at once
 *   ASLEEP    waiting in the kernel: the waker must call it
 *
 * Threads start with every signal blocked: signals belong to the thread that handles argv.
 */
#include "io/env.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"

enum { AWAKE, NOTIFIED, ASLEEP };

struct worker {
    pthread_t thread;
    _Atomic uint32_t state;
    void (*main)(void *arg);
    void *arg;
    char name[16];
};

static uint64_t real_mono_ns(struct env *env)
{
    (void)env;
    return clock_mono_ns();
}

static uint64_t real_wall_ns(struct env *env)
{
    (void)env;
    return clock_wall_ns();
}

static void real_random(struct env *env, void *out, size_t size)
{
    uint8_t *at = out;

    (void)env;
    while (size > 0) {
        ssize_t got = getrandom(at, MIN(size, (size_t)256), 0);
        require(got > 0 || errno == EINTR); /* the kernel's pool cannot fail otherwise */
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        }
    }
}

static void *worker_thread(void *arg)
{
    struct worker *worker = arg;

    pthread_setname_np(pthread_self(), worker->name);
    worker->main(worker->arg);
    return NULL;
}

static enum err_code real_worker_start(struct env *env, struct worker **ret, const char *name,
                                       void (*main)(void *arg), void *arg, struct err *err)
{
    struct worker *worker = mem_zalloc(sizeof *worker), *before = *ret;
    sigset_t all, mask;

    (void)env;
    if (worker == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the thread '%s'", name);
    worker->main = main;
    worker->arg = arg;
    strncpy(worker->name, name, sizeof worker->name - 1);
    *ret = worker; /* before the thread begins, as its main may read it */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    int error = fault_hit() ? EAGAIN : pthread_create(&worker->thread, NULL, worker_thread, worker);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (error == 0)
        return OK;
    *ret = before;
    mem_free(worker);
    return err_set(err, E_EXHAUSTED, "cannot start the thread '%s': %s; see `ulimit -u`", name,
                   strerror(error));
}

static void real_worker_join(struct env *env, struct worker **slot)
{
    (void)env;
    if (*slot == NULL)
        return;
    require(pthread_join((*slot)->thread, NULL) == 0);
    mem_free(TAKE(*slot)); /* nulled only now: its main may read the slot until it ends */
}

static void real_worker_sleep(struct env *env, struct worker *worker, uint64_t due_ns)
{
    uint32_t expected = AWAKE;

    (void)env;
    if (atomic_compare_exchange_strong(&worker->state, &expected, ASLEEP)) {
        struct timespec due = { (time_t)MIN(due_ns / NS_PER_S, (uint64_t)INT64_MAX / 2),
                                (long)(due_ns % NS_PER_S) };
        /* FUTEX_WAIT_BITSET, because its time limit is absolute on the monotonic clock. */
        syscall(SYS_futex, &worker->state, FUTEX_WAIT_BITSET_PRIVATE, ASLEEP,
                due_ns == UINT64_MAX ? NULL : &due, NULL, FUTEX_BITSET_MATCH_ANY);
    }
    atomic_store(&worker->state, AWAKE);
}

static void real_worker_wake(struct env *env, struct worker *worker)
{
    (void)env;
    if (atomic_exchange(&worker->state, NOTIFIED) == ASLEEP)
        syscall(SYS_futex, &worker->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

struct env *env_real(void)
{
    static struct env env = {
        .mono_ns = real_mono_ns,
        .wall_ns = real_wall_ns,
        .random = real_random,
        .worker_start = real_worker_start,
        .worker_join = real_worker_join,
        .worker_sleep = real_worker_sleep,
        .worker_wake = real_worker_wake,
    };

    return &env;
}
