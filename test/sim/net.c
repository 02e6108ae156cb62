/* net.c - SPDX-License-Identifier: Apache-2.0
 *
 * Two ways to a connection, one each way. What is sent lies in its way: first in flight, then
 * (events move it, a piece at a time) arrived. A sender has room for what the window holds less
 * what lies in the way.
 *
 * Readiness is Linux's, as far as a server can tell: an edge-triggered watch is ready anew
 * whenever something arrives, and for writing only after a send that took less than all (tcp(7),
 * epoll(7)); a receiver who gets less than it asked for has taken all there was. Closing with
 * bytes unread resets. Descriptors are the lowest free, so that one that is used after its end
 * meets somebody else's.
 */
#include "test/sim/net.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "test/sim/sim.h"

enum { FD_FIRST = 1000, FDS_MAX = 4096, BACKLOG_MOST = 4096 };

enum kind { KIND_NONE, KIND_EPOLL, KIND_EVENT, KIND_SOCKET, KIND_LISTENER, KIND_CONNECTION };

struct way {
    uint8_t *bytes;
    size_t room, begin, arrived,
        size;                  /* begin..begin+arrived has arrived, ..begin+size is in flight */
    bool is_moving;            /* an event will move it */
    bool is_finished, has_fin; /* by its sender; and that has arrived */
    bool wants_room;           /* a send took less than all */
};

struct watch {
    struct watch *next_of_file;
    struct file *epoll;
    struct file *file;
    int fd;
    struct epoll_event event;
    struct watch *next_ready, *prev_ready;
    bool is_ready, is_gone;
};

struct file {
    enum kind kind;
    int fd;
    struct watch *watches; /* of it */
    /* epoll */
    struct watch *first_ready, *last_ready;
    /* event */
    uint64_t counter;
    /* listener, socket */
    struct sockaddr_storage address;
    uint16_t port;
    struct link *first_knock, *last_knock;
    uint32_t knocks;
    /* connection */
    struct link *link;
};

struct link {
    uint32_t id;
    const struct link_user *user;
    void *arg;
    struct file *file; /* the server's end; NULL: not accepted, or closed */
    struct link *next_knock;
    struct way to_server, to_client;
    bool is_accepted, server_is_closed;
    bool is_closed; /* by the client */
    bool is_reset;  /* either way: nothing moves any more */
    bool has_error; /* the server has not been told of the reset yet */
    bool told_end, has_spoken;
    bool is_opaque; /* TLS */
    uint16_t port;  /* the client's */
};

static struct file *files[FDS_MAX];
static uint32_t pollers; /* threads in ppoll: they look again at whatever happens */
static uint32_t links_count;

/* -- descriptors ------------------------------------------------------------------------------- */

static struct file *file_of(int fd)
{
    return fd >= FD_FIRST && fd < FD_FIRST + FDS_MAX ? files[fd - FD_FIRST] : NULL;
}

static struct file *file_new(enum kind kind)
{
    for (int i = 0; i < FDS_MAX; i++)
        if (files[i] == NULL) {
            files[i] = sim_real_alloc(sizeof *files[i]);
            files[i]->kind = kind;
            files[i]->fd = FD_FIRST + i;
            return files[i];
        }
    return NULL;
}

bool sim_net_is_ours(int fd)
{
    return fd >= FD_FIRST && fd < FD_FIRST + FDS_MAX;
}

uint32_t sim_net_descriptors(char *out, size_t room)
{
    static const char *const names[] = {
        "", "epoll", "eventfd", "socket", "listener", "connection"
    };
    uint32_t count = 0;
    size_t at = 0;

    out[0] = '\0';
    for (int i = 0; i < FDS_MAX; i++)
        if (files[i] != NULL) {
            if (files[i]->kind == KIND_EVENT && files[i]->watches == NULL)
                continue; /* the process's own (cli/stop.c), as long as it lives */
            count++;
            if (at + 32 < room)
                at += (size_t)snprintf(out + at, room - at, "%s%d (%s)", at > 0 ? ", " : "",
                                       FD_FIRST + i, names[files[i]->kind]);
        }
    return count;
}

