/* upgrade.c - SPDX-License-Identifier: Apache-2.0
 *
 * The new program is started by vfork: fork would copy the page tables of a process that may hold many
 * gigabytes of models, and make each of its next writes a page fault. Between vfork and execve the child
 * shares our memory, so it only makes system calls and writes two buffers that are its own.
 */
#include "cli/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/stop.h"

enum {
    MESSAGE_MAX = 1024,
    MAIN_MS = 5000, /* the new one waits so long to be made the main process */
    END_MS = 5000,  /* the new one has so long to end by SIGTERM */
    END_STEP_MS = 10,
    PROTOCOL = 1,
};

static struct {
    char program[PATH_MAX]; /* "": could not be found out */
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
    if (self.fd >= 0) /* it was meant for the program before */
        unsetenv("WATCHDOG_PID");
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
    prctl(PR_SET_PDEATHSIG, 0);
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

struct start {
    const char *program;
    char **argv, **envp;
    char *pid_text; /* behind "LISTEN_PID=": written once the number is known */
    int fds[SOCKETS_MAX + 1];
    uint32_t fds_count;
    sigset_t mask;
    volatile int error; /* why execve did not work */
};

/* The child, in our memory: nothing but system calls, and the two places above. */
static void become(struct start *s)
{
    struct sigaction ignore_no_more = { .sa_handler = SIG_DFL };
    pid_t pid = getpid();
    int digits = 1;

    for (pid_t rest = pid; rest >= 10; rest /= 10)
        digits++;
    for (pid_t rest = pid; digits-- > 0; rest /= 10)
        s->pid_text[digits] = (char)('0' + rest % 10);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    for (uint32_t i = 0; i < s->fds_count; i++)
        if (dup2(s->fds[i], SOCKETS_FIRST_FD + (int)i) < 0)
            goto failed;
    /* Runtimes open files too, and not all of them say that they end with the program. */
    (void)syscall(SYS_close_range, (unsigned)SOCKETS_FIRST_FD + s->fds_count, ~0U,
                  CLOSE_RANGE_CLOEXEC);
    sigaction(SIGPIPE, &ignore_no_more, NULL);
    sigprocmask(SIG_SETMASK, &s->mask, NULL);
    execve(s->program, s->argv, s->envp);
failed:
    s->error = errno;
    _exit(127);
}

static pid_t start(struct start *s)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* no handler of ours runs in the child */
    s->error = 0;
    pid_t pid = vfork();
    if (pid == 0)
        become(s);
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        s->error = error;
    else if (s->error != 0)
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    return s->error != 0 ? -1 : pid;
}

/* The environment of this process with what the new one is told; one block. NULL: no memory. */
static char **make_environment(const struct sockets *sockets, int fd, char **ret_pid_text)
{
    enum { MORE = 4, PID_ROOM = 16, FDS_ROOM = 32, UPGRADE_ROOM = 64 };
    size_t count = 0;

    while (environ != NULL && environ[count] != NULL)
        count++;
    size_t table = (count + MORE + 1) * sizeof(char *);
    char *block = mem_zalloc(table + sizeof "LISTEN_PID=" + PID_ROOM + FDS_ROOM + UPGRADE_ROOM +
                             sizeof "LISTEN_FDNAMES=" + SOCKETS_NAMES_MAX);
    if (block == NULL)
        return NULL;
    char **envp = (char **)(void *)block, *at = block + table;
    memcpy(envp, environ, count * sizeof *envp);
    envp[count++] = at;
    memcpy(at, "LISTEN_PID=", 11);
    *ret_pid_text = at + 11;
    envp[count++] = at += 12 + PID_ROOM;
    snprintf(at, FDS_ROOM, "LISTEN_FDS=%u", sockets->count);
    envp[count++] = at += FDS_ROOM;
    snprintf(at, UPGRADE_ROOM, "PENSTOCK_UPGRADE=%d:%d", PROTOCOL, fd);
    envp[count++] = at += UPGRADE_ROOM;
    memcpy(at, "LISTEN_FDNAMES=", 15);
    sockets_names(sockets, at + 15);
    return envp;
}

