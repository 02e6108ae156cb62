/* ring.h - records from loops to one thread that writes them out: memory between two threads, and who is
 * woken when.
 *
 * One ring for each writer (a loop), and one reader of all of them. A writer never waits: a ring that is
 * full drops the record and counts it. The reader is woken by the first record after it had nothing to do,
 * and when a ring is half full; in between it looks by itself every RINGS_NAP_NS, so that a busy server makes
 * ten system calls a second for it and not one a request.
 *
 * Life     rings_init, rings_deinit once nobody writes and the reader has ended.
 * Threads  ring_begin and ring_commit: the ring's one writer. The rest: the one reader.
 */
#ifndef TELEMETRY_RING_H
#define TELEMETRY_RING_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/err.h"

enum { RING_BYTES_MIN = 4096 };
#define RINGS_NAP_NS UINT64_C(100000000)

struct ring {
    uint8_t *bytes; /* owned */
    uint64_t size;  /* a power of two */
    alignas(64) _Atomic uint64_t head; /* the writer's: bytes ever written */
    uint64_t tail_seen;
    _Atomic uint64_t written, dropped; /* records */
    alignas(64) _Atomic uint64_t tail; /* the reader's: bytes ever given back */
    uint64_t head_seen;
};

enum rings_state { RINGS_AWAKE, RINGS_NAPPING, RINGS_IDLE };

struct rings {
    struct ring *rings; /* owned */
    uint32_t count, next; /* next: where the reader goes on, so that no loop waits for another */
    _Atomic uint32_t state;
    void (*wake)(void *context); /* any thread */
    void *context;
};

/* `bytes` each: rounded up to a power of two, at least RING_BYTES_MIN. */
MUST_USE enum err_code rings_init(struct rings *rings, uint32_t count, uint64_t bytes,
                                  void (*wake)(void *context), void *context, struct err *err);
void rings_deinit(struct rings *rings);

/* Room for one record of at most `size` bytes, aligned to 8; NULL: it is full, and that is counted. Nothing
 * is told before ring_commit, and whoever does not call that has written nothing. */
MUST_USE void *ring_begin(struct ring *ring, size_t size);
/* The record has `size` bytes, no more than was asked for. Wakes the reader where it is time. */
void ring_commit(struct rings *rings, struct ring *ring, size_t size);

/* The next record; NULL: there is none. It stays until rings_done. */
MUST_USE const void *rings_next(struct rings *rings, size_t *ret_size);
void rings_done(struct rings *rings);
/* All are empty. `has_worked`: something was read since the last time, so more may come soon. Until when to
 * sleep: false, not at all, as something came meanwhile; else *ret_idle says whether until woken
 * (RINGS_IDLE) or for RINGS_NAP_NS. When it wakes: rings_awake. */
MUST_USE bool rings_may_sleep(struct rings *rings, bool has_worked, bool *ret_idle);
void rings_awake(struct rings *rings);

uint64_t rings_written(const struct rings *rings);
uint64_t rings_dropped(const struct rings *rings);

#endif
