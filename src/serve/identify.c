/* identify.c - who calls: from an exchange's headers to its caller. SPDX-License-Identifier: Apache-2.0
 *
 * A key never comes in the query: URLs are written into logs, histories and referrers by everybody on the
 * way. Pages cannot set headers on a WebSocket, so there it may come as one more subprotocol, which is
 * never the one that is chosen.
 */
#include "access/access.h"
#include "api/route.h"
#include "base/budget.h"
#include "call/websocket.h"
#include "io/env.h"
#include "serve/internal.h"

/* The subprotocols that carry a credential: RFC 6455 4.1, a list, perhaps over several headers. */
COLD static void look_at_protocols(struct access_credentials *c, struct slice list)
{
    static const char prefix[] = WEBSOCKET_BEARER;

    while (list.size > 0) {
        struct slice one = slice_first(list, slice_find(list, ','));
        list = slice_skip(list, MIN(one.size + 1, list.size));
        one = slice_trim(one);
        if (!slice_starts(one, prefix))
            continue;
        c->bearers++;
        c->bearer = slice_skip(one, sizeof prefix - 1);
    }
}

static void read_headers(struct access_credentials *c, const struct exchange *x)
{
    for (uint32_t i = 0; i < x->headers_count; i++) {
        const struct header *header = &x->headers[i];
        switch (header->name.size) {
        case 9:
            if (memcmp(header->name.data, "x-api-key", 9) == 0) {
                c->api_key = header->value;
                c->api_keys++;
            }
            break;
        case 13:
            if (memcmp(header->name.data, "authorization", 13) == 0) {
                c->authorization = header->value;
                c->authorizations++;
            }
            break;
        case 22:
            if (x->tunnel.size > 0 &&
                memcmp(header->name.data, "sec-websocket-protocol", 22) == 0)
                look_at_protocols(c, header->value);
            break;
        default: break;
        }
    }
}

HOT enum err_code serve_identify(struct serve_exchange *e, struct err *err)
{
    struct exchange *x = &e->x;
    struct env *env = e->l->serve->env;
    struct access *access = e->l->serve->settings.access;
    struct access_credentials credentials = { .certificate = x->certificate };

    if (LIKELY(!access_has_rules(access)))
        return access_identify(access, &credentials, 0, &x->caller, err);
    /* A page that asks whether it may call shows no credentials (Fetch, 4.8): it is nobody, whatever came
     * along, and its origin was judged. */
    if (x->method == METHOD_OPTIONS)
        credentials.certificate = NULL;
    else
        read_headers(&credentials, x);
    if (UNLIKELY(access_identify(access, &credentials, env->wall_ns(env), &x->caller, err) != OK)) {
        /* A probe with an old key still hears whether the server lives: api_may refuses the rest. */
        api_note_refused(x, err->text);
        x->caller =
            err->code == E_UNAUTHENTICATED ? access_refused(access, &credentials, err) : NULL;
        return x->caller != NULL ? OK : err->code;
    }
    struct budget *budget = tenant_budget(caller_tenant(x->caller));
    if (budget != NULL)
        x->budget = budget;
    return OK;
}
