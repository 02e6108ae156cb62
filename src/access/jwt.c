/* jwt.c - SPDX-License-Identifier: Apache-2.0
 *
 * RFC 8725, clause by clause: the algorithm is one of three and is the key's own (3.1, 3.2); the key is
 * the issuer's of this server's file, never one that the token brings or points to (3.8, 3.10); audience
 * and expiry are required (3.9); a token of another type is none of ours (3.11).
 *
 * Anybody may send one, so what is cheap comes first: size and shape, the head, the issuer's name, the key's;
 * then the signature. Claims are looked at closely, for names that stand twice too, when they are signed.
 */
#include "access/jwt.h"

#include <math.h>
#include <stdio.h>

#include <openssl/bn.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "access/jose.h"
#include "base/base64.h"
#include "base/mem.h"
#include "base/utf8.h"

enum {
    HEAD_BYTES_MAX = 4096,
    HEAD_NAMES_MAX = 32, /* RFC 7515 has eleven, and `jwk` a few within */
    CLAIM_NAMES_MAX = 1024,
    SIGNATURE_BYTES_MAX = 1024,
    ES256_BYTES = 64,
    ES256_DER_BYTES_MAX = 80,
};

#define TIME_S_MAX 1e12 /* the year 33658 */

static enum err_code bad(struct err *err, const char *words)
{
    return err_set(err, E_UNAUTHENTICATED, "%s", words);
}

bool jwt_is_one(struct slice token)
{
    uint32_t points = 0;

    for (size_t i = 0; i < token.size; i++)
        points += token.data[i] == '.';
    return points == 2;
}

/* -- the head ------------------------------------------------------------------------------------- */

static enum err_code read_algorithm(struct jwt *ret, yyjson_val *head, struct err *err)
{
    static const enum jwt_algorithm all[] = { JWT_RS256, JWT_ES256, JWT_EDDSA };
    struct slice alg = jose_text(head, "alg");

    for (size_t i = 0; i < COUNT(all); i++)
        if (slice_is(alg, jwt_algorithm_name(all[i]))) {
            ret->algorithm = all[i];
            return OK;
        }
    if (slice_is_nocase(alg, "none"))
        return bad(err, "the token is not signed (alg none)");
    if (slice_starts(alg, "HS"))
        return bad(err, "the token is signed with a shared secret (alg HS...); tokens are taken that "
                        "are signed by RS256, ES256 or EdDSA");
    return bad(err, "the token's alg is not RS256, ES256 or EdDSA");
}

static bool is_our_type(struct slice type)
{
    return type.data == NULL || slice_is_nocase(type, "JWT") || slice_is_nocase(type, "at+jwt") ||
           slice_is_nocase(type, "application/at+jwt");
}

static enum err_code read_head(struct jwt *ret, struct slice text, struct err *err)
{
    uint8_t bytes[HEAD_BYTES_MAX];
    size_t size = 0;
    struct err why = { 0 };

    if (base64_decoded(text.size) > sizeof bytes || !jose_decode(text, bytes, &size))
        return bad(err, "the token's head is not base64url");
    CLEANUP(jose_free) yyjson_doc *doc = jose_read(slice_make(bytes, size), "the head", &why);
    if (doc == NULL && why.code == E_EXHAUSTED)
        return err_set(err, E_EXHAUSTED, "%s", why.text);
    if (doc == NULL || jose_flaw(doc, HEAD_NAMES_MAX) != NULL)
        return bad(err, "the token's head is not a JSON object of at most 32 names that has each "
                        "name once");
    yyjson_val *head = yyjson_doc_get_root(doc);
    TRY(read_algorithm(ret, head, err));
    /* RFC 7515 4.1.11: what it says must be understood, is not. */
    if (yyjson_obj_get(head, "crit") != NULL)
        return bad(err, "the token has extensions that must be understood (crit); none are");
    if (!is_our_type(jose_text(head, "typ")) ||
        (yyjson_obj_get(head, "typ") != NULL && jose_text(head, "typ").data == NULL))
        return bad(err, "the token's typ is neither JWT nor at+jwt: it is meant for something else");
    struct slice kid = jose_text(head, "kid");
    ret->has_kid = yyjson_obj_get(head, "kid") != NULL;
    if (kid.size > KID_BYTES_MAX || (ret->has_kid && kid.data == NULL))
        return bad(err, "the token's kid is not a text, or too long");
    snprintf(ret->kid, sizeof ret->kid, "%.*s", SLICE_ARG(kid));
    return OK;
}