/* Where no descriptor of the child's is put on top of one that is still to be copied. */
static bool lift(int *fd)
{
    int lifted = fcntl(*fd, F_DUPFD_CLOEXEC, SOCKETS_FIRST_FD + SOCKETS_MAX + 1);

    *fd = lifted;
    return lifted >= 0;
}

enum err_code upgrade_begin(struct upgrade *ret, const struct upgrade_settings *settings,
                            struct err *err)
{
    const char *program = settings->program[0] != '\0' ? settings->program : self.program;
    struct start s = { .program = program, .argv = self.argv };
    bool is_whole = true;
    int pair[2];

    if (getpid() == 1)
        return err_set(err, E_PRECONDITION,
                       "this is process 1, whose end is the end of its container: start another "
                       "container in its place");
    if (program[0] == '\0' || !is_program(program))
        return err_set(err, E_NOT_FOUND, "cannot start %s: %s; --upgrade-to names another program",
                       program[0] != '\0' ? program : "this program anew",
                       program[0] != '\0' ? strerror(errno) : "its path is not known");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return err_set(err, E_EXHAUSTED, "cannot make a pair of sockets: %s", strerror(errno));
    for (uint32_t i = 0; i < settings->sockets->count; i++)
        s.fds[s.fds_count++] = settings->sockets->entries[i].fd;
    s.fds[s.fds_count++] = pair[1];
    for (uint32_t i = 0; i < s.fds_count; i++)
        is_whole &= lift(&s.fds[i]);
    stop_mask_before(&s.mask);
    char *pid_text = NULL;
    s.envp = make_environment(settings->sockets, SOCKETS_FIRST_FD + (int)settings->sockets->count,
                              &pid_text);
    s.pid_text = pid_text;
    if (s.envp == NULL || !is_whole)
        s.error = is_whole ? ENOMEM : EMFILE;
    pid_t pid = s.error != 0 ? -1 : start(&s);
    for (uint32_t i = 0; i < s.fds_count; i++)
        if (s.fds[i] >= 0)
            close(s.fds[i]);
    close(pair[1]);
    mem_free(s.envp);
    if (pid < 0) {
        close(pair[0]);
        return err_set(err, E_UNAVAILABLE, "cannot start %s: %s", program, strerror(s.error));
    }
    *ret = (struct upgrade){ .pid = pid,
                             .fd = pair[0],
                             .due_ns = clock_mono_ns() + settings->timeout_ns };
    log_info("SIGUSR2: started %s as process %d; when it serves, this one finishes and ends",
             program, (int)pid);
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
static bool has_ended(struct upgrade *u, uint64_t wait_ms, struct text *how)
{
    struct timespec nap = { .tv_nsec = END_STEP_MS * (long)NS_PER_MS };
    int status = 0;
    pid_t got;

    for (uint64_t waited = 0; (got = waitpid(u->pid, &status, WNOHANG)) == 0 && waited < wait_ms;
         waited += END_STEP_MS)
        nanosleep(&nap, NULL);
    if (got == 0)
        return false;
    if (how == NULL)
        return true;
    if (got > 0 && WIFSIGNALED(status))
        text_printf(how, "was ended by signal %d (%s)", WTERMSIG(status),
                    strsignal(WTERMSIG(status)));
    else
        text_printf(how, "ended with status %d", got > 0 ? WEXITSTATUS(status) : -1);
    return true;
}

void upgrade_abandon(struct upgrade *u)
{
    if (u->pid == 0)
        return;
    kill(u->pid, SIGTERM);
    if (!has_ended(u, END_MS, NULL)) {
        kill(u->pid, SIGKILL);
        (void)has_ended(u, END_MS, NULL);
    }
    forget(u);
}

/* It closed its side: it ends, or has. */
static enum upgrade_state on_end(struct upgrade *u, struct err *err)
{
    struct text how;

    text_init(&how, sizeof err->text);
    if (has_ended(u, 1000, &how))
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
    say(u->fd, "main");
    forget(u);
}
