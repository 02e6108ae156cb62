/* fake_stage.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/fake_stage.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "api/push.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "repository/repository.h"
#include "telemetry/metrics.h"

struct budget stage_budget;
struct engine *stage_engine;
struct fake_stage stage;

static const struct route_table *const tables[] = { &kserve_rest_routes, &typed_routes,
                                                    &health_routes, &push_routes };

/* Labels are zeros: echo has no INT64 to give. Probabilities are the first three measures. */
static const char iris_config[] = "backend: \"echo\"\ninput [" TENSOR(
    "input", "TYPE_FP32", "-1, 4") "]\n"
                                   "output [" TENSOR("label", "TYPE_INT64", "-1") "," TENSOR(
                                       "probabilities", "TYPE_FP32", "-1, 4") "]\n";
static const char iris_card[] =
    "title: Iris species\ndescription: Which of <four>?\n"
    "inputs:\n  input:\n    features:\n"
    "      - {name: sepal_length, unit: cm, min: 0, max: 30, example: 0.5}\n"
    "      - {name: sepal_width, unit: cm, min: 0, max: 30, example: 0.25}\n"
    "      - {name: petal_length, unit: cm, min: 0, max: 30, example: 0.125}\n"
    "      - {name: petal_width, unit: cm, min: 0, max: 30, example: 0.0625}\n"
    "outputs:\n  label: {role: label, labels: [setosa, versicolor, virginica, none]}\n"
    "  probabilities: {role: probabilities}\n";
const char stage_identity_config[] =
    "backend: \"echo\"\ninput [" TENSOR("x", "TYPE_FP32",
                                        "-1") "]\noutput [" TENSOR("y", "TYPE_FP32", "-1") "]\n";
static const char text_config[] = "backend: \"echo\"\ninput [" TENSOR(
    "text", "TYPE_STRING", "-1, 1") "]\noutput [" TENSOR("said", "TYPE_STRING", "-1, 1") "]\n";

/* The harness belongs to *_test.c alone: what is wrong here ends the program. */
static void insist(bool is_so, const char *what, uint64_t number)
{
    if (is_so)
        return;
    fprintf(stderr, "the stage: %s (%llu)\n", what, (unsigned long long)number);
    abort();
}

void stage_put_file(const char *folder, const char *name, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", stage.root, folder);
    require(mkdir(path, 0777) == 0 || true);
    snprintf(path, sizeof path, "%s/%s/1", stage.root, folder);
    require(mkdir(path, 0777) == 0 || true);
    snprintf(path, sizeof path, "%s/%s/%s", stage.root, folder, name);
    FILE *file = fopen(path, "w");
    require(file != NULL);
    fputs(text, file);
    fclose(file);
}

bool stage_up(void)
{
    memset(&stage, 0, sizeof stage);
    stage.block_bytes = 16384;
    snprintf(stage.root, sizeof stage.root, "/tmp/penstock-api-XXXXXX");
    require(mkdtemp(stage.root) != NULL);
    stage_put_file("iris", "config.pbtxt", iris_config);
    stage_put_file("iris", "model.yaml", iris_card);
    stage_put_file("identity", "config.pbtxt", stage_identity_config);
    stage_put_file("words", "config.pbtxt", text_config);
    return true;
}

bool stage_open(void)
{
    struct err err = { 0 };
    struct engine_settings settings = { .loops_count = 1,
                                        .queue_max = 1,
                                        .budget = &stage_budget,
                                        .inline_typical_ns = 1000000000,
                                        .inline_worst_ns = 1000000000 };
    const char *paths[] = { stage.root };
    struct repository_settings repository = {
        .paths = paths, .paths_count = 1, .load_threads = 1, .models_max = 100
    };

    bool ok = stage_engine != NULL;
    if (!ok) {
        budget_init(&stage_budget, 64 << 20);
        ok = engine_new(&stage_engine, env_real(), &settings, &err) == OK;
    }
    repository.engine = stage_engine;
    struct push_settings push = {
        .env = env_real(), .node = "stage", .events_max = 20, .budget = &stage_budget
    };
    ok = ok && repository_open(&stage.repository, &repository, &err) == OK;
    ok = ok && push_new(&stage.push, &push, &err) == OK;
    if (ok)
        repository_watch(stage.repository, (struct repository_watch){ push_on_change, stage.push });
    ok = ok && repository_load_all(stage.repository, &err) == OK;
    ok = ok && loop_new(&stage.loop, env_real(), 0, &err) == OK;
    stage.metrics = metrics_new();
    insist(ok && stage.metrics != NULL, err.text, err.code);
    engine_set_directory(stage_engine,
                         (struct engine_directory){ repository_want_model, stage.repository });
    stage.api = (struct api){ .engine = stage_engine,
                              .repository = stage.repository,
                              .metrics = stage.metrics,
                              .push = stage.push,
                              .body_bytes_max = 1 << 20,
                              .grpc = { .message_bytes_max = 1 << 20, .option = "--max-message" },
                              .is_strict_ready = true,
                              .is_draining = &stage.is_draining,
                              .server_name = "penstock",
                              .server_version = "0.0.0" };
    return true;
}

void stage_drop_calls(void)
{
    for (unsigned i = 0; i < stage.count; i++) {
        insist(stage.calls[i].is_released, "an exchange is still held", i);
        fake_deinit(&stage.calls[i]);
        arena_free(&stage.arenas[i]);
    }
    stage.count = 0;
}

static int drop(const char *path, const struct stat *st UNUSED, int kind UNUSED,
                struct FTW *at UNUSED)
{
    return remove(path);
}

void stage_down(void)
{
    stage_drop_calls();
    insist(engine_in_flight(stage_engine) == 0, "requests are in flight",
           engine_in_flight(stage_engine));
    if (stage.repository != NULL)
        repository_close(&stage.repository);
    loop_free(&stage.loop);
    push_free(&stage.push);
    insist(budget_used(&stage_budget) == 0, "bytes are charged", budget_used(&stage_budget));
    metrics_free(&stage.metrics);
    nftw(stage.root, drop, 16, FTW_DEPTH | FTW_PHYS);
}

static void on_release(struct fake *fake UNUSED)
{
    if (--stage.open == 0)
        loop_stop(stage.loop);
}

struct fake *stage_make(enum exchange_method method, const char *path, struct slice body)
{
    struct fake *fake = &stage.calls[stage.count];

    require(stage.count < STAGE_CALLS_MAX);
    stage.arenas[stage.count] = arena_new(stage.block_bytes, 16 << 20);
    require(stage.arenas[stage.count] != NULL);
    fake_init(fake, stage.loop, stage.arenas[stage.count], &stage_budget, method, path, body);
    fake->on_release = on_release;
    stage.count++;
    return fake;
}

static struct timer *later;
static uint32_t later_ms;

void stage_later(struct timer *timer, uint32_t ms)
{
    later = timer;
    later_ms = ms;
}

static void start_all(struct loop_msg *msg UNUSED)
{
    if (later != NULL)
        insist(timer_start(stage.loop, later, loop_refresh_ns(stage.loop) + later_ms * NS_PER_MS,
                           NULL) == OK,
               "a timer", later_ms);
    later = NULL;
    for (unsigned i = 0; i < stage.count; i++)
        require(fake_start(&stage.calls[i], &stage.api, tables, COUNT(tables)));
}

void stage_run(void)
{
    struct loop_msg msg = { .run = start_all };

    stage.open = stage.count;
    loop_post(stage.loop, &msg);
    loop_run(stage.loop);
}
