/* jwt_fuzz.c - any bytes as a token, and as the claims of one whose signature was good. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The first byte says which. A token is also proved, with a key that signed none of them.
 */
#include <stdlib.h>

#include "access/jose.h"
#include "access/jwt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char key_set[] =
    "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"d\","
    "\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"},"
    "{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"e\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
    "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";

static struct tenant no_tenant;

static const struct issuer issuers[] = {
    { .iss = "I",
      .audiences = { "A", "B" },
      .audiences_count = 2,
      .algorithms = UINT32_MAX,
      .skew_s = 60,
      .token_bytes_max = 8192,
      .name_claim = "sub",
      .prefix = "p:",
      .tenant_claim = "team",
      .tenant = &no_tenant,
      .scope_claim = "scope",
      .scopes = { NULL, "read", "infer", NULL } },
};

static void read_token(struct slice token, struct jwks *jwks)
{
    struct jwt_claims claims;
    struct err err = { 0 };
    struct jwt jwt;

    enum err_code code = jwt_read(&jwt, issuers, COUNT(issuers), token, &err);
    if ((code == OK) != (err.text[0] == '\0') || (code == OK && jwt.issuer != issuers))
        abort();
    if (code == OK && jwt_prove(&jwt, jwks, &claims, &err) == OK)
        abort(); /* nobody has the private keys here: they are of RFC 8037 and RFC 7515, and sign nothing */
    jwt_deinit(&jwt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct jwks *jwks;
    struct jwt_claims claims;
    struct err err = { 0 };
    CLEANUP(jose_free) yyjson_doc *doc = NULL;

    if (jwks == NULL && jwks_new(&jwks, slice_of(key_set), UINT32_MAX, &err) != OK)
        abort();
    if (size == 0)
        return 0;
    struct slice rest = slice_make(data + 1, size - 1);
    if (data[0] & 1)
        read_token(rest, jwks);
    else if ((doc = jose_read(rest, "the claims", &err)) != NULL &&
             jwt_judge(issuers, doc, 1800000000, &claims, &err) == OK &&
             (claims.name[0] != 'p' || claims.expires_s <= 1800000000))
        abort();
    return 0;
}
