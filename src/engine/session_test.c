/* session_test.c - streams through a model, on a real loop. SPDX-License-Identifier: Apache-2.0
 *
 * The test's backend adds 1 to each FP32. Parameters of a piece say more: do=wait until cancelled,
 * do=fail, count=N answers.
 */
#include "engine/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/builtin.h"
#include "base/arena.h"
#include "base/budget.h"
#include "base/clock.h"
#include "base/mem.h"
#include "io/loop.h"
#include "model/card.h"
#include "model/config.h"
#include "test/harness.h"

/* Not by builtin.h, which hands every engine's models the first one's host. */
penstock_backend_entry_fn backend_echo_entry;

/* -- the backend -------------------------------------------------------------------------------- */

static const struct penstock_host *host;
static uint32_t model_traits;
static bool sums; /* it adds its rows to SUM, times RATE; negative rows fail */
static int64_t sums_dims[2];

static int t_model_open(void **ret_model, struct penstock_model *model, uint32_t *ret_traits,
                        struct penstock_err *err)
{
    static const int64_t dims[2] = { -1, 2 }, state[2] = { 1, 1 };
    static char handle;

    if (sums) {
        if (host->declare(model, false, "IN", PENSTOCK_FP32, 2, sums_dims, false, err) != 0 ||
            host->declare(model, false, "SUM", PENSTOCK_FP32, 2, state, false, err) != 0 ||
            host->declare(model, false, "RATE", PENSTOCK_INT64, 0, NULL, false, err) != 0 ||
            host->declare(model, true, "OUT", PENSTOCK_FP32, 2, state, false, err) != 0 ||
            host->declare(model, true, "NEXT", PENSTOCK_FP32, 2, state, false, err) != 0)
            return 13;
        *ret_traits = model_traits;
        *ret_model = &handle;
        return 0;
    }

    if (host->declare(model, false, "IN", PENSTOCK_FP32, 2, dims, false, err) != 0 ||
        host->declare(model, true, "OUT", PENSTOCK_FP32, 2, dims, false, err) != 0)
        return 13;
    *ret_traits = model_traits;
    *ret_model = &handle;
    return 0;
}

static void t_close(void **model)
{
    *model = NULL;
}

static int t_instance_open(void **ret, void *model, uint32_t index, struct penstock_place place,
                           struct penstock_err *err)
{
    (void)index;
    (void)place;
    (void)err;
    *ret = model;
    return 0;
}

static bool add_one(struct penstock_batch *batch)
{
    const struct penstock_tensor *in = host->input(batch, 0);
    struct err err = { 0 };
    float *out = host->output(batch, 0, 0, in->rank, in->shape, in->size,
                              (struct penstock_err *)(void *)&err);

    if (out == NULL) {
        host->fail_row(batch, 0, (int)err.code, err.text);
        return false;
    }
    for (size_t i = 0; i < in->size / 4; i++)
        out[i] = ((const float *)in->data)[i] + 1;
    return true;
}

static void put_one(struct penstock_batch *batch, uint32_t output, float value)
{
    static const int64_t one[2] = { 1, 1 };
    float *to = host->output(batch, 0, output, 2, one, sizeof value, NULL);

    if (to != NULL)
        *to = value;
}

/* OUT is the sum of these rows, NEXT with those before. */
static void run_sums(struct penstock_batch *batch)
{
    const struct penstock_tensor *in = host->input(batch, 0), *before = host->input(batch, 1),
                                 *rate = host->input(batch, 2);
    float sum = 0;

    for (size_t i = 0; i < in->size / 4; i++)
        sum += ((const float *)in->data)[i];
    if (sum < 0) {
        host->done(batch, 3, "a negative sum");
        return;
    }
    sum *= (float)*(const int64_t *)rate->data;
    put_one(batch, 0, sum);
    put_one(batch, 1, sum + *(const float *)before->data);
    host->done(batch, 0, NULL);
}

static void t_execute(void *instance, struct penstock_batch *batch)
{
    if (sums) {
        run_sums(batch);
        return;
    }
    const char *what = host->parameter(batch, 0, "do");
    const char *count = host->parameter(batch, 0, "count");

    (void)instance;
    if (what != NULL && strcmp(what, "wait") == 0) {
        while (!host->cancelled(batch, 0))
            nanosleep(&(struct timespec){ 0, 200000 }, NULL);
        host->done(batch, 1, "cancelled");
        return;
    }
    if (what != NULL && strcmp(what, "fail") == 0) {
        host->done(batch, 3, "it fails on purpose");
        return;
    }
    for (int i = 0, n = count == NULL ? 1 : atoi(count); i < n; i++) {
        if (i > 0 && host->credit(batch, 0) == 0)
            host->wait_credit(batch, 0);
        if (host->cancelled(batch, 0) || !add_one(batch))
            break;
        host->emit(batch, 0);
    }
    host->done(batch, 0, NULL);
}

static const struct penstock_backend backend = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof backend,
    .name = "test",
    .model_open = t_model_open,
    .model_close = t_close,
    .instance_open = t_instance_open,
    .instance_close = t_close,
    .execute = t_execute,
};

/* -- the stage ---------------------------------------------------------------------------------- */

static struct {
    struct engine *engine;
    struct model *model;
    struct loop *loop;
    struct budget budget;
    uint32_t sessions_max; /* of the next stage */
    const char *yaml;      /* likewise: model.yaml, or NULL */
} stage;

static bool stage_up_with(const struct penstock_backend *of, const char *config_text,
                          enum execution execution)
{
    struct err err = { 0 };
    struct model_config *config = NULL;
    struct model_spec spec = { .name = "m", .version = 1, .folder = "/", .path = "/" };
    uint32_t sessions_max = stage.sessions_max;
    const char *yaml = stage.yaml;
    struct card *card = NULL;

    memset(&stage, 0, sizeof stage);
    stage.yaml = yaml;
    spec.arena = arena_new(4096, 1 << 20);
    budget_init(&stage.budget, 64 << 20);
    struct engine_settings settings = { .loops_count = 1,
                                        .queue_max = 3,
                                        .execution = execution,
                                        .sessions_max = sessions_max,
                                        .budget = &stage.budget };
    bool ok = engine_new(&stage.engine, env_real(), &settings, &err) == OK;
    if (ok)
        host = engine_host(stage.engine);
    ok = ok && config_parse(&config, slice_of(config_text), &err) == OK;
    if (stage.yaml != NULL)
        check(card_parse(&card, spec.arena, slice_of(stage.yaml), &err) == OK, "%s", err.text);
    spec.card = card;
    spec.backend = of != NULL ? of : backend_echo_entry(host, backend_err(&err));
    spec.config = config;
    ok = ok && model_new(&stage.model, stage.engine, &spec, &err) == OK;
    ok = ok && loop_new(&stage.loop, env_real(), 0, &err) == OK;
    check(ok, "%s", err.text);
    return ok;
}

static bool stage_up(uint32_t traits, enum execution execution)
{
    model_traits = traits;
    return stage_up_with(&backend, "", execution);
}

