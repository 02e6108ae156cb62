/* grpc_web_test.c - gRPC-Web: the pure parts against plain models, and calls on a transport of memory
 * in both forms, at every split. SPDX-License-Identifier: Apache-2.0 */
#include "call/grpc_web.h"

#include <stdio.h>

#include "base/buf.h"
#include "call/fake.h"
#include "call/grpc.h"
#include "call/grpc_wire.h"
#include "test/harness.h"

/* -- content types ------------------------------------------------------------------------------- */

TEST(content_types)
{
    static const struct {
        const char *value, *name; /* NULL: not gRPC; "?": a kind of message that is not spoken */
    } cases[] = {
        { "application/grpc", "application/grpc" },
        { "application/grpc+proto", "application/grpc+proto" },
        { "Application/GRPC+Proto ; a=b", "application/grpc+proto" },
        { "application/grpc+json", "?" },
        { "application/grpc-web", "application/grpc-web" },
        { "application/grpc-web;charset=utf-8", "application/grpc-web" },
        { "application/grpc-web+proto", "application/grpc-web+proto" },
        { "application/grpc-WEB+json", "?" },
        { "application/grpc-web-text", "application/grpc-web-text" },
        { "application/grpc-web-text+proto", "application/grpc-web-text+proto" },
        { "application/grpc-web-text+thrift", "?" },
        { "application/grpc-web-texts", NULL },
        { "application/grpc-webs", NULL },
        { "application/grpcurl", NULL },
        { "application/json", NULL },
        { "", NULL },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct grpc_type type = grpc_type_of(slice_of(cases[i].value));
        const char *name = cases[i].name;
        check(type.is_grpc == (name != NULL), "%s", cases[i].value);
        check(type.is_unknown == (name != NULL && name[0] == '?'), "%s", cases[i].value);
        if (type.is_grpc && !type.is_unknown)
            check(slice_is(grpc_type_name(type), name), "%s", cases[i].value);
    }
    check(!grpc_type_of(slice_make(NULL, 0)).is_grpc, "no content-type at all");
}

