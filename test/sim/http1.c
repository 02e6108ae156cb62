/* http1.c - people who speak HTTP/1.1: kept alive, pipelined, slow, leaving, nearly right.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/sim/people.h"

enum { ASKS_MAX = 24, HEAD_MOST = 65536 };

enum part {
    PART_HEAD,
    PART_BODY,
    PART_CHUNK_SIZE,
    PART_CHUNK,
    PART_CHUNK_END,
    PART_TRAILER,
    PART_TO_END
};

struct web {
    struct line line; /* first: its address is ours */
    struct bytes in;
    struct ask asks[ASKS_MAX];
    uint32_t count, asked, answered;
    uint32_t depth;     /* asked before the first is answered, at most */
    uint64_t think_ns;  /* between an answer and the next question */
    uint32_t leaves_at; /* this many answers, it goes in the middle of the next */
    bool is_leaver, resets, is_thinking, has_spoiled;
    bool was_told_to_close; /* what is asked behind that is never answered */
    bool finishes;          /* half-closes behind its last question */
    enum part part;
    uint64_t left;
    struct answer answer;
    void (*on_done)(struct web *w); /* the inspector's */
};

static void end(struct web *w)
{
    if (w->count == 0)
        return;
    w->count = 0;
    sim_person_ends();
    if (w->on_done != NULL)
        w->on_done(w);
}

static void ask_more(struct web *w);

static void on_thought(void *arg)
{
    struct web *w = arg;

    w->is_thinking = false;
    ask_more(w);
}

static void ask_more(struct web *w)
{
    if (w->line.is_over || w->is_thinking || w->was_told_to_close)
        return;
    while (w->asked < w->count && w->asked - w->answered < w->depth) {
        struct ask *ask = &w->asks[w->asked++];
        ask->is_early = !sim_world.is_ready;
        sim_note("connection %u: asks %s", sim_line_id(&w->line), ask->kind);
        sim_bytes_put(&w->line.out, ask->request.data, ask->request.size);
    }
    if (w->asked == w->count && w->finishes)
        w->line.will_finish = true;
    sim_line_say(&w->line);
}

static void leave(struct web *w)
{
    if (w->resets)
        sim_line_reset(&w->line);
    else
        sim_line_close(&w->line);
    end(w);
}

static void on_leave(void *arg)
{
    struct web *w = arg;

    if (!w->line.is_over)
        leave(w);
}

static void on_answer(struct web *w)
{
    struct answer *answer = &w->answer;

    if (w->answered == w->asked && !w->has_spoiled) {
        /* One answer may come by itself: that it has waited too long. */
        if (answer->status != 408 && answer->status != 503)
            sim_fail("connection %u: an answer to nothing: %d", sim_line_id(&w->line),
                     answer->status);
    } else if (w->has_spoiled) {
        if (answer->status < 200 || answer->status > 599)
            sim_fail("connection %u: status %d", sim_line_id(&w->line), answer->status);
    } else {
        sim_ask_judge(&w->asks[w->answered++], answer, sim_line_id(&w->line));
    }
    w->was_told_to_close |= answer->is_closing;
    sim_note("connection %u: answered %d%s", sim_line_id(&w->line), answer->status,
             answer->is_closing ? ", the last" : "");
    answer->head.size = answer->body.size = 0;
    w->part = PART_HEAD;
    if (w->answered == w->count && !w->has_spoiled && w->on_done == NULL &&
        sim_draw_below(CHANCE_PEOPLE, 2) == 0) {
        sim_line_close(&w->line);
        end(w);
        return;
    }
    if (w->answered == w->count && !w->has_spoiled) {
        w->line.will_finish = true;
        sim_line_say(&w->line);
        return;
    }
    if (w->think_ns > 0 && !w->is_thinking) {
        w->is_thinking = true;
        sim_after(sim_draw_below(CHANCE_PEOPLE, w->think_ns), on_thought, w);
    }
    ask_more(w);
}

static void bad(struct web *w, const char *what)
{
    sim_fail("connection %u: an answer that is not HTTP/1.1 (%s):\n%.*s", sim_line_id(&w->line),
             what, (int)MIN(w->in.size, (size_t)500), (const char *)w->in.data);
}

