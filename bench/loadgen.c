/* loadgen.c - sends the same HTTP/1.1 requests again and again and measures how long answers take.
 *
 * Closed loop (no --rate): every connection sends its next request when the last was answered; what
 * is measured is the time from writing to the last byte of the answer. Open loop (--rate): requests
 * are due at fixed times whatever the server does, and the time runs from when a request was *due*,
 * so that a server which stalls is charged for everybody who would have waited (this is what
 * "coordinated omission" leaves out). A due request that finds no idle connection waits in line.
 *
 * Every answer is checked: status, and the body byte for byte against --expect. The first that
 * differs ends the run.
 *
 * Times go into a histogram of 128 steps an octave (error < 0.8 %), one for each --request.
 *
 * One thread, epoll. In an open loop it spins, as waking up would be late by more than what is
 * measured; `send_lag` says how late requests were sent that had an idle connection. In a closed
 * loop it sleeps, and `cpu_share` says how much of its core it used: near 1 means that this
 * program was the bottleneck, not the server.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    KINDS_MAX = 4,
    CONNECTIONS_MAX = 4096,
    HEAD_MAX = 16384,
    STEP_BITS = 7, /* 128 steps an octave */
    BUCKETS = (64 - STEP_BITS) << STEP_BITS,
    READ_SIZE = 256 << 10
};

struct histogram {
    uint64_t counts[BUCKETS];
    uint64_t count, sum_ns, max_ns;
};

struct bytes {
    char *data;
    size_t size;
};

/* A request that is sent again and again, and what must come back. */
struct kind {
    struct bytes request, expect;
    bool has_expect;
    double share; /* of all requests */
    struct histogram latency;
};

struct connection {
    int fd;
    struct kind *kind; /* under way, or NULL: idle */
    uint64_t from_ns;  /* the latency runs from here */
    size_t sent;
    char head[HEAD_MAX];
    size_t head_size; /* bytes of head so far; the body is compared as it comes */
    bool has_head;
    uint64_t body_size, body_seen;
    bool wants_out;
};

static struct {
    struct sockaddr_in address;
    unsigned connections_count;
    double seconds, warmup;
    uint64_t requests; /* 0: by time */
    double rate;       /* 0: closed loop */
    struct kind kinds[KINDS_MAX];
    unsigned kinds_count;
} options;

static struct connection connections[CONNECTIONS_MAX];
static struct connection *idle[CONNECTIONS_MAX];
static unsigned idle_count;
static int epoll_fd;
static bool is_measuring;
static uint64_t answers, answers_all, backlog_max;
static struct histogram send_lag;
static char *read_buffer;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "loadgen: %s\n", what);
    exit(1);
}

