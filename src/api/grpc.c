/* grpc.c - SPDX-License-Identifier: Apache-2.0
 *
 * Services and methods are found by comparing names one after the other, those that are called most
 * first: two comparisons for ModelInfer, where a hash would have to read the whole path.
 *
 * A unary call is answered when its caller has finished sending: a second message is then an error
 * and not a message that nobody reads. gRPC clients send both together, so nothing waits.
 */
#include "api/grpc.h"

#include "base/text.h"
#include "model/nearest.h"

const struct grpc_service *const grpc_services[] = {
    &kserve_grpc_service,
    &kserve_grpc_torch_service,
    NULL,
};

/* -- what does not exist ------------------------------------------------------------------------ */

static COLD void end_text(struct call *call, enum err_code code, struct text *text,
                          const char *otherwise)
{
    struct err err = { 0 };

    err_set(&err, code, "%s", text_failed(text) ? otherwise : text_cstr(text));
    call_end(call, &err, NULL);
}

static COLD void put_nearest(struct text *out, const struct nearest *nearest)
{
    const char *best = nearest_best(nearest);

    if (best == NULL)
        return;
    text_str(out, "; did you mean '");
    text_str(out, best);
    text_str(out, "'?");
}

static COLD void end_unknown_service(struct call *call)
{
    struct nearest nearest = nearest_to(call->service);
    struct text out;

    text_init_arena(&out, call->x->arena, 512);
    text_str(&out, "unknown service '");
    text_slice_put(&out, slice_first(call->service, 120));
    text_str(&out, "'; there are: ");
    for (size_t i = 0; grpc_services[i] != NULL; i++) {
        text_str(&out, i == 0 ? "" : ", ");
        text_str(&out, grpc_services[i]->name);
        nearest_offer(&nearest, grpc_services[i]->name);
    }
    put_nearest(&out, &nearest);
    end_text(call, E_UNIMPLEMENTED, &out, "unknown service");
}

static COLD void end_unknown_method(struct call *call, const struct grpc_service *service)
{
    struct nearest nearest = nearest_to(call->method);
    struct text out;
    bool is_first = true;

    text_init_arena(&out, call->x->arena, 512);
    text_str(&out, "service '");
    text_str(&out, service->name);
    text_str(&out, "' has no method '");
    text_slice_put(&out, slice_first(call->method, 80));
    text_str(&out, "'; it has: ");
    for (uint32_t i = 0; i < service->methods_count; i++) {
        nearest_offer(&nearest, service->methods[i].name);
        if (service->methods[i].handle == NULL)
            continue;
        text_str(&out, is_first ? "" : ", ");
        text_str(&out, service->methods[i].name);
        is_first = false;
    }
    put_nearest(&out, &nearest);
    end_text(call, E_UNIMPLEMENTED, &out, "unknown method");
}

/* -- dispatch ------------------------------------------------------------------------------------ */

static HOT void call_service(struct call *call, const struct api *api,
                             const struct grpc_service *service)
{
    for (uint32_t i = 0; i < service->methods_count; i++) {
        const struct grpc_method *method = &service->methods[i];
        if (!slice_is(call->method, method->name))
            continue;
        if (LIKELY(method->handle != NULL)) {
            method->handle(call, api);
            return;
        }
        struct err err = { 0 };
        err_set(&err, E_UNIMPLEMENTED, "%s: %s", method->name, method->reason);
        call_end(call, &err, NULL);
        return;
    }
    end_unknown_method(call, service);
}

HOT void grpc_dispatch(struct exchange *x, const struct api *api)
{
    struct call *call = grpc_accept(x, &api->grpc);

    if (UNLIKELY(call == NULL))
        return;
    for (size_t i = 0; grpc_services[i] != NULL; i++) {
        if (slice_is(call->service, grpc_services[i]->name)) {
            call_service(call, api, grpc_services[i]);
            return;
        }
    }
    end_unknown_service(call);
}

/* -- unary calls --------------------------------------------------------------------------------- */

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
    call_read(call);
}
