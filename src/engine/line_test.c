/* line_test.c - who waits for a loop, clause by clause; and a loop whose turns are played through
 * on a clock of the test's own, at 0.9 and 3 times what it can do and beside one tenant at 50
 * times its share. SPDX-License-Identifier: Apache-2.0 */
#include "engine/line.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/def.h"
#include "test/harness.h"

#define MS NS_PER_MS
#define US NS_PER_US

static struct line line;
static const struct queue_tenant nobody = { 0, 1, "" };

static enum line_verdict ask_at(uint64_t now, uint64_t turn, uint64_t arrived, uint64_t deadline,
                                struct queue_tenant tenant, struct line_entry **victim)
{
    uint64_t wait, after;
    struct line_question question = { now, turn, arrived, deadline, tenant };

    return line_ask(&line, &question, &wait, &after, victim);
}

static enum line_verdict ask(uint64_t now, uint64_t turn)
{
    struct line_entry *victim;

    return ask_at(now, turn, turn, UINT64_MAX, nobody, &victim);
}

TEST(a_turn_runs_what_it_reads_until_its_time_is_up)
{
    uint64_t turn = 100 * NS_PER_S;
    struct line_entry one = { 0 };

    line_init(&line, NS_PER_S, 0);
    check(line_is_open(&line, turn, turn), "nobody waits");
    line_ran(&line, turn + LINE_TURN_NS - 1);
    check(line_is_open(&line, turn, turn), "there is time left");
    line_ran(&line, turn + LINE_TURN_NS);
    check(!line_is_open(&line, turn, turn), "its time is up");
    check(ask(turn + LINE_TURN_NS, turn) == LINE_WAIT, "who comes then waits");
    line_add(&line, &one, nobody);
    uint64_t next = turn + 600 * US;
    check(!line_is_open(&line, next, next), "and so does who is read in the next turn");
    check(ask(next, next) == LINE_WAIT, "behind it");
    check(line_let(&line, next) == 1 && line_next(&line) == &one && line_next(&line) == NULL,
          "it is let in");
    line_ran(&line, next + 100 * US);
    check(line_is_open(&line, next + 200 * US, next + 200 * US), "then the line is gone");
    check(!line_is_open(&line, next + 3 * MS, next), "a long turn of other work asks");
    check(ask_at(next + 3 * MS, next + 3 * MS, next, UINT64_MAX, nobody,
                 &(struct line_entry *){ 0 }) == LINE_GO,
          "and finds that there is time");
    line_deinit(&line);
}

TEST(a_turn_lets_in_as_many_as_run_in_its_time)
{
    static struct line_entry entries[400];
    uint64_t at = 100 * NS_PER_S;
    uint32_t left = COUNT(entries), most = 0;

    line_init(&line, NS_PER_S, 0);
    for (size_t i = 0; i < COUNT(entries); i++)
        line_add(&line, &entries[i], nobody);
    while (left > 0) {
        uint32_t count = line_let(&line, at);
        check(count >= 1 && count <= LINE_LET_NS / (25 * US), "%u", count);
        most = MAX(most, count);
        for (uint32_t i = 0; i < count && left > 0; i++, left--) {
            check(line_next(&line) == &entries[COUNT(entries) - left], "in order");
            line_ran(&line, at += 25 * US);
        }
    }
    check(most == LINE_LET_NS / (25 * US), "runs of 25 us: %u", most);
    line_deinit(&line);
}

TEST(what_is_let_in_and_does_not_run_is_no_run)
{
    static struct line_entry entries[64];
    uint64_t at = 100 * NS_PER_S;

    line_init(&line, NS_PER_S, 0);
    for (size_t i = 0; i < COUNT(entries); i++)
        line_add(&line, &entries[i], nobody);
    for (size_t i = 0; i < 30; i++) {
        check(line_let(&line, at += 10 * US) == 1 && line_next(&line) != NULL, "%zu", i);
        check(line.admission.drain_ns == 0, "its body has not come");
    }
    line_ran(&line, at += 400 * US);
    (void)line_let(&line, at);
    check(line.admission.drain_ns == 700 * US - 10 * US, "%llu",
          (unsigned long long)line.admission.drain_ns);
    while (line_next(&line) != NULL)
        ;
    line_deinit(&line);
}

