/* zipmap.c - SPDX-License-Identifier: Apache-2.0
 *
 * Every field of the model is copied as it is, but for three: the node ZipMap becomes an Identity
 * of the same input and output, the graph output gets a tensor's type, and the default operator set
 * is added where it is missing, because Identity belongs to it.
 */
#include "backend/onnx/zipmap.h"

#include "base/buf.h"
#include "base/pb_text.h"
#include "base/text.h"

enum { IDENTITY_OPSET = 13, ELEMENT_FP32 = 1, LABELS_MAX = 100000, ZIPMAPS_MAX = 64 };

/* clang-format off */
enum { /* field numbers of onnx/onnx.proto */
    MODEL_GRAPH = 7, MODEL_OPSET = 8, OPSET_DOMAIN = 1, OPSET_VERSION = 2,
    GRAPH_NODE = 1, GRAPH_OUTPUT = 12,
    NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_OP = 4, NODE_ATTRIBUTE = 5,
    ATTRIBUTE_NAME = 1, ATTRIBUTE_INTS = 8, ATTRIBUTE_STRINGS = 9,
    VALUE_NAME = 1, VALUE_TYPE = 2, TYPE_TENSOR = 1, TENSOR_ELEMENT = 1, TENSOR_SHAPE = 2,
    SHAPE_DIM = 1, DIM_VALUE = 1,
};
/* clang-format on */

/* One ZipMap that makes a graph output. */
struct zipmap {
    struct slice input, output;
    uint64_t columns; /* its class labels */
};

struct strip {
    struct slice graph;
    struct zipmap zipmaps[ZIPMAPS_MAX];
    size_t count;
    struct text *classes;
    struct err *err;
};

static enum err_code damaged(struct err *err)
{
    return err_set(err, E_INVALID, "the model is damaged");
}

/* -- writing protobuf ------------------------------------------------------------------------- */

/* A message of a few bytes, made in place. */
struct small {
    uint8_t room[64];
    struct text text;
};

static struct text *small_begin(struct small *small)
{
    text_init_fixed(&small->text, small->room, sizeof small->room);
    return &small->text;
}

/* TypeProto of FP32 [any, columns]. */
static void put_tensor_type(struct text *out, uint64_t columns)
{
    struct small dim, shape, tensor, type;

    if (columns > 0)
        pb_text_uint(small_begin(&dim), DIM_VALUE, columns);
    else
        small_begin(&dim);
    pb_text_bytes(small_begin(&shape), SHAPE_DIM, (struct slice){ dim.room, 0 });
    pb_text_bytes(&shape.text, SHAPE_DIM, text_slice(&dim.text));
    pb_text_uint(small_begin(&tensor), TENSOR_ELEMENT, ELEMENT_FP32);
    pb_text_bytes(&tensor.text, TENSOR_SHAPE, text_slice(&shape.text));
    pb_text_bytes(small_begin(&type), TYPE_TENSOR, text_slice(&tensor.text));
    pb_text_bytes(out, VALUE_TYPE, text_slice(&type.text));
}

/* -- reading the graph ------------------------------------------------------------------------ */

static bool is_graph_output(struct slice graph, struct slice name)
{
    struct pb_reader pb = pb_of(graph), value;
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        if (field.number != GRAPH_OUTPUT || field.wire != PB_LEN)
            continue;
        for (value = pb_of(field.bytes); pb_next(&value, &field);) {
            if (field.number == VALUE_NAME && field.wire == PB_LEN && slice_eq(field.bytes, name))
                return true;
        }
    }
    return false;
}

/* Class labels of an attribute, after a comma where there are some already: strings, or integers,
 * which may be packed. */
