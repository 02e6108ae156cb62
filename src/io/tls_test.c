/* tls_test.c - both sides of TLS over a pair of sockets, with certificates made here.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/channel.h"
#include "io/env.h"
#include "io/tls_auto.h"
#include "io/tls_internal.h"
#include "test/harness.h"

/* -- certificates --------------------------------------------------------------------------------- */

struct made {
    X509 *x509;
    EVP_PKEY *key;
};

static char folder[64];
static struct made ca; /* until the end: for certificates that do not last */

static const char *in_folder(const char *name)
{
    static char paths[512][160]; /* more than one case asks for */
    static unsigned next;
    char *path = paths[next++ % COUNT(paths)];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void extend(X509 *x509, X509 *issuer, int kind, const char *value)
{
    X509V3_CTX context;

    X509V3_set_ctx(&context, issuer, x509, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    require(extension != NULL && X509_add_ext(x509, extension, -1) == 1);
    X509_EXTENSION_free(extension);
}

/* Valid from `from` to `to` seconds from now; signed by `issuer`, NULL: by itself, as an authority. */
static struct made make(const char *name, const char *alt, const struct made *issuer, long from,
                        long to)
{
    static long serial = 1;
    struct made made = { X509_new(), EVP_EC_gen("P-256") };

    X509_set_version(made.x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made.x509), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made.x509), from);
    X509_gmtime_adj(X509_getm_notAfter(made.x509), to);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(made.x509), "CN", MBSTRING_UTF8,
                               (const unsigned char *)name, -1, -1, 0);
    X509_set_pubkey(made.x509, made.key);
    X509_set_issuer_name(made.x509,
                         X509_get_subject_name(issuer == NULL ? made.x509 : issuer->x509));
    if (issuer == NULL)
        extend(made.x509, made.x509, NID_basic_constraints, "critical,CA:TRUE");
    if (alt != NULL)
        extend(made.x509, made.x509, NID_subject_alt_name, alt);
    require(X509_sign(made.x509, issuer == NULL ? made.key : issuer->key, EVP_sha256()) > 0);
    return made;
}

static void unmake(struct made *made)
{
    X509_free(made->x509);
    EVP_PKEY_free(made->key);
}

static void write_cert(const char *name, const struct made *made)
{
    FILE *file = fopen(in_folder(name), "w");

    require(file != NULL && PEM_write_X509(file, made->x509) == 1);
    fclose(file);
}

static void write_key(const char *name, const struct made *made)
{
    FILE *file = fopen(in_folder(name), "w");

    require(file != NULL &&
            PEM_write_PKCS8PrivateKey(file, made->key, NULL, NULL, 0, NULL, NULL) == 1);
    fclose(file);
    chmod(in_folder(name), 0600);
}

static void write_bytes(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(in_folder(name), "w");

    require(file != NULL && fwrite(bytes, 1, size, file) == size);
    fclose(file);
    chmod(in_folder(name), 0600);
}

enum { YEAR = 365 * 86400 };

/* All the files that the tests speak of. */
static void make_all(void)
{
    if (folder[0] != '\0')
        return;
    snprintf(folder, sizeof folder, "/tmp/penstock-tls-XXXXXX");
    require(mkdtemp(folder) != NULL);
    ca = make("test authority", NULL, NULL, -3600, YEAR);
    struct made other = make("another authority", NULL, NULL, -3600, YEAR);
    struct made first = make("first", "DNS:first.test,IP:127.0.0.1,IP:::1", &ca, -3600, YEAR);
    struct made second = make("second", "DNS:second.test,DNS:*.wild.test", &ca, -3600, YEAR);
    struct made expired = make("expired", "DNS:first.test", &ca, -7200, -3600);
    struct made client =
        make("a client",
             "DNS:Client.Test,URI:spiffe://test/ns/x,email:a@client.test,IP:10.0.0.1,IP:2001:db8::1",
             &ca, -3600, YEAR);
    struct made late = make("late", "DNS:client.test", &ca, -7200, -3600);
    struct made stranger = make("stranger", "DNS:client.test", &other, -3600, YEAR);
    struct made nameless = make("nameless", NULL, &ca, -3600, YEAR);
    struct made odd = make("odd", "DNS:a b.test", &ca, -3600, YEAR);
    const struct {
        const char *name;
        const struct made *made;
    } all[] = { { "ca", &ca },         { "other", &other },       { "first", &first },
                { "second", &second }, { "expired", &expired },   { "client", &client },
                { "late", &late },     { "stranger", &stranger }, { "nameless", &nameless },
                { "odd", &odd } };
    for (size_t i = 0; i < COUNT(all); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.pem", all[i].name);
        write_cert(name, all[i].made);
        snprintf(name, sizeof name, "%s.key", all[i].name);
        write_key(name, all[i].made);
    }
    struct made *owned[] = { &other, &first,    &second,   &expired, &client,
                             &late,  &stranger, &nameless, &odd };
    for (size_t i = 0; i < COUNT(owned); i++)
        unmake(owned[i]);
}

__attribute__((destructor)) static void clean_up(void)
{
    char command[128];

    if (folder[0] == '\0')
        return;
    unmake(&ca);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        perror(command);
}

/* -- a clock of our own ------------------------------------------------------------------------------ */

static struct env *env_of_test(void)
{
    return env_real();
}

/* -- servers and clients ----------------------------------------------------------------------------- */

static const char *pair_of(const char *name)
{
    static char texts[4][400];
    static unsigned next;
    char *text = texts[next++ % COUNT(texts)];

    snprintf(text, sizeof texts[0], "%s/%s.pem,%s/%s.key", folder, name, folder, name);
    return text;
}

static struct tls_server_settings settings_of(const char *const *pairs, uint32_t count)
{
    return (struct tls_server_settings){
        .pairs = pairs,
        .pairs_count = count,
        .directory = "",
        .client_ca = "",
        .ticket_keys = "",
        .ticket_ns = UINT64_C(3600000000000),
    };
}

static struct tls_server *server_of(const char *const *pairs, uint32_t count)
{
    struct tls_server_settings settings = settings_of(pairs, count);
    struct tls_server *server = NULL;
    struct err err = { 0 };

    check(tls_server_new(&server, env_of_test(), &settings, &err) == OK, "%s", err.text);
    return server;
}

static struct tls_server *simple_server(void)
{
    make_all();
    const char *pairs[] = { pair_of("first") };

    return server_of(pairs, 1);
}

static struct tls_client *client_of(const char *authority, const char *name, bool is_insecure)
{
    struct tls_client *client = NULL;
    char cert[160] = "", key[160] = "";
    struct err err = { 0 };

    if (name != NULL) {
        snprintf(cert, sizeof cert, "%s/%s.pem", folder, name);
        snprintf(key, sizeof key, "%s/%s.key", folder, name);
    }
    struct tls_client_settings settings = {
        .ca = authority == NULL ? "" : in_folder(authority),
        .cert = cert,
        .key = key,
        .is_insecure = is_insecure,
    };
    check(tls_client_new(&client, &settings, &err) == OK, "%s", err.text);
    return client;
}

struct link {
    struct channel server, client;
    enum tls_step server_step, client_step;
    struct err server_err, client_err;
};

static void link_open(struct link *link, struct tls_server *server, struct tls_client *client,
                      const char *name, uint32_t offers)
{
    int fds[2];
    struct err err = { 0 };

    *link = (struct link){ .server_step = TLS_WANTS_READ, .client_step = TLS_WANTS_READ };
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    link->server = channel_plain(fds[0]);
    link->client = channel_plain(fds[1]);
    check(tls_accept(&link->server.tls, server, fds[0], slice_make(NULL, 0), false, &err) == OK,
          "%s", err.text);
    check(tls_connect(&link->client.tls, client, fds[1], slice_of(name), offers, &err) == OK, "%s",
          err.text);
}

/* Until both are done, or one has failed and the other has heard of it. */
static bool link_shake(struct link *link)
{
    for (int i = 0; i < 20; i++) {
        if (link->client_step != TLS_DONE && link->client_step != TLS_FAILED)
            link->client_step = tls_handshake(link->client.tls, &link->client_err);
        if (link->server_step != TLS_DONE && link->server_step != TLS_FAILED)
            link->server_step = tls_handshake(link->server.tls, &link->server_err);
    }
    return link->client_step == TLS_DONE && link->server_step == TLS_DONE;
}

static void link_close(struct link *link)
{
    channel_close(&link->client, false);
    channel_close(&link->server, false);
}

