/* mem.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"

_Thread_local uint32_t fault_countdown;
static _Thread_local bool fault_has_fired;
static _Thread_local uint64_t allocations;

void fault_arm(uint32_t nth)
{
    fault_countdown = nth;
    fault_has_fired = false;
}

bool fault_fired(void)
{
    return fault_has_fired;
}

bool fault_hit_armed(void)
{
    if (--fault_countdown != 0)
        return false;
    fault_has_fired = true;
    return true;
}

void *mem_alloc(size_t size)
{
    allocations++;
    return fault_hit() ? NULL : malloc(size == 0 ? 1 : size);
}

void *mem_zalloc(size_t size)
{
    allocations++;
    return fault_hit() ? NULL : calloc(1, size == 0 ? 1 : size);
}

void *mem_aligned(size_t align, size_t size)
{
    void *memory = NULL;

    allocations++;
    if (fault_hit() || posix_memalign(&memory, align, size == 0 ? 1 : size) != 0)
        return NULL;
    return memory;
}

void *mem_resize(void *old, size_t size)
{
    allocations++;
    return fault_hit() ? NULL : realloc(old, size == 0 ? 1 : size);
}

char *mem_strndup(const void *data, size_t size)
{
    char *copy = size == SIZE_MAX ? NULL : mem_alloc(size + 1);

    if (copy == NULL)
        return NULL;
    if (size != 0)
        memcpy(copy, data, size);
    copy[size] = '\0';
    return copy;
}

char *mem_strdup(const char *text)
{
    return mem_strndup(text, strlen(text));
}

void mem_free(void *memory)
{
    free(memory);
}

void mem_free_slot(void *slot)
{
    void *memory;

    memcpy(&memory, slot, sizeof memory);
    free(memory);
    memset(slot, 0, sizeof memory);
}

/* glibc raises its threshold for mmap to the size of the first large block that is freed, and then
 * keeps up to twice that at the top of each arena: 16 MiB calls on eight threads left 350 MB behind.
 * Fixed at 4 MiB, blocks of a usual tensor (602 KB) are still reused without page faults. */
void mem_tune(void)
{
    mallopt(M_ARENA_MAX, 4);
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 4 << 20);
}

/* glibc trims the top of each arena by itself; what is free below a block in use stays, and after a
 * burst of streams that is most of it (535 MiB seen). */
void mem_trim(void)
{
    enum { MUCH = 32 << 20 };

    if (mallinfo2().fordblks > MUCH)
        malloc_trim(MUCH / 4);
}

uint64_t mem_count(void)
{
    return allocations;
}
