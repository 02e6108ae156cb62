/* session_input.c - SPDX-License-Identifier: Apache-2.0
 *
 * A tensor without a shape gets the model's where that leaves one choice. What bytes mean is looked at
 * here (BOOL), how many there are by the engine, as for all other dialects.
 */
#include "api/session_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "api/kserve.h"
#include "base/arena.h"
#include "base/buf.h"
#include "codec/bytes.h"
#include "contract/tensor_memory.h"
#include "model/dtype.h"
#include "model/nearest.h"

enum { PATH_BYTES = 96, NAME_SHOWN = 80 };

static COLD enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

/* Fails with what err says, about that field. */
static COLD PRINTF_LIKE(4, 5) enum err_code at_field(const char **ret_field, struct arena *arena,
                                                     const struct err *err, const char *format, ...)
{
    char path[160];
    va_list args;

    va_start(args, format);
    int size = vsnprintf(path, sizeof path, format, args);
    va_end(args);
    *ret_field = arena_strndup(arena, path, MIN((size_t)MAX(size, 0), sizeof path - 1));
    return err->code;
}

/* -- shapes --------------------------------------------------------------------------------------- */

/* Along which the rows of a window are counted (engine/session.h); 0 as well when there is none. */
static uint32_t axis_of(const struct signature *s, const struct signature_tensor *t,
                        uint64_t window)
{
    if (window == 0)
        return 0;
    if (s->stream != NULL && s->stream->axis >= 0)
        return (uint32_t)s->stream->axis;
    for (uint32_t i = t->rank; i-- > 1;)
        if (t->dims[i] != -1 && (uint64_t)t->dims[i] == window)
            return i;
    for (uint32_t i = 0; i < t->rank; i++)
        if (t->dims[i] == -1)
            return i;
    return 0;
}

/* The model's shape with `count` elements in it. */
static enum err_code fill_shape(const struct signature_tensor *t, uint64_t count, uint32_t axis,
                                const char *path, int64_t shape[PENSTOCK_RANK_MAX], struct err *err)
{
    char text[160];
    uint64_t fixed = 1;
    uint32_t free_dims = 0, last_free = 0;

    if (axis != 0 && axis < t->rank) { /* a window's length is the model's, a piece's its own */
        for (uint32_t i = 0; i < t->rank; i++) {
            shape[i] = i == axis ? (int64_t)count : t->dims[i] < 0 ? 1 : t->dims[i];
            fixed *= i == axis ? 1 : (uint64_t)shape[i];
        }
        if (fixed == 0 || count % fixed != 0)
            return err_set(err, E_INVALID,
                           "%s: it holds %" PRIu64 " elements; a row of the stream has %" PRIu64, path,
                           count, fixed);
        shape[axis] = (int64_t)(count / fixed);
        return OK;
    }
    for (uint32_t i = 0; i < t->rank; i++) {
        shape[i] = t->dims[i];
        if (t->dims[i] < 0) {
            free_dims++;
            last_free = i;
        } else if (__builtin_mul_overflow(fixed, (uint64_t)t->dims[i], &fixed)) {
            return err_set(err, E_INVALID, "%s: too many elements", path);
        }
    }
    shape_text(text, sizeof text, t->rank, t->dims);
    if (free_dims == 2 && t->dims[0] < 0) { /* one row */
        shape[0] = 1;
        free_dims = 1;
    }
    if (free_dims > 1)
        return err_set(err, E_INVALID,
                       "%s: it has no shape; the model takes %s, which leaves more than one choice",
                       path, text);
    if (free_dims == 0 && count == fixed)
        return OK;
    if (free_dims == 0)
        return err_set(err, E_INVALID, "%s: it holds %" PRIu64 " elements; the model takes %s, which are %" PRIu64,
                       path, count, text, fixed);
    if (fixed == 0 || count % fixed != 0)
        return err_set(err, E_INVALID,
                       "%s: it holds %" PRIu64 " elements; the model takes %s, a multiple of %" PRIu64,
                       path, count, text, fixed);
    shape[last_free] = (int64_t)(count / fixed);
    return OK;
}

