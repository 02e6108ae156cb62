"""What script/package makes: built, inspected, installed in a bare Debian, started there as the service's user, upgraded, removed.

PENSTOCK_PACKAGES names a folder that `script/package all --out` has filled; without it they are made first, in a minute or so.
"""
# seconds: 1200
import atexit
import concurrent.futures
import contextlib
import ctypes
import functools
import glob
import hashlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from bareroot import Root, base, why_not
from harness import LISTENING, ROOT, Failed, case, check, equal, main, need_program, skip

sys.path.insert(0, os.path.join(ROOT, "packaging"))
import linked       # noqa: E402
import manual       # noqa: E402

PACKAGING = os.path.join(ROOT, "packaging")
SETOSA = {"label": "setosa", "probability": 0.98}
GLIBC_MOST = (2, 36)        # Debian 12
EXPOSURE_MOST = 20          # tenths, of systemd-analyze security
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


def run(*command, **others):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, **others)
    check(done.returncode == 0, "%s ended with %d: %s", " ".join(command), done.returncode, (done.stderr + done.stdout)[-2000:])
    return done.stdout


def temporary():
    folder = tempfile.mkdtemp(prefix="penstock-packages-")
    atexit.register(shutil.rmtree, folder, True)
    return folder


@functools.lru_cache
def made():
    """The folder of the packages."""
    if os.environ.get("PENSTOCK_PACKAGES"):
        return os.environ["PENSTOCK_PACKAGES"]
    for program in ("dpkg-shlibdeps", "zstd"):
        need_program(program)
    folder = temporary()
    run(os.path.join(ROOT, "script", "package"), "all", "--out", folder)
    return folder


def package(pattern):
    found = glob.glob(os.path.join(made(), pattern))
    equal(len(found), 1, "files like " + pattern)
    return found[0]


@functools.lru_cache
def unpacked():
    """The folder that the tarball holds."""
    folder = temporary()
    run("tar", "--zstd", "-xf", package("*.tar.zst"), "-C", folder)
    names = os.listdir(folder)
    equal(len(names), 1, "folders in the tarball: %s" % names)
    return os.path.join(folder, names[0])


@functools.lru_cache
def built():
    """The program that the packages were made of, with its build folder."""
    folder = os.environ.get("PENSTOCK_PACKAGE_BUILD", os.path.join(ROOT, "build-package"))
    path = os.path.join(folder, "src", "penstock")
    if not os.path.exists(path):
        made()
    check(os.path.exists(path), "no %s", path)
    return path


def url_of(process):
    """Where the server listens, once it says so; reads on in the background, so that it is never held up."""
    said, found, ready = [], [], threading.Event()

    def read():
        for line in process.stdout:
            said.append(line)
            match = LISTENING.search(line)
            if match:
                found.append("%s://%s:%s" % match.groups())
                ready.set()
        ready.set()
    threading.Thread(target=read, daemon=True).start()
    ready.wait(60)
    check(found, "it did not listen: %s", "".join(said[-10:]))
    return found[0]


def ask(url, path="/models/iris:predict", document=None):
    body = json.dumps(document or {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}).encode()
    request = urllib.request.Request(url + path, body, {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=30))


def wait_ready(url):
    done = subprocess.run([built(), "models", "--ready", "--server", url], capture_output=True, text=True, timeout=60, check=False)
    for _ in range(200):
        if done.returncode == 0:
            return
        threading.Event().wait(0.05)
        done = subprocess.run([built(), "models", "--ready", "--server", url], capture_output=True, text=True, timeout=60, check=False)
    check(False, "it did not become ready: %s%s", done.stdout, done.stderr)


# --- what is in them -----------------------------------------------------------------------------------

@case
def the_same_bytes_from_another_folder():
    """Built twice, in folders of other names and depths: every file is the same, byte for byte."""
    here, there, build = made(), temporary(), temporary()
    run(os.path.join(ROOT, "script", "package"), "all", "--out", there, "--build-dir", os.path.join(build, "of", "another", "depth"))
    names = sorted(os.listdir(here))
    check(len(names) >= 5, "%s", names)
    equal(sorted(os.listdir(there)), names)
    for name in names:
        sums = []
        for folder in (here, there):
            with open(os.path.join(folder, name), "rb") as file:
                sums.append(hashlib.sha256(file.read()).hexdigest())
        equal(sums[1], sums[0], name)


