/* jwt_test.c - tokens and key sets, clause by clause of RFC 7515, 7517, 7519 and 8725.
 *
 * Keys are made here by OpenSSL and tokens signed with them: nothing of jwt.c makes what it judges.
 */
#include "access/jwt.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "access/jose.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/text.h"
#include "test/harness.h"

#define NOW_S UINT64_C(1800000000)
#define NOW (NOW_S * NS_PER_S)

static char folder[] = "/tmp/penstock-jwt-XXXXXX";
static char path[128];

static void put_file(const char *name, const char *text)
{
    char where[160];

    if (folder[strlen(folder) - 1] == 'X' && mkdtemp(folder) == NULL)
        abort();
    snprintf(where, sizeof where, "%s/%s", folder, name);
    snprintf(path, sizeof path, "%s/access.yaml", folder);
    int fd = open(where, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        abort();
    close(fd);
}

/* -- making ------------------------------------------------------------------------------------------ */

static void put_base64(struct text *out, const void *data, size_t size)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const uint8_t *in = data;

    for (size_t i = 0; i < size; i += 3) {
        uint32_t bits = (uint32_t)in[i] << 16 | (i + 1 < size ? (uint32_t)in[i + 1] << 8 : 0) |
                        (i + 2 < size ? in[i + 2] : 0);
        size_t count = MIN(size - i, (size_t)3) + 1;
        for (size_t j = 0; j < count; j++)
            text_byte(out, (uint8_t)letters[bits >> (18 - 6 * j) & 63]);
    }
}

static EVP_PKEY *keys[4]; /* KEY_RSA, P-256, Ed25519, another KEY_RSA */
enum { KEY_RSA, KEY_EC, KEY_ED, KEY_RSA2 };

static void make_keys(void)
{
    if (keys[0] != NULL)
        return;
    keys[KEY_RSA] = EVP_RSA_gen(2048);
    keys[KEY_EC] = EVP_EC_gen("prime256v1");
    keys[KEY_ED] = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    keys[KEY_RSA2] = EVP_RSA_gen(2048);
    if (keys[KEY_RSA] == NULL || keys[KEY_EC] == NULL || keys[KEY_ED] == NULL || keys[KEY_RSA2] == NULL)
        abort();
}

static void put_bn(struct text *out, EVP_PKEY *key, const char *param, size_t width)
{
    BIGNUM *bn = NULL;
    uint8_t bytes[512];

    if (EVP_PKEY_get_bn_param(key, param, &bn) != 1)
        abort();
    size_t size = width != 0 ? width : (size_t)BN_num_bytes(bn);
    if (BN_bn2binpad(bn, bytes, (int)size) < 0)
        abort();
    BN_free(bn);
    put_base64(out, bytes, size);
}

