/* chunk.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/chunk.h"

#include "base/buf.h"

uint8_t *chunk_room(struct chunk *chunk, struct budget *budget, size_t most,
                    struct buf **ret_holder)
{
    if (LIKELY(chunk->buf != NULL) && chunk->left < chunk->size && buf_is_alone(chunk->buf)) {
        chunk->at = buf_fill(chunk->buf);
        chunk->left = chunk->size;
    }
    if (UNLIKELY(chunk->left < most)) {
        size_t size = MIN(MAX(2 * (size_t)chunk->size, (size_t)CHUNK_FIRST), (size_t)CHUNK_MOST);
        struct buf *fresh = NULL;
        size = MAX(size, most);
        if (size > UINT32_MAX || buf_new(&fresh, budget, size, NULL) != OK)
            return NULL;
        buf_unref(&chunk->buf);
        chunk->buf = fresh;
        chunk->at = buf_fill(fresh);
        chunk->left = size;
        chunk->size = (uint32_t)size;
    }
    *ret_holder = chunk->buf;
    return chunk->at;
}

void chunk_used(struct chunk *chunk, size_t used)
{
    require(used <= chunk->left);
    chunk->at += used;
    chunk->left -= used;
}

void chunk_drop(struct chunk *chunk)
{
    buf_unref(&chunk->buf);
    *chunk = (struct chunk){ 0 };
}