/* The size of the head with its empty line; 0: not whole yet. */
static size_t head_size(const struct bytes *in)
{
    const char *end_at = sim_bytes_find(in, "\r\n\r\n");

    return end_at == NULL ? 0 : (size_t)(end_at - (const char *)in->data) + 4;
}

static bool read_head(struct web *w)
{
    struct answer *answer = &w->answer;
    const char *value;
    size_t size = head_size(&w->in);
    bool is_empty;

    if (size == 0) {
        if (w->in.size > HEAD_MOST)
            bad(w, "a head without an end");
        return false;
    }
    if (sscanf((const char *)w->in.data, "HTTP/1.1 %3d ", &answer->status) != 1 ||
        answer->status < 100 || answer->status > 599)
        bad(w, "its first line");
    answer->head.size = 0;
    sim_bytes_put(&answer->head, w->in.data, size);
    sim_bytes_drop(&w->in, size);
    if (answer->status == 100)
        return true;
    if ((value = sim_answer_header(answer, "connection")) != NULL && strcmp(value, "close") == 0)
        answer->is_closing = true;
    if (sim_answer_header(answer, "date") == NULL)
        bad(w, "no date");
    is_empty = answer->status == 204 || answer->status == 304 ||
               (w->answered < w->asked && !w->has_spoiled && w->asks[w->answered].is_head);
    bool is_chunked = sim_answer_header(answer, "transfer-encoding") != NULL;
    value = sim_answer_header(answer, "content-length");
    if (is_chunked && value != NULL)
        bad(w, "both a length and chunks");
    w->left = value == NULL ? 0 : strtoull(value, NULL, 10);
    if (is_empty)
        on_answer(w);
    else if (is_chunked)
        w->part = PART_CHUNK_SIZE;
    else if (value == NULL)
        w->part = PART_TO_END;
    else if (w->left == 0)
        on_answer(w);
    else
        w->part = PART_BODY;
    return true;
}

static bool read_line(struct web *w, char out[static 64])
{
    const char *end_at = sim_bytes_find(&w->in, "\r\n");

    if (end_at == NULL) {
        if (w->in.size > 1000)
            bad(w, "a line without an end");
        return false;
    }
    size_t size = (size_t)(end_at - (const char *)w->in.data);
    snprintf(out, 64, "%.*s", (int)MIN(size, (size_t)63), (const char *)w->in.data);
    sim_bytes_drop(&w->in, size + 2);
    return true;
}

/* False: it takes more bytes. */
static bool read_part(struct web *w)
{
    char text[64], *end_at;
    size_t size;

    switch (w->part) {
    case PART_HEAD: return w->in.size > 0 && read_head(w);
    case PART_BODY:
    case PART_CHUNK:
        size = MIN(w->in.size, (size_t)w->left);
        sim_bytes_put(&w->answer.body, w->in.data, size);
        sim_bytes_drop(&w->in, size);
        w->left -= size;
        if (w->left > 0)
            return false;
        if (w->part == PART_BODY)
            on_answer(w);
        else
            w->part = PART_CHUNK_END;
        return true;
    case PART_CHUNK_SIZE:
        if (!read_line(w, text))
            return false;
        w->left = strtoull(text, &end_at, 16);
        if (end_at == text || *end_at != '\0')
            bad(w, "a chunk's size");
        w->part = w->left == 0 ? PART_TRAILER : PART_CHUNK;
        return true;
    case PART_CHUNK_END:
        if (!read_line(w, text))
            return false;
        if (text[0] != '\0')
            bad(w, "a chunk's end");
        w->part = PART_CHUNK_SIZE;
        return true;
    case PART_TRAILER:
        if (!read_line(w, text))
            return false;
        if (text[0] == '\0')
            on_answer(w);
        return true;
    case PART_TO_END:
        sim_bytes_put(&w->answer.body, w->in.data, w->in.size);
        w->in.size = 0;
        return false;
    }
    return false;
}

static void on_look(struct line *line)
{
    struct web *w = (struct web *)(void *)line;
    size_t size;
    const uint8_t *data = sim_line_bytes(line, &size);

    sim_bytes_put(&w->in, data, size);
    sim_line_take(line, size);
    while (!line->is_over && w->in.size > 0 && read_part(w))
        continue;
    if (!line->is_over && w->is_leaver && w->answered >= w->leaves_at && w->in.size > 0)
        leave(w);
}

