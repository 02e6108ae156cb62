/* onnx_session_test.c - ONNX models through the engine: runs that stop when their caller leaves, and a
 * voice detector that keeps its state in a session. SPDX-License-Identifier: Apache-2.0
 *
 * Needs ONNX Runtime (PENSTOCK_RUNTIME_DIR) and, where said, the shared models.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <yyjson.h>

#include "backend/builtin.h"
#include "backend/model_maker.h"
#include "base/arena.h"
#include "base/budget.h"
#include "base/clock.h"
#include "engine/session.h"
#include "io/env.h"
#include "io/loop.h"
#include "model/card.h"
#include "model/config.h"
#include "test/harness.h"

/* -- the stage ---------------------------------------------------------------------------------- */

static struct engine *engine; /* one for all cases: backends keep its host */
static struct budget budget;
static struct model *model;
static struct loop *loop;

static const char *runtime_path(const char *name)
{
    return strcmp(name, "onnxruntime") == 0 ? getenv("PENSTOCK_RUNTIME_DIR") : NULL;
}

static bool is_ready(bool with_shared)
{
    if (with_shared && test_shared() == NULL)
        test_skip("the shared models are not here");
    else if (getenv("PENSTOCK_RUNTIME_DIR") == NULL)
        test_skip("PENSTOCK_RUNTIME_DIR does not say where ONNX Runtime is");
    else
        return true;
    return false;
}

static bool stage_up(const char *folder, const char *path, const char *yaml)
{
    struct engine_settings settings = {
        .loops_count = 1, .queue_max = 10, .budget = &budget, .runtime_path = runtime_path
    };
    struct err err = { 0 };
    struct model_config *config = NULL;
    struct card *card = NULL;
    struct model_spec spec = {
        .name = "m", .version = 1, .folder = folder, .path = path, .arena = arena_new(4096, 1 << 20)
    };

    if (engine == NULL) {
        budget_init(&budget, 64 << 20);
        check(engine_new(&engine, env_real(), &settings, &err) == OK, "%s", err.text);
    }
    bool ok = engine != NULL && config_new(&config, &err) == OK;
    ok = ok && card_parse(&card, spec.arena, slice_of(yaml), &err) == OK;
    spec.card = card;
    spec.config = config;
    spec.backend = ok ? backend_builtin("onnx", engine_host(engine), backend_err(&err)) : NULL;
    ok = spec.backend != NULL && model_new(&model, engine, &spec, &err) == OK;
    ok = ok && loop_new(&loop, env_real(), 0, &err) == OK;
    check(ok, "%s", err.text);
    return ok;
}

static void stage_down(void)
{
    model_unref(&model);
    loop_free(&loop);
    check(engine_in_flight(engine) == 0, "something is still open");
    check(budget_used(&budget) == 0, "bytes are still charged");
}

/* -- leaving -------------------------------------------------------------------------------------- */

enum { TIMES = 5 };

static struct {
    int64_t rounds;
    unsigned inputs_count;
    bool by_deadline;
    struct request *request;
    struct arena *arena;
    struct timer timer;
    uint64_t left_ns, took_ns, best_ns, most_ns;
    int time;
} leaver;

static void begin_run(void);

static void on_leaver_end(struct request *request, const struct err *err)
{
    (void)request;
    check(err->code == E_DEADLINE, "%s", err->text);
    leaver.left_ns = clock_mono_ns();
}

static void on_leaver_free(struct request *request)
{
    (void)request;
    leaver.took_ns = clock_mono_ns() - leaver.left_ns;
    leaver.best_ns = MIN(leaver.best_ns, leaver.took_ns);
    leaver.most_ns = MAX(leaver.most_ns, leaver.took_ns);
    if (++leaver.time == TIMES)
        loop_stop(loop);
    else
        begin_run();
}

static const struct request_sink leaver_sink = { .on_end = on_leaver_end,
                                                 .on_free = on_leaver_free };

static void on_leave(struct timer *timer)
{
    (void)timer;
    leaver.left_ns = clock_mono_ns();
    request_cancel(leaver.request);
}

/* The inputs: how many rounds, and where there is a second a float. */
static void begin_run(void)
{
    static float x = 1;
    struct err err;

    arena_reset(leaver.arena);
    check_or_stop(request_new(&leaver.request, engine, model, leaver.arena, loop, &leaver_sink,
                              &err) == OK,
                  "%s", err.text);
    const struct signature_tensor *n = &model_signature(model)->inputs[0];
    leaver.request->inputs[0] = (struct penstock_tensor){
        .dtype = PENSTOCK_INT64, .rank = n->rank, .shape = { 1 }, .data = &leaver.rounds, .size = 8
    };
    leaver.request->has_input[0] = true;
    if (model_signature(model)->inputs_count > 1) {
        leaver.request->inputs[1] = (struct penstock_tensor){
            .dtype = PENSTOCK_FP32, .rank = 1, .shape = { 1 }, .data = &x, .size = 4
        };
        leaver.request->has_input[1] = true;
    }
    uint64_t soon = loop_refresh_ns(loop) + 20 * NS_PER_MS;
    if (leaver.by_deadline)
        leaver.request->deadline_ns = soon;
    else
        require(timer_start(loop, &leaver.timer, soon, NULL) == OK);
    engine_submit(leaver.request);
}