/* What lists in lists say, as a shape of the model's: a row may stand without its dimension. */
static void nested_shape(const struct signature_tensor *t, uint32_t rank,
                         const int64_t nested[PENSTOCK_RANK_MAX], struct penstock_tensor *out)
{
    out->rank = rank;
    memcpy(out->shape, nested, rank * sizeof nested[0]);
    if (rank + 1 != t->rank || t->dims[0] >= 0)
        return;
    memmove(out->shape + 1, out->shape, rank * sizeof nested[0]);
    out->shape[0] = 1;
    out->rank++;
}

static enum err_code read_shape(const struct penstock_pb_tensor *from,
                                const struct signature_tensor *t, const char *path,
                                uint32_t axis, struct penstock_tensor *out, uint64_t *ret_count,
                                struct err *err)
{
    int64_t nested[PENSTOCK_RANK_MAX];
    uint32_t rank = 0;

    if (from->rank != 0) {
        out->rank = from->rank;
        memcpy(out->shape, from->shape, from->rank * sizeof from->shape[0]);
        for (uint32_t i = 0; i < from->rank; i++)
            if (UNLIKELY(from->shape[i] < 0))
                return err_set(err, E_INVALID,
                               "%s.shape: dimension %u is %" PRId64 "; it must be 0 or more", path, i,
                               from->shape[i]);
        if (UNLIKELY(!shape_count(from->rank, from->shape, ret_count)))
            return err_set(err, E_INVALID, "%s.shape: too many elements", path);
        return OK;
    }
    TRY(penstock_pb_count(from, t->dtype, path, ret_count, &rank, nested, err));
    if (rank != 0) {
        nested_shape(t, rank, nested, out);
        return OK;
    }
    out->rank = t->rank;
    return fill_shape(t, *ret_count, axis, path, out->shape, err);
}

/* -- bytes ---------------------------------------------------------------------------------------- */

/* Makes the bytes of a message stay as long as the arena. */
static enum err_code keep(struct slice *bytes, struct session_memory *memory, struct err *err)
{
    void *copy;

    if (memory->holder != NULL) {
        CLEANUP(buf_unref) struct buf *holder = buf_ref(memory->holder);
        if (!arena_adopt(memory->arena, &holder))
            return no_memory(err);
        memory->stays = true;
        return OK;
    }
    TRY(tensor_memory(&copy, memory->arena, memory->budget, bytes->size, err));
    if (bytes->size != 0)
        memcpy(copy, bytes->data, bytes->size);
    bytes->data = copy;
    return OK;
}

static enum err_code read_values(const struct penstock_pb_tensor *from, enum penstock_dtype dtype,
                                 uint64_t count, const char *path, struct session_memory *memory,
                                 struct slice *ret, struct err *err)
{
    CLEANUP(buf_unref) struct buf *holder = NULL;

    TRY(penstock_pb_values(from, dtype, count, path, memory->arena, memory->budget, ret, &holder,
                           err));
    if (holder != NULL && !arena_adopt(memory->arena, &holder))
        return no_memory(err);
    if (dtype == PENSTOCK_BOOL && from->list == PENSTOCK_PB_RAW && UNLIKELY(!bool_check(*ret)))
        return err_set(err, E_INVALID, "%s.raw: a BOOL byte that is neither 0 nor 1", path);
    if (ret->data == from->values.data && !memory->stays)
        return keep(ret, memory, err);
    return OK;
}

static void set_input(struct penstock_tensor *out, const struct signature_tensor *t,
                      struct slice bytes)
{
    out->name = t->name;
    out->dtype = t->dtype;
    out->data = bytes.data;
    out->size = bytes.size;
    out->place = (struct penstock_place){ PENSTOCK_CPU, 0 };
    out->owner = NULL;
}

/* -- inputs --------------------------------------------------------------------------------------- */

