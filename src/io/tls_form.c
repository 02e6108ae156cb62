/* tls_form.c - what a file is that was taken for something else. SPDX-License-Identifier: Apache-2.0
 *
 * Certificates and keys come in several forms, and from tools that tell nobody which. Whoever gives the
 * wrong one is told what it is, and the line of `openssl` that makes the right one of it. This is asked
 * only when a file could not be used.
 */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>

#include "io/tls_internal.h"

enum { DER_SEQUENCE = 0x30 };

/* The word behind the first "-----BEGIN ". */
static enum tls_form form_of_pem(struct slice label)
{
    static const struct {
        const char *label;
        enum tls_form form;
    } labels[] = {
        { "CERTIFICATE-----", TLS_FORM_CERT },
        { "X509 CERTIFICATE-----", TLS_FORM_CERT },
        { "TRUSTED CERTIFICATE-----", TLS_FORM_CERT },
        { "CERTIFICATE REQUEST-----", TLS_FORM_REQUEST },
        { "NEW CERTIFICATE REQUEST-----", TLS_FORM_REQUEST },
        { "X509 CRL-----", TLS_FORM_LIST },
        { "PUBLIC KEY-----", TLS_FORM_PUBLIC_KEY },
        { "RSA PUBLIC KEY-----", TLS_FORM_PUBLIC_KEY },
        { "PRIVATE KEY-----", TLS_FORM_KEY },
        { "EC PRIVATE KEY-----", TLS_FORM_KEY },
        { "RSA PRIVATE KEY-----", TLS_FORM_KEY },
        { "ENCRYPTED PRIVATE KEY-----", TLS_FORM_KEY },
        { "OPENSSH PRIVATE KEY-----", TLS_FORM_OPENSSH_KEY },
        { "EC PARAMETERS-----", TLS_FORM_KEY }, /* `openssl ecparam -genkey` puts them in front */
        { "PKCS7-----", TLS_FORM_PKCS7 },
    };

    for (size_t i = 0; i < COUNT(labels); i++)
        if (slice_starts(label, labels[i].label))
            return labels[i].form;
    return TLS_FORM_UNKNOWN;
}

static enum tls_form form_of_der(struct slice bytes)
{
    const unsigned char *at = bytes.data;
    enum tls_form form = TLS_FORM_UNKNOWN;
    X509 *x509 = d2i_X509(NULL, &at, (long)bytes.size);
    X509_CRL *list =
        x509 != NULL ? NULL : (at = bytes.data, d2i_X509_CRL(NULL, &at, (long)bytes.size));
    PKCS12 *both = list != NULL || x509 != NULL
                       ? NULL
                       : (at = bytes.data, d2i_PKCS12(NULL, &at, (long)bytes.size));

    if (x509 != NULL)
        form = TLS_FORM_CERT_DER;
    else if (list != NULL)
        form = TLS_FORM_LIST_DER;
    else if (both != NULL)
        form = TLS_FORM_PKCS12;
    X509_free(x509);
    X509_CRL_free(list);
    PKCS12_free(both);
    if (form == TLS_FORM_UNKNOWN) {
        at = bytes.data;
        EVP_PKEY *key = d2i_AutoPrivateKey(NULL, &at, (long)bytes.size);
        form = key != NULL ? TLS_FORM_KEY_DER : TLS_FORM_UNKNOWN;
        EVP_PKEY_free(key);
    }
    return form;
}

enum tls_form tls_form_of(struct slice bytes)
{
    static const char begin[] = "-----BEGIN ";
    enum tls_form form = TLS_FORM_UNKNOWN;

    if (bytes.size == 0)
        return TLS_FORM_EMPTY;
    const uint8_t *found = memmem(bytes.data, bytes.size, begin, sizeof begin - 1);
    if (found != NULL)
        form = form_of_pem(slice_skip(bytes, (size_t)(found - bytes.data) + sizeof begin - 1));
    else if (bytes.data[0] == DER_SEQUENCE)
        form = form_of_der(bytes);
    ERR_clear_error();
    return form;
}

static const char *word_of(enum tls_form form)
{
    return form == TLS_FORM_KEY    ? "a private key"
           : form == TLS_FORM_LIST ? "a list of revoked certificates"
                                   : "a certificate";
}

enum err_code tls_form_refuse(const char *path, struct slice bytes, enum tls_form wanted,
                              const char *reason, struct err *err)
{
    static const enum err_code code = E_PRECONDITION;
    enum tls_form form = tls_form_of(bytes);
    const char *word = word_of(wanted), *tool = "pkey";

    if (form == wanted)
        return err_set(err, code, "%s is %s that cannot be read: %s; is the file whole?", path,
                       word, reason);
    switch (form) {
    case TLS_FORM_EMPTY:
        return err_set(err, code, "%s is empty: it takes %s in PEM form", path, word);
    case TLS_FORM_CERT:
    case TLS_FORM_KEY:
    case TLS_FORM_LIST:
        return err_set(err, code, "%s is %s, and %s is wanted%s", path, word_of(form), word,
                       form == TLS_FORM_LIST || wanted == TLS_FORM_LIST
                           ? ""
                           : ": the order is CERT,KEY");
    case TLS_FORM_CERT_DER: tool = "x509"; break;
    case TLS_FORM_LIST_DER: tool = "crl"; break;
    case TLS_FORM_KEY_DER: break;
    case TLS_FORM_OPENSSH_KEY:
        return err_set(
            err, code,
            "%s is a key in the form of OpenSSH, and PEM is wanted: `ssh-keygen -p -m PKCS8 "
            "-f COPY` turns a copy of it into that",
            path);
    case TLS_FORM_PUBLIC_KEY:
        return err_set(err, code, "%s is a public key, and %s is wanted", path, word);
    case TLS_FORM_REQUEST:
        return err_set(
            err, code,
            "%s is a request for a certificate (CSR): the certificate is what the authority "
            "makes of it",
            path);
    case TLS_FORM_PKCS7:
        return err_set(
            err, code,
            "%s is in PKCS#7 form, and PEM is wanted: `openssl pkcs7 -print_certs -in %s "
            "-out NEW.pem`",
            path, path);
    case TLS_FORM_PKCS12:
        return err_set(
            err, code,
            "%s is a PKCS#12 file, and PEM is wanted: `openssl pkcs12 -in %s -nokeys -out "
            "NEW.pem` takes out the certificate, `openssl pkcs12 -in %s -nocerts -nodes "
            "-out NEW.key` the key",
            path, path, path);
    case TLS_FORM_UNKNOWN:
        return err_set(err, code, "%s has not %s in PEM form: %s", path, word, reason);
    }
    return err_set(
        err, code,
        "%s is in DER form, and PEM is wanted: `openssl %s -inform DER -in %s -out NEW.%s`", path,
        tool, path, form == TLS_FORM_KEY_DER ? "key" : "pem");
}
