/* kserve_plan.c - SPDX-License-Identifier: Apache-2.0
 *
 * One heap block holds the struct, its lists and all the text, so that freeing is one call: it is
 * sized by writing the text first.
 */
#include "api/kserve.h"
#include "base/mem.h"
#include "engine/model.h"
#include "model/dtype.h"

static void put_output_head(struct text *out, const struct signature_tensor *t)
{
    text_str(out, "{\"name\":");
    text_json(out, slice_of(t->name));
    text_str(out, ",\"datatype\":\"");
    text_str(out, dtype_name(t->dtype));
    text_str(out, "\",\"shape\":[");
}

static void put_output_key(struct text *out, const struct signature_tensor *t)
{
    text_byte(out, ',');
    text_json(out, slice_of(t->name));
    text_byte(out, ':');
}

struct kserve_plan *kserve_plan_new(const char *name, const char *version,
                                    const struct signature *s)
{
    struct kserve_plan *plan = NULL;
    struct text out;

    text_init(&out, SIZE_MAX);
    size_t *ends = mem_alloc((2 * s->outputs_count + 1) * sizeof *ends), names;
    text_str(&out, "\"model_name\":");
    text_json(&out, slice_of(name));
    text_str(&out, ",\"model_version\":");
    text_json(&out, slice_of(version));
    names = out.size;
    text_str(&out, ",\"outputs\":[");
    for (uint32_t i = 0; ends != NULL && i < 2 * s->outputs_count; i++) {
        ends[i] = out.size;
        if (i < s->outputs_count)
            put_output_head(&out, &s->outputs[i]);
        else
            put_output_key(&out, &s->outputs[i - s->outputs_count]);
    }
    size_t lists = (s->inputs_count + 3 * s->outputs_count) * sizeof(struct slice);
    if (ends != NULL && !text_failed(&out))
        plan = mem_alloc(sizeof *plan + lists + out.size);
    if (plan != NULL) {
        ends[2 * s->outputs_count] = out.size;
        struct slice *list = (struct slice *)(void *)(plan + 1);
        uint8_t *words = (uint8_t *)plan + sizeof *plan + lists;
        memcpy(words, out.data, out.size);
        *plan = (struct kserve_plan){
            .signature = s,
            .model_name = slice_of(name),
            .model_version = slice_of(version),
            .inputs = list,
            .outputs = list + s->inputs_count,
            .output_heads = list + s->inputs_count + s->outputs_count,
            .output_keys = list + s->inputs_count + 2 * s->outputs_count,
            .names = slice_make(words, names),
            .head = slice_make(words, ends[0]),
            .has_batch = s->batch_max != 0 || s->is_batchable,
        };
        for (uint32_t i = 0; i < s->inputs_count; i++)
            plan->inputs[i] = slice_of(s->inputs[i].name);
        for (uint32_t i = 0; i < s->outputs_count; i++) {
            uint32_t key = s->outputs_count + i;
            plan->outputs[i] = slice_of(s->outputs[i].name);
            plan->output_heads[i] = slice_make(words + ends[i], ends[i + 1] - ends[i]);
            plan->output_keys[i] = slice_make(words + ends[key], ends[key + 1] - ends[key]);
        }
    }
    mem_free(ends);
    text_deinit(&out);
    return plan;
}

void kserve_plan_free(void *plan)
{
    mem_free(plan);
}

enum err_code kserve_plan_of(struct model *model, const struct kserve_plan **ret, struct err *err)
{
    struct kserve_plan *plan = model_attached(model, ATTACHMENT_KSERVE);

    if (UNLIKELY(plan == NULL)) {
        plan =
            kserve_plan_new(model_name(model), model_version_text(model), model_signature(model));
        if (plan == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
        plan = model_attach(model, ATTACHMENT_KSERVE, plan, kserve_plan_free);
    }
    *ret = plan;
    return OK;
}
