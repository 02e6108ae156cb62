/* reflect.h - asks a gRPC server which services it has and what their messages are (grpc/grpc
 * doc/server-reflection.md): grpc.reflection.v1, and v1alpha where that is not there.
 *
 * Blocks, as client.h does.
 */
#ifndef CLI_REFLECT_H
#define CLI_REFLECT_H

#include <stdbool.h>

#include "base/err.h"
#include "base/slice.h"

struct client;
struct proto_message;
struct proto_schema;
struct reflect;

/* The client is borrowed, and was made with http2. */
MUST_USE enum err_code reflect_new(struct reflect **ret, struct client *client, struct err *err);
void reflect_free(struct reflect **reflect);

/* Full names of its services; they live as long as `reflect`. E_UNIMPLEMENTED: the server has no
 * reflection, in a sentence that says what to do. */
MUST_USE enum err_code reflect_services(struct reflect *reflect, const struct slice **ret,
                                        uint32_t *ret_count, struct err *err);
/* The schema of the file that defines a symbol ("package.Service") and of all that it imports; made
 * once, and freed with `reflect`. E_NOT_FOUND: it knows no such symbol. */
MUST_USE enum err_code reflect_schema(struct reflect *reflect, const char *symbol,
                                      const struct proto_schema **ret, struct err *err);

/* Name and imports of a serialised FileDescriptorProto; false when it is none. For tests, too. */
enum { REFLECT_IMPORTS_MAX = 500 };
struct reflect_file {
    struct slice name;
    uint32_t imports_count;
    struct slice imports[REFLECT_IMPORTS_MAX];
};
bool reflect_file_read(struct reflect_file *ret, struct slice file);

#endif
