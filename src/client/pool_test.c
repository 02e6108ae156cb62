/* pool_test.c - the pool against a real server that drains, refuses, stalls, breaks and lies.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/pool.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "client/client.h"
#include "client/test_peer.h"
#include "io/loop.h"
#include "test/harness.h"
#include "wire/http2.h"

/* -- driving a pool ---------------------------------------------------------------------------- */

enum { ASKS_MAX = 600 };

struct drive;

struct ask {
    struct drive *drive;
    struct client_exchange *x;
    struct err why;
    struct answer *answer; /* owned */
    uint64_t body_bytes;   /* of a piecewise body */
    struct client_times times;
    bool is_over;
    bool grants; /* a piecewise body is granted as it comes */
};

struct drive {
    struct loop *loop;
    struct client_pool *pool;
    struct ask asks[ASKS_MAX];
    uint32_t asks_count, under_way;
    struct timer watchdog;
    bool has_stalled;
};

static void on_watchdog(struct timer *timer)
{
    struct drive *d = CONTAINER_OF(timer, struct drive, watchdog);

    d->has_stalled = true;
    loop_stop(d->loop);
}

static void on_nap_over(struct timer *timer)
{
    loop_stop(CONTAINER_OF(timer, struct drive, watchdog)->loop);
}

static struct drive *drive_new(const struct peer *peer, struct client_pool_settings settings)
{
    struct drive *d = calloc(1, sizeof *d);
    struct err err = { 0 };

    settings.url = peer_url(peer);
    require(loop_new(&d->loop, env_real(), 0, &err) == OK);
    enum err_code code = client_pool_new(&d->pool, d->loop, &settings, &err);
    check(code == OK, "%s", err.text);
    return d;
}

static void drive_free(struct drive **slot)
{
    struct drive *d = TAKE(*slot);

    if (d == NULL)
        return;
    client_pool_free(&d->pool);
    loop_free(&d->loop);
    for (uint32_t i = 0; i < d->asks_count; i++)
        answer_free(&d->asks[i].answer);
    free(d);
}

/* Until all that was asked is over. */
static void drive_run(struct drive *d)
{
    struct err err;

    if (d->under_way == 0)
        return;
    d->watchdog.on_due = on_watchdog;
    require(timer_start(d->loop, &d->watchdog, loop_refresh_ns(d->loop) + 20 * NS_PER_S, &err) ==
            OK);
    loop_run(d->loop);
    timer_stop(d->loop, &d->watchdog);
    check(!d->has_stalled, "it hangs: %u under way", d->under_way);
}

static void drive_nap(struct drive *d, uint64_t ms)
{
    struct err err;

    d->watchdog.on_due = on_nap_over;
    require(timer_start(d->loop, &d->watchdog, loop_refresh_ns(d->loop) + ms * NS_PER_MS, &err) ==
            OK);
    loop_run(d->loop);
    timer_stop(d->loop, &d->watchdog);
}

/* Goes on until something is so, for ten seconds at the most: how long it takes is the machine's. */
#define drive_until(d, condition)                                                                  \
    do {                                                                                           \
        for (int naps = 0; naps < 1000 && !(condition); naps++)                                    \
            drive_nap(d, 10);                                                                      \
    } while (0)

static void on_end(struct client_exchange *x, const struct err *why)
{
    struct ask *ask = client_exchange_data(x);

    check(!ask->is_over, "on_end comes once");
    ask->is_over = true;
    ask->why = *why;
    ask->answer = client_exchange_take(x);
    ask->times = client_exchange_times(x);
    ask->x = NULL;
    if (--ask->drive->under_way == 0)
        loop_stop(ask->drive->loop);
}

static void on_body(struct client_exchange *x, struct slice piece)
{
    struct ask *ask = client_exchange_data(x);

    ask->body_bytes += piece.size;
    if (ask->grants)
        client_exchange_grant(x, piece.size);
}

static const struct client_exchange_user whole_user = { .on_end = on_end };
static const struct client_exchange_user piece_user = { .on_body = on_body, .on_end = on_end };

static struct ask *ask_as(struct drive *d, struct client_ask wanted)
{
    require(d->asks_count < ASKS_MAX);
    struct ask *ask = &d->asks[d->asks_count++];

