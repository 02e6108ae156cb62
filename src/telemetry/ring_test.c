/* ring_test.c - rings against a plain list, full ones, and several writers with a reader that sleeps.
 * SPDX-License-Identifier: Apache-2.0 */
#include "telemetry/ring.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "test/harness.h"

static uint32_t woken;

static void count_wake(void *context)
{
    (void)context;
    woken++;
}

static bool put(struct rings *rings, uint32_t which, size_t asked, size_t size, uint8_t fill)
{
    uint8_t *at = ring_begin(&rings->rings[which], asked);

    if (at == NULL)
        return false;
    check((uintptr_t)at % 8 == 0, "aligned");
    memset(at, fill, size);
    ring_commit(rings, &rings->rings[which], size);
    return true;
}

/* 100,000 random steps: what is read is what was written, in order, and nothing is lost or found. */
TEST(a_ring_agrees_with_a_plain_list)
{
    enum { STEPS = 100000, KEPT = 4096 };
    static struct {
        size_t size;
        uint8_t fill;
    } list[KEPT];
    struct rings rings;
    size_t first = 0, count = 0, size;
    uint64_t dropped = 0, written = 0;
    const uint8_t *record;

    check_or_stop(rings_init(&rings, 1, 5000, count_wake, NULL, NULL) == OK, "memory");
    check(rings.rings[0].size == 8192, "a power of two");
    for (unsigned step = 0; step < STEPS; step++) {
        if (test_random_below(100) < 55) {
            size_t asked = (size_t)test_random_below(700);
            size_t used = (size_t)test_random_below(asked + 1);
            uint8_t fill = (uint8_t)test_random();
            if (!put(&rings, 0, asked, used, fill)) {
                dropped++;
                continue;
            }
            written++;
            list[(first + count) % KEPT].size = used;
            list[(first + count++) % KEPT].fill = fill;
            continue;
        }
        record = rings_next(&rings, &size);
        check_or_stop((record == NULL) == (count == 0), "step %u: %zu are there", step, count);
        if (record == NULL)
            continue;
        check_or_stop(size == list[first].size, "step %u: %zu bytes, not %zu", step, size,
                      list[first].size);
        for (size_t i = 0; i < size; i++)
            check_or_stop(record[i] == list[first].fill, "step %u", step);
        rings_done(&rings);
        first = (first + 1) % KEPT;
        count--;
    }
    check(rings_written(&rings) == written && rings_dropped(&rings) == dropped && dropped > 0,
          "%llu dropped", (unsigned long long)dropped);
    rings_deinit(&rings);
}

TEST(what_is_begun_and_not_committed_is_nothing)
{
    struct rings rings;
    size_t size;

    check_or_stop(rings_init(&rings, 2, 0, count_wake, NULL, NULL) == OK, "memory");
    for (unsigned i = 0; i < 1000; i++)
        check(ring_begin(&rings.rings[0], 900) != NULL, "%u", i);
    check(rings_next(&rings, &size) == NULL, "nothing");
    check(ring_begin(&rings.rings[0], RING_BYTES_MIN / 2) == NULL, "larger than a half");
    check(rings_dropped(&rings) == 1, "counted");
    for (unsigned i = 0; i < 4; i++)
        check(put(&rings, 1, 900, 900, (uint8_t)i), "%u", i);
    check(!put(&rings, 1, 900, 900, 9) && rings_dropped(&rings) == 2, "full");
    check(put(&rings, 0, 900, 900, 7), "the other has room");
    unsigned seen = 0;
    while (rings_next(&rings, &size) != NULL) {
        rings_done(&rings);
        seen++;
    }
    check(seen == 5, "%u", seen);
    rings_deinit(&rings);
}

TEST(the_reader_is_woken_when_it_is_time)
{
    struct rings rings;
    bool is_idle;
    size_t size;

    check_or_stop(rings_init(&rings, 1, 8192, count_wake, NULL, NULL) == OK, "memory");
    woken = 0;
    check(put(&rings, 0, 8, 8, 1) && woken == 0, "it is awake");
    check(!rings_may_sleep(&rings, false, &is_idle), "something is there");
    check(rings_next(&rings, &size) != NULL, "it is");
    rings_done(&rings);
    check(rings_may_sleep(&rings, false, &is_idle) && is_idle, "until it is woken");
    check(put(&rings, 0, 8, 8, 1) && woken == 1, "by the first");
    check(put(&rings, 0, 8, 8, 1) && woken == 1, "and only by that");
    while (rings_next(&rings, &size) != NULL)
        rings_done(&rings);
    check(rings_may_sleep(&rings, true, &is_idle) && !is_idle, "for a moment");
    unsigned until_woken = 0;
    while (woken == 1 && until_woken < 1000) {
        check_or_stop(put(&rings, 0, 100, 100, 1), "there is room");
        until_woken++;
    }
    check(until_woken >= 8192 / 2 / 112 && until_woken <= 8192 / 2 / 104 + 2,
          "woken after %u records, at a half", until_woken);
    rings_awake(&rings);
    rings_deinit(&rings);
}

