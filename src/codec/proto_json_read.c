/* proto_json_read.c - protobuf messages from JSON; proto.h says which form.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Token by token (tensor_json.h) straight into the message, guided by its type: no tree of the JSON
 * is built. The path of the place being read is kept for errors.
 */
#include "codec/proto_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/base64.h"
#include "codec/number.h"
#include "codec/tensor_json.h"
#include "model/nearest.h"

enum { PATH_ROOM = 512 };

struct reader {
    struct json_cursor c;
    struct proto_arena *arena;
    const struct proto_schema *schema;
    struct err *err;
    unsigned depth;
    size_t path_size;
    char path[PATH_ROOM];
};

static enum err_code read_message(struct reader *r, upb_Message *m, const upb_MessageDef *type);

/* Fails at the cursor, in the words of the pull reader. */
static enum err_code PRINTF_LIKE(2, 3) refuse(struct reader *r, const char *format, ...)
{
    char what[ERR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return err_set(r->err, E_INVALID, "%s%s(byte %zu): %s", r->path, r->path_size != 0 ? " " : "",
                   (size_t)(r->c.at - r->c.start), what);
}

static enum err_code no_memory(struct reader *r)
{
    return proto_no_memory(r->arena, r->err);
}

static size_t path_push(struct reader *r, const char *between, struct slice name, const char *after)
{
    size_t before = r->path_size;
    int size = snprintf(r->path + before, sizeof r->path - before, "%s%.*s%s", between,
                        SLICE_ARG(name), after);

    if (size < 0 || before + (size_t)size >= sizeof r->path)
        r->path[before] = '\0'; /* too long to tell */
    else
        r->path_size += (size_t)size;
    return before;
}

static void path_pop(struct reader *r, size_t before)
{
    r->path_size = before;
    r->path[before] = '\0';
}

static size_t path_field(struct reader *r, const upb_FieldDef *f)
{
    return path_push(r, r->path_size != 0 ? "." : "", slice_of(upb_FieldDef_Name(f)), "");
}

static size_t path_index(struct reader *r, size_t index)
{
    char digits[24];

    return path_push(r, "[", slice_make(digits, number_write_u64(digits, index)), "]");
}

static enum err_code read_string(struct reader *r, struct slice *ret)
{
    if (json_peek(&r->c) == '"')
        return json_string(&r->c, r->arena->memory, ret, r->path, r->err);
    return refuse(r, "expected a string");
}

static bool is_null(struct reader *r)
{
    return json_peek(&r->c) == 'n' && (size_t)(r->c.end - r->c.at) >= 4 &&
           memcmp(r->c.at, "null", 4) == 0;
}

static enum err_code read_null(struct reader *r)
{
    if (!is_null(r))
        return refuse(r, "expected null");
    r->c.at += 4;
    return OK;
}

/* A number, or one in quotes: the digits into *ret. Its own words for what stands there. */
static enum err_code read_digits(struct reader *r, struct slice *ret, bool *ret_is_string)
{
    uint8_t first = json_peek(&r->c);

    *ret_is_string = first == '"';
    if (*ret_is_string)
        return json_string(&r->c, r->arena->memory, ret, r->path, r->err);
    if (first != '-' && (first < '0' || first > '9'))
        return refuse(r, "expected a number");
    return json_skip(&r->c, ret, r->path, r->err);
}

static enum err_code read_whole(struct reader *r, upb_CType kind, upb_MessageValue *ret)
{
    struct json_cursor before = r->c;
    uint64_t magnitude = 0, most;
    bool is_negative = false, is_string;
    struct slice digits;
    size_t size = 0;

