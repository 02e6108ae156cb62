/* otlp.c - SPDX-License-Identifier: Apache-2.0
 *
 * Two batches: one is filled while the other is on its way. While that one is tried again and again and the
 * first is full, records stay in their rings, and those drop what comes: so a collector that is away costs
 * two batches and the rings, and the loops no more than a count.
 *
 * The thread sleeps in its loop's epoll. The first record after nothing wakes it (ring.h), and it then looks
 * once a second for as long as something comes: batches are of a second, or of BATCH_BYTES.
 */
#include "serve/otlp.h"

#include <stdatomic.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "codec/compress.h"
#include "engine/stats.h"
#include "io/loop.h"
#include "serve/observe_record.h"
#include "telemetry/metrics.h"

enum {
    BATCH_BYTES = 512 * 1024,
    BATCH_MS = 1000,
    BACKOFF_MS = 500,        /* before the second try; then twice as long, with chance */
    BACKOFF_MS_MAX = 15000,
    RETRY_AFTER_S_MAX = 30,  /* of what a collector may ask for */
    TRY_MS_MAX = 60000,      /* of one batch, from its first try */
    ANSWER_BYTES_MAX = 64 * 1024
};

struct otlp {
    struct env *env;
    struct otlp_settings settings;
    struct rings rings;
    struct worker *worker;
    struct loop *loop;
    struct loop_msg wake_msg;
    _Atomic bool is_posted, must_stop;
    /* the thread's; anybody reads */
    _Atomic uint64_t exported, failed, rejected, batches_sent, batches_failed, retries;
    /* -- the thread's own -- */
    struct otlp_batch batches[2];
    struct otlp_batch *filling;
    struct otlp_batch *sending; /* NULL: none is on its way */
    struct slice message;       /* of `sending` */
    struct buf *packed;         /* owned: it compressed */
    struct client_pool *pool;   /* owned; NULL: not made yet, or stale */
    struct client_exchange *asked;
    struct timer batch_timer, retry_timer, stop_timer;
    struct loop_task task; /* what may not be done in a callback of the pool */
    uint64_t filled_ns;    /* since when `filling` has something */
    uint64_t begun_ns, backoff_ns;
    bool is_stale;   /* the pool: its server was not reached, and may have another address by now */
    bool is_stopping, is_failing, wants_retry, may_sleep;
};

static void tick(struct otlp *o);

/* -- on the server's loops ------------------------------------------------------------------------ */

static HOT void on_exchange(void *context, const struct observed *seen)
{
    struct otlp *o = context;

    if (seen->x->trace.is_sampled && !span_is_zero(seen->x->trace.span_id))
        observe_record(&o->rings, seen, NULL, true);
}

struct observer otlp_observer(struct otlp *o)
{
    return (struct observer){ .on_exchange = on_exchange, .context = o };
}

static void wake(void *context)
{
    struct otlp *o = context;

    if (!atomic_exchange(&o->is_posted, true))
        loop_post(o->loop, &o->wake_msg);
}

/* -- what became of a batch ------------------------------------------------------------------------ */

static void let_go(struct otlp *o)
{
    buf_unref(&o->packed);
    otlp_batch_reset(o->sending);
    o->sending = NULL;
    o->wants_retry = false;
}

COLD static void give_up(struct otlp *o, const char *why)
{
    stat_add(&o->failed, o->sending->records);
    stat_add(&o->batches_failed, 1);
    if (!o->is_failing)
        log_warn("spans cannot be sent to %s%s: %s; they are dropped and counted "
                 "(penstock_otlp_exchanges_total)",
                 o->settings.url, o->settings.target, why);
    o->is_failing = true;
    let_go(o);
}

static void succeed(struct otlp *o, const struct answer *answer)
{
    uint64_t rejected;
    struct slice why;

    if (otlp_answer_read(answer->body, &rejected, &why) && rejected != 0) {
        stat_add(&o->rejected, rejected);
        log_warn("the collector at %s rejected %llu spans: %.*s", o->settings.url,
                 (unsigned long long)rejected, SLICE_ARG(slice_first(why, 200)));
    }
    stat_add(&o->exported, o->sending->records);
    stat_add(&o->batches_sent, 1);
    if (o->is_failing)
        log_info("spans are sent to %s again", o->settings.url);
    o->is_failing = false;
    let_go(o);
}

