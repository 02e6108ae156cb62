/* note.h - what is told of an inference that an exchange asked for: its line of the access log, its span,
 * its count (exchange.h, struct exchange_note). Loop thread only.
 */
#ifndef API_NOTE_H
#define API_NOTE_H

#include "engine/request.h"
#include "exchange/exchange.h"

struct model;

/* The model that it is about, as soon as it is found. */
void note_model(struct exchange *x, const struct model *model);
/* A request has ended (from its sink's on_end, behind the answer). `begun_ns`: when its decoding began; 0:
 * not known, and reckoned back from now. x NULL: nobody is told. */
void note_request(struct exchange *x, const struct request *request, uint64_t begun_ns,
                  enum err_code code);

#endif
