/* series_test.c - series against a plain list, their limit, and who counts while others look.
 * SPDX-License-Identifier: Apache-2.0 */
#include "telemetry/series.h"

#include <pthread.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/text.h"
#include "test/harness.h"

static const char *const labels[] = { "route", "code" };

static struct series *make(struct series_limit *limit, uint32_t shards)
{
    struct series *series = NULL;
    struct err err = { 0 };

    require(series_new(&series, labels, 2, 2, shards, limit, &err) == OK);
    return series;
}

static _Atomic uint64_t *at(struct series *series, uint32_t shard, const char *route,
                            const char *code)
{
    struct slice values[] = { slice_of(route), slice_of(code) };

    return series_at(series, shard, values);
}

TEST(series_agree_with_a_plain_table)
{
    enum { ROUTES = 40, CODES = 7, SHARDS = 3 };
    struct series_limit limit = { .max = 1000 };
    struct series *series = make(&limit, SHARDS);
    static uint64_t plain[ROUTES][CODES][2];
    struct series_snapshot snapshot;
    uint32_t met = 0;

    memset(plain, 0, sizeof plain);
    for (uint32_t step = 0; step < 10000; step++) {
        uint64_t i = test_random_below(ROUTES), j = test_random_below(CODES);
        uint64_t n = test_random_below(1000);
        char route[32], code[32];
        snprintf(route, sizeof route, "/route/%llu", (unsigned long long)i);
        snprintf(code, sizeof code, "%llu", (unsigned long long)(200 + j));
        _Atomic uint64_t *counters = at(series, (uint32_t)test_random_below(SHARDS), route, code);
        stat_add(&counters[0], 1);
        stat_add(&counters[1], n);
        plain[i][j][0]++;
        plain[i][j][1] += n;
    }
    series_snapshot_take(series, &snapshot);
    for (uint32_t k = 0; k < snapshot.count; k++) {
        unsigned i = 0, j = 0;
        struct text room;
        char bytes[64];
        text_init_fixed(&room, bytes, sizeof bytes);
        const char *words = series_labels(series, &snapshot.rows[k], &room);
        check_or_stop(sscanf(words, "route=\"/route/%u\",code=\"%u\"", &i, &j) == 2, "%s", words);
        check(snapshot.rows[k].counters[0] == plain[i][j - 200][0] &&
                  snapshot.rows[k].counters[1] == plain[i][j - 200][1],
              "%s", words);
        met += plain[i][j - 200][0] > 0;
    }
    check(met == snapshot.count && limit.used == met && limit.refused == 0, "%u of %u", met,
          snapshot.count);
    series_snapshot_give(&snapshot);
    series_free(&series);
}

TEST(series_are_sorted_and_escaped)
{
    struct series_limit limit = { .max = 10 };
    struct series *series = make(&limit, 1);
    struct series_snapshot snapshot;
    struct text room;

    text_init(&room, 1 << 16);
    stat_add(at(series, 0, "b", "1"), 1);
    stat_add(at(series, 0, "", "x\"\n\\"), 1);
    stat_add(at(series, 0, "b", ""), 1);
    stat_add(at(series, 0, "ab", "1"), 1);
    series_snapshot_take(series, &snapshot);
    check_or_stop(snapshot.count == 4, "%u", snapshot.count);
    check(strcmp(series_labels(series, &snapshot.rows[0], &room),
                 "route=\"\",code=\"x\\\"\\n\\\\\"") == 0,
          "%s", text_cstr(&room));
    check(slice_is(snapshot.rows[1].values[0], "ab") && slice_is(snapshot.rows[2].values[1], "") &&
              slice_is(snapshot.rows[3].values[1], "1"),
          "not sorted");
    series_snapshot_give(&snapshot);
    series_free(&series);
    text_deinit(&room);
}

/* Two families share the limit; what is past it is counted together, and nothing is lost. */
TEST(series_past_their_limit_are_other)
{
    struct series_limit limit = { .max = 5 };
    struct series *one = make(&limit, 2), *two = make(&limit, 2);
    struct series_snapshot snapshot;
    uint64_t others = 0, all = 0;
    char route[32];

    for (uint32_t i = 0; i < 100; i++) {
        snprintf(route, sizeof route, "/%u", i % 10);
        stat_add(at(i % 2 == 0 ? one : two, i % 4 / 2, route, "200"), 1);
    }
    check(limit.used == 5, "%u", limit.used);
    series_snapshot_take(one, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        all += snapshot.rows[i].counters[0];
        if (slice_is(snapshot.rows[i].values[0], "other"))
            others += snapshot.rows[i].counters[0];
    }
    series_snapshot_give(&snapshot);
    series_snapshot_take(two, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        all += snapshot.rows[i].counters[0];
        if (slice_is(snapshot.rows[i].values[0], "other"))
            others += snapshot.rows[i].counters[0];
    }
    series_snapshot_give(&snapshot);
    check(all == 100 && others == 50 && limit.refused == others, "%llu, %llu, %llu",
          (unsigned long long)all, (unsigned long long)others, (unsigned long long)limit.refused);
    series_free(&one);
    series_free(&two);
}

