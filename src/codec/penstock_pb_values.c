/* penstock_pb_values.c - the values of a penstock.v1.Tensor as a tensor's bytes.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Lists are read by pb_elements.h; what is wrong with one that it did not take is found by explain.
 */
#include <stdio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "codec/bytes.h"
#include "codec/pb_elements.h"
#include "codec/penstock_pb_internal.h"
#include "codec/tensor_json.h"
#include "model/dtype.h"

enum { PATH_BYTES = 160 };

/* Which list a dtype travels in. */
static const uint8_t lists[PENSTOCK_DTYPE_COUNT] = {
    [PENSTOCK_BOOL] = PENSTOCK_PB_BOOLS,     [PENSTOCK_UINT8] = PENSTOCK_PB_UINT32S,
    [PENSTOCK_UINT16] = PENSTOCK_PB_UINT32S, [PENSTOCK_UINT32] = PENSTOCK_PB_UINT32S,
    [PENSTOCK_UINT64] = PENSTOCK_PB_UINT64S, [PENSTOCK_INT8] = PENSTOCK_PB_INT32S,
    [PENSTOCK_INT16] = PENSTOCK_PB_INT32S,   [PENSTOCK_INT32] = PENSTOCK_PB_INT32S,
    [PENSTOCK_INT64] = PENSTOCK_PB_INT64S,   [PENSTOCK_FP16] = PENSTOCK_PB_FLOATS,
    [PENSTOCK_FP32] = PENSTOCK_PB_FLOATS,    [PENSTOCK_FP64] = PENSTOCK_PB_DOUBLES,
    [PENSTOCK_BYTES] = PENSTOCK_PB_STRINGS,  [PENSTOCK_BF16] = PENSTOCK_PB_FLOATS,
};

static bool is_integer(enum penstock_dtype dtype)
{
    return dtype >= PENSTOCK_UINT8 && dtype <= PENSTOCK_INT64;
}

/* -- what is wrong ------------------------------------------------------------------------------ */

/* Is the list one that the dtype travels in? */
static enum err_code check_list(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                                const char *path, struct err *err)
{
    enum penstock_pb_list own = (enum penstock_pb_list)lists[dtype];

    if (LIKELY(t->list == own || t->list == PENSTOCK_PB_RAW || t->list == PENSTOCK_PB_DATA ||
               (t->list == PENSTOCK_PB_BYTES_LIST && dtype == PENSTOCK_BYTES)))
        return OK;
    const char *or_bytes = dtype == PENSTOCK_BYTES ? ", 'bytes_list'" : "";
    if (t->list == PENSTOCK_PB_NO_VALUES)
        return err_set(err, E_INVALID, "%s: it has no values; put them in '%s'%s or 'raw'", path,
                       penstock_pb_list_names[own], or_bytes);
    return err_set(err, E_INVALID, "%s: the tensor is %s and its values come in '%s'; use '%s'%s or 'raw'",
                   path, dtype_name(dtype), penstock_pb_list_names[t->list], penstock_pb_list_names[own], or_bytes);
}

static COLD enum err_code broken(const struct penstock_pb_tensor *t, const char *path,
                                 const char *fault, struct err *err)
{
    return err_set(err, E_INVALID, "%s.%s: it is no valid protobuf message: %s", path,
                   penstock_pb_list_names[t->list], fault);
}

static COLD enum err_code wrong_count(const struct penstock_pb_tensor *t, const char *path,
                                      uint64_t found, uint64_t count, struct err *err)
{
    return err_set(err, E_INVALID, "%s.%s: it holds %llu elements, the shape has %llu", path,
                   penstock_pb_list_names[t->list], (unsigned long long)found, (unsigned long long)count);
}

static COLD enum err_code ends_in_the_middle(const struct penstock_pb_tensor *t,
                                             enum penstock_dtype dtype, const char *path,
                                             struct err *err)
{
    if (dtype == PENSTOCK_BYTES)
        return err_set(err, E_INVALID,
                       "%s.%s: its %zu bytes are no BYTES elements, each a length of 4 bytes "
                       "(little-endian) and so many bytes",
                       path, penstock_pb_list_names[t->list], t->values.size);
    return err_set(err, E_INVALID, "%s.%s: its %zu bytes are no whole number of %s elements (%zu each)",
                   path, penstock_pb_list_names[t->list], t->values.size, dtype_name(dtype), dtype_size(dtype));
}

