/* tls_files.c - certificates, keys and OCSP answers as files. SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/tls_internal.h"

enum { CHAIN_MAX = 10, OCSP_SKEW_S = 300 };

enum err_code tls_file_read(uint8_t **ret, size_t *ret_size, const char *path, struct err *err)
{
    CLEANUP(buf_unref) struct buf *buf = NULL;

    if (file_read(&buf, NULL, path, TLS_FILE_BYTES_MAX, err) != OK) {
        if (err->code == E_INVALID) /* the file, and not what was asked for */
            err->code = E_PRECONDITION;
        return err->code;
    }
    struct slice bytes = buf_bytes(buf);
    uint8_t *copy = mem_alloc(bytes.size + 1);
    if (copy == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to read %s", path);
    memcpy(copy, bytes.data, bytes.size);
    copy[bytes.size] = '\0';
    OPENSSL_cleanse(buf_fill(buf), bytes.size);
    *ret = copy;
    *ret_size = bytes.size;
    return OK;
}

bool tls_stamp_look(struct tls_stamp *stamp)
{
    struct tls_stamp now = { .path = stamp->path };
    struct stat st;

    if (stat(stamp->path, &st) == 0) {
        now.is_there = true;
        now.device = st.st_dev;
        now.inode = st.st_ino;
        now.size = st.st_size;
        now.changed = st.st_ctim;
        now.written = st.st_mtim;
    }
    bool is_other = now.is_there != stamp->is_there || now.device != stamp->device ||
                    now.inode != stamp->inode || now.size != stamp->size ||
                    now.changed.tv_sec != stamp->changed.tv_sec ||
                    now.changed.tv_nsec != stamp->changed.tv_nsec ||
                    now.written.tv_sec != stamp->written.tv_sec ||
                    now.written.tv_nsec != stamp->written.tv_nsec;
    *stamp = now;
    return is_other;
}

/* -- names ---------------------------------------------------------------------------------------- */

static enum err_code add_name(struct tls_identity *identity, const ASN1_STRING *value,
                              struct err *err)
{
    struct slice text =
        slice_make(ASN1_STRING_get0_data(value), (size_t)MAX(ASN1_STRING_length(value), 0));

    if (text.size == 0 || slice_find(text, '\0') < text.size ||
        identity->names_count == TLS_NAMES_MAX)
        return OK; /* nobody can ask for it */
    char *name = mem_strndup(text.data, text.size);
    if (name == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the names of a certificate");
    for (char *at = name; *at != '\0'; at++)
        *at = (char)(*at >= 'A' && *at <= 'Z' ? *at | 0x20 : *at);
    identity->names[identity->names_count++] = name;
    return OK;
}

/* The DNS names of subjectAltName; the common name where there is no such extension. */
static enum err_code read_names(struct tls_identity *identity, struct err *err)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(identity->x509, NID_subject_alt_name, NULL, NULL);
    X509_NAME *subject = X509_get_subject_name(identity->x509);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    enum err_code code = OK;

    for (int i = 0; code == OK && i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        const ASN1_STRING *value =
            GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        if (type == GEN_DNS)
            code = add_name(identity, value, err);
    }
    if (names == NULL && at >= 0)
        code = add_name(identity, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)), err);
    GENERAL_NAMES_free(names);
    return code;
}

bool tls_identity_has_name(const struct tls_identity *identity, struct slice host)
{
    size_t dot = slice_find(host, '.');

    for (uint32_t i = 0; i < identity->names_count; i++) {
        struct slice name = slice_of(identity->names[i]);
        if (slice_is_nocase(host, identity->names[i]))
            return true;
        if (slice_starts(name, "*.") && dot > 0 && dot < host.size &&
            slice_is_nocase(slice_skip(host, dot), identity->names[i] + 1))
            return true;
    }
    return false;
}

/* -- certificate and key -------------------------------------------------------------------------- */

void tls_identity_deinit(struct tls_identity *identity)
{
    SSL_CTX_free(identity->context);
    X509_free(identity->x509);
    X509_free(identity->issuer);
    for (uint32_t i = 0; i < identity->names_count; i++)
        mem_free(identity->names[i]);
    mem_free(identity->cert_path);
    mem_free(identity->ocsp);
    *identity = (struct tls_identity){ 0 };
}

/* Nobody is there to be asked for the password of a key. */
static int no_password(char *out, int size, int is_writing, void *context)
{
    (void)out, (void)size, (void)is_writing;
    *(bool *)context = true;
    return -1;
}

