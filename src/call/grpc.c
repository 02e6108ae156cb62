/* grpc.c - accepting a gRPC call, its deadline, its end. SPDX-License-Identifier: Apache-2.0
 *
 * A call and the block it receives into are one piece of the exchange's arena: a unary call of the
 * usual size asks nobody else for memory.
 *
 * What is wrong with a request is answered where its client looks: who speaks gRPC over HTTP/2, or
 * gRPC-Web, gets a grpc-status, who does not (HTTP/1.1, GET) an HTTP status, as PROTOCOL-HTTP2.md has
 * it for content types.
 */
#include "call/grpc.h"

#include <string.h>

#include "base/mem.h"
#include "call/internal.h"

enum {
    BLOCK_BYTES = 2048 + 64, /* a small request and its prefix come in one delivery */
    QUOTE_MAX = 64,
};

/* -- the head ------------------------------------------------------------------------------------ */

bool grpc_is_call(const struct exchange *x)
{
    return grpc_type_of(exchange_header(x, "content-type")).is_grpc;
}

/* One pass; the first of several counts. */
static void read_headers(struct grpc_call *g, struct slice *ret_type, struct slice *ret_accept)
{
    const struct exchange *x = g->call.x;

    for (uint32_t i = 0; i < x->headers_count; i++) {
        struct slice name = x->headers[i].name;
        struct slice *to = NULL;
        switch (name.size) {
        case 6: to = memcmp(name.data, "accept", 6) == 0 ? ret_accept : NULL; break;
        case 12:
            to = memcmp(name.data, "content-type", 12) == 0   ? ret_type
                 : memcmp(name.data, "grpc-timeout", 12) == 0 ? &g->timeout_text
                                                              : NULL;
            break;
        case 13: to = memcmp(name.data, "grpc-encoding", 13) == 0 ? &g->encoding_text : NULL; break;
        case 20:
            to = memcmp(name.data, "grpc-accept-encoding", 20) == 0 ? &g->accept_text : NULL;
            break;
        default: break;
        }
        if (to != NULL && to->data == NULL)
            *to = x->headers[i].value;
    }
}

COLD static void answer_text(struct exchange *x, uint16_t status, const char *text)
{
    static const struct header allow = { SLICE_LIT("allow"), SLICE_LIT("POST") };

    exchange_answer(x, status, "text/plain; charset=utf-8", &allow, status == 405 ? 1 : 0,
                    slice_of(text), NULL);
}

/* What is no gRPC over HTTP/2, and no gRPC-Web. */
static bool is_refused(struct exchange *x, struct grpc_type type)
{
    if (UNLIKELY(!type.is_web && strncmp(x->protocol, "HTTP/1", 6) == 0))
        answer_text(x, 505,
                    "gRPC needs HTTP/2, and this request came over HTTP/1.1: use a gRPC client, or "
                    "let the proxy in between speak HTTP/2 (nginx: grpc_pass). gRPC-Web "
                    "(application/grpc-web) and REST work over HTTP/1.1\n");
    else if (UNLIKELY(x->method != METHOD_POST))
        answer_text(x, 405, "gRPC calls are POST requests\n");
    else if (UNLIKELY(!type.is_grpc))
        answer_text(x, 415, "the content-type of a gRPC call is application/grpc\n");
    else if (UNLIKELY(type.is_unknown))
        answer_text(x, 415,
                    type.is_web
                        ? "gRPC messages are protobuf here: the content-type of gRPC-Web is "
                          "application/grpc-web or application/grpc-web-text, or one of them with "
                          "+proto\n"
                        : "gRPC messages are protobuf here: the content-type is application/grpc "
                          "or application/grpc+proto\n");
    else
        return false;
    return true;
}

/* "/package.Service/Method" */
static bool split_path(struct call *call)
{
    struct slice path = call->x->path;
    size_t slash = path.size;

    while (slash > 0 && path.data[slash - 1] != '/')
        slash--;
    if (slash < 3 || slash == path.size || path.data[0] != '/')
        return false;
    call->service = slice_make(path.data + 1, slash - 2);
    call->method = slice_skip(path, slash);
    return true;
}

