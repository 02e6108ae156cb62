"""Streams: ready tokens, tokens at a pace, the first token, ten thousand idle streams, readers that stop.

    script/bench streams [--only ready,first,paced,idle,stuck,push] [--quick] [--rounds N] [--json FILE]

Beside it run, with tokens of the same bytes: FastAPI, grpc-go, grpcio (asyncio), nghttpd where a file can be the answer, and a
loop of timers and writes that does nothing else.
"""
import contextlib
import json
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

import _lib
import _peers
from _lib import LOAD_CPU, IRIS_GEMM, IRIS_V2, Load, Penstock, Row, busy_ns, cpu_ns, iris_gemm_validate, measure, models, post
from _lib import program, rss_bytes, say

TITLE = "Streams: ready and paced tokens, first tokens, idle streams, readers that stop, push beside polling"
WORKLOADS = ("ready", "first", "paced", "idle", "stuck", "push")
READY_TOKENS = 64
PACED_STREAMS, PACED_MS = 2000, 40
IDLE_STREAMS = 10000
TASK_STEPS, TASK_MS = 100, 300
POLL_SECONDS = (0.2, 1, 5)
STUCK_READERS = 1000
TEXT = "hello"
SOURCES = 4                 # addresses that many connections come from


def add_options(parser):
    parser.add_argument("--only", default="", metavar="WORKLOADS", help="of %s, commas between" % ", ".join(WORKLOADS))


class Failed(Exception):
    """A flow that could not be measured; its text is why."""


# --- models and requests ---------------------------------------------------------------------------------

def echo_config(name, has_due=False, **parameters):
    """config.pbtxt of an echo model that repeats its TEXT as TOKEN, each with the time when it was due."""
    text = ['name: "%s"' % name, 'backend: "echo"', "max_batch_size: 0", "model_transaction_policy { decoupled: true }",
            'input [{ name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }]',
            'output [{ name: "TOKEN" data_type: TYPE_STRING dims: [ 1 ] }%s]' %
            (', { name: "due_ns" data_type: TYPE_INT64 dims: [ 1 ] }' if has_due else "")]
    for key, value in {"mode": "repeat", **parameters}.items():
        text.append('parameters { key: "%s" value { string_value: "%s" } }' % (key, value))
    return "\n".join(text).encode() + b"\n"


def paced_tokens(seconds):
    """So many that all streams still run when `seconds` in the middle are measured."""
    return int((1 + 0.5 + seconds + 0.5) * 1000 / PACED_MS)


def layout(paced_seconds, steps=TASK_STEPS):
    found = {"tokens": echo_config("tokens", count=READY_TOKENS),
             "paced": echo_config("paced", True, count=paced_tokens(paced_seconds), delay_ms=PACED_MS),
             "endless": echo_config("endless", count=10 ** 9),
             "task": echo_config("task", True, count=steps, delay_ms=TASK_MS)}
    files = {}
    for name, config in found.items():
        files["%s/config.pbtxt" % name], files["%s/1/.keep" % name] = config, b""
    files["iris_gemm/1/model.onnx"] = IRIS_GEMM
    return files


def varint(value):
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def field(number, data):
    """A field of bytes or text, or a number, of protobuf."""
    if isinstance(data, int):
        return varint(number << 3) + varint(data)
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def grpc_message(data):
    return struct.pack(">BI", 0, len(data)) + data


def infer_request(model):
    """penstock.v1.InferRequest: model 1, inputs 4 of Tensor: name 1, datatype 2, shape 3, raw 4."""
    element = struct.pack("<I", len(TEXT)) + TEXT.encode()
    tensor = field(1, "TEXT") + field(2, "BYTES") + field(3, b"\x01") + field(4, element)
    return grpc_message(field(1, model) + field(4, tensor))


def triton_request(model):
    from tritonclient.grpc import service_pb2
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="TEXT", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(TEXT)) + TEXT.encode())
    return grpc_message(request.SerializeToString())


class Flow:
    """One way to read a stream of one server: what streamgen needs."""

    def __init__(self, name, server, wire, request=None, token="TOKEN", path=None, hello=None, until=None, connections=16, streams=1):
        self.name, self.server, self.wire, self.request, self.token = name, server, wire, request, token
        self.path, self.hello, self.until = path, hello, until
        self.connections, self.streams = connections, streams


