/* penstock_pb_json.c - SessionRequest from JSON, SessionResponse to it. SPDX-License-Identifier: Apache-2.0
 *
 * One pass, without a tree: a tensor's values are only stepped over here and read straight into the
 * tensor's memory later. Names are those of the .proto in both of protobuf's spellings; what is easier
 * to write by hand is taken besides (penstock_pb.h says what).
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/arena.h"
#include "codec/number.h"
#include "codec/penstock_pb_internal.h"
#include "codec/tensor_json.h"
#include "model/dtype.h"

enum { PATH_BYTES = 128, KEY_SHOWN = 40 };

struct reader {
    struct json_cursor c;
    struct arena *arena;
    struct penstock_pb_request *request;
    const char **ret_field;
    struct err *err;
    char path[PATH_BYTES]; /* of the value that is being read */
    size_t path_size;
};

/* -- where we are ------------------------------------------------------------------------------- */

/* Goes one member or element deeper; returns what leaves it again. What does not fit is left out. */
static size_t enter(struct reader *r, const char *text, size_t size)
{
    size_t before = r->path_size;

    size = MIN(size, sizeof r->path - 1 - before);
    memcpy(r->path + before, text, size);
    r->path_size += size;
    r->path[r->path_size] = '\0';
    return before;
}

static size_t enter_member(struct reader *r, const char *name)
{
    size_t before = r->path_size;

    if (before != 0)
        enter(r, ".", 1);
    enter(r, name, strlen(name));
    return before;
}

static size_t enter_index(struct reader *r, uint32_t index)
{
    char text[16] = "[";
    size_t size = 1 + number_write_u64(text + 1, index);

    text[size++] = ']';
    return enter(r, text, size);
}

static void leave(struct reader *r, size_t before)
{
    r->path_size = before;
    r->path[before] = '\0';
}

static COLD enum err_code at_field(struct reader *r, enum err_code code)
{
    if (r->ret_field != NULL && code == E_INVALID && r->path_size != 0)
        *r->ret_field = arena_strndup(r->arena, r->path, r->path_size);
    return code;
}

static COLD PRINTF_LIKE(2, 3) enum err_code fail(struct reader *r, const char *format, ...)
{
    char text[300];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err_set(r->err, E_INVALID, "%s%s%s", r->path, r->path_size == 0 ? "" : ": ", text);
    return at_field(r, E_INVALID);
}

static COLD enum err_code no_memory(struct reader *r)
{
    return err_set(r->err, E_EXHAUSTED, "no memory to read the message; retry later");
}

/* The calls of tensor_json.h's reader say where themselves. */
#define READ(r, call)                                                                              \
    do {                                                                                           \
        enum err_code read_code_ = (call);                                                         \
        if (UNLIKELY(read_code_ != OK))                                                            \
            return at_field(r, read_code_);                                                        \
    } while (0)

/* -- members ------------------------------------------------------------------------------------ */

/* "binaryInput" is "binary_input", as protobuf makes the one of the other. */
static bool is_named(struct slice key, const char *name)
{
    size_t i = 0;

    if (slice_is(key, name))
        return true;
    for (const char *at = name; *at != '\0'; at++, i++) {
        char c = *at;
        if (c == '_') {
            at++;
            c = (char)(*at - 'a' + 'A');
        }
        if (i >= key.size || key.data[i] != (uint8_t)c)
            return false;
    }
    return i == key.size;
}

struct member {
    const char *name;
    enum err_code (*read)(struct reader *r, void *into);
};

static COLD enum err_code unknown_member(struct reader *r, struct slice key,
                                         const struct member *members, size_t count)
{
    char known[200];
    size_t size = 0;

    for (size_t i = 0; i < count && size + 24 < sizeof known; i++)
        size += (size_t)snprintf(known + size, sizeof known - size, "%s%s", i == 0 ? "" : ", ",
                                 members[i].name);
    return fail(r, "no member '%.*s' is known here; these are: %s", SLICE_ARG(slice_first(key, KEY_SHOWN)),
                size == 0 ? "none" : known);
}

