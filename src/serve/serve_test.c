/* serve_test.c - conversations with a server over real sockets.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/serve.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "codec/compress.h"
#include "io/env.h"
#include "serve/internal.h"
#include "serve/server_test.h"
#include "test/harness.h"

#define HOST        "Host: 127.0.0.1\r\n"
#define GET(path)   "GET " path " HTTP/1.1\r\n" HOST "\r\n"

#define LIMIT(name) "penstock_limit_hits_total{limit=\"" name "\"}"

TEST(requests_and_what_is_understood_of_them)
{
    static const struct {
        const char *request;
        int status;
        const char *body; /* NULL: any */
    } cases[] = {
        { GET("/hello"), 200, "hello\n" },
        { "GET /mirror/a%20b?x=1&y=%20 HTTP/1.1\r\nHost: localhost:8000\r\nX-Test:  v \r\n\r\n",
          200, "GET /mirror/a%20b ?x=1&y=%20 @localhost:8000 [v] HTTP/1.1 peer=*param=a b" },
        { "GET http://127.0.0.1/mirror/q HTTP/1.1\r\n" HOST "\r\n", 200,
          "GET /mirror/q ? @127.0.0.1 [] HTTP/1.1 peer=*param=q" },
        { "DELETE /mirror/q HTTP/1.1\r\n" HOST "\r\n", 200, "DELETE /mirror/q *" },
        { "GET /mirror/q HTTP/1.0\r\n\r\n", 200, "GET /mirror/q ? @ [] HTTP/1.0 *" },
        { "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", 200, "hello" },
        { "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", 200, "" },
        { "POST /echo HTTP/1.1\r\n" HOST "\r\n", 200, "" },
        { "POST /echo HTTP/1.1\r\n" HOST
          "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n"
          "0\r\nT: u\r\n\r\n",
          200, "abcde" },
        { GET("/nothing"), 404, "there is nothing at /nothing; GET / lists what there is\n" },
        { GET("/v2/nothing"), 404,
          "{\"error\":\"there is nothing at /v2/nothing; GET / lists what there is\"}" },
        { GET("/models/iris/predict"), 404,
          "{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"there is nothing at "
          "/models/iris/predict; did you mean POST /models/iris:predict, or POST "
          "/v2/models/iris/infer?\"}}\n" },
        { GET("/v2/models/iris/predict"), 404,
          "{\"error\":\"there is nothing at /v2/models/iris/predict; did you mean POST "
          "/models/iris:predict, or*" },
        { GET("/v1/models/iris:predict"), 404,
          "there is nothing at /v1/models/iris:predict; did you mean POST /models/iris:predict, "
          "or*" },
        { GET("/models/:predict/"), 404,
          "{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"there is nothing at "
          "/models/:predict/; GET / lists*" },
        { GET("/v2/models/%zz/infer"), 400, "{\"error\":*" },
        { "POST /hello HTTP/1.1\r\n" HOST "\r\n", 405, "POST is not possible for /hello*" },
        { "TRACE /hello HTTP/1.1\r\n" HOST "\r\n", 405, NULL },
        { "BREW /hello HTTP/1.1\r\n" HOST "\r\n", 501, NULL },
        { "GET /hello HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, "the host 'evil.example'*" },
        { "GET /hello HTTP/1.1\r\n" HOST "Origin: http://evil.example\r\n\r\n", 403, NULL },
        { "GET /hello HTTP/1.1\r\n" HOST "Origin: http://127.0.0.1\r\n\r\n", 200, NULL },
        { GET("/odd/nobody"), 204, NULL },
        { GET("/odd/trailers"), 200, "body" },
        { GET("/odd/empty-chunked"), 200, "" },
        { GET("/produce/0"), 200, "" },
        { "POST /echo HTTP/1.1\r\n" HOST "Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello",
          501, NULL },
    };
    struct test_server t;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct answer a;
        ask(&t, cases[i].request, &a);
        check(a.status == cases[i].status && !a.is_cut, "case %zu: %d %s", i, a.status, a.body);
        check(strstr(a.head, "\r\ndate: ") != NULL, "case %zu: %s", i, a.head);
        const char *star = cases[i].body == NULL ? NULL : strchr(cases[i].body, '*');
        if (star != NULL)
            check(strncmp(a.body, cases[i].body, (size_t)(star - cases[i].body)) == 0 &&
                      strstr(a.body, star + 1) != NULL,
                  "case %zu: %s", i, a.body);
        else if (cases[i].body != NULL)
            check(strcmp(a.body, cases[i].body) == 0, "case %zu: %s", i, a.body);
        answer_free(&a);
    }
    server_stop(&t);
}

/* RFC 8446 6.2: who begins with TLS understands an alert, and no status. */
TEST(a_client_hello_on_a_plain_port_is_answered_by_an_alert)
{
    static const uint8_t alert[] = { 21, 3, 1, 0, 2, 2, 40 };
    struct test_server t;
    uint8_t got[16];

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    check(client_send(fd, "\x16\x03\x01\x02\x00\x01", 6), "sent");
    ssize_t size = recv(fd, got, sizeof got, MSG_WAITALL);
    check(size == (ssize_t)sizeof alert && memcmp(got, alert, sizeof alert) == 0,
          "an alert, and the end: %zd", size);
    close(fd);
    server_stop(&t);
}

/* Each is refused, the connection is closed after the one answer, and nothing behind it is read as
 * a request. http1_test has them all; here is one of each kind, through the socket. */
TEST(smuggling_is_answered_once_and_closed)
{
    static const struct {
        const char *head;
        int status;
    } cases[] = {
        { "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
          400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
          400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3, 3\r\n\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501 },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n", 501 },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "X: y\r\n Transfer-Encoding: chunked\r\n\r\n", 400 },
        { "POST /echo HTTP/1.1\n" HOST "\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "X: y\nContent-Length: 3\r\n\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "X: y\rContent-Length: 3\r\n\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST HOST "\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n\r\n", 400 },
        { "POST /echo HTTP/1.1\r\nHost: a b\r\n\r\n", 400 },
        { "POST http://localhost/echo HTTP/1.1\r\n" HOST "\r\n", 400 },
        { "GET /echo\r\n", 400 },
        { "GET /echo HTTP/3.0\r\n\r\n", 505 },
        { "\r\n\r\nGET /hello HTTP/1.1\r\n" HOST "\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-3\r\n", 400 },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
          400 },
    };
    struct test_server t;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        int fd = client_open(&t);
        struct answer a;
        client_say(fd, cases[i].head);
        client_say(fd, GET("/mirror/smuggled"));
        answer_read(fd, &a, false);
        check(a.status == cases[i].status, "case %zu: %d %s", i, a.status, a.body);
        check(answer_has(&a, "connection: close"), "case %zu: %s", i, a.head);
        check(a.body_size > 20, "case %zu says why: %s", i, a.body);
        answer_free(&a);
        answer_read(fd, &a, false);
        check(a.status == 0 && a.head[0] == '\0', "case %zu: a second answer: %s", i, a.head);
        answer_free(&a);
        close(fd);
    }
    check(server_metric(&t, "penstock_http_malformed_total") == COUNT(cases), "counted");
    server_stop(&t);
}

