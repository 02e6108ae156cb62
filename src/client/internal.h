/* internal.h - what the files of the client's pool share: pool.c keeps connections and what waits,
 * conn.c one socket, http1.c and http2.c what is spoken on it.
 *
 * Nothing is freed while something of it may stand on the stack: what is over goes to the pool's
 * lists of the dead, and the pool's task empties those at the end of the turn.
 */
#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#include "base/arena.h"
#include "base/list.h"
#include "base/text.h"
#include "client/pool.h"
#include "io/channel.h"
#include "io/loop.h"
#include "io/socket.h"
#include "wire/http2.h"

struct conn;

enum { ADDRESSES_MAX = 8, READ_BYTES = 64 << 10, HEAD_BYTES_MAX = 64 << 10 };

/* -- requests ---------------------------------------------------------------------------------- */

struct piece { /* of a request's body */
    struct list_node node;
    struct slice bytes;
    struct buf *holder; /* owned reference, or NULL */
    bool is_used;       /* the one that lies in its exchange */
    char frame[20];     /* of a chunk: its size */
};

struct client_exchange {
    struct list_node node; /* of the pool's waiting or dead, or of its connection */
    struct client_pool *pool;
    struct conn *conn;   /* NULL: it waits, or is over */
    struct arena *arena; /* owned: head and pieces */
    const char *method, *target;
    struct client_header *headers;
    uint32_t headers_count;
    struct list pieces;
    struct piece first; /* the usual only one */
    struct piece *at;   /* the next to be sent, from offset; NULL: all that is there is sent */
    size_t offset;
    size_t unsent_bytes;
    size_t kept_bytes; /* of all pieces, sent or not */
    bool is_open;       /* more of the body may come */
    bool is_chunked;    /* HTTP/1.1 without a length: pieces carry the chunks' frames */
    bool is_sent;       /* head and body are in the socket */
    bool is_sent_badly; /* ... or the socket takes no more */
    bool sends_agent;   /* our name; the user gave none */
    bool is_head, has_length, may_repeat, was_repeated, is_over, wants_room;
    bool is_kept_no_more;  /* of the body too little is left for a second try */
    bool has_begun;        /* something of an answer came */
    struct answer *answer; /* owned; NULL until it is on a connection */
    const struct client_exchange_user *user;
    void *user_data;
    struct timer deadline;
    uint64_t begun_ns, started_ns, sent_ns, first_ns, due_ns;
    struct client_times times;
    uint64_t ungranted_bytes;    /* delivered, and not granted again */
    struct http2_stream *stream; /* NULL: none, or HTTP/1.1 */
    int64_t reset_code;
};

/* -- connections ------------------------------------------------------------------------------- */

enum conn_state { CONN_CONNECTING, CONN_OPEN, CONN_LEAVING, CONN_DEAD };

struct conn_protocol {
    enum err_code (*open)(struct conn *c, struct err *err); /* it is connected */
    void (*close)(struct conn *c);          /* gives back what open made; also after it failed */
    uint32_t (*room)(const struct conn *c); /* how many more exchanges it takes now */
    /* x->conn is set and x is in c->exchanges. */
    enum err_code (*start)(struct conn *c, struct client_exchange *x, struct err *err);
    void (*cancel)(struct conn *c, struct client_exchange *x); /* x leaves it */
    void (*more)(struct conn *c, struct client_exchange *x);   /* pieces or their end came */
    void (*grant)(struct conn *c, struct client_exchange *x, size_t size);
    enum err_code (*receive)(struct conn *c, struct slice bytes, struct err *err);
    enum err_code (*finish)(struct conn *c, struct err *err); /* the peer closed; why, always */
    enum err_code (*send)(struct conn *c, struct err *err);   /* until all is out or c->is_full */
    bool (*wants_read)(const struct conn *c);
    bool (*may_repeat)(const struct conn *c, const struct client_exchange *x); /* it broke */
    void (*leave)(struct conn *c); /* an idle one is closed by us: say so; optional */
    bool (*ping)(struct conn *c);  /* optional */
};
extern const struct conn_protocol conn_http1, conn_http2;

