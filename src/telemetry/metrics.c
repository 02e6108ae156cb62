/* metrics.c - SPDX-License-Identifier: Apache-2.0
 *
 * Samples are kept in the order in which they were registered, but shown by family: the exposition
 * format wants all samples of one name together under one HELP and TYPE. Looking for the family
 * again for each name is quadratic, which for some hundred samples asked for once in a while is
 * cheaper than keeping an index.
 */
#include "telemetry/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>

#include "base/mem.h"

struct metric {
    struct metric *next;
    enum metric_kind kind;
    const char *name, *help; /* borrowed: constants */
    char *labels;            /* owned */
    const _Atomic uint64_t *value;
    double scale;
};

struct source {
    struct source *next;
    void (*render)(void *context, struct text *out);
    void *context;
};

struct metrics {
    pthread_mutex_t lock; /* guards both lists; leaf, but sources run under it */
    struct metric *first, **last;
    struct source *sources, **sources_last;
};

struct metrics *metrics_new(void)
{
    struct metrics *metrics = mem_zalloc(sizeof *metrics);

    if (metrics == NULL)
        return NULL;
    pthread_mutex_init(&metrics->lock, NULL);
    metrics->last = &metrics->first;
    metrics->sources_last = &metrics->sources;
    return metrics;
}

void metrics_free(struct metrics **slot)
{
    struct metrics *metrics = TAKE(*slot);

    if (metrics == NULL)
        return;
    while (metrics->first != NULL) {
        struct metric *metric = metrics->first;
        metrics->first = metric->next;
        mem_free(metric->labels);
        mem_free(metric);
    }
    while (metrics->sources != NULL) {
        struct source *source = metrics->sources;
        metrics->sources = source->next;
        mem_free(source);
    }
    pthread_mutex_destroy(&metrics->lock);
    mem_free(metrics);
}

enum err_code metrics_add(struct metrics *metrics, enum metric_kind kind, const char *name,
                          const char *help, const char *labels, const _Atomic uint64_t *value,
                          double scale, struct err *err)
{
    struct metric *metric = mem_alloc(sizeof *metric);
    char *copy = mem_strdup(labels);

    if (metric == NULL || copy == NULL) {
        mem_free(metric);
        mem_free(copy);
        return err_set(err, E_EXHAUSTED, "no memory for the metric %s", name);
    }
    *metric = (struct metric){
        .kind = kind, .name = name, .help = help, .labels = copy, .value = value, .scale = scale
    };
    pthread_mutex_lock(&metrics->lock);
    *metrics->last = metric;
    metrics->last = &metric->next;
    pthread_mutex_unlock(&metrics->lock);
    return OK;
}

enum err_code metrics_add_source(struct metrics *metrics,
                                 void (*render)(void *context, struct text *out), void *context,
                                 struct err *err)
{
    struct source *source = mem_alloc(sizeof *source);

    if (source == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a source of metrics");
    *source = (struct source){ .render = render, .context = context };
    pthread_mutex_lock(&metrics->lock);
    *metrics->sources_last = source;
    metrics->sources_last = &source->next;
    pthread_mutex_unlock(&metrics->lock);
    return OK;
}

static bool is_first_of_family(const struct metrics *metrics, const struct metric *metric)
{
    for (const struct metric *m = metrics->first; m != metric; m = m->next)
        if (strcmp(m->name, metric->name) == 0)
            return false;
    return true;
}

static void render_sample(struct text *out, const struct metric *metric)
{
    uint64_t value = atomic_load_explicit(metric->value, memory_order_relaxed);

    if (metric->scale == 1.0)
        metrics_sample_u64(out, metric->name, metric->labels, value);
    else
        metrics_sample_f64(out, metric->name, metric->labels, (double)value * metric->scale);
}

void metrics_render(struct metrics *metrics, struct text *out)
{
    pthread_mutex_lock(&metrics->lock);
    for (const struct metric *m = metrics->first; m != NULL; m = m->next) {
        if (!is_first_of_family(metrics, m))
            continue;
        metrics_family(out, m->name, m->kind == METRIC_COUNTER ? "counter" : "gauge", m->help);
        for (const struct metric *other = m; other != NULL; other = other->next)
            if (strcmp(other->name, m->name) == 0)
                render_sample(out, other);
    }
    for (const struct source *s = metrics->sources; s != NULL; s = s->next)
        s->render(s->context, out);
    pthread_mutex_unlock(&metrics->lock);
}

void metrics_family(struct text *out, const char *name, const char *type, const char *help)
{
    text_str(out, "# HELP ");
    text_str(out, name);
    text_byte(out, ' ');
    /* In help only the backslash and the line feed are escaped; quotes stand as they are. */
    for (const char *c = help; *c != '\0'; c++) {
        if (*c == '\\')
            text_str(out, "\\\\");
        else if (*c == '\n')
            text_str(out, "\\n");
        else
            text_byte(out, (uint8_t)*c);
    }
    text_str(out, "\n# TYPE ");
    text_str(out, name);
    text_byte(out, ' ');
    text_str(out, type);
    text_byte(out, '\n');
}

static void sample_head(struct text *out, const char *name, const char *suffix, const char *labels)
{
    text_str(out, name);
    text_str(out, suffix);
    if (labels[0] != '\0') {
        text_byte(out, '{');
        text_str(out, labels);
        text_byte(out, '}');
    }
    text_byte(out, ' ');
}

void metrics_sample_u64(struct text *out, const char *name, const char *labels, uint64_t value)
{
    sample_head(out, name, "", labels);
    text_u64(out, value);
    text_byte(out, '\n');
}

static void put_f64(struct text *out, double value)
{
    if (isnan(value))
        text_str(out, "NaN\n");
    else if (isinf(value))
        text_str(out, value > 0 ? "+Inf\n" : "-Inf\n");
    else
        text_printf(out, "%.12g\n", value);
}

void metrics_sample_f64(struct text *out, const char *name, const char *labels, double value)
{
    sample_head(out, name, "", labels);
    put_f64(out, value);
}

void metrics_histogram(struct text *out, const char *name, const char *labels,
                       const uint64_t sums[STAT_SUMS])
{
    uint64_t count = 0;

    for (unsigned i = 0; i < STAT_BUCKETS; i++) {
        count += sums[i];
        text_str(out, name);
        text_str(out, "_bucket{");
        text_str(out, labels);
        text_str(out, labels[0] == '\0' ? "le=\"" : ",le=\"");
        if (i < STAT_BUCKETS - 1)
            text_printf(out, "%g", stat_bucket_seconds[i]);
        else
            text_str(out, "+Inf");
        text_str(out, "\"} ");
        text_u64(out, count);
        text_byte(out, '\n');
    }
    sample_head(out, name, "_sum", labels);
    put_f64(out, (double)sums[STAT_BUCKETS] / 1e9);
    sample_head(out, name, "_count", labels);
    text_u64(out, count);
    text_byte(out, '\n');
}

void metrics_label(struct text *out, const char *name, struct slice value, bool is_first)
{
    if (!is_first)
        text_byte(out, ',');
    text_str(out, name);
    text_str(out, "=\"");
    for (size_t i = 0; i < value.size; i++) {
        switch (value.data[i]) {
        case '\\': text_str(out, "\\\\"); break;
        case '"': text_str(out, "\\\""); break;
        case '\n': text_str(out, "\\n"); break;
        default: text_byte(out, value.data[i]);
        }
    }
    text_byte(out, '"');
}