/* -- whose it is ---------------------------------------------------------------------------------- */

static enum err_code find_issuer(struct jwt *ret, const struct issuer *issuers, uint32_t count,
                                 struct slice token, struct err *err)
{
    struct err why = { 0 };

    ret->doc = jose_read(ret->claims, "the claims", &why);
    if (ret->doc == NULL)
        return why.code == E_EXHAUSTED
                   ? err_set(err, E_EXHAUSTED, "%s", why.text)
                   : bad(err, "the token's claims are not a JSON object");
    yyjson_val *claims = yyjson_doc_get_root(ret->doc);
    /* It says by whose keys the rest is proved, so it must mean the same to everybody by now. */
    if (yyjson_obj_get(claims, "iss") != NULL && !jose_has_once(claims, "iss"))
        return bad(err, "the token's claims have 'iss' twice: they must have each name once");
    struct slice iss = jose_text(claims, "iss");
    for (uint32_t i = 0; iss.data != NULL && i < count; i++)
        if (slice_is(iss, issuers[i].iss))
            ret->issuer = &issuers[i];
    if (ret->issuer == NULL)
        return bad(err, "the token's issuer (iss) is not one this server knows");
    if (token.size > ret->issuer->token_bytes_max)
        return bad(err, "the token is longer than its issuer's token_bytes_max");
    if ((ret->issuer->algorithms & ret->algorithm) == 0)
        return bad(err, "the token's algorithm is not allowed for its issuer");
    return OK;
}

enum err_code jwt_read(struct jwt *ret, const struct issuer *issuers, uint32_t count,
                       struct slice token, struct err *err)
{
    size_t first = slice_find(token, '.');
    struct slice rest = slice_skip(token, MIN(first + 1, token.size));
    size_t second = slice_find(rest, '.');
    size_t claims_size = 0, signature_size = 0, most = 0;