/* Between half of it and all of it: several servers do not come back at the same moment. */
static uint64_t with_chance(struct otlp *o, uint64_t ns)
{
    uint32_t chance;

    o->env->random(o->env, &chance, sizeof chance);
    return ns / 2 + (uint64_t)((double)ns / 2 * chance / UINT32_MAX);
}

COLD static void try_later(struct otlp *o, uint64_t asked_ns, const char *why)
{
    uint64_t now = loop_now_ns(o->loop), wait = asked_ns;

    if (wait == 0) {
        wait = with_chance(o, o->backoff_ns);
        o->backoff_ns = MIN(2 * o->backoff_ns, BACKOFF_MS_MAX * NS_PER_MS);
    }
    if (o->is_stopping || now + wait - o->begun_ns > TRY_MS_MAX * NS_PER_MS ||
        timer_start(o->loop, &o->retry_timer, now + wait, NULL) != OK) {
        give_up(o, why);
        return;
    }
    o->wants_retry = true;
    stat_add(&o->retries, 1);
    if (!o->is_failing)
        log_warn("spans cannot be sent to %s%s now: %s; it is tried again", o->settings.url,
                 o->settings.target, why);
    o->is_failing = true;
}

/* Seconds only: a date would need the collector's clock to be ours. */
static uint64_t retry_after(const struct answer *answer)
{
    uint64_t seconds;
    struct slice value = answer_header(answer, "retry-after");

    if (value.data == NULL || !slice_to_u64(value, &seconds) || seconds == 0)
        return 0;
    return MIN(seconds, (uint64_t)RETRY_AFTER_S_MAX) * NS_PER_S;
}

static void on_end(struct client_exchange *x, const struct err *why)
{
    struct otlp *o = client_exchange_data(x);
    const struct answer *answer = client_exchange_answer(x);
    char text[64];

    o->asked = NULL;
    if (why->code != OK) {
        o->is_stale = why->code == E_UNAVAILABLE;
        try_later(o, 0, why->text);
    } else if (answer->status >= 200 && answer->status < 300) {
        succeed(o, answer);
    } else {
        snprintf(text, sizeof text, "the collector answers %u", answer->status);
        switch (answer->status) {
        case 429:
        case 502:
        case 503:
        case 504: try_later(o, retry_after(answer), text); break;
        default: give_up(o, text); break;
        }
    }
    loop_defer(o->loop, &o->task);
}

/* -- sending --------------------------------------------------------------------------------------- */

static enum err_code ready_pool(struct otlp *o, struct err *err)
{
    struct client_pool_settings settings = {
        .url = o->settings.url,
        .protocol = CLIENT_HTTP1,
        .connections_max = 1,
        .connect_timeout_ns = o->settings.timeout_ns,
        .backoff_min_ns = 1, /* when to try again is said here */
        .backoff_max_ns = 1,
        .limits = { .body_bytes_max = ANSWER_BYTES_MAX },
        .tls = o->settings.tls,
    };

    if (o->is_stale)
        client_pool_free(&o->pool);
    o->is_stale = false;
    return o->pool != NULL ? OK : client_pool_new(&o->pool, o->loop, &settings, err);
}

static enum err_code ask(struct otlp *o, struct err *err)
{
    static const struct client_exchange_user user = { .on_end = on_end };
    struct client_header headers[OTLP_HEADERS_MAX + 2];
    uint32_t count = 0;

    headers[count++] = (struct client_header){ "content-type", "application/x-protobuf" };
    if (o->packed != NULL)
        headers[count++] = (struct client_header){ "content-encoding", "gzip" };
    for (uint32_t i = 0; i < MIN(o->settings.headers_count, (uint32_t)OTLP_HEADERS_MAX); i++)
        headers[count++] = o->settings.headers[i];
    struct client_ask ask = {
        .request = { .method = "POST",
                     .target = o->settings.target,
                     .headers = headers,
                     .headers_count = count,
                     .body = o->packed != NULL ? buf_bytes(o->packed) : o->message },
        .due_ns = loop_refresh_ns(o->loop) + o->settings.timeout_ns,
        .user = &user,
        .user_data = o,
    };
    TRY(ready_pool(o, err));
    return client_pool_ask(o->pool, &ask, &o->asked, err);
}

