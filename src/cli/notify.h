/* notify.h - what systemd is told, by the protocol of sd_notify(3): datagrams to the socket that
 * NOTIFY_SOCKET names. Without that variable nothing is told, and nothing fails.
 *
 * The starting thread's.
 */
#ifndef CLI_NOTIFY_H
#define CLI_NOTIFY_H

#include <stdbool.h>

#include "base/err.h"

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. A name that cannot be one is warned of. */
void notify_open(void);
void notify_close(void);
/* "READY=1\nSTATUS=serving" */
void notify(const char *format, ...) PRINTF_LIKE(1, 2);
/* How long systemd waits for a sign of life at most; 0: it does not. */
uint64_t notify_watchdog_ns(void);

#endif