    ask->drive = d;
    wanted.user_data = ask;
    if (wanted.user == NULL)
        wanted.user = &whole_user;
    if (client_pool_ask(d->pool, &wanted, &ask->x, &ask->why) == OK)
        d->under_way++;
    else
        ask->is_over = true;
    return ask;
}

static struct ask *get(struct drive *d, const char *path)
{
    return ask_as(d, (struct client_ask){ .request = { .method = "GET", .target = path } });
}

static struct ask *post(struct drive *d, const char *path, struct slice body)
{
    return ask_as(d, (struct client_ask){
                         .request = { .method = "POST", .target = path, .body = body } });
}

static bool is_hi(const struct ask *ask)
{
    return ask->why.code == OK && ask->answer != NULL && ask->answer->status == 200 &&
           slice_is(ask->answer->body, "hi");
}

static const struct client_pool_settings http2 = { .protocol = CLIENT_HTTP2, .connections_max = 4 };

/* -- plain work -------------------------------------------------------------------------------- */

TEST(pool_asks_many_at_once_on_one_connection)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    for (int i = 0; i < 80; i++)
        post(d, "/echo", slice_of("{\"a\":1}"));
    drive_run(d);
    for (uint32_t i = 0; i < d->asks_count; i++) {
        struct ask *a = &d->asks[i];
        check(a->why.code == OK && slice_is(a->answer->body, "{\"a\":1}"), "%u: %s", i,
              a->why.text);
    }
    check(peer_connections(peer) == 1, "%u connections", peer_connections(peer));
    struct ask *next = get(d, "/trailers");
    drive_run(d);
    check(next->times.was_kept, "the connection is kept");
    check(next->answer != NULL && slice_is(answer_trailer(next->answer, "x-sum"), "7"), "trailers");
}

TEST(pool_carries_large_bodies_both_ways)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);
    size_t size = 5 << 20;
    uint8_t *bytes = malloc(size);

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 7 + (i >> 9));
    struct ask *echo = post(d, "/echo", slice_make(bytes, size));
    struct ask *big = get(d, "/big/9000000");
    drive_run(d);
    check(echo->why.code == OK && slice_eq(echo->answer->body, slice_make(bytes, size)), "%s",
          echo->why.text);
    check(big->why.code == OK && big->answer->body.size == 9000000, "%s", big->why.text);
    for (size_t i = 0; big->why.code == OK && i < big->answer->body.size; i += 4099)
        check(big->answer->body.data[i] == (uint8_t)(i * 31), "byte %zu", i);
    free(bytes);
}

TEST(pool_holds_no_more_of_an_answer_than_its_window)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    struct client_pool_settings settings = http2;
    settings.window_bytes = 65536;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);

    struct ask *slow =
        ask_as(d, (struct client_ask){ .request = { .method = "GET", .target = "/big/1000000" },
                                       .user = &piece_user });
    drive_until(d, slow->body_bytes >= 65536);
    drive_nap(d, 50);
    check(slow->body_bytes == 65536, "%llu bytes came", (unsigned long long)slow->body_bytes);
    /* Others go on meanwhile. */
    struct ask *other = get(d, "/hi");
    drive_until(d, other->is_over);
    check(is_hi(other), "%s", other->why.text);
    slow->grants = true;
    client_exchange_grant(slow->x, slow->body_bytes);
    drive_run(d);
    check(slow->why.code == OK && slow->body_bytes == 1000000, "%llu: %s",
          (unsigned long long)slow->body_bytes, slow->why.text);
}

static void on_room(struct client_exchange *x)
{
    struct ask *ask = client_exchange_data(x);

    /* Five pieces, one behind the other. */
    if (++ask->body_bytes < 5)
        check(client_exchange_send(x, slice_of("0123456789"), NULL), "there is memory");
    else
        client_exchange_finish(x);
}

TEST(pool_sends_a_body_in_pieces)
{
    static const struct client_exchange_user user = { .on_room = on_room, .on_end = on_end };
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    struct ask *ask = ask_as(d, (struct client_ask){ .request = { .method = "POST",
                                                                  .target = "/echo",
                                                                  .body = SLICE_LIT("0123456789") },
                                                     .is_open = true,
                                                     .user = &user });
    drive_run(d);
    check(ask->why.code == OK && ask->answer->body.size == 50, "%s: %zu", ask->why.text,
          ask->answer == NULL ? 0 : ask->answer->body.size);
}

