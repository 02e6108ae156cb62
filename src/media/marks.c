/* marks.c - SPDX-License-Identifier: Apache-2.0 */
#include "media/marks.h"

enum mark mark_next(const struct mark_rule *rule, struct mark_state *state, double score,
                    uint64_t row, uint64_t *ret_row)
{
    if (!state->is_on) {
        if (!(score >= rule->on))
            return MARK_NONE;
        state->is_on = true;
        state->below = 0;
        *ret_row = row;
        return MARK_START;
    }
    if (score >= rule->off) {
        state->below = 0;
        return MARK_NONE;
    }
    if (state->below++ == 0)
        state->below_row = row;
    if (state->below < rule->hold)
        return MARK_NONE;
    state->is_on = false;
    *ret_row = state->below_row;
    return MARK_END;
}
