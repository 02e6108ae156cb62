#!/usr/bin/env python3
"""soak.py - what script/soak runs: every transport at once, with leavers, slow readers, mistakes, reloads and upgrades, while the
server's memory, descriptors and threads are sampled; then a judgement whether they are flat.

    warm up, rest, load with reloads (SIGHUP), rest, load with upgrades (SIGUSR2), rest

Judged: the slope of each sample over the load (Theil and Sen's: the median of the slopes between all pairs, which a burst does
not move), each rest against the one before, and that nothing failed but what was meant to. A rest is without connections,
long enough that memory kept for the next message has been given back.
"""
import argparse
import asyncio
import collections
import contextlib
import ctypes
import json
import os
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SAMPLE_SECONDS, REST_SECONDS = 0.25, 7.0
# What is called flat. Memory may breathe: pages of the allocator and of the kernel's accounting come and go by the hundred KiB.
MEMORY_BYTES, MEMORY_SHARE = 1.5 * 1048576, 0.02
DESCRIPTORS, THREADS = 3.0, 0.5
REST_MEMORY_BYTES = 3.0 * 1048576
MIB = 1048576.0


# --- judging: pure functions, tested by tools/soak_test.py -------------------------------------------------

def slope(samples):
    """Change a second of [(time, value)], by Theil and Sen; thinned, so that an hour's samples take no minute."""
    step = max(1, len(samples) // 400)
    thin = samples[::step]
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(thin) for b in thin[i + 1:] if b[0] > a[0])
    return slopes[len(slopes) // 2] if slopes else 0.0


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0


def judge_slope(name, samples, most):
    """A row of the report: how much it grew over the time, by its slope, and whether that is more than `most`."""
    seconds = samples[-1][0] - samples[0][0] if len(samples) > 1 else 0.0
    rate = slope(samples)
    growth = rate * seconds
    return {"what": name, "median": median([value for _, value in samples]), "growth": growth, "an_hour": rate * 3600, "most": most,
            "seconds": seconds, "samples": len(samples), "ok": len(samples) >= 20 and growth <= most}


def judge_rest(name, before, after, most):
    return {"what": name, "before": before, "after": after, "growth": after - before, "most": most, "ok": after - before <= most}


def judge(load, rests):
    """`load`: samples of the loaded window {kind: [(time, value)]}; `rests`: [{kind: value}] in their order."""
    rows = [judge_slope("memory under load", load["memory"], MEMORY_BYTES + MEMORY_SHARE * median([v for _, v in load["memory"]])),
            judge_slope("descriptors under load", load["descriptors"], DESCRIPTORS),
            judge_slope("threads under load", load["threads"], THREADS)]
    for number, (a, b) in enumerate(zip(rests, rests[1:])):
        where = ("after the load", "after the upgrades")[number] if number < 2 else "later"
        rows.append(judge_rest("memory at rest, " + where, a["memory"], b["memory"], REST_MEMORY_BYTES))
        rows.append(judge_rest("descriptors at rest, " + where, a["descriptors"], b["descriptors"], 0))
        rows.append(judge_rest("threads at rest, " + where, a["threads"], b["threads"], 0))
    return rows


# --- the server ----------------------------------------------------------------------------------------

def sample(pid):
    with open("/proc/%d/statm" % pid) as file:
        memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {"memory": memory, "descriptors": len(os.listdir("/proc/%d/fd" % pid)), "threads": len(os.listdir("/proc/%d/task" % pid))}


ECHO = """backend: "echo"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }]
"""
ENDLESS = ECHO + """model_transaction_policy { decoupled: true }
parameters { key: "mode" value { string_value: "repeat" } }
parameters { key: "count" value { string_value: "100000000" } }
parameters { key: "delay_ms" value { string_value: "1" } }
"""


class Server:
    """penstock on one port for plain and TLS; knows which process it is after upgrades."""
    def __init__(self, binary, folder, options):
        self.folder, self.log = folder, open(os.path.join(folder, "log"), "w+b")
        for name, config in (("echo", ECHO), ("endless", ENDLESS)):
            os.makedirs(os.path.join(folder, "models", name, "1"))
            with open(os.path.join(folder, "models", name, "config.pbtxt"), "w") as file:
                file.write(config)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [binary, "serve", os.path.join(ROOT, "examples", "models"), os.path.join(ROOT, "examples", "streams", "models"),
                        os.path.join(folder, "models"), "--listen", "127.0.0.1:%d" % self.port, "--tls", "auto", "--tls-dir", os.path.join(folder, "tls"),
                        "--tls-plain", "serve", "--access-log", os.path.join(folder, "access.log"), "--upgrade-timeout", "60s", "--drain-timeout", "5s",
                        "--upload-time", "1s", *options]
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)     # PR_SET_CHILD_SUBREAPER: who takes over stays our child
        # as systemd, we are told who takes over: MAINPID=
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind("\0penstock-soak-%d" % os.getpid())
        self.manager.setblocking(False)
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env=dict(os.environ, NOTIFY_SOCKET="@penstock-soak-%d" % os.getpid()))
        self.pid = self.process.pid
        self.upgrades = 0

    def said(self):
        with open(os.path.join(self.folder, "log"), errors="replace") as file:
            return file.read()

    async def ready(self):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit("soak: the server ended: %s" % self.said()[-2000:])
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
                if b" 200 " in answer.split(b"\r\n")[0]:
                    return
            await asyncio.sleep(0.1)
        raise SystemExit("soak: it did not become ready: %s" % self.said()[-2000:])

    def reload(self):
        os.kill(self.pid, signal.SIGHUP)

    async def upgrade(self):
        """SIGUSR2; returns once the old process has gone and the new one is known."""
        old, new = self.pid, None
        os.kill(old, signal.SIGUSR2)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                while True:
                    match = re.search(r"^MAINPID=(\d+)$", self.manager.recv(4096).decode(), re.M)
                    new = int(match.group(1)) if match else new
            with contextlib.suppress(ChildProcessError):
                done, status = os.waitpid(old, os.WNOHANG)
                if done == old:
                    if new is None or status != 0:
                        raise SystemExit("soak: the upgrade left no process, or the old one ended with %d: %s" % (status, self.said()[-2000:]))
                    self.pid = new
                    self.upgrades += 1
                    return
            await asyncio.sleep(0.02)
        raise SystemExit("soak: the old process is still there 60 s after SIGUSR2: %s" % self.said()[-2000:])

    def stop(self):
        """SIGTERM; the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        return -9

    def kill(self):
        self.manager.close()
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


# --- the load ------------------------------------------------------------------------------------------

IRIS = json.dumps({"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}).encode()
JSON = {"content-type": "application/json"}
NUMBERS = 65536             # of the large body, both ways


class Load:
    """Callers of each kind. Each counts what went well; what failed unexpectedly is kept, with its words."""
    def __init__(self, server, leak):
        self.server, self.leak = server, leak
        self.counts, self.failures = collections.Counter(), collections.Counter()
        self.url, self.tls_url = "http://127.0.0.1:%d" % server.port, "https://localhost:%d" % server.port
        self.kept, self.random = [], random.Random(1)
        self.stopping = asyncio.Event()
        self.upgrading = False      # streams end by rule then: docs/streams.md
        self.tasks = []

    def start(self):
        self.stopping.clear()
        kinds = [(self.rest, 3), (self.rest_anew, 1), (self.rest_tls, 1), (self.rest_tls_anew, 1), (self.rest_http2, 1), (self.large, 1), (self.grpc_unary, 2),
                 (self.grpc_stream, 1), (self.grpc_leaver, 1), (self.grpc_web, 1), (self.sse, 2), (self.ndjson, 1), (self.websocket, 2), (self.upload, 1),
                 (self.events, 1), (self.mistakes, 1), (self.leaver, 2), (self.half_request, 1), (self.slow_reader, 3), (self.scrape, 1)]
        if self.leak:
            kinds.append((self.keeper, 1))
        self.tasks = [asyncio.ensure_future(self.forever(kind)) for kind, count in kinds for _ in range(count)]

    async def stop(self):
        self.stopping.set()
        done, late = await asyncio.wait(self.tasks, timeout=20)
        for task in late:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def forever(self, kind):
        """Runs one caller again and again; each is given a `once` for as long as it keeps its connection."""
        while not self.stopping.is_set():
            try:
                await asyncio.wait_for(kind(), 60)
            except asyncio.CancelledError:
                raise
            except Exception as error:      # of any client's kind
                if not self.stopping.is_set():
                    self.failures["%s: %s: %s" % (kind.__name__, type(error).__name__, str(error)[:160].replace("\n", " "))] += 1
                    await asyncio.sleep(0.2)

    def good(self, kind, condition, what=""):
        if not condition:
            raise RuntimeError("not the answer: %s" % (str(what)[:120],))
        self.counts[kind] += 1

    async def calls(self, kind, post, times=200):
        for _ in range(times):
            if self.stopping.is_set():
                return
            status, body = await post()
            self.good(kind, status == 200 and b"setosa" in body, body)
            await asyncio.sleep(0.002)

    def session(self, **others):
        import aiohttp
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), **others)

    async def rest(self):
        async with self.session() as session:
            async def post():
                async with session.post(self.url + "/models/iris:predict", data=IRIS, headers=JSON) as reply:
                    return reply.status, await reply.read()
            await self.calls("rest", post)

    async def rest_anew(self):
        import aiohttp
        async with self.session(connector=aiohttp.TCPConnector(force_close=True)) as session:
            async def post():
                async with session.post(self.url + "/models/iris:predict", data=IRIS, headers=JSON) as reply:
                    return reply.status, await reply.read()
            await self.calls("rest, a connection each", post, 20)

    def trusted(self):
        folder = os.path.join(self.server.folder, "tls")
        context = ssl.create_default_context()
        for name in os.listdir(folder):
            with contextlib.suppress(ssl.SSLError, OSError):
                context.load_verify_locations(os.path.join(folder, name))
        return context

    async def over_tls(self, kind, times, anew):
        import aiohttp
        async with self.session(connector=aiohttp.TCPConnector(ssl=self.trusted(), force_close=anew)) as session:
            async def post():
                async with session.post(self.tls_url + "/models/iris:predict", data=IRIS, headers=JSON) as reply:
                    return reply.status, await reply.read()
            await self.calls(kind, post, times)

    async def rest_tls(self):
        await self.over_tls("rest over TLS", 100, False)

    async def rest_tls_anew(self):
        await self.over_tls("rest over TLS, a handshake each", 10, True)

    async def rest_http2(self):
        import httpx
        async with httpx.AsyncClient(http1=False, http2=True, timeout=30) as client:
            async def post():
                try:
                    reply = await client.post(self.url + "/models/iris:predict", content=IRIS, headers=JSON)
                except (httpx.LocalProtocolError, httpx.RemoteProtocolError) as error:
                    # h2, which httpx stands on, takes no answer any more once it was told GOAWAY, though the server sends it
                    if not self.upgrading or not re.search("ConnectionTerminated error_code:0|ConnectionState.CLOSED", str(error)):
                        raise
                    self.counts["streams ended by an upgrade"] += 1
                    await asyncio.sleep(0.1)
                    reply = await client.post(self.url + "/models/iris:predict", content=IRIS, headers=JSON)
                return reply.status_code, reply.content
            await self.calls("rest over HTTP/2", post, 50)

    async def large(self):
        body = os.urandom(4 * NUMBERS)
        head = json.dumps({"inputs": [{"name": "IN", "datatype": "FP32", "shape": [NUMBERS], "parameters": {"binary_data_size": len(body)}}],
                           "outputs": [{"name": "OUT", "parameters": {"binary_data": True}}]}).encode()
        async with self.session() as session:
            for _ in range(10):
                async with session.post(self.url + "/v2/models/echo/infer", data=head + body, headers={"inference-header-content-length": str(len(head))}) as reply:
                    self.good("large bodies", reply.status == 200 and (await reply.read()).endswith(body), reply.status)
                await asyncio.sleep(0.05)

    # gRPC by bytes: the messages are made once
    def infer_message(self, model, name="input", shape=(1, 4), values=(5.1, 3.5, 1.4, 0.2)):
        from tritonclient.grpc import service_pb2
        request = service_pb2.ModelInferRequest(model_name=model)
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, "FP32"
        tensor.shape.extend(shape)
        request.raw_input_contents.append(struct.pack("<%df" % len(values), *values))
        return request.SerializeToString()

    async def grpc_unary(self):
        import grpc
        message = self.infer_message("iris")
        async with grpc.aio.insecure_channel("127.0.0.1:%d" % self.server.port) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for _ in range(200):
                if self.stopping.is_set():
                    return
                self.good("gRPC", b"iris" in await call(message, timeout=20))
                await asyncio.sleep(0.002)

    async def grpc_stream(self):
        import grpc
        message = self.infer_message("echo", "IN", (3,), (1, 2, 3))
        async with grpc.aio.insecure_channel("127.0.0.1:%d" % self.server.port) as channel:
            for _ in range(5):
                call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=20)
                try:
                    for _ in range(20):
                        await call.write(message)
                        self.good("gRPC, a stream", b"echo" in await call.read())
                    await call.done_writing()
                    self.good("gRPC, a stream", await call.read() is grpc.aio.EOF)
                except Exception as error:
                    # a write to what has ended is an error of grpc's own core, which does not say the status that came
                    is_theirs = "execute_batch" in str(error)
                    if not self.upgrading or not (is_theirs or await call.code() == grpc.StatusCode.UNAVAILABLE):
                        raise
                    self.counts["streams ended by an upgrade"] += 1

    async def grpc_leaver(self):
        """Cancels a call that would never end: RST_STREAM."""
        import grpc
        message = self.infer_message("endless", "IN", (1,), (1,))
        async with grpc.aio.insecure_channel("127.0.0.1:%d" % self.server.port) as channel:
            for _ in range(10):
                call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=20)
                try:
                    await call.write(message)
                    for _ in range(3):
                        self.good("gRPC, left", b"endless" in await call.read())
                except grpc.aio.AioRpcError as error:
                    if not self.upgrading or not ("execute_batch" in str(error) or error.code() == grpc.StatusCode.UNAVAILABLE):
                        raise
                    self.counts["streams ended by an upgrade"] += 1
                call.cancel()
                await asyncio.sleep(0.05)

    async def grpc_web(self):
        message = self.infer_message("iris")
        async with self.session() as session:
            for _ in range(50):
                async with session.post(self.url + "/inference.GRPCInferenceService/ModelInfer", data=struct.pack(">BI", 0, len(message)) + message,
                                        headers={"content-type": "application/grpc-web+proto"}) as reply:
                    body = await reply.read()
                    self.good("gRPC-Web", reply.status == 200 and b"grpc-status: 0" in body.lower().replace(b"status:0", b"status: 0"), body)
                await asyncio.sleep(0.01)

    async def lines(self, kind, accept):
        async with self.session() as session:
            for _ in range(10):
                async with session.post(self.url + "/models/repeat:predict", json={"text": "one two three four five"}, headers={"accept": accept}) as reply:
                    body = await reply.read()
                    self.good(kind, reply.status == 200 and len(body) > 20, body)
                await asyncio.sleep(0.01)

    async def sse(self):
        await self.lines("server-sent events", "text/event-stream")

    async def ndjson(self):
        await self.lines("NDJSON", "application/x-ndjson")

    async def websocket(self):
        import websockets
        async with websockets.connect("ws://127.0.0.1:%d/models/iris/stream" % self.server.port, compression=self.random.choice([None, "deflate"])) as ws:
            begun = False
            try:
                for _ in range(20):
                    await ws.send('{"inputs": {"input": [5.1, 3.5, 1.4, 0.2]}}')
                    while True:
                        said = json.loads(await asyncio.wait_for(ws.recv(), 20))
                        begun = begun or "begun" in said
                        if "output" in said:
                            break
                    self.good("WebSocket", begun, said)
                    await asyncio.sleep(0.01)
            except websockets.ConnectionClosed as error:
                if not self.upgrading or error.rcvd is None or error.rcvd.code != 1001:
                    raise
                self.counts["streams ended by an upgrade"] += 1

    async def upload(self):
        data = os.urandom(1 << 20)
        async with self.session() as session:
            async with session.post(self.url + "/models/bytes:upload", data=data) as reply:
                self.good("uploads", reply.status == 200, await reply.read())
        await asyncio.sleep(0.1)

    async def events(self):
        async with self.session() as session:
            async with session.get(self.url + "/events", headers={"accept": "text/event-stream"}) as reply:
                self.good("/events", reply.status == 200 and await reply.content.readline())
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), 1)

    async def mistakes(self):
        wrong = [("/models/iris:predict", b"{", 400), ("/models/none:predict", IRIS, 404), ("/v2/models/iris/infer", b'{"inputs": []}', 400),
                 ("/models/iris:predict", b'{"sepal_length": "long"}', 400), ("/nowhere", b"", 404), ("/models/bytes:upload?outputs=none", b"x", 400)]
        async with self.session() as session:
            for path, body, status in wrong:
                async with session.post(self.url + path, data=body, headers=JSON) as reply:
                    self.good("mistakes", reply.status == status, "%d for %s: %s" % (reply.status, path, await reply.read()))
                await asyncio.sleep(0.02)

    async def raw(self, request):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=1 << 16)
        writer.write(request)
        await writer.drain()
        return reader, writer

    ENDLESS = (b"POST /v2/models/endless/infer HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\ncontent-type: application/json\r\n"
               b"content-length: %d\r\n\r\n%s")
    ENDLESS_BODY = b'{"inputs": [{"name": "IN", "shape": [1], "datatype": "FP32", "data": [1]}]}'

    async def leaver(self):
        """Reads a little of a stream that never ends, then is gone, with a reset half of the times."""
        reader, writer = await self.raw(self.ENDLESS % (len(self.ENDLESS_BODY), self.ENDLESS_BODY))
        self.good("left", b" 200 " in await reader.read(200))
        await asyncio.sleep(self.random.random() * 0.05)
        if self.random.random() < 0.5:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def half_request(self):
        """Leaves in the middle of a head, or of a body."""
        whole = b"POST /models/iris:predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n" + IRIS[:50]
        _, writer = await self.raw(whole[:self.random.randrange(1, len(whole))])
        await asyncio.sleep(0.02)
        writer.transport.abort()
        self.good("half a request", True)

    async def slow_reader(self):
        """Takes 512 bytes each 50 ms of a stream that makes more, for two seconds."""
        reader, writer = await self.raw(self.ENDLESS % (len(self.ENDLESS_BODY), self.ENDLESS_BODY))
        for _ in range(40):
            if self.stopping.is_set():
                break
            if not await reader.read(512):
                break
            await asyncio.sleep(0.05)
        writer.transport.abort()
        self.good("slow readers", True)

    async def scrape(self):
        async with self.session() as session:
            async with session.get(self.url + "/metrics") as reply:
                self.good("/metrics", reply.status == 200 and b"penstock" in await reply.read())
        await asyncio.sleep(0.5)

    async def keeper(self):
        """--leak: opens connections and never lets go of them, so that the judgement has something to find."""
        self.kept.append(await self.raw(b"GET /"))
        await asyncio.sleep(0.1)


# --- the run -------------------------------------------------------------------------------------------

class Sampler:
    def __init__(self, server):
        self.server, self.series, self.task = server, collections.defaultdict(list), None

    async def run(self):
        while True:
            with contextlib.suppress(OSError):
                for kind, value in sample(self.server.pid).items():
                    self.series[kind].append((time.monotonic(), value))
            await asyncio.sleep(SAMPLE_SECONDS)

    def between(self, start, end):
        return {kind: [(t, v) for t, v in rows if start <= t <= end] for kind, rows in self.series.items()}


async def rest(server):
    """What is held when nobody is connected: the least of the last samples, as clocks of ours and theirs differ."""
    await asyncio.sleep(REST_SECONDS - 1)
    found = []
    for _ in range(4):
        await asyncio.sleep(0.25)
        found.append(sample(server.pid))
    if min(one["memory"] for one in found) == 0:
        raise SystemExit("soak: process %d is no server any more: %s" % (server.pid, server.said()[-2000:]))
    return {kind: min(one[kind] for one in found) for kind in found[0]}


async def soak(options, folder):
    server = Server(options.binary, folder, options.server_option)
    sampler = Sampler(server)
    try:
        await server.ready()
        load = Load(server, options.leak)
        sampler.task = asyncio.ensure_future(sampler.run())
        upgrades = options.upgrades
        rests_count = 3 if upgrades else 2
        total = options.minutes * 60
        loaded = max(6.0, total - rests_count * (REST_SECONDS + 0.5))
        warm, measured = 0.25 * loaded, 0.75 * loaded * (0.7 if upgrades else 1)
        say("%.0f s of load to warm up, %.0f s judged, %d upgrades" % (warm, measured, upgrades))
        load.start()
        await asyncio.sleep(warm)
        await load.stop()
        rests = [await rest(server)]

        load.start()
        start = time.monotonic()
        # connections come up in the first moments: that is no growth
        settle = min(3.0, 0.2 * measured)
        reloads = 0
        while time.monotonic() < start + measured:
            await asyncio.sleep(min(3.0, measured / 4))
            server.reload()
            reloads += 1
        end = time.monotonic()
        await load.stop()
        rests.append(await rest(server))

        if upgrades:
            load.upgrading = True
            load.start()
            pause = max(1.0, 0.75 * loaded * 0.3 / (upgrades + 1))
            for _ in range(upgrades):
                await asyncio.sleep(pause)
                await server.upgrade()
            await asyncio.sleep(pause)
            await load.stop()
            rests.append(await rest(server))
        sampler.task.cancel()
        rows = judge(sampler.between(start + settle, end), rests)
        status = server.stop()
        rows.append({"what": "exit status at SIGTERM", "after": status, "most": 0, "ok": status == 0})
        failed = sum(load.failures.values())
        rows.append({"what": "calls that failed", "after": failed, "most": 0, "ok": failed == 0})
        silent = sorted(set(KINDS) - set(load.counts))
        rows.append({"what": "kinds of callers without an answer", "after": len(silent), "most": 0, "ok": not silent})
        return {"ok": all(row["ok"] for row in rows), "seconds": time.monotonic() - start + warm, "reloads": reloads, "upgrades": server.upgrades, "checks": rows,
                "calls": dict(sorted(load.counts.items())), "failures": dict(load.failures.most_common(20)), "silent": silent,
                "series": {kind: [[round(t - start, 2), v] for t, v in values] for kind, values in sampler.series.items()}}
    finally:
        server.kill()


KINDS = ("rest", "rest, a connection each", "rest over TLS", "rest over TLS, a handshake each", "rest over HTTP/2", "large bodies", "gRPC", "gRPC, a stream",
         "gRPC, left", "gRPC-Web", "server-sent events", "NDJSON", "WebSocket", "uploads", "/events", "mistakes", "left", "half a request", "slow readers", "/metrics")


def say(text):
    print("soak: " + text, file=sys.stderr, flush=True)


def shown(what, value):
    return "%.2f MiB" % (value / MIB) if "memory" in what else "%g" % round(value, 2)


def table(report):
    lines = ["| what | median, or before | growth, or after | an hour | at most | |", "|---|---|---|---|---|---|"]
    for row in report["checks"]:
        what = row["what"]
        cells = [shown(what, row.get("median", row.get("before", 0))) if "median" in row or "before" in row else "",
                 shown(what, row["growth"] if "growth" in row else row["after"]), shown(what, row["an_hour"]) if "an_hour" in row else "",
                 shown(what, row["most"]), "flat" if row["ok"] and "growth" in row else "ok" if row["ok"] else "NOT FLAT" if "growth" in row else "FAILED"]
        lines.append("| %s | %s |" % (what, " | ".join(cells)))
    lines += ["", "%d calls in %.0f s, %d reloads, %d upgrades: %s" % (sum(report["calls"].values()), report["seconds"], report["reloads"], report["upgrades"],
                                                                     ", ".join("%s %d" % pair for pair in report["calls"].items()))]
    lines += ["failed %d times: %s" % (count, words) for words, count in report["failures"].items()]
    lines += ["without an answer: " + ", ".join(report["silent"])] if report["silent"] else []
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="script/soak", description="Mixed load over every transport; judges whether memory, descriptors and threads stay flat.")
    parser.add_argument("--minutes", type=float, default=5, help="how long in all (default 5; 0.9 is the least that means something)")
    parser.add_argument("--upgrades", type=int, help="upgrades by SIGUSR2 at the end (default: one, and one for each two minutes)")
    parser.add_argument("--json", metavar="FILE", help="write the report, with every sample, there")
    parser.add_argument("--binary", default=os.environ.get("PENSTOCK_BINARY", os.path.join(ROOT, "build", "penstock")))
    parser.add_argument("--server-option", action="append", default=[], metavar="OPTION", help="one more option of penstock serve (--server-option=--loops=1)")
    parser.add_argument("--leak", action="store_true", help="let the load leak connections: the judgement must find it")
    options = parser.parse_args()
    if options.upgrades is None:
        options.upgrades = 1 + int(options.minutes // 2)
    with tempfile.TemporaryDirectory(prefix="penstock-soak-") as folder:
        report = asyncio.run(soak(options, folder))
        if not report["ok"]:
            with open(os.path.join(folder, "log"), errors="replace") as file:
                report["log"] = re.sub(r"\n+", "\n", file.read())[-4000:]
    print(table(report))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
