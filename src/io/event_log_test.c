/* event_log_test.c - numbers, bounds, readers on several loops, writers that wait.
 * SPDX-License-Identifier: Apache-2.0 */
#include "io/event_log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/budget.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"
#include "test/harness.h"

static struct budget budget;

static struct event_log *make(uint64_t events_max, size_t bytes_max, bool keeps_unread)
{
    struct event_log_settings settings = { .events_max = events_max,
                                           .bytes_max = bytes_max,
                                           .budget = &budget,
                                           .keeps_unread = keeps_unread };
    struct event_log *log = NULL;
    struct err err = { 0 };

    budget_init(&budget, 64 << 20);
    require(event_log_new(&log, &settings, &err) == OK);
    return log;
}

static void done(struct event_log **log)
{
    event_log_unref(log);
    check(budget_used(&budget) == 0, "%llu bytes are still charged",
          (unsigned long long)budget_used(&budget));
}

/* What event `number` of a test is: some bytes that say it, of very different sizes. */
static size_t fill(uint8_t *out, uint64_t number)
{
    size_t size = number % 97 == 0 ? 20000 : number % 13 == 0 ? 700 : number % 7 == 0 ? 0 : 16;

    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)(number * 31 + i);
    return size;
}

static enum err_code put(struct event_log *log, uint64_t number)
{
    uint8_t bytes[20000];
    uint64_t got = 0;
    size_t size = fill(bytes, number);
    enum err_code code =
        event_log_append(log, (uint32_t)(number % 5), slice_make(bytes, size), &got, NULL);

    if (code == OK)
        check(got == number, "number %llu for %llu", (unsigned long long)got,
              (unsigned long long)number);
    return code;
}

/* Reads one and checks that it is what was put as that number. */
static enum event_read get(struct event_reader *reader, uint64_t *ret_number)
{
    struct slice bytes = { 0 };
    struct buf *holder = NULL;
    uint8_t wanted[20000];
    uint32_t kind = 99;
    enum event_read what = event_log_read_shared(reader, &bytes, &holder, &kind, ret_number);

    if (what == EVENT_READ_ONE) {
        size_t size = fill(wanted, *ret_number);
        check(kind == *ret_number % 5 && slice_eq(bytes, slice_make(wanted, size)),
              "event %llu is not what was put", (unsigned long long)*ret_number);
    }
    buf_unref(&holder);
    return what;
}

TEST(events_are_numbered_and_kept_up_to_the_bound)
{
    struct event_log *log = make(10, 1 << 20, false);
    struct event_reader reader = { .loop = NULL };
    uint64_t oldest, newest, number = 0;
    struct err err = { 0 };

    event_log_range(log, &oldest, &newest);
    check(oldest == 1 && newest == 0, "an empty log has %llu to %llu", (unsigned long long)oldest,
          (unsigned long long)newest);
    for (uint64_t n = 1; n <= 25; n++)
        check(put(log, n) == OK && event_log_has_room(log), "%llu", (unsigned long long)n);
    event_log_range(log, &oldest, &newest);
    check(oldest == 16 && newest == 25, "kept: %llu to %llu", (unsigned long long)oldest,
          (unsigned long long)newest);
    check(event_log_attach(log, &reader, 15, &err) == E_NOT_FOUND &&
              strcmp(err.text, "event 15 is not kept any more: there are 16 to 25") == 0,
          "%s", err.text);
    check(event_log_attach(log, &reader, 0, &err) == E_NOT_FOUND, "there is no number 0");
    check(event_log_attach(log, &reader, 27, &err) == E_NOT_FOUND &&
              strcmp(err.text, "event 27 has not been yet: the newest is 25") == 0,
          "%s", err.text);
    check_or_stop(event_log_attach(log, &reader, 24, &err) == OK, "%s", err.text);
    check(get(&reader, &number) == EVENT_READ_ONE && number == 24, "24");
    check(get(&reader, &number) == EVENT_READ_ONE && number == 25, "25");
    check(get(&reader, &number) == EVENT_READ_NONE, "nothing follows");
    for (uint64_t n = 26; n <= 45; n++)
        check(put(log, n) == OK, "%llu", (unsigned long long)n);
    check(get(&reader, &number) == EVENT_READ_LOST && number == 36, "overtaken: at %llu",
          (unsigned long long)number);
    check(get(&reader, &number) == EVENT_READ_ONE && number == 36, "goes on with the oldest");
    event_log_close(log);
    check(put(log, 46) == E_PRECONDITION, "closed");
    for (uint64_t n = 37; n <= 45; n++)
        check(get(&reader, &number) == EVENT_READ_ONE && number == n, "%llu",
              (unsigned long long)n);
    check(get(&reader, &number) == EVENT_READ_CLOSED, "the end");
    event_log_detach(&reader);
    event_log_detach(&reader); /* once more does nothing */
    done(&log);
}

