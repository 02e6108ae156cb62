/* typed_query.c - ?top=3&outputs=label&precision=full&raw=1
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "contract/typed.h"
#include "model/nearest.h"

bool typed_unescape(struct slice text, struct arena *arena, struct slice *ret)
{
    if (slice_find(text, '%') == text.size && slice_find(text, '+') == text.size) {
        *ret = text;
        return true;
    }
    uint8_t *out = arena_alloc(arena, text.size);
    size_t size = 0;
    if (out == NULL)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (c == '%') {
            int high = -1, low = -1;
            if (text.size - i > 2) {
                high = slice_hex(text.data[i + 1]);
                low = slice_hex(text.data[i + 2]);
            }
            if (high < 0 || low < 0)
                return false;
            c = (uint8_t)(high * 16 + low);
            i += 2;
        } else if (c == '+') {
            c = ' ';
        }
        out[size++] = c;
    }
    *ret = slice_make(out, size);
    return true;
}

enum err_code typed_pair_next(struct slice *rest, struct arena *arena, bool *ret_more,
                              struct slice *ret_key, struct slice *ret_value, struct err *err)
{
    while (rest->size != 0 && rest->data[0] == '&')
        *rest = slice_skip(*rest, 1);
    *ret_more = rest->size != 0;
    if (!*ret_more)
        return OK;
    struct slice pair = slice_first(*rest, slice_find(*rest, '&'));
    *rest = slice_skip(*rest, pair.size);
    size_t at = slice_find(pair, '=');
    struct slice key = slice_first(pair, at);
    struct slice value = slice_skip(pair, MIN(at + 1, pair.size));
    if (!typed_unescape(key, arena, ret_key) || !typed_unescape(value, arena, ret_value))
        return err_set(err, E_INVALID, "'%.*s': a '%%' needs two hexadecimal digits behind it",
                       SLICE_ARG(slice_first(pair, 80)));
    if (utf8_valid_prefix(*ret_key) != ret_key->size)
        return err_set(err, E_INVALID, "a name in the query or form is not UTF-8");
    return OK;
}

static enum err_code unknown_parameter(struct slice key, struct err *err)
{
    struct nearest nearest = nearest_to(key);

    nearest_offer(&nearest, "top");
    nearest_offer(&nearest, "outputs");
    nearest_offer(&nearest, "precision");
    nearest_offer(&nearest, "raw");
    const char *best = nearest_best(&nearest);
    return err_set(
        err, E_INVALID,
        "unknown query parameter '%.*s'%s%s%s; there are top, outputs, precision and raw",
        SLICE_ARG(slice_first(key, 40)), best != NULL ? "; did you mean '" : "",
        best != NULL ? best : "", best != NULL ? "'?" : "");
}

static enum err_code unknown_item(const struct typed_plan *plan, struct slice name, struct err *err)
{
    struct nearest nearest = nearest_to(name);
    char list[320];
    size_t at = 0;

    list[0] = '\0';
    for (uint32_t i = 0; i < plan->items_count; i++) {
        nearest_offer(&nearest, plan->items[i].name);
        if (at < sizeof list - 1) {
            int size = snprintf(list + at, sizeof list - at, "%s'%s'", i == 0 ? "" : ", ",
                                plan->items[i].name);
            at += (size_t)MAX(size, 0);
        }
    }
    const char *best = nearest_best(&nearest);
    return err_set(err, E_INVALID, "outputs: model '%s' gives no '%.*s'%s%s%s; it gives %s",
                   plan->model, SLICE_ARG(slice_first(name, 40)),
                   best != NULL ? "; did you mean '" : "", best != NULL ? best : "",
                   best != NULL ? "'?" : "", list);
}

enum err_code typed_query_pick(struct typed_query *query, const struct typed_plan *plan,
                               struct slice list, struct arena *arena, struct err *err)
{
    if (query->items == NULL)
        query->items = arena_zalloc(arena, MAX(plan->items_count, 1u));
    if (query->items == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
    for (;;) {
        struct slice name = slice_trim(slice_first(list, slice_find(list, ',')));
        bool is_known = false;
        for (uint32_t i = 0; i < plan->items_count; i++) {
            const struct typed_item *item = &plan->items[i];
            if (slice_is(name, item->name) ||
                slice_is(name, plan->signature->outputs[item->output].name))
                query->items[i] = is_known = true;
        }
        if (!is_known)
            return unknown_item(plan, name, err);
        size_t comma = slice_find(list, ',');
        if (comma == list.size)
            return OK;
        list = slice_skip(list, comma + 1);
    }
}

static bool has_probabilities(const struct typed_plan *plan, const struct typed_query *query)
{
    for (uint32_t i = 0; i < plan->items_count; i++)
        if (plan->items[i].probabilities != -1 && (query->items == NULL || query->items[i]))
            return true;
    return false;
}

enum err_code typed_query_check(const struct typed_query *query, const struct typed_plan *plan,
                                struct err *err)
{
    if (query->has_top && query->is_raw)
        return err_set(err, E_INVALID, "top and raw exclude one another: raw shows the tensors");
    if (query->has_top && !has_probabilities(plan, query))
        return err_set(err, E_INVALID, "top needs an output that scores classes; %s '%s' has none",
                       query->items != NULL ? "what is asked of model" : "model", plan->model);
    return OK;
}

enum err_code typed_query_read(struct typed_query *ret, const struct typed_plan *plan,
                               struct slice text, struct arena *arena, struct err *err)
{
    struct typed_query query = { .precision = TYPED_PRECISION_DEFAULT };
    unsigned seen = 0;

    for (;;) {
        struct slice key, value;
        bool more;
        unsigned bit;
        uint64_t number;
        TRY(typed_pair_next(&text, arena, &more, &key, &value, err));
        if (!more)
            break;
        if (slice_is(key, "top")) {
            bit = 1;
            if (!slice_to_u64(value, &query.top) || query.top == 0)
                return err_set(err, E_INVALID,
                               "top is '%.*s'; it takes how many classes to show, 1 or more",
                               SLICE_ARG(slice_first(value, 40)));
            query.has_top = true;
        } else if (slice_is(key, "outputs")) {
            bit = 2;
            TRY(typed_query_pick(&query, plan, value, arena, err));
        } else if (slice_is(key, "precision")) {
            bit = 4;
            if (slice_is(value, "full"))
                query.precision = TYPED_PRECISION_FULL;
            else if (slice_to_u64(value, &number) && number >= 1 && number <= 17)
                query.precision = (int)number;
            else
                return err_set(err, E_INVALID,
                               "precision is '%.*s'; it takes 1 to 17 significant digits, or full",
                               SLICE_ARG(slice_first(value, 40)));
        } else if (slice_is(key, "raw")) {
            bit = 8;
            if (value.size != 0 && !slice_is(value, "0") && !slice_is(value, "1") &&
                !slice_is(value, "true") && !slice_is(value, "false"))
                return err_set(err, E_INVALID, "raw is '%.*s'; it takes 1 or 0",
                               SLICE_ARG(slice_first(value, 40)));
            query.is_raw = !slice_is(value, "0") && !slice_is(value, "false");
        } else {
            return unknown_parameter(key, err);
        }
        if ((seen & bit) != 0)
            return err_set(err, E_INVALID, "query parameter '%.*s' is given twice", SLICE_ARG(key));
        seen |= bit;
    }
    TRY(typed_query_check(&query, plan, err));
    *ret = query;
    return OK;
}

void typed_query_wants(const struct typed_query *query, const struct typed_plan *plan, bool *wants)
{
    if (query->items == NULL)
        return;
    for (uint32_t i = 0; i < plan->signature->outputs_count; i++)
        wants[i] = false;
    for (uint32_t i = 0; i < plan->items_count; i++) {
        const struct typed_item *item = &plan->items[i];
        if (!query->items[i])
            continue;
        wants[item->output] = true;
        /* A probability is the label's own, and top shows both. */
        if (item->label != -1 && item->kind == ITEM_PROBABILITY && !query->is_raw)
            wants[item->label] = true;
        if (item->probabilities != -1 && query->has_top)
            wants[item->probabilities] = true;
    }
}
