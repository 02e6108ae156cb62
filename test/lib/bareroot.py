"""bareroot.py - folders that are a system of their own: programs run in them as any user, over chroot.

    with Root.debian() as root:                     # Debian 12, minimal, with the libraries that the packages name
        root.run("dpkg", "-i", "/x.deb")
        process = root.start("/usr/bin/penstock", "serve", user="penstock")

    with Root.booted() as root:                     # the same, with systemd as its first process and a network of its own
        root.run("systemctl", "start", "x")

script/bootstrap package-test makes the systems once (debootstrap) and keeps them; a test works on a copy. Needs root, chroot and mount
namespaces (to boot: cgroup v2 too): where they are not to be had, cases are skipped by that reason.
"""
import contextlib
import ctypes
import functools
import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time

from harness import check, skip

# What every process expects; everything else of the machine stays outside. $1 is the folder, then what to run.
ENTER = """
mount --make-rprivate /
root=$1; shift
for file in null zero full random urandom; do
    mkdir -p "$root/dev"; [ -e "$root/dev/$file" ] || : >"$root/dev/$file"
    mount --bind "/dev/$file" "$root/dev/$file"
done
mkdir -p "$root/proc" && mount -t proc proc "$root/proc"
exec chroot "$@"
"""

# A whole system in the folder $1: devices that are none, the kernel's settings read-only, a cgroup of its own ($2 is where it begins).
BOOT = """
echo $$ >"$2/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net sh -ec '
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t tmpfs -o mode=755 tmpfs dev
for file in null zero full random urandom tty; do : >dev/$file; mount --bind /dev/$file dev/$file; done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
ip link set lo up
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=penstock-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no
' sh "$1"
"""
CLONE_NEWNET = 0x40000000


def base(name="bookworm"):
    """The folder that script/bootstrap keeps, or None."""
    cache = os.environ.get("PENSTOCK_CACHE", os.path.expanduser("~/.cache/penstock"))
    found = [folder for folder in glob.glob(os.path.join(cache, "root-%s-*" % name)) if os.path.exists(folder + "/.complete")]
    return max(found, key=os.path.getmtime) if found else None


@functools.lru_cache
def why_not():
    """None, or the reason for which nothing can be run in another root here."""
    if os.geteuid() != 0:
        return "changing the root folder needs root"
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "mount", "-t", "proc", "proc", "/proc"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else "no mount namespaces here: %s" % done.stderr.strip()


