"""The generator of streams says what happened: tokens are counted however their bytes come, late ones are told, and a stream that
ends otherwise than well ends the run."""
import contextlib
import json
import os
import socketserver
import struct
import subprocess
import tempfile
import threading
import time

from harness import ROOT, Server, case, cases, check, equal, main, models, need_program

REQUEST = b"POST /x HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n\r\nhi"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def serving(handle):
    """A server that calls handle(socket, number of the connection) for each connection."""
    lock, count = threading.Lock(), [0]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with lock:
                count[0] += 1
                number = count[0]
            with contextlib.suppress(OSError):
                handle(self.request, number)

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

    with Listener(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield listener.server_address[1]
        listener.shutdown()


def requests_of(connection):
    """Yields once for each request that has wholly come."""
    data = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            return
        data += piece
        while len(data) >= len(REQUEST):
            check(data.startswith(REQUEST), "not the request: %r", data)
            data = data[len(REQUEST):]
            yield


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text, name="token"):
    return b'data: {"%s": "%s"}\n\n' % (name.encode(), text.encode())


def compiled(name, folder):
    target = os.path.join(folder, name)
    if not os.path.exists(target):
        subprocess.run([need_program("cc"), "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror",
                        "-Wno-unused-function", os.path.join(ROOT, "bench", name + ".c"), "-o", target, "-lnghttp2"], check=True)
    return target


_folder = tempfile.TemporaryDirectory()


