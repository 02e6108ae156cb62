/* tls.c - one session: OpenSSL between a socket and whoever reads and writes it.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Bytes go through a BIO of ours onto io/socket.h. OpenSSL reads ahead, so that a record costs one recv
 * and not two; what that recv left in OpenSSL is asked for before anybody rests, so that "less than asked"
 * means the same as with a socket. A recv that brought less than there was room for has emptied the
 * socket, and nobody asks it again before epoll says that there is more.
 *
 * What a handshake found out stays true for the rest of the turn of the loop, since what came behind it is
 * told of in the next one: so the first recv behind it need not ask again. And the ticket of TLS 1.3, which is sent
 * when the handshake is over, waits for the answer to a request that came with the handshake's end:
 * one call of the system less for each connection, and one packet.
 *
 * Records. Small pieces are gathered into one, large ones are sealed from where they lie, 16 KiB each.
 * A record that the socket did not take lies sealed in OpenSSL: until it is gone the caller still has its
 * bytes, and offers them again. What is offered first is then the same, since callers send in order and
 * drop nothing; OpenSSL is given exactly what it was given before, as else it would begin one more record
 * in the same call, and forget to say of how much it had taken.
 *
 * Buffers of records are given back whenever they are empty: a connection at rest holds none.
 *
 * A peer may not keep a loop busy with records that carry nothing (KeyUpdate, empty ones): after
 * IDLE_RAW_BYTES_MAX of those in one call the connection is over.
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <sys/uio.h>

#include "base/arena.h"
#include "base/mem.h"
#include "io/loop.h"
#include "io/socket.h"
#include "io/tls_internal.h"

enum {
    RECORD_BYTES = 16 * 1024,
    IDLE_RAW_BYTES_MAX = 128 * 1024, /* that brought nothing for the application, in one call */
};

const char *const tls_failure_labels[TLS_FAILURES_COUNT] = {
#define X(id, label, help) label,
    TLS_FAILURES(X)
#undef X
};

/* -- the BIO ---------------------------------------------------------------------------------- */

static int bio_read(BIO *bio, char *into, size_t size, size_t *ret)
{
    struct tls_session *s = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    *ret = 0;
    if (UNLIKELY(s->ahead != NULL)) {
        size_t part = MIN(size, s->ahead_size - s->ahead_at);
        memcpy(into, s->ahead + s->ahead_at, part);
        s->ahead_at += part;
        if (s->ahead_at == s->ahead_size)
            mem_free(TAKE(s->ahead));
        *ret = part;
        return 1;
    }
    if (s->is_drained || s->raw_bytes > IDLE_RAW_BYTES_MAX) {
        BIO_set_retry_read(bio);
        return 0;
    }
    ssize_t got = socket_recv(s->fd, into, size);
    s->is_drained = got < (ssize_t)size && !s->fin_seen;
    if (LIKELY(got > 0)) {
        s->raw_bytes += (size_t)got;
        *ret = (size_t)got;
        return 1;
    }
    if (got == -EAGAIN)
        BIO_set_retry_read(bio);
    else if (got == 0)
        BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    return 0;
}

/* A ticket of TLS 1.3 behind a handshake: what is sent next takes it along. */
static bool hold(struct tls_session *s, const char *data, size_t size)
{
    if (s->server == NULL || s->is_open || SSL_get_state(s->ssl) != TLS_ST_SW_SESSION_TICKET ||
        SSL_version(s->ssl) != TLS1_3_VERSION || s->held != NULL ||
        (s->held = mem_alloc(size)) == NULL)
        return false;
    memcpy(s->held, data, size);
    s->held_at = 0;
    s->held_size = size;
    return true;
}

/* Sends what was held, and then data: how much of data was sent, -EAGAIN: none. */
static ssize_t send_held(struct tls_session *s, const void *data, size_t size)
{
    size_t left = s->held_size - s->held_at;
    struct iovec pieces[] = { { s->held + s->held_at, left }, { (void *)(uintptr_t)data, size } };
    ssize_t sent = socket_send_pieces(s->fd, pieces, size > 0 ? 2 : 1);

    if (sent < 0)
        return sent;
    if ((size_t)sent < left) {
        s->held_at += (size_t)sent;
        return -EAGAIN;
    }
    mem_free(TAKE(s->held));
    return (size_t)sent == left ? -EAGAIN : sent - (ssize_t)left;
}