TEST(bytes_are_bounded_too_and_the_newest_is_always_kept)
{
    struct event_log *log = make(1000, 1500, false);
    static uint8_t large[100000];
    uint64_t oldest, newest;

    for (unsigned i = 0; i < 5; i++)
        check(event_log_append(log, 0, slice_make(large, 400), NULL, NULL) == OK, "%u", i);
    event_log_range(log, &oldest, &newest);
    check(oldest == 3 && newest == 5, "1,200 bytes in %llu to %llu", (unsigned long long)oldest,
          (unsigned long long)newest);
    check(event_log_append(log, 0, slice_make(large, sizeof large), NULL, NULL) == OK, "large");
    event_log_range(log, &oldest, &newest);
    check(oldest == 6 && newest == 6, "%llu to %llu", (unsigned long long)oldest,
          (unsigned long long)newest);
    check(budget_used(&budget) < 120000, "%llu bytes are charged for it",
          (unsigned long long)budget_used(&budget));
    done(&log);
}

TEST(a_copy_goes_to_the_end_of_a_text)
{
    struct event_log *log = make(10, 1000, false);
    struct event_reader reader = { .loop = NULL };
    struct text out;
    uint64_t number;
    uint32_t kind;

    text_init(&out, 100);
    check(event_log_append(log, 7, slice_of("one"), NULL, NULL) == OK, "one");
    check(event_log_append(log, 8, slice_of(", two"), NULL, NULL) == OK, "two");
    check_or_stop(event_log_attach(log, &reader, 1, NULL) == OK, "attach");
    check(event_log_read(&reader, &out, &kind, &number) == EVENT_READ_ONE && kind == 7, "7");
    check(event_log_read(&reader, &out, &kind, &number) == EVENT_READ_ONE && kind == 8, "8");
    check(event_log_read(&reader, &out, &kind, &number) == EVENT_READ_NONE, "none");
    check(strcmp(text_cstr(&out), "one, two") == 0, "'%s'", text_cstr(&out));
    text_deinit(&out);
    event_log_detach(&reader);
    done(&log);
}

/* -- against a plain model ------------------------------------------------------------------------ */

enum { READERS = 4, EVENTS_MAX = 40, BYTES_MAX = 30000 };

static uint64_t plain_bytes(uint64_t from, uint64_t to)
{
    uint8_t bytes[20000];
    uint64_t sum = 0;

    for (uint64_t n = from; n <= to; n++)
        sum += fill(bytes, n);
    return sum;
}

static void random_steps(bool keeps_unread)
{
    struct event_log *log = make(EVENTS_MAX, BYTES_MAX, keeps_unread);
    struct event_reader readers[READERS] = { { .loop = NULL } };
    uint64_t next[READERS] = { 0 }; /* 0: not attached */
    uint64_t oldest = 1, newest = 0, number;
    unsigned reads = 0, lost = 0, refused = 0;

    for (unsigned step = 0; step < 10000; step++) {
        unsigned r = (unsigned)test_random_below(READERS);
        uint64_t unread = UINT64_MAX;
        for (unsigned i = 0; i < READERS; i++)
            if (next[i] != 0)
                unread = MIN(unread, next[i]);
        unread = unread == UINT64_MAX ? oldest : MAX(unread, oldest);
        switch (test_random_below(8)) {
        case 0:
            if (next[r] == 0) {
                uint64_t at = oldest + test_random_below(newest + 2 - oldest);
                check(event_log_attach(log, &readers[r], at, NULL) == OK, "step %u", step);
                next[r] = at;
            } else if (test_random_below(4) == 0) {
                event_log_detach(&readers[r]);
                next[r] = 0;
            }
            break;
        case 1:
        case 2: {
            bool is_full = keeps_unread && (newest + 1 - unread >= EVENTS_MAX ||
                                            plain_bytes(unread, newest) >= BYTES_MAX);
            bool has_room =
                !keeps_unread || (newest + 1 - unread < EVENTS_MAX - EVENTS_MAX / 4 &&
                                  plain_bytes(unread, newest) < BYTES_MAX - BYTES_MAX / 4);
            check(event_log_has_room(log) == has_room, "step %u: room", step);
            enum err_code code = put(log, newest + 1);
            check(code == (is_full ? E_EXHAUSTED : OK), "step %u: %d", step, code);
            refused += is_full;
            newest += code == OK;
            while (code == OK && oldest < (keeps_unread ? unread : newest) &&
                   (newest + 1 - oldest > EVENTS_MAX || plain_bytes(oldest, newest) > BYTES_MAX))
                oldest++;
            break;
        }
        default:
            if (next[r] == 0)
                break;
            enum event_read what = get(&readers[r], &number);
            if (next[r] > newest) {
                check(what == EVENT_READ_NONE, "step %u: %d", step, what);
            } else if (next[r] < oldest) {
                check(what == EVENT_READ_LOST && number == oldest, "step %u: lost", step);
                next[r] = oldest;
                lost++;
            } else {
                check(what == EVENT_READ_ONE && number == next[r], "step %u: one", step);
                next[r]++;
                reads++;
            }
        }
        uint64_t is_oldest, is_newest;
        event_log_range(log, &is_oldest, &is_newest);
        check_or_stop(is_oldest == oldest && is_newest == newest, "step %u: %llu to %llu", step,
                      (unsigned long long)is_oldest, (unsigned long long)is_newest);
    }
    check(reads > 1000, "%u reads", reads);
    check(keeps_unread ? lost == 0 && refused > 50 : lost > 10, "%u lost, %u refused", lost,
          refused);
    for (unsigned i = 0; i < READERS; i++)
        event_log_detach(&readers[i]);
    done(&log);
}