/* -- the handshake ------------------------------------------------------------------------------------ */

TEST(both_sides_agree)
{
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);
    struct link link;

    link_open(&link, server, client, "first.test", TLS_OFFER_HTTP1 | TLS_OFFER_HTTP2);
    check(link_shake(&link), "%s / %s", link.client_err.text, link.server_err.text);
    check(strcmp(tls_session_version(link.server.tls), "TLSv1.3") == 0, "1.3");
    check(tls_session_alpn(link.server.tls) == TLS_ALPN_HTTP2, "h2 first");
    check(!tls_session_is_resumed(link.server.tls), "a full one");
    check(tls_session_certificate(link.server.tls) == NULL, "nobody was asked");
    link_close(&link);
    tls_client_free(&client);
    tls_server_free(&server);
}

TEST(alpn)
{
    static const struct {
        uint32_t offers;
        enum tls_alpn alpn;
    } cases[] = {
        { 0, TLS_ALPN_NONE },
        { TLS_OFFER_HTTP1, TLS_ALPN_HTTP1 },
        { TLS_OFFER_HTTP2, TLS_ALPN_HTTP2 },
        { TLS_OFFER_HTTP1 | TLS_OFFER_HTTP2, TLS_ALPN_HTTP2 },
    };
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);
    struct link link;

    for (size_t i = 0; i < COUNT(cases); i++) {
        link_open(&link, server, client, "first.test", cases[i].offers);
        check(link_shake(&link), "case %zu: %s", i, link.server_err.text);
        check(tls_session_alpn(link.server.tls) == cases[i].alpn &&
                  tls_session_alpn(link.client.tls) == cases[i].alpn,
              "case %zu", i);
        link_close(&link);
    }
    /* RFC 7301 3.2: no_application_protocol, and no connection without one. */
    link_open(&link, server, client, "first.test", 0);
    SSL_set_alpn_protos(link.client.tls->ssl, (const unsigned char *)"\x04smtp", 5);
    check(!link_shake(&link), "smtp is not spoken here");
    check(link.server_step == TLS_FAILED &&
              tls_session_failure(link.server.tls) == TLS_FAILED_ALPN,
          "%s", link.server_err.text);
    check(link.client_step == TLS_FAILED &&
              tls_session_failure(link.client.tls) == TLS_FAILED_ALERT &&
              strstr(link.client_err.text, "no application protocol") != NULL,
          "%s", link.client_err.text);
    link_close(&link);
    tls_client_free(&client);
    tls_server_free(&server);
}

TEST(versions_and_ciphers)
{
    static const struct {
        int least, most;
        const char *ciphers;
        bool is_fine;
    } cases[] = {
        { TLS1_3_VERSION, TLS1_3_VERSION, NULL, true },
        { TLS1_2_VERSION, TLS1_2_VERSION, NULL, true },
        { TLS1_2_VERSION, TLS1_2_VERSION, "ECDHE-ECDSA-CHACHA20-POLY1305", true },
        { TLS1_2_VERSION, TLS1_2_VERSION, "AES128-GCM-SHA256", false },        /* no ECDHE */
        { TLS1_2_VERSION, TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA256", false }, /* no AEAD */
        { TLS1_VERSION, TLS1_1_VERSION, "ALL:@SECLEVEL=0", false },
    };
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);
    struct link link;

    for (size_t i = 0; i < COUNT(cases); i++) {
        link_open(&link, server, client, "first.test", TLS_OFFER_HTTP2);
        SSL *ssl = link.client.tls->ssl;
        check(SSL_set_min_proto_version(ssl, cases[i].least) == 1 &&
                  SSL_set_max_proto_version(ssl, cases[i].most) == 1 &&
                  (cases[i].ciphers == NULL || SSL_set_cipher_list(ssl, cases[i].ciphers) == 1),
              "case %zu", i);
        check(link_shake(&link) == cases[i].is_fine, "case %zu: %s / %s", i, link.client_err.text,
              link.server_err.text);
        if (!cases[i].is_fine)
            check(link.server_step == TLS_FAILED && link.server_err.text[0] != '\0' &&
                      (tls_session_failure(link.server.tls) == TLS_FAILED_VERSION ||
                       tls_session_failure(link.server.tls) == TLS_FAILED_CIPHER),
                  "case %zu: %d %s", i, tls_session_failure(link.server.tls), link.server_err.text);
        link_close(&link);
    }
    tls_client_free(&client);
    tls_server_free(&server);
}

TEST(the_name_chooses_the_certificate)
{
    static const struct {
        const char *name, *cert;
    } cases[] = {
        { "first.test", "first" },     { "second.test", "second" }, { "SECOND.test", "second" },
        { "a.wild.test", "second" },   { "wild.test", "first" },    { "a.b.wild.test", "first" },
        { "unknown.test", "first" },   { "127.0.0.1", "first" },    { "[::1]", "first" },
        { "second.test.", "second" },
    };
    make_all();
    const char *pairs[] = { pair_of("first"), pair_of("second") };
    struct tls_server *server = server_of(pairs, 2);
    struct tls_client *client = client_of(NULL, NULL, true);
    struct link link;

    for (size_t i = 0; i < COUNT(cases); i++) {
        char name[64] = "";
        link_open(&link, server, client, cases[i].name, 0);
        check(link_shake(&link), "%s: %s", cases[i].name, link.client_err.text);
        X509 *x509 = SSL_get0_peer_certificate(link.client.tls->ssl);
        X509_NAME_get_text_by_NID(X509_get_subject_name(x509), NID_commonName, name, sizeof name);
        check(strcmp(name, cases[i].cert) == 0, "%s: %s", cases[i].name, name);
        link_close(&link);
    }
    tls_client_free(&client);
    tls_server_free(&server);
}

TEST(a_client_believes_no_wrong_certificate)
{
    static const struct {
        const char *ca, *server, *name, *why; /* why NULL: it is right */
    } cases[] = {
        { "ca.pem", "first", "first.test", NULL },
        { "ca.pem", "first", "127.0.0.1", NULL },
        { "ca.pem", "first", "[::1]", NULL },
        { "ca.pem", "first", "second.test", "hostname mismatch" },
        { "ca.pem", "first", "127.0.0.2", "IP address mismatch" },
        { "ca.pem", "second", "a.wild.test", NULL },
        { "ca.pem", "second", "a.b.wild.test", "hostname mismatch" },
        { "ca.pem", "expired", "first.test", "expired" },
        { "other.pem", "first", "first.test", "unable to get local issuer" },
        { "other.pem", "ca", "first.test", "self-signed" },
        { NULL, "first", "first.test", "unable to get local issuer" },
    };
    struct link link;

    make_all();
    log_set_level(LOG_ERROR);
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *pairs[] = { pair_of(cases[i].server) };
        struct tls_server *server = server_of(pairs, 1);
        struct tls_client *client = client_of(cases[i].ca, NULL, false);
        link_open(&link, server, client, cases[i].name, 0);
        check(link_shake(&link) == (cases[i].why == NULL), "case %zu: %s", i, link.client_err.text);
        if (cases[i].why != NULL)
            check(tls_session_failure(link.client.tls) == TLS_FAILED_CERTIFICATE &&
                      strstr(link.client_err.text, cases[i].why) != NULL,
                  "case %zu: %s", i, link.client_err.text);
        link_close(&link);
        tls_client_free(&client);
        tls_server_free(&server);
    }
}

