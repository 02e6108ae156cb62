/* notify.c - SPDX-License-Identifier: Apache-2.0
 *
 * The protocol is one datagram of lines NAME=VALUE, and needs no library: sd_notify(3), "Notes".
 */
#include "cli/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/slice.h"

static struct {
    int fd;
    struct sockaddr_un to;
    socklen_t to_size;
    uint64_t watchdog_ns;
    bool has_failed;
} told = { .fd = -1 };

static uint64_t read_watchdog(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    uint64_t us, whose;

    if (usec == NULL || !slice_to_u64(slice_of(usec), &us) || us > UINT64_MAX / NS_PER_US)
        return 0;
    if (pid != NULL && (!slice_to_u64(slice_of(pid), &whose) || whose != (uint64_t)getpid()))
        return 0;
    return us * NS_PER_US;
}

void notify_open(void)
{
    const char *name = getenv("NOTIFY_SOCKET");
    size_t size = name == NULL ? 0 : strlen(name);

    if (size == 0)
        return;
    if ((name[0] != '/' && name[0] != '@') || size < 2 || size >= sizeof told.to.sun_path) {
        log_warn("NOTIFY_SOCKET is '%.100s', which is no name of a socket: systemd is told nothing",
                 name);
        return;
    }
    told.to.sun_family = AF_UNIX;
    memcpy(told.to.sun_path, name, size + 1);
    told.to_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + (name[0] == '/'));
    if (name[0] == '@')
        told.to.sun_path[0] = '\0'; /* an abstract one: unix(7) */
    told.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    told.watchdog_ns = read_watchdog();
}

void notify_close(void)
{
    if (told.fd >= 0)
        close(told.fd);
    told.fd = -1;
}

void notify(const char *format, ...)
{
    char text[1024];
    va_list args;

    if (told.fd < 0)
        return;
    va_start(args, format);
    int size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ssize_t sent =
        sendto(told.fd, text, MIN((size_t)size, sizeof text - 1), MSG_NOSIGNAL | MSG_DONTWAIT,
               (const struct sockaddr *)&told.to, told.to_size);
    if (sent < 0 && !told.has_failed) {
        told.has_failed = true;
        log_warn("cannot tell systemd (NOTIFY_SOCKET): %s", strerror(errno));
    }
}

uint64_t notify_watchdog_ns(void)
{
    return told.fd < 0 ? 0 : told.watchdog_ns;
}
