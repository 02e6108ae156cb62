/* calls.c - libc's names, as the rooms call them; the linker brings each call here (--wrap).
 * SPDX-License-Identifier: Apache-2.0
 *
 * Called from a thread of the machine, they are the machine's; from elsewhere, and from within
 * the machine, they are libc's. A default pthread_mutex_t is all zeros, and its first word is
 * ours here: who holds it. A pthread_cond_t is only an address; its clock is remembered beside
 * it.
 *
 * Files are the system's own: they can fail here, and are otherwise read as they are.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "test/sim/net.h"
#include "test/sim/sim.h"
#include "test/sim/world.h"

/* Declares libc's own and ours. */
#define WRAP(type, name, ...)        \
    type __real_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__)

struct fault_plan sim_fault_plan;

bool sim_fault_here(const char *what, uint32_t ppm)
{
    if (!sim_fault_plan.is_open)
        return false;
    bool fails = ++sim_fault_plan.count == sim_fault_plan.nth || sim_draw_ppm(CHANCE_FAULT, ppm);
    if (fails) {
        sim_fault_plan.has_fired = true;
        snprintf(sim_fault_plan.what, sizeof sim_fault_plan.what, "%s", what);
        sim_enter();
        sim_note("%s fails", what);
        sim_leave();
    }
    return fails;
}

/* Into the machine for a call: time passes first. */
static void begin_call(const char *name)
{
    sim_call();
    sim_digest(name, 4);
    sim_digest_number(sim_self_id());
    sim_enter();
}

static long end_call(long result)
{
    sim_digest_number((uint64_t)result);
    sim_leave();
    if (result >= 0)
        return result;
    errno = (int)-result;
    return -1;
}

/* -- time -------------------------------------------------------------------------------------- */

static uint64_t nanoseconds(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * SIM_S + (uint64_t)time->tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){ (time_t)(ns / SIM_S), (long)(ns % SIM_S) };
}

WRAP(int, clock_gettime, clockid_t clock, struct timespec *ret)
{
    if (!sim_is_in())
        return __real_clock_gettime(clock, ret);
    sim_call();
    sim_enter();
    *ret = timespec_of(clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? sim_wall()
                       : clock == CLOCK_THREAD_CPUTIME_ID                        ? sim_self_cpu()
                                                                                 : sim_now());
    sim_leave();
    return 0;
}

WRAP(time_t, time, time_t *ret)
{
    if (!sim_is_in())
        return __real_time(ret);
    sim_call();
    time_t now = (time_t)(sim_wall() / SIM_S);
    if (ret != NULL)
        *ret = now;
    return now;
}

WRAP(int, nanosleep, const struct timespec *time, struct timespec *left)
{
    if (!sim_is_in())
        return __real_nanosleep(time, left);
    begin_call("nanosleep");
    sim_wait(time, sim_now() + nanoseconds(time), "a time to pass");
    return (int)end_call(0);
}

WRAP(ssize_t, getrandom, void *out, size_t size, unsigned flags)
{
    if (!sim_is_in())
        return __real_getrandom(out, size, flags);
    sim_call();
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)out)[i] = (uint8_t)sim_draw(CHANCE_SERVER);
    return (ssize_t)size;
}

WRAP(int, gethostname, char *out, size_t size)
{
    if (!sim_is_in())
        return __real_gethostname(out, size);
    snprintf(out, size, "sim");
    return 0;
}

/* Process 1, which starts no other (cli/launcher.h). */
WRAP(pid_t, getpid, void)
{
    return sim_is_in() ? 1 : __real_getpid();
}

WRAP(pid_t, fork, void)
{
    if (sim_is_in())
        sim_fail("the server starts a process");
    return __real_fork();
}

/* -- threads ----------------------------------------------------------------------------------- */

WRAP(int, pthread_create, pthread_t *ret, const pthread_attr_t *attr, void *(*main)(void *),
     void *arg)
{
    int detach_state = PTHREAD_CREATE_JOINABLE;
    uint64_t id;

    if (!sim_is_in())
        return __real_pthread_create(ret, attr, main, arg);
    begin_call("thread");
    if (attr != NULL)
        pthread_attr_getdetachstate(attr, &detach_state);
    int error = sim_fault_here("pthread_create", sim_weather.thread_ppm) ? EAGAIN : 0;
    if (error == 0) {
        sim_thread_start(&id, main, arg, detach_state == PTHREAD_CREATE_DETACHED);
        *ret = (pthread_t)id;
    }
    end_call(0);
    return error;
}

