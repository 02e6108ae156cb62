/* websocket_test.c - RFC 6455's sections 5 to 7 and RFC 7692, clause by clause, on frames made by
 * hand. SPDX-License-Identifier: Apache-2.0 */
#include "wire/websocket.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/budget.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/utf8.h"
#include "test/harness.h"
#include "wire/websocket_deflate.h"

enum { MESSAGE_MAX = 1000, BYTES_MAX = 4096, FRAMES_MAX = 8 };

static const uint8_t some_mask[4] = { 0x37, 0xfa, 0x21, 0x3d };

/* -- frames by hand ------------------------------------------------------------------------------- */

/* How a frame of a case differs from what is usual. */
enum {
    UNMASKED = 1,     /* as a server's is */
    LENGTH_16 = 2,    /* the length in 16 bits though fewer would do */
    LENGTH_64 = 4,    /* ... in 64 */
    LENGTH_HUGE = 8,  /* says 2^63 bytes, and none follow */
    LENGTH_MORE = 16, /* says one byte more than MESSAGE_MAX, and none follow */
    REPEAT_200 = 32,  /* the payload 200 times */
    MORE = 64,        /* a frame that is all zero otherwise */
};

struct frame {
    uint8_t first; /* FIN, RSV, opcode */
    const char *payload;
    int size; /* 0: strlen */
    int flags;
};

static size_t put_frame(uint8_t *out, const struct frame *f)
{
    size_t one = f->payload == NULL ? 0 : f->size != 0 ? (size_t)f->size : strlen(f->payload);
    size_t size = f->flags & REPEAT_200 ? 200 * one : one, at = 0;
    uint64_t says = f->flags & LENGTH_HUGE   ? UINT64_C(1) << 63
                    : f->flags & LENGTH_MORE ? MESSAGE_MAX + 1
                                             : size;
    bool is_masked = !(f->flags & UNMASKED);
    uint8_t mask_bit = is_masked ? 0x80 : 0;

    out[at++] = f->first;
    if (says > 65535 || f->flags & LENGTH_64) {
        out[at++] = 127 | mask_bit;
        for (int i = 56; i >= 0; i -= 8)
            out[at++] = (uint8_t)(says >> i);
    } else if (says > 125 || f->flags & LENGTH_16) {
        out[at++] = 126 | mask_bit;
        out[at++] = (uint8_t)(says >> 8);
        out[at++] = (uint8_t)says;
    } else {
        out[at++] = (uint8_t)says | mask_bit;
    }
    if (is_masked) {
        memcpy(out + at, some_mask, 4);
        at += 4;
    }
    for (size_t i = 0; i < size; i++)
        out[at++] = (uint8_t)f->payload[i % one] ^ (is_masked ? some_mask[i % 4] : 0);
    return at;
}

/* -- what comes of them ---------------------------------------------------------------------------- */

/* "text hello|ping x|close 1000 bye|bad 1002|" */
static void note(struct text *log, const char *what, struct slice data)
{
    text_printf(log, "%s", what);
    if (data.size > 60)
        text_printf(log, " (%zu)", data.size);
    else if (data.size > 0)
        text_printf(log, " %.*s", SLICE_ARG(data));
    text_byte(log, '|');
}

/* Gives it the bytes in pieces of `step` (0: all; SIZE_MAX: of any size), each in memory of its own
 * size, so that a sanitizer sees what is read behind it. */
static void run(struct websocket *ws, const uint8_t *bytes, size_t size, size_t step,
                struct text *log)
{
    struct text message;

    text_init(&message, 1 << 20);
    for (size_t at = 0; at < size;) {
        size_t part = step == 0 ? size : step == SIZE_MAX ? 1 + (size_t)test_random_below(9) : step;
        part = MIN(part, size - at);
        uint8_t *piece = malloc(part);
        if (piece == NULL)
            abort();
        memcpy(piece, bytes + at, part);
        at += part;
        for (size_t used, from = 0; from < part; from += used) {
            struct websocket_event event;
            struct err err = { 0 };
            char what[32];
            switch (websocket_next(ws, piece + from, part - from, &used, &event, &err)) {
            case WEBSOCKET_MORE:
                check(used == part - from, "MORE used %zu of %zu", used, part - from);
                break;
            case WEBSOCKET_DATA:
                check(event.is_first == (message.size == 0) || event.data.size == 0, "is_first");
                text_slice_put(&message, event.data);
                if (!event.is_last)
                    break;
                check(!ws->in_message, "in_message behind the last");
                note(log,
                     ws->is_compressed ? "packed"
                     : ws->is_text     ? "text"
                                       : "binary",
                     text_slice(&message));
                message.size = 0;
                break;
            case WEBSOCKET_PING: note(log, "ping", event.data); break;
            case WEBSOCKET_PONG: note(log, "pong", event.data); break;
            case WEBSOCKET_CLOSE:
                snprintf(what, sizeof what, "close %u", event.code);
                note(log, what, event.data);
                break;
            case WEBSOCKET_BAD:
                check(err.text[0] != '\0' && ws->is_over, "a reason");
                snprintf(what, sizeof what, "bad %u", event.code);
                note(log, what, slice_make(NULL, 0));
                break;
            }
            check(used <= part - from, "used");
        }
        free(piece);
    }
    if (websocket_is_amid(ws) && !ws->is_over)
        text_str(log, "...");
    text_deinit(&message);
}