static COLD enum err_code unknown_tensor(const struct signature_tensor *tensors, uint32_t count,
                                         struct slice name, const char *path, const char *verb,
                                         struct err *err)
{
    struct nearest nearest = nearest_to(name);
    const char *only = NULL;
    uint32_t seen = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (tensors[i].is_hidden)
            continue;
        nearest_offer(&nearest, tensors[i].name);
        only = seen++ == 0 ? tensors[i].name : NULL;
    }
    const char *best = nearest_best(&nearest);
    if (best == NULL)
        best = only;
    if (best == NULL)
        return err_set(err, E_INVALID, "%s: the model %s no '%.*s'", path, verb,
                       SLICE_ARG(slice_first(name, NAME_SHOWN)));
    return err_set(err, E_INVALID, "%s: the model %s no '%.*s'; it %s '%s'", path, verb,
                   SLICE_ARG(slice_first(name, NAME_SHOWN)), verb, best);
}

static COLD enum err_code wrong_datatype(const struct signature_tensor *t, struct slice said,
                                         const char *path, struct err *err)
{
    if (dtype_from_name(said) == PENSTOCK_INVALID)
        return err_set(err, E_INVALID,
                       "%s: '%.*s' is not a datatype; the datatypes are BOOL, UINT8, UINT16, "
                       "UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64 and BYTES",
                       path, SLICE_ARG(slice_first(said, 40)));
    return err_set(err, E_INVALID, "%s: it says %.*s; the model takes %s", path,
                   SLICE_ARG(slice_first(said, 40)), dtype_name(t->dtype));
}

static HOT enum err_code read_input(const struct penstock_pb_tensor *from, const char *path,
                                    const struct signature *s, struct penstock_tensor *inputs,
                                    bool *has_input, struct session_memory *memory,
                                    const char **ret_field, struct err *err)
{
    struct slice bytes;
    uint64_t count;
    uint32_t index;
    const struct signature_tensor *t = signature_input(s, from->name, &index);

    if (UNLIKELY(t == NULL)) {
        char name_path[PATH_BYTES + 8];
        snprintf(name_path, sizeof name_path, "%s.name", path);
        unknown_tensor(s->inputs, s->inputs_count, from->name, name_path, "takes", err);
        return at_field(ret_field, memory->arena, err, "%s", name_path);
    }
    if (UNLIKELY(has_input[index])) {
        err_set(err, E_INVALID, "%s.name: input '%s' is given twice", path, t->name);
        return at_field(ret_field, memory->arena, err, "%s.name", path);
    }
    if (UNLIKELY(from->datatype.size != 0 && dtype_from_name(from->datatype) != t->dtype)) {
        char type_path[PATH_BYTES + 16];
        snprintf(type_path, sizeof type_path, "%s.datatype", path);
        wrong_datatype(t, from->datatype, type_path, err);
        return at_field(ret_field, memory->arena, err, "%s", type_path);
    }
    struct penstock_tensor *out = &inputs[index];
    if (UNLIKELY(read_shape(from, t, path, axis_of(s, t, memory->window), out, &count, err) != OK))
        return at_field(ret_field, memory->arena, err, from->rank != 0 ? "%s.shape" : "%s", path);
    if (UNLIKELY(read_values(from, t->dtype, count, path, memory, &bytes, err) != OK))
        return at_field(ret_field, memory->arena, err, "%s", path);
    set_input(out, t, bytes);
    has_input[index] = true;
    return OK;
}

HOT enum err_code session_read_inputs(const struct penstock_pb_request *from, const char *prefix,
                                      const struct signature *signature,
                                      struct penstock_tensor *inputs, bool *has_input,
                                      struct session_memory memory, const char **ret_field,
                                      struct err *err)
{
    char path[PATH_BYTES];

    *ret_field = NULL;
    for (uint32_t i = 0; i < from->inputs_count; i++) {
        snprintf(path, sizeof path, "%sinputs[%u]", prefix, i);
        TRY(read_input(&from->inputs[i], path, signature, inputs, has_input, &memory, ret_field,
                       err));
    }
    return OK;
}

