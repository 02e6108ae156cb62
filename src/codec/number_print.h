/* number_print.h - the hot half of writing numbers, inlined into the loops of number.c and
 * tensor_json.c. Others want number.h, whose functions write the same.
 *
 * The digits of a normal number are found in fixed point; whatever that cannot decide goes to
 * number_exact_write_* in number.c. Nothing here branches on digits: which comes next is as good as
 * random, and each wrong guess costs more than a whole number should.
 */
#ifndef CODEC_NUMBER_PRINT_H
#define CODEC_NUMBER_PRINT_H

#include "codec/number_scan.h"

__extension__ typedef unsigned __int128 number_u128;

/* Any finite number but its sign, from its bits; and digits * 10^exponent. */
COLD size_t number_exact_write_f64(char *out, uint64_t bits);
COLD size_t number_exact_write_f32(char *out, uint32_t bits);
COLD size_t number_exact_write(char *out, uint64_t digits, int exponent);

/* condition ? yes : no, without a branch */
static inline uint64_t number_pick(bool condition, uint64_t yes, uint64_t no)
{
    return no ^ ((yes ^ no) & (0 - (uint64_t)condition));
}

/* floor(log2(10^q)), for |q| < 1233 */
static inline int number_log2_of_pow10(int q)
{
    return (q * 1741647) >> 19;
}

/* floor(log10(2^q)), or floor(log10(3/4 * 2^q)) */
static inline int number_log10_of_pow2(int q, bool is_three_quarters)
{
    return (q * 1262611 - (is_three_quarters ? 524031 : 0)) >> 22;
}

/* How to scale a mantissa so that it becomes the digits of a decimal: shift up, take the upper half
 * of the product with `power`; the decimal's exponent is `exponent`. From tools/pow10. */
struct number_scale {
    uint64_t power;
    int16_t exponent;
    uint16_t shift; /* 1 to 4 */
};
extern const struct number_scale number_scale_f32[256]; /* by biased exponent, 1 to 254 */

/* (10 * tens + last) * 10^exponent */
struct number_quick {
    uint64_t tens, last;
    int exponent;
};

/* The shortest decimal of a normal number of FP64 or, when !is_wide, of FP32 whose mantissa is no
 * power of two. False when this way cannot tell. What comes out may end in zeros.
 *
 * The scaled value is whole.fraction, and what rounds back to the value reaches `half` to either
 * side, 0.5 <= half < 5. So the nearest whole number rounds back, and of the multiples of ten,
 * which are a digit shorter, at most one. The power is off by up to one unit, which the product
 * spreads over the last 28 of 64 bits behind the point for FP32; FP64 adds the lower half of the
 * power, `power_low`, and 2 remain. */
static inline bool number_quick_digits(struct number_quick *ret, uint64_t mantissa,
                                       struct number_scale scale, uint64_t power_low, bool is_wide)
{
    const uint64_t one = (uint64_t)1 << 60, slack = is_wide ? 16 : (uint64_t)1 << 26;
    number_u128 product = (number_u128)(mantissa << scale.shift) * scale.power;

    if (is_wide)
        product += (uint64_t)((number_u128)(mantissa << scale.shift) * power_low >> 64);
    uint64_t whole = (uint64_t)(product >> 64), tens = whole / 10, ones = whole - 10 * tens;
    uint64_t fraction = (uint64_t)product >> 4, half = scale.power >> (5 - scale.shift);
    uint64_t above_ten = ones * one + fraction; /* the multiple of ten below */
    if (UNLIKELY((above_ten - half + slack <= 2 * slack) |
                 (above_ten - (10 * one - half) + slack <= 2 * slack) |
                 (fraction - one / 2 + slack <= 2 * slack)))
        return false;
    ones += fraction > one / 2; /* 10 only where the next multiple of ten is inside anyway */
    bool is_up = above_ten > 10 * one - half, is_down = above_ten < half;
    *ret = (struct number_quick){ tens + is_up, number_pick(is_up | is_down, 0, ones),
                                  scale.exponent };
    return true;
}

/* Eight digits as eight bytes 0 to 9, the LAST one lowest: fours, pairs, single ones. Each step
 * moves the upper part of all its numbers at once: x / d * (room - d) + x. */
static inline uint64_t number_bytes_of(uint64_t value)
{
    uint64_t fours = value + (value * 109951163 >> 40) * ((UINT64_C(1) << 32) - 10000);
    uint64_t pairs = fours + (fours * 10486 >> 20 & 0x0000007f0000007fu) * ((1 << 16) - 100);

    return pairs + (pairs * 103 >> 10 & 0x000f000f000f000fu) * ((1 << 8) - 10);
}

/* Bytes 0 to 9, the first one lowest. */
static inline void number_store_digits(char *out, uint64_t bytes)
{
    bytes |= 0x3030303030303030u;
    memcpy(out, &bytes, sizeof bytes);
}