static int bio_write(BIO *bio, const char *data, size_t size, size_t *ret)
{
    struct tls_session *s = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    *ret = 0;
    if (UNLIKELY(!s->is_open) && hold(s, data, size)) {
        *ret = size;
        return 1;
    }
    ssize_t sent =
        UNLIKELY(s->held != NULL) ? send_held(s, data, size) : socket_send(s->fd, data, size);
    if (LIKELY(sent > 0)) {
        *ret = (size_t)sent;
        return 1;
    }
    if (sent == -EAGAIN)
        BIO_set_retry_write(bio);
    return 0;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)number, (void)pointer;
    switch (command) {
    case BIO_CTRL_FLUSH: return 1;
    case BIO_CTRL_EOF: return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    default: return 0;
    }
}

static BIO_METHOD *method_of_bio;
static int session_index = -1;

static void make_shared(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "penstock");

    if (method == NULL || BIO_meth_set_read_ex(method, bio_read) != 1 ||
        BIO_meth_set_write_ex(method, bio_write) != 1 ||
        BIO_meth_set_ctrl(method, bio_ctrl) != 1) {
        BIO_meth_free(method);
        return;
    }
    session_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    method_of_bio = session_index < 0 ? NULL : method;
}

static bool has_shared(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_shared);
    return method_of_bio != NULL;
}

/* -- contexts and sessions ---------------------------------------------------------------------- */

void tls_reason(char *out, size_t size)
{
    unsigned long code = ERR_get_error();
    const char *reason = ERR_reason_error_string(code);

    if (code != 0 && ERR_SYSTEM_ERROR(code))
        snprintf(out, size, "%s", strerror(ERR_GET_REASON(code)));
    else
        snprintf(out, size, "%s",
                 code == 0 ? "no reason given" : reason != NULL ? reason : "unknown reason");
    ERR_clear_error();
}

SSL_CTX *tls_context_new(const SSL_METHOD *method, struct err *err)
{
    static const char ciphers_12[] = "ECDHE+AESGCM:ECDHE+CHACHA20";
    static const char ciphers_13[] =
        "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
    char reason[160];
    SSL_CTX *context = NULL;

    ERR_clear_error();
    if (has_shared())
        context = SSL_CTX_new(method);
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(context, ciphers_12) != 1 ||
        SSL_CTX_set_ciphersuites(context, ciphers_13) != 1 ||
        SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384") != 1) {
        tls_reason(reason, sizeof reason);
        SSL_CTX_free(context);
        err_set(err, E_INTERNAL, "OpenSSL cannot be set up: %s", reason);
        return NULL;
    }
    SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_max_cert_list(context, TLS_HELLO_BYTES_MAX);
    return context;
}

struct tls_session *tls_session_of(const SSL *ssl)
{
    return SSL_get_ex_data(ssl, session_index);
}

enum err_code tls_session_make(struct tls_session **ret, SSL_CTX *context, int fd, struct err *err)
{
    struct tls_session *s = mem_zalloc(sizeof *s);
    BIO *bio = NULL;

    if (s != NULL)
        s->ssl = SSL_new(context);
    if (s != NULL && s->ssl != NULL)
        bio = BIO_new(method_of_bio);
    if (bio == NULL || SSL_set_ex_data(s->ssl, session_index, s) != 1) {
        BIO_free(bio);
        tls_session_free(&s);
        ERR_clear_error();
        return err_set(err, E_EXHAUSTED, "no memory for a TLS connection");
    }
    s->fd = fd;
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(s->ssl, bio, bio);
    *ret = s;
    return OK;
}

void tls_session_free(struct tls_session **slot)
{
    struct tls_session *s = TAKE(*slot);

    if (s == NULL)
        return;
    SSL_free(s->ssl);
    tls_snapshot_give(&s->snapshot);
    mem_free(s->ahead);
    mem_free(s->held);
    arena_free(&s->names);
    mem_free(s);
}

