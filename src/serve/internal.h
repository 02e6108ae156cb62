/* internal.h - what the files of serve/ share. Threads: each struct says whose it is. */
#ifndef SERVE_INTERNAL_H
#define SERVE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/list.h"
#include "io/channel.h"
#include "io/loop.h"
#include "io/socket.h"
#include "serve/observe.h"
#include "serve/origin.h"
#include "serve/pool.h"
#include "serve/router.h"
#include "serve/serve.h"
#include "serve/stats.h"
#include "serve/traffic.h"
#include "wire/http1.h"
#include "wire/http1_write.h"
#include "wire/http2.h"

enum {
    LISTENERS_MAX = 16,
    PEER_TEXT_MAX = 64,
    HEADERS_MORE_MAX = 16,
    HEADERS_MORE_FEW = 2, /* mostly; idle streams are many */
};

struct conn;
struct serve_loop;

/* What the rest of serve/ asks of any connection. */
struct conn_kind {
    void (*drain)(struct conn *conn); /* what is under way or on its way is its last */
    void (*cut)(struct conn *conn);   /* now */
    uint32_t (*under_way)(
        const struct conn *conn); /* requests that are not answered to their end */
    void (*send)(struct conn *conn); /* what was held; optional where nothing is */
};

/* The head of each kind of connection: tls_conn.c, http1_conn.c, http2_conn.c. Its loop's own. */
struct conn {
    const struct conn_kind *kind;
    struct list_node node; /* in its loop's conns */
    struct list_node held; /* in its loop's held */
    struct serve_loop *l;
    const struct listener *listener;
    struct channel channel;
    bool is_bounded;     /* its socket: conn_bound */
    bool is_misdirected; /* plain HTTP where TLS is spoken: told so, and nothing else */
    uint8_t peer_size;
    char peer[PEER_TEXT_MAX];
};

/* A bound address; its socket is watched by every loop. Read-only once started. */
struct listener {
    int fd;
    struct address address;
    bool is_local, is_unix, is_tls, keeps_file;
    char url[ADDRESS_TEXT_MAX + 8];
};

/* Memory that bytes are received into; its connection's. Loop's own. */
struct input {
    uint32_t room;
    bool is_pooled;
    uint8_t bytes[];
};

/* How fast a body comes; only time its reader waited counts. */
struct body_pace {
    uint64_t bytes, waited_ns;
    uint64_t wait_ns; /* since when its reader waits; 0: it does not */
};

/* An exchange as the transports here make it: what the router and the origin check need beside
 * what the handler sees. Loop's own; pooled. */
struct serve_exchange {
    struct exchange x; /* first */
    struct serve_loop *l;
    struct conn *conn; /* NULL once the connection has done with it */
    const struct listener *listener;
    struct route_match match;             /* lives as long as the exchange */
    enum dialect dialect;                 /* of errors made here */
    uint32_t more_count;
    struct header
        *more; /* added to whatever is answered (serve_exchange_add): more_few, or in the arena */
    struct header more_few[HEADERS_MORE_FEW];
    int64_t promised; /* body bytes the head announced; -1: not known */
    bool drops_body, is_chunked, is_aborted, wants_room, expects_continue;
    bool is_tunnel;     /* granted: x.tunnel says which */
    bool is_told;       /* observers have heard of its end, or hear of another's in its place */
    bool knows_drain;   /* on_drain was called */
    bool has_sent;      /* HTTP/2: what its answer has is all given to http2 */
    bool was_slow;      /* HTTP/2: its body, and nothing more of it is waited for */
    struct slice agent; /* user-agent */
    struct serve_exchange *before; /* owned reference; what this is the answer to, in its place */
    char peer[PEER_TEXT_MAX];

