/* client.c - SPDX-License-Identifier: Apache-2.0
 *
 * The pool is made at the first call: looking the host up may fail, and blocks. A failure to connect
 * is forgotten at once (no backoff), as somebody waits and the next call is his decision.
 */
#include "client/client.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "io/loop.h"

enum { TIMEOUT_S_USUAL = 60, REPLY_MESSAGES_MAX = 10000 };

struct client {
    struct client_settings settings;
    char *url_text; /* owned */
    struct url url;
    struct loop *loop;        /* owned */
    struct client_pool *pool; /* owned; NULL before the first call */
    struct client_times times;
};

enum err_code client_new(struct client **ret, const struct client_settings *settings,
                         struct err *err)
{
    CLEANUP(client_free) struct client *client = mem_zalloc(sizeof *client);

    if (client == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a client");
    TRY(url_parse(&client->url, slice_of(settings->url), err));
    client->settings = *settings;
    client->url_text = mem_strdup(settings->url);
    client->settings.url = client->url_text;
    if (client->url_text == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a client");
    if (settings->timeout_ns == 0)
        client->settings.timeout_ns = TIMEOUT_S_USUAL * NS_PER_S;
    TRY(loop_new(&client->loop, env_real(), 0, err));
    *ret = TAKE(client);
    return OK;
}

void client_free(struct client **slot)
{
    struct client *client = TAKE(*slot);

    if (client == NULL)
        return;
    client_pool_free(&client->pool);
    loop_free(&client->loop);
    mem_free(client->url_text);
    mem_free(client);
}

const struct url *client_url(const struct client *client)
{
    return &client->url;
}

struct client_times client_times(const struct client *client)
{
    return client->times;
}

static enum err_code open_pool(struct client *client, struct err *err)
{
    const struct client_settings *s = &client->settings;
    struct client_pool_settings settings = {
        .url = s->url,
        .protocol = s->http2 ? CLIENT_HTTP2 : CLIENT_HTTP1,
        .connections_max = 1,
        .idle_timeout_ns = 24 * 3600 * NS_PER_S, /* the loop stands still between calls */
        .connect_timeout_ns = s->timeout_ns,
        .backoff_min_ns = 1,
        .backoff_max_ns = 1,
        .limits = s->limits,
        .authorization = s->authorization,
        .tap = s->tap,
        .tls = s->tls,
    };

    return client->pool != NULL ? OK : client_pool_new(&client->pool, client->loop, &settings, err);
}

/* -- one request ------------------------------------------------------------------------------- */

struct waiting {
    struct client *client;
    struct answer *answer; /* owned */
    struct err why;
};

static void on_end(struct client_exchange *x, const struct err *why)
{
    struct waiting *w = client_exchange_data(x);

    w->why = *why;
    w->client->times = client_exchange_times(x);
    if (why->code == OK)
        w->answer = client_exchange_take(x);
    loop_stop(w->client->loop);
}

enum err_code client_call(struct client *client, const struct client_request *request,
                          struct answer **ret, struct err *err)
{
    static const struct client_exchange_user user = { .on_end = on_end };
    struct waiting w = { .client = client };
    struct client_exchange *x;

    client->times = (struct client_times){ 0 };
    TRY(open_pool(client, err));
    struct client_ask ask = { .request = *request,
                              .due_ns = loop_refresh_ns(client->loop) + client->settings.timeout_ns,
                              .user = &user,
                              .user_data = &w };
    TRY(client_pool_ask(client->pool, &ask, &x, err));
    loop_run(client->loop);
    if (w.why.code != OK) {
        *err = w.why;
        return err->code;
    }
    *ret = w.answer;
    return OK;
}

/* -- gRPC -------------------------------------------------------------------------------------- */

struct grpc_waiting {
    struct client *client;
    struct client_reply *reply; /* owned */
    size_t bytes, bytes_max;
    struct err err; /* of our own gathering */
};

void client_reply_free(struct client_reply **slot)
{
    struct client_reply *reply = TAKE(*slot);

    if (reply == NULL)
        return;
    for (uint32_t i = 0; i < reply->messages_count; i++)
        buf_unref(&reply->messages[i]);
    mem_free(reply->messages);
    answer_free(&reply->answer);
    text_deinit(&reply->memory);
    mem_free(reply);
}

static enum err_code keep_message(struct grpc_waiting *w, struct slice bytes)
{
    struct client_reply *reply = w->reply;
    struct buf **more, *message;

    if (reply->messages_count == REPLY_MESSAGES_MAX)
        return err_set(&w->err, E_RANGE, "it answers with more than %d messages",
                       REPLY_MESSAGES_MAX);
    if (bytes.size > w->bytes_max - w->bytes)
        return err_set(&w->err, E_RANGE, "its messages have more than %zu bytes together",
                       w->bytes_max);
    more = mem_resize(reply->messages, (reply->messages_count + 1) * sizeof(struct buf *));
    if (more == NULL)
        return err_set(&w->err, E_EXHAUSTED, "no memory for a message");
    reply->messages = more;
    TRY(buf_new(&message, NULL, bytes.size, &w->err));
    if (bytes.size > 0)
        memcpy(buf_fill(message), bytes.data, bytes.size);
    reply->messages[reply->messages_count++] = message;
    w->bytes += bytes.size;
    return OK;
}

static void on_grpc_message(struct grpc_client_call *call,
                            const struct grpc_client_message *message)
{
    struct grpc_waiting *w = grpc_client_data(call);

    w->reply->wire_bytes += message->wire_bytes;
    if (keep_message(w, message->bytes) == OK) {
        grpc_client_read(call);
        return;
    }
    w->client->times = grpc_client_times(call);
    grpc_client_cancel(&call);
    loop_stop(w->client->loop);
}

static void on_grpc_end(struct grpc_client_call *call, const struct grpc_client_status *status)
{
    struct grpc_waiting *w = grpc_client_data(call);
    struct client_reply *reply = w->reply;

    w->client->times = grpc_client_times(call);
    w->err = status->err;
    reply->status = *status;
    reply->answer = grpc_client_take(call);
    /* Its views end with this call; they are made anew over what is kept. */
    if (status->is_servers && status->err.code != OK)
        grpc_status_read(&reply->status, reply->answer, slice_of(""), &reply->memory);
    loop_stop(w->client->loop);
}

static enum err_code send_messages(struct grpc_client_call *call,
                                   const struct client_grpc_request *request, struct err *err)
{
    for (uint32_t i = 0; i < request->messages_count; i++)
        TRY(grpc_client_send(call, request->messages[i], NULL, err));
    grpc_client_finish(call);
    grpc_client_read(call);
    return OK;
}

enum err_code client_grpc(struct client *client, const struct client_grpc_request *request,
                          struct client_reply **ret, struct err *err)
{
    static const struct grpc_client_user user = { .on_message = on_grpc_message,
                                                  .on_end = on_grpc_end };
    CLEANUP(client_reply_free) struct client_reply *reply = mem_zalloc(sizeof *reply);
    struct grpc_client_call *call = NULL;

    require(client->settings.http2);
    if (reply == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a call");
    text_init(&reply->memory, 64 << 10);
    struct grpc_waiting w = { .client = client, .reply = reply, .bytes_max = SIZE_MAX };
    if (client->settings.limits.body_bytes_max != 0)
        w.bytes_max = client->settings.limits.body_bytes_max;
    client->times = (struct client_times){ 0 };
    TRY(open_pool(client, err));
    struct grpc_client_start start = {
        .path = request->path,
        .metadata = request->metadata,
        .metadata_count = request->metadata_count,
        .due_ns = loop_refresh_ns(client->loop) + client->settings.timeout_ns,
        .sends = request->sends,
        .message_bytes_max = request->message_bytes_max != 0
                                 ? request->message_bytes_max
                                 : client->settings.limits.body_bytes_max,
        .user = &user,
        .user_data = &w,
    };
    TRY(grpc_client_start(client->pool, &start, &call, err));
    enum err_code code = send_messages(call, request, err);
    if (code != OK) {
        grpc_client_cancel(&call);
        return code;
    }
    loop_run(client->loop);
    *ret = TAKE(reply);
    *err = w.err;
    return w.err.code;
}
