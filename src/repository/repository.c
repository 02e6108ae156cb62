/* repository.c - loading what scan.c found, and the table that everybody reads.
 *
 * The table is immutable and exchanged whole. A reader must be able to look into it without asking
 * for a lock that all others ask for, and the exchange must know when nobody looks into the old one
 * any more. So there are as many small spin locks as there are stripes: a thread takes the one it
 * was given for life, for some tens of nanoseconds, and the exchange, having put the new table in
 * place, passes once through all of them. Behind that nobody has begun with the old table and not
 * finished. Snapshots hold a counted reference for as long as they like.
 *
 * Locks, all leaves: a stripe (readers, exchange), `loading` (between loaders and the starting
 * thread).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "repository/repository.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/builtin.h"
#include "base/arena.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "io/env.h"
#include "model/card.h"
#include "model/config.h"
#include "model/nearest.h"
#include "model/service.h"
#include "repository/beneath.h"
#include "repository/scan.h"

enum {
    STRIPES = 32,
    LOAD_THREADS_MAX = 16,
    BACKENDS_MAX = 64,
    SCAN_BYTES_MAX = 256 << 20,
    MODEL_ARENA_FIRST = 2048,
    MODEL_ARENA_MAX = 256 << 20,
    LABELS_BYTES_MAX = 16 << 20,
    LOADING_RETRY_MS = 1000
};

/* A version that is served, or would be. */
struct slot {
    const struct found *found;
    const struct found_version *version;
    enum model_state state; /* guarded by repository.loading, as the rest */
    char *reason;           /* owned; NULL: none */
    struct model *model;    /* one reference */
    const char *service;    /* signature.service; fixed when found */
    enum model_state told;  /* what the watch was told; the starting thread's */
};

/* The versions of one name: a run of the entries. */
struct named {
    uint32_t first, count;
    uint32_t newest; /* index of the newest ready entry; UINT32_MAX: none is */
};

struct table {
    atomic_uint refs;
    uint32_t count;
    bool is_ready;
    struct map *by_name; /* -> struct named */
    struct named *named;
    uint64_t *numbers; /* version of each entry, for the lookup */
    struct repository_entry entries[];
};

struct stripe {
    _Alignas(64) atomic_flag taken;
};

struct repository {
    struct repository_settings settings;
    struct arena *arena; /* what scan found: lives as long as the repository */
    struct scan scan;
    struct map *by_service; /* -> struct found; read-only once open */
    const struct penstock_backend *backends[BACKENDS_MAX];
    char backends_err[ERR_TEXT_MAX];
    uint32_t slots_count, cut_count;
    struct slot *slots;  /* by name, then version */
    struct slot **order; /* small ones first */

    pthread_mutex_t loading;
    pthread_cond_t loaded;
    uint32_t next, done; /* of order; guarded by loading */
    struct repository_watch watch; /* the starting thread's */

    _Atomic(struct table *) table;
    struct stripe stripes[STRIPES];
};

const char *model_state_name(enum model_state state)
{
    static const char *const names[] = { "", "LOADING", "READY", "UNAVAILABLE", "UNLOADING" };

    return (unsigned)state < COUNT(names) ? names[state] : "";
}

/* -- stripes ----------------------------------------------------------------------------------- */

static atomic_uint stripes_given;
static _Thread_local uint32_t stripe_of_thread; /* 1 + index; 0: none yet */

static void stripe_lock(struct stripe *stripe)
{
    unsigned tries = 0;

    /* Two threads share a stripe only when there are more than STRIPES; the one that holds it may
     * have been put to sleep by the kernel, so do not spin for long. */
    while (atomic_flag_test_and_set_explicit(&stripe->taken, memory_order_acquire)) {
        if (++tries % 64 == 0)
            sched_yield();
    }
}

static void stripe_unlock(struct stripe *stripe)
{
    atomic_flag_clear_explicit(&stripe->taken, memory_order_release);
}

static struct stripe *my_stripe(struct repository *repository)
{
    if (UNLIKELY(stripe_of_thread == 0))
        stripe_of_thread =
            atomic_fetch_add_explicit(&stripes_given, 1, memory_order_relaxed) % STRIPES + 1;
    return &repository->stripes[stripe_of_thread - 1];
}