static void read_labels(struct strip *strip, struct zipmap *zipmap, struct slice attribute)
{
    struct pb_reader pb = pb_of(attribute);
    struct pb_field field;
    struct text *classes = strip->classes;
    uint64_t value;

    while (pb_next(&pb, &field) && zipmap->columns < LABELS_MAX) {
        if (field.number == ATTRIBUTE_STRINGS && field.wire == PB_LEN) {
            text_str(classes, zipmap->columns++ > 0 ? "," : "");
            text_json(classes, field.bytes);
        } else if (field.number == ATTRIBUTE_INTS && field.wire == PB_VARINT) {
            text_str(classes, zipmap->columns++ > 0 ? "," : "");
            text_i64(classes, (int64_t)field.value);
        } else if (field.number == ATTRIBUTE_INTS && field.wire == PB_LEN) {
            struct pb_reader packed = pb_of(field.bytes);
            while (zipmap->columns < LABELS_MAX && pb_varint(&packed, &value)) {
                text_str(classes, zipmap->columns++ > 0 ? "," : "");
                text_i64(classes, (int64_t)value);
            }
        }
    }
}

static bool read_node(struct slice node, struct zipmap *ret)
{
    struct pb_reader pb = pb_of(node);
    struct pb_field field;
    struct slice op = { 0 };

    *ret = (struct zipmap){ 0 };
    while (pb_next(&pb, &field)) {
        if (field.wire != PB_LEN)
            continue;
        if (field.number == NODE_OP)
            op = field.bytes;
        else if (field.number == NODE_INPUT)
            ret->input = field.bytes;
        else if (field.number == NODE_OUTPUT)
            ret->output = field.bytes;
    }
    return slice_is(op, "ZipMap") && ret->input.size > 0 && ret->output.size > 0;
}

/* Notes a node if it is a ZipMap that makes a graph output. */
static void collect(struct strip *strip, struct slice node)
{
    struct pb_reader pb = pb_of(node);
    struct pb_field field;
    struct zipmap zipmap;

    if (strip->count == ZIPMAPS_MAX || !read_node(node, &zipmap) ||
        !is_graph_output(strip->graph, zipmap.output))
        return;
    text_byte(strip->classes, strip->classes->size > 0 ? ',' : '{');
    text_json(strip->classes, zipmap.output);
    text_str(strip->classes, ":[");
    while (pb_next(&pb, &field)) {
        if (field.number == NODE_ATTRIBUTE && field.wire == PB_LEN)
            read_labels(strip, &zipmap, field.bytes);
    }
    text_byte(strip->classes, ']');
    strip->zipmaps[strip->count++] = zipmap;
}

static const struct zipmap *find(const struct strip *strip, struct slice output)
{
    for (size_t i = 0; i < strip->count; i++) {
        if (slice_eq(strip->zipmaps[i].output, output))
            return &strip->zipmaps[i];
    }
    return NULL;
}

/* -- the new graph ---------------------------------------------------------------------------- */

/* Puts a message that has been written apart. */
static void put_text(struct text *out, uint32_t number, struct text *message)
{
    pb_text_bytes(out, number, text_slice(message));
    out->has_failed = out->has_failed || text_failed(message);
    text_deinit(message);
}

static void put_node(struct strip *strip, struct text *out, struct slice node)
{
    struct zipmap zipmap;
    struct text identity;

    if (!read_node(node, &zipmap) || find(strip, zipmap.output) == NULL) {
        pb_text_bytes(out, GRAPH_NODE, node);
        return;
    }
    text_init(&identity, SIZE_MAX);
    pb_text_bytes(&identity, NODE_INPUT, zipmap.input);
    pb_text_bytes(&identity, NODE_OUTPUT, zipmap.output);
    pb_text_bytes(&identity, NODE_OP, slice_of("Identity"));
    put_text(out, GRAPH_NODE, &identity);
}

