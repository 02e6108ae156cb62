/* resume_test.c - streams that outlive their connection: what is told after a cut, who may come back, how
 * long, how much. SPDX-License-Identifier: Apache-2.0 */
#include "api/resume.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "api/fake_exchange.h"
#include "base/budget.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "call/call.h"
#include "telemetry/metrics.h"
#include "test/harness.h"

/* -- a loop that the test runs when it likes --------------------------------------------------------- */

enum { VISITS_MAX = 64 };

struct visit {
    struct fake fake;
    struct arena *arena; /* NULL: the place is free */
    struct loop *loop;
    char path[200];
    void (*on_over)(struct visit *visit);
};

static struct budget budget;
static struct loop *loop;
static struct api api;
static atomic_bool is_draining;
static struct visit visits[VISITS_MAX];

static void begin(uint64_t streams_max, uint64_t events_max, size_t bytes_max)
{
    struct resumables_settings settings = { .env = env_real(),
                                            .node = "web-1",
                                            .time_ns = 60 * NS_PER_S,
                                            .streams_max = streams_max,
                                            .events_max = events_max,
                                            .bytes_max = bytes_max,
                                            .budget = &budget };

    budget_init(&budget, 64 << 20);
    api = (struct api){ .is_draining = &is_draining };
    require(resumables_new(&api.resumables, &settings, NULL) == OK);
    require(loop_new(&loop, env_real(), 0, NULL) == OK);
}

struct job {
    struct loop_msg msg;
    struct timer timer;
    void (*run)(void *arg);
    void *arg;
    struct loop *loop;
    bool is_done;
};

static void run_job(struct loop_msg *msg)
{
    struct job *job = CONTAINER_OF(msg, struct job, msg);

    job->run(job->arg);
    loop_stop(job->loop);
}

static void on_loop(void (*run)(void *arg), void *arg)
{
    struct job job = { .msg.run = run_job, .run = run, .arg = arg, .loop = loop };

    loop_post(loop, &job.msg);
    loop_run(loop);
}

static void end_settling(struct timer *timer)
{
    loop_stop(CONTAINER_OF(timer, struct job, timer)->loop);
}

/* Lets the loop run for so long. */
static void settle(uint64_t ms)
{
    struct job job = { .timer.on_due = end_settling, .loop = loop };

    require(timer_start(loop, &job.timer, clock_mono_ns() + ms * NS_PER_MS, NULL) == OK);
    loop_run(loop);
}

static void on_release(struct fake *fake)
{
    struct visit *visit = fake->user;

    if (visit->on_over != NULL)
        visit->on_over(visit);
}

static void free_visit(struct visit *visit)
{
    if (visit->arena == NULL)
        return;
    check(visit->fake.is_released, "%s is still held", visit->path);
    fake_deinit(&visit->fake);
    arena_free(&visit->arena);
}

static void end(void)
{
    for (size_t i = 0; i < VISITS_MAX; i++)
        free_visit(&visits[i]);
    loop_free(&loop);
    resumables_free(&api.resumables);
    check(budget_used(&budget) == 0, "%llu bytes are charged",
          (unsigned long long)budget_used(&budget));
}

static struct visit *visit_of(struct loop *on, enum exchange_method method, const char *path)
{
    struct visit *visit = visits;

    while (visit->arena != NULL)
        require(++visit < visits + VISITS_MAX);
    visit->arena = arena_new(8192, 16 << 20);
    visit->loop = on;
    visit->on_over = NULL;
    snprintf(visit->path, sizeof visit->path, "%s", path);
    fake_init(&visit->fake, on, visit->arena, &budget, method, visit->path, slice_make("", 0));
    visit->fake.on_release = on_release;
    visit->fake.user = visit;
    return visit;
}

static void nobody_makes(struct exchange *x UNUSED, const struct route_match *match UNUSED)
{
}

static void start_visit(void *arg)
{
    static const struct route make[] = { { 1u << METHOD_POST, "/make", nobody_makes, DIALECT_TYPED,
                                           ACCESS_OPEN, "test" } };
    static const struct route_table made = { make, 1 };
    static const struct route_table *const tables[] = { &made, &resume_routes };
    struct visit *visit = arg;

    require(fake_start(&visit->fake, &api, tables, COUNT(tables)));
}

/* The connection breaks. */
static void break_off(void *arg)
{
    struct fake *fake = arg;

    fake->x.is_gone = true;
    fake->x.user->on_gone(&fake->x);
    loop_defer(loop, &fake->finish);
}

/* -- a maker ----------------------------------------------------------------------------------------- */

struct maker {
    struct resumable *r;
    struct visit *began; /* who called */
    uint64_t keep_ms;
    unsigned rooms, expired, attached, closed, drained;
    char inputs[200];
    struct err err;
    enum events_form form;
    bool is_session;
};

static struct maker maker;

static void on_room(struct resumable *r)
{
    ((struct maker *)resumable_user_data(r))->rooms++;
}

static void on_expired(struct resumable *r)
{
    struct maker *m = resumable_user_data(r);

    m->expired++;
    resumable_end(&m->r);
}

static void on_input(struct resumable *r, const struct resumable_input *input)
{
    struct maker *m = resumable_user_data(r);
    size_t at = strlen(m->inputs);

    snprintf(m->inputs + at, sizeof m->inputs - at, "%s%.*s ",
             input->is_text ? "" : "b:", SLICE_ARG(input->bytes));
}

