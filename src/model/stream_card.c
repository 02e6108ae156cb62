/* stream_card.c - what model.yaml and config.pbtxt say of streams, put into the signature.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Both may name states; each input has one. A state begins as zeros (texts: empty), with 1 for each
 * free dimension. A constant's value is JSON; lists within lists are read as one list of elements in
 * row-major order, which the input's shape must take, one free dimension being found by dividing.
 */
#include <math.h>
#include <string.h>

#include <yyjson.h>

#include "base/arena.h"
#include "model/card.h"
#include "model/config.h"
#include "model/dtype.h"

enum { STATE_BYTES_MAX = 64 << 20, BYTES_ALIGN = 64, LENGTH_BYTES = 4 };

struct maker {
    struct signature *signature;
    struct arena *arena;
    struct stream_card *made;
    struct stream_state *states;
    struct err *err;
};

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the model's streams; retry later");
}

static bool find(const struct signature_tensor *list, uint32_t count, const char *name,
                 uint32_t *ret)
{
    for (*ret = 0; *ret < count; ++*ret)
        if (strcmp(list[*ret].name, name) == 0)
            return true;
    return false;
}

/* -- states ---------------------------------------------------------------------------------------- */

/* Zeros of that shape, free dimensions 1. */
static enum err_code make_initial(struct maker *m, const char *where,
                                  const struct signature_tensor *t, uint32_t rank,
                                  const int64_t *dims, struct penstock_tensor *ret)
{
    uint64_t count;
    size_t one = t->dtype == PENSTOCK_BYTES ? LENGTH_BYTES : dtype_size(t->dtype);
    char shape[160];

    *ret = (struct penstock_tensor){ .name = t->name, .dtype = t->dtype, .rank = rank };
    for (uint32_t i = 0; i < rank; i++)
        ret->shape[i] = dims[i] == -1 ? 1 : dims[i];
    if (!shape_count(rank, ret->shape, &count) || count > STATE_BYTES_MAX / one)
        return err_set(m->err, E_INVALID, "%s: the state '%s' of shape %s has more than %d bytes",
                       where, t->name, shape_text(shape, sizeof shape, rank, ret->shape),
                       STATE_BYTES_MAX);
    ret->size = count * one;
    void *zeros = arena_aligned(m->arena, BYTES_ALIGN, ret->size);
    if (zeros == NULL)
        return no_memory(m->err);
    ret->data = memset(zeros, 0, ret->size);
    return OK;
}

/* `dims` NULL: the input's. */
static enum err_code add_state(struct maker *m, const char *where, const char *input_name,
                               const char *output_name, uint32_t rank, const int64_t *dims)
{
    struct signature *s = m->signature;
    struct stream_state *state = &m->states[m->made->states_count];
    char a[160], b[160];

    if (!find(s->inputs, s->inputs_count, input_name, &state->input))
        return err_set(m->err, E_INVALID, "%s: the model has no input '%s'", where, input_name);
    if (!find(s->outputs, s->outputs_count, output_name, &state->output))
        return err_set(m->err, E_INVALID, "%s: the model has no output '%s'", where, output_name);
    struct signature_tensor *in = &s->inputs[state->input], *out = &s->outputs[state->output];
    if (in->is_state)
        return err_set(m->err, E_INVALID, "%s: '%s' is a state already", where, input_name);
    if (in->dtype != out->dtype)
        return err_set(m->err, E_INVALID,
                       "%s: input '%s' is %s and output '%s' %s: a state is fed as it comes", where,
                       input_name, dtype_name(in->dtype), output_name, dtype_name(out->dtype));
    bool fits = in->rank == out->rank;
    for (uint32_t i = 0; fits && i < in->rank; i++)
        fits = in->dims[i] == -1 || out->dims[i] == -1 || in->dims[i] == out->dims[i];
    if (!fits)
        return err_set(m->err, E_INVALID,
                       "%s: input '%s' has shape %s and output '%s' %s: a state is fed as it comes",
                       where, input_name, shape_text(a, sizeof a, in->rank, in->dims), output_name,
                       shape_text(b, sizeof b, out->rank, out->dims));
    if (dims == NULL)
        TRY(make_initial(m, where, in, in->rank, in->dims, &state->initial));
    else
        TRY(make_initial(m, where, in, rank, dims, &state->initial));
    if (signature_check_shape(in, state->initial.rank, state->initial.shape, m->err) != OK)
        return err_wrap(m->err, "%s", where);
    in->is_state = out->is_state = true;
    m->made->states_count++;
    return OK;
}

