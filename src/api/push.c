/* push.c - SPDX-License-Identifier: Apache-2.0
 *
 * A record is a head of sizes (struct head), then the server-sent event, then protobuf, then the
 * model's name: one block of bytes, written once and sent from the log to whoever reads.
 *
 * Locks: push.lock, and below it the log's own. The table of what is now (a struct known for each
 * version of a model) and the log change together under it; the snapshot is made of the table when the
 * first reader asks and is kept until the next event, so that ten thousand readers who come at
 * once share one.
 *
 * An event for which there is no memory changes the table all the same and is counted in `missed`:
 * readers are woken, see the count and begin anew with what is now.
 */
#include "api/push.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/budget.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/pb.h"
#include "base/text.h"
#include "base/utf8.h"
#include "io/env.h"
#include "repository/repository.h"
#include "telemetry/metrics.h"

enum {
    RECORD_BYTES_MAX = 256 << 10,
    SNAPSHOT_BYTES_MAX = 64 << 20,
    EVENT_BYTES_USUAL = 2048, /* the log's bytes are bounded by so many an event */
    BASE_SHIFT = 20           /* 2^20 events a second, all the time, until sequences run into the
                                 next start's */
};

struct head {
    uint32_t sse, json_at, json, proto, model;
    uint32_t kind, is_server;
};

/* A version of a model. */
struct known {
    struct list_node node;         /* in the order in which they were first told of */
    char *name, *version, *reason; /* owned; reason may be NULL */
    size_t charged;
    enum push_kind kind;
    int64_t since_ms, queue_since_ms;
    bool is_high;
    uint64_t queued, queue_max, queue_change;
};

struct push {
    struct push_settings settings;
    char *node; /* owned */
    uint64_t base;
    struct event_log *log;
    pthread_mutex_t lock;
    struct map *by_key; /* name, 0, version -> struct known */
    struct list known;
    enum push_kind server;
    int64_t server_since_ms;
    struct buf *snapshot; /* NULL: none was made since the last event */
    _Atomic uint64_t events_count, lost_count, missed_count;
};

static const struct {
    const char *name, *event;
} kinds[PUSH_KINDS] = {
    [PUSH_UNSPECIFIED] = { "UNSPECIFIED", "unspecified" },
    [PUSH_LOADING] = { "LOADING", "loading" },
    [PUSH_READY] = { "READY", "ready" },
    [PUSH_UNAVAILABLE] = { "UNAVAILABLE", "unavailable" },
    [PUSH_UNLOADED] = { "UNLOADED", "unloaded" },
    [PUSH_QUEUE_HIGH] = { "QUEUE_HIGH", "queue_high" },
    [PUSH_QUEUE_NORMAL] = { "QUEUE_NORMAL", "queue_normal" },
    [PUSH_SERVER_READY] = { "SERVER_READY", "server_ready" },
    [PUSH_SERVER_DRAINING] = { "SERVER_DRAINING", "server_draining" },
    [PUSH_SERVER_LOADING] = { "SERVER_LOADING", "server_loading" },
    [PUSH_LOST] = { "LOST", "lost" },
};

/* -- life -------------------------------------------------------------------------------------- */

static int64_t now_ms(const struct push *push)
{
    return (int64_t)(push->settings.env->wall_ns(push->settings.env) / NS_PER_MS);
}

enum err_code push_new(struct push **ret, const struct push_settings *settings, struct err *err)
{
    CLEANUP(push_free) struct push *push = mem_zalloc(sizeof *push);

