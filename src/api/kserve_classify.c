/* kserve_classify.c - the classification extension: the k largest values of each row, as text.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Values are written as std::to_string does (Triton's form): six digits behind the point.
 */
#include <stdio.h>

#include "api/kserve.h"
#include "contract/choose.h"
#include "contract/tensor_memory.h"
#include "model/dtype.h"

enum { VALUE_TEXT_MAX = 352 }; /* %f of the largest double */

/* One row of the output. */
struct scores {
    enum penstock_dtype dtype;
    const uint8_t *at;
};

static size_t put_value(char out[VALUE_TEXT_MAX], const struct scores *row, uint64_t i)
{
    int size;

    if (row->dtype == PENSTOCK_INT64 || row->dtype == PENSTOCK_UINT64) {
        uint64_t value;
        memcpy(&value, row->at + i * sizeof value, sizeof value);
        size = row->dtype == PENSTOCK_INT64
                   ? snprintf(out, VALUE_TEXT_MAX, "%lld", (long long)value)
                   : snprintf(out, VALUE_TEXT_MAX, "%llu", (unsigned long long)value);
    } else if (row->dtype == PENSTOCK_FP16 || row->dtype == PENSTOCK_BF16 ||
               row->dtype == PENSTOCK_FP32 || row->dtype == PENSTOCK_FP64) {
        size = snprintf(out, VALUE_TEXT_MAX, "%f", element_f64(row->dtype, row->at, i));
    } else {
        size =
            snprintf(out, VALUE_TEXT_MAX, "%lld", (long long)element_f64(row->dtype, row->at, i));
    }
    return (size_t)size;
}

static void put_class(struct text *out, const struct scores *row, uint64_t i,
                      const struct signature_tensor *described)
{
    char value[VALUE_TEXT_MAX], index[24];
    size_t value_size = put_value(value, row, i);
    size_t index_size = (size_t)snprintf(index, sizeof index, ":%llu", (unsigned long long)i);
    const char *label = i < described->labels_count ? described->labels[i] : NULL;
    uint32_t size = (uint32_t)(value_size + index_size + (label != NULL ? 1 + strlen(label) : 0));

    text_put(out, &size, sizeof size);
    text_put(out, value, value_size);
    text_put(out, index, index_size);
    if (label != NULL) {
        text_byte(out, ':');
        text_str(out, label);
    }
}

static size_t label_bytes_max(const struct signature_tensor *described)
{
    size_t most = 0;

    for (uint32_t i = 0; i < described->labels_count; i++)
        most = MAX(most, strlen(described->labels[i]));
    return most;
}

size_t kserve_classes_bound(const struct penstock_tensor *scores, uint64_t k,
                            const struct signature_tensor *described, bool is_most)
{
    size_t element = dtype_size(scores->dtype);
    size_t count = element == 0 ? 0 : scores->size / element, bound;
    /* A row has so many at least, if there are that many. */
    size_t rows = scores->rank > 1 && scores->shape[0] > 0 ? (size_t)scores->shape[0] : 1;
    size_t each = (is_most ? (size_t)VALUE_TEXT_MAX : 40) + 32 + 6 * label_bytes_max(described);

    if (__builtin_mul_overflow(rows, (size_t)MIN(k, (uint64_t)SIZE_MAX), &rows))
        rows = SIZE_MAX;
    return __builtin_mul_overflow(MIN(count, rows), each, &bound) ? SIZE_MAX / 2 : bound;
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
}

enum err_code kserve_classify(struct penstock_tensor *ret, const struct penstock_tensor *scores,
                              uint64_t k, bool has_batch, const struct signature_tensor *described,
                              struct kserve_memory memory, struct err *err)
{
    size_t element = dtype_size(scores->dtype);
    uint64_t rows = has_batch && scores->rank != 0 ? (uint64_t)scores->shape[0] : 1, room;
    void *indexes, *bytes;
    struct text out;

    if (element == 0)
        return err_set(err, E_INVALID,
                       "class result not available for output '%s' due to unsupported type '%s'",
                       described->name, dtype_name(scores->dtype));
    uint64_t n = rows == 0 ? 0 : scores->size / element / rows;
    k = MIN(k, n);
    TRY(tensor_memory(&indexes, memory.arena, memory.budget, k * sizeof(uint64_t), err));
    /* Text of a value: 24 bytes for all but huge doubles, which the second try has room for. */
    for (size_t value_max = 40;; value_max = VALUE_TEXT_MAX) {
        if (__builtin_mul_overflow(rows * k, value_max + 32 + label_bytes_max(described), &room))
            return no_memory(err);
        TRY(tensor_memory(&bytes, memory.arena, memory.budget, room, err));
        text_init_fixed(&out, bytes, room);
        for (uint64_t row = 0; row < rows; row++) {
            struct scores at = { scores->dtype, (const uint8_t *)scores->data + row * n * element };
            choose_largest(at.dtype, at.at, n, k, indexes);
            for (uint64_t i = 0; i < k; i++)
                put_class(&out, &at, ((uint64_t *)indexes)[i], described);
        }
        if (!text_failed(&out))
            break;
        if (value_max == VALUE_TEXT_MAX)
            return no_memory(err);
    }
    *ret = (struct penstock_tensor){
        .name = scores->name,
        .dtype = PENSTOCK_BYTES,
        .rank = has_batch && scores->rank != 0 ? 2 : 1,
        .data = out.data,
        .size = out.size,
    };
    ret->shape[0] = (int64_t)(ret->rank == 2 ? rows : k);
    ret->shape[1] = (int64_t)k;
    return OK;
}
