/* repository_test.c - layouts on disk, what is found in them, loaded and answered.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Models are echo's, which need no file, and `fake`, a backend of this test that opens *.fake files
 * and does what stands in them.
 */
#include "repository/repository.h"

#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/budget.h"
#include "base/clock.h"
#include "base/map.h"
#include "engine/engine.h"
#include "io/env.h"
#include "model/config.h"
#include "repository/beneath.h"
#include "repository/scan.h"
#include "test/harness.h"

/* -- a folder of models ------------------------------------------------------------------------ */

static char root[64];

static void make_root(void)
{
    snprintf(root, sizeof root, "/tmp/penstock-repository-XXXXXX");
    require(mkdtemp(root) != NULL);
}

static int drop(const char *path, const struct stat *st UNUSED, int kind UNUSED,
                struct FTW *at UNUSED)
{
    return remove(path);
}

static void drop_root(void)
{
    nftw(root, drop, 16, FTW_DEPTH | FTW_PHYS);
}

/* Puts a file there, folders made as needed; a name that ends in / is a folder. */
static void put(const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        require(mkdir(path, 0777) == 0 || errno == EEXIST);
        *slash = '/';
    }
    if (path[strlen(path) - 1] == '/')
        return;
    FILE *file = fopen(path, "w");
    require(file != NULL);
    fputs(text, file);
    fclose(file);
}

static void put_link(const char *name, const char *target)
{
    char path[512];

    put(name, "");
    snprintf(path, sizeof path, "%s/%s", root, name);
    require(unlink(path) == 0 && symlink(target, path) == 0);
}

static const char *in_root(const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof paths[0], "%s%s%s", root, name[0] != '\0' ? "/" : "", name);
    return path;
}

#define TENSORS                                                \
    "input { name: \"x\" data_type: TYPE_FP32 dims: [ 4 ] }\n" \
    "output { name: \"y\" data_type: TYPE_FP32 dims: [ 4 ] }\n"
static const char echo[] = "backend: \"echo\"\nmax_batch_size: 8\n" TENSORS;

/* -- a backend whose model is a file ----------------------------------------------------------- */

static const struct penstock_host *host;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static bool holds_slow; /* files that say "slow" open when it is false */
static char order[256]; /* names in the order in which they were opened */
static atomic_int models_open;

static int fake_open(void **ret_model, struct penstock_model *model, uint32_t *ret_traits,
                     struct penstock_err *err)
{
    static const int64_t dims[] = { -1, 4 };
    static char handle;
    char text[256] = "";
    FILE *file = fopen(host->model_path(model), "r");

    if (file == NULL)
        return host->fail(err, 5, "cannot open %s", host->model_path(model));
    char *line = fgets(text, sizeof text, file);
    fclose(file);
    if (line == NULL || strncmp(text, "bad", 3) == 0)
        return host->fail(err, 3, "the file says: %s", text);
    pthread_mutex_lock(&opening);
    while (strncmp(text, "slow", 4) == 0 && holds_slow)
        pthread_cond_wait(&opened, &opening);
    size_t at = strlen(order);
    snprintf(order + at, sizeof order - at, "%s ", host->model_name(model));
    pthread_mutex_unlock(&opening);
    if (host->declare(model, false, "x", PENSTOCK_FP32, 2, dims, false, err) != 0 ||
        host->declare(model, true, "y", PENSTOCK_FP32, 2, dims, false, err) != 0)
        return 13;
    *ret_traits = 0;
    *ret_model = &handle;
    atomic_fetch_add(&models_open, 1);
    return 0;
}

static void fake_close(void **model)
{
    *model = NULL;
    atomic_fetch_sub(&models_open, 1);
}

static int fake_instance(void **ret, void *model, uint32_t index UNUSED,
                         struct penstock_place place UNUSED, struct penstock_err *err UNUSED)
{
    *ret = model;
    return 0;
}

static void fake_instance_close(void **instance)
{
    *instance = NULL;
}

static void fake_execute(void *instance UNUSED, struct penstock_batch *batch)
{
    host->done(batch, 12, "nothing runs here");
}

