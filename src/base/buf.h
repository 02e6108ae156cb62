/* buf.h - bytes that cross threads without being copied.
 *
 * A buf is a reference-counted block. The connection that received it, the backend that reads
 * it as a tensor and the trace that samples it may all hold it at once.
 *
 * Life      buf_new, fill while you are the only holder, then buf_ref and buf_unref.
 * Threads   ref and unref from any thread; the bytes are read-only once shared.
 * Not here  memory of one request (arena.h), device memory (penstock/backend.h), parsing (wire/).
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include "base/err.h"
#include "base/slice.h"

struct budget; /* bytes the operator allows, see budget.h */
struct buf;    /* opaque */

enum { BUF_ALIGN = 64 }; /* the bytes of a buf_new begin on such a line */

/* Makes a buf of `size` bytes, NOT zeroed, held once. E_EXHAUSTED when the budget is spent or the
 * heap is: sizes come from peers, so running out is an answer to send, not a reason to stop.
 * budget may be NULL. */
MUST_USE enum err_code buf_new(struct buf **ret, struct budget *budget, size_t size,
                               struct err *err);

/* The same, charged for its first `charged` bytes only. For sizes that a peer has announced and not
 * sent: buf_charge takes the rest as it comes, and memory of large blocks is the system's until it is
 * written to. */
MUST_USE enum err_code buf_new_partly(struct buf **ret, struct budget *budget, size_t size,
                                      size_t charged, struct err *err);
/* Charges the first `bytes` in all, if it has not been yet; unshared only. */
MUST_USE enum err_code buf_charge(struct buf *buf, size_t bytes, struct err *err);

/* Makes a buf around memory that somebody else owns (a runtime's output, a mapping). `release` is
 * called once, on the thread that drops the last reference. On failure nothing is adopted: the
 * memory is still the caller's. The memory is not charged to a budget. */
MUST_USE enum err_code buf_adopt(struct buf **ret, void *data, size_t size,
                                 void (*release)(void *context, void *data), void *context,
                                 struct err *err);

uint8_t *buf_fill(struct buf *buf);            /* for writing; the buf must be unshared */
struct slice buf_bytes(const struct buf *buf); /* for reading */
/* Makes the buf shorter without moving its bytes; unshared only. */
void buf_trim(struct buf *buf, size_t size);
/* Does nobody else hold it? Then it may be written again, whatever others have read of it. */
bool buf_is_alone(const struct buf *buf);
struct buf *buf_ref(struct buf *buf); /* one more holder; returns buf; NULL is fine */
void buf_unref(struct buf **buf);     /* nulls *buf; NULL is fine */

#endif
