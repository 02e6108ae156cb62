/* typed_read.c - rows of named fields into the tensors of a request, in one pass.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each input is a column that grows row by row; a row of it is one value, or the features that make
 * it up. A field of a model with a batch dimension may also hold a list of rows at once; then every
 * field must hold as many. Elements are read straight into the column.
 *
 * Which it is (one row, or rows) is decided by the value's own nesting against the row's dims. For
 * rows of one element a list always means rows, so that callers with varying counts get a list back
 * even for one.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "codec/bytes.h"
#include "codec/npy.h"
#include "codec/tensor_json.h"
#include "contract/choose.h"
#include "contract/convert.h"
#include "contract/tensor_memory.h"
#include "contract/typed_columns.h"
#include "model/dtype.h"
#include "model/nearest.h"

enum { SMALL_TEXT = 2048, ROWS_FIRST = 8, ROOM_AHEAD_MAX = 65536, FEW_ELEMENTS = 4096 };

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

enum err_code typed_read_begin(struct typed_reader *ret, const struct typed_plan *plan,
                               struct arena *arena, struct budget *budget, struct err *err)
{
    *ret = (struct typed_reader){ .plan = plan, .arena = arena, .budget = budget };
    ret->columns = arena_zalloc(arena, MAX(plan->inputs_count, 1u) * sizeof *ret->columns);
    return ret->columns == NULL ? no_memory(err) : OK;
}

/* -- columns ----------------------------------------------------------------------------------- */

enum err_code typed_column_grow(struct typed_reader *r, struct typed_column *c, size_t more,
                                struct err *err)
{
    void *fresh;
    size_t room;

    if (more > SIZE_MAX / 16 - c->size)
        return no_memory(err);
    /* The first row gets what it needs; when a second comes, many may. */
    room = more + MIN((ROWS_FIRST - 1) * more, (size_t)ROOM_AHEAD_MAX);
    room = c->data == NULL ? more : MAX(2 * c->room, c->size + room);
    TRY(tensor_memory(&fresh, r->arena, r->budget, room, err));
    if (c->room != 0)
        memcpy(fresh, c->data, c->room);
    c->data = fresh;
    c->room = room;
    return OK;
}

COLD enum err_code typed_field_failed(struct typed_reader *r, const char *field, enum err_code code)
{
    if (r->field == NULL)
        r->field = field;
    return code;
}

static COLD enum err_code wrong_shape(struct typed_reader *r, const struct typed_input *in,
                                      uint32_t rank, const int64_t *shape, struct err *err)
{
    char got[160], row[160];
    bool is_scalar = in->is_fixed && in->row_count == 1;

    r->shows_example = true;
    shape_text(got, sizeof got, rank, shape);
    shape_text(row, sizeof row, in->row_rank, in->row_dims);
    if (!in->is_of_rows)
        return err_set(err, E_INVALID, "%s: got shape %s; it takes %s%s", in->title, got, row,
                       in->is_fixed ? "" : " (-1: any)");
    return err_set(err, E_INVALID,
                   "%s: got shape %s; one row takes %s%s, and a list of such is many rows",
                   in->title, got, is_scalar ? "one value" : row, in->is_fixed ? "" : " (-1: any)");
}

/* What the nesting of a value says: *ret_rows rows, each of c->shape; is_list when there is a list
 * of rows. On E_INVALID the shapes do not fit. */
static enum err_code match(struct typed_reader *r, const struct typed_input *in, uint32_t rank,
                           const int64_t *shape, int64_t row_shape[PENSTOCK_RANK_MAX],
                           uint64_t *ret_rows, bool *ret_is_list, struct err *err)
{
    const int64_t *dims = in->row_dims;
    uint32_t row_rank = in->row_rank, skip = 0;
    bool is_single = in->is_fixed && in->row_count == 1;
    bool is_list = false;

    memcpy(row_shape, dims, row_rank * sizeof dims[0]);
    *ret_rows = 1;
    *ret_is_list = false;
    if (is_single && rank == 0)
        return OK;
    if (in->is_of_rows) {
        if (is_single && rank == 1)
            is_list = true; /* of scalars, which stand for rows of one element */
        else if (rank == row_rank + 1)
            is_list = true;
        if (is_list) {
            *ret_rows = (uint64_t)shape[0];
            *ret_is_list = true;
            if (is_single && rank == 1)
                return OK;
            shape++;
            rank--;
        }
    }
    /* A flat list in the place of a nested one of as many elements. */
    if (rank == 1 && row_rank > 1 && in->is_fixed && (uint64_t)shape[0] == in->row_count)
        return OK;
    /* Leading dimensions of 1 may be left out. */
    while (row_rank - skip > rank && (dims[skip] == 1 || dims[skip] == -1)) {
        row_shape[skip] = 1;
        skip++;
    }
    bool fits = rank == row_rank - skip;
    for (uint32_t i = 0; fits && i < rank; i++) {
        fits = dims[skip + i] == -1 || dims[skip + i] == shape[i];
        row_shape[skip + i] = shape[i];
    }
    if (!fits)
        return wrong_shape(r, in, rank + is_list, shape - is_list, err);
    return OK;
}

