/* twin.c - SPDX-License-Identifier: Apache-2.0
 *
 * What a message's fields are says how a value is to be read: a list for one number is rows, a list
 * of lists for a list is rows, a list for a message of shape and values is a tensor. Whatever fits
 * none of that is passed on as it is, for the message's own reader to refuse with its own words.
 */
#include "cli/twin.h"

#include <stdio.h>
#include <yyjson.h>

#include "base/mem.h"
#include "codec/proto.h"

enum { ROWS_NUMBER = 1001, FIELDS_OF_OURS = 1000, DEPTH_MAX = 32, ROWS_MAX = 1 << 20 };

static void free_doc(struct yyjson_doc **doc)
{
    yyjson_doc_free(*doc);
}

static void free_mut(struct yyjson_mut_doc **doc)
{
    yyjson_mut_doc_free(*doc);
}

static bool is_alike(struct slice a, const char *b)
{
    if (a.size != strlen(b))
        return false;
    for (size_t i = 0; i < a.size; i++) {
        if ((a.data[i] == '-' ? '_' : (char)a.data[i]) != (b[i] == '-' ? '_' : b[i]))
            return false;
    }
    return true;
}

bool twin_field(const struct proto_type *type, struct slice name, struct proto_field *ret)
{
    uint32_t count = proto_type_fields(type);

    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < count; i++) {
            struct proto_field f = proto_type_field(type, i);
            bool is_it = round == 0 ? slice_is(name, f.name) || slice_is(name, f.json_name)
                                    : is_alike(name, f.name) || is_alike(name, f.json_name);
            if (is_it) {
                *ret = f;
                return true;
            }
        }
    }
    return false;
}

/* { repeated int64 shape = 1; repeated T values = 2; } */
static bool is_tensor(const struct proto_field *f, struct proto_field *ret_values)
{
    struct proto_field shape;

    return f->message != NULL && !f->is_repeated && proto_type_fields(f->message) == 2 &&
           proto_type_field_by_number(f->message, 1, &shape) && strcmp(shape.name, "shape") == 0 &&
           shape.is_repeated && proto_type_field_by_number(f->message, 2, ret_values) &&
           strcmp(ret_values->name, "values") == 0 && ret_values->is_repeated;
}

static bool rows_field(const struct proto_type *type, struct proto_field *ret)
{
    return proto_type_field_by_number(type, ROWS_NUMBER, ret) && ret->is_repeated &&
           ret->message != NULL;
}

/* -- to gRPC ----------------------------------------------------------------------------------- */

static void flatten(yyjson_mut_doc *doc, yyjson_mut_val *into, yyjson_val *from, unsigned depth)
{
    size_t at, count;
    yyjson_val *item;

    if (!yyjson_is_arr(from) || depth == DEPTH_MAX) {
        yyjson_mut_arr_append(into, yyjson_val_mut_copy(doc, from));
        return;
    }
    yyjson_arr_foreach(from, at, count, item)
    {
        flatten(doc, into, item, depth + 1);
    }
}

static yyjson_mut_val *to_tensor(yyjson_mut_doc *doc, yyjson_val *value)
{
    yyjson_mut_val *tensor = yyjson_mut_obj(doc), *shape = yyjson_mut_arr(doc);
    yyjson_mut_val *values = yyjson_mut_arr(doc);

    for (yyjson_val *at = value; yyjson_is_arr(at); at = yyjson_arr_get_first(at))
        yyjson_mut_arr_append(shape, yyjson_mut_uint(doc, yyjson_arr_size(at)));
    flatten(doc, values, value, 0);
    yyjson_mut_obj_add_val(doc, tensor, "shape", shape);
    yyjson_mut_obj_add_val(doc, tensor, "values", values);
    return tensor;
}

/* Is this value of a field a list of rows? */
static bool has_rows(const struct proto_field *f, yyjson_val *value)
{
    struct proto_field values;

    if (!yyjson_is_arr(value) || f->number >= FIELDS_OF_OURS || is_tensor(f, &values))
        return false;
    return !f->is_repeated || yyjson_is_arr(yyjson_arr_get_first(value));
}

