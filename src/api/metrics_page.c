/* metrics_page.c - /metrics: what models count, what the rest of the server has registered, and the forms in
 * which it can be had. SPDX-License-Identifier: Apache-2.0
 *
 * The exposition format wants every sample of a family together, so families are walked outside and models
 * inside; what each has counted is added up once, before.
 *
 * A histogram that has counted nothing is left out: of 31 models that nobody called they were 450 of the
 * page's 490 KB. What Prometheus makes of it (rate, histogram_quantile) is as with any series that
 * begins with its first event. Single buckets are never left out: quantiles would be wrong until each
 * had been there for a whole window.
 */
#include "api/metrics_page.h"

#include <stdatomic.h>

#include "api/reply.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "codec/accept.h"
#include "codec/compress.h"
#include "engine/engine.h"
#include "repository/repository.h"
#include "telemetry/metrics.h"

enum { TENANTS_TOLD_MAX = 64 }; /* of one model: the others wait untold */
enum { COMPRESS_FROM_BYTES = 1024, LABELS_BYTES_MAX = 64 << 10 };

/* -- models ---------------------------------------------------------------------------------------- */

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
    VALUE_RUN_SECONDS,
    VALUE_WAIT_SECONDS,
    VALUE_WAIT_MAX_SECONDS,
    VALUE_OVERLOADED,
    VALUES
};

static const struct family {
    const char *name, *type, *help;
    enum family_value value;
    double scale; /* of what is counted; 0: it is shown as it is */
} families[] = {
    /* Triton's, so that its dashboards work unchanged. */
    { "nv_inference_request_success", "counter", "Number of successful inference requests.",
      VALUE_SUCCESS, 0 },
    { "nv_inference_count", "counter", "Number of inferences performed (batch elements).",
      VALUE_INFERENCES, 0 },
    { "nv_inference_exec_count", "counter", "Number of model executions performed.",
      VALUE_EXECUTIONS, 0 },
    { "nv_inference_request_duration_us", "counter",
      "Cumulative inference request duration in microseconds.", VALUE_REQUEST_US, 0 },
    { "nv_inference_queue_duration_us", "counter",
      "Cumulative inference queuing duration in microseconds.", VALUE_QUEUE_US, 0 },
    { "nv_inference_compute_input_duration_us", "counter",
      "Cumulative compute input duration in microseconds.", VALUE_INPUT_US, 0 },
    { "nv_inference_compute_infer_duration_us", "counter",
      "Cumulative compute inference duration in microseconds.", VALUE_INFER_US, 0 },
    { "nv_inference_compute_output_duration_us", "counter",
      "Cumulative inference compute output duration in microseconds.", VALUE_OUTPUT_US, 0 },
    { "nv_inference_pending_request_count", "gauge", "Number of requests that wait for the model.",
      VALUE_PENDING, 0 },
    { "nv_model_load_duration_secs", "gauge", "Model load time in seconds.", VALUE_LOAD_SECONDS,
      1e-9 },
    /* Our own. */
    { "penstock_model_running", "gauge", "Requests that the model works on now.", VALUE_RUNNING,
      0 },
    { "penstock_model_runs_inline_total", "counter", "Runs on the loop that read the request.",
      VALUE_INLINE, 0 },
    { "penstock_model_runs_queued_total", "counter", "Runs on an instance's own thread.",
      VALUE_QUEUED, 0 },
    { "penstock_model_cancelled_total", "counter",
      "Requests whose caller left, or whose time was over, before the end.", VALUE_CANCELLED, 0 },
    { "penstock_wasted_compute_seconds_total", "counter",
      "Run time of requests that nobody waited for any more.", VALUE_WASTED, 1e-9 },
    { "penstock_model_responses_total", "counter",
      "Responses given to callers, each of a stream's too.", VALUE_RESPONSES, 0 },
    { "penstock_stream_merged_total", "counter",
      "Responses that newer ones took the place of, as their readers were slow (when_slow).",
      VALUE_MERGED, 0 },
    { "penstock_stream_paused_total", "counter",
      "Times that a slow reader's stream had no credit left for its model.", VALUE_PAUSED, 0 },
    { "penstock_stream_paused_seconds_total", "counter",
      "Time until those readers took some again.", VALUE_PAUSED_SECONDS, 1e-9 },
    { "penstock_queue_run_seconds", "gauge",
      "Time that a queued run usually takes, as admission has measured it.", VALUE_RUN_SECONDS,
      1e-9 },
    { "penstock_queue_wait_seconds", "gauge",
      "Time that a request which came now would wait for the model.", VALUE_WAIT_SECONDS, 1e-9 },
    { "penstock_queue_wait_max_seconds", "gauge",
      "The longest wait with which a request is let in now (--queue-delay, or less under overload); 0: any.",
      VALUE_WAIT_MAX_SECONDS, 1e-9 },
    { "penstock_queue_overloaded", "gauge", "1 while the queue is held short: overload that lasts.",
      VALUE_OVERLOADED, 0 },
};

