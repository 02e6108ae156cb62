/* health.c - /healthz, /readyz and the page at /. SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <stdio.h>

#include "api/metrics_page.h"
#include "api/push.h"
#include "api/reply.h"
#include "api/typed.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "repository/repository.h"

static const char json_type[] = "application/json";

/* -- health -------------------------------------------------------------------------------------- */

static void healthz(struct exchange *x, const struct route_match *match UNUSED)
{
    exchange_answer(x, 200, "text/plain; charset=utf-8", NULL, 0, slice_of("ok\n"), NULL);
}

static void readyz(struct exchange *x, const struct route_match *match)
{
    const struct api *api = match->api;
    struct repository_snapshot snapshot;
    bool is_draining = api_is_stopping(api);
    bool is_ready = !is_draining && (!api->is_strict_ready || repository_is_ready(api->repository));
    bool is_first = true;
    struct text out;

    text_init(&out, REPLY_BYTES_MAX);
    text_str(&out, is_ready ? "{\"ready\":true" : "{\"ready\":false");
    if (is_draining)
        text_str(&out, ",\"draining\":true");
    text_str(&out, ",\"not_ready\":[");
    repository_snapshot_take(api->repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        if (entry->state == MODEL_READY ||
            !api_shows_model(x, slice_of("models"), slice_of(entry->name)))
            continue;
        text_str(&out, is_first ? "{\"name\":" : ",{\"name\":");
        is_first = false;
        text_json(&out, slice_of(entry->name));
        text_str(&out, ",\"version\":");
        text_json(&out, slice_of(entry->version));
        text_str(&out, ",\"state\":");
        text_json(&out, slice_of(model_state_name(entry->state)));
        text_str(&out, ",\"reason\":");
        text_json(&out, slice_of(entry->reason));
        text_byte(&out, '}');
    }
    repository_snapshot_give(&snapshot);
    text_str(&out, "]}");
    api_answer_text(x, DIALECT_PLAIN, is_ready ? 200 : 503, json_type, NULL, 0, &out);
}

/* -- the page --------------------------------------------------------------------------------------- */

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
    "<title>Penstock</title><style>"
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;"
    "color:#1b1f24;background:#fff}"
    "h1{font-size:1.6rem}h2{font-size:1.15rem;margin:0}a{color:#0b57d0}"
    "article{border:1px solid #c9d1d9;border-radius:8px;padding:1rem;margin:1rem 0}"
    "pre{background:#f3f5f7;border-radius:6px;padding:.6rem;white-space:pre-wrap;"
    "overflow-wrap:anywhere;margin:.6rem 0}"
    ".state{font-size:.8rem;border-radius:1rem;padding:.1rem .6rem;background:#d7f0dd;"
    "color:#0f5323;font-weight:400}.bad{background:#fbdcdc;color:#7d1212}p{margin:.4rem 0}"
    "@media (prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}"
    "a{color:#7cb7ff}article{border-color:#3d444d}pre{background:#161b22}"
    ".state{background:#12381f;color:#a6e8b8}.bad{background:#4a1515;color:#ffc9c9}}"
    "</style></head><body>";

static void put_link(struct text *out, const char *before, const char *name, const char *after,
                     const char *words)
{
    text_str(out, "<a href=\"");
    text_str(out, before);
    typed_put_segment(out, slice_of(name)); /* leaves nothing that HTML would read */
    text_str(out, after);
    text_str(out, "\">");
    text_str(out, words);
    text_str(out, "</a>");
}

static void put_model(struct text *out, const struct exchange *x,
                      const struct repository_entry *entry)
{
    const struct typed_plan *plan = NULL;
    struct err err = { 0 };
    struct text curl;

    if (entry->model != NULL && typed_plan_of(entry->model, &plan, &err) != OK)
        plan = NULL;
    text_str(out, "<article><h2>");
    text_html(out, slice_of(entry->name));
    text_str(out, " <span class=\"state");
    text_str(out, entry->state == MODEL_READY ? "\">" : " bad\">");
    text_html(out, slice_of(model_state_name(entry->state)));
    text_str(out, "</span></h2>");
    if (plan != NULL && plan->signature->title != NULL) {
        text_str(out, "<p><b>");
        text_html(out, slice_of(plan->signature->title));
        text_str(out, "</b></p>");
    }
    if (plan != NULL && plan->signature->description != NULL) {
        text_str(out, "<p>");
        text_html(out, slice_of(plan->signature->description));
        text_str(out, "</p>");
    }
    if (entry->reason[0] != '\0') {
        text_str(out, "<p>");
        text_html(out, slice_of(entry->reason));
        text_str(out, "</p>");
    }
    if (plan != NULL) {
        text_init(&curl, REPLY_BYTES_MAX);
        typed_put_curl(&curl, x, entry->name, plan);
        if (curl.size != 0) {
            text_str(out, "<pre>");
            text_html(out, text_slice(&curl));
            size_t before = curl.size;
            typed_put_grpcurl(&curl, x, plan);
            if (curl.size != before) {
                text_byte(out, '\n');
                text_html(out, slice_skip(text_slice(&curl), before));
            }
            text_str(out, "</pre>");
        }
        out->has_failed |= text_failed(&curl);
        text_deinit(&curl);
        text_str(out, "<p>version ");
        text_html(out, slice_of(entry->version));
        text_str(out, " &middot; ");
        put_link(out, "/models/", entry->name, "", "fields");
        text_str(out, " &middot; ");
        put_link(out, "/models/", entry->name, "/contract.proto", "contract.proto");
        text_str(out, " &middot; ");
        put_link(out, "/v2/models/", entry->name, "", "tensors");
        text_str(out, " &middot; ");
        put_link(out, "/v2/models/", entry->name, "/config", "configuration");
        text_str(out, " &middot; ");
        put_link(out, "/v2/models/", entry->name, "/stats", "statistics");
        text_str(out, "</p>");
    }
    text_str(out, "</article>");
}

