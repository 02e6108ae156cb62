/* loop_test.c - turns, timers, watches, and messages from many threads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "io/loop.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "test/harness.h"

static struct loop *make(void)
{
    struct loop *loop = NULL;
    struct err err = { 0 };

    require(loop_new(&loop, env_real(), 3, &err) == OK);
    return loop;
}

/* -- timers ------------------------------------------------------------------------------------ */

struct ticker {
    struct timer timer;
    struct loop *loop;
    uint64_t due_ns;
    unsigned fired;
};

static unsigned fired_count, fired_wanted;
static uint64_t fired_last_ns;
static bool fired_in_order;

static void on_tick(struct timer *timer)
{
    struct ticker *t = CONTAINER_OF(timer, struct ticker, timer);

    t->fired++;
    fired_in_order &= t->due_ns >= fired_last_ns && t->due_ns <= loop_now_ns(t->loop);
    fired_last_ns = t->due_ns;
    if (++fired_count == fired_wanted)
        loop_stop(t->loop);
}

TEST(timers_fire_in_order_against_a_plain_array)
{
    enum { TICKERS = 400 };
    static struct ticker tickers[TICKERS];
    struct loop *loop = make();
    uint64_t now = loop_now_ns(loop);

    memset(tickers, 0, sizeof tickers);
    fired_count = fired_wanted = 0;
    fired_last_ns = 0;
    fired_in_order = true;
    for (unsigned step = 0; step < 3000; step++) {
        struct ticker *t = &tickers[test_random_below(TICKERS)];
        t->loop = loop;
        t->timer.on_due = on_tick;
        if (test_random_below(3) == 0) {
            timer_stop(loop, &t->timer);
            t->due_ns = 0;
        } else {
            t->due_ns = now + 1 + test_random_below(20 * NS_PER_MS);
            check_or_stop(timer_start(loop, &t->timer, t->due_ns, NULL) == OK, "start");
        }
        check((t->timer.slot != 0) == (t->due_ns != 0), "step %u", step);
    }
    for (unsigned i = 0; i < TICKERS; i++)
        fired_wanted += tickers[i].due_ns != 0;
    loop_run(loop);
    check(fired_count == fired_wanted && fired_in_order, "%u of %u", fired_count, fired_wanted);
    for (unsigned i = 0; i < TICKERS; i++)
        check(tickers[i].fired == (tickers[i].due_ns != 0), "ticker %u", i);
    loop_free(&loop);
}

static void on_stop(struct timer *timer)
{
    loop_stop(CONTAINER_OF(timer, struct ticker, timer)->loop);
}

static void on_again(struct timer *timer)
{
    struct ticker *t = CONTAINER_OF(timer, struct ticker, timer);

    if (++t->fired == 5)
        loop_stop(t->loop);
    check(timer_start(t->loop, timer, 0, NULL) == OK, "again");
}

/* One that starts itself as already due gets a turn of its own each time. */
TEST(a_timer_may_start_itself)
{
    struct loop *loop = make();
    struct ticker t = { .timer.on_due = on_again, .loop = loop };

    check_or_stop(timer_start(loop, &t.timer, 0, NULL) == OK, "start");
    loop_run(loop);
    check(t.fired == 5, "%u", t.fired);
    loop_free(&loop);
}

static void on_busy(struct timer *timer)
{
    uint64_t until = clock_mono_ns() + 3 * NS_PER_MS;

    while (clock_mono_ns() < until)
        continue;
    on_stop(timer);
}

static void on_nothing(struct timer *timer UNUSED)
{
}

/* A turn of 3 ms: that is its length, and the timer that was due meanwhile is late. */
TEST(a_loop_tells_how_long_its_turns_are_and_how_late_timers)
{
    struct loop *loop = make();
    struct ticker t = { .timer.on_due = on_busy, .loop = loop };
    struct ticker late = { .timer.on_due = on_nothing };
    struct ticker stop = { .timer.on_due = on_stop, .loop = loop };
    const struct loop_stats *stats = loop_stats(loop);
    uint64_t begun = clock_mono_ns();

    check_or_stop(timer_start(loop, &t.timer, 0, NULL) == OK, "start");
    check_or_stop(timer_start(loop, &late.timer, begun + NS_PER_MS, NULL) == OK, "start");
    loop_run(loop);
    check_or_stop(timer_start(loop, &stop.timer, 0, NULL) == OK, "start");
    loop_run(loop);
    uint64_t took = clock_mono_ns() - begun;
    check(stat_histogram_count(&stats->turns) == 2, "%llu turns",
          (unsigned long long)stat_histogram_count(&stats->turns));
    check(stats->turns.sum_ns >= 3 * NS_PER_MS && stats->turns.sum_ns <= took, "%llu of %llu ns",
          (unsigned long long)stats->turns.sum_ns, (unsigned long long)took);
    check(stat_histogram_count(&stats->lags) == 2, "%llu late",
          (unsigned long long)stat_histogram_count(&stats->lags));
    check(stats->lags.sum_ns >= 2 * NS_PER_MS && stats->lags.sum_ns <= 2 * took,
          "%llu ns late in %llu", (unsigned long long)stats->lags.sum_ns, (unsigned long long)took);
    loop_free(&loop);
}

