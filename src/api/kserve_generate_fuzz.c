/* kserve_generate_fuzz.c - any bytes as a generate request, and what was read as its own answer.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses the model. Inputs that are read must have the size that their shape says,
 * and their elements, given back as outputs, must make an answer that is JSON.
 */
#include "api/kserve.h"
#include "base/arena.h"
#include "base/budget.h"
#include "base/mem.h"
#include "codec/tensor_json.h"
#include "contract/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(const struct penstock_tensor *t, const struct signature_tensor *wanted)
{
    require(t->rank == wanted->rank && t->dtype == wanted->dtype);
    for (uint32_t i = 0; i < t->rank; i++)
        require(t->shape[i] >= 0);
    fuzz_require_whole(t);
}

static void answer(const struct kserve_plan *plan, const struct kserve_request *request,
                   const struct penstock_tensor *input, struct kserve_memory memory)
{
    struct response_output outputs[8] = { 0 };
    struct err err = { 0 };
    struct text out;

    for (uint32_t i = 0; i < plan->signature->outputs_count; i++)
        outputs[i] =
            (struct response_output){ input != NULL,
                                      input != NULL ? *input : (struct penstock_tensor){ 0 } };
    for (int is_event = 0; is_event <= 1; is_event++) {
        size_t room = is_event ? kserve_event_bound(plan, request, outputs, true)
                               : kserve_generate_bound(plan, request, outputs, true);
        uint8_t *bytes = mem_alloc(room);
        require(bytes != NULL);
        text_init_fixed(&out, bytes, room);
        enum err_code code = is_event
                                 ? kserve_event_write(&out, plan, request, outputs, memory, &err)
                                 : kserve_generate_write(&out, plan, request, outputs, &err);
        require(code == OK && !text_failed(&out));
        struct json_cursor at = { out.data, out.data, out.data + out.size };
        require(json_skip(&at, NULL, "", &err) == OK && json_end(&at, &err) == OK);
        for (size_t i = 0; i < out.size; i++)
            require(out.data[i] >= ' '); /* an event is one line */
        mem_free(bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct signature *(*const models[])(void) = { test_iris, test_mixed, test_spam,
                                                        test_free_strings };
    struct err err = { 0 };
    struct budget budget;
    struct penstock_tensor inputs[8];
    bool has[8] = { false };

    if (size < 1)
        return 0;
    struct arena *arena = arena_new(4096, 4 << 20);
    struct kserve_plan *plan = kserve_plan_new("m", "1", models[data[0] & 3]());
    struct kserve_request request;
    struct kserve_memory memory = { arena, &budget };
    require(arena != NULL && plan != NULL && plan->signature->inputs_count <= COUNT(inputs));
    budget_init(&budget, 64 << 20);
    enum err_code code = kserve_read_generate(&request, (struct kserve_inputs){ inputs, has }, plan,
                                              slice_make(data + 1, size - 1), memory, &err);
    require((code == OK) == (err.text[0] == '\0'));
    const struct penstock_tensor *last = NULL;
    for (uint32_t i = 0; code == OK && i < plan->signature->inputs_count; i++)
        if (has[i]) {
            look_at(&inputs[i], &plan->signature->inputs[i]);
            last = &inputs[i];
        }
    if (code == OK)
        answer(plan, &request, last, memory);
    kserve_plan_free(plan);
    arena_free(&arena);
    require(budget_used(&budget) == 0);
    return 0;
}
