/* sched.c - threads one at a time, and time. SPDX-License-Identifier: Apache-2.0
 *
 * Threads are real (thread-locals and sanitizers stay what they are), but all sleep on a futex
 * of their own except the one that has the baton. Who gives it away draws the next from those
 * that are ready. When none is, time jumps to the next event or the next end of a wait; when
 * there is none of these either, everybody would wait for ever, and that is a failure of the
 * seed.
 *
 * Time passes with each call into the system, so that code that looks at the clock in a circle
 * comes to an end, and so that a run costs what it costs.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "test/sim/sim.h"

enum { THREADS_MAX = 512, STACK_BYTES = 1 << 20, TIME_MOST_S = 3600, CALLS_MOST = 20000000 };

enum state { READY, WAITING, DONE };

struct thread {
    pthread_t real;
    _Atomic uint32_t go;
    enum state state;
    const void *what; /* it waits for */
    const char *why;
    uint64_t due_ns;
    bool was_woken;
    bool is_detached, is_joined;
    void *(*main)(void *);
    void *arg, *result;
    uint64_t cpu_ns;
    uint32_t id;
    char name[16];
};

struct event {
    uint64_t at_ns, number;
    void (*fn)(void *);
    void *arg;
};

static struct {
    uint64_t seed, now_ns, wall_offset_ns, calls;
    uint64_t chances[CHANCES];
    struct thread *threads[THREADS_MAX];
    uint32_t threads_count, ready_count;
    struct thread *ready[THREADS_MAX];
    uint64_t soonest_ns;  /* end of a wait, at the earliest */
    struct event *events; /* a heap */
    size_t events_count, events_room;
    uint64_t events_number;
    uint64_t digest;
    uint32_t inside;
    bool is_verbose, is_failing, has_exited;
    _Atomic uint32_t is_over;
} sim;

static _Thread_local struct thread *self;

/* -- chance ------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t sim_draw(enum chance chance)
{
    return mix(&sim.chances[chance]);
}

__extension__ typedef unsigned __int128 wide;

uint64_t sim_draw_below(enum chance chance, uint64_t bound)
{
    return bound == 0 ? 0 : (uint64_t)(((wide)sim_draw(chance) * bound) >> 64);
}

uint64_t sim_draw_between(enum chance chance, uint64_t least, uint64_t most)
{
    return least + sim_draw_below(chance, most - least + 1);
}

bool sim_draw_ppm(enum chance chance, uint32_t ppm)
{
    return ppm != 0 && sim_draw_below(chance, 1000000) < ppm;
}

/* -- telling ----------------------------------------------------------------------------------- */

void sim_digest(const void *data, size_t size)
{
    const uint8_t *at = data;
    uint64_t digest = sim.digest;

    for (size_t i = 0; i < size; i++)
        digest = (digest ^ at[i]) * UINT64_C(0x100000001b3);
    sim.digest = digest;
}

void sim_digest_number(uint64_t number)
{
    sim.digest = (sim.digest ^ number) * UINT64_C(0x9e3779b97f4a7c15);
    sim.digest ^= sim.digest >> 29;
}

uint64_t sim_digest_value(void)
{
    return sim.digest;
}

static void say_line(const char *kind, const char *format, va_list args)
{
    char line[4096];
    int at = snprintf(line, sizeof line, "%12.6f %-8s %s", (double)sim.now_ns / 1e9 - 1000,
                      self != NULL ? self->name : "-", kind);

    at += vsnprintf(line + at, sizeof line - (size_t)at, format, args);
    size_t size = MIN((size_t)at, sizeof line - 2);
    line[size++] = '\n';
    sim_real_syscall(SYS_write, 2, line, size);
}

void sim_note(const char *format, ...)
{
    va_list args;

    if (!sim.is_verbose)
        return;
    va_start(args, format);
    say_line("", format, args);
    va_end(args);
}

static void say_threads(void)
{
    for (uint32_t i = 0; i < sim.threads_count; i++) {
        const struct thread *t = sim.threads[i];
        if (t->state != DONE)
            fprintf(stderr, "    thread %u %-15s %s%s%s\n", t->id, t->name,
                    t->state == READY ? "runs" : "waits for ", t->state == READY ? "" : t->why,
                    t == self ? " (this one)" : "");
    }
}