static void put_output(struct strip *strip, struct text *out, struct slice value_info)
{
    struct slice name = { 0 };
    struct pb_reader pb = pb_of(value_info);
    struct pb_field field;
    struct text value;

    while (pb_next(&pb, &field)) {
        if (field.number == VALUE_NAME && field.wire == PB_LEN)
            name = field.bytes;
    }
    const struct zipmap *zipmap = find(strip, name);
    if (zipmap == NULL) {
        pb_text_bytes(out, GRAPH_OUTPUT, value_info);
        return;
    }
    text_init(&value, SIZE_MAX);
    pb_text_bytes(&value, VALUE_NAME, name);
    put_tensor_type(&value, zipmap->columns);
    put_text(out, GRAPH_OUTPUT, &value);
}

/* A field as it was. */
static void put_field(struct text *out, const struct pb_field *field)
{
    if (field->wire == PB_LEN) {
        pb_text_bytes(out, field->number, field->bytes);
    } else if (field->wire == PB_VARINT) {
        pb_text_uint(out, field->number, field->value);
    } else {
        pb_text_varint(out, (uint64_t)field->number << 3 | field->wire);
        for (int i = 0; i < (field->wire == PB_I64 ? 8 : 4); i++)
            text_byte(out, (uint8_t)(field->value >> 8 * i));
    }
}

static enum err_code put_graph(struct strip *strip, struct text *out)
{
    struct pb_reader pb = pb_of(strip->graph);
    struct pb_field field;

    while (pb_next(&pb, &field)) {
        if (field.number == GRAPH_NODE && field.wire == PB_LEN)
            collect(strip, field.bytes);
    }
    for (pb = pb_of(strip->graph); pb_next(&pb, &field);) {
        if (field.number == GRAPH_NODE && field.wire == PB_LEN)
            put_node(strip, out, field.bytes);
        else if (field.number == GRAPH_OUTPUT && field.wire == PB_LEN)
            put_output(strip, out, field.bytes);
        else
            put_field(out, &field);
    }
    return pb_failed(&pb) ? damaged(strip->err) : OK;
}

static bool is_default_opset(struct slice opset)
{
    struct pb_reader pb = pb_of(opset);
    struct pb_field field;
    struct slice domain = { 0 };

    while (pb_next(&pb, &field)) {
        if (field.number == OPSET_DOMAIN && field.wire == PB_LEN)
            domain = field.bytes;
    }
    return domain.size == 0 || slice_is(domain, "ai.onnx");
}

static enum err_code put_model(struct strip *strip, struct text *out, struct slice model)
{
    struct pb_reader pb = pb_of(model);
    struct pb_field field;
    bool has_default = false;

    while (pb_next(&pb, &field)) {
        if (field.number == MODEL_OPSET && field.wire == PB_LEN)
            has_default = has_default || is_default_opset(field.bytes);
        if (field.number != MODEL_GRAPH || field.wire != PB_LEN) {
            put_field(out, &field);
            continue;
        }
        struct text graph;
        strip->graph = field.bytes;
        strip->count = 0;
        text_init(&graph, INT32_MAX);
        enum err_code code = put_graph(strip, &graph);
        put_text(out, MODEL_GRAPH, &graph);
        TRY(code);
    }
    if (!has_default) {
        struct small opset;
        pb_text_uint(small_begin(&opset), OPSET_VERSION, IDENTITY_OPSET);
        pb_text_bytes(out, MODEL_OPSET, text_slice(&opset.text));
    }
    return pb_failed(&pb) ? damaged(strip->err) : OK;
}

enum err_code zipmap_strip(struct buf **ret, struct slice model, struct text *classes,
                           struct err *err)
{
    struct strip strip = { .classes = classes, .err = err };
    struct text out;

    text_init(&out, INT32_MAX);
    enum err_code code = put_model(&strip, &out, model);
    if (classes->size > 0)
        text_byte(classes, '}');
    if (code == OK && text_failed(&out))
        code = err_set(err, E_EXHAUSTED, "no memory to rewrite the model without its ZipMap");
    if (code == OK)
        code = text_to_buf(&out, ret, err);
    text_deinit(&out);
    return code;
}
