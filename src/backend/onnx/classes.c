/* classes.c - from a graph output back to the node that knows the classes.
 *
 * Converters put a few nodes between the two that change neither the order of columns nor which
 * class a label is; those are stepped over, at most STEPS_MAX of them. A node is found by walking
 * the graph's nodes, which for eight outputs and eight steps is quicker than any index.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/onnx/classes.h"

#include "base/arena.h"
#include "base/pb.h"
#include "base/utf8.h"

enum { STEPS_MAX = 8 };

/* clang-format off */
enum { /* field numbers of onnx/onnx.proto */
    MODEL_GRAPH = 7,
    GRAPH_NODE = 1, GRAPH_INITIALIZER = 5, GRAPH_INPUT = 11, GRAPH_OUTPUT = 12,
    NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_OP = 4, NODE_ATTRIBUTE = 5,
    ATTRIBUTE_NAME = 1, ATTRIBUTE_FLOATS = 7, ATTRIBUTE_INTS = 8, ATTRIBUTE_STRINGS = 9,
    TENSOR_TYPE = 2, TENSOR_INT32S = 5, TENSOR_STRINGS = 6, TENSOR_INT64S = 7, TENSOR_NAME = 8,
    TENSOR_RAW = 9,
    VALUE_NAME = 1,
    ELEMENT_INT32 = 6, ELEMENT_INT64 = 7,
};
/* clang-format on */

/* Their output is their first input, as far as classes go: labels and columns stay in order. */
static const char *const steps[] = { "Identity", "Cast",    "Normalizer", "Reshape",
                                     "Squeeze",  "Flatten", "Softmax" };

struct node {
    struct slice whole, op, input; /* the first input */
    uint32_t output_at;            /* which of its outputs was asked for */
};

struct search {
    struct slice graph;
    struct arena *arena;
    struct err *err;
};

static enum err_code no_memory(struct search *search)
{
    return err_set(search->err, E_EXHAUSTED, "no memory for the names of the model's classes");
}

/* -- lists -------------------------------------------------------------------------------------- */

/* Repeated integers, packed or not; out NULL counts. At most CLASSES_MAX + 1 are counted. */
static uint32_t read_ints(struct slice message, uint32_t number, int64_t *out)
{
    struct pb_reader pb = pb_of(message);
    struct pb_field field;
    uint32_t count = 0;

    while (pb_next(&pb, &field) && count <= CLASSES_MAX) {
        if (field.number != number)
            continue;
        struct pb_reader packed = pb_of(field.wire == PB_LEN ? field.bytes : slice_make(NULL, 0));
        if (field.wire == PB_VARINT) {
            if (out != NULL)
                out[count] = (int64_t)field.value;
            count++;
        }
        for (uint64_t value; count <= CLASSES_MAX && pb_varint(&packed, &value); count++)
            if (out != NULL)
                out[count] = (int64_t)value;
    }
    return count;
}

static uint32_t count_strings(struct slice message, uint32_t number)
{
    struct pb_reader pb = pb_of(message);
    struct pb_field field;
    uint32_t count = 0;

    while (pb_next(&pb, &field) && count <= CLASSES_MAX)
        count += field.number == number && field.wire == PB_LEN;
    return count;
}

static enum err_code take_ints(struct search *search, struct slice message, uint32_t number,
                               struct onnx_classes *ret)
{
    uint32_t count = read_ints(message, number, NULL);

    if (count == 0 || count > CLASSES_MAX)
        return OK;
    int64_t *numbers = arena_alloc(search->arena, count * sizeof *numbers);
    if (numbers == NULL)
        return no_memory(search);
    read_ints(message, number, numbers);
    ret->numbers = numbers;
    ret->count = count;
    return OK;
}

/* All of them, or none where one is no text. */
static enum err_code take_strings(struct search *search, struct slice message, uint32_t number,
                                  struct onnx_classes *ret)
{
    uint32_t count = count_strings(message, number), at = 0;
    struct pb_reader pb = pb_of(message);
    struct pb_field field;

