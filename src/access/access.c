/* access.c - SPDX-License-Identifier: Apache-2.0
 *
 * How it is kept: `now` is the newest rules, behind one mutex that is held for a pointer and a count.
 * Credentials that were seen lead, by their SHA-256, to a caller in a table of fixed size; a caller knows
 * by which rules it was found, and which of them speak of it. So a request costs a digest, a look-up under
 * a mutex of its own (one of 64), and a few comparisons; nothing is read twice.
 *
 * A reload puts a new generation in place. Callers of older ones are found anew when their credentials
 * come again; one that is still in use (a stream) is asked by caller_may, which sees the difference and
 * asks the newest rules: is the credential still there, and what may it do now?
 *
 * Digests are compared as bytes: who could measure how many of them agree would have to find preimages of
 * SHA-256 to use it.
 */
#include "access/access.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <nettle/sha2.h>

#include "access/internal.h"
#include "access/jwt.h"
#include "access/key.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/nearest.h"
#include "telemetry/metrics.h"

enum {
    SHARDS = 64,
    WAYS = 32, /* credentials that each keeps: 2048 in all */
    CREDENTIAL_BYTES_MAX = 65536,
    PATH_BYTES_MAX = 4096,
};

#define VERDICTS(X)                             \
    X(anonymous, "identified", "anonymous")     \
    X(key, "identified", "key")                 \
    X(token, "identified", "token")             \
    X(certificate, "identified", "certificate") \
    X(unknown, "refused", "unknown")            \
    X(malformed, "refused", "malformed")        \
    X(expired, "refused", "expired")            \
    X(bad_token, "refused", "token")            \
    X(unauthenticated, "refused", "anonymous")  \
    X(denied, "refused", "rules")

struct slot {
    uint8_t digest[DIGEST_BYTES];
    struct caller *caller; /* one reference; NULL: free */
};

struct shard {
    pthread_mutex_t lock; /* leaf */
    struct slot slots[WAYS];
    uint32_t next; /* which is given up for the next */
};

struct access {
    char *path; /* NULL: no rules */
    bool is_admin;
    pthread_mutex_t reload_lock; /* one reload at a time; over `lock` */
    pthread_mutex_t lock;        /* `now`, issuers' jwks; leaf */
    struct rules *now;
    struct caller *anonymous;    /* of `now`; one reference */
    _Atomic uint64_t generation; /* of `now` */
    struct tenants tenants;
    struct shard *shards;
    struct {
#define X(name, outcome, why) _Atomic uint64_t name;
        VERDICTS(X)
#undef X
    } counts;
    uint8_t
        files_read[DIGEST_BYTES]; /* files_digest of what was read last, good or bad; reload_lock */
    uint8_t files_seen[DIGEST_BYTES]; /* ... when access_has_changed looked last; its thread's */
    _Atomic uint64_t reloads, reloads_failed, key_sets, key_sets_failed, callers_kept;
};

static struct caller open_caller = {
    .is_constant = true, .name = "", .expires_s = UINT64_MAX, .rights = UINT32_MAX
};
static struct caller open_admin = {
    .is_constant = true, .is_admin = true, .name = "", .expires_s = UINT64_MAX, .rights = UINT32_MAX
};

static void count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* -- callers ------------------------------------------------------------------------------------- */

static bool who_fits(const struct who *who, enum caller_kind kind, const char *name,
                     const struct tenant *tenant)
{
    bool has_name = kind != CALLER_ANONYMOUS && kind != CALLER_REFUSED;

    switch (who->kind) {
    case WHO_ANONYMOUS: return kind == CALLER_ANONYMOUS;
    case WHO_NAMED: return has_name;
    case WHO_TENANT: return has_name && strcmp(tenant->name, who->name) == 0;
    case WHO_NAME: return has_name && strcmp(name, who->name) == 0;
    }
    return false;
}

static bool rule_speaks_of(const struct rule *rule, enum caller_kind kind, const char *name,
                           const struct tenant *tenant)
{
    for (uint32_t i = 0; i < rule->who_count; i++)
        if (who_fits(&rule->who[i], kind, name, tenant))
            return true;
    return false;
}

static char *put_name(char **at, struct slice name)
{
    char *to = *at;

    if (name.size > 0)
        memcpy(to, name.data, name.size);
    to[name.size] = '\0';
    *at += name.size + 1;
    return to;
}

static void copy_digest(uint8_t to[DIGEST_BYTES], const uint8_t *from)
{
    if (from != NULL)
        memcpy(to, from, DIGEST_BYTES);
}

/* A name has no zero byte, so no other pair gives the same bytes. */
static void identity_digest(const struct identity *who, uint8_t ret[DIGEST_BYTES])
{
    struct sha256_ctx sha;

    sha256_init(&sha);
    sha256_update(&sha, who->name.size, who->name.data);
    sha256_update(&sha, 1, (const uint8_t *)"");
    sha256_update(&sha, strlen(who->tenant->name), (const uint8_t *)who->tenant->name);
    sha256_digest(&sha, DIGEST_BYTES, ret);
}

/* Takes a reference of the rules for itself. NULL: no memory. */
static struct caller *caller_new(struct access *access, struct rules *rules, uint64_t generation,
                                 const struct identity *who)
{
    size_t names = who->name.size + who->certificate.size + who->known_as.size + 3;
    size_t at = (sizeof(struct caller) + names + 7) & ~(size_t)7;
    struct caller *caller = mem_zalloc(at + rules->rules_count * sizeof(struct rule *));

    if (caller == NULL)
        return NULL;
    atomic_init(&caller->refs, 1);
    caller->kind = who->kind;
    caller->access = access;
    caller->generation = generation;
    atomic_fetch_add_explicit(&rules->refs, 1, memory_order_relaxed);
    caller->rules = rules;
    caller->tenant = who->tenant;
    caller->expires_s = who->expires_s;
    caller->rights = who->rights;
    copy_digest(caller->credential, who->credential);
    copy_digest(caller->issuer, who->issuer);
    copy_digest(caller->signer, who->signer);
    char *text = caller->names;
    caller->name = put_name(&text, who->name);
    caller->certificate = put_name(&text, who->certificate);
    caller->known_as = put_name(&text, who->known_as);
    if (who->name.size > 0)
        identity_digest(who, caller->digest);
    caller->matching = (const struct rule **)(void *)((char *)caller + at);
    for (uint32_t i = 0; i < rules->rules_count; i++)
        if (rule_speaks_of(&rules->rules[i], who->kind, caller->name, who->tenant))
            caller->matching[caller->rules_count++] = &rules->rules[i];
    return caller;
}

