/* jwks.c - a set of public keys (RFC 7517, 7518, 8037). SPDX-License-Identifier: Apache-2.0
 *
 * A key is of one algorithm, by its type: what a token's head says can never make another use of it. Keys
 * for other uses are passed over, as sets hold them too; a set with a private or secret key is refused
 * whole, because whoever published it has to hear of it.
 */
#include <stdio.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include <nettle/sha2.h>

#include "access/jose.h"
#include "access/jwt.h"
#include "base/base64.h"
#include "base/mem.h"

enum { RSA_BYTES_MIN = 256, RSA_BYTES_MAX = 1024, EXPONENT_BYTES_MAX = 4, POINT_BYTES = 32 };
enum { NAMES_MAX = 2048 }; /* of 64 keys; a key has a dozen */

struct jwk {
    enum jwt_algorithm algorithm;
    char kid[KID_BYTES_MAX + 1]; /* "" when there is none */
    uint8_t digest[DIGEST_BYTES]; /* of the public key */
    EVP_PKEY *key; /* owned */
};

struct jwks {
    _Atomic uint32_t refs;
    uint32_t count;
    uint8_t digest[DIGEST_BYTES]; /* of the bytes it was read from */
    struct jwk keys[JWKS_KEYS_MAX];
};

const char *jwt_algorithm_name(enum jwt_algorithm algorithm)
{
    return algorithm == JWT_RS256 ? "RS256" : algorithm == JWT_ES256 ? "ES256" : "EdDSA";
}

static void digest_parts(uint8_t ret[DIGEST_BYTES], struct slice a, struct slice b)
{
    struct sha256_ctx sha;

    sha256_init(&sha);
    sha256_update(&sha, a.size, a.data);
    sha256_update(&sha, b.size, b.data);
    sha256_digest(&sha, DIGEST_BYTES, ret);
}

/* -- parts of a key ------------------------------------------------------------------------------- */

static enum err_code read_bytes(yyjson_val *jwk, const char *name, uint8_t *out, size_t least,
                                size_t most, size_t *ret_size, struct err *err)
{
    struct slice text = jose_text(jwk, name);

    if (text.data == NULL)
        return err_set(err, E_INVALID, "'%s' is missing", name);
    if (base64_decoded(text.size) > most || !jose_decode(text, out, ret_size) || *ret_size < least)
        return err_set(err, E_INVALID, "'%s' is not base64url of %zu to %zu bytes", name, least,
                       most);
    return OK;
}

static enum err_code refuse_key(struct err *err)
{
    ERR_clear_error(); /* TLS on this thread asks for its own errors by the same queue */
    return err_set(err, E_INVALID, "it is no key of its kind");
}

static EVP_PKEY *key_of(const char *type, OSSL_PARAM_BLD *build)
{
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY *key = NULL;

    if (params == NULL || context == NULL || EVP_PKEY_fromdata_init(context) != 1 ||
        EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
        key = NULL;
    EVP_PKEY_CTX_free(context);
    OSSL_PARAM_free(params);
    return key;
}

static enum err_code make_rsa(struct jwk *ret, yyjson_val *jwk, struct err *err)
{
    uint8_t n[RSA_BYTES_MAX], e[EXPONENT_BYTES_MAX];
    size_t n_size = 0, e_size = 0;

    TRY(read_bytes(jwk, "n", n, RSA_BYTES_MIN, sizeof n, &n_size, err));
    TRY(read_bytes(jwk, "e", e, 1, sizeof e, &e_size, err));
    /* RFC 7518 6.3.1: no leading zeros, so that 2048 bits are 2048 bits. */
    if (n[0] == 0 || (n_size == RSA_BYTES_MIN && n[0] < 0x80) || e[0] == 0 ||
        (e[e_size - 1] & 1) == 0 || (e_size == 1 && e[0] < 3))
        return err_set(err, E_INVALID, "RSA of 2048 to 8192 bits with an odd exponent is expected");
    BIGNUM *modulus = BN_bin2bn(n, (int)n_size, NULL), *exponent = BN_bin2bn(e, (int)e_size, NULL);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    if (modulus != NULL && exponent != NULL && build != NULL &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, modulus) == 1 &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, exponent) == 1)
        ret->key = key_of("RSA", build);
    OSSL_PARAM_BLD_free(build);
    BN_free(modulus);
    BN_free(exponent);
    digest_parts(ret->digest, slice_make(n, n_size), slice_make(e, e_size));
    return ret->key != NULL ? OK : refuse_key(err);
}

