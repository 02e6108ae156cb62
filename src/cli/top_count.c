/* top_count.c - SPDX-License-Identifier: Apache-2.0
 *
 * One pass over the samples: each is told to what counts it, with what it has grown by since the look
 * before. Rows are found by the labels as written, which a server writes the same way each time.
 */
#include "cli/top_count.h"

#include <math.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/exposition.h"

enum { ARENA_CAP = 256 << 20, KEY_BYTES_MAX = 4096 };

struct private
{
    struct arena *arena; /* owned: names, rows, values */
    struct map *values;  /* owned: by series, of double in the arena */
    struct map *rows;    /* owned: by kind and labels, of 1 + index */
};

/* While it is read. */
struct reading {
    struct top_count *count;
    struct private *private;
    const struct private
        *before; /* NULL: the first look, or what was before is of another process */
    const struct exposition_sample *sample;
    double value, grown;
    bool has_ours; /* a metric of a penstock's was there */
};

static struct private *private_of(const struct top_count *count)
{
    return count->private;
}

/* -- rows -------------------------------------------------------------------------------------- */

static const char *name_of(struct reading *r, struct slice written)
{
    struct text text;

    text_init_arena(&text, r->private->arena, written.size + 1);
    exposition_unescape(&text, written);
    return text_cstr(&text);
}

/* The row of these labels, made when it is new; NULL: there are too many, or no memory. */
static struct top_row *row_of(struct reading *r, enum top_kind kind, const char *label)
{
    struct top_list *list = &r->count->lists[kind];
    struct slice name = exposition_label(r->sample->labels, label);
    struct slice version =
        kind == TOP_MODELS ? exposition_label(r->sample->labels, "version") : slice_of("");
    char bytes[KEY_BYTES_MAX];
    struct text key;
    struct err err;

    if (name.data == NULL || version.data == NULL)
        return NULL;
    text_init_fixed(&key, bytes, sizeof bytes);
    text_byte(&key, (uint8_t)kind);
    text_slice_put(&key, name);
    text_byte(&key, '"'); /* which stands in neither */
    text_slice_put(&key, version);
    if (text_failed(&key))
        return NULL;
    size_t found = (size_t)(uintptr_t)map_get(r->private->rows, text_slice(&key));
    if (found != 0)
        return &list->rows[found - 1];
    if (list->count == TOP_ROWS_MAX)
        return NULL;
    if (list->count == list->room) {
        uint32_t room = MAX(2 * list->room, 32u);
        struct top_row *more = mem_resize(list->rows, room * sizeof *more);
        if (more == NULL)
            return NULL;
        list->rows = more;
        list->room = room;
    }
    if (map_put(r->private->rows, text_slice(&key), (void *)(uintptr_t)(list->count + 1), &err) !=
        OK)
        return NULL;
    struct top_row *row = &list->rows[list->count++];
    *row = (struct top_row){ .name = name_of(r, name), .version = name_of(r, version) };
    return row;
}

/* -- what samples say -------------------------------------------------------------------------- */

static void add_bucket(struct reading *r, struct top_times *times)
{
    struct slice bound = exposition_label(r->sample->labels, "le");
    char text[32];
    uint32_t at = 0;

    if (bound.size == 0 || bound.size >= sizeof text)
        return;
    memcpy(text, bound.data, bound.size);
    text[bound.size] = '\0';
    double value = strtod(text, NULL);
    if (isnan(value))
        return;
    while (at < times->count && times->bounds[at] < value)
        at++;
    if (at == times->count || times->bounds[at] > value) {
        if (times->count == TOP_BUCKETS_MAX)
            return;
        for (uint32_t i = times->count++; i > at; i--) {
            times->bounds[i] = times->bounds[i - 1];
            times->counts[i] = times->counts[i - 1];
        }
        times->bounds[at] = value;
        times->counts[at] = 0;
    }
    times->counts[at] += r->grown;
}

static bool is_code(struct slice code, const char *const *codes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (slice_is(code, codes[i]))
            return true;
    return false;
}

