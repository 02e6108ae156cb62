/* base_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"
#include "base/base64.h"
#include "base/block.h"
#include "base/budget.h"
#include "base/buf.h"
#include "base/chunk.h"
#include "base/fault.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/mpsc.h"
#include "base/text.h"
#include "base/utf8.h"

#include <stdio.h>

#include "test/harness.h"

TEST(err_text_is_cut_at_a_character)
{
    struct err err;
    char many[2 * ERR_TEXT_MAX + 1];

    for (size_t i = 0; i + 1 < sizeof many; i += 2)
        memcpy(many + i, "\xc3\xa9", 2);
    many[sizeof many - 1] = '\0';
    for (unsigned shift = 0; shift < 2; shift++) {
        err_set(&err, E_INVALID, "%s%s", shift ? "x" : "", many);
        struct slice text = slice_of(err.text);
        check(utf8_valid_prefix(text) == text.size, "shift %u", shift);
        check(text.size >= ERR_TEXT_MAX - 3, "cut too short: %zu", text.size);
    }
    err_set(&err, E_NOT_FOUND, "no model 'x'");
    check(err_wrap(&err, "loading %s", "y") == E_NOT_FOUND, "code stays");
    check(strcmp(err.text, "loading y: no model 'x'") == 0, "%s", err.text);
}

TEST(buf_is_charged_and_given_back)
{
    struct budget budget;
    struct buf *buf = NULL, *too_much = NULL;
    struct err err;

    budget_init(&budget, 4096);
    check(buf_new(&too_much, &budget, 5000, &err) == E_EXHAUSTED && too_much == NULL, "too large");
    check_or_stop(buf_new(&buf, &budget, 1000, &err) == OK, "fits");
    check(((uintptr_t)buf_bytes(buf).data & (BUF_ALIGN - 1)) == 0, "aligned");
    check(budget_used(&budget) >= 1000, "charged");
    struct buf *second = buf_ref(buf);
    buf_unref(&buf);
    check(budget_used(&budget) >= 1000, "still held");
    buf_unref(&second);
    check(budget_used(&budget) == 0, "given back");
    buf_unref(&second);
}

/* A piece that nobody holds is written over by the next; one that is held never is. */
TEST(chunk_is_written_again_when_nobody_holds_it)
{
    struct budget budget;
    struct chunk chunk = { 0 };
    struct buf *holder = NULL, *held[64] = { 0 };
    const uint8_t *at[64];

    budget_init(&budget, 1 << 20);
    uint8_t *first = chunk_room(&chunk, &budget, 100, &holder);
    check_or_stop(first != NULL && holder != NULL, "room");
    for (unsigned i = 0; i < 1000; i++) {
        uint8_t *again = chunk_room(&chunk, &budget, 100, &holder);
        check_or_stop(again == first, "piece %u lies elsewhere", i);
        chunk_used(&chunk, 100);
    }
    check(budget_used(&budget) <= 512, "%llu bytes for a piece at a time",
          (unsigned long long)budget_used(&budget));
    for (unsigned i = 0; i < COUNT(held); i++) {
        uint8_t *piece = chunk_room(&chunk, &budget, 100, &holder);
        check_or_stop(piece != NULL, "piece %u", i);
        memset(piece, (int)i, 100);
        chunk_used(&chunk, 100);
        held[i] = buf_ref(holder);
        at[i] = piece;
    }
    for (unsigned i = 0; i < COUNT(held); i++)
        for (unsigned b = 0; b < 100; b++)
            check_or_stop(at[i][b] == i, "piece %u was written over", i);
    for (unsigned i = 0; i < COUNT(held); i++)
        buf_unref(&held[i]);
    check(chunk_room(&chunk, &budget, CHUNK_MOST + 1, &holder) != NULL, "more than the most");
    chunk_drop(&chunk);
    check(budget_used(&budget) == 0, "something is still charged");
}

TEST(chunk_without_memory_keeps_what_it_has)
{
    for_each_fault(nth) {
        struct chunk chunk = { 0 };
        struct buf *holder = NULL;
        bool has_room = chunk_room(&chunk, NULL, 10, &holder) != NULL;
        chunk_drop(&chunk);
        if (!fault_fired())
            break;
        check(!has_room, "fault %u was silent", nth);
    }
}

