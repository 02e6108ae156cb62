/* kserve_grpc_stream_test.c - ModelStreamInfer over calls of memory, with the real engine and echo.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What tritonclient sees is in test/client/triton_stream.py; here: bounds, leaving at any time, every
 * fault, and that a stream takes no memory for each of its requests.
 */
#include <stdio.h>

#include "api/fake_stage.h"
#include "api/grpc.h"
#include "api/pb_build.h"
#include "base/mem.h"
#include "call/grpc_wire.h"
#include "engine/engine.h"
#include "test/harness.h"

#define PATH "/inference.GRPCInferenceService/ModelStreamInfer"

static struct kserve_streams streams;
static struct text body;

static const char decoupled_config[] =
    "backend: \"echo\"\n" MODE("repeat") "input [" TENSOR("x", "TYPE_FP32", "-1") "]\n"
    "output [" TENSOR("y", "TYPE_FP32", "-1") "]\nmodel_transaction_policy { decoupled: true }\n";
static const char slow_config[] = "backend: \"echo\"\n" DELAY("20") "input [" TENSOR(
    "x", "TYPE_FP32", "-1") "]\noutput [" TENSOR("y", "TYPE_FP32", "-1") "]\n";

static bool begin(void)
{
    streams = (struct kserve_streams){ .requests_max = 8 };
    text_deinit(&body);
    text_init(&body, 1 << 26);
    if (!stage_up())
        return false;
    stage_put_file("tokens", "config.pbtxt", decoupled_config);
    stage_put_file("slow", "config.pbtxt", slow_config);
    if (!stage_open())
        return false;
    stage.api.streams = &streams;
    return true;
}

static void end(void)
{
    check(atomic_load(&streams.open) == 0, "%llu streams are open",
          (unsigned long long)atomic_load(&streams.open));
    stage_down();
    text_deinit(&body);
}

/* One more request of the stream: FP32 x[rows] of that model. */
static void put_request(const char *model, const char *id, uint32_t rows, uint64_t answers)
{
    static const float values[4096] = { 1, 2, 3 };
    uint8_t prefix[GRPC_PREFIX_BYTES];
    int64_t shape[] = { rows };
    struct text message, input;

    require(rows <= COUNT(values));
    text_init(&message, 1 << 20);
    text_init(&input, 1 << 10);
    build_str(&message, 1, model);
    build_str(&message, 3, id);
    if (answers != 0) {
        char digits[24];
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)answers);
        build_parameter(&message, 4, "count", 3, 0, digits);
        build_parameter(&message, 4, "triton_enable_empty_final_response", 1, 1, NULL);
    }
    build_input(&input, "x", "FP32", 1, shape);
    pb_text_bytes(&message, 5, text_slice(&input));
    pb_text_bytes(&message, 7, slice_make(values, rows * sizeof values[0]));
    grpc_prefix_put(prefix, false, (uint32_t)message.size);
    text_put(&body, prefix, sizeof prefix);
    text_slice_put(&body, text_slice(&message));
    text_deinit(&message);
    text_deinit(&input);
}

static struct fake *make(void)
{
    struct fake *fake = stage_make(METHOD_POST, PATH, text_slice(&body));

    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    return fake;
}

static struct fake *run(void)
{
    stage_drop_calls();
    struct fake *fake = make();
    stage_run();
    return fake;
}

static enum err_code code_of(const struct fake *fake)
{
    return grpc_status_parse(fake_answer_header(fake, "grpc-status"));
}

/* What is said of an answer, short: "id!" of an error, "id+" of a final one, "id" of others; all of
 * them with spaces between. */
