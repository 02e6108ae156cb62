/* client_test.c - addresses, answers byte by byte, and calls against a peer that misbehaves.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/client.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "test/harness.h"

/* -- addresses --------------------------------------------------------------------------------- */

static const struct {
    const char *url, *host;
    uint16_t port;
    const char *base, *shown;
    enum err_code code;
} addresses[] = {
    { "http://127.0.0.1:8000", "127.0.0.1", 8000, "", "127.0.0.1:8000", OK },
    { "localhost:9", "localhost", 9, "", "localhost:9", OK },
    { "localhost", "localhost", 80, "", "localhost:80", OK },
    { "http://[::1]:8000/", "::1", 8000, "", "[::1]:8000", OK },
    { "http://h/base/x//", "h", 80, "/base/x", "h:80", OK },
    { "unix:/run/p.sock", "/run/p.sock", 80, "", "unix:/run/p.sock", OK },
    { "unix:///run/p.sock", "/run/p.sock", 80, "", "unix:/run/p.sock", OK },
    { "https://h", "h", 443, "", "h:443", OK },
    { "https://h:8443/x/", "h", 8443, "/x", "h:8443", OK },
    { "", "", 0, "", "", E_INVALID },
    { "http://", "", 0, "", "", E_INVALID },
    { "http://:80", "", 0, "", "", E_INVALID },
    { "http://h:0", "", 0, "", "", E_INVALID },
    { "http://h:65536", "", 0, "", "", E_INVALID },
    { "http://h:8x", "", 0, "", "", E_INVALID },
    { "http://[::1", "", 0, "", "", E_INVALID },
    { "http://[h]", "", 0, "", "", E_INVALID },
    { "http://h\xc3\xbc", "", 0, "", "", E_INVALID },
    { "http://a[b", "", 0, "", "", E_INVALID },
    { "http://[::1]x", "", 0, "", "", E_INVALID },
    { "http://u:p@h", "", 0, "", "", E_INVALID },
    { "http://h/?q=1", "", 0, "", "", E_INVALID },
    { "http://h\r\nx: y", "", 0, "", "", E_INVALID },
    { "unix://run/p.sock", "", 0, "", "", E_INVALID },
    { "unix:relative", "", 0, "", "", E_INVALID },
};

TEST(address_cases)
{
    for (size_t i = 0; i < COUNT(addresses); i++) {
        struct url a = { 0 };
        struct err err = { 0 };
        enum err_code code = url_parse(&a, slice_of(addresses[i].url), &err);
        check(code == addresses[i].code, "'%s': %s", addresses[i].url, err.text);
        if (code != OK) {
            check(err.text[0] != '\0', "'%s' has no text", addresses[i].url);
            continue;
        }
        check(strcmp(a.host, addresses[i].host) == 0, "'%s': host %s", addresses[i].url, a.host);
        check(a.port == addresses[i].port, "'%s': port %u", addresses[i].url, a.port);
        check(strcmp(a.base, addresses[i].base) == 0, "'%s': base %s", addresses[i].url, a.base);
        check(strcmp(a.shown, addresses[i].shown) == 0, "'%s': %s", addresses[i].url, a.shown);
    }
}

/* -- answers ----------------------------------------------------------------------------------- */

