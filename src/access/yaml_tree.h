/* yaml_tree.h - a small YAML document as a tree, each node with its line.
 *
 * Refused, with the line: aliases and anchors, tags, more than one document, keys that stand twice, keys
 * that are no plain texts, values more than YAML_DEPTH_MAX deep, more than YAML_NODES_MAX of them. Pure.
 */
#ifndef ACCESS_YAML_TREE_H
#define ACCESS_YAML_TREE_H

#include "base/err.h"
#include "base/slice.h"

struct arena;

enum { YAML_DEPTH_MAX = 8, YAML_NODES_MAX = 200000 };
enum yaml_kind { YAML_TEXT, YAML_LIST, YAML_MAP };

struct yaml_node {
    enum yaml_kind kind;
    uint32_t line;
    uint32_t count;          /* of a list or a mapping */
    struct slice key;        /* of a mapping's member */
    struct slice text;       /* NUL-terminated behind its end */
    bool is_plain;           /* not in quotes */
    struct yaml_node *child; /* the first of a list or a mapping */
    struct yaml_node *next;
};

/* *ret NULL: the document is empty. */
MUST_USE enum err_code yaml_tree(struct yaml_node **ret, struct arena *arena, struct slice yaml,
                                 struct err *err);
/* "line 7: ..." */
enum err_code yaml_fail(const struct yaml_node *node, struct err *err, const char *format, ...)
    PRINTF_LIKE(3, 4);
struct yaml_node *yaml_member(const struct yaml_node *map, const char *key); /* NULL: none */
/* Is it there without a value (`key:`)? */
bool yaml_is_null(const struct yaml_node *node);

#endif