/* -- readiness --------------------------------------------------------------------------------- */

static size_t way_room(const struct way *way)
{
    return way->size >= sim_weather.window_bytes ? 0 : sim_weather.window_bytes - way->size;
}

static uint32_t ready_now(const struct file *file)
{
    const struct link *link = file->link;
    uint32_t events = 0;

    switch (file->kind) {
    case KIND_EVENT: return file->counter > 0 ? EPOLLIN | EPOLLOUT : EPOLLOUT;
    case KIND_LISTENER: return file->first_knock != NULL ? EPOLLIN : 0;
    case KIND_CONNECTION:
        if (link->is_reset)
            return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | (link->has_error ? EPOLLERR : 0);
        if (link->to_server.arrived > 0)
            events |= EPOLLIN;
        if (link->to_server.has_fin)
            events |= EPOLLIN | EPOLLRDHUP;
        if (link->to_server.has_fin && link->to_client.is_finished)
            events |= EPOLLHUP;
        if (link->to_client.is_finished || way_room(&link->to_client) > 0)
            events |= EPOLLOUT;
        return events;
    default: return 0;
    }
}

static void ready_remove(struct watch *watch)
{
    struct file *epoll = watch->epoll;

    if (!watch->is_ready)
        return;
    watch->is_ready = false;
    *(watch->prev_ready != NULL ? &watch->prev_ready->next_ready : &epoll->first_ready) =
        watch->next_ready;
    *(watch->next_ready != NULL ? &watch->next_ready->prev_ready : &epoll->last_ready) =
        watch->prev_ready;
}

static void ready_add(struct watch *watch)
{
    struct file *epoll = watch->epoll;

    if (watch->is_ready)
        return;
    watch->is_ready = true;
    watch->next_ready = NULL;
    watch->prev_ready = epoll->last_ready;
    *(epoll->last_ready != NULL ? &epoll->last_ready->next_ready : &epoll->first_ready) = watch;
    epoll->last_ready = watch;
}

/* `file` has something new; whoever watches for that is woken. */
static void announce(struct file *file, uint32_t events)
{
    struct watch *exclusive[8];
    uint32_t count = 0;

    if (file == NULL)
        return;
    if (pollers > 0)
        sim_wake(&pollers, UINT32_MAX);
    for (struct watch *w = file->watches; w != NULL; w = w->next_of_file) {
        if ((events & (w->event.events | EPOLLERR | EPOLLHUP)) == 0)
            continue;
        if ((w->event.events & EPOLLEXCLUSIVE) != 0 && count < COUNT(exclusive)) {
            exclusive[count++] = w;
            continue;
        }
        ready_add(w);
        sim_wake(w->epoll, 1);
    }
    /* At least one is woken, whichever. */
    if (count > 0) {
        uint32_t first = (uint32_t)sim_draw_below(CHANCE_NET, count), woken = 0;
        for (uint32_t i = 0; i < count; i++) {
            struct watch *w = exclusive[(first + i) % count];
            if (woken > 0 && sim_draw_below(CHANCE_NET, 4) != 0)
                continue;
            ready_add(w);
            sim_wake(w->epoll, 1);
            woken++;
        }
    }
}

/* -- epoll, eventfd ---------------------------------------------------------------------------- */

int sim_net_epoll(void)
{
    struct file *file = file_new(KIND_EPOLL);

    return file == NULL ? -EMFILE : file->fd;
}

int sim_net_eventfd(unsigned start)
{
    struct file *file = file_new(KIND_EVENT);

    if (file == NULL)
        return -EMFILE;
    file->counter = start;
    return file->fd;
}

static struct watch *find_watch(struct file *epoll, int fd)
{
    struct file *file = file_of(fd);

