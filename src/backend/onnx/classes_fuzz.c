/* classes_fuzz.c - any bytes as a model: what classes it tells apart.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/onnx/classes.h"

#include "base/arena.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 1 << 20);
    struct onnx_classes found[CLASS_OUTPUTS_MAX];
    struct err err = { .code = OK };
    uint32_t count;

    if (arena == NULL)
        return 0;
    enum err_code code = onnx_classes_find(found, &count, slice_make(data, size), arena, &err);
    require(code == OK || code == E_EXHAUSTED);
    for (uint32_t i = 0; code == OK && i < count; i++) {
        require(found[i].count != 0 && found[i].count <= CLASSES_MAX);
        require((found[i].names == NULL) != (found[i].numbers == NULL));
        for (uint32_t c = 0; found[i].names != NULL && c < found[i].count; c++)
            require(utf8_valid_prefix(slice_of(found[i].names[c])) == strlen(found[i].names[c]));
    }
    return 0;
}