    TRY(read_digits(r, &digits, &is_string));
    enum number_whole whole = number_read_whole(digits, &is_negative, &magnitude, &size);
    if (whole == NUMBER_NONE || size != digits.size || whole == NUMBER_HAS_FRACTION) {
        r->c = before;
        return refuse(r, "%.*s is no whole number", (int)MIN(digits.size, (size_t)40),
                      (const char *)digits.data);
    }
    switch (kind) {
    case kUpb_CType_Int32:
    case kUpb_CType_Enum: most = is_negative ? UINT64_C(1) << 31 : INT32_MAX; break;
    case kUpb_CType_UInt32: most = is_negative ? 0 : UINT32_MAX; break;
    case kUpb_CType_Int64: most = is_negative ? UINT64_C(1) << 63 : INT64_MAX; break;
    default: most = is_negative ? 0 : UINT64_MAX; break;
    }
    if (whole == NUMBER_OUT_OF_RANGE || magnitude > most) {
        r->c = before;
        return refuse(r, "%.*s is out of range", (int)MIN(digits.size, (size_t)40),
                      (const char *)digits.data);
    }
    uint64_t bits = is_negative ? 0 - magnitude : magnitude;
    if (kind == kUpb_CType_Int32 || kind == kUpb_CType_Enum)
        ret->int32_val = (int32_t)(int64_t)bits;
    else if (kind == kUpb_CType_UInt32)
        ret->uint32_val = (uint32_t)bits;
    else
        ret->uint64_val = bits;
    return OK;
}

static enum err_code read_real(struct reader *r, bool is_float, upb_MessageValue *ret)
{
    struct json_cursor before = r->c;
    struct slice digits;
    double value = 0;
    float narrow = 0;
    bool is_string, is_word = true;

    TRY(read_digits(r, &digits, &is_string));
    if (is_string && slice_is(digits, "NaN"))
        value = (double)NAN;
    else if (is_string && slice_is(digits, "Infinity"))
        value = (double)INFINITY;
    else if (is_string && slice_is(digits, "-Infinity"))
        value = -(double)INFINITY;
    else
        is_word = false;
    narrow = (float)value;
    if (!is_word) {
        size_t size = is_float ? number_read_f32(digits, &narrow) : number_read_f64(digits, &value);
        if (digits.size == 0 || size != digits.size) {
            r->c = before;
            return refuse(r, "%.*s is no number", (int)MIN(digits.size, (size_t)40),
                          (const char *)digits.data);
        }
        if (is_float ? isinf(narrow) : isinf(value)) {
            r->c = before;
            return refuse(r, "%.*s is out of range", (int)MIN(digits.size, (size_t)40),
                          (const char *)digits.data);
        }
    }
    if (is_float)
        ret->float_val = narrow;
    else
        ret->double_val = value;
    return OK;
}

static enum err_code read_bytes(struct reader *r, upb_MessageValue *ret)
{
    struct json_cursor before = r->c;
    struct slice text;
    size_t wrong;
    uint8_t *out;

    TRY(read_string(r, &text));
    text = base64_unpadded(text);
    out = proto_alloc(r->arena, MAX(base64_decoded(text.size), (size_t)1));
    if (out == NULL)
        return no_memory(r);
    wrong = base64_decode(out, text, BASE64_ANY);
    if (wrong != text.size) {
        r->c = before;
        return refuse(r, "bytes are written in base64, and character %zu is none of it", wrong);
    }
    if (text.size % 4 == 1) {
        r->c = before;
        return refuse(r, "bytes are written in base64, and this ends within one");
    }
    ret->str_val = upb_StringView_FromDataAndSize((const char *)out, base64_decoded(text.size));
    return OK;
}

static enum err_code read_enum(struct reader *r, const upb_FieldDef *f, upb_MessageValue *ret)
{
    const upb_EnumDef *type = upb_FieldDef_EnumSubDef(f);
    struct json_cursor before = r->c;
    const upb_EnumValueDef *value;
    struct slice name;

    if (is_null(r) && proto_is_null_enum(f)) {
        ret->int32_val = 0;
        return read_null(r);
    }
    if (json_peek(&r->c) != '"')
        return read_whole(r, kUpb_CType_Enum, ret);
    TRY(read_string(r, &name));
    value = upb_EnumDef_FindValueByNameWithSize(type, (const char *)name.data, name.size);
    if (value != NULL) {
        ret->int32_val = upb_EnumValueDef_Number(value);
        return OK;
    }
    struct nearest nearest = nearest_to(name);
    for (int i = 0; i < upb_EnumDef_ValueCount(type); i++)
        nearest_offer(&nearest, upb_EnumValueDef_Name(upb_EnumDef_Value(type, i)));
    r->c = before;
    if (nearest_best(&nearest) != NULL)
        return refuse(r, "%s has no value '%.*s': did you mean %s?", upb_EnumDef_FullName(type),
                      SLICE_ARG(name), nearest_best(&nearest));
    return refuse(r, "%s has no value '%.*s' (the first is %s)", upb_EnumDef_FullName(type),
                  SLICE_ARG(name), upb_EnumValueDef_Name(upb_EnumDef_Value(type, 0)));
}

static enum err_code read_value(struct reader *r, const upb_FieldDef *f, upb_MessageValue *ret)
{
    const upb_MessageDef *inner;
    upb_Message *m;
    struct slice text;