/* Sooner than a timer that waits whole milliseconds could be: the best of many, as the machine may be
 * busy. */
TEST(a_timer_is_in_time_to_a_fraction_of_a_millisecond)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < 200; i++) {
        struct loop *loop = make();
        struct ticker t = { .timer.on_due = on_stop, .loop = loop };
        uint64_t begun = clock_mono_ns(), due = loop_refresh_ns(loop) + 100000;
        check_or_stop(timer_start(loop, &t.timer, due, NULL) == OK, "start");
        loop_run(loop);
        uint64_t now = clock_mono_ns();
        check(now >= due, "%llu ns too soon", (unsigned long long)(due - now));
        best = MIN(best, now - begun);
        loop_free(&loop);
    }
    check(best < 900000, "%llu ns", (unsigned long long)best);
}

/* -- deferred tasks ---------------------------------------------------------------------------- */

struct chore {
    struct loop_task task;
    struct loop *loop;
    struct chore *other;
    unsigned runs, until;
};

static void run_chore(struct loop_task *task)
{
    struct chore *c = CONTAINER_OF(task, struct chore, task);

    if (++c->runs < c->until) {
        loop_defer(c->loop, task);
        loop_defer(c->loop, task);
    } else {
        loop_stop(c->loop);
    }
    if (c->other != NULL)
        loop_undefer(&c->other->task);
}

TEST(tasks_run_once_per_turn_and_can_be_taken_back)
{
    struct loop *loop = make();
    struct chore b = { .task.run = run_chore, .loop = loop, .until = 9 };
    struct chore a = { .task.run = run_chore, .loop = loop, .until = 3, .other = &b };

    loop_defer(loop, &a.task);
    loop_defer(loop, &a.task);
    loop_defer(loop, &b.task);
    loop_run(loop);
    check(a.runs == 3, "a ran %u times", a.runs);
    check(b.runs == 0, "b was taken back and ran %u times", b.runs);
    loop_free(&loop);
}

/* Early tasks come first, and what they put off to the others is of the same turn. */
struct stages {
    struct loop_task early, late;
    struct loop *loop;
    unsigned earlies, lates;
};

static void run_early(struct loop_task *task)
{
    struct stages *s = CONTAINER_OF(task, struct stages, early);

    check(s->earlies == s->lates, "%u early, %u late", s->earlies, s->lates);
    s->earlies++;
    loop_defer(s->loop, &s->late);
    if (s->earlies < 3)
        loop_defer_early(s->loop, task);
}

static void run_late(struct loop_task *task)
{
    struct stages *s = CONTAINER_OF(task, struct stages, late);

    s->lates++;
    check(s->earlies == s->lates, "%u early, %u late", s->earlies, s->lates);
    if (s->lates == 3)
        loop_stop(s->loop);
}

TEST(early_tasks_come_first_and_what_they_put_off_is_of_the_same_turn)
{
    struct loop *loop = make();
    struct stages s = { .early.run = run_early, .late.run = run_late, .loop = loop };
    struct chore taken = { .task.run = run_chore, .loop = loop };

    loop_defer_early(loop, &s.early);
    loop_defer_early(loop, &s.early);
    loop_defer_early(loop, &taken.task);
    loop_undefer(&taken.task);
    loop_run(loop);
    check(s.earlies == 3 && s.lates == 3, "%u early, %u late", s.earlies, s.lates);
    check(taken.runs == 0, "it was taken back");
    loop_free(&loop);
}

/* -- watches ----------------------------------------------------------------------------------- */

struct watcher {
    struct loop_fd watch;
    struct loop *loop;
    struct watcher *victim;
    unsigned calls;
};

static void on_bytes(struct loop_fd *watch, uint32_t events)
{
    struct watcher *w = CONTAINER_OF(watch, struct watcher, watch);

    check(events & EPOLLIN, "events %x", events);
    w->calls++;
    if (w->victim != NULL) {
        loop_unwatch(w->loop, &w->victim->watch);
        w->victim->victim = NULL;
        w->victim = NULL;
    }
    loop_stop(w->loop);
}

