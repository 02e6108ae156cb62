/* graph.c - a walk over onnx.proto's messages; field numbers are those of onnx/onnx.proto.
 *
 * Everything that may hold a tensor or a node is visited: subgraphs, functions, sparse tensors,
 * training graphs, attributes. A field that occurs twice is visited twice, because a protobuf
 * reader would merge them.
 *
 * Does run time depend on values? Loop, If and Scan run what the values say. Others (Range, Tile
 * ...) make as many elements as one of their inputs says; they are harmless while that input comes
 * from constants or from shapes. So the names whose value is the same for all inputs of the same
 * shapes are collected in node order (`fixed`), and such an operator counts unless what sizes it is
 * among them. Where that is not known (inside functions, nodes out of order) the answer errs on the
 * side of "depends".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/onnx/graph.h"

#include "base/map.h"
#include "base/pb.h"

enum {
    DEPTH_MAX = 64,       /* graphs within graphs */
    NODE_INPUTS_MAX = 16, /* that an operator could be sized by */
};

/* clang-format off */
enum { /* the numbers used, by message */
    MODEL_IR_VERSION = 1, MODEL_GRAPH = 7, MODEL_OPSET = 8, MODEL_TRAINING = 20,
    MODEL_FUNCTION = 25,
    OPSET_DOMAIN = 1, OPSET_VERSION = 2,
    TRAINING_INITIALIZATION = 1, TRAINING_ALGORITHM = 2,
    GRAPH_NODE = 1, GRAPH_INITIALIZER = 5, GRAPH_INPUT = 11, GRAPH_OUTPUT = 12, GRAPH_SPARSE = 15,
    FUNCTION_NODE = 7, FUNCTION_ATTRIBUTE = 11,
    NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_OP = 4, NODE_ATTRIBUTE = 5,
    ATTRIBUTE_TENSOR = 5, ATTRIBUTE_GRAPH = 6, ATTRIBUTE_TENSORS = 10, ATTRIBUTE_GRAPHS = 11,
    ATTRIBUTE_SPARSE = 22, ATTRIBUTE_SPARSES = 23,
    SPARSE_VALUES = 1, SPARSE_INDICES = 2,
    TENSOR_NAME = 8, TENSOR_EXTERNAL = 13,
    ENTRY_KEY = 1, ENTRY_VALUE = 2,
    VALUE_NAME = 1, VALUE_TYPE = 2,
    TYPE_TENSOR = 1, TENSOR_TYPE_SHAPE = 2, SHAPE_DIM = 1, DIM_VALUE = 1,
};
/* clang-format on */

/* Operators that run a body as often as values say, or not at all. */
static const char *const loop_ops[] = {
    "Loop",
    "If",
    "Scan",
    "SequenceMap",
    "BeamSearch",
    "GreedySearch",
    "Sampling",
    "WhisperBeamSearch",
    "NonMaxSuppression",
};

/* Operators whose result is as large as the values of some inputs say; bit i stands for input i. */
static const struct {
    const char *name;
    uint32_t inputs;
} sized_ops[] = {
    { "Range", 7 },
    { "ConstantOfShape", 1 },
    { "Expand", 2 },
    { "Tile", 2 },
    { "Resize", 2 | 4 | 8 },
    { "Upsample", 2 },
    { "Pad", 2 },
    { "OneHot", 2 },
    { "CenterCropPad", 2 },
    { "BlackmanWindow", 1 },
    { "HannWindow", 1 },
    { "HammingWindow", 1 },
    { "DFT", 2 },
    { "STFT", 2 | 8 },
    { "MelWeightMatrix", 1 | 2 },
    { "MaxUnpool", 4 },
    { "AffineGrid", 2 },
    { "Col2Im", 2 | 4 },
};

/* Operators that look over the whole batch at once: dynamic quantisation takes one scale from all
 * rows; the others normalise or count over it. */
static const char *const mixing_ops[] = {
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "Unique",
};

struct scan {
    struct onnx_facts *facts;
    onnx_external_fn *on_external;
    void *context;
    struct err *err;
};

static enum err_code scan_graph(struct scan *scan, struct slice graph, struct map *fixed,
                                unsigned depth);

static enum err_code damaged(const struct scan *scan, const char *where)
{
    return err_set(scan->err, E_INVALID,
                   "the model is damaged: its %s do not read as ONNX; copy it again", where);
}

