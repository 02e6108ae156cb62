/* queue.h - who waits for a model, and who is next: fair among tenants, in order of priority within one.
 *
 * A tenant's share is what the model's runs took for it, divided by its weight: whoever has had least is
 * next. A tenant that comes back after a while begins where the others are, less a credit of 8 runs: a small
 * burst of who asks for little goes first, and nobody saves up more than that. A run is charged as long as runs usually take when it begins, and
 * set right when it ends, so that many short requests and few long ones are the same share.
 *
 * Within a tenant the lower level goes first (1, then 2 ...), and within a level who came first.
 *
 * Pure: no lock, no clock, no thread; its owner guards it (model.lock). Nothing is allocated for the
 * default tenant; another's flow is, once, when it first waits here.
 */
#ifndef ENGINE_QUEUE_H
#define ENGINE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

enum {
    QUEUE_LEVELS = 16,       /* of priority: 1 goes first; what is above counts as the last */
    QUEUE_LEVEL_USUAL = 8,   /* of who says nothing: some may go before it, and some behind */
    QUEUE_WEIGHT_MAX = 1000
};

/* One tenant's place at one model; lives as long as the queue. */
struct queue_flow {
    struct list levels[QUEUE_LEVELS];
    uint32_t counts[QUEUE_LEVELS];
    uint32_t filled;         /* a bit for each level where somebody waits */
    uint32_t waiting;
    uint32_t tenant, weight;
    uint32_t slot;           /* 1 + its place in the heap; 0: nobody waits */
    bool is_modest;          /* when it began to wait it had taken less than its share */
    uint64_t spent;          /* of its share: nanoseconds times a scale by weight; wraps */
    const char *name;        /* the tenant's, which outlives every model; "" of the default one */
};

struct queue_entry {
    struct list_node node;
    struct queue_flow *flow; /* while it waits, and until queue_settle */
    uint32_t level;          /* 1..QUEUE_LEVELS */
    uint64_t charged_ns;     /* what queue_pop took it to be */
};

struct queue {
    uint32_t waiting;
    bool is_plain;               /* nobody has ever asked for a priority */
    uint64_t weights;            /* sum over the tenants that wait */
    uint64_t spent;              /* of those who have waited: where newcomers begin */
    uint64_t run_ns;             /* as charged last */
    struct queue_flow own;       /* of tenant 0 */
    struct queue_flow *lone[1];  /* the heap while there is no other */
    struct queue_flow **heap;    /* by spent, the least first */
    uint32_t heap_count;
    struct queue_flow **flows;   /* owned, by tenant; NULL: only the default one has been here */
};

/* Who asks; the default tenant is { 0, 1, "" }. */
struct queue_tenant {
    uint32_t index, weight;
    const char *name;            /* borrowed for as long as the queue lives */
};

void queue_init(struct queue *queue);
void queue_deinit(struct queue *queue); /* it is empty */

/* The level that a request's priority means; 0: `usual`, which is 0 where the model says nothing. */
uint32_t queue_level(uint64_t priority, uint32_t usual);

/* Cannot fail: without memory for its own flow a tenant waits in the default one's. */
void queue_push(struct queue *queue, struct queue_entry *entry, struct queue_tenant tenant,
                uint32_t level);
/* Takes the next one and charges `run_ns` to its tenant; NULL: nobody waits. */
struct queue_entry *queue_pop(struct queue *queue, uint64_t run_ns);
void queue_remove(struct queue *queue, struct queue_entry *entry); /* one that waits */
/* What it was charged with is set right; of one that did not run `ran_ns` is 0. Once, after queue_pop. */
void queue_settle(struct queue *queue, struct queue_entry *entry, uint64_t ran_ns);
/* Time that it took without waiting here; nothing is kept of a tenant that has never been here. */
void queue_charge(struct queue *queue, struct queue_tenant tenant, uint64_t ns);

/* How many of those who wait would run before a newcomer, by shares: for an estimate. */
uint64_t queue_ahead(const struct queue *queue, struct queue_tenant tenant, uint32_t level);
/* Has it taken less than its share lately, and would it, with one more, hold little of the queue? Never, where
 * it is the only one. */
bool queue_is_modest(const struct queue *queue, struct queue_tenant tenant);
/* There is room for one only if another goes: who loses its place to a newcomer. The newest of whoever is
 * furthest over its share, the last level first; NULL: the newcomer itself is. */
struct queue_entry *queue_victim(struct queue *queue, struct queue_tenant tenant, uint32_t level);

/* For metrics: calls `tell` for each tenant that has ever waited here. */
void queue_each(const struct queue *queue,
                void (*tell)(void *context, const struct queue_flow *flow), void *context);

#endif
