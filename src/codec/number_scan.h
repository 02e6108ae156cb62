/* number_scan.h - the hot half of reading numbers, inlined into the loops of number.c and
 * tensor_json.c. Others want number.h.
 *
 * Text becomes a struct decimal, eight digits at a time; a decimal becomes a float by one exact
 * division or multiplication where that is provably right (nearly always for the texts of FP32),
 * else by number_exact_* in number.c.
 */
#ifndef CODEC_NUMBER_SCAN_H
#define CODEC_NUMBER_SCAN_H

#include "base/slice.h"

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
    uint64_t digits;  /* the first 19 significant ones */
    int64_t exponent;
    bool is_negative;
    bool has_more;    /* digits that are not all zero follow those in `digits` */
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

/* The first n (0 to 7) digits of a word of text: shifted up so that zeros stand before them. */
static inline uint64_t number_of_some(uint64_t word, unsigned n)
{
    return number_of_bytes((word - 0x3030303030303030u) << (56 - 8 * n) << 8);
}

/* Reads the number at `at`; returns where it ends, NULL when there is none (RFC 8259 section 6).
 * What is not quick and plain goes to number_scan_any: the last bytes of a text, 8 or more digits
 * before the point, more than 19 digits in all, and everything that may be wrong. */
static inline const uint8_t *number_scan(const uint8_t *at, const uint8_t *end,
                                         struct decimal *ret)
{
    const uint8_t *begin = at;

    if (UNLIKELY(end - at < NUMBER_SCAN_ROOM))
        goto any;
    ret->is_negative = *at == '-';
    at += *at == '-';
    uint64_t word = number_load8(at);
    uint64_t stop = number_not_digits(word);
    if (UNLIKELY(stop == 0 || (stop & 0x80) != 0))
        goto any;
    unsigned whole = (unsigned)__builtin_ctzll(stop) / 8;
    if (UNLIKELY((word & 0xff) == '0' && whole > 1))
        goto any;
    uint64_t digits = number_of_some(word, whole);
    unsigned fraction = 0;
    at += whole;
    if (*at == '.') {
        word = number_load8(at + 1);
        stop = number_not_digits(word);
        if (stop != 0) {
            fraction = (unsigned)__builtin_ctzll(stop) / 8;
            if (UNLIKELY(fraction == 0))
                goto any;
            digits = digits * number_pow10_u64[fraction] + number_of_some(word, fraction);
        } else {
            digits = digits * 100000000 + number_of_bytes(word - 0x3030303030303030u);
            word = number_load8(at + 9);
            stop = number_not_digits(word);
            if (stop != 0) {
                fraction = (unsigned)__builtin_ctzll(stop) / 8;
            } else {
                if (UNLIKELY(whole > 3))
                    goto any;
                digits = digits * 100000000 + number_of_bytes(word - 0x3030303030303030u);
                word = number_load8(at + 17);
                stop = number_not_digits(word);
                if (UNLIKELY(stop == 0))
                    goto any;
                fraction = 8 + (unsigned)__builtin_ctzll(stop) / 8;
            }
            if (UNLIKELY(whole + fraction + 8 > NUMBER_DIGITS_MAX))
                goto any;
            digits = digits * number_pow10_u64[fraction % 8] + number_of_some(word, fraction % 8);
            fraction += 8;
        }
        at += 1 + fraction;
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
    return d->digits <= (uint64_t)1 << 53 && !d->has_more &&
           (uint64_t)(d->exponent + 22) <= 44;
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