static const struct penstock_backend fake = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof fake,
    .name = "fake",
    .aliases = "make_believe",
    .file = "model.fake",
    .model_open = fake_open,
    .model_close = fake_close,
    .instance_open = fake_instance,
    .instance_close = fake_instance_close,
    .execute = fake_execute,
};
static const struct penstock_backend *const plugins[] = { &fake };

/* -- the repository ---------------------------------------------------------------------------- */

static struct budget budget;
static struct engine *engine;

static const char *no_text(const char *name UNUSED)
{
    return NULL;
}

/* Once: a backend keeps the host that it met first. */
static void start_engine(void)
{
    struct engine_settings settings = { .loops_count = 1,
                                        .queue_max = 10,
                                        .inline_typical_ns = 50000,
                                        .inline_worst_ns = 200000,
                                        .option = no_text,
                                        .runtime_path = no_text,
                                        .budget = &budget };
    struct err err = { 0 };

    if (engine != NULL)
        return;
    budget_init(&budget, 1 << 30);
    require(engine_new(&engine, env_real(), &settings, &err) == OK);
    host = engine_host(engine);
}

static bool gpu_to_cpu; /* of repositories opened from now on */

static enum err_code open_paths(struct repository **ret, const char *const *paths, uint32_t count,
                                uint32_t threads, struct err *err)
{
    struct repository_settings settings = { .engine = engine,
                                            .env = env_real(),
                                            .plugins = plugins,
                                            .plugins_count = 1,
                                            .paths = paths,
                                            .paths_count = count,
                                            .load_threads = threads,
                                            .models_max = 1000,
                                            .gpu_to_cpu = gpu_to_cpu };

    order[0] = '\0';
    return repository_open(ret, &settings, err);
}

/* "iris:1:READY* bad:1:UNAVAILABLE " - a star marks what a request without a version gets. */
static const char *listed(struct repository *repository)
{
    static char text[4096];
    struct repository_snapshot snapshot;
    size_t at = 0;

    text[0] = '\0';
    repository_snapshot_take(repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        const struct repository_entry *e = &snapshot.entries[i];
        at += (size_t)snprintf(text + at, sizeof text - at, "%s:%s:%s%s ", e->name, e->version,
                               model_state_name(e->state), e->is_default ? "*" : "");
        check((e->state == MODEL_READY) == (e->model != NULL), "%s", e->name);
        check((e->state == MODEL_UNAVAILABLE) == (e->reason[0] != '\0'), "%s: '%s'", e->name,
              e->reason);
    }
    repository_snapshot_give(&snapshot);
    return text;
}

static const char *reason_of(struct repository *repository, const char *name)
{
    static char text[1024];
    struct repository_snapshot snapshot;

    text[0] = '\0';
    repository_snapshot_take(repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        if (strcmp(snapshot.entries[i].name, name) == 0)
            snprintf(text, sizeof text, "%s", snapshot.entries[i].reason);
    }
    repository_snapshot_give(&snapshot);
    return text;
}

/* Loads what lies below root at `path` and compares the list. */
static void expect(const char *path, const char *list, const char *why)
{
    const char *paths[] = { in_root(path) };
    struct repository *repository = NULL;
    struct err err = { 0 };

    start_engine();
    if (open_paths(&repository, paths, 1, 2, &err) != OK ||
        repository_load_all(repository, &err) != OK)
        check(strcmp(list, err.text) == 0, "%s: '%s'", why, err.text);
    else
        check(strcmp(list, listed(repository)) == 0, "%s: '%s'", why, listed(repository));
    repository_close(&repository);
    check(atomic_load(&models_open) == 0, "%s: every model is closed", why);
}

static void expect_reason(const char *path, const char *name, const char *part)
{
    const char *paths[] = { in_root(path) };
    struct repository *repository = NULL;
    struct err err = { 0 };

    start_engine();
    if (open_paths(&repository, paths, 1, 2, &err) == OK &&
        repository_load_all(repository, &err) == OK)
        check(strstr(reason_of(repository, name), part) != NULL, "%s: '%s'", name,
              reason_of(repository, name));
    else
        check(false, "%s: %s", name, err.text);
    repository_close(&repository);
}

