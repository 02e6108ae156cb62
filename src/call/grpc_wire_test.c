/* grpc_wire_test.c - prefix, timeout, status, message, metadata, details, clause by clause of the
 * gRPC wire text. SPDX-License-Identifier: Apache-2.0 */
#include "call/grpc_wire.h"

#include <stdlib.h>

#include "base/budget.h"
#include "base/buf.h"
#include "base/pb.h"
#include "base/text.h"
#include "test/harness.h"

/* -- prefix ------------------------------------------------------------------------------------- */

TEST(prefix_is_a_flag_and_a_size)
{
    uint8_t bytes[GRPC_PREFIX_BYTES];

    grpc_prefix_put(bytes, true, 0x01020304);
    check(memcmp(bytes, "\1\1\2\3\4", 5) == 0, "big-endian");
    struct grpc_prefix prefix = grpc_prefix_get((const uint8_t *)"\x7f\xff\0\0\2");
    check(prefix.flag == 0x7f && prefix.size == 0xff000002, "%u %u", prefix.flag, prefix.size);
}

/* -- grpc-timeout ------------------------------------------------------------------------------- */

TEST(timeout_is_parsed)
{
    static const struct {
        const char *text;
        enum err_code code;
        uint64_t ns;
        const char *why;
    } cases[] = {
        { "1n", OK, 1, "smallest" },
        { "0S", OK, 0, "already past" },
        { "7u", OK, 7000, "micro" },
        { "100m", OK, 100000000, "milli, not minutes" },
        { "2S", OK, 2000000000, "seconds" },
        { "3M", OK, UINT64_C(180000000000), "minutes" },
        { "1H", OK, UINT64_C(3600000000000), "hours" },
        { "00000001S", OK, 1000000000, "eight digits with zeros" },
        { "99999999n", OK, 99999999, "eight digits" },
        { "5124095H", OK, UINT64_C(18446742000000000000), "the last hour that fits" },
        { "5124096H", OK, UINT64_MAX, "one more" },
        { "99999999H", OK, UINT64_MAX, "too far for a clock: means never" },
        { "123456789S", E_INVALID, 0, "nine digits" },
        { "S", E_INVALID, 0, "no digits" },
        { "", E_INVALID, 0, "nothing" },
        { "5", E_INVALID, 0, "no unit" },
        { "-1S", E_INVALID, 0, "a sign" },
        { "+1S", E_INVALID, 0, "a sign" },
        { "1 S", E_INVALID, 0, "a space" },
        { " 1S", E_INVALID, 0, "a space" },
        { "1s", E_INVALID, 0, "a unit of nobody" },
        { "1h", E_INVALID, 0, "lower case" },
        { "1ms", E_INVALID, 0, "two letters" },
        { "1.5S", E_INVALID, 0, "a point" },
        { "0x1S", E_INVALID, 0, "hexadecimal" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t ns = 42;
        struct err err = { 0 };
        enum err_code code = grpc_timeout_parse(&ns, slice_of(cases[i].text), &err);
        check(code == cases[i].code, "%s: %s", cases[i].text, cases[i].why);
        check(ns == (code == OK ? cases[i].ns : 42), "%s: %s: %llu", cases[i].text, cases[i].why,
              (unsigned long long)ns);
        check((code == OK) == (err.text[0] == '\0'), "%s: %s", cases[i].text, cases[i].why);
    }
}

TEST(timeout_is_written_rounded_up)
{
    static const struct {
        uint64_t ns;
        const char *text;
    } cases[] = {
        { 0, "0n" },
        { 1, "1n" },
        { 99999999, "99999999n" },
        { 100000000, "100000u" },
        { 100000001, "100001u" },
        { UINT64_C(99999999000), "99999999u" },
        { UINT64_C(99999999001), "100000m" },
        { UINT64_C(3600000000000), "3600000m" },
        { UINT64_C(100000000000000), "100000S" },
        { UINT64_C(100000000000000000), "1666667M" },
        { UINT64_MAX, "5124096H" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        char out[GRPC_TIMEOUT_ROOM];
        size_t size = grpc_timeout_format(out, cases[i].ns);
        check(size == strlen(out) && strcmp(out, cases[i].text) == 0, "%s is not %s", out,
              cases[i].text);
    }
    for (unsigned i = 0; i < 10000; i++) { /* never shorter than asked, at most a step longer */
        char out[GRPC_TIMEOUT_ROOM];
        uint64_t ns = test_random() >> test_random_below(64), back = 0;
        size_t size = grpc_timeout_format(out, ns);
        check(size < GRPC_TIMEOUT_ROOM &&
                  grpc_timeout_parse(&back, slice_make(out, size), NULL) == OK,
              "%s", out);
        /* The step: at most an hour, and of shorter ones at most a hundred-thousandth. */
        check(back >= ns && back - ns <= MIN(ns / 100000 + 1, UINT64_C(3600000000000)), "%llu: %s",
              (unsigned long long)ns, out);
    }
}

/* -- status ------------------------------------------------------------------------------------- */

TEST(status_is_a_number)
{
    for (enum err_code code = OK; code < ERR_CODE_END; code++)
        check(grpc_status_parse(grpc_status_digits(code)) == code, "%d", code);
    check(slice_is(grpc_status_digits(E_UNAUTHENTICATED), "16"), "two digits");
    static const char *const strange[] = {
        "", "17", "-1", "x", "1x", " 1", "99999999999999999999", "1.0"
    };
    for (size_t i = 0; i < COUNT(strange); i++)
        check(grpc_status_parse(slice_of(strange[i])) == E_UNKNOWN, "%s", strange[i]);
    check(grpc_status_parse(slice_of("07")) == E_PERMISSION, "a leading zero is read over");
}

TEST(status_of_other_answers)
{
    static const struct {
        uint16_t http;
        enum err_code code;
    } cases[] = {
        { 200, E_UNKNOWN },       { 204, E_UNKNOWN },         { 301, E_UNKNOWN },
        { 400, E_INTERNAL },      { 401, E_UNAUTHENTICATED }, { 403, E_PERMISSION },
        { 404, E_UNIMPLEMENTED }, { 405, E_UNKNOWN },         { 415, E_UNKNOWN },
        { 429, E_UNAVAILABLE },   { 431, E_INTERNAL },        { 500, E_UNKNOWN },
        { 502, E_UNAVAILABLE },   { 503, E_UNAVAILABLE },     { 504, E_UNAVAILABLE },
        { 505, E_UNKNOWN },
    };
    static const enum err_code resets[] = {
        E_INTERNAL,    E_INTERNAL,  E_INTERNAL, E_INTERNAL, E_INTERNAL,  E_INTERNAL,   E_INTERNAL,
        E_UNAVAILABLE, E_CANCELLED, E_INTERNAL, E_INTERNAL, E_EXHAUSTED, E_PERMISSION, E_INTERNAL,
    };

    for (size_t i = 0; i < COUNT(cases); i++)
        check(grpc_status_of_http(cases[i].http) == cases[i].code, "%u", cases[i].http);
    for (uint32_t i = 0; i < COUNT(resets); i++)
        check(grpc_status_of_reset(i) == resets[i], "%u", i);
    check(grpc_status_of_reset(UINT32_MAX) == E_INTERNAL, "one that does not exist");
}

/* -- grpc-message ------------------------------------------------------------------------------- */

static const char *encoded(const char *in)
{
    static char room[256];
    struct text text;

    text_init_fixed(&text, room, sizeof room);
    grpc_message_encode(&text, slice_of(in));
    check(grpc_message_is_plain(slice_of(in)) == slice_is(text_slice(&text), in), "%s", in);
    return text_cstr(&text);
}

static const char *decoded(const char *in)
{
    static char room[256];
    struct text text;

    text_init_fixed(&text, room, sizeof room);
    grpc_message_decode(&text, slice_of(in));
    return text_cstr(&text);
}

TEST(message_is_percent_encoded)
{
    static const struct {
        const char *text, *value;
    } cases[] = {
        { "", "" },
        { "plain, with ~ and spaces", "plain, with ~ and spaces" },
        { "100%", "100%25" },
        { "a\tb\r\nc", "a%09b%0D%0Ac" },
        { "\x7f", "%7F" },
        { "\xe2\x98\xba", "%E2%98%BA" },
        { "\xf0\x9f\x98\x88", "%F0%9F%98%88" },
        { " a b ", "%20a b%20" },
        { " ", "%20" },
        /* of the interop tests of gRPC */
        { "\t\ntest with whitespace\r\nand Unicode BMP \xe2\x98\xba and non-BMP \xf0\x9f\x98\x88\t\n",
          "%09%0Atest with whitespace%0D%0Aand Unicode BMP %E2%98%BA and non-BMP %F0%9F%98%88%09%0A" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        check(strcmp(encoded(cases[i].text), cases[i].value) == 0, "%s", encoded(cases[i].text));
        check(strcmp(decoded(cases[i].value), cases[i].text) == 0, "%s", decoded(cases[i].value));
    }
}

TEST(message_that_is_wrong_is_decoded_as_far_as_it_goes)
{
#define BAD "\xef\xbf\xbd"
    static const struct {
        const char *value, *text;
    } cases[] = {
        { "%", "%" },
        { "%4", "%4" },
        { "100% of", "100% of" },
        { "%zz%41", "%zzA" },
        { "%4G%e2%98%ba", "%4G\xe2\x98\xba" }, /* lower case is read, too */
        { "%FF", BAD },
        { "%E2%98", BAD BAD },
        { "%E2%98x", BAD BAD "x" },
        { "\xe2%98\xba", "\xe2\x98\xba" },
        { "%C0%80", BAD BAD },               /* the long form of NUL */
        { "%ED%A0%80", BAD BAD BAD },        /* a surrogate */
        { "%F4%90%80%80", BAD BAD BAD BAD }, /* past U+10FFFF */
        { "%25%25", "%%" },
        { "%2541", "%41" }, /* once, not twice */
    };

    for (size_t i = 0; i < COUNT(cases); i++)
        check(strcmp(decoded(cases[i].value), cases[i].text) == 0, "%s: %s", cases[i].value,
              decoded(cases[i].value));
}

/* -- binary metadata ---------------------------------------------------------------------------- */

TEST(base64_with_and_without_padding)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *plain, *padded;
    } cases[] = {
        { "", 0, "", "" },
        { "f", 1, "Zg", "Zg==" },
        { "fo", 2, "Zm8", "Zm8=" },
        { "foo", 3, "Zm9v", "Zm9v" },
        { "foob", 4, "Zm9vYg", "Zm9vYg==" },
        { "fooba", 5, "Zm9vYmE", "Zm9vYmE=" },
        { "foobar", 6, "Zm9vYmFy", "Zm9vYmFy" },
        { "\0", 1, "AA", "AA==" },
        { "\377\377\377", 3, "////", "////" },
        { "\373\357\276", 3, "++++", "++++" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        char room[64];
        struct text text;
        text_init_fixed(&text, room, sizeof room);
        grpc_bin_encode(&text, slice_make(cases[i].bytes, cases[i].size));
        check(slice_is(text_slice(&text), cases[i].plain), "%s", cases[i].plain);
        for (unsigned way = 0; way < 2; way++) {
            text_init_fixed(&text, room, sizeof room);
            check(grpc_bin_decode(&text, slice_of(way == 0 ? cases[i].plain : cases[i].padded)),
                  "%s", cases[i].padded);
            check(slice_eq(text_slice(&text), slice_make(cases[i].bytes, cases[i].size)), "%s",
                  cases[i].padded);
        }
    }
}

TEST(base64_that_is_none)
{
    static const char *const wrong[] = { "A",    "AAAAA", "A===", "AA=",   "=",  "====", "AA==AA",
                                         "AA A", "AA-_",  "AA.A", "AAA\n", "*A", "AA=A" };

    for (size_t i = 0; i < COUNT(wrong); i++) {
        char room[64];
        struct text text;
        text_init_fixed(&text, room, sizeof room);
        check(!grpc_bin_decode(&text, slice_of(wrong[i])) && text.size == 0, "%s", wrong[i]);
    }
}

TEST(base64_round_trips)
{
    for (unsigned i = 0; i < 2000; i++) {
        uint8_t bytes[100], room[256];
        size_t size = test_random_below(sizeof bytes);
        struct text text, back;
        for (size_t at = 0; at < size; at++)
            bytes[at] = (uint8_t)test_random();
        text_init_fixed(&text, room, 140);
        grpc_bin_encode(&text, slice_make(bytes, size));
        text_init_fixed(&back, room + 140, 116);
        check(grpc_bin_decode(&back, text_slice(&text)), "decoded");
        check(slice_eq(text_slice(&back), slice_make(bytes, size)), "%zu bytes", size);
    }
}

TEST(base64_that_does_not_fit)
{
    char room[4];
    struct text text;

    text_init_fixed(&text, room, sizeof room);
    grpc_bin_encode(&text, slice_of("four"));
    check(text_failed(&text), "six digits in four bytes");
    text_init_fixed(&text, room, 2);
    check(grpc_bin_decode(&text, slice_of("Zm9v")) && text_failed(&text), "three bytes in two");
}

TEST(joined_values_are_cut)
{
    struct slice rest = slice_of(" AA==, ,Zg ,");

    check(slice_is(grpc_bin_cut(&rest), "AA=="), "first");
    check(slice_is(grpc_bin_cut(&rest), ""), "empty");
    check(slice_is(grpc_bin_cut(&rest), "Zg"), "third");
    check(rest.size == 0 && slice_is(grpc_bin_cut(&rest), ""), "nothing behind the last comma");
}

TEST(metadata_names_and_values)
{
    static const char *const good[] = { "a", "x-trace-bin", "0.9_z", "user-agent", "grpc", "te-x" };
    static const char *const bad[] = {
        "",     "A",          "x y",          "x:y",       ":path", "grpc-x",           "te",
        "host", "connection", "content-type", "x\xc3\xbc", "a\n",   "transfer-encoding"
    };

    for (size_t i = 0; i < COUNT(good); i++)
        check(grpc_metadata_key_is_custom(slice_of(good[i])), "%s", good[i]);
    for (size_t i = 0; i < COUNT(bad); i++)
        check(!grpc_metadata_key_is_custom(slice_of(bad[i])), "%s", bad[i]);
    check(grpc_metadata_value_is_ascii(slice_of("")) &&
              grpc_metadata_value_is_ascii(slice_of("a b~")),
          "printable");
    check(!grpc_metadata_value_is_ascii(slice_of("a\x1f")) &&
              !grpc_metadata_value_is_ascii(slice_of("\x7f")) &&
              !grpc_metadata_value_is_ascii(slice_of("\xc3\xbc")) &&
              !grpc_metadata_value_is_ascii(slice_of(" a")) &&
              !grpc_metadata_value_is_ascii(slice_of("a ")),
          "not printable, or a space at an edge");
    for (unsigned byte = 0; byte < 256; byte++)
        for (size_t at = 0; at < 21; at++) {
            uint8_t value[21];
            memset(value, 'v', sizeof value);
            value[at] = (uint8_t)byte;
            bool is_good = byte >= 0x20 && byte <= 0x7e && (byte != ' ' || (at > 0 && at < 20));
            check(grpc_metadata_value_is_ascii(slice_make(value, sizeof value)) == is_good,
                  "byte %u at %zu", byte, at);
        }
}

/* -- details ------------------------------------------------------------------------------------ */

/* As protobuf's own Python writes it: Status(code=3, message="no", details=[BadRequest, RetryInfo]) */
static const char golden[] =
    "\x08\x03\x12\x02no"
    "\x1a\x37\x0a\x29type.googleapis.com/google.rpc.BadRequest\x12\x0a\x0a\x08\x0a\x01"
    "a\x12\x03"
    "b c"
    "\x1a\x36\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x0a\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01";

TEST(details_as_others_write_them)
{
    char room[512];
    struct text text;
    struct grpc_details d = { .code = E_INVALID,
                              .message = slice_of("no"),
                              .field = slice_of("a"),
                              .description = slice_of("b c"),
                              .has_retry = true,
                              .retry_after_ms = 1500 },
                        back;
    struct err err = { 0 };

    text_init_fixed(&text, room, sizeof room);
    grpc_details_encode(&text, &d);
    check(slice_eq(text_slice(&text), slice_make(golden, sizeof golden - 1)), "%zu bytes",
          text.size);
    check(grpc_details_decode(&back, slice_make(golden, sizeof golden - 1), &err) == OK, "%s",
          err.text);
    check(back.code == E_INVALID && slice_is(back.message, "no") && slice_is(back.field, "a") &&
              slice_is(back.description, "b c") && back.violations_count == 1 &&
              back.others_count == 0 && back.has_retry && back.retry_after_ms == 1500,
          "all of it");
}

TEST(details_round_trip)
{
    static const uint64_t retries[] = { 0, 1, 999, 1000, 86400000, UINT64_MAX / 2000000000 };

    for (unsigned i = 0; i < 64; i++) {
        char room[512];
        struct text text;
        struct grpc_details d = { .code = (enum err_code)(i % ERR_CODE_END) }, back;
        if (i & 1)
            d.message = slice_of("message");
        if (i & 2)
            d.field = slice_of((i & 4) != 0 ? "inputs[0].shape" : "");
        if (i & 2)
            d.description = slice_of((i & 8) != 0 ? "description" : "");
        d.has_retry = (i & 16) != 0;
        d.retry_after_ms = d.has_retry ? retries[i % COUNT(retries)] : 0;
        text_init_fixed(&text, room, sizeof room);
        grpc_details_encode(&text, &d);
        check(!text_failed(&text), "it fits");
        check(grpc_details_decode(&back, text_slice(&text), NULL) == OK, "case %u", i);
        check(back.code == d.code && slice_eq(back.message, d.message), "case %u", i);
        check((back.field.data != NULL) == ((i & 2) != 0) && slice_eq(back.field, d.field) &&
                  slice_eq(back.description, d.description),
              "case %u", i);
        check(back.has_retry == d.has_retry && back.retry_after_ms == d.retry_after_ms, "case %u",
              i);
    }
}

TEST(details_of_strangers)
{
    struct grpc_details d;
    struct err err = { 0 };
    /* code 99, an Any of another type, two violations, a negative delay */
    static const char bytes[] =
        "\x08\x63\x1a\x0b\x0a\x09"
        "a/b.Other\x1a\x25\x0a\x17x/google.rpc.BadRequest\x12\x0a\x0a\x03\x0a\x01"
        "a\x0a\x03\x0a\x01"
        "b\x1a\x27\x0a\x16x/google.rpc.RetryInfo\x12\x0d\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff"
        "\xff\xff\x01";

    check(grpc_details_decode(&d, slice_make(bytes, sizeof bytes - 1), &err) == OK, "%s", err.text);
    check(d.code == E_UNKNOWN && d.others_count == 1 && d.violations_count == 2 &&
              slice_is(d.field, "a") && d.has_retry && d.retry_after_ms == 0,
          "%d %u %u", d.code, d.others_count, d.violations_count);
    check(grpc_details_decode(&d, slice_make(NULL, 0), &err) == OK && d.code == OK,
          "nothing is OK");
}

/* Cut off at every byte and with every bit turned: an answer, and nothing is read outside. */
TEST(details_that_are_damaged)
{
    size_t size = sizeof golden - 1, wrong = 0;

    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *copy = malloc(cut + 1);
        struct grpc_details d = { .others_count = 77 };
        struct err err = { 0 };
        memcpy(copy, golden, cut);
        enum err_code code = grpc_details_decode(&d, slice_make(copy, cut), &err);
        check(code == OK || code == E_INVALID, "cut at %zu", cut);
        check((code == OK) == (err.text[0] == '\0'), "cut at %zu", cut);
        check(code == OK || d.others_count == 77, "untouched on failure");
        wrong += code != OK;
        free(copy);
    }
    check(wrong > size / 2, "most cuts are seen: %zu", wrong);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        uint8_t *copy = malloc(size);
        struct grpc_details d;
        memcpy(copy, golden, size);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        enum err_code code = grpc_details_decode(&d, slice_make(copy, size), NULL);
        check(code == OK || code == E_INVALID, "bit %zu", bit);
        free(copy);
    }
}

