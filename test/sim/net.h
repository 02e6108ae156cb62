/* net.h - what libc's names ask the network (calls.c): results as the system's own, negative errno. */
#ifndef SIM_NET_H
#define SIM_NET_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

bool net_is_ours(int fd);
int net_epoll(void);
int net_eventfd(unsigned start);
int net_epoll_ctl(int epoll_fd, int op, int fd, const struct epoll_event *event);
int net_epoll_wait(int epoll_fd, struct epoll_event *ret, int most, uint64_t due_ns);
int net_poll(struct pollfd *fds, size_t count, uint64_t due_ns);
int net_socket(void);
int net_bind(int fd, const struct sockaddr *address, socklen_t size);
int net_listen(int fd);
int net_address(int fd, struct sockaddr *ret, socklen_t *size);
int net_accept(int fd, struct sockaddr *ret_peer, socklen_t *size);
ssize_t net_recv(int fd, void *into, size_t size); /* into NULL: dropped */
ssize_t net_send(int fd, const void *data, size_t size);
ssize_t net_send_pieces(int fd, const struct iovec *pieces, size_t count);
int net_shutdown(int fd);
size_t net_unsent(int fd);
ssize_t net_event_write(int fd, uint64_t by);
ssize_t net_event_read(int fd, uint64_t *ret);
int net_close(int fd);

#endif