/* Rows of one column must be of one shape: they become one tensor. */
enum err_code typed_set_shape(struct typed_reader *r, const struct typed_input *in,
                              struct typed_column *c, const int64_t *row_shape, struct err *err)
{
    if (!c->has_shape) {
        c->has_shape = true;
        c->rank = in->row_rank;
        memcpy(c->shape, row_shape, in->row_rank * sizeof row_shape[0]);
        if (!shape_count(c->rank, c->shape, &c->count))
            return err_set(err, E_INVALID, "%s: too many elements", in->title);
        return OK;
    }
    if (memcmp(c->shape, row_shape, c->rank * sizeof row_shape[0]) != 0) {
        char a[160], b[160];
        return err_set(err, E_INVALID,
                       "%s: a row of shape %s behind rows of shape %s; all rows of one call must "
                       "be of one shape",
                       in->title, shape_text(a, sizeof a, c->rank, row_shape),
                       shape_text(b, sizeof b, c->rank, c->shape));
    }
    (void)r;
    return OK;
}

/* -- limits ------------------------------------------------------------------------------------ */

static COLD enum err_code out_of_limits(struct typed_reader *r, const char *name, double value,
                                        double min, double max, const char *unit, struct err *err)
{
    char range[96];

    if (!isnan(min) && !isnan(max))
        snprintf(range, sizeof range, "between %g and %g", min, max);
    else if (!isnan(min))
        snprintf(range, sizeof range, "at least %g", min);
    else
        snprintf(range, sizeof range, "at most %g", max);
    typed_field_failed(r, name, E_INVALID);
    return err_set(err, E_INVALID, "%s is %g; it must be %s%s%s", name, value, range,
                   unit != NULL ? " " : "", unit != NULL ? unit : "");
}

enum err_code typed_check_limit(struct typed_reader *r, const char *name, const char *unit,
                                double min, double max, double value, struct err *err)
{
    /* Written so that NaN is outside of any limit. */
    if (LIKELY((isnan(min) || value >= min) && (isnan(max) || value <= max)))
        return OK;
    return out_of_limits(r, name, value, min, max, unit, err);
}

HOT enum err_code typed_check_limits(struct typed_reader *r, const struct typed_input *in,
                                     const uint8_t *data, uint64_t count, struct err *err)
{
    const struct signature_tensor *t = in->tensor;

    for (uint64_t i = 0; i < count; i++) {
        double value = element_f64(t->dtype, data, i);
        r->element = i;
        TRY(typed_check_limit(r, in->title, t->unit, t->min, t->max, value, err));
        if (t->features_count != 0) {
            const struct feature *f = &t->features[i % t->features_count];
            TRY(typed_check_limit(r, f->name, f->unit, f->min, f->max, value, err));
        }
    }
    return OK;
}

/* -- null -------------------------------------------------------------------------------------- */

/* Numbers that are none: what the JSON reader makes of NaN, "NaN" and null. */
static HOT bool has_nan(enum penstock_dtype dtype, const uint8_t *data, uint64_t count)
{
    int32_t found = 0, bits[16];

    switch (dtype) {
    case PENSTOCK_FP32:
        /* Sixteen at a time are one compare of a vector or two. */
        for (; count >= COUNT(bits); count -= COUNT(bits), data += sizeof bits) {
            memcpy(bits, data, sizeof bits);
            for (size_t i = 0; i < COUNT(bits); i++)
                found |= (bits[i] & INT32_MAX) > 0x7f800000;
        }
        for (; count > 0; count--, data += sizeof bits[0]) {
            memcpy(bits, data, sizeof bits[0]);
            found |= (bits[0] & INT32_MAX) > 0x7f800000;
        }
        return found != 0;
    case PENSTOCK_FP64:
    case PENSTOCK_FP16:
    case PENSTOCK_BF16:
        for (uint64_t i = 0; i < count; i++)
            found |= isnan(element_f64(dtype, data, i)) != 0;
        return found != 0;
    default: return false;
    }
}

/* A value that is missing is no number. Who means NaN says so. `text` is what the elements were
 * read from: numbers, in which commas part one from the next. */
static COLD enum err_code refuse_null(struct typed_reader *r, const char *name, uint64_t count,
                                      struct slice text, struct err *err)
{
    const uint8_t *null = memmem(text.data, text.size, "null", 4);
    uint64_t element = 0;

