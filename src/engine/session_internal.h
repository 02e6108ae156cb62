/* engine/session_internal.h - what the session's files share: session.c (its life and what runs),
 * session_rows.c (pieces into tensors), session_state.c (what goes from run to run). */
#ifndef ENGINE_SESSION_INTERNAL_H
#define ENGINE_SESSION_INTERNAL_H

#include "engine/internal.h"
#include "engine/session.h"

struct rows;

/* A piece of input, or a run that is made of several: in an arena of its own. */
struct piece {
    struct session_piece pub;
    struct session *session;
    struct list_node node;   /* in waiting, out or answered */
    struct request *request; /* its inputs are the piece's; NULL: it is not a run by itself */
    struct stream_piece of_stream;
    enum err_code code;      /* how it was answered, with text in the arena */
    uint32_t retry_after_ms;
    const char *text;
    bool is_run_only;        /* no piece of the caller's: neither told nor credited */
    bool is_running;         /* somebody else holds it: an engine request, the backend */
    bool is_told;
};

/* An input that is fed by the session: a state or a constant that a caller has replaced. */
struct fed {
    uint32_t input;
    uint32_t output;         /* UINT32_MAX: none, it stays as it is */
    struct penstock_tensor now, next; /* owners: bufs, or none where the bytes are the model's */
    bool has_next;           /* the run under way gave it; it is `now` when that succeeds */
};

struct session {
    struct engine *engine;
    struct model *model; /* one reference */
    struct loop *loop;
    const struct session_sink *sink;
    struct session_settings settings; /* pointers in it are copies of ours */
    struct list waiting;              /* pieces pushed, in order */
    struct list out;                  /* pieces that the backend has, or may take (TAKES_STREAM) */
    struct list answered;             /* pieces to be told, in order */
    struct piece *running;
    struct piece *last;               /* LAST: the newest */
    struct rows *rows;                /* owned: STACK, WINDOW */
    struct fed *fed;                  /* owned array */
    uint32_t fed_count;
    bool takes_stream;
    struct stream stream;             /* when it does: `running` is the run of the whole session */
    struct kept *kept;                /* a response that waits for the reader (merging) */
    struct err *fatal;                /* owned: why it ends; NULL: it does not, or by itself */
    uint64_t pieces;                  /* pushed */
    uint64_t pieces_taken;            /* STACK, WINDOW: whose rows were collected */
    uint64_t responses;               /* given */
    uint64_t interrupted_to;          /* pieces up to this one are interrupted */
    uint32_t interrupts_asked, interrupts_done;
    uint64_t dry_ns;                  /* when the reader's credit was used up; 0: it is not */
    uint32_t pieces_left;             /* that may be taken */
    uint32_t pieces_freed;            /* to be told as credit */
    uint32_t credit;                  /* of responses */
    struct timer timer;               /* the session's deadline */
    struct loop_task task;
    bool is_started, is_finished, is_cancelled, is_late;
    bool has_run_last;                /* STACK, LAST: the one run was started */
    bool is_failed;                   /* it ends with `fatal`, or with no memory to say why */
    bool has_stream_ended;            /* TAKES_STREAM: the backend said done() */
    bool has_ended;                   /* on_end was called, or never will be */
    bool is_pumping;
    bool is_over;                     /* nothing is left of it: the task frees it */
    uint8_t memory[];                 /* wants, parameters */
};

/* A run of no piece, with its request, in an arena of its own; NULL: no memory. */
struct piece *session_run_new(struct session *session);

/* -- session_rows.c ------------------------------------------------------------------------------- */

/* Finds along which dimension each input's rows are counted; E_INVALID when the window does not fit. */
MUST_USE enum err_code rows_new(struct session *session, struct err *err);
void rows_free(struct rows **rows);
/* Does the piece fit what came before? Its tensors get the shape of rows: [n, ...]. */
MUST_USE enum err_code rows_check(struct session *session, struct piece *piece, struct err *err);
/* Takes the piece's rows; the piece is the caller's to let go. */
MUST_USE enum err_code rows_take(struct session *session, const struct piece *piece,
                                 struct err *err);
bool rows_has_window(const struct session *session);
bool rows_is_empty(const struct session *session);
/* The inputs of the next run: of STACK all rows (they stay where they are), of WINDOW a copy of the
 * first `window`, and what lies before the next is dropped. */
MUST_USE enum err_code rows_fill(struct session *session, struct request *request,
                                 struct err *err);
void rows_drop(struct session *session); /* an interruption: what was collected is gone */

/* -- session_state.c ------------------------------------------------------------------------------ */

MUST_USE enum err_code fed_new(struct session *session, struct err *err);
void fed_free(struct session *session);
/* What the caller sent of them in a piece takes their place; of EACH the run has it anyway. */
MUST_USE enum err_code fed_replace(struct session *session, const struct piece *piece,
                                   struct err *err);
/* Puts them into the run's inputs, where the caller sent none, and asks for the outputs. */
void fed_give(struct session *session, struct request *request);
/* Keeps what a response brings for the next run, and hides it where the caller did not ask for it. */
MUST_USE enum err_code fed_keep(struct session *session, struct response *response,
                                struct err *err);
void fed_commit(struct session *session); /* the run succeeded */
void fed_forget(struct session *session); /* it did not */

/* Did the caller ask for that output? */
bool session_wants(const struct session *session, uint32_t output);

#endif
