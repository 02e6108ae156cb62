/* node.h - the server's name among others: --node-name. It begins the ids of events and streams, so
 * that a client, or what balances load, can tell which server one is of.
 */
#ifndef API_NODE_H
#define API_NODE_H

#include "base/slice.h"

enum { NODE_NAME_MAX = 64 };

/* 1 to 64 letters, digits, '-', '_' and '.'. */
bool node_name_is_good(struct slice name);
/* The host's name, with '-' for what a name may not hold; "penstock" when it has none. */
void node_name_default(char ret[NODE_NAME_MAX + 1]);

#endif
