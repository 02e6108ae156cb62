/* output.c - SPDX-License-Identifier: Apache-2.0 */
#include "serve/output.h"

#include <errno.h>
#include <sys/uio.h>

#include "base/buf.h"
#include "base/mem.h"

enum {
    OUTPUT_BYTES = 16 * 1024, /* of one pooled piece, with its header */
    SMALL_BYTES = 48,         /* between two references: the end of a chunk, the size of the next */
    PIECES_MAX = 64,          /* of one sendmsg */
    KEEP_MAX = 64,
    KEEP_REFERENCES_MAX = 256,
};

struct output {
    struct output *next;
    const uint8_t *data; /* what is not sent yet: in bytes, or somebody's */
    size_t size;
    struct buf *holder;          /* owned reference, or NULL */
    struct serve_exchange *keep; /* owned reference of a reference's exchange; else NULL */
    uint32_t room;               /* of bytes; 0: a reference */
    bool is_pooled;
    uint8_t bytes[];
};

static struct output *take(struct serve_loop *l, size_t room)
{
    struct output *o;
    int is_fresh;

    if (room <= SMALL_BYTES)
        o = pool_take(&l->references, &is_fresh);
    else if (room <= OUTPUT_BYTES - sizeof *o)
        o = pool_take(&l->outputs, &is_fresh);
    else
        o = mem_alloc(sizeof *o + room);
    if (o == NULL)
        return NULL;
    o->is_pooled = room <= OUTPUT_BYTES - sizeof *o;
    o->room = room <= SMALL_BYTES ? (uint32_t)room : (uint32_t)MAX(room, OUTPUT_BYTES - sizeof *o);
    o->next = NULL;
    o->data = o->bytes;
    o->size = 0;
    o->holder = NULL;
    o->keep = NULL;
    return o;
}

static void give(struct serve_loop *l, struct output *o)
{
    if (UNLIKELY(o->room == 0)) {
        struct exchange *x = &TAKE(o->keep)->x;
        buf_unref(&o->holder);
        exchange_unref(&x);
    }
    if (!o->is_pooled || !pool_give(o->room <= SMALL_BYTES ? &l->references : &l->outputs, o))
        mem_free(o);
}

void outputs_deinit(struct outputs *out, void (*leave)(struct exchange *x))
{
    while (out->first != NULL) {
        struct output *o = out->first;
        out->first = o->next;
        if (o->keep != NULL)
            leave(&o->keep->x);
        give(out->l, o);
    }
    out->bytes = 0;
}

void output_no_memory(struct outputs *out)
{
    stat_add(&out->l->stats.no_memory, 1);
    out->is_lost = true;
}

static void append(struct outputs *out, struct output *o)
{
    if (out->first == NULL) {
        out->first = o;
        out->moved_ns = loop_now_ns(out->l->loop);
    } else {
        out->last->next = o;
    }
    out->last = o;
}

uint8_t *output_room(struct outputs *out, size_t size)
{
    struct output *o = out->last;

    if (out->first != NULL && o->room > 0) {
        size_t used = (size_t)(o->data + o->size - o->bytes);
        if (LIKELY(size <= o->room - used))
            return o->bytes + used;
    }
    if (out->first != NULL && o->room == 0 && size <= SMALL_BYTES)
        o = take(out->l, SMALL_BYTES);
    else
        o = take(out->l, MAX(size, (size_t)SMALL_BYTES + 1));
    if (UNLIKELY(o == NULL)) {
        output_no_memory(out);
        return NULL;
    }
    append(out, o);
    return o->bytes;
}

void output_wrote(struct outputs *out, size_t size)
{
    out->last->size += size;
    out->bytes += size;
}

void output_copy(struct outputs *out, const void *data, size_t size)
{
    uint8_t *at = output_room(out, size);

    if (at == NULL)
        return;
    memcpy(at, data, size);
    output_wrote(out, size);
}

void output_refer(struct outputs *out, struct serve_exchange *e, struct slice bytes,
                  struct buf *holder)
{
    struct output *o = take(out->l, 0);

    if (UNLIKELY(o == NULL)) {
        output_no_memory(out);
        return;
    }
    o->data = bytes.data;
    o->size = bytes.size;
    o->holder = buf_ref(holder);
    /* Also with a holder: until these bytes are sent its user may have to hear on_gone. */
    exchange_ref(&e->x);
    o->keep = e;
    append(out, o);
    out->bytes += bytes.size;
}

static void drop(struct outputs *out, size_t size)
{
    out->bytes -= size;
    while (size > 0) {
        struct output *o = out->first;
        size_t part = MIN(size, o->size);
        o->data += part;
        o->size -= part;
        size -= part;
        if (o->size > 0)
            return;
        out->first = o->next;
        give(out->l, o);
    }
}

void output_flush(struct outputs *out, struct channel *channel)
{
    while (out->first != NULL && !out->is_lost) {
        struct output *o = out->first;
        size_t asked = o->size;
        ssize_t sent;
        if (LIKELY(o->next == NULL)) {
            sent = channel_send(channel, o->data, o->size);
        } else {
            struct iovec pieces[PIECES_MAX];
            size_t count = 0;
            for (asked = 0; o != NULL && count < PIECES_MAX; o = o->next, count++) {
                pieces[count].iov_base = (void *)(uintptr_t)o->data;
                pieces[count].iov_len = o->size;
                asked += o->size;
            }
            sent = channel_send_pieces(channel, pieces, count);
        }
        if (UNLIKELY(sent < 0)) {
            out->is_lost = sent != -EAGAIN;
            out->unsent = socket_unsent(channel->fd);
            return;
        }
        stat_add(&out->l->stats.bytes_out, (uint64_t)sent);
        if (UNLIKELY(channel_is_tls(channel)))
            stat_add(&out->l->stats.tls_bytes_out, (uint64_t)sent);
        out->moved_ns = loop_now_ns(out->l->loop);
        drop(out, (size_t)sent);
        if (UNLIKELY((size_t)sent < asked)) {
            out->unsent = socket_unsent(channel->fd);
            return; /* the socket is full: epoll tells when it is not */
        }
    }
}

uint64_t output_bytes_enough(const struct serve_settings *settings)
{
    return MAX(settings->body_rate_min * settings->write_timeout_ms / 1000, UINT64_C(1));
}

bool output_is_taken(struct outputs *out, int fd)
{
    uint64_t enough = output_bytes_enough(&out->l->serve->settings);
    size_t unsent = socket_unsent(fd);

    if (unsent + MIN(enough, (uint64_t)out->unsent) > out->unsent || out->unsent == 0)
        return false;
    out->unsent = unsent;
    out->moved_ns = loop_now_ns(out->l->loop);
    return true;
}

void outputs_pools_init(struct serve_loop *l)
{
    pool_init(&l->outputs, OUTPUT_BYTES, KEEP_MAX);
    pool_init(&l->references, sizeof(struct output) + SMALL_BYTES, KEEP_REFERENCES_MAX);
}

void outputs_pools_deinit(struct serve_loop *l)
{
    pool_deinit(&l->outputs, NULL);
    pool_deinit(&l->references, NULL);
}