WRAP(int, pthread_join, pthread_t thread, void **ret)
{
    if (!sim_is_in())
        return __real_pthread_join(thread, ret);
    begin_call("join");
    void *result = sim_thread_join(thread);
    if (ret != NULL)
        *ret = result;
    end_call(0);
    return 0;
}

/* Of the thread that calls it: ours are known by number. */
WRAP(int, pthread_setname_np, pthread_t thread, const char *name)
{
    if (!sim_is_in())
        return __real_pthread_setname_np(thread, name);
    sim_thread_name(sim_self_id(), name);
    return 0;
}

void sim_lock(int *word)
{
    if (*word == (int)sim_self_id() + 1)
        sim_fail("locks a mutex that it holds");
    while (*word != 0)
        sim_wait(word, SIM_NEVER, "a mutex");
    *word = (int)sim_self_id() + 1;
}

void sim_unlock(int *word)
{
    if (*word != (int)sim_self_id() + 1)
        sim_fail("unlocks a mutex that it does not hold");
    *word = 0;
    sim_wake(word, 1);
}

WRAP(int, pthread_mutex_lock, pthread_mutex_t *mutex)
{
    if (!sim_is_in())
        return __real_pthread_mutex_lock(mutex);
    begin_call("lock");
    sim_lock((int *)(void *)mutex);
    end_call(0);
    return 0;
}

WRAP(int, pthread_mutex_trylock, pthread_mutex_t *mutex)
{
    int *word = (int *)(void *)mutex;

    if (!sim_is_in())
        return __real_pthread_mutex_trylock(mutex);
    begin_call("trylock");
    bool is_free = *word == 0;
    if (is_free)
        sim_lock(word);
    end_call(is_free);
    return is_free ? 0 : EBUSY;
}

WRAP(int, pthread_mutex_unlock, pthread_mutex_t *mutex)
{
    if (!sim_is_in())
        return __real_pthread_mutex_unlock(mutex);
    sim_enter();
    sim_unlock((int *)(void *)mutex);
    sim_leave();
    sim_call(); /* here another may go on */
    return 0;
}

WRAP(int, pthread_mutex_destroy, pthread_mutex_t *mutex)
{
    if (!sim_is_in())
        return __real_pthread_mutex_destroy(mutex);
    if (*(int *)(void *)mutex != 0)
        sim_fail("a mutex is destroyed while thread %d holds it", *(int *)(void *)mutex - 1);
    return 0;
}

enum { CONDITIONS_MAX = 4096 };
static struct {
    const void *condition;
    bool is_mono;
} conditions[CONDITIONS_MAX];

static bool *condition_clock(const void *condition, bool is_new)
{
    size_t at = ((uintptr_t)condition >> 3) % CONDITIONS_MAX, free_at = CONDITIONS_MAX;

    for (size_t i = 0; i < CONDITIONS_MAX; i++) {
        size_t place = (at + i) % CONDITIONS_MAX;
        if (conditions[place].condition == condition)
            return &conditions[place].is_mono;
        if (conditions[place].condition == NULL) {
            free_at = place;
            break;
        }
    }
    if (!is_new)
        return NULL;
    if (free_at == CONDITIONS_MAX)
        sim_fail("too many conditions");
    conditions[free_at].condition = condition;
    return &conditions[free_at].is_mono;
}

WRAP(int, pthread_cond_init, pthread_cond_t *condition, const pthread_condattr_t *attr)
{
    clockid_t clock = CLOCK_REALTIME;

    if (!sim_is_in())
        return __real_pthread_cond_init(condition, attr);
    if (attr != NULL)
        pthread_condattr_getclock(attr, &clock);
    *condition_clock(condition, true) = clock == CLOCK_MONOTONIC;
    return 0;
}

WRAP(int, pthread_cond_destroy, pthread_cond_t *condition)
{
    if (!sim_is_in())
        return __real_pthread_cond_destroy(condition);
    if (sim_wake(condition, 0) != 0)
        sim_fail("a condition is destroyed while somebody waits for it");
    return 0;
}