    *ret = (upb_MessageValue){ 0 };
    switch (upb_FieldDef_CType(f)) {
    case kUpb_CType_Bool: return json_bool(&r->c, &ret->bool_val, r->path, r->err);
    case kUpb_CType_Float: return read_real(r, true, ret);
    case kUpb_CType_Double: return read_real(r, false, ret);
    case kUpb_CType_Int32:
    case kUpb_CType_UInt32:
    case kUpb_CType_Int64:
    case kUpb_CType_UInt64: return read_whole(r, upb_FieldDef_CType(f), ret);
    case kUpb_CType_Enum: return read_enum(r, f, ret);
    case kUpb_CType_Bytes: return read_bytes(r, ret);
    case kUpb_CType_String:
        TRY(read_string(r, &text));
        return proto_copy(r->arena, text, &ret->str_val) ? OK : no_memory(r);
    case kUpb_CType_Message: break;
    }
    inner = upb_FieldDef_MessageSubDef(f);
    m = upb_Message_New(upb_MessageDef_MiniTable(inner), r->arena->upb);
    if (m == NULL)
        return no_memory(r);
    ret->msg_val = m;
    return read_message(r, m, inner);
}

static enum err_code read_array(struct reader *r, upb_Message *m, const upb_FieldDef *f)
{
    upb_Array *array = upb_Message_Mutable(m, f, r->arena->upb).array;
    bool more;

    if (array == NULL)
        return no_memory(r);
    TRY(json_take(&r->c, '[', r->path, r->err));
    for (size_t i = 0;; i++) {
        upb_MessageValue value;
        TRY(json_more(&r->c, ']', i == 0, &more, r->path, r->err));
        if (!more)
            return OK;
        size_t before = path_index(r, i);
        TRY(read_value(r, f, &value));
        path_pop(r, before);
        if (!upb_Array_Append(array, value, r->arena->upb))
            return no_memory(r);
    }
}

/* A member's name as the key of a map: "true", "12", any text. */
static enum err_code read_key(struct reader *r, const upb_FieldDef *key, upb_MessageValue *ret)
{
    struct json_cursor before = r->c;
    struct slice name;

    switch (upb_FieldDef_CType(key)) {
    case kUpb_CType_String:
        TRY(read_string(r, &name));
        return proto_copy(r->arena, name, &ret->str_val) ? OK : no_memory(r);
    case kUpb_CType_Bool:
        TRY(read_string(r, &name));
        ret->bool_val = slice_is(name, "true");
        if (ret->bool_val || slice_is(name, "false"))
            return OK;
        r->c = before;
        return refuse(r, "a key of this map is \"true\" or \"false\"");
    default: return read_whole(r, upb_FieldDef_CType(key), ret);
    }
}

static enum err_code read_map(struct reader *r, upb_Message *m, const upb_FieldDef *f)
{
    const upb_MessageDef *entry = upb_FieldDef_MessageSubDef(f);
    const upb_FieldDef *key = proto_field_numbered(entry, kUpb_MapEntry_KeyFieldNumber);
    const upb_FieldDef *value = proto_field_numbered(entry, kUpb_MapEntry_ValueFieldNumber);
    upb_Map *map = upb_Message_Mutable(m, f, r->arena->upb).map;
    bool more;

    if (map == NULL)
        return no_memory(r);
    TRY(json_take(&r->c, '{', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        upb_MessageValue k = { 0 }, v;
        TRY(json_more(&r->c, '}', is_first, &more, r->path, r->err));
        if (!more)
            return OK;
        if (json_peek(&r->c) != '"')
            return refuse(r, "expected the name of a member");
        const uint8_t *name = r->c.at;
        TRY(read_key(r, key, &k));
        size_t before = path_push(r, "[", slice_make(name, (size_t)(r->c.at - name)), "]");
        TRY(json_take(&r->c, ':', r->path, r->err));
        TRY(read_value(r, value, &v));
        path_pop(r, before);
        upb_MapInsertStatus status = upb_Map_Insert(map, k, v, r->arena->upb);
        if (status == kUpb_MapInsertStatus_OutOfMemory)
            return no_memory(r);
        if (status == kUpb_MapInsertStatus_Replaced)
            return refuse(r, "this key is there twice");
    }
}

static enum err_code read_field(struct reader *r, upb_Message *m, const upb_FieldDef *f)
{
    upb_MessageValue value;

