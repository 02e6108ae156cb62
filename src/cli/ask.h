/* ask.h - asking a server, for the verbs: one connection, JSON in, failures as sentences. */
#ifndef CLI_ASK_H
#define CLI_ASK_H

#include "base/err.h"
#include "base/slice.h"
#include "client/client.h"

struct options;
struct yyjson_doc;

/* What --key says, as the value of `authorization`; NULL: nothing. It stays as long as the process. */
MUST_USE enum err_code ask_authorization(const char **ret, const struct options *options,
                                         struct err *err);
/* What --cacert, --cert and --insecure say; warns of the last. The texts stay as long as the process. */
MUST_USE enum err_code ask_tls(struct tls_client_settings *ret, const struct options *options,
                               struct err *err);
/* Is --server an address? What is wrong with what stands on the command line is E_INVALID, here and below;
 * with what a file or a variable says E_PRECONDITION. */
MUST_USE enum err_code ask_server(const struct options *options, struct err *err);
/* A client for --server, --key and --timeout. */
MUST_USE enum err_code ask_open(struct client **ret, const struct options *options,
                                struct err *err);
MUST_USE enum err_code ask_open_as(struct client **ret, const struct options *options, bool http2,
                                   struct client_tap *tap, struct err *err);
/* Adds to the text of a failure of `code` what to do about it; returns it. */
enum err_code ask_advise(enum err_code code, struct err *err);
/* One request; the text of a failure says what to do. `body` NULL: none. */
MUST_USE enum err_code ask(struct client *client, const char *method, const char *target,
                           const char *content_type, struct slice body, struct answer **ret,
                           struct err *err);
/* The same, and the answer must be 200 with JSON. A refusal's own words are the text. */
MUST_USE enum err_code ask_json(struct client *client, const char *method, const char *target,
                                struct slice body, struct yyjson_doc **ret, struct err *err);
/* From here on what is asked belongs to one distributed trace (W3C Trace Context): the one that the
 * environment's TRACEPARENT names, or a new one that is sampled. `says`: its id goes to standard error. */
void ask_begin_trace(bool says);
const char *ask_traceparent(void); /* the header's value; NULL: there is no trace */
/* The sentence in an answer that is no success: of {"error":"..."}, {"error":{"message":"..."}} or
 * plain text, with the status when there is none. */
enum err_code ask_refusal(const struct answer *answer, struct err *err);

#endif