    if (count == 0 || count > CLASSES_MAX)
        return OK;
    const char **names = arena_alloc(search->arena, count * sizeof *names);
    if (names == NULL)
        return no_memory(search);
    while (at < count && pb_next(&pb, &field)) {
        struct slice name = field.bytes;
        if (field.number != number || field.wire != PB_LEN)
            continue;
        if (utf8_valid_prefix(name) != name.size || slice_find(name, 0) != name.size)
            return OK;
        names[at] = arena_strndup(search->arena, name.data, name.size);
        if (names[at] == NULL)
            return no_memory(search);
        at++;
    }
    ret->names = names;
    ret->count = count;
    return OK;
}

/* Elements of a constant of 32- or 64-bit integers that are kept as they lie in memory. */
static enum err_code take_raw(struct search *search, struct slice raw, size_t size,
                              struct onnx_classes *ret)
{
    size_t count = raw.size / size;

    if (count == 0 || count > CLASSES_MAX || raw.size % size != 0)
        return OK;
    int64_t *numbers = arena_alloc(search->arena, count * sizeof *numbers);
    if (numbers == NULL)
        return no_memory(search);
    for (size_t i = 0; i < count; i++) {
        int32_t narrow;
        if (size == sizeof narrow) {
            memcpy(&narrow, raw.data + i * size, size);
            numbers[i] = narrow;
        } else {
            memcpy(&numbers[i], raw.data + i * size, size);
        }
    }
    ret->numbers = numbers;
    ret->count = (uint32_t)count;
    return OK;
}

/* -- the graph ---------------------------------------------------------------------------------- */

/* The last field of that number: what a protobuf reader keeps. */
static struct slice field_of(struct slice message, uint32_t number)
{
    struct pb_reader pb = pb_of(message);
    struct pb_field field;
    struct slice found = { 0 };

    while (pb_next(&pb, &field))
        if (field.number == number && field.wire == PB_LEN)
            found = field.bytes;
    return found;
}

static bool read_node(struct slice bytes, struct slice output, struct node *ret)
{
    struct pb_reader pb = pb_of(bytes);
    struct pb_field field;
    uint32_t outputs = 0;
    bool has_input = false, is_it = false;

    *ret = (struct node){ .whole = bytes };
    while (pb_next(&pb, &field)) {
        if (field.wire != PB_LEN)
            continue;
        if (field.number == NODE_OP) {
            ret->op = field.bytes;
        } else if (field.number == NODE_INPUT && !has_input) {
            ret->input = field.bytes;
            has_input = true;
        } else if (field.number == NODE_OUTPUT) {
            if (!is_it && slice_eq(field.bytes, output)) {
                ret->output_at = outputs;
                is_it = true;
            }
            outputs++;
        }
    }
    return is_it && output.size != 0;
}

static bool find_producer(const struct search *search, struct slice output, struct node *ret)
{
    struct pb_reader pb = pb_of(search->graph);
    struct pb_field field;

    while (pb_next(&pb, &field))
        if (field.number == GRAPH_NODE && field.wire == PB_LEN &&
            read_node(field.bytes, output, ret))
            return true;
    return false;
}

static bool has_attribute(struct slice node, const char *name, uint32_t number)
{
    struct pb_reader pb = pb_of(node), inner;
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        struct slice attribute = field.bytes;
        if (field.number != NODE_ATTRIBUTE || field.wire != PB_LEN ||
            !slice_is(field_of(attribute, ATTRIBUTE_NAME), name))
            continue;
        for (inner = pb_of(attribute); pb_next(&inner, &field);)
            if (field.number == number)
                return true;
    }
    return false;
}

static enum err_code take_attributes(struct search *search, struct slice node,
                                     struct onnx_classes *ret)
{
    struct pb_reader pb = pb_of(node);
    struct pb_field field;

    while (pb_next(&pb, &field) && ret->count == 0) {
        if (field.number != NODE_ATTRIBUTE || field.wire != PB_LEN)
            continue;
        struct slice name = field_of(field.bytes, ATTRIBUTE_NAME);
        if (slice_is(name, "classlabels_ints") || slice_is(name, "classlabels_int64s"))
            TRY(take_ints(search, field.bytes, ATTRIBUTE_INTS, ret));
        else if (slice_is(name, "classlabels_strings"))
            TRY(take_strings(search, field.bytes, ATTRIBUTE_STRINGS, ret));
    }
    return OK;
}