TEST(clients_certificates)
{
    static const struct {
        enum tls_client_auth auth;
        const char *client;
        bool is_fine;
        uint32_t names;
        const char *why;
    } cases[] = {
        { TLS_CLIENT_NONE, "client", true, 0, NULL },
        { TLS_CLIENT_OPTIONAL, NULL, true, 0, NULL },
        { TLS_CLIENT_OPTIONAL, "client", true, 5, NULL },
        { TLS_CLIENT_OPTIONAL, "stranger", false, 0, "unable to get local issuer" },
        { TLS_CLIENT_OPTIONAL, "late", false, 0, "expired" },
        { TLS_CLIENT_REQUIRED, NULL, false, 0, "did not return" },
        { TLS_CLIENT_REQUIRED, "client", true, 5, NULL },
        { TLS_CLIENT_REQUIRED, "nameless", true, 0, NULL },
        { TLS_CLIENT_REQUIRED, "odd", false, 0, "printable" },
        { TLS_CLIENT_REQUIRED, "stranger", false, 0, "unable to get local issuer" },
        { TLS_CLIENT_REQUIRED, "late", false, 0, "expired" },
    };
    static const char *const names[] = { "dns:client.test", "uri:spiffe://test/ns/x",
                                         "email:a@client.test", "ip:10.0.0.1", "ip:2001:db8::1" };
    struct link link;

    make_all();
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *pairs[] = { pair_of("first") };
        struct tls_server_settings settings = settings_of(pairs, 1);
        struct tls_server *server = NULL;
        struct err err = { 0 };
        settings.client_ca = in_folder("ca.pem");
        settings.client_auth = cases[i].auth;
        check(tls_server_new(&server, env_of_test(), &settings, &err) == OK, "%s", err.text);
        struct tls_client *client = client_of("ca.pem", cases[i].client, false);
        link_open(&link, server, client, "first.test", 0);
        link_shake(&link);
        const struct certificate *c = tls_session_certificate(link.server.tls);
        check((link.server_step == TLS_DONE) == cases[i].is_fine, "case %zu: %s", i,
              link.server_err.text);
        if (!cases[i].is_fine)
            check(tls_session_failure(link.server.tls) == TLS_FAILED_CERTIFICATE &&
                      strstr(link.server_err.text, cases[i].why) != NULL && c == NULL,
                  "case %zu: %s", i, link.server_err.text);
        bool is_shown = cases[i].is_fine && cases[i].client != NULL &&
                        cases[i].auth != TLS_CLIENT_NONE;
        check((c != NULL) == is_shown, "case %zu", i);
        check(c == NULL || c->names_count == cases[i].names, "case %zu", i);
        for (uint32_t j = 0; c != NULL && j < c->names_count; j++)
            check(slice_is(c->names[j], names[j]), "%.*s", SLICE_ARG(c->names[j]));
        if (c != NULL && c->names_count > 0)
            check(slice_is(c->subject, "CN=a client") && c->expires_s > 0, "%.*s",
                  SLICE_ARG(c->subject));
        link_close(&link);
        tls_client_free(&client);
        tls_server_free(&server);
    }
}

/* -- tickets -------------------------------------------------------------------------------------------- */

/* Connects with a session of before, NULL: none; reads what came behind the handshake, and gives back the
 * session that the ticket is of. */
static SSL_SESSION *visit(struct tls_server *server, struct tls_client *client,
                          SSL_SESSION *session, bool *ret_is_resumed, struct link *link, int most)
{
    uint8_t bytes[16];

    link_open(link, server, client, "first.test", TLS_OFFER_HTTP1);
    SSL_set_max_proto_version(link->client.tls->ssl, most);
    if (session != NULL)
        SSL_set_session(link->client.tls->ssl, session);
    link_shake(link);
    *ret_is_resumed = link->server_step == TLS_DONE && tls_session_is_resumed(link->server.tls);
    if (link->server_step == TLS_DONE) /* there is no request: the ticket goes alone */
        check(tls_recv(link->server.tls, bytes, sizeof bytes) == -EAGAIN ||
                  link->client_step != TLS_DONE,
              "no request");
    if (link->client_step == TLS_DONE)
        check(tls_recv(link->client.tls, bytes, sizeof bytes) == -EAGAIN ||
                  link->server_step != TLS_DONE,
              "nothing but a ticket");
    /* Else OpenSSL takes a connection that ends without a good-bye for a session that is no good. */
    SSL_set_shutdown(link->client.tls->ssl, SSL_SENT_SHUTDOWN);
    return SSL_get1_session(link->client.tls->ssl);
}

TEST(tickets)
{
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    uint8_t keys[2 * TLS_TICKET_KEY_BYTES];
    struct tls_server_settings settings;
    struct err err = { 0 };
    struct link link;
    bool is_resumed;

    make_all();
    const char *pairs[] = { pair_of("first") };
    memset(keys, 7, sizeof keys);
    memset(keys + TLS_TICKET_KEY_BYTES, 9, TLS_TICKET_KEY_BYTES);
    write_bytes("keys", keys, TLS_TICKET_KEY_BYTES);
    settings = settings_of(pairs, 1);
    settings.ticket_keys = in_folder("keys");
    for (size_t i = 0; i < COUNT(versions); i++) {
        struct tls_server *own = server_of(pairs, 1), *other = server_of(pairs, 1);
        struct tls_server *shared = NULL, *sharing = NULL;
        struct tls_client *client = client_of("ca.pem", NULL, false);
        write_bytes("keys", keys, TLS_TICKET_KEY_BYTES);
        check(tls_server_new(&shared, env_of_test(), &settings, &err) == OK, "%s", err.text);
        check(tls_server_new(&sharing, env_of_test(), &settings, &err) == OK, "%s", err.text);

        SSL_SESSION *session = visit(own, client, NULL, &is_resumed, &link, versions[i]);
        check(!is_resumed, "the first is full");
        link_close(&link);
        SSL_SESSION_free(visit(own, client, session, &is_resumed, &link, versions[i]));
        check(is_resumed, "the second is resumed");
        link_close(&link);
        /* RFC 8446 C.4: who comes back by a ticket gets the next, since it uses each once. */
        SSL_SESSION *second = visit(own, client, session, &is_resumed, &link, versions[i]);
        check(is_resumed, "by the ticket");
        link_close(&link);
        SSL_SESSION_free(visit(own, client, second, &is_resumed, &link, versions[i]));
        check(is_resumed && (versions[i] == TLS1_2_VERSION || second != session),
              "by the ticket of a resumed connection");
        link_close(&link);
        SSL_SESSION_free(second);
        SSL_SESSION_free(visit(other, client, session, &is_resumed, &link, versions[i]));
        check(link.server_step == TLS_DONE && !is_resumed,
              "a ticket of a key that is not known: a full handshake");
        link_close(&link);
        /* A key is forgotten when no ticket of it can be good. */
        uint64_t now = env_real()->mono_ns(env_real());
        tls_tickets_rotate(own->tickets, now + settings.ticket_ns / 2 + 1);
        check(tls_tickets_count(own->tickets) == 2, "two keys");
        SSL_SESSION_free(visit(own, client, session, &is_resumed, &link, versions[i]));
        check(is_resumed, "by the former key");
        link_close(&link);
        tls_tickets_rotate(own->tickets, now + settings.ticket_ns + 2);
        tls_tickets_rotate(own->tickets, now + settings.ticket_ns * 3 / 2 + 3);
        check(tls_tickets_count(own->tickets) <= 3, "old ones go");
        SSL_SESSION_free(visit(own, client, session, &is_resumed, &link, versions[i]));
        check(link.server_step == TLS_DONE && !is_resumed, "by a key that has gone");
        link_close(&link);
        SSL_SESSION_free(session);

        session = visit(shared, client, NULL, &is_resumed, &link, versions[i]);
        link_close(&link);
        SSL_SESSION_free(visit(sharing, client, session, &is_resumed, &link, versions[i]));
        check(is_resumed, "by another server with the same keys");
        link_close(&link);
        /* The file changes: a new key in front, the former behind it. */
        uint8_t both[2 * TLS_TICKET_KEY_BYTES];
        memcpy(both, keys + TLS_TICKET_KEY_BYTES, TLS_TICKET_KEY_BYTES);
        memcpy(both + TLS_TICKET_KEY_BYTES, keys, TLS_TICKET_KEY_BYTES);
        write_bytes("keys", both, sizeof both);
        check(tls_server_reload(sharing, &err) == OK, "%s", err.text);
        SSL_SESSION_free(visit(sharing, client, session, &is_resumed, &link, versions[i]));
        check(is_resumed && tls_tickets_count(sharing->tickets) == 2, "two keys of a file");
        link_close(&link);
        write_bytes("keys", both, sizeof both - 1);
        check(tls_server_reload(sharing, &err) == E_PRECONDITION &&
                  strstr(err.text, "159 bytes") != NULL,
              "%s", err.text);
        SSL_SESSION_free(visit(sharing, client, session, &is_resumed, &link, versions[i]));
        check(is_resumed, "the former keys stay");
        link_close(&link);
        SSL_SESSION_free(session);
        tls_client_free(&client);
        tls_server_free(&own);
        tls_server_free(&other);
        tls_server_free(&shared);
        tls_server_free(&sharing);
    }
}

/* Bytes that the peer has not read yet. */
static bool has_bytes(const struct channel *channel)
{
    uint8_t byte;

    return recv(channel->fd, &byte, 1, MSG_PEEK) == 1;
}

