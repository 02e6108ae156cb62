/* http2.h - one HTTP/2 connection (RFC 9113), as server or as client: bytes in, events out, frames
 * to send; no socket, no clock. Framing and HPACK are nghttp2's; this says what may happen when.
 *
 *   http2_receive  is given what the socket gave. It calls the events, and uses all bytes.
 *   submitting     http2_respond, http2_request, http2_data, http2_end, http2_reset, http2_allow ...
 *                  leave marks. They may be called from events.
 *   http2_send     turns the marks into frames and hands them to `copy` and `refer`. Call it once
 *                  after receiving and submitting, not from an event.
 *   http2_is_over  nothing will be received or sent any more: close the socket.
 *
 * Streams  A server's stream begins with on_head(HTTP2_REQUEST), a client's with http2_request.
 *          on_close is the last event of each (also when the whole connection ends by http2_free);
 *          the handle is invalid after it. Two sides close on their own: on_end is the peer's.
 * Body out Pieces are referred to, not copied: they stay until on_close, or `holder` keeps them.
 *          They wait here until the peer's windows have room; http2_stream_queued says how much.
 * CONNECT  A server announces that it takes the extended one (RFC 8441), whose head has :protocol.
 * Credit   The peer may send stream_window bytes on a new stream; more only when http2_allow says
 *          so. The connection's window is given back as bytes arrive.
 * Abuse    Frames that cost us and bring nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty
 *          DATA, CONTINUATION, unknown ones) and streams that end by a reset draw on two stores,
 *          refilled by useful work and by time. An empty store ends the connection with
 *          ENHANCE_YOUR_CALM; http2_failure says which it was.
 * Threads  one at a time.
 */
#ifndef WIRE_HTTP2_H
#define WIRE_HTTP2_H

#include "base/err.h"
#include "base/slice.h"

struct buf;
struct http2;        /* opaque */
struct http2_heap;   /* opaque: memory of many connections of one thread */
struct http2_stream; /* opaque */

enum http2_role { HTTP2_SERVER, HTTP2_CLIENT };

enum { HTTP2_PREFACE_BYTES = 24 }; /* "PRI * HTTP/2.0...", the first bytes of a client */

/* Error codes, RFC 9113 7. */
enum http2_code {
    HTTP2_NO_ERROR,
    HTTP2_PROTOCOL_ERROR,
    HTTP2_INTERNAL_ERROR,
    HTTP2_FLOW_CONTROL_ERROR,
    HTTP2_SETTINGS_TIMEOUT,
    HTTP2_STREAM_CLOSED,
    HTTP2_FRAME_SIZE_ERROR,
    HTTP2_REFUSED_STREAM,
    HTTP2_CANCEL,
    HTTP2_COMPRESSION_ERROR,
    HTTP2_CONNECT_ERROR,
    HTTP2_ENHANCE_YOUR_CALM,
    HTTP2_INADEQUATE_SECURITY,
    HTTP2_HTTP_1_1_REQUIRED
};
const char *http2_code_name(uint32_t code); /* "ENHANCE_YOUR_CALM"; "unknown" */

/* Laid out like exchange.h's header. Names in lower case; pseudo-fields (":path") come first. */
struct http2_field {
    struct slice name, value;
};

struct http2_limits {
    uint32_t streams_max;        /* that the peer may have open at once (a client: not used) */
    uint32_t header_bytes_max;   /* of one header block, decoded: names + values + 32 a field */
    uint32_t fields_max;         /* of one header block, without pseudo-fields */
    uint32_t stream_window;      /* bytes a peer may send on a stream before http2_allow */
    uint32_t connection_window;  /* bytes under way on all streams: at least 65535 */
    uint32_t frame_bytes_max;    /* of one received frame: 16384 to 16777215 */
    uint32_t control_frames_max; /* what its store holds; 0: no limit */
    uint32_t resets_max;         /* what its store holds; 0: no limit */
};
/* Sensible for a client that talks to one server; a server's come from options. */
extern const struct http2_limits http2_client_limits;

enum http2_head_kind {
    HTTP2_REQUEST,
    HTTP2_INTERIM, /* a 1xx */
    HTTP2_RESPONSE,
    HTTP2_TRAILERS
};

/* A complete header block. The fields lie in memory of http2's own until the event returns. */
struct http2_head {
    enum http2_head_kind kind;
    const struct http2_field *fields;
    uint32_t count;
    uint16_t status;   /* HTTP2_INTERIM, HTTP2_RESPONSE */
    bool is_end;       /* no body and no trailers follow (on_end comes next) */
    bool has_overrun;  /* more than the limits allow: what did not fit is missing. A server answers
                         431; far beyond the limits the connection has been ended instead */
    bool has_too_many; /* ... and it was fields_max that was passed first */
};

