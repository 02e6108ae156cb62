/* floodgen.c - asks for more than a server can do, and says what became of it.
 *
 * Open loop: requests of each class are due at random times (Poisson, a fixed seed) at its rate, whatever the
 * server does; latency runs from when a request was due. Each class has connections of its own (HTTP/1.1, one
 * request at a time each); a due request that finds none idle waits in line, and is given up when it has
 * waited for --patience. An answer counts by its status:
 *   good       200 within the patience (from when it was due)
 *   late       200 behind it
 *   refused    429, 503 or 504; how long a refusal took runs from when the request was written
 *   other      anything else: a mistake of the benchmark
 *
 *   floodgen --port N --seconds S --warmup S --seed N --patience MS --class RATE,CONNECTIONS,FILE ...
 *
 * One thread, epoll, spinning. It prints one line of JSON.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define GENERATOR "floodgen"
#include "gen.h"

enum { CLASSES_MAX = 32, CONNECTIONS_MAX = 4096, HEAD_MAX = 8192, LINE_MAX = 1 << 16, EVENTS = 256 };

struct class {
    double rate;
    unsigned connections;
    struct bytes request;
    uint64_t due_ns; /* the next */
    uint64_t line[LINE_MAX]; /* that are due and find no connection: a ring of their times */
    unsigned line_at, line_size, line_most;
    struct connection *idle;
    uint64_t asked, good, late, refused, other, given_up, broken;
    uint64_t served; /* 200 that came while it counts, whenever they were due */
    uint64_t statuses[600];
    struct histogram latency, refusal;
};

struct connection {
    struct class *class;
    struct connection *next; /* idle */
    int fd;
    bool is_busy;
    uint64_t due_ns, sent_ns;
    size_t sent;
    char head[HEAD_MAX];
    size_t size; /* received of the answer's head */
    long left;   /* of its body; -1: the head is not whole */
    unsigned status;
    bool closes;
};

static struct class classes[CLASSES_MAX];
static unsigned classes_count, port;
static uint64_t begins_ns, counts_ns, ends_ns, patience_ns, seed = 1;
static int epoll;

static double uniform(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return ((double)(seed >> 11) + 1) / 9007199254740994.0;
}

static bool counts(const struct connection *c)
{
    return c->due_ns >= counts_ns && c->due_ns < ends_ns;
}

static void dial(struct connection *c)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c };
    int one = 1;

    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0)
        die_errno("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die_errno("epoll_ctl");
}

static void go_on_sending(struct connection *c)
{
    const struct bytes *r = &c->class->request;

    while (c->sent < r->size) {
        ssize_t wrote = send(c->fd, r->data + c->sent, r->size - c->sent, MSG_NOSIGNAL);
        if (wrote <= 0)
            return; /* epoll tells, or the end does */
        c->sent += (size_t)wrote;
    }
}

static void begin(struct connection *c, uint64_t due_ns, uint64_t now)
{
    c->is_busy = true;
    c->due_ns = due_ns;
    c->sent_ns = now;
    c->sent = c->size = 0;
    c->left = -1;
    go_on_sending(c);
}

/* The next in line, or it rests. */
static void next(struct connection *c)
{
    struct class *k = c->class;
    uint64_t now = now_ns();

    c->is_busy = false;
    if (c->closes) {
        close(c->fd);
        dial(c);
        c->closes = false;
    }
    while (k->line_size > 0) {
        uint64_t due = k->line[k->line_at];
        k->line_at = (k->line_at + 1) % LINE_MAX;
        k->line_size--;
        if (now - due < patience_ns) {
            begin(c, due, now);
            return;
        }
        k->given_up += due >= counts_ns && due < ends_ns;
    }
    c->next = k->idle;
    k->idle = c;
}

static void answered(struct connection *c)
{
    struct class *k = c->class;
    uint64_t now = now_ns();

    k->served += c->status == 200 && now >= counts_ns && now < ends_ns;
    if (counts(c)) {
        k->statuses[c->status < 600 ? c->status : 0]++;
        if (c->status == 200) {
            if (now - c->due_ns <= patience_ns) {
                k->good++;
                histogram_add(&k->latency, now - c->due_ns);
            } else {
                k->late++;
            }
        } else if (c->status == 429 || c->status == 503 || c->status == 504) {
            k->refused++;
            histogram_add(&k->refusal, now - c->sent_ns);
        } else {
            k->other++;
        }
    }
    next(c);
}

static void broken(struct connection *c)
{
    if (c->is_busy && counts(c))
        c->class->broken++;
    c->closes = true;
    if (c->is_busy)
        next(c);
}

static bool read_head(struct connection *c)
{
    char *end = memmem(c->head, c->size, "\r\n\r\n", 4);

    if (end == NULL)
        return false;
    *end = '\0';
    c->status = (unsigned)atoi(c->head + 9);
    c->left = 0;
    for (char *line = strstr(c->head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "content-length:", 15) == 0)
            c->left = atol(line + 17);
        if (strncasecmp(line + 2, "connection: close", 17) == 0)
            c->closes = true;
    }
    c->left -= (long)(c->size - (size_t)(end + 4 - c->head));
    return true;
}