/* One packet and one call of the system less than a ticket that goes alone. */
TEST(a_ticket_of_13_goes_with_the_first_answer)
{
    static const uint8_t filling[4096] = { 0 };
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);
    uint8_t bytes[sizeof filling];
    struct link link;

    link_open(&link, server, client, "first.test", TLS_OFFER_HTTP1);
    check_or_stop(link_shake(&link), "%s", link.server_err.text);
    check(!has_bytes(&link.client), "the ticket waits");
    check(tls_send(link.client.tls, "request", 7) == 7, "asked");
    check(tls_recv(link.server.tls, bytes, sizeof bytes) == 7 && !has_bytes(&link.client),
          "for the answer to what was asked");
    check(tls_send(link.server.tls, "answer", 6) == 6, "answered");
    check(tls_recv(link.client.tls, bytes, sizeof bytes) == 6 && memcmp(bytes, "answer", 6) == 0,
          "the answer");
    check(SSL_SESSION_has_ticket(SSL_get0_session(link.client.tls->ssl)) == 1, "and the ticket");
    check(tls_send(link.server.tls, "more", 4) == 4 &&
              tls_recv(link.client.tls, bytes, sizeof bytes) == 4,
          "what follows");
    link_close(&link);

    link_open(&link, server, client, "first.test", TLS_OFFER_HTTP1);
    check_or_stop(link_shake(&link), "%s", link.server_err.text);
    check(tls_recv(link.server.tls, bytes, sizeof bytes) == -EAGAIN && has_bytes(&link.client),
          "nothing was asked: it goes alone");
    link_close(&link);

    link_open(&link, server, client, "first.test", TLS_OFFER_HTTP1);
    check_or_stop(link_shake(&link), "%s", link.server_err.text);
    tls_say_end(link.server.tls);
    check(tls_recv(link.client.tls, bytes, sizeof bytes) == 0 &&
              SSL_SESSION_has_ticket(SSL_get0_session(link.client.tls->ssl)) == 1,
          "a good-bye takes it along");
    link_close(&link);

    /* A socket that takes nothing: the ticket, and the answer behind it, wait. */
    link_open(&link, server, client, "first.test", TLS_OFFER_HTTP1);
    check_or_stop(link_shake(&link), "%s", link.server_err.text);
    size_t filled = 0;
    for (ssize_t sent; (sent = send(link.server.fd, filling, sizeof filling, MSG_NOSIGNAL)) > 0;)
        filled += (size_t)sent;
    check(tls_recv(link.server.tls, bytes, sizeof bytes) == -EAGAIN, "nothing was asked");
    check(tls_send(link.server.tls, "answer", 6) == -EAGAIN, "the socket is full");
    for (ssize_t got; filled > 0; filled -= (size_t)got)
        require((got = recv(link.client.fd, bytes, MIN(filled, sizeof bytes), 0)) > 0);
    check(!has_bytes(&link.client), "nothing went out in pieces");
    check(tls_send(link.server.tls, "answer", 6) == 6, "once there is room");
    check(tls_recv(link.client.tls, bytes, sizeof bytes) == 6 && memcmp(bytes, "answer", 6) == 0,
          "in order");
    link_close(&link);
    tls_client_free(&client);
    tls_server_free(&server);
}

/* A ticket does not outlive the certificate of the client that it was given to, nor other rules. */
TEST(a_ticket_is_no_way_around_a_certificate)
{
    const char *pairs[] = { (make_all(), pair_of("first")) };
    struct tls_server_settings settings = settings_of(pairs, 1);
    struct tls_server *open = NULL, *strict = NULL;
    uint8_t keys[TLS_TICKET_KEY_BYTES] = { 1 };
    struct err err = { 0 };
    struct link link;
    bool is_resumed;

    write_bytes("keys", keys, sizeof keys);
    settings.ticket_keys = in_folder("keys");
    check(tls_server_new(&open, env_of_test(), &settings, &err) == OK, "%s", err.text);
    settings.client_ca = in_folder("ca.pem");
    settings.client_auth = TLS_CLIENT_REQUIRED;
    check(tls_server_new(&strict, env_of_test(), &settings, &err) == OK, "%s", err.text);
    struct tls_client *nobody = client_of("ca.pem", NULL, false);
    struct made made = make("brief", "DNS:client.test", &ca, -3600, 3);
    write_cert("brief.pem", &made);
    write_key("brief.key", &made);
    unmake(&made);
    struct tls_client *brief = client_of("ca.pem", "brief", false);

    SSL_SESSION *session = visit(open, nobody, NULL, &is_resumed, &link, TLS1_3_VERSION);
    link_close(&link);
    SSL_SESSION_free(visit(strict, nobody, session, &is_resumed, &link, TLS1_3_VERSION));
    check(link.server_step == TLS_FAILED, "a ticket of a server that asks nobody");
    link_close(&link);
    SSL_SESSION_free(session);

    session = visit(strict, brief, NULL, &is_resumed, &link, TLS1_3_VERSION);
    check(link.server_step == TLS_DONE && tls_session_certificate(link.server.tls) != NULL, "%s",
          link.server_err.text);
    link_close(&link);
    SSL_SESSION *again = visit(strict, brief, session, &is_resumed, &link, TLS1_3_VERSION);
    check(is_resumed && tls_session_certificate(link.server.tls) != NULL,
          "who it is comes with the ticket");
    link_close(&link);
    SSL_SESSION_free(session);
    sleep(4); /* until the certificate has expired: OpenSSL reads the system's clock */
    SSL_SESSION_free(visit(strict, brief, again, &is_resumed, &link, TLS1_3_VERSION));
    check(link.server_step == TLS_FAILED && strstr(link.server_err.text, "expired") != NULL, "%s",
          link.server_err.text);
    link_close(&link);
    SSL_SESSION_free(again);
    tls_client_free(&nobody);
    tls_client_free(&brief);
    tls_server_free(&open);
    tls_server_free(&strict);
}

/* -- what authorities revoked ------------------------------------------------------------------------------ */

/* A list of `issuer` that holds from `from` to `to` seconds from now (to 0: it says nothing of its end). */
static X509_CRL *list_of(const struct made *issuer, const X509 *revoked, long from, long to)
{
    X509_CRL *list = X509_CRL_new();
    ASN1_TIME *time = ASN1_TIME_new();

    require(X509_CRL_set_version(list, X509_CRL_VERSION_2) == 1 &&
            X509_CRL_set_issuer_name(list, X509_get_subject_name(issuer->x509)) == 1);
    require(X509_gmtime_adj(time, from) != NULL && X509_CRL_set1_lastUpdate(list, time) == 1);
    require(to == 0 ||
            (X509_gmtime_adj(time, to) != NULL && X509_CRL_set1_nextUpdate(list, time) == 1));
    if (revoked != NULL) {
        X509_REVOKED *entry = X509_REVOKED_new();
        X509_gmtime_adj(time, -1);
        require(X509_REVOKED_set_serialNumber(
                    entry, (ASN1_INTEGER *)(uintptr_t)X509_get0_serialNumber(revoked)) == 1 &&
                X509_REVOKED_set_revocationDate(entry, time) == 1 &&
                X509_CRL_add0_revoked(list, entry) == 1);
    }
    ASN1_TIME_free(time);
    require(X509_CRL_sign(list, issuer->key, EVP_sha256()) > 0);
    return list;
}

/* Writes them one behind the other, and frees them. */
static void write_lists(const char *name, X509_CRL *first, X509_CRL *second)
{
    BIO *out = BIO_new_file(in_folder(name), "w");

    require(out != NULL && (first == NULL || PEM_write_bio_X509_CRL(out, first) == 1) &&
            (second == NULL || PEM_write_bio_X509_CRL(out, second) == 1));
    BIO_free(out);
    X509_CRL_free(first);
    X509_CRL_free(second);
}

/* One handshake; the session, where one may be taken up. */
static SSL_SESSION *visit_as(struct tls_server *server, struct tls_client *client,
                             SSL_SESSION *session, int most, bool expect_resumed, const char *why)
{
    struct link link;
    bool is_resumed;

    SSL_SESSION *next = visit(server, client, session, &is_resumed, &link, most);
    if (why == NULL)
        check(link.server_step == TLS_DONE && is_resumed == expect_resumed &&
                  tls_session_certificate(link.server.tls) != NULL,
              "expected %s: %s", expect_resumed ? "resumed" : "full", link.server_err.text);
    else
        check(link.server_step == TLS_FAILED && strstr(link.server_err.text, why) != NULL &&
                  tls_session_failure(link.server.tls) == TLS_FAILED_CERTIFICATE,
              "expected '%s': %s", why, link.server_err.text);
    link_close(&link);
    return next;
}

