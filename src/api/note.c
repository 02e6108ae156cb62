/* note.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/note.h"

#include <stdio.h>

#include "engine/model.h"
#include "io/loop.h"

_Static_assert((int)STAGES <= (int)NOTE_STAGES_MAX, "exchange.h has room for every stage");

void note_model(struct exchange *x, const struct model *model)
{
    if (x->note.model.size == 0)
        exchange_note_model(x, slice_of(model_name(model)), slice_of(model_version_text(model)));
}

HOT void note_request(struct exchange *x, const struct request *request, uint64_t begun_ns,
                      enum err_code code)
{
    struct note_inference one = { .begun_ns = begun_ns, .code = (uint8_t)code };

    if (UNLIKELY(x == NULL))
        return;
    note_model(x, request->model);
    memcpy(one.stage_ns, request->stage_ns, sizeof request->stage_ns);
    if (UNLIKELY(begun_ns == 0 && x->note.keeps_inferences)) {
        struct env *env = loop_env(x->loop);
        one.begun_ns = env->mono_ns(env);
        for (size_t i = 0; i < STAGES; i++)
            one.begun_ns -= one.stage_ns[i];
    }
    exchange_note_inference(x, &one);
}
