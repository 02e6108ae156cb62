/* number.c - how numbers are read and written; number.h says what comes out.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Reading goes through three doors, each exact or else knocking at the next:
 *   1. number_scan.h: one division of two exact doubles.
 *   2. Eisel-Lemire ("Number Parsing at a Gigabyte per Second", 2021): digits times 128 bits of
 *      the power of ten; the product says itself when it is too close to a middle to tell.
 *   3. settle: whatever number was found so far is walked, one step of the last bit at a time,
 *      until the text lies between the middles on its two sides, compared as whole numbers of any
 *      length.
 * FP32, FP16 and BF16 round the correctly rounded double again, which is right unless that lies in
 * the middle of two of theirs; then it is first moved by one bit to the side where the text is.
 *
 * Writing scales the value by a power of ten so that of what rounds back to it - the value and half
 * a last bit on each side - one to ten whole numbers lie inside, and takes one of them:
 *   1. number_print.h: as fixed point with 60 bits behind the point. If no decision hangs on the
 *      last of them, it is right.
 *   2. shortest_64 and _32: Schubfach (Giulietti, "The Schubfach way to render doubles", 2020),
 *      which compares integers whose lowest bit says "and a bit more" (rounding to odd). FP32 and
 *      the 16-bit formats need 64 bits of the power only; that these suffice for the 65,536 values
 *      of each 16-bit format is tested one by one.
 */
#include "codec/number.h"

#include <math.h>

#include "codec/number_print.h"
#include "codec/number_scan.h"

typedef number_u128 u128;

const double number_pow10_f64[23] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

const uint64_t number_pow10_u64[20] = {
    1,
    10,
    100,
    1000,
    10000,
    100000,
    1000000,
    10000000,
    100000000,
    1000000000,
    10000000000,
    100000000000,
    1000000000000,
    10000000000000,
    100000000000000,
    1000000000000000,
    10000000000000000,
    100000000000000000,
    1000000000000000000,
    10000000000000000000u,
};

enum {
    F64_FRACTION_BITS = 52,
    F64_BIAS = 1023 + F64_FRACTION_BITS, /* value = mantissa * 2^(biased - F64_BIAS) */
    F64_INFINITE = 2047
};