    for (struct watch *w = file == NULL ? NULL : file->watches; w != NULL; w = w->next_of_file)
        if (w->epoll == epoll)
            return w;
    return NULL;
}

static void watch_end(struct watch *watch)
{
    struct watch **at = &watch->file->watches;

    ready_remove(watch);
    while (*at != watch)
        at = &(*at)->next_of_file;
    *at = watch->next_of_file;
    watch->is_gone = true;
}

int sim_net_epoll_ctl(int epoll_fd, int op, int fd, const struct epoll_event *event)
{
    struct file *epoll = file_of(epoll_fd), *file = file_of(fd);

    if (epoll == NULL || epoll->kind != KIND_EPOLL || file == NULL)
        return -EBADF;
    struct watch *watch = find_watch(epoll, fd);
    if (op == EPOLL_CTL_ADD) {
        if (watch != NULL)
            return -EEXIST;
        watch = sim_real_alloc(sizeof *watch);
        watch->epoll = epoll;
        watch->file = file;
        watch->fd = fd;
        watch->event = *event;
        watch->next_of_file = file->watches;
        file->watches = watch;
    } else if (watch == NULL) {
        return -ENOENT;
    } else if (op == EPOLL_CTL_DEL) {
        watch_end(watch);
        return 0;
    } else {
        watch->event = *event;
    }
    if ((ready_now(file) & (event->events | EPOLLERR | EPOLLHUP)) != 0) {
        ready_add(watch);
        sim_wake(epoll, 1);
    }
    return 0;
}

static int collect(struct file *epoll, struct epoll_event *ret, int most)
{
    struct watch *last = epoll->last_ready, *w;
    int count = 0;

    while (count < most && (w = epoll->first_ready) != NULL) {
        uint32_t now = ready_now(w->file) & (w->event.events | EPOLLERR | EPOLLHUP);
        bool is_last = w == last;
        ready_remove(w);
        /* The system looks at room for writing here, and tells of it once there is some. */
        if (w->file->kind == KIND_CONNECTION && (w->event.events & EPOLLOUT) != 0 &&
            (now & EPOLLOUT) == 0)
            w->file->link->to_client.wants_room = true;
        if (now != 0) {
            ret[count].events = now;
            ret[count++].data = w->event.data;
            if ((w->event.events & EPOLLET) == 0)
                ready_add(w);
        }
        if (is_last)
            break;
    }
    return count;
}

int sim_net_epoll_wait(int epoll_fd, struct epoll_event *ret, int most, uint64_t due_ns)
{
    struct file *epoll = file_of(epoll_fd);

    if (epoll == NULL || epoll->kind != KIND_EPOLL)
        return -EBADF;
    for (;;) {
        int count = collect(epoll, ret, most);
        if (count > 0 || due_ns <= sim_now())
            return count;
        if (sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.spurious_ppm))
            return -EINTR;
        sim_wait(epoll, due_ns, "something to happen (epoll)");
    }
}

int sim_net_poll(struct pollfd *fds, size_t count, uint64_t due_ns)
{
    for (;;) {
        int ready = 0;
        for (size_t i = 0; i < count; i++) {
            const struct file *file = file_of(fds[i].fd);
            uint32_t now = file == NULL ? 0 : ready_now(file); /* EPOLLIN is POLLIN, and so on */
            fds[i].revents =
                (short)(now & ((uint32_t)(unsigned short)fds[i].events | EPOLLERR | EPOLLHUP));
            if (file == NULL && fds[i].fd >= 0)
                fds[i].revents = POLLNVAL;
            ready += fds[i].revents != 0;
        }
        if (ready > 0 || due_ns <= sim_now())
            return ready;
        if (sim_draw_ppm(CHANCE_SCHEDULE, sim_weather.spurious_ppm))
            return -EINTR;
        pollers++;
        sim_wait(&pollers, due_ns, "something to happen (ppoll)");
        pollers--;
    }
}

/* -- bytes on their way ------------------------------------------------------------------------ */

