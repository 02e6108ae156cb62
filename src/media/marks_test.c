/* marks_test.c - scores and the marks that they make. SPDX-License-Identifier: Apache-2.0 */
#include "media/marks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "test/harness.h"

/* What the scores, one a window of 10 rows, make: "+20" begins at row 20, "-50" ended at row 50. */
static const char *marks_of(struct mark_rule rule, const double *scores, size_t count)
{
    static char out[400];
    struct mark_state state = { 0 };
    size_t size = 0;

    out[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        uint64_t row = 0;
        enum mark mark = mark_next(&rule, &state, scores[i], i * 10, &row);
        if (mark != MARK_NONE)
            size += (size_t)snprintf(out + size, sizeof out - size, "%s%c%llu",
                                     size == 0 ? "" : " ", mark == MARK_START ? '+' : '-',
                                     (unsigned long long)row);
    }
    return out;
}

static const struct {
    double on, off;
    uint32_t hold;
    double scores[10];
    size_t count;
    const char *marks, *why;
} cases[] = {
    { 0.5, 0.35, 1, { 0.1, 0.5, 0.9, 0.1 }, 4, "+10 -30", "`on` itself begins it" },
    { 0.5, 0.35, 1, { 0.6, 0.4, 0.35, 0.4, 0.6 }, 5, "+0", "between the two nothing changes" },
    { 0.5, 0.35, 1, { 0.6, 0.34, 0.4, 0.6 }, 4, "+0 -10 +30", "it begins again at `on` only" },
    { 0.5, 0.35, 3, { 0.6, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.1 }, 8, "+0 -40",
      "a pause shorter than `hold` is none; the end is where the pause began" },
    { 0.5, 0.35, 2, { 0.6, 0.1, 0.4, 0.1, 0.1 }, 5, "+0 -30", "one at `off` or more breaks the row" },
    { 0.5, 0.5, 0, { 0.6, 0.4 }, 2, "+0 -10", "a hold of 0 is one of 1" },
    { 0.5, 0.35, 1, { NAN, 0.6, NAN, 0.6 }, 4, "+10 -20 +30", "what is no number is below" },
    { 0.5, 0.35, 1, { 0.4, 0.49 }, 2, "", "never begun, never ended" },
};

TEST(marks_cases)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct mark_rule rule = { cases[i].on, cases[i].off, cases[i].hold };
        const char *found = marks_of(rule, cases[i].scores, cases[i].count);
        check(strcmp(found, cases[i].marks) == 0, "%s: '%s', not '%s'", cases[i].why, found,
              cases[i].marks);
    }
}

/* Whatever the scores are, marks take turns and their rows never go back. */
TEST(marks_take_turns)
{
    struct mark_rule rule = { 0.6, 0.4, 1 + (uint32_t)test_random_below(4) };
    struct mark_state state = { 0 };
    enum mark last = MARK_END;
    uint64_t last_row = 0;

    for (uint64_t i = 0; i < 10000; i++) {
        uint64_t row = 0;
        enum mark mark = mark_next(&rule, &state, (double)test_random_below(1000) / 1000, i, &row);
        if (mark == MARK_NONE)
            continue;
        check_or_stop(mark != last, "twice the same at %llu", (unsigned long long)i);
        check_or_stop(row >= last_row && row <= i, "row %llu at %llu behind %llu",
                      (unsigned long long)row, (unsigned long long)i, (unsigned long long)last_row);
        last = mark;
        last_row = row;
    }
}