static void stage_down(void)
{
    model_unref(&stage.model);
    check(engine_in_flight(stage.engine) == 0, "something is still open");
    loop_free(&stage.loop);
    engine_free(&stage.engine);
    check(budget_used(&stage.budget) == 0, "%llu bytes are still charged",
          (unsigned long long)budget_used(&stage.budget));
    stage.sessions_max = 0;
    stage.yaml = NULL;
}

/* Runs `begin` on the loop, then turns of it until is_over says so (5 s at most). */
struct runner {
    struct loop_msg msg;
    struct timer timer;
    void (*begin)(void);
    bool (*is_over)(void);
    uint64_t until_ns;
};

static void look(struct timer *timer)
{
    struct runner *runner = CONTAINER_OF(timer, struct runner, timer);
    uint64_t now = loop_now_ns(stage.loop);

    check(now < runner->until_ns, "it took too long");
    if (runner->is_over == NULL || runner->is_over() || now >= runner->until_ns)
        loop_stop(stage.loop);
    else
        require(timer_start(stage.loop, timer, now + 100000, NULL) == OK);
}

static void run_begin(struct loop_msg *msg)
{
    struct runner *runner = CONTAINER_OF(msg, struct runner, msg);

    runner->begin();
    runner->until_ns = loop_now_ns(stage.loop) + 5 * NS_PER_S;
    look(&runner->timer);
}

static void stage_run(void (*begin)(void), bool (*is_over)(void))
{
    struct runner runner = {
        .msg.run = run_begin, .timer.on_due = look, .begin = begin, .is_over = is_over
    };

    loop_post(stage.loop, &runner.msg);
    loop_run(stage.loop);
}

/* -- a caller ------------------------------------------------------------------------------------ */

enum { SEEN_MAX = 256 };

static struct {
    struct session *session;
    unsigned responses, ends, frees, piece_ends;
    uint32_t credit; /* told by on_credit */
    uint64_t number[SEEN_MAX], piece[SEEN_MAX], merged[SEEN_MAX];
    float value[SEEN_MAX];
    char text[SEEN_MAX][64];
    int64_t turn[SEEN_MAX];
    unsigned elements; /* of the last response */
    uint64_t ended[SEEN_MAX];
    enum err_code code[SEEN_MAX];
    struct err err;
} seen;

static void on_response(struct session *session, const struct session_response *r)
{
    check(session == seen.session && seen.ends == 0, "in its life");
    check_or_stop(seen.responses < SEEN_MAX, "too many");
    seen.number[seen.responses] = r->number;
    seen.piece[seen.responses] = r->piece;
    check(r->number == r->response->number, "numbers agree");
    check(r->merged == r->response->merged, "numbers agree");
    check(r->of == NULL || r->of->number == r->piece, "of that piece");
    seen.merged[seen.responses] = r->merged;
    const struct penstock_tensor *t = &r->response->outputs[0].tensor;
    if (t->dtype == PENSTOCK_FP32) {
        check(!sums || !r->response->outputs[1].is_set, "the state is not shown");
        seen.value[seen.responses] = ((const float *)t->data)[0];
        seen.elements = (unsigned)(t->size / 4);
    } else {
        snprintf(seen.text[seen.responses], sizeof seen.text[0], "%.*s", (int)(t->size - 4),
                 (const char *)t->data + 4);
        memcpy(&seen.turn[seen.responses], r->response->outputs[1].tensor.data, 8);
    }
    seen.responses++;
}

static void on_piece_end(struct session *session, const struct session_piece *piece,
                         const struct err *err)
{
    check(session == seen.session && seen.ends == 0, "in its life");
    check_or_stop(seen.piece_ends < SEEN_MAX, "too many");
    seen.code[seen.piece_ends] = err->code;
    seen.ended[seen.piece_ends++] = piece->number;
}

static void on_credit(struct session *session, uint32_t pieces)
{
    check(session == seen.session, "in its life");
    seen.credit += pieces;
}

static void on_end(struct session *session, const struct err *err)
{
    check(session == seen.session && seen.ends == 0 && seen.frees == 0, "once");
    seen.ends++;
    seen.err = *err;
}

static void on_free(struct session *session)
{
    check(session == seen.session && seen.frees == 0, "once");
    seen.frees++;
}

static const struct session_sink sink = { on_response, on_piece_end, on_credit, on_end, on_free };

static struct session_settings settings_of(uint32_t credit)
{
    return (struct session_settings){ .loop = stage.loop,
                                      .budget = &stage.budget,
                                      .pieces_max = 4,
                                      .deadline_ns = UINT64_MAX,
                                      .credit = credit };
}

static bool open_session(const struct session_settings *settings)
{
    struct err err = { 0 };

    memset(&seen, 0, sizeof seen);
    check(session_new(&seen.session, stage.engine, stage.model, settings, &sink, &err) == OK, "%s",
          err.text);
    if (seen.session != NULL)
        session_start(seen.session);
    return seen.session != NULL;
}

static struct parameter words[SEEN_MAX];
static unsigned words_count;

static enum err_code push(float value, const char *key, const char *text, struct err *err)
{
    struct session_piece *piece = NULL;

    TRY(session_piece_new(seen.session, &piece, err));
    float *in = arena_aligned(piece->arena, 64, 8);
    in[0] = in[1] = value;
    piece->inputs[0] = (struct penstock_tensor){
        .dtype = PENSTOCK_FP32, .rank = 2, .shape = { 1, 2 }, .data = in, .size = 8
    };
    piece->has_input[0] = true;
    if (key != NULL) {
        struct parameter *p = &words[words_count++ % SEEN_MAX];
        *p = (struct parameter){ .key = key, .text = text };
        piece->parameters = p;
    }
    enum err_code code = session_push(seen.session, &piece, err);
    if (code != OK)
        session_piece_discard(seen.session, &piece);
    return code;
}

static void push_ok(float value, const char *key, const char *text)
{
    struct err err = { 0 };

    check(push(value, key, text, &err) == OK, "%s", err.text);
}

static void say(const char *text)
{
    struct session_piece *piece = NULL;
    struct err err = { 0 };
    uint32_t length = (uint32_t)strlen(text);

    check_or_stop(session_piece_new(seen.session, &piece, &err) == OK, "%s", err.text);
    uint8_t *in = arena_aligned(piece->arena, 64, 4 + length);
    memcpy(in, &length, 4);
    memcpy(in + 4, text, length);
    piece->inputs[0] = (struct penstock_tensor){
        .dtype = PENSTOCK_BYTES, .rank = 1, .shape = { 1 }, .data = in, .size = 4 + length
    };
    piece->has_input[0] = true;
    check(session_push(seen.session, &piece, &err) == OK, "%s", err.text);
}

static bool is_freed(void)
{
    return seen.frees == 1;
}

/* -- each ---------------------------------------------------------------------------------------- */

static void three_pieces(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);

    if (!open_session(&settings))
        return;
    push_ok(1, NULL, NULL);
    push_ok(2, NULL, NULL);
    push_ok(3, NULL, NULL);
    session_finish(seen.session);
}

