/* queue.c - SPDX-License-Identifier: Apache-2.0
 *
 * Tenants that wait are a heap by what they have spent of their shares. Spent time is compared by
 * difference, so that it may wrap.
 *
 * `spent` of the queue is the most that a tenant had spent when it was taken: all that have waited for long
 * are about there. A tenant that begins to wait has spent that, less a small credit.
 */
#include "engine/queue.h"

#include <string.h>

#include "access/access.h"
#include "base/def.h"
#include "base/mem.h"

enum {
    CREDIT_RUNS = 8, /* of a tenant that comes back */
    MODEST_MOST = 4  /* that wait of who has taken little: a small burst */
};
enum { SCALE = 16 }; /* of time by weight: little is rounded away, and it wraps after 36 years of runs */

static bool is_before(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b) < 0;
}

static void flow_init(struct queue_flow *flow, uint32_t tenant, const char *name)
{
    memset(flow, 0, sizeof *flow);
    for (uint32_t i = 0; i < QUEUE_LEVELS; i++)
        list_init(&flow->levels[i]);
    flow->tenant = tenant;
    flow->weight = 1;
    flow->name = name;
}

void queue_init(struct queue *queue)
{
    memset(queue, 0, sizeof *queue);
    flow_init(&queue->own, 0, "");
    queue->heap = queue->lone;
    queue->is_plain = true;
}

void queue_deinit(struct queue *queue)
{
    require(queue->waiting == 0);
    for (uint32_t i = 1; queue->flows != NULL && i < TENANTS_MAX; i++)
        mem_free(queue->flows[i]);
    mem_free(queue->flows); /* the heap lies behind it */
    queue->flows = NULL;
    queue->heap = queue->lone;
}

uint32_t queue_level(uint64_t priority, uint32_t usual)
{
    if (priority == 0)
        priority = usual != 0 ? usual : QUEUE_LEVEL_USUAL;
    return (uint32_t)MIN(priority, (uint64_t)QUEUE_LEVELS);
}

/* -- flows -------------------------------------------------------------------------------------- */

static struct queue_flow *flow_find(const struct queue *queue, uint32_t tenant)
{
    if (LIKELY(tenant == 0))
        return (struct queue_flow *)(uintptr_t)&queue->own;
    return queue->flows == NULL || tenant >= TENANTS_MAX ? NULL : queue->flows[tenant];
}

/* The heap moves behind the table: there may be more than one now. */
static bool table_new(struct queue *queue)
{
    struct queue_flow **flows = mem_zalloc(2 * (size_t)TENANTS_MAX * sizeof *flows);

    if (flows == NULL)
        return false;
    flows[0] = &queue->own;
    memcpy(flows + TENANTS_MAX, queue->heap, queue->heap_count * sizeof *flows);
    queue->flows = flows;
    queue->heap = flows + TENANTS_MAX;
    return true;
}

static struct queue_flow *flow_of(struct queue *queue, struct queue_tenant tenant)
{
    struct queue_flow *flow = flow_find(queue, tenant.index);

    if (LIKELY(flow != NULL))
        return flow;
    if (tenant.index >= TENANTS_MAX || (queue->flows == NULL && !table_new(queue)) ||
        (flow = mem_alloc(sizeof *flow)) == NULL)
        return &queue->own;
    flow_init(flow, tenant.index, tenant.name);
    flow->spent = queue->spent - (UINT64_C(1) << 62); /* as who was long away */
    queue->flows[tenant.index] = flow;
    return flow;
}

static uint32_t weight_of(struct queue_tenant tenant)
{
    return MAX(MIN(tenant.weight, (uint32_t)QUEUE_WEIGHT_MAX), 1u);
}

/* -- the heap ----------------------------------------------------------------------------------- */

static void place(struct queue *queue, uint32_t at, struct queue_flow *flow)
{
    queue->heap[at] = flow;
    flow->slot = at + 1;
}

/* Moves the hole at `at` up or down to where `flow` belongs. */
static void heap_settle(struct queue *queue, uint32_t at, struct queue_flow *flow)
{
    while (at > 0 && is_before(flow->spent, queue->heap[(at - 1) / 2]->spent)) {
        place(queue, at, queue->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < queue->heap_count &&
            is_before(queue->heap[child + 1]->spent, queue->heap[child]->spent))
            child++;
        if (child >= queue->heap_count || !is_before(queue->heap[child]->spent, flow->spent))
            break;
        place(queue, at, queue->heap[child]);
        at = child;
    }
    place(queue, at, flow);
}

static void heap_add(struct queue *queue, struct queue_flow *flow)
{
    uint64_t least = queue->spent - CREDIT_RUNS * queue->run_ns * SCALE / flow->weight;

    flow->is_modest = is_before(flow->spent, queue->spent);
    if (is_before(flow->spent, least))
        flow->spent = least;
    queue->weights += flow->weight;
    queue->heap_count++;
    heap_settle(queue, queue->heap_count - 1, flow);
}

static void heap_remove(struct queue *queue, struct queue_flow *flow)
{
    uint32_t at = flow->slot - 1;
    struct queue_flow *last = queue->heap[--queue->heap_count];

    flow->slot = 0;
    queue->weights -= flow->weight;
    if (last != flow)
        heap_settle(queue, at, last);
}