struct row {
    const char *name;
    struct frame frames[FRAMES_MAX];
    const char *expected;
    bool has_deflate;
    bool is_client; /* who reads is */
};

#define LONG_125                                                             \
    "0123456789012345678901234567890123456789012345678901234567890123456789" \
    "0123456789012345678901234567890123456789012345678901234"

static const struct row rows[] = {
    /* 5.2, 5.6: whole messages */
    { "text", { { 0x81, "hello", 0, 0 } }, "text hello|", false, false },
    { "binary", { { 0x82, "\x00\xff", 2, 0 } }, NULL, false, false },
    { "empty text", { { 0x81, NULL, 0, 0 } }, "text|", false, false },
    { "empty binary", { { 0x82, NULL, 0, 0 } }, "binary|", false, false },
    { "two", { { 0x81, "a", 0, 0 }, { 0x82, "b", 0, 0 } }, "text a|binary b|", false, false },
    { "16 bits of length", { { 0x82, "abcd", 0, REPEAT_200 } }, "binary (800)|", false, false },
    { "a client reads a server", { { 0x81, "hello", 0, UNMASKED } }, "text hello|", false, true },
    /* 5.1: masks */
    { "unmasked from a client", { { 0x81, "hello", 0, UNMASKED } }, "bad 1002|", false, false },
    { "unmasked and empty", { { 0x81, NULL, 0, UNMASKED } }, "bad 1002|", false, false },
    { "unmasked ping", { { 0x89, NULL, 0, UNMASKED } }, "bad 1002|", false, false },
    { "masked from a server", { { 0x81, "hello", 0, 0 } }, "bad 1002|", false, true },
    /* 5.2: lengths in their shortest form, 63 bits */
    { "5 in 16 bits", { { 0x82, "hello", 0, LENGTH_16 } }, "bad 1002|", false, false },
    { "5 in 64 bits", { { 0x82, "hello", 0, LENGTH_64 } }, "bad 1002|", false, false },
    { "800 in 64 bits",
      { { 0x82, "abcd", 0, LENGTH_64 | REPEAT_200 } },
      "bad 1002|",
      false,
      false },
    { "2^63", { { 0x82, NULL, 0, LENGTH_HUGE } }, "bad 1002|", false, false },
    /* 5.2: reserved bits */
    { "RSV1", { { 0xc1, "x", 0, 0 } }, "bad 1002|", false, false },
    { "RSV2", { { 0xa1, "x", 0, 0 } }, "bad 1002|", false, false },
    { "RSV3", { { 0x91, "x", 0, 0 } }, "bad 1002|", false, false },
    { "RSV2 of an empty frame", { { 0xa2, NULL, 0, 0 } }, "bad 1002|", false, false },
    { "RSV3 with deflate", { { 0x91, "x", 0, 0 } }, "bad 1002|", true, false },
    { "RSV1 and RSV2 with deflate", { { 0xe1, "x", 0, 0 } }, "bad 1002|", true, false },
    { "RSV1 of a ping with deflate", { { 0xc9, "x", 0, 0 } }, "bad 1002|", true, false },
    { "RSV1 of a close with deflate", { { 0xc8, NULL, 0, 0 } }, "bad 1002|", true, false },
    /* 5.2: reserved opcodes */
    { "opcode 3", { { 0x83, "x", 0, 0 } }, "bad 1002|", false, false },
    { "opcode 4", { { 0x84, NULL, 0, 0 } }, "bad 1002|", false, false },
    { "opcode 7", { { 0x87, "x", 0, 0 } }, "bad 1002|", false, false },
    { "opcode 11", { { 0x8b, "x", 0, 0 } }, "bad 1002|", false, false },
    { "opcode 15", { { 0x8f, NULL, 0, 0 } }, "bad 1002|", false, false },
    { "opcode 5 between fragments",
      { { 0x01, "a", 0, 0 }, { 0x85, "x", 0, 0 }, { 0x80, "b", 0, 0 } },
      "bad 1002|",
      false,
      false },
    { "a good one before it",
      { { 0x81, "good", 0, 0 }, { 0x8c, "x", 0, 0 }, { 0x81, "dropped", 0, 0 } },
      "text good|bad 1002|",
      false,
      false },
    /* 5.4: fragmentation */
    { "two fragments",
      { { 0x01, "hel", 0, 0 }, { 0x80, "lo", 0, 0 } },
      "text hello|",
      false,
      false },
    { "four, some empty",
      { { 0x02, NULL, 0, 0 }, { 0x00, "a", 0, 0 }, { 0x00, NULL, 0, MORE }, { 0x80, "b", 0, 0 } },
      "binary ab|",
      false,
      false },
    { "all empty",
      { { 0x01, NULL, 0, 0 }, { 0x00, NULL, 0, MORE }, { 0x80, NULL, 0, 0 } },
      "text|",
      false,
      false },
    { "last empty", { { 0x01, "a", 0, 0 }, { 0x80, NULL, 0, 0 } }, "text a|", false, false },
    { "a ping between",
      { { 0x01, "hel", 0, 0 }, { 0x89, "p", 0, 0 }, { 0x80, "lo", 0, 0 } },
      "ping p|text hello|",
      false,
      false },
    { "ping and pong between",
      { { 0x02, "a", 0, 0 },
        { 0x89, NULL, 0, 0 },
        { 0x00, "b", 0, 0 },
        { 0x8a, "q", 0, 0 },
        { 0x80, "c", 0, 0 } },
      "ping|pong q|binary abc|",
      false,
      false },
    { "close between",
      { { 0x01, "hel", 0, 0 }, { 0x88, "\x03\xe8", 2, 0 }, { 0x80, "lo", 0, 0 } },
      "close 1000|",
      false,
      false },
    { "continuation of nothing", { { 0x80, "x", 0, 0 } }, "bad 1002|", false, false },
    { "continuation of nothing, not final", { { 0x00, "x", 0, 0 } }, "bad 1002|", false, false },
    { "continuation behind the end",
      { { 0x01, "a", 0, 0 }, { 0x80, "b", 0, 0 }, { 0x80, "c", 0, 0 } },
      "text ab|bad 1002|",
      false,
      false },
    { "text within text", { { 0x01, "a", 0, 0 }, { 0x81, "b", 0, 0 } }, "bad 1002|", false, false },
    { "binary within text",
      { { 0x01, "a", 0, 0 }, { 0x02, "b", 0, 0 } },
      "bad 1002|",
      false,
      false },
    { "half a message", { { 0x01, "a", 0, 0 } }, "...", false, false },
    { "RSV1 of a continuation",
      { { 0x41, "a", 0, 0 }, { 0xc0, "b", 0, 0 } },
      "bad 1002|",
      true,
      false },
    { "compressed, in parts", { { 0x41, "a", 0, 0 }, { 0x80, "\xff", 0, 0 } }, NULL, true, false },
    /* 5.5: control frames */
    { "ping of 125", { { 0x89, LONG_125, 0, 0 } }, "ping (125)|", false, false },
    { "ping of 126", { { 0x89, LONG_125 "x", 0, 0 } }, "bad 1002|", false, false },
    { "close of 126", { { 0x88, LONG_125 "x", 0, 0 } }, "bad 1002|", false, false },
    { "ping of 800", { { 0x89, "abcd", 0, REPEAT_200 } }, "bad 1002|", false, false },
    { "fragmented ping", { { 0x09, "a", 0, 0 } }, "bad 1002|", false, false },
    { "fragmented ping and its rest",
      { { 0x09, "a", 0, 0 }, { 0x80, "b", 0, 0 } },
      "bad 1002|",
      false,
      false },
    { "fragmented close", { { 0x08, "\x03\xe8", 2, 0 } }, "bad 1002|", false, false },
    { "fragmented pong", { { 0x0a, NULL, 0, 0 } }, "bad 1002|", false, false },
    { "pong that nobody asked for", { { 0x8a, "x", 0, 0 } }, "pong x|", false, false },
    /* 7.1.5, 7.4: close codes */
    { "close without a code", { { 0x88, NULL, 0, 0 } }, "close 1005|", false, false },
    { "half a code", { { 0x88, "\x03", 1, 0 } }, "bad 1002|", false, false },
    { "1000 bye",
      { { 0x88,
          "\x03\xe8"
          "bye",
          5, 0 } },
      "close 1000 bye|",
      false,
      false },
    { "close of 125",
      { { 0x88, "\x03\xe9" LONG_125, 125, 0 } },
      "close 1001 (123)|",
      false,
      false },
    { "1003", { { 0x88, "\x03\xeb", 2, 0 } }, "close 1003|", false, false },
    { "1007", { { 0x88, "\x03\xef", 2, 0 } }, "close 1007|", false, false },
    { "1014", { { 0x88, "\x03\xf6", 2, 0 } }, "close 1014|", false, false },
    { "3000", { { 0x88, "\x0b\xb8", 2, 0 } }, "close 3000|", false, false },
    { "4999", { { 0x88, "\x13\x87", 2, 0 } }, "close 4999|", false, false },
    { "0", { { 0x88, "\0\0", 2, 0 } }, "bad 1002|", false, false },
    { "999", { { 0x88, "\x03\xe7", 2, 0 } }, "bad 1002|", false, false },
    { "1004", { { 0x88, "\x03\xec", 2, 0 } }, "bad 1002|", false, false },
    { "1005", { { 0x88, "\x03\xed", 2, 0 } }, "bad 1002|", false, false },
    { "1006", { { 0x88, "\x03\xee", 2, 0 } }, "bad 1002|", false, false },
    { "1015", { { 0x88, "\x03\xf7", 2, 0 } }, "bad 1002|", false, false },
    { "1016", { { 0x88, "\x03\xf8", 2, 0 } }, "bad 1002|", false, false },
    { "2999", { { 0x88, "\x0b\xb7", 2, 0 } }, "bad 1002|", false, false },
    { "5000", { { 0x88, "\x13\x88", 2, 0 } }, "bad 1002|", false, false },
    { "65535", { { 0x88, "\xff\xff", 2, 0 } }, "bad 1002|", false, false },
    { "a reason that is no UTF-8", { { 0x88, "\x03\xe8\xc3", 3, 0 } }, "bad 1007|", false, false },
    { "a message behind the close",
      { { 0x88, "\x03\xe8", 2, 0 }, { 0x81, "late", 0, 0 } },
      "close 1000|",
      false,
      false },
    /* 8.1: UTF-8 */
    { "two bytes", { { 0x81, "\xc3\xbc", 0, 0 } }, "text \xc3\xbc|", false, false },
    { "four bytes over three fragments",
      { { 0x01, "\xf0\x9f", 0, 0 }, { 0x00, "\x98", 0, 0 }, { 0x80, "\x80", 0, 0 } },
      "text \xf0\x9f\x98\x80|",
      false,
      false },
    { "a ping within a character",
      { { 0x01, "\xc3", 0, 0 }, { 0x89, "p", 0, 0 }, { 0x80, "\xbc", 0, 0 } },
      "ping p|text \xc3\xbc|",
      false,
      false },
    { "a character cut at the end", { { 0x81, "\xe2\x82", 0, 0 } }, "bad 1007|", false, false },
    { "cut at the end of the last fragment",
      { { 0x01, "\xe2", 0, 0 }, { 0x80, "\x82", 0, 0 } },
      "bad 1007|",
      false,
      false },
    { "cut, and an empty last fragment",
      { { 0x01, "\xe2\x82", 0, 0 }, { 0x80, NULL, 0, 0 } },
      "bad 1007|",
      false,
      false },
    { "bad in the middle of fragments, before the message ends",
      { { 0x01, "fine", 0, 0 }, { 0x00, "\xff", 0, 0 } },
      "bad 1007|",
      false,
      false },
    { "over-long", { { 0x01, "\xc0\xaf", 0, 0 } }, "bad 1007|", false, false },
    { "a surrogate", { { 0x01, "\xed\xa0", 0, 0 } }, "bad 1007|", false, false },
    { "past U+10FFFF", { { 0x01, "\xf4\x90", 0, 0 } }, "bad 1007|", false, false },
    { "the rest of another message's character",
      { { 0x82, "\xc3", 0, 0 }, { 0x81, "\xbc", 0, 0 } },
      NULL,
      false,
      false },
    { "binary may be anything", { { 0x82, "\xff\xfe", 0, 0 } }, "binary \xff\xfe|", false, false },
    /* limits */
    { "one byte too many, announced",
      { { 0x82, NULL, 0, LENGTH_MORE } },
      "bad 1009|",
      false,
      false },
    { "too many by fragments",
      { { 0x02, "abcd", 0, REPEAT_200 }, { 0x80, "a", 0, REPEAT_200 }, { 0x81, "z", 0, 0 } },
      "binary (1000)|text z|",
      false,
      false },
    { "one more",
      { { 0x02, "abcd", 0, REPEAT_200 }, { 0x00, "a", 0, REPEAT_200 }, { 0x80, "z", 0, 0 } },
      "bad 1009|",
      false,
      false },
};