    *ret = (struct jwt){ 0 };
    if (!jwt_is_one(token))
        return bad(err, "the token has not three parts with points between them");
    /* Before anything is decoded: what no issuer makes costs a stranger more to send than us to refuse. */
    for (uint32_t i = 0; i < count; i++)
        most = MAX(most, (size_t)issuers[i].token_bytes_max);
    if (token.size > MIN(most, (size_t)TOKEN_BYTES_MAX))
        return bad(err, "the token is too long");
    struct slice claims = slice_first(rest, second), signature = slice_skip(rest, second + 1);
    ret->signed_part = slice_first(token, first + 1 + second);
    TRY(read_head(ret, slice_first(token, first), err));
    if (base64_decoded(signature.size) > SIGNATURE_BYTES_MAX || signature.size == 0)
        return bad(err, "the token's signature is missing, or too long");
    ret->memory = mem_alloc(base64_decoded(claims.size) + SIGNATURE_BYTES_MAX);
    if (ret->memory == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the token");
    if (!jose_decode(claims, ret->memory, &claims_size) ||
        !jose_decode(signature, ret->memory + claims_size, &signature_size))
        return bad(err, "the token's claims or signature are not base64url");
    ret->claims = slice_make(ret->memory, claims_size);
    ret->signature = slice_make(ret->memory + claims_size, signature_size);
    return find_issuer(ret, issuers, count, token, err);
}

void jwt_deinit(struct jwt *jwt)
{
    jose_free(&jwt->doc);
    mem_free(TAKE(jwt->memory));
}

/* -- proof ---------------------------------------------------------------------------------------- */

/* RFC 7518 3.4: both numbers in 32 bytes each; OpenSSL takes them as DER. */
static int ecdsa_der(struct slice signature, uint8_t der[ES256_DER_BYTES_MAX])
{
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(signature.data, ES256_BYTES / 2, NULL);
    BIGNUM *s = BN_bin2bn(signature.data + ES256_BYTES / 2, ES256_BYTES / 2, NULL);
    uint8_t *at = der;
    int size = 0;

    if (sig != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(sig, r, s) == 1) {
        r = s = NULL; /* its own now */
        if (i2d_ECDSA_SIG(sig, NULL) <= ES256_DER_BYTES_MAX)
            size = i2d_ECDSA_SIG(sig, &at);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(sig);
    return size;
}

static bool is_signed(const struct jwt *jwt, EVP_PKEY *key)
{
    uint8_t der[ES256_DER_BYTES_MAX];
    struct slice signature = jwt->signature;
    const EVP_MD *digest = jwt->algorithm == JWT_EDDSA ? NULL : EVP_sha256();

    if (jwt->algorithm == JWT_ES256) {
        int size = signature.size == ES256_BYTES ? ecdsa_der(signature, der) : 0;
        if (size <= 0)
            return false;
        signature = slice_make(der, (size_t)size);
    }
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool is_good = context != NULL && EVP_DigestVerifyInit(context, NULL, digest, NULL, key) == 1 &&
                   EVP_DigestVerify(context, signature.data, signature.size, jwt->signed_part.data,
                                    jwt->signed_part.size) == 1;
    EVP_MD_CTX_free(context);
    if (!is_good)
        ERR_clear_error(); /* TLS on this thread asks for its own errors by the same queue */
    return is_good;
}

enum err_code jwt_prove(const struct jwt *jwt, const struct jwks *jwks, struct jwt_claims *ret,
                        struct err *err)
{
    struct slice kid = jwt->has_kid ? slice_of(jwt->kid) : slice_make(NULL, 0);
    const uint8_t *digest = NULL;
    EVP_PKEY *key = jwks_find(jwks, jwt->algorithm, kid, &digest);

    if (jwks == NULL)
        return err_set(err, E_NOT_FOUND, "the keys of the token's issuer were not fetched yet");
    if (key == NULL)
        return err_set(err, E_NOT_FOUND,
                       jwt->has_kid
                           ? "the token's issuer has no key of its kid for its algorithm"
                           : "the token has no kid, and its issuer not exactly one key for its "
                             "algorithm");
    if (!is_signed(jwt, key))
        return bad(err, "the token's signature is wrong");
    memcpy(ret->signer, digest, DIGEST_BYTES);
    return OK;
}

/* -- claims --------------------------------------------------------------------------------------- */

/* NumericDate: seconds since 1970, perhaps with a fraction. False: it is none. */
static bool read_time(yyjson_val *value, double *ret)
{
    *ret = yyjson_get_num(value);
    return yyjson_is_num(value) && *ret >= 0 && *ret <= TIME_S_MAX;
}

static enum err_code judge_times(const struct issuer *issuer, yyjson_val *claims, uint64_t wall_s,
                                 struct jwt_claims *ret, struct err *err)
{
    yyjson_val *exp = yyjson_obj_get(claims, "exp"), *nbf = yyjson_obj_get(claims, "nbf");
    yyjson_val *iat = yyjson_obj_get(claims, "iat");
    double now = (double)wall_s, skew = (double)issuer->skew_s, time = 0;

    if (exp == NULL)
        return bad(err, "the token never expires (no exp); one that does is needed");
    if (!read_time(exp, &time))
        return bad(err, "the token's exp is not a time");
    if (now >= time + skew)
        return bad(err, "the token has expired (exp); ask its issuer for a new one");
    ret->expires_s = (uint64_t)ceil(time + skew);
    if (nbf != NULL && !read_time(nbf, &time))
        return bad(err, "the token's nbf is not a time");
    if (nbf != NULL && now + skew < time)
        return bad(err, "the token is not valid yet (nbf); are the clocks right?");
    if (iat != NULL && !read_time(iat, &time))
        return bad(err, "the token's iat is not a time");
    if (iat != NULL && now + skew < time)
        return bad(err, "the token was issued in the future (iat); are the clocks right?");
    return OK;
}

static bool is_audience(const struct issuer *issuer, yyjson_val *value)
{
    const char *text = yyjson_get_str(value);

    for (uint32_t i = 0; text != NULL && i < issuer->audiences_count; i++)
        if (slice_is(slice_make(text, yyjson_get_len(value)), issuer->audiences[i]))
            return true;
    return false;
}

static enum err_code judge_audience(const struct issuer *issuer, yyjson_val *claims,
                                    struct err *err)
{
    yyjson_val *aud = yyjson_obj_get(claims, "aud"), *one;
    bool is_ours = is_audience(issuer, aud);
    size_t index, max;

    if (yyjson_is_arr(aud))
        yyjson_arr_foreach(aud, index, max, one) is_ours |= is_audience(issuer, one);
    if (aud == NULL)
        return bad(err, "the token names no audience (aud)");
    return is_ours ? OK : bad(err, "the token is meant for another server (aud)");
}

static bool is_printable(struct slice text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] < 0x20 || text.data[i] == 0x7f)
            return false;
    return utf8_valid_prefix(text) == text.size;
}

