/* proto_json.c - protobuf messages written as JSON, and what reading (proto_json_read.c) shares
 * with it; proto.h says which form.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "codec/proto_internal.h"

#include <math.h>
#include <stdlib.h>

#include "base/base64.h"
#include "base/mem.h"
#include "codec/number.h"

static bool has_field(const upb_MessageDef *type, uint32_t number, upb_CType kind, bool is_repeated)
{
    const upb_FieldDef *f = proto_field_numbered(type, number);

    return f != NULL && upb_FieldDef_CType(f) == kind && upb_FieldDef_IsRepeated(f) == is_repeated;
}

/* upb goes by the name alone, and a schema may come from a peer: the fields must be those of
 * Google's type too, else it is a message like any other. */
upb_WellKnown proto_special(const upb_MessageDef *type)
{
    static const upb_CType value_kinds[] = {
        kUpb_CType_Enum, kUpb_CType_Double,  kUpb_CType_String,
        kUpb_CType_Bool, kUpb_CType_Message, kUpb_CType_Message
    };
    upb_WellKnown kind = upb_MessageDef_WellKnownType(type);
    bool is_it = true;

    switch (kind) {
    case kUpb_WellKnown_Unspecified: break;
    case kUpb_WellKnown_Any:
        is_it = has_field(type, 1, kUpb_CType_String, false) &&
                has_field(type, 2, kUpb_CType_Bytes, false);
        break;
    case kUpb_WellKnown_FieldMask: is_it = has_field(type, 1, kUpb_CType_String, true); break;
    case kUpb_WellKnown_Duration:
    case kUpb_WellKnown_Timestamp:
        is_it = has_field(type, 1, kUpb_CType_Int64, false) &&
                has_field(type, 2, kUpb_CType_Int32, false);
        break;
    case kUpb_WellKnown_Value:
        is_it = upb_MessageDef_RealOneofCount(type) == 1 &&
                upb_OneofDef_FieldCount(upb_MessageDef_Oneof(type, 0)) == COUNT(value_kinds);
        for (uint32_t i = 0; is_it && i < COUNT(value_kinds); i++)
            is_it = has_field(type, i + 1, value_kinds[i], false);
        break;
    default: is_it = proto_field_numbered(type, PROTO_WRAPPED) != NULL; break;
    }
    return is_it ? kind : kUpb_WellKnown_Unspecified;
}

const upb_MessageDef *proto_any_type(const struct proto_schema *schema, struct slice url)
{
    for (size_t i = url.size; i > 0; i--)
        if (url.data[i - 1] == '/') {
            struct slice name = slice_skip(url, i);
            return upb_DefPool_FindMessageByNameWithSize(proto_pool(schema),
                                                         (const char *)name.data, name.size);
        }
    return NULL;
}

/* The date of a day counted from 1970-01-01, in the proleptic Gregorian calendar: years begin in
 * March, so that the leap day is the last. */
static void date_of_days(int64_t days, int64_t *year, int64_t *month, int64_t *day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097, in_era = days - era * 146097;
    int64_t years = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    int64_t in_year = in_era - (365 * years + years / 4 - years / 100);
    int64_t moon = (5 * in_year + 2) / 153;

    *day = in_year - (153 * moon + 2) / 5 + 1;
    *month = moon + (moon < 10 ? 3 : -9);
    *year = years + era * 400 + (*month <= 2);
}

struct writer {
    struct text *out;
    const struct proto_schema *schema;
    struct proto_arena *arena; /* for what an Any holds */
    struct err *err;
    unsigned depth;
};

static enum err_code write_message(struct writer *w, const upb_Message *m,
                                   const upb_MessageDef *type);

static void write_base64(struct text *out, struct slice bytes)
{
    size_t size = base64_size(bytes.size, true);
    uint8_t *at = text_room(out, size + 2);

    if (at == NULL)
        return;
    *at = '"';
    *base64_encode(at + 1, bytes, true) = '"';
    out->size += size + 2;
}

