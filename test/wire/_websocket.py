"""WebSocket frames made by hand, so that they can be wrong, over HTTP/1.1 and over a stream of HTTP/2 (RFC 8441).

`Socket(server)` and `Socket2(server)` are one WebSocket past its handshake: `send` writes bytes as they are, `read` reads one frame,
`close_code` reads until the server's Close and says its code, `ended` waits for the end of the transport.
"""
import base64
import hashlib
import os
import struct
import zlib

from harness import Failed, check, equal
from _frames import DATA, END_STREAM, H2, RST_STREAM
from _wire import Wire

MORE, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def masked(payload, mask=MASK):
    if not mask or not payload:
        return payload
    whole = (mask * (len(payload) // 4 + 1))[:len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(payload), "big")


def frame(opcode, payload=b"", fin=True, rsv=0, mask=MASK, length=None, wide=0):
    """The bytes of a frame. `length` lies about its payload, `wide` (16, 64) writes it longer than it must be."""
    size = len(payload) if length is None else length
    bit = 0x80 if mask else 0
    first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size > 65535 or wide == 64:
        head = first + bytes([127 | bit]) + struct.pack(">Q", size)
    elif size > 125 or wide == 16:
        head = first + bytes([126 | bit]) + struct.pack(">H", size)
    else:
        head = first + bytes([size | bit])
    return head + (mask or b"") + masked(payload, mask)


def close(code=1000, reason=b""):
    return frame(CLOSE, struct.pack(">H", code) + reason)


def deflated(data, level=9):
    """The payload of a compressed message."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
    check(packed.endswith(b"\0\0\xff\xff"), "no sync flush")
    return packed[:-4]


def inflated(data):
    return zlib.decompressobj(-15).decompress(data + b"\0\0\xff\xff")


def key():
    return base64.b64encode(os.urandom(16)).decode()


def accept_of(text):
    return base64.b64encode(hashlib.sha1(text.encode() + GUID).digest()).decode()


class _Frames:
    """What both transports have in common. `data` is what came and is not read yet."""

    def read(self):
        """(opcode, payload) of one frame, checked for form; None at the end of the transport."""
        need = 2
        while True:
            if len(self.data) >= 2:
                size, at = self.data[1] & 0x7F, 2
                if size >= 126:
                    wide = 2 if size == 126 else 8
                    size = int.from_bytes(self.data[2:2 + wide], "big") if len(self.data) >= 2 + wide else 0
                    at += wide
                need = at + size
            if len(self.data) >= need and len(self.data) >= 2:
                break
            if not self.more():
                check(not self.data, "the transport ended within a frame: %r", self.data[:80])
                return None
        first, second = self.data[:2]
        payload, self.data = self.data[at:need], self.data[need:]
        check(not second & 0x80, "a frame of the server is masked")
        check(first & 0x80, "the server fragments")
        opcode, rsv = first & 15, first >> 4 & 7
        check(rsv in (0, 4) and (not rsv or self.deflate and opcode in (TEXT, BINARY)), "reserved bits 0x%x", rsv)
        if rsv:
            self.compressed += 1
            payload = inflated(payload)
        return opcode, payload

    def expect(self, opcode, payload, text=""):
        found = self.read()
        check(found == (opcode, payload), "%s: %.200r came, expected %.200r", text, found, (opcode, payload))

    def close_code(self, text=""):
        """Whatever comes before the server's Close is kept in `before`; its code, its reason in `reason`."""
        self.before = []
        while True:
            found = self.read()
            check(found is not None, "%s: the transport ended without a Close frame; before it: %r", text, self.before[-3:])
            if found[0] == CLOSE:
                check(len(found[1]) != 1 and len(found[1]) <= 125, "a Close frame of %d bytes", len(found[1]))
                self.reason = found[1][2:].decode()
                return struct.unpack(">H", found[1][:2])[0] if found[1] else None
            self.before.append(found)

    def ended(self, text=""):
        """The transport ends, and nothing more is said before it."""
        found = self.read()
        check(found is None, "%s: %r came where the end should be", text, found)


class Socket(_Frames):
    """Over HTTP/1.1."""

    def __init__(self, server, path="/echo", headers=(), extensions=None, protocols=None, behind=b"", seconds=15, wants=101):
        self.wire = Wire(server, seconds)
        self.deflate, self.compressed, self.before, self.reason = False, 0, [], ""
        nonce = key()
        lines = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", nonce)]
        if extensions:
            lines.append(("Sec-WebSocket-Extensions", extensions))
        if protocols:
            lines.append(("Sec-WebSocket-Protocol", protocols))
        text = "GET %s HTTP/1.1\r\nHost: %s\r\n" % (path, self.wire.host)
        text += "".join("%s: %s\r\n" % pair for pair in [*lines, *headers]) + "\r\n"
        self.wire.send(text.encode() + behind)
        self.answer = self.wire.reply()
        equal(self.answer.status, wants, "the handshake: %s" % self.answer)
        if wants == 101:
            equal(self.answer.header("sec-websocket-accept"), accept_of(nonce))
            equal((self.answer.header("upgrade"), self.answer.header("connection").lower()), ("websocket", "upgrade"))
            check(self.answer.header("content-length") is None and self.answer.header("transfer-encoding") is None, "a body of 101")
            self.deflate = (self.answer.header("sec-websocket-extensions") or "").startswith("permessage-deflate")

    @property
    def data(self):
        return self.wire.data

    @data.setter
    def data(self, value):
        self.wire.data = value

    def more(self):
        return self.wire.more()

    def send(self, data):
        self.wire.send(data)

    def stop(self):
        self.wire.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.stop()


class Socket2(_Frames):
    """Over a stream of HTTP/2; `h2` is its connection, or one that is shared."""

    def __init__(self, server, path="/echo", headers=(), extensions=None, protocols=None, behind=b"", h2=None, protocol="websocket",
                 seconds=15, wants=200, method="CONNECT"):
        self.h2 = h2 or H2(server, seconds)
        self.deflate, self.compressed, self.before, self.reason = False, 0, [], ""
        more = [("sec-websocket-version", "13"), *headers]
        if extensions:
            more.append(("sec-websocket-extensions", extensions))
        if protocols:
            more.append(("sec-websocket-protocol", protocols))
        pseudo = [(":protocol", protocol)] if protocol else []
        self.stream = self.h2.request(path, method, [*pseudo, *more], is_end=False)
        if behind:
            self.send(behind)
        self.taken, self.data = 0, b""
        answer = self.h2.answers[self.stream]
        while answer.headers is None and not answer.is_over:
            check(self.h2.read() is not None, "the connection ended: GOAWAY %s", self.h2.away)
        equal(answer.status, wants, "the handshake: %s" % answer)
        self.answer = answer
        if wants == 200:
            names = dict(answer.headers)
            check("sec-websocket-accept" not in names and "connection" not in names, "headers of HTTP/1.1: %s", names)
            self.deflate = names.get("sec-websocket-extensions", "").startswith("permessage-deflate")

    def more(self):
        answer = self.h2.answers[self.stream]
        while len(answer.body) == self.taken and not answer.is_over:
            if self.h2.read() is None:
                raise Failed("the connection ended: GOAWAY %s" % (self.h2.away,))
        self.data += answer.body[self.taken:]
        fresh, self.taken = len(answer.body) > self.taken, len(answer.body)
        return fresh

    def send(self, data):
        self.h2.upload(self.stream, data, is_end=False)

    def half_close(self):
        self.h2.send_frame(DATA, END_STREAM, self.stream)

    def reset(self, code=8):
        self.h2.send_frame(RST_STREAM, 0, self.stream, struct.pack(">I", code))

    def stop(self):
        self.h2.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.stop()
