/* number_test.c - SPDX-License-Identifier: Apache-2.0
 *
 * The slow twins: glibc's strtod, strtof and printf, which are exact; long double for the middles
 * between doubles. The inline scan is compiled here without SSE, so that both ways are compared.
 */
#define NUMBER_SCAN_PORTABLE
#include "codec/number.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "codec/number_scan.h"
#include "test/harness.h"

/* Steps of the random comparisons; PENSTOCK_TEST_LONG=1 takes a hundred times as many. */
static unsigned steps(unsigned usual)
{
    return getenv("PENSTOCK_TEST_LONG") != NULL ? 100 * usual : usual;
}

/* The text again, with its end at the end of the last page that may be read. */
static struct slice at_the_edge(const char *text, size_t size)
{
    static uint8_t *end;

    if (end == NULL) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        uint8_t *memory =
            mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require(memory != MAP_FAILED && mprotect(memory + page, page, PROT_NONE) == 0);
        end = memory + page;
    }
    memcpy(end - size, text, size);
    return slice_make(end - size, size);
}

static uint64_t bits64(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double f64(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits32(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float f32(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* -- reading --------------------------------------------------------------------------------- */

static const struct {
    const char *text;
    size_t size; /* 0: no number */
    double value;
    const char *why;
} read_cases[] = {
    { "0", 1, 0, "" },
    { "-0", 2, -0.0, "keeps its sign" },
    { "1", 1, 1, "" },
    { "-12.5", 5, -12.5, "" },
    { "1e2", 3, 100, "" },
    { "1E+2", 4, 100, "" },
    { "1e-2", 4, 0.01, "" },
    { "0e5", 3, 0, "" },
    { "0.0e-999999999999999999999", 26, 0, "any exponent of nothing is nothing" },
    { "1e999999999999999999999999", 26, INFINITY, "out of range" },
    { "-1e999999999999999999999999", 27, -INFINITY, "out of range" },
    { "1e-999999999999999999999999", 27, 0, "too small" },
    { "123456789", 9, 123456789, "" },
    { "12345678901234567890", 20, 12345678901234567890.0, "twenty digits" },
    { "1.7976931348623157e308", 22, DBL_MAX, "largest" },
    { "1.7976931348623158e308", 22, DBL_MAX, "below the middle to the next" },
    { "1.7976931348623159e308", 22, INFINITY, "past the middle" },
    { "2.2250738585072014e-308", 23, 0x1p-1022, "smallest normal" },
    { "2.2250738585072011e-308", 23, 0x0.fffffffffffffp-1022, "largest subnormal" },
    { "4.9406564584124654e-324", 23, 0x1p-1074, "smallest" },
    { "2.4703282292062328e-324", 23, 0x1p-1074, "above half of the smallest" },
    { "2.4703282292062327e-324", 23, 0, "below half of it" },
    { "9007199254740993", 16, 9007199254740992.0, "a middle: to even" },
    { "9007199254740995", 16, 9007199254740996.0, "a middle: to even" },
    { "9007199254740993.0000000000000000000000000000000000001", 54, 9007199254740994.0,
      "just past it" },
    { "9007199254740992.9999999999999999999999999999999999999", 54, 9007199254740992.0,
      "just before it" },
    { "0.500000000000000166533453693773481063544750213623046875", 56, 0.5000000000000002,
      "a middle of 54 digits" },
    { "1.00000000000000011102230246251565404236316680908203125", 55, 1, "a middle: to even" },
    { "1.00000000000000011102230246251565404236316680908203124", 55, 1, "before it" },
    { "1.00000000000000011102230246251565404236316680908203126", 55, 1.0000000000000002,
      "past it" },
    { "1,2", 1, 1, "stops at a comma" },
    { "1]", 1, 1, "stops at a bracket" },
    { "1x", 1, 1, "stops at a letter" },
    { "0x10", 1, 0, "no hexadecimal numbers" },
    { "1 2", 1, 1, "stops at a blank" },
    { "1.5.5", 3, 1.5, "stops at a second point" },
    { "1e5e5", 3, 100000, "stops at a second exponent" },
    { "", 0, 0, "nothing" },
    { "-", 0, 0, "only a sign" },
    { "+1", 0, 0, "a plus" },
    { "--1", 0, 0, "two signs" },
    { ".5", 0, 0, "no digit before the point" },
    { "-.5", 0, 0, "no digit before the point" },
    { "1.", 0, 0, "no digit behind the point" },
    { "1.e5", 0, 0, "no digit behind the point" },
    { "1e", 0, 0, "no digit in the exponent" },
    { "1e+", 0, 0, "no digit in the exponent" },
    { "1.5e-", 0, 0, "no digit in the exponent" },
    { "1e 5", 0, 0, "a blank in the exponent" },
    { "01", 0, 0, "zero in front" },
    { "-01", 0, 0, "zero in front" },
    { "00", 0, 0, "zero in front" },
    { "00.5", 0, 0, "zero in front" },
    { " 1", 0, 0, "a blank" },
    { "NaN", 0, 0, "a word" },
    { "Infinity", 0, 0, "a word" },
    { "-Infinity", 0, 0, "a word" },
    { "e5", 0, 0, "only an exponent" },
    { "/1", 0, 0, "the byte before '0'" },
    { ":1", 0, 0, "the byte after '9'" },
    { "\xb0", 0, 0, "a byte that is '0' but for its top bit" },
};

/* All four readers and both scans take the same bytes. */
static void check_read(struct slice text, size_t size, double value, const char *why)
{
    double wide = 42;
    float narrow = 42;
    uint16_t half = 42, brain = 42;
    struct decimal d;
    const uint8_t *end = number_scan(text.data, text.data + text.size, &d);

    check(number_read_f64(text, &wide) == size, "%.*s: %s", SLICE_ARG(text), why);
    check(number_read_f32(text, &narrow) == size, "%.*s: %s", SLICE_ARG(text), why);
    check(number_read_f16(text, &half) == size, "%.*s: %s", SLICE_ARG(text), why);
    check(number_read_bf16(text, &brain) == size, "%.*s: %s", SLICE_ARG(text), why);
    check(end == (size == 0 ? NULL : text.data + size), "%.*s: %s", SLICE_ARG(text), why);
    if (size == 0) {
        check(bits64(wide) == bits64(42) && bits32(narrow) == bits32(42), "untouched");
        check(half == 42 && brain == 42, "untouched");
    } else {
        check(bits64(wide) == bits64(value), "%.*s: %s: %.17g", SLICE_ARG(text), why, wide);
    }
}

TEST(number_read_cases)
{
    for (size_t i = 0; i < COUNT(read_cases); i++) {
        const char *text = read_cases[i].text;
        size_t length = strlen(text), size = read_cases[i].size;
        double value = read_cases[i].value;
        char longer[512];
        check_read(at_the_edge(text, length), size, value, read_cases[i].why);
        /* With text behind it, the fast scan is the one that reads it. */
        snprintf(longer, sizeof longer, "%s,%064d", text, 0);
        if (text[0] != '\0')
            check_read(slice_of(longer), size, value, read_cases[i].why);
    }
}

/* A number of random form: up to `digits_max` digits, a point somewhere, an exponent at times. */
static size_t random_number(char *out, unsigned digits_max, int exponent_max)
{
    unsigned digits = 1 + (unsigned)test_random_below(digits_max);
    unsigned whole = (unsigned)test_random_below(MIN(digits, 22u) + 1);
    unsigned kind = (unsigned)test_random_below(8);
    size_t at = 0;

    if (test_random_below(3) == 0)
        out[at++] = '-';
    if (whole == 0)
        out[at++] = '0';
    for (unsigned i = 0; i < digits; i++) {
        if (i == whole) {
            out[at++] = '.';
            for (unsigned zeros = test_random_below(4) == 0 ? (unsigned)test_random_below(9) : 0;
                 zeros > 0; zeros--)
                out[at++] = '0';
        }
        char digit = (char)('0' + (kind == 0   ? (i == 0 || i + 1 == digits)
                                   : kind == 1 ? 9
                                               : (int)test_random_below(10)));
        if (i == 0 && whole > 1 && digit == '0')
            digit = '1';
        out[at++] = digit;
    }
    if (test_random_below(2) == 0)
        at +=
            (size_t)sprintf(out + at, "%c%d", test_random_below(2) ? 'e' : 'E',
                            (int)test_random_below(2 * (uint64_t)exponent_max + 1) - exponent_max);
    out[at] = '\0';
    return at;
}

static void check_as_strtod(const char *text, size_t size)
{
    struct slice slices[2] = { at_the_edge(text, size), slice_make(text, size + 64) };

    for (unsigned i = 0; i < 2; i++) { /* the second is followed by zero bytes */
        double wide = 0, twin_wide = strtod(text, NULL), portable = 0;
        float narrow = 0, twin_narrow = strtof(text, NULL), portable_narrow = 0;
        struct decimal d;
        check(number_read_f64(slices[i], &wide) == size, "%s", text);
        check(number_read_f32(slices[i], &narrow) == size, "%s", text);
        check(bits64(wide) == bits64(twin_wide), "%s: %.17g, not %.17g", text, wide, twin_wide);
        check(bits32(narrow) == bits32(twin_narrow), "%s: %.9g, not %.9g", text, (double)narrow,
              (double)twin_narrow);
        if (number_scan(slices[i].data, slices[i].data + slices[i].size, &d) != NULL) {
            portable = number_f64_of_decimal(d);
            portable_narrow = number_f32_of_decimal(d);
        }
        check(bits64(wide) == bits64(portable) && bits32(narrow) == bits32(portable_narrow),
              "%s: portable scan", text);
    }
}

TEST(number_reads_as_strtod)
{
    static char text[2048];

    for (unsigned i = 0; i < steps(200000); i++) {
        memset(text, 0, 128);
        size_t size = random_number(text, 24, i % 2 == 0 ? 50 : 345);
        check_as_strtod(text, size);
        if (test_has_failed())
            return;
    }
    for (unsigned i = 0; i < steps(2000); i++) {
        memset(text, 0, sizeof text);
        size_t size = random_number(text, 1200, 345);
        check_as_strtod(text, size);
    }
}

/* Takes one from the last digit before `end`, borrowing. */
static void one_less(const char *text, char *end)
{
    char *last = end - 1;

    for (; *last == '0' || *last == '.'; last--)
        if (*last == '0')
            *last = '9';
    require(last >= text);
    *last = (char)(*last - 1);
}

/* Exactly the middle between two doubles, a bit less and a bit more. */
static void check_middle(uint64_t bits)
{
    static char text[2048];
    long double low = (long double)f64(bits);
    bool is_last = bits + 1 == bits64(INFINITY);
    long double high = is_last ? 0x1p1024L : (long double)f64(bits + 1);
    long double middle = low + (high - low) / 2;
    uint64_t even = bits % 2 == 0 ? bits : bits + 1;
    double value = 0;

    memset(text, 0, sizeof text);
    /* All digits of the middle, and then those of the exponent. */
    int size = snprintf(text, sizeof text - 128, "%.1080Le", middle);
    char *e = strchr(text, 'e'), tail[16];
    snprintf(tail, sizeof tail, "%s", e);
    require(size > 0 && e > text + 8);
    check(number_read_f64(slice_of(text), &value) != 0 && bits64(value) == even, "middle above %a",
          f64(bits));
    snprintf(e, 32, "1%s", tail);
    check(number_read_f64(slice_of(text), &value) != 0 && bits64(value) == bits + 1, "past %a",
          f64(bits));
    one_less(text, e);
    snprintf(e, 32, "9%s", tail);
    check(number_read_f64(slice_of(text), &value) != 0 && bits64(value) == bits, "before %a",
          f64(bits));
}

TEST(number_reads_middles_of_f64)
{
    const uint64_t largest = bits64(DBL_MAX);

    check_middle(0);
    check_middle(1);
    check_middle(2);
    check_middle(largest);
    for (uint64_t exponent = 0; exponent < 2047; exponent++) {
        check_middle(exponent << 52);
        check_middle((exponent << 52) + (test_random() >> 12));
        check_middle((exponent << 52) + 0xfffffffffffff);
    }
    for (unsigned i = 0; i < steps(1000); i++)
        check_middle(test_random() % largest);
}

/* The middle above a value of a narrower format is a double: as text, a bit less, a bit more. */
static void middle_texts(double low, double high, char out[3][512])
{
    double middle = low + (high - low) / 2;
    char tail[16];

    snprintf(out[0], 512, "%.200e", middle);
    snprintf(tail, sizeof tail, "%s", strchr(out[0], 'e'));
    memcpy(out[1], out[0], 512);
    snprintf(strchr(out[1], 'e'), 32, "1%s", tail);
    memcpy(out[2], out[0], 512);
    char *e = strchr(out[2], 'e');
    one_less(out[2], e);
    snprintf(e, 32, "9%s", tail);
}

TEST(number_reads_middles_of_f32)
{
    char texts[3][512];

    for (unsigned i = 0; i < steps(20000); i++) {
        uint32_t bits = (uint32_t)test_random() & 0x7fffffff;
        float value = 0;
        if (i < 4)
            bits = i < 3 ? i : 0x7f7fffff;
        if (bits >= 0x7f800000)
            continue;
        double high = bits == 0x7f7fffff ? 0x1p128 : (double)f32(bits + 1);
        middle_texts((double)f32(bits), high, texts);
        uint32_t wanted[3] = { bits + bits % 2, bits + 1, bits };
        for (unsigned j = 0; j < 3; j++) {
            check(number_read_f32(slice_of(texts[j]), &value) != 0 && bits32(value) == wanted[j],
                  "%a: %u", (double)f32(bits), j);
            check(bits32(strtof(texts[j], NULL)) == wanted[j], "the test's own text");
        }
        /* So near to the middle that the double is the middle and the text is not. */
        for (int digits = 14; digits <= 19; digits++) {
            char text[64];
            double middle = (double)f32(bits) + (high - (double)f32(bits)) / 2;
            snprintf(text, sizeof text, "%.*e", digits, middle);
            check(number_read_f32(slice_of(text), &value) != 0 &&
                      bits32(value) == bits32(strtof(text, NULL)),
                  "%s", text);
            if (middle > 1e-3 && middle < 1e9) {
                snprintf(text, sizeof text, "%.*f", digits - 6, middle);
                check(number_read_f32(slice_of(text), &value) != 0 &&
                          bits32(value) == bits32(strtof(text, NULL)),
                      "%s", text);
            }
        }
    }
    static const struct {
        const char *text;
        float value;
    } cases[] = {
        { "16777217", 16777216.0f },
        { "16777219", 16777220.0f },
        { "16777217.0000000000001", 16777218.0f },
        { "3.4028235e38", FLT_MAX },
        { "3.4028235677973367e38", INFINITY },
        { "3.4028235677973366e38", FLT_MAX },
        { "340282356779733661637539395458142568448", INFINITY },
        { "3.5e38", INFINITY },
        { "1e400", INFINITY },
        { "1.401298464324817e-45", 0x1p-149f },
        { "7.0064923216240853e-46", 0 },
        { "7.0064923216240854e-46", 0x1p-149f },
        { "1e-46", 0 },
        { "0.10000000149011612", 0.1f },
        { "0.1", 0.1f },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        float value = 42;
        check(number_read_f32(slice_of(cases[i].text), &value) == strlen(cases[i].text), "%s",
              cases[i].text);
        check(bits32(value) == bits32(cases[i].value), "%s: %.9g", cases[i].text, (double)value);
    }
}

TEST(number_reads_every_middle_of_16_bits)
{
    char texts[3][512];

    for (uint16_t bits = 0; bits < 0x7f80; bits++) {
        uint16_t half = 0, brain = 0;
        uint16_t wanted[3] = { (uint16_t)(bits + bits % 2), (uint16_t)(bits + 1), bits };
        double high = bits == 0x7f7f ? 0x1p128 : number_of_bf16((uint16_t)(bits + 1));
        middle_texts(number_of_bf16(bits), high, texts);
        for (unsigned j = 0; j < 3; j++)
            check(number_read_bf16(slice_of(texts[j]), &brain) != 0 && brain == wanted[j],
                  "BF16 %04x: %u", bits, j);
        if (bits >= 0x7c00)
            continue;
        high = bits == 0x7bff ? 65536 : number_of_f16((uint16_t)(bits + 1));
        middle_texts(number_of_f16(bits), high, texts);
        for (unsigned j = 0; j < 3; j++)
            check(number_read_f16(slice_of(texts[j]), &half) != 0 && half == wanted[j],
                  "FP16 %04x: %u", bits, j);
        char negative[600];
        snprintf(negative, sizeof negative, "-%s", texts[1]);
        check(number_read_f16(slice_of(negative), &half) != 0 && half == (wanted[1] | 0x8000),
              "FP16 -%04x", bits);
    }
}

static const struct {
    const char *text;
    enum number_whole kind;
    bool is_negative;
    uint64_t magnitude;
} whole_cases[] = {
    { "0", NUMBER_IS_WHOLE, false, 0 },
    { "-0", NUMBER_IS_WHOLE, false, 0 },
    { "-0.000", NUMBER_IS_WHOLE, false, 0 },
    { "0e99999999999", NUMBER_IS_WHOLE, false, 0 },
    { "0.0e-99999999999", NUMBER_IS_WHOLE, false, 0 },
    { "1.0", NUMBER_IS_WHOLE, false, 1 },
    { "-1.0", NUMBER_IS_WHOLE, true, 1 },
    { "1e2", NUMBER_IS_WHOLE, false, 100 },
    { "100e-2", NUMBER_IS_WHOLE, false, 1 },
    { "1.25e2", NUMBER_IS_WHOLE, false, 125 },
    { "18446744073709551615", NUMBER_IS_WHOLE, false, UINT64_MAX },
    { "-18446744073709551615", NUMBER_IS_WHOLE, true, UINT64_MAX },
    { "18446744073709551615.000", NUMBER_IS_WHOLE, false, UINT64_MAX },
    { "1844674407370955161500e-2", NUMBER_IS_WHOLE, false, UINT64_MAX },
    { "1.8446744073709551615e19", NUMBER_IS_WHOLE, false, UINT64_MAX },
    { "10000000000000000000", NUMBER_IS_WHOLE, false, 10000000000000000000u },
    { "1e19", NUMBER_IS_WHOLE, false, 10000000000000000000u },
    { "0.000000000000000000000000000001e49", NUMBER_IS_WHOLE, false, 10000000000000000000u },
    { "18446744073709551616", NUMBER_OUT_OF_RANGE, false, 0 },
    { "1e20", NUMBER_OUT_OF_RANGE, false, 0 },
    { "1e999999999999", NUMBER_OUT_OF_RANGE, false, 0 },
    { "99999999999999999999999999.5", NUMBER_HAS_FRACTION, false, 0 },
    { "1.5", NUMBER_HAS_FRACTION, false, 0 },
    { "1e-1", NUMBER_HAS_FRACTION, false, 0 },
    { "1e-999999999999", NUMBER_HAS_FRACTION, false, 0 },
    { "0.00000000000000000000000000000000000001", NUMBER_HAS_FRACTION, false, 0 },
    { "1.00000000000000000000000000000000000001", NUMBER_HAS_FRACTION, false, 0 },
    { "1.25e1", NUMBER_HAS_FRACTION, false, 0 },
    { "1.", NUMBER_NONE, false, 0 },
    { "", NUMBER_NONE, false, 0 },
    { "x", NUMBER_NONE, false, 0 },
};

TEST(number_whole_cases)
{
    for (size_t i = 0; i < COUNT(whole_cases); i++) {
        const char *text = whole_cases[i].text;
        bool is_negative = true;
        uint64_t magnitude = 42;
        size_t size = 42;
        enum number_whole kind =
            number_read_whole(at_the_edge(text, strlen(text)), &is_negative, &magnitude, &size);
        check(kind == whole_cases[i].kind, "%s: %d", text, (int)kind);
        check(size == (kind == NUMBER_NONE ? 0 : strlen(text)), "%s: %zu", text, size);
        if (kind == NUMBER_IS_WHOLE)
            check(is_negative == whole_cases[i].is_negative &&
                      magnitude == whole_cases[i].magnitude,
                  "%s: %llu", text, (unsigned long long)magnitude);
        else
            check(is_negative && magnitude == 42, "%s: untouched", text);
    }
}

TEST(number_whole_round_trips)
{
    for (unsigned i = 0; i < steps(100000); i++) {
        uint64_t value = test_random() >> test_random_below(64), back = 0;
        char text[64] = { 0 }, twin[32];
        bool is_negative = true;
        size_t size, length = number_write_u64(text, value);
        snprintf(twin, sizeof twin, "%llu", (unsigned long long)value);
        check(length == strlen(twin) && memcmp(text, twin, length) == 0, "%s", twin);
        check(number_read_whole(slice_make(text, length), &is_negative, &back, &size) ==
                      NUMBER_IS_WHOLE &&
                  back == value && !is_negative && size == length,
              "%s", twin);
        length = number_write_i64(text, (int64_t)value);
        snprintf(twin, sizeof twin, "%lld", (long long)value);
        check(length == strlen(twin) && memcmp(text, twin, length) == 0, "%s", twin);
    }
    char text[NUMBER_TEXT_MAX];
    check(number_write_i64(text, INT64_MIN) == 20 && memcmp(text, "-9223372036854775808", 20) == 0,
          "smallest");
    check(number_write_u64(text, 0) == 1 && text[0] == '0', "zero");
}

/* -- writing --------------------------------------------------------------------------------- */

static const struct {
    double value;
    const char *f64, *f32; /* f32 NULL: not a float */
} write_cases[] = {
    { 0, "0.0", "0.0" },
    { -0.0, "-0.0", "-0.0" },
    { 1, "1.0", "1.0" },
    { -1, "-1.0", "-1.0" },
    { 10, "10.0", "10.0" },
    { 255, "255.0", "255.0" },
    { 0.5, "0.5", "0.5" },
    { 0.25, "0.25", "0.25" },
    { 1.5, "1.5", "1.5" },
    { 0.1, "0.1", NULL },
    { 0x1.99999ap-4, "0.10000000149011612", "0.1" },
    { 100000, "100000.0", "100000.0" },
    { 1234567, "1234567.0", "1234567.0" },
    { 12345678, "12345678.0", "12345678.0" },
    { 16777216, "16777216.0", "16777216.0" },
    { 123456789, "123456789.0", NULL },
    { 1234567890123456, "1234567890123456.0", NULL },
    { 9007199254740991, "9007199254740991.0", NULL },
    { 9007199254740992, "9007199254740992.0", "9007199000000000.0" },
    { 1e15, "1000000000000000.0", NULL },
    { 0x1.c6bf52p+49, "999999986991104.0", "1000000000000000.0" },
    { 1e16, "1e+16", NULL },
    { 12345678901234567.0, "1.2345678901234568e+16", NULL },
    { 1e20, "1e+20", NULL },
    { 1.5e20, "1.5e+20", NULL },
    { 1e21, "1e+21", NULL },
    { 1e22, "1e+22", NULL },
    { 1e23, "1e+23", NULL },
    { 0.001, "0.001", NULL },
    { 0.0001, "0.0001", NULL },
    { 0.00001, "0.00001", NULL },
    { 0.000012345, "0.000012345", NULL },
    { 0.00001234567890123456, "0.00001234567890123456", NULL },
    { 0.000001, "1e-6", NULL },
    { 0.0000012345, "1.2345e-6", NULL },
    { 1e-7, "1e-7", NULL },
    { 5e-324, "5e-324", NULL },
    { 2.2250738585072014e-308, "2.2250738585072014e-308", NULL },
    { 1.7976931348623157e308, "1.7976931348623157e+308", NULL },
    { -1.7976931348623157e308, "-1.7976931348623157e+308", NULL },
    { 0x1p-149, "1.401298464324817e-45", "1e-45" },
    { 0x1.fffffep127, "3.4028234663852886e+38", "3.4028235e+38" },
    { 0x1p-126, "1.1754943508222875e-38", "1.1754944e-38" },
    { 0x1p-44, "5.684341886080802e-14", "5.684342e-14" },
    { 2.0000000000000004, "2.0000000000000004", NULL },
    { 0.75, "0.75", "0.75" },
    { 3, "3.0", "3.0" },
    { 1e9, "1000000000.0", "1000000000.0" },
};

static const char *wrote(char *out, size_t size)
{
    require(size < NUMBER_TEXT_MAX);
    out[size] = '\0';
    return out;
}

TEST(number_write_cases)
{
    for (size_t i = 0; i < COUNT(write_cases); i++) {
        double value = write_cases[i].value;
        char text[NUMBER_TEXT_MAX];
        wrote(text, number_write_f64(text, value));
        check(strcmp(text, write_cases[i].f64) == 0, "%s, not %s", text, write_cases[i].f64);
        if (write_cases[i].f32 == NULL)
            continue;
        check((double)(float)value == value, "%s: the case's own value", write_cases[i].f64);
        wrote(text, number_write_f32(text, (float)value));
        check(strcmp(text, write_cases[i].f32) == 0, "%s, not %s", text, write_cases[i].f32);
    }
}

/* Splits a text like 12.50e-7 into its digits without zeros at the ends and the exponent of ten of
 * the first; checks that it is written as number.h says. */
static int take_apart(const char *text, char digits[64])
{
    const char *at = text + (*text == '-'), *point = strchr(text, '.'), *e = strchr(text, 'e');
    const char *end = e != NULL ? e : text + strlen(text);
    size_t count = 0;
    int first = e != NULL ? atoi(e + 1) : 0, place = 0;
    bool is_leading = true;

    for (const char *c = at; c < end; c++) {
        if (*c == '.')
            continue;
        if (is_leading && *c == '0') {
            place -= point != NULL && c > point;
            continue;
        }
        if (is_leading) {
            is_leading = false;
            if (point != NULL && c < point)
                place = (int)(point - c) - 1;
            else if (point != NULL)
                place--;
        }
        digits[count++] = *c;
    }
    check(e != NULL || point != NULL, "%s: neither point nor exponent", text);
    check(e == NULL || ((first < -5 || first > 15) && place == 0), "%s: exponent", text);
    check(e != NULL || is_leading || (place >= -5 && place <= 15), "%s: no exponent", text);
    check(e == NULL || end[-1] != '0' || point == NULL, "%s: zeros before the exponent", text);
    check(e != NULL || end[-1] != '0' || end[-2] == '.', "%s: zeros at the end", text);
    check(point == NULL || (point > at && point + 1 < end), "%s: bare point", text);
    while (count > 0 && digits[count - 1] == '0')
        count--;
    digits[count] = '\0';
    return first + place;
}

/* The shortest digits that read back, found by trying 1, 2, 3 ... of them; the exponent of ten. */
static int shortest_twin(double value, bool is_f32, char digits[64])
{
    char text[64];

    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, value);
        if (is_f32 ? (double)strtof(text, NULL) == value : strtod(text, NULL) == value)
            break;
    }
    char *e = strchr(text, 'e');
    size_t count = 0;
    for (char *c = text; c < e; c++)
        if (*c >= '0' && *c <= '9')
            digits[count++] = *c;
    while (count > 1 && digits[count - 1] == '0')
        count--;
    digits[count] = '\0';
    return atoi(e + 1);
}

/* Reads back; and no other decimal as short is nearer. is_power: the next value below is nearer
 * than the next above, so a text may read back that is not what printf would round to. */
static void check_shortest(const char *text, double value, bool is_f32, bool is_power)
{
    char digits[64], twin[64];
    int first = take_apart(text, digits), twin_first = shortest_twin(fabs(value), is_f32, twin);

    check((text[0] == '-') == (signbit(value) != 0), "%s: sign", text);
    check(is_f32 ? bits32(strtof(text, NULL)) == bits32((float)value)
                 : bits64(strtod(text, NULL)) == bits64(value),
          "%s does not read back to %.17g", text, value);
    if (is_power && strlen(digits) < strlen(twin))
        return;
    check(strcmp(digits, twin) == 0 && first == twin_first, "%s, not %se%d (%a)", text, twin,
          twin_first, value);
}

static void check_write_f64(uint64_t bits)
{
    double value = f64(bits), back = 0;
    char text[NUMBER_TEXT_MAX];
    size_t size = number_write_f64(text, value);

    wrote(text, size);
    check_shortest(text, value, false, bits << 12 == 0);
    check(number_read_f64(slice_make(text, size), &back) == size && bits64(back) == bits, "%s",
          text);
}

static void check_write_f32(uint32_t bits)
{
    float value = f32(bits), back = 0;
    char text[NUMBER_TEXT_MAX];
    size_t size = number_write_f32(text, value);

    wrote(text, size);
    check_shortest(text, (double)value, true, bits << 9 == 0);
    check(number_read_f32(slice_make(text, size), &back) == size && bits32(back) == bits, "%s",
          text);
}

TEST(number_writes_f64_shortest)
{
    for (uint64_t exponent = 0; exponent < 2047; exponent++) {
        for (uint64_t fraction = 0; fraction < 3; fraction++) {
            if (exponent != 0 || fraction != 0)
                check_write_f64(exponent << 52 | fraction);
            check_write_f64((exponent << 52) + 0xfffffffffffff - fraction);
        }
        for (unsigned i = 0; i < 8; i++)
            check_write_f64(exponent << 52 | test_random() >> 12);
    }
    for (unsigned i = 0; i < steps(30000); i++) {
        /* Few digits, many digits, whole numbers, and values one bit beside those. */
        double value = (double)test_random_below(UINT64_C(1) << test_random_below(60)) /
                       (i % 3 == 0 ? 1 : pow(10, (double)test_random_below(30)));
        uint64_t bits = bits64(value) + test_random_below(3);
        if (value > 0)
            check_write_f64((bits - 1) | test_random() << 63);
        bits = test_random() >> 1;
        if (bits < bits64(INFINITY) && bits != 0)
            check_write_f64(bits);
    }
}

TEST(number_writes_f32_shortest)
{
    for (uint32_t exponent = 0; exponent < 255; exponent++) {
        for (uint32_t fraction = 0; fraction < 3; fraction++) {
            if (exponent != 0 || fraction != 0)
                check_write_f32(exponent << 23 | fraction);
            check_write_f32((exponent << 23) + 0x7fffff - fraction);
        }
        for (unsigned i = 0; i < 50; i++)
            check_write_f32(exponent << 23 | (uint32_t)(test_random() >> 41));
    }
    for (unsigned i = 0; i < steps(50000); i++) {
        float value = (float)test_random_below(UINT64_C(1) << test_random_below(40)) /
                      (i % 3 == 0 ? 1 : powf(10, (float)test_random_below(30)));
        uint32_t bits = bits32(value) + (uint32_t)test_random_below(3);
        if (value > 0)
            check_write_f32((bits - 1) | (uint32_t)test_random() << 31);
        bits = (uint32_t)test_random() & 0x7fffffff;
        if (bits < 0x7f800000 && bits != 0)
            check_write_f32(bits);
    }
}

/* Every float, or every 4,099th: what was written reads back. Shortness is checked above. */
TEST(number_f32_round_trips)
{
    uint64_t stride = getenv("PENSTOCK_TEST_LONG") != NULL ? 1 : 4099;

    for (uint64_t i = test_random_below(stride); i < UINT64_C(1) << 32; i += stride) {
        uint32_t bits = (uint32_t)i;
        char text[NUMBER_TEXT_MAX];
        float back = 0;
        if ((bits & 0x7fffffff) >= 0x7f800000)
            continue;
        size_t size = number_write_f32(text, f32(bits));
        size_t taken = number_read_f32(slice_make(text, size), &back);
        if (taken != size || bits32(back) != bits)
            check(false, "%.*s: %08x", (int)size, text, bits);
    }
}

/* The fewest digits that the format itself reads back. */
static size_t digits_of_16(uint16_t bits, double value, bool is_bf16, char digits[64], int *first)
{
    char text[64];
    uint16_t back = 0;

    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, value);
        size_t size = is_bf16 ? number_read_bf16(slice_of(text), &back)
                              : number_read_f16(slice_of(text), &back);
        if (size != 0 && back == bits)
            break;
    }
    char *e = strchr(text, 'e');
    size_t count = 0;
    for (char *c = text; c < e; c++)
        if (*c >= '0' && *c <= '9')
            digits[count++] = *c;
    while (count > 1 && digits[count - 1] == '0')
        count--;
    digits[count] = '\0';
    *first = atoi(e + 1);
    return count;
}

