/* sockets.h - the sockets that serve listens on: bound here, or handed over by who started the program.
 *
 * systemd (socket activation) and the program before this one (upgrade.h) hand sockets over alike: they
 * are the descriptors from 3 on, LISTEN_FDS says how many, LISTEN_PID for whom, LISTEN_FDNAMES what they
 * are called (sd_listen_fds(3)). They are taken before any thread exists and before root is given up.
 *
 *   --listen ADDRESS   takes the socket that the program before bound for these very words, else one that
 *                      is bound to this address, else it is bound
 *   systemd's          are all served. Without --listen they are served instead of its default
 *   what is left       of the program before is closed when this one takes over
 *
 * The names we hand on are "=" and the words of --listen, or "@" and systemd's name; ':' and '%' as %3A, %25.
 */
#ifndef CLI_SOCKETS_H
#define CLI_SOCKETS_H

#include <sys/types.h>

#include "base/err.h"
#include "io/socket.h"

struct options;

enum {
    SOCKETS_FIRST_FD = 3,
    SOCKETS_MAX = 16, /* as many as serve takes */
    SOCKET_NAME_MAX = 400,
};

/* What was handed over, before it is looked at. */
struct handed {
    uint32_t count;
    char names[SOCKETS_MAX][SOCKET_NAME_MAX]; /* decoded; "" when it has none */
};
/* LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES as they are in the environment (NULL: not there), for process
 * `mine`. For another process: none, as sd_listen_fds(3) has it. E_PRECONDITION: they are no such thing. */
MUST_USE enum err_code handed_parse(struct handed *ret, const char *pid, const char *fds,
                                    const char *names, pid_t mine, struct err *err);

struct socket_entry {
    int fd; /* owned; -1 once it was given away */
    struct address address;
    const char *text;           /* of --listen, the options' memory; "": none names it */
    char name[SOCKET_NAME_MAX]; /* as it is handed on: "=127.0.0.1:0", "@penstock.socket" */
    bool is_activated;          /* systemd's: its file is not ours to remove */
    bool was_handed;
};
struct sockets {
    struct socket_entry entries[SOCKETS_MAX];
    uint32_t count;
    struct socket_entry unused[SOCKETS_MAX]; /* of the program before; --listen has them no more */
    uint32_t unused_count;
    bool is_given; /* the descriptors of `entries` are somebody else's to close */
};

/* Takes what was handed over, and binds the rest of --listen. On failure everything is closed;
 * *ret_is_misused: it is the command line's. Blocks on the resolver. */
MUST_USE enum err_code sockets_open(struct sockets *ret, const struct options *options,
                                    const struct handed *handed, bool *ret_is_misused,
                                    struct err *err);
/* What no option names any more is closed, and its file removed. */
void sockets_close_unused(struct sockets *sockets);
void sockets_close(struct sockets *sockets);
/* LISTEN_FDNAMES of these: at most SOCKETS_NAMES_MAX bytes with its NUL. */
enum { SOCKETS_NAMES_MAX = SOCKETS_MAX * (3 * SOCKET_NAME_MAX + 1) };
void sockets_names(const struct sockets *sockets, char out[SOCKETS_NAMES_MAX]);

#endif