static yyjson_mut_val *to_value(yyjson_mut_doc *doc, const struct proto_field *f, yyjson_val *value)
{
    struct proto_field values;

    if (is_tensor(f, &values) && yyjson_is_arr(value))
        return to_tensor(doc, value);
    if (f->is_repeated && f->message == NULL && yyjson_is_arr(value)) {
        yyjson_mut_val *flat = yyjson_mut_arr(doc);
        flatten(doc, flat, value, 0);
        return flat;
    }
    /* A list of one element has one number too. */
    if (f->is_repeated && f->message == NULL && !yyjson_is_arr(value)) {
        yyjson_mut_val *one = yyjson_mut_arr(doc);
        yyjson_mut_arr_append(one, yyjson_val_mut_copy(doc, value));
        return one;
    }
    return yyjson_val_mut_copy(doc, value);
}

/* Member `row` of each field that has rows, and all of those that have none. */
static yyjson_mut_val *to_row(yyjson_mut_doc *doc, const struct proto_type *type, yyjson_val *from,
                              int64_t row)
{
    yyjson_mut_val *to = yyjson_mut_obj(doc);
    size_t at, count;
    yyjson_val *key, *value;

    yyjson_obj_foreach(from, at, count, key, value)
    {
        struct slice name = slice_make(yyjson_get_str(key), yyjson_get_len(key));
        struct proto_field f;
        if (yyjson_is_null(value) || !twin_field(type, name, &f)) {
            yyjson_mut_obj_add(to, yyjson_val_mut_copy(doc, key), yyjson_val_mut_copy(doc, value));
            continue;
        }
        bool is_one = row >= 0 && has_rows(&f, value);
        yyjson_val *own = is_one ? yyjson_arr_get(value, (size_t)row) : value;
        if (own != NULL)
            yyjson_mut_obj_add(to, yyjson_mut_strcpy(doc, f.json_name), to_value(doc, &f, own));
    }
    return to;
}

static yyjson_mut_val *to_object(yyjson_mut_doc *doc, const struct proto_type *type,
                                 yyjson_val *from)
{
    struct proto_field rows;
    size_t at, count, rows_count = 0;
    yyjson_val *key, *value;
    bool has_any = false;

    yyjson_obj_foreach(from, at, count, key, value)
    {
        struct proto_field f;
        struct slice name = slice_make(yyjson_get_str(key), yyjson_get_len(key));
        if (!twin_field(type, name, &f) || !has_rows(&f, value))
            continue;
        has_any = true;
        rows_count = MAX(rows_count, yyjson_arr_size(value));
    }
    if (!has_any || !rows_field(type, &rows) || rows_count > ROWS_MAX)
        return to_row(doc, type, from, -1);
    yyjson_mut_val *list = yyjson_mut_arr(doc), *to = yyjson_mut_obj(doc);
    for (size_t row = 0; row < rows_count; row++)
        yyjson_mut_arr_append(list, to_row(doc, rows.message, from, (int64_t)row));
    yyjson_mut_obj_add(to, yyjson_mut_strcpy(doc, rows.json_name), list);
    return to;
}

/* The one whole input of a model with one. */
static bool only_field(const struct proto_type *type, struct proto_field *ret)
{
    uint32_t found = 0, count = proto_type_fields(type);

    for (uint32_t i = 0; i < count; i++) {
        struct proto_field f = proto_type_field(type, i);
        if (f.number >= FIELDS_OF_OURS)
            continue;
        /* Features are single numbers beside the list that they make up. */
        if (f.is_repeated || f.message != NULL || count == 1)
            *ret = f, found += 100;
        else if (found == 0)
            *ret = f, found++;
        else
            found++;
    }
    return found == 1 || (found >= 100 && found < 200);
}