    if (upb_FieldDef_IsMap(f))
        return read_map(r, m, f);
    if (upb_FieldDef_IsRepeated(f))
        return read_array(r, m, f);
    TRY(read_value(r, f, &value));
    return upb_Message_SetFieldByDef(m, f, value, r->arena->upb) ? OK : no_memory(r);
}

static bool takes_null(const upb_FieldDef *f)
{
    if (upb_FieldDef_IsRepeated(f))
        return false;
    if (proto_is_null_enum(f))
        return true;
    return upb_FieldDef_IsSubMessage(f) &&
           proto_special(upb_FieldDef_MessageSubDef(f)) == kUpb_WellKnown_Value;
}

static enum err_code unknown_member(struct reader *r, const upb_MessageDef *type, struct slice name)
{
    int count = upb_MessageDef_FieldCount(type);
    struct nearest nearest = nearest_to(name);
    char room[400];
    struct text known;

    text_init_fixed(&known, room, sizeof room);
    for (int i = 0; i < count; i++) {
        const char *field = upb_FieldDef_Name(upb_MessageDef_Field(type, i));
        nearest_offer(&nearest, field);
        nearest_offer(&nearest, upb_FieldDef_JsonName(upb_MessageDef_Field(type, i)));
        text_str(&known, i != 0 ? ", " : "; its fields are ");
        text_str(&known, field);
    }
    name = slice_first(name, 80);
    if (nearest_best(&nearest) != NULL)
        return refuse(r, "%s has no field '%.*s': did you mean '%s'?",
                      upb_MessageDef_FullName(type), SLICE_ARG(name), nearest_best(&nearest));
    return refuse(r, "%s has no field '%.*s'%s", upb_MessageDef_FullName(type), SLICE_ARG(name),
                  text_failed(&known) ? "" : text_cstr(&known));
}

static const upb_FieldDef *field_of_member(const upb_MessageDef *type, struct slice name)
{
    const upb_FieldDef *f =
        upb_MessageDef_FindByJsonNameWithSize(type, (const char *)name.data, name.size);

    return f != NULL
               ? f
               : upb_MessageDef_FindFieldByNameWithSize(type, (const char *)name.data, name.size);
}

/* The value behind one member's name. `seen` has a bit for each field. */
static enum err_code read_member(struct reader *r, upb_Message *m, const upb_FieldDef *f,
                                 uint8_t *seen)
{
    const upb_OneofDef *oneof = upb_FieldDef_RealContainingOneof(f);
    uint32_t index = upb_FieldDef_Index(f);
    const upb_FieldDef *other;

    if ((seen[index / 8] >> index % 8 & 1) != 0)
        return refuse(r, "this is there twice");
    seen[index / 8] = (uint8_t)(seen[index / 8] | 1u << index % 8);
    if (is_null(r) && !takes_null(f))
        return read_null(r);
    other = oneof != NULL ? upb_Message_WhichOneofByDef(m, oneof) : NULL;
    if (other != NULL)
        return refuse(r, "'%s' is there already: of '%s' only one can be set",
                      upb_FieldDef_Name(other), upb_OneofDef_Name(oneof));
    return read_field(r, m, f);
}

/* Members up to the closing brace; those named "@type" pass when it is an Any's. */
static enum err_code read_members(struct reader *r, upb_Message *m, const upb_MessageDef *type,
                                  bool is_any)
{
    size_t seen_size = (size_t)upb_MessageDef_FieldCount(type) / 8 + 1;
    uint8_t few[32] = { 0 }, *seen = few;
    struct slice name;
    bool more;

    if (seen_size > sizeof few) {
        seen = proto_alloc(r->arena, seen_size);
        if (seen == NULL)
            return no_memory(r);
        memset(seen, 0, seen_size);
    }
    TRY(json_take(&r->c, '{', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        TRY(json_more(&r->c, '}', is_first, &more, r->path, r->err));
        if (!more)
            return OK;
        struct json_cursor at = r->c;
        TRY(read_string(r, &name));
        const upb_FieldDef *f = field_of_member(type, name);
        if (f == NULL && !(is_any && slice_is(name, "@type"))) {
            r->c = at;
            return unknown_member(r, type, name);
        }
        TRY(json_take(&r->c, ':', r->path, r->err));
        if (f == NULL) {
            TRY(json_skip(&r->c, NULL, r->path, r->err));
            continue;
        }
        size_t before = path_field(r, f);
        TRY(read_member(r, m, f, seen));
        path_pop(r, before);
    }
}

static enum err_code set_i64(struct reader *r, upb_Message *m, const upb_MessageDef *type,
                             uint32_t number, int64_t value)
{
    upb_MessageValue v = { .int64_val = value };

    if (upb_FieldDef_CType(proto_field_numbered(type, number)) == kUpb_CType_Int32)
        v.int32_val = (int32_t)value;
    return upb_Message_SetFieldByDef(m, proto_field_numbered(type, number), v, r->arena->upb)
               ? OK
               : no_memory(r);
}

/* Days since 1970-01-01 of a date, as date_of_days of proto_json.c has it. */
static int64_t days_of_date(int64_t year, int64_t month, int64_t day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, in_era = year - era * 400;
    int64_t in_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

    return era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year - 719468;
}

/* Digits at *at, `count` of them or, with 0, one to twelve. */
static bool take_number(struct slice *text, unsigned count, int64_t *ret)
{
    unsigned taken = 0;
    int64_t value = 0;

    while (taken < text->size && taken < (count != 0 ? count : 12) && text->data[taken] >= '0' &&
           text->data[taken] <= '9')
        value = value * 10 + (text->data[taken++] - '0');
    if (taken == 0 || (count != 0 && taken != count))
        return false;
    *text = slice_skip(*text, taken);
    *ret = value;
    return true;
}

static bool take_byte(struct slice *text, char byte)
{
    if (text->size == 0 || text->data[0] != (uint8_t)byte)
        return false;
    *text = slice_skip(*text, 1);
    return true;
}

/* A point and one to nine digits, or nothing. */
static bool take_nanos(struct slice *text, int64_t *ret)
{
    unsigned digits = 0;

    *ret = 0;
    if (!take_byte(text, '.'))
        return true;
    for (; digits < 9 && text->size != 0 && text->data[0] >= '0' && text->data[0] <= '9';
         digits++) {
        *ret = *ret * 10 + (text->data[0] - '0');
        *text = slice_skip(*text, 1);
    }
    for (unsigned i = digits; i < 9; i++)
        *ret *= 10;
    return digits != 0;
}

static bool duration_parse(struct slice text, int64_t *seconds, int64_t *nanos)
{
    bool is_negative = take_byte(&text, '-');

    if (!take_number(&text, 0, seconds) || !take_nanos(&text, nanos) || !take_byte(&text, 's') ||
        text.size != 0 || *seconds > PROTO_DURATION_MAX)
        return false;
    if (is_negative) {
        *seconds = -*seconds;
        *nanos = -*nanos;
    }
    return true;
}

/* RFC 3339. */
static bool timestamp_parse(struct slice text, int64_t *seconds, int64_t *nanos)
{
    static const uint8_t days_in[] = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    int64_t year, month, day, hour, minute, second, away_hours = 0, away_minutes = 0;
    bool is_east;

    if (!take_number(&text, 4, &year) || !take_byte(&text, '-') || !take_number(&text, 2, &month) ||
        !take_byte(&text, '-') || !take_number(&text, 2, &day) || !take_byte(&text, 'T') ||
        !take_number(&text, 2, &hour) || !take_byte(&text, ':') ||
        !take_number(&text, 2, &minute) || !take_byte(&text, ':') ||
        !take_number(&text, 2, &second) || !take_nanos(&text, nanos))
        return false;
    bool is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_in[month - 1] ||
        (month == 2 && day == 29 && !is_leap) || hour > 23 || minute > 59 || second > 59)
        return false;
    is_east = text.size != 0 && text.data[0] == '+';
    if (take_byte(&text, '+') || take_byte(&text, '-')) {
        if (!take_number(&text, 2, &away_hours) || !take_byte(&text, ':') ||
            !take_number(&text, 2, &away_minutes) || away_hours > 23 || away_minutes > 59)
            return false;
    } else if (!take_byte(&text, 'Z')) {
        return false;
    }
    int64_t away = (away_hours * 60 + away_minutes) * 60;
    *seconds = days_of_date(year, month, day) * 86400 + hour * 3600 + minute * 60 + second +
               (is_east ? -away : away);
    return text.size == 0 && *seconds >= PROTO_TIMESTAMP_MIN && *seconds <= PROTO_TIMESTAMP_MAX;
}

static enum err_code read_time(struct reader *r, upb_Message *m, const upb_MessageDef *type,
                               bool is_duration)
{
    struct json_cursor before = r->c;
    int64_t seconds = 0, nanos = 0;
    struct slice text;

    TRY(read_string(r, &text));
    if (!(is_duration ? duration_parse(text, &seconds, &nanos)
                      : timestamp_parse(text, &seconds, &nanos))) {
        r->c = before;
        return refuse(r, is_duration ? "a Duration is seconds with an s: \"1.5s\""
                                     : "a Timestamp is as in RFC 3339: \"2026-11-22T10:00:00Z\"");
    }
    TRY(set_i64(r, m, type, 1, seconds));
    return set_i64(r, m, type, 2, nanos);
}

/* Paths with commas between, lowerCamelCase to snake_case. */
static enum err_code read_mask(struct reader *r, upb_Message *m, const upb_MessageDef *type)
{
    upb_Array *paths = upb_Message_Mutable(m, proto_field_numbered(type, 1), r->arena->upb).array;
    struct slice all;

