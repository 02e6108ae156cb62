/* access.h - who calls, and what that one may do.
 *
 * One YAML file (--access FILE, docs/access.md) has keys, issuers of tokens, names of certificates, tenants
 * and rules. From it comes a `struct access`, which is reloaded as a whole: what cannot be read leaves the
 * former in place. serve's dispatch asks access_identify once per exchange, before any handler; everything
 * behind asks the caller that came of it, so that every protocol is judged by the same code:
 *
 *   group   which part of the API: serve's dispatch, by the route's or the method's right and group
 *   model   api_want_model and whoever lists models: caller_may with the model's name
 *   limits  tenant_enter and tenant_leave: the engine, once per inference
 *
 * Without --access everybody is the anonymous caller, who may read and infer, and nobody administers.
 *
 * Life     A caller is counted and holds the rules it was found by; who works on an exchange uses the
 *          exchange's (x->caller). What is asked of an old one is judged by the newest rules. A tenant lives
 *          as long as the struct access it came from, through all reloads.
 * Threads  any. Nothing here blocks, and nothing here reads a clock or a socket: time is an argument.
 * Secrets  Keys and tokens are never in an error, a log line or a metric; what is kept of one is SHA-256.
 */
#ifndef ACCESS_ACCESS_H
#define ACCESS_ACCESS_H

#include "access/certificate.h"
#include "base/err.h"
#include "base/slice.h"

struct access;
struct budget;
struct caller;
struct metrics;
struct tenant;

/* What a route or a method lets its caller do. Rules grant them by name: read, infer, admin. */
enum access_right {
    ACCESS_OPEN,  /* everybody, always: health and readiness */
    ACCESS_READ,  /* metadata, listings, contracts, events, metrics */
    ACCESS_INFER, /* run a model */
    ACCESS_ADMIN  /* change the server: load, unload, settings */
};

/* -- life ---------------------------------------------------------------------------------------------- */

/* `path` empty: no rules, see above. The file should be nobody else's to read or write: a warning says so,
 * here and at each reload. */
MUST_USE enum err_code access_new(struct access **ret, const char *path, uint64_t wall_ns,
                                  struct err *err);
void access_free(struct access **access); /* every caller was given back before */
/* Reads the file (and the key sets it names) again. On failure the former rules stay, and err says what is
 * wrong and where ("access.yaml: line 7: rules[1].models: ..."). */
MUST_USE enum err_code access_reload(struct access *access, uint64_t wall_ns, struct err *err);
/* Has the file, or a key set that it names, changed since it was read, or could it not be read at all (a code
 * other than E_INVALID)? For whoever looks now and then: true once the change has stood still from one look to
 * the next. One thread. */
bool access_has_changed(struct access *access);
/* The bytes of a key set (JWKS, RFC 7517) that was fetched from `url`, which the file names: for whoever has
 * an HTTP client. A bad one leaves the former in place. */
MUST_USE enum err_code access_set_keys(struct access *access, const char *url, struct slice jwks,
                                       uint64_t wall_ns, struct err *err);
/* Could this be the text of the file? Key sets are not looked at. */
MUST_USE enum err_code access_check(struct slice yaml, struct err *err);
/* May a caller or a tenant be called so? Not by what rules have a meaning for. */
bool access_is_name(const char *name);
/* Until when a key is good, in Unix seconds; UINT64_MAX: never. False: the text is none of those forms. */
#define ACCESS_EXPIRY_FORMS \
    "a day (2027-01-31: until it begins, UTC), a time (2027-01-31T12:00:00Z) or never"
bool access_read_expiry(const char *text, uint64_t *ret_s);
/* Warns of what the rules say about models that are not there, of these names: nothing is wrong with that, as
 * models come and go, but it may be a misspelling. For whoever knows models, once they are there. */
void access_warn_of_models(struct access *access, const char *const *names, uint32_t count);
/* Calls `each` for every file of keys that such a text names; `path` is the text's own, which theirs are
 * relative to. A text that could not be the file names none. */
void access_key_files(struct slice yaml, const char *path,
                      void (*each)(void *context, const char *file), void *context);
/* --admin without a file: everybody may administer. Before callers are asked for. */
void access_allow_admin(struct access *access);
bool access_has_rules(const struct access *access); /* false of NULL */
/* Has the file a section `certificates`? Then somebody has to ask callers for them. */
bool access_wants_certificates(struct access *access);
bool access_has_keys(struct access *access); /* or tokens, which go the same way; false of NULL */
/* What tenants' budgets are parts of. Before callers are asked for. */
void access_set_budget(struct access *access, struct budget *parent);
/* The i-th URL that the file names for the keys of an issuer; false: there are no more. is_wanted, once: a
 * token came that none of its keys fits, so that they may have been replaced. */
