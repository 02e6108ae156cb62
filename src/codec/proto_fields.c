/* proto_fields.c - the fields of a message by their names: setters and getters of proto.h.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A name that a type does not have, or of another kind, is a fault of the program and not of a
 * peer: require. Lack of memory is remembered by the arena.
 */
#include "codec/proto_internal.h"

static const upb_FieldDef *field_of(const struct proto_message *m, const char *name)
{
    const upb_FieldDef *f = upb_MessageDef_FindFieldByName(m->type, name);

    require(f != NULL);
    return f;
}

static bool is_one_message(const upb_FieldDef *f)
{
    return upb_FieldDef_IsSubMessage(f) && !upb_FieldDef_IsRepeated(f);
}

static bool is_integer(const upb_FieldDef *f)
{
    upb_CType kind = upb_FieldDef_CType(f);

    return kind == kUpb_CType_Int32 || kind == kUpb_CType_UInt32 || kind == kUpb_CType_Int64 ||
           kind == kUpb_CType_UInt64 || kind == kUpb_CType_Enum;
}

static bool is_text(const upb_FieldDef *f)
{
    upb_CType kind = upb_FieldDef_CType(f);

    return kind == kUpb_CType_String || kind == kUpb_CType_Bytes;
}

static void set(struct proto_message *m, const upb_FieldDef *f, upb_MessageValue value)
{
    require(!upb_FieldDef_IsRepeated(f));
    if (!upb_Message_SetFieldByDef(m->upb, f, value, m->arena->upb))
        m->arena->has_failed = true;
}

static void add(struct proto_message *m, const upb_FieldDef *f, upb_MessageValue value)
{
    upb_Array *array;

    require(upb_FieldDef_IsRepeated(f) && !upb_FieldDef_IsMap(f));
    array = upb_Message_Mutable(m->upb, f, m->arena->upb).array;
    if (array == NULL || !upb_Array_Append(array, value, m->arena->upb))
        m->arena->has_failed = true;
}

static upb_MessageValue from_i64(const upb_FieldDef *f, int64_t value)
{
    upb_MessageValue v = { .int64_val = value };

    switch (upb_FieldDef_CType(f)) {
    case kUpb_CType_Int32:
    case kUpb_CType_Enum:
        require(value >= INT32_MIN && value <= INT32_MAX);
        v.int32_val = (int32_t)value;
        break;
    case kUpb_CType_UInt32:
        require(value >= 0 && value <= UINT32_MAX);
        v.uint32_val = (uint32_t)value;
        break;
    case kUpb_CType_Int64: break;
    case kUpb_CType_UInt64: require(value >= 0); break;
    default: require(is_integer(f));
    }
    return v;
}

static upb_MessageValue from_f64(const upb_FieldDef *f, double value)
{
    upb_MessageValue v = { .double_val = value };

    require(upb_FieldDef_CType(f) == kUpb_CType_Double ||
            upb_FieldDef_CType(f) == kUpb_CType_Float);
    if (upb_FieldDef_CType(f) == kUpb_CType_Float)
        v.float_val = (float)value;
    return v;
}

typedef void put_fn(struct proto_message *m, const upb_FieldDef *f, upb_MessageValue value);

static void put_str(struct proto_message *m, const char *name, struct slice value, put_fn *put)
{
    upb_MessageValue v = { 0 };
    const upb_FieldDef *f;

    if (m == NULL)
        return;
    f = field_of(m, name);
    require(is_text(f));
    if (proto_copy(m->arena, value, &v.str_val))
        put(m, f, v);
}

static struct proto_message *put_message(struct proto_message *m, const char *name, put_fn *put)
{
    struct proto_message *inner;
    const upb_FieldDef *f;

    if (m == NULL)
        return NULL;
    f = field_of(m, name);
    require(upb_FieldDef_IsSubMessage(f));
    inner = proto_new(m->arena, proto_type_of(upb_FieldDef_MessageSubDef(f)));
    if (inner != NULL)
        put(m, f, (upb_MessageValue){ .msg_val = inner->upb });
    return inner;
}

void proto_set_str(struct proto_message *m, const char *name, struct slice value)
{
    put_str(m, name, value, set);
}

