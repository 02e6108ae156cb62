/* tls_client.c - the calling side. SPDX-License-Identifier: Apache-2.0 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "io/tls_internal.h"

enum { NAME_BYTES_MAX = 253 };

struct tls_client {
    SSL_CTX *context; /* owned */
    bool is_insecure;
};

static enum err_code trust_file(SSL_CTX *context, const char *path, struct err *err)
{
    uint8_t *bytes;
    size_t size;

    TRY(tls_file_read(&bytes, &size, path, err));
    enum err_code code = tls_authorities_add(SSL_CTX_get_cert_store(context), NULL, path,
                                             slice_make(bytes, size), err);
    mem_free(bytes);
    return code;
}

static enum err_code trust(SSL_CTX *context, const char *path, struct err *err)
{
    char reason[160];
    struct stat st;
    bool is_system = path == NULL || path[0] == '\0';

    if (!is_system && !(stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
        return trust_file(context, path, err);
    if ((is_system ? SSL_CTX_set_default_verify_paths(context)
                   : SSL_CTX_load_verify_dir(context, path)) == 1)
        return OK;
    tls_reason(reason, sizeof reason);
    return err_set(err, E_PRECONDITION, "%s has no certificates of authorities in PEM form: %s",
                   is_system ? "the system's folder" : path, reason);
}

static enum err_code show(SSL_CTX *context, const char *cert, const char *key, struct err *err)
{
    struct tls_identity identity = { .context = context };

    if (cert == NULL || cert[0] == '\0')
        return OK;
    if (key == NULL || key[0] == '\0')
        key = cert; /* both may stand in one file */
    if (SSL_CTX_up_ref(context) != 1)
        return err_set(err, E_EXHAUSTED, "no memory for TLS");
    enum err_code code = tls_identity_load(&identity, cert, key, err);
    tls_identity_deinit(&identity);
    return code;
}

enum err_code tls_client_new(struct tls_client **ret, const struct tls_client_settings *settings,
                             struct err *err)
{
    struct tls_client *client = mem_zalloc(sizeof *client);
    enum err_code code = OK;

    if (client == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for TLS");
    client->is_insecure = settings->is_insecure;
    client->context = tls_context_new(TLS_client_method(), err);
    if (client->context == NULL)
        code = err->code;
    if (code == OK && !settings->is_insecure)
        code = trust(client->context, settings->ca, err);
    if (code == OK)
        code = show(client->context, settings->cert, settings->key, err);
    if (code != OK) {
        tls_client_free(&client);
        return code;
    }
    SSL_CTX_set_verify(client->context, settings->is_insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER,
                       NULL);
    SSL_CTX_set_session_cache_mode(client->context, SSL_SESS_CACHE_OFF);
    *ret = client;
    return OK;
}

void tls_client_free(struct tls_client **slot)
{
    struct tls_client *client = TAKE(*slot);

    if (client == NULL)
        return;
    SSL_CTX_free(client->context);
    mem_free(client);
}

/* Whom we mean: in SNI if it is a name (RFC 6066 3), and in the certificate. */
static bool expect_name(const struct tls_client *client, SSL *ssl, const char *name)
{
    bool is_address = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;

    ERR_clear_error();
    if (is_address)
        return true;
    if (SSL_set_tlsext_host_name(ssl, name) != 1)
        return false;
    if (client->is_insecure)
        return true;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1;
}

enum err_code tls_connect(struct tls_session **ret, struct tls_client *client, int fd,
                          struct slice name, uint32_t offers, struct err *err)
{
    static const unsigned char alpn[] = "\x02h2\x08http/1.1";
    static const struct {
        size_t at, size;
    } parts[4] = { { 0, 0 }, { 3, 9 }, { 0, 3 }, { 0, 12 } };
    char host[NAME_BYTES_MAX + 1];
    struct tls_session *s;

    if (name.size >= 2 && name.data[0] == '[' && name.data[name.size - 1] == ']')
        name = slice_make(name.data + 1, name.size - 2);
    if (slice_ends(name, "."))
        name.size--;
    if (name.size == 0 || name.size > NAME_BYTES_MAX || slice_find(name, '\0') < name.size)
        return err_set(err, E_INVALID, "'%.*s' is no name of a host", (int)MIN(name.size, 100ul),
                       (const char *)name.data);
    memcpy(host, name.data, name.size);
    host[name.size] = '\0';
    TRY(tls_session_make(&s, client->context, fd, err));
    SSL_set_connect_state(s->ssl);
    offers &= 3;
    if (!expect_name(client, s->ssl, host) ||
        (offers != 0 && SSL_set_alpn_protos(s->ssl, alpn + parts[offers].at,
                                            (unsigned)parts[offers].size) != 0)) {
        tls_session_free(&s);
        return err_set(err, E_EXHAUSTED, "no memory for a TLS connection");
    }
    *ret = s;
    return OK;
}