static void on_over(struct line *line, bool is_reset)
{
    struct web *w = (struct web *)(void *)line;

    if (w->count == 0)
        return;
    if (w->part == PART_TO_END) {
        w->answer.is_closing = true;
        on_answer(w);
    }
    bool is_whole = w->part == PART_HEAD && w->in.size == 0;
    if (!w->has_spoiled && !sim_world_may_refuse()) {
        if (is_reset && w->answered < w->count)
            sim_fail("connection %u: reset after %u of %u answers", sim_line_id(line), w->answered,
                     w->asked);
        if (!is_whole)
            sim_fail("connection %u: ends in the middle of an answer", sim_line_id(line));
        if (w->answered < w->asked && !w->was_told_to_close)
            sim_fail("connection %u: ends without an answer to question %u (%s)", sim_line_id(line),
                     w->answered + 1, w->asks[w->answered].kind);
    }
    if (w->answered < w->asked && !w->has_spoiled)
        sim_world.answers_lost += w->asked - w->answered;
    end(w);
}

static struct web *web_new(uint32_t count)
{
    struct web *w = sim_real_alloc(sizeof *w);
    size_t most = MIN((size_t)sim_weather.piece_bytes * 400, (size_t)200000);

    w->line.on_look = on_look;
    w->line.on_over = on_over;
    w->count = count;
    w->depth = 1;
    for (uint32_t i = 0; i < count; i++)
        sim_ask_draw(&w->asks[i], most);
    return w;
}

void sim_http1_person(void)
{
    struct web *w = web_new((uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, 10));

    if (sim_draw_below(CHANCE_PEOPLE, 2) == 0)
        w->depth = (uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, ASKS_MAX);
    if (sim_draw_below(CHANCE_PEOPLE, 3) == 0) {
        w->line.burst = sim_draw_between(CHANCE_PEOPLE, 1, 400);
        w->line.pause_ns = sim_draw_below(CHANCE_PEOPLE, 2 * SIM_MS);
    }
    if (sim_draw_below(CHANCE_PEOPLE, 4) == 0)
        w->line.read_pause_ns = sim_draw_between(CHANCE_PEOPLE, SIM_US, 30 * SIM_MS);
    if (sim_draw_below(CHANCE_PEOPLE, 3) == 0)
        w->think_ns = sim_draw_below(CHANCE_PEOPLE, 50 * SIM_MS);
    w->finishes = sim_draw_below(CHANCE_PEOPLE, 20) == 0 && false;
    w->is_leaver = sim_draw_below(CHANCE_PEOPLE, 6) == 0;
    w->resets = sim_draw_below(CHANCE_PEOPLE, 2) == 0;
    w->leaves_at = (uint32_t)sim_draw_below(CHANCE_PEOPLE, w->count);
    if (w->is_leaver && sim_draw_below(CHANCE_PEOPLE, 2) == 0)
        sim_after(sim_draw_below(CHANCE_PEOPLE, 50 * SIM_MS), on_leave, w);
    sim_person_begins();
    sim_line_open(&w->line);
    ask_more(w);
}

void sim_http1_one(const char *kind)
{
    struct web *w = web_new(1);

    sim_ask_make(&w->asks[0], kind, 200);
    sim_person_begins();
    sim_line_open(&w->line);
    ask_more(w);
}

/* -- nearly HTTP ------------------------------------------------------------------------------- */

static void on_patience_ends(void *arg)
{
    struct web *w = arg;

    if (!w->line.is_over)
        leave(w);
}