static enum err_code make_ec(struct jwk *ret, yyjson_val *jwk, struct err *err)
{
    uint8_t point[1 + 2 * POINT_BYTES] = { 4 /* uncompressed */ };
    size_t size = 0;

    TRY(read_bytes(jwk, "x", point + 1, POINT_BYTES, POINT_BYTES, &size, err));
    TRY(read_bytes(jwk, "y", point + 1 + POINT_BYTES, POINT_BYTES, POINT_BYTES, &size, err));
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    if (build != NULL &&
        OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point) == 1)
        ret->key = key_of("EC", build);
    OSSL_PARAM_BLD_free(build);
    digest_parts(ret->digest, slice_make(point, sizeof point), slice_make("", 0));
    if (ret->key == NULL)
        return refuse_key(err);
    /* Is the point on the curve? */
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, ret->key, NULL);
    bool is_good = context != NULL && EVP_PKEY_public_check(context) == 1;
    EVP_PKEY_CTX_free(context);
    return is_good ? OK : refuse_key(err);
}

static enum err_code make_okp(struct jwk *ret, yyjson_val *jwk, struct err *err)
{
    uint8_t x[POINT_BYTES];
    size_t size = 0;

    TRY(read_bytes(jwk, "x", x, sizeof x, sizeof x, &size, err));
    ret->key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, x, sizeof x);
    digest_parts(ret->digest, slice_make(x, sizeof x), slice_of("Ed25519"));
    return ret->key != NULL ? OK : refuse_key(err);
}

/* -- which keys are of use ----------------------------------------------------------------------- */

/* 0: none of ours, or for something else than signatures. */
static uint32_t algorithm_of(yyjson_val *jwk)
{
    struct slice kty = jose_text(jwk, "kty"), crv = jose_text(jwk, "crv");
    struct slice use = jose_text(jwk, "use"), alg = jose_text(jwk, "alg");
    yyjson_val *ops = yyjson_obj_get(jwk, "key_ops"), *op;
    uint32_t algorithm = 0;
    bool can_verify = ops == NULL;
    size_t index, max;

    if (slice_is(kty, "RSA"))
        algorithm = JWT_RS256;
    else if (slice_is(kty, "EC") && slice_is(crv, "P-256"))
        algorithm = JWT_ES256;
    else if (slice_is(kty, "OKP") && slice_is(crv, "Ed25519"))
        algorithm = JWT_EDDSA;
    if (yyjson_is_arr(ops))
        yyjson_arr_foreach(ops, index, max, op) can_verify |= yyjson_equals_str(op, "verify");
    if (algorithm == 0 || !can_verify || (use.data != NULL && !slice_is(use, "sig")) ||
        (alg.data != NULL && !slice_is(alg, jwt_algorithm_name((enum jwt_algorithm)algorithm))))
        return 0;
    return algorithm;
}

static bool is_private(yyjson_val *jwk)
{
    static const char *const names[] = { "d", "p", "q", "dp", "dq", "qi", "oth", "k" };

    for (size_t i = 0; i < COUNT(names); i++)
        if (yyjson_obj_get(jwk, names[i]) != NULL)
            return true;
    return false;
}

static enum err_code add_key(struct jwks *jwks, yyjson_val *object, uint32_t algorithms,
                             struct err *err)
{
    if (!yyjson_is_obj(object))
        return err_set(err, E_INVALID, "it is not an object");
    if (is_private(object))
        return err_set(err, E_INVALID,
                       "it is a private or secret key: whoever can read it can make tokens; replace "
                       "it, and publish its public part alone");
    uint32_t algorithm = algorithm_of(object);
    if ((algorithm & algorithms) == 0)
        return OK;
    struct slice kid = jose_text(object, "kid");
    struct jwk *jwk = &jwks->keys[jwks->count];
    if (kid.size > KID_BYTES_MAX || (kid.data == NULL && yyjson_obj_get(object, "kid") != NULL))
        return err_set(err, E_INVALID, "'kid' is expected to be a text of at most %d bytes",
                       KID_BYTES_MAX);
    snprintf(jwk->kid, sizeof jwk->kid, "%.*s", SLICE_ARG(kid));
    jwk->algorithm = (enum jwt_algorithm)algorithm;
    for (uint32_t i = 0; i < jwks->count; i++)
        if (jwks->keys[i].algorithm == jwk->algorithm && strcmp(jwks->keys[i].kid, jwk->kid) == 0)
            return err_set(err, E_INVALID, "two keys of one algorithm have the same kid");
    jwks->count++; /* whatever was made of it is freed with the set */
    return algorithm == JWT_RS256   ? make_rsa(jwk, object, err)
           : algorithm == JWT_ES256 ? make_ec(jwk, object, err)
                                    : make_okp(jwk, object, err);
}

