/* event_log.c - SPDX-License-Identifier: Apache-2.0
 *
 * Bytes. Events are copied one behind the other into blocks (struct buf) that grow from 1 KiB to
 * 64 KiB; an event of 16 KiB and more has a block of its own. Each event of the index holds a
 * reference of its block, so a block goes when its last event has, or when the last reader has sent
 * what lies in it. Only bytes behind what was ever given out are written to.
 *
 * Index. A ring of entries, the event of number n at n modulo its size, doubled until it holds
 * events_max. Each entry knows how many bytes were appended up to its end, so that what lies between
 * two numbers is a subtraction. Of a log that keeps what is unread each entry knows how many readers
 * stand before it, and `least` is behind none of them: it moves on when it is asked for, over each
 * number once.
 *
 * Telling. Readers that found nothing wait in a list of their loop (struct event_log_group), which
 * only that loop's thread touches; who appends sees one flag and posts one message a loop. The message
 * tells TELL_MAX readers and posts itself anew, so that ten thousand of them do not hold up what else
 * the loop has to do.
 */
#include "io/event_log.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/budget.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"

enum {
    RING_FIRST = 16,
    BLOCK_FIRST = 1024,
    BLOCK_MAX = 64 << 10,
    ALONE_MIN = 16 << 10, /* an event so large has a block of its own */
    TELL_MAX = 64         /* readers told in one turn of a loop */
};

struct entry {
    struct buf *block; /* one reference */
    const uint8_t *data;
    uint64_t end; /* bytes appended up to and with it, since the log began */
    uint32_t size, kind;
    uint32_t readers; /* whose next it is; only counted where keeps_unread */
};

struct event_log_group {
    struct event_log *log;
    struct event_log_group *next;
    struct loop *loop;
    struct loop_msg msg;
    struct list waiting, telling;  /* of event_reader.waiting; the loop's own */
    bool wants, is_due, is_posted; /* under the lock: somebody waits; there is more; on its way */
};

struct event_log {
    atomic_uint refs;
    struct event_log_settings settings;
    pthread_mutex_t lock;    /* a leaf: guards all below */
    struct entry *ring;      /* owned; NULL: none yet */
    uint64_t ring_room;      /* a power of two */
    uint64_t oldest, newest; /* oldest == newest + 1: none is kept */
    uint64_t bytes_ever;
    struct buf *block; /* that is being filled; one reference */
    uint8_t *block_data;
    size_t block_used, block_room;
    struct buf *last;               /* owned; last_bytes for event_log_append_last; NULL: used */
    uint64_t least;                 /* no attached reader's next is less */
    uint32_t readers_at_end;        /* their next is newest + 1 */
    struct list readers;            /* attached */
    struct event_log_group *groups; /* owned, until the log goes */
    struct loop_msg room_msg;
    bool is_closed;
    bool wants_room, room_is_posted;
};

/* -- life -------------------------------------------------------------------------------------- */

static void run_room(struct loop_msg *msg);
static void run_group(struct loop_msg *msg);
static enum err_code grow_ring(struct event_log *log, struct err *err);

enum err_code event_log_new(struct event_log **ret, const struct event_log_settings *settings,
                            struct err *err)
{
    struct event_log *log = mem_zalloc(sizeof *log);