TEST(a_byte_at_a_time)
{
    static const char text[] = "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                               "4\r\nbyte\r\n1\r\ns\r\n0\r\n\r\n"
                               "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc";
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        check_or_stop(client_send(fd, text + i, 1), "byte %zu", i);
        if (i % 8 == 0)
            usleep(300); /* so that most arrive alone */
    }
    answer_read(fd, &a, false);
    check(a.status == 200 && strcmp(a.body, "bytes") == 0, "%d %s", a.status, a.body);
    answer_free(&a);
    answer_read(fd, &a, false);
    check(a.status == 200 && strcmp(a.body, "abc") == 0, "%d %s", a.status, a.body);
    answer_free(&a);
    close(fd);
    server_stop(&t);
}

/* A hundred requests in one go: answered in order, sixteen in a turn. */
TEST(pipelining)
{
    struct test_server t;
    struct answer a;
    char text[32768], wanted[32];
    size_t size = 0;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    for (unsigned i = 0; i < 100; i++)
        size += (size_t)(i % 3 == 0 ? snprintf(text + size, sizeof text - size,
                                               "GET /mirror/%u HTTP/1.1\r\n" HOST "\r\n", i)
                                    : snprintf(text + size, sizeof text - size,
                                               "POST /echo HTTP/1.1\r\n" HOST
                                               "Content-Length: 4\r\n\r\n%04u",
                                               i));
    int fd = client_open(&t);
    check_or_stop(client_send(fd, text, size), "send");
    for (unsigned i = 0; i < 100; i++) {
        answer_read(fd, &a, false);
        snprintf(wanted, sizeof wanted, i % 3 == 0 ? "param=%u" : "%04u", i);
        check(a.status == 200 && strstr(a.body, wanted) != NULL, "answer %u: %d %s", i, a.status,
              a.body);
        answer_free(&a);
    }
    check(server_metric(&t, LIMIT("pipeline-max")) >= 5, "the others got their turns");
    close(fd);
    server_stop(&t);
}

/* Behind a request that has to wait, the others wait; then all come in order. */
TEST(pipelining_behind_one_that_waits)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, GET("/wait") GET("/mirror/1"));
    check(wait_for(&seen_waiting, 1), "it waits");
    client_say(fd, GET("/mirror/2"));
    check(client_is_quiet(fd, 50), "nothing overtakes");
    atomic_store(&seen_release, true);
    answer_read(fd, &a, false);
    check(strcmp(a.body, "waited\n") == 0, "%s", a.body);
    answer_free(&a);
    for (unsigned i = 1; i <= 2; i++) {
        answer_read(fd, &a, false);
        check(a.status == 200 && strstr(a.body, i == 1 ? "param=1" : "param=2") != NULL, "%s",
              a.body);
        answer_free(&a);
    }
    close(fd);
    server_stop(&t);
}

static uint64_t checksum(const uint8_t *bytes, size_t size)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    return size * 1000003 + sum;
}

/* Bodies of many sizes, whole and in chunks, read whole and in pieces, and sent back. */
TEST(bodies_of_many_sizes)
{
    static const size_t sizes[] = { 1,     999,   1000,  1001,  4096,   4097,
                                    16000, 16384, 17000, 65536, 602112, 3000000 };
    struct test_server t;
    uint8_t *body = malloc(3000000);
    char head[256], line[32];

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    for (size_t i = 0; i < 3000000; i++)
        body[i] = (uint8_t)(i * 7 + i / 251);
    int fd = client_open(&t);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (unsigned way = 0; way < 4; way++) {
            struct answer a;
            bool is_chunked = way & 1, is_pieces = way & 2;
            int size =
                is_chunked
                    ? snprintf(head, sizeof head,
                               "POST /%s HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n",
                               is_pieces ? "pieces" : "echo")
                    : snprintf(head, sizeof head,
                               "POST /%s HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n",
                               is_pieces ? "pieces" : "echo", sizes[i]);
            bool sent = client_send(fd, head, (size_t)size);
            for (size_t at = 0, piece; is_chunked && at < sizes[i]; at += piece) {
                piece = 1 + (size_t)test_random_below(50000);
                piece = MIN(sizes[i] - at, piece);
                sent &=
                    client_send(fd, line, (size_t)snprintf(line, sizeof line, "%zx\r\n", piece)) &&
                    client_send(fd, body + at, piece) && client_say(fd, "\r\n");
            }
            sent &= is_chunked ? client_say(fd, "0\r\n\r\n") : client_send(fd, body, sizes[i]);
            check(sent, "send");
            answer_read(fd, &a, false);
            if (is_pieces)
                check(a.status == 200 && strtoull(a.body, NULL, 10) == checksum(body, sizes[i]),
                      "%zu way %u: %d %s", sizes[i], way, a.status, a.body);
            else
                check(a.status == 200 && a.body_size == sizes[i] &&
                          memcmp(a.body, body, sizes[i]) == 0,
                      "%zu way %u: %d, %zu bytes", sizes[i], way, a.status, a.body_size);
            answer_free(&a);
        }
    }
    close(fd);
    free(body);
    server_stop(&t);
}

TEST(compressed_bodies_and_their_limit)
{
    struct test_server t;
    struct answer a;
    struct buf *packed = NULL;
    struct err err;
    char head[256];
    static uint8_t zeros[1 << 20];
    struct slice piece = slice_make(zeros, sizeof zeros);

    server_prepare(&t);
    t.settings.body_bytes_max = sizeof zeros;
    if (!server_start(&t, NULL))
        return;
    for (unsigned over = 0; over < 2; over++) {
        struct slice pieces[] = { piece, slice_of("x") };
        check_or_stop(compress_deflate(&packed, NULL, ENCODING_GZIP, pieces, 1 + over, &err) == OK,
                      "pack");
        int fd = client_open(&t);
        struct slice bytes = buf_bytes(packed);
        snprintf(head, sizeof head,
                 "POST /echo HTTP/1.1\r\n" HOST
                 "Content-Encoding: gzip\r\nContent-Length: %zu\r\n\r\n",
                 bytes.size);
        client_say(fd, head);
        client_send(fd, bytes.data, bytes.size);
        answer_read(fd, &a, false);
        if (over)
            check(a.status == 413 && strstr(a.body, "--max-body") != NULL, "%d %s", a.status,
                  a.body);
        else
            check(a.status == 200 && a.body_size == sizeof zeros, "%d, %zu", a.status, a.body_size);
        answer_free(&a);
        buf_unref(&packed);
        close(fd);
    }
    server_stop(&t);
}

TEST(a_body_that_is_too_large)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    t.settings.body_bytes_max = 1000;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, "POST /v2/models/a/infer HTTP/1.1\r\n" HOST "Content-Length: 1001\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 413 && answer_has(&a, "connection: close"), "%s", a.head);
    check(strstr(a.body, "{\"error\":") == a.body && strstr(a.body, "--max-body") != NULL, "%s",
          a.body);
    answer_free(&a);
    check(client_at_end(fd), "closed");
    close(fd);

    fd = client_open(&t); /* the answer must get through although the client still sends */
    client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    char chunk[520];
    int size = snprintf(chunk, sizeof chunk, "1f4\r\n%0500d\r\n", 0);
    for (unsigned i = 0; i < 100; i++)
        client_send(fd, chunk, (size_t)size);
    answer_read(fd, &a, false);
    check(a.status == 413 && strstr(a.body, "1000 bytes") != NULL, "%d %s", a.status, a.body);
    answer_free(&a);
    close(fd);

    fd = client_open(&t); /* exactly the limit */
    client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    client_send(fd, chunk, (size_t)size);
    client_send(fd, chunk, (size_t)size);
    client_say(fd, "0\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 200 && a.body_size == 1000, "%d %zu", a.status, a.body_size);
    answer_free(&a);
    close(fd);
    check(server_metric(&t, LIMIT("max-body")) >= 1, "counted");
    server_stop(&t);
}

