/* events.h - an answer of many events on an exchange: server-sent events (WHATWG HTML, 9.2) or
 * newline-delimited JSON.
 *
 * events_begin answers with the head; each events_put is one event, whose data is one JSON value
 * without newlines; events_end ends. Events that are put in one turn of the loop leave in one write
 * (one HTTP/1.1 chunk, one DATA frame). Data is copied. events_room says how many more bytes may be
 * put before a slow reader should be waited for; the exchange's on_room then tells. A reader that
 * is told nothing for `heartbeat_ns` gets a comment line (SSE) or an empty line (NDJSON), so that
 * proxies keep the connection and a peer that is gone is noticed.
 *
 * Life     The struct is its user's (in the exchange's arena); events_begin takes no reference.
 *          events_stop must be called when the exchange is gone before events_end.
 * Threads  the exchange's loop only.
 */
#ifndef CALL_EVENTS_H
#define CALL_EVENTS_H

#include "exchange/exchange.h"
#include "io/loop.h"

enum events_form { EVENTS_SSE, EVENTS_NDJSON };

struct events {
    struct exchange *x;
    enum events_form form;
    uint64_t heartbeat_ns; /* 0: none */
    bool is_begun, is_over;
    /* -- inside -- */
    bool is_open; /* an event is being written */
    struct timer timer;
    struct loop_task flush;
    struct buf *filling; /* events of this turn; NULL: none */
    size_t filled;       /* bytes of it */
    size_t open_bytes;   /* of the event that is open, before its data */
    size_t turn_bytes;   /* sent in this turn */
    size_t usual_bytes;  /* what the next turn will probably take; may be set by its user */
    uint64_t put_ns;     /* when the reader was told something last */
};

enum { EVENTS_HEADERS_MAX = 8 };

/* What `Accept` asks for: SSE or NDJSON where it names text/event-stream or application/x-ndjson
 * (application/jsonl too) with a q above that of application/json, in the manner of RFC 9110, 12.5.1.
 * A form that is named wins over a wildcard of the same weight. False: one JSON answer. */
bool events_wanted(struct slice accept, enum events_form *ret);

/* `more`: headers of the answer beside content-type, cache-control: no-cache and
 * x-accel-buffering: no; at most EVENTS_HEADERS_MAX. Whatever the struct held is overwritten. */
void events_begin(struct events *events, struct exchange *x, enum events_form form,
                  uint64_t heartbeat_ns, const struct header *more, uint32_t more_count);
/* id, name: of the SSE event; data NULL: none. False: no memory; then the answer was aborted. */
bool events_put(struct events *events, struct slice id, struct slice name, struct slice data);
/* The same for data that is written in place: room for `most` bytes of data, then how many there
 * are, or that it is to be forgotten. NULL: no memory, as above, or the reader is gone. One event at a
 * time. */
uint8_t *events_open(struct events *events, struct slice id, struct slice name, size_t most);
void events_close(struct events *events, size_t size);
void events_discard(struct events *events);
/* Bytes that are whole events of the form already, made once for many readers: sent as they are, and not
 * copied when there are many of them, so they stay as long as `holder` does (exchange_send). */
bool events_put_framed(struct events *events, struct slice framed, struct buf *holder);
size_t events_room(struct events *events);
void events_end(struct events *events);
void events_stop(struct events *events);

#endif
