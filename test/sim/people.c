/* people.c - what all clients share: bytes, a paced connection, questions and their right answers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "test/sim/people.h"

#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct world sim_world;

/* -- bytes ------------------------------------------------------------------------------------- */

void sim_bytes_put(struct bytes *b, const void *data, size_t size)
{
    if (b->size + size + 1 > b->room) {
        b->room = MAX(2 * b->room, b->size + size + 64);
        b->data = sim_real_resize(b->data, b->room);
    }
    if (size > 0)
        memcpy(b->data + b->size, data, size);
    b->size += size;
    b->data[b->size] = '\0'; /* so that it may be looked at as text */
}

void sim_bytes_text(struct bytes *b, const char *text)
{
    sim_bytes_put(b, text, strlen(text));
}

void sim_bytes_printf(struct bytes *b, const char *format, ...)
{
    char text[2048];
    va_list args;

    va_start(args, format);
    int size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    sim_bytes_put(b, text, MIN((size_t)size, sizeof text - 1));
}

void sim_bytes_drop(struct bytes *b, size_t size)
{
    if (size == 0)
        return;
    memmove(b->data, b->data + size, b->size - size);
    b->size -= size;
    b->data[b->size] = '\0';
}

bool sim_bytes_is(const struct bytes *b, const char *text, size_t size)
{
    return b->size == size && (size == 0 || memcmp(b->data, text, size) == 0);
}

const char *sim_bytes_find(const struct bytes *b, const char *text)
{
    return b->size == 0 ? NULL : memmem(b->data, b->size, text, strlen(text));
}

/* -- the world --------------------------------------------------------------------------------- */

void sim_world_count(const char *kind)
{
    sim_world.answers_right++;
    for (size_t i = 0; i < COUNT(sim_world.kinds); i++) {
        if (sim_world.kinds[i][0] == '\0')
            snprintf(sim_world.kinds[i], sizeof sim_world.kinds[i], "%s", kind);
        if (strcmp(sim_world.kinds[i], kind) == 0) {
            sim_world.kinds_count[i]++;
            return;
        }
    }
}

bool sim_world_may_refuse(void)
{
    return sim_world.is_stopping || (!sim_world.must_answer && !sim_weather_is_kind());
}

void sim_person_begins(void)
{
    sim_world.people_left++;
}

void sim_person_ends(void)
{
    sim_world.people_left--;
}

/* -- a connection ------------------------------------------------------------------------------ */

static void line_push(struct line *line);

static void on_pace(void *arg)
{
    struct line *line = arg;

    line->is_pacing = false;
    line_push(line);
}

static void line_push(struct line *line)
{
    struct bytes *out = line->tls != NULL ? &line->sealed : &line->out;

    if (line->is_over || line->is_pacing)
        return;
    if (line->tls != NULL)
        sim_tls_pump(line);
    if (out->size > 0) {
        size_t most = out->size;
        if (line->burst != 0) {
            size_t burst = sim_draw_between(CHANCE_PEOPLE, 1, line->burst);
            most = MIN(most, burst);
        }
        size_t sent = sim_link_send(line->link, out->data, most);
        sim_bytes_drop(out, sent);
        if (sent < most)
            return; /* on_room comes */
    }
    if (out->size > 0 ||
        (line->tls != NULL && line->out.size > 0 && SSL_is_init_finished(line->tls))) {
        line->is_pacing = true;
        sim_after(1 + sim_draw_below(CHANCE_PEOPLE, line->pause_ns + 1), on_pace, line);
    } else if (line->will_finish && line->out.size == 0) {
        sim_link_finish(line->link);
    }
}

/* What arrives under TLS may want an answer of its own: the handshake's. */
static void look(struct line *line)
{
    line->on_look(line);
    if (!line->is_over && line->tls != NULL && line->sealed.size > 0)
        line_push(line);
}

static void on_slow_look(void *arg)
{
    struct line *line = arg;

    line->is_looking = false;
    if (!sim_link_is_closed(line->link))
        look(line);
}

const uint8_t *sim_line_bytes(struct line *line, size_t *ret_size)
{
    if (line->tls == NULL)
        return sim_link_bytes(line->link, ret_size);
    sim_tls_pump(line);
    *ret_size = line->opened.size;
    return line->opened.data;
}

void sim_line_take(struct line *line, size_t size)
{
    if (line->tls == NULL)
        sim_link_take(line->link, size);
    else
        sim_bytes_drop(&line->opened, size);
}

