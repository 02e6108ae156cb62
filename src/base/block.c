/* block.c - SPDX-License-Identifier: Apache-2.0
 *
 * Kept blocks stand in one short table, the last given back first taken, because its pages are
 * still in a cache. A block may serve a request for two thirds of its size and more: messages of
 * one model are alike, and rounding their sizes up makes neighbours share.
 */
#include "base/block.h"

#include <pthread.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/fault.h"

enum { KEPT_MAX = 64, PAGE = 4096 };

struct kept {
    void *block;
    size_t room;
    uint64_t since_ns;
};

_Atomic uint64_t block_kept_bytes;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* leaf */
static struct kept kept[KEPT_MAX];                        /* oldest first */
static uint32_t kept_count;
static size_t keep_max;

/* Up to the next eighth of a power of two: at most an eighth more, and untouched pages cost
 * nothing. */
static size_t round_up(size_t size)
{
    size_t step = (size_t)1 << (63 - __builtin_clzll((unsigned long long)size));

    step = step / 8 > PAGE ? step / 8 : PAGE;
    return (size + step - 1) & ~(step - 1);
}

static struct kept forget(uint32_t index)
{
    struct kept one = kept[index];

    atomic_fetch_sub_explicit(&block_kept_bytes, one.room, memory_order_relaxed);
    kept_count--;
    for (uint32_t i = index; i < kept_count; i++)
        kept[i] = kept[i + 1];
    return one;
}

void *block_take(size_t size, size_t *ret_room)
{
    void *block = NULL;

    if (fault_hit() || size > SIZE_MAX / 2)
        return NULL;
    size_t room = round_up(size);
    pthread_mutex_lock(&mutex);
    for (uint32_t i = kept_count; i-- > 0;)
        if (kept[i].room >= room && kept[i].room - kept[i].room / 3 <= room) {
            struct kept one = forget(i);
            block = one.block;
            room = one.room;
            break;
        }
    pthread_mutex_unlock(&mutex);
    if (block == NULL) {
        block = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED)
            return NULL;
    }
    *ret_room = room;
    return block;
}

/* Gives kept blocks back to the system while more than `most` bytes (or too many) are kept, or
 * the oldest is older than `before`. Unmapping is slow: outside the mutex. */
static void drop(size_t most, uint32_t count_max, uint64_t before)
{
    for (;;) {
        struct kept one = { 0 };
        pthread_mutex_lock(&mutex);
        if (kept_count > 0 && (block_kept_bytes > most || kept_count > count_max ||
                               kept[0].since_ns < before))
            one = forget(0);
        pthread_mutex_unlock(&mutex);
        if (one.block == NULL)
            return;
        munmap(one.block, one.room);
    }
}

void block_give(void *block, size_t room)
{
    uint64_t now_ns = clock_mono_ns();
    bool is_kept = false;

    pthread_mutex_lock(&mutex);
    size_t most = keep_max;
    if (room <= most && kept_count < KEPT_MAX) {
        kept[kept_count++] = (struct kept){ block, room, now_ns };
        atomic_fetch_add_explicit(&block_kept_bytes, room, memory_order_relaxed);
        is_kept = true;
    }
    pthread_mutex_unlock(&mutex);
    if (is_kept)
        drop(most, KEPT_MAX - 1, 0);
    else
        munmap(block, room);
}

void block_keep(size_t bytes_max)
{
    pthread_mutex_lock(&mutex);
    keep_max = bytes_max;
    pthread_mutex_unlock(&mutex);
    drop(bytes_max, KEPT_MAX, 0);
}

void block_trim(uint64_t before_ns)
{
    pthread_mutex_lock(&mutex);
    size_t most = keep_max;
    pthread_mutex_unlock(&mutex);
    drop(most, KEPT_MAX, before_ns);
}