/* -- tables ------------------------------------------------------------------------------------ */

static void table_unref(struct table **slot)
{
    struct table *table = TAKE(*slot);

    if (table == NULL || atomic_fetch_sub_explicit(&table->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < table->count; i++)
        model_unref(&table->entries[i].model);
    map_free(&table->by_name);
    mem_free(table->named);
    mem_free(table->numbers);
    mem_free(table);
}

static void fill_entry(struct repository_entry *entry, const struct slot *slot)
{
    *entry = (struct repository_entry){
        .name = slot->found->name,
        .version = slot->version->text,
        .state = slot->state,
        .reason = slot->reason == NULL ? "" : slot->reason,
        .model = slot->state == MODEL_READY ? model_ref(slot->model) : NULL,
        .folder = slot->found->folder,
        .path = slot->version->path,
        .backend = slot->found->backend == NULL ? NULL : slot->found->backend->name,
        .backend_why = slot->found->backend_why,
        .config_file = slot->found->config_file,
        .card_file = slot->found->card_file,
        .config_keys = slot->found->config_keys,
    };
}

/* Under `loading`. */
static enum err_code table_new(struct table **ret, const struct repository *r, struct err *err)
{
    CLEANUP(table_unref)
    struct table *table = mem_zalloc(sizeof *table + r->slots_count * sizeof table->entries[0]);
    struct named *named = NULL;
    uint32_t names = 0;

    if (table == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the table of models");
    atomic_init(&table->refs, 1);
    table->by_name = map_new();
    table->named = mem_zalloc((r->slots_count + 1) * sizeof *table->named);
    table->numbers = mem_zalloc((r->slots_count + 1) * sizeof *table->numbers);
    if (table->by_name == NULL || table->named == NULL || table->numbers == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the table of models");
    table->is_ready = r->cut_count == 0;
    for (uint32_t i = 0; i < r->slots_count; i++) {
        const struct slot *slot = &r->slots[i];
        if (named == NULL || slot[-1].found != slot->found) {
            named = &table->named[names++];
            *named = (struct named){ .first = i, .newest = UINT32_MAX };
            TRY(map_put(table->by_name, slice_of(slot->found->name), named, err));
        }
        fill_entry(&table->entries[i], slot);
        table->numbers[i] = slot->version->number;
        table->count = i + 1; /* table_unref gives back what is counted */
        named->count++;
        if (slot->state == MODEL_READY)
            named->newest = i;
        table->is_ready &= slot->state == MODEL_READY;
    }
    for (uint32_t i = 0; i < names; i++) {
        if (table->named[i].newest != UINT32_MAX)
            table->entries[table->named[i].newest].is_default = true;
    }
    *ret = TAKE(table);
    return OK;
}

/* Puts a table (or none) in place of the old one, waits until nobody looks into that any more, and
 * drops it. The starting thread only. */
static void exchange_table(struct repository *r, struct table *fresh)
{
    struct table *old = atomic_exchange_explicit(&r->table, fresh, memory_order_seq_cst);

    for (uint32_t i = 0; i < STRIPES; i++) {
        stripe_lock(&r->stripes[i]);
        stripe_unlock(&r->stripes[i]);
    }
    table_unref(&old);
}

/* The table is not exchanged meanwhile: that is this thread's too. */
static void tell_changes(struct repository *r)
{
    const struct table *table = atomic_load_explicit(&r->table, memory_order_relaxed);

    for (uint32_t i = 0; r->watch.on_change != NULL && i < table->count; i++) {
        if (r->slots[i].told == table->entries[i].state)
            continue;
        r->slots[i].told = table->entries[i].state;
        r->watch.on_change(r->watch.context, &table->entries[i]);
    }
}

void repository_watch(struct repository *r, struct repository_watch watch)
{
    r->watch = watch;
    tell_changes(r);
}

static enum err_code publish(struct repository *r, struct err *err)
{
    struct table *table = NULL;

    pthread_mutex_lock(&r->loading);
    enum err_code code = table_new(&table, r, err);
    pthread_mutex_unlock(&r->loading);
    if (code == OK) {
        exchange_table(r, table);
        tell_changes(r);
    }
    return code;
}

/* -- finding ----------------------------------------------------------------------------------- */

static void collect_backends(struct repository *r)
{
    const struct penstock_host *host = engine_host(r->settings.engine);
    uint32_t count = 0;
    const char *name;

    for (uint32_t i = 0; i < r->settings.plugins_count && count < BACKENDS_MAX; i++)
        r->backends[count++] = r->settings.plugins[i];
    for (uint32_t i = 0; (name = backend_builtin_name(i)) != NULL && count < BACKENDS_MAX; i++) {
        struct err err = { 0 };
        const struct penstock_backend *backend = backend_builtin(name, host, backend_err(&err));
        if (backend != NULL)
            r->backends[count++] = backend;
        else
            snprintf(r->backends_err, sizeof r->backends_err, "%s", err.text);
    }
    r->scan.backends = r->backends;
    r->scan.gpu_to_cpu = r->settings.gpu_to_cpu;
    r->scan.backends_count = count;
    r->scan.backends_err = r->backends_err[0] != '\0' ? r->backends_err : NULL;
}

/* Begins what the first model of each backend would wait for, beside what the starting thread does
 * until it loads. */
static void preload_backends(const struct repository *r)
{
    const struct penstock_backend *last = NULL;

    for (uint32_t i = 0; i < r->slots_count; i++) {
        const struct penstock_backend *backend = r->slots[i].found->backend;
        if (r->slots[i].state == MODEL_LOADING && backend != last)
            backend_preload(backend->name, engine_host(r->settings.engine));
        last = backend;
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct found *const *)a)->name, (*(struct found *const *)b)->name);
}

static int by_bytes(const void *a, const void *b)
{
    const struct slot *left = *(struct slot *const *)a, *right = *(struct slot *const *)b;

    if (left->version->bytes != right->version->bytes)
        return left->version->bytes < right->version->bytes ? -1 : 1;
    return (left > right) - (left < right);
}

static const char *problem_of(const struct slot *slot)
{
    return slot->found->problem != NULL ? slot->found->problem : slot->version->problem;
}

/* Without memory the reason is empty, and the state says enough. */
static void fail_slot(struct slot *slot, const char *reason)
{
    slot->state = MODEL_UNAVAILABLE;
    slot->reason = mem_strdup(reason);
}

static enum err_code make_slots(struct repository *r, struct found **list, uint32_t count,
                                struct err *err)
{
    uint32_t served = 0;

    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t v = 0; v < list[i]->versions_count; v++)
            served += list[i]->versions[v].is_served;
    }
    r->cut_count = served > r->settings.models_max ? served - r->settings.models_max : 0;
    served -= r->cut_count;
    r->slots = mem_zalloc((served + 1) * sizeof *r->slots);
    r->order = mem_zalloc((served + 1) * sizeof(struct slot *));
    if (r->slots == NULL || r->order == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for %u models", served);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t v = 0; v < list[i]->versions_count && r->slots_count < served; v++) {
            struct slot *slot = &r->slots[r->slots_count];
            if (!list[i]->versions[v].is_served)
                continue;
            slot->found = list[i];
            slot->version = &list[i]->versions[v];
            slot->state = MODEL_LOADING;
            if (problem_of(slot) != NULL)
                fail_slot(slot, problem_of(slot));
            r->order[r->slots_count++] = slot;
        }
    }
    if (r->slots_count > 1)
        qsort(r->order, r->slots_count, sizeof(struct slot *), by_bytes);
    return OK;
}

