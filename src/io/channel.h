/* channel.h - one connection's bytes, plain or TLS, by the same calls.
 *
 * Plain costs one branch that is always taken the same way. The calls keep what io/socket.h says of each,
 * also for TLS: less than was asked for means that there is no more, unless channel_has_more. The
 * handshake is over before anybody gets a channel (serve/tls_conn.c, client/conn.c).
 *
 * Threads  its loop's own.
 */
#ifndef IO_CHANNEL_H
#define IO_CHANNEL_H

#include "io/socket.h"
#include "io/tls.h"

struct channel {
    int fd;                  /* owned; -1: none */
    struct tls_session *tls; /* owned; NULL: plain */
};

static inline struct channel channel_plain(int fd)
{
    return (struct channel){ fd, NULL };
}

static inline bool channel_is_tls(const struct channel *channel)
{
    return channel->tls != NULL;
}

static inline ssize_t channel_recv(struct channel *channel, void *into, size_t size)
{
    return LIKELY(channel->tls == NULL) ? socket_recv(channel->fd, into, size)
                                        : tls_recv(channel->tls, into, size);
}

static inline ssize_t channel_discard(struct channel *channel, size_t size)
{
    return LIKELY(channel->tls == NULL) ? socket_discard(channel->fd, size)
                                        : tls_discard(channel->tls, size);
}

/* What was refused with -EAGAIN is offered again, with more behind it or not. */
static inline ssize_t channel_send(struct channel *channel, const void *data, size_t size)
{
    return LIKELY(channel->tls == NULL) ? socket_send(channel->fd, data, size)
                                        : tls_send(channel->tls, data, size);
}

static inline ssize_t channel_send_pieces(struct channel *channel, struct iovec *pieces,
                                          size_t count)
{
    return LIKELY(channel->tls == NULL) ? socket_send_pieces(channel->fd, pieces, count)
                                        : tls_send_pieces(channel->tls, pieces, count);
}

/* The last recv brought less than was asked, and still it is to be called again: an end, a failure. */
static inline bool channel_has_more(const struct channel *channel)
{
    return UNLIKELY(channel->tls != NULL) && tls_has_more(channel->tls);
}

/* Reading goes on when the socket can be written: EPOLLOUT is a reason to recv. */
static inline bool channel_reads_when_writable(const struct channel *channel)
{
    return UNLIKELY(channel->tls != NULL) && tls_reads_when_writable(channel->tls);
}

/* The peer has closed its side: recv goes on until it tells of it. */
static inline void channel_expect_end(struct channel *channel)
{
    if (UNLIKELY(channel->tls != NULL))
        tls_expect_end(channel->tls);
}

/* Bytes were received that nobody has read: no event tells of them. */
static inline bool channel_holds(const struct channel *channel)
{
    return UNLIKELY(channel->tls != NULL) && tls_holds(channel->tls);
}

/* No more bytes from us: what the peer has then is all there was. */
void channel_finish(struct channel *channel);
/* Closes. is_whole: all that was promised is sent, and the peer may be told so; else it is to see that the
 * connection broke. */
void channel_close(struct channel *channel, bool is_whole);

#endif
