/* pool.h - objects of one size, kept for the next taker: the heap is not asked per request.
 * One thread at a time. What is given back is taken first, because it is still in the cache. */
#ifndef SERVE_POOL_H
#define SERVE_POOL_H

#include "base/def.h"

struct pool {
    void *first; /* linked by their first word */
    size_t size;
    uint32_t count, keep_max;
};

void pool_init(struct pool *pool, size_t size, uint32_t keep_max);
void pool_deinit(struct pool *pool, void (*finish)(void *object)); /* finish may be NULL */
/* NULL: no memory. *ret_is_fresh: never used before, else as it was given back. */
MUST_USE void *pool_take(struct pool *pool, int *ret_is_fresh);
/* 1: kept; 0: the pool is full and the object is the caller's to end and mem_free. */
MUST_USE int pool_give(struct pool *pool, void *object);

#endif
