/* typed_proto_write.c - outputs as a PredictResponse, by their roles.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What is said is what typed_write.c says: the same labels, the same probabilities, rounded in the
 * same way. Memory for the most that the answer can be is taken once; what is written next is
 * measured before it is written. A row's length is known when the row is written: it is moved to
 * stand right behind it.
 */
#include <math.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/pb.h"
#include "base/utf8.h"
#include "codec/bytes.h"
#include "codec/number.h"
#include "codec/tensor_json.h"
#include "contract/choose.h"
#include "contract/typed_message.h"
#include "contract/typed_proto.h"
#include "contract/typed_views.h"
#include "model/dtype.h"

enum {
    ARENA_ANSWER_MAX = 3072,
    HEAD_BYTES_MAX = 10, /* tag and length */
    ROW_HEAD_ROOM = 12,
    FIELD_BYTES_MAX = 24, /* tag and a number */
    VIEWS_FEW = 8
};

struct writer {
    uint8_t *at, *end;
    const struct typed_plan *plan;
    const struct typed_proto *proto;
    const struct typed_query *query;
    struct typed_view *views; /* by output */
    uint64_t *best;           /* room for top k indexes */
    struct err *err;
};

/* What is behind this has been counted: more is our own mistake, found before it does harm. */
static void need(const struct writer *w, size_t size)
{
    require((size_t)(w->end - w->at) >= size);
}

static bool is_shown(const struct writer *w, uint32_t item)
{
    return (w->query->items == NULL || w->query->items[item]) &&
           w->views[w->plan->items[item].output].tensor != NULL;
}

static const char *output_name(const struct writer *w, const struct message_field *f)
{
    return w->plan->signature->outputs[w->plan->items[f->item].output].name;
}

/* -- numbers ----------------------------------------------------------------------------------- */

static bool is_varint(enum message_kind kind)
{
    return kind != KIND_FLOAT && kind != KIND_DOUBLE;
}

/* As REST shows it, which typed_put_probability says; of floats of 24 bits a hundred times it is
 * exact, so that the nearest whole number is the nearest two digits. */
static double round_probability(enum penstock_dtype dtype, double p)
{
    char text[NUMBER_TEXT_MAX];
    double distance = p < 0.5 ? p : 1 - p;

    if (LIKELY(dtype != PENSTOCK_FP64 && distance >= 0.01))
        return nearbyint(p * 100) / 100;
    number_read_f64(slice_make(text, typed_put_probability(text, p)), &p);
    return p;
}

static double round_digits(enum penstock_dtype dtype, const uint8_t *element, int digits,
                           double value)
{
    struct tensor_json_style style = { .precision = digits };
    uint8_t room[NUMBER_TEXT_MAX + 8];
    struct text text;

    if (!isfinite(value))
        return value;
    text_init_fixed(&text, room, sizeof room);
    tensor_json_write_element(&text, dtype, element, style);
    number_read_f64(text_slice(&text), &value);
    return value;
}

static bool is_float(enum penstock_dtype dtype)
{
    return dtype == PENSTOCK_FP16 || dtype == PENSTOCK_BF16 || dtype == PENSTOCK_FP32 ||
           dtype == PENSTOCK_FP64;
}

static uint64_t float_bits(enum message_kind kind, double value)
{
    uint64_t bits = 0;

    if (kind == KIND_DOUBLE) {
        memcpy(&bits, &value, sizeof value);
    } else {
        float single = (float)value;
        memcpy(&bits, &single, sizeof single);
    }
    return bits;
}

/* A whole number as a varint has it. */
static uint64_t whole_bits(enum penstock_dtype dtype, const uint8_t *element)
{
    uint64_t bits = 0;

    switch (dtype) {
    case PENSTOCK_INT8: return (uint64_t)(int64_t)(int8_t)*element;
    case PENSTOCK_INT16: {
        int16_t value;
        memcpy(&value, element, sizeof value);
        return (uint64_t)(int64_t)value;
    }
    case PENSTOCK_INT32: {
        int32_t value;
        memcpy(&value, element, sizeof value);
        return (uint64_t)(int64_t)value;
    }
    case PENSTOCK_BOOL: return *element != 0;
    default: memcpy(&bits, element, dtype_size(dtype)); return bits;
    }
}

