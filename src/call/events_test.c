/* events_test.c - what events look like, when they leave, and what becomes of a reader who does not
 * read. SPDX-License-Identifier: Apache-2.0 */
#include "call/events.h"

#include <stdlib.h>

#include "base/buf.h"
#include "base/clock.h"
#include "call/fake.h"
#include "io/env.h"
#include "test/harness.h"

static const struct slice none;

/* One stream, and a loop that takes one turn at a time. */
static struct stage {
    struct loop *loop;
    struct fake fake;
    struct events events;
    struct loop_msg msg;
    struct timer stop;
    void (*step)(void);
} stage;

static void on_stop(struct timer *timer UNUSED)
{
    loop_stop(stage.loop);
}

static void on_msg(struct loop_msg *msg UNUSED)
{
    stage.step();
    if (stage.stop.slot == 0)
        loop_stop(stage.loop);
}

/* `step` on the loop, and the turn's end. */
static void turn(void (*step)(void))
{
    stage.step = step;
    stage.msg.run = on_msg;
    loop_post(stage.loop, &stage.msg);
    loop_run(stage.loop);
}

static uint64_t wait_ms;

static void start_waiting(void)
{
    uint64_t due = loop_refresh_ns(stage.loop) + wait_ms * NS_PER_MS;

    stage.stop.on_due = on_stop;
    check(timer_start(stage.loop, &stage.stop, due, NULL) == OK, "a timer");
}

/* The loop goes on for so long. */
static void pass(uint64_t ms)
{
    wait_ms = ms;
    turn(start_waiting);
}

static void open_stage(void)
{
    struct err err = { 0 };

    memset(&stage, 0, sizeof stage);
    require(loop_new(&stage.loop, env_real(), 0, &err) == OK);
    fake_init(&stage.fake, stage.loop, slice_make("", 0));
}

static void stop_events(void)
{
    events_stop(&stage.events);
    events_stop(&stage.events);
}

static void drop_fake(void)
{
    fake_deinit(&stage.fake);
}

static void close_stage(void)
{
    turn(stop_events);
    turn(drop_fake);
    loop_free(&stage.loop);
}

static const char *sent(void)
{
    fake_flush(&stage.fake);
    return text_cstr(&stage.fake.answer);
}

static void begin_sse(void)
{
    static const struct header more = { SLICE_LIT("location"), SLICE_LIT("/streams/1") };

    events_begin(&stage.events, &stage.fake.x, EVENTS_SSE, 0, &more, 1);
}

static void begin_ndjson(void)
{
    events_begin(&stage.events, &stage.fake.x, EVENTS_NDJSON, 0, NULL, 0);
}

/* -- the form ------------------------------------------------------------------------------------- */

static void put_some(void)
{
    struct events *e = &stage.events;

    check(events_put(e, none, none, slice_of("{\"a\":1}")), "put");
    check(events_put(e, slice_of("n.7"), slice_of("loaded"), slice_of("{}")), "put");
    check(events_put(e, slice_of("n.8"), none, slice_of("2")), "put");
    uint8_t *at = events_open(e, none, none, 100);
    check_or_stop(at != NULL, "no room");
    memcpy(at, "[3]", 3);
    events_close(e, 3);
    /* What is forgotten leaves no trace. */
    at = events_open(e, slice_of("n.9"), none, 5000);
    check_or_stop(at != NULL, "no room");
    memset(at, 'x', 5000);
    events_discard(e);
    check(stage.fake.pieces_count == 0, "%u pieces before the turn's end", stage.fake.pieces_count);
}