TEST(number_writes_every_value_of_16_bits)
{
    for (unsigned is_bf16 = 0; is_bf16 < 2; is_bf16++) {
        for (uint32_t i = 0; i < 0x10000; i++) {
            uint16_t bits = (uint16_t)i, size_bits = bits & 0x7fff, back = 0;
            char text[NUMBER_TEXT_MAX], digits[64], twin[64];
            int twin_first;
            if (size_bits >= (is_bf16 ? 0x7f80 : 0x7c00))
                continue;
            double value = is_bf16 ? number_of_bf16(size_bits) : number_of_f16(size_bits);
            size_t size = is_bf16 ? number_write_bf16(text, bits) : number_write_f16(text, bits);
            size_t taken = is_bf16 ? number_read_bf16(slice_make(text, size), &back)
                                   : number_read_f16(slice_make(text, size), &back);
            wrote(text, size);
            check(taken == size && back == bits, "%s: %04x, not %04x", text, back, bits);
            if (size_bits == 0) {
                check(strcmp(text, bits == 0 ? "0.0" : "-0.0") == 0, "%s", text);
                continue;
            }
            int first = take_apart(text, digits);
            size_t count = digits_of_16(size_bits, value, is_bf16, twin, &twin_first);
            bool is_power = (size_bits & (is_bf16 ? 0x7f : 0x3ff)) == 0;
            if (is_power && strlen(digits) < count)
                continue;
            check(strcmp(digits, twin) == 0 && first == twin_first, "%s, not %se%d", text, twin,
                  twin_first);
        }
    }
}

