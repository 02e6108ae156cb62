"""harness.py - tests of a running server, in Python: cases, a server on a free port, models from outside.

    from harness import case, check, equal, main, Server, shared

    @case
    def infers_over_json():
        with Server(shared("models/tabular")) as server:
            status, reply = server.post("/v2/models/iris/infer", {...})
            equal(status, 200)

    if __name__ == "__main__":
        main()

Each case prints one line, `ok NAME`, `not ok NAME: reason` or `skip NAME: reason`; the exit status is 1 if one failed. What a
server printed is shown on stderr when a case that used it fails. `python3 FILE NAME...` runs only these cases. Standard
library only, so that a benchmark or an example may use it as well.
"""
import contextlib
import functools
import http.client
import importlib
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
import traceback
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("PENSTOCK_BINARY", os.path.join(ROOT, "build", "penstock"))
SHARED = os.environ.get("PENSTOCK_TEST_SHARED", os.path.join(os.path.dirname(ROOT), "shared"))
START_SECONDS, STOP_SECONDS, CALL_SECONDS = 60, 30, 60
LISTENING = re.compile(r"\blistening on (https?)://(\[[^\]]+\]|[^\s:/]+):(\d+)")

_cases = []
_servers = []               # every server of the running case: their output is shown if it fails


class Skip(Exception):
    """Raised by a case that cannot run here; its text is the reason."""


class Failed(AssertionError):
    """Raised by check and equal."""


def skip(reason):
    raise Skip(reason)


def check(condition, text="check failed", *values):
    if not condition:
        raise Failed(text % values if values else text)


def equal(found, expected, text=""):
    if found != expected:
        raise Failed("%s%r, expected %r" % (text + ": " if text else "", found, expected))


def near(found, expected, atol=1e-5, text=""):
    """Numbers, or nested lists of them, no further apart than atol."""
    flat = [list(_flatten(found)), list(_flatten(expected))]
    check(len(flat[0]) == len(flat[1]), "%s%d numbers, expected %d", text + ": " if text else "", len(flat[0]), len(flat[1]))
    for i, (a, b) in enumerate(zip(*flat)):
        if not abs(a - b) <= atol:
            raise Failed("%snumber %d is %r, expected %r within %g" % (text + ": " if text else "", i, a, b, atol))


