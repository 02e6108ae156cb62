/* process.c - SPDX-License-Identifier: Apache-2.0
 *
 * What cannot be read (no /proc, or a sandbox) is left out: a metric that is not there says more than
 * one that is zero.
 */
#include "telemetry/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "telemetry/metrics.h"

enum { FDS_COUNTED_MAX = 4096 };

struct process {
    int memory_fd; /* /proc/self/statm; -1: none */
    int fds_fd;    /* /proc/self/fd; likewise */
    double started;
};

/* Since Linux 6.2 the folder's size is how many there are. Before, they are counted, as far as a loop
 * may take the time. */
static bool count_fds(const struct process *process, uint64_t *ret)
{
    struct stat stat;

    if (process->fds_fd < 0 || fstat(process->fds_fd, &stat) != 0)
        return false;
    *ret = (uint64_t)stat.st_size;
    if (stat.st_size > 0)
        return true;
    int fd = openat(process->fds_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (folder == NULL) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    while (*ret < FDS_COUNTED_MAX && readdir(folder) != NULL)
        ++*ret;
    closedir(folder);
    bool is_all = *ret < FDS_COUNTED_MAX;
    *ret -= MIN(*ret, (uint64_t)3); /* ".", ".." and the one that this took */
    return is_all;
}

static void put(struct text *out, const char *name, const char *type, const char *help,
                double value)
{
    metrics_family(out, name, type, help);
    metrics_sample_f64(out, name, "", value);
}

static void put_memory(struct text *out, const struct process *process)
{
    char words[128];
    unsigned long long all, resident;
    ssize_t got =
        process->memory_fd < 0 ? -1 : pread(process->memory_fd, words, sizeof words - 1, 0);
    double page = (double)sysconf(_SC_PAGESIZE);

    if (got <= 0)
        return;
    words[got] = '\0';
    if (sscanf(words, "%llu %llu", &all, &resident) != 2)
        return;
    put(out, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes",
        (double)all * page);
    put(out, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes",
        (double)resident * page);
}

static void render(void *context, struct text *out)
{
    const struct process *process = context;
    struct timespec used;
    struct rlimit limit;
    uint64_t fds;

    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0)
        put(out, "process_cpu_seconds_total", "counter",
            "Total user and system CPU time spent in seconds",
            (double)used.tv_sec + (double)used.tv_nsec / 1e9);
    put_memory(out, process);
    if (count_fds(process, &fds))
        put(out, "process_open_fds", "gauge", "Number of open file descriptors", (double)fds);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        put(out, "process_max_fds", "gauge", "Maximum number of open file descriptors",
            (double)limit.rlim_cur);
    put(out, "process_start_time_seconds", "gauge",
        "Start time of the process since the Unix epoch in seconds", process->started);
}

enum err_code process_new(struct process **ret, struct metrics *metrics, uint64_t wall_ns,
                          struct err *err)
{
    CLEANUP(process_free) struct process *process = mem_zalloc(sizeof *process);

    if (process == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for metrics");
    process->started = (double)(wall_ns / 1000000) / 1e3;
    process->memory_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    process->fds_fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    TRY(metrics_add_source(metrics, render, process, err));
    *ret = TAKE(process);
    return OK;
}

void process_free(struct process **slot)
{
    struct process *process = TAKE(*slot);

    if (process == NULL)
        return;
    if (process->memory_fd >= 0)
        close(process->memory_fd);
    if (process->fds_fd >= 0)
        close(process->fds_fd);
    mem_free(process);
}