TEST(heads_that_are_too_large)
{
    struct test_server t;
    struct answer a;
    char *text = malloc(70000);

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    snprintf(text, 70000, "GET /mirror/x HTTP/1.1\r\n" HOST "X-Test: %030000d\r\n\r\n", 0);
    ask(&t, text, &a);
    check(a.status == 200 && a.body_size > 30000, "one of 30 KB: %d", a.status);
    answer_free(&a);
    snprintf(text, 70000, "GET /mirror/x HTTP/1.1\r\n" HOST "X-Test: %033000d\r\n\r\n", 0);
    ask(&t, text, &a);
    check(a.status == 431, "one of 33 KB: %d", a.status);
    answer_free(&a);
    snprintf(text, 70000, "GET /v2/%09000d HTTP/1.1\r\n" HOST "\r\n", 0);
    ask(&t, text, &a);
    check(a.status == 414, "a target of 9 KB: %d", a.status);
    answer_free(&a);
    size_t size = (size_t)snprintf(text, 70000, "GET /v2/x HTTP/1.1\r\n" HOST);
    for (unsigned i = 0; i < 100; i++)
        size += (size_t)snprintf(text + size, 70000 - size, "A%u: b\r\n", i);
    snprintf(text + size, 70000 - size, "\r\n");
    ask(&t, text, &a);
    check(a.status == 431 && strstr(a.body, "{\"error\":\"") == a.body, "101 fields: %d %s",
          a.status, a.body);
    answer_free(&a);
    check(server_metric(&t, LIMIT("header-bytes-max")) == 2 &&
              server_metric(&t, LIMIT("headers-max")) == 1,
          "counted");
    free(text);
    server_stop(&t);
}

TEST(expect_100_continue)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    t.settings.body_bytes_max = 1000;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd,
               "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 100, "%d", a.status);
    answer_free(&a);
    check(client_is_quiet(fd, 20), "only once");
    client_say(fd, "ok" GET("/hello"));
    answer_read(fd, &a, false);
    check(a.status == 200 && strcmp(a.body, "ok") == 0, "%d %s", a.status, a.body);
    answer_free(&a);
    answer_read(fd, &a, false);
    check(a.status == 200 && strcmp(a.body, "hello\n") == 0, "%d %s", a.status, a.body);
    answer_free(&a);
    close(fd);

    fd = client_open(&t); /* refused: nobody asks for the body, and the connection ends */
    client_say(fd, "POST /echo HTTP/1.1\r\n" HOST
                   "Expect: 100-continue\r\nContent-Length: 2000\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 413 && answer_has(&a, "connection: close"), "%d", a.status);
    answer_free(&a);
    close(fd);

    fd = client_open(&t); /* a handler that answers without reading */
    client_say(fd, "POST /odd/unread HTTP/1.1\r\n" HOST
                   "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "%s", a.head);
    answer_free(&a);
    check(client_at_end(fd), "closed");
    close(fd);

    fd = client_open(&t); /* the body came along: nothing to ask for */
    client_say(fd, "POST /echo HTTP/1.1\r\n" HOST
                   "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok");
    answer_read(fd, &a, false);
    check(a.status == 200, "%d", a.status);
    answer_free(&a);
    close(fd);
    ask(&t, "POST /echo HTTP/1.1\r\n" HOST "Expect: more\r\nContent-Length: 2\r\n\r\nok", &a);
    check(a.status == 417, "%d", a.status);
    answer_free(&a);
    server_stop(&t);
}

TEST(a_body_nobody_reads)
{
    struct test_server t;
    struct answer a;
    static char body[300 * 1024];

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    memset(body, 'x', sizeof body);
    int fd = client_open(&t); /* a small one is skipped, and the connection goes on */
    client_say(fd, "POST /odd/unread HTTP/1.1\r\n" HOST "Content-Length: 100000\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 200 && !answer_has(&a, "connection: close"), "%s", a.head);
    answer_free(&a);
    client_send(fd, body, 100000);
    client_say(fd, GET("/hello"));
    answer_read(fd, &a, false);
    check(a.status == 200 && strcmp(a.body, "hello\n") == 0, "%d %s", a.status, a.body);
    answer_free(&a);
    close(fd);

    fd = client_open(&t); /* a large one ends it, and yet the answer arrives */
    client_say(fd, "POST /odd/unread HTTP/1.1\r\n" HOST "Content-Length: 307200\r\n\r\n");
    client_send(fd, body, sizeof body);
    answer_read(fd, &a, false);
    check(a.status == 200 && strcmp(a.body, "not read\n") == 0 &&
              answer_has(&a, "connection: close"),
          "%d %s", a.status, a.head);
    answer_free(&a);
    check(client_at_end(fd), "closed");
    close(fd);

    fd = client_open(&t); /* so does one of unknown length */
    client_say(fd, "POST /nothing HTTP/1.1\r\n" HOST
                   "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n");
    answer_read(fd, &a, false);
    check(a.status == 404 && answer_has(&a, "connection: close"), "%d %s", a.status, a.head);
    answer_free(&a);
    close(fd);
    server_stop(&t);
}

TEST(head_and_bodiless_answers)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, "HEAD /hello HTTP/1.1\r\n" HOST "\r\nHEAD /big/70000 HTTP/1.1\r\n" HOST "\r\n"
                   "HEAD /produce/3 HTTP/1.1\r\n" HOST "\r\n" GET("/odd/nobody") GET("/hello"));
    answer_read(fd, &a, true);
    check(a.status == 200 && answer_has(&a, "content-length: 6"), "%s", a.head);
    answer_free(&a);
    answer_read(fd, &a, true);
    check(a.status == 200 && answer_has(&a, "content-length: 70000"), "%s", a.head);
    answer_free(&a);
    answer_read(fd, &a, true);
    check(a.status == 200, "%s", a.head);
    answer_free(&a);
    answer_read(fd, &a, false);
    check(a.status == 204 && strstr(a.head, "content-length") == NULL, "%s", a.head);
    answer_free(&a);
    answer_read(fd, &a, false);
    check(a.status == 200 && strcmp(a.body, "hello\n") == 0, "%s", a.body);
    answer_free(&a);
    close(fd);
    ask(&t, "HEAD /nothing HTTP/1.1\r\n" HOST "\r\n", &a);
    check(a.status == 404, "%d", a.status);
    answer_free(&a);
    server_stop(&t);
}

