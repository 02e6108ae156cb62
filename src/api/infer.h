/* infer.h - one inference over an exchange or a call, in any dialect: what they share.
 *
 * A dialect gives a table (struct infer_dialect) and calls infer_begin from its handler. Then, in
 * order: the model is found, the headers are read once, the body is collected, decode() fills the
 * request, the engine runs it, encode() writes the answer. Whatever fails in between goes to fail()
 * once. A caller who leaves cancels the request; the exchange is held until the engine is through.
 *
 * Over a call (infer_begin_call) it is the same with one message instead of a body; no header is
 * read, and the deadline is the call's.
 *
 * Streams  The answer is a stream when the table says so (is_stream), or when begin() or decode()
 *          called infer_stream. Then each response goes out as it is made, in place of encode(): over
 *          an exchange as an event (event_bound, event_write), over a call as a message (message).
 *          What fails before the first response is answered as ever, by fail() and with its own
 *          status; what fails behind it is an event (event_error) or the call's status. A model that
 *          gives no response at all answers a stream without events.
 *          The model may make INFER_CREDIT responses, fewer where they are large, and more at the end of
 *          each turn in which the reader had room: a reader who takes nothing pauses its own model, and
 *          what waits for it stays bounded.
 *
 * Life     The struct lies in the exchange's arena. Loop thread only.
 */
#ifndef API_INFER_H
#define API_INFER_H

#include "api/reply.h"
#include "call/call.h"
#include "call/events.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "exchange/collect.h"
#include "io/loop.h"

struct infer;
struct infer_aside;  /* infer.c */
struct infer_rows;   /* infer_rows.c */
struct infer_stream; /* infer_stream.c */

struct infer_dialect {
    enum dialect dialect;
    const char *group; /* of its API, as of struct route: its caller must be let infer there */
    size_t size; /* of the dialect's struct, which begins with a struct infer */
    /* calls only, where the model's name lies in the message: reads it and says which model. What
     * it read is kept for decode(). */
    enum err_code (*locate)(struct infer *infer, struct slice message, struct slice *ret_name,
                            struct slice *ret_version, struct err *err);
    /* optional: the model is known. Looks at infer->headers before the body is read; may set
     * body_align. After locate(), where there is one. */
    enum err_code (*begin)(struct infer *infer, struct err *err);
    /* A large body of an exchange is read beside the loop: only the arena (of `infer`, which nobody else
     * uses then), the request, the model and what the dialect made in begin() may be touched. */
    enum err_code (*decode)(struct infer *infer, struct slice body, struct err *err);
    /* Answers the exchange, having called infer_timing when all but sending is done, or the call,
     * by infer_send; or fails and has answered nothing. */
    enum err_code (*encode)(struct infer *infer, struct err *err);
    /* optional: answers with a failure; else api_fail does, or, over a call, call_end with err and
     * infer->field. Of a stream only as long as nothing was answered. */
    void (*fail)(struct infer *infer, const struct err *err);
    const char
        *one_only; /* optional: what is said when the model gives none or several responses */

    /* -- streams ------------------------------------------------------------------------------- */
    bool is_stream; /* always; else infer_stream says so */
    /* Over an exchange. How many bytes event_write will take, as a rule, and at most
     * (`is_most`); then it appends one JSON value without newlines to `out`, whose room that is.
     * When it runs out of room it is called again with the most. Temporary memory is
     * infer_scratch's, never the exchange's arena, which is not emptied before the end. */
    size_t (*event_bound)(struct infer *infer, const struct response *response, bool is_most);
    enum err_code (*event_write)(struct infer *infer, const struct response *response,
                                 struct text *out, struct err *err);
    /* optional: the JSON of a failure in flight, the last event; else {"error":"..."}. */
    void (*event_error)(struct infer *infer, const struct err *err, struct text *out);
    /* Over a call: makes one message, in infer_room's memory where its bytes are not an output's with
     * an owner, and sends it by call_send. What fails ends the call. The response is there only until
     * it returns. */
    enum err_code (*message)(struct infer *infer, const struct response *response, struct err *err);
    /* optional, over a call: a message behind the last, when the model has ended well. */
    void (*message_end)(struct infer *infer);
};

