/* pbtxt.h - reads the protobuf text format into a document (schema.h says of which form).
 *
 * Implements the published grammar of the format (protobuf.dev/reference/protobuf/textformat-spec)
 * for the types that schema.h has: no groups, extensions, Any, bytes or unknown fields. As the
 * official parsers do, a second value for a field that is not a list and a second member of a oneof
 * are errors, and of two map entries with one key the later counts. Strings must be UTF-8 without
 * a zero byte.
 */
#ifndef MODEL_PBTXT_H
#define MODEL_PBTXT_H

#include "model/schema.h"

/* Errors begin with "line L, column C: "; both count from 1, columns in characters. `ret` is a value
 * of `doc`. The depth is of messages within messages. */
MUST_USE enum err_code pbtxt_parse(struct yyjson_mut_val **ret, struct yyjson_mut_doc *doc,
                                   const struct schema_message *message, struct slice text,
                                   uint32_t depth_max, struct err *err);

#endif
