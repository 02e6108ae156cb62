/* engine/request.h - one inference, whatever dialect and transport it came by.
 *
 * Life     A dialect makes it on a loop (request_new, in the exchange's arena), fills it, and calls
 *          engine_submit. Then the sink hears on_response 0..n times, on_end once (unless
 *          request_cancel came first), and always on_free last: until then the arena, the model
 *          and the inputs' bytes must stay. A run on the loop itself calls the sink before
 *          engine_submit returns.
 * Threads  The sink is called on the request's loop only. While it is queued or runs, the request
 *          belongs to the engine; the dialect may call request_cancel and request_grant, nothing
 *          else.
 * Slow     A reader that limits its credit is given no more responses than it granted. What happens
 *          meanwhile is `request_merge`: the backend is paused (the ordinary case), or newer
 *          responses take the place of the one that waits.
 */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include "base/err.h"
#include "base/mpsc.h"
#include "base/slice.h"
#include "engine/stats.h"
#include "penstock/tensor.h"

struct arena;
struct buf;
struct caller;
struct engine;
struct loop;
struct model;
struct request;
struct trace_context;

enum parameter_kind { PARAMETER_STRING, PARAMETER_INT, PARAMETER_UINT, PARAMETER_BOOL, PARAMETER_DOUBLE };
struct parameter {
    struct parameter *next;
    const char *key;
    enum parameter_kind kind;
    const char *text; /* always: the value as text, NUL-terminated */
    union {
        int64_t i;
        uint64_t u;
        double d;
        bool b;
    } value;
};

struct response_output {
    bool is_set;
    struct penstock_tensor tensor; /* name and dtype from the signature; owner: a struct buf that
                                      holds the bytes, or NULL when they lie in the arena */
};

/* Outputs by index of the signature; those not wanted or not given are not set. The first response
 * stays valid until on_free (unless it waited for credit); a later one only while on_response runs.
 * Bytes outlive that when their owner is buf_ref'd; bytes without an owner end with the response. */
struct response {
    uint32_t outputs_count;
    struct response_output *outputs;
    uint64_t number; /* 1 for the request's (or the session's) first that is given */
    uint64_t merged; /* responses before it that were merged into it or dropped for it */
};

/* What happens to responses while the reader has no credit. */
enum session_merge {
    SESSION_PAUSE,  /* the backend is paused */
    SESSION_LATEST, /* a newer response takes the place of the one that waits */
    SESSION_CONCAT  /* BYTES outputs of one element are joined, of the others the newest is kept */
};

struct request_sink {
    void (*on_response)(struct request *request, struct response *response);
    void (*on_end)(struct request *request, const struct err *err); /* err->code OK: success */
    void (*on_free)(struct request *request); /* the memory may go; also after request_cancel */
};

struct request_private;

struct request {
    /* -- filled by the dialect between request_new and engine_submit -- */
    const char *id;                    /* "" when none */
    struct penstock_tensor *inputs;    /* by index of the signature; made by request_new */
    bool *has_input;                   /* likewise; all false at first */
    bool *wants;                       /* outputs by index; at first all that the configuration lists */
    struct parameter *parameters;      /* list, or NULL */
    uint64_t deadline_ns;              /* loop clock; UINT64_MAX: none */
    uint64_t timeout_us;               /* Triton's queue timeout; 0: the model's */
    uint64_t priority;                 /* 0: the model's default */
    uint64_t waited_ns;                /* for its loop, before it was submitted: engine_ask */
    struct caller *caller;             /* whose tenant it is charged to: borrowed from the exchange, which
                                          outlives it; NULL: nobody's */
    const struct trace_context *trace; /* likewise; NULL: none */
    void *user;                        /* the dialect's own */
    uint64_t stage_ns[STAGES];         /* DECODE filled by the dialect, ENCODE when it answered;
                                          the engine fills the others */
    uint64_t decode_from_ns;           /* instead of DECODE: when it began; until engine_submit */
    /* -- read-only for the dialect -- */
    struct model *model;               /* one reference, until on_free */
    struct arena *arena;
    struct loop *loop;
    const struct request_sink *sink;
    bool was_inline;
    uint64_t
        inline_ended_ns; /* when the run ended, of one that ends on the loop with its run; else 0 */
    struct request_private *private;   /* the engine's */
};

/* In the arena; takes a reference of the model. E_EXHAUSTED when the arena is full. */
MUST_USE enum err_code request_new(struct request **ret, struct engine *engine,
                                   struct model *model, struct arena *arena, struct loop *loop,
                                   const struct request_sink *sink, struct err *err);
/* Gives up a request that was never submitted: on_free is not called. */
void request_discard(struct request **request);

/* Validates against the signature, admits, schedules. Failures go to on_end like all others
 * (E_INVALID, E_EXHAUSTED with retry_after_ms, E_DEADLINE, E_UNAVAILABLE ...), then on_free. */
void engine_submit(struct request *request);

/* The caller has left: detaches the sink (only on_free still comes), stops the work as soon as the
 * backend lets it. on_free may come before this returns. Idempotent. Not from within the sink. */
void request_cancel(struct request *request);

/* The reader takes `n` more responses; every request begins with UINT32_MAX (no limit) unless
 * request_limit_credit was called before submit. */
void request_limit_credit(struct request *request, uint32_t n);
void request_grant(struct request *request, uint32_t n);

/* Before submit: what happens to responses while the reader has no credit. on_end waits until the
 * last response is given. */
void request_merge(struct request *request, enum session_merge merge);

/* Tells the statistics that the answer has been written: stage_ns[STAGE_ENCODE] is set. Optional,
 * once, between on_end and on_free or from on_end. */
void request_account_encode(struct request *request, uint64_t ns);

const struct parameter *request_parameter(const struct request *request, const char *key);

#endif
