/* tlsgen.c - what connections cost that are encrypted: requests on kept ones, handshakes, idle ones, slow ones.
 *
 *   --mode requests    each connection sends its next request when the last was answered
 *   --mode handshakes  each slot connects, shakes hands, sends one request, reads the answer, and begins anew;
 *                      --resume offers the session of an earlier connection, and a run in which one of twenty
 *                      or more was not resumed ends with an error
 *   --mode idle        opens them all, one request each, prints a line and keeps them until standard input ends
 *   --mode drip        opens them all; each sends a byte of a request's head a second, until standard input
 *                      ends; a connection that the server ends is counted and opened anew
 *
 * Without --tls the same over plain TCP. Every answer is checked: 200 and, with --expect, the body byte for
 * byte. The server's certificate is checked against --ca, where it is given, and the name `localhost`.
 *
 * One thread, epoll. `cpu_share` says how much of its core this used: handshakes cost a client about as much as
 * a server, so that near 1 what is told is a floor of the server's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define GENERATOR "tlsgen"
#include "gen.h"

enum { CONNECTIONS_MAX = 20000, HEAD_MAX = 4096, READ_SIZE = 65536, PER_ADDRESS = 5000, RESUMED_PERCENT_MIN = 95 };
enum mode { REQUESTS, HANDSHAKES, IDLE, DRIP };
enum phase { CONNECTING, SHAKING, WRITING, READING, RESTING };

struct connection {
    int fd;
    SSL *ssl; /* NULL: plain */
    SSL_SESSION *session; /* the newest that the server gave this slot: clients use a ticket once */
    enum phase phase;
    uint64_t from_ns;
    size_t sent, body_seen, body_size, head_size;
    bool has_head;
    uint32_t number;
    char head[HEAD_MAX];
};

static struct {
    uint16_t port;
    enum mode mode;
    bool is_tls, is_resumed;
    unsigned connections_count;
    double seconds, warmup;
    const char *ca, *version;
    struct bytes request, expect;
    bool has_expect;
} options;

static struct connection *connections;
static SSL_CTX *context;
static int epoll_fd;
static bool is_measuring, is_over;
static uint64_t answers, resumed, ended, opened;
static char spoken[64]; /* version and cipher of the first answer */
static struct histogram latency;
static char buffer[READ_SIZE];

static _Noreturn void die_tls(const char *what)
{
    unsigned long error = ERR_get_error();
    fprintf(stderr, GENERATOR ": %s: %s\n", what, error ? ERR_error_string(error, NULL) : strerror(errno));
    exit(1);
}

/* --- one connection ------------------------------------------------------------------------------ */

static int on_session(SSL *ssl, SSL_SESSION *fresh)
{
    struct connection *c = SSL_get_app_data(ssl);
    SSL_SESSION_free(c->session);
    c->session = fresh; /* 1: the reference is ours */
    return 1;
}

static void watch(struct connection *c, uint32_t events, int how)
{
    struct epoll_event event = { .events = events, .data = { .ptr = c } };
    if (epoll_ctl(epoll_fd, how, c->fd, &event) != 0)
        die_errno("epoll_ctl");
}

