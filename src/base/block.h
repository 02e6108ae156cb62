/* block.h - memory of large messages, kept for the next one.
 *
 * A fresh block of 16 MiB costs 4,096 page faults, several times what reading it from a socket
 * does. So blocks that are given back are kept, up to a limit (--memory-kept), and go back to the
 * system when nobody wanted them for a while.
 *
 * Threads  any; one leaf mutex, taken for blocks of BLOCK_MIN and more only.
 */
#ifndef BASE_BLOCK_H
#define BASE_BLOCK_H

#include <stdatomic.h>

#include "base/def.h"

enum { BLOCK_MIN = 2 << 20 }; /* smaller memory is the heap's, which keeps it itself */

/* At least `size` bytes, on a page's begin, not zeroed; *ret_room is what block_give wants to hear.
 * NULL: the system has none. */
MUST_USE void *block_take(size_t size, size_t *ret_room);
void block_give(void *block, size_t room);

/* How many bytes may be kept: 0 at first. What is more goes back at once. */
void block_keep(size_t bytes_max);
/* Blocks given back before that time (clock_mono_ns) go back to the system. */
void block_trim(uint64_t before_ns);
extern _Atomic uint64_t block_kept_bytes; /* a gauge: of metrics */

#endif
