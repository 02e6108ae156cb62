/* compress.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/compress.h"

#include <zlib.h>

#include "base/buf.h"
#include "base/mem.h"
#include "codec/accept.h"

enum {
    WINDOW_BITS = 15,
    GZIP_WRAPPER = 16, /* added to the window bits: zlib's way to say gzip */
    FIRST_BYTES = 4096,
    PIECE_MAX = 1 << 30, /* zlib counts in unsigned int */
    /* 1.8 MB of FP32 as text: 21 ms to 47%; level 6 takes 123 ms to 43%. */
    LEVEL = Z_BEST_SPEED,
    MEMORY_LEVEL = 8,
};

/* -- names ----------------------------------------------------------------------------------- */

enum encoding encoding_of(struct slice value)
{
    value = slice_trim(value);
    if (value.size == 0 || slice_is_nocase(value, "identity"))
        return ENCODING_IDENTITY;
    if (slice_is_nocase(value, "gzip") || slice_is_nocase(value, "x-gzip"))
        return ENCODING_GZIP;
    if (slice_is_nocase(value, "deflate"))
        return ENCODING_DEFLATE;
    return ENCODING_UNKNOWN;
}

const char *encoding_name(enum encoding encoding)
{
    switch (encoding) {
    case ENCODING_IDENTITY: return "identity";
    case ENCODING_GZIP: return "gzip";
    case ENCODING_DEFLATE: return "deflate";
    default: return "unknown";
    }
}

enum encoding encoding_choose(struct slice accept)
{
    int weights[ENCODING_UNKNOWN] = { -1, -1, -1 }, others = -1;
    struct accept_range range;

    while (accept_next(&accept, &range)) {
        if (range.name.size == 0 || range.weight < 0) /* what makes no sense says nothing */
            continue;
        if (slice_is(range.name, "*"))
            others = range.weight;
        else if (encoding_of(range.name) != ENCODING_UNKNOWN)
            weights[encoding_of(range.name)] = range.weight;
    }
    for (int i = 0; i < ENCODING_UNKNOWN; i++)
        if (weights[i] < 0)
            weights[i] = MAX(others, 0);
    /* Identity that nobody named is what remains when nothing else is wanted. */
    enum encoding best = ENCODING_IDENTITY;
    int bar = weights[ENCODING_IDENTITY];
    if (weights[ENCODING_DEFLATE] > 0 && weights[ENCODING_DEFLATE] >= bar) {
        best = ENCODING_DEFLATE;
        bar = weights[ENCODING_DEFLATE];
    }
    if (weights[ENCODING_GZIP] > 0 && weights[ENCODING_GZIP] >= bar)
        best = ENCODING_GZIP;
    return best;
}

/* -- a buf that grows ------------------------------------------------------------------------ */

struct growing {
    struct buf *buf; /* owned */
    struct budget *budget;
    size_t lead; /* bytes before the content */
    size_t room, used, room_max;
};

static enum err_code grow(struct growing *g, size_t room, struct err *err)
{
    CLEANUP(buf_unref) struct buf *fresh = NULL;

    TRY(buf_new(&fresh, g->budget, g->lead + room, err));
    if (g->lead != 0) /* nobody reads it, and yet it may leave the process with the buf */
        memset(buf_fill(fresh), 0, g->lead);
    if (g->used != 0)
        memcpy(buf_fill(fresh) + g->lead, buf_fill(g->buf) + g->lead, g->used);
    buf_unref(&g->buf);
    g->buf = TAKE(fresh);
    g->room = room;
    return OK;
}

/* Memory of zlib's own: through mem.c, so that a fault sweep reaches it. */
static void *zlib_alloc(void *context UNUSED, unsigned count, unsigned size)
{
    return mem_alloc((size_t)count * size);
}

static void zlib_free(void *context UNUSED, void *memory)
{
    mem_free(memory);
}

/* Gives zlib more to read when it has read all; true while there is some. */
static bool feed(z_stream *z, struct slice *in)
{
    if (z->avail_in == 0 && in->size > 0) {
        size_t size = MIN(in->size, (size_t)PIECE_MAX);
        z->next_in = (Bytef *)(uintptr_t)in->data; /* zlib does not write there */
        z->avail_in = (unsigned)size;
        *in = slice_skip(*in, size);
    }
    return z->avail_in > 0;
}

/* -- inflate --------------------------------------------------------------------------------- */

static void inflate_end(z_stream **z)
{
    inflateEnd(*z);
}

static enum err_code inflate_all(struct growing *g, z_stream *z, enum encoding encoding,
                                 struct slice in, struct err *err)
{
    const char *name = encoding_name(encoding);
    const size_t in_size = in.size;