    if (push == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the server's events");
    push->settings = *settings;
    pthread_mutex_init(&push->lock, NULL);
    list_init(&push->known);
    push->by_key = map_new();
    push->node = mem_strdup(settings->node);
    if (push->by_key == NULL || push->node == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the server's events");
    push->server = PUSH_SERVER_LOADING;
    push->server_since_ms = now_ms(push);
    push->base = (uint64_t)(push->server_since_ms / 1000) << BASE_SHIFT;
    struct event_log_settings log = { .events_max = settings->events_max,
                                      .bytes_max = settings->events_max * EVENT_BYTES_USUAL,
                                      .budget = settings->budget };
    TRY(event_log_new(&push->log, &log, err));
    *ret = TAKE(push);
    return OK;
}

enum err_code push_register(struct push *push, struct metrics *metrics, struct err *err)
{
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_events_total",
                    "Events of the server told to its log.", "", &push->events_count, 1, err));
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_events_lost_total",
                    "Events that readers of the server's events were too slow for.", "",
                    &push->lost_count, 1, err));
    return metrics_add(metrics, METRIC_COUNTER, "penstock_events_missed_total",
                       "Events for which there was no memory.", "", &push->missed_count, 1, err);
}

static void known_free(struct push *push, struct known *known)
{
    list_remove(&known->node);
    budget_give(push->settings.budget, known->charged);
    mem_free(known->name);
    mem_free(known->version);
    mem_free(known->reason);
    mem_free(known);
}

void push_free(struct push **slot)
{
    struct push *push = TAKE(*slot);
    struct list_node *node;

    if (push == NULL)
        return;
    while ((node = list_first(&push->known)) != NULL)
        known_free(push, CONTAINER_OF(node, struct known, node));
    map_free(&push->by_key);
    buf_unref(&push->snapshot);
    event_log_unref(&push->log);
    pthread_mutex_destroy(&push->lock);
    mem_free(push->node);
    mem_free(push);
}

const char *push_node(const struct push *push)
{
    return push->node;
}

uint64_t push_sequence(const struct push *push, uint64_t number)
{
    return push->base + number;
}

/* -- one event, in every form -------------------------------------------------------------------- */

struct event {
    uint64_t sequence; /* 0: none */
    int64_t time_ms;
    enum push_kind kind;
    struct slice model, version, reason;
    uint64_t queued, queue_max, lost;
    bool is_snapshot;
};

static bool is_of_queue(enum push_kind kind)
{
    return kind == PUSH_QUEUE_HIGH || kind == PUSH_QUEUE_NORMAL;
}

static void put_string(struct text *out, const char *name, struct slice value)
{
    if (value.size == 0)
        return;
    text_printf(out, ",\"%s\":", name);
    text_json(out, value);
}

/* As protobuf's JSON: what is 0 or empty is left out. Numbers are numbers, which its readers take. */
static void put_json(struct text *out, const struct push *push, const struct event *event)
{
    text_byte(out, '{');
    if (event->sequence != 0)
        text_printf(out, "\"sequence\":%llu,", (unsigned long long)event->sequence);
    text_str(out, "\"node\":");
    text_json(out, slice_of(push->node));
    text_printf(out, ",\"time_ms\":%lld,\"kind\":\"%s\"", (long long)event->time_ms,
                kinds[event->kind].name);
    put_string(out, "model", event->model);
    put_string(out, "version", event->version);
    put_string(out, "reason", event->reason);
    if (is_of_queue(event->kind))
        text_printf(out, ",\"queued\":%llu,\"queue_max\":%llu", (unsigned long long)event->queued,
                    (unsigned long long)event->queue_max);
    if (event->is_snapshot)
        text_str(out, ",\"is_snapshot\":true");
    if (event->lost != 0)
        text_printf(out, ",\"lost\":%llu", (unsigned long long)event->lost);
    text_byte(out, '}');
}

