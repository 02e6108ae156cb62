/* top_show.c - SPDX-License-Identifier: Apache-2.0
 *
 * Names come from a server: nothing of them reaches a terminal unescaped, and none is wider than its
 * column.
 */
#include "cli/top_show.h"

#include <math.h>
#include <stdlib.h>

#include "base/text.h"
#include "cli/print.h"

enum {
    NAME_WIDTH_MIN = 12,
    NAME_WIDTH_MAX = 60,
    NUMBERS_WIDTH = 46,
    LINE_BYTES_MAX = 4096,
    LOOPS_SHOWN = 8
};

const char *const top_sort_names[TOP_SORTS] = { [TOP_BY_RATE] = "rate",
                                                [TOP_BY_TIME] = "time",
                                                [TOP_BY_ERRORS] = "errors",
                                                [TOP_BY_NAME] = "name" };

/* -- numbers for people ------------------------------------------------------------------------ */

/* "0", "0.4", "12", "3.4k", "1.2M"; "-" where there is none. */
static void put_number(struct text *out, double value)
{
    static const char units[] = " kMGTP";
    size_t unit = 0;

    if (isnan(value)) {
        text_byte(out, '-');
        return;
    }
    while (fabs(value) >= 999.5 && unit < sizeof units - 2) {
        value /= 1000;
        unit++;
    }
    if (fabs(value) < 9.95 && value != floor(value))
        text_printf(out, value < 0.095 && value > 0 && unit == 0 ? "%.2f" : "%.1f", value);
    else
        text_printf(out, "%.0f", value);
    if (unit > 0)
        text_byte(out, (uint8_t)units[unit]);
}