TEST(random_steps_against_a_plain_model)
{
    random_steps(false);
}

TEST(random_steps_against_a_plain_model_that_keeps_what_is_unread)
{
    random_steps(true);
}

/* -- telling -------------------------------------------------------------------------------------- */

static struct loop *loop_make(uint32_t index)
{
    struct loop *loop = NULL;

    require(loop_new(&loop, env_real(), index, NULL) == OK);
    return loop;
}

struct waiter {
    struct event_reader reader;
    unsigned told, read;
    unsigned leaves_at; /* detaches when it was told so often; 0: stays */
};

enum { WAITERS = 300 };
static struct waiter waiters[WAITERS];
static unsigned left_to_read;

static void read_all(struct waiter *w)
{
    uint64_t number;

    while (get(&w->reader, &number) == EVENT_READ_ONE) {
        w->read++;
        if (--left_to_read == 0)
            loop_stop(w->reader.loop);
    }
}

static void on_more(struct event_reader *reader)
{
    struct waiter *w = CONTAINER_OF(reader, struct waiter, reader);

    w->told++;
    if (w->told == w->leaves_at) {
        event_log_detach(reader);
        /* And takes its neighbour along, which may be about to be told. */
        event_log_detach(&w[1].reader);
        return;
    }
    read_all(w);
}

struct start {
    struct loop_msg msg;
    struct event_log *log;
    struct loop *loop;
};

static void attach_all(struct loop_msg *msg)
{
    struct start *s = CONTAINER_OF(msg, struct start, msg);

    for (unsigned i = 0; i < WAITERS; i++) {
        waiters[i] = (struct waiter){ .reader = { .loop = s->loop, .on_more = on_more },
                                      .leaves_at = i % 10 == 3 ? 1 : 0 };
        require(event_log_attach(s->log, &waiters[i].reader, 1, NULL) == OK);
        read_all(&waiters[i]);
    }
    check(put(s->log, 1) == OK && put(s->log, 2) == OK, "put");
}

static void detach_all(struct loop_msg *msg)
{
    struct start *s = CONTAINER_OF(msg, struct start, msg);

    for (unsigned i = 0; i < WAITERS; i++)
        event_log_detach(&waiters[i].reader);
    loop_stop(s->loop);
}

TEST(readers_are_told_once_and_may_leave_while_others_are_told)
{
    struct event_log *log = make(10, 10000, false);
    struct loop *loop = loop_make(0);
    struct start start = { { .run = attach_all }, log, loop };
    struct start end = { { .run = detach_all }, log, loop };

    left_to_read = 2 * (WAITERS - 2 * (WAITERS / 10));
    loop_post(loop, &start.msg);
    loop_run(loop);
    for (unsigned i = 0; i < WAITERS; i++) {
        bool has_left = i % 10 == 3 || i % 10 == 4;
        check(waiters[i].read == (has_left ? 0u : 2u), "reader %u read %u", i, waiters[i].read);
        check(waiters[i].told == (i % 10 == 4 ? 0u : 1u), "reader %u was told %u times", i,
              waiters[i].told);
    }
    loop_post(loop, &end.msg);
    loop_run(loop);
    done(&log);
    loop_free(&loop);
}

