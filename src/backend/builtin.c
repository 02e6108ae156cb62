/* builtin.c - SPDX-License-Identifier: Apache-2.0 */
#include "backend/builtin.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/slice.h"

enum { PLUGINS_MAX = 64 };

penstock_backend_entry_fn backend_echo_entry;
penstock_backend_entry_fn backend_onnx_entry;
/* What may be done before the first model comes; blocks. */
void backend_onnx_preload(const struct penstock_host *host);

/* Names stand here as well as in each backend's own table, so that looking one up does not start
 * the others. */
static struct row {
    const char *name, *aliases;
    penstock_backend_entry_fn *entry;
    void (*preload)(const struct penstock_host *host); /* or NULL */
    const struct penstock_backend *backend;            /* set by the first that asks */
} rows[] = {
    { "echo", NULL, backend_echo_entry, NULL, NULL },
    { "onnxruntime", "onnx onnxruntime_onnx", backend_onnx_entry, backend_onnx_preload, NULL },
};

static struct plugin {
    char *path;
    const struct penstock_backend *backend;
} plugins[PLUGINS_MAX];
static uint32_t plugins_count;

/* A leaf: nothing else is locked while it is held, except inside the loader. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void unlock(pthread_mutex_t **held)
{
    pthread_mutex_unlock(*held);
}

static pthread_mutex_t *locked(void)
{
    pthread_mutex_lock(&lock);
    return &lock;
}

/* Is `name` one of the words of `list`? */
static bool has_word(const char *list, struct slice name)
{
    struct slice rest = slice_of(list == NULL ? "" : list);

    while (rest.size > 0) {
        size_t end = slice_find(rest, ' ');
        if (end > 0 && slice_eq(slice_first(rest, end), name))
            return true;
        rest = slice_skip(rest, MIN(end + 1, rest.size));
    }
    return false;
}

static struct row *find_row(const char *name)
{
    struct slice wanted = slice_of(name == NULL ? "" : name);

    for (size_t i = 0; i < COUNT(rows); i++) {
        if (slice_is(wanted, rows[i].name) || has_word(rows[i].aliases, wanted))
            return &rows[i];
    }
    return NULL;
}

/* Looks at a table before anything in it is called. */
static bool is_usable(const struct penstock_backend *backend, const char *from, struct err *err)
{
    if (backend->abi != PENSTOCK_BACKEND_ABI) {
        err_set(err, E_UNIMPLEMENTED,
                "%s was built for backend ABI %u; this server speaks %u: build it again with this "
                "server's penstock/backend.h",
                from, backend->abi, PENSTOCK_BACKEND_ABI);
        return false;
    }
    /* Every member up to `execute` is required, so a table that ends before is of no use. */
    if (backend->size < offsetof(struct penstock_backend, cancel)) {
        err_set(err, E_UNIMPLEMENTED,
                "%s gives a function table of %u bytes; the required part has %zu: does it set "
                ".size = sizeof(struct penstock_backend)?",
                from, backend->size, offsetof(struct penstock_backend, cancel));
        return false;
    }
    const char *missing = backend->name == NULL             ? "name"
                          : backend->model_open == NULL     ? "model_open"
                          : backend->model_close == NULL    ? "model_close"
                          : backend->instance_open == NULL  ? "instance_open"
                          : backend->instance_close == NULL ? "instance_close"
                          : backend->execute == NULL        ? "execute"
                                                            : NULL;
    if (missing != NULL) {
        err_set(err, E_UNIMPLEMENTED, "%s lacks the required member '%s' of its function table",
                from, missing);
        return false;
    }
    return true;
}

/* A table shorter than ours ends in members that this server must not read: it gets a copy whose
 * tail is NULL, kept for ever like the plugin itself. */
static const struct penstock_backend *whole(const struct penstock_backend *backend, struct err *err)
{
    if (backend->size >= sizeof *backend)
        return backend;
    struct penstock_backend *copy = mem_zalloc(sizeof *copy);
    if (copy == NULL) {
        err_set(err, E_EXHAUSTED, "no memory for a backend's function table");
        return NULL;
    }
    memcpy(copy, backend, backend->size);
    return copy;
}

static const struct penstock_backend *start(penstock_backend_entry_fn *entry, const char *from,
                                            const struct penstock_host *host, struct err *err)
{
    struct err own = { .code = OK };
    const struct penstock_backend *backend = entry(host, backend_err(&own));

    if (backend == NULL) {
        err_set(err, own.code == OK ? E_UNAVAILABLE : own.code, "%s refused to start: %s", from,
                own.text[0] == '\0' ? "it does not say why" : own.text);
        return NULL;
    }
    return is_usable(backend, from, err) ? whole(backend, err) : NULL;
}

