"""What the process gives up, tried from within by a model that has no business to (probe.c), and what the program is built with."""
import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time

from harness import BINARY, ROOT, Server, case, cases, check, equal, main, models, need_program, skip

ECHO = b"""backend: "echo"
input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }]
"""


def readelf(*options):
    return subprocess.run([need_program("readelf"), "-W", *options, BINARY], capture_output=True, text=True, check=True).stdout


# --- the program -----------------------------------------------------------------------------------------

@case
def the_program_is_built_hardened():
    check(re.search(r"Type:\s+DYN \(Position-Independent Executable", readelf("-h")), "PIE: %s", readelf("-h"))
    segments = readelf("-l")
    check("GNU_RELRO" in segments, "RELRO: %s", segments)
    stack = re.search(r"GNU_STACK.*", segments).group()
    check(" RW " in stack and "RWE" not in stack, "the stack is not executable: %s", stack)
    dynamic = readelf("-d")
    check("BIND_NOW" in dynamic or re.search(r"FLAGS_1.*\bNOW\b", dynamic), "bound at the start: %s", dynamic)
    check("TEXTREL" not in dynamic, "no relocations of code: %s", dynamic)
    for path in re.findall(r"(?:RPATH|RUNPATH).*\[(.*)\]", dynamic):
        check(path.startswith("$ORIGIN"), "libraries are not looked for in %s", path)
    symbols = readelf("--dyn-syms")
    if "__asan_init" in symbols or "__tsan_init" in symbols:
        skip("a sanitizer is in the place of the rest")
    check("__stack_chk_fail" in symbols, "stack protector")
    check("_chk@" in symbols.replace("__stack_chk_fail", ""), "fortified functions")


@case
def indirect_calls_are_checked_where_the_processor_can():
    if os.uname().machine != "x86_64":
        skip("of x86")
    with open(BINARY, "rb") as file:
        code = file.read()
    # The mark of the whole program goes as soon as one library that is linked in lacks it; ours have it.
    check(code.count(b"\xf3\x0f\x1e\xfa") > 1000, "functions begin with endbr64 (-fcf-protection)")
    check(b"\x48\x83\x0c\x24\x00" in code, "large frames touch each page (-fstack-clash-protection)")


# --- the process -----------------------------------------------------------------------------------------

def said(server, pattern, seconds=15):
    """What it prints may come a moment after it listens."""
    until = time.monotonic() + seconds
    while not (found := re.search(pattern, server.log)):
        check(time.monotonic() < until, "%s was not said: %s", pattern, server.log)
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def probing(*options, command=(), **parameters):
    """A server with a model that tries things: its words, as {"read": "EACCES", ...}."""
    compiler = need_program("cc")
    with tempfile.TemporaryDirectory(prefix="penstock-hardening-") as where:
        os.chmod(where, 0o755)
        parameters = {"secret": os.path.join(where, "secret"), "written": os.path.join(where, "written"), **parameters}
        with open(os.path.join(where, "secret"), "w") as file:
            file.write("s")
        text = b'backend: "probe"\n'
        for key, value in parameters.items():
            text += b'parameters { key: "%s" value { string_value: "%s" } }\n' % (key.encode(), str(value).encode())
        plugin = os.path.join(where, "plugins", "probe.so")
        for folder in ("plugins", "models/probe", "models/fast"):
            os.makedirs(os.path.join(where, folder))
        for name, config in (("probe", text), ("fast", ECHO)):
            with open(os.path.join(where, "models", name, "config.pbtxt"), "wb") as file:
                file.write(config)
        subprocess.run([compiler, "-shared", "-fPIC", "-D_GNU_SOURCE", "-I", os.path.join(ROOT, "include"), "-o", plugin,
                        os.path.join(ROOT, "test", "cli", "probe.c")], check=True)
        server = Server(os.path.join(where, "models"), options=["--backend-plugin", plugin, *options])
        server.command = [*command, *server.command]
        with server:
            found = said(server, r"probe: (.*)")
            server.probed = dict(pair.split("=") for pair in found.group(1).split())
            yield server


