/* event_log.h - a bounded log of events that several readers follow, each at its own place.
 *
 * A writer appends bytes; each event gets the next number, from 1. Readers have a cursor and are told
 * on their own loop when there is more than they have read. What is over the bound goes, oldest
 * first: a reader whose next event is gone is told so (EVENT_READ_LOST), and goes on with the oldest
 * there is.
 *
 * A log may be one that its writer waits for (keeps_unread: a stream that is resumed). Then nothing goes
 * that an attached reader has not read, and with no reader attached nothing goes at all: the writer
 * stops at the bound and is told when there is room again, which is when the slowest attached reader
 * has moved on. Room ends at three quarters of the bounds, so that what a writer has under way when it
 * is told still fits; what begins below the bound is taken whole. How such a log ends is said whatever
 * it holds (event_log_append_last).
 *
 * Life     Counted: the writer and each reader hold a reference.
 * Memory   Events lie one behind the other in shared blocks, charged to the budget, with an index of
 *          40 bytes an event. Appending and reading cost the same however many read. A reader takes a reference of the block and copies nothing
 *          (event_log_read_shared).
 * Threads  Any thread may append; a reader belongs to its loop's thread. One leaf mutex. on_more comes on
 *          the reader's loop, some readers a turn, one message to a loop however many wait there;
 *          on_room on the writer's.
 */
#ifndef IO_EVENT_LOG_H
#define IO_EVENT_LOG_H

#include "base/err.h"
#include "base/slice.h"
#include "io/loop.h"

struct budget;
struct buf;
struct event_log;
struct text;

struct event_log_settings {
    uint64_t events_max;   /* 1 and more */
    size_t bytes_max;      /* of the events' bytes */
    struct budget *budget; /* charged; borrowed */
    bool keeps_unread; /* the writer waits rather than drop what an attached reader has not read */
    size_t last_bytes; /* kept for event_log_append_last from the beginning; 0: none are */
    struct loop *writer;            /* where on_room comes; NULL: none */
    void (*on_room)(void *context); /* not after event_log_close */
    void *context;
};

MUST_USE enum err_code event_log_new(struct event_log **ret,
                                     const struct event_log_settings *settings, struct err *err);
struct event_log *event_log_ref(struct event_log *log);
void event_log_unref(struct event_log **log);

/* `kind` is the writer's own (an event name's index); the bytes are copied. *ret_number (may be NULL):
 * which it became. E_EXHAUSTED: no memory, or keeps_unread and no room. E_PRECONDITION: closed. */
MUST_USE enum err_code event_log_append(struct event_log *log, uint32_t kind, struct slice bytes,
                                        uint64_t *ret_number, struct err *err);
/* The same of bytes in several places. */
MUST_USE enum err_code event_log_append_pieces(struct event_log *log, uint32_t kind,
                                               const struct slice *pieces, uint32_t pieces_count,
                                               uint64_t *ret_number, struct err *err);
/* The last event of the log, whose bounds do not count for it: one of last_bytes and less is never
 * refused, neither by them nor for want of memory. Once at most; event_log_close is to follow. */
MUST_USE enum err_code event_log_append_last(struct event_log *log, uint32_t kind,
                                             const struct slice *pieces, uint32_t pieces_count,
                                             uint64_t *ret_number, struct err *err);
/* Tells who waits, though nothing was appended. */
void event_log_wake(struct event_log *log);
/* Nothing follows; readers are told when they have read what there is. Of a log with a `writer` on
 * that loop. Idempotent. */
void event_log_close(struct event_log *log);
/* False: on_room comes once there is. Logs without keeps_unread always have it. */
bool event_log_has_room(struct event_log *log);
/* Numbers of the oldest kept and of the newest (0: none was ever appended). */
void event_log_range(struct event_log *log, uint64_t *ret_oldest, uint64_t *ret_newest);

struct event_log_group; /* the readers of one loop */

struct event_reader {
    struct event_log *log; /* held while attached; NULL: it is not */
    struct loop *loop;     /* its own; NULL: it is never told, and reads when it likes */
    /* Once for each time that a read said NONE; it may read, attach and detach readers. */
    void (*on_more)(struct event_reader *reader);
    /* -- inside -- */
    uint64_t next;
    struct event_log_group *group;
    struct list_node node, waiting;
};

/* Follows from number `next` on (1: from the first; newest + 1: what comes). E_NOT_FOUND: that is gone
 * or has never been; err says from where to where there is. The caller sets loop and on_more before,
 * and reads until NONE after. */
MUST_USE enum err_code event_log_attach(struct event_log *log, struct event_reader *reader,
                                        uint64_t next, struct err *err);
/* No on_more comes any more; the reader's memory may go. No-op when it is not attached. */
void event_log_detach(struct event_reader *reader);

enum event_read { EVENT_READ_ONE, EVENT_READ_NONE, EVENT_READ_LOST, EVENT_READ_CLOSED };
/* The next event, copied to the end of `out` (text.h; one that fails has the event read all the same);
 * NONE: on_more tells. LOST: what was next has gone; the reader now stands at the oldest, *ret_number
 * is its number. */
enum event_read event_log_read(struct event_reader *reader, struct text *out, uint32_t *ret_kind,
                               uint64_t *ret_number);
/* The same without a copy: *ret_bytes stays as long as *ret_holder is held, which is one reference
 * more and the caller's to give back. */
enum event_read event_log_read_shared(struct event_reader *reader, struct slice *ret_bytes,
                                      struct buf **ret_holder, uint32_t *ret_kind,
                                      uint64_t *ret_number);

#endif
