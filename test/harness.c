/* harness.c - SPDX-License-Identifier: Apache-2.0 */
#include "test/harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { TESTS_MAX = 512 };

static struct {
    const char *name;
    test_fn *fn;
    unsigned line;
} tests[TESTS_MAX];
static unsigned tests_count;
static char first_failure[1024], skip_reason[512];
static unsigned failures;
static uint64_t seed, state;
static bool has_drawn;

void test_add(const char *name, test_fn *fn, unsigned line)
{
    unsigned at = tests_count++;

    if (at == TESTS_MAX)
        abort();
    for (; at > 0 && tests[at - 1].line > line; at--)
        tests[at] = tests[at - 1];
    tests[at].name = name;
    tests[at].fn = fn;
    tests[at].line = line;
}

void test_fail(const char *file, int line, const char *cond, const char *format, ...)
{
    char words[768];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    if (failures++ == 0)
        snprintf(first_failure, sizeof first_failure, "%s:%d: %s - %s", file, line, cond,
                 words);
    if (failures <= 20)
        fprintf(stderr, "  %s:%d: %s - %s\n", file, line, cond, words);
}

void test_skip(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(skip_reason, sizeof skip_reason, format, args);
    va_end(args);
}

bool test_has_failed(void)
{
    return failures != 0;
}

uint64_t test_random(void)
{
    has_drawn = true;
    state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t test_random_below(uint64_t bound)
{
    return bound == 0 ? 0 : test_random() % bound;
}

const char *test_shared(void)
{
    static char path[1024];
    const char *root = getenv("PENSTOCK_TEST_SHARED");
    struct stat st;

    snprintf(path, sizeof path, "%s/models/README.md", root != NULL ? root : SHARED_DIR);
    if (stat(path, &st) != 0)
        return NULL;
    snprintf(path, sizeof path, "%s", root != NULL ? root : SHARED_DIR);
    return path;
}

int main(int argc, char **argv)
{
    const char *given = getenv("PENSTOCK_TEST_SEED");
    unsigned failed = 0, ran = 0;

    seed = given != NULL ? strtoull(given, NULL, 0)
                         : (uint64_t)time(NULL) * 1000003u ^ (uint64_t)(uintptr_t)&failed;
    for (unsigned i = 0; i < tests_count; i++) {
        if (argc > 1 && strstr(tests[i].name, argv[1]) == NULL)
            continue;
        failures = 0;
        skip_reason[0] = '\0';
        state = seed;
        has_drawn = false;
        fault_arm(0);
        tests[i].fn();
        fault_arm(0);
        ran++;
        if (failures != 0) {
            failed++;
            printf("not ok %s: %s", tests[i].name, first_failure);
            if (has_drawn)
                printf(" (repeat with PENSTOCK_TEST_SEED=%llu %s %s)", (unsigned long long)seed,
                       argv[0], tests[i].name);
            printf("\n");
        } else if (skip_reason[0] != '\0') {
            printf("skip %s: %s\n", tests[i].name, skip_reason);
        } else {
            printf("ok %s\n", tests[i].name);
        }
        fflush(stdout);
    }
    if (ran == 0) {
        fprintf(stderr, "%s: no test is named like '%s'\n", argv[0], argc > 1 ? argv[1] : "");
        return 1;
    }
    return failed == 0 ? 0 : 1;
}
