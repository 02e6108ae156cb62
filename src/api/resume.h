/* resume.h - streams that outlive their connection, by a bounded log of what was sent.
 *
 * A dialect whose caller asked for it makes a resumable (its events go to an event_log) instead of
 * writing to its exchange; readers follow the log: the exchange that began it, and whoever comes
 * back with its id to GET /streams/{id} (Accept: text/event-stream or application/x-ndjson, with
 * Last-Event-ID or ?after=N; or a WebSocket, ?after=N).
 * An event's id is "<node>.<secret>.<number>"; node is --node-name, so that a server that does not
 * own the stream answers 421 with who does; secret is 128 random bits. A stream is bound to who
 * began it (a digest of its authorization header): another who brings the id is told 404, as if there
 * were none. It is kept for --resume-time (or less, as asked) without a reader or after its end, then
 * is gone (410 for as long as its tombstone is kept).
 *
 * How a caller asks: ?resume=SECONDS on the call's URL, or header `x-resume: SECONDS`. The answer's
 * header `location: /streams/{id}` says where to come back.
 *
 * Room      resumable_has_room before each event, or before credit is given: the slowest attached
 *           reader, and with none the log's bound, makes it false; on_room tells. What was put under
 *           way before still fits (a quarter of the bounds).
 * Sessions  A caller's WebSocket follows as well, and may feed the maker (resumable_attach_call): the
 *           maker keeps no call, it puts messages and gets messages. When the connection breaks, the
 *           caller opens /streams/{id}?after=N with another, on whatever loop that lands. The newest
 *           one feeds; the one before it is closed.
 * Threads   made on the loop of the exchange that began it, which runs its model: every resumable_*
 *           and every callback is of that loop. Readers are on any.
 */
#ifndef API_RESUME_H
#define API_RESUME_H

#include "api/node.h"
#include "api/route.h"
#include "call/events.h"
#include "io/event_log.h"

struct call;
struct env;
struct metrics;
struct resumables; /* one per server: in struct api */
struct resumable;

/* What a session's caller sent. bytes lie in holder, which is borrowed. */
struct resumable_input {
    struct slice bytes;
    struct buf *holder;
    bool is_text;
};

struct resumable_user {
    void (*on_room)(struct resumable *r); /* the maker may append again */
    /* Nobody came back in time, or it was cancelled (DELETE /streams/{id}), or the server stops: stop
     * the work, then resumable_end. Nothing that is put from now on is read by anybody. */
    void (*on_expired)(struct resumable *r);

    /* -- sessions; NULL for streams that take no input -- */
    /* One for each resumable_read, in the order in which the caller sent them. */
    void (*on_input)(struct resumable *r, const struct resumable_input *input);
    /* Another connection follows and feeds from now on; what the broken one had sent and was not
     * received is lost: optional, to tell the caller up to where inputs came. */
    void (*on_attached)(struct resumable *r);
    /* The caller closed its WebSocket on purpose (1000, 1001): it will not be back. Stop as for
     * on_expired. */
    void (*on_closed)(struct resumable *r);
    /* The server stops: what is under way should come to its end, and the session with it. */
    void (*on_drain)(struct resumable *r);
};

struct resumables_settings {
    struct env *env;      /* chance and time; borrowed */
    const char *node;     /* --node-name; copied */
    uint64_t time_ns;     /* --resume-time: most that a caller may ask for */
    uint64_t streams_max; /* --resume-streams-max; also of tombstones; 0: nobody may */
    uint64_t events_max;  /* --resume-events-max, of one stream */
    size_t bytes_max;     /* --resume-bytes-max, of one stream */
    struct budget *budget;
};
MUST_USE enum err_code resumables_new(struct resumables **ret,
                                      const struct resumables_settings *settings, struct err *err);
MUST_USE enum err_code resumables_register(struct resumables *all, struct metrics *metrics,
                                           struct err *err);
/* Any thread: the server stops. Streams that nobody reads expire now, others when their readers are
 * gone. */
void resumables_drain(struct resumables *all);
/* No loop runs any more. */
void resumables_free(struct resumables **all);
const char *resumables_node(const struct resumables *all);

/* Did this caller ask? Then for how long (no more than --resume-time); E_INVALID when what it said is
 * no number of seconds, E_UNIMPLEMENTED when the server keeps none. 0: no. */
MUST_USE enum err_code resume_asked(const struct exchange *x, const struct api *api,
                                    uint64_t *ret_ns, struct err *err);
/* How much a maker may have under way when there is no room any more, of the largest kind. */
void resume_slack(const struct api *api, uint64_t *ret_events, size_t *ret_bytes);
/* E_EXHAUSTED: too many. The maker holds it until resumable_end. `began_by` says loop and identity; no
 * reference of it is kept. */
MUST_USE enum err_code resumable_new(struct resumable **ret, const struct api *api,
                                     struct exchange *began_by, uint64_t keep_ns,
                                     const struct resumable_user *user, void *user_data,
                                     struct err *err);
void *resumable_user_data(const struct resumable *r);
const char *resumable_id(const struct resumable *r);  /* "<node>.<secret>" */
uint64_t resumable_newest(const struct resumable *r); /* number of what was put last; 0: nothing */

/* One event: `data` is one JSON value without newlines; name empty: none. False: there is no memory,
 * or far more was put than there was room for: the event is not there, and the maker should give up. */
bool resumable_put(struct resumable *r, struct slice name, struct slice data);
/* The same of some messages that belong together, for WebSockets: all of them are one number. Readers of
 * SSE and NDJSON get the text ones. */
struct resumable_message {
    struct slice bytes;
    bool is_text;
};
bool resumable_put_messages(struct resumable *r, const struct resumable_message *messages,
                            uint32_t count);
/* The last of it, which says how it ended: no bound refuses it, and no want of memory one of 1 KiB.
 * resumable_end is to follow. */
bool resumable_put_last(struct resumable *r, struct slice name, struct slice data);
bool resumable_put_last_message(struct resumable *r, const struct resumable_message *message);
bool resumable_has_room(struct resumable *r);
/* No more events; what was put stays to be read. The maker lets go of it. */
void resumable_end(struct resumable **r);
/* The same; calls that follow are closed with this status instead of OK, and events are cut off (but for
 * E_CANCELLED), so that nobody takes them for the whole. */
void resumable_end_with(struct resumable **r, const struct err *status);

/* The exchange follows from the first event: answers it (SSE, NDJSON) with `location` and what `more`
 * has (EVENTS_HEADERS_MAX - 2 at most), and keeps it until it is gone. From then on it is resume.c's:
 * its user and user_data too. */
void resumable_follow(struct resumable *r, struct exchange *x, const struct api *api,
                      enum events_form form, const struct header *more, uint32_t more_count);
/* The WebSocket follows from event `after` + 1 and feeds the maker. Its user and user_data are
 * resume.c's from then on. E_NOT_FOUND: no such event; nothing was done. */
MUST_USE enum err_code resumable_attach_call(struct resumable *r, struct call *call, uint64_t after,
                                             struct err *err);
void resumable_read(struct resumable *r); /* credit for one more input, of whoever feeds */

/* resume_routes (route.h): GET and DELETE /streams/{id}. */

#endif
