/* queue_test.c - who is next, and who loses its place, against a plain model of the same rules.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/queue.h"

#include <string.h>

#include "test/harness.h"

enum { WAITING_MAX = 4000 };

static struct queue queue;
static struct item {
    struct queue_entry entry;
    uint32_t tenant, number;
} items[WAITING_MAX];
static uint32_t used;

static const struct queue_tenant usual = { 0, 1, "" };

static void start(void)
{
    queue_init(&queue);
    memset(items, 0, sizeof items);
    used = 0;
}

static void stop(void)
{
    while (queue_pop(&queue, 0) != NULL)
        ;
    queue_deinit(&queue);
}

static struct item *push(struct queue_tenant tenant, uint32_t level)
{
    struct item *item = &items[used];

    item->tenant = tenant.index;
    item->number = used++;
    queue_push(&queue, &item->entry, tenant, level);
    return item;
}

/* Runs the next one for so long; its tenant. */
static uint32_t run(uint64_t expected_ns, uint64_t ran_ns)
{
    struct queue_entry *entry = queue_pop(&queue, expected_ns);

    if (entry == NULL)
        return UINT32_MAX;
    queue_settle(&queue, entry, ran_ns);
    return CONTAINER_OF(entry, struct item, entry)->tenant;
}

TEST(one_tenant_is_a_plain_queue)
{
    start();
    for (uint32_t i = 0; i < 10; i++)
        push(usual, QUEUE_LEVEL_USUAL);
    for (uint32_t i = 0; i < 10; i++) {
        struct queue_entry *entry = queue_pop(&queue, 1000);
        check(entry == &items[i].entry, "in order");
        queue_settle(&queue, entry, 2000);
    }
    check(queue_pop(&queue, 0) == NULL && queue.waiting == 0, "empty");
    stop();
}

TEST(priority_orders_within_a_tenant)
{
    static const uint32_t levels[] = { 8, 3, 8, 16, 1, 3, 8 };
    static const uint32_t order[] = { 4, 1, 5, 0, 2, 6, 3 };

    check(queue_level(0, 0) == QUEUE_LEVEL_USUAL && queue_level(0, 2) == 2 &&
              queue_level(1, 2) == 1 && queue_level(UINT64_MAX, 0) == QUEUE_LEVELS,
          "levels");
    start();
    for (size_t i = 0; i < COUNT(levels); i++)
        push(usual, levels[i]);
    for (size_t i = 0; i < COUNT(order); i++)
        check(queue_pop(&queue, 1) == &items[order[i]].entry, "place %zu", i);
    stop();
}

TEST(shares_are_by_weight_and_by_time)
{
    static const struct {
        uint32_t weight;
        uint64_t run_ns;
    } tenants[] = { { 1, 1000 }, { 3, 1000 }, { 1, 5000 }, { 10, 100 } };
    uint64_t ran[COUNT(tenants)] = { 0 }, all = 0;

    start();
    for (uint32_t round = 0; round < 2000; round++) {
        /* Each always has something waiting. */
        for (uint32_t t = 0; t < COUNT(tenants); t++) {
            struct queue_flow *flow = t == 0 || queue.flows == NULL ? &queue.own : queue.flows[t];
            if (flow == NULL || flow->tenant != t || flow->waiting == 0)
                push((struct queue_tenant){ t, tenants[t].weight, "" }, QUEUE_LEVEL_USUAL);
        }
        struct queue_entry *entry = queue_pop(&queue, 1500); /* a wrong guess, set right behind */
        uint32_t t = CONTAINER_OF(entry, struct item, entry)->tenant;
        queue_settle(&queue, entry, tenants[t].run_ns);
        ran[t] += tenants[t].run_ns;
        all += tenants[t].run_ns;
    }
    for (uint32_t t = 0; t < COUNT(tenants); t++) {
        uint64_t due = all * tenants[t].weight / 15;
        check(ran[t] + 12000 > due && ran[t] < due + 12000, "tenant %u ran %llu ns of %llu", t,
              (unsigned long long)ran[t], (unsigned long long)due);
    }
    stop();
}