static void on_attached(struct resumable *r)
{
    ((struct maker *)resumable_user_data(r))->attached++;
}

static void on_closed(struct resumable *r)
{
    ((struct maker *)resumable_user_data(r))->closed++;
}

static void on_drain(struct resumable *r)
{
    ((struct maker *)resumable_user_data(r))->drained++;
}

static const struct resumable_user stream_user = { .on_room = on_room, .on_expired = on_expired };
static const struct resumable_user session_user = { .on_room = on_room,
                                                    .on_expired = on_expired,
                                                    .on_input = on_input,
                                                    .on_attached = on_attached,
                                                    .on_closed = on_closed,
                                                    .on_drain = on_drain };

/* Makes a stream, which who began it follows unless it is a session. */
static void make(void *arg)
{
    struct maker *m = arg;
    struct exchange *x = &m->began->fake.x;

    start_visit(m->began);
    uint64_t keep_ns = m->keep_ms == 0 ? 1 : m->keep_ms * NS_PER_MS;
    enum err_code code = resumable_new(&m->r, &api, x, keep_ns,
                                       m->is_session ? &session_user : &stream_user, m, &m->err);
    if (code != OK)
        api_fail(x, DIALECT_TYPED, 0, &m->err);
    else if (!m->is_session)
        resumable_follow(m->r, x, &api, m->form, NULL, 0);
}

static void make_stream(uint64_t keep_ms, const char *authorization)
{
    maker = (struct maker){ .keep_ms = keep_ms, .form = EVENTS_SSE };
    maker.began = visit_of(loop, METHOD_POST, "/make");
    if (authorization != NULL)
        fake_header(&maker.began->fake, "authorization", authorization);
    on_loop(make, &maker);
}

static size_t event_data(char out[40], uint64_t number)
{
    return (size_t)snprintf(out, 40, "{\"n\":%llu}", (unsigned long long)number * 7);
}

static bool put_one(struct resumable *r)
{
    char data[40];
    size_t size = event_data(data, resumable_newest(r) + 1);
    struct slice name = resumable_newest(r) % 5 == 4 ? slice_of("fifth") : slice_make(NULL, 0);

    return resumable_put(r, name, slice_make(data, size));
}

static unsigned puts_wanted;

static void put_some(void *arg UNUSED)
{
    for (unsigned i = 0; i < puts_wanted; i++)
        check(put_one(maker.r), "put %u", i);
}

static void put_many(unsigned count)
{
    puts_wanted = count;
    on_loop(put_some, NULL);
}

static void end_stream(void *arg UNUSED)
{
    resumable_end(&maker.r);
}

static char the_id[130];

static const char *stream_path(const char *more)
{
    static char path[300];

    snprintf(path, sizeof path, "/streams/%s%s", the_id, more);
    return path;
}

static void keep_id(void)
{
    snprintf(the_id, sizeof the_id, "%s", resumable_id(maker.r));
}

/* Events of an answer from `seen` on; returns the last. Half an event at the end is none. */
static uint64_t read_events(struct slice answer, uint64_t seen)
{
    char data[40], block[400];

    while (answer.size > 0) {
        uint8_t *stop = memmem(answer.data, answer.size, "\n\n", 2);
        if (stop == NULL)
            break;
        struct slice got = slice_make(answer.data, (size_t)(stop - answer.data) + 2);
        answer = slice_skip(answer, got.size);
        if (got.data[0] == ':')
            continue;
        seen++;
        event_data(data, seen);
        snprintf(block, sizeof block, "id: %s.%llu\n%sdata: %s\n\n", the_id,
                 (unsigned long long)seen, seen % 5 == 0 ? "event: fifth\n" : "", data);
        check(slice_is(got, block), "wanted %s got %.*s", block, SLICE_ARG(got));
        if (!slice_is(got, block))
            return 0;
    }
    return seen;
}

/* -- following ------------------------------------------------------------------------------------- */

TEST(who_began_it_follows_from_the_first_event_to_the_end)
{
    char location[200];

    begin(10, 1000, 1 << 20);
    make_stream(5000, NULL);
    keep_id();
    struct fake *fake = &maker.began->fake;
    put_many(12);
    check(fake->status == 200 && !fake->is_released, "%u", fake->status);
    snprintf(location, sizeof location, "/streams/%s", the_id);
    check(slice_is(fake_answer_header(fake, "location"), location) &&
              slice_is(fake_answer_header(fake, "x-node"), "web-1"),
          "%s", text_cstr(&fake->headers));
    check(strncmp(the_id, "web-1.", 6) == 0 && strlen(the_id) == 6 + 32, "%s", the_id);
    on_loop(end_stream, NULL);
    settle(5);
    check(fake->is_released && read_events(text_slice(&fake->answer), 0) == 12, "%s",
          text_cstr(&fake->answer));
    end();
}

