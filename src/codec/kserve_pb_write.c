/* kserve_pb_write.c - writes inference.ModelInferResponse. SPDX-License-Identifier: Apache-2.0
 *
 * Sizes are added up first, so that all that is written here is one piece of the arena: the fields
 * before raw_output_contents, the tags and lengths of these, and the small ones themselves. A large
 * one stays where it is, and cuts that piece in two.
 */
#include "codec/kserve_pb.h"

#include "base/arena.h"
#include "base/pb.h"
#include "model/dtype.h"

enum { MODEL_NAME = 1, MODEL_VERSION, ID, PARAMETERS, OUTPUTS, RAW };

static size_t value_size(const struct kserve_pb_parameter *p)
{
    switch (p->kind) {
    case KSERVE_PB_BOOL: return 2;
    case KSERVE_PB_INT64: return 1 + pb_size_varint((uint64_t)p->value.i);
    case KSERVE_PB_STRING: return pb_size_len(3, p->text.size);
    case KSERVE_PB_DOUBLE: return 9;
    case KSERVE_PB_UINT64: return 1 + pb_size_varint(p->value.u);
    case KSERVE_PB_NONE: break;
    }
    return 0;
}

static uint8_t *put_value(uint8_t *at, const struct kserve_pb_parameter *p)
{
    uint64_t bits;

    switch (p->kind) {
    case KSERVE_PB_BOOL: return pb_put_uint(at, 1, p->value.b);
    case KSERVE_PB_INT64: return pb_put_uint(at, 2, (uint64_t)p->value.i);
    case KSERVE_PB_STRING: return pb_put_bytes(at, 3, p->text);
    case KSERVE_PB_DOUBLE: memcpy(&bits, &p->value.d, sizeof bits); return pb_put_i64(at, 4, bits);
    case KSERVE_PB_UINT64: return pb_put_uint(at, 5, p->value.u);
    case KSERVE_PB_NONE: break;
    }
    return at;
}

/* A map's entry: both members, as parsers of all ages expect them. */
static size_t entry_size(const struct kserve_pb_parameter *p)
{
    return pb_size_len(1, p->key.size) + pb_size_len(2, value_size(p));
}

static uint8_t *put_parameters(uint8_t *at, struct kserve_pb_parameters parameters)
{
    for (uint32_t i = 0; i < parameters.count; i++) {
        const struct kserve_pb_parameter *p = &parameters.items[i];
        at = pb_put_head(at, PARAMETERS, entry_size(p));
        at = pb_put_bytes(at, 1, p->key);
        at = pb_put_head(at, 2, value_size(p));
        at = put_value(at, p);
    }
    return at;
}

/* InferOutputTensor: name = 1, datatype = 2, shape = 3, packed. */
static size_t output_size(const struct kserve_pb_result *result)
{
    return pb3_size_bytes(1, result->name) + pb_size_len(2, strlen(dtype_name(result->dtype))) +
           pb3_size_packed(3, result->rank, result->shape);
}

static uint8_t *put_output(uint8_t *at, const struct kserve_pb_result *result)
{
    at = pb_put_head(at, OUTPUTS, output_size(result));
    at = pb3_put_bytes(at, 1, result->name);
    at = pb_put_bytes(at, 2, slice_of(dtype_name(result->dtype)));
    return pb3_put_packed(at, 3, result->rank, result->shape);
}

/* Bytes of the message; *ret_kept of them, of raw_output_contents, stay where they are, *ret_pieces
 * is the most there can be. */
static size_t message_size(const struct kserve_pb_response *response, size_t copy_max,
                           size_t *ret_kept, uint32_t *ret_pieces)
{
    size_t size = pb3_size_bytes(MODEL_NAME, response->model_name) +
                  pb3_size_bytes(MODEL_VERSION, response->model_version) +
                  pb3_size_bytes(ID, response->id);

    *ret_kept = 0;
    *ret_pieces = 1;
    for (uint32_t i = 0; i < response->parameters.count; i++)
        size += pb_size_len(PARAMETERS, entry_size(&response->parameters.items[i]));
    for (uint32_t i = 0; i < response->results_count; i++) {
        const struct kserve_pb_result *result = &response->results[i];
        size += pb_size_len(OUTPUTS, output_size(result)) + pb_size_len(RAW, result->bytes.size);
        if (result->bytes.size > copy_max) {
            *ret_kept += result->bytes.size;
            *ret_pieces += 2;
        }
    }
    return size;
}

HOT enum err_code kserve_pb_encode(const struct kserve_pb_response *response, size_t copy_max,
                                   struct arena *arena, struct kserve_pb_piece **ret,
                                   uint32_t *ret_count, struct err *err)
{
    size_t kept;
    uint32_t pieces_max, count = 0;
    size_t size = message_size(response, copy_max, &kept, &pieces_max);

    if (size > PB_SIZE_MAX)
        return err_set(err, E_EXHAUSTED,
                       "the answer has %zu bytes, the most a protobuf message may have is %d; ask "
                       "for fewer outputs or a smaller batch",
                       size, PB_SIZE_MAX);
    struct kserve_pb_piece *pieces =
        arena_alloc(arena, pieces_max * sizeof *pieces + (size - kept));
    if (pieces == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the %zu bytes of an answer; retry later",
                       size - kept);

    uint8_t *begin = (uint8_t *)(pieces + pieces_max), *at = begin;
    at = pb3_put_bytes(at, MODEL_NAME, response->model_name);
    at = pb3_put_bytes(at, MODEL_VERSION, response->model_version);
    at = pb3_put_bytes(at, ID, response->id);
    at = put_parameters(at, response->parameters);
    for (uint32_t i = 0; i < response->results_count; i++)
        at = put_output(at, &response->results[i]);
    for (uint32_t i = 0; i < response->results_count; i++) {
        const struct kserve_pb_result *result = &response->results[i];
        if (result->bytes.size <= copy_max) {
            at = pb_put_bytes(at, RAW, result->bytes);
            continue;
        }
        at = pb_put_head(at, RAW, result->bytes.size);
        pieces[count++] = (struct kserve_pb_piece){ slice_make(begin, (size_t)(at - begin)), NULL };
        pieces[count++] = (struct kserve_pb_piece){ result->bytes, result->holder };
        begin = at;
    }
    if (at != begin || count == 0)
        pieces[count++] = (struct kserve_pb_piece){ slice_make(begin, (size_t)(at - begin)), NULL };
    *ret = pieces;
    *ret_count = count;
    return OK;
}
