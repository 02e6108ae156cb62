/* tls_certificate.c - the names of a peer's certificate. SPDX-License-Identifier: Apache-2.0
 *
 * Whoever signs for --tls-client-ca decided which names stand in a certificate, but not how they are
 * read: a name with a NUL, a control byte or a blank in it could look like another one in a rule or a log,
 * so such a certificate is refused as a whole.
 */
#include <arpa/inet.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/mem.h"
#include "io/tls_internal.h"

enum { ARENA_BYTES = 1024, ARENA_CAP = 64 * 1024, NAME_BYTES_MAX = 1024 };

static uint64_t seconds_of(const ASN1_TIME *time)
{
    struct tm tm = { 0 };

    if (time == NULL || ASN1_TIME_to_tm(time, &tm) != 1)
        return 0;
    time_t seconds = timegm(&tm);
    return seconds < 0 ? 0 : (uint64_t)seconds;
}

uint64_t tls_certificate_expires_s(const X509 *x509)
{
    return seconds_of(X509_get0_notAfter(x509));
}

uint64_t tls_certificate_begins_s(const X509 *x509)
{
    return seconds_of(X509_get0_notBefore(x509));
}

static bool is_printable(struct slice text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] <= ' ' || text.data[i] >= 0x7f)
            return false;
    return text.size > 0 && text.size <= NAME_BYTES_MAX;
}

/* "10.0.0.1", "2001:db8::1"; empty: neither length. */
static const char *address_of(struct slice bytes, char *out, size_t room)
{
    out[0] = '\0';
    if (bytes.size == 4)
        snprintf(out, room, "%u.%u.%u.%u", bytes.data[0], bytes.data[1], bytes.data[2],
                 bytes.data[3]);
    else if (bytes.size == 16) {
        struct in6_addr v6;
        memcpy(&v6, bytes.data, sizeof v6);
        inet_ntop(AF_INET6, &v6, out, (socklen_t)room);
    }
    return out;
}

static enum err_code read_name(struct certificate *c, struct arena *arena, const GENERAL_NAME *name,
                               struct err *err)
{
    char address[INET6_ADDRSTRLEN];
    const char *kind;
    int type;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &type);
    struct slice text = { 0 };

    switch (type) {
    case GEN_DNS: kind = "dns"; break;
    case GEN_URI: kind = "uri"; break;
    case GEN_EMAIL: kind = "email"; break;
    case GEN_IPADD: kind = "ip"; break;
    default: return OK; /* names of other kinds identify nobody here */
    }
    text = slice_make(ASN1_STRING_get0_data(value), (size_t)MAX(ASN1_STRING_length(value), 0));
    if (type == GEN_IPADD)
        text = slice_of(address_of(text, address, sizeof address));
    if (!is_printable(text))
        return err_set(err, E_UNAUTHENTICATED,
                       "the client's certificate has a %s name that is empty, longer than %d bytes "
                       "or not printable",
                       kind, NAME_BYTES_MAX);
    if (c->names_count == CERTIFICATE_NAMES_MAX)
        return err_set(err, E_UNAUTHENTICATED,
                       "the client's certificate has more than %d names in subjectAltName",
                       CERTIFICATE_NAMES_MAX);
    char *copy = arena_printf(arena, "%s:%.*s", kind, SLICE_ARG(text));
    if (copy == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the names of a certificate");
    for (char *at = copy; type == GEN_DNS && *at != '\0'; at++)
        *at = (char)(*at >= 'A' && *at <= 'Z' ? *at | 0x20 : *at);
    c->names[c->names_count++] = slice_of(copy);
    return OK;
}

static enum err_code read_names(struct certificate *c, struct arena *arena, X509 *x509,
                                struct err *err)
{
    int critical;
    GENERAL_NAMES *names = X509_get_ext_d2i(x509, NID_subject_alt_name, &critical, NULL);
    enum err_code code = OK;

    /* -1: there is none; else it could not be read, or stands there twice */
    if (names == NULL && critical != -1)
        return err_set(err, E_UNAUTHENTICATED,
                       "the subjectAltName of the client's certificate cannot be read");
    for (int i = 0; code == OK && i < sk_GENERAL_NAME_num(names); i++)
        code = read_name(c, arena, sk_GENERAL_NAME_value(names, i), err);
    GENERAL_NAMES_free(names);
    return code;
}

static enum err_code read_subject(struct certificate *c, struct arena *arena, X509 *x509,
                                  struct err *err)
{
    BIO *out = BIO_new(BIO_s_mem());
    char *text = NULL, *copy = NULL;

    if (out != NULL &&
        X509_NAME_print_ex(out, X509_get_subject_name(x509), 0, XN_FLAG_RFC2253) >= 0) {
        long size = BIO_get_mem_data(out, &text);
        copy = arena_strndup(arena, text, MIN((size_t)MAX(size, 0L), (size_t)NAME_BYTES_MAX));
    }
    BIO_free(out);
    if (copy == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the subject of a certificate");
    c->subject = slice_of(copy);
    return OK;
}

enum err_code tls_certificate_read(struct certificate **ret, struct arena **ret_arena, X509 *x509,
                                   struct err *err)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(ARENA_BYTES, ARENA_CAP);
    struct certificate *c = arena == NULL ? NULL : arena_zalloc(arena, sizeof *c);
    unsigned size = 0;

    if (c == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a certificate");
    TRY(read_names(c, arena, x509, err));
    TRY(read_subject(c, arena, x509, err));
    _Static_assert(CERTIFICATE_DIGEST_BYTES == 32, "SHA-256");
    if (X509_digest(x509, EVP_sha256(), c->digest, &size) != 1 || size != sizeof c->digest)
        return err_set(err, E_EXHAUSTED, "no memory for the digest of a certificate");
    c->expires_s = tls_certificate_expires_s(x509);
    *ret = c;
    *ret_arena = TAKE(arena);
    return OK;
}