TEST(every_clause_whole_and_in_pieces)
{
    static const size_t steps[] = { 0, 1, 2, 3, 7, SIZE_MAX, SIZE_MAX };
    struct websocket_heap *heap = websocket_heap_new();

    check_or_stop(heap != NULL, "heap");
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct row *row = &rows[i];
        struct text first;
        uint8_t bytes[BYTES_MAX];
        size_t size = 0;
        text_init(&first, 1 << 16);
        for (size_t j = 0; j < FRAMES_MAX; j++) {
            const struct frame *f = &row->frames[j];
            if (f->first == 0 && f->payload == NULL && f->flags == 0)
                break;

            size += put_frame(bytes + size, f);
        }
        for (size_t j = 0; j < COUNT(steps); j++) {
            struct websocket ws;
            struct text log;
            text_init(&log, 1 << 16);
            websocket_init(&ws, row->is_client ? WEBSOCKET_CLIENT : WEBSOCKET_SERVER, heap,
                           MESSAGE_MAX, row->has_deflate);
            run(&ws, bytes, size, steps[j], &log);
            if (row->expected != NULL)
                check(slice_is(text_slice(&log), row->expected), "%s, step %zu: %s", row->name,
                      steps[j], text_cstr(&log));
            if (j == 0)
                text_slice_put(&first, text_slice(&log));
            else
                check(slice_eq(text_slice(&log), text_slice(&first)), "%s: split by %zu: %s",
                      row->name, steps[j], text_cstr(&log));
            text_deinit(&log);
        }
        text_deinit(&first);
    }
    websocket_heap_free(&heap);
}

