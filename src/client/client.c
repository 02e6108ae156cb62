/* client.c - SPDX-License-Identifier: Apache-2.0
 *
 * While a body is being sent the answer is listened for: a server that refuses a body early answers
 * and closes, and its words are worth more than "broken pipe".
 *
 * A kept connection may have been closed by the server just as we write. When not one byte of an
 * answer came, the request is sent once more on a new connection if its method may be repeated
 * (RFC 9112 9.3.1), else the caller is told.
 */
#include "client/client.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/text.h"

enum { READ_BYTES = 64 << 10, HEAD_BYTES_MAX = 64 << 10, TIMEOUT_S_USUAL = 60 };

struct client {
    struct url url;
    uint64_t timeout_ns;
    struct answer_limits limits;
    int fd; /* -1: not connected */
    struct client_times times;
    uint8_t bytes[READ_BYTES];
};

enum err_code client_new(struct client **ret, const struct client_settings *settings,
                         struct err *err)
{
    struct url url;

    TRY(url_parse(&url, slice_of(settings->url), err));
    struct client *client = mem_alloc(sizeof *client);
    if (client == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a client");
    client->url = url;
    client->timeout_ns =
        settings->timeout_ns != 0 ? settings->timeout_ns : TIMEOUT_S_USUAL * NS_PER_S;
    client->limits = settings->limits;
    client->fd = -1;
    client->times = (struct client_times){ 0 };
    *ret = client;
    return OK;
}

static void disconnect(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
}

void client_free(struct client **slot)
{
    struct client *client = TAKE(*slot);

    if (client == NULL)
        return;
    disconnect(client);
    mem_free(client);
}

const struct url *client_url(const struct client *client)
{
    return &client->url;
}

struct client_times client_times(const struct client *client)
{
    return client->times;
}

/* -- waiting ----------------------------------------------------------------------------------- */

static enum err_code refuse_late(const struct client *client, const char *what, struct err *err)
{
    return err_set(err, E_DEADLINE, "%s %s within %.3g s", client->url.shown, what,
                   (double)client->timeout_ns / 1e9);
}

/* Waits for events until `due_ns`; OK with *ret set, E_DEADLINE with `what` not having happened. */
static enum err_code wait_for(const struct client *client, short events, uint64_t due_ns,
                              const char *what, short *ret, struct err *err)
{
    struct pollfd watch = { .fd = client->fd, .events = events };

    for (;;) {
        uint64_t now = clock_mono_ns();
        uint64_t left_ms = due_ns > now ? (due_ns - now + NS_PER_MS - 1) / NS_PER_MS : 0;
        int found = poll(&watch, 1, (int)MIN(left_ms, (uint64_t)1000000000));
        if (found > 0) {
            *ret = watch.revents;
            return OK;
        }
        if (found == 0 && left_ms == 0)
            return refuse_late(client, what, err);
        if (found < 0 && errno != EINTR)
            return err_set(err, E_INTERNAL, "poll: %s", strerror(errno));
    }
}

/* -- connecting -------------------------------------------------------------------------------- */

static enum err_code refuse_connect(const struct client *client, int error, struct err *err)
{
    const char *shown = client->url.shown;

    if (error == ECONNREFUSED || error == ENOENT)
        return err_set(err, E_UNAVAILABLE, "nobody listens on %s", shown);
    return err_set(err, error == ETIMEDOUT ? E_DEADLINE : E_UNAVAILABLE, "cannot connect to %s: %s",
                   shown, strerror(error));
}

static enum err_code connect_to(struct client *client, const struct sockaddr *to, socklen_t size,
                                uint64_t due_ns, struct err *err)
{
    int one = 1, error = 0;
    socklen_t error_size = sizeof error;
    short events;

    client->fd = fault_hit() ? (errno = EMFILE, -1)
                             : socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->fd < 0)
        return refuse_connect(client, errno, err);
    if (to->sa_family != AF_UNIX)
        setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(client->fd, to, size) == 0)
        return OK;
    /* A unix socket with a full backlog says EAGAIN and does not go on by itself. */
    if (errno != EINPROGRESS)
        return refuse_connect(client, errno, err);
    TRY(wait_for(client, POLLOUT, due_ns, "did not take the connection", &events, err));
    if (getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &error_size) != 0)
        error = errno;
    return error == 0 ? OK : refuse_connect(client, error, err);
}

static enum err_code connect_unix(struct client *client, uint64_t due_ns, struct err *err)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };

    snprintf(to.sun_path, sizeof to.sun_path, "%.*s", (int)sizeof to.sun_path - 1,
             client->url.host);
    return connect_to(client, (const struct sockaddr *)(const void *)&to, sizeof to, due_ns, err);
}

static void free_addresses(struct addrinfo **list)
{
    if (*list != NULL)
        freeaddrinfo(*list);
}

static enum err_code connect_inet(struct client *client, uint64_t due_ns, struct err *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    CLEANUP(free_addresses) struct addrinfo *list = NULL;
    char port[8];
    enum err_code code = E_UNAVAILABLE;

    snprintf(port, sizeof port, "%u", client->url.port);
    int error = getaddrinfo(client->url.host, port, &hints, &list);
    if (error != 0)
        return err_set(err, E_UNAVAILABLE, "there is no host '%s': %s", client->url.host,
                       gai_strerror(error));
    for (struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        code = connect_to(client, at->ai_addr, at->ai_addrlen, due_ns, err);
        if (code == OK)
            return OK;
        disconnect(client);
    }
    return code;
}

