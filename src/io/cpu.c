/* cpu.c - SPDX-License-Identifier: Apache-2.0
 *
 * A quota may stand at any level of the cgroup tree, so each folder from ours up to the root is
 * asked. Version 2 keeps `cpu.max`; version 1 `cpu.cfs_quota_us` and `cpu.cfs_period_us` under the
 * cpu controller. Inside a container the path in /proc/self/cgroup may not exist below /sys: then
 * only the root is there, and it is the container's own.
 */
#include "io/cpu.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

enum { PATH_BYTES = 1024, FILE_BYTES = 4096 };

static struct slice read_small(const char *path, char *into, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t got;

    if (fd < 0)
        return slice_make(into, 0);
    while (size < room && (got = read(fd, into + size, room - size)) > 0)
        size += (size_t)got;
    close(fd);
    return slice_make(into, size);
}

static struct slice take_until(struct slice *from, uint8_t byte)
{
    size_t at = slice_find(*from, byte);
    struct slice piece = slice_first(*from, at);

    *from = slice_skip(*from, MIN(at + 1, from->size));
    return piece;
}

static uint32_t quota_of(uint64_t quota, uint64_t period)
{
    if (period == 0 || quota == 0)
        return UINT32_MAX;
    return (uint32_t)MIN((quota + period - 1) / period, (uint64_t)UINT32_MAX);
}

uint32_t cpu_quota_parse(struct slice text)
{
    struct slice line = take_until(&text, '\n');
    uint64_t quota, period;

    if (!slice_to_u64(slice_trim(take_until(&line, ' ')), &quota) ||
        !slice_to_u64(slice_trim(line), &period))
        return UINT32_MAX; /* "max 100000", or nothing we know */
    return quota_of(quota, period);
}

static uint64_t number_in(const char *root, const char *base, const char *path, const char *file)
{
    char name[3 * PATH_BYTES], text[64];
    uint64_t value = 0;

    snprintf(name, sizeof name, "%s%s%s/%s", root, base, path, file);
    struct slice bytes = read_small(name, text, sizeof text);
    bytes = take_until(&bytes, '\n');
    return slice_to_u64(bytes, &value) ? value : 0; /* -1 is no quota */
}

static uint32_t level_v2(const char *root, const char *path)
{
    char name[3 * PATH_BYTES], text[128];

    snprintf(name, sizeof name, "%s/sys/fs/cgroup%s/cpu.max", root, path);
    return cpu_quota_parse(read_small(name, text, sizeof text));
}

static uint32_t level_v1(const char *root, const char *path)
{
    return quota_of(number_in(root, "/sys/fs/cgroup/cpu", path, "cpu.cfs_quota_us"),
                    number_in(root, "/sys/fs/cgroup/cpu", path, "cpu.cfs_period_us"));
}

/* The smallest quota from `path` ("/a/b") up to the root of the tree (""). */
static uint32_t least_up(const char *root, struct slice path,
                         uint32_t (*level)(const char *root, const char *path))
{
    char name[PATH_BYTES];
    uint32_t least = UINT32_MAX;
    size_t size = path.size;

    if (size >= sizeof name)
        return least;
    memcpy(name, path.data, size);
    while (size > 0 && name[size - 1] == '/')
        size--;
    for (;;) {
        name[size] = '\0';
        least = MIN(least, level(root, name));
        if (size == 0)
            return least;
        do
            size--;
        while (size > 0 && name[size] != '/');
    }
}

uint32_t cpu_usable_at(const char *root, uint32_t affinity)
{
    char name[PATH_BYTES], text[FILE_BYTES];
    uint32_t least = MAX(affinity, 1u);

    snprintf(name, sizeof name, "%s/proc/self/cgroup", root);
    struct slice lines = read_small(name, text, sizeof text);
    while (lines.size > 0) {
        /* "0::/system.slice/x" or "4:cpu,cpuacct:/x" */
        struct slice line = take_until(&lines, '\n');
        struct slice number = take_until(&line, ':');
        struct slice controllers = take_until(&line, ':');
        if (slice_is(number, "0") && controllers.size == 0)
            least = MIN(least, least_up(root, line, level_v2));
        while (controllers.size > 0)
            if (slice_is(take_until(&controllers, ','), "cpu"))
                least = MIN(least, least_up(root, line, level_v1));
    }
    return MAX(least, 1u);
}

uint32_t cpu_usable(void)
{
    cpu_set_t *set;
    uint32_t count = 1;

    /* The kernel says EINVAL while the set is smaller than the machine. */
    for (size_t cpus = 1024; cpus <= (size_t)1 << 16 && (set = CPU_ALLOC(cpus)) != NULL;
         cpus *= 2) {
        size_t size = CPU_ALLOC_SIZE(cpus);
        bool is_known = sched_getaffinity(0, size, set) == 0;
        if (is_known)
            count = (uint32_t)CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (is_known)
            break;
    }
    return cpu_usable_at("", count);
}