def sse(server, model, **how):
    request = post("/v2/models/%s/generate_stream" % model, {"TEXT": TEXT}, [("accept", "text/event-stream")])
    return Flow("SSE /generate_stream", server, "sse", request, **how)


def predict(server, model, form, **how):
    accept = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}[form]
    request = post("/models/%s:predict" % model, {"TEXT": TEXT}, [("accept", accept)])
    return Flow({"sse": "SSE", "ndjson": "NDJSON"}[form] + " :predict", server, form, request, **how)


def grpc_stream(server, model, **how):
    return Flow("gRPC InferStream", server, "grpc", infer_request(model), path="/penstock.v1.Inference/InferStream", **how)


def triton_stream(server, model, **how):
    return Flow("gRPC ModelStreamInfer", server, "grpc", triton_request(model),
                path="/inference.GRPCInferenceService/ModelStreamInfer", **how)


def websocket(server, model, is_binary=False, **how):
    begin = {"begin": {"binaryOutputs": True} if is_binary else {}}
    request = {"input": {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "strings": {"values": [TEXT]}}]}}
    return Flow("WebSocket, %s" % ("binary tensors" if is_binary else "JSON"), server, "websocket", json.dumps(request).encode(),
                token='"output":', path="/models/%s/stream" % model, hello=json.dumps(begin).encode(), until='"answered":', **how)


# --- the generator ---------------------------------------------------------------------------------------

class Generator:
    """streamgen, running: its marks and what the server used between them."""

    def __init__(self, flow, *arguments, connections=None, streams=None):
        self.flow, self.folder = flow, tempfile.TemporaryDirectory(prefix="penstock-bench-")
        self.command = [program("streamgen"), "--port", str(flow.server.port), "--wire", flow.wire, "--cpu", str(LOAD_CPU),
                        "--connections", str(connections or flow.connections), "--streams", str(streams or flow.streams),
                        *map(str, arguments)]
        for name, value in (("token", flow.token), ("path", flow.path), ("until", flow.until)):
            self.command += ["--" + name, value] if value else []
        for name, data in (("request", flow.request), ("hello", flow.hello)):
            if data is not None:
                with open(os.path.join(self.folder.name, name), "wb") as file:
                    file.write(data)
                self.command += ["--" + name, file.name]

    def __enter__(self):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()

    def mark(self, name):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            self.errors.seek(0)
            raise Failed(self.errors.read().strip() or "the generator ended with %d" % self.process.returncode)
        found = json.loads(line)
        if found["mark"] != name:
            raise Failed("the generator said %s, not %s" % (found["mark"], name))
        return found

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()


class Clocks:
    """CPU time of a server and of everybody, from here on."""

    def __init__(self, server):
        self.server, self.cpu, self.busy, self.wall = server, cpu_ns(server.pid), busy_ns(), time.monotonic()

    def add_to(self, found, until):
        wall, used = until.wall - self.wall, until.cpu - self.cpu
        found["cpu_us"] = used / 1e3 / max(1, found["tokens"])
        found["server_share"] = used / 1e9 / wall
        both = used / 1e9 + found["cpu_share"] * wall
        found["others_share"] = max(0.0, ((until.busy - self.busy) / 1e9 - both) / wall / os.cpu_count())
        _lib.others_seen.append(found["others_share"])
        return found


def closed(flow, seconds, tokens=READY_TOKENS):
    with Generator(flow, "--tokens", tokens, "--seconds", seconds, "--warmup", 0.5) as generator:
        generator.mark("begin")
        begin = Clocks(flow.server)
        generator.tell("go")
        found = generator.mark("told")
        return begin.add_to(found, Clocks(flow.server))


def paced(flow, seconds, connections, streams):
    arguments = ("--tokens", paced_tokens(seconds), "--ramp", 1, "--seconds", seconds, "--due", "--sources", SOURCES)
    arguments += ("--sleep",) if os.environ.get("BENCH_SLEEP") else ()
    with Generator(flow, *arguments, connections=connections, streams=streams) as generator:
        generator.mark("begin")
        begin = Clocks(flow.server)
        generator.mark("end")
        end = Clocks(flow.server)
        return begin.add_to(generator.mark("told"), end)


