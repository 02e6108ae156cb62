/* loop.c - one thread, one epoll; loop.h says what it offers. SPDX-License-Identifier: Apache-2.0
 *
 * Waking. A poster puts its message into the queue and then looks whether the loop sleeps; the loop
 * says that it will sleep and then looks whether the queue is empty. Both are sequentially
 * consistent, so at least one of them sees the other: either the loop does not sleep, or the poster
 * writes to the eventfd. Only the first poster after the loop went to sleep pays for the write.
 *
 * Watches. epoll gives back the address of the loop_fd. One that is unwatched while its event still
 * lies in this turn's array is struck out of the array, so its memory may go at once.
 *
 * Timers are a heap of (due, timer); each timer knows its place, so stopping needs no search. Four
 * children a node: what moves is half as much as with two, and each move writes to a timer that is
 * rarely in the cache (2,000 paced streams).
 *
 * Waits end at the next quarter of a millisecond behind the soonest timer: streams that are due close
 * together are served in one turn, and none comes late by more than its reader could tell.
 */
#include "io/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"

enum { READY_MAX = 128, TIMERS_FIRST = 64, CHILDREN = 4 };

#define WAIT_STEP_NS UINT64_C(250000)
#define LONG_NS NS_PER_MS
#define WAIT_MOST_NS (UINT64_C(3600) * NS_PER_S)

struct due {
    uint64_t due_ns;
    struct timer *timer;
};

struct loop {
    int epoll_fd, wake_fd;
    uint32_t index;
    struct env *env;
    uint64_t now_ns;
    uint64_t turn_ns; /* when the last turn began */
    uint64_t turns;
    uint64_t began_ns, ended_ns; /* the present turn, or the last one */
    uint64_t told_ns;
    uint64_t seen_ns; /* all that was ready before that has been handled, or is in this turn */
    uint64_t oldest_ns, arrived_ns;
    struct loop_stats stats;
    struct list early, deferred;
    struct due *timers; /* owned; a heap, the soonest first */
    uint32_t timers_count, timers_room;
    int ready_at, ready_count;
    bool is_running;
    bool
        is_coarse; /* no epoll_pwait2 here (Linux before 5.11, or a sandbox): waits whole milliseconds */
    /* Other threads write here: on a line of its own. */
    _Alignas(64) struct mpsc posted;
    _Atomic bool is_asleep, is_stopping;
    _Alignas(64) struct epoll_event ready[READY_MAX];
};

static _Thread_local struct loop *current;

enum err_code loop_new(struct loop **ret, struct env *env, uint32_t index, struct err *err)
{
    struct loop *loop = mem_aligned(64, sizeof *loop);
    /* Edge-triggered: each write to the eventfd is an event, and nobody needs to read it. */
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = NULL };

    if (loop == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for an event loop");
    memset(loop, 0, sizeof *loop);
    loop->env = env;
    loop->index = index;
    loop->now_ns = loop->turn_ns = loop->began_ns = loop->ended_ns = loop->seen_ns = env->mono_ns(env);
    loop->oldest_ns = loop->arrived_ns = loop->now_ns;
    list_init(&loop->early);
    list_init(&loop->deferred);
    mpsc_init(&loop->posted);
    loop->timers_room = TIMERS_FIRST;
    loop->timers = mem_alloc(TIMERS_FIRST * sizeof *loop->timers);
    loop->epoll_fd = fault_hit() ? -1 : epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = fault_hit() ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->timers == NULL || loop->epoll_fd < 0 || loop->wake_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) != 0) {
        err_set(err, E_EXHAUSTED, "cannot make an event loop: %s; see `ulimit -n`",
                loop->timers == NULL ? "no memory" : strerror(errno));
        loop_free(&loop);
        return E_EXHAUSTED;
    }
    *ret = loop;
    return OK;
}

static void run_posted(struct loop *loop)
{
    struct mpsc_node *node = mpsc_take_all(&loop->posted);

    while (node != NULL) {
        struct loop_msg *msg = CONTAINER_OF(node, struct loop_msg, node);
        node = node->next; /* before run, which may free it */
        msg->run(msg);
    }
}

