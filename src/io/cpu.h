/* cpu.h - how many cores this process may really use: its affinity, cut by a cgroup's quota. */
#ifndef IO_CPU_H
#define IO_CPU_H

#include "base/slice.h"

uint32_t cpu_usable(void); /* at least 1 */

/* The same with the files of /proc and /sys under `root`, for tests; affinity: the cores before
 * any quota. */
uint32_t cpu_usable_at(const char *root, uint32_t affinity);
/* "200000 100000" (cgroup v2 cpu.max): quota / period, rounded up; UINT32_MAX: no quota. */
uint32_t cpu_quota_parse(struct slice text);

#endif
