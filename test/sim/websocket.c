/* websocket.c - people who hold a conversation over a WebSocket.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What the server must say is known to the byte before anything is sent: each message in its
 * order, with its number. A conversation may also be left in the middle, or be cut into frames
 * at any place. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/sim/people.h"

enum { INPUTS_MAX = 12, TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

struct talk {
    struct line line; /* first */
    struct bytes in, message;
    bool is_chat, is_open, is_leaver, is_done, sent_close, got_close, one_by_one;
    uint32_t inputs, said, heard; /* heard: messages of the server */
    uint32_t answered;
    char words[INPUTS_MAX][24];
    struct bytes expected[3 * INPUTS_MAX + 2];
    uint32_t expected_count;
    uint32_t leaves_at;
    bool was_refused, is_early;
};

static void end(struct talk *t)
{
    if (t->is_done)
        return;
    t->is_done = true;
    sim_person_ends();
}

static void put_frame(struct bytes *out, unsigned opcode, bool is_final, const uint8_t *data,
                      size_t size)
{
    uint8_t head[14] = { (uint8_t)(opcode | (is_final ? 0x80u : 0)), 0x80 }, mask[4];
    size_t at = 2;

    for (size_t i = 0; i < 4; i++)
        mask[i] = (uint8_t)sim_draw(CHANCE_PEOPLE);
    if (size < 126) {
        head[1] |= (uint8_t)size;
    } else {
        head[1] |= 126;
        head[at++] = (uint8_t)(size >> 8);
        head[at++] = (uint8_t)size;
    }
    memcpy(head + at, mask, 4);
    sim_bytes_put(out, head, at + 4);
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = data[i] ^ mask[i % 4];
        sim_bytes_put(out, &byte, 1);
    }
}

static void say(struct talk *t, const char *text)
{
    const uint8_t *data = (const uint8_t *)text;
    size_t size = strlen(text);
    bool is_first = true;

    while (size > 1 && sim_draw_below(CHANCE_PEOPLE, 4) == 0) {
        size_t part = sim_draw_below(CHANCE_PEOPLE, size);
        put_frame(&t->line.out, is_first ? TEXT : 0, false, data, part);
        if (sim_draw_below(CHANCE_PEOPLE, 4) == 0) /* control frames may stand between */
            put_frame(&t->line.out, PING, true, (const uint8_t *)"hi", 2);
        data += part;
        size -= part;
        is_first = false;
    }
    put_frame(&t->line.out, is_first ? TEXT : 0, true, data, size);
}

static void say_more(struct talk *t)
{
    char text[128];

    while (t->said < t->inputs && (!t->one_by_one || t->answered == t->said)) {
        snprintf(text, sizeof text,
                 t->is_chat ? "{\"inputs\":{\"IN\":[\"%s\"]}}" : "{\"inputs\":{\"IN\":[%s]}}",
                 t->words[t->said++]);
        say(t, text);
        if (t->said == t->inputs)
            say(t, "{\"finish\":{}}");
    }
    sim_line_say(&t->line);
}

static void expect_all(struct talk *t)
{
    struct bytes *at = t->expected;
    unsigned sequence = 1;

    sim_bytes_printf(at++, "{\"sequence\":%u,\"begun\":{\"model\":\"%s\",\"version\":\"1\"",
                     sequence++, t->is_chat ? "chat" : "ident");
    for (uint32_t i = 0; i < t->inputs; i++) {
        if (!t->is_chat) {
            unsigned count = 1;
            for (const char *c = t->words[i]; *c != '\0'; c++)
                count += *c == ',';
            sim_bytes_printf(at++,
                             "{\"sequence\":%u,\"output\":{\"input\":%u,\"outputs\":[{\"name\":"
                             "\"OUT\",\"datatype\":"
                             "\"INT32\",\"shape\":[%u],\"data\":[%s]}],\"isLast\":true}}",
                             sequence++, i + 1, count, t->words[i]);
            continue;
        }
        for (int k = 0; k < 2; k++)
            sim_bytes_printf(at++,
                             "{\"sequence\":%u,\"output\":{\"input\":%u,\"outputs\":[{\"name\":"
                             "\"OUT\",\"datatype\":"
                             "\"BYTES\",\"shape\":[1],\"data\":[\"%s\"]},"
                             "{\"name\":\"turn\",\"datatype\":\"INT64\","
                             "\"shape\":[1],\"data\":[%u]}]}}",
                             sequence++, i + 1, t->words[i], i + 1);
        sim_bytes_printf(at++, "{\"sequence\":%u,\"answered\":{\"input\":%u}}", sequence++, i + 1);
    }
    sim_bytes_printf(at++, "{\"sequence\":%u,\"end\":{}}", sequence);
    t->expected_count = (uint32_t)(at - t->expected);
}