/* Element `index` as the wire has it. */
static uint64_t bits_of(const struct writer *w, enum message_kind kind,
                        const struct typed_view *view, uint64_t index, bool is_probability)
{
    enum penstock_dtype dtype = view->tensor->dtype;
    const uint8_t *element = view->now.data + index * view->element;

    if (!is_float(dtype)) {
        if (is_varint(kind))
            return whole_bits(dtype, element);
        return float_bits(kind, element_f64(dtype, element, 0));
    }
    double value = element_f64(dtype, element, 0), p = typed_probability(value);
    if (is_probability && w->query->precision == TYPED_PRECISION_DEFAULT && p >= 0 && p <= 1)
        value = round_probability(dtype, p);
    else if (w->query->precision > 0)
        value = round_digits(dtype, element, w->query->precision, value);
    return float_bits(kind, value);
}

static size_t size_of_number(enum message_kind kind, uint64_t bits)
{
    return kind == KIND_FLOAT ? 4 : kind == KIND_DOUBLE ? 8 : pb_size_varint(bits);
}

/* A number without its tag. */
static uint8_t *put_bits(uint8_t *at, enum message_kind kind, uint64_t bits)
{
    if (is_varint(kind))
        return pb_put_varint(at, bits);
    memcpy(at, &bits, kind == KIND_FLOAT ? 4 : 8);
    return at + (kind == KIND_FLOAT ? 4 : 8);
}

static void put_number(struct writer *w, uint32_t number, enum message_kind kind, uint64_t bits)
{
    static const enum pb_wire wires[] = { PB_VARINT, PB_I32, PB_I64 };

    need(w, FIELD_BYTES_MAX);
    w->at = pb_put_tag(w->at, number, wires[is_varint(kind) ? 0 : kind == KIND_FLOAT ? 1 : 2]);
    w->at = put_bits(w->at, kind, bits);
}

static void put_text(struct writer *w, uint32_t number, struct slice text)
{
    need(w, text.size + HEAD_BYTES_MAX);
    w->at = pb_put_bytes(w->at, number, text);
}

/* -- values ------------------------------------------------------------------------------------ */

static enum err_code not_text(const struct writer *w, const struct message_field *f)
{
    return err_set(w->err, E_INVALID,
                   "output '%s' of model '%s' is not UTF-8, which a string of protobuf must be; "
                   "leave it out with options.outputs, or ask for raw bytes by "
                   "inference.GRPCInferenceService/ModelInfer",
                   output_name(w, f), w->plan->model);
}

static size_t packed_size(const struct writer *w, enum message_kind kind,
                          const struct typed_view *view)
{
    size_t size = 0;

    if (!is_varint(kind))
        return (size_t)view->count * (kind == KIND_FLOAT ? 4 : 8);
    for (uint64_t i = 0; i < view->count; i++)
        size += pb_size_varint(bits_of(w, kind, view, i, false));
    return size;
}

/* The row's elements under `number`; nothing for no elements. */
static void put_packed(struct writer *w, uint32_t number, enum message_kind kind,
                       const struct typed_view *view, size_t size)
{
    bool is_plain = (kind == KIND_FLOAT && view->tensor->dtype == PENSTOCK_FP32) ||
                    (kind == KIND_DOUBLE && view->tensor->dtype == PENSTOCK_FP64);

    if (view->count == 0)
        return;
    need(w, HEAD_BYTES_MAX + size);
    w->at = pb_put_head(w->at, number, size);
    if (is_plain && w->query->precision <= 0) {
        memcpy(w->at, view->now.data, size);
        w->at += size;
        return;
    }
    for (uint64_t i = 0; i < view->count; i++)
        w->at = put_bits(w->at, kind, bits_of(w, kind, view, i, false));
}

/* The name of a class that the model gave as a number, or the number in digits. */
static struct slice class_text(const struct typed_item *item, const struct typed_view *view,
                               uint64_t at, uint8_t room[NUMBER_TEXT_MAX + 8])
{
    struct tensor_json_style style = { .nonfinite = JSON_NONFINITE_WORDS };
    uint32_t column;
    struct text text;

    if (typed_column_of(item, element_f64(view->tensor->dtype, view->now.data, at), &column) &&
        column < item->labels_count)
        return slice_of(item->labels[column]);
    text_init_fixed(&text, room, NUMBER_TEXT_MAX + 8);
    tensor_json_write_element(&text, view->tensor->dtype, view->now.data + at * view->element,
                              style);
    return text_slice(&text);
}