TEST(who_was_away_is_next_and_has_little_credit)
{
    const struct queue_tenant quiet = { 7, 1, "quiet" };

    start();
    for (uint32_t i = 0; i < 100; i++)
        push(usual, QUEUE_LEVEL_USUAL);
    for (uint32_t i = 0; i < 50; i++)
        run(1000, 1000);
    push(quiet, QUEUE_LEVEL_USUAL);
    check(queue_ahead(&queue, quiet, QUEUE_LEVEL_USUAL) <= 3, "shares");
    check(run(1000, 1000) == 7, "at once");
    for (uint32_t i = 0; i < 30; i++)
        push(quiet, QUEUE_LEVEL_USUAL);
    uint32_t theirs = 0;
    for (uint32_t i = 0; i < 8; i++)
        theirs += run(1000, 1000) == 7;
    check(theirs >= 7, "and eight of a burst: %u", theirs);
    theirs = 0;
    for (uint32_t i = 0; i < 20; i++)
        theirs += run(1000, 1000) == 7;
    check(theirs >= 9 && theirs <= 11, "then by halves: %u of 20", theirs);
    check(strcmp(queue.flows[7]->name, "quiet") == 0, "named");
    stop();
}

TEST(how_many_are_ahead)
{
    const struct queue_tenant a = { 1, 1, "a" }, b = { 2, 3, "b" };

    start();
    check(queue_ahead(&queue, usual, 8) == 0, "nobody");
    for (uint32_t i = 0; i < 100; i++)
        push(a, 8);
    check(queue_ahead(&queue, a, 8) == 100, "behind all of its own");
    check(queue_ahead(&queue, a, 7) == 0, "but in front of who matters less");
    check(queue_ahead(&queue, usual, 8) == 1, "one of a's for one of mine");
    check(queue_ahead(&queue, b, 8) == 0, "three of mine for one of a's");
    for (uint32_t i = 0; i < 9; i++)
        push(b, 8);
    check(queue_ahead(&queue, b, 8) == 9 + 3, "nine of mine, and a third of that of a's: %llu",
          (unsigned long long)queue_ahead(&queue, b, 8));
    check(queue_ahead(&queue, usual, 8) == 4, "weights 1 + 3");
    stop();
}

TEST(who_has_less_than_its_share)
{
    const struct queue_tenant loud = { 1, 1, "loud" }, big = { 2, 4, "big" }, quiet = { 3, 1, "quiet" };

    start();
    check(!queue_is_modest(&queue, usual), "nobody else");
    for (uint32_t i = 0; i < 9; i++)
        push(loud, 8);
    check(!queue_is_modest(&queue, loud), "it is all of it");
    check(queue_is_modest(&queue, quiet), "one of ten, for a half");
    for (uint32_t i = 0; i < 4; i++)
        push(quiet, 8);
    check(!queue_is_modest(&queue, loud) && queue_is_modest(&queue, quiet), "five of 14");
    push(quiet, 8);
    push(quiet, 8);
    for (uint32_t i = 0; i < 3; i++)
        push(quiet, 8);
    check(!queue_is_modest(&queue, quiet), "ten of 19");
    check(queue_is_modest(&queue, big), "one of 19 for four of six");
    stop();
    /* Who has taken little may have a few more than its share. */
    start();
    for (uint32_t i = 0; i < 20; i++)
        push(loud, 8);
    push(quiet, 8);
    for (uint32_t i = 0; i < 8; i++)
        run(1000, 1000);
    for (uint32_t i = 0; i < 4; i++) {
        check(queue_is_modest(&queue, quiet), "%u", i);
        push(quiet, 8);
    }
    for (uint32_t i = 0; i < 10; i++)
        run(1000, 1000);
    check(!queue_is_modest(&queue, loud), "not who has taken all of it");
    stop();
}

