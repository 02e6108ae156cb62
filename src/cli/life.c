/* life.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/life.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "api/grpc.h"
#include "api/push.h"
#include "api/resume.h"
#include "api/upload.h"
#include "base/block.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/notify.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/stack.h"
#include "cli/stop.h"
#include "cli/upgrade.h"
#include "engine/engine.h"
#include "repository/repository.h"
#include "serve/serve.h"

enum {
    KEPT_UNUSED_S = 5,
    CHORES_S = 2,
    CANCEL_MS = 2000,
    BEGUN_ENDS_MS = 2000,  /* what was begun before the start failed */
    BEATS = 4,             /* signs of life in the time that systemd waits for one */
    STEP_MS = 50,          /* how often a drain looks at what else there is */
    OVERLAP_IDLE = 10,     /* times --drain-idle that idle connections are kept behind an upgrade */
    OVERLAP_NEW_MS = 1000, /* so long what is begun across an upgrade is taken as ever */
};

/* -- signs of life -------------------------------------------------------------------------------- */

static struct {
    uint64_t due_ns;
    bool was_late;
} beat;

/* systemd is told that we live only while every loop turns: one that hangs serves nobody. */
static void keep_alive(const struct life *life)
{
    uint64_t limit_ns = notify_watchdog_ns(), now_ns = clock_mono_ns();

    if (limit_ns == 0 || now_ns < beat.due_ns)
        return;
    beat.due_ns = now_ns + limit_ns / BEATS;
    uint64_t owed_ns = serve_beat(life->serve);
    bool is_late = owed_ns >= limit_ns / 2;
    if (is_late && !beat.was_late)
        log_error(
            "a loop has not turned for %llu ms: systemd's watchdog is told nothing until it does",
            (unsigned long long)(owed_ns / NS_PER_MS));
    beat.was_late = is_late;
    if (!is_late)
        notify("WATCHDOG=1");
}

static uint64_t next_beat_ns(uint64_t due_ns)
{
    return notify_watchdog_ns() != 0 ? MIN(due_ns, beat.due_ns) : due_ns;
}

/* Memory of large messages that nobody wanted for a while. */
static void give_memory_back(void)
{
    block_trim(clock_mono_ns() - KEPT_UNUSED_S * NS_PER_S);
    mem_trim();
}

/* -- draining ------------------------------------------------------------------------------------- */

/* "1 request", "2 requests" */
static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static void say_stopping(const struct life *life, int signal_number)
{
    uint64_t grace_ms = options_ms(life->options, OPT_DRAIN_TIMEOUT);
    uint64_t delay_ms = options_ms(life->options, OPT_DRAIN_DELAY);
    uint64_t under_way = engine_in_flight(life->stack->engine);

    if (delay_ms != 0)
        log_info("stopping: not ready any more, and serving for another %.4g s (--drain-delay)",
                 (double)delay_ms / 1e3);
    else if (under_way == 0)
        log_info("stopping: no request is with a model; one that is still arriving has up to %.4g s",
                 (double)grace_ms / 1e3);
    else
        log_info("stopping: waiting up to %.4g s for %llu request%s; %s again stops at once",
                 (double)grace_ms / 1e3, (unsigned long long)under_way, plural(under_way),
                 signal_number == SIGINT ? "Ctrl-C" : "SIGTERM");
}

/* Who watches is told before connections are told to end, and leaves then; one who reads nothing is not
 * waited for. */
static void wait_for_watchers(const struct life *life)
{
    static const struct timespec pause = { 0, 5 * (long)NS_PER_MS };

    for (unsigned i = 0; i < 100 && atomic_load(&life->watchers->now) != 0; i++)
        nanosleep(&pause, NULL);
}

/* Nothing that lasts is begun any more, and what lasts is told. */
static void tell_all(const struct life *life)
{
    atomic_store(life->is_draining, true);
    push_server(life->push, PUSH_SERVER_DRAINING);
    resumables_drain(life->resumables);
    uploads_drain(life->uploads);
}

