/* grpc_client_test.c - gRPC calls against a real HTTP/2 server that answers well and badly, and the
 * reader of messages at every split. SPDX-License-Identifier: Apache-2.0 */
#include "client/grpc_client.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/clock.h"
#include "client/client.h"
#include "client/test_peer.h"
#include "io/loop.h"
#include "test/harness.h"

static struct client *open_client(const struct peer *peer, size_t bytes_max, uint64_t timeout_ms)
{
    struct client_settings settings = { .url = peer_url(peer),
                                        .http2 = true,
                                        .timeout_ns = timeout_ms * NS_PER_MS,
                                        .limits = { .body_bytes_max = bytes_max } };
    struct client *client = NULL;
    struct err err = { 0 };

    check(client_new(&client, &settings, &err) == OK, "%s", err.text);
    return client;
}

static enum err_code call(struct client *client, const char *path, struct slice message,
                          struct client_reply **ret, struct err *err)
{
    struct client_grpc_request request = { .path = path,
                                           .messages = &message,
                                           .messages_count = 1 };

    return client_grpc(client, &request, ret, err);
}

static bool is_message(const struct client_reply *reply, uint32_t index, const char *words)
{
    return reply != NULL && reply->messages_count > index &&
           slice_is(buf_bytes(reply->messages[index]), words);
}

/* -- answers ----------------------------------------------------------------------------------- */

static const struct {
    const char *path;
    enum err_code code;
    const char *words; /* of the failure, or the first message */
    uint32_t messages;
    bool is_servers;
} answers[] = {
    { "/grpc/Echo", OK, "hi there", 1, true },
    { "/grpc/Gzip", OK, "hello", 1, true },
    { "/grpc/Two", OK, "one", 2, true },
    { "/grpc/Fail", E_INVALID, "x is wrong", 0, true },
    { "/grpc/Percent", E_NOT_FOUND, "100% weg: \xc3\xbc", 0, true },
    { "/grpc/Lie", E_INTERNAL, "names no grpc-encoding", 0, false },
    { "/grpc/Flag", E_INTERNAL, "begins with flag 7", 0, false },
    { "/grpc/Cut", E_INTERNAL, "in the middle of a message", 0, true },
    { "/grpc/Huge", E_EXHAUSTED, "2147483648 bytes", 0, false },
    { "/grpc/Bomb", E_EXHAUSTED, "1000000", 0, false },
    { "/grpc/NoStatus", E_INTERNAL, "without a status", 1, false },
    { "/grpc/Html", E_UNAVAILABLE, "HTTP status 503, content-type 'text/html': <p>busy </p>", 0,
      false },
    { "/never", E_DEADLINE, "did not answer within", 0, false },
    { "/reset/8", E_CANCELLED, "CANCEL", 0, false },
    { "/reset/11", E_EXHAUSTED, "ENHANCE_YOUR_CALM", 0, false },
    { "/die", E_UNAVAILABLE, "closed the connection", 0, false },
    { "/garbage", E_DATA_LOSS, "127.0.0.1:", 0, false },
    { "/hi", E_UNKNOWN, "does not answer in gRPC: HTTP status 200", 0, false },
};

TEST(grpc_client_answers_and_failures)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(client_free) struct client *patient = open_client(peer, 1000000, 20000);
    CLEANUP(client_free) struct client *hasty = open_client(peer, 1000000, 300);

    for (size_t i = 0; i < COUNT(answers); i++) {
        CLEANUP(client_reply_free) struct client_reply *reply = NULL;
        struct err err = { 0 };
        const char *path = answers[i].path;
        struct client *client = answers[i].code == E_DEADLINE ? hasty : patient;
        enum err_code code = call(client, path, slice_of("hi there"), &reply, &err);
        check(code == answers[i].code, "%s: %d %s", path, code, err.text);
        check_or_stop(reply != NULL, "%s: %s", path, err.text);
        check(reply->messages_count == answers[i].messages, "%s: %u messages", path,
              reply->messages_count);
        check(reply->status.is_servers == answers[i].is_servers, "%s: whose status", path);
        if (code == OK)
            check(is_message(reply, 0, answers[i].words), "%s", path);
        else
            check(strstr(err.text, answers[i].words) != NULL, "%s: %s", path, err.text);
    }
}

TEST(grpc_client_reads_details)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(client_free) struct client *client = open_client(peer, 0, 5000);
    CLEANUP(client_reply_free) struct client_reply *reply = NULL;
    struct err err = { 0 };

    check(call(client, "/grpc/Fail", slice_of(""), &reply, &err) == E_INVALID, "%s", err.text);
    check_or_stop(reply != NULL && reply->status.has_details, "details");
    check(slice_is(reply->status.details.field, "inputs[0].x"), "'%.*s'",
          SLICE_ARG(reply->status.details.field));
    check(slice_is(reply->status.details.description, "must be positive"), "description");
    check(reply->status.details.has_retry && reply->status.details.retry_after_ms == 250, "retry");
    check(err.retry_after_ms == 250, "%u", err.retry_after_ms);
}