/* A loop that ends with a message on its way gives the log's reference back. */
TEST(a_loop_may_end_before_its_readers_are_told)
{
    struct event_log *log = make(10, 10000, false);
    struct loop *loop = loop_make(0);
    struct start start = { { .run = attach_all }, log, loop };
    struct start end = { { .run = detach_all }, log, loop };

    left_to_read = UINT32_MAX;
    loop_post(loop, &start.msg);
    loop_post(loop, &end.msg);
    loop_run(loop);
    event_log_unref(&log); /* the message on its way holds it still */
    loop_free(&loop);
    check(budget_used(&budget) == 0, "%llu", (unsigned long long)budget_used(&budget));
}

/* -- a writer that waits, readers on two loops, and threads ---------------------------------------- */

enum { FAST = 3, STREAM = 30000 };

struct follower {
    struct event_reader reader;
    uint64_t seen;
    unsigned waits; /* pauses now and then, for so many rounds */
    struct loop_task again;
    atomic_bool is_over;
};

static atomic_uint followers_over, followers_there;

static void follow(struct follower *f)
{
    uint64_t number;
    enum event_read what;

    for (unsigned i = 0; i < 50; i++) {
        if (f->waits > 0 && test_random_below(100) == 0)
            break; /* a reader without room for a turn */
        what = get(&f->reader, &number);
        if (what == EVENT_READ_NONE)
            return;
        if (what == EVENT_READ_CLOSED) {
            event_log_detach(&f->reader);
            atomic_fetch_add(&followers_over, 1);
            loop_stop(f->reader.loop);
            return;
        }
        check(what == EVENT_READ_ONE && number == f->seen + 1, "%llu after %llu",
              (unsigned long long)number, (unsigned long long)f->seen);
        f->seen = number;
    }
    loop_defer(f->reader.loop, &f->again);
}

static void follow_again(struct loop_task *task)
{
    follow(CONTAINER_OF(task, struct follower, again));
}

static void on_follow(struct event_reader *reader)
{
    follow(CONTAINER_OF(reader, struct follower, reader));
}

struct writer;

struct side {
    struct loop_msg msg;
    struct loop *loop;
    struct event_log *log;
    struct writer *writer;
    struct follower follower;
};

static void *loop_thread(void *arg)
{
    loop_run(arg);
    return NULL;
}

struct writer {
    struct loop_msg msg;
    struct event_log *log;
    struct loop *loop;
    uint64_t next;
    unsigned paused;
};

static void write_more(struct writer *w)
{
    while (w->next <= STREAM) {
        if (!event_log_has_room(w->log)) {
            w->paused++;
            return;
        }
        for (unsigned i = 0; i < 4 && w->next <= STREAM; i++, w->next++)
            check(put(w->log, w->next) == OK, "%llu", (unsigned long long)w->next);
    }
    event_log_close(w->log);
    loop_stop(w->loop);
}

static void on_room(void *context)
{
    write_more(context);
}

static void start_writer(struct loop_msg *msg)
{
    write_more(CONTAINER_OF(msg, struct writer, msg));
}

static void start_side(struct loop_msg *msg)
{
    struct side *side = CONTAINER_OF(msg, struct side, msg);

    side->follower.reader = (struct event_reader){ .loop = side->loop, .on_more = on_follow };
    side->follower.again.run = follow_again;
    require(event_log_attach(side->log, &side->follower.reader, 1, NULL) == OK);
    /* The last one starts the writer: what it drops for the first would be gone for the others. */
    if (atomic_fetch_add(&followers_there, 1) + 1 == FAST)
        loop_post(side->writer->loop, &side->writer->msg);
    follow(&side->follower);
}