/* What is refused is refused with the last byte of its head, not later. */
TEST(refused_at_the_head)
{
    static const struct frame early[] = {
        { 0x82, NULL, 0, LENGTH_MORE },
        { 0x81, "x", 0, UNMASKED },
        { 0x83, "x", 0, 0 },
        { 0xc1, "x", 0, 0 },
        { 0x80, "x", 0, 0 },
    };
    struct websocket_heap *heap = websocket_heap_new();

    check_or_stop(heap != NULL, "heap");
    for (size_t i = 0; i < COUNT(early); i++) {
        struct websocket ws;
        struct websocket_event event;
        struct err err = { 0 };
        uint8_t bytes[64];
        size_t used, head = early[i].flags & UNMASKED ? 2 : early[i].flags & LENGTH_MORE ? 8 : 6;
        put_frame(bytes, &early[i]);
        websocket_init(&ws, WEBSOCKET_SERVER, heap, MESSAGE_MAX, false);
        check(websocket_next(&ws, bytes, head, &used, &event, &err) == WEBSOCKET_BAD, "row %zu", i);
    }
    websocket_heap_free(&heap);
}

/* A payload may be received elsewhere: what is left is said, and given from there. */
TEST(payload_from_elsewhere)
{
    struct websocket_heap *heap = websocket_heap_new();
    struct frame frame = { 0x82, "0123456789", 0, 0 };
    struct websocket_event event;
    struct websocket ws;
    struct err err = { 0 };
    uint8_t bytes[64], elsewhere[10];
    size_t used;

    check_or_stop(heap != NULL, "heap");
    put_frame(bytes, &frame);
    websocket_init(&ws, WEBSOCKET_SERVER, heap, MESSAGE_MAX, false);
    check(websocket_next(&ws, bytes, 6, &used, &event, &err) == WEBSOCKET_MORE, "the head");
    check(websocket_left(&ws) == 10 && ws.message_bytes == 10, "left");
    memcpy(elsewhere, bytes + 6, 10);
    check(websocket_next(&ws, elsewhere, 3, &used, &event, &err) == WEBSOCKET_DATA, "a piece");
    check(event.is_first && !event.is_last && websocket_left(&ws) == 7, "three");
    check(websocket_next(&ws, elsewhere + 3, 7, &used, &event, &err) == WEBSOCKET_DATA, "the rest");
    check(!event.is_first && event.is_last && websocket_left(&ws) == 0, "all");
    check(memcmp(elsewhere, "0123456789", 10) == 0, "unmasked where it lies");
    websocket_heap_free(&heap);
}