static enum err_code use_chain(struct tls_identity *identity, BIO *in, const char *path,
                               struct slice bytes, struct err *err)
{
    char reason[160];
    uint32_t count = 0;

    identity->x509 = PEM_read_bio_X509_AUX(in, NULL, NULL, NULL);
    if (identity->x509 == NULL) {
        tls_reason(reason, sizeof reason);
        return tls_form_refuse(path, bytes, TLS_FORM_CERT, reason, err);
    }
    if (SSL_CTX_use_certificate(identity->context, identity->x509) != 1) {
        tls_reason(reason, sizeof reason);
        return err_set(err, E_PRECONDITION, "the certificate %s cannot be used: %s", path, reason);
    }
    for (X509 *next; (next = PEM_read_bio_X509(in, NULL, NULL, NULL)) != NULL; count++) {
        bool is_fine = count < CHAIN_MAX && SSL_CTX_add1_chain_cert(identity->context, next) == 1;
        if (is_fine && identity->issuer == NULL &&
            X509_check_issued(next, identity->x509) == X509_V_OK)
            identity->issuer = next;
        else
            X509_free(next);
        if (!is_fine)
            return err_set(err, E_PRECONDITION, "%s: the chain has more than %d certificates", path,
                           CHAIN_MAX);
    }
    unsigned long code = ERR_peek_last_error();
    if (ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE) {
        ERR_clear_error(); /* the end of the file */
        return OK;
    }
    tls_reason(reason, sizeof reason);
    return err_set(err, E_PRECONDITION, "%s: certificate %u of the chain cannot be read: %s", path,
                   count + 2, reason);
}

static enum err_code use_key(struct tls_identity *identity, BIO *in, const char *cert_path,
                             const char *path, struct slice bytes, struct err *err)
{
    bool has_password = false;
    char reason[160];
    EVP_PKEY *key = PEM_read_bio_PrivateKey(in, NULL, no_password, &has_password);

    if (key == NULL) {
        tls_reason(reason, sizeof reason);
        if (has_password)
            return err_set(err, E_PRECONDITION,
                           "%s is encrypted, and there is nobody to ask for its password: "
                           "`openssl pkey -in %s -out NEW.key` writes it without one",
                           path, path);
        return tls_form_refuse(path, bytes, TLS_FORM_KEY, reason, err);
    }
    bool is_fine = SSL_CTX_use_PrivateKey(identity->context, key) == 1 &&
                   SSL_CTX_check_private_key(identity->context) == 1;
    EVP_PKEY_free(key);
    if (is_fine)
        return OK;
    tls_reason(reason, sizeof reason);
    return err_set(
        err, E_PRECONDITION,
        "the key %s is not that of the certificate %s, which is the first in its file: %s", path,
        cert_path, reason);
}

static void warn_of_readers(const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0 && (st.st_mode & 007) != 0)
        log_warn("the private key %s can be read by everybody on this machine: chmod 600 %s", path,
                 path);
}

static enum err_code load(struct tls_identity *identity, const char *cert_path,
                          const char *key_path, struct slice cert, struct slice key,
                          struct err *err)
{
    BIO *cert_in = BIO_new_mem_buf(cert.data, (int)cert.size);
    BIO *key_in = BIO_new_mem_buf(key.data, (int)key.size);
    enum err_code code = OK;

    ERR_clear_error();
    if (cert_in == NULL || key_in == NULL)
        code = err_set(err, E_EXHAUSTED, "no memory to read %s", cert_path);
    if (code == OK)
        code = use_chain(identity, cert_in, cert_path, cert, err);
    if (code == OK)
        code = use_key(identity, key_in, cert_path, key_path, key, err);
    if (code == E_PRECONDITION && tls_form_of(cert) == TLS_FORM_KEY &&
        tls_form_of(key) == TLS_FORM_CERT)
        code =
            err_set(err, code,
                    "the two are swapped: %s is the key and %s the certificate, and the order is "
                    "CERT,KEY",
                    cert_path, key_path);
    BIO_free(cert_in);
    BIO_free(key_in);
    return code;
}

