/* seccomp.h - system calls that a server never makes and an attacker wants, refused with EPERM.
 *
 * A list of what is refused, and not of what is allowed: runtimes call what they like, and a list of that
 * would break with their next version.
 */
#ifndef CLI_SECCOMP_H
#define CLI_SECCOMP_H

#include <stddef.h>
#include <stdint.h>

/* How many are refused from here on, for this thread and those it starts; needs no_new_privs. 0: it cannot
 * be done, and `why` says why. */
uint32_t seccomp_confine(char *why, size_t size);

#endif