TEST(a_writer_waits_for_the_slowest_of_readers_on_other_loops)
{
    struct writer writer = { .msg.run = start_writer, .loop = loop_make(0), .next = 1 };
    struct event_log_settings settings = { .events_max = 100,
                                           .bytes_max = 100000,
                                           .budget = &budget,
                                           .keeps_unread = true,
                                           .writer = writer.loop,
                                           .on_room = on_room,
                                           .context = &writer };
    static struct side sides[FAST];
    pthread_t threads[FAST];

    budget_init(&budget, 64 << 20);
    require(event_log_new(&writer.log, &settings, NULL) == OK);
    atomic_store(&followers_over, 0);
    atomic_store(&followers_there, 0);
    for (unsigned i = 0; i < FAST; i++) {
        sides[i] = (struct side){
            .msg.run = start_side, .loop = loop_make(i + 1), .log = writer.log, .writer = &writer
        };
        sides[i].follower.waits = i == 1;
        loop_post(sides[i].loop, &sides[i].msg);
        require(pthread_create(&threads[i], NULL, loop_thread, sides[i].loop) == 0);
    }
    loop_run(writer.loop);
    for (unsigned i = 0; i < FAST; i++) {
        pthread_join(threads[i], NULL);
        check(sides[i].follower.seen == STREAM, "reader %u saw %llu", i,
              (unsigned long long)sides[i].follower.seen);
        loop_free(&sides[i].loop);
    }
    check(writer.paused > 10, "the writer paused %u times", writer.paused);
    loop_free(&writer.loop);
    done(&writer.log);
}

/* Many threads append to a log that drops; readers count what they saw and what they lost. */

enum { APPENDERS = 3, EACH = 20000 };

static void *append_thread(void *arg)
{
    struct event_log *log = arg;
    uint64_t number;

    for (unsigned i = 0; i < EACH; i++)
        require(event_log_append(log, 3, slice_make("0123456789abcdef", i % 17), &number, NULL) ==
                OK);
    return NULL;
}

struct counter {
    struct loop_msg msg;
    struct loop *loop;
    struct event_log *log;
    struct event_reader reader;
    uint64_t expected, lost;
};

static void count_on(struct event_reader *reader)
{
    struct counter *c = CONTAINER_OF(reader, struct counter, reader);
    struct buf *holder = NULL;
    struct slice bytes;
    uint64_t number = 0;
    uint32_t kind;

    for (;;) {
        switch (event_log_read_shared(reader, &bytes, &holder, &kind, &number)) {
        case EVENT_READ_ONE:
            check(number == c->expected, "%llu for %llu", (unsigned long long)number,
                  (unsigned long long)c->expected);
            check(memcmp(bytes.data, "0123456789abcdef", bytes.size) == 0, "bytes");
            buf_unref(&holder);
            c->expected++;
            continue;
        case EVENT_READ_LOST:
            check(number > c->expected, "%llu", (unsigned long long)number);
            c->lost += number - c->expected;
            c->expected = number;
            continue;
        case EVENT_READ_NONE: return;
        case EVENT_READ_CLOSED:
            event_log_detach(reader);
            loop_stop(c->loop);
            return;
        }
    }
}

static void start_count(struct loop_msg *msg)
{
    struct counter *c = CONTAINER_OF(msg, struct counter, msg);

    c->reader = (struct event_reader){ .loop = c->loop, .on_more = count_on };
    c->expected = 1;
    if (event_log_attach(c->log, &c->reader, 1, NULL) != OK) {
        uint64_t oldest, newest;
        event_log_range(c->log, &oldest, &newest);
        c->expected = newest + 1;
        while (event_log_attach(c->log, &c->reader, c->expected, NULL) != OK) {
            event_log_range(c->log, &oldest, &newest);
            c->expected = newest + 1;
        }
    }
    count_on(&c->reader);
}

TEST(many_threads_append_while_readers_follow)
{
    struct event_log *log = make(500, 1 << 20, false);
    static struct counter counters[2];
    pthread_t threads[APPENDERS], loops[2];

    for (unsigned i = 0; i < 2; i++) {
        counters[i] = (struct counter){ .msg.run = start_count, .loop = loop_make(i), .log = log };
        loop_post(counters[i].loop, &counters[i].msg);
        require(pthread_create(&loops[i], NULL, loop_thread, counters[i].loop) == 0);
    }
    for (unsigned i = 0; i < APPENDERS; i++)
        require(pthread_create(&threads[i], NULL, append_thread, log) == 0);
    for (unsigned i = 0; i < APPENDERS; i++)
        pthread_join(threads[i], NULL);
    event_log_close(log);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(loops[i], NULL);
        check(counters[i].expected == APPENDERS * EACH + 1, "reader %u stands at %llu", i,
              (unsigned long long)counters[i].expected);
        loop_free(&counters[i].loop);
    }
    done(&log);
}

/* -- faults ------------------------------------------------------------------------------------- */

