/* wire_view_test.c - what --wire prints of fixed bytes. SPDX-License-Identifier: Apache-2.0 */
#include "cli/wire_view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "codec/proto.h"
#include "test/harness.h"

struct feed {
    struct wire_view *view;
    struct text out;
};

static void begin(struct feed *feed, bool http2, bool is_grpc, uint32_t columns)
{
    const struct proto_schema *schema = proto_builtin();
    struct wire_view_settings settings = {
        .http2 = http2,
        .is_grpc = is_grpc,
        .columns = columns,
        .title = "grpc.health.v1.Health/Check",
        .server = "127.0.0.1:8000",
        .schema = schema,
        .request = is_grpc ? proto_type_find(schema, "grpc.health.v1.HealthCheckRequest") : NULL,
        .response = is_grpc ? proto_type_find(schema, "grpc.health.v1.HealthCheckResponse") : NULL
    };
    struct err err = { 0 };

    require(wire_view_new(&feed->view, &settings, &err) == OK);
    text_init(&feed->out, 1 << 20);
}

static const char *end(struct feed *feed, const char *request, const char *answer)
{
    wire_view_write(feed->view, &feed->out, slice_of(request), slice_of(answer));
    return text_cstr(&feed->out);
}

static void drop(struct feed *feed)
{
    wire_view_free(&feed->view);
    text_deinit(&feed->out);
}

static void feed_bytes(struct feed *feed, bool is_sent, const void *data, size_t size,
                       uint64_t at_us, size_t step)
{
    struct slice left = slice_make(data, size);

    while (left.size > 0) {
        struct slice piece = slice_first(left, step);
        wire_view_feed(feed->view, is_sent, piece, at_us * 1000);
        left = slice_skip(left, piece.size);
    }
}

/* A call of grpc.health.v1.Health/Check; the header block is written by hand. */
#define HEAD(length, type, flags, stream) "\x00\x00" length type flags "\x00\x00\x00" stream

static const char sent[] =
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" HEAD("\x0c", "\x04", "\x00", "\x00") "\x00\x02\x00\x00\x00\x00\x00\x04\x00\x10\x00\x00" HEAD(
        "\x17", "\x01", "\x04",
        "\x01") "\x83\x86\x04\x06/h/Chk\x00\x02te\x08trailers" HEAD("\x0b", "\x00", "\x01",
                                                                    "\x01") "\x00\x00\x00\x00\x06\x0a\x04spam";
static const char received[] =
    HEAD("\x00", "\x04", "\x01", "\x00") HEAD("\x01", "\x01", "\x04", "\x01") "\x88" HEAD(
        "\x07", "\x00", "\x00",
        "\x01") "\x00\x00\x00\x00\x02\x08\x01" HEAD("\x0f", "\x01", "\x05",
                                                    "\x01") "\x00\x0bgrpc-status\x01"
                                                            "0" HEAD(
                                                                "\x08", "\x07", "\x00",
                                                                "\x00") "\x00\x00\x00\x01\x00\x00\x00\x00";

static const char expected[] =
    "grpc.health.v1.Health/Check on 127.0.0.1:8000, gRPC over HTTP/2, a new connection\n"
    "\n"
    "      ms      frame         on   bytes\n"
    "   0.000  ->  (preface)             24  \"PRI * HTTP/2.0\": this is HTTP/2\n"
    "   0.000  ->  SETTINGS       0      12  ENABLE_PUSH=0 INITIAL_WINDOW_SIZE=1048576\n"
    "   0.000  ->  HEADERS        1      23  END_HEADERS\n"
    "              :method                  POST\n"
    "              :scheme                  http\n"
    "              :path                    /h/Chk\n"
    "              te                       trailers\n"
    "   0.000  ->  DATA           1      11  END_STREAM  message 1: 6 bytes\n"
    "   0.412  <-  SETTINGS       0       0  ACK\n"
    "   0.412  <-  HEADERS        1       1  END_HEADERS\n"
    "              :status                  200\n"
    "   0.412  <-  DATA           1       7  message 1: 2 bytes\n"
    "   0.412  <-  HEADERS        1      15  trailers END_STREAM END_HEADERS\n"
    "              grpc-status              0\n"
    "   0.412  <-  GOAWAY         0       8  last stream 1, NO_ERROR\n"
    "\n"
    "-> message 1  grpc.health.v1.HealthCheckRequest, 6 bytes\n"
    "    no  field                   type             wire     bytes  value\n"
    "     1  service                 string           LEN          6  \"spam\"\n"
    "  as JSON, 18 bytes:\n"
    "  {\"service\":\"spam\"}\n"
    "\n"
    "<- message 1  grpc.health.v1.HealthCheckResponse, 2 bytes\n"
    "    no  field                   type             wire     bytes  value\n"
    "     1  status                  enum             VARINT       2  1 SERVING\n"
    "  as JSON, 20 bytes:\n"
    "  {\"status\":\"SERVING\"}\n"
    "\n"
    "bytes                                         sent  received\n"
    "  messages                                       6         2\n"
    "  gRPC's prefixes                                5         5\n"
    "  header blocks (HPACK)                         23        16\n"
    "  frames' own heads, 9 each                     27        45\n"
    "  SETTINGS and the like, the preface            36         8\n"
    "  all on the wire                               97        76\n"
    "  the same messages as JSON                     18        20\n"
    "  the same header fields without HPACK          43        22\n";