/* A list says who is refused, from its reading on: in full handshakes, and by tickets of before. */
TEST(what_is_revoked_is_refused)
{
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    const char *pairs[] = { (make_all(), pair_of("first")) };
    struct err err = { 0 };

    for (size_t i = 0; i < COUNT(versions); i++) {
        struct tls_server_settings settings = settings_of(pairs, 1);
        struct tls_server *server = NULL;
        struct made good = make("good", "DNS:good.test", &ca, -3600, YEAR);
        struct made bad = make("bad", "DNS:bad.test", &ca, -3600, YEAR);
        int most = versions[i];
        write_cert("good.pem", &good);
        write_key("good.key", &good);
        write_cert("bad.pem", &bad);
        write_key("bad.key", &bad);
        settings.client_ca = in_folder("ca.pem");
        settings.client_crl = in_folder("live.crl");
        settings.client_auth = TLS_CLIENT_REQUIRED;
        write_lists("live.crl", list_of(&ca, NULL, -60, 3600), NULL);
        check_or_stop(tls_server_new(&server, env_of_test(), &settings, &err) == OK, "%s",
                      err.text);
        struct tls_client *as_good = client_of("ca.pem", "good", false);
        struct tls_client *as_bad = client_of("ca.pem", "bad", false);

        SSL_SESSION *of_good = visit_as(server, as_good, NULL, most, false, NULL);
        SSL_SESSION *of_bad = visit_as(server, as_bad, NULL, most, false, NULL);
        SSL_SESSION_free(visit_as(server, as_bad, of_bad, most, true, NULL));

        write_lists("live.crl", list_of(&ca, bad.x509, -60, 3600), NULL);
        check(tls_server_reload(server, &err) == OK, "%s", err.text);
        SSL_SESSION_free(visit_as(server, as_bad, NULL, most, false, "revoked"));
        SSL_SESSION_free(visit_as(server, as_bad, of_bad, most, false, "revoked"));
        SSL_SESSION *next = visit_as(server, as_good, of_good, most, true, NULL);
        SSL_SESSION_free(visit_as(server, as_good, next, most, true, NULL));
        SSL_SESSION_free(next);

        /* What cannot be used changes nothing. */
        write_bytes("live.crl", "-----BEGIN X509 CRL-----\nMIIB", 29);
        check(tls_server_reload(server, &err) == E_PRECONDITION &&
                  strstr(err.text, "list 1 cannot be read") != NULL,
              "%s", err.text);
        SSL_SESSION_free(visit_as(server, as_bad, of_bad, most, false, "revoked"));
        write_lists("live.crl", list_of(&ca, NULL, -60, 0), NULL);
        check(tls_server_reload(server, &err) == OK, "a list without an end: %s", err.text);
        SSL_SESSION_free(visit_as(server, as_bad, of_bad, most, true, NULL));

        SSL_SESSION_free(of_good);
        SSL_SESSION_free(of_bad);
        tls_client_free(&as_good);
        tls_client_free(&as_bad);
        tls_server_free(&server);
        unmake(&good);
        unmake(&bad);
    }
}

/* RFC 5280 6.3.3: nothing is known from a list whose time is over, so nobody is let in by it. */
TEST(a_list_that_expires_lets_nobody_in)
{
    const char *pairs[] = { (make_all(), pair_of("first")) };
    struct tls_server_settings settings = settings_of(pairs, 1);
    struct tls_server *server = NULL;
    struct err err = { 0 };

    settings.client_ca = in_folder("ca.pem");
    settings.client_crl = in_folder("brief.crl");
    settings.client_auth = TLS_CLIENT_REQUIRED;
    write_lists("brief.crl", list_of(&ca, NULL, -60, 3), NULL);
    check_or_stop(tls_server_new(&server, env_of_test(), &settings, &err) == OK, "%s", err.text);
    struct tls_client *client = client_of("ca.pem", "client", false);
    SSL_SESSION *session = visit_as(server, client, NULL, TLS1_3_VERSION, false, NULL);
    SSL_SESSION *next = visit_as(server, client, session, TLS1_3_VERSION, true, NULL);
    sleep(4); /* OpenSSL reads the system's clock */
    SSL_SESSION_free(visit_as(server, client, next, TLS1_3_VERSION, false, "CRL has expired"));
    SSL_SESSION_free(visit_as(server, client, NULL, TLS1_3_VERSION, false, "CRL has expired"));
    check(tls_server_reload(server, &err) == E_PRECONDITION, "%s", err.text);
    write_lists("brief.crl", list_of(&ca, NULL, -60, 3600), NULL);
    check(tls_server_reload(server, &err) == OK, "%s", err.text);
    SSL_SESSION_free(visit_as(server, client, NULL, TLS1_3_VERSION, false, NULL));
    SSL_SESSION_free(session);
    SSL_SESSION_free(next);
    tls_client_free(&client);
    tls_server_free(&server);
}

TEST(bad_lists_are_named)
{
    struct made second = (make_all(), make("second authority", NULL, NULL, -3600, YEAR));
    const char *pairs[] = { pair_of("first") };
    uint8_t *bytes;
    size_t size;
    struct err err = { 0 };
    static const struct {
        const char *crl, *ca, *why;
    } cases[] = {
        { "nothing.crl", "ca.pem", "nothing.crl" },
        { "empty.crl", "ca.pem", "empty.crl is empty: it takes a list of revoked certificates" },
        { "ca.pem", "ca.pem", "is a certificate, and a list of revoked certificates is wanted" },
        { "good.crl.der", "ca.pem", "`openssl crl -inform DER -in " },
        { "half.crl", "ca.pem", "list 1 cannot be read" },
        { "half2.crl", "ca.pem", "list 2 cannot be read" },
        { "late.crl", "ca.pem", "has expired at 20" },
        { "early.crl", "ca.pem", "begins to hold at 20" },
        { "other.crl", "ca.pem", "the list of CN=second authority is not signed by an authority" },
        { "forged.crl", "ca.pem", "the list of CN=test authority is not signed by an authority" },
        { "delta.crl", "ca.pem", "tells changes only" },
        { "good.crl", "both.pem", "has no list of CN=second authority" },
        { "good.crl", "half.pem", "--tls-client-ca" },
    };

    X509_CRL *good = list_of(&ca, NULL, -60, 3600), *delta = X509_CRL_dup(good);
    BIO *out = BIO_new_file(in_folder("good.crl.der"), "w");
    require(i2d_X509_CRL_bio(out, good) == 1);
    BIO_free(out);
    write_lists("good.crl", good, NULL);
    write_bytes("empty.crl", "", 0);
    require(tls_file_read(&bytes, &size, in_folder("good.crl"), &err) == OK);
    write_bytes("half.crl", bytes, size / 2);
    char *twice = malloc(2 * size);
    memcpy(twice, bytes, size);
    memcpy(twice + size, bytes, size / 2);
    write_bytes("half2.crl", twice, size + size / 2);
    free(twice);
    mem_free(bytes);
    write_lists("late.crl", list_of(&ca, NULL, -3600, -60), NULL);
    write_lists("early.crl", list_of(&ca, NULL, 600, 3600), NULL);
    write_lists("other.crl", list_of(&ca, NULL, -60, 3600), list_of(&second, NULL, -60, 3600));
    struct made forger = { ca.x509, second.key };
    write_lists("forged.crl", list_of(&forger, NULL, -60, 3600), NULL);
    ASN1_INTEGER *number = ASN1_INTEGER_new();
    require(ASN1_INTEGER_set(number, 1) == 1 &&
            X509_CRL_add1_ext_i2d(delta, NID_delta_crl, number, 1, 0) == 1 &&
            X509_CRL_sign(delta, ca.key, EVP_sha256()) > 0);
    ASN1_INTEGER_free(number);
    write_lists("delta.crl", delta, NULL);
    FILE *file = fopen(in_folder("both.pem"), "w");
    require(PEM_write_X509(file, ca.x509) == 1 && PEM_write_X509(file, second.x509) == 1);
    fclose(file);
    require(tls_file_read(&bytes, &size, in_folder("ca.pem"), &err) == OK);
    write_bytes("half.pem", bytes, size / 2);
    mem_free(bytes);
    unmake(&second);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tls_server *server = NULL;
        struct tls_server_settings settings = settings_of(pairs, 1);
        settings.client_ca = in_folder(cases[i].ca);
        settings.client_crl = in_folder(cases[i].crl);
        settings.client_auth = TLS_CLIENT_REQUIRED;
        err = (struct err){ 0 };
        enum err_code code = tls_server_new(&server, env_of_test(), &settings, &err);
        check((code == E_PRECONDITION || code == E_NOT_FOUND) && server == NULL &&
                  strstr(err.text, cases[i].why) != NULL && strncmp(err.text, "--tls-", 6) == 0,
              "case %zu: %d %s", i, code, err.text);
    }
}

