/* graph.h - what must be known of an ONNX file before the runtime is given it.
 *
 * A walk over the protobuf bytes, without building anything: which files outside it names, whether
 * its run time depends on the values of its inputs, whether rows of a batch influence each other.
 * The bytes may be anything.
 *
 * Threads   any; pure but for the callback.
 */
#ifndef BACKEND_ONNX_GRAPH_H
#define BACKEND_ONNX_GRAPH_H

#include "base/err.h"
#include "base/slice.h"

enum { GRAPH_NAME_BYTES = 64 };

struct onnx_facts {
    bool is_ort_format; /* ONNX Runtime's own format: none of the rest is known */
    int64_t ir_version;
    int64_t opset;        /* of the default domain; 0 unknown */
    uint64_t nodes_count; /* with those of subgraphs and functions */
    uint64_t externals_count;
    uint64_t zipmaps_count; /* of outputs that are maps, see zipmap.h */
    /* Bytes of the largest input or output for one row; UINT64_MAX when a dimension other than the
     * first is free. */
    uint64_t row_bytes;
    /* The first operator that makes run time, or the size of a result, depend on the values of the
     * inputs: "Loop", or "Range" when what it counts to is computed from an input. "" is none. */
    char value_op[GRAPH_NAME_BYTES];
    /* The first operator that lets one row of a batch change another's answer. "" is none. */
    char mixing_op[GRAPH_NAME_BYTES];
};

/* Called for every tensor whose bytes lie in another file, with that file's name as the model
 * writes it. What it returns other than OK ends the scan with that error. */
typedef enum err_code onnx_external_fn(void *context, struct slice location, struct err *err);

/* `model` is a whole file. E_INVALID when it cannot be an ONNX model; the text says why, as far as
 * that can be told (empty, cut short, a Git LFS pointer, no graph). on_external may be NULL. */
MUST_USE enum err_code onnx_graph_scan(struct onnx_facts *ret, struct slice model,
                                       onnx_external_fn *on_external, void *context,
                                       struct err *err);

#endif
