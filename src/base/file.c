/* file.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fault.h"

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static enum err_code code_of(int error)
{
    return error == ENOENT || error == ENOTDIR ? E_NOT_FOUND
           : error == EACCES || error == EPERM ? E_PERMISSION
                                               : E_INTERNAL;
}

enum err_code file_read(struct buf **ret, struct budget *budget, const char *path,
                        size_t bytes_max, struct err *err)
{
    CLEANUP(buf_unref) struct buf *buf = NULL;
    CLEANUP(close_fd) int fd = fault_hit() ? (errno = EIO, -1) : open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a FIFO would wait for its writer */
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0)
        return err_set(err, code_of(errno), "cannot open %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, E_INVALID, "%s is %snot a regular file", path,
                       S_ISDIR(st.st_mode) ? "a folder, " : "");
    if ((uint64_t)st.st_size > bytes_max)
        return err_set(err, E_INVALID, "%s has %lld bytes; the most is %zu", path,
                       (long long)st.st_size, bytes_max);
    TRY(buf_new(&buf, budget, (size_t)st.st_size, err));
    size_t at = 0;
    while (at < (size_t)st.st_size) {
        ssize_t got = fault_hit() ? (errno = EIO, -1)
                                  : read(fd, buf_fill(buf) + at, (size_t)st.st_size - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(err, code_of(errno), "cannot read %s: %s", path, strerror(errno));
        if (got == 0)
            break;
        at += (size_t)got;
    }
    buf_trim(buf, at);
    *ret = TAKE(buf);
    return OK;
}