_Noreturn void sim_fail(const char *format, ...)
{
    char words[512];
    va_list args;

    sim_enter();
    if (!sim.is_failing) {
        sim.is_failing = true;
        va_start(args, format);
        say_line("FAILED: ", format, args);
        va_end(args);
        sim_weather_text(words, sizeof words);
        fprintf(stderr, "    seed %llu after %.6f s and %llu calls; weather: %s\n",
                (unsigned long long)sim.seed, (double)sim.now_ns / 1e9 - 1000,
                (unsigned long long)sim.calls, words);
        if (sim_fault_plan.has_fired)
            fprintf(stderr, "    fault %llu: %s\n", (unsigned long long)sim_fault_plan.nth,
                    sim_fault_plan.what);
        say_threads();
        if (sim.is_verbose)
            sim_memory_say_live();
        fflush(stderr);
    }
    syscall(SYS_exit_group, 1);
    __builtin_unreachable();
}

/* -- inside and outside ------------------------------------------------------------------------ */

bool sim_is_in(void)
{
    return self != NULL && sim.inside == 0;
}

void sim_enter(void)
{
    sim.inside++;
}

void sim_leave(void)
{
    sim.inside--;
}

uint64_t sim_now(void)
{
    return sim.now_ns;
}

uint64_t sim_wall(void)
{
    if (sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.jump_ppm)) {
        uint64_t by = sim_draw_between(CHANCE_SCHEDULE, 1, 7200) * SIM_S;
        sim.wall_offset_ns += sim_draw(CHANCE_SCHEDULE) % 2 == 0 ? by : -by;
        sim_note("the wall's clock jumps to %llu",
                 (unsigned long long)(sim.wall_offset_ns + sim.now_ns));
    }
    return sim.wall_offset_ns + sim.now_ns;
}

uint64_t sim_seed(void)
{
    return sim.seed;
}

uint64_t sim_calls(void)
{
    return sim.calls;
}

uint32_t sim_self_id(void)
{
    return self == NULL ? UINT32_MAX : self->id;
}

uint64_t sim_self_cpu(void)
{
    return self == NULL ? 0 : self->cpu_ns;
}

/* -- events ------------------------------------------------------------------------------------ */

static bool is_sooner(const struct event *a, const struct event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->number < b->number;
}

void sim_after(uint64_t ns, void (*fn)(void *arg), void *arg)
{
    struct event event = { sim.now_ns + ns, sim.events_number++, fn, arg };
    size_t at = sim.events_count++;

    if (sim.events_count > sim.events_room) {
        sim.events_room = MAX(2 * sim.events_room, (size_t)256);
        sim.events = sim_real_resize(sim.events, sim.events_room * sizeof *sim.events);
    }
    while (at > 0 && is_sooner(&event, &sim.events[(at - 1) / 2])) {
        sim.events[at] = sim.events[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    sim.events[at] = event;
}

static struct event take_event(void)
{
    struct event first = sim.events[0], last = sim.events[--sim.events_count];
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < sim.events_count && is_sooner(&sim.events[child + 1], &sim.events[child]))
            child++;
        if (child >= sim.events_count || !is_sooner(&sim.events[child], &last))
            break;
        sim.events[at] = sim.events[child];
        at = child;
    }
    sim.events[at] = last;
    return first;
}

/* -- who is ready ------------------------------------------------------------------------------ */

static void make_ready(struct thread *t, bool was_woken)
{
    t->state = READY;
    t->was_woken = was_woken;
    t->what = NULL;
    sim.ready[sim.ready_count++] = t;
}

static void make_unready(struct thread *t)
{
    for (uint32_t i = 0; i < sim.ready_count; i++)
        if (sim.ready[i] == t) {
            sim.ready[i] = sim.ready[--sim.ready_count];
            return;
        }
}