def compiled(where, name):
    path = os.path.join(where, name)
    subprocess.run([need_program("cc"), "-D_GNU_SOURCE", "-o", path, os.path.join(ROOT, "test", "cli", name + ".c")], check=True)
    return path


def has_landlock():
    with tempfile.TemporaryDirectory() as where:
        source = os.path.join(where, "l.c")
        with open(source, "w") as file:
            file.write("#include <sys/syscall.h>\n#include <unistd.h>\nint main(void) { return syscall(444, 0, 0, 1) > 0 ? 0 : 1; }\n")
        subprocess.run([need_program("cc"), "-o", source[:-2], source], check=True)
        return subprocess.run([source[:-2]]).returncode == 0


NOT_CALLED = ("ptrace", "mount", "unshare", "clone", "bpf", "io_uring", "tiocsti", "tiocsti_high", "tioclinux", "chmod", "utime", "setxattr", "symlink")


@case
def a_model_can_do_little():
    if not has_landlock():
        skip("this kernel has no Landlock")
    with probing("--confine", "require") as server:
        found = server.probed
        equal({name: found[name] for name in ("read", "write", "exec")}, {"read": "EACCES", "write": "EACCES", "exec": "EPERM"})
        equal({name: found[name] for name in NOT_CALLED}, dict.fromkeys(NOT_CALLED, "EPERM"))
        equal({name: found[name] for name in ("passwd", "shm", "thread", "winsize")}, dict.fromkeys(("passwd", "shm", "thread", "winsize"), "ok"))
        equal(found["privs"], "1")
        equal(found["kill"], "ok", "itself")
        said(server, r"info: confined: reads \d+ paths, writes below \d+, starts no program \(Landlock \d+\); "
             r"\d+ system calls are refused \(seccomp\)\n")
        equal(server.post("/models/fast:predict", {"x": [1, 2, 3, 4]})[0], 200)


@case
def nor_signal_others():
    """From Landlock's sixth version on."""
    if not has_landlock():
        skip("this kernel has no Landlock")
    with probing("--confine", "auto", victim=os.getppid()) as server:
        version = int(said(server, r"\(Landlock (\d+)\)").group(1))
        equal(server.probed["kill"], "EPERM" if version >= 6 else "ok")


@case
def unconfined_it_can():
    with probing("--confine", "off") as server:
        equal([server.probed[name] for name in ("read", "write", "exec")], ["ok"] * 3)
        equal({name: server.probed[name] for name in ("ptrace", "mount", "unshare", "clone")},
              {"ptrace": "ESRCH", "mount": "ENOENT", "unshare": "EINVAL", "clone": "EINVAL"}, "looked at, and not possible")
        equal({name: server.probed[name] for name in ("tiocsti", "tioclinux", "chmod", "utime")},
              {"tiocsti": "ENOTTY", "tioclinux": "ENOTTY", "chmod": "ok", "utime": "ok"})
        equal(server.probed["privs"], "0")
        check("confined:" not in server.log, "%s", server.log)


@case
def what_else_is_read_and_written_is_named():
    if not has_landlock():
        skip("this kernel has no Landlock")
    with tempfile.TemporaryDirectory() as more:
        with probing("--confine-read", more, "--confine-write", more, secret=more, written=more + "/x") as server:
            equal((server.probed["read"], server.probed["write"]), ("ok", "ok"))


# What the probe reads and writes is beside the file that an option names, or in a folder of this name.
RULES = "rules: []\n"
REFUSED, READ, WRITTEN = {"read": "EACCES", "write": "EACCES"}, {"read": "ok", "write": "EACCES"}, {"read": "EACCES", "write": "ok"}