TEST(heads_are_written)
{
    static const uint64_t sizes[] = { 0, 1, 125, 126, 65535, 65536, UINT64_C(1) << 40 };
    static const enum websocket_opcode opcodes[] = { WEBSOCKET_CONTINUATION, WEBSOCKET_TEXT,
                                                     WEBSOCKET_BINARY };
    struct websocket_heap *heap = websocket_heap_new();

    check_or_stop(heap != NULL, "heap");
    for (size_t i = 0; i < COUNT(sizes) * COUNT(opcodes) * 8; i++) {
        uint64_t size = sizes[i % COUNT(sizes)];
        enum websocket_opcode opcode = opcodes[i / COUNT(sizes) % COUNT(opcodes)];
        size_t bits = i / COUNT(sizes) / COUNT(opcodes);
        bool is_final = bits & 1, is_compressed = bits & 2, is_masked = bits & 4;
        uint8_t out[WEBSOCKET_HEAD_MAX], by_hand[WEBSOCKET_HEAD_MAX] = { 0 };
        size_t at = 2, got = websocket_head(heap, opcode, is_final, is_compressed, size,
                                            is_masked ? some_mask : NULL, out);
        by_hand[0] = (uint8_t)(opcode | (is_final ? 0x80 : 0) | (is_compressed ? 0x40 : 0));
        by_hand[1] = (uint8_t)((is_masked ? 0x80 : 0) | (size > 65535 ? 127
                                                         : size > 125 ? 126
                                                                      : size));
        for (int shift = size > 65535 ? 56 : size > 125 ? 8 : -8; shift >= 0; shift -= 8)
            by_hand[at++] = (uint8_t)(size >> shift);
        if (is_masked) {
            memcpy(by_hand + at, some_mask, 4);
            at += 4;
        }
        check(got == at && memcmp(out, by_hand, at) == 0, "size %llu, opcode %d, bits %zu",
              (unsigned long long)size, (int)opcode, bits);
    }
    websocket_heap_free(&heap);
}

