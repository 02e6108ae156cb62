/* infer_pb.h - what the readers of infer messages share (kserve_pb.c, penstock_pb.c): fields of one
 * kind, parameters, and what was wrong, where. Nobody else includes it.
 *
 * A reader walks a message with pb_next and gives each field to one of these; `leaf` names the field in
 * its message. Where the message stands in the whole is in struct infer_pb, so that an error says
 * "input.inputs[2].shape". What is taken of nearly every message is inline, what ends a request is not.
 */
#ifndef CODEC_INFER_PB_H
#define CODEC_INFER_PB_H

#include "base/arena.h"
#include "base/err.h"
#include "base/pb.h"
#include "base/utf8.h"
#include "codec/kserve_pb.h"

struct infer_pb {
    struct slice message;
    struct arena *arena;
    const char **ret_field;
    struct err *err;
    const char *type;   /* "ModelInferRequest" */
    const char *prefix; /* "input." or "" */
    const char *list;   /* "inputs" while inside one of these; else NULL */
    uint32_t index;
};

/* -- what was wrong, and where ------------------------------------------------------------------ */

/* Says where; the sentence is there already. */
COLD enum err_code infer_pb_at_field(const struct infer_pb *d, const char *leaf);
COLD enum err_code infer_pb_broken(const struct infer_pb *d, const struct pb_reader *r,
                                   const char *leaf);
COLD enum err_code infer_pb_wrong_wire(const struct infer_pb *d, const char *leaf,
                                       const struct pb_field *field, enum pb_wire expected);
COLD enum err_code infer_pb_too_many(const struct infer_pb *d, const char *leaf, uint64_t count,
                                     uint64_t count_max);
COLD enum err_code infer_pb_not_utf8(const struct infer_pb *d, const char *leaf, struct slice text);
COLD enum err_code infer_pb_too_deep(const struct infer_pb *d);
COLD enum err_code infer_pb_no_memory(const struct infer_pb *d, size_t size);

/* -- fields of one kind ------------------------------------------------------------------------- */

/* Is it a message (or bytes)? */
static inline enum err_code infer_pb_part(const struct infer_pb *d, const struct pb_field *field,
                                          const char *leaf)
{
    return LIKELY(field->wire == PB_LEN) ? OK : infer_pb_wrong_wire(d, leaf, field, PB_LEN);
}

/* proto3 strings are UTF-8; nearly all of ours are ASCII and shorter than 16 bytes. */
static inline bool infer_pb_is_ascii(struct slice s)
{
    const uint64_t high = UINT64_C(0x8080808080808080);
    uint64_t a = 0, b = 0;

    if (s.size >= 8) {
        for (size_t at = 0; at + 8 < s.size; at += 8) {
            memcpy(&b, s.data + at, 8);
            a |= b;
        }
        memcpy(&b, s.data + s.size - 8, 8);
    } else if (s.size >= 4) {
        memcpy(&a, s.data, 4);
        memcpy(&b, s.data + s.size - 4, 4);
    } else {
        for (size_t at = 0; at < s.size; at++)
            a |= s.data[at];
    }
    return ((a | b) & high) == 0;
}

static inline enum err_code infer_pb_string(const struct infer_pb *d, const struct pb_field *field,
                                            const char *leaf, struct slice *ret)
{
    TRY(infer_pb_part(d, field, leaf));
    if (UNLIKELY(!infer_pb_is_ascii(field->bytes)) &&
        utf8_valid_prefix(field->bytes) != field->bytes.size)
        return infer_pb_not_utf8(d, leaf, field->bytes);
    *ret = field->bytes;
    return OK;
}

/* One more dimension, or a list of them. */
static inline enum err_code infer_pb_shape(const struct infer_pb *d, const struct pb_field *field,
                                           int64_t shape[PENSTOCK_RANK_MAX], uint32_t *rank)
{
    struct pb_reader packed;
    uint64_t dim;

    if (UNLIKELY(field->wire == PB_VARINT)) {
        if (*rank == PENSTOCK_RANK_MAX)
            return infer_pb_too_deep(d);
        shape[(*rank)++] = (int64_t)field->value;
        return OK;
    }
    TRY(infer_pb_part(d, field, "shape"));
    pb_begin(&packed, field->bytes);
    while (pb_varint(&packed, &dim)) {
        if (UNLIKELY(*rank == PENSTOCK_RANK_MAX))
            return infer_pb_too_deep(d);
        shape[(*rank)++] = (int64_t)dim;
    }
    return UNLIKELY(pb_failed(&packed)) ? infer_pb_broken(d, &packed, "shape") : OK;
}

/* Memory for the fields of `field`'s number that `r` is before, this one included. */
static inline enum err_code infer_pb_list(const struct infer_pb *d, const struct pb_reader *r,
                                          const struct pb_field *field, const char *leaf,
                                          uint32_t count_max, size_t item_size, void **ret)
{
    struct pb_reader rest = *r;
    struct pb_field next;
    uint32_t count = 1; /* at most what is left of the message */

    while (pb_next(&rest, &next))
        count += next.number == field->number && next.wire == PB_LEN;
    if (UNLIKELY(count > count_max))
        return infer_pb_too_many(d, leaf, count, count_max);
    *ret = arena_alloc(d->arena, count * item_size);
    return LIKELY(*ret != NULL) ? OK : infer_pb_no_memory(d, count * item_size);
}

/* Is the part whole in itself? Else its last field would go on in the part behind it. */
MUST_USE enum err_code infer_pb_whole(const struct infer_pb *d, struct slice part,
                                      const char *leaf);

/* Which kind of value each field of a parameter's message is. */
struct infer_pb_kinds {
    enum kserve_pb_kind of[6];
};

/* One more entry of a map of parameters, at the end; of a key that comes twice both are there. */
MUST_USE enum err_code infer_pb_parameter(const struct infer_pb *d, const struct pb_reader *r,
                                          const struct pb_field *field,
                                          const struct infer_pb_kinds *kinds, uint32_t count_max,
                                          struct kserve_pb_parameters *params);

#endif
