/* builtin_test.c - finding backends by name and by file. SPDX-License-Identifier: Apache-2.0 */
#include "backend/builtin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/fake_host.h"
#include "test/harness.h"

/* The plugins are built into the folder `backend` beside the test program. */
static const char *plugin(const char *name)
{
    static char path[4096];
    char self[2048];
    ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);

    self[size > 0 ? size : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash != NULL)
        *slash = '\0';
    snprintf(path, sizeof path, "%s/backend/%s.so", self, name);
    return path;
}

TEST(builtin_names_and_aliases)
{
    static const struct {
        const char *asked, *is;
    } cases[] = {
        { "echo", "echo" },
        { "onnxruntime", "onnxruntime" },
        { "onnx", "onnxruntime" },
        { "onnxruntime_onnx", "onnxruntime" },
        { "onnxruntime_", NULL },
        { "onn", NULL },
        { "ECHO", NULL },
        { " ", NULL },
        { "", NULL },
        { NULL, NULL },
        { "onnx onnxruntime_onnx", NULL },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { .code = OK };
        const struct penstock_backend *backend =
            backend_builtin(cases[i].asked, &fake_host, backend_err(&err));
        check((backend != NULL) == (cases[i].is != NULL), "'%s'", cases[i].asked);
        check(backend == NULL || strcmp(backend->name, cases[i].is) == 0, "'%s'", cases[i].asked);
        check(backend != NULL || (err.code == E_NOT_FOUND && strstr(err.text, "echo") != NULL &&
                                  strstr(err.text, "onnxruntime") != NULL),
              "'%s' says %s", cases[i].asked, err.text);
        check(backend == backend_builtin(cases[i].asked, &fake_host, backend_err(&err)),
              "the second answer is the first");
    }
}

/* What stands in the table twice must agree. */
TEST(builtin_rows_are_what_backends_say)
{
    for (uint32_t i = 0; backend_builtin_name(i) != NULL; i++) {
        struct err err = { .code = OK };
        const struct penstock_backend *backend =
            backend_builtin(backend_builtin_name(i), &fake_host, backend_err(&err));
        check_or_stop(backend != NULL, "%s", err.text);
        check(strcmp(backend->name, backend_builtin_name(i)) == 0, "row %u", i);
        check(backend->size == sizeof *backend && backend->abi == PENSTOCK_BACKEND_ABI, "row %u",
              i);
        char words[256];
        snprintf(words, sizeof words, "%s", backend->aliases != NULL ? backend->aliases : "");
        for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
            check(backend_builtin(word, &fake_host, backend_err(&err)) == backend, "alias %s",
                  word);
    }
    check(backend_builtin_name(UINT32_MAX) == NULL, "past the end");
}

TEST(load_takes_a_plugin)
{
    struct err err = { .code = OK };
    const struct penstock_backend *backend =
        backend_load(plugin("test_plugin_0"), &fake_host, backend_err(&err));

    check_or_stop(backend != NULL, "%s (is it built? ninja)", err.text);
    check(strcmp(backend->name, "test") == 0 && backend->cancel != NULL, "its table");
    check(backend_load(plugin("test_plugin_0"), &fake_host, backend_err(&err)) == backend,
          "a second time");
    /* one built when the table ended sooner: what it lacks is NULL, whatever lies behind it */
    backend = backend_load(plugin("test_plugin_5"), &fake_host, backend_err(&err));
    check_or_stop(backend != NULL, "%s", err.text);
    check(backend->execute != NULL && backend->cancel == NULL && backend->describe == NULL &&
              backend->memory == NULL,
          "its tail");
}

TEST(load_refuses_with_a_sentence)
{
    static const struct {
        const char *name, *says;
    } cases[] = {
        { "test_plugin_1", "ABI 99" },
        { "test_plugin_2", "sizeof(struct penstock_backend)" },
        { "test_plugin_3", "'execute'" },
        { "test_plugin_4", "no device is there" },
        { "test_plugin_missing", "no backend file" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { .code = OK };
        check(backend_load(plugin(cases[i].name), &fake_host, backend_err(&err)) == NULL &&
                  strstr(err.text, cases[i].says) != NULL,
              "%s says %s", cases[i].name, err.text);
    }
    struct err err = { .code = OK };
    check(backend_load("test_plugin_0.so", &fake_host, backend_err(&err)) == NULL &&
              strstr(err.text, "absolute path") != NULL,
          "says %s", err.text);
    check(backend_load(NULL, &fake_host, backend_err(&err)) == NULL, "nothing");
    check(backend_load("/tmp", &fake_host, backend_err(&err)) == NULL, "a folder");
    check(backend_load("/etc/passwd", &fake_host, backend_err(&err)) == NULL &&
              strstr(err.text, "cannot load") != NULL,
          "says %s", err.text);
    check(backend_load(plugin("test_plugin_none"), &fake_host, backend_err(&err)) == NULL &&
              strstr(err.text, "penstock_backend_entry") != NULL,
          "says %s", err.text);
}

/* A name without a slash would be looked for in the library path, a relative one in the working
 * directory: neither may happen even when a good file lies there. */
TEST(load_never_looks_in_the_working_directory)
{
    struct err err = { .code = OK };
    char *was = getcwd(NULL, 0);
    char folder[4096];

    snprintf(folder, sizeof folder, "%s", plugin("test_plugin_0"));
    *strrchr(folder, '/') = '\0';
    check(chdir(folder) == 0, "chdir");
    check(backend_load("./test_plugin_0.so", &fake_host, backend_err(&err)) == NULL,
          "loaded from the working directory");
    check(backend_load("test_plugin_0.so", &fake_host, backend_err(&err)) == NULL,
          "loaded by its bare name");
    check(was != NULL && chdir(was) == 0, "chdir back");
    free(was);
}

TEST(preload_may_be_called_at_any_time)
{
    fake_runtime_path = getenv("PENSTOCK_RUNTIME_DIR");
    backend_preload_wait();
    backend_preload("nonesuch", &fake_host);
    backend_preload("echo", &fake_host);
    backend_preload("onnx", &fake_host);
    backend_preload("onnxruntime", &fake_host);
    backend_preload_wait();
    backend_preload_wait();
    struct err err = { .code = OK };
    check(backend_builtin("onnx", &fake_host, backend_err(&err)) != NULL, "%s", err.text);
}