/* -- bounds ------------------------------------------------------------------------------------ */

TEST(pool_keeps_to_the_servers_number_of_streams)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ .streams_max = 3 });
    struct client_pool_settings settings = http2;
    settings.connections_max = 2;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);

    get(d, "/hi");
    drive_run(d);
    for (int i = 0; i < 40; i++)
        get(d, "/late/5");
    drive_run(d);
    for (uint32_t i = 0; i < d->asks_count; i++)
        check(is_hi(&d->asks[i]), "%u: %s", i, d->asks[i].why.text);
    check(peer_streams_most(peer) <= 3, "%u streams at once", peer_streams_most(peer));
    check(peer_connections(peer) == 2, "%u connections", peer_connections(peer));
}

TEST(pool_refuses_what_is_past_its_queue)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ .streams_max = 1 });
    struct client_pool_settings settings = http2;
    settings.connections_max = 1;
    settings.waiting_max = 5;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);

    struct ask *first = get(d, "/late/50");
    drive_nap(d, 20);
    for (int i = 0; i < 5; i++)
        get(d, "/hi");
    struct ask *refused = get(d, "/hi");
    check(refused->why.code == E_EXHAUSTED, "%d", refused->why.code);
    check(strstr(refused->why.text, "5 requests wait") != NULL, "%s", refused->why.text);
    drive_run(d);
    check(is_hi(first) && is_hi(&d->asks[5]), "those that waited are answered");
    check(client_pool_stats(d->pool).waiting == 0, "none waits");
}

TEST(pool_bounds_headers_and_bodies)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    struct client_pool_settings settings = http2;
    settings.limits = (struct answer_limits){ .header_bytes_max = 1000, .body_bytes_max = 1000 };
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);

    struct ask *big = get(d, "/big/1001"), *fits = get(d, "/big/1000");
    struct ask *headers = get(d, "/headers/1200");
    drive_run(d);
    check(big->why.code == E_RANGE, "%d %s", big->why.code, big->why.text);
    check(strstr(big->why.text, "body is larger than the limit, 1000") != NULL, "%s",
          big->why.text);
    check(fits->why.code == OK, "%s", fits->why.text);
    check(headers->why.code == E_RANGE, "%d %s", headers->why.code, headers->why.text);
    struct ask *hi = get(d, "/hi");
    drive_run(d);
    check(is_hi(hi) && peer_connections(peer) == 1, "the connection lives on: %s", hi->why.text);
}

/* -- warm, idle, alive ------------------------------------------------------------------------- */

TEST(pool_keeps_warm_connections_and_closes_idle_ones)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ .streams_max = 1 });
    struct client_pool_settings settings = http2;
    settings.connections_max = 4;
    settings.connections_warm = 2;
    settings.idle_timeout_ns = 100 * NS_PER_MS;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);

    drive_until(d, client_pool_stats(d->pool).connections == 2);
    check(client_pool_stats(d->pool).connections == 2, "%u are warm",
          client_pool_stats(d->pool).connections);
    struct ask *hi = get(d, "/hi");
    drive_run(d);
    check(is_hi(hi) && hi->times.was_kept, "no connecting");
    for (int i = 0; i < 8; i++)
        get(d, "/late/10");
    drive_run(d);
    check(client_pool_stats(d->pool).connections <= 4 && peer_connections(peer) >= 4,
          "%u connections", peer_connections(peer));
    drive_until(d, client_pool_stats(d->pool).connections == 2);
    drive_nap(d, 200); /* and no fewer, however long they are idle */
    check(client_pool_stats(d->pool).connections == 2, "%u are kept",
          client_pool_stats(d->pool).connections);
}

TEST(pool_asks_a_silent_server_whether_it_lives)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(peer_stop)
    struct peer *dead = peer_start(&(struct peer_settings){ .ignores_pings = true });
    struct client_pool_settings settings = http2;
    settings.ping_ns = 20 * NS_PER_MS;
    settings.ping_timeout_ns = 60 * NS_PER_MS;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);
    CLEANUP(drive_free) struct drive *e = drive_new(dead, settings);

    struct ask *late = get(d, "/late/200");
    drive_run(d);
    check(is_hi(late), "one that answers pings is left alone: %s", late->why.text);
    check(client_pool_stats(d->pool).pings_total >= 2, "pings");
    struct ask *lost = get(e, "/hi");
    drive_run(e);
    check(lost->why.code == E_UNAVAILABLE, "%d", lost->why.code);
    check(strstr(lost->why.text, "no sign of life") != NULL, "%s", lost->why.text);
}

