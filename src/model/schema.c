/* schema.c - SPDX-License-Identifier: Apache-2.0 */
#include "model/schema.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "model/nearest.h"

static void *heap_alloc(void *context UNUSED, size_t size)
{
    return mem_alloc(size);
}

static void *heap_resize(void *context UNUSED, void *old, size_t old_size UNUSED, size_t size)
{
    return mem_resize(old, size);
}

static void heap_free(void *context UNUSED, void *memory)
{
    mem_free(memory);
}

const struct yyjson_alc schema_heap = { .malloc = heap_alloc,
                                        .realloc = heap_resize,
                                        .free = heap_free };

const struct schema_field *schema_find(const struct schema_message *message, struct slice name)
{
    for (uint32_t i = 0; i < message->count; i++)
        if (slice_is(name, message->fields[i].name))
            return &message->fields[i];
    return NULL;
}

const char *schema_type_name(const struct schema_field *field)
{
    static const char *const names[] = {
        [SCHEMA_BOOL] = "bool",     [SCHEMA_INT32] = "int32",   [SCHEMA_INT64] = "int64",
        [SCHEMA_UINT32] = "uint32", [SCHEMA_UINT64] = "uint64", [SCHEMA_FLOAT] = "float",
        [SCHEMA_DOUBLE] = "double", [SCHEMA_STRING] = "string",
    };

    if (field->type == SCHEMA_MESSAGE)
        return field->message->name;
    return field->type == SCHEMA_ENUM ? field->values->name : names[field->type];
}

const char *schema_enum_name(const struct schema_enum *values, int64_t number)
{
    for (uint32_t i = 0; i < values->count; i++)
        if (values->values[i].number == number)
            return values->values[i].name;
    return NULL;
}

enum err_code schema_refuse_enum(const struct schema_enum *values, struct slice got,
                                 struct err *err)
{
    struct nearest nearest = nearest_to(got);
    uint8_t room[500];
    struct text names;

    text_init_fixed(&names, room, sizeof room - 1);
    for (uint32_t i = 0; i < values->count; i++) {
        nearest_offer(&nearest, values->values[i].name);
        text_printf(&names, "%s%s", i == 0 ? "" : ", ", values->values[i].name);
    }
    const char *best = nearest_best(&nearest);
    got = slice_first(got, 64);
    if (best != NULL)
        return err_set(err, E_INVALID, "'%.*s' is no value of %s; the nearest is '%s'",
                       SLICE_ARG(got), values->name, best);
    return err_set(err, E_INVALID, "'%.*s' is no value of %s: %s", SLICE_ARG(got), values->name,
                   text_cstr(&names));
}

uint32_t schema_cost(const struct schema_field *field)
{
    return 1 + (field->type == SCHEMA_MESSAGE ? field->message->count : 0);
}

bool schema_int_fits(enum schema_type type, bool is_negative, uint64_t magnitude)
{
    switch (type) {
    case SCHEMA_INT32: return magnitude <= (uint64_t)INT32_MAX + is_negative;
    case SCHEMA_INT64: return magnitude <= (uint64_t)INT64_MAX + is_negative;
    case SCHEMA_UINT32: return magnitude <= UINT32_MAX && (!is_negative || magnitude == 0);
    default: return !is_negative || magnitude == 0;
    }
}

const char *schema_int_range(enum schema_type type)
{
    switch (type) {
    case SCHEMA_INT32: return "-2147483648 to 2147483647";
    case SCHEMA_INT64: return "-9223372036854775808 to 9223372036854775807";
    case SCHEMA_UINT32: return "0 to 4294967295";
    default: return "0 to 18446744073709551615";
    }
}

struct yyjson_mut_val *schema_int_value(struct yyjson_mut_doc *doc, bool is_negative,
                                        uint64_t magnitude)
{
    if (is_negative && magnitude != 0)
        return yyjson_mut_sint(doc, (int64_t)(0 - magnitude));
    return yyjson_mut_uint(doc, magnitude);
}