/* What is due by now: events, and waits that are over. */
static void happen(void)
{
    while (sim.events_count > 0 && sim.events[0].at_ns <= sim.now_ns) {
        struct event event = take_event();
        event.fn(event.arg);
    }
    if (sim.soonest_ns > sim.now_ns)
        return;
    sim.soonest_ns = SIM_NEVER;
    for (uint32_t i = 0; i < sim.threads_count; i++) {
        struct thread *t = sim.threads[i];
        if (t->state != WAITING)
            continue;
        if (t->due_ns <= sim.now_ns)
            make_ready(t, false);
        else
            sim.soonest_ns = MIN(sim.soonest_ns, t->due_ns);
    }
}

/* The first thread has ended, and what is left of the others is nobody's to wait for. */
static bool is_process_over(void)
{
    for (uint32_t i = 0; i < sim.threads_count; i++)
        if (sim.threads[i]->state != DONE && (i == 0 || !sim.threads[i]->is_detached))
            return false;
    return true;
}

static struct thread *pick(void)
{
    for (;;) {
        happen();
        if (sim.ready_count > 0)
            return sim.ready[sim_draw_below(CHANCE_SCHEDULE, sim.ready_count)];
        if (is_process_over())
            return NULL;
        uint64_t next = sim.soonest_ns;
        if (sim.events_count > 0)
            next = MIN(next, sim.events[0].at_ns);
        if (next == SIM_NEVER)
            sim_fail("everybody waits, and nothing will happen any more");
        if (next > (1000 + TIME_MOST_S) * SIM_S)
            sim_fail("it has not come to an end within %d s", TIME_MOST_S);
        sim.now_ns = MAX(next, sim.now_ns);
    }
}

static void futex_wait(_Atomic uint32_t *word)
{
    while (atomic_load_explicit(word, memory_order_acquire) == 0)
        sim_real_syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    atomic_store_explicit(word, 0, memory_order_relaxed);
}

static void futex_wake(_Atomic uint32_t *word)
{
    atomic_store_explicit(word, 1, memory_order_release);
    sim_real_syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Gives the baton to the next; returns when it comes back. `inside` belongs to who holds it. */
static void hand_over(void)
{
    uint32_t inside = sim.inside;
    bool will_return = self != NULL && self->state != DONE;

    sim.inside = 1;
    struct thread *next = pick();
    if (next != self) {
        sim_digest_number(next == NULL ? UINT64_MAX : next->id);
        sim.inside = 0; /* every other left by this function, or begins */
        if (next == NULL)
            futex_wake(&sim.is_over);
        else
            futex_wake(&next->go);
        if (!will_return)
            return;
        futex_wait(&self->go);
    }
    sim.inside = inside;
}

void sim_yield(void)
{
    if (self != NULL && sim.ready_count > 1)
        hand_over();
}

void sim_call(void)
{
    uint64_t ns = 1 + sim_draw_below(CHANCE_SCHEDULE, 2 * sim_weather.step_ns);
    int error = errno; /* what happens meanwhile is other people's business, on our stack */

    if (++sim.calls > CALLS_MOST)
        sim_fail("it has not come to an end within %d calls", CALLS_MOST);
    if (UNLIKELY(sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.stall_ppm)))
        ns += sim_draw_below(CHANCE_SCHEDULE, sim_weather.stall_ns);
    sim.now_ns += ns;
    self->cpu_ns += ns;
    if ((sim.events_count > 0 && sim.events[0].at_ns <= sim.now_ns) ||
        sim.soonest_ns <= sim.now_ns) {
        sim.inside++;
        happen();
        sim.inside--;
    }
    if (sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.preempt_ppm))
        sim_yield();
    errno = error;
}

bool sim_wait(const void *what, uint64_t due_ns, const char *why)
{
    self->what = what;
    self->why = why;
    self->due_ns = due_ns;
    self->state = WAITING;
    sim.soonest_ns = MIN(sim.soonest_ns, due_ns);
    make_unready(self);
    hand_over();
    return self->was_woken;
}

