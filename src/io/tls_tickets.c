/* tls_tickets.c - the keys that seal session tickets (RFC 5077, RFC 8446 4.6.1).
 * SPDX-License-Identifier: Apache-2.0
 *
 * A ticket holds the session itself, so that no server keeps one for each client; whoever has its key can
 * open it, and with TLS 1.2 read what was said. So keys of our own live in memory only, a new one seals
 * after half the life of a ticket, and an old one is forgotten once no ticket of it can be good. Keys of a
 * file are for several servers behind one name, and change when the file does: the first seals.
 *
 * A ticket of a key that is not known is no error: the handshake is a full one.
 */
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/env.h"
#include "io/tls_internal.h"

enum { NAME_BYTES = 16, KEY_BYTES = 32 };

struct ticket_key {
    uint8_t name[NAME_BYTES];
    uint8_t mac[KEY_BYTES], cipher[KEY_BYTES];
    uint64_t made_ns;
};
_Static_assert(NAME_BYTES + 2 * KEY_BYTES == TLS_TICKET_KEY_BYTES, "what a file has a key");

struct tls_tickets {
    struct env *env;
    const char *path; /* borrowed; empty: keys of our own */
    uint64_t ticket_ns;
    EVP_CIPHER *cipher;    /* owned: looked up once */
    pthread_mutex_t mutex; /* leaf */
    struct ticket_key keys[TLS_TICKET_KEYS_MAX];
    uint32_t count;
};

static int tickets_index = -1;

static void make_index(void)
{
    tickets_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

/* The first is the newest. */
static void add_key(struct tls_tickets *t, const uint8_t bytes[TLS_TICKET_KEY_BYTES],
                    uint64_t mono_ns)
{
    t->count = MIN(t->count + 1, (uint32_t)TLS_TICKET_KEYS_MAX);
    memmove(&t->keys[1], &t->keys[0], (t->count - 1) * sizeof t->keys[0]);
    memcpy(t->keys[0].name, bytes, NAME_BYTES);
    memcpy(t->keys[0].mac, bytes + NAME_BYTES, KEY_BYTES);
    memcpy(t->keys[0].cipher, bytes + NAME_BYTES + KEY_BYTES, KEY_BYTES);
    t->keys[0].made_ns = mono_ns;
}

static void make_key(struct tls_tickets *t, uint64_t mono_ns)
{
    uint8_t bytes[TLS_TICKET_KEY_BYTES];

    t->env->random(t->env, bytes, sizeof bytes);
    add_key(t, bytes, mono_ns);
    OPENSSL_cleanse(bytes, sizeof bytes);
}

static enum err_code read_keys(struct tls_tickets *t, struct err *err)
{
    uint8_t *bytes;
    size_t size;
    struct stat st;

    if (tls_file_read(&bytes, &size, t->path, err) != OK)
        return err_wrap(err, "--tls-ticket-keys");
    enum err_code code = OK;
    if (size == 0 || size % TLS_TICKET_KEY_BYTES != 0 ||
        size / TLS_TICKET_KEY_BYTES > TLS_TICKET_KEYS_MAX)
        code = err_set(
            err, E_PRECONDITION,
            "--tls-ticket-keys: %s has %zu bytes: ticket keys are 1 to %d times %d random bytes, the one "
            "that seals first (openssl rand %d > FILE)",
            t->path, size, TLS_TICKET_KEYS_MAX, TLS_TICKET_KEY_BYTES, TLS_TICKET_KEY_BYTES);
    if (code == OK && stat(t->path, &st) == 0 && (st.st_mode & 077) != 0)
        log_warn("%s can be read by others than its owner: whoever has these keys can open session "
                 "tickets (chmod 600)",
                 t->path);
    pthread_mutex_lock(&t->mutex);
    if (code == OK) {
        t->count = 0;
        for (size_t at = size; at > 0; at -= TLS_TICKET_KEY_BYTES)
            add_key(t, bytes + at - TLS_TICKET_KEY_BYTES, 0);
    }
    pthread_mutex_unlock(&t->mutex);
    OPENSSL_cleanse(bytes, size);
    mem_free(bytes);
    return code;
}

enum err_code tls_tickets_new(struct tls_tickets **ret, struct env *env, const char *path,
                              uint64_t ticket_ns, struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct tls_tickets *t = mem_zalloc(sizeof *t);

    pthread_once(&once, make_index);
    if (t == NULL || tickets_index < 0 ||
        (t->cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL)) == NULL) {
        mem_free(t);
        return err_set(err, E_EXHAUSTED, "no memory for the keys of session tickets");
    }
    t->env = env;
    t->path = path;
    t->ticket_ns = ticket_ns;
    pthread_mutex_init(&t->mutex, NULL);
    if (path[0] == '\0') {
        make_key(t, env->mono_ns(env));
    } else if (read_keys(t, err) != OK) {
        tls_tickets_free(&t);
        return err->code;
    }
    *ret = t;
    return OK;
}

