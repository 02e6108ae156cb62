"""An upgrade under load: SIGUSR2 again and again while 2,000 requests a second and 200 streams run. How many fail?

    script/bench restart [--restarts 100] [--rate 2000] [--streams 200] [--json FILE]

Requests are REST over kept-alive connections, in an open loop; a connection that the server says it will close (`connection:
close`) is opened anew, and anything else that is no right answer has failed: a refused connection, a reset, a connection that
ends where an answer should be. Streams are server-sent events and gRPC (grpcio), each of a known number of tokens: one that
ends otherwise than with all of them has failed. Idle WebSockets are there too: they are to be closed with 1001 and nothing else.
"""
import asyncio
import base64
import collections
import json
import os
import signal
import statistics
import struct
import sys
import time

import _lib
from _lib import IRIS_GEMM, IRIS_V2, LOAD_CPU, Penstock, Row, die, models, post, say
from streams import echo_config

TITLE = "An upgrade under load: SIGUSR2 while requests and streams run"
TOKENS, TOKEN_MS = 12, 150
CONNECTIONS, SOCKETS = 32, 20


def add_options(parser):
    parser.add_argument("--restarts", type=int, help="default 100; 5 with --quick")
    parser.add_argument("--rate", type=int, default=2000, help="requests a second")
    parser.add_argument("--streams", type=int, default=200, help="at the same time")