static void on_bytes(void *arg)
{
    struct line *line = arg;

    if (line->is_over || line->is_looking)
        return;
    if (line->read_pause_ns == 0) {
        look(line);
        return;
    }
    line->is_looking = true;
    sim_after(1 + sim_draw_below(CHANCE_PEOPLE, line->read_pause_ns), on_slow_look, line);
}

static void on_room(void *arg)
{
    line_push(arg);
}

static void on_end(void *arg, bool is_reset)
{
    struct line *line = arg;

    if (line->is_over)
        return;
    line->is_closing = true;
    line->on_look(line); /* what came before */
    if (line->is_over)
        return;
    line->is_over = true;
    line->on_over(line, is_reset);
    sim_link_close(line->link);
}

void sim_line_open(struct line *line)
{
    static const struct link_user user = { on_bytes, on_room, on_end };

    line->link = sim_link_open(PORT, &user, line);
    if (sim_world.has_tls && !line->is_plain && sim_draw_below(CHANCE_PEOPLE, 2) == 0)
        sim_tls_begin(line);
}

void sim_line_say(struct line *line)
{
    line_push(line);
}

void sim_line_close(struct line *line)
{
    line->is_over = true;
    sim_link_close(line->link);
}

void sim_line_reset(struct line *line)
{
    line->is_over = true;
    sim_link_reset(line->link);
}

uint32_t sim_line_id(const struct line *line)
{
    return sim_link_id(line->link);
}

/* -- questions --------------------------------------------------------------------------------- */

static void put_body(struct ask *ask, const struct bytes *body, bool is_chunked)
{
    if (!is_chunked) {
        sim_bytes_put(&ask->request, body->data, body->size);
        return;
    }
    for (size_t at = 0; at < body->size;) {
        size_t size = sim_draw_between(CHANCE_PEOPLE, 1, body->size - at);
        sim_bytes_printf(&ask->request,
                         sim_draw_below(CHANCE_PEOPLE, 2) == 0 ? "%zx\r\n" : "%zX;a=b\r\n", size);
        sim_bytes_put(&ask->request, body->data + at, size);
        sim_bytes_text(&ask->request, "\r\n");
        at += size;
    }
    sim_bytes_text(&ask->request,
                   sim_draw_below(CHANCE_PEOPLE, 4) == 0 ? "0\r\nx-after: 1\r\n\r\n" : "0\r\n\r\n");
}

void sim_ask_set(struct ask *ask, const char *method, const char *target, const char *headers,
                 const struct bytes *body)
{
    bool is_chunked = body != NULL && sim_draw_below(CHANCE_PEOPLE, 4) == 0;

    ask->method = method;
    snprintf(ask->target, sizeof ask->target, "%s", target);
    snprintf(ask->headers, sizeof ask->headers, "%s", headers);
    ask->has_body = body != NULL;
    if (body != NULL)
        sim_bytes_put(&ask->body, body->data, body->size);

    sim_bytes_printf(&ask->request, "%s %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n%s", method, target,
                     PORT, headers);
    if (is_chunked)
        sim_bytes_text(&ask->request, "transfer-encoding: chunked\r\n");
    else if (body != NULL)
        sim_bytes_printf(&ask->request, "content-length: %zu\r\n", body->size);
    sim_bytes_text(&ask->request, "\r\n");
    if (body != NULL)
        put_body(ask, body, is_chunked);
}

static uint32_t numbers(char out[static 4096], size_t most, const char *between)
{
    size_t count = sim_draw_between(CHANCE_PEOPLE, 1, MAX(MIN(most / 12, (size_t)300), (size_t)1)),
           at = 0;

    if (sim_draw_below(CHANCE_PEOPLE, 4) != 0)
        count = MIN(count, (size_t)5);
    for (size_t i = 0; i < count; i++)
        at += (size_t)snprintf(out + at, 4096 - at, "%s%d", i > 0 ? between : "",
                               (int)sim_draw_below(CHANCE_PEOPLE, 2000000) - 1000000);
    return (uint32_t)count;
}

static void ask_kserve(struct ask *ask, size_t most, const char *model, const char *columns)
{
    char list[4096], target[64];
    struct bytes body = { 0 };
    uint32_t count = numbers(list, most, ",");
    unsigned id = (unsigned)sim_draw_below(CHANCE_PEOPLE, 1000000);

    sim_bytes_printf(
        &body,
        "{\"id\":\"q%u\",\"inputs\":[{\"name\":\"IN\",\"shape\":[%u%s],\"datatype\":\"INT32\","
        "\"data\":[",
        id, count, columns);
    sim_bytes_text(&body, list);
    sim_bytes_text(&body, "]}]}");
    snprintf(target, sizeof target, "/v2/models/%s/infer", model);
    sim_ask_set(ask, "POST", target, "content-type: application/json\r\n", &body);
    sim_bytes_printf(&ask->expected,
                     "{\"id\":\"q%u\",\"model_name\":\"%s\",\"model_version\":\"1\",\"outputs\":[{"
                     "\"name\":\"OUT\",\"datatype\":\"INT32\",\"shape\":[%u%s],\"data\":[",
                     id, model, count, columns);
    sim_bytes_text(&ask->expected, list);
    sim_bytes_text(&ask->expected, "]}]}");
    ask->status = 200;
}

