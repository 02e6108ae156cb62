/* collect.h - the whole body of an exchange in one piece of memory.
 *
 * Reads all of it (known length: straight into one block; else growing), then undoes
 * Content-Encoding, beside the loop when it is more than a few KiB. At most bytes_max before and after that. Small bodies lie in the arena, large
 * ones in a buf charged to the budget.
 */
#ifndef EXCHANGE_COLLECT_H
#define EXCHANGE_COLLECT_H

#include "exchange/exchange.h"

struct aside;

struct collect_result {
    struct slice body;
    struct buf *holder; /* borrowed, NULL when in the arena: take a buf_ref to keep the bytes
                           beyond the exchange's own life */
};

struct collect_limits {
    size_t bytes_max;
    const char *option;  /* that raises it: "--max-body", for the error's text */
    size_t align_at;     /* the byte of the decoded body that should lie on a 64-byte line */
    struct aside *aside; /* where large bodies are inflated; NULL: on the loop */
};

/* Calls done(x, result, NULL) or done(x, NULL, err) later, from the transport's turn; not at all
 * when the exchange is gone first: then the user's on_gone is called. Uses x->user for itself while
 * it reads and restores it before done. E_EXHAUSTED with http 413 in mind: too large (code is
 * E_RANGE); E_UNIMPLEMENTED: unknown Content-Encoding. */
void exchange_collect(struct exchange *x, struct collect_limits limits,
                      void (*done)(struct exchange *x, const struct collect_result *result,
                                   const struct err *err));

#endif