static void put_jwk(struct text *out, int which, const char *kid, const char *more)
{
    EVP_PKEY *key = keys[which];

    text_printf(out, "{\"kid\":\"%s\"%s,", kid, more);
    if (which == KEY_RSA || which == KEY_RSA2) {
        text_str(out, "\"kty\":\"RSA\",\"n\":\"");
        put_bn(out, key, OSSL_PKEY_PARAM_RSA_N, 0);
        text_str(out, "\",\"e\":\"");
        put_bn(out, key, OSSL_PKEY_PARAM_RSA_E, 0);
    } else if (which == KEY_EC) {
        text_str(out, "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"");
        put_bn(out, key, OSSL_PKEY_PARAM_EC_PUB_X, 32);
        text_str(out, "\",\"y\":\"");
        put_bn(out, key, OSSL_PKEY_PARAM_EC_PUB_Y, 32);
    } else {
        uint8_t raw[32];
        size_t size = sizeof raw;
        if (EVP_PKEY_get_raw_public_key(key, raw, &size) != 1)
            abort();
        text_str(out, "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"");
        put_base64(out, raw, size);
    }
    text_str(out, "\"}");
}

/* A set of those keys, called r, e, d and s. */
static const char *key_set(bool rsa, bool ec, bool ed, bool rsa2)
{
    static char out[8192];
    struct text text;
    const bool wanted[] = { rsa, ec, ed, rsa2 };
    bool is_first = true;

    make_keys();
    text_init_fixed(&text, out, sizeof out - 1);
    text_str(&text, "{\"keys\":[");
    for (int i = 0; i < 4; i++) {
        if (!wanted[i])
            continue;
        text_str(&text, is_first ? "" : ",");
        is_first = false;
        put_jwk(&text, i, i == KEY_RSA ? "r" : i == KEY_EC ? "e" : i == KEY_ED ? "d" : "s", "");
    }
    text_str(&text, "]}");
    return text_cstr(&text);
}

static void put_signature(struct text *out, int which)
{
    uint8_t sig[512], both[64];
    const uint8_t *at = sig;
    size_t size = sizeof sig;
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    if (EVP_DigestSignInit(context, NULL, which == KEY_ED ? NULL : EVP_sha256(), NULL, keys[which]) != 1 ||
        EVP_DigestSign(context, sig, &size, out->data, out->size) != 1)
        abort();
    EVP_MD_CTX_free(context);
    text_byte(out, '.');
    if (which != KEY_EC) {
        put_base64(out, sig, size);
        return;
    }
    ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &at, (long)size);
    if (pair == NULL || BN_bn2binpad(ECDSA_SIG_get0_r(pair), both, 32) < 0 ||
        BN_bn2binpad(ECDSA_SIG_get0_s(pair), both + 32, 32) < 0)
        abort();
    ECDSA_SIG_free(pair);
    put_base64(out, both, sizeof both);
}

static const char *token_of(int which, const char *head, const char *claims)
{
    static char out[2][70000];
    static unsigned at;
    char *to = out[at++ % 2];
    struct text text;

    make_keys();
    text_init_fixed(&text, to, sizeof out[0] - 1);
    put_base64(&text, head, strlen(head));
    text_byte(&text, '.');
    put_base64(&text, claims, strlen(claims));
    put_signature(&text, which);
    return text_cstr(&text);
}

#define HEAD_R "{\"alg\":\"RS256\",\"kid\":\"r\"}"
#define HEAD_E "{\"alg\":\"ES256\",\"kid\":\"e\"}"
#define HEAD_D "{\"alg\":\"EdDSA\",\"kid\":\"d\"}"
/* Expires 100 s from now. */
#define CLAIMS "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100}"

static const char file[] = "issuers:\n"
                           "  - {issuer: I, audience: [A, B], keys: keys.json, skew: 10s}\n"
                           "rules: [{who: '*', may: [read, infer, admin]}]\n";

static struct access *open_with(const char *text, const char *set)
{
    struct access *access = NULL;
    struct err err = { 0 };

    put_file("access.yaml", text);
    put_file("keys.json", set);
    check(access_new(&access, path, NOW, &err) == OK, "%s", err.text);
    return access;
}

static enum err_code show(struct access *access, const char *token, uint64_t now,
                          struct caller **ret, struct err *err)
{
    struct access_credentials c = { .bearer = slice_of(token), .bearers = 1 };

    *err = (struct err){ 0 };
    return access_identify(access, &c, now, ret, err);
}

/* -- base64url ------------------------------------------------------------------------------------------ */

TEST(base64url_has_one_spelling)
{
    static const struct {
        const char *text;
        int size; /* -1: refused */
    } cases[] = { { "", 0 },    { "AA", 1 },   { "AB", -1 },   { "AAA", 2 }, { "AAB", -1 },
                  { "AAE", 2 }, { "AAAA", 3 }, { "A", -1 },    { "AA==", -1 }, { "AA=", -1 },
                  { "A+AA", -1 }, { "A/AA", -1 }, { "-_-_", 3 }, { "A A", -1 }, { "AAAAA", -1 },
                  { "AA\n", -1 }, { "AAAA\n", -1 } };
    uint8_t out[16];

    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t size = 0;
        bool is_good = jose_decode(slice_of(cases[i].text), out, &size);
        check(is_good == (cases[i].size >= 0) && (!is_good || (int)size == cases[i].size), "'%s'",
              cases[i].text);
    }
}