static void put_proto(struct text *out, const struct push *push, const struct event *event)
{
    struct slice node = slice_of(push->node);
    uint8_t *at =
        text_room(out, pb3_size_uint(1, event->sequence) + pb3_size_bytes(2, node) +
                           pb3_size_uint(3, (uint64_t)event->time_ms) +
                           pb3_size_uint(4, (uint64_t)event->kind) +
                           pb3_size_bytes(5, event->model) + pb3_size_bytes(6, event->version) +
                           pb3_size_bytes(7, event->reason) + pb3_size_uint(8, event->queued) +
                           pb3_size_uint(9, event->queue_max) +
                           pb3_size_uint(10, event->is_snapshot) + pb3_size_uint(11, event->lost));

    if (at == NULL)
        return;
    at = pb3_put_uint(at, 1, event->sequence);
    at = pb3_put_bytes(at, 2, node);
    at = pb3_put_uint(at, 3, (uint64_t)event->time_ms);
    at = pb3_put_uint(at, 4, (uint64_t)event->kind);
    at = pb3_put_bytes(at, 5, event->model);
    at = pb3_put_bytes(at, 6, event->version);
    at = pb3_put_bytes(at, 7, event->reason);
    at = pb3_put_uint(at, 8, event->queued);
    at = pb3_put_uint(at, 9, event->queue_max);
    at = pb3_put_uint(at, 10, event->is_snapshot);
    at = pb3_put_uint(at, 11, event->lost);
    out->size = (size_t)(at - out->data);
}

static void put_record(struct text *out, const struct push *push, const struct event *event)
{
    struct head head = { .kind = (uint32_t)event->kind, .is_server = event->model.size == 0 };
    size_t begin = out->size;

    text_put(out, &head, sizeof head);
    size_t sse = out->size;
    if (event->sequence != 0) {
        text_str(out, "id: ");
        text_str(out, push->node);
        text_printf(out, ".%llu\n", (unsigned long long)event->sequence);
    }
    text_printf(out, "event: %s\ndata: ", kinds[event->kind].event);
    size_t json = out->size;
    put_json(out, push, event);
    size_t json_end = out->size;
    text_str(out, "\n\n");
    size_t proto = out->size;
    put_proto(out, push, event);
    size_t model = out->size;
    text_slice_put(out, event->model);
    if (text_failed(out))
        return;
    head.sse = (uint32_t)(proto - sse);
    head.json_at = (uint32_t)(json - sse);
    head.json = (uint32_t)(json_end - json);
    head.proto = (uint32_t)(model - proto);
    head.model = (uint32_t)(out->size - model);
    memcpy(out->data + begin, &head, sizeof head);
}

bool push_record_next(struct slice *rest, struct push_record *ret)
{
    struct head head;

    if (rest->size == 0)
        return false;
    memcpy(&head, rest->data, sizeof head);
    *rest = slice_skip(*rest, sizeof head);
    ret->kind = (enum push_kind)head.kind;
    ret->sse = slice_first(*rest, head.sse);
    ret->json = slice_first(slice_skip(ret->sse, head.json_at), head.json);
    *rest = slice_skip(*rest, head.sse);
    ret->proto = slice_first(*rest, head.proto);
    *rest = slice_skip(*rest, head.proto);
    ret->model = head.is_server ? slice_make(NULL, 0) : slice_first(*rest, head.model);
    *rest = slice_skip(*rest, head.model);
    return true;
}

/* -- telling (under the lock) ------------------------------------------------------------------- */

static void miss(struct push *push, const struct err *err)
{
    atomic_fetch_add_explicit(&push->missed_count, 1, memory_order_relaxed);
    log_warn("an event of the server could not be kept: %s", err->text);
    event_log_wake(push->log);
}

static void append(struct push *push, struct event *event)
{
    struct err err = { 0 };
    uint64_t oldest, newest;
    struct text out;

    buf_unref(&push->snapshot);
    event_log_range(push->log, &oldest, &newest);
    event->sequence = push_sequence(push, newest + 1);
    text_init(&out, RECORD_BYTES_MAX);
    put_record(&out, push, event);
    enum err_code code = text_failed(&out) ? err_set(&err, E_EXHAUSTED, "no memory")
                                           : event_log_append(push->log, (uint32_t)event->kind,
                                                              text_slice(&out), NULL, &err);
    text_deinit(&out);
    if (code != OK)
        miss(push, &err);
    else
        atomic_fetch_add_explicit(&push->events_count, 1, memory_order_relaxed);
}

