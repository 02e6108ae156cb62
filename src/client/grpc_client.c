/* grpc_client.c - SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of the answer are gathered in one text and read from its front. They are granted again when
 * they are needed (a message is awaited) and not before, so that who does not read holds at most one
 * window.
 *
 * A status is told behind the last message, also when the reader has not asked for those yet.
 */
#include "client/grpc_client.h"

#include <stdio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"
#include "io/loop.h"

enum {
    MESSAGE_BYTES_USUAL = 1 << 30,
    COPY_BYTES_MAX = 4096, /* up to here a message is copied behind its prefix */
    OWN_HEADERS = 5,
    TELL_BYTES_MAX = 400 /* of a body that is no gRPC */
};

struct grpc_client_call {
    struct client_pool *pool;
    struct client_exchange *x; /* NULL once it is over */
    const struct grpc_client_user *user;
    void *user_data;
    enum encoding sends;
    struct text in; /* owned */
    struct grpc_reader reader;
    size_t granted; /* of the bytes in `in` from reader.at */
    uint32_t reads; /* messages that were asked for */
    bool is_grpc;   /* the answer is: its body is messages */
    bool has_ended, is_over;
    struct answer *answer; /* owned, once it has ended */
    struct err why;        /* how the exchange ended, or what is wrong with its messages */
    struct client_times times;
    struct loop_task task;
};

/* -- messages out of bytes --------------------------------------------------------------------- */

enum err_code grpc_reader_next(struct grpc_reader *r, struct grpc_read *ret, struct err *err)
{
    struct slice in = r->in->size == 0 ? slice_of("") : slice_skip(text_slice(r->in), r->at);
    struct buf *content = NULL;
    size_t offset = 0;

    *ret = (struct grpc_read){ .missing_bytes = 0 };
    if (in.size < GRPC_PREFIX_BYTES) {
        ret->missing_bytes = in.size > 0 ? GRPC_PREFIX_BYTES - in.size : 0;
        return OK;
    }
    struct grpc_prefix prefix = grpc_prefix_get(in.data);
    if (prefix.flag > 1)
        return err_set(
            err, E_INTERNAL,
            "the answer is no gRPC: a message begins with flag %u, where 0 or 1 can stand",
            prefix.flag);
    if (prefix.size > r->message_bytes_max)
        return grpc_message_too_large(err, prefix.size, r->message_bytes_max, r->option);
    if (in.size - GRPC_PREFIX_BYTES < prefix.size) {
        ret->missing_bytes = GRPC_PREFIX_BYTES + (size_t)prefix.size - in.size;
        return OK;
    }
    struct slice bytes = slice_first(slice_skip(in, GRPC_PREFIX_BYTES), prefix.size);
    if (prefix.flag == 1) {
        if (r->encoding != ENCODING_GZIP && r->encoding != ENCODING_DEFLATE)
            return err_set(err, E_INTERNAL, "a message says that it is compressed, and %s",
                           r->encoding == ENCODING_IDENTITY
                               ? "the answer names no grpc-encoding"
                               : "the answer's grpc-encoding is not known here");
        TRY(grpc_message_inflate(&content, &offset, NULL, NULL, r->encoding, bytes,
                                 r->message_bytes_max, r->option, err));
        bytes = content == NULL ? slice_of("") : slice_skip(buf_bytes(content), offset);
    }
    ret->has_message = true;
    ret->holder = content;
    ret->message = (struct grpc_client_message){
        .bytes = bytes,
        .was_compressed = prefix.flag == 1,
        .wire_bytes = GRPC_PREFIX_BYTES + (size_t)prefix.size,
    };
    r->at += ret->message.wire_bytes;
    return OK;
}

/* -- the status -------------------------------------------------------------------------------- */

static bool is_grpc(const struct answer *answer)
{
    struct slice type = answer_header(answer, "content-type");

    return slice_starts(type, "application/grpc") && !slice_starts(type, "application/grpc-web");
}

static struct slice last_words(const struct answer *answer, const char *name)
{
    struct slice value = answer_trailer(answer, name);

    return value.data != NULL ? value : answer_header(answer, name);
}

