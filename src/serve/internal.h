/* internal.h - what the files of serve/ share. Threads: each struct says whose it is. */
#ifndef SERVE_INTERNAL_H
#define SERVE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "io/loop.h"
#include "io/socket.h"
#include "serve/origin.h"
#include "serve/pool.h"
#include "serve/router.h"
#include "serve/serve.h"
#include "serve/stats.h"
#include "wire/http1.h"
#include "wire/http1_write.h"

enum {
    LISTENERS_MAX = 16,
    PEER_TEXT_MAX = 64,
    HEADERS_MORE_MAX = 8,
};

struct conn;
struct serve_loop;

/* A bound address; its socket is watched by every loop. Read-only once started. */
struct listener {
    int fd;
    struct address address;
    bool is_local, is_unix;
    char url[ADDRESS_TEXT_MAX + 8];
};

/* Memory that bytes are received into; the exchanges whose heads lie in it hold it. Loop's own. */
struct input {
    uint32_t refs;
    uint32_t room;
    bool is_pooled;
    uint8_t bytes[];
};

/* An exchange as the transports here make it: what the router and the origin check need beside
 * what the handler sees. Loop's own; pooled. */
struct serve_exchange {
    struct exchange x; /* first */
    struct serve_loop *l;
    struct conn *conn; /* NULL once the connection has done with it */
    const struct listener *listener;
    struct input *input;                  /* holds the head's bytes */
    struct route_match match;             /* lives as long as the exchange */
    enum dialect dialect;                 /* of errors made here */
    struct header more[HEADERS_MORE_MAX]; /* added to whatever is answered */
    uint32_t more_count;
    int64_t promised; /* body bytes the head announced; -1: not known */
    bool drops_body, is_chunked, is_aborted, wants_room, expects_continue;
    char peer[PEER_TEXT_MAX];
    struct http1_field fields[];
};

/* A listener as seen by one loop. */
struct listen_watch {
    struct loop_fd watch;
    struct serve_loop *l;
    struct listener *listener;
    bool is_watched;
};

/* One loop and everything on it. Its thread's own, but for what is atomic. */
struct serve_loop {
    struct serve *serve;
    struct loop *loop;
    struct worker *worker;
    struct list conns;
    struct pool conns_pool, exchanges, inputs, outputs, references;
    struct serve_stats stats;
    _Atomic uint32_t open; /* connections here or on their way here */
    uint32_t rejecting;    /* those that are only told 503 */
    uint64_t date_due_ns;
    char date[HTTP1_DATE_BYTES];
    struct listen_watch listens[LISTENERS_MAX];
    struct timer accept_timer;
    bool is_draining, is_cut;
    struct loop_msg start_msg, drain_msg, cut_msg;
    enum err_code start_code;
    struct err start_err;
};

struct serve {
    struct env *env;
    struct serve_settings settings;
    struct http1_limits limits;
    struct router *router;
    struct origin_rules origins;
    struct listener listeners[LISTENERS_MAX];
    uint32_t listeners_count;
    struct serve_loop *loops;
    uint32_t loops_count;
    bool is_started;
    _Atomic bool is_draining;
    _Atomic uint32_t connections;
    /* The starting thread waits here for the loops' word. Leaf mutex. */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint32_t answered; /* loops that did what they were posted; under the mutex */
};

/* -- listener.c -- */
void listener_watch_all(struct serve_loop *l);
void listener_unwatch_all(struct serve_loop *l);
void listener_drain(struct serve_loop *l);

/* -- http1_conn.c -- */
/* Takes the descriptor; the connection is the loop's from here on. Counts are the caller's. */
void conn_open(struct serve_loop *l, const struct listener *listener, int fd,
               const struct address *peer, bool is_rejected);
void conn_drain(struct conn *conn); /* closes it if it is idle; else its next answer is the last */
void conn_cut(struct conn *conn);   /* now */
struct conn *conn_of_node(struct list_node *node);
void serve_loop_pools_init(struct serve_loop *l);
void serve_loop_pools_deinit(struct serve_loop *l);

/* -- dispatch.c -- */
/* Host, Origin, route; then the handler, or an answer made here. */
void serve_dispatch(struct serve_exchange *e);

/* -- serve.c -- */
const char *serve_loop_date(struct serve_loop *l);
/* A connection of this loop has ended (or was never opened). */
void serve_connection_gone(struct serve_loop *l);

_Static_assert(sizeof(struct header) == sizeof(struct http1_field) &&
                   offsetof(struct header, value) == offsetof(struct http1_field, value),
               "a parsed field is a header: exchange.h and http1.h lay them out alike");
_Static_assert((int)HTTP1_GET == (int)METHOD_GET && (int)HTTP1_HEAD_METHOD == (int)METHOD_HEAD &&
                   (int)HTTP1_POST == (int)METHOD_POST && (int)HTTP1_PUT == (int)METHOD_PUT &&
                   (int)HTTP1_DELETE == (int)METHOD_DELETE &&
                   (int)HTTP1_OPTIONS == (int)METHOD_OPTIONS &&
                   (int)HTTP1_PATCH == (int)METHOD_PATCH,
               "wire's methods are exchange's");

#endif