struct caller *caller_ref(struct caller *caller)
{
    if (caller != NULL && !caller->is_constant)
        atomic_fetch_add_explicit(&caller->refs, 1, memory_order_relaxed);
    return caller;
}

void caller_unref(struct caller **slot)
{
    struct caller *caller = TAKE(*slot);

    if (caller == NULL || caller->is_constant ||
        atomic_fetch_sub_explicit(&caller->refs, 1, memory_order_acq_rel) != 1)
        return;
    rules_unref(&caller->rules);
    mem_free(caller);
}

bool caller_is_anonymous(const struct caller *caller)
{
    return caller == NULL || caller->name[0] == '\0';
}

bool caller_is_ambient(const struct caller *caller)
{
    return caller != NULL && caller->kind == CALLER_CERTIFICATE;
}

const char *caller_name(const struct caller *caller)
{
    return caller == NULL ? "" : caller->name;
}

const char *caller_known_as(const struct caller *caller)
{
    return caller != NULL && caller->kind == CALLER_REFUSED ? caller->known_as : caller_name(caller);
}

struct tenant *caller_tenant(const struct caller *caller)
{
    return caller == NULL ? NULL : caller->tenant;
}

void caller_digest(const struct caller *caller, uint8_t ret[DIGEST_BYTES])
{
    if (caller == NULL)
        memset(ret, 0, DIGEST_BYTES);
    else
        memcpy(ret, caller->digest, DIGEST_BYTES);
}

/* -- the newest rules ---------------------------------------------------------------------------- */

static struct rules *rules_now(struct access *access, uint64_t *ret_generation)
{
    pthread_mutex_lock(&access->lock);
    struct rules *rules = access->now;
    *ret_generation = atomic_load(&access->generation);
    atomic_fetch_add_explicit(&rules->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&access->lock);
    return rules;
}

static struct caller *anonymous_now(struct access *access)
{
    pthread_mutex_lock(&access->lock);
    struct caller *caller = caller_ref(access->anonymous);
    pthread_mutex_unlock(&access->lock);
    return caller;
}

static struct caller *new_anonymous(struct access *access, struct rules *rules, uint64_t generation)
{
    struct identity who = { .kind = CALLER_ANONYMOUS,
                            .tenant = access->tenants.all[0],
                            .expires_s = UINT64_MAX,
                            .rights = UINT32_MAX };

    return caller_new(access, rules, generation, &who);
}

static void forget_all(struct access *access)
{
    for (uint32_t i = 0; access->shards != NULL && i < SHARDS; i++) {
        struct shard *shard = &access->shards[i];
        pthread_mutex_lock(&shard->lock);
        for (uint32_t j = 0; j < WAYS; j++)
            caller_unref(&shard->slots[j].caller);
        pthread_mutex_unlock(&shard->lock);
    }
    atomic_store(&access->callers_kept, 0);
}

/* -- reading --------------------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

static void warn_of_readers(const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0 && (st.st_mode & 007) != 0)
        log_warn(
            "%s may be read or written by everybody on this machine: it holds who may do what; "
            "chmod o-rwx %s",
            path, path);
}

/* Of a key set that lies in a file. A relative path is relative to the file that names it. False: it is too
 * long. */
static bool key_file(const char *named_by, const struct issuer *issuer, char path[PATH_BYTES_MAX])
{
    const char *slash = strrchr(named_by, '/');
    int folder = slash == NULL || issuer->source[0] == '/' ? 0 : (int)(slash - named_by) + 1;

    return snprintf(path, PATH_BYTES_MAX, "%.*s%s", folder, named_by, issuer->source) <
           PATH_BYTES_MAX;
}

static void add_file(struct sha256_ctx *sha, const char *path)
{
    struct stat st;
    uint64_t numbers[6] = { 0 };

    if (stat(path, &st) == 0) {
        numbers[0] = 1;
        numbers[1] = (uint64_t)st.st_dev;
        numbers[2] = (uint64_t)st.st_ino;
        numbers[3] = (uint64_t)st.st_size;
        numbers[4] = (uint64_t)st.st_mtim.tv_sec;
        numbers[5] = (uint64_t)st.st_mtim.tv_nsec;
    }
    sha256_update(sha, sizeof numbers, (const uint8_t *)numbers);
}

/* What tells whether one of the files is another: of the rules that are in place. */
static void files_digest(struct access *access, uint8_t ret[DIGEST_BYTES])
{
    char path[PATH_BYTES_MAX];
    struct sha256_ctx sha;

    sha256_init(&sha);
    add_file(&sha, access->path);
    if (access->now != NULL) {
        uint64_t generation;
        CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
        for (uint32_t i = 0; i < rules->issuers_count; i++)
            if (!rules->issuers[i].is_url && key_file(access->path, &rules->issuers[i], path))
                add_file(&sha, path);
    }
    sha256_digest(&sha, DIGEST_BYTES, ret);
}

bool access_has_changed(struct access *access)
{
    uint8_t digest[DIGEST_BYTES];

    if (!access_has_rules(access))
        return false;
    pthread_mutex_lock(&access->reload_lock);
    files_digest(access, digest);
    bool is_other = memcmp(digest, access->files_read, DIGEST_BYTES) != 0;
    bool stands_still = memcmp(digest, access->files_seen, DIGEST_BYTES) == 0;
    memcpy(access->files_seen, digest, DIGEST_BYTES);
    pthread_mutex_unlock(&access->reload_lock);
    return is_other && stands_still;
}

static enum err_code read_key_files(struct access *access, struct rules *rules, struct err *err)
{
    for (uint32_t i = 0; i < rules->issuers_count; i++) {
        struct issuer *issuer = &rules->issuers[i];
        CLEANUP(buf_unref) struct buf *bytes = NULL;
        char path[PATH_BYTES_MAX];
        if (issuer->is_url)
            continue;
        if (!key_file(access->path, issuer, path))
            return err_set(err, E_INVALID, "issuers[%u].keys: the path is too long", i);
        if (file_read(&bytes, NULL, path, JWKS_BYTES_MAX, err) != OK ||
            jwks_new(&issuer->jwks, buf_bytes(bytes), issuer->algorithms, err) != OK)
            return err_wrap(err, "%s: issuers[%u].keys: %.200s", base_name(access->path), i,
                            issuer->source);
    }
    return OK;
}

