/* seccomp.c - SPDX-License-Identifier: Apache-2.0
 *
 * The filter is a BPF program of our own: one comparison a call, no library. It is small enough to be read
 * here as a whole, and the kernel checks it.
 *
 *   another architecture's calls (32-bit, x32)   ENOSYS: the numbers would mean something else
 *   a call of the table                          EPERM
 *   clone with a new namespace                   EPERM
 *   ioctl that types into the terminal           EPERM: the shell there would run it
 *   clone3                                       ENOSYS: its flags lie in memory where a filter cannot
 *                                                look; libc goes on with clone
 */
#include "cli/seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <asm/ioctls.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/def.h"

#if defined __x86_64__
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define OUR_ARCH AUDIT_ARCH_AARCH64
#endif

#define REFUSED(name) \
    {                 \
        SYS_##name    \
    }
static const struct refused {
    int number;
} refused[] = {
/* other processes */
#if !defined __SANITIZE_ADDRESS__ /* which looks for leaks by it */
    REFUSED(ptrace),
#endif
    REFUSED(process_vm_readv),
    REFUSED(process_vm_writev),
    REFUSED(kcmp),
    REFUSED(pidfd_getfd),
    /* programs: launcher.h starts the only one */
    REFUSED(execve),
    REFUSED(execveat),
    /* file systems and namespaces */
    REFUSED(mount),
    REFUSED(umount2),
    REFUSED(pivot_root),
    REFUSED(chroot),
    REFUSED(move_mount),
    REFUSED(open_tree),
    REFUSED(fsopen),
    REFUSED(fsconfig),
    REFUSED(fsmount),
    REFUSED(fspick),
#ifdef SYS_mount_setattr
    REFUSED(mount_setattr),
#endif
    REFUSED(unshare),
    REFUSED(setns),
    REFUSED(swapon),
    REFUSED(swapoff),
    REFUSED(quotactl),
    REFUSED(name_to_handle_at),
    REFUSED(open_by_handle_at),
    REFUSED(fanotify_init),
    REFUSED(acct),
    /* whose files are, who may, and since when: Landlock has no right for it. Nor are there links and devices. */
#ifdef SYS_chmod
    REFUSED(chmod),
    REFUSED(chown),
    REFUSED(lchown),
    REFUSED(utime),
    REFUSED(utimes),
    REFUSED(futimesat),
    REFUSED(symlink),
    REFUSED(link),
    REFUSED(mknod),
#endif
    REFUSED(fchmodat),
#ifdef SYS_fchmodat2
    REFUSED(fchmodat2),
#else
    { 452 },
#endif
    REFUSED(fchownat),
    REFUSED(fchown),
    REFUSED(fchmod),
    REFUSED(utimensat),
    REFUSED(symlinkat),
    REFUSED(linkat),
    REFUSED(mknodat),
    REFUSED(setxattr),
    REFUSED(lsetxattr),
    REFUSED(fsetxattr),
    REFUSED(removexattr),
    REFUSED(lremovexattr),
    REFUSED(fremovexattr),
    /* the kernel */
    REFUSED(bpf),
    REFUSED(perf_event_open),
    REFUSED(userfaultfd),
    REFUSED(io_uring_setup),
    REFUSED(io_uring_enter),
    REFUSED(io_uring_register),
    REFUSED(init_module),
    REFUSED(finit_module),
    REFUSED(delete_module),
    REFUSED(kexec_load),
#ifdef SYS_kexec_file_load
    REFUSED(kexec_file_load),
#endif
    REFUSED(reboot),
    REFUSED(syslog),
    REFUSED(vhangup),
#ifdef SYS_iopl
    REFUSED(iopl),
    REFUSED(ioperm),
    REFUSED(modify_ldt),
#endif
    REFUSED(personality),
    /* keys */
    REFUSED(add_key),
    REFUSED(request_key),
    REFUSED(keyctl),
    /* what the machine is called, and what time it is */
    REFUSED(sethostname),
    REFUSED(setdomainname),
    REFUSED(settimeofday),
    REFUSED(clock_settime),
    REFUSED(adjtimex),
    REFUSED(clock_adjtime),
    REFUSED(lookup_dcookie),
    REFUSED(nfsservctl),
};

enum {
    NEW_NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                     CLONE_NEWPID | CLONE_NEWNET,
    X32_BIT = 0x40000000,
    PROGRAM_MAX = 3 * (sizeof refused / sizeof refused[0]) + 32,
};

#define LOAD(field) \
    (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(what) (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, (what))
#define UNLESS(how, value, skipped) \
    (struct sock_filter) BPF_JUMP(BPF_JMP | (how) | BPF_K, (uint32_t)(value), 0, (skipped))
#define WHEN(how, value, skipped) \
    (struct sock_filter) BPF_JUMP(BPF_JMP | (how) | BPF_K, (uint32_t)(value), (skipped), 0)

uint32_t seccomp_confine(char *why, size_t size)
{
#ifdef OUR_ARCH
    struct sock_filter program[PROGRAM_MAX];
    uint16_t count = 0;

    program[count++] = LOAD(arch);
    program[count++] = WHEN(BPF_JEQ, OUR_ARCH, 1);
    program[count++] = ANSWER(SECCOMP_RET_ERRNO | ENOSYS);
    program[count++] = LOAD(nr);
#if defined __x86_64__
    program[count++] = UNLESS(BPF_JGE, X32_BIT, 1);
    program[count++] = ANSWER(SECCOMP_RET_ERRNO | ENOSYS);
#endif
    program[count++] = UNLESS(BPF_JEQ, SYS_clone3, 1);
    program[count++] = ANSWER(SECCOMP_RET_ERRNO | ENOSYS);
    for (size_t i = 0; i < COUNT(refused); i++) {
        program[count++] = UNLESS(BPF_JEQ, refused[i].number, 1);
        program[count++] = ANSWER(SECCOMP_RET_ERRNO | EPERM);
    }
    program[count++] = UNLESS(BPF_JEQ, SYS_ioctl, 5);
    program[count++] = LOAD(args[1]); /* the kernel looks at its lower half, too */
    program[count++] = WHEN(BPF_JEQ, TIOCSTI, 1);
    program[count++] = UNLESS(BPF_JEQ, TIOCLINUX, 1);
    program[count++] = ANSWER(SECCOMP_RET_ERRNO | EPERM);
    program[count++] = ANSWER(SECCOMP_RET_ALLOW);
    program[count++] = UNLESS(BPF_JEQ, SYS_clone, 3);
    program[count++] = LOAD(args[0]); /* its lower half, on the machines that are here */
    program[count++] = UNLESS(BPF_JSET, NEW_NAMESPACES, 1);
    program[count++] = ANSWER(SECCOMP_RET_ERRNO | EPERM);
    program[count++] = ANSWER(SECCOMP_RET_ALLOW);
    require(count <= PROGRAM_MAX);

    struct sock_fprog filter = { .len = count, .filter = program };
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0)
        return COUNT(refused);
    snprintf(why, size, "seccomp: %s", strerror(errno));
#else
    snprintf(why, size, "seccomp: there is no filter for this architecture");
#endif
    return 0;
}