def line_of(number, name, one):
    say("   round %d  %-34s %9.0f tokens/s  server %7.3f us CPU a token, %3.0f%% of its core; generator %3.0f%%; others %3.0f%%; "
        "first token p50 %.2f ms" % (number + 1, name, one["per_second"], one["cpu_us"], 100 * one["server_share"],
                                     100 * one["cpu_share"], 100 * one["others_share"], one["first"]["p50_us"] / 1e3))


def first_line(error):
    return (str(error).splitlines() or [""])[0]


def rounds_each(flows, rounds, run, line):
    """{name: [what run(flow) found]}; a flow that fails is told, and left out from there on."""
    found, failed = {name: [] for name in flows}, {}
    for number in range(rounds):
        for name, flow in flows.items():
            if name in failed or (number > 0 and getattr(flow, "is_once", False)):
                continue
            try:
                one = run(flow)
            except Failed as error:
                failed[name] = first_line(error)
                say("   round %d  %-34s failed: %s" % (number + 1, name, first_line(error)))
                continue
            found[name].append(one)
            line(number, name, one)
    return found, failed


def middle(runs, key):
    return statistics.median(key(run) for run in runs)


def ratio(runs, others, key):
    """Round by round, as a machine that is slow for a while is slow for both."""
    pairs = list(zip(runs, others))
    return statistics.median(key(run) / key(other) for run, other in pairs) if pairs else None


# --- what the peers answer ---------------------------------------------------------------------------------

