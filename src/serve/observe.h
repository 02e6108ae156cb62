/* observe.h - what is told of an exchange when it has ended: the one hook of the access log, of traces
 * and of the metrics by route.
 *
 * Whoever wants to hear of exchanges is a row of the server's table of observers. Every exchange is told
 * to each of them exactly once, when its transport has done with it: answered, refused, malformed,
 * aborted, cut, left by its peer. One that another answer takes the place of (a body that got too large)
 * is told of once, with that answer. What a handler knows stands in exchange.h's note by then; of one
 * that was left early some of it may be missing.
 *
 * When an exchange begins its trace context is read (telemetry/trace.h), or begun, and its request id
 * is taken or made; both before any handler, and before it is known whether it is refused.
 *
 * Threads  on_exchange is called on the exchange's loop, with its arena and headers still there. It does
 *          not block, and calls nothing of the exchange. observer_add before serve_start.
 */
#ifndef SERVE_OBSERVE_H
#define SERVE_OBSERVE_H

#include "exchange/exchange.h"

struct serve;

enum observe_end {
    OBSERVE_ANSWERED,
    OBSERVE_LEFT,   /* the peer left before its answer was complete, or was cut */
    OBSERVE_ABORTED /* we broke the answer off */
};

struct observed {
    const struct exchange *x; /* also where it has no path: what came was no request */
    uint32_t loop;            /* whose it was: 0 .. serve_loops - 1 */
    enum observe_end end;
    uint16_t status;          /* as answered; 499: nothing was */
    bool is_call;             /* note.code says how it ended: gRPC, gRPC-Web, calls over WebSocket */
    struct slice agent;       /* user-agent; data NULL: none */
    uint64_t ended_ns;        /* the clock's, read for this; x->begun_ns is when its turn began */
    uint64_t body_in, body_out;
};

struct observer {
    void (*on_exchange)(void *context, const struct observed *seen);
    void *context; /* borrowed: outlives the server's loops */
};

enum { OBSERVERS_MAX = 4 };

/* E_EXHAUSTED: there are OBSERVERS_MAX. */
MUST_USE enum err_code observer_add(struct serve *serve, const struct observer *observer,
                                    struct err *err);

/* What is done when an exchange begins; part of serve_settings. All zero: an incoming trace is passed
 * on, an incoming request id is echoed, and nothing is made. */
struct observe_rules {
    bool has_traces;         /* traces are exported: each exchange has one, also where none came in */
    double trace_ratio;      /* of those that begin here: 0..1 are sampled */
    bool makes_request_ids;  /* also where none came */
    bool ignores_request_ids; /* x-request-id is neither taken nor answered */
    bool answers_traces;     /* `traceresponse` is added to what is answered */
};

#endif
