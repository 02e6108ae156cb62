/* verbs.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/verbs.h"

#include "base/log.h"
#include "cli/options.h"

void verbs_start_log(const struct options *options)
{
    log_set_level((enum log_level)options_number(options, OPT_LOG_LEVEL));
    log_set_json(options_number(options, OPT_LOG_FORMAT) == 1);
    for (uint32_t i = 0; i < options->notes_count; i++)
        log_warn("%s", options->notes[i]);
}
