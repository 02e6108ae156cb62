"""WebSocket, frame by frame: RFC 6455's sections 5 to 7 as a table, over HTTP/1.1 and HTTP/2; handshakes; limits; bad manners."""
import os
import random
import signal
import socket
import struct
import threading
import time

from harness import case, cases, check, equal, main
from _frames import H2, PROTOCOL_ERROR
from _wire import Wire, ask, metric, resident, serving, still_serves, until
from _websocket import (BINARY, CLOSE, MORE, PING, PONG, TEXT, Socket, Socket2, accept_of, close, deflated, frame, key)

ECHO = ("--test-services",)
DEFLATE = "permessage-deflate; client_max_window_bits"
KINDS = {"http1": Socket, "http2": Socket2}


def closes(server, code):
    return metric(server, "penstock_websocket_closes_total", code=str(code)) or 0


def hits(server, limit):
    return metric(server, "penstock_limit_hits_total", limit=limit) or 0


def open_now(server):
    return metric(server, "penstock_websocket_connections_open")


# --- RFC 6455, sections 5 to 7 ---------------------------------------------------------------------

def text(payload, **more):
    return frame(TEXT, payload.encode() if isinstance(payload, str) else payload, **more)


FINE = "κόσμε".encode()
BIG = bytes(range(256)) * 300
# name: what the client says, what the server says before its Close, the code of that. 1000 with a Close of the client's at the end.
RULES = {
    # 5.6: data
    "text": ([text("hello"), close()], [(TEXT, b"hello")], 1000),
    "binary": ([frame(BINARY, b"\0\xff"), close()], [(BINARY, b"\0\xff")], 1000),
    "empty": ([text(""), frame(BINARY), close()], [(TEXT, b""), (BINARY, b"")], 1000),
    "lengths": ([frame(BINARY, b"x" * size) for size in (125, 126, 127, 128, 1018, 1024, 65535, 65536)] + [close()],
                [(BINARY, b"x" * size) for size in (125, 126, 127, 128, 1018, 1024, 65535, 65536)], 1000),
    "large": ([frame(BINARY, BIG), close()], [(BINARY, BIG)], 1000),
    "a mask of zeros": ([text("hello", mask=b"\0\0\0\0"), close()], [(TEXT, b"hello")], 1000),
    # 5.1: masks
    "unmasked": ([text("hello", mask=None)], [], 1002),
    "unmasked ping": ([frame(PING, mask=None)], [], 1002),
    "unmasked behind a good one": ([text("a"), text("b", mask=None)], [(TEXT, b"a")], 1002),
    # 5.2: lengths in their shortest form
    "125 in 16 bits": ([frame(BINARY, b"x" * 125, wide=16)], [], 1002),
    "126 in 64 bits": ([frame(BINARY, b"x" * 126, wide=64)], [], 1002),
    "the first bit of 64": ([frame(BINARY, b"", length=1 << 63)], [], 1002),
    # 5.2: reserved bits
    **{"rsv %d of %s" % (rsv, name): ([text("good"), frame(opcode, b"x", rsv=rsv)], [(TEXT, b"good")], 1002)
       for rsv in (1, 2, 4, 7) for opcode, name in ((TEXT, "text"), (BINARY, "binary"), (PING, "ping"), (CLOSE, "close"))},
    "rsv 4 of a continuation": ([text("a", fin=False), frame(MORE, b"b", rsv=4)], [], 1002),
    # 5.2: reserved opcodes
    **{"opcode %d" % opcode: ([text("good"), frame(opcode, b"x"), text("never")], [(TEXT, b"good")], 1002)
       for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "opcode 3 amid fragments": ([text("a", fin=False), frame(3), frame(MORE, b"b")], [], 1002),
    # 5.4: fragmentation
    "two fragments": ([text("hel", fin=False), frame(MORE, b"lo"), close()], [(TEXT, b"hello")], 1000),
    "empty fragments": ([text("", fin=False), frame(MORE, fin=False), frame(MORE), close()], [(TEXT, b"")], 1000),
    "many fragments": ([frame(BINARY, b"0", fin=False)] + [frame(MORE, b"%d" % (i % 10), fin=False) for i in range(1, 999)] +
                       [frame(MORE, b"9"), close()], [(BINARY, b"0123456789" * 100)], 1000),
    "a ping between": ([text("hel", fin=False), frame(PING, b"p"), frame(MORE, b"lo"), close()],
                       [(PONG, b"p"), (TEXT, b"hello")], 1000),
    "pings and pongs between": ([text("a", fin=False), frame(PING, b"1"), frame(MORE, b"b", fin=False), frame(PONG, b"x"),
                                 frame(PING, b"2"), frame(MORE, b"c"), close()],
                                [(PONG, b"1"), (PONG, b"2"), (TEXT, b"abc")], 1000),
    "a close between": ([text("hel", fin=False), close(1001), frame(MORE, b"lo")], [], 1001),
    "a continuation of nothing": ([frame(MORE, b"x")], [], 1002),
    "a continuation of nothing, not final": ([frame(MORE, b"x", fin=False)], [], 1002),
    "a continuation behind the end": ([text("a", fin=False), frame(MORE, b"b"), frame(MORE, b"c")], [(TEXT, b"ab")], 1002),
    "text within text": ([text("a", fin=False), text("b")], [], 1002),
    "binary within text": ([text("a", fin=False), frame(BINARY, b"b", fin=False)], [], 1002),
    # 5.5: control frames
    "ping": ([frame(PING, b"hello"), close()], [(PONG, b"hello")], 1000),
    "empty ping": ([frame(PING), close()], [(PONG, b"")], 1000),
    "ping of 125": ([frame(PING, b"x" * 125), close()], [(PONG, b"x" * 125)], 1000),
    "ping of 126": ([frame(PING, b"x" * 126)], [], 1002),
    "ten pings": ([frame(PING, b"%d" % i) for i in range(10)] + [close()], [(PONG, b"%d" % i) for i in range(10)], 1000),
    "a pong that nobody asked for": ([frame(PONG, b"x"), frame(PING, b"y"), close()], [(PONG, b"y")], 1000),
    "fragmented ping": ([frame(PING, b"x", fin=False)], [], 1002),
    "fragmented ping and its rest": ([frame(PING, b"x", fin=False), frame(MORE, b"y")], [], 1002),
    "fragmented close": ([frame(CLOSE, b"\x03\xe8", fin=False)], [], 1002),
    "close of 126": ([frame(CLOSE, b"\x03\xe8" + b"x" * 124)], [], 1002),
    # 5.5.1, 7.1, 7.4: closing
    "close without a code": ([frame(CLOSE)], [], None),
    "half a code": ([frame(CLOSE, b"\x03")], [], 1002),
    "a reason": ([close(1000, b"bye")], [], 1000),
    "a reason of 123": ([close(1000, b"x" * 123)], [], 1000),
    "a reason that is no UTF-8": ([close(1000, b"\xce\xba\xe1")], [], 1007),
    **{"close %d" % code: ([close(code)], [], code)
       for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)},
    **{"close %d, which may not be sent" % code: ([close(code)], [], 1002)
       for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)},
    "a message behind the close": ([text("a"), close(), text("b"), frame(PING)], [(TEXT, b"a")], 1000),
    "two closes": ([close(1000), close(1001)], [], 1000),
    # 8.1: text is UTF-8
    "greek": ([text(FINE), close()], [(TEXT, FINE)], 1000),
    "greek, a byte a fragment": ([text(FINE[:1], fin=False)] + [frame(MORE, FINE[i:i + 1], fin=False) for i in range(1, len(FINE))] +
                                 [frame(MORE), close()], [(TEXT, FINE)], 1000),
    **{"bad UTF-8 %s" % bad.hex(): ([text(b"good" + bad + b"x")], [], 1007)
       for bad in (b"\xff", b"\x80", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80",
                   b"\xf8\x88\x80\x80\x80", b"\xc3(")},
    "a character cut at the end": ([text(b"good\xe2\x82")], [], 1007),
    "bad in the middle of fragments, and the message never ends": ([text("good", fin=False), frame(MORE, b"\xff", fin=False)], [], 1007),
    "bad in a frame that never ends": ([frame(TEXT, b"\xf4\x90", length=1000)], [], 1007),
    "binary may be anything": ([frame(BINARY, b"\xff\xfe"), close()], [(BINARY, b"\xff\xfe")], 1000),
}