@case
def no_path_of_the_build_is_in_them():
    """Neither in the program nor in any other file: the tree, the caches, a home."""
    told = [path for path in (ROOT, os.path.expanduser("~"), os.environ.get("PENSTOCK_CACHE", os.path.expanduser("~/.cache/penstock")), "/tmp/") if path != "/"]
    for folder, _, names in os.walk(unpacked()):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                check(not os.readlink(path).startswith("/"), "%s leads to %s", path, os.readlink(path))
                continue
            if "/lib/penstock/" in path:       # other people's, unchanged
                continue
            with open(path, "rb") as file:
                content = file.read()
            for one in told:
                # a sentence may name a folder for files that come and go; a program's own paths go deeper
                check(one == "/tmp/" or not re.search(rb"(?<![\w./])" + re.escape(one.rstrip("/").encode()) + b"/", content), "%s holds %s", path, one)


@case
def debian_finds_no_fault():
    need_program("lintian")
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning,info", "--tag-display-limit", "0", *glob.glob(made() + "/*.deb")],
                          capture_output=True, text=True, check=False)
    equal((done.returncode, done.stdout), (0, ""), "lintian: %s" % done.stderr)


@case
def the_package_asks_for_what_it_needs():
    fields = run("dpkg-deb", "-f", package("penstock_*.deb"), "Depends", "Recommends")
    for row, files in linked.inventory(built()):
        if row["how"] == "linked":
            check(re.search(r"\b%s\b" % re.escape(row["debian"]), fields), "%s (%s) is not among: %s", row["debian"], ", ".join(files), fields)
    check("penstock-onnxruntime" in fields, fields)


@case
def the_tarball_says_which_glibc():
    """What the README says is what the files ask for, and no more than Debian 12 has."""
    folder = unpacked()
    files = [folder + "/bin/penstock"] + glob.glob(folder + "/lib/penstock/*.so*")
    found = {tuple(int(part) for part in text.split(".")) for path in files for text in re.findall(r"GLIBC_([0-9.]+)", run("readelf", "-V", path))}
    with open(folder + "/README") as file:
        said = re.search(r"glibc (\d+\.\d+) or later", file.read()).group(1)
    equal(said, "%d.%d" % max(found)[:2])
    check(max(found) <= GLIBC_MOST, "%s", max(found))
    needed = {name for path in files for name in linked.needed(path)}
    libc = next(row for row in linked.table() if row["name"] == "libc")
    for name in needed - set(libc["files"]):
        check(os.path.exists(os.path.join(folder, "lib/penstock", name)), "%s is needed and not in the tarball", name)


@case
def licences_are_in_the_tarball():
    """A file for each row of the table, and the texts that those of Debian name instead of holding."""
    names = os.listdir(unpacked() + "/licenses")
    for row in linked.table():
        check(any(name.startswith(row["name"] + ".") for name in names), "none of %s among %s", row["name"], names)
    for name in names:
        with open(os.path.join(unpacked(), "licenses", name), encoding="utf-8", errors="replace") as file:
            for named in re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.-]*[A-Za-z0-9])", file.read()):
                check(named + ".txt" in names, "%s names %s, which is not there", name, named)


@case
def sbom_is_cyclonedx():
    """What the schema of CycloneDX 1.5 requires, and that each reference leads somewhere."""
    with open(package("*.cdx.json")) as file:
        document = json.load(file)
    equal((document["bomFormat"], document["specVersion"], document["version"]), ("CycloneDX", "1.5", 1))
    check(re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["serialNumber"]), document["serialNumber"])
    check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["metadata"]["timestamp"]), document["metadata"]["timestamp"])
    refs = [document["metadata"]["component"]["bom-ref"]]
    kinds = {"application", "framework", "library", "container", "platform", "operating-system", "device", "device-driver", "firmware", "file"}
    for one in document["components"]:
        check(one["type"] in kinds and one["name"] and one["version"], "%s", one)
        check(one["licenses"] and all(set(entry) in ({"license"}, {"expression"}) for entry in one["licenses"]), "%s", one["licenses"])
        check(re.match(r"pkg:[a-z]+/[^@]+@.+", one["purl"]), one["purl"])
        check(one["scope"] in ("required", "optional", "excluded"), "%s", one)
        for digest in one.get("hashes", []):
            check(digest["alg"] == "SHA-256" and re.fullmatch(r"[0-9a-f]{64}", digest["content"]), "%s", digest)
        refs.append(one["bom-ref"])
        refs += [inner["bom-ref"] for inner in one.get("components", [])]
    equal(len(set(refs)), len(refs), "names of components that differ")
    for row in document["dependencies"]:
        check(row["ref"] in refs and all(ref in refs for ref in row.get("dependsOn", [])), "%s", row)
    with open(unpacked() + "/bin/penstock", "rb") as file:
        equal(document["metadata"]["component"]["hashes"][0]["content"], hashlib.sha256(file.read()).hexdigest(), "hash of the program")
    equal({one["name"] for one in document["components"]}, {row["name"] for row in linked.table()})


@case
def the_manual_says_every_option():
    text = manual.page(unpacked() + "/bin/penstock")
    _, verbs, groups = manual.read(text)
    path = unpacked() + "/share/man/man1/penstock.1"
    with open(path, encoding="utf-8") as file:
        page = file.read().replace("\\-", "-")
    for verb, _, _ in verbs:
        check("\n.SS penstock %s\n" % verb in page, "no section of %s", verb)
    options = [option for _, rows in groups for option in rows]
    check(len(options) > 50, "%d options", len(options))
    for option in options:
        check("\\fB%s\\fR" % option.long in page, "no %s", option.long)
    need_program("man")
    done = subprocess.run(["man", "--warnings", "-l", path], capture_output=True, text=True, check=False,
                          env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "PAGER": "cat"})
    equal((done.returncode, done.stderr), (0, ""))


@case
def bash_completes():
    path = unpacked() + "/share/bash-completion/completions/penstock"

    def complete(*words):
        line = " ".join(shlex.quote(word) for word in words)
        return run("bash", "--norc", "-c", '. %s; COMP_WORDS=(%s); COMP_CWORD=%d; _penstock; printf "%%s\\n" "${COMPREPLY[@]}"'
                   % (shlex.quote(path), line, len(words) - 1)).split()
    equal(complete("penstock", "ser"), ["serve"])
    check("--max-body" in complete("penstock", "serve", "--max"), "no --max-body")
    equal(complete("penstock", "models", "--read"), ["--ready"])
    equal(complete("penstock", "serve", "--log-level", "w"), ["warn"])


@case
def each_key_of_the_configuration_is_an_option():
    """Also those that are only shown; with all of them taken (but those that name files of yours), the server starts."""
    with open(os.path.join(PACKAGING, "debian", "penstock.yaml"), encoding="utf-8") as file:
        text = file.read()
    keys = re.findall(r"^#?([a-z-]+):", text, re.M)
    options = {option.long[2:] for _, rows in manual.read(manual.page(unpacked() + "/bin/penstock"))[2] for option in rows}
    check(len(keys) > 8, "%s", keys)
    equal(sorted(set(keys) - options), [], "keys that are no option")
    taken = re.sub(r"^#((?!tls|access:)[a-z-]+: )", r"\1", text, flags=re.M)
    check(taken.count("\n") == text.count("\n") and taken != text, "nothing is commented")
    folder = temporary()
    os.mkdir(folder + "/models")
    shutil.copy(os.path.join(ROOT, "examples/models/iris/1/model.onnx"), folder + "/models/iris.onnx")
    taken = taken.replace("/var/lib/penstock", folder).replace('":8000"', "127.0.0.1:0")
    for name, content in (("given", text.replace("/var/lib/penstock", folder)), ("taken", taken)):
        with open(folder + "/%s.yaml" % name, "w", encoding="utf-8") as file:
            file.write(content)
        process = subprocess.Popen([unpacked() + "/bin/penstock", "serve", "--config", folder + "/%s.yaml" % name, "--listen", "127.0.0.1:0"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            wait_ready(url_of(process))
        finally:
            process.kill()
            process.wait()


# --- the unit ------------------------------------------------------------------------------------------

def unit():
    return os.path.join(PACKAGING, "systemd", "penstock.service")


def settings(name):
    with open(unit(), encoding="utf-8") as file:
        return re.findall(r"^%s=(.*)$" % name, file.read(), re.M)


@case
def systemd_finds_the_unit_confined():
    need_program("systemd-analyze")
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=%d" % EXPOSURE_MOST, "--no-pager", unit()],
                          capture_output=True, text=True, check=False)
    equal(done.returncode, 0, done.stdout[-300:] + done.stderr)


@case
def systemd_understands_the_units():
    """Every line of both is known to systemd-analyze verify; what it misses are programs of this machine that it has no part of."""
    need_program("systemd-analyze")
    for name in ("penstock.service", "penstock.socket"):
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", os.path.join(PACKAGING, "systemd", name)], capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if "penstock" in line and "/usr/bin/penstock is not executable" not in line]
        equal(said, [], "systemd-analyze verify")


def allowed_calls():
    """Names that the SystemCallFilter= lines of the unit leave."""
    groups, name = {}, None
    for line in run("systemd-analyze", "syscall-filter", "--no-pager").splitlines():
        if line.startswith("@"):
            name = line.split()[0]
            groups[name] = []
        elif line.startswith("    ") and name and not line.strip().startswith("#"):
            groups[name] += line.split()

    def spread(word):
        return {call for inner in groups[word] for call in spread(inner)} if word.startswith("@") else {word}
    allowed = set()
    for line in settings("SystemCallFilter"):
        words = {call for word in line.lstrip("~").split() for call in spread(word)}
        allowed = allowed - words if line.startswith("~") else allowed | words
    return allowed


@case
def the_filter_of_system_calls_lets_it_work():
    """What the server does while it starts, answers every example, reloads and ends is within the unit's filter."""
    for program in ("systemd-analyze", "strace"):
        need_program(program)
    folder = temporary()
    with subprocess.Popen(["strace", "-f", "-qq", "-o", folder + "/calls", "-e", "signal=none", unpacked() + "/bin/penstock", "serve",
                           unpacked() + "/examples/models", "--listen", "127.0.0.1:0", "--execution", "queued"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        url = url_of(process)
        wait_ready(url)
        ask(url)
        ask(url, "/models/spam:predict", {"text": "You won a prize"})
        subprocess.run([built(), "call", "--grpc", "iris", "--server", url, "--input", "5.1,3.5,1.4,0.2", "--raw"], capture_output=True, check=False)
        urllib.request.urlopen(url + "/metrics", timeout=30).read()
        server = int(run("pgrep", "-P", str(process.pid)).split()[0])
        os.kill(server, 15)
        equal(process.wait(30), 0)
    with open(folder + "/calls", errors="replace") as file:
        calls = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", file.read(), re.M))
    check({"execve", "epoll_pwait2", "epoll_wait", "epoll_pwait"} & calls and len(calls) > 20, "strace saw %s", sorted(calls))
    if os.geteuid() == 0:
        calls.discard("capset")         # root gives up its capabilities; the user of the unit has none to give
    equal(sorted(calls - allowed_calls()), [], "calls outside of the unit's filter")


@case
def it_needs_no_memory_that_is_written_and_run():
    """MemoryDenyWriteExecute=yes, by the kernel's own switch: all examples load and answer."""
    equal(settings("MemoryDenyWriteExecute"), ["yes"])
    libc = ctypes.CDLL(None, use_errno=True)
    if subprocess.run([sys.executable, "-c", "import ctypes,sys; sys.exit(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0))"], check=False).returncode != 0:
        skip("this kernel has no PR_SET_MDWE (6.3 and later do)")
    process = subprocess.Popen([unpacked() + "/bin/penstock", "serve", unpacked() + "/examples/models", "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               preexec_fn=lambda: libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0))
    try:
        url = url_of(process)
        wait_ready(url)
        equal(ask(url), SETOSA)
        equal(ask(url, "/models/spam:predict", {"text": "You won a prize"})["label"], "spam")
    finally:
        process.kill()
        process.wait()


# --- installed -----------------------------------------------------------------------------------------

def install(root, *packages):
    for path in packages:
        root.put(path, "/tmp/" + os.path.basename(path))
    return root.run("dpkg", "-i", *["/tmp/" + os.path.basename(path) for path in packages])


def command_of_the_service():
    """ExecStart=, as the unit has it."""
    found = settings("ExecStart")
    equal(len(found), 1)
    return found[0].split()


def owner(root, name):
    """Owner, group and mode as the root's own names say them."""
    return root.run("stat", "-c", "%U:%G %a", name).strip()


@case
def installed_it_serves_as_its_user():
    with Root.debian() as root:
        install(root, package("penstock_*.deb"), package("penstock-onnxruntime_*.deb"))
        check(re.match(r"penstock:x:\d+:\d+:[^:]*:/var/lib/penstock:/usr/sbin/nologin$", root.run("getent", "passwd", "penstock").strip()), "user")
        equal(owner(root, "/var/lib/penstock"), "penstock:penstock 750")
        equal(owner(root, "/var/lib/penstock/models"), "root:penstock 750")
        equal(owner(root, "/etc/penstock/penstock.yaml"), "root:root 644")
        equal(owner(root, "/usr/bin/penstock"), "root:root 755")
        check("penstock %s" % linked.project_version() in root.run("penstock", "--version"), "version")
        check("onnxruntime  1." in root.run("penstock", "version"), "the runtime of the other package")
        # the line of README.Debian's and the configuration's first page
        root.run("cp", "-r", "/usr/share/doc/penstock/examples/models/iris", "/var/lib/penstock/models/")
        process = root.start(*command_of_the_service(), user="penstock:penstock", env={"PENSTOCK_LISTEN": "127.0.0.1:0", "HOME": "/var/lib/penstock"},
                             within=["setpriv", "--no-new-privs", "--bounding-set=-all,+sys_chroot,+setuid,+setgid"])
        url = url_of(process)
        wait_ready(url)
        equal(ask(url), SETOSA)


class Manager:
    """systemd's end of sd_notify: an abstract socket, which another root sees too."""
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0penstock-test-%d" % os.getpid())
        self.socket.settimeout(30)
        self.name = "@penstock-test-%d" % os.getpid()

    def wait(self, wanted):
        """The first word that begins so; what comes before it is let go."""
        while True:
            for line in self.socket.recv(4096).decode().splitlines():
                if line.startswith(wanted):
                    return line


@case
def systemd_is_told_as_its_unit_expects():
    """Type=notify, WatchdogSec=, ExecReload= and the SIGUSR2 of its comment: READY=1, WATCHDOG=1, ready again, MAINPID= of the next."""
    equal((settings("Type"), settings("NotifyAccess"), settings("ExecReload")), (["notify"], ["main"], ["/bin/sh -c 'kill -HUP $$MAINPID'"]))
    manager = Manager()
    with Root.debian() as root:
        install(root, package("penstock_*.deb"), package("penstock-onnxruntime_*.deb"))
        root.run("cp", "-r", "/usr/share/doc/penstock/examples/models/iris", "/var/lib/penstock/models/")
        # a shell of its own is the first process: the one behind it may then be replaced
        process = root.start("sh", "-c", "%s & while sleep 0.1; do :; done" % " ".join(command_of_the_service()), user="penstock:penstock",
                             env={"PENSTOCK_LISTEN": "127.0.0.1:0", "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "400000"})
        url = url_of(process)
        manager.wait("READY=1")
        manager.wait("WATCHDOG=1")
        found = run("pgrep", "-f", "^/usr/bin/penstock serve --config /etc/penstock/penstock.yaml").split()
        server = [int(pid) for pid in found if os.readlink("/proc/%s/root" % pid) == os.path.realpath(root.folder)]
        # one that keeps rights for upgrades may stand beside it, as its child: systemd's MAINPID is the parent's
        parents = {pid: int(re.search(r"^PPid:\s+(\d+)", open("/proc/%d/status" % pid).read(), re.M).group(1)) for pid in server}
        server = [pid for pid in server if parents[pid] not in server]
        equal(len(server), 1, "processes of the service")
        os.kill(server[0], signal.SIGHUP)
        manager.wait("RELOADING=1")
        manager.wait("READY=1")
        os.kill(server[0], signal.SIGUSR2)
        check(int(manager.wait("MAINPID=").split("=")[1]) > 1, "no process")
        manager.wait("READY=1")
        equal(ask(url), SETOSA)


@case
def without_the_runtime_it_says_what_to_install():
    """Recommends is not Depends: the server starts, and the model says what is missing."""
    with Root.debian() as root:
        install(root, package("penstock_*.deb"))
        check("not found" in root.run("penstock", "version"), "a runtime where there is none")
        said = root.run("penstock", "explain", "/usr/share/doc/penstock/examples/models/iris", status=None)
        check("ONNX Runtime" in said or "onnxruntime" in said, said)


def repacked(source, version, change=lambda folder: None):
    """The same package as another version, with what `change` does to its files."""
    folder = temporary()
    run("dpkg-deb", "-R", source, folder + "/x")
    control = folder + "/x/DEBIAN/control"
    with open(control) as file:
        text = re.sub(r"^Version: .*$", "Version: " + version, file.read(), flags=re.M)
    with open(control, "w") as file:
        file.write(text)
    change(folder + "/x")
    path = "%s/penstock_%s.deb" % (folder, version)
    run("dpkg-deb", "--root-owner-group", "-b", folder + "/x", path)
    return path


@case
def an_upgrade_keeps_what_is_yours():
    """A changed configuration stays as it is, one never touched becomes the new one; models and user stay."""
    def change(folder):
        with open(folder + "/etc/penstock/penstock.yaml", "a") as file:
            file.write("\n# of a later version\n")
    with Root.debian() as root:
        install(root, package("penstock_*.deb"))
        user = root.run("id", "penstock")
        newer, newest = repacked(package("penstock_*.deb"), "90.0-1", change), repacked(package("penstock_*.deb"), "91.0-1")
        install(root, newer)
        with open(root.path("/etc/penstock/penstock.yaml"), "a+") as file:
            file.seek(0)
            check("# of a later version" in file.read(), "the untouched configuration was not renewed")
            file.write("max-body: 2MiB\n")
        root.run("cp", "-r", "/usr/share/doc/penstock/examples/models/iris", "/var/lib/penstock/models/")
        root.put(newest, "/tmp/newest.deb")
        root.run("dpkg", "--force-confdef", "--force-confold", "-i", "/tmp/newest.deb")
        with open(root.path("/etc/penstock/penstock.yaml")) as file:
            check("max-body: 2MiB" in file.read(), "the change was lost")
        equal(os.path.exists(root.path("/etc/penstock/penstock.yaml.dpkg-dist")), True, "the new one lies beside it")
        equal(os.listdir(root.path("/var/lib/penstock/models")), ["iris"])
        equal(root.run("id", "penstock"), user)
        equal(root.run("dpkg", "--audit"), "")


@case
def removed_it_leaves_configuration_and_models():
    with Root.debian() as root:
        install(root, package("penstock_*.deb"))
        wants = root.path("/etc/systemd/system/multi-user.target.wants/penstock.service")
        check(os.path.islink(wants), "the service is not enabled")
        root.run("cp", "-r", "/usr/share/doc/penstock/examples/models/iris", "/var/lib/penstock/models/")
        root.run("dpkg", "-r", "penstock")
        for name in ("/usr/bin/penstock", "/lib/systemd/system/penstock.service", "/usr/share/doc/penstock"):
            check(not os.path.exists(root.path(name)), "%s is still there", name)
        for name in ("/etc/penstock/penstock.yaml", "/var/lib/penstock/models/iris/1/model.onnx"):
            check(os.path.exists(root.path(name)), "%s is gone", name)
        said = root.run("dpkg", "-P", "penstock")
        check(not os.path.exists(root.path("/etc/penstock")), "the configuration is still there")
        check(os.path.exists(root.path("/var/lib/penstock/models/iris/1/model.onnx")), "purge took the models")
        check("was kept" in said, said)
        check("penstock" in root.run("getent", "passwd", "penstock"), "the user is gone, and its number free for another")
        check(not os.path.lexists(wants), "the service is still enabled")
        check(not os.path.lexists(root.path("/etc/systemd/system/penstock.service")), "a mask was left")


@case
def purged_without_models_nothing_is_left():
    with Root.debian() as root:
        install(root, package("penstock_*.deb"))
        root.run("dpkg", "-P", "penstock")
        for name in ("/etc/penstock", "/var/lib/penstock"):
            check(not os.path.exists(root.path(name)), "%s is still there", name)
        install(root, package("penstock_*.deb"))        # and once more: a user that is there is no obstacle
        equal(owner(root, "/var/lib/penstock"), "penstock:penstock 750")


@case
def a_disabled_service_stays_disabled():
    with Root.debian() as root:
        install(root, package("penstock_*.deb"))
        wants = root.path("/etc/systemd/system/multi-user.target.wants/penstock.service")
        os.unlink(wants)        # what `systemctl disable` does
        install(root, repacked(package("penstock_*.deb"), "90.0-1"))
        check(not os.path.lexists(wants), "the upgrade enabled it again")


# --- started by systemd --------------------------------------------------------------------------------

SERVICE = "system.slice/penstock.service"
PORT = 8000


class Service:
    """The packages in a Debian that runs, with systemd as its first process."""

    def __init__(self, root):
        self.root = root
        install(root, package("penstock_*.deb"), package("penstock-onnxruntime_*.deb"))
        # threads of their own, as only they are in that network
        self.threads = concurrent.futures.ThreadPoolExecutor(2, initializer=root.enter_network)

    def systemctl(self, *words, status=0):
        return self.root.run("systemctl", *words, status=status)

    def show(self, name):
        return self.systemctl("show", "penstock.service", "--value", "-p", name).strip()

    def wait(self, wanted, text):
        until = time.monotonic() + 120
        while not (found := wanted()):
            if time.monotonic() > until:
                raise Failed("%s did not happen: %s" % (text, self.journal()[-2000:]))
            time.sleep(0.05)
        return found

    def journal(self):
        return self.root.run("journalctl", "-b", "--no-pager", "-u", "penstock.service", "-u", "penstock.socket", status=None)

    def serve(self):
        """Started, from whatever the case before left."""
        self.systemctl("stop", "penstock.socket", "penstock.service")
        if not os.path.exists(self.root.path("/var/lib/penstock/models/iris")):
            self.root.run("cp", "-r", "/usr/share/doc/penstock/examples/models/iris", "/var/lib/penstock/models/")
        self.systemctl("reset-failed")
        self.systemctl("start", "penstock.service")
        equal((self.show("ActiveState"), self.show("StatusText")), ("active", "serving"))
        return int(self.show("MainPID"))

    def ask(self, **more):
        return self.threads.submit(ask, "http://127.0.0.1:%d" % PORT, **more).result(60)

    def drop_in(self, text, unit="penstock.service"):
        folder = self.root.path("/etc/systemd/system/%s.d" % unit)
        os.makedirs(folder, exist_ok=True)
        with open(folder + "/test.conf", "w") as file:
            file.write(text)
        self.systemctl("daemon-reload")

    @contextlib.contextmanager
    def load(self, threads=4):
        """Callers who ask all the time, each kept alive until an answer says close: what they met is empty, and they got answers."""
        over, failures, answers = threading.Event(), [], [0] * threads

        def caller(index):
            self.root.enter_network()
            connection = None
            while not over.is_set():
                try:
                    connection = connection or http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
                    connection.request("POST", "/models/iris:predict", b'{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}')
                    reply = connection.getresponse()
                    equal((reply.status, json.loads(reply.read())), (200, SETOSA))
                    answers[index] += 1
                    time.sleep(0.002)
                except Exception as error:      # noqa: whatever a caller meets is a failure
                    failures.append("%s: %s" % (type(error).__name__, error))
                    connection = None
        callers = [threading.Thread(target=caller, args=(index,), daemon=True) for index in range(threads)]
        for one in callers:
            one.start()
        self.wait(lambda: all(answers), "the first answers")
        yield answers
        before = list(answers)
        self.wait(lambda: failures or all(now > was for now, was in zip(answers, before)), "answers after that")
        over.set()
        for one in callers:
            one.join(60)
        equal(failures[:3], [], "what %d answers went with" % sum(answers))


_service = []


def service():
    """One system for all cases of it: a start takes some seconds."""
    if not _service:
        stack = contextlib.ExitStack()
        root = stack.enter_context(Root.booted())
        atexit.register(stack.close)
        _service.append(Service(root))
    return _service[0]


@case
def systemd_starts_reloads_and_stops_it():
    its = service()
    shutil.rmtree(its.root.path("/var/lib/penstock/models/iris"), True)
    its.systemctl("stop", "penstock.service")
    its.systemctl("start", "penstock.service")
    equal((its.show("ActiveState"), its.show("ConditionResult")), ("inactive", "no"), "with nothing to serve")
    with open(its.root.path("/etc/penstock/penstock.yaml"), "a") as file:
        file.write("access-log: /var/log/penstock/access.log\n")
    pid = its.serve()
    equal(its.ask(), SETOSA)
    log = its.root.path("/var/log/penstock/access.log")
    its.wait(lambda: os.path.getsize(log) > 0, "a line of the access log")
    equal(owner(its.root, "/var/log/penstock"), "penstock:penstock 750")
    os.rename(log, log + ".1")
    its.systemctl("reload", "penstock.service")
    its.wait(lambda: os.path.exists(log), "a log file after the reload")
    equal((int(its.show("MainPID")), its.show("ActiveState"), its.show("NRestarts")), (pid, "active", "0"))
    equal(its.ask(), SETOSA)
    its.wait(lambda: os.path.getsize(log) > 0, "a line of the new log")
    its.systemctl("stop", "penstock.service")
    equal([its.show(name) for name in ("ActiveState", "Result", "ExecMainStatus")], ["inactive", "success", "0"])
    equal(its.root.pids(SERVICE), [], "processes that stay")


@case
def systemd_follows_an_upgrade():
    """SIGUSR2 as README.Debian has it, under load: another main process, no request lost, and no restart of systemd's."""
    its = service()
    pid = its.serve()
    with its.load():
        for _ in range(3):
            its.systemctl("kill", "--signal=SIGUSR2", "--kill-whom=main", "penstock.service")
            its.wait(lambda: its.show("MainPID") not in (str(pid), "0") and its.show("StatusText") == "serving", "another main process")
            pid = int(its.show("MainPID"))
    equal((its.show("ActiveState"), its.show("NRestarts")), ("active", "0"))
    its.systemctl("stop", "penstock.service")
    equal((its.show("ActiveState"), its.show("Result")), ("inactive", "success"))
    equal(its.root.pids(SERVICE), [], "processes that stay")


@case
def systemd_restarts_one_that_hangs():
    its = service()
    try:
        its.drop_in("[Service]\nWatchdogSec=2s\n")
        its.serve()
        main_pid, inside = its.root.pids(SERVICE)[0], its.show("MainPID")
        os.kill(main_pid, signal.SIGSTOP)
        its.wait(lambda: its.show("NRestarts") == "1" and its.show("StatusText") == "serving", "a new start")
        check(its.show("MainPID") != inside, "the same process")
        check("watchdog" in its.journal().lower(), "%s", its.journal()[-1000:])
        equal(its.ask(), SETOSA)
    finally:
        its.drop_in("")


@case
def what_the_unit_takes_is_taken():
    """As the kernel has it, of the process that runs: rights, mounts, devices."""
    its = service()
    its.serve()
    user = re.search(r"uid=(\d+)", its.root.run("id", "penstock")).group(1)
    for pid in its.root.pids(SERVICE):
        with open("/proc/%d/status" % pid) as file:
            status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        equal(status["Uid"].split(), [user] * 4)
        equal([int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")], [0] * 5)
        equal((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
    with open("/proc/%d/mountinfo" % pid) as file:
        flags = {line.split()[4]: line.split()[5].split(",")[0] for line in file}
    read_only = ("/", "/run", "/run/lock", "/home", "/root", "/proc/sys", "/sys", "/sys/fs/cgroup", "/dev", "/var/lib/penstock/models")
    equal({path: flags.get(path) for path in read_only}, dict.fromkeys(read_only, "ro"))
    written = ("/var/lib/penstock", "/var/log/penstock", "/run/penstock", "/tmp", "/var/tmp")
    equal({path: flags.get(path) for path in written}, dict.fromkeys(written, "rw"))

    # root itself, in the service's mounts
    def touch(path):
        return subprocess.run(["nsenter", "-t", str(pid), "-m", "touch", path], capture_output=True, text=True, check=False).stderr
    for path in ("/etc/penstock/x", "/run/lock/x", "/usr/x", "/var/lib/penstock/models/x"):
        check("Read-only file system" in touch(path), "%s: %s", path, touch(path))
    for folder in written:
        equal(touch(folder + "/x"), "")
    devices = os.listdir("/proc/%d/root/dev" % pid)
    equal([name for name in devices if re.match("[shv]d[a-z]|nvme|mem$|kmsg|fuse|loop", name)], [], "devices")


@case
def a_new_package_under_load_refuses_nobody():
    """penstock.socket holds the port while the package's next version stops and starts the service."""
    its = service()
    its.serve()
    its.systemctl("stop", "penstock.service")
    its.systemctl("start", "penstock.socket")
    equal(its.show("ActiveState"), "inactive")
    equal(its.ask(), SETOSA, "the first caller starts it")
    pid = its.show("MainPID")
    newer = repacked(package("penstock_*.deb"), "90.0-1")
    its.root.put(newer, "/root/newer.deb")
    with its.load():
        its.root.run("dpkg", "--force-confdef", "--force-confold", "-i", "/root/newer.deb")
        equal(its.root.run("dpkg-query", "-W", "-f", "${Version}", "penstock"), "90.0-1")
        its.wait(lambda: its.show("MainPID") not in (pid, "0") and its.show("ActiveState") == "active", "the service of the new version")
    its.root.run("dpkg", "-r", "penstock")
    equal(its.root.pids(SERVICE), [], "processes of a package that is gone")
    _service.pop()


# --- the tarball ---------------------------------------------------------------------------------------

@case
def the_tarball_runs_on_a_bare_c_library():
    """In a root that holds the C library and nothing else, from a folder with a space, as a user without a name."""
    found = base()
    if found is None and not why_not():
        skip("no bare Debian: script/bootstrap package-test makes it")
    with Root.empty() as root:
        root.unpack(glob.glob((found or "") + "/var/cache/apt/archives/libc6_*.deb")[0])
        root.put(unpacked(), "/some where/else")
        equal(sorted(os.listdir(root.path("/some where/else"))), sorted(os.listdir(unpacked())))
        process = root.start("/some where/else/bin/penstock", "serve", "/some where/else/examples/models", "--listen", "127.0.0.1:0", user="12345:12345")
        url = url_of(process)
        wait_ready(url)
        equal(ask(url), SETOSA)
        equal(ask(url, "/models/spam:predict", {"text": "You won a prize"})["label"], "spam")


@case
def the_tarball_moves():
    """It finds its libraries by its own place: moved, it finds them there; and takes none from the folder one stands in."""
    folder = temporary()
    shutil.copytree(unpacked(), folder + "/a", symlinks=True)
    os.rename(folder + "/a", folder + "/b")
    os.makedirs(folder + "/here/lib/penstock")
    with open(folder + "/here/lib/penstock/libonnxruntime.so", "w") as file:
        file.write("no library\n")
    clean = {"PATH": os.environ["PATH"], "HOME": "/"}
    said = json.loads(run(folder + "/b/bin/penstock", "version", "--json", cwd=folder + "/here", env=clean))
    equal(os.path.dirname(said["runtimes"][0]["path"]), folder + "/b/lib/penstock")
    done = subprocess.run([folder + "/b/bin/penstock", "--version"], env={**clean, "LD_DEBUG": "libs"}, capture_output=True, text=True, check=False)
    for name in ("libyaml-0.so.2", "libnghttp2.so.14"):
        check("%s/b/bin/../lib/penstock/%s" % (folder, name) in done.stderr, "%s is not taken from beside the program", name)


if __name__ == "__main__":
    main()
