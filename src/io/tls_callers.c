/* tls_callers.c - whose certificates are good: authorities, and lists of what they revoked.
 * SPDX-License-Identifier: Apache-2.0
 *
 * With lists, every certificate of a caller's chain is looked up in its authority's (RFC 5280 6.3), and where
 * there is none, or its time is over, the answer is no. So that an authority without a list, or half a file,
 * is found out by whoever runs the server and not by callers, each authority must have its list here, and
 * each list must be signed by one of them; else the files are refused, and the former stay.
 *
 * A ticket lets a caller come back without showing anything. What it was verified by is sealed into it: the
 * digest of these files, and until when all of it holds. Where both are still so, the verdict would be the
 * same, and is not asked for again; else the certificate is verified anew, and if it is not good now (or its
 * chain lies not here) the handshake becomes a full one, in which the caller must show it.
 */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/env.h"
#include "io/tls_internal.h"

enum { LIST_FILE_BYTES_MAX = 16 * 1024 * 1024, LISTS_MAX = 64, NAME_SHOWN = 200, DEPTH_MAX = 5 };
enum { WARNINGS_MAX = 8 }; /* of authorities, in one go */

/* What a ticket carries. Behind a restart, or at another server with the same keys, it means the same. */
struct verified {
    uint8_t by[TLS_DIGEST_BYTES];
    uint64_t until_s;
};

static enum err_code no_memory(struct err *err)
{
    ERR_clear_error();
    return err_set(err, E_EXHAUSTED, "no memory for the authorities of callers");
}

static enum err_code digest_of(uint8_t out[TLS_DIGEST_BYTES], const void *head, size_t head_size,
                               struct slice first, struct slice second, struct err *err)
{
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    uint64_t size = first.size;
    bool is_fine = digest != NULL && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
                   EVP_DigestUpdate(digest, head, head_size) == 1 &&
                   EVP_DigestUpdate(digest, &size, sizeof size) == 1 &&
                   EVP_DigestUpdate(digest, first.data, first.size) == 1 &&
                   EVP_DigestUpdate(digest, second.data, second.size) == 1 &&
                   EVP_DigestFinal_ex(digest, out, NULL) == 1;

    EVP_MD_CTX_free(digest);
    return is_fine ? OK : no_memory(err);
}

/* -- authorities ------------------------------------------------------------------------------------ */

/* Is that the end of the file, and not a block that is broken? Empties OpenSSL's queue. */
static bool was_end(char *reason, size_t size)
{
    unsigned long code = ERR_peek_last_error();
    bool is_end = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;

    tls_reason(reason, size);
    return is_end;
}

enum err_code tls_authorities_add(X509_STORE *store, STACK_OF(X509_NAME) * names, const char *path,
                                  struct slice bytes, struct err *err)
{
    BIO *in = BIO_new_mem_buf(bytes.data, (int)bytes.size);
    enum err_code code = in == NULL ? no_memory(err) : OK;
    uint32_t count = 0;
    char reason[160];

    ERR_clear_error();
    for (X509 *x509; code == OK && (x509 = PEM_read_bio_X509_AUX(in, NULL, NULL, NULL)) != NULL;
         X509_free(x509)) {
        X509_NAME *name = names == NULL ? NULL : X509_NAME_dup(X509_get_subject_name(x509));
        count++;
        if (X509_STORE_add_cert(store, x509) != 1 ||
            (names != NULL && (name == NULL || sk_X509_NAME_push(names, name) <= 0))) {
            X509_NAME_free(name);
            code = no_memory(err);
        }
    }
    if (code == OK && (!was_end(reason, sizeof reason) || count == 0)) {
        if (count == 0)
            code = tls_form_refuse(path, bytes, TLS_FORM_CERT, reason, err);
        else
            code = err_set(err, E_PRECONDITION, "%s: certificate %u cannot be read: %s", path,
                           count + 1, reason);
    }
    BIO_free(in);
    return code;
}

/* -- lists -------------------------------------------------------------------------------------------- */

static const char *shown(const X509_NAME *name, char out[NAME_SHOWN])
{
    BIO *bio = BIO_new(BIO_s_mem());
    int size = 0;

    if (bio != NULL && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) >= 0)
        size = BIO_read(bio, out, NAME_SHOWN - 1);
    out[MAX(size, 0)] = '\0';
    BIO_free(bio);
    return out;
}

static uint64_t seconds_of(const ASN1_TIME *time)
{
    struct tm tm = { 0 };

    if (time == NULL || ASN1_TIME_to_tm(time, &tm) != 1)
        return 0;
    return (uint64_t)MAX(timegm(&tm), (time_t)0);
}