static enum err_code sort_found(struct repository *r, struct err *err)
{
    CLEANUP(mem_free_slot) struct found **list = NULL;
    size_t at = 0;
    uint32_t count = 0;
    struct slice name;
    void *found;

    list = mem_alloc((map_count(r->scan.by_name) + 1) * sizeof *list);
    if (list == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the list of models");
    while (map_each(r->scan.by_name, &at, &name, &found))
        list[count++] = found;
    if (count > 1)
        qsort(list, count, sizeof(struct found *), by_name);
    return make_slots(r, list, count, err);
}

/* -- services ---------------------------------------------------------------------------------- */

/* What model.yaml says, read before anything is loaded: which model has a name must not depend on
 * which was loaded first. A card that cannot be read says why when its model is loaded. */
static enum err_code said_service(const struct repository *r, const struct found *found,
                                  const char **ret, struct err *err)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, MODEL_ARENA_MAX);
    struct err failed = { 0 };
    struct card *card = NULL;
    struct slice text;

    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the names of services");
    *ret = NULL;
    if (found->card_file == NULL ||
        beneath_read(&text, arena, found->folder, found->card_file, CARD_BYTES_MAX, &failed) !=
            OK ||
        memmem(text.data, text.size, "service", 7) == NULL ||
        card_parse(&card, arena, text, &failed) != OK || card->service == NULL)
        return OK;
    *ret = arena_strndup(r->arena, card->service, strlen(card->service));
    return *ret != NULL ? OK : err_set(err, E_EXHAUSTED, "no memory for the names of services");
}