static void put_bytes(struct text *out, double value)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    size_t unit = 0;

    if (isnan(value)) {
        text_byte(out, '-');
        return;
    }
    while (value >= 1023.5 && unit + 1 < COUNT(units)) {
        value /= 1024;
        unit++;
    }
    text_printf(out, unit > 0 && value < 9.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

/* "3us", "1.2ms", "45ms", "1.2s"; ">10s": past the last bound of the histogram. */
static void put_seconds(struct text *out, double seconds, const struct top_times *times)
{
    static const char *const units[] = { "s", "ms", "us" };
    size_t unit = 0;

    if (isnan(seconds)) {
        text_byte(out, '-');
        return;
    }
    if (isinf(seconds)) {
        text_printf(out, ">%gs", times->count < 2 ? 0 : times->bounds[times->count - 2]);
        return;
    }
    while (seconds < 0.9995 && unit + 1 < COUNT(units)) {
        seconds *= 1000;
        unit++;
    }
    text_printf(out, seconds < 9.95 ? "%.1f%s" : "%.0f%s", seconds, units[unit]);
}

static void put_percent(struct text *out, double part, double of)
{
    if (isnan(part) || isnan(of) || of <= 0)
        text_byte(out, '-');
    else if (part > 0 && part / of < 0.0995)
        text_printf(out, "%.1f%%", 100 * part / of);
    else
        text_printf(out, "%.0f%%", 100 * part / of);
}

static void put_span(struct text *out, double seconds)
{
    long long s = seconds < 1e12 ? (long long)seconds : 0;

    if (s >= 86400)
        text_printf(out, "%lldd%lldh", s / 86400, s % 86400 / 3600);
    else if (s >= 3600)
        text_printf(out, "%lldh%lldm", s / 3600, s % 3600 / 60);
    else if (s >= 60)
        text_printf(out, "%lldm%llds", s / 60, s % 60);
    else
        text_printf(out, "%llds", s);
}

/* -- lines ------------------------------------------------------------------------------------- */

struct lines {
    struct text *out;
    const struct top_shown *how;
    uint32_t left; /* that still fit; UINT32_MAX: any number */
    char bytes[LINE_BYTES_MAX];
    struct text line;
};

enum paint { PAINT_NONE, PAINT_BOLD, PAINT_RED, PAINT_YELLOW, PAINT_DIM };

/* The line so far, cut at the terminal's edge, and an end. */
static void end_line(struct lines *lines, enum paint paint)
{
    static const char *const codes[] = { "", "\033[1m", "\033[31m", "\033[33m", "\033[2m" };
    const struct top_shown *how = lines->how;
    struct slice line = text_slice(&lines->line);
    bool is_painted = how->has_colour && paint != PAINT_NONE;

    while (how->columns != 0 && print_width(line) > how->columns) {
        do
            line.size--;
        while (line.size > 0 && (line.data[line.size] & 0xc0) == 0x80);
    }
    lines->line.size = 0;
    lines->line.has_failed = false;
    if (lines->left == 0)
        return;
    if (lines->left != UINT32_MAX)
        lines->left--;
    text_str(lines->out, is_painted ? codes[paint] : "");
    text_slice_put(lines->out, line);
    text_str(lines->out, is_painted ? "\033[0m" : "");
    text_str(lines->out, how->is_live ? "\033[K\r\n" : "\n");
}

/* What put wrote, in a column of that width, at its right. */
#define RIGHT(lines, width, put, ...)                                                     \
    do {                                                                                  \
        char cell_bytes_[64];                                                             \
        struct text cell_;                                                                \
        text_init_fixed(&cell_, cell_bytes_, sizeof cell_bytes_);                         \
        put(&cell_, __VA_ARGS__);                                                         \
        text_printf(&(lines)->line, "%*.*s", (int)(width), (int)cell_.size, cell_bytes_); \
    } while (0)

/* An escaped name in its column. One that is too long loses its middle: versions and methods stand at
 * the end. */
static void put_name(struct text *out, const char *name, uint32_t width)
{
    char bytes[1024];
    struct text escaped;

    text_init_fixed(&escaped, bytes, sizeof bytes);
    print_escaped(&escaped, slice_first(slice_of(name), 240), false);
    struct slice shown = text_slice(&escaped);
    uint32_t wide = print_width(shown);
    if (wide <= width) {
        print_padded(out, shown, width);
        return;
    }
    uint32_t head = (width - 2) / 2, tail = width - 2 - head;
    struct slice rest = shown;
    uint32_t kept = 0;
    for (size_t i = 0; i < shown.size; i++) {
        if ((shown.data[i] & 0xc0) == 0x80)
            continue;
        if (kept == head)
            text_slice_put(out, slice_first(shown, i));
        if (kept == wide - tail)
            rest = slice_skip(shown, i);
        kept++;
    }
    text_str(out, "..");
    text_slice_put(out, rest);
}

/* -- the head ---------------------------------------------------------------------------------- */

static void show_title(struct lines *lines, const struct top_count *count)
{
    const struct top_shown *how = lines->how;
    struct text *out = &lines->line;

    text_str(out, "penstock ");
    print_escaped(out, slice_of(count->version), false);
    text_str(out, "  ");
    print_escaped(out, slice_first(slice_of(how->url), 200), false);
    if (!isnan(count->started) && how->now >= count->started) {
        text_str(out, "  up ");
        put_span(out, how->now - count->started);
    }
    if (how->is_live)
        text_printf(out, "  every %gs, by %s; ? for keys", how->interval,
                    top_sort_names[how->sort]);
    end_line(lines, PAINT_BOLD);
    if (how->note != NULL || count->is_anew) {
        print_escaped(
            out,
            slice_first(slice_of(how->note != NULL ? how->note : "the server was restarted"), 600),
            false);
        end_line(lines, PAINT_YELLOW);
    }
}

static void show_totals(struct lines *lines, const struct top_count *count)
{
    struct text *out = &lines->line;

    text_str(out, "requests  ");
    put_number(out, count->requests);
    text_str(out, "/s   errors ");
    put_percent(out, count->errors, count->requests);
    text_str(out, "   in flight ");
    put_number(out, count->in_flight);
    text_str(out, "   in ");
    put_bytes(out, count->bytes_in);
    text_str(out, "/s  out ");
    put_bytes(out, count->bytes_out);
    text_str(out, "/s");
    end_line(lines, count->errors > 0 ? PAINT_RED : PAINT_NONE);

    const struct {
        const char *words;
        double value;
    } open[] = { { "open      connections ", count->connections },
                 { "   streams: HTTP/2 ", count->http2_streams },
                 { "  WebSocket ", count->websockets },
                 { "  sessions ", count->sessions },
                 { "  ModelStreamInfer ", count->kserve_streams } };
    for (size_t i = 0; i < COUNT(open); i++) {
        text_str(out, open[i].words);
        put_number(out, open[i].value);
    }
    end_line(lines, PAINT_NONE);

    text_str(out, "process   memory ");
    put_bytes(out, count->resident_bytes);
    text_str(out, "  of requests ");
    put_bytes(out, count->request_bytes);
    text_str(out, "   cpu ");
    put_percent(out, count->cpu, 1);
    text_str(out, "   files ");
    put_number(out, count->open_fds);
    end_line(lines, PAINT_NONE);
}

static void show_loops(struct lines *lines, const struct top_count *count)
{
    struct text *out = &lines->line;

    text_printf(out, "loops     %u, busy", count->loops_count);
    for (uint32_t i = 0; i < MIN(count->loops_count, (uint32_t)LOOPS_SHOWN); i++) {
        text_byte(out, ' ');
        put_percent(out, count->loops_busy[i], 1);
    }
    text_str(out, count->loops_count > LOOPS_SHOWN ? " ..." : "");
    text_str(out, "   turns p99 ");
    put_seconds(out, top_quantile(&count->turns, 0.99), &count->turns);
    text_str(out, "   late p99 ");
    put_seconds(out, top_quantile(&count->lags, 0.99), &count->lags);
    end_line(lines, PAINT_NONE);
    if (count->limits_count == 0)
        return;
    text_str(out, "limits hit");
    for (uint32_t i = 0; i < count->limits_count; i++) {
        text_str(out, i == 0 ? " " : ", ");
        print_escaped(out, slice_first(slice_of(count->limits[i].name), 60), false);
        text_byte(out, ' ');
        put_number(out, count->limits[i].hits);
        text_str(out, "/s");
    }
    end_line(lines, PAINT_YELLOW);
}

/* -- rows -------------------------------------------------------------------------------------- */

static double number_of(double value)
{
    return isnan(value) ? -1 : value;
}

static int by(double a, double b)
{
    a = number_of(a);
    b = number_of(b);
    return a > b ? -1 : a < b;
}

static int by_row(const void *left, const void *right, void *context)
{
    const struct top_row *a = left, *b = right;
    enum top_sort sort = *(const enum top_sort *)context;
    int order = 0;

    if (sort == TOP_BY_TIME)
        order = by(top_quantile(&a->times, 0.99), top_quantile(&b->times, 0.99));
    else if (sort == TOP_BY_ERRORS)
        order = by(a->errors, b->errors);
    if (order == 0 && sort != TOP_BY_NAME)
        order = by(a->requests, b->requests);
    if (order == 0)
        order = strcmp(a->name, b->name);
    return order != 0 ? order : strcmp(a->version, b->version);
}

static void sort_rows(struct top_count *count, enum top_sort sort)
{
    for (unsigned kind = 0; kind < TOP_KINDS; kind++)
        if (count->lists[kind].count > 1)
            qsort_r(count->lists[kind].rows, count->lists[kind].count, sizeof(struct top_row),
                    by_row, &sort);
}

static const char *const heads[TOP_KINDS] = {
    [TOP_ROUTES] = "   req/s  errors     p50     p99      in/s     out/s",
    [TOP_MODELS] = "   req/s  errors     p50     p99  rows/s  wait   run",
    [TOP_TENANTS] = "   req/s  errors  refused/s   run",
};
static const char *const titles[TOP_KINDS] = {
    [TOP_ROUTES] = "ROUTE", [TOP_MODELS] = "MODEL", [TOP_TENANTS] = "TENANT"
};

/* "iris" or "iris:2"; what came for no route has no name. */
static const char *row_name(const struct top_row *row, enum top_kind kind, char *room, size_t size)
{
    struct text text;

    if (kind == TOP_ROUTES && row->name[0] == '\0')
        return "(no such path)";
    if (kind == TOP_TENANTS && row->name[0] == '\0')
        return "(nobody known)";
    if (row->version[0] == '\0' || strcmp(row->version, "1") == 0)
        return row->name;
    text_init_fixed(&text, room, size - 1);
    text_slice_put(&text, slice_first(slice_of(row->name), size / 2));
    text_byte(&text, ':');
    text_slice_put(&text, slice_first(slice_of(row->version), size / 4));
    room[text.size] = '\0';
    return room;
}

static void show_row(struct lines *lines, const struct top_row *row, enum top_kind kind,
                     uint32_t width)
{
    char name[512];

    put_name(&lines->line, row_name(row, kind, name, sizeof name), width);
    if (kind == TOP_MODELS && !row->is_ready) {
        text_str(&lines->line, "  not ready");
        end_line(lines, PAINT_RED);
        return;
    }
    RIGHT(lines, 8, put_number, row->requests);
    RIGHT(lines, 8, put_percent, row->errors, row->requests);
    if (kind == TOP_TENANTS) {
        RIGHT(lines, 11, put_number, row->refused);
        RIGHT(lines, 6, put_number, row->running);
    } else {
        RIGHT(lines, 8, put_seconds, top_quantile(&row->times, 0.5), &row->times);
        RIGHT(lines, 8, put_seconds, top_quantile(&row->times, 0.99), &row->times);
    }
    if (kind == TOP_ROUTES) {
        RIGHT(lines, 10, put_bytes, row->bytes_in);
        RIGHT(lines, 10, put_bytes, row->bytes_out);
    } else if (kind == TOP_MODELS) {
        RIGHT(lines, 8, put_number, row->rows);
        RIGHT(lines, 6, put_number, row->queued);
        RIGHT(lines, 6, put_number, row->running);
    }
    end_line(lines, row->errors > 0 ? PAINT_RED : row->requests > 0 ? PAINT_NONE : PAINT_DIM);
}

static uint32_t name_width(const struct top_count *count, const struct top_shown *how)
{
    uint32_t width = NAME_WIDTH_MIN;
    char room[512];

    for (unsigned kind = 0; kind < TOP_KINDS; kind++)
        for (uint32_t i = 0; i < count->lists[kind].count; i++) {
            const char *name = row_name(&count->lists[kind].rows[i], kind, room, sizeof room);
            width = MAX(width, print_width(slice_first(slice_of(name), 240)));
        }
    width = MIN(width, (uint32_t)NAME_WIDTH_MAX);
    if (how->columns != 0 && width + NUMBERS_WIDTH > how->columns)
        width = MAX(how->columns - MIN((uint32_t)NUMBERS_WIDTH, how->columns),
                    (uint32_t)NAME_WIDTH_MIN);
    return width;
}

/* Everybody is one tenant where there are no rules: nothing that routes do not say. */
static bool is_shown(const struct top_count *count, enum top_kind kind)
{
    uint32_t rows = count->lists[kind].count;

    return kind == TOP_TENANTS ? rows > 1 : rows > 0;
}

static void show_list(struct lines *lines, struct top_count *count, enum top_kind kind,
                      uint32_t width, uint32_t most)
{
    const struct top_list *list = &count->lists[kind];
    uint32_t shown = MIN(list->count, most);

    end_line(lines, PAINT_NONE);
    print_padded(&lines->line, slice_of(titles[kind]), width);
    text_str(&lines->line, heads[kind]);
    end_line(lines, PAINT_BOLD);
    if (shown < list->count && shown > 0)
        shown--; /* for the line that says so */
    for (uint32_t i = 0; i < shown; i++)
        show_row(lines, &list->rows[i], kind, width);
    if (shown < list->count) {
        text_printf(&lines->line, "  and %u more", list->count - shown);
        end_line(lines, PAINT_DIM);
    }
}

/* Shares out the rows that fit: who needs less than a fair part leaves the rest to others. */
static void share(const struct top_count *count, uint32_t left, uint32_t ret[TOP_KINDS])
{
    uint32_t kinds = 0;

    for (unsigned kind = 0; kind < TOP_KINDS; kind++) {
        ret[kind] = 0;
        kinds += is_shown(count, kind);
    }
    if (left == UINT32_MAX) {
        for (unsigned kind = 0; kind < TOP_KINDS; kind++)
            ret[kind] = UINT32_MAX;
        return;
    }
    left -= MIN(left, 2 * kinds); /* an empty line and a title each */
    for (bool gives = true; gives && left > 0;) {
        gives = false;
        for (unsigned kind = 0; kind < TOP_KINDS && left > 0; kind++)
            if (is_shown(count, kind) && ret[kind] < count->lists[kind].count) {
                ret[kind]++;
                left--;
                gives = true;
            }
    }
}

static void lines_init(struct lines *lines, struct text *out, const struct top_shown *how)
{
    lines->out = out;
    lines->how = how;
    /* The last line of a terminal stays empty: writing its last column would scroll. */
    lines->left = how->lines == 0 ? UINT32_MAX : MAX(how->lines, 2u) - 1;
    text_init_fixed(&lines->line, lines->bytes, sizeof lines->bytes);
}

void top_show(struct text *out, struct top_count *count, const struct top_shown *how)
{
    uint32_t most[TOP_KINDS];
    struct lines lines;

    lines_init(&lines, out, how);
    sort_rows(count, how->sort);
    show_title(&lines, count);
    show_totals(&lines, count);
    show_loops(&lines, count);
    share(count, lines.left, most);
    uint32_t width = name_width(count, how);
    for (unsigned kind = 0; kind < TOP_KINDS; kind++)
        if (is_shown(count, kind))
            show_list(&lines, count, kind, width, most[kind]);
}

void top_show_help(struct text *out, const struct top_shown *how)
{
    static const char *const words[] = {
        "q, Ctrl-C   end",
        "s           sort by rate, time (p99), errors, name; now by ",
        "p, space    pause and go on; now every ",
        "+  -        look more often, less often",
        "?           these words; any key goes back",
        "",
        "req/s       requests that ended, a second; of models: inferences",
        "errors      of these, how many failed (who left is not counted)",
        "p50, p99    half, and 99 of 100, took at most so long; of streams: how long they lasted",
        "wait, run   requests that wait for the model, and that it works on, now",
        "turns       time a loop works at one go: what comes meanwhile waits so long",
        "late        how much later than wanted timers of loops ran",
    };
    struct lines lines;

    lines_init(&lines, out, how);
    for (size_t i = 0; i < COUNT(words); i++) {
        text_str(&lines.line, words[i]);
        if (i == 1)
            text_str(&lines.line, top_sort_names[how->sort]);
        if (i == 2)
            text_printf(&lines.line, "%gs", how->interval);
        end_line(&lines, PAINT_NONE);
    }
}

/* -- JSON -------------------------------------------------------------------------------------- */

static void put_key(struct text *out, const char *key, bool *is_first)
{
    text_str(out, *is_first ? "\"" : ",\"");
    text_str(out, key);
    text_str(out, "\":");
    *is_first = false;
}

/* A number; null where there is none. Past a histogram's last bound: that bound. */
static void put_json(struct text *out, const char *key, double value, bool *is_first)
{
    put_key(out, key, is_first);
    if (isfinite(value))
        text_printf(out, "%.12g", value);
    else
        text_str(out, "null");
}

static void put_times(struct text *out, const struct top_times *times, bool *is_first)
{
    static const struct {
        const char *key;
        double q;
    } quantiles[] = { { "p50_seconds", 0.5 }, { "p90_seconds", 0.9 }, { "p99_seconds", 0.99 } };

    for (size_t i = 0; i < COUNT(quantiles); i++) {
        double value = top_quantile(times, quantiles[i].q);
        if (isinf(value) && times->count >= 2)
            value = times->bounds[times->count - 2];
        put_json(out, quantiles[i].key, value, is_first);
    }
}

static void put_json_row(struct text *out, const struct top_row *row, enum top_kind kind)
{
    static const char *const keys[TOP_KINDS] = { "route", "model", "tenant" };
    bool is_first = true;

    text_byte(out, '{');
    put_key(out, keys[kind], &is_first);
    text_json(out, slice_of(row->name));
    if (kind == TOP_MODELS) {
        put_key(out, "version", &is_first);
        text_json(out, slice_of(row->version));
        put_key(out, "ready", &is_first);
        text_str(out, row->is_ready ? "true" : "false");
    }
    put_json(out, "requests_per_second", row->requests, &is_first);
    put_json(out, "errors_per_second", row->errors, &is_first);
    if (kind != TOP_TENANTS)
        put_times(out, &row->times, &is_first);
    if (kind == TOP_ROUTES) {
        put_json(out, "bytes_in_per_second", row->bytes_in, &is_first);
        put_json(out, "bytes_out_per_second", row->bytes_out, &is_first);
    }
    if (kind == TOP_MODELS) {
        put_json(out, "rows_per_second", row->rows, &is_first);
        put_json(out, "queued", row->queued, &is_first);
    }
    if (kind == TOP_TENANTS)
        put_json(out, "refused_per_second", row->refused, &is_first);
    if (kind != TOP_ROUTES)
        put_json(out, "running", row->running, &is_first);
    text_byte(out, '}');
}

static void put_json_head(struct text *out, const struct top_count *count,
                          const struct top_shown *how, bool *is_first)
{
    const struct {
        const char *key;
        double value;
    } members[] = {
        { "seconds", count->has_rates ? count->seconds : (double)NAN },
        { "started", count->started },
        { "requests_per_second", count->requests },
        { "errors_per_second", count->errors },
        { "bytes_in_per_second", count->bytes_in },
        { "bytes_out_per_second", count->bytes_out },
        { "in_flight", count->in_flight },
        { "connections", count->connections },
        { "http2_streams", count->http2_streams },
        { "websockets", count->websockets },
        { "sessions", count->sessions },
        { "kserve_streams", count->kserve_streams },
        { "resident_bytes", count->resident_bytes },
        { "request_bytes", count->request_bytes },
        { "open_files", count->open_fds },
        { "cpu", count->cpu },
    };

    put_key(out, "server", is_first);
    text_json(out, slice_of(how->url));
    put_key(out, "version", is_first);
    text_json(out, slice_of(count->version));
    for (size_t i = 0; i < COUNT(members); i++)
        put_json(out, members[i].key, members[i].value, is_first);
}

void top_show_json(struct text *out, struct top_count *count, const struct top_shown *how)
{
    static const char *const lists[TOP_KINDS] = { "routes", "models", "tenants" };
    bool is_first = true, first_inside = true;

    sort_rows(count, how->sort);
    text_byte(out, '{');
    put_json_head(out, count, how, &is_first);
    text_str(out, ",\"loops\":{\"busy\":[");
    for (uint32_t i = 0; i < count->loops_count; i++) {
        text_str(out, i == 0 ? "" : ",");
        if (isfinite(count->loops_busy[i]))
            text_printf(out, "%.4g", count->loops_busy[i]);
        else
            text_str(out, "null");
    }
    text_str(out, "],\"turns\":{");
    put_times(out, &count->turns, &first_inside);
    first_inside = true;
    text_str(out, "},\"late\":{");
    put_times(out, &count->lags, &first_inside);
    text_str(out, "}},\"limits_hit\":{");
    for (uint32_t i = 0; i < count->limits_count; i++) {
        text_str(out, i == 0 ? "" : ",");
        text_json(out, slice_of(count->limits[i].name));
        text_printf(out, ":%.12g", isfinite(count->limits[i].hits) ? count->limits[i].hits : 0);
    }
    text_byte(out, '}');
    for (unsigned kind = 0; kind < TOP_KINDS; kind++) {
        put_key(out, lists[kind], &is_first);
        text_byte(out, '[');
        for (uint32_t i = 0; i < count->lists[kind].count; i++) {
            text_str(out, i == 0 ? "" : ",");
            put_json_row(out, &count->lists[kind].rows[i], kind);
        }
        text_byte(out, ']');
    }
    text_str(out, "}\n");
}
