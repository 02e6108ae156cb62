/* dispatch.c - from a request's head to its handler: Host, Origin, route.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The same for every transport: it sees an exchange, not a connection. What is refused here is
 * answered in the dialect of the path.
 */
#include "serve/internal.h"

#include <stdio.h>

#include "api/grpc.h"
#include "base/text.h"

static const struct slice allow_all = SLICE_LIT("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");

static void add(struct serve_exchange *e, const char *name, struct slice value)
{
    serve_exchange_add(e, slice_of(name), value);
}

/* "allow" lives in the arena, because answers are written later than this returns. */
static struct slice allow_of(struct serve_exchange *e, uint32_t methods)
{
    char text[64];
    struct slice allow = router_allow(methods, text);
    char *copy = arena_strndup(e->x.arena, allow.data, allow.size);

    return copy == NULL ? allow_all : slice_make(copy, allow.size);
}

static void answer_options(struct serve_exchange *e, struct slice allow)
{
    struct exchange *x = &e->x;
    struct slice origin = exchange_header(x, "origin");
    struct slice wanted = exchange_header(x, "access-control-request-headers");

    add(e, "allow", allow);
    if (origin.data != NULL && exchange_header(x, "access-control-request-method").data != NULL) {
        /* Fetch, CORS preflight. The origin was judged before; the header names are the client's
         * own words, and a field value can hold nothing that ends the line. */
        add(e, "access-control-allow-methods", allow);
        if (wanted.size > 0)
            add(e, "access-control-allow-headers", wanted);
        add(e, "access-control-max-age", slice_of("600"));
    }
    exchange_answer(x, 204, NULL, NULL, 0, slice_make(NULL, 0), NULL);
}

COLD static void no_method(struct serve_exchange *e, uint32_t methods)
{
    struct exchange *x = &e->x;
    struct slice allow = allow_of(e, methods);
    struct err err = { 0 };

    if (x->method == METHOD_OPTIONS) {
        answer_options(e, allow);
        return;
    }
    add(e, "allow", allow);
    err_set(&err, E_UNIMPLEMENTED, "%.*s is not possible for %.*s; possible: %.*s",
            (int)MIN(x->method_text.size, (size_t)32), (const char *)x->method_text.data,
            (int)MIN(x->path.size, (size_t)200), (const char *)x->path.data, SLICE_ARG(allow));
    api_fail(x, e->dialect, 405, &err);
}

/* Which call of ours somebody meant who writes other servers' paths: what stands behind the path in
 * an error. */
COLD static void suggest(char *out, size_t size, struct slice path)
{
    static const char *const folders[] = { "/models/", "/v1/models/", "/v2/models/" };
    static const char *const calls[] = { "/predict", ":predict", "/infer", ":infer", "/invoke" };
    struct slice rest = { 0 };

    snprintf(out, size, "; GET / lists what there is");
    for (size_t i = 0; i < COUNT(folders); i++)
        if (slice_starts(path, folders[i]))
            rest = slice_skip(path, strlen(folders[i]));
    struct slice name = slice_first(rest, MIN(slice_find(rest, '/'), slice_find(rest, ':')));
    struct slice call = slice_skip(rest, name.size);
    for (size_t i = 0; i < COUNT(calls); i++)
        if (name.size != 0 && name.size <= 64 && slice_starts(call, calls[i])) {
            snprintf(out, size,
                     "; did you mean POST /models/%.*s:predict, or POST /v2/models/%.*s/infer?",
                     SLICE_ARG(name), SLICE_ARG(name));
            return;
        }
}

/* A page asks before it calls over gRPC-Web. Whatever /package.Service/Method it means: the call
 * itself is then told what there is. */
static bool is_preflight_of_grpc(const struct exchange *x)
{
    struct slice service = slice_skip(x->path, MIN(x->path.size, (size_t)1));
    size_t slash = slice_find(service, '/');

    return exchange_header(x, "access-control-request-method").data != NULL &&
           slash < service.size && slice_find(slice_first(service, slash), '.') < slash;
}