/* -- the handshake ------------------------------------------------------------------------------ */

/* Whatever others left in this thread's queue would be taken for the reason of what happens next. */
static void clear_errors(void)
{
    if (UNLIKELY(ERR_peek_error() != 0))
        ERR_clear_error();
}

static enum tls_failure failure_of(const struct tls_session *s, unsigned long code)
{
    if (ERR_SYSTEM_ERROR(code) || ERR_GET_LIB(code) != ERR_LIB_SSL)
        return TLS_FAILED_INTERNAL;
    int reason = ERR_GET_REASON(code);
    if (reason > SSL_AD_REASON_OFFSET) /* the number of an alert that came */
        return TLS_FAILED_ALERT;
    switch (reason) {
    case SSL_R_NO_APPLICATION_PROTOCOL: return TLS_FAILED_ALPN;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_UNKNOWN_PROTOCOL:
    case SSL_R_WRONG_SSL_VERSION:
    case SSL_R_VERSION_TOO_LOW:
    case SSL_R_INAPPROPRIATE_FALLBACK:
    case SSL_R_WRONG_VERSION_NUMBER:
        return s->server != NULL && reason == SSL_R_WRONG_VERSION_NUMBER ? TLS_FAILED_PROTOCOL
                                                                         : TLS_FAILED_VERSION;
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SHARED_GROUPS:
    case SSL_R_NO_SUITABLE_GROUPS:
    case SSL_R_NO_SUITABLE_KEY_SHARE:
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
    case SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS: return TLS_FAILED_CIPHER;
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    case SSL_R_NO_CERTIFICATES_RETURNED:
    case SSL_R_CERT_LENGTH_MISMATCH:
    case SSL_R_EXCESSIVE_MESSAGE_SIZE: return TLS_FAILED_CERTIFICATE;
    case ERR_R_MALLOC_FAILURE:
    case ERR_R_INTERNAL_ERROR: return TLS_FAILED_INTERNAL;
    case SSL_R_UNEXPECTED_EOF_WHILE_READING: return TLS_FAILED_LEFT;
    default: return TLS_FAILED_PROTOCOL;
    }
}

static void note_alert(struct tls_session *s, unsigned long code)
{
    int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;

    if (reason > SSL_AD_REASON_OFFSET)
        s->alert = reason - SSL_AD_REASON_OFFSET;
}

static const char *host_of(const struct tls_session *s)
{
    const char *name = SSL_get0_peername(s->ssl);

    return name != NULL ? name : SSL_get_servername(s->ssl, TLSEXT_NAMETYPE_host_name);
}

/* TLS 1.2 has no alert of its own for who shows no certificate: the server said whose it wants. */
static bool was_asked_in_vain(const struct tls_session *s)
{
    return SSL_get_certificate(s->ssl) == NULL &&
           sk_X509_NAME_num(SSL_get0_peer_CA_list(s->ssl)) > 0;
}

const char *tls_session_refusal(const struct tls_session *s)
{
    bool has_own = SSL_get_certificate(s->ssl) != NULL;

    switch (s->alert) {
    case 0: return NULL;
    case SSL_AD_CERTIFICATE_REQUIRED:
        return "the server wants a certificate of its callers, and there was none";
    case SSL_AD_HANDSHAKE_FAILURE:
        if (was_asked_in_vain(s))
            return "the server wants a certificate of its callers, and there was none";
        if (SSL_get0_peer_certificate(s->ssl) == NULL)
            return "the server refused to speak TLS (handshake failure): http:// may be meant";
        break;
    case SSL_AD_UNKNOWN_CA:
        if (has_own)
            return "the server does not know the authority of our certificate (unknown ca)";
        break;
    case SSL_AD_CERTIFICATE_EXPIRED:
        if (has_own)
            return "our certificate has expired, says the server (certificate expired)";
        break;
    case SSL_AD_CERTIFICATE_REVOKED:
        if (has_own)
            return "our certificate was revoked, says the server (certificate revoked)";
        break;
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
        if (has_own)
            return "our certificate is not for callers, says the server (unsupported certificate)";
        break;
    case SSL_AD_BAD_CERTIFICATE:
        if (has_own)
            return "the server does not take our certificate: not valid yet? (bad certificate)";
        break;
    default: break;
    }
    return SSL_alert_desc_string_long(s->alert);
}

