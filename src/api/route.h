/* route.h - what serve's router is made of, and what a handler is given.
 *
 * Patterns are literal segments and {name} for one segment; "{model}:predict" is a segment with a
 * literal end. Parameters are percent-decoded once, in the exchange's arena, and are UTF-8 without
 * control bytes (else the router answers 400 before any handler). Matching is exact and
 * case-sensitive, no trailing slash. Literal segments win over {names}.
 */
#ifndef API_ROUTE_H
#define API_ROUTE_H

#include <stdatomic.h>

#include "access/access.h"
#include "call/grpc.h"
#include "call/websocket.h"
#include "exchange/exchange.h"

struct engine;
struct grpc_watchers;
struct model;
struct metrics;
struct push;
struct kserve_streams;
struct repository;
struct aside;
struct resumables;
struct session;
struct uploads;

/* What handlers may use. One per server; read-only after start; lives as long as the loops. */
struct api {
    struct engine *engine;
    struct repository *repository;
    struct metrics *metrics;
    bool metrics_unused; /* --metrics-unused: histograms that have counted nothing, too */
    struct aside *aside;       /* where large bodies are read; NULL: on their loop */
    size_t aside_bytes;        /* of these and more: --aside-from */
    size_t body_bytes_max;     /* --max-body; Triton's --http-max-input-size */
    struct grpc_settings grpc; /* what every call begins with: --max-message, compression */
    uint64_t stream_heartbeat_ns; /* --stream-heartbeat; 0: none */
    bool server_timing; /* --server-timing: the header (gRPC: trailing metadata) of every answer */
    bool is_strict_ready;           /* --strict-readiness: every model counts */
    bool has_reflection;            /* --reflection */
    bool has_test_services;         /* --test-services */
    struct websocket_settings websocket; /* what every WebSocket begins with */
    struct kserve_streams *streams; /* of ModelStreamInfer; NULL: tests */
    struct grpc_watchers *watchers; /* of health and events; NULL only where nobody watches */
    struct push *push;              /* the server's events; likewise */
    struct resumables *resumables;  /* streams that outlive their connection; NULL: none do */
    _Atomic bool *is_draining;
    _Atomic bool *is_replaced; /* another program answers at these addresses by now; NULL: never */
    struct uploads *uploads;
    const char *server_name; /* "penstock" */
    const char *server_version;
};

/* Readiness is gone: the server stops, and nobody else answers in its place. */
static inline bool api_is_stopping(const struct api *api)
{
    return atomic_load_explicit(api->is_draining, memory_order_relaxed) &&
           (api->is_replaced == NULL ||
            !atomic_load_explicit(api->is_replaced, memory_order_relaxed));
}

enum { ROUTE_PARAMS_MAX = 4 };

struct route_match {
    const struct route *route;
    struct slice params[ROUTE_PARAMS_MAX]; /* in the order of the pattern */
    uint32_t params_count;
    const struct api *api;
};

/* How errors below the handler (404 for a path under this prefix, 405, 400 of the router) look. */
enum dialect { DIALECT_PLAIN, DIALECT_KSERVE, DIALECT_TYPED, DIALECT_GRPC };

enum {
    ROUTE_ANY_SIZE = 1 << 30, /* its handler has a limit of its own in place of --max-body */
    /* Its handler only says why this is not possible: everybody may hear that where there are no rules. */
    ROUTE_REFUSES = 1 << 29
};

struct route {
    uint32_t methods;    /* bits 1 << enum exchange_method; GET serves HEAD too; and the above */
    const char *pattern; /* "/v2/models/{model}/infer" */
    void (*handle)(struct exchange *x, const struct route_match *match);
    enum dialect dialect;
    /* What its caller must be allowed (access/access.h), asked by dispatch before the handler. Not said:
     * ACCESS_OPEN - so every row says it, and a test lists those that are open. */
    enum access_right right;
    const char *group; /* "v2", "models", "metrics" ...: as docs/access.md names it */
};

struct route_table {
    const struct route *routes;
    uint32_t count;
};
/* The dialects' tables: each in its own file. */
extern const struct route_table kserve_rest_routes; /* /v2... */
extern const struct route_table typed_routes;       /* /models... */
extern const struct route_table health_routes;      /* /healthz /readyz /metrics / */
extern const struct route_table echo_routes;        /* /echo */
extern const struct route_table push_routes;        /* /events, /models/{model}/events */
extern const struct route_table resume_routes;      /* /streams/{id} */

/* Every way to a model goes through this: may the caller of `x` do that with it (caller_may), and is there a
 * ready version (engine_want_model)? Takes a reference for the caller of this. */
MUST_USE enum err_code api_want_model(struct exchange *x, const struct api *api,
                                      enum access_right right, struct slice group,
                                      struct model **ret, struct slice name, struct slice version,
                                      struct err *err);

/* The same question about a model that is not run now, or about none (`model` empty). */
MUST_USE enum err_code api_may(struct exchange *x, enum access_right right,
                               struct slice group, struct slice model, struct err *err);
/* May the caller of `x` know of it? For whoever lists models. */
bool api_shows_model(const struct exchange *x, struct slice group, struct slice name);
/* May the caller who began a session go on with it? Asked for each of its messages. `x` carries them. */
MUST_USE enum err_code api_may_still(struct exchange *x, const struct session *session,
                                     struct err *err);
/* For the logs: this exchange asked for what it may not have, and was told `why`. The first is kept. */
void api_note_refused(struct exchange *x, const char *why);
extern const char api_not_built[]; /* why, of a call that administers and of which there is only the name */

/* Answers an error in the form of the dialect: KServe {"error":"..."}; typed
 * {"error":{"code":"INVALID_ARGUMENT","message":"..."}} ; plain text; gRPC a Trailers-Only status
 * (200 whatever `status` says). `status` 0: from the code.
 * Adds retry-after when err says so. Drops whatever was not yet answered. */
void api_fail(struct exchange *x, enum dialect dialect, uint16_t status, const struct err *err);
/* The dialect a path would belong to: for 404s. */
enum dialect api_dialect_of_path(struct slice path);

#endif