struct conn {
    struct list_node node; /* of the pool's conns or dead_conns */
    struct client_pool *pool;
    const struct conn_protocol *protocol;
    enum conn_state state;
    struct loop_fd watch; /* fd -1: none */
    struct channel channel;
    bool is_shaking; /* connected, and TLS is not agreed yet */
    bool is_watched;
    bool is_full;  /* the socket takes nothing now */
    bool is_dirty; /* the task should send */
    bool is_cut;   /* the task should close it */
    bool is_pinged;
    bool has_written, has_heard; /* anything */
    struct err broken;           /* of a call from outside a turn: the task fails it */
    struct timer timer;
    uint32_t address; /* being tried */
    uint64_t begun_ns, connect_ns, heard_ns, idle_ns, pinged_ns;
    struct list exchanges;
    uint32_t exchanges_count;
    uint64_t served; /* exchanges put on it */
    struct text out; /* HTTP/1.1: the head; HTTP/2: frames */
    size_t out_at;
    struct http2 *http2;   /* owned by http2.c */
    uint32_t unsent_count; /* exchanges whose request is not all in the socket */
    bool is_closing;       /* events of http2_free are of no interest */
    struct err goaway;     /* what the server said, code OK: nothing */
};

struct client_pool {
    struct loop *loop;
    struct url url;
    struct client_pool_settings settings;
    struct address addresses[ADDRESSES_MAX];
    uint32_t addresses_count;
    struct http2_limits http2_limits;
    struct tls_client *tls; /* owned; NULL: http */
    struct list conns, dead_conns;
    struct list waiting, dead;
    uint32_t failures; /* to connect, one after the other */
    uint64_t retry_ns; /* not before */
    struct err last_failure;
    bool has_failed;    /* since the task ran */
    struct timer timer; /* for the warm ones */
    struct loop_task task;
    struct client_pool_stats stats;
    uint8_t bytes[READ_BYTES];
};

/* -- pool.c ------------------------------------------------------------------------------------ */

/* Where on_room is owed, and nothing waits to be sent. */
void exchange_tell_room(struct client_exchange *x);
uint64_t pool_now_ns(const struct client_pool *pool);
void pool_schedule(struct client_pool *pool);
/* The server speaks: whatever went wrong before is over. */
void pool_heard(struct client_pool *pool);
/* It could not be connected, or closed without a word. */
void pool_connect_failed(struct client_pool *pool, const struct err *why);

/* Ends it: off its lists, on_end. why->code OK: the answer is complete. */
void exchange_over(struct client_exchange *x, const struct err *why);
/* Asks once more on another connection when that is allowed still, else ends it with `why`. */
void exchange_again(struct client_exchange *x, const struct err *why);
/* Makes its answer, tied to its user. */
MUST_USE enum err_code exchange_answer_new(struct client_exchange *x, struct err *err);
/* The next piece after one; NULL: none yet. */
struct piece *exchange_piece_after(struct client_exchange *x, struct piece *piece);
/* Lets go of what is handed on and need not be kept for a second try. */
void exchange_drop_sent(struct client_exchange *x);
void exchange_all_sent(struct client_exchange *x);
void exchange_heard(struct client_exchange *x); /* the first byte of an answer */

/* -- conn.c ------------------------------------------------------------------------------------ */

/* Begins to connect. NULL: not even that; why. */
struct conn *conn_new(struct client_pool *pool, struct err *err);
/* Closes it; what is on it is asked again or ends with `why`. */
void conn_fail(struct conn *c, const struct err *why);
void conn_free(struct conn **c);
void conn_dirty(struct conn *c);
void conn_flush(struct conn *c); /* sends, and judges what is next: leave, close */
/* Sends `pieces` to the socket: bytes taken; 0 and c->is_full, or a negative errno. */
ssize_t conn_write(struct conn *c, struct iovec *pieces, size_t count);
void conn_exchange_left(struct conn *c, struct client_exchange *x);

#endif