static void check_three(void)
{
    check(seen.responses == 3 && seen.piece_ends == 3 && seen.ends == 1, "%u %u %u", seen.responses,
          seen.piece_ends, seen.ends);
    for (unsigned i = 0; i < 3; i++)
        check(seen.number[i] == i + 1 && seen.piece[i] == i + 1 && seen.ended[i] == i + 1 &&
                  seen.value[i] == (float)(i + 2) && seen.code[i] == OK,
              "answer %u", i);
    check(seen.err.code == OK && seen.credit == 3, "%s", seen.err.text);
}

TEST(pieces_are_answered_in_order)
{
    for (int is_inline = 0; is_inline < 2; is_inline++) {
        if (!stage_up(is_inline ? PENSTOCK_BACKEND_RUNS_INLINE : 0,
                      is_inline ? EXECUTION_INLINE : EXECUTION_QUEUED))
            return;
        stage_run(three_pieces, is_freed);
        check_three();
        stage_down();
    }
}

static void too_many_pieces(void)
{
    struct session_settings settings = settings_of(0);
    struct err err = { 0 };

    if (!open_session(&settings))
        return;
    for (int i = 0; i < 4; i++)
        push_ok(1, NULL, NULL);
    check(push(1, NULL, NULL, &err) == E_EXHAUSTED, "the fifth of four");
    check(strstr(err.text, "--stream-pieces-max") != NULL, "%s", err.text);
    check(seen.responses == 0, "nothing without credit");
    session_grant(seen.session, 2);
}

static bool two_answered(void)
{
    return seen.credit >= 2;
}

static void cancel(void)
{
    check(seen.responses == 2 && seen.credit == 2, "%u", seen.responses);
    session_cancel(seen.session);
}

TEST(credit_bounds_both_ways)
{
    struct engine_counts counts;

    if (!stage_up(0, EXECUTION_QUEUED))
        return;
    stage_run(too_many_pieces, two_answered);
    stage_run(cancel, is_freed);
    check(seen.ends == 0 && seen.responses == 2, "nothing after the cancel");
    engine_counts(stage.engine, &counts);
    check(counts.pieces_refused == 1 && counts.sessions_total == 1 && counts.sessions_open == 0,
          "counted");
    stage_down();
}

static void decoupled_pieces(void)
{
    struct session_settings settings = settings_of(5);

    if (!open_session(&settings))
        return;
    push_ok(1, "count", "4");
    push_ok(2, "count", "4");
    session_finish(seen.session);
}

static bool five_given(void)
{
    return seen.responses == 5;
}

static void grant_rest(void)
{
    check(seen.piece_ends == 1 && seen.ends == 0, "the first is answered: %u", seen.piece_ends);
    session_grant(seen.session, 100);
}

TEST(an_answer_of_many_waits_for_its_reader)
{
    if (!stage_up(PENSTOCK_BACKEND_DECOUPLED, EXECUTION_QUEUED))
        return;
    stage_run(decoupled_pieces, five_given);
    stage_run(grant_rest, is_freed);
    check(seen.responses == 8 && seen.piece_ends == 2 && seen.err.code == OK, "%u", seen.responses);
    check(seen.piece[3] == 1 && seen.piece[4] == 2 && seen.number[7] == 8, "in order");
    stage_down();
}

static void fail_in_the_middle(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);

    if (!open_session(&settings))
        return;
    push_ok(1, NULL, NULL);
    push_ok(2, "do", "fail");
    push_ok(3, NULL, NULL);
    session_finish(seen.session);
}

TEST(a_run_that_fails_does_not_end_the_session)
{
    if (!stage_up(0, EXECUTION_QUEUED))
        return;
    stage_run(fail_in_the_middle, is_freed);
    check(seen.responses == 2 && seen.piece_ends == 3, "%u %u", seen.responses, seen.piece_ends);
    check(seen.code[0] == OK && seen.code[1] == E_INVALID && seen.code[2] == OK, "codes");
    check(seen.err.code == OK, "%s", seen.err.text);
    stage_down();
}

static void interrupt_it(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);

    if (!open_session(&settings))
        return;
    push_ok(1, "do", "wait");
    push_ok(2, NULL, NULL);
    session_interrupt(seen.session);
    push_ok(3, NULL, NULL);
    session_finish(seen.session);
}

TEST(an_interruption_drops_what_came_before_it)
{
    if (!stage_up(0, EXECUTION_QUEUED))
        return;
    stage_run(interrupt_it, is_freed);
    check(seen.responses == 1 && seen.value[0] == 4 && seen.piece[0] == 3, "the third only");
    check(seen.piece_ends == 3 && seen.code[0] == E_CANCELLED && seen.code[1] == E_CANCELLED &&
              seen.code[2] == OK,
          "each is told");
    check(seen.err.code == OK, "%s", seen.err.text);
    stage_down();
}

static void late_session(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);

    settings.deadline_ns = loop_refresh_ns(stage.loop) + 20 * NS_PER_MS;
    if (!open_session(&settings))
        return;
    push_ok(1, "do", "wait");
    push_ok(2, NULL, NULL);
}

TEST(a_deadline_ends_the_session)
{
    if (!stage_up(0, EXECUTION_QUEUED))
        return;
    stage_run(late_session, is_freed);
    check(seen.err.code == E_DEADLINE && seen.ends == 1 && seen.responses == 0, "%s",
          seen.err.text);
    stage_down();
}

static void wrong_shape(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);
    struct session_piece *piece = NULL;
    struct err err = { 0 };

    if (!open_session(&settings))
        return;
    check(session_piece_new(seen.session, &piece, &err) == OK, "%s", err.text);
    piece->inputs[0] = (struct penstock_tensor){
        .dtype = PENSTOCK_FP32, .rank = 2, .shape = { 1, 3 }, .data = words, .size = 12
    };
    piece->has_input[0] = true;
    check(session_push(seen.session, &piece, &err) == E_INVALID, "refused");
    check(strstr(err.text, "[1,3]") != NULL && piece != NULL, "%s", err.text);
    session_piece_discard(seen.session, &piece);
    check(session_pieces_left(seen.session) == 4, "its credit is back");
    session_finish(seen.session);
}

TEST(a_piece_that_does_not_fit_is_the_callers_to_mend)
{
    if (!stage_up(0, EXECUTION_QUEUED))
        return;
    stage_run(wrong_shape, is_freed);
    check(seen.err.code == OK, "%s", seen.err.text);
    stage_down();
}

static void one_too_many(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);
    struct session *second = NULL;
    struct err err = { 0 };

    if (!open_session(&settings))
        return;
    check(session_new(&second, stage.engine, stage.model, &settings, &sink, &err) == E_EXHAUSTED,
          "the second of one");
    check(strstr(err.text, "--sessions-max") != NULL && err.retry_after_ms != 0, "%s", err.text);
    session_cancel(seen.session);
}

TEST(sessions_are_bounded)
{
    stage.sessions_max = 1;
    if (!stage_up(0, EXECUTION_QUEUED))
        return;
    stage_run(one_too_many, is_freed);
    struct engine_counts counts;
    engine_counts(stage.engine, &counts);
    check(counts.sessions_refused == 1, "counted");
    stage_down();
}

/* -- a backend that takes streams --------------------------------------------------------------- */

