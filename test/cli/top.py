#!/usr/bin/env python3
"""top.py - penstock top: of a server under load, into a pipe and on a terminal, with keys, resizes and a server that goes away."""
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from harness import BINARY, Server, case, cases, check, equal, main, models

ECHO = b"""backend: "echo"
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
"""
LAYOUT = {"plain/config.pbtxt": ECHO, "plain/1/keep": b"", "other/config.pbtxt": ECHO, "other/1/keep": b""}


def run(*arguments, seconds=60):
    done = subprocess.run([BINARY, "top", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@contextlib.contextmanager
def loaded(listen="127.0.0.1:0", options=()):
    """A server that is asked all the time: mostly what works, one in three for a path that is not."""
    with models(LAYOUT) as folder, Server(folder, listen=listen, options=options) as server:
        server.wait_ready()
        is_over = threading.Event()
        counts = {"good": 0, "bad": 0}

        def ask():
            while not is_over.is_set():
                with contextlib.suppress(OSError):
                    counts["good"] += server.post("/models/plain:predict", [1, 2, 3, 4])[0] == 200
                    counts["good"] += server.post("/v2/models/plain/infer", {"inputs": [
                        {"name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}]})[0] == 200
                    counts["bad"] += server.get("/nothing")[0] == 404
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield server, counts
        finally:
            is_over.set()
            thread.join()


# --- into a pipe ---------------------------------------------------------------------------------------

@cases({
    "an_argument": (["x"], 2, "top takes no argument"),
    "no_server": (["--server", "http://127.0.0.1:1", "--once"], 1, "nobody listens on 127.0.0.1:1: start `penstock serve`"),
    "no_socket": (["--server", "unix:/nowhere/x"], 1, "nobody listens on unix:/nowhere/x"),
    "a_short_interval": (["--interval", "1ms"], 2, "--interval"),
    "an_unknown_order": (["--sort", "size"], 2, "rate"),
})
def ends_as_it_should(arguments, status, words):
    found = run(*arguments)
    equal((found[0], found[1]), (status, ""), found[2])
    check(words in found[2] and len(found[2].splitlines()) == 1, "%r", found[2])


@case
def one_look_tells_what_happened_in_it():
    with loaded() as (server, counts):
        before = dict(counts)
        begun = time.monotonic()
        status, out, err = run("--server", server.url, "--once", "--json", "--interval", "1s")
        took = time.monotonic() - begun
        asked = {name: counts[name] - before[name] for name in counts}
    equal((status, err), (0, ""))
    equal(len(out.splitlines()), 1, "lines")
    found = json.loads(out)
    check(0.9 <= found["seconds"] <= took, "%s of %s s", found["seconds"], took)
    # What it tells lies within what was asked while it ran.
    check(0 < found["requests_per_second"] * found["seconds"] <= sum(asked.values()) + 10, "%s, asked %s", found, asked)
    share = found["errors_per_second"] / found["requests_per_second"]
    check(0.25 < share < 0.4, "%s of the requests failed, one in three should", share)
    routes = {row["route"]: row for row in found["routes"]}
    for route in ("/models/{model}:predict", "/v2/models/{model}/infer", ""):
        row = routes[route]
        check(row["requests_per_second"] > 0 and 0 < row["p50_seconds"] <= row["p90_seconds"] <= row["p99_seconds"] < 10, "%s", row)
    equal(routes[""]["errors_per_second"], routes[""]["requests_per_second"], "what is nowhere")
    equal([row["model"] for row in found["models"]], ["plain", "other"], "by rate")
    plain, other = found["models"]
    check(plain["ready"] and plain["requests_per_second"] > 0 and plain["p99_seconds"] > 0, "%s", plain)
    equal((other["requests_per_second"], other["p99_seconds"]), (0, None))
    check(found["connections"] >= 1 and found["resident_bytes"] > 1 << 20 and found["version"], "%s", found)
    check(0 < sum(found["loops"]["busy"]) <= len(found["loops"]["busy"]) * 1.05, "%s", found["loops"])


@case
def lines_are_plain_in_a_pipe():
    with loaded() as (server, _):
        status, out, err = run("--server", server.url, "--once", "--sort", "name")
    equal((status, err), (0, ""))
    check("\x1b" not in out and "\r" not in out, "%r", out)
    lines = out.splitlines()
    check(lines[0].startswith("penstock ") and server.address in lines[0], "%r", lines[0])
    names = [line.split()[0] for line in lines[lines.index(next(line for line in lines if line.startswith("MODEL"))) + 1:]]
    equal(names, ["other", "plain"], "by name")
    check(re.search(r"^/v2/models/\{model\}/infer +\d\S* +0% +\d\S*us", out, re.M), "%s", out)


@case
def looks_follow_each_other_in_a_pipe():
    with loaded() as (server, _):
        process = subprocess.Popen([BINARY, "top", "--server", server.url, "--json", "--interval", "200ms"], stdout=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL)
        try:
            looks = [json.loads(process.stdout.readline()) for _ in range(4)]
        finally:
            process.terminate()
            process.wait(20)
    check(all(0.15 < look["seconds"] < 2 and look["requests_per_second"] > 0 for look in looks), "%s", looks)


@case
def it_asks_a_unix_socket():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        with loaded(options=["--listen", "unix:" + path]):
            status, out, err = run("--server", "unix:" + path, "--once", "--json")
    equal((status, err), (0, ""))
    check(json.loads(out)["requests_per_second"] > 0, "%s", out)


@case
def where_there_are_rules_it_needs_a_key():
    key = "a-key-of-this-test"
    rules = "keys:\n  - {name: alice, sha256: %s}\nrules:\n  - {who: alice, may: read, groups: metrics}\n"
    with tempfile.TemporaryDirectory() as folder, models(LAYOUT) as layout:
        path = os.path.join(folder, "access.yaml")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(rules % hashlib.sha256(key.encode()).hexdigest())
        with Server(layout, options=["--access", path]) as server:
            status, out, err = run("--server", server.url, "--once")
            equal((status, out), (1, ""))
            check("/metrics" in err and len(err.splitlines()) == 1, "%r", err)
            status, out, err = run("--server", server.url, "--once", "--json", "--key", key, "--interval", "200ms")
            equal(status, 0, err)
            check(json.loads(out)["requests_per_second"] > 0 and key not in out, "%s", out)


@case
def what_is_no_penstock_is_said():
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.words)

        def log_message(self, *_):
            pass

    for words, part in ((b"<html>hello</html>\n", "line 1 of the metrics is '<html>hello</html>'"), (b"up 1\n", "no metric of a penstock's"),
                        (b"", "no metric of a penstock's"), (b"a{x=\"\x1b[2J\n", "\\x1b[2J")):
        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
            other.words = words
            thread = threading.Thread(target=other.handle_request)
            thread.start()
            status, out, err = run("--server", "http://127.0.0.1:%d" % other.server_port, "--once")
            thread.join()
        equal((status, out), (1, ""), err)
        check(part in err and "is 127.0.0.1" in err and "\x1b" not in err, "%r", err)


# --- on a terminal ---------------------------------------------------------------------------------------

class Terminal:
    """penstock top on a pseudo-terminal; `screen` is what it shows."""

    def __init__(self, *arguments, lines=30, columns=100, env=None):
        self.main, side = pty.openpty()
        self.side = side
        self.lines, self.columns = lines, columns
        self.resize(lines, columns, False)
        self.before = termios.tcgetattr(side)
        self.process = subprocess.Popen([BINARY, "top", *map(str, arguments)], stdin=side, stdout=side, stderr=subprocess.PIPE,
                                        env=dict(os.environ, TERM="xterm", **(env or {})), start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.bytes = b""

    def resize(self, lines, columns, tells=True):
        self.lines, self.columns = lines, columns
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds=0.05):
        """What comes in that time."""
        until = time.monotonic() + seconds
        while select.select([self.main], [], [], max(0, until - time.monotonic()))[0]:
            try:
                got = os.read(self.main, 65536)
            except OSError:
                return
            if not got:
                return
            self.bytes += got

    @property
    def frames(self):
        """What each frame drew, without colours."""
        text = self.bytes.decode(errors="replace")
        return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in text.split("\x1b[H")[1:]]

    def wait(self, wanted, seconds=20, since=None):
        """Until a frame (drawn from now on) has that in it; returns the frame."""
        drawn = len(self.frames) if since is None else since
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.read()
            for frame in self.frames[drawn:]:
                if re.search(wanted, frame):
                    return frame
            check(self.process.poll() is None, "it ended with %s", self.process.returncode)
        check(False, "no %r within %g s; the last frame:\n%s", wanted, seconds, (self.frames or [self.bytes])[-1])

    def key(self, keys):
        since = len(self.frames)
        os.write(self.main, keys)
        return since

    def end(self, seconds=20):
        until = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until:
            self.read()                         # what it draws meanwhile must go somewhere
        self.process.wait(0.1)
        self.read(0.2)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()
        os.close(self.main)
        os.close(self.side)


@case
def a_terminal_shows_it_live_and_q_ends_it():
    with loaded() as (server, _), Terminal("--server", server.url, "--interval", "200ms") as terminal:
        terminal.wait(r"plain +\d\S* +0%", since=0)
        check(b"\x1b[?1049h" in terminal.bytes and b"\x1b[?25l" in terminal.bytes, "no screen of its own")
        count = len(terminal.frames)
        terminal.wait(r"requests +\d")
        check(len(terminal.frames) > count, "it goes on")
        check("\x1b[1m" in terminal.bytes.decode(), "colours on a terminal")
        terminal.key(b"q")
        equal(terminal.end(), 0)
        check(terminal.bytes.rstrip().endswith(b"\x1b[?25h\x1b[?1049l"), "the screen was not given back: %r", terminal.bytes[-60:])
        equal(termios.tcgetattr(terminal.side)[:4], terminal.before[:4], "settings of the terminal")


@case
def keys_sort_pause_help_and_change_the_interval():
    with loaded() as (server, _), Terminal("--server", server.url, "--interval", "200ms") as terminal:
        terminal.wait(r"by rate", since=0)
        terminal.wait(r"plain +\d", since=0)
        since = terminal.key(b"s")
        terminal.wait(r"by time", since=since)
        terminal.key(b"s")
        since = terminal.key(b"s")
        terminal.wait(r"every 0.2s, by name", since=since)
        since = terminal.key(b"-")
        terminal.wait(r"every 0.5s", since=since)
        since = terminal.key(b"p")
        terminal.wait(r"paused", since=since)
        terminal.read(0.3)
        drawn = len(terminal.frames)
        time.sleep(1.2)
        terminal.read()
        check(len(terminal.frames) <= drawn + 1, "it was drawn %d times while it paused", len(terminal.frames) - drawn)
        since = terminal.key(b"?")
        frame = terminal.wait(r"Ctrl-C +end", since=since)
        check("plain" not in frame, "%s", frame)
        since = terminal.key(b"x")
        terminal.wait(r"paused", since=since)
        since = terminal.key(b"p")
        terminal.wait(r"every 0.5s", since=since)
        since = terminal.key(b"\x1b[A\x1bOq")                 # an arrow, and what else begins with ESC
        terminal.wait(r"requests +\d", since=since + 2)
        terminal.key(b"q")
        equal(terminal.end(), 0)


@case
def frames_follow_the_terminals_size():
    with loaded() as (server, _), Terminal("--server", server.url, "--interval", "200ms", lines=40, columns=120) as terminal:
        terminal.wait(r"other +0", since=0)
        terminal.resize(12, 50)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.wait(r"requests +\d")
        terminal.read(0.5)
        frame = terminal.frames[-2]
        lines = frame.replace("\r", "").split("\n")
        check(len(lines) <= 12 and max(map(len, lines)) <= 50, "%d lines, %d columns", len(lines), max(map(len, lines)))
        check("and" in frame and "more" in frame, "%s", frame)
        terminal.resize(40, 120)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.wait(r"other +0")
        terminal.process.send_signal(signal.SIGINT)
        equal(terminal.end(), 0)
        check(terminal.bytes.rstrip().endswith(b"\x1b[?1049l"), "the screen was not given back")


@case
def no_colour_is_heard():
    with loaded() as (server, _), Terminal("--server", server.url, "--interval", "200ms", env={"NO_COLOR": "1"}) as terminal:
        terminal.wait(r"plain +\d", since=0)
        check(not re.search(rb"\x1b\[\d+m", terminal.bytes), "colours")
        terminal.key(b"q")
        equal(terminal.end(), 0)


@case
def a_server_that_goes_away_and_comes_back():
    with models(LAYOUT) as folder:
        server = Server(folder).start()
        server.wait_ready()
        with Terminal("--server", server.url, "--interval", "200ms") as terminal:
            terminal.wait(r"plain +0", since=0)
            equal(server.stop(), 0)
            terminal.wait(r"nobody listens on|left")
            with Server(folder, listen=server.address) as again:
                again.wait_ready()
                terminal.wait(r"restarted")
                again.post("/models/plain:predict", [1, 2, 3, 4])
                terminal.wait(r"plain +\d")
                terminal.key(b"q")
                equal(terminal.end(), 0)


@case
def nobody_there_is_no_screen():
    with Terminal("--server", "http://127.0.0.1:1") as terminal:
        equal(terminal.end(), 1)
        words = terminal.process.stderr.read().decode()
        check("nobody listens on 127.0.0.1:1" in words, "%r", words)
        equal(termios.tcgetattr(terminal.side)[:4], terminal.before[:4], "settings of the terminal")


@case
def ctrl_z_gives_the_terminal_back_meanwhile():
    with loaded() as (server, _), Terminal("--server", server.url, "--interval", "200ms") as terminal:
        terminal.wait(r"plain +\d", since=0)
        terminal.key(b"\x1a")
        until = time.monotonic() + 10
        while time.monotonic() < until and not os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
            terminal.read()
        terminal.read(0.2)
        check(terminal.bytes.rstrip().endswith(b"\x1b[?1049l"), "%r", terminal.bytes[-80:])
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait(r"plain +\d")
        terminal.key(b"q")
        equal(terminal.end(), 0)


if __name__ == "__main__":
    main()
