/* penstock_pb_fuzz.c - any bytes as an InferRequest, a SessionRequest or its JSON: what is taken has
 * tensors of the size that they say, of every dtype, and is told again as an answer that reads the same.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "codec/penstock_pb.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/pb.h"
#include "base/utf8.h"
#include "codec/bytes.h"
#include "model/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensor(const struct penstock_pb_tensor *t, struct arena *arena)
{
    for (enum penstock_dtype dtype = PENSTOCK_BOOL; dtype < PENSTOCK_DTYPE_COUNT; dtype++) {
        int64_t shape[PENSTOCK_RANK_MAX];
        struct buf *holder = NULL;
        struct slice found;
        struct err err = { 0 };
        uint64_t count = 0, nested = 0;
        uint32_t rank = 0;
        enum err_code code = penstock_pb_count(t, dtype, "t", &count, &rank, shape, &err);
        if (code != OK) {
            require(err.text[0] != '\0');
            continue;
        }
        require(rank == 0 || (shape_count(rank, shape, &nested) && nested == count));
        for (uint64_t asked = count == 0 ? 0 : count - 1; asked <= count + 1; asked++) {
            code = penstock_pb_values(t, dtype, asked, "t", arena, NULL, &found, &holder, &err);
            require(code == OK || code == E_INVALID || code == E_EXHAUSTED);
            require(code == OK || err.text[0] != '\0');
            if (code != OK)
                continue;
            require(asked == count || t->list == PENSTOCK_PB_RAW);
            require(dtype == PENSTOCK_BYTES || found.size == count * dtype_size(dtype));
            require(dtype != PENSTOCK_BYTES || bytes_check(found, count, "t", NULL) == OK);
            require(dtype == PENSTOCK_BYTES ||
                    (uintptr_t)found.data % dtype_size(dtype) == 0 || found.size == 0);
            buf_unref(&holder);
        }
    }
}

static void check_text(struct slice text)
{
    require(utf8_valid_prefix(text) == text.size);
}

static void check_request(const struct penstock_pb_request *r, struct arena *arena)
{
    check_text(r->model);
    check_text(r->version);
    check_text(r->id);
    check_text(r->binary_input);
    require(r->inputs_count <= PENSTOCK_PB_TENSORS_MAX && r->outputs_count <= PENSTOCK_PB_NAMES_MAX &&
            r->parameters.count <= PENSTOCK_PB_PARAMETERS_MAX);
    for (uint32_t i = 0; i < r->inputs_count && i < 20; i++) {
        check_text(r->inputs[i].name);
        check_text(r->inputs[i].datatype);
        require(r->inputs[i].rank <= PENSTOCK_RANK_MAX);
        check_tensor(&r->inputs[i], arena);
    }
    for (uint32_t i = 0; i < r->outputs_count; i++)
        check_text(r->outputs[i]);
    for (uint32_t i = 0; i < r->parameters.count; i++)
        for (uint32_t k = 0; k < i && i < 50; k++)
            require(!slice_eq(r->parameters.items[i].key, r->parameters.items[k].key));
}

/* Whatever an answer says is written as it was counted, in one piece and in many. */
static void check_answer(const struct penstock_pb_request *r, struct arena *arena)
{
    enum { OUTPUTS = 3, PIECES = 1 + 2 * OUTPUTS };
    struct penstock_pb_describe described[OUTPUTS];
    struct penstock_pb_output outputs[OUTPUTS];
    struct penstock_pb_piece pieces[PIECES];
    struct penstock_pb_answer a = {
        .kind = (enum penstock_pb_answer_kind)(2 + r->sequence % 6),
        .sequence = r->sequence,
        .id = r->id,
        .input = r->credit,
        .outputs = outputs,
        .merged = r->window,
        .is_last = r->has_binary_outputs,
        .message = r->version,
        .model = r->model,
    };
    struct pb_reader reader;
    struct pb_field field;

    for (uint32_t i = 0; i < r->inputs_count && i < OUTPUTS; i++) {
        const struct penstock_pb_tensor *t = &r->inputs[i];
        described[i] = (struct penstock_pb_describe){ arena_strndup(arena, t->name.data, t->name.size),
                                                      PENSTOCK_UINT8, t->rank, t->shape };
        if (described[i].name == NULL)
            return;
        outputs[i] = (struct penstock_pb_output){ i, t->rank, t->shape, t->values, NULL };
        a.outputs_count++;
    }
    struct penstock_pb_heads *heads =
        penstock_pb_heads_new(described, a.outputs_count, r->model, r->version, arena);
    if (heads == NULL)
        return;
    for (size_t copy_max = 0; copy_max < 100; copy_max += 40) {
        uint32_t most;
        size_t used, bound = penstock_pb_bound(heads, &a, copy_max, &most), whole = 0;
        uint8_t *memory = malloc(bound);
        require(memory != NULL && most <= PIECES);
        uint32_t count = penstock_pb_write(heads, &a, copy_max, memory, pieces, &used);
        require(count <= most && used <= bound);
        for (uint32_t i = 0; i < count; i++)
            whole += pieces[i].bytes.size;
        uint8_t *message = malloc(whole + 1), *at = message;
        require(message != NULL);
        for (uint32_t i = 0; i < count; i++) {
            if (pieces[i].bytes.size != 0)
                memcpy(at, pieces[i].bytes.data, pieces[i].bytes.size);
            at += pieces[i].bytes.size;
        }
        pb_begin(&reader, slice_make(message, whole));
        while (pb_next(&reader, &field))
            continue;
        require(!pb_failed(&reader));
        free(message);
        free(memory);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct penstock_pb_request request = { .kind = PENSTOCK_PB_NOTHING };
    const char *field = NULL;
    struct err err = { 0 };
    enum penstock_pb_kind peeked = PENSTOCK_PB_NOTHING;
    enum err_code code;

    if (size == 0)
        return 0;
    struct arena *arena = arena_new(4096, 16 << 20);
    require(arena != NULL);
    unsigned form = data[0] % 3;
    uint8_t *bytes = malloc(size); /* its end is where a sanitizer sees it */
    require(bytes != NULL);
    memcpy(bytes, data + 1, size - 1);
    struct slice message = { bytes, size - 1 };
    if (form == 0) {
        code = penstock_pb_decode_infer(&request, message, arena, &field, &err);
    } else if (form == 1) {
        peeked = penstock_pb_peek(message);
        code = penstock_pb_decode_session(&request, message, arena, &field, &err);
    } else {
        peeked = penstock_pb_peek_json(message);
        code = utf8_valid_prefix(message) == message.size /* websocket.h checked it */
                   ? penstock_pb_decode_json(&request, message, arena, &field, &err)
                   : E_INVALID;
        if (code == E_INVALID && err.text[0] == '\0')
            err.text[0] = '?';
    }
    require(code == OK || code == E_INVALID || code == E_EXHAUSTED);
    require(code == OK || err.text[0] != '\0');
    if (code == OK) {
        require(form != 1 || request.kind == peeked);
        /* A key with escapes is only seen by reading. */
        require(form != 2 || request.kind == peeked || memchr(bytes, '\\', message.size) != NULL ||
                memmem(bytes, message.size, "null", 4) != NULL);
        check_request(&request, arena);
        check_answer(&request, arena);
    }
    free(bytes);
    arena_free(&arena);
    return 0;
}
