/* stats.c - SPDX-License-Identifier: Apache-2.0 */
#include "serve/stats.h"

#include <stdio.h>

#include "api/grpc.h"
#include "base/block.h"
#include "base/budget.h"
#include "call/grpc.h"
#include "engine/engine.h"
#include "serve/internal.h"
#include "telemetry/metrics.h"

static const struct {
    size_t offset;
    const char *name, *labels, *help;
} counters[] = {
#define X(member, name, labels, help) \
    { offsetof(struct serve_stats, member), "penstock_" name, labels, help },
    SERVE_COUNTERS(X)
#undef X
};

enum { SERIES_MAX = 5000 }; /* --metrics-series-max of who says nothing */

static const char limit_hits[] = "penstock_limit_hits_total";

/* The limits that are kept below: a family stands in one place. */
static void put_limits_below(struct text *out, const struct api *api,
                             const struct websocket_limit_hits *websocket,
                             const struct budget *budget, uint64_t series)
{
    struct engine_counts counts = { 0 };

    if (api != NULL && api->engine != NULL)
        engine_counts(api->engine, &counts);
    metrics_sample_u64(out, limit_hits, "limit=\"sessions-max\"", counts.sessions_refused);
    metrics_sample_u64(out, limit_hits, "limit=\"stream-pieces-max\"", counts.pieces_refused);
    metrics_sample_u64(out, limit_hits, "limit=\"max-message\"",
                       websocket->message +
                           (api == NULL ? 0 : grpc_stats_limit_hits(api->grpc.stats)));
    metrics_sample_u64(out, limit_hits, "limit=\"websocket-pong-timeout\"", websocket->pong);
    metrics_sample_u64(out, limit_hits, "limit=\"websocket-close-timeout\"", websocket->close);
    metrics_sample_u64(out, limit_hits, "limit=\"watchers-max\"",
                       api == NULL ? 0 : grpc_watchers_refused(api->watchers));
    metrics_sample_u64(out, limit_hits, "limit=\"metrics-series-max\"", series);
    metrics_sample_u64(out, limit_hits, "limit=\"memory-limit\"",
                       budget == NULL ? 0 : budget_refused(budget));
}

static void put_engine(struct text *out, const struct api *api)
{
    struct engine_counts counts = { 0 };

    if (api != NULL && api->engine != NULL)
        engine_counts(api->engine, &counts);
    metrics_family(out, "penstock_sessions_open", "gauge",
                   "Streams with input in pieces that are open now, of --sessions-max");
    metrics_sample_u64(out, "penstock_sessions_open", "", counts.sessions_open);
    metrics_family(out, "penstock_sessions_total", "counter", "Such streams since the start");
    metrics_sample_u64(out, "penstock_sessions_total", "", counts.sessions_total);
    metrics_family(out, "penstock_inline_waiting", "gauge",
                   "Requests to models that run on the loop, and wait for it");
    metrics_sample_u64(out, "penstock_inline_waiting", "", counts.loops_waiting);
    metrics_family(out, "penstock_inline_overloaded", "gauge",
                   "Loops that refuse what would wait long, as the overload lasts");
    metrics_sample_u64(out, "penstock_inline_overloaded", "", counts.loops_overloaded);
}

