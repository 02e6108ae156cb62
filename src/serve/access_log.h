/* access_log.h - a line for each exchange: who asked what, and how it went (docs/seeing.md).
 *
 * A loop copies what is to be told into a ring of its own; a thread makes lines of it and writes them. The
 * loop never waits: what finds no room is counted as dropped (--access-log-buffer). A disk that is full, a
 * pipe that nobody reads, a file that cannot be opened are told once in the server's log, what is lost
 * meanwhile is counted, and writing goes on by itself when it can.
 *
 * Life     access_log_open (the place must be writable then), observer of a server, access_log_close once
 *          the server's loops have ended: what is in the rings is still written, for a second at most.
 * Threads  access_log_reopen: any. Others: the starting thread.
 */
#ifndef SERVE_ACCESS_LOG_H
#define SERVE_ACCESS_LOG_H

#include <stdbool.h>

#include "serve/observe.h"
#include "serve/observe_record.h"
#include "telemetry/access_line.h"

struct access_log;
struct env;
struct metrics;

struct access_log_settings {
    const char *path; /* a file; "-" or "stdout", "stderr"; "unix:/run/x.sock" (datagrams) */
    enum access_form form;
    double sample;     /* of exchanges that went well: 0..1 */
    uint64_t slow_ns;  /* those that took longer are always told, as are failures; 0: none is slow */
    uint64_t ring_bytes; /* for each loop */
    struct observe_query query;
    uint32_t loops_count;
    /* Only what administers, and who was refused: --audit-log. Of refusals no more than AUDIT_BURST at once
     * and AUDIT_RATE a second of each loop are told, the rest is counted. */
    bool is_audit;
};
enum { AUDIT_BURST = 100, AUDIT_RATE = 20 };

/* Is it the name of a file, or one of the words? */
bool access_log_is_file(const char *path);

MUST_USE enum err_code access_log_open(struct access_log **ret, struct env *env,
                                       const struct access_log_settings *settings,
                                       struct err *err);
void access_log_close(struct access_log **log);
struct observer access_log_observer(struct access_log *log);
MUST_USE enum err_code access_log_register(struct access_log *log, struct metrics *metrics,
                                           struct err *err);
/* Opens the file again by its name, soon: somebody has moved it (log rotation). */
void access_log_reopen(struct access_log *log);

#endif
