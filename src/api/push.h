/* push.h - what happens on the server, told when it happens (proto/penstock/v1/events.proto).
 *
 * The repository says which models load, are ready, cannot be loaded or go; the engine which queues are
 * high; cli that all is loaded and that the server stops. Each event is written once, in every form
 * that readers want (a server-sent event that has its JSON within, protobuf), into one bounded log
 * (io/event_log.h); readers send those bytes.
 *
 * What is now is kept beside the log and changes under the same lock: a reader begins with a snapshot of
 * it and attaches behind the newest event in one step, so that nothing is lost and nothing comes twice.
 *
 * Numbers   An event's sequence is a base that says when the server started plus its number in the log.
 *           So sequences of an earlier run are told apart from those that are kept, without a name for
 *           the run.
 * Threads   push_* tell from any thread. Reading belongs to the reader's loop.
 */
#ifndef API_PUSH_H
#define API_PUSH_H

#include "api/grpc.h"
#include "io/event_log.h"

struct env;
struct push;
struct repository_entry;

/* Event.Kind, number for number. */
enum push_kind {
    PUSH_UNSPECIFIED,
    PUSH_LOADING,
    PUSH_READY,
    PUSH_UNAVAILABLE,
    PUSH_UNLOADED,
    PUSH_QUEUE_HIGH,
    PUSH_QUEUE_NORMAL,
    PUSH_SERVER_READY,
    PUSH_SERVER_DRAINING,
    PUSH_SERVER_LOADING,
    PUSH_LOST,
    PUSH_KINDS
};

struct push_settings {
    struct env *env;       /* time; borrowed */
    const char *node;      /* --node-name; copied */
    uint64_t events_max;   /* --events-kept */
    struct budget *budget; /* the log and the table are charged to it; borrowed */
};
/* Nothing is known at first but that the server is loading. */
MUST_USE enum err_code push_new(struct push **ret, const struct push_settings *settings,
                                struct err *err);
MUST_USE enum err_code push_register(struct push *push, struct metrics *metrics, struct err *err);
/* No loop runs any more. */
void push_free(struct push **push);
const char *push_node(const struct push *push);

/* -- telling ------------------------------------------------------------------------------------- */

/* LOADING, READY, UNAVAILABLE (`reason`) or UNLOADED; what is so already is not told again. */
void push_model(struct push *push, enum push_kind kind, struct slice model, struct slice version,
                struct slice reason);
/* `change` grows with each change of that model's queue: what comes late, because two threads told at
 * the same time, is dropped. Of a model that was not told of: nothing. */
void push_queue(struct push *push, struct slice model, struct slice version, bool is_high,
                uint64_t queued, uint64_t queue_max, uint64_t change);
void push_server(struct push *push, enum push_kind kind); /* SERVER_READY, SERVER_DRAINING */

/* repository_watch's and engine_watch_queues' functions; context is the push. */
void push_on_change(void *push, const struct repository_entry *entry);
void push_on_queue(void *push, const char *model, const char *version, bool is_high,
                   uint32_t queued, uint32_t queue_max, uint64_t change);

/* -- reading (push_watch.c, grpc_health.c) ---------------------------------------------------------- */

/* An event in the forms that readers want. */
struct push_record {
    struct slice sse;   /* "id: ...\nevent: ...\ndata: {...}\n\n" */
    struct slice json;  /* within it; a newline follows */
    struct slice proto; /* penstock.v1.Event */
    struct slice model; /* whom it is about; data NULL: the server, which is everybody's */
    enum push_kind kind;
};
/* The next of the records that lie one behind the other; false at the end. */
bool push_record_next(struct slice *rest, struct push_record *ret);

/* Attaches behind the newest event and gives what is now: records, the last of which is the server's.
 * *ret_holder is one reference. *ret_missed: see push_missed. reader->loop and on_more are set. */
MUST_USE enum err_code push_follow(struct push *push, struct event_reader *reader,
                                   struct slice *ret_snapshot, struct buf **ret_holder,
                                   uint64_t *ret_missed, uint64_t *ret_sequence, struct err *err);
/* Attaches behind that event instead. E_RANGE: it is not kept, or of another run, and err says so. */
MUST_USE enum err_code push_follow_after(struct push *push, struct event_reader *reader,
                                         uint64_t sequence, uint64_t *ret_missed, struct err *err);
/* Attaches behind the newest; for who looks at the server itself. */
MUST_USE enum err_code push_attend(struct push *push, struct event_reader *reader, struct err *err);
/* Reads what there is and looks at nothing: its loop is told of the next. */
void push_skip(struct event_reader *reader);
/* How many events there was no memory to write: a reader who finds it changed has lost some. */
uint64_t push_missed(struct push *push);
/* Which sequence the event of that number in the log has. */
uint64_t push_sequence(const struct push *push, uint64_t number);
/* A LOST event for one reader. */
MUST_USE enum err_code push_lost_new(struct push *push, uint64_t lost, const char *reason,
                                     struct slice *ret_record, struct buf **ret_holder,
                                     struct err *err);
/* Counts what a slow reader was not told. */
void push_count_lost(struct push *push, uint64_t events);

/* Who watches is push_watch.c: push_routes (route.h), push_grpc_service (grpc.h). */

#endif
