/* jose.h - what tokens and key sets are written in: base64url and JSON, both strictly. Pure.
 *
 * Base64url without padding, without blanks, and with the unused bits of the last letter zero, so that one
 * value has one spelling. JSON as RFC 8259 has it, in which no object has a name twice, at any depth.
 *
 * What came from a stranger costs its bytes: names are sorted to find those that stand twice, their number is
 * bounded, and that of claims is done when their signature was found good.
 */
#ifndef ACCESS_JOSE_H
#define ACCESS_JOSE_H

#include <yyjson.h>

#include "base/err.h"
#include "base/slice.h"

enum { JOSE_DEPTH_MAX = 16, JOSE_NAMES_MAX = 256 /* of one object */ };

/* False: it is not base64url as JOSE has it, exact and unpadded. `out` has room for
 * base64_decoded(text.size). */
MUST_USE bool jose_decode(struct slice text, uint8_t *out, size_t *ret_size);

/* An object, or NULL with err: E_INVALID, or E_EXHAUSTED without memory. `what` names it in the words. Its
 * names may stand twice still. */
MUST_USE yyjson_doc *jose_read(struct slice json, const char *what, struct err *err);
/* What is wrong with its names or its depth; NULL: nothing. `names_max`: of all its objects together. */
MUST_USE const char *jose_flaw(yyjson_doc *doc, size_t names_max);
/* Both in one. */
MUST_USE yyjson_doc *jose_object(struct slice json, size_t names_max, const char *what,
                                 struct err *err);
static inline void jose_free(yyjson_doc **doc)
{
    yyjson_doc_free(*doc);
    *doc = NULL;
}
/* Stands that name in it exactly once? */
bool jose_has_once(yyjson_val *object, const char *name);
/* The text of that name; data NULL: there is none, or it is no text, or it holds a zero byte. */
struct slice jose_text(yyjson_val *object, const char *name);

#endif