/* Two that say the same cannot both be right. */
static void refuse_said(struct repository *r, struct slot *slot, const char *name)
{
    const struct slot *other = map_get(r->by_service, slice_of(name));
    char reason[ERR_TEXT_MAX];

    snprintf(reason, sizeof reason,
             "%s: service '%s' is what model '%s' says as well; each model needs its own",
             slot->found->card_file, name, other->found->name);
    if (slot->state == MODEL_LOADING)
        fail_slot(slot, reason);
    slot->service = "";
}

static enum err_code give_service(struct repository *r, struct slot *slot, const char *name,
                                  struct err *err)
{
    slot->service = name;
    return map_put(r->by_service, slice_of(name), slot, err);
}

static enum err_code derive_service(struct repository *r, struct slot *slot, struct err *err)
{
    const char *name = service_of_model(r->arena, slot->found->name);

    if (name != NULL && map_get(r->by_service, slice_of(name)) != NULL)
        name = service_of_model_apart(r->arena, slot->found->name);
    if (name == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the names of services");
    if (map_get(r->by_service, slice_of(name)) == NULL)
        return give_service(r, slot, name, err);
    slot->service = "";
    return OK;
}

/* Names that are said come first, then those by the models' names, in the order of these; the second
 * of two gets a hash of its name behind it. */
static enum err_code name_services(struct repository *r, struct err *err)
{
    r->by_service = map_new();
    if (r->by_service == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the names of services");
    for (unsigned pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < r->slots_count; i++) {
            struct slot *slot = &r->slots[i];
            const char *name = NULL;
            if (i > 0 && slot[-1].found == slot->found) {
                slot->service = slot[-1].service; /* another version of the same */
                if (pass == 0 && slot->service != NULL && slot->service[0] == '\0' &&
                    slot->state == MODEL_LOADING)
                    fail_slot(slot, slot[-1].reason != NULL ? slot[-1].reason : "");
                continue;
            }
            if (pass == 1 && slot->service == NULL)
                TRY(derive_service(r, slot, err));
            if (pass == 1)
                continue;
            TRY(said_service(r, slot->found, &name, err));
            if (name != NULL && map_get(r->by_service, slice_of(name)) != NULL)
                refuse_said(r, slot, name);
            else if (name != NULL)
                TRY(give_service(r, slot, name, err));
        }
    }
    return OK;
}

static enum err_code find_all(struct repository *r, struct err *err)
{
    for (uint32_t i = 0; i < r->settings.paths_count; i++)
        TRY(scan_path(&r->scan, r->settings.paths[i], err));
    if (r->scan.found_count == 0)
        return err_set(
            err, E_NOT_FOUND,
            "no model was found in %s%s; a model is a file such as iris.onnx, or a folder "
            "such as iris/1/model.onnx",
            r->settings.paths_count > 0 ? r->settings.paths[0] : "(no path was given)",
            r->settings.paths_count > 1 ? " and the other paths" : "");
    TRY(sort_found(r, err));
    TRY(name_services(r, err));
    preload_backends(r);
    return publish(r, err);
}

enum err_code repository_open(struct repository **ret, const struct repository_settings *settings,
                              struct err *err)
{
    CLEANUP(repository_close) struct repository *r = mem_aligned(64, sizeof *r);