TEST(options_and_cors)
{
    static const char *const origins[] = { "https://app.example" };
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    t.settings.origins_allowed = origins;
    t.settings.origins_allowed_count = 1;
    if (!server_start(&t, NULL))
        return;
    ask(&t, "OPTIONS /echo HTTP/1.1\r\n" HOST "\r\n", &a);
    check(a.status == 204 && answer_has(&a, "allow: POST, OPTIONS") &&
              strstr(a.head, "access-control") == NULL && answer_has(&a, "vary: origin"),
          "%s", a.head);
    answer_free(&a);
    ask(&t, "OPTIONS * HTTP/1.1\r\n" HOST "\r\n", &a);
    check(a.status == 204 && strstr(a.head, "\r\nallow: GET, ") != NULL, "%s", a.head);
    answer_free(&a);
    ask(&t, "OPTIONS /nothing HTTP/1.1\r\n" HOST "\r\n", &a);
    check(a.status == 404, "%s", a.head);
    answer_free(&a);
    ask(&t,
        "OPTIONS /echo HTTP/1.1\r\n" HOST "Origin: https://app.example\r\n"
        "Access-Control-Request-Method: POST\r\n"
        "Access-Control-Request-Headers: content-type,x-a\r\n\r\n",
        &a);
    check(a.status == 204 && answer_has(&a, "access-control-allow-origin: https://app.example") &&
              answer_has(&a, "access-control-allow-methods: POST, OPTIONS") &&
              answer_has(&a, "access-control-allow-headers: content-type,x-a") &&
              answer_has(&a, "vary: origin"),
          "%s", a.head);
    answer_free(&a);
    ask(&t,
        "OPTIONS /echo HTTP/1.1\r\n" HOST "Origin: https://evil.example\r\n"
        "Access-Control-Request-Method: POST\r\n\r\n",
        &a);
    check(a.status == 403 && strstr(a.head, "access-control") == NULL, "%s", a.head);
    answer_free(&a);
    ask(&t, "GET /hello HTTP/1.1\r\n" HOST "Origin: https://app.example\r\n\r\n", &a);
    check(a.status == 200 && answer_has(&a, "access-control-allow-origin: https://app.example"),
          "%s", a.head);
    answer_free(&a);
    ask(&t, "PUT /hello HTTP/1.1\r\n" HOST "Origin: https://app.example\r\n\r\n", &a);
    check(a.status == 405 && answer_has(&a, "allow: GET, HEAD, OPTIONS") &&
              answer_has(&a, "access-control-allow-origin: https://app.example"),
          "errors are readable for the page too: %s", a.head);
    answer_free(&a);
    check(server_metric(&t, "penstock_http_forbidden_total") == 1, "counted");
    server_stop(&t);
}

TEST(http_1_0)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: keep-alive"), "%s", a.head);
    answer_free(&a);
    client_say(fd, "GET /hello HTTP/1.0\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "%s", a.head);
    answer_free(&a);
    check(client_at_end(fd), "closed");
    close(fd);
    fd = client_open(&t); /* no chunks: the end of the connection is the end of the body */
    client_say(fd, "GET /produce/20 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 200 && !a.is_chunked && a.body_size == 10 * 5003 && !a.is_cut, "%zu %s",
          a.body_size, a.head);
    answer_free(&a);
    close(fd);
    server_stop(&t);
}

TEST(connections_end_when_asked_to)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    t.settings.requests_per_connection_max = 3;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    for (unsigned i = 1; i <= 3; i++) {
        client_say(fd, GET("/hello"));
        answer_read(fd, &a, false);
        check(a.status == 200 && answer_has(&a, "connection: close") == (i == 3), "%u: %s", i,
              a.head);
        answer_free(&a);
    }
    check(client_at_end(fd), "closed after the third");
    close(fd);
    fd = client_open(&t);
    client_say(fd, "GET /hello HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n" GET("/mirror/x"));
    answer_read(fd, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "%s", a.head);
    answer_free(&a);
    answer_read(fd, &a, false);
    check(a.status == 0, "nothing behind close is answered");
    answer_free(&a);
    close(fd);
    check(server_metric(&t, LIMIT("requests-per-connection-max")) == 1, "counted");
    server_stop(&t);
}

TEST(answers_that_break_off)
{
    static const char *const kinds[] = { GET("/odd/abort"), GET("/odd/abort-chunked"),
                                         GET("/odd/short") };
    struct test_server t;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct answer a;
        int fd = client_open(&t);
        client_say(fd, kinds[i]);
        answer_read(fd, &a, false);
        check(a.status == 0 || a.is_cut, "kind %zu looks complete: %s", i, a.head);
        answer_free(&a);
        check(client_at_end(fd), "closed");
        close(fd);
    }
    server_stop(&t);
}

/* -- leaving ----------------------------------------------------------------------------------- */

TEST(a_client_that_leaves_cancels)
{
    struct test_server t;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    for (unsigned way = 0; way < 5; way++) {
        struct linger at_once = { .l_onoff = 1 };
        int fd = client_open(&t);
        client_say(fd, way == 4 ? "POST /wait HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n"
                                : GET("/wait"));
        check(wait_for(&seen_waiting, way + 1), "way %u: it waits", way);
        if (way == 1)
            client_finish(fd); /* half-close is departure */
        if (way == 2)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once); /* RST */
        if (way == 3)
            client_say(fd, GET("/mirror/unread")); /* with bytes nobody will read */
        if (way == 1) {
            check(wait_for(&seen_gone, way + 1), "half-close");
            check(client_at_end(fd), "and closed");
        }
        close(fd);
        check(wait_for(&seen_gone, way + 1), "way %u: on_gone", way);
    }
    check(wait_metric(&t, "penstock_connections_open", 0), "no connection is left");
    check(server_metric(&t, "penstock_http_departed_total") == 5, "counted");
    server_stop(&t);
}

TEST(a_client_that_leaves_while_its_body_is_read)
{
    struct test_server t;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, "POST /pieces HTTP/1.1\r\n" HOST "Content-Length: 5000\r\n\r\nabc");
    usleep(20000);
    close(fd);
    check(wait_for(&seen_gone, 1), "on_gone");
    fd = client_open(&t); /* collected: nothing to cancel, and no memory is kept */
    client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 500000\r\n\r\nabc");
    usleep(20000);
    client_finish(fd);
    check(client_at_end(fd), "closed");
    close(fd);
    check(wait_metric(&t, "penstock_connections_open", 0), "no connection is left");
    server_stop(&t);
}

/* printf ... | nc -N: what can be answered at once is, also behind the end of the sending side. */
TEST(half_close_behind_pipelined_requests)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    for (unsigned round = 0; round < 50; round++) {
        int fd = client_open(&t);
        client_say(fd, GET("/mirror/1") "POST /echo HTTP/1.1\r\n" HOST
                                        "Content-Length: 3\r\n\r\nabc" GET("/big/3000000"));
        if (round % 2 == 0)
            usleep(2000);
        client_finish(fd);
        answer_read(fd, &a, false);
        check(a.status == 200 && strstr(a.body, "param=1") != NULL, "%d", a.status);
        answer_free(&a);
        answer_read(fd, &a, false);
        check(a.status == 200 && strcmp(a.body, "abc") == 0, "%d", a.status);
        answer_free(&a);
        answer_read(fd, &a, false);
        check(a.status == 200 && a.body_size == 3000000, "%d, %zu bytes", a.status, a.body_size);
        answer_free(&a);
        check(client_at_end(fd), "then closed");
        close(fd);
    }
    server_stop(&t);
}