static void on_begin(struct loop_msg *msg)
{
    (void)msg;
    begin_run();
}

static void leave(int64_t rounds, bool by_deadline)
{
    struct loop_msg msg = { .run = on_begin };

    memset(&leaver, 0, sizeof leaver);
    leaver.rounds = rounds;
    leaver.by_deadline = by_deadline;
    leaver.best_ns = UINT64_MAX;
    leaver.timer.on_due = on_leave;
    leaver.arena = arena_new(16384, 1 << 20);
    loop_post(loop, &msg);
    loop_run(loop);
    arena_free(&leaver.arena);
    /* Each would run for hours. How soon it stops is the machine's to say; the soonest is not. */
    check(leaver.best_ns < 10 * NS_PER_MS, "%s: the soonest of %d took %llu us",
          by_deadline ? "deadline" : "cancel", TIMES,
          (unsigned long long)(leaver.best_ns / NS_PER_US));
    check(leaver.most_ns < 2 * NS_PER_S, "the latest took %llu ms",
          (unsigned long long)(leaver.most_ns / NS_PER_MS));
    if (getenv("SHOW") != NULL)
        printf("%s: from leaving to the end of the run %llu to %llu us\n",
               by_deadline ? "deadline" : "cancel",
               (unsigned long long)(leaver.best_ns / NS_PER_US),
               (unsigned long long)(leaver.most_ns / NS_PER_US));
}

static void leave_both_ways(int64_t rounds)
{
    struct model_stats sum;
    uint64_t cancels = 0;

    leave(rounds, false);
    leave(rounds, true);
    model_stats(model, &sum);
    for (size_t i = 0; i < STAT_BUCKETS; i++)
        cancels += sum.cancel.buckets[i];
    check(cancels == 2 * TIMES && sum.cancelled_total == 2 * TIMES, "each is counted: %llu",
          (unsigned long long)cancels);
    check(sum.wasted_compute_ns >= 2 * TIMES * 10 * NS_PER_MS, "and what was spent: %llu ms",
          (unsigned long long)(sum.wasted_compute_ns / NS_PER_MS));
}

/* y = x, n times plus one. */
static void make_loop(struct maker *maker)
{
    static const float one = 1;
    struct maker body;
    struct maker_attributes attributes = { { 0 } };

    maker_begin(&body);
    maker_input(&body, "i", ONNX_INT64, "");
    maker_input(&body, "go", ONNX_BOOL, "");
    maker_input(&body, "v", ONNX_FLOAT, "N");
    maker_output(&body, "go_on", ONNX_BOOL, "");
    maker_output(&body, "w", ONNX_FLOAT, "N");
    maker_floats(&body, "one", "1", &one, 1);
    maker_node(&body, "Identity", NULL, "go", "go_on", NULL);
    maker_node(&body, "Add", NULL, "v one", "w", NULL);
    maker_attribute_graph(&attributes, "body", &body);
    maker_begin(maker);
    maker_input(maker, "n", ONNX_INT64, "1");
    maker_input(maker, "x", ONNX_FLOAT, "N");
    maker_output(maker, "y", ONNX_FLOAT, "N");
    maker_node(maker, "Loop", NULL, "n - x", "y", &attributes);
}

TEST(a_run_stops_when_nobody_waits_for_it)
{
    char folder[] = "/tmp/penstock-engine-XXXXXX", path[64];
    struct maker maker;

    if (!is_ready(false))
        return;
    check_or_stop(mkdtemp(folder) != NULL, "a folder");
    snprintf(path, sizeof path, "%s/model.onnx", folder);
    make_loop(&maker);
    maker_save(&maker, folder, "model.onnx");
    if (stage_up(folder, path, "")) {
        leave_both_ways(INT64_C(2000000000));
        stage_down();
    }
    unlink(path);
    rmdir(folder);
}

TEST(a_spinning_model_stops)
{
    char folder[1024], path[1100];

    if (!is_ready(true))
        return;
    snprintf(folder, sizeof folder, "%s/models/odd", test_shared());
    snprintf(path, sizeof path, "%s/spin.onnx", folder);
    if (!stage_up(folder, path, ""))
        return;
    leave_both_ways(INT64_C(2000000000));
    stage_down();
}

/* -- a voice detector ------------------------------------------------------------------------------ */

enum { SCORES_MAX = 1024 };

static struct {
    struct session *session;
    const int16_t *samples;
    size_t count, at;
    double scores[SCORES_MAX];
    uint64_t pieces[SCORES_MAX];
    unsigned scores_count;
    struct err err;
} vad;

static void feed(void);

static void on_score(struct session *session, const struct session_response *r)
{
    (void)session;
    check(!r->response->outputs[1].is_set, "the state is not shown");
    check_or_stop(vad.scores_count < SCORES_MAX, "too many");
    vad.pieces[vad.scores_count] = r->piece;
    vad.scores[vad.scores_count++] =
        (double)((const float *)r->response->outputs[0].tensor.data)[0];
}