    require(settings->events_max > 0);
    if (log == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a log of events; retry later");
    if (!budget_take(settings->budget, sizeof *log)) {
        mem_free(log);
        return err_set(
            err, E_EXHAUSTED,
            "no memory left for a log of events: the server's --memory-limit is reached; "
            "retry later");
    }
    atomic_init(&log->refs, 1);
    log->settings = *settings;
    log->oldest = 1;
    log->room_msg.run = run_room;
    list_init(&log->readers);
    pthread_mutex_init(&log->lock, NULL);
    if (settings->last_bytes > 0 &&
        (buf_new(&log->last, settings->budget, settings->last_bytes, err) != OK ||
         grow_ring(log, err) != OK)) {
        event_log_unref(&log);
        return E_EXHAUSTED;
    }
    *ret = log;
    return OK;
}

struct event_log *event_log_ref(struct event_log *log)
{
    atomic_fetch_add_explicit(&log->refs, 1, memory_order_relaxed);
    return log;
}

static struct entry *entry_of(struct event_log *log, uint64_t number)
{
    return &log->ring[number & (log->ring_room - 1)];
}

static void drop_oldest(struct event_log *log)
{
    buf_unref(&entry_of(log, log->oldest++)->block);
}

void event_log_unref(struct event_log **slot)
{
    struct event_log *log = TAKE(*slot);

    if (log == NULL || atomic_fetch_sub_explicit(&log->refs, 1, memory_order_acq_rel) != 1)
        return;
    require(list_is_empty(&log->readers));
    while (log->oldest <= log->newest)
        drop_oldest(log);
    buf_unref(&log->block);
    buf_unref(&log->last);
    while (log->groups != NULL) {
        struct event_log_group *group = log->groups;
        log->groups = group->next;
        mem_free(group);
    }
    budget_give(log->settings.budget, sizeof *log + log->ring_room * sizeof *log->ring);
    mem_free(log->ring);
    pthread_mutex_destroy(&log->lock);
    mem_free(log);
}

/* -- room (all under the lock) ------------------------------------------------------------------- */

/* The first number that may not go: some attached reader has it before it, or nobody reads at all. */
static uint64_t first_unread(struct event_log *log)
{
    if (list_is_empty(&log->readers))
        return log->oldest;
    log->least = MAX(log->least, log->oldest);
    while (log->least <= log->newest && entry_of(log, log->least)->readers == 0)
        log->least++;
    return log->least;
}

/* So many more (or less) readers stand before `number`. */
static void count_readers(struct event_log *log, uint64_t number, int32_t more)
{
    if (!log->settings.keeps_unread)
        return;
    require(number >= log->oldest && number <= log->newest + 1);
    if (number > log->newest)
        log->readers_at_end += (uint32_t)more;
    else
        entry_of(log, number)->readers += (uint32_t)more;
    if (more > 0)
        log->least = MIN(log->least, number);
}

static uint64_t bytes_from(struct event_log *log, uint64_t number)
{
    return number > log->newest
               ? 0
               : log->bytes_ever - (entry_of(log, number)->end - entry_of(log, number)->size);
}

static bool is_below(struct event_log *log, uint64_t number, uint64_t events, uint64_t bytes)
{
    return log->newest + 1 - number < events && bytes_from(log, number) < bytes;
}

/* Are so many events and bytes more than what may not go? */
static bool has_below(struct event_log *log, uint64_t events, uint64_t bytes)
{
    return !log->settings.keeps_unread || is_below(log, log->oldest, events, bytes) ||
           is_below(log, first_unread(log), events, bytes);
}

static bool has_room(struct event_log *log)
{
    uint64_t events = log->settings.events_max;
    uint64_t bytes = log->settings.bytes_max;

    return has_below(log, events - events / 4, bytes - bytes / 4);
}

/* A reader has moved: may the writer go on? */
static void look_for_room(struct event_log *log)
{
    if (!log->wants_room || log->room_is_posted || log->is_closed || log->settings.writer == NULL ||
        !has_room(log))
        return;
    log->wants_room = false;
    log->room_is_posted = true;
    event_log_ref(log);
    loop_post(log->settings.writer, &log->room_msg);
}

static void run_room(struct loop_msg *msg)
{
    struct event_log *log = CONTAINER_OF(msg, struct event_log, room_msg);

    pthread_mutex_lock(&log->lock);
    log->room_is_posted = false;
    bool is_closed = log->is_closed;
    pthread_mutex_unlock(&log->lock);
    if (!is_closed && log->settings.on_room != NULL)
        log->settings.on_room(log->settings.context);
    event_log_unref(&log);
}

bool event_log_has_room(struct event_log *log)
{
    pthread_mutex_lock(&log->lock);
    bool has = has_room(log);
    log->wants_room |= !has;
    pthread_mutex_unlock(&log->lock);
    return has;
}

/* -- appending ----------------------------------------------------------------------------------- */

static enum err_code grow_ring(struct event_log *log, struct err *err)
{
    uint64_t room = log->ring_room == 0 ? RING_FIRST : 2 * log->ring_room;
    struct entry *ring = NULL;
    size_t more = (size_t)(room - log->ring_room) * sizeof *ring;