/* -- layouts ----------------------------------------------------------------------------------- */

TEST(layouts)
{
    make_root();
    put("triton/iris/config.pbtxt", echo);
    put("triton/iris/1/", "");
    put("triton/wine/1/model.fake", "ok");
    put("triton/wine/model.yaml", "title: Wine\n");
    put("triton/.hidden/1/model.fake", "ok");
    put("triton/README.md", "words");
    expect("triton", "iris:1:READY* wine:1:READY* ", "Triton's layout, with and without config");
    expect("triton/wine", "wine:1:READY* ", "a folder that is one model");
    expect("triton/wine/", "wine:1:READY* ", "the same with a slash");
    expect("triton/wine/1", "1:1:READY* ", "a folder that holds a backend's own file");
    expect("triton/wine/1/model.fake", "model:1:READY* ", "a file");
    expect("", "iris:1:READY* wine:1:READY* ", "a folder of folders of models");

    put("bare/a.fake", "ok");
    put("bare/b.fake", "ok");
    put("bare/b.yaml", "title: B\n");
    put("bare/b.txt", "words");
    expect("bare", "a:1:READY* b:1:READY* ", "a folder of files");
    expect("bare/b.fake", "b:1:READY* ", "one of them");

    put("carded/a.fake", "ok");
    put("carded/b.fake", "ok");
    put("carded/model.yaml", "title: A\n");
    expect("carded", "carded::UNAVAILABLE ", "model.yaml makes a folder one model");
    expect_reason("carded", "carded", "taken for one model by its model.yaml");

    put("mixed/a.fake", "ok");
    put("mixed/c/1/model.fake", "ok");
    put("mixed/more/d.fake", "ok");
    put("mixed/e/config.pbtxt", echo);
    put("mixed/f/other.fake", "ok");
    put("mixed/f/config.pbtxt", "backend: \"make_believe\"");
    expect("mixed", "a:1:READY* c:1:READY* d:1:READY* e:1:READY* f:1:READY* ",
           "mixed; echo without versions, and a file without version folder");

    put("dir/m/1/model.fake/model.fake", "ok");
    expect("dir", "m:1:READY* ", "a folder named as the file, as for large weights");
    drop_root();
}

/* Root reads everything, so that it is nobody for a while. */
TEST(what_may_not_be_read_is_a_model_that_says_so)
{
    enum { NOBODY = 65534 };
    bool was_root = geteuid() == 0;

    start_engine();
    make_root();
    put("m/good/1/model.fake", "ok");
    put("m/shut/1/model.fake", "ok");
    put("m/lost+found/1/model.fake", "ok");
    put("m/version/1/model.fake", "ok");
    require(chmod(in_root(""), 0755) == 0 && chmod(in_root("m/shut"), 0) == 0 &&
            chmod(in_root("m/lost+found"), 0) == 0 && chmod(in_root("m/version/1"), 0) == 0);
    require(!was_root || seteuid(NOBODY) == 0);
    expect("m", "good:1:READY* shut::UNAVAILABLE version:1:UNAVAILABLE ", "two cannot be read");
    expect_reason("m", "shut", "m/shut: Permission denied");
    expect_reason("m", "version", "m/version/1: Permission denied");
    require(!was_root || seteuid(0) == 0);
    require(chmod(in_root("m/shut"), 0755) == 0 && chmod(in_root("m/lost+found"), 0755) == 0 &&
            chmod(in_root("m/version/1"), 0755) == 0);
    drop_root();
}