/* -- life ---------------------------------------------------------------------------------------- */

/* Behind the last thing that was sent, or could not be. Lets the exchange go: nothing of the call may
 * be touched behind this. */
static void let_go(struct grpc_call *g, enum err_code code)
{
    struct exchange *x = g->call.x;

    g->call.is_over = true;
    x->note.is_call = true;
    x->note.code = (uint8_t)code;
    stat_add(&g->stats->calls[code], 1);
    if (g->deadline.slot != 0)
        timer_stop(x->loop, &g->deadline);
    loop_undefer(&g->task);
    grpc_in_deinit(g);
    grpc_out_deinit(g);
    exchange_unref(&x);
}

static void end_with(struct grpc_call *g, const struct err *status,
                     const struct call_details *details)
{
    g->call.is_over = true;
    grpc_out_end(g, status, details);
    let_go(g, status->code);
}

/* A message could not be sent: what would be OK without it is not. */
COLD static void end_failed(struct grpc_call *g)
{
    struct err failure = { 0 };

    err_set(&failure, g->failure, "%s", g->failure_text);
    end_with(g, &failure, NULL);
}

static void end(struct call *call, const struct err *status, const struct call_details *details)
{
    struct grpc_call *g = grpc_of(call);

    if (UNLIKELY(g->failure != OK && status->code == OK))
        end_failed(g);
    else
        end_with(g, status, details);
}

void grpc_break(struct grpc_call *g, const struct err *err)
{
    struct call *call = &g->call;

    call->is_over = true;
    grpc_out_end(g, err, NULL);
    if (call->user != NULL && call->user->on_gone != NULL)
        call->user->on_gone(call, err->code);
    let_go(g, err->code);
}

static void on_gone(struct exchange *x)
{
    struct grpc_call *g = x->user_data;
    struct call *call = &g->call;

    if (call->is_over) /* it ended, and the peer left before all of that was sent */
        return;
    call->is_over = true;
    if (call->user != NULL && call->user->on_gone != NULL)
        call->user->on_gone(call, E_CANCELLED);
    let_go(g, E_CANCELLED);
}

static void on_room(struct exchange *x)
{
    struct grpc_call *g = x->user_data;
    struct call *call = &g->call;

    if (!call->is_over && call->user != NULL && call->user->on_room != NULL)
        call->user->on_room(call);
}

static void on_drain(struct exchange *x)
{
    struct grpc_call *g = x->user_data;
    struct call *call = &g->call;

    if (!call->is_over && call->user != NULL && call->user->on_drain != NULL)
        call->user->on_drain(call);
}

static const struct exchange_user exchange_user = {
    .on_body = grpc_in_on_body,
    .on_room = on_room,
    .on_drain = on_drain,
    .on_gone = on_gone,
};

static const struct call_ops call_ops = {
    .read = grpc_in_read,
    .send = grpc_out_send,
    .end = end,
};

/* -- the deadline -------------------------------------------------------------------------------- */

static void on_due(struct timer *timer)
{
    struct grpc_call *g = CONTAINER_OF(timer, struct grpc_call, deadline);
    struct err err = { 0 };

    err_set(&err, E_DEADLINE,
            "the deadline (grpc-timeout '%.*s') passed before the answer was "
            "complete",
            SLICE_ARG(slice_first(g->timeout_text, QUOTE_MAX)));
    grpc_break(g, &err);
}

static enum err_code start_deadline(struct grpc_call *g, struct err *err)
{
    struct exchange *x = g->call.x;
    uint64_t ns = 0, now = x->loop == NULL ? x->begun_ns : loop_now_ns(x->loop);

