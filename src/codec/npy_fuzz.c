/* npy_fuzz.c - any bytes as a .npy file. SPDX-License-Identifier: Apache-2.0 */
#include "codec/npy.h"

#include <stdlib.h>

#include "base/arena.h"
#include "codec/bytes.h"
#include "model/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was read, written with our header, reads as the same tensor. */
static void round_trip(const struct penstock_tensor *tensor, struct arena *arena)
{
    uint8_t header[NPY_HEADER_MAX];
    size_t size = npy_write_header(header, tensor);
    uint8_t *file = malloc(size + tensor->size);
    struct penstock_tensor back;

    require(file != NULL);
    memcpy(file, header, size);
    if (tensor->size != 0)
        memcpy(file + size, tensor->data, tensor->size);
    require(npy_read(&back, arena, slice_make(file, size + tensor->size), NULL) == OK);
    require(back.dtype == tensor->dtype && back.rank == tensor->rank && back.size == tensor->size);
    require(memcmp(back.shape, tensor->shape, tensor->rank * sizeof back.shape[0]) == 0);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *arena = arena_new(1024, 1 << 22);
    struct penstock_tensor tensor;
    struct err err = { 0 };
    uint64_t count;

    require(arena != NULL);
    if (npy_read(&tensor, arena, slice_make(data, size), &err) == OK) {
        require(shape_count(tensor.rank, tensor.shape, &count));
        if (tensor.dtype == PENSTOCK_BYTES) {
            require(bytes_check(slice_make(tensor.data, tensor.size), count, "fuzz", NULL) == OK);
        } else {
            require(tensor.size == count * dtype_size(tensor.dtype));
            require((const uint8_t *)tensor.data + tensor.size == data + size);
            round_trip(&tensor, arena);
        }
    } else {
        require(err.text[0] != '\0');
    }
    arena_free(&arena);
    return 0;
}
