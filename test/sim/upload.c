/* upload.c - people who upload an input in pieces, over connections that break.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "test/sim/people.h"

enum { STEPS_MOST = 60 };

struct upload {
    struct line *line; /* of the present step; each has a connection of its own */
    struct bytes file, expected;
    char id[128];
    size_t offset; /* as the server last said */
    size_t piece;
    uint32_t steps;
    bool is_asking; /* by HEAD, how far it is */
    bool was_last, breaks, is_early;
};

struct step {
    struct line line; /* first */
    struct upload *u;
    struct bytes in;
    bool is_over;
};

static void next(struct upload *u);

static void give_up(struct upload *u)
{
    sim_world.answers_refused++;
    sim_person_ends();
    (void)u;
}

static uint64_t header_number(const struct bytes *head, const char *name, uint64_t otherwise)
{
    const char *at = sim_bytes_find(head, name);

    return at == NULL ? otherwise : strtoull(at + strlen(name), NULL, 10);
}

static void on_again(void *arg)
{
    next(arg);
}

static void on_answer(struct step *s)
{
    struct upload *u = s->u;
    int status = atoi((const char *)s->in.data + 9);
    const char *location = sim_bytes_find(&s->in, "location: /uploads/");
    const char *body = strstr((const char *)s->in.data, "\r\n\r\n");

    s->is_over = true;
    sim_line_close(&s->line);
    sim_note("upload: answered %d", status);
    if (status == 404 && u->is_asking && (u->offset == u->file.size || sim_world_may_refuse())) {
        give_up(u); /* it was given up with its connection, or for lack of memory */
        return;
    }
    if (status >= 400 && !(status == 409 && u->breaks)) {
        if (!sim_world_may_refuse() && !u->is_early)
            sim_fail("an upload at %zu of %zu was answered\n%.*s", u->offset, u->file.size,
                     (int)s->in.size, (const char *)s->in.data);
        give_up(u);
        return;
    }
    if (location != NULL)
        snprintf(u->id, sizeof u->id, "%.*s", (int)strcspn(location + 10, "\r"), location + 10);
    u->offset = header_number(&s->in, "upload-offset: ", u->offset);
    if (u->offset > u->file.size)
        sim_fail("an upload of %zu bytes is said to be at %zu", u->file.size, u->offset);
    if (status == 200 && !u->is_asking) {
        body += 4;
        if (strlen(body) != u->expected.size ||
            memcmp(body, u->expected.data, u->expected.size) != 0)
            sim_fail("an upload was answered\n%s\n    instead of\n%s", body,
                     (const char *)u->expected.data);
        sim_world_count("upload");
        sim_person_ends();
        return;
    }
    u->is_asking = false;
    next(u);
}

static void on_look(struct line *line)
{
    struct step *s = (struct step *)(void *)line;
    const char *end_at;
    size_t size;
    const uint8_t *data = sim_line_bytes(line, &size);

    sim_bytes_put(&s->in, data, size);
    sim_line_take(line, size);
    if (s->is_over || (end_at = sim_bytes_find(&s->in, "\r\n\r\n")) == NULL)
        return;
    size_t head = (size_t)(end_at - (const char *)s->in.data) + 4;
    size_t body = s->u->is_asking ? 0 : (size_t)header_number(&s->in, "content-length: ", 0);
    if (atoi((const char *)s->in.data + 9) == 104) /* draft: it tells where, before the end */
        sim_bytes_drop(&s->in, head);
    else if (s->in.size >= head + body)
        on_answer(s);
}

static void on_over(struct line *line, bool is_reset)
{
    struct step *s = (struct step *)(void *)line;
    struct upload *u = s->u;

    (void)is_reset;
    if (s->is_over)
        return;
    s->is_over = true;
    if (!sim_world_may_refuse() && !u->is_early)
        sim_fail("an upload at %zu of %zu got no answer", u->offset, u->file.size);
    if (sim_world.is_stopping || u->id[0] == '\0' || u->steps > STEPS_MOST) {
        give_up(u);
        return;
    }
    u->is_asking = true;
    sim_after(sim_draw_below(CHANCE_PEOPLE, 5 * SIM_MS), on_again, u);
}

static void on_break(void *arg)
{
    struct step *s = arg;

    if (s->is_over || s->line.is_over)
        return;
    s->is_over = true;
    sim_line_reset(&s->line);
    if (s->u->id[0] == '\0') {
        give_up(s->u);
        return;
    }
    s->u->is_asking = true;
    sim_after(sim_draw_below(CHANCE_PEOPLE, 5 * SIM_MS), on_again, s->u);
}

static void next(struct upload *u)
{
    struct step *s = sim_real_alloc(sizeof *s);
    struct bytes *out = &s->line.out;
    size_t left = u->file.size - u->offset, size = MIN(left, u->piece);

    if (++u->steps > STEPS_MOST || sim_world.is_stopping) {
        give_up(u);
        return;
    }
    s->u = u;
    s->line.on_look = on_look;
    s->line.on_over = on_over;
    u->line = &s->line;
    if (u->is_asking) {
        sim_bytes_printf(out, "HEAD %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n", u->id, PORT);
    } else if (u->id[0] == '\0') {
        sim_bytes_printf(
            out,
            "POST /models/ident:upload HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nupload-complete: ?%d\r\n"
            "content-length: %zu\r\n\r\n",
            PORT, size == left, size);
    } else {
        sim_bytes_printf(out,
                         "PATCH %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nupload-complete: ?%d\r\n"
                         "upload-offset: %zu\r\n"
                         "content-type: application/partial-upload\r\ncontent-length: %zu\r\n\r\n",
                         u->id, PORT, size == left, u->offset, size);
    }
    if (!u->is_asking)
        sim_bytes_put(out, u->file.data + u->offset, size);
    sim_line_open(&s->line);
    sim_line_say(&s->line);
    if (u->breaks && u->id[0] != '\0' && sim_draw_below(CHANCE_PEOPLE, 3) == 0)
        sim_after(sim_draw_below(CHANCE_PEOPLE, 5 * SIM_MS), on_break, s);
}

static struct upload *upload_new(void)
{
    struct upload *u = sim_real_alloc(sizeof *u);
    size_t count =
        sim_draw_between(CHANCE_PEOPLE, 2, 200); /* one row has an answer of another form */

    sim_bytes_text(&u->expected, "[");
    for (size_t i = 0; i < count; i++) {
        int32_t number = (int32_t)sim_draw(CHANCE_PEOPLE);
        sim_bytes_put(&u->file, &number, sizeof number);
        sim_bytes_printf(&u->expected, "%s{\"OUT\":%d}", i > 0 ? "," : "", (int)number);
    }
    sim_bytes_text(&u->expected, "]\n");
    u->piece = SIZE_MAX;
    u->is_early = !sim_world.is_ready;
    return u;
}

void sim_upload_one(void)
{
    struct upload *u = upload_new();

    u->piece = u->file.size / 2 + 1;
    sim_person_begins();
    next(u);
}

void sim_upload_person(void)
{
    struct upload *u = upload_new();
    size_t count = u->file.size / 4;

    u->piece = sim_draw_below(CHANCE_PEOPLE, 2) == 0
                   ? SIZE_MAX
                   : sim_draw_between(CHANCE_PEOPLE, 1 + count / 4, 4 * count);
    u->breaks = sim_draw_below(CHANCE_PEOPLE, 3) == 0;
    sim_person_begins();
    next(u);
}