static void arrive(struct link *link, bool to_server);

static void arrive_at_server(void *arg)
{
    arrive(arg, true);
}

static void arrive_at_client(void *arg)
{
    arrive(arg, false);
}

static void set_moving(struct link *link, bool to_server)
{
    struct way *way = to_server ? &link->to_server : &link->to_client;

    if (way->is_moving || link->is_reset)
        return;
    if (way->size == way->arrived && (!way->is_finished || way->has_fin))
        return;
    way->is_moving = true;
    sim_after(1 + sim_draw_below(CHANCE_NET, sim_weather.latency_ns),
              to_server ? arrive_at_server : arrive_at_client, link);
}

static void way_put(struct way *way, const void *data, size_t size)
{
    if (size == 0)
        return;
    if (way->begin + way->size + size > way->room) {
        if (way->size > 0)
            memmove(way->bytes, way->bytes + way->begin, way->size);
        way->begin = 0;
        if (way->size + size > way->room) {
            way->room = MAX(2 * way->room, way->size + size + 1024);
            way->bytes = sim_real_resize(way->bytes, way->room);
        }
    }
    memcpy(way->bytes + way->begin + way->size, data, size);
    way->size += size;
}

static void way_take(struct way *way, size_t size)
{
    way->begin += size;
    way->arrived -= size;
    way->size -= size;
}

static void tell_end(struct link *link, bool is_reset)
{
    if (link->told_end || link->is_closed)
        return;
    link->told_end = true;
    sim_note("connection %u: the client sees %s", link->id, is_reset ? "a reset" : "the end");
    link->user->on_end(link->arg, is_reset);
}

static void reset_both(struct link *link)
{
    if (link->is_reset)
        return;
    link->is_reset = link->has_error = true;
    sim_note("connection %u: reset", link->id);
    announce(link->file, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLERR | EPOLLHUP);
    tell_end(link, true);
}

static void room_again(void *arg)
{
    struct link *link = arg;

    if (link->file != NULL)
        announce(link->file, EPOLLOUT);
}

static void room_for_client(void *arg)
{
    struct link *link = arg;

    if (!link->is_closed && !link->is_reset)
        link->user->on_room(link->arg);
}

static void give_room(struct link *link, struct way *way)
{
    if (!way->wants_room || way_room(way) < sim_weather.window_bytes / 3)
        return;
    way->wants_room = false;
    sim_after(1 + sim_draw_below(CHANCE_NET, sim_weather.latency_ns),
              way == &link->to_client ? room_again : room_for_client, link);
}

static void arrive(struct link *link, bool to_server)
{
    struct way *way = to_server ? &link->to_server : &link->to_client;
    size_t flying = way->size - way->arrived;

    way->is_moving = false;
    if (link->is_reset)
        return;
    if (sim_draw_ppm(CHANCE_NET, sim_weather.reset_ppm)) {
        reset_both(link);
        return;
    }
    if (flying > 0) {
        size_t piece =
            sim_draw_between(CHANCE_NET, 1, MIN(flying, (size_t)sim_weather.piece_bytes));
        way->arrived += piece;
        /* The end may come in the last segment. */
        if (way->arrived == way->size && way->is_finished && to_server)
            way->has_fin = sim_draw(CHANCE_NET) % 2 == 0;
    } else if (way->is_finished && !way->has_fin) {
        way->has_fin = true;
    }
    sim_note("connection %u: %s has %zu bytes%s", link->id, to_server ? "the server" : "the client",
             way->arrived, way->has_fin ? " and the end" : "");
    if (to_server) {
        if (link->server_is_closed) { /* tcp: what comes for nobody is answered by a reset */
            if (flying > 0)
                reset_both(link);
        } else {
            announce(link->file, way->has_fin ? EPOLLIN | EPOLLRDHUP : EPOLLIN);
        }
    } else if (!link->is_closed) {
        if (flying > 0)
            link->user->on_bytes(link->arg);
        else if (!link->is_closed)
            tell_end(link, false);
    } else if (flying > 0) {
        reset_both(link);
    }
    set_moving(link, to_server);
}