/* Once each: what is put off to the same list while they run waits for the next turn. */
static void run_list(struct list *list)
{
    struct list now;
    struct list_node *node;

    if (list_is_empty(list))
        return;
    now.head.next = list->head.next;
    now.head.prev = list->head.prev;
    now.head.next->prev = now.head.prev->next = &now.head;
    list_init(list);
    while ((node = list_pop(&now)) != NULL) {
        struct loop_task *task = CONTAINER_OF(node, struct loop_task, node);
        task->run(task);
    }
}

static void run_deferred(struct loop *loop)
{
    run_list(&loop->early);
    run_list(&loop->deferred);
}

static bool has_deferred(const struct loop *loop)
{
    return !list_is_empty(&loop->early) || !list_is_empty(&loop->deferred);
}

void loop_free(struct loop **slot)
{
    struct loop *loop = TAKE(*slot);

    if (loop == NULL)
        return;
    require(!loop->is_running);
    /* What was posted after the last turn still owns things: its run gives them back. */
    struct loop *before = current;
    current = loop;
    for (int round = 0; round < 1000; round++) {
        run_posted(loop);
        run_deferred(loop);
        if (mpsc_is_empty(&loop->posted) && !has_deferred(loop))
            break;
    }
    current = before;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    mem_free(loop->timers);
    mem_free(loop);
}

static void wake(struct loop *loop)
{
    const uint64_t one = 1;

    if (atomic_load(&loop->is_asleep) && atomic_exchange(&loop->is_asleep, false)) {
        /* It cannot fail but for a counter at its end, which wakes as well. */
        ssize_t wrote = write(loop->wake_fd, &one, sizeof one);
        (void)wrote;
    }
}

void loop_post(struct loop *loop, struct loop_msg *msg)
{
    if (mpsc_put(&loop->posted, &msg->node))
        wake(loop);
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->is_stopping, true);
    wake(loop);
}

static void timer_run(struct loop *loop)
{
    /* Counted, so that one which starts itself anew as already due waits for the next turn. */
    uint32_t most = loop->timers_count;

    /* One that was started as due long ago is late since the turn that started it. */
    if (most > 0 && loop->timers[0].due_ns <= loop->now_ns)
        stat_histogram_add(&loop->stats.lags,
                           loop->now_ns - MAX(loop->timers[0].due_ns, loop->turn_ns));
    while (most-- > 0 && loop->timers_count > 0 && loop->timers[0].due_ns <= loop->now_ns) {
        struct timer *timer = loop->timers[0].timer;
        timer_stop(loop, timer);
        timer->on_due(timer);
    }
}

/* How long to wait for the soonest timer; UINT64_MAX: there is none. */
static uint64_t wait_ns(const struct loop *loop)
{
    if (loop->timers_count == 0)
        return UINT64_MAX;
    uint64_t due = loop->timers[0].due_ns;
    if (due <= loop->now_ns)
        return 0;
    uint64_t ns = MIN(due - loop->now_ns, WAIT_MOST_NS);
    return (ns + WAIT_STEP_NS - 1) / WAIT_STEP_NS * WAIT_STEP_NS;
}

/* Not by libc's functions: those are cancellation points, with locked instructions. */
static int wait_ready(struct loop *loop, uint64_t ns)
{
    if (LIKELY(!loop->is_coarse)) {
        struct timespec time = { .tv_sec = (time_t)(ns / NS_PER_S),
                                 .tv_nsec = (long)(ns % NS_PER_S) };
        int count = (int)syscall(SYS_epoll_pwait2, loop->epoll_fd, loop->ready, READY_MAX,
                                 ns == UINT64_MAX ? NULL : &time, NULL, 8);
        if (LIKELY(count >= 0 || (errno != ENOSYS && errno != EPERM)))
            return count;
        loop->is_coarse = true;
    }
    int ms = ns == UINT64_MAX ? -1 : (int)((ns + NS_PER_MS - 1) / NS_PER_MS);
    return (int)syscall(SYS_epoll_pwait, loop->epoll_fd, loop->ready, READY_MAX, ms, NULL, 8);
}

