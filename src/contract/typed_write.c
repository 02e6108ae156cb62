/* typed_write.c - outputs as people's JSON, by their roles.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A row at a time: the view of each output knows where its row begins (strings have to be walked).
 * An output that is not split by rows although the model has a batch dimension (its first dimension
 * depends on the data) is shown whole when there is one row, and is an error when there are more.
 */
#include <math.h>
#include <stdio.h>

#include "base/arena.h"
#include "codec/bytes.h"
#include "codec/number.h"
#include "codec/tensor_json.h"
#include "contract/choose.h"
#include "contract/typed_views.h"
#include "model/dtype.h"

struct writer {
    struct text *out;
    const struct typed_plan *plan;
    const struct typed_query *query;
    struct typed_view *views; /* by output */
    uint64_t *best;           /* room for top k indexes */
    struct tensor_json_style style;
    struct err *err;
};

static bool is_shown(const struct writer *w, uint32_t item)
{
    return w->query->items == NULL || w->query->items[item];
}

/* -- rows -------------------------------------------------------------------------------------- */

enum err_code typed_view_open(struct typed_view *view, const struct typed_plan *plan,
                              uint32_t output, const struct penstock_tensor *t, uint64_t rows,
                              bool is_list, struct err *err)
{
    const struct signature_tensor *s = &plan->signature->outputs[output];
    uint32_t skip = plan->has_batch && t->rank != 0 && (uint64_t)t->shape[0] == rows ? 1 : 0;

    if (plan->has_batch && skip == 0 && is_list)
        return err_set(err, E_INTERNAL,
                       "output '%s' of model '%s' is not one row for each of the %llu given; call "
                       "it with one row at a time, or by /v2/models/%s/infer",
                       s->name, plan->model, (unsigned long long)rows, plan->model);
    *view = (struct typed_view){
        .tensor = t,
        .rank = t->rank - skip,
        .shape = t->shape + skip,
        .element = dtype_size(t->dtype),
        .is_scalar = !(plan->has_batch && skip == 0) && s->rank == t->rank,
    };
    if (!shape_count(view->rank, view->shape, &view->count))
        return err_set(err, E_INTERNAL, "output '%s' of model '%s' is too large", s->name,
                       plan->model);
    for (uint32_t i = skip; view->is_scalar && i < s->rank; i++)
        view->is_scalar = s->dims[i] == 1;
    view->is_scalar &= view->count == 1;
    view->rest = slice_make(t->data, t->size);
    return OK;
}

enum err_code typed_view_next(struct typed_view *view, struct err *err)
{
    const uint8_t *begin = view->rest.data;

    if (view->element != 0) {
        size_t size = (size_t)view->count * view->element;
        view->now = slice_first(view->rest, size);
        view->rest = slice_skip(view->rest, view->now.size);
        if (view->now.size == size)
            return OK;
    } else {
        uint64_t i = 0;
        struct slice element;
        while (i < view->count && bytes_next(&view->rest, &element))
            i++;
        view->now = slice_make(begin, (size_t)(view->rest.data - begin));
        if (i == view->count)
            return OK;
    }
    return err_set(err, E_INTERNAL, "output '%s' has less data than its shape says",
                   view->tensor->name);
}

/* -- numbers ----------------------------------------------------------------------------------- */

size_t typed_put_probability(char *out, double p)
{
    double distance = p < 0.5 ? p : 1 - p; /* from what it must not be shown as */
    int digits = 2;

    if (distance <= 0)
        return number_write_digits(out, p, 1);
    for (double step = 0.01; distance < step && digits < 17; step /= 10)
        digits++;
    /* `digits` behind the point are as many significant ones, less the leading zeros. */
    for (double leading = 0.1; p < leading && digits > 1; leading /= 10)
        digits--;
    return number_write_digits(out, p, digits);
}

static void put_probability(struct writer *w, enum penstock_dtype dtype, const uint8_t *data,
                            uint64_t index)
{
    const uint8_t *element = data + index * dtype_size(dtype);
    double p = typed_probability(element_f64(dtype, data, index));
    char text[NUMBER_TEXT_MAX];

    if (w->query->precision == TYPED_PRECISION_DEFAULT && p >= 0 && p <= 1)
        text_put(w->out, text, typed_put_probability(text, p));
    else
        tensor_json_write_element(w->out, dtype, element, w->style);
}

static enum err_code put_value(struct writer *w, const struct typed_view *view)
{
    struct penstock_tensor row = { .name = view->tensor->name,
                                   .dtype = view->tensor->dtype,
                                   .rank = view->is_scalar ? 0 : view->rank,
                                   .data = view->now.data,
                                   .size = view->now.size };