TEST(readers_come_back_by_id_each_at_its_own_place)
{
    begin(10, 1000, 1 << 20);
    make_stream(5000, "Bearer me");
    keep_id();
    put_many(20);
    char last[300], number[40];
    snprintf(last, sizeof last, "%s.7", the_id);
    snprintf(number, sizeof number, "?after=15");
    struct visit *by_header = visit_of(loop, METHOD_GET, stream_path("?after=3"));
    fake_header(&by_header->fake, "last-event-id", last); /* wins */
    struct visit *by_query = visit_of(loop, METHOD_GET, stream_path(number));
    struct visit *whole = visit_of(loop, METHOD_GET, stream_path(""));
    fake_header(&whole->fake, "accept", "application/x-ndjson");
    struct visit *newest = visit_of(loop, METHOD_GET, stream_path("?after=20"));
    struct visit *all[] = { by_header, by_query, whole, newest };
    for (size_t i = 0; i < COUNT(all); i++) {
        fake_header(&all[i]->fake, "authorization", "Bearer me");
        on_loop(start_visit, all[i]);
    }
    put_many(5);
    on_loop(end_stream, NULL);
    settle(5);
    check(read_events(text_slice(&by_header->fake.answer), 7) == 25, "%s",
          text_cstr(&by_header->fake.answer));
    check(read_events(text_slice(&by_query->fake.answer), 15) == 25, "%s",
          text_cstr(&by_query->fake.answer));
    check(read_events(text_slice(&newest->fake.answer), 20) == 25, "%s",
          text_cstr(&newest->fake.answer));
    const char *lines = text_cstr(&whole->fake.answer);
    check(strncmp(lines, "{\"n\":7}\n{\"n\":14}\n", 17) == 0 &&
              strstr(lines, "{\"n\":175}\n") != NULL,
          "%s", lines);
    /* It is over, and still there to be read, also by who comes first now. */
    struct visit *late = visit_of(loop, METHOD_GET, stream_path("?after=24"));
    fake_header(&late->fake, "authorization", "Bearer me");
    on_loop(start_visit, late);
    settle(5);
    check(late->fake.is_released && read_events(text_slice(&late->fake.answer), 24) == 25, "%s",
          text_cstr(&late->fake.answer));
    struct visit *done = visit_of(loop, METHOD_GET, stream_path("?after=25"));
    fake_header(&done->fake, "authorization", "Bearer me");
    on_loop(start_visit, done);
    settle(5);
    check(done->fake.status == 204 && done->fake.is_released, "%u", done->fake.status);
    end();
}

/* -- who is refused ---------------------------------------------------------------------------------- */

static struct visit *ask(enum exchange_method method, const char *path, const char *authorization,
                         const char *last_event_id)
{
    struct visit *visit = visit_of(loop, method, path);

    if (authorization != NULL)
        fake_header(&visit->fake, "authorization", authorization);
    if (last_event_id != NULL)
        fake_header(&visit->fake, "last-event-id", last_event_id);
    on_loop(start_visit, visit);
    settle(2);
    return visit;
}

static void check_refused(struct visit *visit, uint16_t status, const char *words)
{
    check(visit->fake.status == status && visit->fake.is_released &&
              strstr(text_cstr(&visit->fake.answer), words) != NULL,
          "%s: %u %s", visit->path, visit->fake.status, text_cstr(&visit->fake.answer));
    free_visit(visit);
}

TEST(ids_that_are_not_right_are_refused_each_in_its_own_words)
{
    static const char unknown[] = "/streams/web-1.0123456789abcdef0123456789abcdef";
    char other[200], foreign[300], next[300];

    begin(10, 10, 1 << 20);
    make_stream(5000, "Bearer me");
    keep_id();
    for (unsigned i = 0; i < 5; i++) {
        put_many(5);
        settle(1); /* its reader follows */
    }
    static const char *const malformed[] = { "/streams/x",
                                             "/streams/web-1",
                                             "/streams/web-1.",
                                             "/streams/0123456789abcdef0123456789abcdef",
                                             "/streams/.0123456789abcdef0123456789abcdef",
                                             "/streams/web-1.0123456789ABCDEF0123456789abcdef",
                                             "/streams/web-1.0123456789abcdef0123456789abcde",
                                             "/streams/we b.0123456789abcdef0123456789abcdef",
                                             "/streams/\xff.0123456789abcdef0123456789abcdef" };
    for (size_t i = 0; i < COUNT(malformed); i++)
        check_refused(ask(METHOD_GET, malformed[i], "Bearer me", NULL), 400,
                      "is no id of a stream: it is <node>.<32 hexadecimal digits>");
    check_refused(ask(METHOD_GET, unknown, "Bearer me", NULL), 404, "there is no stream");
    check_refused(ask(METHOD_DELETE, unknown, "Bearer me", NULL), 404, "there is no stream");
    /* Another's is as if there were none. */
    check_refused(ask(METHOD_GET, stream_path(""), "Bearer you", NULL), 404, "there is no stream");
    check_refused(ask(METHOD_GET, stream_path(""), NULL, NULL), 404, "there is no stream");
    check_refused(ask(METHOD_DELETE, stream_path(""), "Bearer", NULL), 404, "there is no stream");
    snprintf(foreign, sizeof foreign, "/streams/db.2%s", the_id + 5);
    struct visit *visit = ask(METHOD_GET, foreign, "Bearer me", NULL);
    check(slice_is(fake_answer_header(&visit->fake, "x-stream-node"), "db.2") &&
              slice_is(fake_answer_header(&visit->fake, "x-node"), "web-1"),
          "%s", text_cstr(&visit->fake.headers));
    check_refused(visit, 421, "is with node 'db.2', and this is 'web-1'");
    static const char *const bad_numbers[] = { "?after=x", "?after=-1", "?after=1.5",
                                               "?after=99999999999999999999999" };
    for (size_t i = 0; i < COUNT(bad_numbers); i++)
        check_refused(ask(METHOD_GET, stream_path(bad_numbers[i]), "Bearer me", NULL), 400,
                      i == 2 ? "is no event of stream" : "it takes the number");
    snprintf(other, sizeof other, "web-1.0123456789abcdef0123456789abcdef.5");
    check_refused(ask(METHOD_GET, stream_path(""), "Bearer me", other), 400,
                  "is no event of stream");
    snprintf(next, sizeof next, "%s.26", the_id);
    check_refused(ask(METHOD_GET, stream_path(""), "Bearer me", next), 400,
                  "event 27 has not been yet: the newest is 25");
    check_refused(ask(METHOD_GET, stream_path("?after=18446744073709551615"), "Bearer me", NULL),
                  400, "no event behind number");
    /* A log of ten events: what is before them is gone. */
    check_refused(ask(METHOD_GET, stream_path("?after=3"), "Bearer me", NULL), 410,
                  "event 4 is not kept any more: there are 16 to 25");
    on_loop(end_stream, NULL);
    settle(5);
    end();
}

