/* infer_internal.h - what infer.c and infer_stream.c share; nobody else includes it. */
#ifndef API_INFER_INTERNAL_H
#define API_INFER_INTERNAL_H

#include "api/infer.h"

/* Nothing failed yet; the text is not worth zeroing for every request. */
static inline void infer_err_clear(struct err *err)
{
    err->code = OK;
    err->retry_after_ms = 0;
    err->text[0] = '\0';
}

static inline bool infer_is_gone(const struct infer *infer)
{
    return infer->call != NULL ? infer->call->is_over : infer->x->is_gone;
}

/* Answers with a failure, as long as nothing was answered. */
void infer_fail(struct infer *infer, const struct err *err);
/* Nobody reads any more: what is under way stops. Not from the sink. */
void infer_leave(struct infer *infer);
/* infer->timing, as it stands. */
void infer_put_timing(struct infer *infer);
/* From the sink, where has_ended is set: the engine is told at the end of the turn. */
void infer_cancel_later(struct infer *infer);

/* -- infer_stream.c: no-ops where there is no stream ------------------------------------------- */
/* Just before it: the credit to begin with, and what happens without. */
MUST_USE enum err_code infer_stream_submit(struct infer *infer, struct err *err);
void infer_stream_response(struct infer *infer, const struct response *response);
void infer_stream_end(struct infer *infer, const struct err *err);
void infer_stream_grant(struct infer *infer);  /* as much as the reader has room for */
void infer_stream_stop(struct infer *infer);   /* the reader is gone */
void infer_stream_deinit(struct infer *infer); /* last; idempotent */

/* -- infer_rows.c ------------------------------------------------------------------------------- */
/* Instead of submitting infer->request, which stays. Failures leave everything as it was. */
MUST_USE enum err_code infer_rows_open(struct infer *infer, uint32_t credit, struct err *err);
void infer_rows_start(struct infer *infer);
void infer_rows_grant(struct infer *infer, uint32_t responses);
void infer_rows_cancel(struct infer *infer);
enum session_merge infer_stream_merge(const struct infer *infer);
void infer_free(struct infer *infer); /* the engine has let go of it */

#endif