/* The next member's name and its colon, where there is one. */
static enum err_code next_key(struct reader *r, bool is_first, bool *ret_has_more,
                              struct slice *ret)
{
    TRY(json_more(&r->c, '}', is_first, ret_has_more, r->path, r->err));
    if (!*ret_has_more)
        return OK;
    TRY(json_string(&r->c, r->arena, ret, r->path, r->err));
    return json_take(&r->c, ':', r->path, r->err);
}

/* null is protobuf's JSON for a field that is not there. */
static enum err_code skip_null(struct reader *r, bool *ret_was_null)
{
    *ret_was_null = json_peek(&r->c) == 'n';
    if (*ret_was_null)
        READ(r, json_skip(&r->c, NULL, r->path, r->err));
    return OK;
}

static enum err_code read_members(struct reader *r, const struct member *members, size_t count,
                                  void *into)
{
    uint32_t seen = 0;
    bool has_more, is_null;

    READ(r, json_take(&r->c, '{', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        struct slice key;
        size_t i = 0;
        READ(r, next_key(r, is_first, &has_more, &key));
        if (!has_more)
            return OK;
        while (i < count && !is_named(key, members[i].name))
            i++;
        if (i == count)
            return unknown_member(r, key, members, count);
        if ((seen & 1u << i) != 0)
            return fail(r, "member '%s' is there twice", members[i].name);
        seen |= 1u << i;
        size_t before = enter_member(r, members[i].name);
        TRY(skip_null(r, &is_null));
        if (!is_null)
            TRY(members[i].read(r, into));
        leave(r, before);
    }
}

/* -- values ------------------------------------------------------------------------------------- */

static enum err_code read_string(struct reader *r, void *into)
{
    READ(r, json_string(&r->c, r->arena, into, r->path, r->err));
    return OK;
}

/* protobuf's JSON has integers of 64 bits as strings; numbers are taken as well. */
static enum err_code read_u64(struct reader *r, void *into)
{
    struct slice text;

    if (json_peek(&r->c) != '"') {
        READ(r, json_u64(&r->c, into, r->path, r->err));
        return OK;
    }
    READ(r, json_string(&r->c, r->arena, &text, r->path, r->err));
    return slice_to_u64(text, into)
               ? OK
               : fail(r, "'%.*s' is no whole number", SLICE_ARG(slice_first(text, KEY_SHOWN)));
}

static enum err_code read_i64(struct reader *r, int64_t *ret)
{
    struct slice text;

    if (json_peek(&r->c) != '"') {
        READ(r, json_i64(&r->c, ret, r->path, r->err));
        return OK;
    }
    READ(r, json_string(&r->c, r->arena, &text, r->path, r->err));
    struct json_cursor inner = { text.data, text.data, text.data + text.size };
    if (text.size == 0 || json_i64(&inner, ret, r->path, r->err) != OK || inner.at != inner.end)
        return fail(r, "'%.*s' is no whole number", SLICE_ARG(slice_first(text, KEY_SHOWN)));
    return OK;
}

static enum err_code read_f64(struct reader *r, void *into)
{
    READ(r, json_f64(&r->c, into, r->path, r->err));
    return OK;
}

static enum err_code read_bool(struct reader *r, void *into)
{
    READ(r, json_bool(&r->c, into, r->path, r->err));
    return OK;
}

static enum err_code read_enum(struct reader *r, int32_t *ret, const char *const *names,
                               size_t count)
{
    struct slice name;
    int64_t number;

    if (json_peek(&r->c) != '"') {
        TRY(read_i64(r, &number));
        *ret = (int32_t)MAX(MIN(number, (int64_t)INT32_MAX), (int64_t)INT32_MIN);
        return OK;
    }
    READ(r, json_string(&r->c, r->arena, &name, r->path, r->err));
    for (size_t i = 0; i < count; i++) {
        if (slice_is_nocase(name, names[i])) {
            *ret = (int32_t)i;
            return OK;
        }
    }
    return fail(r, "'%.*s' is none of those that there are", SLICE_ARG(slice_first(name, KEY_SHOWN)));
}

static enum err_code read_when_slow(struct reader *r, void *into)
{
    static const char *const names[] = { "PAUSE", "LATEST", "CONCAT" };

    return read_enum(r, into, names, COUNT(names));
}

static enum err_code read_reduce_kind(struct reader *r, void *into)
{
    static const char *const names[] = { "DEFAULT", "EACH", "STACK", "LAST", "WINDOW" };

    return read_enum(r, into, names, COUNT(names));
}

/* One more in a list that grows: *list has `count` of `size` bytes. */
static void *grow(struct reader *r, void **list, uint32_t count, size_t size)
{
    if ((count & (count - 1)) == 0) { /* 0, 1, 2, 4 ...: full */
        uint32_t room = count == 0 ? 1 : 2 * count;
        void *more = arena_alloc(r->arena, room * size);
        if (more == NULL)
            return NULL;
        if (count != 0)
            memcpy(more, *list, count * size);
        *list = more;
    }
    return (uint8_t *)*list + count * size;
}

/* -- tensors ------------------------------------------------------------------------------------ */

static enum err_code read_shape(struct reader *r, void *into)
{
    struct penstock_pb_tensor *t = into;
    bool has_more;

    READ(r, json_take(&r->c, '[', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        READ(r, json_more(&r->c, ']', is_first, &has_more, r->path, r->err));
        if (!has_more)
            return OK;
        if (t->rank == PENSTOCK_RANK_MAX)
            return fail(r, "it has more than %u dimensions, the most a tensor may have",
                        PENSTOCK_RANK_MAX);
        TRY(read_i64(r, &t->shape[t->rank]));
        t->rank++;
    }
}

static enum err_code set_values(struct reader *r, struct penstock_pb_tensor *t,
                                enum penstock_pb_list list)
{
    if (t->list != PENSTOCK_PB_NO_VALUES)
        return fail(r, "a tensor has its values once; these are there beside '%s'",
                    penstock_pb_list_names[t->list]);
    t->list = list;
    t->is_json = list != PENSTOCK_PB_RAW;
    return OK;
}

static enum err_code read_raw(struct reader *r, void *into)
{
    struct penstock_pb_tensor *t = into;
    struct slice text;

    TRY(set_values(r, t, PENSTOCK_PB_RAW));
    READ(r, json_string(&r->c, r->arena, &text, r->path, r->err));
    uint8_t *bytes = arena_aligned(r->arena, 64, text.size / 4 * 3 + 3);
    if (bytes == NULL)
        return no_memory(r);
    size_t size;
    if (!penstock_pb_base64(text, bytes, &size))
        return fail(r, "it is no base64");
    t->values = slice_make(bytes, size);
    return OK;
}

static enum err_code read_data(struct reader *r, void *into)
{
    struct penstock_pb_tensor *t = into;

    TRY(set_values(r, t, PENSTOCK_PB_DATA));
    READ(r, json_skip(&r->c, &t->values, r->path, r->err));
    return OK;
}

static enum err_code read_list_values(struct reader *r, void *into)
{
    struct penstock_pb_tensor *t = into;

    if (json_peek(&r->c) != '[')
        return fail(r, "it is no list");
    READ(r, json_skip(&r->c, &t->values, r->path, r->err));
    return OK;
}

static enum err_code read_list(struct reader *r, struct penstock_pb_tensor *t,
                               enum penstock_pb_list list)
{
    static const struct member members[] = { { "values", read_list_values } };

    TRY(set_values(r, t, list));
    t->values = slice_of("[]");
    return read_members(r, members, COUNT(members), t);
}

#define LIST_READER(name, list)                                                                    \
    static enum err_code name(struct reader *r, void *into)                                        \
    {                                                                                              \
        return read_list(r, into, list);                                                           \
    }
LIST_READER(read_bools, PENSTOCK_PB_BOOLS)
LIST_READER(read_int32s, PENSTOCK_PB_INT32S)
LIST_READER(read_int64s, PENSTOCK_PB_INT64S)
LIST_READER(read_uint32s, PENSTOCK_PB_UINT32S)
LIST_READER(read_uint64s, PENSTOCK_PB_UINT64S)
LIST_READER(read_floats, PENSTOCK_PB_FLOATS)
LIST_READER(read_doubles, PENSTOCK_PB_DOUBLES)
LIST_READER(read_strings, PENSTOCK_PB_STRINGS)
LIST_READER(read_bytes_list, PENSTOCK_PB_BYTES_LIST)

static enum err_code read_name(struct reader *r, void *into)
{
    return read_string(r, &((struct penstock_pb_tensor *)into)->name);
}

static enum err_code read_datatype(struct reader *r, void *into)
{
    return read_string(r, &((struct penstock_pb_tensor *)into)->datatype);
}

static const struct member tensor_members[] = {
    { "name", read_name },        { "data", read_data },       { "shape", read_shape },
    { "datatype", read_datatype }, { "raw", read_raw },         { "bools", read_bools },
    { "int32s", read_int32s },    { "int64s", read_int64s },   { "uint32s", read_uint32s },
    { "uint64s", read_uint64s },  { "floats", read_floats },   { "doubles", read_doubles },
    { "strings", read_strings },  { "bytes_list", read_bytes_list },
};

static enum err_code more_inputs(struct reader *r, struct penstock_pb_tensor **ret)
{
    struct penstock_pb_request *request = r->request;
    void *list = request->inputs;

    if (request->inputs_count == PENSTOCK_PB_TENSORS_MAX)
        return fail(r, "there are more than %d of them", PENSTOCK_PB_TENSORS_MAX);
    *ret = grow(r, &list, request->inputs_count, sizeof **ret);
    if (*ret == NULL)
        return no_memory(r);
    request->inputs = list;
    request->inputs_count++;
    **ret = (struct penstock_pb_tensor){ .list = PENSTOCK_PB_NO_VALUES };
    return OK;
}

/* {"x": [1, 2], "y": "hello"}, or a tensor by its name: {"x": {"shape": [2], "data": [1, 2]}} */
static enum err_code read_inputs_by_name(struct reader *r)
{
    struct penstock_pb_tensor *t = NULL;
    bool has_more;

    READ(r, json_take(&r->c, '{', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        struct slice key;
        READ(r, next_key(r, is_first, &has_more, &key));
        if (!has_more)
            return OK;
        size_t before = enter_index(r, r->request->inputs_count);
        TRY(more_inputs(r, &t));
        t->name = key;
        if (json_peek(&r->c) == '{')
            TRY(read_members(r, tensor_members + 1, COUNT(tensor_members) - 1, t));
        else
            TRY(read_data(r, t));
        leave(r, before);
    }
}

static enum err_code read_inputs(struct reader *r, void *into UNUSED)
{
    struct penstock_pb_tensor *t = NULL;
    bool has_more;

    if (json_peek(&r->c) == '{')
        return read_inputs_by_name(r);
    READ(r, json_take(&r->c, '[', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        READ(r, json_more(&r->c, ']', is_first, &has_more, r->path, r->err));
        if (!has_more)
            return OK;
        size_t before = enter_index(r, r->request->inputs_count);
        TRY(more_inputs(r, &t));
        TRY(read_members(r, tensor_members, COUNT(tensor_members), t));
        leave(r, before);
    }
}

/* -- parameters --------------------------------------------------------------------------------- */

static enum err_code set_kind(struct reader *r, struct kserve_pb_parameter *p,
                              enum kserve_pb_kind kind)
{
    if (p->kind != KSERVE_PB_NONE)
        return fail(r, "a parameter has one value");
    p->kind = kind;
    return OK;
}

#define VALUE_READER(name, kind, member, read)                                                     \
    static enum err_code name(struct reader *r, void *into)                                        \
    {                                                                                              \
        TRY(set_kind(r, into, kind));                                                              \
        return read(r, &((struct kserve_pb_parameter *)into)->member);                             \
    }
VALUE_READER(read_bool_value, KSERVE_PB_BOOL, value.b, read_bool)
VALUE_READER(read_int64_value, KSERVE_PB_INT64, value.i, read_i64)
VALUE_READER(read_double_value, KSERVE_PB_DOUBLE, value.d, read_f64)
VALUE_READER(read_string_value, KSERVE_PB_STRING, text, read_string)

static enum err_code read_bare_number(struct reader *r, struct kserve_pb_parameter *p)
{
    struct json_cursor before = r->c;
    struct slice text;

    READ(r, json_skip(&r->c, &text, r->path, r->err));
    r->c = before;
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] == '.' || text.data[i] == 'e' || text.data[i] == 'E')
            return read_double_value(r, p);
    return read_int64_value(r, p);
}

static enum err_code read_parameter(struct reader *r, struct kserve_pb_parameter *p)
{
    static const struct member members[] = { { "bool_value", read_bool_value },
                                             { "int64_value", read_int64_value },
                                             { "double_value", read_double_value },
                                             { "string_value", read_string_value } };

    switch (json_peek(&r->c)) {
    case '{': return read_members(r, members, COUNT(members), p);
    case '"': return read_string_value(r, p);
    case 't':
    case 'f': return read_bool_value(r, p);
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9': return read_bare_number(r, p);
    default: return fail(r, "it takes true, false, a number or a string");
    }
}

static enum err_code read_parameters(struct reader *r, void *into)
{
    struct kserve_pb_parameters *parameters = &((struct penstock_pb_request *)into)->parameters;
    bool has_more;

    READ(r, json_take(&r->c, '{', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        struct slice key;
        READ(r, next_key(r, is_first, &has_more, &key));
        if (!has_more)
            return OK;
        if (parameters->count == PENSTOCK_PB_PARAMETERS_MAX)
            return fail(r, "there are more than %d of them", PENSTOCK_PB_PARAMETERS_MAX);
        for (uint32_t i = 0; i < parameters->count; i++)
            if (slice_eq(parameters->items[i].key, key))
                return fail(r, "'%.*s' is there twice", SLICE_ARG(slice_first(key, KEY_SHOWN)));
        void *list = parameters->items;
        struct kserve_pb_parameter *p = grow(r, &list, parameters->count, sizeof *p);
        if (p == NULL)
            return no_memory(r);
        parameters->items = list;
        parameters->count++;
        *p = (struct kserve_pb_parameter){ .key = key, .kind = KSERVE_PB_NONE };
        char name[KEY_SHOWN + 1];
        snprintf(name, sizeof name, "%.*s", SLICE_ARG(slice_first(key, KEY_SHOWN)));
        size_t before = enter_member(r, name);
        TRY(read_parameter(r, p));
        leave(r, before);
    }
}

/* -- messages ----------------------------------------------------------------------------------- */

static enum err_code read_outputs(struct reader *r, void *into)
{
    struct penstock_pb_request *request = into;
    bool has_more;

    READ(r, json_take(&r->c, '[', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        READ(r, json_more(&r->c, ']', is_first, &has_more, r->path, r->err));
        if (!has_more)
            return OK;
        if (request->outputs_count == PENSTOCK_PB_NAMES_MAX)
            return fail(r, "there are more than %d of them", PENSTOCK_PB_NAMES_MAX);
        void *list = request->outputs;
        struct slice *name = grow(r, &list, request->outputs_count, sizeof *name);
        if (name == NULL)
            return no_memory(r);
        request->outputs = list;
        TRY(read_string(r, name));
        request->outputs_count++;
    }
}

#define FIELD_READER(name, type, field, read)                                                      \
    static enum err_code name(struct reader *r, void *into)                                        \
    {                                                                                              \
        return read(r, &((struct type *)into)->field);                                             \
    }
FIELD_READER(read_sequence, penstock_pb_request, sequence, read_u64)
FIELD_READER(read_model, penstock_pb_request, model, read_string)
FIELD_READER(read_version, penstock_pb_request, version, read_string)
FIELD_READER(read_id, penstock_pb_request, id, read_string)
FIELD_READER(read_window, penstock_pb_request, window, read_u64)
FIELD_READER(read_step, penstock_pb_request, step, read_u64)
FIELD_READER(read_pad, penstock_pb_request, pad, read_u64)
FIELD_READER(read_kind, penstock_pb_request, reduce, read_reduce_kind)
FIELD_READER(read_slow, penstock_pb_request, when_slow, read_when_slow)
FIELD_READER(read_credit, penstock_pb_request, credit, read_u64)
FIELD_READER(read_binary_input, penstock_pb_request, binary_input, read_string)
FIELD_READER(read_binary_outputs, penstock_pb_request, has_binary_outputs, read_bool)
FIELD_READER(read_resume, penstock_pb_request, resume_seconds, read_f64)
FIELD_READER(read_responses, penstock_pb_request, responses, read_u64)

static enum err_code read_reduce(struct reader *r, void *into)
{
    static const struct member members[] = {
        { "kind", read_kind }, { "window", read_window }, { "step", read_step }, { "pad", read_pad }
    };
    struct penstock_pb_request *request = into;

    request->has_reduce = true;
    if (json_peek(&r->c) == '"') /* "reduce": "STACK" */
        return read_kind(r, into);
    return read_members(r, members, COUNT(members), into);
}

static enum err_code begin_kind(struct reader *r, enum penstock_pb_kind kind)
{
    if (r->request->kind != PENSTOCK_PB_NOTHING && r->request->kind != kind)
        return fail(r, "a message is one of begin, input, interrupt, grant and finish; this one is "
                       "more than one of them");
    r->request->kind = kind;
    return OK;
}

static enum err_code read_begin(struct reader *r, void *into)
{
    static const struct member members[] = {
        { "model", read_model },           { "version", read_version },
        { "outputs", read_outputs },       { "parameters", read_parameters },
        { "reduce", read_reduce },         { "when_slow", read_slow },
        { "credit", read_credit },         { "binary_input", read_binary_input },
        { "binary_outputs", read_binary_outputs }, { "resume_seconds", read_resume },
    };

    TRY(begin_kind(r, PENSTOCK_PB_BEGIN));
    return read_members(r, members, COUNT(members), into);
}

static enum err_code read_input(struct reader *r, void *into)
{
    static const struct member members[] = { { "inputs", read_inputs },
                                             { "id", read_id },
                                             { "parameters", read_parameters } };

    TRY(begin_kind(r, PENSTOCK_PB_INPUT));
    return read_members(r, members, COUNT(members), into);
}

static enum err_code read_nothing(struct reader *r, enum penstock_pb_kind kind)
{
    TRY(begin_kind(r, kind));
    return read_members(r, NULL, 0, NULL);
}

static enum err_code read_interrupt(struct reader *r, void *into UNUSED)
{
    return read_nothing(r, PENSTOCK_PB_INTERRUPT);
}

static enum err_code read_finish(struct reader *r, void *into UNUSED)
{
    return read_nothing(r, PENSTOCK_PB_FINISH);
}

static enum err_code read_grant(struct reader *r, void *into)
{
    static const struct member members[] = { { "responses", read_responses } };

    TRY(begin_kind(r, PENSTOCK_PB_GRANT));
    return read_members(r, members, COUNT(members), into);
}

/* An input that stands bare: its members are the message's own. */
static enum err_code read_bare_inputs(struct reader *r, void *into)
{
    TRY(begin_kind(r, PENSTOCK_PB_INPUT));
    return read_inputs(r, into);
}

static enum err_code read_bare_id(struct reader *r, void *into)
{
    TRY(begin_kind(r, PENSTOCK_PB_INPUT));
    return read_id(r, into);
}

static enum err_code read_bare_parameters(struct reader *r, void *into)
{
    TRY(begin_kind(r, PENSTOCK_PB_INPUT));
    return read_parameters(r, into);
}

static const struct member message_members[] = {
    { "input", read_input },     { "inputs", read_bare_inputs },
    { "sequence", read_sequence }, { "begin", read_begin },
    { "interrupt", read_interrupt }, { "grant", read_grant },
    { "finish", read_finish },   { "id", read_bare_id },
    { "parameters", read_bare_parameters },
};

enum err_code penstock_pb_decode_json(struct penstock_pb_request *ret, struct slice text,
                                      struct arena *arena, const char **ret_field, struct err *err)
{
    struct penstock_pb_request request = { .kind = PENSTOCK_PB_NOTHING };
    struct reader r = { .c = { text.data, text.data, text.data + text.size },
                        .arena = arena,
                        .request = &request,
                        .ret_field = ret_field,
                        .err = err };

    if (ret_field != NULL)
        *ret_field = NULL;
    json_space(&r.c);
    if (json_peek(&r.c) != '{')
        return err_set(err, E_INVALID,
                       "a text message is a JSON object such as {\"inputs\":{\"x\":[1,2]}}");
    TRY(read_members(&r, message_members, COUNT(message_members), &request));
    TRY(json_end(&r.c, err));
    *ret = request;
    return OK;
}

enum penstock_pb_kind penstock_pb_peek_json(struct slice text)
{
    static const enum penstock_pb_kind kinds[COUNT(message_members)] = {
        PENSTOCK_PB_INPUT,     PENSTOCK_PB_INPUT, PENSTOCK_PB_NOTHING,
        PENSTOCK_PB_BEGIN,     PENSTOCK_PB_INTERRUPT, PENSTOCK_PB_GRANT,
        PENSTOCK_PB_FINISH,    PENSTOCK_PB_INPUT, PENSTOCK_PB_INPUT,
    };
    struct json_cursor c = { text.data, text.data, text.data + text.size };
    struct err err;
    bool has_more;

    if (json_take(&c, '{', "", &err) != OK)
        return PENSTOCK_PB_NOTHING;
    for (bool is_first = true;; is_first = false) {
        struct slice key;
        if (json_more(&c, '}', is_first, &has_more, "", &err) != OK || !has_more ||
            json_skip(&c, &key, "", &err) != OK || key.size < 2 || json_take(&c, ':', "", &err) != OK)
            return PENSTOCK_PB_NOTHING;
        key = slice_first(slice_skip(key, 1), key.size - 2);
        for (size_t i = 0; i < COUNT(message_members); i++)
            if (kinds[i] != PENSTOCK_PB_NOTHING && is_named(key, message_members[i].name))
                return kinds[i];
        if (json_skip(&c, NULL, "", &err) != OK)
            return PENSTOCK_PB_NOTHING;
    }
}

/* -- answers ------------------------------------------------------------------------------------ */

static void put_key(struct text *out, const char *key, bool *is_first)
{
    text_str(out, *is_first ? "\"" : ",\"");
    *is_first = false;
    text_str(out, key);
    text_str(out, "\":");
}

static void put_u64(struct text *out, const char *key, uint64_t value, bool *is_first)
{
    if (value == 0)
        return;
    put_key(out, key, is_first);
    text_u64(out, value);
}

static void put_string(struct text *out, const char *key, struct slice value, bool *is_first)
{
    if (value.size == 0)
        return;
    put_key(out, key, is_first);
    text_json(out, value);
}

static void put_true(struct text *out, const char *key, bool value, bool *is_first)
{
    if (!value)
        return;
    put_key(out, key, is_first);
    text_str(out, "true");
}

static void put_tensor_head(struct text *out, const char *name, enum penstock_dtype dtype,
                            uint32_t rank, const int64_t *shape)
{
    text_str(out, "{\"name\":");
    text_json(out, slice_of(name));
    text_str(out, ",\"datatype\":\"");
    text_str(out, dtype_name(dtype));
    text_str(out, "\",\"shape\":[");
    for (uint32_t i = 0; i < rank; i++) {
        if (i != 0)
            text_byte(out, ',');
        text_i64(out, shape[i]);
    }
    text_byte(out, ']');
}

static enum err_code put_outputs(struct text *out, const struct penstock_pb_describe *described,
                                 const struct penstock_pb_answer *a, bool has_binary,
                                 bool *is_first, struct err *err)
{
    static const struct tensor_json_style style = { .nonfinite = JSON_NONFINITE_STRINGS };

    if (a->outputs_count == 0)
        return OK;
    put_key(out, "outputs", is_first);
    for (uint32_t i = 0; i < a->outputs_count; i++) {
        const struct penstock_pb_output *o = &a->outputs[i];
        const struct penstock_pb_describe *d = &described[o->index];
        text_byte(out, i == 0 ? '[' : ',');
        put_tensor_head(out, d->name, d->dtype, o->rank, o->shape);
        if (!has_binary) {
            struct penstock_tensor tensor = { .name = d->name,
                                              .dtype = d->dtype,
                                              .rank = o->rank,
                                              .data = o->bytes.data,
                                              .size = o->bytes.size };
            memcpy(tensor.shape, o->shape, o->rank * sizeof o->shape[0]);
            text_str(out, ",\"data\":");
            TRY(tensor_json_write(out, &tensor, style, err));
        }
        text_byte(out, '}');
    }
    text_byte(out, ']');
    return OK;
}

static void put_marks(struct text *out, const struct penstock_pb_answer *a, bool *is_first)
{
    char number[NUMBER_TEXT_MAX];

    if (a->marks_count == 0)
        return;
    put_key(out, "marks", is_first);
    for (uint32_t i = 0; i < a->marks_count; i++) {
        const struct penstock_pb_mark *mark = &a->marks[i];
        text_str(out, i == 0 ? "[{\"name\":" : ",{\"name\":");
        text_json(out, slice_of(mark->name));
        text_str(out, mark->is_start ? ",\"isStart\":true" : ",\"isStart\":false");
        text_str(out, ",\"row\":");
        text_u64(out, mark->row);
        if (isfinite(mark->score)) {
            text_str(out, ",\"score\":");
            text_put(out, number, number_write_f64(number, mark->score));
        }
        text_byte(out, '}');
    }
    text_byte(out, ']');
}

static void put_described(struct text *out, const char *key,
                          const struct penstock_pb_describe *list, uint32_t count, bool *is_first)
{
    if (count == 0)
        return;
    put_key(out, key, is_first);
    for (uint32_t i = 0; i < count; i++) {
        text_byte(out, i == 0 ? '[' : ',');
        put_tensor_head(out, list[i].name, list[i].dtype, list[i].rank, list[i].dims);
        text_byte(out, '}');
    }
    text_byte(out, ']');
}

static enum err_code put_body(struct text *out, const struct penstock_pb_describe *described,
                              const struct penstock_pb_answer *a, bool has_binary, struct err *err)
{
    bool is_first = true;

    switch (a->kind) {
    case PENSTOCK_PB_INFERRED: /* not over WebSockets */
    case PENSTOCK_PB_OUTPUT:
        put_u64(out, "input", a->input, &is_first);
        put_string(out, "id", a->id, &is_first);
        TRY(put_outputs(out, described, a, has_binary, &is_first, err));
        put_u64(out, "merged", a->merged, &is_first);
        put_marks(out, a, &is_first);
        put_true(out, "isLast", a->is_last, &is_first);
        break;
    case PENSTOCK_PB_BEGUN:
        put_string(out, "model", a->model, &is_first);
        put_string(out, "version", a->version, &is_first);
        put_string(out, "session", a->session, &is_first);
        put_u64(out, "inputsAtOnce", a->inputs_at_once, &is_first);
        put_described(out, "inputs", a->takes, a->takes_count, &is_first);
        put_described(out, "outputs", a->gives, a->gives_count, &is_first);
        put_u64(out, "received", a->received, &is_first);
        break;
    case PENSTOCK_PB_ANSWERED:
        put_u64(out, "input", a->input, &is_first);
        put_string(out, "id", a->id, &is_first);
        put_u64(out, "code", a->code, &is_first);
        put_string(out, "message", a->message, &is_first);
        put_string(out, "field", a->field, &is_first);
        put_u64(out, "retryAfterMs", a->retry_after_ms, &is_first);
        break;
    case PENSTOCK_PB_INTERRUPTED: put_u64(out, "request", a->input, &is_first); break;
    case PENSTOCK_PB_END:
        put_u64(out, "code", a->code, &is_first);
        put_string(out, "message", a->message, &is_first);
        put_string(out, "field", a->field, &is_first);
        put_u64(out, "retryAfterMs", a->retry_after_ms, &is_first);
        break;
    }
    return OK;
}

enum err_code penstock_pb_write_json(struct text *out, const struct penstock_pb_describe *described,
                                     const struct penstock_pb_answer *a, bool has_binary,
                                     struct err *err)
{
    static const char *const names[] = {
        [PENSTOCK_PB_BEGUN] = "begun",       [PENSTOCK_PB_OUTPUT] = "output",
        [PENSTOCK_PB_ANSWERED] = "answered", [PENSTOCK_PB_INTERRUPTED] = "interrupted",
        [PENSTOCK_PB_END] = "end",           [PENSTOCK_PB_INFERRED] = "output",
    };

    text_str(out, "{\"sequence\":");
    text_u64(out, a->sequence);
    text_str(out, ",\"");
    text_str(out, names[a->kind]);
    text_str(out, "\":{");
    TRY(put_body(out, described, a, has_binary, err));
    text_str(out, "}}");
    return OK;
}