/* Strings of the row, one after the other: those of a BYTES tensor, or names of classes. */
struct strings {
    const struct typed_item *item; /* not NULL: of classes */
    const struct typed_view *view;
    struct slice rest;
    uint64_t next;
    uint8_t room[NUMBER_TEXT_MAX + 8];
};

static struct strings strings_of(const struct message_field *f, const struct typed_item *item,
                                 const struct typed_view *view)
{
    bool has_names = item->kind == ITEM_LABEL && view->element != 0 && f->kind == KIND_STRING;

    return (struct strings){ .item = has_names ? item : NULL, .view = view, .rest = view->now };
}

static bool next_string(struct strings *s, struct slice *ret)
{
    if (s->next == s->view->count)
        return false;
    if (s->item != NULL)
        *ret = class_text(s->item, s->view, s->next, s->room);
    else if (!bytes_next(&s->rest, ret))
        return false;
    s->next++;
    return true;
}

static enum err_code put_strings(struct writer *w, uint32_t number, struct strings strings,
                                 const struct message_field *f)
{
    struct slice string;

    while (next_string(&strings, &string)) {
        if (strings.item == NULL && utf8_valid_prefix(string) != string.size)
            return not_text(w, f);
        put_text(w, number, string);
    }
    return OK;
}

static size_t strings_size(uint32_t number, struct strings strings)
{
    struct slice string;
    size_t size = 0;

    while (next_string(&strings, &string))
        size += pb_size_len(number, string.size);
    return size;
}

static enum err_code put_tensor(struct writer *w, const struct message_field *f,
                                const struct typed_item *item, const struct typed_view *view)
{
    bool is_text = f->kind == KIND_STRING;
    size_t dims = 0, payload, values;

    for (uint32_t i = 0; i < view->rank; i++)
        dims += pb_size_varint((uint64_t)view->shape[i]);
    payload = is_text ? strings_size(TENSOR_VALUES, strings_of(f, item, view))
                      : packed_size(w, f->kind, view);
    values = is_text || view->count == 0 ? payload : pb_size_len(TENSOR_VALUES, payload);
    size_t size = (view->rank != 0 ? pb_size_len(TENSOR_SHAPE, dims) : 0) + values;
    need(w, 2 * (size_t)HEAD_BYTES_MAX + size);
    w->at = pb_put_head(w->at, f->number, size);
    if (view->rank != 0)
        w->at = pb_put_head(w->at, TENSOR_SHAPE, dims);
    for (uint32_t i = 0; i < view->rank; i++)
        w->at = pb_put_varint(w->at, (uint64_t)view->shape[i]);
    if (is_text)
        return put_strings(w, TENSOR_VALUES, strings_of(f, item, view), f);
    put_packed(w, TENSOR_VALUES, f->kind, view, payload);
    return OK;
}

static COLD enum err_code not_one(const struct writer *w, const struct message_field *f,
                                  const struct typed_view *view)
{
    return err_set(w->err, E_INTERNAL,
                   "output '%s' of model '%s' has %llu values, where its signature says one; call "
                   "it by inference.GRPCInferenceService/ModelInfer",
                   output_name(w, f), w->plan->model, (unsigned long long)view->count);
}

static enum err_code put_one(struct writer *w, const struct message_field *f,
                             const struct typed_item *item, const struct typed_view *view)
{
    if (UNLIKELY(view->count != 1))
        return not_one(w, f, view);
    if (f->kind == KIND_STRING)
        return put_strings(w, f->number, strings_of(f, item, view), f);
    uint64_t bits = bits_of(w, f->kind, view, 0, false);
    if (UNLIKELY(f->kind == KIND_INT32 && (int64_t)bits != (int32_t)bits))
        return err_set(w->err, E_INTERNAL,
                       "output '%s' of model '%s' is %lld, which is none of its classes",
                       output_name(w, f), w->plan->model, (long long)bits);
    put_number(w, f->number, f->kind, bits);
    return OK;
}

static enum err_code put_value(struct writer *w, const struct message_field *f,
                               const struct typed_item *item, const struct typed_view *view)
{
    switch (f->form) {
    case FORM_ONE: return put_one(w, f, item, view);
    case FORM_TENSOR: return put_tensor(w, f, item, view);
    case FORM_MANY: break;
    }
    if (f->kind == KIND_STRING)
        return put_strings(w, f->number, strings_of(f, item, view), f);
    put_packed(w, f->number, f->kind, view, packed_size(w, f->kind, view));
    return OK;
}

/* -- classes ----------------------------------------------------------------------------------- */

