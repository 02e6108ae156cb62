/* metrics.h - named counters, gauges and histograms, shown as Prometheus text (exposition format
 * 0.0.4).
 *
 * Values are plain atomics that their owner writes; the registry only knows where they are. Any
 * thread; registering takes a lock, writing does not.
 */
#ifndef TELEMETRY_METRICS_H
#define TELEMETRY_METRICS_H

#include "base/err.h"
#include "base/text.h"
#include "telemetry/stat.h"

struct metrics;

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE };

MUST_USE struct metrics *metrics_new(void); /* NULL: no memory */
void metrics_free(struct metrics **metrics);
/* `name` (and help) must be constants; labels ("loop=\"0\"") are copied, "" for none; `value` is
 * borrowed until the registry is freed. scale: what one unit of value is (1e-9 shows nanoseconds as seconds). */
MUST_USE enum err_code metrics_add(struct metrics *metrics, enum metric_kind kind, const char *name,
                                   const char *help, const char *labels,
                                   const _Atomic uint64_t *value, double scale, struct err *err);
/* Called by metrics_render for families that are made on the fly (per-model statistics). */
MUST_USE enum err_code metrics_add_source(struct metrics *metrics,
                                          void (*render)(void *context, struct text *out),
                                          void *context, struct err *err);
void metrics_render(struct metrics *metrics, struct text *out);

/* Makes OpenMetrics 1.0 of what metrics_render and its like wrote: counters by their family's name without
 * _total, bounds as floats, an end. A counter whose name has no _total (those are other servers') is of
 * type unknown there, under the same name. */
void metrics_openmetrics(struct slice rendered, struct text *out);

/* For sources: "# HELP/# TYPE" and one sample. Label values are escaped by metrics_label. */
void metrics_family(struct text *out, const char *name, const char *type, const char *help);
void metrics_sample_u64(struct text *out, const char *name, const char *labels, uint64_t value);
void metrics_sample_f64(struct text *out, const char *name, const char *labels, double value);
/* All samples of one histogram of seconds, from its counters (stat.h: the buckets, then the sum). */
void metrics_histogram(struct text *out, const char *name, const char *labels,
                       const uint64_t sums[STAT_SUMS]);
void metrics_label(struct text *out, const char *name, struct slice value, bool is_first);

#endif
