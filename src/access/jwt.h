/* jwt.h - tokens that others issue (RFC 7519, 7515, 8725) and the keys that prove them (RFC 7517).
 *
 * Pure: bytes and the time are arguments. Any thread. What is wrong with a token is said in a sentence that
 * holds nothing of it.
 */
#ifndef ACCESS_JWT_H
#define ACCESS_JWT_H

#include "access/internal.h"

struct evp_pkey_st; /* OpenSSL's EVP_PKEY */
struct yyjson_doc;

enum { JWKS_BYTES_MAX = ACCESS_KEY_SET_BYTES_MAX, JWKS_KEYS_MAX = 64, KID_BYTES_MAX = 256, TOKEN_BYTES_MAX = 65536 };

const char *jwt_algorithm_name(enum jwt_algorithm algorithm);

/* -- key sets: jwks.c ----------------------------------------------------------------------------- */

MUST_USE enum err_code jwks_new(struct jwks **ret, struct slice json, uint32_t algorithms,
                                struct err *err);
struct jwks *jwks_ref(struct jwks *jwks);
uint32_t jwks_count(const struct jwks *jwks);
bool jwks_is_same(const struct jwks *a, const struct jwks *b);
/* `signer`: as jwks_find gave it. */
bool jwks_has_signer(const struct jwks *jwks, const uint8_t signer[DIGEST_BYTES]);
/* kid without data: the token has none. NULL: none, or more than one without a kid. */
struct evp_pkey_st *jwks_find(const struct jwks *jwks, enum jwt_algorithm algorithm,
                              struct slice kid, const uint8_t **ret_digest);

/* -- tokens: jwt.c -------------------------------------------------------------------------------- */

/* A token taken apart; nothing of it is proved. Slices lie in `memory` or in the token. */
struct jwt {
    struct slice signed_part; /* head and claims with their point, as they came */
    enum jwt_algorithm algorithm;
    char kid[KID_BYTES_MAX + 1];
    bool has_kid;
    uint8_t *memory; /* owned: claims and signature, decoded */
    struct slice claims, signature;
    struct yyjson_doc *doc; /* owned: of the claims; its names may stand twice */
    const struct issuer *issuer; /* whom it says it is from: one of those known */
};

struct jwt_claims {
    char name[NAME_BYTES_MAX + 1]; /* with the issuer's prefix */
    char tenant[NAME_BYTES_MAX + 1]; /* "" when it has none */
    uint64_t expires_s;            /* the issuer's skew is in it */
    uint32_t rights;
    uint8_t signer[DIGEST_BYTES];
};

/* Three parts with points between them: what is neither key nor this is a key that nobody knows. */
bool jwt_is_one(struct slice token);
/* E_UNAUTHENTICATED, or E_EXHAUSTED. Freed by jwt_deinit, also behind a failure. */
MUST_USE enum err_code jwt_read(struct jwt *ret, const struct issuer *issuers, uint32_t count,
                                struct slice token, struct err *err);
void jwt_deinit(struct jwt *jwt);
/* E_NOT_FOUND: no key of that kid; maybe the set is old. Else as above. */
MUST_USE enum err_code jwt_prove(const struct jwt *jwt, const struct jwks *jwks,
                                 struct jwt_claims *ret, struct err *err);
/* What is signed: `claims` as in struct jwt. */
MUST_USE enum err_code jwt_judge(const struct issuer *issuer, struct yyjson_doc *claims,
                                 uint64_t wall_s, struct jwt_claims *ret, struct err *err);

#endif
