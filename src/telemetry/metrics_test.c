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

/* At each end of each bucket and at every power of two, against going through them one by one. */
TEST(histograms_find_their_bucket)
{
    for (unsigned i = 0; i < 64 + STAT_BUCKETS - 1; i++)
        for (int beside = -1; beside <= 1; beside++) {
            uint64_t ns =
                i < 64 ? UINT64_C(1) << i : (uint64_t)(stat_bucket_seconds[i - 64] * 1e9 + 0.5);
            struct stat_histogram h = { 0 };
            unsigned wanted = 0;
            ns += (uint64_t)(int64_t)beside;
            while (wanted < STAT_BUCKETS - 1 &&
                   ns > (uint64_t)(stat_bucket_seconds[wanted] * 1e9 + 0.5))
                wanted++;
            stat_histogram_add(&h, ns);
            check(stat_read(&h.buckets[wanted]) == 1, "%llu ns", (unsigned long long)ns);
        }
}

TEST(metrics_histograms)
{
    uint64_t sums[STAT_SUMS] = {
        [0] = 2, [3] = 1, [STAT_BUCKETS - 1] = 4, [STAT_BUCKETS] = 1500000000
    };
    struct text out;

    text_init(&out, 1 << 16);
    metrics_histogram(&out, "h", "a=\"b\"", sums);
    const char *words = text_cstr(&out);
    check(strstr(words, "h_bucket{a=\"b\",le=\"1e-06\"} 2\n") == words, "%s", words);
    check(strstr(words, "h_bucket{a=\"b\",le=\"1e-05\"} 3\n") != NULL, "%s", words);
    check(strstr(words, "h_bucket{a=\"b\",le=\"10\"} 3\nh_bucket{a=\"b\",le=\"+Inf\"} 7\n"
                        "h_sum{a=\"b\"} 1.5\nh_count{a=\"b\"} 7\n") != NULL,
          "%s", words);
    out.size = 0;
    metrics_histogram(&out, "h", "", sums);
    check(strstr(text_cstr(&out), "h_bucket{le=\"5e-06\"} 2\n") != NULL, "%s", text_cstr(&out));
    check(strstr(text_cstr(&out), "h_count 7\n") != NULL, "%s", text_cstr(&out));
    text_deinit(&out);
}

TEST(metrics_as_openmetrics)
{
    static const char from[] = "# HELP seen_total What was \"seen\"\n"
                               "# TYPE seen_total counter\n"
                               "seen_total{le=\"7\",a=\"le=\\\"1\"} 3\n"
                               "# HELP nv_count Theirs\n"
                               "# TYPE nv_count counter\n"
                               "nv_count 4\n"
                               "# HELP open Open\n"
                               "# TYPE open gauge\n"
                               "open 1\n"
                               "# HELP open_total Opened\n"
                               "# TYPE open_total counter\n"
                               "open_total 2\n"
                               "# HELP took Time\n"
                               "# TYPE took histogram\n"
                               "took_bucket{x=\"}\",le=\"1\"} 1\n"
                               "took_bucket{le=\"10\"} 1\n"
                               "took_bucket{le=\"0.1\"} 1\n"
                               "took_bucket{le=\"+Inf\"} 1\n"
                               "took_sum 5\n"
                               "took_count 1\n";
    static const char expected[] = "# TYPE seen counter\n"
                                   "# HELP seen What was \\\"seen\\\"\n"
                                   "seen_total{le=\"7\",a=\"le=\\\"1\"} 3\n"
                                   "# TYPE nv_count unknown\n"
                                   "# HELP nv_count Theirs\n"
                                   "nv_count 4\n"
                                   "# TYPE open gauge\n"
                                   "# HELP open Open\n"
                                   "open 1\n"
                                   "# TYPE open_total unknown\n"
                                   "# HELP open_total Opened\n"
                                   "open_total 2\n"
                                   "# TYPE took histogram\n"
                                   "# HELP took Time\n"
                                   "took_bucket{x=\"}\",le=\"1.0\"} 1\n"
                                   "took_bucket{le=\"10.0\"} 1\n"
                                   "took_bucket{le=\"0.1\"} 1\n"
                                   "took_bucket{le=\"+Inf\"} 1\n"
                                   "took_sum 5\n"
                                   "took_count 1\n"
                                   "# EOF\n";
    struct text out;

    text_init(&out, 1 << 16);
    metrics_openmetrics(slice_of(from), &out);
    check(slice_is(text_slice(&out), expected), "got\n%s", text_cstr(&out));
    out.size = 0;
    metrics_openmetrics(slice_of(""), &out);
    check(slice_is(text_slice(&out), "# EOF\n"), "got\n%s", text_cstr(&out));
    text_deinit(&out);
}
