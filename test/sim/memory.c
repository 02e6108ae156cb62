/* memory.c - the heap: what is lent and not given back; allocations that fail.
 * SPDX-License-Identifier: Apache-2.0
 *
 * All that the rooms and the libraries linked into them allocate comes by here. What shared
 * libraries allocate for themselves does not; what they allocate for us to free is unknown here,
 * and fine.
 */
#include <errno.h>
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test/sim/sim.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
int __real_posix_memalign(void **ret, size_t align, size_t size);
void __real_free(void *memory);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
int __wrap_posix_memalign(void **ret, size_t align, size_t size);
void __wrap_free(void *memory);

enum { FRAMES = 14, SHOWN_MAX = 12, LARGE = 1 << 20 };

struct loan {
    void *memory;
    size_t size;
    uint64_t number; /* of the allocation */
    void *frames[FRAMES];
    int frames_count;
};

static struct {
    struct loan *loans; /* open addressing; memory NULL: free */
    size_t room, count;
    uint64_t number;
    bool is_traced;
} heap;

void *sim_real_alloc(size_t size)
{
    void *memory = __real_calloc(1, size);

    if (memory == NULL)
        abort();
    return memory;
}

void *sim_real_resize(void *old, size_t size)
{
    void *memory = __real_realloc(old, size);

    if (memory == NULL)
        abort();
    return memory;
}

void sim_memory_trace(bool is_on)
{
    void *frames[2];

    heap.is_traced = is_on;
    if (is_on)
        backtrace(frames, 2); /* it loads a library the first time */
}

static size_t place_of(const void *memory)
{
    return (size_t)(((uintptr_t)memory >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20) &
           (heap.room - 1);
}

static void put(const struct loan *loan)
{
    size_t at = place_of(loan->memory);

    while (heap.loans[at].memory != NULL)
        at = (at + 1) & (heap.room - 1);
    heap.loans[at] = *loan;
}

static void grow(void)
{
    struct loan *old = heap.loans;
    size_t room = heap.room;

    heap.room = MAX(2 * room, (size_t)4096);
    heap.loans = sim_real_alloc(heap.room * sizeof *old);
    for (size_t i = 0; i < room; i++)
        if (old[i].memory != NULL)
            put(&old[i]);
    __real_free(old);
}

static void lend(void *memory, size_t size)
{
    struct loan loan = { .memory = memory, .size = size, .number = ++heap.number };

    if (memory == NULL)
        return;
    if (2 * (heap.count + 1) > heap.room)
        grow();
    if (heap.is_traced) {
        sim_enter();
        loan.frames_count = backtrace(loan.frames, FRAMES);
        sim_leave();
    }
    put(&loan);
    heap.count++;
}

static void take_back(void *memory)
{
    if (memory == NULL || heap.room == 0)
        return;
    size_t at = place_of(memory);
    while (heap.loans[at].memory != NULL && heap.loans[at].memory != memory)
        at = (at + 1) & (heap.room - 1);
    if (heap.loans[at].memory == NULL)
        return;
    heap.count--;
    for (size_t next = at;;) { /* closes the gap */
        heap.loans[at].memory = NULL;
        do {
            next = (next + 1) & (heap.room - 1);
            if (heap.loans[next].memory == NULL)
                return;
        } while (((next - place_of(heap.loans[next].memory)) & (heap.room - 1)) <
                 ((next - at) & (heap.room - 1)));
        heap.loans[at] = heap.loans[next];
        at = next;
    }
}

uint64_t sim_memory_live(uint64_t *ret_bytes)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < heap.room; i++)
        if (heap.loans[i].memory != NULL)
            bytes += heap.loans[i].size;
    *ret_bytes = bytes;
    return heap.count;
}

void sim_memory_say_live(void)
{
    int shown = 0;

    for (size_t i = 0; i < heap.room && shown < SHOWN_MAX; i++) {
        const struct loan *loan = &heap.loans[i];
        if (loan->memory == NULL)
            continue;
        fprintf(stderr, "    %zu bytes, allocation %llu:\n", loan->size,
                (unsigned long long)loan->number);
        if (loan->frames_count > 2)
            backtrace_symbols_fd(loan->frames + 2, loan->frames_count - 2, STDERR_FILENO);
        shown++;
    }
}

/* -- libc's names ------------------------------------------------------------------------------ */

void *__wrap_malloc(size_t size)
{
    if (!sim_is_in())
        return __real_malloc(size);
    if (sim_fault_here("malloc", sim_weather.memory_ppm)) {
        errno = ENOMEM;
        return NULL;
    }
    void *memory = __real_malloc(size);
    /* What is not written is not the same in each run. */
    if (memory != NULL)
        memset(memory, 0xa5, MIN(size, (size_t)LARGE));
    lend(memory, size);
    return memory;
}

void *__wrap_calloc(size_t count, size_t size)
{
    if (!sim_is_in())
        return __real_calloc(count, size);
    if (sim_fault_here("calloc", sim_weather.memory_ppm)) {
        errno = ENOMEM;
        return NULL;
    }
    void *memory = __real_calloc(count, size);
    lend(memory, count * size);
    return memory;
}

void *__wrap_realloc(void *old, size_t size)
{
    if (!sim_is_in())
        return __real_realloc(old, size);
    if (sim_fault_here("realloc", sim_weather.memory_ppm)) {
        errno = ENOMEM;
        return NULL;
    }
    take_back(old);
    void *memory = __real_realloc(old, size);
    lend(memory, size);
    return memory;
}

int __wrap_posix_memalign(void **ret, size_t align, size_t size)
{
    if (!sim_is_in())
        return __real_posix_memalign(ret, align, size);
    if (sim_fault_here("posix_memalign", sim_weather.memory_ppm))
        return ENOMEM;
    int error = __real_posix_memalign(ret, align, size);
    if (error == 0) {
        memset(*ret, 0xa5, MIN(size, (size_t)LARGE));
        lend(*ret, size);
    }
    return error;
}

void __wrap_free(void *memory)
{
    if (sim_is_in())
        take_back(memory);
    __real_free(memory);
}