void tls_tickets_free(struct tls_tickets **slot)
{
    struct tls_tickets *t = TAKE(*slot);

    if (t == NULL)
        return;
    EVP_CIPHER_free(t->cipher);
    pthread_mutex_destroy(&t->mutex);
    OPENSSL_cleanse(t, sizeof *t);
    mem_free(t);
}

enum err_code tls_tickets_reload(struct tls_tickets *t, struct err *err)
{
    return t->path[0] == '\0' ? OK : read_keys(t, err);
}

void tls_tickets_rotate(struct tls_tickets *t, uint64_t mono_ns)
{
    if (t->path[0] != '\0')
        return;
    pthread_mutex_lock(&t->mutex);
    if (mono_ns - t->keys[0].made_ns >= t->ticket_ns / 2)
        make_key(t, mono_ns);
    /* A key seals until the next is made: half a life; and its last ticket is good for one more. */
    while (t->count > 1 && mono_ns - t->keys[t->count - 2].made_ns > t->ticket_ns)
        OPENSSL_cleanse(&t->keys[--t->count], sizeof t->keys[0]);
    pthread_mutex_unlock(&t->mutex);
}

uint32_t tls_tickets_count(struct tls_tickets *t)
{
    pthread_mutex_lock(&t->mutex);
    uint32_t count = t->count;
    pthread_mutex_unlock(&t->mutex);
    return count;
}

/* The newest key, or that of the name; *ret_is_newest says which. False: there is none. */
static bool find_key(struct tls_tickets *t, const uint8_t *name, struct ticket_key *ret,
                     bool *ret_is_newest)
{
    bool is_found = false;

    pthread_mutex_lock(&t->mutex);
    for (uint32_t i = 0; i < t->count && !is_found; i++) {
        is_found = name == NULL || memcmp(t->keys[i].name, name, NAME_BYTES) == 0;
        if (is_found) {
            *ret = t->keys[i];
            *ret_is_newest = i == 0;
        }
    }
    pthread_mutex_unlock(&t->mutex);
    return is_found;
}

static bool set_mac(EVP_MAC_CTX *mac, struct ticket_key *key)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->mac, KEY_BYTES),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };

    return EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* What OpenSSL wants to know: -1 failed, 0 no such key (a full handshake), 1 fine, 2 fine and a new ticket
 * is to be given. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                     EVP_MAC_CTX *mac, int is_sealing)
{
    struct tls_tickets *t = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), tickets_index);
    struct ticket_key key;
    bool is_newest, is_fine;

    if (!find_key(t, is_sealing ? NULL : name, &key, &is_newest))
        return 0;
    if (is_sealing) {
        memcpy(name, key.name, NAME_BYTES);
        is_fine = RAND_bytes(iv, EVP_CIPHER_get_iv_length(t->cipher)) == 1 &&
                  EVP_EncryptInit_ex2(cipher, t->cipher, key.cipher, iv, NULL) == 1;
    } else {
        is_fine = EVP_DecryptInit_ex2(cipher, t->cipher, key.cipher, iv, NULL) == 1;
    }
    is_fine = is_fine && set_mac(mac, &key);
    OPENSSL_cleanse(&key, sizeof key);
    /* Clients of TLS 1.3 use a ticket once (RFC 8446, C.4): each resumption brings the next. */
    bool is_good = is_newest && SSL_version(ssl) != TLS1_3_VERSION;
    return !is_fine ? -1 : is_sealing || is_good ? 1 : 2;
}

void tls_tickets_serve(struct tls_tickets *t, SSL_CTX *context)
{
    SSL_CTX_set_timeout(context, (long)(t->ticket_ns / NS_PER_S));
    if (SSL_CTX_set_ex_data(context, tickets_index, t) == 1)
        SSL_CTX_set_tlsext_ticket_key_evp_cb(context, on_ticket);
}