TEST(grpc_client_sends_deadline_metadata_and_encoding)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(client_free) struct client *client = open_client(peer, 0, 5000);
    CLEANUP(client_reply_free) struct client_reply *reply = NULL;
    struct client_header metadata = { "x-key", "v" };
    struct slice message = slice_of("m");
    struct client_grpc_request request = { .path = "/grpc/Head",
                                           .metadata = &metadata,
                                           .metadata_count = 1,
                                           .messages = &message,
                                           .messages_count = 1,
                                           .sends = ENCODING_GZIP };
    struct err err = { 0 };

    check_or_stop(client_grpc(client, &request, &reply, &err) == OK, "%s", err.text);
    struct slice said = buf_bytes(reply->messages[0]);
    check(memmem(said.data, said.size, "x-key=v;", 8) != NULL, "%.*s", SLICE_ARG(said));
    check(memmem(said.data, said.size, "grpc-encoding=gzip;", 19) != NULL, "%.*s", SLICE_ARG(said));
    /* 5 s, or a little less by now; eight digits hold it in microseconds. */
    const uint8_t *timeout = memmem(said.data, said.size, "grpc-timeout=", 13);
    check_or_stop(timeout != NULL, "%.*s", SLICE_ARG(said));
    struct slice value = slice_skip(said, (size_t)(timeout - said.data) + 13);
    uint64_t us = 0;
    check(slice_to_u64(slice_first(value, slice_find(value, 'u')), &us) && us <= 5000000 &&
              us > 4000000,
          "%.*s", SLICE_ARG(said));
}

TEST(grpc_client_refuses_metadata_that_is_none)
{
    static const struct client_header bad[] = {
        { "grpc-timeout", "1S" }, { "X-Key", "v" }, { "content-type", "x" },
        { "x-key", "\xc3\xbc" },  { "x key", "v" }, { "x-key", "a\r\nb: c" }
    };
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(client_free) struct client *client = open_client(peer, 0, 5000);

    for (size_t i = 0; i < COUNT(bad); i++) {
        CLEANUP(client_reply_free) struct client_reply *reply = NULL;
        struct client_grpc_request request = { .path = "/grpc/Echo",
                                               .metadata = &bad[i],
                                               .metadata_count = 1 };
        struct err err = { 0 };
        check(client_grpc(client, &request, &reply, &err) == E_INVALID, "%s", bad[i].name);
        check(reply == NULL && err.text[0] != '\0', "%s", bad[i].name);
    }
    check(peer_requests(peer) == 0, "nothing was sent");
}

TEST(grpc_client_carries_large_messages_both_ways)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(client_free) struct client *client = open_client(peer, 0, 20000);
    CLEANUP(client_reply_free) struct client_reply *reply = NULL;
    size_t size = 16 << 20;
    uint8_t *bytes = malloc(size);
    struct err err = { 0 };

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 13 + (i >> 11));
    check(call(client, "/grpc/Echo", slice_make(bytes, size), &reply, &err) == OK, "%s", err.text);
    check(reply != NULL && reply->messages_count == 1 &&
              slice_eq(buf_bytes(reply->messages[0]), slice_make(bytes, size)),
          "the same comes back");
    free(bytes);
}

/* -- several messages both ways, with credit ------------------------------------------------------ */

struct chat {
    struct loop *loop;
    struct grpc_client_call *call;
    uint32_t sent, seen, ended;
    struct err status;
    bool stops_reading;
    struct timer timer;
};

static void on_message(struct grpc_client_call *call, const struct grpc_client_message *message)
{
    struct chat *chat = grpc_client_data(call);

    check(message->bytes.size == 1000, "%zu bytes", message->bytes.size);
    chat->seen++;
    if (!chat->stops_reading)
        grpc_client_read(call);
}

static void on_room(struct grpc_client_call *call)
{
    struct chat *chat = grpc_client_data(call);
    uint8_t bytes[1000] = { 0 };
    struct err err = { 0 };

    if (chat->sent++ < 300)
        check(grpc_client_send(call, slice_make(bytes, sizeof bytes), NULL, &err) == OK, "%s",
              err.text);
    else
        grpc_client_finish(call);
}

static void on_end(struct grpc_client_call *call, const struct grpc_client_status *status)
{
    struct chat *chat = grpc_client_data(call);

    chat->ended++;
    chat->status = status->err;
    loop_stop(chat->loop);
}

static void on_nap_over(struct timer *timer)
{
    loop_stop(CONTAINER_OF(timer, struct chat, timer)->loop);
}

static const struct grpc_client_user chat_user = { .on_message = on_message,
                                                   .on_room = on_room,
                                                   .on_end = on_end };

/* Loop and pool, and a call under way. */
static struct client_pool *chat_begin(struct chat *chat, const struct peer *peer)
{
    struct client_pool_settings settings = { .url = peer_url(peer),
                                             .protocol = CLIENT_HTTP2,
                                             .window_bytes = 20000 };
    struct client_pool *pool = NULL;
    uint8_t bytes[1000] = { 0 };
    struct err err = { 0 };