    if (paths == NULL)
        return no_memory(r);
    TRY(read_string(r, &all));
    while (all.size != 0) {
        size_t comma = slice_find(all, ','), size = 0;
        char *path = proto_alloc(r->arena, comma * 2 + 1);
        if (path == NULL)
            return no_memory(r);
        for (size_t i = 0; i < comma; i++) {
            bool is_upper = all.data[i] >= 'A' && all.data[i] <= 'Z';
            if (is_upper)
                path[size++] = '_';
            path[size++] = (char)(is_upper ? all.data[i] - 'A' + 'a' : all.data[i]);
        }
        upb_MessageValue v = { .str_val = upb_StringView_FromDataAndSize(path, size) };
        if (!upb_Array_Append(paths, v, r->arena->upb))
            return no_memory(r);
        all = slice_skip(all, MIN(comma + 1, all.size));
    }
    return OK;
}

/* google.protobuf.Value: any JSON. */
static enum err_code read_dynamic(struct reader *r, upb_Message *m, const upb_MessageDef *type)
{
    enum { VALUE_NULL = 1, VALUE_NUMBER, VALUE_STRING, VALUE_BOOL, VALUE_STRUCT, VALUE_LIST };
    uint32_t number = VALUE_NUMBER;

    switch (json_peek(&r->c)) {
    case 'n': number = VALUE_NULL; break;
    case '"': number = VALUE_STRING; break;
    case 't':
    case 'f': number = VALUE_BOOL; break;
    case '{': number = VALUE_STRUCT; break;
    case '[': number = VALUE_LIST; break;
    }
    return read_field(r, m, proto_field_numbered(type, number));
}

/* The string member "@type" of the object at the cursor, which does not move. */
static enum err_code find_any_type(struct reader *r, struct slice *ret_url)
{
    struct json_cursor begin = r->c;
    struct slice name;
    bool more;