struct yyjson_mut_val *schema_float_value(struct yyjson_mut_doc *doc, enum schema_type type,
                                          double value)
{
    if (type == SCHEMA_FLOAT) {
        /* The fewest digits that give the same float back: 0.1, not 0.10000000149011612. */
        float single = (float)value;
        char digits[40];
        value = (double)single;
        for (int precision = 6; isfinite(single) && precision <= 9; precision++) {
            snprintf(digits, sizeof digits, "%.*g", precision, (double)single);
            value = strtod(digits, NULL);
            if ((float)value == single)
                break;
        }
    }
    if (isnan(value))
        return yyjson_mut_str(doc, "NaN");
    if (isinf(value))
        return yyjson_mut_str(doc, value > 0 ? "Infinity" : "-Infinity");
    return yyjson_mut_real(doc, value);
}

/* -- the JSON form in ------------------------------------------------------------------------- */

struct reader {
    struct yyjson_mut_doc *doc;
    uint32_t values_left;
    struct err *err;
    size_t path_size;
    char path[200]; /* cut when it does not fit */
};

static size_t path_push(struct reader *r, const char *format, ...) PRINTF_LIKE(2, 3);

static size_t path_push(struct reader *r, const char *format, ...)
{
    size_t before = r->path_size;
    va_list args;

    va_start(args, format);
    int n = vsnprintf(r->path + before, sizeof r->path - before, format, args);
    va_end(args);
    if (n > 0)
        r->path_size = MIN(before + (size_t)n, sizeof r->path - 1);
    return before;
}

static void path_pop(struct reader *r, size_t before)
{
    r->path_size = before;
    r->path[before] = '\0';
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the configuration; retry later");
}

/* The path before the text, without a colon where there is none. */
#define refuse(r, ...) (err_set((r)->err, E_INVALID, __VA_ARGS__), place(r))

static enum err_code place(struct reader *r)
{
    if (r->path_size != 0)
        err_wrap(r->err, "%s", r->path);
    return E_INVALID;
}

static enum err_code charge(struct reader *r, uint32_t cost)
{
    if (r->values_left < cost)
        return refuse(r, "the configuration holds more than %d values", SCHEMA_VALUES_MAX);
    r->values_left -= cost;
    return OK;
}

/* "inputMap" is "input_map". */
static bool is_camel_of(struct slice key, const char *name)
{
    size_t at = 0;

    for (; *name != '\0'; name++, at++) {
        bool is_upper = *name == '_';
        name += is_upper;
        if (at >= key.size || key.data[at] != (is_upper ? toupper((unsigned char)*name) : *name))
            return false;
    }
    return at == key.size;
}

static const struct schema_field *find_json(const struct schema_message *message, struct slice key)
{
    for (uint32_t i = 0; i < message->count; i++)
        if (slice_is(key, message->fields[i].name) || is_camel_of(key, message->fields[i].name))
            return &message->fields[i];
    return NULL;
}

static enum err_code refuse_key(struct reader *r, const struct schema_message *message,
                                struct slice key)
{
    struct nearest nearest = nearest_to(key);

    for (uint32_t i = 0; i < message->count; i++)
        nearest_offer(&nearest, message->fields[i].name);
    const char *best = nearest_best(&nearest);
    if (best != NULL)
        return refuse(r, "unknown field '%.*s' of %s; the nearest is '%s'", (int)MIN(key.size, 64u),
                      (const char *)key.data, message->name, best);
    return refuse(r, "unknown field '%.*s' of %s", (int)MIN(key.size, 64u), (const char *)key.data,
                  message->name);
}

static struct slice text_of(yyjson_val *value)
{
    return slice_make(yyjson_get_str(value), yyjson_get_len(value));
}

/* An integer of JSON: a number without a fraction, or a string of one. */
static bool read_int(yyjson_val *value, bool *ret_negative, uint64_t *ret_magnitude)
{
    if (yyjson_is_uint(value)) {
        *ret_negative = false;
        *ret_magnitude = yyjson_get_uint(value);
        return true;
    }
    if (yyjson_is_sint(value)) {
        int64_t number = yyjson_get_sint(value);
        *ret_negative = number < 0;
        *ret_magnitude = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
        return true;
    }
    if (yyjson_is_real(value)) {
        double number = fabs(yyjson_get_real(value));
        if (!(number < 9007199254740992.0) || number != floor(number))
            return false;
        *ret_negative = yyjson_get_real(value) < 0;
        *ret_magnitude = (uint64_t)number;
        return true;
    }
    if (!yyjson_is_str(value))
        return false;
    struct slice text = text_of(value);
    *ret_negative = slice_starts(text, "-");
    return slice_to_u64(slice_skip(text, *ret_negative), ret_magnitude);
}

