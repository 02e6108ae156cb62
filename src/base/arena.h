/* arena.h - memory of one request: taken in small pieces, dropped whole.
 *
 * One thread at a time. Memory is not zeroed unless asked. A cap bounds what one request may take;
 * past it arena_alloc answers NULL, as when the heap is empty, and callers answer E_EXHAUSTED.
 * The first block is kept by arena_reset, so that a pooled arena serves small requests without
 * asking the heap. Arenas of one thread may share a store of blocks: their first is small, so that one
 * that rests holds little, and those that follow come from the store and go back to it.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "base/err.h"
#include "base/slice.h"

struct arena;
struct budget;
struct buf;

MUST_USE struct arena *arena_new(size_t first_block_bytes, size_t cap_bytes); /* NULL: no memory */
void arena_free(struct arena **arena);

/* Blocks kept for the next taker; it outlives its arenas. */
struct arena_store {
    void *kept[2];
    uint32_t counts[2];
};

void arena_store_init(struct arena_store *store);
void arena_store_deinit(struct arena_store *store);
MUST_USE struct arena *arena_new_shared(struct arena_store *store, size_t cap_bytes);
/* What it takes behind the first block is charged there, and given back by arena_reset. Borrowed: it
 * outlives the arena. While nothing more than the first block is taken. */
void arena_charge_to(struct arena *arena, struct budget *budget);
/* Another thread may use it until arena_join gives it back its store: what it takes meanwhile is the
 * heap's. */
MUST_USE struct arena_store *arena_leave(struct arena *arena);
void arena_join(struct arena *arena, struct arena_store *store);
/* Drops everything, adopted bufs too; keeps the first block. */
void arena_reset(struct arena *arena);

MUST_USE void *arena_alloc(struct arena *arena, size_t size); /* 16-byte aligned, or NULL */
MUST_USE void *arena_zalloc(struct arena *arena, size_t size);
MUST_USE void *arena_aligned(struct arena *arena, size_t align, size_t size);
/* Grows the most recent allocation in place when it can, else copies. */
MUST_USE void *arena_resize(struct arena *arena, void *old, size_t old_size, size_t size);
MUST_USE char *arena_strndup(struct arena *arena, const void *data, size_t size);
MUST_USE char *arena_printf(struct arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);
/* The arena holds one reference of *buf until reset: takes the caller's. On false the reference is
 * still the caller's. */
MUST_USE bool arena_adopt(struct arena *arena, struct buf **buf);

size_t arena_used(const struct arena *arena);
/* Bytes that it can give without taking one more block. */
size_t arena_slack(const struct arena *arena);

#endif
