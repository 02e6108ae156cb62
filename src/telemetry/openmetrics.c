/* openmetrics.c - the other text form of metrics, made from the one that everybody writes.
 * SPDX-License-Identifier: Apache-2.0
 *
 * OpenMetrics 1.0 names a counter by its family (without _total) in HELP and TYPE and by its sample
 * (with it) elsewhere; two families of one name are not allowed. So a counter keeps its whole name, as
 * `unknown`, where its name has no _total, and where a gauge is called what its family would be.
 */
#include "base/map.h"
#include "telemetry/metrics.h"

/* The next line without its end; false: there is none. */
static bool next_line(struct slice *rest, struct slice *ret)
{
    if (rest->size == 0)
        return false;
    *ret = slice_first(*rest, slice_find(*rest, '\n'));
    *rest = slice_skip(*rest, MIN(ret->size + 1, rest->size));
    return true;
}

static bool take_prefix(struct slice *line, const char *prefix)
{
    if (!slice_starts(*line, prefix))
        return false;
    *line = slice_skip(*line, strlen(prefix));
    return true;
}

static struct slice take_word(struct slice *line)
{
    struct slice word = slice_first(*line, slice_find(*line, ' '));

    *line = slice_skip(*line, MIN(word.size + 1, line->size));
    return word;
}

/* The names of all families; NULL, or not all of them: no memory. */
static struct map *families_of(struct slice rendered)
{
    struct map *families = map_new();
    struct slice line;
    struct err err;

    while (families != NULL && next_line(&rendered, &line))
        if (take_prefix(&line, "# TYPE ") &&
            map_put(families, take_word(&line), families, &err) != OK)
            map_free(&families);
    return families;
}

/* In help this form escapes quotes too. */
static void put_help(struct text *out, struct slice family, struct slice help)
{
    text_str(out, "# HELP ");
    text_slice_put(out, family);
    text_byte(out, ' ');
    for (size_t i = 0; i < help.size; i++) {
        if (help.data[i] == '"')
            text_byte(out, '\\');
        text_byte(out, help.data[i]);
    }
    text_byte(out, '\n');
}

/* le="1" is le="1.0": a bound is a float. */
static void put_sample(struct text *out, struct slice line)
{
    static const char le[] = "le=\"";
    size_t end = line.size;

    /* It is the last label: what stands before it may hold anything. */
    while (end > 0 && line.data[end - 1] != '}')
        end--;
    size_t bound = end < 2 ? 0 : end - 2; /* at the closing quote */
    size_t at = bound;
    while (at > 0 && line.data[at - 1] >= '0' && line.data[at - 1] <= '9')
        at--;
    bool is_whole = at < bound && at >= sizeof le - 1 &&
                    memcmp(line.data + at - (sizeof le - 1), le, sizeof le - 1) == 0;
    text_slice_put(out, slice_first(line, is_whole ? bound : 0));
    text_str(out, is_whole ? ".0" : "");
    text_slice_put(out, slice_skip(line, is_whole ? bound : 0));
    text_byte(out, '\n');
}

void metrics_openmetrics(struct slice rendered, struct text *out)
{
    CLEANUP(map_free) struct map *families = families_of(rendered);
    struct slice rest = rendered, line, help = { 0 };

    out->has_failed |= families == NULL;
    if (families == NULL)
        return;
    while (next_line(&rest, &line)) {
        struct slice words = line;
        if (take_prefix(&words, "# HELP ")) {
            take_word(&words);
            help = words;
            continue;
        }
        if (!take_prefix(&words, "# TYPE ")) {
            put_sample(out, line);
            continue;
        }
        struct slice family = take_word(&words), type = words;
        if (slice_is(type, "counter")) {
            struct slice shorter = slice_first(family, family.size - MIN(family.size, (size_t)6));
            bool is_ours = slice_ends(family, "_total") && map_get(families, shorter) == NULL;
            family = is_ours ? shorter : family;
            type = is_ours ? type : slice_of("unknown");
        }
        text_str(out, "# TYPE ");
        text_slice_put(out, family);
        text_byte(out, ' ');
        text_slice_put(out, type);
        text_byte(out, '\n');
        put_help(out, family, help);
    }
    text_str(out, "# EOF\n");
}
