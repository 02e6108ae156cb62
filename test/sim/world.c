/* world.c - a server with its models, the people around it, and what must hold at the end.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The server is the program's own: `penstock serve` with a command line, started as main.c of src/cli starts
 * it, stopped by a SIGTERM.
 */
#include "test/sim/world.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/options.h"
#include "cli/stop.h"
#include "cli/verbs.h"
#include "test/sim/people.h"

static char folder[256];
static struct bytes said; /* what the server printed */
static int status;
static bool shows_output;

/* -- models --------------------------------------------------------------------------------------- */

#define PARAMETER(key, value) "parameters { key: \"" key "\" value { string_value: \"" value "\" } }\n"
#define INT32_IN_OUT                                                                                 \
    "input { name: \"IN\" data_type: TYPE_INT32 dims: [ -1 ] }\n"                                    \
    "output { name: \"OUT\" data_type: TYPE_INT32 dims: [ -1 ] }\n"
#define TEXT_IN_OUT(in, out)                                                                         \
    "input { name: \"" in "\" data_type: TYPE_STRING dims: [ 1 ] }\n"                                \
    "output { name: \"" out "\" data_type: TYPE_STRING dims: [ 1 ] }\n"
#define MANY_ANSWERS "model_transaction_policy { decoupled: true }\n"

static const struct {
    const char *name, *config;
} models[] = {
    { "ident", INT32_IN_OUT },
    { "words", TEXT_IN_OUT("TEXT", "TEXT") },
    { "slow", INT32_IN_OUT PARAMETER("mode", "delay") PARAMETER("delay_ms", "3") },
    { "ticks", INT32_IN_OUT MANY_ANSWERS PARAMETER("mode", "repeat") PARAMETER("count", "5")
                   PARAMETER("delay_ms", "2") },
    { "chat", TEXT_IN_OUT("IN", "OUT") "output { name: \"turn\" data_type: TYPE_INT64 dims: [ 1 ] }\n" MANY_ANSWERS
                  PARAMETER("mode", "chat") PARAMETER("count", "2") PARAMETER("delay_ms", "1") },
    { "broken", INT32_IN_OUT PARAMETER("mode", "fail") PARAMETER("code", "RESOURCE_EXHAUSTED") },
    { "batch", "max_batch_size: 4096\n"
               "input { name: \"IN\" data_type: TYPE_INT32 dims: [ 1 ] }\n"
               "output { name: \"OUT\" data_type: TYPE_INT32 dims: [ 1 ] }\n" },
};

static void write_file(const char *path, const char *text)
{
    FILE *out = fopen(path, "w");

    if (out == NULL || fputs(text, out) < 0 || fclose(out) != 0) {
        perror(path);
        exit(1);
    }
}

void world_make_models(void)
{
    char path[512], text[2048];

    snprintf(folder, sizeof folder, "%s/penstock-sim-XXXXXX",
             getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    if (mkdtemp(folder) == NULL) {
        perror(folder);
        exit(1);
    }
    for (size_t i = 0; i < COUNT(models); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, models[i].name);
        mkdir(path, 0700);
        snprintf(path, sizeof path, "%s/%s/1", folder, models[i].name);
        mkdir(path, 0700);
        snprintf(path, sizeof path, "%s/%s/config.pbtxt", folder, models[i].name);
        snprintf(text, sizeof text, "backend: \"echo\"\n%s", models[i].config);
        write_file(path, text);
    }
}

void world_remove_models(void)
{
    char path[512];

    for (size_t i = 0; i < COUNT(models); i++) {
        snprintf(path, sizeof path, "%s/%s/config.pbtxt", folder, models[i].name);
        unlink(path);
        snprintf(path, sizeof path, "%s/%s/1", folder, models[i].name);
        rmdir(path);
        snprintf(path, sizeof path, "%s/%s", folder, models[i].name);
        rmdir(path);
    }
    rmdir(folder);
}

/* -- the server ------------------------------------------------------------------------------------- */

enum { ARGUMENTS_MAX = 40 };

static struct {
    const char *items[ARGUMENTS_MAX];
    int count;
} arguments;

static void argument(const char *text)
{
    if (arguments.count < ARGUMENTS_MAX - 1)
        arguments.items[arguments.count++] = text;
}

static void draw_arguments(bool is_plain)
{
    static const char *const executions[] = { "auto", "auto", "inline", "queued" };
    static const char *const loops[] = { "1", "2", "2", "3" };

    memset(&arguments, 0, sizeof arguments);
    argument("penstock");
    argument("serve");
    argument(folder);
    argument("--listen");
    argument("127.0.0.1:8000");
    argument("--drain-timeout");
    argument("20s");
    argument("--upload-time");
    argument("10s");
    argument("--loops");
    argument(is_plain ? "2" : loops[draw_below(CHANCE_WEATHER, COUNT(loops))]);
    argument("--execution");
    argument(is_plain ? "auto" : executions[draw_below(CHANCE_WEATHER, COUNT(executions))]);
    argument("--load-threads");
    argument(is_plain || draw_below(CHANCE_WEATHER, 2) == 0 ? "1" : "4");
    if (!is_plain && draw_below(CHANCE_WEATHER, 3) == 0) {
        argument("--pipeline-max");
        argument(draw_below(CHANCE_WEATHER, 2) == 0 ? "1" : "3");
    }
}

void sim_output(int fd, const void *data, size_t size)
{
    (void)fd;
    bytes_put(&said, data, size);
    sim_digest(data, size);
    if (shows_output)
        real_syscall(1, 2, data, size);
    if (!world.is_ready && bytes_find(&said, "listening on") != NULL)
        world.is_ready = true;
}