/* For people and tests: `penstock call --wire`. */
struct http2_frame {
    bool is_sent; /* else received */
    uint8_t type, flags;
    const char *name; /* "HEADERS" */
    int32_t stream;
    uint32_t length; /* of the payload; of a header block that was continued, in all */
    uint32_t value;  /* RST_STREAM, GOAWAY: the code; WINDOW_UPDATE: the increment; else 0 */
};

/* Events come from http2_receive, on_close also from http2_send and http2_free, on_frame from
 * both. NULL: not interested. `user` of a stream is http2_stream_user. */
struct http2_events {
    void (*on_head)(void *owner, struct http2_stream *s, const struct http2_head *head);
    /* Bytes of the body, in the memory given to http2_receive; never empty. */
    void (*on_data)(void *owner, struct http2_stream *s, struct slice data);
    void (*on_end)(void *owner, struct http2_stream *s); /* the peer has said all */
    /* The last event. HTTP2_NO_ERROR: both sides were complete, or a server's RST_STREAM(NO_ERROR)
     * behind its complete answer, which is not a failure. */
    void (*on_close)(void *owner, struct http2_stream *s, uint32_t code);
    /* The peer takes no new stream above `last`; those above it (ours) are closed with
     * HTTP2_REFUSED_STREAM and were not acted upon. May come twice. */
    void (*on_goaway)(void *owner, int32_t last, uint32_t code, struct slice debug);
    void (*on_ping)(void *owner); /* it is answered by http2 itself */
    void (*on_pong)(void *owner, uint64_t word);
    void (*on_settings)(void *owner); /* the peer's have come; see http2_peer_streams_max */
    void (*on_frame)(void *owner, const struct http2_frame *frame);

    /* Output, from http2_send only. False: no memory; the connection is then over (http2_failure).
     * copy: these bytes, now. Required. */
    bool (*copy)(void *owner, const void *data, size_t size);
    /* A large piece of a body (4 KiB or more), which stays as http2_data was promised: until
     * on_close or by its holder (borrowed: take a buf_ref). NULL: everything is copied. */
    bool (*refer)(void *owner, struct http2_stream *s, struct slice bytes, struct buf *holder);
};

/* Memory that connections of one thread take and give: steady work does not ask the heap. It
 * outlives its connections. */
struct http2_heap *http2_heap_new(void); /* NULL: no memory */
void http2_heap_free(struct http2_heap **heap);
uint64_t http2_heap_bytes(const struct http2_heap *heap); /* given out and not given back */

/* limits and events are borrowed and outlive it; heap NULL: one of its own. A server waits for the
 * client's preface; a client's goes out with the first http2_send. */
MUST_USE enum err_code http2_new(struct http2 **ret, enum http2_role role,
                                 const struct http2_limits *limits,
                                 const struct http2_events *events, void *owner,
                                 struct http2_heap *heap, struct err *err);
/* on_close(HTTP2_CANCEL) for every stream that is left; sends nothing. */
void http2_free(struct http2 **h);

/* E_INVALID: the peer broke the protocol; E_EXHAUSTED: it asked too much of us, or no memory is
 * left. Then http2_send still has a GOAWAY to write, and after it the connection is over.
 * now_ns never goes back. */
MUST_USE enum err_code http2_receive(struct http2 *h, struct slice bytes, uint64_t now_ns,
                                     struct err *err);
/* Writes frames until there are none, or until bytes_max is reached or a little passed: then true,
 * and there may be more. False: all there is has been written. */
bool http2_send(struct http2 *h, size_t bytes_max);
/* Would http2_send write something now? */
bool http2_wants_send(const struct http2 *h);
/* Ended by GOAWAY, sent or received, with no stream left; or failed. */
bool http2_is_over(const struct http2 *h);

enum http2_failure {
    HTTP2_FINE,
    HTTP2_BROKEN,        /* the peer broke the protocol */
    HTTP2_FLOOD_CONTROL, /* limits.control_frames_max */
    HTTP2_FLOOD_RESETS,  /* limits.resets_max */
    HTTP2_FLOOD_HEADERS, /* header blocks far beyond the limits, or of too many pieces */
    HTTP2_FLOOD_STREAMS, /* streams beyond limits.streams_max, after resets_max refusals */
    HTTP2_NO_MEMORY
};
enum http2_failure http2_failure(const struct http2 *h); /* why we ended it, if we did */
/* When the header block began that is not complete yet; 0: there is none. */
uint64_t http2_block_begun_ns(const struct http2 *h);
/* When the peer's last frame began to arrive; 0: none has. */
uint64_t http2_heard_ns(const struct http2 *h);
uint64_t http2_frames_sent(const struct http2 *h);     /* HEADERS and DATA of ours, all so far */
uint64_t http2_resets_sent(const struct http2 *h);     /* RST_STREAM of ours but for NO_ERROR */
uint64_t http2_streams_refused(const struct http2 *h); /* for limits.streams_max */