const char *backend_builtin_name(uint32_t index)
{
    return index < COUNT(rows) ? rows[index].name : NULL;
}

const struct penstock_backend *backend_builtin(const char *name_or_platform,
                                               const struct penstock_host *host,
                                               struct penstock_err *penstock_err)
{
    struct err *err = (struct err *)(void *)penstock_err;
    struct row *row = find_row(name_or_platform);

    if (row == NULL) {
        char names[256] = "";
        size_t at = 0;
        for (size_t i = 0; i < COUNT(rows); i++) {
            int wrote =
                snprintf(names + at, sizeof names - at, "%s%s", i == 0 ? "" : ", ", rows[i].name);
            at = MIN(at + (size_t)MAX(wrote, 0), sizeof names - 1);
        }
        err_set(err, E_NOT_FOUND, "no backend is named '%s'; there are: %s",
                name_or_platform == NULL ? "" : name_or_platform, names);
        return NULL;
    }
    CLEANUP(unlock) UNUSED pthread_mutex_t *held = locked();
    if (row->backend == NULL)
        row->backend = start(row->entry, row->name, host, err);
    return row->backend;
}

const struct penstock_backend *backend_load(const char *path, const struct penstock_host *host,
                                            struct penstock_err *penstock_err)
{
    struct err *err = (struct err *)(void *)penstock_err;
    struct stat st;

    /* A relative path would be looked for in the working directory, a bare name in the library
     * path: both belong to whoever starts the server, not to whoever configures it. */
    if (path == NULL || path[0] != '/') {
        err_set(err, E_INVALID, "the backend '%s' must be named by an absolute path",
                path == NULL ? "" : path);
        return NULL;
    }
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) {
        err_set(err, E_NOT_FOUND, "there is no backend file %s", path);
        return NULL;
    }
    CLEANUP(unlock) UNUSED pthread_mutex_t *held = locked();
    for (uint32_t i = 0; i < plugins_count; i++) {
        if (strcmp(plugins[i].path, path) == 0)
            return plugins[i].backend;
    }
    if (plugins_count == PLUGINS_MAX) {
        err_set(err, E_EXHAUSTED, "%d backend plugins are loaded; that is the most", PLUGINS_MAX);
        return NULL;
    }
    CLEANUP(mem_free_slot) char *kept = mem_strdup(path);
    if (kept == NULL) {
        err_set(err, E_EXHAUSTED, "no memory to load %s", path);
        return NULL;
    }
    /* On failure the object stays mapped: what its constructors did cannot be undone. */
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (object == NULL) {
        const char *why = dlerror();
        err_set(err, E_UNAVAILABLE, "cannot load the backend %s: %s", path,
                why == NULL ? "no reason given" : why);
        return NULL;
    }
    /* A pointer to a function is read through a pointer to a pointer: ISO C has no cast for it. */
    penstock_backend_entry_fn *entry = NULL;
    *(void **)(void *)&entry = dlsym(object, "penstock_backend_entry");
    if (entry == NULL) {
        err_set(err, E_INVALID,
                "%s is no Penstock backend: it does not export penstock_backend_entry", path);
        return NULL;
    }
    const struct penstock_backend *backend = start(entry, path, host, err);
    if (backend != NULL) {
        plugins[plugins_count].path = TAKE(kept);
        plugins[plugins_count++].backend = backend;
    }
    return backend;
}

static struct {
    void (*run)(const struct penstock_host *host);
    const struct penstock_host *host;
    pthread_t thread;
    bool is_running;
} preload; /* guarded by `lock` */

static void *preload_run(void *context)
{
    (void)context;
    preload.run(preload.host);
    return NULL;
}

void backend_preload(const char *name_or_platform, const struct penstock_host *host)
{
    struct row *row = find_row(name_or_platform);
    CLEANUP(unlock) UNUSED pthread_mutex_t *held = locked();

    if (row == NULL || row->preload == NULL || preload.is_running)
        return;
    preload.run = row->preload;
    preload.host = host;
    preload.is_running = pthread_create(&preload.thread, NULL, preload_run, NULL) == 0;
}

void backend_preload_wait(void)
{
    CLEANUP(unlock) UNUSED pthread_mutex_t *held = locked();

    if (preload.is_running)
        pthread_join(preload.thread, NULL);
    preload.is_running = false;
}
