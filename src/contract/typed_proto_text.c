/* typed_proto_text.c - a typed gRPC contract as a .proto file, with what people know of its fields.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What protoc makes of it is typed_proto_file, byte for byte: fields, types and messages come in
 * the same order here as there.
 */
#include <math.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "codec/number.h"
#include "contract/typed_message.h"
#include "contract/typed_proto.h"
#include "model/dtype.h"

enum { LABELS_SHOWN = 12, COMMENT_COLUMNS = 96, NAMES_BYTES_MAX = 16 << 20 };

struct page {
    struct text *out;
    const struct typed_plan *plan;
    const struct typed_proto *proto;
    struct arena *arena; /* for camel case */
    const char *indent;
};

/* Words into lines of comments. */
static void put_comment(struct page *p, struct slice words)
{
    size_t column = 0;

    while (words.size != 0) {
        size_t blank = 0;
        while (blank < words.size && words.data[blank] <= ' ')
            blank++;
        words = slice_skip(words, blank);
        size_t size = 0;
        while (size < words.size && words.data[size] > ' ')
            size++;
        if (size == 0)
            break;
        if (column == 0 || column + 1 + size > COMMENT_COLUMNS) {
            if (column != 0)
                text_byte(p->out, '\n');
            text_str(p->out, p->indent);
            text_str(p->out, "//");
            column = strlen(p->indent) + 2;
        }
        text_byte(p->out, ' ');
        /* protoc refuses files that are not UTF-8. */
        for (size_t i = 0; i < size; i++) {
            size_t step = utf8_step(slice_make(words.data + i, size - i));
            if (step == 0)
                text_byte(p->out, '?');
            else
                text_put(p->out, words.data + i, step);
            i += step > 1 ? step - 1 : 0;
        }
        column += 1 + size;
        words = slice_skip(words, size);
    }
    if (column != 0)
        text_byte(p->out, '\n');
}

static void put_number(struct text *out, double value)
{
    char digits[NUMBER_TEXT_MAX];

    if (value == floor(value) && fabs(value) < 1e15)
        text_i64(out, (int64_t)value);
    else if (isfinite(value))
        text_put(out, digits, number_write_f64(digits, value));
}

/* Sentences behind one another. */
static void add_sentence(struct text *words, const char *sentence)
{
    if (sentence == NULL || sentence[0] == '\0')
        return;
    if (words->size != 0)
        text_byte(words, ' ');
    text_str(words, sentence);
    if (strchr(".!?:", sentence[strlen(sentence) - 1]) == NULL)
        text_byte(words, '.');
}

static void add_limits(struct text *words, double min, double max, const char *unit)
{
    if (isnan(min) && isnan(max) && unit == NULL)
        return;
    text_str(words, words->size != 0 ? " " : "");
    if (isnan(min) && isnan(max)) {
        text_str(words, "In ");
    } else {
        text_str(words, isnan(max) ? "At least " : isnan(min) ? "At most " : "Between ");
        put_number(words, isnan(min) ? max : min);
        if (!isnan(min) && !isnan(max)) {
            text_str(words, " and ");
            put_number(words, max);
        }
        text_str(words, unit != NULL ? " " : "");
    }
    text_str(words, unit != NULL ? unit : "");
    text_byte(words, '.');
}

static void add_shape(struct text *words, enum message_form form, enum penstock_dtype dtype,
                      uint32_t rank, const int64_t *dims)
{
    text_str(words, words->size != 0 ? " " : "");
    text_str(words, dtype_name(dtype));
    if (form != FORM_ONE) {
        text_str(words, " [");
        for (uint32_t i = 0; i < rank; i++) {
            text_str(words, i == 0 ? "" : ", ");
            if (dims[i] == -1)
                text_str(words, "any");
            else
                text_i64(words, dims[i]);
        }
        text_str(words,
                 rank > 1 && form == FORM_MANY ? "], the last dimension runs fastest." : "].");
    } else {
        text_byte(words, '.');
    }
}

