/* version.c - the verb version. SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/builtin.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/stack.h"
#include "cli/verbs.h"

/* What libonnxruntime.so exports: a table of which the second member tells the version. */
struct ort_base {
    const void *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
};

/* NULL and a reason when the library cannot be loaded. Never unloaded: it keeps threads. */
static const char *onnx_version(const char *path, const char **ret_why)
{
    const struct ort_base *(*get_base)(void) = NULL;
    struct stat st;

    *ret_why = "there is no libonnxruntime.so there";
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return NULL;
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    *ret_why = NULL;
    if (library == NULL) {
        *ret_why = dlerror();
        return NULL;
    }
    /* ISO C has no conversion from an object to a function pointer; POSIX has this one. */
    *(void **)(void *)&get_base = dlsym(library, "OrtGetApiBase");
    const struct ort_base *base = get_base == NULL ? NULL : get_base();
    if (base == NULL)
        *ret_why = "it has no OrtGetApiBase";
    return base == NULL ? NULL : base->get_version();
}

const char version_compiler[] =
#ifdef __clang__
    "clang " __clang_version__;
#else
    "gcc " __VERSION__;
#endif

static void put_json(struct text *out, const char *path, const char *version, const char *why)
{
    text_str(out, "{\"version\":\"" PENSTOCK_VERSION "\",\"compiler\":");
    text_json(out, slice_of(version_compiler));
    text_str(out, ",\"backends\":[");
    for (uint32_t i = 0; backend_builtin_name(i) != NULL; i++) {
        text_str(out, i == 0 ? "" : ",");
        text_json(out, slice_of(backend_builtin_name(i)));
    }
    text_str(out, "],\"runtimes\":[");
    if (path != NULL) {
        text_str(out, "{\"name\":\"onnxruntime\",\"path\":");
        text_json(out, slice_of(path));
        text_str(out, version != NULL ? ",\"version\":" : ",\"problem\":");
        text_json(out, slice_of(version != NULL ? version : why));
        text_byte(out, '}');
    }
    text_str(out, "]}\n");
}

static void put_words(struct text *out, const char *path, const char *version, const char *why)
{
    text_str(out, "penstock " PENSTOCK_VERSION "\n");
    text_printf(out, "compiler     %s\nbackends     ", version_compiler);
    for (uint32_t i = 0; backend_builtin_name(i) != NULL; i++)
        text_printf(out, "%s%s", i == 0 ? "" : ", ", backend_builtin_name(i));
    text_str(out, "\nonnxruntime  ");
    if (path == NULL) {
        text_str(out, "not found: name the folder of libonnxruntime.so with --runtime-dir");
    } else {
        print_escaped(out, slice_of(version != NULL ? version : path), false);
        text_str(out, version != NULL ? ", " : ": ");
        print_escaped(out, slice_of(version != NULL ? path : why), false);
    }
    text_byte(out, '\n');
}

int verb_version(const struct options *options)
{
    const char *path = runtime_find(options, "onnxruntime"), *why = NULL;
    const char *version = path == NULL ? NULL : onnx_version(path, &why);
    struct text out;

    if (options->arguments_count > 0)
        return print_failure(EXIT_USAGE, "version takes no argument (penstock version --help)");
    text_init(&out, 1 << 16);
    if (options_flag(options, OPT_JSON))
        put_json(&out, path, version, why);
    else
        put_words(&out, path, version, why);
    bool was_whole = print_out(STDOUT_FILENO, &out);
    text_deinit(&out);
    return was_whole ? EXIT_OK : EXIT_FAILED;
}