/* -- time -------------------------------------------------------------------------------------- */

TEST(timeouts)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    t.settings.header_timeout_ms = 150;
    t.settings.body_timeout_ms = 150;
    t.settings.idle_timeout_ms = 150;
    if (!server_start(&t, NULL))
        return;
    uint64_t begun = clock_mono_ns();
    int silent = client_open(&t), half = client_open(&t), idle = client_open(&t);
    int body = client_open(&t), chunked = client_open(&t), partly = client_open(&t);
    client_say(half, "GET /v2/x HTTP/1.1\r\nHo");
    client_say(idle, GET("/hello"));
    client_say(body, "POST /v2/models/a/infer HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nabc");
    client_say(chunked, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n5\r\nab");
    client_say(partly, "POST /odd/unread HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nabc");
    answer_read(half, &a, false);
    check(a.status == 408 && strstr(a.body, "{\"error\":\"") == a.body, "%d %s", a.status, a.body);
    check(clock_mono_ns() - begun >= 150 * NS_PER_MS, "not before its time");
    answer_free(&a);
    answer_read(idle, &a, false);
    check(a.status == 200, "%d", a.status);
    answer_free(&a);
    check(client_at_end(idle), "idle");
    check(client_at_end(silent), "silent");
    answer_read(body, &a, false);
    check(a.status == 408 && strstr(a.body, "{\"error\":\"") == a.body, "%d %s", a.status, a.body);
    answer_free(&a);
    answer_read(chunked, &a, false);
    check(a.status == 408 && answer_has(&a, "connection: close"), "%d", a.status);
    answer_free(&a);
    answer_read(partly, &a, false);
    check(a.status == 200, "%d", a.status);
    answer_free(&a);
    check(client_at_end(partly), "the rest of its body never came");
    check(clock_mono_ns() - begun < 5 * NS_PER_S, "in time");
    check(server_metric(&t, LIMIT("header-timeout")) == 1 &&
              server_metric(&t, LIMIT("idle-timeout")) == 2 &&
              server_metric(&t, LIMIT("body-timeout")) == 3,
          "counted");
    close(silent), close(half), close(idle), close(body), close(chunked), close(partly);
    server_stop(&t);
}

/* A handler may take as long as it likes: no timeout is about that. */
TEST(a_handler_that_takes_its_time)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    t.settings.header_timeout_ms = t.settings.body_timeout_ms = t.settings.idle_timeout_ms = 60;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, "POST /wait HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx");
    check(wait_for(&seen_waiting, 1), "it waits");
    usleep(200000);
    atomic_store(&seen_release, true);
    answer_read(fd, &a, false);
    check(a.status == 200, "%d", a.status);
    answer_free(&a);
    close(fd);
    server_stop(&t);
}

TEST(a_body_that_drips)
{
    struct test_server t;
    struct answer a = { 0 };

    server_prepare(&t);
    t.settings.body_timeout_ms = 200;
    t.settings.body_rate_min = 100000;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1000000\r\n\r\n");
    unsigned i;
    for (i = 0; i < 100 && client_is_quiet(fd, 20); i++) /* never still, always slow */
        client_say(fd, "x");
    answer_read(fd, &a, false);
    check(a.status == 408 && strstr(a.body, "--body-rate-min") != NULL, "%d %s", a.status, a.body);
    check(i > 5 && i < 80, "after %u bytes", i);
    answer_free(&a);
    close(fd);
    check(server_metric(&t, LIMIT("body-rate-min")) == 1, "counted");
    server_stop(&t);
}

TEST(a_reader_that_stops_slows_its_producer_and_is_cut)
{
    struct test_server t;

    server_prepare(&t);
    t.settings.write_timeout_ms = 200;
    t.settings.body_rate_min = 1000;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, GET("/produce/1000000"));
    check(wait_for(&seen_gone, 1), "cut");
    check(atomic_load(&seen_produced) < 100000, "%u pieces were made for nobody",
          atomic_load(&seen_produced));
    check(server_metric(&t, LIMIT("write-timeout")) == 1, "counted");
    close(fd);

    fd = client_open(&t); /* one that ended, and yet was not taken */
    client_say(fd, GET("/big/100000000"));
    check(wait_for(&seen_gone, 2), "cut");
    for (int i = 0; i < 1000 && budget_used(&t.budget) != 0; i++)
        usleep(2000); /* the handler hears of it before the last reference goes */
    check(budget_used(&t.budget) == 0, "its memory is back");
    close(fd);
    server_stop(&t);
}

/* Slow, but faster than the least rate: is served to the end. */
TEST(a_reader_that_is_slow_but_reads)
{
    struct test_server t;
    static char piece[65536];
    size_t got = 0;

    server_prepare(&t);
    t.settings.write_timeout_ms = 150;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t), small = 65536;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    client_say(fd, GET("/big/20000000"));
    uint64_t begun = clock_mono_ns();
    for (ssize_t n; clock_mono_ns() - begun < 800 * NS_PER_MS; got += (size_t)n) {
        n = recv(fd, piece, sizeof piece, 0);
        check_or_stop(n > 0, "cut after %zu bytes", got);
        usleep(10000);
    }
    for (ssize_t n; got < 20000000 && (n = recv(fd, piece, sizeof piece, 0)) > 0;)
        got += (size_t)n;
    check(got > 20000000, "%zu bytes", got);
    close(fd);
    server_stop(&t);
}

TEST(output_that_piles_up_is_cut)
{
    struct test_server t;

    server_prepare(&t);
    t.settings.output_bytes_max = 1 << 20;
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, GET("/flood/100000"));
    check(wait_for(&seen_gone, 1), "cut");
    check(server_metric(&t, LIMIT("output-bytes-max")) == 1, "counted");
    close(fd);
    server_stop(&t);
}

TEST(a_stream_with_room)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    for (unsigned i = 0; i < 3; i++) {
        client_say(fd, GET("/produce/2000"));
        answer_read(fd, &a, false);
        check(a.status == 200 && a.is_chunked && !a.is_cut && a.body_size == 1000 * 5003, "%zu",
              a.body_size);
        answer_free(&a);
    }
    client_say(fd, GET("/odd/trailers"));
    answer_read(fd, &a, false);
    check(strcmp(a.body, "body") == 0 && answer_has(&a, "x-sum: 7"), "%s", a.head);
    answer_free(&a);
    close(fd);
    server_stop(&t);
}

/* -- limits of the whole server ---------------------------------------------------------------- */

