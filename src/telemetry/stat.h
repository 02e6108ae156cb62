/* stat.h - what is counted on a hot path: eight-byte counters with one writer, and histograms of them.
 *
 * Whoever counts has a shard of its own (a loop), so that counting is a load and a store and no locked
 * instruction; whoever asks adds the shards up, from any thread, and may find two members a request
 * apart.
 */
#ifndef TELEMETRY_STAT_H
#define TELEMETRY_STAT_H

#include <stdatomic.h>

#include "base/def.h"

/* The shard's own writer. */
static inline void stat_add(_Atomic uint64_t *stat, uint64_t n)
{
    atomic_store_explicit(stat, atomic_load_explicit(stat, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static inline uint64_t stat_read(const _Atomic uint64_t *stat)
{
    return atomic_load_explicit(stat, memory_order_relaxed);
}

/* The counter that lies `offset` bytes into each of the shards. */
uint64_t stat_sum(const void *shards, uint32_t count, size_t shard_size, size_t offset);

enum { STAT_BUCKETS = 22 }; /* 1 us, 2, 5, 10 ... 1 s, 5 s, 10 s, more */
extern const double stat_bucket_seconds[STAT_BUCKETS - 1];

/* Eight-byte counters only: it may lie in an array of them. */
struct stat_histogram {
    _Atomic uint64_t buckets[STAT_BUCKETS];
    _Atomic uint64_t sum_ns;
};

/* The shard's own writer. */
void stat_histogram_add(struct stat_histogram *h, uint64_t ns);
/* Adds it to `sums`: the buckets, then sum_ns. */
enum { STAT_SUMS = STAT_BUCKETS + 1 };
void stat_histogram_sum(uint64_t sums[STAT_SUMS], const struct stat_histogram *h);
uint64_t stat_histogram_count(const struct stat_histogram *h);

#endif
