/* exchange.h - one request and its answer, on any transport.
 *
 * The transport (a connection in serve/) makes it when the request's head has arrived, finds the
 * handler and calls it once. From there:
 *
 *   body in     The handler offers memory with exchange_read: that is the credit, and nothing is
 *               delivered without it. Bytes go from the socket (or from what came along with the
 *               head) straight into that memory; on_body says how many arrived. One offer stands
 *               at a time. A handler that does not want the body just answers.
 *   answer out  exchange_respond once, exchange_send any number of times, exchange_end once. What
 *               is sent leaves at the end of the loop's turn. exchange_room says how many more
 *               bytes may be queued before a slow reader should be waited for (on_room then tells);
 *               sending past it is allowed once a response is under way, as a body that exists
 *               already costs no more when queued, but the connection's limit still cuts who never
 *               reads.
 *   leaving     on_gone when the peer left, was cut, or timed out: nothing more can be sent, calls
 *               are then no-ops.
 *
 * Callbacks never re-enter: none is called from within a call made here; they come from the
 * transport's own turn.
 *
 * Life     Counted: the transport holds one reference, whoever works for it one more
 *          (exchange_ref). The arena and the slices live until the last is given back. on_gone or
 *          exchange_end do not end the memory.
 * Threads  the loop's own only.
 */
#ifndef EXCHANGE_EXCHANGE_H
#define EXCHANGE_EXCHANGE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/slice.h"
#include "telemetry/trace.h"

struct buf;
struct budget;
struct caller;
struct certificate;
struct exchange;
struct loop;

struct header {
    struct slice name, value; /* name in lower case */
};

enum exchange_method {
    METHOD_OTHER,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_POST,
    METHOD_PUT,
    METHOD_DELETE,
    METHOD_OPTIONS,
    METHOD_PATCH
};

/* The handler's side. Any member may be NULL when it cannot happen or does not matter. */
struct exchange_user {
    /* `size` bytes lie at the memory offered. is_end: the body is complete (size may be 0). The
     * offer is used up; offer again for more. */
    void (*on_body)(struct exchange *x, size_t size, bool is_end);
    void (*on_room)(struct exchange *x); /* exchange_room was 0 and is not any more */
    /* Once, unless exchange_end came first and everything was sent. */
    void (*on_gone)(struct exchange *x);
    /* Once at most: the server stops (or this connection is old), and an answer that is under way
     * should come to its end soon. Who has no end of its own - a tunnel, a stream of events - says
     * good-bye here; when the time is up (--drain-timeout) all that is left is cut. */
    void (*on_drain)(struct exchange *x);
};

/* The transport's side: one table per transport, filled in serve/ (or by a test). */
struct exchange_ops {
    void (*read)(struct exchange *x);    /* x->offer, x->offer_size were set */
    void (*respond)(struct exchange *x, uint16_t status, const struct header *headers,
                    uint32_t headers_count, int64_t body_size);
    void (*send)(struct exchange *x, struct slice bytes, struct buf *holder);
    void (*end)(struct exchange *x, const struct header *trailers, uint32_t trailers_count);
    void (*abort)(struct exchange *x);
    size_t (*room)(struct exchange *x);
    void (*release)(struct exchange *x); /* the last reference is gone: recycle */
};

/* What is told of an exchange when it has ended - its line of the access log, its span, its count in the
 * metrics - beside what the transport knows. Whoever works on it fills in what it knows, at any time
 * before the end; slices are constant or in the exchange's arena. */
enum { NOTE_STAGES_MAX = 8, NOTE_INFERENCES_MAX = 32 };

/* One inference, once it has ended. */
struct note_inference {
    uint64_t begun_ns; /* when its decoding began; stages follow each other from there */
    uint64_t stage_ns[NOTE_STAGES_MAX]; /* by enum stage of engine/stats.h */
    uint8_t code; /* enum err_code */
    struct note_inference *next; /* of those that are kept; the note's own */
};

/* What an audit has to hear of. */
enum note_audit { NOTE_NOTHING, NOTE_REFUSED /* credentials, or a right that was missing */, NOTE_ADMIN };

struct exchange_note {
    struct slice why; /* of the first refusal: what the caller was told; never a secret */
    struct slice route;          /* of a bounded set: the route's pattern, "/package.Service/Method" of a
                                    method there is, empty of what was not found */
    struct slice model, version; /* only of models that exist: the metrics have a label for each */
    bool is_call;                /* messages over gRPC, gRPC-Web or a WebSocket: `code` says how it ended */
    uint8_t code;                /* enum err_code */
    uint8_t audit;               /* enum note_audit */
    bool keeps_inferences;       /* `kept` */
    uint32_t requests;           /* inferences: 0, 1, more of a stream */
    uint32_t responses;
    uint64_t stage_ns[NOTE_STAGES_MAX]; /* enum stage of engine/stats.h; sums of a stream's */
    uint64_t answered_ns; /* when its answer was written, by the clock; 0: nobody has looked */
    /* The first NOTE_INFERENCES_MAX, in the arena, of an exchange whose spans are exported. */
    uint32_t kept_count;
    struct note_inference *kept, **kept_end;
};

