/* classes.h - which classes an ONNX classifier tells apart: the names of its scores' columns.
 *
 * The tensors themselves do not say: scores come by column and the graph knows that column 1 is
 * "versicolor" or 20. It stands in attributes of the classifier's node, of ZipMap, or in the
 * constant that a converter looks the best column up in. What is not certain is not told.
 * The bytes may be anything.
 */
#ifndef BACKEND_ONNX_CLASSES_H
#define BACKEND_ONNX_CLASSES_H

#include "base/err.h"
#include "base/slice.h"

struct arena;

enum { CLASSES_MAX = 100000, CLASS_OUTPUTS_MAX = 8 };

/* Of one graph output. One of names and numbers is NULL. */
struct onnx_classes {
    const char *output;
    uint32_t count;
    const char *const *names; /* UTF-8 */
    const int64_t *numbers;
};

/* Looks at the first CLASS_OUTPUTS_MAX outputs of a model's graph. Everything lies in the arena;
 * E_EXHAUSTED is the only failure. */
MUST_USE enum err_code onnx_classes_find(struct onnx_classes ret[CLASS_OUTPUTS_MAX],
                                         uint32_t *ret_count, struct slice model,
                                         struct arena *arena, struct err *err);

#endif
