/* aside.c - SPDX-License-Identifier: Apache-2.0 */
#include "io/aside.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/mem.h"
#include "io/env.h"
#include "telemetry/metrics.h"

struct thread {
    struct aside *aside;
    struct worker *worker;
    bool rests; /* under the lock: it sleeps, or is about to */
};

struct aside {
    struct env *env;
    pthread_mutex_t lock; /* a leaf: guards the list and who rests */
    struct aside_job *first, **end;
    bool is_stopping;
    _Atomic uint64_t jobs, waiting;
    uint32_t threads_count;
    struct thread threads[];
};

/* The next to do; NULL: there is none and never will be. */
static struct aside_job *take(struct thread *t)
{
    struct aside *aside = t->aside;

    for (;;) {
        pthread_mutex_lock(&aside->lock);
        struct aside_job *job = aside->first;
        if (job != NULL && (aside->first = job->next) == NULL)
            aside->end = &aside->first;
        bool is_over = aside->is_stopping;
        t->rests = job == NULL;
        pthread_mutex_unlock(&aside->lock);
        if (job != NULL || is_over)
            return job;
        aside->env->worker_sleep(aside->env, t->worker, UINT64_MAX);
    }
}

static void run_done(struct loop_msg *msg)
{
    struct aside_job *job = CONTAINER_OF(msg, struct aside_job, msg);

    job->done(job);
}

static void thread_main(void *arg)
{
    struct thread *t = arg;
    struct aside_job *job;

    while ((job = take(t)) != NULL) {
        job->work(job);
        atomic_fetch_sub_explicit(&t->aside->waiting, 1, memory_order_relaxed);
        loop_post(job->loop, &job->msg);
    }
}

enum err_code aside_new(struct aside **ret, struct env *env, uint32_t threads, struct err *err)
{
    CLEANUP(aside_free)
    struct aside *aside = mem_zalloc(sizeof *aside + threads * sizeof aside->threads[0]);

    if (aside == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for threads beside the loops");
    aside->env = env;
    aside->end = &aside->first;
    pthread_mutex_init(&aside->lock, NULL);
    for (uint32_t i = 0; i < threads; i++) {
        struct thread *t = &aside->threads[i];
        char name[16];
        snprintf(name, sizeof name, "aside-%u", i % 1000);
        t->aside = aside;
        TRY(env->worker_start(env, &t->worker, name, thread_main, t, err));
        aside->threads_count++;
    }
    *ret = TAKE(aside);
    return OK;
}

enum err_code aside_register(struct aside *aside, struct metrics *metrics, struct err *err)
{
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_aside_jobs_total",
                    "Bodies read by a thread beside the loops (--aside-from)", "", &aside->jobs, 1,
                    err));
    return metrics_add(metrics, METRIC_GAUGE, "penstock_aside_jobs",
                       "Bodies that are being read beside the loops, or wait for it", "",
                       &aside->waiting, 1, err);
}

void aside_free(struct aside **slot)
{
    struct aside *aside = TAKE(*slot);

    if (aside == NULL)
        return;
    pthread_mutex_lock(&aside->lock);
    aside->is_stopping = true;
    pthread_mutex_unlock(&aside->lock);
    for (uint32_t i = 0; i < aside->threads_count; i++) {
        aside->env->worker_wake(aside->env, aside->threads[i].worker);
        aside->env->worker_join(aside->env, &aside->threads[i].worker);
    }
    require(aside->first == NULL);
    pthread_mutex_destroy(&aside->lock);
    mem_free(aside);
}

void aside_put(struct aside *aside, struct aside_job *job, struct loop *loop)
{
    struct thread *idle = NULL;

    require(loop_is_mine(loop));
    job->next = NULL;
    job->loop = loop;
    job->msg.run = run_done;
    atomic_fetch_add_explicit(&aside->jobs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&aside->waiting, 1, memory_order_relaxed);
    pthread_mutex_lock(&aside->lock);
    *aside->end = job;
    aside->end = &job->next;
    for (uint32_t i = 0; idle == NULL && i < aside->threads_count; i++)
        if (aside->threads[i].rests) {
            idle = &aside->threads[i];
            idle->rests = false;
        }
    pthread_mutex_unlock(&aside->lock);
    if (idle != NULL)
        aside->env->worker_wake(aside->env, idle->worker);
}