/* Key sets of URLs stay while the same issuer has the same URL. Under `lock`. */
static void keep_fetched(const struct rules *old, struct rules *fresh)
{
    for (uint32_t i = 0; i < fresh->issuers_count; i++) {
        struct issuer *to = &fresh->issuers[i];
        for (uint32_t j = 0; to->is_url && old != NULL && j < old->issuers_count; j++) {
            const struct issuer *from = &old->issuers[j];
            if (from->is_url && from->algorithms == to->algorithms &&
                strcmp(from->source, to->source) == 0 && to->jwks == NULL && from->jwks != NULL)
                to->jwks = jwks_ref(from->jwks);
        }
    }
}

static enum err_code load(struct access *access, struct err *err)
{
    CLEANUP(buf_unref) struct buf *text = NULL;
    CLEANUP(rules_unref) struct rules *fresh = NULL;
    CLEANUP(caller_unref) struct caller *anonymous = NULL;
    struct rules_read read;

    TRY(file_read(&text, NULL, access->path, FILE_BYTES_MAX, err));
    TRY(rules_read_yaml(&read, &access->tenants, buf_bytes(text), base_name(access->path), err));
    fresh = read.rules;
    TRY(read_key_files(access, fresh, err));
    uint64_t generation = atomic_load(&access->generation) + 1; /* only reload_lock's owner adds */
    anonymous = new_anonymous(access, fresh, generation);
    if (anonymous == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the rules");
    for (uint32_t i = 0; i < read.wishes_count; i++)
        tenant_set(read.wishes[i].tenant, &read.wishes[i].limits);
    pthread_mutex_lock(&access->lock);
    struct rules *old = access->now;
    struct caller *old_anonymous = access->anonymous;
    keep_fetched(old, fresh);
    bool lets_nobody = fresh->rules_count == 0;
    access->now = TAKE(fresh);
    access->anonymous = TAKE(anonymous);
    atomic_store(&access->generation, generation);
    pthread_mutex_unlock(&access->lock);
    forget_all(access);
    caller_unref(&old_anonymous);
    rules_unref(&old);
    if (lets_nobody)
        log_warn("%s has no rule, so that nobody may do anything", base_name(access->path));
    return OK;
}

enum err_code access_reload(struct access *access, uint64_t wall_ns UNUSED, struct err *err)
{
    if (access->path == NULL)
        return OK;
    pthread_mutex_lock(&access->reload_lock);
    uint8_t before[DIGEST_BYTES];
    files_digest(access, before);
    enum err_code code = load(access, err);
    /* A bad file is not read again before it changes; what changed while it was read is, and what could not
     * be read at all (no descriptor, no memory) is tried again, as it may say that a key is withdrawn. */
    files_digest(access, access->files_read);
    if (code == E_INVALID)
        memcpy(access->files_read, before, DIGEST_BYTES);
    else if (code != OK)
        memset(access->files_read, 0, DIGEST_BYTES);
    count(code == OK ? &access->reloads : &access->reloads_failed);
    /* Each time: an editor or a copy may have put a file of another mode in place of a good one. */
    if (code == OK)
        warn_of_readers(access->path);
    pthread_mutex_unlock(&access->reload_lock);
    return code;
}

/* What was found by the former keys is found anew, as a key that is gone may have made it. */
static enum err_code put_keys(struct access *access, const char *url,
                              struct jwks *jwks[ISSUERS_MAX], struct rules *rules, struct err *err)
{
    CLEANUP(caller_unref) struct caller *anonymous = NULL;
    uint64_t generation = atomic_load(&access->generation) + 1;

    anonymous = new_anonymous(access, rules, generation);
    if (anonymous == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the keys");
    pthread_mutex_lock(&access->lock);
    bool is_other = false;
    for (uint32_t i = 0; i < rules->issuers_count; i++) {
        struct issuer *issuer = &rules->issuers[i];
        if (jwks[i] == NULL)
            continue;
        is_other |= !jwks_is_same(issuer->jwks, jwks[i]);
        struct jwks *former = issuer->jwks;
        issuer->jwks = jwks[i];
        jwks[i] = former;
    }
    if (is_other) {
        struct caller *former = access->anonymous;
        access->anonymous = anonymous;
        anonymous = former;
        atomic_store(&access->generation, generation);
    }
    pthread_mutex_unlock(&access->lock);
    if (is_other) {
        forget_all(access);
        log_info("keys of tokens from %s: taken", url);
    }
    return OK;
}

static enum err_code set_keys(struct access *access, const char *url, struct slice bytes,
                              struct err *err)
{
    struct jwks *jwks[ISSUERS_MAX] = { NULL };
    uint64_t generation;
    CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
    enum err_code code = OK;
    bool is_known = false;

    for (uint32_t i = 0; i < rules->issuers_count && code == OK; i++) {
        const struct issuer *issuer = &rules->issuers[i];
        if (!issuer->is_url || strcmp(issuer->source, url) != 0)
            continue;
        is_known = true;
        code = jwks_new(&jwks[i], bytes, issuer->algorithms, err);
    }
    if (code == OK && !is_known)
        code = err_set(err, E_NOT_FOUND, "no issuer has its keys there any more");
    if (code == OK)
        code = put_keys(access, url, jwks, rules, err);
    for (uint32_t i = 0; i < ISSUERS_MAX; i++)
        jwks_unref(&jwks[i]);
    return code == OK ? OK : err_wrap(err, "keys of tokens from %.200s", url);
}

enum err_code access_set_keys(struct access *access, const char *url, struct slice jwks,
                              uint64_t wall_ns UNUSED, struct err *err)
{
    require(access->path != NULL);
    pthread_mutex_lock(&access->reload_lock);
    enum err_code code = set_keys(access, url, jwks, err);
    count(code == OK ? &access->key_sets : &access->key_sets_failed);
    pthread_mutex_unlock(&access->reload_lock);
    return code;
}

bool access_key_url(struct access *access, uint32_t index, struct access_key_url *ret)
{
    uint32_t at = 0;
    bool is_found = false;

    if (!access_has_rules(access))
        return false;
    pthread_mutex_lock(&access->lock);
    for (uint32_t i = 0; i < access->now->issuers_count && !is_found; i++) {
        struct issuer *issuer = &access->now->issuers[i];
        if (!issuer->is_url || at++ != index)
            continue;
        is_found = true;
        snprintf(ret->url, sizeof ret->url, "%s", issuer->source);
        ret->has_keys = issuer->jwks != NULL;
        ret->is_wanted = atomic_exchange(&issuer->is_wanted, false);
    }
    pthread_mutex_unlock(&access->lock);
    return is_found;
}

enum err_code access_new(struct access **ret, const char *path, uint64_t wall_ns, struct err *err)
{
    CLEANUP(access_free) struct access *access = mem_zalloc(sizeof *access);

