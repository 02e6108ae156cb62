/* tensor_memory.h - memory for an input's bytes while a request lives: small pieces in its arena,
 * large ones in a buf that is charged to the budget and goes with the arena.
 */
#ifndef CONTRACT_TENSOR_MEMORY_H
#define CONTRACT_TENSOR_MEMORY_H

#include "base/err.h"

struct arena;
struct budget;

/* 64-byte aligned, not zeroed. E_EXHAUSTED when there is none. */
MUST_USE enum err_code tensor_memory(void **ret, struct arena *arena, struct budget *budget,
                                     size_t size, struct err *err);

#endif