#define TALK(more)                                               \
    "input { name: 'say' data_type: TYPE_STRING dims: 1 } "      \
    "output [ { name: 'said' data_type: TYPE_STRING dims: 1 }, " \
    "         { name: 'turn' data_type: TYPE_INT64 dims: 1 } ] " \
    "parameters { key: 'mode' value { string_value: 'chat' } } " \
    "parameters { key: 'greeting' value { string_value: 'hello' } } " more

static struct parameter count_of = { .key = "count", .text = "1" };
static struct parameter delay_of = { .key = "delay_ms", .text = "0" };

static bool talk_up(bool is_inline, const char *count, const char *delay)
{
    count_of.text = count;
    delay_of.text = delay;
    count_of.next = &delay_of;
    return stage_up_with(NULL, TALK(""), is_inline ? EXECUTION_INLINE : EXECUTION_QUEUED);
}

static void begin_talk(uint32_t credit)
{
    struct session_settings settings = settings_of(credit);

    settings.parameters = &count_of;
    (void)open_session(&settings);
}

static void talk_twice(void)
{
    begin_talk(UINT32_MAX);
    say("one");
    say("two");
    session_finish(seen.session);
}

TEST(a_conversation_keeps_its_state)
{
    for (int is_inline = 0; is_inline < 2; is_inline++) {
        if (!talk_up(is_inline, "2", "0"))
            return;
        stage_run(talk_twice, is_freed);
        static const char *const words_of[] = { "hello", "one", "one", "two", "two" };
        check(seen.responses == 5 && seen.piece_ends == 2 && seen.err.code == OK, "%u %u %s",
              seen.responses, seen.piece_ends, seen.err.text);
        for (unsigned i = 0; i < 5 && i < seen.responses; i++)
            check(strcmp(seen.text[i], words_of[i]) == 0 && seen.turn[i] == (i + 1) / 2 &&
                      seen.piece[i] == (i + 1) / 2 && seen.number[i] == i + 1,
                  "%u: %s turn %lld piece %llu", i, seen.text[i], (long long)seen.turn[i],
                  (unsigned long long)seen.piece[i]);
        check(seen.ended[0] == 1 && seen.ended[1] == 2 && seen.code[1] == OK, "told in order");
        check(seen.credit == 2, "given back");
        stage_down();
    }
}

static void talk_without_credit(void)
{
    begin_talk(0);
    say("one");
    session_finish(seen.session);
}

static bool never(void)
{
    return loop_now_ns(stage.loop) % 2 == 1 || seen.responses > 0;
}

static void grant_one(void)
{
    check(seen.responses <= 1, "nothing without credit");
    session_grant(seen.session, 1);
}

static bool one_given(void)
{
    return seen.responses == 1;
}

static void grant_many(void)
{
    check(seen.responses == 1 && strcmp(seen.text[0], "hello") == 0, "one only");
    session_grant(seen.session, 10);
}

TEST(a_conversation_waits_for_its_reader)
{
    for (int is_inline = 0; is_inline < 2; is_inline++) {
        if (!talk_up(is_inline, "3", "0"))
            return;
        stage_run(talk_without_credit, never);
        stage_run(grant_one, one_given);
        stage_run(grant_many, is_freed);
        check(seen.responses == 4 && seen.err.code == OK, "%u %s", seen.responses, seen.err.text);
        stage_down();
    }
}

static void talk_long(void)
{
    begin_talk(UINT32_MAX);
    say("one");
    say("two");
}

static bool two_given(void)
{
    return seen.responses >= 2;
}

static void interrupt_talk(void)
{
    session_interrupt(seen.session);
    say("three");
    session_finish(seen.session);
}

static bool three_given(void)
{
    return seen.responses >= 3;
}

static void interrupt_again(void)
{
    session_interrupt(seen.session);
}

TEST(an_interrupted_conversation_goes_on)
{
    for (int is_inline = 0; is_inline < 2; is_inline++) {
        if (!talk_up(is_inline, "1000", "60000"))
            return;
        stage_run(talk_long, two_given);
        stage_run(interrupt_talk, three_given);
        check(strcmp(seen.text[2], "three") == 0 && seen.piece[2] == 3 && seen.turn[2] == 2,
              "%s of %llu, turn %lld", seen.text[2], (unsigned long long)seen.piece[2],
              (long long)seen.turn[2]);
        check(seen.piece_ends == 2 && seen.code[0] == E_CANCELLED && seen.code[1] == E_CANCELLED,
              "both are told: %u", seen.piece_ends);
        stage_run(interrupt_again, is_freed);
        check(seen.responses == 3 && seen.piece_ends == 3 && seen.err.code == OK, "%u %u",
              seen.responses, seen.piece_ends);
        stage_down();
    }
}

static void cancel_talk(void)
{
    session_cancel(seen.session);
}

TEST(a_conversation_ends_at_once_when_its_caller_leaves)
{
    for (int is_inline = 0; is_inline < 2; is_inline++) {
        if (!talk_up(is_inline, "1000", "60000"))
            return;
        stage_run(talk_long, two_given);
        uint64_t from = clock_mono_ns();
        stage_run(cancel_talk, is_freed);
        check(clock_mono_ns() - from < NS_PER_S && seen.ends == 0, "at once");
        struct model_stats sum;
        check(model_stats(stage.model, &sum)->cancelled_total == 1, "counted");
        stage_down();
    }
}

/* -- rows and state ------------------------------------------------------------------------------ */

/* The sums model: IN [rows, columns], or samples along the second dimension. */
static bool sums_up(int64_t rows, int64_t columns, const char *yaml)
{
    sums = true;
    sums_dims[0] = rows;
    sums_dims[1] = columns;
    stage.yaml = yaml;
    bool ok = stage_up(0, EXECUTION_QUEUED);
    if (!ok)
        sums = false;
    return ok;
}

static bool sums_up_inline(void)
{
    sums = true;
    sums_dims[0] = -1;
    sums_dims[1] = 2;
    stage.yaml = "stream:\n  state: {SUM: NEXT}\n  constants: {RATE: 1}\n";
    return stage_up(PENSTOCK_BACKEND_RUNS_INLINE, EXECUTION_INLINE);
}

static void sums_down(void)
{
    sums = false;
    stage_down();
}

#define SUM_STATE "  state: {SUM: NEXT}\n  constants: {RATE: 1}\n"

/* `count` numbers of that shape: from, from + 1 ... */
static enum err_code push_numbers(uint32_t rank, int64_t rows, int64_t columns, float from,
                                  struct err *err)
{
    struct session_piece *piece = NULL;
    int64_t dims[2] = { rows, columns };
    size_t count = (size_t)((rank > 0 ? rows : 1) * (rank > 1 ? columns : 1));

    TRY(session_piece_new(seen.session, &piece, err));
    float *in = arena_aligned(piece->arena, 64, count * 4 + 4);
    for (size_t i = 0; i < count; i++)
        in[i] = from + (float)i;
    piece->inputs[0] = (struct penstock_tensor){
        .dtype = PENSTOCK_FP32, .rank = rank, .data = in, .size = count * 4
    };
    memcpy(piece->inputs[0].shape, dims, sizeof dims);
    piece->has_input[0] = true;
    enum err_code code = session_push(seen.session, &piece, err);
    if (code != OK)
        session_piece_discard(seen.session, &piece);
    return code;
}