/* -- key sets ------------------------------------------------------------------------------------------- */

TEST(key_sets)
{
    enum { ALL = JWT_RS256 | JWT_ES256 | JWT_EDDSA };
    static const struct {
        const char *json, *words; /* NULL: taken */
    } cases[] = {
        { "", "not JSON" },
        { "[]", "not an object" },
        { "{}", "no list 'keys'" },
        { "{\"keys\":[]}", "no key that signs" },
        { "{\"keys\":[],\"keys\":[]}", "same name twice" },
        { "{\"keys\":[1]}", "keys[0]: it is not an object" },
        { "{\"keys\":[{\"kty\":\"oct\",\"kid\":\"a\",\"k\":\"AAAA\"}]}", "private or secret" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\"}]}", "keys[0]: 'n' is missing" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AAAA\",\"e\":\"AQAB\"}]}", "'n' is not base64url of 256" },
        { "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAA\"}]}", "'x' is not base64url of 32" },
        { "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\","
          "\"y\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}", "no key of its kind" },
        { "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-384\"}]}", "no key that signs" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"use\":\"enc\"}]}", "no key that signs" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"alg\":\"RS512\"}]}", "no key that signs" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"key_ops\":[\"encrypt\"]}]}", "no key that signs" },
        { "{\"keys\":[{\"kty\":\"RSA\",\"kid\":1}]}", "'kid' is expected" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        CLEANUP(jwks_unref) struct jwks *jwks = NULL;
        struct err err = { 0 };
        enum err_code code = jwks_new(&jwks, slice_of(cases[i].json), ALL, &err);
        check(code == E_INVALID && strstr(err.text, cases[i].words) != NULL, "case %zu: %s", i,
              err.text);
    }
    CLEANUP(jwks_unref) struct jwks *jwks = NULL;
    struct err err = { 0 };
    check(jwks_new(&jwks, slice_of(key_set(true, true, true, true)), ALL, &err) == OK, "%s", err.text);
    check(jwks_count(jwks) == 4, "%u", jwks_count(jwks));
    jwks_unref(&jwks);
    check(jwks_new(&jwks, slice_of(key_set(true, true, true, false)), JWT_ES256, &err) == OK &&
              jwks_count(jwks) == 1,
          "only the allowed ones: %s", err.text);
    jwks_unref(&jwks);
    /* The same kid twice, for one algorithm. */
    struct text text;
    char both[8192];
    text_init_fixed(&text, both, sizeof both - 1);
    text_str(&text, "{\"keys\":[");
    put_jwk(&text, KEY_RSA, "x", "");
    text_byte(&text, ',');
    put_jwk(&text, KEY_RSA2, "x", "");
    text_str(&text, "]}");
    check(jwks_new(&jwks, slice_of(text_cstr(&text)), ALL, &err) == E_INVALID &&
              strstr(err.text, "same kid") != NULL,
          "%s", err.text);
}

/* -- tokens --------------------------------------------------------------------------------------------- */

TEST(tokens_of_each_algorithm_are_taken)
{
    struct access *access = open_with(file, key_set(true, true, true, false));
    static const char *const heads[] = { HEAD_R, HEAD_E, HEAD_D };
    uint8_t digests[3][DIGEST_BYTES];

    for (int i = 0; access != NULL && i < 3; i++) {
        struct caller *caller = NULL;
        struct err err;
        for (int round = 0; round < 2; round++) { /* judged, then kept */
            check_or_stop(show(access, token_of(i, heads[i], CLAIMS), NOW, &caller, &err) == OK,
                          "%s: %s", heads[i], err.text);
            check(strcmp(caller_name(caller), "ann") == 0, "%s", caller_name(caller));
            check(caller_may(caller, ACCESS_ADMIN, slice_of("v2"), slice_of(""), NOW, &err) == OK,
                  "%s", err.text);
            caller_digest(caller, digests[i]);
            check(caller_may(caller, ACCESS_READ, slice_of("v2"), slice_of(""),
                             NOW + 110 * NS_PER_S, &err) == E_UNAUTHENTICATED,
                  "it expires while it is used");
            caller_unref(&caller);
        }
    }
    check(memcmp(digests[0], digests[1], DIGEST_BYTES) == 0, "one name is one caller");
    access_free(&access);
}

TEST(what_is_wrong_with_a_token)
{
    static const struct {
        int key;
        const char *head, *claims, *words; /* words NULL: it is taken */
    } cases[] = {
        { KEY_RSA, "{\"alg\":\"none\"}", CLAIMS, "not signed (alg none)" },
        { KEY_RSA, "{\"alg\":\"None\"}", CLAIMS, "not signed (alg none)" },
        { KEY_RSA, "{\"alg\":\"HS256\",\"kid\":\"r\"}", CLAIMS, "shared secret" },
        { KEY_RSA, "{\"alg\":\"RS512\",\"kid\":\"r\"}", CLAIMS, "alg is not RS256" },
        { KEY_RSA, "{\"alg\":\"rs256\",\"kid\":\"r\"}", CLAIMS, "alg is not RS256" },
        { KEY_RSA, "{\"kid\":\"r\"}", CLAIMS, "alg is not RS256" },
        { KEY_RSA, "{\"alg\":256}", CLAIMS, "alg is not RS256" },
        { KEY_RSA, "{\"alg\":\"none\",\"alg\":\"RS256\",\"kid\":\"r\"}", CLAIMS, "each name once" },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"crit\":[\"exp\"]}", CLAIMS, "crit" },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"crit\":[]}", CLAIMS, "crit" },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"typ\":\"logout+jwt\"}", CLAIMS, "typ" },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"typ\":1}", CLAIMS, "typ" },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"typ\":\"at+jwt\"}", CLAIMS, NULL },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"typ\":\"jwt\"}", CLAIMS, NULL },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"x\"}", CLAIMS, "no key of its kid" },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":1}", CLAIMS, "kid is not a text" },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"e\"}", CLAIMS, "no key of its kid" },
        { KEY_EC, "{\"alg\":\"ES256\",\"kid\":\"r\"}", CLAIMS, "no key of its kid" },
        { KEY_RSA, "{\"alg\":\"RS256\"}", CLAIMS, NULL }, /* one key fits */
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"jwk\":{\"kty\":\"oct\"},\"jku\":\"http://evil\"}", CLAIMS,
          NULL }, /* keys that it brings are not looked at */
        { KEY_RSA2, HEAD_R, CLAIMS, "signature is wrong" },
        { KEY_EC, HEAD_R, CLAIMS, "signature is wrong" },
        { KEY_RSA, HEAD_E, CLAIMS, "signature is wrong" },
        { KEY_RSA, HEAD_D, CLAIMS, "signature is wrong" },
        { KEY_RSA, "[]", CLAIMS, "head is not a JSON object" },
        { KEY_RSA, "{", CLAIMS, "head is not a JSON object" },
        { KEY_RSA, HEAD_R, "[]", "claims are not a JSON object" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"J\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100}", "issuer (iss)" },
        { KEY_RSA, HEAD_R, "{\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100}", "issuer (iss)" },
        { KEY_RSA, HEAD_R, "{\"iss\":[\"I\"],\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100}", "issuer (iss)" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"iss\":\"J\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100}", "each name once" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\\u0000\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100}", "issuer (iss)" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"sub\":\"ann\",\"exp\":1800000100}", "no audience" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"C\",\"sub\":\"ann\",\"exp\":1800000100}", "another server (aud)" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":[],\"sub\":\"ann\",\"exp\":1800000100}", "another server (aud)" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":[\"C\",\"B\"],\"sub\":\"ann\",\"exp\":1800000100}", NULL },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\"}", "never expires" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":\"1800000100\"}", "exp is not a time" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":-1}", "exp is not a time" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1e300}", "exp is not a time" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1799999991}", NULL }, /* skew */
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1799999990.5}", NULL },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1799999990}", "has expired" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100,\"nbf\":1800000010}", NULL },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100,\"nbf\":1800000011}", "not valid yet" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100,\"nbf\":null}", "nbf is not a time" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100,\"iat\":1800000011}", "in the future" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"exp\":1800000100}", "claim for the name" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"\",\"exp\":1800000100}", "claim for the name" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"a\\nb\",\"exp\":1800000100}", "claim for the name" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"a\\u0000\",\"exp\":1800000100}", "claim for the name" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":{\"a\":1,\"a\":2},\"exp\":1800000100}", "each name once" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1,\"exp\":1800000100}", "each name once" },
        { KEY_RSA, HEAD_R, "{\"iss\":\"I\",\"\\u0069ss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100}", "each name once" },
        { KEY_RSA2, HEAD_R, "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1,\"exp\":1800000100}",
          "signature is wrong" }, /* what is not signed is not looked at closely */
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"kid\":\"r\"}", CLAIMS, "each name once" },
        { KEY_RSA, "{\"alg\":\"RS256\",\"kid\":\"r\",\"jwk\":{\"x\":1,\"y\":2,\"x\":3}}", CLAIMS, "each name once" },
    };
    struct access *access = open_with(file, key_set(true, true, true, false));

    for (size_t i = 0; access != NULL && i < COUNT(cases); i++) {
        struct caller *caller = NULL;
        struct err err;
        const char *token = token_of(cases[i].key, cases[i].head, cases[i].claims);
        enum err_code code = show(access, token, NOW, &caller, &err);
        check((code == OK) == (cases[i].words == NULL), "case %zu: %s", i, err.text);
        check(code == OK || (code == E_UNAUTHENTICATED && strstr(err.text, cases[i].words) != NULL),
              "case %zu: %s", i, err.text);
        caller_unref(&caller);
    }
    access_free(&access);
}

