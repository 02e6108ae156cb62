/* graph_fuzz.c - any bytes as a model: the scan, and the rewriting without ZipMap.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/onnx/graph.h"
#include "backend/onnx/zipmap.h"
#include "base/buf.h"
#include "base/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum err_code on_external(void *context, struct slice location, struct err *err)
{
    struct slice *whole = context;

    /* a name must lie within the bytes it was read from */
    require(location.size == 0 || (location.data >= whole->data &&
                                   location.data + location.size <= whole->data + whole->size));
    return location.size > 100 ? err_set(err, E_PERMISSION, "too long") : OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice model = slice_make(data, size);
    struct onnx_facts facts, again;
    struct err err = { .code = OK };
    CLEANUP(buf_unref) struct buf *stripped = NULL;
    struct text classes;

    enum err_code code = onnx_graph_scan(&facts, model, on_external, &model, &err);
    require(code == OK || err.text[0] != '\0');
    text_init(&classes, 1 << 16);
    /* A model without its ZipMaps is a model as good as it was before. */
    if (zipmap_strip(&stripped, model, &classes, &err) == OK && code == OK &&
        !facts.is_ort_format) {
        require(onnx_graph_scan(&again, buf_bytes(stripped), NULL, NULL, &err) == OK);
        require(again.nodes_count == facts.nodes_count);
        require(again.externals_count == facts.externals_count);
    }
    text_deinit(&classes);
    return 0;
}