static void push_numbers_ok(uint32_t rank, int64_t rows, int64_t columns, float from)
{
    struct err err = { 0 };

    check(push_numbers(rank, rows, columns, from, &err) == OK, "%s", err.text);
}

static bool open_reduce(enum session_reduce reduce, uint64_t window, uint64_t step, uint64_t pad)
{
    struct session_settings settings = settings_of(UINT32_MAX);

    settings.reduce = reduce;
    settings.window = window;
    settings.step = step;
    settings.pad = pad;
    return open_session(&settings);
}

static bool is_value(unsigned at, double value)
{
    return at < seen.responses && seen.value[at] > (float)value - 0.01f &&
           seen.value[at] < (float)value + 0.01f;
}

static void each_with_state(void)
{
    struct err err = { 0 };

    if (!open_reduce(SESSION_EACH, 0, 0, 0))
        return;
    push_numbers_ok(2, 1, 2, 1); /* 3 */
    push_numbers_ok(2, 2, 2, 1); /* 10 */
    check(push_numbers(2, 1, 3, 1, &err) == E_INVALID, "three columns");
    push_numbers_ok(2, 1, 2, -9); /* fails: the state stays */
    push_numbers_ok(2, 1, 2, 0);  /* 1 */
    session_finish(seen.session);
}

static float last_next;

static void on_response_next(struct session *session, const struct session_response *r)
{
    (void)session;
    check_or_stop(r->response->outputs[1].is_set, "asked for");
    last_next = *(const float *)r->response->outputs[1].tensor.data;
    seen.responses++;
}

static void each_with_state_shown(void)
{
    static struct session_sink shown;
    struct session_settings settings = settings_of(UINT32_MAX);
    const bool wants[2] = { false, true };
    struct err err = { 0 };

    shown = sink;
    shown.on_response = on_response_next;
    settings.wants = wants;
    memset(&seen, 0, sizeof seen);
    check_or_stop(session_new(&seen.session, stage.engine, stage.model, &settings, &shown, &err) ==
                      OK,
                  "%s", err.text);
    session_start(seen.session);
    push_numbers_ok(2, 1, 2, 1);
    push_numbers_ok(2, 2, 2, 1);
    push_numbers_ok(2, 1, 2, -9);
    push_numbers_ok(2, 1, 2, 0);
    session_finish(seen.session);
}

TEST(state_goes_from_run_to_run)
{
    if (!sums_up(-1, 2, "stream:\n" SUM_STATE))
        return;
    stage_run(each_with_state, is_freed);
    check(seen.responses == 3 && seen.piece_ends == 4 && seen.code[2] == E_INVALID, "%u %u",
          seen.responses, seen.piece_ends);
    check(is_value(0, 3) && is_value(1, 10) && is_value(2, 1), "sums of each");
    stage_run(each_with_state_shown, is_freed);
    check(seen.responses == 3 && last_next > 13.9f && last_next < 14.1f, "%f", (double)last_next);
    sums_down();
}

static void stack(void)
{
    struct err err = { 0 };

    if (!open_reduce(SESSION_STACK, 0, 0, 0))
        return;
    push_numbers_ok(2, 3, 2, 1); /* 21 */
    push_numbers_ok(1, 2, 0, 7); /* a row alone: 15 */
    check(push_numbers(2, 1, 3, 1, &err) == E_INVALID && strstr(err.text, "[1,3]") != NULL, "%s",
          err.text);
    for (int i = 0; i < 100; i++)
        push_numbers_ok(2, 1, 2, 0); /* 1 each */
    check(seen.responses == 0, "nothing before the end");
    session_finish(seen.session);
}

static void stack_nothing(void)
{
    if (open_reduce(SESSION_STACK, 0, 0, 0))
        session_finish(seen.session);
}

static void stack_failing(void)
{
    if (!open_reduce(SESSION_STACK, 0, 0, 0))
        return;
    push_numbers_ok(2, 1, 2, -9);
    session_finish(seen.session);
}

TEST(stacked_rows_are_one_run)
{
    if (!sums_up(-1, 2, "stream:\n" SUM_STATE))
        return;
    stage_run(stack, is_freed);
    check(seen.responses == 1 && is_value(0, 136) && seen.err.code == OK, "%u %s", seen.responses,
          seen.err.text);
    check(seen.piece_ends == 0 && seen.piece[0] == 102, "only EACH tells; it answers the last");
    stage_run(stack_nothing, is_freed);
    check(seen.responses == 0 && seen.err.code == OK, "of nothing comes nothing");
    stage_run(stack_failing, is_freed);
    check(seen.responses == 0 && seen.err.code == E_INVALID &&
              strstr(seen.err.text, "a negative sum") != NULL,
          "%s", seen.err.text);
    sums_down();
}

static void last(void)
{
    if (!open_reduce(SESSION_LAST, 0, 0, 0))
        return;
    for (int i = 0; i < 50; i++)
        push_numbers_ok(2, 1, 2, (float)i);
    session_finish(seen.session);
}

TEST(the_last_piece_is_one_run)
{
    if (!sums_up(-1, 2, "stream:\n" SUM_STATE))
        return;
    stage_run(last, is_freed);
    check(seen.responses == 1 && is_value(0, 99) && seen.err.code == OK, "%u %s", seen.responses,
          seen.err.text);
    check(seen.piece[0] == 50 && seen.credit == 50, "given back: %u", seen.credit);
    sums_down();
}

static void windows(void)
{
    if (!open_reduce(SESSION_WINDOW, 4, 3, 2))
        return;
    push_numbers_ok(1, 5, 0, 1);  /* 0 0 1 2 | 2 3 4 5 */
    push_numbers_ok(2, 1, 4, 6);  /* 5 6 7 8 | 8 9 . . */
    push_numbers_ok(0, 0, 0, 10); /* 8 9 10 */
    session_finish(seen.session);
}

static void windows_with_gaps(void)
{
    if (!open_reduce(SESSION_WINDOW, 4, 7, 0))
        return;
    push_numbers_ok(1, 5, 0, 0); /* 0-3, 7-10, 14-17, 21-24 */
    push_numbers_ok(1, 1, 0, 5);
    push_numbers_ok(1, 19, 0, 6);
    session_finish(seen.session);
}

static void one_by_one_is_refused(void)
{
    struct err err = { 0 };

    if (!open_reduce(SESSION_WINDOW, 4, 4, 0))
        return;
    check(push_numbers(2, 2, 4, 0, &err) == E_INVALID &&
              strstr(err.text, "along dimension 1") != NULL,
          "%s", err.text);
    session_cancel(seen.session);
}

