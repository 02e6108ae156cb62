/* onnx.c - the entry of the ONNX backend. SPDX-License-Identifier: Apache-2.0 */
#include "backend/onnx/model.h"

const struct penstock_host *onnx_host;

static const struct penstock_backend backend = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof backend,
    .name = "onnxruntime",
    .aliases = "onnx onnxruntime_onnx",
    .file = "model.onnx",
    .model_open = onnx_model_open,
    .model_close = onnx_model_close,
    .instance_open = onnx_instance_open,
    .instance_close = onnx_instance_close,
    .execute = onnx_execute,
    .cancel = onnx_cancel,
    .describe = onnx_describe,
    .platform = "onnxruntime_onnx",
};

penstock_backend_entry_fn backend_onnx_entry;
void backend_onnx_preload(const struct penstock_host *host);

/* The library is loaded with the first model, not here: who has none should not wait for it. */
const struct penstock_backend *backend_onnx_entry(const struct penstock_host *host,
                                                  struct penstock_err *err)
{
    if (host->abi != PENSTOCK_BACKEND_ABI) {
        host->fail(err, E_UNIMPLEMENTED, "the host speaks backend ABI %u, onnx speaks %u",
                   host->abi, PENSTOCK_BACKEND_ABI);
        return NULL;
    }
    onnx_host = host;
    return &backend;
}

void backend_onnx_preload(const struct penstock_host *host)
{
    struct err err = { .code = OK };

    onnx_runtime_get(host, &err); /* what it says is said again to the first model */
}
