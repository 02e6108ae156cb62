/* series.c - SPDX-License-Identifier: Apache-2.0
 *
 * Every set of labels has a number, given under the lock when a shard first meets it. A shard keeps a table
 * of its own from the hash of the labels to that number, and by the number its counters; both are
 * written by the shard's thread, under the lock, and read by that thread without it. Who takes a
 * snapshot reads them under the lock, and copies: text is made when it is free again, so that a loop
 * that meets new labels waits for additions and not for printing.
 *
 * Number 0 is "other". It is there from the start, in each shard, so that series_at cannot fail.
 */
#include "telemetry/series.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/text.h"
#include "telemetry/metrics.h"

enum { SLOTS_FIRST = 64, VALUE_BYTES_MAX = 256 };

struct row {
    uint64_t hash;
    struct slice values[SERIES_LABELS_MAX]; /* owned: one allocation, at values[0].data */
};

struct slot {
    const struct row *row; /* NULL: free */
    uint32_t number;
};

struct shard {
    struct slot *slots; /* owned */
    uint32_t slots_room, slots_used;
    uint32_t counters_room;
    _Atomic uint64_t **counters; /* owned: by number; NULL: not met here */
} __attribute__((aligned(64)));

struct series {
    pthread_mutex_t lock; /* leaf */
    struct series_limit *limit;
    const char *const *labels;
    uint32_t labels_count, counters_count, shards_count;
    uint32_t rows_count, rows_room;
    struct row **rows; /* owned; a row stays where it is */
    struct shard shards[];
};

static bool is_same(const struct series *series, const struct row *row, uint64_t hash,
                    const struct slice *values)
{
    if (row->hash != hash)
        return false;
    for (uint32_t i = 0; i < series->labels_count; i++)
        if (row->values[i].size != values[i].size ||
            (values[i].size > 0 &&
             memcmp(row->values[i].data, values[i].data, values[i].size) != 0))
            return false;
    return true;
}

static inline uint64_t load(const uint8_t *data, size_t size)
{
    uint64_t word = 0;

    memcpy(&word, data, size);
    return word;
}

/* Not map_hash: labels are of sets that no caller chooses, and this is asked for four times a request. */
static uint64_t hash_of(const struct series *series, const struct slice *values)
{
    uint64_t hash = 0;

    for (uint32_t i = 0; i < series->labels_count; i++) {
        const uint8_t *data = values[i].data;
        size_t size = values[i].size;
        hash += size;
        for (; size > 8; data += 8, size -= 8)
            hash = (hash ^ load(data, 8)) * 0x9fb21c651e98df25u;
        if (size == 8)
            hash ^= load(data, 8);
        else if (size >= 4) /* both ends, which may overlap: no call of memcpy */
            hash ^= load(data, 4) << 32 | load(data + size - 4, 4);
        else if (size > 0)
            hash ^= (uint64_t)data[0] << 16 | (uint64_t)data[size / 2] << 8 | data[size - 1];
        hash *= 0x9fb21c651e98df25u;
        hash ^= hash >> 32;
    }
    return hash;
}

/* -- the first time: under the lock ------------------------------------------------------------ */

static bool slots_grow(struct shard *shard)
{
    uint32_t room = shard->slots_room == 0 ? SLOTS_FIRST : 2 * shard->slots_room;
    struct slot *slots = mem_zalloc(room * sizeof *slots);

    if (slots == NULL)
        return false;
    for (uint32_t i = 0; i < shard->slots_room; i++) {
        if (shard->slots[i].row == NULL)
            continue;
        uint32_t at = (uint32_t)shard->slots[i].row->hash & (room - 1);
        while (slots[at].row != NULL)
            at = (at + 1) & (room - 1);
        slots[at] = shard->slots[i];
    }
    mem_free(shard->slots);
    shard->slots = slots;
    shard->slots_room = room;
    return true;
}

static bool counters_make(const struct series *series, struct shard *shard, uint32_t number)
{
    if (number >= shard->counters_room) {
        uint32_t room = MAX(2 * shard->counters_room, MAX(number + 1, 16u));
        _Atomic uint64_t **more = mem_resize(shard->counters, room * sizeof *more);
        if (more == NULL)
            return false;
        memset(more + shard->counters_room, 0, (room - shard->counters_room) * sizeof *more);
        shard->counters = more;
        shard->counters_room = room;
    }
    if (shard->counters[number] == NULL)
        shard->counters[number] = mem_zalloc(series->counters_count * sizeof(uint64_t));
    return shard->counters[number] != NULL;
}

