/* tls_internal.h - what the files of TLS share. */
#ifndef IO_TLS_INTERNAL_H
#define IO_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <time.h>

#include "io/tls.h"

struct arena;
struct text;

enum {
    TLS_FILE_BYTES_MAX = 1024 * 1024,
    TLS_HELLO_BYTES_MAX = 32 * 1024, /* of any message of a handshake: certificates too */
    TLS_TICKET_KEYS_MAX = 8,
    TLS_NAMES_MAX = 100, /* of one certificate, that callers may ask for */
};

/* -- tls.c ---------------------------------------------------------------------------------- */

struct tls_snapshot;

struct tls_session {
    SSL *ssl;
    int fd;                    /* borrowed: the channel's */
    struct tls_server *server; /* borrowed; NULL: a client's */
    struct tls_snapshot *snapshot; /* one reference, until the handshake is over */
    uint8_t *ahead;            /* owned: received before the session was; NULL: used */
    size_t ahead_at, ahead_size;
    struct certificate *certificate; /* owned */
    struct arena *names;             /* owned; of certificate */
    uint8_t *held;                   /* owned: a ticket that waits for an answer; NULL: none */
    size_t held_at, held_size;
    size_t refused;                  /* of the record that the socket did not take; 0: none */
    size_t raw_bytes;                /* received since the last bytes for the application */
    uint64_t drained_turn; /* of the loop, in which the socket was found empty; 0: unknown */
    enum tls_failure failure;
    int alert;          /* the peer's last one, that it broke off with; 0: none */
    bool fin_seen;      /* there is an end behind what was received */
    bool is_drained;    /* the last recv of the socket brought less than asked */
    bool is_open;       /* the handshake is over */
    bool has_failed, at_end;
    bool reads_when_writable;
};

/* What all contexts have in common, both sides. NULL: err says why. */
SSL_CTX *tls_context_new(const SSL_METHOD *method, struct err *err);
struct tls_session *tls_session_of(const SSL *ssl);
/* The reason that OpenSSL gives first, for people; empties its queue. */
void tls_reason(char *out, size_t size);
MUST_USE enum err_code tls_session_make(struct tls_session **ret, SSL_CTX *context, int fd,
                                        struct err *err);

/* -- tls_certificate.c -------------------------------------------------------------------------- */

MUST_USE enum err_code tls_certificate_read(struct certificate **ret, struct arena **ret_arena,
                                            X509 *x509, struct err *err);
uint64_t tls_certificate_expires_s(const X509 *x509);
uint64_t tls_certificate_begins_s(const X509 *x509);

/* -- tls_form.c --------------------------------------------------------------------------------- */

enum tls_form {
    TLS_FORM_EMPTY,
    TLS_FORM_CERT,
    TLS_FORM_CERT_DER,
    TLS_FORM_KEY, /* with a password or without */
    TLS_FORM_KEY_DER,
    TLS_FORM_OPENSSH_KEY,
    TLS_FORM_PUBLIC_KEY,
    TLS_FORM_LIST, /* of revoked certificates */
    TLS_FORM_LIST_DER,
    TLS_FORM_REQUEST,
    TLS_FORM_PKCS7,
    TLS_FORM_PKCS12,
    TLS_FORM_UNKNOWN
};
/* By its first block, where it is PEM. */
enum tls_form tls_form_of(struct slice bytes);
/* E_PRECONDITION: what that file is, where `wanted` (CERT, KEY, LIST) was, and how to come by it. */
enum err_code tls_form_refuse(const char *path, struct slice bytes, enum tls_form wanted,
                              const char *reason, struct err *err);

/* -- tls_files.c -------------------------------------------------------------------------------- */

/* A file as it was when it was looked at: another time, size or inode is another file. */
struct tls_stamp {
    char *path; /* owned */
    bool is_there;
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec changed, written;
};
bool tls_stamp_look(struct tls_stamp *stamp); /* true: it is not as it was */

/* One certificate with its key, able to serve. */
struct tls_identity {
    SSL_CTX *context; /* owned */
    X509 *x509;       /* owned */
    X509 *issuer;     /* owned; who signed it; NULL: not in the file */
    char *names[TLS_NAMES_MAX]; /* owned; lower case, "*.example.com" */
    uint32_t names_count;
    char *cert_path;                /* owned */
    uint8_t *ocsp;                  /* owned; DER; NULL: none, or a bad one */
    size_t ocsp_size;
    uint64_t ocsp_until_s;          /* Unix time: after that it is not shown */
    uint64_t expires_s;
};