    if (access == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the rules");
    pthread_mutex_init(&access->lock, NULL);
    pthread_mutex_init(&access->reload_lock, NULL);
    if (path == NULL || path[0] == '\0') {
        *ret = TAKE(access);
        return OK;
    }
    access->path = mem_strdup(path);
    access->shards = mem_zalloc(SHARDS * sizeof *access->shards);
    for (uint32_t i = 0; access->shards != NULL && i < SHARDS; i++)
        pthread_mutex_init(&access->shards[i].lock, NULL);
    access->tenants.all[0] = tenant_new("default", 0, NULL);
    access->tenants.count = access->tenants.all[0] != NULL;
    if (access->path == NULL || access->shards == NULL || access->tenants.count == 0)
        return err_set(err, E_EXHAUSTED, "no memory for the rules");
    TRY(access_reload(access, wall_ns, err));
    *ret = TAKE(access);
    return OK;
}

void access_free(struct access **slot)
{
    struct access *access = TAKE(*slot);

    if (access == NULL)
        return;
    forget_all(access);
    for (uint32_t i = 0; access->shards != NULL && i < SHARDS; i++)
        pthread_mutex_destroy(&access->shards[i].lock);
    caller_unref(&access->anonymous);
    rules_unref(&access->now);
    for (uint32_t i = 0; i < access->tenants.count; i++)
        mem_free(access->tenants.all[i]);
    pthread_mutex_destroy(&access->lock);
    pthread_mutex_destroy(&access->reload_lock);
    mem_free(access->shards);
    mem_free(access->path);
    mem_free(access);
}

enum { WARNINGS_MAX = 10 };

static void warn_of_model(const struct access *access, const struct rules *rules,
                          const struct rule *rule, const char *model, bool is_pattern,
                          const char *const *names, uint32_t names_count)
{
    struct nearest nearest = nearest_to(slice_of(model));

    for (uint32_t i = 0; i < names_count && !is_pattern; i++)
        nearest_offer(&nearest, names[i]);
    const char *best = nearest_best(&nearest);
    log_warn("%s: line %u: rules[%u].models: no model%s '%s'%s%s%s; one that comes later counts",
             base_name(access->path), rule->line, (unsigned)(rule - rules->rules),
             is_pattern ? " fits" : " is called", model, best != NULL ? ", did you mean '" : "",
             best != NULL ? best : "", best != NULL ? "'?" : "");
}

static bool has_model(const char *const *names, uint32_t count_of, const char *model, bool is_pattern)
{
    for (uint32_t i = 0; i < count_of; i++)
        if (is_pattern ? pattern_fits(model, slice_of(names[i])) : strcmp(model, names[i]) == 0)
            return true;
    return false;
}

void access_warn_of_models(struct access *access, const char *const *names, uint32_t names_count)
{
    uint64_t generation, warned = 0;

    if (!access_has_rules(access))
        return;
    CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
    for (uint32_t i = 0; i < rules->rules_count; i++) {
        const struct rule *rule = &rules->rules[i];
        for (uint32_t j = 0; j < rule->literals_count + rule->patterns_count; j++) {
            bool is_pattern = j >= rule->literals_count;
            const char *model = is_pattern ? rule->patterns[j - rule->literals_count] : rule->literals[j];
            if (!has_model(names, names_count, model, is_pattern) && warned++ < WARNINGS_MAX)
                warn_of_model(access, rules, rule, model, is_pattern, names, names_count);
        }
    }
    if (warned > WARNINGS_MAX)
        log_warn("%s: %llu more names of models in rules are no model's", base_name(access->path),
                 (unsigned long long)(warned - WARNINGS_MAX));
}

enum err_code access_check(struct slice yaml, struct err *err)
{
    struct tenants tenants = { 0 };
    struct rules_read read;

    tenants.all[0] = tenant_new("default", 0, NULL);
    if (tenants.all[0] == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the rules");
    tenants.count = 1;
    enum err_code code = rules_read_yaml(&read, &tenants, yaml, "access", err);
    rules_unref(&read.rules);
    for (uint32_t i = 0; i < tenants.count; i++)
        mem_free(tenants.all[i]);
    return code;
}

void access_key_files(struct slice yaml, const char *path,
                      void (*each)(void *context, const char *file), void *context)
{
    struct tenants tenants = { 0 };
    struct rules_read read = { 0 };
    char file[PATH_BYTES_MAX];
    struct err ignored;

    tenants.all[0] = tenant_new("default", 0, NULL);
    if (tenants.all[0] == NULL)
        return;
    tenants.count = 1;
    if (rules_read_yaml(&read, &tenants, yaml, "access", &ignored) == OK) {
        for (uint32_t i = 0; i < read.rules->issuers_count; i++) {
            const struct issuer *issuer = &read.rules->issuers[i];
            if (!issuer->is_url && key_file(path, issuer, file))
                each(context, file);
        }
    }
    rules_unref(&read.rules);
    for (uint32_t i = 0; i < tenants.count; i++)
        mem_free(tenants.all[i]);
}

void access_allow_admin(struct access *access)
{
    access->is_admin = true;
}

bool access_has_rules(const struct access *access)
{
    return access != NULL && access->path != NULL;
}

bool access_wants_certificates(struct access *access)
{
    uint64_t generation;

    if (!access_has_rules(access))
        return false;
    CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
    return rules->certificates_count > 0;
}

bool access_has_keys(struct access *access)
{
    uint64_t generation;

    if (!access_has_rules(access))
        return false;
    CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
    return rules->keys_count > 0 || rules->issuers_count > 0;
}

void access_set_budget(struct access *access, struct budget *parent)
{
    access->tenants.parent = parent;
    for (uint32_t i = 0; i < access->tenants.count; i++)
        access->tenants.all[i]->budget.parent = parent;
}

/* -- credentials ----------------------------------------------------------------------------------- */

static struct shard *shard_of(struct access *access, const uint8_t digest[DIGEST_BYTES])
{
    return &access->shards[digest[0] % SHARDS];
}

static struct caller *find_kept(struct access *access, const uint8_t digest[DIGEST_BYTES])
{
    struct shard *shard = shard_of(access, digest);
    struct caller *found = NULL;