    if (null == NULL)
        return OK;
    for (const uint8_t *at = text.data; at < null; at++)
        element += *at == ',';
    typed_field_failed(r, name, E_INVALID);
    if (count == 1)
        return err_set(err, E_INVALID, "%s is null; it takes a number", name);
    return err_set(err, E_INVALID, "%s: element %llu is null; it takes a number", name,
                   (unsigned long long)element);
}

/* -- values from JSON -------------------------------------------------------------------------- */

static bool is_array(struct json_cursor *c)
{
    return json_peek(c) == '[';
}

/* Appends `count` elements at the cursor to the column. */
static HOT enum err_code read_elements(struct typed_reader *r, const struct typed_input *in,
                                       struct typed_column *c, uint64_t count,
                                       struct json_cursor *at, const char *path, struct err *err)
{
    size_t left = (size_t)(at->end - at->at), room;
    const uint8_t *begin = at->at;

    if (in->element == 0) {
        struct text out;
        if (left > SMALL_TEXT) {
            struct json_cursor ahead = *at;
            struct slice value;
            TRY(json_skip(&ahead, &value, path, err));
            left = value.size;
        }
        room = MIN(count, (uint64_t)left + 1) * 4 + left;
        TRY(typed_column_room(r, c, room, err));
        text_init_fixed(&out, c->data + c->size, c->room - c->size);
        TRY(tensor_json_read_bytes(&out, count, at, path, err));
        if (text_failed(&out))
            return no_memory(err);
        c->size += out.size;
        return OK;
    }
    /* More than the text can hold is refused before there is memory for it. */
    if (UNLIKELY(count > left / 2 + 1 && count > FEW_ELEMENTS))
        return err_set(err, E_INVALID, "%s: it takes %llu elements, and has fewer", path,
                       (unsigned long long)count);
    TRY(typed_column_room(r, c, (size_t)count * in->element, err));
    TRY(tensor_json_read(c->data + c->size, in->tensor->dtype, count, at, path, err));
    if (UNLIKELY(has_nan(in->tensor->dtype, c->data + c->size, count)))
        TRY(refuse_null(r, path, count, slice_make(begin, (size_t)(at->at - begin)), err));
    if (UNLIKELY(in->has_limits))
        TRY(typed_check_limits(r, in, c->data + c->size, count, err));
    c->size += (size_t)count * in->element;
    return OK;
}

static enum err_code read_shaped(struct typed_reader *r, const struct typed_input *in,
                                 struct typed_column *c, struct json_cursor *at, uint64_t *ret_rows,
                                 struct err *err)
{
    int64_t shape[PENSTOCK_RANK_MAX], row_shape[PENSTOCK_RANK_MAX];
    uint32_t rank;
    bool is_list;
    uint64_t total;

    TRY(tensor_json_shape(*at, &rank, shape, in->title, err));
    TRY(match(r, in, rank, shape, row_shape, ret_rows, &is_list, err));
    if (*ret_rows == 0)
        return err_set(err, E_INVALID, "%s: the list of rows is empty", in->title);
    if (is_list && r->is_list_body)
        return err_set(err, E_INVALID, "%s: a list of rows within a list of rows", in->title);
    TRY(typed_set_shape(r, in, c, row_shape, err));
    if (__builtin_mul_overflow(*ret_rows, c->count, &total))
        return err_set(err, E_INVALID, "%s: too many elements", in->title);
    r->is_list |= is_list;
    return read_elements(r, in, c, total, at, in->title, err);
}

/* A whole tensor (one row of it, or a list of rows). */
static HOT enum err_code read_whole(struct typed_reader *r, uint32_t index, struct json_cursor *at,
                                    struct err *err)
{
    const struct typed_input *in = &r->plan->inputs[index];
    struct typed_column *c = &r->columns[index];
    bool has_list = is_array(at);
    uint64_t rows = 1;

    if (UNLIKELY(c->is_given || c->seen_count != 0))
        return err_set(err, E_INVALID, "%s is given twice", in->title);
    c->is_given = true;
    /* One value for a row of one, and a flat list for a row of numbers, need no look ahead. */
    if (LIKELY(in->is_fixed && (has_list ? in->row_rank == 1 && in->row_count > 1 &&
                                               at->at + 1 < at->end && at->at[1] != '['
                                         : in->row_count == 1))) {
        struct json_cursor inner = *at;
        if (has_list) {
            inner.at++;
            has_list = is_array(&inner); /* blanks before it */
        }
        if (!has_list) {
            TRY(typed_set_shape(r, in, c, in->row_dims, err));
            TRY(read_elements(r, in, c, in->row_count, at, in->title, err));
            c->rows++;
            return OK;
        }
    }
    TRY(read_shaped(r, in, c, at, &rows, err));
    c->rows += rows;
    return OK;
}

static enum err_code feature_begin(struct typed_reader *r, const struct typed_input *in,
                                   struct typed_column *c, struct err *err)
{
    uint32_t count = in->tensor->features_count;

