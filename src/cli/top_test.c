/* top_test.c - rates, quantiles and lines from two looks. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <yyjson.h>

#include "base/text.h"
#include "cli/top_show.h"
#include "test/harness.h"

static struct top_count *look(const char *text, const struct top_count *before, double seconds)
{
    struct top_count *count = NULL;
    struct err err = { 0 };

    check(top_count_new(&count, slice_of(text), before, seconds, &err) == OK, "%s", err.text);
    return count;
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fmax(1, fabs(b));
}

static const char first[] =
    "# TYPE penstock_requests_total counter\n"
    "penstock_build_info{version=\"1.2.3\",compiler=\"gcc\"} 1\n"
    "process_start_time_seconds 1000\n"
    "process_cpu_seconds_total 10\n"
    "penstock_requests_total{route=\"/a\",method=\"GET\",code=\"200\"} 100\n"
    "penstock_requests_total{route=\"/a\",method=\"GET\",code=\"500\"} 5\n"
    "penstock_requests_total{route=\"\",method=\"GET\",code=\"404\"} 1\n"
    "penstock_limit_hits_total{limit=\"max-body\"} 3\n"
    "penstock_limit_hits_total{limit=\"headers-max\"} 0\n"
    "penstock_loop_busy_seconds_total{loop=\"0\"} 1\n"
    "penstock_loop_busy_seconds_total{loop=\"1\"} 2\n"
    "penstock_model_ready{model=\"m\",version=\"1\"} 1\n"
    "penstock_model_ready{model=\"broken\",version=\"2\"} 0\n"
    "nv_inference_request_success{model=\"m\",version=\"1\"} 50\n"
    "penstock_connections_open 3\n";

static const char second[] =
    "penstock_build_info{version=\"1.2.3\",compiler=\"gcc\"} 1\n"
    "process_start_time_seconds 1000\n"
    "process_cpu_seconds_total 11\n"
    "penstock_requests_total{route=\"/a\",method=\"GET\",code=\"200\"} 140\n"
    "penstock_requests_total{route=\"/a\",method=\"GET\",code=\"500\"} 15\n"
    "penstock_requests_total{route=\"/a\",method=\"GET\",code=\"499\"} 2\n"
    "penstock_requests_total{route=\"/p.S/M\",method=\"POST\",code=\"RESOURCE_EXHAUSTED\"} 4\n"
    "penstock_requests_total{route=\"\",method=\"GET\",code=\"404\"} 1\n"
    "penstock_route_seconds_bucket{route=\"/a\",le=\"0.1\"} 10\n"
    "penstock_route_seconds_bucket{route=\"/a\",le=\"1\"} 90\n"
    "penstock_route_seconds_bucket{route=\"/a\",le=\"+Inf\"} 100\n"
    "penstock_tenant_requests_total{tenant=\"red\",code=\"429\"} 6\n"
    "penstock_tenant_requests_total{tenant=\"red\",code=\"200\"} 2\n"
    "penstock_tenant_requests_total{tenant=\"blue\",code=\"403\"} 2\n"
    "penstock_limit_hits_total{limit=\"max-body\"} 7\n"
    "penstock_limit_hits_total{limit=\"headers-max\"} 0\n"
    "penstock_loop_busy_seconds_total{loop=\"0\"} 2\n"
    "penstock_loop_busy_seconds_total{loop=\"1\"} 2.5\n"
    "penstock_model_ready{model=\"m\",version=\"1\"} 1\n"
    "penstock_model_ready{model=\"broken\",version=\"2\"} 0\n"
    "nv_inference_request_success{model=\"m\",version=\"1\"} 60\n"
    "nv_inference_request_failure{model=\"m\",version=\"1\",reason=\"BACKEND\"} 4\n"
    "nv_inference_request_failure{model=\"m\",version=\"1\",reason=\"CANCELED\"} 6\n"
    "nv_inference_pending_request_count{model=\"m\",version=\"1\"} 9\n"
    "penstock_connections_open 5\n";

static const struct top_row *row_of(const struct top_count *count, enum top_kind kind,
                                    const char *name)
{
    for (uint32_t i = 0; i < count->lists[kind].count; i++)
        if (strcmp(count->lists[kind].rows[i].name, name) == 0)
            return &count->lists[kind].rows[i];
    static const struct top_row none = { .requests = -1 };
    check(false, "no row '%s'", name);
    return &none;
}

TEST(a_first_look_has_no_rates)
{
    struct top_count *count = look(first, NULL, 0);

    check_or_stop(count != NULL, "look");
    check(!count->has_rates && isnan(count->requests) && count->limits_count == 0, "rates");
    check(count->connections == 3 && strcmp(count->version, "1.2.3") == 0, "what is now");
    check(isnan(row_of(count, TOP_ROUTES, "/a")->requests), "a row's");
    top_count_free(&count);
}

TEST(two_looks_give_rates)
{
    struct top_count *a = look(first, NULL, 0), *b = look(second, a, 2);

    check_or_stop(a != NULL && b != NULL, "look");
    check(b->has_rates && !b->is_anew, "rates");
    check(near(b->requests, 28) && near(b->errors, 7), "%g, %g", b->requests, b->errors);
    check(near(b->cpu, 0.5) && b->connections == 5, "%g", b->cpu);
    const struct top_row *route = row_of(b, TOP_ROUTES, "/a");
    check(near(route->requests, 26) && near(route->errors, 5), "%g %g", route->requests,
          route->errors);
    check(near(row_of(b, TOP_ROUTES, "/p.S/M")->errors, 2), "new since the first look");
    check(near(top_quantile(&route->times, 0.5), 0.1 + 0.9 * 40 / 80), "%g",
          top_quantile(&route->times, 0.5));
    check(isinf(top_quantile(&route->times, 0.99)), "past the last bound");
    const struct top_row *model = row_of(b, TOP_MODELS, "m");
    check(near(model->requests, 10) && near(model->errors, 2) && model->queued == 9 &&
              model->is_ready,
          "%g %g", model->requests, model->errors);
    check(!row_of(b, TOP_MODELS, "broken")->is_ready, "broken");
    check(near(row_of(b, TOP_TENANTS, "red")->refused, 3) &&
              near(row_of(b, TOP_TENANTS, "red")->requests, 4) &&
              near(row_of(b, TOP_TENANTS, "blue")->refused, 1),
          "tenants");
    check(b->limits_count == 1 && strcmp(b->limits[0].name, "max-body") == 0 &&
              near(b->limits[0].hits, 2),
          "limits");
    check(b->loops_count == 2 && near(b->loops_busy[0], 0.5) && near(b->loops_busy[1], 0.25),
          "loops");
    top_count_free(&a);
    check(near(b->requests, 28), "it needs the look before no more");
    top_count_free(&b);
}

TEST(a_server_that_was_restarted_is_looked_at_anew)
{
    struct top_count *a = look(second, NULL, 0);
    struct top_count *b =
        look("process_start_time_seconds 2000\n"
             "penstock_requests_total{route=\"/a\",method=\"GET\",code=\"200\"} 1\n",
             a, 2);

    check_or_stop(a != NULL && b != NULL, "look");
    check(b->is_anew && !b->has_rates && isnan(b->requests), "anew");
    struct top_count *c =
        look("penstock_requests_total{route=\"/a\",method=\"GET\",code=\"200\"} 0\n", b, 1);
    check(c != NULL && near(c->requests, 0), "a counter that fell has begun anew");
    top_count_free(&a);
    top_count_free(&b);
    top_count_free(&c);
}

TEST(a_start_that_is_no_time_does_not_look_like_a_new_one_for_ever)
{
    static const char *const values[] = { "NaN", "-Inf", "+Inf" };

    for (size_t i = 0; i < COUNT(values); i++) {
        char page[256];
        snprintf(page, sizeof page, "process_start_time_seconds %s\npenstock_requests_total 1\n",
                 values[i]);
        struct top_count *a = look(page, NULL, 0), *b = look(page, a, 1);
        check(a != NULL && b != NULL && b->has_rates && !b->is_anew, "%s", values[i]);
        top_count_free(&a);
        top_count_free(&b);
    }
}

TEST(what_is_no_penstock_is_said)
{
    struct top_count *count = NULL;
    struct err err = { 0 };

    check(top_count_new(&count, slice_of("go_goroutines 7\n"), NULL, 0, &err) == E_DATA_LOSS &&
              count == NULL,
          "%s", err.text);
    check(top_count_new(&count, slice_of("<html>\n"), NULL, 0, &err) == E_DATA_LOSS &&
              count == NULL,
          "%s", err.text);
    check(top_count_new(&count, slice_of(""), NULL, 0, &err) == E_DATA_LOSS && count == NULL, "%s",
          err.text);
}

TEST(quantiles)
{
    static const struct {
        double q, seconds;
    } cases[] = { { 0.0, 0 }, { 0.05, 0.5 }, { 0.1, 1 }, { 0.5, 2 - 4.0 / 8 }, { 0.9, 2 } };
    struct top_times times = { .count = 4,
                               .bounds = { 1, 2, 5, INFINITY },
                               .counts = { 10, 90, 90, 100 } };
    struct top_times none = { .count = 2, .bounds = { 1, INFINITY } };

    for (size_t i = 0; i < COUNT(cases); i++)
        check(near(top_quantile(&times, cases[i].q), cases[i].seconds), "%g: %g", cases[i].q,
              top_quantile(&times, cases[i].q));
    check(isinf(top_quantile(&times, 0.95)), "past the last");
    check(isnan(top_quantile(&none, 0.5)), "nothing happened");
}

TEST(lines_for_people)
{
    struct top_count *a = look(first, NULL, 0), *b = look(second, a, 2);
    struct top_shown how = { .url = "http://x", .now = 1000 + 3 * 3600 + 60 };
    struct text out;

    check_or_stop(b != NULL, "look");
    text_init(&out, 1 << 20);
    top_show(&out, b, &how);
    const char *words = text_cstr(&out);
    check(strstr(words, "penstock 1.2.3  http://x  up 3h1m\n") == words, "%s", words);
    check(strstr(words, "requests  28/s   errors 25%   in flight 0") != NULL, "%s", words);
    check(strstr(words, "limits hit max-body 2/s\n") != NULL, "%s", words);
    check(strstr(words, "/a ") != NULL && strstr(words, "(no such path)") != NULL, "%s", words);
    check(strstr(words, "broken:2") != NULL && strstr(words, "not ready") != NULL, "%s", words);
    check(strstr(words, "   550.0ms    >1s") != NULL || strstr(words, "550ms     >1s") != NULL,
          "%s", words);
    check(strstr(words, "TENANT") != NULL && strchr(words, '\033') == NULL, "%s", words);
    text_deinit(&out);
    top_count_free(&a);
    top_count_free(&b);
}

/* Whatever is there, a frame has no line wider than the terminal and no more lines than fit. */
TEST(frames_fit_the_terminal)
{
    struct text page, out;
    struct err err = { 0 };

    text_init(&page, 1 << 20);
    text_str(&page, "penstock_build_info{version=\"1\"} 1\n");
    for (unsigned i = 0; i < 40; i++) {
        text_printf(
            &page,
            "penstock_requests_total{route=\"/a/very/long/route/%u/\xc3\xa4\xc3\xb6%s\",code=\"200\"} 1\n",
            i,
            i % 7 == 0 ? "\\n\\\"and/a/name/that/is/longer/than/any/terminal/is/wide/and/goes/on"
                       : "");
        text_printf(&page, "penstock_model_ready{model=\"m%u\",version=\"1\"} %u\n", i, i % 2);
        text_printf(&page,
                    "penstock_tenant_requests_total{tenant=\"t%u\x1b[2J\",code=\"200\"} %u\n", i,
                    i);
    }
    for (uint32_t lines = 1; lines < 60; lines += 3)
        for (uint32_t columns = 1; columns < 140; columns += 9) {
            struct top_count *count = NULL;
            struct top_shown how = {
                .url = "http://x", .columns = columns, .lines = lines, .note = "n"
            };
            uint32_t width = 0, height = 0;
            check_or_stop(top_count_new(&count, text_slice(&page), NULL, 0, &err) == OK, "%s",
                          err.text);
            text_init(&out, 1 << 20);
            top_show(&out, count, &how);
            for (size_t i = 0; i < out.size; i++) {
                check_or_stop(out.data[i] != '\033', "an escape got through");
                height += out.data[i] == '\n';
                width = out.data[i] == '\n' ? 0 : width + ((out.data[i] & 0xc0) != 0x80);
                check_or_stop(width <= columns, "%ux%u: too wide", columns, lines);
            }
            check(height <= MAX(lines, 2u) - 1, "%ux%u: %u lines", columns, lines, height);
            text_deinit(&out);
            top_count_free(&count);
        }
    text_deinit(&page);
}

