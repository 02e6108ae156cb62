/* collect_test.c - bodies in one piece, from a transport that is only a script.
 * SPDX-License-Identifier: Apache-2.0 */
#include "exchange/collect.h"

#include <stdlib.h>

#include "base/budget.h"
#include "base/buf.h"
#include "codec/compress.h"
#include "test/harness.h"

/* Gives `body` in pieces of at most `piece` bytes, whenever there is an offer. */
struct script {
    struct exchange x;
    struct budget budget;
    struct slice body;
    size_t piece;
    struct header headers[1];
    bool is_done, is_released, is_aborted;
    unsigned gone;
    enum err_code code;
    char text[ERR_TEXT_MAX];
    struct collect_result result;
    uint8_t *copy;
};

static struct script *of(struct exchange *x)
{
    return CONTAINER_OF(x, struct script, x);
}

static void ignore(struct exchange *x)
{
    (void)x;
}

static void on_release(struct exchange *x)
{
    of(x)->is_released = true;
}

static void on_abort(struct exchange *x)
{
    of(x)->is_aborted = true;
}

static const struct exchange_ops ops = { .read = ignore, .abort = on_abort, .release = on_release };

static void on_gone(struct exchange *x)
{
    of(x)->gone++;
}

static const struct exchange_user before = { .on_gone = on_gone };

static void on_done(struct exchange *x, const struct collect_result *result, const struct err *err)
{
    struct script *s = of(x);

    check(!s->is_done, "done once");
    check(x->user == &before && x->user_data == s, "the user is as it was");
    check((result == NULL) != (err == NULL), "one of the two");
    s->is_done = true;
    if (err != NULL) {
        s->code = err->code;
        memcpy(s->text, err->text, sizeof s->text);
        check(err->text[0] != '\0', "silent");
        return;
    }
    s->result = *result;
}

static void begin(struct script *s, struct slice body, int64_t body_size, const char *encoding,
                  size_t piece, size_t bytes_max, size_t align_at)
{
    memset(s, 0, sizeof *s);
    budget_init(&s->budget, 64u << 20);
    exchange_init(&s->x, &ops, arena_new(4096, 1 << 20), NULL);
    if (s->x.arena == NULL)
        return;
    s->x.budget = &s->budget;
    s->x.body_size = body_size;
    s->x.body_is_over = body_size == 0;
    s->x.user = &before;
    s->x.user_data = s;
    s->body = body;
    s->piece = piece;
    if (encoding != NULL) {
        s->headers[0] = (struct header){ SLICE_LIT("content-encoding"), slice_of(encoding) };
        s->x.headers = s->headers;
        s->x.headers_count = 1;
    }
    exchange_collect(&s->x, (struct collect_limits){ bytes_max, "--max-body", align_at, NULL }, on_done);
}

static void feed(struct script *s)
{
    while (s->x.arena != NULL && s->x.has_offer) {
        size_t size = MIN(MIN(s->piece, s->x.offer_size), s->body.size);
        memcpy(s->x.offer, s->body.data, size);
        s->body = slice_skip(s->body, size);
        s->x.has_offer = false;
        s->x.body_is_over = s->body.size == 0;
        s->x.user->on_body(&s->x, size, s->x.body_is_over);
    }
}

static void end(struct script *s)
{
    arena_free(&s->x.arena);
    check(budget_used(&s->budget) == 0, "%llu bytes are still held",
          (unsigned long long)budget_used(&s->budget));
}

static uint8_t *make_body(size_t size)
{
    uint8_t *body = malloc(size + 1);

    for (size_t i = 0; i < size; i++)
        body[i] = (uint8_t)(i * 31 + i / 997);
    return body;
}

