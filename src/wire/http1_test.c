/* http1_test.c - requests, clause by clause; every case is also fed one byte at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "wire/http1.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "test/harness.h"
#include "wire/http1_write.h"

static const struct http1_limits limits = { .head_bytes_max = 1024,
                                            .target_bytes_max = 256,
                                            .fields_max = 8 };

struct result {
    unsigned heads;  /* complete heads */
    unsigned ends;   /* complete messages */
    uint16_t status; /* of what was bad, else 0 */
    char text[256];
    char seen[4096]; /* what was understood, in words */
    size_t seen_size;
};

PRINTF_LIKE(2, 3) static void saw(struct result *r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int size = vsnprintf(r->seen + r->seen_size, sizeof r->seen - r->seen_size, format, args);
    va_end(args);
    r->seen_size = MIN(r->seen_size + (size_t)size, sizeof r->seen - 1);
}

/* Feeds `step` bytes at a time, each time in memory that ends where the bytes end, so that a read
 * past them is seen by the sanitizer. */
static struct result read_all(const struct http1_limits *with, const char *bytes, size_t size,
                              size_t step)
{
    struct http1 h;
    struct http1_field fields[16];
    struct result r = { 0 };
    struct err err = { 0 };
    size_t start = 0, at = 0;
    bool is_in_body = false;

    http1_init(&h, with);
    while (r.status == 0) {
        uint8_t *piece = malloc(at - start + 1);
        memcpy(piece, bytes + start, at - start);
        size_t used = 0;
        struct slice data;
        enum http1_step s;
        if (!is_in_body) {
            s = http1_scan(&h, piece, at - start, &used, &err);
            if (s == HTTP1_HEAD) {
                uint8_t *head = malloc(used);
                memcpy(head, piece, used);
                s = http1_parse(&h, head, used, fields, &err);
                if (s == HTTP1_HEAD) {
                    saw(&r, "%.*s path=%.*s query=%.*s host=%.*s size=%lld%s%s%s",
                        SLICE_ARG(h.method_text), SLICE_ARG(h.path), SLICE_ARG(h.query),
                        SLICE_ARG(h.authority), (long long)h.body_size,
                        h.is_keep_alive ? " keep" : "", h.expects_continue ? " expect" : "",
                        h.has_upgrade ? " upgrade" : "");
                    for (uint32_t i = 0; i < h.fields_count; i++)
                        saw(&r, " [%.*s=%.*s]", SLICE_ARG(fields[i].name),
                            SLICE_ARG(fields[i].value));
                    saw(&r, " body=");
                    r.heads++;
                    is_in_body = true;
                }
                free(head);
            }
        } else {
            s = http1_body(&h, piece, at - start, &used, &data, &err);
            if (s == HTTP1_DATA)
                saw(&r, "%.*s", SLICE_ARG(data));
            if (s == HTTP1_END) {
                saw(&r, "|");
                r.ends++;
                is_in_body = false;
                http1_next(&h);
            }
        }
        free(piece);
        if (s == HTTP1_BAD) {
            r.status = h.status;
            snprintf(r.text, sizeof r.text, "%.255s", err.text);
        }
        start += used;
        if (s == HTTP1_MORE) {
            if (at == size)
                break;
            at = MIN(at + step, size);
        }
    }
    return r;
}