/* -- leaving ----------------------------------------------------------------------------------- */

TEST(pool_drains_a_connection_that_says_goaway)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    struct ask *slow = get(d, "/late/800");
    drive_until(d, peer_requests(peer) == 1);
    struct ask *last = get(d, "/goaway");
    drive_until(d, last->is_over);
    check(is_hi(last), "what it took is answered: %s", last->why.text);
    struct ask *next = get(d, "/hi");
    drive_until(d, next->is_over);
    check(is_hi(next) && !slow->is_over, "new ones go elsewhere meanwhile: %s", next->why.text);
    check(peer_connections(peer) == 2, "%u connections", peer_connections(peer));
    drive_run(d);
    check(is_hi(slow), "the slow one ends there: %s", slow->why.text);
    drive_until(d, client_pool_stats(d->pool).connections == 1);
    check(client_pool_stats(d->pool).connections == 1, "the first is closed then");
}

TEST(pool_asks_again_what_goaway_left_out)
{
    /* GOAWAY with each fifth request: those behind it were not acted upon. */
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ .goaway_after = 5 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    get(d, "/hi");
    drive_run(d);
    for (int i = 0; i < 6; i++)
        post(d, "/echo", slice_of("x"));
    drive_run(d);
    for (uint32_t i = 1; i < d->asks_count; i++) {
        struct ask *a = &d->asks[i];
        check(a->why.code == OK && slice_is(a->answer->body, "x"), "%u: %s", i, a->why.text);
    }
    check(client_pool_stats(d->pool).repeated_total > 0, "some were asked twice");
    check(peer_connections(peer) >= 2, "%u connections", peer_connections(peer));
}

TEST(pool_asks_once_more_what_was_refused_and_only_once)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    struct ask *once = post(d, "/refuse", slice_of("{}"));
    drive_run(d);
    check(is_hi(once), "%s", once->why.text);
    check(peer_requests(peer) == 2, "%u requests", peer_requests(peer));
    struct ask *always = post(d, "/reset/7", slice_of("{}"));
    drive_run(d);
    check(always->why.code == E_UNAVAILABLE, "%d %s", always->why.code, always->why.text);
    check(strstr(always->why.text, "REFUSED_STREAM") != NULL, "%s", always->why.text);
    check(peer_requests(peer) == 4, "%u requests", peer_requests(peer));
}

TEST(pool_tells_what_a_reset_means)
{
    static const struct {
        const char *path;
        enum err_code code;
        const char *word;
    } cases[] = { { "/reset/8", E_CANCELLED, "CANCEL" },
                  { "/reset/11", E_EXHAUSTED, "ENHANCE_YOUR_CALM" },
                  { "/reset/2", E_INTERNAL, "INTERNAL_ERROR" },
                  { "/reset/12", E_PERMISSION, "INADEQUATE_SECURITY" } };
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct ask *ask = get(d, cases[i].path);
        drive_run(d);
        check(ask->why.code == cases[i].code, "%s: %d", cases[i].path, ask->why.code);
        check(strstr(ask->why.text, cases[i].word) != NULL, "%s", ask->why.text);
    }
    check(peer_requests(peer) == COUNT(cases), "none is asked twice");
    check(peer_connections(peer) == 1, "the connection lives on");
}

TEST(pool_tells_what_is_known_of_a_broken_connection)
{
    static const struct {
        const char *path;
        enum err_code code;
        const char *words;
    } cases[] = { { "/die", E_UNAVAILABLE, "closed the connection in the middle of a request" },
                  { "/half", E_UNAVAILABLE, "closed the connection" },
                  { "/garbage", E_DATA_LOSS, "127.0.0.1:" } };
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct ask *ask = post(d, cases[i].path, slice_of("{}"));
        drive_run(d);
        check(ask->why.code == cases[i].code, "%s: %d %s", cases[i].path, ask->why.code,
              ask->why.text);
        check(strstr(ask->why.text, cases[i].words) != NULL, "%s: %s", cases[i].path,
              ask->why.text);
        struct ask *hi = get(d, "/hi");
        drive_run(d);
        check(is_hi(hi), "the next gets a new connection: %s", hi->why.text);
    }
    check(peer_requests(peer) == 2 * COUNT(cases), "none is asked twice");
}