/* Fills err and failure from OpenSSL's queue. */
COLD static void say_failure(struct tls_session *s, int error, struct err *err)
{
    unsigned long code = ERR_peek_error();
    long verdict = SSL_get_verify_result(s->ssl);
    char reason[160];

    s->has_failed = true;
    if (code == 0) {
        s->failure = TLS_FAILED_LEFT;
        err_set(err, E_UNAVAILABLE, "the peer closed the connection during the TLS handshake%s",
                error == SSL_ERROR_SYSCALL ? "" : " (it said good-bye)");
        return;
    }
    s->failure = failure_of(s, code);
    note_alert(s, code);
    tls_reason(reason, sizeof reason);
    switch (s->failure) {
    case TLS_FAILED_CERTIFICATE:
        if (verdict != X509_V_OK)
            err_set(err, E_UNAUTHENTICATED, "the %s certificate%s%.100s is not accepted: %s",
                    s->server != NULL ? "client's" : "server's",
                    s->server == NULL && host_of(s) != NULL ? " for " : "",
                    s->server == NULL && host_of(s) != NULL ? host_of(s) : "",
                    X509_verify_cert_error_string(verdict));
        else
            err_set(err, E_UNAUTHENTICATED, "the client's certificate is not accepted: %s", reason);
        break;
    case TLS_FAILED_ALERT:
        err_set(err, E_UNAVAILABLE, "the peer refused the TLS handshake: %s",
                s->server == NULL && s->alert != 0 ? tls_session_refusal(s) : reason);
        break;
    case TLS_FAILED_LEFT:
        err_set(err, E_UNAVAILABLE, "the peer closed the connection during the TLS handshake");
        break;
    case TLS_FAILED_INTERNAL: err_set(err, E_INTERNAL, "TLS failed: %s", reason); break;
    case TLS_FAILED_VERSION:
        if (s->server == NULL && ERR_GET_REASON(code) == SSL_R_WRONG_VERSION_NUMBER) {
            err_set(err, E_UNAVAILABLE, "what answers there does not speak TLS: http:// may be meant");
            break;
        }
        err_set(err, E_UNAVAILABLE, "the TLS handshake failed: %s", reason);
        break;
    default: err_set(err, E_UNAVAILABLE, "the TLS handshake failed: %s", reason);
    }
}

/* RFC 5077 and RFC 8446 let a ticket outlive the certificate that it stands for: not here. */
static bool peer_is_current(const struct tls_session *s, const X509 *x509)
{
    return !SSL_session_reused(s->ssl) ||
           (X509_cmp_current_time(X509_get0_notAfter(x509)) > 0 &&
            X509_cmp_current_time(X509_get0_notBefore(x509)) < 0);
}

static enum tls_step open_session(struct tls_session *s, struct err *err)
{
    X509 *x509 = SSL_get0_peer_certificate(s->ssl);

    s->is_open = true;
    s->raw_bytes = 0;
    tls_snapshot_give(&s->snapshot);
    if (x509 == NULL || SSL_get_verify_result(s->ssl) != X509_V_OK)
        return TLS_DONE; /* unverified ones get here only where anybody is believed */
    s->has_failed = true;
    if (!peer_is_current(s, x509)) {
        s->failure = TLS_FAILED_CERTIFICATE;
        err_set(err, E_UNAUTHENTICATED, "the %s certificate has expired since the session began",
                s->server != NULL ? "client's" : "server's");
        return TLS_FAILED;
    }
    if (s->server != NULL && tls_certificate_read(&s->certificate, &s->names, x509, err) != OK) {
        s->failure = err->code == E_EXHAUSTED ? TLS_FAILED_INTERNAL : TLS_FAILED_CERTIFICATE;
        return TLS_FAILED;
    }
    s->has_failed = false;
    return TLS_DONE;
}

