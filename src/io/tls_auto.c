/* tls_auto.c - SPDX-License-Identifier: Apache-2.0
 *
 * Files are written beside their place and renamed, the key before the certificate: whoever reads them
 * meanwhile finds a pair that does not fit, and reads again when the second is there.
 */
#include "io/tls_auto.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "io/socket.h"
#include "io/tls_internal.h"

enum {
    DAY_S = 86400,
    AUTHORITY_DAYS = 3650,
    SERVER_DAYS = 60,
    RENEW_DAYS = 20,
    NAMES_BYTES_MAX = 8192,
    PATH_BYTES_MAX = PATH_MAX,
};

struct maker {
    const struct tls_auto_settings *settings;
    struct tls_auto_paths paths;
    const char *authority_key;
    struct text names; /* as OpenSSL writes a subjectAltName: "DNS:localhost,IP:127.0.0.1" */
    char names_memory[NAMES_BYTES_MAX];
    X509 *authority;
    EVP_PKEY *authority_pkey;
};

static enum err_code failed(struct err *err, const char *what)
{
    char reason[160];

    tls_reason(reason, sizeof reason);
    return err_set(err, E_INTERNAL, "%s: %s", what, reason);
}

/* -- paths ---------------------------------------------------------------------------------------- */

enum err_code tls_auto_paths(const char *directory, struct arena *arena, struct tls_auto_paths *ret,
                             struct err *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *folder;

    if (directory[0] != '\0')
        folder = arena_strndup(arena, directory, strlen(directory));
    else if (state != NULL && state[0] == '/')
        folder = arena_printf(arena, "%s/penstock/tls", state);
    else if (home != NULL && home[0] == '/')
        folder = arena_printf(arena, "%s/.local/state/penstock/tls", home);
    else
        return err_set(err, E_PRECONDITION,
                       "there is no home folder to keep certificates in: --tls-dir names one");
    ret->directory = folder;
    if (folder != NULL) {
        ret->authority = arena_printf(arena, "%s/authority.pem", folder);
        ret->cert = arena_printf(arena, "%s/server.pem", folder);
        ret->key = arena_printf(arena, "%s/server.key", folder);
    }
    if (folder == NULL || ret->authority == NULL || ret->cert == NULL || ret->key == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for paths");
    return OK;
}

static enum err_code make_folders(const char *path, struct err *err)
{
    char part[PATH_BYTES_MAX];
    struct stat st;

    if (strlen(path) >= sizeof part - 32)
        return err_set(err, E_INVALID, "the path %.100s... is too long", path);
    for (const char *at = path; at != NULL;) {
        at = strchr(at + 1, '/');
        size_t size = at == NULL ? strlen(path) : (size_t)(at - path);
        memcpy(part, path, size);
        part[size] = '\0';
        if (fault_hit() || (mkdir(part, 0700) != 0 && errno != EEXIST && stat(part, &st) != 0))
            return err_set(err, E_PERMISSION, "cannot make the folder %s: %s (--tls-dir)", part,
                           strerror(errno));
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return err_set(err, E_PRECONDITION, "%s is not a folder (--tls-dir)", path);
    if ((st.st_mode & 022) != 0)
        return err_set(err, E_PERMISSION,
                       "others may write into %s, where keys are kept: chmod go-w %s", path, path);
    return OK;
}

/* -- names ---------------------------------------------------------------------------------------- */

/* Letters, digits, '-', '_' and '.': nothing that would end a name in OpenSSL's list. */
static bool is_host_name(const char *name)
{
    for (const char *at = name; *at != '\0'; at++)
        if (!(*at >= 'a' && *at <= 'z') && !(*at >= 'A' && *at <= 'Z') &&
            !(*at >= '0' && *at <= '9') && *at != '-' && *at != '_' && *at != '.')
            return false;
    return name[0] != '\0' && strlen(name) <= 253;
}

static bool has_entry(const struct text *names, const char *entry)
{
    struct slice rest = text_slice(names);

    while (rest.size > 0) {
        struct slice one = slice_first(rest, slice_find(rest, ','));
        if (slice_is(one, entry))
            return true;
        rest = slice_skip(rest, MIN(one.size + 1, rest.size));
    }
    return false;
}

static void add_entry(struct maker *m, const char *kind, const char *name)
{
    char entry[300];

    snprintf(entry, sizeof entry, "%s:%s", kind, name);
    /* Those that find no room are left out: a machine with hundreds of addresses. */
    if (has_entry(&m->names, entry) || m->names.size + strlen(entry) + 2 > NAMES_BYTES_MAX)
        return;
    text_str(&m->names, m->names.size > 0 ? "," : "");
    text_str(&m->names, entry);
}

static void add_ip(struct maker *m, const struct sockaddr *any)
{
    char text[INET6_ADDRSTRLEN];
    const struct sockaddr_in *v4 = (const void *)any;
    const struct sockaddr_in6 *v6 = (const void *)any;

    if (any->sa_family == AF_INET)
        add_entry(m, "IP", inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text));
    else if (any->sa_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr))
        add_entry(m, "IP", inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text));
}

