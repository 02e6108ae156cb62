/* upgrade.h - SIGUSR2: a new program takes over the listening sockets, and no request is lost.
 *
 *   the old one                                   the new one
 *   starts it: same path, words, environment  ->  takes the sockets, loads its models
 *   looks at what is not ready there          <-  "missing iris 1 why" ..., "loaded"
 *   "go"                                      ->  accepts (both do), "serving"
 *   tells systemd who is the main process,
 *   "main"                                    ->  tells systemd that it is ready
 *   drains and ends                               serves
 *
 * They talk by datagrams over a pair of sockets whose descriptor PENSTOCK_UPGRADE names. Until "go" the old
 * one has changed nothing: if the new one fails, hangs, crashes, or lacks a model that is ready here, it
 * is ended and the old one goes on. Until "go" the new one ends with the old one, whatever happens to that.
 * It is started by a process of its own (launcher.h), as the old one may have given up what that takes.
 *
 * The path is what the program was started by, made absolute then and resolved anew each time, so that a
 * replaced file or a link that points elsewhere is taken.
 *
 * Threads  the starting thread's, but for upgrade_failed.
 */
#ifndef CLI_UPGRADE_H
#define CLI_UPGRADE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "cli/sockets.h"

struct options;

/* -- both ---------------------------------------------------------------------------------------- */

/* The first thing of main: how the program was started, and what was handed over, which is taken out of
 * the environment. What is wrong with it is kept until handed_take. */
void upgrade_init(char **argv);
MUST_USE enum err_code handed_take(struct handed *ret, struct err *err);

/* -- the new program ----------------------------------------------------------------------------- */

bool upgrade_is_new(void); /* somebody waits for this one to take over */
void upgrade_missing(const char *model, const char *version, const char *why);
/* All is loaded: may this one serve? Blocks until the other has decided; E_UNAVAILABLE: no. */
MUST_USE enum err_code upgrade_ask(struct err *err);
/* It serves. Returns when systemd knows this process as the main one, or after a few seconds. */
void upgrade_serves(void);
/* It ends and never served; any thread. */
void upgrade_failed(const char *why);

/* -- the old program ----------------------------------------------------------------------------- */

/* --upgrade-rights: whose the next program has. */
enum upgrade_rights { UPGRADE_RIGHTS_USER, UPGRADE_RIGHTS_START };
/* Before there is a second thread, and before anything is confined (launcher.h). The next program starts
 * with the rights that this one has now: before or after confine_user. `program`: --upgrade-to; "": what
 * this one was started by. */
MUST_USE enum err_code upgrade_prepare(const char *program, struct err *err);
/* Says what would fail at an upgrade, as the user of --user lacks the right for it. */
void upgrade_warn(const struct options *options);

struct upgrade {
    pid_t pid; /* 0: none is under way */
    int fd;    /* ours of the pair */
    uint64_t due_ns;
    char why[ERR_TEXT_MAX]; /* the last thing that it said of itself */
    bool has_gone;          /* "go" was said */
};
struct upgrade_settings {
    uint64_t timeout_ns;
    const struct sockets *sockets; /* with descriptors that are open here */
};
MUST_USE enum err_code upgrade_begin(struct upgrade *ret, const struct upgrade_settings *settings,
                                     struct err *err);
enum upgrade_state { UPGRADE_GOES_ON, UPGRADE_SERVES, UPGRADE_FAILED };
/* Reads what it said. `is_ready_here` (version "": any): would that model be lost? UPGRADE_FAILED: it is over and gone, and err
 * says why. */
enum upgrade_state upgrade_look(struct upgrade *upgrade,
                                bool (*is_ready_here)(void *context, struct slice model,
                                                      struct slice version),
                                void *context, struct err *err);
/* This one ends, and what was to take over with it: it is told, and not waited for. The last that is done. */
void upgrade_leave(struct upgrade *upgrade);
void upgrade_abandon(struct upgrade *upgrade); /* ends it; no-op when none is under way */
void upgrade_finish(struct upgrade *upgrade);  /* it is the main process from here on */

#endif