    for (;;) {
        uint8_t spill; /* one byte past the limit: does it come? */
        bool is_full = g->used == g->room_max;
        bool has_input = feed(z, &in);
        if (g->used == g->room && !is_full)
            TRY(grow(g, MIN(g->room_max, 2 * g->room), err));
        size_t room = is_full ? 1 : MIN(g->room - g->used, (size_t)PIECE_MAX);
        z->next_out = is_full ? &spill : buf_fill(g->buf) + g->lead + g->used;
        z->avail_out = (unsigned)room;
        int code = inflate(z, Z_NO_FLUSH);
        size_t got = room - z->avail_out;
        if (is_full && got > 0)
            return err_set(err, E_RANGE,
                           "the %s body of %zu bytes inflates to more than the limit of %zu bytes",
                           name, in_size, g->room_max);
        g->used += got;
        bool is_at_end = z->avail_in == 0 && in.size == 0;
        switch (code) {
        case Z_STREAM_END:
            if (is_at_end)
                return OK;
            if (encoding == ENCODING_GZIP && inflateReset(z) == Z_OK)
                continue; /* RFC 1952 2.2: members follow each other */
            return err_set(err, E_INVALID, "%zu bytes follow the deflate stream",
                           in.size + z->avail_in);
        case Z_OK:
        case Z_BUF_ERROR:
            if (!has_input && got == 0)
                return err_set(err, E_INVALID, "the %s body is cut off after %zu bytes", name,
                               in_size);
            break;
        case Z_MEM_ERROR:
            return err_set(err, E_EXHAUSTED, "no memory to inflate a %s body; retry later", name);
        default:
            return err_set(err, E_INVALID, "the body is not valid %s (near byte %zu): %s%s", name,
                           in_size - in.size - z->avail_in,
                           code == Z_NEED_DICT ? "it needs a preset dictionary"
                           : z->msg != NULL    ? z->msg
                                               : "damaged",
                           encoding == ENCODING_DEFLATE
                               ? " (deflate means the zlib format, RFC 1950, not raw deflate)"
                               : "");
        }
    }
}

enum err_code compress_inflate(struct buf **ret, size_t *ret_offset, struct budget *budget,
                               enum encoding encoding, struct slice in, size_t out_max,
                               size_t align_at, struct err *err)
{
    z_stream state = { .zalloc = zlib_alloc, .zfree = zlib_free };
    CLEANUP(inflate_end) z_stream *z = &state;
    struct growing g = { .budget = budget,
                         .room_max = out_max,
                         .lead = (BUF_ALIGN - align_at % BUF_ALIGN) % BUF_ALIGN };

    require(encoding == ENCODING_GZIP || encoding == ENCODING_DEFLATE);
    require(out_max <= SIZE_MAX / 4);
    if (inflateInit2(z, WINDOW_BITS + (encoding == ENCODING_GZIP ? GZIP_WRAPPER : 0)) != Z_OK)
        return err_set(err, E_EXHAUSTED, "no memory to inflate a body; retry later");
    enum err_code code = grow(&g, MIN(out_max, (size_t)FIRST_BYTES), err);
    if (code == OK)
        code = inflate_all(&g, z, encoding, in, err);
    if (code != OK) {
        buf_unref(&g.buf);
        return code;
    }
    buf_trim(g.buf, g.lead + g.used);
    *ret = TAKE(g.buf);
    *ret_offset = g.lead;
    return OK;
}

/* -- deflate --------------------------------------------------------------------------------- */

static void deflate_end(z_stream **z)
{
    deflateEnd(*z);
}

/* Deflates one piece, or with Z_FINISH what is left inside. */
static enum err_code deflate_piece(struct growing *g, z_stream *z, struct slice in, int flush,
                                   struct err *err)
{
    while (feed(z, &in) || flush == Z_FINISH) {
        if (g->used == g->room)
            TRY(grow(g, 2 * g->room, err));
        size_t room = MIN(g->room - g->used, (size_t)PIECE_MAX);
        z->next_out = buf_fill(g->buf) + g->used;
        z->avail_out = (unsigned)room;
        int code = deflate(z, flush);
        g->used += room - z->avail_out;
        require(code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR);
        if (code == Z_STREAM_END)
            break;
    }
    return OK;
}

enum err_code compress_deflate(struct buf **ret, struct budget *budget, enum encoding encoding,
                               const struct slice *pieces, size_t pieces_count, struct err *err)
{
    z_stream state = { .zalloc = zlib_alloc, .zfree = zlib_free };
    CLEANUP(deflate_end) z_stream *z = &state;
    struct growing g = { .budget = budget };
    size_t total = 0;

    require(encoding == ENCODING_GZIP || encoding == ENCODING_DEFLATE);
    if (deflateInit2(z, LEVEL, Z_DEFLATED,
                     WINDOW_BITS + (encoding == ENCODING_GZIP ? GZIP_WRAPPER : 0), MEMORY_LEVEL,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return err_set(err, E_EXHAUSTED, "no memory to compress an answer; retry later");
    for (size_t i = 0; i < pieces_count; i++)
        total += pieces[i].size;
    /* Half is what text of numbers comes to; what does not shrink grows the buf once. */
    enum err_code code = grow(&g, MAX(total / 2, (size_t)FIRST_BYTES), err);
    for (size_t i = 0; i < pieces_count && code == OK; i++)
        code = deflate_piece(&g, z, pieces[i], Z_NO_FLUSH, err);
    if (code == OK)
        code = deflate_piece(&g, z, (struct slice){ NULL, 0 }, Z_FINISH, err);
    if (code != OK) {
        buf_unref(&g.buf);
        return code;
    }
    buf_trim(g.buf, g.used);
    *ret = TAKE(g.buf);
    return OK;
}