/* Nothing has come that this session could know of, and that no event tells of later. */
static bool is_still_drained(struct tls_session *s)
{
    bool is_drained = s->drained_turn != 0 && s->drained_turn == loop_turn() && !s->fin_seen;

    s->drained_turn = 0;
    return is_drained;
}

enum tls_step tls_handshake(struct tls_session *s, struct err *err)
{
    s->is_drained = is_still_drained(s);
    s->raw_bytes = 0;
    clear_errors();
    int done = SSL_do_handshake(s->ssl);
    if (done == 1) {
        s->drained_turn = s->is_drained ? loop_turn() : 0;
        return open_session(s, err);
    }
    int error = SSL_get_error(s->ssl, done);
    switch (error) {
    case SSL_ERROR_WANT_READ:
        if (LIKELY(s->raw_bytes <= IDLE_RAW_BYTES_MAX))
            return TLS_WANTS_READ;
        s->has_failed = true;
        s->failure = TLS_FAILED_PROTOCOL;
        err_set(err, E_INVALID, "the TLS handshake has more than %d bytes", IDLE_RAW_BYTES_MAX);
        return TLS_FAILED;
    case SSL_ERROR_WANT_WRITE: return TLS_WANTS_WRITE;
    default: say_failure(s, error, err); return TLS_FAILED;
    }
}

enum tls_failure tls_session_failure(const struct tls_session *s)
{
    return s->failure;
}

enum tls_alpn tls_session_alpn(const struct tls_session *s)
{
    const unsigned char *name;
    unsigned size;

    SSL_get0_alpn_selected(s->ssl, &name, &size);
    return size == 2 ? TLS_ALPN_HTTP2 : size > 0 ? TLS_ALPN_HTTP1 : TLS_ALPN_NONE;
}

bool tls_session_is_resumed(const struct tls_session *s)
{
    return SSL_session_reused(s->ssl) == 1;
}

const char *tls_session_version(const struct tls_session *s)
{
    return SSL_get_version(s->ssl);
}

const struct certificate *tls_session_certificate(const struct tls_session *s)
{
    return s->certificate;
}

/* -- bytes ---------------------------------------------------------------------------------------- */

/* What a call that brought nothing means for the caller. */
COLD static ssize_t ended(struct tls_session *s, int error)
{
    unsigned long code = ERR_peek_error();

    note_alert(s, code);
    ERR_clear_error();
    if (error == SSL_ERROR_ZERO_RETURN) {
        s->at_end = true;
        return 0;
    }
    s->has_failed = true;
    return code == 0 || ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING ? -ECONNRESET
                                                                                   : -EPROTO;
}

ssize_t tls_recv(struct tls_session *s, void *into, size_t size)
{
    uint8_t *at = into;
    size_t got = 0, part;

    if (UNLIKELY(s->has_failed || s->at_end))
        return s->at_end ? 0 : -EPROTO;
    s->is_drained = UNLIKELY(s->drained_turn != 0) && is_still_drained(s);
    s->reads_when_writable = false;
    s->raw_bytes = 0;
    clear_errors();
    while (got < size) {
        if (LIKELY(SSL_read_ex(s->ssl, at + got, size - got, &part) == 1)) {
            got += part;
            s->raw_bytes = 0;
            if (s->is_drained && SSL_has_pending(s->ssl) == 0)
                break;
            continue;
        }
        int error = SSL_get_error(s->ssl, 0);
        ssize_t result = -EAGAIN;
        if (UNLIKELY(error == SSL_ERROR_WANT_WRITE)) {
            s->reads_when_writable = true;
        } else if (UNLIKELY(error != SSL_ERROR_WANT_READ)) {
            result = ended(s, error);
        } else if (UNLIKELY(s->raw_bytes > IDLE_RAW_BYTES_MAX)) {
            s->has_failed = true;
            result = -EPROTO;
        }
        if (got > 0)
            break;
        /* There is no request yet whose answer could take it along. */
        if (UNLIKELY(s->held != NULL))
            (void)send_held(s, NULL, 0);
        return result;
    }
    return (ssize_t)got;
}

