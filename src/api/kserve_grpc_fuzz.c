/* kserve_grpc_fuzz.c - any bytes as a ModelInferRequest, taken apart and joined to a model.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses the model and how the message lies in memory. What is accepted must be
 * aligned and readable to its end, and must give an answer that can be read back.
 */
#include "api/kserve.h"
#include "base/arena.h"
#include "base/budget.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/pb.h"
#include "codec/kserve_pb.h"
#include "contract/fuzz.h"
#include "model/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum;

static void look_at(const struct penstock_tensor *t, const struct signature_tensor *described)
{
    uint64_t count;

    require(t->rank <= PENSTOCK_RANK_MAX && t->name == described->name);
    require(t->dtype == described->dtype);
    require(dtype_size(t->dtype) == 0 || ((uintptr_t)t->data & (dtype_size(t->dtype) - 1)) == 0);
    require(shape_count(t->rank, t->shape, &count));
    for (size_t i = 0; i < t->size; i++)
        sum += ((const uint8_t *)t->data)[i];
}

static void answer(const struct kserve_plan *plan, const struct kserve_request *request,
                   struct kserve_memory memory)
{
    struct response_output outputs[8] = { 0 };
    struct kserve_pb_piece *pieces;
    unsigned results = 0, raws = 0;
    size_t all = 0;
    struct err err = { 0 };
    uint32_t count;

    for (uint32_t i = 0; i < plan->signature->outputs_count; i++)
        outputs[i] = fuzz_scores(plan->signature->outputs[i].name);
    require(kserve_write_pb(&pieces, &count, plan, request, outputs, memory, &err) == OK);
    for (uint32_t i = 0; i < count; i++)
        all += pieces[i].bytes.size;
    uint8_t *joined = mem_alloc(all + 1), *at = joined;
    require(joined != NULL);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(at, pieces[i].bytes.data, pieces[i].bytes.size);
        at += pieces[i].bytes.size;
    }
    struct pb_reader r;
    struct pb_field field;
    pb_begin(&r, slice_make(joined, all));
    while (pb_next(&r, &field)) {
        results += field.number == 5;
        raws += field.number == 6;
    }
    require(!pb_failed(&r) && results == request->order_count && raws == results);
    mem_free(joined);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct signature *(*const models[])(void) = { test_iris, test_mixed, test_spam,
                                                        test_free_strings };
    struct err err = { 0 };
    struct budget budget;
    struct penstock_tensor inputs[8];
    bool has[8] = { false };
    const char *field = NULL;

    if (size < 1)
        return 0;
    size_t lead = data[0] >> 2 & 7;
    uint8_t *block = mem_alloc(size - 1 + lead + 1);
    struct arena *arena = arena_new(4096, 4 << 20);
    struct kserve_plan *plan = kserve_plan_new("m", "1", models[data[0] & 3]());
    require(block != NULL && arena != NULL && plan != NULL);
    uint8_t *start = block + lead;
    memcpy(start, data + 1, size - 1);
    budget_init(&budget, 64 << 20);
    struct kserve_memory memory = { arena, &budget };
    struct kserve_pb_request pb;
    struct kserve_request request;
    enum err_code code = kserve_pb_decode(&pb, slice_make(start, size - 1), arena, &field, &err);
    if (code == OK)
        code = kserve_read_pb(&request, (struct kserve_inputs){ inputs, has }, plan, &pb, memory,
                              &field, &err);
    require((code == OK) == (err.text[0] == '\0'));
    if (code == OK) {
        for (uint32_t i = 0; i < plan->signature->inputs_count; i++)
            if (has[i])
                look_at(&inputs[i], &plan->signature->inputs[i]);
        (void)kserve_pb_field((struct kserve_inputs){ inputs, has }, plan, &pb, arena);
        answer(plan, &request, memory);
    }
    arena_free(&arena);
    require(budget_used(&budget) == 0);
    kserve_plan_free(plan);
    mem_free(block);
    return 0;
}