static _Noreturn void die_errno(const char *what)
{
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- histogram -------------------------------------------------------------------------------- */

static unsigned bucket_of(uint64_t ns)
{
    if (ns < 1u << STEP_BITS)
        return (unsigned)ns;
    unsigned octave = 63u - (unsigned)__builtin_clzll(ns); /* >= STEP_BITS */
    unsigned step = (unsigned)(ns >> (octave - STEP_BITS)) & ((1u << STEP_BITS) - 1);
    return ((octave - STEP_BITS + 1) << STEP_BITS) + step;
}

/* The largest value of a bucket: a percentile is never told smaller than it was. */
static uint64_t bucket_top(unsigned bucket)
{
    unsigned octave = bucket >> STEP_BITS;
    uint64_t step = bucket & ((1u << STEP_BITS) - 1);
    if (octave == 0)
        return step;
    return (((1ull << STEP_BITS) + step + 1) << (octave - 1)) - 1;
}

static void histogram_add(struct histogram *h, uint64_t ns)
{
    unsigned bucket = bucket_of(ns);
    h->counts[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    h->count++;
    h->sum_ns += ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

static double histogram_us(const struct histogram *h, double quantile)
{
    uint64_t rank = (uint64_t)((double)h->count * quantile);
    uint64_t seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += h->counts[i];
        if (seen > rank) {
            uint64_t top = bucket_top(i);
            return (double)(top < h->max_ns ? top : h->max_ns) / 1e3;
        }
    }
    return (double)h->max_ns / 1e3;
}

static void histogram_print(const struct histogram *h)
{
    printf("{\"count\":%" PRIu64 ",\"mean_us\":%.3f,\"p50_us\":%.3f,\"p90_us\":%.3f,"
           "\"p99_us\":%.3f,\"p999_us\":%.3f,\"max_us\":%.3f}",
           h->count, h->count ? (double)h->sum_ns / 1e3 / (double)h->count : 0.0,
           histogram_us(h, 0.5), histogram_us(h, 0.9), histogram_us(h, 0.99),
           histogram_us(h, 0.999), (double)h->max_ns / 1e3);
}

/* Percentiles of numbers whose percentiles are known: 1 us to 1 s, evenly. */
static void histogram_check(void)
{
    static struct histogram h;
    for (uint64_t us = 1; us <= 1000000; us++)
        histogram_add(&h, us * 1000);
    static const double quantiles[] = { 0.5, 0.9, 0.99, 0.999 };
    for (unsigned i = 0; i < 4; i++) {
        double found = histogram_us(&h, quantiles[i]), expected = quantiles[i] * 1e6;
        if (found < expected || found > expected * 1.008 + 1)
            die("the histogram is wrong");
    }
    for (unsigned i = 1; i < BUCKETS; i++)
        if (bucket_of(bucket_top(i)) != i || bucket_of(bucket_top(i - 1) + 1) != i)
            die("a bucket is wrong");
}

/* --- one connection ------------------------------------------------------------------------------ */

static void connection_watch(struct connection *c, bool wants_out)
{
    struct epoll_event event = { .events = EPOLLIN | (wants_out ? (uint32_t)EPOLLOUT : 0),
                                 .data = { .ptr = c } };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0)
        die_errno("epoll_ctl");
    c->wants_out = wants_out;
}

static void connection_open(struct connection *c)
{
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 ||
        connect(c->fd, (struct sockaddr *)&options.address, sizeof options.address) != 0)
        die_errno("connect");
    if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
        fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0)
        die_errno("socket");
    struct epoll_event event = { .events = EPOLLIN, .data = { .ptr = c } };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die_errno("epoll_ctl");
    idle[idle_count++] = c;
}

static void connection_write(struct connection *c)
{
    const struct bytes *request = &c->kind->request;
    while (c->sent < request->size) {
        ssize_t n = send(c->fd, request->data + c->sent, request->size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!c->wants_out)
                connection_watch(c, true);
            return;
        }
        if (n < 0)
            die_errno("send");
        c->sent += (size_t)n;
    }
    if (c->wants_out)
        connection_watch(c, false);
}

static void connection_begin(struct connection *c, struct kind *kind, uint64_t from_ns)
{
    c->kind = kind;
    c->from_ns = from_ns;
    c->sent = c->head_size = 0;
    c->has_head = false;
    c->body_seen = 0;
    connection_write(c);
}

/* Reads the head: HTTP/1.1, a status of 200, content-length, no closing. */
static void head_read(struct connection *c)
{
    if (memcmp(c->head, "HTTP/1.1 200", 12) != 0) {
        fprintf(stderr, "loadgen: expected 200, got: %.*s\n", 200, c->head);
        exit(1);
    }
    bool has_size = false;
    for (char *line = strstr(c->head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, "content-length:", 15) == 0) {
            c->body_size = strtoull(line + 15, NULL, 10);
            has_size = true;
        } else if (strncasecmp(line, "connection: close", 17) == 0) {
            die("the server closes the connection after an answer: keep-alive was to be measured");
        }
    }
    if (!has_size)
        die("an answer without content-length: chunked answers are not measured here");
    if (c->kind->has_expect && c->body_size != c->kind->expect.size) {
        fprintf(stderr, "loadgen: a body of %" PRIu64 " bytes, expected %zu\n", c->body_size,
                c->kind->expect.size);
        exit(1);
    }
    c->has_head = true;
}

static void body_check(struct connection *c, const char *data, size_t size)
{
    if (c->body_seen + size > c->body_size)
        die("more bytes than content-length says");
    if (c->kind->has_expect && memcmp(c->kind->expect.data + c->body_seen, data, size) != 0)
        die("a body differs from the first that was checked");
    c->body_seen += size;
}

static void connection_done(struct connection *c)
{
    if (c->sent < c->kind->request.size)
        die("an answer came before the request was written");
    if (is_measuring) {
        histogram_add(&c->kind->latency, now_ns() - c->from_ns);
        answers++;
    }
    answers_all++;
    c->kind = NULL;
    idle[idle_count++] = c;
}