    if (UNLIKELY(c->is_given))
        return err_set(err, E_INVALID, "%s is given, and features of it as well", in->title);
    if (c->seen == NULL) {
        c->seen = arena_zalloc(r->arena, count);
        if (c->seen == NULL)
            return no_memory(err);
        if (in->element == 0) {
            c->texts = arena_alloc(r->arena, count * sizeof *c->texts);
            if (c->texts == NULL)
                return no_memory(err);
        }
    }
    if (in->element != 0)
        TRY(typed_column_room(r, c, count * in->element, err));
    return typed_set_shape(r, in, c, in->row_dims, err);
}

static HOT enum err_code read_feature(struct typed_reader *r, const struct typed_field *field,
                                      struct json_cursor *at, struct err *err)
{
    const struct typed_input *in = &r->plan->inputs[field->input];
    struct typed_column *c = &r->columns[field->input];
    const struct feature *f = &in->tensor->features[field->feature];

    if (c->seen_count == 0)
        TRY(feature_begin(r, in, c, err));
    if (UNLIKELY(c->seen[field->feature]))
        return err_set(err, E_INVALID, "%s is given twice", f->name);
    c->seen[field->feature] = true;
    c->seen_count++;
    if (UNLIKELY(is_array(at))) {
        r->shows_example = true;
        return err_set(err, E_INVALID,
                       "%s takes one value; for many rows send a list of objects, or %s as a list "
                       "of lists",
                       f->name, in->title);
    }
    if (in->element == 0) {
        c->texts[field->feature] = *at;
        return json_skip(at, NULL, f->name, err);
    }
    uint8_t *to = c->data + c->size + (size_t)field->feature * in->element;
    const uint8_t *begin = at->at;
    TRY(tensor_json_read(to, in->tensor->dtype, 1, at, f->name, err));
    if (UNLIKELY(has_nan(in->tensor->dtype, to, 1)))
        TRY(refuse_null(r, f->name, 1, slice_make(begin, (size_t)(at->at - begin)), err));
    if (UNLIKELY(in->has_limits)) {
        double value = element_f64(in->tensor->dtype, to, 0);
        TRY(typed_check_limit(r, f->name, f->unit, f->min, f->max, value, err));
        TRY(typed_check_limit(r, f->name, in->tensor->unit, in->tensor->min, in->tensor->max, value,
                              err));
    }
    return OK;
}

/* -- rows -------------------------------------------------------------------------------------- */

static COLD enum err_code unknown_field(struct typed_reader *r, struct slice name, struct err *err)
{
    const struct typed_plan *plan = r->plan;
    struct nearest nearest = nearest_to(name);
    char list[320];
    size_t at = 0;

    for (uint32_t i = 0; i < plan->fields_count; i++)
        nearest_offer(&nearest, plan->fields[i].name);
    r->shows_example = true;
    const char *best = nearest_best(&nearest);
    char *copy = arena_strndup(r->arena, name.data, MIN(name.size, (size_t)80));
    typed_field_failed(r, copy != NULL ? copy : "", E_INVALID);
    if (best != NULL)
        return err_set(err, E_INVALID, "unknown field '%.*s'; did you mean '%s'?",
                       SLICE_ARG(slice_first(name, 80)), best);
    list[0] = '\0';
    for (uint32_t i = 0; i < plan->fields_count && at < sizeof list - 1; i++) {
        int size = snprintf(list + at, sizeof list - at, "%s'%s'", i == 0 ? "" : ", ",
                            plan->fields[i].name);
        at += (size_t)MAX(size, 0);
    }
    return err_set(err, E_INVALID, "unknown field '%.*s'; model '%s' takes %s%s",
                   SLICE_ARG(slice_first(name, 80)), plan->model,
                   plan->fields_count == 0 ? "no fields" : list, at >= sizeof list ? " ..." : "");
}

COLD enum err_code typed_missing(struct typed_reader *r, const char *field, struct err *err)
{
    r->shows_example = true;
    typed_field_failed(r, field, E_INVALID);
    return err_set(err, E_INVALID, "field '%s' is missing", field);
}

/* The features of a row are all there: those that are text are put in order now. */
static enum err_code close_features(struct typed_reader *r, const struct typed_input *in,
                                    struct typed_column *c, struct err *err)
{
    uint32_t count = in->tensor->features_count;

    if (UNLIKELY(c->seen_count != count)) {
        uint32_t first = 0;
        while (c->seen[first])
            first++;
        return typed_missing(r, in->tensor->features[first].name, err);
    }
    for (uint32_t i = 0; in->element == 0 && i < count; i++) {
        struct json_cursor at = c->texts[i];
        const char *name = in->tensor->features[i].name;
        enum err_code code = read_elements(r, in, c, 1, &at, name, err);
        if (code != OK)
            return typed_field_failed(r, name, code);
    }
    if (in->element != 0)
        c->size += count * in->element;
    memset(c->seen, 0, count);
    c->seen_count = 0;
    c->rows++;
    return OK;
}