enum err_code session_find_raw(struct slice name, const struct signature *s, uint32_t *ret_index,
                               const char **ret_field, struct err *err)
{
    uint32_t seen = 0;

    *ret_field = "begin.binary_input";
    if (name.size != 0) {
        if (signature_input(s, name, ret_index) != NULL)
            return OK;
        return unknown_tensor(s->inputs, s->inputs_count, name, *ret_field, "takes", err);
    }
    for (uint32_t i = 0; i < s->inputs_count; i++) {
        if (s->inputs[i].is_hidden || s->inputs[i].is_optional || s->inputs[i].is_state ||
            s->inputs[i].is_constant)
            continue;
        *ret_index = i;
        seen++;
    }
    if (seen == 1)
        return OK;
    return err_set(err, E_INVALID,
                   "a binary message holds the elements of one input, and the model takes %u: name it "
                   "in begin.binary_input",
                   seen);
}

enum err_code session_read_raw(struct slice bytes, uint32_t index, const struct signature *s,
                               struct penstock_tensor *inputs, bool *has_input,
                               struct session_memory memory, struct err *err)
{
    const struct signature_tensor *t = &s->inputs[index];
    struct penstock_pb_tensor from = { .list = PENSTOCK_PB_RAW, .values = bytes };
    char path[PATH_BYTES];
    struct slice kept;
    uint64_t count;

    snprintf(path, sizeof path, "binary message of '%.60s'", t->name);
    TRY(read_shape(&from, t, path, axis_of(s, t, memory.window), &inputs[index],
                   &count, err));
    TRY(read_values(&from, t->dtype, count, path, &memory, &kept, err));
    set_input(&inputs[index], t, kept);
    has_input[index] = true;
    return OK;
}

const char *session_field(const struct penstock_pb_request *from, const char *prefix,
                          const struct signature *s, const struct penstock_tensor *inputs,
                          const bool *has_input, struct arena *arena)
{
    for (uint32_t i = 0; i < from->inputs_count; i++) {
        struct err err = { 0 };
        uint32_t index;
        uint64_t count;
        if (signature_input(s, from->inputs[i].name, &index) == NULL || !has_input[index])
            continue;
        const struct penstock_tensor *t = &inputs[index];
        if (signature_check_shape(&s->inputs[index], t->rank, t->shape, &err) != OK ||
            !shape_count(t->rank, t->shape, &count))
            return arena_printf(arena, "%sinputs[%u].shape", prefix, i);
        if (t->dtype != PENSTOCK_BYTES
                ? t->size != count * dtype_size(t->dtype)
                : bytes_check(slice_make(t->data, t->size), count, t->name, &err) != OK)
            return arena_printf(arena, "%sinputs[%u].raw", prefix, i);
    }
    return NULL;
}

/* -- the rest of a request ------------------------------------------------------------------------ */

enum err_code session_read_parameters(struct kserve_pb_parameters from, const char *prefix,
                                      struct arena *arena, struct parameter **ret,
                                      const char **ret_field, struct err *err)
{
    struct parameter *list = NULL;

    for (uint32_t i = from.count; i-- > 0;) {
        struct parameter *p = arena_zalloc(arena, sizeof *p);
        if (p == NULL)
            return no_memory(err);
        if (kserve_parameter_read(p, &from.items[i],
                                  "bool_value, int64_value, double_value and string_value", arena,
                                  err) != OK)
            return at_field(ret_field, arena, err, "%sparameters.%.80s", prefix,
                            p->key != NULL ? p->key : "");
        p->next = list;
        list = p;
    }
    *ret = list;
    return OK;
}

enum err_code session_read_outputs(const struct penstock_pb_request *from, const char *prefix,
                                   const struct signature *s, bool has_state, bool *wants,
                                   struct arena *arena, const char **ret_field, struct err *err)
{
    for (uint32_t i = 0; i < s->outputs_count; i++)
        wants[i] = from->outputs_count == 0 && !s->outputs[i].is_hidden &&
                   (has_state || !s->outputs[i].is_state);
    for (uint32_t i = 0; i < from->outputs_count; i++) {
        char path[PATH_BYTES];
        uint32_t index;
        snprintf(path, sizeof path, "%soutputs[%u]", prefix, i);
        if (signature_output(s, from->outputs[i], &index) == NULL)
            unknown_tensor(s->outputs, s->outputs_count, from->outputs[i], path, "gives", err);
        else if (wants[index])
            err_set(err, E_INVALID, "%s: output '%s' is asked for twice", path,
                    s->outputs[index].name);
        else {
            wants[index] = true;
            continue;
        }
        return at_field(ret_field, arena, err, "%s", path);
    }
    return OK;
}