    if (!budget_take(log->settings.budget, more))
        return err_set(err, E_EXHAUSTED,
                       "no memory left for one more event: the server's --memory-limit is reached");
    ring = mem_zalloc((size_t)room * sizeof *ring);
    if (ring == NULL) {
        budget_give(log->settings.budget, more);
        return err_set(err, E_EXHAUSTED, "no memory for one more event");
    }
    for (uint64_t n = log->oldest; n <= log->newest; n++)
        ring[n & (room - 1)] = *entry_of(log, n);
    mem_free(log->ring);
    log->ring = ring;
    log->ring_room = room;
    return OK;
}

/* A block with room for `size` bytes; on success one reference more, for the event. */
static enum err_code take_bytes(struct event_log *log, size_t size, struct buf **ret_block,
                                uint8_t **ret_data, struct err *err)
{
    if (size >= ALONE_MIN) {
        TRY(buf_new(ret_block, log->settings.budget, size, err));
        *ret_data = buf_fill(*ret_block);
        return OK;
    }
    if (log->block == NULL || log->block_room - log->block_used < size) {
        size_t room = log->block == NULL ? BLOCK_FIRST : 2 * log->block_room;
        struct buf *block = NULL;
        room = MAX(MIN(room, (size_t)BLOCK_MAX), size);
        TRY(buf_new(&block, log->settings.budget, room, err));
        buf_unref(&log->block);
        log->block = block;
        log->block_data = buf_fill(block);
        log->block_used = 0;
        log->block_room = room;
    }
    *ret_block = buf_ref(log->block);
    *ret_data = log->block_data + log->block_used;
    log->block_used += size;
    return OK;
}

/* The bytes that were kept for the last event. */
static bool take_last(struct event_log *log, size_t size, struct buf **ret_block,
                      uint8_t **ret_data)
{
    if (log->last == NULL || size > log->settings.last_bytes)
        return false;
    *ret_block = TAKE(log->last);
    *ret_data = buf_fill(*ret_block);
    return true;
}

static enum err_code append(struct event_log *log, uint32_t kind, const struct slice *pieces,
                            uint32_t pieces_count, bool is_last, struct err *err)
{
    const struct event_log_settings *s = &log->settings;
    uint64_t spare = s->last_bytes > 0 && !is_last; /* a place in the index */
    struct buf *block = NULL;
    uint8_t *data = NULL;
    size_t size = 0;

    for (uint32_t i = 0; i < pieces_count; i++)
        size += pieces[i].size;

    if (log->is_closed)
        return err_set(err, E_PRECONDITION, "the log is closed: nothing may be appended");
    if (size > UINT32_MAX)
        return err_set(err, E_RANGE, "an event of %zu bytes is larger than any may be", size);
    if (!is_last && !has_below(log, s->events_max, s->bytes_max)) {
        log->wants_room = true;
        return err_set(err, E_EXHAUSTED,
                       "the log is full: its slowest reader is %llu events behind",
                       (unsigned long long)(log->newest + 1 - first_unread(log)));
    }
    if (log->newest + 1 - log->oldest + spare >= log->ring_room)
        TRY(grow_ring(log, err));
    if (!is_last || !take_last(log, size, &block, &data))
        TRY(take_bytes(log, size, &block, &data, err));
    uint8_t *at = data;
    for (uint32_t i = 0; i < pieces_count; at += pieces[i++].size)
        if (pieces[i].size > 0)
            memcpy(at, pieces[i].data, pieces[i].size);
    log->bytes_ever += size;
    *entry_of(log, ++log->newest) = (struct entry){ .block = block,
                                                    .data = data,
                                                    .end = log->bytes_ever,
                                                    .size = (uint32_t)size,
                                                    .kind = kind,
                                                    .readers = log->readers_at_end };
    log->readers_at_end = 0;
    uint64_t stays = s->keeps_unread ? first_unread(log) : log->newest;
    while (log->oldest < stays && (log->newest + 1 - log->oldest > s->events_max ||
                                   bytes_from(log, log->oldest) > s->bytes_max))
        drop_oldest(log);
    return OK;
}

/* Under the lock: whoever waits is told. */
static void tell(struct event_log *log)
{
    for (struct event_log_group *group = log->groups; group != NULL; group = group->next) {
        if (!group->wants)
            continue;
        group->wants = false;
        group->is_due = true;
        if (group->is_posted)
            continue;
        group->is_posted = true;
        event_log_ref(log);
        loop_post(group->loop, &group->msg);
    }
}

static enum err_code append_and_tell(struct event_log *log, uint32_t kind,
                                     const struct slice *pieces, uint32_t pieces_count,
                                     bool is_last, uint64_t *ret_number, struct err *err)
{
    pthread_mutex_lock(&log->lock);
    enum err_code code = append(log, kind, pieces, pieces_count, is_last, err);
    if (code == OK) {
        if (ret_number != NULL)
            *ret_number = log->newest;
        tell(log);
    }
    pthread_mutex_unlock(&log->lock);
    return code;
}

enum err_code event_log_append(struct event_log *log, uint32_t kind, struct slice bytes,
                               uint64_t *ret_number, struct err *err)
{
    return event_log_append_pieces(log, kind, &bytes, 1, ret_number, err);
}

enum err_code event_log_append_pieces(struct event_log *log, uint32_t kind,
                                      const struct slice *pieces, uint32_t pieces_count,
                                      uint64_t *ret_number, struct err *err)
{
    return append_and_tell(log, kind, pieces, pieces_count, false, ret_number, err);
}

enum err_code event_log_append_last(struct event_log *log, uint32_t kind,
                                    const struct slice *pieces, uint32_t pieces_count,
                                    uint64_t *ret_number, struct err *err)
{
    return append_and_tell(log, kind, pieces, pieces_count, true, ret_number, err);
}

void event_log_wake(struct event_log *log)
{
    pthread_mutex_lock(&log->lock);
    tell(log);
    pthread_mutex_unlock(&log->lock);
}

void event_log_close(struct event_log *log)
{
    pthread_mutex_lock(&log->lock);
    log->is_closed = true;
    tell(log);
    pthread_mutex_unlock(&log->lock);
}

void event_log_range(struct event_log *log, uint64_t *ret_oldest, uint64_t *ret_newest)
{
    pthread_mutex_lock(&log->lock);
    *ret_oldest = log->oldest;
    *ret_newest = log->newest;
    pthread_mutex_unlock(&log->lock);
}

/* -- readers ------------------------------------------------------------------------------------- */

static void run_group(struct loop_msg *msg)
{
    struct event_log_group *group = CONTAINER_OF(msg, struct event_log_group, msg);
    struct event_log *log = group->log;
    struct list_node *node;

    pthread_mutex_lock(&log->lock);
    group->is_posted = false;
    bool is_due = group->is_due;
    group->is_due = false;
    pthread_mutex_unlock(&log->lock);
    while (is_due && (node = list_pop(&group->waiting)) != NULL)
        list_push(&group->telling, node);
    for (unsigned i = 0; i < TELL_MAX && (node = list_pop(&group->telling)) != NULL; i++) {
        struct event_reader *reader = CONTAINER_OF(node, struct event_reader, waiting);
        reader->on_more(reader);
    }
    if (!list_is_empty(&group->telling)) {
        pthread_mutex_lock(&log->lock);
        if (!group->is_posted) {
            group->is_posted = true;
            event_log_ref(log);
            loop_post(group->loop, &group->msg);
        }
        pthread_mutex_unlock(&log->lock);
    }
    event_log_unref(&log);
}

/* Under the lock. */
static struct event_log_group *group_of(struct event_log *log, struct loop *loop)
{
    struct event_log_group *group = log->groups;

