/* harness.h - the tests' one page: cases, checks, faults.
 *
 * TEST(name) { check(cond, "words %d", n); } - a case fails when a check does; it goes on to the
 * end unless check_or_stop is used. Each prints `ok name`, `not ok name: file:line: words` or
 * `skip name: why`. A test program takes the part of a name as its argument to run only those.
 */
#ifndef TEST_HARNESS_H
#define TEST_HARNESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/def.h"
#include "base/fault.h"

typedef void test_fn(void);
/* Cases run in the order of their lines: an optimising linker may call the constructors in another. */
void test_add(const char *name, test_fn *fn, unsigned line);
void test_fail(const char *file, int line, const char *cond, const char *format, ...)
    PRINTF_LIKE(4, 5);
void test_skip(const char *format, ...) PRINTF_LIKE(1, 2); /* then return from the case */
bool test_has_failed(void);                                 /* the running case */

/* A repeatable random sequence; the seed is printed when a case that drew from it fails, and
 * PENSTOCK_TEST_SEED repeats it. */
uint64_t test_random(void);
uint64_t test_random_below(uint64_t bound);

/* The folder of shared models and data, or NULL where it is missing (then test_skip by name). */
const char *test_shared(void);

#define TEST(name)                                                                                 \
    static void test_##name(void);                                                                 \
    __attribute__((constructor)) static void test_add_##name(void)                                 \
    {                                                                                              \
        test_add(#name, test_##name, __LINE__);                                                              \
    }                                                                                              \
    static void test_##name(void)

#define check(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond))                                                                               \
            test_fail(__FILE__, __LINE__, #cond, __VA_ARGS__);                                \
    } while (0)

#define check_or_stop(cond, ...)                                                                   \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            test_fail(__FILE__, __LINE__, #cond, __VA_ARGS__);                                \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* Runs its body with the first fallible step failing, then the second, ... ; the body ends the
 * sweep with `if (!fault_fired()) break;`. */
#define for_each_fault(nth)                                                                        \
    for (uint32_t nth = 1; fault_arm(nth), nth < 100000; nth++)

#endif