    pthread_mutex_lock(&shard->lock);
    for (uint32_t i = 0; i < WAYS && found == NULL; i++)
        if (shard->slots[i].caller != NULL &&
            memcmp(shard->slots[i].digest, digest, DIGEST_BYTES) == 0)
            found = caller_ref(shard->slots[i].caller);
    pthread_mutex_unlock(&shard->lock);
    return found;
}

/* One that a reload has made old meanwhile is not kept: forget_all has passed here, or will. */
static void keep(struct access *access, const uint8_t digest[DIGEST_BYTES], struct caller *caller)
{
    struct shard *shard = shard_of(access, digest);

    pthread_mutex_lock(&shard->lock);
    if (caller->generation == atomic_load(&access->generation)) {
        struct slot *slot = NULL;
        for (uint32_t i = 0; i < WAYS && slot == NULL; i++)
            if (shard->slots[i].caller == NULL ||
                memcmp(shard->slots[i].digest, digest, DIGEST_BYTES) == 0)
                slot = &shard->slots[i];
        if (slot == NULL)
            slot = &shard->slots[shard->next++ % WAYS];
        if (slot->caller == NULL)
            count(&access->callers_kept);
        caller_unref(&slot->caller);
        memcpy(slot->digest, digest, DIGEST_BYTES);
        slot->caller = caller_ref(caller);
    }
    pthread_mutex_unlock(&shard->lock);
}

static const struct key *find_key(const struct rules *rules, const uint8_t digest[DIGEST_BYTES])
{
    size_t from = 0, to = rules->keys_count;

    while (from < to) {
        size_t middle = from + (to - from) / 2;
        int order = memcmp(rules->keys[middle].digest, digest, DIGEST_BYTES);
        if (order == 0)
            return &rules->keys[middle];
        if (order < 0)
            from = middle + 1;
        else
            to = middle;
    }
    return NULL;
}

static enum err_code fail_unknown(struct access *access, struct slice key, struct err *err)
{
    count(&access->counts.unknown);
    if (key_is_damaged(key))
        return err_set(err, E_UNAUTHENTICATED,
                       "the key is not whole: it was mistyped or cut off when it was copied");
    return err_set(err, E_UNAUTHENTICATED,
                   "the key is not one this server knows; it may be mistyped or withdrawn");
}

static const char *kind_word(enum caller_kind kind)
{
    return kind == CALLER_KEY ? "key" : kind == CALLER_TOKEN ? "token" : "certificate";
}

static enum err_code fail_expired(struct access *access, enum caller_kind kind, struct err *err)
{
    count(&access->counts.expired);
    return err_set(err, E_UNAUTHENTICATED, "the %s has expired; ask for a new one",
                   kind_word(kind));
}

static enum err_code no_memory(struct err *err)
{
    err_set(err, E_EXHAUSTED, "no memory to look at the credentials; retry later");
    if (err != NULL)
        err->retry_after_ms = 1000;
    return E_EXHAUSTED;
}

/* `shown`: the key itself, for the words of a failure; empty where it is gone. */
static enum err_code caller_of_key(struct access *access, struct rules *rules, uint64_t generation,
                                   struct slice shown, const uint8_t digest[DIGEST_BYTES],
                                   uint64_t wall_ns, struct caller **ret, struct err *err)
{
    const struct key *key = find_key(rules, digest);

    if (key == NULL)
        return fail_unknown(access, shown, err);
    if (wall_ns / NS_PER_S >= key->expires_s)
        return fail_expired(access, CALLER_KEY, err);
    struct identity who = { .kind = CALLER_KEY,
                            .name = slice_of(key->name),
                            .tenant = key->tenant,
                            .expires_s = key->expires_s,
                            .rights = UINT32_MAX,
                            .credential = digest };
    *ret = caller_new(access, rules, generation, &who);
    return *ret != NULL ? OK : no_memory(err);
}

static struct jwks *keys_of(struct access *access, const struct issuer *issuer)
{
    pthread_mutex_lock(&access->lock);
    struct jwks *jwks = jwks_ref(issuer->jwks);
    pthread_mutex_unlock(&access->lock);
    return jwks;
}

/* The tenant that a token names, where the file has it; else its issuer's. */
static struct tenant *tenant_of(const struct rules *rules, const struct issuer *issuer,
                                const char *name)
{
    for (uint32_t i = 0; name[0] != '\0' && i < rules->tenants_count; i++)
        if (strcmp(rules->tenants[i]->name, name) == 0)
            return rules->tenants[i];
    return issuer->tenant;
}

static enum err_code prove(struct access *access, const struct rules *rules, struct slice token,
                           uint64_t wall_ns, const struct issuer **ret_issuer,
                           struct jwt_claims *ret, struct err *err)
{
    CLEANUP(jwt_deinit) struct jwt jwt = { 0 };
    CLEANUP(jwks_unref) struct jwks *jwks = NULL;

    TRY(jwt_read(&jwt, rules->issuers, rules->issuers_count, token, err));
    jwks = keys_of(access, jwt.issuer);
    enum err_code code = jwt_prove(&jwt, jwks, ret, err);
    if (code == E_NOT_FOUND) {
        if (jwt.issuer->is_url)
            atomic_store(&((struct issuer *)(uintptr_t)jwt.issuer)->is_wanted, true);
        return err->code = E_UNAUTHENTICATED;
    }
    if (code != OK)
        return code;
    *ret_issuer = jwt.issuer;
    return jwt_judge(jwt.issuer, jwt.doc, wall_ns / NS_PER_S, ret, err);
}

static enum err_code caller_of_token(struct access *access, struct rules *rules,
                                     uint64_t generation, struct slice token,
                                     const uint8_t digest[DIGEST_BYTES], uint64_t wall_ns,
                                     struct caller **ret, struct err *err)
{
    const struct issuer *issuer = NULL;
    struct jwt_claims claims;
    enum err_code code = prove(access, rules, token, wall_ns, &issuer, &claims, err);

    if (code == E_UNAUTHENTICATED)
        count(&access->counts.bad_token);
    if (code != OK)
        return code;
    struct identity who = { .kind = CALLER_TOKEN,
                            .name = slice_of(claims.name),
                            .tenant = tenant_of(rules, issuer, claims.tenant),
                            .expires_s = claims.expires_s,
                            .rights = claims.rights,
                            .credential = digest,
                            .issuer = issuer->digest,
                            .signer = claims.signer };
    *ret = caller_new(access, rules, generation, &who);
    return *ret != NULL ? OK : no_memory(err);
}

static enum err_code identify_token(struct access *access, struct slice token, uint64_t wall_ns,
                                    struct caller **ret, struct err *err)
{
    CLEANUP(caller_unref) struct caller *caller = NULL;
    uint8_t digest[DIGEST_BYTES];