/* -- how many ----------------------------------------------------------------------------------- */

static enum err_code count_raw(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                               const char *path, uint64_t *ret, struct err *err)
{
    struct slice rest = t->values, element;
    size_t size = dtype_size(dtype);
    uint64_t count = 0;

    if (dtype != PENSTOCK_BYTES) {
        *ret = t->values.size / size;
        return t->values.size % size == 0 ? OK : ends_in_the_middle(t, dtype, path, err);
    }
    while (bytes_next(&rest, &element))
        count++;
    *ret = count;
    return rest.size == 0 ? OK : ends_in_the_middle(t, dtype, path, err);
}

static uint64_t count_ends(struct slice packed) /* of varints */
{
    uint64_t count = 0;

    for (size_t i = 0; i < packed.size; i++)
        count += packed.data[i] < 0x80;
    return count;
}

static enum err_code count_list(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                                const char *path, uint64_t *ret, struct err *err)
{
    enum pb_wire wire = pb_elements[dtype].wire;
    size_t size = wire == PB_I64 ? 8 : 4;
    struct pb_reader r;
    struct pb_field field;
    uint64_t count = 0;

    pb_begin(&r, t->values);
    while (pb_next(&r, &field)) {
        if (field.number != 1)
            continue;
        if (field.wire == wire)
            count++;
        else if (field.wire != PB_LEN)
            return err_set(err, E_INVALID,
                           "%s.%s: its values have wire type %u; was the message made with another "
                           ".proto?",
                           path, penstock_pb_list_names[t->list], (unsigned)field.wire);
        else if (wire == PB_VARINT)
            count += count_ends(field.bytes);
        else if (field.bytes.size % size != 0)
            return broken(t, path, "a number that ends in the middle", err);
        else
            count += field.bytes.size / size;
    }
    *ret = count;
    return pb_failed(&r) ? broken(t, path, r.fault, err) : OK;
}

static struct json_cursor cursor_of(const struct penstock_pb_tensor *t)
{
    return (struct json_cursor){ t->values.data, t->values.data, t->values.data + t->values.size };
}

static void json_path(char out[PATH_BYTES], const char *path, const struct penstock_pb_tensor *t)
{
    snprintf(out, PATH_BYTES, "%s.%s", path, penstock_pb_list_names[t->list]);
}

enum err_code penstock_pb_count(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                                const char *path, uint64_t *ret_count, uint32_t *ret_rank,
                                int64_t ret_shape[PENSTOCK_RANK_MAX], struct err *err)
{
    char words[PATH_BYTES];

    *ret_rank = 0;
    TRY(check_list(t, dtype, path, err));
    if (t->is_json) {
        json_path(words, path, t);
        TRY(tensor_json_shape(cursor_of(t), ret_rank, ret_shape, words, err));
        if (!shape_count(*ret_rank, ret_shape, ret_count))
            return err_set(err, E_INVALID, "%s: too many elements", words);
        if (*ret_rank == 1) /* one list says how many there are and nothing of the shape */
            *ret_rank = 0;
        return OK;
    }
    return t->list == PENSTOCK_PB_RAW ? count_raw(t, dtype, path, ret_count, err)
                                      : count_list(t, dtype, path, ret_count, err);
}

/* -- what is wrong with a list ------------------------------------------------------------------ */

static enum err_code check_element(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                                   const char *path, uint64_t index, uint64_t value,
                                   struct err *err)
{
    int64_t number;

    if (pb_element_number(dtype, value, &number))
        return OK;
    return err_set(err, E_INVALID, "%s.%s.values[%llu]: %lld is out of range for %s (%lld to %lld)",
                   path, penstock_pb_list_names[t->list], (unsigned long long)index, (long long)number,
                   dtype_name(dtype), (long long)pb_elements[dtype].min, (long long)pb_elements[dtype].max);
}