static yyjson_mut_val *to_list(yyjson_mut_doc *doc, const struct proto_type *type, yyjson_val *from)
{
    struct proto_field rows, only;
    size_t at, count;
    yyjson_val *item;

    if (yyjson_is_arr(from) && yyjson_is_obj(yyjson_arr_get_first(from)) &&
        rows_field(type, &rows)) {
        yyjson_mut_val *list = yyjson_mut_arr(doc), *to = yyjson_mut_obj(doc);
        yyjson_arr_foreach(from, at, count, item)
        {
            yyjson_mut_arr_append(list, yyjson_is_obj(item) ? to_row(doc, rows.message, item, -1)
                                                            : yyjson_val_mut_copy(doc, item));
        }
        yyjson_mut_obj_add(to, yyjson_mut_strcpy(doc, rows.json_name), list);
        return to;
    }
    if (!only_field(type, &only))
        return yyjson_val_mut_copy(doc, from);
    yyjson_doc *wrapped = NULL;
    yyjson_mut_doc *maker = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *object = yyjson_mut_obj(maker), *ret = NULL;
    yyjson_mut_obj_add(object, yyjson_mut_strcpy(maker, only.json_name),
                       yyjson_val_mut_copy(maker, from));
    yyjson_mut_doc_set_root(maker, object);
    wrapped = yyjson_mut_doc_imut_copy(maker, NULL);
    if (wrapped != NULL)
        ret = to_object(doc, type, yyjson_doc_get_root(wrapped));
    yyjson_doc_free(wrapped);
    yyjson_mut_doc_free(maker);
    return ret;
}

static enum err_code put_json(struct text *out, yyjson_mut_val *value, struct err *err)
{
    size_t size = 0;
    char *json =
        value == NULL ? NULL : yyjson_mut_val_write(value, YYJSON_WRITE_ALLOW_INF_AND_NAN, &size);
    if (json == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    text_put(out, json, size);
    mem_free(json);
    return text_failed(out) ? err_set(err, E_EXHAUSTED, "no memory for a request") : OK;
}

static enum err_code read_json(struct slice json, yyjson_doc **ret, struct err *err)
{
    yyjson_read_err problem;

    /* Numbers stay the text that they are: a float's digits are the caller's. */
    *ret = yyjson_read_opts((char *)(uintptr_t)json.data, json.size, YYJSON_READ_NUMBER_AS_RAW,
                            NULL, &problem);
    if (*ret == NULL)
        return err_set(err, E_INVALID, "the body is not JSON (byte %zu: %s)", problem.pos,
                       problem.msg);
    return OK;
}

static enum err_code add_options(yyjson_mut_doc *doc, yyjson_mut_val *root,
                                 const struct proto_type *type, struct slice options,
                                 struct err *err)
{
    CLEANUP(free_doc) yyjson_doc *read = NULL;
    struct proto_field f;

    if (options.size == 0)
        return OK;
    if (!yyjson_mut_is_obj(root) || !proto_type_field_by_number(type, FIELDS_OF_OURS, &f))
        return err_set(err, E_INVALID, "%s takes no options such as --top", proto_type_name(type));
    TRY(read_json(options, &read, err));
    yyjson_mut_obj_add(root, yyjson_mut_strcpy(doc, f.json_name),
                       yyjson_val_mut_copy(doc, yyjson_doc_get_root(read)));
    return OK;
}

enum err_code twin_request(struct text *out, const struct proto_type *type, struct slice rest,
                           struct slice options, struct err *err)
{
    CLEANUP(free_doc) yyjson_doc *doc = NULL;

