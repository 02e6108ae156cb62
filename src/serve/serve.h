/* serve.h - listeners, connections, router, limits: everything between sockets and handlers.
 *
 * Life     serve_new, serve_listen (repeatable), serve_start (loops' threads run), serve_drain
 *          (stop accepting, finish what is under way, close idle connections), serve_stop, serve_free.
 * Threads  the starting thread calls all of these.
 */
#ifndef SERVE_SERVE_H
#define SERVE_SERVE_H

#include "api/route.h"
#include "serve/observe.h"

struct budget;
struct env;
struct metrics;
struct serve;
struct tls_server;

/* What plain HTTP gets on a listener that speaks TLS. */
enum serve_plain { SERVE_PLAIN_REFUSE, SERVE_PLAIN_REDIRECT, SERVE_PLAIN_SERVE };

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
uint32_t serve_listeners(const struct serve *serve);
/* As bound, port resolved: "http://127.0.0.1:43121", "https://[::1]:8443", "unix:/run/x.sock". */
const char *serve_listener_url(const struct serve *serve, uint32_t index);
uint32_t serve_loops(const struct serve *serve);
MUST_USE enum err_code serve_start(struct serve *serve, struct err *err);
/* Stops accepting; answers carry `connection: close`; returns when every connection has ended or
 * at deadline (then they are cut). */
void serve_drain(struct serve *serve, uint64_t grace_ms);
void serve_stop(struct serve *serve); /* joins the loops */
void serve_free(struct serve **serve);

#endif
