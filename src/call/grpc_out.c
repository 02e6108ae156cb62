/* grpc_out.c - messages and status to the answer. SPDX-License-Identifier: Apache-2.0
 *
 * Pieces under COPY_MAX are gathered behind the prefix, larger ones are referred to. What is gathered
 * of the first message lies in the arena, as does what little fits there beside it, so that a stream
 * that rests holds nothing more; all else lies in bufs that are given back when they were sent, as a
 * stream may send for ever.
 */
#include "call/internal.h"

#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/utf8.h"

enum {
    COPY_MAX = CALL_COPIED_BYTES, /* pieces below are copied */
    COMPRESS_MIN = 1024,          /* messages below are not, unless ALWAYS */
    ARENA_MAX = 8 * 1024,         /* of the first message, gathered in the arena */
    FEW_BYTES = 256,              /* and of those behind it */
    PIECES_MAX = 64,              /* compressed without asking for memory to list them */
    DETAIL_MAX = 768,
    HEADERS_MAX = 5 + 2 * CALL_METADATA_MAX + 3,
};

static const char no_memory[] = "no memory for the answer; retry later";

static void fail(struct grpc_call *g, enum err_code code, const char *text)
{
    if (g->failure != OK)
        return;
    g->failure = code;
    g->failure_text = text;
}

/* -- headers ------------------------------------------------------------------------------------- */

static enum encoding best_accepted(const struct grpc_call *g)
{
    if (grpc_encoding_is_accepted(g->accept_text, ENCODING_GZIP))
        return ENCODING_GZIP;
    return grpc_encoding_is_accepted(g->accept_text, ENCODING_DEFLATE) ? ENCODING_DEFLATE
                                                                       : ENCODING_IDENTITY;
}

/* The headers name the encoding, before it is known which messages will have it: who says of the
 * first one how it travels (ALWAYS, NEVER) may say ALWAYS of a later one. */
static enum encoding choose_encoding(const struct grpc_call *g, enum call_compress first)
{
    if (UNLIKELY(first != CALL_COMPRESS_AUTO))
        return best_accepted(g);
    switch (g->settings->compression) {
    case GRPC_COMPRESSION_MIRROR:
        if (g->was_compressed && grpc_encoding_is_accepted(g->accept_text, g->encoding))
            return g->encoding;
        return ENCODING_IDENTITY;
    case GRPC_COMPRESSION_ALWAYS: return best_accepted(g);
    default: return ENCODING_IDENTITY;
    }
}

static struct header content_type_of(struct grpc_type type)
{
    return (struct header){ SLICE_LIT("content-type"), grpc_type_name(type) };
}

static const struct header accept_encoding = { SLICE_LIT("grpc-accept-encoding"),
                                               SLICE_LIT(GRPC_ENCODINGS) };

static uint32_t put_fields(struct header *at, const struct call_fields *fields)
{
    if (fields == NULL)
        return 0;
    memcpy(at, fields->fields, fields->count * sizeof *at);
    return fields->count;
}

/* compression.md: our encodings are told to who compresses; to others they would be bytes on each
 * answer that nobody acts upon. */
static void respond(struct grpc_call *g, enum call_compress first)
{
    struct header headers[HEADERS_MAX];
    uint32_t count = 0;

    g->out_encoding = choose_encoding(g, first);
    headers[count++] = content_type_of(g->answer_type);
    if (UNLIKELY(g->out_encoding != ENCODING_IDENTITY))
        headers[count++] =
            (struct header){ SLICE_LIT("grpc-encoding"), slice_of(encoding_name(g->out_encoding)) };
    if (UNLIKELY(g->encoding != ENCODING_IDENTITY))
        headers[count++] = accept_encoding;
    count += put_fields(headers + count, g->call.initial);
    exchange_respond(g->call.x, 200, headers, count, -1);
}

/* -- messages ------------------------------------------------------------------------------------ */

