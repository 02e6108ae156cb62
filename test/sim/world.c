/* world.c - a server with its models, the people around it, and what must hold at the end.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The server is the program's own: `penstock serve` with a command line, started as main.c of
 * src/cli starts it, stopped by a SIGTERM.
 */
#include "test/sim/world.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/options.h"
#include "cli/stop.h"
#include "cli/verbs.h"
#include "test/sim/people.h"

static char home[200];    /* of models and files */
static char folder[256];  /* of models */
static struct bytes said; /* what the server printed */
static int folder_fd = -1;
static int status;
static bool shows_output;

/* -- models ------------------------------------------------------------------------------------ */

#define PARAMETER(key, value) \
    "parameters { key: \"" key "\" value { string_value: \"" value "\" } }\n"
#define INT32_IN_OUT                                              \
    "input { name: \"IN\" data_type: TYPE_INT32 dims: [ -1 ] }\n" \
    "output { name: \"OUT\" data_type: TYPE_INT32 dims: [ -1 ] }\n"
#define TEXT_IN_OUT(in, out)                                          \
    "input { name: \"" in "\" data_type: TYPE_STRING dims: [ 1 ] }\n" \
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
    { "chat",
      TEXT_IN_OUT(
          "IN", "OUT") "output { name: \"turn\" data_type: TYPE_INT64 dims: [ 1 ] }\n" MANY_ANSWERS
          PARAMETER("mode", "chat") PARAMETER("count", "2") PARAMETER("delay_ms", "1") },
    { "broken", INT32_IN_OUT PARAMETER("mode", "fail") PARAMETER("code", "RESOURCE_EXHAUSTED") },
    { "batch", "max_batch_size: 4096\n"
               "input { name: \"IN\" data_type: TYPE_INT32 dims: [ 1 ] }\n"
               "output { name: \"OUT\" data_type: TYPE_INT32 dims: [ 1 ] }\n" },
};

/* localhost's, until 2126; they protect nothing. */
static const char key_pem[] = "-----BEGIN EC PRIVATE KEY-----\n"
                              "MHcCAQEEILBtP/FAoqUiNzlE6iKwBEDASTryCQcukpDSoInYoml7oAoGCCqGSM49\n"
                              "AwEHoUQDQgAEOMtyb27ehGb8RlYkp2nxnXZmGTVk+ohROWihbxUs67W9OSoxF9sr\n"
                              "8JrKFA/8uBXkdn8eeikJnt0Nj/L0iJkR0w==\n"
                              "-----END EC PRIVATE KEY-----\n";
static const char certificate_pem[] =
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBnDCCAUGgAwIBAgIUftsN61V6XaYzJQC5lG6G4rVTql8wCgYIKoZIzj0EAwIw\n"
    "FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzAwMTcwN1oYDzIxMjYxMDMw\n"
    "MDAxNzA3WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO\n"
    "PQMBBwNCAAQ4y3Jvbt6EZvxGViSnafGddmYZNWT6iFE5aKFvFSzrtb05KjEX2yvw\n"
    "msoUD/y4FeR2fx56KQme3Q2P8vSImRHTo28wbTAdBgNVHQ4EFgQUGyRXuxS0P2yc\n"
    "Vh5pm+ffO1OEPR4wHwYDVR0jBBgwFoAUGyRXuxS0P2ycVh5pm+ffO1OEPR4wDwYD\n"
    "VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI\n"
    "zj0EAwIDSQAwRgIhAK7xmLRl1HLy3o/2QgHoG8yIaGSc7sIABS2HwThF8A/WAiEA\n"
    "0vZNt7JZCAGA12zTU8cAvYHxK4OToMnwBVRqSgiUx40=\n"
    "-----END CERTIFICATE-----\n";
static const char rules[] = "rules:\n  - {who: anonymous, may: [read, infer]}\n";

static const struct {
    const char *name, *text;
} files[] = {
    { "key.pem", key_pem },
    { "certificate.pem", certificate_pem },
    { "access.yaml", rules },
};

static void write_file(const char *path, const char *text)
{
    char fresh[600];

    /* Whole or not at all: another run may read it. */
    snprintf(fresh, sizeof fresh, "%s.%d", path, (int)getpid());
    FILE *out = fopen(fresh, "w");
    if (out == NULL || fputs(text, out) < 0 || fclose(out) != 0 || chmod(fresh, 0600) != 0 ||
        rename(fresh, path) != 0) {
        perror(path);
        exit(1);
    }
}

