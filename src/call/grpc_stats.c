/* grpc_stats.c - SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "base/mem.h"
#include "call/internal.h"
#include "telemetry/metrics.h"

enum { LINE = 64 };

enum err_code grpc_stats_new(struct grpc_stats **ret, uint32_t loops_count, struct err *err)
{
    size_t size = sizeof(struct grpc_stats) + loops_count * sizeof(struct grpc_loop_stats);
    struct grpc_stats *stats = mem_aligned(LINE, size);

    if (stats == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the statistics of gRPC");
    memset(stats, 0, size);
    stats->loops_count = loops_count;
    *ret = stats;
    return OK;
}

void grpc_stats_free(struct grpc_stats **slot)
{
    struct grpc_stats *stats = TAKE(*slot);

    mem_free(stats);
}

static uint64_t sum(const struct grpc_stats *stats, size_t offset)
{
    return stat_sum(stats->loops, stats->loops_count, sizeof stats->loops[0], offset);
}

#define OF(member) offsetof(struct grpc_loop_stats, member)

static void render(void *context, struct text *out)
{
    const struct grpc_stats *stats = context;
    static const char calls[] = "penstock_grpc_calls_total";
    static const char messages[] = "penstock_grpc_messages_total";
    static const char compressed[] = "penstock_grpc_compressed_messages_total";
    static const char web[] = "penstock_grpc_web_calls_total";
    static const char refused[] = "penstock_grpc_refused_total";

    metrics_family(out, calls, "counter", "gRPC calls by the status they ended with");
    for (enum err_code code = OK; code < ERR_CODE_END; code++) {
        char labels[48];
        struct text text;
        text_init_fixed(&text, labels, sizeof labels);
        metrics_label(&text, "code", slice_of(err_name(code)), true);
        metrics_sample_u64(out, calls, text_cstr(&text), sum(stats, OF(calls) + code * 8));
    }
    metrics_family(out, messages, "counter", "Messages of gRPC calls");
    metrics_sample_u64(out, messages, "direction=\"in\"", sum(stats, OF(messages_in)));
    metrics_sample_u64(out, messages, "direction=\"out\"", sum(stats, OF(messages_out)));
    metrics_family(out, compressed, "counter", "Messages of gRPC calls that were compressed");
    metrics_sample_u64(out, compressed, "direction=\"in\"", sum(stats, OF(compressed_in)));
    metrics_sample_u64(out, compressed, "direction=\"out\"", sum(stats, OF(compressed_out)));
    metrics_family(out, web, "counter", "gRPC calls that came as gRPC-Web, by the form of the body");
    metrics_sample_u64(out, web, "form=\"binary\"", sum(stats, OF(web_binary)));
    metrics_sample_u64(out, web, "form=\"text\"", sum(stats, OF(web_text)));
    metrics_family(out, refused, "counter",
                   "Requests with a gRPC content-type that are neither gRPC calls over HTTP/2 nor "
                   "gRPC-Web");
    metrics_sample_u64(out, refused, "", sum(stats, OF(refused)));
}

enum err_code grpc_stats_register(struct grpc_stats *stats, struct metrics *metrics,
                                  struct err *err)
{
    return metrics_add_source(metrics, render, stats, err);
}

uint64_t grpc_stats_limit_hits(const struct grpc_stats *stats)
{
    return stats == NULL ? 0 : sum(stats, OF(limit_message));
}