bool sim_condition_wait(const void *condition, int *word, uint64_t due_ns)
{
    bool was_woken = true;

    sim_unlock(word);
    if (!sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.spurious_ppm))
        was_woken = sim_wait(condition, due_ns, "a condition");
    sim_lock(word);
    return was_woken;
}

WRAP(int, pthread_cond_wait, pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    if (!sim_is_in())
        return __real_pthread_cond_wait(condition, mutex);
    begin_call("wait");
    sim_condition_wait(condition, (int *)(void *)mutex, SIM_NEVER);
    end_call(0);
    return 0;
}

WRAP(int, pthread_cond_timedwait, pthread_cond_t *condition, pthread_mutex_t *mutex,
     const struct timespec *until)
{
    if (!sim_is_in())
        return __real_pthread_cond_timedwait(condition, mutex, until);
    begin_call("timedwait");
    const bool *is_mono = condition_clock(condition, false);
    uint64_t due = nanoseconds(until);
    if (is_mono == NULL || !*is_mono) { /* a jump of the wall's clock meanwhile does not count */
        uint64_t wall = sim_wall();
        due = due > wall ? sim_now() + (due - wall) : sim_now();
    }
    bool was_woken = due > sim_now() && sim_condition_wait(condition, (int *)(void *)mutex, due);
    end_call(was_woken);
    return was_woken ? 0 : ETIMEDOUT;
}

WRAP(int, pthread_cond_signal, pthread_cond_t *condition)
{
    if (!sim_is_in())
        return __real_pthread_cond_signal(condition);
    begin_call("signal");
    sim_wake(condition, 1);
    end_call(0);
    return 0;
}

WRAP(int, pthread_cond_broadcast, pthread_cond_t *condition)
{
    if (!sim_is_in())
        return __real_pthread_cond_broadcast(condition);
    begin_call("broadcast");
    sim_wake(condition, UINT32_MAX);
    end_call(0);
    return 0;
}

/* Whoever comes second finds it done: nobody is preempted within. */
WRAP(int, pthread_once, pthread_once_t *once, void (*init)(void))
{
    uint32_t preempt = sim_weather.preempt_ppm;

    if (!sim_is_in())
        return __real_pthread_once(once, init);
    sim_weather.preempt_ppm = 0;
    int error = __real_pthread_once(once, init);
    sim_weather.preempt_ppm = preempt;
    return error;
}

WRAP(int, sched_yield, void)
{
    if (!sim_is_in())
        return __real_sched_yield();
    sim_call();
    sim_enter();
    sim_yield();
    sim_leave();
    return 0;
}

/* -- signals: one process, one that waits for them --------------------------------------------- */

static int signal_pending;

void sim_signal_process(int number)
{
    signal_pending = number;
    sim_wake(&signal_pending, 1);
}

WRAP(int, sigwait, const sigset_t *set, int *ret)
{
    if (!sim_is_in())
        return __real_sigwait(set, ret);
    begin_call("sigwait");
    while (signal_pending == 0 || !sigismember(set, signal_pending))
        sim_wait(&signal_pending, SIM_NEVER, "a signal");
    *ret = signal_pending;
    signal_pending = 0;
    end_call(0);
    return 0;
}

WRAP(void, _exit, int status)
{
    if (sim_is_in() && (status != 0 || !sim_world_is_stopping()))
        sim_fail("the server ended itself with status %d", status);
    if (sim_is_in())
        sim_exit(); /* a SIGTERM before all is loaded */
    __real__exit(status);
    __builtin_unreachable();
}

/* -- sockets ----------------------------------------------------------------------------------- */

WRAP(int, socket, int family, int type, int protocol)
{
    if (!sim_is_in())
        return __real_socket(family, type, protocol);
    begin_call("socket");
    return (int)end_call(sim_fault_here("socket", sim_weather.socket_ppm) ? -EMFILE
                                                                          : sim_net_socket());
}

WRAP(int, bind, int fd, const struct sockaddr *address, socklen_t size)
{
    if (!sim_is_in())
        return __real_bind(fd, address, size);
    begin_call("bind");
    return (int)end_call(
        sim_fault_here("bind", sim_weather.socket_ppm) ? -ENOMEM : sim_net_bind(fd, address, size));
}

