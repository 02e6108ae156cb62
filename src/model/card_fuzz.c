/* card_fuzz.c - any bytes as model.yaml, put into a signature, and as a label file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/card.h"

#include <yyjson.h>

#include "base/arena.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const char *text)
{
    if (text == NULL)
        return;
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    require(doc != NULL);
    yyjson_doc_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct signature_tensor inputs[] = {
        { .name = "input", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 4 } }
    };
    struct signature_tensor outputs[] = {
        { .name = "label", .dtype = PENSTOCK_INT64, .rank = 1, .dims = { -1 } },
        { .name = "probabilities", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 3 } },
    };
    struct signature signature = {
        .inputs_count = 1, .inputs = inputs, .outputs_count = 2, .outputs = outputs
    };
    struct arena *arena = arena_new(4096, 256 << 20);
    struct card *card = NULL;
    struct err err;

    require(arena != NULL);
    if (card_parse(&card, arena, slice_make(data, size), &err) == OK) {
        check_json(card->example_json);
        for (uint32_t i = 0; i < card->inputs_count; i++)
            check_json(card->inputs[i].human.example_json);
        if (card_apply(card, &signature, arena, &err) == OK)
            signature_decide_roles(&signature);
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
