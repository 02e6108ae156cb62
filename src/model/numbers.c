/* numbers.c - SPDX-License-Identifier: Apache-2.0
 *
 * Places are counted over all fields, also over those that model.yaml numbers: giving one field a
 * number then never moves another.
 */
#include "model/numbers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "model/dtype.h"

enum { CHECK_BYTES_MAX = 1 << 30 };

bool numbers_is_allowed(double number)
{
    return number >= 1 && number <= NUMBERS_MAX && number == floor(number) &&
           !(number >= NUMBERS_OURS_FIRST && number <= NUMBERS_OURS_LAST) &&
           !(number >= NUMBERS_PROTOBUF_FIRST && number <= NUMBERS_PROTOBUF_LAST);
}

static uint32_t of_place(uint32_t place)
{
    if (place >= NUMBERS_OURS_FIRST)
        place += NUMBERS_OURS_LAST - NUMBERS_OURS_FIRST + 1;
    if (place >= NUMBERS_PROTOBUF_FIRST)
        place += NUMBERS_PROTOBUF_LAST - NUMBERS_PROTOBUF_FIRST + 1;
    return place;
}

static bool has_batch(const struct signature *s)
{
    return s->is_batchable || s->batch_max != 0;
}

/* Dimensions in front of those of one row. */
static uint32_t lead_of(const struct signature *s, const struct signature_tensor *t)
{
    bool is_row = has_batch(s) || (!t->is_state && !t->is_constant && signature_takes_rows(s));

    return is_row && t->rank != 0 ? 1 : 0;
}

bool numbers_has_features(const struct signature *s, const struct signature_tensor *t)
{
    uint32_t skip = lead_of(s, t);
    uint64_t count;

    return t->features_count != 0 && shape_count(t->rank - skip, t->dims + skip, &count) &&
           count == t->features_count;
}

bool numbers_has_label(const struct signature *s, const struct signature_tensor *t)
{
    uint32_t labels = 0, skip = has_batch(s) && t->rank != 0 ? 1 : 0;

    for (uint32_t i = 0; i < s->outputs_count; i++)
        labels += s->outputs[i].role == ROLE_LABEL && !s->outputs[i].is_hidden;
    return labels != 1 && t->dtype != PENSTOCK_BYTES && t->role == ROLE_PROBABILITIES &&
           t->rank - skip == 1;
}

struct list {
    struct numbered *items;
    uint32_t count;
};

static void add(struct list *list, uint32_t given, struct numbered item)
{
    uint32_t place = list->count + 1;

    item.number = given != 0 ? given : of_place(place);
    list->items[list->count++] = item;
}

struct numbered *numbers_of_inputs(const struct signature *s, struct arena *arena,
                                   uint32_t *ret_count)
{
    struct list list = { 0 };
    size_t room = 1;

    for (uint32_t i = 0; i < s->inputs_count; i++)
        room += (size_t)s->inputs[i].features_count + 1;
    list.items = arena_alloc(arena, room * sizeof *list.items);
    if (list.items == NULL)
        return NULL;
    for (unsigned pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < s->inputs_count; i++) {
            const struct signature_tensor *t = &s->inputs[i];
            bool by_feature = numbers_has_features(s, t);
            if (t->is_hidden)
                continue;
            for (uint32_t f = 0; pass == 0 && by_feature && f < t->features_count; f++)
                add(&list, t->features[f].number, (struct numbered){ .tensor = i, .feature = f });
            if (by_feature == (pass == 1))
                add(&list, t->number,
                    (struct numbered){
                        .tensor = i, .feature = NUMBERED_WHOLE, .is_extra = by_feature });
        }
    }
    *ret_count = list.count;
    return list.items;
}

struct numbered *numbers_of_outputs(const struct signature *s, struct arena *arena,
                                    uint32_t *ret_count)
{
    struct list list = { 0 };

    list.items = arena_alloc(arena, (2 * (size_t)s->outputs_count + 1) * sizeof *list.items);
    if (list.items == NULL)
        return NULL;
    for (uint32_t i = 0; i < s->outputs_count; i++) {
        const struct signature_tensor *t = &s->outputs[i];
        struct numbered item = { .tensor = i, .feature = NUMBERED_WHOLE };
        if (t->is_hidden)
            continue;
        if (numbers_has_label(s, t)) {
            item.is_label = true;
            add(&list, 0, item);
            item.is_label = false;
        }
        add(&list, t->number, item);
    }
    *ret_count = list.count;
    return list.items;
}

static int by_number(const void *a, const void *b)
{
    const struct numbered *left = a, *right = b;

    return (left->number > right->number) - (left->number < right->number);
}

static const char *name_of(const struct signature_tensor *list, const struct numbered *item)
{
    const struct signature_tensor *t = &list[item->tensor];

    if (item->feature != NUMBERED_WHOLE)
        return t->features[item->feature].name;
    return t->title != NULL ? t->title : t->name;
}

static enum err_code check_list(const struct signature_tensor *tensors, struct numbered *items,
                                uint32_t count, const char *kind, struct err *err)
{
    if (items == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the numbers of fields; retry later");
    if (count > 1)
        qsort(items, count, sizeof *items, by_number);
    for (uint32_t i = 1; i < count; i++)
        if (items[i].number == items[i - 1].number)
            return err_set(err, E_INVALID,
                           "%s '%.80s' and '%.80s'%s would both be field number %u of the gRPC "
                           "message: give one of them another `number`",
                           kind, name_of(tensors, &items[i - 1]), name_of(tensors, &items[i]),
                           items[i].is_label || items[i - 1].is_label ? " (its label)" : "",
                           items[i].number);
    return OK;
}

static bool has_numbers(const struct signature_tensor *tensors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (tensors[i].number != 0)
            return true;
        for (uint32_t f = 0; f < tensors[i].features_count; f++)
            if (tensors[i].features[f].number != 0)
                return true;
    }
    return false;
}

enum err_code numbers_check(const struct signature *s, struct err *err)
{
    uint32_t count = 0;

    /* Places alone are never the same. */
    if (!has_numbers(s->inputs, s->inputs_count) && !has_numbers(s->outputs, s->outputs_count))
        return OK;
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, CHECK_BYTES_MAX);
    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the numbers of fields; retry later");
    struct numbered *items = numbers_of_inputs(s, arena, &count);
    TRY(check_list(s->inputs, items, count, "input", err));
    items = numbers_of_outputs(s, arena, &count);
    return check_list(s->outputs, items, count, "output", err);
}
