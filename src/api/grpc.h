/* grpc.h - which gRPC services and methods there are, and who answers them.
 *
 * serve's dispatch hands every exchange that grpc_is_call here (grpc_dispatch), after Host and
 * Origin were judged. The path is /package.Service/Method. Services that exist once per model
 * (penstock.models.<Model>) are typed_grpc_handle's.
 */
#ifndef API_GRPC_H
#define API_GRPC_H

#include <stdatomic.h>

#include "api/route.h"
#include "call/grpc.h"

struct grpc_method {
    const char *name; /* "ModelInfer" */
    /* Takes the call: sets user and user_data, then reads or ends it. NULL: UNIMPLEMENTED with
     * `reason`. */
    void (*handle)(struct call *call, const struct api *api);
    const char *reason;
    enum access_right right; /* as of struct route: asked by grpc_dispatch, before `handle` */
};

/* Methods that are called often come first: they are looked for one after the other. */
struct grpc_service {
    const char *name; /* "inference.GRPCInferenceService" */
    const struct grpc_method *methods;
    uint32_t methods_count;
    const char *group; /* as of struct route: the same API has the same group on every transport */
};

/* Each in its own file. */
extern const struct grpc_service kserve_grpc_service; /* kserve_grpc.c */
/* The Open Inference Protocol's six methods under TorchServe's package: kserve_grpc.c */
extern const struct grpc_service kserve_grpc_torch_service;
extern const struct grpc_service grpc_health_service;     /* grpc_health.c */
extern const struct grpc_service grpc_reflection_service; /* reflection.c: grpc.reflection.v1 */
extern const struct grpc_service grpc_reflection_alpha_service; /* ... v1alpha */
/* interop.c: both only under --test-services */
extern const struct grpc_service interop_service;
extern const struct grpc_service interop_unimplemented_service;
extern const struct grpc_service push_grpc_service; /* push_watch.c: penstock.v1.Events */

/* Every static service there is, for dispatch, reflection and health: NULL-terminated. */
extern const struct grpc_service *const grpc_services[];

/* Is it there, by the options? */
bool grpc_service_is_on(const struct grpc_service *service, const struct api *api);

/* penstock.models.<Service>: false, and nothing was done, when the service is in another
 * package; of one that no model is the call is ended here, with what there is. */
bool typed_grpc_handle(struct call *call, const struct api *api);

/* How many watch, on all loops: grpc.health.v1's Watch, and the server's events on every transport. Any
 * thread. */
enum watches { WATCHES_HEALTH, WATCHES_EVENTS, WATCHES_KINDS };
struct grpc_watchers {
    uint64_t max;         /* --watchers-max */
    _Atomic uint64_t now; /* the server may go on ending when this is 0 */
    _Atomic uint64_t of[WATCHES_KINDS];
    _Atomic uint64_t strangers; /* of `now`: who show nothing, where there are rules; half of the places */
    _Atomic uint64_t refused;
};
/* False: there are enough. `x` watches, and is the same when it leaves. */
bool watchers_enter(struct grpc_watchers *watchers, enum watches kind, const struct exchange *x);
void watchers_leave(struct grpc_watchers *watchers, enum watches kind, const struct exchange *x);
MUST_USE enum err_code grpc_watchers_register(struct grpc_watchers *watchers,
                                              struct metrics *metrics, struct err *err);
uint64_t grpc_watchers_refused(const struct grpc_watchers *watchers); /* NULL: 0 */

/* ModelStreamInfer, on all loops (kserve_grpc_stream.c). Any thread. */
struct kserve_streams {
    uint32_t requests_max; /* in flight on one stream: --stream-requests-max */
    bool is_mlserver;      /* --stream-form: whose messages, where the metadata does not say */
    _Atomic uint64_t open, total, requests, pauses;
};
MUST_USE enum err_code kserve_streams_register(struct kserve_streams *streams,
                                               struct metrics *metrics, struct err *err);

/* Is it the path of a method of a service that exists, whatever came to it? */
bool grpc_is_path(struct slice path);

/* Ends or serves the exchange; UNIMPLEMENTED names what exists instead. */
void grpc_dispatch(struct exchange *x, const struct api *api);

/* -- for methods that take one message ----------------------------------------------------------- */

/* Reads the one message of a unary call and waits for the end of the caller's side; then calls
 * `answer`, which sends and ends. None or more than one end the call with a sentence. The message
 * stays as long as the exchange does. */
void grpc_unary(struct call *call, const struct api *api,
                void (*answer)(struct call *call, const struct api *api, struct slice message));
/* What a unary call without a message, or with two, is told. */
void grpc_end_without_message(struct call *call);
void grpc_end_second_message(struct call *call);

/* Sends one message that lies in the exchange's arena, is constant, or is kept by `holder`; ends with
 * success. */
void grpc_answer(struct call *call, struct slice message, struct buf *holder);
/* Ends with a failure about the field of that path (NULL: of none). */
void grpc_end(struct call *call, const struct err *err, const char *field);

#endif