static const struct {
    const char *bytes;
    bool is_head;
    enum err_code code;
    uint16_t status;
    const char *body;
    bool keeps_alive;
    const char *why;
} answers[] = {
    { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, OK, 200, "hi", true, "length" },
    { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", false,
      OK, 200, "hi", true, "chunks" },
    { "HTTP/1.1 200 OK\r\n\r\nhi", false, OK, 200, "hi", false, "until it closes" },
    { "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, OK, 200, "hi", false, "1.0" },
    { "HTTP/1.1 204 No Content\r\n\r\n", false, OK, 204, "", true, "no body by status" },
    { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true, OK, 200, "", true, "HEAD" },
    { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", false, OK, 200,
      "x", true, "1xx first" },
    { "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", false, OK, 200, "x",
      false, "close" },
    { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP", false, OK, 200, "x", false,
      "bytes behind it" },
    { "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", false, E_UNAVAILABLE, 0, "", false, "cut" },
    { "HTTP/1.1 200 OK\r\nContent-Le", false, E_UNAVAILABLE, 0, "", false, "cut in a header" },
    { "", false, E_UNAVAILABLE, 0, "", false, "nothing" },
    { "SSH-2.0-x\r\n", false, E_DATA_LOSS, 0, "", false, "another protocol" },
    { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", false, E_DATA_LOSS, 0,
      "", false, "two lengths" },
    { "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false, E_DATA_LOSS, 0,
      "", false, "another protocol by status" },
    { "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", false, E_RANGE, 0, "", false, "too large" },
    { "HTTP/1.1 200 OK\r\nX: aaaaaaaaaabbbbbbbbbbccccccccccddddddddddaaaaaaaaaabbbbbbbbbbccccccccccddddd"
      "\r\n\r\n",
      false, E_RANGE, 0, "", false, "headers too large" },
};

static enum err_code read_answer(struct answer **ret, struct slice bytes, size_t step, bool is_head,
                                 struct err *err)
{
    struct answer_limits limits = { .header_bytes_max = 64, .body_bytes_max = 100 };

    TRY(answer_new(ret, limits, is_head, err));
    while (bytes.size > 0) {
        size_t n = MIN(step, bytes.size);
        TRY(answer_feed(*ret, slice_first(bytes, n), err));
        bytes = slice_skip(bytes, n);
    }
    return answer_finish(*ret, err);
}

TEST(answer_cases_whole_and_byte_by_byte)
{
    for (size_t i = 0; i < COUNT(answers); i++) {
        for (size_t step = 1; step <= 1000; step = step == 1 ? 7 : step == 7 ? 1000 : 1001) {
            CLEANUP(answer_free) struct answer *a = NULL;
            struct err err = { 0 };
            enum err_code code =
                read_answer(&a, slice_of(answers[i].bytes), step, answers[i].is_head, &err);
            check(code == answers[i].code, "%s, step %zu: %d %s", answers[i].why, step, code,
                  err.text);
            if (code != OK || answers[i].code != OK)
                continue;
            check(a->status == answers[i].status, "%s: %u", answers[i].why, a->status);
            check(slice_is(a->body, answers[i].body), "%s: '%.*s'", answers[i].why,
                  SLICE_ARG(a->body));
            check(a->keeps_alive == answers[i].keeps_alive, "%s, step %zu", answers[i].why, step);
        }
    }
}

TEST(answer_headers_are_lower_case_and_trimmed)
{
    CLEANUP(answer_free) struct answer *a = NULL;
    struct err err = { 0 };

    check_or_stop(
        read_answer(&a, slice_of("HTTP/1.1 200 OK\r\nX-One:  a b \r\nContent-Length: 0\r\n\r\n"), 1,
                    false, &err) == OK,
        "%s", err.text);
    check(slice_is(answer_header(a, "x-one"), "a b"), "'%.*s'",
          SLICE_ARG(answer_header(a, "x-one")));
    check(answer_header(a, "x-two").data == NULL, "there is none");
}

TEST(answer_survives_every_fault)
{
    static const char bytes[] = "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 2\r\n\r\nhi";
    for_each_fault(nth) {
        CLEANUP(answer_free) struct answer *a = NULL;
        struct err err = { 0 };
        enum err_code code = read_answer(&a, slice_of(bytes), 3, false, &err);
        if (!fault_fired()) {
            check(code == OK, "%s", err.text);
            break;
        }
        check(code == E_EXHAUSTED && err.text[0] != '\0', "fault %u: %d %s", nth, code, err.text);
    }
}

/* -- calls ------------------------------------------------------------------------------------- */

/* A peer: for each connection one entry of `script`; it reads a head (and says so), then writes. */
struct peer {
    int fd;
    uint16_t port;
    pthread_t thread;
    unsigned connections; /* how many it takes before it ends */
    const char *const *script;
    char heard[4096]; /* all that was sent to it */
    size_t heard_size;
    bool keeps;        /* a connection carries two requests */
    bool drops_second; /* ... and the second gets no answer */
    bool never_answers;
};

static bool hear(struct peer *peer, int fd)
{
    size_t begun = peer->heard_size;

    while (memmem(peer->heard + begun, peer->heard_size - begun, "\r\n\r\n", 4) == NULL) {
        ssize_t got =
            recv(fd, peer->heard + peer->heard_size, sizeof peer->heard - 1 - peer->heard_size, 0);
        if (got <= 0)
            return false;
        peer->heard_size += (size_t)got;
    }
    return true;
}

static void *peer_main(void *arg)
{
    struct peer *peer = arg;

    for (unsigned i = 0; i < peer->connections; i++) {
        int fd = accept(peer->fd, NULL, NULL);
        for (unsigned round = 0; round < (peer->keeps ? 2u : 1u); round++) {
            if (!hear(peer, fd) || (peer->drops_second && round == 1))
                break;
            if (peer->never_answers) {
                char byte;
                while (recv(fd, &byte, 1, 0) > 0)
                    continue;
                break;
            }
            ssize_t ignored = send(fd, peer->script[i], strlen(peer->script[i]), MSG_NOSIGNAL);
            (void)ignored;
        }
        close(fd);
    }
    return NULL;
}

static void peer_start(struct peer *peer, char *url, size_t size)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t at_size = sizeof at;

    peer->fd = socket(AF_INET, SOCK_STREAM, 0);
    require(bind(peer->fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(peer->fd, 8) == 0);
    require(getsockname(peer->fd, (struct sockaddr *)&at, &at_size) == 0);
    peer->port = ntohs(at.sin_port);
    snprintf(url, size, "http://127.0.0.1:%u", peer->port);
    require(pthread_create(&peer->thread, NULL, peer_main, peer) == 0);
}

static void peer_stop(struct peer *peer)
{
    pthread_join(peer->thread, NULL);
    close(peer->fd);
}

static enum err_code get(struct client *client, const char *target, struct answer **ret,
                         struct err *err)
{
    struct client_request request = { .method = "GET", .target = target };

    return client_call(client, &request, ret, err);
}

static const char hi[] = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

TEST(client_keeps_its_connection)
{
    const char *script[] = { hi };
    struct peer peer = { .connections = 1, .script = script, .keeps = true };
    struct client_settings settings = { 0 };
    CLEANUP(client_free) struct client *client = NULL;
    struct err err = { 0 };
    char url[64];

    peer_start(&peer, url, sizeof url);
    settings.url = url;
    check_or_stop(client_new(&client, &settings, &err) == OK, "%s", err.text);
    for (int i = 0; i < 2; i++) {
        CLEANUP(answer_free) struct answer *answer = NULL;
        check_or_stop(get(client, "/x", &answer, &err) == OK, "%s", err.text);
        check(slice_is(answer->body, "hi"), "call %d", i);
        check(client_times(client).was_kept == (i == 1), "call %d", i);
    }
    peer_stop(&peer);
    check(strstr(peer.heard, "GET /x HTTP/1.1\r\nhost: 127.0.0.1:") == peer.heard, "%s",
          peer.heard);
}

TEST(client_repeats_what_may_be_repeated_and_nothing_else)
{
    const char *script[] = { hi, hi };
    struct peer peer = { .connections = 2, .script = script, .keeps = true, .drops_second = true };
    struct client_settings settings = { 0 };
    CLEANUP(client_free) struct client *client = NULL;
    struct err err = { 0 };
    char url[64];

    peer_start(&peer, url, sizeof url);
    settings.url = url;
    check_or_stop(client_new(&client, &settings, &err) == OK, "%s", err.text);
    for (int i = 0; i < 2; i++) {
        /* The peer reads the second request of each connection, and closes. */
        CLEANUP(answer_free) struct answer *answer = NULL;
        check_or_stop(get(client, "/", &answer, &err) == OK, "call %d: %s", i, err.text);
    }
    struct client_request post = { .method = "POST", .target = "/", .body = SLICE_LIT("{}") };
    CLEANUP(answer_free) struct answer *answer = NULL;
    enum err_code code = client_call(client, &post, &answer, &err);
    check(code == E_UNAVAILABLE, "a POST is not sent twice: %d %s", code, err.text);
    peer_stop(&peer);
}

TEST(client_sees_that_a_kept_connection_was_closed_meanwhile)
{
    const char *script[] = { hi, hi };
    struct peer peer = { .connections = 2, .script = script };
    struct client_settings settings = { 0 };
    CLEANUP(client_free) struct client *client = NULL;
    struct err err = { 0 };
    struct timespec nap = { .tv_nsec = (long)(20 * NS_PER_MS) };
    char url[64];

    peer_start(&peer, url, sizeof url);
    settings.url = url;
    check_or_stop(client_new(&client, &settings, &err) == OK, "%s", err.text);
    for (int i = 0; i < 2; i++) {
        /* Even a POST can go: nothing was sent on what is closed. */
        struct client_request post = { .method = "POST", .target = "/", .body = SLICE_LIT("{}") };
        CLEANUP(answer_free) struct answer *answer = NULL;
        check_or_stop(client_call(client, &post, &answer, &err) == OK, "call %d: %s", i, err.text);
        nanosleep(&nap, NULL);
    }
    peer_stop(&peer);
}

TEST(client_says_who_is_not_there_and_who_does_not_answer)
{
    struct peer peer = { .connections = 1, .never_answers = true };
    struct client_settings settings = { .timeout_ns = 50 * NS_PER_MS };
    CLEANUP(client_free) struct client *client = NULL;
    CLEANUP(answer_free) struct answer *answer = NULL;
    struct err err = { 0 };
    char url[64];

    peer_start(&peer, url, sizeof url);
    settings.url = url;
    check_or_stop(client_new(&client, &settings, &err) == OK, "%s", err.text);
    uint64_t begun = clock_mono_ns();
    check(get(client, "/", &answer, &err) == E_DEADLINE, "%s", err.text);
    check(strstr(err.text, "did not answer within 0.05 s") != NULL, "%s", err.text);
    check(clock_mono_ns() - begun < 5 * NS_PER_S, "it returns in time");
    peer_stop(&peer);
    check(get(client, "/", &answer, &err) == E_UNAVAILABLE, "%s", err.text);
    check(strncmp(err.text, "nobody listens on 127.0.0.1:", 28) == 0, "%s", err.text);
}

TEST(client_reads_the_answer_to_a_body_that_is_refused_early)
{
    const char *script[] = {
        "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\n"
        "big"
    };
    struct peer peer = { .connections = 1, .script = script };
    struct client_settings settings = { 0 };
    CLEANUP(client_free) struct client *client = NULL;
    CLEANUP(answer_free) struct answer *answer = NULL;
    struct err err = { 0 };
    size_t size = 32 << 20;
    uint8_t *body = calloc(1, size);
    char url[64];

    peer_start(&peer, url, sizeof url);
    settings.url = url;
    check_or_stop(client_new(&client, &settings, &err) == OK, "%s", err.text);
    struct client_request post = { .method = "POST", .target = "/", .body = { body, size } };
    enum err_code code = client_call(client, &post, &answer, &err);
    peer_stop(&peer);
    free(body);
    /* The peer closes with our bytes unread, and the kernel may then drop its answer: both are
     * right, a hang or a signal is not. */
    check(code == E_UNAVAILABLE || (code == OK && answer->status == 413), "%d %s", code, err.text);
}

TEST(client_refuses_headers_with_line_ends)
{
    struct client_settings settings = { .url = "127.0.0.1:1" };
    struct client_header header = { "x", "a\r\ny: z" };
    struct client_request request = { "GET", "/", &header, 1, { NULL, 0 } };
    CLEANUP(client_free) struct client *client = NULL;
    CLEANUP(answer_free) struct answer *answer = NULL;
    struct err err = { 0 };

    check_or_stop(client_new(&client, &settings, &err) == OK, "%s", err.text);
    check(client_call(client, &request, &answer, &err) == E_INVALID, "%s", err.text);
}
