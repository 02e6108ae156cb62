/* upgrade.c - SPDX-License-Identifier: Apache-2.0
 */
#include "cli/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/launcher.h"
#include "cli/options.h"

enum {
    MESSAGE_MAX = 1024,
    MAIN_MS = 5000, /* the new one waits so long to be made the main process */
    PROTOCOL = 1,
};

static struct {
    char program[PATH_MAX]; /* "": could not be found out */
    const char *starts;     /* what SIGUSR2 starts */
    char **argv;
    struct handed handed;
    struct err handed_err;
    int fd; /* the new program's of the pair; -1: it was not started by another */
} self = { .fd = -1 };

/* -- how it was started --------------------------------------------------------------------------- */

static bool is_program(const char *path)
{
    return access(path, X_OK) == 0;
}

static bool find_in_path(char out[PATH_MAX], const char *name)
{
    const char *path = getenv("PATH");

    for (struct slice rest = slice_of(path == NULL ? "" : path); rest.size > 0;) {
        size_t end = slice_find(rest, ':');
        struct slice folder = slice_first(rest, end);
        if (folder.size > 0 && folder.data[0] == '/' &&
            (size_t)snprintf(out, PATH_MAX, "%.*s/%s", SLICE_ARG(folder), name) < PATH_MAX &&
            is_program(out))
            return true;
        rest = slice_skip(rest, MIN(end + 1, rest.size));
    }
    return false;
}

/* The path by which it was called, absolute, with its links as they are. */
static void find_self(const char *name)
{
    char folder[PATH_MAX];
    bool is_found = false;

    if (name != NULL && name[0] == '/')
        is_found = (size_t)snprintf(self.program, PATH_MAX, "%s", name) < PATH_MAX;
    else if (name != NULL && strchr(name, '/') != NULL && getcwd(folder, sizeof folder) != NULL)
        is_found = (size_t)snprintf(self.program, PATH_MAX, "%s/%s", folder, name) < PATH_MAX;
    else if (name != NULL)
        is_found = find_in_path(self.program, name);
    if (is_found && is_program(self.program))
        return;
    ssize_t size = readlink("/proc/self/exe", self.program, sizeof self.program - 1);
    self.program[MAX(size, 0)] = '\0';
}

void upgrade_init(char **argv)
{
    static const char *const taken[] = { "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
                                         "PENSTOCK_UPGRADE" };
    const char *upgrade = getenv("PENSTOCK_UPGRADE"), *pid = getenv("LISTEN_PID");
    int version = 0, fd = -1;

    self.argv = argv;
    find_self(argv[0]);
    if (handed_parse(&self.handed, pid, getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"), getpid(),
                     &self.handed_err) != OK)
        self.handed.count = 0; /* handed_take says why */
    if (upgrade != NULL && pid != NULL && atol(pid) == (long)getpid() &&
        sscanf(upgrade, "%d:%d", &version, &fd) == 2 && version == PROTOCOL && fd >= 0 &&
        fcntl(fd, F_SETFD, FD_CLOEXEC) == 0)
        self.fd = fd;
    for (size_t i = 0; i < COUNT(taken); i++)
        unsetenv(taken[i]);
}

enum err_code handed_take(struct handed *ret, struct err *err)
{
    if (self.handed_err.code != OK) {
        *err = self.handed_err;
        return err->code;
    }
    *ret = self.handed;
    return OK;
}

/* -- the new program ------------------------------------------------------------------------------ */

bool upgrade_is_new(void)
{
    return self.fd >= 0;
}

/* One word, then what belongs to it. */
static void say(int fd, const char *format, ...) PRINTF_LIKE(2, 3);
static void say(int fd, const char *format, ...)
{
    char message[MESSAGE_MAX];
    va_list args;

    va_start(args, format);
    int size = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    ssize_t ignored =
        send(fd, message, MIN((size_t)size, sizeof message - 1), MSG_NOSIGNAL); /* or it has gone */
    (void)ignored;
}

/* What the other says within so long; "" when it says nothing or has gone. */
static void hear(int fd, int wait_ms, char out[MESSAGE_MAX])
{
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    ssize_t got = -1;

    while (poll(&ready, 1, wait_ms) < 0 && errno == EINTR)
        continue;
    if (ready.revents != 0)
        got = recv(fd, out, MESSAGE_MAX - 1, MSG_DONTWAIT);
    out[MAX(got, (ssize_t)0)] = '\0';
}

void upgrade_missing(const char *model, const char *version, const char *why)
{
    if (self.fd >= 0)
        say(self.fd, "missing %s\n%s\n%s", model, version, why);
}

enum err_code upgrade_ask(struct err *err)
{
    char answer[MESSAGE_MAX];

    say(self.fd, "loaded");
    hear(self.fd, -1, answer);
    if (strcmp(answer, "go") != 0)
        return err_set(err, E_UNAVAILABLE,
                       "the program that started this one does not hand over: it has ended, or its "
                       "log says why");
    return OK;
}

void upgrade_serves(void)
{
    char answer[MESSAGE_MAX];

    if (self.fd < 0)
        return;
    say(self.fd, "serving");
    hear(self.fd, MAIN_MS, answer);
    close(self.fd);
    self.fd = -1;
}

void upgrade_failed(const char *why)
{
    if (self.fd >= 0)
        say(self.fd, "failed %s", why);
}

/* -- the old program: starting -------------------------------------------------------------------- */

enum err_code upgrade_prepare(const char *program, struct err *err)
{
    static struct launcher_words words;

