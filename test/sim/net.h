/* net.h - what libc's names ask the network (calls.c): results as the system's, negative errno. */
#ifndef SIM_NET_H
#define SIM_NET_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

bool sim_net_is_ours(int fd);
int sim_net_epoll(void);
int sim_net_eventfd(unsigned start);
int sim_net_epoll_ctl(int epoll_fd, int op, int fd, const struct epoll_event *event);
int sim_net_epoll_wait(int epoll_fd, struct epoll_event *ret, int most, uint64_t due_ns);
int sim_net_poll(struct pollfd *fds, size_t count, uint64_t due_ns);
int sim_net_socket(void);
int sim_net_bind(int fd, const struct sockaddr *address, socklen_t size);
int sim_net_listen(int fd);
int sim_net_address(int fd, struct sockaddr *ret, socklen_t *size);
int sim_net_accept(int fd, struct sockaddr *ret_peer, socklen_t *size);
ssize_t sim_net_recv(int fd, void *into, size_t size); /* into NULL: dropped */
ssize_t sim_net_send(int fd, const void *data, size_t size);
ssize_t sim_net_send_pieces(int fd, const struct iovec *pieces, size_t count);
int sim_net_shutdown(int fd);
size_t sim_net_unsent(int fd);
ssize_t sim_net_event_write(int fd, uint64_t by);
ssize_t sim_net_event_read(int fd, uint64_t *ret);
int sim_net_close(int fd);

#endif
