/* number.h - decimal text to binary numbers and back, exactly. Pure; any thread. No locale. */
#ifndef CODEC_NUMBER_H
#define CODEC_NUMBER_H

#include "base/slice.h"

/* Reads a JSON number (RFC 8259 section 6) at text.data. Returns how many bytes it took; 0 when
 * what stands there is not one ("01", "1.", ".5", "+1"). Correctly rounded from the decimal text
 * (nearest, ties to even), however long it is. An infinite result means out of range. */
size_t number_read_f64(struct slice text, double *ret);
size_t number_read_f32(struct slice text, float *ret);
/* IEEE binary16 and bfloat16, as bits. */
size_t number_read_f16(struct slice text, uint16_t *ret_bits);
size_t number_read_bf16(struct slice text, uint16_t *ret_bits);
/* The same for whole numbers: "1.0" and "1e2" are whole. */
enum number_whole { NUMBER_IS_WHOLE, NUMBER_HAS_FRACTION, NUMBER_OUT_OF_RANGE, NUMBER_NONE };
/* Any whole number as its sign and its size; *ret_size is the bytes it took, also when it is out of
 * range or has a fraction (0 with NUMBER_NONE). Zero is never negative. */
enum number_whole number_read_whole(struct slice text, bool *ret_is_negative,
                                    uint64_t *ret_magnitude, size_t *ret_size);

/* Shortest text that reads back to the same value, and of those the nearest; returns its length.
 * Finite values only. out has NUMBER_TEXT_MAX bytes, all of which may be overwritten; there is no
 * NUL. Whole numbers end in ".0"; with d.ddd * 10^x, x below -5 or above 15 is written as 1e-7,
 * 1.5e+20. */
enum { NUMBER_TEXT_MAX = 40 };
size_t number_write_f64(char *out, double value);
size_t number_write_f32(char *out, float value);
size_t number_write_f16(char *out, uint16_t bits);
size_t number_write_bf16(char *out, uint16_t bits);
/* The same with at most `digits` significant digits (1 to 17), rounded from the value itself
 * (nearest, ties to even); trailing zeros are dropped. */
size_t number_write_f64_digits(char *out, double value, int digits);
size_t number_write_f32_digits(char *out, float value, int digits);
size_t number_write_f16_digits(char *out, uint16_t bits, int digits);
size_t number_write_bf16_digits(char *out, uint16_t bits, int digits);
static inline size_t number_write_digits(char *out, double value, int digits)
{
    return number_write_f64_digits(out, value, digits);
}
/* Whole numbers, at most 20 bytes. */
size_t number_write_u64(char *out, uint64_t value);
size_t number_write_i64(char *out, int64_t value);

/* IEEE binary16 and bfloat16 as bits. From double: nearest even; past the range: infinity. */
uint16_t number_f16_of(double value);
double number_of_f16(uint16_t bits);
uint16_t number_bf16_of(double value);
double number_of_bf16(uint16_t bits);

#endif