void proto_set_i64(struct proto_message *m, const char *name, int64_t value)
{
    if (m != NULL)
        set(m, field_of(m, name), from_i64(field_of(m, name), value));
}

void proto_set_u64(struct proto_message *m, const char *name, uint64_t value)
{
    upb_MessageValue v = { .uint64_val = value };
    const upb_FieldDef *f;

    if (m == NULL)
        return;
    f = field_of(m, name);
    set(m, f, upb_FieldDef_CType(f) == kUpb_CType_UInt64 ? v : from_i64(f, (int64_t)value));
}

void proto_set_bool(struct proto_message *m, const char *name, bool value)
{
    upb_MessageValue v = { .bool_val = value };

    if (m == NULL)
        return;
    require(upb_FieldDef_CType(field_of(m, name)) == kUpb_CType_Bool);
    set(m, field_of(m, name), v);
}

void proto_set_f64(struct proto_message *m, const char *name, double value)
{
    if (m != NULL)
        set(m, field_of(m, name), from_f64(field_of(m, name), value));
}

struct proto_message *proto_set_message(struct proto_message *m, const char *name)
{
    return put_message(m, name, set);
}

void proto_add_str(struct proto_message *m, const char *name, struct slice value)
{
    put_str(m, name, value, add);
}

void proto_add_i64(struct proto_message *m, const char *name, int64_t value)
{
    if (m != NULL)
        add(m, field_of(m, name), from_i64(field_of(m, name), value));
}

void proto_add_f64(struct proto_message *m, const char *name, double value)
{
    if (m != NULL)
        add(m, field_of(m, name), from_f64(field_of(m, name), value));
}

struct proto_message *proto_add_message(struct proto_message *m, const char *name)
{
    return put_message(m, name, add);
}

struct proto_message *proto_map_message(struct proto_message *m, const char *name, struct slice key)
{
    upb_MessageValue k = { 0 };
    const upb_MessageDef *entry;
    struct proto_message *inner;
    const upb_FieldDef *f, *value;
    upb_Map *map;

    if (m == NULL)
        return NULL;
    f = field_of(m, name);
    require(upb_FieldDef_IsMap(f));
    entry = upb_FieldDef_MessageSubDef(f);
    value = upb_MessageDef_FindFieldByNumber(entry, kUpb_MapEntry_ValueFieldNumber);
    require(upb_FieldDef_IsSubMessage(value) &&
            is_text(upb_MessageDef_FindFieldByNumber(entry, kUpb_MapEntry_KeyFieldNumber)));
    inner = proto_new(m->arena, proto_type_of(upb_FieldDef_MessageSubDef(value)));
    if (inner == NULL || !proto_copy(m->arena, key, &k.str_val))
        return NULL;
    map = upb_Message_Mutable(m->upb, f, m->arena->upb).map;
    if (map == NULL ||
        !upb_Map_Set(map, k, (upb_MessageValue){ .msg_val = inner->upb }, m->arena->upb)) {
        m->arena->has_failed = true;
        return NULL;
    }
    return inner;
}

static upb_MessageValue get(const struct proto_message *m, const upb_FieldDef *f)
{
    require(!upb_FieldDef_IsRepeated(f));
    return upb_Message_GetFieldByDef(m->upb, f);
}

struct slice proto_get_str(const struct proto_message *m, const char *name)
{
    if (m == NULL)
        return slice_make("", 0);
    require(is_text(field_of(m, name)));
    return proto_slice(get(m, field_of(m, name)).str_val);
}

static uint64_t bits_of(const upb_FieldDef *f, upb_MessageValue v)
{
    switch (upb_FieldDef_CType(f)) {
    case kUpb_CType_Int32:
    case kUpb_CType_Enum: return (uint64_t)(int64_t)v.int32_val;
    case kUpb_CType_UInt32: return v.uint32_val;
    case kUpb_CType_Int64: return (uint64_t)v.int64_val;
    case kUpb_CType_UInt64: return v.uint64_val;
    case kUpb_CType_Bool: return v.bool_val;
    default: require(is_integer(f)); return 0;
    }
}

uint64_t proto_get_u64(const struct proto_message *m, const char *name)
{
    return m != NULL ? bits_of(field_of(m, name), get(m, field_of(m, name))) : 0;
}

