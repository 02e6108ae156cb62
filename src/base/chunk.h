/* chunk.h - small pieces gathered one behind the other in bufs that are sent and let go of.
 *
 * Who sends a little now and then writes each piece to the same few bytes: once nobody else holds the
 * buf, it is written again from its start. Who sends much gets larger bufs, which go when the last
 * piece in them was sent. All zero is an empty chunk.
 *
 * Threads  one at a time; the references that others hold may be dropped on any.
 */
#ifndef BASE_CHUNK_H
#define BASE_CHUNK_H

#include "base/def.h"

struct budget;
struct buf;

enum { CHUNK_FIRST = 448, CHUNK_MOST = 16 * 1024 };

struct chunk {
    struct buf *buf; /* owned; NULL: none */
    uint8_t *at;     /* what of it is not used yet */
    size_t left;
    uint32_t size; /* of it; the next one is larger, up to CHUNK_MOST */
};

/* `most` bytes in one piece, of which chunk_used then says how many were written; *ret_holder keeps
 * them (borrowed: who sends them takes a reference). NULL: no memory. What was given before and is not
 * held by anybody may be written over. */
MUST_USE uint8_t *chunk_room(struct chunk *chunk, struct budget *budget, size_t most,
                             struct buf **ret_holder);
void chunk_used(struct chunk *chunk, size_t used);
void chunk_drop(struct chunk *chunk);

#endif