/* -- streams --------------------------------------------------------------------------------- */

int32_t http2_stream_id(const struct http2_stream *s);
void *http2_stream_user(const struct http2_stream *s);
void http2_stream_set_user(struct http2_stream *s, void *user); /* borrowed; NULL at first */
size_t http2_stream_queued(const struct http2_stream *s); /* given to http2_data, not yet written */
uint64_t http2_stream_sent(const struct http2_stream *s); /* bytes of body written by http2_send */
bool http2_stream_has_ended(const struct http2_stream *s); /* our side: END_STREAM was written */
bool http2_stream_peer_ended(const struct http2_stream *s);
bool http2_stream_was_reset_by_peer(const struct http2_stream *s); /* ask in on_close */
uint32_t http2_streams_open(const struct http2 *h);
/* Any of them, over and over: *at NULL begins; NULL at the end. Streams may be submitted to. */
struct http2_stream *http2_stream_next(struct http2 *h, struct http2_stream *at);

/* Client: opens a stream. The pseudo-fields are ours to give: first ":method", ":scheme", ":path",
 * ":authority". is_end: no body follows. E_UNAVAILABLE: after a GOAWAY, or out of stream numbers.
 * Streams beyond http2_peer_streams_max wait here until others end. Fields are copied. */
MUST_USE enum err_code http2_request(struct http2 *h, const struct http2_field *fields,
                                     uint32_t count, bool is_end, void *user,
                                     struct http2_stream **ret, struct err *err);
uint32_t http2_peer_streams_max(const struct http2 *h);

/* Server: the head of the answer; without pseudo-fields. `more` fields follow `fields`; either may
 * be NULL. Leaves with the next http2_send, with END_STREAM when nothing follows. Copied. False: no
 * memory, the stream will be reset. Status 1xx may come before, any number of times. */
bool http2_respond(struct http2 *h, struct http2_stream *s, uint16_t status,
                   const struct http2_field *fields, uint32_t count, const struct http2_field *more,
                   uint32_t more_count);
/* One more piece of our body. False: no memory, the stream will be reset. */
bool http2_data(struct http2 *h, struct http2_stream *s, struct slice bytes, struct buf *holder);
/* Our side is complete; trailers are copied. When a server's answer ends before its request has,
 * RST_STREAM(NO_ERROR) follows (RFC 9113 8.1), unless http2_linger was called. */
bool http2_end(struct http2 *h, struct http2_stream *s, const struct http2_field *trailers,
               uint32_t count);
/* A server's, before the answer's end is written: the rest of the request is still taken then, and
 * http2_reset(HTTP2_NO_ERROR) is the owner's to say. */
void http2_linger(struct http2_stream *s);
/* Ends both sides at once; what is queued is dropped. on_close follows from http2_send. */
void http2_reset(struct http2 *h, struct http2_stream *s, uint32_t code);
/* The peer may send `ahead` bytes more on this stream than have arrived, if it may not already.
 * What little is missing may be told later, but never so that a peer would wait for ever when this
 * is called whenever bytes have arrived. */
void http2_allow(struct http2 *h, struct http2_stream *s, size_t ahead);
/* Body bytes the peer may still send without another http2_allow. */
size_t http2_allowed(const struct http2_stream *s);

/* -- the connection -------------------------------------------------------------------------- */

void http2_ping(struct http2 *h, uint64_t word); /* on_pong brings it back */
/* Says that no new streams should be begun, and still takes them: the first of two steps. */
/* What a server says that takes no connection: SETTINGS and a GOAWAY, without a session. Returns the bytes. */
enum { HTTP2_REFUSAL_BYTES_MAX = 256 };
size_t http2_refusal_write(uint8_t out[HTTP2_REFUSAL_BYTES_MAX], uint32_t code, const char *text);
void http2_goaway_soon(struct http2 *h);
/* No new streams are taken; those there are go on. text goes along for people: a literal. With a
 * code other than HTTP2_NO_ERROR the connection is over once it is written. */
void http2_goaway(struct http2 *h, uint32_t code, const char *text);

#endif
