/* reply.h - small answers in the form of each dialect, and which HTTP status a failure gets.
 *
 * Loop thread of the exchange. route.h declares api_fail for the rooms above.
 */
#ifndef API_REPLY_H
#define API_REPLY_H

#include "api/route.h"
#include "base/text.h"

enum { REPLY_BYTES_MAX = 64 << 20 }; /* of a made-on-the-fly document */

/* E_EXHAUSTED is 503 in the KServe dialect (Triton answers UNAVAILABLE when a queue is full) and
 * 429 elsewhere; the rest is the table's, with Triton's exceptions (contract B1.6). */
uint16_t api_status(enum dialect dialect, enum err_code code);

/* An error of the typed dialect with the field it is about and an example of a right request
 * (JSON text), either NULL. */
void api_fail_field(struct exchange *x, uint16_t status, const struct err *err, const char *field,
                    const char *example_json);
/* `,"retry_after_ms":N` behind the other members of an error in JSON, where one is known. */
void api_put_retry(struct text *out, const struct err *err);
/* What a body in an encoding nobody knows gets: KServe 501, else 415; both say what is taken. */
void api_fail_encoding(struct exchange *x, enum dialect dialect, const struct err *err);
/* Failure of exchange_collect: too large is 413, an unknown encoding as above. */
void api_fail_body(struct exchange *x, enum dialect dialect, const struct err *err);

/* Answers with what is in a heap text (text_init), which is emptied; a failed text is a 503. */
void api_answer_text(struct exchange *x, enum dialect dialect, uint16_t status,
                     const char *content_type, const struct header *more, uint32_t more_count,
                     struct text *text);

#endif