/* Who left is nobody's fault. */
static bool is_error(struct slice code)
{
    static const char *const good[] = { "OK", "CANCELLED", "499" };

    return code.size > 0 && (code.data[0] < '1' || code.data[0] > '3') &&
           !is_code(code, good, COUNT(good));
}

static bool is_refusal(struct slice code)
{
    static const char *const codes[] = {
        "401", "403", "429", "UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"
    };

    return is_code(code, codes, COUNT(codes));
}

static void on_requests(struct reading *r)
{
    struct top_row *row = row_of(r, TOP_ROUTES, "route");
    bool fails = is_error(exposition_label(r->sample->labels, "code"));

    r->count->requests += r->grown;
    r->count->errors += fails ? r->grown : 0;
    if (row == NULL)
        return;
    row->requests += r->grown;
    row->errors += fails ? r->grown : 0;
}

static void on_route_bucket(struct reading *r)
{
    struct top_row *row = row_of(r, TOP_ROUTES, "route");

    if (row != NULL)
        add_bucket(r, &row->times);
}

static void on_route_in(struct reading *r)
{
    struct top_row *row = row_of(r, TOP_ROUTES, "route");

    if (row != NULL)
        row->bytes_in += r->grown;
}

static void on_route_out(struct reading *r)
{
    struct top_row *row = row_of(r, TOP_ROUTES, "route");

    if (row != NULL)
        row->bytes_out += r->grown;
}

static void on_model(struct reading *r)
{
    struct top_row *row = row_of(r, TOP_MODELS, "model");
    struct slice name = r->sample->name;

    if (row == NULL)
        return;
    if (slice_is(name, "penstock_model_ready"))
        row->is_ready = r->value != 0;
    else if (slice_is(name, "nv_inference_pending_request_count"))
        row->queued = r->value;
    else if (slice_is(name, "penstock_model_running"))
        row->running = r->value;
    else if (slice_is(name, "nv_inference_count"))
        row->rows += r->grown;
    else if (slice_is(name, "penstock_request_seconds_bucket"))
        add_bucket(r, &row->times);
    else if (slice_is(name, "nv_inference_request_success"))
        row->requests += r->grown;
    else if (!slice_is(exposition_label(r->sample->labels, "reason"), "CANCELED")) /* _failure */
        row->requests += r->grown, row->errors += r->grown;
    else
        row->requests += r->grown;
}

static void on_tenant(struct reading *r)
{
    struct top_row *row = row_of(r, TOP_TENANTS, "tenant");
    struct slice code = exposition_label(r->sample->labels, "code");

    if (row == NULL)
        return;
    if (slice_is(r->sample->name, "penstock_tenant_inferences")) {
        row->running = r->value;
        return;
    }
    row->requests += r->grown;
    row->errors += is_error(code) ? r->grown : 0;
    row->refused += is_refusal(code) ? r->grown : 0;
}

static void on_loop(struct reading *r)
{
    if (r->count->loops_count < TOP_LOOPS_MAX)
        r->count->loops_busy[r->count->loops_count++] = r->grown;
}

static void on_turn(struct reading *r)
{
    add_bucket(r, &r->count->turns);
}

static void on_lag(struct reading *r)
{
    add_bucket(r, &r->count->lags);
}

static void on_limit(struct reading *r)
{
    struct slice name = exposition_label(r->sample->labels, "limit");

    if (r->grown <= 0 || name.size == 0 || r->count->limits_count == TOP_LIMITS_MAX)
        return;
    r->count->limits[r->count->limits_count++] = (struct top_limit){ name_of(r, name), r->grown };
}

static void on_build(struct reading *r)
{
    struct slice version = exposition_label(r->sample->labels, "version");
    struct text text;

    text_init_fixed(&text, r->count->version, sizeof r->count->version - 1);
    exposition_unescape(&text, slice_first(version, sizeof r->count->version - 1));
    r->count->version[text.size] = '\0';
}