TEST(masks_as_the_plain_way_does)
{
    for (int round = 0; round < 1000; round++) {
        uint8_t bytes[64], plain[64], mask[4];
        size_t size = (size_t)test_random_below(sizeof bytes), at = (size_t)test_random_below(100);
        for (size_t i = 0; i < 4; i++)
            mask[i] = (uint8_t)test_random();
        for (size_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = (uint8_t)test_random();
            plain[i] = bytes[i] ^ (i < size ? mask[(at + i) % 4] : 0);
        }
        websocket_mask(bytes, size, mask, at);
        check_or_stop(memcmp(bytes, plain, sizeof bytes) == 0, "size %zu at %zu", size, at);
    }
}

TEST(utf8_in_pieces_as_in_one)
{
    for (int round = 0; round < 20000; round++) {
        struct websocket_utf8 state = { 0 };
        uint8_t bytes[24];
        size_t size = 0, count = (size_t)test_random_below(6);
        while (count-- > 0) {
            static const uint32_t points[] = { 'a',    0x7f,   0x80,   0x7ff,   0x800,
                                               0xd7ff, 0xe000, 0xffff, 0x10000, 0x10ffff };
            size += utf8_put(bytes + size, points[test_random_below(COUNT(points))]);
        }
        if (size > 0 && test_random_below(2) == 0)
            bytes[test_random_below(size)] = (uint8_t)test_random();
        bool is_fine = true;
        for (size_t at = 0, part; at < size && is_fine; at += part) {
            part = 1 + (size_t)test_random_below(5);
            part = MIN(part, size - at);
            is_fine = websocket_utf8_feed(&state, slice_make(bytes + at, part));
        }
        check_or_stop((is_fine && state.need == 0) ==
                          (utf8_valid_prefix(slice_make(bytes, size)) == size),
                      "round %d", round);
    }
}

TEST(close_frames_are_written)
{
    uint8_t out[WEBSOCKET_CONTROL_MAX];
    char text[200];

    check(websocket_close_put(WEBSOCKET_NO_CODE, slice_of("x"), out) == 0, "1005 is not sent");
    check(websocket_close_put(WEBSOCKET_ABNORMAL, slice_of("x"), out) == 0, "1006 is not sent");
    check(websocket_close_put(1000, slice_make(NULL, 0), out) == 2 && out[0] == 3 && out[1] == 0xe8,
          "1000");
    memset(text, 'a', sizeof text);
    check(websocket_close_put(1000, slice_make(text, sizeof text), out) == 125, "cut to 125");
    memcpy(text + 122, "\xe2\x82\xac", 3);
    check(websocket_close_put(1000, slice_make(text, sizeof text), out) == 124, "at a character");
}

