/* call_grpc.h - what the files of `penstock call` over gRPC share: call_grpc.c finds the method and makes
 * messages of words, call_stream.c sends and receives many of them, call_chat.c talks.
 */
#ifndef CLI_CALL_GRPC_H
#define CLI_CALL_GRPC_H

#include "cli/call.h"
#include "client/client.h"
#include "codec/proto.h"

enum { CALL_METADATA_ITEMS_MAX = 100 };

struct arena;
struct reflect;

struct grpc_call {
    struct call *call; /* borrowed */
    const struct options *o;
    struct arena *arena;     /* owned */
    struct reflect *reflect; /* owned */
    struct client *caller;   /* owned: with --wire a second one, so that its connection is new */
    struct proto_arena *messages; /* owned */
    const char *service;
    const char *path; /* "/package.Service/Method" */
    bool is_model;    /* the typed route's twin */
    bool is_stream;   /* --stream: methods may have many messages */
    bool has_asked;   /* for call->about */
    const struct proto_schema *schema;
    struct proto_method method;
    struct text rest, proto; /* owned: the request as JSON, over REST and of the message */
    struct client_header metadata[CALL_METADATA_ITEMS_MAX + 2];
    uint32_t metadata_count;
};

/* The JSON as the typed route takes it (or, of a method, the message's own) as bytes that live in
 * g->messages; g->proto, which is appended to, holds the message's JSON. */
MUST_USE enum err_code grpc_call_message(struct grpc_call *g, struct slice rest, struct slice *ret,
                                         struct err *err);
/* The message as JSON: the typed route's own form, else protobuf's. */
MUST_USE enum err_code grpc_call_answer(struct grpc_call *g, struct slice bytes, struct text *out,
                                        struct err *err);
/* A status that is not OK (err has its code and text) as a sentence, with its details. */
enum err_code grpc_call_refusal(const struct grpc_client_status *status, struct err *err);
enum encoding grpc_call_sends(const struct options *o);

/* Sends `message`, or, where that is NULL, each line of standard input as a message; prints answers as
 * they come, one a line. */
MUST_USE enum err_code call_stream(struct grpc_call *g, const struct slice *message,
                                   struct err *err);

#endif
