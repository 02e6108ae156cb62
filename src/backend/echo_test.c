/* echo_test.c - each mode of the echo backend. SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/builtin.h"
#include "backend/fake_host.h"
#include "base/clock.h"
#include "test/harness.h"

#define SIGNATURE                                                              \
    "\"input\":[{\"name\":\"a\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]},"  \
    "{\"name\":\"s\",\"data_type\":\"TYPE_STRING\",\"dims\":[-1]}],"           \
    "\"output\":[{\"name\":\"b\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}," \
    "{\"name\":\"t\",\"data_type\":\"TYPE_STRING\",\"dims\":[-1]}]"
#define PLAIN   "{" SIGNATURE "}"
#define BATCHED "{\"max_batch_size\":8," SIGNATURE "}"
#define NUMBERS                                                                 \
    "{\"input\":[{\"name\":\"a\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}]," \
    "\"output\":[{\"name\":\"b\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}]}"

struct fixture {
    struct fake_model model;
    const struct penstock_backend *backend;
    void *opened, *instance;
    uint32_t traits;
    struct err err;
    unsigned violations;
    struct fake_batch batch;
    bool has_batch;
};

static void begin(struct fixture *f, const char *json, const char *mode)
{
    memset(f, 0, sizeof *f);
    f->model.name = "echo";
    f->model.config_json = json;
    if (mode != NULL)
        f->model.parameters[0] = (struct fake_parameter){ "mode", mode };
    f->backend = backend_builtin("echo", &fake_host, backend_err(&f->err));
    f->violations = atomic_load(&fake_violations);
}

static void end(struct fixture *f)
{
    if (f->instance != NULL)
        f->backend->instance_close(&f->instance);
    if (f->opened != NULL)
        f->backend->model_close(&f->opened);
    fake_model_deinit(&f->model);
    if (f->has_batch)
        fake_batch_deinit(&f->batch);
    check(atomic_load(&fake_violations) == f->violations, "the backend broke its contract");
}

static void set(struct fixture *f, const char *key, const char *value)
{
    size_t at = 0;

    while (f->model.parameters[at].key != NULL)
        at++;
    f->model.parameters[at] = (struct fake_parameter){ key, value };
}

static int open_model(struct fixture *f)
{
    f->err = (struct err){ .code = OK };
    int code = f->backend->model_open(&f->opened, fake_model_host(&f->model), &f->traits,
                                      backend_err(&f->err));
    if (code == OK)
        code = f->backend->instance_open(&f->instance, f->opened, 0,
                                         (struct penstock_place){ PENSTOCK_CPU, 0 },
                                         backend_err(&f->err));
    return code;
}

static struct fake_batch *batch(struct fixture *f, uint32_t rows)
{
    if (f->has_batch)
        fake_batch_deinit(&f->batch);
    fake_batch_init(&f->batch, &f->model, rows);
    f->has_batch = true;
    return &f->batch;
}

static int run(struct fixture *f)
{
    fake_batch_reset(&f->batch);
    return fake_batch_run(&f->batch, f->backend, f->instance);
}

static void input_ints(struct fixture *f, const int32_t *values, int64_t count)
{
    fake_batch_input(&f->batch, 0, PENSTOCK_INT32, 1, &count, values, (size_t)count * 4);
}

static bool is_ints(const struct penstock_tensor *tensor, const int32_t *values, int64_t count)
{
    return tensor != NULL && tensor->rank == 1 && tensor->shape[0] == count &&
           tensor->size == (size_t)count * 4 && memcmp(tensor->data, values, tensor->size) == 0;
}

TEST(echo_identity)
{
    static const uint8_t strings[] = { 2, 0, 0, 0, 'h', 'i', 0, 0, 0, 0, 1, 0, 0, 0, 0 };
    struct fixture f;
    int32_t values[] = { 1, -2, 3 };
    int64_t three = 3;

    begin(&f, PLAIN, NULL);
    check(open_model(&f) == OK, "%s", f.err.text);
    check(f.traits == PENSTOCK_BACKEND_RUNS_INLINE, "traits %u", f.traits);
    const struct fake_declared *b = fake_model_find(&f.model, true, "b");
    check(b != NULL && b->dtype == PENSTOCK_INT32 && b->rank == 1 && b->dims[0] == -1, "b");
    batch(&f, 1);
    input_ints(&f, values, 3);
    fake_batch_input(&f.batch, 1, PENSTOCK_BYTES, 1, &three, strings, sizeof strings);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(f.batch.rows[0].responses_count == 1, "%u responses", f.batch.rows[0].responses_count);
    check(is_ints(fake_batch_output(&f.batch, 0, 0, 0), values, 3), "numbers");
    const struct penstock_tensor *t = fake_batch_output(&f.batch, 0, 0, 1);
    check(t != NULL && t->size == sizeof strings && memcmp(t->data, strings, t->size) == 0,
          "strings");
    /* the first output is not wanted */
    f.batch.rows[0].skips = 1;
    check(run(&f) == OK && fake_batch_output(&f.batch, 0, 0, 0) == NULL &&
              fake_batch_output(&f.batch, 0, 0, 1) != NULL,
          "only what is wanted");
    f.batch.rows[0].skips = 0;
    f.batch.is_output_refused = true;
    check(run(&f) == E_EXHAUSTED, "no memory for the output: %d", f.batch.rows[0].code);
    end(&f);
}

