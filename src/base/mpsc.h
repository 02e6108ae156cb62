/* mpsc.h - a queue that any thread may put into and one thread takes from.
 *
 * Intrusive: the node lies in what is sent, so putting cannot fail. Put is one atomic exchange
 * loop; take-all is one exchange and gives everything in the order in which it was put.
 */
#ifndef BASE_MPSC_H
#define BASE_MPSC_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/def.h"

struct mpsc_node {
    struct mpsc_node *next;
};

struct mpsc {
    _Atomic(struct mpsc_node *) top; /* newest first */
};

static inline void mpsc_init(struct mpsc *queue)
{
    atomic_init(&queue->top, NULL);
}

/* Any thread. True when the queue was empty: the taker may have to be woken. */
static inline bool mpsc_put(struct mpsc *queue, struct mpsc_node *node)
{
    struct mpsc_node *top = atomic_load_explicit(&queue->top, memory_order_relaxed);

    do
        node->next = top;
    while (!atomic_compare_exchange_weak_explicit(&queue->top, &top, node, memory_order_seq_cst,
                                                  memory_order_relaxed));
    return top == NULL;
}

static inline bool mpsc_is_empty(struct mpsc *queue)
{
    return atomic_load_explicit(&queue->top, memory_order_seq_cst) == NULL;
}

/* The taking thread. Oldest first, linked by next; NULL when empty. */
static inline struct mpsc_node *mpsc_take_all(struct mpsc *queue)
{
    if (atomic_load_explicit(&queue->top, memory_order_relaxed) == NULL)
        return NULL;
    struct mpsc_node *node = atomic_exchange_explicit(&queue->top, NULL, memory_order_seq_cst);
    struct mpsc_node *oldest = NULL;
    while (node != NULL) {
        struct mpsc_node *next = node->next;
        node->next = oldest;
        oldest = node;
        node = next;
    }
    return oldest;
}

#endif