    if (r == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the repository");
    memset(r, 0, sizeof *r);
    r->settings = *settings;
    pthread_mutex_init(&r->loading, NULL);
    pthread_cond_init(&r->loaded, NULL);
    for (uint32_t i = 0; i < STRIPES; i++)
        atomic_flag_clear(&r->stripes[i].taken);
    r->arena = arena_new(16384, SCAN_BYTES_MAX);
    r->scan.by_name = map_new();
    r->scan.arena = r->arena;
    if (r->arena == NULL || r->scan.by_name == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the repository");
    collect_backends(r);
    TRY(find_all(r, err));
    *ret = TAKE(r);
    return OK;
}

uint32_t repository_notes(const struct repository *repository, const char *const **ret)
{
    *ret = repository->scan.notes;
    return repository->scan.notes_count;
}

/* -- loading ----------------------------------------------------------------------------------- */

struct reading {
    struct arena *arena;
    const char *folder;
};

static enum err_code read_beneath(void *context, const char *name, struct slice *ret,
                                  struct err *err)
{
    const struct reading *reading = context;

    return beneath_read(ret, reading->arena, reading->folder, name, LABELS_BYTES_MAX, err);
}

static enum err_code read_card(struct card **ret, struct arena *arena, const struct found *found,
                               struct err *err)
{
    struct slice text;

    if (found->card_file == NULL)
        return OK;
    TRY(beneath_read(&text, arena, found->folder, found->card_file, CARD_BYTES_MAX, err));
    if (card_parse(ret, arena, text, err) != OK)
        return err_wrap(err, "%s", found->card_file);
    return OK;
}

static enum err_code load(struct repository *r, const struct slot *slot, struct model **ret,
                          struct err *err)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(MODEL_ARENA_FIRST, MODEL_ARENA_MAX);
    CLEANUP(config_free) struct model_config *config = NULL;
    struct reading reading = { arena, slot->found->folder };
    struct card *card = NULL;

    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the model");
    TRY(scan_config(&config, &r->scan, slot->found, arena, err));
    TRY(read_card(&card, arena, slot->found, err));
    const char *service = arena_strndup(arena, slot->service, strlen(slot->service));
    if (service == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the model");
    struct model_spec spec = { .name = slot->found->name,
                               .version = (int64_t)slot->version->number,
                               .folder = slot->found->folder,
                               .path = slot->version->path,
                               .backend = slot->found->backend,
                               .config = config,
                               .arena = arena,
                               .card = card,
                               .service = service,
                               .read_file = read_beneath,
                               .read_file_context = &reading };
    TRY(model_new(ret, r->settings.engine, &spec, err));
    config = NULL; /* both are the model's now */
    arena = NULL;
    return OK;
}

static void load_slot(struct repository *r, struct slot *slot)
{
    struct err err = { 0 };
    struct model *model = NULL;
    enum err_code code = load(r, slot, &model, &err);

    pthread_mutex_lock(&r->loading);
    if (code == OK) {
        slot->model = model;
        slot->state = MODEL_READY;
    } else {
        fail_slot(slot, err.text);
    }
    pthread_mutex_unlock(&r->loading);
}

/* The next that has to be loaded; NULL at the end. Under `loading`. */
static struct slot *next_slot(struct repository *r)
{
    while (r->next < r->slots_count) {
        struct slot *slot = r->order[r->next++];
        if (slot->state == MODEL_LOADING)
            return slot;
        r->done++;
    }
    return NULL;
}

static void loader_main(void *arg)
{
    struct repository *r = arg;
    struct slot *slot;

    pthread_mutex_lock(&r->loading);
    while ((slot = next_slot(r)) != NULL) {
        pthread_mutex_unlock(&r->loading);
        load_slot(r, slot);
        pthread_mutex_lock(&r->loading);
        r->done++;
        pthread_cond_signal(&r->loaded);
    }
    pthread_cond_signal(&r->loaded);
    pthread_mutex_unlock(&r->loading);
}

/* Lists what has been loaded, as it comes, until all is. A table that finds no memory is made at
 * the next turn; the last one must be. */
static enum err_code list_as_they_come(struct repository *r, struct err *err)
{
    uint32_t shown = 0;

    for (;;) {
        pthread_mutex_lock(&r->loading);
        while (r->done == shown && r->done < r->slots_count)
            pthread_cond_wait(&r->loaded, &r->loading);
        shown = r->done;
        bool is_over = shown == r->slots_count;
        pthread_mutex_unlock(&r->loading);
        enum err_code code = publish(r, err);
        if (is_over)
            return code;
    }
}

enum err_code repository_load_all(struct repository *r, struct err *err)
{
    struct env *env = r->settings.env;
    struct worker *workers[LOAD_THREADS_MAX] = { NULL };
    uint32_t waiting = 0, started = 0;

    require(r->next == 0);
    if (r->cut_count > 0)
        log_warn("%u versions of models are not loaded: the table holds %u (--models-max)",
                 r->cut_count, r->settings.models_max);
    for (uint32_t i = 0; i < r->slots_count; i++)
        waiting += r->slots[i].state == MODEL_LOADING;
    uint32_t wanted = MIN(MIN(r->settings.load_threads, waiting), (uint32_t)LOAD_THREADS_MAX);
    /* One model is loaded right here: no thread to start, no memory for its heap. */
    for (; wanted > 1 && started < wanted; started++) {
        if (env->worker_start(env, &workers[started], "load", loader_main, r, NULL) != OK)
            break;
    }
    if (started == 0)
        loader_main(r);
    enum err_code code = list_as_they_come(r, err);
    for (uint32_t i = 0; i < started; i++)
        env->worker_join(env, &workers[i]);
    return code;
}

void repository_close(struct repository **slot)
{
    struct repository *r = TAKE(*slot);

    if (r == NULL)
        return;
    struct table *table = atomic_load(&r->table);
    require(table == NULL || atomic_load(&table->refs) == 1);
    exchange_table(r, NULL);
    for (uint32_t i = 0; i < r->slots_count; i++) {
        model_unref(&r->slots[i].model);
        mem_free(r->slots[i].reason);
    }
    mem_free(r->slots);
    mem_free(r->order);
    map_free(&r->by_service);
    map_free(&r->scan.by_name);
    arena_free(&r->arena);
    pthread_cond_destroy(&r->loaded);
    pthread_mutex_destroy(&r->loading);
    mem_free(r);
}

const char *repository_service_model(const struct repository *repository, struct slice service)
{
    const struct slot *slot = map_get(repository->by_service, service);

    return slot == NULL ? NULL : slot->found->name;
}

/* -- asking ------------------------------------------------------------------------------------ */

/* Index of the entry, or UINT32_MAX. */
static uint32_t find(const struct table *table, struct slice name, uint64_t number)
{
    const struct named *named = map_get(table->by_name, name);

    if (named == NULL)
        return UINT32_MAX;
    if (number == 0)
        return named->newest;
    for (uint32_t i = named->first; i < named->first + named->count; i++) {
        if (table->numbers[i] == number)
            return i;
    }
    return UINT32_MAX;
}

/* "; did you mean 'iris'?" or the names there are: behind a text. */
static void add_hint(char *out, size_t size, const struct table *table, struct slice name)
{
    struct nearest nearest = nearest_to(name);
    size_t at = 0;
    uint32_t shown = 0, names = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < table->count; i++) {
        if (i > 0 && table->entries[i].name == table->entries[i - 1].name)
            continue;
        names++;
        nearest_offer(&nearest, table->entries[i].name);
        if (shown == 5 || at > size - 2 || strlen(table->entries[i].name) > 64)
            continue;
        at += (size_t)snprintf(out + at, size - at, "%s%s", shown == 0 ? "; there are: " : ", ",
                               table->entries[i].name);
        shown++;
    }
    if (nearest_best(&nearest) != NULL)
        snprintf(out, size, "; did you mean '%s'?", nearest_best(&nearest));
    else if (names > shown && at < size)
        snprintf(out + at, size - at, " and %u more", names - shown);
}

static void list_versions(char *out, size_t size, const struct table *table,
                          const struct named *named)
{
    size_t at = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < MIN(named->count, 8u) && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s", i == 0 ? "" : ", ",
                               table->entries[named->first + i].version);
}

static enum err_code refuse_state(const struct repository_entry *entry, struct slice name,
                                  struct slice version, struct err *err)
{
    const char *state = model_state_name(entry->state);

