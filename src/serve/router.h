/* router.h - from method and path to a handler: the route tables as a tree of segments.
 *
 * Made once, read by every loop. Patterns and what they match: api/route.h. A path's segments are
 * percent-decoded before they are compared, so that "%76%32" is "v2"; a '/' that was encoded stays
 * inside its segment.
 */
#ifndef SERVE_ROUTER_H
#define SERVE_ROUTER_H

#include "api/route.h"

struct router;

enum router_answer {
    ROUTER_FOUND,
    ROUTER_NO_PATH,
    ROUTER_NO_METHOD, /* ret->methods says which there are */
    ROUTER_BAD_PATH   /* err says what is wrong with the path */
};

struct router_result {
    struct route_match match; /* without api */
    uint32_t methods;         /* of the path: bits 1 << enum exchange_method, HEAD with GET */
};

/* E_INVALID: a pattern that makes no sense; E_EXISTS: two routes for the same. */
MUST_USE enum err_code router_new(struct router **ret, const struct route_table *const *tables,
                                  uint32_t tables_count, struct err *err);
void router_free(struct router **router);
/* Any thread. Parameters lie in the path or in the arena. */
enum router_answer router_find(const struct router *router, enum exchange_method method,
                               struct slice path, struct arena *arena, struct router_result *ret,
                               struct err *err);
/* "GET, HEAD, OPTIONS" for those bits; OPTIONS always. */
struct slice router_allow(uint32_t methods, char out[64]);

#endif