    key_digest(token, digest);
    caller = find_kept(access, digest);
    if (UNLIKELY(caller == NULL)) {
        uint64_t generation;
        CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
        if (find_key(rules, digest) == NULL && rules->issuers_count > 0 && jwt_is_one(token))
            TRY(caller_of_token(access, rules, generation, token, digest, wall_ns, &caller, err));
        else
            TRY(caller_of_key(access, rules, generation, token, digest, wall_ns, &caller, err));
        keep(access, digest, caller);
    }
    if (UNLIKELY(wall_ns / NS_PER_S >= caller->expires_s))
        return fail_expired(access, caller->kind, err);
    count(caller->kind == CALLER_KEY ? &access->counts.key : &access->counts.token);
    *ret = TAKE(caller);
    return OK;
}

static enum err_code malformed(struct access *access, struct err *err, const char *words)
{
    if (access != NULL)
        count(&access->counts.malformed);
    return err_set(err, E_UNAUTHENTICATED, "%s", words);
}

/* RFC 6750 2.1: "Bearer" and blanks, without case. What stands behind it is one word. */
static enum err_code bearer_of(struct access *access, struct slice value, struct slice *ret,
                               struct err *err)
{
    struct slice text = slice_trim(value);
    size_t word = slice_find(text, ' ');

    if (text.size == 0)
        return malformed(access, err,
                         "the authorization header is empty; it takes `Bearer` and a key or token");
    if (!slice_is_nocase(slice_first(text, word), "bearer"))
        return malformed(
            access, err,
            word == text.size
                ? "the authorization header names no scheme: write `Authorization: Bearer "
                  "KEY`, or send the key as x-api-key"
                : "the authorization header takes `Bearer` and a key or token, no other "
                  "scheme");
    *ret = slice_trim(slice_skip(text, word));
    if (ret->size == 0)
        return malformed(access, err, "nothing stands behind `Bearer` in the authorization header");
    if (slice_find(*ret, ' ') != ret->size || slice_find(*ret, ',') != ret->size)
        return malformed(access, err,
                         "more than one word stands behind `Bearer` in the authorization header");
    return OK;
}

static enum err_code api_key_of(struct access *access, struct slice value, struct slice *ret,
                                struct err *err)
{
    *ret = slice_trim(value);
    if (ret->size == 0)
        return malformed(access, err, "the x-api-key header is empty");
    if (slice_find(*ret, ' ') != ret->size || slice_find(*ret, ',') != ret->size)
        return malformed(access, err,
                         "x-api-key takes the key alone, without `Bearer` or anything else");
    return OK;
}

/* Names of a certificate lie one behind the other with a line feed between them, which none has. */
static struct slice next_name(struct slice *names)
{
    struct slice name = slice_first(*names, slice_find(*names, '\n'));

    *names = slice_skip(*names, MIN(name.size + 1, names->size));
    return name;
}

static char *join_names(const struct certificate *c, size_t *ret_size)
{
    size_t size = 0;

    for (uint32_t i = 0; i < c->names_count; i++)
        size += c->names[i].size + 1;
    char *joined = mem_alloc(size + 1), *at = joined;
    for (uint32_t i = 0; joined != NULL && i < c->names_count; i++) {
        memcpy(at, c->names[i].data, c->names[i].size);
        at += c->names[i].size;
        *at++ = '\n';
    }
    *ret_size = size;
    return joined;
}

/* The name that a line gives to whoever has these names; without data: none. Where the line has none of its
 * own it is the one that fits, of which there may be one only: what stands first is the choice of whoever
 * asked for the certificate. */
static enum err_code name_by_line(const struct certificate_name *line, struct slice names,
                                  struct slice *ret, struct err *err)
{
    struct slice found = { 0 };

    while (names.size > 0) {
        struct slice name = next_name(&names);
        if (!pattern_fits(line->pattern, name))
            continue;
        if (line->name != NULL) {
            found = slice_of(line->name);
            break;
        }
        if (name.size > NAME_BYTES_MAX)
            continue;
        if (found.data != NULL && !slice_eq(found, name))
            return err_set(err, E_UNAUTHENTICATED,
                           "two names of your certificate, '%.*s' and '%.*s', could be who you are "
                           "here; the server's `certificates` must say which (a `match` that only one "
                           "fits, or a `name`)",
                           SLICE_ARG(slice_first(found, 80)), SLICE_ARG(slice_first(name, 80)));
        found = name;
    }
    *ret = found;
    return OK;
}

/* The first line of the file that a name fits says who it is: its order is the operator's, that of the names
 * is not. E_NOT_FOUND: none does. */
static enum err_code caller_of_certificate(struct access *access, struct rules *rules,
                                           uint64_t generation, struct slice names,
                                           const uint8_t digest[DIGEST_BYTES], uint64_t expires_s,
                                           struct caller **ret, struct err *err)
{
    const struct certificate_name *line = NULL;
    struct slice name = { 0 };

    for (uint32_t i = 0; i < rules->certificates_count && name.data == NULL; i++) {
        line = &rules->certificates[i];
        TRY(name_by_line(line, names, &name, err));
    }
    if (name.data == NULL)
        return E_NOT_FOUND;
    struct identity who = { .kind = CALLER_CERTIFICATE,
                            .name = name,
                            .certificate = names,
                            .tenant = line->tenant,
                            .expires_s = expires_s,
                            .rights = UINT32_MAX,
                            .credential = digest };
    *ret = caller_new(access, rules, generation, &who);
    return *ret != NULL ? OK : no_memory(err);
}

static enum err_code find_certificate_caller(struct access *access, const struct certificate *c,
                                             struct caller **ret, struct err *err)
{
    uint64_t generation;
    CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
    size_t size = 0;