static const struct {
    const char *bytes;
    uint16_t status;  /* 0: good */
    const char *seen; /* NULL: only the status counts */
    const char *why;
} cases[] = {
    { "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0,
      "GET path=/ query= host=a size=0 keep [host=a] body=|", "the least" },
    { "GET /x?y=1?2 HTTP/1.1\r\nHost: a:80\r\nX-Y:\t v w \t\r\nEmpty:\r\n\r\n", 0,
      "GET path=/x query=y=1?2 host=a:80 size=0 keep [host=a:80] [x-y=v w] [empty=] body=|",
      "blanks around values, query" },
    { "POST /a HTTP/1.1\r\nHOST: a\r\nContent-Length: 5\r\n\r\nhello"
      "GET /b HTTP/1.1\r\nHost: a\r\n\r\n",
      0,
      "POST path=/a query= host=a size=5 keep [host=a] [content-length=5] body=hello|"
      "GET path=/b query= host=a size=0 keep [host=a] body=|",
      "pipelined behind a body" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
      "5\r\nhello\r\n00A;x=\"y\";z\r\n0123456789\r\n0\r\nTrailer: t\r\nU:\r\n\r\n",
      0,
      "POST path=/ query= host=a size=-1 keep [host=a] [transfer-encoding=Chunked] "
      "body=hello0123456789|",
      "chunks, extensions, trailers" },
    { "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0,
      "GET path=/ query= host=a size=0 keep [host=a] body=|", "one empty line before" },
    { "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "two empty lines before" },
    { "GET / HTTP/1.0\r\n\r\n", 0, "GET path=/ query= host= size=0 body=|", "1.0 without Host" },
    { "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 0,
      "GET path=/ query= host= size=0 keep [connection=Keep-Alive] body=|", "1.0 that stays" },
    { "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n", 0,
      "GET path=/ query= host=a size=0 [host=a] [connection=x, close] body=|", "close in a list" },
    { "GET http://b:8/x?y HTTP/1.1\r\nHost: b:8\r\n\r\n", 0,
      "GET path=/x query=y host=b:8 size=0 keep [host=b:8] body=|", "absolute-form" },
    { "GET HTTP://b HTTP/1.1\r\nHost: b\r\n\r\n", 0,
      "GET path=/ query= host=b size=0 keep [host=b] body=|", "absolute-form without a path" },
    { "GET http://b?q HTTP/1.1\r\nHost: b\r\n\r\n", 0,
      "GET path=/ query=q host=b size=0 keep [host=b] body=|", "absolute-form, only a query" },
    { "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 0,
      "OPTIONS path=* query= host=a size=0 keep [host=a] body=|", "asterisk-form" },
    { "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 0, NULL, "a known method we have no name for" },
    { "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", 0,
      "POST path=/ query= host=a size=1 keep expect [host=a] [expect=100-Continue] "
      "[content-length=1] body=x|",
      "expectation" },
    { "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 0,
      "GET path=/ query= host=a size=0 keep upgrade [host=a] [connection=Upgrade] "
      "[upgrade=websocket] body=|",
      "upgrade is only reported" },
    { "GET / HTTP/1.1\r\nHost: [::1]:80\r\nX: \xff\xc3\xa9\r\n\r\n", 0,
      "GET path=/ query= host=[::1]:80 size=0 keep [host=[::1]:80] [x=\xff\xc3\xa9] body=|",
      "obs-text in a value" },

    /* what is no request */
    { "\x16\x03\x01\x02", 400, NULL, "TLS" },
    { "{\"a\":1}", 400, NULL, "JSON" },
    { "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "LF before the request" },
    { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, NULL, "HTTP/2's preface" },
    { "GET /\r\n", 400, NULL, "HTTP/0.9" },
    { "GET / HTTP/2.0\r\n", 505, NULL, "HTTP/2.0 in a line" },
    { "GET / HTTP/1.2\r\n", 505, NULL, "HTTP/1.2" },
    { "GET / http/1.1\r\n", 400, NULL, "lower case version" },
    { "GET / HTTP/1.1 \r\n", 400, NULL, "blank behind the version" },
    { "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "two blanks" },
    { "GET /a b HTTP/1.1\r\n", 400, NULL, "blank in the target" },
    { "GET /a\tb HTTP/1.1\r\n", 400, NULL, "tab in the target" },
    { "GET /\xc3\xa9 HTTP/1.1\r\n", 400, NULL, "raw UTF-8 in the target" },
    { "GET /a#b HTTP/1.1\r\n", 400, NULL, "fragment" },
    { "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "target without slash" },
    { "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "another scheme" },
    { "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "absolute-form without host" },
    { "GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "user in the target" },
    { "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "target and Host differ" },
    { "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "asterisk without OPTIONS" },
    { "BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501, NULL, "unknown method" },
    { "get / HTTP/1.1\r\nHost: a\r\n\r\n", 501, NULL, "methods have case" },
    { "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501, NULL, "no proxy" },
    { "ANNOUNCE / HTTP/1.1\r\nHost: a\r\n\r\n", 501, NULL, "a method of another protocol" },
    { "GE(T / HTTP/1.1\r\n", 400, NULL, "method is no token" },

    /* lines */
    { "GET / HTTP/1.1\nHost: a\n\n", 400, NULL, "bare LF behind the request line" },
    { "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, NULL, "bare LF behind a field" },
    { "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, NULL, "bare LF at the end of the head" },
    { "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400, NULL, "bare CR in a field" },
    { "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400, NULL, "two CR" },
    { "GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, "CR in the target" },
    { "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400, NULL, "obs-fold" },
    { "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, NULL, "first field folded" },
    { "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400, NULL, "blank before the colon" },
    { "GET / HTTP/1.1\r\nHost: a\r\nX\t: y\r\n\r\n", 400, NULL, "tab before the colon" },
    { "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400, NULL, "no colon" },
    { "GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", 400, NULL, "no colon, no blank" },
    { "GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", 400, NULL, "no name" },
    { "GET / HTTP/1.1\r\nHost: a\r\nX(: y\r\n\r\n", 400, NULL, "name is no token" },
    { "GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400, NULL, "control byte" },
    { "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", 400, NULL, "DEL" },

    /* Host */
    { "GET / HTTP/1.1\r\n\r\n", 400, NULL, "no Host" },
    { "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, NULL, "Host twice" },
    { "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, NULL, "empty Host" },
    { "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, NULL, "blank in Host" },
    { "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, NULL, "slash in Host" },
    { "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", 400, NULL, "port is no number" },
    { "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, NULL, "user in Host" },
    { "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, NULL, "list in Host" },
    { "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, NULL, "open bracket" },
    { "GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400, NULL, "bad Host in 1.0" },

    /* where the body ends: what smuggling is made of */
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400,
      NULL, "length, then chunked" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400,
      NULL, "chunked, then length" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 400, NULL,
      "length twice, the same" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400, NULL,
      "length twice, different" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", 400, NULL, "list of lengths" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", 400, NULL, "signed length" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", 400, NULL, "negative length" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", 400, NULL, "hexadecimal" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\n", 400, NULL, "two numbers" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400, NULL, "empty length" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", 400, NULL,
      "length over 64 bits" },
    { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", 400, NULL,
      "length over 63 bits" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, NULL,
      "another coding first" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, NULL,
      "another coding alone" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501, NULL, "identity" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 501, NULL,
      "chunked twice" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501, NULL, "xchunked" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 501, NULL, "quoted" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 501, NULL, "empty coding" },
    { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0b"
      "chunked\r\n\r\n",
      400, NULL, "vertical tab before chunked" },
    { "POST / HTTP/1.1\r\nHost: a\r\n"
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
      501, NULL, "coding twice" },
    { "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, NULL, "chunked in 1.0" },
    { "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417, NULL, "another expectation" },

#define CHUNKED "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    { CHUNKED "\r\n", 400, NULL, "no size" },
    { CHUNKED "g\r\n", 400, NULL, "size is no number" },
    { CHUNKED "-1\r\n", 400, NULL, "negative size" },
    { CHUNKED "0x1\r\n", 400, NULL, "0x" },
    { CHUNKED " 1\r\n", 400, NULL, "blank before the size" },
    { CHUNKED "1 \r\n", 400, NULL, "blank behind the size" },
    { CHUNKED "1\nx\r\n", 400, NULL, "bare LF behind the size" },
    { CHUNKED "1\r\nx\n", 400, NULL, "bare LF behind the data" },
    { CHUNKED "1\r\nxy\r\n", 400, NULL, "more data than the size says" },
    { CHUNKED "1\rx", 400, NULL, "bare CR behind the size" },
    { CHUNKED "10000000000000000\r\n", 400, NULL, "17 digits" },
    { CHUNKED "ffffffffffffffff\r\n", 400, NULL, "over 63 bits" },
    { CHUNKED "00000000000000001\r\n", 400, NULL, "too many zeros" },
    { CHUNKED "1;a\x01\r\n", 400, NULL, "control byte in an extension" },
    { CHUNKED "1;a\nx", 400, NULL, "LF in an extension" },
    { CHUNKED "0\r\nX: y\n\r\n", 400, NULL, "bare LF behind a trailer" },
    { CHUNKED "0\r\n X: y\r\n\r\n", 400, NULL, "folded trailer" },
    { CHUNKED "0\r\nX y\r\n\r\n", 400, NULL, "trailer without colon" },
    { CHUNKED "0\r\nX: \x01\r\n\r\n", 400, NULL, "control byte in a trailer" },
    { CHUNKED "0\r\n\rX", 400, NULL, "CR without LF at the end" },
    { CHUNKED "0\r\na:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\n\r\n", 431, NULL,
      "nine trailers" },
    { "GET / HTTP/1.1\r\nHost: a\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\n\r\n", 431,
      NULL, "nine fields" },
};

TEST(http1_cases)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t size = strlen(cases[i].bytes);
        const size_t steps[] = { 1, 7, size };
        for (size_t j = 0; j < COUNT(steps); j++) {
            size_t step = steps[j];
            struct result r = read_all(&limits, cases[i].bytes, size, step);
            check(r.status == cases[i].status, "%s, by %zu: %u \"%s\"", cases[i].why, step,
                  r.status, r.text);
            check((r.status == 0) == (r.text[0] == '\0'), "%s: text '%s'", cases[i].why, r.text);
            if (cases[i].seen != NULL)
                check(strcmp(r.seen, cases[i].seen) == 0, "%s, by %zu:\n  %s\n  %s", cases[i].why,
                      step, r.seen, cases[i].seen);
        }
    }
}

TEST(http1_refuses_nul_everywhere_in_a_head)
{
    static const char good[] = "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    char bytes[sizeof good];

    for (size_t i = 0; i < sizeof good - 1; i++) {
        memcpy(bytes, good, sizeof good);
        bytes[i] = '\0';
        struct result r = read_all(&limits, bytes, sizeof good - 1, sizeof good);
        check(r.heads == 0, "NUL at %zu passed", i);
        r = read_all(&limits, bytes, sizeof good - 1, 1);
        check(r.heads == 0, "NUL at %zu passed by bytes", i);
    }
}

/* The longest that passes, and one byte more. */
/* Each byte at each place of a target, of one that is gone through eight by eight. */
TEST(http1_targets_hold_only_what_may_stand_there)
{
    for (unsigned byte = 1; byte < 256; byte++)
        for (size_t at = 1; at < 21; at++) {
            char text[] = "GET /aaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nhost: h\r\n\r\n";
            bool is_good = byte > 0x20 && byte < 0x7f && byte != '#';
            text[4 + at] = (char)byte;
            struct result r = read_all(&limits, text, sizeof text - 1, sizeof text - 1);
            check((r.status == 0 && r.heads == 1) == is_good, "byte %u at %zu: %u", byte, at,
                  r.status);
        }
}

TEST(http1_limits_are_exact)
{
    char bytes[4096];
    int size;

    size = snprintf(bytes, sizeof bytes, "GET /%0255d HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    check(read_all(&limits, bytes, (size_t)size, 1).heads == 1, "a target of 256");
    size = snprintf(bytes, sizeof bytes, "GET /%0256d HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    for (size_t step = 1; step < 3000; step += 999)
        check(read_all(&limits, bytes, (size_t)size, step).status == 414, "257 by %zu", step);
    size = snprintf(bytes, sizeof bytes, "GET /%02000d HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    for (size_t step = 1; step < 3000; step += 999)
        check(read_all(&limits, bytes, (size_t)size, step).status == 414, "2001 by %zu", step);

    const int head = (int)strlen("GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n");
    size = snprintf(bytes, sizeof bytes, "GET / HTTP/1.1\r\nHost: a\r\nX: %0*d\r\n\r\n",
                    1024 - head, 0);
    check(size == 1024 && read_all(&limits, bytes, 1024, 100).heads == 1, "a head of 1024");
    size = snprintf(bytes, sizeof bytes, "GET / HTTP/1.1\r\nHost: a\r\nX: %0*d\r\n\r\n",
                    1025 - head, 0);
    for (size_t step = 1; step < 3000; step += 999)
        check(read_all(&limits, bytes, (size_t)size, step).status == 431, "1025 by %zu", step);
    memset(bytes, 'a', sizeof bytes);
    check(read_all(&limits, bytes, sizeof bytes, 1).status == 414, "a line without end");

    size = snprintf(bytes, sizeof bytes, CHUNKED "1;%0257d\r\nx\r\n0\r\n\r\n", 0);
    check(read_all(&limits, bytes, (size_t)size, 1).status == 400, "a long extension");
    size = snprintf(bytes, sizeof bytes, CHUNKED "1;%0256d\r\nx\r\n0\r\n\r\n", 0);
    check(read_all(&limits, bytes, (size_t)size, 1).ends == 1, "one that fits");
    size = snprintf(bytes, sizeof bytes, CHUNKED "0\r\nX: %02000d\r\n\r\n", 0);
    check(read_all(&limits, bytes, (size_t)size, 1).status == 431, "long trailers");
}

TEST(http1_bounds_all_extensions_of_a_message)
{
    static char bytes[200000];
    size_t size = (size_t)snprintf(bytes, sizeof bytes, "%s", CHUNKED);

    for (unsigned i = 0; i < 200; i++)
        size += (size_t)snprintf(bytes + size, sizeof bytes - size, "1;%0200d\r\nx\r\n", 0);
    check(read_all(&limits, bytes, size, 1000).status == 400, "200 chunks with 201 bytes each");
}

/* A chunk's data may be received elsewhere: only counted. */
TEST(http1_data_received_elsewhere)
{
    static const char chunked[] = CHUNKED;
    static uint8_t head[sizeof chunked];
    struct http1 h;
    struct http1_field fields[8];
    struct err err;
    size_t used;
    struct slice data;

    memcpy(head, chunked, sizeof chunked);
    http1_init(&h, &limits);
    check_or_stop(http1_scan(&h, head, sizeof chunked - 1, &used, &err) == HTTP1_HEAD, "scan");
    check_or_stop(http1_parse(&h, head, used, fields, &err) == HTTP1_HEAD, "parse");
    check(http1_data_left(&h) == 0, "a size comes first");
    check(http1_body(&h, (const uint8_t *)"10", 2, &used, &data, &err) == HTTP1_MORE,
          "half a size");
    check(http1_data_left(&h) == 0, "half a size is no promise");
    check(http1_body(&h, (const uint8_t *)"00\r\n", 4, &used, &data, &err) == HTTP1_MORE, "size");
    check(http1_data_left(&h) == 0x1000, "now it is known");
    http1_data_taken(&h, 0x800);
    http1_data_taken(&h, 0x800);
    check(http1_data_left(&h) == 0 && !http1_is_over(&h), "all taken");
    check(http1_body(&h, (const uint8_t *)"\r\n0\r\n\r\n", 7, &used, &data, &err) == HTTP1_END,
          "end");
    check(http1_is_over(&h) && used == 7, "over");
}

/* Random splits of random sequences of good and bad requests agree with the whole. */
TEST(http1_splits_agree)
{
    char bytes[8192];

    for (unsigned round = 0; round < 300; round++) {
        size_t size = 0;
        for (unsigned i = 0; i < 4; i++) {
            const char *text = cases[test_random_below(COUNT(cases))].bytes;
            memcpy(bytes + size, text, strlen(text));
            size += strlen(text);
        }
        if (test_random_below(2) == 0)
            bytes[test_random_below(size)] = (char)test_random_below(256);
        struct result whole = read_all(&limits, bytes, size, size);
        struct result parts = read_all(&limits, bytes, size, 1 + test_random_below(40));
        check(whole.status == parts.status && whole.heads == parts.heads &&
                  whole.ends == parts.ends && strcmp(whole.text, parts.text) == 0 &&
                  strcmp(whole.seen, parts.seen) == 0,
              "round %u: %u '%s' and %u '%s'", round, whole.status, whole.seen, parts.status,
              parts.seen);
    }
}

TEST(http1_hosts)
{
    static const struct {
        const char *text;
        bool is_valid;
    } hosts[] = {
        { "a", true },
        { "a.b-c_d.E9:65535", true },
        { "127.0.0.1:8000", true },
        { "[::1]", true },
        { "[fe80::1.2.3.4]:1", true },
        { "a:", true },
        { "", false },
        { ":80", false },
        { "a:123456", false },
        { "a b", false },
        { "a%20", false },
        { "[", false },
        { "[]", false },
        { "[::1]x", false },
        { "[g::]", false },
        { "a:8:8", false },
        { "a,b", false },
        { "a\x80", false },
    };

    for (size_t i = 0; i < COUNT(hosts); i++)
        check(http1_host_is_valid(slice_of(hosts[i].text)) == hosts[i].is_valid, "'%s'",
              hosts[i].text);
}

static const char *written(const struct http1_answer *answer)
{
    static char out[2048];
    size_t most = http1_answer_bytes_max(answer);
    uint8_t *memory = malloc(most); /* so that a byte too many is seen */

    size_t size = (size_t)(http1_answer_write(answer, memory) - memory);
    memcpy(out, memory, size);
    out[size] = '\0';
    free(memory);
    return out;
}

/* Any bytes as a value: the line ends where it should, and what may stay stays. */
TEST(http1_values_cannot_end_their_line)
{
    uint8_t value[40], out[64];

    for (unsigned round = 0; round < 5000; round++) {
        size_t size = test_random_below(sizeof value + 1);
        for (size_t i = 0; i < size; i++)
            value[i] = (uint8_t)(test_random_below(4) != 0 ? 'a' + i % 26 : test_random_below(256));
        struct http1_field field = { SLICE_LIT("x"), { value, size } };
        check_or_stop((size_t)(http1_field_write(&field, out) - out) == size + 5, "size");
        for (size_t i = 0; i < size; i++) {
            bool may_stay = value[i] == '\t' || (value[i] >= 0x20 && value[i] != 0x7f);
            check(out[3 + i] == (may_stay ? value[i] : ' '), "byte 0x%02x at %zu", value[i], i);
        }
    }
}

TEST(http1_answers)
{
    char date[HTTP1_DATE_BYTES];
    struct http1_field fields[] = {
        { SLICE_LIT("content-type"), SLICE_LIT("text/plain") },
        { SLICE_LIT("content-length"), SLICE_LIT("9999") },
        { SLICE_LIT("x-id"), SLICE_LIT("a\r\nset-cookie: b\x01") },
    };
    struct http1_field more[] = { { SLICE_LIT("vary"), SLICE_LIT("origin") } };

    http1_date(date, UINT64_C(784111777) * 1000000000 + 999);
    struct http1_answer answer = { .status = 200,
                                   .framing = HTTP1_LENGTH,
                                   .length = 1234567890,
                                   .date = date,
                                   .fields = fields,
                                   .fields_count = 3,
                                   .more = more,
                                   .more_count = 1 };
    check(strcmp(written(&answer),
                 "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                 "content-type: text/plain\r\nx-id: a  set-cookie: b \r\nvary: origin\r\n"
                 "content-length: 1234567890\r\n\r\n") == 0,
          "%s", written(&answer));
    answer.framing = HTTP1_CHUNKED;
    answer.connection = HTTP1_CLOSE;
    answer.status = 299;
    answer.fields_count = answer.more_count = 0;
    check(strcmp(written(&answer), "HTTP/1.1 299 \r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                                   "transfer-encoding: chunked\r\nconnection: close\r\n\r\n") == 0,
          "%s", written(&answer));
    answer.framing = HTTP1_NO_LENGTH;
    answer.connection = HTTP1_KEEP_SAID;
    answer.status = 204;
    check(strcmp(written(&answer),
                 "HTTP/1.1 204 No Content\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                 "connection: keep-alive\r\n\r\n") == 0,
          "%s", written(&answer));

    static const struct {
        size_t size;
        const char *text;
    } chunks[] = { { 1, "1\r\n" }, { 255, "ff\r\n" }, { SIZE_MAX, "ffffffffffffffff\r\n" } };
    for (size_t i = 0; i < COUNT(chunks); i++) {
        uint8_t out[HTTP1_CHUNK_BYTES_MAX];
        size_t size = (size_t)(http1_chunk_write(chunks[i].size, out) - out);
        check(slice_is(slice_make(out, size), chunks[i].text), "%zu", chunks[i].size);
    }
}