static const char *day_of(uint64_t seconds, char out[32])
{
    time_t time = (time_t)seconds;
    struct tm tm;

    out[0] = '\0';
    if (gmtime_r(&time, &tm) != NULL)
        strftime(out, 32, "%Y-%m-%d %H:%M UTC", &tm);
    return out;
}

/* The authority that signed it, as one of the certificates here says; NULL: none. */
static X509 *signer_of(STACK_OF(X509) * authorities, X509_CRL *list)
{
    for (int i = 0; i < sk_X509_num(authorities); i++) {
        X509 *x509 = sk_X509_value(authorities, i);
        if (X509_NAME_cmp(X509_get_subject_name(x509), X509_CRL_get_issuer(list)) == 0 &&
            X509_CRL_verify(list, X509_get0_pubkey(x509)) == 1)
            return x509;
    }
    ERR_clear_error();
    return NULL;
}

/* RFC 5280 6.3.3: a list is by its authority, of this time, and whole. */
static enum err_code judge_list(struct tls_callers *callers, STACK_OF(X509) * authorities,
                                X509_CRL *list, const char *path, uint64_t wall_s, struct err *err)
{
    const ASN1_TIME *next = X509_CRL_get0_nextUpdate(list);
    uint64_t until_s = next == NULL ? UINT64_MAX : seconds_of(next);
    char name[NAME_SHOWN], day[32];

    shown(X509_CRL_get_issuer(list), name);
    if (X509_CRL_get_ext_by_NID(list, NID_delta_crl, -1) >= 0)
        return err_set(err, E_PRECONDITION,
                       "%s: the list of %s tells changes only (a delta CRL): a whole one is wanted",
                       path, name);
    if (signer_of(authorities, list) == NULL)
        return err_set(err, E_PRECONDITION,
                       "%s: the list of %s is not signed by an authority of --tls-client-ca", path,
                       name);
    if (seconds_of(X509_CRL_get0_lastUpdate(list)) > wall_s)
        return err_set(err, E_PRECONDITION, "%s: the list of %s begins to hold at %s", path, name,
                       day_of(seconds_of(X509_CRL_get0_lastUpdate(list)), day));
    if (until_s <= wall_s)
        return err_set(err, E_PRECONDITION,
                       "%s: the list of %s has expired at %s: its authority has a newer one", path,
                       name, day_of(until_s, day));
    if (until_s < callers->list_until_s)
        callers->list_until_s = until_s;
    return X509_STORE_add_crl(callers->store, list) == 1 ? OK : no_memory(err);
}

static enum err_code find_missing(STACK_OF(X509) * authorities, STACK_OF(X509_CRL) * lists,
                                  const char *path, struct err *err)
{
    char name[NAME_SHOWN];

    for (int i = 0; i < sk_X509_num(authorities); i++) {
        X509_NAME *subject = X509_get_subject_name(sk_X509_value(authorities, i));
        bool has = false;
        for (int j = 0; j < sk_X509_CRL_num(lists) && !has; j++)
            has = X509_NAME_cmp(subject, X509_CRL_get_issuer(sk_X509_CRL_value(lists, j))) == 0;
        if (!has)
            return err_set(err, E_PRECONDITION,
                           "%s has no list of %s: each authority of --tls-client-ca needs its own, "
                           "one behind the other",
                           path, shown(subject, name));
    }
    return OK;
}

static enum err_code read_lists(STACK_OF(X509_CRL) * lists, const char *path, struct slice bytes,
                                struct err *err)
{
    BIO *in = BIO_new_mem_buf(bytes.data, (int)bytes.size);
    enum err_code code = in == NULL ? no_memory(err) : OK;
    char reason[160];

    ERR_clear_error();
    for (X509_CRL *list;
         code == OK && (list = PEM_read_bio_X509_CRL(in, NULL, NULL, NULL)) != NULL;) {
        if (sk_X509_CRL_num(lists) < LISTS_MAX && sk_X509_CRL_push(lists, list) > 0)
            continue;
        X509_CRL_free(list);
        code = err_set(err, E_PRECONDITION, "%s has more than %d lists", path, LISTS_MAX);
    }
    if (code == OK && !was_end(reason, sizeof reason))
        code = err_set(err, E_PRECONDITION, "%s: list %d cannot be read: %s; is the file whole?",
                       path, sk_X509_CRL_num(lists) + 1, reason);
    else if (code == OK && sk_X509_CRL_num(lists) == 0)
        code = tls_form_refuse(path, bytes, TLS_FORM_LIST, reason, err);
    BIO_free(in);
    return code;
}