static bool is_every_address(const struct address *address)
{
    const struct sockaddr_in *v4 = (const void *)&address->storage;
    const struct sockaddr_in6 *v6 = (const void *)&address->storage;

    return address->any.sa_family == AF_INET ? v4->sin_addr.s_addr == htonl(INADDR_ANY)
           : address->any.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr)
                                                : false;
}

static void collect_names(struct maker *m)
{
    char host[256] = "";
    bool is_every = false;

    text_init_fixed(&m->names, m->names_memory, sizeof m->names_memory);
    add_entry(m, "DNS", "localhost");
    add_entry(m, "IP", "127.0.0.1");
    add_entry(m, "IP", "::1");
    if (gethostname(host, sizeof host - 1) == 0 && is_host_name(host))
        add_entry(m, "DNS", host);
    for (uint32_t i = 0; i < m->settings->addresses_count; i++) {
        is_every |= is_every_address(&m->settings->addresses[i]);
        if (!is_every_address(&m->settings->addresses[i]))
            add_ip(m, &m->settings->addresses[i].any);
    }
    struct ifaddrs *all = NULL;
    if (is_every && getifaddrs(&all) == 0)
        for (struct ifaddrs *at = all; at != NULL; at = at->ifa_next)
            if (at->ifa_addr != NULL && (at->ifa_flags & IFF_UP) != 0)
                add_ip(m, at->ifa_addr);
    if (all != NULL)
        freeifaddrs(all);
}

/* -- files ---------------------------------------------------------------------------------------- */

static enum err_code write_file(const char *path, mode_t mode, struct slice bytes, struct err *err)
{
    char fresh[PATH_BYTES_MAX];
    size_t at = 0;

    snprintf(fresh, sizeof fresh, "%s.new", path);
    (void)unlink(fresh); /* of one that was killed */
    int fd = fault_hit() ? (errno = EIO, -1)
                         : open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return err_set(err, E_PERMISSION, "cannot write %s: %s (--tls-dir)", fresh,
                       strerror(errno));
    while (at < bytes.size) {
        ssize_t put = fault_hit() ? (errno = ENOSPC, -1)
                                  : write(fd, bytes.data + at, bytes.size - at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            break;
        at += (size_t)put;
    }
    bool is_fine = at == bytes.size && fsync(fd) == 0;
    is_fine = close(fd) == 0 && is_fine;
    if (is_fine && !fault_hit() && rename(fresh, path) == 0)
        return OK;
    int error = errno;
    (void)unlink(fresh);
    return err_set(err, E_UNAVAILABLE, "cannot write %s: %s (--tls-dir)", path, strerror(error));
}

static enum err_code write_pem(const char *path, mode_t mode, X509 *x509, X509 *also, EVP_PKEY *key,
                               struct err *err)
{
    BIO *out = BIO_new(BIO_s_mem());
    char *bytes = NULL;
    enum err_code code;

    bool is_fine = out != NULL && (x509 == NULL || PEM_write_bio_X509(out, x509) == 1) &&
                   (also == NULL || PEM_write_bio_X509(out, also) == 1) &&
                   (key == NULL ||
                    PEM_write_bio_PKCS8PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) == 1);
    if (!is_fine) {
        code = failed(err, "a certificate could not be written");
    } else {
        long size = BIO_get_mem_data(out, &bytes);
        code = write_file(path, mode, slice_make(bytes, (size_t)size), err);
    }
    BIO_free(out);
    return code;
}

