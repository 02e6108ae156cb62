/* probe.c - a backend for hardening.py that tries what a model has no business to do, and says how each
 * attempt ended, in the reason why its model is not ready. SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "penstock/backend.h"

static const struct penstock_host *host;
static char said[1000];

static void say(const char *what, long result)
{
    size_t at = strlen(said);

    snprintf(said + at, sizeof said - at, "%s=%s ", what,
             result >= 0 ? "ok" : strerrorname_np(errno));
}

static long try_open(const char *path, int flags)
{
    int fd = path == NULL ? -1 : open(path, flags | O_CLOEXEC, 0600);

    if (fd >= 0)
        close(fd);
    return fd;
}

static long try_exec(void)
{
    char *argv[] = { (char *)"true", NULL };
    int status = 0;
    pid_t pid = vfork();

    if (pid == 0) {
        execv("/bin/true", argv);
        _exit(errno);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    errno = WEXITSTATUS(status);
    return errno == 0 ? 0 : -1;
}

static void *thread_main(void *arg)
{
    return arg;
}

static int model_open(void **ret, struct penstock_model *model, uint32_t *ret_traits,
                      struct penstock_err *err)
{
    const char *secret = host->config_parameter(model, "secret");
    const char *written = host->config_parameter(model, "written");
    const char *victim = host->config_parameter(model, "victim");
    struct winsize window;
    pthread_t thread;

    (void)ret;
    (void)ret_traits;
    said[0] = '\0';
    say("read", try_open(secret, O_RDONLY));
    say("write", try_open(written, O_WRONLY | O_CREAT));
    say("passwd", try_open("/etc/passwd", O_RDONLY));
    say("shm", try_open("/dev/shm/penstock-probe", O_RDWR | O_CREAT));
    unlink("/dev/shm/penstock-probe");
    say("exec", try_exec());
    /* None of these can work: what is refused by number is EPERM before the kernel looks at the rest. */
    say("ptrace", syscall(SYS_ptrace, PTRACE_CONT, getpid(), 0, 0));
    say("mount", mount("none", "/nowhere/at/all", "tmpfs", 0, NULL));
    say("unshare", unshare(1));
    say("clone", syscall(SYS_clone, CLONE_NEWUSER | CLONE_FS | SIGCHLD, 0, 0, 0, 0));
    say("bpf", syscall(SYS_bpf, -1, 0, 0));
    say("io_uring", syscall(SYS_io_uring_setup, 0, 0));
    /* Typing into a terminal: EPERM by the filter, ENOTTY without one. */
    say("tiocsti", ioctl(0, TIOCSTI, "x"));
    say("tiocsti_high", syscall(SYS_ioctl, 0, 0x100000000UL | TIOCSTI, "x"));
    say("tioclinux", ioctl(0, TIOCLINUX, "\2"));
    say("winsize", ioctl(0, TIOCGWINSZ, &window) < 0 && errno == ENOTTY ? 0 : -1);
    say("chmod", chmod(secret, 0644));
    say("utime", utimensat(AT_FDCWD, secret, NULL, 0));
    say("setxattr", setxattr(secret, "user.x", "", 0, 0));
    say("symlink", symlink("x", written));
    say("kill", victim == NULL ? 0 : kill((pid_t)strtol(victim, NULL, 10), 0));
    say("setuid", setuid(0));
    say("thread", pthread_create(&thread, NULL, thread_main, NULL) == 0 ? 0 : -1);
    pthread_join(thread, NULL);
    int length = (int)strlen(said);
    snprintf(said + length, sizeof said - (size_t)length, "dumpable=%d privs=%d uid=%d gid=%d",
             prctl(PR_GET_DUMPABLE), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), (int)getuid(),
             (int)getgid());
    return host->fail(err, 9, "probe: %s", said);
}

static void model_close(void **model)
{
    *model = NULL;
}

static int instance_open(void **ret, void *model, uint32_t index, struct penstock_place place,
                         struct penstock_err *err)
{
    (void)index, (void)place, (void)err;
    *ret = model;
    return 0;
}

static void instance_close(void **instance)
{
    *instance = NULL;
}

static void execute(void *instance, struct penstock_batch *batch)
{
    (void)instance;
    host->done(batch, 0, NULL);
}

static const struct penstock_backend probe = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof probe,
    .name = "probe",
    .model_open = model_open,
    .model_close = model_close,
    .instance_open = instance_open,
    .instance_close = instance_close,
    .execute = execute,
};

__attribute__((visibility("default"))) const struct penstock_backend *penstock_backend_entry(
    const struct penstock_host *given, struct penstock_err *err)
{
    (void)err;
    host = given;
    return &probe;
}