TEST(windows_of_samples)
{
    if (!sums_up(-1, 4, "stream:\n" SUM_STATE))
        return;
    stage_run(windows, is_freed);
    check(seen.responses == 3 && is_value(0, 3) && is_value(1, 14) && is_value(2, 26) &&
              seen.err.code == OK,
          "%u %s", seen.responses, seen.err.text);
    check(seen.piece[0] == 1 && seen.piece[1] == 1 && seen.piece[2] == 2, "completed by");
    check(seen.elements == 1 && seen.credit == 3, "given back: %u", seen.credit);
    stage_run(windows_with_gaps, is_freed);
    check(seen.responses == 4 && is_value(0, 6) && is_value(1, 34) && is_value(2, 62) &&
              is_value(3, 90),
          "%u", seen.responses);
    stage_run(one_by_one_is_refused, is_freed);
    sums_down();
}

static void windows_of_two(void)
{
    if (!open_reduce(SESSION_WINDOW, 3, 1, 0))
        return;
    push_numbers_ok(2, 4, 2, 1);
    push_numbers_ok(2, 1, 2, 9);
    session_finish(seen.session);
}

static void windows_of_fives(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);
    struct session *session = NULL;
    struct err err = { 0 };

    settings.reduce = SESSION_WINDOW;
    settings.window = 5;
    check(session_new(&session, stage.engine, stage.model, &settings, &sink, &err) == E_INVALID &&
              strstr(err.text, "5 rows does not fit input 'IN' of shape [2,2]") != NULL,
          "%s", err.text);
    seen.frees = 1;
}

static void windows_that_do_not_fit(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);
    struct session *session = NULL;
    struct err err = { 0 };

    settings.reduce = SESSION_WINDOW;
    check(session_new(&session, stage.engine, stage.model, &settings, &sink, &err) == E_INVALID &&
              strstr(err.text, "window: 1 or more") != NULL,
          "%s", err.text);
    seen.frees = 1;
}

TEST(windows_of_rows)
{
    if (!sums_up(-1, 2, "stream:\n" SUM_STATE))
        return;
    stage_run(windows_of_two, is_freed);
    check(seen.responses == 3 && is_value(0, 21) && is_value(1, 33) && is_value(2, 45), "%u",
          seen.responses);
    stage_run(windows_that_do_not_fit, is_freed);
    sums_down();
    if (!sums_up(2, 2, "stream:\n" SUM_STATE))
        return;
    stage_run(windows_of_fives, is_freed);
    sums_down();
}

static void too_much(void)
{
    struct session_settings settings = settings_of(UINT32_MAX);

    settings.reduce = SESSION_STACK;
    settings.bytes_max = 100;
    if (!open_session(&settings))
        return;
    push_numbers_ok(2, 6, 2, 1);
    push_numbers_ok(2, 6, 2, 1);
    push_numbers_ok(2, 1, 2, 1);
}

TEST(what_is_collected_is_bounded)
{
    if (!sums_up(-1, 2, "stream:\n" SUM_STATE))
        return;
    stage_run(too_much, is_freed);
    check(seen.err.code == E_EXHAUSTED && strstr(seen.err.text, "--max-body") != NULL, "%s",
          seen.err.text);
    sums_down();
}

/* -- merging ------------------------------------------------------------------------------------- */

static void merge_pieces(void)
{
    struct session_settings settings = settings_of(1);

    settings.merge = SESSION_LATEST;
    if (!open_session(&settings))
        return;
    for (int i = 1; i <= 4; i++)
        push_ok((float)i, NULL, NULL);
}

static bool three_told(void)
{
    return seen.piece_ends == 3;
}

static void grant_and_finish(void)
{
    check(seen.responses == 1 && seen.ended[2] == 3, "one waits: %u", seen.responses);
    session_grant(seen.session, 5);
    session_finish(seen.session);
}

TEST(newer_answers_take_the_place_of_those_that_wait)
{
    if (!stage_up(0, EXECUTION_QUEUED))
        return;
    stage_run(merge_pieces, three_told);
    stage_run(grant_and_finish, is_freed);
    check(seen.responses == 2 && is_value(0, 2) && is_value(1, 5), "%u", seen.responses);
    check(seen.merged[0] == 0 && seen.merged[1] == 2 && seen.number[1] == 2 && seen.piece[1] == 4,
          "%llu merged", (unsigned long long)seen.merged[1]);
    check(seen.piece_ends == 4 && seen.err.code == OK, "%u", seen.piece_ends);
    check(model_stats(stage.model, &(struct model_stats){ 0 })->merged_total == 2, "counted");
    stage_down();
}

static void talk_merged(void)
{
    struct session_settings settings = settings_of(1);

    settings.merge = SESSION_CONCAT;
    settings.parameters = &count_of;
    if (!open_session(&settings))
        return;
    say("ab");
    say("c");
    session_finish(seen.session);
}

static bool settles(void)
{
    static unsigned turns;
    struct model_stats sum;

    return model_stats(stage.model, &sum)->merged_total >= 5 || ++turns > 1000000;
}

TEST(texts_that_wait_are_joined)
{
    for (int is_inline = 0; is_inline < 2; is_inline++) {
        if (!talk_up(is_inline, "3", "0"))
            return;
        stage_run(talk_merged, settles);
        stage_run(grant_one, is_freed);
        check(seen.responses == 2 && strcmp(seen.text[0], "hello") == 0 &&
                  strcmp(seen.text[1], "abababccc") == 0,
              "%u: %s", seen.responses, seen.text[1]);
        check(seen.merged[1] == 5 && seen.turn[1] == 2 && seen.piece_ends == 2 &&
                  seen.err.code == OK,
              "%llu merged, %u told", (unsigned long long)seen.merged[1], seen.piece_ends);
        stage_down();
    }
}

/* -- random order --------------------------------------------------------------------------------- */

/* Pushes, grants, interruptions, the end or the caller's leaving come in any order; a simple account
 * says what must be true of what is told. */
enum { RANDOM_STEPS = 300, RANDOM_PIECES = 400 };

struct expected {
    unsigned count; /* answers that it would get */
    bool fails, is_interrupted, is_told;
    unsigned given;
};

static struct {
    struct expected pieces[RANDOM_PIECES];
    unsigned pushed, told, interrupted_to, steps;
    uint64_t granted, given;
    uint64_t piece; /* that was answered last */
    bool is_talk, is_decoupled, is_finished, is_cancelled, merges;
    unsigned ends, frees;
    struct session *session;
    struct timer timer;
    uint64_t until_ns;
    uint64_t credit; /* pieces */
} rnd;

static void rnd_response(struct session *session, const struct session_response *r)
{
    (void)session;
    check(rnd.ends == 0 && !rnd.is_cancelled, "in its life");
    check(r->number == ++rnd.given && r->response->number == r->number, "numbers without a gap");
    check(rnd.given <= rnd.granted, "never more than was granted");
    check(r->piece >= rnd.piece, "in the order of the pieces");
    rnd.piece = r->piece;
    check(rnd.merges || rnd.told + 1 >= r->piece, "the ends of those before it come first");
    if (r->piece == 0)
        return;
    check_or_stop(r->piece <= rnd.pushed, "of a piece that was pushed");
    struct expected *e = &rnd.pieces[r->piece];
    check(!e->is_told && !e->fails, "piece %llu is not over", (unsigned long long)r->piece);
    e->given += 1 + (unsigned)r->merged;
    if (!rnd.merges)
        check(r->merged == 0 && e->given <= e->count, "%u of %u answers", e->given, e->count);
    if (!rnd.is_talk) {
        float value = ((const float *)r->response->outputs[0].tensor.data)[0];
        check((uint64_t)(value + 0.5f) == r->piece + 1, "its own answer: %f", (double)value);
    }
}

