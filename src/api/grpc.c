/* grpc.c - SPDX-License-Identifier: Apache-2.0
 *
 * Services and methods are found by comparing names one after the other, those that are called most
 * first: two comparisons for ModelInfer, where a hash would have to read the whole path.
 */
#include "api/grpc.h"

#include "api/session_call.h"
#include "base/text.h"
#include "model/nearest.h"

const struct grpc_service *const grpc_services[] = {
    &kserve_grpc_service,
    &penstock_grpc_service,
    &kserve_grpc_torch_service,
    &grpc_health_service,
    &grpc_reflection_service,
    &grpc_reflection_alpha_service,
    &interop_service,
    &interop_unimplemented_service,
    &push_grpc_service,
    NULL,
};

bool grpc_service_is_on(const struct grpc_service *service, const struct api *api)
{
    if (service == &grpc_reflection_service || service == &grpc_reflection_alpha_service)
        return api->has_reflection;
    if (service == &interop_service || service == &interop_unimplemented_service)
        return api->has_test_services;
    return true;
}

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

static COLD void end_unknown_service(struct call *call, const struct api *api)
{
    struct nearest nearest = nearest_to(call->service);
    struct text out;

    text_init_arena(&out, call->x->arena, 512);
    text_str(&out, "unknown service '");
    text_slice_put(&out, slice_first(call->service, 120));
    text_str(&out, "'; there are: ");
    for (size_t i = 0; grpc_services[i] != NULL; i++) {
        if (!grpc_service_is_on(grpc_services[i], api))
            continue;
        text_str(&out, i == 0 ? "" : ", ");
        text_str(&out, grpc_services[i]->name);
        nearest_offer(&nearest, grpc_services[i]->name);
    }
    text_str(&out, ", and penstock.models.<Model> of each model (GET /models lists them)");
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
        call->x->note.route = call->x->path; /* there is such a method: of a bounded set */
        struct err err = { 0 };
        /* What is not built tells everybody so, where there are no rules. */
        bool is_asked = method->right != ACCESS_OPEN &&
                        (method->handle != NULL || caller_has_rules(call->x->caller));
        if (UNLIKELY(is_asked &&
                     api_may(call->x, method->right, slice_of(service->group), slice_make("", 0),
                             &err) != OK)) {
            call_end(call, &err, NULL);
            return;
        }
        if (LIKELY(method->handle != NULL)) {
            method->handle(call, api);
            return;
        }
        if (!is_asked && method->right == ACCESS_ADMIN)
            api_note_refused(call->x, api_not_built);
        err_set(&err, E_UNIMPLEMENTED, "%s: %s", method->name, method->reason);
        call_end(call, &err, NULL);
        return;
    }
    end_unknown_method(call, service);
}

COLD bool grpc_is_path(struct slice path)
{
    if (path.size == 0 || path.data[0] != '/')
        return false;
    struct slice service = slice_skip(path, 1), method = { 0 };
    size_t slash = slice_find(service, '/');

    if (slash == service.size)
        return false;
    method = slice_skip(service, slash + 1);
    service = slice_first(service, slash);
    if (method.size == 0 || slice_find(method, '/') != method.size)
        return false;
    if (slice_starts(service, "penstock.models."))
        return true;
    for (size_t i = 0; grpc_services[i] != NULL; i++)
        if (slice_is(service, grpc_services[i]->name))
            return true;
    return false;
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
    if (!typed_grpc_handle(call, api))
        end_unknown_service(call, api);
}
