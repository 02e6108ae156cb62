/* signature.c - SPDX-License-Identifier: Apache-2.0 */
#include "model/signature.h"

#include <math.h>

#include "base/arena.h"
#include "model/config.h"
#include "model/dtype.h"

static const struct signature_tensor *find(const struct signature_tensor *list, uint32_t count,
                                           struct slice name, uint32_t *ret_index)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list[i].is_hidden || !slice_is(name, list[i].name))
            continue;
        if (ret_index != NULL)
            *ret_index = i;
        return &list[i];
    }
    return NULL;
}

bool signature_rows_axis(const struct stream_card *card, enum session_reduce reduce,
                         uint64_t window, const struct signature_tensor *t, uint32_t *ret)
{
    uint32_t free_count = 0;

    *ret = 0;
    if (card != NULL && card->axis >= 0) {
        *ret = (uint32_t)card->axis;
        return *ret < t->rank;
    }
    if (reduce == SESSION_STACK)
        return t->rank > 0;
    for (uint32_t i = t->rank; i-- > 1;) {
        if (t->dims[i] != -1 && (uint64_t)t->dims[i] == window) {
            *ret = i;
            return true;
        }
    }
    for (uint32_t i = 0; i < t->rank; i++) {
        if (t->dims[i] != -1)
            continue;
        if (free_count++ == 0)
            *ret = i;
    }
    return free_count > 0 || (t->rank > 0 && (uint64_t)t->dims[0] == window);
}

bool signature_takes_rows(const struct signature *s)
{
    const struct stream_card *card = s->stream;
    uint32_t axis, count = 0;

    if (card == NULL || !card->has_reduce || s->is_batchable || s->batch_max != 0 ||
        (card->reduce != SESSION_STACK && card->reduce != SESSION_WINDOW))
        return false;
    for (uint32_t i = 0; i < s->inputs_count; i++) {
        const struct signature_tensor *t = &s->inputs[i];
        if (t->is_hidden || t->is_state || t->is_constant)
            continue;
        if (!signature_rows_axis(card, card->reduce, card->window, t, &axis) || axis != 0 ||
            t->dims[0] != -1)
            return false;
        count++;
    }
    return count != 0;
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
    /* What the backend sees as a scalar is listed as [1]: who knows that it is one sends []. */
    if (rank == 0 && t->is_reshaped && t->reshape_rank == 0)
        return OK;
    char got[160], want[160];
    return err_set(err, E_INVALID, "unexpected shape for input '%s': got %s, expected %s", t->name,
                   shape_text(got, sizeof got, rank, shape),
                   shape_text(want, sizeof want, t->rank, t->dims));
}

static uint32_t copy_dims(bool has_batch, uint32_t rank, const int64_t *dims, int64_t *out)
{
    uint32_t at = 0;

    if (has_batch)
        out[at++] = -1;
    for (uint32_t i = 0; i < rank; i++)
        out[at++] = dims[i];
    return at;
}

static const struct config_tensor *find_listed(const struct config_tensor *list, uint32_t count,
                                               const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    return NULL;
}

static bool build(struct signature_tensor *out, const struct config_tensor *t, bool has_batch,
                  struct arena *arena)
{
    out->name = arena_strndup(arena, t->name, strlen(t->name));
    out->dtype = t->dtype;
    out->rank = copy_dims(has_batch, t->rank, t->dims, out->dims);
    out->is_optional = t->is_optional;
    out->is_reshaped = t->has_reshape;
    if (t->has_reshape)
        out->reshape_rank = copy_dims(has_batch, t->reshape_rank, t->reshape, out->reshape);
    return out->name != NULL;
}

static bool build_hidden(struct signature_tensor *out, const struct declared_tensor *d,
                         struct arena *arena)
{
    out->name = arena_strndup(arena, d->name, strlen(d->name));
    out->dtype = d->dtype;
    out->rank = copy_dims(false, d->rank, d->dims, out->dims);
    out->is_optional = true;
    out->is_hidden = true;
    return out->name != NULL;
}

static bool build_all(struct signature_tensor **ret, uint32_t *ret_count,
                      const struct config_tensor *list, uint32_t list_count,
                      const struct declared_tensor *declared, uint32_t declared_count,
                      bool has_batch, struct arena *arena)
{
    uint32_t count = declared_count == 0 ? list_count : declared_count;
    struct signature_tensor *out = arena_zalloc(arena, count * sizeof *out);

    for (uint32_t i = 0; i < count && out != NULL; i++) {
        const struct config_tensor *t =
            declared_count == 0 ? &list[i] : find_listed(list, list_count, declared[i].name);
        out[i].min = out[i].max = (double)NAN;
        if (t != NULL ? !build(&out[i], t, has_batch, arena)
                      : !build_hidden(&out[i], &declared[i], arena))
            return false;
        if (declared_count != 0) {
            out[i].classes_count = declared[i].classes_count;
            out[i].class_names = declared[i].class_names;
            out[i].class_numbers = declared[i].class_numbers;
        }
    }
    *ret = out;
    *ret_count = count;
    return out != NULL;
}

static bool all_free(const struct signature_tensor *list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i].rank == 0 || list[i].dims[0] != -1)
            return false;
    return true;
}

enum err_code signature_from_config(const struct model_config *config,
                                    const struct declared *declared, struct arena *arena,
                                    struct signature **ret, struct err *err)
{
    static const struct declared nothing;
    const struct declared *d = declared == NULL ? &nothing : declared;
    struct signature *s = arena_zalloc(arena, sizeof *s);
    bool has_batch = config->batch_max > 0;

    if (s == NULL ||
        !build_all(&s->inputs, &s->inputs_count, config->inputs, config->inputs_count, d->inputs,
                   d->inputs_count, has_batch, arena) ||
        !build_all(&s->outputs, &s->outputs_count, config->outputs, config->outputs_count,
                   d->outputs, d->outputs_count, has_batch, arena))
        return err_set(err, E_EXHAUSTED, "no memory for the model's signature; retry later");
    s->batch_max = config->batch_max;
    s->is_batchable =
        all_free(s->inputs, s->inputs_count) && all_free(s->outputs, s->outputs_count);
    *ret = s;
    return OK;
}
