/* upload.h - a file of any size to one answer, in the memory of a few chunks, resumable where it was cut:
 * the exchange of IETF's draft-ietf-httpbis-resumable-upload, over any model's stream.
 *
 *   POST /models/{model}:upload      the file as the body: answered with the model's answer, in the
 *                                    typed route's form. With `upload-complete: ?0` there is more to
 *                                    come: 201, `location: /uploads/{id}` and `upload-offset`
 *   PATCH /uploads/{id}              more of it, from `upload-offset` on (409 says which it must be);
 *                                    the last part has `upload-complete: ?1` and gets the answer
 *   HEAD /uploads/{id}               `upload-offset`: how much was taken; `upload-complete`
 *   GET /uploads/{id}                the answer, once it is there
 *   DELETE /uploads/{id}             gives it up
 *
 * The bytes become pieces of --upload-chunk of the model's one input that is neither state nor constant;
 * what the pieces become is the model's `stream: reduce` (each: a run for each, state carried, and the
 * last run's answer is the answer). What was acknowledged (upload-offset) is in the model's hands and
 * never has to be sent again.
 *
 * An upload lives on the loop where it began, with its session; a part that comes by another loop is
 * handed over chunk by chunk. It is bound to who began it, as resume.h has it, and is kept for
 * --upload-time without a part under way.
 */
#ifndef API_UPLOAD_H
#define API_UPLOAD_H

#include "api/route.h"

struct budget;
struct env;
struct uploads; /* one per server: in struct api */

struct uploads_settings {
    struct env *env;      /* borrowed */
    const char *node;     /* --node-name; copied */
    uint64_t time_ns;     /* --upload-time */
    uint64_t uploads_max; /* --uploads-max: under way, or with an answer that may be fetched */
    uint64_t bytes_max;   /* --upload-bytes-max, of one */
    size_t chunk_bytes;   /* --upload-chunk */
};
MUST_USE enum err_code uploads_new(struct uploads **ret, const struct uploads_settings *settings,
                                   struct err *err);
MUST_USE enum err_code uploads_register(struct uploads *all, struct metrics *metrics,
                                        struct err *err);
/* Any thread: the server stops. Those without a part under way end now, others with it. */
void uploads_drain(struct uploads *all);
void uploads_free(struct uploads **all); /* no loop runs any more */

extern const struct route_table upload_routes;

#endif
