/* internal.h - what the files of access/ share. */
#ifndef ACCESS_INTERNAL_H
#define ACCESS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "access/access.h"
#include "base/budget.h"

struct arena;
struct jwks;

enum {
    DIGEST_BYTES = 32,
    FILE_BYTES_MAX = 8 << 20,
    KEYS_MAX = 20000,
    ISSUERS_MAX = 16,
    AUDIENCES_MAX = 16,
    CERTIFICATES_MAX = 1000,
    RULES_MAX = 1000,
    WORDS_MAX = 20000,      /* of all lists of all rules together */
    NAME_BYTES_MAX = 128,   /* of a caller, a tenant */
    PATTERN_BYTES_MAX = 256,
};

/* -- tenants: tenant.c ------------------------------------------------------------------------- */

struct tenant_limits {
    double rate;          /* inferences a second; 0: any */
    uint64_t burst;       /* at once; 0: as many as a second's, at least 1 */
    uint64_t concurrency; /* 0: any */
    uint64_t bytes;       /* 0: any */
    uint32_t weight;
};

/* Made once and kept until the access is freed: who is charged may outlive many reloads. */
struct tenant {
    uint32_t index;
    char name[NAME_BYTES_MAX + 1];
    /* The generic cell rate algorithm: the time at which all that was let in would be worked off at
     * `rate`. An arrival is let in when that is no more than `burst_ns` ahead. */
    _Atomic uint64_t interval_ns, burst_ns; /* interval_ns 0: any rate */
    _Atomic uint64_t due_ns;
    _Atomic uint64_t concurrency_max; /* 0: any */
    _Atomic uint64_t running;
    _Atomic uint32_t weight;
    _Atomic bool has_budget;
    struct budget budget;
    _Atomic uint64_t refused_rate, refused_concurrency;
};

MUST_USE struct tenant *tenant_new(const char *name, uint32_t index, struct budget *parent);
void tenant_set(struct tenant *tenant, const struct tenant_limits *limits);

/* -- rules: rules.c ---------------------------------------------------------------------------- */

enum who_kind { WHO_ANONYMOUS, WHO_NAMED, WHO_TENANT, WHO_NAME };

struct who {
    enum who_kind kind;
    const char *name; /* WHO_TENANT, WHO_NAME */
};

struct rule {
    const struct who *who;
    const char *const *literals; /* of models; sorted */
    const char *const *patterns;
    uint32_t who_count, literals_count, patterns_count;
    uint32_t rights; /* bits 1 << enum access_right */
    uint32_t groups; /* bits 1 << index in access_groups */
    uint32_t line;
    bool is_any_model;
};

struct key {
    uint8_t digest[DIGEST_BYTES];
    const char *name;
    struct tenant *tenant;
    uint64_t expires_s; /* UINT64_MAX: never */
    uint32_t line;
};

struct certificate_name {
    const char *pattern;
    const char *name; /* NULL: as the certificate has it */
    struct tenant *tenant;
};

enum jwt_algorithm { JWT_RS256 = 1, JWT_ES256 = 2, JWT_EDDSA = 4 };

struct issuer {
    const char *iss;
    const char *audiences[AUDIENCES_MAX];
    uint32_t audiences_count;
    const char *source; /* of its keys: a path or an URL */
    bool is_url;
    uint32_t algorithms; /* bits of enum jwt_algorithm */
    uint64_t skew_s;
    uint64_t token_bytes_max;
    const char *name_claim, *prefix;
    const char *tenant_claim; /* NULL: always `tenant` */
    struct tenant *tenant;
    const char *scope_claim; /* NULL: all rights that the rules give */
    const char *scopes[ACCESS_ADMIN + 1];
    uint8_t digest[DIGEST_BYTES]; /* of all the above: has anything of it changed? */
    /* Of an URL the keys come later; of a file with the rules. Guarded by access.lock. */
    struct jwks *jwks;
    _Atomic bool is_wanted; /* of an URL: a token came that none of its keys fits */
};

/* All that one file says. Immutable once it is in place, but for issuers' jwks; counted. */
struct rules {
    _Atomic uint32_t refs;
    struct arena *arena; /* owned: all below */
    struct key *keys;    /* sorted by digest */
    uint32_t keys_count;
    struct issuer *issuers;
    uint32_t issuers_count;
    struct certificate_name *certificates;
    uint32_t certificates_count;
    struct tenant *const *tenants; /* that the file names, and the default one */
    uint32_t tenants_count;
    bool has_certificates; /* the section is there */
    struct rule *rules;
    uint32_t rules_count;
    bool can_name; /* somebody may have a name */
};

/* Whose tenants the file may name; makes those that are new. */
struct tenants {
    struct tenant *all[TENANTS_MAX]; /* owned; [0] is "default" */
    _Atomic uint32_t count; /* written under reload_lock; those below it stay as they are */
    struct budget *parent;
};

/* What a file wants of its tenants: applied when all of it was good. */
struct tenant_wish {
    struct tenant *tenant;
    struct tenant_limits limits;
};

struct rules_read {
    struct rules *rules;         /* made; the caller's */
    struct tenant_wish *wishes;  /* in its arena */
    uint32_t wishes_count;
};

/* Pure but for tenants, which it adds to: text in, rules out. `what` names the file in errors. */
MUST_USE enum err_code rules_read_yaml(struct rules_read *ret, struct tenants *tenants,
                                       struct slice yaml, const char *what, struct err *err);
void rules_unref(struct rules **rules);
/* "a*b" fits "a", anything, "b"; every other byte stands for itself. */
bool pattern_fits(const char *pattern, struct slice text);
/* Bit of a group; 0 when there is none of that name. */
uint32_t group_bit(struct slice group);
extern const char *const access_rights[ACCESS_ADMIN + 1]; /* "open", "read", "infer", "admin" */

/* -- who: access.c ------------------------------------------------------------------------------ */

enum caller_kind {
    CALLER_ANONYMOUS,
    CALLER_KEY,
    CALLER_TOKEN,
    CALLER_CERTIFICATE,
    CALLER_REFUSED /* `certificate` says why */
};

struct caller {
    _Atomic uint32_t refs; /* of one that is not constant */
    enum caller_kind kind;
    bool is_constant; /* no rules: it may read and infer, and administer where is_admin */
    bool is_admin;
    struct access *access; /* borrowed: outlives it; NULL of a constant one */
    struct rules *rules;   /* one reference: by which it was found */
    struct tenant *tenant;
    const char *name; /* in `names` */
    const char *known_as; /* CALLER_REFUSED: whose key it was that ran out; likewise */
    uint8_t digest[DIGEST_BYTES];     /* of who it is */
    uint8_t credential[DIGEST_BYTES]; /* of the key or token */
    uint64_t expires_s;
    uint32_t rights; /* bits that its credential allows: scopes of a token; else all */
    uint64_t generation; /* of the rules and key sets by which it was found */
    uint8_t issuer[DIGEST_BYTES];  /* of a token: issuer_digest */
    uint8_t signer[DIGEST_BYTES];  /* likewise: whose key signed it */
    const char *certificate; /* all names of one, a line feed behind each; in `names` */
    uint32_t rules_count;
    const struct rule **matching; /* behind the names, in the same block */
    char names[];
};

struct identity {
    enum caller_kind kind;
    struct slice name, certificate, known_as;
    struct tenant *tenant;
    uint64_t expires_s;
    uint32_t rights;
    const uint8_t *credential, *issuer, *signer; /* DIGEST_BYTES; NULL: none */
};

void jwks_unref(struct jwks **jwks); /* jwks.c */

#endif