static void receive(struct connection *c)
{
    static char sink[65536];

    for (;;) {
        bool in_head = c->left < 0 && c->is_busy;
        ssize_t got = in_head ? recv(c->fd, c->head + c->size, HEAD_MAX - c->size, 0)
                              : recv(c->fd, sink, sizeof sink, 0);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0 || !c->is_busy) {
            broken(c);
            return;
        }
        if (in_head) {
            c->size += (size_t)got;
            if (!read_head(c)) {
                if (c->size == HEAD_MAX)
                    die("a head is too large");
                continue;
            }
        } else {
            c->left -= got;
        }
        if (c->left == 0) {
            answered(c);
            if (!c->is_busy)
                return;
        }
    }
}

static void ask_due(struct class *k, uint64_t now)
{
    while (k->due_ns <= now && k->due_ns < ends_ns) {
        uint64_t due = k->due_ns;
        k->due_ns += (uint64_t)(-log(uniform()) / k->rate * 1e9) + 1;
        k->asked += due >= counts_ns;
        struct connection *c = k->idle;
        if (c != NULL) {
            k->idle = c->next;
            begin(c, due, now);
        } else if (k->line_size < LINE_MAX) {
            k->line[(k->line_at + k->line_size++) % LINE_MAX] = due;
            if (k->line_size > k->line_most)
                k->line_most = k->line_size;
        } else {
            k->given_up += due >= counts_ns;
        }
    }
}

static void print_class(const struct class *k, double seconds)
{
    printf("{\"asked\":%" PRIu64 ",\"good\":%" PRIu64 ",\"late\":%" PRIu64 ",\"refused\":%" PRIu64
           ",\"other\":%" PRIu64 ",\"given_up\":%" PRIu64 ",\"broken\":%" PRIu64
           ",\"good_per_second\":%.3f,\"served_per_second\":%.3f,\"line_most\":%u,\"statuses\":{",
           k->asked, k->good, k->late, k->refused, k->other, k->given_up, k->broken,
           (double)k->good / seconds, (double)k->served / seconds, k->line_most);
    const char *comma = "";
    for (unsigned i = 0; i < 600; i++)
        if (k->statuses[i] != 0) {
            printf("%s\"%u\":%" PRIu64, comma, i, k->statuses[i]);
            comma = ",";
        }
    printf("},\"latency\":");
    histogram_print(&k->latency);
    printf(",\"refusal\":");
    histogram_print(&k->refusal);
    printf("}");
}

int main(int argc, char **argv)
{
    static struct connection all[CONNECTIONS_MAX];
    struct epoll_event ready[EVENTS];
    double seconds = 5, warmup = 1;
    unsigned used = 0;

    histogram_check();
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--port") == 0) {
            port = (unsigned)atoi(value);
        } else if (strcmp(name, "--seconds") == 0) {
            seconds = atof(value);
        } else if (strcmp(name, "--warmup") == 0) {
            warmup = atof(value);
        } else if (strcmp(name, "--seed") == 0) {
            seed = strtoull(value, NULL, 10) * 0x9e3779b97f4a7c15u + 1;
        } else if (strcmp(name, "--patience") == 0) {
            patience_ns = (uint64_t)(atof(value) * 1e6);
        } else if (strcmp(name, "--cpu") == 0) {
            cpu_pin(value);
        } else if (strcmp(name, "--class") == 0) {
            struct class *k = &classes[classes_count++];
            int at = 0;
            if (classes_count > CLASSES_MAX ||
                sscanf(value, "%lf,%u,%n", &k->rate, &k->connections, &at) < 2 || at == 0)
                die("--class takes RATE,CONNECTIONS,FILE");
            k->request = file_read(value + at);
        } else {
            die("an option that is not known");
        }
    }
    if (port == 0 || classes_count == 0 || patience_ns == 0)
        die("--port, --class and --patience are needed");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < classes_count; i++)
        for (unsigned n = 0; n < classes[i].connections; n++) {
            if (used == CONNECTIONS_MAX)
                die("too many connections");
            struct connection *c = &all[used++];
            c->class = &classes[i];
            dial(c);
            c->next = classes[i].idle;
            classes[i].idle = c;
        }
    begins_ns = now_ns();
    counts_ns = begins_ns + (uint64_t)(warmup * 1e9);
    ends_ns = counts_ns + (uint64_t)(seconds * 1e9);
    for (unsigned i = 0; i < classes_count; i++)
        classes[i].due_ns = begins_ns;
    /* What was asked at the end is waited for. */
    for (uint64_t now = begins_ns; now < ends_ns + 2 * patience_ns + 500000000u; now = now_ns()) {
        for (unsigned i = 0; i < classes_count; i++)
            ask_due(&classes[i], now);
        int count = epoll_wait(epoll, ready, EVENTS, 0);
        for (int i = 0; i < count; i++) {
            struct connection *c = ready[i].data.ptr;
            if (c->is_busy && (ready[i].events & EPOLLOUT) != 0)
                go_on_sending(c);
            if ((ready[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
                receive(c);
        }
    }
    printf("{\"cpu_ms\":%.1f,\"classes\":[", (double)cpu_ns() / 1e6);
    for (unsigned i = 0; i < classes_count; i++) {
        printf("%s", i == 0 ? "" : ",");
        print_class(&classes[i], seconds);
    }
    printf("]}\n");
    return 0;
}
