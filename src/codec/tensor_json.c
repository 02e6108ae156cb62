/* tensor_json.c - how tensors become JSON and back; tensor_json.h says what is accepted.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The loop over elements (read_elements) is inlined once per kind of element and keeps nothing but
 * where it stands, how deep, and how many are left. What an error needs besides - the index of the
 * element, what was there instead - is found by looking again, once it is too late to be fast.
 */
#include "codec/tensor_json.h"

#include <math.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "codec/bytes.h"
#include "codec/number.h"
#include "codec/number_print.h"
#include "codec/number_scan.h"
#include "model/dtype.h"

enum {
    SNIPPET_MAX = 24,          /* bytes of the text that an error shows */
    PATH_MAX_BYTES = 320,      /* of "[3][1]" behind the path */
    WRITE_ELEMENTS = 64,       /* room is asked for this many at once */
    EMPTY_LISTS_MAX = 1 << 16, /* of a nested answer without elements */
};

/* -- small steps ----------------------------------------------------------------------------- */

static inline bool is_space(uint8_t c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static inline const uint8_t *skip_space(const uint8_t *at, const uint8_t *end)
{
    while (at < end && is_space(*at))
        at++;
    return at;
}

static bool starts_with(const uint8_t *at, const uint8_t *end, const char *word)
{
    size_t size = strlen(word);

    return (size_t)(end - at) >= size && memcmp(at, word, size) == 0;
}

static const uint8_t *scan_number_text(const uint8_t *at, const uint8_t *end)
{
    struct decimal d;

    return number_scan_any(at, end, &d);
}

/* -- errors ---------------------------------------------------------------------------------- */

/* What stands at `at`, for a sentence: "'abc'", "byte 0x80" or "the end of the text". */
static const char *snippet(char out[static 4 * SNIPPET_MAX], const uint8_t *at, const uint8_t *end)
{
    size_t size = 0;

    if (at == end)
        return "the end of the text";
    if (*at < 0x20 || *at >= 0x7f) {
        snprintf(out, 4 * SNIPPET_MAX, "byte 0x%02x", *at);
        return out;
    }
    /* One token: a string up to its end, one mark of punctuation, else up to the next of these. */
    static const char marks[] = " ,:[]{}\"";
    bool is_string = *at == '"', is_mark = !is_string && strchr(marks, *at) != NULL;
    while (at + size < end && size < SNIPPET_MAX && at[size] >= 0x20 && at[size] < 0x7f) {
        bool is_past = is_mark || (is_string ? size > 1 && at[size - 1] == '"'
                                             : strchr(marks, at[size]) != NULL);
        if (size > 0 && is_past)
            break;
        size++;
    }
    bool is_cut = size == SNIPPET_MAX && at + size < end;
    snprintf(out, 4 * SNIPPET_MAX, "'%.*s%s'", (int)size, (const char *)at, is_cut ? "..." : "");
    return out;
}

/* Writes the indexes of what stands at `fault` in the value that begins at `at`: "[3][1]". All
 * before `fault` has been read, so its strings are whole. */
static void index_text(char out[static PATH_MAX_BYTES], const uint8_t *at, const uint8_t *fault)
{
    uint64_t index[TENSOR_JSON_DEPTH_MAX + 1];
    size_t depth = 0, size = 0;

    for (; at < fault; at++) {
        switch (*at) {
        case '[':
            if (depth <= TENSOR_JSON_DEPTH_MAX)
                index[depth] = 0;
            depth++;
            break;
        case ']': depth--; break;
        case ',': index[MIN(depth, (size_t)TENSOR_JSON_DEPTH_MAX + 1) - 1]++; break;
        case '"':
            for (at++; at < fault && *at != '"'; at++)
                at += *at == '\\';
            break;
        default: break;
        }
    }
    out[0] = '\0';
    for (size_t i = 0; i < depth && i <= TENSOR_JSON_DEPTH_MAX; i++) {
        if (size > PATH_MAX_BYTES - 32) {
            memcpy(out + size, "[...]", 6);
            return;
        }
        size += (size_t)snprintf(out + size, PATH_MAX_BYTES - size, "[%llu]",
                                 (unsigned long long)index[i]);
    }
}

/* "path[3][1] (byte 187): ". */
static COLD enum err_code locate(struct err *err, const struct json_cursor *c, const char *path,
                                 const char *indexes)
{
    size_t byte = (size_t)(c->at - c->start);

    if (path == NULL || (path[0] == '\0' && indexes[0] == '\0'))
        return err_wrap(err, "byte %zu", byte);
    return err_wrap(err, "%s%s (byte %zu)", path, indexes, byte);
}

#define fail_at(c, where, path, err, ...) \
    ((c)->at = (where), (void)err_set((err), E_INVALID, __VA_ARGS__), fail_end((c), (path), (err)))

static COLD enum err_code fail_end(const struct json_cursor *c, const char *path, struct err *err)
{
    locate(err, c, path, "");
    return E_INVALID;
}

/* -- strings --------------------------------------------------------------------------------- */

/* Where the first byte stands that ends the plain part of a string: a quote, a backslash, a control
 * byte, or one that is not ASCII. */
static inline const uint8_t *scan_plain(const uint8_t *at, const uint8_t *end)
{
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;

    while (end - at >= 8) {
        uint64_t word = number_load8(at);
        uint64_t quote = word ^ ones * '"', backslash = word ^ ones * '\\';
        /* The lowest top bit that is set is exact; borrows only spoil those above it. */
        uint64_t stop = (((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) |
                         ((word - ones * 0x20) & ~word) | word) &
                        tops;
        if (stop != 0)
            return at + __builtin_ctzll(stop) / 8;
        at += 8;
    }
    while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\')
        at++;
    return at;
}

static int hex4(const uint8_t *at, const uint8_t *end)
{
    int value = 0;

    if (end - at < 4)
        return -1;
    for (unsigned i = 0; i < 4; i++) {
        uint8_t c = at[i];
        int digit = c >= '0' && c <= '9'                     ? c - '0'
                    : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                             : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* The code point of the \uXXXX at `at`, with its other half where it has one (RFC 8259 section 7);
 * -1 when it is none. *ret_size: 6 or 12. */
static int32_t escaped_point(const uint8_t *at, const uint8_t *end, size_t *ret_size)
{
    int32_t high = hex4(at + 2, end), low;

    *ret_size = 6;
    if (high < 0xd800 || high > 0xdfff)
        return high;
    if (high > 0xdbff || end - at < 12 || at[6] != '\\' || at[7] != 'u')
        return -1;
    low = hex4(at + 8, end);
    *ret_size = 12;
    return low < 0xdc00 || low > 0xdfff ? -1 : 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

/* Checks the string behind the quote at `at` - 1. Returns where its closing quote is; NULL on a
 * fault, which *ret_fault and *ret_why then name. */
static const uint8_t *scan_string(const uint8_t *at, const uint8_t *end, bool *ret_has_escapes,
                                  const uint8_t **ret_fault, const char **ret_why)
{
    *ret_has_escapes = false;
    for (;;) {
        at = scan_plain(at, end);
        *ret_fault = at;
        if (at == end) {
            *ret_why = "the string has no closing quote";
            return NULL;
        }
        if (*at == '"')
            return at;
        if (*at < 0x20) {
            *ret_why = "a control character in a string must be written as an escape like \\n "
                       "or \\u0001";
            return NULL;
        }
        if (*at >= 0x80) {
            size_t step = utf8_step(slice_make(at, (size_t)(end - at)));
            if (step == 0) {
                *ret_why = "the string is not valid UTF-8 here; send raw bytes as binary data";
                return NULL;
            }
            at += step;
            continue;
        }
        *ret_has_escapes = true;
        if (end - at >= 2 && at[1] == 'u') {
            size_t size;
            if (escaped_point(at, end, &size) < 0) {
                *ret_why = hex4(at + 2, end) < 0 ? "\\u needs four hexadecimal digits"
                                                 : "half of a surrogate pair stands alone";
                return NULL;
            }
            at += size;
        } else if (end - at >= 2 && at[1] != '\0' && strchr("\"\\/bfnrt", at[1]) != NULL) {
            at += 2;
        } else {
            *ret_why = "a backslash must be followed by one of \"\\/bfnrtu";
            return NULL;
        }
    }
}

/* Unescapes what scan_string has checked; never longer than it was. Returns the bytes written. */
static size_t unescape(uint8_t *out, const uint8_t *at, const uint8_t *end)
{
    uint8_t *to = out;

    while (at < end) {
        const uint8_t *backslash = memchr(at, '\\', (size_t)(end - at));
        size_t plain = (size_t)((backslash == NULL ? end : backslash) - at);
        memcpy(to, at, plain);
        to += plain;
        at += plain;
        if (at == end)
            break;
        size_t size = 2;
        switch (at[1]) {
        case 'b': *to++ = '\b'; break;
        case 'f': *to++ = '\f'; break;
        case 'n': *to++ = '\n'; break;
        case 'r': *to++ = '\r'; break;
        case 't': *to++ = '\t'; break;
        case 'u': to += utf8_put(to, (uint32_t)escaped_point(at, end, &size)); break;
        default: *to++ = at[1];
        }
        at += size;
    }
    return (size_t)(to - out);
}

/* -- reading elements ------------------------------------------------------------------------ */

/* What the elements of one tensor have in common. */
struct reading {
    enum penstock_dtype dtype;
    size_t size;                         /* of an element; 0 for BYTES */
    uint64_t positive_max, negative_max; /* whole numbers: the largest size on each side */
    struct text *text;                   /* BYTES go here */
    uint64_t count;
    struct json_cursor *cursor;
    const uint8_t *begin; /* of the value */
    const char *path;
    struct err *err;
};

/* Reads one element at `at` (not white space) to `out`. Returns where it ends; NULL when it is not
 * plain, and then element_odd says what it is. */
typedef const uint8_t *element_fn(const uint8_t *at, const uint8_t *end, uint8_t *out,
                                  const struct reading *r);

#define ELEMENT static inline __attribute__((always_inline)) const uint8_t *

ELEMENT element_f32(const uint8_t *at, const uint8_t *end, uint8_t *out,
                    const struct reading *r UNUSED)
{
    struct decimal d;

    at = number_scan(at, end, &d);
    if (UNLIKELY(at == NULL))
        return NULL;
    float value = number_f32_of_decimal(d);
    if (UNLIKELY(isinf(value)))
        return NULL;
    memcpy(out, &value, sizeof value);
    return at;
}

ELEMENT element_f64(const uint8_t *at, const uint8_t *end, uint8_t *out,
                    const struct reading *r UNUSED)
{
    struct decimal d;

    at = number_scan(at, end, &d);
    if (UNLIKELY(at == NULL))
        return NULL;
    double value = number_f64_of_decimal(d);
    if (UNLIKELY(isinf(value)))
        return NULL;
    memcpy(out, &value, sizeof value);
    return at;
}

ELEMENT element_f16(const uint8_t *at, const uint8_t *end, uint8_t *out, const struct reading *r)
{
    struct slice text = { at, (size_t)(end - at) };
    bool is_bf16 = r->dtype == PENSTOCK_BF16;
    uint16_t bits;
    size_t size = is_bf16 ? number_read_bf16(text, &bits) : number_read_f16(text, &bits);
    uint16_t infinite = is_bf16 ? 0x7f80 : 0x7c00;

    if (UNLIKELY(size == 0 || (bits & INT16_MAX) == infinite))
        return NULL;
    memcpy(out, &bits, sizeof bits);
    return at + size;
}

ELEMENT element_whole(const uint8_t *at, const uint8_t *end, uint8_t *out, const struct reading *r)
{
    struct decimal d;
    const uint8_t *next = number_scan(at, end, &d);

    if (UNLIKELY(next == NULL))
        return NULL;
    bool is_negative = d.is_negative;
    uint64_t value = d.digits;
    if (UNLIKELY(d.exponent != 0 || d.has_more)) {
        size_t size;
        if (number_read_whole(slice_make(at, (size_t)(end - at)), &is_negative, &value, &size) !=
            NUMBER_IS_WHOLE)
            return NULL;
    }
    if (UNLIKELY(value > (is_negative ? r->negative_max : r->positive_max)))
        return NULL;
    value = is_negative ? 0 - value : value;
    switch (r->size) { /* little-endian: the first bytes are the narrow number */
    case 1: memcpy(out, &value, 1); break;
    case 2: memcpy(out, &value, 2); break;
    case 4: memcpy(out, &value, 4); break;
    default: memcpy(out, &value, 8);
    }
    return next;
}

ELEMENT element_bool(const uint8_t *at, const uint8_t *end, uint8_t *out,
                     const struct reading *r UNUSED)
{
    if (starts_with(at, end, "true")) {
        *out = 1;
        return at + 4;
    }
    if (starts_with(at, end, "false")) {
        *out = 0;
        return at + 5;
    }
    if (at == end || (*at != '0' && *at != '1') || scan_number_text(at, end) != at + 1)
        return NULL;
    *out = *at == '1';
    return at + 1;
}

ELEMENT element_bytes(const uint8_t *at, const uint8_t *end, uint8_t *out UNUSED,
                      const struct reading *r)
{
    bool has_escapes;
    const uint8_t *fault;
    const char *why;

    if (at == end || *at != '"')
        return NULL;
    const uint8_t *close = scan_string(++at, end, &has_escapes, &fault, &why);
    if (close == NULL || (size_t)(close - at) > UINT32_MAX)
        return NULL;
    size_t size = (size_t)(close - at);
    uint8_t *to = text_room(r->text, 4 + size);
    if (LIKELY(to != NULL)) { /* else it is sticky, and asked for at the end */
        if (has_escapes)
            size = unescape(to + 4, at, close);
        else
            memcpy(to + 4, at, size);
        uint32_t length = (uint32_t)size;
        memcpy(to, &length, sizeof length);
        r->text->size += 4 + size;
    }
    return close + 1;
}

/* -- reading: what is not plain -------------------------------------------------------------- */

static bool is_float(enum penstock_dtype dtype)
{
    return dtype == PENSTOCK_FP32 || dtype == PENSTOCK_FP64 || dtype == PENSTOCK_FP16 ||
           dtype == PENSTOCK_BF16;
}

static const struct {
    const char *text;
    int kind; /* 0: NaN, else the sign of infinity */
} words[] = {
    { "NaN", 0 },     { "Infinity", 1 },     { "-Infinity", -1 },     { "null", 0 },
    { "\"NaN\"", 0 }, { "\"Infinity\"", 1 }, { "\"-Infinity\"", -1 },
};

static const uint8_t *read_word(const uint8_t *at, const uint8_t *end, uint8_t *out,
                                enum penstock_dtype dtype)
{
    for (size_t i = 0; i < COUNT(words); i++) {
        if (!starts_with(at, end, words[i].text))
            continue;
        double value = words[i].kind == 0 ? (double)NAN : words[i].kind * (double)INFINITY;
        float single = (float)value;
        uint16_t half = number_f16_of(value), brain = number_bf16_of(value);
        switch (dtype) {
        case PENSTOCK_FP32: memcpy(out, &single, 4); break;
        case PENSTOCK_FP64: memcpy(out, &value, 8); break;
        case PENSTOCK_FP16: memcpy(out, &half, 2); break;
        default: memcpy(out, &brain, 2);
        }
        return at + strlen(words[i].text);
    }
    return NULL;
}

static const char *wanted(enum penstock_dtype dtype)
{
    switch (dtype) {
    case PENSTOCK_BOOL: return "true or false";
    case PENSTOCK_BYTES: return "a string";
    case PENSTOCK_FP16:
    case PENSTOCK_BF16:
    case PENSTOCK_FP32:
    case PENSTOCK_FP64: return "a number";
    default: return "a whole number";
    }
}

static const char *range(char out[static 64], const struct reading *r)
{
    switch (r->dtype) {
    case PENSTOCK_BOOL: return "true, false, 0 or 1";
    case PENSTOCK_FP16: return "-65504 to 65504";
    case PENSTOCK_BF16: return "-3.3895314e+38 to 3.3895314e+38";
    case PENSTOCK_FP32: return "-3.4028235e+38 to 3.4028235e+38";
    case PENSTOCK_FP64: return "-1.7976931348623157e+308 to 1.7976931348623157e+308";
    default:
        snprintf(out, 64, "%s%llu to %llu", r->negative_max != 0 ? "-" : "",
                 (unsigned long long)r->negative_max, (unsigned long long)r->positive_max);
        return out;
    }
}

/* Puts path, index and byte before the text in err, which says what is wrong at `at`. */
static COLD enum err_code fault(const struct reading *r, const uint8_t *at, bool has_index)
{
    char indexes[PATH_MAX_BYTES] = "";

    if (has_index && r->err != NULL)
        index_text(indexes, r->begin, at);
    r->cursor->at = at;
    locate(r->err, r->cursor, r->path, indexes);
    return E_INVALID;
}

/* Says what is wrong with the element at `at`. */
static COLD enum err_code element_fault(const struct reading *r, const uint8_t *at)
{
    const uint8_t *end = r->cursor->end;
    const uint8_t *where = at, *number_end = scan_number_text(at, end);
    char show[4 * SNIPPET_MAX], limits[64];
    const char *name = dtype_name(r->dtype);
    const char *found = snippet(show, at, end), *why;
    bool has_escapes;

    if (r->dtype == PENSTOCK_BYTES && at < end && *at == '"') {
        if (scan_string(at + 1, end, &has_escapes, &where, &why) != NULL)
            why = "the string is longer than 4294967295 bytes";
        err_set(r->err, E_INVALID, "%s", why);
        return fault(r, where, true);
    }
    if (number_end != NULL && r->dtype != PENSTOCK_BYTES) {
        bool is_negative;
        uint64_t value;
        size_t size;
        struct slice text = { at, (size_t)(end - at) };
        char digits[SNIPPET_MAX + 4];
        size_t length = (size_t)(number_end - at);
        snprintf(digits, sizeof digits, "%.*s%s", (int)MIN(length, (size_t)SNIPPET_MAX),
                 (const char *)at, length > SNIPPET_MAX ? "..." : "");
        bool has_fraction =
            !is_float(r->dtype) && r->dtype != PENSTOCK_BOOL &&
            number_read_whole(text, &is_negative, &value, &size) == NUMBER_HAS_FRACTION;
        if (has_fraction)
            err_set(r->err, E_INVALID, "%s is not a whole number, as %s needs", digits, name);
        else
            err_set(r->err, E_INVALID, "%s is out of range for %s (%s)", digits, name,
                    range(limits, r));
    } else {
        err_set(r->err, E_INVALID, "expected %s for %s, found %s", wanted(r->dtype), name, found);
    }
    return fault(r, at, true);
}

static enum err_code count_elements(const struct reading *r, uint64_t *ret);

/* The text has another number of elements than the tensor; `at` is where that shows. */
static COLD enum err_code count_fault(const struct reading *r, const uint8_t *at)
{
    uint64_t found;

    TRY(count_elements(r, &found));
    err_set(r->err, E_INVALID, "%llu elements where the shape has %llu", (unsigned long long)found,
            (unsigned long long)r->count);
    return fault(r, at, false);
}

static COLD enum err_code separator_fault(const struct reading *r, const uint8_t *at)
{
    char show[4 * SNIPPET_MAX];

    err_set(r->err, E_INVALID, "expected ',' or ']' after an element, found %s",
            snippet(show, at, r->cursor->end));
    return fault(r, at, true);
}

static COLD enum err_code depth_fault(const struct reading *r, const uint8_t *at)
{
    err_set(r->err, E_INVALID, "lists are nested deeper than %d", TENSOR_JSON_DEPTH_MAX);
    return fault(r, at, false);
}

/* -- reading: the loop ----------------------------------------------------------------------- */

/* Each step begins at a value, which is a list to go into or an element, and ends behind the comma
 * that follows it. Lists of unequal lengths are fine here: only the number of elements counts. */
static inline __attribute__((always_inline)) enum err_code read_elements(const struct reading *r,
                                                                         uint8_t *out, size_t size,
                                                                         element_fn *element)
{
    const uint8_t *at = r->begin, *const end = r->cursor->end;
    uint64_t left = r->count;
    unsigned depth = 0;

    for (;;) {
        at = skip_space(at, end);
        if (at < end && *at == '[') {
            if (UNLIKELY(depth == TENSOR_JSON_DEPTH_MAX))
                return depth_fault(r, at);
            depth++;
            at = skip_space(at + 1, end);
            if (at == end || *at != ']')
                continue;
        } else {
            if (UNLIKELY(left == 0))
                return count_fault(r, at);
            const uint8_t *next = element(at, end, out, r);
            if (UNLIKELY(next == NULL)) {
                next = is_float(r->dtype) ? read_word(at, end, out, r->dtype) : NULL;
                if (next == NULL)
                    return element_fault(r, at);
            }
            at = next;
            out += size;
            left--;
            if (UNLIKELY(depth == 0))
                break;
        }
        if (LIKELY(at < end && *at == ',')) {
            at++;
            continue;
        }
        at = skip_space(at, end);
        while (at < end && *at == ']' && depth > 0) {
            depth--;
            at++;
            if (depth == 0)
                goto done;
            at = skip_space(at, end);
        }
        if (UNLIKELY(at == end || *at != ','))
            return separator_fault(r, at);
        at++;
    }
done:
    if (UNLIKELY(left != 0))
        return count_fault(r, at);
    r->cursor->at = at;
    return OK;
}

static void set_range(struct reading *r)
{
    size_t bits;

    r->size = dtype_size(r->dtype);
    bits = 8 * r->size;
    switch (r->dtype) {
    case PENSTOCK_UINT8:
    case PENSTOCK_UINT16:
    case PENSTOCK_UINT32:
    case PENSTOCK_UINT64: r->positive_max = UINT64_MAX >> (64 - bits); break;
    case PENSTOCK_INT8:
    case PENSTOCK_INT16:
    case PENSTOCK_INT32:
    case PENSTOCK_INT64:
        r->negative_max = (uint64_t)1 << (bits - 1);
        r->positive_max = r->negative_max - 1;
        break;
    default: break;
    }
}

enum err_code tensor_json_read(void *out, enum penstock_dtype dtype, uint64_t count,
                               struct json_cursor *cursor, const char *path, struct err *err)
{
    struct reading r = {
        .dtype = dtype, .count = count, .cursor = cursor, .path = path, .err = err
    };

    require(dtype_size(dtype) != 0);
    set_range(&r);
    json_space(cursor);
    r.begin = cursor->at;
    switch (dtype) {
    case PENSTOCK_BOOL: return read_elements(&r, out, 1, element_bool);
    case PENSTOCK_FP16:
    case PENSTOCK_BF16: return read_elements(&r, out, 2, element_f16);
    case PENSTOCK_FP32: return read_elements(&r, out, 4, element_f32);
    case PENSTOCK_FP64: return read_elements(&r, out, 8, element_f64);
    default: return read_elements(&r, out, r.size, element_whole);
    }
}

enum err_code tensor_json_read_bytes(struct text *out, uint64_t count, struct json_cursor *cursor,
                                     const char *path, struct err *err)
{
    struct reading r = { .dtype = PENSTOCK_BYTES,
                         .text = out,
                         .count = count,
                         .cursor = cursor,
                         .path = path,
                         .err = err };

    json_space(cursor);
    r.begin = cursor->at;
    TRY(read_elements(&r, (uint8_t[1]){ 0 }, 0, element_bytes)); /* they go to r.text */
    if (text_failed(out))
        return err_set(err, E_EXHAUSTED, "%s: no memory for its strings; retry later",
                       path == NULL ? "data" : path);
    return OK;
}

/* -- shape ----------------------------------------------------------------------------------- */

/* What a walk over nested lists finds. */
struct survey {
    uint64_t elements;
    unsigned depth_max;
    uint64_t lengths[TENSOR_JSON_DEPTH_MAX]; /* of the first list at each depth */
    const uint8_t *uneven;                   /* where the first list or element breaks the shape */
    uint64_t uneven_length;                  /* of the list that ends there */
    unsigned uneven_depth;
};

enum child { CHILD_UNKNOWN, CHILD_LIST, CHILD_ELEMENT };

/* Walks the list at the cursor, checking that it is JSON; whatever is no list is an element. */
static enum err_code walk(struct json_cursor *c, struct survey *s, const char *path,
                          struct err *err)
{
    uint64_t counts[TENSOR_JSON_DEPTH_MAX + 1];
    uint8_t children[TENSOR_JSON_DEPTH_MAX + 1] = { CHILD_UNKNOWN };
    bool has_length[TENSOR_JSON_DEPTH_MAX + 1] = { false };
    struct reading r = { .cursor = c, .path = path, .err = err };
    unsigned depth = 0;

    json_space(c);
    r.begin = c->at;
    *s = (struct survey){ .elements = 0 };
    for (;;) {
        bool is_list = json_peek(c) == '[';
        uint8_t child = is_list ? CHILD_LIST : CHILD_ELEMENT;
        if (s->uneven == NULL && children[depth] != CHILD_UNKNOWN && children[depth] != child) {
            s->uneven = c->at;
            s->uneven_depth = UINT32_MAX;
        }
        children[depth] = child;
        if (is_list) {
            if (depth == TENSOR_JSON_DEPTH_MAX)
                return depth_fault(&r, c->at);
            c->at++;
            counts[++depth] = 0;
            s->depth_max = MAX(s->depth_max, depth);
            if (json_peek(c) != ']') {
                counts[depth] = 1;
                continue;
            }
        } else {
            const uint8_t *begin = c->at;
            if (json_skip(c, NULL, NULL, NULL) != OK) {
                /* Again, to say it with the index. */
                char indexes[PATH_MAX_BYTES], full[2 * PATH_MAX_BYTES];
                index_text(indexes, r.begin, begin);
                snprintf(full, sizeof full, "%s%s", path == NULL ? "" : path, indexes);
                c->at = begin;
                return json_skip(c, NULL, full, err);
            }
            s->elements++;
            if (depth == 0)
                return OK;
        }
        while (json_peek(c) == ']') {
            if (!has_length[depth]) {
                has_length[depth] = true;
                s->lengths[depth - 1] = counts[depth];
            } else if (s->uneven == NULL && s->lengths[depth - 1] != counts[depth]) {
                s->uneven = c->at;
                s->uneven_length = counts[depth];
                s->uneven_depth = depth;
            }
            c->at++;
            if (--depth == 0)
                return OK;
        }
        if (json_peek(c) != ',')
            return separator_fault(&r, c->at);
        c->at++;
        counts[depth]++;
    }
}

static enum err_code count_elements(const struct reading *r, uint64_t *ret)
{
    struct survey s;

    r->cursor->at = r->begin;
    TRY(walk(r->cursor, &s, r->path, r->err));
    *ret = s.elements;
    return OK;
}

enum err_code tensor_json_shape(struct json_cursor cursor, uint32_t *ret_rank,
                                int64_t shape[PENSTOCK_RANK_MAX], const char *path, struct err *err)
{
    struct survey s;
    struct json_cursor begin = cursor;

    TRY(walk(&cursor, &s, path, err));
    json_space(&begin);
    struct reading r = { .cursor = &begin, .path = path, .err = err, .begin = begin.at };
    if (s.uneven != NULL && s.uneven_depth == UINT32_MAX) {
        err_set(err, E_INVALID,
                "lists and elements stand side by side; all lists of one level "
                "must be nested equally deep");
        return fault(&r, s.uneven, true);
    }
    if (s.uneven != NULL) {
        err_set(err, E_INVALID,
                "a list of %llu where the first at this level has %llu: lists of "
                "one level must be equally long",
                (unsigned long long)s.uneven_length,
                (unsigned long long)s.lengths[s.uneven_depth - 1]);
        return fault(&r, s.uneven, true);
    }
    if (s.depth_max > PENSTOCK_RANK_MAX) {
        err_set(err, E_INVALID, "lists are nested %u deep; a tensor has at most %u dimensions",
                s.depth_max, PENSTOCK_RANK_MAX);
        return fault(&r, r.begin, false);
    }
    for (unsigned i = 0; i < s.depth_max; i++)
        shape[i] = (int64_t)s.lengths[i];
    *ret_rank = s.depth_max;
    return OK;
}

/* -- writing --------------------------------------------------------------------------------- */

static size_t write_word(char *out, double value, enum json_nonfinite how)
{
    const char *word = isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
    size_t size = strlen(word);

    switch (how) {
    case JSON_NONFINITE_NULL: memcpy(out, "null", 4); return 4;
    case JSON_NONFINITE_STRINGS:
        out[0] = '"';
        memcpy(out + 1, word, size);
        out[size + 1] = '"';
        return size + 2;
    default: memcpy(out, word, size); return size;
    }
}

static inline __attribute__((always_inline)) size_t write_one(char *out, enum penstock_dtype dtype,
                                                              const uint8_t *element,
                                                              struct tensor_json_style style)
{
    union {
        float f32;
        double f64;
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64;
    } v;

    switch (dtype) {
    case PENSTOCK_FP32:
        memcpy(&v.f32, element, 4);
        if (UNLIKELY(!isfinite(v.f32)))
            return write_word(out, (double)v.f32, style.nonfinite);
        return style.precision == 0 ? number_print_f32(out, v.f32)
                                    : number_write_f32_digits(out, v.f32, style.precision);
    case PENSTOCK_FP64:
        memcpy(&v.f64, element, 8);
        if (UNLIKELY(!isfinite(v.f64)))
            return write_word(out, v.f64, style.nonfinite);
        return style.precision == 0 ? number_print_f64(out, v.f64)
                                    : number_write_f64_digits(out, v.f64, style.precision);
    case PENSTOCK_FP16:
        memcpy(&v.u16, element, 2);
        if (UNLIKELY((v.u16 & 0x7c00) == 0x7c00))
            return write_word(out, number_of_f16(v.u16), style.nonfinite);
        return style.precision == 0 ? number_write_f16(out, v.u16)
                                    : number_write_f16_digits(out, v.u16, style.precision);
    case PENSTOCK_BF16:
        memcpy(&v.u16, element, 2);
        if (UNLIKELY((v.u16 & 0x7f80) == 0x7f80))
            return write_word(out, number_of_bf16(v.u16), style.nonfinite);
        return style.precision == 0 ? number_write_bf16(out, v.u16)
                                    : number_write_bf16_digits(out, v.u16, style.precision);
    case PENSTOCK_BOOL:
        memcpy(out, *element != 0 ? "true " : "false", 5);
        return *element != 0 ? 4 : 5;
    case PENSTOCK_UINT8:
    case PENSTOCK_INT8:
        v.u8 = *element;
        return dtype == PENSTOCK_UINT8 ? number_write_u64(out, v.u8)
                                       : number_write_i64(out, (int8_t)v.u8);
    case PENSTOCK_UINT16:
    case PENSTOCK_INT16:
        memcpy(&v.u16, element, 2);
        return dtype == PENSTOCK_UINT16 ? number_write_u64(out, v.u16)
                                        : number_write_i64(out, (int16_t)v.u16);
    case PENSTOCK_UINT32:
    case PENSTOCK_INT32:
        memcpy(&v.u32, element, 4);
        return dtype == PENSTOCK_UINT32 ? number_write_u64(out, v.u32)
                                        : number_write_i64(out, (int32_t)v.u32);
    default:
        memcpy(&v.u64, element, 8);
        return dtype == PENSTOCK_UINT64 ? number_write_u64(out, v.u64)
                                        : number_write_i64(out, (int64_t)v.u64);
    }
}

void tensor_json_write_element(struct text *out, enum penstock_dtype dtype, const void *element,
                               struct tensor_json_style style)
{
    char text[NUMBER_TEXT_MAX];

    require(dtype_size(dtype) != 0);
    text_put(out, text, write_one(text, dtype, element, style));
}

/* Where writing stands: `data` is what is left of the tensor's. */
struct writing {
    struct text *out;
    const struct penstock_tensor *tensor;
    struct tensor_json_style style;
    struct slice data;
    uint64_t index; /* of the next element */
};

/* `count` elements with a comma behind each, without asking for room; returns where they end. */
static inline __attribute__((always_inline)) char *write_some(char *at, enum penstock_dtype dtype,
                                                              const uint8_t *element, size_t size,
                                                              size_t count,
                                                              struct tensor_json_style style)
{
    for (size_t i = 0; i < count; i++, element += size) {
        at += write_one(at, dtype, element, style);
        *at++ = ',';
    }
    return at;
}

/* The loop above once for each dtype that is worth it. */
static char *write_chunk(char *at, enum penstock_dtype dtype, const uint8_t *element, size_t count,
                         struct tensor_json_style style)
{
    switch (dtype) {
    case PENSTOCK_FP32: return write_some(at, PENSTOCK_FP32, element, 4, count, style);
    case PENSTOCK_FP64: return write_some(at, PENSTOCK_FP64, element, 8, count, style);
    case PENSTOCK_INT64: return write_some(at, PENSTOCK_INT64, element, 8, count, style);
    default: return write_some(at, dtype, element, dtype_size(dtype), count, style);
    }
}

/* `count` elements with commas between them, straight into the text's memory. */
static void write_run(struct writing *w, uint64_t count)
{
    enum penstock_dtype dtype = w->tensor->dtype;
    size_t size = dtype_size(dtype);
    const uint8_t *element = w->data.data;

    if (count == 0) /* its data may be NULL */
        return;
    w->data = slice_skip(w->data, (size_t)count * size);
    while (count > 0) {
        size_t some = (size_t)MIN(count, (uint64_t)WRITE_ELEMENTS);
        /* Near the cap exactly as much is asked for as is needed. */
        if (UNLIKELY(w->out->cap - w->out->size < some * (NUMBER_TEXT_MAX + 1))) {
            tensor_json_write_element(w->out, dtype, element, w->style);
            if (--count > 0)
                text_byte(w->out, ',');
            if (text_failed(w->out))
                return;
            element += size;
            continue;
        }
        char *begin = (char *)text_room(w->out, some * (NUMBER_TEXT_MAX + 1));
        if (begin == NULL)
            return;
        size_t used = (size_t)(write_chunk(begin, dtype, element, some, w->style) - begin);
        element += some * size;
        count -= some;
        w->out->size += used - (count == 0);
    }
}

static enum err_code write_strings(struct writing *w, uint64_t count, struct err *err)
{
    for (uint64_t i = 0; i < count; i++, w->index++) {
        struct slice element;
        if (!bytes_next(&w->data, &element))
            return err_set(err, E_INVALID, "%s: its data ends in element %llu",
                           w->tensor->name == NULL ? "tensor" : w->tensor->name,
                           (unsigned long long)w->index);
        size_t valid = utf8_valid_prefix(element);
        if (valid != element.size)
            return err_set(err, E_INVALID,
                           "%s: element %llu is not UTF-8 (at its byte %zu), so JSON cannot carry "
                           "it; ask for this output as binary data",
                           w->tensor->name == NULL ? "tensor" : w->tensor->name,
                           (unsigned long long)w->index, valid);
        if (i > 0)
            text_byte(w->out, ',');
        text_json(w->out, element);
    }
    return OK;
}

static enum err_code write_elements(struct writing *w, uint64_t count, struct err *err)
{
    if (w->tensor->dtype == PENSTOCK_BYTES)
        return write_strings(w, count, err);
    write_run(w, count);
    return OK;
}

/* The lists of dimension `axis` and what is in them. Depth is bounded by PENSTOCK_RANK_MAX. */
static enum err_code write_nested(struct writing *w, uint32_t axis, struct err *err)
{
    const struct penstock_tensor *tensor = w->tensor;
    int64_t length = tensor->shape[axis];

    text_byte(w->out, '[');
    if (axis + 1 == tensor->rank) {
        TRY(write_elements(w, (uint64_t)length, err));
    } else {
        for (int64_t i = 0; i < length && !text_failed(w->out); i++) {
            if (i > 0)
                text_byte(w->out, ',');
            TRY(write_nested(w, axis + 1, err));
        }
    }
    text_byte(w->out, ']');
    return OK;
}

/* A shape like [1000000000, 0] has no elements and yet a billion lists. */
static bool has_too_many_lists(const struct penstock_tensor *tensor)
{
    uint64_t lists = 1;

    for (uint32_t i = 0; i < tensor->rank && tensor->shape[i] != 0; i++)
        if (__builtin_mul_overflow(lists, (uint64_t)tensor->shape[i], &lists) ||
            lists > EMPTY_LISTS_MAX)
            return true;
    return false;
}

enum err_code tensor_json_write(struct text *out, const struct penstock_tensor *tensor,
                                struct tensor_json_style style, struct err *err)
{
    struct writing w = {
        .out = out, .tensor = tensor, .style = style, .data = slice_make(tensor->data, tensor->size)
    };
    const char *name = tensor->name == NULL ? "tensor" : tensor->name;
    size_t size = dtype_size(tensor->dtype);
    uint64_t count;
    char shape[24 * PENSTOCK_RANK_MAX];

    require(style.precision >= 0 && style.precision <= 17);
    if (tensor->place.kind != PENSTOCK_CPU && tensor->place.kind != PENSTOCK_PINNED)
        return err_set(err, E_INTERNAL, "%s: its data lies on a device; copy it first", name);
    if (tensor->rank > PENSTOCK_RANK_MAX || !shape_count(tensor->rank, tensor->shape, &count) ||
        (size == 0 && tensor->dtype != PENSTOCK_BYTES))
        return err_set(err, E_INTERNAL, "%s: not a tensor (dtype %d, rank %u)", name,
                       (int)tensor->dtype, tensor->rank);
    if (size != 0 && (tensor->size % size != 0 || tensor->size / size != count))
        return err_set(err, E_INTERNAL, "%s: %zu bytes of data, but %s %s has %llu elements", name,
                       tensor->size, dtype_name(tensor->dtype),
                       shape_text(shape, sizeof shape, tensor->rank, tensor->shape),
                       (unsigned long long)count);
    if (style.is_nested && count == 0 && has_too_many_lists(tensor))
        return err_set(err, E_INVALID,
                       "%s: shape %s has no elements but too many lists to write "
                       "them nested",
                       name, shape_text(shape, sizeof shape, tensor->rank, tensor->shape));
    if (!style.is_nested) {
        text_byte(out, '[');
        TRY(write_elements(&w, count, err));
        text_byte(out, ']');
    } else if (tensor->rank == 0) {
        TRY(write_elements(&w, 1, err));
    } else {
        TRY(write_nested(&w, 0, err));
    }
    if (tensor->dtype == PENSTOCK_BYTES && w.data.size != 0 && !text_failed(out))
        return err_set(err, E_INVALID, "%s: %zu bytes follow its %llu elements", name, w.data.size,
                       (unsigned long long)count);
    return OK;
}

/* -- the pull reader ------------------------------------------------------------------------- */

/* "expected a string, found 'abc'" */
static COLD enum err_code expected(struct json_cursor *c, const char *what, const char *path,
                                   struct err *err)
{
    char show[4 * SNIPPET_MAX];

    return fail_at(c, c->at, path, err, "expected %s, found %s", what,
                   snippet(show, c->at, c->end));
}

static COLD enum err_code expected_byte(struct json_cursor *c, uint8_t byte, const char *path,
                                        struct err *err)
{
    char what[4] = { '\'', (char)byte, '\'', '\0' };

    return expected(c, what, path, err);
}

static COLD enum err_code expected_more(struct json_cursor *c, uint8_t closing, const char *path,
                                        struct err *err)
{
    char what[16];

    snprintf(what, sizeof what, "',' or '%c'", closing);
    return expected(c, what, path, err);
}

enum err_code json_take(struct json_cursor *c, uint8_t byte, const char *path, struct err *err)
{
    json_space(c);
    if (UNLIKELY(c->at == c->end || *c->at != byte))
        return expected_byte(c, byte, path, err);
    c->at++;
    return OK;
}

enum err_code json_string(struct json_cursor *c, struct arena *arena, struct slice *ret,
                          const char *path, struct err *err)
{
    bool has_escapes;
    const uint8_t *where;
    const char *why;

    if (json_peek(c) != '"')
        return expected(c, "a string", path, err);
    const uint8_t *begin = c->at + 1;
    const uint8_t *close = scan_string(begin, c->end, &has_escapes, &where, &why);
    if (close == NULL)
        return fail_at(c, where, path, err, "%s", why);
    struct slice text = { begin, (size_t)(close - begin) };
    if (has_escapes) {
        uint8_t *plain = arena_aligned(arena, 1, text.size);
        if (plain == NULL)
            return err_set(err, E_EXHAUSTED, "%s: no memory for a string of %zu bytes",
                           path == NULL ? "JSON" : path, text.size);
        text = slice_make(plain, unescape(plain, begin, close));
    }
    c->at = close + 1;
    *ret = text;
    return OK;
}

/* A whole number with its size in [0, positive_max] or, below zero, [0, negative_max]. */
static enum err_code read_whole(struct json_cursor *c, uint64_t *ret, enum penstock_dtype dtype,
                                const char *path, struct err *err)
{
    struct reading r = { .dtype = dtype, .cursor = c, .path = path, .err = err };

    json_space(c);
    r.begin = c->at;
    set_range(&r);
    const uint8_t *next = element_whole(c->at, c->end, (uint8_t *)ret, &r);
    if (next == NULL)
        return element_fault(&r, c->at);
    c->at = next;
    return OK;
}

enum err_code json_i64(struct json_cursor *c, int64_t *ret, const char *path, struct err *err)
{
    return read_whole(c, (uint64_t *)ret, PENSTOCK_INT64, path, err);
}

enum err_code json_u64(struct json_cursor *c, uint64_t *ret, const char *path, struct err *err)
{
    return read_whole(c, ret, PENSTOCK_UINT64, path, err);
}

enum err_code json_f64(struct json_cursor *c, double *ret, const char *path, struct err *err)
{
    double value;

    json_space(c);
    size_t size = number_read_f64(slice_make(c->at, (size_t)(c->end - c->at)), &value);
    if (size == 0)
        return expected(c, "a number", path, err);
    if (isinf(value)) {
        char show[4 * SNIPPET_MAX];
        return fail_at(c, c->at, path, err, "%s is out of range for FP64",
                       snippet(show, c->at, c->end));
    }
    c->at += size;
    *ret = value;
    return OK;
}

enum err_code json_bool(struct json_cursor *c, bool *ret, const char *path, struct err *err)
{
    json_space(c);
    bool is_true = starts_with(c->at, c->end, "true");
    if (!is_true && !starts_with(c->at, c->end, "false"))
        return expected(c, "true or false", path, err);
    c->at += is_true ? 4 : 5;
    *ret = is_true;
    return OK;
}

/* A value that is no list and no object. The words for what is not finite are let pass, as
 * tensor data may hold them. */
static enum err_code skip_scalar(struct json_cursor *c, const char *path, struct err *err)
{
    static const char *const plain[] = { "true", "false", "null", "NaN", "Infinity", "-Infinity" };

    if (json_peek(c) == '"') {
        bool has_escapes;
        const uint8_t *where;
        const char *why;
        const uint8_t *close = scan_string(c->at + 1, c->end, &has_escapes, &where, &why);
        if (close == NULL)
            return fail_at(c, where, path, err, "%s", why);
        c->at = close + 1;
        return OK;
    }
    struct decimal d;
    const uint8_t *next = number_scan(c->at, c->end, &d);
    for (size_t i = 0; i < COUNT(plain) && next == NULL; i++)
        if (starts_with(c->at, c->end, plain[i]))
            next = c->at + strlen(plain[i]);
    if (next == NULL)
        return expected(c, "a JSON value", path, err);
    c->at = next;
    return OK;
}

enum err_code json_skip(struct json_cursor *c, struct slice *ret, const char *path, struct err *err)
{
    char closing[TENSOR_JSON_DEPTH_MAX];
    unsigned depth = 0;

    json_space(c);
    const uint8_t *begin = c->at;
    for (;;) {
        uint8_t byte = json_peek(c);
        bool is_open = false;
        if (byte == '[' || byte == '{') {
            if (depth == TENSOR_JSON_DEPTH_MAX)
                return fail_at(c, c->at, path, err, "nested deeper than %d", TENSOR_JSON_DEPTH_MAX);
            closing[depth++] = byte == '[' ? ']' : '}';
            c->at++;
            is_open = true;
        } else {
            TRY(skip_scalar(c, path, err));
        }
        /* Behind a value, or behind the bracket that opened a list: on to the next value. */
        for (; depth > 0; is_open = false) {
            bool has_more;
            TRY(json_more(c, (uint8_t)closing[depth - 1], is_open, &has_more, path, err));
            if (has_more)
                break;
            depth--;
        }
        if (depth == 0)
            break;
        if (closing[depth - 1] == '}') {
            if (json_peek(c) != '"')
                return expected(c, "a member's name in quotes", path, err);
            TRY(skip_scalar(c, path, err));
            TRY(json_take(c, ':', path, err));
        }
    }
    if (ret != NULL)
        *ret = slice_make(begin, (size_t)(c->at - begin));
    return OK;
}

enum err_code json_more(struct json_cursor *c, uint8_t closing, bool is_first, bool *ret_more,
                        const char *path, struct err *err)
{
    uint8_t byte = json_peek(c);

    if (c->at < c->end && byte == closing) {
        c->at++;
        *ret_more = false;
        return OK;
    }
    if (!is_first) {
        if (UNLIKELY(byte != ','))
            return expected_more(c, closing, path, err);
        const uint8_t *comma = c->at++;
        if (json_peek(c) == closing)
            return fail_at(c, comma, path, err, "a comma before '%c'", closing);
    }
    *ret_more = true;
    return OK;
}

enum err_code json_end(struct json_cursor *c, struct err *err)
{
    char show[4 * SNIPPET_MAX];

    json_space(c);
    if (c->at == c->end)
        return OK;
    return fail_at(c, c->at, NULL, err, "expected the end of the JSON text, found %s",
                   snippet(show, c->at, c->end));
}