/* Whole and unknown sizes, in small and large pieces, all aligned and all the same. */
TEST(collected_bodies_are_whole_and_aligned)
{
    static const size_t sizes[] = { 1, 63, 200, 4096, 4097, 16384, 16385, 100000, 1000000 };
    static const size_t aligns[] = { 0, 5, 64, 131 };
    uint8_t *body = make_body(1000000);
    struct script s;

    for (size_t i = 0; i < COUNT(sizes); i++)
        for (unsigned way = 0; way < 2 * COUNT(aligns); way++) {
            size_t align = aligns[way / 2];
            begin(&s, slice_make(body, sizes[i]), way % 2 == 0 ? (int64_t)sizes[i] : -1, NULL,
                  1 + test_random_below(60000), 1000000, align);
            feed(&s);
            check(s.is_done && s.code == OK, "%zu: %s", sizes[i], s.text);
            check(s.result.body.size == sizes[i] && memcmp(s.result.body.data, body, sizes[i]) == 0,
                  "%zu", sizes[i]);
            check(((uintptr_t)(s.result.body.data + align) & 63) == 0, "%zu at %zu", sizes[i],
                  align);
            check((s.result.holder == NULL) == (way % 2 == 0 && sizes[i] <= 4096),
                  "%zu: where it lies", sizes[i]);
            end(&s);
        }
    free(body);
}

TEST(empty_bodies)
{
    struct script s;

    begin(&s, slice_make("", 0), 0, NULL, 10, 100, 0);
    check(s.is_done && s.code == OK && s.result.body.size == 0, "known to be empty");
    end(&s);
    begin(&s, slice_make("", 0), -1, "gzip", 10, 100, 0);
    feed(&s);
    check(s.is_done && s.code == OK && s.result.body.size == 0, "found empty");
    end(&s);
}

TEST(bodies_over_the_limit)
{
    uint8_t *body = make_body(50001);
    struct script s;

    for (unsigned way = 0; way < 2; way++) {
        begin(&s, slice_make(body, 50000), way == 0 ? 50000 : -1, NULL, 999, 50000, 0);
        feed(&s);
        check(s.is_done && s.code == OK && s.result.body.size == 50000, "exactly: %s", s.text);
        end(&s);
        begin(&s, slice_make(body, 50001), way == 0 ? 50001 : -1, NULL, 999, 50000, 0);
        check(way == 1 || !s.x.has_offer, "not one byte is asked for");
        feed(&s);
        check(s.is_done && s.code == E_RANGE && strstr(s.text, "--max-body") != NULL, "%s", s.text);
        end(&s);
    }
    free(body);
}

TEST(encoded_bodies)
{
    uint8_t *body = make_body(200000);
    struct slice whole = slice_make(body, 200000);
    struct script s;
    struct err err;

    for (int encoding = ENCODING_GZIP; encoding <= ENCODING_DEFLATE; encoding++) {
        struct buf *packed = NULL;
        const char *name = encoding_name((enum encoding)encoding);
        check_or_stop(compress_deflate(&packed, NULL, (enum encoding)encoding, &whole, 1, &err) ==
                          OK,
                      "pack");
        struct slice bytes = buf_bytes(packed);
        for (unsigned way = 0; way < 2; way++) {
            int64_t size = way == 0 ? (int64_t)bytes.size : -1;
            begin(&s, bytes, size, name, 777, 200000, 5);
            feed(&s);
            check(s.is_done && s.code == OK && slice_eq(s.result.body, whole), "%s: %s", name,
                  s.text);
            check(s.result.holder != NULL && ((uintptr_t)(s.result.body.data + 5) & 63) == 0,
                  "%s: aligned", name);
            end(&s);
            begin(&s, bytes, size, name, 777, 199999, 0);
            feed(&s);
            check(s.is_done && s.code == E_RANGE && strstr(s.text, "inflates") != NULL, "%s: %d %s",
                  name, (int)s.code, s.text);
            end(&s);
            begin(&s, slice_first(bytes, bytes.size - 3), size < 0 ? -1 : size - 3, name, 777,
                  200000, 0);
            feed(&s);
            check(s.is_done && s.code == E_INVALID, "%s cut off: %d %s", name, (int)s.code, s.text);
            end(&s);
        }
        buf_unref(&packed);
    }
    begin(&s, whole, 200000, "br", 777, 200000, 0);
    check(s.is_done && s.code == E_UNIMPLEMENTED && strstr(s.text, "'br'") != NULL, "%s", s.text);
    check(!s.x.has_offer, "not one byte is asked for");
    end(&s);
    begin(&s, slice_of("abc"), 3, "Identity", 777, 200000, 0);
    feed(&s);
    check(s.is_done && s.code == OK, "identity: %s", s.text);
    end(&s);
    free(body);
}

