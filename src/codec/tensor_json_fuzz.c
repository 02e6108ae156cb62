/* tensor_json_fuzz.c - any bytes as tensor data and as JSON. SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses the dtype, the second how many elements are wanted; the rest is the text.
 * Beside not crashing: what we take as JSON yyjson takes and the other way about, FP64 and 64-bit
 * integers are the numbers that yyjson reads, and what was read is written and read again.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <yyjson.h>

#include "base/arena.h"
#include "codec/bytes.h"
#include "codec/number.h"
#include "codec/tensor_json.h"
#include "model/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COUNT_MAX = 64 };

static bool has_word(struct slice text)
{
    return memmem(text.data, text.size, "NaN", 3) != NULL ||
           memmem(text.data, text.size, "Infinity", 8) != NULL;
}

static bool is_too_deep(struct slice text)
{
    unsigned depth = 0, most = 0;

    for (size_t i = 0; i < text.size; i++) { /* brackets in strings count too: only a guess */
        depth += text.data[i] == '[' || text.data[i] == '{';
        most = MAX(most, depth);
    }
    return most > TENSOR_JSON_DEPTH_MAX;
}

/* Is it JSON? Both must say the same, but for what we let pass (words) or refuse (depth). */
static void compare_skip(struct slice text)
{
    struct json_cursor c = { text.data, text.data, text.data + text.size };
    struct err err = { 0 };
    bool ours = json_skip(&c, NULL, "fuzz", &err) == OK && json_end(&c, &err) == OK;

    require(ours || (err.text[0] != '\0' && c.at >= c.start && c.at <= c.end));
    if (has_word(text) || is_too_deep(text) || text.size == 0)
        return;
    yyjson_doc *doc = yyjson_read((const char *)text.data, text.size, YYJSON_READ_NUMBER_AS_RAW);
    require(ours == (doc != NULL));
    yyjson_doc_free(doc);
}

/* The numbers of nested lists, one after the other; false when something else is among them. */
static bool gather(yyjson_val *value, yyjson_val **out, size_t *count)
{
    size_t i, max;
    yyjson_val *child;

    if (!yyjson_is_arr(value)) {
        if (*count < COUNT_MAX)
            out[*count] = value;
        ++*count;
        return yyjson_is_num(value);
    }
    yyjson_arr_foreach(value, i, max, child)
    {
        if (!gather(child, out, count))
            return false;
    }
    return true;
}

/* `read`: whether we took the text as `count` elements of dtype. */
static void compare_numbers(struct slice text, enum penstock_dtype dtype, uint64_t count,
                            const void *elements, bool read)
{
    yyjson_val *values[COUNT_MAX];
    size_t found = 0;

    if (is_too_deep(text))
        return;
    yyjson_doc *doc = yyjson_read((const char *)text.data, text.size, 0);
    if (doc == NULL || !gather(yyjson_doc_get_root(doc), values, &found)) {
        yyjson_doc_free(doc);
        return;
    }
    if (dtype == PENSTOCK_FP64)
        require(read == (found == count)); /* yyjson refuses what is out of range, as we do */
    for (size_t i = 0; read && i < count; i++) {
        double f64 = ((const double *)elements)[i], twin = yyjson_get_num(values[i]);
        uint64_t u64 = ((const uint64_t *)elements)[i];
        if (dtype == PENSTOCK_FP64)
            require(memcmp(&f64, &twin, 8) == 0 || (f64 == 0 && twin == 0));
        else if (dtype == PENSTOCK_INT64 && yyjson_is_int(values[i]))
            require((int64_t)u64 == yyjson_get_sint(values[i]));
        else if (dtype == PENSTOCK_UINT64 && yyjson_is_int(values[i]))
            require(u64 == yyjson_get_uint(values[i]));
    }
    yyjson_doc_free(doc);
}

static void round_trip(const void *elements, enum penstock_dtype dtype, uint64_t count,
                       struct tensor_json_style style)
{
    uint64_t again[COUNT_MAX];
    struct text out;
    struct penstock_tensor tensor = { .name = "fuzz",
                                      .dtype = dtype,
                                      .rank = 1,
                                      .shape = { (int64_t)count },
                                      .data = elements,
                                      .size = count * dtype_size(dtype) };