enum err_code jwks_new(struct jwks **ret, struct slice json, uint32_t algorithms, struct err *err)
{
    CLEANUP(jwks_unref) struct jwks *jwks = NULL;
    CLEANUP(jose_free) yyjson_doc *doc = NULL;
    size_t index, max;
    yyjson_val *key;

    if (json.size > JWKS_BYTES_MAX)
        return err_set(err, E_INVALID, "the key set has %zu bytes; the most is %d", json.size,
                       JWKS_BYTES_MAX);
    doc = jose_object(json, NAMES_MAX, "the key set", err);
    if (doc == NULL)
        return err->code;
    yyjson_val *keys = yyjson_obj_get(yyjson_doc_get_root(doc), "keys");
    if (!yyjson_is_arr(keys))
        return err_set(err, E_INVALID, "the key set has no list 'keys'");
    if (yyjson_arr_size(keys) > JWKS_KEYS_MAX)
        return err_set(err, E_INVALID, "the key set has %zu keys; the most is %d",
                       yyjson_arr_size(keys), JWKS_KEYS_MAX);
    jwks = mem_zalloc(sizeof *jwks);
    if (jwks == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the key set");
    atomic_init(&jwks->refs, 1);
    digest_parts(jwks->digest, json, slice_make("", 0));
    yyjson_arr_foreach(keys, index, max, key)
    {
        if (add_key(jwks, key, algorithms, err) != OK)
            return err_wrap(err, "keys[%zu]", index);
    }
    if (jwks->count == 0)
        return err_set(err, E_INVALID,
                       "the key set has no key that signs by one of the algorithms allowed here");
    *ret = TAKE(jwks);
    return OK;
}

struct jwks *jwks_ref(struct jwks *jwks)
{
    if (jwks != NULL)
        atomic_fetch_add_explicit(&jwks->refs, 1, memory_order_relaxed);
    return jwks;
}

void jwks_unref(struct jwks **slot)
{
    struct jwks *jwks = TAKE(*slot);

    if (jwks == NULL || atomic_fetch_sub_explicit(&jwks->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < jwks->count; i++)
        EVP_PKEY_free(jwks->keys[i].key);
    mem_free(jwks);
}

uint32_t jwks_count(const struct jwks *jwks)
{
    return jwks == NULL ? 0 : jwks->count;
}

bool jwks_is_same(const struct jwks *a, const struct jwks *b)
{
    return a == b || (a != NULL && b != NULL && memcmp(a->digest, b->digest, DIGEST_BYTES) == 0);
}

bool jwks_has_signer(const struct jwks *jwks, const uint8_t signer[DIGEST_BYTES])
{
    for (uint32_t i = 0; i < jwks_count(jwks); i++)
        if (memcmp(jwks->keys[i].digest, signer, DIGEST_BYTES) == 0)
            return true;
    return false;
}

/* By its kid; without one, the only key of that algorithm. */
struct evp_pkey_st *jwks_find(const struct jwks *jwks, enum jwt_algorithm algorithm, struct slice kid,
                       const uint8_t **ret_digest)
{
    const struct jwk *found = NULL;
    uint32_t fitting = 0;

    for (uint32_t i = 0; i < jwks_count(jwks); i++) {
        const struct jwk *jwk = &jwks->keys[i];
        if (jwk->algorithm != algorithm || (kid.data != NULL && !slice_is(kid, jwk->kid)))
            continue;
        found = jwk;
        fitting++;
    }
    if (fitting != 1)
        return NULL;
    *ret_digest = found->digest;
    return found->key;
}
