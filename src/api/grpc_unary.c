/* grpc_unary.c - calls of one message each way. SPDX-License-Identifier: Apache-2.0
 *
 * A unary call is answered when its caller has finished sending: a second message is then an error
 * and not a message that nobody reads. gRPC clients send both together, so nothing waits.
 */
#include "api/grpc.h"

struct unary {
    const struct api *api;
    void (*answer)(struct call *call, const struct api *api, struct slice message);
    struct slice message;
    bool has_message;
};

void grpc_end(struct call *call, const struct err *err, const char *field)
{
    struct call_details details = { .field = field };

    call_end(call, err, field != NULL ? &details : NULL);
}

void grpc_end_without_message(struct call *call)
{
    struct err err = { 0 };

    err_set(&err, E_INTERNAL,
            "the call ended without a message: '%.*s' takes exactly one (an empty one is five "
            "bytes)",
            SLICE_ARG(slice_first(call->method, 80)));
    call_end(call, &err, NULL);
}

void grpc_end_second_message(struct call *call)
{
    struct err err = { 0 };

    err_set(&err, E_INTERNAL,
            "a second message came: '%.*s' takes exactly one; make one call for each",
            SLICE_ARG(slice_first(call->method, 80)));
    call_end(call, &err, NULL);
}

void grpc_answer(struct call *call, struct slice message, struct buf *holder)
{
    struct call_piece piece = { message, holder };
    struct err ok = { 0 };

    call_send(call, &piece, 1);
    call_end(call, &ok, NULL);
}

static void on_message(struct call *call, const struct call_message *message)
{
    struct unary *unary = call->user_data;

    if (unary->has_message) {
        grpc_end_second_message(call);
        return;
    }
    unary->has_message = true;
    unary->message = message->bytes;
    call_read(call);
}

static void on_half_close(struct call *call)
{
    struct unary *unary = call->user_data;

    if (unary->has_message)
        unary->answer(call, unary->api, unary->message);
    else
        grpc_end_without_message(call);
}

/* The call holds the exchange, and nothing else is held here. */
static void on_gone(struct call *call UNUSED, enum err_code why UNUSED)
{
}

static const struct call_user unary_user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_gone = on_gone,
};

void grpc_unary(struct call *call, const struct api *api,
                void (*answer)(struct call *call, const struct api *api, struct slice message))
{
    struct unary *unary = arena_zalloc(call->x->arena, sizeof *unary);

    if (unary == NULL) {
        struct err err = { 0 };
        err_set(&err, E_EXHAUSTED, "no memory for the request; retry later");
        call_end(call, &err, NULL);
        return;
    }
    unary->api = api;
    unary->answer = answer;
    call->user = &unary_user;
    call->user_data = unary;
    call->is_lone = true;
    call_read(call);
}