def first_event(server, model):
    """The bytes of the head of an answer, of one event's chunk, and of that event, as Penstock writes them."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(sse(server, model).request)
        data = b""
        while b"\n\n\r\n" not in data:
            if len(data) > 12 and not data.startswith(b"HTTP/1.1 200"):
                raise Failed("expected 200, got %r" % data[:300])
            piece = connection.recv(65536)
            if not piece:
                raise Failed("no event came: %r" % data[:300])
            data += piece
    head, rest = data.split(b"\r\n\r\n", 1)
    event = rest.split(b"\r\n", 1)[1].split(b"\n\n", 1)[0] + b"\n\n"
    return head + b"\r\n\r\n", b"%x\r\n%s\r\n" % (len(event), event), event


def first_message(server, model):
    """The bytes of the first message of InferStream."""
    import grpc
    with grpc.insecure_channel("127.0.0.1:%d" % server.port) as channel:
        try:
            call = channel.unary_stream("/penstock.v1.Inference/InferStream")(infer_request(model)[5:], timeout=30)
            message = next(call)
            call.cancel()
        except grpc.RpcError as error:
            raise Failed("InferStream: %s" % error.details()) from None
    return message


def due_digits(data):
    """(offset, how many) of the digits of due_ns."""
    found = re.search(rb'due_ns":\[?(\d+)', data)
    if not found or len(found.group(1)) < 10:
        raise Failed("no due_ns in %r" % data[:300])
    return found.start(1), len(found.group(1))


def due_raw(message):
    """Offset of the 8 bytes of due_ns in an InferResponse."""
    at = message.find(b"\x22\x08", message.index(b"due_ns"))
    if at < 0:
        raise Failed("no due_ns in %r" % message[:300])
    return at + 2


class Peers:
    """The peers of one workload; one that cannot be started is told and missing."""

    def __init__(self, stack, failed):
        self.stack, self.failed = stack, failed

    def enter(self, name, make):
        try:
            return self.stack.enter_context(make())
        except (Failed, SystemExit, OSError, subprocess.CalledProcessError) as error:
            self.failed[name] = first_line(error)
            say("   %s: not measured: %s" % (name, error))
            return None


def sse_peers(peers, server, model, count, period):
    """{name: flow} of FastAPI with the same event."""
    try:
        _, _, event = first_event(server, model)
        offset, digits = due_digits(event) if period else (0, 0)
    except Failed as error:
        say("   the peers have no token to answer: %s" % error)
        return {}
    kind = "digits:%d" % digits if period else "none"
    fastapi = peers.enter("FastAPI", lambda: _peers.fastapi_stream((event, offset, kind, count, period)))
    return {} if fastapi is None else {"FastAPI": Flow("SSE", fastapi, "sse", post("/stream", {}))}


def grpc_peers(peers, server, model, count, period):
    """{name: flow} of grpc-go and grpcio with the same message."""
    try:
        message = first_message(server, model)
        offset = due_raw(message) if period else -1
    except Failed as error:
        say("   the peers have no token to answer: %s" % error)
        return {}
    path = "/penstock.v1.Inference/InferStream"
    found = {"grpc-go": peers.enter("grpc-go", lambda: _peers.grpc_go(message, offset, count, period)),
             "grpcio": peers.enter("grpcio", lambda: _peers.grpcio_stream(
                 (message, max(offset, 0), "raw" if period else "none", count, period)))}
    flows = {name: Flow("gRPC", peer, "grpc", infer_request(model), path=path) for name, peer in found.items() if peer}
    if not period:
        nghttpd = peers.enter("nghttpd", lambda: _peers.nghttpd({path: grpc_message(message) * count}))
        if nghttpd is not None:
            flows["nghttpd, one file"] = Flow("gRPC", nghttpd, "grpc", infer_request(model), path=path)
    return flows


# --- ready and first -----------------------------------------------------------------------------------------

def millions(run):
    """Tokens a second of one core: of the CPU time that the server used."""
    return 1 / run["cpu_us"]


def run_ready(options, wanted):
    rounds, seconds = _lib.rounds_of(options), _lib.seconds_of(options, 1.5, 0.7)
    rows = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Penstock(stack.enter_context(models(layout(1)))))
        one = {"connections": 1, "streams": 16}
        ours = {"sse": sse(server, "tokens"), "predict": predict(server, "tokens", "sse"),
                "ndjson": predict(server, "tokens", "ndjson"), "grpc": grpc_stream(server, "tokens"),
                "grpc1": grpc_stream(server, "tokens", **one), "triton": triton_stream(server, "tokens"),
                "websocket": websocket(server, "tokens"), "websocket binary": websocket(server, "tokens", True)}
        names = {key: "%s%s" % (flow.name, ", one connection" if key == "grpc1" else "") for key, flow in ours.items()}
        failed = {}
        peers = Peers(stack, failed)
        sse_beside = sse_peers(peers, server, "tokens", READY_TOKENS, 0)
        grpc_beside = grpc_peers(peers, server, "tokens", READY_TOKENS, 0)
        say("-- %d ready tokens a request, 16 at once" % READY_TOKENS)
        found, why = rounds_each({**ours, **sse_beside, **grpc_beside}, rounds, lambda flow: closed(flow, seconds),
                                 lambda number, name, one_run: line_of(number, names.get(name, name), one_run))
        failed.update(why)

    def beside(peers_of, key, form):
        return "; ".join(form % (name, middle(found[name], key)) for name in peers_of if found.get(name))

    def first_ms(run):
        return run["first"]["p50_us"] / 1e3

    for key in ours if "ready" in wanted else ():
        is_told = key in ("sse", "grpc", "grpc1")
        runs = found[key]
        note = "generator %.0f%% of its core, %.2f M tokens/s by the clock" % (
            100 * middle(runs, lambda run: run["cpu_share"]), middle(runs, lambda run: run["per_second"] / 1e6)) if runs else failed[key]
        among = grpc_beside if key in ("grpc", "triton") else sse_beside if key == "sse" else {}
        rows.append(Row("%d ready tokens a request, 16 at once: %s, on one core" % (READY_TOKENS, names[key]),
                        middle(runs, millions) if runs else None, "M tokens/s", 1.5 if is_told else None, is_floor=True,
                        beside=beside(among, millions, "%s %.3f"), note=note))
    for key in ("sse", "grpc", "grpc1", "websocket") if "first" in wanted else ():
        runs = found[key]
        among = grpc_beside if key == "grpc" else sse_beside if key == "sse" else {}
        text = "p99 %.2f ms" % middle(runs, lambda run: run["first"]["p99_us"] / 1e3) if runs else ""
        rows.append(Row("first token, 16 at once, %s: p50" % names[key], middle(runs, first_ms) if runs else None, "ms", 1.0,
                        beside="; ".join(filter(None, [text, beside(among, first_ms, "%s %.2f ms")])),
                        note="" if runs else failed[key]))
    return rows


# --- paced --------------------------------------------------------------------------------------------------------

def paced_line(number, name, one):
    delay = one["delay"]
    say("   round %d  %-34s server %6.2f us CPU a token, %3.0f%% of its core; late p50 %.3f ms, p99 %.3f ms, p99.9 %.3f ms, worst "
        "%.1f ms; %d of %d in one read with another; generator %3.0f%%, others %3.0f%%%s" %
        (number + 1, name, one["cpu_us"], 100 * one["server_share"], delay["p50_us"] / 1e3, delay["p99_us"] / 1e3,
         delay["p999_us"] / 1e3, delay["max_us"] / 1e3, one["coalesced"], one["tokens"], 100 * one["cpu_share"], 100 * one["others_share"],
         "" if one["count"] == PACED_STREAMS else "; with %d STREAMS ONLY" % one["count"]))


def paced_fewer(flow, seconds):
    """A peer that cannot hold all streams gets fewer, and it is told."""
    for count in (PACED_STREAMS, 1000, 500, 200):
        try:
            connections = min(count, flow.connections)
            one = paced(flow, seconds, connections, flow.streams)
        except Failed as error:
            if not getattr(flow, "is_peer", False):
                raise
            say("            with %d streams: %s" % (count, first_line(error)))
            flow.connections = count
            flow.server.__exit__(None, None, None)      # what it had begun would be in the way
            flow.server.__enter__()
            continue
        one["count"] = connections * flow.streams
        return one
    raise Failed("not even 200 streams")


def run_paced(options, wanted):
    rounds, seconds = _lib.rounds_of(options), _lib.seconds_of(options, 4, 2)
    count, rows = paced_tokens(seconds), []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Penstock(stack.enter_context(models(layout(seconds)))))
        many = {"connections": PACED_STREAMS, "streams": 1}
        few = {"connections": PACED_STREAMS // 100, "streams": 100}
        flows = {"SSE": sse(server, "paced", **many), "gRPC": grpc_stream(server, "paced", **many),
                 "gRPC, 100 streams a connection": grpc_stream(server, "paced", **few), "WebSocket": websocket(server, "paced", **many)}
        failed = {}
        peers = Peers(stack, failed)
        beside = {}
        try:
            head, chunk, event = first_event(server, "paced")
            offset, digits = due_digits(chunk)
            bare = peers.enter("bare write loop", lambda: _peers.bare_write(head, chunk, b"0\r\n\r\n", offset, digits, count, PACED_MS))
            if bare is not None:
                beside["bare write loop"] = Flow("SSE", bare, "sse", post("/stream", {}), **many)
        except Failed as error:
            say("   no bare loop: %s" % error)
        for name, flow in {**sse_peers(peers, server, "paced", count, PACED_MS),
                           **grpc_peers(peers, server, "paced", count, PACED_MS)}.items():
            flow.connections, flow.is_peer = PACED_STREAMS, True
            flow.is_once = name in ("FastAPI", "grpcio")        # they come late by seconds: once says it
            beside[name] = flow
        say("-- %d streams of 25 tokens a second, each written when it is made" % PACED_STREAMS)
        order = {"bare write loop": beside.pop("bare write loop")} if "bare write loop" in beside else {}
        found, why = rounds_each({**order, **flows, **beside}, rounds, lambda flow: paced_fewer(flow, seconds), paced_line)
        failed.update(why)
    bare = found.get("bare write loop") or []
    told = {name: name if runs[0]["count"] == PACED_STREAMS else "%s (%d streams only)" % (name, runs[-1]["count"])
            for name, runs in found.items() if runs}
    for name in flows:
        runs = found[name]
        text = "%d streams x 25 tokens/s, %s" % (PACED_STREAMS, name)
        if not runs:
            rows.append(Row("%s: delay p99" % text, None, "ms", 2.0, note=failed[name]))
            continue
        among = ["bare write loop"] + (["FastAPI"] if name == "SSE" else ["grpc-go", "grpcio"] if name == "gRPC" else [])
        among = [peer for peer in among if found.get(peer)]
        rows.append(Row("%s: delay p99, from when each was due" % text, middle(runs, lambda run: run["delay"]["p99_us"] / 1e3), "ms", 2.0,
                        beside="; ".join(["p50 %.2f, p99.9 %.2f ms" % (middle(runs, lambda run: run["delay"]["p50_us"] / 1e3),
                                                                       middle(runs, lambda run: run["delay"]["p999_us"] / 1e3))] +
                                         ["%s %.1f ms" % (told[peer], middle(found[peer], lambda run: run["delay"]["p99_us"] / 1e3))
                                          for peer in among])))
        rows.append(Row("... read together with another of their stream, of all", middle(runs, lambda run: 100 * run["coalesced"] / run["tokens"]),
                        "%", 0.0 if name in ("SSE", "gRPC") else None, limit_text="none"))
        rows.append(Row("... server CPU a token", middle(runs, lambda run: run["cpu_us"]), "us", 8.0,
                        beside="; ".join("%s %.1f us" % (told[peer], middle(found[peer], lambda run: run["cpu_us"])) for peer in among)))
        if bare and name in ("SSE", "gRPC"):
            rows.append(Row("... of a bare write loop's", ratio(runs, bare, lambda run: run["cpu_us"]), "x", 1.5))
    return rows


# --- idle ---------------------------------------------------------------------------------------------------------

def watch_request():
    return grpc_message(b"")


def idle_flows(server, count):
    """Streams of /events: nothing to say until something happens."""
    request = b"GET /events HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n"
    return {"SSE": (Flow("SSE", server, "sse", request, token=None), count, 1, 8),
            "WebSocket": (Flow("WebSocket", server, "websocket", token=None, path="/events"), count, 1, 8),
            "gRPC, one stream a connection": (Flow("gRPC", server, "grpc", watch_request(), token=None,
                                                   path="/penstock.v1.Events/Watch"), count, 1, 24),
            "gRPC, 100 streams a connection": (Flow("gRPC", server, "grpc", watch_request(), token=None,
                                                    path="/penstock.v1.Events/Watch"), count // 100, 100, 6)}


SLOW_QUEUE = 4


def wake_all(server):
    """Something that all who watch are told: the queue of a slow model is full. It is empty again when this returns."""
    def ask():
        server.post("/v2/models/slow/infer", {"inputs": [{"name": "IN", "shape": [1], "datatype": "FP32", "data": [0.5]}]})
    callers = [threading.Thread(target=ask, daemon=True) for _ in range(SLOW_QUEUE + 3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


def settled_rss(server):
    """RSS when it has not changed for a while."""
    before = rss_bytes(server.pid)
    for _ in range(20):
        time.sleep(0.3)
        now = rss_bytes(server.pid)
        if abs(now - before) < 65536:
            return now
        before = now
    return before


def wait_quiet(server, seconds=20):
    """Until the server does nothing: what stuck readers may have waiting for them has been made."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = cpu_ns(server.pid)
        time.sleep(0.5)
        if cpu_ns(server.pid) - before < 5e6:
            return
    say("            the server is still busy after %d s" % seconds)


