/* attach.c - SPDX-License-Identifier: Apache-2.0
 *
 * One slot a kind, set once by whoever is first: a reader needs one acquire load. The release
 * function of a slot is the kind's own, so two racing writers store the same one.
 */
#include "engine/internal.h"

void *model_attached(const struct model *model, enum model_attachment_kind kind)
{
    return atomic_load_explicit(&model->attachments[kind].made, memory_order_acquire);
}

void *model_attach(struct model *model, enum model_attachment_kind kind, void *made,
                   void (*release)(void *made))
{
    struct model_attachment *slot = &model->attachments[kind];
    void *there = NULL;

    if (atomic_compare_exchange_strong_explicit(&slot->made, &there, made, memory_order_acq_rel,
                                                memory_order_acquire)) {
        slot->release = release; /* read only by the closer, who comes after every user */
        return made;
    }
    release(made);
    return there;
}

void model_attachments_free(struct model *model)
{
    for (size_t i = 0; i < MODEL_ATTACHMENTS; i++) {
        void *made = atomic_exchange(&model->attachments[i].made, NULL);
        if (made != NULL)
            model->attachments[i].release(made);
    }
}