WRAP(int, listen, int fd, int backlog)
{
    if (!sim_is_in())
        return __real_listen(fd, backlog);
    begin_call("listen");
    return (int)end_call(sim_fault_here("listen", sim_weather.socket_ppm) ? -ENOMEM
                                                                          : sim_net_listen(fd));
}

WRAP(int, getsockname, int fd, struct sockaddr *ret, socklen_t *size)
{
    if (!sim_is_in() || !sim_net_is_ours(fd))
        return __real_getsockname(fd, ret, size);
    return sim_net_address(fd, ret, size);
}

WRAP(int, setsockopt, int fd, int level, int name, const void *value, socklen_t size)
{
    if (!sim_is_in() || !sim_net_is_ours(fd))
        return __real_setsockopt(fd, level, name, value, size);
    return 0;
}

WRAP(int, getsockopt, int fd, int level, int name, void *value, socklen_t *size)
{
    if (!sim_is_in() || !sim_net_is_ours(fd))
        return __real_getsockopt(fd, level, name, value, size);
    memset(value, 0, *size);
    return 0;
}

WRAP(int, accept4, int fd, struct sockaddr *ret_peer, socklen_t *size, int flags)
{
    static const int errors[] = { -EMFILE, -ENFILE, -ENOBUFS, -ECONNABORTED, -EINTR };

    if (!sim_is_in())
        return __real_accept4(fd, ret_peer, size, flags);
    begin_call("accept");
    if (sim_fault_here("accept4", sim_weather.socket_ppm))
        return (int)end_call(errors[sim_draw_below(CHANCE_FAULT, COUNT(errors))]);
    return (int)end_call(sim_net_accept(fd, ret_peer, size));
}

static ssize_t do_recv(int fd, void *into, size_t size, int flags)
{
    begin_call("recv");
    if (sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.spurious_ppm))
        return end_call(-EINTR);
    if (sim_fault_here("recv", sim_weather.socket_ppm))
        return end_call(-ECONNRESET);
    return end_call(sim_net_recv(fd, (flags & MSG_TRUNC) != 0 ? NULL : into, size));
}

static ssize_t do_send(int fd, const void *data, size_t size)
{
    begin_call("send");
    if (sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.spurious_ppm))
        return end_call(-EINTR);
    if (sim_fault_here("send", sim_weather.socket_ppm))
        return end_call(-EPIPE);
    return end_call(sim_net_send(fd, data, size));
}

WRAP(ssize_t, recv, int fd, void *into, size_t size, int flags)
{
    return sim_is_in() ? do_recv(fd, into, size, flags) : __real_recv(fd, into, size, flags);
}

WRAP(ssize_t, send, int fd, const void *data, size_t size, int flags)
{
    return sim_is_in() ? do_send(fd, data, size) : __real_send(fd, data, size, flags);
}

WRAP(ssize_t, sendmsg, int fd, const struct msghdr *message, int flags)
{
    if (!sim_is_in())
        return __real_sendmsg(fd, message, flags);
    begin_call("sendmsg");
    if (sim_fault_here("sendmsg", sim_weather.socket_ppm))
        return end_call(-EPIPE);
    return end_call(sim_net_send_pieces(fd, message->msg_iov, message->msg_iovlen));
}

WRAP(int, shutdown, int fd, int how)
{
    if (!sim_is_in())
        return __real_shutdown(fd, how);
    begin_call("shutdown");
    return (int)end_call(sim_net_shutdown(fd));
}

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
    if (!sim_is_in() || !sim_net_is_ours(fd))
        return __real_ioctl(fd, request, arg);
    sim_call();
    if (request == SIOCOUTQ)
        *(int *)arg = (int)sim_net_unsent(fd);
    return 0;
}

WRAP(int, close, int fd)
{
    if (!sim_is_in() || !sim_net_is_ours(fd))
        return __real_close(fd);
    begin_call("close");
    return (int)end_call(sim_net_close(fd));
}

/* -- epoll, eventfd ---------------------------------------------------------------------------- */

WRAP(int, epoll_create1, int flags)
{
    if (!sim_is_in())
        return __real_epoll_create1(flags);
    begin_call("epoll");
    return (int)end_call(sim_fault_here("epoll_create1", sim_weather.socket_ppm) ? -EMFILE
                                                                                 : sim_net_epoll());
}