    *ret_url = slice_make(NULL, 0);
    TRY(json_take(&r->c, '{', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        TRY(json_more(&r->c, '}', is_first, &more, r->path, r->err));
        if (!more)
            break;
        TRY(read_string(r, &name));
        TRY(json_take(&r->c, ':', r->path, r->err));
        if (!slice_is(name, "@type")) {
            TRY(json_skip(&r->c, NULL, r->path, r->err));
            continue;
        }
        TRY(read_string(r, ret_url));
        break;
    }
    r->c = begin;
    return OK;
}

/* The member "value" of an Any that holds one of Google's own types. */
static enum err_code read_any_value(struct reader *r, upb_Message *m, const upb_MessageDef *type)
{
    bool more, has_value = false;
    struct slice name;

    TRY(json_take(&r->c, '{', r->path, r->err));
    for (bool is_first = true;; is_first = false) {
        TRY(json_more(&r->c, '}', is_first, &more, r->path, r->err));
        if (!more)
            return has_value ? OK : refuse(r, "an Any of this type has its JSON under \"value\"");
        TRY(read_string(r, &name));
        TRY(json_take(&r->c, ':', r->path, r->err));
        if (slice_is(name, "@type")) {
            TRY(json_skip(&r->c, NULL, r->path, r->err));
        } else if (slice_is(name, "value") && !has_value) {
            has_value = true;
            TRY(read_message(r, m, type));
        } else {
            return refuse(r, "an Any of this type has \"@type\" and \"value\", once");
        }
    }
}

static enum err_code read_any(struct reader *r, upb_Message *m, const upb_MessageDef *type)
{
    struct proto_message whole = { .arena = r->arena };
    upb_MessageValue v = { 0 };
    struct slice url, bytes;

