/* npy.c - SPDX-License-Identifier: Apache-2.0
 *
 * The header is a Python dict literal. NumPy reads it with ast.literal_eval; we read the part of
 * the language that it can hold: strings, True and False, and tuples of whole numbers.
 */
#include "codec/npy.h"

#include <stdio.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "codec/bytes.h"
#include "model/dtype.h"

enum {
    MAGIC_BYTES = 6,
    ALIGN = 64,
    HEADER_BYTES_MAX = 64 * 1024, /* of a file's dict; NumPy's own limit is 10,000 */
    DESCR_MAX = 32
};

static const uint8_t magic[MAGIC_BYTES] = { 0x93, 'N', 'U', 'M', 'P', 'Y' };

/* -- the dict -------------------------------------------------------------------------------- */

struct header {
    char descr[DESCR_MAX];
    bool is_fortran, has_descr, has_order, has_shape;
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];
};

/* What is left of the dict; `file` for byte offsets. */
struct literal {
    struct slice rest, file;
};

static COLD enum err_code refuse(const struct literal *l, struct err *err, const char *expected)
{
    return err_set(err, E_INVALID, ".npy header (byte %zu): expected %s",
                   (size_t)(l->rest.data - l->file.data), expected);
}

static void skip_space(struct literal *l)
{
    while (l->rest.size > 0 &&
           (l->rest.data[0] == ' ' || (l->rest.data[0] >= '\t' && l->rest.data[0] <= '\r')))
        l->rest = slice_skip(l->rest, 1);
}

static bool take(struct literal *l, const char *word)
{
    skip_space(l);
    if (!slice_starts(l->rest, word))
        return false;
    l->rest = slice_skip(l->rest, strlen(word));
    return true;
}

/* A string without escapes, in either quotes. */
static bool take_string(struct literal *l, struct slice *ret)
{
    skip_space(l);
    if (l->rest.size == 0 || (l->rest.data[0] != '\'' && l->rest.data[0] != '"'))
        return false;
    struct slice text = slice_skip(l->rest, 1);
    size_t size = slice_find(text, l->rest.data[0]);
    if (size == text.size || slice_find(slice_first(text, size), '\\') != size)
        return false;
    *ret = slice_first(text, size);
    l->rest = slice_skip(text, size + 1);
    return true;
}

static enum err_code read_shape(struct literal *l, struct header *h, struct err *err)
{
    bool needs_comma = false;

    if (!take(l, "("))
        return refuse(l, err, "a tuple like (2, 3) as the shape");
    for (h->rank = 0; !take(l, ")"); h->rank++) {
        size_t digits = 0;
        uint64_t dim;
        if (needs_comma)
            return refuse(l, err, "',' or ')' in the shape");
        if (h->rank == PENSTOCK_RANK_MAX)
            return err_set(err, E_INVALID, ".npy header: more than %u dimensions",
                           PENSTOCK_RANK_MAX);
        while (digits < l->rest.size && l->rest.data[digits] >= '0' && l->rest.data[digits] <= '9')
            digits++;
        if (!slice_to_u64(slice_first(l->rest, digits), &dim) || dim > INT64_MAX)
            return refuse(l, err, "a dimension (a whole number from 0 on)");
        h->shape[h->rank] = (int64_t)dim;
        l->rest = slice_skip(l->rest, digits);
        take(l, "L"); /* Python 2 wrote long numbers so */
        needs_comma = !take(l, ",");
    }
    /* (3) is a number in Python, not a tuple. */
    if (h->rank == 1 && needs_comma)
        return refuse(l, err, "',' in the shape of one dimension, as in (3,)");
    h->has_shape = true;
    return OK;
}

static enum err_code read_entry(struct literal *l, struct header *h, struct err *err)
{
    struct slice key, descr;