WRAP(int, eventfd, unsigned start, int flags)
{
    if (!sim_is_in())
        return __real_eventfd(start, flags);
    begin_call("eventfd");
    return (int)end_call(
        sim_fault_here("eventfd", sim_weather.socket_ppm) ? -EMFILE : sim_net_eventfd(start));
}

WRAP(int, epoll_ctl, int epoll_fd, int op, int fd, struct epoll_event *event)
{
    if (!sim_is_in())
        return __real_epoll_ctl(epoll_fd, op, fd, event);
    begin_call("epoll_ctl");
    if (op == EPOLL_CTL_ADD && sim_fault_here("epoll_ctl", sim_weather.socket_ppm))
        return (int)end_call(-ENOMEM);
    return (int)end_call(sim_net_epoll_ctl(epoll_fd, op, fd, event));
}

static uint64_t due_in(uint64_t ns)
{
    return ns >= SIM_NEVER - sim_now() ? SIM_NEVER : sim_now() + ns;
}

WRAP(int, ppoll, struct pollfd *fds, nfds_t count, const struct timespec *wait,
     const sigset_t *mask)
{
    if (!sim_is_in())
        return __real_ppoll(fds, count, wait, mask);
    begin_call("ppoll");
    return (int)end_call(
        sim_net_poll(fds, count, wait == NULL ? SIM_NEVER : due_in(nanoseconds(wait))));
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

static long do_futex(uint32_t *word, long op, uint32_t value, const struct timespec *until)
{
    begin_call("futex");
    if ((op & FUTEX_CMD_MASK) == FUTEX_WAKE)
        return end_call(sim_wake(word, value));
    require((op & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET);
    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != value)
        return end_call(-EAGAIN);
    if (sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.spurious_ppm))
        return end_call(-EINTR);
    bool was_woken =
        sim_wait(word, until == NULL ? SIM_NEVER : nanoseconds(until), "a wake (futex)");
    return end_call(was_woken ? 0 : -ETIMEDOUT);
}

long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    if (!sim_is_in())
        return __real_syscall(number, a, b, c, d, e, f);
    switch (number) {
    case SYS_futex: return do_futex((uint32_t *)a, b, (uint32_t)c, (const struct timespec *)d);
    case SYS_epoll_pwait2:
        begin_call("epoll");
        return end_call(sim_net_epoll_wait(
            (int)a, (struct epoll_event *)b, (int)c,
            d == 0 ? SIM_NEVER : due_in(nanoseconds((const struct timespec *)d))));
    case SYS_epoll_pwait:
        begin_call("epoll");
        return end_call(sim_net_epoll_wait((int)a, (struct epoll_event *)b, (int)c,
                                           d < 0 ? SIM_NEVER : due_in((uint64_t)d * SIM_MS)));
    case SYS_recvfrom: return do_recv((int)a, (void *)b, (size_t)c, (int)d);
    case SYS_sendto: return do_send((int)a, (const void *)b, (size_t)c);
    case SYS_openat2:
        begin_call("openat2");
        if (sim_fault_here("openat2", sim_weather.file_ppm))
            return end_call(-EIO);
        long fd = __real_syscall(number, a, b, c, d, e, f);
        /* Which number it is depends on who started us. */
        return end_call(fd < 0 ? -errno : 0) < 0 ? -1 : fd;
    default: return __real_syscall(number, a, b, c, d, e, f);
    }
}

long sim_real_syscall(long number, ...)
{
    long values[6];
    va_list args;

    va_start(args, number);
    for (int i = 0; i < 6; i++)
        values[i] = va_arg(args, long);
    va_end(args);
    return __real_syscall(number, values[0], values[1], values[2], values[3], values[4], values[5]);
}

/* -- files ------------------------------------------------------------------------------------- */

WRAP(ssize_t, read, int fd, void *into, size_t size)
{
    if (!sim_is_in())
        return __real_read(fd, into, size);
    begin_call("read");
    if (sim_net_is_ours(fd))
        return end_call(sim_net_event_read(fd, into));
    if (sim_fault_here("read", sim_weather.file_ppm))
        return end_call(-EIO);
    ssize_t got = __real_read(fd, into, size);
    return end_call(got < 0 ? -errno : got);
}

