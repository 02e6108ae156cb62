/* tensor_memory.c - SPDX-License-Identifier: Apache-2.0 */
#include "contract/tensor_memory.h"

#include "base/arena.h"
#include "base/buf.h"

enum { ARENA_PIECE_MAX = 2048 };

enum err_code tensor_memory(void **ret, struct arena *arena, struct budget *budget, size_t size,
                            struct err *err)
{
    if (LIKELY(size <= ARENA_PIECE_MAX)) {
        void *piece = arena_aligned(arena, BUF_ALIGN, size);
        if (LIKELY(piece != NULL)) {
            *ret = piece;
            return OK;
        }
    } else {
        CLEANUP(buf_unref) struct buf *buf = NULL;
        TRY(buf_new(&buf, budget, size, err));
        uint8_t *data = buf_fill(buf);
        if (arena_adopt(arena, &buf)) {
            *ret = data;
            return OK;
        }
    }
    return err_set(err, E_EXHAUSTED, "no memory for %zu bytes of input; retry later", size);
}
