/* tls_auto.h - a local authority and a certificate of this machine: `--tls auto`.
 *
 * Made once in a folder (0700; files 0600, the authority's certificate 0644) and used from then on:
 *
 *   authority.pem, authority.key   ten years; signs certificates for servers only, and no authorities
 *   server.pem, server.key         sixty days; made anew twenty days before its end, and when names are
 *                                  missing: localhost, the host's name, what is listened on
 *
 * Whoever has authority.key can pretend to be any server to those who trust it: the folder is this user's
 * only. Several servers may share it; a lock keeps them from making two authorities.
 */
#ifndef IO_TLS_AUTO_H
#define IO_TLS_AUTO_H

#include "base/err.h"

struct address;
struct arena;

struct tls_auto_settings {
    const char *directory;
    const struct address *addresses; /* every address: those of the interfaces */
    uint32_t addresses_count;
    uint64_t wall_s; /* Unix time */
};

struct tls_auto_paths {
    const char *directory, *authority, *cert, *key;
};

/* Where it all lies; `directory` empty: $XDG_STATE_HOME/penstock/tls, or ~/.local/state/penstock/tls. */
MUST_USE enum err_code tls_auto_paths(const char *directory, struct arena *arena,
                                      struct tls_auto_paths *ret, struct err *err);
/* Makes what is missing or nearly over; blocks on files. */
MUST_USE enum err_code tls_auto_prepare(const struct tls_auto_settings *settings, struct err *err);

#endif