/* Both are ready in one turn; the first takes the other away. */
TEST(unwatching_within_a_turn_is_safe)
{
    struct loop *loop = make();
    struct watcher w[2];
    int pairs[2][2];
    struct err err;

    for (int i = 0; i < 2; i++) {
        check_or_stop(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) == 0, "pair");
        w[i] = (struct watcher){ .watch = { .fd = pairs[i][0], .on_ready = on_bytes },
                                 .loop = loop,
                                 .victim = &w[1 - i] };
        check_or_stop(write(pairs[i][1], "x", 1) == 1, "write");
        check_or_stop(loop_watch(loop, &w[i].watch, EPOLLIN, &err) == OK, "watch");
    }
    loop_run(loop);
    check(w[0].calls + w[1].calls == 1, "%u and %u calls", w[0].calls, w[1].calls);
    loop_free(&loop);
    for (int i = 0; i < 2; i++) {
        close(pairs[i][0]);
        close(pairs[i][1]);
    }
}

struct passer {
    struct watcher watcher; /* first */
    struct watcher *next;   /* takes over; NULL: nobody */
    uint64_t turn;
};

static void on_pass(struct loop_fd *watch, uint32_t events)
{
    struct passer *p = CONTAINER_OF(watch, struct passer, watcher.watch);

    check(events & EPOLLIN, "events %x", events);
    p->watcher.calls++;
    p->turn = loop_turn();
    loop_pass(p->watcher.loop, watch, &p->next->watch);
}

/* Edge-triggered, and nobody has read: who takes over is told again, in a later turn. */
TEST(a_watch_is_passed_on_with_what_is_ready)
{
    struct loop *loop = make();
    int pair[2];
    struct err err;

    check_or_stop(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "pair");
    struct watcher last = { .watch = { .fd = -1, .on_ready = on_bytes }, .loop = loop };
    struct passer first = {
        .watcher = { .watch = { .fd = pair[0], .on_ready = on_pass }, .loop = loop },
        .next = &last,
    };
    check(loop_turn() == 0, "no loop runs here");
    check_or_stop(write(pair[1], "x", 1) == 1, "write");
    check_or_stop(loop_watch(loop, &first.watcher.watch, EPOLLIN | EPOLLET, &err) == OK, "watch");
    loop_run(loop);
    check(first.watcher.calls == 1 && last.calls == 1, "%u and %u calls", first.watcher.calls,
          last.calls);
    check(first.turn == 1 && first.watcher.watch.fd == -1, "it watches no more");
    check(last.watch.fd == pair[0] && last.watch.events == (EPOLLIN | EPOLLET), "as it was");
    loop_unwatch(loop, &last.watch);
    loop_free(&loop);
    close(pair[0]);
    close(pair[1]);
}

static struct watcher *posted_victim;

static void unwatch_victim(struct loop_msg *msg)
{
    (void)msg;
    loop_unwatch(posted_victim->loop, &posted_victim->watch);
    loop_stop(posted_victim->loop);
}

/* Messages run before what is ready: one may take away a watch whose event is there already. */
TEST(unwatching_from_a_message_is_safe)
{
    struct loop *loop = make();
    struct loop_msg msg = { .run = unwatch_victim };
    struct watcher w = { .watch.on_ready = on_bytes, .loop = loop };
    int pair[2];
    struct err err;

    check_or_stop(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "pair");
    w.watch.fd = pair[0];
    posted_victim = &w;
    check_or_stop(write(pair[1], "x", 1) == 1, "write");
    check_or_stop(loop_watch(loop, &w.watch, EPOLLIN, &err) == OK, "watch");
    loop_post(loop, &msg);
    loop_run(loop);
    check(w.calls == 0, "%u calls", w.calls);
    loop_free(&loop);
    close(pair[0]);
    close(pair[1]);
}

/* -- messages ---------------------------------------------------------------------------------- */

enum { THREADS = 3, MESSAGES = 20000 };

struct letter {
    struct loop_msg msg;
    unsigned from, number;
};

static struct loop *mail_loop;
static unsigned mail_next[THREADS], mail_count;
static bool mail_in_order;
static _Atomic unsigned mail_seen; /* for posters that wait for their answer */

static void on_letter(struct loop_msg *msg)
{
    struct letter *l = CONTAINER_OF(msg, struct letter, msg);

    check(loop_is_mine(mail_loop), "on the loop's thread");
    mail_in_order &= mail_next[l->from]++ == l->number;
    free(l);
    atomic_store(&mail_seen, ++mail_count);
    if (mail_count == THREADS * MESSAGES)
        loop_stop(mail_loop);
}

static void post_letters(void *arg)
{
    unsigned from = *(unsigned *)arg;

    for (unsigned i = 0; i < MESSAGES; i++) {
        struct letter *l = malloc(sizeof *l);
        *l = (struct letter){ .msg.run = on_letter, .from = from, .number = i };
        loop_post(mail_loop, &l->msg);
        if (i % 64 == 0) /* let the loop fall asleep now and then */
            usleep(50);
    }
}