TEST(buf_is_charged_as_it_fills)
{
    struct budget budget;
    struct buf *buf = NULL;
    struct err err;

    budget_init(&budget, 4096);
    check_or_stop(buf_new_partly(&buf, &budget, 100000, 1000, &err) == OK, "%s", err.text);
    uint64_t first = budget_used(&budget);
    check(first >= 1000 && first < 2000, "%llu", (unsigned long long)first);
    check(buf_charge(buf, 900, &err) == OK && budget_used(&budget) == first, "charged already");
    check(buf_charge(buf, 2000, &err) == OK && budget_used(&budget) == first + 1000, "the rest");
    check(budget_refused(&budget) == 0, "nothing was refused yet");
    check(buf_charge(buf, 50000, &err) == E_EXHAUSTED && err.retry_after_ms > 0, "over");
    check(budget_refused(&budget) == 1 && !budget_take(&budget, 3000),
          "what is left is not enough");
    check(budget_refused(&budget) == 2, "both refusals are counted");
    check(budget_used(&budget) == first + 1000, "a refusal takes nothing");
    buf_unref(&buf);
    check(budget_used(&budget) == 0, "given back");
}

TEST(a_budget_with_a_parent_takes_from_both)
{
    struct budget server, tenant;

    budget_init(&server, 1000);
    budget_init(&tenant, 600);
    tenant.parent = &server;
    check(budget_take(&tenant, 500) && budget_used(&server) == 500, "both are charged");
    check(!budget_take(&tenant, 200), "more than its own");
    check(budget_used(&tenant) == 500 && budget_used(&server) == 500, "a refusal takes nothing");
    check(budget_refused(&tenant) == 1 && budget_refused(&server) == 0, "it was the child's");
    check(budget_take(&server, 450), "others");
    check(!budget_take(&tenant, 100), "more than the parent has");
    check(budget_used(&tenant) == 500 && budget_used(&server) == 950, "likewise");
    check(budget_refused(&tenant) == 1 && budget_refused(&server) == 1, "it was the parent's");
    budget_resize(&tenant, 100);
    check(!budget_take(&tenant, 1) && budget_used(&tenant) == 500, "smaller than what it gave out");
    budget_give(&tenant, 500);
    check(budget_used(&tenant) == 0 && budget_used(&server) == 450, "given back to both");
    check(!budget_take(&tenant, 101) && budget_take(&tenant, 100), "the new limit");
    budget_resize(&tenant, UINT64_MAX);
    check(budget_take(&tenant, 450), "none of its own");
    budget_give(&tenant, 550);
    check(budget_used(&tenant) == 0, "%llu", (unsigned long long)budget_used(&tenant));
}

TEST(blocks_are_kept_and_given_back)
{
    size_t room = 0, other_room = 0, small_room = 0;
    struct buf *buf = NULL;
    struct err err;

    block_keep(10 << 20);
    uint8_t *block = block_take((4 << 20) + 1, &room);
    check_or_stop(block != NULL && room > 4 << 20 && room <= (4 << 20) + (1 << 19), "%zu", room);
    memset(block, 1, room);
    block_give(block, room);
    check(block_kept_bytes == room, "kept");
    check(block_take(4 << 20, &other_room) == block && other_room == room, "taken again");
    check(block_kept_bytes == 0, "not kept while it is in use");
    block_give(block, room);
    uint8_t *small = block_take(BLOCK_MIN, &small_room);
    check(small != block && small_room < room, "not twice as large as asked for");
    block_give(small, small_room);
    check(block_kept_bytes == room + small_room, "both");
    block_keep(3 << 20);
    check(block_kept_bytes == small_room, "the oldest goes first: %llu",
          (unsigned long long)block_kept_bytes);
    block_trim(1);
    check(block_kept_bytes == small_room, "nothing is as old");
    block_trim(UINT64_MAX);
    check(block_kept_bytes == 0, "all are");
    block_keep(64 << 20);
    for (uint32_t i = 0; i < 3; i++) {
        check_or_stop(buf_new(&buf, NULL, 5 << 20, &err) == OK, "%s", err.text);
        memset(buf_fill(buf), (int)i, 5 << 20);
        buf_trim(buf, 100);
        check(block_kept_bytes == 0, "in use");
        buf_unref(&buf);
        check(block_kept_bytes > 5 << 20 && block_kept_bytes < 6 << 20, "kept whole");
    }
    block_keep(0);
    check(block_kept_bytes == 0, "off");
    check_or_stop(buf_new(&buf, NULL, 5 << 20, &err) == OK, "%s", err.text);
    buf_unref(&buf);
    check(block_kept_bytes == 0, "off");
    fault_arm(1);
    check(block_take(BLOCK_MIN, &room) == NULL && fault_fired(), "no memory is an answer");
    fault_arm(0);
}

static void count_release(void *context, void *data)
{
    (void)data;
    ++*(int *)context;
}