TEST(wire_view_of_a_grpc_call_whole_and_byte_by_byte)
{
    static const size_t steps[] = { 1, 2, 7, 4096 };

    for (size_t i = 0; i < COUNT(steps); i++) {
        struct feed feed;
        begin(&feed, true, true, 100);
        feed_bytes(&feed, true, sent, sizeof sent - 1, 1000, steps[i]);
        feed_bytes(&feed, false, received, sizeof received - 1, 1412, steps[i]);
        const char *out = end(&feed, "{\"service\":\"spam\"}", "{\"status\":\"SERVING\"}");
        size_t at = 0;
        while (out[at] != '\0' && out[at] == expected[at])
            at++;
        check(strcmp(out, expected) == 0, "step %zu, differs at %zu: '%.60s' for '%.60s'", steps[i],
              at, out + at, expected + at);
        drop(&feed);
    }
}

TEST(wire_view_weighs_every_byte)
{
    struct feed feed;

    begin(&feed, true, true, 100);
    feed_bytes(&feed, true, sent, sizeof sent - 1, 0, 4096);
    /* 6 + 5 + 23 + 27 + 36 = 98: what the rows say is what there was. */
    check(strstr(end(&feed, "", ""), "all on the wire                               97") != NULL,
          "%s", text_cstr(&feed.out));
    check(sizeof sent - 1 == 97, "%zu", sizeof sent - 1);
    drop(&feed);
}

TEST(wire_view_has_colour_only_when_asked)
{
    struct feed feed;

    begin(&feed, true, true, 100);
    feed_bytes(&feed, true, sent, sizeof sent - 1, 0, 4096);
    check(strchr(end(&feed, "", ""), '\033') == NULL, "none");
    drop(&feed);
    struct wire_view_settings settings = {
        .http2 = true, .has_colour = true, .title = "t", .server = "s"
    };
    struct err err = { 0 };
    require(wire_view_new(&feed.view, &settings, &err) == OK);
    text_init(&feed.out, 1 << 20);
    feed_bytes(&feed, true, sent, sizeof sent - 1, 0, 4096);
    check(strstr(end(&feed, "", ""), "\033[36m->\033[0m") != NULL, "some");
    drop(&feed);
}

static const char http1_sent[] = "POST /models/spam:predict HTTP/1.1\r\nhost: x\r\n"
                                 "content-length: 12\r\n\r\n{\"text\":\"a\"}";
static const char http1_received[] =
    "HTTP/1.1 200 OK\r\nX-Evil: \x1b[31mred\r\ncontent-length: 2\r\n"
    "\r\nhi";
static const char http1_expected[] =
    "grpc.health.v1.Health/Check on 127.0.0.1:8000, HTTP/1.1, a new connection\n"
    "\n"
    "      ms      part               bytes\n"
    "   0.000  ->  request               67  POST /models/spam:predict HTTP/1.1\n"
    "              host                     x\n"
    "              content-length           12\n"
    "   0.000  ->  body                  12\n"
    "   2.500  <-  response              56  HTTP/1.1 200 OK\n"
    "              X-Evil                   \\x1b[31mred\n"
    "              content-length           2\n"
    "   2.500  <-  body                   2\n"
    "\n"
    "-> body, 12 bytes:\n"
    "  {\"text\":\"a\"}\n"
    "\n"
    "<- body, 2 bytes:\n"
    "  hi\n"
    "\n"
    "bytes                                         sent  received\n"
    "  bodies                                        12         2\n"
    "  heads                                         67        56\n"
    "  all on the wire                               79        58\n";

TEST(wire_view_of_http1)
{
    struct feed feed;

    begin(&feed, false, false, 100);
    feed_bytes(&feed, true, http1_sent, sizeof http1_sent - 1, 0, 4096);
    feed_bytes(&feed, false, http1_received, sizeof http1_received - 1, 2500, 4096);
    const char *out = end(&feed, "", "");
    check(strcmp(out, http1_expected) == 0, "%s", out);
    drop(&feed);
    /* Byte by byte the body is rows of one byte; the heads are the same. */
    begin(&feed, false, false, 100);
    feed_bytes(&feed, true, http1_sent, sizeof http1_sent - 1, 0, 1);
    check(strstr(end(&feed, "", ""), "request               67  POST") != NULL, "%s",
          text_cstr(&feed.out));
    drop(&feed);
}

/* -- what is wrong, large or strange ---------------------------------------------------------------- */

