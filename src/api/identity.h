/* identity.h - who a thing that outlives its connection belongs to, and names that cannot be guessed.
 *
 * A caller that rules know is who has the same name in the same tenant (access/access.h: by whatever key or
 * token, so that a key may be replaced meanwhile); any other is who sends the same `authorization` header
 * (none at all is an identity too), so that a proxy in front may be the one that knows callers. SHA-256 is
 * kept, never the header. Any thread.
 */
#ifndef API_IDENTITY_H
#define API_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

struct env;
struct exchange;

enum { IDENTITY_BYTES = 32, IDENTITY_SECRET_MAX = 33 };

void identity_of(const struct exchange *x, uint8_t ret[IDENTITY_BYTES]);
/* Takes as long whether they differ early, late or not. */
bool identity_is(const uint8_t a[IDENTITY_BYTES], const uint8_t b[IDENTITY_BYTES]);
/* 128 random bits as 32 hexadecimal digits and a NUL. */
void identity_secret(struct env *env, char ret[IDENTITY_SECRET_MAX]);

#endif
