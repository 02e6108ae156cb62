/* socket.c - SPDX-License-Identifier: Apache-2.0
 *
 * Accepted sockets inherit TCP_NODELAY from the listener, which saves a call per connection. Output
 * leaves in whole answers, so Nagle's algorithm would only delay the last piece.
 *
 * SO_REUSEADDR lets a restart bind while old connections linger in TIME_WAIT; SO_REUSEPORT would
 * let two servers share a port by accident, each answering half of the requests.
 */
#include "io/socket.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fault.h"

static enum err_code parse_unix(struct address *ret, struct slice text, struct err *err)
{
    struct slice path = slice_first(text, slice_find(text, ','));
    struct slice rest = slice_skip(text, path.size);

    ret->mode = 0600;
    if (rest.size > 0) {
        uint32_t mode = 0;
        struct slice digits = rest;
        if (!slice_starts(rest, ",mode=") || rest.size > 10)
            return err_set(err, E_INVALID, "'unix:%.*s': what follows the path is ',mode=0660'",
                           SLICE_ARG(text));
        digits = slice_skip(rest, 6);
        for (size_t i = 0; i < digits.size; i++)
            mode = digits.data[i] >= '0' && digits.data[i] <= '7' ? mode * 8 + digits.data[i] - '0'
                                                                  : UINT32_MAX / 8;
        if (mode < 0600 || (mode & ~UINT32_C(0660)) != 0)
            return err_set(err, E_INVALID,
                           "'unix:%.*s': the mode is an octal number from 0600 to 0660",
                           SLICE_ARG(text));
        ret->mode = mode;
    }
    if (path.size == 0 || path.size >= sizeof ret->local.sun_path)
        return err_set(err, E_INVALID, "'unix:%.*s': a socket's path has 1 to %zu bytes",
                       SLICE_ARG(text), sizeof ret->local.sun_path - 1);
    ret->local.sun_family = AF_UNIX;
    memcpy(ret->local.sun_path, path.data, path.size);
    ret->size = (socklen_t)sizeof ret->local;
    return OK;
}

enum err_code address_parse(struct address *ret, const char *text, struct err *err)
{
    struct address address;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *found;
    char name[256];
    uint64_t port;

    memset(&address, 0, sizeof address);
    if (strncmp(text, "unix:", 5) == 0) {
        TRY(parse_unix(&address, slice_of(text + 5), err));
        *ret = address;
        return OK;
    }
    const char *colon = strrchr(text, ':');
    if (colon == NULL || !slice_to_u64(slice_of(colon + 1), &port) || port > 65535 ||
        (size_t)(colon - text) >= sizeof name)
        return err_set(err, E_INVALID,
                       "'%s' is not an address: expected HOST:PORT with a port from 0 to 65535, "
                       "as in 127.0.0.1:8000, [::1]:8000, :8000 (every address) or unix:/path",
                       text);
    struct slice host = slice_make(text, (size_t)(colon - text));
    bool is_ipv6 = host.size >= 2 && host.data[0] == '[' && host.data[host.size - 1] == ']';
    if (is_ipv6)
        host = slice_make(host.data + 1, host.size - 2);
    else if (slice_find(host, ':') != host.size)
        return err_set(err, E_INVALID, "'%s': an IPv6 address stands in brackets: [%.*s]:%d", text,
                       SLICE_ARG(host), (int)port);
    if (host.size == 0 || slice_is(host, "*"))
        host = slice_of("::");
    else if (slice_is_nocase(host, "localhost"))
        host = slice_of("127.0.0.1");
    memcpy(name, host.data, host.size);
    name[host.size] = '\0';
    if (is_ipv6)
        hints.ai_flags |= AI_NUMERICHOST;
    int error = fault_hit() ? EAI_MEMORY : getaddrinfo(name, colon + 1, &hints, &found);
    if (error != 0)
        return err_set(err, E_INVALID, "'%s': %s is not the address of a machine: %s", text, name,
                       gai_strerror(error));
    memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
    address.size = found->ai_addrlen;
    freeaddrinfo(found);
    *ret = address;
    return OK;
}

