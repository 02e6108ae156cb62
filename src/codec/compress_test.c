/* compress_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/compress.h"

#include <stdlib.h>

#include <zlib.h>

#include "base/budget.h"
#include "base/buf.h"
#include "test/harness.h"

/* -- names ----------------------------------------------------------------------------------- */

TEST(compress_names)
{
    static const struct {
        const char *value;
        enum encoding encoding;
    } cases[] = {
        { "", ENCODING_IDENTITY },           { "identity", ENCODING_IDENTITY },
        { " Identity ", ENCODING_IDENTITY }, { "gzip", ENCODING_GZIP },
        { "GZIP", ENCODING_GZIP },           { "x-gzip", ENCODING_GZIP },
        { "\tdeflate", ENCODING_DEFLATE },   { "br", ENCODING_UNKNOWN },
        { "gzip, gzip", ENCODING_UNKNOWN },  { "gzip;q=1", ENCODING_UNKNOWN },
        { "gzipx", ENCODING_UNKNOWN },       { "zstd", ENCODING_UNKNOWN },
    };

    for (size_t i = 0; i < COUNT(cases); i++)
        check(encoding_of(slice_of(cases[i].value)) == cases[i].encoding, "%s", cases[i].value);
    check(strcmp(encoding_name(ENCODING_GZIP), "gzip") == 0, "gzip");
    check(strcmp(encoding_name(ENCODING_DEFLATE), "deflate") == 0, "deflate");
    check(strcmp(encoding_name(ENCODING_IDENTITY), "identity") == 0, "identity");
    check(strcmp(encoding_name(ENCODING_UNKNOWN), "unknown") == 0, "unknown");
}

