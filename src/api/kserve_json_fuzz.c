/* kserve_json_fuzz.c - any bytes as a V2 inference request: JSON, binary part, raw.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The first two bytes choose the model and how the body is split. What is accepted must lie in
 * memory that can be read to its end, and its id must survive being written into an answer.
 */
#include "api/kserve.h"
#include "base/arena.h"
#include "base/budget.h"
#include "base/buf.h"
#include "codec/tensor_json.h"
#include "contract/fuzz.h"
#include "model/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum;

static void look_at(const struct penstock_tensor *t)
{
    uint64_t count;

    require(t->rank <= PENSTOCK_RANK_MAX && t->name != NULL);
    require(t->dtype != PENSTOCK_INVALID);
    require(dtype_size(t->dtype) == 0 || ((uintptr_t)t->data & (dtype_size(t->dtype) - 1)) == 0);
    (void)shape_count(t->rank, t->shape, &count);
    for (size_t i = 0; i < t->size; i++)
        sum += ((const uint8_t *)t->data)[i];
}

static void answer(const struct kserve_plan *plan, const struct kserve_request *request,
                   struct kserve_memory memory)
{
    struct response_output outputs[8] = { 0 };
    struct kserve_answer ret;
    struct err err = { 0 };

    for (uint32_t i = 0; i < plan->signature->outputs_count; i++)
        outputs[i] = fuzz_scores(plan->signature->outputs[i].name);
    require(kserve_write(&ret, plan, request, outputs, memory, &err) == OK);
    struct json_cursor at = { ret.json.data, ret.json.data, ret.json.data + ret.json.size };
    require(json_skip(&at, NULL, "", &err) == OK && json_end(&at, &err) == OK);
    buf_unref(&ret.json_holder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct signature *(*const models[])(void) = { test_iris, test_mixed, test_spam,
                                                        test_free_strings };
    struct err err = { 0 };
    struct budget budget;
    struct penstock_tensor inputs[8];
    bool has[8] = { false };

    if (size < 2)
        return 0;
    struct slice body = slice_make(data + 2, size - 2);
    struct arena *arena = arena_new(4096, 4 << 20);
    struct kserve_plan *plan = kserve_plan_new("m", "1", models[data[0] & 3]());
    struct kserve_request request;
    struct kserve_memory memory = { arena, &budget };
    require(arena != NULL && plan != NULL);
    budget_init(&budget, 64 << 20);
    bool has_length = (data[0] & 4) != 0;
    uint64_t length = has_length ? (uint64_t)data[1] * (1 + (data[0] >> 4)) : 0;
    enum err_code code = has_length && length == 0
                             ? kserve_read_raw(&request, (struct kserve_inputs){ inputs, has },
                                               plan, body, memory, &err)
                             : kserve_read(&request, (struct kserve_inputs){ inputs, has }, plan,
                                           body, has_length, length, memory, &err);
    require((code == OK) == (err.text[0] == '\0'));
    for (uint32_t i = 0; code == OK && i < plan->signature->inputs_count; i++)
        if (has[i])
            look_at(&inputs[i]);
    if (code == OK)
        answer(plan, &request, memory);
    kserve_plan_free(plan);
    arena_free(&arena);
    require(budget_used(&budget) == 0);
    return 0;
}