TEST(echo_divides_a_batch)
{
    static const uint8_t strings[] = { 1, 0, 0, 0, 'a', 2, 0, 0, 0, 'b', 'b', 0, 0, 0, 0 };
    struct fixture f;
    int32_t values[] = { 1, 2, 3, 4, 5, 6 };
    int64_t shape[] = { 3, 2 }, tall[] = { 3, 1 };

    begin(&f, BATCHED, "identity");
    check(open_model(&f) == OK, "%s", f.err.text);
    check(f.traits == (PENSTOCK_BACKEND_RUNS_INLINE | PENSTOCK_BACKEND_CAN_BATCH), "traits %u",
          f.traits);
    const struct fake_declared *b = fake_model_find(&f.model, true, "b");
    check(b != NULL && b->rank == 2 && b->dims[0] == -1, "the batch dimension is declared");
    batch(&f, 2);
    f.batch.rows[1].size = 2;
    fake_batch_input(&f.batch, 0, PENSTOCK_INT32, 2, shape, values, sizeof values);
    fake_batch_input(&f.batch, 1, PENSTOCK_BYTES, 2, tall, strings, sizeof strings);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    const struct penstock_tensor *first = fake_batch_output(&f.batch, 0, 0, 0);
    const struct penstock_tensor *second = fake_batch_output(&f.batch, 1, 0, 0);
    check(first != NULL && first->shape[0] == 1 && first->shape[1] == 2 && first->size == 8 &&
              memcmp(first->data, values, 8) == 0,
          "the first row");
    check(second != NULL && second->shape[0] == 2 && second->size == 16 &&
              memcmp(second->data, values + 2, 16) == 0,
          "the second row");
    first = fake_batch_output(&f.batch, 0, 0, 1);
    second = fake_batch_output(&f.batch, 1, 0, 1);
    check(first != NULL && first->size == 5 && memcmp(first->data, strings, 5) == 0, "'a'");
    check(second != NULL && second->size == 10 && memcmp(second->data, strings + 5, 10) == 0,
          "'bb' and ''");
    end(&f);
}

