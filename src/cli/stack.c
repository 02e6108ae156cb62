/* stack.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/stack.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/builtin.h"
#include "base/block.h"
#include "base/mem.h"
#include "cli/options.h"
#include "engine/engine.h"
#include "io/env.h"
#include "repository/repository.h"

enum { RUNTIMES_MAX = 8 };

/* What backends ask has no context: there is one set of options in a process. */
static const struct options *the_options;

static struct {
    char name[32];
    char path[PATH_MAX];
} runtimes[RUNTIMES_MAX]; /* found once; filled by the starting thread before others ask */
static uint32_t runtimes_count;

/* -- runtimes ---------------------------------------------------------------------------------- */

/* Also one that this process may not look at: who opens it says so, and nobody goes on to look for
 * another in silence. */
static bool is_file(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? S_ISREG(st.st_mode) : errno == EACCES;
}

/* "libonnxruntime.so" in the folder, else the highest "libonnxruntime.so.1.2". */
static bool find_library(char *ret, size_t size, const char *folder, const char *name)
{
    char wanted[64], best[256] = "";
    struct dirent *entry;

    snprintf(wanted, sizeof wanted, "lib%s.so", name);
    if ((size_t)snprintf(ret, size, "%s/%s", folder, wanted) >= size)
        return false;
    if (is_file(ret))
        return true;
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return false;
    size_t prefix = strlen(wanted);
    while ((entry = readdir(dir)) != NULL) {
        if (strncmp(entry->d_name, wanted, prefix) == 0 && entry->d_name[prefix] == '.' &&
            strverscmp(entry->d_name, best) > 0)
            snprintf(best, sizeof best, "%s", entry->d_name);
    }
    closedir(dir);
    return best[0] != '\0' && (size_t)snprintf(ret, size, "%s/%s", folder, best) < size &&
           is_file(ret);
}

/* A path of the option: a folder, or the library itself. */
static bool find_named(char *ret, size_t size, const char *path, const char *name)
{
    char prefix[64];
    const char *file = strrchr(path, '/');

    snprintf(prefix, sizeof prefix, "lib%s.so", name);
    if (file != NULL && strncmp(file + 1, prefix, strlen(prefix)) == 0 && is_file(path))
        return (size_t)snprintf(ret, size, "%s", path) < size;
    return find_library(ret, size, path, name);
}

/* Beside the program: PREFIX/bin/penstock has PREFIX/lib/penstock. */
static bool find_beside(char *ret, size_t size, const char *name)
{
    char program[PATH_MAX], folder[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);

    if (length <= 0)
        return false;
    program[length] = '\0';
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(program, '/');
        if (slash == NULL)
            return false;
        *slash = '\0';
    }
    if ((size_t)snprintf(folder, sizeof folder, "%s/lib/penstock", program) >= sizeof folder)
        return false;
    return find_library(ret, size, folder, name);
}

static bool find_runtime(char *ret, size_t size, const struct options *options, const char *name)
{
    static const char *const usual[] = { "/usr/local/lib/penstock",
                                         "/usr/lib/penstock",
                                         "/usr/local/lib",
                                         "/usr/lib/x86_64-linux-gnu",
                                         "/usr/lib/aarch64-linux-gnu",
                                         "/usr/lib64",
                                         "/usr/lib" };
    const struct option_value *named = &options->values[OPT_RUNTIME_DIR];

    for (uint32_t i = 0; i < named->items_count; i++) {
        if (find_named(ret, size, named->items[i], name))
            return true;
    }
    /* Who names a place means it: another library, taken in silence, is not what was asked for. The
     * place itself is the answer, so that what is said of the failure names it. */
    if (named->items_count > 0) {
        snprintf(ret, size, "%s", named->items[0]);
        return true;
    }
    if (find_beside(ret, size, name))
        return true;
    for (size_t i = 0; i < COUNT(usual); i++) {
        if (find_library(ret, size, usual[i], name))
            return true;
    }
    return false;
}