    if (!rules->has_certificates) {
        *ret = anonymous_now(access);
        return OK;
    }
    char *joined = join_names(c, &size);
    if (joined == NULL)
        return no_memory(err);
    enum err_code code = caller_of_certificate(access, rules, generation, slice_make(joined, size),
                                               c->digest, c->expires_s, ret, err);
    mem_free(joined);
    if (code == OK)
        keep(access, c->digest, *ret);
    else if (code != E_EXHAUSTED)
        count(&access->counts.unknown);
    return code != E_NOT_FOUND ? code
                               : err_set(err, E_UNAUTHENTICATED,
                                         "no name of your certificate is one that this server knows");
}

static enum err_code identify_certificate(struct access *access, const struct certificate *c,
                                          uint64_t wall_ns, struct caller **ret, struct err *err)
{
    CLEANUP(caller_unref) struct caller *caller = find_kept(access, c->digest);

    if (caller == NULL)
        TRY(find_certificate_caller(access, c, &caller, err));
    if (UNLIKELY(wall_ns / NS_PER_S >= caller->expires_s))
        return fail_expired(access, CALLER_CERTIFICATE, err);
    count(caller->kind == CALLER_ANONYMOUS ? &access->counts.anonymous
                                           : &access->counts.certificate);
    *ret = TAKE(caller);
    return OK;
}

/* The one key or token that was shown. `access` counts what is malformed; NULL: nothing does. */
static enum err_code token_of(struct access *access, const struct access_credentials *c,
                              struct slice *ret, struct err *err)
{
    if (c->authorizations != 0)
        TRY(bearer_of(access, c->authorization, ret, err));
    else
        TRY(api_key_of(access, c->api_keys != 0 ? c->api_key : c->bearer, ret, err));
    if (UNLIKELY(ret->size > CREDENTIAL_BYTES_MAX))
        return malformed(access, err, "the credential is too long");
    return OK;
}

enum err_code access_identify(struct access *access, const struct access_credentials *credentials,
                              uint64_t wall_ns, struct caller **ret, struct err *err)
{
    struct slice token = { 0 };
    const struct access_credentials *c = credentials;

    if (access == NULL || access->path == NULL) {
        *ret = access != NULL && access->is_admin ? &open_admin : &open_caller;
        return OK;
    }
    uint32_t all = c->authorizations + c->api_keys + c->bearers;
    if (UNLIKELY(all > 1))
        return malformed(access, err,
                         "there is more than one credential (authorization, x-api-key, a protocol "
                         "of the WebSocket); send one");
    if (all == 0 && c->certificate != NULL)
        return identify_certificate(access, c->certificate, wall_ns, ret, err);
    if (all == 0) {
        count(&access->counts.anonymous);
        *ret = anonymous_now(access);
        return OK;
    }
    TRY(token_of(access, c, &token, err));
    return identify_token(access, token, wall_ns, ret, err);
}

/* -- what ------------------------------------------------------------------------------------------ */

static int by_slice(const void *key, const void *member)
{
    const struct slice *text = key;
    const char *other = *(const char *const *)member;
    int order = strncmp((const char *)text->data, other, text->size);

    return order != 0 ? order : -(other[text->size] != '\0');
}

static bool rule_has_model(const struct rule *rule, struct slice model)
{
    if (rule->is_any_model || model.size == 0)
        return true;
    if (rule->literals_count > 0 && memchr(model.data, 0, model.size) == NULL &&
        bsearch(&model, rule->literals, rule->literals_count, sizeof *rule->literals, by_slice) !=
            NULL)
        return true;
    for (uint32_t i = 0; i < rule->patterns_count; i++)
        if (pattern_fits(rule->patterns[i], model))
            return true;
    return false;
}

static bool is_let(const struct caller *caller, enum access_right right, uint32_t group,
                   struct slice model)
{
    uint32_t bit = UINT32_C(1) << right;

    if ((caller->rights & bit) == 0)
        return false;
    for (uint32_t i = 0; i < caller->rules_count; i++) {
        const struct rule *rule = caller->matching[i];
        if ((rule->rights & bit) != 0 && (rule->groups & group) != 0 && rule_has_model(rule, model))
            return true;
    }
    return false;
}

COLD static enum err_code refuse(struct access *access, const struct caller *caller,
                                 enum access_right right, struct slice group, struct slice model,
                                 struct err *err)
{
    char what[200] = "";
    bool needs_name = caller->kind == CALLER_ANONYMOUS && caller->rules->can_name;

    if (err == NULL) /* only a question: of who lists models */
        return needs_name ? E_UNAUTHENTICATED : E_PERMISSION;
    if (model.size > 0)
        snprintf(what, sizeof what, " of model '%.*s'", SLICE_ARG(slice_first(model, 120)));
    if (needs_name) {
        count(&access->counts.unauthenticated);
        return err_set(err, E_UNAUTHENTICATED,
                       "this needs a key or token: the right '%s'%s in the group '%.*s' is not "
                       "everybody's; send `Authorization: Bearer KEY`",
                       access_rights[right], what, SLICE_ARG(slice_first(group, 40)));
    }
    count(&access->counts.denied);
    return err_set(err, E_PERMISSION, "you have not the right '%s'%s in the group '%.*s'",
                   access_rights[right], what, SLICE_ARG(slice_first(group, 40)));
}

/* The token itself is gone; what it proved still holds while its issuer stands in the file as it did, and
 * has the key that signed it. */
static enum err_code renew_token(const struct caller *old, struct rules *rules, uint64_t generation,
                                 struct caller **ret, struct err *err)
{
    struct access *access = old->access;

    for (uint32_t i = 0; i < rules->issuers_count; i++) {
        const struct issuer *issuer = &rules->issuers[i];
        if (memcmp(issuer->digest, old->issuer, DIGEST_BYTES) != 0)
            continue;
        CLEANUP(jwks_unref) struct jwks *jwks = keys_of(access, issuer);
        if (!jwks_has_signer(jwks, old->signer))
            break;
        struct identity who = { .kind = CALLER_TOKEN,
                                .name = slice_of(old->name),
                                .tenant = tenant_of(rules, issuer, old->tenant->name),
                                .expires_s = old->expires_s,
                                .rights = old->rights,
                                .credential = old->credential,
                                .issuer = issuer->digest,
                                .signer = old->signer };
        *ret = caller_new(access, rules, generation, &who);
        return *ret != NULL ? OK : no_memory(err);
    }
    count(&access->counts.bad_token);
    return err_set(err, E_UNAUTHENTICATED,
                   "what this server knows of the token's issuer has changed; begin anew");
}

/* An old caller as the newest rules know it. */
static enum err_code renew(const struct caller *old, uint64_t wall_ns, struct caller **ret,
                           struct err *err)
{
    struct access *access = old->access;
    CLEANUP(caller_unref) struct caller *caller = NULL;
    uint64_t generation;

    if (old->kind == CALLER_ANONYMOUS) {
        *ret = anonymous_now(access);
        return OK;
    }
    caller = find_kept(access, old->credential);
    if (caller == NULL) {
        CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
        if (old->kind == CALLER_KEY)
            TRY(caller_of_key(access, rules, generation, slice_make("", 0), old->credential,
                              wall_ns, &caller, err));
        else if (old->kind == CALLER_TOKEN)
            TRY(renew_token(old, rules, generation, &caller, err));
        else {
            enum err_code code =
                caller_of_certificate(access, rules, generation, slice_of(old->certificate),
                                      old->credential, old->expires_s, &caller, err);
            if (code == E_NOT_FOUND)
                return fail_unknown(access, slice_make("", 0), err);
            if (code != OK)
                return code;
        }
        keep(access, old->credential, caller);
    }
    *ret = TAKE(caller);
    return OK;
}

COLD static enum err_code judge_old(const struct caller *old, enum access_right right,
                                    struct slice group, struct slice model, uint64_t wall_ns,
                                    struct err *err)
{
    CLEANUP(caller_unref) struct caller *caller = NULL;

