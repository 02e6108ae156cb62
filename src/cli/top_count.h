/* top_count.h - what a server did between two looks at its /metrics: rates, quantiles, what is now.
 *
 * Pure: text in, numbers out. A counter that fell has begun anew (the server was restarted): what it has
 * counted since then counts.
 */
#ifndef CLI_TOP_COUNT_H
#define CLI_TOP_COUNT_H

#include "base/err.h"
#include "base/slice.h"

enum { TOP_BUCKETS_MAX = 40, TOP_ROWS_MAX = 10000, TOP_LOOPS_MAX = 256, TOP_LIMITS_MAX = 64 };

/* A histogram of the time between: how many took at most each bound. */
struct top_times {
    uint32_t count;
    double bounds[TOP_BUCKETS_MAX], counts[TOP_BUCKETS_MAX];
};

/* Seconds; NAN: nothing happened. INFINITY: past the last bound. */
double top_quantile(const struct top_times *times, double q);

/* A route, a model version or a tenant. Rates are a second, NAN in the first look. */
struct top_row {
    const char *name, *version; /* owned by the count; version "" where there is none */
    double requests, errors;    /* errors: how it ended is the caller's or the server's fault */
    double bytes_in, bytes_out; /* routes */
    double refused;             /* tenants: credentials, rights, limits */
    double rows;                /* models: inferences, by rows */
    double queued, running;     /* models now; tenants: running */
    bool is_ready;              /* models */
    struct top_times times;
};

enum top_kind { TOP_ROUTES, TOP_MODELS, TOP_TENANTS, TOP_KINDS };

struct top_list {
    struct top_row *rows;
    uint32_t count, room;
};

struct top_limit {
    const char *name;
    double hits; /* a second */
};

struct top_count {
    bool has_rates; /* there was a look before */
    bool is_anew;   /* the server was restarted since then */
    double seconds; /* between the looks */
    char version[32];
    double started; /* seconds since 1970; NAN: not known */
    double requests, errors, bytes_in, bytes_out;
    double in_flight, connections, http2_streams, websockets, sessions, kserve_streams;
    double resident_bytes, request_bytes, cpu; /* cpu: of one core */
    double open_fds;
    double loops_busy[TOP_LOOPS_MAX];
    uint32_t loops_count;
    struct top_times turns, lags;
    struct top_limit limits[TOP_LIMITS_MAX]; /* only those that were hit */
    uint32_t limits_count;
    struct top_list lists[TOP_KINDS];
    void *private;
};

/* `text` may go afterwards, `before` too. `before`: the look before, or NULL; `seconds` since then. E_DATA_LOSS: no metrics, or
 * none of a penstock. */
MUST_USE enum err_code top_count_new(struct top_count **ret, struct slice text,
                                     const struct top_count *before, double seconds,
                                     struct err *err);
void top_count_free(struct top_count **count);

#endif