static HOT enum err_code close_row(struct typed_reader *r, struct err *err)
{
    r->has_closed = true;
    for (uint32_t i = 0; i < r->plan->inputs_count; i++) {
        struct typed_column *c = &r->columns[i];
        if (c->seen_count != 0)
            TRY(close_features(r, &r->plan->inputs[i], c, err));
        else if (UNLIKELY(!c->is_given && r->plan->inputs[i].is_required)) {
            const struct typed_input *in = &r->plan->inputs[i];
            return typed_missing(r, in->has_features ? in->tensor->features[0].name : in->title,
                                 err);
        }
        c->is_given = false;
    }
    return OK;
}

static const struct typed_field *find_field(struct typed_reader *r, struct slice name)
{
    const struct typed_plan *plan = r->plan;
    uint32_t guess = r->expected < plan->fields_count ? r->expected : 0;

    if (plan->fields_count == 0)
        return NULL;
    const struct typed_field *field = &plan->fields[guess];
    if (UNLIKELY(!slice_eq(field->text, name))) {
        field = typed_field_find(plan, name);
        if (field == NULL)
            return NULL;
    }
    r->expected = (uint32_t)(field - plan->fields) + 1;
    return field;
}

/* As messages have it: an input by its title, whatever name it was given by. */
static const char *public_name(const struct typed_reader *r, const struct typed_field *field)
{
    return field->feature == TYPED_WHOLE ? r->plan->inputs[field->input].title : field->name;
}

static HOT enum err_code read_field(struct typed_reader *r, struct slice name,
                                    struct json_cursor *at, struct err *err)
{
    const struct typed_field *field = find_field(r, name);

    if (UNLIKELY(field == NULL))
        return unknown_field(r, name, err);
    enum err_code code = field->feature == TYPED_WHOLE ? read_whole(r, field->input, at, err)
                                                       : read_feature(r, field, at, err);
    return LIKELY(code == OK) ? OK : typed_field_failed(r, public_name(r, field), code);
}

/* An error that names no field is about the JSON itself. */
static COLD enum err_code json_failed(struct typed_reader *r, enum err_code code, struct err *err)
{
    if (code != E_INVALID || r->field != NULL || !slice_starts(slice_of(err->text), "byte "))
        return code;
    r->shows_example = true;
    return err_wrap(err, "the body is not JSON");
}

static HOT enum err_code read_object(struct typed_reader *r, struct json_cursor *at,
                                     struct err *err)
{
    TRY(json_take(at, '{', "", err));
    r->expected = 0;
    for (bool is_first = true;; is_first = false) {
        bool more;
        struct slice name;
        TRY(json_more(at, '}', is_first, &more, "", err));
        if (!more)
            return OK;
        TRY(json_string(at, r->arena, &name, "", err));
        TRY(json_take(at, ':', "", err));
        TRY(read_field(r, name, at, err));
    }
}

static enum err_code read_list(struct typed_reader *r, struct json_cursor *at, struct err *err)
{
    uint64_t row = 0;

    if (!r->plan->has_rows)
        return err_set(err, E_INVALID,
                       "model '%s' takes one object at a time: it has no batch dimension",
                       r->plan->model);
    TRY(json_take(at, '[', "", err));
    r->is_list = r->is_list_body = true;
    for (;; row++) {
        bool more;
        enum err_code code = json_more(at, ']', row == 0, &more, "", err);
        if (code == OK && !more)
            return OK;
        if (code == OK && json_peek(at) != '{')
            code = err_set(err, E_INVALID, "an object is expected");
        if (code == OK)
            code = read_object(r, at, err);
        if (code == OK)
            code = close_row(r, err);
        if (UNLIKELY(code != OK)) {
            code = json_failed(r, code, err);
            return r->shows_example && slice_starts(slice_of(err->text), "the body is not JSON")
                       ? code
                       : err_wrap(err, "row %llu", (unsigned long long)row);
        }
    }
}

/* The first byte inside an array that is not blank; 0 when there is none. */
static uint8_t inside(const struct json_cursor *at)
{
    struct json_cursor inner = *at;

    json_space(&inner);
    inner.at++;
    return json_peek(&inner);
}

static HOT enum err_code read_json_body(struct typed_reader *r, struct slice body, struct err *err)
{
    struct json_cursor at = { body.data, body.data, body.data + body.size };
    uint8_t first = json_peek(&at);

    if (LIKELY(first == '{')) {
        TRY(read_object(r, &at, err));
        TRY(close_row(r, err));
    } else if (first == '[' && (inside(&at) == '{' || r->plan->only_input < 0 ||
                                (inside(&at) == ']' && r->plan->has_rows))) {
        TRY(read_list(r, &at, err));
    } else if (first != 0 && r->plan->only_input >= 0) {
        enum err_code code = read_whole(r, (uint32_t)r->plan->only_input, &at, err);
        if (code != OK)
            return typed_field_failed(r, r->plan->inputs[r->plan->only_input].title, code);
        TRY(close_row(r, err));
    } else {
        r->shows_example = true;
        return err_set(err, E_INVALID, "%s; a JSON object with the model's fields is expected",
                       first != 0        ? "the body is no JSON object"
                       : at.at == at.end ? "the body is empty"
                                         : "the body is not JSON: it begins with a zero byte");
    }
    return json_end(&at, err);
}