TEST(versions_and_their_policy)
{
    make_root();
    for (int i = 1; i <= 12; i++) {
        char name[64];
        snprintf(name, sizeof name, "m/%d/model.fake", i);
        put(name, "ok");
    }
    put("m/01/model.fake", "ok");
    put("m/v1/model.fake", "ok");
    put("m/0/model.fake", "ok");
    put("m/99999999999999999999/model.fake", "ok");
    put("m/7x/model.fake", "ok");
    expect("m", "m:12:READY* ", "the latest one is the default");
    put("m/config.pbtxt", "version_policy { latest { num_versions: 3 } }");
    expect("m", "m:10:READY m:11:READY m:12:READY* ", "latest 3, by number and not by text");
    put("m/config.pbtxt", "version_policy { specific { versions: [ 2, 9, 40 ] } }");
    expect("m", "m:2:READY m:9:READY* m:40:UNAVAILABLE ", "specific, one is missing");
    put("m/config.pbtxt", "version_policy { all { } }");
    put("m/12/model.fake", "bad");
    expect("m",
           "m:1:READY m:2:READY m:3:READY m:4:READY m:5:READY m:6:READY m:7:READY m:8:READY "
           "m:9:READY m:10:READY m:11:READY* m:12:UNAVAILABLE ",
           "all; the default is the newest that is ready");
    drop_root();
}

TEST(a_bad_model_says_why_and_stops_no_good_one)
{
    make_root();
    put("good/1/model.fake", "ok");
    put("bad_file/1/model.fake", "bad luck");
    put("bad_config/config.pbtxt", "backend: \"echo\"\nmax_batch: 8\n");
    put("bad_card/1/model.fake", "ok");
    put("bad_card/model.yaml", "titel: x\n");
    put("no_backend/config.pbtxt", "backend: \"tensorflow\"\n");
    put("no_file/1/weights.bin", "x");
    put("no_file/config.pbtxt", "backend: \"fake\"\n");
    put("no_version/config.pbtxt", "backend: \"fake\"\n");
    put("nothing/1/readme", "x");
    put("wrong_name/1/model.fake", "ok");
    put("wrong_name/config.pbtxt", "backend: \"fake\" default_model_filename: \"other.fake\"\n");
    expect("",
           "bad_card:1:UNAVAILABLE bad_config::UNAVAILABLE bad_file:1:UNAVAILABLE good:1:READY* "
           "no_backend::UNAVAILABLE no_file:1:UNAVAILABLE no_version::UNAVAILABLE "
           "nothing:1:UNAVAILABLE wrong_name:1:UNAVAILABLE ",
           "each its own way");
    expect_reason("", "bad_file", "the file says: bad luck");
    expect_reason("", "bad_config", "config.pbtxt: line 2");
    expect_reason("", "bad_card", "model.yaml: line 1");
    expect_reason("", "no_backend",
                  "asks for backend 'tensorflow', which is not here; there are: fake");
    expect_reason("", "no_file", "/no_file/1 holds no model.fake; there: weights.bin");
    expect_reason("", "no_version", "/no_version has no version folder; expected is ");
    expect_reason("", "no_version", "/no_version/1/model.fake");
    expect_reason("", "nothing", "files that are opened end in .fake");
    expect_reason("", "wrong_name", "/wrong_name/1 holds no other.fake; there: model.fake");
    drop_root();
}

/* A model that asks for a GPU is told which of its groups does; with --gpu-to-cpu it is served. */
TEST(a_gpu_that_is_not_there)
{
    make_root();
    put("gpu/config.pbtxt", "backend: \"fake\" instance_group [{ kind: KIND_AUTO gpus: 0 }, { name: "
                            "\"fast\" kind: KIND_GPU gpus: [0, 1] }]");
    put("gpu/1/model.fake", "ok");
    put("cpu/config.pbtxt", "backend: \"fake\" instance_group { kind: KIND_CPU }");
    put("cpu/1/model.fake", "ok");
    put("auto/config.pbtxt", "backend: \"fake\" instance_group { gpus: 3 }");
    put("auto/1/model.fake", "ok");
    expect("", "auto:1:READY* cpu:1:READY* gpu:1:UNAVAILABLE ", "only KIND_GPU must have one");
    expect_reason("", "gpu",
                  "config.pbtxt: instance_group[1] 'fast' asks for KIND_GPU, and this server has no "
                  "GPU");
    expect_reason("", "gpu", "--gpu-to-cpu");
    gpu_to_cpu = true;
    expect("", "auto:1:READY* cpu:1:READY* gpu:1:READY* ", "--gpu-to-cpu");
    gpu_to_cpu = false;
    drop_root();
}