TEST(handshake_of_the_rfc)
{
    char out[WEBSOCKET_ACCEPT_BYTES];

    websocket_accept_of(slice_of("dGhlIHNhbXBsZSBub25jZQ=="), out);
    check(memcmp(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", sizeof out) == 0, "RFC 6455 1.3");
    check(websocket_key_is_valid(slice_of("dGhlIHNhbXBsZSBub25jZQ==")), "its key");
    check(!websocket_key_is_valid(slice_of("dGhlIHNhbXBsZSBub25jZQ=")), "cut");
    check(!websocket_key_is_valid(slice_of("dGhlIHNhbXBsZSBub25jZQ=a")), "behind the end");
    check(!websocket_key_is_valid(slice_of("dGhlIHNhbXBsZSBub25jZQAA")), "18 bytes");
    check(!websocket_key_is_valid(slice_of("!!!!!!!!!!!!!!!!!!!!!!==")), "no base64");
    check(!websocket_key_is_valid(slice_of("")), "empty");
}

/* -- permessage-deflate ---------------------------------------------------------------------------- */

TEST(what_is_offered_and_answered)
{
    static const char plain[] =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    static const struct {
        const char *offer, *answer; /* NULL: the plain one; "": none */
        uint8_t bits;
    } offers[] = {
        { "permessage-deflate", NULL, 15 },
        { "permessage-deflate; client_max_window_bits", NULL, 15 },
        { "permessage-deflate; client_max_window_bits=10", NULL, 15 },
        { "permessage-deflate; client_max_window_bits=\"10\"", NULL, 15 },
        { "Permessage-Deflate;server_no_context_takeover", NULL, 15 },
        { "permessage-deflate; server_no_context_takeover; client_no_context_takeover", NULL, 15 },
        { "permessage-deflate; server_max_window_bits=9", "; server_max_window_bits=9", 9 },
        { "permessage-deflate; server_max_window_bits=15", "; server_max_window_bits=15", 15 },
        { "permessage-deflate; server_max_window_bits=8", "", 0 },
        { "permessage-deflate; server_max_window_bits=8, permessage-deflate", NULL, 15 },
        { "x-webkit-deflate-frame, foo; a=b , permessage-deflate", NULL, 15 },
        { "permessage-deflate; server_max_window_bits", "", 0 },
        { "permessage-deflate; server_max_window_bits=16", "", 0 },
        { "permessage-deflate; server_max_window_bits=7", "", 0 },
        { "permessage-deflate; server_max_window_bits=09", "", 0 },
        { "permessage-deflate; server_max_window_bits=", "", 0 },
        { "permessage-deflate; client_max_window_bits=", "", 0 },
        { "permessage-deflate; client_max_window_bits=99", "", 0 },
        { "permessage-deflate; server_no_context_takeover=1", "", 0 },
        { "permessage-deflate; server_no_context_takeover; server_no_context_takeover", "", 0 },
        { "permessage-deflate; client_max_window_bits; client_max_window_bits=9", "", 0 },
        { "permessage-deflate; other", "", 0 },
        { "permessage-deflate;", "", 0 },
        { "permessage-deflate; =9", "", 0 },
        { "permessage-deflatex", "", 0 },
        { "", "", 0 },
        { ",,;,", "", 0 },
    };

    for (size_t i = 0; i < COUNT(offers); i++) {
        struct websocket_deflate agreed;
        char answer[WEBSOCKET_AGREED_BYTES] = "", expected[WEBSOCKET_AGREED_BYTES] = "";
        bool is_on = websocket_deflate_choose(slice_of(offers[i].offer), &agreed, answer);
        if (offers[i].answer == NULL || offers[i].answer[0] != '\0')
            snprintf(expected, sizeof expected, "%s%s", plain,
                     offers[i].answer == NULL ? "" : offers[i].answer);
        check(is_on == agreed.is_on && is_on == (expected[0] != '\0'), "%s", offers[i].offer);
        check(strcmp(answer, expected) == 0 && agreed.bits == offers[i].bits, "%s: %s, %u",
              offers[i].offer, answer, agreed.bits);
    }
}

TEST(what_a_client_takes_as_an_answer)
{
    struct websocket_deflate agreed;

    check(websocket_deflate_check(slice_of(""), &agreed) && !agreed.is_on, "refused is fine");
    check(websocket_deflate_check(slice_of(websocket_deflate_offer), &agreed) && agreed.is_on,
          "as offered");
    check(!websocket_deflate_check(slice_of("permessage-deflate"), &agreed),
          "with context takeover");
    check(!websocket_deflate_check(slice_of("foo"), &agreed), "what was not offered");
    check(!websocket_deflate_check(
              slice_of("permessage-deflate; server_no_context_takeover; client_max_window_bits=9"),
              &agreed),
          "a window that was not offered");
    check(!websocket_deflate_check(
              slice_of("permessage-deflate; server_no_context_takeover, permessage-deflate"),
              &agreed),
          "twice");
}

/* RFC 7692 7.2.3 */
TEST(examples_of_the_rfc_inflate)
{
    static const struct {
        const char *packed;
        size_t size;
        const char *plain; /* NULL: E_INVALID */
    } examples[] = {
        { "\xf2\x48\xcd\xc9\xc9\x07\x00", 7, "Hello" },
        { "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", 11, "Hello" },
        { "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", 8, "Hello" },
        { "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", 13, "Hello" },
        { "\x00", 1, "" },
        { "\x02\x00", 2, "" },
        { "", 0, "" },
        { "\xf2\x48\xcd\xc9", 4, NULL },
        { "\xff\xff\xff", 3, NULL },
        { "\x00\x05\x00\xfa\xff\x48\x65", 7, NULL },
    };
    struct websocket_heap *heap = websocket_heap_new();

    check_or_stop(heap != NULL, "heap");
    for (size_t i = 0; i < COUNT(examples); i++) {
        struct buf *buf = NULL;
        struct err err = { 0 };
        enum err_code code =
            websocket_inflate(heap, &buf, NULL, slice_make(examples[i].packed, examples[i].size),
                              1000, &err);
        check(code == (examples[i].plain == NULL ? E_INVALID : OK), "%zu: %s", i, err.text);
        if (code == OK)
            check(buf == NULL ? examples[i].plain[0] == '\0'
                              : slice_is(buf_bytes(buf), examples[i].plain),
                  "%zu", i);
        buf_unref(&buf);
    }
    websocket_heap_free(&heap);
}

static struct buf *pack(struct websocket_heap *heap, uint8_t bits, struct slice plain)
{
    struct websocket_deflate agreed = { true, bits };
    struct slice pieces[3] = { slice_first(plain, plain.size / 3),
                               slice_first(slice_skip(plain, plain.size / 3), plain.size / 3),
                               slice_skip(plain, plain.size / 3 * 2) };

    return websocket_deflate(heap, &agreed, NULL, pieces, COUNT(pieces));
}

TEST(deflates_and_inflates_again)
{
    static const size_t sizes[] = { 0, 8, 20, 300, 1000, 5000, 70000, 3000000 };
    struct websocket_heap *heap = websocket_heap_new();

    check_or_stop(heap != NULL, "heap");
    for (size_t i = 0; i < COUNT(sizes) * 7; i++) {
        size_t size = sizes[i % COUNT(sizes)];
        uint8_t bits = (uint8_t)(9 + i / COUNT(sizes));
        char *text = malloc(size + 1);
        if (text == NULL)
            abort();
        for (size_t j = 0; j < size; j++) /* ten letters, so that something is gained */
            text[j] = (char)('a' + test_random_below(j % 7 + 1));
        struct slice plain = slice_make(text, size);
        struct buf *packed = pack(heap, bits, plain), *again = NULL;
        struct err err = { 0 };
        check(size <= 20 || packed != NULL, "%zu bytes do not get smaller", size);
        if (packed != NULL) {
            check(buf_bytes(packed).size < size, "not smaller");
            check(websocket_inflate(heap, &again, NULL, buf_bytes(packed), size, &err) == OK, "%s",
                  err.text);
            check(again != NULL && slice_eq(buf_bytes(again), plain), "%zu bytes, %u bits", size,
                  bits);
        }
        buf_unref(&packed);
        buf_unref(&again);
        free(text);
    }
    websocket_heap_free(&heap);
}

TEST(what_does_not_get_smaller_is_not_packed)
{
    struct websocket_heap *heap = websocket_heap_new();
    uint8_t noise[3000];

    check_or_stop(heap != NULL, "heap");
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)test_random();
    check(pack(heap, 15, slice_make(noise, sizeof noise)) == NULL, "noise");
    struct buf *fine = pack(heap, 15, slice_of(LONG_125 LONG_125));
    check(fine != NULL, "the state is good for the next message");
    buf_unref(&fine);
    websocket_heap_free(&heap);
}

/* Twenty million zeros in twenty thousand bytes. */
TEST(bombs_cost_little)
{
    struct websocket_heap *heap = websocket_heap_new();
    size_t size = 20 << 20;
    uint8_t *zeros = calloc(1, size);
    struct budget budget;
    struct buf *packed, *out = NULL;
    struct err err = { 0 };

    check_or_stop(heap != NULL && zeros != NULL, "memory");
    packed = pack(heap, 15, slice_make(zeros, size));
    check_or_stop(packed != NULL, "packed");
    struct slice bomb = buf_bytes(packed);
    check(websocket_inflate(heap, &out, NULL, bomb, SIZE_MAX, &err) == E_RANGE, "by its ratio");
    check(strstr(err.text, "100 times") != NULL, "%s", err.text);
    check(websocket_inflate(heap, &out, NULL, bomb, 1000, &err) == E_RANGE, "by the limit");
    check(strstr(err.text, "1000 bytes") != NULL, "%s", err.text);
    budget_init(&budget, 600000);
    check(websocket_inflate(heap, &out, &budget, bomb, SIZE_MAX, &err) == E_EXHAUSTED, "budget: %s",
          err.text);
    check(out == NULL && budget_used(&budget) == 0, "all given back");
    buf_unref(&packed);
    /* The first 8 MiB may be anything. */
    packed = pack(heap, 15, slice_make(zeros, WEBSOCKET_RATIO_FREE));
    check(websocket_inflate(heap, &out, NULL, buf_bytes(packed), SIZE_MAX, &err) == OK, "%s",
          err.text);
    check(out != NULL && buf_bytes(out).size == WEBSOCKET_RATIO_FREE, "so many zeros");
    buf_unref(&out);
    check(websocket_inflate(heap, &out, NULL, buf_bytes(packed), WEBSOCKET_RATIO_FREE - 1, &err) ==
              E_RANGE,
          "a byte less is too little");
    buf_unref(&packed);
    free(zeros);
    websocket_heap_free(&heap);
}

TEST(faults)
{
    for_each_fault(nth) {
        struct websocket_heap *heap = websocket_heap_new();
        struct frame frame = { 0x81, "hello", 0, 0 };
        uint8_t bytes[64], head[WEBSOCKET_HEAD_MAX];
        struct websocket_event event;
        struct websocket ws;
        struct err err = { 0 };
        struct buf *out = NULL;
        size_t used, size = put_frame(bytes, &frame);
        if (heap != NULL) {
            websocket_init(&ws, WEBSOCKET_SERVER, heap, MESSAGE_MAX, false);
            enum websocket_step step = websocket_next(&ws, bytes, size, &used, &event, &err);
            check(step == WEBSOCKET_DATA || (step == WEBSOCKET_BAD && event.code == 1013), "step");
            (void)websocket_head(heap, WEBSOCKET_TEXT, true, false, 5, NULL, head);
            (void)websocket_head(heap, WEBSOCKET_TEXT, true, false, 5, some_mask, head);
            struct buf *packed = pack(heap, 15, slice_of(LONG_125 LONG_125));
            buf_unref(&packed);
            enum err_code code =
                websocket_inflate(heap, &out, NULL, slice_make("\xf2\x48\xcd\xc9\xc9\x07\x00", 7),
                                  1000, &err);
            check(code == OK || code == E_EXHAUSTED, "%d: %s", code, err.text);
            buf_unref(&out);
        }
        websocket_heap_free(&heap);
        if (!fault_fired())
            break;
    }
    fault_arm(0);
}