WRAP(ssize_t, write, int fd, const void *data, size_t size)
{
    uint64_t by;

    if (!sim_is_in())
        return __real_write(fd, data, size);
    begin_call("write");
    if (sim_net_is_ours(fd)) {
        memcpy(&by, data, sizeof by);
        return end_call(sim_net_event_write(fd, by));
    }
    if (fd == STDOUT_FILENO || fd == STDERR_FILENO) {
        sim_output(fd, data, size);
        return end_call((long)size);
    }
    ssize_t put = __real_write(fd, data, size);
    return end_call(put < 0 ? -errno : put);
}

static bool file_fails(const char *what, int error)
{
    sim_call();
    if (!sim_fault_here(what, sim_weather.file_ppm))
        return false;
    errno = error;
    return true;
}

int __real_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode)
{
    if (sim_is_in() &&
        strncmp(path, "/proc/self/", 11) == 0) { /* what this process costs is not the seed's */
        errno = ENOENT;
        return -1;
    }
    if (sim_is_in() && file_fails("open", EMFILE))
        return -1;
    return __real_open64(path, flags, mode);
}

int __real_openat64(int folder, const char *path, int flags, mode_t mode);
int __wrap_openat64(int folder, const char *path, int flags, mode_t mode);
int __wrap_openat64(int folder, const char *path, int flags, mode_t mode)
{
    if (sim_is_in() && file_fails("openat", EMFILE))
        return -1;
    return __real_openat64(folder, path, flags, mode);
}

WRAP(int, fstat64, int fd, struct stat64 *ret)
{
    return sim_is_in() && file_fails("fstat", EIO) ? -1 : __real_fstat64(fd, ret);
}

WRAP(int, stat64, const char *path, struct stat64 *ret)
{
    return sim_is_in() && file_fails("stat", EACCES) ? -1 : __real_stat64(path, ret);
}

WRAP(int, fstatat64, int folder, const char *path, struct stat64 *ret, int flags)
{
    return sim_is_in() && file_fails("fstatat", EACCES)
               ? -1
               : __real_fstatat64(folder, path, ret, flags);
}

WRAP(ssize_t, pread64, int fd, void *into, size_t size, off64_t at)
{
    return sim_is_in() && file_fails("pread", EIO) ? -1 : __real_pread64(fd, into, size, at);
}

WRAP(DIR *, opendir, const char *path)
{
    return sim_is_in() && file_fails("opendir", EMFILE) ? NULL : __real_opendir(path);
}

WRAP(char *, realpath, const char *path, char *out)
{
    return sim_is_in() && file_fails("realpath", EACCES) ? NULL : __real_realpath(path, out);
}

/* -- the same calls of a fortified build ------------------------------------------------------------ */

/* With _FORTIFY_SOURCE the compiler calls these where it knows how large what is written to is. They do what
 * glibc's do, stop when that is too small, and are the calls above otherwise. */
#define CHECKED(type, name, ...)         \
    type __wrap___##name##_chk(__VA_ARGS__); \
    type __wrap___##name##_chk(__VA_ARGS__)

CHECKED(ssize_t, read, int fd, void *into, size_t size, size_t room)
{
    require(size <= room);
    return __wrap_read(fd, into, size);
}

CHECKED(ssize_t, recv, int fd, void *into, size_t size, size_t room, int flags)
{
    require(size <= room);
    return __wrap_recv(fd, into, size, flags);
}

CHECKED(ssize_t, pread64, int fd, void *into, size_t size, off_t at, size_t room)
{
    require(size <= room);
    return __wrap_pread64(fd, into, size, at);
}

CHECKED(char *, realpath, const char *path, char *out, size_t room)
{
    require(room >= PATH_MAX);
    return __wrap_realpath(path, out);
}

CHECKED(int, gethostname, char *out, size_t size, size_t room)
{
    require(size <= room);
    return __wrap_gethostname(out, size);
}

CHECKED(int, ppoll, struct pollfd *fds, nfds_t count, const struct timespec *wait,
        const sigset_t *mask, size_t room)
{
    require(count <= room / sizeof *fds);
    return __wrap_ppoll(fds, count, wait, mask);
}