@cases({
    "rules": ("--access", "access.yaml", READ),
    "configuration": ("--config", "penstock.yaml", REFUSED),
    "access_log": ("--access-log", "access.log", WRITTEN),
    "audit_log": ("--audit-log", "audit.log", WRITTEN),
})
def what_lies_beside_a_file(option, name, expected):
    """Files are replaced by renaming, so their folder is open: to be read for rules, to be written for logs, and no more."""
    if not has_landlock():
        skip("this kernel has no Landlock")
    with tempfile.TemporaryDirectory() as folder:
        for each, text in (("secret", "s"), ("access.yaml", RULES), ("penstock.yaml", "queue-max: 7\n")):
            with open(os.path.join(folder, each), "w") as file:
                file.write(text)
        with probing("--confine", "require", option, os.path.join(folder, name), secret=folder + "/secret", written=folder + "/written") as server:
            equal({key: server.probed[key] for key in expected}, expected)
            check("holds what belongs to others" not in server.log, "%s", server.log)


@case
def a_model_that_is_a_file_opens_no_folder():
    """The file and the files beside it, not what lies below its folder."""
    if not has_landlock():
        skip("this kernel has no Landlock")
    with models({"fast/config.pbtxt": ECHO, "below/secret": b"s", "beside": b"s"}) as folder:
        shutil.copy(os.path.join(ROOT, "examples", "models", "iris", "1", "model.onnx"), folder + "/iris.onnx")
        for secret, expected in ((folder + "/below/secret", "EACCES"), (folder + "/beside", "ok")):
            with probing("--confine", "require", folder + "/iris.onnx", secret=secret) as server:
                equal(server.probed["read"], expected, secret)
                said(server, "iris +1? +ready|iris .*ONNX Runtime is not installed")


@cases({"rules": ("--access", "penstock-hardening-%d.yaml", "takes its place is not read"),
        "access_log": ("--access-log", "penstock-hardening-%d.log", "takes its place cannot be written")})