TEST(sse_is_lines_and_an_empty_one)
{
    open_stage();
    turn(begin_sse);
    check(slice_is(fake_field(&stage.fake.head, "content-type"),
                   "text/event-stream; charset=utf-8"),
          "type");
    check(slice_is(fake_field(&stage.fake.head, "cache-control"), "no-cache"), "cache");
    check(slice_is(fake_field(&stage.fake.head, "x-accel-buffering"), "no"), "nginx");
    check(slice_is(fake_field(&stage.fake.head, "location"), "/streams/1"), "more");
    check(stage.fake.announced == -1 && stage.fake.x.status == 200, "%u", stage.fake.x.status);
    turn(put_some);
    check(stage.fake.pieces_count == 1, "%u pieces", stage.fake.pieces_count);
    check(strcmp(sent(), "data: {\"a\":1}\n\nid: n.7\nevent: loaded\ndata: {}\n\nid: n.8\ndata: "
                         "2\n\ndata: [3]\n\n") == 0,
          "%s", sent());
    close_stage();
}

TEST(ndjson_is_a_line_each)
{
    open_stage();
    turn(begin_ndjson);
    check(slice_is(fake_field(&stage.fake.head, "content-type"), "application/x-ndjson"), "type");
    turn(put_some);
    check(stage.fake.pieces_count == 1, "%u pieces", stage.fake.pieces_count);
    check(strcmp(sent(), "{\"a\":1}\n{}\n2\n[3]\n") == 0, "%s", sent());
    close_stage();
}

static void put_and_end(void)
{
    check(events_put(&stage.events, none, none, slice_of("1")), "put");
    events_end(&stage.events);
    check(stage.fake.x.is_ended, "it has ended");
    check(!events_put(&stage.events, none, none, slice_of("2")), "put behind the end");
    check(events_open(&stage.events, none, none, 1) == NULL, "opened behind the end");
    check(events_room(&stage.events) == 0, "room behind the end");
    events_end(&stage.events);
}

TEST(the_end_takes_along_what_is_there)
{
    open_stage();
    turn(begin_sse);
    turn(put_and_end);
    check(strcmp(sent(), "data: 1\n\n") == 0, "%s", sent());
    close_stage();
}

/* -- one write a turn ------------------------------------------------------------------------------ */

static unsigned many;

static void put_many(void)
{
    for (unsigned i = 0; i < many; i++) {
        uint8_t *at = events_open(&stage.events, none, none, 120);
        check_or_stop(at != NULL, "no room");
        memset(at, 'a' + (int)(i % 26), 100);
        events_close(&stage.events, 100);
    }
}

TEST(events_of_a_turn_are_one_piece_as_they_were_put)
{
    open_stage();
    turn(begin_ndjson);
    many = 500; /* grows many times */
    for (unsigned round = 1; round <= 3; round++) {
        turn(put_many);
        check(stage.fake.pieces_count == 1, "%u pieces", stage.fake.pieces_count);
        const char *text = sent();
        check_or_stop(strlen(text) == round * many * 101, "%zu bytes", strlen(text));
    }
    const char *text = sent();
    for (unsigned i = 0; i < 3 * many; i++)
        check_or_stop(text[i * 101] == 'a' + (int)(i % many % 26) &&
                          text[i * 101 + 99] == text[i * 101] && text[i * 101 + 100] == '\n',
                      "event %u", i);
    check(budget_used(&stage.fake.budget) == 0, "%llu bytes are kept between turns",
          (unsigned long long)budget_used(&stage.fake.budget));
    close_stage();
}

static void put_large(void)
{
    uint8_t *at = events_open(&stage.events, none, none, 1 << 20);
    check_or_stop(at != NULL, "no room");
    memset(at, '1', 1 << 20);
    events_close(&stage.events, 1 << 20);
}

static void put_small_and_large(void)
{
    many = 10;
    put_many();
    put_large();
    put_many();
}

TEST(large_events_do_not_make_others_wait_for_memory)
{
    open_stage();
    turn(begin_ndjson);
    turn(put_small_and_large);
    check(stage.fake.pieces_count <= 3, "%u pieces", stage.fake.pieces_count);
    check(strlen(sent()) == 20 * 101 + (1 << 20) + 1, "%zu bytes", strlen(sent()));
    close_stage();
}