uint32_t sim_wake(const void *what, uint32_t most)
{
    struct thread *found[THREADS_MAX];
    uint32_t count = 0, woken = 0;

    for (uint32_t i = 0; i < sim.threads_count; i++)
        if (sim.threads[i]->state == WAITING && sim.threads[i]->what == what)
            found[count++] = sim.threads[i];
    while (count > 0 && woken < most) {
        uint32_t at = (uint32_t)sim_draw_below(CHANCE_SCHEDULE, count);
        make_ready(found[at], true);
        found[at] = found[--count];
        woken++;
    }
    return woken;
}

/* -- life of threads --------------------------------------------------------------------------- */

uint32_t sim_threads_left(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < sim.threads_count; i++)
        count += sim.threads[i]->state != DONE;
    return count;
}

static void *thread_main(void *arg)
{
    struct thread *t = arg;

    self = t;
    futex_wait(&t->go);
    t->result = t->main(t->arg);
    sim_enter();
    sim_note("ends");
    t->state = DONE;
    make_unready(t);
    sim_wake(t, UINT32_MAX);
    sim_leave();
    hand_over();
    self = NULL; /* libc's end of a thread is its own business */
    return NULL;
}

int __real_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*main)(void *),
                          void *arg);
int __real_pthread_join(pthread_t thread, void **ret);

int sim_thread_start(uint64_t *ret_id, void *(*main)(void *), void *arg, bool is_detached)
{
    pthread_attr_t attr;
    struct thread *t;

    if (sim.threads_count == THREADS_MAX)
        sim_fail("more than %d threads were started", THREADS_MAX);
    sim_enter();
    t = sim_real_alloc(sizeof *t);
    t->main = main;
    t->arg = arg;
    t->id = sim.threads_count;
    t->is_detached = is_detached;
    snprintf(t->name, sizeof t->name, "t%u", t->id);
    sim.threads[sim.threads_count++] = t;
    make_ready(t, false);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int error = __real_pthread_create(&t->real, &attr, thread_main, t);
    pthread_attr_destroy(&attr);
    if (error != 0)
        sim_fail("the system gives no thread: %s", strerror(error));
    *ret_id = t->id;
    sim_leave();
    return 0;
}

void *sim_thread_join(uint64_t id)
{
    struct thread *t = id < sim.threads_count ? sim.threads[id] : NULL;

    if (t == NULL || t->is_detached || t->is_joined)
        sim_fail("joins a thread that is not there (%llu)", (unsigned long long)id);
    t->is_joined = true;
    while (t->state != DONE)
        sim_wait(t, SIM_NEVER, "the end of a thread");
    return t->result;
}

void sim_thread_name(uint64_t id, const char *name)
{
    if (id < sim.threads_count)
        snprintf(sim.threads[id]->name, sizeof sim.threads[id]->name, "%s", name);
}

void sim_begin(uint64_t seed, bool is_verbose)
{
    uint64_t state = seed ^ UINT64_C(0x5851f42d4c957f2d);

    memset(&sim, 0, sizeof sim);
    sim.seed = seed;
    sim.is_verbose = is_verbose;
    for (int i = 0; i < CHANCES; i++)
        sim.chances[i] = mix(&state);
    sim.now_ns = 1000 * SIM_S;
    sim.wall_offset_ns = UINT64_C(1800000000) * SIM_S;
    sim.soonest_ns = SIM_NEVER;
    sim.digest = UINT64_C(0xcbf29ce484222325);
}

void sim_exit(void)
{
    sim_enter();
    sim.has_exited = true;
    futex_wake(&sim.is_over);
    for (;;)
        futex_wait(&self->go); /* nobody wakes it */
}

bool sim_has_exited(void)
{
    return sim.has_exited;
}

void sim_run(void *(*main)(void *), void *arg)
{
    uint64_t id;

    sim_thread_start(&id, main, arg, false);
    sim_thread_name(id, "main");
    hand_over();
    futex_wait(&sim.is_over);
    for (uint32_t i = 0; i < sim.threads_count && !sim.has_exited; i++) {
        if (!sim.threads[i]->is_joined && !sim.threads[i]->is_detached && i != 0)
            sim_fail("thread %s was never joined", sim.threads[i]->name);
        if (sim.threads[i]->state == DONE)
            __real_pthread_join(sim.threads[i]->real, NULL);
    }
}
