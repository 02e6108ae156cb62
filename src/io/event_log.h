/* event_log.h - a bounded log of events that several readers follow, each at its own place.
 *
 * A writer appends bytes; each event gets the next number, from 1. Readers have a cursor and are told
 * on their own loop when there is more than they have read. What is over the bound goes, oldest
 * first: a reader whose next event is gone is told so (E_NOT_FOUND), and may go on with the oldest
 * there is. A log may be one that its writer waits for (a stream that is resumed): then it tells the
 * writer when there is room again, which is when the slowest attached reader has moved on; with no
 * reader attached there is room until the bound.
 *
 * Life     Counted: the writer and each reader hold a reference.
 * Threads  Any thread may append and read; one leaf mutex; on_more comes on the reader's loop, on_room on
 *          the writer's.
 */
#ifndef IO_EVENT_LOG_H
#define IO_EVENT_LOG_H

#include "base/err.h"
#include "base/slice.h"
#include "io/loop.h"

struct budget;
struct event_log;

struct event_log_settings {
    uint64_t events_max;
    size_t bytes_max;
    struct budget *budget;  /* charged; borrowed */
    bool keeps_unread;      /* the writer waits rather than drop what an attached reader has not read */
    struct loop *writer;    /* where on_room comes; NULL: none */
    void (*on_room)(void *context);
    void *context;
};

MUST_USE enum err_code event_log_new(struct event_log **ret,
                                     const struct event_log_settings *settings, struct err *err);
struct event_log *event_log_ref(struct event_log *log);
void event_log_unref(struct event_log **log);

/* `kind` is the writer's own (an event name's index); the bytes are copied. *ret_number: which it
 * became. E_EXHAUSTED: no memory, or keeps_unread and no room. */
MUST_USE enum err_code event_log_append(struct event_log *log, uint32_t kind, struct slice bytes,
                                        uint64_t *ret_number, struct err *err);
/* Nothing follows; readers are told when they have read what there is. */
void event_log_close(struct event_log *log);
bool event_log_has_room(struct event_log *log);
/* Numbers of the oldest kept and of the newest (0: none was ever appended). */
void event_log_range(struct event_log *log, uint64_t *ret_oldest, uint64_t *ret_newest);

struct event_reader {
    struct event_log *log; /* held while attached */
    struct loop *loop;
    void (*on_more)(struct event_reader *reader); /* at most once for each time that nothing was left */
    /* -- inside -- */
    uint64_t next;
    struct list_node node;
    struct loop_msg msg;
    bool is_posted, is_detached;
    void (*on_free)(struct event_reader *reader);
};

/* Follows from number `next` on (1: from the first; newest + 1: what comes). E_NOT_FOUND: that is gone
 * or has never been; err says from where to where there is. */
MUST_USE enum err_code event_log_attach(struct event_log *log, struct event_reader *reader,
                                        uint64_t next, struct err *err);
/* The reader's memory may go when on_free comes, on its loop (maybe before this returns). */
void event_log_detach(struct event_reader *reader, void (*on_free)(struct event_reader *reader));

enum event_read { EVENT_READ_ONE, EVENT_READ_NONE, EVENT_READ_LOST, EVENT_READ_CLOSED };
/* The next event, copied to the end of the heap text that `out` is (text.h); NONE: on_more tells. LOST:
 * what was next has gone; the reader now stands at the oldest, *ret_number is its number. */
struct text;
enum event_read event_log_read(struct event_reader *reader, struct text *out, uint32_t *ret_kind,
                               uint64_t *ret_number);

#endif