static void write_f64(struct text *out, double value, bool is_float)
{
    char digits[NUMBER_TEXT_MAX];

    if (isnan(value))
        text_str(out, "\"NaN\"");
    else if (isinf(value))
        text_str(out, value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
    else
        text_put(out, digits,
                 is_float ? number_write_f32(digits, (float)value)
                          : number_write_f64(digits, value));
}

static enum err_code write_value(struct writer *w, upb_MessageValue v, const upb_FieldDef *f)
{
    const upb_EnumValueDef *named;

    switch (upb_FieldDef_CType(f)) {
    case kUpb_CType_Bool: text_str(w->out, v.bool_val ? "true" : "false"); break;
    case kUpb_CType_Float: write_f64(w->out, (double)v.float_val, true); break;
    case kUpb_CType_Double: write_f64(w->out, v.double_val, false); break;
    case kUpb_CType_Int32: text_i64(w->out, v.int32_val); break;
    case kUpb_CType_UInt32: text_u64(w->out, v.uint32_val); break;
    case kUpb_CType_Int64: text_printf(w->out, "\"%lld\"", (long long)v.int64_val); break;
    case kUpb_CType_UInt64:
        text_printf(w->out, "\"%llu\"", (unsigned long long)v.uint64_val);
        break;
    case kUpb_CType_Enum:
        if (proto_is_null_enum(f)) {
            text_str(w->out, "null");
            break;
        }
        named = upb_EnumDef_FindValueByNumber(upb_FieldDef_EnumSubDef(f), v.int32_val);
        if (named != NULL)
            text_json(w->out, slice_of(upb_EnumValueDef_Name(named)));
        else
            text_i64(w->out, v.int32_val);
        break;
    case kUpb_CType_String: text_json(w->out, proto_slice(v.str_val)); break;
    case kUpb_CType_Bytes: write_base64(w->out, proto_slice(v.str_val)); break;
    case kUpb_CType_Message: return write_message(w, v.msg_val, upb_FieldDef_MessageSubDef(f));
    }
    return OK;
}

static enum err_code write_array(struct writer *w, const upb_Array *array, const upb_FieldDef *f)
{
    size_t count = array != NULL ? upb_Array_Size(array) : 0;

    text_byte(w->out, '[');
    for (size_t i = 0; i < count && !text_failed(w->out); i++) {
        if (i != 0)
            text_byte(w->out, ',');
        TRY(write_value(w, upb_Array_Get(array, i), f));
    }
    text_byte(w->out, ']');
    return OK;
}

/* A key, as it is written between quotes. */
struct map_entry {
    upb_MessageValue key, value;
    upb_CType kind;
};

static int compare_keys(const void *a, const void *b)
{
    const struct map_entry *x = a, *y = b;

    switch (x->kind) {
    case kUpb_CType_String: return upb_StringView_Compare(x->key.str_val, y->key.str_val);
    case kUpb_CType_Bool: return x->key.bool_val - y->key.bool_val;
    case kUpb_CType_Int32:
        return (x->key.int32_val > y->key.int32_val) - (x->key.int32_val < y->key.int32_val);
    case kUpb_CType_UInt32:
        return (x->key.uint32_val > y->key.uint32_val) - (x->key.uint32_val < y->key.uint32_val);
    case kUpb_CType_Int64:
        return (x->key.int64_val > y->key.int64_val) - (x->key.int64_val < y->key.int64_val);
    default:
        return (x->key.uint64_val > y->key.uint64_val) - (x->key.uint64_val < y->key.uint64_val);
    }
}

static enum err_code write_map(struct writer *w, const upb_Map *map, const upb_FieldDef *f)
{
    const upb_MessageDef *entry = upb_FieldDef_MessageSubDef(f);
    const upb_FieldDef *key = proto_field_numbered(entry, kUpb_MapEntry_KeyFieldNumber);
    const upb_FieldDef *value = proto_field_numbered(entry, kUpb_MapEntry_ValueFieldNumber);
    size_t count = map != NULL ? upb_Map_Size(map) : 0, at = kUpb_Map_Begin, i = 0;
    CLEANUP(mem_free_slot)
    struct map_entry *entries = mem_alloc(MAX(count, (size_t)1) * sizeof *entries);

    if (entries == NULL)
        return err_set(w->err, E_EXHAUSTED, "no memory for a map of %zu", count);
    while (i < count && upb_Map_Next(map, &entries[i].key, &entries[i].value, &at))
        entries[i++].kind = upb_FieldDef_CType(key);
    qsort(entries, i, sizeof *entries, compare_keys);
    count = i;
    text_byte(w->out, '{');
    for (i = 0; i < count && !text_failed(w->out); i++) {
        bool has_quotes = entries[i].kind == kUpb_CType_String ||
                          entries[i].kind == kUpb_CType_Int64 ||
                          entries[i].kind == kUpb_CType_UInt64;
        text_str(w->out, i != 0 ? "," : "");
        text_str(w->out, has_quotes ? "" : "\"");
        TRY(write_value(w, entries[i].key, key));
        text_str(w->out, has_quotes ? ":" : "\":");
        TRY(write_value(w, entries[i].value, value));
    }
    text_byte(w->out, '}');
    return OK;
}

static enum err_code write_field(struct writer *w, const upb_Message *m, const upb_FieldDef *f)
{
    upb_MessageValue v = upb_Message_GetFieldByDef(m, f);

    if (upb_FieldDef_IsMap(f))
        return write_map(w, v.map_val, f);
    if (upb_FieldDef_IsRepeated(f))
        return write_array(w, v.array_val, f);
    return write_value(w, v, f);
}

/* Set, and worth a member: the mapping leaves out what is empty or zero without presence. */
static bool is_told(const upb_Message *m, const upb_FieldDef *f)
{
    upb_MessageValue v, zero = { 0 };

    if (upb_FieldDef_HasPresence(f))
        return upb_Message_HasFieldByDef(m, f);
    v = upb_Message_GetFieldByDef(m, f);
    if (upb_FieldDef_IsMap(f))
        return v.map_val != NULL && upb_Map_Size(v.map_val) != 0;
    if (upb_FieldDef_IsRepeated(f))
        return v.array_val != NULL && upb_Array_Size(v.array_val) != 0;
    switch (upb_FieldDef_CType(f)) {
    case kUpb_CType_String:
    case kUpb_CType_Bytes: return v.str_val.size != 0;
    case kUpb_CType_Bool: return v.bool_val;
    case kUpb_CType_Int32:
    case kUpb_CType_Enum: return v.int32_val != 0;
    case kUpb_CType_UInt32: return v.uint32_val != 0;
    case kUpb_CType_Float: return memcmp(&v.float_val, &zero.float_val, sizeof v.float_val) != 0;
    case kUpb_CType_Double:
        return memcmp(&v.double_val, &zero.double_val, sizeof v.double_val) != 0;
    default: return v.uint64_val != 0;
    }
}

static enum err_code write_members(struct writer *w, const upb_Message *m,
                                   const upb_MessageDef *type, bool is_first)
{
    for (int i = 0; i < upb_MessageDef_FieldCount(type) && !text_failed(w->out); i++) {
        const upb_FieldDef *f = upb_MessageDef_Field(type, i);
        if (!is_told(m, f))
            continue;
        if (!is_first)
            text_byte(w->out, ',');
        is_first = false;
        text_json(w->out, slice_of(upb_FieldDef_JsonName(f)));
        text_byte(w->out, ':');
        TRY(write_field(w, m, f));
    }
    return OK;
}

/* None, three, six or nine digits: as many threes as are needed. */
static void write_nanos(struct text *out, int64_t nanos)
{
    if (nanos == 0)
        return;
    if (nanos % 1000000 == 0)
        text_printf(out, ".%03d", (int)(nanos / 1000000));
    else if (nanos % 1000 == 0)
        text_printf(out, ".%06d", (int)(nanos / 1000));
    else
        text_printf(out, ".%09d", (int)nanos);
}

static enum err_code write_time(struct writer *w, const upb_Message *m, const upb_MessageDef *type,
                                bool is_duration)
{
    int64_t seconds = upb_Message_GetFieldByDef(m, proto_field_numbered(type, 1)).int64_val;
    int64_t nanos = upb_Message_GetFieldByDef(m, proto_field_numbered(type, 2)).int32_val;

    if (is_duration) {
        if (seconds < -PROTO_DURATION_MAX || seconds > PROTO_DURATION_MAX ||
            nanos <= -PROTO_NANOS || nanos >= PROTO_NANOS || (seconds < 0 && nanos > 0) ||
            (seconds > 0 && nanos < 0))
            return err_set(w->err, E_INVALID, "a Duration of %lld s and %lld ns is out of range",
                           (long long)seconds, (long long)nanos);
        text_str(w->out, seconds < 0 || nanos < 0 ? "\"-" : "\"");
        text_i64(w->out, seconds < 0 ? -seconds : seconds);
        write_nanos(w->out, nanos < 0 ? -nanos : nanos);
        text_str(w->out, "s\"");
        return OK;
    }
    if (seconds < PROTO_TIMESTAMP_MIN || seconds > PROTO_TIMESTAMP_MAX || nanos < 0 ||
        nanos >= PROTO_NANOS)
        return err_set(w->err, E_INVALID, "a Timestamp of %lld s and %lld ns is out of range",
                       (long long)seconds, (long long)nanos);
    int64_t days = (seconds - PROTO_TIMESTAMP_MIN) / 86400 + PROTO_TIMESTAMP_MIN / 86400;
    int64_t in_day = (seconds - PROTO_TIMESTAMP_MIN) % 86400, year, month, day;
    date_of_days(days, &year, &month, &day);
    text_printf(w->out, "\"%04d-%02d-%02dT%02d:%02d:%02d", (int)year, (int)month, (int)day,
                (int)(in_day / 3600), (int)(in_day / 60 % 60), (int)(in_day % 60));
    write_nanos(w->out, nanos);
    text_str(w->out, "Z\"");
    return OK;
}

/* Paths in lowerCamelCase, with commas between. */
static void write_mask(struct writer *w, const upb_Message *m, const upb_MessageDef *type)
{
    const upb_Array *paths = upb_Message_GetFieldByDef(m, proto_field_numbered(type, 1)).array_val;
    size_t count = paths != NULL ? upb_Array_Size(paths) : 0;
    struct text all;

    text_init(&all, SIZE_MAX / 2);
    for (size_t i = 0; i < count; i++) {
        struct slice path = proto_slice(upb_Array_Get(paths, i).str_val);
        if (i != 0)
            text_byte(&all, ',');
        for (size_t k = 0; k < path.size; k++) {
            bool is_joint = path.data[k] == '_' && k + 1 < path.size && path.data[k + 1] >= 'a' &&
                            path.data[k + 1] <= 'z';
            k += is_joint;
            text_byte(&all, (uint8_t)(is_joint ? path.data[k] - 'a' + 'A' : path.data[k]));
        }
    }
    text_json(w->out, text_slice(&all));
    w->out->has_failed |= text_failed(&all);
    text_deinit(&all);
}

static enum err_code write_any(struct writer *w, const upb_Message *m, const upb_MessageDef *type)
{
    struct slice url = proto_slice(
        upb_Message_GetFieldByDef(m, proto_field_numbered(type, kUpb_Any_TypeFieldNumber)).str_val);
    struct slice bytes = proto_slice(
        upb_Message_GetFieldByDef(m, proto_field_numbered(type, kUpb_Any_ValueFieldNumber))
            .str_val);
    const upb_MessageDef *inner = proto_any_type(w->schema, url);
    struct proto_message *message;

    if (url.size == 0 && bytes.size == 0) {
        text_str(w->out, "{}");
        return OK;
    }
    if (inner == NULL)
        return err_set(w->err, E_INVALID, "an Any holds a %.*s, whose type is not known here",
                       SLICE_ARG(url));
    TRY(proto_decode(&message, w->arena, proto_type_of(inner), bytes, w->err));
    text_str(w->out, "{\"@type\":");
    text_json(w->out, url);
    if (proto_special(inner) != kUpb_WellKnown_Unspecified) {
        text_str(w->out, ",\"value\":");
        TRY(write_message(w, message->upb, inner));
    } else {
        TRY(write_members(w, message->upb, inner, false));
    }
    text_byte(w->out, '}');
    return OK;
}

static enum err_code write_dynamic(struct writer *w, const upb_Message *m,
                                   const upb_MessageDef *type)
{
    const upb_FieldDef *f = upb_Message_WhichOneofByDef(m, upb_MessageDef_Oneof(type, 0));

    if (f == NULL) {
        text_str(w->out, "null");
        return OK;
    }
    if (upb_FieldDef_CType(f) == kUpb_CType_Double &&
        !isfinite(upb_Message_GetFieldByDef(m, f).double_val))
        return err_set(w->err, E_INVALID, "a google.protobuf.Value cannot hold a NaN or infinity");
    return write_field(w, m, f);
}

static enum err_code write_object(struct writer *w, const upb_Message *m,
                                  const upb_MessageDef *type)
{
    switch (proto_special(type)) {
    case kUpb_WellKnown_Unspecified: break;
    case kUpb_WellKnown_Any: return write_any(w, m, type);
    case kUpb_WellKnown_FieldMask: write_mask(w, m, type); return OK;
    case kUpb_WellKnown_Duration: return write_time(w, m, type, true);
    case kUpb_WellKnown_Timestamp: return write_time(w, m, type, false);
    case kUpb_WellKnown_Value: return write_dynamic(w, m, type);
    case kUpb_WellKnown_ListValue:
    case kUpb_WellKnown_Struct:
    default: return write_field(w, m, proto_field_numbered(type, PROTO_WRAPPED));
    }
    text_byte(w->out, '{');
    TRY(write_members(w, m, type, true));
    text_byte(w->out, '}');
    return OK;
}

static enum err_code write_message(struct writer *w, const upb_Message *m,
                                   const upb_MessageDef *type)
{
    enum err_code code;

    if (w->depth == PROTO_DEPTH_MAX)
        return err_set(w->err, E_INVALID, "messages are nested more than %d deep", PROTO_DEPTH_MAX);
    w->depth++;
    code = write_object(w, m, type);
    w->depth--;
    return code;
}

enum err_code proto_to_json(const struct proto_message *message, const struct proto_schema *schema,
                            struct text *out, struct err *err)
{
    struct writer w = { .out = out, .schema = schema, .err = err };

    if (message == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a protobuf message");
    w.arena = message->arena;
    TRY(write_message(&w, message->upb, message->type));
    if (text_failed(out))
        return err_set(err, E_EXHAUSTED, "no room for the JSON of a %s",
                       upb_MessageDef_FullName(message->type));
    return OK;
}
