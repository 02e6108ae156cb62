/* router.c - SPDX-License-Identifier: Apache-2.0
 *
 * A tree with one node per distinct segment. The children of a node are in the order in which they
 * win: literals, then {name} with a literal end (the longer end first), then plain {name}. A
 * literal that leads nowhere gives way to a name: with /m/stats and /m/{model}/infer there may be a
 * model called stats.
 */
#include "serve/router.h"

#include "base/mem.h"
#include "base/utf8.h"

enum { SEGMENTS_MAX = 12, METHODS = METHOD_PATCH + 1 };

struct node {
    struct slice text; /* the literal, or what a name's segment ends with */
    bool is_name;
    struct node *child, *next;
    const struct route *routes[METHODS];
    uint32_t methods;
};

struct router {
    struct node root;
};

static void node_free(struct node *node)
{
    while (node != NULL) {
        struct node *next = node->next;
        node_free(node->child);
        mem_free(node);
        node = next;
    }
}

void router_free(struct router **slot)
{
    struct router *router = TAKE(*slot);

    if (router == NULL)
        return;
    node_free(router->root.child);
    mem_free(router);
}

static bool wins(const struct node *a, const struct node *b)
{
    if (a->is_name != b->is_name)
        return b->is_name;
    return a->is_name && a->text.size > b->text.size;
}