static void put_page(struct text *out, const struct exchange *x, const struct api *api)
{
    struct repository_snapshot snapshot;
    uint32_t shown = 0;

    text_put(out, page_head, sizeof page_head - 1);
    text_str(out, "<h1>Penstock</h1><p>Version ");
    text_html(out, slice_of(api->server_version));
    text_str(out, ". Models over REST and gRPC at this address; every example works when "
                  "pasted into a shell");
    if (x->caller != NULL && !caller_is_anonymous(x->caller))
        text_str(out, " that has your key: <code>export PENSTOCK_KEY=...</code>");
    else if (x->caller != NULL && caller_has_rules(x->caller))
        text_str(out, "; what needs a key: <code>-H \"authorization: Bearer $PENSTOCK_KEY\"</code>");
    if (exchange_is_https(x))
        text_str(out, ". Where this machine does not trust the server's authority: "
                      "<code>--cacert FILE</code> (of <code>grpcurl</code>: <code>-cacert</code>)");
    text_str(out, ".</p>");
    repository_snapshot_take(api->repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        if (snapshot.entries[i].model != NULL && !snapshot.entries[i].is_default)
            continue;
        if (!api_shows_model(x, slice_of("models"), slice_of(snapshot.entries[i].name)))
            continue;
        put_model(out, x, &snapshot.entries[i]);
        shown++;
    }
    repository_snapshot_give(&snapshot);
    if (shown == 0)
        text_str(out, "<p>No models.</p>");
    text_str(out, "<p>All models: <a href=\"/models\">/models</a> &middot; "
                  "<a href=\"/v2\">/v2</a> &middot; <a href=\"/v2/models/stats\">statistics</a> "
                  "&middot; <a href=\"/metrics\">/metrics</a> &middot; "
                  "<a href=\"/readyz\">/readyz</a> &middot; <a href=\"/events\">/events</a>");
    if (api->push != NULL) { /* a name of letters, digits and the like */
        text_str(out, "</p><p>node ");
        text_str(out, push_node(api->push));
    }
    text_str(out, "</p></body></html>\n");
}

/* A browser names text/html; who asks for JSON and not for HTML gets JSON. */
static bool wants_json(struct slice accept)
{
    bool has_json = false, has_html = false;

    while (accept.size != 0) {
        size_t comma = slice_find(accept, ',');
        struct slice item = slice_first(accept, comma);
        struct slice type = slice_trim(slice_first(item, slice_find(item, ';')));
        has_json |= slice_is_nocase(type, "application/json");
        has_html |= slice_is_nocase(type, "text/html");
        accept = slice_skip(accept, MIN(comma + 1, accept.size));
    }
    return has_json && !has_html;
}

static void home(struct exchange *x, const struct route_match *match)
{
    static const struct header headers[] = {
        { SLICE_LIT("content-security-policy"),
          SLICE_LIT("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
                    "form-action 'none'; frame-ancestors 'none'") },
        { SLICE_LIT("referrer-policy"), SLICE_LIT("no-referrer") },
        { SLICE_LIT("vary"), SLICE_LIT("accept") },
    };
    const struct api *api = match->api;
    struct text out;

    text_init(&out, REPLY_BYTES_MAX);
    if (wants_json(exchange_header(x, "accept"))) {
        text_str(&out, "{\"name\":");
        text_json(&out, slice_of(api->server_name));
        text_str(&out, ",\"version\":");
        text_json(&out, slice_of(api->server_version));
        text_str(&out, ",\"links\":{\"models\":\"/models\",\"kserve\":\"/v2\",\"metrics\":"
                       "\"/metrics\",\"health\":\"/healthz\",\"ready\":\"/readyz\"}}");
        api_answer_text(x, DIALECT_TYPED, 200, json_type, &headers[COUNT(headers) - 1], 1,
                        &out); /* vary */
        return;
    }
    put_page(&out, x, api);
    api_answer_text(x, DIALECT_PLAIN, 200, "text/html; charset=utf-8", headers, COUNT(headers),
                    &out);
}

#define GET (1u << METHOD_GET)

static const struct route routes[] = {
    { GET, "/", home, DIALECT_PLAIN, ACCESS_READ, "server" },
    { GET, "/healthz", healthz, DIALECT_PLAIN, ACCESS_OPEN, "server" },
    { GET, "/readyz", readyz, DIALECT_PLAIN, ACCESS_OPEN, "server" },
    { GET, "/metrics", metrics_page, DIALECT_PLAIN, ACCESS_READ, "metrics" },
    { GET, "/metrics/", metrics_page, DIALECT_PLAIN, ACCESS_READ, "metrics" },
};

const struct route_table health_routes = { routes, COUNT(routes) };