static const char *ids_of(const struct fake *fake)
{
    static char out[1 << 16];
    struct slice rest = text_slice(&fake->answer);
    size_t size = 0;

    out[0] = '\0';
    while (rest.size >= GRPC_PREFIX_BYTES && size + 200 < sizeof out) {
        struct grpc_prefix prefix = grpc_prefix_get(rest.data);
        struct pb_reader outer, inner;
        struct pb_field field, part;
        struct slice id = { NULL, 0 };
        bool is_error = false, is_final = false, has_parameter = false;
        pb_begin(&outer, slice_make(rest.data + GRPC_PREFIX_BYTES, prefix.size));
        while (pb_next(&outer, &field)) {
            is_error |= field.number == 1 && field.bytes.size > 10;
            pb_begin(&inner, field.number == 2 ? field.bytes : slice_make("", 0));
            while (pb_next(&inner, &part)) {
                if (part.number == 3)
                    id = part.bytes;
                if (part.number == 4 && part.bytes.size == 27) {
                    has_parameter = true;
                    is_final = part.bytes.data[26] == 1;
                }
            }
            check(!pb_failed(&inner), "damaged");
        }
        check(!pb_failed(&outer) && has_parameter, "damaged, or without triton_final_response");
        size += (size_t)snprintf(out + size, 200, "%s%.*s%s", size == 0 ? "" : " ", SLICE_ARG(id),
                                 is_error   ? "!"
                                 : is_final ? "+"
                                            : "");
        rest = slice_skip(rest, GRPC_PREFIX_BYTES + prefix.size);
    }
    check(rest.size == 0, "%zu bytes are no message", rest.size);
    return out;
}

TEST(answers_are_in_order_and_errors_among_them)
{
    if (!begin())
        return;
    put_request("slow", "a", 1, 0);
    put_request("identity", "b", 3, 0);
    put_request("nobody", "c", 1, 0);
    put_request("identity", "d", 4000, 0);
    put_request("iris", "e", 1, 0);
    put_request("identity", "f", 0, 0);
    struct fake *fake = run();
    check(code_of(fake) == OK, "%.*s", SLICE_ARG(fake_answer_header(fake, "grpc-message")));
    check(strcmp(ids_of(fake), "a+ b+ c! d+ e! f+") == 0, "%s", ids_of(fake));
    end();
}

TEST(decoupled_models_answer_when_they_do)
{
    if (!begin())
        return;
    put_request("slow", "a", 1, 0);
    put_request("tokens", "t", 2, 3);
    put_request("tokens", "u", 2, 100);
    struct fake *fake = run();
    const char *ids = ids_of(fake);
    check(code_of(fake) == OK && strncmp(ids, "t t t t+ ", 9) == 0 && strstr(ids, "a+") != NULL &&
              strstr(ids, "u u u") != NULL && strstr(ids, "u+") != NULL,
          "%s", ids);
    end();
}

TEST(a_stream_without_requests)
{
    if (!begin())
        return;
    struct fake *fake = run();
    check(code_of(fake) == OK && fake->answer.size == 0, "OK");
    end();
}

/* Pieces of any size, and messages that need memory of their own. */
TEST(requests_at_any_split)
{
    static const size_t pieces[] = { 1, 7, 64, 1000, 2049, 5000 };
    static const char expected[] = "a+ b+ c+ d+ e+ f+ g+ h+ i+ j+";

    if (!begin())
        return;
    for (unsigned i = 0; i < 10; i++)
        put_request("identity", (char[]){ (char)('a' + i), '\0' }, i * 97 % 900, 0);
    for (size_t i = 0; i < COUNT(pieces); i++) {
        stage_drop_calls();
        struct fake *fake = make();
        fake->piece = pieces[i];
        stage_run();
        check(code_of(fake) == OK && strcmp(ids_of(fake), expected) == 0, "%zu: %s", pieces[i],
              ids_of(fake));
    }
    end();
}

TEST(a_damaged_message_ends_the_stream)
{
    if (!begin())
        return;
    put_request("identity", "a", 1, 0);
    text_put(&body, "\0\0\0\0\3\x0a\xff\xff", 8);
    put_request("identity", "b", 1, 0);
    struct fake *fake = run();
    check(code_of(fake) == E_INVALID, "%s", err_name(code_of(fake)));
    end();
}

TEST(errors_end_a_stream_that_asked_for_it)
{
    if (!begin())
        return;
    put_request("identity", "a", 1, 0);
    put_request("tokens", "t", 1, 1000000000);
    put_request("nobody", "b", 1, 0);
    put_request("identity", "c", 1, 0);
    struct fake *fake = make();
    fake_header(fake, "triton_grpc_error", "true");
    stage_run();
    check(code_of(fake) == E_NOT_FOUND && strncmp(ids_of(fake), "a+", 2) == 0 &&
              strstr(ids_of(fake), "c+") == NULL,
          "%s, %s", err_name(code_of(fake)), ids_of(fake));
    end();
}