/* NULL: it is not there, or cannot be read. */
static X509 *read_certificate(const char *path)
{
    uint8_t *bytes;
    size_t size;
    struct err err;

    if (tls_file_read(&bytes, &size, path, &err) != OK)
        return NULL;
    BIO *in = BIO_new_mem_buf(bytes, (int)size);
    X509 *x509 = in == NULL ? NULL : PEM_read_bio_X509(in, NULL, NULL, NULL);
    BIO_free(in);
    mem_free(bytes);
    ERR_clear_error();
    return x509;
}

static EVP_PKEY *read_key(const char *path)
{
    uint8_t *bytes;
    size_t size;
    struct err err;

    if (tls_file_read(&bytes, &size, path, &err) != OK)
        return NULL;
    BIO *in = BIO_new_mem_buf(bytes, (int)size);
    char none[] = "";
    EVP_PKEY *key = in == NULL ? NULL : PEM_read_bio_PrivateKey(in, NULL, NULL, none);
    BIO_free(in);
    OPENSSL_cleanse(bytes, size);
    mem_free(bytes);
    ERR_clear_error();
    return key;
}

/* -- certificates --------------------------------------------------------------------------------- */

static bool add_extension(X509 *x509, X509 *issuer, int kind, const char *value)
{
    X509V3_CTX context;

    X509V3_set_ctx(&context, issuer, x509, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    bool is_fine = extension != NULL && X509_add_ext(x509, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return is_fine;
}

static bool set_serial(X509 *x509)
{
    uint8_t bytes[16];

    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return false;
    bytes[0] &= 0x7f;
    BIGNUM *number = BN_bin2bn(bytes, sizeof bytes, NULL);
    bool is_fine =
        number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x509)) != NULL;
    BN_free(number);
    return is_fine;
}

/* From an hour ago, since clocks differ. */
static bool set_times(X509 *x509, uint64_t wall_s, long days)
{
    time_t base = (time_t)wall_s;

    return X509_time_adj_ex(X509_getm_notBefore(x509), 0, -3600, &base) != NULL &&
           X509_time_adj_ex(X509_getm_notAfter(x509), (int)days, 0, &base) != NULL;
}

static bool set_name(X509 *x509, const char *name)
{
    return X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "O", MBSTRING_UTF8,
                                      (const unsigned char *)"Penstock", -1, -1, 0) == 1 &&
           X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_UTF8,
                                      (const unsigned char *)name, -1, -1, 0) == 1;
}

static X509 *begin_certificate(EVP_PKEY *key, const char *name, uint64_t wall_s, long days)
{
    X509 *x509 = X509_new();

    if (x509 != NULL && X509_set_version(x509, X509_VERSION_3) == 1 && set_serial(x509) &&
        set_times(x509, wall_s, days) && set_name(x509, name) && X509_set_pubkey(x509, key) == 1)
        return x509;
    X509_free(x509);
    return NULL;
}

static enum err_code make_authority(struct maker *m, struct err *err)
{
    char host[256] = "", name[64];

    if (gethostname(host, sizeof host - 1) != 0 || !is_host_name(host))
        snprintf(host, sizeof host, "this machine");
    snprintf(name, sizeof name, "Penstock local authority (%.32s)", host);
    m->authority_pkey = EVP_EC_gen("P-256");
    m->authority = m->authority_pkey == NULL ? NULL
                                             : begin_certificate(m->authority_pkey, name,
                                                                 m->settings->wall_s,
                                                                 AUTHORITY_DAYS);
    X509 *x = m->authority;
    if (x == NULL || X509_set_issuer_name(x, X509_get_subject_name(x)) != 1 ||
        !add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(x, x, NID_ext_key_usage, "serverAuth") ||
        !add_extension(x, x, NID_subject_key_identifier, "hash") ||
        X509_sign(x, m->authority_pkey, EVP_sha256()) <= 0)
        return failed(err, "a local authority could not be made");
    TRY(write_pem(m->authority_key, 0600, NULL, NULL, m->authority_pkey, err));
    TRY(write_pem(m->paths.authority, 0644, m->authority, NULL, NULL, err));
    log_info("made a local authority: %s", m->paths.authority);
    return OK;
}

