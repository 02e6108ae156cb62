/* typed_plan.c - which fields a model takes and which members its answer has.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Fields are looked up by guess first (callers write them in the order of the signature), then one
 * by one, and by a map when they are many.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/map.h"
#include "base/mem.h"
#include "codec/number.h"
#include "contract/typed.h"
#include "contract/typed_message.h"
#include "model/dtype.h"
#include "model/numbers.h"

enum { FIELDS_BY_MAP = 16, PLAN_BYTES_MAX = 64 << 20 };

static const char *name_of(const struct signature_tensor *t)
{
    return t->title != NULL ? t->title : t->name;
}

static enum err_code no_memory(const char *model, struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the fields of model '%s'; retry later", model);
}

/* -- inputs ------------------------------------------------------------------------------------ */

/* In protobuf a list of samples is a list, whatever dimensions of 1 stand before it. */
static void set_axis(struct typed_input *in, const struct signature *s)
{
    const struct stream_card *card = s->stream;
    const struct signature_tensor *t = in->tensor;
    uint32_t axis;

    if (card == NULL || !card->has_reduce || card->reduce == SESSION_EACH ||
        card->reduce == SESSION_LAST || t->is_hidden || t->is_state || t->is_constant ||
        in->row_rank != t->rank || !signature_rows_axis(card, card->reduce, card->window, t, &axis))
        return;
    in->has_axis = axis != 0;
    in->axis = axis;
    for (uint32_t i = 0; i < axis; i++)
        in->has_axis &= t->dims[i] == -1 || t->dims[i] == 1;
}

static void set_input(struct typed_input *in, const struct signature *s,
                      const struct signature_tensor *t, bool has_batch, bool has_rows)
{
    bool is_of_rows = has_batch || (has_rows && !t->is_state && !t->is_constant);
    uint32_t skip = is_of_rows && t->rank != 0 ? 1 : 0;

    *in = (struct typed_input){
        .tensor = t,
        .title = name_of(t),
        .row_rank = t->rank - skip,
        .row_dims = t->dims + skip,
        .element = dtype_size(t->dtype),
        .has_limits = !isnan(t->min) || !isnan(t->max),
        .has_features = numbers_has_features(s, t),
        .is_required = !t->is_optional && !t->is_hidden && !t->is_state && !t->is_constant,
        .is_of_rows = skip == 1,
    };
    set_axis(in, s);
    in->is_fixed = shape_count(in->row_rank, in->row_dims, &in->row_count);
    for (uint32_t i = 0; i < t->features_count; i++)
        in->has_limits |= !isnan(t->features[i].min) || !isnan(t->features[i].max);
}

static bool has_name(const struct typed_plan *plan, const char *name)
{
    for (uint32_t i = 0; i < plan->fields_count; i++)
        if (strcmp(plan->fields[i].name, name) == 0)
            return true;
    return false;
}

/* The first of a name has it: features before titles before tensors' names. */
static enum err_code add_field(struct typed_plan *plan, const char *name, uint32_t input,
                               int64_t feature, struct err *err)
{
    if (plan->by_name != NULL ? map_get(plan->by_name, slice_of(name)) != NULL
                              : has_name(plan, name))
        return OK;
    struct typed_field *field = &plan->fields[plan->fields_count++];
    *field = (struct typed_field){ name, slice_of(name), input, feature };
    return plan->by_name == NULL ? OK : map_put(plan->by_name, field->text, field, err);
}

static enum err_code make_fields(struct typed_plan *plan, struct err *err)
{
    const struct signature *s = plan->signature;
    size_t room = 0;

