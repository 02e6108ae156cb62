/* tensor_json.h - tensors as JSON text, both ways, in one pass and without a tree.
 *
 * Pure functions: no clock, no socket, no global. Any thread. Nothing outside [at, end) is read.
 *
 * Reading   `data` may be flat or nested to any depth up to TENSOR_JSON_DEPTH_MAX; only the number
 *           of elements counts (as in Triton), so lists may even be of unequal lengths.
 *           Integers must be whole and in range (1.0 and 1e2 are whole). BOOL takes true and false,
 *           and 0 and 1. FP16, BF16, FP32 and FP64 take any number, rounded once, from the decimal
 *           text to the nearest (ties to even); what would round to infinity is out of range. NaN
 *           and infinities are the bare words NaN, Infinity, -Infinity or the strings "NaN",
 *           "Infinity", "-Infinity"; null is NaN. BYTES takes strings; the bytes are the UTF-8 of
 *           the text.
 * Writing   Floats are the shortest text that reads back to the same value of their own dtype
 *           (FP32 0.1f is 0.1), as number.h has it: a digit before the point and, unless there is
 *           an exponent, ".0" when whole. NaN and infinities by enum json_nonfinite. BYTES are
 *           JSON strings; bytes that are not UTF-8 are E_INVALID with the element's index and the
 *           remedy (ask for binary data).
 * Errors    "inputs[0].data[3][1] (byte 187): 300 is out of range for UINT8 (0 to 255)". Bytes
 *           count from json_cursor.start.
 */
#ifndef CODEC_TENSOR_JSON_H
#define CODEC_TENSOR_JSON_H

#include "base/err.h"
#include "base/slice.h"
#include "base/text.h"
#include "penstock/tensor.h"

enum { TENSOR_JSON_DEPTH_MAX = 100 };

/* Where in a JSON text reading stands. at..end is what is left; start is for byte offsets. */
struct json_cursor {
    const uint8_t *start, *at, *end;
};

/* Reads one JSON array (or one bare scalar, when count is 1) of `count` elements at cursor->at into
 * out, which has count * dtype_size bytes. dtype is not BYTES. Moves the cursor behind the value.
 * `path` ("inputs[0].data") begins the path in errors. Fewer or more elements: E_INVALID, both
 * counts named. On failure out holds garbage and the cursor stands at the fault. */
MUST_USE enum err_code tensor_json_read(void *out, enum penstock_dtype dtype, uint64_t count,
                                        struct json_cursor *cursor, const char *path,
                                        struct err *err);
/* The same for strings: appends `count` elements in BYTES form (uint32 length, bytes) to out.
 * E_EXHAUSTED when out has no room. */
MUST_USE enum err_code tensor_json_read_bytes(struct text *out, uint64_t count,
                                              struct json_cursor *cursor, const char *path,
                                              struct err *err);
/* Finds the shape of the array at the cursor: nested lists of equal lengths, in which everything
 * that is no list is an element, also an object; rank 0 for a scalar. Does not move the cursor.
 * E_INVALID when it is not JSON or irregular (with the path). For requests that do not say their
 * shape. */
MUST_USE enum err_code tensor_json_shape(struct json_cursor cursor, uint32_t *ret_rank,
                                         int64_t shape[PENSTOCK_RANK_MAX], const char *path,
                                         struct err *err);

enum json_nonfinite {
    JSON_NONFINITE_WORDS,   /* NaN, Infinity, -Infinity bare: Python's json reads it */
    JSON_NONFINITE_STRINGS, /* "NaN": any JSON parser reads it */
    JSON_NONFINITE_NULL
};

struct tensor_json_style {
    enum json_nonfinite nonfinite;
    int precision;  /* significant digits at most for floats; 0: shortest */
    bool is_nested; /* lists in lists as the shape says; else one flat list */
};

/* Appends the tensor's data as a JSON array (nested: a scalar for rank 0). Room runs out: sticky in
 * out, and OK is returned. E_INVALID: data of BYTES is truncated or not UTF-8, or a nested shape has
 * no elements but more than 65,536 lists. E_INTERNAL: its size is not what its shape needs, or it
 * lies on a device: a backend's fault. */
MUST_USE enum err_code tensor_json_write(struct text *out, const struct penstock_tensor *tensor,
                                         struct tensor_json_style style, struct err *err);
/* Appends one element (index in row-major order; not for BYTES). */
void tensor_json_write_element(struct text *out, enum penstock_dtype dtype, const void *element,
                               struct tensor_json_style style);

/* -- a pull reader for the JSON around the tensors ----------------------------------------------
 * Skips white space before each token. All fail with E_INVALID, path and byte offset. */
static inline void json_space(struct json_cursor *c)
{
    const uint8_t *at = c->at;

    while (at < c->end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    c->at = at;
}
/* Next non-blank byte without taking it; 0 at the end. */
static inline uint8_t json_peek(struct json_cursor *c)
{
    json_space(c);
    return c->at < c->end ? *c->at : 0;
}
/* Takes one punctuation byte or fails: "expected ':' ...". */
MUST_USE enum err_code json_take(struct json_cursor *c, uint8_t byte, const char *path,
                                 struct err *err);
/* A string, unescaped. Points into the text when it has no escapes, else into memory of `arena`. */
struct arena;
MUST_USE enum err_code json_string(struct json_cursor *c, struct arena *arena, struct slice *ret,
                                   const char *path, struct err *err);
MUST_USE enum err_code json_i64(struct json_cursor *c, int64_t *ret, const char *path,
                                struct err *err);
MUST_USE enum err_code json_u64(struct json_cursor *c, uint64_t *ret, const char *path,
                                struct err *err);
MUST_USE enum err_code json_f64(struct json_cursor *c, double *ret, const char *path,
                                struct err *err);
MUST_USE enum err_code json_bool(struct json_cursor *c, bool *ret, const char *path,
                                 struct err *err);
/* Skips any value, checked; *ret is its text when not NULL. The words NaN, Infinity and -Infinity
 * pass, as tensor data that is read later may hold them. */
MUST_USE enum err_code json_skip(struct json_cursor *c, struct slice *ret, const char *path,
                                 struct err *err);
/* After a '{' or '[' was taken and behind each member: false in *ret_more at the closing bracket
 * (taken). Handles commas; a trailing comma is an error. is_first says whether the bracket was just
 * opened. At the end of the text it is what reads next that fails. */
MUST_USE enum err_code json_more(struct json_cursor *c, uint8_t closing, bool is_first,
                                 bool *ret_more, const char *path, struct err *err);
/* Nothing but white space is left, or E_INVALID. */
MUST_USE enum err_code json_end(struct json_cursor *c, struct err *err);

#endif
