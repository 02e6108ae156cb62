/* typed_fuzz.c - any bytes as a typed body, form or query.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What is accepted must be whole tensors: as many bytes as the shape says, well-formed strings, the
 * same number of rows everywhere. Then the inputs are answered with themselves where they fit.
 */
#include "base/arena.h"
#include "base/budget.h"
#include "codec/tensor_json.h"
#include "contract/fuzz.h"
#include "contract/typed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(const struct typed_reader *r, const struct penstock_tensor *t, uint32_t index)
{
    struct err err = { 0 };

    require(signature_check_shape(r->plan->inputs[index].tensor, t->rank, t->shape, &err) == OK);
    fuzz_require_whole(t);
    if (r->plan->has_batch)
        require((uint64_t)t->shape[0] == r->rows);
}

static enum err_code read(struct typed_reader *r, unsigned how, struct slice body, struct err *err)
{
    struct slice name, value;
    bool more;

    switch (how) {
    case 0: return typed_read_json(r, body, err);
    case 1:
        for (;;) {
            TRY(typed_pair_next(&body, r->arena, &more, &name, &value, err));
            if (!more)
                return OK;
            TRY(typed_read_text(r, name, value, err));
        }
    case 2: return typed_read_bytes(r, slice_of(r->plan->fields[0].name), body, err);
    default:
        return typed_read_npy(r, slice_of(r->plan->fields[r->plan->fields_count - 1].name), body,
                              err);
    }
}

static void answer(const struct typed_plan *plan, const struct typed_query *query,
                   const struct typed_reader *r, struct arena *arena)
{
    struct response_output outputs[2];
    struct err err = { 0 };
    struct text out;

    if (plan->signature != test_iris() || r->rows != 1)
        return;
    fuzz_iris_outputs(outputs);
    text_init(&out, typed_answer_bound(plan, query, 1, outputs));
    require(typed_write(&out, plan, query, 1, r->is_list, outputs, arena, &err) == OK);
    require(!text_failed(&out));
    struct json_cursor at = { out.data, out.data, out.data + out.size };
    require(json_skip(&at, NULL, "", &err) == OK && json_end(&at, &err) == OK);
    text_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct signature *(*const models[])(void) = { test_iris, test_spam, test_mixed,
                                                        test_free_strings };
    struct err err = { 0 };
    struct budget budget;
    struct typed_plan *plan = NULL;
    struct typed_reader r;
    struct typed_query query;
    struct penstock_tensor inputs[8];
    bool has[8] = { false };

    if (size < 2 || (size_t)data[1] + 2 > size)
        return 0;
    /* model and form of the body, length of the query, query, body */
    struct slice text = slice_make(data + 2, data[1]);
    struct slice body = slice_make(data + 2 + data[1], size - 2 - data[1]);
    struct arena *arena = arena_new(4096, 4 << 20);
    require(arena != NULL);
    budget_init(&budget, 64 << 20);
    require(typed_plan_new(&plan, "m", models[data[0] & 3](), &err) == OK);
    require(typed_read_begin(&r, plan, arena, &budget, &err) == OK);
    enum err_code code = typed_query_read(&query, plan, text, arena, &err);
    require((code == OK) == (err.text[0] == '\0'));
    if (code == OK) {
        code = read(&r, data[0] >> 2 & 3, body, &err);
        if (code == OK)
            code = typed_read_end(&r, inputs, has, &err);
        require((code == OK) == (err.text[0] == '\0'));
        for (uint32_t i = 0; code == OK && i < plan->inputs_count; i++)
            if (has[i])
                look_at(&r, &inputs[i], i);
        if (code == OK)
            answer(plan, &query, &r, arena);
    }
    typed_plan_free(plan);
    arena_free(&arena);
    require(budget_used(&budget) == 0);
    return 0;
}