    if (old->kind == CALLER_REFUSED)
        return err_set(err, E_UNAUTHENTICATED, "%s", old->certificate);
    TRY(renew(old, wall_ns, &caller, err));
    if (wall_ns / NS_PER_S >= caller->expires_s)
        return fail_expired(old->access, caller->kind, err);
    return is_let(caller, right, group_bit(group), model)
               ? OK
               : refuse(old->access, caller, right, group, model, err);
}

/* The line of the key that was shown, where there is one: a key that the file has and that is refused all
 * the same has expired. */
static const struct key *key_shown(const struct rules *rules, const struct access_credentials *c)
{
    struct slice token = { 0 };
    uint8_t digest[DIGEST_BYTES];

    if (c->authorizations + c->api_keys + c->bearers != 1 || token_of(NULL, c, &token, NULL) != OK)
        return NULL;
    key_digest(token, digest);
    return find_key(rules, digest);
}

struct caller *access_refused(struct access *access, const struct access_credentials *credentials,
                              const struct err *why)
{
    uint64_t generation;
    CLEANUP(rules_unref) struct rules *rules = rules_now(access, &generation);
    const struct key *key = key_shown(rules, credentials);
    struct identity who = { .kind = CALLER_REFUSED,
                            .certificate = slice_of(why->text),
                            .known_as = slice_of(key == NULL ? "" : key->name),
                            .tenant = key == NULL ? access->tenants.all[0] : key->tenant,
                            .expires_s = UINT64_MAX };

    return caller_new(access, rules, 0, &who); /* of no generation: judge_old looks at it */
}

COLD static enum err_code refuse_admin(struct err *err)
{
    return err_set(err, E_PERMISSION,
                   "calls that change the server are off; --admin allows them to everybody, rules "
                   "(--access) to those you name");
}

HOT enum err_code caller_may(const struct caller *caller, enum access_right right,
                             struct slice group, struct slice model, uint64_t wall_ns,
                             struct err *err)
{
    if (caller == NULL || right == ACCESS_OPEN)
        return OK;
    if (LIKELY(caller->is_constant))
        return LIKELY(right != ACCESS_ADMIN) || caller->is_admin ? OK : refuse_admin(err);
    if (UNLIKELY(caller->generation !=
                 atomic_load_explicit(&caller->access->generation, memory_order_acquire)))
        return judge_old(caller, right, group, model, wall_ns, err);
    if (UNLIKELY(wall_ns / NS_PER_S >= caller->expires_s))
        return fail_expired(caller->access, caller->kind, err);
    return LIKELY(is_let(caller, right, group_bit(group), model))
               ? OK
               : refuse(caller->access, caller, right, group, model, err);
}

bool caller_has_rules(const struct caller *caller)
{
    return caller != NULL && !caller->is_constant;
}

/* -- counts ---------------------------------------------------------------------------------------- */

static void put_tenants(struct access *access, struct text *out)
{
    static const struct {
        const char *name, *type, *help;
    } families[] = {
        { "penstock_tenant_inferences", "gauge", "Inferences of a tenant that are under way" },
        { "penstock_tenant_refused_rate_total", "counter", "Inferences past a tenant's rate" },
        { "penstock_tenant_refused_concurrency_total", "counter",
          "Inferences past a tenant's concurrency" },
        { "penstock_tenant_bytes", "gauge", "Bytes of requests and answers that a tenant holds" },
        { "penstock_tenant_refused_bytes_total", "counter",
          "Times that a tenant's bytes were spent" },
    };

    /* No lock: this is a loop's thread, and a reload may wait for its file. */
    uint32_t tenants = atomic_load_explicit(&access->tenants.count, memory_order_acquire);
    for (size_t f = 0; f < COUNT(families); f++) {
        metrics_family(out, families[f].name, families[f].type, families[f].help);
        for (uint32_t i = 0; i < tenants; i++) {
            const struct tenant *t = access->tenants.all[i];
            uint64_t values[] = { atomic_load(&t->running), atomic_load(&t->refused_rate),
                                  atomic_load(&t->refused_concurrency), budget_used(&t->budget),
                                  budget_refused(&t->budget) };
            text_str(out, families[f].name);
            text_byte(out, '{');
            metrics_label(out, "tenant", slice_of(t->name), true);
            text_printf(out, "} %llu\n", (unsigned long long)values[f]);
        }
    }
}

static void render(void *context, struct text *out)
{
    struct access *access = context;
    const struct {
        const char *labels;
        uint64_t value;
    } verdicts[] = {
#define X(name, outcome, why) \
    { "verdict=\"" outcome "\",by=\"" why "\"", atomic_load(&access->counts.name) },
        VERDICTS(X)
#undef X
    };

    metrics_family(out, "penstock_access_total", "counter",
                   "Callers that were found or refused, by what they showed or why");
    for (size_t i = 0; i < COUNT(verdicts); i++)
        metrics_sample_u64(out, "penstock_access_total", verdicts[i].labels, verdicts[i].value);
    metrics_family(out, "penstock_access_reloads_total", "counter",
                   "Times that the file of --access was read");
    metrics_sample_u64(out, "penstock_access_reloads_total", "outcome=\"taken\"",
                       atomic_load(&access->reloads));
    metrics_sample_u64(out, "penstock_access_reloads_total", "outcome=\"refused\"",
                       atomic_load(&access->reloads_failed));
    metrics_family(out, "penstock_access_key_sets_total", "counter",
                   "Times that the keys of an issuer of tokens came from its URL");
    metrics_sample_u64(out, "penstock_access_key_sets_total", "outcome=\"taken\"",
                       atomic_load(&access->key_sets));
    metrics_sample_u64(out, "penstock_access_key_sets_total", "outcome=\"refused\"",
                       atomic_load(&access->key_sets_failed));
    metrics_family(out, "penstock_access_callers_kept", "gauge",
                   "Credentials that were found good and are not judged anew");
    metrics_sample_u64(out, "penstock_access_callers_kept", "", atomic_load(&access->callers_kept));
    put_tenants(access, out);
}

enum err_code access_register(struct access *access, struct metrics *metrics, struct err *err)
{
    return access->path == NULL ? OK : metrics_add_source(metrics, render, access, err);
}