TEST(what_callers_ask_for)
{
    static const struct {
        const char *query, *header;
        enum err_code code;
        uint64_t ms;
    } cases[] = {
        { "/x", NULL, OK, 0 },
        { "/x?resume=30", NULL, OK, 30000 },
        { "/x?a=b&resume=2.5&c", NULL, OK, 2500 },
        { "/x", "15", OK, 15000 },
        { "/x?resume=7", "15", OK, 7000 },
        { "/x?resume=0", NULL, OK, 0 },
        { "/x?resume=0.000", NULL, OK, 0 },
        { "/x?resume=61", NULL, OK, 60000 }, /* --resume-time */
        { "/x?resume=18446744073709551615", NULL, OK, 60000 },
        { "/x?resume=18446744073709551616", NULL, E_INVALID, 0 },
        { "/x?resume", NULL, E_INVALID, 0 },
        { "/x?resume=", NULL, E_INVALID, 0 },
        { "/x?resume=yes", NULL, E_INVALID, 0 },
        { "/x?resume=-1", NULL, E_INVALID, 0 },
        { "/x?resume=1.", NULL, E_INVALID, 0 },
        { "/x?resume=.5", NULL, E_INVALID, 0 },
        { "/x?resume=1.5.5", NULL, E_INVALID, 0 },
        { "/x?resume=1.0000000000", NULL, E_INVALID, 0 },
        { "/x", "5s", E_INVALID, 0 },
        { "/x?resumed=5", NULL, OK, 0 },
    };

    begin(10, 10, 1 << 20);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct visit *visit = visit_of(loop, METHOD_POST, cases[i].query);
        struct err err = { 0 };
        uint64_t ns = 42;
        if (cases[i].header != NULL)
            fake_header(&visit->fake, "x-resume", cases[i].header);
        enum err_code code = resume_asked(&visit->fake.x, &api, &ns, &err);
        check(code == cases[i].code && (code != OK || ns == cases[i].ms * NS_PER_MS),
              "%s %s: %d, %llu", cases[i].query, cases[i].header, code, (unsigned long long)ns);
        check(code == OK || strstr(err.text, "seconds") != NULL, "%s", err.text);
        visit->fake.is_released = true;
        free_visit(visit);
    }
    struct visit *visit = visit_of(loop, METHOD_POST, "/x?resume=5");
    struct api none = { .is_draining = &is_draining };
    struct err err = { 0 };
    uint64_t ns;
    check(resume_asked(&visit->fake.x, &none, &ns, &err) == E_UNIMPLEMENTED, "%s", err.text);
    visit->fake.is_released = true;
    free_visit(visit);
    end();
}

/* -- time, and bounds --------------------------------------------------------------------------------- */

TEST(a_stream_that_nobody_reads_is_dropped_in_time_and_then_gone)
{
    begin(2, 100, 1 << 20);
    make_stream(60, NULL);
    keep_id();
    put_many(3);
    on_loop(break_off, &maker.began->fake);
    settle(30);
    struct visit *back = visit_of(loop, METHOD_GET, stream_path("?after=1"));
    on_loop(start_visit, back);
    settle(100);
    check(maker.expired == 0 && !back->fake.is_released, "while it is read it is kept");
    on_loop(break_off, &back->fake);
    settle(30);
    check(maker.expired == 0, "too early");
    settle(150);
    check(maker.expired == 1 && maker.r == NULL, "%u", maker.expired);
    check_refused(ask(METHOD_GET, stream_path(""), NULL, NULL), 410, "is gone");
    check_refused(ask(METHOD_GET, stream_path(""), "Bearer you", NULL), 404, "there is no stream");
    /* Two tombstones are kept: of the next two, and no longer of this one. */
    char first[130];
    snprintf(first, sizeof first, "%s", the_id);
    for (unsigned i = 0; i < 2; i++) {
        make_stream(20, NULL);
        keep_id();
        on_loop(end_stream, NULL);
        settle(60);
    }
    check_refused(ask(METHOD_GET, stream_path(""), NULL, NULL), 410, "is gone");
    snprintf(the_id, sizeof the_id, "%s", first);
    check_refused(ask(METHOD_GET, stream_path(""), NULL, NULL), 404, "there is no stream");
    end();
}