enum err_code tls_identity_load(struct tls_identity *identity, const char *cert_path,
                                const char *key_path, struct err *err)
{
    uint8_t *cert = NULL, *key = NULL;
    size_t cert_size = 0, key_size = 0;
    enum err_code code = tls_file_read(&cert, &cert_size, cert_path, err);

    if (code == OK)
        code = tls_file_read(&key, &key_size, key_path, err);
    if (code == OK)
        code = load(identity, cert_path, key_path, slice_make(cert, cert_size),
                    slice_make(key, key_size), err);
    if (key != NULL)
        OPENSSL_cleanse(key, key_size);
    mem_free(key);
    mem_free(cert);
    TRY(code);
    warn_of_readers(key_path);
    TRY(read_names(identity, err));
    identity->expires_s = tls_certificate_expires_s(identity->x509);
    identity->cert_path = mem_strdup(cert_path);
    return identity->cert_path != NULL ? OK : err_set(err, E_EXHAUSTED, "no memory for a path");
}

/* -- OCSP (RFC 6960) -------------------------------------------------------------------------------- */

static uint64_t seconds_of(const ASN1_GENERALIZEDTIME *time)
{
    struct tm tm = { 0 };

    if (time == NULL || ASN1_TIME_to_tm(time, &tm) != 1)
        return 0;
    return (uint64_t)MAX(timegm(&tm), (time_t)0);
}

/* Signed by the issuer, or by whom the issuer lets sign; without the issuer in the chain that is the
 * clients' to see, as they must anyway. */
static bool is_signed(OCSP_BASICRESP *basic, X509 *issuer)
{
    X509_STORE *store = X509_STORE_new();
    STACK_OF(X509) *certs = sk_X509_new_null();
    bool is_fine = false;

    if (store != NULL && certs != NULL && X509_STORE_add_cert(store, issuer) == 1 &&
        sk_X509_push(certs, issuer) > 0) {
        X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
        is_fine = OCSP_basic_verify(basic, certs, store, 0) == 1;
    }
    sk_X509_free(certs);
    X509_STORE_free(store);
    return is_fine;
}

static const char *judge_ocsp(struct tls_identity *identity, OCSP_BASICRESP *basic, uint64_t wall_s)
{
    const ASN1_INTEGER *serial = X509_get0_serialNumber(identity->x509);
    ASN1_GENERALIZEDTIME *revoked, *this_update, *next_update;
    OCSP_SINGLERESP *single = NULL;
    int reason;

    for (int i = 0; i < OCSP_resp_count(basic) && single == NULL; i++) {
        OCSP_SINGLERESP *candidate = OCSP_resp_get0(basic, i);
        ASN1_INTEGER *number = NULL;
        OCSP_id_get0_info(NULL, NULL, NULL, &number,
                          (OCSP_CERTID *)(uintptr_t)OCSP_SINGLERESP_get0_id(candidate));
        if (number != NULL && ASN1_INTEGER_cmp(number, serial) == 0)
            single = candidate;
    }
    if (single == NULL)
        return "it is about another certificate";
    if (identity->issuer != NULL && !is_signed(basic, identity->issuer))
        return "it is not signed by who signed the certificate";
    int status = OCSP_single_get0_status(single, &reason, &revoked, &this_update, &next_update);
    if (seconds_of(this_update) > wall_s + OCSP_SKEW_S)
        return "it is of the future";
    if (next_update != NULL && seconds_of(next_update) <= wall_s)
        return "it is too old";
    if (status == V_OCSP_CERTSTATUS_REVOKED)
        log_error("%s has been revoked, says its OCSP answer: clients that look will refuse it",
                  identity->cert_path);
    identity->ocsp_until_s = next_update != NULL ? seconds_of(next_update) : UINT64_MAX;
    return NULL;
}

enum err_code tls_identity_load_ocsp(struct tls_identity *identity, const char *path,
                                     uint64_t wall_s, struct err *err)
{
    const char *why = "it is no OCSP answer in DER form";
    OCSP_BASICRESP *basic = NULL;
    uint8_t *bytes;
    size_t size;

    TRY(tls_file_read(&bytes, &size, path, err));
    const unsigned char *at = bytes;
    OCSP_RESPONSE *response = d2i_OCSP_RESPONSE(NULL, &at, (long)size);
    if (response != NULL && OCSP_response_status(response) != OCSP_RESPONSE_STATUS_SUCCESSFUL)
        why = "it says that the responder failed";
    else if (response != NULL && (basic = OCSP_response_get1_basic(response)) != NULL)
        why = judge_ocsp(identity, basic, wall_s);
    OCSP_BASICRESP_free(basic);
    OCSP_RESPONSE_free(response);
    ERR_clear_error();
    if (why != NULL) {
        mem_free(bytes);
        return err_set(err, E_PRECONDITION, "the OCSP answer %s is not shown to clients: %s", path,
                       why);
    }
    identity->ocsp = bytes;
    identity->ocsp_size = size;
    return OK;
}