TEST(answers_have_the_form_that_is_asked_for)
{
    static const struct {
        const char *type, *accept, *answer;
    } cases[] = {
        { "application/grpc-web", "", "application/grpc-web" },
        { "application/grpc-web+proto", "*/*", "application/grpc-web+proto" },
        { "application/grpc-web-text", "*/*, text/html", "application/grpc-web-text" },
        { "application/grpc-web-text", "application/grpc-web", "application/grpc-web" },
        { "application/grpc-web+proto", "application/grpc-web-text+proto",
          "application/grpc-web-text+proto" },
        { "application/grpc-web", "text/html , application/grpc-web-text;q=1",
          "application/grpc-web-text" },
        { "application/grpc-web", "application/grpc-web-text+json,application/grpc-web",
          "application/grpc-web" },
        { "application/grpc-web", "application/grpc", "application/grpc-web" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct grpc_type type = grpc_type_of(slice_of(cases[i].type));
        struct grpc_type answer = grpc_web_type_of_answer(type, slice_of(cases[i].accept));
        check(slice_is(grpc_type_name(answer), cases[i].answer), "%s for %s: %.*s",
              cases[i].accept, cases[i].type, SLICE_ARG(grpc_type_name(answer)));
    }
}

/* -- base64 --------------------------------------------------------------------------------------- */

TEST(decoding_clause_by_clause)
{
    static const struct {
        const char *text, *bytes; /* NULL: refused */
        size_t at;                /* where */
        bool is_whole;
    } cases[] = {
        { "", "", 0, true },
        { "aGVsbG8=", "hello", 0, true },
        { "aGVsbG8", "hello", 0, true }, /* no padding at the very end */
        { "aGVsbG8=aGVsbG8=", "hellohello", 0, true },
        { "aA==aA==aGk=", "hhhi", 0, true },
        { "aGVs", "hel", 0, true },
        { "+/+/", "\xfb\xff\xbf", 0, true },
        { "aGVsb", "hel", 0, false }, /* one digit is no byte */
        { "aGVsbA=", "hell", 0, false },
        { "a===", NULL, 1, false },
        { "=", NULL, 0, false },
        { "aA=a", NULL, 3, false },
        { "aA===", NULL, 4, false },
        { "aGk=====", NULL, 4, false },
        { "aGVs bG8=", NULL, 4, false },
        { "aGVs\n", NULL, 4, false },
        { "a-_a", NULL, 1, false }, /* the URL's alphabet is another */
        { "aGVs\x80", NULL, 4, false },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct grpc_web_decoder d = { 0 };
        char bytes[64];
        size_t size = strlen(cases[i].text);
        memcpy(bytes, cases[i].text, size);
        size_t got = grpc_web_decode(&d, (uint8_t *)bytes, size);
        if (cases[i].bytes == NULL) {
            check(got == SIZE_MAX && d.offset == cases[i].at &&
                      d.unexpected == (uint8_t)cases[i].text[cases[i].at],
                  "%s: at %llu", cases[i].text, (unsigned long long)d.offset);
            continue;
        }
        check(got != SIZE_MAX && slice_is(slice_make(bytes, got), cases[i].bytes), "%s",
              cases[i].text);
        check(d.offset == size, "%s", cases[i].text);
        check(grpc_web_decode_is_whole(&d) == cases[i].is_whole, "%s", cases[i].text);
    }
}

/* What is encoded in any pieces, and decoded in any others, is what it was. */
TEST(encoding_and_decoding_in_pieces)
{
    enum { MOST = 300 };
    uint8_t bytes[MOST], text[4 * MOST];

    for (unsigned round = 0; round < 20000; round++) {
        struct grpc_web_encoder e = { 0 };
        struct grpc_web_decoder d = { 0 };
        size_t size = (size_t)test_random_below(MOST), done = 0, read = 0;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)test_random();
        uint8_t *at = text;
        while (done < size) {
            size_t piece = (size_t)test_random_below(9);
            piece = MIN(piece, size - done);
            at = grpc_web_encode(&e, at, slice_make(bytes + done, piece));
            done += piece;
        }
        at = grpc_web_encode_end(&e, at);
        size_t text_size = (size_t)(at - text);
        check_or_stop(text_size == grpc_web_encoded_size(size), "%zu of %zu", text_size, size);
        for (done = 0; done < text_size;) {
            size_t piece = (size_t)test_random_below(9) + 1;
            piece = MIN(piece, text_size - done);
            size_t got = grpc_web_decode(&d, text + done, piece);
            check_or_stop(got <= piece, "in place");
            memmove(text + read, text + done, got);
            read += got;
            done += piece;
        }
        check_or_stop(grpc_web_decode_is_whole(&d), "whole");
        check_or_stop(read == size && memcmp(text, bytes, size) == 0, "%zu bytes", size);
    }
}

TEST(trailers_are_a_frame)
{
    static const struct header fields[] = {
        { SLICE_LIT("grpc-status"), SLICE_LIT("0") },
        { SLICE_LIT("x-empty"), { NULL, 0 } },
    };
    static const char expected[] = "\x80\0\0\0\x1bgrpc-status: 0\r\nx-empty: \r\n";
    uint8_t frame[64];
    size_t size = grpc_web_trailers_size(fields, 2);

    check_or_stop(size == sizeof expected - 1, "%zu", size);
    grpc_web_trailers_put(frame, fields, 2);
    check(memcmp(frame, expected, size) == 0, "%.*s", (int)size - 5, (char *)frame + 5);
}

/* -- calls ----------------------------------------------------------------------------------------- */

struct seen {
    struct fake fake;
    struct grpc_settings settings;
    struct call *call;
    struct text all; /* every message: "<size>:" and its bytes */
    uint32_t messages, half_closes, gone;
    enum err_code why;
};

static void on_message(struct call *call, const struct call_message *message)
{
    struct seen *s = call->user_data;

    s->messages++;
    text_u64(&s->all, message->bytes.size);
    text_byte(&s->all, ':');
    text_slice_put(&s->all, message->bytes);
    call_read(call);
}

static void on_half_close(struct call *call)
{
    ((struct seen *)call->user_data)->half_closes++;
}

static void on_gone(struct call *call, enum err_code why)
{
    struct seen *s = call->user_data;

    s->gone++;
    s->why = why;
}

static const struct call_user user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_gone = on_gone,
};