TEST(a_token_that_is_changed_anywhere_is_refused)
{
    struct access *access = open_with(file, key_set(true, true, true, false));
    static const char *const heads[] = { HEAD_R, HEAD_E, HEAD_D };
    static char changed[70000];

    for (int k = 0; access != NULL && k < 3; k++) {
        snprintf(changed, sizeof changed, "%s", token_of(k, heads[k], CLAIMS));
        size_t size = strlen(changed);
        for (size_t i = 0; i < size; i++) {
            struct caller *caller = NULL;
            struct err err;
            char was = changed[i];
            changed[i] = was == 'A' ? 'B' : 'A';
            check(show(access, changed, NOW, &caller, &err) == E_UNAUTHENTICATED, "byte %zu of %zu: '%s'",
                  i, size, changed);
            caller_unref(&caller);
            changed[i] = was;
        }
        for (size_t cut = 0; cut < size; cut++) {
            struct caller *caller = NULL;
            struct access_credentials c = { .bearer = slice_make(changed, cut), .bearers = 1 };
            struct err err = { 0 };
            check(access_identify(access, &c, NOW, &caller, &err) == E_UNAUTHENTICATED, "cut at %zu",
                  cut);
            caller_unref(&caller);
        }
    }
    access_free(&access);
}

TEST(a_token_that_is_too_long)
{
    static char claims[70000];
    struct access *access = open_with(file, key_set(true, false, false, false));

    for (int size = 7000; access != NULL && size < 60000; size += 26500) {
        struct caller *caller = NULL;
        struct err err;
        snprintf(claims, sizeof claims,
                 "{\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100,\"x\":\"%0*d\"}", size - 1500, 0);
        enum err_code code = show(access, token_of(KEY_RSA, HEAD_R, claims), NOW, &caller, &err);
        check(size == 7000 ? code == E_UNAUTHENTICATED || code == OK
                           : code == E_UNAUTHENTICATED && strstr(err.text, "long") != NULL,
              "%d: %s", size, err.text);
        caller_unref(&caller);
    }
    access_free(&access);
}