TEST(streams_are_bounded_and_counted)
{
    struct metrics *metrics = metrics_new();
    struct text out;

    begin(2, 100, 1 << 20);
    check_or_stop(resumables_register(api.resumables, metrics, NULL) == OK, "register");
    struct resumable *held[2];
    for (unsigned i = 0; i < 2; i++) {
        make_stream(5000, NULL);
        held[i] = maker.r;
    }
    make_stream(5000, NULL);
    check_refused(maker.began, 429,
                  "2 streams are kept already, which is the most "
                  "(--resume-streams-max)");
    check(maker.r == NULL, "refused");
    text_init(&out, 1 << 16);
    metrics_render(metrics, &out);
    check(strstr(text_cstr(&out), "\npenstock_resume_streams 2\n") != NULL &&
              strstr(text_cstr(&out), "\npenstock_resume_refused_total 1\n") != NULL &&
              strstr(text_cstr(&out), "\npenstock_resume_readers 2\n") != NULL,
          "%s", text_cstr(&out));
    text_deinit(&out);
    for (unsigned i = 0; i < 2; i++) {
        maker.r = held[i];
        on_loop(end_stream, NULL);
    }
    settle(5);
    end();
    metrics_free(&metrics);
}

static bool has_room;
static void look_for_room(void *arg UNUSED)
{
    has_room = resumable_has_room(maker.r);
}

static unsigned puts_done;
static void put_until_full(void *arg UNUSED)
{
    for (puts_done = 0; put_one(maker.r); puts_done++)
        continue;
}

TEST(the_maker_waits_for_its_slowest_reader_and_without_one_at_the_bound)
{
    begin(2, 40, 1 << 20);
    make_stream(5000, NULL);
    keep_id();
    struct fake *fake = &maker.began->fake;
    fake->room = 1; /* it takes one event, then nothing */
    put_many(31);
    on_loop(look_for_room, NULL);
    check(!has_room && maker.rooms == 0, "three quarters of 40 are unread");
    on_loop(put_until_full, NULL);
    check(puts_done == 10, "what was under way fits: %u", puts_done);
    fake->takes = fake->room = 1 << 20;
    settle(20);
    check(maker.rooms == 1, "told %u times", maker.rooms);
    on_loop(look_for_room, NULL);
    check(has_room, "all is read");
    on_loop(break_off, fake);
    on_loop(look_for_room, NULL);
    check(!has_room, "nobody reads, and what is kept fills it");
    /* Nothing that was kept has gone: the reader missed all that was in its socket. */
    struct visit *back = ask(METHOD_GET, stream_path("?after=1"), NULL, NULL);
    check(read_events(text_slice(&back->fake.answer), 1) == 41 && maker.rooms == 2, "%s",
          text_cstr(&back->fake.answer));
    on_loop(end_stream, NULL);
    settle(5);
    end();
}

TEST(one_that_is_hardly_kept_does_not_wake_its_loop_for_ever)
{
    struct rusage before, after;

    begin(2, 40, 1 << 20);
    make_stream(0, NULL); /* a nanosecond */
    settle(5);
    getrusage(RUSAGE_SELF, &before);
    settle(300);
    getrusage(RUSAGE_SELF, &after);
    check(after.ru_nvcsw - before.ru_nvcsw < 100,
          "%ld wake-ups within 300 ms, of a stream that rests", after.ru_nvcsw - before.ru_nvcsw);
    put_many(2);
    check(maker.expired == 0, "it is read");
    on_loop(break_off, &maker.began->fake);
    settle(400);
    check(maker.expired == 1 && maker.r == NULL, "nobody reads, and it stays");
    end();
}

/* -- ending it ----------------------------------------------------------------------------------------- */

TEST(a_stream_is_cancelled_by_delete)
{
    begin(2, 40, 1 << 20);
    make_stream(5000, NULL);
    keep_id();
    put_many(2);
    struct visit *gone = ask(METHOD_DELETE, stream_path(""), NULL, NULL);
    check(gone->fake.status == 204, "%u", gone->fake.status);
    settle(5);
    check(maker.expired == 1 && maker.r == NULL, "%u", maker.expired);
    const char *said = text_cstr(&maker.began->fake.answer);
    check(maker.began->fake.is_released && !maker.began->fake.is_aborted &&
              strstr(said, "event: error\ndata: {\"error\":{\"code\":\"CANCELLED\"") != NULL,
          "%s", said);
    check_refused(ask(METHOD_GET, stream_path(""), NULL, NULL), 410, "is gone");
    check_refused(ask(METHOD_DELETE, stream_path(""), NULL, NULL), 410, "is gone");
    end();
}

