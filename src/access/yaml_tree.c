/* yaml_tree.c - SPDX-License-Identifier: Apache-2.0
 *
 * Members of a mapping are compared pair by pair for doubles, so a mapping is bounded on its own.
 */
#include "access/yaml_tree.h"

#include <stdarg.h>
#include <stdio.h>

#include <yaml.h>

#include "base/arena.h"
#include "base/fault.h"

enum { MEMBERS_MAX = 1100 };

struct reader {
    yaml_parser_t yaml;
    yaml_event_t event;
    bool has_event;
    uint32_t nodes;
    struct arena *arena;
    struct err *err;
};

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory to read it");
}

static enum err_code fail_line(struct reader *r, size_t line, const char *format, ...)
    PRINTF_LIKE(3, 4);

static enum err_code fail_line(struct reader *r, size_t line, const char *format, ...)
{
    char words[400];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return err_set(r->err, E_INVALID, "line %zu: %s", line + 1, words);
}

enum err_code yaml_fail(const struct yaml_node *node, struct err *err, const char *format, ...)
{
    char words[600];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return err_set(err, E_INVALID, "line %u: %s", node->line, words);
}

static enum err_code next(struct reader *r)
{
    if (r->has_event)
        yaml_event_delete(&r->event);
    r->has_event = false;
    if (yaml_parser_parse(&r->yaml, &r->event)) {
        r->has_event = true;
        return OK;
    }
    const char *problem = r->yaml.problem != NULL ? r->yaml.problem : "not readable";
    if (r->yaml.error == YAML_MEMORY_ERROR)
        return no_memory(r->err);
    if (r->yaml.error == YAML_READER_ERROR)
        return err_set(r->err, E_INVALID, "byte %zu: not YAML: %s", r->yaml.problem_offset + 1,
                       problem);
    const char *hint = strstr(problem, "alphabetic or numeric") != NULL
                           ? "; a text that begins with * or & stands in quotes: \"*\""
                       : strstr(problem, "cannot start any token") != NULL
                           ? "; lines are indented by blanks, not by tabs, and a text that begins with a "
                             "sign stands in quotes"
                           : "";
    return fail_line(r, r->yaml.problem_mark.line, "not YAML: %s%s", problem, hint);
}

static enum err_code check_plainness(struct reader *r)
{
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;

    switch (e->type) {
    case YAML_ALIAS_EVENT:
        return fail_line(r, e->start_mark.line, "aliases (*%.40s) are not taken: write the value out; a text that begins with * stands in "
                         "quotes",
                         (const char *)e->data.alias.anchor);
    case YAML_SCALAR_EVENT:
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
        break;
    default: break;
    }
    if (anchor != NULL)
        return fail_line(r, e->start_mark.line, "anchors (&%.40s) are not taken",
                         (const char *)anchor);
    if (tag != NULL)
        return fail_line(r, e->start_mark.line, "tags (%.80s) are not taken", (const char *)tag);
    return OK;
}

static enum err_code read_text(struct reader *r, struct slice *ret)
{
    const yaml_event_t *e = &r->event;
    size_t size = e->data.scalar.length;

    if (memchr(e->data.scalar.value, 0, size) != NULL)
        return fail_line(r, e->start_mark.line, "a text holds a zero byte");
    char *copy = arena_strndup(r->arena, e->data.scalar.value, size);
    if (copy == NULL)
        return no_memory(r->err);
    *ret = slice_make(copy, size);
    return OK;
}

static enum err_code read_node(struct reader *r, unsigned depth, struct yaml_node **ret);

static enum err_code read_key(struct reader *r, const struct yaml_node *map, struct slice *ret,
                              uint32_t *ret_line)
{
    size_t line = r->event.start_mark.line;

    TRY(check_plainness(r));
    if (r->event.type != YAML_SCALAR_EVENT)
        return fail_line(r, line, "a key is expected to be a name");
    TRY(read_text(r, ret));
    for (const struct yaml_node *other = map->child; other != NULL; other = other->next)
        if (slice_eq(other->key, *ret))
            return fail_line(r, line, "'%.*s' stands twice, here and in line %u: a name is given once",
                             SLICE_ARG(slice_first(*ret, 80)), other->line);
    if (map->count == MEMBERS_MAX)
        return fail_line(r, line, "more than %d names in one mapping", MEMBERS_MAX);
    *ret_line = (uint32_t)line + 1;
    return next(r);
}

/* Stands on the event behind the opening one; leaves on the one behind the closing one. */
static enum err_code read_children(struct reader *r, unsigned depth, struct yaml_node *node)
{
    yaml_event_type_t end = node->kind == YAML_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    struct yaml_node **tail = &node->child;

    while (r->event.type != end) {
        struct yaml_node *child = NULL;
        struct slice key = { 0 };
        uint32_t line = 0;
        if (node->kind == YAML_MAP)
            TRY(read_key(r, node, &key, &line));
        TRY(read_node(r, depth + 1, &child));
        child->key = key;
        if (line != 0)
            child->line = line;
        *tail = child;
        tail = &child->next;
        node->count++;
    }
    return next(r);
}

static enum err_code read_node(struct reader *r, unsigned depth, struct yaml_node **ret)
{
    struct yaml_node *node = arena_zalloc(r->arena, sizeof *node);

    if (node == NULL)
        return no_memory(r->err);
    node->line = (uint32_t)r->event.start_mark.line + 1;
    TRY(check_plainness(r));
    if (++r->nodes > YAML_NODES_MAX || depth > YAML_DEPTH_MAX)
        return fail_line(r, r->event.start_mark.line, "more than %d values, or more than %d deep",
                         YAML_NODES_MAX, YAML_DEPTH_MAX);
    *ret = node;
    if (r->event.type == YAML_SCALAR_EVENT) {
        node->kind = YAML_TEXT;
        node->is_plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        TRY(read_text(r, &node->text));
        return next(r);
    }
    node->kind = r->event.type == YAML_MAPPING_START_EVENT ? YAML_MAP : YAML_LIST;
    TRY(next(r));
    return read_children(r, depth, node);
}

static enum err_code read_document(struct reader *r, struct yaml_node **ret)
{
    struct yaml_node *root = NULL;

    TRY(next(r)); /* the stream's begin */
    TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT) {
        *ret = NULL;
        return OK;
    }
    TRY(next(r)); /* the document's begin */
    TRY(read_node(r, 0, &root));
    TRY(next(r)); /* its end */
    if (r->event.type != YAML_STREAM_END_EVENT)
        return fail_line(r, r->event.start_mark.line, "a second document; one file holds one");
    *ret = root;
    return OK;
}

enum err_code yaml_tree(struct yaml_node **ret, struct arena *arena, struct slice yaml,
                        struct err *err)
{
    struct reader r = { .arena = arena, .err = err };

    if (fault_hit() || !yaml_parser_initialize(&r.yaml))
        return no_memory(err);
    yaml_parser_set_input_string(&r.yaml, yaml.data, yaml.size);
    yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
    enum err_code code = read_document(&r, ret);
    if (r.has_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.yaml);
    return code;
}

struct yaml_node *yaml_member(const struct yaml_node *map, const char *key)
{
    struct slice wanted = slice_of(key);

    for (struct yaml_node *node = map == NULL ? NULL : map->child; node != NULL; node = node->next)
        if (slice_eq(node->key, wanted))
            return node;
    return NULL;
}

bool yaml_is_null(const struct yaml_node *node)
{
    return node == NULL ||
           (node->kind == YAML_TEXT && node->is_plain &&
            (node->text.size == 0 || slice_is(node->text, "null") || slice_is(node->text, "~")));
}
