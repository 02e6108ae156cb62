/* metrics_test.c - what Prometheus reads, byte by byte.
 * SPDX-License-Identifier: Apache-2.0 */
#include "telemetry/metrics.h"

#include <math.h>

#include "test/harness.h"

static void render_extra(void *context, struct text *out)
{
    const uint64_t *value = context;

    metrics_family(out, "extra", "gauge", "Made on the fly.");
    metrics_sample_u64(out, "extra", "", *value);
}

TEST(metrics_shows_families_together)
{
    static const char expected[] = "# HELP seen_total What was seen.\n"
                                   "# TYPE seen_total counter\n"
                                   "seen_total{loop=\"0\"} 3\n"
                                   "seen_total{loop=\"1\"} 18446744073709551615\n"
                                   "# HELP busy_seconds_total Time.\n"
                                   "# TYPE busy_seconds_total counter\n"
                                   "busy_seconds_total 1.5\n"
                                   "# HELP open Open now: a \\\\ and \\n.\n"
                                   "# TYPE open gauge\n"
                                   "open 7\n"
                                   "# HELP extra Made on the fly.\n"
                                   "# TYPE extra gauge\n"
                                   "extra 9\n";
    _Atomic uint64_t zero = 3, one = UINT64_MAX, busy = 1500000000, open = 7;
    uint64_t extra = 9;
    struct err err = { 0 };
    struct text out;
    struct metrics *metrics = metrics_new();
    check_or_stop(metrics != NULL, "memory");

    check(metrics_add(metrics, METRIC_COUNTER, "seen_total", "What was seen.", "loop=\"0\"", &zero,
                      1, &err) == OK,
          "%s", err.text);
    check(metrics_add(metrics, METRIC_COUNTER, "busy_seconds_total", "Time.", "", &busy, 1e-9,
                      &err) == OK,
          "%s", err.text);
    check(metrics_add(metrics, METRIC_COUNTER, "seen_total", "What was seen.", "loop=\"1\"", &one,
                      1, &err) == OK,
          "%s", err.text);
    check(metrics_add(metrics, METRIC_GAUGE, "open", "Open now: a \\ and \n.", "", &open, 1,
                      &err) == OK,
          "%s", err.text);
    check(metrics_add_source(metrics, render_extra, &extra, &err) == OK, "%s", err.text);
    text_init(&out, 4096);
    metrics_render(metrics, &out);
    check(slice_is(text_slice(&out), expected), "got\n%s", text_cstr(&out));
    text_deinit(&out);
    metrics_free(&metrics);
    check(metrics == NULL, "not nulled");
    metrics_free(&metrics);
}

TEST(metrics_label_values_cannot_forge_a_sample)
{
    struct text out;

    text_init(&out, 4096);
    metrics_label(&out, "model", slice_of("a\"} 1\nb\\c"), true);
    metrics_label(&out, "version", slice_of("1"), false);
    check(strcmp(text_cstr(&out), "model=\"a\\\"} 1\\nb\\\\c\",version=\"1\"") == 0, "got %s",
          text_cstr(&out));
    text_deinit(&out);
}

TEST(metrics_numbers)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        { 0.0, "m 0\n" },      { 0.001, "m 0.001\n" },   { 12.5, "m 12.5\n" },
        { NAN, "m NaN\n" },    { INFINITY, "m +Inf\n" }, { -INFINITY, "m -Inf\n" },
        { 1e-9, "m 1e-09\n" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct text out;
        text_init(&out, 256);
        metrics_sample_f64(&out, "m", "", cases[i].value);
        check(strcmp(text_cstr(&out), cases[i].text) == 0, "got %s", text_cstr(&out));
        text_deinit(&out);
    }
}

TEST(metrics_survives_every_fault)
{
    _Atomic uint64_t value = 1;

    for_each_fault(nth) {
        struct err err = { 0 };
        enum err_code code = E_EXHAUSTED;
        struct metrics *metrics = metrics_new();
        if (metrics != NULL) {
            code = metrics_add(metrics, METRIC_GAUGE, "m", "h", "a=\"b\"", &value, 1, &err);
            if (code == OK)
                code = metrics_add_source(metrics, render_extra, &value, &err);
        }
        metrics_free(&metrics);
        if (!fault_fired())
            break;
        check(code == E_EXHAUSTED, "fault %u was silent", nth);
    }
    fault_arm(0);
}