def start(port, *arguments, request=REQUEST, wire="sse", hello=None):
    command = [compiled("streamgen", _folder.name), "--port", str(port), "--wire", wire, "--token", '"token"']
    for name, data in (("request", request), ("hello", hello)):
        if data is not None:
            with open(os.path.join(_folder.name, name), "wb") as file:
                file.write(data)
            command += ["--" + name, file.name]
    return subprocess.Popen([*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def streamgen(port, *arguments, **how):
    """(exit status, figures or None, what stderr says)"""
    with start(port, *arguments, **how) as process:
        said, errors = process.communicate("go\n", timeout=60)
    lines = [json.loads(line) for line in said.splitlines()]
    return process.returncode, lines[-1] if lines and lines[-1]["mark"] == "told" else None, errors


# --- text over HTTP/1.1 -------------------------------------------------------------------------------------

SSE = b": hello\n\n" + event("a") + b"id: 2\nevent: token\n" + event("b") + event("c") + event("1", "end")
TEXTS = {"one_chunk": ("sse", HEAD + chunk(SSE) + b"0\r\n\r\n", 1),
         "event_each": ("sse", HEAD + b"".join(chunk(one + b"\n\n") for one in SSE.split(b"\n\n")[:-1]) + b"0\r\n\r\n", 1),
         "byte_each": ("sse", HEAD + b"".join(chunk(SSE[i:i + 1]) for i in range(len(SSE))) + b"0\r\nx: y\r\n\r\n", 1),
         "lines": ("ndjson", HEAD + chunk(b'\n{"token": 1}\n{"tok') + chunk(b'en": 2}\n{"token": 3}\n{"end": 1}\n') + b"0\r\n\r\n", 1)}


@cases({"%s_%s" % (name, way): (wire, data, others, step) for name, (wire, data, others) in TEXTS.items()
        for way, step in (("at_once", None), ("by_bytes", 1), ("by_sevens", 7))})
def counts_text(wire, data, others, step):
    def handle(connection, number):
        for _ in requests_of(connection):
            for at in range(0, len(data), step or len(data)):
                connection.sendall(data[at:at + (step or len(data))])
    with serving(handle) as port:
        status, found, errors = streamgen(port, "--connections", 3, "--tokens", 3, "--seconds", 0.3, "--warmup", 0, wire=wire)
    equal((status, errors), (0, ""))
    check(found["streams"] >= 3, "%s", found)
    equal((found["tokens"], found["others"]), (3 * found["streams"], others * found["streams"]))
    equal((found["first"]["count"], found["whole"]["count"]), (found["streams"], found["streams"]))


@cases({"too_few": (HEAD + chunk(event("a")) + b"0\r\n\r\n", "after 1 tokens, expected 3"),
        "too_many": (HEAD + chunk(event("a") * 4) + b"0\r\n\r\n", "more tokens"),
        "half_an_event": (HEAD + chunk(event("a") * 3 + b"data: {") + b"0\r\n\r\n", "within an event"),
        "an_error": (HEAD + chunk(event("a") + event("went wrong", "error")), "went wrong"),
        "an_error_event": (HEAD + chunk(event("a") + b"event: error\ndata: no\n\n"), "error in a stream"),
        "a_status": (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "503"),
        "no_chunks": (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "not chunked"),
        "a_bad_chunk": (HEAD + b"zz\r\n", "without a size"),
        "a_long_chunk": (HEAD + b"3\r\nabcd\r\n", "longer than its size"),
        "leaving": (HEAD + chunk(event("a")), "closed a connection")})
def what_is_wrong_ends_the_run(data, word):
    def handle(connection, number):
        for _ in requests_of(connection):
            connection.sendall(data)
            if word == "closed a connection":
                return
    with serving(handle) as port:
        status, found, errors = streamgen(port, "--connections", 2, "--tokens", 3, "--seconds", 0.3, "--warmup", 0)
    equal((status, found), (1, None))
    check(word in errors and errors.startswith("streamgen: "), "%r", errors)


@case
def the_first_token_is_timed_from_the_request():
    def handle(connection, number):
        for _ in requests_of(connection):
            time.sleep(0.02)
            connection.sendall(HEAD + chunk(event("a")))
            time.sleep(0.05)
            connection.sendall(chunk(event("b")) + b"0\r\n\r\n")
    with serving(handle) as port:
        status, found, errors = streamgen(port, "--connections", 1, "--tokens", 2, "--seconds", 0.5, "--warmup", 0.1)
    equal((status, errors), (0, ""))
    check(20000 <= found["first"]["p50_us"] < 50000, "%s", found)
    check(70000 <= found["whole"]["p50_us"] < 150000, "%s", found)


# --- paced ---------------------------------------------------------------------------------------------------

def due_event(due):
    return b'data: {"token": "x", "due_ns": [%d]}\n\n' % due


@case
def lateness_is_told():
    """Tokens 5 ms late, and in every stream one that waits for the next."""
    def handle(connection, number):
        for _ in requests_of(connection):
            connection.sendall(HEAD)
            begun = time.monotonic_ns()
            for i in range(100):
                time.sleep(max(0.0, (begun + i * 20_000_000 + 5_000_000 - time.monotonic_ns()) / 1e9))
                if i == 50:
                    continue
                both = [begun + 50 * 20_000_000] if i == 51 else []
                for due in [*both, begun + i * 20_000_000]:
                    both.append(due)
                connection.sendall(b"".join(chunk(due_event(due)) for due in both[-2 if i == 51 else -1:]))
            connection.sendall(b"0\r\n\r\n")
    with serving(handle) as port:
        status, found, errors = streamgen(port, "--connections", 4, "--tokens", 100, "--ramp", 0.1, "--seconds", 1.2, "--due")
    equal((status, errors), (0, ""))
    delay = found["delay"]
    check(230 <= found["tokens"] <= 250 and delay["count"] == found["tokens"], "%s", found)
    equal((found["coalesced"], found["early"]), (4, 0))
    check(5000 <= delay["p50_us"] < 15000, "%s", delay)
    check(25000 <= delay["max_us"] < 60000, "%s", delay)


@case
def what_was_never_due_is_seen():
    with serving(lambda connection, number: [connection.sendall(HEAD + chunk(event("a"))) for _ in requests_of(connection)]) as port:
        status, found, errors = streamgen(port, "--connections", 1, "--tokens", 1, "--ramp", 0.1, "--seconds", 0.1, "--due")
    equal(status, 1)
    check("without due_ns" in errors, "%r", errors)


@case
def the_bare_loop_is_on_time():
    data = chunk(due_event(10 ** 14))
    files = {"head": HEAD, "chunk": data, "end": b"0\r\n\r\n"}
    for name, content in files.items():
        with open(os.path.join(_folder.name, name), "wb") as file:
            file.write(content)
    import socket
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    paths = [os.path.join(_folder.name, name) for name in files]
    offset = data.index(b"[") + 1
    bare = subprocess.Popen([compiled("bare_write", _folder.name), str(port), *paths, str(offset), "15", "100", "20"])
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
        status, found, errors = streamgen(port, "--connections", 20, "--sources", 3, "--tokens", 100, "--ramp", 0.2, "--seconds", 1, "--due")
    finally:
        bare.kill()
        bare.wait()
    equal((status, errors), (0, ""))
    check(950 <= found["tokens"] <= 1050 and found["early"] == 0, "%s", found)
    check(found["delay"]["p50_us"] < 10000, "%s", found)


# --- idle, and readers that stop ---------------------------------------------------------------------------------

@case
def wakes_are_timed_from_the_first():
    told = [threading.Event() for _ in range(3)]

    def handle(connection, number):
        for _ in requests_of(connection):
            connection.sendall(HEAD + chunk(event("what is now", "state") + b": heartbeat\n\n"))
            told[number - 1].wait(20)
            connection.sendall(chunk(event("happened", "state")))
    with serving(handle) as port:
        with start(port, "--connections", 3, "--hold") as process:
            equal(json.loads(process.stdout.readline()), {"mark": "open", "streams": 3})
            time.sleep(0.3)         # what is now has come everywhere
            process.stdin.write("wake\n")
            process.stdin.flush()
            equal(json.loads(process.stdout.readline())["mark"], "armed")
            time.sleep(0.2)
            told[0].set(), told[1].set()
            time.sleep(0.1)
            told[2].set()
            found = json.loads(process.stdout.readline())
            process.communicate(timeout=30)
    equal((found["mark"], found["woken"], process.returncode), ("woken", 3, 0))
    check(80000 <= found["wake"]["max_us"] < 400000 and found["wake"]["p50_us"] < 50000, "%s", found)


@case
def a_reader_that_stops_reads_no_more():
    sent, is_blocked = [0], threading.Event()

    def handle(connection, number):
        for _ in requests_of(connection):
            connection.settimeout(1)
            connection.sendall(HEAD)
            try:
                for _ in range(1000000):
                    sent[0] += connection.send(chunk(event("x" * 1000)))
            except OSError:
                is_blocked.set()
    with serving(handle) as port:
        with start(port, "--connections", 1, "--stop-after", 5) as process:
            equal(json.loads(process.stdout.readline()), {"mark": "stopped", "streams": 1})
            check(is_blocked.wait(30), "%d bytes were read", sent[0])
            process.communicate(timeout=30)
    check(process.returncode == 0 and sent[0] < 20 << 20, "%d bytes", sent[0])


# --- WebSocket ----------------------------------------------------------------------------------------------------

def frames_of(data):
    """(opcode, payload) of whole masked frames, and what is left."""
    found = []
    while len(data) >= 6:
        size, at = data[1] & 127, 2
        if size == 126:
            size, at = struct.unpack(">H", data[2:4])[0], 4
        check(data[1] & 128, "a client's frame is masked")
        if len(data) < at + 4 + size:
            break
        mask, payload = data[at:at + 4], data[at + 4:at + 4 + size]
        found.append((data[0], bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))))
        data = data[at + 4 + size:]
    return found, data


