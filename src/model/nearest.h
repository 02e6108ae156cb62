/* nearest.h - "did you mean": the name that was most likely meant.
 *
 *     struct nearest nearest = nearest_to(got);
 *     for each name: nearest_offer(&nearest, name);
 *     nearest_best(&nearest) is that name, or NULL when none is near
 */
#ifndef MODEL_NEAREST_H
#define MODEL_NEAREST_H

#include "base/slice.h"

struct nearest {
    struct slice got; /* borrowed */
    const char *best; /* borrowed from the offers */
    unsigned edits;
};

struct nearest nearest_to(struct slice got);
void nearest_offer(struct nearest *nearest, const char *name);
const char *nearest_best(const struct nearest *nearest);

#endif