static void prepare(struct seen *s, const char *type, struct slice body)
{
    memset(s, 0, sizeof *s);
    s->settings = (struct grpc_settings){ 4 << 20, "--max-message", GRPC_COMPRESSION_MIRROR, NULL };
    text_init(&s->all, 64 << 20);
    fake_init(&s->fake, NULL, body);
    s->fake.x.protocol = "HTTP/1.1";
    require(slice_is(s->fake.request[1].name, "content-type"));
    s->fake.request[1].value = slice_of(type);
}

static bool accept_call(struct seen *s)
{
    s->call = grpc_accept(&s->fake.x, &s->settings);
    if (s->call == NULL)
        return false;
    s->call->user = &user;
    s->call->user_data = s;
    call_read(s->call);
    return true;
}

static void begin(struct seen *s, const char *type, struct slice body)
{
    prepare(s, type, body);
    check_or_stop(accept_call(s), "accepted");
    check(s->call->carrier == CALL_GRPC_WEB, "its users can tell");
}

static void finish(struct seen *s)
{
    fake_deinit(&s->fake);
    text_deinit(&s->all);
}

static void send_text(struct call *call, const char *text)
{
    struct call_piece piece = { slice_of(text), NULL };

    call_send(call, &piece, 1);
}

static void end_with(struct call *call, enum err_code code, const char *text)
{
    struct err err = { 0 };

    if (code != OK)
        err_set(&err, code, "%s", text);
    call_end(call, &err, NULL);
}

/* The body of one message, or more when called again. */
static void put_message(struct text *body, uint8_t flag, const void *bytes, size_t size)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    grpc_prefix_put(prefix, false, (uint32_t)size);
    prefix[0] = flag;
    text_put(body, prefix, sizeof prefix);
    text_put(body, bytes, size);
}

/* The same as base64, padded after each `group` bytes. */
static void put_as_text(struct text *to, struct slice bytes, size_t group)
{
    while (bytes.size != 0) {
        struct grpc_web_encoder e = { 0 };
        size_t size = MIN(group, bytes.size);
        uint8_t *begin_at = text_room(to, grpc_web_encoded_size(size));
        check_or_stop(begin_at != NULL, "memory");
        uint8_t *at = grpc_web_encode_end(
            &e, grpc_web_encode(&e, begin_at, slice_first(bytes, size)));
        to->size += (size_t)(at - begin_at);
        bytes = slice_skip(bytes, size);
    }
}

static struct slice flushed(struct seen *s)
{
    fake_flush(&s->fake);
    return text_slice(&s->fake.answer);
}

static const char *message_of(struct seen *s)
{
    static char out[ERR_TEXT_MAX + 16];

    snprintf(out, sizeof out, "%.*s %.*s", SLICE_ARG(fake_field(&s->fake.head, "grpc-status")),
             SLICE_ARG(fake_field(&s->fake.head, "grpc-message")));
    return out;
}

TEST(binary_call)
{
    static const char answer[] = "\0\0\0\0\6world!\x80\0\0\0\x10grpc-status: 0\r\n";
    struct text body;
    struct seen s;

    text_init(&body, 4096);
    put_message(&body, 0, "hello", 5);
    begin(&s, "application/grpc-web+proto", text_slice(&body));
    check(s.call->is_lone, "its sender may not pause");
    fake_deliver_all(&s.fake, SIZE_MAX);
    check(slice_is(text_slice(&s.all), "5:hello") && s.half_closes == 1, "%.*s",
          SLICE_ARG(text_slice(&s.all)));
    send_text(s.call, "world!");
    end_with(s.call, OK, NULL);
    check(slice_is(text_slice(&s.fake.head), "content-type: application/grpc-web+proto\n"), "%.*s",
          SLICE_ARG(text_slice(&s.fake.head)));
    check(s.fake.announced == -1 && s.fake.x.is_ended && s.fake.trailers.size == 0,
          "nothing beside the body");
    check(slice_eq(flushed(&s), slice_make(answer, sizeof answer - 1)), "%zu bytes",
          s.fake.answer.size);
    finish(&s);
    text_deinit(&body);
}