enum err_code session_read_slow(int32_t when_slow, const char *prefix, struct arena *arena,
                                enum session_merge *ret, const char **ret_field, struct err *err)
{
    switch (when_slow) {
    case PENSTOCK_PB_PAUSE: *ret = SESSION_PAUSE; return OK;
    case PENSTOCK_PB_LATEST: *ret = SESSION_LATEST; return OK;
    case PENSTOCK_PB_CONCAT: *ret = SESSION_CONCAT; return OK;
    default:
        err_set(err, E_INVALID,
                "%swhen_slow is %d; it takes PAUSE (0), LATEST (1) or CONCAT (2)", prefix,
                (int)when_slow);
        return at_field(ret_field, arena, err, "%swhen_slow", prefix);
    }
}

enum err_code session_read_reduce(const struct penstock_pb_request *from, const char *prefix,
                                  const struct signature *s, enum session_reduce otherwise,
                                  struct arena *arena, struct session_settings *settings,
                                  const char **ret_field, struct err *err)
{
    static const enum session_reduce kinds[] = { [PENSTOCK_PB_EACH] = SESSION_EACH,
                                                 [PENSTOCK_PB_STACK] = SESSION_STACK,
                                                 [PENSTOCK_PB_LAST] = SESSION_LAST,
                                                 [PENSTOCK_PB_WINDOW] = SESSION_WINDOW };
    const struct stream_card *card = s->stream;

    if (from->reduce < PENSTOCK_PB_DEFAULT || from->reduce > PENSTOCK_PB_WINDOW) {
        err_set(err, E_INVALID,
                "%sreduce.kind is %d; it takes DEFAULT (0), EACH (1), STACK (2), LAST (3) or WINDOW "
                "(4)",
                prefix, (int)from->reduce);
        return at_field(ret_field, arena, err, "%sreduce.kind", prefix);
    }
    bool is_card = from->reduce == PENSTOCK_PB_DEFAULT;
    if (!is_card)
        settings->reduce = kinds[from->reduce];
    else
        settings->reduce = card != NULL && card->has_reduce ? card->reduce : otherwise;
    if (settings->reduce != SESSION_WINDOW) {
        if (from->window == 0 && from->step == 0 && from->pad == 0)
            return OK;
        err_set(err, E_INVALID, "%sreduce: window, step and pad belong to WINDOW", prefix);
        return at_field(ret_field, arena, err, "%sreduce.kind", prefix);
    }
    bool has_card = card != NULL && card->window != 0;
    settings->window = from->window != 0 || !has_card ? from->window : card->window;
    settings->step = from->step != 0 || from->window != 0 || !has_card ? from->step : card->step;
    settings->pad = from->pad != 0 || from->window != 0 || !has_card ? from->pad : card->pad;
    if (settings->window != 0)
        return OK;
    err_set(err, E_INVALID, "%sreduce.window is 0; it takes how many rows a run has", prefix);
    return at_field(ret_field, arena, err, "%sreduce.window", prefix);
}

/* -- answers -------------------------------------------------------------------------------------- */

struct penstock_pb_describe *session_describe(const struct signature_tensor *tensors,
                                              uint32_t count, struct arena *arena)
{
    struct penstock_pb_describe *list = arena_alloc(arena, MAX(count, 1) * sizeof *list);

    for (uint32_t i = 0; list != NULL && i < count; i++)
        list[i] = (struct penstock_pb_describe){ tensors[i].name, tensors[i].dtype, tensors[i].rank,
                                                 tensors[i].dims };
    return list;
}

HOT uint32_t session_outputs(const struct response *response, struct penstock_pb_output *few)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < response->outputs_count; i++) {
        const struct penstock_tensor *t = &response->outputs[i].tensor;
        if (!response->outputs[i].is_set)
            continue;
        few[count++] = (struct penstock_pb_output){ .index = i,
                                                    .rank = t->rank,
                                                    .shape = t->shape,
                                                    .bytes = slice_make(t->data, t->size),
                                                    .holder = t->owner };
    }
    return count;
}