    for (uint32_t i = 0; i < s->inputs_count; i++)
        room += (size_t)s->inputs[i].features_count + 2;
    plan->fields = arena_alloc(plan->arena, MAX(room, (size_t)1) * sizeof *plan->fields);
    if (plan->fields == NULL)
        return no_memory(plan->model, err);
    if (room > FIELDS_BY_MAP) {
        plan->by_name = map_new();
        if (plan->by_name == NULL)
            return no_memory(plan->model, err);
    }
    for (unsigned pass = 0; pass < 3; pass++) {
        for (uint32_t i = 0; i < s->inputs_count; i++) {
            if (s->inputs[i].is_hidden)
                continue;
            bool by_feature = plan->inputs[i].has_features;
            if (pass == 0 && by_feature) {
                for (uint32_t f = 0; f < s->inputs[i].features_count; f++)
                    TRY(add_field(plan, s->inputs[i].features[f].name, i, f, err));
            } else if (pass == (by_feature ? 1 : 0)) {
                TRY(add_field(plan, plan->inputs[i].title, i, TYPED_WHOLE, err));
            } else if (pass == 2) {
                TRY(add_field(plan, s->inputs[i].name, i, TYPED_WHOLE, err));
            }
        }
    }
    return OK;
}

const struct typed_field *typed_field_find(const struct typed_plan *plan, struct slice name)
{
    if (plan->by_name != NULL)
        return map_get(plan->by_name, name);
    for (uint32_t i = 0; i < plan->fields_count; i++)
        if (slice_eq(plan->fields[i].text, name))
            return &plan->fields[i];
    return NULL;
}

static int64_t find_only_input(const struct signature *s)
{
    int64_t only = -1;

    for (uint32_t i = 0; i < s->inputs_count; i++) {
        const struct signature_tensor *t = &s->inputs[i];
        if (t->is_optional || t->is_hidden || t->is_state || t->is_constant)
            continue;
        if (only != -1)
            return -1;
        only = i;
    }
    return only != -1 ? only : s->inputs_count == 1 && !s->inputs[0].is_hidden ? 0 : -1;
}

/* -- the answer's members ---------------------------------------------------------------------- */

static void set_labels(const struct signature *s, struct typed_item *item)
{
    const int64_t from[] = { item->label, item->probabilities };

    item->label_bytes_max = 24; /* a class number */
    for (size_t i = 0; i < COUNT(from) && item->labels == NULL; i++) {
        if (from[i] == -1 || s->outputs[from[i]].labels_count == 0)
            continue;
        item->labels = s->outputs[from[i]].labels;
        item->labels_count = s->outputs[from[i]].labels_count;
    }
    for (size_t i = 0; i < COUNT(from) && item->classes_count == 0; i++) {
        if (from[i] == -1)
            continue;
        item->class_names = s->outputs[from[i]].class_names;
        item->class_numbers = s->outputs[from[i]].class_numbers;
        item->classes_count = s->outputs[from[i]].classes_count;
    }
    if (item->labels == NULL && item->class_names != NULL) {
        item->labels = item->class_names;
        item->labels_count = item->classes_count;
    }
    for (uint32_t i = 0; i < item->labels_count; i++)
        item->label_bytes_max = MAX(item->label_bytes_max, 6 * strlen(item->labels[i]) + 2);
}

static enum err_code add_item(struct typed_plan *plan, struct typed_item item, struct err *err)
{
    struct text key;

    set_labels(plan->signature, &item);
    /* Two members of one name would hide one another: the tensor's own name is unique. */
    for (uint32_t i = 0; i < plan->items_count; i++)
        if (strcmp(plan->items[i].name, item.name) == 0)
            item.name = plan->signature->outputs[item.output].name;
    text_init_arena(&key, plan->arena, 64);
    text_json(&key, slice_of(item.name));
    text_byte(&key, ':');
    if (text_failed(&key))
        return no_memory(plan->model, err);
    item.key = text_slice(&key);
    plan->items[plan->items_count++] = item;
    return OK;
}

static int64_t only_of_role(const struct signature *s, enum output_role role)
{
    int64_t found = -1;

    for (uint32_t i = 0; i < s->outputs_count; i++) {
        if (s->outputs[i].role != role || s->outputs[i].is_hidden)
            continue;
        if (found != -1)
            return -1;
        found = i;
    }
    return found;
}

