/* client.h - asks a server over HTTP/1.1, one request after the other on one connection.
 *
 * The connection is kept between calls as long as both sides want it, and made anew when not. What
 * parses (answer.h) knows no socket, so that a pool on a loop can use it as well.
 *
 * Life     client_new, client_call any number of times, client_free.
 * Threads  one at a time; calls block, never longer than the timeout.
 */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include "client/answer.h"
#include "client/url.h"

struct client;

struct client_settings {
    const char *url;     /* see url.h */
    uint64_t timeout_ns; /* of one call, all together; 0: 60 s */
    struct answer_limits limits;
};

struct client_header {
    const char *name, *value;
};

struct client_request {
    const char *method; /* "GET" */
    const char *target; /* "/models", percent-encoded, behind the base of the url */
    const struct client_header *headers;
    uint32_t headers_count;
    struct slice body; /* with content-length when the method has a body or size > 0 */
};

/* Where the time of the last call went, as the caller sees it. */
struct client_times {
    bool was_kept; /* no connection had to be made */
    uint64_t connect_ns, send_ns, wait_ns, receive_ns;
};

MUST_USE enum err_code client_new(struct client **ret, const struct client_settings *settings,
                                  struct err *err);
void client_free(struct client **client);
/* E_UNAVAILABLE: nobody is there, or it left in the middle. E_DEADLINE: no answer in time.
 * E_DATA_LOSS: no HTTP. E_RANGE: an answer past the limits. Any status is an answer. */
MUST_USE enum err_code client_call(struct client *client, const struct client_request *request,
                                   struct answer **ret, struct err *err);
const struct url *client_url(const struct client *client);
struct client_times client_times(const struct client *client);

#endif