    text_init(&out, SIZE_MAX);
    require(tensor_json_write(&out, &tensor, style, NULL) == OK && !text_failed(&out));
    struct json_cursor c = { out.data, out.data, out.data + out.size };
    require(tensor_json_read(again, dtype, count, &c, "fuzz", NULL) == OK && c.at == c.end);
    require(memcmp(again, elements, tensor.size) == 0);
    text_deinit(&out);
}

static void read_strings(struct slice text, uint64_t count)
{
    struct json_cursor c = { text.data, text.data, text.data + text.size };
    struct text out, written;
    struct err err = { 0 };

    text_init(&out, 1 << 20);
    enum err_code code = tensor_json_read_bytes(&out, count, &c, "fuzz", &err);
    require((code == OK) == (err.text[0] == '\0'));
    if (code == OK) {
        struct penstock_tensor tensor = { .dtype = PENSTOCK_BYTES,
                                          .rank = 1,
                                          .shape = { (int64_t)count },
                                          .data = out.data,
                                          .size = out.size };
        struct text again;
        require(bytes_check(text_slice(&out), count, "fuzz", NULL) == OK);
        text_init(&written, SIZE_MAX);
        text_init(&again, SIZE_MAX);
        require(tensor_json_write(&written, &tensor, (struct tensor_json_style){ 0 }, NULL) == OK);
        c = (struct json_cursor){ written.data, written.data, written.data + written.size };
        require(tensor_json_read_bytes(&again, count, &c, "fuzz", NULL) == OK);
        require(slice_eq(text_slice(&again), text_slice(&out)));
        text_deinit(&again);
        text_deinit(&written);
    }
    text_deinit(&out);
}

static void pull(struct slice text)
{
    struct arena *arena = arena_new(1024, 1 << 20);
    struct json_cursor c = { text.data, text.data, text.data + text.size };
    struct slice string;
    int64_t i64;
    uint64_t u64;
    double f64;
    bool flag;

    require(arena != NULL);
    for (;;) {
        const uint8_t *before = c.at;
        if (json_string(&c, arena, &string, "fuzz", NULL) != OK)
            c.at = before;
        if (json_i64(&c, &i64, "fuzz", NULL) != OK && json_u64(&c, &u64, "fuzz", NULL) != OK &&
            json_f64(&c, &f64, "fuzz", NULL) != OK && json_bool(&c, &flag, "fuzz", NULL) != OK &&
            json_more(&c, ']', false, &flag, "fuzz", NULL) != OK)
            c.at = MAX(before, c.at);
        require(c.at >= before && c.at <= c.end);
        if (c.at == before && c.at++ == c.end)
            break;
    }
    arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    enum penstock_dtype dtype = (enum penstock_dtype)(1 + data[0] % 14);
    struct tensor_json_style style = { (enum json_nonfinite)(data[0] / 14 % 2), 0, data[0] >= 128 };
    uint64_t elements[COUNT_MAX + 1], count = data[1] % (COUNT_MAX + 1);
    struct slice text = { data + 2, size - 2 };
    struct json_cursor c = { text.data, text.data, text.data + text.size };
    struct err err = { 0 };
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];
    uint64_t regular = UINT64_MAX;

    compare_skip(text);
    pull(text);
    if (tensor_json_shape(c, &rank, shape, "fuzz", &err) == OK) {
        require(rank <= PENSTOCK_RANK_MAX && shape_count(rank, shape, &regular));
        if (regular <= COUNT_MAX)
            count = regular; /* so that texts of any size get further */
    } else {
        require(err.text[0] != '\0');
    }
    if (dtype == PENSTOCK_BYTES) {
        read_strings(text, count);
        return 0;
    }
    memset(elements, 0xaa, sizeof elements);
    err.text[0] = '\0';
    bool read = tensor_json_read(elements, dtype, count, &c, "fuzz", &err) == OK;
    require(read == (err.text[0] == '\0') && c.at >= c.start && c.at <= c.end);
    require(((uint8_t *)elements)[count * dtype_size(dtype)] == 0xaa);
    if (!read || json_end(&c, NULL) != OK) {
        if (!read)
            compare_numbers(text, dtype, count, elements, false);
        return 0;
    }
    require(regular == UINT64_MAX || regular == count);
    compare_numbers(text, dtype, count, elements, true);
    round_trip(elements, dtype, count, style);
    return 0;
}