    /* -- HTTP/2's own: http2_conn.c -- */
    struct http2_stream *stream; /* NULL: the stream has closed */
    struct list_node due;        /* something is to be done for it in this turn */
    struct list_node waiting;    /* it waits for room */
    uint8_t *kept;               /* owned: bytes that came before an offer */
    size_t kept_at, kept_size, kept_room;
    size_t filled; /* of the present offer */
    size_t held;   /* by its head, as its connection counts */
    struct body_pace pace;
    uint64_t lingers_ns, lingered; /* its answer is out: until when, and how much was dropped */
    uint64_t sent_mark, sent_ns;   /* how far its answer had got, and when that was seen */
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
    struct pool conns_pool, http2_conns, tls_conns, exchanges, inputs, outputs, references;
    struct arena_store arenas;     /* blocks of the exchanges' arenas */
    struct http1_field *fields;    /* owned; heads are read into it, and what there is is kept */
    struct http2_heap *http2_heap; /* owned; made with its first HTTP/2 connection */
    uint8_t *http2_input;          /* owned; what is received for any of them */
    struct serve_stats stats;
    _Atomic uint32_t open; /* connections here or on their way here */
    uint32_t rejecting;    /* those that are only told 503 */
    uint64_t date_due_ns;
    char date[HTTP1_DATE_BYTES];
    struct listen_watch listens[LISTENERS_MAX];
    struct timer accept_timer;
    struct list handshakes;     /* that have not ended, the oldest first */
    struct list handshakes_due; /* of them those that can go on */
    uint32_t handshakes_count;
    struct loop_task handshakes_task;
    struct list held; /* connections whose answers leave together */
    uint32_t held_count;
    uint64_t held_from_ns;
    struct loop_task held_task;
    bool is_draining, is_cut;
    uint64_t chance[4]; /* observe.c's generator of ids */
    struct loop_msg start_msg, drain_msg, cut_msg, beat_msg;
    _Atomic uint64_t beat_ns; /* when beat_msg was posted; 0: it was answered */
    struct serve_left left;   /* what on_cut cut */
    enum err_code start_code;
    struct err start_err;
};