enum { ACCESS_KEY_SET_BYTES_MAX = 256 << 10 };
struct access_key_url {
    char url[2049];
    bool has_keys, is_wanted;
};
bool access_key_url(struct access *access, uint32_t index, struct access_key_url *ret);
MUST_USE enum err_code access_register(struct access *access, struct metrics *metrics, struct err *err);

/* -- who ----------------------------------------------------------------------------------------------- */

struct access_credentials {
    struct slice authorization; /* the header; data NULL: none */
    struct slice api_key;       /* x-api-key; likewise */
    struct slice bearer;        /* a WebSocket's subprotocol, without its prefix; likewise */
    /* how many of each came: more than one in all is refused */
    uint32_t authorizations, api_keys, bearers;
    const struct certificate *certificate; /* NULL: none */
};

/* Takes a reference for the caller of this. E_UNAUTHENTICATED: credentials that are wrong, expired or
 * of nobody (which is not the same as none: none at all is the anonymous caller). NULL access: the
 * anonymous caller too. Costs a digest and a look-up for credentials that were seen before. */
MUST_USE enum err_code access_identify(struct access *access,
                                       const struct access_credentials *credentials,
                                       uint64_t wall_ns, struct caller **ret, struct err *err);
/* Who showed wrong credentials, for the sake of what is open to everybody: may nothing else, and is told
 * why by caller_may. NULL: no memory. It has no name; that of a key which ran out is in caller_known_as. */
struct caller *access_refused(struct access *access, const struct access_credentials *credentials,
                              const struct err *why);
struct caller *caller_ref(struct caller *caller);
void caller_unref(struct caller **caller);
bool caller_is_anonymous(const struct caller *caller);
/* Does its credential go along by itself, as a certificate does? Then a page that calls in its name need
 * not know it. */
bool caller_is_ambient(const struct caller *caller);
const char *caller_name(const struct caller *caller);      /* "alice", "" of the anonymous one */
/* The same, or whose key it was that is refused because it ran out: for logs, and for nothing that lets in. */
const char *caller_known_as(const struct caller *caller);
struct tenant *caller_tenant(const struct caller *caller); /* NULL: there are no tenants */
/* Was it found by a file of rules? Else caller_may's answer is the same for every group and model, and
 * who lists models has nothing to ask. */
bool caller_has_rules(const struct caller *caller);
/* SHA-256 of who it is: the same for each key, token and certificate of one name in one tenant. */
void caller_digest(const struct caller *caller, uint8_t ret[32]);

/* -- what ---------------------------------------------------------------------------------------------- */

/* Every name that rules know as a group; ends with NULL. */
extern const char *const access_groups[];

/* `group` is the API ("v2", "models", "metrics" ...: access_groups, docs/access.md; the same on every
 * transport); `model` empty: no model is meant, and it is asked whether any rule could allow it.
 * E_UNAUTHENTICATED of an anonymous caller where a name could do, else E_PERMISSION; the words say which
 * right was missing for what, and never who has it. NULL caller: tests and the inside of the server, all
 * is allowed. */
MUST_USE enum err_code caller_may(const struct caller *caller, enum access_right right,
                                  struct slice group, struct slice model, uint64_t wall_ns,
                                  struct err *err);

/* -- limits -------------------------------------------------------------------------------------------- */

enum { TENANTS_MAX = 1024 };

/* NULL tenant: no limits. */
uint32_t tenant_index(const struct tenant *tenant); /* below TENANTS_MAX, 0: the default tenant */
const char *tenant_name(const struct tenant *tenant);
uint32_t tenant_weight(const struct tenant *tenant); /* of its share where tenants compete: 1..1000 */
/* One inference: its rate and its concurrency. E_EXHAUSTED with retry_after_ms and which limit it was. */
MUST_USE enum err_code tenant_enter(struct tenant *tenant, uint64_t mono_ns, struct err *err);
void tenant_leave(struct tenant *tenant);
/* Bytes of requests and answers that it holds at the same time; a child of the server's budget. NULL:
 * it has none of its own. */
struct budget *tenant_budget(struct tenant *tenant);

#endif
