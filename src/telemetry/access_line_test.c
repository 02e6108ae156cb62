/* access_line_test.c - lines of the access log: whole ones, and what people try to put into them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "telemetry/access_line.h"

#include <stdalign.h>
#include <stdio.h>

#include "base/err.h"
#include "test/harness.h"

static const char *const names[RECORD_STAGES] = { "decode", "queue", "input",
                                                  "run",    "output", "encode" };
#define WALL UINT64_C(1795300000000000000) /* 2026-11-21T22:26:40Z */

static alignas(8) uint8_t memory[RECORD_BYTES_MAX];
static uint8_t out[ACCESS_LINE_MAX + 1];

static struct record *begin(void)
{
    struct record *record = (struct record *)(void *)memory;

    record_begin(record);
    record->begun_ns = 123456789;
    record->ended_ns = record->begun_ns + 1234567;
    record->status = 200;
    return record;
}

static const char *line_of(enum access_form form, const struct record *record)
{
    struct access_line line;

    access_line_init(&line, form, names);
    line.wall_offset_ns = WALL;
    uint8_t *end = access_line_write(&line, out, record);
    check(end - out <= ACCESS_LINE_MAX && end[-1] == '\n', "one line, with its end");
    end[-1] = '\0';
    return (const char *)out;
}

static void put_all(struct record *r)
{
    record_put(r, RECORD_PEER, slice_of("127.0.0.1:4711"));
    record_put(r, RECORD_CALLER, slice_of("alice"));
    record_put(r, RECORD_TENANT, slice_of("red"));
    record_put(r, RECORD_METHOD, slice_of("POST"));
    record_put(r, RECORD_PATH, slice_of("/models/iris:predict"));
    record_put(r, RECORD_QUERY, slice_of("top=3"));
    record_put(r, RECORD_ROUTE, slice_of("/models/{model}:predict"));
    record_put(r, RECORD_PROTOCOL, slice_of("HTTP/2"));
    record_put(r, RECORD_TLS, slice_of("TLSv1.3"));
    record_put(r, RECORD_MODEL, slice_of("iris"));
    record_put(r, RECORD_VERSION, slice_of("1"));
    record_put(r, RECORD_REQUEST_ID, slice_of("abc-1"));
    record_put(r, RECORD_AGENT, slice_of("curl/7.88.1"));
    r->body_in = 12;
    r->body_out = 34;
    r->requests = 2;
    r->responses = 5;
    r->stage_ns[1] = 1540;
    r->stage_ns[3] = 1000000;
    r->is_call = true;
    r->code = E_DEADLINE;
    r->end = RECORD_LEFT;
    r->has_trace = r->has_span = true;
    memset(r->trace_id, 0xab, sizeof r->trace_id);
    memset(r->span_id, 0xcd, sizeof r->span_id);
}

TEST(a_whole_line_in_both_forms)
{
    struct record *r = begin();

    put_all(r);
    check(strcmp(line_of(ACCESS_JSON, r),
                 "{\"time\":\"2026-11-21T22:26:40.123456Z\",\"peer\":\"127.0.0.1:4711\","
                 "\"caller\":\"alice\",\"tenant\":\"red\",\"method\":\"POST\","
                 "\"path\":\"/models/iris:predict\",\"query\":\"top=3\","
                 "\"route\":\"/models/{model}:predict\",\"protocol\":\"HTTP/2\","
                 "\"tls\":\"TLSv1.3\",\"status\":200,\"code\":\"DEADLINE_EXCEEDED\","
                 "\"end\":\"left\",\"bytes_in\":12,\"bytes_out\":34,\"us\":1234.6,"
                 "\"stages\":{\"queue\":1.5,\"run\":1000.0},\"model\":\"iris\","
                 "\"version\":\"1\",\"requests\":2,\"responses\":5,"
                 "\"trace\":\"abababababababababababababababab\",\"span\":\"cdcdcdcdcdcdcdcd\","
                 "\"request_id\":\"abc-1\",\"agent\":\"curl/7.88.1\"}") == 0,
          "%s", (const char *)out);
    check(strcmp(line_of(ACCESS_TEXT, r),
                 "127.0.0.1 - alice [21/Nov/2026:22:26:40 +0000] "
                 "\"POST /models/iris:predict?top=3 HTTP/2\" 200 34 \"-\" \"curl/7.88.1\" "
                 "us=1234.6 in=12 code=DEADLINE_EXCEEDED end=left tenant=red tls=TLSv1.3 "
                 "model=iris version=1 requests=2 responses=5 stages=queue:1.5,run:1000.0 "
                 "trace=abababababababababababababababab id=abc-1") == 0,
          "%s", (const char *)out);
}

