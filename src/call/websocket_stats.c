/* websocket_stats.c - SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <string.h>

#include "base/mem.h"
#include "call/websocket_internal.h"
#include "telemetry/metrics.h"

enum { LINE = 64 };

enum err_code websocket_stats_new(struct websocket_stats **ret, uint32_t loops_count,
                                  struct err *err)
{
    size_t size =
        sizeof(struct websocket_stats) + loops_count * sizeof(struct websocket_loop_stats);
    struct websocket_stats *stats = mem_aligned(LINE, size);

    if (stats == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the statistics of WebSocket");
    memset(stats, 0, size);
    stats->loops_count = loops_count;
    *ret = stats;
    return OK;
}

void websocket_stats_free(struct websocket_stats **slot)
{
    struct websocket_stats *stats = TAKE(*slot);

    for (uint32_t i = 0; stats != NULL && i < stats->loops_count; i++)
        websocket_heap_free(&stats->loops[i].heap);
    mem_free(stats);
}

static uint64_t sum(const struct websocket_stats *stats, size_t offset)
{
    return stat_sum(stats->loops, stats->loops_count, sizeof stats->loops[0], offset);
}

#define OF(member) offsetof(struct websocket_loop_stats, member)

static void render(void *context, struct text *out)
{
    const struct websocket_stats *stats = context;
    static const struct {
        size_t offset;
        const char *name, *labels, *help;
    } rows[] = {
        { OF(connections), "penstock_websocket_connections_total", "", "WebSockets opened" },
        { OF(connections_open), "penstock_websocket_connections_open", "", "WebSockets open now" },
        { OF(refused), "penstock_websocket_refused_total", "",
          "Handshakes of WebSocket that were refused" },
        { OF(messages_in), "penstock_websocket_messages_total", "direction=\"in\"",
          "Messages of WebSockets" },
        { OF(messages_out), "penstock_websocket_messages_total", "direction=\"out\"", "" },
        { OF(compressed_in), "penstock_websocket_compressed_messages_total", "direction=\"in\"",
          "Messages of WebSockets that were compressed" },
        { OF(compressed_out), "penstock_websocket_compressed_messages_total", "direction=\"out\"",
          "" },
        { OF(pings), "penstock_websocket_pings_total", "", "Pings sent to silent WebSockets" },
        { OF(pings_unanswered), "penstock_websocket_pings_unanswered_total", "",
          "WebSockets closed because a ping was not answered" },
        { OF(ahead_full), "penstock_websocket_ahead_full_total", "",
          "Times that messages of a WebSocket which wait filled what is received ahead "
          "(--websocket-ahead)" },
    };
    static const char closes[] = "penstock_websocket_closes_total";
    const char *before = "";

    for (size_t i = 0; i < COUNT(rows); i++) {
        if (strcmp(before, rows[i].name) != 0)
            metrics_family(out, rows[i].name,
                           slice_ends(slice_of(rows[i].name), "_total") ? "counter" : "gauge",
                           rows[i].help);
        before = rows[i].name;
        metrics_sample_u64(out, before, rows[i].labels, sum(stats, rows[i].offset));
    }
    metrics_family(out, closes, "counter",
                   "WebSockets by the code they ended with; other: "
                   "applications' own");
    for (uint32_t i = 0; i < WEBSOCKET_CODES; i++) {
        char labels[32];
        struct text text;
        if (i == 4) /* 1004 has no meaning */
            continue;
        text_init_fixed(&text, labels, sizeof labels);
        if (i == WEBSOCKET_CODES - 1)
            text_str(&text, "code=\"other\"");
        else
            text_printf(&text, "code=\"%u\"", WEBSOCKET_NORMAL + i);
        metrics_sample_u64(out, closes, text_cstr(&text), sum(stats, OF(closes) + i * 8));
    }
}

enum err_code websocket_stats_register(struct websocket_stats *stats, struct metrics *metrics,
                                       struct err *err)
{
    return metrics_add_source(metrics, render, stats, err);
}

struct websocket_limit_hits websocket_stats_limit_hits(const struct websocket_stats *stats)
{
    struct websocket_limit_hits hits = { 0 };

    if (stats == NULL)
        return hits;
    hits.message = sum(stats, OF(limit_message));
    hits.stalled = sum(stats, OF(stalled));
    hits.slow = sum(stats, OF(slow));
    hits.pong = sum(stats, OF(pings_unanswered));
    hits.close = sum(stats, OF(closes_unanswered));
    return hits;
}
