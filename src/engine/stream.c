/* stream.c - input in pieces, for backends that take it themselves. SPDX-License-Identifier: Apache-2.0
 *
 * A stream's pieces wait in a list that the loop fills and the running side empties: on a loop these
 * are the same thread; else the list, the end and the interruptions are under the model's mutex, and
 * pieces come back to the loop as messages, behind the responses that were emitted before.
 */
#include "engine/internal.h"

static bool is_shared(const struct stream *stream)
{
    return !stream->p->pub.was_inline;
}

static void lock(struct stream *stream)
{
    if (is_shared(stream))
        pthread_mutex_lock(&stream->p->pub.model->lock);
}

static void unlock(struct stream *stream)
{
    if (is_shared(stream))
        pthread_mutex_unlock(&stream->p->pub.model->lock);
}

/* -- the loop's side -------------------------------------------------------------------------------- */

void stream_init(struct stream *stream, struct request_private *p,
                 void (*on_given_back)(struct stream *stream, struct stream_piece *piece))
{
    *stream = (struct stream){ .p = p, .on_given_back = on_given_back };
    list_init(&stream->pieces);
    p->stream = stream;
}

static void on_piece_msg(struct loop_msg *msg)
{
    struct stream_piece *piece = CONTAINER_OF(msg, struct stream_piece, msg);

    piece->stream->on_given_back(piece->stream, piece);
}

void stream_push(struct stream *stream, struct stream_piece *piece)
{
    piece->stream = stream;
    piece->msg.run = on_piece_msg;
    lock(stream);
    list_push(&stream->pieces, &piece->node);
    unlock(stream);
    open_wake(stream->p);
}

void stream_finish(struct stream *stream)
{
    lock(stream);
    stream->is_finished = true;
    unlock(stream);
    open_wake(stream->p);
}

void stream_interrupt(struct stream *stream, struct list *ret)
{
    struct list_node *node;

    lock(stream);
    stream->interrupts++;
    while ((node = list_pop(&stream->pieces)) != NULL)
        list_push(ret, node);
    unlock(stream);
    open_wake(stream->p);
}

/* -- what the backend calls ------------------------------------------------------------------------- */

static void give_back(struct stream *stream)
{
    struct stream_piece *piece = TAKE(stream->taken);

    stream->taken_number = 0;
    if (piece == NULL)
        return;
    if (is_shared(stream))
        loop_post(stream->p->pub.loop, &piece->msg);
    else
        stream->on_given_back(stream, piece);
}

static enum penstock_next_input host_next_input(struct penstock_batch *batch)
{
    struct request_private *p = batch->row;
    struct stream *stream = p->stream;

    if (stream == NULL) { /* a stream of one: its own inputs */
        p->own_taken = MIN(p->own_taken + 1, 2u);
        return p->own_taken == 1 ? PENSTOCK_INPUT_PIECE : PENSTOCK_INPUT_END;
    }
    give_back(stream);
    lock(stream);
    /* A piece that was sent behind an interruption must not be taken for one that it is about: the
     * backend is to ask interrupted() first, and comes again. One that never asks goes on. */
    bool is_held = stream->interrupts_seen != stream->interrupts && !stream->was_held;
    struct list_node *node = is_held ? NULL : list_pop(&stream->pieces);
    bool is_finished = stream->is_finished && !is_held;
    if (!is_held)
        stream->interrupts_seen = stream->interrupts;
    unlock(stream);
    stream->was_held = is_held;
    if (is_held)
        open_again(p->open);
    if (node == NULL)
        return is_finished ? PENSTOCK_INPUT_END : PENSTOCK_INPUT_NONE;
    stream->taken = CONTAINER_OF(node, struct stream_piece, node);
    stream->taken_number = stream->taken->number;
    return PENSTOCK_INPUT_PIECE;
}

static uint64_t host_input_sequence(const struct penstock_batch *batch)
{
    const struct request_private *p = batch->row;

    return p->stream != NULL ? p->stream->taken_number : p->own_taken == 1;
}

static bool host_interrupted(struct penstock_batch *batch)
{
    struct stream *stream = batch->row->stream;

    if (stream == NULL)
        return false;
    lock(stream);
    bool is_interrupted = stream->interrupts_seen != stream->interrupts;
    stream->interrupts_seen += is_interrupted;
    unlock(stream);
    stream->was_held = false;
    return is_interrupted;
}

void host_fill_stream(struct penstock_host *host)
{
    host->next_input = host_next_input;
    host->input_sequence = host_input_sequence;
    host->interrupted = host_interrupted;
}