    if (grpc_timeout_parse(&ns, g->timeout_text, err) != OK) {
        err->code = E_INTERNAL; /* what gRPC servers say of it */
        return E_INTERNAL;
    }
    if (ns >= UINT64_MAX - x->begun_ns) /* too far for a clock: never */
        return OK;
    g->call.deadline_ns = x->begun_ns + ns;
    if (g->call.deadline_ns <= now)
        return err_set(err, E_DEADLINE,
                       "the deadline (grpc-timeout '%.*s') was over before the call began",
                       SLICE_ARG(slice_first(g->timeout_text, QUOTE_MAX)));
    if (x->loop == NULL)
        return OK;
    g->deadline.on_due = on_due;
    return timer_start(x->loop, &g->deadline, g->call.deadline_ns, err);
}

/* -- accepting ----------------------------------------------------------------------------------- */

static struct grpc_loop_stats *stats_of(const struct grpc_settings *settings, struct loop *loop)
{
    static _Thread_local struct grpc_loop_stats nobody;
    struct grpc_stats *stats = settings->stats;
    uint32_t index = loop == NULL ? 0 : loop_index(loop);

    if (stats == NULL)
        return &nobody;
    require(index < stats->loops_count);
    return &stats->loops[index];
}

/* There is one message to come, so its sender may not pause. */
COLD static void begin_web(struct grpc_call *g, struct slice accept)
{
    g->call.carrier = CALL_GRPC_WEB;
    g->call.is_lone = true;
    g->answer_type = grpc_web_type_of_answer(g->type, accept);
    stat_add(g->type.is_text ? &g->stats->web_text : &g->stats->web_binary, 1);
}

static enum err_code begin(struct grpc_call *g, struct err *err)
{
    if (UNLIKELY(!split_path(&g->call)))
        return err_set(err, E_UNIMPLEMENTED,
                       "the path '%.*s' names no method: it is /package.Service/Method",
                       SLICE_ARG(slice_first(g->call.x->path, QUOTE_MAX)));
    if (g->timeout_text.data != NULL)
        TRY(start_deadline(g, err));
    return OK;
}

struct call *grpc_accept(struct exchange *x, const struct grpc_settings *settings)
{
    struct grpc_loop_stats *stats = stats_of(settings, x->loop);
    struct grpc_call *g = arena_aligned(x->arena, 64, sizeof *g + BLOCK_BYTES);
    struct slice type = { NULL, 0 }, accept = { NULL, 0 };
    struct err err;

    if (x->is_gone || x->is_ended)
        return NULL;
    if (UNLIKELY(g == NULL)) {
        err = (struct err){ 0 };
        err_set(&err, E_EXHAUSTED, "no memory for a call; retry later");
        stat_add(&stats->calls[E_EXHAUSTED], 1);
        grpc_fail(x, &err);
        return NULL;
    }
    memset(g, 0, sizeof *g);
    g->call.x = x;
    g->call.deadline_ns = UINT64_MAX;
    g->call.ops = &call_ops;
    g->settings = settings;
    g->stats = stats;
    read_headers(g, &type, &accept);
    g->type = g->answer_type = grpc_type_of(type);
    if (UNLIKELY(is_refused(x, g->type))) {
        stat_add(&stats->refused, 1);
        return NULL;
    }
    if (UNLIKELY(g->type.is_web))
        begin_web(g, accept);
    g->encoding = grpc_encoding_of(g->encoding_text);
    grpc_in_init(g, (uint8_t *)(g + 1), BLOCK_BYTES);
    x->user = &exchange_user;
    x->user_data = g;
    exchange_ref(x);
    err.code = OK;
    err.retry_after_ms = 0;
    err.text[0] = '\0';
    if (UNLIKELY(begin(g, &err) != OK)) {
        end(&g->call, &err, NULL);
        return NULL;
    }
    return &g->call;
}

void grpc_fail(struct exchange *x, const struct err *status)
{
    struct grpc_type type = grpc_type_of(exchange_header(x, "content-type"));

    if (type.is_web)
        type = grpc_web_type_of_answer(type, exchange_header(x, "accept"));
    grpc_out_fail(x, type, status);
}
