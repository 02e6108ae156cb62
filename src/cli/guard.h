/* guard.h - keeps the rules of --access as new as their file, and the keys of token issuers as new as their
 * URLs. It logs what it took and what it could not.
 *
 * Threads  two of its own, one that blocks on files and one on the network, so that a key is withdrawn in time
 *          whatever servers of keys do. guard_start and guard_stop: the starting thread.
 */
#ifndef CLI_GUARD_H
#define CLI_GUARD_H

#include "base/err.h"

struct access;
struct env;
struct guard;

/* Nothing is started where there are no rules: *ret is NULL then. At SIGHUP the file is read at once.
 * cacert: whom to trust by https (struct tls_client_settings), borrowed. `on_taken`: after each time that new
 * rules were taken, on the thread of files or that of signals. */
MUST_USE enum err_code guard_start(struct guard **ret, struct env *env, struct access *access,
                                   const char *cacert, void (*on_taken)(void *context),
                                   void *context, struct err *err);
void guard_stop(struct guard **guard);

#endif