/* The one that is there, or a fresh one. */
static enum err_code open_authority(struct maker *m, struct err *err)
{
    m->authority = read_certificate(m->paths.authority);
    m->authority_pkey = read_key(m->authority_key);
    if (m->authority != NULL && m->authority_pkey != NULL &&
        X509_check_private_key(m->authority, m->authority_pkey) == 1 &&
        tls_certificate_begins_s(m->authority) <= m->settings->wall_s &&
        tls_certificate_expires_s(m->authority) >
            m->settings->wall_s + (uint64_t)SERVER_DAYS * DAY_S)
        return OK;
    ERR_clear_error();
    if (m->authority != NULL)
        log_warn("the local authority %s is over, or its key is lost: a new one is made, and has "
                 "to be trusted again",
                 m->paths.authority);
    X509_free(m->authority);
    EVP_PKEY_free(m->authority_pkey);
    m->authority = NULL;
    m->authority_pkey = NULL;
    return make_authority(m, err);
}

static enum err_code make_server(struct maker *m, struct err *err)
{
    enum err_code code = OK;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = key == NULL
                  ? NULL
                  : begin_certificate(key, "localhost", m->settings->wall_s, SERVER_DAYS);

    if (x == NULL || X509_set_issuer_name(x, X509_get_subject_name(m->authority)) != 1 ||
        !add_extension(x, m->authority, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(x, m->authority, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(x, m->authority, NID_ext_key_usage, "serverAuth") ||
        !add_extension(x, m->authority, NID_subject_key_identifier, "hash") ||
        !add_extension(x, m->authority, NID_authority_key_identifier, "keyid") ||
        !add_extension(x, m->authority, NID_subject_alt_name, text_cstr(&m->names)) ||
        X509_sign(x, m->authority_pkey, EVP_sha256()) <= 0)
        code = failed(err, "a certificate of this machine could not be made");
    if (code == OK)
        code = write_pem(m->paths.key, 0600, NULL, NULL, key, err);
    if (code == OK)
        code = write_pem(m->paths.cert, 0600, x, m->authority, NULL, err);
    if (code == OK)
        log_info("made a certificate of this machine for %d days: %s", SERVER_DAYS, m->paths.cert);
    X509_free(x);
    EVP_PKEY_free(key);
    return code;
}

/* Does it stand for every name that is wanted? */
static bool has_names(X509 *x509, const struct text *names)
{
    struct slice rest = text_slice(names);

    while (rest.size > 0) {
        char entry[300];
        struct slice one = slice_first(rest, slice_find(rest, ','));
        rest = slice_skip(rest, MIN(one.size + 1, rest.size));
        snprintf(entry, sizeof entry, "%.*s", SLICE_ARG(one));
        bool has = strncmp(entry, "IP:", 3) == 0
                       ? X509_check_ip_asc(x509, entry + 3, 0) == 1
                       : X509_check_host(x509, entry + 4, 0, 0, NULL) == 1;
        if (!has)
            return false;
    }
    return true;
}

static enum err_code prepare(struct maker *m, struct err *err)
{
    TRY(open_authority(m, err));
    X509 *x509 = read_certificate(m->paths.cert);
    EVP_PKEY *key = read_key(m->paths.key);
    bool is_good = x509 != NULL && key != NULL && X509_check_private_key(x509, key) == 1 &&
                   X509_verify(x509, m->authority_pkey) == 1 && has_names(x509, &m->names) &&
                       tls_certificate_begins_s(x509) <= m->settings->wall_s &&
                   tls_certificate_expires_s(x509) >
                       m->settings->wall_s + (uint64_t)RENEW_DAYS * DAY_S;
    ERR_clear_error();
    X509_free(x509);
    EVP_PKEY_free(key);
    return is_good ? OK : make_server(m, err);
}

enum err_code tls_auto_prepare(const struct tls_auto_settings *settings, struct err *err)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(4096, 64 * 1024);
    struct maker m = { .settings = settings };
    char lock_path[PATH_BYTES_MAX];

    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for paths");
    TRY(tls_auto_paths(settings->directory, arena, &m.paths, err));
    TRY(make_folders(m.paths.directory, err));
    m.authority_key = arena_printf(arena, "%s/authority.key", m.paths.directory);
    if (m.authority_key == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for paths");
    snprintf(lock_path, sizeof lock_path, "%s/lock", m.paths.directory);
    int lock = fault_hit() ? (errno = EIO, -1) : open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0 || flock(lock, LOCK_EX) != 0) {
        err_set(err, E_PERMISSION, "cannot lock %s: %s (--tls-dir)", lock_path, strerror(errno));
        if (lock >= 0)
            close(lock);
        return E_PERMISSION;
    }
    collect_names(&m);
    enum err_code code = prepare(&m, err);
    close(lock);
    X509_free(m.authority);
    EVP_PKEY_free(m.authority_pkey);
    return code;
}
