/* arena.c - SPDX-License-Identifier: Apache-2.0
 *
 * A list of blocks; the newest serves. A piece larger than a quarter block gets a block of its own
 * behind the newest, so that one large piece does not waste the rest of the block in use. Blocks of a
 * store come in two sizes, the small one for the beginning; of the newest and the one before it, the
 * one with more room left serves.
 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/budget.h"
#include "base/buf.h"
#include "base/mem.h"

enum {
    PIECE_ALIGN = 16,
    BLOCK_MIN = 1024,
    STORE_SMALL = 3840, /* with their heads */
    STORE_LARGE = 16 * 1024,
    STORE_KEEP_MAX = 64, /* of each */
};

struct block {
    struct block *next; /* older */
    size_t size, used;
    _Alignas(64) uint8_t bytes[];
};

struct adopted {
    struct adopted *next;
    struct buf *buf;
};

struct arena {
    struct block *now;
    struct block *first;
    struct adopted *adopted;
    size_t taken, cap;         /* in blocks behind the first */
    size_t charged;            /* of taken, to the budget */
    struct arena_store *store; /* borrowed; NULL: the heap */
    struct budget *budget;     /* borrowed; NULL: nobody's */
    void *last;                /* most recent piece, for arena_resize */
};

static struct block *block_new(size_t size)
{
    struct block *block = mem_aligned(64, sizeof *block + size);

    if (block == NULL)
        return NULL;
    block->next = NULL;
    block->size = size;
    block->used = 0;
    return block;
}

static size_t store_bytes(int kind)
{
    return kind == 0 ? STORE_SMALL : STORE_LARGE;
}

void arena_store_init(struct arena_store *store)
{
    memset(store, 0, sizeof *store);
}

void arena_store_deinit(struct arena_store *store)
{
    for (int kind = 0; kind < 2; kind++)
        while (store->kept[kind] != NULL) {
            struct block *block = store->kept[kind];
            store->kept[kind] = block->next;
            mem_free(block);
        }
    arena_store_init(store);
}

static struct block *store_take(struct arena_store *store, int kind)
{
    struct block *block = store->kept[kind];

    if (block == NULL)
        return block_new(store_bytes(kind) - sizeof *block);
    store->kept[kind] = block->next;
    store->counts[kind]--;
    block->next = NULL;
    block->used = 0;
    return block;
}

static void block_free(struct arena_store *store, struct block *block)
{
    for (int kind = 0; kind < 2 && store != NULL; kind++)
        if (block->size == store_bytes(kind) - sizeof *block &&
            store->counts[kind] < STORE_KEEP_MAX) {
            block->next = store->kept[kind];
            store->kept[kind] = block;
            store->counts[kind]++;
            return;
        }
    mem_free(block);
}

struct arena *arena_new_shared(struct arena_store *store, size_t cap_bytes)
{
    struct arena *arena = mem_zalloc(sizeof *arena);

    if (arena == NULL)
        return NULL;
    arena->store = store;
    arena->first = arena->now = store_take(store, 0);
    arena->cap = cap_bytes;
    if (arena->now == NULL)
        mem_free_slot(&arena);
    return arena;
}

struct arena *arena_new(size_t first_block_bytes, size_t cap_bytes)
{
    struct arena *arena = mem_zalloc(sizeof *arena);

    if (arena == NULL)
        return NULL;
    arena->first = arena->now = block_new(MAX(first_block_bytes, (size_t)BLOCK_MIN));
    arena->cap = cap_bytes;
    if (arena->now == NULL)
        mem_free_slot(&arena);
    return arena;
}

void arena_charge_to(struct arena *arena, struct budget *budget)
{
    require(arena->taken == 0);
    arena->budget = budget;
}

struct arena_store *arena_leave(struct arena *arena)
{
    return TAKE(arena->store);
}

void arena_join(struct arena *arena, struct arena_store *store)
{
    require(arena->store == NULL);
    arena->store = store;
}

void arena_reset(struct arena *arena)
{
    for (struct adopted *a = arena->adopted; a != NULL; a = a->next)
        buf_unref(&a->buf);
    arena->adopted = NULL;
    while (arena->now != arena->first) {
        struct block *old = arena->now;
        arena->now = old->next;
        block_free(arena->store, old);
    }
    while (arena->first->next != NULL) {
        struct block *old = arena->first->next;
        arena->first->next = old->next;
        block_free(arena->store, old);
    }
    arena->first->used = 0;
    if (UNLIKELY(arena->charged != 0))
        budget_give(arena->budget, arena->charged);
    arena->taken = arena->charged = 0;
    arena->last = NULL;
}