def frame(data, opcode=1):
    size = bytes([len(data)]) if len(data) < 126 else struct.pack(">BH", 126, len(data))
    return bytes([128 | opcode]) + size + data


@cases({"at_once": (None,), "by_bytes": (1,)})
def counts_websocket_messages(step):
    """Handshake, a first message, then for each question three tokens, a ping within, and the last."""
    long = b'{"token": "%s", "due_ns_is_not_asked": 1}' % (b"x" * 300)
    answer = frame(long) + frame(b"what?", 9) + frame(b'{"token": 2}') + frame(b"\0\1\2", 2) + frame(b'{"token": 3}') + \
        frame(b'{"answered": 1}')
    seen = {"hello": 0, "pongs": 0}

    def handle(connection, number):
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, data = data.split(b"\r\n\r\n", 1)
        check(head.startswith(b"GET /s HTTP/1.1\r\n") and b"sec-websocket-version: 13" in head, "%r", head)
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n" + frame(b'{"begun": 1}'))
        while True:
            found, data = frames_of(data)
            for opcode, payload in found:
                if opcode == 0x8a:
                    equal(payload, b"what?")
                    seen["pongs"] += 1
                elif payload == b"hello":
                    seen["hello"] += 1
                else:
                    equal((opcode, payload), (0x81, b"question" * 20))
                    for at in range(0, len(answer), step or len(answer)):
                        connection.sendall(answer[at:at + (step or len(answer))])
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
    with serving(handle) as port:
        status, found, errors = streamgen(port, "--path", "/s", "--until", '"answered"', "--connections", 2, "--tokens", 3, "--seconds",
                                          0.3, "--warmup", 0, wire="websocket", request=b"question" * 20, hello=b"hello")
    equal((status, errors, seen["hello"]), (0, "", 2))
    check(found["streams"] > 0 and seen["pongs"] > 0, "%s, %s", found, seen)
    equal(found["tokens"], 3 * found["streams"])