/* No gRPC at all: a proxy, or a server that speaks something else. What it says is shown. */
static void tell_foreign(struct err *err, const struct answer *answer, struct slice body)
{
    struct slice type = answer_header(answer, "content-type");
    char words[TELL_BYTES_MAX + 4];
    struct text text;

    text_init_fixed(&text, words, sizeof words - 1);
    body = slice_trim(slice_first(body, TELL_BYTES_MAX));
    for (size_t i = 0; i < body.size; i++)
        text_byte(&text, body.data[i] < ' ' || body.data[i] == 0x7f ? ' ' : body.data[i]);
    words[text.size] = '\0';
    err_set(err, grpc_status_of_http(answer->status),
            "it does not answer in gRPC: HTTP status %u, content-type '%.*s'%s%s", answer->status,
            SLICE_ARG(slice_first(type, 100)), text.size > 0 ? ": " : "", words);
}

static void read_details(struct grpc_client_status *ret, struct text *memory)
{
    struct slice value = last_words(ret->answer, "grpc-status-details-bin");
    struct err ignored;

    if (value.data == NULL || !grpc_bin_decode(memory, value) || text_failed(memory))
        return;
    ret->has_details = grpc_details_decode(&ret->details, text_slice(memory), &ignored) == OK;
}

void grpc_status_read(struct grpc_client_status *ret, const struct answer *answer,
                      struct slice body_begin, struct text *details_memory)
{
    struct slice status = last_words(answer, "grpc-status");
    char words[ERR_TEXT_MAX];
    struct text text;

    *ret = (struct grpc_client_status){ .answer = answer };
    if (status.data == NULL) {
        if (!is_grpc(answer))
            tell_foreign(&ret->err, answer, body_begin);
        else
            err_set(&ret->err,
                    answer->status == 200 ? E_INTERNAL : grpc_status_of_http(answer->status),
                    "the answer ended without a status (grpc-status)");
        return;
    }
    ret->is_servers = true;
    enum err_code code = grpc_status_parse(status);
    if (code == OK)
        return;
    struct text decoded;
    text_init(&decoded, 64 << 10);
    grpc_message_decode(&decoded, last_words(answer, "grpc-message"));
    text_init_fixed(&text, words, sizeof words - 1);
    text_slice_put(&text, slice_first(text_slice(&decoded), sizeof words - 1));
    words[text.size] = '\0';
    text_deinit(&decoded);
    err_set(&ret->err, code, "%s", words);
    read_details(ret, details_memory);
    if (ret->has_details && ret->details.has_retry)
        ret->err.retry_after_ms = (uint32_t)MIN(ret->details.retry_after_ms, (uint64_t)UINT32_MAX);
}

/* -- the call ---------------------------------------------------------------------------------- */

static void free_call(struct grpc_client_call *call)
{
    loop_undefer(&call->task);
    answer_free(&call->answer);
    text_deinit(&call->in);
    mem_free(call);
}

static void end_call(struct grpc_client_call *call)
{
    struct grpc_client_status status = { .err = call->why, .answer = call->answer };
    struct text memory;

    text_init(&memory, 64 << 10);
    if (call->why.code == OK)
        grpc_status_read(&status, call->answer,
                         call->is_grpc ? slice_of("") : text_slice(&call->in), &memory);
    /* RFC-like words of gRPC: bytes behind the last whole message mean that something was lost. */
    if (status.err.code == OK && call->is_grpc && call->in.size > call->reader.at)
        err_set(&status.err, E_INTERNAL, "the answer ended in the middle of a message");
    call->is_over = true;
    call->user->on_end(call, &status);
    text_deinit(&memory);
    loop_defer(client_pool_loop(call->pool), &call->task); /* frees it */
}

/* Our own verdict: the exchange is given up. */
static void fail_call(struct grpc_client_call *call, const struct err *why)
{
    call->why = *why;
    if (call->x != NULL) {
        call->times = client_exchange_times(call->x);
        client_exchange_cancel(&call->x);
    }
    call->has_ended = true;
    end_call(call);
}

static void grant(struct grpc_client_call *call, size_t size)
{
    if (size <= call->granted)
        return;
    if (call->x != NULL)
        client_exchange_grant(call->x, size - call->granted);
    call->granted = size;
}

static void compact(struct grpc_client_call *call)
{
    struct text *in = &call->in;
    size_t at = call->reader.at;

    if (at < in->size && at < in->size / 2)
        return;
    memmove(in->data, in->data + at, in->size - at);
    in->size -= at;
    call->reader.at = 0;
}