static bool read_float(yyjson_val *value, double *ret)
{
    if (yyjson_is_num(value)) {
        *ret = yyjson_get_num(value);
        return true;
    }
    if (!yyjson_is_str(value))
        return false;
    struct slice text = text_of(value);
    if (slice_is(text, "NaN")) {
        *ret = (double)NAN;
    } else if (slice_is(text, "Infinity") || slice_is(text, "-Infinity")) {
        *ret = text.data[0] == '-' ? -HUGE_VAL : HUGE_VAL;
    } else {
        char *end = NULL;
        if (text.size == 0 || strspn((const char *)text.data, "+-.0123456789eE") != text.size)
            return false;
        *ret = strtod((const char *)text.data, &end);
        return end == (const char *)text.data + text.size;
    }
    return true;
}

static enum err_code read_enum(struct reader *r, const struct schema_field *field,
                               yyjson_val *value, const char **ret)
{
    struct slice text = yyjson_is_str(value) ? text_of(value) : slice_make("", 0);
    uint64_t magnitude = 0;
    bool is_negative = false;

    for (uint32_t i = 0; i < field->values->count; i++) {
        if (slice_is(text, field->values->values[i].name)) {
            *ret = field->values->values[i].name;
            return OK;
        }
    }
    if (yyjson_is_num(value) && read_int(value, &is_negative, &magnitude) && !is_negative &&
        magnitude <= INT32_MAX) {
        *ret = schema_enum_name(field->values, (int64_t)magnitude);
        if (*ret != NULL)
            return OK;
        return refuse(r, "%u is no value of %s", (unsigned)magnitude, field->values->name);
    }
    if (text.size == 0)
        return refuse(r, "a name of %s is expected, such as \"%s\"", field->values->name,
                      field->values->values[field->values->count - 1].name);
    schema_refuse_enum(field->values, text, r->err);
    return place(r);
}

static enum err_code read_message(struct reader *r, const struct schema_message *message,
                                  yyjson_val *value, struct yyjson_mut_val **ret);

static enum err_code check_string(struct reader *r, struct slice text)
{
    if (slice_find(text, 0) != text.size)
        return refuse(r, "the string holds a zero byte");
    return OK;
}

static enum err_code read_value(struct reader *r, const struct schema_field *field,
                                yyjson_val *value, struct yyjson_mut_val **ret)
{
    struct yyjson_mut_val *made = NULL;
    bool is_negative = false;
    uint64_t magnitude = 0;
    double number = 0;
    const char *name = NULL;

    TRY(charge(r, schema_cost(field)));
    switch (field->type) {
    case SCHEMA_BOOL:
        if (!yyjson_is_bool(value))
            return refuse(r, "true or false is expected");
        made = yyjson_mut_bool(r->doc, yyjson_get_bool(value));
        break;
    case SCHEMA_INT32:
    case SCHEMA_INT64:
    case SCHEMA_UINT32:
    case SCHEMA_UINT64:
        if (!read_int(value, &is_negative, &magnitude) ||
            !schema_int_fits(field->type, is_negative, magnitude))
            return refuse(r, "a whole number of %s (%s) is expected", schema_type_name(field),
                          schema_int_range(field->type));
        made = schema_int_value(r->doc, is_negative, magnitude);
        break;
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
        if (!read_float(value, &number))
            return refuse(r, "a number is expected");
        made = schema_float_value(r->doc, field->type, number);
        break;
    case SCHEMA_STRING:
        if (!yyjson_is_str(value))
            return refuse(r, "a string is expected");
        TRY(check_string(r, text_of(value)));
        made = yyjson_mut_strncpy(r->doc, yyjson_get_str(value), yyjson_get_len(value));
        break;
    case SCHEMA_ENUM:
        TRY(read_enum(r, field, value, &name));
        made = yyjson_mut_str(r->doc, name);
        break;
    case SCHEMA_MESSAGE: return read_message(r, field->message, value, ret);
    }
    if (made == NULL)
        return no_memory(r->err);
    *ret = made;
    return OK;
}