/* One more series of the limit's, which others take from at the same time; "other" counts as none. */
static bool is_room(const struct series *series)
{
    struct series_limit *limit = series->limit;

    if (series->rows_count == 0 || atomic_fetch_add(&limit->used, 1) < limit->max)
        return true;
    atomic_fetch_sub(&limit->used, 1);
    return false;
}

/* The number of a row with those values, made when there is none; UINT32_MAX: no room or memory. */
static uint32_t row_of(struct series *series, uint64_t hash, const struct slice *values)
{
    size_t bytes = 0;

    for (uint32_t i = 1; i < series->rows_count; i++)
        if (is_same(series, series->rows[i], hash, values))
            return i;
    if (series->rows_count == series->rows_room) {
        uint32_t room = MAX(2 * series->rows_room, 16u);
        struct row **more = mem_resize(series->rows, room * sizeof(struct row *));
        if (more == NULL)
            return UINT32_MAX;
        series->rows = more;
        series->rows_room = room;
    }
    for (uint32_t i = 0; i < series->labels_count; i++)
        bytes += values[i].size;
    struct row *row = mem_zalloc(sizeof *row);
    uint8_t *copy = mem_alloc(MAX(bytes, (size_t)1));
    if (row == NULL || copy == NULL || !is_room(series)) {
        mem_free(row);
        mem_free(copy);
        return UINT32_MAX;
    }
    row->hash = hash;
    for (uint32_t i = 0; i < series->labels_count; i++) {
        if (values[i].size > 0)
            memcpy(copy, values[i].data, values[i].size);
        row->values[i] = slice_make(copy, values[i].size);
        copy += values[i].size;
    }
    series->rows[series->rows_count] = row;
    return series->rows_count++;
}

static bool is_too_long(const struct series *series, const struct slice *values)
{
    for (uint32_t i = 0; i < series->labels_count; i++)
        if (values[i].size > VALUE_BYTES_MAX)
            return true;
    return false;
}

COLD static _Atomic uint64_t *meet(struct series *series, struct shard *shard, uint64_t hash,
                                   const struct slice *values)
{
    pthread_mutex_lock(&series->lock);
    uint32_t number = is_too_long(series, values) ? UINT32_MAX : row_of(series, hash, values);
    bool has_room = number != UINT32_MAX &&
                    (2 * (shard->slots_used + 1) <= shard->slots_room || slots_grow(shard)) &&
                    counters_make(series, shard, number);
    if (has_room) {
        uint32_t at = (uint32_t)hash & (shard->slots_room - 1);
        while (shard->slots[at].row != NULL)
            at = (at + 1) & (shard->slots_room - 1);
        shard->slots[at] = (struct slot){ series->rows[number], number };
        shard->slots_used++;
    }
    _Atomic uint64_t *counters = shard->counters[has_room ? number : 0];
    pthread_mutex_unlock(&series->lock);
    if (!has_room)
        atomic_fetch_add(&series->limit->refused, 1);
    return counters;
}

/* -- what the header says ---------------------------------------------------------------------- */

enum err_code series_new(struct series **ret, const char *const *labels, uint32_t labels_count,
                         uint32_t counters_count, uint32_t shards_count, struct series_limit *limit,
                         struct err *err)
{
    size_t size = sizeof(struct series) + shards_count * sizeof(struct shard);
    CLEANUP(series_free) struct series *series = mem_aligned(64, size);
    struct slice others[SERIES_LABELS_MAX];