void sim_world_make_models(void)
{
    char path[512], text[2048];

    uint64_t sum = 14695981039346656037u;
    struct stat st;

    /* The same name each time, as it stands in what is printed and answered. */
    for (size_t i = 0; i < COUNT(models); i++)
        for (const char *c = models[i].config; *c != '\0'; c++)
            sum = (sum ^ (uint8_t)*c) * 1099511628211u;
    snprintf(home, sizeof home, "%.150s/penstock-sim-%u-%08x",
             getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", getuid(),
             (unsigned)(sum ^ sum >> 32));
    snprintf(folder, sizeof folder, "%s/models", home);
    mkdir(home, 0700);
    mkdir(folder, 0700);
    folder_fd = open(home, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (folder_fd < 0 || flock(folder_fd, LOCK_SH) != 0 || fstat(folder_fd, &st) != 0 ||
        st.st_uid != getuid()) {
        fprintf(stderr, "cannot use %s: %s\n", home,
                errno != 0 ? strerror(errno) : "it is somebody else's");
        exit(1);
    }
    for (size_t i = 0; i < COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", home, files[i].name);
        write_file(path, files[i].text);
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

void sim_world_remove_models(void)
{
    char path[512];

    if (flock(folder_fd, LOCK_EX | LOCK_NB) != 0)
        return; /* another run uses it */
    for (size_t i = 0; i < COUNT(models); i++) {
        snprintf(path, sizeof path, "%s/%s/config.pbtxt", folder, models[i].name);
        unlink(path);
        snprintf(path, sizeof path, "%s/%s/1", folder, models[i].name);
        rmdir(path);
        snprintf(path, sizeof path, "%s/%s", folder, models[i].name);
        rmdir(path);
    }
    for (size_t i = 0; i < COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", home, files[i].name);
        unlink(path);
    }
    rmdir(folder);
    rmdir(home);
}

/* -- the server -------------------------------------------------------------------------------- */

enum { ARGUMENTS_MAX = 40 };

static struct {
    const char *items[ARGUMENTS_MAX];
    int count;
} arguments;

static char tls_paths[600], access_path[300];

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
    argument(is_plain ? "2" : loops[sim_draw_below(CHANCE_WEATHER, COUNT(loops))]);
    argument("--execution");
    argument(is_plain ? "auto" : executions[sim_draw_below(CHANCE_WEATHER, COUNT(executions))]);
    argument("--load-threads");
    argument(is_plain || sim_draw_below(CHANCE_WEATHER, 2) == 0 ? "1" : "4");
    if (is_plain || sim_draw_below(CHANCE_WEATHER, 3) == 0) {
        snprintf(access_path, sizeof access_path, "%s/access.yaml", home);
        argument("--access");
        argument(access_path);
    }
    if (!is_plain && sim_draw_below(CHANCE_WEATHER, 3) == 0) {
        snprintf(tls_paths, sizeof tls_paths, "%s/certificate.pem,%s/key.pem", home, home);
        argument("--tls");
        argument(tls_paths);
        argument("--tls-plain");
        argument("serve");
        sim_world.has_tls = true;
    }
    if (!is_plain && sim_draw_below(CHANCE_WEATHER, 3) == 0) {
        argument("--pipeline-max");
        argument(sim_draw_below(CHANCE_WEATHER, 2) == 0 ? "1" : "3");
    }
    if (!is_plain && sim_seed() % 3 == 1) { /* every body is read beside the loops */
        argument("--aside-from");
        argument("1");
        argument("--aside-threads");
        argument(sim_seed() % 2 == 0 ? "1" : "2");
    }
}

void sim_output(int fd, const void *data, size_t size)
{
    (void)fd;
    sim_bytes_put(&said, data, size);
    sim_digest(data, size);
    if (shows_output)
        sim_real_syscall(1, 2, data, size);
    if (!sim_world.is_ready && sim_bytes_find(&said, "listening on") != NULL)
        sim_world.is_ready = true;
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

/* -- the people around it ---------------------------------------------------------------------- */

static struct {
    uint32_t to_come;
    uint64_t between_ns;
    bool stops_amid, is_inspecting;
} crowd;

static void send_term(void)
{
    if (sim_world.is_stopping)
        return;
    sim_note("SIGTERM");
    sim_world.is_stopping = true;
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
    sim_inspector_begin(send_term);
}

static void on_watch(void *arg)
{
    (void)arg;
    if (sim_world.is_stopping)
        return;
    if (crowd.to_come == 0 && sim_world.people_left == 0 && !crowd.is_inspecting) {
        crowd.is_inspecting = true;
        sim_after(40 * SIM_S, on_inspect, NULL); /* who lingers has gone by then */
        return;
    }
    if (!crowd.is_inspecting)
        sim_after(10 * SIM_MS, on_watch, NULL);
}

static void come(void)
{
    static void (*const kinds[])(
        void) = { sim_http1_person,     sim_http1_person,  sim_http1_person, sim_http1_spoiler,
                  sim_websocket_person, sim_upload_person, sim_http2_person, sim_http2_person };

    kinds[sim_draw_below(CHANCE_PEOPLE, COUNT(kinds))]();
}

static void on_come(void *arg)
{
    (void)arg;
    if (sim_world.is_stopping)
        return;
    uint64_t at_once =
        sim_draw_below(CHANCE_PEOPLE, 5) == 0 ? sim_draw_between(CHANCE_PEOPLE, 2, 8) : 1;
    for (; at_once > 0 && crowd.to_come > 0; at_once--) {
        crowd.to_come--;
        come();
    }
    if (crowd.to_come > 0)
        sim_after(sim_draw_below(CHANCE_PEOPLE, crowd.between_ns + 1), on_come, NULL);
}

/* Nobody comes before there is a listener; some come before there is a model. */
static void on_open(void *arg)
{
    (void)arg;
    if (sim_threads_left() == 0)
        return;
    if (!sim_net_is_listening(PORT)) {
        sim_after(SIM_MS, on_open, NULL);
        return;
    }
    sim_fault_plan.is_open = true;
    sim_after(sim_draw_below(CHANCE_PEOPLE, 5 * SIM_MS), on_come, NULL);
    sim_after(SIM_MS, on_watch, NULL);
    if (crowd.stops_amid)
        sim_after(sim_draw_below(CHANCE_PEOPLE, 200 * SIM_MS), on_term, NULL);
}

/* -- scenarios: one thing is done while the nth fallible call fails ---------------------------- */

static void rest_one(void)
{
    sim_http1_one("kserve");
}
static void stream_one(void)
{
    sim_http1_one("sse");
}
static void queued_one(void)
{
    sim_http1_one("slow");
}
static void grpc_one(void)
{
    sim_http2_one("grpc");
}
static void grpc_session_one(void)
{
    sim_http2_one("grpc-session");
}

static const struct scenario {
    const char *name;
    void (*person)(void);
    bool from_start; /* faults begin with the program */
    bool at_end;     /* and here with SIGTERM */
    bool reloads;    /* SIGHUP */
} scenarios[] = {
    { .name = "start", .from_start = true },
    { .name = "rest", .person = rest_one },
    { .name = "queued", .person = queued_one },
    { .name = "stream", .person = stream_one },
    { .name = "websocket", .person = sim_websocket_one },
    { .name = "grpc", .person = grpc_one },
    { .name = "grpc-session", .person = grpc_session_one },
    { .name = "upload", .person = sim_upload_one },
    { .name = "reload", .reloads = true },
    { .name = "drain", .person = queued_one, .at_end = true },
};
static const struct scenario *scenario;

const char *sim_world_scenario(uint32_t index)
{
    return index < COUNT(scenarios) ? scenarios[index].name : NULL;
}

static void on_scene(void *arg);

static void again(uint64_t ns)
{
    sim_after(ns, on_scene, NULL);
}

/* One step after the other; each waits until nobody is left of the one before. */
static void on_scene(void *arg)
{
    static enum { SCENE_OPEN, SCENE_ACT, SCENE_NEXT, SCENE_LOOK, SCENE_END } scene;

    (void)arg;
    if (sim_world.is_stopping || sim_threads_left() == 0)
        return;
    /* What it prints may be what fails: ten seconds are enough to load. */
    if (scene == SCENE_OPEN && sim_now() > 1010 * SIM_S)
        sim_world.is_ready = true;
    if ((scene == SCENE_OPEN && !sim_world.is_ready) || sim_world.people_left > 0) {
        again(SIM_MS);
        return;
    }
    switch (scene) {
    case SCENE_OPEN:
        scene = SCENE_ACT;
        again(100 * SIM_MS);
        break;
    case SCENE_ACT:
        scene = SCENE_NEXT;
        if (!scenario->at_end)
            sim_fault_plan.is_open = true;
        if (scenario->reloads)
            sim_signal_process(1);
        if (scenario->person != NULL)
            scenario->person();
        if (scenario->at_end) {
            sim_fault_plan.is_open = true;
            sim_after(sim_draw_below(CHANCE_PEOPLE, 3 * SIM_MS), on_term, NULL);
        }
        again(scenario->reloads ? 2 * SIM_S : SIM_MS);
        break;
    case SCENE_NEXT: /* whatever failed: the next request is answered */
        scene = SCENE_LOOK;
        sim_fault_plan.is_open = false;
        sim_world.must_answer = !scenario->from_start || sim_fault_plan.nth == 0;
        sim_http1_one("typed");
        sim_http2_one("grpc");
        again(40 * SIM_S);
        break;
    case SCENE_LOOK:
        scene = SCENE_END;
        sim_inspector_begin(send_term);
        break;
    case SCENE_END: break;
    }
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

    if (sim_net_descriptors(names, sizeof names) != 0)
        sim_fail("the server has ended, and descriptors are open: %s", names);
    if (open_descriptors() != descriptors_before)
        sim_fail("the server has ended, and %d files are open",
                 (int)open_descriptors() - (int)descriptors_before);
    count = sim_memory_live(&bytes);
    if (count != 0) {
        sim_memory_say_live();
        sim_fail("the server has ended, and %llu allocations of %llu bytes were never freed",
                 (unsigned long long)count, (unsigned long long)bytes);
    }
    if (status != 0 && sim_weather_is_kind())
        sim_fail("the server ended with status %d:\n%.*s", status, (int)said.size,
                 (const char *)said.data);
    if (status != 0 && sim_bytes_find(&said, "penstock: ") == NULL && said.size < 20)
        sim_fail("the server ended with status %d and no word why", status);
}

bool sim_world_is_stopping(void)
{
    return sim_world.is_stopping;
}

void sim_world_run(uint64_t seed, bool is_verbose)
{
    uint32_t descriptors = open_descriptors();

    shows_output = is_verbose;
    sim_begin(seed, is_verbose);
    sim_memory_trace(is_verbose);
    memset(&sim_world, 0, sizeof sim_world);
    sim_weather_draw();
    draw_arguments(false);
    sim_fault_plan.is_open = sim_draw_below(CHANCE_WEATHER, 4) == 0; /* else once it serves */
    crowd.to_come = (uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, 12);
    crowd.between_ns = sim_draw_below(CHANCE_PEOPLE, 30 * SIM_MS);
    crowd.stops_amid = sim_draw_below(CHANCE_WEATHER, 4) == 0;
    sim_after(SIM_MS, on_open, NULL);
    sim_run(server_main, NULL);
    sim_fault_plan.is_open = false;
    if (!sim_has_exited())
        judge(descriptors);
}

uint64_t sim_world_sweep(uint32_t index, uint64_t nth, bool is_verbose)
{
    uint32_t descriptors = open_descriptors();

    scenario = &scenarios[index];
    shows_output = is_verbose;
    sim_begin(index, is_verbose);
    sim_memory_trace(is_verbose);
    memset(&sim_world, 0, sizeof sim_world);
    sim_weather_calm();
    draw_arguments(true);
    sim_fault_plan = (struct fault_plan){ .nth = nth, .is_open = scenario->from_start };
    sim_after(SIM_MS, on_scene, NULL);
    sim_run(server_main, NULL);
    sim_fault_plan.is_open = false;
    if (!sim_has_exited())
        judge(descriptors);
    /* Who starts without a model says why. */
    if (status == 0 && scenario->from_start && sim_world.answers_refused > 0 &&
        sim_bytes_find(&said, "cannot ") == NULL && sim_bytes_find(&said, "NOT READY") == NULL)
        sim_fail("a model is not there, and no word was said:\n%s", (const char *)said.data);
    if (status == 0 && sim_world.must_answer &&
        sim_world.answers_right < (nth == 0 && scenario->person != NULL ? 3u : 2u))
        sim_fail("only %llu right answers", (unsigned long long)sim_world.answers_right);
    return sim_fault_plan.count;
}

void sim_world_text(char *out, size_t room)
{
    size_t at = 0;

    at += (size_t)snprintf(out, room, "%llu right, %llu refused, %llu lost:",
                           (unsigned long long)sim_world.answers_right,
                           (unsigned long long)sim_world.answers_refused,
                           (unsigned long long)sim_world.answers_lost);
    for (size_t i = 0; i < COUNT(sim_world.kinds) && sim_world.kinds[i][0] != '\0' && at < room;
         i++)
        at += (size_t)snprintf(out + at, room - at, " %s %llu", sim_world.kinds[i],
                               (unsigned long long)sim_world.kinds_count[i]);
}

void sim_world_report(uint64_t *ret_right, uint64_t *ret_refused, uint64_t *ret_lost)
{
    *ret_right = sim_world.answers_right;
    *ret_refused = sim_world.answers_refused;
    *ret_lost = sim_world.answers_lost;
}