static uint64_t gauge(const _Atomic int64_t *value)
{
    int64_t now = atomic_load_explicit(value, memory_order_relaxed);

    return now < 0 ? 0 : (uint64_t)now;
}

/* The histograms of a model, beside those of its stages. */
enum {
    HISTOGRAM_TOTAL,
    HISTOGRAM_CANCEL,
    HISTOGRAM_STAGES,
    HISTOGRAMS = HISTOGRAM_STAGES + STAGES
};

/* What one model version has counted. */
struct counted {
    const struct repository_entry *entry;
    uint64_t values[VALUES];
    uint64_t failures[FAIL_REASONS];
    uint64_t refused[REFUSALS];
    uint64_t histograms[HISTOGRAMS][STAT_SUMS];
};

static void count_histogram(struct counted *counted, unsigned which, const struct stat_histogram *h)
{
    stat_histogram_sum(counted->histograms[which], h);
}

static void count_model(struct counted *counted, const struct repository_entry *entry)
{
    struct model_stats sum;
    const struct model_stats *s = model_stats(entry->model, &sum);

    *counted = (struct counted){
        .entry = entry,
        .values = {
            [VALUE_SUCCESS] = stat_read(&s->success.count),
            [VALUE_INFERENCES] = stat_read(&s->inference_count),
            [VALUE_EXECUTIONS] = stat_read(&s->execution_count),
            [VALUE_REQUEST_US] = stat_read(&s->success.ns) / NS_PER_US,
            [VALUE_QUEUE_US] = stat_read(&s->queue.ns) / NS_PER_US,
            [VALUE_INPUT_US] = stat_read(&s->compute_input.ns) / NS_PER_US,
            [VALUE_INFER_US] = stat_read(&s->compute_infer.ns) / NS_PER_US,
            [VALUE_OUTPUT_US] = stat_read(&s->compute_output.ns) / NS_PER_US,
            [VALUE_PENDING] = gauge(&s->pending),
            [VALUE_LOAD_SECONDS] = model_load_ns(entry->model),
            [VALUE_RUNNING] = gauge(&s->running),
            [VALUE_INLINE] = stat_read(&s->runs_inline),
            [VALUE_QUEUED] = stat_read(&s->runs_queued),
            [VALUE_CANCELLED] = stat_read(&s->cancelled_total),
            [VALUE_WASTED] = stat_read(&s->wasted_compute_ns),
            [VALUE_RESPONSES] = stat_read(&s->responses),
            [VALUE_MERGED] = stat_read(&s->merged_total),
            [VALUE_PAUSED] = stat_read(&s->paused_total),
            [VALUE_PAUSED_SECONDS] = stat_read(&s->paused_ns),
        },
    };
    struct model_execution now;
    model_execution(entry->model, &now);
    counted->values[VALUE_RUN_SECONDS] = now.run_ns;
    counted->values[VALUE_WAIT_SECONDS] = now.wait_ns;
    counted->values[VALUE_WAIT_MAX_SECONDS] = now.wait_max_ns == UINT64_MAX ? 0 : now.wait_max_ns;
    counted->values[VALUE_OVERLOADED] = now.is_overloaded;
    for (size_t i = 0; i < REFUSALS; i++)
        counted->refused[i] = stat_read(&s->refused[i]);
    for (size_t i = 0; i < FAIL_REASONS; i++)
        counted->failures[i] = stat_read(&s->failures[i]);
    count_histogram(counted, HISTOGRAM_TOTAL, &s->total);
    count_histogram(counted, HISTOGRAM_CANCEL, &s->cancel);
    for (unsigned i = 0; i < STAGES; i++)
        count_histogram(counted, HISTOGRAM_STAGES + i, &s->stages[i]);
}