    if (!take_string(l, &key))
        return refuse(l, err, "a key in quotes");
    if (!take(l, ":"))
        return refuse(l, err, "':'");
    skip_space(l);
    if (slice_is(key, "descr") && !h->has_descr) {
        if (slice_starts(l->rest, "["))
            return err_set(err, E_INVALID,
                           "the .npy array is structured (it has named fields); "
                           "save one field: np.save(file, array['name'])");
        if (!take_string(l, &descr) || descr.size >= DESCR_MAX)
            return refuse(l, err, "a dtype in quotes, like '<f4'");
        memcpy(h->descr, descr.data, descr.size);
        h->descr[descr.size] = '\0';
        h->has_descr = true;
        return OK;
    }
    if (slice_is(key, "fortran_order") && !h->has_order) {
        h->is_fortran = take(l, "True");
        if (!h->is_fortran && !take(l, "False"))
            return refuse(l, err, "True or False");
        h->has_order = true;
        return OK;
    }
    if (slice_is(key, "shape") && !h->has_shape)
        return read_shape(l, h, err);
    return refuse(l, err, "each of the keys descr, fortran_order and shape once");
}

static enum err_code read_dict(struct literal *l, struct header *h, struct err *err)
{
    if (!take(l, "{"))
        return refuse(l, err, "'{'");
    for (;;) {
        if (take(l, "}"))
            break;
        TRY(read_entry(l, h, err));
        if (take(l, ","))
            continue;
        if (!take(l, "}"))
            return refuse(l, err, "',' or '}'");
        break;
    }
    skip_space(l);
    if (l->rest.size != 0)
        return refuse(l, err, "nothing but blanks behind the dict");
    if (!h->has_descr || !h->has_order || !h->has_shape)
        return refuse(l, err, "the keys descr, fortran_order and shape");
    return OK;
}

/* -- reading --------------------------------------------------------------------------------- */

static const struct {
    const char *descr; /* without the byte order */
    enum penstock_dtype dtype;
} kinds[] = {
    { "b1", PENSTOCK_BOOL },   { "u1", PENSTOCK_UINT8 },  { "u2", PENSTOCK_UINT16 },
    { "u4", PENSTOCK_UINT32 }, { "u8", PENSTOCK_UINT64 }, { "i1", PENSTOCK_INT8 },
    { "i2", PENSTOCK_INT16 },  { "i4", PENSTOCK_INT32 },  { "i8", PENSTOCK_INT64 },
    { "f2", PENSTOCK_FP16 },   { "f4", PENSTOCK_FP32 },   { "f8", PENSTOCK_FP64 },
};

static enum err_code refuse_kind(const char *descr, struct err *err)
{
    switch (descr[1]) {
    case 'O':
        return err_set(err, E_INVALID,
                       "the .npy array holds Python objects ('%s'), which are "
                       "never unpickled; save numbers or strings",
                       descr);
    case 'c':
        return err_set(err, E_INVALID,
                       "the .npy array is complex ('%s'); save real and imaginary "
                       "parts: np.stack([a.real, a.imag], -1)",
                       descr);
    case 'M':
    case 'm':
        return err_set(err, E_INVALID,
                       "the .npy array holds dates or times ('%s'); save numbers: "
                       "array.astype('int64')",
                       descr);
    default:
        return err_set(err, E_INVALID,
                       "the .npy array's dtype '%s' is not supported; supported: "
                       "bool, int8 to int64, uint8 to uint64, float16, float32, "
                       "float64, S and U strings",
                       descr);
    }
}

/* One element of an S array: the zeros at its end are padding. */
static struct slice string_of_s(struct slice item)
{
    while (item.size > 0 && item.data[item.size - 1] == 0)
        item.size--;
    return item;
}

/* Writes one element of a U array as UTF-8 (room for one byte per byte); false when one of its
 * characters does not exist. */