/* Who has waited found nothing at first: what came then has come now. */
static void note_arrival(struct loop *loop, int count, bool has_waited)
{
    uint64_t now = loop->now_ns;

    loop->oldest_ns = has_waited ? now : loop->seen_ns;
    loop->arrived_ns = loop->oldest_ns + (now - loop->oldest_ns) / 2;
    if (count < READY_MAX) /* else more was ready than was told */
        loop->seen_ns = now;
}

static void turn(struct loop *loop)
{
    uint64_t wait = 0;

    if (!has_deferred(loop) && (wait = wait_ns(loop)) != 0) {
        atomic_store(&loop->is_asleep, true);
        if (!mpsc_is_empty(&loop->posted) || atomic_load(&loop->is_stopping))
            wait = 0;
    }
    /* Behind a long turn it matters whether something was ready already, and time does not tell: the thread may
     * not have been scheduled. Behind a short one it makes no difference. */
    int count = 0;
    bool was_long = loop->ended_ns - loop->began_ns > LONG_NS;
    if (UNLIKELY(was_long && wait != 0))
        count = wait_ready(loop, 0);
    bool has_waited = wait != 0 && count == 0;
    if (LIKELY(count == 0))
        count = wait_ready(loop, wait);
    atomic_store_explicit(&loop->is_asleep, false, memory_order_relaxed);
    uint64_t begun_ns = loop->now_ns = loop->env->mono_ns(loop->env);
    loop->turns++;
    require(count >= 0 || errno == EINTR);
    note_arrival(loop, count, has_waited);
    loop->began_ns = begun_ns;

    loop->ready_count = count; /* before anything runs that may unwatch */
    loop->ready_at = -1;
    timer_run(loop);
    loop->turn_ns = begun_ns;
    run_posted(loop);
    for (loop->ready_at = 0; loop->ready_at < loop->ready_count; loop->ready_at++) {
        struct epoll_event *event = &loop->ready[loop->ready_at];
        struct loop_fd *watch = event->data.ptr;
        if (LIKELY(watch != NULL))
            watch->on_ready(watch, event->events);
    }
    loop->ready_count = loop->ready_at = 0;
    run_deferred(loop);
    loop->ended_ns = loop->env->mono_ns(loop->env);
    stat_histogram_add(&loop->stats.turns, loop->ended_ns - begun_ns);
}

void loop_run(struct loop *loop)
{
    require(current == NULL && !loop->is_running);
    current = loop;
    loop->is_running = true;
    while (!atomic_load_explicit(&loop->is_stopping, memory_order_relaxed))
        turn(loop);
    atomic_store(&loop->is_stopping, false);
    loop->is_running = false;
    current = NULL;
}

uint32_t loop_index(const struct loop *loop)
{
    return loop->index;
}

struct env *loop_env(const struct loop *loop)
{
    return loop->env;
}

const struct loop_stats *loop_stats(const struct loop *loop)
{
    return &loop->stats;
}

struct loop *loop_current(void)
{
    return current;
}

bool loop_is_mine(const struct loop *loop)
{
    return current == loop;
}

uint64_t loop_turn(void)
{
    return current == NULL ? 0 : current->turns;
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

uint64_t loop_arrived_ns(const struct loop *loop)
{
    return loop->arrived_ns;
}

uint64_t loop_oldest_ns(const struct loop *loop)
{
    return loop->oldest_ns;
}

uint64_t loop_refresh_ns(struct loop *loop)
{
    return loop->now_ns = loop->env->mono_ns(loop->env);
}

void loop_tell_ns(struct loop *loop, uint64_t ns)
{
    loop->told_ns = ns;
}

uint64_t loop_told_ns(const struct loop *loop)
{
    return MAX(loop->told_ns, loop->now_ns);
}

/* While it does not run, whoever sets it up may touch it. */
static void require_mine(const struct loop *loop)
{
    require(current == loop || !loop->is_running);
}

enum err_code loop_watch(struct loop *loop, struct loop_fd *watch, uint32_t events, struct err *err)
{
    struct epoll_event event = { .events = events, .data.ptr = watch };

    require_mine(loop);
    if (fault_hit() || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) != 0)
        return err_set(err, E_EXHAUSTED, "cannot watch a descriptor: %s", strerror(errno));
    watch->events = events;
    return OK;
}

