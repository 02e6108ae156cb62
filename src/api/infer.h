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
 * Life     The struct lies in the exchange's arena. Loop thread only.
 */
#ifndef API_INFER_H
#define API_INFER_H

#include "api/reply.h"
#include "call/call.h"
#include "engine/engine.h"
#include "exchange/collect.h"

struct infer;

struct infer_dialect {
    enum dialect dialect;
    size_t size; /* of the dialect's struct, which begins with a struct infer */
    /* calls only, where the model's name lies in the message: reads it and says which model. What
     * it read is kept for decode(). */
    enum err_code (*locate)(struct infer *infer, struct slice message, struct slice *ret_name,
                            struct slice *ret_version, struct err *err);
    /* optional: the model is known. Looks at infer->headers before the body is read; may set
     * body_align. After locate(), where there is one. */
    enum err_code (*begin)(struct infer *infer, struct err *err);
    enum err_code (*decode)(struct infer *infer, struct slice body, struct err *err);
    /* Answers the exchange, having called infer_timing when all but sending is done, or the call,
     * by infer_send; or fails and has answered nothing. */
    enum err_code (*encode)(struct infer *infer, struct err *err);
    /* optional: answers with a failure; else api_fail does, or, over a call, call_end with err and
     * infer->field. */
    void (*fail)(struct infer *infer, const struct err *err);
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
    bool is_submitted, has_ended, has_too_many, has_message;
};

/* `name` and `version` (empty: the newest) are the router's parameters. */
void infer_begin(struct exchange *x, const struct route_match *match,
                 const struct infer_dialect *table, struct slice name, struct slice version);

/* The same over a call (unary): one message is read instead of a body, then decode() fills the
 * request, encode() sends a message and ends the call, and failures end it with their status.
 * `name` empty: locate() finds it in the message. */
void infer_begin_call(struct call *call, const struct api *api, const struct infer_dialect *table,
                      struct slice name, struct slice version);

/* Closes the ENCODE stage and, where the operator asked for it, makes infer->timing. */
void infer_timing(struct infer *infer);

/* The end of encode() over a call: infer_timing, the message as pieces, success. */
void infer_send(struct infer *infer, const struct call_piece *pieces, uint32_t pieces_count);

/* Headers of the answer: content type, encoding and timing are filled from what is not NULL. */
enum { INFER_HEADERS_MAX = 4 };
uint32_t infer_answer_headers(const struct infer *infer, struct header headers[INFER_HEADERS_MAX],
                              const char *content_type, const char *content_encoding);

#endif