void tls_identity_deinit(struct tls_identity *identity);
/* Fills in context (made by the caller), names and times from these files. */
MUST_USE enum err_code tls_identity_load(struct tls_identity *identity, const char *cert_path,
                                         const char *key_path, struct err *err);
/* A bad answer is said in err, and none is shown. */
MUST_USE enum err_code tls_identity_load_ocsp(struct tls_identity *identity, const char *path,
                                              uint64_t wall_s, struct err *err);
/* Does this certificate stand for that host? RFC 6125 6.4.3: "*" for one whole label, the first. */
bool tls_identity_has_name(const struct tls_identity *identity, struct slice host);
MUST_USE enum err_code tls_file_read(uint8_t **ret, size_t *ret_size, const char *path,
                                     struct err *err);

/* -- tls_callers.c ------------------------------------------------------------------------------ */

enum { TLS_DIGEST_BYTES = 32 };

struct tls_callers {
    X509_STORE *store;               /* owned; NULL: nobody is asked */
    STACK_OF(X509_NAME) * names;     /* owned: authorities that callers are told of */
    uint64_t list_until_s;           /* Unix time: the soonest end of a list; UINT64_MAX: none */
    uint8_t rules[TLS_DIGEST_BYTES]; /* whether a caller is asked, and who may have signed */
    uint8_t files[TLS_DIGEST_BYTES]; /* the same, and the lists */
};

/* Reads the files of client_ca and client_crl; err names option and file. What was read is the caller's to
 * deinit, also on failure. */
MUST_USE enum err_code tls_callers_load(struct tls_callers *callers,
                                        const struct tls_server_settings *settings, uint64_t wall_s,
                                        struct err *err);
void tls_callers_deinit(struct tls_callers *callers);
/* Logs which authorities vouch for nobody now: expired, not valid yet, or none at all. */
void tls_callers_warn(const struct tls_callers *callers, const char *path, uint64_t wall_s);
MUST_USE enum err_code tls_callers_serve(const struct tls_callers *callers,
                                         enum tls_client_auth auth, SSL_CTX *context,
                                         struct err *err);
/* Every certificate of a PEM file; names: NULL, or their subjects are added. */
MUST_USE enum err_code tls_authorities_add(X509_STORE *store, STACK_OF(X509_NAME) * names,
                                           const char *path, struct slice bytes, struct err *err);

/* -- tls_tickets.c ------------------------------------------------------------------------------ */

struct tls_tickets; /* any thread */

MUST_USE enum err_code tls_tickets_new(struct tls_tickets **ret, struct env *env, const char *path,
                                       uint64_t ticket_ns, struct err *err);
void tls_tickets_free(struct tls_tickets **tickets);
/* Reads the file anew; keys of our own change when it is time. */
MUST_USE enum err_code tls_tickets_reload(struct tls_tickets *tickets, struct err *err);
void tls_tickets_rotate(struct tls_tickets *tickets, uint64_t mono_ns);
uint32_t tls_tickets_count(struct tls_tickets *tickets);
void tls_tickets_serve(struct tls_tickets *tickets, SSL_CTX *context);

/* -- tls_server.c --------------------------------------------------------------------------------- */

/* All that comes from files; read-only; counted. */
struct tls_snapshot {
    _Atomic uint32_t refs;
    struct tls_callers callers;
    struct tls_identity identities[TLS_PAIRS_MAX];
    uint32_t identities_count;
};

struct tls_server {
    struct env *env;
    struct tls_server_settings settings; /* its texts are owned by the copies below */
    struct arena *arena;                 /* owned: copies of the settings */
    struct tls_pair {
        const char *cert, *key, *ocsp; /* in the arena */
        bool is_auto, must_have_ocsp;
    } pairs[TLS_PAIRS_MAX];
    uint32_t pairs_count;
    const char *authority; /* in the arena */
    struct tls_tickets *tickets;
    struct tls_stamp stamps[3 * TLS_PAIRS_MAX + 3];
    uint32_t stamps_count;
    struct worker *worker;
    _Atomic bool is_stopping;
    uint64_t warned_ns;
    uint64_t list_said_s; /* the end of the list that the log has told of */
    _Atomic uint64_t reloads, reloads_refused;
    pthread_mutex_t mutex; /* leaf: guards the exchange of the snapshot */
    struct tls_snapshot *now;
    pthread_mutex_t reloading; /* one at a time; `mutex` is taken within */
};

struct tls_snapshot *tls_snapshot_take(struct tls_server *server);
void tls_snapshot_give(struct tls_snapshot **snapshot);

#endif
