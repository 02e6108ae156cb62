/* call_session.h - a call whose messages are pieces for a session (engine/session.h), and whose
 * messages back are the session's answers: what every dialect does that streams both ways.
 *
 * A dialect gives a table (struct call_session_dialect) and calls call_session_begin from its handler.
 * It opens the session with call_session_open when it knows the model: at once, or from look() of the
 * first message. From there:
 *
 *   in     Messages are read one at a time. look() sees each as soon as it is there, so that an
 *          interruption is heard while all pieces are taken; read() puts it into a piece when there
 *          is credit for one. Until then it is held, and no other is received: the caller's own flow
 *          control stops it.
 *   out    answer() makes one message of each response. The model has credit for CALL_SESSION_CREDIT
 *          of them, fewer where they are large, and more at the end of each turn in which the reader
 *          had room; else when the call has room again.
 *   end    The caller's half-close finishes the session; when all is answered, end() may say something
 *          more, and the call ends with OK.
 *   fails  What look() or read() refuses ends the call with its status: behind the answers to what
 *          came before it where each message has its own (SESSION_EACH), else at once. A run that
 *          fails likewise, unless piece_end() takes it.
 *   leaves The session is cancelled. When the server stops, a conversation that has no end of its own is
 *          ended behind the answers to what came.
 *
 * Life     The struct lies in the exchange's arena, of which a reference is held until the session is
 *          gone. Loop thread only.
 */
#ifndef API_CALL_SESSION_H
#define API_CALL_SESSION_H

#include "call/call.h"
#include "engine/session.h"
#include "io/loop.h"

struct api;
struct call_session;

struct call_session_dialect {
    size_t size; /* of the dialect's struct, which begins with a struct call_session */
    /* One message, whole. *ret_is_piece false: it was no input, and nothing more is to be done. */
    enum err_code (*look)(struct call_session *cs, const struct call_message *message,
                          bool *ret_is_piece, struct err *err);
    /* The same message into a piece; may set piece->user, id and parameters. */
    enum err_code (*read)(struct call_session *cs, const struct call_message *message,
                          struct session_piece *piece, struct err *err);
    /* Sends the message of one response, in memory of call_session_room where its bytes are not an
     * output's with an owner. The response is there only until it returns. */
    enum err_code (*answer)(struct call_session *cs, const struct session_response *response,
                            struct err *err);
    /* optional. That piece has no more answers; not called for pieces that were interrupted. A
     * failure that it leaves in *err ends the call. */
    void (*piece_end)(struct call_session *cs, const struct session_piece *piece, struct err *err);
    /* optional. All is answered: sends what is left to say, or fails. */
    enum err_code (*end)(struct call_session *cs, struct err *err);
    void (*deinit)(struct call_session *cs); /* optional: the struct goes */
};

enum {
    CALL_SESSION_CREDIT = 64,       /* responses that may be made before the reader took one */
    CALL_SESSION_CREDIT_MERGED = 4, /* the same where newer ones take the place of older */
    CALL_SESSION_CREDIT_BYTES = 256 << 10 /* or about so many bytes of them */
};

struct call_session {
    struct call *call;
    const struct api *api;
    const struct call_session_dialect *table;
    struct session *session; /* NULL: not open yet, or gone */
    enum session_reduce reduce;
    uint64_t messages; /* received: the number of the one that is looked at */
    uint64_t pieces;   /* pushed: the number of the latest input */
    uint64_t answers;  /* responses given */
    const char *field; /* set by a dialect that fails: the path of what is wrong, or NULL */
    bool has_ended;    /* the call was ended, or is gone */
    bool collects;     /* set by a dialect: one answer to all, which a server that stops waits for */
    /* -- inside -- */
    struct call_message held; /* waits for credit; more is not read meanwhile */
    bool has_held, is_half_closed, must_cancel, has_failure, was_open, merges;
    uint64_t interrupted_to; /* pieces up to it */
    uint32_t credit;         /* responses that the model may make still */
    uint64_t bytes;          /* of the answers */
    struct err *failure;     /* told when what came before is answered */
    struct arena *scratch;   /* owned; NULL: nobody asked */
    struct buf *chunk;       /* owned; NULL: none */
    uint8_t *chunk_at;
    size_t chunk_left;
    struct loop_task task;
};

/* Makes it and sets the call's user; NULL: no memory, and the call is ended. The dialect's members
 * are zero. Then call_session_open or call_session_fail, now or later, and call_session_start. */
struct call_session *call_session_begin(struct call *call, const struct api *api,
                                        const struct call_session_dialect *table);
/* Reads the first message; is the last thing that a handler does. */
void call_session_start(struct call_session *cs);
/* Of settings, `reduce`, `merge`, `window`, `step`, `pad`, `parameters` and `wants` are the dialect's; the
 * others are set here. Takes no reference of the model but the session's own. */
MUST_USE enum err_code call_session_open(struct call_session *cs, struct model *model,
                                         struct session_settings *settings, struct err *err);
/* E_INVALID unless `sequence` is 0 or the number of the message that is looked at; `name` is the
 * field's. */
MUST_USE enum err_code call_session_check(struct call_session *cs, uint64_t sequence,
                                          const char *name, struct err *err);
/* From look(): what was pushed before is not answered any more. */
void call_session_interrupt(struct call_session *cs);
/* Ends the call now. */
void call_session_fail(struct call_session *cs, const struct err *err);

/* Room for `most` bytes that stay until they are sent, kept by *ret_holder (borrowed); then how many
 * were used. NULL: there is none. */
uint8_t *call_session_room(struct call_session *cs, size_t most, struct buf **ret_holder);
void call_session_room_used(struct call_session *cs, size_t used);
/* Memory for what one answer needs while it is written; emptied before the next. NULL: there is
 * none. */
struct arena *call_session_scratch(struct call_session *cs);

#endif
