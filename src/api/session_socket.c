/* session_socket.c - /models/{model}/stream: Session over a WebSocket. SPDX-License-Identifier: Apache-2.0 */
#include "api/reply.h"
#include "api/session_call.h"
#include "api/session_internal.h"
#include "api/typed.h"
#include "call/websocket.h"

enum { EXAMPLE_MAX = 8 }; /* elements of a tensor that are shown */

static const char proto_protocol[] = "penstock.v1.proto";
static const char *const protocols[] = { "penstock.v1.json", proto_protocol, NULL };

/* A first message that such a model takes, as far as it is known without a value of anybody's. */
static void put_message(struct text *out, const struct model *model)
{
    const struct signature *s = model_signature(model);
    bool is_first = true;

    text_str(out, "{\"inputs\":{");
    for (uint32_t i = 0; i < s->inputs_count; i++) {
        const struct signature_tensor *t = &s->inputs[i];
        if (t->is_hidden || t->is_optional || t->is_state || t->is_constant)
            continue;
        text_str(out, is_first ? "" : ",");
        is_first = false;
        text_json(out, slice_of(t->name));
        uint64_t count = 1;
        for (uint32_t d = 0; d < t->rank; d++)
            count *= t->dims[d] > 0 ? (uint64_t)MIN(t->dims[d], (int64_t)EXAMPLE_MAX + 1) : 1;
        text_str(out, ":[");
        for (uint64_t n = 0; n < MIN(count, (uint64_t)EXAMPLE_MAX); n++) {
            text_str(out, n == 0 ? "" : ",");
            text_str(out, t->dtype == PENSTOCK_BYTES  ? "\"text\""
                          : t->dtype == PENSTOCK_BOOL ? "true"
                                                      : "1");
        }
        text_str(out, count > EXAMPLE_MAX ? ",...]" : "]");
    }
    text_str(out, "}}");
}

/* What comes without asking for a WebSocket is told how to. */
static COLD void tell_how(struct exchange *x, const struct model *model)
{
    static const struct header upgrade = { SLICE_LIT("upgrade"), SLICE_LIT("websocket") };
    bool is_tls = exchange_is_https(x);
    struct text body, url;

    text_init_arena(&url, x->arena, 128);
    text_str(&url, is_tls ? "wss://" : "ws://");
    text_slice_put(&url, x->authority);
    text_slice_put(&url, x->path);
    text_init_arena(&body, x->arena, 512);
    struct text line;
    text_init_arena(&line, x->arena, 512);
    text_str(&line, "this is a stream: open it as a WebSocket, and send messages such as ");
    put_message(&line, model);
    text_str(&body, "{\"error\":{\"code\":\"FAILED_PRECONDITION\",\"message\":");
    text_json(&body, text_slice(&line));
    text_str(&body, ",\"examples\":[");
    text_init_arena(&line, x->arena, 256);
    text_str(&line, "python -m websockets ");
    text_slice_put(&line, text_slice(&url));
    text_json(&body, text_slice(&line));
    text_init_arena(&line, x->arena, 256);
    text_str(&line, "websocat ");
    text_slice_put(&line, text_slice(&url));
    text_byte(&body, ',');
    text_json(&body, text_slice(&line));
    text_init_arena(&line, x->arena, 256);
    text_str(&line, "new WebSocket(\"");
    text_slice_put(&line, text_slice(&url));
    text_str(&line, "\")");
    text_byte(&body, ',');
    text_json(&body, text_slice(&line));
    text_str(&body, "]}}\n");
    if (text_failed(&body)) {
        struct err err = { 0 };
        err_set(&err, E_EXHAUSTED, "no memory for the answer; retry later");
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    exchange_answer(x, 426, "application/json", &upgrade, 1, text_slice(&body), NULL);
}

static void stream(struct exchange *x, const struct route_match *match)
{
    CLEANUP(model_unref) struct model *model = NULL;
    struct slice version = match->params_count > 1 ? match->params[1] : slice_make("", 0);
    const char *protocol = NULL;
    struct err err = { 0 };

    /* A model that is not there is said in HTTP, before there is a WebSocket. */
    if (api_want_model(x, match->api, ACCESS_INFER, slice_of("models"), &model, match->params[0],
                       version, &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    if (!websocket_is_asked(x)) {
        tell_how(x, model);
        return;
    }
    struct call *call = websocket_accept(x, &match->api->websocket, protocols, &protocol);
    if (call != NULL)
        session_begin_socket(call, match->api, match->params[0], version,
                             protocol == NULL || strcmp(protocol, proto_protocol) != 0);
}

#define GET (1u << METHOD_GET)

static const struct route routes[] = {
    { GET, "/models/{model}/stream", stream, DIALECT_TYPED, ACCESS_INFER, "models" },
    { GET, "/models/{model}/versions/{version}/stream", stream, DIALECT_TYPED, ACCESS_INFER, "models" },
};

const struct route_table session_routes = { routes, COUNT(routes) };