def idle_server(stack):
    options = ("--connections-max", 2 * IDLE_STREAMS, "--watchers-max", 2 * IDLE_STREAMS, "--queue-max", SLOW_QUEUE,
               "--idle-timeout", "1h", "--write-timeout", "1h")
    slow = {"slow/config.pbtxt": _lib.identity_config("slow", [1], mode="delay", delay_ms=100), "slow/1/.keep": b""}
    return stack.enter_context(Penstock(stack.enter_context(models({**layout(1), **slow})), options=options))


def run_idle(options, wanted):
    count, rows = 1000 if options.quick else IDLE_STREAMS, []
    say("-- %d idle streams, then an event for all" % count)
    for name in idle_flows(None, count):
        value = wake_ms = None
        note = ""
        limit = 0
        try:
            with contextlib.ExitStack() as stack:
                server = idle_server(stack)
                flow, connections, streams, limit = idle_flows(server, count)[name]
                wake_all(server)     # what loads once for all, is loaded
                before = settled_rss(server)
                generator = stack.enter_context(Generator(flow, "--hold", "--sources", SOURCES, connections=connections,
                                                          streams=streams))
                generator.mark("open")
                value = (settled_rss(server) - before) / 1024 / count
                wakes = []
                for number in range(3 if options.quick else 5):
                    time.sleep(0.5)
                    generator.tell("wake")
                    generator.mark("armed")
                    wake_all(server)
                    one = generator.mark("woken")
                    if one["woken"] != count:
                        raise Failed("%d of %d streams were told" % (one["woken"], count))
                    wakes.append(one)
                wake_ms = statistics.median(one["wake"]["p99_us"] / 1e3 for one in wakes)
                generator_ms = statistics.median(one["generator_us"] / 1e3 for one in wakes)
                say("   %-34s %6.2f KiB each; event to the %d: p50 %.1f ms, p99 %.1f ms (generator %.1f ms of its core)" %
                    (name, value, count, statistics.median(one["wake"]["p50_us"] / 1e3 for one in wakes), wake_ms, generator_ms))
                note = "the generator needed %.1f ms of its core to read them" % generator_ms
        except Failed as error:
            note = str(error)
            say("   %-34s failed: %s" % (name, error))
        rows.append(Row("%d idle streams, %s: memory each" % (count, name), value, "KiB", limit, note="" if value is not None else note))
        rows.append(Row("... an event to all of them: p99, from the first to be told", wake_ms, "ms", 20.0, note=note))
    return rows