/* True: every connection has ended. */
static bool wait_for_connections(const struct life *life, uint64_t due_ns)
{
    uint64_t now_ns;

    while ((now_ns = clock_mono_ns()) < due_ns) {
        if (serve_drain_wait(life->serve, MIN(due_ns, now_ns + STEP_MS * NS_PER_MS)))
            return true;
        keep_alive(life);
    }
    return serve_drain_wait(life->serve, due_ns);
}

static void cut(const struct life *life)
{
    uint64_t grace_ms = options_ms(life->options, OPT_DRAIN_TIMEOUT);
    struct serve_left left;

    serve_cut(life->serve, &left);
    if (left.requests > 0)
        log_warn(
            "cut after %.4g s (--drain-timeout): %u request%s had not ended, on %u connection%s",
            (double)grace_ms / 1e3, left.requests, plural(left.requests),
            left.connections - left.idle, plural(left.connections - left.idle));
    if (left.idle > 0)
        log_info(
            "closed after %.4g s (--drain-timeout): %u connection%s without a request, which had "
            "been asked to go",
            (double)grace_ms / 1e3, left.idle, plural(left.idle));
}

/* How many requests the engine still has then. */
static uint64_t wait_for_requests(const struct life *life, uint64_t due_ns)
{
    struct timespec nap = { .tv_nsec = (long)NS_PER_MS };
    uint64_t left;

    while ((left = engine_in_flight(life->stack->engine)) > 0 && clock_mono_ns() < due_ns)
        nanosleep(&nap, NULL);
    return left;
}

/* Requests whose connections were cut are cancelled, and end on their loops once the model lets go.
 * One that does not can be left to nobody: its thread still uses the model. */
static void wait_for_cancelled(const struct life *life)
{
    uint64_t left = wait_for_requests(life, clock_mono_ns() + CANCEL_MS * NS_PER_MS);

    if (left == 0)
        return;
    log_error("%llu request%s still running %d ms after being cancelled; ending without",
              (unsigned long long)left, plural(left), CANCEL_MS);
    _exit(EXIT_FAILED);
}

void life_drain(const struct life *life)
{
    uint64_t due_ns = clock_mono_ns() + options_number(life->options, OPT_DRAIN_TIMEOUT);

    tell_all(life);
    wait_for_watchers(life);
    serve_drain_begin(life->serve, options_ms(life->options, OPT_DRAIN_IDLE));
    if (!wait_for_connections(life, due_ns))
        cut(life);
}

void life_end_start(const struct life *life)
{
    uint64_t due_ns = clock_mono_ns() + BEGUN_ENDS_MS * NS_PER_MS;

    tell_all(life);
    serve_drain_begin(life->serve, 0);
    (void)serve_drain_wait(life->serve, due_ns);
    (void)wait_for_requests(life, due_ns);
}

static void stop_serving(const struct life *life)
{
    uint64_t delay_ns = options_number(life->options, OPT_DRAIN_DELAY);
    uint64_t due_ns = clock_mono_ns() + delay_ns, now_ns;

    say_stopping(life, stop_signal());
    notify("STOPPING=1\nSTATUS=stopping");
    atomic_store(life->is_draining, true); /* readiness is gone before anything else is */
    while ((now_ns = clock_mono_ns()) < due_ns) {
        struct timespec nap = { .tv_nsec = (long)MIN(due_ns - now_ns, STEP_MS * NS_PER_MS) };
        nanosleep(&nap, NULL);
        keep_alive(life);
    }
    life_drain(life);
}