TEST(a_line_is_bounded_and_its_places_are_shared)
{
    static struct line_entry loud[4], quiet;
    struct queue_tenant one = { 1, 1, "loud" }, other = { 2, 1, "quiet" };
    struct line_entry *victim = &quiet;
    uint64_t turn = 100 * NS_PER_S, now = turn + MS;

    line_init(&line, NS_PER_S, COUNT(loud));
    line_ran(&line, now);
    for (size_t i = 0; i < COUNT(loud); i++) {
        check(ask_at(now, turn, turn, UINT64_MAX, one, &victim) == LINE_WAIT && victim == NULL,
              "%zu", i);
        line_add(&line, &loud[i], one);
    }
    check(ask_at(now, turn, turn, UINT64_MAX, one, &victim) == LINE_FULL, "no more of the same");
    check(ask_at(now, turn, turn, UINT64_MAX, other, &victim) == LINE_WAIT && victim == &loud[3] &&
              victim->entry.flow == NULL && line.queue.waiting == 3,
          "the newest of who has most makes room");
    line_add(&line, &quiet, other);
    line_remove(&line, &loud[1]);
    check(line.queue.waiting == 3 && ask_at(now, turn, turn, UINT64_MAX, one, &victim) == LINE_WAIT,
          "who leaves makes room too");
    while (line_next(&line) != NULL)
        ;
    line_deinit(&line);
}

TEST(who_cannot_be_in_time_is_told)
{
    static struct line_entry entries[20];
    struct line_entry *victim;
    uint64_t at = 100 * NS_PER_S;

    line_init(&line, NS_PER_S, 0);
    check(ask_at(at, at, at - 5 * MS, at, nobody, &victim) == LINE_LATE, "its time is over");
    for (size_t i = 0; i < COUNT(entries); i++)
        line_add(&line, &entries[i], nobody);
    for (size_t i = 0; i < 10; i++) { /* a millisecond each is measured */
        (void)line_let(&line, at);
        check(line_next(&line) == &entries[i], "%zu", i);
        line_ran(&line, at += MS);
    }
    check(ask_at(at, at, at, at + 5 * MS, nobody, &victim) == LINE_DEADLINE, "ten in front of it");
    check(ask_at(at, at, at, at + 15 * MS, nobody, &victim) == LINE_WAIT, "it has the time");
    check(ask_at(at, at, at - 2 * NS_PER_S, UINT64_MAX, nobody, &victim) == LINE_BEHIND,
          "it has waited longer than --queue-delay in the socket");
    while (line_next(&line) != NULL)
        ;
    line_deinit(&line);
}

TEST(refusals_are_charged_with_what_they_take)
{
    static struct line_entry loud[2], quiet[2];
    struct queue_tenant one = { 1, 1, "loud" }, other = { 2, 1, "quiet" };
    struct line_entry *victim;
    uint64_t turn = 100 * NS_PER_S, now = turn;

    line_init(&line, NS_PER_S, 0);
    for (size_t i = 0; i < 2; i++)
        line_add(&line, &loud[i], one);
    for (size_t i = 0; i < 2; i++)
        line_add(&line, &quiet[i], other);
    for (unsigned i = 0; i < 200; i++)
        check(ask_at(now += 10 * US, turn, turn, turn, one, &victim) == LINE_LATE, "%u", i);
    check(line.refusal_ns > 9 * US && line.refusal_ns < 11 * US, "%llu ns",
          (unsigned long long)line.refusal_ns);
    now += MS;
    check(ask_at(now, turn, turn, turn, one, &victim) == LINE_LATE, "late");
    line_ran(&line, now += 50 * US);
    check(ask_at(now, turn, turn, turn, one, &victim) == LINE_LATE, "late");
    check(ask_at(now + 50 * US, turn + 20 * US, turn, turn, one, &victim) == LINE_LATE, "late");
    check(line.refusal_ns > 9 * US && line.refusal_ns < 11 * US,
          "an interruption, a run and another turn are no measure: %llu ns",
          (unsigned long long)line.refusal_ns);
    check(line_next(&line) == &quiet[0] && line_next(&line) == &quiet[1] &&
              line_next(&line) == &loud[0] && line_next(&line) == &loud[1],
          "who was refused so often has had more than the other");
    line_deinit(&line);
}

/* -- a loop, played through
 * ---------------------------------------------------------------------- */

enum { TENANTS = 5, MOST = 1 << 20, READY = 128 };

struct caller {
    struct line_entry place; /* first */
    uint64_t arrived;
    uint32_t tenant;
};

