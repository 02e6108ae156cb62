/* traffic.c - SPDX-License-Identifier: Apache-2.0
 *
 * Three questions, three sets of labels: one with route, model and code would be their product. Codes are
 * HTTP's numbers, and of calls gRPC's names: both are few.
 */
#include "serve/traffic.h"

#include <stdio.h>

#include "access/access.h"
#include "base/mem.h"
#include "base/text.h"
#include "telemetry/metrics.h"
#include "telemetry/series.h"

enum { STATUSES = 600, LABELS_BYTES_MAX = 8 << 10 };

enum { ROUTE_SECONDS, ROUTE_IN = STAT_SUMS, ROUTE_OUT, ROUTE_COUNTERS };

struct traffic {
    struct series_limit limit;
    struct series *answers; /* route, method, code */
    struct series *routes;  /* route: its time and bytes */
    struct series *models;  /* model, version, code */
    struct series *tenants; /* tenant, code */
    char statuses[STATUSES][4];
};

static const char *const answer_labels[] = { "route", "method", "code" };
static const char *const route_labels[] = { "route" };
static const char *const model_labels[] = { "model", "version", "code" };
static const char *const tenant_labels[] = { "tenant", "code" };

static const struct slice method_names[] = {
    [METHOD_OTHER] = SLICE_LIT("other"),     [METHOD_GET] = SLICE_LIT("GET"),
    [METHOD_HEAD] = SLICE_LIT("HEAD"),       [METHOD_POST] = SLICE_LIT("POST"),
    [METHOD_PUT] = SLICE_LIT("PUT"),         [METHOD_DELETE] = SLICE_LIT("DELETE"),
    [METHOD_OPTIONS] = SLICE_LIT("OPTIONS"), [METHOD_PATCH] = SLICE_LIT("PATCH"),
};

static struct slice code_of(const struct traffic *traffic, const struct observed *seen)
{
    if (seen->is_call)
        return slice_of(err_name((enum err_code)seen->x->note.code));
    return slice_make(traffic->statuses[seen->status < STATUSES ? seen->status : 0], 3);
}

/* Empty: it was not known who called, as of credentials that are wrong. */
static struct slice tenant_of(const struct exchange *x)
{
    return slice_of(x->caller == NULL ? "" : tenant_name(caller_tenant(x->caller)));
}

void traffic_count(void *context, const struct observed *seen)
{
    struct traffic *traffic = context;
    const struct exchange *x = seen->x;
    struct slice code = code_of(traffic, seen);
    struct slice answer[] = { x->note.route, method_names[x->method], code };
    uint64_t took = seen->ended_ns - MIN(x->begun_ns, seen->ended_ns);

    stat_add(series_at(traffic->answers, seen->loop, answer), 1);
    _Atomic uint64_t *route = series_at(traffic->routes, seen->loop, answer);
    stat_histogram_add((struct stat_histogram *)(void *)&route[ROUTE_SECONDS], took);
    stat_add(&route[ROUTE_IN], seen->body_in);
    stat_add(&route[ROUTE_OUT], seen->body_out);
    struct slice tenant[] = { tenant_of(x), code };
    stat_add(series_at(traffic->tenants, seen->loop, tenant), 1);
    if (x->note.model.size > 0) {
        struct slice model[] = { x->note.model, x->note.version, code };
        stat_add(series_at(traffic->models, seen->loop, model), 1);
    }
}

uint64_t traffic_refused(const struct traffic *traffic)
{
    return stat_read(&traffic->limit.refused);
}

/* -- /metrics ---------------------------------------------------------------------------------- */

/* One counter of each series. */
static void put_family(struct text *out, const struct series *series,
                       const struct series_snapshot *snapshot, uint32_t counter, const char *name,
                       const char *help)
{
    struct text labels;

    text_init(&labels, LABELS_BYTES_MAX);
    metrics_family(out, name, "counter", help);
    for (uint32_t i = 0; i < snapshot->count; i++)
        metrics_sample_u64(out, name, series_labels(series, &snapshot->rows[i], &labels),
                           snapshot->rows[i].counters[counter]);
    text_deinit(&labels);
}

