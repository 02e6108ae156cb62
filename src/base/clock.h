/* clock.h - the time, in nanoseconds. Rooms that must run in a simulation take it from io/env.h
 * instead; this is the real one. Any thread. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <time.h>

#include "base/def.h"

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

static inline uint64_t clock_read(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}
static inline uint64_t clock_mono_ns(void) /* since boot: for spans and deadlines */
{
    return clock_read(CLOCK_MONOTONIC);
}
static inline uint64_t clock_wall_ns(void) /* since 1970 UTC: for people */
{
    return clock_read(CLOCK_REALTIME);
}

#endif
