/* identity.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/identity.h"

#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <string.h>

#include "access/access.h"
#include "exchange/exchange.h"
#include "io/env.h"

_Static_assert(IDENTITY_BYTES == SHA256_DIGEST_SIZE, "");

void identity_of(const struct exchange *x, uint8_t ret[IDENTITY_BYTES])
{
    struct slice value = exchange_header(x, "authorization");
    struct sha256_ctx sha;

    if (!caller_is_anonymous(x->caller)) {
        caller_digest(x->caller, ret);
        return;
    }
    memset(ret, 0, IDENTITY_BYTES);
    if (value.data == NULL)
        return;
    sha256_init(&sha);
    sha256_update(&sha, value.size, value.data);
    sha256_digest(&sha, IDENTITY_BYTES, ret);
}

bool identity_is(const uint8_t a[IDENTITY_BYTES], const uint8_t b[IDENTITY_BYTES])
{
    return memeql_sec(a, b, IDENTITY_BYTES) != 0;
}

void identity_secret(struct env *env, char ret[IDENTITY_SECRET_MAX])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[IDENTITY_SECRET_MAX / 2];

    env->random(env, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        ret[2 * i] = digits[bytes[i] >> 4];
        ret[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret[IDENTITY_SECRET_MAX - 1] = '\0';
}