def what_lies_beside_a_file_among_many(option, name, why):
    """/tmp, /etc, a home are not opened for a file that lies there: it alone is, and a warning says what that means."""
    if not has_landlock():
        skip("this kernel has no Landlock")
    path, secret = os.path.join("/tmp", name % os.getpid()), "/tmp/penstock-hardening-%d.secret" % os.getpid()
    try:
        if option == "--access":
            with open(path, "w") as file:
                file.write(RULES)
        with open(secret, "w") as file:
            file.write("s")
        with probing("--confine", "require", option, path, secret=secret, written=secret + ".written") as server:
            equal({key: server.probed[key] for key in REFUSED}, REFUSED)
            said(server, "warning: %s: /tmp holds what belongs to others.*%s" % (path, why))
            if option == "--access-log":
                server.get("/readyz")
                until = time.monotonic() + 15
                while os.path.getsize(path) == 0:
                    check(time.monotonic() < until, "no line in the log")
                    time.sleep(0.02)
    finally:
        for each in (path, secret, secret + ".written"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(each)


@cases({"audit_to_stdout": ("--audit-log", "stdout"), "access_to_stdout": ("--access-log", "stdout"), "to_stderr": ("--access-log", "stderr"),
        "minus": ("--access-log", "-")})
def words_are_no_files(*options):
    """In / as under systemd: a word is not taken for a file of the folder that one stands in."""
    if not has_landlock():
        skip("this kernel has no Landlock")
    with probing("--confine", "require", *options, command=(need_program("env"), "-C", "/")) as server:
        equal({key: server.probed[key] for key in REFUSED}, REFUSED)


@cases({"access": ("--access", "FOLDER"), "tls": ("--tls", "FOLDER,FOLDER"), "client_ca": ("--tls-ticket-keys", "FOLDER", "--tls", "auto", "--tls-dir", "FOLDER/tls")})
def a_folder_in_place_of_a_file_is_said(*options):
    """And not that it cannot be opened, which only --confine would be the reason of."""
    with tempfile.TemporaryDirectory() as where, models({"fast/config.pbtxt": ECHO}) as folder:
        done = subprocess.run([BINARY, "serve", folder, "--listen", "127.0.0.1:0", *(each.replace("FOLDER", where) for each in options)],
                              capture_output=True, text=True, timeout=30)
        equal((done.returncode, done.stdout), (1, ""), done.stderr)
        check("Permission denied" not in done.stderr and where in done.stderr, "%s", done.stderr)


@case
def certificates_may_lie_where_one_stands():
    """As README has it: --tls cert.pem,key.pem, and beside it --tls auto."""
    with tempfile.TemporaryDirectory() as folder, models({"fast/config.pbtxt": ECHO}) as repository:
        subprocess.run([need_program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=a.test",
                        "-addext", "subjectAltName=DNS:a.test", "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True)
        for more in ((), ("--tls", "auto", "--tls-dir", folder + "/state/tls")):
            server = Server(repository, options=["--tls", "cert.pem,key.pem", *more])
            server.command = [need_program("env"), "-C", folder, *server.command]
            with server:
                check(server.url.startswith("https://"), server.url)


@cases({
    "landlock": ("landlock", r"this kernel has no Landlock \(Function not implemented\)"),
    "seccomp": ("seccomp", r"seccomp: Invalid argument"),
})
def a_kernel_without(what, why):
    """auto serves and warns, require does not start."""
    with tempfile.TemporaryDirectory() as where, models({"fast/config.pbtxt": ECHO}) as folder:
        old = compiled(where, "old_kernel")
        server = Server(folder)
        server.command = [old, what, *server.command]
        with server:
            said(server, "warning: not confined as --confine auto would: " + why)
            equal(server.post("/models/fast:predict", {"x": [1, 2, 3, 4]})[0], 200)
        done = subprocess.run([old, what, BINARY, "serve", folder, "--listen", "127.0.0.1:0", "--confine", "require"],
                              capture_output=True, text=True, timeout=30)
        equal((done.returncode, done.stdout), (1, ""), done.stderr)
        check(re.search("penstock: --confine require: " + why, done.stderr), "%s", done.stderr)


@cases({"by_the_kernel": ("landlock",), "by_comparing_paths": ("landlock,openat2",)})
def a_link_out_of_a_model_is_refused(what):
    """By the kernel, and where it cannot by us."""
    with tempfile.TemporaryDirectory() as where, models({"fast/config.pbtxt": ECHO, "out/1/.keep": b""}) as folder:
        with open(os.path.join(where, "config.pbtxt"), "wb") as file:
            file.write(ECHO)
        os.symlink(os.path.join(where, "config.pbtxt"), os.path.join(folder, "out", "config.pbtxt"))
        server = Server(folder, options=["--confine", "off"])
        if "openat2" in what:
            server.command = [compiled(where, "old_kernel"), what, *server.command]
        with server:
            said(server, r"out .*NOT READY .*'config\.pbtxt' leads out of the model's folder")


@cases({"auto": ("auto", "--access", "0"), "plain": ("auto", None, "1"), "off": ("off", None, "0"), "on": ("on", "--access", "1")})
def core_dumps(how, secret, expected):
    with tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, "access.yaml")
        with open(path, "w") as file:
            file.write("rules: []\n")
        os.chmod(path, 0o600)
        with probing("--core-dumps", how, *((secret, path) if secret else ())) as server:
            equal(server.probed["dumpable"], expected)
            if expected == "0":
                said(server, "confined: .*no core dumps")


# --- root ------------------------------------------------------------------------------------------------

def need_root():
    if os.geteuid() != 0:
        skip("only root can become another user")


@cases({"group_of_its_own": ("nobody", None), "another_group": ("nobody:daemon", "daemon"), "numbers": ("1234:1235", 1235)})
def root_is_given_up(user, group):
    need_root()
    with probing("--user", user) as server:
        nobody = pwd.getpwnam("nobody") if user.startswith("nobody") else None
        uid = nobody.pw_uid if nobody else 1234
        gid = nobody.pw_gid if group is None else shutil._get_gid(group) if isinstance(group, str) else group
        equal((server.probed["uid"], server.probed["gid"]), (str(uid), str(gid)))
        equal(server.probed["setuid"], "EPERM", "there is no way back")
        equal(server.probed["privs"], "1")
        for task in os.listdir("/proc/%d/task" % server.process.pid):
            with open("/proc/%d/task/%s/status" % (server.process.pid, task)) as file:
                status = file.read()
            equal(re.search(r"Uid:(.*)", status).group(1).split(), [str(uid)] * 4, "of every thread")
            equal(re.search(r"Gid:(.*)", status).group(1).split(), [str(gid)] * 4)
            equal(int(re.search(r"CapEff:\s*(\w+)", status).group(1), 16), 0)
            groups = re.search(r"Groups:(.*)", status).group(1).split()
            check("0" not in groups, "groups: %s", groups)
        check("serving as root" not in server.log, "%s", server.log)


@case
def serving_as_root_is_said():
    """And is root for files only: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    need_root()
    with models({"fast/config.pbtxt": ECHO}) as folder, Server(folder) as server:
        said(server, "warning: serving as root: --user NAME gives that up")
        for task in os.listdir("/proc/%d/task" % server.process.pid):
            for name in ("CapEff", "CapPrm", "CapBnd"):
                found = int(of_process("%d/task/%s" % (server.process.pid, task), name), 16)
                equal(found & ~(1 << 1 | 1 << 2), 0, name)
    with models({"fast/config.pbtxt": ECHO}) as folder, Server(folder, options=["--confine", "off"]) as server:
        check(int(of_process(server.process.pid, "CapEff"), 16) > 7, "capabilities without --confine")


@case
def a_runtime_that_the_user_may_not_read_is_named():
    need_root()
    with tempfile.TemporaryDirectory() as where, models({"fast/config.pbtxt": ECHO}) as folder:
        os.chmod(folder, 0o755)
        path = os.path.join(where, "libonnxruntime.so")
        with open(path, "w") as file:
            file.write("x")
        with Server(folder, options=["--user", "nobody", "--runtime-dir", where]) as server:
            said(server, r"warning: --user: nobody may not read %s.* \(Permission denied\): no model that needs it can be loaded" % re.escape(where))


@cases({
    "nobody_of_that_name": ("no-such-user", 1, "there is no user 'no-such-user'"),
    "no_such_group": ("nobody:no-such-group", 1, "there is no group 'no-such-group'"),
    "no_name": (":daemon", 2, "':daemon' is no NAME or NAME:GROUP"),
    "a_number_without_a_group": ("1234", 2, "user 1234 has no name, so no group: say 1234:GROUP"),
    "root": ("root", 2, "'root' is root, which is to be given up"),
})
def a_user_that_cannot_be(user, status, why):
    need_root()
    with models({"fast/config.pbtxt": ECHO}) as folder:
        done = subprocess.run([BINARY, "serve", folder, "--listen", "127.0.0.1:0", "--user", user], capture_output=True,
                              text=True, timeout=30)
        equal((done.returncode, done.stdout), (status, ""), done.stderr)
        check("--user" in done.stderr and why in done.stderr, "%s", done.stderr)


@case
def who_is_not_root_becomes_nobody_else():
    need_root()
    with models({"fast/config.pbtxt": ECHO}) as folder:
        os.chmod(folder, 0o755)
        program = os.path.join(folder, "penstock")
        shutil.copy(BINARY, program)
        done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "serve", folder, "--listen",
                               "127.0.0.1:0", "--user", "daemon"], capture_output=True, text=True, timeout=30)
        equal(done.returncode, 1, done.stderr)
        check("cannot become 'daemon': only root can" in done.stderr, "%s", done.stderr)


@contextlib.contextmanager
def upgrading(*options, config=None):
    """A server that root starts, which can be replaced (upgrade.py's Line); the program lies where any user may start it."""
    need_root()
    import importlib.util
    import sys
    sys.path.append(os.path.join(ROOT, "test", "client"))
    spec = importlib.util.spec_from_file_location("upgrade", os.path.join(ROOT, "test", "client", "upgrade.py"))
    upgrade = importlib.util.module_from_spec(spec)
    import harness
    kept = list(harness._cases)
    spec.loader.exec_module(upgrade)
    harness._cases[:] = kept
    with models({"fast/config.pbtxt": ECHO}) as folder, tempfile.TemporaryDirectory() as where:
        for each in [where, folder, *(os.path.join(folder, name) for name in os.listdir(folder))]:
            os.chmod(each, 0o755)
        program = os.path.join(where, "penstock")
        shutil.copy(BINARY, program)
        if config is not None:
            options += ("--config", os.path.join(where, "penstock.yaml"))
            with open(options[-1], "w") as file:
                file.write(config)
        with upgrade.Line(folder, options=["--user", "nobody", "--confine", "auto", *options], binary=program,
                          listen=None if config else "127.0.0.1:0") as line:
            line.where = where
            yield line


def of_process(pid, name):
    with open("/proc/%s/status" % pid) as file:
        return re.search(r"^%s:\s*(.*)$" % name, file.read(), re.M).group(1)


def starter(pid):
    """The process beside it that starts the next one."""
    until = time.monotonic() + 15
    while True:         # it may not have run yet, and has its name once it does
        children = []
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as file:
                children += [int(child) for child in file.read().split()]
        found = [child for child in children if of_process(child, "Name") == "penstock-start"]
        if found:
            break
        check(time.monotonic() < until, "children of %d: %s", pid, children)
        time.sleep(0.02)
    equal(len(found), 1, "children of %d: %s" % (pid, children))
    return found[0]


def low_port():
    """One below 1024 that nobody has."""
    for port in range(700, 1024):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port
    return skip("no free port below 1024")


@cases({"by_default": ((), "user"), "said": (("--upgrade-rights", "user"), "user"), "of_the_start": (("--upgrade-rights", "start"), "start")})
def who_starts_the_next_program(options, whose):
    """With --user nothing of a server is left to root, unless that is asked for; a port below 1024 passes on all the same."""
    uid = str(pwd.getpwnam("nobody").pw_uid)
    need_root()
    with upgrading("--listen", "127.0.0.1:%d" % low_port(), *options) as line:
        for _ in range(3):
            pid = line.upgrade()
            equal(of_process(pid, "Uid").split(), [uid] * 4)
            beside = starter(pid)
            equal(of_process(beside, "Uid").split(), [uid if whose == "user" else "0"] * 4)
            if whose == "user":
                equal([int(of_process(beside, name), 16) for name in ("CapPrm", "CapEff")], [0, 0])
                check("0" not in of_process(beside, "Groups").split(), "groups of root")
                equal(os.stat("/proc/%d/environ" % beside).st_uid, 0, "owned by root: it cannot be traced by its own user")
        equal(line.ask()[0], 200)


@cases({"user": ("user", "Permission denied"), "start": ("start", None)})
def a_port_of_root_that_is_new(rights, refused):
    """The rights of the user do not do for another port below 1024, and the old program goes on; those of the start do."""
    need_root()
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) < 1024:
            skip("any user may have ports below 1024 here")
    port = low_port()
    with upgrading("--upgrade-rights", rights, config='listen: ["127.0.0.1:0"]\n') as line:
        with open(os.path.join(line.where, "penstock.yaml"), "w") as file:
            file.write('listen: ["127.0.0.1:0", "127.0.0.1:%d"]\n' % port)
        if refused is None:
            line.upgrade()
            socket.create_connection(("127.0.0.1", port), 30).close()
        else:
            pid = line.start()
            said(line.server, "the upgrade failed, and this program goes on: .*" + refused)
            check(not os.path.exists("/proc/%d" % pid) or of_process(pid, "State").startswith("Z"), "it is still there")
        equal(line.ask()[0], 200)


@case
def a_configuration_that_only_root_reads_is_said():
    """At the start, and not at the first upgrade."""
    need_root()
    with upgrading(config='listen: ["127.0.0.1:0"]\n') as line:
        check("SIGUSR2 would fail" not in line.log, "%s", line.log)
    with tempfile.TemporaryDirectory() as where, models({"fast/config.pbtxt": ECHO}) as folder:
        path = os.path.join(where, "penstock.yaml")
        with open(path, "w") as file:
            file.write("queue-max: 7\n")
        os.chmod(folder, 0o755)
        for rights, warned in (("user", True), ("start", False)):
            with Server(folder, options=["--user", "nobody", "--config", path, "--upgrade-rights", rights]) as server:
                said(server, "listening on")
                equal("SIGUSR2 would fail: nobody may not read " + path in server.log, warned, server.log)


if __name__ == "__main__":
    main()