/* Histograms of all loops together: of each they would be most of the page. */
static void put_loops(struct text *out, const struct serve *serve)
{
    uint64_t turns[STAT_SUMS] = { 0 }, lags[STAT_SUMS] = { 0 };
    char label[32];

    metrics_family(out, "penstock_loop_busy_seconds_total", "counter",
                   "Time that the loop did not wait: its rate is how busy it is, of 1");
    for (uint32_t i = 0; i < serve->loops_count; i++) {
        const struct loop_stats *stats = loop_stats(serve->loops[i].loop);
        snprintf(label, sizeof label, "loop=\"%u\"", i);
        metrics_sample_f64(out, "penstock_loop_busy_seconds_total", label,
                           (double)stat_read(&stats->turns.sum_ns) / 1e9);
        stat_histogram_sum(turns, &stats->turns);
        stat_histogram_sum(lags, &stats->lags);
    }
    metrics_family(out, "penstock_loop_connections_open", "gauge",
                   "Connections open now on the loop");
    for (uint32_t i = 0; i < serve->loops_count; i++) {
        snprintf(label, sizeof label, "loop=\"%u\"", i);
        metrics_sample_u64(out, "penstock_loop_connections_open", label,
                           atomic_load_explicit(&serve->loops[i].open, memory_order_relaxed));
    }
    metrics_family(out, "penstock_loop_turn_seconds", "histogram",
                   "Time that loops worked at one go: what came meanwhile waited so long");
    metrics_histogram(out, "penstock_loop_turn_seconds", "", turns);
    metrics_family(out, "penstock_loop_lag_seconds", "histogram", "How late timers of loops ran");
    metrics_histogram(out, "penstock_loop_lag_seconds", "", lags);
}

static void render(void *context, struct text *out)
{
    struct serve *serve = context;
    const struct budget *budget = serve->settings.budget;
    const struct api *api = serve->settings.api;
    struct websocket_limit_hits websocket =
        websocket_stats_limit_hits(api == NULL ? NULL : api->websocket.stats);
    const char *before = "";

    metrics_family(out, "penstock_memory_used_bytes", "gauge",
                   "Memory of requests and answers, of --memory-limit");
    metrics_sample_u64(out, "penstock_memory_used_bytes", "",
                       budget == NULL ? 0 : budget_used(budget));
    metrics_family(out, "penstock_memory_kept_bytes", "gauge",
                   "Memory of large messages kept for the next ones");
    metrics_sample_u64(out, "penstock_memory_kept_bytes", "", atomic_load(&block_kept_bytes));
    put_engine(out, serve->settings.api);
    put_loops(out, serve);
    metrics_family(out, "penstock_connections_open", "gauge", "Connections open now");
    metrics_sample_u64(out, "penstock_connections_open", "", atomic_load(&serve->connections));
    for (size_t i = 0; i < COUNT(counters); i++) {
        const char *name = counters[i].name;
        uint64_t sum = 0;
        for (uint32_t j = 0; j < serve->loops_count; j++) {
            const char *stats = (const char *)&serve->loops[j].stats;
            sum += atomic_load_explicit(
                (const _Atomic uint64_t *)(const void *)(stats + counters[i].offset),
                memory_order_relaxed);
        }
        if (strcmp(before, name) != 0)
            metrics_family(out, name, slice_ends(slice_of(name), "_total") ? "counter" : "gauge",
                           counters[i].help);
        if (strcmp(before, name) != 0 && strcmp(name, limit_hits) == 0)
            put_limits_below(out, api, &websocket, budget, traffic_refused(serve->traffic));
        before = name;
        /* A message of a WebSocket is kept to the limits of a body. */
        if (counters[i].offset == offsetof(struct serve_stats, timeout_body))
            sum += websocket.stalled;
        else if (counters[i].offset == offsetof(struct serve_stats, rate_body))
            sum += websocket.slow;
        metrics_sample_u64(out, name, counters[i].labels, sum);
    }
}

enum err_code serve_stats_register(struct serve *serve, struct metrics *metrics, struct err *err)
{
    struct observer observer = { .on_exchange = traffic_count };
    uint32_t most = serve->settings.metrics_series_max;

    if (metrics == NULL)
        return OK;
    TRY(traffic_new(&serve->traffic, serve->loops_count, most != 0 ? most : SERIES_MAX, err));
    observer.context = serve->traffic;
    TRY(observer_add(serve, &observer, err));
    TRY(traffic_register(serve->traffic, metrics, err));
    return metrics_add_source(metrics, render, serve, err);
}