    err_set(err, E_UNAVAILABLE,
            "model '%.*s' version %.*s is not at ready state (%s%s%s)",
            SLICE_ARG(slice_first(name, 256)), SLICE_ARG(slice_first(version, 32)), state,
            entry->reason[0] != '\0' ? ": " : "", entry->reason);
    if (err != NULL && entry->state == MODEL_LOADING)
        err->retry_after_ms = LOADING_RETRY_MS;
    return E_UNAVAILABLE;
}

/* Why the answer is no. */
static COLD enum err_code explain_no(struct repository *r, struct slice name, struct slice version,
                                     uint64_t number, struct err *err)
{
    struct repository_snapshot snapshot;
    struct slice shown = slice_first(name, 256);
    enum err_code code;
    char more[400];

    repository_snapshot_take(r, &snapshot);
    const struct table *table = snapshot.private;
    const struct named *named = map_get(table->by_name, name);
    uint32_t at = find(table, name, number);
    if (named == NULL) {
        add_hint(more, sizeof more, table, name);
        code = err_set(err, E_NOT_FOUND, "Request for unknown model: '%.*s' is not found%s",
                       SLICE_ARG(shown), more);
    } else if (version.size == 0) {
        const struct repository_entry *last = &table->entries[named->first + named->count - 1];
        code =
            refuse_state(last, name, slice_of(last->version[0] == '\0' ? "?" : last->version), err);
    } else if (at == UINT32_MAX) {
        list_versions(more, sizeof more, table, named);
        code = err_set(err, E_NOT_FOUND,
                       "Request for unknown model: '%.*s' version %.*s is not found; there are: %s",
                       SLICE_ARG(shown), SLICE_ARG(slice_first(version, 32)), more);
    } else {
        code = refuse_state(&table->entries[at], name, version, err);
    }
    repository_snapshot_give(&snapshot);
    return code;
}

HOT enum err_code repository_want_model(void *context, struct model **ret, struct slice name,
                                        struct slice version, struct err *err)
{
    struct repository *r = context;
    struct stripe *stripe = my_stripe(r);
    uint64_t number = 0;
    struct model *model = NULL;

