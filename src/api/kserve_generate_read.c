/* kserve_generate_read.c - a generate request from its bytes: any JSON object whose members are the
 * model's inputs and parameters. SPDX-License-Identifier: Apache-2.0
 *
 * Shapes are not said: the fixed dimensions divide the number of elements, the innermost free one
 * takes the rest, and the free ones before it are 1. A list of lists, which Triton refuses, is
 * taken when it has the rank of the input: then it says its shape itself.
 */
#include "api/kserve.h"
#include "base/arena.h"
#include "codec/tensor_json.h"
#include "model/dtype.h"

struct reader {
    struct kserve_request *request;
    struct kserve_inputs inputs;
    const struct kserve_plan *plan;
    struct kserve_memory memory;
    struct json_cursor c;
    struct parameter *seen; /* parameters, reserved ones too: a key may come once */
    uint32_t parameters_count;
    bool has_id, has_parameters;
};

static COLD enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

/* -- tensors --------------------------------------------------------------------------------------- */

static COLD enum err_code misfit(const struct signature_tensor *t, uint64_t count, struct err *err)
{
    char shape[160];

    return err_set(err, E_INVALID, "input '%s': %llu element%s cannot have its shape, %s (-1: any)",
                   t->name, (unsigned long long)count, count == 1 ? "" : "s",
                   shape_text(shape, sizeof shape, t->rank, t->dims));
}

static enum err_code deduce_shape(const struct signature_tensor *t, uint64_t count,
                                  int64_t shape[PENSTOCK_RANK_MAX], struct err *err)
{
    uint64_t fixed = 1;
    int64_t innermost = -1;

    for (uint32_t i = 0; i < t->rank; i++) {
        shape[i] = t->dims[i];
        if (t->dims[i] >= 0) {
            if (__builtin_mul_overflow(fixed, (uint64_t)t->dims[i], &fixed))
                return misfit(t, count, err);
        } else {
            shape[i] = 1;
            innermost = i;
        }
    }
    if (innermost >= 0 && fixed != 0 && count % fixed == 0)
        shape[innermost] = (int64_t)(count / fixed);
    else if (count != fixed)
        return misfit(t, count, err);
    return OK;
}

/* What an element of another kind is told, in Triton's words and in ours. */
static COLD enum err_code wrong_kind(struct reader *r, const struct signature_tensor *t,
                                     struct err *err)
{
    const char *kind = t->dtype == PENSTOCK_BYTES  ? "string"
                       : t->dtype == PENSTOCK_BOOL ? "boolean"
                                                   : "number";
    struct err why = *err;
    uint8_t first = json_peek(&r->c);

    if (err->code != E_INVALID)
        return err->code;
    /* Where it is of the right kind, the reason is the value: its range, say. */
    if (t->dtype == PENSTOCK_BYTES ? first == '"'
        : t->dtype == PENSTOCK_BOOL
            ? first == 't' || first == 'f'
            : first == '-' || (first >= '0' && first <= '9') || first == '[' || first == ']')
        return err_wrap(err, "input '%s'", t->name);
    return err_set(
        err, E_INVALID,
        "Unable to parse '%s': attempt to access JSON non-%s as %s: the input takes %ss. "
        "%s",
        t->name, kind, kind, kind, why.text);
}

/* The value of an input: a scalar, or a list. The key has been read. */
static enum err_code read_input(struct reader *r, uint32_t index, struct err *err)
{
    const struct signature_tensor *t = &r->plan->signature->inputs[index];
    int64_t nested[PENSTOCK_RANK_MAX], shape[PENSTOCK_RANK_MAX];
    uint32_t rank = 0;
    uint64_t count = 1;
    const void *bytes;
    size_t size;

    if (r->inputs.has[index])
        return err_set(err, E_INVALID, "input '%s' already exists in request", t->name);
    if (json_peek(&r->c) == '[') {
        TRY(tensor_json_shape(r->c, &rank, nested, t->name, err));
        if (!shape_count(rank, nested, &count))
            return misfit(t, UINT64_MAX, err);
    }
    if (rank <= 1) {
        TRY(deduce_shape(t, count, shape, err));
    } else if (rank == t->rank) {
        memcpy(shape, nested, rank * sizeof shape[0]);
    } else {
        char want[160];
        return err_set(err, E_INVALID,
                       "input '%s' is nested %u deep; it takes one list of its elements, or lists "
                       "nested as its shape is, %s (-1: any)",
                       t->name, rank, shape_text(want, sizeof want, t->rank, t->dims));
    }
    enum err_code code =
        kserve_read_elements(&bytes, &size, t->dtype, count, &r->c, t->name, r->memory, err);
    if (UNLIKELY(code == E_RANGE && err->code == OK))
        return misfit(t, count, err);
    if (UNLIKELY(code != OK))
        return wrong_kind(r, t, err);
    kserve_set_input(r->inputs, r->plan, index, t->rank, shape, t->dtype, slice_make(bytes, size));
    return OK;
}