static void add_features(struct text *words, const struct signature_tensor *t)
{
    if (t->features_count == 0)
        return;
    text_str(words, " Of each row:");
    for (uint32_t i = 0; i < MIN(t->features_count, (uint32_t)LABELS_SHOWN); i++) {
        text_str(words, i == 0 ? " " : ", ");
        text_str(words, t->features[i].name);
    }
    if (t->features_count > LABELS_SHOWN)
        text_printf(words, " and %u more", t->features_count - LABELS_SHOWN);
    text_byte(words, '.');
}

static void request_words(struct page *p, const struct message_field *f, struct text *words)
{
    const struct typed_input *in = &p->plan->inputs[f->input];
    const struct signature_tensor *t = in->tensor;

    if (f->feature != TYPED_WHOLE) {
        const struct feature *feature = &t->features[f->feature];
        add_sentence(words, feature->description);
        add_limits(words, feature->min, feature->max,
                   feature->unit != NULL ? feature->unit : t->unit);
        return;
    }
    if (in->has_features)
        add_sentence(words, "All of the features at once, in place of them");
    add_sentence(words, t->description);
    if (t->is_optional)
        add_sentence(words, "Optional");
    if (t->is_state)
        add_sentence(
            words,
            "Optional: streams keep it from run to run, and begin as a call without it does");
    if (t->is_constant)
        add_sentence(words, "Optional: the model has a value for it");
    add_limits(words, t->min, t->max, t->unit);
    if (t->content_type != NULL)
        add_sentence(words, t->content_type);
    add_shape(words, f->form, t->dtype, in->row_rank, in->row_dims);
    add_features(words, t);
}

static void add_labels(struct text *words, const struct typed_item *item)
{
    uint32_t count = MAX(item->labels_count, item->classes_count);

    if (count == 0)
        return;
    text_str(words, words->size != 0 ? " " : "");
    text_str(words, "One of");
    for (uint32_t i = 0; i < MIN(count, (uint32_t)LABELS_SHOWN); i++) {
        text_str(words, i == 0 ? " " : ", ");
        if (item->labels_count != 0)
            text_str(words, item->labels[i]);
        else
            text_i64(words, item->class_numbers[i]);
    }
    if (count > LABELS_SHOWN)
        text_printf(words, " and %u more", count - LABELS_SHOWN);
    text_byte(words, '.');
}

static void response_words(struct page *p, const struct message_field *f, struct text *words)
{
    const struct typed_item *item = &p->plan->items[f->item];
    const struct signature_tensor *t = &p->plan->signature->outputs[item->output];
    uint32_t skip = p->plan->has_batch && t->rank != 0 ? 1 : 0;

    if (item->kind != ITEM_LABEL || item->label != -1)
        add_sentence(words, t->description);
    switch (item->kind) {
    case ITEM_LABEL:
        add_labels(words, item);
        if (words->size == 0)
            add_sentence(words,
                         item->label == -1 ? "The column of the highest score" : "The class");
        return;
    case ITEM_PROBABILITY:
        add_sentence(words, "Of that label, with two digits unless options say otherwise");
        return;
    case ITEM_VALUE: break;
    }
    if (t->is_state)
        add_sentence(words, "What streams keep for the next run; in their answers only where "
                            "options.outputs names it");
    add_limits(words, (double)NAN, (double)NAN, t->unit);
    add_shape(words, f->form, t->dtype, t->rank - skip, t->dims + skip);
    add_features(words, t);
}

static void put_words(struct page *p, const struct message_field *f, bool is_request)
{
    struct text words;

    text_init(&words, NAMES_BYTES_MAX);
    if (is_request)
        request_words(p, f, &words);
    else
        response_words(p, f, &words);
    put_comment(p, text_slice(&words));
    p->out->has_failed |= text_failed(&words);
    text_deinit(&words);
}

/* A string of a .proto: C's escapes. */
static void put_quoted(struct text *out, const char *text)
{
    text_byte(out, '"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            text_byte(out, '\\');
        text_byte(out, (uint8_t)*text);
    }
    text_byte(out, '"');
}