TEST(pool_does_not_storm_a_server_that_is_not_there)
{
    CLEANUP(peer_stop)
    struct peer *peer = peer_start(&(struct peer_settings){ .closes_at_once = true });
    struct client_pool_settings settings = http2;
    settings.connections_warm = 1;
    settings.backoff_min_ns = 40 * NS_PER_MS;
    settings.backoff_max_ns = 100 * NS_PER_MS;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);

    drive_nap(d, 400);
    uint32_t tries = peer_connections(peer);
    check(tries >= 3 && tries <= 9, "%u tries in 400 ms", tries);
    uint64_t begun = clock_mono_ns();
    struct ask *ask = get(d, "/hi");
    drive_run(d);
    check(ask->why.code == E_UNAVAILABLE && ask->why.text[0] != '\0', "%d", ask->why.code);
    check(clock_mono_ns() - begun < 300 * NS_PER_MS, "it is told soon");
}

TEST(pool_tells_that_nobody_listens)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    char url[64];

    snprintf(url, sizeof url, "%s", peer_url(peer));
    peer_stop(&peer);
    peer = peer_start(&(struct peer_settings){ 0 });
    struct client_pool_settings settings = http2;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);
    client_pool_free(&d->pool);
    struct err err;
    settings.url = url;
    check_or_stop(client_pool_new(&d->pool, d->loop, &settings, &err) == OK, "%s", err.text);
    struct ask *ask = get(d, "/hi"), *other = get(d, "/hi");
    drive_run(d);
    check(ask->why.code == E_UNAVAILABLE && other->why.code == E_UNAVAILABLE, "%s", ask->why.text);
    check(strncmp(ask->why.text, "nobody listens on 127.0.0.1:", 28) == 0, "%s", ask->why.text);
}

TEST(pool_says_that_a_server_speaks_no_http2)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    struct client_settings settings = { .url = peer_url(peer) };
    CLEANUP(client_free) struct client *client = NULL;
    CLEANUP(answer_free) struct answer *answer = NULL;
    struct client_request request = { .method = "GET", .target = "/hi" };
    struct err err = { 0 };

    /* The peer is HTTP/2 only: HTTP/1.1 is what it does not speak. */
    check_or_stop(client_new(&client, &settings, &err) == OK, "%s", err.text);
    enum err_code code = client_call(client, &request, &answer, &err);
    check(code != OK && err.text[0] != '\0', "%d %s", code, err.text);
}

/* -- deadlines and leaving of our own ------------------------------------------------------------ */

TEST(pool_keeps_deadlines_wherever_a_request_is)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ .streams_max = 1 });
    struct client_pool_settings settings = http2;
    settings.connections_max = 1;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);

    get(d, "/hi");
    drive_run(d);
    uint64_t now = loop_refresh_ns(d->loop);
    struct ask *running =
        ask_as(d, (struct client_ask){ .request = { .method = "GET", .target = "/never" },
                                       .due_ns = now + 60 * NS_PER_MS });
    struct ask *waiting =
        ask_as(d, (struct client_ask){ .request = { .method = "GET", .target = "/never" },
                                       .due_ns = now + 30 * NS_PER_MS });
    drive_run(d);
    check(running->why.code == E_DEADLINE, "%d %s", running->why.code, running->why.text);
    check(strstr(running->why.text, "did not answer within 0.06 s") != NULL, "%s",
          running->why.text);
    check(waiting->why.code == E_DEADLINE, "%d %s", waiting->why.code, waiting->why.text);
    check(strstr(waiting->why.text, "did not take the connection") != NULL, "%s",
          waiting->why.text);
    struct ask *next = get(d, "/hi");
    drive_run(d);
    check(is_hi(next) && peer_connections(peer) == 1, "only the stream was given up: %s",
          next->why.text);
    check(peer_resets(peer) == 1, "%u resets", peer_resets(peer));
}