TEST(a_label_longer_than_any_of_ours_is_other)
{
    struct series_limit limit = { .max = 5 };
    struct series *series = make(&limit, 1);
    static char longest[1000];

    memset(longest, 'x', sizeof longest - 1);
    check(at(series, 0, longest, "200") == at(series, 0, longest, "404"), "not the same");
    check(limit.used == 0 && limit.refused == 2, "%u", limit.used);
    series_free(&series);
}

TEST(series_survive_every_fault)
{
    for_each_fault(nth) {
        struct series_limit limit = { .max = 100 };
        struct series *series = NULL;
        struct err err = { 0 };
        uint64_t sum = 0;
        if (series_new(&series, labels, 2, 2, 2, &limit, &err) == OK) {
            struct series_snapshot snapshot;
            char route[32];
            for (uint32_t i = 0; i < 80; i++) {
                snprintf(route, sizeof route, "/%u", i);
                stat_add(at(series, i % 2, route, "200"), 1);
            }
            bool has_fired = fault_fired();
            series_snapshot_take(series, &snapshot);
            for (uint32_t i = 0; i < snapshot.count; i++)
                sum += snapshot.rows[i].counters[0];
            series_snapshot_give(&snapshot);
            check(sum == 80 || (sum == 0 && !has_fired && fault_fired()), "%u: %llu", nth,
                  (unsigned long long)sum);
            check(limit.used <= 80, "%u", limit.used);
        }
        series_free(&series);
        if (!fault_fired())
            break;
    }
}

/* -- several threads --------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 20000 };

struct counter {
    struct series *series;
    uint32_t shard;
    _Atomic bool *is_over;
};

static void *count_many(void *arg)
{
    struct counter *c = arg;
    char route[32];

    for (uint32_t i = 0; i < ROUNDS; i++) {
        snprintf(route, sizeof route, "/%u", i % 300);
        stat_add(at(c->series, c->shard, route, i / 300 % 2 == 0 ? "404" : "200"), 1);
    }
    return NULL;
}

static void *look_often(void *arg)
{
    struct counter *c = arg;
    uint64_t before = 0;

    while (!atomic_load(c->is_over)) {
        struct series_snapshot snapshot;
        uint64_t sum = 0;
        series_snapshot_take(c->series, &snapshot);
        for (uint32_t i = 0; i < snapshot.count; i++)
            sum += snapshot.rows[i].counters[0];
        series_snapshot_give(&snapshot);
        check(sum >= before, "counters go backwards: %llu, %llu", (unsigned long long)before,
              (unsigned long long)sum);
        before = sum;
    }
    return NULL;
}

TEST(series_are_counted_by_many_and_looked_at)
{
    struct series_limit limit = { .max = 400 }; /* of 600: the rest is "other" */
    struct series *series = make(&limit, THREADS);
    pthread_t threads[THREADS], looker;
    struct counter counters[THREADS + 1];
    struct series_snapshot snapshot;
    _Atomic bool is_over = false;
    uint64_t sum = 0;

    for (uint32_t i = 0; i <= THREADS; i++)
        counters[i] = (struct counter){ series, i, &is_over };
    require(pthread_create(&looker, NULL, look_often, &counters[THREADS]) == 0);
    for (uint32_t i = 0; i < THREADS; i++)
        require(pthread_create(&threads[i], NULL, count_many, &counters[i]) == 0);
    for (uint32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&is_over, true);
    pthread_join(looker, NULL);
    series_snapshot_take(series, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++)
        sum += snapshot.rows[i].counters[0];
    check(sum == (uint64_t)THREADS * ROUNDS, "%llu", (unsigned long long)sum);
    check(snapshot.count == 401 && limit.used == 400 && limit.refused > 0, "%u", snapshot.count);
    series_snapshot_give(&snapshot);
    series_free(&series);
}
