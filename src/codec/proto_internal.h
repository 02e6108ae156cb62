/* proto_internal.h - what the files of proto.h share: upb's types behind ours.
 *
 * A proto_type is a upb_MessageDef, a proto_service a upb_ServiceDef: never defined, only cast. A
 * message is upb's with the type and the arena that upb wants named in every call.
 */
#ifndef CODEC_PROTO_INTERNAL_H
#define CODEC_PROTO_INTERNAL_H

#ifndef NDEBUG
#define NDEBUG 1 /* as the library was built: the inline halves of its headers must fit it */
#endif
#include <upb/mem/arena.h>
#include <upb/message/array.h>
#include <upb/message/map.h>
#include <upb/message/message.h>
#include <upb/reflection/def.h>
#include <upb/reflection/message.h>

#include "codec/proto.h"

struct arena;
struct budget;

/* The bytes of proto_builtin_set: written by tools/descriptors at build time. */
extern const uint8_t proto_set_bytes[];
extern const size_t proto_set_size;

/* upb takes blocks from `memory`, which frees them all at the end; so do our own small pieces. */
struct proto_arena {
    upb_alloc alloc;
    struct arena *memory;  /* owned */
    upb_Arena *upb;        /* owned */
    struct budget *budget; /* borrowed, or NULL */
    size_t charged;
    size_t limit; /* bytes of memory that may be used; moved up by each decode */
    bool has_failed;
};

struct proto_message {
    upb_Message *upb;
    const upb_MessageDef *type;
    struct proto_arena *arena;
};

static inline upb_StringView proto_view(struct slice s)
{
    return upb_StringView_FromDataAndSize((const char *)s.data, s.size);
}
static inline struct slice proto_slice(upb_StringView v)
{
    return slice_make(v.data, v.size);
}

static inline const struct proto_type *proto_type_of(const upb_MessageDef *def)
{
    return (const struct proto_type *)(const void *)def;
}

struct proto_message *proto_wrap(struct proto_arena *arena, upb_Message *upb,
                                 const upb_MessageDef *type);
/* A copy in the arena; false: no memory. */
bool proto_copy(struct proto_arena *arena, struct slice bytes, upb_StringView *ret);
void *proto_alloc(struct proto_arena *arena, size_t size);
/* What reading `input_bytes` may take at most, from now on. */
void proto_arena_expect(struct proto_arena *arena, size_t input_bytes);
enum err_code proto_no_memory(const struct proto_arena *arena, struct err *err);
const upb_DefPool *proto_pool(const struct proto_schema *schema);

/* -- JSON -------------------------------------------------------------------------------------- */

enum { PROTO_WRAPPED = 1, PROTO_NANOS = 1000000000 }; /* the field of every wrapper type */

#define PROTO_DURATION_MAX  INT64_C(315576000000) /* seconds: 10,000 years */
#define PROTO_TIMESTAMP_MIN INT64_C(-62135596800) /* seconds: the year 1 */
#define PROTO_TIMESTAMP_MAX INT64_C(253402300799) /* the end of the year 9999 */

/* Which of Google's types with a JSON form of their own this is. */
upb_WellKnown proto_special(const upb_MessageDef *type);
/* The type behind the last slash of an Any's type_url, or NULL. */
const upb_MessageDef *proto_any_type(const struct proto_schema *schema, struct slice url);

static inline const upb_FieldDef *proto_field_numbered(const upb_MessageDef *type, uint32_t number)
{
    return upb_MessageDef_FindFieldByNumber(type, number);
}
static inline bool proto_is_null_enum(const upb_FieldDef *f)
{
    return upb_FieldDef_IsEnum(f) && strcmp(upb_EnumDef_FullName(upb_FieldDef_EnumSubDef(f)),
                                            "google.protobuf.NullValue") == 0;
}

#endif
