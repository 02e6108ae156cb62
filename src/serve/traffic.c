/* traffic.c - SPDX-License-Identifier: Apache-2.0
 *
 * Three questions, three sets of labels: one with route, model and code would be their product. Codes are
 * HTTP's numbers, and of calls gRPC's names: both are few.
 *
 * Most requests are as one just before. A loop keeps where those were counted (struct memo), found by a few of
 * their values and compared by all of them: the four look-ups are then one. What was counted under "other" is not kept, as
 * each time is a hit of the limit.
 */
#include "serve/traffic.h"

#include <stdio.h>

#include "access/access.h"
#include "base/mem.h"
#include "base/text.h"
#include "telemetry/metrics.h"
#include "telemetry/series.h"

enum { STATUSES = 600, LABELS_BYTES_MAX = 8 << 10 };

enum { MEMOS = 16, MEMO_TEXT_MAX = 112 };

enum { ROUTE_SECONDS, ROUTE_IN = STAT_SUMS, ROUTE_OUT, ROUTE_COUNTERS };

/* Where requests of these labels are counted. */
struct memo {
    uint16_t code; /* a status, or of a call its gRPC code */
    bool is_call;
    uint8_t method;
    uint8_t route_size, model_size, version_size, tenant_size;
    uint8_t text[MEMO_TEXT_MAX]; /* the four of them */
    _Atomic uint64_t *answers;   /* NULL: the memo is empty */
    _Atomic uint64_t *route, *tenant, *model;
} __attribute__((aligned(32)));

/* A loop's own. */
struct memos {
    struct memo memos[MEMOS];
} __attribute__((aligned(64)));

struct traffic {
    struct series_limit limit;
    struct series *answers; /* route, method, code */
    struct series *routes;  /* route: its time and bytes */
    struct series *models;  /* model, version, code */
    struct series *tenants; /* tenant, code */
    struct memos *memos;    /* owned: by loop */
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

/* By what tells most apart: anything will do, as what is found is compared. */
static uint32_t memo_number(const struct exchange *x, uint16_t code)
{
    uint32_t model = x->note.model.size == 0 ? 0 : x->note.model.data[x->note.model.size - 1];

    return ((uint32_t)x->note.route.size * 5 + (uint32_t)x->note.model.size * 3 + model + code) %
           MEMOS;
}

static bool is_text(const uint8_t **at, uint8_t size, struct slice value)
{
    const uint8_t *kept = *at;

    *at += size;
    return size == value.size && (size == 0 || memcmp(kept, value.data, size) == 0);
}

static bool is_memo(const struct memo *memo, const struct observed *seen, uint16_t code,
                    struct slice tenant)
{
    const struct exchange *x = seen->x;
    const uint8_t *at = memo->text;

    return memo->answers != NULL && memo->code == code && memo->is_call == seen->is_call &&
           memo->method == x->method && is_text(&at, memo->route_size, x->note.route) &&
           is_text(&at, memo->model_size, x->note.model) &&
           is_text(&at, memo->version_size, x->note.version) &&
           is_text(&at, memo->tenant_size, tenant);
}

static uint8_t put_text(uint8_t **at, struct slice value)
{
    if (value.size != 0)
        memcpy(*at, value.data, value.size);
    *at += value.size;
    return (uint8_t)value.size;
}

/* The four look-ups. */
static void find(struct traffic *traffic, const struct observed *seen, uint16_t number,
                 struct slice tenant_name, struct memo *ret)
{
    const struct exchange *x = seen->x;
    struct slice code = code_of(traffic, seen);
    struct slice answer[] = { x->note.route, method_names[x->method], code };
    struct slice model[] = { x->note.model, x->note.version, code };
    struct slice tenant[] = { tenant_name, code };
    uint32_t loop = seen->loop;
    uint8_t *at = ret->text;

    *ret = (struct memo){ 0 };
    ret->answers = series_at(traffic->answers, loop, answer);
    ret->route = series_at(traffic->routes, loop, answer);
    ret->tenant = series_at(traffic->tenants, loop, tenant);
    ret->model = x->note.model.size > 0 ? series_at(traffic->models, loop, model) : NULL;
    if (x->note.route.size + x->note.model.size + x->note.version.size + tenant_name.size >
            MEMO_TEXT_MAX ||
        series_is_other(traffic->answers, loop, ret->answers) ||
        series_is_other(traffic->routes, loop, ret->route) ||
        series_is_other(traffic->tenants, loop, ret->tenant) ||
        (ret->model != NULL && series_is_other(traffic->models, loop, ret->model)))
        return;
    ret->code = number;
    ret->is_call = seen->is_call;
    ret->method = (uint8_t)x->method;
    ret->route_size = put_text(&at, x->note.route);
    ret->model_size = put_text(&at, x->note.model);
    ret->version_size = put_text(&at, x->note.version);
    ret->tenant_size = put_text(&at, tenant_name);
    traffic->memos[loop].memos[memo_number(x, number)] = *ret;
}

void traffic_count(void *context, const struct observed *seen)
{
    struct traffic *traffic = context;
    const struct exchange *x = seen->x;
    uint16_t number = seen->is_call ? (uint16_t)x->note.code : (uint16_t)seen->status;
    struct slice tenant = tenant_of(x);
    const struct memo *memo = &traffic->memos[seen->loop].memos[memo_number(x, number)];
    uint64_t took = seen->ended_ns - MIN(x->begun_ns, seen->ended_ns);
    struct memo found;

    if (UNLIKELY(!is_memo(memo, seen, number, tenant))) {
        find(traffic, seen, number, tenant, &found);
        memo = &found;
    }
    stat_add(memo->answers, 1);
    stat_histogram_add((struct stat_histogram *)(void *)&memo->route[ROUTE_SECONDS], took);
    stat_add(&memo->route[ROUTE_IN], seen->body_in);
    stat_add(&memo->route[ROUTE_OUT], seen->body_out);
    stat_add(memo->tenant, 1);
    if (memo->model != NULL)
        stat_add(memo->model, 1);
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
    traffic->memos = mem_aligned(64, loops_count * sizeof *traffic->memos);
    if (traffic->memos == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for metrics");
    memset(traffic->memos, 0, loops_count * sizeof *traffic->memos);
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
    mem_free(traffic->memos);
    mem_free(traffic);
}

enum err_code traffic_register(struct traffic *traffic, struct metrics *metrics, struct err *err)
{
    return metrics_add_source(metrics, render, traffic, err);
}