HOT enum err_code typed_read_json(struct typed_reader *r, struct slice body, struct err *err)
{
    enum err_code code = read_json_body(r, body, err);

    return LIKELY(code == OK) ? OK : json_failed(r, code, err);
}

/* -- fields from elsewhere --------------------------------------------------------------------- */

enum err_code typed_read_value(struct typed_reader *r, struct slice name, struct slice json,
                               struct err *err)
{
    struct json_cursor at = { json.data, json.data, json.data + json.size };

    TRY(read_field(r, name, &at, err));
    return json_end(&at, err);
}

/* Words of a form for true and false. */
static bool is_yes(struct slice value)
{
    return slice_is_nocase(value, "true") || slice_is(value, "1") || slice_is_nocase(value, "on");
}

enum err_code typed_append_bytes(struct typed_reader *r, struct typed_column *c, struct slice value,
                                 struct err *err)
{
    uint32_t size = (uint32_t)value.size;

    if (value.size > UINT32_MAX)
        return err_set(err, E_INVALID, "more than 4 GiB in one string");
    TRY(typed_column_room(r, c, value.size + 4, err));
    memcpy(c->data + c->size, &size, 4);
    if (value.size != 0)
        memcpy(c->data + c->size + 4, value.data, value.size);
    c->size += value.size + 4;
    return OK;
}

static enum err_code whole_bytes(struct typed_reader *r, uint32_t index, struct slice value,
                                 struct err *err)
{
    const struct typed_input *in = &r->plan->inputs[index];
    struct typed_column *c = &r->columns[index];
    int64_t row_shape[PENSTOCK_RANK_MAX];
    uint64_t rows;
    bool is_list;

    if (c->is_given || c->seen_count != 0)
        return err_set(err, E_INVALID, "%s is given twice", in->title);
    c->is_given = true;
    TRY(match(r, in, 0, NULL, row_shape, &rows, &is_list, err));
    TRY(typed_set_shape(r, in, c, row_shape, err));
    TRY(typed_append_bytes(r, c, value, err));
    c->rows++;
    return OK;
}

static enum err_code text_value(struct typed_reader *r, const struct typed_field *field,
                                struct slice value, struct err *err)
{
    const struct typed_input *in = &r->plan->inputs[field->input];
    struct slice trimmed = slice_trim(value);
    static const struct slice yes = SLICE_LIT("true"), no = SLICE_LIT("false");

    if (in->element == 0 && field->feature == TYPED_WHOLE && in->is_fixed && in->row_count == 1)
        return whole_bytes(r, field->input, value, err);
    if (in->element == 0 && field->feature != TYPED_WHOLE) {
        /* Kept as JSON text until the row is complete, like the other features. */
        struct text quoted;
        text_init_arena(&quoted, r->arena, value.size + 16);
        text_json(&quoted, value);
        if (text_failed(&quoted))
            return no_memory(err);
        trimmed = text_slice(&quoted);
    } else if (in->tensor->dtype == PENSTOCK_BOOL && trimmed.size != 0 && trimmed.data[0] != '[') {
        trimmed = is_yes(trimmed) ? yes
                  : slice_is_nocase(trimmed, "off") || slice_is_nocase(trimmed, "false") ||
                          slice_is(trimmed, "0")
                      ? no
                      : trimmed;
    }
    struct json_cursor at = { trimmed.data, trimmed.data, trimmed.data + trimmed.size };
    TRY(field->feature == TYPED_WHOLE ? read_whole(r, field->input, &at, err)
                                      : read_feature(r, field, &at, err));
    return json_end(&at, err);
}

enum err_code typed_read_text(struct typed_reader *r, struct slice name, struct slice value,
                              struct err *err)
{
    const struct typed_field *field = find_field(r, name);

    if (field == NULL)
        return unknown_field(r, name, err);
    enum err_code code = text_value(r, field, value, err);
    return code == OK ? OK : typed_field_failed(r, public_name(r, field), code);
}

/* Raw little-endian elements: one row, or with a batch as many as there are. */
static enum err_code raw_numbers(struct typed_reader *r, uint32_t index, struct slice value,
                                 struct err *err)
{
    const struct typed_input *in = &r->plan->inputs[index];
    struct typed_column *c = &r->columns[index];
    int64_t shape[PENSTOCK_RANK_MAX];
    uint64_t fixed = in->element;
    uint32_t free_at = UINT32_MAX, free_dims = 0;
    uint64_t rows = 1;