/* Of all models that are ready. NULL: no memory. */
static struct counted *count_models(const struct repository_snapshot *snapshot, uint32_t *ret_count)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < snapshot->count; i++)
        count += snapshot->entries[i].model != NULL;
    struct counted *counted = mem_alloc(MAX(count, 1u) * sizeof *counted);
    *ret_count = counted == NULL ? 0 : count;
    count = 0;
    for (uint32_t i = 0; counted != NULL && i < snapshot->count; i++)
        if (snapshot->entries[i].model != NULL)
            count_model(&counted[count++], &snapshot->entries[i]);
    return counted;
}

/* model="..",version=".." and one more label; NUL-terminated in `room`, which is emptied first. */
static const char *labels_of(struct text *room, const struct repository_entry *entry,
                             const char *more, const char *value)
{
    room->size = 0;
    metrics_label(room, "model", slice_of(entry->name), true);
    metrics_label(room, "version", slice_of(entry->version), false);
    if (more != NULL)
        metrics_label(room, more, slice_of(value), false);
    return text_cstr(room);
}

static void put_values(struct text *out, struct text *labels, const struct counted *counted,
                       uint32_t count)
{
    for (size_t k = 0; k < COUNT(families); k++) {
        const struct family *f = &families[k];
        metrics_family(out, f->name, f->type, f->help);
        for (uint32_t i = 0; i < count; i++) {
            const char *words = labels_of(labels, counted[i].entry, NULL, NULL);
            uint64_t value = counted[i].values[f->value];
            if (f->scale == 0)
                metrics_sample_u64(out, f->name, words, value);
            else
                metrics_sample_f64(out, f->name, words, (double)value * f->scale);
        }
    }
}

static void put_failures(struct text *out, struct text *labels, const struct counted *counted,
                         uint32_t count)
{
    static const char name[] = "nv_inference_request_failure";
    static const char *const reasons[FAIL_REASONS] = { [FAIL_REJECTED] = "REJECTED",
                                                       [FAIL_CANCELED] = "CANCELED",
                                                       [FAIL_BACKEND] = "BACKEND",
                                                       [FAIL_OTHER] = "OTHER" };

    metrics_family(out, name, "counter", "Number of failed inference requests by reason.");
    for (uint32_t i = 0; i < count; i++)
        for (size_t k = 0; k < FAIL_REASONS; k++)
            metrics_sample_u64(out, name, labels_of(labels, counted[i].entry, "reason", reasons[k]),
                               counted[i].failures[k]);
}

static void put_refused(struct text *out, struct text *labels, const struct counted *counted,
                        uint32_t count)
{
    static const char name[] = "penstock_refused_total";

    metrics_family(out, name, "counter", "Requests that were not run, by why.");
    for (uint32_t i = 0; i < count; i++)
        for (size_t k = REFUSAL_NONE + 1; k < REFUSALS; k++)
            metrics_sample_u64(out, name,
                               labels_of(labels, counted[i].entry, "reason", refusal_names[k]),
                               counted[i].refused[k]);
}

/* Those who wait: a tenant without a request there has no series. */
static void put_tenants(struct text *out, struct text *labels, const struct counted *counted,
                        uint32_t count)
{
    static const char name[] = "penstock_queue_tenant_waiting";
    struct model_tenant tenants[TENANTS_TOLD_MAX];

    metrics_family(out, name, "gauge", "Requests that wait for the model, by tenant.");
    for (uint32_t i = 0; i < count; i++) {
        uint32_t found = model_tenants(counted[i].entry->model, tenants, TENANTS_TOLD_MAX);
        for (uint32_t k = 0; k < MIN(found, (uint32_t)TENANTS_TOLD_MAX); k++)
            metrics_sample_u64(out, name,
                               labels_of(labels, counted[i].entry, "tenant",
                                         tenants[k].name[0] == '\0' ? "default" : tenants[k].name),
                               tenants[k].waiting);
    }
}

static bool is_unused(const uint64_t sums[STAT_SUMS])
{
    for (unsigned i = 0; i < STAT_BUCKETS; i++)
        if (sums[i] != 0)
            return false;
    return true;
}

struct histograms {
    const char *name, *help;
    unsigned first, count;
    const char *label; /* NULL: of one each */
};

static const struct histograms histograms[] = {
    { "penstock_request_seconds",
      "Time of successful requests from the first byte decoded to the end of the run.",
      HISTOGRAM_TOTAL, 1, NULL },
    { "penstock_cancel_seconds", "Time from when nobody waited for a run any more to its end.",
      HISTOGRAM_CANCEL, 1, NULL },
    { "penstock_stage_seconds", "Time of each stage of a request.", HISTOGRAM_STAGES, STAGES,
      "stage" },
};

