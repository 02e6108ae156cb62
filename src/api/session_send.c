/* session_send.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/session_internal.h"

#include "base/buf.h"
#include "base/mem.h"

enum { FEW = 9 };

COLD enum err_code session_no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

static COLD enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
}

/* Bytes of an output that end with the response, in a buf of their own. */
static enum err_code copy_piece(struct call_piece *piece, struct budget *budget,
                                struct buf **ret_copy, struct err *err)
{
    TRY(buf_new(ret_copy, budget, piece->bytes.size, err));
    memcpy(buf_fill(*ret_copy), piece->bytes.data, piece->bytes.size);
    *piece = (struct call_piece){ buf_bytes(*ret_copy), *ret_copy };
    return OK;
}

HOT enum err_code session_send(struct call *call, const uint8_t *memory, size_t used,
                               struct buf *holder, const struct penstock_pb_piece *made,
                               uint32_t count, struct budget *budget, struct err *err)
{
    struct call_piece few[FEW], *pieces = few;
    struct buf *few_copies[FEW], **copies = few_copies;
    enum err_code code = OK;

    require(count != 0);

    if (UNLIKELY(count > FEW)) {
        pieces = mem_alloc(count * (sizeof *pieces + sizeof *copies));
        if (pieces == NULL)
            return no_memory(err);
        copies = (struct buf **)(pieces + count);
    }
    for (uint32_t i = 0; i < count; i++) {
        bool is_ours = made[i].bytes.data >= memory && made[i].bytes.data < memory + used;
        copies[i] = NULL;
        pieces[i] = (struct call_piece){ made[i].bytes, is_ours ? holder : made[i].holder };
        if (UNLIKELY(!is_ours && pieces[i].holder == NULL && code == OK))
            code = copy_piece(&pieces[i], budget, &copies[i], err);
    }
    if (LIKELY(code == OK))
        call_send(call, pieces, count);
    for (uint32_t i = 0; i < count; i++)
        buf_unref(&copies[i]);
    if (UNLIKELY(pieces != few))
        mem_free(pieces);
    return code;
}
