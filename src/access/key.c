/* key.c - SPDX-License-Identifier: Apache-2.0
 *
 * 192 bits as a number to the base of 62: every key is as likely as any other, which letters drawn by
 * the remainder of a byte would not be.
 */
#include "access/key.h"

#include <nettle/sha2.h>
#include <zlib.h>

enum { PREFIX_BYTES = 9, SUM_BYTES = 6, BODY_BYTES = KEY_TEXT_BYTES - PREFIX_BYTES - SUM_BYTES };

static const char prefix[] = "penstock_";
static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

_Static_assert(sizeof prefix - 1 == PREFIX_BYTES && sizeof letters - 1 == 62, "");

static void put_sum(const char *key, char ret[SUM_BYTES])
{
    uLong sum = crc32(0, (const Bytef *)key, PREFIX_BYTES + BODY_BYTES);

    for (int i = SUM_BYTES; i-- > 0; sum /= 62)
        ret[i] = letters[sum % 62];
}

void key_make(const uint8_t chance[KEY_CHANCE_BYTES], char ret[KEY_TEXT_BYTES + 1])
{
    uint8_t number[KEY_CHANCE_BYTES];

    memcpy(number, chance, sizeof number);
    memcpy(ret, prefix, PREFIX_BYTES);
    for (int i = BODY_BYTES; i-- > 0;) {
        uint32_t rest = 0;
        for (size_t j = 0; j < sizeof number; j++) {
            rest = rest << 8 | number[j];
            number[j] = (uint8_t)(rest / 62);
            rest %= 62;
        }
        ret[PREFIX_BYTES + i] = letters[rest];
    }
    put_sum(ret, ret + PREFIX_BYTES + BODY_BYTES);
    ret[KEY_TEXT_BYTES] = '\0';
}

bool key_is_damaged(struct slice key)
{
    char sum[SUM_BYTES];

    if (!slice_starts(key, prefix))
        return false;
    if (key.size != KEY_TEXT_BYTES)
        return true;
    put_sum((const char *)key.data, sum);
    return memcmp(sum, key.data + PREFIX_BYTES + BODY_BYTES, SUM_BYTES) != 0;
}

void key_digest(struct slice key, uint8_t ret[KEY_DIGEST_BYTES])
{
    struct sha256_ctx sha;

    sha256_init(&sha);
    sha256_update(&sha, key.size, key.data);
    sha256_digest(&sha, KEY_DIGEST_BYTES, ret);
}
