/* life.h - a server that serves, until it has ended: signals, chores, systemd, upgrade, drain.
 *
 * The starting thread's. What a signal asks for is done here (stop.h says which means what).
 *
 *   SIGTERM   readiness is gone at once; for --drain-delay everything is served as before; then no
 *             connection takes new requests, and those under way have --drain-timeout
 *   SIGUSR2   the same once a new program serves, but for readiness and the delay: whoever asks means
 *             the address, and that is ready
 */
#ifndef CLI_LIFE_H
#define CLI_LIFE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/err.h"

struct grpc_watchers;
struct options;
struct push;
struct resumables;
struct serve;
struct sockets;
struct stack;
struct uploads;

/* All borrowed, and there before serving begins. */
struct life {
    const struct options *options;
    struct serve *serve;
    struct stack *stack;
    struct push *push;
    struct resumables *resumables;
    struct uploads *uploads;
    struct grpc_watchers *watchers;
    const struct sockets *sockets;
    _Atomic bool *is_draining, *is_replaced; /* struct api's */
};

/* Serves until a signal ends it or a new program has taken over, then drains. */
void life_run(const struct life *life);
/* The drain alone: SIGTERM came before all was loaded. Any thread, while nobody else stops anything. */
void life_drain(const struct life *life);
/* The start failed while loops serve already: what callers began in that time is ended, as what lives on
 * without a connection (uploads, streams) ends on its loop only. A second or two. */
void life_end_start(const struct life *life);

#endif
