/* launcher.c - SPDX-License-Identifier: Apache-2.0
 *
 * Question and answer over a pair of SOCK_SEQPACKET sockets: a letter and what belongs to it.
 *
 *   S names + sockets   start               P pid, or E errno
 *   W milliseconds      has it ended?       X status, or N
 *   K                   end it              X status
 *   D                   it has taken over   N
 */
#include "cli/launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/stop.h"

enum {
    FDS_MAX = SOCKETS_MAX + 1,
    END_MS = 5000, /* what is to end has so long for it */
    STEP_MS = 5,
    PROTOCOL = 1,
};

static struct {
    int fd; /* the server's side; -1: there is none */
    pid_t pid;
} launcher = { .fd = -1 };

/* What may stand in a message, both ways. */
struct message {
    char letter;
    int32_t number;
    char names[SOCKETS_NAMES_MAX];
};
enum { PLAIN_BYTES = offsetof(struct message, names) };

/* -- the launcher's own process --------------------------------------------------------------------- */

struct start {
    const struct launcher_words *words;
    char **envp;
    int fds[FDS_MAX];
    uint32_t fds_count;
    sigset_t mask;
    pid_t child; /* 0: none, or one that is let go */
};

static void nap(void)
{
    struct timespec step = { .tv_nsec = STEP_MS * (long)NS_PER_MS };

    nanosleep(&step, NULL);
}

/* True: it has ended; how. */
static bool has_ended(struct start *s, uint64_t wait_ms, int *ret_status)
{
    uint64_t due_ns = clock_mono_ns() + wait_ms * NS_PER_MS;
    pid_t got;

    *ret_status = -1;
    if (s->child == 0)
        return true;
    while ((got = waitpid(s->child, ret_status, WNOHANG)) == 0 && clock_mono_ns() < due_ns)
        nap();
    if (got != 0)
        s->child = 0;
    return got != 0;
}

static int end_child(struct start *s)
{
    int status = -1;

    if (s->child == 0)
        return status;
    kill(s->child, SIGTERM);
    if (has_ended(s, END_MS, &status))
        return status;
    kill(s->child, SIGKILL);
    (void)has_ended(s, END_MS, &status);
    return status;
}

/* In the child: the sockets where LISTEN_FDS says, and the environment of a fresh program. */
NORETURN static void become(struct start *s, const char *names, int error_fd)
{
    struct sigaction plain = { .sa_handler = SIG_DFL };
    char text[32];
    int error = 0;

    for (uint32_t i = 0; i < s->fds_count && error == 0; i++)
        if (dup2(s->fds[i], SOCKETS_FIRST_FD + (int)i) < 0)
            error = errno;
    snprintf(text, sizeof text, "%d", (int)getpid());
    if (setenv("LISTEN_PID", text, 1) != 0)
        error = errno;
    snprintf(text, sizeof text, "%u", s->fds_count - 1);
    if (setenv("LISTEN_FDS", text, 1) != 0 || setenv("LISTEN_FDNAMES", names, 1) != 0)
        error = errno;
    snprintf(text, sizeof text, "%d:%d", PROTOCOL, SOCKETS_FIRST_FD + (int)s->fds_count - 1);
    if (setenv("PENSTOCK_UPGRADE", text, 1) != 0)
        error = errno;
    unsetenv("WATCHDOG_PID"); /* it was meant for this program */
    sigaction(SIGPIPE, &plain, NULL);
    sigprocmask(SIG_SETMASK, &s->mask, NULL);
    if (error == 0) {
        execve(s->words->program, s->words->argv, environ);
        error = errno;
    }
    ssize_t ignored = write(error_fd, &error, sizeof error);
    (void)ignored;
    _exit(127);
}

/* 0, or why it cannot be started. */
static int start_child(struct start *s, const char *names)
{
    int error = 0, ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno;
    for (int i = 0; i < 2; i++) { /* out of the way of those that come to 3 and on */
        int lifted = fcntl(ends[i], F_DUPFD_CLOEXEC, SOCKETS_FIRST_FD + FDS_MAX);
        close(ends[i]);
        ends[i] = lifted;
    }
    pid_t pid = ends[0] < 0 || ends[1] < 0 ? -1 : fork();
    if (pid == 0)
        become(s, names, ends[1]);
    error = pid < 0 ? errno : 0;
    close(ends[1]);
    /* The end of the pipe is execve: it closes on that. */
    if (pid > 0 && read(ends[0], &error, sizeof error) != sizeof error)
        error = 0;
    close(ends[0]);
    s->child = MAX(pid, 0);
    if (error != 0 && pid > 0) {
        int status;
        (void)has_ended(s, END_MS, &status);
    }
    return error;
}

static void close_fds(struct start *s)
{
    while (s->fds_count > 0)
        close(s->fds[--s->fds_count]);
}

/* The descriptors of a message, lifted above those that the child gets. */
static bool take_fds(struct start *s, struct msghdr *header)
{
    bool is_whole = (header->msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            int lifted = fcntl(fd, F_DUPFD_CLOEXEC, SOCKETS_FIRST_FD + FDS_MAX);
            close(fd);
            if (lifted < 0 || s->fds_count == FDS_MAX)
                is_whole = false;
            else
                s->fds[s->fds_count++] = lifted;
        }
    }
    return is_whole;
}

static void answer(int fd, char letter, int number)
{
    struct message said;

    memset(&said, 0, PLAIN_BYTES);
    said.letter = letter;
    said.number = number;
    ssize_t ignored = send(fd, &said, PLAIN_BYTES, MSG_NOSIGNAL);
    (void)ignored;
}

