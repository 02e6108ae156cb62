/* config_fuzz.c - any bytes as config.pbtxt and as its JSON. What parses is completed against two
 * models, and its document must be read back as the same document.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/config.h"

#include "base/arena.h"
#include "base/mem.h"
#include "model/signature.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct declared_tensor inputs[] = { { "a", PENSTOCK_FP32, 2, { -1, 4 }, false, 0, NULL, NULL },
                                                 { "b", PENSTOCK_INT64, 0, { 0 }, true, 0, NULL, NULL } };
static const struct declared_tensor outputs[] = { { "c", PENSTOCK_FP32, 2, { -1, -1 }, false, 0, NULL, NULL } };
static const struct declared model = { 2, 1, inputs, outputs };

static void complete(struct model_config *config, const struct declared *declared)
{
    struct err err;
    struct model_config *again = NULL;
    struct signature *signature = NULL;

    if (config_complete(config, "m", "onnxruntime", "onnxruntime_onnx", declared, true, 4, &err) !=
        OK)
        return;
    struct arena *arena = arena_new(1024, 1 << 24);
    require(arena != NULL);
    require(signature_from_config(config, declared, arena, &signature, &err) == OK);
    arena_free(&arena);
    char *json = config_json(config, false);
    require(json != NULL);
    require(config_parse_json(&again, slice_of(json), &err) == OK);
    require(config_complete(again, "m", "onnxruntime", "onnxruntime_onnx", declared, true, 4,
                            &err) == OK);
    char *same = config_json(again, false);
    require(same != NULL && strcmp(json, same) == 0);
    mem_free(json);
    mem_free(same);
    config_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err;

    for (unsigned i = 0; i < 4; i++) {
        struct model_config *config = NULL;
        enum err_code code = i < 2 ? config_parse(&config, slice_make(data, size), &err)
                                   : config_parse_json(&config, slice_make(data, size), &err);
        require((code == OK) == (config != NULL));
        if (code == OK)
            complete(config, i % 2 == 0 ? &model : NULL);
        config_free(&config);
    }
    return 0;
}