/* -- what strangers may make us do ------------------------------------------------------------------------ */

/* `objects` of `each` short names within `{... "x":[ ]}`. */
static const char *many_names(const char *before, unsigned objects, unsigned each)
{
    static char out[4][60000];
    static unsigned at;
    char *to = out[at++ % 4];
    struct text text;

    text_init_fixed(&text, to, sizeof out[0] - 1);
    text_printf(&text, "{%s,\"x\":[", before);
    for (unsigned i = 0; i < objects; i++) {
        text_str(&text, i == 0 ? "{" : ",{");
        for (unsigned n = 0; n < each; n++)
            text_printf(&text, "%s\"%c%c\":1", n == 0 ? "" : ",", (int)('A' + n / 60), (int)('A' + n % 60 + (n % 60 > 26)));
        text_str(&text, "}");
    }
    text_str(&text, "]}");
    return text_cstr(&text);
}

static uint64_t cost_of(struct access *access, const char *token, const char *words)
{
    uint64_t best = UINT64_MAX;

    for (int round = 0; round < 5; round++) {
        uint64_t begun = clock_mono_ns();
        for (int i = 0; i < 20; i++) {
            struct caller *caller = NULL;
            struct err err;
            check(show(access, token, NOW, &caller, &err) == E_UNAUTHENTICATED &&
                      strstr(err.text, words) != NULL,
                  "'%s', not '%s'", err.text, words);
        }
        best = MIN(best, (clock_mono_ns() - begun) / 20);
    }
    return best;
}

