/* buf.c - how a buf is kept; buf.h says what it is. SPDX-License-Identifier: Apache-2.0
 *
 * Count and bytes are one allocation: one pointer to follow, one free. The bytes start on a
 * 64-byte line so that a backend can use them in place as tensor data. An adopted buf is the
 * header alone.
 *
 * The budget is charged here rather than inside malloc, because it is a promise to the
 * operator (--memory-limit) and has to say no before the kernel does. Large ones lie in blocks
 * that are kept for the next (block.h).
 *
 * Why acq_rel in buf_unref: the holder that frees must have seen every other holder's last read
 * finish (a separate fence would do, but thread sanitizer cannot see it). buf_ref needs no
 * ordering, since its caller already holds the buf.
 */
#include "base/buf.h"

#include <stdalign.h>
#include <stdatomic.h>

#include "base/block.h"
#include "base/budget.h"
#include "base/mem.h"

enum { RETRY_AFTER_MS = 1000 };

struct buf {
    atomic_uint refs;
    size_t size;
    size_t charged;
    size_t block;          /* room of the block it lies in (block.h); 0: the heap */
    uint8_t *data;         /* own bytes below, or adopted */
    struct budget *budget; /* borrowed: outlives every buf charged to it */
    void (*release)(void *context, void *data);
    void *context;
    alignas(BUF_ALIGN) uint8_t bytes[];
};

#define NO_BUDGET                                                                                  \
    "no memory left for %zu bytes: the server's --memory-limit is reached; retry later or raise "  \
    "the limit"

/* format takes the one size. */
static PRINTF_LIKE(2, 0) enum err_code exhausted(struct err *err, const char *format, size_t size)
{
    err_set(err, E_EXHAUSTED, format, size);
    if (err != NULL)
        err->retry_after_ms = RETRY_AFTER_MS;
    return E_EXHAUSTED;
}

enum err_code buf_new(struct buf **ret, struct budget *budget, size_t size, struct err *err)
{
    return buf_new_partly(ret, budget, size, size, err);
}

/* Whose limit it was: a part of the server's memory has one of its own (access.yaml: tenants). */
COLD static const char *why_not(const struct budget *budget, size_t bytes)
{
    return budget_is_short(budget, bytes)
               ? "no memory left for %zu bytes: your tenant holds as many bytes as it may; retry later"
               : NO_BUDGET;
}

enum err_code buf_charge(struct buf *buf, size_t bytes, struct err *err)
{
    size_t want = bytes + sizeof *buf;

    require(bytes <= buf->size && buf->release == NULL);
    if (want <= buf->charged)
        return OK;
    if (!budget_take(buf->budget, want - buf->charged))
        return exhausted(err, why_not(buf->budget, bytes), bytes);
    buf->charged = want;
    return OK;
}

enum err_code buf_new_partly(struct buf **ret, struct budget *budget, size_t size, size_t charged,
                             struct err *err)
{
    require(charged <= size);
    if (size > SIZE_MAX / 2 || !budget_take(budget, charged + sizeof(struct buf)))
        return exhausted(err, why_not(budget, size), size);
    size_t block = 0, whole = sizeof(struct buf) + size;
    struct buf *buf =
        whole < BLOCK_MIN ? mem_aligned(BUF_ALIGN, whole) : block_take(whole, &block);
    if (buf == NULL) {
        budget_give(budget, charged + sizeof *buf);
        return exhausted(err, "the machine has no memory for %zu bytes; retry later", size);
    }
    atomic_init(&buf->refs, 1);
    buf->size = size;
    buf->charged = charged + sizeof *buf;
    buf->block = block;
    buf->data = buf->bytes;
    buf->budget = budget;
    buf->release = NULL;
    buf->context = NULL;
    *ret = buf;
    return OK;
}

enum err_code buf_adopt(struct buf **ret, void *data, size_t size,
                        void (*release)(void *context, void *data), void *context,
                        struct err *err)
{
    struct buf *buf = mem_aligned(BUF_ALIGN, sizeof *buf);

    if (buf == NULL)
        return err_set(err, E_EXHAUSTED, "the machine has no memory for a buffer; retry later");
    atomic_init(&buf->refs, 1);
    buf->size = size;
    buf->charged = 0;
    buf->block = 0;
    buf->data = data;
    buf->budget = NULL;
    buf->release = release;
    buf->context = context;
    *ret = buf;
    return OK;
}

uint8_t *buf_fill(struct buf *buf)
{
    require(atomic_load_explicit(&buf->refs, memory_order_relaxed) == 1);
    return buf->data;
}

struct slice buf_bytes(const struct buf *buf)
{
    return (struct slice){ buf->data, buf->size };
}

void buf_trim(struct buf *buf, size_t size)
{
    require(size <= buf->size);
    require(atomic_load_explicit(&buf->refs, memory_order_relaxed) == 1);
    buf->size = size;
}

bool buf_is_alone(const struct buf *buf)
{
    /* Acquire: the others' last reads have finished before what is written now. */
    return atomic_load_explicit(&buf->refs, memory_order_acquire) == 1;
}

struct buf *buf_ref(struct buf *buf)
{
    if (buf != NULL)
        atomic_fetch_add_explicit(&buf->refs, 1, memory_order_relaxed);
    return buf;
}

void buf_unref(struct buf **slot)
{
    struct buf *buf = TAKE(*slot);

    if (buf == NULL || atomic_fetch_sub_explicit(&buf->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (buf->release != NULL)
        buf->release(buf->context, buf->data);
    budget_give(buf->budget, buf->charged);
    if (buf->block != 0)
        block_give(buf, buf->block);
    else
        mem_free(buf);
}
