/* ort_api_test.c - is each function of the table where ort_api.h puts it?
 *
 * A wrong place calls another function. Those that a model's run shows at once are tested by
 * onnx_test.c; here are the ones whose effect is quiet: each is seen by what it does, or by what it
 * says of a value that cannot be.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/onnx/runtime.h"
#include "test/harness.h"

static char logged[1 << 16];
static size_t logged_size;

static void on_log(enum penstock_log_level level, const char *text)
{
    (void)level;
    int wrote = snprintf(logged + logged_size, sizeof logged - logged_size, "%s\n", text);
    logged_size = MIN(logged_size + (size_t)MAX(wrote, 0), sizeof logged - 1);
}

static const char *runtime_path(const char *name)
{
    (void)name;
    return getenv("PENSTOCK_RUNTIME_DIR");
}

static const struct penstock_host host = {
    .abi = PENSTOCK_BACKEND_ABI, .size = sizeof host, .log = on_log, .runtime_path = runtime_path
};

/* y = Neg(x), N rows of 2; written by hand. */
static const uint8_t model[] = "\x08\x08"                              /* ir_version 8 */
                               "\x3a\x3b"                              /* graph */
                               "\x0a\x0b\x0a\x01x\x12\x01y\x22\x03Neg" /* node */
                               "\x12\x01g"
                               "\x5a\x14\x0a\x01x\x12\x0f\x0a\x0d\x08\x01\x12\x09" /* input */
                               "\x0a\x03\x12\x01N\x0a\x02\x08\x02"
                               "\x62\x13\x0a\x01y\x12\x0e\x0a\x0c\x08\x01\x12\x08" /* output */
                               "\x0a\x02\x08\x02\x0a\x02\x08\x02"
                               "\x42\x04\x0a\x00\x10\x11"; /* opset 17 */

static void *do_nothing(void *context)
{
    return context;
}

/* Thread sanitizer starts a thread of its own with the first one that a program starts. */
static void start_one_thread(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, do_nothing, NULL) == 0)
        pthread_join(thread, NULL);
}

static const struct onnx_runtime *begin(void)
{
    struct err err = { .code = OK };

    if (runtime_path("") == NULL) {
        test_skip("PENSTOCK_RUNTIME_DIR does not say where ONNX Runtime is");
        return NULL;
    }
    const struct onnx_runtime *runtime = onnx_runtime_get(&host, &err);
    check(runtime != NULL, "%s", err.text);
    return runtime;
}

static struct ort_options *options_of(const struct onnx_runtime *runtime)
{
    struct ort_options *options = NULL;

    if (runtime->api->options_create(&options) != NULL)
        abort();
    return options;
}

/* The status has a text with that word; releases it. */
static bool says(const struct onnx_runtime *runtime, struct ort_status *status, const char *word)
{
    if (status == NULL)
        return false;
    bool is_said = strstr(runtime->api->status_text(status), word) != NULL;
    if (!is_said)
        fprintf(stderr, "  it says: %s\n", runtime->api->status_text(status));
    runtime->api->status_release(status);
    return is_said;
}

static struct ort_session *session_of(const struct onnx_runtime *runtime,
                                      const struct ort_options *options)
{
    struct ort_session *session = NULL;

    logged_size = 0;
    logged[0] = '\0';
    struct ort_status *status =
        runtime->api->session_create(runtime->env, model, sizeof model - 1, options, &session);
    check(status == NULL, "%s", status != NULL ? runtime->api->status_text(status) : "");
    return session;
}