    memcpy(row.shape, view->shape, view->rank * sizeof row.shape[0]);
    return tensor_json_write(w->out, &row, w->style, w->err);
}

/* -- classes ----------------------------------------------------------------------------------- */

bool typed_has_classes(const struct typed_item *item, uint64_t columns)
{
    return item->labels_count >= columns ||
           (item->class_numbers != NULL && item->classes_count == columns);
}

static void put_class(struct writer *w, const struct typed_item *item, uint64_t columns,
                      uint64_t index)
{
    if (item->labels_count >= columns)
        text_json(w->out, slice_of(item->labels[index]));
    else if (typed_has_classes(item, columns))
        text_i64(w->out, item->class_numbers[index]);
    else
        text_u64(w->out, index);
}

bool typed_column_of(const struct typed_item *item, double number, uint32_t *ret)
{
    uint32_t count = item->class_numbers != NULL ? item->classes_count : item->labels_count;
    bool is_index = number >= 0 && number < count;

    *ret = is_index ? (uint32_t)number : 0;
    if (item->class_numbers == NULL)
        return is_index;
    if (LIKELY(is_index && (double)item->class_numbers[*ret] == number))
        return true;
    for (*ret = 0; *ret < count; ++*ret)
        if ((double)item->class_numbers[*ret] == number)
            return true;
    return false;
}

bool typed_column_named(const struct typed_item *item, struct slice name, uint32_t *ret)
{
    const char *const *names = item->class_names != NULL ? item->class_names : item->labels;
    uint32_t count = item->class_names != NULL ? item->classes_count : item->labels_count;

    for (*ret = 0; *ret < count; ++*ret)
        if (slice_is(name, names[*ret]))
            return true;
    return false;
}

/* A class as the model gave it: it may be none that has a name. */
static void put_class_number(struct writer *w, const struct typed_item *item,
                             const struct typed_view *view, uint64_t at)
{
    uint32_t column;

    if (typed_column_of(item, element_f64(view->tensor->dtype, view->now.data, at), &column) &&
        column < item->labels_count)
        text_json(w->out, slice_of(item->labels[column]));
    else
        tensor_json_write_element(w->out, view->tensor->dtype, view->now.data + at * view->element,
                                  w->style);
}

uint64_t typed_largest(const struct typed_view *view)
{
    uint64_t best = 0;

    choose_largest(view->tensor->dtype, view->now.data, view->count, MIN(view->count, UINT64_C(1)),
                   &best);
    return best;
}

static enum err_code put_label(struct writer *w, const struct typed_item *item)
{
    if (item->label == -1) {
        const struct typed_view *scores = &w->views[item->probabilities];
        if (scores->tensor == NULL || scores->count == 0)
            text_str(w->out, "null");
        else
            put_class(w, item, scores->count, typed_largest(scores));
        return OK;
    }
    const struct typed_view *view = &w->views[item->label];
    if (view->element == 0 && item->labels != item->class_names && view->is_scalar) {
        struct slice bytes = view->now, name;
        uint32_t column;
        if (bytes_next(&bytes, &name) && typed_column_named(item, name, &column) &&
            column < item->labels_count) {
            text_json(w->out, slice_of(item->labels[column]));
            return OK;
        }
    }
    if (view->element == 0 || item->labels_count == 0)
        return put_value(w, view);
    if (view->is_scalar) {
        put_class_number(w, item, view, 0);
        return OK;
    }
    text_byte(w->out, '[');
    for (uint64_t i = 0; i < view->count; i++) {
        if (i != 0)
            text_byte(w->out, ',');
        put_class_number(w, item, view, i);
    }
    text_byte(w->out, ']');
    return OK;
}

uint64_t typed_own_score(const struct typed_view *views, const struct typed_item *item,
                         const struct typed_view *scores)
{
    const struct typed_view *label = item->label == -1 ? NULL : &views[item->label];

    if (label != NULL && label->tensor != NULL && label->count == 1) {
        struct slice bytes = label->now, name;
        uint32_t column;
        if (label->element != 0
                ? typed_column_of(item, element_f64(label->tensor->dtype, label->now.data, 0),
                                  &column)
                : bytes_next(&bytes, &name) && typed_column_named(item, name, &column)) {
            if (column < scores->count)
                return column;
        }
    }
    return typed_largest(scores);
}

static enum err_code put_item(struct writer *w, const struct typed_item *item)
{
    const struct typed_view *view = &w->views[item->output];

