/* pool.h - asks one server, many requests at the same time, from a loop: HTTP/1.1 (a connection
 * carries one at a time) or HTTP/2 with prior knowledge (many).
 *
 * Connections are made when requests wait, up to a number; some are kept warm. A request waits for a
 * place, within its deadline; those past `waiting_max` are refused. When the server says GOAWAY (or
 * `connection: close`) nothing new is put on that connection, and what is under way ends there. What
 * the server surely did not begin (REFUSED_STREAM, streams above GOAWAY's last, a connection that
 * broke before anything was sent; of HTTP/1.1 also GET and HEAD on a kept connection that broke
 * without an answer) is asked once more elsewhere; nothing else ever is.
 * A server that cannot be reached is tried again later and later; meanwhile requests are refused at
 * once with the reason.
 *
 * Life     client_pool_new (looks the host's name up: blocks), client_pool_ask any number of times,
 *          client_pool_free. An exchange lives from client_pool_ask until on_end has returned, or
 *          until client_exchange_cancel.
 * Threads  the loop's own only. Callbacks come from the loop's turn, never from within a call made
 *          here; they may call anything of this header but client_pool_free.
 */
#ifndef CLIENT_POOL_H
#define CLIENT_POOL_H

#include "base/err.h"
#include "base/slice.h"
#include "client/answer.h"
#include "client/url.h"
#include "io/tls.h"

struct buf;
struct client_exchange;
struct client_pool;
struct loop;

enum client_protocol { CLIENT_HTTP1, CLIENT_HTTP2 };

/* Sees the bytes of every connection as they pass the socket: for `penstock call --wire`. */
struct client_tap {
    void (*on_bytes)(struct client_tap *tap, bool is_sent, struct slice bytes);
};

struct client_pool_settings {
    const char *url; /* see url.h */
    enum client_protocol protocol;
    uint32_t connections_max;    /* 0: 8 */
    uint32_t connections_warm;   /* made at once and kept while there is nothing to do; 0: none */
    uint32_t waiting_max;        /* requests that wait for a place; 0: 1024 */
    uint32_t streams_max;        /* HTTP/2: on one connection, if the server allows them; 0: 100 */
    uint32_t window_bytes;       /* answer bytes a request takes ahead of its reader; 0: 1 MiB */
    uint64_t connect_timeout_ns; /* 0: 10 s */
    uint64_t idle_timeout_ns;    /* of connections beyond the warm ones; 0: 60 s */
    uint64_t ping_ns;         /* HTTP/2: silence after which the server is asked whether it lives;
                                  0: never */
    uint64_t ping_timeout_ns; /* 0: 20 s */
    uint64_t backoff_min_ns;  /* after the first failure to connect, then doubled; 0: 100 ms */
    uint64_t backoff_max_ns;  /* 0: 10 s */
    struct answer_limits limits;
    /* Value of `authorization` of every request that brings none of its own; borrowed, or NULL. */
    const char *authorization;
    struct client_tap *tap; /* borrowed, or NULL */
    struct tls_client_settings tls; /* of https: whom to trust, what to show; all zero: the system's */
};

struct client_header {
    const char *name, *value; /* the name in lower case for HTTP/2 */
};

struct client_request {
    const char *method; /* "GET" */
    const char *target; /* "/models", percent-encoded, behind the base of the url */
    const struct client_header *headers;
    uint32_t headers_count;
    struct slice body; /* with content-length when the method has a body or size > 0 */
};

/* Where the time went, as the caller sees it. */
struct client_times {
    bool was_kept; /* no connection had to be made for it */
    uint64_t connect_ns, send_ns, wait_ns, receive_ns;
};

/* Any member but on_end may be NULL. */
struct client_exchange_user {
    void (*on_head)(struct client_exchange *x, const struct answer *answer);
    /* A piece of the answer's body; NULL: it is gathered in the answer. For each byte one has to be
     * granted (client_exchange_grant), or no more come once `window_bytes` stand open. */
    void (*on_body)(struct client_exchange *x, struct slice piece);
    void (*on_room)(
        struct client_exchange *x); /* what was sent is in the socket: more may follow */
    /* Once, the last: `why->code` OK and the answer complete, or what went wrong. */
    void (*on_end)(struct client_exchange *x, const struct err *why);
};

struct client_ask {
    struct client_request request; /* head copied; body stays until on_end, unless held */
    struct buf *holder;            /* of the body: one more reference is taken; or NULL */
    bool is_open;    /* the body goes on with client_exchange_send, until client_exchange_finish */
    uint64_t due_ns; /* on the loop's clock; 0: never */
    const struct client_exchange_user *user;
    void *user_data;
};

struct client_pool_stats {
    uint32_t connections, connecting;       /* now; `connections` are open ones */
    uint32_t waiting, running;              /* requests, now */
    uint64_t connected_total, failed_total; /* connections */
    uint64_t repeated_total;                /* requests asked once more */
    uint64_t pings_total;
};

/* Loop time is the loop's; requests and answers are charged to nobody. */
MUST_USE enum err_code client_pool_new(struct client_pool **ret, struct loop *loop,
                                       const struct client_pool_settings *settings,
                                       struct err *err);
/* Cuts every connection. Exchanges under way are dropped without a callback. */
void client_pool_free(struct client_pool **pool);
const struct url *client_pool_url(const struct client_pool *pool);
struct loop *client_pool_loop(const struct client_pool *pool);
struct client_pool_stats client_pool_stats(const struct client_pool *pool);

/* E_EXHAUSTED: `waiting_max` wait already. E_INVALID: a header with a line end. What fails later
 * comes by on_end: E_UNAVAILABLE (nobody there, it left), E_DEADLINE, E_DATA_LOSS (not HTTP),
 * E_RANGE (past the limits), E_CANCELLED (the server reset it so). */
MUST_USE enum err_code client_pool_ask(struct client_pool *pool, const struct client_ask *ask,
                                       struct client_exchange **ret, struct err *err);

/* -- one exchange ------------------------------------------------------------------------------ */

void *client_exchange_data(const struct client_exchange *x);
/* More of the body. The bytes stay until on_end, or `holder` keeps them. False: no memory. */
MUST_USE bool client_exchange_send(struct client_exchange *x, struct slice bytes,
                                   struct buf *holder);
void client_exchange_finish(struct client_exchange *x);         /* the body is whole */
size_t client_exchange_unsent(const struct client_exchange *x); /* bytes that wait */
void client_exchange_grant(struct client_exchange *x, size_t size);
/* Gives it up: resets the stream (HTTP/2), cuts the connection (HTTP/1.1). No callback follows. */
void client_exchange_cancel(struct client_exchange **x);
/* What there is of the answer; NULL before the first byte. In on_end it may be taken. */
const struct answer *client_exchange_answer(const struct client_exchange *x);
struct answer *client_exchange_take(struct client_exchange *x);
struct client_times client_exchange_times(const struct client_exchange *x);
/* HTTP/2: the code with which the server reset it (RFC 9113 7); -1: it did not. */
int64_t client_exchange_reset_code(const struct client_exchange *x);

#endif
