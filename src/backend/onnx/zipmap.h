/* zipmap.h - takes ZipMap out of a model's outputs.
 *
 * Converters of classifiers end a model, unless told otherwise, with a ZipMap: it turns the tensor
 * of probabilities into a list of maps from class to probability, one for each row, which is no
 * tensor and is slow. This writes the model again with the tensor in its place, under the same
 * name: FP32 [rows, classes], columns in the order of the map's classes.
 */
#ifndef BACKEND_ONNX_ZIPMAP_H
#define BACKEND_ONNX_ZIPMAP_H

#include "base/err.h"
#include "base/slice.h"

struct buf;
struct text;

/* Writes the model without the ZipMaps that make graph outputs. `classes` gets a JSON object of
 * their class labels by output name; it is the caller's and already initialised. E_INVALID when the
 * bytes are damaged; a ZipMap that is not an output stays. */
MUST_USE enum err_code zipmap_strip(struct buf **ret, struct slice model, struct text *classes,
                                    struct err *err);

#endif