    require(loop_new(&chat->loop, env_real(), 0, &err) == OK);
    require(client_pool_new(&pool, chat->loop, &settings, &err) == OK);
    struct grpc_client_start start = { .path = "/grpc/Echo",
                                       .due_ns = loop_refresh_ns(chat->loop) + 10 * NS_PER_S,
                                       .user = &chat_user,
                                       .user_data = chat };
    check(grpc_client_start(pool, &start, &chat->call, &err) == OK, "%s", err.text);
    chat->sent = 1;
    check(grpc_client_send(chat->call, slice_make(bytes, sizeof bytes), NULL, &err) == OK, "%s",
          err.text);
    return pool;
}

TEST(grpc_client_takes_many_messages)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    struct chat chat = { .ended = 0 };
    struct client_pool *pool = chat_begin(&chat, peer);

    grpc_client_read(chat.call);
    loop_run(chat.loop);
    check(chat.ended == 1 && chat.status.code == OK, "%s", chat.status.text);
    check(chat.seen == 300, "%u messages", chat.seen);
    client_pool_free(&pool);
    loop_free(&chat.loop);
}

TEST(grpc_client_gives_no_message_without_credit)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    struct chat chat = { .stops_reading = true, .timer.on_due = on_nap_over };
    struct client_pool *pool = chat_begin(&chat, peer);
    struct err err = { 0 };

    for (uint32_t round = 1; round <= 3; round++) {
        grpc_client_read(chat.call);
        require(timer_start(chat.loop, &chat.timer, loop_refresh_ns(chat.loop) + 60 * NS_PER_MS,
                            &err) == OK);
        loop_run(chat.loop);
        check(chat.seen == round, "%u messages for %u reads", chat.seen, round);
    }
    check(chat.ended == 0, "the end waits for those that are not read");
    chat.stops_reading = false;
    grpc_client_read(chat.call);
    loop_run(chat.loop);
    check(chat.ended == 1 && chat.seen == 300, "%u messages, %s", chat.seen, chat.status.text);
    client_pool_free(&pool);
    loop_free(&chat.loop);
}

TEST(grpc_client_can_be_cancelled)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    struct chat chat = { .stops_reading = true, .timer.on_due = on_nap_over };
    struct client_pool *pool = chat_begin(&chat, peer);
    struct err err = { 0 };

    grpc_client_read(chat.call);
    require(timer_start(chat.loop, &chat.timer, loop_refresh_ns(chat.loop) + 50 * NS_PER_MS,
                        &err) == OK);
    loop_run(chat.loop);
    grpc_client_cancel(&chat.call);
    require(timer_start(chat.loop, &chat.timer, loop_refresh_ns(chat.loop) + 50 * NS_PER_MS,
                        &err) == OK);
    loop_run(chat.loop);
    check(chat.ended == 0 && chat.call == NULL, "no callback follows");
    check(client_pool_stats(pool).running == 0, "nothing runs");
    client_pool_free(&pool);
    loop_free(&chat.loop);
}

/* -- the reader, at every split ------------------------------------------------------------------- */

TEST(grpc_reader_finds_messages_at_every_split)
{
    static const uint8_t bytes[] = "\0\0\0\0\3abc" /* three bytes */
                                   "\0\0\0\0\0"    /* none */
                                   "\0\0\0\0\5hello";
    const size_t size = sizeof bytes - 1;

    for (size_t split = 0; split <= size; split++) {
        struct text in;
        struct grpc_read read;
        struct err err = { 0 };
        char seen[64] = "";
        size_t at = 0;
        text_init(&in, 1000);
        struct grpc_reader r = { .in = &in, .message_bytes_max = 100 };
        for (int round = 0; round < 2; round++) {
            text_put(&in, bytes + at, round == 0 ? split : size - split);
            at = split;
            while (grpc_reader_next(&r, &read, &err) == OK && read.has_message)
                snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%.*s|",
                         SLICE_ARG(read.message.bytes));
        }
        check(strcmp(seen, "abc||hello|") == 0 && err.code == OK, "split %zu: %s %s", split, seen,
              err.text);
        check(read.missing_bytes == 0 && r.at == size, "split %zu", split);
        text_deinit(&in);
    }
}

TEST(grpc_client_survives_every_fault)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });

    for_each_fault(nth) {
        struct client_settings settings = { .url = peer_url(peer), .http2 = true };
        CLEANUP(client_free) struct client *client = NULL;
        CLEANUP(client_reply_free) struct client_reply *reply = NULL;
        struct err err = { 0 };
        enum err_code code = client_new(&client, &settings, &err);
        if (code == OK)
            code = call(client, "/grpc/Gzip", slice_of("hi"), &reply, &err);
        bool has_fired = fault_fired();
        fault_arm(0);
        if (!has_fired) {
            check(code == OK && is_message(reply, 0, "hello"), "%s", err.text);
            break;
        }
        check(code == OK || err.text[0] != '\0', "fault %u was silent", nth);
    }
}
