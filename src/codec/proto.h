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

struct proto_schema;  /* a pool of files */
struct proto_type;    /* a message type; borrowed from the schema */
struct proto_service; /* likewise */
struct proto_arena;
struct proto_message;

/* -- schemas ------------------------------------------------------------------------------------ */

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
const struct proto_service *proto_service_find(const struct proto_schema *schema,
                                               const char *name);
uint32_t proto_service_methods(const struct proto_service *service);
struct proto_method proto_service_method(const struct proto_service *service, uint32_t index);

/* Serialised FileDescriptorProto of a file by its name, or of the file that defines a symbol
 * ("pkg.Service", "pkg.Service.Method", "pkg.Message", "pkg.Message.field", "pkg.ENUM_VALUE");
 * data NULL: there is none. Borrowed as long as the schema. */
struct slice proto_file_by_name(const struct proto_schema *schema, struct slice name);
struct slice proto_file_of_symbol(const struct proto_schema *schema, struct slice symbol);

/* -- messages ----------------------------------------------------------------------------------- */

MUST_USE struct proto_arena *proto_arena_new(void); /* NULL: no memory */
void proto_arena_free(struct proto_arena **arena);

/* NULL: no memory; setters are then no-ops, and proto_encode fails: ask once at the end. */
struct proto_message *proto_new(struct proto_arena *arena, const struct proto_type *type);
MUST_USE enum err_code proto_decode(struct proto_message **ret, struct proto_arena *arena,
                                    const struct proto_type *type, struct slice bytes,
                                    struct err *err);
/* The bytes lie in the arena. */
MUST_USE enum err_code proto_encode(struct proto_message *message, struct slice *ret,
                                    struct err *err);
/* protobuf's JSON mapping; unknown members are an error that names them. */
MUST_USE enum err_code proto_from_json(struct proto_message **ret, struct proto_arena *arena,
                                       const struct proto_type *type,
                                       const struct proto_schema *schema, struct slice json,
                                       struct err *err);
MUST_USE enum err_code proto_to_json(const struct proto_message *message,
                                     const struct proto_schema *schema, struct text *out,
                                     struct err *err);

/* Setters by field name; a name or kind that does not exist is our own error (require). Strings are
 * copied into the arena. `add` appends to a repeated field. */
void proto_set_str(struct proto_message *m, const char *field, struct slice value);
void proto_set_i64(struct proto_message *m, const char *field, int64_t value); /* any int kind, enum */
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
bool proto_has(const struct proto_message *m, const char *field);
/* Name of the member of a oneof that is set, or NULL. */
const char *proto_which(const struct proto_message *m, const char *oneof);
const struct proto_message *proto_get_message(const struct proto_message *m, const char *field);
size_t proto_count(const struct proto_message *m, const char *field); /* of a repeated field */
const struct proto_message *proto_message_at(const struct proto_message *m, const char *field,
                                             size_t index);
struct slice proto_str_at(const struct proto_message *m, const char *field, size_t index);

#endif