static void on_message(struct talk *t)
{
    const struct bytes *expected = &t->expected[t->heard];
    bool is_right =
        t->heard < t->expected_count &&
        (t->heard == 0 ? t->message.size > expected->size &&
                             memcmp(t->message.data, expected->data, expected->size) == 0
                       : sim_bytes_is(&t->message, (const char *)expected->data, expected->size));

    if (t->was_refused)
        return;
    if (!is_right) {
        bool is_error = sim_bytes_find(&t->message, "\"code\":") != NULL ||
                        sim_bytes_find(&t->message, "\"end\":") != NULL;
        if (!sim_world_may_refuse() || !is_error)
            sim_fail("connection %u: message %u is\n%.*s\n    instead of\n%.*s",
                     sim_line_id(&t->line), t->heard + 1, (int)t->message.size,
                     (const char *)t->message.data, (int)expected->size,
                     t->heard < t->expected_count ? (const char *)expected->data : "");
        t->was_refused = true;
        sim_world.answers_refused++;
        return;
    }
    t->heard++;
    if (t->is_chat ? sim_bytes_find(&t->message, "\"answered\"") != NULL
                   : sim_bytes_find(&t->message, "\"isLast\"") != NULL) {
        t->answered++;
        if (t->is_leaver && t->answered > t->leaves_at) {
            if (t->leaves_at % 2 == 0)
                sim_line_reset(&t->line);
            else
                sim_line_close(&t->line);
            end(t);
            return;
        }
        say_more(t);
    }
}

/* False: not whole yet. */
static bool read_frame(struct talk *t)
{
    const uint8_t *data = t->in.data;
    size_t at = 2;
    uint64_t size;

    if (t->in.size < 2)
        return false;
    unsigned opcode = data[0] & 15;
    if ((data[1] & 0x80) != 0 || (data[0] & 0x70) != 0)
        sim_fail("connection %u: a frame that is masked, or has bits that were not agreed",
                 sim_line_id(&t->line));
    size = data[1] & 127;
    if (size >= 126) {
        size_t bytes = size == 126 ? 2 : 8;
        if (t->in.size < 2 + bytes)
            return false;
        size = 0;
        while (at < 2 + bytes)
            size = size << 8 | data[at++];
    }
    if (size > 1 << 20)
        sim_fail("connection %u: a frame of %llu bytes", sim_line_id(&t->line),
                 (unsigned long long)size);
    if (t->in.size < at + size)
        return false;
    if (t->got_close)
        sim_fail("connection %u: a frame behind the close", sim_line_id(&t->line));
    if (opcode == CLOSE) {
        unsigned code = size >= 2 ? (unsigned)(data[at] << 8 | data[at + 1]) : 1005;
        t->got_close = true;
        sim_note("connection %u: closed with %u", sim_line_id(&t->line), code);
        if (!t->is_leaver && code != 1000 && !sim_world_may_refuse())
            sim_fail("connection %u: closed with %u %.*s", sim_line_id(&t->line), code,
                     (int)(size - MIN(size, (uint64_t)2)), (const char *)data + at + 2);
        if (code == 1000 && t->heard == t->expected_count)
            sim_world_count(t->is_chat ? "websocket-chat" : "websocket");
        else if (!t->was_refused)
            sim_world.answers_refused++;
        put_frame(&t->line.out, CLOSE, true, data + at, (size_t)MIN(size, (uint64_t)2));
        t->sent_close = true;
        sim_line_say(&t->line);
    } else if (opcode == PING) {
        put_frame(&t->line.out, PONG, true, data + at, (size_t)size);
        sim_line_say(&t->line);
    } else if (opcode != PONG) {
        sim_bytes_put(&t->message, data + at, (size_t)size);
        if ((data[0] & 0x80) != 0) {
            on_message(t);
            t->message.size = 0;
        }
    }
    if (!t->line.is_over)
        sim_bytes_drop(&t->in, at + (size_t)size);
    return !t->line.is_over;
}