static void connection_read(struct connection *c)
{
    ssize_t n = recv(c->fd, read_buffer, READ_SIZE, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0)
        die_errno("recv");
    if (n == 0)
        die("the server closed a connection");
    if (c->kind == NULL)
        die("bytes came that nobody asked for");
    const char *data = read_buffer;
    size_t size = (size_t)n;
    if (!c->has_head) {
        size_t room = HEAD_MAX - 1 - c->head_size, take = size < room ? size : room;
        size_t before = c->head_size;
        memcpy(c->head + before, data, take);
        c->head_size += take;
        c->head[c->head_size] = '\0';
        char *end = strstr(c->head, "\r\n\r\n");
        if (end == NULL) {
            if (take == room)
                die("a head that is too long");
            return;
        }
        size_t head_size = (size_t)(end + 4 - c->head);
        end[2] = '\0';
        head_read(c);
        data += head_size - before;
        size -= head_size - before;
    }
    body_check(c, data, size);
    if (c->body_seen == c->body_size)
        connection_done(c);
}

/* --- the run ---------------------------------------------------------------------------------------- */

/* Kinds in their shares, evenly spread: the one that is furthest behind is next. */
static struct kind *kind_next(void)
{
    static double debts[KINDS_MAX];
    unsigned best = 0;
    if (options.kinds_count == 1)
        return &options.kinds[0];
    for (unsigned i = 0; i < options.kinds_count; i++) {
        debts[i] += options.kinds[i].share;
        if (debts[i] > debts[best])
            best = i;
    }
    debts[best] -= 1;
    return &options.kinds[best];
}

static void poll_once(int timeout_ms)
{
    struct epoll_event events[64];
    int n = epoll_wait(epoll_fd, events, 64, timeout_ms);
    if (n < 0 && errno != EINTR)
        die_errno("epoll_wait");
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            connection_write(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            connection_read(c);
    }
}

/* Until end_ns, or until `requests` answers (0: time alone). */
static void run_closed(uint64_t end_ns, uint64_t requests)
{
    uint64_t last = answers_all + requests;
    while (requests ? answers_all + (options.connections_count - idle_count) < last
                    : now_ns() < end_ns) {
        while (idle_count > 0 &&
               (requests == 0 || answers_all + (options.connections_count - idle_count) < last))
            connection_begin(idle[--idle_count], kind_next(), now_ns());
        poll_once(100);
    }
}

static void run_open(uint64_t begin_ns, uint64_t end_ns)
{
    double gap_ns = 1e9 / options.rate;
    uint64_t count = (uint64_t)((double)(end_ns - begin_ns) / gap_ns);
    for (uint64_t i = 0; i < count;) {
        uint64_t now = now_ns();
        uint64_t due = begin_ns + (uint64_t)((double)i * gap_ns);
        if (now >= due && idle_count > 0) {
            histogram_add(&send_lag, now - due);
            connection_begin(idle[--idle_count], kind_next(), due);
            i++;
        } else if (now >= due) {
            uint64_t behind = (uint64_t)((double)(now - due) / gap_ns);
            if (behind > backlog_max)
                backlog_max = behind;
        }
        poll_once(0);
        if (now > end_ns + 30000000000u)
            die("the server is too slow for this rate: 30 s behind");
    }
}

static void drain(void)
{
    uint64_t until = now_ns() + 30000000000u;
    while (idle_count < options.connections_count) {
        poll_once(100);
        if (now_ns() > until)
            die("answers are missing after 30 s");
    }
}

static void run(void)
{
    uint64_t begin = now_ns();
    uint64_t warm_end = begin + (uint64_t)(options.warmup * 1e9);
    if (options.warmup > 0) {
        if (options.rate > 0)
            run_open(begin, warm_end);
        else
            run_closed(warm_end, 0);
        drain();
        memset(&send_lag, 0, sizeof send_lag);
        backlog_max = 0;
    }
    /* whoever measures the server's CPU time takes its clocks at these two lines */
    printf("{\"mark\":\"begin\"}\n");
    fflush(stdout);
    if (options.warmup > 0 && getchar() == EOF)
        die("nobody said when to go on");
    is_measuring = true;
    uint64_t from = now_ns(), cpu_from = cpu_ns();
    if (options.rate > 0)
        run_open(from, from + (uint64_t)(options.seconds * 1e9));
    else
        run_closed(from + (uint64_t)(options.seconds * 1e9), options.requests);
    drain();
    double wall = (double)(now_ns() - from) / 1e9, cpu = (double)(cpu_ns() - cpu_from) / 1e9;
    printf("{\"mark\":\"end\",\"answers\":%" PRIu64 ",\"seconds\":%.6f,\"per_second\":%.1f,"
           "\"cpu_share\":%.3f,\"backlog_max\":%" PRIu64 ",\"send_lag\":",
           answers, wall, (double)answers / wall, cpu / wall, backlog_max);
    histogram_print(&send_lag);
    printf(",\"latency\":[");
    for (unsigned i = 0; i < options.kinds_count; i++) {
        printf("%s", i ? "," : "");
        histogram_print(&options.kinds[i].latency);
    }
    printf("]}\n");
}

