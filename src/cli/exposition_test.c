/* exposition_test.c - samples as they are written, and what is none. SPDX-License-Identifier: Apache-2.0 */
#include "cli/exposition.h"

#include <math.h>
#include <stdlib.h>

#include "base/text.h"
#include "test/harness.h"

static const struct {
    const char *line;
    const char *name, *labels;
    double value;
} good[] = {
    { "up 1", "up", "", 1 },
    { "  up   1.5  ", "up", "", 1.5 },
    { "a:b_C9{x=\"y\"} -3e-05", "a:b_C9", "x=\"y\"", -3e-05 },
    { "a{} 7", "a", "", 7 },
    { "a{x=\"1\",y=\"2\"} 18446744073709551615", "a", "x=\"1\",y=\"2\"", 18446744073709551615.0 },
    { "a{x=\"1\",} 7", "a", "x=\"1\",", 7 },
    { "a { x = \"1\" , y=\"2\" } 7", "a", NULL, 0 },
    { "a{ x = \"1\" , y=\"2\" } 7", "a", " x = \"1\" , y=\"2\" ", 7 },
    { "a{x=\"}\"} 7", "a", "x=\"}\"", 7 },
    { "a{x=\"\\\"} 1\\n\\\\\"} 7", "a", "x=\"\\\"} 1\\n\\\\\"", 7 },
    { "a{x=\"\"} +Inf", "a", "x=\"\"", INFINITY },
    { "a -Inf", "a", "", -INFINITY },
    { "a 3 1395066363000", "a", "", 3 },
    { "a_bucket{le=\"0.1\"} 8 # {trace_id=\"abc\"} 0.067", "a_bucket", "le=\"0.1\"", 8 },
};

TEST(exposition_samples)
{
    for (size_t i = 0; i < COUNT(good); i++) {
        struct exposition at = { .rest = slice_of(good[i].line) };
        struct exposition_sample sample;
        struct err err;
        bool is_one = exposition_next(&at, &sample, &err);
        if (good[i].labels == NULL) {
            check(!is_one && err.code == E_DATA_LOSS, "%s", good[i].line);
            continue;
        }
        check_or_stop(is_one, "%s: %s", good[i].line, err.text);
        check(slice_is(sample.name, good[i].name) && slice_is(sample.labels, good[i].labels) &&
                  sample.value == good[i].value,
              "%s: %.*s, %.*s, %g", good[i].line, SLICE_ARG(sample.name), SLICE_ARG(sample.labels),
              sample.value);
        check(!exposition_next(&at, &sample, &err) && err.code == OK, "%s: more", good[i].line);
    }
}

TEST(exposition_refuses_what_is_no_sample)
{
    static const struct {
        const char *line, *wanted;
    } cases[] = {
        { "{x=\"1\"} 3", "the name of a metric" },
        { "9a 3", "the name of a metric" },
        { "<html>", "the name of a metric" },
        { "a{x=\"1\" 3", "labels" },
        { "a{x=1} 3", "labels" },
        { "a{x} 3", "labels" },
        { "a{x=\"1} 3", "labels" },
        { "a{x=\"1\\\"} 3", "labels" },
        { "a{x=\"1\"y=\"2\"} 3", "labels" },
        { "a{,} 3", "labels" },
        { "a", "a number" },
        { "a{x=\"1\"}", "a number" },
        { "a 1,5", "a number" },
        { "a 1.2.3", "a number" },
        { "a NaNs", "a number" },
        { "a 1111111111111111111111111111111111111111111111111111111111111111111", "a number" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[256];
        struct err err;
        struct text out;
        text_init_fixed(&out, text, sizeof text);
        text_str(&out, "# HELP a\n\nok 1\n");
        text_str(&out, cases[i].line);
        struct exposition at = { .rest = text_slice(&out) };
        struct exposition_sample sample;
        check(exposition_next(&at, &sample, &err), "%s: the line before", cases[i].line);
        check(!exposition_next(&at, &sample, &err) && err.code == E_DATA_LOSS, "%s", cases[i].line);
        check(strncmp(err.text, "line 4 of the metrics is '", 26) == 0 &&
                  strstr(err.text, cases[i].wanted) != NULL,
              "%s: %s", cases[i].line, err.text);
    }
}

TEST(exposition_labels_and_escapes)
{
    struct slice labels = slice_of("a=\"1\",b=\"x\\\\y\\\"z\\n\\q\",c=\"\"");
    struct text out;
    char bytes[64];

    text_init_fixed(&out, bytes, sizeof bytes);
    check(slice_is(exposition_label(labels, "a"), "1"), "a");
    check(exposition_label(labels, "c").data != NULL && exposition_label(labels, "c").size == 0,
          "c");
    check(exposition_label(labels, "d").data == NULL, "d");
    exposition_unescape(&out, exposition_label(labels, "b"));
    check(slice_is(text_slice(&out), "x\\y\"z\nq"), "%.*s", (int)out.size, bytes);
}