static bool is_one_of(struct slice op, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (slice_is(op, list[i]))
            return true;
    }
    return false;
}

static void note(char *where, struct slice op)
{
    if (where[0] != '\0')
        return;
    size_t size = MIN(op.size, (size_t)GRAPH_NAME_BYTES - 1);
    memcpy(where, op.data, size);
    where[size] = '\0';
}

static enum err_code scan_entry(struct scan *scan, struct slice entry)
{
    struct pb_reader pb = pb_of(entry);
    struct pb_field field;
    struct slice key = { 0 }, value = { 0 };

    while (pb_next(&pb, &field)) {
        if (field.number == ENTRY_KEY && field.wire == PB_LEN)
            key = field.bytes;
        else if (field.number == ENTRY_VALUE && field.wire == PB_LEN)
            value = field.bytes;
    }
    if (pb_failed(&pb))
        return damaged(scan, "places of external weights");
    if (!slice_is(key, "location"))
        return OK;
    scan->facts->externals_count++;
    return scan->on_external != NULL ? scan->on_external(scan->context, value, scan->err) : OK;
}

/* ret_name may be NULL. */
static enum err_code scan_tensor(struct scan *scan, struct slice tensor, struct slice *ret_name)
{
    struct pb_reader pb = pb_of(tensor);
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        if (field.wire != PB_LEN)
            continue;
        if (field.number == TENSOR_EXTERNAL)
            TRY(scan_entry(scan, field.bytes));
        else if (field.number == TENSOR_NAME && ret_name != NULL)
            *ret_name = field.bytes;
    }
    return pb_failed(&pb) ? damaged(scan, "tensors") : OK;
}

static enum err_code scan_sparse(struct scan *scan, struct slice sparse, struct slice *ret_name)
{
    struct pb_reader pb = pb_of(sparse);
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        if (field.wire != PB_LEN)
            continue;
        if (field.number == SPARSE_VALUES)
            TRY(scan_tensor(scan, field.bytes, ret_name));
        else if (field.number == SPARSE_INDICES)
            TRY(scan_tensor(scan, field.bytes, NULL));
    }
    return pb_failed(&pb) ? damaged(scan, "sparse tensors") : OK;
}

static enum err_code scan_attribute(struct scan *scan, struct slice attribute, unsigned depth)
{
    struct pb_reader pb = pb_of(attribute);
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        if (field.wire != PB_LEN)
            continue;
        switch (field.number) {
        case ATTRIBUTE_TENSOR:
        case ATTRIBUTE_TENSORS: TRY(scan_tensor(scan, field.bytes, NULL)); break;
        case ATTRIBUTE_SPARSE:
        case ATTRIBUTE_SPARSES: TRY(scan_sparse(scan, field.bytes, NULL)); break;
        case ATTRIBUTE_GRAPH:
        case ATTRIBUTE_GRAPHS: TRY(scan_graph(scan, field.bytes, NULL, depth + 1)); break;
        default: break;
        }
    }
    return pb_failed(&pb) ? damaged(scan, "attributes") : OK;
}

static enum err_code add_fixed(struct scan *scan, struct map *fixed, struct slice name)
{
    static char present;

    return name.size == 0 ? OK : map_put(fixed, name, &present, scan->err);
}

static bool is_fixed(const struct map *fixed, struct slice name)
{
    return name.size == 0 || (fixed != NULL && map_get(fixed, name) != NULL);
}

