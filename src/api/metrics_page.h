/* metrics_page.h - GET /metrics: Prometheus' text or OpenMetrics, compressed for who takes it. */
#ifndef API_METRICS_PAGE_H
#define API_METRICS_PAGE_H

#include "api/route.h"

/* A route's handler. Loop thread. */
void metrics_page(struct exchange *x, const struct route_match *match);

#endif