/* Each size and each kind of padding, cut in two at every place, and one character at a time. */
TEST(text_calls_at_every_split)
{
    static const size_t sizes[] = { 0, 1, 2, 3, 98, 1914, 1917, 2049, 70000 };
    static const size_t groups[] = { 1, 2, 3, 5, 100, SIZE_MAX };
    static uint8_t bytes[70000];
    struct text plain, body, expected;
    struct seen s;

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 997);
    text_init(&plain, 1 << 20);
    text_init(&body, 1 << 20);
    text_init(&expected, 1 << 20);
    for (size_t i = 0; i < COUNT(sizes) * COUNT(groups); i++) {
        size_t size = sizes[i / COUNT(groups)], group = groups[i % COUNT(groups)];
        plain.size = body.size = expected.size = 0;
        put_message(&plain, 0, bytes, size);
        put_as_text(&body, text_slice(&plain), group);
        text_u64(&expected, size);
        text_byte(&expected, ':');
        text_put(&expected, bytes, size);
        size_t step = body.size < 200 ? 1 : body.size / 13;
        for (size_t cut = 1; cut <= body.size; cut += step) {
            begin(&s, "application/grpc-web-text", text_slice(&body));
            s.fake.is_open_ended = (cut & 1) != 0;
            fake_deliver(&s.fake, cut);
            fake_deliver_all(&s.fake, cut < 8 ? 1 : SIZE_MAX);
            check_or_stop(slice_eq(text_slice(&s.all), text_slice(&expected)) &&
                              s.half_closes == 1 && s.gone == 0,
                          "%zu bytes, padded after each %zu, cut at %zu: %u messages", size, group,
                          cut, s.messages);
            end_with(s.call, OK, NULL);
            finish(&s);
        }
    }
    text_deinit(&plain);
    text_deinit(&body);
    text_deinit(&expected);
}

TEST(text_answers_are_whole_after_each_message)
{
    static const char trailers[] = "\x80\0\0\0\x10grpc-status: 0\r\n";
    struct text body;
    struct seen s;

    text_init(&body, 4096);
    put_as_text(&body, slice_make("\0\0\0\0\0", 5), SIZE_MAX);
    begin(&s, "application/grpc-web-text+proto", text_slice(&body));
    fake_deliver_all(&s.fake, SIZE_MAX);
    send_text(s.call, "a");
    check(slice_is(fake_field(&s.fake.head, "content-type"), "application/grpc-web-text+proto"),
          "%.*s", SLICE_ARG(text_slice(&s.fake.head)));
    check(slice_is(flushed(&s), "AAAAAAFh"), "%.*s", SLICE_ARG(text_slice(&s.fake.answer)));
    s.fake.answer.size = 0;
    send_text(s.call, "bc");
    check(slice_is(flushed(&s), "AAAAAAJiYw=="), "%.*s", SLICE_ARG(text_slice(&s.fake.answer)));
    s.fake.answer.size = 0;
    end_with(s.call, OK, NULL);
    (void)flushed(&s);
    struct grpc_web_decoder d = { 0 };
    size_t size = grpc_web_decode(&d, s.fake.answer.data, s.fake.answer.size);
    check(slice_eq(slice_make(s.fake.answer.data, size),
                   slice_make(trailers, sizeof trailers - 1)),
          "%zu bytes", size);
    finish(&s);
    text_deinit(&body);
}

/* Large pieces, by reference in the binary form and encoded in the other, are the same message. */
TEST(large_answers)
{
    enum { LARGE = 300000 };
    struct budget budget;
    struct buf *buf = NULL;
    struct seen s;

    budget_init(&budget, 1 << 20);
    check_or_stop(buf_new(&buf, &budget, LARGE, NULL) == OK, "memory");
    for (size_t i = 0; i < LARGE; i++)
        buf_fill(buf)[i] = (uint8_t)(i * 7 + i / 251);
    for (unsigned form = 0; form < 2; form++) {
        begin(&s, form == 0 ? "application/grpc-web" : "application/grpc-web-text",
              slice_make("", 0));
        struct call_piece pieces[] = { { slice_of("head"), NULL }, { buf_bytes(buf), buf } };
        call_send(s.call, pieces, 2);
        end_with(s.call, OK, NULL);
        struct slice answer = flushed(&s);
        if (form == 1) {
            struct grpc_web_decoder d = { 0 };
            size_t first = grpc_web_encoded_size(5 + 4 + LARGE);
            check_or_stop(answer.size > first, "%zu", answer.size);
            answer.size = grpc_web_decode(&d, s.fake.answer.data, first);
        }
        check_or_stop(answer.size >= 9 + LARGE, "%zu", answer.size);
        check(grpc_prefix_get(answer.data).size == 4 + LARGE &&
                  memcmp(answer.data + 5, "head", 4) == 0 &&
                  memcmp(answer.data + 9, buf_bytes(buf).data, LARGE) == 0,
              "form %u", form);
        finish(&s);
    }
    buf_unref(&buf);
    check(budget_used(&budget) == 0, "and nothing is left");
}