TEST(one_line_of_json)
{
    struct top_count *a = look(first, NULL, 0), *b = look(second, a, 2);
    struct top_shown how = { .url = "http://x\"\n" };
    struct text out;

    check_or_stop(b != NULL, "look");
    text_init(&out, 1 << 20);
    for (unsigned i = 0; i < 2; i++) {
        out.size = 0;
        top_show_json(&out, i == 0 ? a : b, &how);
        check(out.size > 0 && slice_find(text_slice(&out), '\n') == out.size - 1, "not a line");
        yyjson_doc *doc = yyjson_read((const char *)out.data, out.size, 0);
        check(doc != NULL, "%s", text_cstr(&out));
        yyjson_val *root = yyjson_doc_get_root(doc);
        check(yyjson_is_null(yyjson_obj_get(root, "requests_per_second")) == (i == 0), "%s",
              text_cstr(&out));
        if (i == 1) {
            yyjson_val *route = yyjson_arr_get_first(yyjson_obj_get(root, "routes"));
            check(strcmp(yyjson_get_str(yyjson_obj_get(route, "route")), "/a") == 0 &&
                      near(yyjson_get_num(yyjson_obj_get(route, "requests_per_second")), 26) &&
                      near(yyjson_get_num(yyjson_obj_get(route, "p99_seconds")), 1),
                  "%s", text_cstr(&out));
        }
        yyjson_doc_free(doc);
    }
    text_deinit(&out);
    top_count_free(&a);
    top_count_free(&b);
}

TEST(top_survives_every_fault)
{
    struct top_count *a = look(first, NULL, 0);

    for_each_fault(nth) {
        struct top_count *b = NULL;
        struct err err = { 0 };
        enum err_code code = top_count_new(&b, slice_of(second), a, 2, &err);
        check((code == OK) == (b != NULL) && (code == OK || code == E_EXHAUSTED), "%u: %s", nth,
              err.text);
        top_count_free(&b);
        if (!fault_fired())
            break;
    }
    top_count_free(&a);
}
