/* strings_fuzz.c - any bytes as a string tensor, to a stand-in for the runtime and back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "backend/onnx/strings.h"
#include "base/slice.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The stand-in's string tensor. */
struct ort_value {
    size_t count;
    struct slice *strings;
};

static struct ort_status *value_create(struct ort_allocator *allocator, const int64_t *shape,
                                       size_t rank, int type, struct ort_value **ret)
{
    struct ort_value *value = calloc(1, sizeof *value);

    (void)allocator;
    require(value != NULL && type == ORT_STRING);
    value->count = 1;
    for (size_t i = 0; i < rank; i++)
        value->count *= (size_t)shape[i];
    require(value->count < 1 << 24); /* no more than the bytes can hold */
    value->strings = calloc(value->count + 1, sizeof *value->strings);
    require(value->strings != NULL);
    *ret = value;
    return NULL;
}

static struct ort_status *string_buffer(struct ort_value *value, size_t index, size_t size,
                                        char **ret)
{
    char *memory = malloc(size + 1);

    require(index < value->count && memory != NULL && value->strings[index].data == NULL);
    value->strings[index] = slice_make(memory, size);
    *ret = memory;
    return NULL;
}

static struct ort_status *strings_size(const struct ort_value *value, size_t *ret)
{
    *ret = 0;
    for (size_t i = 0; i < value->count; i++)
        *ret += value->strings[i].size;
    return NULL;
}

static struct ort_status *strings_content(const struct ort_value *value, void *ret, size_t size,
                                          size_t *ret_offsets, size_t offsets_count)
{
    size_t at = 0;

    require(offsets_count == value->count);
    for (size_t i = 0; i < value->count; i++) {
        require(value->strings[i].size <= size - at);
        memcpy((char *)ret + at, value->strings[i].data, value->strings[i].size);
        ret_offsets[i] = at;
        at += value->strings[i].size;
    }
    return NULL;
}

static void value_release(struct ort_value *value)
{
    for (size_t i = 0; value != NULL && i < value->count; i++)
        free((void *)(uintptr_t)value->strings[i].data);
    if (value != NULL)
        free(value->strings);
    free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct ort_api api = { .value_create = value_create,
                                        .string_buffer = string_buffer,
                                        .strings_size = strings_size,
                                        .strings_content = strings_content,
                                        .value_release = value_release };
    static const struct onnx_runtime runtime = { .api = &api };
    struct penstock_tensor tensor = { .dtype = PENSTOCK_BYTES };
    struct strings_scratch scratch = { 0 };
    struct ort_value *value = NULL;
    struct err err = { .code = OK };

    if (size < 1)
        return 0;
    tensor.rank = data[0] % 4;
    data++, size--;
    for (uint32_t i = 0; i < tensor.rank && size >= 1; i++) {
        /* mostly small, sometimes absurd */
        tensor.shape[i] = data[0] == 255 ? INT64_MAX : data[0] == 254 ? -1 : data[0] % 8;
        data++, size--;
    }
    tensor.data = data;
    tensor.size = size;
    enum err_code code = strings_to_ort(&runtime, &value, &tensor, "s", &err);
    require((code == OK) == (value != NULL) && (code == OK || err.text[0] != '\0'));
    if (code == OK) {
        size_t packed = 0;
        require(strings_read(&scratch, &runtime, value, value->count, &err) == OK);
        packed = strings_packed_bytes(&scratch, 0, value->count);
        require(packed == size);
        uint8_t *back = malloc(packed + 1);
        require(back != NULL);
        /* in two parts, as rows of a batch */
        size_t half = value->count / 2, first = strings_packed_bytes(&scratch, 0, half);
        strings_pack(&scratch, 0, half, back);
        strings_pack(&scratch, half, value->count - half, back + first);
        require(memcmp(back, data, packed) == 0);
        free(back);
    }
    value_release(value);
    strings_scratch_free(&scratch);
    return 0;
}
