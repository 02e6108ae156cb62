/* typed_describe.c - a model's fields in words a program can read.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "codec/number.h"
#include "contract/typed.h"
#include "contract/typed_proto.h"
#include "model/dtype.h"

static void put_string(struct text *out, const char *key, const char *value)
{
    if (value == NULL)
        return;
    text_str(out, key);
    text_json(out, slice_of(value));
}

static void put_number(struct text *out, const char *key, double value)
{
    char digits[NUMBER_TEXT_MAX];

    if (!isfinite(value))
        return;
    text_str(out, key);
    if (value == floor(value) && fabs(value) < 1e15)
        text_i64(out, (int64_t)value);
    else
        text_put(out, digits, number_write_f64(digits, value));
}

static void put_dims(struct text *out, uint32_t rank, const int64_t *dims)
{
    text_byte(out, '[');
    for (uint32_t i = 0; i < rank; i++) {
        if (i != 0)
            text_byte(out, ',');
        text_i64(out, dims[i]);
    }
    text_byte(out, ']');
}

/* Of the protobuf field; nothing where there is no contract. */
static void put_field_number(struct text *out, uint32_t number)
{
    if (number != 0)
        text_printf(out, ",\"number\":%u", number);
}

static void put_feature(struct text *out, const struct feature *f, uint32_t number)
{
    text_str(out, "{\"name\":");
    text_json(out, slice_of(f->name));
    put_string(out, ",\"unit\":", f->unit);
    put_string(out, ",\"description\":", f->description);
    put_number(out, ",\"min\":", f->min);
    put_number(out, ",\"max\":", f->max);
    put_number(out, ",\"example\":", f->example);
    put_field_number(out, number);
    text_byte(out, '}');
}

static const char *type_of(enum penstock_dtype dtype)
{
    switch (dtype) {
    case PENSTOCK_BYTES: return "string";
    case PENSTOCK_BOOL: return "boolean";
    case PENSTOCK_FP16:
    case PENSTOCK_BF16:
    case PENSTOCK_FP32:
    case PENSTOCK_FP64: return "number";
    default: return "integer";
    }
}

static void put_tensor(struct text *out, const struct signature_tensor *t, const char *name)
{
    text_str(out, "{\"name\":");
    text_json(out, slice_of(name));
    text_str(out, ",\"tensor\":");
    text_json(out, slice_of(t->name));
    text_printf(out, ",\"type\":\"%s\",\"datatype\":\"%s\",\"shape\":", type_of(t->dtype),
                dtype_name(t->dtype));
    put_dims(out, t->rank, t->dims);
    put_string(out, ",\"unit\":", t->unit);
    put_string(out, ",\"description\":", t->description);
    put_number(out, ",\"min\":", t->min);
    put_number(out, ",\"max\":", t->max);
}

static void put_input(struct text *out, const struct typed_plan *plan, uint32_t input)
{
    const struct typed_input *in = &plan->inputs[input];
    const struct signature_tensor *t = in->tensor;

    put_tensor(out, t, in->title);
    if (t->is_optional || t->is_state || t->is_constant)
        text_str(out, ",\"optional\":true");
    put_string(out, ",\"content_type\":", t->content_type);
    if (t->features_count != 0) {
        text_str(out, ",\"features\":[");
        for (uint32_t i = 0; i < t->features_count; i++) {
            if (i != 0)
                text_byte(out, ',');
            put_feature(out, &t->features[i], typed_proto_input_number(plan, input, i));
        }
        text_byte(out, ']');
    }
    if (t->example_json != NULL) {
        text_str(out, ",\"example\":");
        text_str(out, t->example_json);
    }
    put_field_number(out, typed_proto_input_number(plan, input, TYPED_WHOLE));
    text_byte(out, '}');
}

static void put_item(struct text *out, const struct typed_plan *plan, const struct typed_item *item)
{
    static const char *const roles[] = {
        [ITEM_LABEL] = "label", [ITEM_PROBABILITY] = "probability", [ITEM_VALUE] = "value"
    };

    put_tensor(out, &plan->signature->outputs[item->output], item->name);
    text_printf(out, ",\"role\":\"%s\"", roles[item->kind]);
    if (item->kind == ITEM_LABEL && item->labels_count != 0) {
        text_str(out, ",\"labels\":[");
        for (uint32_t i = 0; i < item->labels_count; i++) {
            if (i != 0)
                text_byte(out, ',');
            text_json(out, slice_of(item->labels[i]));
        }
        text_byte(out, ']');
    } else if (item->kind == ITEM_LABEL && item->class_numbers != NULL) {
        text_str(out, ",\"labels\":[");
        for (uint32_t i = 0; i < item->classes_count; i++) {
            if (i != 0)
                text_byte(out, ',');
            text_i64(out, item->class_numbers[i]);
        }
        text_byte(out, ']');
    }
    put_field_number(out, typed_proto_item_number(plan, (uint32_t)(item - plan->items)));
    text_byte(out, '}');
}