static enum err_code check_field(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                                 const char *path, const struct pb_field *field, uint64_t *index,
                                 struct err *err)
{
    struct pb_reader packed;
    uint64_t value;
    uint8_t half[2];

    if (pb_elements[dtype].wire == PB_LEN) {
        uint64_t at = (*index)++;
        if (t->list != PENSTOCK_PB_STRINGS || utf8_valid_prefix(field->bytes) == field->bytes.size)
            return OK;
        return err_set(err, E_INVALID,
                       "%s.strings.values[%llu]: it is not UTF-8, as strings must be; use 'bytes_list'",
                       path, (unsigned long long)at);
    }
    if (pb_elements[dtype].wire == PB_VARINT && field->wire == PB_VARINT)
        return check_element(t, dtype, path, (*index)++, field->value, err);
    if (pb_elements[dtype].wire == PB_VARINT) {
        pb_begin(&packed, field->bytes);
        while (pb_varint(&packed, &value))
            TRY(check_element(t, dtype, path, (*index)++, value, err));
        return pb_failed(&packed) ? broken(t, path, packed.fault, err) : OK;
    }
    if (dtype != PENSTOCK_FP16 && dtype != PENSTOCK_BF16)
        return OK;
    struct slice from = { (const uint8_t *)&field->value, 4 };
    if (field->wire == PB_LEN)
        from = field->bytes;
    for (size_t at = 0; at + 4 <= from.size; at += 4, ++*index) {
        float number;
        memcpy(&number, from.data + at, 4);
        if (!pb_put_half(half, number, dtype))
            return err_set(err, E_INVALID, "%s.floats.values[%llu]: %.9g is out of range for %s",
                           path, (unsigned long long)*index, (double)number, dtype_name(dtype));
    }
    return OK;
}

/* Finds what is wrong with a list that the fast pass did not take. */
static COLD enum err_code explain(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                                  uint64_t count, const char *path, struct err *err)
{
    struct pb_reader r;
    struct pb_field field;
    uint64_t found = 0, index = 0;

    TRY(count_list(t, dtype, path, &found, err));
    pb_begin(&r, t->values);
    while (pb_next(&r, &field))
        if (field.number == 1)
            TRY(check_field(t, dtype, path, &field, &index, err));
    if (found != count)
        return wrong_count(t, path, found, count, err);
    return err_set(err, E_INTERNAL, "%s.%s was not read", path, penstock_pb_list_names[t->list]);
}

/* -- JSON --------------------------------------------------------------------------------------- */

/* Integers as strings, which is how protobuf's JSON has those of 64 bits: the same text without the
 * quotes. Sets *text, which may lie in the arena then. */
static enum err_code bare_integers(struct slice *text, const char *path, struct arena *arena,
                                   struct err *err)
{
    struct slice from = *text;
    bool is_in = false;
    size_t size = 0;

    if (memchr(from.data, '"', from.size) == NULL)
        return OK;
    uint8_t *to = arena_alloc(arena, from.size);
    if (to == NULL)
        return err_set(err, E_EXHAUSTED, "%s: no memory to read it; retry later", path);
    for (size_t i = 0; i < from.size; i++) {
        uint8_t c = from.data[i];
        if (c == '"') {
            is_in = !is_in;
            continue;
        }
        if (is_in && !(c >= '0' && c <= '9') && c != '-')
            return err_set(err, E_INVALID,
                           "%s: a string that is no whole number stands where integers are", path);
        to[size++] = c;
    }
    *text = slice_make(to, size);
    return OK;
}

/* bytes_list: each string is base64. `out` has 4 bytes an element and the text's size. */
static enum err_code read_base64(struct slice text, uint8_t *out, uint64_t count, const char *path,
                                 size_t *ret_size, struct arena *arena, struct err *err)
{
    struct json_cursor c = { text.data, text.data, text.data + text.size };
    uint8_t *at = out;
    uint64_t index = 0;
    bool has_more;

    TRY(json_take(&c, '[', path, err));
    for (;; index++) {
        struct slice encoded;
        size_t size;
        TRY(json_more(&c, ']', index == 0, &has_more, path, err));
        if (!has_more)
            break;
        TRY(json_string(&c, arena, &encoded, path, err));
        if (index == count || !penstock_pb_base64(encoded, at + 4, &size))
            return err_set(err, E_INVALID, "%s[%llu]: it is no base64, or there are too many", path,
                           (unsigned long long)index);
        uint32_t length = (uint32_t)size;
        memcpy(at, &length, 4);
        at += 4 + size;
    }
    *ret_size = (size_t)(at - out);
    return index == count ? OK : err_set(err, E_INVALID, "%s: it holds %llu elements, the shape has %llu",
                                         path, (unsigned long long)index, (unsigned long long)count);
}