/* The figures are for people (docs/access.md); what is checked is that nothing is proved, and nothing looked
 * at twice, before the signature. */
TEST(what_a_strangers_token_costs)
{
    struct access *access = open_with(file, key_set(true, true, true, false));
    const char *claims = many_names("\"iss\":\"I\",\"aud\":\"A\",\"sub\":\"ann\",\"exp\":1800000100", 4, 190);
    const struct {
        const char *what, *head, *claims, *words;
        bool is_changed;
    } cases[] = {
        { "one that is taken, with another signature", HEAD_R, CLAIMS, "signature is wrong", true },
        { "a head of 400 names", many_names("\"alg\":\"RS256\",\"kid\":\"r\"", 2, 200), CLAIMS, "at most 32 names", false },
        { "claims of 760 names, another issuer", HEAD_R, many_names("\"iss\":\"J\"", 4, 190), "issuer", false },
        { "claims of 760 names, another signature", HEAD_R, claims, "signature is wrong", true },
        { "claims of 760 names, an unknown key", "{\"alg\":\"RS256\",\"kid\":\"z\"}", claims, "no key of its kid", false },
    };

    for (size_t i = 0; access != NULL && i < COUNT(cases); i++) {
        static char token[70000];
        snprintf(token, sizeof token, "%s", token_of(KEY_RSA, cases[i].head, cases[i].claims));
        char *near_end = token + strlen(token) - 20;
        if (cases[i].is_changed)
            *near_end = *near_end == 'A' ? 'B' : 'A';
        uint64_t ns = cost_of(access, token, cases[i].words);
        printf("# %s: %llu ns\n", cases[i].what, (unsigned long long)ns);
    }
    access_free(&access);
}