    if (c->is_given || c->seen_count != 0)
        return err_set(err, E_INVALID, "%s is given twice", in->title);
    c->is_given = true;
    for (uint32_t i = 0; i < in->row_rank; i++) {
        shape[i] = in->row_dims[i];
        if (shape[i] >= 0) {
            if (__builtin_mul_overflow(fixed, (uint64_t)shape[i], &fixed))
                return err_set(err, E_INVALID, "%s: too many elements", in->title);
        } else {
            free_at = i;
            free_dims++;
        }
    }
    if (free_dims > 1)
        return err_set(err, E_INVALID,
                       "%s: its shape cannot be told from raw bytes, %u dimensions are free; send "
                       "a .npy file (application/x-npy) or JSON",
                       in->title, free_dims);
    if (fixed == 0 || value.size == 0 || value.size % fixed != 0 ||
        (free_dims == 0 && !in->is_of_rows && value.size != fixed))
        return err_set(err, E_INVALID, "%s: %zu raw bytes; it takes %s%llu (%s, little-endian)",
                       in->title, value.size,
                       free_dims != 0 || in->is_of_rows ? "a multiple of " : "",
                       (unsigned long long)fixed, dtype_name(in->tensor->dtype));
    if (free_dims != 0)
        shape[free_at] = (int64_t)(value.size / fixed);
    else
        rows = value.size / fixed;
    TRY(typed_set_shape(r, in, c, shape, err));
    TRY(typed_column_room(r, c, value.size, err));
    memcpy(c->data + c->size, value.data, value.size);
    if (in->tensor->dtype == PENSTOCK_BOOL && !bool_check(value))
        return err_set(err, E_INVALID, "%s: BOOL bytes are 0 or 1", in->title);
    if (in->has_limits)
        TRY(typed_check_limits(r, in, c->data + c->size, value.size / in->element, err));
    c->size += value.size;
    c->rows += rows;
    r->is_list |= rows != 1;
    return OK;
}

enum err_code typed_read_bytes(struct typed_reader *r, struct slice name, struct slice value,
                               struct err *err)
{
    const struct typed_field *field = find_field(r, name);

    if (field == NULL)
        return unknown_field(r, name, err);
    const struct typed_input *in = &r->plan->inputs[field->input];
    enum err_code code = field->feature != TYPED_WHOLE ? text_value(r, field, value, err)
                         : in->element == 0            ? whole_bytes(r, field->input, value, err)
                                                       : raw_numbers(r, field->input, value, err);
    return code == OK ? OK : typed_field_failed(r, public_name(r, field), code);
}

/* What NumPy calls it, where a caller has to say it. */
static const char *numpy_name(enum penstock_dtype dtype)
{
    switch (dtype) {
    case PENSTOCK_BOOL: return "bool";
    case PENSTOCK_UINT8: return "uint8";
    case PENSTOCK_UINT16: return "uint16";
    case PENSTOCK_UINT32: return "uint32";
    case PENSTOCK_UINT64: return "uint64";
    case PENSTOCK_INT8: return "int8";
    case PENSTOCK_INT16: return "int16";
    case PENSTOCK_INT32: return "int32";
    case PENSTOCK_INT64: return "int64";
    case PENSTOCK_FP16: return "float16";
    case PENSTOCK_FP64: return "float64";
    case PENSTOCK_BYTES: return "str";
    default: return "float32";
    }
}

/* NumPy's own default is float64 and int64, which few models take: numbers are taken by their
 * value, as those of JSON are. */
static enum err_code convert_array(struct typed_reader *r, const struct typed_input *in,
                                   struct penstock_tensor *tensor, struct err *err)
{
    enum penstock_dtype from = tensor->dtype, to = in->tensor->dtype;
    uint64_t count, bad = 0;
    size_t size;
    void *data;

    if (!convert_can(from, to))
        return err_set(err, E_INVALID,
                       "%s: the array holds %s; it takes %s: save it as array.astype('%s')",
                       in->title, dtype_name(from), dtype_name(to), numpy_name(to));
    count = tensor->size / dtype_size(from);
    if (__builtin_mul_overflow((size_t)count, dtype_size(to), &size))
        return no_memory(err);
    TRY(tensor_memory(&data, r->arena, r->budget, size, err));
    if (!convert_elements(to, data, from, tensor->data, count, &bad))
        return err_set(err, E_INVALID,
                       "%s: element %llu of the array is %.17g, which %s cannot hold", in->title,
                       (unsigned long long)bad, element_f64(from, tensor->data, bad),
                       dtype_name(to));
    tensor->dtype = to;
    tensor->data = data;
    tensor->size = size;
    return OK;
}

