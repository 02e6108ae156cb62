/* runtime.h - ONNX Runtime as this process has loaded it, and its failures in our words.
 *
 * The library is found by host->runtime_path("onnxruntime"), loaded at the first need and never
 * unloaded: its threads and static objects do not survive that. A load that failed is tried again
 * the next time, since what it says is what to install.
 *
 * Threads   any; the first call blocks for some 20 ms.
 */
#ifndef BACKEND_ONNX_RUNTIME_H
#define BACKEND_ONNX_RUNTIME_H

#include "backend/onnx/ort_api.h"
#include "base/err.h"
#include "penstock/backend.h"

enum { PROVIDERS_MAX = 32 };

struct onnx_runtime {
    const struct ort_api *api;
    ort_has_shape_fn *has_shape; /* NULL in versions that cannot tell */
    struct ort_env *env;
    struct ort_memory *memory;       /* names host memory */
    struct ort_allocator *allocator; /* the library's own heap */
    const char *version;             /* "1.31.1" */
    uint32_t providers_count;
    const char *providers[PROVIDERS_MAX]; /* "CPUExecutionProvider" ... */
};

/* NULL when the library is missing or too old; err says what to install. */
const struct onnx_runtime *onnx_runtime_get(const struct penstock_host *host, struct err *err);

/* Did a run end because it was told to? */
bool onnx_is_terminated(const struct onnx_runtime *runtime, const struct ort_status *status);

/* Takes a status that is not NULL: sets err to "<what>: <its text>" with a fitting code, and
 * returns that code. `what` may be NULL. */
enum err_code onnx_status_take(const struct onnx_runtime *runtime, struct ort_status *status,
                               struct err *err, const char *what);

#endif