struct serve {
    struct env *env;
    struct serve_settings settings;
    struct http1_limits limits;
    struct http2_limits http2_limits;
    struct router *router;
    struct origin_rules origins;
    char hsts[48]; /* "max-age=31536000"; "": nothing is said */
    struct observer observers[OBSERVERS_MAX]; /* read-only once started */
    uint32_t observers_count;
    struct traffic *traffic; /* owned; NULL: there are no metrics */
    struct listener listeners[LISTENERS_MAX];
    uint32_t listeners_count;
    struct serve_loop *loops;
    uint32_t loops_count;
    bool is_started;
    _Atomic bool is_draining;
    _Atomic bool has_met_tls; /* on a plain listener: said once */
    uint64_t idle_ns; /* once it drains: how long an idle connection of HTTP/1.1 is kept */
    bool keeps_files; /* of any listener; the starting thread's */
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

/* -- conn.c: what both kinds of connections do alike -- */
struct conn *conn_of_node(struct list_node *node);
void conn_init(struct conn *conn, const struct conn_kind *kind, struct serve_loop *l,
               const struct listener *listener, const struct address *peer);
/* What is another's from here on: listener, peer, channel. */
void conn_move(struct conn *conn, const struct conn_kind *kind, const struct conn *from);
/* A descriptor that is watched as connections are. */
MUST_USE enum err_code conn_watch(struct serve_loop *l, struct loop_fd *watch);
/* Its answer is made as there is room for it: the kernel is not to take megabytes of it for a reader
 * who has stopped. Answers that are there anyway are sent faster without. */
void conn_bound(struct conn *conn, int fd);
/* A fresh exchange of this connection, held once; NULL: no memory. */
struct serve_exchange *serve_exchange_take(struct conn *conn, const struct exchange_ops *ops,
                                           uint64_t begun_ns);
void serve_exchange_release(struct exchange *x); /* for exchange_ops */
/* One more header for whatever is answered; its bytes live as long as the exchange. An exchange that has no memory for it
 * is broken off: what browsers and caches must be told is not left out. */
void serve_exchange_add(struct serve_exchange *e, struct slice name, struct slice value);
/* Tells who works on it that nothing can be sent any more. */
void serve_exchange_leave(struct exchange *x);
/* Tells who works on it, once, that the server stops. True: it was told now. */
bool serve_exchange_drain(struct serve_exchange *e);
/* The tunnel that was asked for is granted: its bytes are the body from here on. */
void serve_exchange_tunnel(struct serve_exchange *e);
/* Within a connection's on_ready: are there others behind it in this turn, or before it who wait? Then what it has to send
 * may wait for theirs, if it is little: conn_hold, and `send` of its kind is called before the turn ends. It may be
 * called from within conn_hold, and the connection be gone behind it. */
static inline bool conn_may_hold(const struct conn *conn)
{
    return conn->l->held_count > 0 || loop_has_more(conn->l->loop);
}
void conn_hold(struct conn *conn);
void conn_hold_no_more(struct conn *conn); /* no-op when it is not held */
void serve_count_answer(struct serve_loop *l, uint16_t status);
void body_pace_begin(struct body_pace *pace, uint64_t now_ns);               /* its reader waits */
void body_pace_got(struct body_pace *pace, uint64_t now_ns, uint64_t bytes); /* they came */
/* Does it stand still, or come too slowly? Then it counts that, and err says so. */
bool body_pace_is_slow(const struct body_pace *pace, struct serve_loop *l, uint64_t now_ns,
                       struct err *err);
void serve_loop_pools_init(struct serve_loop *l);
void serve_loop_pools_deinit(struct serve_loop *l);

/* -- http1_conn.c -- */
/* Takes the descriptor; the connection is the loop's from here on. Counts are the caller's. */
void http1_conn_open(struct serve_loop *l, const struct listener *listener, int fd,
                     const struct address *peer, bool is_rejected);
/* Goes on with a connection of TLS, or with one that should have been: takes its channel and its counts;
 * `watch` watches no more. False: no memory, and everything is as it was. */
bool http1_conn_take(const struct conn *from, struct loop_fd *watch, struct slice received,
                     bool fin_seen);
void http1_pools_init(struct serve_loop *l);
void http1_pools_deinit(struct serve_loop *l);
void http1_input_give(struct serve_loop *l, struct input **input); /* NULL is fine */

/* -- tls_conn.c -- */
/* As http1_conn_open, for listeners that speak TLS. */
void tls_conn_open(struct serve_loop *l, const struct listener *listener, int fd,
                   const struct address *peer);
void tls_pools_init(struct serve_loop *l);
void tls_pools_deinit(struct serve_loop *l);
/* A ClientHello came to a plain listener: what to answer, an alert; said once in the log. */
struct slice tls_refusal(struct serve *serve, const struct listener *listener);

/* -- http2_conn.c -- */
/* Goes on with a connection whose first bytes are HTTP/2's preface: takes its channel, which
 * `watch` watched until then, and its counts; `received` is used before it returns. False: no
 * memory, and everything is as it was. */
bool http2_conn_open(const struct conn *from, struct loop_fd *watch, struct slice received,
                     bool fin_seen);
void http2_pools_init(struct serve_loop *l);
void http2_pools_deinit(struct serve_loop *l);
void http2_limits_init(struct http2_limits *limits, const struct serve_settings *settings);

/* -- dispatch.c -- */
/* Host, Origin, route; then the handler, or an answer made here. */
void serve_dispatch(struct serve_exchange *e);
/* May the body of this request be larger than --max-body? Of one that has a route, as of one that has
 * not been dispatched yet. */
bool serve_takes_any_size(struct serve_exchange *e);
/* What an error looks like that is found before the handler. */
enum dialect serve_dialect_of(const struct exchange *x);

/* -- observe.c -- */
void observe_init(struct serve_loop *l);
/* Reads what its head says of traces and who asks. */
void observe_begin(struct serve_exchange *e);
/* `fresh` answers in place of `before`, which nobody is told of. */
void observe_replace(struct serve_exchange *fresh, struct serve_exchange *before);
void observe_tell(struct serve_exchange *e, uint64_t body_in);
/* Its transport has done with it. */
static inline void observe_end(struct serve_exchange *e, uint64_t body_in)
{
    if (e->l->serve->observers_count != 0 && !e->is_told)
        observe_tell(e, body_in);
}

/* -- identify.c -- */
/* Sets x.caller, and x.budget to its tenant's. */
MUST_USE enum err_code serve_identify(struct serve_exchange *e, struct err *err);

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