static enum err_code read_json(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                               uint64_t count, const char *path, struct arena *arena, uint8_t *out,
                               size_t *size, struct err *err)
{
    struct slice text = t->values;
    struct text strings;

    if (t->list == PENSTOCK_PB_BYTES_LIST)
        return read_base64(text, out, count, path, size, arena, err);
    if (is_integer(dtype))
        TRY(bare_integers(&text, path, arena, err));
    struct json_cursor c = { text.data, text.data, text.data + text.size };
    if (dtype != PENSTOCK_BYTES)
        return tensor_json_read(out, dtype, count, &c, path, err);
    text_init_fixed(&strings, out, *size);
    TRY(tensor_json_read_bytes(&strings, count, &c, path, err));
    *size = strings.size;
    return OK;
}

/* -- the whole ---------------------------------------------------------------------------------- */

/* Room for it, or the error says of what. */
static enum err_code make_room(size_t size, const char *path, struct arena *arena,
                               struct budget *budget, uint8_t **ret, struct buf **ret_holder,
                               struct err *err)
{
    enum err_code code = pb_elements_room(size, arena, budget, ret, ret_holder, err);

    if (UNLIKELY(code != OK))
        err_wrap(err, "%s", path);
    return code;
}

HOT enum err_code penstock_pb_values(const struct penstock_pb_tensor *t, enum penstock_dtype dtype,
                                     uint64_t count, const char *path, struct arena *arena,
                                     struct budget *budget, struct slice *ret_data,
                                     struct buf **ret_holder, struct err *err)
{
    CLEANUP(buf_unref) struct buf *holder = NULL;
    char words[PATH_BYTES];
    uint8_t *out;

    TRY(check_list(t, dtype, path, err));
    if (LIKELY(t->list == PENSTOCK_PB_RAW)) {
        size_t align = dtype == PENSTOCK_BYTES ? 1 : dtype_size(dtype);
        *ret_holder = NULL;
        *ret_data = t->values;
        if (LIKELY(((uintptr_t)t->values.data & (align - 1)) == 0))
            return OK;
        TRY(make_room(t->values.size, path, arena, budget, &out, &holder, err));
        memcpy(out, t->values.data, t->values.size);
        ret_data->data = out;
        *ret_holder = TAKE(holder);
        return OK;
    }

    /* No memory for a shape that lies: every element takes bytes of the message. */
    if (count > t->values.size / (t->is_json ? 1 : pb_elements[dtype].bytes_min)) {
        uint64_t found;
        uint32_t rank;
        int64_t shape[PENSTOCK_RANK_MAX];
        TRY(penstock_pb_count(t, dtype, path, &found, &rank, shape, err));
        return wrong_count(t, path, found, count, err);
    }
    size_t size = dtype != PENSTOCK_BYTES ? count * dtype_size(dtype)
                                          : t->values.size + (t->is_json ? 4 : 2) * count;
    TRY(make_room(size, path, arena, budget, &out, &holder, err));
    if (UNLIKELY(t->is_json)) {
        json_path(words, path, t);
        TRY(read_json(t, dtype, count, words, arena, out, &size, err));
    } else {
        struct pb_list list = { t->values, 1, t->list == PENSTOCK_PB_STRINGS, NULL };
        if (UNLIKELY(!pb_elements_read(&list, dtype, count, out, &size)))
            return explain(t, dtype, count, path, err);
    }
    if (holder != NULL && dtype == PENSTOCK_BYTES)
        buf_trim(holder, size);
    *ret_data = slice_make(out, size);
    *ret_holder = TAKE(holder);
    return OK;
}
