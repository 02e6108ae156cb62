/* list.h - intrusive doubly linked list: the node lies in the member, so that adding cannot fail.
 * One thread at a time. A node is in at most one list; list_node_init or zero before first use. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>

#include "base/def.h"

struct list_node {
    struct list_node *next, *prev; /* both NULL: in no list */
};

struct list {
    struct list_node head;
};

static inline void list_init(struct list *list)
{
    list->head.next = list->head.prev = &list->head;
}
static inline bool list_is_empty(const struct list *list)
{
    return list->head.next == &list->head;
}
static inline bool list_has(const struct list_node *node)
{
    return node->next != NULL;
}
static inline void list_push(struct list *list, struct list_node *node) /* at the end */
{
    node->prev = list->head.prev;
    node->next = &list->head;
    list->head.prev->next = node;
    list->head.prev = node;
}
static inline void list_remove(struct list_node *node) /* no-op when in no list */
{
    if (node->next == NULL)
        return;
    node->next->prev = node->prev;
    node->prev->next = node->next;
    node->next = node->prev = NULL;
}
static inline struct list_node *list_first(struct list *list) /* NULL: empty */
{
    return list_is_empty(list) ? NULL : list->head.next;
}
static inline struct list_node *list_pop(struct list *list) /* the first; NULL: empty */
{
    struct list_node *node = list_first(list);

    if (node != NULL)
        list_remove(node);
    return node;
}
static inline struct list_node *list_next(struct list *list, struct list_node *node)
{
    return node->next == &list->head ? NULL : node->next;
}

#endif