TEST(rings_survive_every_fault)
{
    for_each_fault(nth) {
        struct rings rings;
        struct err err = { 0 };
        enum err_code code = rings_init(&rings, 3, 8192, count_wake, NULL, &err);
        if (code == OK)
            rings_deinit(&rings);
        if (!fault_fired())
            break;
        check(code == E_EXHAUSTED && err.text[0] != '\0', "fault %u", nth);
    }
}

/* -- threads ------------------------------------------------------------------------------------ */

enum { WRITERS = 3, RECORDS = 100000 };

static struct {
    struct rings rings;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_barrier_t barrier;
    bool is_woken;
    _Atomic uint32_t writing;
    uint64_t accepted[WRITERS];
} race;

static void race_wake(void *context)
{
    (void)context;
    pthread_mutex_lock(&race.mutex);
    race.is_woken = true;
    pthread_cond_signal(&race.changed);
    pthread_mutex_unlock(&race.mutex);
}

static void *writer(void *arg)
{
    uint32_t which = (uint32_t)(uintptr_t)arg;
    uint64_t number = 0;

    for (unsigned i = 0; i < RECORDS; i++) {
        size_t size = 16 + i % 97;
        uint64_t *at = ring_begin(&race.rings.rings[which], size);
        if (i % 20000 == 19999) { /* all at once, so that the reader gets to sleep */
            pthread_barrier_wait(&race.barrier);
            nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
        }
        if (at == NULL) {
            nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
            continue;
        }
        at[0] = which;
        at[1] = number++;
        memset(at + 2, (int)(number & 0xff), size - 16);
        ring_commit(&race.rings, &race.rings.rings[which], size);
    }
    race.accepted[which] = number;
    atomic_fetch_sub(&race.writing, 1);
    race_wake(NULL);
    return NULL;
}

/* Until woken. A wake that gets lost is found by the test: it would sleep for ever (10 s). */
static bool race_sleep(bool is_idle)
{
    struct timespec due;
    int error = 0;

    clock_gettime(CLOCK_REALTIME, &due);
    due.tv_nsec += is_idle ? 0 : 1000000;
    due.tv_sec += (is_idle ? 10 : 0) + due.tv_nsec / 1000000000;
    due.tv_nsec %= 1000000000;
    pthread_mutex_lock(&race.mutex);
    while (!race.is_woken && error == 0)
        error = pthread_cond_timedwait(&race.changed, &race.mutex, &due);
    race.is_woken = false;
    pthread_mutex_unlock(&race.mutex);
    return !is_idle || error == 0;
}

TEST(many_writers_and_one_reader_that_sleeps)
{
    pthread_t threads[WRITERS];
    uint64_t next[WRITERS] = { 0 }, sleeps = 0;
    bool has_worked, is_idle;
    size_t size;

    pthread_mutex_init(&race.mutex, NULL);
    pthread_cond_init(&race.changed, NULL);
    pthread_barrier_init(&race.barrier, NULL, WRITERS);
    race.writing = WRITERS;
    check_or_stop(rings_init(&race.rings, WRITERS, 16384, race_wake, NULL, NULL) == OK, "memory");
    for (uint32_t i = 0; i < WRITERS; i++)
        pthread_create(&threads[i], NULL, writer, (void *)(uintptr_t)i);
    for (;;) {
        const uint64_t *record;
        bool is_last = atomic_load(&race.writing) == 0;
        has_worked = false;
        while ((record = rings_next(&race.rings, &size)) != NULL) {
            check_or_stop(record[0] < WRITERS && record[1] == next[record[0]], "in order");
            next[record[0]]++;
            const uint8_t *rest = (const uint8_t *)(record + 2);
            for (size_t i = 0; i < size - 16; i++)
                check_or_stop(rest[i] == (uint8_t)next[record[0]], "whole");
            rings_done(&race.rings);
            has_worked = true;
        }
        if (is_last)
            break;
        if (!rings_may_sleep(&race.rings, has_worked, &is_idle))
            continue;
        sleeps += is_idle;
        check_or_stop(race_sleep(is_idle), "a wake was lost");
        rings_awake(&race.rings);
    }
    for (uint32_t i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
        check(next[i] == race.accepted[i], "%llu of %llu came", (unsigned long long)next[i],
              (unsigned long long)race.accepted[i]);
    }
    check(rings_written(&race.rings) + rings_dropped(&race.rings) == WRITERS * RECORDS,
          "every record was written or dropped");
    check(rings_written(&race.rings) > WRITERS * RECORDS / 10, "most are written: %llu",
          (unsigned long long)rings_written(&race.rings));
    check(sleeps > 0, "it slept in between");
    rings_deinit(&race.rings);
}
