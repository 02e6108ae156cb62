/* proto.h - protobuf messages whose types are known only while running: schemas from descriptors,
 * messages by field name, JSON both ways. By upb (proto.c says how).
 *
 * For everything that is not hot: metadata, health, reflection, the client's `call --grpc`. The
 * infer messages are read by hand (kserve_pb.h, contract/typed_pb.h).
 *
 * Life     A schema is built once from serialised FileDescriptorProtos (read-only afterwards, any
 *          thread may use it); messages live in a proto_arena and go with it.
 * Errors   E_INVALID with what is wrong and where it can be known.
 */
#ifndef CODEC_PROTO_H
#define CODEC_PROTO_H

#include "base/err.h"
#include "base/slice.h"
#include "base/text.h"

struct budget;
struct proto_schema;  /* a pool of files */
struct proto_type;    /* a message type; borrowed from the schema */
struct proto_service; /* likewise */
struct proto_arena;
struct proto_message;

/* -- schemas ----------------------------------------------------------------------------------- */

MUST_USE enum err_code proto_schema_new(struct proto_schema **ret, struct err *err);
void proto_schema_free(struct proto_schema **schema);
/* A serialised FileDescriptorProto; those it imports must be there. Adding the same file again is
 * fine. */
MUST_USE enum err_code proto_schema_add(struct proto_schema *schema, struct slice file,
                                        struct err *err);
/* A serialised FileDescriptorSet, in an order in which imports come first. */
MUST_USE enum err_code proto_schema_add_set(struct proto_schema *schema, struct slice set,
                                            struct err *err);
/* The program's own files (proto/ of this repository), compiled by protoc at build time: the bytes
 * are constant, the schema is made at the first call and lives as long as the process. NULL: no
 * memory. */
const struct proto_schema *proto_builtin(void);
struct slice proto_builtin_set(void); /* the FileDescriptorSet */

const struct proto_type *proto_type_find(const struct proto_schema *schema, const char *name);
const char *proto_type_name(const struct proto_type *type); /* "inference.ModelInferRequest" */

struct proto_method {
    const char *name;
    const struct proto_type *input, *output;
    bool client_streams, server_streams;
};
const struct proto_service *proto_service_find(const struct proto_schema *schema, const char *name);
uint32_t proto_service_methods(const struct proto_service *service);
struct proto_method proto_service_method(const struct proto_service *service, uint32_t index);

/* FieldDescriptorProto.Type, number for number. */
enum proto_kind {
    PROTO_DOUBLE = 1,
    PROTO_FLOAT,
    PROTO_INT64,
    PROTO_UINT64,
    PROTO_INT32,
    PROTO_FIXED64,
    PROTO_FIXED32,
    PROTO_BOOL,
    PROTO_STRING,
    PROTO_GROUP,
    PROTO_MESSAGE,
    PROTO_BYTES,
    PROTO_UINT32,
    PROTO_ENUM,
    PROTO_SFIXED32,
    PROTO_SFIXED64,
    PROTO_SINT32,
    PROTO_SINT64
};

struct proto_enum;

/* A field; everything in it is borrowed from the schema. A map is a repeated message of two fields,
 * `key` (1) and `value` (2). */
struct proto_field {
    uint32_t number;
    enum proto_kind kind;
    const char *name, *json_name;
    const char *oneof; /* that it is a member of, or NULL */
    bool is_repeated, is_map, is_packed;
    const struct proto_type *message;     /* of a message or group, else NULL */
    const struct proto_enum *enumeration; /* of an enum, else NULL */
    const char *type_name;                /* full name of that message or enum, else NULL */
};
/* In the order in which the file declares them. */
uint32_t proto_type_fields(const struct proto_type *type);
struct proto_field proto_type_field(const struct proto_type *type, uint32_t index);
/* False: the type has no such field. */
bool proto_type_field_by_number(const struct proto_type *type, uint32_t number,
                                struct proto_field *ret);
const char *proto_enum_value(const struct proto_enum *enumeration, int32_t number); /* or NULL */

/* Serialised FileDescriptorProto of a file by its name, or of the file that defines a symbol
 * ("pkg.Service", "pkg.Service.Method", "pkg.Message", "pkg.Message.field", "pkg.ENUM_VALUE");
 * data NULL: there is none. Borrowed as long as the schema. */
struct slice proto_file_by_name(const struct proto_schema *schema, struct slice name);
struct slice proto_file_of_symbol(const struct proto_schema *schema, struct slice symbol);
/* The same question asked of one serialised file without a schema: does it define the symbol? False
 * also when it is no file. For files of which there are many, each rarely asked for. */
bool proto_file_defines(struct slice file, struct slice symbol);
/* Calls `each` with the file's bytes (as serialised) and then with those of every file it imports,
 * themselves or through others, each once (256 at most). `file` came from the look-ups above. */