TEST(paths_that_hold_nothing)
{
    struct err err = { 0 };
    struct repository *repository = NULL;

    make_root();
    put("empty/", "");
    put("file.txt", "words");
    start_engine();
    static const struct {
        const char *path;
        enum err_code code;
        const char *part;
    } cases[] = {
        { "empty", E_NOT_FOUND, "no model was found in " },
        { "missing", E_NOT_FOUND, "/missing: No such file or directory" },
        { "file.txt", E_INVALID, "file.txt is no model that can be opened here; files that are" },
        { "file.txt/x", E_NOT_FOUND, "Not a directory" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *paths[] = { in_root(cases[i].path) };
        enum err_code code = open_paths(&repository, paths, 1, 1, &err);
        check(code == cases[i].code, "%s: %d %s", cases[i].path, code, err.text);
        check(strstr(err.text, cases[i].part) != NULL, "%s: %s", cases[i].path, err.text);
        check(repository == NULL, "%s", cases[i].path);
    }
    drop_root();
}

TEST(two_models_of_one_name)
{
    struct err err = { 0 };
    struct repository *repository = NULL;

    make_root();
    put("a/iris/1/model.fake", "ok");
    put("b/iris.fake", "ok");
    put("b/wine.fake", "ok");
    const char *paths[] = { in_root("a"), in_root("b"), in_root("a/iris") };
    start_engine();
    check_or_stop(open_paths(&repository, paths, 3, 1, &err) == OK, "%s", err.text);
    check_or_stop(repository_load_all(repository, &err) == OK, "%s", err.text);
    check(strcmp(listed(repository), "iris::UNAVAILABLE wine:1:READY* ") == 0, "%s",
          listed(repository));
    check(strstr(reason_of(repository, "iris"), in_root("a/iris")) != NULL, "%s",
          reason_of(repository, "iris"));
    check(strstr(reason_of(repository, "iris"), in_root("b/iris.fake")) != NULL, "%s",
          reason_of(repository, "iris"));
    repository_close(&repository);
    /* The same model named twice is one model. */
    const char *twice[] = { in_root("a"), in_root("a/iris"), in_root("a/") };
    check_or_stop(open_paths(&repository, twice, 3, 1, &err) == OK, "%s", err.text);
    check(strcmp(listed(repository), "iris:1:LOADING ") == 0, "%s", listed(repository));
    repository_close(&repository);
    drop_root();
}

TEST(names_from_files)
{
    make_root();
    put("<script>alert(1)</script.fake", "ok");
    rmdir(in_root("<script>alert(1)<"));
    put("a b'\"$(x).fake", "ok");
    put("new\nline.fake", "ok");
    put("\x1b[31mred/1/model.fake", "ok");
    put("not\xffutf8.fake", "ok");
    put("\xc2\x9b.fake", "ok");
    put("m\xc3\xbcller.fake", "ok");
    expect("",
           "\\x1b[31mred::UNAVAILABLE \\xc2\\x9b:1:UNAVAILABLE a b'\"$(x):1:READY* "
           "m\xc3\xbcller:1:READY* new\\x0aline:1:UNAVAILABLE not\\xffutf8:1:UNAVAILABLE "
           "script:1:READY* ",
           "what does not print is refused and shown escaped; anything else is a name");
    drop_root();
}

/* -- confinement ------------------------------------------------------------------------------- */

TEST(nothing_leads_out_of_the_folder)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(1024, 1 << 20);
    struct slice text;
    struct err err = { 0 };

    make_root();
    put("outside.txt", "secret");
    put("m/labels.txt", "a\nb\n");
    put("m/sub/deep.txt", "deep");
    put_link("m/inside", "sub/deep.txt");
    put_link("m/up", "../outside.txt");
    put_link("m/absolute", "/etc/passwd");
    put_link("m/folder", "..");
    put_link("m/loop", "loop");
    static const struct {
        const char *name;
        enum err_code code;
    } cases[] = {
        { "labels.txt", OK },
        { "sub/deep.txt", OK },
        { "inside", OK },
        { "sub/../labels.txt", OK },
        { "up", E_PERMISSION },
        { "absolute", E_PERMISSION },
        { "../outside.txt", E_PERMISSION },
        { "folder/outside.txt", E_PERMISSION },
        { "/etc/passwd", E_PERMISSION },
        { "loop", E_PERMISSION },
        { "missing", E_NOT_FOUND },
        { "sub", E_INVALID },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *path;
        enum err_code code = beneath_read(&text, arena, in_root("m"), cases[i].name, 100, &err);
        check(code == cases[i].code, "read %s: %d %s", cases[i].name, code, err.text);
        if (cases[i].code == E_INVALID)
            continue;
        code = beneath_path(&path, arena, in_root("m"), cases[i].name, &err);
        check(code == cases[i].code, "path %s: %d %s", cases[i].name, code, err.text);
    }
    check(beneath_read(&text, arena, in_root("m"), "labels.txt", 3, &err) == E_INVALID, "%s",
          err.text);

    put("models/leak/1/", "");
    put_link("models/leak/1/model.fake", "../../../outside.txt");
    put("models/shared/weights/w.fake", "ok");
    put("models/shared/1/", "");
    put_link("models/shared/1/model.fake", "../weights/w.fake");
    put("models/card/1/model.fake", "ok");
    put("models/card/model.yaml", "outputs:\n  y: {labels_file: ../../outside.txt}\n");
    put("real/w/1/model.fake", "ok");
    put_link("models/linked", "../real/w");
    expect("models", "card:1:UNAVAILABLE leak:1:UNAVAILABLE linked:1:READY* shared:1:READY* ",
           "links within a model are fine, and so is a link to a model");
    expect_reason("models", "leak", "leads out of the model's folder");
    expect_reason("models", "card", "leads out of the model's folder");
    drop_root();
}