static void connection_open(struct connection *c)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(options.port),
                              .sin_addr = { htonl(INADDR_LOOPBACK) } };
    struct sockaddr_in from = { .sin_family = AF_INET,
                                .sin_addr = { htonl(INADDR_LOOPBACK + c->number / PER_ADDRESS) } };
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0 || setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0)
        die_errno("socket");
    if (c->number >= PER_ADDRESS &&
        (setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) != 0 ||
         bind(c->fd, (struct sockaddr *)&from, sizeof from) != 0))
        die_errno("bind");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS)
        die_errno("connect");
    c->phase = CONNECTING;
    c->from_ns = now_ns();
    c->sent = c->body_seen = c->body_size = c->head_size = 0;
    c->has_head = false;
    opened++;
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void connection_close(struct connection *c)
{
    if (c->ssl != NULL) {
        SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* keeps its session good */
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    struct linger none = { 1, 0 }; /* RST: ports of a hundred thousand connections do not linger */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(c->fd);
    c->fd = -1;
}

static void shake_begin(struct connection *c)
{
    if (!options.is_tls) {
        c->phase = WRITING;
        return;
    }
    c->ssl = SSL_new(context);
    if (c->ssl == NULL || SSL_set_fd(c->ssl, c->fd) != 1 || SSL_set_app_data(c->ssl, c) != 1 ||
        SSL_set_tlsext_host_name(c->ssl, "localhost") != 1 ||
        (options.ca != NULL && SSL_set1_host(c->ssl, "localhost") != 1))
        die_tls("SSL_new");
    if (options.is_resumed && c->session != NULL && SSL_set_session(c->ssl, c->session) != 1)
        die_tls("SSL_set_session");
    c->phase = SHAKING;
}

/* What an SSL_* call that did not succeed waits for; ends the run on a failure. False: the peer is gone. */
static bool want(struct connection *c, int result, const char *what)
{
    switch (SSL_get_error(c->ssl, result)) {
    case SSL_ERROR_WANT_READ: watch(c, EPOLLIN, EPOLL_CTL_MOD); return true;
    case SSL_ERROR_WANT_WRITE: watch(c, EPOLLOUT, EPOLL_CTL_MOD); return true;
    default:
        if (options.mode == DRIP)
            return false;
        die_tls(what);
    }
}

/* Bytes written: more than 0; 0: later; negative: the peer is gone. */
static ssize_t put(struct connection *c, const char *data, size_t size)
{
    if (c->ssl != NULL) {
        int n = SSL_write(c->ssl, data, (int)size);
        return n > 0 ? n : want(c, n, "SSL_write") ? 0 : -1;
    }
    ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
        watch(c, EPOLLOUT, EPOLL_CTL_MOD);
        return 0;
    }
    if (n < 0 && options.mode != DRIP)
        die_errno("send");
    return n;
}

static ssize_t get(struct connection *c)
{
    if (c->ssl != NULL) {
        int n = SSL_read(c->ssl, buffer, READ_SIZE);
        return n > 0 ? n : want(c, n, "SSL_read") ? 0 : -1;
    }
    ssize_t n = recv(c->fd, buffer, READ_SIZE, 0);
    if (n < 0 && errno == EAGAIN) {
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
        return 0;
    }
    if (n <= 0 && options.mode != DRIP)
        die("the server closed a connection");
    return n > 0 ? n : -1;
}

static void head_read(struct connection *c)
{
    if (memcmp(c->head, "HTTP/1.1 200", 12) != 0) {
        fprintf(stderr, GENERATOR ": expected 200, got: %.*s\n", 200, c->head);
        exit(1);
    }
    char *line = strcasestr(c->head, "\r\ncontent-length:");
    if (line == NULL)
        die("an answer without content-length");
    c->body_size = strtoull(line + 17, NULL, 10);
    if (options.has_expect && c->body_size != options.expect.size)
        die("a body of another size than the first that was checked");
    c->has_head = true;
}

/* True: the answer is whole. */
static bool take(struct connection *c, const char *data, size_t size)
{
    if (!c->has_head) {
        size_t before = c->head_size, room = HEAD_MAX - 1 - before, n = size < room ? size : room;
        memcpy(c->head + before, data, n);
        c->head_size += n;
        c->head[c->head_size] = '\0';
        char *end = strstr(c->head, "\r\n\r\n");
        if (end == NULL && n == room)
            die("a head that is too long");
        if (end == NULL)
            return false;
        size_t used = (size_t)(end + 4 - c->head) - before;
        end[2] = '\0';
        head_read(c);
        data += used;
        size -= used;
    }
    if (c->body_seen + size > c->body_size ||
        (options.has_expect && memcmp(options.expect.data + c->body_seen, data, size) != 0))
        die("a body differs from the first that was checked");
    c->body_seen += size;
    return c->body_seen == c->body_size;
}

static void answered(struct connection *c)
{
    if (is_measuring) {
        histogram_add(&latency, now_ns() - c->from_ns);
        answers++;
        resumed += c->ssl != NULL && options.mode == HANDSHAKES && SSL_session_reused(c->ssl) == 1;
    }
    if (spoken[0] == '\0' && c->ssl != NULL)
        snprintf(spoken, sizeof spoken, "%s %s", SSL_get_version(c->ssl),
                 SSL_get_cipher_name(c->ssl));
    c->sent = c->body_seen = c->head_size = 0;
    c->has_head = false;
    if (options.mode == HANDSHAKES) {
        connection_close(c);
        if (!is_over)
            connection_open(c);
    } else if (options.mode == IDLE) {
        answers++;
        c->phase = RESTING;
    } else {
        c->from_ns = now_ns();
        c->phase = WRITING;
    }
}

