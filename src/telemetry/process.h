/* process.h - the metrics that every program has, by the names that all of them use: process_...
 *
 * What they are read from is opened at the start, so that it can still be read once the process has shut
 * itself in (a sandbox forbids opening, not reading).
 */
#ifndef TELEMETRY_PROCESS_H
#define TELEMETRY_PROCESS_H

#include "base/err.h"

struct metrics;
struct process;

/* `wall_ns`: now, which is taken for the time of the start. Registers its metrics: the registry must be
 * freed first. */
MUST_USE enum err_code process_new(struct process **ret, struct metrics *metrics, uint64_t wall_ns,
                                   struct err *err);
void process_free(struct process **process);

#endif