/* Room for `size` bytes until they are sent; *ret_holder keeps them. NULL: no memory. */
static uint8_t *gather(struct grpc_call *g, size_t size, struct buf **ret_holder)
{
    uint8_t *memory = NULL;

    *ret_holder = NULL;
    if (LIKELY(!g->has_sent) ? size <= ARENA_MAX
                             : size <= g->few && size <= arena_slack(g->call.x->arena)) {
        memory = arena_alloc(g->call.x->arena, size);
        g->few -= g->has_sent ? (uint32_t)size : 0;
    }
    if (memory == NULL) {
        memory = chunk_room(&g->chunk, g->call.x->budget, size, ret_holder);
        if (memory != NULL)
            chunk_used(&g->chunk, size);
    }
    return memory;
}

static size_t size_of(const struct call_piece *pieces, uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += pieces[i].bytes.size;
    return size;
}

/* The small pieces from i on, and their bytes in all. */
static uint32_t run_of(const struct call_piece *pieces, uint32_t i, uint32_t count,
                       size_t *ret_size)
{
    *ret_size = 0;
    while (i < count && pieces[i].bytes.size < COPY_MAX)
        *ret_size += pieces[i++].bytes.size;
    return i;
}

static uint8_t *copy_run(uint8_t *at, const struct call_piece *pieces, uint32_t from, uint32_t to)
{
    for (; from < to; from++) {
        struct slice bytes = pieces[from].bytes;
        if (bytes.size != 0)
            memcpy(at, bytes.data, bytes.size);
        at += bytes.size;
    }
    return at;
}

/* False: no memory; is_torn when what has been sent makes no sense without the rest. */
static bool send_plain(struct grpc_call *g, const struct call_piece *pieces, uint32_t count,
                       size_t total, bool is_compressed)
{
    struct exchange *x = g->call.x;
    struct buf *holder = NULL;
    size_t size, before = GRPC_PREFIX_BYTES;
    uint32_t i = 0;

    do {
        uint32_t end = run_of(pieces, i, count, &size);
        if (before + size > 0) {
            uint8_t *memory = gather(g, before + size, &holder);
            if (UNLIKELY(memory == NULL)) {
                g->is_torn = before == 0;
                return false;
            }
            if (before != 0)
                grpc_prefix_put(memory, is_compressed, (uint32_t)total);
            copy_run(memory + before, pieces, i, end);
            exchange_send(x, slice_make(memory, before + size), holder);
            before = 0;
        }
        for (i = end; i < count && pieces[i].bytes.size >= COPY_MAX; i++)
            exchange_send(x, pieces[i].bytes, pieces[i].holder);
    } while (i < count);
    return true;
}

/* gRPC-Web's text form: base64 in whole groups, so that each message can be read when it comes. All
 * of it is copied. */
COLD static bool send_text(struct grpc_call *g, const struct call_piece *pieces, uint32_t count,
                           size_t total, bool is_compressed)
{
    struct grpc_web_encoder encoder = { 0 };
    size_t size = grpc_web_encoded_size(GRPC_PREFIX_BYTES + total);
    uint8_t prefix[GRPC_PREFIX_BYTES];
    struct buf *holder = NULL;
    uint8_t *memory = gather(g, size, &holder);

    if (memory == NULL)
        return false;
    grpc_prefix_put(prefix, is_compressed, (uint32_t)total);
    uint8_t *at = grpc_web_encode(&encoder, memory, slice_make(prefix, sizeof prefix));
    for (uint32_t i = 0; i < count; i++)
        at = grpc_web_encode(&encoder, at, pieces[i].bytes);
    at = grpc_web_encode_end(&encoder, at);
    require((size_t)(at - memory) == size);
    exchange_send(g->call.x, slice_make(memory, size), holder);
    return true;
}

static bool send_message(struct grpc_call *g, const struct call_piece *pieces, uint32_t count,
                         size_t total, bool is_compressed)
{
    if (UNLIKELY(g->answer_type.is_text))
        return send_text(g, pieces, count, total, is_compressed);
    return send_plain(g, pieces, count, total, is_compressed);
}

