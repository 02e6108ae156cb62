/* call.h - what the two halves of the verb call share: call.c asks the typed route over REST,
 * call_grpc.c asks over gRPC. */
#ifndef CLI_CALL_H
#define CLI_CALL_H

#include <stdbool.h>

#include "base/err.h"
#include "base/slice.h"
#include "base/text.h"

struct buf;
struct client;
struct options;
struct wire_view;
struct yyjson_doc;

enum { CALL_BODY_BYTES_MAX = 1 << 30 };

struct call {
    const struct options *options;
    const char *model;        /* or a method */
    struct client *client;    /* owned */
    struct wire_view *view;   /* owned; NULL without --wire */
    struct yyjson_doc *about; /* owned: the model's description */
    struct text body;         /* owned */
    const char *content_type;
    struct buf *file;  /* owned: the file read last */
    struct text input; /* owned: standard input, once it was read */
    bool has_read_input;
};

/* "-" is standard input, "@file" what the file holds, "@@x" is "@x". The slice lives until the next
 * call. */
MUST_USE enum err_code call_read_value(struct call *call, const char *value, struct slice *ret,
                                       struct err *err);
/* JSON: words on a terminal, as it is elsewhere or with --json. False: it could not be written. */
bool call_say_answer(const struct options *options, struct slice body);
/* Adds the line that the description (call->about) offers as an example, if there is one, to a text. */
void call_add_example(const struct call *call, struct err *err);
/* Where the time went, on standard error; server_timing as the header of that name, or empty. */
void call_say_timing(const struct client *client, struct slice server_timing);

/* E_INVALID: the command line is wrong. */
MUST_USE enum err_code call_run_grpc(struct call *call, struct err *err);
/* "?top=3&outputs=a": what the options ask of the typed route, which judges the values. */
void call_put_query(struct text *out, const struct options *o);
/* --upload FILE. */
MUST_USE enum err_code call_upload(struct call *call, struct err *err);
/* Until the input or the model ends it. */
MUST_USE enum err_code call_chat(struct call *call, struct err *err);

#endif