/* -- encodings ---------------------------------------------------------------------------------- */

TEST(encodings_by_name)
{
    check(grpc_encoding_of(slice_make(NULL, 0)) == ENCODING_IDENTITY, "absent");
    check(grpc_encoding_of(slice_of("identity")) == ENCODING_IDENTITY, "named");
    check(grpc_encoding_of(slice_of("gzip")) == ENCODING_GZIP, "gzip");
    check(grpc_encoding_of(slice_of("deflate")) == ENCODING_DEFLATE, "deflate");
    check(grpc_encoding_of(slice_of("GZIP")) == ENCODING_UNKNOWN, "names are exact");
    check(grpc_encoding_of(slice_of("snappy")) == ENCODING_UNKNOWN, "snappy");
    check(grpc_encoding_is_accepted(slice_make(NULL, 0), ENCODING_IDENTITY), "always");
    check(!grpc_encoding_is_accepted(slice_make(NULL, 0), ENCODING_GZIP), "absent");
    check(grpc_encoding_is_accepted(slice_of("identity, deflate,\tgzip"), ENCODING_GZIP), "last");
    check(grpc_encoding_is_accepted(slice_of("gzip"), ENCODING_GZIP), "only");
    check(!grpc_encoding_is_accepted(slice_of("gzipx,xgzip"), ENCODING_GZIP), "parts of names");
    struct slice all = slice_of(GRPC_ENCODINGS);
    while (all.size > 0)
        check(grpc_encoding_of(grpc_bin_cut(&all)) != ENCODING_UNKNOWN, "all of ours");
}

