/* number_scan.h - the hot half of reading numbers, inlined into the loops of number.c and
 * tensor_json.c. Others want number.h.
 *
 * Text becomes a struct decimal, up to sixteen digits at a time (with SSE 4.1 where we are built
 * for it, as x86-64-v2 is; else as two words of eight); a decimal becomes a float by one exact
 * division or multiplication where that is provably right (nearly always for the texts of FP32),
 * else by number_exact_* in number.c. How many digits there will be is as good as random, so
 * nothing branches on it.
 */
#ifndef CODEC_NUMBER_SCAN_H
#define CODEC_NUMBER_SCAN_H

#include "base/slice.h"

#if defined __SSE4_1__ && !defined NUMBER_SCAN_PORTABLE /* a test wants to see the other way too */
#define NUMBER_SCAN_SSE 1
#include <smmintrin.h>
#else
#define NUMBER_SCAN_SSE 0
#endif

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "eight digits are read as one number");

enum { NUMBER_POW10_MIN = -342, NUMBER_POW10_MAX = 324 };

/* 10^q with 128 bits, the top one set: tools/pow10 says how it is rounded. */
struct pow10_bits {
    uint64_t high, low;
};
extern const struct pow10_bits number_pow10[NUMBER_POW10_MAX - NUMBER_POW10_MIN + 1];

extern const double number_pow10_f64[23]; /* 10^0 to 10^22: all that are exact */
extern const uint64_t number_pow10_u64[20];

/* A number as text has it: digits * 10^exponent, when has_more is false. */
struct decimal {
    uint64_t digits; /* the first 19 significant ones */
    int64_t exponent;
    bool is_negative;
    bool has_more;                  /* digits that are not all zero follow those in `digits` */
    const uint8_t *text, *text_end; /* borrowed: the whole number, for when 19 are too few */
};

enum {
    NUMBER_DIGITS_MAX = 19,
    NUMBER_SCAN_ROOM = 40 /* bytes the fast scan may look at */
};

/* Any number, one byte at a time. NULL when there is none. */
const uint8_t *number_scan_any(const uint8_t *at, const uint8_t *end, struct decimal *ret);
/* "e+12" at `at`, added to *exponent. NULL when digits are missing. */
const uint8_t *number_scan_exponent(const uint8_t *at, const uint8_t *end, int64_t *exponent);
double number_exact_f64(struct decimal d);
float number_exact_f32(struct decimal d);

static inline uint64_t number_load8(const uint8_t *at)
{
    uint64_t word;

    memcpy(&word, at, sizeof word);
    return word;
}

/* The top bit of the first byte that is not a digit is set, none before it (some behind it may be);
 * 0 when all eight are digits. */
static inline uint64_t number_not_digits(uint64_t word)
{
    return ((word + 0x4646464646464646u) | (word - 0x3030303030303030u)) & 0x8080808080808080u;
}

/* Eight bytes 0 to 9, the first digit lowest, as a number: pairs, then fours, then all. */
static inline uint64_t number_of_bytes(uint64_t bytes)
{
    uint64_t pairs = bytes * 10 + (bytes >> 8);

    return ((pairs & 0x000000ff000000ffu) * 0x000f424000000064u +
            (pairs >> 16 & 0x000000ff000000ffu) * 0x0000271000000001u) >>
           32;
}

/* Digits at the start of a word of text, 0 to 8. */
static inline unsigned number_digits_in(uint64_t word)
{
    uint64_t stop = number_not_digits(word);

    return stop == 0 ? 8 : (unsigned)__builtin_ctzll(stop) / 8;
}

/* The first n (1 to 8) digits of a word of text: shifted up so that zeros stand before them. */
static inline uint64_t number_of_some(uint64_t word, unsigned n)
{
    return number_of_bytes((word - 0x3030303030303030u) << (64 - 8 * n));
}

#if NUMBER_SCAN_SSE
/* The number that the digits at `at` make, at most sixteen, of which there are *ret_count. Reads 16
 * bytes. */
