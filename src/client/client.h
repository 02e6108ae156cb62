/* client.h - asks a server, one request after the other, and waits for each answer: for verbs and
 * tests. It is a pool (pool.h) of one connection with a loop of its own.
 *
 * The connection is kept between calls as long as both sides want it, and made anew when not.
 *
 * Life     client_new, client_call and client_grpc any number of times, client_free.
 * Threads  one at a time, and not a loop's; calls block, never longer than the timeout.
 */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include "base/text.h"
#include "client/answer.h"
#include "client/grpc_client.h"
#include "client/pool.h"
#include "client/url.h"

struct client;

struct client_settings {
    const char *url;     /* see url.h */
    uint64_t timeout_ns; /* of one call, all together; 0: 60 s */
    struct answer_limits limits;
    bool http2;             /* with prior knowledge; else HTTP/1.1 */
    const char *authorization; /* as in pool.h */
    struct tls_client_settings tls; /* of https; its texts are borrowed until client_free */
    struct client_tap *tap;    /* borrowed, or NULL */
};

MUST_USE enum err_code client_new(struct client **ret, const struct client_settings *settings,
                                  struct err *err);
void client_free(struct client **client);
/* E_UNAVAILABLE: nobody is there, or it left in the middle. E_DEADLINE: no answer in time.
 * E_DATA_LOSS: no HTTP. E_RANGE: an answer past the limits. Any status is an answer. */
MUST_USE enum err_code client_call(struct client *client, const struct client_request *request,
                                   struct answer **ret, struct err *err);

/* -- gRPC: of clients with http2 ----------------------------------------------------------------- */

struct client_grpc_request {
    const char *path;                     /* "/package.Service/Method" */
    const struct client_header *metadata; /* as grpc_client.h has it */
    uint32_t metadata_count;
    const struct slice *messages; /* all are sent, then our side ends */
    uint32_t messages_count;
    enum encoding sends;
    size_t message_bytes_max; /* of one received; 0: as limits.body_bytes_max */
};

struct client_reply {
    struct grpc_client_status status; /* views of what the reply owns */
    uint32_t messages_count;
    struct buf **messages; /* owned */
    size_t wire_bytes;     /* of all messages received, with their prefixes */
    struct answer *answer; /* owned; NULL: nothing came */
    struct text memory;    /* owned: details */
};

/* One call; every message of the answer is gathered. E_* is the status of the call, whoever says so;
 * then *ret holds what there is of it. Failures of our own (no host, no memory) leave it NULL. */
MUST_USE enum err_code client_grpc(struct client *client, const struct client_grpc_request *request,
                                   struct client_reply **ret, struct err *err);
void client_reply_free(struct client_reply **reply);

const struct url *client_url(const struct client *client);
struct client_times client_times(const struct client *client);

#endif