TEST(too_many_connections)
{
    struct test_server t;
    struct answer a;
    int fds[100];

    server_prepare(&t);
    t.settings.connections_max = 4;
    if (!server_start(&t, NULL))
        return;
    for (unsigned i = 0; i < 4; i++) {
        fds[i] = client_open(&t);
        client_say(fds[i], GET("/hello"));
        answer_read(fds[i], &a, false);
        check(a.status == 200, "%d", a.status);
        answer_free(&a);
    }
    ask(&t, GET("/hello"), &a);
    check(a.status == 503 && strstr(a.body, "--connections-max") != NULL &&
              strstr(a.head, "retry-after") != NULL,
          "%d %s%s", a.status, a.head, a.body);
    answer_free(&a);
    for (unsigned i = 4; i < 100; i++) /* a crowd at the door harms nobody */
        fds[i] = client_open(&t);
    client_say(fds[0], GET("/hello"));
    answer_read(fds[0], &a, false);
    check(a.status == 200, "those inside are served: %d", a.status);
    answer_free(&a);
    for (unsigned i = 0; i < 100; i++)
        close(fds[i]);
    check(wait_metric(&t, "penstock_connections_open", 0), "all gone");
    check(server_metric(&t, "penstock_connections_rejected_total") == 97, "counted");
    ask(&t, GET("/hello"), &a);
    check(a.status == 200, "there is room again: %d", a.status);
    answer_free(&a);
    server_stop(&t);
}

TEST(listening_on_unix_and_on_a_taken_port)
{
    char folder[] = "/tmp/penstock-serve-XXXXXX", address[64];
    struct sockaddr_un local = { .sun_family = AF_UNIX };
    struct test_server t;
    struct answer a;
    struct err err = { 0 };

    check_or_stop(mkdtemp(folder) != NULL, "folder");
    snprintf(address, sizeof address, "unix:%s/s", folder);
    snprintf(local.sun_path, sizeof local.sun_path, "%s/s", folder);
    server_prepare(&t);
    if (!server_start(&t, address))
        return;
    check(strcmp(serve_listener_url(t.serve, 0), address) == 0, "%s",
          serve_listener_url(t.serve, 0));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    check(connect(fd, (void *)&local, sizeof local) == 0, "connect");
    client_say(fd, "GET /mirror/x HTTP/1.1\r\nHost: any.example\r\n\r\n");
    answer_read(fd, &a, false);
    check(a.status == 200 && strstr(a.body, "peer=unix:") != NULL, "%d %s", a.status, a.body);
    answer_free(&a);
    client_say(fd, "GET /big/3000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    usleep(20000); /* until the socket is full */
    answer_read(fd, &a, false);
    check(a.status == 200 && a.body_size == 3000000, "%d, %zu bytes", a.status, a.body_size);
    answer_free(&a);
    client_say(fd, "POST /odd/unread HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\nabc");
    answer_read(fd, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "%s", a.head);
    answer_free(&a);
    check(client_at_end(fd), "closed");
    close(fd);
    server_stop(&t);
    check(access(local.sun_path, F_OK) != 0, "the file is removed");
    rmdir(folder);

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    struct serve *second = NULL;
    check_or_stop(serve_new(&second, env_real(), &t.settings, &err) == OK, "%s", err.text);
    snprintf(address, sizeof address, "127.0.0.1:%u", t.port);
    check(serve_listen(second, address, &err) == E_EXISTS && strstr(err.text, address) != NULL,
          "%s", err.text);
    check(serve_start(second, &err) == E_INVALID, "nothing to listen on: %s", err.text);
    serve_free(&second);
    server_stop(&t);
}

/* -- the end ----------------------------------------------------------------------------------- */

static void *drain(void *arg)
{
    struct test_server *t = arg;

    serve_drain(t->serve, 5000);
    return NULL;
}

TEST(draining_finishes_what_is_under_way)
{
    struct test_server t;
    struct answer a;
    pthread_t thread;

    server_prepare(&t);
    t.settings.loops_count = 2;
    if (!server_start(&t, NULL))
        return;
    int idle = client_open(&t), busy = client_open(&t), half = client_open(&t);
    client_say(idle, GET("/hello"));
    answer_read(idle, &a, false);
    answer_free(&a);
    client_say(busy, GET("/wait"));
    client_say(half, "GET /hello HTTP/1.1\r\n");
    check(wait_for(&seen_waiting, 1), "one waits");
    usleep(20000);
    check_or_stop(pthread_create(&thread, NULL, drain, &t) == 0, "thread");
    check(client_at_end(idle), "the idle one is closed");
    check(atomic_load(&t.is_draining), "and everybody can know");
    client_say(half, HOST "\r\n");
    answer_read(half, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "a request that had begun: %d",
          a.status);
    answer_free(&a);
    atomic_store(&seen_release, true);
    answer_read(busy, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "the busy one: %d", a.status);
    answer_free(&a);
    check(client_at_end(busy), "then closed");
    close(idle), close(busy), close(half);
    pthread_join(thread, NULL);
    check(server_metric(&t, "penstock_connections_open") == 0, "none is left");
    server_stop(&t);
}

/* Keeps a loop from its sockets until it is released. */
static atomic_bool is_held, holds;

static void hold_loop(struct loop_msg *msg)
{
    (void)msg;
    atomic_store(&holds, true);
    while (atomic_load(&is_held))
        usleep(1000);
}

/* An idle connection is not closed in the instant in which its next request may be on its way. */
TEST(draining_answers_what_crosses_it)
{
    struct test_server t;
    struct answer a;
    pthread_t thread;

    server_prepare(&t);
    t.settings.drain_idle_ms = 300;
    if (!server_start(&t, NULL))
        return;
    int kept = client_open(&t), streamed = client_open(&t), silent = client_open(&t);
    client_say(kept, GET("/hello"));
    answer_read(kept, &a, false);
    check(!answer_has(&a, "connection: close"), "it stays");
    answer_free(&a);
    client_say(streamed, GET("/wait"));
    check(wait_for(&seen_waiting, 1), "one waits");
    uint64_t begun = clock_mono_ns();
    check_or_stop(pthread_create(&thread, NULL, drain, &t) == 0, "thread");
    check(client_is_quiet(kept, 100) && client_is_quiet(silent, 10), "nobody is closed at once");
    client_say(kept, GET("/hello") GET("/hello"));
    answer_read(kept, &a, false);
    check(a.status == 200 && !answer_has(&a, "connection: close"), "one more lies there");
    answer_free(&a);
    answer_read(kept, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "it crossed: %d", a.status);
    answer_free(&a);
    check(client_at_end(kept), "then closed");
    check(client_at_end(silent), "who says nothing is closed");
    uint64_t took = clock_mono_ns() - begun;
    check(took > 250 * NS_PER_MS && took < 3 * NS_PER_S, "after %u ms",
          (unsigned)(took / NS_PER_MS));
    atomic_store(&seen_release, true);
    answer_read(streamed, &a, false);
    answer_free(&a);
    check(client_at_end(streamed), "and the last one");
    close(kept), close(streamed), close(silent);
    pthread_join(thread, NULL);
    server_stop(&t);
}

TEST(a_beat_says_which_loop_does_not_turn)
{
    static struct loop_msg msg = { .run = hold_loop };
    struct test_server t;
    uint64_t owed = 0;

    server_prepare(&t);
    t.settings.loops_count = 2;
    if (!server_start(&t, NULL))
        return;
    check(serve_beat(t.serve) == 0, "none was asked before");
    usleep(50000);
    check(serve_beat(t.serve) == 0, "both have answered");
    usleep(50000);
    atomic_store(&is_held, true);
    atomic_store(&holds, false);
    loop_post(t.serve->loops[1].loop, &msg);
    while (!atomic_load(&holds))
        usleep(1000);
    serve_beat(t.serve);
    usleep(100000);
    owed = serve_beat(t.serve);
    check(owed >= 100 * NS_PER_MS && owed < 10 * NS_PER_S, "%llu ns", (unsigned long long)owed);
    usleep(50000);
    check(serve_beat(t.serve) > owed, "and longer and longer");
    atomic_store(&is_held, false);
    for (int i = 0; i < 100 && (owed = serve_beat(t.serve)) != 0; i++)
        usleep(10000);
    check(owed == 0, "until it turns");
    server_stop(&t);
}

TEST(a_socket_of_somebody_else_is_adopted)
{
    struct test_server t;
    struct address address;
    struct err err = { 0 };
    char path[] = "/tmp/penstock-adopt-XXXXXX", text[64];
    int fd = -1;

    server_prepare(&t);
    check_or_stop(serve_new(&t.serve, env_real(), &t.settings, &err) == OK, "%s", err.text);
    check_or_stop(mkdtemp(path) != NULL, "folder");
    snprintf(text, sizeof text, "unix:%s/s", path);
    check_or_stop(address_parse(&address, text, &err) == OK &&
                      socket_listen(&fd, &address, 16, &err) == OK,
                  "%s", err.text);
    int kept = dup(fd);
    check(serve_adopt(t.serve, &fd, &address, text, false, &err) == OK && fd < 0, "%s", err.text);
    check(strcmp(serve_listener_url(t.serve, 0), text) == 0, "%s", serve_listener_url(t.serve, 0));
    check(serve_start(t.serve, &err) == OK, "%s", err.text);
    serve_keep_files(t.serve, true);
    serve_drain(t.serve, 1000);
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(connect(client, &address.any, address.size) == 0, "who has it too goes on with it");
    close(client), close(kept);
    check(unlink(text + 5) == 0, "the file was left");
    rmdir(path);
    server_stop(&t);
}

TEST(draining_cuts_what_takes_too_long)
{
    struct test_server t;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, GET("/wait"));
    check(wait_for(&seen_waiting, 1), "it waits");
    uint64_t begun = clock_mono_ns();
    serve_drain(t.serve, 100);
    check(clock_mono_ns() - begun < 3 * NS_PER_S, "in time");
    struct serve_left left;
    serve_cut(t.serve, &left);
    check(left.connections == 0, "nothing is left");
    check(atomic_load(&seen_gone) == 1, "told");
    check(client_at_end(fd), "closed");
    close(fd);
    server_stop(&t);
}