static bool string_of_u(struct slice item, uint8_t *out, uint32_t *ret_size)
{
    uint32_t size = 0, point;

    while (item.size >= 4) {
        memcpy(&point, item.data + item.size - 4, 4);
        if (point != 0)
            break;
        item.size -= 4;
    }
    for (; item.size >= 4; item = slice_skip(item, 4)) {
        memcpy(&point, item.data, 4);
        if (point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
            return false;
        size += (uint32_t)utf8_put(out + size, point);
    }
    *ret_size = size;
    return true;
}

/* `count` strings of `width` bytes each to BYTES elements. */
static enum err_code read_strings(struct penstock_tensor *ret, struct arena *arena,
                                  struct slice data, uint64_t count, size_t width, bool is_ucs4,
                                  struct err *err)
{
    size_t room;

    /* data.size is count * width, and is there; the lengths are what could be too many. */
    if (__builtin_mul_overflow(count, 4, &room) || __builtin_add_overflow(room, data.size, &room) ||
        width > UINT32_MAX)
        return err_set(err, E_INVALID, "the .npy array holds more than can be addressed");
    uint8_t *begin = arena_alloc(arena, MAX(room, (size_t)1)), *at = begin;
    if (begin == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the %llu strings of a .npy file",
                       (unsigned long long)count);
    for (uint64_t i = 0; i < count; i++) {
        struct slice item = slice_first(data, width);
        uint32_t size;
        data = slice_skip(data, width);
        if (is_ucs4) {
            if (!string_of_u(item, at + 4, &size))
                return err_set(err, E_INVALID,
                               "the .npy array's string %llu holds a character that does not "
                               "exist in Unicode",
                               (unsigned long long)i);
        } else {
            item = string_of_s(item);
            size = (uint32_t)item.size;
            if (size != 0)
                memcpy(at + 4, item.data, size);
        }
        memcpy(at, &size, 4);
        at += 4 + (size_t)size;
    }
    ret->dtype = PENSTOCK_BYTES;
    ret->data = begin;
    ret->size = (size_t)(at - begin);
    return OK;
}

/* Splits the file into the dict and what follows it. */
static enum err_code read_preamble(struct slice file, struct literal *dict, struct slice *ret_data,
                                   struct err *err)
{
    size_t prefix, size;

    if (file.size < MAGIC_BYTES + 2 || memcmp(file.data, magic, MAGIC_BYTES) != 0)
        return err_set(err, E_INVALID,
                       "not a .npy file: it does not begin with \\x93NUMPY and a "
                       "version");
    uint8_t major = file.data[MAGIC_BYTES], minor = file.data[MAGIC_BYTES + 1];
    if (major < 1 || major > 3 || minor != 0)
        return err_set(err, E_INVALID, ".npy version %u.%u; known are 1.0, 2.0 and 3.0", major,
                       minor);
    prefix = MAGIC_BYTES + 2 + (major == 1 ? 2 : 4);
    if (file.size < prefix)
        return err_set(err, E_INVALID, "the .npy file is cut off after %zu bytes, in its header",
                       file.size);
    size = file.data[MAGIC_BYTES + 2] | (size_t)file.data[MAGIC_BYTES + 3] << 8;
    if (major > 1)
        size |= (size_t)file.data[MAGIC_BYTES + 4] << 16 | (size_t)file.data[MAGIC_BYTES + 5] << 24;
    if (size > HEADER_BYTES_MAX)
        return err_set(err, E_INVALID, "the .npy header has %zu bytes; at most %d are read", size,
                       HEADER_BYTES_MAX);
    if (size > file.size - prefix)
        return err_set(err, E_INVALID, "the .npy file is cut off after %zu bytes, in its header",
                       file.size);
    dict->file = file;
    dict->rest = slice_make(file.data + prefix, size);
    *ret_data = slice_skip(file, prefix + size);
    return OK;
}

/* Bytes of an element, and the dtype of numbers (PENSTOCK_BYTES for strings). */
static enum err_code read_kind(const char *descr, enum penstock_dtype *ret_dtype,
                               uint64_t *ret_width, struct err *err)
{
    if (strlen(descr) < 2 || strchr("<>|=", descr[0]) == NULL)
        return err_set(err, E_INVALID, "the .npy array's dtype '%s' is not one like '<f4'", descr);
    if (descr[1] == 'S' || descr[1] == 'U') {
        uint64_t unit = descr[1] == 'U' ? 4 : 1;
        if (!slice_to_u64(slice_of(descr + 2), ret_width) ||
            __builtin_mul_overflow(*ret_width, unit, ret_width))
            return refuse_kind(descr, err);
        *ret_dtype = PENSTOCK_BYTES;
    } else {
        size_t i = 0;
        while (i < COUNT(kinds) && strcmp(descr + 1, kinds[i].descr) != 0)
            i++;
        if (i == COUNT(kinds))
            return refuse_kind(descr, err);
        *ret_dtype = kinds[i].dtype;
        *ret_width = dtype_size(kinds[i].dtype);
    }
    if (descr[0] == '>' && *ret_width > 1 && descr[1] != 'S')
        return err_set(err, E_INVALID,
                       "the .npy array is big-endian ('%s'); save it as "
                       "array.astype('<%s')",
                       descr, descr + 1);
    return OK;
}

enum err_code npy_read(struct penstock_tensor *ret, struct arena *arena, struct slice file,
                       struct err *err)
{
    struct penstock_tensor tensor = { .name = "" };
    struct header h = { .rank = 0 };
    struct literal dict = { { NULL, 0 }, { NULL, 0 } };
    struct slice data;
    uint64_t count, width, bytes;
    char shape[24 * PENSTOCK_RANK_MAX];

    TRY(read_preamble(file, &dict, &data, err));
    TRY(read_dict(&dict, &h, err));
    TRY(read_kind(h.descr, &tensor.dtype, &width, err));
    if (h.is_fortran && h.rank > 1)
        return err_set(err, E_INVALID,
                       "the .npy array is in Fortran order; save it as "
                       "np.ascontiguousarray(array)");
    if (!shape_count(h.rank, h.shape, &count) || __builtin_mul_overflow(count, width, &bytes) ||
        bytes != data.size)
        return err_set(err, E_INVALID,
                       "the .npy file has %zu bytes of data; shape %s of '%s' "
                       "needs another number",
                       data.size, shape_text(shape, sizeof shape, h.rank, h.shape), h.descr);
    tensor.rank = h.rank;
    memcpy(tensor.shape, h.shape, h.rank * sizeof h.shape[0]);
    if (tensor.dtype == PENSTOCK_BYTES) {
        /* Strings of no width take nothing in the file but a length each in the tensor. */
        if (width == 0 && count > file.size)
            return err_set(err, E_INVALID, "the .npy array has %llu strings of no width",
                           (unsigned long long)count);
        TRY(read_strings(&tensor, arena, data, count, (size_t)width, h.descr[1] == 'U', err));
    } else {
        if (tensor.dtype == PENSTOCK_BOOL && !bool_check(data))
            return err_set(err, E_INVALID, "the .npy array's bool elements are not all 0 or 1");
        tensor.data = data.data;
        tensor.size = data.size;
    }
    *ret = tensor;
    return OK;
}

/* -- writing --------------------------------------------------------------------------------- */

size_t npy_write_header(uint8_t out[NPY_HEADER_MAX], const struct penstock_tensor *tensor)
{
    const char *kind = "V2"; /* BF16 */
    char *at = (char *)out + MAGIC_BYTES + 4, *end = (char *)out + NPY_HEADER_MAX;

    require(dtype_size(tensor->dtype) != 0 && tensor->rank <= PENSTOCK_RANK_MAX);
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (kinds[i].dtype == tensor->dtype)
            kind = kinds[i].descr;
    at += snprintf(at, (size_t)(end - at), "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                   dtype_size(tensor->dtype) == 1 ? '|' : '<', kind);
    for (uint32_t i = 0; i < tensor->rank; i++)
        at += snprintf(at, (size_t)(end - at), i == 0 ? "%lld" : ", %lld",
                       (long long)tensor->shape[i]);
    at += snprintf(at, (size_t)(end - at), tensor->rank == 1 ? ",), }" : "), }");
    /* 16 dimensions of 20 bytes, with their commas, leave 60 bytes. */
    size_t used = (size_t)((uint8_t *)at - out);
    size_t size = (used + 1 + ALIGN - 1) / ALIGN * ALIGN;
    require(size <= NPY_HEADER_MAX);
    memset(at, ' ', size - used);
    out[size - 1] = '\n';
    memcpy(out, magic, MAGIC_BYTES);
    out[MAGIC_BYTES] = 1;
    out[MAGIC_BYTES + 1] = 0;
    size_t dict = size - MAGIC_BYTES - 4;
    out[MAGIC_BYTES + 2] = (uint8_t)dict;
    out[MAGIC_BYTES + 3] = (uint8_t)(dict >> 8);
    return size;
}
