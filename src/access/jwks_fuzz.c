/* jwks_fuzz.c - any bytes as a key set. SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "access/jwt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(jwks_unref) struct jwks *jwks = NULL;
    struct err err = { 0 };
    const uint8_t *digest = NULL;
    enum err_code code = jwks_new(&jwks, slice_make(data, size), UINT32_MAX, &err);

    if ((code == OK) != (jwks != NULL) || (code == OK) != (err.text[0] == '\0'))
        abort();
    (void)jwks_find(jwks, JWT_RS256, slice_make(NULL, 0), &digest);
    (void)jwks_find(jwks, JWT_ES256, slice_of("a"), &digest);
    return 0;
}
