/* engine.c - the engine itself: settings, the directory of models, the reaper, draining.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The reaper closes models whose last reference was dropped on a loop, because closing waits for
 * threads and devices, and a loop never waits.
 */
#include "engine/engine.h"

#include <string.h>

#include "base/arena.h"
#include "base/mem.h"
#include "engine/internal.h"

static void reaper_main(void *arg)
{
    struct engine *engine = arg;
    struct env *env = engine->env;

    for (;;) {
        struct mpsc_node *node = mpsc_take_all(&engine->reaper_queue);
        while (node != NULL) {
            struct model *model = CONTAINER_OF(node, struct model, reaper_node);
            node = node->next;
            model_close(model);
        }
        if (atomic_load(&engine->reaper_stops) && mpsc_is_empty(&engine->reaper_queue))
            return;
        env->worker_sleep(env, engine->reaper, UINT64_MAX);
    }
}

void engine_reap(struct engine *engine, struct model *model)
{
    mpsc_put(&engine->reaper_queue, &model->reaper_node);
    engine->env->worker_wake(engine->env, engine->reaper);
}

static const char *no_option(const char *name UNUSED)
{
    return NULL;
}

enum err_code engine_new(struct engine **ret, struct env *env,
                         const struct engine_settings *settings, struct err *err)
{
    struct engine *engine = mem_zalloc(sizeof *engine);

    if (engine == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the engine");
    engine->env = env;
    engine->settings = *settings;
    if (engine->settings.option == NULL)
        engine->settings.option = no_option;
    if (engine->settings.runtime_path == NULL)
        engine->settings.runtime_path = no_option;
    if (engine->settings.inline_typical_ns == 0)
        engine->settings.inline_typical_ns = 50000;
    if (engine->settings.inline_worst_ns == 0)
        engine->settings.inline_worst_ns = 200000;
    if (engine->settings.sessions_max == 0)
        engine->settings.sessions_max = SESSIONS_MAX;
    if (engine->settings.pieces_max == 0)
        engine->settings.pieces_max = PIECES_MAX;
    atomic_init(&engine->is_draining, false);
    atomic_init(&engine->in_flight, 0);
    atomic_init(&engine->reaper_stops, false);
    mpsc_init(&engine->reaper_queue);
    host_fill(&engine->host);
    model_host_fill(&engine->host);
    engine->host.option = engine->settings.option;
    engine->host.runtime_path = engine->settings.runtime_path;
    engine->loops_count = MAX(settings->loops_count, 1u);
    engine->loops = mem_aligned(64, engine->loops_count * sizeof *engine->loops);
    enum err_code code = OK;
    if (engine->loops == NULL)
        code = err_set(err, E_EXHAUSTED, "no memory for the engine");
    else
        memset(engine->loops, 0, engine->loops_count * sizeof *engine->loops);
    for (uint32_t i = 0; engine->loops != NULL && i < engine->loops_count; i++)
        loop_line_init(engine, &engine->loops[i]);
    if (code == OK)
        code = env->worker_start(env, &engine->reaper, "reaper", reaper_main, engine, err);
    if (code != OK) {
        mem_free(engine->loops);
        mem_free(engine);
        return code;
    }
    *ret = engine;
    return OK;
}

void engine_free(struct engine **slot)
{
    struct engine *engine = TAKE(*slot);

    if (engine == NULL)
        return;
    require(engine_in_flight(engine) == 0);
    atomic_store(&engine->reaper_stops, true);
    engine->env->worker_wake(engine->env, engine->reaper);
    engine->env->worker_join(engine->env, &engine->reaper);
    for (uint32_t i = 0; i < engine->loops_count; i++)
        line_deinit(&engine->loops[i].line);
    for (uint32_t i = 0; i < engine->loops_count; i++)
        for (uint32_t j = 0; j < engine->loops[i].arenas_count; j++)
            arena_free(&engine->loops[i].arenas[j]);
    mem_free(engine->loops);
    mem_free(engine);
}

void engine_watch_queues(struct engine *engine, struct engine_watch watch)
{
    engine->watch = watch;
}

void engine_set_directory(struct engine *engine, struct engine_directory directory)
{
    engine->directory = directory;
}

enum err_code engine_want_model(struct engine *engine, struct model **ret, struct slice name,
                                struct slice version, struct err *err)
{
    return engine->directory.want_model(engine->directory.context, ret, name, version, err);
}

const struct penstock_host *engine_host(struct engine *engine)
{
    return &engine->host;
}

void engine_drain(struct engine *engine)
{
    atomic_store(&engine->is_draining, true);
}

uint64_t engine_in_flight(const struct engine *engine)
{
    int64_t count = atomic_load_explicit(&engine->in_flight, memory_order_acquire);

    return count < 0 ? 0 : (uint64_t)count;
}

void engine_counts(const struct engine *engine, struct engine_counts *ret)
{
    int64_t open = atomic_load_explicit(&engine->sessions_open, memory_order_relaxed);

    *ret = (struct engine_counts){ .sessions_open = open < 0 ? 0 : (uint64_t)open };
    ret->sessions_refused = atomic_load_explicit(&engine->sessions_refused, memory_order_relaxed);
    for (uint32_t i = 0; i < engine->loops_count; i++) {
        const struct engine_loop *l = &engine->loops[i];
        ret->sessions_total += atomic_load_explicit(&l->sessions_total, memory_order_relaxed);
        ret->pieces_refused += atomic_load_explicit(&l->pieces_refused, memory_order_relaxed);
        ret->loops_waiting += atomic_load_explicit(&l->waiting, memory_order_relaxed);
        ret->loops_overloaded += atomic_load_explicit(&l->is_overloaded, memory_order_relaxed);
    }
}

/* -- what each loop keeps ------------------------------------------------------------------------ */

struct engine_loop *engine_loop_of(struct engine *engine, struct loop *loop)
{
    uint32_t index = loop_index(loop);

    require(index < engine->loops_count);
    return &engine->loops[index];
}

struct arena *engine_arena_take(struct engine *engine, struct loop *loop)
{
    struct engine_loop *l = engine_loop_of(engine, loop);

    if (l->arenas_count > 0)
        return l->arenas[--l->arenas_count];
    struct arena *arena = arena_new(PIECE_ARENA_FIRST, PIECE_ARENA_CAP);
    if (arena != NULL)
        arena_charge_to(arena, engine->settings.budget);
    return arena;
}

void engine_arena_give(struct engine *engine, struct loop *loop, struct arena **slot)
{
    struct engine_loop *l = engine_loop_of(engine, loop);
    struct arena *arena = TAKE(*slot);

    if (arena == NULL)
        return;
    arena_reset(arena);
    if (l->arenas_count < COUNT(l->arenas))
        l->arenas[l->arenas_count++] = arena;
    else
        arena_free(&arena);
}