/* NULL: it would not get smaller (and need not be), or there is no memory for it. */
static struct buf *compress(struct grpc_call *g, const struct call_piece *pieces, uint32_t count,
                            size_t total, bool is_wanted)
{
    struct slice few[PIECES_MAX] = { { NULL, 0 } }, *slices = few;
    struct buf *packed = NULL;

    if (count > PIECES_MAX && (slices = mem_alloc(count * sizeof *slices)) == NULL)
        return NULL;
    for (uint32_t i = 0; i < count; i++)
        slices[i] = pieces[i].bytes;
    if (compress_deflate(&packed, g->call.x->budget, g->out_encoding, slices, count, NULL) == OK &&
        buf_bytes(packed).size >= total && !is_wanted)
        buf_unref(&packed);
    if (slices != few)
        mem_free(slices);
    return packed;
}

void grpc_out_send(struct call *call, const struct call_piece *pieces, uint32_t pieces_count,
                   struct call_form form)
{
    struct grpc_call *g = grpc_of(call);
    size_t total = size_of(pieces, pieces_count);
    struct buf *packed = NULL;
    bool is_sent;

    if (UNLIKELY(g->failure != OK))
        return;
    if (UNLIKELY(total > UINT32_MAX)) {
        fail(g, E_RANGE, "the answer has 4 GiB or more, too much for one gRPC message");
        return;
    }
    if (call->x->status == 0)
        respond(g, form.compress);
    if (UNLIKELY(g->out_encoding != ENCODING_IDENTITY) && form.compress != CALL_COMPRESS_NEVER &&
        (total >= COMPRESS_MIN || g->settings->compression == GRPC_COMPRESSION_ALWAYS ||
         form.compress == CALL_COMPRESS_ALWAYS))
        packed = compress(g, pieces, pieces_count, total, form.compress == CALL_COMPRESS_ALWAYS);
    if (packed != NULL) {
        struct call_piece piece = { buf_bytes(packed), packed };
        stat_add(&g->stats->compressed_out, 1);
        is_sent = send_message(g, &piece, 1, piece.bytes.size, true);
    } else {
        is_sent = send_message(g, pieces, pieces_count, total, false);
    }
    buf_unref(&packed);
    if (LIKELY(!g->has_sent))
        g->few = FEW_BYTES;
    g->has_sent = true;
    if (UNLIKELY(!is_sent))
        fail(g, E_EXHAUSTED, no_memory);
    else
        stat_add(&g->stats->messages_out, 1);
}

/* -- the end ------------------------------------------------------------------------------------- */

static struct slice message_of(struct arena *arena, const struct err *status)
{
    struct slice message = slice_of(status->text);
    struct text out;

    text_init_arena(&out, arena, message.size + 1);
    if (grpc_message_is_plain(message))
        text_slice_put(&out, message);
    else
        grpc_message_encode(&out, message);
    return text_failed(&out) ? slice_make(NULL, 0) : text_slice(&out);
}

/* Callers take 8 KiB of headers, and both stand there beside the message. */
static struct slice bounded(const char *text)
{
    struct slice whole = slice_of(text);

    return slice_first(whole, utf8_valid_prefix(slice_first(whole, DETAIL_MAX)));
}

/* grpc-status-details-bin; data NULL: there is nothing to say, or no memory to say it in. */
static struct slice details_of(struct arena *arena, const struct err *status,
                               const struct call_details *details)
{
    struct grpc_details all = {
        .code = status->code,
        .message = slice_of(status->text),
        .retry_after_ms = err_retry_ms(status),
    };
    struct text bytes, out;

    all.has_retry = all.retry_after_ms != 0 && all.retry_after_ms != ERR_RETRY_NEVER;
    if (details != NULL && details->field != NULL) {
        all.field = bounded(details->field);
        all.description =
            details->description == NULL ? all.message : bounded(details->description);
    } else if (!all.has_retry) {
        return slice_make(NULL, 0);
    }
    text_init_arena(&bytes, arena, 0);
    grpc_details_encode(&bytes, &all);
    text_init_arena(&out, arena, 0);
    grpc_bin_encode(&out, text_slice(&bytes));
    return text_failed(&bytes) || text_failed(&out) ? slice_make(NULL, 0) : text_slice(&out);
}