    require(labels_count <= SERIES_LABELS_MAX && shards_count > 0);
    if (series == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for metrics");
    memset(series, 0, size);
    pthread_mutex_init(&series->lock, NULL);
    series->limit = limit;
    series->labels = labels;
    series->labels_count = labels_count;
    series->counters_count = counters_count;
    series->shards_count = shards_count;
    for (uint32_t i = 0; i < SERIES_LABELS_MAX; i++)
        others[i] = slice_of("other");
    bool is_whole = row_of(series, hash_of(series, others), others) == 0;
    for (uint32_t i = 0; is_whole && i < shards_count; i++)
        is_whole = counters_make(series, &series->shards[i], 0);
    if (!is_whole)
        return err_set(err, E_EXHAUSTED, "no memory for metrics");
    *ret = TAKE(series);
    return OK;
}

void series_free(struct series **slot)
{
    struct series *series = TAKE(*slot);

    if (series == NULL)
        return;
    for (uint32_t i = 0; i < series->shards_count; i++) {
        struct shard *shard = &series->shards[i];
        for (uint32_t j = 0; j < shard->counters_room; j++)
            mem_free((void *)shard->counters[j]);
        mem_free(shard->counters);
        mem_free(shard->slots);
    }
    for (uint32_t i = 0; i < series->rows_count; i++) {
        mem_free((void *)series->rows[i]->values[0].data);
        mem_free(series->rows[i]);
    }
    mem_free(series->rows);
    pthread_mutex_destroy(&series->lock);
    mem_free(series);
}

_Atomic uint64_t *series_at(struct series *series, uint32_t number, const struct slice *values)
{
    struct shard *shard = &series->shards[number];
    uint64_t hash = hash_of(series, values);
    uint32_t mask = shard->slots_room - 1;

    require(number < series->shards_count);
    for (uint32_t at = (uint32_t)hash & mask; LIKELY(shard->slots_room > 0); at = (at + 1) & mask) {
        const struct row *row = shard->slots[at].row;
        if (UNLIKELY(row == NULL))
            break;
        if (LIKELY(is_same(series, row, hash, values)))
            return shard->counters[shard->slots[at].number];
    }
    return meet(series, shard, hash, values);
}

bool series_is_other(const struct series *series, uint32_t number, const _Atomic uint64_t *counters)
{
    return counters == series->shards[number].counters[0];
}

static int by_values(const void *left, const void *right, void *context)
{
    const struct series_row *a = left, *b = right;
    const struct series *series = context;

    for (uint32_t i = 0; i < series->labels_count; i++) {
        size_t size = MIN(a->values[i].size, b->values[i].size);
        int order = size == 0 ? 0 : memcmp(a->values[i].data, b->values[i].data, size);
        if (order != 0)
            return order;
        if (a->values[i].size != b->values[i].size)
            return a->values[i].size < b->values[i].size ? -1 : 1;
    }
    return 0;
}

void series_snapshot_take(struct series *series, struct series_snapshot *ret)
{
    *ret = (struct series_snapshot){ 0 };
    pthread_mutex_lock(&series->lock);
    uint32_t count = series->rows_count, width = series->counters_count;
    struct series_row *rows = mem_alloc(count * sizeof *rows);
    uint64_t *sums = mem_zalloc((size_t)count * width * sizeof *sums);
    uint32_t shown = 0;
    for (uint32_t i = 0; rows != NULL && sums != NULL && i < count; i++) {
        uint64_t *sum = sums + (size_t)shown * width, all = 0;
        for (uint32_t j = 0; j < series->shards_count; j++) {
            const struct shard *shard = &series->shards[j];
            if (i >= shard->counters_room || shard->counters[i] == NULL)
                continue;
            for (uint32_t k = 0; k < width; k++)
                all |= sum[k] += stat_read(&shard->counters[i][k]);
        }
        if (i == 0 && all == 0)
            continue; /* there is no other */
        rows[shown++] = (struct series_row){ series->rows[i]->values, sum };
    }
    pthread_mutex_unlock(&series->lock);
    if (rows == NULL || sums == NULL) {
        mem_free(rows);
        mem_free(sums);
        return;
    }
    qsort_r(rows, shown, sizeof *rows, by_values, series);
    *ret = (struct series_snapshot){ shown, rows, sums };
}

void series_snapshot_give(struct series_snapshot *snapshot)
{
    mem_free(snapshot->rows);
    mem_free(snapshot->memory);
    *snapshot = (struct series_snapshot){ 0 };
}

const char *series_labels(const struct series *series, const struct series_row *row,
                          struct text *room)
{
    room->size = 0;
    for (uint32_t i = 0; i < series->labels_count; i++)
        metrics_label(room, series->labels[i], row->values[i], i == 0);
    return text_cstr(room);
}