/* -- the server's end -------------------------------------------------------------------------- */

int sim_net_socket(void)
{
    struct file *file = file_new(KIND_SOCKET);

    return file == NULL ? -EMFILE : file->fd;
}

int sim_net_bind(int fd, const struct sockaddr *address, socklen_t size)
{
    static uint16_t ports = 40000;
    struct file *file = file_of(fd);
    struct sockaddr_in *in = (void *)&file->address;

    if (file == NULL || file->kind != KIND_SOCKET)
        return -EBADF;
    memcpy(&file->address, address, MIN((size_t)size, sizeof file->address));
    if (in->sin_port == 0)
        in->sin_port = htons(ports++);
    file->port = ntohs(in->sin_port);
    return sim_net_is_listening(file->port) ? -EADDRINUSE : 0;
}

int sim_net_listen(int fd)
{
    struct file *file = file_of(fd);

    if (file == NULL || file->kind != KIND_SOCKET)
        return -EBADF;
    file->kind = KIND_LISTENER;
    return 0;
}

int sim_net_address(int fd, struct sockaddr *ret, socklen_t *size)
{
    struct file *file = file_of(fd);

    if (file == NULL)
        return -EBADF;
    memcpy(ret, &file->address, MIN((size_t)*size, sizeof(struct sockaddr_in6)));
    *size = file->address.ss_family == AF_INET ? (socklen_t)sizeof(struct sockaddr_in)
                                               : (socklen_t)sizeof(struct sockaddr_in6);
    return 0;
}

static struct file *listener_at(uint16_t port)
{
    for (int i = 0; i < FDS_MAX; i++)
        if (files[i] != NULL && files[i]->kind == KIND_LISTENER && files[i]->port == port)
            return files[i];
    return NULL;
}

bool sim_net_is_listening(uint16_t port)
{
    return listener_at(port) != NULL;
}

int sim_net_accept(int fd, struct sockaddr *ret_peer, socklen_t *size)
{
    struct file *listener = file_of(fd), *file;
    struct sockaddr_in peer = { .sin_family = AF_INET };

    if (listener == NULL || listener->kind != KIND_LISTENER)
        return -EINVAL;
    struct link *link = listener->first_knock;
    if (link == NULL)
        return -EAGAIN;
    file = file_new(KIND_CONNECTION);
    if (file == NULL)
        return -EMFILE;
    listener->first_knock = link->next_knock;
    listener->last_knock = listener->first_knock == NULL ? NULL : listener->last_knock;
    listener->knocks--;
    file->link = link;
    file->address = listener->address;
    link->file = file;
    link->is_accepted = true;
    peer.sin_port = htons(link->port);
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memcpy(ret_peer, &peer, MIN((size_t)*size, sizeof peer));
    *size = sizeof peer;
    sim_note("connection %u: accepted as %d", link->id, file->fd);
    set_moving(link, true);
    return file->fd;
}

static struct link *link_of(int fd)
{
    struct file *file = file_of(fd);

    return file != NULL && file->kind == KIND_CONNECTION ? file->link : NULL;
}

ssize_t sim_net_recv(int fd, void *into, size_t size)
{
    struct link *link = link_of(fd);

    if (link == NULL)
        return file_of(fd) == NULL ? -EBADF : -ENOTCONN;
    struct way *way = &link->to_server;
    size_t got = MIN(size, way->arrived);
    if (got > 0) {
        if (into != NULL)
            memcpy(into, way->bytes + way->begin, got);
        way_take(way, got);
        give_room(link, way);
        sim_note("connection %u: the server takes %zu of at most %zu bytes", link->id, got, size);
        return (ssize_t)got;
    }
    if (link->has_error) {
        link->has_error = false;
        return -ECONNRESET;
    }
    return link->is_reset || way->has_fin ? 0 : -EAGAIN;
}