/* The caller goes at every byte of its requests, and while models run. */
TEST(leaving_at_any_time)
{
    if (!begin())
        return;
    put_request("slow", "a", 1, 0);
    put_request("tokens", "b", 2, 1000000000);
    put_request("identity", "c", 900, 0);
    put_request("nobody", "d", 1, 0);
    for (size_t at = 0; at <= body.size; at += at < 300 ? 13 : 401) {
        stage_drop_calls();
        struct fake *fake = make();
        fake->gone_at = (int64_t)at;
        fake->piece = 100;
        stage_run();
        check(engine_in_flight(stage_engine) == 0 && atomic_load(&streams.open) == 0, "at %zu", at);
    }
    for (unsigned ms = 1; ms < 30; ms += 7) {
        stage_drop_calls();
        struct fake *fake = make();
        fake->gone_ms = ms;
        fake->is_open_ended = true;
        stage_run();
        check(engine_in_flight(stage_engine) == 0 && atomic_load(&streams.open) == 0, "%u ms", ms);
    }
    end();
}

/* The heap is not asked for each request, and the exchange's arena does not grow by them. */
TEST(many_requests_take_the_memory_of_few)
{
    uint64_t asked[2];
    size_t used[2];

    if (!begin())
        return;
    for (unsigned k = 0; k < 2; k++) {
        body.size = 0;
        for (unsigned i = 0; i < (k == 0 ? 100u : 2100u); i++)
            put_request("identity", "x", 20, 0);
        stage_drop_calls();
        struct fake *fake = make();
        require(text_room(&fake->answer, 8 << 20) != NULL);
        asked[k] = mem_count();
        stage_run();
        asked[k] = mem_count() - asked[k];
        used[k] = arena_used(fake->x.arena);
        check(code_of(fake) == OK, "run %u", k);
        check(atomic_load(&streams.requests) == (k == 0 ? 100 : 2200), "%llu",
              (unsigned long long)atomic_load(&streams.requests));
    }
    /* Answers are gathered in bufs of 16 KiB: about one for 120 of them. */
    check(asked[1] <= asked[0] + 2000 / 50, "%llu and %llu asked of the heap",
          (unsigned long long)asked[0], (unsigned long long)asked[1]);
    check(used[1] <= used[0] + 256, "%zu and %zu bytes of the exchange's arena", used[0], used[1]);
    end();
}

TEST(requests_in_flight_are_bounded)
{
    if (!begin())
        return;
    streams.requests_max = 2;
    for (unsigned i = 0; i < 6; i++)
        put_request("slow", "s", 1, 0);
    struct fake *fake = run();
    check(code_of(fake) == OK && strcmp(ids_of(fake), "s+ s+ s+ s+ s+ s+") == 0, "%s", ids_of(fake));
    check(atomic_load(&streams.pauses) >= 2, "%llu pauses",
          (unsigned long long)atomic_load(&streams.pauses));
    end();
}

TEST(mlservers_form)
{
    if (!begin())
        return;
    put_request("identity", "a", 3, 0);
    struct fake *fake = make();
    fake_header(fake, "penstock-stream-form", "mlserver");
    stage_run();
    struct pb_reader r;
    struct pb_field field;
    check_or_stop(code_of(fake) == OK && fake->answer.size > 5, "answered");
    pb_begin(&r, slice_skip(text_slice(&fake->answer), 5));
    check(pb_next(&r, &field) && field.number == 1 && slice_is(field.bytes, "identity"),
          "model_name is the first of a ModelInferResponse");
    end();
}

/* Every step that can fail does, once: an answer or an error comes for each request, or the call ends
 * with a status, and nothing is left. */
TEST(streams_survive_every_fault)
{
    if (!begin())
        return;
    put_request("identity", "a", 600, 0);
    put_request("tokens", "b", 300, 3);
    put_request("nobody", "c", 1, 0);
    put_request("identity", "d", 3, 0);
    for_each_fault(nth) {
        fault_arm(0);
        stage_drop_calls();
        struct fake *fake = make();
        require(text_room(&fake->answer, 1 << 20) != NULL &&
                text_room(&fake->headers, 4096) != NULL);
        fault_arm(nth);
        stage_run();
        bool fired = fault_fired();
        fault_arm(0);
        check(fake->is_aborted || fake->status == 200, "fault %u: %u", nth, fake->status);
        check(engine_in_flight(stage_engine) == 0 && atomic_load(&streams.open) == 0, "fault %u",
              nth);
        if (!fired) {
            check(code_of(fake) == OK, "%u steps", nth);
            break;
        }
    }
    fault_arm(0);
    end();
}
