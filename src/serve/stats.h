/* stats.h - what a loop counts. One writer, its loop; any reader. */
#ifndef SERVE_STATS_H
#define SERVE_STATS_H

#include "base/err.h"
#include "telemetry/stat.h"

struct metrics;
struct serve;

/* member, name in /metrics, labels, help; summed over the loops. Names in _total are counters, others
 * gauges: those go down by adding -1. */
#define SERVE_COUNTERS(X)                                                                         \
    X(accepted, "connections_accepted_total", "", "Connections accepted")                         \
    X(rejected, "connections_rejected_total", "", "Connections answered 503 or closed: too many") \
    X(handed_over, "connections_handed_over_total", "", "Connections given to a less busy loop")  \
    X(accept_paused, "accept_paused_total", "",                                                   \
      "Pauses of accepting: no descriptor or memory left")                                        \
    X(bytes_in, "bytes_received_total", "", "Bytes received")                                     \
    X(bytes_out, "bytes_sent_total", "", "Bytes sent")                                            \
    X(status_2xx, "http_answers_total", "class=\"2xx\"", "Answers by class of status")            \
    X(status_3xx, "http_answers_total", "class=\"3xx\"", "")                                      \
    X(status_4xx, "http_answers_total", "class=\"4xx\"", "")                                      \
    X(status_5xx, "http_answers_total", "class=\"5xx\"", "")                                      \
    X(requests, "http_requests_total", "", "Requests whose head was understood")                  \
    X(in_flight, "requests_in_flight", "", "Requests under way now, streams too")                 \
    X(departed, "http_departed_total", "", "Requests whose client left before the answer")        \
    X(malformed, "http_malformed_total", "", "Requests refused as malformed")                     \
    X(hosts_refused, "http_forbidden_total", "", "Requests refused for their Host or Origin")     \
    X(tls_full, "tls_handshakes_total", "result=\"full\"", "TLS handshakes by how they ended")     \
    X(tls_resumed, "tls_handshakes_total", "result=\"resumed\"", "")                              \
    X(tls_failed, "tls_handshakes_total", "result=\"failed\"", "")                                \
    X(tls_failed_protocol, "tls_failures_total", "reason=\"protocol\"",                           \
      "TLS handshakes that failed, by why")                                                       \
    X(tls_failed_version, "tls_failures_total", "reason=\"version\"", "")                         \
    X(tls_failed_cipher, "tls_failures_total", "reason=\"cipher\"", "")                           \
    X(tls_failed_alpn, "tls_failures_total", "reason=\"alpn\"", "")                               \
    X(tls_failed_certificate, "tls_failures_total", "reason=\"certificate\"", "")                 \
    X(tls_failed_alert, "tls_failures_total", "reason=\"alert\"", "")                             \
    X(tls_failed_left, "tls_failures_total", "reason=\"left\"", "")                               \
    X(tls_failed_internal, "tls_failures_total", "reason=\"internal\"", "")                       \
    X(tls_failed_timeout, "tls_failures_total", "reason=\"timeout\"", "")                         \
    X(tls_failed_limit, "tls_failures_total", "reason=\"limit\"", "")                             \
    X(tls_failed_plain, "tls_failures_total", "reason=\"plain\"", "")                             \
    X(tls_handshakes_open, "tls_handshakes_open", "", "TLS handshakes under way")                 \
    X(tls_bytes_in, "tls_bytes_received_total", "", "Bytes received within TLS, decrypted")       \
    X(tls_bytes_out, "tls_bytes_sent_total", "", "Bytes sent within TLS, before encryption")      \
    X(http2_connections, "http2_connections_total", "", "HTTP/2 connections accepted")            \
    X(http2_connections_open, "http2_connections_open", "", "HTTP/2 connections open now")        \
    X(http2_streams_open, "http2_streams_open", "", "HTTP/2 streams open now")                    \
    X(http2_resets_sent, "http2_resets_total", "by=\"server\"",                                   \
      "HTTP/2 streams that ended by a reset")                                                     \
    X(http2_resets_received, "http2_resets_total", "by=\"client\"", "")                           \
    X(http2_goaways, "http2_goaways_total", "", "GOAWAY sent: no new streams on a connection")    \
    X(http2_pings, "http2_pings_total", "", "PING received")                                      \
    X(limit_head, "limit_hits_total", "limit=\"header-bytes-max\"", "Limits reached")             \
    X(limit_fields, "limit_hits_total", "limit=\"headers-max\"", "")                              \
    X(limit_body, "limit_hits_total", "limit=\"max-body\"", "")                                   \
    X(limit_output, "limit_hits_total", "limit=\"output-bytes-max\"", "")                         \
    X(limit_streams, "limit_hits_total", "limit=\"streams-max\"", "")                             \
    X(limit_control, "limit_hits_total", "limit=\"control-frames-max\"", "")                      \
    X(limit_resets, "limit_hits_total", "limit=\"resets-max\"", "")                               \
    X(limit_pings, "limit_hits_total", "limit=\"ping-strikes-max\"", "")                          \
    X(limit_age, "limit_hits_total", "limit=\"connection-age-grace\"", "")                        \
    X(timeout_keepalive, "limit_hits_total", "limit=\"keepalive-timeout\"", "")                   \
    X(limit_requests, "limit_hits_total", "limit=\"requests-per-connection-max\"", "")            \
    X(limit_pipeline, "limit_hits_total", "limit=\"pipeline-max\"", "")                           \
    X(timeout_head, "limit_hits_total", "limit=\"header-timeout\"", "")                           \
    X(timeout_body, "limit_hits_total", "limit=\"body-timeout\"", "")                             \
    X(rate_body, "limit_hits_total", "limit=\"body-rate-min\"", "")                               \
    X(timeout_idle, "limit_hits_total", "limit=\"idle-timeout\"", "")                             \
    X(timeout_tls, "limit_hits_total", "limit=\"tls-handshake-timeout\"", "")                      \
    X(limit_tls, "limit_hits_total", "limit=\"tls-handshakes-max\"", "")                           \
    X(timeout_write, "limit_hits_total", "limit=\"write-timeout\"", "")                           \
    X(no_memory, "http_no_memory_total", "", "Connections closed because memory ran out")

struct serve_stats {
#define X(member, name, labels, help) _Atomic uint64_t member;
    SERVE_COUNTERS(X)
#undef X
};

MUST_USE enum err_code serve_stats_register(struct serve *serve, struct metrics *metrics,
                                            struct err *err);

#endif