ssize_t sim_net_send(int fd, const void *data, size_t size)
{
    struct link *link = link_of(fd);

    if (link == NULL)
        return file_of(fd) == NULL ? -EBADF : -ENOTCONN;
    struct way *way = &link->to_client;
    if (link->is_reset && link->has_error) {
        link->has_error = false;
        return -ECONNRESET;
    }
    if (link->is_reset || way->is_finished)
        return -EPIPE;
    size_t room = way_room(way);
    if (size > 1 &&
        sim_draw_ppm(CHANCE_NET, sim_weather.short_ppm)) { /* no memory for more just now */
        size_t most = sim_draw_below(CHANCE_NET, size);
        room = MIN(room, most);
        way->wants_room = true;
        sim_after(1 + sim_draw_below(CHANCE_NET, sim_weather.latency_ns), room_again, link);
    }
    size_t taken = MIN(size, room);
    if (taken < size)
        way->wants_room = true;
    if (taken == 0)
        return size == 0 ? 0 : -EAGAIN;
    if (link->is_opaque)
        sim_digest_number(taken);
    else
        sim_digest(data, taken);
    sim_note("connection %u: the server sends %zu of %zu, digest %016llx", link->id, taken, size,
             (unsigned long long)sim_digest_value());
    way_put(way, data, taken);
    set_moving(link, false);
    return (ssize_t)taken;
}

ssize_t sim_net_send_pieces(int fd, const struct iovec *pieces, size_t count)
{
    uint8_t all[65536];
    size_t size = 0;
    ssize_t sent = 0;

    /* One call as far as it is small, so that pieces are not told apart by their edges. */
    for (size_t i = 0; i < count; i++) {
        if (size + pieces[i].iov_len > sizeof all) {
            if (size == 0)
                sent = sim_net_send(fd, pieces[i].iov_base, pieces[i].iov_len);
            break;
        }
        memcpy(all + size, pieces[i].iov_base, pieces[i].iov_len);
        size += pieces[i].iov_len;
    }
    size_t asked = 0;
    for (size_t i = 0; i < count; i++)
        asked += pieces[i].iov_len;
    if (sent == 0)
        sent = sim_net_send(fd, all, size);
    if (sent > 0 && (size_t)sent < asked) { /* less than all: the sender waits to be told */
        struct link *link = link_of(fd);
        if (!link->to_client.wants_room) {
            link->to_client.wants_room = true;
            sim_after(1 + sim_draw_below(CHANCE_NET, sim_weather.latency_ns), room_again, link);
        }
    }
    return sent;
}

int sim_net_shutdown(int fd)
{
    struct link *link = link_of(fd);

    if (link == NULL)
        return -ENOTCONN;
    if (link->is_reset)
        return -ENOTCONN;
    link->to_client.is_finished = true;
    set_moving(link, false);
    return 0;
}

size_t sim_net_unsent(int fd)
{
    struct link *link = link_of(fd);

    return link == NULL ? 0 : link->to_client.size - link->to_client.arrived;
}

ssize_t sim_net_event_write(int fd, uint64_t by)
{
    struct file *file = file_of(fd);

    if (file == NULL || file->kind != KIND_EVENT)
        return -EBADF;
    file->counter += by;
    announce(file, EPOLLIN);
    return (ssize_t)sizeof by;
}

ssize_t sim_net_event_read(int fd, uint64_t *ret)
{
    struct file *file = file_of(fd);

    if (file == NULL || file->kind != KIND_EVENT)
        return -EBADF;
    if (file->counter == 0)
        return -EAGAIN;
    *ret = file->counter;
    file->counter = 0;
    return (ssize_t)sizeof *ret;
}