ssize_t tls_discard(struct tls_session *s, size_t size)
{
    uint8_t rest[RECORD_BYTES];
    size_t sum = 0;

    while (sum < size) {
        size_t asked = MIN(size - sum, sizeof rest);
        ssize_t got = tls_recv(s, rest, asked);
        if (got <= 0)
            return sum > 0 ? (ssize_t)sum : got;
        sum += (size_t)got;
        if ((size_t)got < asked)
            break;
    }
    return (ssize_t)sum;
}

bool tls_has_more(const struct tls_session *s)
{
    return s->has_failed || s->at_end;
}

bool tls_holds(const struct tls_session *s)
{
    return SSL_has_pending(s->ssl) == 1;
}

void tls_expect_end(struct tls_session *s)
{
    s->fin_seen = true;
}

bool tls_reads_when_writable(const struct tls_session *s)
{
    return s->reads_when_writable;
}

/* What is left of the pieces: `at` bytes of the first are used. */
struct rest {
    const struct iovec *pieces;
    size_t count, at;
};

static void use(struct rest *rest, size_t size)
{
    while (rest->count > 0 && size >= rest->pieces->iov_len - rest->at) {
        size -= rest->pieces->iov_len - rest->at;
        rest->pieces++;
        rest->count--;
        rest->at = 0;
    }
    rest->at += size;
}

/* Copies so much of what is left, or all there is. */
static size_t gather(const struct rest *rest, uint8_t *record, size_t most)
{
    struct rest from = *rest;
    size_t size = 0;

    while (from.count > 0 && size < most) {
        size_t part = MIN(from.pieces->iov_len - from.at, most - size);
        memcpy(record + size, (const uint8_t *)from.pieces->iov_base + from.at, part);
        size += part;
        use(&from, part);
    }
    return size;
}

/* Seals one record and sends it. 0: the socket does not take it yet. */
static ssize_t seal(struct tls_session *s, const uint8_t *data, size_t size)
{
    size_t sent;

    if (LIKELY(SSL_write_ex(s->ssl, data, size, &sent) == 1)) {
        s->refused = 0;
        return (ssize_t)sent;
    }
    int error = SSL_get_error(s->ssl, 0);
    if (LIKELY(error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ)) {
        s->refused = size;
        return 0;
    }
    ERR_clear_error();
    s->has_failed = true;
    return -EPIPE;
}

/* How much the next record takes: what was refused is exactly that again. */
static size_t record_size(const struct tls_session *s, const struct rest *rest)
{
    size_t first = rest->pieces->iov_len - rest->at;

    if (UNLIKELY(s->refused != 0))
        return s->refused;
    return rest->count == 1 ? MIN(first, (size_t)RECORD_BYTES) : RECORD_BYTES;
}

ssize_t tls_send_pieces(struct tls_session *s, const struct iovec *pieces, size_t count)
{
    struct rest rest = { pieces, count, 0 };
    size_t sum = 0;

    if (UNLIKELY(s->has_failed))
        return -EPIPE;
    clear_errors();
    use(&rest, 0);
    while (rest.count > 0) {
        const uint8_t *data = (const uint8_t *)rest.pieces->iov_base + rest.at;
        size_t size = record_size(s, &rest);
        ssize_t sent;
        if (size <= rest.pieces->iov_len - rest.at) {
            sent = seal(s, data, size);
        } else {
            uint8_t record[RECORD_BYTES];
            size_t gathered = gather(&rest, record, size);
            require(gathered >= s->refused);
            sent = seal(s, record, gathered);
        }
        if (UNLIKELY(sent < 0))
            return sent;
        if (sent == 0)
            break;
        sum += (size_t)sent;
        use(&rest, (size_t)sent);
    }
    return sum == 0 && count > 0 ? -EAGAIN : (ssize_t)sum;
}

ssize_t tls_send(struct tls_session *s, const void *data, size_t size)
{
    struct iovec piece = { (void *)(uintptr_t)data, size };

    return tls_send_pieces(s, &piece, size > 0);
}

void tls_say_end(struct tls_session *s)
{
    if (!s->is_open || s->has_failed)
        return;
    clear_errors();
    (void)SSL_shutdown(s->ssl);
    ERR_clear_error();
}