TEST(a_failure_before_any_message_is_told_in_the_headers)
{
    struct seen s;

    begin(&s, "application/grpc-web-text", slice_make("", 0));
    check(call_metadata_initial(s.call, "x-first", slice_of("1")), "taken");
    check(call_metadata_trailing(s.call, "x-last-bin", slice_of("hi")), "taken");
    end_with(s.call, E_NOT_FOUND, "no such thing");
    check(slice_is(text_slice(&s.fake.head),
                   "content-type: application/grpc-web-text\nx-first: 1\ngrpc-status: 5\n"
                   "grpc-message: no such thing\nx-last-bin: aGk\n"),
          "%.*s", SLICE_ARG(text_slice(&s.fake.head)));
    check(s.fake.announced == 0 && flushed(&s).size == 0, "no body");
    finish(&s);
}

TEST(metadata_and_status_behind_messages)
{
    static const char lines[] = "grpc-status: 9\r\ngrpc-message: 50%25\r\nx-last: 2\r\n";
    struct seen s;

    begin(&s, "application/grpc-web", slice_make("", 0));
    check(call_metadata_initial(s.call, "x-first", slice_of("1")), "taken");
    send_text(s.call, "");
    check(call_metadata_trailing(s.call, "x-last", slice_of("2")), "taken");
    end_with(s.call, E_PRECONDITION, "50%");
    check(slice_is(fake_field(&s.fake.head, "x-first"), "1"), "initial metadata is in the headers");
    struct slice answer = flushed(&s);
    check_or_stop(answer.size == 5 + 5 + sizeof lines - 1, "%zu", answer.size);
    check(answer.data[5] == GRPC_WEB_TRAILERS && memcmp(answer.data + 10, lines, sizeof lines - 1) == 0,
          "%.*s", (int)(answer.size - 10), (const char *)answer.data + 10);
    finish(&s);
}

TEST(what_is_refused)
{
    static const struct {
        const char *type, *body, *message;
        size_t size;
        bool has_more; /* the end does not come */
    } cases[] = {
        { "application/grpc-web", "\0\0\0\0\1a\0\0\0\0\1b", "12 a second message came", 12, false },
        { "application/grpc-web", "\0\0\0\0\1a\0\0\0\0\1b", "12 a second message came", 12, true },
        { "application/grpc-web", "\x80\0\0\0\1a", "13 message with a compressed-flag", 6, false },
        { "application/grpc-web", "\0\0\0\0\5ab", "13 the request ended in the middle", 7, false },
        { "application/grpc-web-text", "AAAAAAFh!", "13 byte 8 of the body is 0x21", 9, false },
        { "application/grpc-web-text", "AAAAAAFhA", "13 the body ended in the middle of a group of "
          "base64, after 9 bytes", 9, false },
        { "application/grpc-web-text", "AAAAAAJh", "13 the request ended in the middle", 8, false },
        { "application/grpc-web-text", "AAAAAAFhAAAAAAFh", "12 a second message came", 16, false },
        { "application/grpc-web-text", "AH////8=", "8 message of 2147483647 bytes", 8, false },
    };

    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t piece = 1; piece <= cases[i].size; piece++) {
            struct seen s;
            begin(&s, cases[i].type, slice_make(cases[i].body, cases[i].size));
            s.fake.is_open_ended = cases[i].has_more;
            fake_deliver_all(&s.fake, piece);
            check(s.gone == 1 && strncmp(message_of(&s), cases[i].message,
                                         strlen(cases[i].message)) == 0,
                  "case %zu, pieces of %zu: %s", i, piece, message_of(&s));
            finish(&s);
        }
}