static enum err_code add_config_state(struct maker *m, const struct model_config *config,
                                      uint32_t index)
{
    const struct config_state *state = &config->states[index];
    int64_t dims[PENSTOCK_RANK_MAX + 1];
    uint32_t at = 0, input;
    char where[64];

    snprintf(where, sizeof where, "sequence_batching.state[%u]", index);
    if (find(m->signature->inputs, m->signature->inputs_count, state->input, &input) &&
        state->dtype != PENSTOCK_INVALID && m->signature->inputs[input].dtype != state->dtype)
        return err_set(m->err, E_INVALID, "%s: the configuration says %s, the model %s", where,
                       dtype_config_name(state->dtype),
                       dtype_config_name(m->signature->inputs[input].dtype));
    if (config->batch_max > 0)
        dims[at++] = -1;
    for (uint32_t i = 0; i < state->rank; i++)
        dims[at++] = state->dims[i];
    return add_state(m, where, state->input, state->output, at, state->has_dims ? dims : NULL);
}

/* -- constants -------------------------------------------------------------------------------------- */

/* Elements of lists within lists. */
static uint64_t count_elements(yyjson_val *value)
{
    size_t index, count;
    yyjson_val *each;
    uint64_t sum = 0;

    if (!yyjson_is_arr(value))
        return 1;
    yyjson_arr_foreach(value, index, count, each) sum += count_elements(each);
    return sum;
}

static bool put_integer(enum penstock_dtype dtype, yyjson_val *value, uint8_t *to)
{
    static const struct {
        int64_t least;
        uint64_t most;
    } ranges[] = {
        [PENSTOCK_UINT8] = { 0, UINT8_MAX },         [PENSTOCK_UINT16] = { 0, UINT16_MAX },
        [PENSTOCK_UINT32] = { 0, UINT32_MAX },       [PENSTOCK_UINT64] = { 0, UINT64_MAX },
        [PENSTOCK_INT8] = { INT8_MIN, INT8_MAX },    [PENSTOCK_INT16] = { INT16_MIN, INT16_MAX },
        [PENSTOCK_INT32] = { INT32_MIN, INT32_MAX }, [PENSTOCK_INT64] = { INT64_MIN, INT64_MAX },
    };
    uint64_t bits;

    if (yyjson_is_uint(value)) {
        bits = yyjson_get_uint(value);
        if (bits > ranges[dtype].most)
            return false;
    } else if (yyjson_is_sint(value)) {
        if (yyjson_get_sint(value) < ranges[dtype].least)
            return false;
        bits = (uint64_t)yyjson_get_sint(value);
    } else {
        return false;
    }
    memcpy(to, &bits, dtype_size(dtype)); /* little-endian, as everything here */
    return true;
}

/* One element; false: it is not of that type. */
static bool put_element(enum penstock_dtype dtype, yyjson_val *value, uint8_t *to)
{
    double number = yyjson_get_num(value);
    float narrow = (float)number;

    switch (dtype) {
    case PENSTOCK_BOOL: *to = yyjson_get_bool(value); return yyjson_is_bool(value);
    case PENSTOCK_FP32:
        memcpy(to, &narrow, sizeof narrow);
        return yyjson_is_num(value) && isfinite(narrow);
    case PENSTOCK_FP64: memcpy(to, &number, sizeof number); return yyjson_is_num(value);
    case PENSTOCK_UINT8:
    case PENSTOCK_UINT16:
    case PENSTOCK_UINT32:
    case PENSTOCK_UINT64:
    case PENSTOCK_INT8:
    case PENSTOCK_INT16:
    case PENSTOCK_INT32:
    case PENSTOCK_INT64: return put_integer(dtype, value, to);
    case PENSTOCK_INVALID:
    case PENSTOCK_FP16:
    case PENSTOCK_BF16:
    case PENSTOCK_BYTES: break;
    }
    return false;
}

