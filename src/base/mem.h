/* mem.h - the heap, with a place to make it fail.
 *
 * Everything of ours that allocates goes through here, so that a fault sweep (fault.h) can refuse
 * the first allocation, the second, ... and so that a test can count what the hot path allocates.
 * Sizes that come from peers go through buf_new and its budget instead of asking here directly.
 * Any thread. Memory is freed with mem_free (or free: it is malloc's).
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include "base/def.h"

MUST_USE void *mem_alloc(size_t size);              /* NULL when there is none */
MUST_USE void *mem_zalloc(size_t size);             /* zeroed */
MUST_USE void *mem_aligned(size_t align, size_t size); /* align: a power of two */
MUST_USE void *mem_resize(void *old, size_t size);  /* NULL leaves old as it was */
MUST_USE char *mem_strdup(const char *text);
MUST_USE char *mem_strndup(const void *data, size_t size); /* NUL-terminated copy */
void mem_free(void *memory);                        /* NULL is fine */
/* For CLEANUP on any pointer variable: frees *slot and nulls it. */
void mem_free_slot(void *slot);

/* Tells the heap how a server of large bodies wants it: few arenas, memory of large blocks given
 * back to the system instead of kept. Once, before other threads begin. */
void mem_tune(void);

/* Gives heap memory that is free back to the system when there is much of it: now and then, on a
 * thread that nobody waits for. */
void mem_trim(void);

uint64_t mem_count(void); /* allocations by the calling thread since it began */

#endif