/* snprintf for these few bytes would take longer than the accept it goes with. */
static char *put_u32(char *at, uint32_t value)
{
    char digits[10];
    size_t count = 0;

    do
        digits[count++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (count > 0)
        *at++ = digits[--count];
    return at;
}

size_t address_text(const struct address *address, char out[ADDRESS_TEXT_MAX])
{
    char *at = out;

    if (address->any.sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)&address->storage;
        uint32_t ip = ntohl(in->sin_addr.s_addr);
        for (int shift = 24; shift >= 0; shift -= 8) {
            at = put_u32(at, ip >> shift & 255);
            *at++ = shift > 0 ? '.' : ':';
        }
        at = put_u32(at, ntohs(in->sin_port));
    } else if (address->any.sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const void *)&address->storage;
        *at++ = '[';
        if (IN6_IS_ADDR_V4MAPPED(&in->sin6_addr)) { /* as the peer calls itself */
            at = out;
            inet_ntop(AF_INET, in->sin6_addr.s6_addr + 12, at, ADDRESS_TEXT_MAX - 16);
            at += strlen(at);
        } else {
            inet_ntop(AF_INET6, &in->sin6_addr, at, ADDRESS_TEXT_MAX - 16);
            at += strlen(at);
            *at++ = ']';
        }
        *at++ = ':';
        at = put_u32(at, ntohs(in->sin6_port));
    } else {
        size_t size = address->size > offsetof(struct sockaddr_un, sun_path)
                          ? strnlen(address->local.sun_path, sizeof address->local.sun_path)
                          : 0;
        memcpy(at, "unix:", 5);
        memcpy(at + 5, address->local.sun_path, size);
        at += 5 + size;
    }
    *at = '\0';
    return (size_t)(at - out);
}

bool address_is_loopback(const struct address *address)
{
    const struct sockaddr_in *v4 = (const void *)&address->storage;
    const struct sockaddr_in6 *v6 = (const void *)&address->storage;

    switch (address->any.sa_family) {
    case AF_INET: return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    case AF_INET6:
        return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && v6->sin6_addr.s6_addr[12] == 127);
    default: return true;
    }
}

/* -- who holds a port ------------------------------------------------------------------------- */

/* The inode of the socket that listens on `port`, from /proc/net/tcp or tcp6; 0: none seen. */
static unsigned long listening_inode(const char *file, unsigned port)
{
    char line[512];
    unsigned long inode, found = 0;
    unsigned local, state;
    FILE *in = fopen(file, "re");

    if (in == NULL)
        return 0;
    while (found == 0 && fgets(line, sizeof line, in) != NULL)
        if (sscanf(line, " %*u: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*u %*d %lu",
                   &local, &state, &inode) == 3 &&
            local == port && state == 0x0a) /* TCP_LISTEN */
            found = inode;
    fclose(in);
    return found;
}

static bool process_has_socket(const char *pid, unsigned long inode)
{
    char path[64], link[64], wanted[64];
    struct dirent *entry;
    bool has = false;

    snprintf(path, sizeof path, "/proc/%.16s/fd", pid);
    size_t size = (size_t)snprintf(wanted, sizeof wanted, "socket:[%lu]", inode);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return false;
    while (!has && (entry = readdir(dir)) != NULL) {
        ssize_t got = readlinkat(dirfd(dir), entry->d_name, link, sizeof link);
        has = got == (ssize_t)size && memcmp(link, wanted, size) == 0;
    }
    closedir(dir);
    return has;
}