void arena_free(struct arena **slot)
{
    struct arena *arena = TAKE(*slot);

    if (arena == NULL)
        return;
    arena_reset(arena);
    block_free(arena->store, arena->first);
    mem_free(arena);
}

static size_t align_up(size_t at, size_t align)
{
    return (at + align - 1) & ~(align - 1);
}

/* What one block more costs the budget: of a store the first STORE_LARGE bytes cost nothing, as they
 * come and go with every request. */
static size_t price_of(const struct arena *arena, size_t room)
{
    size_t free_bytes = arena->store != NULL ? STORE_LARGE : 0, all = arena->taken + room;

    size_t due = all <= free_bytes ? 0 : all - free_bytes;

    return due <= arena->charged ? 0 : due - arena->charged; /* more where it had no store */
}

void *arena_aligned(struct arena *arena, size_t align, size_t size)
{
    struct block *block = arena->now;
    size_t at = align_up(block->used, align);

    if (LIKELY(at <= block->size && size <= block->size - at)) {
        block->used = at + size;
        return arena->last = block->bytes + at;
    }
    /* Blocks begin on 64 bytes, so an alignment up to that needs no slack in a fresh one. */
    if (size > arena->cap || arena->taken > arena->cap - size || align > 64)
        return NULL;
    size_t usual = arena->first->size;
    size_t room = size > usual / 4 ? size : usual;
    int kind = -1;
    if (arena->store != NULL && size <= STORE_LARGE - sizeof *block) {
        kind = arena->taken > 0 || size > usual;
        room = store_bytes(kind) - sizeof *block;
    }
    bool alone = room - size <= block->size - block->used;
    size_t price = price_of(arena, room);
    if (price != 0 && !budget_take(arena->budget, price))
        return NULL;
    struct block *fresh = kind >= 0 ? store_take(arena->store, kind) : block_new(room);
    if (fresh == NULL) {
        if (price != 0)
            budget_give(arena->budget, price);
        return NULL;
    }
    arena->taken += room;
    arena->charged += price;
    fresh->used = size;
    if (alone) {
        fresh->next = block->next;
        block->next = fresh;
        arena->last = NULL;
        return fresh->bytes;
    }
    fresh->next = block;
    arena->now = fresh;
    return arena->last = fresh->bytes;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    return arena_aligned(arena, PIECE_ALIGN, size);
}

void *arena_zalloc(struct arena *arena, size_t size)
{
    void *piece = arena_alloc(arena, size);

    if (piece != NULL)
        memset(piece, 0, size);
    return piece;
}

void *arena_resize(struct arena *arena, void *old, size_t old_size, size_t size)
{
    struct block *block = arena->now;

    if (old != NULL && old == arena->last) {
        size_t at = (size_t)((uint8_t *)old - block->bytes);
        if (size <= block->size - at) {
            block->used = at + size;
            return old;
        }
    }
    if (old != NULL && size <= old_size)
        return old;
    void *fresh = arena_alloc(arena, size);
    if (fresh != NULL && old_size != 0)
        memcpy(fresh, old, old_size);
    return fresh;
}

char *arena_strndup(struct arena *arena, const void *data, size_t size)
{
    char *copy = size == SIZE_MAX ? NULL : arena_aligned(arena, 1, size + 1);

    if (copy == NULL)
        return NULL;
    if (size != 0)
        memcpy(copy, data, size);
    copy[size] = '\0';
    return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = size < 0 ? NULL : arena_aligned(arena, 1, (size_t)size + 1);
    if (text == NULL)
        return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)size + 1, format, args);
    va_end(args);
    return text;
}

bool arena_adopt(struct arena *arena, struct buf **buf)
{
    struct adopted *a = arena_alloc(arena, sizeof *a);

    if (a == NULL)
        return false;
    a->buf = TAKE(*buf);
    a->next = arena->adopted;
    arena->adopted = a;
    return true;
}

size_t arena_used(const struct arena *arena)
{
    return arena->taken + arena->first->used;
}

size_t arena_slack(const struct arena *arena)
{
    return arena->now->size - MIN(align_up(arena->now->used, PIECE_ALIGN), arena->now->size);
}
