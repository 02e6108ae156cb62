/* engine/session.h - one caller's stream through a model: input in pieces, answers in pieces, state
 * in between. Every streaming dialect that sends more than one input speaks to this.
 *
 * What a piece becomes is `reduce`:
 *   SESSION_EACH    each piece is a run of its own, in order (a conversation)
 *   SESSION_STACK   all pieces, one behind the other along the first dimension, are one run at the
 *                   end; a piece without that dimension (a single row) is a row
 *   SESSION_LAST    the last piece is one run at the end
 *   SESSION_WINDOW  rows are collected; each `window` rows are a run, the next begins `step` rows
 *                   later; `pad` rows of zeros stand before the first. What is left over at the end
 *                   and fills no window is left out
 * Rows of a WINDOW are counted along the first dimension; where one behind it has exactly the size
 * of the window (samples of [-1,576], window 576) along that, where the first is not free along the one
 * that is; model.yaml's `stream: axis` says it otherwise (docs/model-yaml.md). What lies before that
 * dimension is 1. Inputs that the card marks as constant (`sr`) or as state need not be sent; one that
 * is sent takes the place of the session's.
 *
 * A model whose backend takes streams itself (PENSTOCK_BACKEND_TAKES_STREAM) gets the pieces as they
 * come (EACH only), and may answer before the first.
 *
 * State    What the configuration lists as state (config.pbtxt: sequence_batching { state }, or
 *          model.yaml: stream: state) is zeros (or initial_state) at first; what a run gives back is
 *          the next run's input. It lives in the session. A run that fails or is interrupted leaves
 *          it as it was.
 * Unload   The session holds its model: one whose version is unloaded goes on to its end.
 * Numbers  Pieces are numbered from 1 as they are pushed, responses from 1 as they are given. A
 *          response says which piece it answers (of WINDOW: the piece that completed it).
 * Credit   Both ways. The session begins with `pieces_max` pieces that may be pushed and waits for
 *          its reader's grants to give responses. A backend without credit is paused.
 * Merging  SESSION_LATEST: while the reader has no credit, a newer response takes the place of the one
 *          that waits; response.merged says how many went. SESSION_CONCAT: BYTES outputs of one
 *          element are joined instead (text), the other outputs are the newest's. Counted in
 *          penstock_stream_merged_total.
 * Ends     session_finish: no more pieces; on_end comes when all is answered. A run that fails is
 *          on_piece_end's, and the session goes on - but for STACK, LAST, WINDOW and backends that take
 *          streams, where it ends the session. session_interrupt: what runs is cancelled and what
 *          waits is dropped (each ends with E_CANCELLED), state stays as it was after the last run that
 *          succeeded; the session goes on.
 * Order    Ends of pieces are told in order, and before any response to a later piece.
 * Memory   Each piece has an arena of its own, given back when it is answered: a session of a
 *          million pieces takes what its credit allows. Idle, a session holds about 1 KiB, and its
 *          state.
 * Threads  The loop's own only; sink callbacks come on it, never from within a call made here but
 *          where said, and on_free last.
 */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include "engine/engine.h"

struct session;

/* enum session_reduce: see model/signature.h; enum session_merge: see engine/request.h */

/* One piece of input: fill inputs (bytes in arena, or bufs that it adopts), then push. */
struct session_piece {
    struct arena *arena;
    struct penstock_tensor *inputs; /* by index of the signature */
    bool *has_input;                /* likewise; all false at first */
    const char *id;                 /* "" when none */
    struct parameter *parameters;
    uint64_t number;                /* set by session_push */
    void *user;
};

struct session_response {
    struct response *response; /* number and merged are the same there */
    uint64_t number;  /* 1 for the session's first */
    uint64_t piece;   /* that it answers; 0: none (the model speaks first) */
    uint64_t merged;  /* responses before it that were merged into it or dropped for it */
    struct session_piece *of; /* the same piece while it is there, or NULL */
};

struct session_sink {
    /* Valid while it runs; outputs' bytes longer for who takes references of their owners. */
    void (*on_response)(struct session *session, const struct session_response *response);
    /* Every answer of that piece was given (EACH only); err->code OK, or why it failed. */
    void (*on_piece_end)(struct session *session, const struct session_piece *piece,
                         const struct err *err);
    /* So many more pieces may be pushed than before. */
    void (*on_credit)(struct session *session, uint32_t pieces);
    void (*on_end)(struct session *session, const struct err *err); /* once */
    void (*on_free)(struct session *session); /* last; also after session_cancel */
};

struct session_settings {
    struct loop *loop;
    struct budget *budget;
    enum session_reduce reduce;
    enum session_merge merge;
    uint64_t window, step, pad;   /* WINDOW: rows; step 0: window */
    uint32_t pieces_max;          /* taken and not given back; 0: --stream-pieces-max */
    size_t bytes_max;             /* STACK, WINDOW: of the collected input: --max-body */
    uint64_t deadline_ns;         /* of the whole session, loop clock; UINT64_MAX: none */
    const struct parameter *parameters; /* of every run; copied */
    const bool *wants;            /* outputs by index, copied; NULL: all that the configuration lists,
                                     but for those that are state */
    uint32_t credit;              /* responses that may be given before the first grant */
    struct caller *caller; /* of every run, as in struct request; the session holds a reference of its own */
    const struct trace_context *trace; /* likewise, but borrowed: it outlives the session */
    /* Optional: a run of the model has ended, before what is told of it; not once it is cancelled. */
    void (*on_run)(struct session *session, const struct request *run, enum err_code code);
    void *user;
};

/* Takes a reference of the model. Failures (window and shape do not fit, limits) are told here.
 * Counts as open until on_free: --sessions-max. */
MUST_USE enum err_code session_new(struct session **ret, struct engine *engine, struct model *model,
                                   const struct session_settings *settings,
                                   const struct session_sink *sink, struct err *err);
/* Starts it: a model that speaks first speaks now. Sink callbacks may come from within. */
void session_start(struct session *session);

void *session_user(const struct session *session);
struct model *session_model(const struct session *session);
struct caller *session_caller(const struct session *session); /* NULL: nobody's */

/* How many pieces its caller may push now, and at the beginning (pieces_max). */
uint32_t session_pieces_left(const struct session *session);
uint32_t session_pieces_max(const struct session *session);

/* A piece to fill; E_EXHAUSTED: no credit, or no memory. Pushed or given up, once. One that is given
 * up gives its credit back at once, without on_credit. */
MUST_USE enum err_code session_piece_new(struct session *session, struct session_piece **ret,
                                         struct err *err);
void session_piece_discard(struct session *session, struct session_piece **piece);
/* Checks it against the signature (failures are told here and the piece stays the caller's to
 * discard), then it is the session's. Sink callbacks may come from within, on_free does not. May be
 * called from the sink, as may grant, finish and interrupt. */
MUST_USE enum err_code session_push(struct session *session, struct session_piece **piece,
                                    struct err *err);
void session_finish(struct session *session);
void session_interrupt(struct session *session);
void session_grant(struct session *session, uint32_t responses);
/* The caller has left: only on_free still comes. Idempotent; not from within the sink. */
void session_cancel(struct session *session);

#endif