static enum err_code read_names(const struct issuer *issuer, yyjson_val *claims,
                                struct jwt_claims *ret, struct err *err)
{
    struct slice name = jose_text(claims, issuer->name_claim), tenant = { 0 };

    if (name.size == 0 || !is_printable(name) ||
        name.size + strlen(issuer->prefix) > NAME_BYTES_MAX)
        return bad(err, "the token's claim for the name is missing, not a text, or too long");
    snprintf(ret->name, sizeof ret->name, "%s%.*s", issuer->prefix, SLICE_ARG(name));
    ret->tenant[0] = '\0';
    if (issuer->tenant_claim == NULL)
        return OK;
    tenant = jose_text(claims, issuer->tenant_claim);
    if (tenant.size > NAME_BYTES_MAX || !is_printable(tenant))
        return bad(err, "the token's claim for the tenant is no name, or too long");
    snprintf(ret->tenant, sizeof ret->tenant, "%.*s", SLICE_ARG(tenant));
    return OK;
}

/* A text of words (RFC 8693 4.2), or a list of texts. */
static bool has_scope(yyjson_val *scopes, const char *wanted)
{
    const char *text = yyjson_get_str(scopes);
    size_t index, max;
    yyjson_val *one;

    if (text != NULL) {
        struct slice rest = slice_make(text, yyjson_get_len(scopes));
        while (rest.size > 0) {
            struct slice word = slice_first(rest, slice_find(rest, ' '));
            if (slice_is(word, wanted))
                return true;
            rest = slice_skip(rest, MIN(word.size + 1, rest.size));
        }
        return false;
    }
    if (yyjson_is_arr(scopes))
        yyjson_arr_foreach(scopes, index, max, one) if (yyjson_equals_str(one, wanted)) return true;
    return false;
}

static uint32_t rights_of(const struct issuer *issuer, yyjson_val *claims)
{
    uint32_t rights = 0;

    if (issuer->scope_claim == NULL)
        return UINT32_MAX;
    for (int right = ACCESS_READ; right <= ACCESS_ADMIN; right++)
        if (issuer->scopes[right] != NULL &&
            has_scope(yyjson_obj_get(claims, issuer->scope_claim), issuer->scopes[right]))
            rights |= UINT32_C(1) << right;
    return rights;
}

enum err_code jwt_judge(const struct issuer *issuer, yyjson_doc *doc, uint64_t wall_s,
                        struct jwt_claims *ret, struct err *err)
{
    yyjson_val *claims = yyjson_doc_get_root(doc);

    if (jose_flaw(doc, CLAIM_NAMES_MAX) != NULL)
        return bad(err, "the token's claims have a name twice, more than 1024 names, or values too "
                        "deep within values: they must have each name once");
    TRY(judge_times(issuer, claims, wall_s, ret, err));
    TRY(judge_audience(issuer, claims, err));
    TRY(read_names(issuer, claims, ret, err));
    ret->rights = rights_of(issuer, claims);
    return OK;
}
