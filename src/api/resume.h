/* resume.h - streams that outlive their connection, by a bounded log of what was sent.
 *
 * A dialect whose caller asked for it makes a resumable (its events go to an event_log) instead of
 * writing to its exchange; readers follow the log: the exchange that began it, and whoever comes
 * back with its id to GET /streams/{id} (Accept: text/event-stream or application/x-ndjson, with
 * Last-Event-ID; or a WebSocket, ?after=N).
 * An event's id is "<node>.<secret>.<number>"; node is --node-name, so that a server that does not
 * own the stream answers 421 with who does; secret is 128 random bits. A stream is bound to who
 * began it (a digest of its authorization header): another who brings the id is told 404, as if there were none. It is kept for
 * --resume-time (or less, as asked) without a reader or after its end, then is gone (410 for as long
 * as its tombstone is kept).
 *
 * How a caller asks: ?resume=SECONDS on the call's URL, or header `x-resume: SECONDS`. The answer's
 * header `location: /streams/{id}` says where to come back.
 *
 * Threads  made on the loop of the exchange that began it, which runs its model; readers on any.
 */
#ifndef API_RESUME_H
#define API_RESUME_H

#include "api/route.h"
#include "io/event_log.h"

struct resumables; /* one per server: in struct api */
struct resumable;

struct resumable_user {
    void (*on_room)(struct resumable *r); /* the maker may append again */
    /* Nobody came back in time, or it was cancelled (DELETE /streams/{id}): stop the work. */
    void (*on_expired)(struct resumable *r);
};

struct resumables_settings {
    const char *node;        /* --node-name; default: host name and port */
    uint64_t time_ns;        /* --resume-time: most that a caller may ask for */
    uint64_t streams_max;    /* --resume-streams-max */
    uint64_t events_max;     /* --resume-events-max, of one stream */
    size_t bytes_max;        /* --resume-bytes-max, of one stream */
    struct budget *budget;
};
MUST_USE enum err_code resumables_new(struct resumables **ret,
                                      const struct resumables_settings *settings, struct err *err);
void resumables_free(struct resumables **all);
const char *resumables_node(const struct resumables *all);

/* Did this caller ask? Then for how long; E_INVALID when what it said is no number. 0: no. */
MUST_USE enum err_code resume_asked(const struct exchange *x, const struct api *api,
                                    uint64_t *ret_ns, struct err *err);
/* E_EXHAUSTED: too many. The maker holds it until resumable_end. */
MUST_USE enum err_code resumable_new(struct resumable **ret, const struct api *api,
                                     struct exchange *began_by, uint64_t keep_ns,
                                     const struct resumable_user *user, void *user_data,
                                     struct err *err);
void *resumable_user_data(const struct resumable *r);
const char *resumable_id(const struct resumable *r); /* "<node>.<secret>" */
bool resumable_put(struct resumable *r, struct slice name, struct slice data);
bool resumable_has_room(struct resumable *r);
/* No more events; what was put stays to be read. The maker lets go of it. */
void resumable_end(struct resumable **r);
/* The exchange follows from the first event: answers it (SSE, NDJSON) and keeps it until it is gone. */
void resumable_follow(struct resumable *r, struct exchange *x, const struct api *api);

extern const struct route_table resume_routes; /* /streams/{id} */

#endif