static void put_histograms(struct text *out, struct text *labels, const struct counted *counted,
                           uint32_t count, bool with_unused)
{
    for (size_t k = 0; k < COUNT(histograms); k++) {
        const struct histograms *h = &histograms[k];
        metrics_family(out, h->name, "histogram", h->help);
        for (uint32_t i = 0; i < count; i++)
            for (unsigned j = 0; j < h->count; j++) {
                const uint64_t *sums = counted[i].histograms[h->first + j];
                if (with_unused || !is_unused(sums))
                    metrics_histogram(out, h->name,
                                      labels_of(labels, counted[i].entry, h->label, stage_names[j]),
                                      sums);
            }
    }
}

static void put_models(struct text *out, const struct api *api)
{
    struct repository_snapshot snapshot;
    struct text labels;
    uint32_t count;

    repository_snapshot_take(api->repository, &snapshot);
    text_init(&labels, LABELS_BYTES_MAX);
    struct counted *counted = count_models(&snapshot, &count);
    metrics_family(out, "penstock_model_ready", "gauge", "1 when the model version can be called.");
    for (uint32_t i = 0; i < snapshot.count; i++)
        metrics_sample_u64(out, "penstock_model_ready",
                           labels_of(&labels, &snapshot.entries[i], NULL, NULL),
                           snapshot.entries[i].state == MODEL_READY);
    put_values(out, &labels, counted, count);
    put_failures(out, &labels, counted, count);
    put_refused(out, &labels, counted, count);
    put_tenants(out, &labels, counted, count);
    put_histograms(out, &labels, counted, count, api->metrics_unused);
    out->has_failed |= text_failed(&labels) || counted == NULL;
    text_deinit(&labels);
    mem_free(counted);
    repository_snapshot_give(&snapshot);
}

/* -- the page -------------------------------------------------------------------------------------- */

/* OpenMetrics is answered to who names it and does not like the plain form better. */
static bool wants_openmetrics(struct slice accept)
{
    int plain = 0, open = 0;
    struct accept_range range;

    while (accept_next(&accept, &range)) {
        if (slice_is_nocase(range.name, "text/plain") || slice_is_nocase(range.name, "text/*")) {
            plain = MAX(plain, range.weight);
        } else if (slice_is_nocase(range.name, "application/openmetrics-text")) {
            struct slice version = accept_parameter(range.parameters, "version");
            if (version.data == NULL || slice_is(version, "1.0.0"))
                open = MAX(open, range.weight);
        }
    }
    return open > 0 && open >= plain;
}

/* In the page's place, compressed; false: as it is. */
static bool answer_compressed(struct exchange *x, enum encoding encoding, const char *type,
                              struct text *page)
{
    CLEANUP(buf_unref) struct buf *packed = NULL;
    struct slice piece = text_slice(page);
    struct header headers[] = { { SLICE_LIT("content-encoding"),
                                  slice_of(encoding_name(encoding)) },
                                { SLICE_LIT("vary"), SLICE_LIT("accept, accept-encoding") } };
    struct err err;

    if (text_failed(page) || encoding == ENCODING_IDENTITY || page->size < COMPRESS_FROM_BYTES ||
        compress_deflate(&packed, x->budget, encoding, &piece, 1, &err) != OK)
        return false;
    exchange_answer(x, 200, type, headers, COUNT(headers), buf_bytes(packed), packed);
    return true;
}

void metrics_page(struct exchange *x, const struct route_match *match)
{
    static const struct header vary = { SLICE_LIT("vary"), SLICE_LIT("accept, accept-encoding") };
    struct slice encodings = exchange_header(x, "accept-encoding");
    enum encoding encoding =
        encodings.data == NULL ? ENCODING_IDENTITY : encoding_choose(encodings);
    const char *type = "text/plain; version=0.0.4; charset=utf-8";
    struct text page, open;

    text_init(&page, REPLY_BYTES_MAX);
    put_models(&page, match->api);
    if (match->api->metrics != NULL)
        metrics_render(match->api->metrics, &page);
    if (wants_openmetrics(exchange_header(x, "accept"))) {
        type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        text_init(&open, REPLY_BYTES_MAX);
        metrics_openmetrics(text_slice(&page), &open);
        open.has_failed |= text_failed(&page);
        text_deinit(&page);
        page = open;
    }
    if (answer_compressed(x, encoding, type, &page))
        text_deinit(&page);
    else
        api_answer_text(x, DIALECT_PLAIN, 200, type, &vary, 1, &page);
}