COLD static void no_path(struct serve_exchange *e)
{
    struct exchange *x = &e->x;
    struct err err = { 0 };
    char hint[256];

    if (x->method == METHOD_OPTIONS && slice_is(x->path, "*")) {
        answer_options(e, allow_all);
        return;
    }
    if (x->method == METHOD_OPTIONS && is_preflight_of_grpc(x)) {
        answer_options(e, slice_of("POST, OPTIONS"));
        return;
    }
    if (grpc_is_path(x->path)) {
        struct slice type = exchange_header(x, "content-type");
        err_set(&err, E_INVALID,
                "%.*s is a gRPC method: it takes POST with content-type application/grpc over "
                "HTTP/2 (or application/grpc-web), and this is %.*s with '%.*s'; `penstock call "
                "--grpc` and any gRPC client call it, and POST /models/{model}:predict is for JSON",
                (int)MIN(x->path.size, (size_t)200), (const char *)x->path.data,
                (int)MIN(x->method_text.size, (size_t)32), (const char *)x->method_text.data,
                (int)MIN(type.size, (size_t)80), (const char *)type.data);
        api_fail(x, e->dialect, 415, &err);
        return;
    }
    suggest(hint, sizeof hint, x->path);
    err_set(&err, E_NOT_FOUND, "there is nothing at %.*s%s", (int)MIN(x->path.size, (size_t)200),
            (const char *)x->path.data, hint);
    api_fail(x, e->dialect, 404, &err);
}

/* What browsers and caches must know about who may read the answer. */
static void add_origin(struct serve_exchange *e, enum origin_verdict verdict, struct slice origin)
{
    const struct origin_rules *rules = &e->l->serve->origins;

    if (rules->origins_count == 0)
        return;
    if (!rules->is_any_origin)
        add(e, "vary", slice_of("origin"));
    if (verdict != ORIGIN_ALLOWED)
        return;
    add(e, "access-control-allow-origin", rules->is_any_origin ? slice_of("*") : origin);
    /* gRPC's names for browsers that take no "*"; metadata has any name. */
    add(e, "access-control-expose-headers",
        e->dialect == DIALECT_GRPC ? slice_of("grpc-status, grpc-message, grpc-status-details-bin, "
                                              "grpc-encoding, server-timing, *")
                                   : slice_of("*"));
}

/* What browsers are told of every answer; docs/access.md has them. gRPC's own clients are no
 * browsers. */
static void add_security(struct serve_exchange *e, bool is_grpc)
{
    const struct serve *serve = e->l->serve;

    if (UNLIKELY(serve->hsts[0] != '\0' && e->x.tls != NULL))
        add(e, "strict-transport-security", slice_of(serve->hsts));
    if (is_grpc)
        return;
    add(e, "x-content-type-options", slice_of("nosniff"));
    /* What one caller may read, no cache in between may show to another: x-api-key is no header that
     * caches know of (RFC 9111, 3.5). */
    if (UNLIKELY(access_has_rules(serve->settings.access)))
        add(e, "cache-control", slice_of("no-store"));
}

enum dialect serve_dialect_of(const struct exchange *x)
{
    return grpc_is_call(x) ? DIALECT_GRPC : api_dialect_of_path(x->path);
}

COLD bool serve_takes_any_size(struct serve_exchange *e)
{
    struct exchange *x = &e->x;
    struct router_result found;
    struct err err;

    if (e->match.route != NULL)
        return (e->match.route->methods & ROUTE_ANY_SIZE) != 0;
    return !grpc_is_call(x) &&
           router_find(e->l->serve->router, x->method, x->path, x->arena, &found, &err) ==
               ROUTER_FOUND &&
           (found.match.route->methods & ROUTE_ANY_SIZE) != 0;
}

/* Plain HTTP on a port of TLS: what came with the request has crossed the network in the clear already, but
 * nothing more of it is to. */
