/* card_fuzz.c - any bytes as model.yaml, put into a signature, and as a label file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/card.h"

#include <yyjson.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const char *text)
{
    if (text == NULL)
        return;
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    require(doc != NULL);
    yyjson_doc_free(doc);
}

/* Every byte of what sessions feed is read. */
static void check_stream(const struct signature *s)
{
    volatile uint8_t sum = 0;

    if (s->stream == NULL)
        return;
    for (uint32_t i = 0; i < s->stream->states_count; i++)
        for (size_t at = 0; at < s->stream->states[i].initial.size; at++)
            sum = (uint8_t)(sum + ((const uint8_t *)s->stream->states[i].initial.data)[at]);
    for (uint32_t i = 0; i < s->stream->constants_count; i++) {
        require(s->inputs[s->stream->constants[i].input].is_constant);
        for (size_t at = 0; at < s->stream->constants[i].value.size; at++)
            sum = (uint8_t)(sum + ((const uint8_t *)s->stream->constants[i].value.data)[at]);
    }
    for (uint32_t i = 0; i < s->stream->marks_count; i++)
        require(s->stream->marks[i].output < s->outputs_count && s->stream->marks[i].hold > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct signature_tensor inputs[] = {
        { .name = "input", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 4 } },
        { .name = "state", .dtype = PENSTOCK_INT64, .rank = 1, .dims = { -1 } },
        { .name = "word", .dtype = PENSTOCK_BYTES, .rank = 0 },
    };
    struct signature_tensor outputs[] = {
        { .name = "label", .dtype = PENSTOCK_INT64, .rank = 1, .dims = { -1 } },
        { .name = "probabilities", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 3 } },
    };
    struct signature signature = {
        .inputs_count = 3, .inputs = inputs, .outputs_count = 2, .outputs = outputs
    };
    struct arena *arena = arena_new(4096, 256 << 20);
    struct model_config config = { 0 };
    struct card *card = NULL;
    struct err err;

    require(arena != NULL);
    if (card_parse(&card, arena, slice_make(data, size), &err) == OK) {
        check_json(card->example_json);
        for (uint32_t i = 0; i < card->inputs_count; i++)
            check_json(card->inputs[i].human.example_json);
        if (card_apply(card, &signature, arena, &err) == OK &&
            stream_apply(card, &config, &signature, arena, &err) == OK)
            signature_decide_roles(&signature);
        check_stream(&signature);
    } else {
        require(err.code == E_INVALID || err.code == E_EXHAUSTED);
    }
    if (signature_set_labels(&outputs[0], slice_make(data, size), arena, &err) == OK)
        for (uint32_t i = 0; i < outputs[0].labels_count; i++)
            require(utf8_valid_prefix(slice_of(outputs[0].labels[i])) ==
                    strlen(outputs[0].labels[i]));
    arena_free(&arena);
    return 0;
}
