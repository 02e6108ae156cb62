/* tls_server.c - what a TLS listener needs, as one snapshot of files. SPDX-License-Identifier: Apache-2.0
 *
 * A snapshot is built beside the one in use and exchanged when all of it is good. A handshake holds the
 * snapshot it began with; a session behind its handshake holds its context only, which OpenSSL counts.
 *
 * Files are looked at by stat, a thread of its own, every watch_ns: what changed is read when it has not
 * changed for one more look, so that a certificate and a key that are written one after the other are not
 * taken apart as a rule; and when they are, they do not fit, and the former pair stays.
 *
 * Each context can begin a handshake (only the first does), and one is put in place of another when the
 * client has said which name it means. Who may show a certificate, tickets and ciphers are the same for
 * all names, so no name is a way around them.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "io/env.h"
#include "io/loop.h"
#include "io/socket.h"
#include "io/tls_auto.h"
#include "io/tls_internal.h"
#include "telemetry/metrics.h"

enum { ARENA_BYTES = 4096, ARENA_CAP = 1024 * 1024, WARN_DAYS = 14, CHORES_S = 60 };

/* -- snapshots ------------------------------------------------------------------------------------ */

struct tls_snapshot *tls_snapshot_take(struct tls_server *server)
{
    pthread_mutex_lock(&server->mutex);
    struct tls_snapshot *snapshot = server->now;
    atomic_fetch_add_explicit(&snapshot->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&server->mutex);
    return snapshot;
}