/* [{"OUT":1},{"OUT":2}] */
static void put_rows(struct bytes *out, const char *list)
{
    sim_bytes_text(out, "[{\"OUT\":");
    for (; *list != '\0'; list++) {
        if (*list == ',')
            sim_bytes_text(out, "},{\"OUT\":");
        else
            sim_bytes_put(out, list, 1);
    }
    sim_bytes_text(out, "}]");
}

static void ask_typed(struct ask *ask, size_t most, const char *model)
{
    char list[4096], target[64];
    struct bytes body = { 0 };

    numbers(list, most, ",");
    sim_bytes_text(&body, "{\"IN\":[");
    sim_bytes_text(&body, list);
    sim_bytes_text(&body, "]}");
    snprintf(target, sizeof target, "/models/%s:predict", model);
    sim_ask_set(ask, "POST", target, "", &body);
    put_rows(&ask->expected, list);
    sim_bytes_text(&ask->expected, "\n");
    ask->status = 200;
}

static void ask_words(struct ask *ask, size_t most)
{
    struct bytes body = { 0 }, text = { 0 };
    size_t size = sim_draw_below(CHANCE_PEOPLE, sim_draw_below(CHANCE_PEOPLE, 4) == 0 ? most : 20);

    for (size_t i = 0; i < size; i++)
        sim_bytes_printf(&text, "%c", (int)('a' + sim_draw_below(CHANCE_PEOPLE, 26)));
    sim_bytes_text(&body, "{\"TEXT\":\"");
    sim_bytes_put(&body, text.data, text.size);
    sim_bytes_text(&body, "\"}");
    sim_ask_set(ask, "POST", "/models/words:predict", "", &body);
    sim_bytes_put(&ask->expected, body.data, body.size);
    sim_bytes_text(&ask->expected, "\n");
    ask->status = 200;
}

static void ask_stream(struct ask *ask, bool is_sse)
{
    char list[4096];
    struct bytes body = { 0 };

    numbers(list, 60, ",");
    sim_bytes_text(&body, "{\"IN\":[");
    sim_bytes_text(&body, list);
    sim_bytes_text(&body, "]}");
    sim_ask_set(ask, "POST", "/models/ticks:predict",
                is_sse ? "accept: text/event-stream\r\n" : "accept: application/x-ndjson\r\n",
                &body);
    for (int i = 0; i < 5; i++) {
        sim_bytes_text(&ask->expected, is_sse ? "data: " : "");
        put_rows(&ask->expected, list);
        sim_bytes_text(&ask->expected, is_sse ? "\n\n" : "\n");
    }
    ask->status = 200;
}

static void ask_wrong(struct ask *ask)
{
    static const struct {
        const char *method, *target, *body;
        int status;
        const char *begin;
    } cases[] = {
        { "POST", "/models/broken:predict", "{\"IN\":[1]}", 429,
          "{\"error\":{\"code\":\"RESOURCE_EXHAUSTED\"" },
        { "POST", "/models/nope:predict", "{\"IN\":[1]}", 404,
          "{\"error\":{\"code\":\"NOT_FOUND\"" },
        { "POST", "/models/ident:predict", "{\"IN\":[1,", 400,
          "{\"error\":{\"code\":\"INVALID_ARGUMENT\"" },
        { "POST", "/models/ident:predict", "{\"WHAT\":1}", 400,
          "{\"error\":{\"code\":\"INVALID_ARGUMENT\"" },
        { "GET", "/models/ident:predict", NULL, 405, "{" },
        { "GET", "/nothing/here", NULL, 404, "there is nothing at /nothing/here" },
        { "POST", "/v2/models/ident/infer", "{}", 400, "{\"error\":" },
    };
    size_t at = sim_draw_below(CHANCE_PEOPLE, COUNT(cases));
    struct bytes body = { 0 };

    if (cases[at].body != NULL)
        sim_bytes_text(&body, cases[at].body);
    sim_ask_set(ask, cases[at].method, cases[at].target, "", cases[at].body == NULL ? NULL : &body);
    ask->status = cases[at].status;
    sim_bytes_text(&ask->expected, cases[at].begin);
    ask->is_prefix = true;
}