int sim_net_close(int fd)
{
    struct file *file = file_of(fd);

    if (file == NULL) {
        sim_fail("closes descriptor %d, which is not open", fd);
        return -EBADF;
    }
    if (file->kind == KIND_EPOLL)
        for (int i = 0; i < FDS_MAX; i++) {
            struct watch *watch = find_watch(file, FD_FIRST + i);
            if (watch != NULL)
                watch_end(watch);
        }
    while (file->watches != NULL)
        watch_end(file->watches);
    files[fd - FD_FIRST] = NULL;
    if (file->kind == KIND_LISTENER) {
        for (struct link *link = file->first_knock; link != NULL; link = link->next_knock)
            reset_both(link);
    } else if (file->kind == KIND_CONNECTION) {
        struct link *link = file->link;
        link->file = NULL;
        link->server_is_closed = true;
        sim_note("connection %u: the server closes%s", link->id,
                 link->to_server.arrived > 0 ? " with bytes unread" : "");
        if (link->to_server.arrived > 0 && !link->is_reset) {
            /* tcp: a reset, which follows what was sent before it */
            while (link->to_client.arrived < link->to_client.size && !link->is_closed) {
                link->to_client.arrived = link->to_client.size;
                link->user->on_bytes(link->arg);
            }
            reset_both(link);
        } else {
            link->to_client.is_finished = true;
            set_moving(link, false);
        }
    }
    return 0;
}

/* -- the client's end -------------------------------------------------------------------------- */

static void knock(void *arg)
{
    struct link *link = arg;
    struct file *listener = listener_at(link->port);

    link->port = (uint16_t)(50000 + link->id % 15000);
    if (link->is_closed)
        return;
    if (listener == NULL || listener->knocks >= BACKLOG_MOST) {
        link->is_reset = true;
        tell_end(link, true);
        return;
    }
    *(listener->last_knock != NULL ? &listener->last_knock->next_knock : &listener->first_knock) =
        link;
    listener->last_knock = link;
    listener->knocks++;
    announce(listener, EPOLLIN);
}

struct link *sim_link_open(uint16_t port, const struct link_user *user, void *arg)
{
    struct link *link = sim_real_alloc(sizeof *link);

    link->id = ++links_count;
    link->user = user;
    link->arg = arg;
    link->port = port;
    sim_after(1 + sim_draw_below(CHANCE_NET, sim_weather.latency_ns), knock, link);
    return link;
}

uint32_t sim_link_id(const struct link *link)
{
    return link->id;
}

size_t sim_link_send(struct link *link, const void *data, size_t size)
{
    struct way *way = &link->to_server;

    if (link->is_reset || link->is_closed || way->is_finished)
        return 0;
    size_t taken = MIN(size, way_room(way));
    if (taken < size)
        way->wants_room = true;
    if (taken > 0 && !link->has_spoken) {
        link->has_spoken = true;
        link->is_opaque = *(const uint8_t *)data == 22; /* a handshake's record */
    }
    way_put(way, data, taken);
    if (link->is_accepted)
        set_moving(link, true);
    return taken;
}

const uint8_t *sim_link_bytes(const struct link *link, size_t *ret_size)
{
    *ret_size = link->to_client.arrived;
    return link->to_client.bytes + link->to_client.begin;
}

void sim_link_take(struct link *link, size_t size)
{
    way_take(&link->to_client, size);
    give_room(link, &link->to_client);
}

void sim_link_finish(struct link *link)
{
    if (link->to_server.is_finished)
        return;
    link->to_server.is_finished = true;
    if (link->is_accepted)
        set_moving(link, true);
}

void sim_link_close(struct link *link)
{
    if (link->is_closed)
        return;
    sim_note("connection %u: the client closes", link->id);
    if (link->to_client.arrived > 0)
        reset_both(link);
    link->is_closed = true;
    sim_link_finish(link);
}

void sim_link_reset(struct link *link)
{
    if (link->is_closed)
        return;
    sim_note("connection %u: the client resets", link->id);
    link->is_closed = true;
    reset_both(link);
}

bool sim_link_is_closed(const struct link *link)
{
    return link->is_closed;
}
