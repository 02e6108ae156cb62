/* key.h - the form of the keys that `penstock key` makes: "penstock_", 33 letters and digits that are chance,
 * and 6 that say whether it was copied whole.
 *
 * The beginning is for scanners that look for secrets where none should be, and so is the end: by both
 * together they find keys and nothing else (docs/access.md has the expression). Other secrets may be keys as
 * well, as long as they are as random as this. Pure.
 */
#ifndef ACCESS_KEY_H
#define ACCESS_KEY_H

#include "base/slice.h"

enum { KEY_CHANCE_BYTES = 24, KEY_TEXT_BYTES = 48, KEY_DIGEST_BYTES = 32 };

void key_make(const uint8_t chance[KEY_CHANCE_BYTES], char ret[KEY_TEXT_BYTES + 1]);
/* Begins as one of ours and is not whole: somebody has mistyped it, or cut it off. */
bool key_is_damaged(struct slice key);
void key_digest(struct slice key, uint8_t ret[KEY_DIGEST_BYTES]);

#endif