def _flatten(value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flatten(item)
    else:
        yield value


@contextlib.contextmanager
def raises(kind, text=""):
    """The block must raise `kind`, with `text` in its message; the exception is the value's `.error`."""
    caught = type("Caught", (), {"error": None})()
    try:
        yield caught
    except kind as error:
        caught.error = error
        check(text in str(error), "%r lacks %r", str(error), text)
        return
    raise Failed("no %s was raised" % kind.__name__)


# --- cases -----------------------------------------------------------------------------------------

def case(function):
    """Registers a function as one case, under its own name."""
    _cases.append((function.__name__, function))
    return function


def cases(rows):
    """One case per row: `@cases({"name": (arguments...)})`, or rows whose first member is the name."""
    items = rows.items() if isinstance(rows, dict) else [(row[0], row[1:]) for row in rows]

    def register(function):
        for name, arguments in items:
            name = re.sub(r"[^\w.+-]+", "_", "%s_%s" % (function.__name__, name))
            _cases.append((name, functools.partial(function, *arguments)))
        return function
    return register


def need(module):
    """The module, or a skip that names it: for clients that are not always installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Skip("no module %s (%s)" % (module, error)) from None


def need_program(name):
    return shutil.which(name) or skip("no program %s" % name)


def shared(path=""):
    """A file or folder of the models and data that lie beside the repository, or a skip that names it."""
    found = os.path.join(SHARED, path)
    if not os.path.exists(found):
        raise Skip("%s is not here (PENSTOCK_TEST_SHARED names its folder)" % os.path.join("shared", path))
    return found


@contextlib.contextmanager
def models(layout):
    """A folder of models, gone afterwards: {"iris/1/model.onnx": shared("..."), "iris/config.pbtxt": b"text"}."""
    with tempfile.TemporaryDirectory(prefix="penstock-models-") as folder:
        for name, content in layout.items():
            target = os.path.join(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if isinstance(content, bytes):
                with open(target, "wb") as file:
                    file.write(content)
            elif os.path.isdir(content):
                shutil.copytree(content, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(content, target)
        yield folder


def main():
    chosen = sys.argv[1:]
    failed = 0
    for name, function in _cases:
        if chosen and name not in chosen:
            continue
        _servers.clear()
        try:
            function()
            line = "ok %s" % name
        except Skip as reason:
            line = "skip %s: %s" % (name, reason)
        except Exception as error:              # noqa: any failure of a case is its result
            failed += 1
            reason = str(error).splitlines()
            kind = "" if isinstance(error, Failed) else type(error).__name__ + ": "
            line = "not ok %s: %s%s" % (name, kind, reason[0] if reason else "no text")
            traceback.print_exc()
            for server in _servers:
                print("--- penstock, last lines\n" + "\n".join(server.log.splitlines()[-20:]), file=sys.stderr)
        finally:
            for server in _servers:
                server.kill()
        print(line, flush=True)
    sys.exit(1 if failed else 0)


# --- the server --------------------------------------------------------------------------------------

class Server:
    """`penstock serve FOLDERS OPTIONS --listen 127.0.0.1:0`, ready when it says where it listens.

    Leaving the block stops it with SIGTERM; a server that does not end well by then (a crash, a leak a sanitizer saw, a hang)
    fails the case. `env` adds variables. `.url`, `.host`, `.port`, `.address` ("host:port"), `.log` (all it printed).
    """

    def __init__(self, *folders, options=(), env=None, listen="127.0.0.1:0", binary=None):
        self.command = [binary or BINARY, "serve", *map(str, folders)]
        self.command += [*(("--listen", listen) if listen else ()), *map(str, options)]
        self.env = dict(os.environ, **(env or {}))
        self.lines = []
        self.process = None
        self.urls = []

    @property
    def log(self):
        return "".join(self.lines)

    def start(self):
        check(os.path.exists(self.command[0]), "%s is not built (script/build)", self.command[0])
        _servers.append(self)
        self.process = subprocess.Popen(self.command, env=self.env, stdin=subprocess.DEVNULL, text=True, errors="replace",
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        ready = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout, ready), daemon=True)
        self.reader.start()
        if not ready.wait(START_SECONDS) or not self.urls:
            self.kill()
            last = self.log.strip().splitlines()[-1:] or ["it printed nothing"]
            raise Failed("penstock did not start: %s" % last[0])
        self.url = self.urls[0]
        parts = urllib.parse.urlsplit(self.url)
        self.host, self.port = parts.hostname, parts.port
        self.address = "%s:%d" % (self.host, self.port)
        return self

    def _read(self, pipe, ready):
        for line in pipe:
            self.lines.append(line)
            match = LISTENING.search(line)
            if match:
                self.urls.append("%s://%s:%s" % match.groups())
                ready.set()
        ready.set()         # it ended: start() sees that there is no address

    def stop(self):
        """Asks it to end and waits; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed("penstock did not end within %d s of SIGTERM" % STOP_SECONDS) from None
        self.reader.join(STOP_SECONDS)
        return status

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, error, trace):
        if kind is not None:
            if self.process.poll() is not None:
                print("penstock had ended with %d" % self.process.returncode, file=sys.stderr)
            self.kill()
            return
        status = self.process.poll()
        check(status is None, "penstock had ended with %s before it was told to", status)
        equal(self.stop(), 0, "exit status of penstock")

    # Plain HTTP/1.1, one connection a call; tests of connections open their own.
    def call(self, method, path, body=None, headers=None):
        """(status, headers as a dict with lower-case names, body as bytes)"""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=CALL_SECONDS)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def get(self, path, headers=None):
        """(status, JSON document, or bytes when it is not JSON)"""
        status, found, body = self.call("GET", path, headers=headers)
        return status, _decoded(found, body)

    def post(self, path, document, headers=None):
        sent = {"content-type": "application/json", **(headers or {})}
        status, found, body = self.call("POST", path, json.dumps(document).encode(), sent)
        return status, _decoded(found, body)

    def wait_ready(self, path="/v2/health/ready", seconds=START_SECONDS):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.call("GET", path)[0] == 200:
                return
            time.sleep(0.02)
        raise Failed("%s was not 200 within %g s" % (path, seconds))


def _decoded(headers, body):
    is_json = "json" in headers.get("content-type", "")
    return json.loads(body) if is_json and body else body