# --- stuck --------------------------------------------------------------------------------------------------------

def run_stuck(options, wanted):
    readers, seconds = 200 if options.quick else STUCK_READERS, _lib.seconds_of(options, 2, 1)
    rows = []
    say("-- %d readers that stop reading in the middle of endless streams" % readers)
    kinds = {"SSE": (lambda server: sse(server, "endless"), readers, 1),
             "gRPC, windows of 100 streams a connection": (lambda server: grpc_stream(server, "endless"), readers // 100, 100)}
    for name, (make, connections, streams) in kinds.items():
        try:
            with contextlib.ExitStack() as stack:
                server = idle_server(stack)
                flow = make(server)
                iris = Load(server, post("/v2/models/iris_gemm/infer", IRIS_V2), iris_gemm_validate)
                measure(iris, connections=16, seconds=0.5)
                alone = measure(iris, connections=16, seconds=seconds)
                before = rss_bytes(server.pid)
                generator = stack.enter_context(Generator(flow, "--stop-after", 50, "--sources", SOURCES, connections=connections,
                                                          streams=streams))
                generator.mark("stopped")
                wait_quiet(server)
                begin = settled_rss(server)
                cpu = cpu_ns(server.pid)
                time.sleep(1)
                cpu = (cpu_ns(server.pid) - cpu) / 1e7          # % of a core
                among = measure(iris, connections=16, seconds=seconds)
                end = settled_rss(server)
        except Failed as error:
            say("   %-34s failed: %s" % (name, error))
            rows.append(Row("%d readers that stop reading, %s: memory afterwards" % (readers, name), None, "x", 1.02, note=str(error)))
            continue
        p99 = [one["latency"][0]["p99_us"] for one in (alone, among)]
        say("   %-34s %.1f MiB before, %.1f stuck, %.1f after %.0f s; the stuck use %.1f%% of a core; iris p99 %.0f us without, %.0f us "
            "with" % (name, before / 2**20, begin / 2**20, end / 2**20, seconds + 1, cpu, *p99))
        rows.append(Row("%d readers that stop reading, %s: memory after %.0f s, of that when they had stopped" %
                        (readers, name, seconds + 1), end / begin, "x", 1.02,
                        beside="%.1f MiB before, %.1f KiB a reader" % (before / 2**20, (begin - before) / 1024 / readers)))
        rows.append(Row("... p99 of 16 others' iris calls, of that without them", p99[1] / p99[0], "x", 1.25,
                        beside="%.0f us; without %.0f us" % (p99[1], p99[0]), note="" if cpu < 1 else "the stuck use %.1f%% of a core" % cpu))
    return rows


# --- push and polling ---------------------------------------------------------------------------------------------

class Client:
    """HTTP/1.1 on one connection, with every byte counted."""

    def __init__(self, server):
        self.connection = socket.create_connection(("127.0.0.1", server.port), 60)
        self.file = self.connection.makefile("rb")
        self.requests = self.bytes = 0

    def ask(self, request):
        """The head of the answer: (status, headers with lower-case names)."""
        self.connection.sendall(request)
        self.requests += 1
        self.bytes += len(request)
        lines = []
        while not lines or lines[-1]:
            lines.append(self.line())
        headers = dict((name.lower(), value.strip()) for name, value in (one.split(":", 1) for one in lines[1:-1]))
        return int(lines[0].split()[1]), headers

    def line(self):
        data = self.file.readline()
        if not data:
            raise Failed("the server closed a connection")
        self.bytes += len(data)
        return data.decode().rstrip("\r\n")

    def rest(self):
        """What comes until nothing has come for 20 ms."""
        self.connection.settimeout(0.02)
        data = b""
        with contextlib.suppress(OSError):
            while True:
                piece = self.file.read1(65536)
                if not piece:
                    break
                data += piece
        self.bytes += len(data)
        return data

    def close(self):
        self.file.close()
        self.connection.close()


class Watcher(threading.Thread):
    """Somebody who wants to know how far the task is; `.seen` is when each step was first known, `.error` what went wrong."""

    def __init__(self, server, steps):
        super().__init__(daemon=True)
        self.client, self.steps, self.seen, self.due, self.error = Client(server), steps, {}, {}, None

    def run(self):
        try:
            self.watch()
        except (Failed, OSError, ValueError, KeyError) as error:
            self.error = "%s: %s" % (type(error).__name__, error)
        self.client.close()

    def knows(self, step):
        now = time.monotonic_ns()
        while len(self.seen) < step:
            self.seen[len(self.seen) + 1] = now


class Pushed(Watcher):
    """Who began the task and is told by server-sent events."""
    name = "push (SSE)"

    def begin(self):
        request = post("/v2/models/task/generate_stream?resume=120", {"TEXT": TEXT}, [("accept", "text/event-stream")])
        status, headers = self.client.ask(request)
        if status != 200 or "location" not in headers:
            raise Failed("the task did not begin: %d %r" % (status, headers))
        return headers["location"]

    def watch(self):
        while len(self.seen) < self.steps:
            text = self.client.line()
            if text.startswith("data:") and "due_ns" in text:
                self.knows(len(self.seen) + 1)
                self.due[len(self.seen)] = json.loads(text[5:])["due_ns"]


class Polling(Watcher):
    """Who asks every now and then for what has come since, by GET /streams/{id}?after=N, and hangs up when nothing more comes:
    the server has no document of a stream that could be asked for instead."""

    def __init__(self, server, steps, seconds, path):
        super().__init__(server, steps)
        self.server, self.seconds, self.path, self.name = server, seconds, path, "polling each %g s" % seconds

    def watch(self):
        begun = time.monotonic()
        while len(self.seen) < self.steps:
            client = Client(self.server)
            status, _ = client.ask(("GET %s?after=%d HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/x-ndjson\r\n\r\n" %
                                    (self.path, len(self.seen))).encode())
            if status != 200:
                raise Failed("polling was answered %d" % status)
            self.knows(len(self.seen) + client.rest().count(b"due_ns"))
            self.client.requests += client.requests
            self.client.bytes += client.bytes
            client.close()
            begun += self.seconds
            time.sleep(max(0, begun - time.monotonic()))


def run_push(options, wanted):
    steps, rows = 20 if options.quick else TASK_STEPS, []
    seconds = steps * TASK_MS / 1000
    say("-- a task of %.0f s and %d steps: push beside polling" % (seconds, steps))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Penstock(stack.enter_context(models(layout(1, steps)))))
        pushed = Pushed(server, steps)
        path = pushed.begin()
        watchers = [pushed] + [Polling(server, steps, one, path) for one in POLL_SECONDS]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join(seconds + 30)
    for watcher in watchers:
        text = "a task of %.0f s in %d steps, %s: mean staleness" % (seconds, steps, watcher.name)
        if watcher.error or len(watcher.seen) < steps or len(pushed.due) < steps:
            rows.append(Row(text, None, "ms", note=watcher.error or "not all steps were seen"))
            continue
        stale = statistics.mean(watcher.seen[step] - pushed.due[step] for step in pushed.due) / 1e6
        rows.append(Row(text, stale, "ms", beside="%d requests, %d bytes" % (watcher.client.requests, watcher.client.bytes)))
    return rows


# --- all ------------------------------------------------------------------------------------------------------------

def run(options):
    wanted = [name for name in getattr(options, "only", "").split(",") if name] or list(WORKLOADS)
    for name in wanted:
        if name not in WORKLOADS:
            _lib.die("no workload %s; there are: %s" % (name, ", ".join(WORKLOADS)))
    runs = {"ready, first": (run_ready, {"ready", "first"}), "paced": (run_paced, {"paced"}), "idle": (run_idle, {"idle"}),
            "stuck": (run_stuck, {"stuck"}), "push": (run_push, {"push"})}
    rows = []
    for name, (workload, parts) in runs.items():
        if not parts & set(wanted):
            continue
        begun = time.monotonic()
        try:
            rows += workload(options, wanted)
        except (Exception, SystemExit) as error:        # noqa: what fails is told, the others still run
            say("   %s failed: %s: %s" % (name, type(error).__name__, error))
            rows.append(Row("%s: the workload failed" % name, None, "", note=str(error)))
        say("   (%.0f s)" % (time.monotonic() - begun))
    return rows


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