/* Gives messages that are there and asked for, and the end when there are no more. */
static void deliver(struct grpc_client_call *call)
{
    struct grpc_read read;
    struct err err = { 0 };

    while (!call->is_over && call->is_grpc && call->reads > 0) {
        if (grpc_reader_next(&call->reader, &read, &err) != OK) {
            fail_call(call, &err);
            return;
        }
        if (!read.has_message) {
            grant(call, call->in.size - call->reader.at);
            break;
        }
        grant(call, read.message.wire_bytes);
        call->granted -= read.message.wire_bytes;
        call->reads--;
        if (call->user->on_message != NULL)
            call->user->on_message(call, &read.message);
        buf_unref(&read.holder);
    }
    if (call->is_over)
        return;
    if (call->in.size > 0)
        compact(call);
    bool is_drained = !call->is_grpc || call->in.size == 0 || call->reads > 0;
    if (call->has_ended && (is_drained || call->why.code != OK))
        end_call(call);
}

static void run_task(struct loop_task *task)
{
    struct grpc_client_call *call = CONTAINER_OF(task, struct grpc_client_call, task);

    if (call->is_over)
        free_call(call);
    else
        deliver(call);
}

static void on_head(struct client_exchange *x, const struct answer *answer)
{
    struct grpc_client_call *call = client_exchange_data(x);

    call->is_grpc = is_grpc(answer);
    call->reader.encoding = grpc_encoding_of(answer_header(answer, "grpc-encoding"));
    if (call->is_grpc && call->user->on_metadata != NULL)
        call->user->on_metadata(call, answer);
}

static void on_body(struct client_exchange *x, struct slice piece)
{
    struct grpc_client_call *call = client_exchange_data(x);
    struct err err = { 0 };

    if (!call->is_grpc) {
        text_slice_put(&call->in, slice_first(piece, TELL_BYTES_MAX - MIN(call->in.size,
                                                                          (size_t)TELL_BYTES_MAX)));
        client_exchange_grant(x, piece.size);
        return;
    }
    text_slice_put(&call->in, piece);
    if (text_failed(&call->in)) {
        err_set(&err, E_EXHAUSTED, "no memory for an answer of more than %zu bytes", call->in.size);
        fail_call(call, &err);
        return;
    }
    deliver(call);
}

static void on_room(struct client_exchange *x)
{
    struct grpc_client_call *call = client_exchange_data(x);

    if (!call->is_over && call->user->on_room != NULL)
        call->user->on_room(call);
}

static void on_end(struct client_exchange *x, const struct err *why)
{
    struct grpc_client_call *call = client_exchange_data(x);

    call->times = client_exchange_times(x);
    call->answer = client_exchange_take(x);
    call->x = NULL;
    call->why = *why;
    call->has_ended = true;
    deliver(call);
}

static enum err_code make_headers(const struct grpc_client_start *start, struct client_header *out,
                                  uint32_t *ret_count, char timeout[GRPC_TIMEOUT_ROOM],
                                  uint64_t now, struct err *err)
{
    uint32_t count = 0;

    /* "te: trailers" comes before metadata, as doc/PROTOCOL-HTTP2.md has it. */
    out[count++] = (struct client_header){ "te", "trailers" };
    out[count++] = (struct client_header){ "content-type", "application/grpc" };
    if (start->due_ns != 0) {
        grpc_timeout_format(timeout, start->due_ns > now ? start->due_ns - now : 0);
        out[count++] = (struct client_header){ "grpc-timeout", timeout };
    }
    if (start->sends != ENCODING_IDENTITY)
        out[count++] = (struct client_header){ "grpc-encoding", encoding_name(start->sends) };
    out[count++] = (struct client_header){ "grpc-accept-encoding", GRPC_ENCODINGS };
    for (uint32_t i = 0; i < start->metadata_count; i++) {
        const struct client_header *m = &start->metadata[i];
        if (!grpc_metadata_key_is_custom(slice_of(m->name)) && strcmp(m->name, "user-agent") != 0)
            return err_set(err, E_INVALID,
                           "'%.100s' cannot be the key of metadata: lower-case letters, digits, "
                           "'-', '_' and '.', and none of gRPC's or HTTP's own",
                           m->name);
        if (!grpc_metadata_value_is_ascii(slice_of(m->value)))
            return err_set(
                err, E_INVALID,
                "the metadata '%s' holds bytes that are not printable ASCII, or blanks at its ends; a "
                "key that ends in -bin can carry any bytes",
                m->name);
        out[count++] = *m;
    }
    *ret_count = count;
    return OK;
}