    text_slice_put(w->out, item->key);
    switch (item->kind) {
    case ITEM_LABEL: return put_label(w, item);
    case ITEM_PROBABILITY:
        if (view->count == 0)
            text_str(w->out, "null");
        else
            put_probability(w, view->tensor->dtype, view->now.data,
                            typed_own_score(w->views, item, view));
        return OK;
    case ITEM_VALUE: break;
    }
    return put_value(w, view);
}

static void put_top(struct writer *w, const struct typed_item *item)
{
    const struct typed_view *view = &w->views[item->probabilities];
    uint64_t k = MIN(w->query->top, view->count);
    const char *key = typed_has_classes(item, view->count) ? "{\"label\":" : "{\"class_index\":";

    choose_largest(view->tensor->dtype, view->now.data, view->count, k, w->best);
    text_byte(w->out, '[');
    for (uint64_t i = 0; i < k; i++) {
        if (i != 0)
            text_byte(w->out, ',');
        text_str(w->out, key);
        put_class(w, item, view->count, w->best[i]);
        text_str(w->out, ",\"probability\":");
        put_probability(w, view->tensor->dtype, view->now.data, w->best[i]);
        text_byte(w->out, '}');
    }
    text_byte(w->out, ']');
}

/* -- one row ----------------------------------------------------------------------------------- */

static enum err_code put_object(struct writer *w)
{
    bool is_first = true;

    text_byte(w->out, '{');
    for (uint32_t i = 0; i < w->plan->items_count; i++) {
        const struct typed_item *item = &w->plan->items[i];
        if (!is_shown(w, i) || w->views[item->output].tensor == NULL)
            continue;
        if (!is_first)
            text_byte(w->out, ',');
        is_first = false;
        TRY(put_item(w, item));
    }
    text_byte(w->out, '}');
    return OK;
}

/* Of one classifier alone the list itself; else an object with a list for each classifier. */
static enum err_code put_top_object(struct writer *w)
{
    const struct typed_item *only = NULL;
    uint32_t heads = 0, others = 0;
    bool is_first = true;

    for (uint32_t i = 0; i < w->plan->items_count; i++) {
        const struct typed_item *item = &w->plan->items[i];
        if (!is_shown(w, i) || w->views[item->output].tensor == NULL)
            continue;
        if (item->probabilities == -1 || w->views[item->probabilities].tensor == NULL) {
            others++;
        } else if (only == NULL || only->probabilities != item->probabilities) {
            only = item;
            heads++;
        }
    }
    if (heads == 1 && others == 0) {
        put_top(w, only);
        return OK;
    }
    text_byte(w->out, '{');
    int64_t done = -1;
    for (uint32_t i = 0; i < w->plan->items_count; i++) {
        const struct typed_item *item = &w->plan->items[i];
        if (!is_shown(w, i) || w->views[item->output].tensor == NULL ||
            (item->probabilities != -1 && item->probabilities == done))
            continue;
        if (!is_first)
            text_byte(w->out, ',');
        is_first = false;
        if (item->probabilities == -1 || w->views[item->probabilities].tensor == NULL) {
            TRY(put_item(w, item));
            continue;
        }
        done = item->probabilities;
        if (heads == 1)
            text_str(w->out, "\"top\"");
        else
            text_json(w->out, slice_of(w->plan->signature->outputs[done].name));
        text_byte(w->out, ':');
        put_top(w, item);
    }
    text_byte(w->out, '}');
    return OK;
}

/* -- the whole --------------------------------------------------------------------------------- */

static enum err_code put_raw(struct writer *w, const struct response_output *outputs)
{
    bool is_first = true;

    text_byte(w->out, '{');
    for (uint32_t i = 0; i < w->plan->signature->outputs_count; i++) {
        bool is_asked = w->query->items == NULL;
        for (uint32_t k = 0; !is_asked && k < w->plan->items_count; k++)
            is_asked = w->plan->items[k].output == i && w->query->items[k];
        if (!is_asked || !outputs[i].is_set)
            continue;
        if (!is_first)
            text_byte(w->out, ',');
        is_first = false;
        text_json(w->out, slice_of(w->plan->signature->outputs[i].name));
        text_byte(w->out, ':');
        TRY(tensor_json_write(w->out, &outputs[i].tensor, w->style, w->err));
    }
    text_byte(w->out, '}');
    return OK;
}

uint64_t typed_top_room(const struct typed_plan *plan, const struct typed_query *query,
                        const struct response_output *outputs)
{
    uint64_t most = 0;

    for (uint32_t i = 0; query->has_top && i < plan->items_count; i++) {
        int64_t p = plan->items[i].probabilities;
        if (p == -1 || !outputs[p].is_set)
            continue;
        const struct penstock_tensor *t = &outputs[p].tensor;
        most = MAX(most, t->rank == 0 ? 1 : (uint64_t)t->shape[t->rank - 1]);
    }
    return MIN(most, query->top);
}

