/* kserve_pb_fuzz.c - any bytes as a ModelInferRequest: what decodes has its contents read as every
 * dtype, against a plain reader, is answered as it came, and that answer reads as what was put in.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "codec/kserve_pb.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/pb.h"
#include "base/utf8.h"
#include "codec/bytes.h"
#include "model/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t fields[PENSTOCK_DTYPE_COUNT] = { 0, 1, 4, 4, 4, 5, 2, 2, 2, 3, 0, 6, 7, 8, 0 };

static bool fits(enum penstock_dtype dtype, uint64_t value)
{
    int32_t number = (int32_t)(uint32_t)value;

    switch (dtype) {
    case PENSTOCK_UINT8: return (uint32_t)value <= UINT8_MAX;
    case PENSTOCK_UINT16: return (uint32_t)value <= UINT16_MAX;
    case PENSTOCK_INT8: return number >= INT8_MIN && number <= INT8_MAX;
    case PENSTOCK_INT16: return number >= INT16_MIN && number <= INT16_MAX;
    default: return true;
    }
}

/* The elements into `out`, one by one; false when they are refused. *ret_count is how many. */
static bool plain(struct slice contents, enum penstock_dtype dtype, uint8_t *out, size_t *ret_size,
                  uint64_t *ret_count)
{
    size_t size = dtype_size(dtype), at = 0;
    struct pb_reader r, packed;
    struct pb_field field;
    uint64_t value;

    *ret_count = 0;
    pb_begin(&r, contents);
    while (pb_next(&r, &field)) {
        if (field.number < 1 || field.number > 8)
            continue;
        if (field.number != fields[dtype]) {
            if (field.number == 8 || field.wire != PB_LEN || field.bytes.size != 0)
                return false;
        } else if (field.number == 8) {
            if (field.wire != PB_LEN)
                return false;
            uint32_t length = (uint32_t)field.bytes.size;
            memcpy(out + at, &length, 4);
            if (length != 0)
                memcpy(out + at + 4, field.bytes.data, length);
            at += 4 + length;
            ++*ret_count;
        } else if (field.number == 6 || field.number == 7) {
            if (field.wire == PB_LEN ? field.bytes.size % size != 0
                                     : field.wire != (size == 4 ? PB_I32 : PB_I64))
                return false;
            const void *from = field.wire == PB_LEN ? field.bytes.data : (const void *)&field.value;
            size_t from_size = field.wire == PB_LEN ? field.bytes.size : size;
            if (from_size != 0)
                memcpy(out + at, from, from_size);
            at += from_size;
            *ret_count += from_size / size;
        } else {
            uint8_t one[10];
            if (field.wire == PB_VARINT)
                field.bytes = slice_make(one, (size_t)(pb_put_varint(one, field.value) - one));
            else if (field.wire != PB_LEN)
                return false;
            pb_begin(&packed, field.bytes);
            while (pb_varint(&packed, &value)) {
                if (!fits(dtype, value))
                    return false;
                value = dtype == PENSTOCK_BOOL ? value != 0 : value;
                memcpy(out + at, &value, size);
                at += size;
                ++*ret_count;
            }
            if (pb_failed(&packed))
                return false;
        }
    }
    *ret_size = at;
    return !pb_failed(&r);
}

/* Reads contents as `dtype`; an arena's or a buf's bytes, or none when they are not of that dtype. */
static struct slice read_contents(struct slice contents, enum penstock_dtype dtype,
                                  uint8_t *scratch, struct arena *arena)
{
    struct buf *holder = NULL;
    struct slice data = { NULL, 0 };
    struct err err = { 0 };
    size_t size = 0;
    uint64_t count = 0;
    bool is_one = fields[dtype] != 0 && plain(contents, dtype, scratch, &size, &count);

    for (uint64_t asked = count == 0 ? 0 : count - 1; asked <= count + 1; asked++) {
        enum err_code code =
            kserve_pb_contents(contents, dtype, asked, "x", arena, NULL, &data, &holder, &err);
        require(code == OK || code == E_INVALID || code == E_EXHAUSTED);
        require((code == OK) == (is_one && asked == count) || code == E_EXHAUSTED);
        require(code == OK || err.text[0] != '\0');
        if (code == OK) {
            require(data.size == size && (size == 0 || memcmp(data.data, scratch, size) == 0));
            if (dtype == PENSTOCK_BYTES)
                require(bytes_check(data, count, "x", NULL) == OK);
            if (holder != NULL)
                require(arena_adopt(arena, &holder) || (buf_unref(&holder), data.size = 0, true));
        }
    }
    return data;
}

static void check_parameters(struct kserve_pb_parameters a)
{
    require(a.count <= KSERVE_PB_PARAMETERS_MAX);
    for (uint32_t i = 0; i < a.count; i++) {
        require(utf8_valid_prefix(a.items[i].key) == a.items[i].key.size);
        require(utf8_valid_prefix(a.items[i].text) == a.items[i].text.size);
        for (uint32_t k = 0; k < i && a.count <= 64; k++)
            require(!slice_eq(a.items[i].key, a.items[k].key));
    }
}