/* How it ended is told to who is slow, though the log is full, and there is no memory left either. */
TEST(a_full_stream_tells_its_end)
{
    static const char cancelled[] = "event: error\ndata: {\"error\":{\"code\":\"CANCELLED\"";

    for (int is_spent = 0; is_spent <= 1; is_spent++) {
        begin(2, 8, 1 << 20);
        make_stream(5000, NULL);
        keep_id();
        struct fake *fake = &maker.began->fake;
        fake->room = 1; /* it takes one event, then nothing */
        on_loop(put_until_full, NULL);
        check(puts_done == 8, "full with %u", puts_done);
        struct visit *gone = ask(METHOD_DELETE, stream_path(""), NULL, NULL);
        check(gone->fake.status == 204, "%u", gone->fake.status);
        size_t left = is_spent ? (size_t)budget.left : 0;
        require(budget_take(&budget, left));
        settle(5);
        budget_give(&budget, left);
        check(maker.expired == 1 && maker.r == NULL, "%u", maker.expired);
        fake->takes = fake->room = 1 << 20;
        settle(20);
        const char *said = text_cstr(&fake->answer), *last = strstr(said, cancelled);
        check(fake->is_released && !fake->is_aborted && last != NULL &&
                  strstr(said, "{\"n\":56}") != NULL,
              "%s", said);
        end();
    }
}

TEST(when_the_server_stops_streams_that_nobody_reads_end_at_once_and_others_when_they_are_left)
{
    begin(5, 40, 1 << 20);
    make_stream(5000, NULL);
    struct maker unread = maker;
    struct fake *left = &unread.began->fake;
    on_loop(break_off, left);
    settle(2);
    make_stream(5000, NULL); /* maker is this one now, and its user data too */
    struct resumable *read = maker.r;
    maker.r = unread.r;
    resumables_drain(api.resumables);
    settle(5);
    check(maker.expired == 1 && maker.r == NULL, "unread: %u", maker.expired);
    maker.r = read;
    put_many(1);
    check(!maker.began->fake.is_released, "it is read");
    struct fake *fake = &maker.began->fake;
    on_loop(break_off, fake);
    settle(5);
    check(maker.expired == 2, "left: %u", maker.expired);
    make_stream(5000, NULL);
    check_refused(maker.began, 503, "the server is stopping");
    end();
}

/* -- sessions ------------------------------------------------------------------------------------------- */

struct ws {
    struct call call;
    struct visit *visit;
    unsigned reads;
    char sent[400];
    struct err ended;
    bool is_ended;
    uint64_t after;
    enum err_code code;
};

static void ws_read(struct call *call)
{
    CONTAINER_OF(call, struct ws, call)->reads++;
}

static void ws_send(struct call *call, const struct call_piece *pieces, uint32_t count,
                    struct call_form form)
{
    struct ws *ws = CONTAINER_OF(call, struct ws, call);
    size_t at = strlen(ws->sent);

    require(count == 1);
    snprintf(ws->sent + at, sizeof ws->sent - at, "%s%.*s ",
             form.is_text ? "" : "b:", SLICE_ARG(pieces[0].bytes));
}

static void ws_finish(struct ws *ws)
{
    struct exchange *x = ws->call.x;

    ws->call.is_over = true;
    exchange_unref(&x); /* the call's own reference */
}

static void ws_end(struct call *call, const struct err *status,
                   const struct call_details *details UNUSED)
{
    struct ws *ws = CONTAINER_OF(call, struct ws, call);

    ws->ended = *status;
    ws->is_ended = true;
    ws_finish(ws);
}

static const struct call_ops ws_ops = { ws_read, ws_send, ws_end };

static void attach(void *arg)
{
    struct ws *ws = arg;
    struct err err = { 0 };

    ws->code = resumable_attach_call(maker.r, &ws->call, ws->after, &err);
}

static void open_ws(struct ws *ws, uint64_t after)
{
    struct visit *visit = visit_of(loop, METHOD_GET, "/streams/x");

    *ws = (struct ws){ .visit = visit, .after = after };
    ws->call = (struct call){ .x = &visit->fake.x, .carrier = CALL_WEBSOCKET, .ops = &ws_ops };
    visit->fake.x.user = NULL;
    on_loop(attach, ws);
}

struct said {
    struct ws *ws;
    const char *text;
    bool is_text;
};

static void say(void *arg)
{
    struct said *said = arg;
    struct call_message message = { .bytes = slice_of(said->text), .is_text = said->is_text };

    said->ws->call.user->on_message(&said->ws->call, &message);
}

static void ws_say(struct ws *ws, const char *text, bool is_text)
{
    struct said said = { ws, text, is_text };

    on_loop(say, &said);
    settle(1);
}

static void ws_break(void *arg)
{
    struct ws *ws = arg;

    ws->call.is_over = true;
    ws->call.user->on_gone(&ws->call, E_CANCELLED);
    struct exchange *x = ws->call.x;
    exchange_unref(&x);
}

static void ws_close(void *arg)
{
    struct ws *ws = arg;

    ws->call.user->on_half_close(&ws->call);
    ws_break(ws);
}

static void ws_drain(void *arg)
{
    struct ws *ws = arg;

    ws->call.user->on_drain(&ws->call);
}

static void read_inputs(void *arg UNUSED)
{
    resumable_read(maker.r);
    resumable_read(maker.r);
}

static void answer_both(void *arg UNUSED)
{
    struct resumable_message messages[] = { { slice_of("{json}"), true },
                                            { slice_of("raw"), false } };

    check(resumable_put_messages(maker.r, messages, COUNT(messages)), "put");
}