TEST(names_tenants_and_scopes_of_tokens)
{
    static const char text[] =
        "tenants: {gold: {weight: 9}, basic: {}}\n"
        "issuers:\n"
        "  - issuer: I\n"
        "    audience: A\n"
        "    keys: keys.json\n"
        "    name: email\n"
        "    prefix: 'okta:'\n"
        "    tenant_claim: plan\n"
        "    tenant: basic\n"
        "    algorithms: [EdDSA]\n"
        "    scopes: {claim: scp, read: 'm:read', infer: 'm:run'}\n"
        "rules: [{who: 'okta:a@x', may: [read, infer, admin]}]\n";
    static const struct {
        const char *claims, *tenant;
        bool may_read, may_infer;
    } cases[] = {
        { "\"plan\":\"gold\",\"scp\":\"m:read m:run\"", "gold", true, true },
        { "\"plan\":\"other\",\"scp\":\"m:run\"", "basic", false, true },
        { "\"scp\":[\"m:read\",3]", "basic", true, false },
        { "\"plan\":7,\"scp\":\"xm:read m:runx\"", "basic", false, false },
        { "\"scope\":\"m:read\"", "basic", false, false },
    };
    struct access *access = open_with(text, key_set(true, false, true, false));

    for (size_t i = 0; access != NULL && i < COUNT(cases); i++) {
        struct caller *caller = NULL;
        struct err err;
        char claims[512];
        snprintf(claims, sizeof claims,
                 "{\"iss\":\"I\",\"aud\":\"A\",\"email\":\"a@x\",\"sub\":\"no\",\"exp\":1800000100,%s}",
                 cases[i].claims);
        check_or_stop(show(access, token_of(KEY_ED, HEAD_D, claims), NOW, &caller, &err) == OK, "%zu: %s", i,
                      err.text);
        check(strcmp(caller_name(caller), "okta:a@x") == 0, "%s", caller_name(caller));
        check(strcmp(tenant_name(caller_tenant(caller)), cases[i].tenant) == 0, "%zu: %s", i,
              tenant_name(caller_tenant(caller)));
        struct slice group = slice_of("v2"), none = slice_of("");
        check((caller_may(caller, ACCESS_READ, group, none, NOW, &err) == OK) == cases[i].may_read,
              "%zu", i);
        check((caller_may(caller, ACCESS_INFER, group, none, NOW, &err) == OK) == cases[i].may_infer,
              "%zu", i);
        check(caller_may(caller, ACCESS_ADMIN, group, none, NOW, &err) == E_PERMISSION,
              "a right without a scope is not in any token");
        caller_unref(&caller);
        /* RS256 is not allowed for this issuer. */
        check(show(access, token_of(KEY_RSA, HEAD_R, claims), NOW, &caller, &err) == E_UNAUTHENTICATED &&
                  strstr(err.text, "algorithm is not allowed") != NULL,
              "%s", err.text);
    }
    access_free(&access);
}

/* -- rotation ------------------------------------------------------------------------------------------- */

