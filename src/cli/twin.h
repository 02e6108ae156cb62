/* twin.h - the typed route's JSON and the JSON form of the typed messages (penstock.models.*), one
 * made of the other. Pure functions.
 *
 *   REST                                gRPC, as JSON
 *   {"x": 1}                            {"x": 1}
 *   [{"x": 1}, {"x": 2}]                {"rows": [{"x": 1}, {"x": 2}]}
 *   {"x": [[1, 2], [3, 4]]}             {"rows": [{"x": [1, 2]}, {"x": [3, 4]}]}
 *   [1, 2], of one input x              {"x": [1, 2]}
 *   {"t": [[1, 2], [3, 4]]}, any shape  {"t": {"shape": [2, 2], "values": [1, 2, 3, 4]}}
 *   7                                   "7", where it has 64 bits
 */
#ifndef CLI_TWIN_H
#define CLI_TWIN_H

#include <stdbool.h>

#include "base/err.h"
#include "base/slice.h"
#include "base/text.h"

struct proto_field;
struct proto_type;

/* The field of that name, as the file or as JSON has it; '-' stands for '_' as well. */
bool twin_field(const struct proto_type *type, struct slice name, struct proto_field *ret);

/* What fields lack is told by who reads the message; E_INVALID: no JSON. Appends to `out`. `options`
 * is {"top":3,...}, what the query says over REST, or empty. */
MUST_USE enum err_code twin_request(struct text *out, const struct proto_type *type,
                                    struct slice rest, struct slice options, struct err *err);
MUST_USE enum err_code twin_answer(struct text *out, const struct proto_type *type,
                                   struct slice proto, struct err *err);

#endif