COLD static void misdirected(struct serve_exchange *e)
{
    struct exchange *x = &e->x;
    struct err err = { 0 };
    char *location = NULL;

    if (e->l->serve->settings.tls_plain == SERVE_PLAIN_REDIRECT && x->authority.size > 0 &&
        e->dialect != DIALECT_GRPC)
        location = arena_printf(x->arena, "https://%.*s%.*s%s%.*s", SLICE_ARG(x->authority),
                                SLICE_ARG(x->path), x->query.size > 0 ? "?" : "",
                                SLICE_ARG(x->query));
    if (location != NULL) {
        add(e, "location", slice_of(location));
        exchange_answer(x, 308, NULL, NULL, 0, slice_make(NULL, 0), NULL);
        return;
    }
    e->dialect = serve_dialect_of(x);
    err_set(&err, E_PRECONDITION,
            "this port speaks TLS, and the request came without: use https://%.*s%.*s (what it "
            "carried has crossed the network unencrypted)",
            (int)MIN(x->authority.size, (size_t)200), (const char *)x->authority.data,
            (int)MIN(x->path.size, (size_t)200), (const char *)x->path.data);
    api_fail(x, e->dialect, 400, &err);
}

void serve_dispatch(struct serve_exchange *e)
{
    struct exchange *x = &e->x;
    struct serve *serve = e->l->serve;
    struct router_result found;
    struct err err = { 0 };
    struct origin_request asked = {
        .scheme = x->scheme,
        .authority = x->authority,
        .origin = exchange_header(x, "origin"),
        .is_local = e->listener->is_local,
        .is_unix = e->listener->is_unix,
    };

    bool is_grpc = grpc_is_call(x);

    e->dialect = is_grpc ? DIALECT_GRPC : DIALECT_PLAIN;
    if (UNLIKELY(e->conn->is_misdirected)) {
        misdirected(e);
        return;
    }
    enum origin_verdict verdict = origin_judge(&serve->origins, &asked, &err);
    if (UNLIKELY(verdict == ORIGIN_REFUSED)) {
        stat_add(&e->l->stats.hosts_refused, 1);
        e->dialect = serve_dialect_of(x);
        api_fail(x, e->dialect, 403, &err);
        return;
    }
    add_origin(e, verdict, asked.origin);
    add_security(e, is_grpc);
    if (UNLIKELY(serve_identify(e, &err) != OK)) {
        e->dialect = serve_dialect_of(x);
        api_fail(x, e->dialect, 0, &err);
        return;
    }
    if (UNLIKELY(verdict == ORIGIN_ALLOWED && serve->origins.is_any_origin &&
                 caller_is_ambient(x->caller))) {
        err_set(&err, E_PERMISSION,
                "pages of every origin may call (--cors-origin *), so none may by a certificate, which "
                "a browser sends without being asked; name the origins");
        api_note_refused(x, err.text);
        e->dialect = serve_dialect_of(x);
        api_fail(x, e->dialect, 403, &err);
        return;
    }
    if (is_grpc) {
        grpc_dispatch(x, serve->settings.api);
        return;
    }
    enum router_answer answer =
        router_find(serve->router, x->method, x->path, x->arena, &found, &err);
    if (LIKELY(answer == ROUTER_FOUND)) {
        e->match = found.match;
        e->match.api = serve->settings.api;
        e->dialect = e->match.route->dialect;
        x->note.route = slice_of(e->match.route->pattern);
        const struct route *route = e->match.route;
        bool is_asked = route->right != ACCESS_OPEN &&
                        ((route->methods & ROUTE_REFUSES) == 0 || caller_has_rules(x->caller));
        if (UNLIKELY(is_asked &&
                     api_may(x, route->right, slice_of(route->group), slice_make("", 0), &err) !=
                         OK)) {
            api_fail(x, e->dialect, 0, &err);
            return;
        }
        if (UNLIKELY(!is_asked && route->right == ACCESS_ADMIN))
            api_note_refused(x, api_not_built);
        route->handle(x, &e->match);
        return;
    }
    e->dialect = api_dialect_of_path(x->path);
    switch (answer) {
    case ROUTER_NO_METHOD: no_method(e, found.methods); break;
    case ROUTER_NO_PATH: no_path(e); break;
    default: api_fail(x, e->dialect, 400, &err);
    }
}