static void on_look(struct line *line)
{
    struct talk *t = (struct talk *)(void *)line;
    size_t size;
    const uint8_t *data = sim_line_bytes(line, &size);

    sim_bytes_put(&t->in, data, size);
    sim_line_take(line, size);
    if (!t->is_open && !t->was_refused) {
        const char *end_at = sim_bytes_find(&t->in, "\r\n\r\n");
        if (end_at == NULL)
            return;
        if (strncmp((const char *)t->in.data, "HTTP/1.1 101 ", 13) != 0) {
            if (!sim_world_may_refuse() && !t->is_early)
                sim_fail("connection %u: the handshake was answered\n%.*s", sim_line_id(line),
                         (int)t->in.size, (const char *)t->in.data);
            t->was_refused = true;
            sim_world.answers_refused++;
            sim_line_close(line);
            end(t);
            return;
        }
        /* RFC 6455 1.3 */
        if (sim_bytes_find(&t->in, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == NULL)
            sim_fail("connection %u: sec-websocket-accept is wrong", sim_line_id(line));
        t->is_open = true;
        sim_bytes_drop(&t->in, (size_t)(end_at - (const char *)t->in.data) + 4);
    }
    while (!t->is_done && t->is_open && read_frame(t))
        continue;
}

static void on_over(struct line *line, bool is_reset)
{
    struct talk *t = (struct talk *)(void *)line;

    if (!t->got_close && !sim_world_may_refuse() && (!t->is_early || t->is_open))
        sim_fail("connection %u: %s without a close, after %u of %u messages", sim_line_id(line),
                 is_reset ? "reset" : "ends", t->heard, t->expected_count);
    if (!t->got_close)
        sim_world.answers_lost++;
    end(t);
}

static struct talk *talk_new(void)
{
    struct talk *t = sim_real_alloc(sizeof *t);

    t->line.on_look = on_look;
    t->line.on_over = on_over;
    t->is_chat = sim_draw_below(CHANCE_PEOPLE, 2) == 0;
    t->inputs = (uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, INPUTS_MAX);
    t->one_by_one = sim_draw_below(CHANCE_PEOPLE, 2) == 0;
    for (uint32_t i = 0; i < t->inputs; i++)
        snprintf(t->words[i], sizeof t->words[i],
                 t->is_chat   ? "w%u"
                 : i % 2 == 0 ? "%u"
                              : "%u,-1",
                 (unsigned)sim_draw_below(CHANCE_PEOPLE, 1000000));
    t->is_early = !sim_world.is_ready;
    expect_all(t);
    return t;
}

static void talk_begin(struct talk *t)
{
    sim_bytes_printf(
        &t->line.out,
        "GET /models/%s/stream HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nupgrade: websocket\r\n"
        "connection: Upgrade\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        t->is_chat ? "chat" : "ident", PORT);
    sim_person_begins();
    sim_line_open(&t->line);
    say_more(t);
}

void sim_websocket_one(void)
{
    talk_begin(talk_new());
}

void sim_websocket_person(void)
{
    struct talk *t = talk_new();

    t->is_leaver = sim_draw_below(CHANCE_PEOPLE, 4) == 0;
    t->leaves_at = (uint32_t)sim_draw_below(CHANCE_PEOPLE, t->inputs);
    if (sim_draw_below(CHANCE_PEOPLE, 4) == 0)
        t->line.read_pause_ns = sim_draw_between(CHANCE_PEOPLE, SIM_US, 30 * SIM_MS);
    if (sim_draw_below(CHANCE_PEOPLE, 4) == 0) {
        t->line.burst = sim_draw_between(CHANCE_PEOPLE, 1, 60);
        t->line.pause_ns = sim_draw_below(CHANCE_PEOPLE, SIM_MS);
    }
    talk_begin(t);
}
