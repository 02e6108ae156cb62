/* aside_test.c - jobs beside a loop: each is done once, there, and told here. SPDX-License-Identifier: Apache-2.0 */
#include "io/aside.h"

#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "io/env.h"
#include "telemetry/metrics.h"
#include "test/harness.h"

enum { JOBS = 500 };

struct sum {
    struct aside_job job;
    uint32_t number, result;
    bool was_on_loop; /* the work */
    unsigned told;
};

static struct loop *loop;
static struct aside *aside;
static struct sum sums[JOBS];
static unsigned told, jobs_put, order[JOBS];

static void work(struct aside_job *job)
{
    struct sum *s = CONTAINER_OF(job, struct sum, job);

    s->was_on_loop = loop_current() != NULL;
    for (uint32_t i = 0; i <= s->number; i++)
        s->result += i;
}

static void done(struct aside_job *job)
{
    struct sum *s = CONTAINER_OF(job, struct sum, job);

    require(loop_is_mine(loop));
    s->told++;
    order[told++] = s->number;
    if (told == jobs_put)
        loop_stop(loop);
}

static void put_all(struct loop_msg *msg UNUSED)
{
    for (uint32_t i = 0; i < jobs_put; i++) {
        sums[i] = (struct sum){ .job = { .work = work, .done = done }, .number = i };
        aside_put(aside, &sums[i].job, loop);
    }
}

static void begin(uint32_t threads, uint32_t jobs)
{
    static struct loop_msg msg = { .run = put_all };

    require(loop_new(&loop, env_real(), 0, NULL) == OK);
    require(aside_new(&aside, env_real(), threads, NULL) == OK);
    told = 0;
    jobs_put = jobs;
    loop_post(loop, &msg);
}

static void check_all(void)
{
    check(told == jobs_put, "%u of %u were told", told, jobs_put);
    for (uint32_t i = 0; i < jobs_put; i++)
        check(sums[i].told == 1 && !sums[i].was_on_loop && sums[i].result == i * (i + 1) / 2,
              "job %u: told %u times, %u", i, sums[i].told, sums[i].result);
}

TEST(jobs_are_done_beside_the_loop_and_told_on_it)
{
    static const uint32_t threads[] = { 1, 2, 7 };

    for (size_t i = 0; i < COUNT(threads); i++) {
        begin(threads[i], JOBS);
        loop_run(loop);
        check_all();
        for (uint32_t n = 0; threads[i] == 1 && n < JOBS; n++)
            check(order[n] == n, "one thread does them in order: %u", order[n]);
        aside_free(&aside);
        loop_free(&loop);
    }
}

static void stop_now(struct loop_msg *msg UNUSED)
{
    put_all(NULL);
    loop_stop(loop);
}

/* What was put is done, though the loop has ended: it tells when it goes. */
TEST(the_end_waits_for_what_was_put)
{
    struct loop_msg msg = { .run = stop_now };

    require(loop_new(&loop, env_real(), 0, NULL) == OK);
    require(aside_new(&aside, env_real(), 2, NULL) == OK);
    told = 0;
    jobs_put = JOBS;
    loop_post(loop, &msg);
    loop_run(loop);
    aside_free(&aside);
    for (uint32_t i = 0; i < JOBS; i++)
        check(sums[i].result == i * (i + 1) / 2, "job %u was done", i);
    struct loop *last = loop; /* told from within loop_free */
    loop_free(&last);
    check(told == JOBS, "%u were told", told);
    loop = NULL;
}

TEST(it_starts_beneath_every_fault)
{
    for_each_fault(nth) {
        struct metrics *metrics = metrics_new();
        struct err err = { 0 };
        enum err_code code = metrics == NULL ? E_EXHAUSTED : aside_new(&aside, env_real(), 3, &err);
        if (code == OK)
            code = aside_register(aside, metrics, &err);
        check(code == OK || metrics == NULL || err.text[0] != '\0', "fault %u was silent", nth);
        aside_free(&aside);
        metrics_free(&metrics);
        if (!fault_fired())
            break;
    }
}
