/* router_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "serve/router.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "test/harness.h"

static void nothing(struct exchange *x, const struct route_match *match)
{
    (void)x;
    (void)match;
}

#define GET  (1u << METHOD_GET)
#define POST (1u << METHOD_POST)

static const struct route first[] = {
    { GET, "/v2", nothing, DIALECT_KSERVE, ACCESS_OPEN, "test" },
    { GET, "/v2/health/live", nothing, DIALECT_KSERVE, ACCESS_OPEN, "test" },
    { GET, "/v2/models/{model}", nothing, DIALECT_KSERVE, ACCESS_OPEN, "test" },
    { POST, "/v2/models/{model}/infer", nothing, DIALECT_KSERVE, ACCESS_OPEN, "test" },
    { POST, "/v2/models/{model}/versions/{version}/infer", nothing, DIALECT_KSERVE, ACCESS_OPEN, "test" },
    { GET, "/v2/models/stats", nothing, DIALECT_KSERVE, ACCESS_OPEN, "test" },
};
static const struct route second[] = {
    { GET, "/", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    { GET | POST, "/models/{model}", nothing, DIALECT_TYPED, ACCESS_OPEN, "test" },
    { POST, "/models/{model}:predict", nothing, DIALECT_TYPED, ACCESS_OPEN, "test" },
    { POST, "/models/{model}:xpredict", nothing, DIALECT_TYPED, ACCESS_OPEN, "test" },
    { 1u << METHOD_HEAD | 1u << METHOD_OPTIONS, "/own", nothing, DIALECT_TYPED, ACCESS_OPEN, "test" },
    { GET, "/v2/models/{model}/stats", nothing, DIALECT_KSERVE, ACCESS_OPEN, "test" },
};
static const struct route_table first_table = { first, COUNT(first) };
static const struct route_table second_table = { second, COUNT(second) };
static const struct route_table *const tables[] = { &first_table, &second_table };

static const struct {
    enum exchange_method method;
    const char *path;
    enum router_answer answer;
    const char *pattern, *params; /* params: each followed by '|' */
} cases[] = {
    { METHOD_GET, "/", ROUTER_FOUND, "/", "" },
    { METHOD_GET, "/v2", ROUTER_FOUND, "/v2", "" },
    { METHOD_GET, "/v2/", ROUTER_NO_PATH, NULL, NULL },
    { METHOD_GET, "//v2", ROUTER_NO_PATH, NULL, NULL },
    { METHOD_GET, "/V2", ROUTER_NO_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models", ROUTER_NO_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/", ROUTER_NO_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/iris", ROUTER_FOUND, "/v2/models/{model}", "iris|" },
    { METHOD_HEAD, "/v2/models/iris", ROUTER_FOUND, "/v2/models/{model}", "iris|" },
    { METHOD_POST, "/v2/models/iris", ROUTER_NO_METHOD, NULL, NULL },
    { METHOD_OTHER, "/v2/models/iris", ROUTER_NO_METHOD, NULL, NULL },
    { METHOD_GET, "/v2/models/stats", ROUTER_FOUND, "/v2/models/stats", "" },
    { METHOD_POST, "/v2/models/stats/infer", ROUTER_FOUND, "/v2/models/{model}/infer", "stats|" },
    { METHOD_GET, "/v2/models/a/stats", ROUTER_FOUND, "/v2/models/{model}/stats", "a|" },
    { METHOD_POST, "/v2/models/a/versions/7/infer", ROUTER_FOUND,
      "/v2/models/{model}/versions/{version}/infer", "a|7|" },
    { METHOD_POST, "/v2/models/a/versions//infer", ROUTER_NO_PATH, NULL, NULL },
    { METHOD_POST, "/models/a:predict", ROUTER_FOUND, "/models/{model}:predict", "a|" },
    { METHOD_POST, "/models/a:b:predict", ROUTER_FOUND, "/models/{model}:predict", "a:b|" },
    { METHOD_POST, "/models/a:xpredict", ROUTER_FOUND, "/models/{model}:xpredict", "a|" },
    { METHOD_POST, "/models/a%3Apredict", ROUTER_FOUND, "/models/{model}:predict", "a|" },
    { METHOD_POST, "/models/:predict", ROUTER_FOUND, "/models/{model}", ":predict|" },
    { METHOD_GET, "/models/a:predict", ROUTER_NO_METHOD, NULL, NULL },
    { METHOD_GET, "/own", ROUTER_NO_METHOD, NULL, NULL },
    { METHOD_HEAD, "/own", ROUTER_FOUND, "/own", "" },
    { METHOD_OPTIONS, "/own", ROUTER_FOUND, "/own", "" },
    { METHOD_GET, "/%76%32", ROUTER_FOUND, "/v2", "" },
    { METHOD_GET, "/v2/models/a%2Fb%20%c3%A9", ROUTER_FOUND, "/v2/models/{model}",
      "a/b \xc3\xa9|" },
    { METHOD_GET, "/v2/models/a%25", ROUTER_FOUND, "/v2/models/{model}", "a%|" },
    { METHOD_GET, "/v2/models/a%2525", ROUTER_FOUND, "/v2/models/{model}", "a%25|" },
    { METHOD_GET, "/v2/models/a%", ROUTER_BAD_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/a%4", ROUTER_BAD_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/a%4g", ROUTER_BAD_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/a%00", ROUTER_BAD_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/a%0a", ROUTER_BAD_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/a%7f", ROUTER_BAD_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/%ff", ROUTER_BAD_PATH, NULL, NULL },
    { METHOD_GET, "/v2/models/%ed%a0%80", ROUTER_BAD_PATH, NULL, NULL },
    { METHOD_GET, "/a/b/c/d/e/f/g/h/i/j/k/l/m/n", ROUTER_NO_PATH, NULL, NULL },
    { METHOD_OPTIONS, "*", ROUTER_NO_PATH, NULL, NULL },
    { METHOD_GET, "", ROUTER_NO_PATH, NULL, NULL },
};

static struct router *make(void)
{
    struct router *router = NULL;
    struct err err = { 0 };

    require(router_new(&router, tables, COUNT(tables), &err) == OK);
    return router;
}

TEST(router_cases)
{
    struct router *router = make();
    struct arena *arena = arena_new(4096, 1 << 20);

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct router_result result;
        struct err err = { 0 };
        char params[256] = "";
        size_t size = 0;
        enum router_answer answer =
            router_find(router, cases[i].method, slice_of(cases[i].path), arena, &result, &err);
        check(answer == cases[i].answer, "%s: %d", cases[i].path, (int)answer);
        check((answer == ROUTER_BAD_PATH) == (err.text[0] != '\0'), "%s: '%s'", cases[i].path,
              err.text);
        if (answer != ROUTER_FOUND || cases[i].pattern == NULL)
            continue;
        check(strcmp(result.match.route->pattern, cases[i].pattern) == 0, "%s: %s", cases[i].path,
              result.match.route->pattern);
        for (uint32_t j = 0; j < result.match.params_count; j++)
            size += (size_t)snprintf(params + size, sizeof params - size, "%.*s|",
                                     SLICE_ARG(result.match.params[j]));
        check(strcmp(params, cases[i].params) == 0, "%s: %s", cases[i].path, params);
    }
    arena_free(&arena);
    router_free(&router);
}