/* -- parameters ------------------------------------------------------------------------------------ */

static enum err_code read_parameter(struct reader *r, struct slice key, struct err *err)
{
    bool is_custom;

    if (++r->parameters_count > KSERVE_PARAMETERS_MAX)
        return err_set(err, E_INVALID, "more than %d parameters", KSERVE_PARAMETERS_MAX);
    struct parameter *p = arena_zalloc(r->memory.arena, 2 * sizeof *p);
    char *name = arena_strndup(r->memory.arena, key.data, key.size);
    if (p == NULL || name == NULL)
        return no_memory(err);
    if (strlen(name) != key.size)
        return err_set(err, E_INVALID, "a key holds a NUL byte");
    p->key = name;
    for (const struct parameter *q = r->seen; q != NULL; q = q->next)
        if (strcmp(q->key, name) == 0)
            return err_set(err, E_INVALID, "parameter '%s' already exists in request", name);
    TRY(kserve_read_parameter(p, &r->c, r->memory.arena, "the request", err));
    TRY(kserve_take_parameter(r->request, p, &is_custom, err));
    if (is_custom) {
        p[1] = p[0];
        p[1].next = r->request->parameters;
        r->request->parameters = &p[1];
    }
    p->next = r->seen;
    r->seen = p;
    return OK;
}

static enum err_code read_id(struct reader *r, struct err *err)
{
    if (r->has_id)
        return err_set(err, E_INVALID, "'id' already exists in request");
    r->has_id = true;
    TRY(json_string(&r->c, r->memory.arena, &r->request->id, "id", err));
    r->request->id_text = arena_strndup(r->memory.arena, r->request->id.data, r->request->id.size);
    return r->request->id_text == NULL ? no_memory(err) : OK;
}

/* -- the body -------------------------------------------------------------------------------------- */

static enum err_code read_members(struct reader *r, bool is_inner, struct err *err)
{
    const char *path = is_inner ? "parameters" : "the request";
    const struct signature *s = r->plan->signature;

    TRY(json_take(&r->c, '{', path, err));
    for (bool is_first = true;; is_first = false) {
        struct slice key;
        uint32_t index;
        bool more;
        TRY(json_more(&r->c, '}', is_first, &more, path, err));
        if (!more)
            return OK;
        TRY(json_string(&r->c, r->memory.arena, &key, path, err));
        TRY(json_take(&r->c, ':', path, err));
        if (signature_input(s, key, &index) != NULL && !s->inputs[index].is_hidden) {
            TRY(read_input(r, index, err));
        } else if (!is_inner && slice_is(key, "id")) {
            TRY(read_id(r, err));
        } else if (!is_inner && slice_is(key, "parameters")) {
            if (r->has_parameters)
                return err_set(err, E_INVALID, "'parameters' already exists in request");
            r->has_parameters = true;
            TRY(read_members(r, true, err));
        } else {
            TRY(read_parameter(r, key, err));
        }
    }
}

/* Triton counts; people want to know which. */
static enum err_code check_inputs(struct reader *r, struct err *err)
{
    const struct signature *s = r->plan->signature;
    uint32_t wanted = 0, given = 0;
    const char *missing = NULL;

    for (uint32_t i = 0; i < s->inputs_count; i++) {
        if (s->inputs[i].is_optional || s->inputs[i].is_hidden)
            continue;
        wanted++;
        given += r->inputs.has[i];
        if (missing == NULL && !r->inputs.has[i])
            missing = s->inputs[i].name;
    }
    if (missing == NULL)
        return OK;
    return err_set(err, E_INVALID,
                   "expected %u inputs but got %u inputs for model '%.*s': there is no '%s'",
                   wanted, given, SLICE_ARG(r->plan->model_name), missing);
}

enum err_code kserve_read_generate(struct kserve_request *ret, struct kserve_inputs inputs,
                                   const struct kserve_plan *plan, struct slice body,
                                   struct kserve_memory memory, struct err *err)
{
    struct reader r = { .request = ret,
                        .inputs = inputs,
                        .plan = plan,
                        .memory = memory,
                        .c = { body.data, body.data, body.data + body.size } };

    TRY(kserve_request_begin(ret, plan, memory.arena, err));
    if (json_peek(&r.c) == 0 && r.c.at == r.c.end)
        return err_set(err, E_INVALID,
                       "failed to parse the request JSON buffer: The document is empty. at 0");
    TRY(read_members(&r, false, err));
    TRY(json_end(&r.c, err));
    kserve_request_end(ret, plan, false);
    return check_inputs(&r, err);
}