/* A good conversation with a few bytes changed, doubled, left out or cut off. */
void sim_http1_spoiler(void)
{
    struct web *w = web_new((uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, 4));
    struct bytes *out = &w->line.out;

    w->has_spoiled = w->line.is_plain = true;
    for (uint32_t i = 0; i < w->count; i++) {
        while (w->asks[i].is_head) /* nobody could tell where its answer ends */
            sim_ask_draw(&w->asks[i], 2000);
        sim_bytes_put(out, w->asks[i].request.data, w->asks[i].request.size);
    }
    for (uint64_t i = sim_draw_between(CHANCE_PEOPLE, 1, 3); i > 0 && out->size > 4; i--) {
        size_t at = sim_draw_below(CHANCE_PEOPLE, MIN(out->size - 1, (size_t)400));
        size_t size = sim_draw_between(CHANCE_PEOPLE, 1, MIN(out->size - at, (size_t)20));
        uint8_t copy[20];
        switch (sim_draw_below(CHANCE_PEOPLE, 4)) {
        case 0: out->data[at] = (uint8_t)sim_draw(CHANCE_PEOPLE); break;
        case 1:
            memcpy(copy, out->data + at, size);
            sim_bytes_put(out, copy, size);
            break;
        case 2:
            memmove(out->data + at, out->data + at + size, out->size - at - size);
            out->size -= size;
            break;
        default: out->size = at + 1; break;
        }
    }
    w->asked = w->count;
    w->resets = sim_draw_below(CHANCE_PEOPLE, 2) == 0;
    w->line.will_finish = sim_draw_below(CHANCE_PEOPLE, 2) == 0;
    sim_person_begins();
    sim_line_open(&w->line);
    sim_line_say(&w->line);
    sim_after(sim_draw_between(CHANCE_PEOPLE, SIM_MS, 60 * SIM_S), on_patience_ends, w);
}

/* -- the one who looks whether all is at rest -------------------------------------------------- */

static void (*inspector_end)(void);

static uint64_t gauge(const struct bytes *page, const char *name)
{
    const char *at = (const char *)page->data;
    size_t size = strlen(name);
    uint64_t sum = 0;
    bool is_there = false;

    while (at != NULL && *at != '\0') {
        if (strncmp(at, name, size) == 0 && (at[size] == ' ' || at[size] == '{')) {
            const char *value = strchr(at + size, at[size] == '{' ? '}' : ' ');
            sum += value == NULL ? 1 : strtoull(value + 1, NULL, 10);
            is_there = true;
        }
        at = strchr(at, '\n');
        at = at == NULL ? NULL : at + 1;
    }
    if (!is_there)
        sim_fail("/metrics has no %s", name);
    return sum;
}

static void expect_gauge(const struct bytes *page, const char *name, uint64_t most)
{
    uint64_t value = gauge(page, name);

    if (value > most)
        sim_fail("all clients have gone, and %s is %llu", name, (unsigned long long)value);
}

static void on_inspected(struct web *w)
{
    (void)w;
    inspector_end();
}

static void on_inspector_look(struct line *line)
{
    struct web *w = (struct web *)(void *)line;
    size_t size;
    const uint8_t *data = sim_line_bytes(line, &size);

    sim_bytes_put(&w->in, data, size);
    sim_line_take(line, size);
}

static bool is_whole_page(const struct bytes *page)
{
    const char *length = sim_bytes_find(page, "content-length: ");
    size_t size = head_size(page);

    return size > 0 && length != NULL &&
           strncmp((const char *)page->data, "HTTP/1.1 200", 12) == 0 &&
           page->size == size + strtoull(length + 16, NULL, 10);
}

static void on_inspector_over(struct line *line, bool is_reset)
{
    struct web *w = (struct web *)(void *)line;

    if (!is_reset && is_whole_page(&w->in)) {
        static const char *const at_rest[] = {
            "penstock_model_running",
            "nv_inference_pending_request_count",
            "penstock_sessions_open",
            "penstock_uploads",
            "penstock_http2_connections_open",
            "penstock_http2_streams_open",
            "penstock_websocket_connections_open",
            "penstock_kserve_streams_open",
            "penstock_health_watchers",
            "penstock_event_watchers",
            "penstock_resume_readers",
        };
        for (size_t i = 0; i < COUNT(at_rest); i++)
            expect_gauge(&w->in, at_rest[i], 0);
        expect_gauge(&w->in, "penstock_connections_open", 1); /* this one */
    } else if (!sim_world_may_refuse()) {
        sim_fail("/metrics is not there at the end: %.*s", (int)MIN(w->in.size, (size_t)200),
                 w->in.size > 0 ? (const char *)w->in.data : "");
    }
    end(w);
}

void sim_inspector_begin(void (*on_end)(void))
{
    struct web *w = sim_real_alloc(sizeof *w);

    inspector_end = on_end;
    w->line.on_look = on_inspector_look;
    w->line.on_over = on_inspector_over;
    w->on_done = on_inspected;
    w->count = 1;
    sim_bytes_printf(&w->line.out,
                     "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nconnection: close\r\n\r\n",
                     PORT);
    sim_person_begins();
    sim_line_open(&w->line);
    sim_line_say(&w->line);
}