static void put_field(struct page *p, const char *label, const char *type, const char *name,
                      const char *json, uint32_t number)
{
    const char *camel = message_camel(p->arena, name);

    text_printf(p->out, "%s%s%s%s %s = %u", p->indent, label, label[0] != '\0' ? " " : "", type,
                name, number);
    if (camel == NULL)
        p->out->has_failed = true;
    else if (strcmp(camel, json) != 0) {
        text_str(p->out, " [json_name = ");
        put_quoted(p->out, json);
        text_byte(p->out, ']');
    }
    text_str(p->out, ";\n");
}

static void put_fields(struct page *p, const struct message *message, bool is_request,
                       bool has_words)
{
    for (uint32_t i = 0; i < message->count; i++) {
        const struct message_field *f = &message->fields[i];
        if (has_words)
            put_words(p, f, is_request);
        put_field(p,
                  f->form == FORM_ONE    ? "optional"
                  : f->form == FORM_MANY ? "repeated"
                                         : "",
                  f->form == FORM_TENSOR ? message_tensor_name(f->kind)
                                         : message_kind_name(f->kind),
                  f->name, f->json, f->number);
    }
}

static void put_tensors(struct page *p, const struct message *message)
{
    bool needs[KINDS];

    message_tensors(message, needs);
    for (unsigned kind = 0; kind < KINDS; kind++)
        if (needs[kind])
            text_printf(p->out,
                        "\n  message %s {\n    repeated int64 shape = 1;\n"
                        "    // As many as the shape says; the last dimension runs fastest.\n"
                        "    repeated %s values = 2;\n  }\n",
                        message_tensor_name((enum message_kind)kind),
                        message_kind_name((enum message_kind)kind));
}

static void put_request(struct page *p)
{
    text_printf(p->out, "\nmessage %sPredictRequest {\n", p->proto->service);
    put_fields(p, &p->proto->request, true, true);
    put_field(p, "", "Options", p->proto->options_name, p->proto->options_name, NUMBER_OPTIONS);
    if (p->proto->rows_name != NULL) {
        put_comment(p, slice_of(p->plan->has_batch
                                    ? "Many rows in one call, in place of the fields above: the "
                                      "answer has as many."
                                    : "Many rows in one message, in place of the fields above: all "
                                      "of them are one question."));
        put_field(p, "repeated", "Row", p->proto->rows_name, p->proto->rows_name, NUMBER_ROWS);
    }
    put_comment(p, slice_of("Of the methods that take more than one message."));
    put_field(p, "", "Stream", p->proto->asked_name, p->proto->asked_name, NUMBER_STREAM);
    text_str(p->out,
             "\n  message Options {\n"
             "    // How many of the most likely classes to show.\n"
             "    uint32 top = 1;\n"
             "    // Which outputs to give; none: all.\n"
             "    repeated string outputs = 2;\n"
             "    // Floats with so many significant digits, 1 to 17; probabilities have two "
             "behind the\n"
             "    // point otherwise.\n"
             "    uint32 precision = 3;\n"
             "    // Floats as the model gave them, probabilities too.\n"
             "    bool full_precision = 4 [json_name = \"full_precision\"];\n"
             "  }\n");
    if (p->proto->rows_name != NULL) {
        text_str(p->out, "\n  message Row {\n");
        p->indent = "    ";
        put_fields(p, &p->proto->request, true, false);
        p->indent = "  ";
        text_str(p->out, "  }\n");
    }
    text_str(
        p->out,
        "\n  message Stream {\n"
        "    // 0, or which message of the stream this is, 1 for the first: a gap is an error.\n"
        "    uint64 sequence = 1;\n"
        "    // PredictSession: what is being answered stops, what waits is dropped; then the rest "
        "of\n"
        "    // this message, where it has any.\n"
        "    bool interrupt = 2;\n"
        "  }\n");
    put_tensors(p, &p->proto->request);
    text_str(p->out, "}\n");
}

static void put_tops(struct page *p)
{
    for (uint32_t i = 0; i < p->proto->tops_count; i++)
        put_field(p, "repeated", "Class", p->proto->tops[i].name, p->proto->tops[i].name,
                  p->proto->tops[i].number);
}

