/* stop.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/stop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/print.h"

/* There is one process to stop. The mutex is the right to end it: whoever holds it decides. */
static struct {
    pthread_mutex_t mutex;
    void (*end_early)(void *context);
    void *context;
    int wake_fd; /* an eventfd: something came */
    _Atomic unsigned events;
    _Atomic int signal_number; /* 0: none came that ends */
    uint64_t began_ns;         /* when it came; set before the handler that reads it */
    bool is_taken;             /* the starting thread does the ending */
    sigset_t before;           /* what main began with */
    struct {
        enum err_code (*run)(void *context, struct err *err);
        void *context;
    } reloads[STOP_RELOADS_MAX];
    uint32_t reloads_count;
} stop = { .mutex = PTHREAD_MUTEX_INITIALIZER, .wake_fd = -1 };

static const uint64_t SAME_NS = 300 * NS_PER_MS;
static const int the_signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR2 };

static sigset_t set_of(size_t count)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < count; i++)
        sigaddset(&set, the_signals[i]);
    return set;
}

static void change(int how, size_t count)
{
    sigset_t set = set_of(count);

    pthread_sigmask(how, &set, NULL);
}

void stop_block(void)
{
    pthread_sigmask(SIG_SETMASK, NULL, &stop.before);
    change(SIG_BLOCK, COUNT(the_signals));
}

void stop_mask_before(sigset_t *ret)
{
    *ret = stop.before;
}

void stop_unblock(void)
{
    change(SIG_UNBLOCK, COUNT(the_signals));
}

/* Also who sends a signal to a process and to its group means it once, and so does an impatient
 * supervisor's whole tree of them: what comes within SAME_NS of the first is the first. */
static void end_at_once(int signal_number)
{
    if (clock_mono_ns() < stop.began_ns + SAME_NS)
        return;
    static const char words[] = "penstock: stopped at once by a second signal; what was under way is cut\n";
    ssize_t ignored = write(STDERR_FILENO, words, sizeof words - 1);

    (void)ignored;
    _exit(128 + signal_number);
}

/* From here on the kernel ends the process at the next SIGTERM, whatever its threads do. */
static void let_the_second_end(int signal_number)
{
    struct sigaction action = { .sa_handler = end_at_once, .sa_flags = SA_RESTART };

    stop.began_ns = clock_mono_ns();

    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    change(SIG_UNBLOCK, 2);
    pthread_mutex_lock(&stop.mutex);
    atomic_store(&stop.signal_number, signal_number);
    if (!stop.is_taken) {
        /* The mutex stays locked: the starting thread gets no further than its next stop_hold. */
        stop.end_early(stop.context);
        _exit(EXIT_OK);
    }
    pthread_mutex_unlock(&stop.mutex);
}

static void tell(unsigned event)
{
    const uint64_t one = 1;

    atomic_fetch_or(&stop.events, event);
    /* It cannot fail but for a counter at its end, which can be read as well. */
    ssize_t wrote = write(stop.wake_fd, &one, sizeof one);
    (void)wrote;
}

static void *wait_thread(void *context)
{
    sigset_t set = set_of(COUNT(the_signals));
    int signal_number = 0;

    (void)context;
    pthread_setname_np(pthread_self(), "signals");
    do {
        while (sigwait(&set, &signal_number) != 0)
            continue;
        bool is_end = signal_number == SIGTERM || signal_number == SIGINT;
        if (is_end)
            let_the_second_end(signal_number);
        tell(is_end ? STOP_END : signal_number == SIGHUP ? STOP_RELOAD : STOP_UPGRADE);
        if (is_end) { /* it is not waited for here any more */
            sigdelset(&set, SIGTERM);
            sigdelset(&set, SIGINT);
        }
    } while (true);
    return NULL;
}

enum err_code stop_begin(void (*end_early)(void *context), void *context, struct err *err)
{
    pthread_attr_t attributes;
    pthread_t thread;

    stop.end_early = end_early;
    stop.context = context;
    stop.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stop.wake_fd < 0)
        return err_set(err, E_EXHAUSTED, "cannot make a descriptor: %s; see `ulimit -n`",
                       strerror(errno));
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &attributes, wait_thread, NULL);
    pthread_attr_destroy(&attributes);
    return error == 0 ? OK
                      : err_set(err, E_EXHAUSTED, "cannot start a thread: %s", strerror(error));
}

void stop_hold(void)
{
    pthread_mutex_lock(&stop.mutex);
}

void stop_release(void)
{
    pthread_mutex_unlock(&stop.mutex);
}

void stop_take(void)
{
    pthread_mutex_lock(&stop.mutex);
    stop.is_taken = true;
    pthread_mutex_unlock(&stop.mutex);
}

unsigned stop_wait(uint64_t due_ns, int fd)
{
    struct pollfd fds[] = { { .fd = stop.wake_fd, .events = POLLIN },
                            { .fd = fd, .events = POLLIN } };
    uint64_t count, now_ns = clock_mono_ns();
    struct timespec wait = { 0 };

    if (due_ns > now_ns) {
        wait.tv_sec = (time_t)MIN((due_ns - now_ns) / NS_PER_S, UINT64_C(3600));
        wait.tv_nsec = (long)((due_ns - now_ns) % NS_PER_S);
    }
    if (ppoll(fds, COUNT(fds), &wait, NULL) > 0 && fds[0].revents != 0) {
        ssize_t got =
            read(stop.wake_fd, &count, sizeof count); /* before the events are looked at */
        (void)got;
    }
    unsigned came = atomic_fetch_and(&stop.events, STOP_END);
    if (came & STOP_END)
        change(SIG_UNBLOCK, 2);
    return came;
}

int stop_signal(void)
{
    return atomic_load(&stop.signal_number);
}

void stop_on_reload(enum err_code (*reload)(void *context, struct err *err), void *context)
{
    require(stop.reloads_count < STOP_RELOADS_MAX);
    stop.reloads[stop.reloads_count].run = reload;
    stop.reloads[stop.reloads_count++].context = context;
}

bool stop_reload(void)
{
    bool is_whole = true;
    struct err err;

    log_info("SIGHUP: reading again what may change while serving");
    for (uint32_t i = 0; i < stop.reloads_count; i++) {
        err.text[0] = '\0';
        if (stop.reloads[i].run(stop.reloads[i].context, &err) == OK)
            continue;
        is_whole = false;
        log_error("%s", err.text);
    }
    return is_whole;
}