/* As far as it goes now. False: the peer is gone. */
static bool connection_go(struct connection *c)
{
    ssize_t n;
    int code;

    if (c->phase == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) {
            errno = error;
            die_errno("connect");
        }
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
        shake_begin(c);
    }
    if (c->phase == SHAKING) {
        if ((code = SSL_connect(c->ssl)) != 1)
            return want(c, code, "SSL_connect");
        c->phase = options.mode == DRIP ? RESTING : WRITING;
    }
    if (options.mode == DRIP) {
        c->phase = RESTING;
        return get(c) >= 0; /* until it would block: whatever comes is the server's good-bye */
    }
    for (;;) {
        while (c->phase == WRITING) {
            if ((n = put(c, options.request.data + c->sent, options.request.size - c->sent)) <= 0)
                return true;
            c->sent += (size_t)n;
            if (c->sent == options.request.size)
                c->phase = READING;
        }
        if (c->phase != READING) {
            watch(c, EPOLLIN, EPOLL_CTL_MOD);
            return get(c) >= 0; /* tickets */
        }
        if ((n = get(c)) <= 0)
            return true;
        if (take(c, buffer, (size_t)n)) {
            answered(c);
            if (options.mode == HANDSHAKES)
                return true;
        }
    }
}

/* --- the run ---------------------------------------------------------------------------------------- */

static void poll_once(int timeout_ms)
{
    struct epoll_event events[256];
    int n = epoll_wait(epoll_fd, events, 256, timeout_ms);
    if (n < 0 && errno != EINTR)
        die_errno("epoll_wait");
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (!connection_go(c)) {
            ended++;
            connection_close(c);
            connection_open(c);
        }
    }
}

static void run_until(uint64_t end_ns)
{
    while (now_ns() < end_ns)
        poll_once(100);
}

static bool is_input_over(void)
{
    struct pollfd input = { .fd = 0, .events = POLLIN };
    return poll(&input, 1, 0) > 0;
}

/* A head that is never whole, byte by byte. */
static void drip_all(uint64_t turn)
{
    static const char head[] = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
    for (unsigned i = 0; i < options.connections_count; i++) {
        struct connection *c = &connections[i];
        char byte = c->sent < sizeof head - 1 ? head[c->sent] : (char)('a' + turn % 26);
        if (c->phase != RESTING)
            continue;
        ssize_t n = put(c, &byte, 1);
        c->sent += n > 0;
        if (n < 0) {
            ended++;
            connection_close(c);
            connection_open(c);
        }
        if (i % 64 == 0)
            poll_once(0);
    }
}

static void measured(void)
{
    run_until(now_ns() + (uint64_t)(options.warmup * 1e9));
    printf("{\"mark\":\"begin\"}\n");
    fflush(stdout);
    if (getchar() == EOF)
        die("nobody said when to go on");
    is_measuring = true;
    uint64_t from = now_ns(), cpu_from = cpu_ns();
    run_until(from + (uint64_t)(options.seconds * 1e9));
    double wall = (double)(now_ns() - from) / 1e9, cpu = (double)(cpu_ns() - cpu_from) / 1e9;
    if (options.mode == HANDSHAKES && options.is_resumed && options.is_tls &&
        resumed * 100 < answers * RESUMED_PERCENT_MIN)
        die("handshakes were not resumed");
    if (options.mode == HANDSHAKES && !options.is_resumed && resumed != 0)
        die("a handshake was resumed");
    printf("{\"mark\":\"end\",\"answers\":%" PRIu64 ",\"seconds\":%.6f,\"per_second\":%.1f,"
           "\"cpu_share\":%.3f,\"resumed\":%" PRIu64 ",\"spoken\":\"%s\",\"latency\":[",
           answers, wall, (double)answers / wall, cpu / wall, resumed, spoken);
    histogram_print(&latency);
    printf("]}\n");
    fflush(stdout);
    is_over = true;
}

