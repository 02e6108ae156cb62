"""packaging/Containerfile, step by step: built in folders (no engine is needed), and what came out started as its user.

The first run installs what a build needs in a bare Debian (some minutes and a network); the layer is kept as an engine would.
"""
# seconds: 1800
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import bareroot
from containerfile import Unknown, build, files_of, ignored, steps
from harness import LISTENING, ROOT, case, check, equal, main, raises, skip

FILE = "packaging/Containerfile"
CACHE = os.environ.get("PENSTOCK_CACHE", os.path.expanduser("~/.cache/penstock"))
NETWORK = re.compile(r"^(?:PIP_|HTTPS?_PROXY|NO_PROXY|https?_proxy|no_proxy|SSL_CERT_FILE)")
SIZE_MOST = 64 << 20


@case
def no_host_is_named_and_no_step_is_unknown():
    with open(os.path.join(ROOT, FILE)) as file:
        text = file.read()
    images = [rest.split()[0] for word, rest in steps(text) if word == "FROM"]
    equal(images, ["debian:12-slim", "scratch"])
    check(all("/" not in image for image in images), "a registry in %s", images)
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    equal({word for word, _ in steps(text)} - known, set())


@case
def what_is_ignored_stays_outside():
    files = files_of(ROOT, ".", ignored(ROOT))
    check("meson.build" in files and "script/package" in files and "packaging/make.py" in files, "%d files", len(files))
    wrong = [name for name in files if name.startswith(("build", ".git/")) or "__pycache__" in name]
    equal(wrong, [])


@case
def what_is_not_understood_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        for line in ("ADD x y", "CMD serve /models", "HEALTHCHECK NONE", "COPY --chown=1 a b", "FROM other:1"):
            with open(folder + "/Containerfile", "w") as file:
                file.write("FROM scratch\n" + line + "\n")
            with tempfile.TemporaryDirectory() as work, raises(Unknown):
                build(folder, "Containerfile", {}, work)


def start(image, *words, env=None):
    root = bareroot.Root(image.folder)
    process = root.start(*words, user=image.user, env={**image.env, **(env or {})}, within=["setpriv", "--no-new-privs", "--bounding-set=-all,+sys_chroot,+setuid,+setgid"])
    return root, process


def url_of(process):
    found, said, ready = [], [], threading.Event()

    def read():
        for line in process.stdout:
            said.append(line)
            if LISTENING.search(line):
                found.append(int(LISTENING.search(line).group(3)))
                ready.set()
        ready.set()
    threading.Thread(target=read, daemon=True).start()
    ready.wait(60)
    check(found, "it did not listen: %s", "".join(said[-10:]))
    return "http://127.0.0.1:%d" % found[0]


@case
def built_and_started():
    """The image has no shell, runs as a number, says when it is ready, answers, and ends at its stop signal."""
    if bareroot.why_not():
        skip(bareroot.why_not())
    base = bareroot.base()
    if base is None:
        skip("no bare Debian: script/bootstrap package-test makes it")
    pass_on = {name: value for name, value in os.environ.items() if NETWORK.match(name)}
    with tempfile.TemporaryDirectory(prefix="penstock-container-") as work:
        lent = os.path.join(work, "base")       # as debian:12-slim, with the certificates that this machine trusts
        subprocess.run(["cp", "-a", "--reflink=auto", base + "/.", lent], check=True)
        os.unlink(lent + "/.complete")
        for name in ("PIP_CERT", "SSL_CERT_FILE"):      # behind a proxy that has an authority of its own
            if os.path.exists(pass_on.get(name, "")):
                os.makedirs(lent + "/etc/ssl", exist_ok=True)
                shutil.copy(pass_on[name], lent + "/etc/ssl/machine.crt")
                pass_on[name] = "/etc/ssl/machine.crt"
        epoch = subprocess.run(["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False).stdout.strip()
        image = build(ROOT, FILE, {"debian:12-slim": lent}, os.path.join(work, "stages"), keep=os.path.join(CACHE, "layers"),
                      args={"SOURCE_DATE_EPOCH": epoch or "1"}, pass_on=pass_on, said=lambda text: print(text, file=sys.stderr))
        names = [os.path.join(folder, name) for folder, _, found in os.walk(image.folder) for name in found]
        size = sum(os.lstat(name).st_size for name in names)
        print("image: %.1f MB in %d files" % (size / 1e6, len(names)), file=sys.stderr)
        check(size < SIZE_MOST, "%d bytes", size)
        check(not any(os.path.basename(name) in ("sh", "bash", "dash", "apt", "dpkg", "busybox") for name in names), "a shell in the image")
        check(re.fullmatch(r"[1-9]\d+:[1-9]\d+", image.user or ""), "user %s", image.user)
        equal((image.exposed, image.volumes, image.stopsignal), ([8000], ["/models"], "SIGTERM"))
        shutil.copytree(os.path.join(ROOT, "examples/models/iris"), image.folder + "/models/iris")
        root, process = start(image, *image.entrypoint, *image.cmd, env={"PENSTOCK_LISTEN": "127.0.0.1:0"})
        try:
            url = url_of(process)
            until = time.monotonic() + 30
            while True:     # the healthcheck, in the image, as its user
                probe = bareroot.Root(image.folder)
                said = probe.run(*image.healthcheck, user=image.user, env={**image.env, "PENSTOCK_SERVER": url}, status=None)
                if said.strip() == "ready":
                    break
                check(time.monotonic() < until, "the healthcheck says: %s", said)
            body = json.dumps({"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}).encode()
            request = urllib.request.Request(url + "/models/iris:predict", body, {"content-type": "application/json"})
            equal(json.load(urllib.request.urlopen(request, timeout=30)), {"label": "setosa", "probability": 0.98})
            with open("/proc/%d/task/%d/children" % (process.pid, process.pid)) as file:
                child = int(file.read().split()[0])
            os.kill(child, getattr(signal, image.stopsignal))
            equal(process.wait(30), 0, "status at the stop signal")
        finally:
            root.end()


if __name__ == "__main__":
    main()