/* " by NAME (pid N)", or nothing when it cannot be known: another user's process. */
static void who_listens(const struct address *address, char *out, size_t room)
{
    const struct sockaddr_in *in = (const void *)&address->storage; /* the port lies the same */
    char path[64], name[64] = "";
    struct dirent *entry;

    out[0] = '\0';
    if (address->any.sa_family != AF_INET && address->any.sa_family != AF_INET6)
        return;
    unsigned long inode = listening_inode("/proc/net/tcp", ntohs(in->sin_port));
    if (inode == 0)
        inode = listening_inode("/proc/net/tcp6", ntohs(in->sin_port));
    DIR *dir = inode == 0 ? NULL : opendir("/proc");
    if (dir == NULL)
        return;
    while (out[0] == '\0' && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' ||
            !process_has_socket(entry->d_name, inode))
            continue;
        snprintf(path, sizeof path, "/proc/%.16s/comm", entry->d_name);
        FILE *comm = fopen(path, "re");
        if (comm != NULL && fgets(name, sizeof name, comm) != NULL)
            name[strcspn(name, "\n")] = '\0';
        if (comm != NULL)
            fclose(comm);
        snprintf(out, room, " by %s (pid %.16s)", name[0] != '\0' ? name : "a process",
                 entry->d_name);
    }
    closedir(dir);
}

/* -- listening ------------------------------------------------------------------------------- */

static enum err_code taken(const struct address *address, struct err *err)
{
    char text[ADDRESS_TEXT_MAX], who[128];

    address_text(address, text);
    who_listens(address, who, sizeof who);
    return err_set(err, E_EXISTS,
                   "cannot listen on %s: it is taken%s; stop that one, or listen elsewhere "
                   "(port 0 takes a free one)",
                   text, who);
}

/* Removes a socket file that nobody answers on. */
static enum err_code clear_stale(const struct address *address, struct err *err)
{
    const char *path = address->local.sun_path;
    struct stat st;

    if (lstat(path, &st) != 0)
        return OK;
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, E_EXISTS,
                       "cannot listen on unix:%s: a file of that name is there and is not a socket",
                       path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = fd < 0 || connect(fd, &address->any, address->size) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    if (error != ECONNREFUSED)
        return taken(address, err);
    if (unlink(path) != 0 && errno != ENOENT)
        return err_set(err, E_PERMISSION, "cannot remove the stale socket %s: %s", path,
                       strerror(errno));
    return OK;
}

static int open_bound(struct address *address, int backlog)
{
    const int on = 1, off = 0;
    int family = address->any.sa_family;
    int fd = fault_hit() ? -1 : socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    if (family != AF_UNIX) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (!fault_hit() && bind(fd, &address->any, address->size) == 0 &&
        (family != AF_UNIX || chmod(address->local.sun_path, address->mode) == 0) && !fault_hit() &&
        listen(fd, backlog) == 0) {
        /* The port the kernel chose; a unix socket keeps the name it was given. */
        if (family != AF_UNIX) {
            address->size = sizeof address->storage;
            getsockname(fd, &address->any, &address->size);
        }
        return fd;
    }
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

enum err_code socket_listen(int *ret_fd, struct address *address, int backlog, struct err *err)
{
    char text[ADDRESS_TEXT_MAX];
    struct sockaddr_in6 *v6 = (void *)&address->storage;

    if (address->any.sa_family == AF_UNIX)
        TRY(clear_stale(address, err));
    errno = ENOMEM; /* what an injected fault is called */
    int fd = open_bound(address, backlog);
    if (fd < 0 && errno == EAFNOSUPPORT && address->any.sa_family == AF_INET6 &&
        IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr)) {
        /* A machine without IPv6: every address is every IPv4 address. */
        struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = v6->sin6_port };
        memcpy(&address->storage, &any, sizeof any);
        address->size = sizeof any;
        fd = open_bound(address, backlog);
    }
    if (fd >= 0) {
        *ret_fd = fd;
        return OK;
    }
    int error = errno;
    if (error == EADDRINUSE)
        return taken(address, err);
    address_text(address, text);
    return err_set(err, error == EACCES || error == EPERM ? E_PERMISSION : E_UNAVAILABLE,
                   "cannot listen on %s: %s%s", text, strerror(error),
                   error == EACCES && address->any.sa_family != AF_UNIX
                       ? "; ports below 1024 need the right to bind them"
                       : "");
}