void tls_snapshot_give(struct tls_snapshot **slot)
{
    struct tls_snapshot *snapshot = TAKE(*slot);

    if (snapshot == NULL || atomic_fetch_sub_explicit(&snapshot->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < snapshot->identities_count; i++)
        tls_identity_deinit(&snapshot->identities[i]);
    tls_callers_deinit(&snapshot->callers);
    mem_free(snapshot);
}

/* -- what happens in a handshake ------------------------------------------------------------------- */

static int on_name(SSL *ssl, int *alert, void *context)
{
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    struct tls_session *s = tls_session_of(ssl);

    (void)alert, (void)context;
    if (name == NULL || s == NULL || s->snapshot == NULL)
        return SSL_TLSEXT_ERR_NOACK;
    struct slice host = slice_of(name);
    if (slice_ends(host, "."))
        host.size--;
    for (uint32_t i = 0; i < s->snapshot->identities_count; i++) {
        struct tls_identity *identity = &s->snapshot->identities[i];
        if (!tls_identity_has_name(identity, host))
            continue;
        if (i > 0 && SSL_set_SSL_CTX(ssl, identity->context) == NULL)
            return SSL_TLSEXT_ERR_ALERT_FATAL;
        return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_NOACK;
}

/* RFC 7301 3.2: ours first, and none in common is the end. */
static int on_alpn(SSL *ssl, const unsigned char **ret, unsigned char *ret_size,
                   const unsigned char *offered, unsigned size, void *context)
{
    static const unsigned char ours[] = { 2, 'h', '2', 8, 'h', 't', 't', 'p', '/', '1', '.', '1' };
    unsigned char *found;

    (void)ssl, (void)context;
    if (SSL_select_next_proto(&found, ret_size, ours, sizeof ours, offered, size) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *ret = found;
    return SSL_TLSEXT_ERR_OK;
}

static int on_status(SSL *ssl, void *context)
{
    const struct tls_session *s = tls_session_of(ssl);
    const struct tls_identity *identity = context;

    if (s == NULL || identity->ocsp == NULL ||
        s->server->env->wall_ns(s->server->env) / NS_PER_S >= identity->ocsp_until_s)
        return SSL_TLSEXT_ERR_NOACK;
    unsigned char *copy = OPENSSL_memdup(identity->ocsp, identity->ocsp_size);
    if (copy == NULL || SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)identity->ocsp_size) != 1) {
        OPENSSL_free(copy);
        return SSL_TLSEXT_ERR_NOACK;
    }
    return SSL_TLSEXT_ERR_OK;
}

/* -- making one ------------------------------------------------------------------------------------- */

static void load_ocsp(struct tls_server *server, const struct tls_pair *pair,
                      struct tls_identity *identity)
{
    struct err err;

    enum err_code code = tls_identity_load_ocsp(
        identity, pair->ocsp, server->env->wall_ns(server->env) / NS_PER_S, &err);
    if (code != OK && !(code == E_NOT_FOUND && !pair->must_have_ocsp))
        log_warn("%s", err.text);
}

static enum err_code make_identity(struct tls_server *server, const struct tls_snapshot *snapshot,
                                   const struct tls_pair *pair, struct tls_identity *identity,
                                   struct err *err)
{
    SSL_CTX *context = identity->context = tls_context_new(TLS_server_method(), err);

    if (context == NULL)
        return err->code;
    TRY(tls_identity_load(identity, pair->cert, pair->key, err));
    TRY(tls_callers_serve(&snapshot->callers, server->settings.client_auth, context, err));
    load_ocsp(server, pair, identity);
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (server->tickets != NULL)
        tls_tickets_serve(server->tickets, context);
    else
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(context, server->tickets != NULL ? 1 : 0);
    SSL_CTX_set_tlsext_servername_callback(context, on_name);
    SSL_CTX_set_alpn_select_cb(context, on_alpn, NULL);
    SSL_CTX_set_tlsext_status_cb(context, on_status);
    SSL_CTX_set_tlsext_status_arg(context, identity);
    return OK;
}

static enum err_code make_snapshot(struct tls_server *server, struct tls_snapshot **ret,
                                   struct err *err)
{
    struct tls_snapshot *snapshot = mem_zalloc(sizeof *snapshot);
    enum err_code code = OK;

    if (snapshot == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for certificates");
    atomic_init(&snapshot->refs, 1);
    code = tls_callers_load(&snapshot->callers, &server->settings,
                            server->env->wall_ns(server->env) / NS_PER_S, err);
    for (uint32_t i = 0; code == OK && i < server->pairs_count; i++) {
        struct tls_identity *identity = &snapshot->identities[snapshot->identities_count++];
        code = make_identity(server, snapshot, &server->pairs[i], identity, err);
    }
    if (code != OK)
        tls_snapshot_give(&snapshot);
    else
        *ret = snapshot;
    return code;
}

/* -- time ------------------------------------------------------------------------------------------- */

/* One that has expired is worse than none that is asked for again: the former may still be good. */
static enum err_code check_times(struct tls_server *server, const struct tls_snapshot *snapshot,
                                 struct err *err)
{
    uint64_t wall_s = server->env->wall_ns(server->env) / NS_PER_S;

    for (uint32_t i = 0; i < snapshot->identities_count; i++) {
        const struct tls_identity *identity = &snapshot->identities[i];
        if (identity->expires_s <= wall_s)
            return err_set(err, E_PRECONDITION, "the certificate %s has expired",
                           identity->cert_path);
        if (tls_certificate_begins_s(identity->x509) > wall_s)
            return err_set(err, E_PRECONDITION, "the certificate %s is not valid yet",
                           identity->cert_path);
    }
    return OK;
}

static void warn_of_expiry(struct tls_server *server)
{
    uint64_t wall_s = server->env->wall_ns(server->env) / NS_PER_S;
    struct tls_snapshot *snapshot = tls_snapshot_take(server);

    for (uint32_t i = 0; i < snapshot->identities_count; i++) {
        const struct tls_identity *identity = &snapshot->identities[i];
        uint64_t left_s = identity->expires_s > wall_s ? identity->expires_s - wall_s : 0;
        uint64_t begins_s = tls_certificate_begins_s(identity->x509);
        if (left_s == 0)
            log_error("the certificate %s has expired: clients refuse it", identity->cert_path);
        else if (begins_s > wall_s)
            log_error("the certificate %s is not valid yet, but in %.1f days: clients refuse it (is "
                      "the clock of this machine right?)",
                      identity->cert_path, (double)(begins_s - wall_s) / 86400);
        else if (left_s < WARN_DAYS * UINT64_C(86400))
            log_warn("the certificate %s expires in %.1f days", identity->cert_path,
                     (double)left_s / 86400);
    }
    tls_callers_warn(&snapshot->callers, server->settings.client_ca, wall_s);
    tls_snapshot_give(&snapshot);
}

/* Said once for each list: from then on callers who show a certificate are refused (RFC 5280 6.3.3). */
static void look_at_lists(struct tls_server *server)
{
    struct tls_snapshot *snapshot = tls_snapshot_take(server);
    uint64_t until_s = snapshot->callers.list_until_s;

    tls_snapshot_give(&snapshot);
    if (until_s == server->list_said_s || server->env->wall_ns(server->env) / NS_PER_S < until_s)
        return;
    server->list_said_s = until_s;
    log_error(
        "a list of --tls-client-crl %s has expired: certificates of callers are refused until "
        "there is a newer one",
        server->settings.client_crl);
}

/* -- reloading -------------------------------------------------------------------------------------- */

static enum err_code prepare_auto(struct tls_server *server, struct err *err)
{
    struct tls_auto_settings settings = {
        .directory = server->settings.directory,
        .addresses = server->settings.addresses,
        .addresses_count = server->settings.addresses_count,
        .wall_s = server->env->wall_ns(server->env) / NS_PER_S,
    };

    for (uint32_t i = 0; i < server->pairs_count; i++)
        if (server->pairs[i].is_auto)
            return tls_auto_prepare(&settings, err);
    return OK;
}

static enum err_code reload(struct tls_server *server, bool is_first, struct err *err)
{
    struct tls_snapshot *fresh = NULL;

    TRY(prepare_auto(server, err));
    TRY(make_snapshot(server, &fresh, err));
    if (!is_first && check_times(server, fresh, err) != OK) {
        tls_snapshot_give(&fresh);
        return err->code;
    }
    if (!is_first && server->tickets != NULL && tls_tickets_reload(server->tickets, err) != OK) {
        tls_snapshot_give(&fresh);
        return err->code;
    }
    pthread_mutex_lock(&server->mutex);
    struct tls_snapshot *former = server->now;
    server->now = fresh;
    pthread_mutex_unlock(&server->mutex);
    tls_snapshot_give(&former);
    return OK;
}

static bool look_at_files(struct tls_server *server)
{
    bool has_changed = false;

    for (uint32_t i = 0; i < server->stamps_count; i++)
        has_changed |= tls_stamp_look(&server->stamps[i]);
    return has_changed;
}

enum err_code tls_server_reload(struct tls_server *server, struct err *err)
{
    pthread_mutex_lock(&server->reloading);
    enum err_code code = reload(server, false, err);
    pthread_mutex_unlock(&server->reloading);
    atomic_fetch_add(code == OK ? &server->reloads : &server->reloads_refused, 1);
    return code;
}

static void reload_changed(struct tls_server *server)
{
    struct err err;

    if (tls_server_reload(server, &err) == OK) {
        log_info("TLS: certificates and keys were read anew");
        warn_of_expiry(server);
    } else {
        log_error("TLS: the former certificates stay: %s", err.text);
    }
}

/* -- its thread --------------------------------------------------------------------------------------- */

static void chores(struct tls_server *server, uint64_t now_ns)
{
    struct err err;

    if (server->tickets != NULL)
        tls_tickets_rotate(server->tickets, now_ns);
    look_at_lists(server);
    if (now_ns - server->warned_ns < 86400 * NS_PER_S)
        return;
    server->warned_ns = now_ns;
    warn_of_expiry(server);
    if (prepare_auto(server, &err) != OK) /* what it writes is seen as a change */
        log_error("TLS: the certificate of this machine could not be renewed: %s", err.text);
}

static void watch(void *arg)
{
    struct tls_server *server = arg;
    struct env *env = server->env;
    uint64_t step_ns = CHORES_S * NS_PER_S;
    bool is_pending = false;

    if (server->settings.watch_ns != 0)
        step_ns = MIN(step_ns, server->settings.watch_ns);
    while (!atomic_load(&server->is_stopping)) {
        uint64_t now_ns = env->mono_ns(env);
        chores(server, now_ns);
        if (server->settings.watch_ns != 0) {
            bool has_changed = look_at_files(server);
            if (is_pending && !has_changed)
                reload_changed(server);
            is_pending = has_changed;
        }
        env->worker_sleep(env, server->worker, now_ns + step_ns);
    }
}

enum err_code tls_server_start(struct tls_server *server, struct err *err)
{
    server->warned_ns = server->env->mono_ns(server->env);
    return server->env->worker_start(server->env, &server->worker, "tls", watch, server, err);
}

/* -- life ---------------------------------------------------------------------------------------------- */

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for TLS");
}

static enum err_code add_stamp(struct tls_server *server, const char *path, struct err *err)
{
    struct tls_stamp *stamp = &server->stamps[server->stamps_count];

    stamp->path = mem_strdup(path);
    if (stamp->path == NULL)
        return no_memory(err);
    server->stamps_count++;
    return OK;
}

static enum err_code split_pair(struct tls_server *server, const char *text, struct tls_pair *pair,
                                struct err *err)
{
    struct slice rest = slice_of(text), cert = slice_first(rest, slice_find(rest, ','));
    struct slice key, ocsp;

    rest = slice_skip(rest, MIN(cert.size + 1, rest.size));
    key = slice_first(rest, slice_find(rest, ','));
    ocsp = slice_skip(rest, MIN(key.size + 1, rest.size));
    if (cert.size == 0 || key.size == 0 || slice_find(ocsp, ',') < ocsp.size)
        return err_set(err, E_INVALID,
                       "'%s': expected CERT.pem,KEY.pem (and ,OCSP.der where there is one), or auto",
                       text);
    pair->must_have_ocsp = ocsp.size > 0;
    pair->cert = arena_strndup(server->arena, cert.data, cert.size);
    pair->key = arena_strndup(server->arena, key.data, key.size);
    pair->ocsp = ocsp.size > 0 ? arena_strndup(server->arena, ocsp.data, ocsp.size)
                               : arena_printf(server->arena, "%.*s.ocsp", SLICE_ARG(cert));
    return pair->cert == NULL || pair->key == NULL || pair->ocsp == NULL ? no_memory(err) : OK;
}

static enum err_code use_auto(struct tls_server *server, struct tls_pair *pair, struct err *err)
{
    struct tls_auto_paths paths;

    TRY(tls_auto_paths(server->settings.directory, server->arena, &paths, err));
    pair->is_auto = true;
    pair->cert = paths.cert;
    pair->key = paths.key;
    server->settings.directory = paths.directory;
    server->authority = paths.authority;
    pair->ocsp = arena_printf(server->arena, "%s.ocsp", paths.cert);
    return pair->ocsp == NULL ? no_memory(err) : OK;
}

static enum err_code read_pairs(struct tls_server *server, const struct tls_server_settings *given,
                                struct err *err)
{
    if (given->pairs_count == 0 || given->pairs_count > TLS_PAIRS_MAX)
        return err_set(err, E_INVALID, "TLS takes 1 to %d certificates, and there are %u",
                       TLS_PAIRS_MAX, given->pairs_count);
    for (uint32_t i = 0; i < given->pairs_count; i++) {
        struct tls_pair *pair = &server->pairs[server->pairs_count++];
        if (strcmp(given->pairs[i], "auto") == 0)
            TRY(use_auto(server, pair, err));
        else
            TRY(split_pair(server, given->pairs[i], pair, err));
        TRY(add_stamp(server, pair->cert, err));
        TRY(add_stamp(server, pair->key, err));
        TRY(add_stamp(server, pair->ocsp, err));
    }
    if (given->client_ca[0] != '\0')
        TRY(add_stamp(server, server->settings.client_ca, err));
    if (given->client_crl[0] != '\0')
        TRY(add_stamp(server, server->settings.client_crl, err));
    if (given->ticket_keys[0] != '\0')
        TRY(add_stamp(server, server->settings.ticket_keys, err));
    return OK;
}

static const char *copy_text(struct tls_server *server, const char *text)
{
    return text == NULL ? "" : arena_strndup(server->arena, text, strlen(text));
}

static enum err_code open_server(struct tls_server *server, const struct tls_server_settings *given,
                                 struct err *err)
{
    struct tls_server_settings *own = &server->settings;
    size_t size = given->addresses_count * sizeof *given->addresses;

    *own = *given;
    own->pairs = NULL;
    own->directory = copy_text(server, given->directory);
    own->client_ca = copy_text(server, given->client_ca);
    own->client_crl = copy_text(server, given->client_crl);
    own->ticket_keys = copy_text(server, given->ticket_keys);
    struct address *addresses = arena_alloc(server->arena, size + 1);
    own->addresses = addresses;
    server->authority = "";
    if (own->directory == NULL || own->client_ca == NULL || own->client_crl == NULL ||
        own->ticket_keys == NULL || addresses == NULL)
        return no_memory(err);
    if (size > 0)
        memcpy(addresses, given->addresses, size);
    TRY(read_pairs(server,
                   &(struct tls_server_settings){ .pairs = given->pairs,
                                                  .pairs_count = given->pairs_count,
                                                  .client_ca = own->client_ca,
                                                  .client_crl = own->client_crl,
                                                  .ticket_keys = own->ticket_keys },
                   err));
    if (own->ticket_ns != 0)
        TRY(tls_tickets_new(&server->tickets, server->env, own->ticket_keys, own->ticket_ns, err));
    TRY(reload(server, true, err));
    look_at_files(server);
    warn_of_expiry(server);
    return OK;
}

enum err_code tls_server_new(struct tls_server **ret, struct env *env,
                             const struct tls_server_settings *settings, struct err *err)
{
    struct tls_server *server = mem_zalloc(sizeof *server);

    if (server == NULL || (server->arena = arena_new(ARENA_BYTES, ARENA_CAP)) == NULL) {
        mem_free(server);
        return no_memory(err);
    }
    server->env = env;
    pthread_mutex_init(&server->mutex, NULL);
    pthread_mutex_init(&server->reloading, NULL);
    enum err_code code = open_server(server, settings, err);
    if (code != OK)
        tls_server_free(&server);
    else
        *ret = server;
    return code;
}

void tls_server_free(struct tls_server **slot)
{
    struct tls_server *server = TAKE(*slot);

    if (server == NULL)
        return;
    if (server->worker != NULL) {
        atomic_store(&server->is_stopping, true);
        server->env->worker_wake(server->env, server->worker);
        server->env->worker_join(server->env, &server->worker);
    }
    tls_snapshot_give(&server->now);
    tls_tickets_free(&server->tickets);
    for (uint32_t i = 0; i < server->stamps_count; i++)
        mem_free(server->stamps[i].path);
    pthread_mutex_destroy(&server->mutex);
    pthread_mutex_destroy(&server->reloading);
    arena_free(&server->arena);
    mem_free(server);
}

const char *tls_server_authority(const struct tls_server *server)
{
    return server->authority;
}

const char *tls_server_trusted_by(struct tls_server *server)
{
    struct tls_snapshot *snapshot = tls_snapshot_take(server);
    X509 *x509 = snapshot->identities[0].x509;
    bool is_own = X509_NAME_cmp(X509_get_subject_name(x509), X509_get_issuer_name(x509)) == 0;

    tls_snapshot_give(&snapshot);
    return server->pairs[0].is_auto ? server->authority : is_own ? server->pairs[0].cert : "";
}

const char *tls_server_name(struct tls_server *server)
{
    struct tls_snapshot *snapshot = tls_snapshot_take(server);
    const struct tls_identity *first = &snapshot->identities[0];
    const char *name = "";

    for (uint32_t i = 0; i < first->names_count && name[0] == '\0'; i++)
        if (first->names[i][0] != '*' && strlen(first->names[i]) < 254)
            name = arena_strndup(server->arena, first->names[i], strlen(first->names[i]));
    tls_snapshot_give(&snapshot);
    return name == NULL ? "" : name;
}

bool tls_server_has_name(struct tls_server *server, struct slice host)
{
    struct tls_snapshot *snapshot = tls_snapshot_take(server);
    X509 *x509 = snapshot->identities[0].x509;
    char name[256];

    if (host.size >= 2 && host.data[0] == '[')
        host = slice_make(host.data + 1, host.size - 2);
    snprintf(name, sizeof name, "%.*s", SLICE_ARG(host));
    bool has = X509_check_ip_asc(x509, name, 0) == 1 || X509_check_host(x509, name, 0, 0, NULL) == 1;
    ERR_clear_error();
    tls_snapshot_give(&snapshot);
    return has;
}

enum err_code tls_accept(struct tls_session **ret, struct tls_server *server, int fd,
                         struct slice ahead, bool is_drained, struct err *err)
{
    struct tls_snapshot *snapshot = tls_snapshot_take(server);
    struct tls_session *s;

    if (tls_session_make(&s, snapshot->identities[0].context, fd, err) != OK) {
        tls_snapshot_give(&snapshot);
        return err->code;
    }
    s->server = server;
    s->snapshot = snapshot;
    SSL_set_accept_state(s->ssl);
    if (ahead.size > 0) {
        s->ahead = mem_alloc(ahead.size);
        if (s->ahead == NULL) {
            tls_session_free(&s);
            return err_set(err, E_EXHAUSTED, "no memory for a TLS connection");
        }
        memcpy(s->ahead, ahead.data, ahead.size);
        s->ahead_size = ahead.size;
    }
    s->drained_turn = is_drained ? loop_turn() : 0;
    *ret = s;
    return OK;
}

/* -- metrics --------------------------------------------------------------------------------------------- */

static void render(void *context, struct text *out)
{
    static const char expires[] = "penstock_tls_certificate_expires_in_seconds";
    static const char lists[] = "penstock_tls_client_crl_expires_in_seconds";
    struct tls_server *server = context;
    struct tls_snapshot *snapshot = tls_snapshot_take(server);
    double wall_s = (double)(server->env->wall_ns(server->env) / NS_PER_S);
    char memory[512];

    metrics_family(out, expires, "gauge", "Until each certificate expires; below 0: it has");
    for (uint32_t i = 0; i < snapshot->identities_count; i++) {
        const struct tls_identity *identity = &snapshot->identities[i];
        struct text labels;
        text_init_fixed(&labels, memory, sizeof memory);
        metrics_label(&labels, "certificate", slice_of(identity->cert_path), true);
        if (!text_failed(&labels))
            metrics_sample_f64(out, expires, text_cstr(&labels),
                               (double)identity->expires_s - wall_s);
    }
    uint64_t list_until_s = snapshot->callers.list_until_s;
    tls_snapshot_give(&snapshot);
    if (list_until_s != UINT64_MAX) {
        metrics_family(out, lists, "gauge",
                       "Until the first list of --tls-client-crl expires; below 0: it has");
        metrics_sample_f64(out, lists, "", (double)list_until_s - wall_s);
    }
    metrics_family(out, "penstock_tls_reloads_total", "counter",
                   "Times that certificates and keys were read anew");
    metrics_sample_u64(out, "penstock_tls_reloads_total", "result=\"ok\"",
                       atomic_load(&server->reloads));
    metrics_sample_u64(out, "penstock_tls_reloads_total", "result=\"refused\"",
                       atomic_load(&server->reloads_refused));
    metrics_family(out, "penstock_tls_ticket_keys", "gauge", "Keys that open session tickets");
    metrics_sample_u64(out, "penstock_tls_ticket_keys", "",
                       server->tickets == NULL ? 0 : tls_tickets_count(server->tickets));
}

enum err_code tls_server_register(struct tls_server *server, struct metrics *metrics,
                                  struct err *err)
{
    return metrics == NULL ? OK : metrics_add_source(metrics, render, server, err);
}