static size_t texts_size(yyjson_val *value)
{
    size_t index, count, size = 0;
    yyjson_val *each;

    if (!yyjson_is_arr(value))
        return LENGTH_BYTES + yyjson_get_len(value);
    yyjson_arr_foreach(value, index, count, each) size += texts_size(each);
    return size;
}

static bool put_elements(enum penstock_dtype dtype, yyjson_val *value, uint8_t **to)
{
    size_t index, count;
    yyjson_val *each;

    if (yyjson_is_arr(value)) {
        yyjson_arr_foreach(value, index, count,
                           each) if (!put_elements(dtype, each, to)) return false;
        return true;
    }
    if (dtype != PENSTOCK_BYTES) {
        if (!put_element(dtype, value, *to))
            return false;
        *to += dtype_size(dtype);
        return true;
    }
    if (!yyjson_is_str(value))
        return false;
    uint32_t length = (uint32_t)yyjson_get_len(value);
    memcpy(*to, &length, sizeof length);
    memcpy(*to + sizeof length, yyjson_get_str(value), length);
    *to += sizeof length + length;
    return true;
}

/* The shape that takes so many elements; one free dimension is what is left. */
static bool find_shape(const struct signature_tensor *t, uint64_t elements, int64_t *shape)
{
    uint64_t fixed = 1;
    int free_at = -1;

    for (uint32_t i = 0; i < t->rank; i++) {
        shape[i] = t->dims[i];
        if (t->dims[i] == -1 && free_at < 0) {
            free_at = (int)i;
        } else {
            if (t->dims[i] == -1)
                shape[i] = 1;
            if (__builtin_mul_overflow(fixed, (uint64_t)shape[i], &fixed))
                return false;
        }
    }
    if (free_at < 0)
        return fixed == elements;
    if (fixed == 0 || elements % fixed != 0)
        return false;
    shape[free_at] = (int64_t)(elements / fixed);
    return true;
}

static enum err_code make_constant(struct maker *m, const struct card_pair *pair,
                                   struct signature_tensor *t, yyjson_val *value,
                                   struct penstock_tensor *ret)
{
    uint64_t elements = count_elements(value);
    char shape[160];

    *ret = (struct penstock_tensor){ .name = t->name, .dtype = t->dtype, .rank = t->rank };
    if (t->dtype == PENSTOCK_FP16 || t->dtype == PENSTOCK_BF16)
        return err_set(m->err, E_UNIMPLEMENTED,
                       "line %d: input '%s' is %s, whose constants are not built yet", pair->line,
                       t->name, dtype_name(t->dtype));
    if (!find_shape(t, elements, ret->shape))
        return err_set(m->err, E_INVALID,
                       "line %d: the constant of '%s' has %llu elements, which its shape %s does "
                       "not take",
                       pair->line, t->name, (unsigned long long)elements,
                       shape_text(shape, sizeof shape, t->rank, t->dims));
    ret->size = t->dtype == PENSTOCK_BYTES ? texts_size(value) : elements * dtype_size(t->dtype);
    uint8_t *bytes = arena_aligned(m->arena, BYTES_ALIGN, ret->size);
    if (bytes == NULL)
        return no_memory(m->err);
    ret->data = bytes;
    if (!put_elements(t->dtype, value, &bytes))
        return err_set(m->err, E_INVALID,
                       "line %d: the constant of '%s' is not %s (or out of its range)", pair->line,
                       t->name, dtype_name(t->dtype));
    return OK;
}

static enum err_code add_constant(struct maker *m, const struct card_pair *pair,
                                  struct stream_constant *ret)
{
    struct signature *s = m->signature;
    enum err_code code;