TEST(who_loses_its_place)
{
    const struct queue_tenant greedy = { 1, 1, "greedy" }, big = { 2, 10, "big" },
                              quiet = { 3, 1, "quiet" };
    struct item *last = NULL;

    start();
    for (uint32_t i = 0; i < 20; i++)
        last = push(greedy, 8);
    for (uint32_t i = 0; i < 50; i++)
        push(big, 8);
    check(queue_victim(&queue, quiet, 8) == &last->entry, "the newest of who is furthest over");
    check(queue_victim(&queue, greedy, 8) == NULL, "who is furthest over gets none of others'");
    struct item *less = push(greedy, 12);
    check(queue_victim(&queue, greedy, 8) == &less->entry, "but its own, which matters less");
    check(queue_victim(&queue, quiet, 16) == &less->entry, "others' levels are not compared");
    check(queue_victim(&queue, greedy, 12) == NULL, "the newcomer is the newest");
    queue_remove(&queue, &less->entry);
    for (uint32_t i = 0; i < 300; i++)
        last = push(big, 8);
    check(queue_victim(&queue, quiet, 8) == &last->entry, "by weight");
    stop();
    start();
    check(queue_victim(&queue, quiet, 8) == NULL, "nobody waits");
    stop();
}

/* -- against a plain model ---------------------------------------------------------------------- */

/* The next is the tenant that has spent least; of that the lowest level, then the lowest number. */
TEST(random_order_agrees_with_a_plain_model)
{
    enum { TENANTS = 9 };
    static bool waits[WAITING_MAX];
    uint32_t waiting = 0;

    start();
    memset(waits, 0, sizeof waits);
    while (used < WAITING_MAX) {
        uint32_t what = (uint32_t)test_random_below(100);
        if (what < 52) {
            uint32_t t = (uint32_t)test_random_below(TENANTS);
            waits[used] = true;
            push((struct queue_tenant){ t, 1 + t % 3, "" }, 1 + (uint32_t)test_random_below(3) * 7);
            waiting++;
            continue;
        }
        if (waiting == 0)
            continue;
        if (what < 60) { /* somebody leaves */
            uint32_t i = (uint32_t)test_random_below(used);
            if (!waits[i])
                continue;
            queue_remove(&queue, &items[i].entry);
            waits[i] = false;
            waiting--;
            continue;
        }
        const struct queue_flow *least = NULL;
        const struct item *next = NULL;
        for (uint32_t i = 0; i < used; i++) {
            const struct queue_flow *flow = items[i].entry.flow;
            if (waits[i] && (least == NULL || (int64_t)(flow->spent - least->spent) < 0))
                least = flow;
        }
        uint64_t least_spent = least->spent;
        struct queue_entry *entry = queue_pop(&queue, test_random_below(5000));
        struct item *item = CONTAINER_OF(entry, struct item, entry);
        for (uint32_t i = 0; i < used; i++)
            if (waits[i] && items[i].entry.flow == entry->flow &&
                (next == NULL || items[i].entry.level < next->entry.level))
                next = &items[i];
        check(next == item, "its first: %u, not %u", item->number, next->number);
        check(waits[item->number], "it waited");
        check(entry->flow->spent - entry->charged_ns * 16 / entry->flow->weight == least_spent,
              "the one that had least");
        waits[item->number] = false;
        waiting--;
        queue_settle(&queue, entry, test_random_below(10000));
        check(queue.waiting == waiting, "%u wait, not %u", queue.waiting, waiting);
        uint64_t weights = 0;
        for (uint32_t i = 0; i < queue.heap_count; i++)
            weights += queue.heap[i]->weight;
        check(weights == queue.weights, "weights");
    }
    stop();
}

TEST(without_memory_a_tenant_waits_with_the_default_one)
{
    for_each_fault(nth) {
        fault_arm(0);
        start();
        fault_arm(nth);
        struct item *item = push((struct queue_tenant){ 5, 2, "five" }, 8);
        bool fired = fault_fired();
        fault_arm(0);
        check(item->entry.flow->tenant == (fired ? 0 : 5), "fault %u", nth);
        check(queue_pop(&queue, 1) == &item->entry, "fault %u", nth);
        stop();
        if (!fired)
            break;
    }
}
