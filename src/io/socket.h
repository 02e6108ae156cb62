/* socket.h - non-blocking sockets, and the text form of addresses.
 *
 * Calls that move bytes return how many, or a negative errno (-EAGAIN: later); EINTR is repeated
 * here. Each asks fault.h first, so that a test can refuse any of them.
 * Threads  any; a descriptor belongs to one of them.
 */
#ifndef IO_SOCKET_H
#define IO_SOCKET_H

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/err.h"
#include "base/slice.h"

struct iovec;

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_storage storage;
        struct sockaddr_un local;
    };
    socklen_t size;
    uint32_t mode; /* of a unix socket's file */
};

enum { ADDRESS_TEXT_MAX = 128 };

/* "127.0.0.1:8000", "[::1]:8000", "localhost:0", "name:80" (asks the resolver: blocks), ":8000"
 * (every address), "unix:/run/x.sock", "unix:/run/x.sock,mode=0660" (0600 unless told). */
MUST_USE enum err_code address_parse(struct address *ret, const char *text, struct err *err);
/* "127.0.0.1:4711", "[::1]:80", "unix:/run/x.sock", "unix:"; always NUL-terminated; the length. */
size_t address_text(const struct address *address, char out[ADDRESS_TEXT_MAX]);
/* Reached from this machine only: 127.0.0.0/8, ::1, unix. */
bool address_is_loopback(const struct address *address);

/* A bound, listening, non-blocking socket; *address becomes what was bound (the port resolved).
 * E_EXISTS when somebody else listens there: the text says who, when that can be known. A unix
 * socket's stale file is removed, but never one that answers or is not a socket. */
MUST_USE enum err_code socket_listen(int *ret_fd, struct address *address, int backlog,
                                     struct err *err);
/* Closes; removes the file of a unix socket if it is still this one. */
void socket_unlisten(int *fd, const struct address *address);

int socket_accept(int listener, struct address *ret_peer); /* non-blocking; or a negative errno */
ssize_t socket_recv(int fd, void *into, size_t size);
/* Drops up to `size` received bytes without copying them. */
ssize_t socket_discard(int fd, size_t size);
ssize_t socket_send(int fd, const void *data, size_t size);
ssize_t socket_send_pieces(int fd, struct iovec *pieces, size_t count);
void socket_finish(int fd);   /* no more bytes from us: FIN after what is queued */
size_t socket_unsent(int fd); /* bytes the peer has not acknowledged; 0 when unknown */
/* Takes about so many bytes and no more that are not on their way yet; by itself the kernel takes 4 MB
 * for a reader that has stopped. What is on its way has no bound: a fast connection stays full. */
void socket_bound(int fd, size_t bytes);
void socket_close(int *fd);

#endif
