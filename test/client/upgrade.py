"""SIGUSR2, SIGTERM, SIGHUP and systemd, as clients see them: no request is lost while a new program takes over.

The load is made by clients that people own: http.client, httpx over both versions, curl, grpcio, h2load, and streams by SSE,
gRPC and WebSocket. A request has failed when its client raises or when the answer is not the right one.
"""
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from harness import BINARY, ROOT, Failed, Server, case, cases, check, equal, main, models, need, need_program

from _ws import Socket
sys.path.append(os.path.join(ROOT, "test", "cli"))

ROUNDS = int(os.environ.get("PENSTOCK_TEST_ROUNDS", "4"))
RATE = int(os.environ.get("PENSTOCK_TEST_RATE", "600"))     # of h2load, requests a second; the others come on top
STREAMS = int(os.environ.get("PENSTOCK_TEST_STREAMS", "60"))
TENSORS = b"""input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }]
"""
ECHO = b'backend: "echo"\n' + TENSORS
SLOW = ECHO + b"""parameters { key: "mode" value { string_value: "delay" } }
parameters { key: "delay_ms" value { string_value: "%d" } }
"""
TOKENS = b"""backend: "echo"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [{ name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }]
output [{ name: "TOKEN" data_type: TYPE_STRING dims: [ 1 ] }]
parameters { key: "mode" value { string_value: "%s" } }
parameters { key: "count" value { string_value: "12" } }
parameters { key: "delay_ms" value { string_value: "100" } }
"""
LAYOUT = {"fast/config.pbtxt": ECHO, "slow/config.pbtxt": SLOW % 700, "tokens/config.pbtxt": TOKENS % b"repeat",
          "chat/config.pbtxt": TOKENS % b"chat"}
BODY = json.dumps({"x": [1, 2, 3, 4]})
STARTED = re.compile(r"started (\S+) as process (\d+);")
FAILED = "the upgrade failed, and this program goes on: "


def wait_for(what, text, seconds=15):
    until = time.monotonic() + seconds
    while not (found := what()):
        check(time.monotonic() < until, "%s did not happen within %d s", text, seconds)
        time.sleep(0.02)
    return found


def is_alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Line:
    """A server and those that come after it: what they print goes into one log."""

    def __init__(self, *folders, options=(), **more):
        self.server = Server(*folders, options=["--drain-timeout", "15s", *options], **more)

    def __enter__(self):
        self.server.start()
        self.pids = [self.server.process.pid]
        return self

    def __exit__(self, kind, error, trace):
        self.pids += [int(pid) for _, pid in STARTED.findall(self.log) if int(pid) not in self.pids]
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kind else signal.SIGTERM)
        with contextlib.suppress(Failed):
            wait_for(lambda: not any(map(is_alive, self.pids[1:])), "the end of them all", 20)
        if self.server.process.poll() is None:
            self.server.process.wait(20)
        for pid in self.pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
                if kind is None:
                    raise Failed("process %d did not end" % pid)

    log = property(lambda self: self.server.log)

    @property
    def newest(self):
        return self.pids[-1]

    def ask(self, method="GET", path="/readyz", body=None):
        return self.server.call(method, path, body)

    def start(self):
        """SIGUSR2; the number of the new process, which need not serve yet."""
        begun = len(STARTED.findall(self.log))
        os.kill(self.newest, signal.SIGUSR2)
        wait_for(lambda: len(STARTED.findall(self.log)) > begun, "the start of a new program")
        return int(STARTED.findall(self.log)[-1][1])

    def upgrade(self):
        served = self.log.count("the new program serves")
        pid = self.start()
        wait_for(lambda: self.log.count("the new program serves") > served, "a new program that serves", 30)
        self.pids.append(pid)
        return pid


# --- clients -----------------------------------------------------------------------------------------