    TRY(find_any_type(r, &url));
    if (url.data == NULL) {
        struct json_cursor before = r->c;
        bool more;
        TRY(json_take(&r->c, '{', r->path, r->err));
        TRY(json_more(&r->c, '}', true, &more, r->path, r->err));
        if (!more) /* {} is an Any without a type */
            return OK;
        r->c = before;
        return refuse(r, "an Any needs a member \"@type\"");
    }
    whole.type = proto_any_type(r->schema, url);
    if (whole.type == NULL)
        return refuse(r, "the type %.*s is not known here", SLICE_ARG(slice_first(url, 100)));
    whole.upb = upb_Message_New(upb_MessageDef_MiniTable(whole.type), r->arena->upb);
    if (whole.upb == NULL)
        return no_memory(r);
    if (proto_special(whole.type) != kUpb_WellKnown_Unspecified)
        TRY(read_any_value(r, whole.upb, whole.type));
    else
        TRY(read_members(r, whole.upb, whole.type, true));
    TRY(proto_encode(&whole, &bytes, r->err));
    if (!proto_copy(r->arena, url, &v.str_val) ||
        !upb_Message_SetFieldByDef(m, proto_field_numbered(type, kUpb_Any_TypeFieldNumber), v,
                                   r->arena->upb))
        return no_memory(r);
    v.str_val = proto_view(bytes);
    return upb_Message_SetFieldByDef(m, proto_field_numbered(type, kUpb_Any_ValueFieldNumber), v,
                                     r->arena->upb)
               ? OK
               : no_memory(r);
}

static enum err_code read_object(struct reader *r, upb_Message *m, const upb_MessageDef *type)
{
    switch (proto_special(type)) {
    case kUpb_WellKnown_Unspecified: return read_members(r, m, type, false);
    case kUpb_WellKnown_Any: return read_any(r, m, type);
    case kUpb_WellKnown_FieldMask: return read_mask(r, m, type);
    case kUpb_WellKnown_Duration: return read_time(r, m, type, true);
    case kUpb_WellKnown_Timestamp: return read_time(r, m, type, false);
    case kUpb_WellKnown_Value: return read_dynamic(r, m, type);
    default: return read_field(r, m, proto_field_numbered(type, PROTO_WRAPPED));
    }
}

static enum err_code read_message(struct reader *r, upb_Message *m, const upb_MessageDef *type)
{
    enum err_code code;

    if (r->depth == PROTO_DEPTH_MAX)
        return refuse(r, "messages are nested more than %d deep", PROTO_DEPTH_MAX);
    r->depth++;
    code = read_object(r, m, type);
    r->depth--;
    return code;
}

enum err_code proto_from_json(struct proto_message **ret, struct proto_arena *arena,
                              const struct proto_type *type, const struct proto_schema *schema,
                              struct slice json, struct err *err)
{
    struct reader r = { .c = { json.data, json.data, json.data + json.size },
                        .arena = arena,
                        .schema = schema,
                        .err = err };
    struct proto_message *message;

    proto_arena_expect(arena, json.size);
    message = proto_new(arena, type);
    if (message == NULL)
        return proto_no_memory(arena, err);
    TRY(read_message(&r, message->upb, message->type));
    TRY(json_end(&r.c, err));
    arena->limit = PROTO_ARENA_BYTES_MAX;
    *ret = message;
    return OK;
}