/* Time is added to what it has spent, or taken back. */
static void flow_charge(struct queue *queue, struct queue_flow *flow, int64_t ns)
{
    flow->spent += (uint64_t)(ns * SCALE / (int64_t)flow->weight);
    if (flow->slot != 0)
        heap_settle(queue, flow->slot - 1, flow);
}

/* -- waiting ------------------------------------------------------------------------------------ */

void queue_push(struct queue *queue, struct queue_entry *entry, struct queue_tenant tenant,
                uint32_t level)
{
    struct queue_flow *flow = flow_of(queue, tenant);
    uint32_t weight = weight_of(tenant);

    if (UNLIKELY(flow->weight != weight && flow->tenant == tenant.index)) {
        if (flow->slot != 0)
            queue->weights += (uint64_t)weight - flow->weight;
        flow->weight = weight;
    }
    entry->flow = flow;
    entry->level = level;
    list_push(&flow->levels[level - 1], &entry->node);
    flow->counts[level - 1]++;
    flow->filled |= 1u << (level - 1);
    queue->waiting++;
    if (flow->waiting++ == 0)
        heap_add(queue, flow);
}

void queue_remove(struct queue *queue, struct queue_entry *entry)
{
    struct queue_flow *flow = entry->flow;
    uint32_t at = entry->level - 1;

    require(list_has(&entry->node));
    list_remove(&entry->node);
    if (--flow->counts[at] == 0)
        flow->filled &= ~(1u << at);
    queue->waiting--;
    if (--flow->waiting == 0)
        heap_remove(queue, flow);
}

struct queue_entry *queue_pop(struct queue *queue, uint64_t run_ns)
{
    if (queue->heap_count == 0)
        return NULL;
    struct queue_flow *flow = queue->heap[0];
    uint32_t at = (uint32_t)__builtin_ctz(flow->filled);
    struct queue_entry *entry =
        CONTAINER_OF(list_first(&flow->levels[at]), struct queue_entry, node);

    /* Who had credit was behind the others. */
    if (is_before(queue->spent, flow->spent))
        queue->spent = flow->spent;
    queue->run_ns = MIN(run_ns, UINT64_C(1) << 50);
    queue_remove(queue, entry);
    entry->charged_ns = queue->run_ns;
    flow_charge(queue, flow, (int64_t)entry->charged_ns);
    return entry;
}

void queue_settle(struct queue *queue, struct queue_entry *entry, uint64_t ran_ns)
{
    struct queue_flow *flow = TAKE(entry->flow);

    if (flow != NULL)
        flow_charge(queue, flow,
                    (int64_t)MIN(ran_ns, UINT64_C(1) << 50) - (int64_t)entry->charged_ns);
}

void queue_charge(struct queue *queue, struct queue_tenant tenant, uint64_t ns)
{
    struct queue_flow *flow = flow_find(queue, tenant.index);

    if (flow != NULL)
        flow_charge(queue, flow, (int64_t)MIN(ns, UINT64_C(1) << 50));
}

/* -- questions ---------------------------------------------------------------------------------- */

uint64_t queue_ahead(const struct queue *queue, struct queue_tenant tenant, uint32_t level)
{
    const struct queue_flow *flow = flow_find(queue, tenant.index);
    uint64_t weight = weight_of(tenant), mine = 0, theirs = queue->waiting, weights = queue->weights;

    if (flow != NULL && flow->waiting != 0) {
        for (uint32_t i = 0; i < level; i++)
            mine += flow->counts[i];
        theirs -= flow->waiting;
        weights -= flow->weight;
    }
    return mine + MIN(theirs, (mine + 1) * weights / weight);
}

bool queue_is_modest(const struct queue *queue, struct queue_tenant tenant)
{
    const struct queue_flow *flow = flow_find(queue, tenant.index);
    uint64_t weight = weight_of(tenant), mine = 1, weights = queue->weights + weight;

    if (flow == NULL || flow->waiting == 0) {
        if (queue->waiting != 0 && (flow == NULL || is_before(flow->spent, queue->spent)))
            return true;
    } else {
        if (flow->is_modest && flow->waiting < MODEST_MOST)
            return true;
        mine += flow->waiting;
        weights -= flow->weight;
    }
    return mine * weights < (queue->waiting + UINT64_C(1)) * weight;
}

struct queue_entry *queue_victim(struct queue *queue, struct queue_tenant tenant, uint32_t level)
{
    struct queue_flow *own = flow_find(queue, tenant.index);
    uint64_t weight = weight_of(tenant);
    uint64_t waiting = own == NULL ? 1 : own->waiting + UINT64_C(1);
    struct queue_flow *worst = own;

    for (uint32_t i = 0; i < queue->heap_count; i++) {
        struct queue_flow *flow = queue->heap[i];
        if (flow != own && flow->waiting * weight > waiting * flow->weight) {
            worst = flow;
            waiting = flow->waiting;
            weight = flow->weight;
        }
    }
    if (worst == NULL || worst->waiting == 0)
        return NULL;
    uint32_t last = 31u - (uint32_t)__builtin_clz(worst->filled);
    if (worst == own && last + 1 <= level)
        return NULL;
    return CONTAINER_OF(worst->levels[last].head.prev, struct queue_entry, node);
}

void queue_each(const struct queue *queue,
                void (*tell)(void *context, const struct queue_flow *flow), void *context)
{
    tell(context, &queue->own);
    for (uint32_t i = 1; queue->flows != NULL && i < TENANTS_MAX; i++)
        if (queue->flows[i] != NULL)
            tell(context, queue->flows[i]);
}