    while (group != NULL && group->loop != loop)
        group = group->next;
    if (group != NULL)
        return group;
    group = mem_zalloc(sizeof *group);
    if (group == NULL)
        return NULL;
    group->log = log;
    group->loop = loop;
    group->msg.run = run_group;
    list_init(&group->waiting);
    list_init(&group->telling);
    group->next = log->groups;
    log->groups = group;
    return group;
}

static enum err_code attach(struct event_log *log, struct event_reader *reader, uint64_t next,
                            struct err *err)
{
    if (next < log->oldest)
        return err_set(err, E_NOT_FOUND, "event %llu is not kept any more: there are %llu to %llu",
                       (unsigned long long)next, (unsigned long long)log->oldest,
                       (unsigned long long)log->newest);
    if (next > log->newest + 1)
        return err_set(err, E_NOT_FOUND, "event %llu has not been yet: the newest is %llu",
                       (unsigned long long)next, (unsigned long long)log->newest);
    reader->group = NULL;
    if (reader->loop != NULL && (reader->group = group_of(log, reader->loop)) == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for one more reader; retry later");
    reader->log = event_log_ref(log);
    reader->next = next;
    reader->waiting = (struct list_node){ NULL, NULL };
    reader->node = (struct list_node){ NULL, NULL };
    list_push(&log->readers, &reader->node);
    count_readers(log, next, 1);
    look_for_room(log);
    return OK;
}

enum err_code event_log_attach(struct event_log *log, struct event_reader *reader, uint64_t next,
                               struct err *err)
{
    pthread_mutex_lock(&log->lock);
    enum err_code code = attach(log, reader, next, err);
    pthread_mutex_unlock(&log->lock);
    return code;
}

void event_log_detach(struct event_reader *reader)
{
    struct event_log *log = TAKE(reader->log);

    if (log == NULL)
        return;
    require(reader->loop == NULL || loop_is_mine(reader->loop));
    list_remove(&reader->waiting);
    pthread_mutex_lock(&log->lock);
    list_remove(&reader->node);
    count_readers(log, reader->next, -1);
    look_for_room(log);
    pthread_mutex_unlock(&log->lock);
    event_log_unref(&log);
}

static enum event_read read_next(struct event_reader *reader, struct slice *ret_bytes,
                                 struct buf **ret_holder, uint32_t *ret_kind, uint64_t *ret_number)
{
    struct event_log *log = reader->log;