def cgroup_home():
    """The folder of our own cgroup of version 2, below which others can be made; None where there is no such."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split()[4] for line in file if " - cgroup2 " in line]
    with open("/proc/self/cgroup") as file:
        own = next((line.strip()[3:] for line in file if line.startswith("0::")), "/")
    return next((path for path in (mount + own.rstrip("/") for mount in mounts) if os.path.isdir(path)), None)


@functools.lru_cache
def why_not_booted():
    """None, or the reason for which no system can be started here."""
    if why_not():
        return why_not()
    for program in ("ip", "nsenter", "pivot_root"):
        if not shutil.which(program):
            return "no program " + program
    home = cgroup_home()
    if home is None:
        return "no cgroups of version 2 here"
    trial = os.path.join(home, "penstock-trial-%d" % os.getpid())
    try:
        os.mkdir(trial)
        os.rmdir(trial)
    except OSError as error:
        return "no cgroup can be made here: %s" % error
    done = subprocess.run(["unshare", "--mount", "--cgroup", "--net", "sh", "-ec",
                           "mount --make-rprivate /; mount -t sysfs sysfs /sys; mount -t cgroup2 cgroup2 /sys/fs/cgroup"],
                          capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else "no namespaces of cgroups here: %s" % done.stderr.strip()


class Root:
    def __init__(self, folder):
        self.folder, self.processes = folder, []

    @classmethod
    @contextlib.contextmanager
    def empty(cls):
        if why_not():
            skip(why_not())
        with tempfile.TemporaryDirectory(prefix="penstock-root-") as folder:
            os.chmod(folder, 0o755)
            root = cls(folder)
            try:
                yield root
            finally:
                root.end()

    @classmethod
    @contextlib.contextmanager
    def debian(cls):
        found = base()
        if found is None and not why_not():
            skip("no bare Debian: script/bootstrap package-test makes it, with debootstrap and a network")
        with cls.empty() as root:
            subprocess.run(["cp", "-a", "--reflink=auto", found + "/.", root.folder], check=True)
            yield root

    @classmethod
    @contextlib.contextmanager
    def booted(cls):
        if why_not_booted():
            skip(why_not_booted())
        found = base("systemd")
        if found is None:
            skip("no Debian with systemd: script/bootstrap package-test makes it, with debootstrap and a network")
        with tempfile.TemporaryDirectory(prefix="penstock-root-") as folder:
            os.chmod(folder, 0o755)
            subprocess.run(["cp", "-a", "--reflink=auto", found + "/.", folder], check=True)
            root = Booted(folder)
            try:
                root.boot()
                yield root
            finally:
                root.end()

    def path(self, name):
        return os.path.join(self.folder, name.lstrip("/"))

    def unpack(self, package):
        subprocess.run(["dpkg-deb", "-x", package, self.folder], check=True)

    def put(self, source, name):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        if os.path.isdir(source):
            shutil.copytree(source, self.path(name))
        else:
            shutil.copy(source, self.path(name))

    def command(self, words, user=None, within=()):
        """`within` is put before chroot: setpriv and the like, of the machine."""
        chosen = ["--userspec=" + user] if user else []
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER.replace("exec chroot", "exec %s chroot" % " ".join(within)),
                "sh", self.folder, *chosen, self.folder, *words]

    def environment(self, more):
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LANG": "C.UTF-8",
                "DEBIAN_FRONTEND": "noninteractive", **(more or {})}

    def run(self, *words, user=None, env=None, status=0, seconds=300):
        """What it printed, both ways; `status` None takes any."""
        done = subprocess.run(self.command(words, user), env=self.environment(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds, check=False)
        check(status is None or done.returncode == status, "%s ended with %d: %s", " ".join(words), done.returncode, done.stdout[-2000:])
        return done.stdout

    def start(self, *words, user=None, env=None, within=()):
        process = subprocess.Popen(self.command(words, user, within), env=self.environment(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace")
        self.processes.append(process)
        return process

    def end(self):
        for process in self.processes:
            # unshare's child is the first process of its own world: with it all others end. --kill-child alone would
            # not do: who changes user is no longer told of the death of a parent.
            with contextlib.suppress(OSError), open("/proc/%d/task/%d/children" % (process.pid, process.pid)) as file:
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
            if process.poll() is None:
                process.kill()
            process.wait()


class Booted(Root):
    """A system that runs: `run` is within it. What it writes is in the folder, but for /run, /dev and /tmp's like."""

    def boot(self):
        self.cgroup = os.path.join(cgroup_home(), "penstock-test-%d" % os.getpid())
        os.mkdir(self.cgroup)
        self.processes.append(subprocess.Popen(["sh", "-ec", BOOT, "sh", self.folder, self.cgroup], stdin=subprocess.DEVNULL,
                                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        until = time.monotonic() + 60
        while True:
            found = self.pids("init.scope")
            if found:
                self.pid = found[0]
                state = self.run("systemctl", "is-system-running", status=None).strip().splitlines()
                if state and state[-1] in ("running", "degraded"):
                    return
            ended = self.processes[0].poll()
            check(ended is None, "the system ended with %s: %s", ended, self.processes[0].stdout.read() if ended is not None else "")
            check(time.monotonic() < until, "systemd did not come up")
            time.sleep(0.05)

    def pids(self, unit):
        """The processes of a unit (init.scope, system.slice/x.service) by the numbers that they have out here."""
        with contextlib.suppress(OSError), open(os.path.join(self.cgroup, unit, "cgroup.procs")) as file:
            return [int(line) for line in file]
        return []

    def command(self, words, user=None, within=()):
        check(user is None and not within, "in a system that runs, as root")
        return ["nsenter", "-t", str(self.pid), "-a", *words]

    def enter_network(self):
        """The calling thread is in the system's network from here on; no other is."""
        with open("/proc/%d/ns/net" % self.pid) as file:
            libc = ctypes.CDLL(None, use_errno=True)
            check(libc.setns(file.fileno(), CLONE_NEWNET) == 0, "setns: %s", os.strerror(ctypes.get_errno()))

    def end(self):
        with contextlib.suppress(OSError), open(os.path.join(self.cgroup, "cgroup.kill"), "w") as file:
            file.write("1")
        super().end()
        for _ in range(500):
            try:
                for folder, _, _ in os.walk(self.cgroup, topdown=False):
                    os.rmdir(folder)
                return
            except OSError:         # a process of it is still ending
                time.sleep(0.02)