static enum err_code use_lists(struct tls_callers *callers, const char *path, struct slice bytes,
                               uint64_t wall_s, struct err *err)
{
    STACK_OF(X509_CRL) *lists = sk_X509_CRL_new_null();
    STACK_OF(X509) *authorities = X509_STORE_get1_all_certs(callers->store);
    enum err_code code = lists == NULL || authorities == NULL ? no_memory(err) : OK;

    if (code == OK)
        code = read_lists(lists, path, bytes, err);
    for (int i = 0; code == OK && i < sk_X509_CRL_num(lists); i++)
        code = judge_list(callers, authorities, sk_X509_CRL_value(lists, i), path, wall_s, err);
    if (code == OK)
        code = find_missing(authorities, lists, path, err);
    if (code == OK && X509_STORE_set_flags(callers->store,
                                           X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL) != 1)
        code = no_memory(err);
    sk_X509_CRL_pop_free(lists, X509_CRL_free);
    sk_X509_pop_free(authorities, X509_free);
    return code;
}

/* -- all of it ---------------------------------------------------------------------------------------- */

static enum err_code load(struct tls_callers *callers, const struct tls_server_settings *settings,
                          struct slice authorities, struct slice lists, uint64_t wall_s,
                          struct err *err)
{
    uint32_t auth = (uint32_t)settings->client_auth;

    TRY(digest_of(callers->rules, &auth, sizeof auth, authorities, slice_make(NULL, 0), err));
    TRY(digest_of(callers->files, &auth, sizeof auth, authorities, lists, err));
    if (settings->client_ca[0] == '\0')
        return OK;
    callers->store = X509_STORE_new();
    callers->names = sk_X509_NAME_new_null();
    if (callers->store == NULL || callers->names == NULL)
        return no_memory(err);
    if (tls_authorities_add(callers->store, callers->names, settings->client_ca, authorities,
                            err) != OK)
        return err_wrap(err, "--tls-client-ca");
    if (settings->client_crl[0] != '\0' &&
        use_lists(callers, settings->client_crl, lists, wall_s, err) != OK)
        return err_wrap(err, "--tls-client-crl");
    return OK;
}

static enum err_code read_file(struct buf **ret, const char *path, size_t most, const char *option,
                               struct err *err)
{
    if (path[0] == '\0' || file_read(ret, NULL, path, most, err) == OK)
        return OK;
    if (err->code == E_INVALID) /* the file, and not what was asked for */
        err->code = E_PRECONDITION;
    return err_wrap(err, "%s", option);
}

enum err_code tls_callers_load(struct tls_callers *callers,
                               const struct tls_server_settings *settings, uint64_t wall_s,
                               struct err *err)
{
    CLEANUP(buf_unref) struct buf *authorities = NULL;
    CLEANUP(buf_unref) struct buf *lists = NULL;

    callers->list_until_s = UINT64_MAX;
    TRY(read_file(&authorities, settings->client_ca, TLS_FILE_BYTES_MAX, "--tls-client-ca", err));
    TRY(read_file(&lists, settings->client_crl, LIST_FILE_BYTES_MAX, "--tls-client-crl", err));
    return load(callers, settings,
                authorities != NULL ? buf_bytes(authorities) : slice_make(NULL, 0),
                lists != NULL ? buf_bytes(lists) : slice_make(NULL, 0), wall_s, err);
}

/* Why callers whose certificates it signed are refused; NULL: they are not. */
static const char *flaw_of(X509 *x509, uint64_t wall_s)
{
    if (tls_certificate_expires_s(x509) <= wall_s)
        return "has expired";
    if (tls_certificate_begins_s(x509) > wall_s)
        return "is not valid yet (is the clock of this machine right?)";
    if (X509_check_ca(x509) == 0 && X509_self_signed(x509, 0) != 1)
        return "is no authority but somebody's own certificate: the one that signed it is meant";
    return NULL;
}

void tls_callers_warn(const struct tls_callers *callers, const char *path, uint64_t wall_s)
{
    STACK_OF(X509) *all = callers->store == NULL ? NULL : X509_STORE_get1_all_certs(callers->store);
    uint32_t count = 0;
    char name[NAME_SHOWN];

    for (int i = 0; i < sk_X509_num(all); i++) {
        X509 *x509 = sk_X509_value(all, i);
        const char *flaw = flaw_of(x509, wall_s);
        if (flaw != NULL && ++count <= WARNINGS_MAX)
            log_error("--tls-client-ca: %s: %s %s: callers whose certificates it signed are "
                      "refused",
                      path, shown(X509_get_subject_name(x509), name), flaw);
    }
    if (count > WARNINGS_MAX)
        log_error("--tls-client-ca: %s: and %u more of them", path, count - WARNINGS_MAX);
    ERR_clear_error();
    sk_X509_pop_free(all, X509_free);
}

void tls_callers_deinit(struct tls_callers *callers)
{
    X509_STORE_free(callers->store);
    sk_X509_NAME_pop_free(callers->names, X509_NAME_free);
    *callers = (struct tls_callers){ 0 };
}

