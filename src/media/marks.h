/* marks.h - where a score begins and ceases to hold, with hysteresis: of a stream of scores, one a
 * window, those places that a person would mark.
 *
 * It begins when the score is `on` or more, and ends when it was below `off` for `hold` windows one
 * after another; scores between the two change nothing. A score that is no number is below.
 * Pure; the state is its user's, all zero at first.
 */
#ifndef MEDIA_MARKS_H
#define MEDIA_MARKS_H

#include <stdbool.h>
#include <stdint.h>

struct mark_rule {
    double on, off; /* off <= on */
    uint32_t hold;  /* windows; 0 is 1 */
};

struct mark_state {
    bool is_on;
    uint32_t below;     /* windows in a row below `off` */
    uint64_t below_row; /* where the first of them begins */
};

enum mark { MARK_NONE, MARK_START, MARK_END };

/* The next window, which begins at `row`. *ret_row: where the window begins in which it began to hold,
 * or the first of those in which it did not any more. */
enum mark mark_next(const struct mark_rule *rule, struct mark_state *state, double score,
                    uint64_t row, uint64_t *ret_row);

#endif