static void rnd_piece_end(struct session *session, const struct session_piece *piece,
                          const struct err *err)
{
    (void)session;
    check(rnd.ends == 0 && !rnd.is_cancelled, "in its life");
    check(piece->number == ++rnd.told, "each once, in order: %llu",
          (unsigned long long)piece->number);
    struct expected *e = &rnd.pieces[piece->number];
    e->is_told = true;
    if (err->code == OK && !rnd.merges)
        check(e->given == e->count && !e->fails, "%u of %u answers", e->given, e->count);
    else if (err->code == E_CANCELLED)
        check(e->is_interrupted, "only those that were interrupted");
    else if (err->code != OK)
        check(e->fails && err->code == E_INVALID, "%s", err->text);
}

static void rnd_credit(struct session *session, uint32_t pieces)
{
    (void)session;
    rnd.credit += pieces;
    check(rnd.credit <= 4, "never more than at first");
}

static void rnd_end(struct session *session, const struct err *err)
{
    (void)session;
    check(rnd.ends++ == 0 && rnd.frees == 0, "once");
    check(err->code == OK, "%s", err->text);
    check(rnd.told == rnd.pushed, "all are told: %u of %u", rnd.told, rnd.pushed);
}

static void rnd_free(struct session *session)
{
    (void)session;
    check(rnd.frees++ == 0, "once");
    check(rnd.ends == 1 || rnd.is_cancelled, "last");
    rnd.session = NULL;
}

static const struct session_sink rnd_sink = { rnd_response, rnd_piece_end, rnd_credit, rnd_end,
                                              rnd_free };

static void rnd_push(void)
{
    static char counts[RANDOM_PIECES][4];
    struct session_piece *piece = NULL;
    struct err err = { 0 };

    if (session_pieces_left(rnd.session) == 0 || rnd.pushed + 2 > RANDOM_PIECES)
        return;
    check(rnd.credit > 0, "it was told");
    check_or_stop(session_piece_new(rnd.session, &piece, &err) == OK, "%s", err.text);
    if (test_random_below(8) == 0) {
        session_piece_discard(rnd.session, &piece);
        return;
    }
    struct expected *e = &rnd.pieces[rnd.pushed + 1];
    e->count = rnd.is_decoupled ? (unsigned)test_random_below(5) : 1;
    e->fails = !rnd.is_talk && test_random_below(10) == 0;
    snprintf(counts[rnd.pushed], sizeof counts[0], "%u", e->count);
    words[rnd.pushed % SEEN_MAX] =
        (struct parameter){ .key = e->fails ? "do" : "count",
                            .text = e->fails ? "fail" : counts[rnd.pushed] };
    piece->parameters = &words[rnd.pushed % SEEN_MAX];
    if (rnd.is_talk) {
        static const uint8_t text[] = { 2, 0, 0, 0, 'h', 'i' };
        piece->inputs[0] = (struct penstock_tensor){
            .dtype = PENSTOCK_BYTES, .rank = 1, .shape = { 1 }, .data = text, .size = sizeof text
        };
    } else {
        float *in = arena_aligned(piece->arena, 64, 8);
        in[0] = in[1] = (float)(rnd.pushed + 1);
        piece->inputs[0] = (struct penstock_tensor){
            .dtype = PENSTOCK_FP32, .rank = 2, .shape = { 1, 2 }, .data = in, .size = 8
        };
    }
    piece->has_input[0] = true;
    rnd.credit--;
    rnd.pushed++;
    check(session_push(rnd.session, &piece, &err) == OK, "%s", err.text);
}

static void rnd_interrupt(void)
{
    for (unsigned i = rnd.interrupted_to + 1; i <= rnd.pushed; i++)
        rnd.pieces[i].is_interrupted = true;
    rnd.interrupted_to = rnd.pushed;
    session_interrupt(rnd.session);
}

static void rnd_step(struct timer *timer)
{
    uint64_t now = loop_now_ns(stage.loop);

    check(now < rnd.until_ns, "it took too long");
    if (rnd.session == NULL || now >= rnd.until_ns) {
        loop_stop(stage.loop);
        return;
    }
    for (uint64_t ops = 1 + test_random_below(3); ops > 0 && rnd.session != NULL; ops--) {
        uint64_t what = test_random_below(100);
        uint32_t more = (uint32_t)test_random_below(6);
        if (rnd.is_cancelled)
            break;
        if (rnd.steps++ >= RANDOM_STEPS) {
            rnd.granted += 1000000;
            session_grant(rnd.session, 1000000);
            if (test_random_below(3) == 0) {
                rnd.is_cancelled = true;
                session_cancel(rnd.session);
            } else if (!rnd.is_finished) {
                rnd.is_finished = true;
                session_finish(rnd.session);
            }
            break;
        }
        if (what < 50) {
            rnd_push();
        } else if (what < 90) {
            rnd.granted += more;
            session_grant(rnd.session, more);
        } else if (what < 96) {
            rnd_interrupt();
        }
    }
    require(timer_start(stage.loop, timer, now + test_random_below(3) * 100000, NULL) == OK);
}

static void rnd_begin(struct loop_msg *msg)
{
    struct session_settings settings = settings_of(0);
    struct err err = { 0 };

    (void)msg;
    settings.merge = rnd.merges ? SESSION_LATEST : SESSION_PAUSE;
    rnd.credit = 4;
    rnd.until_ns = loop_refresh_ns(stage.loop) + 20 * NS_PER_S;
    rnd.timer.on_due = rnd_step;
    check_or_stop(session_new(&rnd.session, stage.engine, stage.model, &settings, &rnd_sink,
                              &err) == OK,
                  "%s", err.text);
    session_start(rnd.session);
    rnd_step(&rnd.timer);
}

TEST(nothing_is_lost_in_any_order)
{
    for (unsigned round = 0; round < 48 && !test_has_failed(); round++) {
        bool is_talk = round % 2 == 1, is_inline = round / 2 % 2 == 1;
        struct loop_msg msg = { .run = rnd_begin };
        bool up = is_talk ? talk_up(is_inline, "1", "0")
                          : stage_up(is_inline ? PENSTOCK_BACKEND_RUNS_INLINE
                                               : PENSTOCK_BACKEND_DECOUPLED,
                                     is_inline ? EXECUTION_INLINE : EXECUTION_QUEUED);
        if (!up)
            return;
        memset(&rnd, 0, sizeof rnd);
        rnd.is_talk = is_talk;
        rnd.is_decoupled = is_talk || !is_inline;
        rnd.merges = round / 4 % 3 == 2;
        loop_post(stage.loop, &msg);
        loop_run(stage.loop);
        check(rnd.frees == 1, "round %u: freed %u times", round, rnd.frees);
        stage_down();
    }
}

/* -- faults --------------------------------------------------------------------------------------- */