/* -- room --------------------------------------------------------------------------------------- */

static void fill(void)
{
    /* The fake's room is 64 KiB, whatever waits. */
    check(events_room(&stage.events) == 65536, "%zu", events_room(&stage.events));
    many = 100;
    put_many();
    check(events_room(&stage.events) == 65536 - 100 * 101, "%zu", events_room(&stage.events));
    check(stage.fake.pieces_count == 0, "asking sends nothing while there is room");
    put_large();
    check(events_room(&stage.events) == 65536, "%zu", events_room(&stage.events));
    check(stage.fake.pieces_count != 0, "what is over the room is given to who knows of room");
}

TEST(room_is_less_by_what_is_not_sent_yet)
{
    open_stage();
    turn(begin_ndjson);
    turn(fill);
    check(strlen(sent()) == 100 * 101 + (1 << 20) + 1, "%zu bytes", strlen(sent()));
    close_stage();
}

/* -- heartbeats ----------------------------------------------------------------------------------- */

enum { BEAT_MS = 20 };
static enum events_form beating;

static void begin_beating(void)
{
    events_begin(&stage.events, &stage.fake.x, beating, BEAT_MS * NS_PER_MS, NULL, 0);
}

static unsigned count_of(const char *text, const char *what)
{
    unsigned count = 0;

    while ((text = strstr(text, what)) != NULL) {
        count++;
        text += strlen(what);
    }
    return count;
}

static void put_one(void)
{
    check(events_put(&stage.events, none, none, slice_of("1")), "put");
}

TEST(silence_has_a_beat)
{
    static const char *const beats[] = { [EVENTS_SSE] = ":\n\n", [EVENTS_NDJSON] = "\n" };

    for (beating = EVENTS_SSE; beating <= EVENTS_NDJSON; beating++) {
        open_stage();
        turn(begin_beating);
        pass(BEAT_MS * 9 / 2);
        unsigned beat = count_of(sent(), beats[beating]);
        check(beat >= 1 && beat <= 4, "%u beats in 4.5 times", beat);
        check(strlen(sent()) == beat * strlen(beats[beating]), "'%s'", sent());
        close_stage();
    }
}

TEST(who_is_told_something_needs_no_beat)
{
    open_stage();
    beating = EVENTS_SSE;
    turn(begin_beating);
    uint64_t begun = clock_mono_ns(), last = begun, longest = 0;
    while (last - begun < BEAT_MS * 8 * NS_PER_MS) {
        turn(put_one);
        pass(BEAT_MS / 8);
        uint64_t now = clock_mono_ns();
        longest = MAX(longest, now - last);
        last = now;
    }
    /* On a machine that was away for so long itself there is nothing to see. */
    if (longest < BEAT_MS * NS_PER_MS)
        check(strstr(sent(), ":\n") == NULL, "a beat although events came");
    close_stage();
}

static void leave(void)
{
    fake_leave(&stage.fake);
    check(!events_put(&stage.events, none, none, slice_of("1")), "put for nobody");
    check(events_room(&stage.events) == 0, "room of nobody");
    events_stop(&stage.events);
}

TEST(who_left_is_sent_nothing)
{
    open_stage();
    beating = EVENTS_SSE;
    turn(begin_beating);
    turn(put_one);
    turn(leave);
    pass(2 * BEAT_MS);
    check(strcmp(sent(), "data: 1\n\n") == 0, "%s", sent());
    close_stage();
}

/* -- memory ------------------------------------------------------------------------------------------ */

static void sweep(void)
{
    begin_beating();
    many = 20;
    for (unsigned i = 0; i < many && !stage.events.is_over; i++)
        if (!events_put(&stage.events, none, none,
                        slice_of("0123456789012345678901234567890123456789")))
            break;
    events_end(&stage.events);
}