TEST(leaving_in_the_middle)
{
    uint8_t *body = make_body(100000);
    struct script s;

    begin(&s, slice_make(body, 100000), 100000, NULL, 1000, 100000, 0);
    check(budget_used(&s.budget) > 0, "memory is taken");
    s.x.is_gone = true;
    s.x.has_offer = false;
    s.x.user->on_gone(&s.x);
    check(s.gone == 1 && !s.is_done, "the user's own is told, done is not called");
    check(s.x.user == &before, "and is back");
    check(budget_used(&s.budget) == 0, "the memory is back at once");
    end(&s);
    free(body);
}

TEST(the_budget_says_no)
{
    struct script s;
    uint8_t *body = make_body(100000);

    begin(&s, slice_make(body, 100000), -1, NULL, 5000, 100000, 0);
    check(budget_take(&s.budget, (size_t)s.budget.left), "somebody takes the rest");
    int64_t taken = s.budget.limit;
    feed(&s);
    check(s.is_done && s.code == E_EXHAUSTED && strstr(s.text, "--memory-limit") != NULL, "%d %s",
          (int)s.code, s.text);
    budget_init(&s.budget, (uint64_t)taken);
    end(&s);
    free(body);
}

/* Announcing is cheap for the peer, so it is for us: what is charged follows what has come. */
TEST(a_large_announcement_costs_what_has_come)
{
    enum { SIZE = 20 << 20, CAME = 3 << 20 };
    uint8_t *body = make_body(SIZE);
    struct script s;

    begin(&s, slice_make(body, SIZE), SIZE, NULL, 100000, SIZE, 0);
    check(budget_used(&s.budget) < 2 << 20, "%llu at the head",
          (unsigned long long)budget_used(&s.budget));
    while (s.body.size > SIZE - CAME && s.x.has_offer) {
        size_t size = MIN((size_t)100000, s.x.offer_size);
        memcpy(s.x.offer, s.body.data, size);
        s.body = slice_skip(s.body, size);
        s.x.has_offer = false;
        s.x.user->on_body(&s.x, size, false);
    }
    check(budget_used(&s.budget) < CAME + (2 << 20), "%llu after 3 MiB",
          (unsigned long long)budget_used(&s.budget));
    feed(&s);
    check(s.is_done && s.code == OK && s.result.body.size == SIZE &&
              memcmp(s.result.body.data, body, SIZE) == 0,
          "whole");
    end(&s);
    free(body);
}

TEST(collect_survives_every_fault)
{
    uint8_t *body = make_body(100000);
    struct slice whole = slice_make(body, 100000);
    struct buf *packed = NULL;
    struct err err;

    check_or_stop(compress_deflate(&packed, NULL, ENCODING_GZIP, &whole, 1, &err) == OK, "pack");
    for (unsigned way = 0; way < 3; way++)
        for_each_fault(nth) {
            struct script s;
            struct slice bytes = way == 2 ? buf_bytes(packed) : whole;
            begin(&s, bytes, way == 0 ? (int64_t)bytes.size : -1, way == 2 ? "gzip" : NULL, 7000,
                  100000, 0);
            feed(&s);
            bool fired = fault_fired();
            if (s.x.arena != NULL) {
                check(s.is_done || s.is_aborted, "fault %u: neither", nth);
                check(fired || s.code == OK, "fault %u: %s", nth, s.text);
                check(s.code != OK || s.is_aborted || slice_eq(s.result.body, whole), "fault %u",
                      nth);
                end(&s);
            }
            if (!fired)
                break;
        }
    buf_unref(&packed);
    free(body);
}

TEST(exchange_calls_after_the_end_do_nothing)
{
    struct script s;
    uint8_t byte;

    begin(&s, slice_of("x"), 1, NULL, 1, 10, 0);
    feed(&s);
    s.x.is_gone = true;
    exchange_read(&s.x, &byte, 1);
    check(!s.x.has_offer, "no offer");
    exchange_respond(&s.x, 200, NULL, 0, 0);
    exchange_send(&s.x, slice_of("x"), NULL);
    exchange_end(&s.x);
    exchange_abort(&s.x);
    check(s.x.status == 0 && s.x.body_sent == 0 && !s.x.is_ended && !s.is_aborted, "nothing");
    check(exchange_room(&s.x) == 0, "no room");
    struct exchange *first = &s.x, *second = exchange_ref(&s.x);
    exchange_unref(&first);
    check(!s.is_released, "held");
    exchange_unref(&second);
    check(s.is_released && second == NULL, "released");
    end(&s);
}
