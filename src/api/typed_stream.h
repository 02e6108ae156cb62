/* typed_stream.h - what the streamed methods of penstock.models.<Service> share. Only for typed_*.c. */
#ifndef API_TYPED_STREAM_H
#define API_TYPED_STREAM_H

#include "contract/typed_proto.h"
#include "engine/session.h"

struct api;
struct call;

/* PredictCollect and PredictSession. `model` is its name. */
void typed_stream_handle(struct call *call, const struct api *api, enum typed_method method,
                         struct slice model, struct slice version);

/* Metadata penstock-reduce: `stack`, `last`, `each` or `window(n,step,pad)`, the last two of which may be
 * left out, into the members of *to; data NULL: nothing was said, and nothing is changed. */
MUST_USE enum err_code typed_read_reduce(struct session_settings *to, struct slice text,
                                         struct err *err);
/* Metadata penstock-when-slow: `pause`, `latest` or `concat`. */
MUST_USE enum err_code typed_read_when_slow(enum session_merge *to, struct slice text,
                                            struct err *err);
/* What a message says of its stream is refused where it makes no sense; *ret_field is then the field's
 * path, in the arena. */
MUST_USE enum err_code typed_check_asked(const struct typed_plan *plan, enum typed_method method,
                                         const struct typed_asked *asked, struct arena *arena,
                                         const char **ret_field, struct err *err);

#endif