/* grpc/proposal A6: when a client with a retry policy may ask again, -1: not at all. */
static struct slice pushback_of(struct arena *arena, const struct err *status)
{
    uint32_t ms = err_retry_ms(status);
    struct text out;

    if (ms == 0)
        return slice_make(NULL, 0);
    if (ms == ERR_RETRY_NEVER)
        return slice_of("-1");
    text_init_arena(&out, arena, 16);
    text_u64(&out, ms);
    return text_failed(&out) ? slice_make(NULL, 0) : text_slice(&out);
}

static uint32_t put_status(struct header *to, struct arena *arena, const struct err *status,
                           const struct call_details *details)
{
    uint32_t count = 0;

    to[count++] = (struct header){ SLICE_LIT("grpc-status"), grpc_status_digits(status->code) };
    if (LIKELY(status->code == OK))
        return count;
    struct slice message = message_of(arena, status);
    struct slice more = details_of(arena, status, details);
    struct slice pushback = pushback_of(arena, status);
    if (message.size != 0)
        to[count++] = (struct header){ SLICE_LIT("grpc-message"), message };
    if (more.data != NULL)
        to[count++] = (struct header){ SLICE_LIT("grpc-status-details-bin"), more };
    if (pushback.data != NULL)
        to[count++] = (struct header){ SLICE_LIT("grpc-retry-pushback-ms"), pushback };
    return count;
}

/* A body's last frame in place of trailers. Without memory for it the caller sees the answer cut off,
 * as it does behind half a message, where no frame can be told from what is missing. */
COLD static void end_web(struct grpc_call *g, const struct header *fields, uint32_t count)
{
    struct exchange *x = g->call.x;
    size_t plain = grpc_web_trailers_size(fields, count);
    size_t size = g->answer_type.is_text ? grpc_web_encoded_size(plain) + plain : plain;
    struct buf *holder = NULL;
    uint8_t *memory = g->is_torn ? NULL : gather(g, size, &holder);

    if (memory == NULL) {
        exchange_abort(x);
        return;
    }
    uint8_t *frame = memory + size - plain;
    grpc_web_trailers_put(frame, fields, count);
    if (g->answer_type.is_text) {
        struct grpc_web_encoder encoder = { 0 };
        size -= plain;
        (void)grpc_web_encode_end(&encoder,
                                  grpc_web_encode(&encoder, memory, slice_make(frame, plain)));
    }
    exchange_send(x, slice_make(memory, size), holder);
    exchange_end(x);
}

void grpc_out_end(struct grpc_call *g, const struct err *status, const struct call_details *details)
{
    struct exchange *x = g->call.x;
    struct header fields[HEADERS_MAX];
    uint32_t count = 0;
    bool is_trailers_only = x->status == 0;

    if (x->is_gone)
        return;
    if (is_trailers_only) {
        fields[count++] = content_type_of(g->answer_type);
        count += put_fields(fields + count, g->call.initial);
    }
    if (UNLIKELY(g->tells_encodings))
        fields[count++] = accept_encoding;
    count += put_status(fields + count, x->arena, status, details);
    count += put_fields(fields + count, g->call.trailing);
    if (is_trailers_only) {
        exchange_respond(x, 200, fields, count, 0);
        exchange_end(x);
    } else if (UNLIKELY(g->answer_type.is_web)) {
        end_web(g, fields, count);
    } else {
        exchange_end_trailers(x, fields, count);
    }
}

void grpc_out_deinit(struct grpc_call *g)
{
    chunk_drop(&g->chunk);
}

void grpc_out_fail(struct exchange *x, struct grpc_type type, const struct err *status)
{
    struct header fields[5];
    uint32_t count = 0;

    if (x->is_gone || x->is_ended)
        return;
    x->note.is_call = true;
    x->note.code = (uint8_t)status->code;
    fields[count++] = content_type_of(type);
    count += put_status(fields + count, x->arena, status, NULL);
    exchange_respond(x, 200, fields, count, 0);
    exchange_end(x);
}