TEST(arena_is_charged_behind_its_first_block)
{
    struct budget budget;
    CLEANUP(arena_free) struct arena *arena = arena_new(1024, 1 << 20);

    budget_init(&budget, 10000);
    check_or_stop(arena != NULL, "made");
    arena_charge_to(arena, &budget);
    check(arena_alloc(arena, 1000) != NULL && budget_used(&budget) == 0, "the first is its own");
    check(arena_alloc(arena, 5000) != NULL && budget_used(&budget) == 5000, "one of its own");
    check(arena_alloc(arena, 100) != NULL && budget_used(&budget) == 6024, "a usual one");
    check(arena_alloc(arena, 5000) == NULL && budget_refused(&budget) == 1, "no more");
    check(budget_used(&budget) == 6024, "a refusal takes nothing");
    arena_reset(arena);
    check(budget_used(&budget) == 0, "given back");
    fault_arm(1);
    check(arena_alloc(arena, 5000) == NULL && budget_used(&budget) == 0, "no memory");
    fault_arm(0);
    check(arena_alloc(arena, 5000) != NULL && budget_used(&budget) == 5000, "and again");
}

/* Arenas of one store: what one gives back the next takes, without asking the heap. */
TEST(arenas_share_a_store)
{
    struct arena_store store;
    struct budget budget;
    uint8_t *pieces[40];
    size_t sizes[40];

    arena_store_init(&store);
    budget_init(&budget, 1 << 20);
    for (int round = 0; round < 50; round++) {
        CLEANUP(arena_free) struct arena *arena = arena_new_shared(&store, 1 << 20);
        uint64_t before = mem_count();
        check_or_stop(arena != NULL, "made");
        arena_charge_to(arena, &budget);
        for (size_t i = 0; i < COUNT(pieces); i++) {
            sizes[i] = (size_t)test_random_below(i % 10 == 0 ? 6000 : 300);
            pieces[i] = arena_aligned(arena, 16, sizes[i]);
            check_or_stop(pieces[i] != NULL && ((uintptr_t)pieces[i] & 15) == 0, "piece");
            memset(pieces[i], (int)i, sizes[i]);
        }
        for (size_t i = 0; i < COUNT(pieces); i++)
            for (size_t j = 0; j < sizes[i]; j++)
                check_or_stop(pieces[i][j] == (uint8_t)i, "piece %zu was written over", i);
        check(round < 10 || mem_count() == before, "%llu allocations",
              (unsigned long long)(mem_count() - before));
        arena_reset(arena);
        check(budget_used(&budget) == 0, "all given back");
    }
    {
        CLEANUP(arena_free) struct arena *arena = arena_new_shared(&store, 1 << 20);
        check_or_stop(arena != NULL, "made");
        arena_charge_to(arena, &budget);
        check(arena_alloc(arena, 3000) != NULL && arena_alloc(arena, 3000) != NULL &&
                  budget_used(&budget) == 0,
              "two small blocks cost nothing");
        check(arena_alloc(arena, 40000) != NULL && budget_used(&budget) >= 27000,
              "more is charged: %llu", (unsigned long long)budget_used(&budget));
        fault_arm(1);
        check(arena_alloc(arena, 50000) == NULL, "no memory");
        fault_arm(0);
        uint64_t used = budget_used(&budget);
        check(arena_alloc(arena, 2 << 20) == NULL && budget_used(&budget) == used, "the cap");
        arena_reset(arena);
        check(budget_used(&budget) == 0, "all given back");
    }
    arena_store_deinit(&store);
}

TEST(arena_grows_caps_and_resets)
{
    struct arena *arena = arena_new(1024, 100000);
    struct buf *buf = NULL;
    int released = 0;
    static char outside[4];

    check_or_stop(arena != NULL, "made");
    for (unsigned round = 0; round < 3; round++) {
        uint8_t *pieces[300];
        for (unsigned i = 0; i < 300; i++) {
            size_t size = 1 + i;
            pieces[i] = arena_alloc(arena, size);
            check_or_stop(pieces[i] != NULL, "piece %u", i);
            check(((uintptr_t)pieces[i] & 15) == 0, "aligned");
            memset(pieces[i], (int)i, size);
        }
        for (unsigned i = 0; i < 300; i++)
            check(pieces[i][0] == (uint8_t)i && pieces[i][i] == (uint8_t)i, "piece %u kept", i);
        check(arena_alloc(arena, 90000) == NULL, "cap");
        check_or_stop(buf_adopt(&buf, outside, 4, count_release, &released, NULL) == OK, "adopt");
        check(arena_adopt(arena, &buf) && buf == NULL, "taken");
        arena_reset(arena);
        check(released == (int)round + 1, "released with the arena");
    }
    uint8_t *grown = arena_alloc(arena, 16);
    memset(grown, 7, 16);
    uint8_t *again = arena_resize(arena, grown, 16, 64);
    check(again == grown, "the last piece grows in place");
    check(arena_alloc(arena, 16) != NULL, "another");
    uint8_t *moved = arena_resize(arena, again, 64, 600);
    check(moved != NULL && moved != again && moved[15] == 7, "an older one is copied");
    arena_free(&arena);
}

