/* note.c - what is told of an exchange at its end. SPDX-License-Identifier: Apache-2.0 */
#include "exchange/exchange.h"

void exchange_note_model(struct exchange *x, struct slice name, struct slice version)
{
    struct exchange_note *note = &x->note;

    if (note->model.size != 0 || name.size == 0)
        return;
    char *copy = arena_alloc(x->arena, name.size + version.size);
    if (UNLIKELY(copy == NULL)) /* an exchange without memory for a name has other troubles */
        return;
    memcpy(copy, name.data, name.size);
    if (version.size != 0)
        memcpy(copy + name.size, version.data, version.size);
    note->model = slice_make(copy, name.size);
    note->version = slice_make(copy + name.size, version.size);
}

static void keep(struct exchange *x, const struct note_inference *one)
{
    struct exchange_note *note = &x->note;
    struct note_inference *kept;

    if (note->kept_count == NOTE_INFERENCES_MAX || x->is_gone)
        return;
    kept = arena_alloc(x->arena, sizeof *kept);
    if (kept == NULL)
        return;
    *kept = *one;
    kept->next = NULL;
    if (note->kept == NULL)
        note->kept_end = &note->kept;
    *note->kept_end = kept;
    note->kept_end = &kept->next;
    note->kept_count++;
}

void exchange_note_inference(struct exchange *x, const struct note_inference *one)
{
    struct exchange_note *note = &x->note;

    note->requests++;
    for (size_t i = 0; i < NOTE_STAGES_MAX; i++)
        note->stage_ns[i] += one->stage_ns[i];
    if (UNLIKELY(note->keeps_inferences))
        keep(x, one);
}