/* -- loading ----------------------------------------------------------------------------------- */

static void *load_main(void *repository)
{
    struct err err = { 0 };

    require(repository_load_all(repository, &err) == OK);
    return NULL;
}

TEST(a_slow_model_delays_no_other)
{
    struct err err = { 0 };
    struct repository *repository = NULL;
    struct model *model = NULL;
    pthread_t loader;

    make_root();
    put("a_slow.fake", "slow, and a large file ........................");
    put("b.fake", "ok");
    put("c.fake", "ok");
    const char *paths[] = { root };
    holds_slow = true;
    start_engine();
    check_or_stop(open_paths(&repository, paths, 1, 2, &err) == OK, "%s", err.text);
    check(!repository_is_ready(repository), "loading is not over");
    check(repository_want_model(repository, &model, slice_of("b"), slice_of(""), &err) ==
              E_UNAVAILABLE,
          "%s", err.text);
    check(strcmp(err.text,
                 "model 'b' version 1 is not at ready state (LOADING)") == 0,
          "%s", err.text);
    check(err.retry_after_ms == 1000, "%u", err.retry_after_ms);
    pthread_create(&loader, NULL, load_main, repository);
    uint64_t begun = clock_mono_ns();
    while (strcmp(listed(repository), "a_slow:1:LOADING b:1:READY* c:1:READY* ") != 0 &&
           clock_mono_ns() - begun < 10 * NS_PER_S)
        usleep(1000);
    check(strcmp(listed(repository), "a_slow:1:LOADING b:1:READY* c:1:READY* ") == 0, "%s",
          listed(repository));
    check(!repository_is_ready(repository), "one still loads");
    check(repository_want_model(repository, &model, slice_of("b"), slice_of(""), &err) == OK, "%s",
          err.text);
    model_unref(&model);
    pthread_mutex_lock(&opening);
    holds_slow = false;
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&opening);
    pthread_join(loader, NULL);
    check(repository_is_ready(repository), "%s", listed(repository));
    check(strstr(order, "a_slow") > strstr(order, "b "), "small ones first: %s", order);
    repository_close(&repository);
    drop_root();
}

