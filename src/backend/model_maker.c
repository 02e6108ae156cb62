/* model_maker.c - SPDX-License-Identifier: Apache-2.0
 *
 * Field numbers are those of onnx/onnx.proto.
 */
#include "backend/model_maker.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/pb_text.h"

enum { CAP = 64 << 20, IR_VERSION = 8 };

static void must(bool is_good)
{
    if (!is_good)
        abort();
}

static void put_string(struct text *out, uint32_t number, const char *text)
{
    pb_text_bytes(out, number, slice_of(text));
}

/* Puts a message that was written apart, and frees it. */
static void put_message(struct text *out, uint32_t number, struct text *message)
{
    must(!text_failed(message));
    pb_text_bytes(out, number, text_slice(message));
    text_deinit(message);
}

static struct text begin(void)
{
    struct text text;

    text_init(&text, CAP);
    return text;
}

/* The next word of a list, NUL-terminated in `out`; false at the end. */
static bool next_word(const char **at, char separator, char *out, size_t out_size)
{
    if (*at == NULL || **at == '\0')
        return false;
    const char *end = strchr(*at, separator);
    size_t size = end != NULL ? (size_t)(end - *at) : strlen(*at);
    must(size < out_size);
    memcpy(out, *at, size);
    out[size] = '\0';
    *at = end != NULL ? end + 1 : *at + size;
    return true;
}

void maker_begin(struct maker *maker)
{
    *maker = (struct maker){ begin(), begin(), 17, 3 };
    put_string(&maker->graph, 2, "g");
}

static void put_shape(struct text *tensor, const char *shape)
{
    struct text message = begin();
    char word[64];

    while (next_word(&shape, ',', word, sizeof word)) {
        struct text dim = begin();
        if (word[0] >= '0' && word[0] <= '9')
            pb_text_uint(&dim, 1, strtoull(word, NULL, 10));
        else if (strcmp(word, "?") != 0)
            put_string(&dim, 2, word);
        put_message(&message, 1, &dim);
    }
    put_message(tensor, 2, &message);
}

static void put_value(struct maker *maker, uint32_t number, const char *name, int element,
                      const char *shape)
{
    struct text value = begin(), type = begin(), tensor = begin();

    pb_text_uint(&tensor, 1, (uint64_t)element);
    if (shape != NULL)
        put_shape(&tensor, shape);
    put_message(&type, 1, &tensor);
    put_string(&value, 1, name);
    put_message(&value, 2, &type);
    put_message(&maker->graph, number, &value);
}

void maker_input(struct maker *maker, const char *name, int type, const char *shape)
{
    put_value(maker, 11, name, type, shape);
}

void maker_output(struct maker *maker, const char *name, int type, const char *shape)
{
    put_value(maker, 12, name, type, shape);
}

void maker_output_maps(struct maker *maker, const char *name)
{
    struct text value = begin(), type = begin(), sequence = begin(), element = begin();
    struct text map = begin(), map_value = begin(), tensor = begin();

    pb_text_uint(&tensor, 1, ONNX_FLOAT);
    put_message(&map_value, 1, &tensor);
    pb_text_uint(&map, 1, ONNX_STRING);
    put_message(&map, 2, &map_value);
    put_message(&element, 5, &map);
    put_message(&sequence, 1, &element);
    put_message(&type, 4, &sequence);
    put_string(&value, 1, name);
    put_message(&value, 2, &type);
    put_message(&maker->graph, 12, &value);
}

static struct text begin_tensor(const char *name, int type, const char *dims)
{
    struct text tensor = begin();
    char word[64];

    while (next_word(&dims, ',', word, sizeof word))
        pb_text_uint(&tensor, 1, strtoull(word, NULL, 10));
    pb_text_uint(&tensor, 2, (uint64_t)type);
    put_string(&tensor, 8, name);
    return tensor;
}

void maker_floats(struct maker *maker, const char *name, const char *dims, const float *values,
                  size_t count)
{
    struct text tensor = begin_tensor(name, ONNX_FLOAT, dims);

    pb_text_bytes(&tensor, 9, slice_make(values, count * sizeof *values));
    put_message(&maker->graph, 5, &tensor);
}