static enum err_code reconnect(struct client *client, uint64_t due_ns, struct err *err)
{
    uint64_t begun = clock_mono_ns();
    enum err_code code =
        client->url.is_unix ? connect_unix(client, due_ns, err) : connect_inet(client, due_ns, err);

    client->times.connect_ns = clock_mono_ns() - begun;
    if (code != OK)
        disconnect(client);
    return code;
}

/* -- one request ------------------------------------------------------------------------------- */

static enum err_code write_head(struct text *head, const struct client *client,
                                const struct client_request *request, struct err *err)
{
    bool has_body = request->body.size > 0 || strcmp(request->method, "POST") == 0 ||
                    strcmp(request->method, "PUT") == 0;

    text_printf(head,
                "%s %s%s HTTP/1.1\r\nhost: %s\r\nuser-agent: penstock/" PENSTOCK_VERSION "\r\n",
                request->method, client->url.base, request->target, client->url.authority);
    for (uint32_t i = 0; i < request->headers_count; i++) {
        const char *value = request->headers[i].value;
        if (strpbrk(value, "\r\n") != NULL || strpbrk(request->headers[i].name, "\r\n: ") != NULL)
            return err_set(err, E_INVALID, "the header '%s' has a line end in it",
                           request->headers[i].name);
        text_printf(head, "%s: %s\r\n", request->headers[i].name, value);
    }
    if (has_body)
        text_printf(head, "content-length: %zu\r\n", request->body.size);
    text_str(head, "\r\n");
    return text_failed(head) ? err_set(err, E_RANGE, "the request's head is too large") : OK;
}

/* Sends head and body. Stops early, with OK, when the peer speaks or stops listening: what it says
 * is read then. */
static enum err_code send_all(struct client *client, struct slice head, struct slice body,
                              uint64_t due_ns, bool *ret_is_whole, struct err *err)
{
    while (head.size + body.size > 0) {
        struct iovec parts[2] = { { (void *)(uintptr_t)head.data, head.size },
                                  { (void *)(uintptr_t)body.data, body.size } };
        struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
        short events;
        TRY(wait_for(client, POLLOUT | POLLIN, due_ns, "did not take the request", &events, err));
        if (events & POLLIN)
            return OK;
        ssize_t sent = sendmsg(client->fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (sent < 0)
            return OK;
        size_t of_head = MIN((size_t)sent, head.size);
        head = slice_skip(head, of_head);
        body = slice_skip(body, (size_t)sent - of_head);
    }
    *ret_is_whole = true;
    return OK;
}

static enum err_code receive(struct client *client, struct answer *answer, uint64_t due_ns,
                             bool *ret_has_begun, struct err *err)
{
    uint64_t begun = clock_mono_ns();
    short events;

    while (!answer->is_complete) {
        TRY(wait_for(client, POLLIN, due_ns, "did not answer", &events, err));
        ssize_t got = recv(client->fd, client->bytes, sizeof client->bytes, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (!*ret_has_begun) {
            client->times.wait_ns = clock_mono_ns() - begun;
            begun = clock_mono_ns();
        }
        if (got <= 0)
            TRY(answer_finish(answer, err));
        else
            TRY(answer_feed(answer, slice_make(client->bytes, (size_t)got), err));
        *ret_has_begun |= got > 0;
    }
    client->times.receive_ns = clock_mono_ns() - begun;
    return OK;
}

static enum err_code exchange(struct client *client, const struct client_request *request,
                              struct slice head, struct answer *answer, uint64_t due_ns,
                              bool *ret_has_begun, struct err *err)
{
    bool is_whole = false;

    if (client->fd < 0)
        TRY(reconnect(client, due_ns, err));
    uint64_t begun = clock_mono_ns();
    TRY(send_all(client, head, request->body, due_ns, &is_whole, err));
    client->times.send_ns = clock_mono_ns() - begun;
    enum err_code code = receive(client, answer, due_ns, ret_has_begun, err);
    /* "127.0.0.1:8000: it closed the connection without an answer" */
    if (code != OK && code != E_DEADLINE)
        return err_wrap(err, "%s", client->url.shown);
    answer->keeps_alive &= is_whole;
    return code;
}

enum err_code client_call(struct client *client, const struct client_request *request,
                          struct answer **ret, struct err *err)
{
    uint64_t due_ns = clock_mono_ns() + client->timeout_ns;
    bool is_head = strcmp(request->method, "HEAD") == 0;
    bool may_repeat = is_head || strcmp(request->method, "GET") == 0;
    CLEANUP(text_deinit) struct text head;

    text_init(&head, HEAD_BYTES_MAX);
    TRY(write_head(&head, client, request, err));
    for (;;) {
        CLEANUP(answer_free) struct answer *answer = NULL;
        bool has_begun = false, was_kept = client->fd >= 0;
        client->times = (struct client_times){ .was_kept = was_kept };
        TRY(answer_new(&answer, client->limits, is_head, err));
        enum err_code code =
            exchange(client, request, text_slice(&head), answer, due_ns, &has_begun, err);
        if (code != OK || !answer->keeps_alive)
            disconnect(client);
        if (code == OK) {
            *ret = TAKE(answer);
            return OK;
        }
        if (code != E_UNAVAILABLE || !was_kept || has_begun || !may_repeat)
            return code;
    }
}
