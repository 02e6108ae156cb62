/* answer.c - SPDX-License-Identifier: Apache-2.0
 *
 * Of HTTP/1.1 llhttp finds the parts; here they are kept and bounded. Names and values may come in
 * pieces, so the header being read is gathered in one text and copied to the arena when it is whole.
 * The parts of an HTTP/2 answer come whole, and take the same way from there.
 */
#include "client/answer.h"

#include <llhttp.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/text.h"

enum {
    HEADERS_MAX = 256, /* and as many trailers */
    HEADER_BYTES_USUAL = 64 << 10,
    BODY_BYTES_USUAL = 1 << 30,
    ARENA_SLACK = 64 << 10
};

struct answer_private {
    struct answer answer; /* first: it is what callers hold */
    llhttp_t parser;
    llhttp_settings_t table;
    struct answer_limits limits;
    struct arena *arena;
    struct text body;
    struct text name, value; /* the header being read */
    size_t header_bytes;
    bool has_begun, is_head;
    struct err refusal; /* of a callback that said no */
};

static struct answer_private *private_of(llhttp_t *parser)
{
    return CONTAINER_OF(parser, struct answer_private, parser);
}

static int refuse(struct answer_private *p, enum err_code code, const char *why)
{
    err_set(&p->refusal, code, "%s", why);
    return HPE_USER;
}

/* -- parts ------------------------------------------------------------------------------------- */

static enum err_code charge_header(struct answer_private *p, size_t size, struct err *err)
{
    if (size > p->limits.header_bytes_max - MIN(p->header_bytes, p->limits.header_bytes_max))
        return err_set(err, E_RANGE, "its headers are larger than the limit, %zu bytes",
                       p->limits.header_bytes_max);
    p->header_bytes += size;
    return OK;
}

/* Keeps one whose bytes are charged. */
static enum err_code keep_header(struct answer_private *p, struct slice name, struct slice value,
                                 struct err *err)
{
    struct answer *a = &p->answer;
    uint32_t *count = a->has_head ? &a->trailers_count : &a->headers_count;
    struct answer_header *into = a->has_head ? a->trailers : a->headers;

    if (*count == HEADERS_MAX)
        return err_set(err, E_RANGE, "it has more than %d headers", HEADERS_MAX);
    char *name_kept = arena_strndup(p->arena, name.data, name.size);
    char *value_kept = arena_strndup(p->arena, value.data, value.size);
    if (name_kept == NULL || value_kept == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for its headers");
    for (size_t i = 0; i < name.size; i++) {
        if (name_kept[i] >= 'A' && name_kept[i] <= 'Z')
            name_kept[i] = (char)(name_kept[i] + 32);
    }
    into[(*count)++] = (struct answer_header){ slice_make(name_kept, name.size),
                                               slice_trim(slice_make(value_kept, value.size)) };
    return OK;
}

enum err_code answer_add_header(struct answer *answer, struct slice name, struct slice value,
                                struct err *err)
{
    struct answer_private *p = answer->private;

    TRY(charge_header(p, name.size + value.size, err));
    return keep_header(p, name, value, err);
}

void answer_end_head(struct answer *answer, uint16_t status)
{
    answer->status = status;
    answer->has_head = true;
    if (answer->sink != NULL && answer->sink->on_head != NULL)
        answer->sink->on_head(answer);
}

enum err_code answer_add_body(struct answer *answer, struct slice piece, struct err *err)
{
    struct answer_private *p = answer->private;

    if (piece.size > p->limits.body_bytes_max - answer->body_bytes)
        return err_set(err, E_RANGE, "its body is larger than the limit, %zu bytes",
                       p->limits.body_bytes_max);
    answer->body_bytes += piece.size;
    if (answer->sink != NULL) {
        answer->sink->on_body(answer, piece);
        return OK;
    }
    text_slice_put(&p->body, piece);
    return text_failed(&p->body) ? err_set(err, E_EXHAUSTED, "no memory for its body") : OK;
}

void answer_end(struct answer *answer)
{
    answer->is_complete = true;
    answer->body = text_slice(&answer->private->body);
}

/* -- HTTP/1.1 ---------------------------------------------------------------------------------- */

static int on_begin(llhttp_t *parser)
{
    struct answer_private *p = private_of(parser);

    p->has_begun = true;
    p->answer.headers_count = 0;
    p->header_bytes = 0;
    return 0;
}

static int gather(struct answer_private *p, struct text *into, const char *at, size_t size)
{
    if (charge_header(p, size, &p->refusal) != OK)
        return HPE_USER;
    text_put(into, at, size);
    return text_failed(into) ? refuse(p, E_EXHAUSTED, "no memory for its headers") : 0;
}

static int on_name(llhttp_t *parser, const char *at, size_t size)
{
    return gather(private_of(parser), &private_of(parser)->name, at, size);
}

static int on_value(llhttp_t *parser, const char *at, size_t size)
{
    return gather(private_of(parser), &private_of(parser)->value, at, size);
}

static int on_header_over(llhttp_t *parser)
{
    struct answer_private *p = private_of(parser);

    if (keep_header(p, text_slice(&p->name), text_slice(&p->value), &p->refusal) != OK)
        return HPE_USER;
    p->name.size = p->value.size = 0;
    return 0;
}

static int on_headers_over(llhttp_t *parser)
{
    struct answer_private *p = private_of(parser);

    if (parser->http_major != 1)
        return refuse(p, E_DATA_LOSS, "it does not answer in HTTP/1.1");
    if (parser->status_code == 101)
        return refuse(p, E_DATA_LOSS, "it changes to another protocol, which nobody asked for");
    if ((parser->flags & F_CONTENT_LENGTH) != 0 &&
        parser->content_length > p->limits.body_bytes_max && !p->is_head)
        return refuse(p, E_RANGE, "its body is larger than the limit");
    /* RFC 9110 15.2: answers 1xx come before the one that was asked for. */
    if (parser->status_code >= 200)
        answer_end_head(&p->answer, (uint16_t)parser->status_code);
    return p->is_head ? 1 : 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t size)
{
    struct answer_private *p = private_of(parser);

    return answer_add_body(&p->answer, slice_make(at, size), &p->refusal) == OK ? 0 : HPE_USER;
}

static int on_over(llhttp_t *parser)
{
    struct answer_private *p = private_of(parser);

    if (parser->status_code < 200)
        return 0;
    answer_end(&p->answer);
    p->answer.keeps_alive = llhttp_should_keep_alive(parser) != 0;
    return HPE_PAUSED;
}

enum err_code answer_new(struct answer **ret, struct answer_limits limits, bool is_head,
                         struct err *err)
{
    struct answer_private *p = mem_zalloc(sizeof *p);