static enum err_code make_items(struct typed_plan *plan, struct err *err)
{
    const struct signature *s = plan->signature;
    /* One label and one list of scores are two views of the same decision. */
    int64_t label = only_of_role(s, ROLE_LABEL), scores = only_of_role(s, ROLE_PROBABILITIES);

    if (scores != -1 && s->outputs[scores].rank - (plan->has_batch ? 1u : 0u) != 1)
        scores = -1;
    /* A list of scores with no label of its own gives two members. */
    plan->items =
        arena_alloc(plan->arena, (2 * (size_t)s->outputs_count + 1) * sizeof *plan->items);
    if (plan->items == NULL)
        return no_memory(plan->model, err);
    for (uint32_t i = 0; i < s->outputs_count; i++) {
        const struct signature_tensor *t = &s->outputs[i];
        struct typed_item item = {
            .kind = ITEM_VALUE, .name = name_of(t), .output = i, .label = -1, .probabilities = -1
        };
        uint32_t row_rank = t->rank - (plan->has_batch && t->rank != 0);
        if (t->is_hidden)
            continue;
        /* Scores in more than one dimension are not of one decision. */
        if (t->dtype != PENSTOCK_BYTES && t->role == ROLE_PROBABILITIES && row_rank == 1) {
            item.label = label;
            item.probabilities = i;
            if (label == -1) {
                item.kind = ITEM_LABEL;
                item.name = scores != (int64_t)i                            ? t->name
                            : t->labels_count != 0 || t->classes_count != 0 ? "label"
                                                                            : "class_index";
                TRY(add_item(plan, item, err));
            }
            item.kind = ITEM_PROBABILITY;
            item.name = t->title != NULL       ? t->title
                        : scores == (int64_t)i ? "probability"
                                               : t->name;
        } else if (t->role == ROLE_LABEL) {
            item.kind = ITEM_LABEL;
            item.label = i;
            item.probabilities = label == (int64_t)i ? scores : -1;
            item.name = t->title != NULL ? t->title : label == (int64_t)i ? "label" : t->name;
        }
        TRY(add_item(plan, item, err));
    }
    return OK;
}

/* -- an example -------------------------------------------------------------------------------- */

static void put_number(struct text *out, double value)
{
    char digits[NUMBER_TEXT_MAX];

    if (value == floor(value) && fabs(value) < 1e15)
        text_i64(out, (int64_t)value);
    else
        text_put(out, digits, number_write_f64(digits, value));
}

static double example_within(double min, double max)
{
    if (!isnan(min) && !isnan(max))
        return floor(min + (max - min) / 2);
    return !isnan(min) ? min : !isnan(max) ? MIN(max, 0.0) : 0.0;
}

/* Zeros, but that nothing is left when everything is masked out. */
static double example_of(const struct signature_tensor *t)
{
    if (isnan(t->min) && isnan(t->max) && strcasestr(t->name, "mask") != NULL)
        return 1;
    return example_within(t->min, t->max);
}

/* A made-up row of zeros in the right shape, where the model's own words give no example. */
static void put_zeros(struct text *out, const struct typed_input *in, uint32_t axis, size_t *budget)
{
    if (axis == in->row_rank) {
        if (in->tensor->dtype == PENSTOCK_BYTES)
            text_str(out, "\"text\"");
        else if (in->tensor->dtype == PENSTOCK_BOOL)
            text_str(out, example_of(in->tensor) > 0 ? "true" : "false");
        else
            put_number(out, example_of(in->tensor));
        *budget -= MIN(*budget, (size_t)1);
        return;
    }
    int64_t count = in->row_dims[axis] < 0 ? 1 : in->row_dims[axis];
    text_byte(out, '[');
    for (int64_t i = 0; i < count && *budget != 0; i++) {
        if (i != 0)
            text_byte(out, ',');
        put_zeros(out, in, axis + 1, budget);
    }
    text_byte(out, ']');
}

