/* observe_record.h - what was observed, as a record: for the observers that write on another thread. Loop
 * thread only.
 */
#ifndef SERVE_OBSERVE_RECORD_H
#define SERVE_OBSERVE_RECORD_H

#include "serve/observe.h"
#include "telemetry/ring.h"

/* Names of parameters of the query that may be written down; all others may be secrets. Read-only. */
struct observe_query {
    const char *const *names;
    uint32_t count;
};

/* Writes it into the loop's ring; NULL query: nothing of it is shown. */
void observe_record(struct rings *rings, const struct observed *seen,
                    const struct observe_query *query, bool has_inferences);

#endif