static void put_response(struct page *p)
{
    text_printf(p->out, "\nmessage %sPredictResponse {\n", p->proto->service);
    put_fields(p, &p->proto->response, false, true);
    if (p->proto->answers_name != NULL) {
        put_comment(p, slice_of("One for each row of the request, where it had rows."));
        put_field(p, "repeated", "Row", p->proto->answers_name, p->proto->answers_name,
                  NUMBER_ROWS);
    }
    if (p->proto->tops_count != 0)
        put_comment(p, slice_of("The most likely classes, the most likely first, where options.top "
                                "asks for them."));
    put_tops(p);
    put_comment(p, slice_of("Of the methods that stream; not in an answer of Predict."));
    put_field(p, "", "Stream", p->proto->said_name, p->proto->said_name, NUMBER_STREAM);
    if (p->proto->tops_count != 0)
        text_printf(p->out,
                    "\n  message Class {\n    optional string label = 1;\n"
                    "    optional %s probability = 2;\n"
                    "    // Of a class that has no name: its column.\n"
                    "    optional uint32 class_index = 3 [json_name = \"class_index\"];\n  }\n",
                    message_kind_name(p->proto->class_kind));
    if (p->proto->answers_name != NULL) {
        text_str(p->out, "\n  message Row {\n");
        p->indent = "    ";
        put_fields(p, &p->proto->response, false, false);
        put_tops(p);
        p->indent = "  ";
        text_str(p->out, "  }\n");
    }
    text_str(
        p->out,
        "\n  message Stream {\n"
        "    // 1 for the first answer.\n"
        "    uint64 sequence = 1;\n"
        "    // PredictSession: number of the input it answers (of a window: that completed it), 1 for\n"
        "    // the first; 0: none, the model speaks first.\n"
        "    uint64 input = 2;\n"
        "    // Answers before it that it took the place of (metadata penstock-when-slow).\n"
        "    uint64 merged = 3;\n"
        "    // PredictSession: that input has no further answer. Of a model that answers any number of\n"
        "    // times it is a message of its own, without outputs.\n"
        "    bool is_last = 4 [json_name = \"is_last\"];\n"
        "    // PredictSession: sequence of the message that interrupted; nothing that was sent before it\n"
        "    // is answered behind this, which has no outputs.\n"
        "    uint64 interrupted = 5;\n"
        "  }\n");
    put_tensors(p, &p->proto->response);
    text_str(p->out, "}\n");
}

void typed_proto_text(struct text *out, const struct typed_plan *plan)
{
    const struct signature *s = plan->signature;
    struct page page = { .out = out, .plan = plan, .proto = typed_proto_of(plan), .indent = "" };

    if (page.proto == NULL) {
        out->has_failed = true;
        return;
    }
    if (page.proto->service == NULL)
        return;
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, NAMES_BYTES_MAX);
    if (arena == NULL) {
        out->has_failed = true;
        return;
    }
    page.arena = arena;
    put_comment(&page, slice_of(s->title != NULL ? s->title : plan->model));
    if (s->description != NULL)
        put_comment(&page, slice_of(s->description));
    text_printf(out,
                "syntax = \"proto3\";\n\npackage " TYPED_PROTO_PACKAGE ";\n\n"
                "option java_multiple_files = true;\n"
                "option go_package = \"penstock/models;models\";\n\n"
                "service %s {\n",
                page.proto->service);
    page.indent = "  ";
    for (size_t i = 0; i < TYPED_METHODS; i++) {
        const struct typed_proto_method *method = &typed_proto_methods[i];
        put_comment(&page, slice_of(method->words));
        text_printf(out, "  rpc %s(%s%sPredictRequest) returns (%s%sPredictResponse);\n",
                    method->name, method->client_streams ? "stream " : "", page.proto->service,
                    method->server_streams ? "stream " : "", page.proto->service);
    }
    text_str(out, "}\n");
    put_request(&page);
    put_response(&page);
}