TEST(what_is_not_known_is_left_out)
{
    struct record *r = begin();

    r->status = 400;
    check(strcmp(line_of(ACCESS_JSON, r),
                 "{\"time\":\"2026-11-21T22:26:40.123456Z\",\"status\":400,\"bytes_in\":0,"
                 "\"bytes_out\":0,\"us\":1234.6}") == 0,
          "%s", (const char *)out);
    check(strcmp(line_of(ACCESS_TEXT, r), "- - - [21/Nov/2026:22:26:40 +0000] \"- - -\" 400 0 \"-\" "
                                          "\"-\" us=1234.6 in=0") == 0,
          "%s", (const char *)out);
    record_put(r, RECORD_PEER, slice_of("[::1]:80"));
    check(strstr(line_of(ACCESS_TEXT, r), "[::1] - - ") == (const char *)out, "%s",
          (const char *)out);
    r = begin();
    record_put(r, RECORD_PEER, slice_of("unix:"));
    check(strstr(line_of(ACCESS_TEXT, r), "unix: - - ") == (const char *)out, "%s",
          (const char *)out);
}

static const struct {
    const char *sent;
    size_t size;
    const char *json, *text; /* as an agent, in quotes */
} injections[] = {
#define SENT(text) text, sizeof(text) - 1
    { SENT("plain text of more than eight bytes"), "plain text of more than eight bytes",
      "plain text of more than eight bytes" },
    { SENT("a\r\nb"), "a\\u000d\\u000ab", "a\\x0d\\x0ab" },
    { SENT("\x1b[31mred"), "\\u001b[31mred", "\\x1b[31mred" },
    { SENT("say \"hi\""), "say \\\"hi\\\"", "say \\\"hi\\\"" },
    { SENT("back\\slash"), "back\\\\slash", "back\\\\slash" },
    { SENT("\0nul"), "\\u0000nul", "\\x00nul" },
    { SENT("del\x7f"), "del\\u007f", "del\\x7f" },
    { SENT("\xe2\x80\xa8line"), "\\u2028line", "\\xe2\\x80\\xa8line" },
    { SENT("\xe2\x80\xae right to left"), "\\u202e right to left",
      "\\xe2\\x80\\xae right to left" },
    { SENT("\xc2\x9b"), "\\u009b", "\\xc2\\x9b" }, /* a control of eight bits: CSI */
    { SENT("\xc3\xa4"), "\\u00e4", "\\xc3\\xa4" },
    { SENT("\xf0\x9f\x98\x80"), "\\ud83d\\ude00", "\\xf0\\x9f\\x98\\x80" },
    { SENT("\xff\xfe"), "\\ufffd\\ufffd", "\\xff\\xfe" },
    { SENT("\xc3("), "\\ufffd(", "\\xc3(" },
    { SENT("\xed\xa0\x80"), "\\ufffd\\ufffd\\ufffd", "\\xed\\xa0\\x80" }, /* a surrogate */
    { SENT("cut \xe2\x80"), "cut \\ufffd\\ufffd", "cut \\xe2\\x80" },
    { SENT("12345678\n"), "12345678\\u000a", "12345678\\x0a" },
    { SENT("1234567\"12345678"), "1234567\\\"12345678", "1234567\\\"12345678" },
#undef SENT
};