/* printf with the same number of digits; ties cannot differ, as both take the exact value. */
static void check_digits(double value, int precision, const char *text, size_t shortest_count)
{
    char twin[64], digits[64], twin_digits[64];
    int first = take_apart(text, digits);

    if (shortest_count <= (size_t)precision)
        return; /* short enough as it is: checked as the shortest */
    snprintf(twin, sizeof twin, "%.*e", precision - 1, value);
    char *e = strchr(twin, 'e');
    size_t count = 0;
    for (char *c = twin; c < e; c++)
        if (*c >= '0' && *c <= '9')
            twin_digits[count++] = *c;
    while (count > 1 && twin_digits[count - 1] == '0')
        count--;
    twin_digits[count] = '\0';
    check(strcmp(digits, twin_digits) == 0 && first == atoi(e + 1), "%s, not %s", text, twin);
}

TEST(number_writes_so_many_digits)
{
    char text[NUMBER_TEXT_MAX], shortest[NUMBER_TEXT_MAX], digits[64];

    for (unsigned i = 0; i < steps(100000); i++) {
        int precision = 1 + (int)test_random_below(17);
        uint64_t bits = test_random();
        double value = f64(bits);
        if (i % 2 == 0) /* ties: few bits, few digits, half of the last */
            value = (double)test_random_below(100000) / (double)(1 << test_random_below(12));
        if (!isfinite(value) || value == 0)
            continue;
        wrote(text, number_write_f64_digits(text, value, precision));
        wrote(shortest, number_write_f64(shortest, value));
        take_apart(shortest, digits);
        check_digits(value, precision, text, strlen(digits));
        check(strlen(digits) > (size_t)precision || strcmp(text, shortest) == 0, "%s, not %s", text,
              shortest);
        float narrow = i % 2 == 0 ? (float)value : f32((uint32_t)bits);
        if (!isfinite(narrow) || narrow == 0)
            continue;
        wrote(text, number_write_f32_digits(text, narrow, precision));
        wrote(shortest, number_write_f32(shortest, narrow));
        take_apart(shortest, digits);
        check_digits((double)narrow, precision, text, strlen(digits));
        check(strlen(digits) > (size_t)precision || strcmp(text, shortest) == 0, "%s, not %s", text,
              shortest);
    }
    for (uint32_t i = 0; i < 0x10000; i += 7) {
        uint16_t bits = (uint16_t)i;
        int precision = 1 + (int)(i % 4);
        if ((bits & 0x7fff) < 0x7c00 && (bits & 0x7fff) != 0) {
            wrote(text, number_write_f16_digits(text, bits, precision));
            wrote(shortest, number_write_f16(shortest, bits));
            take_apart(shortest, digits);
            check_digits(number_of_f16(bits), precision, text, strlen(digits));
        }
        if ((bits & 0x7fff) < 0x7f80 && (bits & 0x7fff) != 0) {
            wrote(text, number_write_bf16_digits(text, bits, precision));
            wrote(shortest, number_write_bf16(shortest, bits));
            take_apart(shortest, digits);
            check_digits(number_of_bf16(bits), precision, text, strlen(digits));
        }
    }
    static const struct {
        double value;
        int digits;
        const char *text;
    } cases[] = {
        { 0, 3, "0.0" },         { -0.0, 3, "-0.0" },
        { 2.5, 1, "2.0" },       { 3.5, 1, "4.0" },
        { 0.125, 2, "0.12" },    { 0.375, 2, "0.38" },
        { 9.96, 2, "10.0" },     { 99999, 2, "100000.0" },
        { 0.1, 17, "0.1" },      { 123456789, 3, "123000000.0" },
        { 9.99e15, 1, "1e+16" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        wrote(text, number_write_digits(text, cases[i].value, cases[i].digits));
        check(strcmp(text, cases[i].text) == 0, "%s, not %s", text, cases[i].text);
    }
}

/* -- 16-bit formats -------------------------------------------------------------------------- */

/* The nearest of all values of the format, by bisection and exact middles. */
static uint16_t nearest_of_16(double value, bool is_bf16)
{
    uint16_t low = 0, high = is_bf16 ? 0x7f80 : 0x7c00;
    double size = fabs(value);

    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        double there = is_bf16 ? number_of_bf16(middle) : number_of_f16(middle);
        *(size < there ? &high : &low) = middle;
    }
    double below = is_bf16 ? number_of_bf16(low) : number_of_f16(low);
    double above = high == (is_bf16 ? 0x7f80 : 0x7c00) ? (is_bf16 ? 0x1p128 : 65536)
                   : is_bf16                           ? number_of_bf16(high)
                                                       : number_of_f16(high);
    double middle = below + (above - below) / 2;
    uint16_t nearest = size < middle ? low : size > middle ? high : low % 2 == 0 ? low : high;
    return (uint16_t)(nearest | (signbit(value) ? 0x8000 : 0));
}

