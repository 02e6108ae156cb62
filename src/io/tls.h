/* tls.h - TLS 1.2 and 1.3 over non-blocking sockets, both sides (OpenSSL 3).
 *
 * server    What a listener that speaks TLS needs: certificates by name (SNI), ticket keys, stapled OCSP
 *           answers, whose certificates callers may bring. All that comes from files is one snapshot: it is
 *           read anew as a whole, by a thread of its own when files change or when asked to, and taken by
 *           the next handshake; connections that are open keep what they have. What cannot be read leaves
 *           the former in place, and the log says why.
 * client    Whom to trust, and what to show who asks for a certificate.
 * session   One connection. All its socket's bytes go through io/socket.h.
 *
 * Spoken    TLS 1.2 with ECDHE and AEAD only (RFC 9113 9.2.2 has no quarrel with any of them) and TLS 1.3;
 *           ALPN h2 and http/1.1. No compression, no renegotiation, no early data.
 * Life      server, client: made before and freed after all their sessions.
 * Threads   A session is its loop's own. tls_accept, tls_connect, tls_server_reload: any thread.
 * Not here  who a certificate is (access/access.h), how handshakes share a loop (serve/tls_conn.c).
 */
#ifndef IO_TLS_H
#define IO_TLS_H

#include <sys/types.h>

#include "access/certificate.h"
#include "base/err.h"
#include "base/slice.h"

struct address;
struct env;
struct iovec;
struct metrics;
struct tls_client;
struct tls_server;
struct tls_session;

/* -- server ------------------------------------------------------------------------------------------- */

enum tls_client_auth {
    TLS_CLIENT_NONE,     /* certificates are not asked for */
    TLS_CLIENT_OPTIONAL, /* one that is shown must be good */
    TLS_CLIENT_REQUIRED
};

enum { TLS_PAIRS_MAX = 64, TLS_TICKET_KEY_BYTES = 80 };

struct tls_server_settings {
    /* Each "CERT,KEY" or "CERT,KEY,OCSP": PEM, the chain behind its certificate; DER of an OCSP answer,
     * which is also looked for at CERT.ocsp. The first is for callers who name no host, or one that no
     * certificate has. "auto": a local authority's (io/tls_auto.h). */
    const char *const *pairs;
    uint32_t pairs_count;
    const char *directory;            /* of "auto"; empty: $XDG_STATE_HOME/penstock/tls */
    const struct address *addresses;  /* listened on: names of "auto" */
    uint32_t addresses_count;
    const char *client_ca;            /* PEM; empty: nobody is asked */
    const char *client_crl;           /* PEM; what those have revoked; empty: nothing is known */
    enum tls_client_auth client_auth; /* with client_ca */
    /* Empty: keys of this process's own. Else a file of 80 bytes a key (`openssl rand 80`): the first
     * seals tickets, all open them. */
    const char *ticket_keys;
    uint64_t ticket_ns; /* how long a ticket is good; 0: none are given */
    uint64_t watch_ns;  /* how often files are looked at; 0: only tls_server_reload */
};

/* E_INVALID, E_NOT_FOUND, E_PERMISSION, E_PRECONDITION: which file or name, and what is wrong with it. */
MUST_USE enum err_code tls_server_new(struct tls_server **ret, struct env *env,
                                      const struct tls_server_settings *settings, struct err *err);
void tls_server_free(struct tls_server **server);
/* The thread that looks after files, ticket keys and expiry: after the process's other threads may begin. */
MUST_USE enum err_code tls_server_start(struct tls_server *server, struct err *err);
/* Reads all files now. On failure everything stays, and err says what is wrong. Blocks on files. */
MUST_USE enum err_code tls_server_reload(struct tls_server *server, struct err *err);
/* penstock_tls_*: expiry of each certificate, reloads, ticket keys. */
MUST_USE enum err_code tls_server_register(struct tls_server *server, struct metrics *metrics,
                                           struct err *err);
/* The authority of "auto", for `curl --cacert`; empty without. Lives as long as the server. */
const char *tls_server_authority(const struct tls_server *server);
/* What makes the first certificate believed: the authority of "auto", or itself where it is its own; empty:
 * the system's authorities, or who else. */
const char *tls_server_trusted_by(struct tls_server *server);
/* The first name of the first certificate that a host can have; empty: it has none. */
const char *tls_server_name(struct tls_server *server);
/* Does the first certificate stand for that host, a name or an address (IPv6 in brackets)? */
bool tls_server_has_name(struct tls_server *server, struct slice host);

/* -- client ------------------------------------------------------------------------------------------- */

struct tls_client_settings {
    const char *ca;        /* PEM file or folder of authorities; empty: the system's */
    const char *cert, *key; /* PEM, shown who asks; empty: none */
    bool is_insecure;      /* anybody is believed: the caller warns */
};

