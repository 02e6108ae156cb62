/* print.h - words for people on a terminal, and for shells that they paste into.
 *
 * Nothing that came from a file, a model or a server reaches a terminal unescaped.
 */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H

#include <stdbool.h>

#include "base/slice.h"
#include "base/text.h"
#include "model/signature.h"

/* Of every verb. EXIT_USAGE: other words on the command line are needed (a verb, an option, a value that
 * none can have), which nothing had to be opened or asked for to know. What a file, a variable, a server or
 * the machine has wrong is EXIT_FAILED: the same words may do when that is put right. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO = 3 };

/* The descriptor is a terminal, and NO_COLOR and TERM=dumb do not say otherwise. */
bool print_has_colour(int fd);
uint32_t print_columns(int fd); /* of the terminal; 0: it is none */

/* Writes all of it, then empties it; false when the reader is gone or memory ran out. */
bool print_out(int fd, struct text *text);
/* "penstock: <sentence>" on standard error; returns `status`. */
int print_failure(int status, const char *sentence);

/* Control characters and broken UTF-8 as \x1b; the rest as it is. Newlines too unless wanted. */
void print_escaped(struct text *out, struct slice text, bool keeps_lines);
/* As one word of a POSIX shell. */
void print_shell(struct text *out, struct slice word);
/* As one segment of a URL's path. */
void print_percent(struct text *out, struct slice segment);

/* Columns an escaped text takes on a terminal: code points, near enough. */
uint32_t print_width(struct slice text);
void print_padded(struct text *out, struct slice text, uint32_t width);

/* "input FP32 [-1,4] -> label INT64 [-1], probabilities FP32 [-1,3]" */
void print_signature(struct text *out, const struct signature *signature);

#endif
