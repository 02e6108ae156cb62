"""Peers that are slow, or say nothing: each has its limit, and none takes anything from the others."""
import json
import socket
import time

from harness import case, check, equal, main
from _wire import INFER, IRIS_BODY, Wire, echo_config, head, metric, resident, serving, still_serves, until

ECHO = {"echo/config.pbtxt": echo_config("echo")}
BIG = 4 << 20       # numbers: 16 MiB, several times what a kernel keeps for a reader


def big_request():
    """Asks for 16 MiB of binary answer."""
    text = json.dumps({"inputs": [{"name": "IN", "shape": [BIG], "datatype": "FP32",
                                   "parameters": {"binary_data_size": BIG * 4}}],
                       "parameters": {"binary_data_output": True}}).encode()
    body = text + bytes(BIG * 4)
    return head("POST", "/v2/models/echo/infer", body, [("Inference-Header-Content-Length", len(text))]) + body


def ends_within(wire, least, most, text):
    """Reads to the end; it must come between the two times. Returns what was said before it."""
    begin = time.monotonic()
    while wire.more():
        pass
    took = time.monotonic() - begin
    check(least <= took <= most, "%s took %.2f s, expected %g to %g", text, took, least, most)
    return wire.data


@case
def slow_head():
    with serving(options=["--header-timeout", "400ms"]) as server:
        with Wire(server) as wire:
            wire.send("GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
            said = ends_within(wire, 0.2, 3, "a head that does not end")
            check(said.startswith(b"HTTP/1.1 408 "), "%r", said[:100])
        still_serves(server)


@case
def slow_head_in_drops():
    """A byte now and then must not begin the time again."""
    with serving(options=["--header-timeout", "500ms"]) as server:
        with Wire(server) as wire:
            begin = time.monotonic()
            wire.send("GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
            while time.monotonic() - begin < 5 and wire.is_open(0.05):
                wire.send("a")
            check(time.monotonic() - begin < 3, "a head in drops was waited for")
        still_serves(server)


@case
def nothing_said():
    with serving(options=["--header-timeout", "300ms", "--idle-timeout", "300ms"]) as server:
        with Wire(server) as wire:
            said = ends_within(wire, 0.1, 3, "a connection that says nothing")
            check(said == b"" or said.startswith(b"HTTP/1.1 408 "), "%r", said[:100])


@case
def idle_between_requests():
    with serving(options=["--idle-timeout", "300ms"]) as server:
        with Wire(server) as wire:
            wire.request("GET", "/v2/health/live")
            equal(wire.reply().status, 200)
            equal(ends_within(wire, 0.15, 3, "an idle connection"), b"", "what was said to an idle connection")


@case
def body_that_stops():
    with serving(options=["--body-timeout", "400ms"]) as server:
        with Wire(server) as wire:
            wire.send(head("POST", INFER, IRIS_BODY) + IRIS_BODY[:10])
            said = ends_within(wire, 0.2, 3, "a body that stops")
            check(said.startswith(b"HTTP/1.1 408 "), "%r", said[:100])
        with Wire(server) as wire:
            wire.send(head("POST", INFER, None, [("Transfer-Encoding", "chunked")]) + b"5\r\nhe")
            said = ends_within(wire, 0.2, 3, "a chunk that stops")
            check(said.startswith(b"HTTP/1.1 408 "), "%r", said[:100])
        still_serves(server)


@case
def body_in_drops():
    """Always something, never enough: less than --body-rate-min after its grace."""
    with serving(ECHO, options=["--body-rate-min", "64KiB", "--body-timeout", "1s"]) as server:
        with Wire(server) as wire:
            wire.send(head("POST", "/v2/models/echo/infer", None, [("Content-Length", 1 << 20)]))
            begin = time.monotonic()
            while time.monotonic() - begin < 20 and wire.is_open(0.1):
                wire.send("x")
            check(time.monotonic() - begin < 15, "a body in drops was waited for")
        still_serves(server)


@case
def body_that_is_slow_but_moves():
    with serving(options=["--body-timeout", "500ms", "--body-rate-min", "0"]) as server:
        with Wire(server) as wire:
            wire.send(head("POST", INFER, IRIS_BODY))
            for i in range(0, len(IRIS_BODY), 10):
                wire.send(IRIS_BODY[i:i + 10])
                time.sleep(0.1)
            equal(wire.reply().status, 200)


@case
def reader_that_does_not_read():
    """Takes the beginning of a large answer and no more: it is cut, and what it was to get is given back."""
    with serving(ECHO, options=["--write-timeout", "500ms"]) as server:
        wires = []
        for _ in range(3):
            wire = Wire(server)
            wire.send(big_request())
            wires.append(wire)
        still_serves(server)            # beside readers that stand still
        until(lambda: metric(server, "penstock_limit_hits_total", limit="write-timeout") == 3, "the readers are cut")
        for wire in wires:
            size = 0
            try:
                while True:
                    piece = wire.socket.recv(1 << 20)
                    if not piece:
                        break
                    size += len(piece)
            except ConnectionResetError:
                pass
            check(size < BIG * 4, "the whole answer came after the time to write was over")
            wire.socket.close()
        until(lambda: metric(server, "penstock_connections_open") == 1, "the connections are gone")
        still_serves(server)


@case
def reader_that_is_slow_but_reads():
    with serving(ECHO, options=["--write-timeout", "500ms"]) as server:
        with Wire(server) as wire:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            wire.send(big_request())
            for _ in range(12):
                wire.data += wire.socket.recv(1 << 19)
                time.sleep(0.1)
            reply = wire.reply()
            equal((reply.status, len(reply.body) > BIG * 4), (200, True))


@case
def many_requests_without_reading_are_bounded():
    """Pipelines requests and never reads: the server stops reading rather than pile up answers."""
    with serving(ECHO, options=["--write-timeout", "2s", "--output-bytes-max", "8MiB"]) as server:
        before = resident(server)
        values = json.dumps({"inputs": [{"name": "IN", "shape": [20000], "datatype": "FP32", "data": [0.5] * 20000}]}).encode()
        one = head("POST", "/v2/models/echo/infer", values) + values
        with Wire(server) as wire:
            wire.socket.setblocking(False)
            sent, end, most = 0, time.monotonic() + 1.5, 0
            while time.monotonic() < end:
                try:
                    sent += wire.socket.send(one[sent % len(one):])
                except BlockingIOError:
                    time.sleep(0.005)
                except (BrokenPipeError, ConnectionResetError):
                    break
                most = max(most, resident(server) - before)
        check(most < 96 << 20, "%.0f MB for a reader that does not read", most / 1e6)
        still_serves(server)


@case
def too_many_connections():
    with serving(options=["--connections-max", "20"]) as server:
        wires = []
        for _ in range(20):
            wire = Wire(server)
            wire.request("GET", "/v2/health/live")
            equal(wire.reply().status, 200)
            wires.append(wire)
        with Wire(server) as wire:
            wire.request("GET", "/v2/health/live")
            while wire.more():
                pass
            check(wire.data == b"" or b" 503 " in wire.data.split(b"\r\n")[0], "%r", wire.data[:200])
        for wire in wires:
            wire.request("GET", "/v2/health/live")
            equal(wire.reply().status, 200, "a connection from before the limit")
            wire.socket.close()

        def is_back():
            with Wire(server) as wire:
                wire.request("GET", "/v2/health/live")
                return wire.more() and b" 200 " in wire.data.split(b"\r\n")[0]
        until(is_back, "connections are taken again")


if __name__ == "__main__":
    main()