TEST(a_log_survives_every_fault)
{
    for_each_fault(nth) {
        struct event_log_settings settings = { .events_max = 100,
                                               .bytes_max = 100000,
                                               .budget = &budget };
        struct event_reader reader = { .loop = NULL };
        struct loop *loop = NULL;
        struct event_log *log = NULL;
        struct err err = { 0 };
        uint64_t number, appended = 0, read = 0;

        budget_init(&budget, 64 << 20);
        enum err_code code = event_log_new(&log, &settings, &err);
        for (uint64_t n = 1; n <= 40 && code == OK; n++) {
            code = put(log, n);
            appended += code == OK;
            if (code != OK) /* what failed has no number: the next gets it */
                check(put(log, n) == OK && ++appended == n, "fault %u", nth);
        }
        bool is_new = code == OK || log != NULL;
        check(is_new || err.text[0] != '\0', "fault %u was silent", nth);
        if (log != NULL && event_log_attach(log, &reader, 1, &err) == OK) {
            while (get(&reader, &number) == EVENT_READ_ONE)
                read++;
            check(read == appended, "fault %u: %llu of %llu", nth, (unsigned long long)read,
                  (unsigned long long)appended);
            event_log_detach(&reader);
        }
        loop_free(&loop);
        event_log_unref(&log);
        check(budget_used(&budget) == 0, "fault %u leaked", nth);
        if (!fault_fired())
            break;
    }
}

/* A log that is full, of a budget that is spent, beneath every fault: its last event is there. */
TEST(the_last_event_is_never_refused)
{
    for_each_fault(nth) {
        struct event_log_settings settings = { .events_max = 40,
                                               .bytes_max = 5000,
                                               .budget = &budget,
                                               .keeps_unread = true,
                                               .last_bytes = 100 };
        const struct slice last[] = { slice_of("it is "), slice_of("over") };
        struct event_reader reader = { .loop = NULL };
        struct event_log *log = NULL;
        struct err err = { 0 };
        char said[100];
        struct text out;
        uint64_t number, appended = 0;
        uint32_t kind;

        budget_init(&budget, 64 << 20);
        if (event_log_new(&log, &settings, &err) != OK) {
            check(err.text[0] != '\0' && budget_used(&budget) == 0, "fault %u", nth);
            continue;
        }
        for (unsigned tries = 0; tries < 2; tries += put(log, appended + 1) != OK || !++appended)
            continue;
        size_t left = (size_t)budget.left;
        require(budget_take(&budget, left));
        check(event_log_append_last(log, 9, last, 2, &number, &err) == OK && number == appended + 1,
              "fault %u: %s", nth, err.text);
        budget_give(&budget, left);
        event_log_close(log);
        require(event_log_attach(log, &reader, 1, &err) == OK);
        for (uint64_t n = 1; n <= appended; n++)
            check(get(&reader, &number) == EVENT_READ_ONE && number == n, "fault %u", nth);
        text_init_fixed(&out, said, sizeof said);
        check(event_log_read(&reader, &out, &kind, &number) == EVENT_READ_ONE && kind == 9 &&
                  strcmp(text_cstr(&out), "it is over") == 0,
              "fault %u: '%s'", nth, text_cstr(&out));
        check(event_log_read(&reader, &out, &kind, &number) == EVENT_READ_CLOSED, "fault %u", nth);
        event_log_detach(&reader);
        event_log_unref(&log);
        check(budget_used(&budget) == 0, "fault %u leaked", nth);
        if (!fault_fired())
            break;
    }
}

TEST(a_spent_budget_is_told)
{
    struct event_log_settings settings = { .events_max = 100,
                                           .bytes_max = 100000,
                                           .budget = &budget };
    static const uint8_t plenty[3000];
    struct event_log *log = NULL;
    struct err err = { 0 };

    budget_init(&budget, 10);
    check(event_log_new(&log, &settings, &err) == E_EXHAUSTED &&
              strstr(err.text, "--memory-limit") != NULL,
          "%s", err.text);
    budget_init(&budget, 3000);
    check_or_stop(event_log_new(&log, &settings, &err) == OK, "%s", err.text);
    check(event_log_append(log, 0, slice_of("a"), NULL, &err) == OK, "%s", err.text);
    check(event_log_append(log, 0, slice_make(plenty, sizeof plenty), NULL, &err) == E_EXHAUSTED &&
              strstr(err.text, "--memory-limit") != NULL,
          "%s", err.text);
    check(event_log_append(log, 0, slice_of("b"), NULL, &err) == OK, "and small ones go on");
    done(&log);
}