TEST(stopping_with_requests_under_way)
{
    struct test_server t;

    server_prepare(&t);
    t.settings.loops_count = 2;
    if (!server_start(&t, NULL))
        return;
    int fds[8];
    for (unsigned i = 0; i < 8; i++) {
        fds[i] = client_open(&t);
        client_say(fds[i], i % 2 == 0 ? GET("/wait")
                                      : "POST /echo HTTP/1.1\r\n" HOST
                                        "Content-Length: 500000\r\n\r\nabc");
    }
    check(wait_for(&seen_waiting, 4), "four wait");
    server_stop(&t);
    check(atomic_load(&seen_gone) == 4, "all are told");
    for (unsigned i = 0; i < 8; i++)
        close(fds[i]);
}

/* -- many at once ------------------------------------------------------------------------------ */

enum { CLIENTS = 6, CONVERSATIONS = 40 };

struct crowd_client {
    struct test_server *t;
    unsigned number;
    unsigned served, failed;
};

/* Keeps some connections, leaves others in the middle; every answer must be its own. */
static void *converse(void *arg)
{
    struct crowd_client *c = arg;
    char text[256], wanted[32];

    for (unsigned i = 0; i < CONVERSATIONS; i++) {
        int fd = client_open(c->t);
        for (unsigned j = 0; j < 5; j++) {
            struct answer a;
            snprintf(wanted, sizeof wanted, "%u-%u-%u", c->number, i, j);
            snprintf(text, sizeof text,
                     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n%s", strlen(wanted),
                     wanted);
            client_say(fd, text);
            answer_read(fd, &a, false);
            if (a.status == 200 && strcmp(a.body, wanted) == 0)
                c->served++;
            else
                c->failed++;
            answer_free(&a);
        }
        if (i % 3 == 1)
            client_say(fd, GET("/wait"));
        if (i % 3 == 2)
            client_say(fd, "POST /pieces HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\nabc");
        close(fd);
    }
    return NULL;
}

TEST(many_clients_on_several_loops)
{
    struct test_server t;
    pthread_t threads[CLIENTS];
    struct crowd_client clients[CLIENTS];
    int fds[24];

    server_prepare(&t);
    t.settings.loops_count = 3;
    if (!server_start(&t, NULL))
        return;
    check(serve_loops(t.serve) == 3, "loops");
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i] = (struct crowd_client){ .t = &t, .number = i };
        check_or_stop(pthread_create(&threads[i], NULL, converse, &clients[i]) == 0, "thread");
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        pthread_join(threads[i], NULL);
        check(clients[i].served == 5 * CONVERSATIONS && clients[i].failed == 0, "client %u: %u, %u",
              i, clients[i].served, clients[i].failed);
    }
    check(wait_metric(&t, "penstock_connections_open", 0), "none is left");
    /* Connections that stay are spread: none of three loops serves all 24. */
    for (unsigned i = 0; i < 24; i++) {
        struct answer a;
        fds[i] = client_open(&t);
        client_say(fds[i], GET("/hello"));
        answer_read(fds[i], &a, false);
        check(a.status == 200, "%d", a.status);
        answer_free(&a);
    }
    check(server_metric(&t, "penstock_connections_open") == 24, "open");
    for (unsigned i = 0; i < 24; i++)
        close(fds[i]);
    server_stop(&t);
}

/* Requests of 24 connections are ready in one turn: small answers wait for each other, large ones and those to who
 * leaves do not, and each gets its own. */
TEST(answers_of_one_turn)
{
    enum { CONNECTIONS = 24, LEAVES = 9, FINISHES = 7 };
    struct test_server t;
    struct answer a;
    int fds[CONNECTIONS];
    char text[256];

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        fds[i] = client_open(&t);
        client_say(fds[i], GET("/hello"));
        answer_read(fds[i], &a, false);
        check(a.status == 200, "%d", a.status);
        answer_free(&a);
    }
    atomic_store(&seen_release, false);
    int blocker = client_open(&t);
    uint32_t before = atomic_load(&seen_waiting);
    client_say(blocker, GET("/odd/block"));
    check(wait_for(&seen_waiting, before + 1), "the loop runs");
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        snprintf(text, sizeof text, "GET /big/%u HTTP/1.1\r\nhost: localhost\r\n\r\n", 1 + i * 300);
        client_say(fds[i], text);
        if (i % 5 == 0)
            client_say(fds[i], GET("/hello"));
        if (i == FINISHES)
            client_finish(fds[i]);
        if (i == LEAVES) {
            struct linger at_once = { 1, 0 };
            setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            socket_close(&fds[i]);
        }
    }
    atomic_store(&seen_release, true);
    answer_read(blocker, &a, false);
    check(a.status == 204, "%d", a.status);
    answer_free(&a);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        if (i == LEAVES)
            continue;
        answer_read(fds[i], &a, false);
        check(a.status == 200 && a.body_size == 1 + i * 300, "%u: %d, %zu bytes", i, a.status,
              a.body_size);
        answer_free(&a);
        if (i % 5 == 0) {
            answer_read(fds[i], &a, false);
            check(a.status == 200 && a.body_size < 100, "%u: %d", i, a.status);
            answer_free(&a);
        }
        if (i == FINISHES)
            check(client_at_end(fds[i]), "it stays open");
        socket_close(&fds[i]);
    }
    socket_close(&blocker);
    check(wait_metric(&t, "penstock_connections_open", 0), "some are left");
    atomic_store(&seen_release, false);
    server_stop(&t);
}