    if (!find(s->inputs, s->inputs_count, pair->input, &ret->input))
        return err_set(m->err, E_INVALID, "line %d: the model has no input '%s'", pair->line,
                       pair->input);
    struct signature_tensor *t = &s->inputs[ret->input];
    if (t->is_state)
        return err_set(m->err, E_INVALID, "line %d: '%s' is a state, and cannot be constant too",
                       pair->line, pair->input);
    yyjson_doc *doc = yyjson_read(pair->output, strlen(pair->output), 0);
    if (doc == NULL)
        return no_memory(m->err);
    code = make_constant(m, pair, t, yyjson_doc_get_root(doc), &ret->value);
    yyjson_doc_free(doc);
    t->is_constant = code == OK;
    return code;
}

/* -- marks ------------------------------------------------------------------------------------------ */

static enum err_code add_mark(struct maker *m, const struct card_pair *pair,
                              struct stream_mark *ret)
{
    const struct signature *s = m->signature;

    *ret = (struct stream_mark){
        .name = pair->input, .on = pair->on, .off = pair->off, .hold = (uint32_t)pair->hold
    };
    if (!find(s->outputs, s->outputs_count, pair->output, &ret->output))
        return err_set(m->err, E_INVALID, "line %d: the model has no output '%s'", pair->line,
                       pair->output);
    enum penstock_dtype dtype = s->outputs[ret->output].dtype;
    if (dtype != PENSTOCK_FP32 && dtype != PENSTOCK_FP64)
        return err_set(m->err, E_INVALID,
                       "line %d: a mark's score is FP32 or FP64, and output '%s' is %s", pair->line,
                       pair->output, dtype_name(dtype));
    return OK;
}

/* -- all of it ---------------------------------------------------------------------------------------- */

static enum err_code add_card(struct maker *m, const struct card_stream *stream)
{
    struct stream_constant *constants =
        arena_alloc(m->arena, (stream->constants_count + 1u) * sizeof *constants);
    struct stream_mark *marks = arena_alloc(m->arena, (stream->marks_count + 1u) * sizeof *marks);
    char where[32];

    if (constants == NULL || marks == NULL)
        return no_memory(m->err);
    for (uint32_t i = 0; i < stream->states_count; i++) {
        snprintf(where, sizeof where, "line %d", stream->states[i].line);
        TRY(add_state(m, where, stream->states[i].input, stream->states[i].output, 0, NULL));
    }
    for (uint32_t i = 0; i < stream->constants_count; i++)
        TRY(add_constant(m, &stream->constants[i], &constants[i]));
    for (uint32_t i = 0; i < stream->marks_count; i++)
        TRY(add_mark(m, &stream->marks[i], &marks[i]));
    m->made->constants = constants;
    m->made->constants_count = stream->constants_count;
    m->made->marks = marks;
    m->made->marks_count = stream->marks_count;
    m->made->has_reduce = stream->has_reduce;
    m->made->reduce = stream->reduce;
    m->made->window = stream->window;
    m->made->step = stream->step != 0 ? stream->step : stream->window;
    m->made->pad = stream->pad;
    m->made->axis = stream->axis;
    return OK;
}

enum err_code stream_apply(const struct card *card, const struct model_config *config,
                           struct signature *signature, struct arena *arena, struct err *err)
{
    bool has_card = card != NULL && card->stream.is_there;
    uint32_t states = (has_card ? card->stream.states_count : 0) + config->states_count;
    struct maker m = { .signature = signature, .arena = arena, .err = err };

    if (!has_card && config->states_count == 0)
        return OK;
    m.made = arena_zalloc(arena, sizeof *m.made);
    m.states = arena_zalloc(arena, (states + 1u) * sizeof *m.states);
    if (m.made == NULL || m.states == NULL)
        return no_memory(err);
    m.made->axis = -1;
    m.made->states = m.states;
    for (uint32_t i = 0; i < config->states_count; i++)
        TRY(add_config_state(&m, config, i));
    if (has_card && add_card(&m, &card->stream) != OK)
        return err_wrap(err, "model.yaml: stream");
    signature->stream = m.made;
    return OK;
}
