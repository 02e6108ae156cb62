/* strings.h - string tensors: length-prefixed bytes on our side, the runtime's on the other.
 *
 * Strings go by length in both directions and may hold any bytes, NUL too.
 */
#ifndef BACKEND_ONNX_STRINGS_H
#define BACKEND_ONNX_STRINGS_H

#include "backend/onnx/runtime.h"

/* The strings of one result, one after the other, and where each begins. */
struct strings_scratch {
    uint8_t *bytes;
    size_t *offsets; /* count + 1 of them */
    size_t bytes_room, offsets_room, count, size;
};

void strings_scratch_free(struct strings_scratch *scratch);
/* Gives back what is above `bytes_max`: one large answer is no reason to keep its memory. */
void strings_scratch_trim(struct strings_scratch *scratch, size_t bytes_max);

/* Makes a string tensor of the runtime's from one of ours. E_INVALID when the lengths in it do not
 * add up to its shape and size. */
MUST_USE enum err_code strings_to_ort(const struct onnx_runtime *runtime, struct ort_value **ret,
                                      const struct penstock_tensor *tensor, const char *name,
                                      struct err *err);

/* Reads all `count` strings of a result into the scratch. */
MUST_USE enum err_code strings_read(struct strings_scratch *scratch,
                                    const struct onnx_runtime *runtime,
                                    const struct ort_value *value, size_t count, struct err *err);
/* Bytes that strings `first` to `first + count` take with their prefixes. */
size_t strings_packed_bytes(const struct strings_scratch *scratch, size_t first, size_t count);
void strings_pack(const struct strings_scratch *scratch, size_t first, size_t count,
                  uint8_t *ret_packed);

#endif
