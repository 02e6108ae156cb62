/* resume.c - SPDX-License-Identifier: Apache-2.0
 *
 * Three kinds of things. The table (struct resumables) finds a stream by the digest of its secret, so
 * that how long a look takes says nothing of a secret. A stream (struct resumable) belongs to the loop
 * that began it: its timer, its maker and everything that the maker is told run there. A follower is a
 * reader of the stream's log, an exchange or a WebSocket, on its own loop.
 *
 * One leaf mutex (below it only the log's own) guards the table, and of each stream what loops share: how
 * many read, since when nobody does, who feeds and with how much credit. What one loop has to tell
 * another is a message: inputs to the maker's loop, credit to the feeder's. A follower lives in its
 * exchange, whose references are its own loop's; so it is only posted to while it is attached, by a
 * message of its own, and one that leaves with that message on its way waits for it.
 *
 * Leaving the table (take_out) is done once, by whoever comes first: the timer, DELETE, the server's end.
 * Then the stream's own loop stops the work. Followers that are there read what there is.
 */
#include "api/resume.h"

#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "api/identity.h"
#include "api/reply.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/utf8.h"
#include "call/websocket.h"
#include "io/env.h"
#include "telemetry/metrics.h"

enum {
    SECRET_SIZE = IDENTITY_SECRET_MAX - 1,
    ID_MAX = NODE_NAME_MAX + 1 + SECRET_SIZE,
    NUMBER_MAX = 21, /* '.' and 20 digits */
    KIND_MESSAGES =
        1 << 30, /* of a record: messages, how many; else the size of the event's name */
    LOCATION_MAX = ID_MAX + 16,
    RETRY_MS = 1000,
    LAST_BYTES = 1024, /* kept of each stream's log for the event that says how it ended */
    LOOK_MIN_NS =
        100000000 /* between two looks at a stream that is read, however short it is kept */
};

struct digest {
    uint8_t bytes[SHA256_DIGEST_SIZE];
};

/* Of a stream that is over. */
struct tombstone {
    struct digest key;
    uint8_t identity[IDENTITY_BYTES];
};

struct resumables {
    struct resumables_settings settings;
    char node[NODE_NAME_MAX + 1];
    pthread_mutex_t lock;
    struct map *by_key;           /* digest -> struct resumable, one reference */
    struct tombstone *tombstones; /* owned; a ring */
    uint64_t tombstones_count, tombstone_next;
    bool is_draining;
    _Atomic uint64_t now, begun, expired, cancelled, refused, readers, resumed, waits, foreign;
};

struct follower;

struct resumable {
    atomic_uint refs;
    struct resumables *all; /* outlives it */
    struct loop *loop;
    char id[ID_MAX + 1];
    struct digest key;
    uint8_t identity[IDENTITY_BYTES];
    char *model; /* owned: which its readers and feeders must be allowed to run; NULL: any */
    uint64_t keep_ns;
    struct event_log *log;
    /* -- the maker's loop only -- */
    const struct resumable_user *user;
    void *user_data;
    uint64_t newest;
    struct timer expiry;
    struct loop_msg out_msg; /* it was taken out; one reference */
    /* -- under the table's lock -- */
    bool is_out;
    const char *why_out;
    uint32_t readers;
    uint64_t idle_since_ns;
    struct follower *feeder; /* NULL: nobody feeds */
    uint64_t credit;         /* inputs that the maker takes and nobody was asked for */
    bool was_fed;
    bool is_ended;     /* the maker has let go; its loop reads it without the lock */
    struct err status; /* how it ended, for calls. Set before the log is closed */
};

struct follower {
    struct event_reader reader;
    struct resumable *r; /* one reference */
    struct exchange *x;  /* one reference */
    struct call *call;   /* NULL: an exchange */
    struct loop_msg feed_msg;
    /* -- under the table's lock -- */
    bool is_posted;
    uint64_t asked; /* inputs that it was asked for and has not brought */
    /* -- its loop's -- */
    bool is_feeder; /* it was, at least */
    bool is_over;
    bool is_leaving;   /* over, and its message on its way */
    struct buf *first; /* read before it was clear that there is something to answer */
    struct slice first_bytes;
    uint32_t first_kind;
    uint64_t first_number;
    struct events events;
};

/* What a follower's loop tells the maker's. */
enum told { TOLD_INPUT, TOLD_ATTACHED, TOLD_CLOSED, TOLD_DRAIN };

struct notice {
    struct loop_msg msg;
    struct resumable *r; /* one reference */
    enum told what;
    struct resumable_input input; /* holder: one reference */
};

/* -- the table ---------------------------------------------------------------------------------- */

enum err_code resumables_new(struct resumables **ret, const struct resumables_settings *settings,
                             struct err *err)
{
    CLEANUP(resumables_free) struct resumables *all = mem_zalloc(sizeof *all);