enum err_code typed_write(struct text *out, const struct typed_plan *plan,
                          const struct typed_query *query, uint64_t rows, bool is_list,
                          const struct response_output *outputs, struct arena *arena,
                          struct err *err)
{
    struct typed_view few[8];
    uint32_t count = plan->signature->outputs_count;
    uint64_t top = typed_top_room(plan, query, outputs);
    struct writer w = {
        .out = out,
        .plan = plan,
        .query = query,
        .views = few,
        .err = err,
        .style = { .nonfinite = JSON_NONFINITE_STRINGS,
                   .precision = query->precision > 0 ? query->precision : 0,
                   .is_nested = true },
    };

    if (query->is_raw)
        return put_raw(&w, outputs);
    if (count > COUNT(few))
        w.views = arena_alloc(arena, count * sizeof *w.views);
    if (top != 0)
        w.best = arena_alloc(arena, top * sizeof *w.best);
    if (w.views == NULL || (top != 0 && w.best == NULL))
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    for (uint32_t i = 0; i < count; i++) {
        w.views[i].tensor = NULL;
        if (outputs[i].is_set)
            TRY(typed_view_open(&w.views[i], plan, i, &outputs[i].tensor, rows, is_list, err));
    }
    if (is_list)
        text_byte(out, '[');
    for (uint64_t row = 0; row < rows; row++) {
        if (row != 0)
            text_byte(out, ',');
        for (uint32_t i = 0; i < count; i++)
            if (w.views[i].tensor != NULL)
                TRY(typed_view_next(&w.views[i], err));
        TRY(query->has_top ? put_top_object(&w) : put_object(&w));
    }
    if (is_list)
        text_byte(out, ']');
    return OK;
}

/* -- how much it can be ------------------------------------------------------------------------ */

/* Digits, comma, and a pair of brackets for every dimension, should each be of length 1. */
static size_t tensor_bound(const struct penstock_tensor *t)
{
    size_t per_element = NUMBER_TEXT_MAX + 4 + 3 * (size_t)t->rank, count, bound, lists = 1;

    if (t->dtype == PENSTOCK_BYTES) {
        count = t->size / 4;
        per_element = 8 + 3 * (size_t)t->rank;
    } else {
        count = t->size / dtype_size(t->dtype);
    }
    if (__builtin_mul_overflow(count, per_element, &bound) ||
        (t->dtype == PENSTOCK_BYTES &&
         (t->size > SIZE_MAX / 16 || __builtin_add_overflow(bound, t->size * 6, &bound))))
        return SIZE_MAX;
    /* A shape with a 0 in it has lists without elements. */
    for (uint32_t i = 0; i < t->rank && count == 0 && t->shape[i] != 0; i++)
        if (__builtin_mul_overflow(lists, (size_t)t->shape[i], &lists) || lists > SIZE_MAX / 64)
            return SIZE_MAX;
    return __builtin_add_overflow(bound, 3 * lists + 64, &bound) ? SIZE_MAX : bound;
}

size_t typed_answer_bound(const struct typed_plan *plan, const struct typed_query *query,
                          uint64_t rows, const struct response_output *outputs)
{
    uint64_t top = typed_top_room(plan, query, outputs);
    size_t bound = 64;

    for (uint32_t i = 0; i < plan->items_count; i++) {
        const struct typed_item *item = &plan->items[i];
        size_t row = item->key.size + 8, name = strlen(plan->signature->outputs[item->output].name);
        if (!outputs[item->output].is_set)
            continue;
        const struct penstock_tensor *t = &outputs[item->output].tensor;
        if (item->kind != ITEM_VALUE && !query->is_raw) {
            row = typed_sum(row, item->label_bytes_max + NUMBER_TEXT_MAX + 6 * name + 16);
            row = typed_sum(row, typed_product((size_t)top,
                                               item->label_bytes_max + NUMBER_TEXT_MAX + 40));
        }
        if (item->kind == ITEM_LABEL && item->label != -1)
            bound = typed_sum(bound, typed_product(t->dtype == PENSTOCK_BYTES
                                                       ? t->size / 4
                                                       : t->size / dtype_size(t->dtype),
                                                   item->label_bytes_max + 1));
        if (item->kind == ITEM_VALUE || item->label == (int64_t)item->output || query->is_raw)
            bound = typed_sum(bound, typed_sum(tensor_bound(t), 6 * name + 16));
        bound = typed_sum(bound, typed_product((size_t)rows, row));
    }
    return bound;
}