static struct slice key_of(struct text *out, struct slice model, struct slice version)
{
    text_slice_put(out, model);
    text_byte(out, 0);
    text_slice_put(out, version);
    return text_slice(out);
}

static struct known *find(struct push *push, struct slice model, struct slice version)
{
    struct text key;

    text_init(&key, RECORD_BYTES_MAX);
    struct slice bytes = key_of(&key, model, version);
    struct known *known = text_failed(&key) ? NULL : map_get(push->by_key, bytes);
    text_deinit(&key);
    return known;
}

static struct known *add(struct push *push, struct slice model, struct slice version,
                         struct err *err)
{
    struct known *known = mem_zalloc(sizeof *known);
    size_t charged = sizeof *known + 2 * (model.size + version.size);
    struct text key;

    if (known == NULL || !budget_take(push->settings.budget, charged)) {
        mem_free(known);
        err_set(err, E_EXHAUSTED, "no memory");
        return NULL;
    }
    known->charged = charged;
    known->name = mem_strndup(model.data, model.size);
    known->version = mem_strndup(version.data, version.size);
    text_init(&key, RECORD_BYTES_MAX);
    struct slice bytes = key_of(&key, model, version);
    bool is_kept = known->name != NULL && known->version != NULL && !text_failed(&key) &&
                   map_put(push->by_key, bytes, known, err) == OK;
    text_deinit(&key);
    if (!is_kept) {
        known_free(push, known);
        err_set(err, E_EXHAUSTED, "no memory");
        return NULL;
    }
    list_push(&push->known, &known->node);
    return known;
}

static void forget(struct push *push, struct known *known)
{
    struct text key;

    text_init(&key, RECORD_BYTES_MAX);
    struct slice bytes = key_of(&key, slice_of(known->name), slice_of(known->version));
    /* Without memory for the key it stays, as one that is not loaded. */
    if (!text_failed(&key) && map_remove(push->by_key, bytes) != NULL)
        known_free(push, known);
    text_deinit(&key);
}

static void tell_model(struct push *push, struct event *event)
{
    struct known *known = find(push, event->model, event->version);
    struct err err = { 0 };

    if (known == NULL && event->kind == PUSH_UNLOADED)
        return;
    if (known == NULL && (known = add(push, event->model, event->version, &err)) == NULL) {
        miss(push, &err);
        return;
    }
    const char *reason = known->reason != NULL ? known->reason : "";
    if (known->kind == event->kind && slice_is(event->reason, reason))
        return;
    known->kind = event->kind;
    known->since_ms = event->time_ms;
    known->is_high = false; /* what loads or goes has no queue; what is ready has an empty one */
    mem_free(known->reason);
    known->reason =
        event->reason.size == 0 ? NULL : mem_strndup(event->reason.data, event->reason.size);
    append(push, event);
    if (event->kind == PUSH_UNLOADED)
        forget(push, known);
}

/* Reasons quote files: what is not UTF-8 becomes '?', as protobuf's readers take no other string. */
static struct slice clean_text(char out[ERR_TEXT_MAX], struct slice text)
{
    size_t size = MIN(text.size, (size_t)ERR_TEXT_MAX), valid;

    if (size > 0)
        memcpy(out, text.data, size);
    while ((valid = utf8_valid_prefix(slice_make(out, size))) < size)
        out[valid] = '?';
    return slice_make(out, size);
}

void push_model(struct push *push, enum push_kind kind, struct slice model, struct slice version,
                struct slice reason)
{
    char clean[ERR_TEXT_MAX];
    struct event event = { .kind = kind,
                           .time_ms = now_ms(push),
                           .model = model,
                           .version = version,
                           .reason = clean_text(clean, reason) };

    require(kind >= PUSH_LOADING && kind <= PUSH_UNLOADED);
    pthread_mutex_lock(&push->lock);
    tell_model(push, &event);
    pthread_mutex_unlock(&push->lock);
}

