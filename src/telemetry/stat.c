/* stat.c - SPDX-License-Identifier: Apache-2.0 */
#include "telemetry/stat.h"

const double stat_bucket_seconds[STAT_BUCKETS - 1] = {
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3,
    5e-3, 1e-2, 2e-2, 5e-2, 0.1,  0.2,  0.5,  1.0,  5.0,  10.0,
};

static const uint64_t bucket_ns[STAT_BUCKETS - 1] = {
    1000,     2000,      5000,      10000,     20000,      50000,      100000,
    200000,   500000,    1000000,   2000000,   5000000,    10000000,   20000000,
    50000000, 100000000, 200000000, 500000000, 1000000000, 5000000000, 10000000000,
};

uint64_t stat_sum(const void *shards, uint32_t count, size_t shard_size, size_t offset)
{
    const char *at = (const char *)shards + offset;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < count; i++, at += shard_size)
        sum += stat_read((const _Atomic uint64_t *)(const void *)at);
    return sum;
}

/* The first bucket that a time of so many bits may be in: it is in that one or one of the next two. */
static const uint8_t bucket_first[35] = {
    [11] = 1,  [12] = 2,  [13] = 2,  [14] = 3,  [15] = 4,  [16] = 5,  [17] = 6,  [18] = 7,
    [19] = 8,  [20] = 9,  [21] = 10, [22] = 11, [23] = 11, [24] = 12, [25] = 13, [26] = 14,
    [27] = 15, [28] = 16, [29] = 17, [30] = 18, [31] = 19, [32] = 19, [33] = 19, [34] = 20,
};

static unsigned bucket_of(uint64_t ns)
{
    unsigned bits = 64 - (unsigned)__builtin_clzll(ns | 1), i;

    if (UNLIKELY(bits >= COUNT(bucket_first)))
        return STAT_BUCKETS - 1;
    i = bucket_first[bits];
    while (i < STAT_BUCKETS - 1 && ns > bucket_ns[i])
        i++;
    return i;
}

void stat_histogram_add(struct stat_histogram *h, uint64_t ns)
{
    unsigned i = bucket_of(ns);

    stat_add(&h->buckets[i], 1);
    stat_add(&h->sum_ns, ns);
}

void stat_histogram_sum(uint64_t sums[STAT_SUMS], const struct stat_histogram *h)
{
    for (unsigned i = 0; i < STAT_BUCKETS; i++)
        sums[i] += stat_read(&h->buckets[i]);
    sums[STAT_BUCKETS] += stat_read(&h->sum_ns);
}

uint64_t stat_histogram_count(const struct stat_histogram *h)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < STAT_BUCKETS; i++)
        count += stat_read(&h->buckets[i]);
    return count;
}