static enum err_code read_list(struct reader *r, const struct schema_field *field,
                               yyjson_val *value, struct yyjson_mut_val **ret)
{
    struct yyjson_mut_val *list = yyjson_mut_arr(r->doc);
    size_t index, count;
    yyjson_val *each;

    if (list == NULL)
        return no_memory(r->err);
    if (!yyjson_is_arr(value))
        return refuse(r, "a list is expected");
    yyjson_arr_foreach(value, index, count, each)
    {
        struct yyjson_mut_val *item = NULL;
        size_t before = path_push(r, "[%zu]", index);
        TRY(read_value(r, field, each, &item));
        path_pop(r, before);
        yyjson_mut_arr_append(list, item);
    }
    *ret = list;
    return OK;
}

static enum err_code read_map(struct reader *r, const struct schema_field *field, yyjson_val *value,
                              struct yyjson_mut_val **ret)
{
    struct yyjson_mut_val *map = yyjson_mut_obj(r->doc);
    size_t index, count;
    yyjson_val *key, *each;

    if (map == NULL)
        return no_memory(r->err);
    if (!yyjson_is_obj(value))
        return refuse(r, "an object is expected");
    if (yyjson_obj_size(value) > SCHEMA_MAP_MAX)
        return refuse(r, "there are more than %d entries", SCHEMA_MAP_MAX);
    yyjson_obj_foreach(value, index, count, key, each)
    {
        struct yyjson_mut_val *item = NULL;
        struct slice name = text_of(key);
        uint64_t number;
        size_t before = path_push(r, "['%.*s']", (int)MIN(name.size, 64u), (const char *)name.data);
        TRY(check_string(r, name));
        if (field->key_type == SCHEMA_UINT64 && !slice_to_u64(name, &number))
            return refuse(r, "the key must be a whole number");
        if (yyjson_mut_obj_getn(map, yyjson_get_str(key), yyjson_get_len(key)) != NULL)
            return refuse(r, "the key is given twice");
        TRY(read_value(r, field, each, &item));
        path_pop(r, before);
        struct yyjson_mut_val *copy =
            yyjson_mut_strncpy(r->doc, yyjson_get_str(key), yyjson_get_len(key));
        if (!yyjson_mut_obj_add(map, copy, item))
            return no_memory(r->err);
    }
    *ret = map;
    return OK;
}

static enum err_code check_oneof(struct reader *r, const struct schema_message *message,
                                 const struct schema_field *field, struct yyjson_mut_val *object)
{
    for (uint32_t i = 0; field->label == SCHEMA_ONEOF && i < message->count; i++) {
        const struct schema_field *other = &message->fields[i];
        if (other != field && other->label == SCHEMA_ONEOF &&
            strcmp(other->oneof, field->oneof) == 0 &&
            yyjson_mut_obj_get(object, other->name) != NULL)
            return refuse(r, "cannot be given beside '%s': only one of %s may be", other->name,
                          field->oneof);
    }
    return OK;
}

static enum err_code read_message(struct reader *r, const struct schema_message *message,
                                  yyjson_val *value, struct yyjson_mut_val **ret)
{
    struct yyjson_mut_val *object = yyjson_mut_obj(r->doc);
    size_t index, count;
    yyjson_val *key, *each;

    if (object == NULL)
        return no_memory(r->err);
    if (!yyjson_is_obj(value))
        return refuse(r, "an object is expected");
    yyjson_obj_foreach(value, index, count, key, each)
    {
        struct yyjson_mut_val *item = NULL;
        const struct schema_field *field = find_json(message, text_of(key));
        if (field == NULL)
            return refuse_key(r, message, text_of(key));
        if (yyjson_is_null(each))
            continue;
        size_t before = path_push(r, "%s%s", r->path_size == 0 ? "" : ".", field->name);
        if (yyjson_mut_obj_get(object, field->name) != NULL)
            return refuse(r, "is given twice");
        TRY(check_oneof(r, message, field, object));
        if (field->label == SCHEMA_MANY)
            TRY(read_list(r, field, each, &item));
        else if (field->label == SCHEMA_MAP)
            TRY(read_map(r, field, each, &item));
        else
            TRY(read_value(r, field, each, &item));
        path_pop(r, before);
        if (!yyjson_mut_obj_add(object, yyjson_mut_str(r->doc, field->name), item))
            return no_memory(r->err);
    }
    *ret = object;
    return OK;
}

