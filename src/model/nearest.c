/* nearest.c - SPDX-License-Identifier: Apache-2.0
 *
 * Edits are insertions, deletions, replacements and swaps of two neighbours; letters compare
 * without case. Names longer than ROW are never near: a slip of the finger is what is looked for,
 * and one row on the stack bounds the work.
 */
#include "model/nearest.h"

#include <ctype.h>

enum { ROW = 64 };

struct nearest nearest_to(struct slice got)
{
    return (struct nearest){ .got = got, .best = NULL, .edits = UINT32_MAX };
}

static unsigned count_edits(struct slice a, struct slice b)
{
    unsigned rows[3][ROW + 1];
    unsigned *older = rows[0], *old = rows[1], *now = rows[2];

    for (unsigned j = 0; j <= b.size; j++)
        old[j] = j;
    for (unsigned i = 1; i <= a.size; i++) {
        now[0] = i;
        for (unsigned j = 1; j <= b.size; j++) {
            int left = tolower(a.data[i - 1]), right = tolower(b.data[j - 1]);
            unsigned edits = old[j - 1] + (left != right);
            edits = MIN(edits, MIN(old[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && left == tolower(b.data[j - 2]) && right == tolower(a.data[i - 2]))
                edits = MIN(edits, older[j - 2] + 1);
            now[j] = edits;
        }
        unsigned *spare = older;
        older = old;
        old = now;
        now = spare;
    }
    return old[b.size];
}

void nearest_offer(struct nearest *nearest, const char *name)
{
    struct slice other = slice_of(name);

    if (nearest->got.size == 0 || nearest->got.size > ROW || other.size > ROW)
        return;
    unsigned edits = count_edits(nearest->got, other);
    if (edits < nearest->edits) {
        nearest->edits = edits;
        nearest->best = name;
    }
}

const char *nearest_best(const struct nearest *nearest)
{
    /* More than a quarter of the letters wrong is another word, not a slip. */
    if (nearest->best == NULL || nearest->edits > MAX(1u, nearest->got.size / 4) ||
        nearest->edits >= nearest->got.size)
        return NULL;
    return nearest->best;
}