static bool put_input_example(struct text *out, const struct typed_input *in)
{
    const struct signature_tensor *t = in->tensor;
    size_t budget = 64;

    if (in->has_features) {
        for (uint32_t i = 0; i < t->features_count; i++) {
            const struct feature *f = &t->features[i];
            if (i != 0)
                text_byte(out, ',');
            text_json(out, slice_of(f->name));
            text_byte(out, ':');
            if (t->dtype == PENSTOCK_BYTES)
                text_str(out, "\"text\"");
            else
                put_number(out, !isnan(f->example) ? f->example : example_within(f->min, f->max));
        }
        return true;
    }
    text_json(out, slice_of(in->title));
    text_byte(out, ':');
    if (t->example_json != NULL) {
        text_str(out, t->example_json);
        return true;
    }
    if (in->is_fixed && in->row_count == 1)
        put_zeros(out, in, in->row_rank, &budget);
    else
        put_zeros(out, in, 0, &budget);
    return budget != 0; /* cut off: not a right example */
}

static enum err_code make_example(struct typed_plan *plan, struct err *err)
{
    const struct signature *s = plan->signature;
    struct text out;
    bool is_whole = s->inputs_count != 0, is_first = true;

    if (s->example_json != NULL) {
        plan->example = s->example_json;
        return OK;
    }
    text_init_arena(&out, plan->arena, 256);
    text_byte(&out, '{');
    for (uint32_t i = 0; i < s->inputs_count; i++) {
        if (!plan->inputs[i].is_required)
            continue;
        if (!is_first)
            text_byte(&out, ',');
        is_first = false;
        is_whole &= put_input_example(&out, &plan->inputs[i]);
    }
    text_byte(&out, '}');
    text_cstr(&out);
    if (text_failed(&out))
        return no_memory(plan->model, err);
    if (is_whole)
        plan->example = (const char *)out.data;
    return OK;
}

/* -- the whole --------------------------------------------------------------------------------- */

enum err_code typed_plan_new(struct typed_plan **ret, const char *model, const struct signature *s,
                             struct err *err)
{
    struct arena *arena = arena_new(4096, PLAN_BYTES_MAX);
    struct typed_plan *plan = arena == NULL ? NULL : arena_zalloc(arena, sizeof *plan);

    if (plan == NULL) {
        arena_free(&arena);
        return no_memory(model, err);
    }
    *plan = (struct typed_plan){
        .signature = s,
        .model = model,
        .has_batch = s->is_batchable || s->batch_max != 0,
        .has_rows = s->is_batchable || s->batch_max != 0 || signature_takes_rows(s),
        .inputs_count = s->inputs_count,
        .only_input = find_only_input(s),
        .arena = arena,
    };
    plan->inputs = arena_alloc(arena, MAX(s->inputs_count, 1u) * sizeof *plan->inputs);
    enum err_code code = plan->inputs == NULL ? no_memory(model, err) : OK;
    for (uint32_t i = 0; code == OK && i < s->inputs_count; i++)
        set_input(&plan->inputs[i], s, &s->inputs[i], plan->has_batch, plan->has_rows);
    if (code == OK)
        code = make_fields(plan, err);
    if (code == OK)
        code = make_items(plan, err);
    if (code == OK)
        code = make_example(plan, err);
    if (code != OK) {
        typed_plan_free(plan);
        return code;
    }
    *ret = plan;
    return OK;
}

void typed_plan_free(void *made)
{
    struct typed_plan *plan = made;

    if (plan == NULL)
        return;
    map_free(&plan->by_name);
    typed_proto_free(atomic_load_explicit(&plan->proto, memory_order_acquire));
    struct arena *arena = plan->arena;
    arena_free(&arena);
}
