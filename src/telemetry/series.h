/* series.h - counters with labels whose values are known only as they come: routes, codes, models.
 *
 * A series is a set of labels and some eight-byte counters. Each shard (a loop) has counters of its own,
 * with one writer; series_at finds them without a lock, once that shard has seen the labels before. The
 * first time it takes one, which is held for a look-up and an allocation.
 *
 * Bounded: all series of one limit together are at most limit->max. Past it, and where memory has run
 * out, what is counted goes to a series whose labels are all "other", and the limit counts that.
 *
 * Life     series_new, series_at, series_snapshot_take; series_free when nobody counts any more. A series is
 *          never taken back: who makes labels from what comes and goes is bounded by the limit.
 * Threads  series_at: the shard's own. The others: any.
 */
#ifndef TELEMETRY_SERIES_H
#define TELEMETRY_SERIES_H

#include "base/err.h"
#include "base/slice.h"
#include "telemetry/stat.h"

enum { SERIES_LABELS_MAX = 4 };

struct series;
struct text;

/* Of several families together. */
struct series_limit {
    uint32_t max;
    _Atomic uint32_t used;
    _Atomic uint64_t refused; /* counted under "other" instead */
};

MUST_USE enum err_code series_new(struct series **ret, const char *const *labels,
                                  uint32_t labels_count, uint32_t counters_count,
                                  uint32_t shards_count, struct series_limit *limit,
                                  struct err *err);
void series_free(struct series **series);
/* The counters of these labels, in the order of series_new; never NULL. Values are copied when they are new. */
_Atomic uint64_t *series_at(struct series *series, uint32_t shard, const struct slice *values);
/* Are those the counters of "other"? Of any other labels who has asked once may keep them: they stay where they are
 * as long as the series lives. */
bool series_is_other(const struct series *series, uint32_t shard, const _Atomic uint64_t *counters);

struct series_row {
    const struct slice *values; /* of the labels; live as long as the series */
    uint64_t *counters;         /* of all shards together */
};
struct series_snapshot {
    uint32_t count;
    struct series_row *rows; /* owned; sorted by their labels */
    uint64_t *memory;
};
/* No memory: there are no rows. */
void series_snapshot_take(struct series *series, struct series_snapshot *ret);
void series_snapshot_give(struct series_snapshot *snapshot);
/* `route="/x",code="200"`, escaped, NUL-terminated, in `room`, which is emptied first. */
const char *series_labels(const struct series *series, const struct series_row *row,
                          struct text *room);

#endif