MUST_USE enum err_code tls_client_new(struct tls_client **ret,
                                      const struct tls_client_settings *settings, struct err *err);
void tls_client_free(struct tls_client **client);

/* -- session ------------------------------------------------------------------------------------------ */

enum tls_alpn { TLS_ALPN_NONE, TLS_ALPN_HTTP1, TLS_ALPN_HTTP2 };

/* Bits of what a client offers. */
enum { TLS_OFFER_HTTP1 = 1, TLS_OFFER_HTTP2 = 2 };

/* Why a handshake failed, for the metrics: label and what it means. */
#define TLS_FAILURES(X)                                                                            \
    X(PROTOCOL, "protocol", "bytes that are no TLS, or break its rules")                           \
    X(VERSION, "version", "a version of TLS that is not spoken here")                              \
    X(CIPHER, "cipher", "no cipher, group or signature in common")                                 \
    X(ALPN, "alpn", "no application protocol in common")                                           \
    X(CERTIFICATE, "certificate", "the peer's certificate: none, expired, of nobody trusted ...")  \
    X(ALERT, "alert", "the peer refused: it does not trust our certificate, as a rule")            \
    X(LEFT, "left", "the peer closed the connection")                                              \
    X(INTERNAL, "internal", "memory, or OpenSSL itself")

enum tls_failure {
#define X(id, label, help) TLS_FAILED_##id,
    TLS_FAILURES(X)
#undef X
    TLS_FAILURES_COUNT
};
extern const char *const tls_failure_labels[TLS_FAILURES_COUNT];

/* `ahead`: what was received of the socket before (a copy is kept until it is used); is_drained: in this turn
 * of the loop, and that was all there was. */
MUST_USE enum err_code tls_accept(struct tls_session **ret, struct tls_server *server, int fd,
                                  struct slice ahead, bool is_drained, struct err *err);
/* `name`: the host that is meant, without port: sent as SNI unless it is an address, and looked for in
 * the certificate. `offers`: bits of TLS_OFFER_*; 0: no ALPN. */
MUST_USE enum err_code tls_connect(struct tls_session **ret, struct tls_client *client, int fd,
                                   struct slice name, uint32_t offers, struct err *err);
void tls_session_free(struct tls_session **session); /* says nothing to the peer */

enum tls_step { TLS_DONE, TLS_WANTS_READ, TLS_WANTS_WRITE, TLS_FAILED };
/* Goes on until the socket has no more bytes or takes none: call again when it does. FAILED: err says why
 * for people, and an alert is on its way to the peer. */
MUST_USE enum tls_step tls_handshake(struct tls_session *session, struct err *err);
enum tls_failure tls_session_failure(const struct tls_session *session); /* behind FAILED */

/* Behind DONE. */
enum tls_alpn tls_session_alpn(const struct tls_session *session);
bool tls_session_is_resumed(const struct tls_session *session);
const char *tls_session_version(const struct tls_session *session); /* "TLSv1.3" */
/* The peer's, verified; NULL: it showed none. Lives as long as the session. */
const struct certificate *tls_session_certificate(const struct tls_session *session);

/* As the functions of io/socket.h, also in this: less than was asked for means that there is no more, or
 * that the socket takes no more. What was refused with -EAGAIN is offered again with the same bytes first;
 * more may stand behind them. 0 of recv: the peer has said good-bye (a client is told -ECONNRESET when it
 * only left, as bytes may be missing; a server is not, since requests say where they end).
 * -EPROTO: what came was not the peer's, or breaks the rules. */
ssize_t tls_recv(struct tls_session *session, void *into, size_t size);
ssize_t tls_discard(struct tls_session *session, size_t size);
ssize_t tls_send(struct tls_session *session, const void *data, size_t size);
ssize_t tls_send_pieces(struct tls_session *session, const struct iovec *pieces, size_t count);
/* A client's, behind a failure: what the server said of us, for people; NULL: nothing. TLS 1.3 is open
 * before the server has seen our certificate: its refusal comes by the first recv. */
const char *tls_session_refusal(const struct tls_session *session);
/* The last recv brought less than was asked, and still there is something to be told: recv again. */
bool tls_has_more(const struct tls_session *session);
/* epoll said that the peer has closed its side: a short recv of the socket is not the last. */
void tls_expect_end(struct tls_session *session);
/* Bytes were received that nobody has read. */
bool tls_holds(const struct tls_session *session);
/* Reading waits until the socket can be written. */
bool tls_reads_when_writable(const struct tls_session *session);
/* Says good-bye (close_notify), if that can be said at once. */
void tls_say_end(struct tls_session *session);

#endif
