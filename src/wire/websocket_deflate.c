/* websocket_deflate.c - SPDX-License-Identifier: Apache-2.0
 *
 * Both directions end a message with an empty stored block whose last four bytes are not sent
 * (RFC 7692 7.2): Z_SYNC_FLUSH writes them, and they are cut off; the receiver adds them.
 */
#include "wire/websocket_deflate.h"

#include <stdio.h>
#include <zlib.h>

#include "base/buf.h"
#include "base/mem.h"
#include "wire/websocket_internal.h"

enum {
    TAIL_BYTES = 4,
    FIRST_BYTES = 1024,
    PIECE_MAX = 1 << 30, /* zlib counts in unsigned int */
    WINDOW_BYTES = 1 << WEBSOCKET_BITS_MAX,
};

static const uint8_t tail[TAIL_BYTES] = { 0x00, 0x00, 0xff, 0xff };

const char websocket_deflate_offer[] =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/* -- agreeing ------------------------------------------------------------------------------------- */

/* The parameters of one offer or answer (RFC 7692 7.1). */
struct parameters {
    bool server_fresh, client_fresh; /* ..._no_context_takeover */
    bool has_server_bits, has_client_bits;
    uint8_t server_bits, client_bits; /* 0: named without a value */
};

static bool is_token(struct slice text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] <= 0x20 || text.data[i] >= 0x7f || text.data[i] == '"' ||
            text.data[i] == '=')
            return false;
    return text.size > 0;
}

/* 8 to 15, perhaps in quotes, without leading zeros. 0: it is not. */
static uint8_t bits_of(struct slice value)
{
    uint64_t bits;

    if (value.size >= 2 && value.data[0] == '"' && value.data[value.size - 1] == '"')
        value = slice_make(value.data + 1, value.size - 2);
    if (value.size == 0 || value.data[0] == '0' || !slice_to_u64(value, &bits) || bits < 8 ||
        bits > WEBSOCKET_BITS_MAX)
        return 0;
    return (uint8_t)bits;
}

/* False: unknown, repeated, or with a value that it may not have. */
static bool take_parameter(struct parameters *p, struct slice name, bool has_value,
                           struct slice value)
{
    bool *flag = slice_is_nocase(name, "server_no_context_takeover")   ? &p->server_fresh
                 : slice_is_nocase(name, "client_no_context_takeover") ? &p->client_fresh
                                                                       : NULL;

    if (flag != NULL) {
        bool is_fine = !*flag && !has_value;
        *flag = true;
        return is_fine;
    }
    if (slice_is_nocase(name, "server_max_window_bits")) {
        p->server_bits = bits_of(value);
        flag = &p->has_server_bits;
    } else if (slice_is_nocase(name, "client_max_window_bits")) {
        p->client_bits = bits_of(value);
        flag = &p->has_client_bits;
    } else {
        return false;
    }
    bool is_fine = !*flag && (has_value ? bits_of(value) != 0 : flag == &p->has_client_bits);
    *flag = true;
    return is_fine;
}

/* "permessage-deflate; name; name=value". False: another extension, or one that makes no sense. */
static bool read_offer(struct slice offer, struct parameters *ret)
{
    size_t end = slice_find(offer, ';');

    *ret = (struct parameters){ 0 };
    if (!slice_is_nocase(slice_trim(slice_first(offer, end)), "permessage-deflate"))
        return false;
    while (end < offer.size) {
        offer = slice_skip(offer, end + 1);
        end = slice_find(offer, ';');
        struct slice parameter = slice_first(offer, end), value = { NULL, 0 };
        size_t equals = slice_find(parameter, '=');
        bool has_value = equals < parameter.size;
        if (has_value)
            value = slice_trim(slice_skip(parameter, equals + 1));
        struct slice name = slice_trim(slice_first(parameter, equals));
        if (!is_token(name) || !take_parameter(ret, name, has_value, value))
            return false;
    }
    return true;
}

bool websocket_deflate_choose(struct slice offers, struct websocket_deflate *ret,
                              char answer[WEBSOCKET_AGREED_BYTES])
{
    struct parameters p;
    struct slice offer;

    *ret = (struct websocket_deflate){ 0 };
    while ((offer = websocket_token_next(&offers)).data != NULL) {
        if (!read_offer(offer, &p) || (p.has_server_bits && p.server_bits < WEBSOCKET_BITS_MIN))
            continue; /* zlib has no raw window of 8 bits */
        ret->is_on = true;
        ret->bits = p.has_server_bits ? p.server_bits : WEBSOCKET_BITS_MAX;
        int size = snprintf(answer, WEBSOCKET_AGREED_BYTES, "%s", websocket_deflate_offer);
        if (p.has_server_bits)
            snprintf(answer + size, WEBSOCKET_AGREED_BYTES - (size_t)size,
                     "; server_max_window_bits=%u", p.server_bits);
        return true;
    }
    return false;
}