struct outcome {
    uint64_t p99_ns; /* of those that were run; where there are tenants, of all but the first */
    uint64_t refusal_p50_ns, refusal_p99_ns;
    double good;    /* in time, of what the loop can do */
    double refused; /* likewise: of those asked */
    double first_part;
    uint64_t first_p50_ns; /* of all runs */
};

static uint64_t state = 88172645463325252u;

static double uniform(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return ((double)(state >> 11) + 1) / 9007199254740994.0;
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static struct caller callers[MOST];
static uint64_t took[MOST], told[MOST], firsts[MOST];

struct play {
    uint64_t clock, begun, run_ns;
    const uint32_t *tenants;
    uint64_t deadline_ns;
    uint32_t took_count, told_count, counted, refused, runs, first_runs, late;
    bool is_alone; /* one tenant: it is counted */
};

static bool counts(const struct play *p, const struct caller *c)
{
    return c->arrived >= p->begun && (p->is_alone || c->tenant != 0);
}

static void run(struct play *p, struct caller *c)
{
    p->clock += p->run_ns;
    line_ran(&line, p->clock);
    if (c->arrived >= p->begun) {
        p->runs++;
        if (c->tenant == 0)
            firsts[p->first_runs++] = p->clock - c->arrived;
        p->late += p->clock > c->place.deadline_ns;
    }
    if (counts(p, c))
        took[p->took_count++] = p->clock - c->arrived;
}

static void refuse(struct play *p, const struct caller *c)
{
    if (c->arrived >= p->begun) {
        told[p->told_count++] = p->clock - c->arrived;
        p->refused += counts(p, c);
    }
}

/* Heads that are ready are read for `read_ns` each; runs take `run_ns`; tenants ask for `loads`
 * of what the loop can do. One turn after the other, as io/loop.c has them. */
static struct outcome play(const double *loads, uint32_t tenants, uint64_t run_ns, uint64_t read_ns,
                           uint64_t deadline_ns)
{
    struct play p = { .clock = 1000 * NS_PER_S,
                      .run_ns = run_ns,
                      .deadline_ns = deadline_ns,
                      .is_alone = tenants == 1 };
    uint64_t next[TENANTS], begin = p.clock, seen = p.clock, end;
    uint32_t used = 0;
    bool has_waited = false;

    state = 88172645463325252u;
    line_init(&line, NS_PER_S, 1000);
    p.begun = begin + 2 * NS_PER_S;
    end = p.begun + 20000 * (run_ns + read_ns);
    for (uint32_t t = 0; t < tenants; t++)
        next[t] = begin;
    for (;;) {
        uint64_t turn = p.clock, oldest = has_waited ? turn : seen;
        uint64_t arrived = oldest + (turn - oldest) / 2;
        uint32_t ready = 0;
        for (;;) {
            uint32_t who = 0;
            for (uint32_t t = 1; t < tenants; t++)
                who = next[t] < next[who] ? t : who;
            if (ready == READY || next[who] > turn || used == MOST)
                break;
            struct caller *c = &callers[used++];
            *c = (struct caller){ .arrived = next[who], .tenant = who };
            c->place.deadline_ns = deadline_ns == 0 ? UINT64_MAX : c->arrived + deadline_ns;
            next[who] += (uint64_t)(-log(uniform()) * (double)(run_ns + read_ns) / loads[who]);
            ready++;
            p.clock += read_ns;
            p.counted += counts(&p, c);
            if (line_is_open(&line, turn, oldest)) {
                run(&p, c);
                continue;
            }
            struct queue_tenant tenant = { who + 1, 1, "" };
            struct line_entry *victim;
            switch (ask_at(p.clock, turn, arrived, c->place.deadline_ns, tenant, &victim)) {
            case LINE_GO: run(&p, c); break;
            case LINE_WAIT:
                if (victim != NULL)
                    refuse(&p, (struct caller *)victim);
                line_add(&line, &c->place, tenant);
                break;
            default: refuse(&p, c);
            }
        }
        if (ready < READY)
            seen = turn;
        struct line_entry *place;
        uint64_t now = p.clock;
        for (uint32_t left = line.queue.waiting == 0 ? 0 : line_let(&line, now);
             left > 0 && (place = line_next(&line)) != NULL;) {
            if (place->deadline_ns <= now) {
                refuse(&p, (struct caller *)place);
                continue;
            }
            run(&p, (struct caller *)place);
            left--;
        }
        uint64_t soonest = UINT64_MAX;
        for (uint32_t t = 0; t < tenants; t++)
            soonest = MIN(soonest, next[t]);
        has_waited = line.queue.waiting == 0 && soonest > p.clock;
        if (has_waited)
            p.clock = soonest;
        if (p.clock >= end || used == MOST)
            break;
    }
    while (line_next(&line) != NULL)
        ;
    line_deinit(&line);
    qsort(took, p.took_count, sizeof took[0], by_value);
    qsort(firsts, p.first_runs, sizeof firsts[0], by_value);
    qsort(told, p.told_count, sizeof told[0], by_value);
    return (struct outcome){
        .p99_ns = took[p.took_count * 99 / 100],
        .refusal_p50_ns = told[p.told_count / 2],
        .refusal_p99_ns = told[p.told_count * 99 / 100],
        .good =
            (double)(p.runs - p.late) * (double)(run_ns + read_ns) / (double)(p.clock - p.begun),
        .refused = (double)p.refused / MAX((double)p.counted, 1),
        .first_part = (double)p.first_runs / (double)p.runs,
        .first_p50_ns = firsts[p.first_runs / 2],
    };
}

/* Reading and refusing costs too: what is left of the loop's time is the most that can be run. */
static double most(double load, uint64_t run_ns, uint64_t read_ns)
{
    double all = (double)(run_ns + read_ns);

    return MIN(load, (1 - load * (double)read_ns / all) * all / (double)run_ns);
}

#define READ_NS (4 * US)

TEST(more_than_a_loop_can_do)
{
    static const uint64_t runs[] = { 25 * US, 150 * US, 400 * US };
    static const uint64_t deadlines[] = { 0, 100 * MS };
    static const double loads[] = { 1.25, 2, 3 };

    for (size_t d = 0; d < COUNT(deadlines); d++)
        for (size_t i = 0; i < COUNT(runs); i++) {
            struct outcome calm = play((double[]){ 0.9 }, 1, runs[i], READ_NS, deadlines[d]);
            check(calm.refused < 0.01, "%zu, %zu: %.3f refused at 0.9", d, i, calm.refused);
            for (size_t l = 0; l < COUNT(loads); l++) {
                struct outcome much = play(&loads[l], 1, runs[i], READ_NS, deadlines[d]);
                double goal = most(loads[l], runs[i], READ_NS);
                check(much.good > MIN(goal, 1) - 0.01 && (runs[i] < 400 * US || much.good > 0.95),
                      "%zu, %zu, %zu: %.3f of %.3f", d, i, l, much.good, goal);
                check(much.refusal_p50_ns < 250 * US && much.refusal_p99_ns < 700 * US,
                      "%zu, %zu, %zu: refused in %llu and %llu us", d, i, l,
                      (unsigned long long)much.refusal_p50_ns / US,
                      (unsigned long long)much.refusal_p99_ns / US);
                check(much.p99_ns < MAX(2 * calm.p99_ns, 3 * MS),
                      "%zu, %zu, %zu: p99 %llu us, %llu at 0.9", d, i, l,
                      (unsigned long long)much.p99_ns / US, (unsigned long long)calm.p99_ns / US);
            }
        }
}

TEST(one_tenant_at_fifty_times_its_share_of_a_loop)
{
    static const uint64_t runs[] = { 400 * US, MS };
    static const uint64_t deadlines[] = { 0, 100 * MS };

    for (size_t d = 0; d < COUNT(deadlines); d++)
        for (size_t i = 0; i < COUNT(runs); i++) {
            struct outcome calm = play((double[]){ 0.2, 0.15, 0.15, 0.15, 0.15 }, TENANTS, runs[i],
                                       READ_NS, deadlines[d]);
            struct outcome much = play((double[]){ 10, 0.15, 0.15, 0.15, 0.15 }, TENANTS, runs[i],
                                       READ_NS, deadlines[d]);
            check(much.p99_ns < calm.p99_ns * 13 / 10,
                  "%zu, %zu: p99 of the others %llu us, %llu beside the loud one", d, i,
                  (unsigned long long)calm.p99_ns / US, (unsigned long long)much.p99_ns / US);
            check(much.refused < 0.01 && calm.refused < 0.01, "%.4f of the others' were refused",
                  much.refused);
            check(much.first_p50_ns < 32 * runs[i],
                  "%zu, %zu: and what of that is let in is run soon: %llu us", d, i,
                  (unsigned long long)much.first_p50_ns / US);
            check(much.first_part > 0.25 && much.first_part < 0.45,
                  "what the others leave is the loud one's: %.3f", much.first_part);
        }
}