/* Which other methods there are, and what of them is a stream. */
static void put_streams(struct text *out)
{
    static const char *const what[] = { "\"answers\"", "\"requests\"", "\"both\"" };

    text_str(out, ",\"streams\":{");
    for (unsigned i = TYPED_PREDICT_STREAM; i < TYPED_METHODS; i++) {
        text_str(out, i == TYPED_PREDICT_STREAM ? "\"" : ",\"");
        text_str(out, typed_proto_methods[i].name);
        text_str(out, "\":");
        text_str(out, what[i - TYPED_PREDICT_STREAM]);
    }
    text_byte(out, '}');
}

static void put_grpc(struct text *out, const struct typed_plan *plan)
{
    const char *service = typed_proto_service(plan);

    text_str(out, ",\"grpc\":{");
    if (service[0] == '\0') {
        put_string(out, "\"why\":", typed_proto_why(plan));
    } else {
        put_string(out, "\"service\":", service);
        text_str(out, ",\"method\":\"Predict\"");
        put_string(out, ",\"file\":", typed_proto_file_name(plan));
        put_streams(out);
    }
    text_byte(out, '}');
}

static void put_card(struct text *out, const struct signature *s)
{
    static const char *const reduces[] = { [SESSION_EACH] = "each",
                                           [SESSION_STACK] = "stack",
                                           [SESSION_LAST] = "last",
                                           [SESSION_WINDOW] = "window" };
    const struct stream_card *card = s->stream;

    if (card->has_reduce)
        text_printf(out, ",\"reduce\":\"%s\"", reduces[card->reduce]);
    if (card->has_reduce && card->reduce == SESSION_WINDOW)
        text_printf(out, ",\"window\":%llu,\"step\":%llu,\"pad\":%llu",
                    (unsigned long long)card->window, (unsigned long long)card->step,
                    (unsigned long long)card->pad);
    for (uint32_t i = 0; i < card->states_count; i++) {
        text_str(out, i == 0 ? ",\"state\":[" : ",");
        text_json(out, slice_of(s->inputs[card->states[i].input].name));
        text_str(out, i + 1 == card->states_count ? "]" : "");
    }
    for (uint32_t i = 0; i < card->constants_count; i++) {
        text_str(out, i == 0 ? ",\"constants\":[" : ",");
        text_json(out, slice_of(s->inputs[card->constants[i].input].name));
        text_str(out, i + 1 == card->constants_count ? "]" : "");
    }
    for (uint32_t i = 0; i < card->marks_count; i++) {
        text_str(out, i == 0 ? ",\"marks\":[" : ",");
        text_json(out, slice_of(card->marks[i].name));
        text_str(out, i + 1 == card->marks_count ? "]" : "");
    }
}

/* How it takes streams, where there is something to say of it. */
static void put_stream(struct text *out, const struct typed_plan *plan)
{
    if (!plan->answers_many && !plan->takes_stream && plan->signature->stream == NULL)
        return;
    text_printf(out, ",\"streams\":{\"answers\":\"%s\"%s", plan->answers_many ? "many" : "one",
                plan->takes_stream ? ",\"takes_stream\":true" : "");
    if (plan->signature->stream != NULL)
        put_card(out, plan->signature);
    text_byte(out, '}');
}

void typed_describe(struct text *out, const struct typed_plan *plan)
{
    const struct signature *s = plan->signature;

    put_string(out, "\"title\":", s->title != NULL ? s->title : plan->model);
    put_string(out, ",\"description\":", s->description);
    put_string(out, ",\"license\":", s->license);
    text_str(out, ",\"batch\":");
    text_str(out, plan->has_batch ? "true" : "false");
    if (s->batch_max != 0)
        text_printf(out, ",\"batch_max\":%u", s->batch_max);
    text_str(out, ",\"inputs\":[");
    bool is_first = true;
    for (uint32_t i = 0; i < plan->inputs_count; i++) {
        if (plan->inputs[i].tensor->is_hidden)
            continue;
        if (!is_first)
            text_byte(out, ',');
        is_first = false;
        put_input(out, plan, i);
    }
    text_str(out, "],\"outputs\":[");
    for (uint32_t i = 0; i < plan->items_count; i++) {
        if (i != 0)
            text_byte(out, ',');
        put_item(out, plan, &plan->items[i]);
    }
    text_byte(out, ']');
    put_stream(out, plan);
    put_grpc(out, plan);
    if (plan->example != NULL) {
        text_str(out, ",\"example\":");
        text_str(out, plan->example);
    }
}
