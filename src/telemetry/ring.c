/* ring.c - SPDX-License-Identifier: Apache-2.0
 *
 * head and tail count bytes and never wrap; a place is their value modulo the size. A record is a head of
 * eight bytes (its size, as it stands in the ring) and its bytes, all in one piece: where the rest of the
 * ring is too short for what is asked, a mark says that the next lies at the beginning.
 *
 * The writer publishes with a sequentially consistent store of head and then reads the reader's state; the
 * reader stores its state so and then reads the heads. One of the two sees the other, so no record is left
 * lying while the reader sleeps.
 */
#include "telemetry/ring.h"

#include <string.h>

#include "base/mem.h"
#include "telemetry/stat.h"

enum { HEAD = 8 };
#define SKIP UINT64_MAX

enum err_code rings_init(struct rings *rings, uint32_t count, uint64_t bytes,
                         void (*wake)(void *context), void *context, struct err *err)
{
    uint64_t size = RING_BYTES_MIN;

    *rings = (struct rings){ .wake = wake, .context = context };
    atomic_init(&rings->state, RINGS_AWAKE);
    while (size < bytes && size < UINT64_C(1) << 40)
        size *= 2;
    rings->rings = mem_aligned(64, count * sizeof *rings->rings);
    if (rings->rings == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for records");
    memset(rings->rings, 0, count * sizeof *rings->rings);
    rings->count = count;
    for (uint32_t i = 0; i < count; i++) {
        rings->rings[i].size = size;
        rings->rings[i].bytes = mem_aligned(64, size);
        if (rings->rings[i].bytes == NULL) {
            rings_deinit(rings);
            return err_set(err, E_EXHAUSTED, "no memory for %llu bytes of records",
                           (unsigned long long)size);
        }
    }
    return OK;
}

void rings_deinit(struct rings *rings)
{
    for (uint32_t i = 0; rings->rings != NULL && i < rings->count; i++)
        mem_free(rings->rings[i].bytes);
    mem_free(TAKE(rings->rings));
    rings->count = 0;
}

/* -- the writer -------------------------------------------------------------------------------- */

static bool has_room(struct ring *r, uint64_t head, uint64_t bytes)
{
    if (LIKELY(head + bytes - r->tail_seen <= r->size))
        return true;
    r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
    return head + bytes - r->tail_seen <= r->size;
}

static void put_head(struct ring *r, uint64_t at, uint64_t size)
{
    memcpy(r->bytes + (at & (r->size - 1)), &size, sizeof size);
}

void *ring_begin(struct ring *r, size_t size)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    uint64_t bytes = (HEAD + (uint64_t)size + 7) & ~UINT64_C(7);
    uint64_t left = r->size - (head & (r->size - 1)); /* to the end; a multiple of 8 */
    uint64_t skipped = left < bytes ? left : 0;

    if (UNLIKELY(bytes > r->size / 2 || !has_room(r, head, skipped + bytes))) {
        stat_add(&r->dropped, 1);
        return NULL;
    }
    if (UNLIKELY(skipped != 0)) {
        /* Published by itself: the reader steps over it whatever comes of the record. */
        put_head(r, head, SKIP);
        head += skipped;
        atomic_store_explicit(&r->head, head, memory_order_release);
    }
    return r->bytes + (head & (r->size - 1)) + HEAD;
}

void ring_commit(struct rings *rings, struct ring *r, size_t size)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    uint64_t bytes = (HEAD + (uint64_t)size + 7) & ~UINT64_C(7);

    put_head(r, head, size);
    head += bytes;
    atomic_store_explicit(&r->head, head, memory_order_seq_cst);
    stat_add(&r->written, 1);
    uint32_t state = atomic_load_explicit(&rings->state, memory_order_seq_cst);
    if (LIKELY(state == RINGS_AWAKE ||
               (state == RINGS_NAPPING && head - r->tail_seen < r->size / 2)))
        return;
    if (state == RINGS_NAPPING) { /* what was seen of tail may be old */
        r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
        if (head - r->tail_seen < r->size / 2)
            return;
    }
    if (atomic_compare_exchange_strong(&rings->state, &state, RINGS_AWAKE))
        rings->wake(rings->context);
}

/* -- the reader -------------------------------------------------------------------------------- */

static uint64_t size_at(const struct ring *r, uint64_t at)
{
    uint64_t size;

    memcpy(&size, r->bytes + (at & (r->size - 1)), sizeof size);
    return size;
}

static const void *next_of(struct ring *r, size_t *ret_size)
{
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

    for (;;) {
        if (tail == r->head_seen)
            r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
        if (tail == r->head_seen)
            return NULL;
        uint64_t size = size_at(r, tail);
        if (LIKELY(size != SKIP)) {
            *ret_size = (size_t)size;
            return r->bytes + (tail & (r->size - 1)) + HEAD;
        }
        tail += r->size - (tail & (r->size - 1));
        atomic_store_explicit(&r->tail, tail, memory_order_release);
    }
}

const void *rings_next(struct rings *rings, size_t *ret_size)
{
    for (uint32_t i = 0; i < rings->count; i++) {
        const void *record = next_of(&rings->rings[rings->next], ret_size);
        if (record != NULL)
            return record;
        rings->next = rings->next + 1 == rings->count ? 0 : rings->next + 1;
    }
    return NULL;
}

void rings_done(struct rings *rings)
{
    struct ring *r = &rings->rings[rings->next];
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

    require(tail != r->head_seen);
    tail += (HEAD + size_at(r, tail) + 7) & ~UINT64_C(7);
    atomic_store_explicit(&r->tail, tail, memory_order_release);
}

bool rings_may_sleep(struct rings *rings, bool has_worked, bool *ret_idle)
{
    atomic_store_explicit(&rings->state, has_worked ? RINGS_NAPPING : RINGS_IDLE,
                          memory_order_seq_cst);
    *ret_idle = !has_worked;
    if (has_worked) /* it looks again soon, whatever there is */
        return true;
    for (uint32_t i = 0; i < rings->count; i++) {
        struct ring *r = &rings->rings[i];
        if (atomic_load_explicit(&r->head, memory_order_seq_cst) !=
            atomic_load_explicit(&r->tail, memory_order_relaxed)) {
            rings_awake(rings);
            return false;
        }
    }
    return true;
}

void rings_awake(struct rings *rings)
{
    atomic_store_explicit(&rings->state, RINGS_AWAKE, memory_order_seq_cst);
}

uint64_t rings_written(const struct rings *rings)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < rings->count; i++)
        sum += stat_read(&rings->rings[i].written);
    return sum;
}

uint64_t rings_dropped(const struct rings *rings)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < rings->count; i++)
        sum += stat_read(&rings->rings[i].dropped);
    return sum;
}