def follow_rule(server, kind, name, step=0):
    said, expected, code = RULES[name]
    said = b"".join(said)
    with KINDS[kind](server) as ws:
        for at in range(0, len(said), step or len(said)):
            ws.send(said[at:at + (step or len(said))])
            if step and at < 40:        # apart in time, too
                time.sleep(0.001)
        equal(ws.close_code(name), code, name)
        equal(ws.before, expected, name)
        ws.ended(name)


@cases({"http1": ("http1", 0), "http2": ("http2", 0), "http1_byte_by_byte": ("http1", 1), "http2_in_sevens": ("http2", 7)})
def rules(kind, step):
    """Every row; those that are long are not sent byte by byte."""
    failed = []
    with serving(options=ECHO) as server:
        for name, (said, _, _) in RULES.items():
            if step and sum(map(len, said)) > 3000:
                continue
            try:
                follow_rule(server, kind, name, step)
            except Exception as error:          # noqa: all rows are looked at
                failed.append("%s: %s" % (name, error))
        until(lambda: open_now(server) == 0, "none stays open")
    check(not failed, "%d of %d rules: %s", len(failed), len(RULES), "; ".join(failed))


@case
def what_is_refused_is_refused_with_its_head():
    """No payload has come yet, and none is waited for."""
    with serving(options=(*ECHO, "--max-message", "1000")) as server:
        for kind in KINDS.values():
            for said, code in ((frame(BINARY, length=1001), 1009), (b"\x81\x05", 1002), (b"\x83\x85abcd", 1002), (b"\xc1\x85abcd", 1002),
                               (b"\x80\x85abcd", 1002), (b"\x09\x85abcd", 1002), (b"\x89\xfe\x00\x7eabcd", 1002)):
                with kind(server) as ws:
                    ws.send(said)
                    equal(ws.close_code(repr(said)), code, repr(said))