static void require_same_parameters(struct kserve_pb_parameters a, struct kserve_pb_parameters b)
{
    require(a.count == b.count);
    for (uint32_t i = 0; i < a.count; i++) {
        const struct kserve_pb_parameter *p = &a.items[i], *q = &b.items[i];
        require(p->kind == q->kind && slice_eq(p->key, q->key));
        if (p->kind == KSERVE_PB_STRING)
            require(slice_eq(p->text, q->text));
        else if (p->kind == KSERVE_PB_BOOL)
            require(p->value.b == q->value.b);
        else if (p->kind != KSERVE_PB_NONE)
            require(p->value.u == q->value.u);
    }
}

/* The answer's pieces as a request: the same fields, but raw contents are its 6 and not its 7. */
static struct slice as_request(const struct kserve_pb_piece *pieces, uint32_t count)
{
    size_t size = 0, at = 0;
    struct pb_reader r;
    struct pb_field field;

    for (uint32_t i = 0; i < count; i++)
        size += pieces[i].bytes.size;
    uint8_t *whole = malloc(size + 1), *retold = malloc(size + 1), *to = retold;
    require(whole != NULL && retold != NULL);
    for (uint32_t i = 0; i < count; at += pieces[i++].bytes.size)
        if (pieces[i].bytes.size != 0)
            memcpy(whole + at, pieces[i].bytes.data, pieces[i].bytes.size);
    pb_begin(&r, slice_make(whole, size));
    while (pb_next(&r, &field)) {
        require(field.wire == PB_LEN);
        to = pb_put_bytes(to, field.number == 6 ? 7 : field.number, field.bytes);
    }
    require(!pb_failed(&r) && (size_t)(to - retold) == size);
    free(whole);
    return slice_make(retold, size);
}

static void answer(const struct kserve_pb_request *request, const struct slice *tensors,
                   struct arena *arena)
{
    struct kserve_pb_result results[16];
    uint32_t count = MIN(request->inputs_count, (uint32_t)COUNT(results)), pieces_count;
    struct kserve_pb_response response = {
        .model_name = request->model_name,
        .model_version = request->model_version,
        .id = request->id,
        .results_count = count,
        .results = results,
        .parameters = request->parameters,
    };
    struct kserve_pb_piece *pieces;
    struct kserve_pb_request back;

    for (uint32_t i = 0; i < count; i++)
        results[i] = (struct kserve_pb_result){
            .name = request->inputs[i].name,
            .dtype = (enum penstock_dtype)(1 + i % (PENSTOCK_DTYPE_COUNT - 1)),
            .rank = request->inputs[i].rank,
            .shape = request->inputs[i].shape,
            .bytes = tensors[i],
        };
    if (kserve_pb_encode(&response, 64, arena, &pieces, &pieces_count, NULL) != OK)
        return; /* the arena is full */
    require(pieces_count >= 1 && pieces_count <= 1 + 2 * count);
    struct slice message = as_request(pieces, pieces_count);
    if (kserve_pb_decode(&back, message, arena, NULL, NULL) == OK) {
        require(slice_eq(back.model_name, request->model_name) && slice_eq(back.id, request->id));
        require(slice_eq(back.model_version, request->model_version));
        require_same_parameters(back.parameters, request->parameters);
        require(back.inputs_count == count && back.raw_count == count);
        for (uint32_t i = 0; i < count; i++) {
            require(slice_eq(back.inputs[i].name, results[i].name));
            require(slice_is(back.inputs[i].datatype, dtype_name(results[i].dtype)));
            require(back.inputs[i].rank == results[i].rank);
            require(memcmp(back.inputs[i].shape, results[i].shape, results[i].rank * 8) == 0);
            require(slice_eq(back.raw[i], tensors[i]));
        }
    } else {
        require(arena_used(arena) > 1 << 20);
    }
    free((void *)message.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *arena = arena_new(1024, 1 << 24);
    uint8_t *scratch = malloc(size * 8 + 1);
    struct kserve_pb_request request;
    struct slice tensors[16] = { { NULL, 0 } };
    const char *field;
    struct err err = { 0 };

    require(arena != NULL && scratch != NULL);
    enum err_code code = kserve_pb_decode(&request, slice_make(data, size), arena, &field, &err);
    require(code == OK || code == E_INVALID || code == E_EXHAUSTED);
    require(code == OK ? field == NULL : err.text[0] != '\0');
    if (code == OK) {
        require(request.inputs_count <= KSERVE_PB_INPUTS_MAX &&
                request.outputs_count <= KSERVE_PB_INPUTS_MAX &&
                request.raw_count <= KSERVE_PB_INPUTS_MAX);
        require(utf8_valid_prefix(request.model_name) == request.model_name.size);
        check_parameters(request.parameters);
        for (uint32_t i = 0; i < request.inputs_count; i++) {
            struct kserve_pb_input *input = &request.inputs[i];
            require(input->rank <= PENSTOCK_RANK_MAX);
            require(input->has_contents || input->contents.size == 0);
            check_parameters(input->parameters);
            for (unsigned d = 0; d < PENSTOCK_DTYPE_COUNT && i < COUNT(tensors); d++) {
                struct slice tensor =
                    read_contents(input->contents, (enum penstock_dtype)d, scratch, arena);
                if (tensor.size != 0)
                    tensors[i] = tensor;
            }
        }
        for (uint32_t i = 0; i < request.outputs_count; i++)
            check_parameters(request.outputs[i].parameters);
        answer(&request, tensors, arena);
    }
    arena_free(&arena);
    free(scratch);
    return 0;
}