    TRY(read_json(rest, &doc, err));
    CLEANUP(free_mut) yyjson_mut_doc *made = yyjson_mut_doc_new(NULL);
    yyjson_val *from = yyjson_doc_get_root(doc);
    if (made == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a request");
    yyjson_mut_val *root =
        yyjson_is_obj(from) ? to_object(made, type, from) : to_list(made, type, from);
    TRY(add_options(made, root, type, options, err));
    return put_json(out, root, err);
}

/* -- from gRPC --------------------------------------------------------------------------------- */

static yyjson_mut_val *from_message(yyjson_mut_doc *doc, const struct proto_type *type,
                                    yyjson_val *value, unsigned depth);

static bool is_64(enum proto_kind kind)
{
    return kind == PROTO_INT64 || kind == PROTO_UINT64 || kind == PROTO_FIXED64 ||
           kind == PROTO_SFIXED64 || kind == PROTO_SINT64;
}

static yyjson_mut_val *from_one(yyjson_mut_doc *doc, const struct proto_field *f, yyjson_val *value,
                                unsigned depth)
{
    if (f->message != NULL && yyjson_is_obj(value))
        return from_message(doc, f->message, value, depth + 1);
    if (is_64(f->kind) && yyjson_is_str(value))
        return yyjson_mut_rawcpy(doc, yyjson_get_str(value));
    return yyjson_val_mut_copy(doc, value);
}

/* Nests values[*at ...] by shape from dimension `dim` on. */
static yyjson_mut_val *nest(yyjson_mut_doc *doc, const struct proto_field *values_field,
                            yyjson_val *shape, size_t dim, yyjson_arr_iter *values, unsigned depth)
{
    size_t dims = yyjson_arr_size(shape);
    yyjson_val *size = yyjson_arr_get(shape, dim);
    uint64_t count = 0;

    if (dim == dims || dim == DEPTH_MAX) {
        yyjson_val *value = yyjson_arr_iter_next(values);
        return value == NULL ? yyjson_mut_null(doc) : from_one(doc, values_field, value, depth);
    }
    yyjson_mut_val *list = yyjson_mut_arr(doc);
    (void)slice_to_u64(slice_of(yyjson_is_str(size) ? yyjson_get_str(size) : "0"), &count);
    for (uint64_t i = 0; i < count && yyjson_arr_iter_has_next(values); i++)
        yyjson_mut_arr_append(list, nest(doc, values_field, shape, dim + 1, values, depth));
    return list;
}

static yyjson_mut_val *from_field(yyjson_mut_doc *doc, const struct proto_field *f,
                                  yyjson_val *value, unsigned depth)
{
    struct proto_field values;
    size_t at, count;
    yyjson_val *item;

    if (is_tensor(f, &values) && yyjson_is_obj(value)) {
        yyjson_arr_iter iter = { 0 };
        yyjson_val *list = yyjson_obj_get(value, "values");
        if (yyjson_is_arr(list))
            yyjson_arr_iter_init(list, &iter);
        return nest(doc, &values, yyjson_obj_get(value, "shape"), 0, &iter, depth);
    }
    if (!f->is_repeated || f->is_map || !yyjson_is_arr(value))
        return from_one(doc, f, value, depth);
    yyjson_mut_val *list = yyjson_mut_arr(doc);
    yyjson_arr_foreach(value, at, count, item)
    {
        yyjson_mut_arr_append(list, from_one(doc, f, item, depth));
    }
    return list;
}

static yyjson_mut_val *from_message(yyjson_mut_doc *doc, const struct proto_type *type,
                                    yyjson_val *from, unsigned depth)
{
    yyjson_mut_val *to = yyjson_mut_obj(doc);
    size_t at, count;
    yyjson_val *key, *value;

    yyjson_obj_foreach(from, at, count, key, value)
    {
        struct proto_field f;
        struct slice name = slice_make(yyjson_get_str(key), yyjson_get_len(key));
        bool is_known = depth < DEPTH_MAX && twin_field(type, name, &f);
        yyjson_mut_obj_add(to, yyjson_val_mut_copy(doc, key),
                           is_known ? from_field(doc, &f, value, depth)
                                    : yyjson_val_mut_copy(doc, value));
    }
    return to;
}

enum err_code twin_answer(struct text *out, const struct proto_type *type, struct slice proto,
                          struct err *err)
{
    CLEANUP(free_doc) yyjson_doc *doc = NULL;
    struct proto_field f;

    TRY(read_json(proto, &doc, err));
    CLEANUP(free_mut) yyjson_mut_doc *made = yyjson_mut_doc_new(NULL);
    if (made == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for an answer");
    yyjson_mut_val *root = from_message(made, type, yyjson_doc_get_root(doc), 0);
    /* Rows, and the most likely classes, are the whole answer. */
    if (yyjson_mut_obj_size(root) == 1) {
        yyjson_mut_obj_iter iter = yyjson_mut_obj_iter_with(root);
        yyjson_mut_val *key = yyjson_mut_obj_iter_next(&iter);
        struct slice name = slice_make(yyjson_mut_get_str(key), yyjson_mut_get_len(key));
        if (twin_field(type, name, &f) && f.number >= ROWS_NUMBER && f.is_repeated)
            root = yyjson_mut_obj_iter_get_val(key);
    }
    return put_json(out, root, err);
}