/* -- in a handshake ------------------------------------------------------------------------------------ */

static const struct tls_callers *callers_of(const SSL *ssl)
{
    const struct tls_session *s = tls_session_of(ssl);

    return s == NULL || s->snapshot == NULL ? NULL : &s->snapshot->callers;
}

static uint64_t wall_s_of(const SSL *ssl)
{
    struct env *env = tls_session_of(ssl)->server->env;

    return env->wall_ns(env) / NS_PER_S;
}

/* How long what was verified now holds: the soonest end of a list, or of a certificate of the chain. */
static uint64_t holds_until(const struct tls_callers *callers, STACK_OF(X509) * chain)
{
    uint64_t until_s = callers->list_until_s;

    for (int i = 0; i < sk_X509_num(chain); i++)
        until_s = MIN(until_s, tls_certificate_expires_s(sk_X509_value(chain, i)));
    return until_s;
}

static bool note(SSL_SESSION *session, const struct tls_callers *callers, STACK_OF(X509) * chain)
{
    struct verified verified = { .until_s = holds_until(callers, chain) };

    memcpy(verified.by, callers->files, sizeof verified.by);
    return SSL_SESSION_set1_ticket_appdata(session, &verified, sizeof verified) == 1;
}

/* A ticket is about to be sealed. That of a resumed session keeps what it says, or was told anew below. */
static int on_seal(SSL *ssl, void *context)
{
    const struct tls_callers *callers = callers_of(ssl);
    SSL_SESSION *session = SSL_get_session(ssl);

    (void)context;
    if (callers == NULL || SSL_session_reused(ssl) || SSL_SESSION_get0_peer(session) == NULL)
        return 1;
    return note(session, callers, SSL_get0_verified_chain(ssl));
}

static bool was_verified(SSL_SESSION *session, const struct tls_callers *callers, uint64_t wall_s)
{
    const struct verified *sealed;
    struct verified verified;
    void *data = NULL;
    size_t size = 0;

    if (SSL_SESSION_get0_ticket_appdata(session, &data, &size) != 1 || size != sizeof verified)
        return false;
    sealed = data;
    memcpy(&verified, sealed, sizeof verified);
    return memcmp(verified.by, callers->files, sizeof verified.by) == 0 &&
           wall_s < verified.until_s;
}

static bool is_good_now(SSL_SESSION *session, const struct tls_callers *callers)
{
    X509_STORE_CTX *check = X509_STORE_CTX_new();
    bool is_good =
        check != NULL &&
        X509_STORE_CTX_init(check, callers->store, SSL_SESSION_get0_peer(session), NULL) == 1 &&
        X509_STORE_CTX_set_default(check, "ssl_client") == 1;

    if (is_good)
        X509_STORE_CTX_set_depth(check, DEPTH_MAX);
    is_good = is_good && X509_verify_cert(check) == 1 &&
              note(session, callers, X509_STORE_CTX_get0_chain(check));
    X509_STORE_CTX_free(check);
    ERR_clear_error();
    return is_good;
}

/* A ticket was opened, or could not be. */
static SSL_TICKET_RETURN on_open(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
                                 size_t name_size, SSL_TICKET_STATUS status, void *context)
{
    const struct tls_callers *callers = callers_of(ssl);

    (void)name, (void)name_size, (void)context;
    if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    if (callers == NULL)
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    if (SSL_SESSION_get0_peer(session) == NULL || was_verified(session, callers, wall_s_of(ssl)))
        return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
    return is_good_now(session, callers) ? SSL_TICKET_RETURN_USE_RENEW
                                         : SSL_TICKET_RETURN_IGNORE_RENEW;
}

enum err_code tls_callers_serve(const struct tls_callers *callers, enum tls_client_auth auth,
                                SSL_CTX *context, struct err *err)
{
    /* Tickets say whether a client was asked for its certificate, and by whom it had to be signed: those of
     * other rules are no good here. */
    if (SSL_CTX_set_session_id_context(context, callers->rules, sizeof callers->rules) != 1)
        return no_memory(err);
    if (callers->store == NULL || auth == TLS_CLIENT_NONE)
        return OK;
    STACK_OF(X509_NAME) *names = SSL_dup_CA_list(callers->names);
    if (names == NULL || SSL_CTX_set_session_ticket_cb(context, on_seal, on_open, NULL) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return no_memory(err);
    }
    SSL_CTX_set_client_CA_list(context, names);
    SSL_CTX_set1_cert_store(context, callers->store);
    SSL_CTX_set_verify(context,
                       SSL_VERIFY_PEER |
                           (auth == TLS_CLIENT_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                       NULL);
    SSL_CTX_set_verify_depth(context, DEPTH_MAX);
    return OK;
}