const char *runtime_find(const struct options *options, const char *name)
{
    for (uint32_t i = 0; i < runtimes_count; i++) {
        if (strcmp(runtimes[i].name, name) == 0)
            return runtimes[i].path[0] != '\0' ? runtimes[i].path : NULL;
    }
    if (runtimes_count == RUNTIMES_MAX || strlen(name) >= sizeof runtimes[0].name)
        return NULL;
    snprintf(runtimes[runtimes_count].name, sizeof runtimes[0].name, "%s", name);
    if (!find_runtime(runtimes[runtimes_count].path, sizeof runtimes[0].path, options, name))
        runtimes[runtimes_count].path[0] = '\0';
    return runtimes[runtimes_count].path[0] != '\0' ? runtimes[runtimes_count++].path
                                                    : (runtimes_count++, NULL);
}

/* -- what backends ask ------------------------------------------------------------------------- */

static const char *backend_option(const char *name)
{
    enum option_id id = the_options == NULL ? OPT_IDS : option_find(slice_of(name));

    if (id == OPT_IDS || option_rows[id].group != GROUP_RUNTIMES)
        return NULL;
    return options_text(the_options, id)[0] != '\0' ? options_text(the_options, id) : NULL;
}

static const char *backend_runtime(const char *name)
{
    return the_options == NULL ? NULL : runtime_find(the_options, name);
}

/* -- opening ----------------------------------------------------------------------------------- */

static enum err_code open_plugins(struct stack *stack, struct err *err)
{
    const struct option_value *named = &stack->options->values[OPT_BACKEND_PLUGIN];
    char where[PATH_MAX];

    for (uint32_t i = 0; i < named->items_count; i++) {
        options_origin(stack->options, OPT_BACKEND_PLUGIN, where, sizeof where);
        if (stack->plugins_count == STACK_PLUGINS_MAX)
            return err_set(err, E_INVALID, "%s: more than %d plugins", where, STACK_PLUGINS_MAX);
        const struct penstock_backend *backend =
            backend_load(named->items[i], engine_host(stack->engine), backend_err(err));
        if (backend == NULL)
            return err_wrap(err, "%s", where);
        stack->plugins[stack->plugins_count++] = backend;
    }
    return OK;
}

enum err_code stack_open(struct stack *stack, const struct options *options, uint32_t loops_count,
                         const char *const *paths, uint32_t paths_count, struct err *err)
{
    *stack = (struct stack){ .options = options, .env = env_real() };
    the_options = options;
    budget_init(&stack->budget, options_number(options, OPT_MEMORY_LIMIT));
    block_keep(options_number(options, OPT_MEMORY_KEPT));
    (void)runtime_find(options, "onnxruntime");
    struct engine_settings settings = {
        .loops_count = loops_count,
        .queue_max = options_u32(options, OPT_QUEUE_MAX),
        .queue_delay_ns = options_number(options, OPT_QUEUE_DELAY),
        .execution = (enum execution)options_number(options, OPT_EXECUTION),
        .inline_typical_ns = options_number(options, OPT_INLINE_TYPICAL),
        .inline_worst_ns = options_number(options, OPT_INLINE_WORST),
        .deadline_default_ms = options_ms(options, OPT_REQUEST_TIMEOUT),
        .option = backend_option,
        .runtime_path = backend_runtime,
        .budget = &stack->budget,
        .sessions_max = options_u32(options, OPT_SESSIONS_MAX),
        .pieces_max = options_u32(options, OPT_STREAM_PIECES_MAX),
    };
    TRY(engine_new(&stack->engine, stack->env, &settings, err));
    TRY(open_plugins(stack, err));
    struct repository_settings repository = {
        .engine = stack->engine,
        .env = stack->env,
        .plugins = stack->plugins,
        .plugins_count = stack->plugins_count,
        .paths = paths,
        .paths_count = paths_count,
        .load_threads = options_u32(options, OPT_LOAD_THREADS),
        .models_max = options_u32(options, OPT_MODELS_MAX),
        .gpu_to_cpu = options_flag(options, OPT_GPU_TO_CPU),
    };
    TRY(repository_open(&stack->repository, &repository, err));
    engine_set_directory(stack->engine,
                         (struct engine_directory){ repository_want_model, stack->repository });
    return OK;
}

void stack_close_models(struct stack *stack)
{
    backend_preload_wait();
    repository_close(&stack->repository);
}

void stack_close(struct stack *stack)
{
    stack_close_models(stack);
    engine_free(&stack->engine);
    the_options = NULL;
}
