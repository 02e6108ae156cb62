/* pb_elements.h - the elements of a tensor as protobuf lists them: a field that repeats, packed or
 * one by one.
 *
 * One pass writes them and only notices that something is wrong. What it was, whoever called finds by
 * a second, slow walk, which alone makes sentences: so the fast one has no texts, and may look at many
 * numbers at once. Pure; any thread.
 */
#ifndef CODEC_PB_ELEMENTS_H
#define CODEC_PB_ELEMENTS_H

#include "base/err.h"
#include "base/pb.h"
#include "penstock/tensor.h"

struct arena;
struct buf;
struct budget;

/* How an element of a dtype comes when it is not packed, how many bytes of the message it takes at
 * least, and what range is narrower than its field's own (max 0: none). FP16 and BF16 come as floats. */
struct pb_element {
    enum pb_wire wire;
    uint8_t bytes_min;
    int64_t min, max;
};

extern const struct pb_element pb_elements[PENSTOCK_DTYPE_COUNT];

struct pb_list {
    struct slice message;
    uint32_t number; /* of the field that repeats */
    bool is_utf8;    /* strings have to be */
    /* Whether another field must not be there; NULL: they are skipped. */
    bool (*is_stray)(const struct pb_field *field);
};

/* The `count` elements into `out`, BYTES each behind its length; *size becomes what those took. False:
 * there are more or fewer, or something is wrong. `out` has room for `count`, or for all strings. */
MUST_USE bool pb_elements_read(const struct pb_list *list, enum penstock_dtype dtype,
                               uint64_t count, uint8_t *out, size_t *size);

/* Memory for them, aligned: in the arena when it is little, else *ret_holder has it. */
MUST_USE enum err_code pb_elements_room(size_t size, struct arena *arena, struct budget *budget,
                                        uint8_t **ret, struct buf **ret_holder, struct err *err);

/* An integer of 8 to 32 bits as its field has it; false: it does not fit the dtype. */
MUST_USE bool pb_element_number(enum penstock_dtype dtype, uint64_t value, int64_t *ret);

/* A float as FP16 or BF16; false: it is finite and too large for one. */
MUST_USE bool pb_put_half(uint8_t *out, float value, enum penstock_dtype dtype);

#endif
