/* router_fuzz.c - any path: no crash, parameters that are UTF-8 without control bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "base/utf8.h"
#include "serve/origin.h"
#include "serve/router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void nothing(struct exchange *x, const struct route_match *match)
{
    (void)x;
    (void)match;
}

static const struct route routes[] = {
    { 2, "/", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { 2, "/v2/models/{model}", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { 2, "/v2/models/stats", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { 2, "/v2/models/{model}/versions/{version}/infer", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { 2, "/models/{model}:predict", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { 2, "/{a}/{b}/{c}/{d}", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
};

/* The path, and behind the first NUL an Origin and a Host. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct route_table table = { routes, COUNT(routes) };
    static const struct route_table *const tables[] = { &table };
    static const char *const hosts[] = { "a.example" };
    static struct router *router;
    static struct arena *arena;
    struct router_result result;
    struct err err = { 0 };

    if (router == NULL &&
        (router_new(&router, tables, 1, &err) != OK || (arena = arena_new(65536, 1 << 24)) == NULL))
        abort();
    struct slice all = slice_make(data, size), path = slice_first(all, slice_find(all, 0));
    enum router_answer answer = router_find(router, METHOD_GET, path, arena, &result, &err);
    require((answer == ROUTER_BAD_PATH) == (err.text[0] != '\0'));
    for (uint32_t i = 0; answer == ROUTER_FOUND && i < result.match.params_count; i++) {
        struct slice param = result.match.params[i];
        require(param.size > 0 && utf8_valid_prefix(param) == param.size);
        for (size_t j = 0; j < param.size; j++)
            require(param.data[j] >= 0x20 && param.data[j] != 0x7f);
    }
    arena_reset(arena);

    struct slice rest = slice_skip(all, MIN(path.size + 1, size));
    struct origin_rules rules;
    struct origin_request request = { .scheme = "http",
                                      .origin = slice_first(rest, slice_find(rest, 0)),
                                      .is_local = true };
    request.authority = slice_skip(rest, MIN(request.origin.size + 1, rest.size));
    origin_rules_init(&rules, hosts, 1, hosts, 1);
    origin_judge(&rules, &request, &err);
    return 0;
}