/* `fixed` is NULL where nothing is known of the inputs. */
static enum err_code scan_node(struct scan *scan, struct slice node, struct map *fixed,
                               unsigned depth)
{
    struct pb_reader pb = pb_of(node);
    struct pb_field field;
    struct slice op = { 0 };
    uint32_t inputs_count = 0, varying = 0; /* bit i: input i depends on values */

    scan->facts->nodes_count++;
    while (pb_next(&pb, &field)) {
        if (field.wire != PB_LEN)
            continue;
        if (field.number == NODE_OP) {
            op = field.bytes;
        } else if (field.number == NODE_ATTRIBUTE) {
            TRY(scan_attribute(scan, field.bytes, depth));
        } else if (field.number == NODE_INPUT) {
            if (!is_fixed(fixed, field.bytes))
                varying |= 1u << MIN(inputs_count, NODE_INPUTS_MAX - 1u);
            inputs_count++;
        }
    }
    if (pb_failed(&pb))
        return damaged(scan, "nodes");

    if (is_one_of(op, loop_ops, COUNT(loop_ops)))
        note(scan->facts->value_op, op);
    if (slice_is(op, "ZipMap"))
        scan->facts->zipmaps_count++;
    if (is_one_of(op, mixing_ops, COUNT(mixing_ops)))
        note(scan->facts->mixing_op, op);
    for (size_t i = 0; i < COUNT(sized_ops); i++) {
        if (slice_is(op, sized_ops[i].name) && (sized_ops[i].inputs & varying) != 0)
            note(scan->facts->value_op, op);
    }
    if (fixed == NULL || (varying != 0 && !slice_is(op, "Shape") && !slice_is(op, "Size")))
        return OK;
    if (slice_starts(op, "Random") || slice_is(op, "Multinomial") || slice_is(op, "Bernoulli"))
        return OK;
    for (pb = pb_of(node); pb_next(&pb, &field);) {
        if (field.number == NODE_OUTPUT && field.wire == PB_LEN)
            TRY(add_fixed(scan, fixed, field.bytes));
    }
    return OK;
}

/* The last field of that number: what a protobuf reader keeps. */
static struct slice field_of(struct slice message, uint32_t number)
{
    struct pb_reader pb = pb_of(message);
    struct pb_field field;
    struct slice found = { 0 };

    while (pb_next(&pb, &field)) {
        if (field.number == number && field.wire == PB_LEN)
            found = field.bytes;
    }
    return found;
}

/* Bytes of one row of an input or output, at eight an element. */
static uint64_t row_bytes(struct slice value_info)
{
    struct slice tensor = field_of(field_of(value_info, VALUE_TYPE), TYPE_TENSOR);
    struct slice shape = field_of(tensor, TENSOR_TYPE_SHAPE);
    struct pb_reader pb = pb_of(shape);
    struct pb_field field;
    uint64_t bytes = 8;

    if (tensor.data == NULL) /* a sequence, a map */
        return 0;
    if (shape.data == NULL)
        return UINT64_MAX;
    for (uint32_t d = 0; pb_next(&pb, &field);) {
        if (field.number != SHAPE_DIM || field.wire != PB_LEN)
            continue;
        struct pb_reader dim = pb_of(field.bytes);
        uint64_t size = UINT64_MAX;
        while (pb_next(&dim, &field)) {
            if (field.number == DIM_VALUE && field.wire == PB_VARINT)
                size = field.value;
        }
        if (size == UINT64_MAX && d == 0)
            size = 1;
        if (size == UINT64_MAX || __builtin_mul_overflow(bytes, size, &bytes))
            return UINT64_MAX;
        d++;
    }
    return bytes;
}

static void scan_values(struct scan *scan, struct slice graph)
{
    struct pb_reader pb = pb_of(graph);
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        if (field.wire == PB_LEN && (field.number == GRAPH_INPUT || field.number == GRAPH_OUTPUT))
            scan->facts->row_bytes = MAX(scan->facts->row_bytes, row_bytes(field.bytes));
    }
}

/* Weights first: they follow the nodes in the file. With `fixed` their names are noted, but for
 * those that a caller may replace because they are listed as inputs too. */
static enum err_code scan_weights(struct scan *scan, struct slice graph, struct map *fixed)
{
    struct pb_reader pb = pb_of(graph);
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        struct slice name = { 0 };
        if (field.wire != PB_LEN)
            continue;
        if (field.number == GRAPH_INITIALIZER)
            TRY(scan_tensor(scan, field.bytes, &name));
        else if (field.number == GRAPH_SPARSE)
            TRY(scan_sparse(scan, field.bytes, &name));
        if (fixed != NULL)
            TRY(add_fixed(scan, fixed, name));
    }
    if (pb_failed(&pb))
        return damaged(scan, "graphs");
    for (pb = pb_of(graph); fixed != NULL && pb_next(&pb, &field);) {
        if (field.number == GRAPH_INPUT && field.wire == PB_LEN)
            map_remove(fixed, field_of(field.bytes, VALUE_NAME));
    }
    return OK;
}

static enum err_code scan_graph(struct scan *scan, struct slice graph, struct map *fixed,
                                unsigned depth)
{
    struct pb_reader pb = pb_of(graph);
    struct pb_field field;

    if (depth > DEPTH_MAX)
        return err_set(scan->err, E_INVALID, "the model nests more than %d graphs", DEPTH_MAX);
    TRY(scan_weights(scan, graph, fixed));
    while (pb_next(&pb, &field)) {
        if (field.number == GRAPH_NODE && field.wire == PB_LEN)
            TRY(scan_node(scan, field.bytes, fixed, depth));
    }
    return OK;
}

