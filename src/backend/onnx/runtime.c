/* runtime.c - SPDX-License-Identifier: Apache-2.0 */
#include "backend/onnx/runtime.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/slice.h"

enum { PATH_BYTES_MAX = 4096 };

#define AT(member, place) \
    _Static_assert(offsetof(struct ort_api, member) == (place) * sizeof(void *), #member)

/* A member in the wrong place calls another function: each one is pinned here. */
AT(status_code, 1);
AT(status_text, 2);
AT(env_create, 4);
AT(telemetry_off, 6);
AT(session_create, 8);
AT(run, 9);
AT(options_create, 10);
AT(options_set_mode, 13);
AT(options_pattern_off, 17);
AT(options_arena_off, 19);
AT(options_set_log_id, 20);
AT(options_set_log_level, 22);
AT(options_set_optimization, 23);
AT(options_set_intra, 24);
AT(options_set_inter, 25);
AT(inputs_count, 30);
AT(outputs_count, 31);
AT(overridable_count, 32);
AT(input_type, 33);
AT(output_type, 34);
AT(overridable_type, 35);
AT(input_name, 36);
AT(output_name, 37);
AT(overridable_name, 38);
AT(run_create, 39);
AT(run_terminate, 46);
AT(run_unterminate, 47);
AT(value_create, 48);
AT(value_wrap, 49);
AT(value_data, 51);
AT(strings_size, 53);
AT(strings_content, 54);
AT(type_as_tensor, 55);
AT(type_kind, 56);
AT(shape_dtype, 60);
AT(shape_rank, 61);
AT(shape_dims, 62);
AT(shape_symbols, 63);
AT(value_shape, 65);
AT(memory_create, 69);
AT(allocator_free, 76);
AT(allocator_default, 78);
AT(env_release, 92);
AT(status_release, 93);
AT(memory_release, 94);
AT(session_release, 95);
AT(value_release, 96);
AT(run_release, 97);
AT(type_release, 98);
AT(shape_release, 99);
AT(options_release, 100);
AT(providers_list, 125);
AT(options_set, 130);
AT(allocator_register, 176);
AT(options_add_provider, 216);
AT(string_buffer, 252);

/* ONNX Runtime 1.31 for Linux, unless told otherwise before it starts, keeps a device number and a
 * database of events under ~/.cache/Microsoft, starts a thread and looks its collector up, even if
 * DisableTelemetryEvents is called right after; without all that it also starts 10 to 40 ms sooner.
 * Said before main, since another thread may read the environment later. Who wants to be counted
 * sets the variable to 0. */
__attribute__((constructor)) static void say_no_telemetry(void)
{
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
}

static struct onnx_runtime loaded; /* written once, under lock */
static const struct onnx_runtime *current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* What the library would print goes to the operator's debug log: its errors come back as statuses
 * too, and those are answered. */
static void on_log(void *context, int level, const char *category, const char *id,
                   const char *where, const char *text)
{
    const struct penstock_host *host = context;
    char line[1024];

    (void)category;
    (void)where;
    snprintf(line, sizeof line, "onnxruntime: %s%s%s", id != NULL ? id : "",
             id != NULL && id[0] != '\0' ? ": " : "", text != NULL ? text : "");
    host->log(level >= ORT_LOG_FATAL ? PENSTOCK_LOG_ERROR : PENSTOCK_LOG_DEBUG, line);
}

/* Many messages begin with a place in the library's source, which nobody has who reads ours:
 * "/onnxruntime_src/onnxruntime/core/x.cc:88 int f(int) [ONNXRuntimeError] : 2 : FAIL : " */
static struct slice without_place(struct slice text)
{
    static const char mark[] = "[ONNXRuntimeError] : ";
    const char *at = (const char *)text.data;

    if (text.size == 0 || at[0] != '/' || (strstr(at, ".cc:") == NULL && strstr(at, ".h:") == NULL))
        return text;
    const char *end = strstr(at, mark);
    if (end != NULL) {
        end += sizeof mark - 1; /* then a number and a word */
        for (int i = 0; end != NULL && i < 2; i++) {
            end = strstr(end, " : ");
            end = end != NULL ? end + 3 : NULL;
        }
    } else {
        end = strstr(at, ") ");
        end = end != NULL ? end + 2 : NULL;
        if (end != NULL && strncmp(end, "const ", 6) == 0)
            end += 6;
    }
    return end != NULL ? slice_of(end) : text;
}

/* What stands between two marks of a text, which end within it. */
static struct slice between(const char *text, const char *from, const char *to)
{
    const char *start = strstr(text, from);
    const char *end = start != NULL ? strstr(start + strlen(from), to) : NULL;

    if (end == NULL)
        return (struct slice){ NULL, 0 };
    start += strlen(from);
    return slice_make(start, (size_t)(end - start));
}

/* Puts the library's words into ours: first which node failed, where one did. */
static void put_text(struct err *err, enum err_code code, const char *what, const char *text)
{
    static const char node_mark[] = "Non-zero status code returned while running ";
    static const char text_mark[] = "Status Message: ";
    const char *message = strstr(text, text_mark);
    struct slice op = between(text, node_mark, " node");
    struct slice name = between(text, "Name:'", "'");
    char node[160] = "";

    if (op.data != NULL && message != NULL) {
        snprintf(node, sizeof node, "the model failed at its node %.*s%s%.*s: ", SLICE_ARG(op),
                 name.size > 0 ? " " : "", SLICE_ARG(name));
        text = message + sizeof text_mark - 1;
    }
    struct slice rest = slice_trim(without_place(slice_of(text)));
    err_set(err, code, "%s%s%s%.*s", what != NULL ? what : "", what != NULL ? ": " : "", node,
            SLICE_ARG(rest));
    for (char *at = err != NULL ? err->text : NULL; at != NULL && *at != '\0'; at++) {
        if ((unsigned char)*at < ' ')
            *at = ' ';
    }
}

bool onnx_is_terminated(const struct onnx_runtime *runtime, const struct ort_status *status)
{
    const char *text = runtime->api->status_text(status);

    return text != NULL && strstr(text, "terminate flag") != NULL;
}

enum err_code onnx_status_take(const struct onnx_runtime *runtime, struct ort_status *status,
                               struct err *err, const char *what)
{
    const char *text = runtime->api->status_text(status);
    int ort_code = runtime->api->status_code(status);
    enum err_code code = E_INTERNAL;

    if (text == NULL || text[0] == '\0')
        text = "no reason given";
    /* A kernel that fails at run time reports INVALID_ARGUMENT for whatever it did not like of the
     * values: that is a failure of the model, not of the request's form. */
    if (onnx_is_terminated(runtime, status))
        code = E_CANCELLED;
    else if (ort_code == ORT_INVALID_ARGUMENT && strstr(text, "while running") == NULL)
        code = E_INVALID;
    else if (ort_code == ORT_NOT_IMPLEMENTED)
        code = E_UNIMPLEMENTED;
    put_text(err, code, what, text);
    runtime->api->status_release(status);
    return code;
}

/* The host may name the file itself or the folder it lies in. */
static enum err_code find_library(char *ret, size_t ret_size, const char *where, struct err *err)
{
    static const char *const names[] = { "libonnxruntime.so", "libonnxruntime.so.1" };
    struct stat st;

    if (where == NULL || where[0] != '/')
        return err_set(err, E_UNAVAILABLE,
                       "ONNX Runtime is not installed: run script/bootstrap, or pip install "
                       "onnxruntime and name the folder of its libonnxruntime.so with "
                       "--runtime-dir");
    if (stat(where, &st) != 0 && errno == EACCES)
        return err_set(err, E_UNAVAILABLE,
                       "ONNX Runtime is in a place that the user %u, as whom this runs, may not "
                       "look into: %s (%s); let that user read it, or name the folder of another "
                       "libonnxruntime.so with --runtime-dir",
                       (unsigned)geteuid(), where, strerror(EACCES));
    if (stat(where, &st) != 0)
        return err_set(err, E_UNAVAILABLE,
                       "ONNX Runtime is not where it was looked for, %s: run script/bootstrap or "
                       "name the folder of libonnxruntime.so with --runtime-dir",
                       where);
    snprintf(ret, ret_size, "%s", where);
    for (size_t i = 0; S_ISDIR(st.st_mode) && i < COUNT(names); i++) {
        snprintf(ret, ret_size, "%s/%s", where, names[i]);
        if (stat(ret, &st) == 0)
            break;
    }
    if (!S_ISREG(st.st_mode))
        return err_set(err, E_UNAVAILABLE,
                       "there is no libonnxruntime.so in %s: run script/bootstrap or name its "
                       "folder with --runtime-dir",
                       where);
    return OK;
}

/* 31 of "1.31.1"; 0 when it cannot be read. */
static int version_minor(const char *version)
{
    int major = 0, minor = 0;

    return version != NULL && sscanf(version, "%d.%d", &major, &minor) == 2 && major >= 1 ? minor
                                                                                          : 0;
}

/* Asks the library for its table. dlopen keeps it for the life of the process. */
static enum err_code open_library(struct onnx_runtime *runtime, const char *path, struct err *err)
{
    ort_get_base_fn *get_base = NULL;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (library == NULL) {
        const char *why = dlerror();
        return err_set(err, E_UNAVAILABLE, "cannot load ONNX Runtime from %s: %s", path,
                       why != NULL ? why : "no reason given");
    }
    *(void **)(void *)&get_base = dlsym(library, "OrtGetApiBase");
    const struct ort_base *base = get_base != NULL ? get_base() : NULL;
    if (base == NULL)
        return err_set(err, E_UNAVAILABLE, "%s is not ONNX Runtime: it lacks OrtGetApiBase", path);
    runtime->version = base->version();
    runtime->api = base->api(ORT_API_VERSION_WANTED);
    if (runtime->api == NULL)
        return err_set(err, E_UNAVAILABLE,
                       "ONNX Runtime %s at %s is too old: version 1.%d or later is needed",
                       runtime->version, path, ORT_API_VERSION_WANTED);
    /* Only asked of a library that has it: an older one says on stderr that it has not. */
    if (version_minor(runtime->version) >= ORT_HAS_SHAPE_VERSION) {
        const void *const *table =
            (const void *const *)(const void *)base->api(ORT_HAS_SHAPE_VERSION);
        if (table != NULL)
            memcpy(&runtime->has_shape, &table[ORT_HAS_SHAPE_PLACE], sizeof runtime->has_shape);
    }
    return OK;
}

/* -- memory of runs --------------------------------------------------------------------------- */

/* Where the library gets a small model's tensors from. Its own heap asks for aligned memory, which
 * glibc 2.36 serves slowly (no cache of the thread has it) and by breaking up larger blocks, and
 * its arena costs more still. Here each thread keeps a few blocks of each small size for the next
 * run, and gives them back when it ends; larger ones go to the library's heap and back at once.
 * A block may be given back by another thread than it was taken by. */

enum {
    BLOCK_ALIGN = 64,      /* what the kernels like best; a head of as much lies before each */
    BLOCK_SIZES = 7,       /* 64, 128 ... 4096 bytes */
    BLOCKS_KEPT = 8,       /* of each size, by each thread: 67 KiB with their heads */
    BLOCK_SIZE_NONE = 255, /* a block too large to keep */
};

struct block {
    struct block *next; /* of those kept */
    uint32_t size;      /* which, or BLOCK_SIZE_NONE */
};

static __thread struct {
    struct block *first[BLOCK_SIZES];
    uint32_t counts[BLOCK_SIZES];
    bool will_end; /* end_thread() will be called */
} blocks;

static pthread_key_t blocks_key;
static struct ort_allocator *blocks_below; /* the library's heap */
static const struct ort_memory *blocks_memory;

static void end_thread(void *context)
{
    struct ort_allocator *below = blocks_below;

    (void)context;
    for (uint32_t i = 0; i < BLOCK_SIZES; i++) {
        while (blocks.first[i] != NULL) {
            struct block *block = blocks.first[i];
            blocks.first[i] = block->next;
            below->give(below, block);
        }
        blocks.counts[i] = 0;
    }
    blocks.will_end = false;
}

/* Where there is no memory the library's heap throws, and the exception passes through here to its
 * own catch: it never sees NULL, for which it is not made. */
static void *take_block(struct ort_allocator *allocator, size_t size)
{
    struct ort_allocator *below = blocks_below;
    uint32_t which = BLOCK_SIZE_NONE;

    (void)allocator;
    if (size == 0)
        return NULL; /* as the library's own */
    if (size <= (size_t)BLOCK_ALIGN << (BLOCK_SIZES - 1)) {
        size_t units = (size - 1) / BLOCK_ALIGN;
        which = units == 0 ? 0 : 64 - (uint32_t)__builtin_clzll(units);
        struct block *kept = blocks.first[which];
        if (LIKELY(kept != NULL)) {
            blocks.first[which] = kept->next;
            blocks.counts[which]--;
            return (uint8_t *)kept + BLOCK_ALIGN;
        }
        size = (size_t)BLOCK_ALIGN << which;
    }
    struct block *block = below->take(below, MIN(size, SIZE_MAX / 2) + BLOCK_ALIGN);
    if (block == NULL)
        return NULL;
    block->size = which;
    return (uint8_t *)block + BLOCK_ALIGN;
}

static void give_block(struct ort_allocator *allocator, void *memory)
{
    struct ort_allocator *below = blocks_below;

    (void)allocator;
    if (memory == NULL)
        return;
    struct block *block = (struct block *)(void *)((uint8_t *)memory - BLOCK_ALIGN);
    uint32_t which = block->size;
    bool is_kept = which < BLOCK_SIZES && blocks.counts[which] < BLOCKS_KEPT;
    /* A thread whose end nobody would tell keeps nothing. The value only has to differ from NULL. */
    if (is_kept && UNLIKELY(!blocks.will_end))
        is_kept = blocks.will_end = pthread_setspecific(blocks_key, &blocks) == 0;
    if (!is_kept) {
        below->give(below, block);
        return;
    }
    block->next = blocks.first[which];
    blocks.first[which] = block;
    blocks.counts[which]++;
}

static const struct ort_memory *block_memory(const struct ort_allocator *allocator)
{
    (void)allocator;
    return blocks_memory;
}

static struct ort_allocator block_allocator = {
    .version = ORT_API_VERSION_WANTED,
    .take = take_block,
    .give = give_block,
    .info = block_memory,
};

/* Under the lock, before any session is. */
static struct ort_status *register_blocks(const struct onnx_runtime *runtime)
{
    static bool has_key; /* of an earlier try */

    if (!has_key && pthread_key_create(&blocks_key, end_thread) != 0)
        return NULL; /* sessions then find no allocator of ours, and use the library's */
    has_key = true;
    blocks_below = runtime->allocator;
    blocks_memory = runtime->memory;
    return runtime->api->allocator_register(runtime->env, &block_allocator);
}

static enum err_code start(struct onnx_runtime *runtime, const struct penstock_host *host,
                           struct err *err)
{
    const struct ort_api *api = runtime->api;
    char **list = NULL;
    int count = 0;
    /* The library keeps the context for ever; a host outlives its backends. */
    union {
        const void *in;
        void *out;
    } context = { .in = host };

    struct ort_status *status =
        api->env_create(on_log, context.out, ORT_LOG_ERROR, "", &runtime->env);
    if (status == NULL)
        status = api->telemetry_off(runtime->env);
    if (status == NULL)
        status = api->memory_create(ORT_ALLOCATOR_DEVICE, ORT_MEMORY_DEFAULT, &runtime->memory);
    if (status == NULL)
        status = api->allocator_default(&runtime->allocator);
    if (status == NULL)
        status = register_blocks(runtime);
    if (status == NULL)
        status = api->providers_list(&list, &count);
    if (status != NULL) {
        onnx_status_take(runtime, status, err, "ONNX Runtime does not start");
        api->memory_release(runtime->memory);
        api->env_release(runtime->env);
        return err->code;
    }
    /* The list is kept as it is: it is small and made once. */
    for (int i = 0; i < count && runtime->providers_count < PROVIDERS_MAX; i++)
        runtime->providers[runtime->providers_count++] = list[i];
    return OK;
}

const struct onnx_runtime *onnx_runtime_get(const struct penstock_host *host, struct err *err)
{
    char path[PATH_BYTES_MAX];

    pthread_mutex_lock(&lock);
    if (current == NULL) {
        struct onnx_runtime fresh = { 0 };
        enum err_code code =
            find_library(path, sizeof path, host->runtime_path("onnxruntime"), err);
        if (code == OK)
            code = open_library(&fresh, path, err);
        if (code == OK)
            code = start(&fresh, host, err);
        if (code == OK) {
            loaded = fresh;
            current = &loaded;
        }
    }
    const struct onnx_runtime *runtime = current;
    pthread_mutex_unlock(&lock);
    return runtime;
}