TEST(number_16_bits_of_double)
{
    for (uint32_t i = 0; i < 0x10000; i++) {
        uint16_t bits = (uint16_t)i;
        double half = number_of_f16(bits), brain = number_of_bf16(bits);
        if (!isnan(half))
            check(number_f16_of(half) == bits, "FP16 %04x", bits);
        else
            check(isnan(number_of_f16(number_f16_of(half))), "FP16 NaN %04x", bits);
        if (!isnan(brain))
            check(number_bf16_of(brain) == bits, "BF16 %04x", bits);
        else
            check(isnan(number_of_bf16(number_bf16_of(brain))), "BF16 NaN %04x", bits);
        /* BF16 is the upper half of a float. */
        check(isnan(brain) || bits32((float)brain) == (uint32_t)bits << 16, "BF16 %04x", bits);
    }
    check(number_of_f16(0x3c00) == 1 && number_of_f16(0x0001) == 0x1p-24 &&
              number_of_f16(0x7bff) == 65504 && isinf(number_of_f16(0xfc00)),
          "landmarks");
    for (unsigned i = 0; i < steps(200000); i++) {
        uint64_t bits = test_random();
        if (i % 2 == 0) /* exponents around those of FP16, and few bits, so that ties come */
            bits = (bits & ~(UINT64_C(0x7ff) << 52)) | (990 + test_random_below(52)) << 52;
        if (i % 4 == 0)
            bits &= UINT64_C(0xffffffff) << 32 << test_random_below(12);
        double value = f64(bits);
        if (isnan(value))
            continue;
        check(number_f16_of(value) == nearest_of_16(value, false), "FP16 of %a", value);
        check(number_bf16_of(value) == nearest_of_16(value, true), "BF16 of %a", value);
        if (i % 2 == 0) {
            bits = (bits & ~(UINT64_C(0x7ff) << 52)) | (870 + test_random_below(290)) << 52;
            check(number_bf16_of(f64(bits)) == nearest_of_16(f64(bits), true), "BF16 of %a",
                  f64(bits));
        }
    }
}
