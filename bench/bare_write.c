/* bare_write.c - what sending paced tokens costs with nothing around it: the loop that a server is
 * compared with.
 *
 * Whoever connects and sends a request (its end is not looked for: it comes in one piece) is answered
 * with HEAD and then with COUNT times the bytes of CHUNK, one each PERIOD, and END. In each the 20 or
 * fewer digits at OFFSET become the time when it was due, in nanoseconds of CLOCK_MONOTONIC. One write
 * for each, when it is due and not before.
 *
 * All periods are the same, so what is due next is the head of a queue: a server has a heap or a wheel,
 * JSON to write, and requests to read. Sleeps until the next is due (epoll_pwait2), to the nanosecond.
 *
 *   bare_write PORT HEAD CHUNK END OFFSET DIGITS COUNT PERIOD_MS
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define GENERATOR "bare_write"
#include "gen.h"

struct sender {
    int fd;
    uint64_t due_ns, left;
    struct sender *next; /* in the queue */
};

static struct sender *head, *tail;
static struct bytes answer_head, chunk, end;
static size_t chunk_offset, chunk_digits;
static uint64_t count, period_ns;

static void queue_add(struct sender *sender)
{
    sender->next = NULL;
    if (tail != NULL)
        tail->next = sender;
    else
        head = sender;
    tail = sender;
}

/* A socket that does not take it at once is not what is measured here. */
static void put(int fd, const void *data, size_t size)
{
    if (write(fd, data, size) != (ssize_t)size)
        die_errno("write");
}

static void digits_write(char *at, size_t digits, uint64_t value)
{
    for (size_t i = digits; i-- > 0; value /= 10)
        at[i] = (char)('0' + value % 10);
}

/* One token, and when the next is due. */
static void token_write(struct sender *sender)
{
    digits_write(chunk.data + chunk_offset, chunk_digits, sender->due_ns);
    put(sender->fd, chunk.data, chunk.size);
    sender->due_ns += period_ns;
    if (--sender->left > 0)
        queue_add(sender);
    else
        put(sender->fd, end.data, end.size);
}

static void on_readable(int epoll, struct sender *sender)
{
    char request[65536];
    ssize_t size = read(sender->fd, request, sizeof request);
    if (size <= 0) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, sender->fd, NULL);
        close(sender->fd);
        if (sender->left == 0)
            free(sender); /* else it is in the queue: whoever leaves early ends the run */
        return;
    }
    put(sender->fd, answer_head.data, answer_head.size);
    sender->left = count;
    sender->due_ns = now_ns(); /* the first is due at once: the queue stays in order */
    token_write(sender);
}

int main(int argc, char **argv)
{
    if (argc != 9)
        die("usage: bare_write PORT HEAD CHUNK END OFFSET DIGITS COUNT PERIOD_MS");
    answer_head = file_read(argv[2]);
    chunk = file_read(argv[3]);
    end = file_read(argv[4]);
    chunk_offset = strtoul(argv[5], NULL, 10);
    chunk_digits = strtoul(argv[6], NULL, 10);
    count = strtoull(argv[7], NULL, 10);
    period_ns = (uint64_t)(strtod(argv[8], NULL) * 1e6);
    if (chunk_offset + chunk_digits > chunk.size || count == 0)
        die("OFFSET and DIGITS are not in CHUNK, or COUNT is 0");

    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct sockaddr_in address = { .sin_family = AF_INET };
    struct rlimit files;
    struct epoll_event event = { .events = EPOLLIN, .data = { .ptr = NULL } };
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 4096) != 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0)
        die_errno("listen");
    for (;;) {
        struct epoll_event events[256];
        uint64_t now = now_ns();
        while (head != NULL && head->due_ns <= now) {
            struct sender *sender = head;
            head = head->next;
            if (head == NULL)
                tail = NULL;
            token_write(sender);
        }
        struct timespec wait = { 0 };
        if (head != NULL && head->due_ns > now) {
            wait.tv_sec = (time_t)((head->due_ns - now) / 1000000000u);
            wait.tv_nsec = (long)((head->due_ns - now) % 1000000000u);
        }
        int n = epoll_pwait2(epoll, events, 256, head != NULL ? &wait : NULL, NULL);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr != NULL) {
                on_readable(epoll, events[i].data.ptr);
                continue;
            }
            struct sender *sender = calloc(1, sizeof *sender);
            if (sender == NULL)
                die("no memory");
            sender->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            event.data.ptr = sender;
            if (sender->fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, sender->fd, &event) != 0)
                die_errno("accept");
            setsockopt(sender->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        }
    }
}
