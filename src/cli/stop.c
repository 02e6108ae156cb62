/* stop.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/stop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/print.h"

enum { NOW_AND_THEN_S = 2 };

/* There is one process to stop. The mutex is the right to end it: whoever holds it decides. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t came;
    void (*end_early)(void *context);
    void *context;
    int signal_number; /* 0: none came */
    bool is_taken;     /* the starting thread does the ending */
} stop = { .mutex = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER };

static sigset_t the_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return set;
}

void stop_block(void)
{
    sigset_t set = the_signals();

    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void stop_unblock(void)
{
    sigset_t set = the_signals();

    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void end_at_once(int signal_number)
{
    static const char words[] = "penstock: stopped at once, with requests under way\n";
    ssize_t ignored = write(STDERR_FILENO, words, sizeof words - 1);

    (void)ignored;
    _exit(128 + signal_number);
}

static void *wait_thread(void *context)
{
    struct sigaction action = { .sa_handler = end_at_once };
    sigset_t set = the_signals();
    int signal_number = 0;

    (void)context;
    while (sigwait(&set, &signal_number) != 0)
        continue;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    stop_unblock();
    pthread_mutex_lock(&stop.mutex);
    stop.signal_number = signal_number;
    if (!stop.is_taken) {
        /* The mutex stays locked: the starting thread gets no further than its next stop_hold. */
        stop.end_early(stop.context);
        _exit(EXIT_OK);
    }
    pthread_cond_signal(&stop.came);
    pthread_mutex_unlock(&stop.mutex);
    return NULL;
}

enum err_code stop_begin(void (*end_early)(void *context), void *context, struct err *err)
{
    pthread_attr_t attributes;
    pthread_t thread;

    stop.end_early = end_early;
    stop.context = context;
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

int stop_wait(void (*now_and_then)(void))
{
    pthread_mutex_lock(&stop.mutex);
    while (stop.signal_number == 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until); /* what the condition goes by; a jump of it only
                                                  makes one wait shorter or longer */
        until.tv_sec += NOW_AND_THEN_S;
        if (pthread_cond_timedwait(&stop.came, &stop.mutex, &until) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&stop.mutex);
        now_and_then();
        pthread_mutex_lock(&stop.mutex);
    }
    pthread_mutex_unlock(&stop.mutex);
    stop_unblock();
    return stop.signal_number;
}