/* Writes a decimal of 15 to 17 digits, 7 to 9 when !is_wide. All that could be a digit is stored
 * before the length is known: no loop, and hardly a branch that depends on the digits. */
static inline __attribute__((always_inline)) size_t number_print_quick(char *out,
                                                                       struct number_quick quick,
                                                                       bool is_wide)
{
    uint64_t low = number_bytes_of(is_wide ? quick.tens % 100000000 : quick.tens);
    uint64_t high = is_wide ? number_bytes_of(quick.tens / 100000000) : 0;
    const unsigned room = is_wide ? 16 : 8;
    unsigned zeros = is_wide ? quick.tens < 1000000000000000
                             : (quick.tens < 10000000) + (unsigned)(quick.tens < 1000000);
    unsigned last_at = room - zeros;           /* of the digits: `tens`, then `last` */
    int first = quick.exponent + (int)last_at; /* exponent of ten of the first digit */

    if (UNLIKELY(first < -5 || first >= (int)room - 2 || low == 0))
        return number_exact_write(out, 10 * quick.tens + quick.last, quick.exponent);
    unsigned size = (unsigned)number_pick(quick.last != 0, last_at + 1,
                                          last_at - (unsigned)__builtin_ctzll(low) / 8);
    number_u128 digits = __builtin_bswap64(low);
    if (is_wide)
        digits = digits << 64 | __builtin_bswap64(high);
    digits >>= 8 * zeros;
    char *at = out;
    if (first < 0) {
        memcpy(out, "0.000000", 8);
        at += 1 - first;
        size += (unsigned)(1 - first);
    }
    number_store_digits(at, (uint64_t)digits);
    if (is_wide)
        number_store_digits(at + 8, (uint64_t)(digits >> 64));
    if (first >= 0) { /* once more, one further, what is behind the point */
        at += first + 1;
        *at++ = '.';
        digits >>= 8 * ((unsigned)first + 1);
        number_store_digits(at, (uint64_t)digits);
        if (is_wide)
            number_store_digits(at + 8, (uint64_t)(digits >> 64));
        last_at -= (unsigned)first + 1;
        size = MAX(size, (unsigned)first + 2) + 1;
    }
    at[last_at] = (char)('0' + quick.last);
    return size;
}

/* A whole number below 10^8 and ".0". */
static inline size_t number_print_whole(char *out, uint64_t value)
{
    uint64_t bytes = __builtin_bswap64(number_bytes_of(value));
    unsigned zeros = (unsigned)__builtin_ctzll(bytes | (uint64_t)1 << 56) / 8;

    number_store_digits(out, bytes >> 8 * zeros);
    memcpy(out + 8 - zeros, ".0", 2);
    return 10 - zeros;
}

/* Finite values only; out has NUMBER_TEXT_MAX bytes. Whole numbers that the mantissa of FP32 can
 * hold are common in tensors (pixels, counts, 0.0 and 1.0) and have a way of their own. */
static inline size_t number_print_f64(char *out, double value)
{
    struct number_quick quick;
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    size_t sign = bits >> 63;
    *out = '-';
    out += sign;
    bits &= INT64_MAX;
    uint64_t biased = bits >> 52, fraction = bits & 0xfffffffffffff;
    uint64_t power_of_two = biased - 1023; /* that the number begins with */
    if ((power_of_two <= 23) & (fraction << (power_of_two & 31) << 12 == 0))
        return sign + number_print_whole(out, (fraction | 0x10000000000000) >> (52 - power_of_two));
    if (UNLIKELY(biased - 1 >= 2046 || fraction == 0))
        return sign + number_exact_write_f64(out, bits);
    int q = (int)biased - 1075, k = number_log10_of_pow2(q, false);
    struct pow10_bits power = number_pow10[-k - NUMBER_POW10_MIN];
    struct number_scale scale = { power.high, (int16_t)k,
                                  (uint16_t)(q + number_log2_of_pow10(-k) + 1) };
    if (UNLIKELY(!number_quick_digits(&quick, fraction | 0x10000000000000, scale, power.low, true)))
        return sign + number_exact_write_f64(out, bits);
    return sign + number_print_quick(out, quick, true);
}

static inline size_t number_print_f32(char *out, float value)
{
    struct number_quick quick;
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    size_t sign = bits >> 31;
    *out = '-';
    out += sign;
    bits &= INT32_MAX;
    uint32_t biased = bits >> 23, fraction = bits & 0x7fffff, power_of_two = biased - 127;
    if ((power_of_two <= 23) & (fraction << (power_of_two & 31) << 9 == 0))
        return sign + number_print_whole(out, (fraction | 0x800000) >> (23 - power_of_two));
    if (UNLIKELY(
            biased - 1 >= 254 || fraction == 0 ||
            !number_quick_digits(&quick, fraction | 0x800000, number_scale_f32[biased], 0, false)))
        return sign + number_exact_write_f32(out, bits);
    return sign + number_print_quick(out, quick, false);
}

#endif