/* An output with another type than any input, and one more output than inputs. */
TEST(echo_zeros_and_rounds)
{
    struct fixture f;
    int32_t values[] = { 7, 8 };

    begin(&f,
          "{\"input\":[{\"name\":\"a\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}],"
          "\"output\":[{\"name\":\"x\",\"data_type\":\"TYPE_FP64\",\"dims\":[2,-1]},"
          "{\"name\":\"y\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]},"
          "{\"name\":\"z\",\"data_type\":\"TYPE_STRING\",\"dims\":[3]}]}",
          "identity");
    check(open_model(&f) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_ints(&f, values, 2);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    static const uint8_t zeros[16];
    const struct penstock_tensor *x = fake_batch_output(&f.batch, 0, 0, 0);
    check(x != NULL && x->rank == 2 && x->shape[0] == 2 && x->shape[1] == 1 && x->size == 16 &&
              memcmp(x->data, zeros, 16) == 0,
          "zeros");
    check(is_ints(fake_batch_output(&f.batch, 0, 0, 1), values, 2), "the input again");
    const struct penstock_tensor *z = fake_batch_output(&f.batch, 0, 0, 2);
    check(z != NULL && z->size == 12 && memcmp(z->data, zeros, 12) == 0, "empty strings");
    end(&f);
}

TEST(echo_fails_as_told)
{
    static const struct {
        const char *code, *text;
        int is;
    } cases[] = {
        { NULL, NULL, E_INTERNAL },
        { "UNAVAILABLE", "come back later", E_UNAVAILABLE },
        { "8", "too much", E_EXHAUSTED },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fixture f;
        begin(&f, PLAIN, "fail");
        if (cases[i].code != NULL) {
            set(&f, "code", cases[i].code);
            set(&f, "text", cases[i].text);
        }
        check(open_model(&f) == OK, "%s", f.err.text);
        batch(&f, 2);
        check(run(&f) == cases[i].is, "case %zu: %d", i, f.batch.rows[0].code);
        check(f.batch.rows[1].code == cases[i].is, "every row fails");
        check(cases[i].text == NULL || strcmp(f.batch.rows[0].text, cases[i].text) == 0, "says %s",
              f.batch.rows[0].text);
        end(&f);
    }
}

TEST(echo_refuses_configurations)
{
    static const struct {
        const char *json, *mode, *key, *value, *says;
    } cases[] = {
        { PLAIN, "sing", NULL, NULL, "'sing'" },
        { PLAIN, "fail", "code", "OK", "code" },
        { PLAIN, "fail", "code", "17", "1 to 16" },
        { PLAIN, "delay", "delay_ms", "soon", "'soon'" },
        { PLAIN, "delay", "delay_ms", "99999999999", "3600000" },
        { PLAIN, "repeat", "count", "-1", "count" },
        { PLAIN, "accumulate", NULL, NULL, "accumulate" },
        { PLAIN, "fail_load", "text", "no luck", "no luck" },
        { "{}", NULL, NULL, NULL, "list input and output" },
        { "not json", NULL, NULL, NULL, "JSON" },
        { "{\"output\":[{\"data_type\":\"TYPE_INT8\"}]}", NULL, NULL, NULL, "no name" },
        { "{\"output\":[{\"name\":\"x\"}]}", NULL, NULL, NULL, "'x' needs a data_type" },
        { "{\"output\":[{\"name\":\"x\",\"data_type\":\"TYPE_INT8\",\"dims\":"
          "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}]}",
          NULL, NULL, NULL, "more than 16 dims" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fixture f;
        begin(&f, cases[i].json, cases[i].mode);
        if (cases[i].key != NULL)
            set(&f, cases[i].key, cases[i].value);
        check(open_model(&f) != OK && f.opened == NULL && strstr(f.err.text, cases[i].says) != NULL,
              "case %zu says %s", i, f.err.text);
        end(&f);
    }
}

struct runner {
    struct fixture *f;
    int code;
};

static void *run_thread(void *context)
{
    struct runner *runner = context;

    runner->code = fake_batch_run(&runner->f->batch, runner->f->backend, runner->f->instance);
    return NULL;
}

static uint64_t now_ms(void)
{
    return clock_mono_ns() / NS_PER_MS;
}

TEST(echo_delay_waits_and_is_woken)
{
    struct fixture f;
    int32_t value = 5;
    pthread_t thread;

    begin(&f, NUMBERS, "delay");
    set(&f, "delay_ms", "30");
    check(open_model(&f) == OK, "%s", f.err.text);
    check(f.traits == 0, "a sleeper must not run on a network loop");
    batch(&f, 1);
    input_ints(&f, &value, 1);
    uint64_t from = now_ms();
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(now_ms() - from >= 29, "it waited %llu ms", (unsigned long long)(now_ms() - from));
    check(is_ints(fake_batch_output(&f.batch, 0, 0, 0), &value, 1), "the input");

    f.batch.rows[0].parameters[0] = (struct fake_parameter){ "delay_ms", "600000" };
    fake_batch_reset(&f.batch);
    struct runner runner = { &f, OK };
    if (pthread_create(&thread, NULL, run_thread, &runner) != 0)
        return;
    usleep(20000);
    from = now_ms();
    fake_batch_cancel(&f.batch, f.backend, f.instance);
    pthread_join(thread, NULL);
    check(runner.code == E_CANCELLED && now_ms() - from < 1000, "code %d after %llu ms",
          runner.code, (unsigned long long)(now_ms() - from));
    end(&f);
}

TEST(echo_repeat_answers_many_times)
{
    struct fixture f;
    int32_t value = 5;

    begin(&f, NUMBERS, "repeat");
    set(&f, "count", "3");
    set(&f, "delay_ms", "2");
    check(open_model(&f) == OK, "%s", f.err.text);
    check(f.traits == (PENSTOCK_BACKEND_DECOUPLED | PENSTOCK_BACKEND_CONCURRENT |
                       PENSTOCK_BACKEND_RUNS_INLINE),
          "traits %u", f.traits);
    batch(&f, 1);
    input_ints(&f, &value, 1);
    uint64_t from = now_ms();
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(f.batch.rows[0].responses_count == 3 && now_ms() - from >= 3, "%u responses",
          f.batch.rows[0].responses_count);
    for (uint32_t i = 0; i < 3; i++)
        check(is_ints(fake_batch_output(&f.batch, 0, i, 0), &value, 1), "response %u", i);
    f.batch.rows[0].parameters[0] = (struct fake_parameter){ "count", "0" };
    check(run(&f) == OK && f.batch.rows[0].responses_count == 0, "none at all");
    f.batch.rows[0].parameters[0] = (struct fake_parameter){ "count", "5" };
    f.batch.rows[0].parameters[1] = (struct fake_parameter){ "delay_ms", "0" };
    check(run(&f) == OK && f.batch.rows[0].responses_count == 5, "as the request says");
    end(&f);
}

TEST(echo_repeat_never_outruns_its_reader)
{
    struct fixture f;
    int32_t value = 5;
    pthread_t thread;

    begin(&f, NUMBERS, "repeat");
    set(&f, "count", "1000000");
    check(open_model(&f) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_ints(&f, &value, 1);
    atomic_store(&f.batch.rows[0].credit, 2u);
    struct runner runner = { &f, OK };
    if (pthread_create(&thread, NULL, run_thread, &runner) != 0)
        return;
    for (int i = 0; i < 1000 && atomic_load(&f.batch.rows[0].credit) != 0; i++)
        usleep(1000);
    usleep(5000);
    fake_batch_give_credit(&f.batch, 0, 3);
    for (int i = 0; i < 1000 && atomic_load(&f.batch.rows[0].credit) != 0; i++)
        usleep(1000);
    fake_batch_cancel(&f.batch, f.backend, f.instance);
    pthread_join(thread, NULL);
    check(runner.code == E_CANCELLED, "code %d", runner.code);
    check(f.batch.rows[0].responses_count == 5, "%u responses for 5 credits",
          f.batch.rows[0].responses_count);
    end(&f);
}

TEST(echo_repeat_lets_others_have_their_turn)
{
    struct fixture f;
    int32_t value = 5;

    begin(&f, NUMBERS, "repeat");
    set(&f, "count", "640");
    check(open_model(&f) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_ints(&f, &value, 1);
    check(run(&f) == OK && f.batch.rows[0].responses_count == 640, "%u responses",
          f.batch.rows[0].responses_count);
    check(f.batch.resumes >= 9, "after 64 responses: %u times", f.batch.resumes);
    end(&f);
}

TEST(echo_repeat_keeps_to_its_schedule)
{
    struct fixture f;
    int32_t value = 5;

    begin(&f,
          "{\"input\":[{\"name\":\"a\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}],"
          "\"output\":[{\"name\":\"b\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]},"
          "{\"name\":\"due_ns\",\"data_type\":\"TYPE_INT64\",\"dims\":[1]}]}",
          "repeat");
    set(&f, "count", "41");
    set(&f, "delay_us", "1500");
    check(open_model(&f) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_ints(&f, &value, 1);
    uint64_t from = now_ms();
    check(run(&f) == OK && f.batch.rows[0].responses_count == 41, "%u responses",
          f.batch.rows[0].responses_count);
    uint64_t took = now_ms() - from;
    check(took >= 59, "not before their time: %llu ms", (unsigned long long)took);
    check(f.batch.resumes >= 10, "it waited %u times", f.batch.resumes);
    for (uint32_t i = 1; i < 41; i++) {
        int64_t before = 0, due = 0;
        memcpy(&before, fake_batch_output(&f.batch, 0, i - 1, 1)->data, sizeof before);
        memcpy(&due, fake_batch_output(&f.batch, 0, i, 1)->data, sizeof due);
        check(due - before == 1500000, "response %u is due %lld ns after the one before", i,
              (long long)(due - before));
    }
    end(&f);
}

#define TALK                                                                      \
    "{\"input\":[{\"name\":\"say\",\"data_type\":\"TYPE_STRING\",\"dims\":[1]}]," \
    "\"output\":[{\"name\":\"said\",\"data_type\":\"TYPE_STRING\",\"dims\":[1]}," \
    "{\"name\":\"turn\",\"data_type\":\"TYPE_INT64\",\"dims\":[1]}]}"

static void begin_talk(struct fixture *f)
{
    static const uint8_t hi[] = { 2, 0, 0, 0, 'h', 'i' };
    int64_t one = 1;

    begin(f, TALK, "chat");
    set(f, "greeting", "hello");
    check(open_model(f) == OK, "%s", f->err.text);
    check((f->traits & PENSTOCK_BACKEND_TAKES_STREAM) != 0, "traits %u", f->traits);
    batch(f, 1);
    fake_batch_input(&f->batch, 0, PENSTOCK_BYTES, 1, &one, hi, sizeof hi);
}

static bool says(const struct fixture *f, uint32_t response, const char *text, int64_t turn)
{
    const struct penstock_tensor *said = fake_batch_output(&f->batch, 0, response, 0);
    const struct penstock_tensor *number = fake_batch_output(&f->batch, 0, response, 1);
    uint32_t length = (uint32_t)strlen(text);

    return said != NULL && number != NULL && said->size == 4 + length &&
           memcmp(said->data, &length, 4) == 0 &&
           memcmp((const char *)said->data + 4, text, length) == 0 && number->size == 8 &&
           memcmp(number->data, &turn, 8) == 0;
}

TEST(echo_chat_greets_and_answers_in_turn)
{
    struct fixture f;

    begin_talk(&f);
    f.batch.rows[0].parameters[0] = (struct fake_parameter){ "count", "2" };
    f.batch.pieces = 3;
    check(fake_batch_run(&f.batch, f.backend, f.instance) == OK, "%s", fake_batch_text(&f.batch));
    check(f.batch.rows[0].responses_count == 7, "%u", f.batch.rows[0].responses_count);
    check(says(&f, 0, "hello", 0), "the greeting");
    for (uint32_t i = 1; i < 7; i++)
        check(says(&f, i, "hi", (i + 1) / 2), "answer %u", i);
    fake_batch_reset(&f.batch);
    f.batch.rows[0].parameters[0] = (struct fake_parameter){ "greeting", "" };
    check(fake_batch_run(&f.batch, f.backend, f.instance) == OK, "%s", fake_batch_text(&f.batch));
    check(f.batch.rows[0].responses_count == 1 && says(&f, 0, "hi", 1),
          "no greeting where none is wanted, and the turns begin anew");
    end(&f);
}

TEST(echo_chat_stops_when_interrupted)
{
    struct fixture f;
    pthread_t thread;

    begin_talk(&f);
    f.batch.rows[0].parameters[0] = (struct fake_parameter){ "count", "1000000" };
    f.batch.rows[0].parameters[1] = (struct fake_parameter){ "delay_ms", "60000" };
    f.batch.has_no_end = true;
    struct runner runner = { &f, OK };
    if (pthread_create(&thread, NULL, run_thread, &runner) != 0)
        return;
    usleep(20000); /* the greeting and the first of the answer */
    uint64_t from = now_ms();
    fake_batch_interrupt(&f.batch);
    fake_batch_give_pieces(&f.batch, 0, true);
    pthread_join(thread, NULL);
    check(runner.code == OK && now_ms() - from < 1000, "code %d after %llu ms", runner.code,
          (unsigned long long)(now_ms() - from));
    check(f.batch.rows[0].responses_count == 2 && says(&f, 1, "hi", 1), "%u",
          f.batch.rows[0].responses_count);
    end(&f);
}

TEST(echo_accumulates_per_instance)
{
    struct fixture f;
    void *second = NULL;
    int32_t values[] = { 1, INT32_MAX }, sums[] = { 2, -2 }, three[] = { 3, 3, 3 };

    begin(&f, NUMBERS, "accumulate");
    check(open_model(&f) == OK, "%s", f.err.text);
    batch(&f, 1);
    input_ints(&f, values, 2);
    check(run(&f) == OK, "%s", fake_batch_text(&f.batch));
    check(is_ints(fake_batch_output(&f.batch, 0, 0, 0), values, 2), "the first");
    check(run(&f) == OK && is_ints(fake_batch_output(&f.batch, 0, 0, 0), sums, 2), "integers wrap");
    /* another instance has a sum of its own */
    check(f.backend->instance_open(&second, f.opened, 1, (struct penstock_place){ 0 },
                                   backend_err(&f.err)) == OK,
          "%s", f.err.text);
    fake_batch_reset(&f.batch);
    check(fake_batch_run(&f.batch, f.backend, second) == OK &&
              is_ints(fake_batch_output(&f.batch, 0, 0, 0), values, 2),
          "the second instance");
    f.backend->instance_close(&second);
    /* another shape is refused, until told to begin again */
    input_ints(&f, three, 3);
    check(run(&f) == E_INVALID && strstr(fake_batch_text(&f.batch), "sequence_start") != NULL,
          "says %s", fake_batch_text(&f.batch));
    f.batch.rows[0].parameters[0] = (struct fake_parameter){ "sequence_start", "true" };
    check(run(&f) == OK && is_ints(fake_batch_output(&f.batch, 0, 0, 0), three, 3), "anew");
    end(&f);
}

TEST(echo_open_survives_every_fault)
{
    bool has_opened = false;

    for_each_fault(nth) {
        struct fixture f;
        fault_arm(0);
        begin(&f, BATCHED, "identity");
        fault_arm(nth);
        int code = open_model(&f);
        bool has_fired = fault_fired();
        fault_arm(0);
        check(code == OK || f.err.text[0] != '\0', "fault %u was silent", nth);
        has_opened = code == OK;
        end(&f);
        if (!has_fired)
            break;
    }
    check(has_opened, "never opened");
}