TEST(what_is_no_call)
{
    static const struct {
        const char *type;
        enum exchange_method method;
        uint16_t status;
    } cases[] = {
        { "application/grpc-web+json", METHOD_POST, 415 },
        { "application/grpc-web-text", METHOD_GET, 405 },
        { "application/grpc", METHOD_POST, 505 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct seen s;
        prepare(&s, cases[i].type, slice_make("", 0));
        s.fake.x.method = cases[i].method;
        check(!accept_call(&s) && s.fake.x.status == cases[i].status, "%s: %u", cases[i].type,
              s.fake.x.status);
        check(flushed(&s).size != 0, "and words");
        finish(&s);
    }
}

/* A failure without a call (a forbidden Host) is in the form that was asked for. */
TEST(failures_without_a_call)
{
    struct err err = { 0 };
    struct seen s;

    err_set(&err, E_PERMISSION, "not you");
    prepare(&s, "application/grpc-web+proto", slice_make("", 0));
    fake_header(&s.fake, "accept", "application/grpc-web-text");
    grpc_fail(&s.fake.x, &err);
    check(slice_is(text_slice(&s.fake.head), "content-type: application/grpc-web-text\n"
                                             "grpc-status: 7\ngrpc-message: not you\n"),
          "%.*s", SLICE_ARG(text_slice(&s.fake.head)));
    finish(&s);
}

TEST(deadline_of_the_head)
{
    struct seen s;

    prepare(&s, "application/grpc-web", slice_make("", 0));
    fake_header(&s.fake, "grpc-timeout", "0n");
    check(!accept_call(&s), "over before it began");
    check(strncmp(message_of(&s), "4 the deadline", 14) == 0, "%s", message_of(&s));
    finish(&s);
}

TEST(compression_is_grpcs)
{
    static uint8_t zeros[5000];
    struct seen s;

    for (unsigned form = 0; form < 2; form++) {
        prepare(&s, form == 0 ? "application/grpc-web" : "application/grpc-web-text",
                slice_make("", 0));
        s.settings.compression = GRPC_COMPRESSION_ALWAYS;
        fake_header(&s.fake, "grpc-accept-encoding", "gzip");
        check_or_stop(accept_call(&s), "accepted");
        struct call_piece piece = { slice_make(zeros, sizeof zeros), NULL };
        call_send(s.call, &piece, 1);
        check(slice_is(fake_field(&s.fake.head, "grpc-encoding"), "gzip"), "told");
        struct slice answer = flushed(&s);
        struct grpc_web_decoder d = { 0 };
        if (form == 1)
            answer.size = grpc_web_decode(&d, s.fake.answer.data, answer.size);
        check(answer.size < 100 && answer.data[0] == 1 &&
                  grpc_prefix_get(answer.data).size == answer.size - 5,
              "%zu bytes", answer.size);
        end_with(s.call, OK, NULL);
        finish(&s);
    }
}

/* Half a message cannot be followed by a frame: the body is cut off there. Behind none it can. */
TEST(an_answer_without_memory)
{
    static const uint8_t zeros[50000];
    struct call_piece pieces[11];
    struct seen s;

    for (unsigned form = 0; form < 2; form++) {
        begin(&s, form == 0 ? "application/grpc-web" : "application/grpc-web-text",
              slice_make("", 0));
        pieces[0] = (struct call_piece){ slice_make(zeros, 1000), NULL };
        pieces[1] = (struct call_piece){ slice_make(zeros, 30000), NULL };
        for (size_t i = 2; i < COUNT(pieces); i++)
            pieces[i] = pieces[0];
        size_t left = (size_t)s.fake.budget.limit - budget_used(&s.fake.budget);
        check_or_stop(budget_take(&s.fake.budget, left), "all of it");
        call_send(s.call, pieces, COUNT(pieces));
        budget_give(&s.fake.budget, left);
        end_with(s.call, OK, NULL);
        struct slice answer = flushed(&s);
        if (form == 0) {
            check(s.fake.is_aborted && answer.size == 31005, "%zu bytes", answer.size);
        } else {
            struct grpc_web_decoder d = { 0 };
            answer.size = grpc_web_decode(&d, s.fake.answer.data, answer.size);
            check(!s.fake.is_aborted && answer.size > 21 && answer.data[0] == GRPC_WEB_TRAILERS &&
                      memcmp(answer.data + 5, "grpc-status: 8\r\n", 16) == 0,
                  "%zu bytes", answer.size);
        }
        finish(&s);
    }
}