static const struct scenario {
    const char *what;
    bool is_talk;
    enum session_reduce reduce;
    enum session_merge merge;
} scenarios[] = {
    { "each", false, SESSION_EACH, SESSION_PAUSE },
    { "each, merged", false, SESSION_EACH, SESSION_LATEST },
    { "stack", false, SESSION_STACK, SESSION_PAUSE },
    { "last", false, SESSION_LAST, SESSION_PAUSE },
    { "window", false, SESSION_WINDOW, SESSION_PAUSE },
    { "talk", true, SESSION_EACH, SESSION_PAUSE },
    { "talk, joined", true, SESSION_EACH, SESSION_CONCAT },
};
static const struct scenario *scenario;
static uint32_t fault_nth;
static bool has_fired, has_failed;

static void run_scenario(void)
{
    struct session_settings settings = settings_of(scenario->merge == SESSION_PAUSE ? 100 : 1);
    struct err err = { 0 };

    memset(&seen, 0, sizeof seen);
    settings.reduce = scenario->reduce;
    settings.merge = scenario->merge;
    settings.window = scenario->reduce == SESSION_WINDOW ? 2 : 0;
    settings.deadline_ns = loop_now_ns(stage.loop) + 60 * NS_PER_S;
    settings.parameters = &count_of;
    fault_arm(fault_nth);
    has_failed =
        session_new(&seen.session, stage.engine, stage.model, &settings, &sink, &err) != OK;
    if (has_failed) {
        check(err.code == E_EXHAUSTED && err.text[0] != '\0', "%s: %s", scenario->what, err.text);
        seen.frees = 1;
        seen.ends = 1;
        return;
    }
    session_start(seen.session);
    for (int i = 0; i < 3 && seen.ends == 0; i++) {
        struct session_piece *piece = NULL;
        static const uint8_t text[] = { 2, 0, 0, 0, 'h', 'i' };
        static const float numbers[2] = { 1, 2 };
        has_failed |= session_piece_new(seen.session, &piece, &err) != OK;
        if (piece == NULL)
            continue;
        piece->inputs[0] = scenario->is_talk ? (struct penstock_tensor){ .dtype = PENSTOCK_BYTES,
                                                                         .rank = 1,
                                                                         .shape = { 1 },
                                                                         .data = text,
                                                                         .size = sizeof text }
                                             : (struct penstock_tensor){ .dtype = PENSTOCK_FP32,
                                                                         .rank = 2,
                                                                         .shape = { 1, 2 },
                                                                         .data = numbers,
                                                                         .size = 8 };
        piece->has_input[0] = true;
        has_failed |= session_push(seen.session, &piece, &err) != OK;
        session_piece_discard(seen.session, &piece);
    }
    session_finish(seen.session);
    session_grant(seen.session, 100);
}

TEST(a_session_survives_every_fault)
{
    for (size_t i = 0; i < COUNT(scenarios); i++) {
        scenario = &scenarios[i];
        for_each_fault(nth) {
            fault_arm(0);
            fault_nth = nth;
            bool up = scenario->is_talk ? talk_up(true, "2", "0") : sums_up_inline();
            if (!up)
                return;
            stage_run(run_scenario, is_freed);
            has_fired = fault_fired();
            fault_arm(0);
            check(seen.ends == 1, "%s, fault %u: %u ends", scenario->what, nth, seen.ends);
            if (!has_fired)
                check(!has_failed && seen.err.code == OK && seen.responses > 0, "%s: %s",
                      scenario->what, seen.err.text);
            check(seen.err.code == OK || seen.err.code == E_EXHAUSTED, "%s, fault %u: %s",
                  scenario->what, nth, seen.err.text);
            sums = false;
            stage_down();
            if (!has_fired) {
                check(nth > 3, "%s: only %u faults", scenario->what, nth - 1);
                break;
            }
        }
    }
}

/* -- many ----------------------------------------------------------------------------------------- */

enum { MANY = 2000, TOKENS = 10 };

static struct {
    struct arena *arenas[MANY];
    unsigned open;
    uint64_t responses, late_ns_sum, late_ns_max;
    uint64_t begun_ns[MANY], given[MANY];
} many;

static void many_response(struct request *request, struct response *response)
{
    size_t i = (size_t)(uintptr_t)request->user;
    uint64_t due = many.begun_ns[i] + many.given[i]++ * 10 * NS_PER_MS, now = clock_mono_ns();

    check(response->number == many.given[i], "in order");
    check(now + NS_PER_MS > due, "not before its time");
    uint64_t late = now > due ? now - due : 0;
    many.late_ns_sum += late;
    many.late_ns_max = MAX(many.late_ns_max, late);
    many.responses++;
}

static void many_end(struct request *request, const struct err *err)
{
    (void)request;
    check(err->code == OK, "%s", err->text);
}

static void many_free(struct request *request)
{
    (void)request;
    many.open--;
}

static const struct request_sink many_sink = { many_response, many_end, many_free };

static void begin_many(void)
{
    static struct parameter count = { .key = "count", .text = "10" };
    static struct parameter delay = { .key = "delay_us", .text = "10000", .next = &count };
    static const float numbers[2] = { 1, 2 };

    for (size_t i = 0; i < MANY; i++) {
        struct request *request = NULL;
        struct err err = { 0 };
        many.arenas[i] = arena_new(4096, 1 << 20);
        check_or_stop(request_new(&request, stage.engine, stage.model, many.arenas[i], stage.loop,
                                  &many_sink, &err) == OK,
                      "%s", err.text);
        request->user = (void *)(uintptr_t)i;
        request->inputs[0] = (struct penstock_tensor){
            .dtype = PENSTOCK_FP32, .rank = 1, .shape = { 2 }, .data = numbers, .size = 8
        };
        request->has_input[0] = true;
        request->parameters = &delay;
        many.open++;
        many.begun_ns[i] = clock_mono_ns();
        engine_submit(request);
    }
}

static bool none_open(void)
{
    return many.open == 0;
}

TEST(two_thousand_paced_streams_need_no_thread)
{
    memset(&many, 0, sizeof many);
    if (!stage_up_with(NULL,
                       "input { name: 'in' data_type: TYPE_FP32 dims: 2 } "
                       "output { name: 'out' data_type: TYPE_FP32 dims: 2 } "
                       "parameters { key: 'mode' value { string_value: 'repeat' } }",
                       EXECUTION_AUTO))
        return;
    stage_run(begin_many, none_open);
    check(many.responses == MANY * TOKENS, "%llu", (unsigned long long)many.responses);
    /* On a machine that does nothing else the mean is under 1 ms; here others may run. */
    check(many.late_ns_sum / many.responses < 100 * NS_PER_MS, "late by %llu us in the mean",
          (unsigned long long)(many.late_ns_sum / many.responses / NS_PER_US));
    if (getenv("SHOW") != NULL)
        printf("late: mean %llu us, most %llu us\n",
               (unsigned long long)(many.late_ns_sum / many.responses / NS_PER_US),
               (unsigned long long)(many.late_ns_max / NS_PER_US));
    struct model_stats sum;
    check(model_stats(stage.model, &sum)->runs_inline == MANY && sum.running == 0, "on the loop");
    for (size_t i = 0; i < MANY; i++)
        arena_free(&many.arenas[i]);
    stage_down();
}
