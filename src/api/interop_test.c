/* interop_test.c - grpc.testing.TestService on a transport of memory. SPDX-License-Identifier: Apache-2.0
 *
 * What the makers of gRPC clients check is checked with their own client (test/client/go_interop.py);
 * here is what that client does not do: bounds, damaged messages, the order of things.
 */
#include <stdio.h>

#include "api/grpc.h"
#include "api/pb_build.h"
#include "base/clock.h"
#include "base/pb.h"
#include "call/fake.h"
#include "call/grpc_wire.h"
#include "io/loop.h"
#include "test/harness.h"

static struct api api = { .grpc = { .message_bytes_max = 20 << 20, .option = "--max-message" },
                          .server_name = "penstock",
                          .has_test_services = true };
static struct text body;
static struct fake fake;

static void begin_body(void)
{
    text_deinit(&body);
    text_init(&body, 64 << 20);
}

static void put_framed(struct slice message)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    grpc_prefix_put(prefix, false, (uint32_t)message.size);
    text_put(&body, prefix, sizeof prefix);
    text_slice_put(&body, message);
}

static struct call *begin(struct loop *loop, const char *path)
{
    struct slice method = slice_of(strrchr(path, '/') + 1);

    fake_init(&fake, loop, text_slice(&body));
    fake.x.path = slice_of(path);
    struct call *call = grpc_accept(&fake.x, &api.grpc);
    require(call != NULL);
    for (uint32_t i = 0; i < interop_service.methods_count; i++)
        if (slice_is(method, interop_service.methods[i].name))
            interop_service.methods[i].handle(call, &api);
    return call;
}

/* A whole call of that method with what lies in `body`. */
static void make_call(const char *method)
{
    static char path[100];

    snprintf(path, sizeof path, "/grpc.testing.TestService/%s", method);
    begin(NULL, path);
    fake_deliver_all(&fake, SIZE_MAX);
    check(fake.x.is_ended && fake.x.refs == 1, "%s is over", method);
    fake_flush(&fake);
}

static enum err_code status_of(void)
{
    const struct text *at = fake.trailers.size != 0 ? &fake.trailers : &fake.head;

    return grpc_status_parse(fake_field(at, "grpc-status"));
}

static const char *words_of(void)
{
    static char out[ERR_TEXT_MAX];
    const struct text *at = fake.trailers.size != 0 ? &fake.trailers : &fake.head;

    snprintf(out, sizeof out, "%.*s", SLICE_ARG(fake_field(at, "grpc-message")));
    return out;
}

/* The answer's messages: how many; of the last the size of payload.body. */
static uint32_t answers_of(uint64_t *ret_last)
{
    struct slice rest = text_slice(&fake.answer);
    uint32_t count = 0;

    while (rest.size >= GRPC_PREFIX_BYTES) {
        struct grpc_prefix prefix = grpc_prefix_get(rest.data);
        struct pb_reader outer, inner;
        struct pb_field field;
        pb_begin(&outer, slice_make(rest.data + GRPC_PREFIX_BYTES, prefix.size));
        *ret_last = UINT64_MAX;
        while (pb_next(&outer, &field)) {
            if (field.number != 1)
                continue;
            *ret_last = 0;
            pb_begin(&inner, field.bytes);
            while (pb_next(&inner, &field))
                if (field.number == 2)
                    *ret_last = field.bytes.size;
        }
        check(!pb_failed(&outer), "damaged");
        count++;
        rest = slice_skip(rest, GRPC_PREFIX_BYTES + prefix.size);
    }
    check(rest.size == 0, "%zu bytes are no message", rest.size);
    return count;
}

/* A StreamingOutputCallRequest of answers of these sizes, with an interval each. */
static struct text *output_request(const int32_t *sizes, uint32_t count, uint64_t interval_us)
{
    static struct text message;
    struct text one;

    text_deinit(&message);
    text_init(&message, 1 << 20);
    text_init(&one, 1 << 10);
    for (uint32_t i = 0; i < count; i++) {
        one.size = 0;
        pb_text_uint(&one, 1, (uint64_t)(int64_t)sizes[i]);
        pb_text_uint(&one, 2, interval_us);
        pb_text_bytes(&message, 2, text_slice(&one));
    }
    text_deinit(&one);
    return &message;
}