static void put_routes(struct text *out, struct series *series)
{
    static const char name[] = "penstock_route_seconds";
    struct series_snapshot snapshot;
    struct text labels;

    series_snapshot_take(series, &snapshot);
    text_init(&labels, LABELS_BYTES_MAX);
    metrics_family(
        out, name, "histogram",
        "Time from the first byte of a request to the end of its answer; of a stream, how "
        "long it lasted");
    for (uint32_t i = 0; i < snapshot.count; i++)
        metrics_histogram(out, name, series_labels(series, &snapshot.rows[i], &labels),
                          &snapshot.rows[i].counters[ROUTE_SECONDS]);
    text_deinit(&labels);
    put_family(out, series, &snapshot, ROUTE_IN, "penstock_route_received_bytes_total",
               "Bytes of requests' bodies");
    put_family(out, series, &snapshot, ROUTE_OUT, "penstock_route_sent_bytes_total",
               "Bytes of answers' bodies");
    series_snapshot_give(&snapshot);
}

static void put_one(struct text *out, struct series *series, const char *name, const char *help)
{
    struct series_snapshot snapshot;

    series_snapshot_take(series, &snapshot);
    put_family(out, series, &snapshot, 0, name, help);
    series_snapshot_give(&snapshot);
}

static void render(void *context, struct text *out)
{
    struct traffic *traffic = context;

    put_one(
        out, traffic->answers, "penstock_requests_total",
        "Requests by how they ended: the status, of a call its gRPC code; 499: left before it was "
        "answered");
    put_routes(out, traffic->routes);
    put_one(out, traffic->models, "penstock_model_requests_total",
            "Requests about a model that there is, by how they ended");
    put_one(out, traffic->tenants, "penstock_tenant_requests_total",
            "Requests of a tenant by how they ended; \"\": of nobody who was known");
    metrics_family(out, "penstock_metrics_series", "gauge",
                   "Sets of labels in the metrics of requests, of --metrics-series-max");
    metrics_sample_u64(out, "penstock_metrics_series", "",
                       atomic_load_explicit(&traffic->limit.used, memory_order_relaxed));
}

/* -- life -------------------------------------------------------------------------------------- */

enum err_code traffic_new(struct traffic **ret, uint32_t loops_count, uint32_t series_max,
                          struct err *err)
{
    CLEANUP(traffic_free) struct traffic *traffic = mem_zalloc(sizeof *traffic);

    if (traffic == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for metrics");
    traffic->limit.max = series_max;
    for (unsigned i = 0; i < STATUSES; i++)
        snprintf(traffic->statuses[i], sizeof traffic->statuses[i], "%03u", i % 1000);
    TRY(series_new(&traffic->answers, answer_labels, COUNT(answer_labels), 1, loops_count,
                   &traffic->limit, err));
    TRY(series_new(&traffic->routes, route_labels, COUNT(route_labels), ROUTE_COUNTERS, loops_count,
                   &traffic->limit, err));
    TRY(series_new(&traffic->models, model_labels, COUNT(model_labels), 1, loops_count,
                   &traffic->limit, err));
    TRY(series_new(&traffic->tenants, tenant_labels, COUNT(tenant_labels), 1, loops_count,
                   &traffic->limit, err));
    *ret = TAKE(traffic);
    return OK;
}

void traffic_free(struct traffic **slot)
{
    struct traffic *traffic = TAKE(*slot);

    if (traffic == NULL)
        return;
    series_free(&traffic->answers);
    series_free(&traffic->routes);
    series_free(&traffic->models);
    series_free(&traffic->tenants);
    mem_free(traffic);
}

enum err_code traffic_register(struct traffic *traffic, struct metrics *metrics, struct err *err)
{
    return metrics_add_source(metrics, render, traffic, err);
}