static struct slice digits_of(int64_t value, char room[24])
{
    return slice_make(room, number_write_i64(room, value));
}

/* The class of a column of scores. */
static void put_class(struct writer *w, const struct message_field *f,
                      const struct typed_item *item, uint64_t columns, uint64_t index)
{
    int64_t number = typed_has_classes(item, columns) && item->class_numbers != NULL &&
                             item->classes_count == columns
                         ? item->class_numbers[index]
                         : (int64_t)index;
    char room[24];

    if (f->kind != KIND_STRING)
        put_number(w, f->number, f->kind, (uint64_t)number);
    else if (item->labels_count >= columns)
        put_text(w, f->number, slice_of(item->labels[index]));
    else
        put_text(w, f->number, digits_of(number, room));
}

static enum err_code put_label(struct writer *w, const struct message_field *f,
                               const struct typed_item *item)
{
    if (item->label == -1) {
        const struct typed_view *scores = &w->views[item->probabilities];
        if (scores->tensor != NULL && scores->count != 0)
            put_class(w, f, item, scores->count, typed_largest(scores));
        return OK;
    }
    const struct typed_view *view = &w->views[item->label];
    if (view->element == 0 && item->labels != item->class_names && view->is_scalar) {
        struct slice bytes = view->now, name;
        uint32_t column;
        if (bytes_next(&bytes, &name) && typed_column_named(item, name, &column) &&
            column < item->labels_count) {
            put_text(w, f->number, slice_of(item->labels[column]));
            return OK;
        }
    }
    return put_value(w, f, item, view);
}

static enum err_code put_item(struct writer *w, const struct message_field *f)
{
    const struct typed_item *item = &w->plan->items[f->item];
    const struct typed_view *view = &w->views[item->output];

    switch (item->kind) {
    case ITEM_LABEL: return put_label(w, f, item);
    case ITEM_PROBABILITY:
        if (view->count != 0)
            put_number(w, f->number, f->kind,
                       bits_of(w, f->kind, view, typed_own_score(w->views, item, view), true));
        return OK;
    case ITEM_VALUE: break;
    }
    return put_value(w, f, item, view);
}

static void put_top(struct writer *w, const struct message_top *top)
{
    const struct typed_item *item = &w->plan->items[top->item];
    const struct typed_view *view = &w->views[top->probabilities];
    enum message_kind kind = w->proto->class_kind;
    uint64_t k = MIN(w->query->top, view->count);
    bool has_names = item->labels_count >= view->count;
    bool has_classes = typed_has_classes(item, view->count);

    choose_largest(view->tensor->dtype, view->now.data, view->count, k, w->best);
    for (uint64_t i = 0; i < k; i++) {
        uint64_t column = w->best[i];
        uint64_t bits = bits_of(w, kind, view, column, true);
        struct slice label = { NULL, 0 };
        char room[24];
        if (has_classes)
            label = has_names ? slice_of(item->labels[column])
                              : digits_of(item->class_numbers[column], room);
        size_t size = pb_size_tag(CLASS_PROBABILITY) + size_of_number(kind, bits);
        size += has_classes ? pb_size_len(CLASS_LABEL, label.size)
                            : pb_size_tag(CLASS_INDEX) + pb_size_varint(column);
        need(w, HEAD_BYTES_MAX + size + FIELD_BYTES_MAX);
        w->at = pb_put_head(w->at, top->number, size);
        if (has_classes)
            put_text(w, CLASS_LABEL, label);
        put_number(w, CLASS_PROBABILITY, kind, bits);
        if (!has_classes)
            w->at = pb_put_uint(w->at, CLASS_INDEX, column);
    }
}

/* -- rows -------------------------------------------------------------------------------------- */

static HOT enum err_code put_row(struct writer *w)
{
    bool has_top = w->query->has_top;

    for (uint32_t i = 0; i < w->proto->response.count; i++) {
        const struct message_field *f = &w->proto->response.fields[i];
        const struct typed_item *item = &w->plan->items[f->item];
        bool is_scored = item->probabilities != -1 && w->views[item->probabilities].tensor != NULL;
        if (is_shown(w, f->item) && !(has_top && is_scored))
            TRY(put_item(w, f));
    }
    for (uint32_t k = 0; has_top && k < w->proto->tops_count; k++) {
        const struct message_top *top = &w->proto->tops[k];
        bool is_asked = false;
        for (uint32_t i = 0; i < w->plan->items_count; i++)
            is_asked |= w->plan->items[i].probabilities == top->probabilities && is_shown(w, i);
        if (is_asked && w->views[top->probabilities].tensor != NULL)
            put_top(w, top);
    }
    return OK;
}