static void begin_session(struct ws *ws)
{
    begin(5, 40, 1 << 20);
    maker = (struct maker){ .keep_ms = 5000, .is_session = true };
    maker.began = visit_of(loop, METHOD_POST, "/make");
    on_loop(make, &maker);
    keep_id();
    open_ws(ws, 0);
    check(ws->code == OK, "%d", ws->code);
}

static void end_session(void)
{
    struct exchange *x = &maker.began->fake.x;

    exchange_unref(&x); /* of a call that nobody answers */
    settle(5);
    end();
}

static struct err why_ended;
static void end_with(void *arg UNUSED)
{
    err_set(&why_ended, E_INTERNAL, "the model failed");
    resumable_end_with(&maker.r, &why_ended);
}

TEST(a_session_goes_on_over_another_connection)
{
    struct ws first, second, third;

    begin_session(&first);
    on_loop(read_inputs, NULL);
    settle(1);
    check(first.reads == 2, "credit for %u", first.reads);
    ws_say(&first, "one", true);
    ws_say(&first, "two", false);
    check(strcmp(maker.inputs, "one b:two ") == 0, "%s", maker.inputs);
    on_loop(read_inputs, NULL);
    on_loop(answer_both, NULL);
    settle(1);
    check(strcmp(first.sent, "{json} b:raw ") == 0, "%s", first.sent);
    on_loop(ws_break, &first);
    on_loop(answer_both, NULL);
    check(maker.attached == 0, "%u", maker.attached);
    open_ws(&second, 1);
    settle(1);
    check(maker.attached == 1, "the maker is told: %u", maker.attached);
    check(strcmp(second.sent, "{json} b:raw ") == 0, "what was missed, and no more: %s",
          second.sent);
    check(second.reads == 2, "the credit that the first had left: %u", second.reads);
    ws_say(&second, "three", true);
    /* One that comes while the other seems to be there takes over. */
    open_ws(&third, 2);
    settle(2);
    check(second.is_ended && second.ended.code == E_ABORTED, "%d %s", second.ended.code,
          second.ended.text);
    check(third.reads == 1 && maker.attached == 2, "%u", third.reads);
    ws_say(&third, "four", true);
    check(strcmp(maker.inputs, "one b:two three four ") == 0, "%s", maker.inputs);
    on_loop(ws_drain, &third);
    settle(1);
    check(maker.drained == 1, "%u", maker.drained);
    /* Others may read it: as server-sent events they get what is text. */
    struct visit *reader = ask(METHOD_GET, stream_path("?after=1"), NULL, NULL);
    char wanted[300];
    snprintf(wanted, sizeof wanted, "id: %s.2\ndata: {json}\n\n", the_id);
    check(slice_is(text_slice(&reader->fake.answer), wanted), "%s",
          text_cstr(&reader->fake.answer));
    on_loop(end_with, NULL);
    settle(2);
    check(third.is_ended && third.ended.code == E_INTERNAL &&
              strcmp(third.ended.text, "the model failed") == 0,
          "%d %s", third.ended.code, third.ended.text);
    check(reader->fake.is_released, "the reader has its end");
    end_session();
}

TEST(a_session_whose_caller_closes_is_told_so)
{
    struct ws ws;

    begin_session(&ws);
    on_loop(ws_close, &ws);
    settle(1);
    check(maker.closed == 1 && maker.expired == 0, "%u", maker.closed);
    struct ws never;
    open_ws(&never, 5);
    check(never.code == E_NOT_FOUND, "no such event: %d", never.code);
    struct exchange *x = never.call.x;
    exchange_unref(&x);
    on_loop(end_stream, NULL);
    end_session();
}

TEST(a_stream_without_input_takes_no_messages)
{
    struct ws ws;

    begin(5, 40, 1 << 20);
    make_stream(5000, NULL);
    keep_id();
    put_many(1);
    open_ws(&ws, 0);
    check(ws.code == OK && strcmp(ws.sent, "{\"n\":7} ") == 0 && ws.reads == 1, "%s", ws.sent);
    ws_say(&ws, "hello", true);
    check(ws.is_ended && ws.ended.code == E_INVALID, "%d", ws.ended.code);
    on_loop(end_stream, NULL);
    settle(5);
    end();
}

/* -- cut, and cut again, on other loops ---------------------------------------------------------------- */

enum { CUTS = 200, FOLLOWERS = 3, STREAM = 20000 };

struct chain {
    struct loop *loop;
    struct loop_msg msg;
    pthread_t thread;
    uint64_t seen;
    unsigned cuts;
    uint64_t seed;
    struct visit *visit;
};

static struct chain chains[FOLLOWERS];
static pthread_mutex_t visits_lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t chance(struct chain *c, uint64_t bound)
{
    c->seed = c->seed * 6364136223846793005u + 1442695040888963407u;
    return (c->seed >> 33) % bound;
}

static void next_visit(struct chain *c);

static void start_next(struct loop_msg *msg)
{
    struct chain *c = CONTAINER_OF(msg, struct chain, msg);

    pthread_mutex_lock(&visits_lock);
    if (c->visit != NULL)
        free_visit(c->visit);
    pthread_mutex_unlock(&visits_lock);
    if (c->seen == STREAM)
        loop_stop(c->loop);
    else
        next_visit(c);
}