int64_t proto_get_i64(const struct proto_message *m, const char *name)
{
    return (int64_t)proto_get_u64(m, name);
}

bool proto_get_bool(const struct proto_message *m, const char *name)
{
    return proto_get_u64(m, name) != 0;
}

double proto_get_f64(const struct proto_message *m, const char *name)
{
    upb_MessageValue v;
    const upb_FieldDef *f;

    if (m == NULL)
        return 0;
    f = field_of(m, name);
    v = get(m, f);
    require(upb_FieldDef_CType(f) == kUpb_CType_Double ||
            upb_FieldDef_CType(f) == kUpb_CType_Float);
    return upb_FieldDef_CType(f) == kUpb_CType_Double ? v.double_val : (double)v.float_val;
}

bool proto_has(const struct proto_message *m, const char *name)
{
    const upb_FieldDef *f;

    if (m == NULL)
        return false;
    f = field_of(m, name);
    if (upb_FieldDef_IsRepeated(f))
        return proto_count(m, name) != 0;
    if (upb_FieldDef_HasPresence(f))
        return upb_Message_HasFieldByDef(m->upb, f);
    if (is_text(f))
        return get(m, f).str_val.size != 0;
    if (upb_FieldDef_CType(f) == kUpb_CType_Double || upb_FieldDef_CType(f) == kUpb_CType_Float)
        return proto_get_f64(m, name) != 0;
    return bits_of(f, get(m, f)) != 0;
}

const char *proto_which(const struct proto_message *m, const char *name)
{
    const upb_OneofDef *oneof;
    const upb_FieldDef *f;

    if (m == NULL)
        return NULL;
    oneof = upb_MessageDef_FindOneofByName(m->type, name);
    require(oneof != NULL);
    f = upb_Message_WhichOneofByDef(m->upb, oneof);
    return f != NULL ? upb_FieldDef_Name(f) : NULL;
}

/* Only the wrapper is new: the message is read through it, or not at all. */
static const struct proto_message *lend(const struct proto_message *m, const upb_FieldDef *f,
                                        const upb_Message *inner)
{
    upb_Message *unlocked;

    memcpy(&unlocked, &inner, sizeof unlocked);
    return proto_wrap(m->arena, unlocked, upb_FieldDef_MessageSubDef(f));
}

const struct proto_message *proto_get_message(const struct proto_message *m, const char *name)
{
    const upb_FieldDef *f;

    if (m == NULL)
        return NULL;
    f = field_of(m, name);
    require(is_one_message(f));
    if (!upb_Message_HasFieldByDef(m->upb, f))
        return NULL;
    return lend(m, f, get(m, f).msg_val);
}

static const upb_Array *array_of(const struct proto_message *m, const upb_FieldDef *f)
{
    require(upb_FieldDef_IsRepeated(f) && !upb_FieldDef_IsMap(f));
    return upb_Message_GetFieldByDef(m->upb, f).array_val;
}

size_t proto_count(const struct proto_message *m, const char *name)
{
    const upb_Array *array;
    const upb_FieldDef *f;

    if (m == NULL)
        return 0;
    f = field_of(m, name);
    if (upb_FieldDef_IsMap(f)) {
        const upb_Map *map = upb_Message_GetFieldByDef(m->upb, f).map_val;
        return map != NULL ? upb_Map_Size(map) : 0;
    }
    array = array_of(m, f);
    return array != NULL ? upb_Array_Size(array) : 0;
}

const struct proto_message *proto_message_at(const struct proto_message *m, const char *name,
                                             size_t index)
{
    const upb_FieldDef *f;

    require(index < proto_count(m, name));
    f = field_of(m, name);
    require(upb_FieldDef_IsSubMessage(f));
    return lend(m, f, upb_Array_Get(array_of(m, f), index).msg_val);
}

struct slice proto_str_at(const struct proto_message *m, const char *name, size_t index)
{
    const upb_FieldDef *f;

    require(index < proto_count(m, name));
    f = field_of(m, name);
    require(is_text(f));
    return proto_slice(upb_Array_Get(array_of(m, f), index).str_val);
}