static void send_batch(struct otlp *o)
{
    struct err err = { 0 };

    o->wants_retry = false;
    timer_stop(o->loop, &o->retry_timer);
    if (ask(o, &err) == OK)
        return;
    o->is_stale = o->pool != NULL;
    try_later(o, 0, err.text);
}

static void begin_batch(struct otlp *o)
{
    o->sending = o->filling;
    o->filling = &o->batches[o->filling == &o->batches[0]];
    o->message = otlp_batch_seal(o->sending);
    o->begun_ns = loop_now_ns(o->loop);
    o->backoff_ns = BACKOFF_MS * NS_PER_MS;
    /* What cannot be compressed for want of memory is sent as it is. */
    if (o->settings.has_gzip)
        (void)!compress_deflate(&o->packed, NULL, ENCODING_GZIP, &o->message, 1, NULL);
    send_batch(o);
}

/* Spans of what there is. True: the batch is full. */
static bool fill(struct otlp *o, bool *ret_worked)
{
    const void *record;
    size_t size;
    uint64_t now = loop_refresh_ns(o->loop);

    o->filling->wall_offset_ns = o->env->wall_ns(o->env) - now;
    while ((record = rings_next(&o->rings, &size)) != NULL) {
        if (!otlp_batch_add(o->filling, record))
            return true;
        if (o->filling->records == 1)
            o->filled_ns = now;
        rings_done(&o->rings);
        *ret_worked = true;
    }
    return false;
}

static bool is_done(const struct otlp *o)
{
    return o->sending == NULL && o->filling->records == 0;
}

/* Does all that can be done now, and says when to go on. */
static void tick(struct otlp *o)
{
    bool has_worked = false, is_full = true, is_idle;
    uint64_t now = loop_now_ns(o->loop), due;

    for (;;) {
        is_full = fill(o, &has_worked);
        now = loop_now_ns(o->loop);
        due = o->filled_ns + BATCH_MS * NS_PER_MS;
        if (o->sending != NULL || o->filling->records == 0 ||
            (!is_full && !o->is_stopping && now < due))
            break;
        begin_batch(o);
        if (!is_full)
            break;
    }
    if (o->is_stopping) {
        if (is_done(o))
            loop_stop(o->loop);
        return;
    }
    if (o->filling->records == 0 && !has_worked) {
        if (!rings_may_sleep(&o->rings, false, &is_idle))
            wake(o);
        return; /* woken by the next record, or by what becomes of the batch */
    }
    /* A full batch behind one that is on its way waits for that, with nobody woken. */
    if (!is_full)
        (void)!rings_may_sleep(&o->rings, true, &is_idle);
    if (timer_start(o->loop, &o->batch_timer, MAX(now + 1, MIN(due, now + BATCH_MS * NS_PER_MS)),
                    NULL) != OK)
        wake(o); /* no memory for a timer: at once, which costs time and nothing else */
}

static void on_wake(struct loop_msg *msg)
{
    struct otlp *o = CONTAINER_OF(msg, struct otlp, wake_msg);

    atomic_store(&o->is_posted, false);
    rings_awake(&o->rings);
    if (atomic_load(&o->must_stop) && !o->is_stopping) {
        o->is_stopping = true;
        (void)!timer_start(o->loop, &o->stop_timer,
                           loop_refresh_ns(o->loop) + OTLP_STOP_MS * NS_PER_MS, NULL);
        if (o->sending != NULL && o->wants_retry) /* once more, now */
            send_batch(o);
    }
    tick(o);
}

static void on_batch_due(struct timer *timer)
{
    struct otlp *o = CONTAINER_OF(timer, struct otlp, batch_timer);

    rings_awake(&o->rings);
    tick(o);
}

static void on_retry(struct timer *timer)
{
    struct otlp *o = CONTAINER_OF(timer, struct otlp, retry_timer);

    if (o->sending != NULL && o->asked == NULL)
        send_batch(o);
    tick(o);
}

static void on_stop_due(struct timer *timer)
{
    loop_stop(CONTAINER_OF(timer, struct otlp, stop_timer)->loop);
}

static void on_task(struct loop_task *task)
{
    tick(CONTAINER_OF(task, struct otlp, task));
}

