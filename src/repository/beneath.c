/* beneath.c - SPDX-License-Identifier: Apache-2.0
 *
 * openat2 with RESOLVE_BENEATH lets the kernel hold the line for every step of the walk at once. A
 * kernel without it (before 5.6, or a sandbox that refuses the call) gets the walk in two steps:
 * resolve, compare the beginning, open what was resolved without following links any more.
 */
#include "repository/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/fault.h"

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static void free_path(char **path)
{
    free(*path);
}

static enum err_code refuse_errno(struct err *err, const char *folder, const char *name, int error)
{
    if (error == EXDEV || error == ELOOP)
        return err_set(err, E_PERMISSION,
                       "'%s' leads out of the model's folder %s; a model opens only what lies in "
                       "its own folder: copy the file there",
                       name, folder);
    return err_set(err,
                   error == ENOENT || error == ENOTDIR ? E_NOT_FOUND
                   : error == EACCES || error == EPERM ? E_PERMISSION
                                                       : E_INTERNAL,
                   "cannot open '%s' in %s: %s", name, folder, strerror(error));
}

static bool is_beneath(const char *folder, const char *path)
{
    size_t size = strlen(folder);

    if (strcmp(folder, "/") == 0)
        return true;
    return strncmp(folder, path, size) == 0 && path[size] == '/';
}

/* The resolved path, heap, or NULL with errno; EXDEV when it is outside. */
static char *resolve(const char *folder, const char *name)
{
    char joined[PATH_MAX];

    if (name[0] == '/') {
        errno = EXDEV;
        return NULL;
    }
    if ((size_t)snprintf(joined, sizeof joined, "%s/%s", folder, name) >= sizeof joined) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    char *path = realpath(joined, NULL);
    if (path != NULL && !is_beneath(folder, path)) {
        free(path);
        errno = EXDEV;
        return NULL;
    }
    return path;
}

static int open_beneath(const char *folder, const char *name)
{
    CLEANUP(close_fd) int top = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                            .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };

    if (top < 0)
        return -1;
    int fd = (int)syscall(SYS_openat2, top, name, &how, sizeof how);
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
        return fd;
    CLEANUP(free_path) char *path = resolve(folder, name);
    return path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
}

enum err_code beneath_read(struct slice *ret, struct arena *arena, const char *folder,
                           const char *name, size_t bytes_max, struct err *err)
{
    CLEANUP(close_fd) int fd = fault_hit() ? (errno = EIO, -1) : open_beneath(folder, name);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0)
        return refuse_errno(err, folder, name, errno);
    if (!S_ISREG(st.st_mode))
        return err_set(err, E_INVALID, "'%s' in %s is not a regular file", name, folder);
    if ((uint64_t)st.st_size > bytes_max)
        return err_set(err, E_INVALID, "'%s' in %s has %lld bytes; the most is %zu", name, folder,
                       (long long)st.st_size, bytes_max);
    size_t size = (size_t)st.st_size, at = 0;
    uint8_t *data = arena_alloc(arena, size + 1);
    if (data == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for '%s' in %s", name, folder);
    while (at < size) {
        ssize_t got = fault_hit() ? (errno = EIO, -1) : read(fd, data + at, size - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return refuse_errno(err, folder, name, errno);
        if (got == 0)
            break;
        at += (size_t)got;
    }
    data[at] = '\0';
    *ret = slice_make(data, at);
    return OK;
}

enum err_code beneath_path(const char **ret, struct arena *arena, const char *folder,
                           const char *name, struct err *err)
{
    CLEANUP(free_path) char *path = fault_hit() ? (errno = EIO, NULL) : resolve(folder, name);

    if (path == NULL)
        return refuse_errno(err, folder, name, errno);
    *ret = arena_strndup(arena, path, strlen(path));
    return *ret != NULL ? OK : err_set(err, E_EXHAUSTED, "no memory for the path of '%s'", name);
}