# --- handshakes ------------------------------------------------------------------------------------

HEAD = {"Host": None, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": None}
HANDSHAKES = {
    "usual": ({}, 101),
    "case does not matter": ({"Connection": "keep-alive, uPGRADE", "Upgrade": "WebSocket"}, 101),
    "among others": ({"Upgrade": "h2c, websocket"}, 101),
    "no Connection": ({"Connection": "keep-alive"}, 426),
    "no Upgrade": ({"Upgrade": None}, 426),
    "another protocol": ({"Upgrade": "h2c"}, 426),
    "no version": ({"Sec-WebSocket-Version": None}, 426),
    "version 8": ({"Sec-WebSocket-Version": "8"}, 426),
    "no key": ({"Sec-WebSocket-Key": None}, 400),
    "a short key": ({"Sec-WebSocket-Key": "abcd"}, 400),
    "a key of 15 bytes": ({"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAA"}, 400),
    "another site's page": ({"Origin": "https://evil.example"}, 403),
    "another host's name": ({"Host": "evil.example"}, 403),
    "a subprotocol that nobody asks for here": ({"Sec-WebSocket-Protocol": "chat"}, 101),
}


@case
def handshakes():
    with serving(options=ECHO) as server:
        for name, (changes, status) in HANDSHAKES.items():
            with Wire(server) as wire:
                nonce = key()
                headers = dict(HEAD, Host=wire.host, **{"Sec-WebSocket-Key": nonce})
                headers.update(changes)
                wire.send("GET /echo HTTP/1.1\r\n" + "".join("%s: %s\r\n" % pair for pair in headers.items() if pair[1]) + "\r\n")
                reply = wire.reply()
                equal(reply.status, status, name)
                if status == 101:
                    equal(reply.header("sec-websocket-accept"), accept_of(nonce), name)
                if status == 426:
                    equal((reply.header("sec-websocket-version"), reply.header("upgrade")), ("13", "websocket"), name)
        equal(metric(server, "penstock_websocket_refused_total"), 8)
        with Socket(server, headers=[("Origin", server.url)]) as ws:      # its own page
            ws.send(text("x"))
            ws.expect(TEXT, b"x")
        still_serves(server)


@case
def an_origin_that_is_allowed():
    with serving(options=(*ECHO, "--cors-origin", "https://app.example")) as server:
        with Socket(server, headers=[("Origin", "https://app.example")]) as ws:
            ws.send(text("x"))
            ws.expect(TEXT, b"x")
        Socket(server, headers=[("Origin", "https://other.example")], wants=403).stop()
        Socket2(server, headers=[("origin", "https://other.example")], wants=403).stop()


@case
def not_without_test_services():
    with serving() as server:
        Socket(server, wants=404).stop()
        Socket2(server, wants=404).stop()


@cases({"http/1.0": ("GET /echo HTTP/1.0", "", 426), "post": ("POST /echo HTTP/1.1", "Content-Length: 0\r\n", 405),
        "body": ("GET /echo HTTP/1.1", "Content-Length: 3\r\n", 426), "elsewhere": ("GET /nothing HTTP/1.1", "", 404)})
def no_tunnel(line, more, status):
    with serving(options=ECHO) as server, Wire(server) as wire:
        wire.send("%s\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: %s\r\n%s\r\n%s" % (line, wire.host, key(), more, "abc" if "3" in more else ""))
        equal(wire.reply().status, status)
        still_serves(server)


@case
def an_answer_that_is_no_tunnel_is_an_answer():
    """What asks for a WebSocket and is none is answered as ever, and the connection ends: what follows would be frames."""
    with serving(options=ECHO) as server:
        with Wire(server) as wire:
            wire.send("GET /v2/health/live HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (wire.host, key()))
            wire.send(text("GET / HTTP/1.1\r\nHost: a\r\n\r\n", mask=b"\0\0\0\0"))
            reply = wire.reply()
            equal((reply.status, reply.header("connection")), (200, "close"))
            wire.closed()
        ws = Socket2(server, path="/v2/health/live", wants=501)     # 200 would say that it is one
        equal(ws.answer.body, b"")
        ws.stop()


@case
def frames_right_behind_the_handshake():
    with serving(options=ECHO) as server:
        for kind in KINDS.values():
            with kind(server, behind=text("early") + frame(PING, b"p") + frame(BINARY, BIG) + close()) as ws:
                equal(ws.close_code(), 1000)
                equal(ws.before, [(TEXT, b"early"), (PONG, b"p"), (BINARY, BIG)])
                ws.ended()


# --- HTTP/2's own ----------------------------------------------------------------------------------

@case
def extended_connect():
    with serving(options=ECHO) as server, H2(server) as h2:
        h2.ping()
        equal(h2.peer.get(8), 1, "SETTINGS_ENABLE_CONNECT_PROTOCOL")
        with_other = Socket2(server, h2=h2, protocol="other", wants=501)
        check(b"websocket" in h2.answer(with_other.stream).body, "it says what is offered")
        plain = h2.open()
        block = h2.encoder.encode([(":method", "CONNECT"), (":authority", "example.org:80")])
        h2.send_frame(1, 4, plain, block)
        equal(h2.answer(plain).status, 501)
        stream = h2.request("/echo", "GET", [(":protocol", "websocket")], is_end=False)     # RFC 8441 4: only with CONNECT
        equal(h2.answer(stream).reset, PROTOCOL_ERROR)
        ask_plain = h2.request("/echo", "GET")
        equal(h2.answer(ask_plain).status, 400)
        one, two = Socket2(server, h2=h2), Socket2(server, h2=h2)      # and others beside them
        one.send(text("one"))
        two.send(text("two"))
        two.expect(TEXT, b"two")
        one.expect(TEXT, b"one")
        h2.is_open()
        one.reset()
        until(lambda: open_now(server) == 1, "the reset one is gone")
        two.half_close()
        until(lambda: open_now(server) == 0, "so is one whose peer says no more")
        check(h2.answer(two.stream).is_ended, "its other half is ended")
        equal(closes(server, 1006), 2)
        h2.is_open()


@case
def windows_hold_over_http2():
    """An echo that is not read does not read: what is under way is bounded by windows."""
    with serving(options=ECHO) as server, H2(server, is_granting=False) as h2:
        ws = Socket2(server, h2=h2)
        sent = 0
        piece = frame(BINARY, bytes(50000))
        end = time.monotonic() + 2
        while time.monotonic() < end and sent < 20 << 20:
            room = min(h2.peer.get(4, 65535) + h2.granted.get(ws.stream, 0), h2.granted[0])
            if room < len(piece):
                h2.socket.settimeout(0.3)
                try:
                    if h2.read() is None:
                        break
                except Exception:       # noqa: nothing comes any more: full
                    break
                continue
            ws.send(piece)
            sent += len(piece)
        check(sent < 4 << 20, "%d bytes were taken from a peer that reads nothing", sent)
        still_serves(server)


# --- compression -----------------------------------------------------------------------------------

@cases({"http1": ("http1",), "http2": ("http2",)})
def compressed(kind):
    words = b"a word and a word and another " * 100
    with serving(options=ECHO) as server:
        with KINDS[kind](server, extensions=DEFLATE) as ws:
            check(ws.deflate, "not agreed on: %s", ws.answer)
            ws.send(frame(TEXT, deflated(words), rsv=4))
            ws.expect(TEXT, words)
            equal(ws.compressed, 1, "text is sent compressed")
            for i in range(3):          # each on its own: no context is taken over
                ws.send(frame(TEXT, deflated(words), rsv=4))
                ws.expect(TEXT, words)
            packed = deflated(words)
            ws.send(frame(BINARY, packed[:9], rsv=4, fin=False) + frame(PING) + frame(MORE, packed[9:]))
            ws.expect(PONG, b"")
            ws.expect(BINARY, words)
            ws.send(text("plain") + frame(TEXT, deflated(b""), rsv=4) + frame(TEXT, b"", rsv=4))
            for payload in (b"plain", b"", b""):
                ws.expect(TEXT, payload)
            ws.send(frame(TEXT, deflated(b"\xff"), rsv=4))
            equal(ws.close_code(), 1007, "text that is no UTF-8 once it is inflated")
        for bad in (b"\xff\xff\xff\xff", packed[:-9], b"\x00\x05\x00\x05\x00hello"):
            with KINDS[kind](server, extensions=DEFLATE) as ws:
                ws.send(frame(BINARY, bad, rsv=4))
                equal(ws.close_code(), 1007, repr(bad[:8]))
        check(metric(server, "penstock_websocket_compressed_messages_total", direction="in") >= 7, "counted")
        with KINDS[kind](server, extensions="x-unknown, permessage-deflate; server_max_window_bits=9") as ws:
            ws.send(frame(TEXT, words))
            ws.expect(TEXT, words)
            equal(ws.compressed, 1)
        with KINDS[kind](server, extensions="permessage-deflate; server_max_window_bits=8") as ws:
            check(not ws.deflate, "8 bits are not possible with zlib")
    with serving(options=(*ECHO, "--no-websocket-deflate")) as server, KINDS[kind](server, extensions=DEFLATE) as ws:
        check(not ws.deflate, "--no-websocket-deflate")


@case
def bombs():
    with serving(options=(*ECHO, "--max-message", "64MiB")) as server:
        before = resident(server)
        bomb = deflated(bytes(60 << 20))
        check(len(bomb) < 70000, "%d bytes", len(bomb))
        for i in range(20):
            with Socket(server, extensions=DEFLATE) as ws:
                ws.send(frame(BINARY, bomb, rsv=4))
                equal(ws.close_code(), 1009)
                check("times its size" in ws.reason, "%s", ws.reason)
        equal(hits(server, "max-message"), 20)
        check(resident(server) - before < 40 << 20, "%d MiB more", resident(server) - before >> 20)
        fair = os.urandom(3 << 20).hex().encode()       # half its size: no bomb
        with Socket(server, extensions=DEFLATE) as ws:
            ws.send(frame(BINARY, deflated(fair, 1), rsv=4))
            ws.expect(BINARY, fair)


# --- limits ----------------------------------------------------------------------------------------

@cases({"http1": ("http1",), "http2": ("http2",)})
def messages_that_are_too_large(kind):
    with serving(options=(*ECHO, "--max-message", "100KB")) as server:
        with KINDS[kind](server) as ws:
            ws.send(frame(BINARY, bytes(100000)))
            ws.expect(BINARY, bytes(100000))
            ws.send(frame(BINARY, bytes(60000), fin=False) + frame(MORE, bytes(40000), fin=False) + frame(MORE))
            ws.expect(BINARY, bytes(100000))
            ws.send(frame(BINARY, bytes(60000), fin=False) + frame(MORE, bytes(40001)))
            equal(ws.close_code(), 1009)
            check("--max-message" in ws.reason, "%s", ws.reason)
        with KINDS[kind](server) as ws:
            ws.send(frame(BINARY, length=1 << 40))
            equal(ws.close_code(), 1009, "a terabyte is refused by its length")
        with KINDS[kind](server, extensions=DEFLATE) as ws:
            ws.send(frame(BINARY, deflated(bytes(100001)), rsv=4))
            equal(ws.close_code(), 1009, "or when it is inflated")
        equal(hits(server, "max-message"), 3)
        equal(closes(server, 1009), 3)


@case
def memory_limit():
    """Messages are charged as they come; who is too many is told to try later."""
    with serving(options=(*ECHO, "--memory-limit", "8MiB", "--max-message", "6MiB")) as server:
        held = [Socket(server) for _ in range(4)]
        for ws in held:
            ws.send(frame(BINARY, bytes(3 << 20), length=6 << 20))
        codes = []
        for ws in held:
            ws.wire.socket.settimeout(0.5)
            try:
                codes.append(ws.close_code())
            except Exception:       # noqa: one that fits waits for its rest
                codes.append(0)
        check(1013 in codes and 0 in codes, "%s", codes)
        for ws in held:
            ws.stop()
        until(lambda: open_now(server) == 0, "they are gone")
        with Socket(server) as ws:
            ws.send(frame(BINARY, bytes(3 << 20)))
            ws.expect(BINARY, bytes(3 << 20))


@case
def a_message_that_stands_still():
    with serving(options=(*ECHO, "--body-timeout", "400ms", "--body-rate-min", "0")) as server:
        for kind in KINDS.values():
            for half in (b"\x81", frame(TEXT, b"hel", length=5), text("hel", fin=False)):
                with kind(server) as ws:
                    begun = time.monotonic()
                    ws.send(half)
                    equal(ws.close_code(repr(half)), 1008, repr(half))
                    check("--body-timeout" in ws.reason, "%s", ws.reason)
                    check(0.3 < time.monotonic() - begun < 3, "%g s", time.monotonic() - begun)
        equal(hits(server, "body-timeout"), 6)
        with Socket(server) as ws:      # between messages there is no such time
            time.sleep(0.8)
            ws.send(text("late"))
            ws.expect(TEXT, b"late")


@case
def a_byte_now_and_then():
    with serving(options=(*ECHO, "--body-rate-min", "1KiB")) as server, Socket(server) as ws, Socket(server) as fair:
        stopped = threading.Event()

        def drip():
            ws.send(frame(BINARY, length=100000))
            while not stopped.wait(0.2):
                ws.send(b"x")
        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        try:
            fair.send(text("hel", fin=False))       # fragments may come as they are made
            equal(ws.close_code(), 1008)
            check("--body-rate-min" in ws.reason, "%s", ws.reason)
            check(4 < time.monotonic() - begun < 9, "%g s", time.monotonic() - begun)
            fair.send(frame(MORE, b"lo"))
            fair.expect(TEXT, b"hello")
        finally:
            stopped.set()
            thread.join()
        equal(hits(server, "body-rate-min"), 1)


@case
def pings():
    options = (*ECHO, "--websocket-ping", "200ms", "--websocket-pong-timeout", "300ms")
    with serving(options=options) as server:
        for kind in KINDS.values():
            with kind(server) as ws:
                for _ in range(3):
                    opcode, payload = ws.read()
                    equal(opcode, PING)
                    ws.send(frame(PONG, payload))
                ws.expect(PING, b"")
                ws.send(text("anything is a sign of life"))
                ws.expect(TEXT, b"anything is a sign of life")
                ws.expect(PING, b"")
                begun = time.monotonic()
                equal(ws.close_code(), 1011)
                check("--websocket-pong-timeout" in ws.reason, "%s", ws.reason)
                check(0.2 < time.monotonic() - begun < 2, "%g s", time.monotonic() - begun)
        equal(metric(server, "penstock_websocket_pings_unanswered_total"), 2)
        equal(hits(server, "websocket-pong-timeout"), 2)
        until(lambda: open_now(server) == 0, "gone")
    with serving(options=(*ECHO, "--websocket-ping", "0")) as server, Socket(server) as ws:
        check(ws.wire.is_open(0.5), "0 is never")


@case
def a_tunnel_may_rest():
    """Times of requests are none of its own."""
    options = (*ECHO, "--header-timeout", "200ms", "--idle-timeout", "200ms", "--body-timeout", "200ms", "--keepalive-time", "0")
    with serving(options=options) as server, Socket(server) as one, Socket2(server) as two:
        time.sleep(1.2)
        for ws in (one, two):
            ws.send(text("still here"))
            ws.expect(TEXT, b"still here")


# --- readers ---------------------------------------------------------------------------------------

@case
def one_that_never_reads():
    """Echoes of 64 KiB that nobody reads: reading stops, memory stays, and the connection is cut."""
    with serving(options=(*ECHO, "--write-timeout", "1s")) as server, Socket(server) as good:
        before = resident(server)
        piece = frame(BINARY, bytes(65536))
        wires = [Socket(server) for _ in range(20)]
        for ws in wires:
            ws.wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            ws.wire.socket.settimeout(0.05)
        sent = 0
        for _ in range(100):
            for ws in wires:
                try:
                    sent += ws.wire.socket.send(piece)
                except OSError:
                    pass
        check(resident(server) - before < 60 << 20, "%d MiB more", resident(server) - before >> 20)
        good.send(text("others are served"))
        good.expect(TEXT, b"others are served")
        until(lambda: open_now(server) == 1, "they are cut", 20)
        check(hits(server, "write-timeout") >= 20, "and counted")
        for ws in wires:
            ws.stop()


@case
def pings_without_end():
    """Who pings and never reads gets no pile of pongs."""
    with serving(options=(*ECHO, "--write-timeout", "2s")) as server:
        before = resident(server)
        with Socket(server) as ws:
            ws.wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            ws.wire.socket.settimeout(0.2)
            many = frame(PING, b"x" * 125) * 1000
            try:
                for _ in range(200):
                    ws.wire.socket.sendall(many)
            except OSError:
                pass
            check(resident(server) - before < 10 << 20, "%d MiB more", resident(server) - before >> 20)
        until(lambda: open_now(server) == 0, "gone")
        still_serves(server)


@case
def callers_who_leave():
    with serving(options=ECHO) as server:
        wires = [Socket(server) for _ in range(50)]
        equal(open_now(server), 50)
        for i, ws in enumerate(wires):
            ws.send([b"", b"\x81", frame(TEXT, b"hel", length=5), text("whole"), text("half", fin=False)][i % 5])
            if i % 2:
                ws.wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ws.stop()
        until(lambda: open_now(server) == 0, "all are gone")
        equal(closes(server, 1006), 50)


@case
def noise():
    """Random bytes behind a handshake, and good frames with a byte changed: each ends or goes on, and nobody else notices."""
    random.seed(6455)
    with serving(options=(*ECHO, "--body-timeout", "1s")) as server:
        for i in range(300):
            with Socket(server, extensions=DEFLATE if i % 2 else None) as ws:
                if i % 3 == 0:
                    said = os.urandom(random.randrange(1, 300))
                else:
                    said = bytearray(text("hello") + frame(PING, b"x") + frame(BINARY, BIG[:2000]) +
                                     (frame(TEXT, deflated(b"some words " * 50), rsv=4) if i % 2 else b"") + close())
                    for _ in range(random.randrange(1, 4)):
                        said[random.randrange(len(said))] = random.randrange(256)
                ws.send(bytes(said))
                ws.wire.socket.settimeout(0.02)
                try:
                    while ws.more():
                        pass
                except Exception:       # noqa: it waits for more
                    pass
        until(lambda: open_now(server) == 0, "all are gone")
        still_serves(server)


# --- stopping --------------------------------------------------------------------------------------

@case
def a_server_that_stops_says_1001():
    with serving(options=ECHO) as server:
        one, two = Socket(server), Socket2(server)
        for ws in (one, two):
            ws.send(text("x"))
            ws.expect(TEXT, b"x")
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for ws in (one, two):
            equal(ws.close_code(), 1001)
            ws.send(text("dropped") + close(1001))
            ws.ended()
            ws.stop()
        equal(server.process.wait(10), 0)
        check(time.monotonic() - begun < 3, "%g s", time.monotonic() - begun)
        server.start()          # for the end of the block
    with serving(options=(*ECHO, "--websocket-close-timeout", "300ms")) as server, Socket(server) as ws:
        ws.send(text("x"))
        ws.expect(TEXT, b"x")
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        equal(ws.close_code(), 1001)
        ws.ended("a Close that nobody answers")
        check(0.2 < time.monotonic() - begun < 3, "%g s", time.monotonic() - begun)
        ws.stop()
        equal(server.process.wait(10), 0)
        server.start()


@case
def a_connection_that_is_old_says_1001():
    with serving(options=(*ECHO, "--connection-age", "500ms", "--connection-age-grace", "10s")) as server, Socket2(server) as ws:
        equal(ws.close_code(), 1001)
        ws.send(close(1001))
        ws.ended()


@case
def plain_requests_are_as_before():
    """A connection that never asks for a tunnel."""
    with serving(options=ECHO) as server:
        equal(ask(server, "GET", "/echo").status, 426)
        with Wire(server) as wire:
            for _ in range(3):
                wire.request("GET", "/echo")
                equal(wire.reply().status, 426)
        still_serves(server)


if __name__ == "__main__":
    main()
