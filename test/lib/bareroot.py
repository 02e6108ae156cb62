"""bareroot.py - folders that are a system of their own: programs run in them as any user, over chroot.

    with Root.debian() as root:                     # Debian 12, minimal, with the libraries that the packages name
        root.run("dpkg", "-i", "/x.deb")
        process = root.start("/usr/bin/penstock", "serve", user="penstock")

script/bootstrap package-test makes the system once (debootstrap) and keeps it; a test works on a copy. Needs root, chroot and mount
namespaces: where they are not to be had, cases are skipped by that reason.
"""
import contextlib
import functools
import glob
import os
import shutil
import signal
import subprocess
import tempfile

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
