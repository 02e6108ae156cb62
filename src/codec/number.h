/* number.h - decimal text to binary numbers and back, exactly. Pure; any thread. */
#ifndef CODEC_NUMBER_H
#define CODEC_NUMBER_H

#include "base/slice.h"

/* Reads a JSON number (RFC 8259 section 6) at text.data. Returns how many bytes it took; 0 when there
 * is none there. Correctly rounded (nearest, ties to even). Infinite results mean out of range. */
size_t number_read_f64(struct slice text, double *ret);
size_t number_read_f32(struct slice text, float *ret);

/* Shortest text that reads back to the same value; returns its length. Finite values only.
 * out has NUMBER_TEXT_MAX bytes. Whole numbers end in ".0"; exponents as 1e+20, 1e-07 are written
 * 1e+20 and 1e-7 when the decimal exponent is < -5 or > 15 (f32: same rule). */
enum { NUMBER_TEXT_MAX = 32 };
size_t number_write_f64(char *out, double value);
size_t number_write_f32(char *out, float value);
/* At most `digits` significant digits (1 to 17), trailing zeros dropped. */
size_t number_write_digits(char *out, double value, int digits);

/* IEEE binary16 and bfloat16 as bits. From double: nearest even; past the range: infinity. */
uint16_t number_f16_of(double value);
double number_of_f16(uint16_t bits);
uint16_t number_bf16_of(double value);
double number_of_bf16(uint16_t bits);
/* Shortest text for the 16-bit formats (value = number_of_*). */
size_t number_write_f16(char *out, uint16_t bits);
size_t number_write_bf16(char *out, uint16_t bits);

#endif