    if (p == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for an answer");
    p->answer.private = p;
    p->limits.header_bytes_max =
        limits.header_bytes_max != 0 ? limits.header_bytes_max : (size_t)HEADER_BYTES_USUAL;
    p->limits.body_bytes_max =
        limits.body_bytes_max != 0 ? limits.body_bytes_max : (size_t)BODY_BYTES_USUAL;
    p->is_head = is_head;
    text_init(&p->body, p->limits.body_bytes_max);
    text_init(&p->name, p->limits.header_bytes_max + 1);
    text_init(&p->value, p->limits.header_bytes_max + 1);
    p->arena = arena_new(2048, p->limits.header_bytes_max + ARENA_SLACK);
    p->answer.headers = mem_alloc(2 * HEADERS_MAX * sizeof *p->answer.headers);
    struct answer *answer = &p->answer;
    if (p->arena == NULL || p->answer.headers == NULL) {
        answer_free(&answer);
        return err_set(err, E_EXHAUSTED, "no memory for an answer");
    }
    p->answer.trailers = p->answer.headers + HEADERS_MAX;
    llhttp_settings_init(&p->table);
    p->table.on_message_begin = on_begin;
    p->table.on_header_field = on_name;
    p->table.on_header_value = on_value;
    p->table.on_header_value_complete = on_header_over;
    p->table.on_headers_complete = on_headers_over;
    p->table.on_body = on_body;
    p->table.on_message_complete = on_over;
    llhttp_init(&p->parser, HTTP_RESPONSE, &p->table);
    *ret = answer;
    return OK;
}

void answer_free(struct answer **slot)
{
    struct answer *answer = TAKE(*slot);

    if (answer == NULL)
        return;
    struct answer_private *p = answer->private;
    text_deinit(&p->body);
    text_deinit(&p->name);
    text_deinit(&p->value);
    arena_free(&p->arena);
    mem_free(answer->headers);
    mem_free(p);
}

enum err_code answer_feed(struct answer *answer, struct slice bytes, struct err *err)
{
    struct answer_private *p = answer->private;

    if (answer->is_complete) {
        answer->keeps_alive = answer->keeps_alive && bytes.size == 0;
        return OK;
    }
    llhttp_errno_t error = llhttp_execute(&p->parser, (const char *)bytes.data, bytes.size);
    if (answer->is_complete) {
        const uint8_t *end = (const uint8_t *)llhttp_get_error_pos(&p->parser);
        if (end != NULL && end != bytes.data + bytes.size)
            answer->keeps_alive = false;
        return OK;
    }
    if (error == HPE_OK)
        return OK;
    if (p->refusal.code != OK) {
        *err = p->refusal;
        return err->code;
    }
    return err_set(err, E_DATA_LOSS, "what it answers is not HTTP/1.1: %s",
                   llhttp_get_error_reason(&p->parser));
}

enum err_code answer_finish(struct answer *answer, struct err *err)
{
    struct answer_private *p = answer->private;

    if (answer->is_complete)
        return OK;
    /* RFC 9112 6.3, 8: without a length the end of the connection ends the body. */
    if (p->has_begun) {
        (void)llhttp_finish(&p->parser);
        answer->keeps_alive = false;
        if (answer->is_complete)
            return OK;
    }
    return err_set(err, E_UNAVAILABLE, "it closed the connection %s",
                   p->has_begun ? "in the middle of its answer" : "without an answer");
}

static struct slice find(const struct answer_header *headers, uint32_t count, const char *name)
{
    for (uint32_t i = 0; i < count; i++) {
        if (slice_is(headers[i].name, name))
            return headers[i].value;
    }
    return (struct slice){ NULL, 0 };
}

struct slice answer_header(const struct answer *answer, const char *lower_name)
{
    return find(answer->headers, answer->headers_count, lower_name);
}

struct slice answer_trailer(const struct answer *answer, const char *lower_name)
{
    return find(answer->trailers, answer->trailers_count, lower_name);
}