typedef void proto_file_fn(void *context, struct slice file);
void proto_file_walk(const struct proto_schema *schema, struct slice file, proto_file_fn *each,
                     void *context);

/* -- messages ---------------------------------------------------------------------------------- */

enum {
    PROTO_DEPTH_MAX = 100,    /* messages in messages, on the wire and in JSON */
    PROTO_MEMORY_FACTOR = 64, /* bytes of memory for each that is decoded: more is E_EXHAUSTED */
    PROTO_ARENA_BYTES_MAX = 1 << 30,
    PROTO_SCHEMA_BYTES_MAX = 16 << 20 /* of descriptors in one schema */
};

MUST_USE struct proto_arena *proto_arena_new(void); /* NULL: no memory */
/* From now on what the arena takes is charged to the budget, until it is freed. */
void proto_arena_charge(struct proto_arena *arena, struct budget *budget);
/* Did anything made in it lack memory? Getters of messages then said "absent". */
bool proto_arena_failed(const struct proto_arena *arena);
void proto_arena_free(struct proto_arena **arena);

/* NULL: no memory; setters are then no-ops, and proto_encode fails: ask once at the end. */
struct proto_message *proto_new(struct proto_arena *arena, const struct proto_type *type);
/* A fault is told with the field it is in, as far as it can be known: "inputs[2].name (byte 31 of
 * inference.ModelInferRequest): ...". The bytes are copied. Unknown fields are kept, for
 * proto_encode. */
MUST_USE enum err_code proto_decode(struct proto_message **ret, struct proto_arena *arena,
                                    const struct proto_type *type, struct slice bytes,
                                    struct err *err);
/* The bytes lie in the arena; the same message gives the same bytes. NULL: no memory. */
MUST_USE enum err_code proto_encode(struct proto_message *message, struct slice *ret,
                                    struct err *err);
/* protobuf's JSON mapping (protobuf.dev, "ProtoJSON Format"), with the special forms of
 * google.protobuf's own types. Names are taken as in the file and in lowerCamelCase, enums by name
 * and number, 64-bit integers as strings and numbers. Unknown members are an error that names them.
 * A fault is told with its path and byte. */
MUST_USE enum err_code proto_from_json(struct proto_message **ret, struct proto_arena *arena,
                                       const struct proto_type *type,
                                       const struct proto_schema *schema, struct slice json,
                                       struct err *err);
/* On one line; members in the order of the file, maps by key. Fields that are not set, and those of
 * their default value, are left out, as the mapping has it. E_EXHAUSTED: `out` is full. */
MUST_USE enum err_code proto_to_json(const struct proto_message *message,
                                     const struct proto_schema *schema, struct text *out,
                                     struct err *err);

/* Setters by field name; a name or kind that does not exist is our own error (require). Strings are
 * copied into the arena. `add` appends to a repeated field. */
void proto_set_str(struct proto_message *m, const char *field, struct slice value);
void proto_set_i64(struct proto_message *m, const char *field,
                   int64_t value); /* any int kind, enum */
void proto_set_u64(struct proto_message *m, const char *field, uint64_t value);
void proto_set_bool(struct proto_message *m, const char *field, bool value);
void proto_set_f64(struct proto_message *m, const char *field, double value);
struct proto_message *proto_set_message(struct proto_message *m, const char *field); /* empty */
void proto_add_str(struct proto_message *m, const char *field, struct slice value);
void proto_add_i64(struct proto_message *m, const char *field, int64_t value);
void proto_add_f64(struct proto_message *m, const char *field, double value);
struct proto_message *proto_add_message(struct proto_message *m, const char *field);
/* map<string, message>: the (empty) message under that key. */
struct proto_message *proto_map_message(struct proto_message *m, const char *field,
                                        struct slice key);

/* Getters: default when absent. */
struct slice proto_get_str(const struct proto_message *m, const char *field);
uint64_t proto_get_u64(const struct proto_message *m, const char *field);
int64_t proto_get_i64(const struct proto_message *m, const char *field);
bool proto_get_bool(const struct proto_message *m, const char *field);
double proto_get_f64(const struct proto_message *m, const char *field); /* float too */
bool proto_has(const struct proto_message *m, const char *field);
/* Name of the member of a oneof that is set, or NULL. */
const char *proto_which(const struct proto_message *m, const char *oneof);
const struct proto_message *proto_get_message(const struct proto_message *m, const char *field);
size_t proto_count(const struct proto_message *m, const char *field); /* of a repeated field */
const struct proto_message *proto_message_at(const struct proto_message *m, const char *field,
                                             size_t index);
struct slice proto_str_at(const struct proto_message *m, const char *field, size_t index);

#endif