TEST(nobody_forges_a_line)
{
    char wanted[256];

    for (size_t i = 0; i < COUNT(injections); i++) {
        struct record *r = begin();
        record_put(r, RECORD_AGENT, slice_make(injections[i].sent, injections[i].size));
        snprintf(wanted, sizeof wanted, ",\"agent\":\"%s\"}", injections[i].json);
        check(strstr(line_of(ACCESS_JSON, r), wanted) != NULL, "%s: %s", injections[i].json,
              (const char *)out);
        snprintf(wanted, sizeof wanted, " \"-\" \"%s\" us=", injections[i].text);
        check(strstr(line_of(ACCESS_TEXT, r), wanted) != NULL, "%s: %s", injections[i].text,
              (const char *)out);
    }
}

TEST(a_name_cannot_add_fields_to_the_text)
{
    struct record *r = begin();

    record_put(r, RECORD_CALLER, slice_of("eve] \"GET"));
    record_put(r, RECORD_PATH, slice_of("/a b\" 200"));
    record_put(r, RECORD_MODEL, slice_of("m trace=1"));
    line_of(ACCESS_TEXT, r);
    check(strstr((const char *)out, " - eve]\\x20\\\"GET [") != NULL &&
              strstr((const char *)out, "/a\\x20b\\\"\\x20200 ") != NULL &&
              strstr((const char *)out, " model=m\\x20trace=1") != NULL,
          "%s", (const char *)out);
}

/* Any bytes in every field, as many as are kept: one line of printable ASCII, within its bound. */
TEST(random_bytes_in_every_field)
{
    for (unsigned round = 0; round < 3000; round++) {
        struct record *r = begin();
        uint8_t bytes[700];
        for (unsigned which = 0; which < RECORD_TEXTS; which++) {
            size_t size = (size_t)test_random_below(round < 20 ? 2 : sizeof bytes);
            for (size_t i = 0; i < size; i++)
                bytes[i] = round % 3 == 0 ? 0xff : (uint8_t)test_random();
            record_put(r, (enum record_text)which, slice_make(bytes, size));
            check(r->sizes[which] == MIN(size, (size_t)record_text_max[which]) &&
                      ((r->cut >> which & 1) != 0) == (size > record_text_max[which]),
                  "text %u", which);
        }
        for (unsigned i = 0; i < RECORD_STAGES; i++)
            r->stage_ns[i] = test_random();
        r->begun_ns = test_random() >> 2;
        r->ended_ns = test_random();
        r->body_in = r->body_out = test_random();
        r->requests = r->responses = UINT32_MAX;
        r->is_call = r->has_trace = r->has_span = true;
        r->code = E_PRECONDITION;
        r->end = RECORD_ABORTED;
        for (unsigned form = 0; form < 2; form++) {
            struct access_line line;
            access_line_init(&line, (enum access_form)form, names);
            uint8_t *end = access_line_write(&line, out, r);
            check_or_stop(end - out <= ACCESS_LINE_MAX, "%td bytes", end - out);
            for (uint8_t *at = out; at < end - 1; at++)
                check_or_stop(*at >= 0x20 && *at < 0x7f, "byte %02x", *at);
            check(end[-1] == '\n', "its end");
        }
    }
}

TEST(inferences_travel_with_the_record)
{
    struct record *r = begin();
    struct record_view view;

    record_put(r, RECORD_PEER, slice_of("odd"));
    for (unsigned i = 0; i < RECORD_INFERENCES_MAX + 5; i++) {
        struct record_inference one = { .begun_ns = i, .stage_ns = { 0, i } };
        record_add_inference(r, &one);
    }
    record_read(&view, r);
    check(r->inferences == RECORD_INFERENCES_MAX && record_size(r) <= RECORD_BYTES_MAX, "%zu",
          record_size(r));
    for (unsigned i = 0; i < RECORD_INFERENCES_MAX; i++)
        check(view.inferences[i].begun_ns == i && view.inferences[i].stage_ns[1] == i, "%u", i);
    check(slice_is(view.texts[RECORD_PEER], "odd") && view.texts[RECORD_AGENT].size == 0, "texts");
}