    if (all == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for streams that are resumed");
    require(node_name_is_good(slice_of(settings->node)));
    pthread_mutex_init(&all->lock, NULL);
    all->settings = *settings;
    snprintf(all->node, sizeof all->node, "%s", settings->node);
    all->settings.node = all->node;
    all->by_key = map_new();
    all->tombstones = mem_zalloc((settings->streams_max + 1) * sizeof *all->tombstones);
    if (all->by_key == NULL || all->tombstones == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for streams that are resumed");
    *ret = TAKE(all);
    return OK;
}

enum err_code resumables_register(struct resumables *all, struct metrics *metrics, struct err *err)
{
    const struct {
        enum metric_kind kind;
        const char *name, *help;
        const _Atomic uint64_t *value;
    } rows[] = {
        { METRIC_GAUGE, "penstock_resume_streams", "Streams that can be resumed, those over too",
          &all->now },
        { METRIC_GAUGE, "penstock_resume_readers", "Readers of such streams", &all->readers },
        { METRIC_COUNTER, "penstock_resume_streams_total", "Streams begun that can be resumed",
          &all->begun },
        { METRIC_COUNTER, "penstock_resume_returns_total",
          "Readers who came to such a stream by its id", &all->resumed },
        { METRIC_COUNTER, "penstock_resume_expired_total",
          "Such streams dropped because nobody read them in time", &all->expired },
        { METRIC_COUNTER, "penstock_resume_cancelled_total",
          "Such streams cancelled by DELETE or the server's end", &all->cancelled },
        { METRIC_COUNTER, "penstock_resume_refused_total",
          "Streams refused because of --resume-streams-max", &all->refused },
        { METRIC_COUNTER, "penstock_resume_waits_total",
          "Times that such a stream waited for its readers (--resume-events-max, "
          "--resume-bytes-max)",
          &all->waits },
        { METRIC_COUNTER, "penstock_resume_foreign_total",
          "Requests for streams of another node (421)", &all->foreign },
    };

    for (size_t i = 0; i < COUNT(rows); i++)
        TRY(metrics_add(metrics, rows[i].kind, rows[i].name, rows[i].help, "", rows[i].value, 1,
                        err));
    return OK;
}

const char *resumables_node(const struct resumables *all)
{
    return all->node;
}

static void count(_Atomic uint64_t *value)
{
    atomic_fetch_add_explicit(value, 1, memory_order_relaxed);
}

static struct resumable *resumable_ref(struct resumable *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

static void resumable_unref(struct resumable **slot)
{
    struct resumable *r = TAKE(*slot);

    if (r == NULL || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    event_log_unref(&r->log);
    mem_free(r->model);
    mem_free(r);
}

void resumables_free(struct resumables **slot)
{
    struct resumables *all = TAKE(*slot);
    size_t at = 0;
    struct slice key;
    void *r;

    if (all == NULL)
        return;
    while (all->by_key != NULL && map_each(all->by_key, &at, &key, &r)) {
        struct resumable *held = r;
        resumable_unref(&held);
    }
    map_free(&all->by_key);
    mem_free(all->tombstones);
    pthread_mutex_destroy(&all->lock);
    mem_free(all);
}

static struct digest digest_of(struct slice secret)
{
    struct digest digest;
    struct sha256_ctx sha;

    sha256_init(&sha);
    sha256_update(&sha, secret.size, secret.data);
    sha256_digest(&sha, sizeof digest.bytes, digest.bytes);
    return digest;
}

static struct slice key_slice(const struct digest *digest)
{
    return slice_make(digest->bytes, sizeof digest->bytes);
}

/* -- leaving the table ---------------------------------------------------------------------------- */

static void run_out(struct loop_msg *msg);

/* Under the lock. False: somebody did already. The table's reference is the caller's. */
static bool take_out(struct resumable *r, const char *why)
{
    struct resumables *all = r->all;

    if (r->is_out)
        return false;
    r->is_out = true;
    r->why_out = why;
    (void)map_remove(all->by_key, key_slice(&r->key));
    atomic_store_explicit(&all->now, map_count(all->by_key), memory_order_relaxed);
    if (all->settings.streams_max > 0) {
        struct tombstone *stone = &all->tombstones[all->tombstone_next];
        all->tombstone_next = (all->tombstone_next + 1) % all->settings.streams_max;
        all->tombstones_count = MIN(all->tombstones_count + 1, all->settings.streams_max);
        stone->key = r->key;
        memcpy(stone->identity, r->identity, sizeof stone->identity);
    }
    return true;
}

/* From any loop; the reference goes along. */
static void post_out(struct resumable *r)
{
    r->out_msg.run = run_out;
    loop_post(r->loop, &r->out_msg);
}

/* What followers find as the last event of a stream that was cut off. */
static void put_cancelled(struct resumable *r)
{
    static const struct slice name = SLICE_LIT("error");
    char data[256];

    snprintf(data, sizeof data, "{\"error\":{\"code\":\"CANCELLED\",\"message\":\"%s\"}}",
             r->why_out);
    (void)resumable_put_last(r, name, slice_of(data));
}

/* The maker's loop; takes the reference. The maker is told, and lets go now or later. */
static void stop(struct resumable *r)
{
    struct err err = { 0 };

    timer_stop(r->loop, &r->expiry);
    if (!r->is_ended) {
        if (r->user->on_input == NULL) /* a session's callers find the status of its close */
            put_cancelled(r);
        err_set(&err, E_CANCELLED, "%s", r->why_out);
        pthread_mutex_lock(&r->all->lock);
        r->status = err;
        pthread_mutex_unlock(&r->all->lock);
        event_log_close(r->log);
        r->user->on_expired(r);
    }
    resumable_unref(&r);
}

static void run_out(struct loop_msg *msg)
{
    stop(CONTAINER_OF(msg, struct resumable, out_msg));
}

static const char nobody_came[] =
    "the stream was dropped: nobody read it for as long as it is kept";
static const char was_deleted[] = "the stream was cancelled by DELETE /streams/{id}";
static const char server_stops[] = "the server is stopping";

/* The timer looks: is it time? While somebody reads, it only comes again. */
static void on_expiry(struct timer *timer)
{
    struct resumable *r = CONTAINER_OF(timer, struct resumable, expiry);
    struct resumables *all = r->all;
    uint64_t now = loop_now_ns(r->loop), due;
    bool is_out = false;

    pthread_mutex_lock(&all->lock);
    due = r->readers > 0 ? now + MAX(r->keep_ns, (uint64_t)LOOK_MIN_NS)
                         : r->idle_since_ns + r->keep_ns;
    if (due <= now)
        is_out = take_out(r, nobody_came);
    pthread_mutex_unlock(&all->lock);
    if (!is_out && due > now && timer_start(r->loop, timer, due, NULL) == OK)
        return;
    if (!is_out) {
        pthread_mutex_lock(&all->lock);
        is_out = take_out(r, nobody_came);
        pthread_mutex_unlock(&all->lock);
    }
    if (!is_out)
        return; /* somebody else did, and posted */
    count(&all->expired);
    stop(r);
}

void resumables_drain(struct resumables *all)
{
    size_t at = 0;
    struct slice key;
    void *found;

    pthread_mutex_lock(&all->lock);
    all->is_draining = true;
    while (map_each(all->by_key, &at, &key, &found)) {
        struct resumable *r = found;
        if (r->readers > 0 || !take_out(r, server_stops))
            continue;
        count(&all->cancelled);
        post_out(r);
        at = 0; /* the map has changed */
    }
    pthread_mutex_unlock(&all->lock);
}

/* -- the maker's side ------------------------------------------------------------------------------- */

static void on_log_room(void *context)
{
    struct resumable *r = context;

    if (!r->is_ended && r->user->on_room != NULL)
        r->user->on_room(r);
}

/* "30", "2.5": in nanoseconds; false: it is no such number. */
static bool read_seconds(struct slice text, uint64_t *ret_ns)
{
    size_t dot = slice_find(text, '.');
    struct slice whole = slice_first(text, dot);
    struct slice part = slice_skip(text, MIN(dot + 1, text.size));
    uint64_t seconds = 0, ns = 0, unit = NS_PER_S;

    if (!slice_to_u64(whole, &seconds) || (dot < text.size && part.size == 0) || part.size > 9)
        return false;
    for (size_t i = 0; i < part.size; i++) {
        if (part.data[i] < '0' || part.data[i] > '9')
            return false;
        unit /= 10;
        ns += (uint64_t)(part.data[i] - '0') * unit;
    }
    *ret_ns = seconds > UINT64_MAX / NS_PER_S - 1 ? UINT64_MAX : seconds * NS_PER_S + ns;
    return true;
}

static struct slice query_value(struct slice query, const char *name)
{
    while (query.size > 0) {
        struct slice pair = slice_first(query, slice_find(query, '&'));
        size_t equals = slice_find(pair, '=');
        query = slice_skip(query, MIN(pair.size + 1, query.size));
        if (slice_is(slice_first(pair, equals), name))
            return slice_skip(pair, MIN(equals + 1, pair.size));
    }
    return slice_make(NULL, 0);
}

/* What a peer said, for an error: short, and UTF-8. */
static struct slice shown(struct slice text)
{
    text = slice_first(text, 80);
    return slice_first(text, utf8_valid_prefix(text));
}

enum err_code resume_asked(const struct exchange *x, const struct api *api, uint64_t *ret_ns,
                           struct err *err)
{
    struct slice text = query_value(x->query, "resume");
    const char *where = "'resume'";
    uint64_t ns = 0;

    if (text.data == NULL) {
        text = exchange_header(x, "x-resume");
        where = "header x-resume";
    }
    *ret_ns = 0;
    if (text.data == NULL)
        return OK;
    if (!read_seconds(text, &ns))
        return err_set(err, E_INVALID,
                       "%s is '%.*s'; it takes the seconds for which the stream is kept when its "
                       "connection breaks, as 60",
                       where, SLICE_ARG(shown(text)));
    if (ns > 0 && (api->resumables == NULL || api->resumables->settings.streams_max == 0))
        return err_set(err, E_UNIMPLEMENTED,
                       "%s: this server keeps no streams (--resume-streams-max is 0)", where);
    *ret_ns = ns == 0 ? 0 : MIN(ns, api->resumables->settings.time_ns);
    return OK;
}

void resume_slack(const struct api *api, uint64_t *ret_events, size_t *ret_bytes)
{
    const struct resumables_settings *s = &api->resumables->settings;

    *ret_events = MAX(s->events_max / 4, (uint64_t)1);
    *ret_bytes = MAX(s->bytes_max / 4, (size_t)1);
}

/* Into the table; under the lock. */
static enum err_code put_in(struct resumables *all, struct resumable *r, struct err *err)
{
    uint64_t most = all->settings.streams_max;

    if (all->is_draining)
        return err_set(err, E_UNAVAILABLE, "the server is stopping: no stream is begun any more");
    if (map_count(all->by_key) >= most) {
        count(&all->refused);
        err_set(err, E_EXHAUSTED,
                "%llu streams are kept already, which is the most (--resume-streams-max): call "
                "without `resume`, or later",
                (unsigned long long)most);
        err->retry_after_ms = RETRY_MS;
        return E_EXHAUSTED;
    }
    TRY(map_put(all->by_key, key_slice(&r->key), r, err));
    resumable_ref(r);
    atomic_store_explicit(&all->now, map_count(all->by_key), memory_order_relaxed);
    count(&all->begun);
    return OK;
}

enum err_code resumable_new(struct resumable **ret, const struct api *api,
                            struct exchange *began_by, uint64_t keep_ns,
                            const struct resumable_user *user, void *user_data, struct err *err)
{
    struct resumables *all = api->resumables;
    CLEANUP(resumable_unref) struct resumable *r = NULL;
    char secret[IDENTITY_SECRET_MAX];

    if (all == NULL || all->settings.streams_max == 0)
        return err_set(err, E_UNIMPLEMENTED,
                       "this server keeps no streams (--resume-streams-max is 0)");
    r = mem_zalloc(sizeof *r);
    if (r == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to keep the stream; retry later");
    atomic_init(&r->refs, 1);
    r->all = all;
    r->loop = began_by->loop;
    r->user = user;
    r->user_data = user_data;
    r->keep_ns = MIN(keep_ns, all->settings.time_ns);
    r->idle_since_ns = loop_now_ns(r->loop);
    r->expiry.on_due = on_expiry;
    identity_of(began_by, r->identity);
    if (began_by->note.model.size != 0) {
        r->model = mem_alloc(began_by->note.model.size + 1);
        if (r->model == NULL)
            return err_set(err, E_EXHAUSTED, "no memory to keep the stream; retry later");
        snprintf(r->model, began_by->note.model.size + 1, "%.*s", SLICE_ARG(began_by->note.model));
    }
    identity_secret(all->settings.env, secret);
    r->key = digest_of(slice_make(secret, SECRET_SIZE));
    snprintf(r->id, sizeof r->id, "%s.%s", all->node, secret);
    struct event_log_settings log = { .events_max = all->settings.events_max,
                                      .bytes_max = all->settings.bytes_max,
                                      .budget = all->settings.budget,
                                      .keeps_unread = true,
                                      .last_bytes = LAST_BYTES,
                                      .writer = r->loop,
                                      .on_room = on_log_room,
                                      .context = r };
    TRY(event_log_new(&r->log, &log, err));
    TRY(timer_start(r->loop, &r->expiry, r->idle_since_ns + r->keep_ns, err));
    pthread_mutex_lock(&all->lock);
    enum err_code code = put_in(all, r, err);
    pthread_mutex_unlock(&all->lock);
    if (code != OK) {
        timer_stop(r->loop, &r->expiry);
        return code;
    }
    *ret = TAKE(r);
    return OK;
}

void *resumable_user_data(const struct resumable *r)
{
    return r->user_data;
}

const char *resumable_id(const struct resumable *r)
{
    return r->id;
}

uint64_t resumable_newest(const struct resumable *r)
{
    return r->newest;
}

bool resumable_put(struct resumable *r, struct slice name, struct slice data)
{
    struct slice pieces[] = { name, data };

    require(name.size < KIND_MESSAGES);
    return event_log_append_pieces(r->log, (uint32_t)name.size, pieces, COUNT(pieces), &r->newest,
                                   NULL) == OK;
}

bool resumable_put_last(struct resumable *r, struct slice name, struct slice data)
{
    struct slice pieces[] = { name, data };

    require(name.size < KIND_MESSAGES);
    return event_log_append_last(r->log, (uint32_t)name.size, pieces, COUNT(pieces), &r->newest,
                                 NULL) == OK;
}

bool resumable_put_last_message(struct resumable *r, const struct resumable_message *message)
{
    uint64_t head = (uint64_t)message->bytes.size << 1 | message->is_text;
    struct slice pieces[] = { { (const uint8_t *)&head, sizeof head }, message->bytes };

    return event_log_append_last(r->log, KIND_MESSAGES | 1, pieces, COUNT(pieces), &r->newest,
                                 NULL) == OK;
}

enum { MESSAGES_MAX = 128 };

bool resumable_put_messages(struct resumable *r, const struct resumable_message *messages,
                            uint32_t count_of)
{
    struct slice pieces[2 * MESSAGES_MAX];
    uint64_t heads[MESSAGES_MAX];

    if (count_of > MESSAGES_MAX)
        return false;
    for (uint32_t i = 0; i < count_of; i++) {
        heads[i] = (uint64_t)messages[i].bytes.size << 1 | messages[i].is_text;
        pieces[2 * i] = slice_make(&heads[i], sizeof heads[i]);
        pieces[2 * i + 1] = messages[i].bytes;
    }
    return event_log_append_pieces(r->log, KIND_MESSAGES | count_of, pieces, 2 * count_of,
                                   &r->newest, NULL) == OK;
}

bool resumable_has_room(struct resumable *r)
{
    bool has = event_log_has_room(r->log);

    if (!has)
        count(&r->all->waits);
    return has;
}

void resumable_end_with(struct resumable **slot, const struct err *status)
{
    struct resumable *r = TAKE(*slot);

    if (r == NULL)
        return;
    require(loop_is_mine(r->loop) && !r->is_ended);
    pthread_mutex_lock(&r->all->lock);
    r->is_ended = true;
    if (status != NULL && status->code != OK && r->status.code == OK)
        r->status = *status;
    /* It is kept for so long from its end on, too. */
    if (r->readers == 0)
        r->idle_since_ns = loop_now_ns(r->loop);
    r->feeder = NULL;
    pthread_mutex_unlock(&r->all->lock);
    event_log_close(r->log);
    resumable_unref(&r);
}

void resumable_end(struct resumable **r)
{
    resumable_end_with(r, NULL);
}

/* -- what followers' loops tell the maker ---------------------------------------------------------- */

static void run_notice(struct loop_msg *msg)
{
    struct notice *n = CONTAINER_OF(msg, struct notice, msg);
    struct resumable *r = n->r;

    if (!r->is_ended) {
        switch (n->what) {
        case TOLD_INPUT: r->user->on_input(r, &n->input); break;
        case TOLD_ATTACHED:
            if (r->user->on_attached != NULL)
                r->user->on_attached(r);
            break;
        case TOLD_CLOSED:
            if (r->user->on_closed != NULL)
                r->user->on_closed(r);
            break;
        case TOLD_DRAIN:
            if (r->user->on_drain != NULL)
                r->user->on_drain(r);
            break;
        }
    }
    buf_unref(&n->input.holder);
    resumable_unref(&r);
    mem_free(n);
}

/* False: no memory. */
static bool tell(struct resumable *r, enum told what, const struct resumable_input *input)
{
    struct notice *n = mem_zalloc(sizeof *n);

    if (n == NULL)
        return false;
    n->msg.run = run_notice;
    n->r = resumable_ref(r);
    n->what = what;
    if (input != NULL) {
        n->input = *input;
        n->input.holder = buf_ref(input->holder);
    }
    loop_post(r->loop, &n->msg);
    return true;
}

/* -- followers -------------------------------------------------------------------------------------- */

static void run_feed(struct loop_msg *msg);

/* Its loop. The last of it: after this the exchange may go, and the follower with it. */
static void release(struct follower *f)
{
    struct resumable *r = TAKE(f->r);
    struct exchange *x = TAKE(f->x);

    resumable_unref(&r);
    exchange_unref(&x);
}

static void let_go(struct follower *f)
{
    struct resumable *r = f->r;
    struct resumables *all = r->all;
    bool is_out = false;

    f->is_over = true;
    event_log_detach(&f->reader);
    buf_unref(&f->first);
    atomic_fetch_sub_explicit(&all->readers, 1, memory_order_relaxed);
    pthread_mutex_lock(&all->lock);
    if (--r->readers == 0) {
        r->idle_since_ns = loop_now_ns(f->x->loop);
        is_out = all->is_draining && take_out(r, server_stops);
    }
    if (r->feeder == f) {
        r->feeder = NULL;
        r->credit += f->asked;
    }
    f->is_leaving = f->is_posted;
    pthread_mutex_unlock(&all->lock);
    if (is_out) {
        count(&all->cancelled);
        post_out(r);
    }
    if (!f->is_leaving)
        release(f);
}

static void finish(struct follower *f, const struct err *status)
{
    if (f->call != NULL)
        call_end(f->call, status, NULL);
    else if (status->code == OK || status->code == E_CANCELLED)
        events_end(&f->events);
    else {
        events_stop(&f->events);
        exchange_abort(f->x);
    }
    let_go(f);
}

static void finish_as(struct follower *f, enum err_code code, const char *why)
{
    struct err err = { 0 };

    if (code != OK)
        err_set(&err, code, "%s", why);
    finish(f, &err);
}

static size_t room(struct follower *f)
{
    return f->call != NULL ? call_room(f->call) : events_room(&f->events);
}

/* False: no memory, and the answer is cut off. */
static bool put_event(struct follower *f, uint64_t number, struct slice name, struct slice data)
{
    char id[ID_MAX + NUMBER_MAX + 1];
    int size = snprintf(id, sizeof id, "%s.%llu", f->r->id, (unsigned long long)number);

    return events_put(&f->events, slice_make(id, (size_t)size),
                      name.size > 0 ? name : slice_make(NULL, 0), data);
}

static void put_message(struct follower *f, struct slice bytes, bool is_text, struct buf *holder)
{
    struct call_piece piece = { bytes, holder };

    call_send_as(f->call, &piece, 1, (struct call_form){ .is_text = is_text });
}

static bool put_messages(struct follower *f, uint64_t number, uint32_t count_of, struct slice bytes,
                         struct buf *holder)
{
    bool is_put = true;

    for (uint32_t i = 0; i < count_of && is_put; i++) {
        uint64_t head;
        memcpy(&head, bytes.data, sizeof head);
        struct slice message = slice_first(slice_skip(bytes, sizeof head), (size_t)(head >> 1));
        bytes = slice_skip(bytes, sizeof head + message.size);
        if (f->call != NULL)
            put_message(f, message, (head & 1) != 0, holder);
        else if ((head & 1) != 0)
            is_put = put_event(f, number, slice_make(NULL, 0), message);
    }
    return is_put;
}

static void put_record(struct follower *f, uint64_t number, uint32_t kind, struct slice bytes,
                       struct buf *holder)
{
    bool is_put = true;

    if ((kind & KIND_MESSAGES) != 0) {
        is_put = put_messages(f, number, kind & ~(uint32_t)KIND_MESSAGES, bytes, holder);
    } else {
        struct slice name = slice_first(bytes, kind), data = slice_skip(bytes, kind);
        if (f->call != NULL)
            put_message(f, data, true, holder);
        else
            is_put = put_event(f, number, name, data);
    }
    if (!is_put)
        finish_as(f, E_EXHAUSTED, "no memory");
}

static void copy_status(struct resumable *r, struct err *ret)
{
    pthread_mutex_lock(&r->all->lock);
    *ret = r->status;
    pthread_mutex_unlock(&r->all->lock);
}

static void finish_at_end(struct follower *f)
{
    struct err err = { 0 };

    copy_status(f->r, &err);
    finish(f, &err);
}

static void pump(struct follower *f)
{
    while (!f->is_over && room(f) > 0) {
        struct buf *holder = TAKE(f->first);
        struct slice bytes = f->first_bytes;
        uint64_t number = f->first_number;
        uint32_t kind = f->first_kind;
        enum event_read what = EVENT_READ_ONE;
        if (holder == NULL)
            what = event_log_read_shared(&f->reader, &bytes, &holder, &kind, &number);
        switch (what) {
        case EVENT_READ_ONE:
            put_record(f, number, kind, bytes, holder);
            buf_unref(&holder);
            break;
        case EVENT_READ_NONE: return;
        case EVENT_READ_CLOSED: finish_at_end(f); return;
        case EVENT_READ_LOST: /* not while it is attached to a log that keeps what is unread */
            finish_as(f, E_DATA_LOSS, "events of the stream are gone");
            return;
        }
    }
}

static void on_more(struct event_reader *reader)
{
    pump(CONTAINER_OF(reader, struct follower, reader));
}

/* Attached, not yet answered. E_NOT_FOUND: no such event. */
static enum err_code follower_new(struct follower **ret, struct resumable *r, struct exchange *x,
                                  uint64_t after, struct err *err)
{
    struct follower *f = arena_zalloc(x->arena, sizeof *f);

    if (f == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to follow the stream; retry later");
    f->reader.loop = x->loop;
    f->reader.on_more = on_more;
    f->feed_msg.run = run_feed;
    if (after == UINT64_MAX)
        return err_set(err, E_NOT_FOUND, "there is no event behind number %llu",
                       (unsigned long long)after);
    TRY(event_log_attach(r->log, &f->reader, after + 1, err));
    f->r = resumable_ref(r);
    f->x = exchange_ref(x);
    pthread_mutex_lock(&r->all->lock);
    r->readers++;
    pthread_mutex_unlock(&r->all->lock);
    atomic_fetch_add_explicit(&r->all->readers, 1, memory_order_relaxed);
    *ret = f;
    return OK;
}

/* -- exchanges that follow --------------------------------------------------------------------------- */

static void on_exchange_room(struct exchange *x)
{
    struct follower *f = x->user_data;

    if (!f->is_over)
        pump(f);
}

static void on_exchange_gone(struct exchange *x)
{
    struct follower *f = x->user_data;

    if (f->is_over)
        return;
    events_stop(&f->events);
    let_go(f);
}

static const struct exchange_user exchange_user = { .on_room = on_exchange_room,
                                                    .on_gone = on_exchange_gone };

static void answer_events(struct follower *f, const struct api *api, enum events_form form,
                          const struct header *more, uint32_t more_count)
{
    struct exchange *x = f->x;
    struct header headers[EVENTS_HEADERS_MAX];
    char *location = arena_printf(x->arena, "/streams/%s", f->r->id);
    uint32_t at = 0;

    require(more_count + 2 <= EVENTS_HEADERS_MAX);
    for (uint32_t i = 0; i < more_count; i++)
        headers[at++] = more[i];
    headers[at++] = (struct header){ SLICE_LIT("x-node"), slice_of(f->r->all->node) };
    if (location != NULL)
        headers[at++] = (struct header){ SLICE_LIT("location"), slice_of(location) };
    x->user = &exchange_user;
    x->user_data = f;
    events_begin(&f->events, x, form, api->stream_heartbeat_ns, headers, at);
    if (f->events.is_over) /* no memory to begin with */
        let_go(f);
    else if (x->is_head)
        finish_as(f, OK, "");
    else
        pump(f);
}

void resumable_follow(struct resumable *r, struct exchange *x, const struct api *api,
                      enum events_form form, const struct header *more, uint32_t more_count)
{
    struct follower *f = NULL;
    struct err err = { 0 };

    if (follower_new(&f, r, x, 0, &err) != OK)
        api_fail(x, api_dialect_of_path(x->path), 0, &err);
    else
        answer_events(f, api, form, more, more_count);
}

/* -- calls that follow, and feed ---------------------------------------------------------------------- */

static const char taken_over[] = "another connection took this stream over";

/* Its loop: there is credit, or another feeds, or it is over and this was the last. */
static void run_feed(struct loop_msg *msg)
{
    struct follower *f = CONTAINER_OF(msg, struct follower, feed_msg);
    uint64_t credit = 0;

    pthread_mutex_lock(&f->r->all->lock);
    f->is_posted = false;
    bool is_feeder = f->r->feeder == f, is_ended = f->r->is_ended;
    if (is_feeder) {
        credit = f->r->credit;
        f->r->credit = 0;
        f->asked += credit;
    }
    pthread_mutex_unlock(&f->r->all->lock);
    if (f->is_leaving) {
        release(f);
        return;
    }
    if (f->is_over)
        return;
    if (!is_feeder && !is_ended) {
        finish_as(f, E_ABORTED, taken_over);
        return;
    }
    for (; credit > 0; credit--)
        call_read(f->call);
}

/* Under the lock, from any loop. */
static void post_feed(struct follower *f)
{
    if (f->is_posted)
        return;
    f->is_posted = true;
    loop_post(f->reader.loop, &f->feed_msg);
}

static void take_feeding(struct follower *f)
{
    struct resumable *r = f->r;

    pthread_mutex_lock(&r->all->lock);
    struct follower *before = r->feeder;
    bool was_fed = r->was_fed;
    if (before != NULL) {
        r->credit += before->asked;
        before->asked = 0;
        post_feed(before);
    }
    r->feeder = f;
    r->was_fed = true;
    if (r->credit > 0)
        post_feed(f);
    pthread_mutex_unlock(&r->all->lock);
    f->is_feeder = true;
    if (was_fed)
        (void)tell(r, TOLD_ATTACHED, NULL);
}

/* Is it still the one that feeds? Then this input is one of those it was asked for. */
static bool count_input(struct follower *f)
{
    pthread_mutex_lock(&f->r->all->lock);
    bool is_feeder = f->r->feeder == f && f->asked > 0;
    f->asked -= is_feeder;
    pthread_mutex_unlock(&f->r->all->lock);
    return is_feeder;
}

/* By the rules of now and by what this connection showed, which may be another key than the one that began:
 * that one may be long gone. */
static enum err_code may_run(const struct resumable *r, struct exchange *x, struct err *err)
{
    return api_may(x, ACCESS_INFER, slice_of("models"), slice_of(r->model == NULL ? "" : r->model),
                   err);
}

static void on_call_message(struct call *call, const struct call_message *message)
{
    struct follower *f = call->user_data;
    struct resumable_input input = { .bytes = message->bytes, .is_text = message->is_text };
    struct buf *copy = NULL;

    if (f->is_over)
        return;
    if (!f->is_feeder) {
        finish_as(f, E_INVALID, "this stream takes no messages: it is only read");
        return;
    }
    struct err err = { 0 };
    if (UNLIKELY(may_run(f->r, f->x, &err) != OK)) {
        finish(f, &err); /* the stream waits for who may go on */
        return;
    }
    if (!count_input(f))
        return; /* another feeds, and this one is about to be told */
    input.holder = message->holder;
    if (input.holder == NULL && message->bytes.size > 0) {
        if (buf_new(&copy, call->x->budget, message->bytes.size, NULL) != OK) {
            finish_as(f, E_EXHAUSTED, "no memory for the message; retry later");
            return;
        }
        memcpy(buf_fill(copy), message->bytes.data, message->bytes.size);
        input.bytes = buf_bytes(copy);
        input.holder = copy;
    }
    bool is_told = tell(f->r, TOLD_INPUT, &input);
    buf_unref(&copy);
    if (!is_told)
        finish_as(f, E_EXHAUSTED, "no memory for the message; retry later");
}

static void on_call_close(struct call *call)
{
    struct follower *f = call->user_data;

    if (!f->is_over && f->is_feeder)
        (void)tell(f->r, TOLD_CLOSED, NULL);
}

static void on_call_room(struct call *call)
{
    struct follower *f = call->user_data;

    if (!f->is_over)
        pump(f);
}

static void on_call_gone(struct call *call, enum err_code why UNUSED)
{
    struct follower *f = call->user_data;

    if (!f->is_over)
        let_go(f);
}

static void on_call_drain(struct call *call)
{
    struct follower *f = call->user_data;

    if (!f->is_over && f->is_feeder)
        (void)tell(f->r, TOLD_DRAIN, NULL);
}

static const struct call_user call_user = {
    .on_message = on_call_message,
    .on_half_close = on_call_close,
    .on_room = on_call_room,
    .on_gone = on_call_gone,
    .on_drain = on_call_drain,
};

static void follow_call(struct follower *f, struct call *call)
{
    f->call = call;
    call->user = &call_user;
    call->user_data = f;
    if (f->r->user->on_input != NULL)
        take_feeding(f);
    else
        call_read(call); /* so that its Close is seen */
    pump(f);
}

enum err_code resumable_attach_call(struct resumable *r, struct call *call, uint64_t after,
                                    struct err *err)
{
    struct follower *f = NULL;

    require(loop_is_mine(r->loop) && call->carrier == CALL_WEBSOCKET);
    TRY(follower_new(&f, r, call->x, after, err));
    follow_call(f, call);
    return OK;
}

void resumable_read(struct resumable *r)
{
    require(loop_is_mine(r->loop));
    pthread_mutex_lock(&r->all->lock);
    r->credit++;
    if (r->feeder != NULL)
        post_feed(r->feeder);
    pthread_mutex_unlock(&r->all->lock);
}

/* -- /streams/{id} ------------------------------------------------------------------------------------ */

static const char id_form[] = "<node>.<32 hexadecimal digits>";

/* Splits "<node>.<secret>"; false: it is no id. */
static bool split_id(struct slice id, struct slice *ret_node, struct slice *ret_secret)
{
    if (id.size < SECRET_SIZE + 2 || id.size > ID_MAX)
        return false;
    *ret_node = slice_first(id, id.size - SECRET_SIZE - 1);
    *ret_secret = slice_skip(id, id.size - SECRET_SIZE);
    for (size_t i = 0; i < SECRET_SIZE; i++) {
        uint8_t c = ret_secret->data[i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return false;
    }
    return id.data[ret_node->size] == '.' && node_name_is_good(*ret_node);
}

static void fail_foreign(struct exchange *x, struct slice id, struct slice node,
                         const struct resumables *all)
{
    struct header headers[] = { { SLICE_LIT("x-stream-node"), node },
                                { SLICE_LIT("x-node"), slice_of(all->node) } };
    struct text body;
    struct err err = { 0 };

    err_set(&err, E_PRECONDITION, "stream %.*s is with node '%.*s', and this is '%s': ask that one",
            SLICE_ARG(id), SLICE_ARG(node), all->node);
    text_init_arena(&body, x->arena, 256);
    text_str(&body, "{\"error\":{\"code\":\"FAILED_PRECONDITION\",\"message\":");
    text_json(&body, slice_of(err.text));
    text_str(&body, ",\"node\":");
    text_json(&body, node);
    text_str(&body, "}}\n");
    if (text_failed(&body))
        api_fail(x, DIALECT_TYPED, 421, &err);
    else
        exchange_answer(x, 421, "application/json", headers, COUNT(headers), text_slice(&body),
                        NULL);
}

static bool is_buried(const struct resumables *all, const struct digest *key,
                      const uint8_t identity[IDENTITY_BYTES])
{
    for (uint64_t i = 0; i < all->tombstones_count; i++)
        if (identity_is(all->tombstones[i].key.bytes, key->bytes) &&
            identity_is(all->tombstones[i].identity, identity))
            return true;
    return false;
}

/* Finds the stream, with one reference, or answers why not and gives NULL. */
static struct resumable *find(struct exchange *x, const struct route_match *match)
{
    struct resumables *all = match->api->resumables;
    struct slice id = match->params[0], node, secret;
    uint8_t identity[IDENTITY_BYTES];
    struct err err = { 0 };
    bool is_over = false;

    if (!split_id(id, &node, &secret)) {
        err_set(&err, E_INVALID,
                "'%.*s' is no id of a stream: it is %s, as in the header `location` "
                "of the call that began it",
                SLICE_ARG(shown(id)), id_form);
        api_fail(x, DIALECT_TYPED, 0, &err);
        return NULL;
    }
    if (all == NULL || !slice_is(node, all->node)) {
        if (all != NULL) {
            count(&all->foreign);
            fail_foreign(x, id, node, all);
            return NULL;
        }
        err_set(&err, E_UNIMPLEMENTED, "this server keeps no streams (--resume-streams-max is 0)");
        api_fail(x, DIALECT_TYPED, 0, &err);
        return NULL;
    }
    struct digest key = digest_of(secret);
    identity_of(x, identity);
    pthread_mutex_lock(&all->lock);
    struct resumable *r = map_get(all->by_key, key_slice(&key));
    if (r != NULL && identity_is(r->identity, identity) && identity_is(r->key.bytes, key.bytes)) {
        resumable_ref(r);
    } else {
        r = NULL;
        is_over = is_buried(all, &key, identity);
    }
    pthread_mutex_unlock(&all->lock);
    if (r != NULL)
        return r;
    if (is_over)
        err_set(
            &err, E_PRECONDITION,
            "stream %.*s is gone: it was cancelled, or nobody read it for as long as it was kept",
            SLICE_ARG(id));
    else
        err_set(&err, E_NOT_FOUND,
                "there is no stream %.*s: it may have been gone for long, or began with other "
                "credentials",
                SLICE_ARG(id));
    api_fail(x, DIALECT_TYPED, is_over ? 410 : 0, &err);
    return NULL;
}

/* Where a reader was: the number, or the whole id of an event. */
static enum err_code read_after(struct exchange *x, const struct resumable *r, uint64_t *ret,
                                struct err *err)
{
    struct slice text = exchange_header(x, "last-event-id");
    const char *what = "last-event-id";
    size_t size = strlen(r->id);

    *ret = 0;
    if (text.size == 0) {
        text = query_value(x->query, "after");
        what = "'after'";
    }
    if (text.size == 0)
        return OK;
    struct slice number = text;
    if (slice_starts(text, r->id) && text.size > size && text.data[size] == '.')
        number = slice_skip(text, size + 1);
    else if (slice_find(text, '.') < text.size)
        return err_set(err, E_INVALID, "%s is '%.*s', which is no event of stream %s", what,
                       SLICE_ARG(shown(text)), r->id);
    if (!slice_to_u64(number, ret))
        return err_set(err, E_INVALID,
                       "%s is '%.*s': it takes the number of the last event that was read, or that "
                       "event's id",
                       what, SLICE_ARG(shown(text)));
    return OK;
}

/* Gone from the log is 410, not there yet 400. */
static void fail_number(struct exchange *x, const struct resumable *r, uint64_t after,
                        const struct err *err)
{
    struct err told = *err;
    uint64_t oldest, newest;

    event_log_range(r->log, &oldest, &newest);
    if (err->code == E_NOT_FOUND) /* the log's word; the stream was found */
        told.code = E_RANGE;
    api_fail(x, DIALECT_TYPED, err->code != E_NOT_FOUND ? 0 : after < oldest ? 410 : 400, &told);
}

static void follow_websocket(struct follower *f, const struct api *api)
{
    static const char *const protocols[] = { "penstock.v1", "penstock.v1.json", "penstock.v1.proto",
                                             NULL };
    const char *protocol = NULL;
    struct call *call = websocket_accept(f->x, &api->websocket, protocols, &protocol);

    if (call == NULL)
        let_go(f);
    else
        follow_call(f, call);
}

/* Reads the first event, so that a stream which is over and was read to its end is 204: that stops
 * those who come back by themselves (WHATWG HTML, 9.2.3). */
static bool is_read_to_its_end(struct follower *f)
{
    return event_log_read_shared(&f->reader, &f->first_bytes, &f->first, &f->first_kind,
                                 &f->first_number) == EVENT_READ_CLOSED;
}

static void answer_end(struct follower *f)
{
    struct exchange *x = f->x;
    struct err err = { 0 };

    copy_status(f->r, &err);
    if (err.code == OK)
        exchange_answer(x, 204, NULL, NULL, 0, slice_make("", 0), NULL);
    else
        api_fail(x, DIALECT_TYPED, 0, &err);
    let_go(f);
}

static void handle_get(struct exchange *x, const struct route_match *match)
{
    CLEANUP(resumable_unref) struct resumable *r = find(x, match);
    enum events_form form = EVENTS_SSE;
    struct follower *f = NULL;
    struct err err = { 0 };
    uint64_t after = 0;

    if (r == NULL)
        return;
    if (may_run(r, x, &err) != OK || read_after(x, r, &after, &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    if (follower_new(&f, r, x, after, &err) != OK) {
        fail_number(x, r, after, &err);
        return;
    }
    count(&r->all->resumed);
    if (websocket_is_asked(x)) {
        follow_websocket(f, match->api);
        return;
    }
    if (is_read_to_its_end(f)) {
        answer_end(f);
        return;
    }
    if (!events_wanted(exchange_header(x, "accept"), &form))
        form = EVENTS_SSE;
    answer_events(f, match->api, form, NULL, 0);
}

static void handle_delete(struct exchange *x, const struct route_match *match)
{
    CLEANUP(resumable_unref) struct resumable *r = find(x, match);

    if (r == NULL)
        return;
    pthread_mutex_lock(&r->all->lock);
    bool is_out = take_out(r, was_deleted);
    pthread_mutex_unlock(&r->all->lock);
    if (is_out) {
        count(&r->all->cancelled);
        post_out(r);
    }
    exchange_answer(x, 204, NULL, NULL, 0, slice_make("", 0), NULL);
}

static const struct route routes[] = {
    { 1u << METHOD_GET, "/streams/{id}", handle_get, DIALECT_TYPED, ACCESS_INFER, "models" },
    { 1u << METHOD_DELETE, "/streams/{id}", handle_delete, DIALECT_TYPED, ACCESS_INFER, "models" },
};

const struct route_table resume_routes = { routes, COUNT(routes) };
