/* pool.c - SPDX-License-Identifier: Apache-2.0 */
#include "serve/pool.h"

#include <string.h>

#include "base/mem.h"

void pool_init(struct pool *pool, size_t size, uint32_t keep_max)
{
    memset(pool, 0, sizeof *pool);
    pool->size = MAX(size, sizeof(void *));
    pool->keep_max = keep_max;
}

void pool_deinit(struct pool *pool, void (*finish)(void *object))
{
    while (pool->first != NULL) {
        void *object = pool->first;
        memcpy(&pool->first, object, sizeof pool->first);
        if (finish != NULL)
            finish(object);
        mem_free(object);
    }
    pool->count = 0;
}

void *pool_take(struct pool *pool, int *ret_is_fresh)
{
    void *object = pool->first;

    *ret_is_fresh = object == NULL;
    if (object == NULL)
        return mem_aligned(64, pool->size);
    memcpy(&pool->first, object, sizeof pool->first);
    pool->count--;
    return object;
}

int pool_give(struct pool *pool, void *object)
{
    if (pool->count >= pool->keep_max)
        return 0;
    memcpy(object, &pool->first, sizeof pool->first);
    pool->first = object;
    pool->count++;
    return 1;
}