static bool is_graph_input(const struct search *search, struct slice name)
{
    struct pb_reader pb = pb_of(search->graph);
    struct pb_field field;

    while (pb_next(&pb, &field))
        if (field.number == GRAPH_INPUT && field.wire == PB_LEN &&
            slice_eq(field_of(field.bytes, VALUE_NAME), name))
            return true;
    return false;
}

static enum err_code take_tensor(struct search *search, struct slice tensor,
                                 struct onnx_classes *ret)
{
    struct pb_reader pb = pb_of(tensor);
    struct pb_field field;
    struct slice raw = field_of(tensor, TENSOR_RAW);
    uint64_t type = 0;

    while (pb_next(&pb, &field))
        if (field.number == TENSOR_TYPE && field.wire == PB_VARINT)
            type = field.value;
    if (type == ELEMENT_INT64 || type == ELEMENT_INT32) {
        if (raw.size != 0)
            return take_raw(search, raw, type == ELEMENT_INT64 ? 8 : 4, ret);
        return take_ints(search, tensor, type == ELEMENT_INT64 ? TENSOR_INT64S : TENSOR_INT32S,
                         ret);
    }
    return take_strings(search, tensor, TENSOR_STRINGS, ret);
}

/* A constant of that name, that no caller can replace. */
static enum err_code take_constant(struct search *search, struct slice name,
                                   struct onnx_classes *ret)
{
    struct pb_reader pb = pb_of(search->graph);
    struct pb_field field;

    while (pb_next(&pb, &field))
        if (field.number == GRAPH_INITIALIZER && field.wire == PB_LEN &&
            slice_eq(field_of(field.bytes, TENSOR_NAME), name))
            return is_graph_input(search, name) ? OK : take_tensor(search, field.bytes, ret);
    return OK;
}

static bool is_step(struct slice op)
{
    for (size_t i = 0; i < COUNT(steps); i++)
        if (slice_is(op, steps[i]))
            return true;
    return false;
}

static enum err_code find_classes(struct search *search, struct slice output,
                                  struct onnx_classes *ret)
{
    struct node node;

    for (unsigned step = 0; step < STEPS_MAX && find_producer(search, output, &node); step++) {
        if (slice_is(node.op, "LinearClassifier") || slice_is(node.op, "TreeEnsembleClassifier") ||
            slice_is(node.op, "ZipMap"))
            return take_attributes(search, node.whole, ret);
        /* Without probabilities its scores are of pairs of classes. */
        if (slice_is(node.op, "SVMClassifier"))
            return node.output_at == 0 || has_attribute(node.whole, "prob_a", ATTRIBUTE_FLOATS)
                       ? take_attributes(search, node.whole, ret)
                       : OK;
        if (slice_is(node.op, "ArrayFeatureExtractor"))
            return take_constant(search, node.input, ret);
        if (!is_step(node.op))
            return OK;
        output = node.input;
    }
    return OK;
}

static enum err_code find_of_graph(struct search *search,
                                   struct onnx_classes ret[CLASS_OUTPUTS_MAX], uint32_t *ret_count)
{
    struct pb_reader pb = pb_of(search->graph);
    struct pb_field field;
    uint32_t looked_at = 0;

    while (looked_at < CLASS_OUTPUTS_MAX && pb_next(&pb, &field)) {
        struct onnx_classes found = { 0 };
        if (field.number != GRAPH_OUTPUT || field.wire != PB_LEN)
            continue;
        looked_at++;
        struct slice name = field_of(field.bytes, VALUE_NAME);
        TRY(find_classes(search, name, &found));
        if (found.count == 0)
            continue;
        found.output = arena_strndup(search->arena, name.data, name.size);
        if (found.output == NULL)
            return no_memory(search);
        ret[(*ret_count)++] = found;
    }
    return OK;
}

enum err_code onnx_classes_find(struct onnx_classes ret[CLASS_OUTPUTS_MAX], uint32_t *ret_count,
                                struct slice model, struct arena *arena, struct err *err)
{
    struct search search = { .arena = arena, .err = err };

    *ret_count = 0;
    search.graph = field_of(model, MODEL_GRAPH);
    return find_of_graph(&search, ret, ret_count);
}
