"""A WebSocket by hand (RFC 6455), for tests that cut it off at any byte: no library would."""
import base64
import os
import socket
import struct

from harness import Failed, check

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Refused(Exception):
    """The handshake was answered with something else; .status, .body."""

    def __init__(self, status, body):
        super().__init__("%d %r" % (status, body))
        self.status, self.body = status, body


class Socket:
    def __init__(self, server, path, headers=(), seconds=20):
        self.socket = socket.create_connection((server.host, server.port), seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        lines = ["GET %s HTTP/1.1" % path, "host: %s" % server.address, "upgrade: websocket", "connection: upgrade",
                 "sec-websocket-version: 13", "sec-websocket-key: " + base64.b64encode(os.urandom(16)).decode()]
        lines += ["%s: %s" % pair for pair in headers]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while b"\r\n\r\n" not in self.data:
            self._more()
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        status = int(head.split(b" ", 2)[1])
        if status != 101:
            length = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
            while length and len(self.data) < length[0]:
                self._more()
            raise Refused(status, self.data)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.socket.close()

    def _more(self):
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionResetError("the connection ended")
        self.data += piece

    def send(self, message, kind=None):
        """A str as text, bytes as binary."""
        kind = kind or (TEXT if isinstance(message, str) else BINARY)
        payload = message.encode() if isinstance(message, str) else message
        mask = os.urandom(4)
        size = len(payload)
        head = bytes([0x80 | kind])
        head += bytes([0x80 | size]) if size < 126 else struct.pack("!BH", 0xfe, size) if size < 65536 else struct.pack(
            "!BQ", 0xff, size)
        self.socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))

    def _frame(self):
        while True:
            if len(self.data) >= 2:
                size, at = self.data[1] & 0x7f, 2
                wide = {126: ("!H", 2), 127: ("!Q", 8)}.get(size)
                if wide and len(self.data) >= 2 + wide[1]:
                    size, at = struct.unpack(wide[0], self.data[2:2 + wide[1]])[0], 2 + wide[1]
                    wide = None
                if not wide and len(self.data) >= at + size:
                    kind, payload = self.data[0] & 15, self.data[at:at + size]
                    check(self.data[0] & 0x80, "a fragment")
                    self.data = self.data[at + size:]
                    return kind, payload
            self._more()

    def recv(self):
        """The next message: str or bytes; (code, reason) of a Close. Pings are answered."""
        while True:
            kind, payload = self._frame()
            if kind == TEXT:
                return payload.decode()
            if kind == BINARY:
                return payload
            if kind == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                return code, payload[2:].decode()
            if kind == PING:
                self.send(payload, PONG)
            elif kind != PONG:
                raise Failed("frame of kind %d" % kind)

    def close(self, code=1000):
        self.send(struct.pack("!H", code), CLOSE)

    def cut(self):
        """Away without a word: a reset, as when the power fails."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
