"""A connection that says exactly what a test tells it to, and models to say it to.

`Wire(server)` is one TCP connection; `send` writes bytes as they are, `reply` reads one answer, `closed` waits for the end. A
connection that hangs is a failed case, not a hung test: every wait has an end.
"""
import json
import os
import re
import socket
import time

from harness import ROOT, Failed, Server, check, equal, models, skip

EXAMPLES = os.path.join(ROOT, "examples", "models")
IRIS = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}
IRIS_BODY = json.dumps(IRIS).encode()
INFER = "/v2/models/iris/infer"


class Reply:
    def __init__(self, status, reason, headers, body, version):
        self.status, self.reason, self.headers, self.body, self.version = status, reason, headers, body, version

    def header(self, name):
        """The value, or None; said twice is a failure."""
        found = [value for key, value in self.headers if key == name]
        check(len(found) <= 1, "header %s came %d times", name, len(found))
        return found[0] if found else None

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return "%d %s %r" % (self.status, dict(self.headers), self.body[:300])


class Wire:
    def __init__(self, server, seconds=15):
        self.socket = socket.create_connection((server.host, server.port), seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seconds = seconds
        self.data = b""
        self.host = server.address

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.socket.close()

    def send(self, data):
        """Writes all of it; a peer that has closed meanwhile is for `reply` and `closed` to find."""
        if isinstance(data, str):
            data = data.encode("latin-1")
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def request(self, method, path, body=None, headers=(), host=None):
        """Writes one well-formed request."""
        self.send(head(method, path, body, headers, host or self.host) + (body or b""))

    def more(self):
        """One read; False at the end of the connection."""
        try:
            piece = self.socket.recv(1 << 16)
        except socket.timeout:
            raise Failed("nothing came within %g s; so far %r" % (self.seconds, self.data[-200:])) from None
        except ConnectionResetError:
            return False
        self.data += piece
        return bool(piece)

    def reply(self, is_head=False):
        """The next answer, checked for form."""
        while b"\r\n\r\n" not in self.data:
            check(self.more(), "the connection ended within a head: %r", self.data[-200:])
        text, self.data = self.data.split(b"\r\n\r\n", 1)
        lines = text.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"(HTTP/1\.[01]) (\d\d\d) (.*)", lines[0])
        check(match is not None, "not a status line: %r", lines[0])
        version, status, reason = match.group(1), int(match.group(2)), match.group(3)
        headers = []
        for line in lines[1:]:
            match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", line)
            check(match is not None, "not a header: %r", line)
            headers.append((match.group(1).lower(), match.group(2)))
        names = dict(headers)
        body = b""
        if is_head or status in (204, 304) or 100 <= status < 200:
            pass
        elif names.get("transfer-encoding") == "chunked":
            body = self._chunked()
        elif "content-length" in names:
            size = int(names["content-length"])
            while len(self.data) < size:
                check(self.more(), "the connection ended within a body: %d of %d bytes", len(self.data), size)
            body, self.data = self.data[:size], self.data[size:]
        else:
            while self.more():
                pass
            body, self.data = self.data, b""
        return Reply(status, reason, headers, body, version)

    def _chunked(self):
        body = b""
        while True:
            while b"\r\n" not in self.data:
                check(self.more(), "the connection ended within a chunk")
            line, self.data = self.data.split(b"\r\n", 1)
            size = int(line, 16)
            while len(self.data) < size + 2:
                check(self.more(), "the connection ended within a chunk")
            body += self.data[:size]
            equal(self.data[size:size + 2], b"\r\n", "end of a chunk")
            self.data = self.data[size + 2:]
            if size == 0:
                return body

    def closed(self, text="the connection"):
        """The peer closes, and says nothing before it."""
        while self.more():
            pass
        equal(self.data, b"", "%s should have ended without another word" % text)

    def is_open(self, seconds=0.15):
        """Nothing comes and nothing ends for a while."""
        self.socket.settimeout(seconds)
        try:
            piece = self.socket.recv(1)
            self.data += piece
            return False
        except socket.timeout:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.socket.settimeout(self.seconds)