TEST(text_json_escapes)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "plain", "\"plain\"" },
        { "a\"b\\c", "\"a\\\"b\\\\c\"" },
        { "\n\t\r\x01", "\"\\n\\t\\r\\u0001\"" },
        { "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"" },
        { "x\xffy\xc3", "\"x\xef\xbf\xbdy\xef\xbf\xbd\"" },
        { "\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct text text;
        text_init(&text, 1000);
        text_json(&text, slice_of(cases[i].in));
        check(strcmp(text_cstr(&text), cases[i].out) == 0, "%zu: %s", i, text_cstr(&text));
        text_deinit(&text);
    }
}

TEST(text_cap_is_sticky)
{
    struct text text;

    text_init(&text, 10);
    text_str(&text, "12345678");
    check(!text_failed(&text), "fits");
    text_str(&text, "abc");
    check(text_failed(&text), "over the cap");
    text_str(&text, "x");
    check(text.size == 8, "nothing more is written");
    text_deinit(&text);
}

TEST(text_numbers)
{
    struct text text;

    text_init(&text, 200);
    text_u64(&text, 0);
    text_byte(&text, ' ');
    text_u64(&text, UINT64_MAX);
    text_byte(&text, ' ');
    text_i64(&text, INT64_MIN);
    check(strcmp(text_cstr(&text), "0 18446744073709551615 -9223372036854775808") == 0, "%s",
          text_cstr(&text));
    text_deinit(&text);
}

TEST(text_survives_every_fault)
{
    for_each_fault(nth) {
        struct text text;
        struct buf *buf = NULL;
        text_init(&text, 100000);
        for (unsigned i = 0; i < 3000; i++)
            text_u64(&text, i);
        enum err_code code = text_to_buf(&text, &buf, NULL);
        check((code == OK) == (buf != NULL), "fault %u", nth);
        bool fired = fault_fired();
        check(fired == (code != OK), "fault %u silent", nth);
        buf_unref(&buf);
        text_deinit(&text);
        if (!fired)
            break;
    }
}

TEST(map_agrees_with_a_plain_array)
{
    struct map *map = map_new();
    void *plain[200] = { NULL };
    char key[32];

    for (unsigned step = 0; step < 10000; step++) {
        unsigned n = (unsigned)test_random_below(200);
        struct slice name = slice_make(key, (size_t)snprintf(key, sizeof key, "name-%u", n));
        switch (test_random_below(3)) {
        case 0:
            check(map_put(map, name, &plain[test_random_below(200)], NULL) == OK, "put");
            plain[n] = map_get(map, name);
            break;
        case 1:
            check(map_remove(map, name) == plain[n], "step %u", step);
            plain[n] = NULL;
            break;
        default: check(map_get(map, name) == plain[n], "step %u", step);
        }
    }
    size_t count = 0, at = 0;
    struct slice name;
    void *value;
    while (map_each(map, &at, &name, &value))
        count++;
    check(count == map_count(map), "each visits all");
    map_free(&map);
}