TEST(keys_are_replaced_while_tokens_of_the_former_are_in_use)
{
    static const char url[] = "http://127.0.0.1:1/jwks";
    static const char text[] =
        "issuers:\n"
        "  - {issuer: I, audience: A, keys: 'http://127.0.0.1:1/jwks'}\n"
        "rules: [{who: '*', may: read}]\n";
    struct access *access = open_with(text, "");
    struct access_key_url wanted = { .url = "" };
    struct caller *old = NULL, *fresh = NULL;
    struct slice group = slice_of("v2"), none = slice_of("");
    struct err err;

    if (access == NULL)
        return;
    static char token[2048], next[2048];
    snprintf(token, sizeof token, "%s", token_of(KEY_RSA, HEAD_R, CLAIMS));
    snprintf(next, sizeof next, "%s", token_of(KEY_RSA2, "{\"alg\":\"RS256\",\"kid\":\"s\"}", CLAIMS));
    check(access_key_url(access, 0, &wanted) && strcmp(wanted.url, url) == 0 && !wanted.has_keys &&
              !wanted.is_wanted,
          "%s", wanted.url);
    check(!access_key_url(access, 1, &wanted), "one URL");
    check(show(access, token, NOW, &old, &err) == E_UNAUTHENTICATED &&
              strstr(err.text, "not fetched yet") != NULL,
          "%s", err.text);
    check(access_key_url(access, 0, &wanted) && wanted.is_wanted, "a token waits for them");
    check(access_key_url(access, 0, &wanted) && !wanted.is_wanted, "once");
    check(access_set_keys(access, "http://other", slice_of("{}"), NOW, &err) == E_NOT_FOUND, "%s",
          err.text);
    check(access_set_keys(access, url, slice_of("{}"), NOW, &err) == E_INVALID, "%s", err.text);
    check_or_stop(access_set_keys(access, url, slice_of(key_set(true, false, false, false)), NOW,
                                  &err) == OK,
                  "%s", err.text);
    check_or_stop(show(access, token, NOW, &old, &err) == OK, "%s", err.text);
    check(show(access, next, NOW, &fresh, &err) == E_UNAUTHENTICATED, "not yet");
    check(access_key_url(access, 0, &wanted) && wanted.has_keys && wanted.is_wanted, "unknown kid");
    /* Both, then only the next: what the former key signed is refused, in use or not. */
    check(access_set_keys(access, url, slice_of(key_set(true, false, false, true)), NOW, &err) == OK,
          "%s", err.text);
    check(caller_may(old, ACCESS_READ, group, none, NOW, &err) == OK, "%s", err.text);
    check(show(access, next, NOW, &fresh, &err) == OK, "%s", err.text);
    check(access_set_keys(access, url, slice_of("{\"keys\":"), NOW, &err) == E_INVALID, "%s", err.text);
    check(caller_may(old, ACCESS_READ, group, none, NOW, &err) == OK, "a bad set changes nothing");
    check(access_set_keys(access, url, slice_of(key_set(false, false, false, true)), NOW, &err) == OK,
          "%s", err.text);
    check(caller_may(old, ACCESS_READ, group, none, NOW, &err) == E_UNAUTHENTICATED, "%s", err.text);
    check(caller_may(fresh, ACCESS_READ, group, none, NOW, &err) == OK, "%s", err.text);
    caller_unref(&old);
    check(show(access, token, NOW, &old, &err) == E_UNAUTHENTICATED, "it was kept");
    /* Keys that were fetched stay through a reload, as long as the issuer does. */
    check(access_reload(access, NOW, &err) == OK, "%s", err.text);
    check(caller_may(fresh, ACCESS_READ, group, none, NOW, &err) == OK, "%s", err.text);
    put_file("access.yaml", "issuers:\n  - {issuer: I, audience: B, keys: 'http://127.0.0.1:1/jwks'}\n"
                            "rules: [{who: '*', may: read}]\n");
    check(access_reload(access, NOW, &err) == OK, "%s", err.text);
    check(caller_may(fresh, ACCESS_READ, group, none, NOW, &err) == E_UNAUTHENTICATED,
          "another audience: what was proved is not what is asked");
    caller_unref(&fresh);
    access_free(&access);
}

TEST(every_fault_of_a_token_leaves_nothing_behind)
{
    put_file("access.yaml", file);
    put_file("keys.json", key_set(true, true, true, false));
    static char token[2048];
    snprintf(token, sizeof token, "%s", token_of(KEY_EC, HEAD_E, CLAIMS));
    for_each_fault(nth)
    {
        struct access *access = NULL;
        struct caller *caller = NULL;
        struct err err = { 0 };
        enum err_code code = access_new(&access, path, NOW, &err);
        if (code == OK)
            code = show(access, token, NOW, &caller, &err);
        bool is_hit = fault_fired();
        fault_arm(0);
        caller_unref(&caller);
        access_free(&access);
        if (!is_hit) {
            check(code == OK, "%s", err.text);
            break;
        }
        check(code != OK && err.text[0] != '\0', "fault %u was silent", nth);
    }
}