static void kept(void)
{
    uint64_t next = now_ns(), turn = 0;
    while (options.mode == IDLE && answers < options.connections_count)
        poll_once(1000);
    printf("{\"mark\":\"begin\"}\n");
    fflush(stdout);
    while (!is_input_over()) {
        poll_once(50);
        if (options.mode == DRIP && now_ns() >= next) {
            drip_all(turn++);
            next += 1000000000u;
        }
    }
    printf("{\"mark\":\"end\",\"opened\":%" PRIu64 ",\"ended\":%" PRIu64 "}\n", opened, ended);
    fflush(stdout);
}

/* --- argv ---------------------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: tlsgen --port N --mode requests|handshakes|idle|drip [--tls [--ca FILE] [--version 1.2|1.3]]\n"
    "              [--resume] --request FILE [--expect FILE] [--connections 16] [--seconds 4]\n"
    "              [--warmup 1] [--cpu N]\n"
    "requests and handshakes wait for a line on standard input between warming up and measuring.\n";

static const char *argument(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc)
        die(usage);
    return argv[++*i];
}

static enum mode mode_of(const char *name)
{
    static const char *const names[] = { "requests", "handshakes", "idle", "drip" };
    for (unsigned i = 0; i < 4; i++)
        if (strcmp(names[i], name) == 0)
            return (enum mode)i;
    die(usage);
}

static void options_read(int argc, char **argv)
{
    options.connections_count = 16;
    options.seconds = 4;
    options.warmup = 1;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--tls") == 0)
            options.is_tls = true;
        else if (strcmp(name, "--resume") == 0)
            options.is_resumed = true;
        else if (strcmp(name, "--port") == 0)
            options.port = (uint16_t)strtoul(argument(argc, argv, &i), NULL, 10);
        else if (strcmp(name, "--mode") == 0)
            options.mode = mode_of(argument(argc, argv, &i));
        else if (strcmp(name, "--ca") == 0)
            options.ca = argument(argc, argv, &i);
        else if (strcmp(name, "--version") == 0)
            options.version = argument(argc, argv, &i);
        else if (strcmp(name, "--request") == 0)
            options.request = file_read(argument(argc, argv, &i));
        else if (strcmp(name, "--expect") == 0) {
            options.expect = file_read(argument(argc, argv, &i));
            options.has_expect = true;
        } else if (strcmp(name, "--connections") == 0)
            options.connections_count = (unsigned)strtoul(argument(argc, argv, &i), NULL, 10);
        else if (strcmp(name, "--seconds") == 0)
            options.seconds = strtod(argument(argc, argv, &i), NULL);
        else if (strcmp(name, "--warmup") == 0)
            options.warmup = strtod(argument(argc, argv, &i), NULL);
        else if (strcmp(name, "--cpu") == 0)
            cpu_pin(argument(argc, argv, &i));
        else
            die(usage);
    }
    if (options.port == 0 || options.connections_count == 0 ||
        options.connections_count > CONNECTIONS_MAX ||
        (options.mode != DRIP && options.request.size == 0))
        die(usage);
}

static void tls_init(void)
{
    static const unsigned char protocols[] = "\x08http/1.1";
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || SSL_CTX_set_alpn_protos(context, protocols, sizeof protocols - 1) != 0)
        die_tls("SSL_CTX_new");
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    /* As browsers offer them: one server takes its own first, another the client's, and this is the same. */
    if (SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                          "TLS_CHACHA20_POLY1305_SHA256") != 1 ||
        SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM") != 1)
        die_tls("ciphers");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, on_session);
    if (options.ca != NULL) {
        if (SSL_CTX_load_verify_locations(context, options.ca, NULL) != 1)
            die_tls(options.ca);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    }
    if (options.version != NULL) {
        int version = strcmp(options.version, "1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
        SSL_CTX_set_min_proto_version(context, version);
        SSL_CTX_set_max_proto_version(context, version);
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    options_read(argc, argv);
    histogram_check();
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (options.is_tls)
        tls_init();
    connections = calloc(options.connections_count, sizeof *connections);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || epoll_fd < 0)
        die_errno("start");
    for (unsigned i = 0; i < options.connections_count; i++) {
        connections[i].number = i;
        connection_open(&connections[i]);
        if (options.mode == IDLE || options.mode == DRIP)
            poll_once(0); /* a backlog is not what is measured */
    }
    if (options.mode == IDLE || options.mode == DRIP)
        kept();
    else
        measured();
    return 0;
}
