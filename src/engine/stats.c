/* stats.c - SPDX-License-Identifier: Apache-2.0 */
#include "engine/stats.h"

const char *const stage_names[STAGES] = {
    [STAGE_DECODE] = "decode", [STAGE_QUEUE] = "queue",   [STAGE_INPUT] = "input",
    [STAGE_RUN] = "run",       [STAGE_OUTPUT] = "output", [STAGE_ENCODE] = "encode",
};

void stat_duration_add(struct stat_duration *d, uint64_t ns)
{
    model_stat_add(&d->count, 1);
    model_stat_add(&d->ns, ns);
}

const char *const refusal_names[REFUSALS] = {
    [REFUSAL_NONE] = "none",           [REFUSAL_FULL] = "full",
    [REFUSAL_DELAY] = "delay",         [REFUSAL_DEADLINE] = "deadline",
    [REFUSAL_LATE] = "late",           [REFUSAL_DISPLACED] = "displaced",
    [REFUSAL_TENANT] = "tenant",       [REFUSAL_BEHIND] = "behind",
    [REFUSAL_DRAINING] = "draining",
};