static const struct {
    const char *bytes;
    size_t size;
    const char *words;
    const char *why;
} strange[] = {
#define CASE(bytes, words, why)              \
    {                                        \
        bytes, sizeof(bytes) - 1, words, why \
    }
    CASE(HEAD("\x04", "\x03", "\x00", "\x01") "\x00\x00\x00\x08",
         "RST_STREAM     1       4  CANCEL", "a reset"),
    CASE(HEAD("\x04", "\x08", "\x00", "\x03") "\x00\x00\x01\x00", "+256 bytes", "a window"),
    CASE(HEAD("\x0e", "\x07", "\x00", "\x00") "\x00\x00\x00\x05\x00\x00\x00\x0b"
                                              "calm\x1b!",
         "last stream 5, ENHANCE_YOUR_CALM, \"calm\\x1b!\"", "words of a GOAWAY"),
    CASE(HEAD("\x02", "\x7a", "\xff", "\x00") "xx", "type 0x7a", "an unknown frame"),
    CASE(HEAD("\x08", "\x06", "\x01", "\x00") "12345678", "PING           0       8  ACK",
         "a pong"),
    CASE(HEAD("\x01", "\x01", "\x04", "\x01") "\xff", "cannot be read", "HPACK that is none"),
    CASE(HEAD("\x01", "\x01", "\x04", "\x01") "\xff" HEAD("\x00", "\x04", "\x00", "\x00"),
         "what came next is no HTTP/2", "nothing is believed after it"),
    CASE(HEAD("\x06", "\x00", "\x00", "\x01") "\x00\x00\x00\x10\x00"
                                              "x",
         "4096 bytes, begins here", "a message that goes on"),
    CASE(HEAD("\x03", "\x00", "\x00", "\x01") "\x00\x00\x00", "part of a message's prefix", "half"),
    CASE(HEAD("\x06", "\x00", "\x00", "\x01") "\x01\x00\x00\x00\x01"
                                              "x",
         "compressed", "a bad gzip"),
    CASE(HEAD("\x08", "\x00", "\x00", "\x01") "\x00\x00\x00\x00\x03\x0a\x09"
                                              "x",
         "byte 1:", "a field that is longer than its message"),
    CASE(HEAD("\x07", "\x00", "\x00", "\x01") "\x00\x00\x00\x00\x02\x50\x01", "unknown", "a field"),
    CASE(HEAD("\x0a", "\x00", "\x08", "\x01") "\x02\x00\x00\x00\x00\x02\x08\x01\x00\x00",
         "PADDED  message 1: 2 bytes", "padding is no message"),
#undef CASE
};

TEST(wire_view_of_strange_frames)
{
    for (size_t i = 0; i < COUNT(strange); i++) {
        for (size_t step = 1; step < 100; step += 98) {
            struct feed feed;
            begin(&feed, true, true, 100);
            feed_bytes(&feed, false, strange[i].bytes, strange[i].size, 0, step);
            check(strstr(end(&feed, "", ""), strange[i].words) != NULL, "%s: %s", strange[i].why,
                  text_cstr(&feed.out));
            check(!text_failed(&feed.out), "%s", strange[i].why);
            drop(&feed);
        }
    }
}

TEST(wire_view_shortens_what_is_long)
{
    static const char values[] =
        HEAD("\x3a", "\x00", "\x00",
             "\x01") "\x00\x00\x00\x00\x35\x0a\x33"
                     "a text that is much longer than a line of a terminal ";
    struct feed feed;

    begin(&feed, true, true, 72);
    feed_bytes(&feed, true, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, 0, 100);
    feed_bytes(&feed, true, values, sizeof values - 1, 0, 100);
    const char *out = end(&feed,
                          "{\"service\":\"a text that is much longer than a line of a "
                          "terminal and goes on behind it\"}",
                          "");
    check(strstr(out, "...") != NULL, "%s", out);
    for (const char *line = out; *line != '\0';) {
        size_t size = strcspn(line, "\n");
        check(size <= 100, "%.*s", (int)size, line);
        line += size + (line[size] == '\n');
    }
    drop(&feed);
}

/* Of a call that took 9 s, the first bytes are told of 7 s before the end, the answer 1 s later. */
TEST(times_count_from_when_the_call_had_its_connection)
{
    struct feed feed;
    uint64_t now = clock_mono_ns();
    struct client_times times = { .send_ns = 2 * NS_PER_S,
                                  .wait_ns = NS_PER_S,
                                  .receive_ns = 6 * NS_PER_S };
    double ms = 0;

    begin(&feed, true, false, 0);
    wire_view_feed(feed.view, true, slice_make(sent, sizeof sent - 1), now - 7 * NS_PER_S);
    wire_view_feed(feed.view, false, slice_make(received, sizeof received - 1), now - 6 * NS_PER_S);
    wire_view_end(feed.view, times);
    const char *out = end(&feed, "", "");
    check(strstr(out, "\n   0.000  ->  (preface)") != NULL, "%s", out);
    const char *answer = strstr(out, "  <-  ");
    require(answer != NULL);
    while (answer > out && answer[-1] != '\n')
        answer--;
    ms = strtod(answer, NULL);
    check(ms > 1500 && ms <= 3000, "%f ms: from the write alone it would be 1000", ms);
    drop(&feed);
}