void push_queue(struct push *push, struct slice model, struct slice version, bool is_high,
                uint64_t queued, uint64_t queue_max, uint64_t change)
{
    struct event event = { .kind = is_high ? PUSH_QUEUE_HIGH : PUSH_QUEUE_NORMAL,
                           .time_ms = now_ms(push),
                           .model = model,
                           .version = version,
                           .queued = queued,
                           .queue_max = queue_max };

    pthread_mutex_lock(&push->lock);
    struct known *known = find(push, model, version);
    if (known != NULL && change > known->queue_change) {
        known->queue_change = change;
        known->queued = queued;
        known->queue_max = queue_max;
        if (known->is_high != is_high) {
            known->is_high = is_high;
            known->queue_since_ms = event.time_ms;
            append(push, &event);
        }
    }
    pthread_mutex_unlock(&push->lock);
}

void push_server(struct push *push, enum push_kind kind)
{
    struct event event = { .kind = kind, .time_ms = now_ms(push) };

    require(kind == PUSH_SERVER_READY || kind == PUSH_SERVER_DRAINING);
    pthread_mutex_lock(&push->lock);
    if (push->server != kind && push->server != PUSH_SERVER_DRAINING) {
        push->server = kind;
        push->server_since_ms = event.time_ms;
        append(push, &event);
    }
    pthread_mutex_unlock(&push->lock);
}

void push_on_change(void *push, const struct repository_entry *entry)
{
    static const enum push_kind of[] = {
        [MODEL_UNKNOWN] = PUSH_UNLOADED,   [MODEL_LOADING] = PUSH_LOADING,
        [MODEL_READY] = PUSH_READY,        [MODEL_UNAVAILABLE] = PUSH_UNAVAILABLE,
        [MODEL_UNLOADING] = PUSH_UNLOADED,
    };

    push_model(push, of[entry->state], slice_of(entry->name), slice_of(entry->version),
               slice_of(entry->reason));
}

void push_on_queue(void *push, const char *model, const char *version, bool is_high,
                   uint32_t queued, uint32_t queue_max, uint64_t change)
{
    push_queue(push, slice_of(model), slice_of(version), is_high, queued, queue_max, change);
}

/* -- what is now --------------------------------------------------------------------------------- */

/* What slow readers hold on to is charged. */
static enum err_code charged_buf(const struct push *push, const struct text *text, struct buf **ret,
                                 struct err *err)
{
    if (text_failed(text))
        return err_set(err, E_EXHAUSTED, "no memory for what is now; retry later");
    TRY(buf_new(ret, push->settings.budget, text->size, err));
    memcpy(buf_fill(*ret), text->data, text->size);
    return OK;
}

static void put_known(struct text *out, const struct push *push, const struct known *known)
{
    struct event event = { .kind = known->kind,
                           .time_ms = known->since_ms,
                           .model = slice_of(known->name),
                           .version = slice_of(known->version),
                           .reason = slice_of(known->reason != NULL ? known->reason : ""),
                           .is_snapshot = true };

    put_record(out, push, &event);
    if (!known->is_high)
        return;
    event.kind = PUSH_QUEUE_HIGH;
    event.time_ms = known->queue_since_ms;
    event.reason = slice_make(NULL, 0);
    event.queued = known->queued;
    event.queue_max = known->queue_max;
    put_record(out, push, &event);
}

static enum err_code make_snapshot(struct push *push, uint64_t newest, struct err *err)
{
    struct event last = { .kind = push->server,
                          .time_ms = push->server_since_ms,
                          .sequence = push_sequence(push, newest),
                          .is_snapshot = true };
    struct text out;

    text_init(&out, SNAPSHOT_BYTES_MAX);
    for (struct list_node *node = list_first(&push->known); node != NULL;
         node = list_next(&push->known, node))
        put_known(&out, push, CONTAINER_OF(node, struct known, node));
    put_record(&out, push, &last);
    enum err_code code = charged_buf(push, &out, &push->snapshot, err);
    text_deinit(&out);
    return code;
}