struct exchange {
    /* -- the request: set by the transport, read by everybody -- */
    enum exchange_method method;
    struct slice method_text;
    struct slice path;      /* as sent, percent-encoded, without the query */
    struct slice query;     /* behind the first '?', without it; empty when none */
    struct slice authority; /* Host or :authority */
    const char *scheme;     /* "http", "https" */
    const char *protocol;   /* "HTTP/1.1", "HTTP/2" */
    const char *tls;        /* "TLSv1.3": what its connection speaks; NULL: none */
    const struct header *headers;
    uint32_t headers_count;
    int64_t body_size;      /* bytes; -1: not known beforehand; 0: none */
    struct arena *arena;    /* owned, through release */
    struct loop *loop;      /* borrowed: outlives it */
    struct budget *budget;  /* borrowed: charge large buffers to it */
    uint64_t begun_ns;      /* loop time at which its first byte was seen */
    struct slice peer;      /* "127.0.0.1:4711" or "unix:" */
    const struct certificate *certificate; /* of the peer, verified (access/certificate.h); NULL: none */
    /* Who calls: set before any handler, one reference until release (access/access.h). NULL only in
     * tests and for what the server asks of itself: everything is allowed. */
    struct caller *caller;
    struct trace_context trace; /* set before any handler */
    struct slice request_id;    /* x-request-id, taken or made, printable ASCII; empty: none */
    /* "websocket": the peer asks for a tunnel, by HTTP/1.1's Upgrade (RFC 9110, 7.8) or HTTP/2's
     * extended CONNECT (RFC 8441; method is METHOD_GET then too). exchange_respond with 101 grants it
     * (200 is sent over HTTP/2): from then on the body both ways is the tunnel's bytes, the peer may
     * rest (can_rest), and is_end is its half-close. Any other answer refuses. Empty: no tunnel. */
    struct slice tunnel;

    /* -- the answer -- */
    uint64_t body_sent;     /* bytes given to exchange_send */
    uint16_t status;        /* once responded; else 0 */
    bool is_ended, is_gone;
    bool is_head;           /* HEAD: the transport drops the body, sizes stay */

    struct exchange_note note;

    /* -- who works on it -- */
    const struct exchange_user *user;
    void *user_data;
    uint8_t *offer;
    size_t offer_size;
    bool has_offer;
    bool body_is_over;      /* on_body said is_end, or there is none */
    bool can_rest;          /* its reader says, with each offer: the body may stand still now */
    uint32_t refs;
    const struct exchange_ops *ops;
};

/* For transports: sets what every exchange begins with (refs 1, all else zero). */
void exchange_init(struct exchange *x, const struct exchange_ops *ops, struct arena *arena,
                   struct loop *loop);
struct exchange *exchange_ref(struct exchange *x);
void exchange_unref(struct exchange **x);

/* Does its caller speak https? Then addresses that it is told do, too. */
bool exchange_is_https(const struct exchange *x);

/* The model an exchange is about, once it was found: copied. The first counts. */
void exchange_note_model(struct exchange *x, struct slice name, struct slice version);
/* An inference has ended. Copied. */
void exchange_note_inference(struct exchange *x, const struct note_inference *one);

/* Value of the first header of that lower-case name; data NULL when there is none. */
struct slice exchange_header(const struct exchange *x, const char *name);

void exchange_read(struct exchange *x, void *into, size_t size); /* size > 0 */
/* body_size -1: not known beforehand (chunked on HTTP/1.1). Headers are copied. content-length,
 * transfer-encoding, date and connection are the transport's to write. */
void exchange_respond(struct exchange *x, uint16_t status, const struct header *headers,
                      uint32_t headers_count, int64_t body_size);
/* The bytes must stay until they are sent: they lie in the exchange's arena, or are constant, or
 * `holder` keeps them (one more reference is taken). */
void exchange_send(struct exchange *x, struct slice bytes, struct buf *holder);
void exchange_end(struct exchange *x);
void exchange_end_trailers(struct exchange *x, const struct header *trailers,
                           uint32_t trailers_count);
/* Cuts the answer off so that the peer sees it is incomplete. */
void exchange_abort(struct exchange *x);
size_t exchange_room(struct exchange *x);

/* The whole of a small answer: respond, send, end. The body must stay as for exchange_send. */
void exchange_answer(struct exchange *x, uint16_t status, const char *content_type,
                     const struct header *more, uint32_t more_count, struct slice body,
                     struct buf *holder);

#endif
