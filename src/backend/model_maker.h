/* model_maker.h - writes small ONNX models for tests, so that they need no file and no Python.
 *
 * maker_begin, then inputs, outputs, weights and nodes in any order, then maker_finish. A failure
 * stops the test program: it is out of memory, or the test is wrong.
 */
#ifndef BACKEND_MODEL_MAKER_H
#define BACKEND_MODEL_MAKER_H

#include "base/text.h"

/* Element types as ONNX numbers them. */
enum {
    ONNX_FLOAT = 1,
    ONNX_UINT8 = 2,
    ONNX_INT8 = 3,
    ONNX_UINT16 = 4,
    ONNX_INT16 = 5,
    ONNX_INT32 = 6,
    ONNX_INT64 = 7,
    ONNX_STRING = 8,
    ONNX_BOOL = 9,
    ONNX_FLOAT16 = 10,
    ONNX_DOUBLE = 11,
    ONNX_UINT32 = 12,
    ONNX_UINT64 = 13,
    ONNX_COMPLEX64 = 14,
    ONNX_BFLOAT16 = 16
};

struct maker {
    struct text graph;        /* fields of a GraphProto */
    struct text functions;    /* fields of a ModelProto */
    uint32_t opset, ml_opset; /* 0: not imported */
};

void maker_begin(struct maker *maker);
/* `shape` is words between commas: "N,4", "?" for a free dimension without a name, "" for a scalar,
 * NULL for a shape that is not said. */
void maker_input(struct maker *maker, const char *name, int type, const char *shape);
void maker_output(struct maker *maker, const char *name, int type, const char *shape);
/* An output that is a sequence of maps from string to float. */
void maker_output_maps(struct maker *maker, const char *name);
/* Weights; `dims` like a shape. */
void maker_floats(struct maker *maker, const char *name, const char *dims, const float *values,
                  size_t count);
void maker_ints(struct maker *maker, const char *name, const char *dims, const int64_t *values,
                size_t count);
/* Weights (FP32) that lie in another file. */
void maker_external(struct maker *maker, const char *name, const char *dims, const char *location);

/* Attributes of the node that follows. */
struct maker_attributes {
    struct text bytes;
};
void maker_attribute_int(struct maker_attributes *attributes, const char *name, int64_t value);
void maker_attribute_ints(struct maker_attributes *attributes, const char *name,
                          const int64_t *values, size_t count);
void maker_attribute_strings(struct maker_attributes *attributes, const char *name,
                             const char *const *values, size_t count);
/* Takes the graph of `body`, which is then finished. */
void maker_attribute_graph(struct maker_attributes *attributes, const char *name,
                           struct maker *body);
/* `inputs` and `outputs`: names between blanks. Takes the attributes; NULL: none. */
void maker_node(struct maker *maker, const char *op, const char *domain, const char *inputs,
                const char *outputs, struct maker_attributes *attributes);

/* The bytes of the model; text_deinit frees them. */
struct text maker_finish(struct maker *maker);
/* Writes them to folder/name. */
void maker_save(struct maker *maker, const char *folder, const char *name);
void maker_write_file(const char *folder, const char *name, const void *data, size_t size);

#endif