static inline uint64_t number_of_sixteen(const uint8_t *at, unsigned *ret_count)
{
    /* From byte n on: the shuffle that moves the first n of sixteen bytes to the end. */
    static const int8_t to_end[32] = { -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                       -1, -1, -1, -1, -1, 0,  1,  2,  3,  4,  5,
                                       6,  7,  8,  9,  10, 11, 12, 13, 14, 15 };
    __m128i bytes =
        _mm_sub_epi8(_mm_loadu_si128((const __m128i *)(const void *)at), _mm_set1_epi8('0'));
    __m128i is_digit = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(9)), bytes);
    unsigned count = (unsigned)__builtin_ctz(~(unsigned)_mm_movemask_epi8(is_digit));

    bytes =
        _mm_shuffle_epi8(bytes, _mm_loadu_si128((const __m128i *)(const void *)(to_end + count)));
    __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(10 | 1 << 8));
    __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(100 | 1 << 16));
    __m128i eights =
        _mm_madd_epi16(_mm_packus_epi32(fours, fours), _mm_set1_epi32(10000 | 1 << 16));
    uint64_t halves = (uint64_t)_mm_cvtsi128_si64(eights);
    *ret_count = count;
    return (halves & UINT32_MAX) * 100000000 + (halves >> 32);
}
#else
static inline uint64_t number_of_sixteen(const uint8_t *at, unsigned *ret_count)
{
    uint64_t first = number_load8(at), second = number_load8(at + 8);
    unsigned n = number_digits_in(first), more = number_digits_in(second);

    if (n < 8) {
        *ret_count = n;
        return n == 0 ? 0 : number_of_some(first, n);
    }
    *ret_count = 8 + more;
    return number_of_bytes(first - 0x3030303030303030u) * number_pow10_u64[more] +
           (more == 0 ? 0 : number_of_some(second, more));
}
#endif

/* Reads the number at `at`; returns where it ends, NULL when there is none (RFC 8259 section 6).
 * What is not quick and plain goes to number_scan_any: the last bytes of a text, 8 or more digits
 * before the point, more than 19 digits in all, and everything that may be wrong. */
static inline const uint8_t *number_scan(const uint8_t *at, const uint8_t *end, struct decimal *ret)
{
    const uint8_t *begin = at;
    unsigned whole = 1, fraction = 0;

    if (UNLIKELY(end - at < NUMBER_SCAN_ROOM))
        goto any;
    ret->is_negative = *at == '-';
    at += *at == '-';
    uint64_t digits = *at - (uint64_t)'0';
    if (at[1] != '.' || digits > 9) {
        uint64_t word = number_load8(at);
        whole = number_digits_in(word);
        if (UNLIKELY(whole == 0 || whole == 8 || (digits == 0 && whole > 1)))
            goto any;
        digits = number_of_some(word, whole);
    }
    at += whole;
    if (*at == '.') {
        uint64_t behind = number_of_sixteen(++at, &fraction);
        if (UNLIKELY(fraction == 0))
            goto any;
        digits = digits * number_pow10_u64[fraction] + behind;
        at += fraction;
        if (UNLIKELY(fraction == 16)) {
            uint64_t word = number_load8(at);
            unsigned more = number_digits_in(word);
            if (whole + fraction + more > NUMBER_DIGITS_MAX)
                goto any;
            if (more != 0)
                digits = digits * number_pow10_u64[more] + number_of_some(word, more);
            fraction += more;
            at += more;
        } else if (UNLIKELY(whole + fraction > NUMBER_DIGITS_MAX)) {
            goto any;
        }
    }
    ret->digits = digits;
    ret->exponent = -(int64_t)fraction;
    ret->has_more = false;
    ret->text = begin;
    if (UNLIKELY((*at | 0x20) == 'e')) {
        int64_t exponent = -(int64_t)fraction;
        at = number_scan_exponent(at, end, &exponent);
        ret->exponent = exponent;
    }
    ret->text_end = at;
    return at;
any:;
    struct decimal slow;
    at = number_scan_any(begin, end, &slow);
    if (at != NULL)
        *ret = slow;
    return at;
}

/* Clinger: both operands are exact, so the one rounding of the division is the right one. */
static inline bool number_is_quick(const struct decimal *d)
{
    return d->digits <= (uint64_t)1 << 53 && !d->has_more && (uint64_t)(d->exponent + 22) <= 44;
}

static inline double number_quick(const struct decimal *d)
{
    double value = (double)(int64_t)d->digits;

    value = d->exponent < 0 ? value / number_pow10_f64[-d->exponent]
                            : value * number_pow10_f64[d->exponent];
    return d->is_negative ? -value : value;
}

static inline double number_f64_of_decimal(struct decimal d)
{
    return LIKELY(number_is_quick(&d)) ? number_quick(&d) : number_exact_f64(d);
}

/* Rounding to double and then to float is right unless the double lies exactly between two floats:
 * rounding keeps order, so otherwise text and double lie on the same side of every such middle.
 * (A quick double is far from the subnormal floats.) */
static inline float number_f32_of_decimal(struct decimal d)
{
    if (LIKELY(number_is_quick(&d))) {
        double value = number_quick(&d);
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (LIKELY((bits & 0x1fffffff) != 0x10000000))
            return (float)value;
    }
    return number_exact_f32(d);
}

#endif