/* -- bytes ------------------------------------------------------------------------------------------------ */

static void fill(uint8_t *bytes, size_t size, uint64_t at)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)((at + i) * 31 + ((at + i) >> 8));
}

enum { MOST = 100 * 1024 };

/* One direction of a connection: what was sent and not taken yet is offered again. */
struct flow {
    struct channel *from, *to;
    uint64_t sent, received;
    size_t refused; /* by the last call */
};

/* Offers what was refused before, and perhaps more behind it, in one piece or several. */
static void push(struct flow *flow)
{
    static uint8_t bytes[MOST];
    struct iovec pieces[8];
    size_t more = test_random_below(4) == 0 ? test_random_below(MOST) : test_random_below(200);
    size_t behind = test_random_below(2) == 0 ? more : 0;
    size_t total = MIN(flow->refused == 0 ? more + 1 : flow->refused + behind, (size_t)MOST);
    ssize_t sent;

    fill(bytes, total, flow->sent);
    if (test_random_below(2) == 0) {
        sent = channel_send(flow->from, bytes, total);
    } else {
        size_t count = 0;
        for (size_t at = 0; at < total; count++) {
            size_t part = test_random_below(20000) + 1; /* once: MIN asks twice */
            part = count + 1 == COUNT(pieces) ? total - at : MIN(part, total - at);
            pieces[count] = (struct iovec){ bytes + at, part };
            at += part;
        }
        sent = channel_send_pieces(flow->from, pieces, count);
    }
    check(sent > 0 || sent == -EAGAIN, "sent %zd", sent);
    size_t moved = sent > 0 ? (size_t)sent : 0;
    flow->sent += moved;
    flow->refused = total - moved;
}

static void pull(struct flow *flow)
{
    static uint8_t bytes[MOST], expected[MOST];
    size_t asked = test_random_below(2) == 0 ? test_random_below(MOST) + 1
                                             : test_random_below(100) + 1;
    ssize_t got = channel_recv(flow->to, bytes, asked);

    check(got > 0 || got == -EAGAIN, "got %zd", got);
    if (got <= 0)
        return;
    fill(expected, (size_t)got, flow->received);
    check(memcmp(bytes, expected, (size_t)got) == 0, "at %llu",
          (unsigned long long)flow->received);
    flow->received += (uint64_t)got;
}

/* What was refused is offered again, as an output queue does. */
TEST(bytes_arrive_as_they_were_sent)
{
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);
    struct link link;
    int small = 4096;

    link_open(&link, server, client, "first.test", TLS_OFFER_HTTP2);
    setsockopt(link.server.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    setsockopt(link.client.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    check_or_stop(link_shake(&link), "%s", link.client_err.text);
    struct flow flows[2] = { { .from = &link.server, .to = &link.client },
                             { .from = &link.client, .to = &link.server } };
    for (int i = 0; i < 10000 && !test_has_failed(); i++) {
        struct flow *flow = &flows[test_random_below(2)];
        if (test_random_below(3) == 0)
            push(flow);
        else
            pull(flow);
    }
    for (size_t side = 0; side < 2; side++)
        check(flows[side].received > 1000000, "%llu bytes",
              (unsigned long long)flows[side].received);
    link_close(&link);
    tls_client_free(&client);
    tls_server_free(&server);
}

/* Less than was asked for means that there is no more: nobody announces what OpenSSL has read ahead. */
TEST(a_short_recv_leaves_nothing_behind)
{
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);
    static uint8_t bytes[200000];
    struct link link;

    link_open(&link, server, client, "first.test", TLS_OFFER_HTTP2);
    check_or_stop(link_shake(&link), "%s", link.client_err.text);
    for (int i = 0; i < 200; i++) {
        size_t total = 0, got_all = 0;
        for (size_t records = test_random_below(20) + 1; records > 0; records--) {
            ssize_t sent = channel_send(&link.client, bytes, test_random_below(5000) + 1);
            total += sent > 0 ? (size_t)sent : 0;
        }
        size_t asked = test_random_below(30000) + 1;
        for (;;) {
            ssize_t got = channel_recv(&link.server, bytes, asked);
            got_all += got > 0 ? (size_t)got : 0;
            if (got < (ssize_t)asked)
                break;
        }
        check(got_all == total, "%zu of %zu", got_all, total);
    }
    link_close(&link);
    tls_client_free(&client);
    tls_server_free(&server);
}

TEST(the_end_is_told)
{
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);
    uint8_t bytes[100];
    struct link link;

    /* A good-bye behind bytes: they come first, and there is more to be told. */
    link_open(&link, server, client, "first.test", 0);
    check_or_stop(link_shake(&link), "%s", link.client_err.text);
    check(channel_send(&link.client, "bye", 3) == 3, "sent");
    channel_close(&link.client, true);
    check(channel_recv(&link.server, bytes, sizeof bytes) == 3, "bytes");
    check(channel_has_more(&link.server), "and an end");
    check(channel_recv(&link.server, bytes, sizeof bytes) == 0, "which is told");
    link_close(&link);

    /* A connection that breaks: a server does not mind, a client may miss bytes. */
    link_open(&link, server, client, "first.test", 0);
    check_or_stop(link_shake(&link), "%s", link.client_err.text);
    check(channel_recv(&link.client, bytes, sizeof bytes) == -EAGAIN, "the ticket is read");
    channel_close(&link.client, false);
    check(channel_recv(&link.server, bytes, sizeof bytes) == 0, "the end");
    link_close(&link);
    link_open(&link, server, client, "first.test", 0);
    check_or_stop(link_shake(&link), "%s", link.client_err.text);
    check(channel_recv(&link.client, bytes, sizeof bytes) == -EAGAIN, "the ticket is read");
    channel_close(&link.server, false);
    check(channel_recv(&link.client, bytes, sizeof bytes) == -ECONNRESET, "it broke");
    link_close(&link);

    /* It breaks within a record, and the end came with the bytes: nothing announces it again. */
    uint8_t cut[] = { 0x17, 3, 3, 0, 100, 1, 2, 3 };
    link_open(&link, server, client, "first.test", 0);
    check_or_stop(link_shake(&link), "%s", link.client_err.text);
    check(write(link.client.fd, cut, sizeof cut) == (ssize_t)sizeof cut, "written");
    check(channel_recv(&link.client, bytes, sizeof bytes) == -EAGAIN, "the ticket is read");
    socket_finish(link.client.fd);
    channel_expect_end(&link.server);
    check(channel_recv(&link.server, bytes, sizeof bytes) == 0, "the end, by one call");
    link_close(&link);

    /* Bytes of somebody else. */
    link_open(&link, server, client, "first.test", 0);
    check_or_stop(link_shake(&link), "%s", link.client_err.text);
    check(write(link.client.fd, "\x17\x03\x03\x00\x20 this is not what was sealed ...", 37) == 37,
          "written");
    check(channel_recv(&link.server, bytes, sizeof bytes) == -EPROTO, "refused");
    check(channel_send(&link.server, "x", 1) == -EPIPE, "and over");
    link_close(&link);
    tls_client_free(&client);
    tls_server_free(&server);
}

/* Records that carry nothing keep nobody busy for ever. */
TEST(records_of_nothing_are_bounded)
{
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);
    int large = 4 * 1024 * 1024;
    uint8_t bytes[100];
    struct link link;

    link_open(&link, server, client, "first.test", 0);
    setsockopt(link.client.fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof large);
    check_or_stop(link_shake(&link), "%s", link.client_err.text);
    for (int i = 0; i < 20000; i++) {
        SSL_key_update(link.client.tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        if (SSL_do_handshake(link.client.tls->ssl) != 1)
            break;
    }
    ssize_t got = channel_recv(&link.server, bytes, sizeof bytes);
    for (int i = 0; i < 3 && got == -EAGAIN; i++)
        got = channel_recv(&link.server, bytes, sizeof bytes);
    check(got == -EPROTO || got == -EAGAIN, "%zd", got);
    check(link.server.tls->raw_bytes < 512 * 1024, "%zu", link.server.tls->raw_bytes);
    link_close(&link);
    tls_client_free(&client);
    tls_server_free(&server);
}

