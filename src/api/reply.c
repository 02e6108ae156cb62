/* reply.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/reply.h"

#include <stdio.h>

#include "base/buf.h"

static const struct slice encodings_taken = SLICE_LIT("gzip, deflate");

uint16_t api_status(enum dialect dialect, enum err_code code)
{
    if (dialect == DIALECT_KSERVE) {
        switch (code) {
        case E_EXHAUSTED: return 503;
        case E_EXISTS: return 400;
        case E_CANCELLED: return 400;
        default: break;
        }
    }
    return err_http_status(code);
}

/* RFC 6750, 3: who showed nothing is told no error. */
static struct slice challenge_of(const struct exchange *x)
{
    bool was_shown = exchange_header(x, "authorization").data != NULL ||
                     exchange_header(x, "x-api-key").data != NULL;

    return slice_of(was_shown ? "Bearer realm=\"penstock\", error=\"invalid_token\""
                              : "Bearer realm=\"penstock\"");
}

/* Everything of an error answer lies in the arena. When even that is out of memory, the answer has
 * a constant body and the status that goes with it: it still has to be one. */
static void answer_error(struct exchange *x, enum dialect dialect, uint16_t status,
                         const struct err *err, const struct header *more, uint32_t more_count,
                         const struct text *body)
{
    struct header headers[6];
    uint32_t count = 0;
    char *retry = NULL, *retry_ms = NULL;
    struct slice bytes = text_slice(body);

    require(more_count <= 2);
    for (uint32_t i = 0; i < more_count; i++)
        headers[count++] = more[i];
    if (status == 401)
        headers[count++] = (struct header){ SLICE_LIT("www-authenticate"), challenge_of(x) };
    /* RFC 9110 10.2.3 knows seconds only. */
    uint32_t wait_ms = err_retry_ms(err);
    if (wait_ms != 0 && wait_ms != ERR_RETRY_NEVER) {
        retry = arena_printf(x->arena, "%u", wait_ms / 1000 + (wait_ms % 1000 != 0));
        retry_ms = arena_printf(x->arena, "%u", wait_ms);
    }
    if (retry != NULL)
        headers[count++] =
            (struct header){ SLICE_LIT("retry-after"), { (uint8_t *)retry, strlen(retry) } };
    if (retry_ms != NULL)
        headers[count++] = (struct header){ SLICE_LIT("retry-after-ms"),
                                            { (uint8_t *)retry_ms, strlen(retry_ms) } };
    if (text_failed(body)) {
        status = api_status(dialect, E_EXHAUSTED);
        bytes =
            slice_of(dialect == DIALECT_PLAIN    ? "out of memory\n"
                     : dialect == DIALECT_KSERVE ? "{\"error\":\"out of memory\"}"
                                                 : "{\"error\":{\"code\":\"RESOURCE_EXHAUSTED\","
                                                   "\"message\":\"out of memory\"}}");
    }
    exchange_answer(x, status,
                    dialect == DIALECT_PLAIN ? "text/plain; charset=utf-8" : "application/json",
                    headers, count, bytes, NULL);
}

void api_put_retry(struct text *out, const struct err *err)
{
    uint32_t wait_ms = err_retry_ms(err);

    if (wait_ms == 0 || wait_ms == ERR_RETRY_NEVER)
        return;
    text_str(out, ",\"retry_after_ms\":");
    text_u64(out, wait_ms);
}

static void typed_error(struct text *body, const struct err *err, const char *field,
                        const char *example_json)
{
    text_str(body, "{\"error\":{\"code\":\"");
    text_str(body, err_name(err->code));
    text_str(body, "\",\"message\":");
    text_json(body, slice_of(err->text));
    api_put_retry(body, err);
    if (field != NULL) {
        text_str(body, ",\"field\":");
        text_json(body, slice_of(field));
    }
    if (example_json != NULL) {
        text_str(body, ",\"example\":");
        text_str(body, example_json);
    }
    text_str(body, "}}\n");
}

static void fail_with(struct exchange *x, enum dialect dialect, uint16_t status,
                      const struct err *err, const struct header *more, uint32_t more_count)
{
    struct text body;

    if (x->status != 0) {
        /* Too late for an answer: the peer has to see that this one is not whole. */
        exchange_abort(x);
        return;
    }
    if (dialect == DIALECT_GRPC) {
        grpc_fail(x, err);
        return;
    }
    text_init_arena(&body, x->arena, 128);
    switch (dialect) {
    case DIALECT_KSERVE:
        text_str(&body, "{\"error\":");
        text_json(&body, slice_of(err->text));
        text_byte(&body, '}');
        break;
    case DIALECT_TYPED: typed_error(&body, err, NULL, NULL); break;
    case DIALECT_PLAIN:
    case DIALECT_GRPC: /* answered above */
        text_str(&body, err->text);
        text_byte(&body, '\n');
        break;
    }
    answer_error(x, dialect, status != 0 ? status : api_status(dialect, err->code), err, more,
                 more_count, &body);
}

void api_fail(struct exchange *x, enum dialect dialect, uint16_t status, const struct err *err)
{
    fail_with(x, dialect, status, err, NULL, 0);
}

void api_fail_field(struct exchange *x, uint16_t status, const struct err *err, const char *field,
                    const char *example_json)
{
    struct text body;

    if (x->status != 0) {
        exchange_abort(x);
        return;
    }
    text_init_arena(&body, x->arena, 128);
    typed_error(&body, err, field, example_json);
    answer_error(x, DIALECT_TYPED, status != 0 ? status : api_status(DIALECT_TYPED, err->code), err,
                 NULL, 0, &body);
}

void api_fail_encoding(struct exchange *x, enum dialect dialect, const struct err *err)
{
    struct header accept = { SLICE_LIT("accept-encoding"), encodings_taken };

    fail_with(x, dialect, dialect == DIALECT_KSERVE ? 501 : 415, err, &accept, 1);
}

void api_fail_body(struct exchange *x, enum dialect dialect, const struct err *err)
{
    if (err->code == E_UNIMPLEMENTED) {
        struct err said = *err;
        if (dialect == DIALECT_KSERVE)
            err_wrap(&said, "Unsupported compression type");
        api_fail_encoding(x, dialect, &said);
        return;
    }
    fail_with(x, dialect, err->code == E_RANGE ? 413 : 0, err, NULL, 0);
}

enum dialect api_dialect_of_path(struct slice path)
{
    if (slice_is(path, "/v2") || slice_starts(path, "/v2/"))
        return DIALECT_KSERVE;
    if (slice_is(path, "/models") || slice_starts(path, "/models/") || slice_is(path, "/events") ||
        slice_starts(path, "/streams/"))
        return DIALECT_TYPED;
    return DIALECT_PLAIN;
}

void api_answer_text(struct exchange *x, enum dialect dialect, uint16_t status,
                     const char *content_type, const struct header *more, uint32_t more_count,
                     struct text *text)
{
    CLEANUP(buf_unref) struct buf *buf = NULL;
    struct err err = { 0 };

    if (text_to_buf(text, &buf, &err) != OK) {
        text_deinit(text);
        err.retry_after_ms = 1000;
        api_fail(x, dialect, 0, &err);
        return;
    }
    exchange_answer(x, status, content_type, more, more_count, buf_bytes(buf), buf);
}