class Load:
    """All clients, in one event loop."""

    def __init__(self, port, rate, streams):
        self.port, self.rate, self.streams = port, rate, streams
        self.is_over = False
        self.failures = collections.Counter()
        self.answers = self.whole = self.closed = self.opened = 0
        self.slowest = 0.0

    def fail(self, what, error):
        self.failures["%s: %s" % (what, str(error)[:120] or type(error).__name__)] += 1

    # -- requests ---------------------------------------------------------------------------------------

    async def connect(self):
        self.opened += 1
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def requests(self, number):
        request, gap = post("/v2/models/iris_gemm/infer", IRIS_V2), CONNECTIONS / self.rate
        due, connection = time.monotonic() + gap * number / CONNECTIONS, None
        while not self.is_over:
            await asyncio.sleep(max(0, due - time.monotonic()))
            begun = time.monotonic()
            try:
                connection = connection or await self.connect()
                connection[1].write(request)
                head = await connection[0].readuntil(b"\r\n\r\n")
                lower = head.lower()
                size = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
                body = await connection[0].readexactly(size)
                if not head.startswith(b"HTTP/1.1 200") or b'"probabilities"' not in body:
                    raise ValueError((head + body)[:200])
                self.answers += 1
                self.slowest = max(self.slowest, time.monotonic() - begun)
                if b"connection: close" in lower:
                    connection[1].close()
                    connection = None
            except (OSError, ValueError, IndexError, asyncio.IncompleteReadError) as error:
                self.fail("request", error)
                if connection:
                    connection[1].close()
                connection = None
            due = max(due + gap, time.monotonic() - 1)
        if connection:
            connection[1].close()

    # -- streams ----------------------------------------------------------------------------------------

    async def events(self):
        request = post("/v2/models/tokens/generate_stream", {"TEXT": "hello"})
        while not self.is_over:
            try:
                reader, writer = await self.connect()
                writer.write(request)
                data = b""
                while not data.endswith(b"0\r\n\r\n"):
                    piece = await reader.read(65536)
                    if not piece:
                        raise ConnectionError("the connection ended within a stream")
                    data += piece
                found = data.count(b"\ndata: ")
                if not data.startswith(b"HTTP/1.1 200") or found != TOKENS:
                    raise ValueError("%d tokens: %s" % (found, data[-200:]))
                self.whole += 1
                writer.close()
            except (OSError, ValueError) as error:
                self.fail("SSE", error)
                await asyncio.sleep(0.1)

    async def calls(self, grpc, message):
        options = [("grpc.max_receive_message_length", -1)]
        channel = grpc.aio.insecure_channel("127.0.0.1:%d" % self.port, options=options)
        call = channel.unary_stream("/penstock.v1.Inference/InferStream")
        while not self.is_over:
            try:
                found = 0
                async for _ in call(message, timeout=60):
                    found += 1
                # the last message says that the stream is over; a model may say it beside its last token
                if found not in (TOKENS, TOKENS + 1):
                    raise ValueError("%d messages" % found)
                self.whole += 1
            except (grpc.aio.AioRpcError, ValueError) as error:
                self.fail("gRPC", error.details() if hasattr(error, "details") else error)
                await asyncio.sleep(0.1)
        await channel.close()

    async def sockets(self):
        key = base64.b64encode(os.urandom(16)).decode()
        request = ("GET /models/chat/stream HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                   "sec-websocket-version: 13\r\nsec-websocket-key: %s\r\n\r\n" % key).encode()
        while not self.is_over:
            try:
                reader, writer = await self.connect()
                writer.write(request)
                if not (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101"):
                    raise ValueError("no WebSocket")
                await self.until_closed(reader, writer)
                self.closed += 1
                writer.close()
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                self.fail("WebSocket", error)
                await asyncio.sleep(0.1)

    async def until_closed(self, reader, writer):
        """Answers pings; ends with a Close of 1001, or by an error. Also when all is over."""
        while not self.is_over:
            try:
                head = await asyncio.wait_for(reader.readexactly(2), 0.5)
            except asyncio.TimeoutError:
                continue
            size = head[1] & 127
            if size > 125:
                size = struct.unpack(">H", await reader.readexactly(2))[0]
            payload = await reader.readexactly(size)
            if head[0] & 15 == 9:
                writer.write(bytes([0x8A, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
            elif head[0] & 15 == 8:
                code = struct.unpack(">H", payload[:2])[0] if payload else 1005
                writer.write(bytes([0x88, 0x82, 0, 0, 0, 0]) + struct.pack(">H", 1000))
                if code != 1001:
                    raise ValueError("closed with %d" % code)
                return

    # -- all of it --------------------------------------------------------------------------------------

    async def run(self, restart, restarts):
        import grpc
        import grpc.aio
        with_grpc = self.streams // 2
        message = infer_request()
        tasks = [asyncio.create_task(self.requests(i)) for i in range(CONNECTIONS)]
        tasks += [asyncio.create_task(self.events()) for _ in range(self.streams - with_grpc)]
        tasks += [asyncio.create_task(self.calls(grpc, message)) for _ in range(with_grpc)]
        tasks += [asyncio.create_task(self.sockets()) for _ in range(SOCKETS)]
        await asyncio.sleep(2)
        took = []
        for number in range(restarts):
            before = sum(self.failures.values())
            took.append(await restart())
            await asyncio.sleep(0.5)
            if number % 10 == 0 or sum(self.failures.values()) != before:
                say("   restart %d: %.2f s until the new one served; %d answers, %d whole streams, %d failed" %
                    (number + 1, took[-1], self.answers, self.whole, sum(self.failures.values())))
        await asyncio.sleep(1)
        self.is_over = True
        await asyncio.wait(tasks, timeout=30)
        return took


def field(number, data):
    """A protobuf field of bytes, less than 128 of them."""
    return bytes([number << 3 | 2, len(data)]) + data


def infer_request():
    """penstock.v1.InferRequest { model: "tokens", inputs: [{ name: "TEXT", strings: { values: ["hello"] } }] }"""
    return field(1, b"tokens") + field(4, field(1, b"TEXT") + field(12, field(1, b"hello")))


def processes_of(group):
    """Pids of the servers of that process group, by when they began; what starts the next one has a name of its own."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name) as file:
                    comm, rest = file.read().split("(", 1)[1].rsplit(")", 1)
                    fields = rest.split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z" and comm in ("penstock", "taskset"):
                found.append((int(fields[19]), int(name)))
    return [pid for _, pid in sorted(found)]


def end_all(group):
    """Asks all of them to end, and waits; those that do not are killed."""
    for how, seconds in ((signal.SIGTERM, 40), (signal.SIGKILL, 5)):
        for pid in processes_of(group):
            os.kill(pid, how)
        until = time.monotonic() + seconds
        while processes_of(group) and time.monotonic() < until:
            time.sleep(0.1)


def run(options):
    restarts = options.restarts or (5 if options.quick else 100)
    layout = {"iris_gemm/1/model.onnx": IRIS_GEMM, "tokens/1/.keep": b"", "chat/1/.keep": b"",
              "tokens/config.pbtxt": echo_config("tokens", count=TOKENS, delay_ms=TOKEN_MS),
              "chat/config.pbtxt": echo_config("chat", mode="chat")}
    os.sched_setaffinity(0, {LOAD_CPU})
    with models(layout) as folder:
        server = Penstock(folder, options=["--drain-timeout", "30s"]).start()
        group, load = server.pid, Load(server.port, options.rate, options.streams)
        newest = [server.pid]

        async def restart():
            begun, old = time.monotonic(), newest[0]
            os.kill(old, signal.SIGUSR2)
            marks = server.log.count("listening on")
            while server.log.count("listening on") == marks or processes_of(group)[-1] == old:
                if time.monotonic() - begun > 30:
                    die("no new server 30 s after SIGUSR2:\n%s" % server.log[-2000:])
                await asyncio.sleep(0.02)
            newest[0] = processes_of(group)[-1]
            return time.monotonic() - begun

        begun = time.monotonic()
        try:
            took = asyncio.run(load.run(restart, restarts))
            seconds = time.monotonic() - begun
        finally:
            end_all(group)
    for what, count in load.failures.most_common(10):
        say("   failed %d times: %s" % (count, what))
    return [Row("%d upgrades (SIGUSR2) under %s requests/s and %d streams: failed" %
                (restarts, "{:,}".format(options.rate), options.streams), sum(load.failures.values()), "of all", 0,
                beside="%s answers, %s whole streams, %d WebSockets closed with 1001" %
                ("{:,}".format(load.answers), "{:,}".format(load.whole), load.closed),
                note="%.0f answers/s; the new one served after %.2f s (median); the slowest answer took %.0f ms" %
                (load.answers / seconds, statistics.median(took), 1e3 * load.slowest))]


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
