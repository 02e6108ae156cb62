/* serve.h - listeners, connections, router, limits: everything between sockets and handlers.
 *
 * Life     serve_new, serve_listen or serve_adopt (repeatable), serve_start (loops' threads run),
 *          serve_drain (stop accepting, finish what is under way, close idle connections), or in its
 *          parts serve_drain_begin, serve_drain_wait, serve_cut; serve_stop, serve_free.
 * Threads  the starting thread calls all of these.
 */
#ifndef SERVE_SERVE_H
#define SERVE_SERVE_H

#include "api/route.h"
#include "serve/observe.h"

struct budget;
struct address;
struct env;
struct metrics;
struct serve;
struct tls_server;

/* What plain HTTP gets on a listener that speaks TLS. */
enum serve_plain { SERVE_PLAIN_REFUSE, SERVE_PLAIN_REDIRECT, SERVE_PLAIN_SERVE };

enum { SERVE_BACKLOG = 4096 }; /* of listening sockets */

/* Every limit has an option of the same name in options.def and a metric of its hits. */
struct serve_settings {
    uint32_t loops_count;      /* 0: one per usable core (affinity, cgroup quota) */
    uint32_t connections_max;  /* all loops together */
    uint32_t header_bytes_max; /* request line and headers of one request */
    uint32_t headers_max;      /* how many */
    uint64_t body_bytes_max;
    uint32_t pipeline_max;     /* requests read ahead on one connection */
    uint64_t output_bytes_max; /* queued for one connection's slow reader */
    uint64_t header_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms;
    uint64_t body_rate_min; /* bytes/s a body must arrive at, after a grace (0: any) */
    uint32_t requests_per_connection_max; /* 0: any number */
    uint64_t drain_idle_ms; /* once it drains: how long an idle connection is kept for a request */
    /* HTTP/2 */
    uint32_t streams_max;             /* open at once on one connection */
    uint32_t control_frames_max;      /* that carry nothing, in a burst (0: any number) */
    uint32_t resets_max;              /* streams reset before their answer, in a burst (0: any) */
    uint64_t connection_age_ms;       /* 0: any age */
    uint64_t connection_age_grace_ms; /* then its streams have so long */
    uint64_t keepalive_time_ms;       /* of silence, before the peer is pinged (0: never) */
    uint64_t keepalive_timeout_ms;    /* and so long it may take to answer */
    uint64_t ping_interval_min_ms;    /* between a peer's pings while nothing else happens */
    uint32_t ping_strikes_max;        /* that come too early before GOAWAY (0: any number) */
    const char *const *hosts_allowed; /* --allow-host: beside IPs, localhost and what is bound */
    uint32_t hosts_allowed_count;
    const char *const *origins_allowed; /* --cors-origin: "https://app.example", or "*" */
    uint32_t origins_allowed_count;
    struct observe_rules observe; /* traces and request ids */
    uint64_t hsts_s; /* over TLS: how long browsers are to come by TLS alone; 0: nothing is said */
    struct access *access; /* borrowed: outlives it; NULL: no rules */
    /* TLS */
    struct tls_server *tls; /* borrowed; NULL: all listeners are plain */
    enum serve_plain tls_plain;
    uint64_t tls_handshake_timeout_ms;
    uint32_t tls_handshakes_max; /* under way at once, all loops together */
    struct budget *budget;
    struct metrics *metrics;
    uint32_t metrics_series_max; /* sets of labels that come as requests do; 0: 5,000 */
    const struct api *api;
    const struct route_table *const *tables;
    uint32_t tables_count;
};

MUST_USE enum err_code serve_new(struct serve **ret, struct env *env,
                                 const struct serve_settings *settings, struct err *err);
/* "127.0.0.1:8000", "[::1]:8000", "localhost:0", ":8000" (every address), "unix:/run/x.sock"; with
 * "http://" or "https://" before it: plain, or TLS. Without: TLS where settings.tls is, but of unix sockets.
 * A taken port is an error that names it and, when it can be known, who to ask. */
MUST_USE enum err_code serve_listen(struct serve *serve, const char *address, struct err *err);
/* The address of such a text, behind what it begins with. */
const char *serve_address_of(const char *text);
/* The same with a socket that listens already: somebody else bound it (systemd, the program before
 * this one). Takes it, also on failure. `address` is what it is bound to, `text` what serve_listen would
 * have been given, or "". `keeps_file`: the file of a unix socket is not ours to remove. */
MUST_USE enum err_code serve_adopt(struct serve *serve, int *fd, const struct address *address,
                                   const char *text, bool keeps_file, struct err *err);
/* Whoever has these sockets too goes on with them: files of unix sockets stay when they are closed. */
void serve_keep_files(struct serve *serve, bool keeps);
uint32_t serve_listeners(const struct serve *serve);
/* As bound, port resolved: "http://127.0.0.1:43121", "https://[::1]:8443", "unix:/run/x.sock". */
const char *serve_listener_url(const struct serve *serve, uint32_t index);
uint32_t serve_loops(const struct serve *serve);
MUST_USE enum err_code serve_start(struct serve *serve, struct err *err);
/* Stops accepting, behind those who have connected already; no connection is given a new request
 * beyond what may be on its way:
 *
 *   HTTP/1.1  the next answer carries `connection: close`. One that is idle has idle_ms to begin a
 *             request, then it is closed: nothing but such an answer tells a client in time that a
 *             connection takes no more, and what it sent before it saw a FIN would be lost.
 *   HTTP/2    a GOAWAY that names no stream, a PING, and when that is back the GOAWAY that names the
 *             last one (RFC 9113, 6.8). The first leaves with the end of the next answer behind which
 *             nothing is under way, after idle_ms at the latest. Streams that can say good-bye are told
 *             (on_drain) at once.
 *
 * From the second call on nothing is done. */
void serve_drain_begin(struct serve *serve, uint64_t idle_ms);
/* Waits until every connection has ended, at most until due_ns of the monotonic clock. True: they have. */
bool serve_drain_wait(struct serve *serve, uint64_t due_ns);
/* What is left is cut. */
struct serve_left {
    uint32_t connections, idle; /* those that idle had no request under way */
    uint32_t requests;
};
void serve_cut(struct serve *serve, struct serve_left *ret);
/* Begins, with settings.drain_idle_ms, waits for grace_ms, and cuts what is left by then, with a warning. */
void serve_drain(struct serve *serve, uint64_t grace_ms);
/* Asks every loop for a sign of life. How long the slowest owes its answer to an earlier call: 0 when
 * all have answered. */
uint64_t serve_beat(struct serve *serve);
void serve_stop(struct serve *serve); /* joins the loops */
void serve_free(struct serve **serve);

#endif
