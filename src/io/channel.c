/* channel.c - SPDX-License-Identifier: Apache-2.0 */
#include "io/channel.h"

void channel_finish(struct channel *channel)
{
    if (channel->tls != NULL)
        tls_say_end(channel->tls);
    socket_finish(channel->fd);
}

void channel_close(struct channel *channel, bool is_whole)
{
    if (channel->tls != NULL && is_whole)
        tls_say_end(channel->tls);
    tls_session_free(&channel->tls);
    socket_close(&channel->fd);
}