static enum err_code next_rows(struct writer *w)
{
    for (uint32_t i = 0; i < w->plan->signature->outputs_count; i++)
        if (w->views[i].tensor != NULL)
            TRY(typed_view_next(&w->views[i], w->err));
    return OK;
}

static enum err_code put_rows(struct writer *w, uint64_t rows)
{
    for (uint64_t row = 0; row < rows; row++) {
        uint8_t *begin = w->at, *inner;
        TRY(next_rows(w));
        need(w, ROW_HEAD_ROOM);
        w->at = inner = begin + ROW_HEAD_ROOM;
        TRY(put_row(w));
        size_t size = (size_t)(w->at - inner);
        uint8_t *to = pb_put_head(begin, NUMBER_ROWS, size);
        memmove(to, inner, size);
        w->at = to + size;
    }
    return OK;
}

/* -- how much it can be ------------------------------------------------------------------------ */

static size_t element_bound(enum message_kind kind, const struct penstock_tensor *t)
{
    if (t->dtype == PENSTOCK_BYTES)
        return HEAD_BYTES_MAX;
    return kind == KIND_FLOAT ? 4 : kind == KIND_DOUBLE ? 8 : kind == KIND_BOOL ? 1 : PB_VARINT_MAX;
}

static size_t item_bound(const struct message_field *f, const struct typed_item *item,
                         uint64_t rows, const struct penstock_tensor *t)
{
    /* Of each row: head, shape, one number or label. */
    size_t row = 4 * (size_t)HEAD_BYTES_MAX + 10 * (size_t)PENSTOCK_RANK_MAX + FIELD_BYTES_MAX +
                 item->label_bytes_max;
    size_t count = t->dtype == PENSTOCK_BYTES ? t->size / 4 : t->size / dtype_size(t->dtype);
    size_t bound = typed_product((size_t)rows, row);

    if (item->kind == ITEM_PROBABILITY || (item->kind == ITEM_LABEL && item->label == -1))
        return bound;
    if (item->kind == ITEM_LABEL && f->kind == KIND_STRING && t->dtype != PENSTOCK_BYTES)
        return typed_sum(bound, typed_product(count, HEAD_BYTES_MAX + item->label_bytes_max +
                                                         NUMBER_TEXT_MAX));
    bound = typed_sum(bound, typed_product(count, element_bound(f->kind, t)));
    return t->dtype == PENSTOCK_BYTES ? typed_sum(bound, t->size) : bound;
}

static size_t answer_bound(const struct typed_proto *proto, const struct typed_plan *plan,
                           const struct typed_query *query, uint64_t rows, uint64_t top,
                           const struct response_output *outputs)
{
    size_t bound = typed_product((size_t)rows, 2 * (size_t)ROW_HEAD_ROOM);

    for (uint32_t i = 0; i < proto->response.count; i++) {
        const struct message_field *f = &proto->response.fields[i];
        const struct typed_item *item = &plan->items[f->item];
        if (outputs[item->output].is_set && (query->items == NULL || query->items[f->item]))
            bound = typed_sum(bound, item_bound(f, item, rows, &outputs[item->output].tensor));
    }
    for (uint32_t i = 0; query->has_top && i < proto->tops_count; i++) {
        size_t entry = plan->items[proto->tops[i].item].label_bytes_max + 3 * HEAD_BYTES_MAX +
                       2 * FIELD_BYTES_MAX;
        bound = typed_sum(bound, typed_product((size_t)rows, typed_product((size_t)top, entry)));
    }
    return typed_sum(bound, FIELD_BYTES_MAX);
}

/* -- the whole --------------------------------------------------------------------------------- */

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
}

static HOT enum err_code put_answer(struct writer *w, uint64_t rows, bool is_list)
{
    if (is_list)
        return put_rows(w, rows);
    TRY(next_rows(w));
    return put_row(w);
}

