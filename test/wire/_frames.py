"""HTTP/2 frames made by hand, so that they can be wrong: a connection that says exactly what a test tells it to.

`H2(server)` is one connection past its preface. `send_frame` writes any frame; `request` and `grpc` write good ones; `answer(stream)`
collects what came for a stream; `goaway()` expects that the server ends the connection. SETTINGS and PING are acknowledged, and
windows given back, unless told otherwise. Every wait has an end.
"""
import contextlib
import socket
import struct
import threading
import time

from harness import Failed, check, equal, need
from _wire import still_serves

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NAMES = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"]
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 1, 1, 4, 8, 32
(NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM,
 CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM) = range(12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INFER_PATH = "/inference.GRPCInferenceService/ModelInfer"
LIVE_PATH = "/inference.GRPCInferenceService/ServerLive"


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """The bytes of a frame; `length` lies about its payload."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(values=()):
    return b"".join(struct.pack(">HI", key, value) for key, value in dict(values).items())


def message(data, flag=0, length=None):
    """A gRPC message; `length` lies."""
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


class Answer:
    """What came on one stream."""

    def __init__(self):
        self.headers, self.trailers, self.body = None, None, b""
        self.is_ended, self.reset = False, None

    @property
    def is_over(self):
        return self.is_ended or self.reset is not None

    @property
    def status(self):
        return int(dict(self.headers or {}).get(":status", 0))

    @property
    def grpc(self):
        """(number, text) of grpc-status and grpc-message, wherever they are."""
        import urllib.parse
        found = dict(self.trailers or self.headers or {})
        return (int(found["grpc-status"]) if "grpc-status" in found else None,
                urllib.parse.unquote(found.get("grpc-message", "")))

    @property
    def messages(self):
        found, data = [], self.body
        while data:
            check(len(data) >= 5, "half a message: %r", data)
            flag, size = struct.unpack(">BI", data[:5])
            check(len(data) >= 5 + size, "half a message of %d bytes", size)
            found.append((flag, data[5:5 + size]))
            data = data[5 + size:]
        return found

    def __repr__(self):
        return "headers %s body %r trailers %s reset %s" % (self.headers, self.body[:100], self.trailers, self.reset)


class H2:
    def __init__(self, server, seconds=15, values=(), preface=True, is_acking=True, is_granting=True, window=None, receive=None):
        self.socket = socket.socket()
        if receive:         # before connecting, so that TCP's own window is small as well
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.settimeout(seconds)
        self.socket.connect((server.host, server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server, self.seconds = server, seconds
        self.is_acking, self.is_granting = is_acking, is_granting
        self.data, self.next_stream = b"", 1
        hpack = need("hpack")
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.decoder.max_header_list_size = 1 << 20
        self.answers, self.peer, self.away, self.seen = {}, {}, None, []
        self.block = None
        self.granted = {0: 65535}       # by the peer: for the connection; for a stream, beside its INITIAL_WINDOW_SIZE
        if preface:
            self.send(PREFACE + frame(SETTINGS, payload=settings(values)))
            if window:
                self.send(frame(WINDOW_UPDATE, payload=struct.pack(">I", window)))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.socket.close()

    # -- out

    def send(self, data):
        """Writes all of it; False when the peer has closed. While the peer does not read, what it says is read."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view):]
            except (BrokenPipeError, ConnectionResetError):
                return False
            except socket.timeout:
                raise Failed("the server took nothing for %g s" % self.seconds) from None
        return True

    def send_frame(self, kind, flags=0, stream=0, payload=b"", length=None):
        return self.send(frame(kind, flags, stream, payload, length))

    def open(self):
        """The number of a new stream."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self.answers[stream] = Answer()
        return stream

    def head(self, path, method="POST", more=(), host=None):
        return [(":method", method), (":scheme", "http"), (":path", path), (":authority", host or self.server.address), *more]

    def request(self, path, method="GET", more=(), body=None, is_end=True, stream=None):
        """HEADERS, and DATA if there is a body; returns the stream."""
        stream = stream or self.open()
        block = self.encoder.encode(self.head(path, method, more))
        end = END_STREAM if body is None and is_end else 0
        pieces = [block[i:i + 16384] for i in range(0, len(block), 16384)]
        for i, piece in enumerate(pieces):
            last = END_HEADERS if i == len(pieces) - 1 else 0
            self.send_frame(CONTINUATION if i else HEADERS, last | (0 if i else end), stream, piece)
        if body is not None:
            self.upload(stream, body, is_end)
        return stream

    def upload(self, stream, data, is_end=True):
        """DATA, as far and as fast as the peer's windows allow; stops when the answer is there before."""
        while True:
            initial = self.peer.get(INITIAL_WINDOW_SIZE, 65535)
            room = min(initial + self.granted.get(stream, 0), self.granted[0], 16384, len(data))
            if room <= 0 < len(data):
                if self.answers[stream].is_over or self.read() is None:
                    return
                continue
            self.granted[stream] = self.granted.get(stream, 0) - room
            self.granted[0] -= room
            self.send_frame(DATA, END_STREAM if is_end and room == len(data) else 0, stream, data[:room])
            data = data[room:]
            if not data:
                return

    def grpc(self, path=LIVE_PATH, body=message(b""), more=(), is_end=True):
        """A call; `body` is what DATA carries, prefix and all."""
        return self.request(path, "POST", [("te", "trailers"), ("content-type", "application/grpc"), *more], body, is_end)

    # -- in

    def more(self):
        try:
            piece = self.socket.recv(1 << 16)
        except socket.timeout:
            raise Failed("nothing came within %g s; seen: %s" % (self.seconds, self.seen[-6:])) from None
        except ConnectionResetError:
            return False
        self.data += piece
        return bool(piece)

    def read(self):
        """One frame (kind, flags, stream, payload), dealt with; None at the end of the connection."""
        while len(self.data) < 9 or len(self.data) < 9 + int.from_bytes(self.data[:3], "big"):
            if not self.more():
                return None
        size = int.from_bytes(self.data[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self.data[3:9])
        stream &= 0x7FFFFFFF
        payload, self.data = self.data[9:9 + size], self.data[9 + size:]
        self.seen.append((NAMES[kind] if kind < 10 else kind, flags, stream, size))
        del self.seen[:-50]
        self.take(kind, flags, stream, payload)
        return kind, flags, stream, payload

    def take(self, kind, flags, stream, payload):
        answer = self.answers.setdefault(stream, Answer()) if stream else None
        if kind == SETTINGS and not flags & ACK:
            for i in range(0, len(payload), 6):
                key, value = struct.unpack(">HI", payload[i:i + 6])
                self.peer[key] = value
            if self.is_acking:
                self.send_frame(SETTINGS, ACK)
        elif kind == PING and not flags & ACK and self.is_acking:
            self.send_frame(PING, ACK, payload=payload)
        elif kind == GOAWAY:
            last, code = struct.unpack(">II", payload[:8])
            self.away = (code, last & 0x7FFFFFFF, payload[8:])
        elif kind == WINDOW_UPDATE:
            self.granted[stream] = self.granted.get(stream, 0) + struct.unpack(">I", payload)[0]
        elif kind == RST_STREAM:
            answer.reset = struct.unpack(">I", payload)[0]
        elif kind == DATA:
            check(not flags & PADDED, "the server pads")
            answer.body += payload
            answer.is_ended |= bool(flags & END_STREAM)
            if self.is_granting and payload:
                update = struct.pack(">I", len(payload))
                self.send(frame(WINDOW_UPDATE, payload=update) +
                          (b"" if answer.is_ended else frame(WINDOW_UPDATE, stream=stream, payload=update)))
        elif kind in (HEADERS, CONTINUATION):
            if kind == HEADERS:
                self.block = (b"", flags)
            self.block = (self.block[0] + payload, self.block[1])
            if flags & END_HEADERS:
                found = [(str(name, "utf-8") if isinstance(name, bytes) else name,
                          str(value, "utf-8") if isinstance(value, bytes) else value)
                         for name, value in self.decoder.decode(self.block[0])]
                if answer.headers is None and not dict(found).get(":status", "").startswith("1"):
                    answer.headers = found
                elif answer.headers is not None:
                    answer.trailers = found
                answer.is_ended |= bool(self.block[1] & END_STREAM)
                self.block = None

    def answer(self, stream):
        """Everything of a stream, once it is over."""
        while not self.answers[stream].is_over:
            if self.read() is None:
                raise Failed("the connection ended before the answer on stream %d: %s, GOAWAY %s" %
                             (stream, self.answers[stream], self.away))
        return self.answers[stream]

    def goaway(self, code=None, text=""):
        """The server ends the connection with a GOAWAY of this code (or one of several); returns its debug text."""
        while self.read() is not None:
            pass
        check(self.away is not None, "%s: the connection ended without GOAWAY; seen: %s", text, self.seen[-6:])
        codes = code if isinstance(code, tuple) else (code,)
        check(code is None or self.away[0] in codes, "%s: GOAWAY says %d (%r), expected %s", text, self.away[0], self.away[2], code)
        return self.away[2].decode()

    def ping(self):
        """Everything said before was taken in: waits for the answer to a PING."""
        word = struct.pack(">Q", 0x1122334455667788)
        self.send_frame(PING, payload=word)
        while True:
            found = self.read()
            check(found is not None, "the connection ended: GOAWAY %s", self.away)
            if found[0] == PING and found[1] & ACK and found[3] == word:
                return

    def is_open(self):
        """It still serves: a call on it is answered."""
        answer = self.answer(self.grpc())
        equal(answer.grpc[0], 0, "a call on the connection: %s" % answer)


def infer_message(model="iris", raw=None, flag=0, **others):
    """ModelInferRequest, framed: of iris a good one; else FP32 of one dimension."""
    pb = need("tritonclient.grpc.service_pb2")
    request = pb.ModelInferRequest(model_name=model, **others)
    if model == "iris" and raw is None:
        request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
        raw = struct.pack("<4f", 5.1, 3.5, 1.4, 0.2)
    else:
        request.inputs.add(name="IN", datatype="FP32", shape=[len(raw) // 4])
    request.raw_input_contents.append(raw)
    return message(request.SerializeToString(), flag)


def ask(server, body, path=INFER_PATH, more=(), is_end=True, seconds=15):
    """One call on a connection of its own."""
    with H2(server, seconds) as h2:
        return h2.answer(h2.grpc(path, body, more, is_end))


@contextlib.contextmanager
def bystander(server):
    """Another client, over gRPC and REST, that is served while the block does what it does."""
    ended, failed, count = threading.Event(), [], [0]

    def work():
        try:
            h2 = H2(server, 30)
            while not ended.is_set():
                if h2.away:         # a limit of every connection, told in good time
                    h2.socket.close()
                    h2 = H2(server, 30)
                h2.is_open()
                if count[0] % 20 == 0:
                    still_serves(server)
                count[0] += 1
                time.sleep(0.001)
            h2.socket.close()
        except BaseException as error:      # noqa: told below
            failed.append(error)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        time.sleep(0.05)
        ended.set()
        thread.join(60)
    check(not failed, "another client was not served meanwhile: %s", failed)
    check(count[0] >= 3, "another client made only %d calls meanwhile", count[0])
