/* output.h - what waits to be sent on one connection. Its loop's own.
 *
 * Small pieces are copied one behind the other into pooled memory, so that a whole answer is one
 * send; large ones are only referred to, and hold their buf and their exchange until they are sent.
 * Failing is sticky: after is_lost nothing more is sent, and the connection ends itself.
 */
#ifndef SERVE_OUTPUT_H
#define SERVE_OUTPUT_H

#include "serve/internal.h"

struct output; /* one piece */

struct outputs {
    struct serve_loop *l; /* borrowed: the pools are its */
    struct output *first, *last;
    size_t bytes;
    uint64_t moved_ns; /* when the socket last took some, or the first piece came */
    size_t unsent;     /* what lay in the kernel when the socket was full */
    bool is_lost;      /* the socket is broken, or no memory; or whoever owns this says so */
};

/* Drops what is left; leave is called for each exchange whose bytes were not all sent. */
void outputs_deinit(struct outputs *out, void (*leave)(struct exchange *x));

/* `size` bytes in one piece behind what is written; NULL: no memory, is_lost. output_wrote says how
 * many of them were used, at least one. */
uint8_t *output_room(struct outputs *out, size_t size);
void output_wrote(struct outputs *out, size_t size);
void output_copy(struct outputs *out, const void *data, size_t size);
void output_refer(struct outputs *out, struct serve_exchange *e, struct slice bytes,
                  struct buf *holder);
/* Sends until all is gone or the socket is full. */
void output_flush(struct outputs *out, struct channel *channel);
void output_no_memory(struct outputs *out); /* counts it; is_lost */
/* Bytes that a reader must take in write-timeout: a byte now and then is no reading. */
uint64_t output_bytes_enough(const struct serve_settings *settings);
/* The socket was found full: has the reader taken enough of what lies in the kernel since then? */
bool output_is_taken(struct outputs *out, int fd);

void outputs_pools_init(struct serve_loop *l);
void outputs_pools_deinit(struct serve_loop *l);

#endif
