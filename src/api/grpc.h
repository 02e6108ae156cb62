/* grpc.h - which gRPC services and methods there are, and who answers them.
 *
 * serve's dispatch hands every exchange that grpc_is_call here (grpc_dispatch), after Host and
 * Origin were judged. The path is /package.Service/Method. Services that exist once per model
 * (penstock.models.<Model>) are found by typed_grpc_find.
 */
#ifndef API_GRPC_H
#define API_GRPC_H

#include "api/route.h"
#include "call/grpc.h"

struct grpc_method {
    const char *name; /* "ModelInfer" */
    /* Takes the call: sets user and user_data, then reads or ends it. NULL: UNIMPLEMENTED with
     * `reason`. */
    void (*handle)(struct call *call, const struct api *api);
    const char *reason;
};

struct grpc_service {
    const char *name; /* "inference.GRPCInferenceService" */
    const struct grpc_method *methods;
    uint32_t methods_count;
};

/* Each in its own file. */
extern const struct grpc_service kserve_grpc_service;     /* kserve_grpc.c */
extern const struct grpc_service grpc_health_service;     /* grpc_health.c */
extern const struct grpc_service grpc_reflection_service; /* reflection.c: grpc.reflection.v1 */
extern const struct grpc_service grpc_reflection_alpha_service; /* ... v1alpha */

/* Every static service there is, for dispatch, reflection and health: NULL-terminated. */
extern const struct grpc_service *const grpc_services[];

/* penstock.models.<Model>/Predict: false when the service is not of a ready model's name (then
 * nothing was done). */
bool typed_grpc_handle(struct call *call, const struct api *api);

/* Ends or serves the exchange; UNIMPLEMENTED names what exists instead. */
void grpc_dispatch(struct exchange *x, const struct api *api);

#endif