class Load:
    """Clients in threads, until `over`. `failures` has what each met, `done` how many right answers each kind had."""

    def __init__(self, server):
        self.server = server
        self.over = threading.Event()
        self.failures, self.done, self.threads = [], {}, []
        self.lock = threading.Lock()

    def count(self, kind, number=1):
        with self.lock:
            self.done[kind] = self.done.get(kind, 0) + number

    def run(self, kind, client, times=1):
        def loop():
            while not self.over.is_set():
                try:
                    client()
                except Exception as error:          # noqa: whatever a client raises is a failure
                    with self.lock:
                        self.failures.append("%s: %s: %s" % (kind, type(error).__name__, str(error)[:500]))
                    time.sleep(0.05)
        for _ in range(times):
            self.threads.append(threading.Thread(target=loop, daemon=True))
            self.threads[-1].start()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)

    # Each client keeps what it has open from one call to the next.

    def http_client(self, pause=0.004):
        """As requests and many others do it: kept alive until an answer says close."""
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=30)
        for _ in range(200):
            if self.over.is_set():
                break
            connection.request("POST", "/models/fast:predict", BODY)
            answer = connection.getresponse()
            equal((answer.status, json.loads(answer.read())), (200, {"y": [1, 2, 3, 4]}))
            self.count("http.client")
            time.sleep(pause)
        connection.close()

    def slow_http_client(self):
        self.http_client(0.35)

    def httpx_client(self, http2):
        httpx = need("httpx")
        with httpx.Client(http1=not http2, http2=http2, timeout=30) as client:
            for _ in range(100):
                if self.over.is_set():
                    break
                answer = client.post(self.server.url + "/models/fast:predict", content=BODY)
                equal((answer.status_code, answer.json()), (200, {"y": [1, 2, 3, 4]}))
                self.count("httpx")
                time.sleep(0.01)

    def curl(self):
        urls = [self.server.url + "/models/fast:predict"] * 20
        found = subprocess.run(["curl", "-sS", "--fail", "-d", BODY, *urls], capture_output=True, text=True)
        equal(found.returncode, 0, found.stderr)
        equal(found.stdout.count('{"y":[1.0,2.0,3.0,4.0]}'), 20, found.stdout)
        self.count("curl", 20)

    def grpcio(self, pause=0.005):
        from _grpc import channel
        with channel(self.server) as over:
            call = over.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for _ in range(300):
                if self.over.is_set():
                    break
                check(len(call(self.infer("fast"), timeout=30)) > 16, "an answer")
                self.count("grpcio")
                time.sleep(pause)

    @staticmethod
    def infer(model):
        """ModelInferRequest { model_name, inputs { "x" FP32 [4] }, raw_input_contents }"""
        name, data = model.encode(), b"\0\0\x80?" * 4
        shape = b"\n\x01x\x12\x04FP32\x1a\x01\x04"
        return b"\n" + bytes([len(name)]) + name + b"\x2a" + bytes([len(shape)]) + shape + b"\x3a" + bytes([len(data)]) + data

    # -- streams: each of twelve tokens, or ended by rule --

    def events(self):
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=30)
        connection.request("POST", "/v2/models/tokens/generate_stream", json.dumps({"TEXT": "a"}))
        answer = connection.getresponse()
        found = answer.read().count(b"data: ")
        equal((answer.status, found), (200, 12))
        connection.close()
        self.count("SSE")

    def calls(self):
        from _grpc import channel
        with channel(self.server) as over:
            call = over.unary_stream("/penstock.v1.Inference/InferStream")
            # InferRequest { model: "tokens", inputs { name: "TEXT", strings { values: "a" } } }
            message = b"\n\x06tokens" + self.v1_input
            for _ in range(3):
                found = len(list(call(message, timeout=30)))
                check(found in (12, 13), "%d messages", found)
                self.count("gRPC stream")
                if self.over.is_set():
                    break

    v1_input, body = b"", ""

    def sockets(self):
        with Socket(self.server, "/models/chat/stream") as ws:
            ws.send(json.dumps({"inputs": {"TEXT": ["a"]}}))
            ws.socket.settimeout(0.5)
            found = 0
            while not self.over.is_set():
                try:
                    said = ws.recv()
                except socket.timeout:
                    continue
                if isinstance(said, tuple):
                    equal(said[0], 1001, "a Close")
                    ws.close(1001)
                    # all that was read of what was asked is answered before; at the worst nothing was
                    check(found <= 1 or found >= 13, "a Close behind %d messages", found)
                    self.count("WebSocket closed")
                    return
                found += 1

    def h2load(self, *options):
        """Most of the requests. Its connections open no second time, so it runs again and again."""
        command = ["h2load", "--duration", "1", "-t", "1", "-c", "8", "--rps", str(RATE // 16), *options, "-d", self.body,
                   self.server.url + "/models/fast:predict"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        found = found[found.find("finished in"):]
        numbers = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", found)
        check(numbers and not any(map(int, numbers.groups()[1:])), "%s", found)
        check(re.search(r"status codes: \d+ 2xx, 0 3xx, 0 4xx, 0 5xx", found), "%s", found)
        self.count("h2load", int(numbers.group(1)))


def learn_v1(server):
    """An input of penstock.v1.InferRequest as the server's reflection describes it."""
    from _grpc import Reflected, channel
    with channel(server) as over:
        request, _ = Reflected(over).classes("penstock.v1.Inference", "InferStream")
    message = request()
    tensor = message.inputs.add()
    tensor.name = "TEXT"
    tensor.strings.values.append("a")
    return message.SerializeToString()


@case
def no_request_is_lost():
    """Several upgrades under load. PENSTOCK_TEST_ROUNDS, _RATE and _STREAMS make it longer."""
    need_program("curl"), need("grpc"), need("httpx")
    with models(LAYOUT) as folder, Line(folder, options=["--drain-idle", "500ms"]) as line:
        load = Load(line.server)
        Load.v1_input = learn_v1(line.server)
        load.run("http.client", load.http_client, 4)
        load.run("http.client, seldom", load.slow_http_client, 4)
        load.run("httpx h1", lambda: load.httpx_client(False))
        load.run("httpx h2", lambda: load.httpx_client(True))
        load.run("curl", load.curl)
        load.run("grpcio", load.grpcio, 2)
        load.run("SSE", load.events, STREAMS // 2)
        load.run("gRPC stream", load.calls, STREAMS // 4)
        load.run("WebSocket", load.sockets, STREAMS // 4)
        took = []
        with tempfile.NamedTemporaryFile() as body:
            body.write(BODY.encode())
            body.flush()
            load.body = body.name
            if shutil.which("h2load"):
                # Over HTTP/2 it begins requests behind a GOAWAY, which its library refuses to send: they count as errored.
                load.run("h2load", lambda: load.h2load("--h1"), 2)
            for number in range(ROUNDS):
                time.sleep(1)
                begun = time.monotonic()
                line.upgrade()
                took.append(time.monotonic() - begun)
                check(not load.failures, "round %d: %d failed: %s", number + 1, len(load.failures), load.failures[:3])
            time.sleep(2)
        load.stop()
        check(not load.failures, "%d failed: %s", len(load.failures), load.failures[:3])
        for kind in ("http.client", "httpx", "curl", "grpcio", "SSE", "gRPC stream", "WebSocket closed"):
            check(load.done.get(kind, 0) > 0, "%s had no answer: %s", kind, load.done)
        print("   %d upgrades, %.2f s each; %s" % (ROUNDS, sum(took) / len(took), json.dumps(load.done, sort_keys=True)))
        equal(line.ask()[0], 200)


# --- what the new program may be ----------------------------------------------------------------------

def script(text):
    """A program at a path of its own, that is replaced."""
    folder = tempfile.mkdtemp(prefix="penstock-upgrade-")
    path = os.path.join(folder, "penstock")
    with open(path, "w") as file:
        file.write("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
    return path


def goes_on(line, why):
    wait_for(lambda: FAILED in line.log, "the words of a failed upgrade")
    said = line.log.split(FAILED)[1].split("\n")[0]
    check(re.search(why, said), "%r lacks %r", said, why)
    equal(line.ask()[0], 200, "the old one serves")
    equal(line.ask("POST", "/models/fast:predict", BODY)[0], 200)
    equal(line.server.process.poll(), None)


@cases({
    "fails": ("echo broken >&2; exit 7", r"ended with status 7"),
    "crashes": ("kill -SEGV $$", r"was ended by signal 11 \(Segmentation fault\)"),
    "hangs": ("exec sleep 60", r"does not serve in time \(--upgrade-timeout\)"),
    "closes_everything": ("exec 3>&- 4>&- 5>&- 6>&-; exec sleep 60", r"does not talk to this one: is it penstock\?"),
    "says_why": ("exec %s serve /nowhere" % BINARY, r"ended with status 1: cannot open /nowhere"),
    "is_misused": ("exec %s serve --listen" % BINARY, r"ended with status 2"),
})
def a_new_program_that(text, why):
    path = script(text + "\n")
    with models(LAYOUT) as folder, Line(folder, options=["--upgrade-to", path, "--upgrade-timeout", "3s"]) as line:
        pid = line.start()
        goes_on(line, why)
        check(not is_alive(pid), "it is gone")
        # and what was wrong can be put right
        with open(path, "w") as file:
            file.write('#!/bin/sh\nexec %s "$@"\n' % BINARY)
        line.upgrade()
        wait_for(lambda: line.server.process.poll() == 0, "the end of the old one")
        equal(line.ask()[0], 200)
    shutil.rmtree(os.path.dirname(path))


@case
def there_is_no_new_program():
    with models(LAYOUT) as folder, Line(folder, options=["--upgrade-to", "/nowhere/penstock"]) as line:
        os.kill(line.newest, signal.SIGUSR2)
        goes_on(line, r"cannot start /nowhere/penstock: No such file or directory; --upgrade-to names another program")


@case
def a_replaced_program_is_taken():
    """The file is another one by then, as after a package's upgrade: removed and written anew."""
    path = script("")
    os.unlink(path)
    shutil.copy(BINARY, path)
    with models(LAYOUT) as folder, Line(folder, binary=path) as line:
        os.unlink(path)
        with open(path, "w") as file:
            file.write('#!/bin/sh\necho "version two" >&2\nexec %s "$@"\n' % BINARY)
        os.chmod(path, 0o755)
        line.upgrade()
        check("version two" in line.log, "%s", line.log)
        equal(line.ask("POST", "/models/fast:predict", BODY)[0], 200)
    shutil.rmtree(os.path.dirname(path))


@case
def a_model_that_would_be_lost_keeps_the_old_one():
    with models(LAYOUT) as folder, Line(folder) as line:
        config = os.path.join(folder, "fast", "config.pbtxt")
        with open(config, "ab") as file:
            file.write(b"max_batch_siz: 3\n")
        pid = line.start()
        goes_on(line, r"model 'fast' is ready here and not in the new program: .*config\.pbtxt: line")
        check(not is_alive(pid), "the new one is gone")
        shutil.rmtree(os.path.join(folder, "fast"))         # taken away on purpose is something else
        line.upgrade()
        equal(line.ask("POST", "/models/fast:predict", BODY)[0], 404)


@case
def twice_is_once():
    with models(LAYOUT) as folder, Line(folder, options=["--upgrade-to", script('sleep 1; exec %s "$@"\n' % BINARY)]) as line:
        pid = line.start()
        os.kill(line.newest, signal.SIGUSR2)
        wait_for(lambda: "SIGUSR2: process %d is starting already" % pid in line.log, "the words")
        wait_for(lambda: "the new program serves" in line.log, "the upgrade")
        line.pids.append(pid)
        equal(len(STARTED.findall(line.log)), 1)


@case
def sigterm_during_an_upgrade_ends_both():
    with models(LAYOUT) as folder, Line(folder, options=["--upgrade-to", script("exec sleep 30\n")]) as line:
        pid = line.start()
        os.kill(line.newest, signal.SIGTERM)
        equal(line.server.process.wait(15), 0)
        check("process %d, which was to take over, ends too" % pid in line.log, "%s", line.log)
        wait_for(lambda: not is_alive(pid), "the end of the new one")


@case
def sigterm_does_not_wait_for_a_stubborn_new_one():
    """It is not ready at once and drains, while the process that was to take over still has its time to end."""
    path = script("trap '' TERM\n: >$0.deaf\nexec sleep 30\n")
    with models(LAYOUT) as folder, Line(folder, options=["--upgrade-to", path]) as line:
        pid = line.start()
        wait_for(lambda: os.path.exists(path + ".deaf"), "the new program's first step")
        os.kill(line.newest, signal.SIGTERM)
        wait_for(lambda: "stopping: no request is with a model" in line.log, "the drain")
        check(is_alive(pid), "it was waited for")
        equal(line.server.process.wait(15), 0)
        wait_for(lambda: not is_alive(pid), "the end of the new one")


@case
def the_new_one_does_not_outlive_a_killed_old_one():
    path = script('exec %s "$@" --load-threads 1\n' % BINARY)
    with models(LAYOUT) as folder, Line(folder, options=["--upgrade-to", path]) as line:
        with open(path, "w") as file:
            file.write("#!/bin/sh\nexec sleep 30\n")
        pid = line.start()
        os.kill(line.newest, signal.SIGKILL)
        line.server.process.wait(10)
        wait_for(lambda: not is_alive(pid), "the end of the new one")


@case
def a_request_under_way_is_finished_by_the_old_one():
    with models({**LAYOUT, "slow/config.pbtxt": SLOW % 2500}) as folder, Line(folder) as line:
        result = []
        thread = threading.Thread(target=lambda: result.append(line.ask("POST", "/models/slow:predict", BODY)))
        thread.start()
        time.sleep(0.3)
        line.upgrade()
        equal(line.ask()[0], 200, "the new one serves")
        equal(line.server.process.poll(), None, "the old one works")
        thread.join(20)
        equal(result[0][0], 200)
        equal(line.server.process.wait(15), 0)


@case
def whoever_asks_an_old_connection_is_told_that_the_address_is_ready():
    with models(LAYOUT) as folder, Line(folder, options=["--drain-idle", "3s"]) as line:
        kept = http.client.HTTPConnection(line.server.host, line.server.port, timeout=30)
        kept.request("GET", "/readyz")
        kept.getresponse().read()
        line.upgrade()
        time.sleep(1.5)
        kept.request("GET", "/readyz")
        answer = kept.getresponse()
        equal((answer.status, answer.getheader("connection")), (200, "close"))


@case
def unix_sockets_and_chosen_ports_are_handed_over():
    with models(LAYOUT) as folder, tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, "s")
        options = ["--listen", "unix:%s,mode=0660" % path, "--listen", "127.0.0.1:0"]
        with Line(folder, options=options) as line:
            inode = os.stat(path).st_ino
            before = sorted(re.findall(r"listening on (\S+)", line.log))
            line.upgrade()
            equal(line.server.process.wait(15), 0)
            wait_for(lambda: len(re.findall(r"listening on (\S+)", line.log)) == 6, "the lines of the new one")
            equal(sorted(re.findall(r"listening on (\S+)", line.log)[3:]), before, "the same ports")
            equal(os.stat(path).st_ino, inode, "the same file")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                check(client.recv(100).startswith(b"HTTP/1.1 200"), "it answers")
        wait_for(lambda: not os.path.exists(path), "the file to go with the last one", 5)


@case
def an_address_that_is_named_no_more_is_given_up():
    with models(LAYOUT) as folder, tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, "s")
        config = os.path.join(where, "penstock.yaml")
        with open(config, "w") as file:
            file.write("listen: ['127.0.0.1:0', 'unix:%s']\n" % path)
        with Line(folder, options=["--config", config], listen=None) as line:
            with open(config, "w") as file:
                file.write("listen: ['127.0.0.1:0', '127.0.0.1:0']\n")
            line.upgrade()
            wait_for(lambda: len(re.findall(r"listening on (\S+)", line.log)) == 4, "the lines of the new one")
            equal(line.ask()[0], 200)
            check(not os.path.exists(path), "the file is gone")


# --- ending ------------------------------------------------------------------------------------------

@case
def a_delay_serves_everything_but_readiness():
    with models(LAYOUT) as folder:
        server = Server(folder, options=["--drain-delay", "1200ms"]).start()
        kept = http.client.HTTPConnection(server.host, server.port, timeout=30)

        def ask(path, method="GET", body=None):
            kept.request(method, path, body)
            answer = kept.getresponse()
            answer.read()
            return answer.status, answer.getheader("connection")
        equal(ask("/readyz"), (200, None))
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "--drain-delay" in server.log, "the words")
        wait_for(lambda: ask("/readyz")[0] == 503, "not ready", 1)
        equal(ask("/models/fast:predict", "POST", BODY), (200, None), "kept alive as ever")
        equal(server.post("/models/fast:predict", json.loads(BODY))[0], 200, "a new connection")
        check(server.process.poll() is None and time.monotonic() - begun < 1.2, "in time")
        equal(server.process.wait(10), 0)
        check(time.monotonic() - begun > 1.2, "after the delay")


@case
def an_idle_connection_is_answered_once_more():
    with models(LAYOUT) as folder:
        server = Server(folder, options=["--drain-idle", "1500ms"]).start()
        kept = http.client.HTTPConnection(server.host, server.port, timeout=30)
        kept.request("GET", "/healthz")
        kept.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping:" in server.log, "the words")
        time.sleep(0.5)
        kept.request("POST", "/models/fast:predict", BODY)
        answer = kept.getresponse()
        equal((answer.status, answer.getheader("connection")), (200, "close"))
        equal(server.process.wait(10), 0)


@case
def a_peer_that_ignores_goaway_is_not_called_a_request():
    """It has no stream, closes nothing, and holds nothing up."""
    h2 = need("h2.connection")
    with models(LAYOUT) as folder:
        server = Server(folder, options=["--drain-timeout", "20s"]).start()
        with socket.create_connection((server.host, server.port)) as peer:
            conn = h2.H2Connection()
            conn.initiate_connection()
            peer.sendall(conn.data_to_send())
            peer.settimeout(0.3)
            with contextlib.suppress(socket.timeout):
                while True:
                    conn.receive_data(peer.recv(65536))
                    peer.sendall(conn.data_to_send())
            begun = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            equal(server.process.wait(20), 0)
            check(time.monotonic() - begun < 6, "%.1f s", time.monotonic() - begun)
        check("had not ended" not in server.log, "%s", server.log)


@case
def what_is_cut_is_said_as_what_it_is():
    with models({**LAYOUT, "slow/config.pbtxt": SLOW % 20000}) as folder:
        server = Server(folder, options=["--drain-timeout", "700ms", "--drain-idle", "5s"]).start()
        with socket.create_connection((server.host, server.port)), \
                socket.create_connection((server.host, server.port)) as busy:
            busy.sendall(b"POST /models/slow:predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s" %
                         (len(BODY), BODY.encode()))
            time.sleep(0.3)
            equal(server.stop(), 0)
        check("cut after 0.7 s (--drain-timeout): 1 request had not ended, on 1 connection" in server.log, "%s", server.log)
        check("closed after 0.7 s (--drain-timeout): 1 connection without a request" in server.log, "%s", server.log)


# --- systemd ------------------------------------------------------------------------------------------

class Manager:
    """What systemd is to a service: a socket for its words, and sockets that are opened before it."""

    def __init__(self, where):
        self.path = os.path.join(where, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.said = []
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self):
        with contextlib.suppress(OSError):
            while True:
                self.said.append((time.monotonic(), self.socket.recv(4096).decode()))

    def hear(self):
        return [text for _, text in self.said]

    def wait(self, words, seconds=15):
        return wait_for(lambda: any(words in text for text in self.hear()), words, seconds)


@case
def systemd_is_told():
    with models(LAYOUT) as folder, tempfile.TemporaryDirectory() as where:
        manager = Manager(where)
        with Line(folder, env={"NOTIFY_SOCKET": manager.path}) as line:
            manager.wait("READY=1")
            os.kill(line.newest, signal.SIGHUP)
            manager.wait("RELOADING=1")
            text = [text for text in manager.hear() if "RELOADING=1" in text][0]
            usec = int(re.search(r"MONOTONIC_USEC=(\d+)", text).group(1))
            check(abs(usec / 1e6 - time.monotonic()) < 5, "%d", usec)
            wait_for(lambda: sum("READY=1" in text for text in manager.hear()) == 2, "ready again")
            pid = line.upgrade()
            manager.wait("MAINPID=%d" % pid)
            wait_for(lambda: sum("READY=1" in text for text in manager.hear()) == 3, "the new one is ready")
            order = [text for text in manager.hear() if "MAINPID" in text or "READY" in text]
            check("MAINPID" in order[-2] and "READY" in order[-1], "in this order: %r", order)
            os.kill(pid, signal.SIGTERM)
            manager.wait("STOPPING=1")
        manager.socket.close()


@case
def an_abstract_name_is_taken():
    with models(LAYOUT) as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0penstock-test-%d" % os.getpid())
        manager.settimeout(15)
        with Server(folder, env={"NOTIFY_SOCKET": "@penstock-test-%d" % os.getpid()}):
            check(b"READY=1" in manager.recv(4096), "told")


@case
def a_name_that_is_none_is_said():
    with models(LAYOUT) as folder, Server(folder, env={"NOTIFY_SOCKET": "vsock:2:1234"}) as server:
        check("NOTIFY_SOCKET is 'vsock:2:1234', which is no name of a socket" in server.log, "%s", server.log)


@case
def a_loop_that_hangs_stops_the_watchdog():
    from serve import stubborn
    with stubborn(run_ms=2500, inline=1) as (folder, options), tempfile.TemporaryDirectory() as where:
        manager = Manager(where)
        env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "800000"}
        with Server(folder, options=[*options, "--execution", "inline", "--loops", "1"], env=env) as server:
            manager.wait("WATCHDOG=1")
            time.sleep(1.5)
            beats = sum("WATCHDOG=1" in text for text in manager.hear())
            check(beats >= 4, "%d beats in 1.5 s", beats)
            thread = threading.Thread(target=lambda: server.call("POST", "/models/m:predict", '{"x": 1}'))
            thread.start()
            wait_for(lambda: "a loop has not turned for" in server.log, "the words")
            begun = time.monotonic()
            time.sleep(1)
            silent = [text for at, text in manager.said if begun < at < begun + 1]
            check("WATCHDOG=1" not in silent, "it hangs, and says %r", silent)
            check("a loop has not turned for" in server.log, "%s", server.log)
            thread.join(20)
            at = time.monotonic()
            wait_for(lambda: manager.hear() and any(when > at and "WATCHDOG" in text for when, text in manager.said), "a beat")
        manager.socket.close()


LAUNCHER = """
import os, socket, sys
sockets = []
for address in sys.argv[2].split(","):
    if address.startswith("/"):
        s = socket.socket(socket.AF_UNIX); s.bind(address)
    else:
        s = socket.socket(); s.bind(("127.0.0.1", int(address)))
    s.listen(128)
    sockets.append(os.dup2(s.fileno(), 50 + len(sockets)))
for i, fd in enumerate(sockets):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(sockets)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=sys.argv[1])
os.execv(sys.argv[3], sys.argv[3:])
"""


class Activated(Line):
    def __init__(self, names, addresses, *arguments):
        super().__init__(*arguments, listen=None)
        self.server.command = [sys.executable, "-c", LAUNCHER, names, addresses, *self.server.command]
        self.server.command[0] = sys.executable


@case
def sockets_of_systemd_are_served():
    with models(LAYOUT) as folder, tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, "s")
        with Activated("penstock.socket:other", "0," + path, folder) as line:
            equal(len(line.server.urls), 1)
            check("listening on unix:%s\n" % path in line.log, "%s", line.log)
            check(":8000" not in line.log.split("models:")[0], "in place of the default: %s", line.log)
            equal(line.ask()[0], 200)
            line.upgrade()
            equal(line.server.process.wait(15), 0)
            equal(line.ask()[0], 200, "handed on")
            check(os.path.exists(path), "handed on too")
        check(os.path.exists(path), "its file is systemd's")


@case
def what_is_no_socket_is_said():
    command = [sys.executable, "-c", "import os, sys\nos.dup2(0, 3)\nos.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
               "os.execv(sys.argv[1], sys.argv[1:])", BINARY, "serve", ROOT]
    found = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
    equal((found.returncode, found.stdout), (1, ""))
    check("descriptor 3, which was handed over as '@', is no listening socket" in found.stderr, "%s", found.stderr)


# --- SIGHUP -------------------------------------------------------------------------------------------

@case
def sighup_while_models_load_is_kept():
    from serve import stubborn
    with stubborn(open_ms=1500) as (folder, options):
        server = Server(folder, options=options, listen="127.0.0.1:0")
        process = subprocess.Popen(server.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(0.5)
        process.send_signal(signal.SIGHUP)
        time.sleep(2)
        equal(process.poll(), None, "it lives")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)[0]
        equal(process.returncode, 0)
        check("SIGHUP: reading again" in said, "%s", said)


@case
def descriptors_are_kept_back():
    """As many as the system gives are taken; strangers who take all connections stop neither a reload nor an upgrade."""
    with models({"fast/config.pbtxt": ECHO}) as folder, tempfile.TemporaryDirectory() as where, contextlib.ExitStack() as strangers:
        log = os.path.join(where, "access.log")
        line = Line(folder, options=["--access-log", log, "--loops", "2", "--header-timeout", "60s"])
        line.server.command = [need_program("prlimit"), "--nofile=64:200", *line.server.command]
        with line:
            wait_for(lambda: "connections are taken at most, not 10000 (--connections-max): there are 200 descriptors" in line.log, "a warning")
            with open("/proc/%d/limits" % line.newest) as file:
                equal(re.search(r"Max open files +(\d+) +(\d+)", file.read()).groups(), ("200", "200"))
            for _ in range(300):
                one = strangers.enter_context(socket.create_connection((line.server.host, line.server.port), 30))
                with contextlib.suppress(OSError):      # some are closed already
                    one.sendall(b"GET /")
            os.rename(log, log + ".1")
            os.kill(line.newest, signal.SIGHUP)
            wait_for(lambda: os.path.exists(log), "a new log")
            line.upgrade()
            strangers.close()
            wait_for(lambda: line.ask()[0] == 200, "an answer")


if __name__ == "__main__":
    main()