    if (version.size != 0 && (!slice_to_u64(version, &number) || number == 0))
        return err_set(err, E_INVALID,
                       "version '%.*s' of model '%.*s': a version is a whole number from 1",
                       SLICE_ARG(slice_first(version, 32)), SLICE_ARG(slice_first(name, 256)));
    stripe_lock(stripe);
    const struct table *table = atomic_load_explicit(&r->table, memory_order_acquire);
    uint32_t at = find(table, name, number);
    if (LIKELY(at != UINT32_MAX) && LIKELY(table->entries[at].model != NULL))
        model = model_ref(table->entries[at].model);
    stripe_unlock(stripe);
    if (UNLIKELY(model == NULL))
        return explain_no(r, name, version, number, err);
    *ret = model;
    return OK;
}

void repository_snapshot_take(struct repository *r, struct repository_snapshot *ret)
{
    struct stripe *stripe = my_stripe(r);

    stripe_lock(stripe);
    struct table *table = atomic_load_explicit(&r->table, memory_order_acquire);
    atomic_fetch_add_explicit(&table->refs, 1, memory_order_relaxed);
    stripe_unlock(stripe);
    *ret = (struct repository_snapshot){ .count = table->count,
                                         .entries = table->entries,
                                         .private = table };
}

void repository_snapshot_give(struct repository_snapshot *snapshot)
{
    struct table *table = snapshot->private;

    *snapshot = (struct repository_snapshot){ .count = 0 };
    table_unref(&table);
}

bool repository_is_ready(struct repository *r)
{
    struct stripe *stripe = my_stripe(r);

    stripe_lock(stripe);
    bool is_ready = atomic_load_explicit(&r->table, memory_order_acquire)->is_ready;
    stripe_unlock(stripe);
    return is_ready;
}