static void free_json(yyjson_doc **doc)
{
    yyjson_doc_free(TAKE(*doc));
}

enum err_code schema_from_json(struct yyjson_mut_val **ret, struct yyjson_mut_doc *doc,
                               const struct schema_message *message, struct slice json,
                               struct err *err)
{
    struct reader r = { .doc = doc, .values_left = SCHEMA_VALUES_MAX, .err = err };
    yyjson_read_err why = { 0 };
    /* Read-only without YYJSON_READ_INSITU, whatever the pointer's type says. */
    char *text = (char *)(uintptr_t)json.data;
    CLEANUP(free_json) yyjson_doc *read = yyjson_read_opts(text, json.size, 0, &schema_heap, &why);

    if (read == NULL && why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION)
        return no_memory(err);
    if (read == NULL) {
        unsigned line = 1, column = 1;
        for (size_t i = 0; i < MIN(why.pos, json.size); i++) {
            column = json.data[i] == '\n' ? 1 : column + ((json.data[i] & 0xc0) != 0x80);
            line += json.data[i] == '\n';
        }
        return err_set(err, E_INVALID, "line %u, column %u: not JSON: %s", line, column, why.msg);
    }
    return read_message(&r, message, yyjson_doc_get_root(read), ret);
}

/* -- completion -------------------------------------------------------------------------------- */

static struct yyjson_mut_val *default_of(struct yyjson_mut_doc *doc,
                                         const struct schema_field *field)
{
    if (field->label == SCHEMA_MANY)
        return yyjson_mut_arr(doc);
    if (field->label == SCHEMA_MAP)
        return yyjson_mut_obj(doc);
    switch (field->type) {
    case SCHEMA_BOOL: return yyjson_mut_bool(doc, false);
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE: return yyjson_mut_real(doc, 0);
    case SCHEMA_STRING: return yyjson_mut_str(doc, "");
    case SCHEMA_ENUM: return yyjson_mut_str(doc, field->values->values[0].name);
    default: return yyjson_mut_uint(doc, 0);
    }
}

/* The values of a list or map, each completed, or what is not a message as it is. */
static struct yyjson_mut_val *complete_value(struct yyjson_mut_doc *doc,
                                             const struct schema_field *field,
                                             struct yyjson_mut_val *value)
{
    size_t index, count;
    struct yyjson_mut_val *key, *each, *made;

    if (field->type != SCHEMA_MESSAGE)
        return yyjson_mut_val_mut_copy(doc, value);
    if (field->label == SCHEMA_MANY) {
        made = yyjson_mut_arr(doc);
        yyjson_mut_arr_foreach(value, index, count, each)
        {
            if (!yyjson_mut_arr_append(made, schema_complete(doc, field->message, each)))
                return NULL;
        }
        return made;
    }
    if (field->label == SCHEMA_MAP) {
        made = yyjson_mut_obj(doc);
        yyjson_mut_obj_foreach(value, index, count, key, each)
        {
            if (!yyjson_mut_obj_add(made, yyjson_mut_val_mut_copy(doc, key),
                                    schema_complete(doc, field->message, each)))
                return NULL;
        }
        return made;
    }
    return schema_complete(doc, field->message, value);
}

struct yyjson_mut_val *schema_complete(struct yyjson_mut_doc *doc,
                                       const struct schema_message *message,
                                       struct yyjson_mut_val *value)
{
    struct yyjson_mut_val *object = yyjson_mut_obj(doc);