/* A new program accepts by now. Those who are connected here go there with their next request. */
static void hand_over(const struct life *life)
{
    uint64_t grace_ns = options_number(life->options, OPT_DRAIN_TIMEOUT);
    uint64_t idle_ms = OVERLAP_IDLE * options_ms(life->options, OPT_DRAIN_IDLE);
    uint64_t due_ns = clock_mono_ns() + grace_ns, under_way = engine_in_flight(life->stack->engine);

    log_info("the new program serves: finishing %llu request%s, for up to %.4g s",
             (unsigned long long)under_way, plural(under_way), (double)grace_ns / 1e9);
    atomic_store(life->is_replaced, true);
    serve_keep_files(life->serve, true);
    serve_drain_begin(life->serve, MIN(idle_ms, grace_ns / 2 / NS_PER_MS));
    /* A client that has not heard yet may be beginning something on a connection of this program. */
    if (wait_for_connections(life, MIN(due_ns, clock_mono_ns() + OVERLAP_NEW_MS * NS_PER_MS)))
        return;
    tell_all(life);
    if (!wait_for_connections(life, due_ns))
        cut(life);
}

/* -- the new program ------------------------------------------------------------------------------ */

static bool is_ready_here(void *context, struct slice model, struct slice version)
{
    const struct life *life = context;
    struct repository_snapshot snapshot;
    bool is_ready = false;

    repository_snapshot_take(life->stack->repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count && !is_ready; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        is_ready = entry->state == MODEL_READY && slice_is(model, entry->name) &&
                   (version.size == 0 || slice_is(version, entry->version));
    }
    repository_snapshot_give(&snapshot);
    return is_ready;
}

static void begin_upgrade(const struct life *life, struct upgrade *upgrade)
{
    struct upgrade_settings settings = {
        .timeout_ns = options_number(life->options, OPT_UPGRADE_TIMEOUT),
        .sockets = life->sockets,
    };
    struct err err = { 0 };

    if (upgrade->pid != 0) {
        log_info("SIGUSR2: process %d is starting already", (int)upgrade->pid);
        return;
    }
    if (upgrade_begin(upgrade, &settings, &err) != OK)
        log_error("the upgrade failed, and this program goes on: %s", err.text);
}

/* True: it serves. */
static bool look_at_upgrade(const struct life *life, struct upgrade *upgrade)
{
    struct life borrowed = *life;
    struct err err = { 0 };

    if (upgrade->pid == 0)
        return false;
    switch (upgrade_look(upgrade, is_ready_here, &borrowed, &err)) {
    case UPGRADE_GOES_ON: return false;
    case UPGRADE_FAILED:
        log_error("the upgrade failed, and this program goes on: %s", err.text);
        return false;
    case UPGRADE_SERVES: break;
    }
    /* From here on systemd listens to the other one only; its queue keeps the order. */
    notify("MAINPID=%d\nSTATUS=another program takes over", (int)upgrade->pid);
    upgrade_finish(upgrade);
    return true;
}

static void reload(void)
{
    notify("RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=reading again",
           (unsigned long long)(clock_mono_ns() / NS_PER_US));
    bool is_whole = stop_reload();
    notify("READY=1\nSTATUS=%s",
           is_whole ? "serving" : "serving; the log says what could not be read again");
}

void life_run(const struct life *life)
{
    struct upgrade upgrade = { .fd = -1 };
    unsigned came = 0;
    bool is_replaced = false;

    notify("READY=1\nSTATUS=serving");
    while ((came & STOP_END) == 0 && !is_replaced) {
        uint64_t due_ns = next_beat_ns(clock_mono_ns() + CHORES_S * NS_PER_S);
        came = stop_wait(due_ns, upgrade.fd);
        if (came & STOP_RELOAD)
            reload();
        if ((came & STOP_UPGRADE) != 0 && (came & STOP_END) == 0)
            begin_upgrade(life, &upgrade);
        if ((came & STOP_END) == 0)
            is_replaced = look_at_upgrade(life, &upgrade);
        if (came == 0)
            give_memory_back();
        keep_alive(life);
    }
    if (is_replaced) {
        hand_over(life);
    } else {
        if (upgrade.pid != 0)
            log_info("stopping: process %d, which was to take over, ends too", (int)upgrade.pid);
        upgrade_leave(&upgrade);
        stop_serving(life);
    }
    engine_drain(life->stack->engine);
    wait_for_cancelled(life);
}