static unsigned threads_listed(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/task");

    for (const struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
        count += entry->d_name[0] != '.';
    if (folder != NULL)
        closedir(folder);
    return count;
}

/* A thread that has been joined may be listed for a moment longer: the least of some looks. */
static unsigned threads_count(void)
{
    unsigned least = threads_listed();

    for (int i = 0; i < 10; i++) {
        usleep(1000);
        least = MIN(least, threads_listed());
    }
    return least;
}

/* Nobody is told that a model is served: no database, no thread, no socket. */
TEST(ort_sends_nothing_home)
{
    start_one_thread();
    unsigned before = threads_count();
    const struct onnx_runtime *runtime = begin();

    if (runtime == NULL)
        return;
    const char *set = getenv("ORT_DISABLE_TELEMETRY");
    check(set != NULL && strcmp(set, "1") == 0, "the environment does not say so");
    check(threads_count() == before, "%u threads were started", threads_count() - before);
    DIR *folder = opendir("/proc/self/fd");
    for (const struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        char path[300], target[1024];
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        ssize_t size = readlink(path, target, sizeof target - 1);
        target[MAX(size, 0)] = '\0';
        check(strstr(target, "onnxruntime.db") == NULL && strncmp(target, "socket:", 7) != 0,
              "it holds %s", target);
    }
    if (folder != NULL)
        closedir(folder);
}

TEST(ort_refuses_impossible_options)
{
    const struct onnx_runtime *runtime = begin();

    if (runtime == NULL)
        return;
    const struct ort_api *api = runtime->api;
    struct ort_options *options = options_of(runtime);
    check(says(runtime, api->options_set_optimization(options, 1234), "optimization"), "level");
    check(says(runtime, api->options_set_mode(options, 7), "execution_mode"), "mode");
    check(says(runtime, api->options_set(options, "", "1"), "ey"), "an empty key");
    check(says(runtime, api->options_add_provider(options, "Nonesuch", NULL, NULL, 0), "provider"),
          "provider");
    api->options_release(options);
}

TEST(ort_threads_are_made)
{
    const struct onnx_runtime *runtime = begin();

    if (runtime == NULL)
        return;
    const struct ort_api *api = runtime->api;
    start_one_thread();
    unsigned before = threads_count();
    struct ort_options *options = options_of(runtime);
    check(api->options_set_intra(options, 4) == NULL, "intra");
    struct ort_session *session = session_of(runtime, options);
    check(threads_count() == before + 3, "4 threads, this one among them: %u", threads_count());
    api->session_release(session);
    check(threads_count() == before, "threads are gone: %u", threads_count());
    api->options_release(options);

    options = options_of(runtime);
    check(api->options_set_intra(options, 1) == NULL, "intra");
    check(api->options_set_mode(options, 1) == NULL, "parallel");
    check(api->options_set_inter(options, 3) == NULL, "inter");
    session = session_of(runtime, options);
    unsigned parallel = threads_count();
    check(parallel >= before + 2 && parallel <= before + 3, "%u threads", parallel - before);
    api->session_release(session);
    api->options_release(options);

    options = options_of(runtime);
    check(api->options_set_intra(options, 1) == NULL, "intra");
    check(api->options_set_inter(options, 1) == NULL, "inter");
    session = session_of(runtime, options);
    check(threads_count() == before, "as served: no thread at all");
    api->session_release(session);
    api->options_release(options);
}

/* A session at the most talkative level begins by saying all its options. */
TEST(ort_session_has_the_options)
{
    const struct onnx_runtime *runtime = begin();

    if (runtime == NULL)
        return;
    const struct ort_api *api = runtime->api;
    for (int round = 0; round < 2; round++) {
        static const char *const words[2][6] = {
            { "session_logid: ", "enable_mem_pattern:1 ", "enable_cpu_mem_arena:1 ",
              "execution_mode:0 ", "allow_spinning: 1 ", "session_log_severity_level:0 " },
            { "session_logid:ours ", "enable_mem_pattern:0 ", "enable_cpu_mem_arena:0 ",
              "execution_mode:1 ", "allow_spinning: 0 ", "graph_optimization_level:0 " },
        };
        struct ort_options *options = options_of(runtime);
        check(api->options_set_log_level(options, 0) == NULL, "level");
        if (round == 1) {
            check(api->options_set_log_id(options, "ours") == NULL, "id");
            check(api->options_pattern_off(options) == NULL, "pattern");
            check(api->options_arena_off(options) == NULL, "arena");
            check(api->options_set_mode(options, 1) == NULL, "mode");
            check(api->options_set(options, "session.intra_op.allow_spinning", "0") == NULL, "set");
            check(api->options_set_optimization(options, ORT_OPTIMIZE_NONE) == NULL, "none");
        }
        api->session_release(session_of(runtime, options));
        for (size_t i = 0; i < COUNT(words[round]); i++)
            check(strstr(logged, words[round][i]) != NULL, "%s is not in %.1500s", words[round][i],
                  logged);
        check(api->options_set_log_level(options, ORT_LOG_ERROR) == NULL, "level");
        api->session_release(session_of(runtime, options));
        check(logged_size == 0, "it still talks: %s", logged);
        api->options_release(options);
    }
}

TEST(ort_runs_and_reads_back)
{
    static const char *const in[] = { "x" }, *const out[] = { "y" };
    const struct onnx_runtime *runtime = begin();
    float x[4] = { 1, 2, 3, 4 };
    int64_t shape[] = { 2, 2 };

    if (runtime == NULL)
        return;
    const struct ort_api *api = runtime->api;
    struct ort_options *options = options_of(runtime);
    struct ort_session *session = session_of(runtime, options);
    struct ort_value *input = NULL, *output = NULL;
    struct ort_run *run = NULL;
    void *data = NULL;
    check(api->run_create(&run) == NULL, "run options");
    check(api->value_wrap(runtime->memory, x, sizeof x, shape, 2, ORT_FP32, &input) == NULL,
          "wrap");
    const struct ort_value *inputs[] = { input };
    check(api->run_terminate(run) == NULL, "terminate");
    struct ort_status *status = api->run(session, run, in, inputs, 1, out, 1, &output);
    check(status != NULL && onnx_is_terminated(runtime, status) && output == NULL, "told to stop");
    api->status_release(status);
    check(api->run_unterminate(run) == NULL, "unterminate");
    check(api->run(session, run, in, inputs, 1, out, 1, &output) == NULL, "run");
    check(api->value_data(output, &data) == NULL, "data");
    const float *y = data;
    check(y != NULL && y[0] == -1 && y[3] == -4, "Neg");
    api->value_release(input);
    api->value_release(output);
    api->run_release(run);
    api->session_release(session);
    api->options_release(options);
}

TEST(ort_says_what_is_wrong_with_a_model)
{
    const struct onnx_runtime *runtime = begin();
    struct ort_session *session = NULL;

    if (runtime == NULL)
        return;
    const struct ort_api *api = runtime->api;
    struct ort_options *options = options_of(runtime);
    struct ort_status *status = api->session_create(runtime->env, "nonsense", 8, options, &session);
    check_or_stop(status != NULL, "it made a session of nonsense");
    check(api->status_code(status) == ORT_INVALID_PROTOBUF, "code %d", api->status_code(status));
    struct err err = { .code = OK };
    check(!onnx_is_terminated(runtime, status), "not told to stop");
    check(onnx_status_take(runtime, status, &err, "it") == E_INTERNAL &&
              strncmp(err.text, "it: ", 4) == 0 && err.text[4] != '\0',
          "says %s", err.text);
    api->options_release(options);
}

TEST(ort_version_and_providers)
{
    const struct onnx_runtime *runtime = begin();
    bool has_cpu = false;

    if (runtime == NULL)
        return;
    check(strchr(runtime->version, '.') != NULL, "version %s", runtime->version);
    for (uint32_t i = 0; i < runtime->providers_count; i++)
        has_cpu = has_cpu || strcmp(runtime->providers[i], "CPUExecutionProvider") == 0;
    check(has_cpu, "no CPU among %u providers", runtime->providers_count);
    check(onnx_runtime_get(&host, NULL) == runtime, "it is loaded once");
}