/* -- files ------------------------------------------------------------------------------------------------- */

/* What people have who were not told which form is meant. */
static void write_other_forms(void)
{
    struct made made = make("other form", "DNS:first.test", &ca, -3600, YEAR);
    unsigned char *bytes = NULL;
    BIO *out;
    int size = i2d_X509(made.x509, &bytes);

    write_bytes("first.der", bytes, (size_t)size);
    OPENSSL_free(bytes);
    bytes = NULL;
    size = i2d_PrivateKey(made.key, &bytes);
    write_bytes("first.key.der", bytes, (size_t)size);
    OPENSSL_free(bytes);
    PKCS12 *both = PKCS12_create("x", "first", made.key, made.x509, NULL, 0, 0, 0, 0, 0);
    out = BIO_new_file(in_folder("first.p12"), "w");
    require(both != NULL && i2d_PKCS12_bio(out, both) == 1);
    BIO_free(out);
    PKCS12_free(both);
    X509_REQ *request = X509_to_X509_REQ(made.x509, made.key, EVP_sha256());
    out = BIO_new_file(in_folder("request.pem"), "w");
    require(request != NULL && PEM_write_bio_X509_REQ(out, request) == 1);
    BIO_free(out);
    X509_REQ_free(request);
    out = BIO_new_file(in_folder("public.pem"), "w");
    require(PEM_write_bio_PUBKEY(out, made.key) == 1);
    BIO_free(out);
    write_bytes("words.pem", "certificate, please", 19);
    mkdir(in_folder("folder"), 0700);
    unmake(&made);
}

TEST(bad_files_are_named)
{
    static const struct {
        const char *cert, *key;
        enum err_code code;
        const char *why;
    } cases[] = {
        { "nothing.pem", "first.key", E_NOT_FOUND, "nothing.pem" },
        { "first.pem", "nothing.key", E_NOT_FOUND, "nothing.key" },
        { "first.pem", "second.key", E_PRECONDITION, "is not that of the certificate" },
        { "first.key", "first.key", E_PRECONDITION,
          "first.key is a private key, and a certificate is wanted: the order is CERT,KEY" },
        { "first.pem", "first.pem", E_PRECONDITION,
          "first.pem is a certificate, and a private key is wanted: the order is CERT,KEY" },
        { "first.key", "first.pem", E_PRECONDITION, "the two are swapped" },
        { "half.pem", "first.key", E_PRECONDITION,
          "half.pem is a certificate that cannot be read: " },
        { "first.pem", "half.key", E_PRECONDITION,
          "half.key is a private key that cannot be read: " },
        { "chain.pem", "first.key", E_PRECONDITION, "certificate 2 of the chain cannot be read" },
        { "first.pem", "sealed.key", E_PRECONDITION, "`openssl pkey -in " },
        { "empty.pem", "first.key", E_PRECONDITION, "empty.pem is empty: it takes a certificate" },
        { "first.pem", "empty.pem", E_PRECONDITION, "empty.pem is empty: it takes a private key" },
        { "first.der", "first.key", E_PRECONDITION, "`openssl x509 -inform DER -in " },
        { "first.pem", "first.key.der", E_PRECONDITION, "`openssl pkey -inform DER -in " },
        { "first.p12", "first.key", E_PRECONDITION, "first.p12 is a PKCS#12 file" },
        { "first.pem", "first.p12", E_PRECONDITION, "`openssl pkcs12 -in " },
        { "request.pem", "first.key", E_PRECONDITION, "is a request for a certificate (CSR)" },
        { "first.pem", "public.pem", E_PRECONDITION, "is a public key" },
        { "words.pem", "first.key", E_PRECONDITION, "words.pem has not a certificate in PEM form" },
        { "first.pem", "words.pem", E_PRECONDITION, "words.pem has not a private key in PEM form" },
        { "folder", "first.key", E_PRECONDITION, "folder" },
    };
    uint8_t *bytes;
    size_t size;
    struct err err = { 0 };

    make_all();
    check(tls_file_read(&bytes, &size, in_folder("first.pem"), &err) == OK, "%s", err.text);
    write_bytes("half.pem", bytes, size / 2);
    char *chain = malloc(2 * size);
    memcpy(chain, bytes, size);
    memcpy(chain + size, bytes, size / 2);
    write_bytes("chain.pem", chain, size + size / 2);
    free(chain);
    mem_free(bytes);
    check(tls_file_read(&bytes, &size, in_folder("first.key"), &err) == OK, "%s", err.text);
    write_bytes("half.key", bytes, size / 2);
    mem_free(bytes);
    write_bytes("empty.pem", "", 0);
    write_other_forms();
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FILE *file = fopen(in_folder("sealed.key"), "w");
    require(PEM_write_PKCS8PrivateKey(file, key, EVP_aes_128_cbc(), "x", 1, NULL, NULL) == 1);
    fclose(file);
    EVP_PKEY_free(key);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[400];
        struct tls_server *server = NULL;
        snprintf(text, sizeof text, "%s/%s,%s/%s", folder, cases[i].cert, folder, cases[i].key);
        const char *pairs[] = { text };
        struct tls_server_settings settings = settings_of(pairs, 1);
        err = (struct err){ 0 };
        check(tls_server_new(&server, env_of_test(), &settings, &err) == cases[i].code &&
                  strstr(err.text, cases[i].why) != NULL && server == NULL,
              "case %zu: %d %s", i, err.code, err.text);
    }
}

TEST(pairs_are_read)
{
    static const char *const bad[] = { "", "a.pem", "a.pem,", ",a.key", "a,b,c,d", "AUTO" };
    struct err err = { 0 };

    for (size_t i = 0; i < COUNT(bad); i++) {
        struct tls_server *server = NULL;
        struct tls_server_settings settings = settings_of(&bad[i], 1);
        check(tls_server_new(&server, env_of_test(), &settings, &err) == E_INVALID &&
                  strstr(err.text, "CERT.pem,KEY.pem") != NULL,
              "'%s': %s", bad[i], err.text);
    }
    struct tls_server *server = NULL;
    struct tls_server_settings none = settings_of(NULL, 0);
    check(tls_server_new(&server, env_of_test(), &none, &err) == E_INVALID, "%s", err.text);
}

static void copy_file(const char *from, const char *to, size_t most)
{
    uint8_t *bytes;
    size_t size;
    struct err err;

    require(tls_file_read(&bytes, &size, in_folder(from), &err) == OK);
    write_bytes(to, bytes, MIN(size, most));
    mem_free(bytes);
}

static void common_name(struct link *link, char *name, size_t size)
{
    X509 *x509 = SSL_get0_peer_certificate(link->client.tls->ssl);

    X509_NAME_get_text_by_NID(X509_get_subject_name(x509), NID_commonName, name, (int)size);
}

