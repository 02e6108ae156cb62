/* call_upload.c - penstock call --upload FILE: a file of any size through a model, taken up again where it
 * was cut. SPDX-License-Identifier: Apache-2.0
 *
 * The upload is begun empty, so that its name is known before the first byte is sent; then its parts
 * follow (api/upload.h has the exchange). Whatever breaks is asked about (HEAD) and gone on with from the
 * byte that the server has.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/clock.h"
#include "cli/ask.h"
#include "cli/call.h"
#include "cli/options.h"
#include "cli/print.h"
#include "client/pool.h"
#include "io/loop.h"

enum {
    CHUNK_BYTES = 256 << 10,
    UNSENT_MAX = 1 << 20,
    TRIES_MAX = 10, /* without a byte of progress */
    TARGET_BYTES_MAX = 1024,
    SHOW_MS = 200,
};

struct upload {
    const struct call *call;
    const struct options *o;
    const char *path;
    int fd;
    uint64_t size; /* of the file */
    uint64_t at;   /* next byte to send */
    char location[TARGET_BYTES_MAX]; /* "/uploads/..." */
    struct loop *loop;        /* owned */
    struct client_pool *pool; /* owned */
    struct client_exchange *x;
    bool has_sent_all, shows, is_waiting;
    uint64_t begun_ns, begun_at, shown_ns;
    struct timer pause;
    struct loop_task feeder;
    /* -- of the present request -- */
    struct err why;
    struct answer *answer; /* owned */
};

/* Ctrl-C: says how to go on, and ends. Made before, as a handler can make nothing. */
static char good_bye[2048];
static size_t good_bye_size;

static void on_interrupt(int number)
{
    ssize_t wrote = write(STDERR_FILENO, good_bye, good_bye_size);

    (void)wrote;
    _exit(128 + number);
}

static void say_good_bye_when_interrupted(const struct upload *u)
{
    struct sigaction action = { .sa_handler = on_interrupt };
    int size = snprintf(good_bye, sizeof good_bye,
                        "\npenstock: interrupted; to go on: penstock call %s --upload %s --resume %s\n",
                        u->call->model, u->path, u->location + strlen("/uploads/"));

    good_bye_size = MIN((size_t)MAX(size, 0), sizeof good_bye - 1);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

/* -- words --------------------------------------------------------------------------------------- */

static const char *amount(char out[32], double bytes)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    size_t unit = 0;

    while (bytes >= 1024 && unit + 1 < COUNT(units)) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, 32, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return out;
}

static void show(struct upload *u, bool is_last)
{
    uint64_t now = clock_mono_ns();
    char done[32], all[32], rate[32];
    double seconds = (double)(now - u->begun_ns) / 1e9;

    if (!u->shows || (!is_last && now - u->shown_ns < SHOW_MS * NS_PER_MS))
        return;
    u->shown_ns = now;
    fprintf(stderr, "\r%s of %s, %s a second \x1b[K%s", amount(done, (double)u->at),
            amount(all, (double)u->size),
            amount(rate, seconds > 0 ? (double)(u->at - u->begun_at) / seconds : 0),
            is_last ? "\n" : "");
}

/* -- one request --------------------------------------------------------------------------------- */

static void stop_with(struct upload *u, const struct err *err)
{
    if (u->why.code == OK)
        u->why = *err;
    client_exchange_cancel(&u->x);
    loop_stop(u->loop);
}

static bool send_some(struct upload *u, struct err *err)
{
    struct buf *chunk = NULL;

    if (buf_new(&chunk, NULL, CHUNK_BYTES, err) != OK)
        return false;
    ssize_t got = pread(u->fd, buf_fill(chunk), CHUNK_BYTES, (off_t)u->at);
    bool is_good = got > 0 || (got == 0 && u->at == u->size);
    if (got < 0)
        err_set(err, E_INVALID, "cannot read %s: %s", u->path, strerror(errno));
    else if (!is_good)
        err_set(err, E_INVALID, "%s became shorter while it was read", u->path);
    if (is_good && got > 0) {
        u->at += (uint64_t)got;
        is_good = client_exchange_send(u->x, slice_make(buf_fill(chunk), (size_t)got), chunk);
        if (!is_good)
            err_set(err, E_EXHAUSTED, "no memory to send a part of %s", u->path);
    }
    buf_unref(&chunk);
    if (is_good && u->at >= u->size) {
        u->has_sent_all = true;
        client_exchange_finish(u->x);
    }
    return is_good;
}