    snprintf(words.program, sizeof words.program, "%s",
             program[0] != '\0' ? program : self.program);
    words.argv = self.argv;
    self.starts = words.program;
    return launcher_begin(&words, err);
}

void upgrade_warn(const struct options *o)
{
    const char *config = options_text(o, OPT_CONFIG), *user = options_text(o, OPT_USER);

    if (user[0] == '\0')
        return;
    if (!is_program(self.starts))
        log_warn("SIGUSR2 would fail: %s may not start %s (--user, --upgrade-rights)", user,
                 self.starts);
    if (config[0] != '\0' && access(config, R_OK) != 0)
        log_warn("SIGUSR2 would fail: %s may not read %s (--user, --upgrade-rights)", user, config);
}

enum err_code upgrade_begin(struct upgrade *ret, const struct upgrade_settings *settings,
                            struct err *err)
{
    pid_t pid = 0;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return err_set(err, E_EXHAUSTED, "cannot make a pair of sockets: %s", strerror(errno));
    enum err_code code = launcher_start(settings->sockets, pair[1], &pid, err);
    close(pair[1]);
    if (code != OK) {
        close(pair[0]);
        return err_wrap(err, "cannot start %s", self.starts);
    }
    *ret = (struct upgrade){ .pid = pid,
                             .fd = pair[0],
                             .due_ns = clock_mono_ns() + settings->timeout_ns };
    log_info("SIGUSR2: started %s as process %d; when it serves, this one finishes and ends",
             self.starts, (int)pid);
    return OK;
}

/* -- the old program: looking --------------------------------------------------------------------- */

static void forget(struct upgrade *u)
{
    if (u->fd >= 0)
        close(u->fd);
    u->fd = -1;
    u->pid = 0;
}

/* True: it has ended; how, in words. */
static bool has_ended(uint64_t wait_ms, struct text *how)
{
    int status = 0;

    if (!launcher_has_ended(wait_ms, &status))
        return false;
    if (status == -1)
        text_str(how, "has ended");
    else if (WIFSIGNALED(status))
        text_printf(how, "was ended by signal %d (%s)", WTERMSIG(status),
                    strsignal(WTERMSIG(status)));
    else
        text_printf(how, "ended with status %d", WEXITSTATUS(status));
    return true;
}

void upgrade_abandon(struct upgrade *u)
{
    if (u->pid == 0)
        return;
    launcher_kill();
    forget(u);
}

void upgrade_leave(struct upgrade *u)
{
    if (u->pid != 0)
        launcher_kill_soon();
    forget(u);
}

/* It closed its side: it ends, or has. */
static enum upgrade_state on_end(struct upgrade *u, struct err *err)
{
    struct text how;

    text_init(&how, sizeof err->text);
    if (has_ended(1000, &how))
        err_set(err, E_UNAVAILABLE, "the new program %.*s%s%s", (int)how.size,
                (const char *)how.data, u->why[0] != '\0' ? ": " : "", u->why);
    else
        err_set(err, E_UNAVAILABLE, "the new program does not talk to this one: is it penstock?");
    text_deinit(&how);
    upgrade_abandon(u);
    return UPGRADE_FAILED;
}

static enum upgrade_state on_missing(struct upgrade *u, struct slice rest,
                                     bool (*is_ready_here)(void *context, struct slice model,
                                                           struct slice version),
                                     void *context, struct err *err)
{
    struct slice model = slice_first(rest, slice_find(rest, '\n'));
    struct slice version = slice_skip(rest, MIN(model.size + 1, rest.size));
    struct slice why;

    version = slice_first(version, slice_find(version, '\n'));
    why = slice_skip(rest, MIN(model.size + version.size + 2, rest.size));
    if (!is_ready_here(context, model, version))
        return UPGRADE_GOES_ON;
    err_set(err, E_PRECONDITION, "model '%.*s' is ready here and not in the new program: %.*s",
            SLICE_ARG(model), SLICE_ARG(why));
    upgrade_abandon(u);
    return UPGRADE_FAILED;
}

enum upgrade_state upgrade_look(struct upgrade *u,
                                bool (*is_ready_here)(void *context, struct slice model,
                                                      struct slice version),
                                void *context, struct err *err)
{
    char message[MESSAGE_MAX];
    ssize_t got;

    while ((got = recv(u->fd, message, sizeof message - 1, MSG_DONTWAIT)) > 0) {
        message[got] = '\0';
        struct slice rest = slice_of(message);
        if (strncmp(message, "missing ", 8) == 0) {
            if (on_missing(u, slice_skip(rest, 8), is_ready_here, context, err) == UPGRADE_FAILED)
                return UPGRADE_FAILED;
        } else if (strncmp(message, "failed ", 7) == 0) {
            snprintf(u->why, sizeof u->why, "%.*s", (int)sizeof u->why - 1, message + 7);
        } else if (strcmp(message, "loaded") == 0) {
            u->has_gone = true;
            say(u->fd, "go");
        } else if (strcmp(message, "serving") == 0 && u->has_gone) {
            return UPGRADE_SERVES;
        }
    }
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        return on_end(u, err);
    if (clock_mono_ns() < u->due_ns)
        return UPGRADE_GOES_ON;
    err_set(err, E_DEADLINE, "the new program does not serve in time (--upgrade-timeout)");
    upgrade_abandon(u);
    return UPGRADE_FAILED;
}

void upgrade_finish(struct upgrade *u)
{
    launcher_let_go();
    say(u->fd, "main");
    forget(u);
}