static enum err_code npy_value(struct typed_reader *r, const struct typed_field *field,
                               struct slice file, struct err *err)
{
    const struct typed_input *in = &r->plan->inputs[field->input];
    struct typed_column *c = &r->columns[field->input];
    struct penstock_tensor tensor;
    int64_t row_shape[PENSTOCK_RANK_MAX];
    uint64_t rows;
    bool is_list;

    if (field->feature != TYPED_WHOLE)
        return err_set(err, E_INVALID, "%s takes one value, not an array", field->name);
    if (c->is_given || c->seen_count != 0)
        return err_set(err, E_INVALID, "%s is given twice", in->title);
    c->is_given = true;
    TRY(npy_read(&tensor, r->arena, file, err));
    if (tensor.dtype != in->tensor->dtype)
        TRY(convert_array(r, in, &tensor, err));
    TRY(match(r, in, tensor.rank, tensor.shape, row_shape, &rows, &is_list, err));
    if (rows == 0)
        return err_set(err, E_INVALID, "%s: the array has no rows", in->title);
    TRY(typed_set_shape(r, in, c, row_shape, err));
    if (tensor.dtype == PENSTOCK_BOOL && !bool_check(slice_make(tensor.data, tensor.size)))
        return err_set(err, E_INVALID, "%s: BOOL bytes are 0 or 1", in->title);
    TRY(typed_column_room(r, c, tensor.size, err));
    if (tensor.size != 0)
        memcpy(c->data + c->size, tensor.data, tensor.size);
    if (in->has_limits && in->element != 0)
        TRY(typed_check_limits(r, in, c->data + c->size, tensor.size / in->element, err));
    c->size += tensor.size;
    c->rows += rows;
    r->is_list |= is_list;
    return OK;
}

enum err_code typed_read_npy(struct typed_reader *r, struct slice name, struct slice file,
                             struct err *err)
{
    const struct typed_field *field = find_field(r, name);

    if (field == NULL)
        return unknown_field(r, name, err);
    enum err_code code = npy_value(r, field, file, err);
    return code == OK ? OK : typed_field_failed(r, public_name(r, field), code);
}

/* -- the end ----------------------------------------------------------------------------------- */

static enum err_code check_rows(struct typed_reader *r, struct err *err)
{
    const struct typed_input *most = NULL;

    for (uint32_t i = 0; i < r->plan->inputs_count; i++) {
        const struct typed_input *in = &r->plan->inputs[i];
        uint64_t rows = r->columns[i].rows;
        if (rows == 0 || (rows == 1 && r->plan->has_rows && !in->is_of_rows))
            continue;
        if (most != NULL && rows != r->rows)
            return err_set(err, E_INVALID, "%s has %llu rows, %s has %llu: all must agree",
                           in->title, (unsigned long long)rows, most->title,
                           (unsigned long long)r->rows);
        most = in;
        r->rows = rows;
    }
    if (r->rows == 0 && r->is_list) {
        r->shows_example = true;
        return err_set(err, E_INVALID, "the list of rows is empty");
    }
    r->rows = MAX(r->rows, (uint64_t)1);
    if (r->plan->has_batch)
        return OK;
    /* Rows of one question: its answer has none. */
    r->rows = 1;
    r->is_list = false;
    return OK;
}

HOT enum err_code typed_read_end(struct typed_reader *r, struct penstock_tensor *inputs,
                                 bool *has_input, struct err *err)
{
    /* Fields that came one by one (forms) make one row. */
    if (!r->has_closed && !r->is_list_body)
        TRY(close_row(r, err));
    TRY(check_rows(r, err));
    for (uint32_t i = 0; i < r->plan->inputs_count; i++) {
        const struct typed_input *in = &r->plan->inputs[i];
        struct typed_column *c = &r->columns[i];
        uint32_t lead = in->tensor->rank - in->row_rank;
        has_input[i] = c->rows != 0;
        if (c->rows == 0)
            continue;
        struct penstock_tensor *t = &inputs[i];
        t->name = in->tensor->name;
        t->dtype = in->tensor->dtype;
        t->rank = in->tensor->rank;
        if (lead == 1)
            t->shape[0] = (int64_t)c->rows;
        memcpy(t->shape + lead, c->shape, c->rank * sizeof c->shape[0]);
        t->data = c->data;
        t->size = c->size;
        t->place = (struct penstock_place){ PENSTOCK_CPU, 0 };
        t->owner = NULL;
    }
    return OK;
}

void typed_read_rest(const struct typed_plan *plan, struct penstock_tensor *inputs, bool *has_input)
{
    const struct stream_card *card = plan->signature->stream;

    for (uint32_t i = 0; card != NULL && i < card->states_count; i++) {
        uint32_t input = card->states[i].input;
        if (has_input[input])
            continue;
        inputs[input] = card->states[i].initial;
        inputs[input].owner = NULL; /* the model's */
        has_input[input] = true;
    }
}