    for (uint32_t i = 0; i < message->count; i++) {
        const struct schema_field *field = &message->fields[i];
        struct yyjson_mut_val *old = yyjson_mut_obj_get(value, field->name), *made;
        bool has_presence = field->label == SCHEMA_ONEOF ||
                            (field->label == SCHEMA_ONE && field->type == SCHEMA_MESSAGE);
        if (old == NULL && has_presence)
            continue;
        made = old != NULL ? complete_value(doc, field, old) : default_of(doc, field);
        if (!yyjson_mut_obj_add(object, yyjson_mut_str(doc, field->name), made))
            return NULL;
    }
    return object;
}

/* -- acts -------------------------------------------------------------------------------------- */

enum { ACTS_MAX = 64 };

struct walk {
    struct reader path; /* only its path */
    schema_act_fn *on_act;
    void *context;
    uint32_t seen_count;
    const struct schema_field *seen[ACTS_MAX];
};

static bool is_default(const struct schema_field *field, struct yyjson_mut_val *value)
{
    if (field->label == SCHEMA_MANY)
        return yyjson_mut_arr_size(value) == 0;
    if (field->label == SCHEMA_MAP)
        return yyjson_mut_obj_size(value) == 0;
    switch (field->type) {
    case SCHEMA_BOOL: return yyjson_mut_is_false(value);
    case SCHEMA_STRING: return yyjson_mut_get_len(value) == 0;
    case SCHEMA_ENUM: return yyjson_mut_equals_str(value, field->values->values[0].name);
    case SCHEMA_MESSAGE: return false;
    default: return yyjson_mut_is_num(value) && !(fabs(yyjson_mut_get_num(value)) > 0);
    }
}

static bool tell(struct walk *w, const struct schema_field *field)
{
    for (uint32_t i = 0; i < w->seen_count; i++)
        if (w->seen[i] == field)
            return true;
    require(w->seen_count < ACTS_MAX);
    w->seen[w->seen_count++] = field;
    return w->on_act(w->context, field, w->path.path);
}

static bool walk_message(struct walk *w, const struct schema_message *message,
                         struct yyjson_mut_val *value);

static bool walk_below(struct walk *w, const struct schema_field *field,
                       struct yyjson_mut_val *value)
{
    size_t index, count, before;
    struct yyjson_mut_val *key, *each;

    if (field->label == SCHEMA_MANY) {
        yyjson_mut_arr_foreach(value, index, count, each)
        {
            before = path_push(&w->path, "[%zu]", index);
            if (!walk_message(w, field->message, each))
                return false;
            path_pop(&w->path, before);
        }
        return true;
    }
    if (field->label == SCHEMA_MAP) {
        yyjson_mut_obj_foreach(value, index, count, key, each)
        {
            before = path_push(&w->path, "['%.64s']", yyjson_mut_get_str(key));
            if (!walk_message(w, field->message, each))
                return false;
            path_pop(&w->path, before);
        }
        return true;
    }
    return walk_message(w, field->message, value);
}

static bool walk_message(struct walk *w, const struct schema_message *message,
                         struct yyjson_mut_val *value)
{
    for (uint32_t i = 0; i < message->count; i++) {
        const struct schema_field *field = &message->fields[i];
        struct yyjson_mut_val *given = yyjson_mut_obj_get(value, field->name);
        if (given == NULL || is_default(field, given))
            continue;
        size_t before = path_push(&w->path, "%s%s", w->path.path_size == 0 ? "" : ".", field->name);
        bool is_told =
            field->act == ACT_IGNORED || field->act == ACT_PARTLY || field->act == ACT_REFUSED;
        bool goes_on = field->act == ACT_BUILT || field->act == ACT_PARTLY;
        if (is_told && !tell(w, field))
            return false;
        if (goes_on && field->type == SCHEMA_MESSAGE && !walk_below(w, field, given))
            return false;
        path_pop(&w->path, before);
    }
    return true;
}

bool schema_walk_acts(const struct schema_message *message, struct yyjson_mut_val *value,
                      schema_act_fn *on_act, void *context)
{
    struct walk w = { .on_act = on_act, .context = context };

    return walk_message(&w, message, value);
}