/* What the peer got are the bytes that it took; what lay in the socket is lost. */
static void on_cut(struct visit *visit)
{
    struct chain *c = &chains[loop_index(visit->loop) - 1];
    struct slice got = text_slice(&visit->fake.answer);
    size_t lost = visit->fake.x.is_gone ? visit->fake.waiting : 0;

    check(visit->fake.status == 200, "%u %.*s", visit->fake.status, SLICE_ARG(got));
    uint64_t seen = read_events(slice_first(got, got.size - MIN(lost, got.size)), c->seen);
    check(seen >= c->seen, "went back");
    c->seen = MAX(seen, c->seen);
    c->cuts += visit->fake.x.is_gone;
    c->msg.run = start_next;
    loop_post(c->loop, &c->msg); /* the visit is in use until this returns */
}

static void next_visit(struct chain *c)
{
    char last[300];

    pthread_mutex_lock(&visits_lock);
    c->visit = visit_of(c->loop, METHOD_GET, stream_path(""));
    pthread_mutex_unlock(&visits_lock);
    struct fake *fake = &c->visit->fake;
    c->visit->on_over = on_cut;
    fake->room = 200 + chance(c, 2000);
    fake->takes = 1 + chance(c, 3 * fake->room);
    if (c->cuts < CUTS)
        fake->gone_ms = (uint32_t)(1 + chance(c, 4));
    snprintf(last, sizeof last, "%s.%llu", the_id, (unsigned long long)c->seen);
    fake_header(fake, "last-event-id", last);
    start_visit(c->visit);
    /* `last` is read before this returns */
}

static void *run_chain(void *arg)
{
    loop_run(((struct chain *)arg)->loop);
    return NULL;
}

static uint64_t written;

static void write_on(struct resumable *r)
{
    while (written < STREAM && resumable_has_room(r))
        written += put_one(r);
    if (written == STREAM) {
        resumable_end(&maker.r);
        written++;
    }
}

static void begin_writing(void *arg UNUSED)
{
    write_on(maker.r);
}

static const struct resumable_user writer_user = { .on_room = write_on, .on_expired = on_expired };

static void make_writer(void *arg)
{
    struct maker *m = arg;

    require(resumable_new(&m->r, &api, &m->began->fake.x, 60 * NS_PER_S, &writer_user, m,
                          &m->err) == OK);
}

/* The maker's loop runs beside those of its readers, each of which loses its connection again and
 * again and goes on where it was. */
TEST(readers_that_are_cut_200_times_miss_nothing_and_see_nothing_twice)
{
    begin(5, 2 * STREAM, 16 << 20);
    written = 0;
    maker = (struct maker){ .keep_ms = 60000 };
    maker.began = visit_of(loop, METHOD_POST, "/make");
    on_loop(make_writer, &maker);
    keep_id();
    for (unsigned i = 0; i < FOLLOWERS; i++) {
        chains[i] = (struct chain){ .msg.run = start_next, .seed = test_random() };
        require(loop_new(&chains[i].loop, env_real(), i + 1, NULL) == OK);
        loop_post(chains[i].loop, &chains[i].msg);
    }
    on_loop(begin_writing, NULL);
    for (unsigned i = 0; i < FOLLOWERS; i++)
        require(pthread_create(&chains[i].thread, NULL, run_chain, &chains[i]) == 0);
    pthread_t writer;
    struct chain own = { .loop = loop };
    require(pthread_create(&writer, NULL, run_chain, &own) == 0);
    unsigned cuts = 0;
    for (unsigned i = 0; i < FOLLOWERS; i++) {
        pthread_join(chains[i].thread, NULL);
        check(chains[i].seen == STREAM, "reader %u saw %llu", i,
              (unsigned long long)chains[i].seen);
        cuts += chains[i].cuts;
    }
    loop_stop(loop);
    pthread_join(writer, NULL);
    check(cuts >= CUTS, "%u cuts", cuts);
    for (unsigned i = 0; i < FOLLOWERS; i++)
        loop_free(&chains[i].loop);
    struct exchange *x = &maker.began->fake.x;
    exchange_unref(&x);
    end();
}

/* -- faults --------------------------------------------------------------------------------------------- */

TEST(streams_survive_every_fault)
{
    for_each_fault(nth) {
        fault_arm(0);
        begin(5, 40, 1 << 20);
        maker = (struct maker){ .keep_ms = 5000 };
        maker.began = visit_of(loop, METHOD_POST, "/make");
        struct fake *fake = &maker.began->fake;
        require(text_room(&fake->answer, 1 << 16) != NULL &&
                text_room(&fake->headers, 4096) != NULL);
        fault_arm(nth);
        on_loop(make, &maker);
        unsigned put = 0;
        for (unsigned i = 0; i < 30 && maker.r != NULL; i++) {
            bool is_put = put_one(maker.r);
            put += is_put;
        }
        bool fired = fault_fired();
        fault_arm(0);
        if (maker.r != NULL) {
            snprintf(the_id, sizeof the_id, "%s", resumable_id(maker.r));
            on_loop(end_stream, NULL);
        }
        settle(3);
        check(fake->is_released, "fault %u", nth);
        if (fake->status == 200 && !fake->is_aborted)
            check(read_events(text_slice(&fake->answer), 0) == put, "fault %u: %u were put", nth,
                  put);
        end();
        if (!fired)
            break;
    }
}