TEST(files_change_and_connections_stay)
{
    char name[64], bytes[8];
    struct err err = { 0 };
    struct link before, after;

    make_all();
    copy_file("first.pem", "live.pem", SIZE_MAX);
    copy_file("first.key", "live.key", SIZE_MAX);
    const char *pairs[] = { pair_of("live") };
    struct tls_server *server = server_of(pairs, 1);
    struct tls_client *client = client_of(NULL, NULL, true);
    link_open(&before, server, client, "first.test", 0);
    check_or_stop(link_shake(&before), "%s", before.client_err.text);

    copy_file("second.pem", "live.pem", 300);
    check(tls_server_reload(server, &err) == E_PRECONDITION, "half written: %s", err.text);
    copy_file("second.pem", "live.pem", SIZE_MAX);
    check(tls_server_reload(server, &err) == E_PRECONDITION &&
              strstr(err.text, "not that of the certificate") != NULL,
          "%s", err.text);
    copy_file("expired.pem", "live.pem", SIZE_MAX);
    copy_file("expired.key", "live.key", SIZE_MAX);
    check(tls_server_reload(server, &err) == E_PRECONDITION && strstr(err.text, "expired") != NULL,
          "%s", err.text);
    link_open(&after, server, client, "first.test", 0);
    check(link_shake(&after), "the former is served");
    common_name(&after, name, sizeof name);
    check(strcmp(name, "first") == 0, "%s", name);
    link_close(&after);

    /* A handshake that has begun ends with what it began with. */
    struct link between;
    link_open(&between, server, client, "first.test", 0);
    between.client_step = tls_handshake(between.client.tls, &between.client_err);
    copy_file("second.pem", "live.pem", SIZE_MAX);
    copy_file("second.key", "live.key", SIZE_MAX);
    check(tls_server_reload(server, &err) == OK, "%s", err.text);
    check(link_shake(&between), "%s", between.client_err.text);
    common_name(&between, name, sizeof name);
    check(strcmp(name, "first") == 0, "%s", name);
    link_close(&between);
    link_open(&after, server, client, "first.test", 0);
    check(link_shake(&after), "%s", after.client_err.text);
    common_name(&after, name, sizeof name);
    check(strcmp(name, "second") == 0, "%s", name);
    link_close(&after);

    check(channel_send(&before.client, "still", 5) == 5 &&
              channel_recv(&before.server, bytes, sizeof bytes) == 5,
          "the one before goes on");
    link_close(&before);
    tls_client_free(&client);
    tls_server_free(&server);
}

TEST(its_thread_sees_changes)
{
    struct err err = { 0 };

    make_all();
    copy_file("first.pem", "seen.pem", SIZE_MAX);
    copy_file("first.key", "seen.key", SIZE_MAX);
    const char *pairs[] = { pair_of("seen") };
    struct tls_server_settings settings = settings_of(pairs, 1);
    struct tls_server *server = NULL;
    settings.watch_ns = 20000000;
    check(tls_server_new(&server, env_of_test(), &settings, &err) == OK, "%s", err.text);
    check(tls_server_start(server, &err) == OK, "%s", err.text);
    log_set_level(LOG_ERROR);
    copy_file("second.pem", "seen.pem", SIZE_MAX);
    copy_file("second.key", "seen.key", SIZE_MAX);
    for (int i = 0; i < 500 && atomic_load(&server->reloads) == 0; i++)
        usleep(10000);
    check(atomic_load(&server->reloads) == 1, "it was read once");
    tls_server_free(&server);
}

/* -- a local authority --------------------------------------------------------------------------------------- */

static ino_t inode_of(const char *path)
{
    struct stat st = { 0 };

    check(stat(path, &st) == 0, "%s", path);
    return st.st_ino;
}

TEST(a_local_authority_is_made_once)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 65536);
    struct tls_auto_settings settings = { 0 };
    struct tls_auto_paths paths;
    struct address address;
    char place[128];
    struct stat st;
    struct err err = { 0 };

    make_all();
    log_set_level(LOG_ERROR);
    snprintf(place, sizeof place, "%s/a/b", folder);
    check(address_parse(&address, "127.0.0.9:8443", &err) == OK, "%s", err.text);
    settings.directory = place;
    settings.wall_s = env_real()->wall_ns(env_real()) / 1000000000;
    check(tls_auto_paths(place, arena, &paths, &err) == OK, "%s", err.text);
    check(tls_auto_prepare(&settings, &err) == OK, "%s", err.text);
    check(stat(place, &st) == 0 && (st.st_mode & 0777) == 0700, "%o", st.st_mode);
    check(stat(paths.key, &st) == 0 && (st.st_mode & 0777) == 0600, "%o", st.st_mode);
    ino_t authority = inode_of(paths.authority), cert = inode_of(paths.cert);
    check(tls_auto_prepare(&settings, &err) == OK, "%s", err.text);
    check(inode_of(paths.authority) == authority && inode_of(paths.cert) == cert, "once");
    settings.addresses = &address;
    settings.addresses_count = 1;
    check(tls_auto_prepare(&settings, &err) == OK, "%s", err.text);
    check(inode_of(paths.authority) == authority && inode_of(paths.cert) != cert,
          "an address more: a new certificate of the same authority");
    cert = inode_of(paths.cert);
    settings.wall_s += 41 * 86400;
    check(tls_auto_prepare(&settings, &err) == OK, "%s", err.text);
    check(inode_of(paths.authority) == authority && inode_of(paths.cert) != cert,
          "twenty days before its end it is made anew");
    settings.wall_s -= 41 * 86400;

    const char *pairs[] = { "auto" };
    struct tls_server_settings given = settings_of(pairs, 1);
    struct tls_server *server = NULL;
    struct link link;
    static const char *const names[] = { "localhost", "127.0.0.1", "[::1]", "127.0.0.9" };
    given.directory = place;
    given.addresses = &address;
    given.addresses_count = 1;
    check_or_stop(tls_server_new(&server, env_of_test(), &given, &err) == OK, "%s", err.text);
    check(strcmp(tls_server_authority(server), paths.authority) == 0, "%s",
          tls_server_authority(server));
    struct tls_client_settings trusting = { .ca = paths.authority };
    struct tls_client *client = NULL;
    check(tls_client_new(&client, &trusting, &err) == OK, "%s", err.text);
    for (size_t i = 0; i < COUNT(names); i++) {
        link_open(&link, server, client, names[i], 0);
        check(link_shake(&link), "%s: %s", names[i], link.client_err.text);
        link_close(&link);
    }
    tls_client_free(&client);
    tls_server_free(&server);
}

/* -- what fails beneath ------------------------------------------------------------------------------------ */

/* OpenSSL's own memory fails too, where there are not too many steps. */
static bool openssl_fails;

static void *hook_alloc(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return openssl_fails && fault_hit() ? NULL : malloc(size);
}

static void *hook_resize(void *old, size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return openssl_fails && fault_hit() ? NULL : realloc(old, size);
}

static void hook_free(void *memory, const char *file, int line)
{
    (void)file, (void)line;
    free(memory);
}

__attribute__((constructor(101))) static void hook_openssl(void)
{
    require(CRYPTO_set_mem_functions(hook_alloc, hook_resize, hook_free) == 1);
}

TEST(every_fault_of_a_connection)
{
    struct tls_server *server = simple_server();
    struct tls_client *client = client_of("ca.pem", NULL, false);

    openssl_fails = true;
    for_each_fault(nth) {
        struct err err = { 0 };
        struct link link = { .server_step = TLS_WANTS_READ, .client_step = TLS_WANTS_READ };
        int fds[2];
        uint8_t bytes[16];
        require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
        link.server = channel_plain(fds[0]);
        link.client = channel_plain(fds[1]);
        bool is_fine = false;
        enum err_code code =
            tls_accept(&link.server.tls, server, fds[0], slice_of(""), false, &err);
        if (code == OK)
            code = tls_connect(&link.client.tls, client, fds[1], slice_of("first.test"),
                               TLS_OFFER_HTTP2, &err);
        if (code == OK)
            is_fine = link_shake(&link) && channel_send(&link.client, "hello", 5) == 5 &&
                      channel_recv(&link.server, bytes, sizeof bytes) == 5 &&
                      memcmp(bytes, "hello", 5) == 0;
        link_close(&link);
        if (!fault_fired()) {
            check(is_fine, "%s / %s", link.client_err.text, link.server_err.text);
            break;
        }
        check(code == OK || err.text[0] != '\0', "fault %u was silent", nth);
        /* Some of them OpenSSL can do without. */
    }
    openssl_fails = false;
    fault_arm(0);
    tls_client_free(&client);
    tls_server_free(&server);
}

TEST(every_fault_of_files)
{
    make_all();
    const char *pairs[] = { pair_of("first") };
    struct tls_server_settings settings = settings_of(pairs, 1);
    settings.client_ca = in_folder("ca.pem");
    settings.client_crl = in_folder("sweep.crl");
    settings.client_auth = TLS_CLIENT_OPTIONAL;
    write_lists("sweep.crl", list_of(&ca, NULL, -60, 3600), NULL);
    log_set_level(LOG_ERROR);
    for_each_fault(nth) {
        struct tls_server *server = NULL;
        struct err err = { 0 };
        enum err_code code = tls_server_new(&server, env_of_test(), &settings, &err);
        check((code == OK) == (server != NULL), "fault %u", nth);
        check(code == OK || err.text[0] != '\0', "fault %u was silent", nth);
        tls_server_free(&server);
        if (!fault_fired())
            break;
    }
    fault_arm(0);
}