static uint64_t bits_of_f64(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double f64_of_bits(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* -- reading: text to decimal --------------------------------------------------------------- */

static bool is_digit(uint8_t c)
{
    return (uint8_t)(c - '0') <= 9;
}

const uint8_t *number_scan_exponent(const uint8_t *at, const uint8_t *end, int64_t *exponent)
{
    bool is_negative = false;
    int64_t value = 0;

    at++; /* e or E */
    if (at < end && (*at == '+' || *at == '-'))
        is_negative = *at++ == '-';
    if (at == end || !is_digit(*at))
        return NULL;
    /* No text is long enough for its digits to make up for an exponent of 10^15. */
    for (; at < end && is_digit(*at); at++)
        if (value < INT64_C(1000000000000000))
            value = value * 10 + (*at - '0');
    *exponent += is_negative ? -value : value;
    return at;
}

/* Appends one digit to d; `kept` counts the significant ones. */
static void add_digit(struct decimal *d, unsigned *kept, unsigned digit, bool is_fraction)
{
    if (*kept < NUMBER_DIGITS_MAX) {
        d->digits = d->digits * 10 + digit;
        *kept += d->digits != 0;
        d->exponent -= is_fraction;
    } else {
        d->has_more |= digit != 0;
        d->exponent += !is_fraction;
    }
}

const uint8_t *number_scan_any(const uint8_t *at, const uint8_t *end, struct decimal *ret)
{
    struct decimal d = { .text = at };
    unsigned kept = 0;

    if (at < end && *at == '-') {
        d.is_negative = true;
        at++;
    }
    if (at == end || !is_digit(*at))
        return NULL;
    if (*at == '0' && end - at > 1 && is_digit(at[1]))
        return NULL;
    for (; at < end && is_digit(*at); at++)
        add_digit(&d, &kept, *at - (unsigned)'0', false);
    if (at < end && *at == '.') {
        at++;
        if (at == end || !is_digit(*at))
            return NULL;
        for (; at < end && is_digit(*at); at++)
            add_digit(&d, &kept, *at - (unsigned)'0', true);
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at = number_scan_exponent(at, end, &d.exponent);
        if (at == NULL)
            return NULL;
    }
    d.text_end = at;
    *ret = d;
    return at;
}

/* -- reading: exact comparison --------------------------------------------------------------- */

/* A whole number of up to BIG_LIMBS * 64 bits, lowest limb first; limbs[count - 1] is not 0. */
enum {
    BIG_LIMBS = 96,
    /* Decimals between which a middle of two doubles can be told: after 767 significant digits
     * only "is there more?" counts. */
    SIGNIFICANT_MAX = 780
};
struct big {
    unsigned count;
    uint64_t limbs[BIG_LIMBS];
};

static void big_muladd(struct big *big, uint64_t factor, uint64_t add)
{
    u128 carry = add;

    for (unsigned i = 0; i < big->count; i++) {
        carry += (u128)big->limbs[i] * factor;
        big->limbs[i] = (uint64_t)carry;
        carry >>= 64;
    }
    if (carry != 0) {
        require(big->count < BIG_LIMBS);
        big->limbs[big->count++] = (uint64_t)carry;
    }
}

static void big_times_pow5(struct big *big, uint64_t power)
{
    for (; power >= 27; power -= 27)
        big_muladd(big, UINT64_C(7450580596923828125), 0); /* 5^27 */
    for (; power > 0; power--)
        big_muladd(big, 5, 0);
}

static void big_shift(struct big *big, uint64_t bits)
{
    unsigned limbs = (unsigned)(bits / 64);

    if (big->count == 0)
        return;
    big_muladd(big, UINT64_C(1) << bits % 64, 0);
    require(bits / 64 <= BIG_LIMBS - big->count);
    memmove(big->limbs + limbs, big->limbs, big->count * sizeof big->limbs[0]);
    memset(big->limbs, 0, limbs * sizeof big->limbs[0]);
    big->count += limbs;
}

static int big_compare(const struct big *a, const struct big *b)
{
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    for (unsigned i = a->count; i-- > 0;)
        if (a->limbs[i] != b->limbs[i])
            return a->limbs[i] < b->limbs[i] ? -1 : 1;
    return 0;
}

/* The significant digits of the text, up to SIGNIFICANT_MAX and a 1 for what follows; returns the
 * exponent of ten that belongs to them. */
static int64_t big_of_text(struct big *big, const struct decimal *d)
{
    const uint8_t *at = d->text;
    unsigned kept = 0;
    int64_t exponent = 0;
    bool is_fraction = false, has_more = false;

    big->count = 0;
    for (; at < d->text_end && (*at | 0x20) != 'e'; at++) {
        if (*at == '.')
            is_fraction = true;
        if (!is_digit(*at))
            continue;
        unsigned digit = *at - (unsigned)'0';
        if (kept < SIGNIFICANT_MAX) {
            big_muladd(big, 10, digit);
            kept += big->count != 0;
            exponent -= is_fraction;
        } else {
            has_more |= digit != 0;
            exponent += !is_fraction;
        }
    }
    if (has_more) {
        big_muladd(big, 10, 1);
        exponent--;
    }
    if (at < d->text_end)
        number_scan_exponent(at, d->text_end, &exponent);
    return exponent;
}

/* Compares the size of d (sign left out) with mantissa * 2^exponent, which must be near. */
static COLD int compare(const struct decimal *d, uint64_t mantissa, int64_t exponent)
{
    struct big left = { .count = 0 }, right = { .count = 0 };
    int64_t ten = d->exponent;

    if (d->has_more)
        ten = big_of_text(&left, d);
    else
        big_muladd(&left, 0, d->digits);
    big_muladd(&right, 0, mantissa);
    /* left * 5^ten * 2^ten against right * 2^exponent: keep both whole. */
    if (ten >= 0)
        big_times_pow5(&left, (uint64_t)ten);
    else
        big_times_pow5(&right, (uint64_t)-ten);
    if (ten >= exponent)
        big_shift(&left, (uint64_t)(ten - exponent));
    else
        big_shift(&right, (uint64_t)(exponent - ten));
    return big_compare(&left, &right);
}

/* Mantissa and exponent of positive finite bits. */
static uint64_t split(uint64_t bits, int64_t *exponent)
{
    uint64_t biased = bits >> F64_FRACTION_BITS;
    uint64_t fraction = bits & (((uint64_t)1 << F64_FRACTION_BITS) - 1);

    *exponent = (int64_t)(biased == 0 ? 1 : biased) - F64_BIAS;
    return biased == 0 ? fraction : fraction | (uint64_t)1 << F64_FRACTION_BITS;
}

/* Compares d with the middle of `bits` and the next double above. */
static int compare_middle(const struct decimal *d, uint64_t bits)
{
    int64_t exponent;
    uint64_t mantissa = split(bits, &exponent);

    return compare(d, 2 * mantissa + 1, exponent - 1);
}

/* Door 3: the right double, from one that is near. */
static COLD uint64_t settle(const struct decimal *d, uint64_t bits)
{
    const uint64_t infinite = (uint64_t)F64_INFINITE << F64_FRACTION_BITS;

    for (; bits < infinite; bits++) {
        int side = compare_middle(d, bits);
        if (side < 0 || (side == 0 && bits % 2 == 0))
            break;
    }
    for (; bits > 0; bits--) {
        int side = compare_middle(d, bits - 1);
        if (side > 0 || (side == 0 && bits % 2 == 0))
            break;
    }
    return bits;
}

/* -- reading: decimal to binary ------------------------------------------------------------- */

/* Door 2: the double nearest to digits * 10^q, as bits. False when the 128 bits do not tell; then
 * *ret is near. */
static bool eisel_lemire(uint64_t digits, int64_t q64, uint64_t *ret)
{
    const uint64_t infinite = (uint64_t)F64_INFINITE << F64_FRACTION_BITS;
    bool is_sure = true;

    if (digits == 0 || q64 < NUMBER_POW10_MIN) { /* 2^64 * 10^-343 is below half the smallest */
        *ret = 0;
        return true;
    }
    if (q64 > 308) {
        *ret = infinite;
        return true;
    }
    int q = (int)q64;
    int zeros = __builtin_clzll(digits);
    const struct pow10_bits *power = &number_pow10[q - NUMBER_POW10_MIN];
    u128 product = (u128)(digits << zeros) * power->high;
    uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
    /* Bits below those that are kept are all ones: the lower half of the power may carry. */
    if ((high & 0x1ff) == 0x1ff) {
        uint64_t carry = (uint64_t)((u128)(digits << zeros) * power->low >> 64);
        low += carry;
        high += low < carry;
        is_sure = low != UINT64_MAX || (q >= -27 && q <= 55);
    }
    /* 54 bits: the mantissa and one to round by. */
    int top = (int)(high >> 63);
    int shift = top + 64 - F64_FRACTION_BITS - 3;
    uint64_t mantissa = high >> shift;
    int biased = number_log2_of_pow10(q) + 63 + top - zeros + 1023;
    if (biased <= 0) { /* subnormal, or nothing */
        if (1 - biased >= 64) {
            *ret = 0;
            return is_sure;
        }
        mantissa >>= 1 - biased;
        mantissa = (mantissa + (mantissa & 1)) >> 1;
        /* Rounded up to the smallest normal number, the mantissa's top bit is its exponent. */
        *ret = mantissa;
        return is_sure;
    }
    /* Exactly a middle (possible only for these q): to even, so do not round up. */
    if (low <= 1 && q >= -4 && q <= 23 && (mantissa & 3) == 1 && mantissa << shift == high)
        mantissa &= ~(uint64_t)1;
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    /* The mantissa's top bit adds one to the exponent; a carry out of rounding adds another. */
    uint64_t bits = ((uint64_t)(biased - 1) << F64_FRACTION_BITS) + mantissa;
    *ret = MIN(bits, infinite);
    return is_sure;
}

/* The right double without its sign. */
static uint64_t f64_bits(const struct decimal *d)
{
    uint64_t bits, above;
    bool is_sure = eisel_lemire(d->digits, d->exponent, &bits);

    if (d->has_more) /* more digits lie between these two */
        is_sure = eisel_lemire(d->digits + 1, d->exponent, &above) && is_sure && bits == above;
    return LIKELY(is_sure) ? bits : settle(d, bits);
}

double number_exact_f64(struct decimal d)
{
    return f64_of_bits(f64_bits(&d) | (uint64_t)d.is_negative << 63);
}

/* The double from which rounding to a narrower format gives what rounding the text would. The
 * narrower format drops `dropped` bits of a normal number's fraction; is_exact says that it can
 * hold `bits` as they are. */
static uint64_t f64_to_narrow(const struct decimal *d, uint64_t bits, bool is_exact,
                              unsigned dropped)
{
    uint64_t below_half = ((uint64_t)1 << (dropped - 1)) - 1;

    /* Where the result is subnormal more bits are dropped: the test asks for less, so it is met
     * there too, and moving one bit toward the text does no harm where it was not needed. */
    if (is_exact || (bits & below_half) != 0 || bits >> F64_FRACTION_BITS == F64_INFINITE)
        return bits;
    int64_t exponent;
    uint64_t mantissa = split(bits, &exponent);
    int side = compare(d, mantissa, exponent);
    return side == 0 ? bits : side > 0 ? bits + 1 : bits - 1;
}

float number_exact_f32(struct decimal d)
{
    uint64_t bits = f64_bits(&d);
    double value = f64_of_bits(bits);
    bool is_exact = (double)(float)value == value;

    value = f64_of_bits(f64_to_narrow(&d, bits, is_exact, 29));
    return (float)(d.is_negative ? -value : value);
}

size_t number_read_f64(struct slice text, double *ret)
{
    struct decimal d;
    const uint8_t *at = number_scan(text.data, text.data + text.size, &d);

    if (at == NULL)
        return 0;
    *ret = number_f64_of_decimal(d);
    return (size_t)(at - text.data);
}

size_t number_read_f32(struct slice text, float *ret)
{
    struct decimal d;
    const uint8_t *at = number_scan(text.data, text.data + text.size, &d);

    if (at == NULL)
        return 0;
    *ret = number_f32_of_decimal(d);
    return (size_t)(at - text.data);
}

/* A format of 16 bits, which drops so many bits of a double's fraction. */
static inline size_t read_half(struct slice text, uint16_t (*half_of)(double),
                               double (*of_half)(uint16_t), unsigned dropped, uint16_t *ret_bits)
{
    struct decimal d;
    const uint8_t *at = number_scan(text.data, text.data + text.size, &d);

    if (at == NULL)
        return 0;
    double value = fabs(number_f64_of_decimal(d));
    bool is_exact = of_half(half_of(value)) == value;
    value = f64_of_bits(f64_to_narrow(&d, bits_of_f64(value), is_exact, dropped));
    *ret_bits = half_of(d.is_negative ? -value : value);
    return (size_t)(at - text.data);
}

size_t number_read_f16(struct slice text, uint16_t *ret_bits)
{
    return read_half(text, number_f16_of, number_of_f16, 42, ret_bits);
}

size_t number_read_bf16(struct slice text, uint16_t *ret_bits)
{
    return read_half(text, number_bf16_of, number_of_bf16, 45, ret_bits);
}

/* Digit by digit: `digits` of d has room for 19 only, and the last digits decide here. */
static enum number_whole whole_of_text(const struct decimal *d, uint64_t *ret)
{
    const uint8_t *at = d->text;
    int64_t places = 0; /* digits before the point, the exponent counted in */
    uint64_t value = 0;
    bool is_fraction = false, is_over = false;

    for (; at < d->text_end && (*at | 0x20) != 'e'; at++) {
        is_fraction |= *at == '.';
        places += !is_fraction && is_digit(*at);
    }
    if (at < d->text_end)
        number_scan_exponent(at, d->text_end, &places);
    for (at = d->text; at < d->text_end && (*at | 0x20) != 'e'; at++) {
        if (!is_digit(*at))
            continue;
        if (places-- <= 0) {
            if (*at != '0')
                return NUMBER_HAS_FRACTION;
        } else if (__builtin_mul_overflow(value, 10, &value) ||
                   __builtin_add_overflow(value, *at - (unsigned)'0', &value)) {
            is_over = true;
        }
    }
    for (; places > 0 && value != 0 && !is_over; places--)
        is_over = __builtin_mul_overflow(value, 10, &value);
    *ret = value;
    return is_over ? NUMBER_OUT_OF_RANGE : NUMBER_IS_WHOLE;
}

enum number_whole number_read_whole(struct slice text, bool *ret_is_negative,
                                    uint64_t *ret_magnitude, size_t *ret_size)
{
    struct decimal d;
    const uint8_t *at = number_scan(text.data, text.data + text.size, &d);
    enum number_whole kind = NUMBER_IS_WHOLE;
    uint64_t magnitude = 0;

    *ret_size = 0;
    if (at == NULL)
        return NUMBER_NONE;
    *ret_size = (size_t)(at - text.data);
    if (LIKELY(d.exponent == 0 && !d.has_more))
        magnitude = d.digits;
    else
        kind = whole_of_text(&d, &magnitude);
    if (kind == NUMBER_IS_WHOLE) {
        *ret_is_negative = d.is_negative && magnitude != 0;
        *ret_magnitude = magnitude;
    }
    return kind;
}

/* -- writing: binary to the shortest decimal ------------------------------------------------ */

/* digits * 10^exponent */
struct shortest {
    uint64_t digits;
    int exponent;
};

/* Chooses among the decimals around a value. All three are four times the scaled value or border,
 * rounded to odd; a border counts as inside when the mantissa is even, as it then rounds to it. */
static struct shortest choose(uint64_t value, uint64_t lower, uint64_t upper, bool is_even, int k)
{
    uint64_t digits = value / 4, tens = digits / 10, middle = 4 * digits + 2;

    lower += !is_even;
    upper -= !is_even;
    bool is_below = lower <= 40 * tens, is_above = 40 * tens + 40 <= upper;
    if (digits >= 10 && is_below != is_above) /* one digit fewer */
        return (struct shortest){ tens + is_above, k + 1 };
    is_below = lower <= 4 * digits;
    is_above = 4 * digits + 4 <= upper;
    if (is_below == is_above) /* the nearer one, or the even one */
        is_above = value > middle || (value == middle && digits % 2 == 1);
    return (struct shortest){ digits + is_above, k };
}

static inline uint64_t times_power_odd(struct pow10_bits power, uint64_t factor)
{
    u128 x = (u128)power.low * factor;
    u128 y = (u128)power.high * factor + (uint64_t)(x >> 64);

    return (uint64_t)(y >> 64) | ((uint64_t)y > 1);
}

/* mantissa * 2^q, with up to 53 bits of mantissa. is_close: the next value below is only half as
 * far as the next above (the mantissa is a power of two). */
static struct shortest shortest_64(uint64_t mantissa, int q, bool is_close)
{
    int k = number_log10_of_pow2(q, is_close);
    int h = q + number_log2_of_pow10(-k) + 1;
    struct pow10_bits power = number_pow10[-k - NUMBER_POW10_MIN];

    power.low += -k > 55; /* the table rounds those down; here all must be rounded up */
    return choose(times_power_odd(power, (4 * mantissa) << h),
                  times_power_odd(power, (4 * mantissa - 2 + is_close) << h),
                  times_power_odd(power, (4 * mantissa + 2) << h), mantissa % 2 == 0, k);
}

static inline uint64_t times_power_odd_32(uint64_t power, uint64_t factor)
{
    u128 y = (u128)power * factor;

    return (uint64_t)(y >> 64) | ((uint32_t)(y >> 32) > 1);
}

/* The same with up to 24 bits of mantissa and exponents as FP32, FP16 and BF16 have them. */
static struct shortest shortest_32(uint64_t mantissa, int q, bool is_close)
{
    int k = number_log10_of_pow2(q, is_close);
    int h = q + number_log2_of_pow10(-k) + 1;
    struct pow10_bits power = number_pow10[-k - NUMBER_POW10_MIN];
    uint64_t high = power.high + (power.low != 0);

    return choose(times_power_odd_32(high, (4 * mantissa) << h),
                  times_power_odd_32(high, (4 * mantissa - 2 + is_close) << h),
                  times_power_odd_32(high, (4 * mantissa + 2) << h), mantissa % 2 == 0, k);
}

/* -- writing: decimal to text --------------------------------------------------------------- */

static unsigned digits_count(uint64_t value) /* value > 0 */
{
    unsigned guess = (unsigned)(64 - __builtin_clzll(value)) * 1233 >> 12;

    return guess + (guess < 20 && value >= number_pow10_u64[guess]);
}

static COLD size_t write_exponent(char *out, int exponent)
{
    size_t at = 0;

    out[at++] = 'e';
    out[at++] = exponent < 0 ? '-' : '+';
    return at + number_write_u64(out + at, (uint64_t)(exponent < 0 ? -exponent : exponent));
}

/* Writes a decimal of up to 17 digits that is not 0, wherever its point is. */
static COLD size_t write_decimal(char *out, struct shortest s)
{
    unsigned count = digits_count(s.digits);
    int first = s.exponent + (int)count - 1; /* exponent of ten of the first digit */
    uint64_t all = s.digits * number_pow10_u64[17 - count];
    char digits[24]; /* 17 and zeros behind them */
    size_t size = 17, at = 0;

    digits[0] = (char)('0' + all / 10000000000000000);
    number_store_digits(digits + 1,
                        __builtin_bswap64(number_bytes_of(all / 100000000 % 100000000)));
    number_store_digits(digits + 9, __builtin_bswap64(number_bytes_of(all % 100000000)));
    memset(digits + 17, '0', sizeof digits - 17);
    while (size > 1 && digits[size - 1] == '0')
        size--;
    if (first < -5 || first > 15) { /* d.ddde+20 */
        out[at++] = digits[0];
        if (size > 1) {
            out[at++] = '.';
            memcpy(out + at, digits + 1, size - 1);
            at += size - 1;
        }
        return at + write_exponent(out + at, first);
    }
    if (first < 0) { /* 0.00ddd */
        memcpy(out, "0.000000", 8);
        at = (size_t)(1 - first);
        memcpy(out + at, digits, size);
        return at + size;
    }
    at = (size_t)first + 1; /* ddd.ddd */
    size = MAX(size, at + 1);
    memcpy(out, digits, at);
    out[at] = '.';
    memcpy(out + at + 1, digits + at, size - at);
    return size + 1;
}

static size_t write_zero(char *out)
{
    memcpy(out, "0.0", 3);
    return 3;
}

size_t number_write_u64(char *out, uint64_t value)
{
    char digits[24];

    if (value < 100000000) { /* most are: all at once, without the zeros before */
        uint64_t bytes = __builtin_bswap64(number_bytes_of(value));
        unsigned zeros = (unsigned)__builtin_ctzll(bytes | (uint64_t)1 << 56) / 8;
        number_store_digits(out, bytes >> 8 * zeros);
        return 8 - zeros;
    }
    uint64_t high = value / 100000000;
    number_store_digits(digits + 16, __builtin_bswap64(number_bytes_of(value % 100000000)));
    number_store_digits(digits + 8, __builtin_bswap64(number_bytes_of(high % 100000000)));
    number_store_digits(digits, __builtin_bswap64(number_bytes_of(high / 100000000)));
    unsigned count = digits_count(value);
    memcpy(out, digits + 24 - count, count);
    return count;
}

size_t number_write_i64(char *out, int64_t value)
{
    if (value >= 0)
        return number_write_u64(out, (uint64_t)value);
    *out = '-';
    return 1 + number_write_u64(out + 1, 0 - (uint64_t)value);
}

static struct shortest shortest_f64(uint64_t bits)
{
    int64_t exponent;
    uint64_t mantissa = split(bits, &exponent);
    bool is_close = mantissa == (uint64_t)1 << F64_FRACTION_BITS && exponent > 1 - F64_BIAS;

    require(bits != 0 && bits >> F64_FRACTION_BITS < F64_INFINITE);
    return shortest_64(mantissa, (int)exponent, is_close);
}

static struct shortest shortest_f32(uint32_t bits)
{
    uint32_t biased = bits >> 23, fraction = bits & 0x7fffff;

    require(bits != 0 && biased < 255);
    if (biased == 0)
        return shortest_32(fraction, -149, false);
    return shortest_32(fraction | 0x800000, (int)biased - 150, fraction == 0 && biased > 1);
}

size_t number_exact_write_f64(char *out, uint64_t bits)
{
    return bits == 0 ? write_zero(out) : write_decimal(out, shortest_f64(bits));
}

size_t number_exact_write_f32(char *out, uint32_t bits)
{
    return bits == 0 ? write_zero(out) : write_decimal(out, shortest_f32(bits));
}

size_t number_exact_write(char *out, uint64_t digits, int exponent)
{
    return write_decimal(out, (struct shortest){ digits, exponent });
}

size_t number_write_f64(char *out, double value)
{
    return number_print_f64(out, value);
}

size_t number_write_f32(char *out, float value)
{
    return number_print_f32(out, value);
}

static struct shortest shortest_f16(uint16_t bits)
{
    uint32_t biased = bits >> 10, fraction = bits & 0x3ff;

    if (biased == 0)
        return shortest_32(fraction, -24, false);
    return shortest_32(fraction | 0x400, (int)biased - 25, fraction == 0 && biased > 1);
}

size_t number_write_f16(char *out, uint16_t bits)
{
    size_t sign = bits >> 15;

    *out = '-';
    out += sign;
    bits &= INT16_MAX;
    require(bits < 0x7c00);
    return sign + (bits == 0 ? write_zero(out) : write_decimal(out, shortest_f16(bits)));
}

static struct shortest shortest_bf16(uint16_t bits)
{
    uint32_t biased = bits >> 7, fraction = bits & 0x7f;

    if (biased == 0)
        return shortest_32(fraction, -133, false);
    return shortest_32(fraction | 0x80, (int)biased - 134, fraction == 0 && biased > 1);
}

size_t number_write_bf16(char *out, uint16_t bits)
{
    size_t sign = bits >> 15;

    *out = '-';
    out += sign;
    bits &= INT16_MAX;
    require(bits < 0x7f80);
    return sign + (bits == 0 ? write_zero(out) : write_decimal(out, shortest_bf16(bits)));
}

/* Rounds `s`, the shortest decimal of the positive `value` in its own format, to `digits` digits,
 * as if `value` itself had been rounded. That is the same thing unless exactly half is cut off: a
 * middle strictly between the two would be a decimal as short as `s` and nearer to the value. */
static size_t write_rounded(char *out, bool is_negative, struct shortest s, double value,
                            int digits)
{
    require(digits >= 1 && digits <= 17);
    *out = '-';
    out += is_negative;
    if (value == 0)
        return is_negative + write_zero(out);
    int drop = (int)digits_count(s.digits) - digits;
    if (drop > 0) {
        uint64_t unit = number_pow10_u64[drop], rest = s.digits % unit;
        int side = rest * 2 < unit ? -1 : rest * 2 > unit;
        if (side == 0) {
            struct decimal middle = { .digits = s.digits, .exponent = s.exponent };
            int64_t exponent;
            uint64_t mantissa = split(bits_of_f64(value), &exponent);
            side = -compare(&middle, mantissa, exponent);
        }
        s.digits /= unit;
        s.exponent += drop;
        s.digits += side > 0 || (side == 0 && s.digits % 2 == 1);
    }
    return is_negative + write_decimal(out, s);
}

size_t number_write_f64_digits(char *out, double value, int digits)
{
    bool is_negative = signbit(value);
    struct shortest s = { 0, 0 };

    require(isfinite(value));
    value = fabs(value);
    if (value != 0)
        s = shortest_f64(bits_of_f64(value));
    return write_rounded(out, is_negative, s, value, digits);
}

size_t number_write_f32_digits(char *out, float value, int digits)
{
    bool is_negative = signbit(value);
    struct shortest s = { 0, 0 };
    uint32_t bits;

    require(isfinite(value));
    value = fabsf(value);
    memcpy(&bits, &value, sizeof bits);
    if (bits != 0)
        s = shortest_f32(bits);
    return write_rounded(out, is_negative, s, (double)value, digits);
}

size_t number_write_f16_digits(char *out, uint16_t bits, int digits)
{
    struct shortest s = { 0, 0 };
    uint16_t size = bits & INT16_MAX;

    require(size < 0x7c00);
    if (size != 0)
        s = shortest_f16(size);
    return write_rounded(out, bits >> 15, s, number_of_f16(size), digits);
}

size_t number_write_bf16_digits(char *out, uint16_t bits, int digits)
{
    struct shortest s = { 0, 0 };
    uint16_t size = bits & INT16_MAX;

    require(size < 0x7f80);
    if (size != 0)
        s = shortest_bf16(size);
    return write_rounded(out, bits >> 15, s, number_of_bf16(size), digits);
}

/* -- 16-bit formats --------------------------------------------------------------------------- */

/* Rounds the bits of a double to a format with `exponent_bits` and `fraction_bits`, ties to even.
 * NaN keeps its sign and becomes quiet. */
static uint16_t narrow(double value, unsigned exponent_bits, unsigned fraction_bits)
{
    uint64_t bits = bits_of_f64(value);
    uint64_t sign = bits >> 63 << 15;
    uint64_t infinite = (((uint64_t)1 << exponent_bits) - 1) << fraction_bits;
    int bias = (1 << (exponent_bits - 1)) - 1;
    int64_t exponent;

    bits &= INT64_MAX;
    if (bits >> F64_FRACTION_BITS == F64_INFINITE) {
        bool is_nan = bits << 12 != 0;
        return (uint16_t)(sign | infinite | (uint64_t)is_nan << (fraction_bits - 1));
    }
    uint64_t mantissa = split(bits, &exponent);
    int64_t biased = exponent + F64_FRACTION_BITS + bias;
    unsigned drop = F64_FRACTION_BITS - fraction_bits;
    if (biased < 1) { /* subnormal: further down by as much */
        if (biased < -60)
            return (uint16_t)sign;
        drop += (unsigned)(1 - biased);
        biased = 1;
    }
    if (drop > 62)
        return (uint16_t)sign;
    uint64_t kept = mantissa >> drop, half = (uint64_t)1 << (drop - 1);
    uint64_t rest = mantissa & (2 * half - 1);
    kept += rest > half || (rest == half && kept % 2 == 1);
    /* The mantissa's top bit adds one to the exponent, and so does a carry out of rounding. */
    uint64_t result = ((uint64_t)(biased - 1) << fraction_bits) + kept;
    return (uint16_t)(sign | MIN(result, infinite));
}

static double widen(uint16_t bits, unsigned exponent_bits, unsigned fraction_bits)
{
    uint64_t sign = (uint64_t)(bits >> 15) << 63;
    uint64_t biased = (uint64_t)(bits & INT16_MAX) >> fraction_bits;
    uint64_t fraction = bits & (((uint64_t)1 << fraction_bits) - 1);
    int bias = (1 << (exponent_bits - 1)) - 1;

    if (biased == ((uint64_t)1 << exponent_bits) - 1)
        return f64_of_bits(sign | (uint64_t)F64_INFINITE << F64_FRACTION_BITS |
                           fraction << (F64_FRACTION_BITS - fraction_bits));
    if (biased == 0) {
        double value = ldexp((double)fraction, 1 - bias - (int)fraction_bits);
        return sign != 0 ? -value : value;
    }
    return f64_of_bits(sign | (biased + 1023 - (uint64_t)bias) << F64_FRACTION_BITS |
                       fraction << (F64_FRACTION_BITS - fraction_bits));
}

uint16_t number_f16_of(double value)
{
    return narrow(value, 5, 10);
}

double number_of_f16(uint16_t bits)
{
    return widen(bits, 5, 10);
}

uint16_t number_bf16_of(double value)
{
    return narrow(value, 8, 7);
}

double number_of_bf16(uint16_t bits)
{
    return widen(bits, 8, 7);
}