TEST(utf8_clauses)
{
    static const struct {
        const char *text;
        size_t step;
    } cases[] = {
        { "a", 1 },
        { "\xc3\xa9", 2 },
        { "\xe2\x82\xac", 3 },
        { "\xf0\x9f\x98\x80", 4 },
        { "\x80", 0 },
        { "\xc0\x80", 0 },
        { "\xe0\x80\x80", 0 },
        { "\xed\xa0\x80", 0 },
        { "\xf4\x90\x80\x80", 0 },
        { "\xf5\x80\x80\x80", 0 },
        { "\xc3", 0 },
        { "\xe2\x82", 0 },
        { "\xf0\x8f\xbf\xbf", 0 },
        { "\xf4\x8f\xbf\xbf", 4 },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        check(utf8_step(slice_of(cases[i].text)) == cases[i].step, "case %zu", i);
}

TEST(base64_clauses)
{
    static const struct {
        const char *bytes, *padded;
    } vectors[] = {
        /* RFC 4648 10, and both digits of which alphabets differ */
        { "", "" },
        { "f", "Zg==" },
        { "fo", "Zm8=" },
        { "foo", "Zm9v" },
        { "foob", "Zm9vYg==" },
        { "fooba", "Zm9vYmE=" },
        { "foobar", "Zm9vYmFy" },
        { "\xfb\xff\xfe", "+//+" },
    };
    static const struct {
        const char *text;
        enum base64_alphabet alphabet;
        size_t wrong; /* SIZE_MAX: nothing is */
    } digits[] = {
        { "+//+", BASE64_STANDARD, SIZE_MAX }, { "-__-", BASE64_STANDARD, 0 },
        { "-__-", BASE64_URL, SIZE_MAX },      { "A+AA", BASE64_URL, 1 },
        { "A/-_", BASE64_ANY, SIZE_MAX },      { "AA=A", BASE64_ANY, 2 },
        { "AAA\x7f", BASE64_ANY, 3 },          { "AAA ", BASE64_ANY, 3 },
        { "AB", BASE64_URL, SIZE_MAX },        { "AB", BASE64_URL | BASE64_EXACT, 1 },
        { "AAB", BASE64_URL | BASE64_EXACT, 2 }, { "AAAB", BASE64_URL | BASE64_EXACT, SIZE_MAX },
        { "AQAE", BASE64_URL | BASE64_EXACT, SIZE_MAX }, { "AQ", BASE64_URL | BASE64_EXACT, SIZE_MAX },
    };

    for (size_t i = 0; i < COUNT(vectors); i++) {
        struct slice bytes = slice_of(vectors[i].bytes), padded = slice_of(vectors[i].padded);
        struct slice bare = base64_unpadded(padded);
        uint8_t text[16], back[16];
        for (int is_padded = 0; is_padded < 2; is_padded++) {
            struct slice want = is_padded ? padded : bare;
            size_t size = (size_t)(base64_encode(text, bytes, is_padded) - text);
            check(size == base64_size(bytes.size, is_padded), "%s: size", vectors[i].padded);
            check(slice_eq(slice_make(text, size), want), "%s", vectors[i].padded);
        }
        check(base64_decode(back, bare, BASE64_STANDARD) == bare.size &&
                  slice_eq(slice_make(back, base64_decoded(bare.size)), bytes),
              "%s: back", vectors[i].padded);
    }
    for (size_t i = 0; i < COUNT(digits); i++) {
        uint8_t out[3];
        struct slice text = slice_of(digits[i].text);
        check(base64_decode(out, text, digits[i].alphabet) == MIN(digits[i].wrong, text.size), "%s",
              digits[i].text);
    }
    check(base64_unpadded(slice_of("A===")).size == 2, "two at most");
}

TEST(slice_of_nothing)
{
    struct slice none = { NULL, 0 };

    check(slice_skip(none, 0).data == NULL && slice_skip(none, 0).size == 0, "skipped");
    check(slice_first(none, 3).size == 0 && slice_find(none, 'x') == 0, "cut");
    check(slice_starts(none, "") && slice_ends(none, "") && !slice_ends(none, "x"), "ends");
    struct text text;
    text_init(&text, 100);
    text_json(&text, none);
    text_slice_put(&text, none);
    text_html(&text, none);
    check(slice_is(text_slice(&text), "\"\""), "written");
    text_deinit(&text);
    check(slice_eq(none, slice_of("")) && slice_trim(none).size == 0, "empty");
}

TEST(slice_numbers)
{
    uint64_t value = 7;

    check(slice_to_u64(slice_of("18446744073709551615"), &value) && value == UINT64_MAX, "max");
    check(!slice_to_u64(slice_of("18446744073709551616"), &value), "over");
    check(!slice_to_u64(slice_of(""), &value), "empty");
    check(!slice_to_u64(slice_of("+1"), &value) && !slice_to_u64(slice_of("1 "), &value), "junk");
}

TEST(mpsc_keeps_order)
{
    struct mpsc queue;
    struct mpsc_node nodes[5];

    mpsc_init(&queue);
    for (unsigned i = 0; i < 5; i++)
        check(mpsc_put(&queue, &nodes[i]) == (i == 0), "only the first says wake");
    struct mpsc_node *node = mpsc_take_all(&queue);
    for (unsigned i = 0; i < 5; i++, node = node->next)
        check_or_stop(node == &nodes[i], "order %u", i);
    check(node == NULL && mpsc_take_all(&queue) == NULL, "empty");
}