static void feed(struct loop_task *task)
{
    struct upload *u = CONTAINER_OF(task, struct upload, feeder);
    struct err err = { 0 };

    while (u->x != NULL && !u->has_sent_all && client_exchange_unsent(u->x) < UNSENT_MAX) {
        if (!send_some(u, &err)) {
            stop_with(u, &err);
            return;
        }
    }
    show(u, false);
}

static void on_room(struct client_exchange *x)
{
    struct upload *u = client_exchange_data(x);

    loop_defer(u->loop, &u->feeder);
}

static void on_end(struct client_exchange *x, const struct err *why)
{
    struct upload *u = client_exchange_data(x);

    u->why = *why;
    if (why->code == OK)
        u->answer = client_exchange_take(x);
    u->x = NULL;
    loop_stop(u->loop);
}

static const struct client_exchange_user user = { .on_room = on_room, .on_end = on_end };

/* Waits for the answer to it; `is_body`: the file follows from u->at on. */
static enum err_code ask_one(struct upload *u, const char *method, const char *target, bool is_body,
                             struct err *err)
{
    char offset[24];
    struct client_header headers[5] = {
        { "accept", "application/json" },
        { "traceparent", ask_traceparent() },
        { "upload-complete", is_body ? "?1" : "?0" },
        { "upload-offset", offset },
        { "content-type", "application/partial-upload" },
    };
    struct client_ask ask = { .request = { .method = method,
                                           .target = target,
                                           .headers = headers,
                                           .headers_count = is_body ? 5 : 3 },
                              .is_open = is_body,
                              .user = &user,
                              .user_data = u };

    snprintf(offset, sizeof offset, "%llu", (unsigned long long)u->at);
    answer_free(&u->answer);
    u->why = (struct err){ 0 };
    u->has_sent_all = !is_body;
    if (!is_body)
        ask.due_ns = loop_refresh_ns(u->loop) + options_number(u->o, OPT_TIMEOUT);
    TRY(client_pool_ask(u->pool, &ask, &u->x, err));
    if (is_body)
        loop_defer(u->loop, &u->feeder);
    loop_run(u->loop);
    loop_undefer(&u->feeder);
    *err = u->why;
    return err->code;
}

/* -- the whole ----------------------------------------------------------------------------------- */

static enum err_code read_offset(struct upload *u, struct err *err)
{
    uint64_t offset;

    if (!slice_to_u64(answer_header(u->answer, "upload-offset"), &offset) || offset > u->size)
        return err_set(err, E_DATA_LOSS,
                       "the server does not say how much of the upload it has (upload-offset)");
    u->at = offset;
    return OK;
}

static enum err_code begin(struct upload *u, struct err *err)
{
    char target[TARGET_BYTES_MAX];
    struct text text;

    text_init_fixed(&text, target, sizeof target - 1);
    text_str(&text, "/models/");
    print_percent(&text, slice_of(u->call->model));
    if (options_number(u->o, OPT_MODEL_VERSION) > 0)
        text_printf(&text, "/versions/%llu",
                    (unsigned long long)options_number(u->o, OPT_MODEL_VERSION));
    text_str(&text, ":upload");
    call_put_query(&text, u->o);
    target[text.size] = '\0';
    if (text_failed(&text))
        return err_set(err, E_INVALID,
                       "the name of the model, or what --outputs names, is too long");
    TRY(ask_one(u, "POST", target, false, err));
    if (u->answer->status != 201)
        return ask_refusal(u->answer, err);
    struct slice location = answer_header(u->answer, "location");
    if (location.size == 0 || location.size >= sizeof u->location || location.data[0] != '/')
        return err_set(err, E_DATA_LOSS, "the server does not name the upload (location)");
    memcpy(u->location, location.data, location.size);
    u->location[location.size] = '\0';
    return read_offset(u, err);
}

static enum err_code look(struct upload *u, struct err *err)
{
    TRY(ask_one(u, "HEAD", u->location, false, err));
    if (u->answer->status / 100 != 2)
        return err_set(err, E_NOT_FOUND,
                       "the server has no upload %s (any more); without --resume it begins anew",
                       u->location + strlen("/uploads/"));
    return read_offset(u, err);
}

static void on_pause_over(struct timer *timer)
{
    loop_stop(CONTAINER_OF(timer, struct upload, pause)->loop);
}

static void wait_ms(struct upload *u, uint64_t ms)
{
    struct err ignored = { 0 };

    u->pause.on_due = on_pause_over;
    if (timer_start(u->loop, &u->pause, loop_refresh_ns(u->loop) + ms * NS_PER_MS, &ignored) == OK)
        loop_run(u->loop);
}