void sim_ask_draw(struct ask *ask, size_t most)
{
    static const char *const kinds[] = { "ready",  "live",  "kserve", "typed", "words",
                                         "slow",   "sse",   "ndjson", "wrong", "metrics",
                                         "kserve", "typed", "rows" };
    const char *kind = kinds[sim_draw_below(CHANCE_PEOPLE, COUNT(kinds))];

    if (strcmp(kind, "metrics") == 0 && (most < 100000 || sim_draw_below(CHANCE_PEOPLE, 4) != 0))
        kind = "live";
    sim_ask_make(ask, kind, most);
}

void sim_ask_make(struct ask *ask, const char *kind, size_t most)
{
    memset(ask, 0, sizeof *ask);
    snprintf(ask->kind, sizeof ask->kind, "%s", kind);
    if (strcmp(kind, "ready") == 0) {
        ask->is_head = sim_draw_below(CHANCE_PEOPLE, 4) == 0;
        sim_ask_set(ask, ask->is_head ? "HEAD" : "GET", "/v2/health/ready", "", NULL);
        sim_bytes_text(&ask->expected, ask->is_head ? "" : "{\"ready\":true}");
        ask->status = 200;
        ask->is_ready_only = true;
    } else if (strcmp(kind, "live") == 0) {
        sim_ask_set(ask, "GET", "/v2/health/live", "", NULL);
        ask->status = 200;
        ask->is_prefix = true;
    } else if (strcmp(kind, "metrics") == 0) {
        sim_ask_set(ask, "GET", "/metrics", "", NULL);
        ask->status = 200;
        ask->is_prefix = true;
        sim_bytes_text(&ask->expected, "# HELP");
    } else if (strcmp(kind, "kserve") == 0) {
        ask_kserve(ask, most, "ident", "");
    } else if (strcmp(kind, "rows") == 0) {
        ask_kserve(ask, most, "batch", ",1");
    } else if (strcmp(kind, "slow") == 0) {
        ask_typed(ask, most, "slow");
    } else if (strcmp(kind, "typed") == 0) {
        ask_typed(ask, most, "ident");
    } else if (strcmp(kind, "words") == 0) {
        ask_words(ask, most);
    } else if (strcmp(kind, "wrong") == 0) {
        ask_wrong(ask);
    } else {
        ask_stream(ask, strcmp(kind, "sse") == 0);
    }
}

const char *sim_answer_header(const struct answer *answer, const char *name)
{
    static char value[256];
    const char *at = (const char *)answer->head.data;
    size_t size = strlen(name);

    while (at != NULL && (at = strstr(at, "\r\n")) != NULL) {
        at += 2;
        if (strncasecmp(at, name, size) == 0 && at[size] == ':') {
            at += size + 1;
            at += strspn(at, " ");
            snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\r"), at);
            return value;
        }
    }
    return NULL;
}

/* An error says what was wrong. */
static bool has_words(const struct answer *answer)
{
    return answer->body.size >= 10;
}

void sim_ask_judge(const struct ask *ask, const struct answer *answer, uint32_t id)
{
    const struct bytes *body = &answer->body, *expected = &ask->expected;
    bool is_body =
        ask->is_prefix
            ? body->size >= expected->size &&
                  (expected->size == 0 || memcmp(body->data, expected->data, expected->size) == 0)
            : sim_bytes_is(body, (const char *)expected->data, expected->size);

    if (answer->status == ask->status && is_body) {
        sim_world_count(ask->kind);
        return;
    }
    if (answer->status != ask->status && answer->status >= 400 &&
        (sim_world_may_refuse() || ask->is_ready_only || ask->is_early) &&
        (has_words(answer) || ask->is_head)) {
        sim_world.answers_refused++;
        return;
    }
    /* A stream that fails on its way says so in its last event. */
    if (answer->status == 200 && sim_world_may_refuse() && sim_bytes_find(body, "error") != NULL) {
        sim_world.answers_refused++;
        return;
    }
    sim_fail(
        "connection %u: asked (%s)\n%.*s\n    and was answered %d\n%.*s\n    instead of %d\n%.*s",
        id, ask->kind, (int)MIN(ask->request.size, (size_t)600), (const char *)ask->request.data,
        answer->status, (int)MIN(body->size, (size_t)600),
        body->size > 0 ? (const char *)body->data : "", ask->status,
        (int)MIN(expected->size, (size_t)600),
        expected->size > 0 ? (const char *)expected->data : "");
}
