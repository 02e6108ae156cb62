/* explain.h - what is known of a model version and where it came from, as JSON: for the verb and
 * for the server's GET /models/{model}/explain. */
#ifndef CLI_EXPLAIN_H
#define CLI_EXPLAIN_H

#include "base/text.h"

struct repository_entry;
struct route_table;

/* One object. `has_paths`: also folders of this machine, which a caller over the network has no
 * business with. Any thread that holds the snapshot; does not block. */
void explain_put(struct text *out, const struct repository_entry *entry, bool has_paths);

/* GET /models/{model}/explain and /models/{model}/versions/{version}/explain */
extern const struct route_table explain_routes;

#endif