enum err_code push_follow(struct push *push, struct event_reader *reader,
                          struct slice *ret_snapshot, struct buf **ret_holder, uint64_t *ret_missed,
                          uint64_t *ret_sequence, struct err *err)
{
    uint64_t oldest, newest;
    enum err_code code = OK;

    pthread_mutex_lock(&push->lock);
    event_log_range(push->log, &oldest, &newest);
    if (push->snapshot == NULL)
        code = make_snapshot(push, newest, err);
    if (code == OK)
        code = event_log_attach(push->log, reader, newest + 1, err);
    if (code == OK) {
        *ret_holder = buf_ref(push->snapshot);
        *ret_snapshot = buf_bytes(push->snapshot);
        *ret_missed = push_missed(push);
        *ret_sequence = push_sequence(push, newest);
    }
    pthread_mutex_unlock(&push->lock);
    return code;
}

enum err_code push_follow_after(struct push *push, struct event_reader *reader, uint64_t sequence,
                                uint64_t *ret_missed, struct err *err)
{
    uint64_t oldest, newest;
    enum err_code code = OK;

    pthread_mutex_lock(&push->lock);
    event_log_range(push->log, &oldest, &newest);
    if (sequence < push->base)
        code = err_set(err, E_RANGE,
                       "event %llu is of an earlier run of server '%s', or of none; this run has "
                       "%llu to %llu",
                       (unsigned long long)sequence, push->node,
                       (unsigned long long)push_sequence(push, oldest),
                       (unsigned long long)push_sequence(push, newest));
    else if (sequence - push->base + 1 < oldest || sequence - push->base > newest)
        code =
            err_set(err, E_RANGE, "what follows event %llu is not kept: there are %llu to %llu",
                    (unsigned long long)sequence, (unsigned long long)push_sequence(push, oldest),
                    (unsigned long long)push_sequence(push, newest));
    else
        code = event_log_attach(push->log, reader, sequence - push->base + 1, err);
    *ret_missed = push_missed(push);
    pthread_mutex_unlock(&push->lock);
    return code;
}

enum err_code push_attend(struct push *push, struct event_reader *reader, struct err *err)
{
    uint64_t oldest, newest;

    pthread_mutex_lock(&push->lock); /* nothing is appended meanwhile */
    event_log_range(push->log, &oldest, &newest);
    enum err_code code = event_log_attach(push->log, reader, newest + 1, err);
    pthread_mutex_unlock(&push->lock);
    return code;
}

void push_skip(struct event_reader *reader)
{
    enum event_read what;

    do {
        struct buf *holder = NULL;
        struct slice bytes;
        uint64_t number;
        uint32_t kind;
        what = event_log_read_shared(reader, &bytes, &holder, &kind, &number);
        buf_unref(&holder);
    } while (what == EVENT_READ_ONE || what == EVENT_READ_LOST);
}

uint64_t push_missed(struct push *push)
{
    return atomic_load_explicit(&push->missed_count, memory_order_relaxed);
}

enum err_code push_lost_new(struct push *push, uint64_t lost, const char *reason,
                            struct slice *ret_record, struct buf **ret_holder, struct err *err)
{
    struct event event = { .kind = PUSH_LOST,
                           .time_ms = now_ms(push),
                           .lost = lost,
                           .reason = slice_of(reason != NULL ? reason : "") };
    struct text out;

    text_init(&out, RECORD_BYTES_MAX);
    put_record(&out, push, &event);
    enum err_code code = charged_buf(push, &out, ret_holder, err);
    text_deinit(&out);
    if (code == OK)
        *ret_record = buf_bytes(*ret_holder);
    return code;
}

void push_count_lost(struct push *push, uint64_t events)
{
    atomic_fetch_add_explicit(&push->lost_count, events, memory_order_relaxed);
}