void maker_ints(struct maker *maker, const char *name, const char *dims, const int64_t *values,
                size_t count)
{
    struct text tensor = begin_tensor(name, ONNX_INT64, dims);

    pb_text_bytes(&tensor, 9, slice_make(values, count * sizeof *values));
    put_message(&maker->graph, 5, &tensor);
}

void maker_external(struct maker *maker, const char *name, const char *dims, const char *location)
{
    struct text tensor = begin_tensor(name, ONNX_FLOAT, dims), entry = begin();

    put_string(&entry, 1, "location");
    put_string(&entry, 2, location);
    put_message(&tensor, 13, &entry);
    pb_text_uint(&tensor, 14, 1);
    put_message(&maker->graph, 5, &tensor);
}

static struct text begin_attribute(struct maker_attributes *attributes, const char *name)
{
    struct text attribute = begin();

    if (attributes->bytes.cap == 0)
        attributes->bytes = begin();
    put_string(&attribute, 1, name);
    return attribute;
}

static void end_attribute(struct maker_attributes *attributes, struct text *attribute, int type)
{
    pb_text_uint(attribute, 20, (uint64_t)type);
    put_message(&attributes->bytes, 5, attribute);
}

void maker_attribute_int(struct maker_attributes *attributes, const char *name, int64_t value)
{
    struct text attribute = begin_attribute(attributes, name);

    pb_text_uint(&attribute, 3, (uint64_t)value);
    end_attribute(attributes, &attribute, 2);
}

void maker_attribute_ints(struct maker_attributes *attributes, const char *name,
                          const int64_t *values, size_t count)
{
    struct text attribute = begin_attribute(attributes, name);

    for (size_t i = 0; i < count; i++)
        pb_text_uint(&attribute, 8, (uint64_t)values[i]);
    end_attribute(attributes, &attribute, 7);
}

void maker_attribute_strings(struct maker_attributes *attributes, const char *name,
                             const char *const *values, size_t count)
{
    struct text attribute = begin_attribute(attributes, name);

    for (size_t i = 0; i < count; i++)
        put_string(&attribute, 9, values[i]);
    end_attribute(attributes, &attribute, 8);
}

void maker_attribute_graph(struct maker_attributes *attributes, const char *name,
                           struct maker *body)
{
    struct text attribute = begin_attribute(attributes, name);

    put_message(&attribute, 6, &body->graph);
    text_deinit(&body->functions);
    end_attribute(attributes, &attribute, 5);
}

void maker_node(struct maker *maker, const char *op, const char *domain, const char *inputs,
                const char *outputs, struct maker_attributes *attributes)
{
    struct text node = begin();
    char word[64];

    while (next_word(&inputs, ' ', word, sizeof word))
        put_string(&node, 1, strcmp(word, "-") == 0 ? "" : word);
    while (next_word(&outputs, ' ', word, sizeof word))
        put_string(&node, 2, word);
    put_string(&node, 4, op);
    if (attributes != NULL) {
        text_put(&node, attributes->bytes.data, attributes->bytes.size);
        text_deinit(&attributes->bytes);
        *attributes = (struct maker_attributes){ 0 };
    }
    if (domain != NULL)
        put_string(&node, 7, domain);
    put_message(&maker->graph, 1, &node);
}

static void put_opset(struct text *model, const char *domain, uint32_t version)
{
    struct text opset = begin();

    put_string(&opset, 1, domain);
    pb_text_uint(&opset, 2, version);
    put_message(model, 8, &opset);
}

struct text maker_finish(struct maker *maker)
{
    struct text model = begin();

    pb_text_uint(&model, 1, IR_VERSION);
    put_message(&model, 7, &maker->graph);
    if (maker->opset > 0)
        put_opset(&model, "", maker->opset);
    if (maker->ml_opset > 0)
        put_opset(&model, "ai.onnx.ml", maker->ml_opset);
    text_put(&model, maker->functions.data, maker->functions.size);
    text_deinit(&maker->functions);
    must(!text_failed(&model));
    return model;
}

void maker_write_file(const char *folder, const char *name, const void *data, size_t size)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    must(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0);
}

void maker_save(struct maker *maker, const char *folder, const char *name)
{
    struct text bytes = maker_finish(maker);

    maker_write_file(folder, name, bytes.data, bytes.size);
    text_deinit(&bytes);
}