TEST(the_table_has_a_bound)
{
    struct err err = { 0 };
    struct repository *repository = NULL;

    make_root();
    put("a.fake", "ok");
    put("b.fake", "ok");
    put("c.fake", "ok");
    start_engine();
    const char *paths[] = { root };
    struct repository_settings settings = { .engine = engine,
                                            .env = env_real(),
                                            .plugins = plugins,
                                            .plugins_count = 1,
                                            .paths = paths,
                                            .paths_count = 1,
                                            .load_threads = 4,
                                            .models_max = 2 };
    check_or_stop(repository_open(&repository, &settings, &err) == OK, "%s", err.text);
    check_or_stop(repository_load_all(repository, &err) == OK, "%s", err.text);
    check(strcmp(listed(repository), "a:1:READY* b:1:READY* ") == 0, "%s", listed(repository));
    check(!repository_is_ready(repository), "what was left away is not ready");
    repository_close(&repository);
    drop_root();
}

TEST(asking_for_models)
{
    static const struct {
        const char *name, *version;
        enum err_code code;
        const char *text;
    } cases[] = {
        { "iris", "", OK, "" },
        { "iris", "2", OK, "" },
        { "iris", "02", OK, "" },
        { "iris", "1", E_NOT_FOUND,
          "Request for unknown model: 'iris' version 1 is not found; there are: 2" },
        { "irsi", "", E_NOT_FOUND,
          "Request for unknown model: 'irsi' is not found; did you mean 'iris'?" },
        { "elephant", "", E_NOT_FOUND,
          "Request for unknown model: 'elephant' is not found; there are: bad, iris" },
        { "", "", E_NOT_FOUND, "Request for unknown model: '' is not found; there are: bad, iris" },
        { "../iris", "", E_NOT_FOUND,
          "Request for unknown model: '../iris' is not found; there are: bad, iris" },
        { "bad", "", E_UNAVAILABLE,
          "model 'bad' version 1 is not at ready state (UNAVAILABLE: the file "
          "says: bad)" },
        { "iris", "0", E_INVALID,
          "version '0' of model 'iris': a version is a whole number from 1" },
        { "iris", "x", E_INVALID,
          "version 'x' of model 'iris': a version is a whole number from 1" },
        { "iris", "-1", E_INVALID,
          "version '-1' of model 'iris': a version is a whole number from 1" },
        { "iris", "99999999999999999999", E_INVALID,
          "version '99999999999999999999' of model 'iris': a version is a whole number from 1" },
    };
    struct err err = { 0 };
    struct repository *repository = NULL;

    make_root();
    put("iris/2/model.fake", "ok");
    put("bad/1/model.fake", "bad");
    const char *paths[] = { root };
    start_engine();
    check_or_stop(open_paths(&repository, paths, 1, 1, &err) == OK, "%s", err.text);
    check_or_stop(repository_load_all(repository, &err) == OK, "%s", err.text);
    check(!repository_is_ready(repository), "one is not");
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct model *model = NULL;
        err.text[0] = '\0';
        enum err_code code = repository_want_model(repository, &model, slice_of(cases[i].name),
                                                   slice_of(cases[i].version), &err);
        check(code == cases[i].code, "%s %s: %d", cases[i].name, cases[i].version, code);
        check(strcmp(err.text, cases[i].text) == 0, "%s %s: %s", cases[i].name, cases[i].version,
              err.text);
        check((code == OK) == (model != NULL), "%s", cases[i].name);
        check(model == NULL || model_version(model) == 2, "%s", cases[i].name);
        model_unref(&model);
    }
    repository_close(&repository);
    drop_root();
}

/* -- many at once ------------------------------------------------------------------------------ */

static atomic_bool readers_stop;

static void *reader_main(void *arg)
{
    struct repository *repository = arg;
    uint64_t found = 0;

    while (!atomic_load(&readers_stop)) {
        struct repository_snapshot snapshot;
        struct model *model = NULL;
        struct err err = { 0 };
        if (repository_want_model(repository, &model, slice_of("m7"), slice_of("1"), &err) == OK)
            found += (uint64_t)model_version(model);
        model_unref(&model);
        repository_snapshot_take(repository, &snapshot);
        for (uint32_t i = 0; i < snapshot.count; i++)
            found += snapshot.entries[i].name[0] == 'm';
        repository_snapshot_give(&snapshot);
    }
    return (void *)(uintptr_t)(found > 0);
}

