/* signature.c - SPDX-License-Identifier: Apache-2.0 */
#include "model/signature.h"

#include "model/dtype.h"

static const struct signature_tensor *find(const struct signature_tensor *list, uint32_t count,
                                           struct slice name, uint32_t *ret_index)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!slice_is(name, list[i].name))
            continue;
        if (ret_index != NULL)
            *ret_index = i;
        return &list[i];
    }
    return NULL;
}

const struct signature_tensor *signature_input(const struct signature *s, struct slice name,
                                               uint32_t *ret_index)
{
    return find(s->inputs, s->inputs_count, name, ret_index);
}

const struct signature_tensor *signature_output(const struct signature *s, struct slice name,
                                                uint32_t *ret_index)
{
    return find(s->outputs, s->outputs_count, name, ret_index);
}

enum err_code signature_check_shape(const struct signature_tensor *t, uint32_t rank,
                                    const int64_t *shape, struct err *err)
{
    bool fits = rank == t->rank;

    for (uint32_t i = 0; fits && i < rank; i++)
        fits = shape[i] >= 0 && (t->dims[i] == -1 || t->dims[i] == shape[i]);
    if (LIKELY(fits))
        return OK;
    char got[160], want[160];
    return err_set(err, E_INVALID, "unexpected shape for input '%s': got %s, expected %s", t->name,
                   shape_text(got, sizeof got, rank, shape),
                   shape_text(want, sizeof want, t->rank, t->dims));
}