/* --- argv ---------------------------------------------------------------------------------------------- */

static struct bytes file_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct bytes bytes = { NULL, 0 };
    if (file == NULL)
        die_errno(path);
    fseek(file, 0, SEEK_END);
    bytes.size = (size_t)ftell(file);
    rewind(file);
    bytes.data = malloc(bytes.size + 1);
    if (bytes.data == NULL || fread(bytes.data, 1, bytes.size, file) != bytes.size)
        die_errno(path);
    fclose(file);
    return bytes;
}

static const char usage[] =
    "usage: loadgen --port N --request FILE [--expect FILE] [--share X] [--request FILE ...]\n"
    "               [--connections 16] [--seconds 5 | --requests N] [--warmup 1] [--rate N] [--cpu N]\n"
    "FILE holds one whole HTTP/1.1 request, or the body of an answer. --rate makes it an open loop.\n"
    "With --warmup it waits for a line on standard input between warming up and measuring.\n";

static const char *argument(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc)
        die(usage);
    return argv[++*i];
}

static void options_read(int argc, char **argv)
{
    options.connections_count = 16;
    options.seconds = 5;
    options.warmup = 1;
    options.address.sin_family = AF_INET;
    options.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct kind *kind = NULL;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--request") == 0) {
            if (options.kinds_count == KINDS_MAX)
                die("too many requests");
            kind = &options.kinds[options.kinds_count++];
            kind->request = file_read(argument(argc, argv, &i));
            kind->share = 1;
        } else if (kind != NULL && strcmp(name, "--expect") == 0) {
            kind->expect = file_read(argument(argc, argv, &i));
            kind->has_expect = true;
        } else if (kind != NULL && strcmp(name, "--share") == 0) {
            kind->share = strtod(argument(argc, argv, &i), NULL);
        } else if (strcmp(name, "--port") == 0) {
            options.address.sin_port = htons((uint16_t)strtoul(argument(argc, argv, &i), NULL, 10));
        } else if (strcmp(name, "--connections") == 0) {
            options.connections_count = (unsigned)strtoul(argument(argc, argv, &i), NULL, 10);
        } else if (strcmp(name, "--seconds") == 0) {
            options.seconds = strtod(argument(argc, argv, &i), NULL);
        } else if (strcmp(name, "--requests") == 0) {
            options.requests = strtoull(argument(argc, argv, &i), NULL, 10);
        } else if (strcmp(name, "--warmup") == 0) {
            options.warmup = strtod(argument(argc, argv, &i), NULL);
        } else if (strcmp(name, "--rate") == 0) {
            options.rate = strtod(argument(argc, argv, &i), NULL);
        } else if (strcmp(name, "--cpu") == 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET((size_t)strtoul(argument(argc, argv, &i), NULL, 10), &set);
            if (sched_setaffinity(0, sizeof set, &set) != 0)
                die_errno("--cpu");
        } else {
            die(usage);
        }
    }
    if (options.kinds_count == 0 || options.address.sin_port == 0 ||
        options.connections_count == 0 || options.connections_count > CONNECTIONS_MAX)
        die(usage);
    double shares = 0;
    for (unsigned i = 0; i < options.kinds_count; i++)
        shares += options.kinds[i].share;
    for (unsigned i = 0; i < options.kinds_count; i++)
        options.kinds[i].share /= shares;
}

int main(int argc, char **argv)
{
    options_read(argc, argv);
    histogram_check();
    read_buffer = malloc(READ_SIZE);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (read_buffer == NULL || epoll_fd < 0)
        die_errno("start");
    for (unsigned i = 0; i < options.connections_count; i++)
        connection_open(&connections[i]);
    run();
    return 0;
}
