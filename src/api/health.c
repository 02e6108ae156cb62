/* health.c - /healthz, /readyz, /metrics and the page at /.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The exposition format wants every sample of a family together, so families are walked outside and
 * models inside; the snapshot is taken once for all of them.
 */
#include <stdatomic.h>
#include <stdio.h>

#include "api/push.h"
#include "api/reply.h"
#include "api/typed.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "repository/repository.h"
#include "telemetry/metrics.h"

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
    bool is_draining = atomic_load(api->is_draining);
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
        if (entry->state == MODEL_READY)
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

/* -- metrics of models ------------------------------------------------------------------------------ */

static uint64_t load(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

enum family_value {
    VALUE_SUCCESS,
    VALUE_INFERENCES,
    VALUE_EXECUTIONS,
    VALUE_REQUEST_US,
    VALUE_QUEUE_US,
    VALUE_INPUT_US,
    VALUE_INFER_US,
    VALUE_OUTPUT_US,
    VALUE_PENDING,
    VALUE_LOAD_SECONDS,
    VALUE_RUNNING,
    VALUE_INLINE,
    VALUE_QUEUED,
    VALUE_CANCELLED,
    VALUE_WASTED,
    VALUE_RESPONSES,
    VALUE_MERGED,
    VALUE_PAUSED,
    VALUE_PAUSED_SECONDS,
};

static const struct family {
    const char *name, *type, *help;
    enum family_value value;
} families[] = {
    /* Triton's, so that its dashboards work unchanged. */
    { "nv_inference_request_success", "counter", "Number of successful inference requests.",
      VALUE_SUCCESS },
    { "nv_inference_count", "counter", "Number of inferences performed (batch elements).",
      VALUE_INFERENCES },
    { "nv_inference_exec_count", "counter", "Number of model executions performed.",
      VALUE_EXECUTIONS },
    { "nv_inference_request_duration_us", "counter",
      "Cumulative inference request duration in microseconds.", VALUE_REQUEST_US },
    { "nv_inference_queue_duration_us", "counter",
      "Cumulative inference queuing duration in microseconds.", VALUE_QUEUE_US },
    { "nv_inference_compute_input_duration_us", "counter",
      "Cumulative compute input duration in microseconds.", VALUE_INPUT_US },
    { "nv_inference_compute_infer_duration_us", "counter",
      "Cumulative compute inference duration in microseconds.", VALUE_INFER_US },
    { "nv_inference_compute_output_duration_us", "counter",
      "Cumulative inference compute output duration in microseconds.", VALUE_OUTPUT_US },
    { "nv_inference_pending_request_count", "gauge", "Number of requests that wait for the model.",
      VALUE_PENDING },
    { "nv_model_load_duration_secs", "gauge", "Model load time in seconds.", VALUE_LOAD_SECONDS },
    /* Our own. */
    { "penstock_model_running", "gauge", "Requests that the model works on now.", VALUE_RUNNING },
    { "penstock_model_runs_inline_total", "counter", "Runs on the loop that read the request.",
      VALUE_INLINE },
    { "penstock_model_runs_queued_total", "counter", "Runs on an instance's own thread.",
      VALUE_QUEUED },
    { "penstock_model_cancelled_total", "counter",
      "Requests whose caller left, or whose time was over, before the end.", VALUE_CANCELLED },
    { "penstock_wasted_compute_seconds_total", "counter",
      "Run time of requests that nobody waited for any more.", VALUE_WASTED },
    { "penstock_model_responses_total", "counter",
      "Responses given to callers, each of a stream's too.", VALUE_RESPONSES },
    { "penstock_stream_merged_total", "counter",
      "Responses that newer ones took the place of, as their readers were slow (when_slow).",
      VALUE_MERGED },
    { "penstock_stream_paused_total", "counter",
      "Times that a slow reader's stream had no credit left for its model.", VALUE_PAUSED },
    { "penstock_stream_paused_seconds_total", "counter",
      "Time until those readers took some again.", VALUE_PAUSED_SECONDS },
};

static uint64_t gauge(const _Atomic int64_t *value)
{
    int64_t now = atomic_load_explicit(value, memory_order_relaxed);

    return now < 0 ? 0 : (uint64_t)now;
}

static void put_family_sample(struct text *out, const struct family *f, const char *labels,
                              struct model *model)
{
    struct model_stats sum;
    const struct model_stats *s = model_stats(model, &sum);
    uint64_t value = 0;

    switch (f->value) {
    case VALUE_SUCCESS: value = load(&s->success.count); break;
    case VALUE_INFERENCES: value = load(&s->inference_count); break;
    case VALUE_EXECUTIONS: value = load(&s->execution_count); break;
    case VALUE_REQUEST_US: value = load(&s->success.ns) / NS_PER_US; break;
    case VALUE_QUEUE_US: value = load(&s->queue.ns) / NS_PER_US; break;
    case VALUE_INPUT_US: value = load(&s->compute_input.ns) / NS_PER_US; break;
    case VALUE_INFER_US: value = load(&s->compute_infer.ns) / NS_PER_US; break;
    case VALUE_OUTPUT_US: value = load(&s->compute_output.ns) / NS_PER_US; break;
    case VALUE_PENDING: value = gauge(&s->pending); break;
    case VALUE_RUNNING: value = gauge(&s->running); break;
    case VALUE_INLINE: value = load(&s->runs_inline); break;
    case VALUE_QUEUED: value = load(&s->runs_queued); break;
    case VALUE_CANCELLED: value = load(&s->cancelled_total); break;
    case VALUE_RESPONSES: value = load(&s->responses); break;
    case VALUE_MERGED: value = load(&s->merged_total); break;
    case VALUE_PAUSED: value = load(&s->paused_total); break;
    case VALUE_LOAD_SECONDS:
        metrics_sample_f64(out, f->name, labels, (double)model_load_ns(model) / 1e9);
        return;
    case VALUE_WASTED:
        metrics_sample_f64(out, f->name, labels, (double)load(&s->wasted_compute_ns) / 1e9);
        return;
    case VALUE_PAUSED_SECONDS:
        metrics_sample_f64(out, f->name, labels, (double)load(&s->paused_ns) / 1e9);
        return;
    }
    metrics_sample_u64(out, f->name, labels, value);
}

/* model="..",version=".." and one more label; NUL-terminated in `room`, which is emptied first. */
static const char *labels_of(struct text *room, const struct repository_entry *entry,
                             const char *more, const char *value)
{
    room->size = 0;
    metrics_label(room, "model", slice_of(entry->name), true);
    metrics_label(room, "version", slice_of(entry->version), false);
    if (more != NULL && value != NULL)
        metrics_label(room, more, slice_of(value), false);
    return text_cstr(room);
}

static void put_failures(struct text *out, struct text *labels,
                         const struct repository_snapshot *snapshot)
{
    static const char name[] = "nv_inference_request_failure";
    static const char *const reasons[FAIL_REASONS] = { [FAIL_REJECTED] = "REJECTED",
                                                       [FAIL_CANCELED] = "CANCELED",
                                                       [FAIL_BACKEND] = "BACKEND",
                                                       [FAIL_OTHER] = "OTHER" };

    metrics_family(out, name, "counter", "Number of failed inference requests by reason.");
    for (uint32_t i = 0; i < snapshot->count; i++) {
        const struct repository_entry *entry = &snapshot->entries[i];
        struct model_stats sum;
        if (entry->model == NULL)
            continue;
        for (size_t k = 0; k < FAIL_REASONS; k++)
            metrics_sample_u64(out, name, labels_of(labels, entry, "reason", reasons[k]),
                               load(&model_stats(entry->model, &sum)->failures[k]));
    }
}

static void put_histogram(struct text *out, struct text *labels,
                          const struct repository_entry *entry, const char *name, const char *stage,
                          const struct stat_histogram *h)
{
    char family[96];
    uint64_t count = 0;

    snprintf(family, sizeof family, "%s_bucket", name);
    for (size_t i = 0; i < STAT_BUCKETS; i++) {
        char bound[32] = "+Inf";
        if (i < STAT_BUCKETS - 1)
            snprintf(bound, sizeof bound, "%g", stat_bucket_seconds[i]);
        count += load(&h->buckets[i]);
        labels_of(labels, entry, stage != NULL ? "stage" : NULL, stage);
        metrics_label(labels, "le", slice_of(bound), false);
        metrics_sample_u64(out, family, text_cstr(labels), count);
    }
    const char *plain = labels_of(labels, entry, stage != NULL ? "stage" : NULL, stage);
    snprintf(family, sizeof family, "%s_sum", name);
    metrics_sample_f64(out, family, plain, (double)load(&h->sum_ns) / 1e9);
    snprintf(family, sizeof family, "%s_count", name);
    metrics_sample_u64(out, family, plain, count);
}

static void put_histograms(struct text *out, struct text *labels,
                           const struct repository_snapshot *snapshot)
{
    static const char total[] = "penstock_request_seconds", stages[] = "penstock_stage_seconds",
                      cancel[] = "penstock_cancel_seconds";
    struct model_stats sum;

    metrics_family(
        out, total, "histogram",
        "Time of successful requests from the first byte decoded to the end of the run.");
    for (uint32_t i = 0; i < snapshot->count; i++)
        if (snapshot->entries[i].model != NULL)
            put_histogram(out, labels, &snapshot->entries[i], total, NULL,
                          &model_stats(snapshot->entries[i].model, &sum)->total);
    metrics_family(out, cancel, "histogram",
                   "Time from when nobody waited for a run any more to its end.");
    for (uint32_t i = 0; i < snapshot->count; i++)
        if (snapshot->entries[i].model != NULL)
            put_histogram(out, labels, &snapshot->entries[i], cancel, NULL,
                          &model_stats(snapshot->entries[i].model, &sum)->cancel);
    metrics_family(out, stages, "histogram", "Time of each stage of a request.");
    for (uint32_t i = 0; i < snapshot->count; i++)
        for (size_t k = 0; snapshot->entries[i].model != NULL && k < STAGES; k++)
            put_histogram(out, labels, &snapshot->entries[i], stages, stage_names[k],
                          &model_stats(snapshot->entries[i].model, &sum)->stages[k]);
}

static void put_models(struct text *out, struct repository *repository)
{
    struct repository_snapshot snapshot;
    struct text labels;

    repository_snapshot_take(repository, &snapshot);
    text_init(&labels, 64 << 10);
    metrics_family(out, "penstock_model_ready", "gauge", "1 when the model version can be called.");
    for (uint32_t i = 0; i < snapshot.count; i++)
        metrics_sample_u64(out, "penstock_model_ready",
                           labels_of(&labels, &snapshot.entries[i], NULL, NULL),
                           snapshot.entries[i].state == MODEL_READY);
    for (size_t k = 0; k < COUNT(families); k++) {
        metrics_family(out, families[k].name, families[k].type, families[k].help);
        for (uint32_t i = 0; i < snapshot.count; i++)
            if (snapshot.entries[i].model != NULL)
                put_family_sample(out, &families[k],
                                  labels_of(&labels, &snapshot.entries[i], NULL, NULL),
                                  snapshot.entries[i].model);
    }
    put_failures(out, &labels, &snapshot);
    put_histograms(out, &labels, &snapshot);
    out->has_failed |= text_failed(&labels);
    text_deinit(&labels);
    repository_snapshot_give(&snapshot);
}

static void metrics_page(struct exchange *x, const struct route_match *match)
{
    struct text out;

    text_init(&out, REPLY_BYTES_MAX);
    put_models(&out, match->api->repository);
    if (match->api->metrics != NULL)
        metrics_render(match->api->metrics, &out);
    api_answer_text(x, DIALECT_PLAIN, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, 0,
                    &out);
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
                  "pasted into a shell.</p>");
    repository_snapshot_take(api->repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        if (snapshot.entries[i].model != NULL && !snapshot.entries[i].is_default)
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
        { SLICE_LIT("x-content-type-options"), SLICE_LIT("nosniff") },
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
        api_answer_text(x, DIALECT_TYPED, 200, json_type, &headers[3], 1, &out);
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
