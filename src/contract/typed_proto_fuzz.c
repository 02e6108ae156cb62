/* typed_proto_fuzz.c - any bytes as a PredictRequest, and any names as a contract.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A message that is accepted must be whole tensors, and one that protobuf's own decoder accepts.
 * The answer to it must be one as well, and so must every descriptor, whatever the model's names
 * are.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/budget.h"
#include "base/buf.h"
#include "base/mem.h"
#include "codec/proto.h"
#include "contract/fuzz.h"
#include "contract/typed_proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NAMES_MAX = 24 };

struct side {
    struct typed_plan *plan;
    struct proto_schema *schema;
    const struct proto_type *request, *response;
};

static const struct proto_type *find(const struct side *s, const char *suffix)
{
    char name[400];
    struct text text;

    text_init_fixed(&text, name, sizeof name);
    text_str(&text, typed_proto_service(s->plan));
    text_str(&text, suffix);
    return proto_type_find(s->schema, text_cstr(&text));
}

static void open_side(struct side *s, const char *model, const struct signature *signature)
{
    struct err err = { 0 };

    require(typed_plan_new(&s->plan, model, signature, &err) == OK);
    require(proto_schema_new(&s->schema, &err) == OK);
    if (proto_schema_add(s->schema, typed_proto_file(s->plan), &err) != OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    s->request = find(s, "PredictRequest");
    s->response = find(s, "PredictResponse");
    require(s->request != NULL && s->response != NULL);
}

static void close_side(struct side *s)
{
    proto_schema_free(&s->schema);
    typed_plan_free(s->plan);
}

/* -- messages ---------------------------------------------------------------------------------- */

static void look_at(const struct typed_reader *r, const struct penstock_tensor *t, uint32_t index)
{
    struct err err = { 0 };

    /* Of streams the rows along that dimension are as many as they are. */
    struct signature_tensor want = *r->plan->inputs[index].tensor;
    if (r->plan->inputs[index].has_axis)
        want.dims[r->plan->inputs[index].axis] = -1;
    require(signature_check_shape(&want, t->rank, t->shape, &err) == OK);
    fuzz_require_whole(t);
    if (r->plan->has_batch)
        require((uint64_t)t->shape[0] == r->rows);
}

static void decode(const struct proto_type *type, struct slice bytes)
{
    struct proto_arena *arena = proto_arena_new();
    struct proto_message *message = NULL;
    struct err err = { 0 };

    require(arena != NULL);
    enum err_code code = proto_decode(&message, arena, type, bytes, &err);
    require(code == OK || code == E_EXHAUSTED);
    proto_arena_free(&arena);
}

static void answer(const struct side *s, const struct typed_query *query,
                   const struct typed_reader *r, struct arena *arena, struct budget *budget)
{
    struct response_output outputs[2];
    CLEANUP(buf_unref) struct buf *holder = NULL;
    struct err err = { 0 };
    struct slice message;

    if (s->plan->signature != test_iris() || r->rows != 1)
        return;
    fuzz_iris_outputs(outputs);
    require(typed_write_proto(&message, &holder, s->plan, query, 1, r->is_list, outputs, arena,
                              budget, &err) == OK);
    decode(s->response, message);
    struct typed_said said = { r->rows, UINT64_MAX, query->top, 0, r->is_list };
    size_t size, bound = typed_proto_bound(s->plan, query, 1, outputs);
    uint8_t *room = mem_alloc(bound);
    require(room != NULL && typed_write_proto_to(room, bound, &size, s->plan, query, 1, r->is_list,
                                                 outputs, &said, arena, &err) == OK);
    /* The same bytes, and behind them what it says of the stream. */
    require(size > message.size && memcmp(room, message.data, message.size) == 0);
    decode(s->response, slice_make(room, size));
    mem_free(room);
}

/* What protobuf itself reads of `stream`. */
static void compare_asked(const struct side *s, struct slice bytes, const struct typed_asked *asked)
{
    struct proto_arena *arena = proto_arena_new();
    struct proto_message *message = NULL;
    struct err err = { 0 };

    require(arena != NULL);
    if (proto_decode(&message, arena, s->request, bytes, &err) == OK) {
        const struct proto_message *stream =
            proto_get_message(message, typed_proto_asked_name(s->plan));
        require(asked->sequence == (stream == NULL ? 0 : proto_get_u64(stream, "sequence")));
        require(asked->interrupts == (stream != NULL && proto_get_bool(stream, "interrupt")));
    }
    proto_arena_free(&arena);
}