static void *server_main(void *arg)
{
    static const char *const environment[] = { NULL };
    struct options *options = NULL;
    struct err err = { 0 };

    (void)arg;
    enum err_code code =
        options_read(&options, arguments.count, arguments.items, environment, &err);
    if (code != OK) {
        sim_output(2, err.text, strlen(err.text));
        status = 2;
    } else {
        status = verb_serve(options);
    }
    options_free(&options);
    return NULL;
}

/* -- the people around it ---------------------------------------------------------------------------- */

static struct {
    uint32_t to_come;
    uint64_t between_ns;
    bool stops_amid, is_inspecting;
} crowd;

static void send_term(void)
{
    if (world.is_stopping)
        return;
    sim_note("SIGTERM");
    world.is_stopping = true;
    sim_signal_process(15);
}

static void on_term(void *arg)
{
    (void)arg;
    send_term();
}

static void on_inspect(void *arg)
{
    (void)arg;
    inspector_begin(send_term);
}

static void on_watch(void *arg)
{
    (void)arg;
    if (world.is_stopping)
        return;
    if (crowd.to_come == 0 && world.people_left == 0 && !crowd.is_inspecting) {
        crowd.is_inspecting = true;
        sim_after(40 * SIM_S, on_inspect, NULL); /* who lingers has gone by then */
        return;
    }
    if (!crowd.is_inspecting)
        sim_after(10 * SIM_MS, on_watch, NULL);
}

static void come(void)
{
    static void (*const kinds[])(void) = { http1_person, http1_person, http1_person, http1_spoiler,
                                           websocket_person, upload_person, http2_person, http2_person };

    kinds[draw_below(CHANCE_PEOPLE, COUNT(kinds))]();
}

static void on_come(void *arg)
{
    (void)arg;
    if (world.is_stopping)
        return;
    uint64_t at_once = draw_below(CHANCE_PEOPLE, 5) == 0 ? draw_between(CHANCE_PEOPLE, 2, 8) : 1;
    for (; at_once > 0 && crowd.to_come > 0; at_once--) {
        crowd.to_come--;
        come();
    }
    if (crowd.to_come > 0)
        sim_after(draw_below(CHANCE_PEOPLE, crowd.between_ns + 1), on_come, NULL);
}

/* Nobody comes before there is a listener; some come before there is a model. */
static void on_open(void *arg)
{
    (void)arg;
    if (sim_threads_left() == 0)
        return;
    if (!net_is_listening(PORT)) {
        sim_after(SIM_MS, on_open, NULL);
        return;
    }
    fault_plan.is_open = true;
    sim_after(draw_below(CHANCE_PEOPLE, 5 * SIM_MS), on_come, NULL);
    sim_after(SIM_MS, on_watch, NULL);
    if (crowd.stops_amid)
        sim_after(draw_below(CHANCE_PEOPLE, 200 * SIM_MS), on_term, NULL);
}

static uint32_t open_descriptors(void)
{
    uint32_t count = 0;
    DIR *all = opendir("/proc/self/fd");
    const struct dirent *entry;

    while (all != NULL && (entry = readdir(all)) != NULL)
        count += entry->d_name[0] != '.';
    if (all != NULL)
        closedir(all);
    return count;
}

static void judge(uint32_t descriptors_before)
{
    char names[512];
    uint64_t bytes, count;

    if (net_descriptors(names, sizeof names) != 0)
        sim_fail("the server has ended, and descriptors are open: %s", names);
    if (open_descriptors() != descriptors_before)
        sim_fail("the server has ended, and %d files are open",
                 (int)open_descriptors() - (int)descriptors_before);
    count = memory_live(&bytes);
    if (count != 0) {
        memory_say_live();
        sim_fail("the server has ended, and %llu allocations of %llu bytes were never freed",
                 (unsigned long long)count, (unsigned long long)bytes);
    }
    if (status != 0 && weather_is_kind())
        sim_fail("the server ended with status %d:\n%.*s", status, (int)said.size,
                 (const char *)said.data);
    if (status != 0 && bytes_find(&said, "penstock: ") == NULL && said.size < 20)
        sim_fail("the server ended with status %d and no word why", status);
}

void world_run(uint64_t seed, bool is_verbose)
{
    uint32_t descriptors = open_descriptors();

    shows_output = is_verbose;
    sim_begin(seed, is_verbose);
    memory_trace(is_verbose);
    memset(&world, 0, sizeof world);
    weather_draw();
    draw_arguments(false);
    fault_plan.is_open = draw_below(CHANCE_WEATHER, 4) == 0; /* else once it serves */
    crowd.to_come = (uint32_t)draw_between(CHANCE_PEOPLE, 1, 12);
    crowd.between_ns = draw_below(CHANCE_PEOPLE, 30 * SIM_MS);
    crowd.stops_amid = draw_below(CHANCE_WEATHER, 4) == 0;
    sim_after(SIM_MS, on_open, NULL);
    sim_run(server_main, NULL);
    fault_plan.is_open = false;
    judge(descriptors);
}

void world_text(char *out, size_t room)
{
    size_t at = 0;

    at += (size_t)snprintf(out, room, "%llu right, %llu refused, %llu lost:",
                           (unsigned long long)world.answers_right,
                           (unsigned long long)world.answers_refused,
                           (unsigned long long)world.answers_lost);
    for (size_t i = 0; i < COUNT(world.kinds) && world.kinds[i][0] != '\0' && at < room; i++)
        at += (size_t)snprintf(out + at, room - at, " %s %llu", world.kinds[i],
                               (unsigned long long)world.kinds_count[i]);
}

void world_report(uint64_t *ret_right, uint64_t *ret_refused, uint64_t *ret_lost)
{
    *ret_right = world.answers_right;
    *ret_refused = world.answers_refused;
    *ret_lost = world.answers_lost;
}
