/* websocket_fuzz.c - any bytes as frames, whole and split: the same events; every message that says
 * so is inflated. SPDX-License-Identifier: Apache-2.0
 *
 * The first byte: role, deflate, and how the rest is split. Its upper bits 0xe0 all set: the rest is
 * the value of Sec-WebSocket-Extensions. */
#include "wire/websocket.h"

#include <stdlib.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "wire/websocket_deflate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGE_MAX = 5000, INFLATED_MAX = 20000 };

struct trace {
    uint64_t hash;
    uint32_t messages, controls, code;
};

static void mix(struct trace *t, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;

    for (size_t i = 0; i < size; i++)
        t->hash = (t->hash ^ at[i]) * UINT64_C(0x100000001b3);
}

static void take_message(struct trace *t, const struct websocket *ws, struct slice message)
{
    struct buf *plain = NULL;
    struct err err = { 0 };

    mix(t, message.data, message.size);
    mix(t, "|", 1);
    t->messages++;
    require(message.size <= MESSAGE_MAX);
    if (ws->is_compressed) {
        enum err_code code = websocket_inflate(ws->heap, &plain, NULL, message, INFLATED_MAX, &err);
        require((code == OK) == (err.text[0] == '\0'));
        require(code == OK || plain == NULL);
        if (plain != NULL) {
            struct websocket_deflate agreed = { true, 15 };
            struct slice bytes = buf_bytes(plain);
            require(bytes.size > 0 && bytes.size <= INFLATED_MAX);
            struct buf *packed = websocket_deflate(ws->heap, &agreed, NULL, &bytes, 1);
            struct buf *again = NULL;
            if (packed != NULL) {
                if (websocket_inflate(ws->heap, &again, NULL, buf_bytes(packed), INFLATED_MAX,
                                      &err) != OK)
                    abort();
                require(slice_eq(buf_bytes(again), bytes));
            }
            buf_unref(&packed);
            buf_unref(&again);
        }
        buf_unref(&plain);
    } else if (ws->is_text) {
        require(utf8_valid_prefix(message) == message.size);
    }
}

static struct trace run(struct websocket_heap *heap, uint8_t how, const uint8_t *data, size_t size,
                        size_t step)
{
    struct trace t = { .hash = UINT64_C(0xcbf29ce484222325) };
    static uint8_t message[MESSAGE_MAX];
    size_t message_size = 0;
    struct websocket ws;

    websocket_init(&ws, how & 1 ? WEBSOCKET_CLIENT : WEBSOCKET_SERVER, heap, MESSAGE_MAX,
                   (how & 2) != 0);
    for (size_t at = 0; at < size;) {
        size_t part = MIN(step == 0 ? size : step, size - at);
        uint8_t *piece = malloc(part);
        if (piece == NULL)
            abort();
        memcpy(piece, data + at, part);
        at += part;
        for (size_t used, from = 0; from < part; from += used) {
            struct websocket_event event;
            struct err err = { 0 };
            enum websocket_step what =
                websocket_next(&ws, piece + from, part - from, &used, &event, &err);
            require(used <= part - from);
            require(what != WEBSOCKET_MORE || used == part - from);
            require((what == WEBSOCKET_BAD) == (err.text[0] != '\0'));
            switch (what) {
            case WEBSOCKET_DATA:
                require(message_size + event.data.size <= MESSAGE_MAX);
                require(!event.is_first || message_size == 0);
                if (event.data.size > 0)
                    memcpy(message + message_size, event.data.data, event.data.size);
                message_size += event.data.size;
                if (event.is_last) {
                    take_message(&t, &ws, slice_make(message, message_size));
                    message_size = 0;
                }
                break;
            case WEBSOCKET_PING:
            case WEBSOCKET_PONG:
            case WEBSOCKET_CLOSE:
                require(event.data.size <= WEBSOCKET_CONTROL_MAX);
                mix(&t, event.data.data, event.data.size);
                t.controls++;
                t.code += event.code;
                break;
            case WEBSOCKET_BAD:
                require(websocket_code_is_sendable(event.code));
                t.code += event.code;
                break;
            default: break;
            }
        }
        free(piece);
    }
    require(websocket_left(&ws) <= MESSAGE_MAX);
    return t;
}

static void negotiate(struct slice text)
{
    char answer[WEBSOCKET_AGREED_BYTES];
    struct websocket_deflate agreed;

    if (websocket_deflate_choose(text, &agreed, answer)) {
        require(agreed.bits >= 9 && agreed.bits <= 15);
        require(strlen(answer) < sizeof answer);
        require(websocket_deflate_check(slice_of(answer), &agreed));
    }
    (void)websocket_deflate_check(text, &agreed);
    (void)websocket_key_is_valid(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct websocket_heap *heap;

    if (size == 0)
        return 0;
    uint8_t how = data[0];
    if (how >= 0xe0) {
        negotiate(slice_make(data + 1, size - 1));
        return 0;
    }
    heap = websocket_heap_new();
    if (heap == NULL)
        abort();
    struct trace whole = run(heap, how, data + 1, size - 1, 0);
    struct trace bytes = run(heap, how, data + 1, size - 1, 1);
    struct trace pieces = run(heap, how, data + 1, size - 1, 2 + (how >> 2));
    require(memcmp(&whole, &bytes, sizeof whole) == 0);
    require(memcmp(&whole, &pieces, sizeof whole) == 0);
    websocket_heap_free(&heap);
    return 0;
}