void loop_rewatch(struct loop *loop, struct loop_fd *watch, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.ptr = watch };

    require_mine(loop);
    if (watch->events == events)
        return;
    require(epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) == 0);
    watch->events = events;
}

/* What was collected for it in this turn, it is not told of. */
static void strike_out(struct loop *loop, const struct loop_fd *watch)
{
    for (int i = loop->ready_at + 1; i < loop->ready_count; i++)
        if (loop->ready[i].data.ptr == watch)
            loop->ready[i].data.ptr = NULL;
}

bool loop_has_more(const struct loop *loop)
{
    return loop->ready_at + 1 < loop->ready_count;
}

void loop_unwatch(struct loop *loop, struct loop_fd *watch)
{
    struct epoll_event none = { 0 };

    require_mine(loop);
    require(epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, &none) == 0);
    strike_out(loop, watch);
}

void loop_pass(struct loop *loop, struct loop_fd *from, struct loop_fd *to)
{
    struct epoll_event event = { .events = from->events, .data.ptr = to };

    require_mine(loop);
    require(epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, from->fd, &event) == 0);
    to->fd = from->fd;
    to->events = from->events;
    strike_out(loop, from);
    from->fd = -1;
}

static void place(struct loop *loop, uint32_t at, struct due due)
{
    loop->timers[at] = due;
    due.timer->slot = at + 1;
}

/* Moves the hole at `at` up or down to where `due` belongs. */
static void settle(struct loop *loop, uint32_t at, struct due due)
{
    while (at > 0 && due.due_ns < loop->timers[(at - 1) / CHILDREN].due_ns) {
        place(loop, at, loop->timers[(at - 1) / CHILDREN]);
        at = (at - 1) / CHILDREN;
    }
    for (;;) {
        uint32_t child = CHILDREN * at + 1, end = MIN(child + CHILDREN, loop->timers_count);
        for (uint32_t i = child + 1; i < end; i++)
            if (loop->timers[i].due_ns < loop->timers[child].due_ns)
                child = i;
        if (child >= loop->timers_count || loop->timers[child].due_ns >= due.due_ns)
            break;
        place(loop, at, loop->timers[child]);
        at = child;
    }
    place(loop, at, due);
}

enum err_code timer_start(struct loop *loop, struct timer *timer, uint64_t due_ns, struct err *err)
{
    require_mine(loop);
    timer->due_ns = due_ns;
    if (timer->slot != 0) {
        settle(loop, timer->slot - 1, (struct due){ due_ns, timer });
        return OK;
    }
    if (loop->timers_count == loop->timers_room) {
        struct due *more = mem_resize(loop->timers, 2 * loop->timers_room * sizeof *more);
        if (more == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for one more timer");
        loop->timers = more;
        loop->timers_room *= 2;
    }
    loop->timers_count++;
    settle(loop, loop->timers_count - 1, (struct due){ due_ns, timer });
    return OK;
}

void timer_stop(struct loop *loop, struct timer *timer)
{
    uint32_t at = timer->slot;

    if (at == 0)
        return;
    require_mine(loop);
    timer->slot = 0;
    struct due last = loop->timers[--loop->timers_count];
    if (last.timer != timer)
        settle(loop, at - 1, last);
}

void loop_defer(struct loop *loop, struct loop_task *task)
{
    require_mine(loop);
    if (!list_has(&task->node))
        list_push(&loop->deferred, &task->node);
}

void loop_defer_early(struct loop *loop, struct loop_task *task)
{
    require_mine(loop);
    if (!list_has(&task->node))
        list_push(&loop->early, &task->node);
}

void loop_undefer(struct loop_task *task)
{
    list_remove(&task->node);
}