TEST(messages_inflate_to_a_limit)
{
    enum { SIZE = 10000 };
    uint8_t *content = calloc(1, SIZE);

    for (size_t i = 0; i < SIZE; i += 7)
        content[i] = (uint8_t)i;
    for (int encoding = ENCODING_GZIP; encoding <= ENCODING_DEFLATE; encoding++) {
        struct slice piece = slice_make(content, SIZE);
        struct buf *packed = NULL, *plain = NULL;
        struct budget budget;
        struct err err = { 0 };
        bool is_too_large = false;
        size_t offset = 0;
        budget_init(&budget, 1 << 20);
        check_or_stop(compress_deflate(&packed, NULL, (enum encoding)encoding, &piece, 1, &err) ==
                          OK,
                      "packed");
        struct slice in = buf_bytes(packed);
        check(grpc_message_inflate(&plain, &offset, &is_too_large, &budget, (enum encoding)encoding,
                                   in, SIZE, "--max-message", &err) == OK,
              "%s", err.text);
        check(slice_eq(slice_skip(buf_bytes(plain), offset), piece) && !is_too_large, "whole");
        if (encoding == ENCODING_GZIP)
            check(((uintptr_t)buf_bytes(plain).data + offset + SIZE) % 64 == 0, "its end");
        buf_unref(&plain);
        check(grpc_message_inflate(&plain, &offset, &is_too_large, &budget, (enum encoding)encoding,
                                   in, SIZE - 1, "--max-message", &err) == E_EXHAUSTED &&
                  is_too_large && plain == NULL,
              "one byte too many");
        check(strstr(err.text, "9999 (--max-message)") != NULL && err.code == E_EXHAUSTED, "%s",
              err.text);
        is_too_large = false;
        budget_init(&budget, 2000);
        check(grpc_message_inflate(&plain, &offset, &is_too_large, &budget, (enum encoding)encoding,
                                   in, SIZE, "--max-message", &err) == E_EXHAUSTED &&
                  !is_too_large,
              "no memory is not too large");
        budget_init(&budget, 1 << 20);
        check(grpc_message_inflate(&plain, &offset, NULL, &budget, (enum encoding)encoding,
                                   slice_first(in, in.size - 1), SIZE, "x", &err) == E_INTERNAL &&
                  err.code == E_INTERNAL,
              "cut off: %s", err.text);
        check(budget_used(&budget) == 0, "nothing is kept");
        buf_unref(&packed);
    }
    free(content);
}