@case
def a_websocket_that_closes_ends_the_run():
    def handle(connection, number):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + frame(struct.pack(">H", 1008) + b"not so", 8))
        connection.recv(65536)
    with serving(handle) as port:
        status, _, errors = streamgen(port, "--path", "/s", "--tokens", 3, "--warmup", 0, wire="websocket", request=b"x")
    equal(status, 1)
    check("not so" in errors, "%r", errors)


# --- the real server -------------------------------------------------------------------------------------------------

CONFIG = b"""name: "tokens" backend: "echo" max_batch_size: 0 model_transaction_policy { decoupled: true }
input [{ name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }]
output [{ name: "token" data_type: TYPE_STRING dims: [ 1 ] }]
parameters { key: "mode" value { string_value: "repeat" } }
parameters { key: "count" value { string_value: "7" } }
"""


def grpc_request():
    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data
    tensor = field(1, b"TEXT") + field(2, b"BYTES") + field(3, b"\1") + field(4, struct.pack("<I", 2) + b"hi")
    message = field(1, b"tokens") + field(4, tensor)
    return struct.pack(">BI", 0, len(message)) + message


def counts_of_the_server(wire, tokens, *arguments, **how):
    with models({"tokens/config.pbtxt": CONFIG, "tokens/1/.keep": b""}) as folder, Server(folder) as server:
        how = {name: value(server) if callable(value) else value for name, value in how.items()}
        return streamgen(server.port, "--tokens", tokens, "--seconds", 0.3, "--warmup", 0, *arguments, wire=wire, **how)


@cases({"connections": (4, 1), "streams": (1, 16), "both": (2, 5)})
def counts_messages_of_grpc(connections, streams):
    status, found, errors = counts_of_the_server("grpc", 7, "--connections", connections, "--streams", streams, "--token", "token",
                                                 "--path", "/penstock.v1.Inference/InferStream", request=grpc_request())
    equal((status, errors), (0, ""))
    check(found["streams"] >= connections * streams, "%s", found)
    equal(found["tokens"], 7 * found["streams"])


@cases({"generate_stream": ("sse", "/v2/models/tokens/generate_stream", "text/event-stream"),
        "predict": ("sse", "/models/tokens:predict", "text/event-stream"),
        "ndjson": ("ndjson", "/models/tokens:predict", "application/x-ndjson")})
def counts_events_of_the_server(wire, path, accept):
    body = b'{"TEXT": "hi"}'
    request = b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\naccept: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        path.encode(), accept.encode(), len(body), body)
    status, found, errors = counts_of_the_server(wire, 7, "--connections", 4, request=request)
    equal((status, errors), (0, ""))
    equal(found["tokens"], 7 * found["streams"])


@case
def a_call_of_another_number_of_messages_ends_the_run():
    status, _, errors = counts_of_the_server("grpc", 8, "--token", "token", "--path", "/penstock.v1.Inference/InferStream",
                                             request=grpc_request())
    equal(status, 1)
    check("after 7 tokens, expected 8" in errors, "%r", errors)


@case
def a_call_that_fails_ends_the_run():
    status, _, errors = counts_of_the_server("grpc", 7, "--path", "/penstock.v1.Inference/Nothing", request=grpc_request())
    equal(status, 1)
    check("grpc-status 0, got 12" in errors, "%r", errors)


if __name__ == "__main__":
    main()