/* Samples that are one number of the whole: where it goes, and whether it is a counter. */
static const struct {
    const char *name;
    size_t offset;
    bool is_counter;
} totals[] = {
    { "penstock_requests_in_flight", offsetof(struct top_count, in_flight), false },
    { "penstock_connections_open", offsetof(struct top_count, connections), false },
    { "penstock_http2_streams_open", offsetof(struct top_count, http2_streams), false },
    { "penstock_websocket_connections_open", offsetof(struct top_count, websockets), false },
    { "penstock_sessions_open", offsetof(struct top_count, sessions), false },
    { "penstock_kserve_streams_open", offsetof(struct top_count, kserve_streams), false },
    { "penstock_memory_used_bytes", offsetof(struct top_count, request_bytes), false },
    { "process_resident_memory_bytes", offsetof(struct top_count, resident_bytes), false },
    { "process_open_fds", offsetof(struct top_count, open_fds), false },
    { "process_start_time_seconds", offsetof(struct top_count, started), false },
    { "process_cpu_seconds_total", offsetof(struct top_count, cpu), true },
    { "penstock_bytes_received_total", offsetof(struct top_count, bytes_in), true },
    { "penstock_bytes_sent_total", offsetof(struct top_count, bytes_out), true },
};

static const struct {
    const char *name;
    void (*on)(struct reading *r);
} families[] = {
    { "penstock_requests_total", on_requests },
    { "penstock_route_seconds_bucket", on_route_bucket },
    { "penstock_route_received_bytes_total", on_route_in },
    { "penstock_route_sent_bytes_total", on_route_out },
    { "penstock_model_ready", on_model },
    { "nv_inference_request_success", on_model },
    { "nv_inference_request_failure", on_model },
    { "nv_inference_count", on_model },
    { "nv_inference_pending_request_count", on_model },
    { "penstock_model_running", on_model },
    { "penstock_request_seconds_bucket", on_model },
    { "penstock_tenant_requests_total", on_tenant },
    { "penstock_tenant_inferences", on_tenant },
    { "penstock_loop_busy_seconds_total", on_loop },
    { "penstock_loop_turn_seconds_bucket", on_turn },
    { "penstock_loop_lag_seconds_bucket", on_lag },
    { "penstock_limit_hits_total", on_limit },
    { "penstock_build_info", on_build },
};

static void take_sample(struct reading *r)
{
    struct slice name = r->sample->name;

    r->has_ours |= slice_starts(name, "penstock_");
    for (size_t i = 0; i < COUNT(totals); i++)
        if (slice_is(name, totals[i].name)) {
            double *to = (double *)(void *)((char *)r->count + totals[i].offset);
            *to = totals[i].is_counter ? r->grown : r->value;
            return;
        }
    for (size_t i = 0; i < COUNT(families); i++)
        if (slice_is(name, families[i].name)) {
            families[i].on(r);
            return;
        }
}

/* -- a look ------------------------------------------------------------------------------------ */

static void divide(double *value, double seconds)
{
    *value = seconds > 0 ? *value / seconds : (double)NAN;
}

/* Sums of what has grown become rates. */
static void make_rates(struct top_count *count)
{
    double seconds = count->has_rates ? count->seconds : 0;
    double *const all[] = { &count->requests, &count->errors, &count->bytes_in, &count->bytes_out,
                            &count->cpu };

    for (size_t i = 0; i < COUNT(all); i++)
        divide(all[i], seconds);
    for (uint32_t i = 0; i < count->loops_count; i++)
        divide(&count->loops_busy[i], seconds);
    for (uint32_t i = 0; i < count->limits_count; i++)
        divide(&count->limits[i].hits, seconds);
    if (!count->has_rates)
        count->turns.count = count->lags.count = count->limits_count = 0;
    for (unsigned kind = 0; kind < TOP_KINDS; kind++)
        for (uint32_t i = 0; i < count->lists[kind].count; i++) {
            struct top_row *row = &count->lists[kind].rows[i];
            double *const rates[] = { &row->requests,  &row->errors,  &row->bytes_in,
                                      &row->bytes_out, &row->refused, &row->rows };
            for (size_t j = 0; j < COUNT(rates); j++)
                divide(rates[j], seconds);
            if (!count->has_rates)
                row->times.count = 0;
        }
}