def head(method, path, body=None, headers=(), host="127.0.0.1"):
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: " + host]
    if body is not None:
        lines.append("Content-Length: %d" % len(body))
    lines += ["%s: %s" % pair for pair in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def ask(server, method, path, body=None, headers=(), host=None):
    """One request on a connection of its own."""
    with Wire(server) as wire:
        wire.request(method, path, body, headers, host)
        return wire.reply(is_head=method == "HEAD")


def post(server, path, document, headers=()):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return ask(server, "POST", path, body, [("Content-Type", "application/json"), *headers])


def still_serves(server):
    """After whatever was done to it, the server answers rightly."""
    reply = post(server, INFER, IRIS)
    equal(reply.status, 200)
    outputs = {tensor["name"]: tensor for tensor in reply.json()["outputs"]}
    equal(outputs["label"]["data"], [0])


def echo_config(name, dtype="FP32", dims="-1", batch=0, instances=1, extra="", **parameters):
    """config.pbtxt of an echo model: input IN, output OUT."""
    lines = ['name: "%s"' % name, 'backend: "echo"', "max_batch_size: %d" % batch,
             'input [{ name: "IN" data_type: TYPE_%s dims: [ %s ] }]' % (dtype, dims),
             'output [{ name: "OUT" data_type: TYPE_%s dims: [ %s ] }]' % (dtype, dims),
             "instance_group [{ count: %d kind: KIND_CPU }]" % instances, extra]
    lines += ['parameters { key: "%s" value { string_value: "%s" } }' % pair for pair in parameters.items()]
    return "\n".join(lines).encode() + b"\n"


def in_tensor(count=1, value=0.5, dtype="FP32", shape=None):
    return {"inputs": [{"name": "IN", "shape": shape or [count], "datatype": dtype, "data": [value] * count}]}


def serving(more=None, options=(), env=None, examples=("iris",)):
    """A server of these examples and of what `more` names: {"slow/config.pbtxt": ...}. For a `with`."""
    return _Serving(more or {}, options, env, examples)


class _Serving:
    def __init__(self, more, options, env, examples):
        layout = {name: os.path.join(EXAMPLES, name) for name in examples}
        for name, content in more.items():
            layout[name] = content
            if name.endswith("/config.pbtxt"):
                layout[name.replace("config.pbtxt", "1/.keep")] = b""
        self.models = models(layout)
        self.options, self.env = options, env

    def __enter__(self):
        folder = self.models.__enter__()
        self.server = Server(folder, options=self.options, env=self.env)
        try:
            return self.server.__enter__()
        except BaseException:
            self.models.__exit__(None, None, None)
            raise

    def __exit__(self, kind, error, trace):
        try:
            self.server.__exit__(kind, error, trace)
        finally:
            self.models.__exit__(None, None, None)


METRIC = re.compile(r'^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$')


def metric(server, name, **labels):
    """The sum of the samples of this name with these labels; None when there is none."""
    status, text = server.get("/metrics")
    equal(status, 200, "/metrics")
    found = None
    for line in text.decode().splitlines():
        match = METRIC.match(line)
        if match is None or match.group(1) != name:
            continue
        has = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or ""))
        if all(has.get(key) == value for key, value in labels.items()):
            found = (found or 0) + float(match.group(3))
    return found


def until(condition, text, seconds=10):
    """Waits for a condition, and fails with `text` when it does not come."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed("%s: not within %g s" % (text, seconds))
        time.sleep(0.01)


def resident(server):
    """Bytes in memory; skips the case when a sanitizer keeps what was freed."""
    with open("/proc/%d/maps" % server.process.pid) as file:
        if re.search(r"/lib(asan|tsan)\.so", file.read()):
            skip("memory of a binary with sanitizers says nothing")
    with open("/proc/%d/statm" % server.process.pid) as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