static void on_credit(struct session *session, uint32_t pieces)
{
    (void)session, (void)pieces;
    feed();
}

static void on_vad_end(struct session *session, const struct err *err)
{
    (void)session;
    vad.err = *err;
}

static void on_vad_free(struct session *session)
{
    (void)session;
    loop_stop(loop);
}

static const struct session_sink vad_sink = {
    .on_response = on_score, .on_credit = on_credit, .on_end = on_vad_end, .on_free = on_vad_free
};

/* The sound in pieces of any size, as there is credit. */
static void feed(void)
{
    struct err err;

    while (vad.at < vad.count && session_pieces_left(vad.session) > 0) {
        size_t asked = 1 + test_random_below(2000); /* MIN looks twice */
        size_t size = MIN(asked, vad.count - vad.at);
        struct session_piece *piece = NULL;
        check_or_stop(session_piece_new(vad.session, &piece, &err) == OK, "%s", err.text);
        float *in = arena_aligned(piece->arena, 64, size * 4);
        for (size_t i = 0; i < size; i++)
            in[i] = (float)vad.samples[vad.at + i] / 32768;
        piece->inputs[0] = (struct penstock_tensor){ .dtype = PENSTOCK_FP32,
                                                     .rank = 1,
                                                     .shape = { (int64_t)size },
                                                     .data = in,
                                                     .size = size * 4 };
        piece->has_input[0] = true;
        vad.at += size;
        check_or_stop(session_push(vad.session, &piece, &err) == OK, "%s", err.text);
    }
    if (vad.at == vad.count)
        session_finish(vad.session);
}

static void on_vad_begin(struct loop_msg *msg)
{
    const struct stream_card *card = model_signature(model)->stream;
    struct session_settings settings = { .loop = loop,
                                         .budget = &budget,
                                         .reduce = card->reduce,
                                         .window = card->window,
                                         .step = card->step,
                                         .pad = card->pad,
                                         .deadline_ns = UINT64_MAX,
                                         .credit = UINT32_MAX };
    struct err err;

    (void)msg;
    check_or_stop(session_new(&vad.session, engine, model, &settings, &vad_sink, &err) == OK, "%s",
                  err.text);
    session_start(vad.session);
    feed();
}

static bool read_all(struct arena *arena, struct slice *ret, const char *name)
{
    char path[1200];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", test_shared(), name);
    file = fopen(path, "rb");
    check(file != NULL, "%s", path);
    if (file == NULL)
        return false;
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = arena_alloc(arena, size);
    bool ok = bytes != NULL && fread(bytes, 1, size, file) == size;
    fclose(file);
    *ret = slice_make(bytes, size);
    return ok;
}

/* Of a RIFF file: its chunk "data". */
static void find_samples(struct slice wav)
{
    for (size_t at = 12; at + 8 <= wav.size;) {
        uint32_t size;
        memcpy(&size, wav.data + at + 4, sizeof size);
        size = (uint32_t)MIN(size, wav.size - at - 8);
        if (memcmp(wav.data + at, "data", 4) == 0) {
            vad.samples = (const int16_t *)(const void *)(wav.data + at + 8);
            vad.count = size / 2;
            return;
        }
        at += 8 + size + size % 2;
    }
}

TEST(a_voice_detector_keeps_its_state)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 64 << 20);
    char folder[1024], path[1100];
    struct slice wav, json;
    struct loop_msg msg = { .run = on_vad_begin };

    if (!is_ready(true) || !read_all(arena, &wav, "data/speech/jfk.wav") ||
        !read_all(arena, &json, "models/voice/silero_vad.ref.json"))
        return;
    snprintf(folder, sizeof folder, "%s/models/voice", test_shared());
    snprintf(path, sizeof path, "%s/silero_vad_16k_op15.onnx", folder);
    if (!stage_up(folder, path,
                  "stream: {reduce: window, window: 576, step: 512, pad: 64, axis: 1, "
                  "state: {state: stateN}, constants: {sr: 16000}}"))
        return;
    memset(&vad, 0, sizeof vad);
    find_samples(wav);
    loop_post(loop, &msg);
    loop_run(loop);
    check(vad.err.code == OK, "%s", vad.err.text);
    yyjson_doc *doc = yyjson_read((const char *)json.data, json.size, 0);
    yyjson_val *wanted = yyjson_obj_get(yyjson_doc_get_root(doc), "probabilities");
    check(vad.scores_count == yyjson_arr_size(wanted) && vad.scores_count > 300, "%u scores",
          vad.scores_count);
    for (unsigned i = 0; i < vad.scores_count; i++)
        check(fabs(vad.scores[i] - yyjson_get_num(yyjson_arr_get(wanted, i))) < 0.001, "%u: %f", i,
              vad.scores[i]);
    for (unsigned i = 1; i < vad.scores_count; i++)
        check(vad.pieces[i] >= vad.pieces[i - 1], "in order");
    yyjson_doc_free(doc);
    stage_down();
}