bool websocket_deflate_check(struct slice answer, struct websocket_deflate *ret)
{
    struct parameters p;
    struct slice first = websocket_token_next(&answer);

    *ret = (struct websocket_deflate){ 0 };
    if (first.data == NULL)
        return true;
    /* Of what the offer does not say only smaller windows may be answered, and of those only the
     * server's, as client_max_window_bits was not offered. */
    if (websocket_token_next(&answer).data != NULL || !read_offer(first, &p) || !p.server_fresh ||
        p.has_client_bits)
        return false;
    ret->is_on = true;
    ret->bits = WEBSOCKET_BITS_MAX; /* of what this client sends: zlib may use it all */
    return true;
}

/* -- states --------------------------------------------------------------------------------------- */

static void *zlib_alloc(void *context UNUSED, unsigned count, unsigned size)
{
    return mem_alloc((size_t)count * size);
}

static void zlib_free(void *context UNUSED, void *memory)
{
    mem_free(memory);
}

static z_stream *state_new(void)
{
    z_stream *z = mem_zalloc(sizeof *z);

    if (z != NULL) {
        z->zalloc = zlib_alloc;
        z->zfree = zlib_free;
    }
    return z;
}

/* Ready for a message; NULL: no memory. */
static z_stream *inflate_take(struct websocket_heap *heap)
{
    if (heap->inflate != NULL)
        return inflateReset(heap->inflate) == Z_OK ? heap->inflate : NULL;
    z_stream *z = state_new();
    if (z != NULL && inflateInit2(z, -WEBSOCKET_BITS_MAX) != Z_OK) {
        mem_free(z);
        z = NULL;
    }
    return heap->inflate = z;
}

/* The same with a window for `size` bytes, of at most `most` bits. Small messages use small states:
 * those are cheap to begin anew. */
static z_stream *deflate_take(struct websocket_heap *heap, size_t size, unsigned most)
{
    unsigned bits = MIN(size <= 1024   ? 10u
                        : size <= 4096 ? 12u
                                       : (unsigned)WEBSOCKET_BITS_MAX,
                        most);
    z_stream **slot = &heap->deflate[bits - WEBSOCKET_BITS_MIN];

    if (*slot != NULL)
        return deflateReset(*slot) == Z_OK ? *slot : NULL;
    z_stream *z = state_new();
    if (z != NULL && deflateInit2(z, Z_BEST_SPEED, Z_DEFLATED, -(int)bits, (int)bits - 7,
                                  Z_DEFAULT_STRATEGY) != Z_OK) {
        mem_free(z);
        z = NULL;
    }
    return *slot = z;
}

void websocket_deflate_drop(struct websocket_heap *heap)
{
    if (heap->inflate != NULL)
        inflateEnd(heap->inflate);
    mem_free(TAKE(heap->inflate));
    for (size_t i = 0; i < COUNT(heap->deflate); i++) {
        if (heap->deflate[i] != NULL)
            deflateEnd(heap->deflate[i]);
        mem_free(TAKE(heap->deflate[i]));
    }
}

/* -- inflating ------------------------------------------------------------------------------------ */

struct out {
    struct buf *buf; /* owned */
    struct budget *budget;
    size_t used, room, most;
};

static enum err_code grow(struct out *out, struct err *err)
{
    CLEANUP(buf_unref) struct buf *fresh = NULL;
    size_t room = MIN(MAX(2 * out->room, (size_t)FIRST_BYTES), out->most);

    TRY(buf_new(&fresh, out->budget, room, err));
    if (out->used > 0)
        memcpy(buf_fill(fresh), buf_fill(out->buf), out->used);
    buf_unref(&out->buf);
    out->buf = TAKE(fresh);
    out->room = room;
    return OK;
}

/* A block that says it is the last ends zlib's stream, but not the message (RFC 7692 7.2.3.5); what
 * follows may refer to what was before. */
static bool go_on(z_stream *z, struct out *out)
{
    size_t window = MIN(out->used, (size_t)WINDOW_BYTES);

    return inflateReset(z) == Z_OK &&
           (window == 0 || inflateSetDictionary(z, buf_fill(out->buf) + out->used - window,
                                                (unsigned)window) == Z_OK);
}

/* Inflates a piece of what came. */
static enum err_code inflate_piece(z_stream *z, struct out *out, struct slice in, struct err *err)
{
    uint8_t spill; /* one byte past the limit: does it come? */