enum {
    INFER_CREDIT = 64,             /* responses that a model may make before its reader took one */
    INFER_CREDIT_BYTES = 256 << 10 /* or about so many bytes of them */
};

/* The headers that inference looks at; data NULL where there is none. */
struct infer_headers {
    struct slice content_type, accept, accept_encoding, content_encoding, inference_length,
        timeout_ms;
};

struct infer {
    struct exchange *x;
    struct call *call; /* NULL: over a bare exchange */
    const struct api *api;
    const struct infer_dialect *table;
    const struct route_match *match; /* borrowed: only until infer_begin returns */
    struct model *model;             /* held until the request is submitted; then the request's */
    struct request *request;
    struct response *response; /* NULL: none came */
    struct infer_headers headers;
    size_t body_align;    /* which byte of the body should lie on a 64-byte line */
    uint64_t body_ns;     /* when decoding began */
    uint64_t encode_ns;   /* when encoding began */
    struct slice timing;  /* value of the server-timing header, after infer_timing */
    const char *field;    /* set by a dialect that fails: the path of what is wrong, or NULL */
    struct slice message; /* calls: the one message */
    struct infer_stream *stream; /* NULL: one answer */
    /* Set by decode(), of a stream: the inputs have so many rows along their first dimension, and each
     * is run and answered by itself, in order. 0: they are one question. */
    uint64_t rows_apart;
    struct infer_rows *rows; /* then, once submitted */
    struct engine_waiter waiter; /* for the loop's time, before the body is read */
    struct infer_aside *aside; /* decode() runs beside the loop */
    bool is_submitted, has_ended, has_message;
    bool must_cancel;      /* ended for its caller, and the engine is to be told by `task` */
    struct loop_task task; /* at the end of the turn: cancels, or gives a stream credit */
};

/* `name` and `version` (empty: the newest) are the router's parameters. */
void infer_begin(struct exchange *x, const struct route_match *match,
                 const struct infer_dialect *table, struct slice name, struct slice version);

/* The same over a call (unary): one message is read instead of a body, then decode() fills the
 * request, encode() sends a message and ends the call, and failures end it with their status.
 * `name` empty: locate() finds it in the message. */
void infer_begin_call(struct call *call, const struct api *api, const struct infer_dialect *table,
                      struct slice name, struct slice version);

/* From begin() or decode(): the answer is a stream; `form` is that of an exchange's events. */
MUST_USE enum err_code infer_stream(struct infer *infer, enum events_form form, struct err *err);
/* Takes what the URL's query says of streams (when_slow=pause|latest|concat) and leaves the rest in
 * *ret_rest, which may be NULL. */
MUST_USE enum err_code infer_stream_query(struct infer *infer, struct slice *ret_rest,
                                          struct err *err);
/* What happens while the reader takes nothing (engine/request.h); at first SESSION_PAUSE. Until it is
 * submitted. */
void infer_when_slow(struct infer *infer, enum session_merge merge);
/* Memory of a stream for what one response needs while it is written; emptied before the next. NULL:
 * there is none. */
struct arena *infer_scratch(struct infer *infer);
/* A stream's memory for what its messages are made of: `most` bytes at once, which stay until they are
 * sent, kept by *ret_holder (borrowed; call_send takes a reference of its own); then how many of them
 * were used. NULL: there is none. */
uint8_t *infer_room(struct infer *infer, size_t most, struct buf **ret_holder);
void infer_room_used(struct infer *infer, size_t used);

/* Closes the ENCODE stage and, where the operator asked for it, makes infer->timing. */
void infer_timing(struct infer *infer);

/* The end of encode() over a call: infer_timing, the message as pieces, success. */
void infer_send(struct infer *infer, const struct call_piece *pieces, uint32_t pieces_count);

/* Headers of the answer: content type, encoding and timing are filled from what is not NULL. */
enum { INFER_HEADERS_MAX = 4 };
uint32_t infer_answer_headers(const struct infer *infer, struct header headers[INFER_HEADERS_MAX],
                              const char *content_type, const char *content_encoding);

#endif