static bool look(const struct side *s, struct slice message)
{
    struct typed_asked asked;
    struct err err = { 0 };

    enum err_code code = typed_look_proto(s->plan, message, &asked, &err);
    require((code == OK) == (err.text[0] == '\0'));
    if (code == OK)
        compare_asked(s, message, &asked);
    return code == OK;
}

static void read_message(struct side *s, struct slice message)
{
    struct arena *arena = arena_new(4096, 4 << 20);
    struct budget budget;
    struct typed_reader r;
    struct typed_query query;
    struct penstock_tensor inputs[8];
    bool has[8] = { false };
    struct err err = { 0 };

    require(arena != NULL);
    budget_init(&budget, 64 << 20);
    require(typed_read_begin(&r, s->plan, arena, &budget, &err) == OK);
    enum err_code code = typed_read_proto(&r, message, &query, &err);
    if (code == OK)
        code = typed_read_end(&r, inputs, has, &err);
    require((code == OK) == (err.text[0] == '\0'));
    for (uint32_t i = 0; code == OK && i < s->plan->inputs_count; i++)
        if (has[i])
            look_at(&r, &inputs[i], i);
    require(look(s, message) || code != OK);
    if (code == OK) {
        decode(s->request, message);
        answer(s, &query, &r, arena, &budget);
    }
    arena_free(&arena);
    require(budget_used(&budget) == 0);
}

/* -- names ------------------------------------------------------------------------------------- */

/* Lines are the names of a model, its features and its outputs. */
static void name_all(struct slice lines)
{
    static struct feature features[NAMES_MAX];
    static char names[NAMES_MAX + 1][128];
    struct signature_tensor input = {
        .name = "x", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 1 }, NO_LIMITS
    };
    struct signature_tensor outputs[NAMES_MAX];
    struct signature signature = {
        .inputs_count = 1, .inputs = &input, .outputs = outputs, .is_batchable = true
    };
    uint32_t count = 0;

    for (; lines.size != 0 && count <= NAMES_MAX; count++) {
        struct slice line = slice_first(lines, slice_find(lines, '\n'));
        size_t size = 0;
        lines = slice_skip(lines, MIN(line.size + 1, lines.size));
        for (; size < line.size && size < sizeof names[0] - 1 && line.data[size] != 0; size++)
            names[count][size] = (char)line.data[size];
        names[count][size] = '\0';
    }
    if (count == 0)
        return;
    for (uint32_t i = 1; i < count; i++) {
        features[i - 1] = (struct feature){
            .name = names[i], .unit = names[i - 1], .description = names[i], NO_LIMITS
        };
        outputs[i - 1] =
            (struct signature_tensor){ .name = names[i],
                                       .title = i % 2 != 0 ? names[i - 1] : NULL,
                                       .dtype = i % 3 != 0 ? PENSTOCK_FP32 : PENSTOCK_BYTES,
                                       .rank = 2 + i % 2,
                                       .dims = { -1, i % 4 != 0 ? 3 : -1, -1 },
                                       NO_LIMITS,
                                       .role = i % 5 == 0 ? ROLE_PROBABILITIES : ROLE_VALUE };
    }
    input.dims[1] = count - 1;
    input.features = features;
    input.features_count = count - 1;
    signature.outputs_count = count - 1;
    struct side s;
    struct text text;
    open_side(&s, names[0], &signature);
    text_init(&text, 1 << 20);
    typed_proto_text(&text, s.plan);
    require(!text_failed(&text));
    text_deinit(&text);
    typed_proto_takes_example(s.plan);
    close_side(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct signature *(*const models[])(
        void) = { test_iris,        test_spam,     test_mixed,  test_free_strings,
                  test_free_matrix, test_readings, test_samples };
    static struct side sides[COUNT(models)];

    if (size < 1)
        return 0;
    /* 5 is names; what came later is behind it. */
    unsigned model = data[0] % (COUNT(models) + 1);
    struct slice rest = slice_make(data + 1, size - 1);
    if (model == 5) {
        name_all(rest);
        return 0;
    }
    model -= model > 5;
    if (sides[model].plan == NULL)
        open_side(&sides[model], "m", models[model]());
    read_message(&sides[model], rest);
    return 0;
}