TEST(compress_choice)
{
    static const struct {
        const char *accept;
        enum encoding encoding;
        const char *why;
    } cases[] = {
        { "", ENCODING_IDENTITY, "absent" },
        { "gzip", ENCODING_GZIP, "" },
        { "deflate", ENCODING_DEFLATE, "" },
        { "deflate, gzip", ENCODING_GZIP, "ties go to gzip" },
        { "gzip;q=0.5, deflate;q=0.8", ENCODING_DEFLATE, "weights" },
        { "gzip;q=0.5", ENCODING_GZIP, "identity was not asked for" },
        { "gzip;q=0", ENCODING_IDENTITY, "refused" },
        { "gzip;q=0.000", ENCODING_IDENTITY, "refused" },
        { "gzip;q=0.001", ENCODING_GZIP, "least" },
        { "identity", ENCODING_IDENTITY, "" },
        { "identity, gzip", ENCODING_GZIP, "a tie" },
        { "identity, gzip;q=0.9", ENCODING_IDENTITY, "preferred" },
        { "identity;q=0.5, gzip;q=0.9", ENCODING_GZIP, "" },
        { "*", ENCODING_GZIP, "anything" },
        { "*;q=0", ENCODING_IDENTITY, "nothing: we answer all the same" },
        { "gzip;q=0, *", ENCODING_DEFLATE, "anything but" },
        { "gzip;q=0, deflate;q=0, *", ENCODING_IDENTITY, "anything but these" },
        { "identity;q=0", ENCODING_IDENTITY, "nothing else is named" },
        { "identity;q=0, *;q=0.1", ENCODING_GZIP, "" },
        { "br, zstd", ENCODING_IDENTITY, "unknown ones" },
        { "br;q=1.0, gzip;q=0.8, *;q=0.1", ENCODING_GZIP, "as browsers send" },
        { "gzip, deflate, br, zstd", ENCODING_GZIP, "as browsers send" },
        { "GZip ; Q=0.7 , deflate ; q=0.6", ENCODING_GZIP, "blanks and capitals" },
        { "x-gzip", ENCODING_GZIP, "old name" },
        { "gzip;q=1.001", ENCODING_IDENTITY, "weight above 1" },
        { "gzip;q=2, deflate", ENCODING_DEFLATE, "weight above 1" },
        { "gzip;q=abc, deflate;q=0.1", ENCODING_DEFLATE, "no weight" },
        { "gzip;q=0.1234", ENCODING_IDENTITY, "four decimals" },
        { "gzip;q=", ENCODING_IDENTITY, "no weight" },
        { "gzip;q=1.", ENCODING_GZIP, "RFC 9110 allows the bare point" },
        { ",, gzip ,", ENCODING_GZIP, "empty members" },
        { ";q=1", ENCODING_IDENTITY, "no name" },
        { "gzip;level=9", ENCODING_GZIP, "other parameters" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t size = strlen(cases[i].accept);
        char *copy = malloc(size + 1);
        memcpy(copy + 1, cases[i].accept, size);
        enum encoding encoding = encoding_choose(slice_make(copy + 1, size));
        check(encoding == cases[i].encoding, "%s: %s: %s", cases[i].accept, cases[i].why,
              encoding_name(encoding));
        free(copy);
    }
}

/* -- bodies ---------------------------------------------------------------------------------- */

static const enum encoding both[] = { ENCODING_GZIP, ENCODING_DEFLATE };

/* Half random, half repeated: text that shrinks, but not to nothing. */
static uint8_t *content_of(size_t size)
{
    uint8_t *content = malloc(size + 1);

    for (size_t i = 0; i < size; i++)
        content[i] = i % 64 < 32 ? (uint8_t)test_random() : (uint8_t)('a' + i % 7);
    return content;
}

static struct buf *deflated(enum encoding encoding, const void *content, size_t size)
{
    struct slice piece = slice_make(content, size);
    struct buf *buf = NULL;

    require(compress_deflate(&buf, NULL, encoding, &piece, 1, NULL) == OK);
    return buf;
}

TEST(compress_round_trips)
{
    static const size_t sizes[] = { 0, 1, 100, 4095, 4096, 4097, 65536, 1000000 };

    for (size_t i = 0; i < COUNT(sizes) * 2; i++) {
        size_t size = sizes[i / 2], cut = size == 0 ? 0 : test_random_below(size);
        enum encoding encoding = both[i % 2];
        uint8_t *content = content_of(size);
        struct slice pieces[4] = { slice_make(content, cut),
                                   { NULL, 0 },
                                   slice_make(content + cut, size - cut),
                                   { NULL, 0 } };
        struct budget budget;
        CLEANUP(buf_unref) struct buf *packed = NULL;
        struct err err = { 0 };
        budget_init(&budget, 16 << 20);
        check_or_stop(compress_deflate(&packed, &budget, encoding, pieces, 4, &err) == OK, "%s",
                      err.text);
        for (size_t align = 0; align < 200; align += 37) {
            CLEANUP(buf_unref) struct buf *plain = NULL;
            size_t offset = 42;
            check_or_stop(compress_inflate(&plain, &offset, &budget, encoding, buf_bytes(packed),
                                           size + align * 100, align, &err) == OK,
                          "size %zu: %s", size, err.text);
            struct slice got = slice_skip(buf_bytes(plain), offset);
            check(slice_eq(got, slice_make(content, size)), "size %zu", size);
            check(((uintptr_t)got.data + align) % BUF_ALIGN == 0, "byte %zu on a line", align);
            if (size > 0) {
                CLEANUP(buf_unref) struct buf *none = NULL;
                check(compress_inflate(&none, &offset, &budget, encoding, buf_bytes(packed),
                                       size - 1, align, &err) == E_RANGE &&
                          none == NULL,
                      "a byte too many of %zu", size);
                check(strstr(err.text, "limit of ") != NULL, "%s", err.text);
            }
        }
        buf_unref(&packed);
        check(budget_used(&budget) == 0, "all given back");
        free(content);
    }
}

/* zlib's own one-call interface agrees in both directions. */
TEST(compress_agrees_with_zlib)
{
    uint8_t *content = content_of(5000), plain[5000], packed[8000];
    uLongf packed_size = sizeof packed, plain_size = sizeof plain;
    CLEANUP(buf_unref) struct buf *ours = deflated(ENCODING_DEFLATE, content, 5000);
    CLEANUP(buf_unref) struct buf *back = NULL;
    size_t offset;

    check(uncompress(plain, &plain_size, buf_bytes(ours).data, buf_bytes(ours).size) == Z_OK &&
              plain_size == 5000 && memcmp(plain, content, 5000) == 0,
          "zlib reads ours");
    check(compress2(packed, &packed_size, content, 5000, 9) == Z_OK, "zlib writes");
    check_or_stop(compress_inflate(&back, &offset, NULL, ENCODING_DEFLATE,
                                   slice_make(packed, packed_size), 5000, 0, NULL) == OK,
                  "we read zlib's");
    check(slice_eq(slice_skip(buf_bytes(back), offset), slice_make(content, 5000)), "the same");
    free(content);
}

static enum err_code inflate_text(struct slice in, enum encoding encoding, size_t out_max,
                                  char *out, struct err *err)
{
    CLEANUP(buf_unref) struct buf *buf = NULL;
    size_t offset;
    enum err_code code = compress_inflate(&buf, &offset, NULL, encoding, in, out_max, 0, err);

    if (code == OK) {
        struct slice text = slice_skip(buf_bytes(buf), offset);
        memcpy(out, text.data, text.size);
        out[text.size] = '\0';
    } else {
        check(buf == NULL, "nothing is left on failure");
    }
    return code;
}

TEST(compress_members_follow_each_other)
{
    CLEANUP(buf_unref) struct buf *a = deflated(ENCODING_GZIP, "hello, ", 7);
    CLEANUP(buf_unref) struct buf *b = deflated(ENCODING_GZIP, "world", 5);
    CLEANUP(buf_unref) struct buf *empty = deflated(ENCODING_GZIP, "", 0);
    CLEANUP(buf_unref) struct buf *z = deflated(ENCODING_DEFLATE, "hello", 5);
    uint8_t all[200];
    char out[100];
    size_t size = 0;
    struct err err = { 0 };
    struct buf *order[] = { empty, a, empty, b, empty };

    for (size_t i = 0; i < COUNT(order); i++) {
        memcpy(all + size, buf_bytes(order[i]).data, buf_bytes(order[i]).size);
        size += buf_bytes(order[i]).size;
    }
    check(inflate_text(slice_make(all, size), ENCODING_GZIP, 12, out, &err) == OK &&
              strcmp(out, "hello, world") == 0,
          "%s", err.text);
    check(inflate_text(slice_make(all, size), ENCODING_GZIP, 11, out, &err) == E_RANGE,
          "the limit is for all of them");
    all[size] = 0;
    check(inflate_text(slice_make(all, size + 1), ENCODING_GZIP, 99, out, &err) == E_INVALID,
          "a zero behind them");
    all[size] = 'x';
    all[size + 1] = 'y';
    check(inflate_text(slice_make(all, size + 2), ENCODING_GZIP, 99, out, &err) == E_INVALID,
          "other bytes behind them");
    /* A zlib stream stands alone. */
    size = buf_bytes(z).size;
    memcpy(all, buf_bytes(z).data, size);
    memcpy(all + size, buf_bytes(z).data, size);
    check(inflate_text(slice_make(all, 2 * size), ENCODING_DEFLATE, 99, out, &err) == E_INVALID &&
              strcmp(err.text, "13 bytes follow the deflate stream") == 0,
          "%s", err.text);
}

TEST(compress_refuses)
{
    /* "hello" as raw deflate; a zlib header that asks for a dictionary; a bad checksum. */
    static const uint8_t raw[] = { 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00 };
    static const uint8_t dict[] = { 0x78, 0xbb, 0x01, 0x02, 0x03, 0x04, 0xcb, 0x48 };
    CLEANUP(buf_unref) struct buf *gzip = deflated(ENCODING_GZIP, "hello", 5);
    char out[100];
    struct err err = { 0 };

    check(inflate_text(slice_make(raw, sizeof raw), ENCODING_DEFLATE, 99, out, &err) == E_INVALID &&
              strstr(err.text, "not raw deflate") != NULL,
          "%s", err.text);
    check(inflate_text(slice_make(dict, sizeof dict), ENCODING_DEFLATE, 99, out, &err) ==
                  E_INVALID &&
              strstr(err.text, "preset dictionary") != NULL,
          "%s", err.text);
    check(inflate_text(slice_of("not compressed"), ENCODING_GZIP, 99, out, &err) == E_INVALID &&
              strstr(err.text, "not valid gzip") != NULL,
          "%s", err.text);
    check(inflate_text(buf_bytes(gzip), ENCODING_DEFLATE, 99, out, &err) == E_INVALID, "gzip");
    for (unsigned i = 0; i < 2; i++)
        check(inflate_text(slice_of(""), both[i], 99, out, &err) == E_INVALID &&
                  strstr(err.text, "is cut off after 0 bytes") != NULL,
              "%s", err.text);
}

/* Each cut is refused; with a bit turned over it is refused or still says the same. */
TEST(compress_damage)
{
    uint8_t *content = content_of(3000);

    for (unsigned i = 0; i < 2; i++) {
        CLEANUP(buf_unref) struct buf *packed = deflated(both[i], content, 3000);
        struct slice whole = buf_bytes(packed);
        char out[3001];
        struct err err;
        for (size_t cut = 0; cut < whole.size; cut++) {
            uint8_t *copy = malloc(cut + 1);
            memcpy(copy + 1, whole.data, cut);
            check(inflate_text(slice_make(copy + 1, cut), both[i], 3000, out, &err) == E_INVALID,
                  "cut %zu", cut);
            free(copy);
        }
        for (size_t bit = 0; bit < 8 * whole.size; bit += 5) {
            uint8_t *copy = malloc(whole.size);
            memcpy(copy, whole.data, whole.size);
            copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
            enum err_code code =
                inflate_text(slice_make(copy, whole.size), both[i], 3000, out, &err);
            check(code == E_INVALID || code == E_RANGE ||
                      (code == OK && memcmp(out, content, 3000) == 0),
                  "bit %zu", bit);
            free(copy);
        }
    }
    free(content);
}

TEST(compress_bomb_costs_what_it_may)
{
    enum { ZEROS = 64 << 20, OUT_MAX = 1 << 20 };
    uint8_t *zeros = calloc(1, ZEROS);

    check_or_stop(zeros != NULL, "memory");
    for (unsigned i = 0; i < 2; i++) {
        CLEANUP(buf_unref) struct buf *bomb = deflated(both[i], zeros, ZEROS), *out = NULL;
        struct budget budget;
        struct err err = { 0 };
        size_t offset;
        check(buf_bytes(bomb).size < ZEROS / 200, "it is one: %zu", buf_bytes(bomb).size);
        budget_init(&budget, OUT_MAX + OUT_MAX / 2 + 1024);
        check(compress_inflate(&out, &offset, &budget, both[i], buf_bytes(bomb), OUT_MAX, 0,
                               &err) == E_RANGE,
              "refused");
        check(strstr(err.text, "more than the limit of 1048576 bytes") != NULL, "%s", err.text);
        check(budget_used(&budget) == 0 && out == NULL, "nothing kept");
        budget_init(&budget, OUT_MAX / 2);
        check(compress_inflate(&out, &offset, &budget, both[i], buf_bytes(bomb), OUT_MAX, 0,
                               &err) == E_EXHAUSTED,
              "the budget is spent first");
        check(strstr(err.text, "--memory-limit") != NULL, "%s", err.text);
        check(budget_used(&budget) == 0 && out == NULL, "nothing kept");
    }
    free(zeros);
}

TEST(compress_takes_what_comes_out)
{
    uint8_t *content = content_of(10000);

    for (unsigned i = 0; i < 2; i++) {
        struct budget budget;
        CLEANUP(buf_unref) struct buf *packed = deflated(both[i], content, 10000), *out = NULL;
        size_t offset;
        budget_init(&budget, 32768);
        check(compress_inflate(&out, &offset, &budget, both[i], buf_bytes(packed), 1 << 30, 0,
                               NULL) == OK,
              "a high limit costs nothing");
    }
    free(content);
}

TEST(compress_survives_every_fault)
{
    uint8_t *content = content_of(60000);
    struct slice piece = slice_make(content, 60000);

    for (unsigned i = 0; i < 2; i++) {
        struct budget budget;
        budget_init(&budget, 1 << 20);
        for_each_fault(nth) {
            CLEANUP(buf_unref) struct buf *packed = NULL, *plain = NULL;
            struct err err = { 0 };
            size_t offset;
            enum err_code code = compress_deflate(&packed, &budget, both[i], &piece, 1, &err);
            if (code == OK)
                code = compress_inflate(&plain, &offset, &budget, both[i], buf_bytes(packed), 60000,
                                        0, &err);
            buf_unref(&packed);
            buf_unref(&plain);
            check(budget_used(&budget) == 0, "fault %u leaked", nth);
            if (!fault_fired()) {
                check(code == OK && nth > 4, "the sweep met faults");
                break;
            }
            check(code == E_EXHAUSTED && err.text[0] != '\0', "fault %u: %s", nth, err.text);
        }
    }
    free(content);
}