TEST(an_answer_of_any_size)
{
    static const uint32_t sizes[] = { 0, 1, 314159, 1 << 20, (1 << 20) + 1, 10 << 20 };
    struct text message;
    uint64_t size;

    text_init(&message, 1 << 10);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        message.size = 0;
        pb_text_uint(&message, 2, sizes[i]);
        begin_body();
        put_framed(text_slice(&message));
        make_call("UnaryCall");
        check(status_of() == OK && answers_of(&size) == 1 && size == sizes[i], "%u: %llu", sizes[i],
              (unsigned long long)size);
        fake_deinit(&fake);
    }
    text_deinit(&message);
}

TEST(what_is_asked_and_cannot_be)
{
    static const struct {
        const char *method, *words;
        const char *message;
        size_t size;
        enum err_code code;
    } cases[] = {
        { "UnaryCall", "the most is 20971520 (--max-message)", "\x10\x81\x80\x80\x0a", 5, E_EXHAUSTED },
        { "UnaryCall", "0 or more", "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, E_INVALID },
        { "UnaryCall", "statuses are 0 to 16", "\x3a\x02\x08\x11", 4, E_INVALID },
        { "UnaryCall", "not UTF-8", "\x3a\x03\x12\x01\xff", 5, E_INVALID },
        { "UnaryCall", "field 2 has wire type 2", "\x12\x01x", 3, E_INVALID },
        { "UnaryCall", "SimpleRequest, byte", "\x10", 1, E_INVALID },
        { "UnaryCall", "expect_compressed is true", "\x42\x02\x08\x01", 4, E_INVALID },
        { "StreamingInputCall", "expect_compressed is true", "\x12\x02\x08\x01", 4, E_INVALID },
        { "StreamingInputCall", "payload: field 2", "\x0a\x02\x10\x01", 4, E_INVALID },
        { "StreamingOutputCall", "interval_us is -1", "\x12\x0b\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
          13, E_INVALID },
        { "FullDuplexCall", "response_parameters, byte", "\x12\x01\x08", 3, E_INVALID },
        { "HalfDuplexCall", "response_status: field 1", "\x3a\x03\x0a\x01x", 5, E_INVALID },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        begin_body();
        put_framed(slice_make(cases[i].message, cases[i].size));
        make_call(cases[i].method);
        check(status_of() == cases[i].code && strstr(words_of(), cases[i].words) != NULL,
              "%s, case %zu: %d %s", cases[i].method, i, (int)status_of(), words_of());
        fake_deinit(&fake);
    }
}

TEST(one_message_where_one_belongs)
{
    static const char *const methods[] = { "EmptyCall", "UnaryCall", "StreamingOutputCall" };

    for (size_t i = 0; i < COUNT(methods); i++)
        for (unsigned count = 0; count <= 2; count += 2) {
            begin_body();
            for (unsigned k = 0; k < count; k++)
                put_framed(slice_make("", 0));
            make_call(methods[i]);
            check(status_of() == E_INTERNAL, "%s with %u messages: %s", methods[i], count,
                  words_of());
            fake_deinit(&fake);
        }
}

TEST(requests_are_answered_in_order)
{
    static const int32_t first[] = { 10, 0, 70000 }, second[] = { 5 };
    static const char *const methods[] = { "FullDuplexCall", "HalfDuplexCall" };
    uint64_t size;

    for (size_t i = 0; i < COUNT(methods); i++) {
        begin_body();
        put_framed(text_slice(output_request(first, 3, 0)));
        put_framed(slice_make("", 0)); /* asks for nothing */
        put_framed(text_slice(output_request(second, 1, 0)));
        make_call(methods[i]);
        check(status_of() == OK && answers_of(&size) == 4 && size == 5, "%s: %u, %llu", methods[i],
              answers_of(&size), (unsigned long long)size);
        fake_deinit(&fake);
    }
}

/* The status of a request ends the call, and what was answered before stays. */
TEST(a_status_ends_a_stream)
{
    static const int32_t sizes[] = { 1, 2 };
    uint64_t size;

    begin_body();
    put_framed(text_slice(output_request(sizes, 2, 0)));
    put_framed(slice_make("\x3a\x06\x08\x02\x12\x02hi\x12\x02\x08\x01", 12));
    put_framed(text_slice(output_request(sizes, 2, 0)));
    make_call("FullDuplexCall");
    check(status_of() == E_UNKNOWN && strcmp(words_of(), "hi") == 0 && answers_of(&size) == 2,
          "%d %s, %u answers", (int)status_of(), words_of(), answers_of(&size));
    fake_deinit(&fake);
}

TEST(what_half_duplex_collects_is_bounded)
{
    static uint8_t payload[1 << 20];
    struct text message, inner;

    text_init(&message, 4 << 20);
    text_init(&inner, 4 << 20);
    pb_text_bytes(&inner, 2, slice_make(payload, sizeof payload));
    pb_text_bytes(&message, 3, text_slice(&inner));
    begin_body();
    for (unsigned i = 0; i < 5; i++)
        put_framed(text_slice(&message));
    make_call("HalfDuplexCall");
    check(status_of() == E_EXHAUSTED && strstr(words_of(), "4 MiB") != NULL, "%s", words_of());
    fake_deinit(&fake);
    text_deinit(&message);
    text_deinit(&inner);
}

/* A million requests that ask for nothing are no depth of the stack. */
TEST(many_empty_requests)
{
    begin_body();
    for (unsigned i = 0; i < 1000000; i++)
        put_framed(slice_make("", 0));
    make_call("HalfDuplexCall");
    check(status_of() == OK && fake.answer.size == 0, "%s", words_of());
    fake_deinit(&fake);
}

TEST(switched_off)
{
    api.has_test_services = false;
    begin_body();
    put_framed(slice_make("", 0));
    make_call("EmptyCall");
    check(status_of() == E_UNIMPLEMENTED && strstr(words_of(), "--test-services") != NULL, "%s",
          words_of());
    check(!grpc_service_is_on(&interop_service, &api), "nor listed");
    fake_deinit(&fake);
    api.has_test_services = true;
}

/* -- time ------------------------------------------------------------------------------------------- */

static struct {
    struct loop_task begin, look;
    struct timer until;
    struct loop *loop;
    uint64_t begun_ns;
    unsigned answers_early; /* 15 ms after the begin */
    bool leaves;
} play;

static void look(struct timer *timer)
{
    uint64_t size;

    fake_flush(&fake);
    if (play.answers_early == 0) {
        play.answers_early = 1 + answers_of(&size);
        if (play.leaves)
            fake_leave(&fake);
        require(timer_start(play.loop, timer, loop_now_ns(play.loop) + 60 * NS_PER_MS, NULL) == OK);
        return;
    }
    loop_stop(play.loop);
}

static void play_begin(struct loop_task *task UNUSED)
{
    play.begun_ns = loop_refresh_ns(play.loop);
    play.until.on_due = look;
    require(timer_start(play.loop, &play.until, play.begun_ns + 15 * NS_PER_MS, NULL) == OK);
    begin(play.loop, "/grpc.testing.TestService/StreamingOutputCall");
    fake_deliver_all(&fake, SIZE_MAX);
}

static void run_play(bool leaves)
{
    static const int32_t sizes[] = { 1, 2, 3 };
    struct err err = { 0 };

    memset(&play, 0, sizeof play);
    play.leaves = leaves;
    begin_body();
    put_framed(text_slice(output_request(sizes, 3, 10000)));
    check_or_stop(loop_new(&play.loop, env_real(), 0, &err) == OK, "%s", err.text);
    play.begin.run = play_begin;
    loop_defer(play.loop, &play.begin);
    loop_run(play.loop);
}

TEST(answers_wait_as_long_as_they_are_asked_to)
{
    uint64_t size;

    run_play(false);
    check(play.answers_early <= 1 + 2, "%u answers after 15 ms", play.answers_early - 1);
    check(answers_of(&size) == 3 && size == 3 && status_of() == OK && fake.x.is_ended,
          "all after 30 ms");
    fake_deinit(&fake);
    loop_free(&play.loop);
}

TEST(who_leaves_is_not_answered)
{
    run_play(true);
    check(fake.x.refs == 1 && !fake.x.is_ended, "it was let go");
    fake_deinit(&fake);
    loop_free(&play.loop);
    text_deinit(&body);
    text_deinit(output_request(NULL, 0, 0));
}