    if (reader->next > log->newest) {
        if (log->is_closed)
            return EVENT_READ_CLOSED;
        if (reader->group != NULL) {
            reader->group->wants = true;
            if (!list_has(&reader->waiting))
                list_push(&reader->group->waiting, &reader->waiting);
        }
        return EVENT_READ_NONE;
    }
    list_remove(&reader->waiting); /* it came by itself before it was told */
    if (reader->next < log->oldest) {
        reader->next = *ret_number = log->oldest;
        return EVENT_READ_LOST;
    }
    const struct entry *entry = entry_of(log, reader->next);
    *ret_bytes = slice_make(entry->data, entry->size);
    *ret_holder = buf_ref(entry->block);
    *ret_kind = entry->kind;
    count_readers(log, reader->next, -1);
    *ret_number = reader->next++;
    count_readers(log, reader->next, 1);
    look_for_room(log);
    return EVENT_READ_ONE;
}

enum event_read event_log_read_shared(struct event_reader *reader, struct slice *ret_bytes,
                                      struct buf **ret_holder, uint32_t *ret_kind,
                                      uint64_t *ret_number)
{
    struct event_log *log = reader->log;

    require(reader->loop == NULL || loop_is_mine(reader->loop));
    pthread_mutex_lock(&log->lock);
    enum event_read what = read_next(reader, ret_bytes, ret_holder, ret_kind, ret_number);
    pthread_mutex_unlock(&log->lock);
    return what;
}

enum event_read event_log_read(struct event_reader *reader, struct text *out, uint32_t *ret_kind,
                               uint64_t *ret_number)
{
    struct buf *holder = NULL;
    struct slice bytes = { 0 };
    enum event_read what = event_log_read_shared(reader, &bytes, &holder, ret_kind, ret_number);

    if (what == EVENT_READ_ONE)
        text_slice_put(out, bytes);
    buf_unref(&holder);
    return what;
}