static const double *value_of(const struct private *private, const struct exposition_sample *sample)
{
    return private == NULL ? NULL : map_get(private->values, sample->series);
}

static enum err_code keep_value(struct reading *r, struct err *err)
{
    double *kept = arena_alloc(r->private->arena, sizeof *kept);

    if (kept == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the metrics");
    *kept = r->value;
    return map_put(r->private->values, r->sample->series, kept, err);
}

static enum err_code read_all(struct reading *r, struct slice text, struct err *err)
{
    struct exposition at = { .rest = text };
    struct exposition_sample sample;

    r->sample = &sample;
    while (exposition_next(&at, &sample, err)) {
        r->value = isfinite(sample.value) ? sample.value : 0;
        const double *before = value_of(r->before, &sample);
        r->grown = before == NULL || *before > r->value ? r->value : r->value - *before;
        TRY(keep_value(r, err));
        take_sample(r);
    }
    if (err->code != OK)
        return err->code;
    if (!r->has_ours)
        return err_set(err, E_DATA_LOSS, "there is no metric of a penstock's");
    return OK;
}

/* A process that began at another time has counted nothing of what was there before. */
static bool is_same_process(const struct private *before, struct slice text)
{
    struct exposition at = { .rest = text };
    struct exposition_sample sample;
    struct err err;

    while (exposition_next(&at, &sample, &err))
        if (slice_is(sample.name, "process_start_time_seconds")) {
            const double *was = value_of(before, &sample);
            return was == NULL || !isfinite(*was) || !isfinite(sample.value) ||
                   fabs(*was - sample.value) < 0.001;
        }
    return true;
}

enum err_code top_count_new(struct top_count **ret, struct slice text,
                            const struct top_count *before, double seconds, struct err *err)
{
    CLEANUP(top_count_free) struct top_count *count = mem_zalloc(sizeof *count);
    struct private *private = mem_zalloc(sizeof *private);

    if (count == NULL || private == NULL) {
        mem_free(private);
        return err_set(err, E_EXHAUSTED, "no memory for the metrics");
    }
    count->private = private;
    count->started = (double)NAN;
    count->seconds = seconds;
    private->arena = arena_new(64 << 10, ARENA_CAP);
    private->values = map_new();
    private->rows = map_new();
    if (private->arena == NULL || private->values == NULL || private->rows == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the metrics");
    struct reading r = { .count = count, .private = private };
    count->is_anew = before != NULL && !is_same_process(private_of(before), text);
    count->has_rates = before != NULL && !count->is_anew && seconds > 0;
    r.before = count->has_rates ? private_of(before) : NULL;
    TRY(read_all(&r, text, err));
    make_rates(count);
    *ret = TAKE(count);
    return OK;
}

void top_count_free(struct top_count **slot)
{
    struct top_count *count = TAKE(*slot);

    if (count == NULL)
        return;
    struct private *private = private_of(count);
    if (private != NULL) {
        map_free(&private->values);
        map_free(&private->rows);
        arena_free(&private->arena);
        mem_free(private);
    }
    for (unsigned kind = 0; kind < TOP_KINDS; kind++)
        mem_free(count->lists[kind].rows);
    mem_free(count);
}

double top_quantile(const struct top_times *times, double q)
{
    double all = times->count == 0 ? 0 : times->counts[times->count - 1];
    double from = 0, below = 0;

    if (!(all > 0))
        return (double)NAN;
    for (uint32_t i = 0; i < times->count; i++) {
        if (times->counts[i] >= q * all) {
            double here = times->counts[i] - below;
            if (isinf(times->bounds[i]) || here <= 0)
                return times->bounds[i];
            return from + (times->bounds[i] - from) * (q * all - below) / here;
        }
        from = times->bounds[i];
        below = MAX(below, times->counts[i]);
    }
    return times->bounds[times->count - 1];
}