TEST(events_survive_every_fault)
{
    beating = EVENTS_SSE;
    for_each_fault(nth) {
        fault_arm(0);
        open_stage();
        fault_arm(nth);
        turn(sweep);
        bool fired = fault_fired();
        fault_arm(0);
        if (!text_failed(&stage.fake.head)) /* that fault was the fake's own */
            check(fired == stage.fake.is_aborted, "fault %u: aborted %d", nth,
                  stage.fake.is_aborted);
        check(fired || count_of(sent(), "data: ") == many, "%s", sent());
        close_stage();
        if (!fired)
            break;
    }
}

/* -- what is asked for --------------------------------------------------------------------------- */

TEST(accept_chooses)
{
    enum { ONE = -1 };
    static const struct {
        const char *accept;
        int form;
        const char *why;
    } cases[] = {
        { "", ONE, "nothing" },
        { "*/*", ONE, "curl" },
        { "application/json", ONE, "JSON" },
        { "text/html,application/xhtml+xml,*/*;q=0.8", ONE, "a browser" },
        { "text/event-stream", EVENTS_SSE, "EventSource" },
        { "Text/Event-Stream; charset=utf-8", EVENTS_SSE, "case and parameters" },
        { "application/x-ndjson", EVENTS_NDJSON, "NDJSON" },
        { "application/jsonl", EVENTS_NDJSON, "its other name" },
        { "application/ndjson", EVENTS_NDJSON, "and its third" },
        { "text/event-stream, */*", EVENTS_SSE, "named wins over a wildcard" },
        { "text/event-stream, */*;q=0.1", EVENTS_SSE, "axios" },
        { "application/json, text/event-stream", ONE, "JSON of the same weight" },
        { "application/json;q=0.9, text/event-stream", EVENTS_SSE, "less JSON" },
        { "application/json, text/event-stream;q=0.9", ONE, "more JSON" },
        { "application/json;q=0.5, application/x-ndjson;q=0.6, text/event-stream;q=0.55",
          EVENTS_NDJSON, "three" },
        { "text/event-stream, application/x-ndjson", EVENTS_SSE, "SSE of two that are equal" },
        { "text/event-stream;q=0", ONE, "not that" },
        { "text/event-stream;q=0.0, application/x-ndjson;q=0.001", EVENTS_NDJSON, "hardly" },
        { "text/event-stream;q=abc", ONE, "no weight" },
        { "text/event-stream;q=2", ONE, "too much is no weight either" },
        { ",,;;q=1,", ONE, "nonsense" },
        { "text/event-stream ; Q=0.3 , application/* ; q=0.2", EVENTS_SSE, "blanks" },
        { "text/event-streams", ONE, "another type" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        enum events_form form = EVENTS_SSE;
        bool wanted = events_wanted(slice_of(cases[i].accept), &form);
        check((wanted ? (int)form : ONE) == cases[i].form, "%s: %s", cases[i].why, cases[i].accept);
    }
}

TEST(any_accept_is_read)
{
    static const char *const words[] = { "text/event-stream",
                                         "application/json",
                                         "*/*",
                                         ";",
                                         ",",
                                         "q=",
                                         "0.5",
                                         "1",
                                         " ",
                                         "\t",
                                         "=",
                                         "application/x-ndjson",
                                         ".",
                                         "q=0.",
                                         "\x80" };
    char text[256];

    for (unsigned round = 0; round < 20000; round++) {
        size_t size = 0;
        for (uint64_t n = test_random_below(12); n != 0; n--) {
            const char *word = words[test_random_below(COUNT(words))];
            memcpy(text + size, word, strlen(word));
            size += strlen(word);
        }
        char *exact = malloc(size + 1); /* so that a sanitizer sees a step too far */
        enum events_form form = (enum events_form)7;
        memcpy(exact, text, size);
        if (events_wanted(slice_make(exact, size), &form))
            check(form == EVENTS_SSE || form == EVENTS_NDJSON, "%d", form);
        free(exact);
    }
}