enum err_code grpc_client_start(struct client_pool *pool, const struct grpc_client_start *start,
                                struct grpc_client_call **ret, struct err *err)
{
    static const struct client_exchange_user user = { on_head, on_body, on_room, on_end };
    CLEANUP(mem_free_slot)
    struct client_header *headers =
        mem_alloc((OWN_HEADERS + start->metadata_count) * sizeof *headers);
    char timeout[GRPC_TIMEOUT_ROOM];
    uint32_t headers_count = 0;
    struct loop *loop = client_pool_loop(pool);

    struct grpc_client_call *call = mem_zalloc(sizeof *call);
    if (call == NULL || headers == NULL) {
        mem_free(call);
        return err_set(err, E_EXHAUSTED, "no memory for a call");
    }
    call->pool = pool;
    call->user = start->user;
    call->user_data = start->user_data;
    call->sends = start->sends;
    call->task.run = run_task;
    size_t most =
        start->message_bytes_max != 0 ? start->message_bytes_max : (size_t)MESSAGE_BYTES_USUAL;
    text_init(&call->in, SIZE_MAX / 2);
    call->reader =
        (struct grpc_reader){ .in = &call->in, .message_bytes_max = most, .option = start->option };
    enum err_code code =
        make_headers(start, headers, &headers_count, timeout, loop_now_ns(loop), err);
    struct client_ask ask = { .request = { .method = "POST",
                                           .target = start->path,
                                           .headers = headers,
                                           .headers_count = headers_count },
                              .is_open = true,
                              .due_ns = start->due_ns,
                              .user = &user,
                              .user_data = call };
    if (code == OK)
        code = client_pool_ask(pool, &ask, &call->x, err);
    if (code != OK) {
        free_call(call);
        return code;
    }
    *ret = call;
    return OK;
}

void *grpc_client_data(const struct grpc_client_call *call)
{
    return call->user_data;
}

void grpc_client_read(struct grpc_client_call *call)
{
    call->reads++;
    if (!call->is_over)
        loop_defer(client_pool_loop(call->pool), &call->task);
}

/* Prefix and message as one buf. */
static enum err_code join(struct buf **ret, bool is_compressed, struct slice message,
                          struct err *err)
{
    TRY(buf_new(ret, NULL, GRPC_PREFIX_BYTES + message.size, err));
    grpc_prefix_put(buf_fill(*ret), is_compressed, (uint32_t)message.size);
    if (message.size > 0)
        memcpy(buf_fill(*ret) + GRPC_PREFIX_BYTES, message.data, message.size);
    return OK;
}

enum err_code grpc_client_send(struct grpc_client_call *call, struct slice message,
                               struct buf *holder, struct err *err)
{
    CLEANUP(buf_unref) struct buf *deflated = NULL;
    CLEANUP(buf_unref) struct buf *whole = NULL;
    bool is_compressed = call->sends != ENCODING_IDENTITY;

    if (call->x == NULL)
        return OK;
    if (is_compressed) {
        TRY(compress_deflate(&deflated, NULL, call->sends, &message, 1, err));
        message = buf_bytes(deflated);
        holder = deflated;
    }
    if (message.size > UINT32_MAX)
        return err_set(err, E_EXHAUSTED, "a message of %zu bytes: gRPC's have at most 4 GiB",
                       message.size);
    bool is_joined = holder == NULL || message.size <= COPY_BYTES_MAX;
    TRY(join(&whole, is_compressed, is_joined ? message : slice_of(""), err));
    if (!is_joined)
        grpc_prefix_put(buf_fill(whole), is_compressed, (uint32_t)message.size);
    if (!client_exchange_send(call->x, buf_bytes(whole), whole) ||
        (!is_joined && !client_exchange_send(call->x, message, holder)))
        return err_set(err, E_EXHAUSTED, "no memory for a message");
    return OK;
}

void grpc_client_finish(struct grpc_client_call *call)
{
    if (call->x != NULL)
        client_exchange_finish(call->x);
}

size_t grpc_client_unsent(const struct grpc_client_call *call)
{
    return call->x == NULL ? 0 : client_exchange_unsent(call->x);
}

void grpc_client_cancel(struct grpc_client_call **slot)
{
    struct grpc_client_call *call = TAKE(*slot);

    if (call == NULL || call->is_over)
        return;
    call->is_over = true;
    client_exchange_cancel(&call->x);
    loop_defer(client_pool_loop(call->pool), &call->task);
}

struct answer *grpc_client_take(struct grpc_client_call *call)
{
    return TAKE(call->answer);
}

struct client_times grpc_client_times(const struct grpc_client_call *call)
{
    return call->times;
}