static bool is_worth_trying(enum err_code code)
{
    return code == E_UNAVAILABLE || code == E_CANCELLED || code == E_DATA_LOSS || code == E_DEADLINE;
}

/* The file, and again what was lost of it, until there is an answer. */
static enum err_code send_all(struct upload *u, struct err *err)
{
    uint64_t reached = u->at;

    for (uint32_t tries = 0;; tries++) {
        enum err_code code = ask_one(u, "PATCH", u->location, true, err);
        /* 409: what we thought of it was not so; 503: not now. */
        bool is_over = code == OK && u->answer->status != 409 && u->answer->status != 503;
        if (is_over || (code != OK && !is_worth_trying(code)))
            return code;
        if (code == OK)
            (void)ask_refusal(u->answer, err);
        struct err why = *err;
        for (; tries < TRIES_MAX; tries++) {
            wait_ms(u, MIN((uint64_t)100 << MIN(tries, 6u), (uint64_t)5000));
            code = look(u, err);
            if (code == OK || !is_worth_trying(code))
                break;
        }
        if (code != OK)
            return code;
        if (tries >= TRIES_MAX)
            return err_set(err, why.code, "%s", why.text);
        if (u->at > reached)
            tries = 0;
        reached = MAX(reached, u->at);
        if (u->shows)
            fprintf(stderr, "\n%s; going on at byte %llu\n", why.text, (unsigned long long)u->at);
    }
}

static enum err_code open_file(struct upload *u, struct err *err)
{
    struct stat st;

    u->fd = open(u->path, O_RDONLY | O_CLOEXEC);
    if (u->fd < 0 || fstat(u->fd, &st) != 0)
        return err_set(err, E_NOT_FOUND, "cannot open %s: %s", u->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, E_INVALID,
                       "%s is no regular file; one that can be read again from the middle is needed "
                       "to go on where an upload was cut",
                       u->path);
    u->size = (uint64_t)st.st_size;
    return OK;
}

static enum err_code run(struct upload *u, struct err *err)
{
    struct client_pool_settings settings = {
        .url = options_text(u->o, OPT_SERVER),
        .protocol = options_flag(u->o, OPT_HTTP2) ? CLIENT_HTTP2 : CLIENT_HTTP1,
        .connections_max = 1,
        .connect_timeout_ns = options_number(u->o, OPT_TIMEOUT),
        .backoff_min_ns = 1,
        .backoff_max_ns = 1,
    };

    TRY(ask_authorization(&settings.authorization, u->o, err));
    TRY(ask_tls(&settings.tls, u->o, err));
    TRY(open_file(u, err));
    TRY(loop_new(&u->loop, env_real(), 0, err));
    TRY(client_pool_new(&u->pool, u->loop, &settings, err));
    if (options_is_set(u->o, OPT_RESUME)) {
        snprintf(u->location, sizeof u->location, "/uploads/%s", options_text(u->o, OPT_RESUME));
        TRY(look(u, err));
    } else {
        TRY(begin(u, err));
    }
    say_good_bye_when_interrupted(u);
    u->begun_ns = clock_mono_ns();
    u->begun_at = u->at;
    enum err_code code = send_all(u, err);
    show(u, true);
    if (code != OK) {
        struct err first = *err;
        return err_set(err, code, "%s; to go on: penstock call %s --upload %s --resume %s", first.text,
                       u->call->model, u->path, u->location + strlen("/uploads/"));
    }
    if (u->answer->status != 200) {
        code = ask_refusal(u->answer, err);
        return code == E_INVALID ? E_UNKNOWN : code;
    }
    return call_say_answer(u->o, u->answer->body)
               ? OK
               : err_set(err, E_UNKNOWN, "cannot write the answer");
}

enum err_code call_upload(struct call *call, struct err *err)
{
    struct upload u = { .call = call,
                        .o = call->options,
                        .path = options_text(call->options, OPT_UPLOAD),
                        .fd = -1,
                        .shows = isatty(STDERR_FILENO) && print_has_colour(STDERR_FILENO) };

    u.feeder.run = feed;
    enum err_code code = run(&u, err);
    client_exchange_cancel(&u.x);
    client_pool_free(&u.pool);
    loop_free(&u.loop);
    answer_free(&u.answer);
    if (u.fd >= 0)
        (void)close(u.fd);
    return code == OK ? OK : ask_advise(code, err);
}
