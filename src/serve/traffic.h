/* traffic.h - what is counted of every request, by route, by model and by tenant: an observer of
 * exchanges (observe.h).
 *
 * Labels are of sets that callers cannot make larger: routes that there are, models that exist, tenants
 * of the rules; and all series together are bounded (--metrics-series-max). What came for no route is
 * counted under route="".
 *
 * Threads  counting is each loop's own, without a lock; traffic_register and traffic_free as serve_new's.
 */
#ifndef SERVE_TRAFFIC_H
#define SERVE_TRAFFIC_H

#include "serve/observe.h"

struct metrics;
struct traffic;

MUST_USE enum err_code traffic_new(struct traffic **ret, uint32_t loops_count, uint32_t series_max,
                                   struct err *err);
void traffic_free(struct traffic **traffic);
MUST_USE enum err_code traffic_register(struct traffic *traffic, struct metrics *metrics,
                                        struct err *err);
/* An observer's on_exchange. */
void traffic_count(void *context, const struct observed *seen);
/* Counted under "other", as there are too many series. */
uint64_t traffic_refused(const struct traffic *traffic);

#endif