TEST(pool_cancels_by_a_reset)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    struct ask *a = get(d, "/never"), *b = get(d, "/late/60");
    drive_nap(d, 20);
    client_exchange_cancel(&a->x);
    d->under_way--;
    check(a->x == NULL, "it is taken");
    drive_run(d);
    drive_until(d, peer_resets(peer) == 1);
    check(is_hi(b), "the other goes on: %s", b->why.text);
    check(!a->is_over, "no callback follows");
    check(peer_resets(peer) == 1, "%u resets", peer_resets(peer));
}

TEST(pool_does_not_wait_for_a_server_that_never_reads)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ .is_mute = true });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);
    size_t size = 16 << 20;
    uint8_t *bytes = calloc(1, size);

    struct ask *ask =
        ask_as(d, (struct client_ask){
                      .request = { .method = "POST", .target = "/echo", .body = { bytes, size } },
                      .due_ns = loop_refresh_ns(d->loop) + 100 * NS_PER_MS });
    drive_run(d);
    check(ask->why.code == E_DEADLINE, "%d %s", ask->why.code, ask->why.text);
    check(strstr(ask->why.text, "did not take the request") != NULL, "%s", ask->why.text);
    free(bytes);
}

TEST(pool_can_end_with_everything_under_way)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });
    CLEANUP(drive_free) struct drive *d = drive_new(peer, http2);

    for (int i = 0; i < 20; i++)
        get(d, "/never");
    drive_nap(d, 30);
    for (int i = 0; i < 200; i++)
        get(d, "/never");
    client_pool_free(&d->pool);
    for (uint32_t i = 0; i < d->asks_count; i++)
        check(!d->asks[i].is_over, "no callback");
}

/* -- all of it, at random ------------------------------------------------------------------------ */

TEST(pool_gives_every_request_one_end)
{
    static const char *const paths[] = {
        "/hi",     "/echo", "/goaway",     "/refuse",  "/die",
        "/late/3", "/half", "/reset/8",    "/reset/7", "/never",
        "/hi",     "/hi",   "/big/200000", "/garbage", "/trailers"
    };
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ .streams_max = 5 });
    struct client_pool_settings settings = http2;
    settings.connections_max = 3;
    settings.backoff_min_ns = NS_PER_MS;
    settings.idle_timeout_ns = 5 * NS_PER_MS;
    CLEANUP(drive_free) struct drive *d = drive_new(peer, settings);
    uint32_t good = 0;

    for (int round = 0; round < 25; round++) {
        for (uint32_t i = 0; i < 20; i++) {
            const char *path = paths[test_random_below(COUNT(paths))];
            struct client_request request = { .method = "POST", .target = path };
            uint64_t due = loop_refresh_ns(d->loop) + 40 * NS_PER_MS;
            struct ask *ask = ask_as(d, (struct client_ask){ .request = request, .due_ns = due });
            if (ask->x != NULL && test_random_below(10) == 0) {
                client_exchange_cancel(&ask->x);
                d->under_way--;
            }
        }
        drive_run(d);
    }
    for (uint32_t i = 0; i < d->asks_count; i++) {
        check(d->asks[i].why.code == OK || d->asks[i].why.text[0] != '\0', "a reason");
        good += d->asks[i].is_over && d->asks[i].why.code == OK;
    }
    struct client_pool_stats s = client_pool_stats(d->pool);
    check(s.waiting == 0 && s.running == 0, "%u wait, %u run", s.waiting, s.running);
    check(good > 20, "only %u were answered", good);
}

TEST(pool_survives_every_fault)
{
    CLEANUP(peer_stop) struct peer *peer = peer_start(&(struct peer_settings){ 0 });

    for_each_fault(nth) {
        struct client_settings settings = { .url = peer_url(peer), .http2 = true };
        CLEANUP(client_free) struct client *client = NULL;
        CLEANUP(answer_free) struct answer *answer = NULL;
        struct client_request request = { .method = "POST",
                                          .target = "/echo",
                                          .body = SLICE_LIT("x") };
        struct err err = { 0 };
        enum err_code code = client_new(&client, &settings, &err);
        if (code == OK)
            code = client_call(client, &request, &answer, &err);
        bool has_fired = fault_fired();
        fault_arm(0);
        if (!has_fired) {
            check(code == OK && slice_is(answer->body, "x"), "%s", err.text);
            break;
        }
        /* Some are overcome: the next address, a second try. */
        check(code == OK || err.text[0] != '\0', "fault %u was silent", nth);
    }
}