TEST(no_message_is_lost_or_reordered)
{
    struct env *env = env_real();
    struct worker *workers[THREADS] = { NULL };
    unsigned numbers[THREADS];

    mail_loop = make();
    mail_count = 0;
    mail_in_order = true;
    memset(mail_next, 0, sizeof mail_next);
    for (unsigned i = 0; i < THREADS; i++) {
        numbers[i] = i;
        check_or_stop(env->worker_start(env, &workers[i], "poster", post_letters, &numbers[i],
                                        NULL) == OK,
                      "start");
    }
    loop_run(mail_loop);
    for (unsigned i = 0; i < THREADS; i++)
        env->worker_join(env, &workers[i]);
    check(mail_count == THREADS * MESSAGES && mail_in_order, "%u messages", mail_count);
    loop_free(&mail_loop);
}

static void run_loop(void *arg)
{
    loop_run(arg);
}

/* One message at a time to a loop that sleeps: a lost wake-up would hang here. */
TEST(every_message_wakes_a_sleeping_loop)
{
    struct env *env = env_real();
    struct worker *worker = NULL;
    enum { ROUNDS = 5000 };

    mail_loop = make();
    mail_count = 0;
    memset(mail_next, 0, sizeof mail_next);
    atomic_store(&mail_seen, 0);
    check_or_stop(env->worker_start(env, &worker, "loop", run_loop, mail_loop, NULL) == OK,
                  "start");
    uint64_t due = clock_mono_ns() + 60 * NS_PER_S;
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct letter *l = malloc(sizeof *l);
        *l = (struct letter){ .msg.run = on_letter, .number = i };
        loop_post(mail_loop, &l->msg);
        while (atomic_load(&mail_seen) <= i && clock_mono_ns() < due)
            if (i % 2 == 0)
                sched_yield();
        check_or_stop(atomic_load(&mail_seen) == i + 1, "message %u did not arrive", i);
    }
    loop_stop(mail_loop);
    env->worker_join(env, &worker);
    loop_free(&mail_loop);
}

static void count_run(struct loop_msg *msg)
{
    (void)msg;
    mail_count++;
}

TEST(what_is_posted_too_late_runs_when_the_loop_is_freed)
{
    struct loop *loop = make();
    struct loop_msg msg = { .run = count_run };

    mail_count = 0;
    loop_post(loop, &msg);
    loop_free(&loop);
    check(mail_count == 1, "%u", mail_count);
}

TEST(loop_new_survives_every_fault)
{
    for_each_fault(nth) {
        struct loop *loop = NULL;
        struct err err = { 0 };
        enum err_code code = loop_new(&loop, env_real(), 0, &err);
        bool fired = fault_fired();
        check((code == OK) == (loop != NULL), "fault %u", nth);
        check(fired == (code != OK) && (code == OK || err.text[0] != '\0'), "fault %u", nth);
        loop_free(&loop);
        if (!fired)
            break;
    }
}

/* -- workers ----------------------------------------------------------------------------------- */

static struct worker *sleeper;
static _Atomic unsigned sleeps;

static void sleep_often(void *arg)
{
    struct env *env = arg;

    for (unsigned i = 0; i < 1000; i++) {
        env->worker_sleep(env, sleeper, UINT64_MAX);
        atomic_fetch_add(&sleeps, 1);
    }
}

TEST(a_worker_that_is_woken_first_does_not_sleep)
{
    struct env *env = env_real();

    atomic_store(&sleeps, 0);
    check_or_stop(env->worker_start(env, &sleeper, "a name of too many bytes", sleep_often, env,
                                    NULL) == OK,
                  "start");
    uint64_t due = clock_mono_ns() + 60 * NS_PER_S;
    while (atomic_load(&sleeps) < 1000 && clock_mono_ns() < due) {
        env->worker_wake(env, sleeper);
        if (test_random_below(4) == 0)
            sched_yield();
    }
    check(atomic_load(&sleeps) == 1000, "%u sleeps ended", atomic_load(&sleeps));
    env->worker_join(env, &sleeper);
    check(sleeper == NULL, "nulled");
}

static void sleep_until(void *arg)
{
    struct env *env = env_real();

    env->worker_sleep(env, sleeper, *(uint64_t *)arg);
}

TEST(a_worker_sleeps_until_its_time)
{
    struct env *env = env_real();
    uint64_t due = clock_mono_ns() + 20 * NS_PER_MS;

    check_or_stop(env->worker_start(env, &sleeper, "s", sleep_until, &due, NULL) == OK, "start");
    env->worker_join(env, &sleeper);
    check(clock_mono_ns() >= due, "woke too early");
}