TEST(router_says_what_is_allowed)
{
    struct router *router = make();
    struct arena *arena = arena_new(4096, 1 << 20);
    struct router_result result;
    char text[64];

    router_find(router, METHOD_DELETE, slice_of("/models/a"), arena, &result, NULL);
    check(slice_is(router_allow(result.methods, text), "GET, HEAD, POST, OPTIONS"), "%s", text);
    router_find(router, METHOD_DELETE, slice_of("/own"), arena, &result, NULL);
    check(slice_is(router_allow(result.methods, text), "HEAD, OPTIONS"), "%s", text);
    check(router_allow(UINT32_MAX, text).size < sizeof text, "all fit");
    arena_free(&arena);
    router_free(&router);
}

TEST(router_refuses_patterns_that_make_no_sense)
{
    static const struct route bad[] = {
        { GET, "v2", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
        { GET, "", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
        { GET, "/{}", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
        { GET, "/{a", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
        { GET, "/a{b}", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
        { GET, "/{a}{b}", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
        { GET, "/{a}/{b}/{c}/{d}/{e}", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
        { GET, "/1/2/3/4/5/6/7/8/9/10/11/12/13", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
        { GET, "/v2", nothing, DIALECT_PLAIN, ACCESS_OPEN, "test" },
    };

    for (size_t i = 0; i < COUNT(bad); i++) {
        struct route_table table = { &bad[i], 1 };
        const struct route_table *both[] = { &first_table, &table };
        struct router *router = NULL;
        struct err err = { 0 };
        enum err_code code = router_new(&router, both, 2, &err);
        check(code != OK && router == NULL && strstr(err.text, bad[i].pattern) != NULL, "%s: %s",
              bad[i].pattern, err.text);
    }
}

TEST(router_survives_every_fault)
{
    for_each_fault(nth) {
        struct router *router = NULL;
        struct err err = { 0 };
        enum err_code code = router_new(&router, tables, COUNT(tables), &err);
        bool fired = fault_fired();
        check(fired == (code == E_EXHAUSTED) && (code == OK) == (router != NULL), "fault %u", nth);
        router_free(&router);
        if (!fired)
            break;
    }
}

/* Any path: no crash, and an answer that is the same for the same bytes. */
TEST(router_takes_any_path)
{
    static const char *const words[] = { "/",   "v2",  "models", "a",        ":predict",
                                         "%2f", "%",   "stats",  "versions", "infer",
                                         "%c3", "%a9", "..",     "." };
    struct router *router = make();
    struct arena *arena = arena_new(4096, 1 << 20);

    for (unsigned round = 0; round < 20000; round++) {
        char path[256];
        size_t size = 1;
        path[0] = '/';
        for (uint64_t n = test_random_below(14); n > 0; n--) {
            const char *word = words[test_random_below(COUNT(words))];
            memcpy(path + size, word, strlen(word));
            size += strlen(word);
        }
        struct router_result result, again;
        struct err err;
        enum router_answer answer =
            router_find(router, METHOD_GET, slice_make(path, size), arena, &result, &err);
        check(answer ==
                  router_find(router, METHOD_GET, slice_make(path, size), arena, &again, &err),
              "%.*s", (int)size, path);
        check(answer != ROUTER_FOUND || result.match.route == again.match.route, "same");
        arena_reset(arena);
    }
    arena_free(&arena);
    router_free(&router);
}

/* Not a benchmark, but a match that takes microseconds would be a mistake: << 100 ns is usual. */
TEST(router_is_fast_and_does_not_allocate)
{
    struct router *router = make();
    struct arena *arena = arena_new(4096, 1 << 20);
    struct router_result result;
    uint64_t before = mem_count(), best = UINT64_MAX;
    enum { ROUNDS = 2000 };

    for (unsigned i = 0; i < 20; i++) {
        uint64_t begun = clock_mono_ns();
        for (unsigned j = 0; j < ROUNDS; j++)
            if (router_find(router, METHOD_POST, slice_of("/v2/models/iris/infer"), arena, &result,
                            NULL) != ROUTER_FOUND)
                return;
        best = MIN(best, (clock_mono_ns() - begun) / ROUNDS);
    }
    check(mem_count() == before, "%u allocations", (unsigned)(mem_count() - before));
    check(best < 5000, "%u ns a match", (unsigned)best);
    if (getenv("PENSTOCK_TEST_TIMES") != NULL)
        fprintf(stderr, "router: %u ns a match\n", (unsigned)best);
    arena_free(&arena);
    router_free(&router);
}