static void exporter(void *arg)
{
    struct otlp *o = arg;
    uint64_t left = 0;
    size_t size;

    loop_run(o->loop);
    client_pool_free(&o->pool);
    for (unsigned i = 0; i < 2; i++)
        left += o->batches[i].records;
    while (rings_next(&o->rings, &size) != NULL) {
        left++;
        rings_done(&o->rings);
    }
    if (left != 0)
        log_warn("the spans of %llu requests were not sent to %s before the end",
                 (unsigned long long)left, o->settings.url);
}

/* -- life ------------------------------------------------------------------------------------------- */

static enum err_code prepare(struct otlp *o, struct err *err)
{
    const struct otlp_settings *settings = &o->settings;
    struct env *env = o->env;
    uint64_t chance;
    struct url url;

    TRY(url_parse(&url, slice_of(settings->url), err));
    TRY(rings_init(&o->rings, settings->loops_count, settings->ring_bytes, wake, o, err));
    for (unsigned i = 0; i < 2; i++) {
        env->random(env, &chance, sizeof chance);
        TRY(otlp_batch_init(&o->batches[i], BATCH_BYTES, settings->resource,
                            settings->resource_count, slice_of(settings->version), stage_names,
                            chance, err));
    }
    TRY(loop_new(&o->loop, env, 0, err));
    return env->worker_start(env, &o->worker, "otlp", exporter, o, err);
}

enum err_code otlp_open(struct otlp **ret, struct env *env, const struct otlp_settings *settings,
                        struct err *err)
{
    struct otlp *o = mem_aligned(64, sizeof *o);

    if (o == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to export spans");
    memset(o, 0, sizeof *o);
    o->env = env;
    o->settings = *settings;
    o->filling = &o->batches[0];
    o->wake_msg.run = on_wake;
    o->batch_timer.on_due = on_batch_due;
    o->retry_timer.on_due = on_retry;
    o->stop_timer.on_due = on_stop_due;
    o->task.run = on_task;
    if (prepare(o, err) != OK) {
        otlp_close(&o);
        return err->code;
    }
    wake(o); /* so that it says that it sleeps */
    *ret = o;
    return OK;
}

void otlp_close(struct otlp **slot)
{
    struct otlp *o = TAKE(*slot);

    if (o == NULL)
        return;
    if (o->worker != NULL) {
        atomic_store(&o->must_stop, true);
        wake(o);
        o->env->worker_join(o->env, &o->worker);
    }
    loop_free(&o->loop);
    buf_unref(&o->packed);
    for (unsigned i = 0; i < 2; i++)
        otlp_batch_deinit(&o->batches[i]);
    rings_deinit(&o->rings);
    mem_free(o);
}

static void render(void *context, struct text *out)
{
    static const char exchanges[] = "penstock_otlp_exchanges_total";
    static const char batches[] = "penstock_otlp_batches_total";
    const struct otlp *o = context;

    metrics_family(out, exchanges, "counter",
                   "Sampled requests: their spans were exported, dropped because there was no room "
                   "(--otlp-buffer), or could not be sent");
    metrics_sample_u64(out, exchanges, "result=\"exported\"", stat_read(&o->exported));
    metrics_sample_u64(out, exchanges, "result=\"dropped\"", rings_dropped(&o->rings));
    metrics_sample_u64(out, exchanges, "result=\"failed\"", stat_read(&o->failed));
    metrics_family(out, batches, "counter", "Batches of spans: taken, tried again, given up");
    metrics_sample_u64(out, batches, "result=\"taken\"", stat_read(&o->batches_sent));
    metrics_sample_u64(out, batches, "result=\"retried\"", stat_read(&o->retries));
    metrics_sample_u64(out, batches, "result=\"failed\"", stat_read(&o->batches_failed));
    metrics_family(out, "penstock_otlp_spans_rejected_total", "counter",
                   "Spans that the collector answered it did not keep");
    metrics_sample_u64(out, "penstock_otlp_spans_rejected_total", "", stat_read(&o->rejected));
}

enum err_code otlp_register(struct otlp *o, struct metrics *metrics, struct err *err)
{
    return metrics == NULL ? OK : metrics_add_source(metrics, render, o, err);
}
