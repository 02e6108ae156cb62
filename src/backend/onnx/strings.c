/* strings.c - SPDX-License-Identifier: Apache-2.0 */
#include "backend/onnx/strings.h"

#include <string.h>

#include "base/mem.h"

enum { PREFIX_BYTES = 4 };

void strings_scratch_free(struct strings_scratch *scratch)
{
    mem_free(scratch->bytes);
    mem_free(scratch->offsets);
    *scratch = (struct strings_scratch){ 0 };
}

void strings_scratch_trim(struct strings_scratch *scratch, size_t bytes_max)
{
    if (scratch->bytes_room + scratch->offsets_room * sizeof *scratch->offsets > bytes_max)
        strings_scratch_free(scratch);
}

static enum err_code fill(const struct onnx_runtime *runtime, struct ort_value *value,
                          const struct penstock_tensor *tensor, size_t count, const char *name,
                          struct err *err)
{
    const uint8_t *data = tensor->data;
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        uint32_t length = 0;
        char *to = NULL;
        if (tensor->size - at >= PREFIX_BYTES)
            memcpy(&length, data + at, PREFIX_BYTES);
        if (tensor->size - at < PREFIX_BYTES || tensor->size - at - PREFIX_BYTES < length)
            return err_set(err, E_INVALID, "input '%s' ends within string %zu of %zu", name, i,
                           count);
        at += PREFIX_BYTES;
        struct ort_status *status = runtime->api->string_buffer(value, i, length, &to);
        if (status != NULL)
            return onnx_status_take(runtime, status, err, name);
        memcpy(to, data + at, length);
        at += length;
    }
    if (at != tensor->size)
        return err_set(err, E_INVALID, "input '%s' has %zu bytes after its last string", name,
                       tensor->size - at);
    return OK;
}

enum err_code strings_to_ort(const struct onnx_runtime *runtime, struct ort_value **ret,
                             const struct penstock_tensor *tensor, const char *name,
                             struct err *err)
{
    struct ort_value *value = NULL;
    size_t count = 1;

    for (uint32_t d = 0; d < tensor->rank; d++) {
        if (tensor->shape[d] < 0 || __builtin_mul_overflow(count, (size_t)tensor->shape[d], &count))
            return err_set(err, E_INVALID, "input '%s' has an impossible shape", name);
    }
    /* Each string takes a prefix: a shape that promises more than the bytes can hold must not make
     * the runtime allocate it. */
    if (count > tensor->size / PREFIX_BYTES)
        return err_set(err, E_INVALID, "input '%s' has %zu bytes, too few for %zu strings", name,
                       tensor->size, count);
    struct ort_status *status = runtime->api->value_create(runtime->allocator, tensor->shape,
                                                           tensor->rank, ORT_STRING, &value);
    if (status != NULL)
        return onnx_status_take(runtime, status, err, name);
    enum err_code code = fill(runtime, value, tensor, count, name, err);
    if (code != OK)
        runtime->api->value_release(value);
    else
        *ret = value;
    return code;
}

/* Makes room for `count + 1` offsets and `size` bytes. What was there is lost. */
static enum err_code make_room(struct strings_scratch *scratch, size_t count, size_t size,
                               struct err *err)
{
    if (scratch->offsets_room < count + 1 || scratch->bytes_room < size) {
        strings_scratch_free(scratch);
        scratch->offsets = mem_alloc((count + 1) * sizeof *scratch->offsets);
        scratch->bytes = mem_alloc(MAX(size, (size_t)1));
        if (scratch->offsets == NULL || scratch->bytes == NULL) {
            strings_scratch_free(scratch);
            return err_set(err, E_EXHAUSTED, "no memory for %zu strings of %zu bytes", count, size);
        }
        scratch->offsets_room = count + 1;
        scratch->bytes_room = MAX(size, (size_t)1);
    }
    scratch->count = count;
    scratch->size = size;
    return OK;
}

enum err_code strings_read(struct strings_scratch *scratch, const struct onnx_runtime *runtime,
                           const struct ort_value *value, size_t count, struct err *err)
{
    size_t size = 0;

    struct ort_status *status = count > 0 ? runtime->api->strings_size(value, &size) : NULL;
    if (status != NULL)
        return onnx_status_take(runtime, status, err, "strings");
    TRY(make_room(scratch, count, size, err));
    if (count > 0)
        status =
            runtime->api->strings_content(value, scratch->bytes, size, scratch->offsets, count);
    if (status != NULL)
        return onnx_status_take(runtime, status, err, "strings");
    scratch->offsets[count] = size;
    return OK;
}

size_t strings_packed_bytes(const struct strings_scratch *scratch, size_t first, size_t count)
{
    return scratch->offsets[first + count] - scratch->offsets[first] + count * PREFIX_BYTES;
}

void strings_pack(const struct strings_scratch *scratch, size_t first, size_t count,
                  uint8_t *ret_packed)
{
    for (size_t i = first; i < first + count; i++) {
        uint32_t length = (uint32_t)(scratch->offsets[i + 1] - scratch->offsets[i]);
        memcpy(ret_packed, &length, PREFIX_BYTES);
        memcpy(ret_packed + PREFIX_BYTES, scratch->bytes + scratch->offsets[i], length);
        ret_packed += PREFIX_BYTES + length;
    }
}