/* Views of the outputs that are there. `few` has room for VIEWS_FEW. */
static HOT enum err_code open_views(struct writer *w, struct typed_view *few, uint64_t top,
                                    uint64_t rows, bool is_list,
                                    const struct response_output *outputs, struct arena *arena)
{
    uint32_t count = w->plan->signature->outputs_count;

    w->views = few;
    if (count > VIEWS_FEW)
        w->views = arena_alloc(arena, count * sizeof *w->views);
    if (top != 0)
        w->best = arena_alloc(arena, top * sizeof *w->best);
    if (w->views == NULL || (top != 0 && w->best == NULL))
        return no_memory(w->err);
    for (uint32_t i = 0; i < count; i++) {
        w->views[i].tensor = NULL;
        if (outputs[i].is_set)
            TRY(typed_view_open(&w->views[i], w->plan, i, &outputs[i].tensor, rows, is_list,
                                w->err));
    }
    return OK;
}

HOT enum err_code typed_write_proto(struct slice *ret, struct buf **ret_holder,
                                    const struct typed_plan *plan, const struct typed_query *query,
                                    uint64_t rows, bool is_list,
                                    const struct response_output *outputs, struct arena *arena,
                                    struct budget *budget, struct err *err)
{
    CLEANUP(buf_unref) struct buf *buf = NULL;
    struct typed_view few[VIEWS_FEW];
    uint64_t top = typed_top_room(plan, query, outputs);
    struct writer w = { .plan = plan, .proto = typed_proto_of(plan), .query = query, .err = err };

    if (w.proto == NULL)
        return no_memory(err);
    require(w.proto->service != NULL);
    TRY(open_views(&w, few, top, rows, is_list, outputs, arena));
    size_t bound = answer_bound(w.proto, plan, query, rows, top, outputs);
    if (LIKELY(bound <= ARENA_ANSWER_MAX)) {
        w.at = arena_alloc(arena, bound);
        if (w.at == NULL)
            return no_memory(err);
    } else {
        TRY(buf_new(&buf, budget, bound, err));
        w.at = buf_fill(buf);
    }
    uint8_t *begin = w.at;
    w.end = w.at + bound;
    TRY(put_answer(&w, rows, is_list));
    if (buf != NULL)
        buf_trim(buf, (size_t)(w.at - begin));
    *ret = slice_make(begin, (size_t)(w.at - begin));
    *ret_holder = TAKE(buf);
    return OK;
}

/* -- of a stream ------------------------------------------------------------------------------- */

static const uint32_t said_numbers[] = { SAY_SEQUENCE, SAY_INPUT, SAY_MERGED, SAY_LAST,
                                         SAY_INTERRUPTED };

uint8_t *typed_said_put(uint8_t *at, const struct typed_said *said)
{
    uint8_t inner[TYPED_SAID_BYTES_MAX], *end = inner;
    const uint64_t values[] = { said->sequence, said->input, said->merged, said->is_last,
                                said->interrupted };

    for (size_t i = 0; i < COUNT(values); i++)
        if (values[i] != 0)
            end = pb_put_uint(end, said_numbers[i], values[i]);
    return pb_put_bytes(at, NUMBER_STREAM, slice_make(inner, (size_t)(end - inner)));
}

size_t typed_proto_bound(const struct typed_plan *plan, const struct typed_query *query,
                         uint64_t rows, const struct response_output *outputs)
{
    const struct typed_proto *proto = typed_proto_of(plan);

    return proto == NULL
               ? SIZE_MAX
               : typed_sum(answer_bound(proto, plan, query, rows,
                                        query->has_top ? typed_top_room(plan, query, outputs) : 0,
                                        outputs),
                           TYPED_SAID_BYTES_MAX);
}

HOT enum err_code typed_write_proto_to(uint8_t *at, size_t bound, size_t *ret_size,
                                       const struct typed_plan *plan,
                                       const struct typed_query *query, uint64_t rows, bool is_list,
                                       const struct response_output *outputs,
                                       const struct typed_said *said, struct arena *arena,
                                       struct err *err)
{
    struct typed_view few[VIEWS_FEW];
    uint64_t top = query->has_top ? typed_top_room(plan, query, outputs) : 0;
    struct writer w = { .at = at,
                        .end = at + bound,
                        .plan = plan,
                        .proto = typed_proto_of(plan),
                        .query = query,
                        .err = err };

    if (w.proto == NULL)
        return no_memory(err);
    TRY(open_views(&w, few, top, rows, is_list, outputs, arena));
    TRY(put_answer(&w, rows, is_list));
    if (LIKELY(said != NULL)) {
        need(&w, TYPED_SAID_BYTES_MAX);
        w.at = typed_said_put(w.at, said);
    }
    *ret_size = (size_t)(w.at - at);
    return OK;
}