TEST(readers_while_tables_are_exchanged)
{
    struct err err = { 0 };
    struct repository *repository = NULL;
    pthread_t readers[3];

    make_root();
    for (int i = 0; i < 40; i++) {
        char name[32];
        snprintf(name, sizeof name, "m%d.fake", i);
        put(name, "ok");
    }
    const char *paths[] = { root };
    start_engine();
    check_or_stop(open_paths(&repository, paths, 1, 4, &err) == OK, "%s", err.text);
    atomic_store(&readers_stop, false);
    for (size_t i = 0; i < COUNT(readers); i++)
        pthread_create(&readers[i], NULL, reader_main, repository);
    check(repository_load_all(repository, &err) == OK, "%s", err.text);
    usleep(20000);
    atomic_store(&readers_stop, true);
    for (size_t i = 0; i < COUNT(readers); i++) {
        void *has_found;
        pthread_join(readers[i], &has_found);
        check(has_found != NULL, "reader %zu", i);
    }
    check(repository_is_ready(repository), "all are loaded");
    repository_close(&repository);
    check(atomic_load(&models_open) == 0, "%d are open", atomic_load(&models_open));
    drop_root();
}

TEST(a_lookup_is_cheap)
{
    enum { ROUNDS = 1000000 };
    struct err err = { 0 };
    struct repository *repository = NULL;
    struct model *model = NULL;

    make_root();
    for (int i = 0; i < 100; i++) {
        char name[32];
        snprintf(name, sizeof name, "model_%d.fake", i);
        put(name, "ok");
    }
    const char *paths[] = { root };
    start_engine();
    check_or_stop(open_paths(&repository, paths, 1, 1, &err) == OK, "%s", err.text);
    check_or_stop(repository_load_all(repository, &err) == OK, "%s", err.text);
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < 5; round++) {
        uint64_t begun = clock_mono_ns();
        for (int i = 0; i < ROUNDS / 5; i++) {
            require(repository_want_model(repository, &model, slice_of("model_42"), slice_of(""),
                                          &err) == OK);
            model_unref(&model);
        }
        best = MIN(best, (clock_mono_ns() - begun) / (ROUNDS / 5));
    }
    printf("# a lookup with its reference given back: %llu ns\n", (unsigned long long)best);
    /* 40 is the aim without sanitizers; what fails here is a lock or a scan that crept in. */
    check(best < 2000, "%llu ns", (unsigned long long)best);
    repository_close(&repository);
    drop_root();
}

/* -- faults ------------------------------------------------------------------------------------ */

TEST(opening_survives_every_fault)
{
    make_root();
    put("iris/config.pbtxt", echo);
    put("wine/1/model.fake", "ok");
    put("wine/model.yaml", "title: Wine\noutputs:\n  y: {labels_file: labels.txt}\n");
    put("wine/labels.txt", "a\nb\nc\nd\n");
    put("b.fake", "ok");
    const char *paths[] = { root };
    start_engine();
    uint64_t used = budget_used(&budget);
    for_each_fault(nth) {
        struct repository *repository = NULL;
        struct err err = { 0 };
        enum err_code code = open_paths(&repository, paths, 1, 1, &err);
        if (code == OK)
            code = repository_load_all(repository, &err);
        bool has_fired = fault_fired();
        fault_arm(0);
        check(code == OK || err.text[0] != '\0', "fault %u was silent", nth);
        if (code == OK && !has_fired)
            check(repository_is_ready(repository), "fault %u: %s", nth, listed(repository));
        repository_close(&repository);
        check(atomic_load(&models_open) == 0, "fault %u: %d open", nth, atomic_load(&models_open));
        check(budget_used(&budget) == used, "fault %u leaked", nth);
        if (!has_fired)
            break;
    }
    drop_root();
}