    z->next_in = (Bytef *)(uintptr_t)in.data; /* zlib does not write there */
    z->avail_in = (unsigned)in.size;
    for (;;) {
        if (out->used == out->room && out->room < out->most)
            TRY(grow(out, err));
        bool is_full = out->used == out->room;
        size_t room = is_full ? 1 : MIN(out->room - out->used, (size_t)PIECE_MAX);
        z->next_out = is_full ? &spill : buf_fill(out->buf) + out->used;
        z->avail_out = (unsigned)room;
        int code = inflate(z, Z_SYNC_FLUSH);
        size_t got = room - z->avail_out;
        if (is_full && got > 0)
            return err_set(err, E_RANGE, "a compressed message inflates to more than %zu bytes",
                           out->most);
        out->used += got;
        if (code == Z_STREAM_END && z->avail_in > 0) {
            if (!go_on(z, out))
                return err_set(err, E_INVALID, "a compressed message is damaged");
            continue;
        }
        if (code == Z_MEM_ERROR)
            return err_set(err, E_EXHAUSTED, "no memory to inflate a message; retry later");
        if (code != Z_OK && code != Z_BUF_ERROR && code != Z_STREAM_END)
            return err_set(err, E_INVALID, "a compressed message is damaged: %s",
                           z->msg != NULL ? z->msg : "it is no deflate stream");
        if (z->avail_in == 0 && z->avail_out > 0)
            return OK;
        if (code == Z_BUF_ERROR && got == 0 && z->avail_in == 0) /* the spill was not needed */
            return OK;
    }
}

enum err_code websocket_inflate(struct websocket_heap *heap, struct buf **ret,
                                struct budget *budget, struct slice in, size_t out_max,
                                struct err *err)
{
    size_t bound = WEBSOCKET_RATIO_FREE;
    CLEANUP(buf_unref) struct buf *buf = NULL;
    z_stream *z = inflate_take(heap);
    enum err_code code = OK;

    if (in.size < SIZE_MAX / WEBSOCKET_RATIO_MAX)
        bound = MAX(bound, in.size * WEBSOCKET_RATIO_MAX);
    else
        bound = SIZE_MAX;
    struct out out = { .budget = budget, .most = MIN(out_max, bound) };
    if (z == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to inflate a message; retry later");
    if (in.size == 0) /* an empty block was meant */
        return OK;
    while (in.size > 0 && code == OK) {
        struct slice piece = slice_first(in, PIECE_MAX);
        code = inflate_piece(z, &out, piece, err);
        in = slice_skip(in, piece.size);
    }
    if (code == OK)
        code = inflate_piece(z, &out, slice_make(tail, TAIL_BYTES), err);
    /* zlib says in data_type whether it stands between two blocks. */
    if (code == OK && (z->data_type & 128) == 0)
        code = err_set(err, E_INVALID, "a compressed message is cut off");
    buf = out.buf;
    if (code != OK) {
        if (code == E_RANGE && out.most < out_max)
            return err_set(
                err, E_RANGE,
                "a compressed message inflates to over %d times its size: send it plain, "
                "or in parts",
                WEBSOCKET_RATIO_MAX);
        return code;
    }
    if (buf != NULL && out.used > 0) {
        buf_trim(buf, out.used);
        *ret = TAKE(buf);
    }
    return OK;
}

/* -- deflating ------------------------------------------------------------------------------------ */

struct buf *websocket_deflate(struct websocket_heap *heap, const struct websocket_deflate *agreed,
                              struct budget *budget, const struct slice *pieces,
                              uint32_t pieces_count)
{
    CLEANUP(buf_unref) struct buf *buf = NULL;
    size_t total = 0;

    for (uint32_t i = 0; i < pieces_count; i++)
        total += pieces[i].size;
    if (total <= 2 * TAIL_BYTES || total > PIECE_MAX)
        return NULL;
    z_stream *z = deflate_take(heap, total, agreed->bits);
    if (z == NULL || buf_new(&buf, budget, total + TAIL_BYTES - 1, NULL) != OK)
        return NULL;
    z->next_out = buf_fill(buf);
    z->avail_out = (unsigned)(total + TAIL_BYTES - 1);
    for (uint32_t i = 0; i < pieces_count; i++) {
        z->next_in = (Bytef *)(uintptr_t)pieces[i].data;
        z->avail_in = (unsigned)pieces[i].size;
        if (deflate(z, i + 1 == pieces_count ? Z_SYNC_FLUSH : Z_NO_FLUSH) != Z_OK ||
            z->avail_out == 0 || z->avail_in > 0)
            return NULL;
    }
    size_t size = total + TAIL_BYTES - 1 - z->avail_out;
    require(size >= TAIL_BYTES && memcmp(buf_fill(buf) + size - TAIL_BYTES, tail, TAIL_BYTES) == 0);
    buf_trim(buf, size - TAIL_BYTES);
    return TAKE(buf);
}