/* The child for a segment of a pattern; made when it is not there. */
static enum err_code child_of(struct node **ret, struct node *parent, struct slice segment,
                              const char *pattern, struct err *err)
{
    struct node wanted = { .text = segment };
    struct node **at;

    if (segment.size > 0 && segment.data[0] == '{') {
        size_t end = slice_find(segment, '}');
        if (end < 2 || end == segment.size)
            return err_set(err, E_INVALID, "route %s: a name is {letters}", pattern);
        wanted.text = slice_skip(segment, end + 1);
        wanted.is_name = true;
    }
    if (slice_find(wanted.text, '{') != wanted.text.size ||
        slice_find(wanted.text, '}') != wanted.text.size)
        return err_set(err, E_INVALID, "route %s: a name begins its segment", pattern);
    for (at = &parent->child; *at != NULL; at = &(*at)->next)
        if ((*at)->is_name == wanted.is_name && slice_eq((*at)->text, wanted.text)) {
            *ret = *at;
            return OK;
        }
    struct node *node = mem_alloc(sizeof *node);
    if (node == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the routes");
    *node = wanted;
    for (at = &parent->child; *at != NULL && !wins(node, *at);)
        at = &(*at)->next;
    node->next = *at;
    *at = node;
    *ret = node;
    return OK;
}

static enum err_code add(struct router *router, const struct route *route, struct err *err)
{
    struct slice rest = slice_of(route->pattern);
    struct node *node = &router->root;
    uint32_t depth = 0, names = 0;

    if (rest.size == 0 || rest.data[0] != '/')
        return err_set(err, E_INVALID, "route %s: a pattern begins with '/'", route->pattern);
    while (rest.size > 0) {
        rest = slice_skip(rest, 1);
        struct slice segment = slice_first(rest, slice_find(rest, '/'));
        TRY(child_of(&node, node, segment, route->pattern, err));
        names += node->is_name;
        if (++depth > SEGMENTS_MAX || names > ROUTE_PARAMS_MAX)
            return err_set(err, E_INVALID, "route %s: at most %d segments and %d names",
                           route->pattern, SEGMENTS_MAX, ROUTE_PARAMS_MAX);
        rest = slice_skip(rest, segment.size);
    }
    for (int method = METHOD_GET; method < METHODS; method++) {
        if ((route->methods >> method & 1) == 0)
            continue;
        if (node->routes[method] != NULL)
            return err_set(err, E_EXISTS, "route %s is there twice for one method", route->pattern);
        node->routes[method] = route;
        node->methods |= UINT32_C(1) << method;
    }
    return OK;
}

/* GET serves HEAD, but a route of HEAD's own goes first. */
static void lend_get(struct node *node)
{
    for (; node != NULL; node = node->next) {
        if (node->routes[METHOD_GET] != NULL && node->routes[METHOD_HEAD] == NULL)
            node->routes[METHOD_HEAD] = node->routes[METHOD_GET];
        if (node->routes[METHOD_HEAD] != NULL)
            node->methods |= UINT32_C(1) << METHOD_HEAD;
        lend_get(node->child);
    }
}

enum err_code router_new(struct router **ret, const struct route_table *const *tables,
                         uint32_t tables_count, struct err *err)
{
    CLEANUP(router_free) struct router *router = mem_zalloc(sizeof *router);

    if (router == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the routes");
    for (uint32_t i = 0; i < tables_count; i++)
        for (uint32_t j = 0; j < tables[i]->count; j++)
            TRY(add(router, &tables[i]->routes[j], err));
    lend_get(router->root.child);
    *ret = TAKE(router);
    return OK;
}

/* -- matching --------------------------------------------------------------------------------- */

struct finder {
    struct slice segments[SEGMENTS_MAX];
    uint32_t count;
    struct slice params[ROUTE_PARAMS_MAX];
    uint32_t params_count;
};

static const struct node *find(struct finder *f, const struct node *parent, uint32_t at)
{
    struct slice segment = f->segments[at];

    for (const struct node *node = parent->child; node != NULL; node = node->next) {
        uint32_t before = f->params_count;
        if (!node->is_name) {
            if (!slice_eq(segment, node->text))
                continue;
        } else {
            size_t end = node->text.size;
            if (segment.size <= end ||
                (end > 0 && memcmp(segment.data + segment.size - end, node->text.data, end) != 0))
                continue;
            f->params[f->params_count++] = slice_first(segment, segment.size - end);
        }
        if (at + 1 < f->count) {
            const struct node *found = find(f, node, at + 1);
            if (found != NULL)
                return found;
        } else if (node->methods != 0) {
            return node;
        }
        f->params_count = before;
    }
    return NULL;
}

static enum err_code decode(struct slice *segment, struct arena *arena, struct err *err)
{
    struct slice in = *segment;
    uint8_t *out = arena_aligned(arena, 1, in.size);
    size_t size = 0;

    if (out == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to decode the path");
    for (size_t i = 0; i < in.size; i++, size++) {
        out[size] = in.data[i];
        if (in.data[i] != '%')
            continue;
        int high = i + 2 < in.size ? slice_hex(in.data[i + 1]) : -1;
        int low = i + 2 < in.size ? slice_hex(in.data[i + 2]) : -1;
        if (high < 0 || low < 0)
            return err_set(err, E_INVALID,
                           "the path holds a '%%' that two hexadecimal digits do not follow; "
                           "write '%%25' for the sign itself");
        out[size] = (uint8_t)(high << 4 | low);
        i += 2;
    }
    *segment = slice_make(out, size);
    return OK;
}

static enum err_code check_param(struct slice param, struct err *err)
{
    for (size_t i = 0; i < param.size; i++)
        if (param.data[i] < 0x20 || param.data[i] == 0x7f)
            return err_set(err, E_INVALID, "a name in the path holds the control byte 0x%02x",
                           param.data[i]);
    if (utf8_valid_prefix(param) != param.size)
        return err_set(err, E_INVALID, "a name in the path is not UTF-8");
    return OK;
}

enum router_answer router_find(const struct router *router, enum exchange_method method,
                               struct slice path, struct arena *arena, struct router_result *ret,
                               struct err *err)
{
    struct finder f;
    struct slice rest = path;
    bool is_encoded = memchr(path.data, '%', path.size) != NULL;

    ret->methods = 0;
    f.count = f.params_count = 0;
    if (path.size == 0 || path.data[0] != '/')
        return ROUTER_NO_PATH;
    while (rest.size > 0) {
        if (f.count == SEGMENTS_MAX)
            return ROUTER_NO_PATH;
        rest = slice_skip(rest, 1);
        const uint8_t *slash = memchr(rest.data, '/', rest.size);
        size_t size = slash == NULL ? rest.size : (size_t)(slash - rest.data);
        f.segments[f.count] = slice_first(rest, size);
        if (UNLIKELY(is_encoded) && decode(&f.segments[f.count], arena, err) != OK)
            return ROUTER_BAD_PATH;
        f.count++;
        rest = slice_skip(rest, size);
    }
    const struct node *node = find(&f, &router->root, 0);
    if (node == NULL)
        return ROUTER_NO_PATH;
    for (uint32_t i = 0; i < f.params_count; i++) {
        if (UNLIKELY(check_param(f.params[i], err) != OK))
            return ROUTER_BAD_PATH;
        ret->match.params[i] = f.params[i];
    }
    ret->match.params_count = f.params_count;
    ret->match.route = node->routes[method];
    ret->methods = node->methods;
    return ret->match.route != NULL ? ROUTER_FOUND : ROUTER_NO_METHOD;
}

struct slice router_allow(uint32_t methods, char out[64])
{
    static const char names[METHODS][8] = {
        [METHOD_GET] = "GET",     [METHOD_HEAD] = "HEAD",     [METHOD_POST] = "POST",
        [METHOD_PUT] = "PUT",     [METHOD_DELETE] = "DELETE", [METHOD_OPTIONS] = "OPTIONS",
        [METHOD_PATCH] = "PATCH",
    };
    size_t size = 0;

    methods |= UINT32_C(1) << METHOD_OPTIONS;
    for (int method = METHOD_GET; method < METHODS; method++) {
        if ((methods >> method & 1) == 0)
            continue;
        if (size > 0) {
            memcpy(out + size, ", ", 2);
            size += 2;
        }
        size_t name = strlen(names[method]);
        memcpy(out + size, names[method], name);
        size += name;
    }
    return slice_make(out, size);
}
