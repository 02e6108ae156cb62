/* typed.h - the typed dialect's parts that other pages use. */
#ifndef API_TYPED_H
#define API_TYPED_H

#include "api/route.h"
#include "base/text.h"
#include "contract/typed.h"

struct model;

/* The model's plan, made at the first call and kept with it. */
MUST_USE enum err_code typed_plan_of(struct model *model, const struct typed_plan **ret,
                                     struct err *err);
/* Appends a name as one segment of a path, percent-encoded. */
void typed_put_segment(struct text *out, struct slice name);
/* Appends a curl line that calls the model with its example; plain text for a POSIX shell. Nothing
 * when there is no example. */
void typed_put_curl(struct text *out, const struct exchange *x, const char *model,
                    const struct typed_plan *plan);
/* The same call by grpcurl. Nothing when there is no example that both take. */
void typed_put_grpcurl(struct text *out, const struct exchange *x, const struct typed_plan *plan);

#endif