void socket_unlisten(int *fd, const struct address *address)
{
    struct stat st;
    struct sockaddr_un now;
    socklen_t size = sizeof now;

    if (*fd < 0)
        return;
    if (address->any.sa_family == AF_UNIX && getsockname(*fd, (void *)&now, &size) == 0 &&
        lstat(address->local.sun_path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        /* Another server may have put its own socket there meanwhile: then it answers when ours is
         * closed. */
        int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        socket_close(fd);
        if (probe >= 0 && connect(probe, &address->any, address->size) != 0 &&
            errno == ECONNREFUSED)
            unlink(address->local.sun_path);
        socket_close(&probe);
    }
    socket_close(fd);
}

/* libc's recv and send are cancellation points, which costs two locked instructions each in a
 * program with threads. Nobody cancels threads here, so the calls go straight to the kernel, except
 * where a sanitizer wants to see them. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__ || defined __clang__
#define RECV(fd, into, size) recv((fd), (into), (size), 0)
#define SEND(fd, data, size) send((fd), (data), (size), MSG_NOSIGNAL)
#else
#define RECV(fd, into, size) syscall(SYS_recvfrom, (fd), (into), (size), 0, NULL, NULL)
#define SEND(fd, data, size) syscall(SYS_sendto, (fd), (data), (size), MSG_NOSIGNAL, NULL, 0)
#endif

/* -- bytes ----------------------------------------------------------------------------------- */

int socket_accept(int listener, struct address *ret_peer)
{
    int fd;

    if (fault_hit())
        return -EMFILE;
    memset(&ret_peer->any, 0, sizeof ret_peer->any);
    do {
        ret_peer->size = sizeof ret_peer->storage;
        fd = accept4(listener, &ret_peer->any, &ret_peer->size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

ssize_t socket_recv(int fd, void *into, size_t size)
{
    ssize_t got;

    if (fault_hit())
        return -ECONNRESET;
    do
        got = RECV(fd, into, size);
    while (UNLIKELY(got < 0 && errno == EINTR));
    return got < 0 ? -errno : got;
}

ssize_t socket_discard(int fd, size_t size)
{
    ssize_t got;

    if (fault_hit())
        return -ECONNRESET;
    do /* tcp(7): MSG_TRUNC drops the bytes, and needs no memory to put them in */
        got = recv(fd, NULL, size, MSG_TRUNC);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EFAULT) { /* not TCP */
        char rest[4096];
        got = recv(fd, rest, MIN(size, sizeof rest), 0);
    }
    return got < 0 ? -errno : got;
}

ssize_t socket_send(int fd, const void *data, size_t size)
{
    ssize_t sent;

    if (fault_hit())
        return -EPIPE;
    do
        sent = SEND(fd, data, size);
    while (UNLIKELY(sent < 0 && errno == EINTR));
    return sent < 0 ? -errno : sent;
}

ssize_t socket_send_pieces(int fd, struct iovec *pieces, size_t count)
{
    struct msghdr message = { .msg_iov = pieces, .msg_iovlen = count };
    ssize_t sent;

    if (fault_hit())
        return -EPIPE;
    do
        sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (UNLIKELY(sent < 0 && errno == EINTR));
    return sent < 0 ? -errno : sent;
}

void socket_finish(int fd)
{
    shutdown(fd, SHUT_WR); /* ENOTCONN: the peer has left already */
}

size_t socket_unsent(int fd)
{
    int bytes = 0;

    return ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? (size_t)bytes : 0;
}

void socket_bound(int fd, size_t bytes)
{
    int most = (int)MIN(bytes, (size_t)INT_MAX);

    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &most, sizeof most);
}

void socket_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}
