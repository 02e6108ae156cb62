/* websocket_out.c - messages and control frames to the tunnel. SPDX-License-Identifier: Apache-2.0
 *
 * A message is one frame, whatever its size. Its head and its small pieces are gathered in a chunk
 * that the messages of a turn share, and large pieces are referred to. The chunk is let go of at the
 * end of the turn: who says nothing holds no memory to say it with.
 */
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "call/websocket_internal.h"

enum {
    COPY_MAX = 4096,    /* larger pieces are sent from where they lie */
    CHUNK_BYTES = 4096, /* of memory to gather in, at least */
    PIECES_MAX = 16,    /* of a message to be compressed, without asking the heap */
    COMPRESS_MIN = 256, /* smaller messages gain nothing worth the time */
};

/* `size` bytes that stay until they are sent; NULL: no memory. */
static uint8_t *gather(struct websocket_call *w, size_t size)
{
    if (w->chunk_room < size) {
        size_t room = MAX(size, (size_t)CHUNK_BYTES);
        buf_unref(&w->chunk_buf);
        w->chunk_room = 0;
        if (w->call.x->loop == NULL)
            room = size;
        if (buf_new(&w->chunk_buf, w->call.x->budget, room, NULL) != OK)
            return NULL;
        w->chunk = buf_fill(w->chunk_buf);
        w->chunk_room = room;
        if (w->call.x->loop != NULL)
            loop_defer(w->call.x->loop, &w->tidy);
    }
    uint8_t *at = w->chunk;
    w->chunk += size;
    w->chunk_room -= size;
    return at;
}

void websocket_out_tidy(struct loop_task *task)
{
    struct websocket_call *w = CONTAINER_OF(task, struct websocket_call, tidy);

    buf_unref(&w->chunk_buf);
    w->chunk_room = 0;
}

void websocket_out_deinit(struct websocket_call *w)
{
    buf_unref(&w->chunk_buf);
    w->chunk_room = 0;
}

/* The small pieces from i on, and their bytes in all. */
static uint32_t run_of(const struct call_piece *pieces, uint32_t i, uint32_t count,
                       size_t *ret_size)
{
    *ret_size = 0;
    while (i < count && pieces[i].bytes.size < COPY_MAX)
        *ret_size += pieces[i++].bytes.size;
    return i;
}

/* False: no memory; and what has been sent makes no sense without the rest. */
static bool send_frame(struct websocket_call *w, enum websocket_opcode opcode, bool is_compressed,
                       const struct call_piece *pieces, uint32_t count, size_t total)
{
    struct exchange *x = w->call.x;
    uint8_t head[WEBSOCKET_HEAD_MAX];
    size_t before = websocket_head(w->heap, opcode, true, is_compressed, total, NULL, head), size;
    uint32_t i = 0;

    if (UNLIKELY(before == 0))
        return false;
    do {
        uint32_t end = run_of(pieces, i, count, &size);
        if (before + size > 0) {
            uint8_t *memory = gather(w, before + size), *at = memory;
            if (UNLIKELY(memory == NULL))
                return false;
            memcpy(at, head, before);
            at += before;
            for (; i < end; i++) {
                if (pieces[i].bytes.size != 0)
                    memcpy(at, pieces[i].bytes.data, pieces[i].bytes.size);
                at += pieces[i].bytes.size;
            }
            exchange_send(x, slice_make(memory, before + size), w->chunk_buf);
            before = 0;
        }
        for (i = end; i < count && pieces[i].bytes.size >= COPY_MAX; i++)
            exchange_send(x, pieces[i].bytes, pieces[i].holder);
    } while (i < count);
    return true;
}

static struct buf *compress(struct websocket_call *w, const struct call_piece *pieces,
                            uint32_t count)
{
    struct slice few[PIECES_MAX] = { { NULL, 0 } }, *slices = few;

    if (count > PIECES_MAX && (slices = mem_alloc(count * sizeof *slices)) == NULL)
        return NULL;
    for (uint32_t i = 0; i < count; i++)
        slices[i] = pieces[i].bytes;
    struct buf *packed = websocket_deflate(w->heap, &w->deflate, w->call.x->budget, slices, count);
    if (slices != few)
        mem_free(slices);
    return packed;
}

/* Text is worth it; tensors seldom are. */
static bool wants_deflate(const struct websocket_call *w, struct call_form form, size_t total)
{
    if (!w->deflate.is_on || form.compress == CALL_COMPRESS_NEVER)
        return false;
    return form.compress == CALL_COMPRESS_ALWAYS || (form.is_text && total >= COMPRESS_MIN);
}

void websocket_out_send(struct call *call, const struct call_piece *pieces, uint32_t pieces_count,
                        struct call_form form)
{
    struct websocket_call *w = websocket_of(call);
    enum websocket_opcode opcode = form.is_text ? WEBSOCKET_TEXT : WEBSOCKET_BINARY;
    struct buf *packed = NULL;
    size_t total = 0;
    bool is_sent;

    if (UNLIKELY(w->failure != OK || w->state != WEBSOCKET_OPEN))
        return;
    for (uint32_t i = 0; i < pieces_count; i++)
        total += pieces[i].bytes.size;
    if (wants_deflate(w, form, total))
        packed = compress(w, pieces, pieces_count);
    if (packed != NULL) {
        struct call_piece piece = { buf_bytes(packed), packed };
        stat_add(&w->stats->compressed_out, 1);
        is_sent = send_frame(w, opcode, true, &piece, 1, piece.bytes.size);
    } else {
        is_sent = send_frame(w, opcode, false, pieces, pieces_count, total);
    }
    buf_unref(&packed);
    if (UNLIKELY(!is_sent))
        w->failure = E_EXHAUSTED;
    else
        stat_add(&w->stats->messages_out, 1);
}

void websocket_out_control(struct websocket_call *w, enum websocket_opcode opcode,
                           struct slice payload)
{
    struct call_piece piece = { payload, NULL };

    if (!w->failure && !send_frame(w, opcode, false, &piece, 1, payload.size))
        w->failure = E_EXHAUSTED;
}

void websocket_out_close(struct websocket_call *w, uint16_t code, struct slice reason)
{
    uint8_t payload[WEBSOCKET_CONTROL_MAX];
    size_t size = websocket_close_put(code, reason, payload);
    struct call_piece piece = { slice_make(payload, size), NULL };

    /* After a message that could not be sent whole nothing can be read behind it. */
    (void)send_frame(w, WEBSOCKET_OP_CLOSE, false, &piece, 1, size);
}