/* False: the server has gone. */
static bool serve_one(struct start *s, int fd, struct message *asked)
{
    union {
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec piece = { asked, sizeof *asked - 1 };
    struct msghdr header = { .msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control };
    int status = -1, error;
    ssize_t got;

    while ((got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        continue;
    if (got <= 0)
        return false;
    bool is_whole = take_fds(s, &header) && got >= (ssize_t)PLAIN_BYTES;
    ((char *)asked)[got] = '\0';
    switch (is_whole ? asked->letter : 0) {
    case 'S':
        error = s->child != 0 || s->fds_count == 0 ? EBUSY : start_child(s, asked->names);
        answer(fd, error == 0 ? 'P' : 'E', error == 0 ? s->child : error);
        break;
    case 'W':
        if (has_ended(s, (uint64_t)MAX(asked->number, 0), &status))
            answer(fd, 'X', status);
        else
            answer(fd, 'N', 0);
        break;
    case 'K': answer(fd, 'X', end_child(s)); break;
    case 'D':
        s->child = 0;
        answer(fd, 'N', 0);
        break;
    default: answer(fd, 'E', EINVAL);
    }
    close_fds(s);
    return true;
}

NORETURN static void run(const struct launcher_words *words, int fd)
{
    static struct message asked;
    struct start s = { .words = words };

    prctl(PR_SET_NAME, "penstock-start");
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* a server of the same user is not to look into it */
    stop_mask_before(&s.mask);          /* signals stay blocked: it ends when the server does */
    int lifted = fcntl(fd, F_DUPFD_CLOEXEC, SOCKETS_FIRST_FD + FDS_MAX);
    if (lifted < 0)
        _exit(1);
    /* What was handed over to the server is the server's: held here it would never be closed. */
    (void)syscall(SYS_close_range, 3U, (unsigned)lifted - 1, 0);
    (void)syscall(SYS_close_range, (unsigned)lifted + 1, ~0U, 0);
    answer(lifted, 'R', 0);
    while (serve_one(&s, lifted, &asked))
        continue;
    (void)end_child(&s);
    _exit(0);
}

/* -- the server's side -------------------------------------------------------------------------------- */

/* The answer's letter; 0: there is no launcher any more. */
static char hear(int *ret_number)
{
    struct message said;
    ssize_t got;

    while ((got = recv(launcher.fd, &said, PLAIN_BYTES, 0)) < 0 && errno == EINTR)
        continue;
    if (got != (ssize_t)PLAIN_BYTES)
        return 0;
    *ret_number = said.number;
    return said.letter;
}

enum err_code launcher_begin(const struct launcher_words *words, struct err *err)
{
    int pair[2], number;

    if (getpid() == 1)
        return OK;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return err_set(err, E_EXHAUSTED, "cannot make a pair of sockets: %s", strerror(errno));
    launcher.pid = fork();
    if (launcher.pid == 0)
        run(words, pair[1]);
    close(pair[1]);
    if (launcher.pid < 0) {
        close(pair[0]);
        return err_set(err, E_EXHAUSTED, "cannot start a process: %s; see `ulimit -u`",
                       strerror(errno));
    }
    launcher.fd = pair[0];
    /* Once it holds no socket of the server's: whoever closes one must have closed it. */
    if (hear(&number) != 'R')
        return err_set(err, E_UNAVAILABLE, "the process that starts programs (penstock-start) has gone");
    return OK;
}

static char ask(char letter, int number, int *ret_number)
{
    *ret_number = -1;
    if (launcher.fd < 0)
        return 0;
    answer(launcher.fd, letter, number);
    return hear(ret_number);
}

enum err_code launcher_start(const struct sockets *sockets, int channel, pid_t *ret_pid,
                             struct err *err)
{
    static struct message asked;
    union {
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    int fds[FDS_MAX], number = 0;
    uint32_t count = 0;

    if (launcher.fd < 0)
        return err_set(err, E_PRECONDITION,
                       "this is process 1, whose end is the end of its container: start another "
                       "container in its place");
    for (; count < sockets->count; count++)
        fds[count] = sockets->entries[count].fd;
    fds[count++] = channel;
    memset(&control, 0, sizeof control);
    memset(&asked, 0, sizeof asked);
    asked.letter = 'S';
    sockets_names(sockets, asked.names);
    struct iovec piece = { &asked, PLAIN_BYTES + strlen(asked.names) + 1 };
    struct msghdr header = { .msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    char letter = sendmsg(launcher.fd, &header, MSG_NOSIGNAL) < 0 ? 0 : hear(&number);
    if (letter == 'P') {
        *ret_pid = number;
        return OK;
    }
    if (letter == 'E')
        return err_set(err, E_UNAVAILABLE, "%s; --upgrade-to names another program",
                       strerror(number));
    return err_set(err, E_UNAVAILABLE,
                   "the process that starts programs (penstock-start) has gone");
}

bool launcher_has_ended(uint64_t wait_ms, int *ret_status)
{
    return ask('W', (int)wait_ms, ret_status) != 'N';
}

void launcher_kill(void)
{
    int status;

    (void)ask('K', 0, &status);
}

void launcher_kill_soon(void)
{
    if (launcher.fd >= 0)
        answer(launcher.fd, 'K', 0);
}

void launcher_let_go(void)
{
    int ignored;

    (void)ask('D', 0, &ignored);
}
