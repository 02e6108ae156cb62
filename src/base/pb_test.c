/* pb_test.c - the wire format, clause by clause, and against a plain reader.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/pb.h"

#include <stdio.h>
#include <stdlib.h>

#include "test/harness.h"

/* Memory of just that size, so that a sanitizer sees a byte too many. */
static struct slice copy_of(const void *data, size_t size)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);

    require(copy != NULL);
    if (size != 0)
        memcpy(copy, data, size);
    return slice_make(copy, size);
}

static const struct {
    const char *bytes;
    size_t size;
    bool is_read;
    uint64_t value;
    const char *why;
} numbers[] = {
    { "\x00", 1, true, 0, "zero" },
    { "\x7f", 1, true, 127, "the largest of one byte" },
    { "\x80\x01", 2, true, 128, "the smallest of two" },
    { "\xff\x7f", 2, true, 16383, "the largest of two" },
    { "\x80\x80\x80\x80\x10", 5, true, UINT64_C(1) << 32, "past 32 bits" },
    { "\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 9, true, INT64_MAX, "nine bytes" },
    { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, true, UINT64_MAX, "-1" },
    { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10, true, UINT64_MAX, "upper bits drop" },
    { "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", 10, true, 0, "an upper bit alone drops" },
    { "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 10, true, 0, "zero, overlong" },
    { "\x81\x80\x00", 3, true, 1, "one, overlong" },
    { "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 11, false, 0, "eleven bytes" },
    { "\x80", 1, false, 0, "ends in the middle" },
    { "\x80\x80\x80\x80\x80\x80\x80\x80\x80", 9, false, 0, "ends in the middle, late" },
    { "", 0, false, 0, "nothing" },
};

TEST(pb_varint_cases)
{
    for (size_t i = 0; i < COUNT(numbers); i++) {
        struct slice bytes = copy_of(numbers[i].bytes, numbers[i].size);
        struct pb_reader r;
        uint64_t value = 42;
        pb_begin(&r, bytes);
        check(pb_varint(&r, &value) == numbers[i].is_read, "%s", numbers[i].why);
        check(value == (numbers[i].is_read ? numbers[i].value : 42), "%s: %llu", numbers[i].why,
              (unsigned long long)value);
        check(pb_failed(&r) == (!numbers[i].is_read && bytes.size != 0), "%s", numbers[i].why);
        check(pb_at(&r) == (numbers[i].is_read ? bytes.size : 0), "%s", numbers[i].why);
        check(!pb_varint(&r, &value), "%s: nothing follows", numbers[i].why);
        free((void *)bytes.data);
    }
}

/* `text` is what reading gives: number, then v, q (64 bits), d (32 bits) or the string in quotes;
 * a fault's words after "!". */
static const struct {
    const char *bytes;
    size_t size;
    const char *text;
} messages[] = {
#define BYTES(text) text, sizeof(text) - 1
    { BYTES(""), "" },
    { BYTES("\x08\x05"), "1v5 " },
    { BYTES("\x08\x96\x01"), "1v150 " },
    { BYTES("\x12\x02hi\x18\x01"), "2'hi' 3v1 " },
    { BYTES("\x12\x00"), "2'' " },
    { BYTES("\x15\x01\x02\x00\x00\x1d\xff\xff\xff\xff"), "2d513 3d4294967295 " },
    { BYTES("\x11\x01\x00\x00\x00\x00\x00\x00\x80"), "2q9223372036854775809 " },
    { BYTES("\x82\x01\x01x\x78\x01"), "16'x' 15v1 " },
    { BYTES("\xf8\xff\xff\xff\x0f\x07"), "536870911v7 " },
    { BYTES("\x88\x80\x80\x80\x00\x05"), "1v5 " }, /* a tag may be overlong, up to 5 bytes */
    { BYTES("\x88\x80\x80\x80\x80\x00\x05"), "!a tag of more than 5 bytes@0" },
    { BYTES("\x88\x80\x80\x80\x10\x05"), "!a field number above 536870911@0" },
    { BYTES("\x08\x01\x88\x80\x80\x80\x10\x05"), "1v1 !a field number above 536870911@2" },
    { BYTES("\x00\x05"), "!a field number of 0@0" },
    { BYTES("\x02\x01z"), "!a field number of 0@0" },
    { BYTES("\x80\x00\x05"), "!a field number of 0@0" },
    { BYTES("\x0e\x01"), "!a wire type that does not exist@0" },
    { BYTES("\x08\x01\x0f\x01"), "1v1 !a wire type that does not exist@2" },
    { BYTES("\x08"), "!a number that ends in the middle@1" },
    { BYTES("\x08\x80"), "!a number that ends in the middle@1" },
    { BYTES("\x88"), "!a number that ends in the middle@0" },
    { BYTES("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), "1v18446744073709551615 " },
    { BYTES("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
      "!a number of more than 10 bytes@1" },
    { BYTES("\x0d\x01\x02\x03"), "!a number that ends in the middle@1" },
    { BYTES("\x09\x01\x02\x03\x04\x05\x06\x07"), "!a number that ends in the middle@1" },
    { BYTES("\x12"), "!a number that ends in the middle@1" },
    { BYTES("\x12\x01"), "!a length that reaches past the end@1" },
    { BYTES("\x12\x03hi"), "!a length that reaches past the end@1" },
    { BYTES("\x12\xff\xff\xff\xff\x07hi"), "!a length that reaches past the end@1" },
    { BYTES("\x12\x80\x80\x80\x80\x08hi"), "!a length of 2 GiB or more@1" },
    { BYTES("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01hi"), "!a length of more than 5 bytes@1" },
    { BYTES("\x12\x82\x80\x80\x80\x00hi"), "2'hi' " }, /* a length may be overlong as well */
    { BYTES("\x12\x82\x80\x80\x80\x80\x00hi"), "!a length of more than 5 bytes@1" },
    /* Groups: skipped whole, whatever is in them. */
    { BYTES("\x0b\x0c\x08\x01"), "1v1 " },
    { BYTES("\x0b\x10\x05\x1a\x01x\x25zzzz\x29zzzzzzzz\x0c\x08\x01"), "1v1 " },
    { BYTES("\x0b\x13\x0b\x0c\x14\x0c\x08\x01"), "1v1 " },
    { BYTES("\x0b\x00\x05\x0c\x08\x01"), "!a field number of 0@1" },
    { BYTES("\x0b"), "!a group without its end@1" },
    { BYTES("\x0b\x08\x01"), "!a group without its end@3" },
    { BYTES("\x0b\x08"), "!a number that ends in the middle@2" },
    { BYTES("\x0b\x13\x0c\x14"), "!the end of a group that is not the open one@2" },
    { BYTES("\x0b\x14"), "!the end of a group that is not the open one@1" },
    { BYTES("\x0c"), "!the end of a group that is not open@0" },
    { BYTES("\x08\x01\x0c"), "1v1 !the end of a group that is not open@2" },
    { BYTES("\x03\x04"), "!a field number of 0@0" },
    { BYTES("\x0b\x0f\x0c"), "!a wire type that does not exist@1" },
#undef BYTES
};

static void describe(struct pb_reader *r, char *out, size_t out_size)
{
    struct pb_field field;
    size_t at = 0;

    out[0] = '\0';
    while (pb_next(r, &field)) {
        char *to = out + at;
        size_t room = out_size - at;
        switch (field.wire) {
        case PB_LEN: snprintf(to, room, "%u'%.*s' ", field.number, SLICE_ARG(field.bytes)); break;
        case PB_I64:
            snprintf(to, room, "%uq%llu ", field.number, (long long unsigned)field.value);
            break;
        case PB_I32:
            snprintf(to, room, "%ud%llu ", field.number, (long long unsigned)field.value);
            break;
        default: snprintf(to, room, "%uv%llu ", field.number, (long long unsigned)field.value);
        }
        at += strlen(to);
    }
    if (pb_failed(r))
        snprintf(out + at, out_size - at, "!%s@%zu", r->fault, pb_at(r));
}

TEST(pb_next_cases)
{
    for (size_t i = 0; i < COUNT(messages); i++) {
        struct slice bytes = copy_of(messages[i].bytes, messages[i].size);
        struct pb_reader r;
        struct pb_field field;
        char text[256];
        pb_begin(&r, bytes);
        describe(&r, text, sizeof text);
        check(strcmp(text, messages[i].text) == 0, "row %zu: %s, expected %s", i, text,
              messages[i].text);
        check(!pb_next(&r, &field), "row %zu goes on behind its end", i);
        free((void *)bytes.data);
    }
}

TEST(pb_of_nothing)
{
    struct pb_reader r;
    struct pb_field field;
    uint64_t value;

    pb_begin(&r, slice_make(NULL, 0));
    check(!pb_next(&r, &field) && !pb_varint(&r, &value) && !pb_failed(&r), "nothing is no fault");
}

TEST(pb_groups_of_100)
{
    for (unsigned deep = 99; deep <= 101; deep++) {
        uint8_t bytes[202];
        struct pb_reader r;
        struct pb_field field;
        memset(bytes, 0x0b, deep);
        memset(bytes + deep, 0x0c, deep);
        pb_begin(&r, slice_make(bytes, 2 * deep));
        check(!pb_next(&r, &field), "%u", deep);
        check(pb_failed(&r) == (deep > 100), "%u deep: %s", deep, r.fault == NULL ? "" : r.fault);
    }
}

/* A message of one of each kind, cut at every byte: fields in front are read, the cut one is not. */
TEST(pb_truncation_at_every_byte)
{
    static const char whole[] = "\x08\x05\x12\x03"
                                "abc\x1d\x01\x02\x03\x04\x21\x01\x02\x03\x04\x05\x06\x07\x08"
                                "\xaa\x06\x02yz\x2b\x08\x01\x2c\x30\x80\x80\x01";
    static const uint8_t ends[] = { 0, 2, 7, 12, 21, 26, 30, 34 };

    for (size_t size = 0; size < sizeof whole; size++) {
        struct slice bytes = copy_of(whole, size);
        struct pb_reader r;
        struct pb_field field;
        unsigned fields = 0, expected = 0;
        bool is_end = false;
        pb_begin(&r, bytes);
        while (pb_next(&r, &field))
            fields++;
        for (size_t i = 0; i < COUNT(ends); i++) {
            is_end |= ends[i] == size;
            expected += i > 0 && ends[i] <= size && i != 6; /* the sixth is a group */
        }
        check(fields == expected, "%zu bytes: %u fields, expected %u", size, fields, expected);
        check(pb_failed(&r) == !is_end, "%zu bytes: %s", size, pb_failed(&r) ? r.fault : "fine");
        free((void *)bytes.data);
    }
}

/* -- against a plain reader --------------------------------------------------------------------- */

static int plain_varint(const uint8_t **at, const uint8_t *end, int bytes_max, uint64_t *ret)
{
    *ret = 0;
    for (int i = 0; i < bytes_max && *at < end; i++) {
        uint8_t byte = *(*at)++;
        for (int bit = 0; bit < 7; bit++)
            if (7 * i + bit < 64 && (byte & 1 << bit))
                *ret |= UINT64_C(1) << (7 * i + bit);
        if ((byte & 0x80) == 0)
            return 1;
    }
    return 0;
}

/* Sums what is read; 0 when it is refused. A group is a call of its own. */
static uint64_t plain_read(const uint8_t **at, const uint8_t *end, unsigned deep, uint64_t closes)
{
    uint64_t sum = 1, tag, value;

    while (*at < end) {
        if (!plain_varint(at, end, 5, &tag) || tag > UINT32_MAX)
            return 0;
        uint64_t number = tag / 8, wire = tag % 8;
        if (number == 0)
            return 0;
        if (wire == 4)
            return deep > 0 && number == closes ? sum : 0;
        if (wire == 0) {
            if (!plain_varint(at, end, 10, &value))
                return 0;
        } else if (wire == 1 || wire == 5) {
            int size = wire == 1 ? 8 : 4;
            if (end - *at < size)
                return 0;
            value = 0;
            for (int i = 0; i < size; i++)
                value |= (uint64_t) * (*at)++ << 8 * i;
        } else if (wire == 2) {
            if (!plain_varint(at, end, 5, &value) || value > INT32_MAX ||
                value > (uint64_t)(end - *at))
                return 0;
            uint64_t size = value;
            while (size-- > 0)
                value = value * 31 + *(*at)++;
        } else if (wire == 3 && deep < 100) {
            if (plain_read(at, end, deep + 1, number) == 0)
                return 0;
            continue;
        } else {
            return 0;
        }
        if (deep == 0)
            sum = (sum * 1000003 + number * 8 + wire + value * 7) | 1;
    }
    return deep == 0 ? sum : 0;
}

static uint64_t our_read(struct slice bytes)
{
    struct pb_reader r;
    struct pb_field field;
    uint64_t sum = 1;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        uint64_t value = field.value;
        if (field.wire == PB_LEN) {
            value = field.bytes.size;
            for (size_t i = 0; i < field.bytes.size; i++)
                value = value * 31 + field.bytes.data[i];
        }
        sum = (sum * 1000003 + field.number * 8u + field.wire + value * 7) | 1;
    }
    return pb_failed(&r) ? 0 : sum;
}

TEST(pb_reads_as_a_plain_reader)
{
    unsigned taken = 0;

    for (unsigned step = 0; step < 100000; step++) {
        uint8_t bytes[64];
        size_t size = test_random_below(24);
        for (size_t i = 0; i < size; i++) { /* tags of small fields, short lengths, bits on top */
            uint64_t draw = test_random();
            bytes[i] = (uint8_t)(draw % 3 == 0   ? draw >> 8 & 0x0f
                                 : draw % 3 == 1 ? draw >> 8 & 0x3f
                                                 : draw >> 8);
        }
        struct slice copy = copy_of(bytes, size);
        const uint8_t *at = copy.data;
        uint64_t plain = plain_read(&at, copy.data + size, 0, 0);
        check(our_read(copy) == plain, "step %u", step);
        taken += plain != 0 && size > 4;
        free((void *)copy.data);
    }
    check(taken > 1000, "%u of them were messages", taken);
}

/* -- writing ------------------------------------------------------------------------------------ */

TEST(pb_sizes_are_what_is_put)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        for (int delta = -1; delta <= 1; delta++) {
            uint64_t value = (UINT64_C(1) << bit) + (uint64_t)delta, back = 42;
            uint8_t bytes[PB_VARINT_MAX];
            struct pb_reader r;
            size_t size = (size_t)(pb_put_varint(bytes, value) - bytes);
            check(size == pb_size_varint(value), "%llu: %zu", (long long unsigned)value, size);
            pb_begin(&r, slice_make(bytes, size));
            check(pb_varint(&r, &back) && back == value, "%llu", (long long unsigned)value);
        }
    }
}

TEST(pb_puts_what_it_reads)
{
    static const char expected[] = "5v300 16'hello' 536870911d7 2q9 3v18446744073709551615 4'' ";
    uint8_t bytes[128], *at = bytes;
    struct pb_reader r;
    char text[256];

    at = pb_put_uint(at, 5, 300);
    uint8_t *before = at;
    at = pb_put_bytes(at, 16, slice_of("hello"));
    check((size_t)(at - before) == pb_size_len(16, 5), "%zu", (size_t)(at - before));
    at = pb_put_i32(at, PB_FIELD_MAX, 7);
    at = pb_put_i64(at, 2, 9);
    at = pb_put_uint(at, 3, UINT64_MAX);
    at = pb_put_bytes(at, 4, slice_make(NULL, 0));
    pb_begin(&r, slice_make(bytes, (size_t)(at - bytes)));
    describe(&r, text, sizeof text);
    check(strcmp(text, expected) == 0, "%s", text);
}

TEST(pb_zigzag_cases)
{
    check(pb_zigzag(0) == 0 && pb_zigzag(1) == -1 && pb_zigzag(2) == 1, "small ones");
    check(pb_zigzag(UINT64_MAX) == INT64_MIN && pb_zigzag(UINT64_MAX - 1) == INT64_MAX,
          "large ones");
}