/* -- memory ------------------------------------------------------------------------------------ */

static uint64_t memory_count(int fd)
{
    struct answer a;

    client_say(fd, GET("/memory"));
    answer_read(fd, &a, false);
    uint64_t count = strtoull(a.body, NULL, 10);
    check(a.status == 200 && count > 0, "%d %s", a.status, a.body);
    answer_free(&a);
    return count;
}

TEST(the_hot_path_does_not_allocate)
{
    struct test_server t;
    struct answer a;
    char request[512], body[201];

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    snprintf(body, sizeof body, "{\"inputs\":%0180d}", 0);
    snprintf(request, sizeof request,
             "POST /v2/models/iris/infer HTTP/1.1\r\n" HOST
             "User-Agent: test\r\nAccept: */*\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    int fds[4];
    for (unsigned i = 0; i < 4; i++)
        fds[i] = client_open(&t);
    for (unsigned i = 0; i < 8; i++) { /* the first ones fill the pools */
        client_say(fds[i % 4], request);
        answer_read(fds[i % 4], &a, false);
        answer_free(&a);
    }
    memory_count(fds[0]);
    uint64_t before = memory_count(fds[0]);
    for (unsigned i = 0; i < 1000; i++) {
        client_say(fds[i % 4], request);
        answer_read(fds[i % 4], &a, false);
        check_or_stop(a.status == 200 && strcmp(a.body, body) == 0, "%d %s", a.status, a.body);
        answer_free(&a);
    }
    uint64_t after = memory_count(fds[0]);
    check(after == before, "%llu allocations in 1000 requests",
          (unsigned long long)(after - before));
    for (unsigned i = 0; i < 4; i++)
        close(fds[i]);
    server_stop(&t);
}

/* Fails the first fallible step on the loop's thread after the arming, then the second, ...: while
 * a connection is made, a request read, a body collected, an answer sent. */
TEST(every_fault_costs_at_most_its_own_connection)
{
    struct test_server t;
    struct answer a;
    char arm[128];
    bool is_over = false;
    uint32_t nth;
    static char body[20000];

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    memset(body, 'x', sizeof body);
    for (nth = 1; nth < 400 && !is_over; nth++) {
        snprintf(arm, sizeof arm, "GET /arm/%u HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", nth);
        ask(&t, arm, &a);
        answer_free(&a);
        for (unsigned i = 0; i < 2; i++) {
            int fd = client_open(&t);
            client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 20000\r\n\r\n");
            client_send(fd, body, sizeof body);
            client_say(fd, "POST /pieces HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                           "5\r\nabcde\r\n0\r\n\r\n");
            answer_read(fd, &a, false);
            check(a.status == 0 || a.is_cut || a.status >= 400 ||
                      (a.status == 200 && a.body_size == sizeof body && a.body[0] == 'x'),
                  "fault %u: %d", nth, a.status);
            answer_free(&a);
            client_finish(fd);
            client_at_end(fd);
            close(fd);
        }
        ask(&t, GET("/fired"), &a);
        if (a.status == 200 && strcmp(a.body, "0") == 0)
            is_over = true;
        answer_free(&a);
        if (a.status == 0) { /* the question itself met the fault: then it is spent */
            ask(&t, GET("/hello"), &a);
            check(a.status == 200, "fault %u: the server is harmed: %d", nth, a.status);
            answer_free(&a);
        }
    }
    check(is_over && nth > 20, "%u faults", nth);
    ask(&t, "GET /arm/0 HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", &a);
    answer_free(&a);
    check(wait_metric(&t, "penstock_connections_open", 0), "none is left");
    server_stop(&t);
}

TEST(serve_new_survives_every_fault)
{
    struct test_server t;

    server_prepare(&t);
    for_each_fault(nth) {
        struct serve *serve = NULL;
        struct err err = { 0 };
        t.settings.metrics = NULL; /* it would keep a source of a server that is gone */
        enum err_code code = serve_new(&serve, env_real(), &t.settings, &err);
        if (code == OK)
            code = serve_listen(serve, "127.0.0.1:0", &err);
        if (code == OK)
            code = serve_start(serve, &err);
        bool fired = fault_fired();
        check(fired == (code != OK), "fault %u: %s", nth, err.text);
        check(code == OK || err.text[0] != '\0', "fault %u is silent", nth);
        serve_free(&serve);
        if (!fired)
            break;
    }
    metrics_free(&t.metrics);
}

/* Behind a large answer that its reader takes late, the next request needs no further event. */
TEST(pipelining_behind_a_large_answer)
{
    struct test_server t;
    struct answer a;

    server_prepare(&t);
    if (!server_start(&t, NULL))
        return;
    int fd = client_open(&t);
    client_say(fd, GET("/big/30000000") GET("/mirror/1"));
    usleep(20000); /* the socket is full */
    answer_read(fd, &a, false);
    check(a.status == 200 && a.body_size == 30000000, "%d, %zu bytes", a.status, a.body_size);
    answer_free(&a);
    answer_read(fd, &a, false);
    check(a.status == 200 && strstr(a.body, "param=1") != NULL, "%d %s", a.status, a.body);
    answer_free(&a);
    close(fd);
    server_stop(&t);
}

TEST(draining_answers_what_has_arrived_and_is_not_read)
{
    static struct loop_msg msg = { .run = hold_loop };
    struct test_server t;
    struct answer a;
    pthread_t thread;

    server_prepare(&t);
    t.settings.loops_count = 1;
    if (!server_start(&t, NULL))
        return;
    int kept = client_open(&t);
    client_say(kept, GET("/hello"));
    answer_read(kept, &a, false);
    answer_free(&a);
    atomic_store(&is_held, true);
    atomic_store(&holds, false);
    loop_post(t.serve->loops[0].loop, &msg);
    while (!atomic_load(&holds))
        usleep(1000);
    int fresh = client_open(&t); /* the kernel's backlog takes it */
    client_say(kept, GET("/hello"));
    client_say(fresh, GET("/hello"));
    check_or_stop(pthread_create(&thread, NULL, drain, &t) == 0, "thread");
    while (!atomic_load(&t.is_draining))
        usleep(1000);
    usleep(20000); /* the loop's message lies there before its sockets are looked at */
    atomic_store(&is_held, false);
    answer_read(kept, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "a kept one: %d", a.status);
    answer_free(&a);
    answer_read(fresh, &a, false);
    check(a.status == 200 && answer_has(&a, "connection: close"), "a new one: %d", a.status);
    answer_free(&a);
    check(client_at_end(kept) && client_at_end(fresh), "then closed");
    close(kept), close(fresh);
    pthread_join(thread, NULL);
    server_stop(&t);
}