static enum err_code scan_function(struct scan *scan, struct slice function)
{
    struct pb_reader pb = pb_of(function);
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        if (field.wire != PB_LEN)
            continue;
        if (field.number == FUNCTION_NODE)
            TRY(scan_node(scan, field.bytes, NULL, 0));
        else if (field.number == FUNCTION_ATTRIBUTE)
            TRY(scan_attribute(scan, field.bytes, 0));
    }
    return pb_failed(&pb) ? damaged(scan, "functions") : OK;
}

static enum err_code scan_training(struct scan *scan, struct slice training)
{
    struct pb_reader pb = pb_of(training);
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        if (field.wire == PB_LEN &&
            (field.number == TRAINING_INITIALIZATION || field.number == TRAINING_ALGORITHM))
            TRY(scan_graph(scan, field.bytes, NULL, 1));
    }
    return pb_failed(&pb) ? damaged(scan, "training graphs") : OK;
}

static enum err_code scan_opset(struct scan *scan, struct slice opset)
{
    struct pb_reader pb = pb_of(opset);
    struct pb_field field;
    struct slice domain = { 0 };
    uint64_t version = 0;

    while (pb_next(&pb, &field)) {
        if (field.number == OPSET_DOMAIN && field.wire == PB_LEN)
            domain = field.bytes;
        else if (field.number == OPSET_VERSION && field.wire == PB_VARINT)
            version = field.value;
    }
    if (pb_failed(&pb))
        return damaged(scan, "operator sets");
    if (domain.size == 0 || slice_is(domain, "ai.onnx"))
        scan->facts->opset = (int64_t)version;
    return OK;
}

static enum err_code scan_model(struct scan *scan, struct slice model, struct map *fixed)
{
    struct pb_reader pb = pb_of(model);
    struct pb_field field;
    bool has_graph = false;

    while (pb_next(&pb, &field)) {
        if (field.number == MODEL_IR_VERSION && field.wire == PB_VARINT)
            scan->facts->ir_version = (int64_t)field.value;
        if (field.wire != PB_LEN)
            continue;
        switch (field.number) {
        case MODEL_GRAPH:
            has_graph = true;
            TRY(scan_graph(scan, field.bytes, fixed, 0));
            scan_values(scan, field.bytes);
            break;
        case MODEL_OPSET: TRY(scan_opset(scan, field.bytes)); break;
        case MODEL_TRAINING: TRY(scan_training(scan, field.bytes)); break;
        case MODEL_FUNCTION: TRY(scan_function(scan, field.bytes)); break;
        default: break;
        }
    }
    if (pb_failed(&pb) && scan->facts->ir_version == 0)
        return err_set(scan->err, E_INVALID,
                       "this is not an ONNX model: it does not begin like one");
    if (pb_failed(&pb))
        return err_set(scan->err, E_INVALID,
                       "the model is damaged or cut short: of its %zu bytes the last %zu make no "
                       "sense; copy it again",
                       model.size, model.size - pb_at(&pb));
    if (!has_graph)
        return err_set(scan->err, E_INVALID, "this is not an ONNX model: it holds no graph");
    return OK;
}

enum err_code onnx_graph_scan(struct onnx_facts *ret, struct slice model,
                              onnx_external_fn *on_external, void *context, struct err *err)
{
    struct onnx_facts facts = { 0 };
    struct scan scan = { &facts, on_external, context, err };

    if (model.size == 0)
        return err_set(err, E_INVALID, "the model's file is empty");
    if (slice_starts(model, "version https://git-lfs"))
        return err_set(err, E_INVALID,
                       "this is a Git LFS pointer, not the model itself: run 'git lfs pull'");
    /* A flatbuffer's identifier stands after the offset of its root. */
    if (model.size >= 8 && memcmp(model.data + 4, "ORTM", 4) == 0) {
        facts.is_ort_format = true;
        *ret = facts;
        return OK;
    }
    CLEANUP(map_free) struct map *fixed = map_new();
    if (fixed == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to look through the model");
    TRY(scan_model(&scan, model, fixed));
    *ret = facts;
    return OK;
}
