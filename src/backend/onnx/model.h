/* model.h - a loaded ONNX model, as the files of this folder share it.
 *
 * One session serves all instances of a model, because runs of a session are thread safe: a second
 * instance costs a few arrays and not a second copy of the weights. The session is counted, because
 * a response may still own memory of a run (or a constant of the model) after the model has closed.
 *
 * Threads   everything is read-only after onnx_model_open but the atomics.
 */
#ifndef BACKEND_ONNX_MODEL_H
#define BACKEND_ONNX_MODEL_H

#include <stdatomic.h>

#include "backend/onnx/graph.h"
#include "backend/onnx/runtime.h"

struct arena;

enum { TENSORS_MAX = 4096 }; /* inputs or outputs of a model */

/* Where a free dimension of an output gets its size before the run: from an input's dimension. */
struct onnx_dim_source {
    uint16_t input; /* DIM_UNKNOWN: nowhere */
    uint16_t dim;
};
enum { DIM_UNKNOWN = UINT16_MAX };

struct onnx_tensor {
    const char *name;
    enum penstock_dtype dtype;
    int ort_dtype;
    size_t element_bytes; /* 0 for strings */
    uint32_t rank;
    int64_t dims[PENSTOCK_RANK_MAX];        /* -1 is any */
    const char *symbols[PENSTOCK_RANK_MAX]; /* "" without one */
    bool is_optional;                       /* an input with a value of its own in the model */
    /* outputs: can the shape be told from the inputs' shapes, and how? Once a run has shown that
     * it was told wrong, it never is again. */
    bool is_predictable;
    atomic_bool is_misjudged;
    struct onnx_dim_source sources[PENSTOCK_RANK_MAX];
};

struct onnx_session {
    atomic_uint refs;
    const struct onnx_runtime *runtime;
    struct ort_session *ort;
};

struct onnx_model {
    const struct penstock_host *host;
    const struct onnx_runtime *runtime;
    struct onnx_session *session; /* one reference */
    struct arena *arena;          /* owned: names, tensors, description */
    uint32_t inputs_count, outputs_count;
    struct onnx_tensor *inputs, *outputs;
    const char *description;
    size_t file_bytes;
};

struct onnx_session *onnx_session_ref(struct onnx_session *session);
void onnx_session_unref(struct onnx_session **session);

/* signature.c: the first required input's dimension of that name. */
struct onnx_dim_source onnx_signature_find_symbol(const struct onnx_model *model,
                                                  const char *symbol);

/* The members of struct penstock_backend. */
int onnx_model_open(void **ret_model, struct penstock_model *host_model, uint32_t *ret_traits,
                    struct penstock_err *err);
void onnx_model_close(void **model);
const char *onnx_describe(void *model);
int onnx_instance_open(void **ret_instance, void *model, uint32_t index,
                       struct penstock_place place, struct penstock_err *err);
void onnx_instance_close(void **instance);
void onnx_execute(void *instance, struct penstock_batch *batch);
void onnx_cancel(void *instance);

extern const struct penstock_host *onnx_host; /* set by the entry */

#endif
